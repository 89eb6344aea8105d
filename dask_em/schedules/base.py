"""What every schedule answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral, Real

from .ledger import Ledger, ShardRecord

__all__ = ["Schedule", "check_fraction", "check_integer"]


class Schedule(ABC):
    """When an M-step runs, and what staleness is allowed.

    A schedule is a frozen dataclass of its settings. It holds no state and does no
    I/O: the planner asks it two questions about the facts in a `Ledger`, so that it
    runs alike on threads, on a cluster and on a virtual clock.

    Examples
    --------
    >>> import dataclasses
    >>> from dask_em.schedules import Schedule
    >>> @dataclasses.dataclass(frozen=True)
    ... class EveryReport(Schedule):
    ...     def m_step_due(self, ledger):
    ...         return ledger.reports >= 1
    >>> from dask_em import GaussianMixture
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> mixture = GaussianMixture(2, schedule=EveryReport(), random_state=0)
    >>> mixture.fit(X).converged_
    True
    """

    @property
    def mixes(self) -> bool:
        """Whether M-steps may see statistics of several versions."""
        return True

    @abstractmethod
    def m_step_due(self, ledger: Ledger) -> bool:
        """Whether the reports that are in suffice for an M-step.

        It must be true once every shard has been refreshed at the current version:
        nothing else can happen then.
        """

    def may_start(self, ledger: Ledger, shard: ShardRecord) -> bool:
        """Whether a shard's next E-step may start now.

        The planner asks for shards whose statistics are older than the current
        parameters only. It must be true for the shard visited least.
        """
        return True

    def extra_update(self, ledger: Ledger, shard: ShardRecord) -> bool:
        """Whether a worker that would wait may make an extra update on this shard."""
        return False


def check_fraction(name: str, value: object) -> None:
    """Raise unless 0 < value <= 1."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in (0, 1], got {value!r}.")
    if not 0 < float(value) <= 1:
        raise ValueError(
            f"{name} is a fraction of the shards and must lie in (0, 1], got {value}."
        )


def check_integer(name: str, value: object, least: int) -> None:
    """Raise unless value is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
