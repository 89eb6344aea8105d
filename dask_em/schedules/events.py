"""What happens to a fit, and what is to be done: plain data, no I/O."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

__all__ = [
    "Action",
    "Event",
    "MStepDone",
    "Move",
    "Recall",
    "RunEStep",
    "RunMStep",
    "ShardFailed",
    "StatsArrived",
    "StatsDropped",
    "StatsRejected",
    "Tick",
    "Verified",
    "VerifyRefused",
    "VerifyRequested",
    "WakeAt",
    "WorkersChanged",
]

# ------------------------------------------------------------------ events


@dataclasses.dataclass(frozen=True, slots=True)
class StatsArrived:
    """Statistics of a shard arrived and were taken into the sum.

    Those of an extra update are kept aside for the next M-step instead.
    """

    shard: int
    worker: str
    version: int
    at: float
    extra: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class StatsRejected:
    """Late statistics arrived that would have lowered the bound."""

    shard: int
    worker: str
    version: int
    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class StatsDropped:
    """Statistics arrived that another worker had delivered before."""

    shard: int
    worker: str
    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class ShardFailed:
    """An E-step was lost, with its worker or otherwise."""

    shard: int
    worker: str
    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class MStepDone:
    """New parameters are there."""

    version: int
    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyRequested:
    """Hold the parameters still until every shard has reported at them."""

    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyRefused:
    """The exact bound says that there is more to gain: go on."""

    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class WorkersChanged:
    """The workers are now these, and no others."""

    workers: tuple[str, ...]
    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""

    at: float


Event: TypeAlias = (
    StatsArrived
    | StatsRejected
    | StatsDropped
    | ShardFailed
    | MStepDone
    | VerifyRequested
    | VerifyRefused
    | WorkersChanged
    | Tick
)

# ----------------------------------------------------------------- actions


@dataclasses.dataclass(frozen=True, slots=True)
class RunEStep:
    """Run the E-step of a shard on a worker, at the parameters of a version.

    An extra update begins with an M-step of the worker's own, on the sum of the
    shard's statistics and the last ones of all the others.
    """

    shard: int
    worker: str
    version: int
    extra: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Recall:
    """Take back an E-step that waits in a worker's queue."""

    shard: int
    worker: str


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """A shard's data are to live on another worker from now on."""

    shard: int
    src: str
    dst: str


@dataclasses.dataclass(frozen=True, slots=True)
class RunMStep:
    """Compute new parameters from the sum of the statistics."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """Every shard has reported at the parameters of this version."""

    version: int


@dataclasses.dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a `Tick` at this time, if nothing happens before."""

    at: float


Action: TypeAlias = RunEStep | Recall | Move | RunMStep | Verified | WakeAt
