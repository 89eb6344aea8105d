"""Centres to start a mixture from: k-means++, k-means|| and Lloyd's iteration.

Everything is weighted, and everything that looks at all rows goes through
`mapreduce`, so that rows never leave their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model import Block, MapReduce
from ..statistics import Statistics

__all__ = ["Clusters", "cluster", "nearest", "plus_plus", "seeds"]

Array = NDArray[np.floating[Any]]

#: Rounds of k-means||, and candidates per round and centre (Bahmani et al., 2012).
ROUNDS = 5
OVERSAMPLING = 2.0
#: Lloyd iterations at most, and the relative fall of inertia that ends them.
LLOYD_ITERATIONS = 50
LLOYD_TOL = 1e-4
_TILE = 2048


@dataclasses.dataclass(frozen=True)
class Clusters(Statistics):
    """Weight, sums about the centre, and inertia of clusters of rows."""

    weight: Array
    total: Array
    inertia: float


def _tiles(block: Block) -> Iterator[tuple[Array, Array]]:
    for i in range(0, max(block.n_rows, 1), _TILE):
        rows = block.rows(slice(i, i + _TILE))
        yield np.asarray(rows.X, dtype=np.float64), rows.weights()


def nearest(X: Array, centres: Array) -> tuple[NDArray[np.intp], Array]:
    """Return the nearest centre of every row and the squared distance to it."""
    # about the centres' mean, so that a common offset does not cancel
    middle = centres.mean(axis=0)
    C = centres - middle
    Y = X - middle
    cross = Y @ C.T
    cross *= -2.0
    cross += np.einsum("kd,kd->k", C, C)
    labels = cross.argmin(axis=1)
    squares = cross[np.arange(len(Y)), labels] + np.einsum("nd,nd->n", Y, Y)
    return labels, np.maximum(squares, 0.0)


def _assign(block: Block, centres: Array) -> Clusters:
    k, d = centres.shape
    weight, total, inertia = np.zeros(k), np.zeros((k, d)), 0.0
    for X, w in _tiles(block):
        labels, squares = nearest(X, centres)
        member = np.zeros((k, len(X)))
        member[labels, np.arange(len(X))] = w
        counts = member.sum(axis=1)
        weight += counts
        total += member @ X - counts[:, None] * centres
        inertia += float(w @ squares)
    return Clusters(weight, total, inertia)


def plus_plus(X: Array, w: Array, k: int, rng: np.random.Generator) -> Array:
    """Choose k rows by greedy k-means++ (Arthur and Vassilvitskii, 2007)."""
    trials = 2 + int(np.log(k))

    def pick(mass: Array, n: int) -> NDArray[np.intp]:
        cumulative = np.cumsum(mass)
        at = rng.random(n) * cumulative[-1]
        return np.minimum(np.searchsorted(cumulative, at), len(mass) - 1)

    centres = [X[pick(w, 1)[0]]]
    closest = nearest(X, np.array(centres))[1]
    for _ in range(1, k):
        mass = w * closest
        # fewer distinct rows than centres: any row is as good as another
        candidates = pick(mass if mass.sum() > 0 else w, trials)
        options = [
            np.minimum(closest, ((X - X[c]) ** 2).sum(axis=1)) for c in candidates
        ]
        best = int(np.argmin([w @ option for option in options]))
        centres.append(X[candidates[best]])
        closest = options[best]
    return np.array(centres)


def seeds(
    k: int,
    sample: Block,
    complete: bool,
    rng: np.random.Generator,
    mapreduce: MapReduce,
) -> Array:
    """Return k centres: k-means++ on small data, k-means|| on large.

    Parameters
    ----------
    k : int
    sample : Block
    complete : bool
        Whether the sample is all of the data.
    rng : numpy.random.Generator
    mapreduce : callable
    """
    X, w = np.asarray(sample.X, dtype=np.float64), sample.weights()
    if complete:
        return plus_plus(X, w, k, rng)
    candidates = X[rng.choice(len(X), size=1, p=w / w.sum())]
    for _ in range(ROUNDS):
        cost = mapreduce(_Inertia(candidates))
        if cost <= 0:
            break
        candidates = np.vstack(
            [candidates, *mapreduce(_Oversample(candidates, OVERSAMPLING * k / cost))]
        )
    weight = mapreduce(_Assign(candidates)).weight
    if len(candidates) < k:
        candidates, weight = np.vstack([candidates, X]), np.concatenate([weight, w])
    return plus_plus(candidates, weight, k, rng)


def cluster(centres: Array, mapreduce: MapReduce) -> Array:
    """Improve centres by Lloyd's iteration over all rows."""
    inertia = np.inf
    for _ in range(LLOYD_ITERATIONS):
        found = mapreduce(_Assign(centres))
        filled = np.maximum(found.weight, np.finfo(float).tiny)[:, None]
        centres = centres + found.total / filled
        if found.inertia >= (1 - LLOYD_TOL) * inertia:
            break
        inertia = found.inertia
    return centres


# functions that travel to the rows ------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Assign:
    centres: Array

    def __call__(self, prepared: Any, rng: np.random.Generator) -> Clusters:
        return _assign(_rows_of(prepared), self.centres)


@dataclasses.dataclass(frozen=True)
class _Inertia:
    centres: Array

    def __call__(self, prepared: Any, rng: np.random.Generator) -> float:
        return float(
            sum(w @ nearest(X, self.centres)[1] for X, w in _tiles(_rows_of(prepared)))
        )


@dataclasses.dataclass(frozen=True)
class _Oversample:
    """Choose rows with probability proportional to weight times squared distance."""

    centres: Array
    factor: float

    def __call__(self, prepared: Any, rng: np.random.Generator) -> list[Array]:
        return [
            X[rng.random(len(X)) < self.factor * w * nearest(X, self.centres)[1]]
            for X, w in _tiles(_rows_of(prepared))
        ]


def _rows_of(prepared: Any) -> Block:
    return prepared if isinstance(prepared, Block) else prepared.block
