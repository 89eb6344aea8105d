"""Slack between the shard visited most and the one visited least."""

from __future__ import annotations

import dataclasses
import math

from .base import Schedule, check_fraction, check_integer
from .ledger import Ledger, ShardRecord

__all__ = ["BoundedStaleness"]


@dataclasses.dataclass(frozen=True)
class BoundedStaleness(Schedule):
    """Run M-steps freely, but let no shard get ahead of another by too much.

    A shard may start its next E-step only while it is at most `max_staleness` visits
    ahead of the shard visited least. This is the stale synchronous parallel rule (Ho
    et al., 2013) counted in visits, so no statistics in the sum are more than that
    many passes older than the newest. 0 is a barrier after every pass, with M-steps
    inside it.

    Parameters
    ----------
    max_staleness : int, default=2
        Visits that a shard may be ahead of the one visited least.
    gamma : float, default=1/16
        Fraction of the shards after whose reports an M-step runs, in (0, 1].

    Raises
    ------
    ValueError
        If max_staleness is negative or gamma lies outside (0, 1].

    Examples
    --------
    >>> from dask_em.schedules import BoundedStaleness
    >>> BoundedStaleness(max_staleness=1, gamma=0.25)
    BoundedStaleness(max_staleness=1, gamma=0.25)
    """

    max_staleness: int = 2
    gamma: float = 1 / 16

    def __post_init__(self) -> None:
        check_integer("max_staleness", self.max_staleness, 0)
        check_fraction("gamma", self.gamma)

    def m_step_due(self, ledger: Ledger) -> bool:
        """Whether gamma of the shards reported since the last M-step."""
        return ledger.reports >= math.ceil(self.gamma * ledger.n_shards - 1e-9)

    def may_start(self, ledger: Ledger, shard: ShardRecord) -> bool:
        """Whether the shard is not too far ahead."""
        return shard.visits - ledger.fewest_visits <= self.max_staleness
