"""Sums over rows that BLAS does, and equations that may be singular."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

__all__ = ["Grams", "solve"]

Array = NDArray[np.float64]

#: Columns up to which products of columns are formed once for all weights.
_NARROW = 32
#: Relative size of eigenvalues that count as zero.
_RCOND = 1e-12


class Grams:
    """Weighted sums of z z' over the rows of tiles, for several weights at once.

    Parameters
    ----------
    n : int
        Number of weights per row.
    p : int
        Length of z.
    """

    def __init__(self, n: int, p: int) -> None:
        self._shape = n, p
        self._narrow = p <= _NARROW
        self._rows, self._columns = np.tril_indices(p)
        size = (n, len(self._rows)) if self._narrow else (n, p, p)
        self._total = np.zeros(size)
        self._buffer = np.empty((0, 0))

    def add(self, Z: Array, weights: Array) -> None:
        """Add the rows of a tile.

        Parameters
        ----------
        Z : array of shape (p, n_rows)
        weights : array of shape (n, n_rows)
        """
        if self._narrow:
            # in order of the lower triangle: z_i times z_0 ... z_i
            if self._buffer.shape != (len(self._rows), Z.shape[1]):
                self._buffer = np.empty((len(self._rows), Z.shape[1]))
            at = 0
            for i in range(len(Z)):
                np.multiply(Z[i], Z[: i + 1], out=self._buffer[at : at + i + 1])
                at += i + 1
            self._total += weights @ self._buffer.T
            return
        for total, w in zip(self._total, weights, strict=True):
            total += (Z * w) @ Z.T

    @property
    def total(self) -> Array:
        """The sums so far, of shape (n, p, p)."""
        if not self._narrow:
            return (self._total + self._total.swapaxes(1, 2)) / 2
        n, p = self._shape
        full = np.empty((n, p, p))
        full[:, self._rows, self._columns] = self._total
        full[:, self._columns, self._rows] = self._total
        return full


def solve(matrix: Array, right: Any) -> Array:
    """Solve a symmetric system that is not negative definite.

    Where it is singular, the solution is the shortest one, so that columns which are
    combinations of others do no harm.
    """
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 0.0))
    scale[scale == 0] = 1.0
    scaled = matrix / scale / scale[:, None]
    wide = np.ndim(right) == 2
    b = right / (scale[:, None] if wide else scale)
    try:
        factor = cho_factor(scaled, lower=True)
        diagonal = np.diagonal(factor[0])
        if diagonal.min() > 1e-5:  # condition number below some 1e10
            x = cho_solve(factor, b)
            return np.asarray(x / (scale[:, None] if wide else scale))
    except (LinAlgError, ValueError):
        pass
    if not np.isfinite(scaled).all():
        raise FloatingPointError("an M-step met numbers that are not finite")
    values, vectors = np.linalg.eigh(scaled)
    kept = values > _RCOND * max(values[-1], 0.0)
    inverse = vectors[:, kept] / values[kept]
    x = inverse @ (vectors[:, kept].T @ b)
    return np.asarray(x / (scale[:, None] if wide else scale))
