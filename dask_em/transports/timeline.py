"""Who worked when, and who waited."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

__all__ = ["Interval", "Timeline"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """Something that a worker did.

    Parameters
    ----------
    worker : str
    kind : {"work", "extra", "transfer"}
        An E-step, an extra update, or a wait for the data of a shard that moves.
    start, stop : float
        Seconds on the transport's clock.

    Examples
    --------
    >>> from dask_em.transports import Interval
    >>> Interval("worker-0", "work", 1.0, 3.5).seconds
    2.5
    """

    worker: str
    kind: str
    start: float
    stop: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class Timeline:
    """What workers did; the rest of the time they waited.

    Parameters
    ----------
    workers : tuple of str
        In the order of a picture, the first on top.
    intervals : tuple of Interval

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.transports import Simulated
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> slow = Simulated(2, speeds=[1.0, 0.5])
    >>> mixture = GaussianMixture(
    ...     2,
    ...     transport=slow,
    ...     schedule="synchronous",
    ...     shards=2,
    ...     hand_out=False,
    ...     random_state=0,
    ... ).fit(X)
    >>> slow.timeline.waiting()
    {'worker-0': 0.5, 'worker-1': 0.0}
    """

    workers: tuple[str, ...]
    intervals: tuple[Interval, ...]

    @property
    def stop(self) -> float:
        """When the last of them ended."""
        return max((i.stop for i in self.intervals), default=0.0)

    def until(self, time: float) -> Timeline:
        """Return what was done up to a time."""
        return Timeline(
            self.workers,
            tuple(
                dataclasses.replace(i, stop=min(i.stop, time))
                for i in self.intervals
                if i.start < time
            ),
        )

    def waiting(self, kinds: Iterable[str] = ("work", "extra")) -> dict[str, float]:
        """Return, for each worker, the share of the time that it waited.

        Parameters
        ----------
        kinds : iterable of str, default=("work", "extra")
            What does not count as waiting.

        Returns
        -------
        dict of str to float
            Between 0 and 1; NaN if nothing was done.
        """
        known = set(kinds)
        begins = min((i.start for i in self.intervals), default=0.0)
        span = self.stop - begins
        busy = dict.fromkeys(self.workers, 0.0)
        for interval in self.intervals:
            if interval.kind in known:
                busy[interval.worker] += interval.seconds
        return {
            worker: 1 - seconds / span if span > 0 else float("nan")
            for worker, seconds in busy.items()
        }


def joined(workers: Sequence[str], intervals: Iterable[Interval]) -> Timeline:
    """Return a timeline, with intervals in the order of time."""
    return Timeline(tuple(workers), tuple(sorted(intervals, key=lambda i: i.start)))
