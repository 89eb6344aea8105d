"""Models for tests of peers, in a module that workers can import."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from lexicon_model import Count, LexiconModel

from dask_em.peers.source import InMemory, Source
from dask_em.sparse_model import SparseModel, Start


class SlowLexicon(LexiconModel):
    """A lexicon whose functions take a while."""

    def __init__(self, seconds: float, slow: str = "e_step", **settings: Any) -> None:
        super().__init__(**settings)
        self.seconds = seconds
        self.slow = slow

    def _pause(self, name: str) -> None:
        if name == self.slow:
            time.sleep(self.seconds)

    def survey(self, blocks: Any) -> Count:
        self._pause("survey")
        return super().survey(blocks)

    def prepare(self, blocks: Any, summary: Any) -> Any:
        self._pause("prepare")
        return super().prepare(blocks, summary)

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        self._pause("e_step")
        return super().e_step(params, prepared, local)


class FailingLexicon(LexiconModel):
    """A lexicon that raises an error, on one node."""

    def __init__(self, where: str, error: Exception, target: Any) -> None:
        super().__init__()
        self.where = where
        self.error = error
        self.target = target

    def _fail(self, name: str, pairs: Any) -> None:
        if name == self.where and any(t == self.target for _, t in pairs):
            raise self.error

    def survey(self, blocks: Any) -> Count:
        self._fail("survey", [pair for block in blocks for pair in block])
        return super().survey(blocks)

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        self._fail("e_step", prepared[0])
        return super().e_step(params, prepared, local)


class CountingLexicon(LexiconModel):
    """A lexicon with latent state of its data: how many E-steps there were.

    The bound depends on it, so that state which is lost or doubled shows.
    """

    seconds = 0.0

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        time.sleep(self.seconds)
        stats, bound, _ = super().e_step(params, prepared)
        n = 1 if local is None else local + 1
        return stats, bound - len(prepared[0]) / n, n


class Ranges(Source):
    """For each node, a range of ids."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self.ranges = ranges

    @property
    def n_rows(self) -> None:
        return None

    def cut(self, n_nodes: int) -> list[list[InMemory]]:
        assert n_nodes == len(self.ranges)
        return [[InMemory(r)] for r in self.ranges]


class WideModel(SparseModel):
    """Means of numbers, many at a time: large messages, and hardly any work."""

    def survey(self, blocks: Any) -> Count:
        return Count(float(sum(b - a for a, b in blocks)))

    def prepare(self, blocks: Any, summary: Any) -> Any:
        [(a, b)] = blocks
        return np.arange(a, b)

    def support(self, prepared: Any) -> Any:
        return prepared

    def start(self, prepared: Any, counted: Any, summary: Any, seed: int) -> Start:
        return Start(params=np.zeros((len(prepared), 1)))

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        return 0.5 * params + 1.0, -float(np.abs(params).sum()), None

    def m_step(self, params: Any, stats: Any, prepared: Any) -> Any:
        return stats / 4.0
