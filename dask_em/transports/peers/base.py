"""How nodes send each other messages, and who runs their steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ...peers.program import Program
from ...peers.source import Source
from ..runner import run

__all__ = ["PeerTransport"]

R = TypeVar("R")


class PeerTransport(ABC):
    """Runs programs on nodes; knows neither models nor topologies.

    It is opened for one fit at a time. Nodes are numbered from 0; the last one, a
    helper, has no data.
    """

    #: What users call it.
    kind = ""
    #: Which worker each node is on.
    places: tuple[str, ...] = ()

    @abstractmethod
    async def open(self, source: Source, n_nodes: int | None) -> int:
        """Put a node with some of the data on each worker; return how many have data.

        `n_nodes` is the user's wish, or None to let the transport choose.
        """

    @abstractmethod
    async def run(self, program: Program) -> list[list[Any]]:
        """Run a program on all nodes.

        Returns
        -------
        list of list
            For each step that is not an exchange, what it returned on each node.

        Raises
        ------
        Lost
            If a worker was lost with its nodes; see `recover`.
        """

    @abstractmethod
    async def recover(self) -> frozenset[int]:
        """Make the nodes that were lost anew, without what they had computed.

        Return which ones.
        """

    @abstractmethod
    async def export(self) -> list[Any]:
        """Return, for each node, something whose ``fetch()`` is awaited.

        It gives the node's ids and parameters, after `close` too.
        """

    async def unless_lost(self, work: Awaitable[R]) -> R:
        """Wait for something that needs the workers; raise `Lost` if one goes."""
        return await work

    @abstractmethod
    async def close(self) -> None:
        """Let go of the nodes."""

    @property
    def looked_after(self) -> tuple[tuple[int, int], ...]:
        """Pairs of a node with data and one on another worker, to keep its copy."""
        n_nodes = len(self.places) - 1
        pairs = []
        for k in range(n_nodes):
            for step in range(1, n_nodes):
                other = (k + step) % n_nodes
                if self.places[other] != self.places[k]:
                    pairs.append((k, other))
                    break
        return tuple(pairs)

    def drive(
        self,
        fit: Callable[[], Coroutine[Any, Any, R]],
        interrupt: Callable[[], None],
    ) -> R | Awaitable[R]:
        """Run a fit on the loop where this transport lives, and wait for it."""
        return run(fit, None, interrupt)
