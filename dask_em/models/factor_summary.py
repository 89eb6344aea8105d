"""What one pass finds out about rows of which some values are missing."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..model import Block, Summary

__all__ = ["FactorSummary"]


@dataclasses.dataclass(frozen=True)
class FactorSummary(Summary):
    """A summary of the values that were observed; NaN stands for those that were not.

    Parameters
    ----------
    n_rows, weight, mean, scatter, n_nonfinite, n_negative_weights, dtype
        As in `Summary`. Rows with an infinity or without a finite weight are those
        that are not finite; a row without a value counts like any other.
    counts : array of shape (n_features,)
        Sum of the weights of the rows where each feature was observed.
    n_missing : int
        Rows with a NaN.
    """

    refused: ClassVar[str] = "infinity"

    counts: NDArray[np.float64]
    n_missing: int

    @classmethod
    def _of_tile(cls, block: Block) -> FactorSummary:
        X = np.asarray(block.X, dtype=np.float64)
        w = block.weights()
        finite = ~np.isinf(X).any(axis=1) & np.isfinite(w)
        n, negative = X.shape[0], int((w < 0).sum())
        if not finite.all():
            X, w = X[finite], w[finite]
        observed = ~np.isnan(X)
        counts = w @ observed
        total = np.where(counts != 0, counts, 1.0)
        mean = np.zeros(X.shape[1])
        if len(X):  # two steps from a value that counts, as in `Summary`
            row = (observed * np.abs(w)[:, None]).argmax(axis=0)
            shift = np.nan_to_num(X[row, np.arange(X.shape[1])])
            mean = shift + w @ np.where(observed, X - shift, 0.0) / total
        scatter = w @ np.square(np.where(observed, X - mean, 0.0))
        return cls(
            n_rows=n,
            weight=float(w.sum()),
            mean=np.where(counts != 0, mean, 0.0),
            scatter=np.where(counts != 0, scatter, 0.0),
            n_nonfinite=int(n - finite.sum()),
            n_negative_weights=negative,
            dtype=np.dtype(block.X.dtype),
            counts=counts,
            n_missing=int((~observed.all(axis=1)).sum()),
        )

    def combine(self, other: Summary) -> FactorSummary:
        """Return the summary of both sets of rows."""
        assert isinstance(other, FactorSummary)
        counts = self.counts + other.counts
        share = other.counts / np.where(counts != 0, counts, 1.0)
        delta = other.mean - self.mean
        # of two means the one that no value has gone into is no mean
        delta = np.where(self.counts != 0, delta, 0.0)
        mean = np.where(self.counts != 0, self.mean, other.mean) + share * delta
        between = self.counts * share * np.square(delta)
        return FactorSummary(
            n_rows=self.n_rows + other.n_rows,
            weight=self.weight + other.weight,
            mean=mean,
            scatter=self.scatter + other.scatter + between,
            n_nonfinite=self.n_nonfinite + other.n_nonfinite,
            n_negative_weights=self.n_negative_weights + other.n_negative_weights,
            dtype=np.promote_types(self.dtype, other.dtype),
            counts=counts,
            n_missing=self.n_missing + other.n_missing,
        )

    __add__ = combine

    @property
    def variance(self) -> NDArray[np.float64]:
        """Weighted variance of the values of every feature."""
        return self.scatter / self.counts
