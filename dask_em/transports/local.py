"""Threads of this process: the embedded default."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..kernels.threads import n_threads
from ..model import Model
from ..schedules.base import check_integer
from ..sharding import Data, Piece, Shard, cut
from .base import (
    EStep,
    Failure,
    Report,
    Transport,
    TransportEvent,
    apply_to_piece,
    execute,
)

if TYPE_CHECKING:
    from .peers.local import LocalPeers

__all__ = ["Local"]

R = TypeVar("R")

#: Numbers below which a second thread costs more than it brings.
_SMALL = 50_000


class Local(Transport):
    """Run E-steps on threads of this process.

    The kernels release the GIL, so threads use all cores. This is the default where
    there is no Dask client.

    Parameters
    ----------
    n_workers : int, optional
        Threads; by default as many as this process may use cores, and one for small
        data.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.transports import Local
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> GaussianMixture(2, transport=Local(2), random_state=0).fit(X).converged_
    True
    """

    def __init__(self, n_workers: int | None = None) -> None:
        if n_workers is not None:
            check_integer("n_workers", n_workers, 1)
        self.n_workers = n_workers

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"Local({'' if self.n_workers is None else self.n_workers})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave threads and data behind."""
        return {"n_workers": self.n_workers}

    def n_workers_expected(self) -> int:
        """Return the number of threads."""
        return self.n_workers or n_threads()

    def peers(self) -> LocalPeers:
        """Return what carries messages between nodes in threads."""
        from .peers.local import LocalPeers

        return LocalPeers(self.n_workers)

    async def open(
        self, data: Data, n_shards: int | None, *, one_each: bool = False
    ) -> list[Piece]:
        """Cut the data into views and start the threads."""
        small = data.n_rows * data.n_features <= _SMALL
        n_workers = self.n_workers or (1 if small else n_threads())
        self._names = tuple(f"thread-{i}" for i in range(n_workers))
        self._pools = {name: ThreadPoolExecutor(1, name) for name in self._names}
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[TransportEvent] = asyncio.Queue()
        self._generation = 0
        pieces = cut(data.chunk_rows, n_shards or n_workers, data.row_nbytes)
        self._pieces = [
            Piece(p.index, p.parts, p.nbytes, self._names[p.index % n_workers])
            for p in pieces
        ]
        self._blocks = await self._over_pieces(data.load)
        return self._pieces

    async def _over_pieces(self, fn: Callable[[Piece], R]) -> list[R]:
        return await asyncio.gather(
            *(
                self._loop.run_in_executor(self._pools[p.owner], fn, p)
                for p in self._pieces
            )
        )

    async def map(
        self, fn: Callable[[Any, np.random.Generator], R], seed: int
    ) -> list[R]:
        """Apply `fn` to all pieces, in the threads."""
        return await self._over_pieces(
            lambda p: apply_to_piece(fn, self._blocks[p.index], seed, p.index)
        )

    async def prepare(self, model: Model[Any, Any], summary: Any) -> None:
        """Prepare all pieces, in the threads."""
        self._blocks = await self._over_pieces(
            lambda p: [model.prepare(b, summary) for b in self._blocks[p.index]]
        )

    def begin(self, model: Model[Any, Any], shards: Sequence[Shard]) -> None:
        """Take down what the shards are made of."""
        self._model = model
        self._shards = [
            [block for piece in shard.pieces for block in self._blocks[piece.index]]
            for shard in shards
        ]
        self._local: dict[int, Any] = {}
        self._futures: dict[tuple[int, str], Future[Any]] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the threads."""
        return self._names

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.perf_counter()

    def submit(self, e_step: EStep) -> None:
        """Queue an E-step for its thread."""
        future = self._pools[e_step.worker].submit(
            self._run, e_step, self._generation, self._local
        )
        self._futures[e_step.shard, e_step.worker] = future

    def _run(self, e_step: EStep, generation: int, local: dict[int, Any]) -> None:
        event: TransportEvent
        try:
            stats, state = execute(
                self._model,
                e_step,
                self._shards[e_step.shard],
                local.get(e_step.shard),
            )
            if state is not None:
                local[e_step.shard] = state
            event = Report(
                e_step.shard,
                e_step.worker,
                e_step.version,
                e_step.total is not None,
                stats,
            )
        except Exception as error:
            event = Failure(e_step.shard, e_step.worker, error)
        self._loop.call_soon_threadsafe(self._deliver, event, generation)

    def _deliver(self, event: TransportEvent, generation: int) -> None:
        if generation == self._generation:
            self._events.put_nowait(event)

    def recall(self, shard: int, worker: str) -> None:
        """Cancel an E-step that its thread has not begun."""
        self._futures[shard, worker].cancel()

    def move(self, shard: int, src: str, dst: str) -> None:
        """Do nothing: threads share their memory."""

    async def receive(self, until: float | None) -> list[TransportEvent]:
        """Wait for reports."""
        if self._events.empty():
            timeout = 0.25 if until is None else min(max(until - self.now(), 0), 0.25)
            try:
                async with asyncio.timeout(timeout):
                    first = await self._events.get()
            except TimeoutError:
                return []
        else:
            first = self._events.get_nowait()
        events = [first]
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    async def call(self, fn: Callable[[], R]) -> R:
        """Run it here: this event loop serves nobody else."""
        return fn()

    def cancel(self) -> None:
        """Cancel what has not begun, and ignore what has."""
        self._generation += 1
        for future in self._futures.values():
            future.cancel()
        self._futures.clear()
        while not self._events.empty():
            self._events.get_nowait()

    async def close(self) -> None:
        """Stop the threads and let go of the data."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._blocks, self._shards, self._local = [], [], {}
