"""Messages as Dask tasks: each one its own, from worker to worker."""

from __future__ import annotations

import asyncio
from typing import Any

from ...peers.patience import Patience
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

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._patience = Patience()

    async def _run(self, run: int, program: Program) -> list[list[Any]]:
        chains = [_Chain(self, run, k) for k in range(self._n_nodes + 1)]
        self._once: set[Any] = set()
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
            if item.meanwhile is not None and item.at_most:
                await self._meanwhile(item.meanwhile, item.at_most, chains, messages)
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

    async def _meanwhile(
        self,
        step: Step,
        at_most: int,
        chains: list[_Chain],
        messages: dict[tuple[int, int], Any],
    ) -> None:
        """Let nodes do a step again and again until all messages have been made.

        They do not where all threads of their worker are busy.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        senders = {src for src, _ in messages}
        waiting = {
            k: asyncio.gather(
                *(_done(f) for (src, _), f in messages.items() if src == k)
            )
            for k in senders
        }
        ready: dict[int, float] = {}
        busy: dict[int, Any] = {}
        left = dict.fromkeys(waiting, at_most)
        try:
            while True:
                now = clock()
                for k, task in waiting.items():
                    if task.done():
                        ready.setdefault(k, now)
                if len(ready) == len(waiting):
                    break
                working = senders - ready.keys()
                working |= {k for k, task in busy.items() if not task.done()}
                for k, then in ready.items():
                    if k in working or not left[k]:
                        continue
                    place = self.places[k]
                    threads = self._workers.get(place, 1)
                    if sum(self.places[i] == place for i in working) < threads and (
                        self._patience.pays(k, now - then, then - began)
                    ):
                        left[k] -= 1
                        working.add(k)
                        busy[k] = asyncio.ensure_future(_done(chains[k].also(step)))
                tasks = (*waiting.values(), *busy.values())
                await asyncio.wait(
                    [task for task in tasks if not task.done()],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            for k, then in ready.items():
                self._patience.waited(k, now - then)
        finally:
            for task in (*waiting.values(), *busy.values()):
                task.cancel()

    def _used(self, message: Any) -> None:
        """Let go of a message once its receiver and its sender depend on it."""
        if message.key in self._once:
            self._once.remove(message.key)
            message.release()
        else:
            self._once.add(message.key)


async def _done(future: Any) -> None:
    await future._state.wait()


class _Chain:
    """The tasks of one node: what it does runs one after the other."""

    def __init__(self, peers: TaskPeers, run: int, index: int) -> None:
        self._peers = peers
        self._run = run
        self.index = index
        self._tick = 0
        #: Those with results.
        self.futures: list[Any] = []
        self._last: list[Any] = []
        #: These, and others, and messages.
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
            *self._last,
            key=("peer_message", position, self.index, dst),
        )
        self._leaving.append(future)
        return future

    def also(self, step: Step) -> Any:
        """Do a step of which nobody wants the result."""
        assert not self.pending
        return self._advance([step], [])

    def flush(self) -> None:
        """Do what is to be done, after all that was sent before has been made."""
        if not self.pending:
            return
        self.futures.append(self._advance(self.pending, self.arriving))
        self.pending, self.arriving = [], []

    def _advance(self, items: list[Any], arriving: list[Any]) -> Any:
        future = self._submit(
            on_worker.advance,
            tuple(items),
            list(arriving),
            *self._last,
            *self._leaving,
            key=("peer_step", self._tick, self.index),
        )
        for message in (*arriving, *self._leaving):
            self._peers._used(message)  # to be kept for no longer than necessary
        self._last, self._leaving = [future], []
        self._tick += 1
        return future

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
