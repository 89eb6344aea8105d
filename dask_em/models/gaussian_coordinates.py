"""Unconstrained coordinates of Gaussian mixtures, for accelerators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["packed", "unpacked"]

Array = NDArray[Any]


def packed(
    weights: Array, means: Array, covariances: Array, *, full: bool, scale: float
) -> Array:
    """Return a mixture as a vector.

    Logarithms of the weights; the means in units of `scale`; and Cholesky factors of
    the covariances, their diagonals as logarithms, the rest in units of those.

    Parameters
    ----------
    weights : array of shape (K,)
    means : array of shape (K, d)
        From an origin that does not change.
    covariances : array of shape (..., d, d), (K, d) or (K,)
    full : bool
        Whether the covariances are matrices.
    scale : float
    """
    with np.errstate(divide="ignore"):
        logarithms = np.log(weights)
    parts = [logarithms - logarithms.mean(), means.ravel() / scale]
    if full:
        lower = np.linalg.cholesky(covariances)
        diagonal = np.diagonal(lower, axis1=-2, axis2=-1)
        rows, columns = np.tril_indices(lower.shape[-1], -1)
        below = lower[..., rows, columns] / diagonal[..., columns]
        parts += [np.log(diagonal).ravel(), below.ravel()]
    else:
        parts.append(np.log(covariances).ravel() / 2)
    return np.concatenate(parts)


def unpacked(
    vector: Array, means: Array, covariances: Array, *, full: bool, scale: float
) -> tuple[Array, Array, Array]:
    """Return weights, means and covariances of a vector.

    Parameters
    ----------
    vector : array
    means, covariances : arrays
        Of the shapes wanted.
    full, scale
        As in `packed`.

    Raises
    ------
    FloatingPointError
        If they overflow.
    """
    k, d = means.shape
    with np.errstate(over="raise", invalid="raise"):
        weights = np.exp(vector[:k] - vector[:k].max())
        moved = vector[k : k + k * d].reshape(k, d) * scale
        shapes = vector[k + k * d :]
        if not full:
            variances = np.exp(2 * shapes).reshape(covariances.shape)
            return weights / weights.sum(), moved, variances
        n = covariances.size // d
        diagonal = np.exp(shapes[:n]).reshape(covariances.shape[:-1])
        rows, columns = np.tril_indices(d, -1)
        lower = np.zeros_like(covariances)
        below = shapes[n:].reshape(*diagonal.shape[:-1], -1)
        lower[..., rows, columns] = below * diagonal[..., columns]
        lower[..., np.arange(d), np.arange(d)] = diagonal
        return weights / weights.sum(), moved, lower @ lower.swapaxes(-1, -2)
