"""How nodes send each other messages, and who runs their steps."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

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
    #: Whether seconds are those of a clock that only pretends.
    virtual = False

    def now(self) -> float:
        """Return seconds, on the clock by which fits are timed."""
        return time.monotonic()

    @abstractmethod
    async def open(self, source: Source, n_nodes: int | None) -> int:
        """Choose places for nodes; return how many have data.

        `n_nodes` is the user's wish, or None to let the transport choose.
        """

    @abstractmethod
    async def install(self) -> None:
        """Put the nodes in their places, with their data, if they are not there."""

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
    async def recover(self) -> None:
        """Make the nodes that were lost anew, without what they had computed."""

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
        """Pairs of a node with data and one elsewhere, to keep its copy.

        Elsewhere is on another host if there is one, else on another worker.
        """
        n_nodes = len(self.places) - 1
        hosts = [urlsplit(place).hostname for place in self.places]
        pairs = []
        for k in range(n_nodes):
            others = [(k + step) % n_nodes for step in range(1, n_nodes)]
            far = [j for j in others if hosts[j] != hosts[k]]
            far += [j for j in others if self.places[j] != self.places[k]]
            pairs += [(k, j) for j in far[:1]]
        return tuple(pairs)

    def drive(
        self,
        fit: Callable[[], Coroutine[Any, Any, R]],
        interrupt: Callable[[], None],
    ) -> R | Awaitable[R]:
        """Run a fit on the loop where this transport lives, and wait for it."""
        return run(fit, None, interrupt)
