"""Steps of a rotation: sweeps of blocks, slices that are passed on, and sums."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rotating_model import Cell, RotatingModel
from .blocks import Store
from .node import Node, Snapshot
from .program import Exchange, Lost, Program, Step
from .setup import add_up, loaded

__all__ = ["Rotating", "Slice"]

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


# -------------------------------------------------------------------------- the start


@dataclasses.dataclass(frozen=True)
class StartSlices(Step):
    """Make the slices that begin here."""

    model: RotatingModel
    seed: int

    def run(self, node: Node) -> bool:
        """Say whether data add to the start."""
        node.version = 0
        if node.is_helper:
            return False
        _forget(node, range(0))
        assert node.sizes is not None
        mine = node.rotating
        mine.slices = {}
        for j, ids in mine.home.items():
            columns = self.model.start_columns(
                ids, node.sizes[0][ids], node.summary, self.seed
            )
            mine.rest(j, Slice(columns.astype(self.model.dtype, copy=False)))
        mine.fresh = True
        return mine.groups is not None


@dataclasses.dataclass(frozen=True)
class Pool(Step):
    """Let data add to the start of a slice."""

    model: RotatingModel
    lap: int
    t: int

    def run(self, node: Node) -> None:
        """Add."""
        if node.is_helper:
            return
        mine, j = node.rotating, slice_at(node, self.lap, self.t)
        cell = mine.cells[j]
        if cell.size and mine.groups is not None:
            found = self.model.pool(cell, mine.groups[cell.rows])
            mine.slices[j].columns[cell.columns] += found


@dataclasses.dataclass(frozen=True)
class Turn(Step):
    """Put away the slice whose turn is over, and fetch the next."""

    #: None at the end of a pass.
    lap: int | None

    def run(self, node: Node) -> None:
        """Let all others rest."""
        if node.is_helper:
            return
        mine = node.rotating
        for j in list(mine.slices):
            mine.rest(j, mine.slices[j])
        if self.lap is not None:
            j = slice_at(node, self.lap, 0)
            mine.slices[j] = mine.fetch(j)


# --------------------------------------------------------------------- what all share


@dataclasses.dataclass(frozen=True)
class SumUp(Step):
    """Add up one's own part of the sums over all columns: of rows, or of slices.

    They are the same but at the start, when rows do not yet belong to columns.
    """

    of_slices: bool = False

    def run(self, node: Node) -> None:
        """Add up."""
        if node.is_helper:
            return
        mine = node.rotating
        found = np.zeros(mine.totals.shape[1])
        if self.of_slices:
            for j in mine.home:
                found += mine.fetch(j).columns.sum(axis=0, dtype=np.float64)
        else:
            found += mine.rows.sum(axis=0, dtype=np.float64)
        mine.totals[node.index] = found
        mine.clocks[:] = 0
        mine.bound, mine.n_extra = 0.0, 0


@dataclasses.dataclass(frozen=True)
class TellSums(Exchange):
    """Tell all others one's own part of the sums; who waits may go on sweeping."""

    links: Links
    meanwhile: Step | None = None
    at_most: int = 0

    def message(self, node: Node, dst: int) -> Any:
        """Send it, and how old it is."""
        mine = node.rotating
        return mine.totals[node.index].copy(), int(mine.clocks[node.index])

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Take in others'."""
        for src, (totals, clock) in inbox.items():
            node.rotating.totals[src] = totals
            node.rotating.clocks[src] = clock


@dataclasses.dataclass(frozen=True)
class PassSlice(Exchange):
    """Pass a slice on, and, if all are not told, what is known of the sums."""

    lap: int
    t: int
    gossip: bool
    links: Links

    def message(self, node: Node, dst: int) -> Any:
        """Send it: not a copy, as nobody works on it here any more."""
        mine = node.rotating
        found = mine.slices.get(slice_at(node, self.lap, self.t))
        if found is None:
            raise Lost("a slice is not where it should be")
        sums = (mine.totals.copy(), mine.clocks.copy()) if self.gossip else None
        return found, sums

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Replace one's own by the next."""
        for found, sums in inbox.values():  # one at most
            mine = node.rotating
            del mine.slices[slice_at(node, self.lap, self.t)]
            j = slice_at(node, self.lap, self.t + 1)
            mine.slices[j] = Slice(_own(found.columns), _own(found.new))
            if sums is not None:
                totals, clocks = sums
                newer = clocks > mine.clocks
                mine.totals[newer] = totals[newer]
                mine.clocks[newer] = clocks[newer]


def _own(array: Any) -> Any:
    """Return an array that can be written to."""
    return array if array is None or array.flags.writeable else array.copy()


# ------------------------------------------------------------------------- the sweeps


@dataclasses.dataclass(frozen=True)
class Sweep(Step):
    """Sweep the block of a sub-epoch, and update what it owns."""

    model: RotatingModel
    lap: int
    t: int
    extra: bool = False

    def share(self, node: Node) -> float:
        """Return the block's share of all entries."""
        return _share(node, self.lap, self.t)

    def run(self, node: Node) -> None:
        """Replace what the block contributed."""
        if node.is_helper:
            return
        mine, j = node.rotating, slice_at(node, self.lap, self.t)
        cell = mine.cells[j]
        if not self.extra:
            mine.clocks[node.index] += 1
        if not cell.size:
            return
        columns = mine.slices[j].columns
        rows, new, bound = self.model.sweep(
            cell, mine.rows, columns, mine.totals.sum(axis=0), _width(node)
        )
        old_rows, old = mine.contributions(j)
        change = rows - old_rows
        mine.totals[node.index] += change.sum(axis=0, dtype=np.float64)
        _update(mine.rows, cell.rows, change)
        _update(columns, cell.columns, np.subtract(new, old, out=old))
        mine.store.put(("block", j), rows, new)
        if self.extra:
            mine.n_extra += 1
        else:
            mine.bound += bound


def _update(sums: Array, at: Any, change: Array) -> None:
    """Add to sums, which rounding is not to make negative."""
    change += sums[at]
    sums[at] = np.maximum(change, 0, out=change)


def _width(node: Node) -> int:
    """Return how many columns the table has."""
    assert node.sizes is not None
    return int(node.sizes.shape[1])


def _share(node: Node, lap: int, t: int) -> float:
    if node.is_helper:
        return 0.0
    cell: Cell = node.rotating.cells[slice_at(node, lap, t)]
    return cell.size / float(node.rotating.n_entries)


@dataclasses.dataclass(frozen=True)
class OpenRebuild(Step):
    """Get ready to add up all sums anew, at what they are now."""

    model: RotatingModel

    def run(self, node: Node) -> None:
        """Note what the bound has beside the likelihood."""
        if node.is_helper:
            return
        mine = node.rotating
        mine.new_rows = np.zeros_like(mine.rows)
        for j in mine.home:  # what is left of one that was given up
            mine.rest(j, Slice(mine.fetch(j).columns))
        mine.bound = _penalty(self.model, node)


def _penalty(model: RotatingModel, node: Node) -> float:
    """Return what a node's rows, and the slices that are at home, add to the bound."""
    mine, n_columns = node.rotating, _width(node)
    totals = mine.totals.sum(axis=0)
    found = model.penalty_rows(mine.rows)
    absent = mine.n_absent
    for j in mine.home:
        columns = mine.fetch(j).columns
        found += model.penalty_columns(columns, totals, n_columns, absent)
        absent = 0
    return found


@dataclasses.dataclass(frozen=True)
class Rebuild(Step):
    """Sweep a block at sums that stay as they are, and add to the new ones."""

    model: RotatingModel
    lap: int
    t: int

    def share(self, node: Node) -> float:
        """Return the block's share of all entries."""
        return _share(node, self.lap, self.t)

    def run(self, node: Node) -> None:
        """Add."""
        if node.is_helper:
            return
        mine, j = node.rotating, slice_at(node, self.lap, self.t)
        cell, found = mine.cells[j], mine.slices[j]
        if found.new is None:
            found.new = np.zeros_like(found.columns)
        if not cell.size:
            return
        rows, new, bound = self.model.sweep(
            cell, mine.rows, found.columns, mine.totals.sum(axis=0), _width(node)
        )
        mine.new_rows[cell.rows] += rows
        found.new[cell.columns] += new
        mine.store.put(("block", j), rows, new)
        mine.bound += bound


@dataclasses.dataclass(frozen=True)
class Adopt(Step):
    """Make the sums of a rebuild the ones that count."""

    #: Or only those of rows of nodes that were made anew.
    fold: bool = False

    def run(self, node: Node) -> None:
        """Replace them."""
        if node.is_helper:
            return
        mine = node.rotating
        if not self.fold or mine.fresh:
            mine.rows = mine.new_rows
        mine.new_rows = None
        for j in mine.home:
            found = mine.fetch(j)
            if not self.fold:
                assert found.new is not None
                found.columns = found.new
            mine.rest(j, Slice(found.columns))
        if not self.fold:
            mine.fresh = False


@dataclasses.dataclass(frozen=True)
class Bound(Step):
    """Report the node's part of the bound, and extra sweeps."""

    #: Whose penalty is added, if it is not in yet.
    model: RotatingModel | None = None

    def run(self, node: Node) -> tuple[float, int]:
        """Return both."""
        if node.is_helper:
            return 0.0, 0
        mine = node.rotating
        if self.model is not None:
            mine.bound += _penalty(self.model, node)
        return mine.bound, mine.n_extra


# ----------------------------------------------------------- between passes, and after


def _ids(node: Node) -> Ids:
    """Return the ids of what begins a pass here, as they come: slice by slice.

    The first node has the sums over all columns, too, with the number of columns as
    their id.
    """
    ids = list(node.rotating.home.values())
    if node.index == 0:
        ids.append(np.array([_width(node)]))
    return np.concatenate(ids)


@dataclasses.dataclass(frozen=True)
class Publish(Step):
    """Put slices that are at home where checkpoints and results are from."""

    version: int
    #: Whether slices are not needed any more.
    last: bool = False

    def run(self, node: Node) -> None:
        """Copy them."""
        node.version = self.version
        if node.is_helper:
            return
        mine, ids = node.rotating, _ids(node)
        order = np.argsort(ids, kind="stable")
        node.ids, node.counted = ids[order], np.ones(len(ids), bool)
        node.params = np.empty((len(ids), mine.totals.shape[1]))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        for j, home in mine.home.items():
            node.params[place[: len(home)]] = mine.fetch(j).columns
            place = place[len(home) :]
            if self.last:
                mine.slices.pop(j, None)
        if node.index == 0:
            node.params[place] = mine.totals.sum(axis=0)
        if self.last:
            mine.new_rows = None


@dataclasses.dataclass(frozen=True)
class Take(Step):
    """Make slices of what was read from a checkpoint; nobody knows sums of rows."""

    model: RotatingModel

    def run(self, node: Node) -> None:
        """Make them."""
        if node.is_helper:
            return
        assert node.params is not None
        mine, params = node.rotating, node.params
        for j, home in mine.home.items():
            columns = params[np.searchsorted(node.ids, home)]
            mine.rest(j, Slice(columns.astype(self.model.dtype)))
        mine.fresh = True
        node.params = None


# ------------------------------------------------------------------- against losses


@dataclasses.dataclass(frozen=True)
class KeepSlices(Exchange):
    """Keep copies of slices that are at home, here and on a node on another worker.

    Those of the time before are kept until all have the present ones.
    """

    links: Links
    version: int
    lap: int
    last: bool

    def message(self, node: Node, dst: int) -> Any:
        """Send a copy."""
        return self._columns(node).copy()

    def _columns(self, node: Node) -> Array:
        columns: Array = node.rotating.fetch(slice_at(node, self.lap, 0)).columns
        return columns

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Keep others' and one's own."""
        if node.is_helper:
            return
        store = node.rotating.store
        if self.lap == 0:
            newest = max((version for _, version in node.snapshots), default=0)
            _forget(node, range(newest, newest + 1))
        for k, columns in (inbox | {node.index: self._columns(node).copy()}).items():
            store.put(("copy", k, self.version, self.lap), columns)
            if self.last:
                node.snapshots[k, self.version] = Snapshot(self.version, None, None)


def _forget(node: Node, but: range) -> None:
    """Drop copies of all versions but some, and what there is of unfinished ones."""
    known = {k: s for k, s in node.snapshots.items() if k[1] in but}
    store = node.rotating.store
    for name in store.names():
        if name[0] == "copy" and name[1:3] not in known:
            store.drop(name)
    node.snapshots = known


def _copy(node: Node, index: int, version: int, lap: int) -> Array:
    found = node.rotating.store.get(("copy", index, version, lap))
    if found is None:
        raise Lost(f"there is no copy of node {index} at {version}")
    columns: Array = found[0]
    return columns


@dataclasses.dataclass(frozen=True)
class ReturnSlices(Exchange):
    """Give nodes that were made anew what was kept for them."""

    links: Links
    version: int
    lap: int

    def message(self, node: Node, dst: int) -> Any:
        """Send the other's."""
        return _copy(node, dst, self.version, self.lap)

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Keep one's own."""
        for columns in inbox.values():  # one at most
            name = ("copy", node.index, self.version, self.lap)
            node.rotating.store.put(name, columns)
            node.snapshots[node.index, self.version] = Snapshot(
                self.version, None, None
            )


@dataclasses.dataclass(frozen=True)
class GoBack(Step):
    """Take the slices of a version."""

    version: int

    def run(self, node: Node) -> None:
        """Take copies of copies."""
        node.version = self.version
        if node.is_helper:
            return
        mine = node.rotating
        _forget(node, range(self.version + 1))
        mine.slices = {}
        for lap, j in enumerate(mine.home):
            columns = _copy(node, node.index, self.version, lap)
            mine.rest(j, Slice(columns.copy()))
