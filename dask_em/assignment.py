"""Which shard a free worker takes next."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Assignment", "Backlog"]


class Backlog(NamedTuple):
    """What a worker has in front of it, in seconds of its own pace."""

    worker: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The policy that matches shards with workers, the same for every schedule.

    A free worker takes the stalest shard that it holds. It takes one from a slower
    worker instead when that pays for the move: when the other's backlog, at the pace
    at which the other works, is longer than its own would become by more than the
    move costs. A worker ten times slower so ends up with a tenth of the shards.

    Parameters
    ----------
    hand_out : bool, default=True
        Whether shards may move between workers. Without, only a lost worker's do.
    in_flight : int, default=2
        E-steps that a worker is given at a time, so that it does not idle for a
        round trip. Where an E-step takes much longer than one, a single one is
        given: its parameters are fresher.
    latency : float, default=0.011
        Seconds that a round trip costs.
    bandwidth : float, default=1e9
        Bytes per second at which data move.
    reluctance : float, default=1.3
        A move must shorten the longer of the two backlogs by this factor, so that
        noise moves nothing.
    """

    hand_out: bool = True
    in_flight: int = 2
    latency: float = 0.011
    bandwidth: float = 1e9
    reluctance: float = 1.3

    def depth(self, seconds: float | None) -> int:
        """E-steps to keep in flight where one takes `seconds` (None: unknown)."""
        if seconds is None:
            return 1
        return 1 if seconds > 15 * self.latency else self.in_flight

    def move_seconds(self, nbytes: int) -> float:
        """Seconds that moving so much data costs."""
        return self.latency + nbytes / self.bandwidth

    def longest(self, backlogs: Iterable[Backlog]) -> Backlog | None:
        """Return the worker that will be busy longest, if there is any."""
        return max(backlogs, key=lambda b: b.seconds, default=None)

    def pays(self, theirs: float, mine: float, nbytes: int) -> bool:
        """Whether taking a shard over is worth it.

        Parameters
        ----------
        theirs : float
            The other worker's backlog in seconds, the shard included.
        mine : float
            What one's own backlog would become with the shard.
        nbytes : int
            Size of the shard's data.
        """
        return theirs > self.reluctance * mine + self.move_seconds(nbytes)
