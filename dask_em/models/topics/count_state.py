"""Topics in count form, and the statistics that they are made of."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...row_statistics import RowStatistics
from ...sparse_model import Array
from ...statistics import Statistics

__all__ = ["TopicStatistics", "Topics"]


@dataclasses.dataclass(frozen=True)
class Topics:
    """Expected counts of words in topics, as `CountTopicModel` fits them.

    Attributes
    ----------
    counts : array of shape (n_words, K)
        The N_wk.
    totals : array of shape (K,)
        Their sums N_k over words.
    suggested_a : array of shape (K,)
        Prior counts of documents that suit the data better, where the model was to
        look for them, and otherwise the ones in force.
    suggested_b : float
        Prior counts of words, likewise.
    single : bool
        Whether counts travel in single precision.
    """

    counts: NDArray[Any]
    totals: Array
    suggested_a: Array
    suggested_b: float
    single: bool = False

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.single:
            state["counts"] = self.counts.astype(np.float32, copy=False)
        return state

    def probabilities(self, b: float) -> Array:
        """Return the topics as distributions of words, of shape (K, n_words).

        Parameters
        ----------
        b : float
            Prior counts of words.
        """
        found = np.maximum(self.counts.T.astype(np.float64) + b, 0.0)
        mass = found.sum(axis=1, keepdims=True)
        found[mass[:, 0] == 0] = 1.0  # a topic without words is an even one
        found /= found.sum(axis=1, keepdims=True)
        return found


@dataclasses.dataclass(frozen=True)
class TopicStatistics(Statistics):
    """New counts of words in topics, and what the bound is made of beside them.

    Attributes
    ----------
    table : RowStatistics
        The N_wk of the words that occur.
    totals : array of shape (K,)
    constant : float
        The part of the bound that does not depend on the topics' parameters.
    priors : array of shape (K + 1,) or (0,)
        Sums from which priors are learned, if they are.
    """

    table: RowStatistics
    totals: Array
    constant: float
    priors: Array
