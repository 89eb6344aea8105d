"""Nodes of one process, and messages to and from those of others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ...peers.node import Node
from ...peers.patience import Patience
from ...peers.program import (
    Exchange,
    Lost,
    Program,
    Step,
    by_node,
    own_errors,
)

__all__ = ["Host"]

R = TypeVar("R")

#: ``send(run, position, src, dst, payload)`` brings a message to another process.
Send = Callable[[int, int, int, int, Any], Awaitable[Any]]


class _Inbox:
    """What has arrived for a node in an exchange."""

    def __init__(self) -> None:
        self.payloads: dict[int, Any] = {}
        self.changed = asyncio.Event()
        #: When the last of them came.
        self.latest = 0.0

    def add(self, src: int, payload: Any) -> None:
        self.payloads[src] = payload
        self.latest = time.monotonic()
        self.changed.set()

    async def until(self, sources: Sequence[int], less: int = 1) -> dict[int, Any]:
        """Wait for the messages of some nodes, less than so many; return all."""
        while len(set(sources) - self.payloads.keys()) >= less:
            self.changed.clear()
            await self.changed.wait()
        return self.payloads


class Host:
    """Runs programs on nodes of its own; each goes on as soon as its messages are in.

    All methods are for one event loop; what nodes compute runs in threads.

    Parameters
    ----------
    nodes : mapping of int to Node
        Those of this process.
    n_threads : int
    elsewhere : mapping of int to callable
        How to reach the others.
    """

    def __init__(
        self,
        nodes: Mapping[int, Node],
        n_threads: int,
        elsewhere: Mapping[int, Send] | None = None,
    ) -> None:
        self.nodes = nodes
        self.elsewhere = dict(elsewhere or {})
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="dask_em-peer")
        self._inboxes: dict[tuple[int, int, int], _Inbox] = {}
        self._run = 0
        self._tasks: Sequence[asyncio.Future[list[Any]]] = ()
        self._patience = Patience()
        self._n_threads = n_threads
        #: Nodes that do something while they wait.
        self._n_extra = 0

    async def run(self, run: int, program: Program) -> dict[int, list[Any]]:
        """Run a program; return the results of its steps, for each node.

        Parameters
        ----------
        run : int
            Its number, above those of the runs before.
        program : Program
        """
        self._run = run
        links = {
            i: by_node(item.links)
            for i, item in enumerate(program)
            if isinstance(item, Exchange)
        }
        tasks = self._tasks = [
            asyncio.ensure_future(self._one(run, node, program, links))
            for node in self.nodes.values()
        ]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._inboxes = {k: v for k, v in self._inboxes.items() if k[0] > run}
        return dict(zip(self.nodes, results, strict=True))

    async def _one(
        self, run: int, node: Node, program: Program, links: Mapping[int, Any]
    ) -> list[Any]:
        results = []
        seconds = 0.0  # that the last step took
        for position, item in enumerate(program):
            if isinstance(item, Step):
                found, seconds = await self._thread(node, _timed, item, node)
                results.append(found)
            else:
                targets, sources = (
                    found.get(node.index, []) for found in links[position]
                )
                await self._exchange(
                    run, position, node, item, targets, sources, seconds
                )
        return results

    async def _exchange(
        self,
        run: int,
        position: int,
        node: Node,
        exchange: Exchange,
        targets: Sequence[int],
        sources: Sequence[int],
        seconds: float,
    ) -> None:
        sending = []
        for dst in targets:
            payload = await self._thread(node, exchange.message, node, dst)
            if dst in self.nodes:
                self.receive(run, position, node.index, dst, payload)
            else:
                send = self.elsewhere[dst]
                arrival = send(run, position, node.index, dst, payload)
                sending.append(asyncio.ensure_future(_sent(arrival, dst)))
        inbox = self._inbox(run, position, node.index)
        try:
            if exchange.meanwhile is not None and sources:
                await self._meanwhile(node, exchange, inbox, sources, seconds)
            payloads = await inbox.until(sources)
            await self._thread(node, exchange.deliver, node, payloads)
            await asyncio.gather(*sending)
        finally:
            for task in sending:
                task.cancel()
            self._inboxes.pop((run, position, node.index), None)

    async def _meanwhile(
        self,
        node: Node,
        exchange: Exchange,
        inbox: _Inbox,
        sources: Sequence[int],
        seconds: float,
    ) -> None:
        """Do something while messages are awaited, if there is time enough."""
        began = time.monotonic()
        here = [k for k in sources if k in self.nodes]
        for _ in range(exchange.at_most):
            # not on a thread that somebody here still needs
            await inbox.until(here, self._n_threads)
            elapsed = time.monotonic() - began
            if len(inbox.payloads) >= len(sources) or self._n_extra >= (
                self._n_threads - len(set(here) - inbox.payloads.keys())
            ):
                break
            if not self._patience.pays(node.index, elapsed, seconds):
                break
            assert exchange.meanwhile is not None
            self._n_extra += 1
            try:
                await self._thread(node, exchange.meanwhile.run, node)
            finally:
                self._n_extra -= 1
        await inbox.until(sources)
        self._patience.waited(node.index, max(inbox.latest - began, 0.0))

    def _inbox(self, run: int, position: int, dst: int) -> _Inbox:
        return self._inboxes.setdefault((run, position, dst), _Inbox())

    def receive(
        self, run: int, position: int, src: int, dst: int, payload: Any
    ) -> None:
        """Take in a message; one of a run that is over is dropped."""
        if run < self._run:
            return
        self._inbox(run, position, dst).add(src, payload)

    async def _thread(self, node: Node, fn: Callable[..., R], *args: Any) -> R:
        def work() -> R:
            with node.lock, own_errors():
                return fn(*args)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Give up on what is under way, and stop the threads."""
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _timed(step: Step, node: Node) -> tuple[Any, float]:
    """Return what a step returns, and the seconds it took."""
    began = time.perf_counter()
    return step.run(node), time.perf_counter() - began


async def _sent(arrival: Awaitable[Any], dst: int) -> None:
    """Wait until a message has arrived."""
    try:
        await arrival
    except (OSError, RuntimeError) as error:
        raise Lost(f"node {dst} cannot be reached") from error
