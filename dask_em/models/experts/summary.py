"""What the survey finds out about rows with responses."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...model import Block, Summary

__all__ = ["JointSummary", "columns_of", "spread_of"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class JointSummary(Summary):
    """Moments and ranges of the columns of X, followed by those of y.

    Attributes
    ----------
    n_targets : int
        Columns of y.
    products : array of shape (n_features, n_features)
        Weighted sums of products of deviations of the columns of X from their means.
    minimum, maximum : array of shape (n_features + n_targets,)
    """

    n_targets: int = 1
    products: Array = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    minimum: Array = dataclasses.field(default_factory=lambda: np.zeros(0))
    maximum: Array = dataclasses.field(default_factory=lambda: np.zeros(0))

    @classmethod
    def _of_tile(cls, block: Block) -> Self:
        X = np.asarray(block.X, dtype=np.float64)
        y = columns_of(block.y)
        joint = np.hstack([X, y])
        plain = Summary._of_tile(Block(joint, None, block.sample_weight))
        kept = np.isfinite(joint).all(axis=1) & (block.weights() > 0)
        counted, w = joint[kept], block.weights()[kept]
        d = joint.shape[1] - y.shape[1]
        centred = counted[:, :d] - plain.mean[:d]
        fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
        return cls(
            **fields | {"dtype": np.dtype(block.X.dtype)},
            n_targets=y.shape[1],
            products=(centred * w[:, None]).T @ centred,
            minimum=counted.min(axis=0, initial=np.inf),
            maximum=counted.max(axis=0, initial=-np.inf),
        )

    def combine(self, other: Summary) -> Self:
        """Return the summary of both sets of rows."""
        assert isinstance(other, JointSummary)
        plain = super().combine(other)
        d = self.n_features
        delta = (other.mean - self.mean)[:d]
        total = self.weight + other.weight
        share = self.weight * other.weight / total if total else 0.0
        return dataclasses.replace(
            self,
            **{f.name: getattr(plain, f.name) for f in dataclasses.fields(Summary)},
            products=self.products
            + other.products
            + share * np.multiply.outer(delta, delta),
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
        )

    __add__ = combine

    @property
    def n_features(self) -> int:
        """Number of columns of X."""
        return len(self.mean) - self.n_targets

    @property
    def named(self) -> str:
        """What the columns are called in messages."""
        return "X or y"

    def of_rows(self) -> tuple[Array, Array]:
        """Return mean and variance of the columns of X."""
        d = self.n_features
        return self.mean[:d], self.variance[:d]

    def of_targets(self) -> tuple[Array, Array]:
        """Return mean and variance of the columns of y."""
        d = self.n_features
        return self.mean[d:], self.variance[d:]

    def correlation(self) -> Array:
        """Return the correlations of the columns of X."""
        mean, variance = self.of_rows()
        spread = spread_of(mean, variance)
        return np.asarray(self.products / self.weight / spread / spread[:, None])

    def reach(self) -> Array:
        """Return the largest distance from the mean, in standard deviations."""
        d = self.n_features
        mean, variance = self.of_rows()
        far = np.maximum(self.maximum[:d] - mean, mean - self.minimum[:d])
        return np.asarray(far / spread_of(mean, variance))


def columns_of(y: Any) -> Array:
    """Return responses as a table of float64."""
    y = np.asarray(y, dtype=np.float64)
    return y[:, None] if y.ndim == 1 else y


def spread_of(mean: Array, variance: Array) -> Array:
    """Return standard deviations; 1 for columns that do not vary."""
    spread = np.sqrt(np.maximum(variance, 0.0))
    varies = spread > 8 * np.finfo(np.float64).eps * np.abs(mean)
    return np.where(varies, spread, 1.0)
