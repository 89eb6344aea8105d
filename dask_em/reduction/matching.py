"""Which component of one mixture is which of another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

__all__ = ["matched", "relabelled_curvature"]

Array = NDArray[np.float64]


def matched(mass: Any) -> NDArray[np.intp]:
    """Return the one-to-one matching along which most mass travels.

    Parameters
    ----------
    mass : array of shape (K, K)
        From each component of one mixture to each of the other.

    Returns
    -------
    array of int of shape (K,)
        For each component of the other mixture, its match.
    """
    rows, columns = linear_sum_assignment(-np.asarray(mass))
    order = np.empty(len(rows), dtype=np.intp)
    order[columns] = rows
    return order


def relabelled_curvature(hessian: Array, order: NDArray[np.intp], g: int) -> Array:
    """Return the curvature of a gate whose components come in another order.

    Parameters
    ----------
    hessian : array of shape ((K - 1) g, (K - 1) g)
        Minus the Hessian of a softmax gate without its last component.
    order : array of int of shape (K,)
        The component that takes each place.
    g : int
        Coefficients of a component.

    Returns
    -------
    array of shape ((K - 1) g, (K - 1) g)
        Without the component that comes last now.
    """
    k = len(order)
    free = hessian.reshape(k - 1, g, k - 1, g)
    full = np.zeros((k, g, k, g))
    full[:-1, :, :-1] = free
    full[-1, :, :-1] = -free.sum(axis=0)  # probabilities add up to one
    full[:, :, -1] = -full[:, :, :-1].sum(axis=2)
    full = full[order][:, :, order]
    return full[:-1, :, :-1].reshape((k - 1) * g, (k - 1) * g)
