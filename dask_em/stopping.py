"""When to stop."""

from __future__ import annotations

import dataclasses
from collections import deque
from numbers import Real

from .schedules.base import check_integer

__all__ = ["Stopping"]


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When a fit ends.

    Parameters
    ----------
    tol : float, default=1e-3
        The fit has converged when a whole effective pass gains less than this per
        unit of weight (per row), both by the bound along the way and exactly, by a
        sweep over all shards at fixed parameters. 0 never stops it.
    max_iter : int, default=100
        Effective passes at most.
    deadline : float, optional
        Seconds at most.
    step_tol : float, optional
        For models whose parameters can be packed: the fit has converged only when,
        besides, an M-step moves no coordinate by more than this.

    Raises
    ------
    ValueError
        If tol is negative, max_iter below 1 or deadline not positive.
    """

    tol: float = 1e-3
    max_iter: int = 100
    deadline: float | None = None
    step_tol: float | None = None

    def __post_init__(self) -> None:
        for name in ("tol", "deadline", "step_tol"):
            value = getattr(self, name)
            left_out = value is None and name != "tol"
            if not left_out and not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {value!r}.")
        if not self.tol >= 0:
            raise ValueError(f"tol must not be negative, got {self.tol}.")
        check_integer("max_iter", self.max_iter, 1)
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(
                f"deadline is a number of seconds above 0, got {self.deadline}."
            )


class PassGain:
    """Gain of the bound over the last whole effective pass.

    A pass is whole when every shard was refreshed in it: with the updates of a few
    shards alone the bound may rest while the others' have far to go.
    """

    def __init__(self, n_shards: int) -> None:
        self._n = n_shards
        self._accepted = 0
        self._refreshed = [0] * n_shards
        self._history: deque[tuple[int, float]] = deque()

    def accept(self, shard: int) -> None:
        """Book an accepted report."""
        self._accepted += 1
        self._refreshed[shard] = self._accepted

    @property
    def passes(self) -> float:
        """Effective passes so far."""
        return self._accepted / self._n

    def restart(self) -> None:
        """Forget the history: the bound has fallen, for a reason."""
        self._history.clear()

    def update(self, bound: float) -> float:
        """Book the bound before an M-step; return the gain (inf before a pass)."""
        # the last pass that refreshed all began no later than this
        latest = min(self._accepted - self._n, min(self._refreshed) - 1)
        while len(self._history) > 1 and self._history[1][0] <= latest:
            self._history.popleft()
        gain = float("inf")
        if self._history and self._history[0][0] <= latest:
            gain = bound - self._history[0][1]
        self._history.append((self._accepted, bound))
        return gain
