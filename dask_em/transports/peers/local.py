"""Nodes in the threads of this process."""

from __future__ import annotations

import asyncio
from typing import Any

from ...kernels.threads import n_threads
from ...peers.iteration import Export
from ...peers.node import Node
from ...peers.program import Program
from ...peers.source import Source
from .base import PeerTransport
from .host import Host

__all__ = ["Kept", "LocalPeers", "computed"]

#: Rows below which another node is not worth its while.
_ROWS = 500


class LocalPeers(PeerTransport):
    """Runs all nodes in this process; messages are arrays in its memory.

    Parameters
    ----------
    n_threads : int, optional
    """

    kind = "local"

    def __init__(self, n_threads: int | None = None) -> None:
        self._n_threads = n_threads

    async def open(self, source: Source, n_nodes: int | None) -> int:
        """Make the nodes."""
        threads = self._n_threads or n_threads()
        if n_nodes is None:
            rows = source.n_rows
            n_nodes = threads if rows is None else max(1, min(threads, rows // _ROWS))
        chunks = await asyncio.to_thread(
            lambda: [computed(part) for part in source.cut(n_nodes)]
        )
        chunks.append([])
        self._nodes = {k: Node(k, n_nodes, c) for k, c in enumerate(chunks)}
        self.places = ("this process",) * (n_nodes + 1)
        self._host = Host(self._nodes, threads)
        self._runs = 0
        return n_nodes

    async def run(self, program: Program) -> list[list[Any]]:
        """Run a program in threads."""
        self._runs += 1
        results = await self._host.run(self._runs, program)
        return [list(r) for r in zip(*results.values(), strict=True)]

    async def install(self) -> None:
        """Do nothing: they are where they are made."""

    async def recover(self) -> None:
        """Do nothing: nothing is ever lost."""

    async def export(self) -> list[Any]:
        """Return what nodes count."""
        found = (Export().run(node) for node in self._nodes.values())
        return [Kept(part) for part in found if part is not None]

    async def close(self) -> None:
        """Stop the threads and let go of the data."""
        if hasattr(self, "_host"):
            self._host.close()
            for node in self._nodes.values():
                node.close()
            self._nodes.clear()


class Kept:
    """Something that is here already."""

    def __init__(self, value: Any) -> None:
        self._value = value

    async def fetch(self) -> Any:
        """Return it."""
        return self._value


def computed(chunks: Any) -> list[Any]:
    """Compute what Dask has still to compute, in threads."""
    chunks = list(chunks)
    lazy = [i for i, c in enumerate(chunks) if hasattr(c, "__dask_graph__")]
    if lazy:
        import dask

        values = dask.compute(*(chunks[i] for i in lazy), scheduler="threads")  # type: ignore[attr-defined]
        for i, value in zip(lazy, values, strict=True):
            chunks[i] = value
    return chunks
