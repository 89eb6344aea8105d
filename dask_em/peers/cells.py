"""What a node has of a rotation, and how its data are cut into blocks."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rotating_model import Cell, RotatingModel
from .blocks import Store
from .node import Node
from .program import Exchange, Lost, Program, Step
from .setup import add_up, loaded

__all__ = ["Cut", "HasBlocks", "Rotating", "Slice", "set_up", "slice_at", "width_of"]

Array = NDArray[Any]
Ids = NDArray[np.int64]
Links = tuple[tuple[int, int], ...]

#: Share of a worker's memory for what blocks contributed last.
_SHARE = 0.25


@dataclasses.dataclass
class Slice:
    """Sums of some columns, and in a rebuild those that are being added up anew."""

    columns: Array
    new: Array | None = None


@dataclasses.dataclass
class Rotating:
    """What a node has of a rotation.

    Parameters
    ----------
    cells : list of Cell
        By slice.
    rows : array of shape (n_rows, width)
        Sums of the node's rows.
    home : dict of int to array of int
        Ids of the columns of the slices that begin a pass here.
    n_absent : int
        Columns without entries that are counted here.
    n_entries : int
        Entries of all data.
    store : Store
    totals : array of shape (n_nodes, width)
        Each node's part of the sums over all columns, as far as it is known here.
    """

    cells: list[Cell]
    rows: Array
    home: dict[int, Ids]
    n_absent: int
    n_entries: int
    store: Store
    totals: NDArray[np.float64]
    #: When these were told, in sub-epochs of their nodes.
    clocks: NDArray[np.int64]
    #: Those that are under way, or all where each node has but one.
    slices: dict[int, Slice] = dataclasses.field(default_factory=dict)
    new_rows: Array | None = None
    groups: Any = None
    #: Whether rows are uniform still, as those of a node made anew.
    fresh: bool = True
    bound: float = 0.0
    n_extra: int = 0

    def fetch(self, j: int) -> Slice:
        """Return a slice that is at home."""
        if j in self.slices:
            return self.slices[j]
        columns, new = self.store.get(("slice", j)), self.store.get(("new", j))
        if columns is None:
            raise Lost("a slice is not where it should be")
        return Slice(columns[0], None if new is None else new[0])

    def rest(self, j: int, found: Slice) -> None:
        """Put a slice to where it stays until its turn comes."""
        if len(self.home) == 1:
            self.slices[j] = found
            return
        self.slices.pop(j, None)
        self.store.put(("slice", j), found.columns)
        if found.new is None:
            self.store.drop(("new", j))
        else:
            self.store.put(("new", j), found.new)

    def contributions(self, cell: int) -> tuple[Array, ...]:
        """Return what a block contributed last."""
        found = self.store.get(("block", cell))
        if found is None:
            raise Lost("what a block contributed is not there")
        return found


def slice_at(node: Node, lap: int, t: int) -> int:
    """Return the slice that a node has in a sub-epoch."""
    return lap * node.n_nodes + (node.index + t) % node.n_nodes


def width_of(node: Node) -> int:
    """Return how many columns the table has."""
    assert node.sizes is not None
    return int(node.sizes.shape[1])


# ------------------------------------------------------------------------- the set-up


@dataclasses.dataclass(frozen=True)
class Measure(Step):
    """Prepare the data, and count entries, and nodes that have some, by column."""

    model: RotatingModel
    #: For those that were not there when the data were surveyed.
    summary: Any = None

    def run(self, node: Node) -> None:
        """Prepare, unless that has been done."""
        if node.is_helper or node.rotating is not None:
            return
        if self.summary is not None:
            node.summary = self.summary
        node.prepared = self.model.prepare(loaded(node.chunks), node.summary)
        node.chunks = ()
        found = self.model.column_sizes(node.prepared, node.summary)
        node.sizes = np.stack([found, found > 0]).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class GiveSizes(Exchange):
    """Tell nodes that were made anew the sizes of columns in all data."""

    links: Links

    def message(self, node: Node, dst: int) -> Any:
        """Send them."""
        return node.sizes

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Take them."""
        for sizes in inbox.values():  # one at most
            node.sizes = sizes


@dataclasses.dataclass(frozen=True)
class HasBlocks(Step):
    """Report whether a node's data have been cut."""

    def run(self, node: Node) -> bool:
        """Return it."""
        return node.rotating is not None


def slices_of(sizes: Ids, n_slices: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the slice of each column, and its place there; -1 for empty ones.

    Columns are dealt out by size, to and fro, so that slices are about as long, and
    about as heavy.
    """
    slice_of = np.full(len(sizes), -1, np.int32)
    place = np.full(len(sizes), -1, np.int32)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    turn, position = np.divmod(np.arange(len(order)), n_slices)
    slice_of[order] = np.where(turn % 2, n_slices - 1 - position, position)
    for j in range(n_slices):
        ids = np.flatnonzero(slice_of == j)
        place[ids] = np.arange(len(ids))
    return slice_of, place


@dataclasses.dataclass(frozen=True)
class Cut(Step):
    """Cut a node's data into blocks."""

    model: RotatingModel
    seed: int
    per_node: int
    in_memory: int | str
    #: How many nodes are on the worker of each.
    neighbours: tuple[int, ...]

    def run(self, node: Node) -> tuple[list[int], int] | None:
        """Return the lengths of slices and the lower bound of an exchange, once."""
        if node.is_helper:
            return None
        assert node.sizes is not None
        sizes, degree = node.sizes
        n_slices = self.per_node * node.n_nodes
        slice_of, place = slices_of(sizes, n_slices)
        lengths = np.bincount(slice_of[slice_of >= 0], minlength=n_slices).tolist()
        if node.rotating is None:
            self._cut(node, slice_of, place, n_slices)
        return lengths, int(2 * np.maximum(degree - 1, 0).sum())

    def _cut(self, node: Node, slice_of: Any, place: Any, n_slices: int) -> None:
        model = self.model
        assert node.sizes is not None
        prepared, node.prepared = node.prepared, None
        absent = int(np.count_nonzero(slice_of < 0))
        node.rotating = Rotating(
            cells=model.cut(prepared, slice_of, place, n_slices),
            rows=model.start_rows(prepared),
            home={
                j: np.flatnonzero(slice_of == j)
                for j in range(node.index, n_slices, node.n_nodes)
            },
            n_absent=absent if node.index == 0 else 0,
            n_entries=max(int(node.sizes[0].sum()), 1),
            store=Store(self._budget(node), node.folder),
            totals=np.zeros((node.n_nodes, model.width)),
            clocks=np.zeros(node.n_nodes, np.int64),
            groups=model.groups(prepared, node.summary, self.seed),
        )

    def _budget(self, node: Node) -> int:
        if not isinstance(self.in_memory, str):
            return self.in_memory
        memory = node.memory
        if memory is None:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return int(_SHARE * memory / self.neighbours[node.index])


def set_up(
    model: RotatingModel,
    cut: Cut,
    summary: Any,
    has_blocks: list[bool],
) -> Program:
    """Return the steps after which all data are cut.

    Parameters
    ----------
    model : RotatingModel
    cut : Cut
    summary : object
        Of all data, for nodes that were made anew.
    has_blocks : list of bool
        Which nodes have cut their data already.
    """
    there = [k for k, has in enumerate(has_blocks) if has]
    sizes: Program
    if there:
        lack = [k for k, has in enumerate(has_blocks) if not has]
        sizes = [GiveSizes(tuple((there[0], k) for k in lack))]
    else:
        sizes = add_up("sizes", len(has_blocks))
    return [Measure(model, summary), *sizes, cut]
