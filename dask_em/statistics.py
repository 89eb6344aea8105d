"""Sufficient statistics: an additive group, derived from dataclass fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np

__all__ = ["Statistics", "tree_sum"]

T = TypeVar("T", bound="Statistics")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Base of all sufficient statistics.

    Subclass it as a frozen dataclass whose fields are floats, NumPy arrays or
    other `Statistics`; addition, subtraction and scaling are then derived field by
    field. Statistics of disjoint sets of rows add up to those of their union, and
    those of no rows are zero: that is all the engine relies on.

    Examples
    --------
    >>> import dataclasses, numpy as np
    >>> from dask_em.statistics import Statistics
    >>> @dataclasses.dataclass(frozen=True)
    ... class Moments(Statistics):
    ...     count: float
    ...     total: np.ndarray
    >>> a = Moments(1.0, np.array([1.0, 2.0]))
    >>> (a + a).total
    array([2., 4.])
    >>> (a - a).count
    0.0
    """

    def _combine(self, other: Self, operation: Callable[[Any, Any], Any]) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(
            **{
                f.name: operation(getattr(self, f.name), getattr(other, f.name))
                for f in dataclasses.fields(self)
            }
        )

    def _map(self, operation: Callable[[Any], Any]) -> Self:
        return type(self)(
            **{
                f.name: operation(getattr(self, f.name))
                for f in dataclasses.fields(self)
            }
        )

    def __add__(self, other: Self) -> Self:
        return self._combine(other, lambda a, b: a + b)

    def __sub__(self, other: Self) -> Self:
        return self._combine(other, lambda a, b: a - b)

    def scale(self, factor: float) -> Self:
        """Multiply every field by `factor`."""
        return self._map(
            lambda v: v.scale(factor) if isinstance(v, Statistics) else v * factor
        )

    def zeros_like(self) -> Self:
        """Return the neutral element of addition, with the same shapes."""
        return self._map(
            lambda v: (
                v.zeros_like() if isinstance(v, Statistics) else np.zeros_like(v)[()]
            )
        )

    @classmethod
    def _sum_of(cls, terms: Sequence[Self]) -> Self:
        """Return the sum of one term or more, always added up in the same order."""
        if len(terms) == 1:
            return terms[0]
        return cls(
            **{
                f.name: _total([getattr(term, f.name) for term in terms])
                for f in dataclasses.fields(cls)
            }
        )

    @property
    def nbytes(self) -> int:
        """Size of the fields in bytes, which is what a message carries."""
        return sum(
            v.nbytes if isinstance(v, Statistics) else np.asarray(v).nbytes
            for v in (getattr(self, f.name) for f in dataclasses.fields(self))
        )


def tree_sum(terms: Sequence[T]) -> T:
    """Add up `terms` along a fixed binary tree.

    The order of the additions depends on the number of terms alone, so the result is
    the same to the last bit whoever computed the terms and in whatever order they
    arrived; and rounding errors grow with the logarithm of their number.
    """
    if not terms:
        raise ValueError("nothing to add up: no statistics have arrived")
    return type(terms[0])._sum_of(terms)


def _total(terms: Sequence[Any]) -> Any:
    if isinstance(terms[0], Statistics):
        return type(terms[0])._sum_of(terms)
    level = list(terms)
    while len(level) > 1:
        level = [
            level[i] + level[i + 1] if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
    return level[0]
