"""Models for tests of rotations, in a module that workers can import."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

from dask_em.models.topics.rotating import RotatingTopicModel


def topical(n_docs: int, n_words: int, n_topics: int, seed: int = 0) -> Any:
    """Return documents of some topics, one of them and one word without entries."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_words, 0.1), n_topics)
    shares = rng.dirichlet(np.full(n_topics, 0.2), n_docs)
    X = rng.poisson(25 * shares @ topics).astype(float)
    X[n_docs // 2] = 0
    X[:, n_words // 3] = 0
    return sp.csr_array(X)


@dataclasses.dataclass(frozen=True)
class Uneven(RotatingTopicModel):
    """Takes its time where there are 21 documents."""

    def sweep(self, cell: Any, rows: Any, *more: Any) -> Any:
        if len(rows) == 21:
            time.sleep(0.1)
        return super().sweep(cell, rows, *more)


@dataclasses.dataclass(frozen=True)
class SlowTopics(RotatingTopicModel):
    """Takes its time."""

    def sweep(self, *given: Any) -> Any:
        time.sleep(0.03)
        return super().sweep(*given)
