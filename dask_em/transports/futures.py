"""Dask tasks: the default where there is a client."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import dask
import numpy as np
from dask.sizeof import sizeof
from distributed import (
    Client,
    KilledWorker,
    futures_of,
    get_client,
    get_worker,
    span,
    wait,
    worker_client,
)
from distributed.comm import CommClosedError
from distributed.scheduler import NoValidWorkerError

from ..model import Block, Model
from ..sharding import DaskData, Data, MemoryData, Part, Piece, Recipe, Shard, cut
from .base import (
    EStep,
    Failure,
    Report,
    Transport,
    TransportEvent,
    WorkersAre,
    apply_to_piece,
    execute,
)
from .runner import run

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
#: Errors that are the cluster's, not the model's.
_LOST = (
    KilledWorker,
    NoValidWorkerError,
    CancelledError,
    asyncio.CancelledError,
    CommClosedError,
    ConnectionError,
)


@sizeof.register(Block)
def _sizeof_block(block: Block) -> int:
    return block.nbytes


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
    >>> with Client(processes=False, n_workers=2, dashboard_address=None) as client:
    ...     fit = GaussianMixture(2, transport=Futures(client), random_state=0).fit(X)
    >>> fit.converged_
    True
    """

    def __init__(self, client: Client | None = None) -> None:
        self._given = client

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return "Futures()"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the client behind: it cannot travel."""
        return {"_given": None}

    # ------------------------------------------------------------ the loop

    def drive(
        self,
        fit: Callable[[], Coroutine[Any, Any, R]],
        interrupt: Callable[[], None],
    ) -> R | Awaitable[R]:
        """Run the fit on the client's loop."""
        if self._given is None and _in_task():
            with worker_client() as client:  # leaves the thread pool for so long
                self._client = client
                return run(fit, client.loop.asyncio_loop, interrupt)
        self._client = self._given or _the_client()
        if self._client.asynchronous:
            return fit()
        return run(fit, self._client.loop.asyncio_loop, interrupt)

    # ------------------------------------------------------------- the data

    async def open(self, data: Data, n_shards: int | None) -> list[Piece]:
        """Make the data resident where there is room, and cut them."""
        self._fit = uuid.uuid4().hex[:8]
        with span(f"dask_em-{self._fit}"):
            # closing and opening a span makes a second one: keep what it annotates
            self._span = dask.get_annotations()["span"]
        self._events: asyncio.Queue[TransportEvent] = asyncio.Queue()
        self._in_flight: dict[tuple[int, str], tuple[asyncio.Task[None], Any]] = {}
        self._params: dict[int, Any] = {}
        self._serial = itertools.count()
        self._quick = True
        self._states_kept = False
        self._data = data
        self._piece_futures: list[Any] = []
        self._slots = await self._wait_for_workers()
        await self._check_versions()
        resident = data.nbytes <= await self._room()
        chunks: list[tuple[Any, Any, Any]] | None = None
        owners: list[str] | None = None
        if isinstance(data, DaskData) and resident:
            chunks = await self._persist(data)
            owners = await self._owners([triple[0] for triple in chunks])
        wanted = n_shards or len(self._slots) * _PIECES
        pieces = cut(data.chunk_rows, wanted, data.row_nbytes, owners)
        self._pieces = self._with_slots(pieces)
        for piece in self._pieces:
            self._piece_futures.append(await self._materialise(piece, chunks))
        if resident:
            await wait(self._piece_futures)
        self._watcher = asyncio.create_task(self._watch_workers())
        return self._pieces

    async def _wait_for_workers(self) -> tuple[str, ...]:
        """Return the slots, one per thread; wait for the first worker to come."""
        told = 0.0
        while True:
            slots = _slots(await self._client.nthreads())
            if slots:
                return slots
            if time.monotonic() >= told + 30:
                told = time.monotonic()
                logger.warning("waiting for a Dask worker: the cluster has none")
            await asyncio.sleep(_LOOK)

    async def _check_versions(self) -> None:
        """Raise unless all workers have this package, in this version."""
        from .. import __version__

        def probe() -> str | None:  # nested, so it travels by value
            try:
                import dask_em
            except ImportError:
                return None
            return str(dask_em.__version__)

        try:
            async with asyncio.timeout(20):
                found = await self._client.run(probe, on_error="return")
        except TimeoutError:
            logger.warning("some workers did not say which version they have")
            return
        missing = [a for a, v in found.items() if v is None]
        if missing:
            raise RuntimeError(
                f"dask_em is not installed on {len(missing)} of {len(found)} workers "
                f"(for instance {missing[0]}); install it there, in the version "
                f"{__version__} of this process, and restart them."
            )
        others = {v for v in found.values() if isinstance(v, str)} - {__version__}
        if others:
            raise RuntimeError(
                f"workers have dask_em {', '.join(sorted(others))} but this process "
                f"has {__version__}; install the same version everywhere."
            )

    async def _room(self) -> float:
        """Return half of the workers' memory, in bytes."""
        identity = await self._client.scheduler.identity(n_workers=-1)
        limits = [w["memory_limit"] for w in identity["workers"].values()]
        return float("inf") if not all(limits) else sum(limits) / 2

    async def _persist(self, data: DaskData) -> list[tuple[Any, Any, Any]]:
        """Compute the chunks on the workers; return the futures of X, y, weights."""
        columns: list[list[Any]] = []
        with dask.annotate(span=self._span):
            persisted = self._client.persist([a for a in data.arrays if a is not None])
        found = iter(persisted)
        for array in data.arrays:
            columns.append(
                [None] * len(data.chunk_rows)
                if array is None
                else futures_of(next(found))
            )
        chunks = list(zip(*columns, strict=True))
        for future in (f for triple in chunks for f in triple if f is not None):
            await wait(future)
            if future.status == "error":
                await future  # raises what computing the chunk raised
        return chunks

    async def _owners(self, futures: Sequence[Any]) -> list[str]:
        """Return the address of a worker that holds each future."""
        who_has = await self._client.who_has(list(futures))
        anyone = self._slots[0].rpartition("#")[0]
        return [next(iter(who_has.get(f.key) or [anyone])) for f in futures]

    def _with_slots(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Name as the owner of each piece a thread of the worker that has it."""
        by_address: dict[str, list[str]] = {}
        for slot in self._slots:
            by_address.setdefault(slot.rpartition("#")[0], []).append(slot)
        turns = {a: itertools.cycle(slots) for a, slots in by_address.items()}
        if all(piece.owner in turns for piece in pieces):
            # neighbours in turn: every thread gets as many as the others
            return [
                dataclasses.replace(p, owner=next(turns[p.owner])) for p in pieces
            ]
        n = len(pieces)
        return [
            dataclasses.replace(p, owner=self._slots[p.index * len(self._slots) // n])
            for p in pieces
        ]

    async def _materialise(
        self, piece: Piece, chunks: Sequence[tuple[Any, Any, Any]] | None
    ) -> Any:
        """Return a future of a piece's blocks, or the recipe to compute them."""
        address = piece.owner.rpartition("#")[0]
        if isinstance(self._data, MemoryData):
            blocks = self._data.load(piece)
            return await self._client.scatter(
                _Blocks(blocks), workers=[address], hash=False
            )
        assert isinstance(self._data, DaskData)
        if chunks is None:
            return self._data.recipe(piece)
        return self._submit(
            _assemble,
            piece.parts,
            *zip(*(chunks[part.chunk] for part in piece.parts), strict=True),
            key=(f"piece-{self._fit}", piece.index, next(self._serial)),
            address=address,
        )

    def _submit(self, fn: Any, *args: Any, key: Any, address: str | None) -> Any:
        """Submit a task that prefers a worker, but survives it."""
        restriction = (
            {} if address is None else {"workers": [address], "allow_other_workers": True}
        )
        with dask.annotate(span=self._span):
            return self._client.submit(fn, *args, key=key, pure=False, **restriction)

    # ------------------------------------------------------- before the loop

    async def map(
        self, fn: Callable[[Any, np.random.Generator], R], seed: int
    ) -> list[R]:
        """Run one task per slot over all the pieces it owns."""
        by_owner: dict[str, list[int]] = {}
        for piece in self._pieces:
            by_owner.setdefault(piece.owner, []).append(piece.index)
        groups = list(by_owner.items())
        call = next(self._serial)

        def send(owner: str, indices: list[int]) -> Any:
            return self._submit(
                _map_pieces,
                fn,
                seed,
                indices,
                *(self._piece_futures[i] for i in indices),
                key=(f"survey-{self._fit}", call, next(self._serial)),
                address=owner.rpartition("#")[0],
            )

        futures = [send(*group) for group in groups]
        results: list[Any] = [None] * len(self._pieces)
        for (owner, indices), future in zip(groups, futures, strict=True):
            for attempt in itertools.count(1):
                try:
                    found = await self._client.gather(future)
                    break
                except _LOST as error:
                    if attempt == 10 or _cancelled():
                        raise
                    logger.info("asking again for pieces of %s: %r", owner, error)
                    await self._restore_lost(indices)
                    future = send(owner, indices)
            for index, result in zip(indices, found, strict=True):
                results[index] = result
        return results

    async def _restore_lost(self, indices: Sequence[int]) -> None:
        """Scatter again what came from this process and died with its worker."""
        if not isinstance(self._data, MemoryData):
            return
        slots = await self._wait_for_workers()
        for i in indices:
            if self._piece_futures[i].status in ("cancelled", "lost"):
                piece = self._pieces[i]
                if piece.owner not in slots:
                    piece = dataclasses.replace(piece, owner=slots[i % len(slots)])
                self._piece_futures[i] = await self._materialise(piece, None)
                if self._prepare is not None:
                    self._piece_futures[i] = self._prepared(i, *self._prepare)

    _prepare: tuple[Model[Any, Any], Any] | None = None

    async def prepare(self, model: Model[Any, Any], summary: Any) -> None:
        """Replace the pieces by what the model prepares from them."""
        self._prepare = (model, summary)
        self._piece_futures = [
            self._prepared(i, model, summary) for i in range(len(self._pieces))
        ]
        await wait([f for f in self._piece_futures if not isinstance(f, _Lazily)])

    def _prepared(self, i: int, model: Model[Any, Any], summary: Any) -> Any:
        piece = self._piece_futures[i]
        if isinstance(piece, Recipe):
            return _Lazily(piece, model, summary)
        return self._submit(
            _prepare_piece,
            model,
            summary,
            piece,
            key=(f"prepare-{self._fit}", i, next(self._serial)),
            address=self._pieces[i].owner.rpartition("#")[0],
        )

    # --------------------------------------------------------------- the loop

    def begin(self, model: Model[Any, Any], shards: Sequence[Shard]) -> None:
        """Take down what the shards are made of."""
        self._model = model
        self._shards = tuple(shards)
        self._run = next(self._serial)
        self._visited: set[int] = set()

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
        pieces = [
            self._piece_futures[p.index] for p in self._shards[e_step.shard].pieces
        ]
        params: Any = e_step.params
        if _nbytes(params) > _SMALL:
            if e_step.version not in self._params:
                self._params[e_step.version] = self._submit(
                    _identity,
                    _Opaque(params),
                    key=(f"params-{self._fit}", self._run, e_step.version),
                    address=None,
                )
            params = self._params[e_step.version]
        future = self._submit(
            _e_step,
            self._model,
            dataclasses.replace(e_step, params=None),
            params if e_step.params is not params else _Opaque(params),
            (self._fit, self._run, e_step.shard),
            e_step.shard in self._visited,
            *pieces,
            key=(f"e_step-{self._fit}", e_step.version, e_step.shard, next(self._serial)),
            address=e_step.worker.rpartition("#")[0],
        )
        watcher = asyncio.create_task(self._watch(e_step, future))
        self._in_flight[e_step.shard, e_step.worker] = (watcher, future)
        self._forget_params()

    def _forget_params(self) -> None:
        """Let go of parameters older than any that is under way."""
        if len(self._params) > 2:
            needed = {f.key[1] for _, f in self._in_flight.values()}
            newest = max(self._params)
            for version in [v for v in self._params if v not in needed]:
                if version != newest:
                    del self._params[version]

    async def _watch(self, e_step: EStep, future: Any) -> None:
        """Wait for a task and put its outcome into the queue."""
        event: TransportEvent
        try:
            stats, restarted, kept = await self._client.gather(future)
            self._states_kept |= kept
            self._visited.add(e_step.shard)
            event = Report(
                e_step.shard,
                e_step.worker,
                e_step.version,
                e_step.total is not None,
                stats,
                restarted,
            )
        except _LOST as error:
            if _cancelled():
                raise
            logger.info("shard %d was lost: %r", e_step.shard, error)
            await self._restore_lost(
                [p.index for p in self._shards[e_step.shard].pieces]
            )
            event = Failure(e_step.shard, e_step.worker)
        except Exception as error:
            event = Failure(e_step.shard, e_step.worker, error)
        self._in_flight.pop((e_step.shard, e_step.worker), None)
        self._events.put_nowait(event)

    async def _watch_workers(self) -> None:
        """Report when workers come and go; drop what was under way on the gone."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                async with asyncio.timeout(10):
                    slots = _slots(await self._client.nthreads())
            except (TimeoutError, OSError, CommClosedError) as error:
                logger.info("the scheduler does not answer: %r", error)
                continue
            if set(slots) == set(self._slots):
                continue
            self._slots = slots
            for shard, worker in [k for k in self._in_flight if k[1] not in slots]:
                self.recall(shard, worker)
            self._events.put_nowait(WorkersAre(slots))

    def recall(self, shard: int, worker: str) -> None:
        """Let go of a task; Dask drops it, if it has not begun."""
        watcher, future = self._in_flight.pop((shard, worker), (None, None))
        if watcher is not None:
            watcher.cancel()
            future.release()

    def move(self, shard: int, src: str, dst: str) -> None:
        """Copy a shard's pieces to another worker, and let go of the originals."""
        address = dst.rpartition("#")[0]
        if src.rpartition("#")[0] == address:
            return
        for piece in self._shards[shard].pieces:
            held = self._piece_futures[piece.index]
            if not isinstance(held, (Recipe, _Lazily)):
                self._piece_futures[piece.index] = self._submit(
                    _identity,
                    held,
                    key=(f"piece-{self._fit}", piece.index, next(self._serial)),
                    address=address,
                )

    async def receive(self, until: float | None) -> list[TransportEvent]:
        """Wait for reports."""
        if self._events.empty():
            timeout = 0.25 if until is None else min(max(until - self.now(), 0), 0.25)
            try:
                async with asyncio.timeout(timeout):
                    events = [await self._events.get()]
            except TimeoutError:
                return []
        else:
            events = [self._events.get_nowait()]
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

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
        waiting = []
        while not self._events.empty():
            event = self._events.get_nowait()
            if isinstance(event, WorkersAre):
                waiting.append(event)
        for event in waiting:
            self._events.put_nowait(event)

    async def close(self) -> None:
        """Let go of everything on the cluster."""
        if not hasattr(self, "_fit"):
            return
        if hasattr(self, "_watcher"):
            self._watcher.cancel()
        self.cancel()
        self._piece_futures = []
        self._prepare = None
        if self._states_kept:
            fit = self._fit

            def forget() -> None:
                from dask_em.transports import futures

                futures.forget_states(fit)

            await self._client.run(forget)


# ----------------------------------------------------------------- on the client


def _slots(nthreads: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"{a}#{i}" for a, n in sorted(nthreads.items()) for i in range(n))


def _in_task() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _the_client() -> Client:
    try:
        return get_client()
    except ValueError:
        raise ValueError(
            "transport='futures' needs a Dask client; create one first with "
            "distributed.Client(), or use transport='local'."
        ) from None


def _cancelled() -> bool:
    """Whether it is this asyncio task that was cancelled, not a Dask future."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _nbytes(params: Any) -> int:
    return sum(
        np.asarray(getattr(params, f.name)).nbytes for f in dataclasses.fields(params)
    )


# ---------------------------------------------------------------- on the workers


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The blocks of a piece, opaque to Dask."""

    blocks: list[Any]


@sizeof.register(_Blocks)
def _sizeof_blocks(blocks: _Blocks) -> int:
    return sum(sizeof(b) for b in blocks.blocks)


@dataclasses.dataclass(frozen=True)
class _Opaque:
    """A value in which Dask is not to look for futures."""

    value: Any


@dataclasses.dataclass(frozen=True)
class _Lazily:
    """A recipe whose blocks are to be prepared every time."""

    recipe: Recipe
    model: Model[Any, Any]
    summary: Any

    def load(self) -> list[Any]:
        return [self.model.prepare(b, self.summary) for b in self.recipe.load()]


#: Latent states of shards on this worker, by (fit, run, shard).
_STATES: dict[tuple[str, int, int], Any] = {}


def forget_states(fit: str) -> None:
    """Drop the latent states of a fit from this worker."""
    for key in [k for k in _STATES if k[0] == fit]:
        _STATES.pop(key, None)


def _identity(value: R) -> R:
    return value


def _assemble(parts: Sequence[Part], *columns: Sequence[Any]) -> _Blocks:
    """Make blocks of chunks; a view where it can be one."""
    return _Blocks(
        [
            Block(*(None if c is None else np.asarray(c) for c in row)).rows(
                slice(part.start, part.stop)
            )
            for part, row in zip(parts, zip(*columns, strict=True), strict=True)
        ]
    )


def _loaded(piece: Any) -> list[Any]:
    return piece.blocks if isinstance(piece, _Blocks) else piece.load()


def _prepare_piece(model: Model[Any, Any], summary: Any, piece: _Blocks) -> _Blocks:
    return _Blocks([model.prepare(block, summary) for block in piece.blocks])


def _map_pieces(fn: Any, seed: int, indices: Sequence[int], *pieces: Any) -> list[Any]:
    return [
        apply_to_piece(fn, _loaded(piece), seed, index)
        for index, piece in zip(indices, pieces, strict=True)
    ]


def _e_step(
    model: Model[Any, Any],
    e_step: EStep,
    params: _Opaque,
    state_key: tuple[str, int, int],
    visited: bool,
    *pieces: Any,
) -> tuple[Any, bool, bool]:
    """Run an E-step; say whether latent state was lost, and whether there is any."""
    prepared = [block for piece in pieces for block in _loaded(piece)]
    local = _STATES.get(state_key)
    stats, state = execute(
        model, dataclasses.replace(e_step, params=params.value), prepared, local
    )
    if state is not None:
        _STATES[state_key] = state
    restarted = visited and local is None and state is not None
    return stats, restarted, state is not None

