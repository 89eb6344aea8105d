"""Who the workers are, what they have before them, and how fast they are."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from ..assignment import Assignment, Backlog
from .ledger import ShardRecord

__all__ = ["Roster", "Worker"]


@dataclasses.dataclass(slots=True)
class Worker:
    """What is known of a worker.

    Parameters
    ----------
    name : str
    ready : ordered set of int
        Stale shards on it that nobody is at, the stalest first.
    in_flight : mapping of int to float
        Shards it was given, and when.
    rows_ready : int
        Rows of `ready`.
    pace : float, optional
        Seconds per row, the network included; None before its first report.
    last_report : float
    """

    name: str
    ready: OrderedDict[int, None] = dataclasses.field(default_factory=OrderedDict)
    in_flight: OrderedDict[int, float] = dataclasses.field(default_factory=OrderedDict)
    rows_ready: int = 0
    pace: float | None = None
    last_report: float = -1.0

    def push(self, record: ShardRecord, *, front: bool = False) -> None:
        """Add a stale shard, as the least stale or as the stalest."""
        if record.index not in self.ready:
            self.ready[record.index] = None
            self.rows_ready += record.rows
        if front:
            self.ready.move_to_end(record.index, last=False)

    def pull(self, record: ShardRecord) -> None:
        """Take a stale shard away."""
        del self.ready[record.index]
        self.rows_ready -= record.rows


class Roster:
    """The workers, with their paces and backlogs in seconds.

    Parameters
    ----------
    names : iterable of str
    records : sequence of ShardRecord
    assignment : Assignment
        The policy that compares backlogs.
    """

    def __init__(
        self, names: Iterable[str], records: list[ShardRecord], assignment: Assignment
    ) -> None:
        self._workers = {name: Worker(name) for name in names}
        self._records = records
        self._assignment = assignment
        self._mean_rows = sum(r.rows for r in records) / max(len(records), 1)
        self._slowest: str | None = None
        self._until_survey = 0
        self.now = 0.0

    def __iter__(self) -> Iterator[Worker]:
        """Iterate over the workers."""
        return iter(self._workers.values())

    def __len__(self) -> int:
        """Return their number."""
        return len(self._workers)

    def get(self, name: str) -> Worker | None:
        """Return a worker, or None if it is gone."""
        return self._workers.get(name)

    def adopt(self, names: Iterable[str]) -> list[Worker]:
        """Make these the workers; return those who are gone."""
        names = list(names)
        gone = [w for w in self if w.name not in names]
        for worker in gone:
            del self._workers[worker.name]
        for name in names:
            self._workers.setdefault(name, Worker(name))
        self._slowest = None
        self._until_survey = 0
        return gone

    def least_busy(self) -> Worker:
        """Return the worker with the fewest rows before it."""
        return min(self, key=lambda w: w.rows_ready)

    def hungry(self) -> list[Worker]:
        """Return the workers that could be given more."""
        return [w for w in self if len(w.in_flight) < self.depth(w)]

    @property
    def busy(self) -> bool:
        """Whether anybody has been given anything."""
        return any(w.in_flight for w in self)

    # ------------------------------------------------------------------ paces

    def learn(self, worker: Worker, shard: int, issued: float) -> None:
        """Update a worker's pace by a report.

        What counts is the time since its last report, if it was busy since: what a
        user of this worker really waits for, the network included.
        """
        began = max(issued, worker.last_report)
        pace = (self.now - began) / max(self._records[shard].rows, 1)
        worker.pace = pace if worker.pace is None else (worker.pace + pace) / 2

    def depth(self, worker: Worker) -> int:
        """Return how many E-steps to give a worker at a time."""
        if worker.pace is None:
            return self._assignment.depth(None)
        return self._assignment.depth(worker.pace * self._mean_rows)

    def typical_pace(self) -> float | None:
        """Return the median pace, once there is one."""
        paces = sorted(w.pace for w in self if w.pace is not None)
        return paces[len(paces) // 2] if paces else None

    def typical_seconds(self) -> float | None:
        """Return what a typical E-step takes on a typical worker."""
        pace = self.typical_pace()
        return None if pace is None else pace * self._mean_rows

    def elapsed(self, worker: Worker, issued: float) -> float:
        """Return for how long a worker may have been at something."""
        return self.now - max(issued, worker.last_report)

    def pace(self, worker: Worker) -> float:
        """Return seconds per row, allowing for what its E-step has taken so far."""
        pace = worker.pace
        if pace is None:
            pace = self.typical_pace() or 0.0
        for index, issued in worker.in_flight.items():
            rows = max(self._records[index].rows, 1)
            return max(pace, self.elapsed(worker, issued) / rows)
        return pace

    def seconds(self, worker: Worker, record: ShardRecord) -> float:
        """Return what a shard's E-step is expected to take on a worker."""
        return self.pace(worker) * record.rows

    def backlog(self, worker: Worker) -> float:
        """Return the seconds of work that a worker has before it."""
        under_way = sum(self._records[i].rows for i in worker.in_flight)
        return self.pace(worker) * (worker.rows_ready + under_way)

    def remaining(self, worker: Worker) -> float:
        """Return the backlog without what has been done of it, if all goes as usual."""
        issued = next(iter(worker.in_flight.values()), None)
        done = 0.0 if issued is None else self.elapsed(worker, issued)
        return self.backlog(worker) - done

    def longest(self, asking: Worker) -> Worker | None:
        """Return the other worker with the longest backlog.

        All workers are compared once in a while only, so that a thousand of them
        stay cheap; in between the one found last is asked.
        """
        if len(self) < 2:
            return None
        self._until_survey -= 1
        if self._until_survey < 0 or self._slowest not in self._workers:
            self._until_survey = len(self) // 8
            found = self._assignment.longest(
                Backlog(w.name, self.backlog(w)) for w in self
            )
            self._slowest = None if found is None else found.worker
        if self._slowest is None or self._slowest == asking.name:
            return None
        return self._workers[self._slowest]
