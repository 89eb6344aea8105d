"""Rows of a mixed model: a response, fixed effects and grouping factors."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "Factor", "Grouped", "Rows", "bucket_of", "plain_labels"]

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of a design: a column of ones, maybe, and an array.

    The ones are not stored, so that an array of predictors is used as it is.

    Parameters
    ----------
    array : array of shape (n, k)
    ones : bool
    """

    array: Array
    ones: bool

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.array)

    def __getitem__(self, index: Any) -> Columns:
        """Return some rows."""
        return Columns(self.array[index], self.ones)

    @property
    def width(self) -> int:
        """Number of columns, the ones included."""
        return int(self.array.shape[1]) + self.ones

    def dense(self) -> Array:
        """Return all columns in one array of floats."""
        values = np.asarray(self.array, dtype=np.float64)
        if not self.ones:
            return values
        return np.hstack([np.ones((len(values), 1)), values])


@dataclasses.dataclass(frozen=True)
class Grouped:
    """What a grouping factor says of rows: their groups and their random effects.

    Parameters
    ----------
    labels : array of shape (n,)
    design : Columns
    """

    labels: Array
    design: Columns

    def __getitem__(self, index: Any) -> Grouped:
        """Return some rows."""
        return Grouped(self.labels[index], self.design[index])


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a mixed model.

    Parameters
    ----------
    y : array of shape (n,)
    fixed : Columns
    factors : tuple of Grouped
    weights : array of shape (n,), optional
    """

    y: Array
    fixed: Columns
    factors: tuple[Grouped, ...]
    weights: Array | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)

    def __getitem__(self, index: Any) -> Rows:
        """Return some rows, by a slice or an array of indices."""
        return Rows(
            self.y[index],
            self.fixed[index],
            tuple(factor[index] for factor in self.factors),
            None if self.weights is None else self.weights[index],
        )

    @property
    def row_nbytes(self) -> float:
        """Size of a row in bytes."""
        arrays = [self.y, self.fixed.array]
        for factor in self.factors:
            arrays += [factor.labels, factor.design.array]
        if self.weights is not None:
            arrays.append(self.weights)
        return sum(a.nbytes for a in arrays) / max(len(self), 1)

    def counted(self) -> Rows:
        """Leave out the rows of weight 0."""
        if self.weights is None or (self.weights != 0).all():
            return self
        return self[self.weights != 0]

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """Put rows one after the other."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        weights = [part.weights for part in parts]
        return Rows(
            np.concatenate([part.y for part in parts]),
            Columns(
                np.concatenate([part.fixed.array for part in parts]), first.fixed.ones
            ),
            tuple(
                Grouped(
                    np.concatenate([part.factors[f].labels for part in parts]),
                    Columns(
                        np.concatenate(
                            [part.factors[f].design.array for part in parts]
                        ),
                        factor.design.ones,
                    ),
                )
                for f, factor in enumerate(first.factors)
            ),
            None
            if first.weights is None
            else np.concatenate([w for w in weights if w is not None]),
        )


@dataclasses.dataclass(frozen=True)
class Factor:
    """A grouping factor: its name, and what random effects each of its groups has.

    Parameters
    ----------
    name : str
    columns : tuple of str
        Names of the effects.
    blocks : tuple of int
        Sizes of the sets of effects that may be correlated; others are independent.
    """

    name: str
    columns: tuple[str, ...]
    blocks: tuple[int, ...]

    @property
    def n_random(self) -> int:
        """Effects per group."""
        return len(self.columns)

    @property
    def slices(self) -> list[slice]:
        """Where the blocks are."""
        bounds = np.concatenate([[0], np.cumsum(self.blocks)])
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]

    @property
    def pattern(self) -> Array:
        """Which covariances are not zero, shape (q, q)."""
        allowed = np.zeros((self.n_random, self.n_random), dtype=bool)
        for block in self.slices:
            allowed[block, block] = True
        return allowed

    @property
    def lower(self) -> tuple[Array, Array]:
        """Rows and columns of the entries of a Cholesky factor that are not zero."""
        rows, columns = np.nonzero(np.tril(self.pattern))
        return rows, columns

    @property
    def n_theta(self) -> int:
        """Number of free covariances."""
        return sum(n * (n + 1) // 2 for n in self.blocks)


def plain_labels(labels: Any, name: str) -> Array:
    """Return the labels of groups as an array of integers or strings.

    Raises
    ------
    ValueError
        For missing labels, or labels of more than one dimension.
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(
            f"groups must have one label per row, got an array of shape {values.shape} "
            f"for {name!r}."
        )
    kind = values.dtype.kind
    if kind in "iub":
        return values if kind != "b" else values.astype(np.int64)
    if _missing(values):
        raise ValueError(
            f"the grouping factor {name!r} has missing labels; drop those rows."
        )
    # whatever the values are: labels of another chunk must be of the same kind
    return values.astype(np.float64) if kind == "f" else values.astype(str)


def _missing(values: Array) -> bool:
    kind = values.dtype.kind
    if kind == "f":
        return bool(np.isnan(values).any())
    if kind in "mM":
        return bool(np.isnat(values).any())
    if kind != "O":
        return False
    pandas = sys.modules.get("pandas")  # without it there is no NA of its own
    if pandas is not None:
        return bool(pandas.isna(values).any())
    return any(v is None or v != v for v in values)


def bucket_of(labels: Array, n_buckets: int) -> Array:
    """Return a bucket for each label that depends on the label alone.

    Not on the width of the array's strings, nor on the type of its numbers.
    """
    if labels.dtype.kind in "iuf":
        hashed = (labels.astype(np.float64) + 0.0).view(np.uint64)  # no negative zero
    else:
        width = labels.dtype.itemsize // 4
        letters = np.ascontiguousarray(labels).view(np.uint32).reshape(-1, width)
        hashed = np.zeros(len(labels), dtype=np.uint64)
        power = np.uint64(1)
        with np.errstate(over="ignore"):
            for k in range(width):  # trailing zeros add nothing
                hashed += letters[:, k].astype(np.uint64) * power
                power = power * np.uint64(1099511628211)
    with np.errstate(over="ignore"):
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashed = hashed ^ (hashed >> np.uint64(31))
    return (hashed % np.uint64(n_buckets)).astype(np.int64)
