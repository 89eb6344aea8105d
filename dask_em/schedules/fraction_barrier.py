"""DEM's rule: an M-step after a fraction of the shards."""

from __future__ import annotations

import dataclasses
import math

from .base import Schedule, check_fraction
from .ledger import Ledger

__all__ = ["FractionBarrier"]


@dataclasses.dataclass(frozen=True)
class FractionBarrier(Schedule):
    """Run an M-step as soon as a fraction of the shards has reported since the last.

    Nobody waits for the other shards and nobody discards them: their last statistics
    stay in the sum, and their next ones are taken whenever they come. With one shard
    per worker this is the rule of the DEM algorithm (Srivastava, DePalma and Liu,
    2019).

    Parameters
    ----------
    gamma : float, default=0.5
        Fraction of the shards in (0, 1]; 1 makes every pass a barrier.

    Raises
    ------
    ValueError
        If gamma lies outside (0, 1].

    Examples
    --------
    >>> from dask_em.schedules import FractionBarrier
    >>> FractionBarrier(gamma=0.3)
    FractionBarrier(gamma=0.3)
    """

    gamma: float = 0.5

    def __post_init__(self) -> None:
        check_fraction("gamma", self.gamma)

    def m_step_due(self, ledger: Ledger) -> bool:
        """Whether gamma of the shards reported since the last M-step."""
        return ledger.reports >= math.ceil(self.gamma * ledger.n_shards - 1e-9)
