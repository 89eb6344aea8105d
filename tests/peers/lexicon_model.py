"""A small model of sparse statistics, written for clarity: IBM Model 1 by loops."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from dask_em.peers.source import InMemory, Source
from dask_em.sparse_model import SparseModel, Start

#: Words are numbers below this, in both languages; source word 0 is the empty one.
VOCABULARY = 60


def bitext(n: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Return sentence pairs in which target word w tends to go with source word w."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        source = rng.zipf(1.4, rng.integers(1, 7)) % (VOCABULARY - 1) + 1
        target = (source + (rng.random(len(source)) < 0.2)) % VOCABULARY
        found.append((source.tolist(), rng.permutation(target).tolist()))
    return found


class Pairs(Source):
    """Sentence pairs in memory, dealt out in runs."""

    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    @property
    def n_rows(self) -> int:
        return len(self.pairs)

    def cut(self, n_nodes: int) -> list[list[InMemory]]:
        edges = [len(self.pairs) * k // n_nodes for k in range(n_nodes + 1)]
        return [
            [InMemory(self.pairs[a:b])] if a < b else []
            for a, b in itertools.pairwise(edges)
        ]


@dataclasses.dataclass(frozen=True)
class Count:
    weight: float

    def __add__(self, other: Any) -> Count:
        return Count(self.weight + other.weight)


class LexiconModel(SparseModel):
    """p(t | s), with rows' sums as statistics of their own."""

    def __init__(self, *, by_statistics: bool = False, width: int = 1) -> None:
        self.by_statistics = by_statistics
        self.width = width

    def survey(self, blocks: Any) -> Count:
        return Count(float(sum(len(t) for block in blocks for _, t in block)))

    def prepare(self, blocks: Any, summary: Any) -> Any:
        pairs = [([0, *s], t) for block in blocks for s, t in block]
        cells = {s * (VOCABULARY + 1) + t for ss, ts in pairs for s in ss for t in ts}
        rows = {s * (VOCABULARY + 1) + VOCABULARY for ss, _ in pairs for s in ss}
        ids = np.array(sorted(cells | rows), dtype=np.int64)
        return pairs, ids

    def support(self, prepared: Any) -> Any:
        return prepared[1]

    def start(self, prepared: Any, counted: Any, summary: Any, seed: int) -> Start:
        _, ids = prepared
        if not self.by_statistics:
            return Start(params=np.full((len(ids), self.width), 1 / VOCABULARY))
        # one for every pair, wherever it occurs first; and the rows' sums of these
        cells = ids % (VOCABULARY + 1) < VOCABULARY
        stats = np.where(counted & cells, 1.0 + ids % 7, 0.0)
        return Start(stats=self._with_sums(ids, stats))

    def _with_sums(self, ids: Any, stats: Any) -> Any:
        row, column = np.divmod(ids, VOCABULARY + 1)
        sums = np.bincount(row, weights=stats, minlength=VOCABULARY)
        stats = np.where(column == VOCABULARY, sums[row], stats)
        return np.repeat(stats[:, None], self.width, axis=1)

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        pairs, ids = prepared
        at = {int(k): i for i, k in enumerate(ids)}
        stats, bound = np.zeros(len(ids)), 0.0
        for source, target in pairs:
            for t in target:
                cells = [at[s * (VOCABULARY + 1) + t] for s in source]
                p = params[cells, 0]
                bound += np.log(p.mean())
                np.add.at(stats, cells, p / p.sum())
        return self._with_sums(ids, stats), bound, None

    def m_step(self, params: Any, stats: Any, prepared: Any) -> Any:
        _, ids = prepared
        row, column = np.divmod(ids, VOCABULARY + 1)
        last = np.flatnonzero(column == VOCABULARY)
        totals = stats[last][np.searchsorted(row[last], row)]
        return stats / totals


def reference(pairs: Any, n_iter: int, model: LexiconModel | None = None) -> Any:
    """Fit on one node by hand; return ids, parameters and bounds by iteration."""
    model = model or LexiconModel()
    prepared = model.prepare([pairs], None)
    ids = model.support(prepared)
    start = model.start(prepared, np.ones(len(ids), dtype=bool), None, 0)
    params = (
        start.params
        if start.stats is None
        else model.m_step(None, start.stats, prepared)
    )
    stats, bound, _ = model.e_step(params, prepared)
    bounds = [bound]
    for _ in range(n_iter):
        params = model.m_step(params, stats, prepared)
        stats, bound, _ = model.e_step(params, prepared)
        bounds.append(bound)
    return ids, params, bounds
