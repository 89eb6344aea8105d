"""Nodes with clocks that only pretend, and real numbers."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ...peers.iteration import Export
from ...peers.node import Node
from ...peers.patience import Patience
from ...peers.program import Exchange, Program, Step, own_errors
from ...peers.source import Source
from ..timeline import Interval
from .base import PeerTransport
from .local import Kept, computed

if TYPE_CHECKING:
    from ..simulated import Simulated

__all__ = ["SimulatedPeers"]


class SimulatedPeers(PeerTransport):
    """Runs all nodes in this process, each by a clock of its own.

    Nodes wait for messages alone, so what they compute follows from the order of a
    program, and a clock per node says when. A step takes its share of the cost of all
    data; a message arrives after the latency, and the time that its bytes take.

    Parameters
    ----------
    given : Simulated
        Workers, speeds, cost and network; its `timeline` is about the fit.
    """

    kind = "simulated"
    virtual = True

    def __init__(self, given: Simulated) -> None:
        if given.faults or given.loss:
            raise ValueError(
                "Simulated has faults= and loss= for fits with a manager only; leave "
                "them out for this one."
            )
        self._given = given
        self._clocks: list[float] = []

    def now(self) -> float:
        """Return the time on the clock that is furthest."""
        return max(self._clocks, default=0.0)

    async def open(self, source: Source, n_nodes: int | None) -> int:
        """Make the nodes: one on each worker, or as many as are wished."""
        given = self._given
        n_workers = given.n_workers
        n_nodes = n_nodes or n_workers
        self._n_rows = source.n_rows
        if callable(given.cost) and self._n_rows is None:
            raise ValueError(
                "cost is a function of the number of rows, which nobody knows of these "
                "data; give the seconds for all of them."
            )
        cut = await asyncio.to_thread(source.cut, n_nodes)
        parts = [*(computed(part) for part in cut), []]
        self._nodes = [Node(k, n_nodes, part) for k, part in enumerate(parts)]
        homes = [k * n_workers // max(n_nodes, n_workers) for k in range(n_nodes)]
        self.places = tuple(f"worker-{k}" for k in [*homes, 0])
        speeds = given.speeds or (1.0,) * n_workers
        # nodes of a worker share it
        self._speeds = [speeds[k] / homes.count(k) for k in homes] + [1.0]
        self._clocks = [0.0] * (n_nodes + 1)
        #: Seconds of the last step of each.
        self._latest = [0.0] * (n_nodes + 1)
        self._patience = Patience()
        self._rng = np.random.default_rng(given.seed)
        word = "worker" if n_nodes <= n_workers else "node"
        given._names = tuple(f"{word}-{k}" for k in range(n_nodes))
        given._intervals = []
        return n_nodes

    async def install(self) -> None:
        """Do nothing: they are where they are made."""

    async def recover(self) -> None:
        """Do nothing: nothing is ever lost."""

    async def run(self, program: Program) -> list[list[Any]]:
        """Run a program; what nodes return is with the driver when all have."""
        results = []
        for item in program:
            if isinstance(item, Step):
                results.append([self._step(node, item) for node in self._nodes])
            else:
                self._exchange(item)
        # what comes of it travels to the driver, and the next program from there
        later = self.now() + 2 * self._given.latency
        self._clocks = [later] * len(self._clocks)
        return results

    def _step(self, node: Node, step: Step, kind: str = "work") -> Any:
        share = step.share(node)
        with own_errors():
            found = step.run(node)
        if share > 0:
            given, k = self._given, node.index
            seconds = (
                given.cost(round(share * (self._n_rows or 0)))
                if callable(given.cost)
                else given.cost * share
            ) / self._speeds[k]
            if given.jitter:
                seconds *= float(np.exp(given.jitter * self._rng.standard_normal()))
            start = self._clocks[k]
            self._clocks[k], self._latest[k] = start + seconds, seconds
            doing = Interval(given._names[k], kind, start, start + seconds)
            given._intervals.append(doing)
        return found

    def _exchange(self, exchange: Exchange) -> None:
        given = self._given
        inboxes: list[dict[int, Any]] = [{} for _ in self._nodes]
        arrival = [0.0] * len(self._nodes)
        for src, dst in exchange.links:
            with own_errors():
                payload = exchange.message(self._nodes[src], dst)
            inboxes[dst][src] = payload
            taken = given.latency + nbytes(payload) / given.bandwidth
            arrival[dst] = max(arrival[dst], self._clocks[src] + taken)
        if exchange.meanwhile is not None:
            for node in self._nodes[:-1]:
                self._meanwhile(node, exchange, arrival[node.index])
        for node, inbox in zip(self._nodes, inboxes, strict=True):
            k = node.index
            self._clocks[k] = max(self._clocks[k], arrival[k])
            with own_errors():
                exchange.deliver(node, inbox)

    def _meanwhile(self, node: Node, exchange: Exchange, arrival: float) -> None:
        """Do something while messages are awaited, if there is time enough."""
        k = node.index
        began = now = self._clocks[k]
        needed = self._latest[k]
        for _ in range(exchange.at_most):
            if now >= arrival or not self._patience.pays(k, now - began, needed):
                break
            assert exchange.meanwhile is not None
            self._step(node, exchange.meanwhile, "extra")
            now = self._clocks[k]
        self._patience.waited(k, max(arrival - began, 0.0))

    async def export(self) -> list[Any]:
        """Return what nodes count."""
        found = (Export().run(node) for node in self._nodes)
        return [Kept(part) for part in found if part is not None]

    async def close(self) -> None:
        """Let go of the data."""
        for node in getattr(self, "_nodes", ()):
            node.close()
        self._nodes = []


def nbytes(payload: Any) -> int:
    """Return the bytes of the arrays in a message."""
    if isinstance(payload, np.ndarray):
        return payload.nbytes
    if isinstance(payload, dict):
        return sum(map(nbytes, payload.values()))
    if isinstance(payload, (tuple, list)):
        return sum(map(nbytes, payload))
    if dataclasses.is_dataclass(payload) and not isinstance(payload, type):
        fields = dataclasses.fields(payload)
        return sum(nbytes(getattr(payload, field.name)) for field in fields)
    return 0
