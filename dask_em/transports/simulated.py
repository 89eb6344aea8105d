"""A virtual clock: many workers in one process, with real numerics."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..model import Model
from ..schedules.base import check_fraction, check_integer
from ..sharding import Data, Piece, Shard, cut
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
from .timeline import Interval, Timeline, joined

if TYPE_CHECKING:
    from .peers.base import PeerTransport

__all__ = ["Fault", "Simulated"]

R = TypeVar("R")

#: Round trips that an E-step should take at least.
_TRIPS = 4


@dataclasses.dataclass(frozen=True)
class Fault:
    """A worker that dies, and perhaps comes back.

    Parameters
    ----------
    worker : int
        Number of the worker, from 0.
    at : float
        Virtual second at which it dies with everything it holds.
    back : float, optional
        Virtual second at which it is there again, empty.

    Raises
    ------
    ValueError
        If it would come back before it died.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.transports import Fault, Simulated
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> frail = Simulated(2, cost=4.0, faults=[Fault(0, at=1.0, back=3.0)])
    >>> GaussianMixture(2, transport=frail, random_state=0).fit(X).converged_
    True
    """

    worker: int
    at: float
    back: float | None = None

    def __post_init__(self) -> None:
        if self.at < 0 or (self.back is not None and self.back <= self.at):
            raise ValueError(
                "a worker dies at a time from 0 and comes back after that, got "
                f"{self!r}."
            )


@dataclasses.dataclass(slots=True)
class _SimulatedWorker:
    speed: float
    alive: bool = True
    queue: deque[EStep] = dataclasses.field(default_factory=deque)
    running: EStep | None = None
    holds: set[int] = dataclasses.field(default_factory=set)
    life: int = 0


class Simulated(Transport):
    """Run E-steps in this process, on a clock that only pretends.

    Every worker handles one E-step at a time. Statistics are computed for real, so
    parameters, bounds and the number of M-steps are what a cluster of such machines
    would produce; a thousand workers take seconds.

    Parameters
    ----------
    n_workers : int, default=16
    cost : float or callable, default=1.0
        Virtual seconds that an E-step over all of the data takes on one worker of
        speed 1 (a shard takes its share by rows), or a function from the number of
        rows of a shard to seconds.
    speeds : sequence of float, optional
        Speed of every worker; 0.1 is ten times slower than 1, which is the default.
    jitter : float, default=0.0
        Standard deviation of the logarithm of a random factor on every E-step.
    latency : float, default=0.0
        Seconds that a message takes each way.
    bandwidth : float, default=inf
        Bytes per second of messages and of moves of data.
    m_step_cost : float, default=0.0
        Virtual seconds of an M-step.
    faults : sequence of Fault, default=()
    loss : float, default=0.0
        Probability in [0, 1) that an E-step is lost and has to be sent out again.
    seed : int, default=0
        Of jitter and losses.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.transports import Simulated
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> slow = Simulated(n_workers=2, speeds=[1.0, 0.1])
    >>> fit = GaussianMixture(2, transport=slow, random_state=0).fit(X)
    >>> bool(fit.result_.trace.time[0] > 0)
    True
    """

    virtual = True

    def __init__(
        self,
        n_workers: int = 16,
        *,
        cost: float | Callable[[int], float] = 1.0,
        speeds: Sequence[float] | None = None,
        jitter: float = 0.0,
        latency: float = 0.0,
        bandwidth: float = float("inf"),
        m_step_cost: float = 0.0,
        faults: Sequence[Fault] = (),
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_integer("n_workers", n_workers, 1)
        if speeds is not None and (
            len(speeds) != n_workers or not all(s > 0 for s in speeds)
        ):
            raise ValueError(
                f"speeds must be {n_workers} numbers above 0, one per worker, got "
                f"{speeds!r}."
            )
        for name, value in {
            "cost": 0.0 if callable(cost) else cost,
            "jitter": jitter,
            "latency": latency,
            "m_step_cost": m_step_cost,
        }.items():
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        for fault in faults:
            if not 0 <= fault.worker < n_workers:
                raise ValueError(
                    f"{fault!r} is of a worker that is not there: there are "
                    f"{n_workers}, from 0."
                )
        if not bandwidth > 0:
            raise ValueError(f"bandwidth must be above 0, got {bandwidth}.")
        if loss:
            check_fraction("loss", loss)
            if loss == 1:
                raise ValueError("loss must be below 1: nothing would ever arrive.")
        self.n_workers = n_workers
        self.cost = cost
        self.speeds = None if speeds is None else tuple(speeds)
        self.jitter = jitter
        self.latency = latency
        self._bandwidth = bandwidth
        self.m_step_cost = m_step_cost
        self.faults = tuple(faults)
        self.loss = loss
        self.seed = seed

    def peers(self) -> PeerTransport:
        """Return what carries messages between simulated workers."""
        from .peers.simulated import SimulatedPeers

        return SimulatedPeers(self)

    def __repr__(self) -> str:
        """Return the call that makes it, with the main settings."""
        return f"Simulated({self.n_workers}, latency={self.latency})"

    def n_workers_expected(self) -> int:
        """Return the number of workers."""
        return self.n_workers

    async def open(
        self, data: Data, n_shards: int | None, *, one_each: bool = False
    ) -> list[Piece]:
        """Cut the data; consecutive pieces go to the same worker."""
        speeds = self.speeds or (1.0,) * self.n_workers
        self._names = tuple(f"worker-{i}" for i in range(self.n_workers))
        self._workers = {
            name: _SimulatedWorker(speed)
            for name, speed in zip(self._names, speeds, strict=True)
        }
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ready: list[TransportEvent] = []
        self._intervals: list[Interval] = []
        self._rng = np.random.default_rng(self.seed)
        self._generation = 0
        share = -(-data.n_rows // self.n_workers)
        self._share = (
            self.cost(share) if callable(self.cost) else self.cost / self.n_workers
        )
        wanted = n_shards or self.n_workers * (
            1 if one_each else self.shards_per_worker(self._share)
        )
        pieces = cut(data.chunk_rows, wanted, data.row_nbytes)
        self._pieces = [
            dataclasses.replace(
                p, owner=self._names[p.index * self.n_workers // len(pieces)]
            )
            for p in pieces
        ]
        self._n_rows = data.n_rows
        self._blocks = [data.load(p) for p in self._pieces]
        for fault in self.faults:
            name = self._names[fault.worker]
            self._at(fault.at, functools.partial(self._die, name))
            if fault.back is not None:
                self._at(fault.back, functools.partial(self._return, name))
        return self._pieces

    async def map(
        self, fn: Callable[[Any, np.random.Generator], R], seed: int
    ) -> list[R]:
        """Apply `fn` to all pieces, in no virtual time."""
        return [
            apply_to_piece(fn, blocks, seed, i) for i, blocks in enumerate(self._blocks)
        ]

    async def prepare(self, model: Model[Any, Any], summary: Any) -> None:
        """Prepare all pieces, in no virtual time."""
        self._blocks = [
            [model.prepare(block, summary) for block in blocks]
            for blocks in self._blocks
        ]

    def begin(self, model: Model[Any, Any], shards: Sequence[Shard]) -> None:
        """Place the shards on their owners."""
        self._model = model
        self._shards = tuple(shards)
        self._local: dict[int, Any] = {}
        self._visited: set[int] = set()
        for worker in self._workers.values():
            worker.holds = set()
        for shard in shards:
            self._workers[shard.owner].holds.add(shard.index)

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers that are alive."""
        return tuple(n for n in self._names if self._workers[n].alive)

    def now(self) -> float:
        """Seconds on the virtual clock."""
        return self._now

    @property
    def round_trip(self) -> float:
        """Two messages."""
        return 2 * self.latency

    @property
    def bandwidth(self) -> float:
        """Bytes per second, as given."""
        return self._bandwidth

    def shards_per_worker(self, seconds: float) -> int:
        """Return 8, enough to balance and to make M-steps often.

        Fewer, where an E-step would take less than a few round trips of virtual time.
        """
        grain = _TRIPS * self.round_trip
        return 8 if grain <= 0 else int(np.clip(self._share / grain, 1, 8))

    @property
    def timeline(self) -> Timeline:
        """What workers did in the last fit."""
        return joined(self._names, self._intervals)

    # ------------------------------------------------------------- the clock

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time, next(self._order), action))

    def submit(self, e_step: EStep) -> None:
        """Send the parameters to the worker."""
        arrival = self._now + self.latency + _size(e_step.params) / self._bandwidth
        generation = self._generation
        life = self._workers[e_step.worker].life

        def arrive() -> None:
            worker = self._workers[e_step.worker]
            if generation != self._generation:
                return
            if not worker.alive or worker.life != life:
                return  # the message finds nobody; the planner knows by then
            worker.queue.append(e_step)
            self._work(e_step.worker)

        self._at(arrival, arrive)

    def _work(self, name: str) -> None:
        """Let a worker begin the next E-step in its queue."""
        worker = self._workers[name]
        if worker.running is not None or not worker.queue or not worker.alive:
            return
        e_step = worker.queue.popleft()
        worker.running = e_step
        shard = self._shards[e_step.shard]
        seconds = (
            self.cost(shard.rows)
            if callable(self.cost)
            else self.cost * shard.rows / self._n_rows
        )
        seconds /= worker.speed
        if self.jitter:
            seconds *= float(np.exp(self.jitter * self._rng.standard_normal()))
        begins = self._now
        if e_step.shard not in worker.holds:
            begins += self.latency + shard.nbytes / self._bandwidth
            worker.holds.add(e_step.shard)
        if begins > self._now:
            self._intervals.append(Interval(name, "transfer", self._now, begins))
        kind = "work" if e_step.total is None else "extra"
        doing = Interval(name, kind, begins, begins + seconds)
        life, generation = worker.life, self._generation

        def finish() -> None:
            if worker.life != life:
                return
            worker.running = None
            self._intervals.append(doing)
            if generation == self._generation:
                self._report(e_step)
            self._work(name)

        self._at(doing.stop, finish)

    def _report(self, e_step: EStep) -> None:
        event: TransportEvent
        size = 0
        if self.loss and self._rng.random() < self.loss:
            event = Failure(e_step.shard, e_step.worker)
        else:
            blocks = [
                block
                for piece in self._shards[e_step.shard].pieces
                for block in self._blocks[piece.index]
            ]
            local = self._local.get(e_step.shard)
            stats, state = execute(self._model, e_step, blocks, local)
            restarted = (
                state is not None and local is None and e_step.shard in self._visited
            )
            if state is not None:
                self._local[e_step.shard] = state
            self._visited.add(e_step.shard)
            size = stats.nbytes
            event = Report(
                e_step.shard,
                e_step.worker,
                e_step.version,
                e_step.total is not None,
                stats,
                restarted,
            )
        generation = self._generation

        def deliver() -> None:
            if generation == self._generation:
                self._ready.append(event)

        self._at(self._now + self.latency + size / self._bandwidth, deliver)

    def _die(self, name: str) -> None:
        worker = self._workers[name]
        worker.alive = False
        worker.life += 1
        worker.running = None
        worker.queue.clear()
        for shard in worker.holds:  # latent state dies with the worker
            self._local.pop(shard, None)
        worker.holds.clear()
        self._ready.append(WorkersAre(self.workers))

    def _return(self, name: str) -> None:
        self._workers[name].alive = True
        self._ready.append(WorkersAre(self.workers))

    def recall(self, shard: int, worker: str) -> None:
        """Take an E-step out of a worker's queue."""
        queue = self._workers[worker].queue
        for e_step in list(queue):
            if e_step.shard == shard:
                queue.remove(e_step)

    def move(self, shard: int, src: str, dst: str) -> None:
        """Drop the data at the source; the next E-step pays for the transfer."""
        self._workers[src].holds.discard(shard)

    async def receive(self, until: float | None) -> list[TransportEvent]:
        """Let virtual time pass until something happens."""
        while not self._ready:
            if not self._agenda or (until is not None and self._agenda[0][0] > until):
                if until is None:
                    raise RuntimeError(
                        "nothing will ever happen: no E-step is under way and no "
                        "worker comes back; give the fit a deadline"
                    )
                self._now = max(self._now, until)
                return []
            time, _, action = heapq.heappop(self._agenda)
            self._now = max(self._now, time)
            action()
        events, self._ready = self._ready, []
        return events

    async def call(self, fn: Callable[[], R]) -> R:
        """Run it, and let the clock advance by its cost."""
        self._now += self.m_step_cost
        return fn()

    def cancel(self) -> None:
        """Drop everything in flight."""
        self._generation += 1
        self._ready = [e for e in self._ready if isinstance(e, WorkersAre)]
        for worker in self._workers.values():
            worker.queue.clear()
            if worker.running is not None:
                worker.running = None
                worker.life += 1

    async def close(self) -> None:
        """Let go of the data."""
        self._blocks = []
        self._agenda = []


def _size(params: Any) -> int:
    return sum(
        np.asarray(getattr(params, f.name)).nbytes for f in dataclasses.fields(params)
    )
