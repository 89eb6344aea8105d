"""One pass over the rows: what their columns look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rows import Columns, Factor, Rows

__all__ = ["Frame", "Survey", "stacked"]

Array = NDArray[Any]

#: Rows of a tile: it stays in cache.
TILE = 8192


@dataclasses.dataclass(frozen=True)
class Frame:
    """The triangular factor of a QR decomposition of centred columns.

    Factors of disjoint sets of rows combine into that of their union, stably, as in
    Golub and Van Loan's QR updating ("TSQR"); no squares of the data are formed.

    Parameters
    ----------
    ones : bool
        Whether the first column is ones; the others are then centred at `origin`.
    origin : array of shape (k,)
    triangle : array of shape (ones + k, ones + k)
    """

    ones: bool
    origin: Array
    triangle: Array

    @classmethod
    def of(cls, columns: Columns, roots: Array | None, names: Sequence[str]) -> Frame:
        """Decompose columns, their rows scaled by the roots of the weights.

        Raises
        ------
        ValueError
            For NaN or infinity; `names` (of the columns but for the ones) say where.
        """
        n, k = columns.array.shape
        ones = columns.ones
        head = np.asarray(columns.array[:TILE], dtype=np.float64)
        check_finite(head, names)
        origin = head.mean(axis=0) if ones and n else np.zeros(k)
        triangles = []
        for start in range(0, n, TILE):
            tile = slice(start, start + TILE)
            values = np.asarray(columns.array[tile], dtype=np.float64)
            check_finite(values, names)
            values = values - origin
            if ones:
                values = np.hstack([np.ones((len(values), 1)), values])
            if roots is not None:
                values = values * roots[tile, None]
            triangles.append(_triangle(values))
        return cls(ones, origin, stacked(triangles, k + ones))

    def combine(self, other: Frame) -> Frame:
        """Return the factor of both sets of rows."""
        if not self.triangle.any():  # nothing is known about where these rows lie
            return other
        moved = other.triangle.copy()
        if self.ones:
            moved[:, 1:] += np.outer(moved[:, 0], other.origin - self.origin)
        size = len(self.triangle)
        return Frame(self.ones, self.origin, stacked([self.triangle, moved], size))


def check_finite(values: Array, names: Sequence[str]) -> None:
    """Raise `ValueError` for NaN or infinity, naming the columns."""
    if np.isfinite(values.sum()):  # one number tells nearly always
        return
    bad = ~np.isfinite(values).all(axis=0)
    if bad.any():
        where = ", ".join(str(names[int(k)]) for k in np.flatnonzero(bad))
        raise ValueError(
            f"{where} contains NaN or infinity (inf) in some rows; drop or impute them."
        )


def stacked(triangles: Sequence[Array], size: int) -> Array:
    """Decompose factors put one above the other; always square."""
    stack = np.vstack([*triangles, np.zeros((size, size))])
    return _triangle(stack)


def _triangle(values: Array) -> Array:
    return np.asarray(np.linalg.qr(values, mode="r"))


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one pass finds out about rows.

    Parameters
    ----------
    n_rows : int
        Rows of positive weight.
    weight, log_weight : float
        Sums of the weights and of their logarithms.
    fixed : Frame
        Of the fixed effects and the response.
    random : tuple of Frame
        Of the random effects, by factor.
    levels : tuple of array
        Sorted labels that occur, by factor; empty where nobody asked.
    n_labels : tuple of int
        Labels that occur, added up over chunks.
    row_nbytes : float
        Of the largest rows.
    """

    n_rows: int
    weight: float
    log_weight: float
    fixed: Frame
    random: tuple[Frame, ...]
    levels: tuple[Array, ...]
    n_labels: tuple[int, ...]
    row_nbytes: float

    @classmethod
    def of(
        cls,
        rows: Rows,
        names: Sequence[str],
        factors: Sequence[Factor],
        *,
        with_levels: bool,
    ) -> Survey:
        """Survey rows, all of which count.

        Parameters
        ----------
        rows : Rows
        names : sequence of str
            Of the fixed effects.
        factors : sequence of Factor
        with_levels : bool
            Whether labels are wanted.
        """
        weights = rows.weights
        roots = None if weights is None else np.sqrt(weights)
        named = [*names[int(rows.fixed.ones) :], "the response"]
        fixed = Frame.of(_with_response(rows), roots, named)
        random = []
        for known, factor in zip(factors, rows.factors, strict=True):
            same = (
                factor.design.array is rows.fixed.array
                and factor.design.ones == rows.fixed.ones
            )
            if same:  # random slopes of all predictors: it is there already
                random.append(
                    Frame(fixed.ones, fixed.origin[:-1], fixed.triangle[:-1, :-1])
                )
            else:
                inner = [f"{c} | {known.name}" for c in known.columns]
                ones = int(factor.design.ones)
                random.append(Frame.of(factor.design, roots, inner[ones:]))
        levels = tuple(np.unique(f.labels) for f in rows.factors)
        return cls(
            n_rows=len(rows),
            weight=float(len(rows) if weights is None else weights.sum()),
            log_weight=0.0 if weights is None else float(np.log(weights).sum()),
            fixed=fixed,
            random=tuple(random),
            levels=levels if with_levels else tuple(v[:0] for v in levels),
            n_labels=tuple(len(v) for v in levels),
            row_nbytes=rows.row_nbytes,
        )

    def combine(self, other: Survey) -> Survey:
        """Return the survey of both sets of rows."""
        return Survey(
            self.n_rows + other.n_rows,
            self.weight + other.weight,
            self.log_weight + other.log_weight,
            self.fixed.combine(other.fixed),
            tuple(a.combine(b) for a, b in zip(self.random, other.random, strict=True)),
            tuple(
                np.union1d(a, b) for a, b in zip(self.levels, other.levels, strict=True)
            ),
            tuple(a + b for a, b in zip(self.n_labels, other.n_labels, strict=True)),
            max(self.row_nbytes, other.row_nbytes),
        )

    def merge(self, others: Sequence[Survey]) -> Survey:
        """Return the survey of this and the others."""
        total = self
        for other in others:
            total = total.combine(other)
        return total


def _with_response(rows: Rows) -> Columns:
    """Return the fixed columns and the response, lazily joined by tiles."""
    return Columns(_Beside(rows.fixed.array, rows.y), rows.fixed.ones)  # type: ignore[arg-type]


class _Beside:
    """An array with one more column, joined where it is looked at."""

    def __init__(self, array: Array, column: Array) -> None:
        self._array, self._column = array, column
        self.shape = (array.shape[0], array.shape[1] + 1)

    def __getitem__(self, index: slice) -> Array:
        return np.column_stack(
            [
                np.asarray(self._array[index], dtype=np.float64),
                np.asarray(self._column[index], dtype=np.float64),
            ]
        )
