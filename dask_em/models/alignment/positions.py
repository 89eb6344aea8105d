"""Positions in sentences of given lengths, all in one array."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Positions"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Positions:
    """Cells of one pair of each of some lengths.

    They are ordered by shape, then by target position, then by source position with
    NULL before the others.

    Parameters
    ----------
    shapes : array of shape (G, 2)
        Numbers (l, m) of source and target tokens.

    Examples
    --------
    >>> positions = Positions.of([(2, 1)])
    >>> positions.source.tolist(), positions.target.tolist()
    ([-1, 0, 1], [0, 0, 0])
    """

    shapes: Ints

    @classmethod
    def of(cls, shapes: Iterable[tuple[int, int]]) -> Positions:
        """Return the positions of lengths, which are sorted."""
        return cls(np.array(sorted(shapes), dtype=np.int64).reshape(-1, 2))

    @cached_property
    def sizes(self) -> Ints:
        """Number of positions of each shape."""
        return self.shapes[:, 1] * (self.shapes[:, 0] + 1)

    @cached_property
    def offsets(self) -> Ints:
        """Where each shape's begin, of shape (G + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def _within(self) -> Ints:
        return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.sizes)

    def repeat(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what shapes have for all positions."""
        return np.repeat(values, self.sizes)

    @cached_property
    def source(self) -> Ints:
        """Source positions, -1 for NULL."""
        return self._within % (self.repeat(self.shapes[:, 0]) + 1) - 1

    @cached_property
    def target(self) -> Ints:
        """Target positions."""
        return self._within // (self.repeat(self.shapes[:, 0]) + 1)

    @cached_property
    def tokens(self) -> Ints:
        """Where each target token's positions begin."""
        return np.flatnonzero(self.source < 0)

    @cached_property
    def distance(self) -> Array:
        """How far from the diagonal, :math:`|i / l - j / m|`, and 0 for NULL."""
        length, m = self.repeat(self.shapes[:, 0]), self.repeat(self.shapes[:, 1])
        gap = np.abs((self.source + 1) / length - (self.target + 1) / m)
        return np.where(self.source < 0, 0.0, gap)
