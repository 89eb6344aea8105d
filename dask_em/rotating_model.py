"""Models of tables whose rows stay and whose columns go round."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cell", "RotatingModel"]

Array = NDArray[Any]
Indices = NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class Cell:
    """Where some rows of the data meet some columns.

    Parameters
    ----------
    rows : array of int of shape (n_rows,)
        Which of the node's rows have an entry in it.
    columns : array of int of shape (n_columns,)
        Which columns of the slice have an entry in it.
    data : object
        The entries, as the model wants them.
    size : int
        How many there are.
    """

    rows: Indices
    columns: Indices
    data: Any
    size: int


class RotatingModel(ABC):
    r"""A model of a table whose rows and columns have parameters of their own.

    Rows are documents, say, and columns words; an entry is explained by a row of
    `width` numbers of its row of the table, another of its column, and the sum of the
    latter over all columns. All these are sums over entries, so an E-step of a block
    of the table yields the block's contributions to its own rows and columns, and an
    M-step adds these in place of those from the time before (incremental EM; Neal and
    Hinton, 1998). `dask_em.topologies.Rotation` says where blocks are when.

    A model object holds structure and hyper-parameters only, is never changed, and
    travels to the nodes.

    Notes
    -----
    *Blocks* are what a data source loads, `prepared` is what `prepare` makes of them.
    """

    #: Numbers of a row or a column.
    width: int = 1
    #: Their type.
    dtype: Any = np.float64

    @abstractmethod
    def survey(self, blocks: Sequence[Any]) -> Any:
        """Look at blocks once; as in `dask_em.SparseModel`."""

    def check(self, summary: Any) -> None:  # noqa: B027
        """Raise `ValueError` where the data cannot be fitted by this model."""

    @abstractmethod
    def prepare(self, blocks: Sequence[Any], summary: Any) -> Any:
        """Turn blocks into what is cut; there may be none."""

    @abstractmethod
    def column_sizes(self, prepared: Any, summary: Any) -> NDArray[np.int64]:
        """Return how many entries each column of the table has here."""

    @abstractmethod
    def cut(
        self,
        prepared: Any,
        slice_of: NDArray[np.int32],
        place: NDArray[np.int32],
        n_slices: int,
    ) -> list[Cell]:
        """Cut the data by columns.

        Parameters
        ----------
        prepared : object
        slice_of, place : array of int of shape (n_columns,)
            Slice of each column, and position in it; -1 for those without entries.
        n_slices : int
        """

    @abstractmethod
    def start_rows(self, prepared: Any) -> Array:
        """Return the sums of rows before anything is known, (n_rows, width)."""

    def groups(self, prepared: Any, summary: Any, seed: int) -> Indices | None:
        """Return for each row the number whose sums it starts, or -1 for none.

        None lets no row do so; `start_columns` is the start then.
        """
        return None

    def pool(self, cell: Cell, groups: Indices) -> Array:
        """Return what the entries of a cell add to the start of its columns.

        Parameters
        ----------
        cell : Cell
        groups : array of shape (n_rows,)
            Of the cell's rows, by `groups`.
        """
        raise NotImplementedError

    @abstractmethod
    def start_columns(
        self, ids: NDArray[np.int64], sizes: NDArray[np.int64], summary: Any, seed: int
    ) -> Array:
        """Return the sums of columns to start with, beside what `pool` adds.

        Parameters
        ----------
        ids : array of shape (n,)
            Numbers of the columns; a column's start depends on this and the seed only,
            not on the number of nodes.
        sizes : array of shape (n,)
            Their entries in all data.
        summary : object
        seed : int

        Returns
        -------
        array of shape (n, width)
        """

    @abstractmethod
    def sweep(
        self, cell: Cell, rows: Array, columns: Array, totals: Array, n_columns: int
    ) -> tuple[Array, Array, float]:
        """Make the E-step of a cell.

        Parameters
        ----------
        cell : Cell
        rows : array of shape (n_node_rows, width)
            Sums of all rows of the node; ``cell.rows`` are the cell's.
        columns : array of shape (n_slice_columns, width)
            Sums of all columns of the slice; ``cell.columns`` are the cell's. Both are
            to be left as they are.
        totals : array of shape (width,)
            Sum over all columns of all slices.
        n_columns : int
            Of the table, those without entries included.

        Returns
        -------
        rows : array of shape (n_rows, width)
        columns : array of shape (n_columns, width)
            What the cell contributes to its own rows and columns.
        log_likelihood : float
            Of its entries, at what was given.
        """

    def penalty_rows(self, rows: Array) -> float:
        """Return the part of the bound that depends on sums of rows alone."""
        return 0.0

    def penalty_columns(
        self, columns: Array, totals: Array, n_columns: int, n_absent: int
    ) -> float:
        """Return the part of the bound that depends on sums of columns alone.

        Parameters
        ----------
        columns : array of shape (n, width)
        totals : array of shape (width,)
        n_columns : int
            Of the table.
        n_absent : int
            Columns without any entry, to be counted here as well.
        """
        return 0.0
