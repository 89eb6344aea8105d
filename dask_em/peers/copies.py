"""Slices of a rotation between passes: results, checkpoints and copies."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rotating_model import RotatingModel
from .cells import Slice, slice_at, width_of
from .node import Node, Snapshot
from .program import Exchange, Lost, Step

__all__ = [
    "GoBack",
    "KeepSlices",
    "Publish",
    "ReturnSlices",
    "Take",
    "forget_copies",
]

Array = NDArray[Any]
Ids = NDArray[np.int64]
Links = tuple[tuple[int, int], ...]


def _ids(node: Node) -> Ids:
    """Return the ids of what begins a pass here, as they come: slice by slice.

    The first node has the sums over all columns, too, with the number of columns as
    their id.
    """
    ids = list(node.rotating.home.values())
    if node.index == 0:
        ids.append(np.array([width_of(node)]))
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
        if self.last:  # make room
            mine.new_rows = None
            for name in mine.store.names():
                if name[0] in ("block", "new"):
                    mine.store.drop(name)
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
                mine.store.drop(("slice", j))
        if node.index == 0:
            node.params[place] = mine.totals.sum(axis=0)


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
            forget_copies(node, range(newest, newest + 1))
        for k, columns in (inbox | {node.index: self._columns(node).copy()}).items():
            store.put(("copy", k, self.version, self.lap), columns)
            if self.last:
                node.snapshots[k, self.version] = Snapshot(self.version, None, None)


def forget_copies(node: Node, but: range) -> None:
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
        forget_copies(node, range(self.version + 1))
        mine.slices = {}
        for lap, j in enumerate(mine.home):
            columns = _copy(node, node.index, self.version, lap)
            mine.rest(j, Slice(columns.copy()))
