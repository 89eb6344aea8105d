"""Rotations of loadings towards a simple structure."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rotation", "canonical", "positive", "rotated"]

Array = NDArray[Any]
Rotation = Literal["varimax", "quartimax"]

#: Turns at most, and the relative gain that ends them, as in scikit-learn.
_TURNS, _TOL = 100, 1e-6


def canonical(loadings: Array, noise: Array) -> Array:
    r"""Rotate loadings W so that :math:`W' \Psi^{-1} W` is diagonal and decreasing.

    Parameters
    ----------
    loadings : array of shape (n_features, K)
    noise : array of shape (n_features,)
        The diagonal of Psi.
    """
    root = np.sqrt(noise)[:, None]
    U, s, _ = np.linalg.svd(loadings / root, full_matrices=False)
    return positive(U * s * root)


def positive(columns: Array) -> Array:
    """Return columns with the sign that makes the largest entry of each positive."""
    largest = np.abs(columns).argmax(axis=0)
    return columns * np.where(np.take_along_axis(columns, largest[None], 0) < 0, -1, 1)


def rotated(loadings: Array, rotation: Rotation) -> Array:
    r"""Rotate loadings by the varimax or the quartimax criterion (Kaiser, 1958).

    With :math:`\Lambda = W T` a rotation T climbs

    .. math:: \sum_{jk} \lambda_{jk}^4
              - \frac{\gamma}{d} \sum_k \Bigl(\sum_j \lambda_{jk}^2\Bigr)^2

    with :math:`\gamma` 1 for varimax and 0 for quartimax, by the polar factor of the
    gradient.

    Parameters
    ----------
    loadings : array of shape (n_features, K)
    rotation : {"varimax", "quartimax"}
    """
    turn = np.eye(loadings.shape[1])
    before = 0.0
    for _ in range(_TURNS):
        turned = loadings @ turn
        gradient = turned**3
        if rotation == "varimax":
            gradient -= turned * np.square(turned).mean(axis=0)
        U, s, V = np.linalg.svd(loadings.T @ gradient)
        turn = U @ V
        if before != 0 and s.sum() < before * (1 + _TOL):
            break
        before = s.sum()
    return loadings @ turn
