"""The facts that schedules decide on."""

from __future__ import annotations

import dataclasses
from collections import Counter

__all__ = ["Ledger", "ShardRecord"]


@dataclasses.dataclass(slots=True)
class ShardRecord:
    """What is known of one shard.

    Parameters
    ----------
    index : int
    rows : int
    nbytes : int
        Size of its data, which a move to another worker costs.
    holder : str
        Worker on which its data live; empty while there is none.
    version : int
        Version of the parameters its accepted statistics were computed at; -1 before
        the first.
    visits : int
        E-steps accepted so far.
    extra : int
        Extra updates made or under way since the last M-step.
    refusals : int
        Late reports refused in a row.
    """

    index: int
    rows: int
    nbytes: int
    holder: str
    version: int = -1
    visits: int = 0
    extra: int = 0
    refusals: int = 0


class Ledger:
    """Counts over all shards that a schedule's two questions need.

    Attributes
    ----------
    version : int
        Number of the M-step that made the current parameters.
    reports : int
        Reports accepted since then.
    n_shards, n_unseen, n_current : int
        Shards in all; without any accepted report; refreshed at `version`.
    """

    def __init__(self, records: list[ShardRecord]) -> None:
        self.records = records
        self.version = 0
        self.reports = 0
        self.n_shards = len(records)
        self.n_unseen = len(records)
        self.n_current = 0
        self._by_visits = Counter({0: len(records)})
        self._fewest = 0

    @property
    def fewest_visits(self) -> int:
        """Visits of the shard that was visited least."""
        return self._fewest

    def accept(self, shard: int, version: int) -> bool:
        """Book an accepted report; say whether `fewest_visits` rose."""
        record = self.records[shard]
        self.n_unseen -= record.visits == 0
        self.n_current += (version == self.version) - (record.version == self.version)
        record.version = version
        record.refusals = 0
        self.reports += 1
        self._by_visits[record.visits] -= 1
        record.visits += 1
        self._by_visits[record.visits] += 1
        rose = False
        while not self._by_visits[self._fewest]:
            del self._by_visits[self._fewest]
            self._fewest += 1
            rose = True
        return rose

    def advance(self, version: int) -> None:
        """Book an M-step."""
        self.version = version
        self.reports = 0
        self.n_current = 0
