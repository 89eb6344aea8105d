"""EM on rows at hand: no shards, no transport, no waiting."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from .acceleration import Acceleration
from .drivers.climb import Climb, Summit
from .model import Model, e_step_of
from .statistics import Statistics

__all__ = ["Alone", "em_alone"]

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)

_ROUNDING = 1e-13


@dataclasses.dataclass(frozen=True)
class Alone(Generic[P, S]):
    """Where EM has come on rows at hand.

    Attributes
    ----------
    params : P
    stats : S
        Computed at `params`.
    value : float
        The log-likelihood there.
    n_iter : int
        E-steps made.
    converged : bool
    """

    params: P
    stats: S
    value: float
    n_iter: int
    converged: bool


def em_alone(
    model: Model[P, S],
    params: P,
    prepared: Sequence[Any],
    *,
    tol: float,
    max_iter: int,
    acceleration: Acceleration | None = None,
    seconds: float | None = None,
) -> Alone[P, S]:
    """Run EM on prepared rows until a step gains less than `tol` per unit of weight.

    Parameters
    ----------
    model : Model
    params : P
    prepared : sequence of object
        What `Model.prepare` returned, block by block.
    tol : float
    max_iter : int
        E-steps at most.
    acceleration : Acceleration, optional
    seconds : float, optional
        After which no further E-step is made.

    Returns
    -------
    Alone

    Raises
    ------
    FloatingPointError
        If the likelihood is not finite from the start.
    """
    weight = sum(float(getattr(block, "weight", 1.0)) for block in prepared) or 1.0
    climb: Climb[P, S] = Climb(model, acceleration, _ROUNDING)
    here = params
    n_iter, converged = 0, False
    began = time.monotonic()
    while n_iter < max_iter:
        late = seconds is not None and time.monotonic() > began + seconds
        if late and climb.summit is not None:
            break
        n_iter += 1
        stats, _ = e_step_of(model, here, prepared)
        value = float(model.lower_bound(here, stats))
        best = climb.summit
        if best is None and not np.isfinite(value):
            raise FloatingPointError(f"the log-likelihood at the start is {value}")
        if climb.refuses(value):
            back = climb.turn_back()
            if back is None:
                converged = True
                break
            here = back
            continue
        reached = model.m_step(here, stats)
        gain = float("inf") if best is None else (value - best.value) / weight
        here = climb.advance(Summit(here, stats, value, reached))
        if gain < tol:
            converged = True
            break
    summit = climb.summit
    assert summit is not None
    return Alone(summit.params, summit.stats, summit.value, n_iter, converged)
