r"""Softmax regression by statistics that add up over rows.

With linear predictors :math:`\eta_k = z^\top \alpha_k`, the last of them zero, and
targets :math:`t_k` that add up to one, the log-likelihood
:math:`\sum_k t_k \eta_k - \log \sum_k e^{\eta_k}` has a gradient, a Hessian, and a
quadratic minorant with a curvature that is the same everywhere (Böhning, 1992),

.. math:: -\nabla^2 \preceq
          \tfrac12 \bigl(I - \tfrac1K 1 1^\top\bigr) \otimes z z^\top ,

which is what lets statistics of different parameters add up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .algebra import solve

__all__ = [
    "bohning_step",
    "bohning_value",
    "hessian_of",
    "hessian_weights",
    "log_softmax",
    "n_blocks",
    "newton_step",
    "penalty",
]

Array = NDArray[np.float64]

#: Change of a coefficient, in standard units, that a Newton step may make.
_LONGEST = 8.0


def log_softmax(eta: Array) -> Array:
    """Return log probabilities of linear predictors of shape (K, n)."""
    shifted = eta - eta.max(axis=0)
    shifted -= np.log(np.exp(shifted).sum(axis=0))
    return shifted


def n_blocks(k: int) -> int:
    """Return the number of different blocks of the Hessian."""
    return k * (k - 1) // 2


def hessian_weights(probability: Array, weights: Any) -> Array:
    """Return the weights of z z' in the blocks of minus the Hessian.

    Parameters
    ----------
    probability : array of shape (K, n)
    weights : array of shape (n,) or float

    Returns
    -------
    array of shape (n_blocks(K), n)
        Of the lower triangle, without the last component.
    """
    k = len(probability)
    rows, columns = np.tril_indices(k - 1)
    blocks = -(probability * weights)[rows] * probability[columns]
    for j in range(k - 1):
        diagonal = j * (j + 3) // 2
        blocks[diagonal] += weights * probability[j]
    return blocks


def hessian_of(blocks: Array, k: int) -> Array:
    """Return minus the Hessian of its blocks.

    Parameters
    ----------
    blocks : array of shape (..., n_blocks(k), g, g)
    k : int

    Returns
    -------
    array of shape (..., (k - 1) g, (k - 1) g)
    """
    g = blocks.shape[-1]
    lead = blocks.shape[:-3]
    full = np.empty((*lead, k - 1, g, k - 1, g))
    for at, (i, j) in enumerate(zip(*np.tril_indices(k - 1), strict=True)):
        full[..., i, :, j, :] = blocks[..., at, :, :]
        full[..., j, :, i, :] = blocks[..., at, :, :]
    return full.reshape(*lead, (k - 1) * g, (k - 1) * g)


def _ridged(matrix: Array, k: int, g: int, ridge: float) -> Array:
    """Add the ridge to the curvature of all slopes against the last component."""
    if not ridge:
        return matrix
    # 1/2 ridge sum_k |a_k - mean a|^2 does not depend on which component is the last
    coupling = np.eye(k - 1) - np.full((k - 1, k - 1), 1.0 / k)
    slopes = np.eye(g)
    slopes[0, 0] = 0.0
    return matrix + ridge * np.kron(coupling, slopes)


def penalty(alpha: Array, ridge: float) -> float:
    """Return the ridge's penalty on the slopes, the same for any reference."""
    slopes = alpha[:, 1:] - alpha[:, 1:].mean(axis=0)
    return 0.5 * ridge * float(np.sum(np.square(slopes)))


def newton_step(
    alpha: Array, gradient: Array, hessian: Array, ridge: float = 0.0
) -> Array:
    """Return the coefficients one Newton step on.

    Parameters
    ----------
    alpha, gradient : arrays of shape (K, g)
    hessian : array of shape ((K - 1) g, (K - 1) g)
        Minus the Hessian.
    ridge : float
    """
    k, g = alpha.shape
    if k == 1:
        return alpha
    slope = gradient[:-1].ravel()
    if ridge:
        pull = alpha - alpha.mean(axis=0)
        pull[:, 0] = 0.0
        slope = slope - ridge * pull[:-1].ravel()
    step = solve(_ridged(hessian, k, g, ridge), slope)
    # where hardly a row is in doubt, the curvature says little of where to go
    step *= min(1.0, _LONGEST / max(float(np.abs(step).max()), 1e-300))
    moved = alpha.copy()
    moved[:-1] += step.reshape(k - 1, g)
    return moved


def bohning_step(linear: Array, gram: Array, ridge: float = 0.0) -> Array:
    """Return the coefficients that maximise the minorant.

    Parameters
    ----------
    linear : array of shape (K, g)
        Sums of the gradient plus the curvature times where it was taken.
    gram : array of shape (g, g)
        Weighted sum of z z'.
    ridge : float
    """
    k, g = linear.shape
    if k == 1:
        return np.zeros_like(linear)
    if ridge:
        curvature = np.kron(0.5 * (np.eye(k - 1) - 1.0 / k), gram)
        free = solve(_ridged(curvature, k, g, ridge), linear[:-1].ravel())
        free = free.reshape(k - 1, g)
    else:  # the inverse of 1/2 (I - 11'/K) without its last row is 2 (I + 11')
        rows = solve(gram, linear[:-1].T).T
        free = 2.0 * (rows + rows.sum(axis=0))
    return np.vstack([free, np.zeros((1, g))])


def curved(alpha: Array, gram: Array) -> Array:
    """Return the minorant's curvature times some coefficients."""
    return 0.5 * (alpha - alpha.mean(axis=0)) @ gram


def bohning_value(alpha: Array, linear: Array, gram: Array) -> float:
    """Return the minorant less its constant."""
    return float(np.sum(alpha * linear) - 0.5 * np.sum(alpha * curved(alpha, gram)))
