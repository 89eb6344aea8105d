"""Extrapolation of EM's steps, under a safeguard on the likelihood.

EM climbs slowly where much information is missing: its steps shrink by a factor close
to one. An accelerator looks at the last few steps and jumps ahead. It needs to know
nothing of the model but the parameters as a vector (`Model.pack`), and it proposes
only: the driver goes back to EM's own step where the likelihood at a proposal turns
out to be lower.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import deque

import numpy as np
from numpy.typing import NDArray

from .schedules.base import check_integer

__all__ = ["SQUAREM", "Acceleration", "Anderson", "named_acceleration"]

Vector = NDArray[np.float64]

#: Relative size of singular values of past steps below which they count as equal.
_RCOND = 1e-10


class Extrapolation(ABC):
    """State of an acceleration in one fit."""

    @abstractmethod
    def propose(self, x: Vector, step: Vector) -> Vector | None:
        """Return where to go from `x`, or None for EM's own step.

        Parameters
        ----------
        x : array of shape (n,)
            Packed parameters at which the likelihood has just been evaluated.
        step : array of shape (n,)
            What EM would add to them.
        """

    @abstractmethod
    def restart(self) -> None:
        """Forget the past: the last proposal was refused."""


class Acceleration(ABC):
    """Base of the accelerations: frozen settings that make an `Extrapolation`."""

    @abstractmethod
    def begin(self) -> Extrapolation:
        """Return a fresh state."""


@dataclasses.dataclass(frozen=True)
class Anderson(Acceleration):
    r"""Anderson's extrapolation: a secant method on the last few steps.

    With :math:`f_k = G(x_k) - x_k` the step that EM's map G makes at :math:`x_k`, and
    :math:`\Delta X, \Delta F` the differences of the last points and steps,

    .. math:: x_{k+1} = x_k + f_k - (\Delta X + \Delta F)\,\gamma, \qquad
              \gamma = \arg\min_\gamma \lVert f_k - \Delta F \gamma \rVert

    (Anderson, 1965; Walker and Ni, 2011; for EM, Henderson and Varadhan, 2019).

    Parameters
    ----------
    depth : int, default=6
        Differences to look back at.

    Raises
    ------
    ValueError
        If depth is below 1.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.acceleration import Anderson
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> mixture = GaussianMixture(2, acceleration=Anderson(3), random_state=0)
    >>> mixture.fit(X).converged_
    True
    """

    depth: int = 6

    def __post_init__(self) -> None:
        check_integer("depth", self.depth, 1)

    def begin(self) -> Extrapolation:
        """Return a fresh state."""
        return _AndersonState(self.depth)


class _AndersonState(Extrapolation):
    def __init__(self, depth: int) -> None:
        self._points: deque[Vector] = deque(maxlen=depth + 1)
        self._steps: deque[Vector] = deque(maxlen=depth + 1)

    def restart(self) -> None:
        self._points.clear()
        self._steps.clear()

    def propose(self, x: Vector, step: Vector) -> Vector | None:
        self._points.append(x)
        self._steps.append(step)
        if len(self._points) < 2:
            return None
        d_points = np.diff(np.array(self._points), axis=0).T
        d_steps = np.diff(np.array(self._steps), axis=0).T
        gamma = np.linalg.lstsq(d_steps, step, rcond=_RCOND)[0]
        proposal: Vector = x + step - (d_points + d_steps) @ gamma
        return proposal


@dataclasses.dataclass(frozen=True)
class SQUAREM(Acceleration):
    r"""Squared extrapolation from two steps of EM in a row.

    With :math:`r = G(x) - x` and :math:`v = G(G(x)) - 2 G(x) + x`,

    .. math:: x' = x - 2 a r + a^2 v, \qquad a = -\lVert r \rVert / \lVert v \rVert,

    followed by a step of EM from :math:`x'` (Varadhan and Roland, 2008, scheme S3).

    Parameters
    ----------
    max_step : float, default=1024.0
        Bound on the length -a of the jump; 1 is EM itself.

    Raises
    ------
    ValueError
        If max_step is below 1.

    Examples
    --------
    >>> from dask_em.acceleration import SQUAREM
    >>> SQUAREM()
    SQUAREM(max_step=1024.0)
    """

    max_step: float = 1024.0

    def __post_init__(self) -> None:
        if not self.max_step >= 1:
            raise ValueError(f"max_step must be at least 1, got {self.max_step}.")

    def begin(self) -> Extrapolation:
        """Return a fresh state."""
        return _SquaremState(self.max_step)


class _SquaremState(Extrapolation):
    def __init__(self, max_step: float) -> None:
        self._max_step = max_step
        self.restart()

    def restart(self) -> None:
        self._first: tuple[Vector, Vector] | None = None
        self._jumped = False

    def propose(self, x: Vector, step: Vector) -> Vector | None:
        if self._jumped:  # the step that steadies the jump
            self.restart()
            return None
        if self._first is None:
            self._first = (x, step)
            return None
        x0, r = self._first
        v = step - r
        size = float(np.linalg.norm(v))
        length = float(np.linalg.norm(r)) / size if size > 0 else 1.0
        a = -min(max(length, 1.0), self._max_step)
        self._jumped = True
        self._first = None
        if a == -1.0:  # the jump would be EM's own second step
            return None
        proposal: Vector = x0 - 2 * a * r + a * a * v
        return proposal


def named_acceleration(
    acceleration: Acceleration | str | None, auto: Acceleration | None
) -> Acceleration | None:
    """Return an acceleration by its name, or as it is.

    Parameters
    ----------
    acceleration : Acceleration, "auto", "anderson", "squarem" or None
    auto : Acceleration or None
        What ``"auto"`` stands for.

    Raises
    ------
    ValueError, TypeError
        For anything else.
    """
    if acceleration is None or isinstance(acceleration, Acceleration):
        return acceleration
    if isinstance(acceleration, str):
        known = {"auto": auto, "anderson": Anderson(), "squarem": SQUAREM()}
        if acceleration not in known:
            raise ValueError(
                f"acceleration must be one of {', '.join(map(repr, known))}, None or "
                f"an object from dask_em.acceleration, got {acceleration!r}."
            )
        return known[acceleration]
    raise TypeError(
        "acceleration must be a name, None or an object from dask_em.acceleration, "
        f"got {acceleration!r}."
    )
