"""Statistics that are rows of a table, of which most data touch a few only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .kernels.rows import add_rows
from .statistics import Statistics

__all__ = ["RowStatistics"]

#: Share of the rows above which a sum holds the whole table.
_DENSE = 0.5


@dataclasses.dataclass(frozen=True)
class RowStatistics(Statistics):
    """Some rows of a table of statistics; the others are zero.

    Counts of words in topics are such a table: the documents of a shard have but some
    of the words, and a report carries the rows of these alone. Sums are made in double
    precision, whatever the precision of the terms; a sum that has most of the rows
    holds all of them.

    Parameters
    ----------
    ids : array of shape (n_present,), int64, or None
        Which rows these are, sorted and distinct; None stands for all.
    rows : array of shape (n_present, width)
    n_rows : int
        Rows of the whole table.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.row_statistics import RowStatistics
    >>> a = RowStatistics(np.array([0, 2]), np.array([[1.0], [2.0]]), 9)
    >>> b = RowStatistics(np.array([2, 5]), np.array([[3.0], [4.0]]), 9)
    >>> (a + b).ids, (a + b).rows.ravel()
    (array([0, 2, 5]), array([1., 5., 4.]))
    >>> (a + b).dense().ravel()
    array([1., 0., 5., 0., 0., 4., 0., 0., 0.])
    """

    ids: NDArray[np.int64] | None
    rows: NDArray[Any]
    n_rows: int

    @property
    def is_dense(self) -> bool:
        """Whether all rows are there."""
        return self.ids is None

    def dense(self) -> NDArray[np.float64]:
        """Return the whole table; this object's own array if it is that."""
        if self.ids is None:
            return np.asarray(self.rows, dtype=np.float64)
        table = np.zeros((self.n_rows, self.rows.shape[1]))
        table[self.ids] = self.rows
        return table

    def __add__(self, other: Self) -> Self:
        return self._plus(other, 1.0)

    def __sub__(self, other: Self) -> Self:
        return self._plus(other, -1.0)

    def _plus(self, other: Self, sign: float) -> Self:
        """Return this and so many times the other."""
        if type(other) is not type(self):
            return NotImplemented
        if _same(self.ids, other.ids):
            rows = self.rows.astype(np.float64)
            if sign == 1:
                rows += other.rows
            else:
                rows -= other.rows
            return self._of(self.ids, rows)
        return self._joined([self, other], [1.0, sign])

    @classmethod
    def _sum_of(cls, terms: Sequence[Self]) -> Self:
        """Return the sum, made in one table: a tree would hold several at a time."""
        return terms[0] if len(terms) == 1 else cls._joined(terms, [1.0] * len(terms))

    @staticmethod
    def _joined(terms: Sequence[Any], signs: Sequence[float]) -> Any:
        """Return so many times each term, added up in the order given."""
        first = terms[0]
        present = np.zeros(first.n_rows, dtype=bool)
        for term in terms:
            present[slice(None) if term.ids is None else term.ids] = True
        n = int(np.count_nonzero(present))
        full = n > _DENSE * first.n_rows
        if full and first.ids is None:
            rows, rest = first.rows.astype(np.float64), 1
        else:
            rows, rest = np.zeros((first.n_rows if full else n, first.rows.shape[1])), 0
        every = np.arange(len(rows))
        place = every if full else np.cumsum(present) - 1
        for term, sign in zip(terms[rest:], signs[rest:], strict=True):
            at = every if term.ids is None else place[term.ids]
            add_rows(rows, at, term.rows, sign)
        return first._of(None if full else np.flatnonzero(present), rows)

    def _of(self, ids: NDArray[np.int64] | None, rows: NDArray[Any]) -> Self:
        return dataclasses.replace(self, ids=ids, rows=rows)

    def scale(self, factor: float) -> Self:
        """Multiply all rows by `factor`."""
        return self._of(self.ids, self.rows * factor)

    def zeros_like(self) -> Self:
        """Return a table without a row."""
        none = np.empty(0, dtype=np.int64)
        return self._of(none, np.zeros((0, self.rows.shape[1])))

    @property
    def nbytes(self) -> int:
        """Size of the rows, and of their numbers, in bytes."""
        return self.rows.nbytes + (0 if self.ids is None else self.ids.nbytes)


def _same(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or (len(a) == len(b) and bool((a == b).all()))
