"""The state machine of a fit: events in, actions out, no I/O, no clock of its own."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from ..assignment import Assignment, Backlog
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

__all__ = ["Planner"]

#: Refusals of a shard's late reports in a row after which the M-steps wait for it.
PATIENCE = 2
#: An E-step that takes so many times longer than expected is run elsewhere as well.
STUCK = 4.0


@dataclasses.dataclass(slots=True)
class _Worker:
    """What the planner knows of a worker.

    `ready` holds the stale shards on it, the stalest first; shards that are current
    wait in the planner's `_fresh` for the next M-step. `pace` is seconds per row.
    """

    name: str
    ready: OrderedDict[int, None] = dataclasses.field(default_factory=OrderedDict)
    in_flight: OrderedDict[int, float] = dataclasses.field(default_factory=OrderedDict)
    rows_ready: int = 0
    pace: float | None = None
    last_report: float = -1.0

    def push(self, record: ShardRecord, *, front: bool = False) -> None:
        if record.index not in self.ready:
            self.ready[record.index] = None
            self.rows_ready += record.rows
        if front:
            self.ready.move_to_end(record.index, last=False)

    def pull(self, record: ShardRecord) -> None:
        del self.ready[record.index]
        self.rows_ready -= record.rows


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
        self._workers = {name: _Worker(name) for name in workers}
        self._homeless: list[ShardRecord] = []
        self._fresh: list[ShardRecord] = []
        self._overdue: set[int] = set()
        self._running: dict[int, set[str]] = {r.index: set() for r in shards}
        self._verifying = False
        self._m_step_pending = False
        self._now = 0.0
        self._wake: float | None = None
        self._slowest: str | None = None
        self._until_survey = 0
        self._rows = sum(r.rows for r in shards) / max(len(shards), 1)
        for record in shards:
            self._return(record)

    # -------------------------------------------------------------- events

    def begin(self, at: float) -> list[Action]:
        """Return the first actions."""
        self._now = at
        return self._fill(list(self._workers.values()))

    def handle(self, event: Event) -> list[Action]:
        """Take in one event and return what is to be done."""
        self._now = max(self._now, event.at)
        match event:
            case StatsArrived():
                return self._arrived(event)
            case StatsRejected():
                return self._rejected(event)
            case StatsDropped():
                self._release(event.shard, event.worker, reported=True)
                return self._fill_one(event.worker)
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
            return self._fill_one(event.worker)
        rose = self.ledger.accept(event.shard, event.version)
        self._overdue.discard(event.shard)
        self._return(record)
        actions = self._conclude_if_due()
        if actions:
            return actions
        return self._fill_hungry() if rose else self._fill_one(event.worker)

    def _rejected(self, event: StatsRejected) -> list[Action]:
        record = self.ledger.records[event.shard]
        live = self._release(event.shard, event.worker, reported=True)
        record.refusals += 1
        if record.refusals >= PATIENCE:
            self._overdue.add(event.shard)
        if live:
            self._return(record, front=True)
        return self._fill_one(event.worker)

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
        worker = self._workers.get(record.holder)
        if worker is None:  # its holder is gone: the one with the least to do takes it
            if not self._workers:
                self._homeless.append(record)
                return
            worker = min(self._workers.values(), key=lambda w: w.rows_ready)
            record.holder = worker.name
        worker.push(record, front=front)

    def _release(self, shard: int, name: str, *, reported: bool) -> bool:
        """Take a shard out of a worker's queue, and learn the worker's pace.

        Return whether the shard was expected from that worker.
        """
        live = name in self._running[shard]
        self._running[shard].discard(name)
        worker = self._workers.get(name)
        if worker is None:
            return live
        issued = worker.in_flight.pop(shard, None)
        if reported and issued is not None:
            # the time since its last report, if it was busy since: what a user of
            # this worker really waits for, the network included
            began = max(issued, worker.last_report)
            pace = (self._now - began) / max(self.ledger.records[shard].rows, 1)
            worker.pace = pace if worker.pace is None else (worker.pace + pace) / 2
        worker.last_report = self._now
        return live

    def _replan(self, names: Iterable[str]) -> list[Action]:
        """Adopt newcomers; give the shards of those who left to others."""
        names = list(names)
        gone = [w for w in self._workers.values() if w.name not in names]
        for name in names:
            self._workers.setdefault(name, _Worker(name))
        orphans, self._homeless = self._homeless, []
        for worker in gone:
            del self._workers[worker.name]
            orphans += [self.ledger.records[i] for i in worker.ready]
            for shard in worker.in_flight:
                if worker.name in self._running[shard]:
                    self._running[shard].discard(worker.name)
                    orphans.append(self.ledger.records[shard])
        for record in orphans:
            self._return(record)
        self._slowest = None
        self._until_survey = 0
        return self._fill_hungry()

    # --------------------------------------------------------------- dispatch

    def _fill_one(self, name: str) -> list[Action]:
        worker = self._workers.get(name)
        return [] if worker is None else self._fill([worker])

    def _fill_hungry(self) -> list[Action]:
        return self._fill(
            [w for w in self._workers.values() if len(w.in_flight) < self._depth(w)]
        )

    def _fill(self, workers: list[_Worker]) -> list[Action]:
        actions: list[Action] = []
        for worker in workers:
            while len(worker.in_flight) < self._depth(worker):
                found = self._next(worker)
                if not found:
                    break
                actions += found
        if any(not w.in_flight for w in workers):
            actions += self._reminder()
        return actions or self._break_deadlock()

    def _next(self, worker: _Worker) -> list[Action]:
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
        self, record: ShardRecord, worker: _Worker, *, extra: bool = False
    ) -> RunEStep:
        worker.in_flight[record.index] = self._now
        self._running[record.index].add(worker.name)
        return RunEStep(
            record.index, worker.name, self.ledger.version, extra
        )

    def _front(self, worker: _Worker) -> ShardRecord | None:
        """Return the stalest shard on a worker, if it may start."""
        for index in worker.ready:
            record = self.ledger.records[index]
            return record if self._admissible(record) else None
        return None

    def _relieve(self, worker: _Worker) -> list[Action]:
        """Take over an E-step that waits, or is stuck, on a slow worker."""
        if not self.assignment.hand_out:
            return []
        donor = self._longest(worker)
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
        mine = self._pace(worker) * record.rows
        if not self.assignment.pays(self._backlog(donor), mine, record.nbytes):
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
        elapsed = self._now - max(issued, donor.last_report)
        typical = self._typical_pace()
        if typical is None or elapsed < STUCK * typical * record.rows:
            return []
        if len(self._running[index]) > 1:
            return []
        # it has begun there: run it here as well, and take whichever comes first
        record.holder = worker.name
        return [Move(index, donor.name, worker.name), self._issue(record, worker)]

    def _extra(self, worker: _Worker) -> list[Action]:
        """Let a worker that would wait make extra updates on a shard of its own."""
        if type(self.schedule).extra_update is Schedule.extra_update:
            return []
        if self._verifying or self._m_step_pending or self.ledger.n_unseen:
            return []
        for i, record in enumerate(self._fresh):
            if record.holder == worker.name:
                if self.schedule.extra_update(self.ledger, record):
                    del self._fresh[i]
                    record.extra += 1
                    return [self._issue(record, worker, extra=True)]
        return []

    # ------------------------------------------------------------------ paces

    def _depth(self, worker: _Worker) -> int:
        if worker.pace is None:
            return self.assignment.depth(None)
        return self.assignment.depth(worker.pace * self._rows)

    def _typical_pace(self) -> float | None:
        paces = sorted(w.pace for w in self._workers.values() if w.pace is not None)
        return paces[len(paces) // 2] if paces else None

    def _pace(self, worker: _Worker) -> float:
        """Return seconds per row, allowing for the time that its E-step takes now."""
        pace = worker.pace
        if pace is None:
            pace = self._typical_pace() or 0.0
        for index, issued in worker.in_flight.items():
            elapsed = self._now - max(issued, worker.last_report)
            pace = max(pace, elapsed / max(self.ledger.records[index].rows, 1))
            break
        return pace

    def _backlog(self, worker: _Worker) -> float:
        rows = worker.rows_ready + sum(
            self.ledger.records[i].rows for i in worker.in_flight
        )
        return self._pace(worker) * rows

    def _longest(self, asking: _Worker) -> _Worker | None:
        """Return the worker with the longest backlog.

        All workers are compared once in a while only, so that a thousand of them
        stay cheap; in between the one found last is asked.
        """
        if len(self._workers) < 2:
            return None
        self._until_survey -= 1
        if self._until_survey < 0 or self._slowest not in self._workers:
            self._until_survey = len(self._workers) // 8
            found = self.assignment.longest(
                Backlog(w.name, self._backlog(w)) for w in self._workers.values()
            )
            self._slowest = None if found is None else found.worker
        if self._slowest is None or self._slowest == asking.name:
            return None
        return self._workers[self._slowest]

    def _donor(self, worker: _Worker, *, idle: bool) -> _Worker | None:
        """Return a worker from which taking a shard over pays, if there is one."""
        if not self.assignment.hand_out:
            return None
        if worker.pace is None and not idle:
            return None
        donor = self._longest(worker)
        if donor is None:
            return None
        record = self._front(donor)
        if record is None:
            return None
        mine = self._backlog(worker) + self._pace(worker) * record.rows
        pays = self.assignment.pays(self._backlog(donor), mine, record.nbytes)
        return donor if pays else None

    def _reminder(self) -> list[Action]:
        """Ask to be woken while somebody idles that could relieve somebody else."""
        typical = self._typical_pace()
        if not self.assignment.hand_out or self._wake is not None or typical is None:
            return []
        if not any(w.in_flight for w in self._workers.values()):
            return []
        self._wake = self._now + max(typical * self._rows, self.assignment.latency)
        return [WakeAt(self._wake)]

    def _break_deadlock(self) -> list[Action]:
        """Return an M-step if nothing is under way and nothing may start.

        A schedule's bound on staleness can be overdrawn by a verification, which
        visits every shard; the M-step that is due then makes all shards stale again.
        """
        if (
            not self._workers
            or self._m_step_pending
            or self._verifying
            or any(w.in_flight for w in self._workers.values())
        ):
            return []
        if self.ledger.n_unseen:
            raise RuntimeError(
                f"{self.schedule!r} lets no shard start before the first M-step."
            )
        self._m_step_pending = True
        return [RunMStep()]
