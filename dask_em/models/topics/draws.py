"""Random numbers that belong to words, wherever these are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["draw_rows", "uniforms"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, ids: NDArray[Any], n: int) -> NDArray[np.float64]:
    """Draw numbers between 0 and 1 that depend on the seed and an id alone.

    Parameters
    ----------
    seed : int
    ids : array of int of shape (n_ids,)
    n : int
        Numbers per id.

    Returns
    -------
    array of shape (n_ids, n)
    """
    start = _mix(np.array([seed % 2**64], np.uint64) + _GOLDEN)
    rows = _mix(start + (np.asarray(ids).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    bits = _mix(rows[:, None] + np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def draw_rows(seed: int, ids: NDArray[Any], n: int) -> NDArray[np.float64]:
    """Draw about what a gamma distribution of shape 100 and mean 1 would give.

    Normal deviates become gamma ones by the cube of Wilson and Hilferty (1931), which
    at this shape is good to three digits.

    Parameters
    ----------
    seed : int
    ids : array of int of shape (n_ids,)
    n : int

    Returns
    -------
    array of shape (n_ids, n)
    """
    shape = 100.0
    cubic = 1 - 1 / (9 * shape) + ndtri(uniforms(seed, ids, n)) / (3 * np.sqrt(shape))
    return np.power(cubic, 3)
