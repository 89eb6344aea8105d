"""Steps of an iteration: E-step, exchange of statistics, M-step; and snapshots."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..sparse_model import SparseModel, Start
from ..topologies import Plan
from .node import Node, Snapshot
from .program import Exchange, Lost, Program, Step

__all__ = [
    "Begin",
    "EStep",
    "Export",
    "Keep",
    "MStep",
    "RollBack",
    "Traffic",
    "exchange",
    "iteration",
    "snapshot_to_use",
]


@dataclasses.dataclass(frozen=True)
class Begin(Step):
    """Start: with parameters, or with statistics that have to be added up first."""

    model: SparseModel
    seed: int

    def run(self, node: Node) -> bool:
        """Say whether there are statistics to be exchanged."""
        node.version, node.local, node.stats = 0, None, None
        node.snapshots = {}
        if node.is_helper:
            return False
        start = self.model.start(node.prepared, node.counted, node.summary, self.seed)
        if not isinstance(start, Start):
            raise TypeError(
                f"{type(self.model).__name__}.start must return a dask_em.Start, got "
                f"{type(start).__name__}."
            )
        if start.params is not None:
            node.params = checked(self.model, "start", start.params, node)
            return False
        stats = checked(self.model, "start", start.stats, node)
        node.params = np.zeros_like(stats)
        _spread(node, stats)
        return True


@dataclasses.dataclass(frozen=True)
class EStep(Step):
    """Compute what the data contribute, and the bound."""

    model: SparseModel
    #: Whether to leave latent state of another model behind.
    afresh: bool = False

    def share(self, node: Node) -> float:
        """Return how much of all data the node has; by and large."""
        return 0.0 if node.is_helper else 1.0 / node.n_nodes

    def run(self, node: Node) -> float:
        """Return the node's part of the bound at the present parameters."""
        if node.is_helper:
            return 0.0
        assert node.params is not None
        if self.afresh:
            node.local = None
        outcome = self.model.e_step(node.params, node.prepared, node.local)
        if not (isinstance(outcome, tuple) and len(outcome) == 3):
            raise TypeError(
                f"{type(self.model).__name__}.e_step must return statistics, bound and "
                "latent state (or None)."
            )
        stats, bound, node.local = outcome
        _spread(node, checked(self.model, "e_step", stats, node))
        return float(bound) + float(
            self.model.penalty(node.params, node.prepared, node.counted)
        )


def checked(model: SparseModel, method: str, found: Any, node: Node) -> Any:
    """Return the rows that a model has made for the ids of a node, if they are that."""
    expected = (len(node.ids), model.width)
    try:
        rows = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        rows = None
    if rows is None or rows.shape != expected:
        got = type(found).__name__ if rows is None else f"one of shape {rows.shape}"
        raise ValueError(
            f"{type(model).__name__}.{method} must return an array of numbers of shape "
            f"{expected}, a row for each id of support, got {got}."
        )
    return rows


def _spread(node: Node, stats: Any) -> None:
    """Make room for statistics that only pass through, or that others add to."""
    if node.own is None:
        # whatever a model returns may be its own to keep
        node.stats = stats.copy() if node.routes else stats
    else:
        node.stats = np.zeros((len(node.held), stats.shape[1]))
        node.stats[node.own] = stats


@dataclasses.dataclass(frozen=True)
class SendStatistics(Exchange):
    """One round of an exchange: bare numbers, in an order that both sides know."""

    round: int
    width: int
    links: tuple[tuple[int, int], ...]

    def message(self, node: Node, dst: int) -> Any:
        """Send rows of statistics."""
        assert node.stats is not None
        found = node.stats.take(node.routes[self.round].send[dst], axis=0)
        node.sent += found.size
        return found

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Add them up in the order of the nodes, so that all get the same sums."""
        route = node.routes[self.round]
        node.received += sum(rows.size for rows in inbox.values())
        if route.combine == "replace":
            for src, rows in inbox.items():
                assert node.stats is not None
                node.stats[route.receive[src]] = rows
            return
        if node.stats is None:  # a helper has none of its own
            node.stats = np.zeros((len(node.held), self.width))
        # those before this node go below its own; a sum of two needs no order
        early = [src for src in sorted(inbox) if src < node.index]
        late = [src for src in sorted(inbox) if src > node.index]
        if len(early) > 1:
            below = np.zeros_like(node.stats)
            for src in early:
                _add(below, route.receive[src], inbox[src])
            node.stats += below
            early = []
        for src in early + late:
            _add(node.stats, route.receive[src], inbox[src])


def _add(stats: Any, at: Any, rows: Any) -> None:
    """Add rows at places that are distinct."""
    if stats.shape[1] == 1:  # a good deal faster
        stats, rows = stats[:, 0], rows[:, 0]
    stats[at] += rows


@dataclasses.dataclass(frozen=True)
class MStep(Step):
    """Make new parameters of complete sums."""

    model: SparseModel
    version: int

    def run(self, node: Node) -> None:
        """Make them, here, of what is here."""
        node.version = self.version
        stats, node.stats = node.stats, None
        if node.is_helper:
            return
        assert node.params is not None and stats is not None
        if node.own is not None:
            stats = stats[node.own]
        params = self.model.m_step(node.params, stats, node.prepared)
        node.params = checked(self.model, "m_step", params, node)


def exchange(plan: Plan) -> Program:
    """Return the rounds of an exchange."""
    return [
        SendStatistics(i, plan.width, tuple((m.src, m.dst) for m in messages))
        for i, messages in enumerate(plan.rounds)
    ]


def iteration(
    model: SparseModel,
    plan: Plan,
    version: int,
    kept_by: tuple[tuple[int, int], ...] = (),
) -> Program:
    """Return the steps of an iteration; the last one's results add up to the bound.

    With `kept_by`, pairs of a node and another one, a snapshot is taken between M-step
    and E-step, so that an E-step from there begins as this one does.
    """
    keep = [Keep(kept_by)] if kept_by else []
    return [*exchange(plan), MStep(model, version), *keep, EStep(model)]


# ------------------------------------------------------------------- against losses


@dataclasses.dataclass(frozen=True)
class Keep(Exchange):
    """Keep the present parameters, here and on a node on another worker.

    Those of the time before are kept until all have the present ones.
    """

    links: tuple[tuple[int, int], ...]

    def message(self, node: Node, dst: int) -> Snapshot:
        """Send a copy."""
        return Snapshot(node.version, node.params, node.local)

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Keep others' and one's own."""
        if not node.is_helper:
            inbox = inbox | {node.index: self.message(node, node.index)}
        newest = max((version for _, version in node.snapshots), default=0)
        node.snapshots = {k: s for k, s in node.snapshots.items() if k[1] == newest}
        node.snapshots |= {(k, s.version): s for k, s in inbox.items()}


@dataclasses.dataclass(frozen=True)
class ShowSnapshots(Step):
    """Report whose snapshots a node has."""

    def run(self, node: Node) -> set[tuple[int, int]]:
        """Return nodes and versions."""
        return set(node.snapshots)


def snapshot_to_use(
    held: Sequence[Any], n_nodes: int
) -> tuple[int, tuple[tuple[int, int], ...]] | None:
    """Return the newest version that there is of all nodes, and who has to send it."""
    versions = {v for have in held for _, v in have}
    for version in sorted(versions, reverse=True):
        links = []
        for k in range(n_nodes):
            holders = [i for i, have in enumerate(held) if (k, version) in have]
            if not holders:
                break
            if k not in holders:
                links.append((holders[0], k))
        else:
            return version, tuple(links)
    return None


@dataclasses.dataclass(frozen=True)
class ReturnSnapshots(Exchange):
    """Give nodes that were made anew their snapshots."""

    links: tuple[tuple[int, int], ...]
    version: int

    def message(self, node: Node, dst: int) -> Snapshot:
        """Send the other's."""
        return node.snapshots[dst, self.version]

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Keep one's own."""
        for snapshot in inbox.values():
            node.snapshots[node.index, self.version] = snapshot


@dataclasses.dataclass(frozen=True)
class RollBack(Step):
    """Go back to a snapshot; its E-step is made again."""

    version: int

    def run(self, node: Node) -> None:
        """Take parameters and latent state from it."""
        node.version, node.stats = self.version, None
        node.snapshots = {
            k: s for k, s in node.snapshots.items() if k[1] <= self.version
        }
        if node.is_helper:
            return
        snapshot = node.snapshots.get((node.index, self.version))
        if snapshot is None:
            raise Lost(f"node {node.index} has no snapshot of {self.version}")
        node.params, node.local = snapshot.params, snapshot.local


# ------------------------------------------------------------------------- the result


@dataclasses.dataclass(frozen=True)
class Traffic(Step):
    """Report what a node has sent and received, in numbers."""

    def run(self, node: Node) -> tuple[int, int, int]:
        """Return both, and how many statistics it holds."""
        return node.sent, node.received, len(node.held)


@dataclasses.dataclass(frozen=True)
class Export(Step):
    """Return the parameters that a node counts."""

    def run(self, node: Node) -> Any:
        """Return their ids and values."""
        if node.is_helper:
            return None
        assert node.params is not None
        if node.counted.all():
            return node.ids, node.params
        return node.ids[node.counted], node.params[node.counted]
