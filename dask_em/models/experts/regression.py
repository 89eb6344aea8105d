"""Softmax regression on rows at hand, to convergence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import softmax
from .algebra import Grams

__all__ = ["softmax_regression"]

Array = NDArray[np.float64]

#: Steps at most; a separable problem has no end.
_STEPS = 200


def softmax_regression(
    Z: Array,
    total: Array,
    start: Array,
    *,
    ridge: float = 0.0,
    tol: float = 1e-12,
    max_steps: int = _STEPS,
) -> Array:
    """Return coefficients whose probabilities are nearest to some masses.

    Newton's iteration with halved steps; where these do not climb either, the step of
    Böhning's bound, which always does.

    Parameters
    ----------
    Z : array of shape (p, n)
    total : array of shape (K, n)
        Masses of the classes at every row.
    start : array of shape (K, p)
    ridge : float
    tol : float
        Relative gain that ends the iteration.
    max_steps : int

    Returns
    -------
    array of shape (K, p)
        The last row is zero.
    """
    weight = total.sum(axis=0)
    k = len(total)

    def value(alpha: Array) -> tuple[float, Array]:
        logs = softmax.log_softmax(alpha @ Z)
        return float(np.sum(total * logs)) - softmax.penalty(alpha, ridge), logs

    alpha = start - start[-1]
    height, logs = value(alpha)
    scale = max(float(weight.sum()), 1e-300)
    for _ in range(max_steps):
        probability = np.exp(logs)
        gradient = (total - weight * probability) @ Z.T
        blocks = Grams(softmax.n_blocks(k) + 1, len(Z))
        curvature = softmax.hessian_weights(probability, weight)
        blocks.add(Z, np.vstack([curvature, weight]))
        grams = blocks.total
        hessian = softmax.hessian_of(grams[:-1], k)
        target = softmax.newton_step(alpha, gradient, hessian, ridge)
        before = height
        for size in (1.0, 0.5, 0.25, 0.0625):
            candidate = alpha + size * (target - alpha)
            reached, found = value(candidate)
            if reached > height:
                alpha, height, logs = candidate, reached, found
                break
        else:
            linear = gradient + softmax.curved(alpha, grams[-1])
            candidate = softmax.bohning_step(linear, grams[-1], ridge)
            reached, found = value(candidate)
            if reached > height:
                alpha, height, logs = candidate, reached, found
        if not height - before > tol * scale:
            break
    return alpha
