"""The path of an accelerated fit: which point is evaluated next."""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar

import numpy as np

from ..acceleration import Acceleration
from ..model import Model
from ..statistics import Statistics

__all__ = ["Climb", "Summit"]

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)


@dataclasses.dataclass(frozen=True)
class Summit(Generic[P, S]):
    """The best point so far.

    Attributes
    ----------
    params : P
    stats : S
        Of all rows, computed there.
    value : float
        The log-likelihood there.
    reached : P
        Where the M-step led from there.
    """

    params: P
    stats: S
    value: float
    reached: P


class Climb(Generic[P, S]):
    """Steps and jumps under a safeguard: the likelihood at the best point never falls.

    Every point is evaluated exactly before the next one is chosen. One at which the
    log-likelihood is lower than at the best so far is refused. The path then goes on
    from the best point: by the step that a jump had replaced, else by the model's safe
    step, else not at all.

    Parameters
    ----------
    model : Model
    acceleration : Acceleration, optional
        Without one there are no jumps.
    rounding : float
        Relative fall of the likelihood that is taken for rounding.
    """

    def __init__(
        self,
        model: Model[P, S],
        acceleration: Acceleration | None,
        rounding: float,
    ) -> None:
        self._model = model
        self._jumps = acceleration.begin() if acceleration is not None else None
        self._rounding = rounding
        self._jumped = False
        self._safe = False
        self.summit: Summit[P, S] | None = None

    def refuses(self, value: float) -> bool:
        """Whether a point with this log-likelihood is to be left."""
        if self.summit is None:
            return False
        best = self.summit.value
        return not value >= best - self._rounding * max(abs(best), 1.0)

    def advance(self, summit: Summit[P, S]) -> P:
        """Book a point that was not refused; return the next one."""
        self.summit = summit
        self._jumped = self._safe = False
        if self._jumps is None:
            return summit.reached
        x = self._model.pack(summit.params)
        step = self._model.pack(summit.reached) - x
        if not (np.isfinite(x).all() and np.isfinite(step).all()):
            self._jumps.restart()
            return summit.reached
        target = self._jumps.propose(x, step)
        if target is None or not np.isfinite(target).all():
            return summit.reached
        try:
            params = self._model.unpack(summit.reached, target)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            self._jumps.restart()
            return summit.reached
        self._jumped = True
        return params

    def forget(self) -> None:
        """Forget earlier steps: the coordinates have changed."""
        if self._jumps is not None:
            self._jumps.restart()

    def turn_back(self) -> P | None:
        """Return the next point after one was refused; None if there is none left."""
        assert self.summit is not None
        self.forget()
        if self._jumped:
            self._jumped = False
            return self.summit.reached
        if not self._safe:
            self._safe = True
            return self._model.safe_step(self.summit.params, self.summit.stats)
        return None
