"""Nodes on the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import dask
from distributed import Client, Future, span

from ...peers.program import MOST_NODES, Lost, Program, is_own
from ...peers.source import InMemory, Source
from ..cluster import (
    LOST,
    ask_versions,
    call_for_workers,
    cancelled,
    check_picklable,
    check_versions,
    drive,
    gone,
    tidy_up,
)
from . import on_worker
from .base import PeerTransport

__all__ = ["ClusterPeers", "Remote", "finished", "release"]

R = TypeVar("R")

logger = logging.getLogger("dask_em")

#: Seconds between two looks at which workers there are.
_LOOK = 0.3
#: Seconds without an answer after which the scheduler counts as gone.
_SCHEDULER_GONE = 30.0
#: Seconds without a heartbeat after which a worker counts as lost.
_SILENCE = 30.0
#: Seconds to wait for the news that a worker was lost, after an error that says so.
_NEWS = 5.0
#: Seconds after which to ask whether what is fetched can still come.
_ASK = 2.0


class ClusterPeers(PeerTransport):
    """Puts a node on every thread of a Dask cluster, and notices who is lost.

    Parameters
    ----------
    client : distributed.Client, optional
        By default the current one.
    """

    def __init__(self, client: Client | None) -> None:
        self._given = client

    def drive(
        self,
        fit: Callable[[], Coroutine[Any, Any, R]],
        interrupt: Callable[[], None],
    ) -> R | Awaitable[R]:
        """Run the fit on the client's loop."""

        def use(client: Client) -> None:
            self._client = client

        return drive(self._given, self.kind, use, fit, interrupt)

    # --------------------------------------------------------------- workers and data

    async def open(self, source: Source, n_nodes: int | None) -> int:
        """Wait for workers, and put the nodes on them."""
        self._fit = uuid.uuid4().hex[:8]
        with span(f"dask_em-{self._fit}"):
            self._span = dask.get_annotations()["span"]
        self._runs = 0
        self.places = ()
        self._missing: frozenset[int] = frozenset()
        self._workers: dict[str, int] = {}
        #: What tells a worker from another one that came to its address, now and
        #: when nodes were put there.
        self._process: dict[str, str] = {}
        self._settled: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._broken: BaseException | None = None
        self._watch = asyncio.create_task(self._watch_workers())
        await self._until_workers()
        check_versions(await ask_versions(self._client, None))
        slots = [a for a, n in sorted(self._workers.items()) for _ in range(n)]
        n_nodes = n_nodes or min(len(slots), MOST_NODES)
        self._n_nodes = n_nodes
        self._source = source
        # neighbours share a worker, and nodes are spread evenly
        homes = [slots[k * len(slots) // n_nodes] for k in range(n_nodes)]
        if n_nodes > len(slots):
            homes = sorted(slots[k % len(slots)] for k in range(n_nodes))
        # the helper goes where there is most room
        idle = min(sorted(self._workers), key=homes.count)
        self._settle((*homes, idle))
        self._missing = frozenset(range(n_nodes + 1))
        return n_nodes

    def _settle(self, places: tuple[str, ...]) -> None:
        self.places = places
        self._settled = {a: self._process[a] for a in places}

    def _is_gone(self, address: str) -> bool:
        return self._process.get(address) != self._settled[address]

    async def _until_workers(self) -> None:
        told = time.monotonic()
        call: Any = None
        while not self._workers:
            if self._broken is not None:
                raise self._broken
            if call is None and time.monotonic() >= told + 1:
                call = call_for_workers(self._client)
            if time.monotonic() >= told + 10:
                told = time.monotonic() + 20
                logger.warning("waiting for a Dask worker: the cluster has none")
            await asyncio.sleep(0.02)

    async def install(self) -> None:
        """Make the nodes that are missing on their workers, with their data."""
        if self._missing:
            await self._install(sorted(self._missing))
            await self._connect()
            self._missing = frozenset()

    async def _connect(self) -> None:
        """Get ready to run programs, now that all nodes are there."""

    async def _install(self, nodes: Sequence[int]) -> None:
        cut = await asyncio.to_thread(self._source.cut, self._n_nodes)
        parts = [*cut, []]
        made, sent = [], []
        for k in nodes:
            address = self.places[k]
            chunks = [await self._sent(chunk, address) for chunk in parts[k]]
            sent += [chunk for chunk in chunks if isinstance(chunk, Future)]
            made.append(
                self._submit(
                    on_worker.install,
                    self._fit,
                    k,
                    self._n_nodes,
                    *chunks,
                    key=f"peer_install-{self._fit}-{k}-{uuid.uuid4().hex[:6]}",
                    address=address,
                )
            )
        try:
            await self.unless_lost(finished(made))
        finally:
            release([*made, *sent])

    async def _sent(self, chunk: Any, address: str) -> Any:
        """Let a chunk be computed, or brought, where it is needed."""
        if hasattr(chunk, "__dask_graph__"):
            return self._client.compute(
                chunk, workers=[address], allow_other_workers=True
            )
        if isinstance(chunk, InMemory):
            sending = self._client.scatter([chunk], workers=[address], hash=False)
            (future,) = await self.unless_lost(sending)
            return future
        return chunk

    def _submit(self, fn: Any, *args: Any, key: Any, address: str) -> Any:
        with dask.annotate(span=self._span):
            return self._client.submit(
                fn, *args, key=key, pure=False, workers=[address], retries=0
            )

    async def recover(self) -> None:
        """Put lost nodes on the workers there are."""
        await self._until_workers()
        there = dict(self._workers)
        lost = frozenset(k for k, a in enumerate(self.places) if self._is_gone(a))
        places = list(self.places)
        for k in sorted(lost):
            places[k] = min(sorted(there), key=lambda a: places.count(a) / there[a])
        # those of a recovery that was itself spoilt are missing still
        self._missing |= lost
        self._settle(tuple(places))
        self._changed.clear()
        await self.install()

    async def _watch_workers(self) -> None:
        """Keep track of the workers; give up on a scheduler that has gone."""
        answered = time.monotonic()
        while True:
            try:
                if self._client.status in ("closing", "closed"):
                    raise gone()
                async with asyncio.timeout(10):
                    identity = await self._client.scheduler.identity(n_workers=-1)
                answered = time.monotonic()
            except (*LOST, OSError) as error:
                if cancelled():
                    raise
                if (
                    self._client.status in ("closing", "closed")
                    or time.monotonic() > answered + _SCHEDULER_GONE
                ):
                    self._broken = gone()
                    self._broken.__cause__ = error
                    self._changed.set()
                    return
                await asyncio.sleep(_LOOK)
                continue
            workers = identity["workers"]
            latest = max((w["last_seen"] for w in workers.values()), default=0.0)
            self._workers = {
                address: w["nthreads"]
                for address, w in workers.items()
                if w["last_seen"] > latest - _SILENCE
            }
            self._process = {a: workers[a]["local_directory"] for a in self._workers}
            if any(map(self._is_gone, self.places)):
                self._changed.set()
            await asyncio.sleep(_LOOK)

    async def unless_lost(self, work: Awaitable[R]) -> R:
        """Wait for something, but not for workers that are gone."""
        task = asyncio.ensure_future(work)
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._broken or Lost("a worker was lost")
            try:
                return task.result()
            except (Exception, asyncio.CancelledError) as error:
                if cancelled() or not _tells_of_a_loss(error):
                    raise
                # whoever is gone, the scheduler has yet to say so
                await asyncio.wait({changed}, timeout=_NEWS)
                if self._broken is not None:
                    raise self._broken from error
                if not self._changed.is_set() and not isinstance(
                    error, (*LOST, Lost, PartGone)
                ):
                    raise
                raise Lost("a worker was lost") from error
        finally:
            task.add_done_callback(_seen)
            task.cancel()
            changed.cancel()

    # ------------------------------------------------------------------- running

    async def run(self, program: Program) -> list[list[Any]]:
        """Run a program where the nodes are."""
        self._runs += 1
        if self._runs == 1:
            check_picklable(program)
        if self._changed.is_set():
            raise self._broken or Lost("a worker was lost")
        results = await self.unless_lost(self._run(self._runs, program))
        return [list(r) for r in zip(*results, strict=True)]

    @abstractmethod
    async def _run(self, run: int, program: Program) -> list[list[Any]]:
        """Return the results of all steps, for each node."""

    async def export(self) -> list[Any]:
        """Return futures of what nodes count."""
        futures = [
            self._submit(
                on_worker.export,
                self._fit,
                k,
                key=f"peer_parameters-{self._fit}-{k}-{self._runs}",
                address=self.places[k],
            )
            for k in range(self._n_nodes)
        ]
        await self.unless_lost(finished(futures))
        return [Remote(future) for future in futures]

    async def close(self) -> None:
        """Let go of everything on the cluster."""
        if not hasattr(self, "_watch"):
            return
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        fit = self._fit

        def drop() -> None:
            from dask_em.transports.peers import on_worker

            on_worker.forget(fit)

        await tidy_up(self._client, drop)


def release(futures: Sequence[Any]) -> None:
    """Let go of futures now: after an error, cycles would keep them for a while."""
    for future in futures:
        future.release()


class PartGone(RuntimeError):
    """A part of the parameters that was left on a worker is gone with it."""


class Remote:
    """Something on the cluster, to be fetched when it is wanted."""

    def __init__(self, future: Any) -> None:
        self._future = future

    async def fetch(self) -> Any:
        """Bring it here."""
        client, key = self._future.client, self._future.key
        fetching = asyncio.ensure_future(client._gather([self._future]))
        try:
            while True:
                await asyncio.wait({fetching}, timeout=_ASK)
                if fetching.done():
                    (found,) = fetching.result()
                    return found
                states = await client.scheduler.get_task_status(keys=[key])
                if states[key] in ("no-worker", None):  # it can be made nowhere else
                    raise PartGone(
                        "a worker that kept a part of the parameters is gone; fit "
                        "again, with gather=True or a checkpoint."
                    )
        finally:
            fetching.add_done_callback(_seen)
            fetching.cancel()

    @property
    def client(self) -> Client:
        """Whose loop it has to be fetched on."""
        return self._future.client


def _tells_of_a_loss(error: BaseException) -> bool:
    """Whether an error may follow from the loss of a worker."""
    if is_own(error) or isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    if isinstance(error, RuntimeError) and not isinstance(error, PartGone):
        return str(error).startswith("Worker holding Actor")
    return isinstance(error, (*LOST, Lost, OSError, PartGone))


async def finished(futures: Sequence[Any]) -> None:
    """Wait for futures; raise what the first to fail raised.

    Dask's own `gather` leaves tasks behind that fail later, and are complained of.
    """
    await asyncio.gather(*map(_finished, futures))


async def _finished(future: Any) -> None:
    await future._state.wait()
    if future.status == "error":
        await future._result()  # raises
    if future.status != "finished":
        raise Lost("a worker was lost")


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at a task's error, so that nobody complains that it was ignored."""
    if not task.cancelled():
        task.exception()
