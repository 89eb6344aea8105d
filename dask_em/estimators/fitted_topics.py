"""Fitted topics, brought here and put in order when they are first asked for."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.topics.count import Topics

__all__ = ["FittedTopics"]

Array = NDArray[Any]


class FittedTopics:
    """Rows of numbers for words, as a matrix.

    Parameters
    ----------
    source : DistributedTable or Topics
        Rows of words that occur, with their numbers, and one more for sums; or of all
        words.
    n_words : int
    added : float
        What is to be added to what the source has.
    empty : float
        What words have that do not occur.
    """

    def __init__(self, source: Any, n_words: int, added: float, empty: float) -> None:
        self.source = source
        self.n_words = n_words
        self.added, self.empty = added, empty

    @functools.cached_property
    def rows(self) -> Array:
        """Parameters of words, of shape (n_words, K)."""
        if isinstance(self.source, Topics):
            # differences of sums may leave a little less than nothing
            counts = np.maximum(self.source.counts, 0.0, dtype=np.float64)
            return counts + self.added
        ids, values = self.source.gather()
        rows = np.full((self.n_words, values.shape[1]), self.empty)
        words = ids < self.n_words
        rows[ids[words]] = values[words] + self.added
        return rows

    @property
    def components(self) -> Array:
        """Parameters of topics, of shape (K, n_words)."""
        return self.rows.T

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "rows"}
