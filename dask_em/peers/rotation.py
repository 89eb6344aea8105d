"""Steps of a rotation: sweeps of blocks, slices that are passed on, and sums."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rotating_model import Cell, RotatingModel
from .cells import Slice, slice_at, width_of
from .copies import forget_copies
from .node import Node
from .program import Exchange, Lost, Step

__all__ = [
    "Adopt",
    "Bound",
    "OpenRebuild",
    "PassSlice",
    "Pool",
    "Rebuild",
    "StartSlices",
    "SumUp",
    "Sweep",
    "TellSums",
    "Turn",
]

Array = NDArray[Any]
Ids = NDArray[np.int64]
Links = tuple[tuple[int, int], ...]

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
        forget_copies(node, range(0))
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
            cell, mine.rows, columns, mine.totals.sum(axis=0), width_of(node)
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
    mine, n_columns = node.rotating, width_of(node)
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
            cell, mine.rows, found.columns, mine.totals.sum(axis=0), width_of(node)
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
