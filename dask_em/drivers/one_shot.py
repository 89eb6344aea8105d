"""Local fits, each where its rows are, to be reduced to one."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..alone import em_alone
from ..model import Model, e_step_of
from ..reduction.base import LocalFit

__all__ = ["Evaluate", "FitAlone"]

logger = logging.getLogger("dask_em")


@dataclasses.dataclass(frozen=True)
class FitAlone:
    """Fit a model to the rows of a piece, from parameters that are given.

    All local fits begin at the same parameters, so that their components correspond.
    A fit that fails gets no weight.

    Parameters
    ----------
    model : Model
    params : P
    tol : float
    max_iter : int
    seconds : float, optional
        After which a fit ends with what it has.
    """

    model: Model[Any, Any]
    params: Any
    tol: float
    max_iter: int
    seconds: float | None = None

    def __call__(self, prepared: Any, rng: np.random.Generator) -> list[LocalFit[Any]]:
        """Fit to one block."""
        return self.over_piece([prepared], rng)

    def over_piece(
        self, prepared: Sequence[Any], rng: np.random.Generator
    ) -> list[LocalFit[Any]]:
        """Fit to all blocks of a piece together."""
        model = self.model
        began = time.perf_counter()
        weight = sum(float(block.weight) for block in prepared)
        if not weight > 0:
            return [LocalFit(self.params, 0.0)]
        try:
            run = em_alone(
                model,
                self.params,
                prepared,
                tol=self.tol,
                max_iter=self.max_iter,
                seconds=self.seconds,
                acceleration=model.acceleration if model.packs else None,
            )
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            logger.info("a local fit failed: %r", error)
            return [LocalFit(self.params, 0.0)]
        return [
            LocalFit(
                model.complete(run.params, run.stats),
                weight,
                run.stats,
                run.n_iter,
                run.value,
                time.perf_counter() - began,
                run.converged,
            )
        ]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Run an E-step on the rows of a piece, at several parameters."""

    model: Model[Any, Any]
    params: Sequence[Any]

    def __call__(self, prepared: Any, rng: np.random.Generator) -> Together:
        """Return the statistics of one block, for each of the parameters."""
        return Together(
            tuple(e_step_of(self.model, p, [prepared])[0] for p in self.params)
        )


@dataclasses.dataclass(frozen=True)
class Together:
    """Statistics at several parameters, which add up one by one."""

    stats: tuple[Any, ...]

    def __add__(self, other: Together) -> Together:
        return Together(
            tuple(a + b for a, b in zip(self.stats, other.stats, strict=True))
        )
