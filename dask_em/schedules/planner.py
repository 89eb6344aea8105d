"""The state machine of a fit: events in, actions out, no I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..assignment import Assignment
from .base import Schedule
from .events import (
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
from .ledger import Ledger, ShardRecord
from .roster import Roster, Worker

__all__ = ["Planner"]

#: Refusals of a shard's late reports in a row after which the M-steps wait for it.
PATIENCE = 2
#: An E-step that takes so many times longer than expected is run elsewhere as well.
STUCK = 4.0


class Planner:
    """Decides what runs where, given a schedule and an assignment.

    The planner is deterministic: the same events give the same actions, on threads,
    on a cluster, on a virtual clock or in a test with a list of events.

    Parameters
    ----------
    schedule : Schedule
    assignment : Assignment
    shards : sequence of ShardRecord
        With their initial holders.
    workers : sequence of str
    """

    def __init__(
        self,
        schedule: Schedule,
        assignment: Assignment,
        shards: Sequence[ShardRecord],
        workers: Sequence[str],
    ) -> None:
        self.schedule = schedule
        self.assignment = assignment
        self.ledger = Ledger(list(shards))
        self._roster = Roster(workers, self.ledger.records, assignment)
        self._homeless: list[ShardRecord] = []
        self._fresh: list[ShardRecord] = []
        self._overdue: set[int] = set()
        self._running: dict[int, set[str]] = {r.index: set() for r in shards}
        self._verifying = False
        self._m_step_pending = False
        self._wake: float | None = None
        for record in shards:
            self._return(record)

    # -------------------------------------------------------------- events

    def begin(self, at: float) -> list[Action]:
        """Return the first actions."""
        self._roster.now = at
        return self._fill(list(self._roster))

    def handle(self, event: Event) -> list[Action]:
        """Take in one event and return what is to be done."""
        self._roster.now = max(self._roster.now, event.at)
        match event:
            case StatsArrived():
                return self._arrived(event)
            case StatsRejected():
                return self._rejected(event)
            case StatsDropped():
                if self._release(event.shard, event.worker, reported=True):
                    self._return(self.ledger.records[event.shard])
                return self._fill_these(event.worker)
            case ShardFailed():
                if self._release(event.shard, event.worker, reported=False):
                    self._return(self.ledger.records[event.shard], front=True)
                return self._fill_hungry()
            case MStepDone():
                return self._advance(event.version)
            case VerifyRequested():
                self._verifying = True
                return self._conclude()
            case VerifyRefused():
                self._verifying = False
                return self._conclude()
            case WorkersChanged():
                return self._replan(event.workers)
            case Tick():
                self._wake = None
                return self._fill_hungry()

    def _arrived(self, event: StatsArrived) -> list[Action]:
        record = self.ledger.records[event.shard]
        self._release(event.shard, event.worker, reported=True)
        # somebody else may still be at it, after a recall that came too late: whoever
        # comes second is dropped, and nobody waits for him
        self._running[event.shard].clear()
        if event.extra:
            self._return(record)
            return self._fill_these(event.worker, record.holder)
        rose = self.ledger.accept(event.shard, event.version)
        self._overdue.discard(event.shard)
        self._return(record)
        actions = self._conclude_if_due()
        if actions:
            return actions
        if rose:
            return self._fill_hungry()
        return self._fill_these(event.worker, record.holder)

    def _rejected(self, event: StatsRejected) -> list[Action]:
        record = self.ledger.records[event.shard]
        live = self._release(event.shard, event.worker, reported=True)
        record.refusals += 1
        if record.refusals >= PATIENCE:
            self._overdue.add(event.shard)
        if live:
            self._return(record, front=True)
        return self._fill_these(event.worker, record.holder)

    def _advance(self, version: int) -> list[Action]:
        self._m_step_pending = False
        self.ledger.advance(version)
        fresh, self._fresh = self._fresh, []
        for record in fresh:
            record.extra = 0
            self._return(record)
        return self._fill_hungry()

    # ------------------------------------------------------ M-steps, verifying

    def _conclude(self) -> list[Action]:
        return self._conclude_if_due() or self._fill_hungry()

    def _conclude_if_due(self) -> list[Action]:
        """Return the M-step, or the end of the verification, if it is time."""
        ledger = self.ledger
        if self._m_step_pending or ledger.n_unseen:
            return []
        everyone = ledger.n_current == ledger.n_shards
        if self._verifying:
            return [Verified(ledger.version)] if everyone else []
        # whatever the schedule says, nothing else can happen once all are current
        if everyone or (not self._overdue and self.schedule.m_step_due(ledger)):
            self._m_step_pending = True
            return [RunMStep()]
        return []

    # ------------------------------------------------------------ bookkeeping

    def _stale(self, record: ShardRecord) -> bool:
        return record.version != self.ledger.version

    def _admissible(self, record: ShardRecord) -> bool:
        return (
            self._verifying
            or record.visits == 0
            or record.index in self._overdue
            or self.schedule.may_start(self.ledger, record)
        )

    def _return(self, record: ShardRecord, *, front: bool = False) -> None:
        """Put a shard back where it belongs, unless somebody is still at it."""
        if self._running[record.index]:
            return
        if not self._stale(record):
            self._fresh.append(record)
            return
        worker = self._roster.get(record.holder)
        if worker is None:  # its holder is gone: the one with the least to do takes it
            if not len(self._roster):
                self._homeless.append(record)
                return
            worker = self._roster.least_busy()
            record.holder = worker.name
        worker.push(record, front=front)

    def _release(self, shard: int, name: str, *, reported: bool) -> bool:
        """Take a shard out of a worker's queue, and learn the worker's pace.

        Return whether the shard was expected from that worker.
        """
        live = name in self._running[shard]
        self._running[shard].discard(name)
        worker = self._roster.get(name)
        if worker is None:
            return live
        issued = worker.in_flight.pop(shard, None)
        if reported and issued is not None:
            self._roster.learn(worker, shard, issued)
        worker.last_report = self._roster.now
        return live

    def _replan(self, names: Iterable[str]) -> list[Action]:
        """Adopt newcomers; give the shards of those who left to others."""
        orphans, self._homeless = self._homeless, []
        for worker in self._roster.adopt(names):
            orphans += [self.ledger.records[i] for i in worker.ready]
            for shard in worker.in_flight:
                if worker.name in self._running[shard]:
                    self._running[shard].discard(worker.name)
                    orphans.append(self.ledger.records[shard])
        for record in orphans:
            self._return(record)
        return self._fill_hungry()

    # --------------------------------------------------------------- dispatch

    def _fill_these(self, *names: str) -> list[Action]:
        found = (self._roster.get(name) for name in dict.fromkeys(names))
        return self._fill([worker for worker in found if worker is not None])

    def _fill_hungry(self) -> list[Action]:
        return self._fill(self._roster.hungry())

    def _fill(self, workers: list[Worker]) -> list[Action]:
        """Give workers what they may do now; see to it that somebody does something."""
        actions = self._dispatch(workers)
        if not actions and len(self._roster) and not self._roster.busy:
            actions = self._dispatch(self._roster.hungry()) or self._break_deadlock()
        if any(not w.in_flight for w in workers):
            actions += self._reminder()
        return actions

    def _dispatch(self, workers: list[Worker]) -> list[Action]:
        actions: list[Action] = []
        for worker in workers:
            while len(worker.in_flight) < self._roster.depth(worker):
                found = self._next(worker)
                if not found:
                    break
                actions += found
        return actions

    def _next(self, worker: Worker) -> list[Action]:
        """Return what the worker is to do next, if there is anything."""
        mine = self._front(worker)
        donor = self._donor(worker, idle=mine is None)
        if donor is not None:
            theirs = self._front(donor)
            if theirs is not None and theirs.index not in worker.in_flight:
                donor.pull(theirs)
                theirs.holder = worker.name
                return [
                    Move(theirs.index, donor.name, worker.name),
                    self._issue(theirs, worker),
                ]
        if mine is not None and mine.index not in worker.in_flight:
            worker.pull(mine)
            return [self._issue(mine, worker)]
        if worker.in_flight:
            return []
        return self._relieve(worker) or self._extra(worker)

    def _issue(
        self, record: ShardRecord, worker: Worker, *, extra: bool = False
    ) -> RunEStep:
        worker.in_flight[record.index] = self._roster.now
        self._running[record.index].add(worker.name)
        return RunEStep(record.index, worker.name, self.ledger.version, extra)

    def _front(self, worker: Worker) -> ShardRecord | None:
        """Return the stalest shard on a worker that may start."""
        for index in worker.ready:
            record = self.ledger.records[index]
            if self._admissible(record):
                return record
        return None

    def _relieve(self, worker: Worker) -> list[Action]:
        """Take over an E-step that waits, or is stuck, on a slow worker."""
        if not self.assignment.hand_out:
            return []
        donor = self._roster.longest(worker)
        if donor is None or not donor.in_flight:
            return []
        index, issued = next(reversed(donor.in_flight.items()))
        record = self.ledger.records[index]
        if (
            index in worker.in_flight
            or donor.name not in self._running[index]
            or not self._stale(record)
        ):
            return []
        mine = self._roster.seconds(worker, record)
        if not self.assignment.pays(self._roster.backlog(donor), mine, record.nbytes):
            return []
        if len(donor.in_flight) > 1:
            del donor.in_flight[index]
            self._running[index].discard(donor.name)
            record.holder = worker.name
            return [
                Recall(index, donor.name),
                Move(index, donor.name, worker.name),
                self._issue(record, worker),
            ]
        elapsed = self._roster.elapsed(donor, issued)
        typical = self._roster.typical_pace()
        if typical is None or elapsed < STUCK * typical * record.rows:
            return []
        if len(self._running[index]) > 1:
            return []
        # it has begun there: run it here as well, and take whichever comes first
        record.holder = worker.name
        return [Move(index, donor.name, worker.name), self._issue(record, worker)]

    def _extra(self, worker: Worker) -> list[Action]:
        """Let a worker that would wait make extra updates on a shard of its own."""
        if type(self.schedule).extra_update is Schedule.extra_update:
            return []
        if self._verifying or self._m_step_pending or self.ledger.n_unseen:
            return []
        slowest = self._roster.longest(worker)
        for i, record in enumerate(self._fresh):
            if record.holder == worker.name:
                seconds = self._roster.seconds(worker, record)
                if slowest is None or self._roster.remaining(slowest) < seconds:
                    return []  # the wait is over before the update would be
                if self.schedule.extra_update(self.ledger, record):
                    del self._fresh[i]
                    record.extra += 1
                    return [self._issue(record, worker, extra=True)]
        return []

    def _donor(self, worker: Worker, *, idle: bool) -> Worker | None:
        """Return a worker from which taking a shard over pays, if there is one."""
        if not self.assignment.hand_out:
            return None
        if worker.pace is None and not idle:
            return None
        donor = self._roster.longest(worker)
        if donor is None:
            return None
        record = self._front(donor)
        if record is None:
            return None
        mine = self._roster.backlog(worker) + self._roster.seconds(worker, record)
        pays = self.assignment.pays(self._roster.backlog(donor), mine, record.nbytes)
        return donor if pays else None

    def _reminder(self) -> list[Action]:
        """Ask to be woken while somebody idles that could relieve somebody else."""
        typical = self._roster.typical_seconds()
        if not self.assignment.hand_out or self._wake is not None or typical is None:
            return []
        if not self._roster.busy:
            return []
        self._wake = self._roster.now + max(typical, self.assignment.latency)
        return [WakeAt(self._wake)]

    def _break_deadlock(self) -> list[Action]:
        """Return an M-step where nothing is under way and nothing may start.

        A schedule's bound on staleness can be overdrawn by a verification, which
        visits every shard; the M-step that is due then makes all shards stale again.
        """
        if self._m_step_pending or self._verifying:
            return []
        if self.ledger.n_unseen:
            raise RuntimeError(
                f"{self.schedule!r} lets no shard start before the first M-step."
            )
        self._m_step_pending = True
        return [RunMStep()]
