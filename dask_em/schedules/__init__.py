"""When an M-step runs, and what staleness is allowed."""

from .base import Schedule
from .bounded_staleness import BoundedStaleness
from .extra_updates import ExtraUpdates
from .fraction_barrier import FractionBarrier
from .incremental import Incremental
from .synchronous import Synchronous

__all__ = [
    "BoundedStaleness",
    "ExtraUpdates",
    "FractionBarrier",
    "Incremental",
    "Schedule",
    "Synchronous",
    "named_schedule",
]

_BY_NAME: dict[str, type[Schedule]] = {
    "synchronous": Synchronous,
    "fraction_barrier": FractionBarrier,
    "bounded_staleness": BoundedStaleness,
    "extra_updates": ExtraUpdates,
    "incremental": Incremental,
}


def named_schedule(schedule: Schedule | str, *, auto: Schedule) -> Schedule:
    """Return the schedule that a user's argument stands for.

    Parameters
    ----------
    schedule : Schedule or str
        A schedule, its name, or ``"auto"``.
    auto : Schedule
        What ``"auto"`` stands for.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule == "auto":
        return auto
    if isinstance(schedule, str) and schedule in _BY_NAME:
        return _BY_NAME[schedule]()
    if isinstance(schedule, type):
        raise ValueError(
            f"schedule must be an object, got {schedule!r}; call it: "
            f"{schedule.__name__}()."
        )
    raise ValueError(
        f"schedule must be one of {['auto', *_BY_NAME]} or an object from "
        f"dask_em.schedules, got {schedule!r}."
    )
