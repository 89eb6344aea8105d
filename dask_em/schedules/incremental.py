"""Shards in turn: an M-step after each group of them."""

from __future__ import annotations

import dataclasses

from .base import Schedule, check_integer
from .ledger import Ledger, ShardRecord

__all__ = ["Incremental"]


@dataclasses.dataclass(frozen=True)
class Incremental(Schedule):
    """Visit groups of shards in turn, with an M-step after each of them.

    This is incremental EM (Neal and Hinton, 1998) on blocks of rows: fresh parameters
    several times a pass, of statistics of which those of the group alone are new. Which
    statistics an M-step sees does not depend on who computes what or when, so that two
    fits with the same shards are equal, as they are under `Synchronous`.

    Parameters
    ----------
    groups : int, default=8
        Groups of consecutive shards; one shard each if there are not as many.

    Raises
    ------
    ValueError
        If groups is less than 1.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.schedules import Incremental
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> mixture = GaussianMixture(2, schedule=Incremental(3), shards=3, random_state=0)
    >>> mixture.fit(X).converged_
    True
    """

    groups: int = 8

    def __post_init__(self) -> None:
        check_integer("groups", self.groups, 1)

    def _bounds(self, ledger: Ledger) -> tuple[int, int]:
        """Return the shards of the group whose turn it is."""
        n, groups = ledger.n_shards, min(self.groups, ledger.n_shards)
        turn = (ledger.version - 1) % groups
        return n * turn // groups, n * (turn + 1) // groups

    def m_step_due(self, ledger: Ledger) -> bool:
        """Whether the group has reported; before the first M-step, whether all have."""
        first, end = self._bounds(ledger)
        wanted = end - first if ledger.version else ledger.n_shards
        return ledger.reports >= wanted

    def may_start(self, ledger: Ledger, shard: ShardRecord) -> bool:
        """Whether it is the turn of the shard's group."""
        first, end = self._bounds(ledger)
        return first <= shard.index < end
