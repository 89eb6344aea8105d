"""The loop of a fit with a manager: reports in, parameters out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from ..acceleration import Acceleration
from ..assignment import Assignment
from ..model import Model
from ..result import EMResult, Status, TraceLog
from ..schedules import Schedule
from ..schedules.events import (
    Action,
    Event,
    Move,
    MStepDone,
    Recall,
    RunEStep,
    RunMStep,
    ShardFailed,
    StatsArrived,
    StatsDropped,
    StatsRejected,
    Tick,
    Verified,
    VerifyRefused,
    VerifyRequested,
    WakeAt,
    WorkersChanged,
)
from ..schedules.ledger import ShardRecord
from ..schedules.planner import Planner
from ..sharding import Shard
from ..statistics import Statistics, tree_sum
from ..stopping import PassGain, Stopping
from ..transports.base import EStep, Failure, Report, Transport, WorkersAre
from .climb import Climb, Summit

__all__ = ["Control", "ManagedRun", "Progress"]

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)

logger = logging.getLogger("dask_em")

#: Times that a shard's E-step may raise before the error is the user's to see.
ATTEMPTS = 3
#: M-steps in a row without a gain that double precision can tell, before a fit ends,
#: and the relative gain that it cannot.
IDLE = 20
IDLE_GAIN = 1e-15
#: Bytes of changes of the sum that are kept until it is asked for.
PENDING = 500_000_000
#: Relative fall in an M-step that is worth a word: regularisation may cost a little.
FALL = 1e-3


@dataclasses.dataclass(frozen=True)
class Progress(Generic[P]):
    """What a callback sees after an M-step.

    Attributes
    ----------
    version : int
        Number of the M-step.
    effective_passes : float
    lower_bound : float
        The bound after the M-step, per unit of weight.
    gain : float
        Gain of the last effective pass, per unit of weight; inf before the first.
    params : P

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import fit_em
    >>> from dask_em.models.gaussian_mixture import GaussianMixtureModel
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> def at_once(progress):
    ...     return progress.version >= 1
    >>> fit_em(GaussianMixtureModel(2), X, random_state=0, callback=at_once).status
    'callback'
    """

    version: int
    effective_passes: float
    lower_bound: float
    gain: float
    params: P


@dataclasses.dataclass
class Control:
    """A switch by which another thread ends a fit; `reason` is the status then."""

    reason: Status | None = None

    def interrupt(self) -> None:
        """End the fit, keeping what it has."""
        self.reason = "interrupted"


class ManagedRun(Generic[P, S]):
    """One run of EM from given parameters, on a transport that has been opened.

    Parameters
    ----------
    model : Model
    params : P
        Starting parameters.
    transport : Transport
    shards : sequence of Shard
    schedule : Schedule
    assignment : Assignment
    stopping : Stopping
    weight : float
        Sum of the sample weights.
    began : float
        Time on the transport's clock from which the deadline counts.
    control : Control
    callback : callable, optional
        Called with a `Progress` after every M-step; True ends the fit.
    acceleration : Acceleration, optional
        For schedules that mix no versions and models that pack.
    """

    def __init__(
        self,
        model: Model[P, S],
        params: P,
        transport: Transport,
        shards: Sequence[Shard],
        *,
        schedule: Schedule,
        assignment: Assignment,
        stopping: Stopping,
        weight: float,
        began: float,
        control: Control,
        callback: Callable[[Progress[P]], bool | None] | None = None,
        acceleration: Acceleration | None = None,
    ) -> None:
        self.model = model
        self.params = params
        self._climb: Climb[P, S] | None = None
        if not schedule.mixes and (acceleration is not None or model.one_version):
            self._climb = Climb(model, acceleration, model.resolution)
        self._reached = params
        self._step = float("inf")
        self._idle = 0
        self.transport = transport
        self.stopping = stopping
        self.weight = weight
        self.control = control
        self.callback = callback
        self.version = 0
        self._deadline = (
            None if stopping.deadline is None else began + stopping.deadline
        )
        self._shards = shards
        self._schedule = schedule
        self._assignment = assignment
        self._forget_statistics()
        self._bound = float("nan")
        self._gain = PassGain(len(shards))
        self._log = TraceLog(len(shards))
        self._counts = {"reports": 0, "reissued": 0, "resets": 0, "refused": 0}
        self._failures: dict[int, int] = {}
        self._n_e_steps = 0
        self._told = False
        self._wake: float | None = None
        self._ending: tuple[Status, str] | None = None
        self._result: EMResult[P] | None = None

    def _forget_statistics(self) -> None:
        """Begin with no statistics, at the current parameters."""
        records = [
            ShardRecord(s.index, s.rows, s.nbytes, s.owner) for s in self._shards
        ]
        self._planner = Planner(
            self._schedule, self._assignment, records, self.transport.workers
        )
        self._ledger = self._planner.ledger
        self._ledger.advance(self.version)
        self._stats: list[S | None] = [None] * len(records)
        self._extra: dict[int, tuple[int, S]] = {}
        self._total: S | None = None
        self._changes: list[tuple[int, S]] = []
        self._unsummed = 0

    async def run(self) -> EMResult[P]:
        """Run to the end."""
        self._start = self.transport.now()
        await self._perform(self._planner.begin(self._start))
        while self._result is None:
            self._check_end()
            if self._result is not None:
                break
            until = self._until()
            events = await self.transport.receive(until)
            now = self.transport.now()
            if not events:
                if self._wake is not None and now >= self._wake:
                    self._wake = None
                    await self._perform(self._planner.handle(Tick(now)))
                continue
            for event in events:
                if self._result is None:
                    planned = self._planner.handle(self._booked(event, now))
                    await self._perform(planned)
        self.transport.cancel()
        return self._result

    # -------------------------------------------------------------- reports

    def _booked(self, event: Report | Failure | WorkersAre, now: float) -> Event:
        """Take a transport's event into the books; return it as the planner's."""
        match event:
            case WorkersAre(workers):
                return WorkersChanged(workers, now)
            case Failure(shard, worker, error):
                self._note_failure(shard, worker, error)
                return ShardFailed(shard, worker, now)
            case Report():
                return self._weigh(event, now)

    def _weigh(self, report: Report, now: float) -> Event:
        """Take a report, keep it for the next M-step, refuse it or drop it."""
        shard, worker, version = report.shard, report.worker, report.version
        known = self._ledger.records[shard].version
        old = self._stats[shard]
        if report.extra:
            if version >= known:
                self._extra[shard] = (version, report.stats)
            return StatsArrived(shard, worker, version, now, extra=True)
        if old is not None and version <= known:
            return StatsDropped(shard, worker, now)
        self._n_e_steps += 1
        if old is not None:
            change = report.stats - old
            if version < self.version and not report.restarted:
                gain = self.model.gain(self.params, change)
                if not gain >= -self.model.resolution * max(abs(self._bound), 1.0):
                    self._counts["reissued"] += 1
                    return StatsRejected(shard, worker, version, now)
            self._note_change(shard, change)
        if report.restarted:
            self._counts["resets"] += 1
            self._gain.restart()
        self._stats[shard] = report.stats
        self._extra.pop(shard, None)
        self._counts["reports"] += 1
        self._gain.accept(shard)
        return StatsArrived(shard, worker, version, now)

    def _note_change(self, shard: int, change: S) -> None:
        """Keep a change of the sum until the sum is asked for.

        Where all shards will have reported by then, it is added up anew.
        """
        if self._total is None:
            return
        if self._ending is not None or not self._schedule.mixes:
            self._total, self._changes = None, []
            return
        self._changes.append((shard, change))
        if sum(kept.nbytes for _, kept in self._changes) > PENDING:
            self._sum()

    def _note_failure(
        self, shard: int, worker: str, error: BaseException | None
    ) -> None:
        logger.info("the E-step of shard %d failed on %s: %r", shard, worker, error)
        if error is None:
            return
        self._failures[shard] = self._failures.get(shard, 0) + 1
        if self._failures[shard] >= ATTEMPTS:
            raise error

    def _sum(self) -> S:
        """Return the sum of all shards' statistics.

        It is added up anew, along a fixed tree, whenever all shards are current (so
        that synchronous fits are reproducible to the last bit) and now and then
        against the drift of adding changes. These are added in the order of the
        shards, not in that of their arrival.
        """
        current = self._ledger.n_current == self._ledger.n_shards
        self._unsummed += len(self._changes)
        if self._total is None or current or self._unsummed > 8 * len(self._stats):
            self._total = tree_sum([s for s in self._stats if s is not None])
            self._unsummed = 0
        elif self._changes:
            ordered = sorted(self._changes, key=lambda change: change[0])
            self._total = tree_sum([self._total, *(change for _, change in ordered)])
        self._changes = []
        return self._total

    # -------------------------------------------------------------- actions

    async def _perform(self, actions: Sequence[Action]) -> None:
        """Carry out actions, and those that follow from them."""
        todo = list(actions)
        while todo and self._result is None:
            action, *todo = todo
            match action:
                case RunEStep(shard, worker, version, extra):
                    total = self._rest_with(shard) if extra else None
                    self.transport.submit(
                        EStep(shard, worker, version, self.params, total)
                    )
                case Recall(shard, worker):
                    self.transport.recall(shard, worker)
                case Move(shard, src, dst):
                    self.transport.move(shard, src, dst)
                case WakeAt(at):
                    self._wake = at
                case RunMStep():
                    todo += await self._m_step()
                case Verified():
                    todo += self._conclude()

    def _rest_with(self, shard: int) -> S:
        """Return the sum with a shard's newest extra update in it."""
        total = self._sum()
        if shard in self._extra:
            old = self._stats[shard]
            assert old is not None
            total = total + (self._extra[shard][1] - old)
        return total

    async def _m_step(self) -> Sequence[Action]:
        """Compute new parameters, log them, and see whether to stop."""
        total = self._sum()
        before = float(self.model.lower_bound(self.params, total))
        if self._climb is not None and self._climb.refuses(before):
            return await self._turn_back()
        self._check_bound(before)
        params, after, total = await self.transport.call(lambda: self._best(total))
        gain = self._gain.update(before) / self.weight
        self._idle = (
            self._idle + 1 if gain * self.weight <= IDLE_GAIN * abs(before) else 0
        )
        self._before = before
        if after < before - FALL * max(abs(before), 1.0) and not self._told:
            self._told = True
            logger.warning(
                "the bound fell from %.10g to %.10g in an M-step of %s; "
                "dask_em.testing.check_model tells why",
                before,
                after,
                type(self.model).__name__,
            )
        staleness = np.array(
            [self.version - r.version for r in self._ledger.records], dtype=np.int32
        )
        self.version += 1
        self._reached = params
        if self.model.packs and self.stopping.step_tol is not None:
            step = self.model.pack(params) - self.model.pack(self.params)
            self._step = float(np.abs(step).max(initial=0.0))
        if self._climb is not None:
            params = self._climb.advance(Summit(self.params, total, before, params))
        self.params, self._total, self._bound = params, total, after
        self._extra.clear()
        now = self.transport.now()
        self._log.add(
            staleness,
            self.version,
            now - self._start,
            self._gain.passes,
            before,
            after,
            self._counts["reports"],
            self._counts["reissued"],
            self._counts["resets"],
            self._counts["refused"],
        )
        self._counts = dict.fromkeys(self._counts, 0)
        rebased = self.model.rebase(self.params)
        if rebased is not self.params:
            self.params = rebased
            self._reached = self.model.rebase(self._reached)
            if self._climb is not None:
                self._climb.forget()
            self.transport.cancel()
            self._forget_statistics()
            actions = list(self._planner.begin(now))
        else:
            actions = list(self._planner.handle(MStepDone(self.version, now)))
        stop = await self._stop(gain, after)
        if stop is not None:
            self._ending = stop
            self.params = self._reached  # the last point is not one of a jump
            # what was planned at free will is superseded by the sweep
            return [*actions, *self._planner.handle(VerifyRequested(now))]
        return actions

    async def _turn_back(self) -> Sequence[Action]:
        """Leave a point where the likelihood is lower for a step from the best."""
        assert self._climb is not None
        self._counts["refused"] += 1
        params = await self.transport.call(self._climb.turn_back)
        now = self.transport.now()
        self.version += 1
        if params is None:
            self._end_at_summit("converged", "no step climbs any higher")
            return []
        self.params = self._reached = params
        return self._planner.handle(MStepDone(self.version, now))

    def _bound_of(self, params: P, total: S) -> float:
        bound = float(self.model.lower_bound(params, total))
        self._check_bound(bound)
        return bound

    def _check_bound(self, bound: float) -> None:
        if not np.isfinite(bound):
            raise FloatingPointError(
                f"lower_bound of {type(self.model).__name__} is {bound} after "
                f"{self.version} M-steps; check the model with "
                "dask_em.testing.check_model, and the scale of the data."
            )

    def _best(self, total: S) -> tuple[P, float, S]:
        """Return the M-step's parameters, with extra updates where they help."""
        params = self.model.m_step(self.params, total)
        bound = self._bound_of(params, total)
        for shard, (_, stats) in sorted(self._extra.items()):
            old = self._stats[shard]
            assert old is not None
            candidate = total + (stats - old)
            with_extra = self.model.m_step(params, candidate)
            raised = self.model.lower_bound(with_extra, candidate)
            if raised > bound:
                params, bound, total = with_extra, raised, candidate
                self._stats[shard] = stats
                self._unsummed += 1
        return params, bound, total

    # ------------------------------------------------------------- the end

    async def _stop(self, gain: float, bound: float) -> tuple[Status, str] | None:
        """Return why the fit should end, if it should."""
        passes = self._gain.passes
        progress = Progress(
            self.version, passes, bound / self.weight, gain, self._reached
        )
        callback = self.callback
        if callback is not None and await self.transport.consult(
            lambda: bool(callback(progress))
        ):
            return "callback", "a callback asked for it"
        # with tol=0 a fit makes all of its passes, as in scikit-learn
        tol, step_tol = self.stopping.tol, self.stopping.step_tol
        if tol > 0 and self._idle >= IDLE:
            return "converged", (
                f"{IDLE} M-steps gained nothing that double precision can tell"
            )
        if gain < tol > 0 and (step_tol is None or self._step <= step_tol):
            return "converged", (
                f"a whole pass gained less than tol={self.stopping.tol:g} per row"
            )
        if passes >= self.stopping.max_iter - 1e-9:
            return "max_iter", (
                f"max_iter={self.stopping.max_iter} passes were made; the last one "
                f"gained {gain:.3g} per row"
            )
        return None

    def _conclude(self) -> Sequence[Action]:
        """Every shard is current: the bound is the likelihood. Stop, or go on."""
        assert self._ending is not None
        total = self._sum()
        likelihood = self._bound_of(self.params, total)
        status, message = self._ending
        if self._climb is not None and self._climb.refuses(likelihood):
            self._end_at_summit(status, message)
            return []
        gain = (likelihood - self._before) / self.weight
        if status == "converged" and gain >= self.stopping.tol:
            self._ending = None
            if self._gain.passes >= self.stopping.max_iter:
                status, message = "max_iter", "max_iter passes were made"
            else:
                return self._planner.handle(VerifyRefused(self.transport.now()))
        self._reached = self.model.complete(self.params, total)
        self._finish(status, message, likelihood, likelihood)
        return []

    def _end_at_summit(self, status: Status, message: str) -> None:
        """End at the best point known, whose statistics were kept."""
        assert self._climb is not None
        best = self._climb.summit
        assert best is not None
        self._reached = self.model.complete(best.params, best.stats)
        self._finish(status, message, best.value, best.value)

    def _check_end(self) -> None:
        """End without a sweep: at the deadline, or when somebody asks for it."""
        if self.control.reason is not None:
            self._complete()
            self._finish(
                self.control.reason, "stopped by the user", self._bound, float("nan")
            )
        elif self._deadline is not None and self.transport.now() >= self._deadline:
            message = (
                f"the deadline of {self.stopping.deadline:g} s passed; "
                f"{self._waiting()}"
            )
            logger.warning(message)
            self._complete()
            self._finish("deadline", message, self._bound, float("nan"))

    def _complete(self) -> None:
        """Complete parameters at which the fit ends without a last sweep."""
        if self.version and not self.model.one_version and not self._ledger.n_unseen:
            self._reached = self.model.complete(self._reached, self._sum())

    def _waiting(self) -> str:
        """Say what the fit waits for."""
        workers = self.transport.workers
        if not workers:
            return "no worker was there, waiting for one to come (back)"
        stale = [
            r.index for r in self._ledger.records if r.version < self._ledger.version
        ]
        missing = [r.index for r in self._ledger.records if r.version < 0]
        if missing:
            return (
                f"{len(missing)} of {self._ledger.n_shards} shards had never reported "
                f"from {len(workers)} workers"
            )
        return (
            f"{self._ledger.n_shards - len(stale)} of {self._ledger.n_shards} shards "
            f"had reported at the last parameters, from {len(workers)} workers"
        )

    def _finish(
        self, status: Status, message: str, bound: float, likelihood: float
    ) -> None:
        self._result = EMResult(
            params=self._reached,
            status=status,
            message=message,
            lower_bound=bound,
            log_likelihood=likelihood,
            weight=self.weight,
            n_m_steps=self.version,
            n_e_steps=self._n_e_steps,
            effective_passes=self._log.last_passes,
            resumed_from=None,
            trace=self._log.trace(),
            settings={},
        )

    def _until(self) -> float | None:
        times = [t for t in (self._wake, self._deadline) if t is not None]
        return min(times, default=None)
