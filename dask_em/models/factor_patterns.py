"""Rows by what they lack: those that lack the same share most of the work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model import Block

__all__ = ["Grouped", "Moments", "Rows", "grouped", "patterns"]

Array = NDArray[Any]

#: Features above which rows stay rows: their products would not fit.
MOST_FEATURES = 4096
#: Rows with the same values missing that are worth a matrix of products.
MANY = 200
#: Numbers of a tile.
_TILE = 2**20


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over rows that lack the same values, all that an E-step needs of them.

    Attributes
    ----------
    features : array of int of shape (n_observed,), or slice
        The features that were observed.
    weight : float
    first : array of shape (n_observed,)
        Weighted sums of ``x - origin``.
    second : array of shape (n_observed, n_observed)
        Of their products.
    """

    features: Any
    weight: float
    first: Array
    second: Array

    @classmethod
    def of(cls, block: Block, features: Any, origin: Array) -> Moments:
        """Add up rows of which these features are observed."""
        origin = origin[features]
        first, second = np.zeros(len(origin)), np.zeros((len(origin), len(origin)))
        for rows in _tiles(block, len(origin)):
            Y = np.asarray(rows.X[:, features], dtype=np.float64) - origin
            weighted = Y * rows.weights()[:, None]
            first += weighted.sum(axis=0)
            second += weighted.T @ Y
        return cls(features, block.weight, first, second)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows, centred, and which of a few patterns each of them has.

    Attributes
    ----------
    Y : array of shape (n_rows, n_features)
        ``x - origin``, and 0 where that is missing.
    weights : array of shape (n_rows,)
    observed : array of shape (n_patterns, n_features)
        1 where a pattern has a value, else 0.
    starts : array of int of shape (n_patterns,)
        The first row of each pattern.
    """

    Y: Array
    weights: Array
    observed: Array
    starts: Array

    @property
    def member(self) -> Array:
        """The pattern of each row."""
        lengths = np.diff(self.starts, append=len(self.Y))
        return np.repeat(np.arange(len(self.starts)), lengths)


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Rows as an E-step wants to see them.

    Attributes
    ----------
    complete : bool
        Whether the data, of which these are a part, lack nothing.
    moments : tuple of Moments
        Of patterns that many rows have.
    block : Block
        The other rows, in the order of their patterns.
    starts : array of int
        The first row of each pattern in the block.
    origin : array of shape (n_features,)
    """

    complete: bool
    moments: tuple[Moments, ...]
    block: Block
    starts: Array
    origin: Array

    def tiles(self, width: int) -> Iterator[Rows]:
        """Return the rows by tiles that have `width` numbers per row."""
        step = max(64, _TILE // (width + len(self.origin)))
        for begin in range(0, self.block.n_rows, step):
            rows = self.block.rows(slice(begin, begin + step))
            Y = np.asarray(rows.X, dtype=np.float64) - self.origin
            first = np.searchsorted(self.starts, begin, side="right") - 1
            end = np.searchsorted(self.starts, begin + rows.n_rows)
            starts = np.maximum(self.starts[first:end] - begin, 0)
            observed = ~np.isnan(Y[starts])
            yield Rows(
                Y if self.complete else np.nan_to_num(Y, copy=False),
                rows.weights(),
                observed.astype(np.float64),
                starts,
            )


def grouped(block: Block, origin: Array, complete: bool) -> Grouped:
    """Bring rows into the order of their patterns; add up those of frequent ones.

    Parameters
    ----------
    block : Block
    origin : array of shape (n_features,)
        A point near the data: moments about it do not cancel.
    complete : bool
        Whether the data, of which these are a part, lack nothing.
    """
    none = np.zeros(0, dtype=np.intp)
    n, p = block.X.shape
    if n == 0:
        return Grouped(complete, (), block, none, origin)
    if complete:
        if MANY <= n > p <= MOST_FEATURES:
            moments = Moments.of(block, slice(None), origin)
            return Grouped(True, (moments,), block.rows(slice(0, 0)), none, origin)
        return Grouped(True, (), block, np.zeros(1, dtype=np.intp), origin)
    order, starts = patterns(np.isnan(block.X))
    found, kept = [], []
    for begin, end in zip(starts, [*starts[1:], n], strict=True):
        rows = order[begin:end]
        features = np.flatnonzero(~np.isnan(block.X[rows[0]]))
        if MANY <= len(rows) > len(features) <= MOST_FEATURES:
            if len(features):  # else there is nothing to add up
                found.append(Moments.of(block.rows(rows), features, origin))
        else:
            kept.append(rows)
    lengths = [len(rows) for rows in kept]
    return Grouped(
        False,
        tuple(found),
        block.rows(np.concatenate([none, *kept])),
        np.cumsum([0, *lengths[:-1]]) if kept else none,
        origin,
    )


def patterns(missing: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the order of rows by pattern, and where each pattern begins.

    Parameters
    ----------
    missing : array of bool of shape (n_rows, n_features)
    """
    bits = np.ascontiguousarray(np.packbits(missing, axis=1))
    keys = bits.view(np.dtype((np.void, bits.shape[1])))[:, 0]
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    new = np.flatnonzero(sorted_keys[1:] != sorted_keys[:-1]) + 1
    return order, np.concatenate([[0], new])


def _tiles(block: Block, width: int) -> Iterator[Block]:
    step = max(64, _TILE // max(width, 1))
    for begin in range(0, block.n_rows, step):
        yield block.rows(slice(begin, begin + step))
