"""Messages as Dask tasks: each one its own, from worker to worker."""

from __future__ import annotations

from typing import Any

from ...peers.program import Program, Step, by_node
from . import on_worker
from .cluster import ClusterPeers, finished, release

__all__ = ["TaskPeers"]


class TaskPeers(ClusterPeers):
    """Runs programs as graphs of tasks, each bound to the worker of its node.

    What a node sends is the result of a task of its own, so that only that travels,
    directly between workers. Tasks appear on the dashboard as ``peer_step`` and
    ``peer_message``.
    """

    kind = "futures"

    async def _run(self, run: int, program: Program) -> list[list[Any]]:
        chains = [_Chain(self, run, k) for k in range(self._n_nodes + 1)]
        try:
            return await self._finish(chains, program)
        finally:
            for chain in chains:
                release(chain.made)

    async def _finish(self, chains: list[_Chain], program: Program) -> list[list[Any]]:
        for position, item in enumerate(program):
            if isinstance(item, Step):
                for chain in chains:
                    chain.pending.append(item)
                continue
            bare = item.bare()
            messages = {
                (src, dst): chains[src].message(position, bare, dst)
                for src, dst in item.links
            }
            _, links = by_node(item.links)
            for chain in chains:
                sources = links.get(chain.index, [])
                chain.pending.append(on_worker.Deliver(bare, sources))
                chain.arriving += [messages[src, chain.index] for src in sources]
        for chain in chains:
            chain.flush()
        futures = [f for chain in chains for f in chain.futures]
        await finished(futures)
        values = dict(
            zip(
                (f.key for f in futures),
                await self._client.gather(futures),
                strict=True,
            )
        )
        return [[r for f in c.futures for r in values[f.key]] for c in chains]


class _Chain:
    """The tasks of one node: what it does runs one after the other."""

    def __init__(self, peers: TaskPeers, run: int, index: int) -> None:
        self._peers = peers
        self._run = run
        self.index = index
        self._tick = 0
        self.futures: list[Any] = []
        #: These, and the messages.
        self.made: list[Any] = []
        self.pending: list[Any] = []
        self.arriving: list[Any] = []
        self._leaving: list[Any] = []

    def message(self, position: int, exchange: Any, dst: int) -> Any:
        """Send a message, once what was to be done before is done."""
        self.flush()
        future = self._submit(
            on_worker.message,
            exchange,
            dst,
            *self.futures[-1:],
            key=("peer_message", position, self.index, dst),
        )
        self._leaving.append(future)
        return future

    def flush(self) -> None:
        """Do what is to be done, after all that was sent before has been made."""
        if not self.pending:
            return
        future = self._submit(
            on_worker.advance,
            tuple(self.pending),
            list(self.arriving),
            *self.futures[-1:],
            *self._leaving,
            key=("peer_step", self._tick, self.index),
        )
        self.futures.append(future)
        self._tick += 1
        self.pending, self.arriving, self._leaving = [], [], []

    def _submit(self, fn: Any, *args: Any, key: tuple[Any, ...]) -> Any:
        name, *rest = key
        peers = self._peers
        future = peers._submit(
            fn,
            peers._fit,
            self.index,
            (self._run, self._tick),
            *args,
            key=(f"{name}-{peers._fit}", self._run, *rest),
            address=peers.places[self.index],
        )
        self.made.append(future)
        return future
