"""Steps before the first iteration: what the data need, and who else does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sparse_model import SparseModel
from ..topologies import Plan, Topology
from ..topologies.base import Tally, pairs
from ..topologies.sharing import Sharing, hashed, packed
from .node import Node, Route
from .program import Exchange, Program, Step
from .source import Loader

__all__ = ["MakeRoutes", "PlanExchange", "add_up", "prepare", "relate", "survey"]

Ids = NDArray[np.int64]


# ------------------------------------------------------------------------- the survey


@dataclasses.dataclass(frozen=True)
class Survey(Step):
    """Look at the data."""

    model: SparseModel

    def run(self, node: Node) -> None:
        """Keep what was found, to be added up."""
        if not node.is_helper:
            node.chunks = loaded(node.chunks)
            node.summary = self.model.survey(node.chunks)


@dataclasses.dataclass(frozen=True)
class AddSummaries(Exchange):
    """Add up summaries along a tree."""

    links: tuple[tuple[int, int], ...]
    name: str = "summary"

    def message(self, node: Node, dst: int) -> Any:
        """Send what was found so far."""
        return getattr(node, self.name)

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Add it up."""
        for src in sorted(inbox):
            setattr(node, self.name, getattr(node, self.name) + inbox[src])


@dataclasses.dataclass(frozen=True)
class TellSummary(Exchange):
    """Pass the summary of all data on."""

    links: tuple[tuple[int, int], ...]
    name: str = "summary"

    def message(self, node: Node, dst: int) -> Any:
        """Send it."""
        return getattr(node, self.name)

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Keep it."""
        for summary in inbox.values():  # one at most
            setattr(node, self.name, summary)


@dataclasses.dataclass(frozen=True)
class ShowSummary(Step):
    """Report the summary of all data, once."""

    def run(self, node: Node) -> Any:
        """Let the first node report it."""
        return node.summary if node.index == 0 else None


def survey(model: SparseModel, n_nodes: int) -> Program:
    """Return the steps after which all nodes know the summary of all data.

    The last step's result is the summary, from the first node.
    """
    return [Survey(model), *add_up("summary", n_nodes), ShowSummary()]


def add_up(name: str, n_nodes: int) -> Program:
    """Return the exchanges after which all nodes have the sum of what each has."""
    levels = []
    stride = 1
    while stride < n_nodes:
        levels.append(
            tuple((k + stride, k) for k in range(0, n_nodes - stride, 2 * stride))
        )
        stride *= 2
    up = [AddSummaries(links, name) for links in levels]
    back = [tuple((j, i) for i, j in links) for links in reversed(levels)]
    return [*up, *(TellSummary(links, name) for links in back)]


# ---------------------------------------------------------------- what the data need


@dataclasses.dataclass(frozen=True)
class Prepare(Step):
    """Prepare the data, and find the ids that they need."""

    model: SparseModel
    summary: Any = None

    def run(self, node: Node) -> None:
        """Prepare, unless that has been done."""
        if node.is_helper or node.prepared is not None:
            return
        if self.summary is not None:
            node.summary = self.summary
        node.chunks = loaded(node.chunks)
        node.prepared = self.model.prepare(node.chunks, node.summary)
        node.chunks = ()
        ids = np.asarray(self.model.support(node.prepared))
        if not (ids.ndim == 1 and (ids.dtype.kind in "iu" or not len(ids))) or (
            len(ids) and (ids[0] < 0 or (np.diff(ids) <= 0).any())
        ):
            raise ValueError(
                f"{type(self.model).__name__}.support must return sorted, distinct, "
                "non-negative integers."
            )
        ids = ids.astype(np.int64, copy=False)
        node.ids = ids


def loaded(chunks: Sequence[Any]) -> list[Any]:
    """Return blocks for loaders; blocks stay what they are."""
    # nothing that Dask has yet to compute gets here: it would pass for a loader
    return [c.load() if isinstance(c, Loader) else c for c in chunks]


def prepare(model: SparseModel, summary: Any = None) -> Program:
    """Return the steps that prepare the data; a summary is for those who have none."""
    return [Prepare(model, summary)]


# ---------------------------------------------------------------- who needs what else


@dataclasses.dataclass(frozen=True)
class Directory:
    """For some ids, chosen by hash: who needs them.

    Parameters
    ----------
    ids : array of int64 of shape (n,)
        Sorted.
    members : array of uint8 of shape (n, n_bytes)
        A bit for each node.
    askers : dict of int to array of int64
        The ids that each node asked about.
    """

    ids: Ids
    members: NDArray[np.uint8]
    askers: dict[int, Ids]

    @classmethod
    def of(cls, askers: dict[int, Ids], n_nodes: int) -> Directory:
        """Make it of what nodes say they need."""
        every = np.concatenate([*askers.values(), np.zeros(0, dtype=np.int64)])
        every.sort(kind="stable")  # runs that are sorted are but merged
        ids = every[np.diff(every, prepend=-1) > 0]
        needs = np.zeros((len(ids), n_nodes), dtype=bool)
        for k, theirs in askers.items():
            needs[np.searchsorted(ids, theirs), k] = True
        return cls(ids, packed(needs), askers)


def keeper(ids: Ids, n_nodes: int) -> NDArray[np.int64]:
    """Return the node that keeps the directory's entry of each id."""
    low = hashed(ids) & np.uint64(0xFFFFFFFF)
    return (low % np.uint64(n_nodes)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class AskDirectory(Exchange):
    """Tell the keepers of the directory which ids one needs."""

    links: tuple[tuple[int, int], ...]

    def message(self, node: Node, dst: int) -> Ids:
        """Send the ids that the other keeps."""
        return node.ids[keeper(node.ids, node.n_nodes) == dst]

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Make the directory."""
        if not node.is_helper:
            askers = inbox | {node.index: self.message(node, node.index)}
            node.directory = Directory.of(askers, node.n_nodes)


@dataclasses.dataclass(frozen=True)
class AnswerAskers(Exchange):
    """Tell nodes who else needs the ids that they asked about."""

    links: tuple[tuple[int, int], ...]

    def message(self, node: Node, dst: int) -> NDArray[np.uint8]:
        """Send the memberships of the ids that the other asked about."""
        found = node.directory
        return found.members[np.searchsorted(found.ids, found.askers[dst])]

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Put them in their places."""
        if node.is_helper:
            return
        answers = inbox | {node.index: self.message(node, node.index)}
        kept_by = keeper(node.ids, node.n_nodes)
        node.members = np.zeros((len(node.ids), -(-node.n_nodes // 8)), np.uint8)
        for k, bits in answers.items():
            node.members[kept_by == k] = bits
        sharing = Sharing.at(node.ids, node.members, node.n_nodes)
        node.counted = sharing.owner == node.index


def relate(n_nodes: int) -> Program:
    """Return the steps after which nodes know who else needs their ids.

    Nobody sees the ids of all: each id's entry is kept by a node chosen by hash. The
    last step's results are summaries to be added up: see `Overlaps`.
    """
    links = pairs(n_nodes)
    return [AskDirectory(links), AnswerAskers(links), MeasureOverlaps()]


@dataclasses.dataclass(frozen=True)
class Overlaps:
    """How much nodes share: what trees are made of."""

    overlaps: NDArray[np.int64]
    support: NDArray[np.int64]
    n_statistics: int
    lower_bound: int

    def __add__(self, other: Any) -> Overlaps:
        return Overlaps(
            self.overlaps + other.overlaps,
            self.support + other.support,
            self.n_statistics + other.n_statistics,
            self.lower_bound + other.lower_bound,
        )

    @property
    def n_nodes(self) -> int:
        """Number of nodes that have data."""
        return len(self.support)


@dataclasses.dataclass(frozen=True)
class MeasureOverlaps(Step):
    """Count what each two nodes share, over the ids that a node keeps."""

    def run(self, node: Node) -> Overlaps | None:
        """Count."""
        if node.is_helper:
            return None
        found = node.directory
        node.directory = dataclasses.replace(found, askers={})
        sharing = Sharing.at(found.ids, found.members, node.n_nodes)
        return Overlaps(
            sharing.overlaps, sharing.support, sharing.n_statistics, sharing.lower_bound
        )


# ------------------------------------------------------------------- how they travel


@dataclasses.dataclass(frozen=True)
class PlanExchange(Step):
    """Count the messages of several topologies, over the ids that a node keeps."""

    topologies: tuple[Topology, ...]

    def run(self, node: Node) -> list[Tally] | None:
        """Count."""
        if node.is_helper:
            return None
        found = node.directory
        sharing = Sharing.at(found.ids, found.members, node.n_nodes).summarised()
        return [topology.tally(sharing) for topology in self.topologies]


@dataclasses.dataclass(frozen=True)
class TellCarriers(Exchange):
    """Tell nodes which ids pass through them that their data do not need."""

    topology: Topology
    links: tuple[tuple[int, int], ...]

    def message(self, node: Node, dst: int) -> Any:
        """Send ids, and who needs them."""
        found = node.directory
        sharing = Sharing.at(found.ids, found.members, node.n_nodes)
        passing = self.topology.carried(dst, sharing)
        return found.ids[passing], found.members[passing]

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Note what the node will hold."""
        if not node.is_helper:
            inbox = inbox | {node.index: self.message(node, node.index)}
        ids = np.concatenate([node.ids, *(inbox[k][0] for k in sorted(inbox))])
        own = node.members.reshape(len(node.ids), -(-node.n_nodes // 8))
        members = np.concatenate([own, *(inbox[k][1] for k in sorted(inbox))])
        order = np.argsort(ids, kind="stable")
        node.held, node.held_members = ids[order], members[order]
        node.own = np.searchsorted(node.held, node.ids)
        if len(node.held) == len(node.ids):
            node.own = None


@dataclasses.dataclass(frozen=True)
class MakeRoutes(Step):
    """Compute, once, which rows are in each message."""

    plan: Plan

    def run(self, node: Node) -> None:
        """Compute the positions; then the directory is no longer needed."""
        if not any(self.plan.carried):
            node.held, node.held_members, node.own = node.ids, node.members, None
        topology, me = self.plan.topology, node.index
        sharing = Sharing.at(node.held, node.held_members, node.n_nodes)
        routes = []
        for step, round_ in enumerate(topology.rounds(node.n_nodes)):
            messages = self.plan.rounds[step]

            def rows(src: int, dst: int, step: int = step) -> NDArray[np.intp]:
                return np.flatnonzero(topology.travels(step, src, dst, sharing))

            routes.append(
                Route(
                    {m.dst: rows(me, m.dst) for m in messages if m.src == me},
                    {m.src: rows(m.src, me) for m in messages if m.dst == me},
                    round_.combine,
                )
            )
        node.routes = tuple(routes)
        node.directory = None
        node.members = node.held_members = np.zeros((0, 0), dtype=np.uint8)


def lay_out(plan: Plan) -> Program:
    """Return the steps after which nodes know what to send by a plan."""
    n_nodes = plan.n_nodes
    carriers: Program = ()
    if any(plan.carried):
        links = tuple(
            (i, j)
            for i in range(n_nodes)
            for j in range(n_nodes + 1)
            if i != j and plan.carried[j]
        )
        # those through whom nothing passes have nothing to be told, but note it too
        carriers = [TellCarriers(plan.topology, links)]
    return [*carriers, MakeRoutes(plan)]
