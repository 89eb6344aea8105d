"""Fugue's rule: who would wait makes extra updates."""

from __future__ import annotations

import dataclasses

from .base import Schedule, check_integer
from .ledger import Ledger, ShardRecord
from .synchronous import Synchronous

__all__ = ["ExtraUpdates"]


@dataclasses.dataclass(frozen=True)
class ExtraUpdates(Schedule):
    """Let a worker that would wait repeat E-step and M-step on a shard of its own.

    The worker uses the last statistics of all other shards for its local M-step, as
    in Fugue (Kumar et al., 2014), but with EM's own step instead of a step size. The
    outcome is used for the next M-step only where that raises the bound.

    Parameters
    ----------
    base : Schedule, default=Synchronous()
        The rule that makes it wait.
    max_extra : int, default=2
        Extra updates of one shard between two M-steps. More over-fit the shard.

    Raises
    ------
    ValueError
        If max_extra is negative.

    Examples
    --------
    >>> from dask_em.schedules import ExtraUpdates, Synchronous
    >>> ExtraUpdates(Synchronous(), max_extra=1)
    ExtraUpdates(base=Synchronous(), max_extra=1)
    """

    base: Schedule = dataclasses.field(default_factory=Synchronous)
    max_extra: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.base, Schedule) or isinstance(self.base, ExtraUpdates):
            raise TypeError(
                "base must be one of the other schedules, for instance "
                f"Synchronous(), got {self.base!r}."
            )
        check_integer("max_extra", self.max_extra, 0)

    def m_step_due(self, ledger: Ledger) -> bool:
        """Whether the base schedule says so."""
        return self.base.m_step_due(ledger)

    def may_start(self, ledger: Ledger, shard: ShardRecord) -> bool:
        """Whether the base schedule says so."""
        return self.base.may_start(ledger, shard)

    def extra_update(self, ledger: Ledger, shard: ShardRecord) -> bool:
        """Whether the shard had fewer than `max_extra` since the last M-step."""
        return shard.extra < self.max_extra
