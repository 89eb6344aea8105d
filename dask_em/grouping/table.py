"""Cross-products per group: all that a mixed model needs to know of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GroupTable", "Totals"]

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class GroupTable:
    """Cross-products of groups of rows; to the engine, an array with a row per group.

    The columns of W are those of the other factors' effects, then the fixed ones,
    then the response; of the former, few are not zero in a group.

    Parameters
    ----------
    labels : array of shape (m,)
        Names of the groups.
    sizes : array of shape (m,)
        Sums of the rows' weights.
    gram : array of shape (m, q (q + 1) / 2)
        Lower triangles of Z'Z.
    cross : array of shape (m, q, p + 1)
        The dense columns of Z'W.
    indptr, columns, couplings : arrays of shape (m + 1,), (nnz,) and (nnz, q)
        The sparse columns of Z'W, group by group, sorted by column.
    """

    labels: Array
    sizes: Array
    gram: Array
    cross: Array
    indptr: Array
    columns: Array
    couplings: Array

    @property
    def shape(self) -> tuple[int, int]:
        """Number of groups, and of numbers that every one of them has."""
        return len(self.sizes), self.gram.shape[1] + self.cross[:1].size

    @property
    def ndim(self) -> int:
        """Two."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.gram.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(getattr(self, f.name).nbytes for f in dataclasses.fields(self))

    @property
    def n_random(self) -> int:
        """Random effects per group."""
        return int(self.cross.shape[1])

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.sizes)

    def __getitem__(self, index: Any) -> GroupTable:
        """Return some of the groups, by a slice or an array of indices."""
        if isinstance(index, slice):
            start, stop, stride = index.indices(len(self))
            if stride == 1:
                stop = max(stop, start)
                a, b = self.indptr[start], self.indptr[stop]
                return GroupTable(
                    self.labels[start:stop],
                    self.sizes[start:stop],
                    self.gram[start:stop],
                    self.cross[start:stop],
                    self.indptr[start : stop + 1] - a,
                    self.columns[a:b],
                    self.couplings[a:b],
                )
        chosen = np.arange(len(self))[index]
        counts = np.diff(self.indptr)[chosen]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        cells = np.arange(indptr[-1]) + np.repeat(
            self.indptr[:-1][chosen] - indptr[:-1], counts
        )
        return GroupTable(
            self.labels[chosen],
            self.sizes[chosen],
            self.gram[chosen],
            self.cross[chosen],
            indptr,
            self.columns[cells],
            self.couplings[cells],
        )

    @staticmethod
    def concatenate(tables: Sequence[GroupTable]) -> GroupTable:
        """Put tables one after the other."""
        if len(tables) == 1:
            return tables[0]
        counts = np.concatenate([np.diff(t.indptr) for t in tables])
        return GroupTable(
            np.concatenate([t.labels for t in tables]),
            np.concatenate([t.sizes for t in tables]),
            np.concatenate([t.gram for t in tables]),
            np.concatenate([t.cross for t in tables]),
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate([t.columns for t in tables]),
            np.concatenate([t.couplings for t in tables]),
        )

    @staticmethod
    def combine(tables: Sequence[GroupTable]) -> GroupTable:
        """Add up tables in which the same groups may occur; sort by label."""
        whole = GroupTable.concatenate(tables)
        labels, codes = np.unique(whole.labels, return_inverse=True)
        if len(labels) == len(whole):
            return whole[np.argsort(whole.labels, kind="stable")]
        codes = codes.ravel()
        m = len(labels)
        sizes = np.bincount(codes, whole.sizes, minlength=m)
        gram = np.zeros((m, whole.gram.shape[1]))
        np.add.at(gram, codes, whole.gram)
        cross = np.zeros((m, *whole.cross.shape[1:]))
        np.add.at(cross, codes, whole.cross)
        owners = np.repeat(codes, np.diff(whole.indptr))
        width = int(whole.columns.max(initial=0)) + 1
        cells, at = np.unique(
            owners.astype(np.int64) * width + whole.columns, return_inverse=True
        )
        couplings = np.zeros((len(cells), whole.couplings.shape[1]))
        np.add.at(couplings, at.ravel(), whole.couplings)
        indptr = np.searchsorted(cells // width, np.arange(m + 1))
        return GroupTable(labels, sizes, gram, cross, indptr, cells % width, couplings)


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over all rows.

    Parameters
    ----------
    n_rows : int
        Rows of positive weight.
    weight, log_weight : float
        Sums of the weights and of their logarithms.
    products : array of shape (w, w)
        W'W.
    """

    n_rows: int
    weight: float
    log_weight: float
    products: Array

    def __add__(self, other: Totals) -> Totals:
        """Return the sums over both sets of rows."""
        return Totals(
            self.n_rows + other.n_rows,
            self.weight + other.weight,
            self.log_weight + other.log_weight,
            self.products + other.products,
        )
