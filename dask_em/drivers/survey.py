"""The one pass before a fit, and what may be wrong with what it finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..model import Block, Model, Summary
from ..sampling import draw
from ..sharding import Piece

__all__ = ["DrawRows", "SurveyRows", "added", "check_summaries"]


@dataclasses.dataclass(frozen=True)
class SurveyRows:
    """Summarise a block."""

    model: Model[Any, Any]

    def __call__(self, block: Any, rng: np.random.Generator) -> Any:
        """Return the summary."""
        return self.model.survey(block)


@dataclasses.dataclass(frozen=True)
class DrawRows:
    """Draw a fraction of the rows of a block."""

    fraction: float

    def __call__(self, block: Any, rng: np.random.Generator) -> list[Block]:
        """Return the rows drawn, in a list."""
        return draw(block, rng, self.fraction)


def added(results: Sequence[Any]) -> Any:
    """Return the sum, in the order given."""
    total = results[0]
    for result in results[1:]:
        total = total + result
    return total


def check_summaries(
    summaries: Sequence[Any], pieces: Sequence[Piece], n_features: int
) -> None:
    """Raise `ValueError` for data that no model can use.

    NaN or infinity in data that are computed lazily comes to light here, in the one
    pass before the fit.
    """
    if not all(isinstance(summary, Summary) for summary in summaries):
        return
    for summary, piece in zip(summaries, pieces, strict=True):
        if summary.n_features != n_features:
            raise ValueError(
                f"chunk {piece.parts[0].chunk} of X has {summary.n_features} columns "
                f"but X declares {n_features}; give map_blocks the right chunks=."
            )
    bad = [p for s, p in zip(summaries, pieces, strict=True) if s.n_nonfinite]
    if bad:
        rows = sum(s.n_nonfinite for s in summaries)
        chunks = sorted({part.chunk for piece in bad for part in piece.parts})
        named = ", ".join(map(str, chunks[:5])) + (", ..." if len(chunks) > 5 else "")
        bad_columns = getattr(summaries[0], "named", "X")
        raise ValueError(
            f"Input {bad_columns} contains {summaries[0].refused} in {rows} rows, in "
            f"or near chunk {named}; drop or impute them first."
        )
    negative = sum(s.n_negative_weights for s in summaries)
    if negative:
        raise ValueError(
            f"sample_weight is negative in {negative} rows; use 0 to leave a row out."
        )
    weight = sum(s.weight for s in summaries)
    if not weight > 0:
        raise ValueError("sample_weight is zero everywhere; no row counts.")
    if not np.isfinite(weight):
        raise ValueError(
            "the sum of sample_weight is not finite; divide the weights by their mean."
        )
