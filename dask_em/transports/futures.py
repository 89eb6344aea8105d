"""Dask tasks: the default where there is a client."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

import dask
import numpy as np
from dask.sizeof import sizeof
from distributed import Client, Future, KilledWorker, futures_of, span
from distributed.comm import CommClosedError
from distributed.protocol import pickle
from distributed.scheduler import NoValidWorkerError

from ..model import Model
from ..sharding import DaskData, Data, MemoryData, Piece, Recipe, Shard, cut
from . import tasks
from .base import (
    EStep,
    Failure,
    Report,
    Transport,
    TransportEvent,
    WorkersAre,
)
from .cluster import (
    LOST,
    ask_versions,
    call_for_workers,
    cancelled,
    check_picklable,
    check_versions,
    drive,
    gone,
    the_client,
    tidy_up,
)

if TYPE_CHECKING:
    from .peers.tasks import TaskPeers

__all__ = ["Futures"]

R = TypeVar("R")

logger = logging.getLogger("dask_em")

#: Pieces per thread of the cluster that data are cut into.
_PIECES = 16
#: Seconds that an E-step should take at least, to be worth a task.
_GRAIN = 0.05
#: Reports per second that one client and scheduler handle with ease.
_RATE = 150.0
#: Size in bytes below which parameters travel inside the task.
_SMALL = 64_000
#: Seconds between two looks at which workers there are.
_LOOK = 0.4
#: Seconds without a heartbeat after which a worker's data are fetched elsewhere.
_SILENCE = 4.0
#: Seconds without an answer after which the scheduler counts as gone.
_SCHEDULER_GONE = 30.0
#: Seconds after which a result is fetched by itself, not with those of others.
_HUNG = 3.0
#: Moves of a piece before it is made anew: Dask keeps the whole chain of copies.
_CHAIN = 8
#: Bytes sent from this process in one message.
_BATCH = 64_000_000
#: Losses of the same task in a row before the fit gives up.
_ATTEMPTS = 10


@dataclasses.dataclass(eq=False)
class _Flight:
    """An E-step under way: the asyncio task that looks after it, and Dask's."""

    e_step: EStep
    since: float
    task: asyncio.Task[None] | None = None
    future: Any = None


class Futures(Transport):
    """Run E-steps as Dask tasks on the workers that hold the data.

    Every thread of the cluster counts as a worker. Chunks are made resident while
    they fit in half of the workers' memory; beyond that every E-step loads what it
    needs. Tasks appear on the dashboard as ``e_step``, and a fit is one span.

    Parameters
    ----------
    client : distributed.Client, optional
        By default the current one, which inside a task is the worker's own.

    Raises
    ------
    ValueError
        If there is no client.
    RuntimeError
        If the workers lack this package, or have another version of it.

    Examples
    --------
    >>> from distributed import Client
    >>> from dask_em import GaussianMixture
    >>> from dask_em.transports import Futures
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> with Client(processes=False, n_workers=2, dashboard_address=":0") as client:
    ...     fit = GaussianMixture(2, transport=Futures(client), random_state=0).fit(X)
    >>> fit.converged_
    True
    """

    _slots: tuple[str, ...] = ()

    def __init__(self, client: Client | None = None) -> None:
        self._given = client

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return "Futures()"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the client behind: it cannot travel."""
        return {"_given": None}

    def __deepcopy__(self, memo: Any) -> Any:
        """Share the client with a copy in this process, as `sklearn.clone` makes."""
        return type(self)(self._given)

    # ------------------------------------------------------------ the loop

    def drive(
        self,
        fit: Callable[[], Coroutine[Any, Any, R]],
        interrupt: Callable[[], None],
    ) -> R | Awaitable[R]:
        """Run the fit on the client's loop."""

        def use(client: Client) -> None:
            self._client = client

        return drive(self._given, "futures", use, fit, interrupt)

    def peers(self) -> TaskPeers:
        """Return what carries messages between workers as tasks."""
        from .peers.tasks import TaskPeers

        return TaskPeers(self._given)

    # ------------------------------------------------------------- the data

    def n_workers_expected(self) -> int:
        """Return the number of the workers' threads that the client has heard of."""
        client = self._given or the_client()
        workers = client.scheduler_info(n_workers=-1).get("workers", {})
        return sum(worker["nthreads"] for worker in workers.values())

    async def open(
        self, data: Data, n_shards: int | None, *, one_each: bool = False
    ) -> list[Piece]:
        """Make the data resident where there is room, and cut them."""
        self._fit = uuid.uuid4().hex[:8]
        with span(f"dask_em-{self._fit}"):
            # closing and opening a span makes a second one: keep what it annotates
            self._span = dask.get_annotations()["span"]
        self._events: asyncio.Queue[TransportEvent | None] = asyncio.Queue()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._background: set[asyncio.Task[Any]] = set()
        self._in_flight: dict[tuple[int, str], _Flight] = {}
        self._fetching: dict[Any, asyncio.Task[Any]] = {}
        self._params: dict[int, Any] = {}
        self._model_held: Any = None
        self._serial = itertools.count()
        self._quick = True
        self._states_kept = False
        self._data = data
        self._pieces: list[Piece] = []
        self._held: list[Any] = []
        self._moves: list[int] = []
        self._mending = asyncio.Lock()
        self._silent: frozenset[str] = frozenset()
        self._usable: set[str] = set()
        self._prepare: tuple[Any, Any] | None = None
        self._slots: tuple[str, ...] = ()
        self._persisted = isinstance(data, DaskData) and any(
            futures_of(a) for a in data.arrays if a is not None
        )
        self._spawn(self._watch_workers())
        self._slots = await self._wait_for_workers()
        await self._check_versions()
        resident = self._persisted or data.nbytes <= await self._room()
        # what has to be loaded every time is loaded bit by bit
        wanted = n_shards or len(self._slots) * (
            1 if one_each and resident else _PIECES
        )
        chunks: list[tuple[Any, Any, Any]] | None = None
        owners: list[str] | None = None
        if isinstance(data, DaskData) and resident:
            chunks = await self._persist(data)
            owners = await self._owners([triple[0] for triple in chunks])
        elif n_shards is None and isinstance(data, DaskData):
            # a chunk that is cut would be loaded by every task that needs a part
            wanted = min(wanted, sum(n > 0 for n in data.chunk_rows))
        pieces = cut(data.chunk_rows, wanted, data.row_nbytes, owners)
        self._pieces = self._with_slots(pieces)
        self._moves = [0] * len(pieces)
        if isinstance(data, MemoryData):
            self._held = await self._scatter_all(data)
        elif chunks is None:
            assert isinstance(data, DaskData)
            self._held = [data.recipe(piece) for piece in self._pieces]
        else:
            self._held = [
                await self._from_origin(piece.index, _address(piece.owner))
                if any(
                    f is not None and f.status != "finished"
                    for part in piece.parts
                    for f in chunks[part.chunk]
                )
                else self._assembled(piece, chunks)
                for piece in self._pieces
            ]
            await self._settle(range(len(self._held)))
        return self._pieces

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something beside the fit, whose errors end the fit."""
        task = asyncio.create_task(work)
        self._background.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            self._background.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self._break(task.exception())

        task.add_done_callback(ended)
        return task

    def _break(self, error: BaseException | None) -> None:
        """End the fit with an error that came up in the background."""
        if error is not None and not self._broken.done():
            if self._closed():  # then any error is but a consequence
                consequence, error = error, gone()
                error.__cause__ = consequence
            self._broken.set_exception(error)
            self._broken.exception()  # seen: `close` may come before anybody asks
            self._events.put_nowait(None)

    async def _unless_broken(self, work: Coroutine[Any, Any, R]) -> R:
        """Wait for something on the cluster, but not longer than there is one."""
        task = asyncio.ensure_future(work)
        try:
            both: set[asyncio.Future[Any]] = {task, self._broken}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._broken.result()
            return task.result()
        finally:
            task.add_done_callback(_seen)
            task.cancel()

    async def _wait_for_workers(self) -> tuple[str, ...]:
        """Return the slots, one per thread; wait for the first worker to come."""
        told = time.monotonic()
        call: Any = None
        while not self._slots:
            if self._broken.done():
                self._broken.result()
            if call is None and time.monotonic() >= told + 1:
                call = call_for_workers(self._client)
            if time.monotonic() >= told + 10:
                told = time.monotonic() + 20
                logger.warning("waiting for a Dask worker: the cluster has none")
            await asyncio.sleep(0.02)
        return self._slots

    async def _check_versions(self) -> None:
        """Raise unless all workers have this package, in this version."""
        found = await self._unless_broken(ask_versions(self._client, None))
        check_versions(found)
        self._usable.update(found)

    async def _room(self) -> float:
        """Return half of the workers' memory, in bytes."""
        identity = await self._unless_broken(
            self._client.scheduler.identity(n_workers=-1)
        )
        limits = [w["memory_limit"] for w in identity["workers"].values()]
        return float("inf") if not all(limits) else sum(limits) / 2

    async def _persist(self, data: DaskData) -> list[tuple[Any, Any, Any]]:
        """Compute the chunks on the workers; return the futures of X, y, weights."""
        for attempt in itertools.count(1):
            columns: list[list[Any]] = []
            with dask.annotate(span=self._span):
                persisted = self._client.persist(
                    [a for a in data.arrays if a is not None]
                )
            found = iter(persisted)
            for array in data.arrays:
                columns.append(
                    [None] * len(data.chunk_rows)
                    if array is None
                    else futures_of(next(found))
                )
            chunks = list(zip(*columns, strict=True))
            futures = [f for triple in chunks for f in triple if f is not None]
            try:
                while not await self._unless_broken(_done_within(futures, _LOOK)):
                    if self._silent and self._replaceable:
                        break  # what is missing is made elsewhere, see `_assembled`
                for future in futures:
                    if future.status == "error":
                        await future
                return chunks
            except LOST as error:
                if cancelled() or any(_raised(f, error) for f in futures):
                    raise
                if self._persisted:
                    raise self._lost_for_good() from error
                if attempt == _ATTEMPTS:
                    raise self._given_up() from error
                logger.info("computing the data again: %r", error)
        raise AssertionError

    @staticmethod
    def _lost_for_good() -> RuntimeError:
        return RuntimeError(
            "the cluster has lost chunks that had been persisted on it, and cannot "
            "compute them again; persist the data again, or pass them lazily, and "
            "call fit again."
        )

    @staticmethod
    def _given_up() -> RuntimeError:
        return RuntimeError(
            f"the cluster has lost the same task {_ATTEMPTS} times in a row; see the "
            "workers' logs: the model or its memory may be what kills them."
        )

    async def _owners(self, futures: Sequence[Any]) -> list[str]:
        """Return the address of a worker that holds each future."""
        who_has = await self._unless_broken(self._client.who_has(list(futures)))
        here = [_address(slot) for slot in await self._wait_for_workers()]
        heard = [a for a in here if a not in self._silent] or here
        return [
            next(
                (a for a in who_has.get(f.key) or () if a not in self._silent),
                heard[i % len(heard)],
            )
            for i, f in enumerate(futures)
        ]

    def _with_slots(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Name as the owner of each piece a thread of the worker that has it."""
        by_address: dict[str, list[str]] = {}
        for slot in self._slots:
            by_address.setdefault(_address(slot), []).append(slot)
        turns = {a: itertools.cycle(slots) for a, slots in by_address.items()}
        if all(piece.owner in turns for piece in pieces):
            # neighbours in turn: every thread gets as many as the others
            return [dataclasses.replace(p, owner=next(turns[p.owner])) for p in pieces]
        n = len(pieces)
        return [
            dataclasses.replace(p, owner=self._slots[p.index * len(self._slots) // n])
            for p in pieces
        ]

    async def _scatter_all(self, data: MemoryData) -> list[Any]:
        """Send the pieces to their owners, a few messages at a time."""
        batches: list[list[int]] = []
        room: dict[str, int] = {}
        latest: dict[str, list[int]] = {}
        for piece in self._pieces:
            address = _address(piece.owner)
            room[address] = room.get(address, 0) - piece.nbytes
            if room[address] < 0:
                room[address] = _BATCH - piece.nbytes
                latest[address] = []
                batches.append(latest[address])
            latest[address].append(piece.index)
        held: list[Any] = [None] * len(self._pieces)
        at_once = asyncio.Semaphore(4)

        async def send(indices: list[int]) -> None:
            async with at_once:
                address = _address(self._pieces[indices[0]].owner)
                futures = await self._scatter(
                    [tasks.Blocks(data.load(self._pieces[i])) for i in indices], address
                )
            for i, future in zip(indices, futures, strict=True):
                held[i] = future

        await self._unless_broken(_gathered([send(batch) for batch in batches]))
        return held

    async def _scatter(self, values: list[Any], address: str) -> list[Any]:
        """Send values to a worker; to another one, should it go away meanwhile."""
        patience = 5 + sum(sizeof(value) for value in values) / 1e6
        for attempt in itertools.count():
            here = sorted({_address(s) for s in await self._wait_for_workers()})
            here = [a for a in here if a not in self._silent] or here
            if address not in here or attempt:
                address = here[(hash(address) + attempt) % len(here)]
            # never cancelled: the scheduler would finish it all the same, and nobody
            # would know of the data to let them go
            sending = asyncio.ensure_future(
                self._client.scatter(values, workers=[address], hash=False)
            )
            sending.add_done_callback(_seen)
            try:
                done, _ = await asyncio.wait({sending}, timeout=patience)
                if done:
                    return list(sending.result())
                raise TimeoutError(f"not sent in {patience:.0f} s")
            except (*LOST, OSError, KeyError, ValueError) as error:
                if cancelled() or attempt == _ATTEMPTS:
                    raise
                logger.info("sending data to %s failed: %r", address, error)
                await asyncio.sleep(_LOOK)
        raise AssertionError

    def _assembled(
        self,
        piece: Piece,
        chunks: Sequence[tuple[Any, Any, Any]],
        address: str | None = None,
    ) -> Any:
        return self._submit(
            tasks.assemble,
            piece.parts,
            self._persisted,
            *zip(*(chunks[part.chunk] for part in piece.parts), strict=True),
            key=(f"piece-{self._fit}", piece.index, next(self._serial)),
            address=address or _address(piece.owner),
        )

    async def _settle(self, indices: Iterable[int]) -> None:
        """Wait until pieces are where they should be; replace those that got lost."""
        indices = list(indices)
        lost = 0
        while True:
            await self._made(indices)
            futures = [f for i in indices if _is_future(f := self._held[i])]
            try:
                if not await self._unless_broken(_done_within(futures, _SILENCE)):
                    continue  # some may have been made anew meanwhile
            except LOST as error:
                if cancelled():
                    raise
                lost += 1
                if lost == _ATTEMPTS:
                    raise self._given_up() from error
            if not any(_is_lost(self._held[i]) for i in indices):
                return
            await self._restore(indices)

    async def _made(self, indices: Iterable[int]) -> None:
        """Wait for pieces that are being made anew."""
        for i in indices:
            while isinstance(making := self._held[i], asyncio.Task):
                await self._unless_broken(_ended(making))

    async def _restore(self, indices: Iterable[int]) -> None:
        """Make pieces anew that are lost for good, from where the data came from."""
        async with self._mending:
            for i in indices:
                held = self._held[i]
                if isinstance(held, asyncio.Task) or not _is_lost(held):
                    continue
                if held.status == "error" and _raised(
                    held, error := await _error_of(held)
                ):
                    raise error
                logger.info("piece %d was lost; making it again", i)
                slots = await self._wait_for_workers()
                owner = self._pieces[i].owner
                if owner not in slots:
                    owner = slots[i % len(slots)]
                self._held[i] = await self._from_origin(i, _address(owner))

    async def _from_origin(self, i: int, address: str) -> Any:
        """Make a piece anew on a worker: send it, or have it computed."""
        self._moves[i] = 0
        piece = self._pieces[i]
        if self._persisted:
            assert isinstance(self._data, DaskData)
            made = self._assembled(piece, await self._persist(self._data), address)
        elif isinstance(self._data, MemoryData):
            [made] = await self._scatter(
                [tasks.Blocks(self._data.load(piece))], address
            )
        else:
            assert isinstance(self._data, DaskData)
            made = self._submit(
                tasks.load,
                self._data.recipe(piece),
                key=(f"piece-{self._fit}", i, next(self._serial)),
                address=address,
            )
        if self._prepare is not None:
            made = self._prepared(i, made, address)
        return made

    def _submit(self, fn: Any, *args: Any, key: Any, address: str | None) -> Any:
        """Submit a task that prefers a worker, but survives it.

        What it depends on must be held until it is done: a release overtakes the
        task on its way to the scheduler.
        """
        restriction: dict[str, Any] = {}
        if address is not None:
            restriction = {"workers": [address], "allow_other_workers": True}
        with dask.annotate(span=self._span):
            return self._client.submit(fn, *args, key=key, pure=False, **restriction)

    # ------------------------------------------------------- before the loop

    async def map(
        self, fn: Callable[[Any, np.random.Generator], R], seed: int
    ) -> list[R]:
        """Run one task per slot over all the pieces it owns."""
        check_picklable(fn)
        by_owner: dict[str, list[int]] = {}
        for piece in self._pieces:
            by_owner.setdefault(piece.owner, []).append(piece.index)
        call = next(self._serial)
        results: list[Any] = [None] * len(self._pieces)

        async def over(indices: list[int]) -> None:
            for attempt in itertools.count(1):
                owner = await self._present_owner(indices)
                await self._made(indices)
                future = self._submit(
                    tasks.map_pieces,
                    fn,
                    seed,
                    indices,
                    *(self._held[i] for i in indices),
                    key=(f"survey-{self._fit}", call, next(self._serial)),
                    address=_address(owner),
                )
                try:
                    found = await self._outcome(future, indices)
                    break
                except LOST as error:
                    if cancelled() or _raised(future, error):
                        raise
                    if attempt == _ATTEMPTS:
                        raise self._given_up() from error
                    logger.info("asking again for pieces of %s: %r", owner, error)
                    await self._restore(indices)
                finally:
                    self._release(future)
            for index, result in zip(indices, found, strict=True):
                results[index] = result

        await self._unless_broken(
            _gathered([over(indices) for indices in by_owner.values()])
        )
        return results

    async def _present_owner(self, indices: Sequence[int]) -> str:
        """Return the owner of some pieces; a new one, if that has gone."""
        slots = await self._wait_for_workers()
        owner = self._pieces[indices[0]].owner
        if owner not in slots:
            owner = slots[indices[0] % len(slots)]
            for i in indices:
                self._pieces[i] = dataclasses.replace(self._pieces[i], owner=owner)
        return owner

    async def _outcome(self, future: Any, indices: Sequence[int]) -> Any:
        """Wait for a task on some pieces, while the worker that has them is heard."""
        while not await _done_within([future], _SILENCE):
            owners = {self._pieces[i].owner for i in indices}
            if not owners <= set(self._slots):
                raise CommClosedError("its worker has gone")
            silent = [
                i for i in indices if _address(self._pieces[i].owner) in self._silent
            ]
            heard = [s for s in self._slots if _address(s) not in self._silent]
            if silent and heard and self._replaceable:
                owner = heard[silent[0] % len(heard)]
                for i in silent:
                    self._pieces[i] = dataclasses.replace(self._pieces[i], owner=owner)
                    self._make_anew(i, _address(owner))
                raise CommClosedError("its worker has fallen silent")
        return await self._fetched(future)

    async def _fetched(self, future: Any) -> Any:
        """Return the result of a task that is done.

        The client fetches many results at once; one worker that does not answer
        must not hold back those of the others.
        """
        if future.status != "finished":  # it got lost again, and is being recomputed
            await _all_done([future])
        key = future.key
        # Never cancelled: those who gather at the same time share one request of the
        # client, which would be cancelled for all of them, and if it has not yet gone
        # out, for all later ones as well.
        together = asyncio.ensure_future(_value_of(future))
        self._fetching[key] = together
        together.add_done_callback(lambda task: self._arrived(key, task))
        fetching = {together}
        try:
            done, _ = await asyncio.wait(fetching, timeout=_HUNG)
            if not done:
                alone = self._client.scheduler.gather(keys=[key])
                fetching.add(asyncio.ensure_future(_from_response(alone, key)))
                done, _ = await asyncio.wait(
                    fetching, return_when=asyncio.FIRST_COMPLETED
                )
            return done.pop().result()
        finally:
            for task in fetching - {together}:
                task.add_done_callback(_seen)
                task.cancel()

    def _arrived(self, key: Any, task: asyncio.Task[Any]) -> None:
        _seen(task)
        self._fetching.pop(key, None)

    def _release(self, future: Any) -> None:
        """Let go of a task's result, once nobody is about to fetch it."""
        fetching = self._fetching.get(future.key)
        if fetching is None:
            future.release()
        else:
            fetching.add_done_callback(lambda _: future.release())

    @property
    def _replaceable(self) -> bool:
        """Whether pieces can be made anew without the workers that hold them."""
        return not self._persisted

    async def prepare(self, model: Model[Any, Any], summary: Any) -> None:
        """Replace the pieces by what the model prepares from them."""
        self._prepare = (model, summary)
        self._held = [
            self._prepared(i, piece, _address(self._pieces[i].owner))
            for i, piece in enumerate(self._held)
        ]
        await self._settle(range(len(self._held)))

    def _prepared(self, i: int, piece: Any, address: str) -> Any:
        assert self._prepare is not None
        model, summary = self._prepare
        if isinstance(piece, Recipe):
            return tasks.Lazily(piece, model, summary)
        made = self._submit(
            tasks.prepare_piece,
            model,
            summary,
            piece,
            key=(f"prepare-{self._fit}", i, next(self._serial)),
            address=address,
        )
        self._spawn(_hold(piece, made))
        return made

    # --------------------------------------------------------------- the loop

    def begin(self, model: Model[Any, Any], shards: Sequence[Shard]) -> None:
        """Take down what the shards are made of."""
        self._model = model
        self._model_nbytes = len(pickle.dumps(model))
        self._model_held = None
        self._shards = tuple(shards)
        self._run = next(self._serial)
        self._losses: dict[int, int] = {}
        self._visited: set[int] = set()
        #: Workers that have the latent states of shards.
        self._state_at: dict[int, str] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers' threads."""
        return self._slots

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    @property
    def round_trip(self) -> float:
        """What Dask takes, mostly the client's batching interval."""
        return 0.011

    @property
    def bandwidth(self) -> float:
        """What Dask assumes of the network."""
        from dask.utils import parse_bytes

        return float(parse_bytes(dask.config.get("distributed.scheduler.bandwidth")))

    def shards_per_worker(self, seconds: float) -> int:
        """Return as many as keep an E-step above some 50 ms, up to 16.

        With many workers it is fewer, lest the manager be flooded with reports.
        """
        by_rate = seconds * _RATE / len(self._slots)
        return int(np.clip(min(seconds / _GRAIN, by_rate), 1, _PIECES))

    def submit(self, e_step: EStep) -> None:
        """Send out a task."""
        flight = _Flight(e_step, self.now())
        self._in_flight[e_step.shard, e_step.worker] = flight
        flight.task = self._spawn(self._fly(flight))

    async def _fly(self, flight: _Flight) -> None:
        """Send out a task, wait for it, and put its outcome into the queue."""
        e_step = flight.e_step
        event: TransportEvent
        try:
            await self._send(flight)
            await _all_done([flight.future])
            stats, restarted, keeper = await self._fetched(flight.future)
            self._losses.pop(e_step.shard, None)
            if keeper is not None:
                self._state_at[e_step.shard] = keeper
                self._states_kept = True
            self._visited.add(e_step.shard)
            event = Report(
                e_step.shard,
                e_step.worker,
                e_step.version,
                e_step.total is not None,
                stats,
                restarted,
            )
        except LOST as error:
            if cancelled():
                raise
            if self._closed():
                raise gone() from error
            if _raised(flight.future, error):
                event = Failure(e_step.shard, e_step.worker, error)
            else:
                logger.info("shard %d was lost: %r", e_step.shard, error)
                self._count_loss(e_step.shard)
                await self._restore(p.index for p in self._shards[e_step.shard].pieces)
                event = Failure(e_step.shard, e_step.worker)
        except Exception as error:
            if self._closed():
                raise gone() from error
            event = Failure(e_step.shard, e_step.worker, error)
        finally:
            if flight.future is not None:
                self._release(flight.future)
        self._in_flight.pop((e_step.shard, e_step.worker), None)
        self._forget_params()
        self._events.put_nowait(event)

    async def _send(self, flight: _Flight) -> None:
        e_step = flight.e_step
        indices = [p.index for p in self._shards[e_step.shard].pieces]
        await self._made(indices)
        params: Any = tasks.Opaque(e_step.params)
        if _nbytes(e_step.params) > _SMALL:
            params = self._params.get(e_step.version)
            if params is None or _is_lost(params):
                params = self._params[e_step.version] = self._submit(
                    tasks.identity,
                    tasks.Opaque(e_step.params),
                    key=(f"params-{self._fit}", e_step.version, next(self._serial)),
                    address=None,
                )
        model: Any = self._model
        if self._model_nbytes > _SMALL:  # once to every worker, not with every task
            if self._model_held is None or _is_lost(self._model_held):
                self._model_held = self._submit(
                    tasks.identity,
                    tasks.Opaque(model),
                    key=(f"model-{self._fit}", self._run, next(self._serial)),
                    address=None,
                )
            model = self._model_held
        flight.future = self._submit(
            tasks.e_step,
            model,
            dataclasses.replace(e_step, params=None),
            params,
            (self._fit, self._run, e_step.shard),
            e_step.shard in self._visited,
            self._keeper(e_step.shard),
            *(self._held[i] for i in indices),
            key=(
                f"e_step-{self._fit}",
                e_step.version,
                e_step.shard,
                next(self._serial),
            ),
            address=_address(e_step.worker),
        )

    def _keeper(self, shard: int) -> str | None:
        """Return the worker that has a shard's latent state, if it can be asked."""
        address = self._state_at.get(shard)
        here = {_address(slot) for slot in self._slots} - self._silent
        return address if address in here else None

    def _forget_params(self) -> None:
        """Let go of parameters older than any that is under way."""
        if len(self._params) > 1:
            needed = {f.e_step.version for f in self._in_flight.values()}
            needed.add(max(self._params))
            for version in [v for v in self._params if v not in needed]:
                del self._params[version]

    async def _watch_workers(self) -> None:
        """Report when workers come and go; notice a scheduler that has gone."""
        answered = self.now()
        while True:
            if self._closed():
                raise gone()
            try:
                async with asyncio.timeout(10):
                    threads = await self._client.nthreads()
                    await self._listen()
                answered = self.now()
            except (*LOST, OSError) as error:  # TimeoutError is one
                if cancelled():
                    raise
                if self.now() > answered + _SCHEDULER_GONE:
                    raise gone() from error
                logger.info("the scheduler does not answer: %r", error)
                await asyncio.sleep(_LOOK)
                continue
            if self._usable:  # later comers are asked what the first ones were
                threads = await self._admitted(threads)
            slots = _slots(threads)
            if set(slots) != set(self._slots):
                before = {_address(slot) for slot in self._slots}
                self._slots = slots
                for shard, worker in [k for k in self._in_flight if k[1] not in slots]:
                    self._count_loss(shard)
                    self.recall(shard, worker)
                if not before & {_address(slot) for slot in slots}:
                    self._remake(i for i, f in enumerate(self._held) if _is_pending(f))
                self._events.put_nowait(WorkersAre(slots))
            await asyncio.sleep(_LOOK)

    def _count_loss(self, shard: int) -> None:
        """Give up on a shard that takes every worker with it."""
        self._losses[shard] = self._losses.get(shard, 0) + 1
        if self._losses[shard] >= _ATTEMPTS:
            self._break(self._given_up())

    def _closed(self) -> bool:
        return self._client.status in ("closing", "closed")

    async def _admitted(self, threads: dict[str, int]) -> dict[str, int]:
        """Leave out newcomers without this package, or with another version."""
        from .. import __version__

        new = [a for a in threads if a not in self._usable]
        if new:
            found = await ask_versions(self._client, new)
            for address in new:
                version = found.get(address, __version__)
                if version != __version__ and not isinstance(version, Exception):
                    logger.warning(
                        "leaving out worker %s: it has dask_em %s, this process %s",
                        address,
                        version,
                        __version__,
                    )
                else:
                    self._usable.add(address)
        return {a: n for a, n in threads.items() if a in self._usable}

    async def _listen(self) -> None:
        """Find out who has fallen silent, if anybody keeps us waiting.

        Nothing is taken away from such a worker, but what waits for a copy of its
        data gets them from where the data came from.
        """
        now = self.now()
        late = [f for f in self._in_flight.values() if now > f.since + _SILENCE]
        mapping = not self._in_flight
        if not late and not mapping:
            self._silent = frozenset()
            return
        if now < self._listened + _SILENCE / 4:
            return
        self._listened = now
        identity = await self._client.scheduler.identity(n_workers=-1)
        seen = {a: w["last_seen"] for a, w in identity["workers"].items()}
        latest = max(seen.values(), default=0.0)
        limit = max(_SILENCE, len(seen) / 20)
        self._silent = frozenset(a for a, t in seen.items() if t < latest - limit)
        waited_for = [
            p.index
            for flight in late
            if _address(flight.e_step.worker) not in self._silent
            for p in self._shards[flight.e_step.shard].pieces
        ]
        pending = {
            f.key: i
            for i in waited_for or range(len(self._held))
            if _is_pending(f := self._held[i])
        }
        if pending and self._silent and self._replaceable:
            self._remake(pending.values())
        elif pending:
            states = await self._client.scheduler.get_task_status(keys=list(pending))
            self._remake(i for k, i in pending.items() if states[k] == "no-worker")

    _listened = float("-inf")

    def _remake(self, indices: Iterable[int]) -> None:
        """Make pieces anew that would never come, and send again what needs them.

        For instance, Dask does not get back to a task that prefers a worker, when
        this one has gone and for a moment there was no other.
        """
        chosen = set(indices)
        heard = [s for s in self._slots if _address(s) not in self._silent]
        if not chosen or not heard:
            return
        logger.info("making pieces %s anew", sorted(chosen))
        for i in chosen:
            owner = self._pieces[i].owner
            if owner not in heard:
                owner = heard[i % len(heard)]
            self._make_anew(i, _address(owner))
        for flight in list(self._in_flight.values()):
            e_step = flight.e_step
            if chosen & {p.index for p in self._shards[e_step.shard].pieces}:
                self.recall(e_step.shard, e_step.worker)
                self.submit(e_step)

    def _make_anew(self, i: int, address: str) -> None:
        async def make() -> None:
            self._held[i] = await self._from_origin(i, address)

        self._held[i] = self._spawn(make())

    def recall(self, shard: int, worker: str) -> None:
        """Let go of a task; Dask drops it, if it has not begun."""
        flight = self._in_flight.pop((shard, worker), None)
        if flight is not None and flight.task is not None:
            flight.task.cancel()
            if flight.future is not None:
                self._release(flight.future)

    def move(self, shard: int, src: str, dst: str) -> None:
        """Copy a shard's pieces to another worker, and let go of the originals."""
        address, source = _address(dst), _address(src)
        if source == address:
            return
        for i in (p.index for p in self._shards[shard].pieces):
            held = self._held[i]
            if not _is_future(held):
                continue
            anew = source in self._silent or self._moves[i] >= _CHAIN
            if anew and self._replaceable:
                self._make_anew(i, address)
                continue
            self._moves[i] += 1
            self._held[i] = self._submit(
                tasks.identity,
                held,
                key=(f"piece-{self._fit}", i, next(self._serial)),
                address=address,
            )
            self._spawn(_hold(held, self._held[i]))

    async def receive(self, until: float | None) -> list[TransportEvent]:
        """Wait for reports."""
        events: list[TransportEvent | None] = []
        if self._events.empty():
            timeout = 0.25 if until is None else min(max(until - self.now(), 0), 0.25)
            try:
                async with asyncio.timeout(timeout):
                    events.append(await self._events.get())
            except TimeoutError:
                return []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        if self._broken.done():
            self._broken.result()
        return [event for event in events if event is not None]

    async def call(self, fn: Callable[[], R]) -> R:
        """Run it here, or in a thread once it has taken longer than 20 ms."""
        began = time.perf_counter()
        result = fn() if self._quick else await asyncio.to_thread(fn)
        self._quick = time.perf_counter() - began < 0.02
        return result

    async def consult(self, fn: Callable[[], R]) -> R:
        """Run it in a thread: it may want the client's loop for itself."""
        return await asyncio.to_thread(fn)

    def cancel(self) -> None:
        """Let go of all tasks under way."""
        for shard, worker in list(self._in_flight):
            self.recall(shard, worker)
        self._params.clear()
        self._model_held = None
        waiting = []
        while not self._events.empty():
            event = self._events.get_nowait()
            if event is None or isinstance(event, WorkersAre):
                waiting.append(event)
        for event in waiting:
            self._events.put_nowait(event)

    async def close(self) -> None:
        """Let go of everything on the cluster."""
        if not hasattr(self, "_background"):
            return
        self.cancel()
        background = list(self._background)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for held in self._held:
            if _is_future(held):
                held.release()
        self._held = []
        self._prepare = None
        if self._states_kept:
            fit = self._fit

            def forget() -> None:
                from dask_em.transports import tasks

                tasks.forget_states(fit)

            await tidy_up(self._client, forget)


# ----------------------------------------------------------------- on the client


def _slots(nthreads: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"{a}#{i}" for a, n in sorted(nthreads.items()) for i in range(n))


def _address(slot: str) -> str:
    return slot.rpartition("#")[0]


def _is_future(held: Any) -> bool:
    return isinstance(held, Future)


def _is_pending(held: Any) -> bool:
    return _is_future(held) and held.status == "pending"


def _is_lost(held: Any) -> bool:
    return _is_future(held) and held.status in ("cancelled", "lost", "error")


def _raised(future: Any, error: BaseException) -> bool:
    """Whether an error is the task's own, and not that of the cluster around it."""
    if isinstance(error, (KilledWorker, NoValidWorkerError)):
        return False
    return _is_future(future) and future.status == "error"


async def _ended(task: asyncio.Task[Any]) -> None:
    await asyncio.wait({task})


async def _all_done(futures: Sequence[Any]) -> None:
    """Wait for tasks to end, well or in error; raise if one is cancelled."""
    for future in futures:
        await future.exception()
        if future.cancelled():
            raise CancelledError(future.key)


async def _done_within(futures: Sequence[Any], seconds: float) -> bool:
    """Whether tasks are done by then; raise if one is cancelled."""
    waiting = asyncio.ensure_future(_all_done(futures))
    try:
        done, _ = await asyncio.wait({waiting}, timeout=seconds)
        return bool(done) and waiting.result() is None
    finally:
        waiting.add_done_callback(_seen)
        waiting.cancel()


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at the outcome of a task that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


async def _value_of(future: Any) -> Any:
    return await future


async def _error_of(future: Any) -> BaseException:
    error = await future.exception()
    assert error is not None
    return error


async def _from_response(response: Awaitable[Any], key: Any) -> Any:
    answer = await response
    if answer["status"] != "OK":
        raise CommClosedError("the result is gone")
    return answer["data"][key]


async def _hold(old: Any, new: Any) -> None:
    """Keep a future until what was made of it is there."""
    try:
        await _all_done([new])
    except LOST:
        if cancelled():
            raise
    finally:
        old.release()


async def _gathered(work: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Do several things at once; the first error ends them all."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        for task in asyncio.as_completed(tasks):
            await task
    finally:
        for unfinished in tasks:
            unfinished.add_done_callback(_seen)
            unfinished.cancel()


def _nbytes(params: Any) -> int:
    return sum(
        np.asarray(getattr(params, f.name)).nbytes for f in dataclasses.fields(params)
    )
