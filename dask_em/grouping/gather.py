"""Rows into tables of groups, on threads of this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..kernels.grouped import counting_sort, scatter_groups, scatter_pairs
from ..kernels.threads import n_threads, one_blas_thread
from .basis import Basis
from .rows import Factor, Rows
from .survey import Survey
from .table import GroupTable, Totals

__all__ = [
    "Gathered",
    "Layout",
    "Route",
    "check_weights",
    "cross",
    "factorized",
    "gather_memory",
    "survey_rows",
]

Array = NDArray[Any]

#: Rows that a thread looks at together.
TILE = 1 << 14
#: Largest table of products of shared effects, in bytes.
LIMIT = 1 << 30

Route = Literal["memory", "partial groups", "rows by key"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which factor is summed up by group, and where the others' effects are in W.

    Parameters
    ----------
    inner : int
        The factor with the most effects; its groups are the table's.
    outer : tuple of int
        The others.
    levels : tuple of array
        Sorted labels of the outer ones.
    offsets : tuple of int
        First columns of the outer ones in W, and the number of their columns.
    """

    inner: int
    outer: tuple[int, ...]
    levels: tuple[Array, ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, factors: Sequence[Factor], levels: Sequence[Array]) -> Layout:
        """Choose the inner factor.

        Raises
        ------
        ValueError
            If the others have too many effects to be held in one matrix.
        """
        sizes = [
            f.n_random * len(known) for f, known in zip(factors, levels, strict=True)
        ]
        inner = int(np.argmax(sizes))
        outer = tuple(f for f in range(len(factors)) if f != inner)
        widths = [sizes[f] for f in outer]
        offsets = tuple(int(n) for n in np.concatenate([[0], np.cumsum(widths)]))
        q = factors[inner].n_random
        if (q * offsets[-1]) ** 2 * 8 > LIMIT:
            names = " and ".join(
                f"{factors[f].name!r} ({len(levels[f])} levels)" for f in outer
            )
            raise ValueError(
                f"{names} crossed with {factors[inner].name!r} need a matrix of "
                f"{q * offsets[-1]} x {q * offsets[-1]} numbers; give the factors with "
                "fewer levels the random terms, drop rare levels, or make random "
                "slopes into intercepts."
            )
        return cls(inner, outer, tuple(levels[f] for f in outer), offsets)

    @property
    def n_coupled(self) -> int:
        """Effects of the outer factors."""
        return self.offsets[-1]


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Tables of groups, and what they are in.

    Parameters
    ----------
    table : GroupTable or dask array of them
        Whose rows are groups.
    totals : Totals
    basis : Basis
    layout : Layout
    route : {"memory", "partial groups", "rows by key"}
        How the rows of a group came together.
    """

    table: Any
    totals: Totals
    basis: Basis
    layout: Layout
    route: Route

    @property
    def n_groups(self) -> int:
        """Groups of the inner factor."""
        return int(self.table.shape[0])


def survey_rows(
    rows: Rows,
    names: Sequence[str],
    factors: Sequence[Factor],
    threads: int | None = None,
) -> Survey:
    """Survey rows in memory, on threads."""
    parts = _ranges(len(rows), threads)
    with ThreadPoolExecutor(len(parts)) as pool:
        surveys = list(
            pool.map(
                lambda part: Survey.of(rows[part], names, factors, with_levels=False),
                parts,
            )
        )
    return surveys[0].merge(surveys[1:])


def _ranges(n: int, wanted: int | None) -> list[slice]:
    """Cut rows into a range for each thread."""
    cores = wanted or n_threads()
    k = max(1, min(cores, n // TILE))
    return [slice(n * i // k, n * (i + 1) // k) for i in range(k)]


def gather_memory(
    rows: Rows, names: Sequence[str], factors: Sequence[Factor]
) -> Gathered:
    """Sum up rows in memory, on threads.

    Parameters
    ----------
    rows : Rows
    names : sequence of str
        Of the fixed effects.
    factors : sequence of Factor
    """
    with one_blas_thread():  # there are threads enough
        survey = survey_rows(rows, names, factors)
        basis = Basis.of(survey, names, factors)
        labels, codes = zip(*(factorized(f.labels) for f in rows.factors), strict=True)
        layout = Layout.of(factors, labels)
        table, totals = cross(
            rows, basis, layout, labels[layout.inner], codes[layout.inner], codes
        )
    return Gathered(table, totals, basis, layout, "memory")


def factorized(labels: Array) -> tuple[Array, Array]:
    """Return sorted labels, and the place of each row's among them."""
    if labels.dtype.kind in "iu" and len(labels):
        least, most = int(labels.min()), int(labels.max())
        if most - least < 4 * len(labels) and -(2**62) < least and most < 2**62:
            # a table is faster than a sort; small integers must not overflow
            seen = np.zeros(most - least + 1, dtype=bool)
            shifted = labels.astype(np.int64) - least
            seen[shifted] = True
            place = np.cumsum(seen, dtype=np.int64) - 1
            known = (np.flatnonzero(seen) + least).astype(labels.dtype)
            return known, place[shifted]
    known, codes = np.unique(labels, return_inverse=True)
    return known, codes.ravel()


def cross(
    rows: Rows,
    basis: Basis,
    layout: Layout,
    labels: Array,
    codes: Array,
    all_codes: Sequence[Array],
    threads: int | None = None,
) -> tuple[GroupTable, Totals]:
    """Sum up rows by group.

    Parameters
    ----------
    rows : Rows
    basis, layout
    labels : array of shape (m,)
        Of the inner factor's groups.
    codes : array of shape (n,)
        The groups of the rows.
    all_codes : sequence of array of shape (n,)
        By factor, places among `layout.levels`; the inner factor's are not used.
    threads : int, optional
    """
    m, q = len(labels), basis.random_maps[layout.inner].shape[0]
    p = len(basis.map)
    gram = np.zeros((m, q * (q + 1) // 2))
    crossed = np.zeros((m, q, p + 1))
    ordered = bool((np.diff(codes) >= 0).all())
    if ordered:
        order, starts = None, np.searchsorted(codes, np.arange(m + 1))
    else:
        order, starts = counting_sort(codes, m)

    def sum_up(groups: slice) -> Any:
        """Sum up a range of groups, which no other thread touches."""
        products = np.zeros((p + 1, p + 1))
        at, end = starts[groups.start], starts[groups.stop]
        for i in range(at, end, TILE):
            tile = slice(i, min(i + TILE, end))
            index: Any = tile if order is None else order[tile]
            some = _only(rows, layout.inner)[index]
            W, (Z,) = _one(basis, layout.inner).products(some)
            scatter_groups(codes[index], Z, W, gram, crossed)
            products += W.T @ W
        return products

    parts = _ranges(len(rows), threads)
    bounds = np.searchsorted(starts, [part.start for part in parts])
    bounds[0] = 0
    ranges = [
        slice(int(a), int(b)) for a, b in zip(bounds, [*bounds[1:], m], strict=True)
    ]
    with ThreadPoolExecutor(len(ranges)) as pool:
        products = sum(pool.map(sum_up, ranges))
    weights = rows.weights
    sizes = np.bincount(codes, weights, minlength=m).astype(np.float64)
    coupled = layout.n_coupled
    whole = np.zeros((coupled + p + 1, coupled + p + 1))
    whole[coupled:, coupled:] = products
    indptr = np.zeros(m + 1, dtype=np.int64)
    columns = np.zeros(0, dtype=np.int64)
    couplings = np.zeros((0, q))
    if layout.outer:
        indptr, columns, couplings = _couple(
            rows, basis, layout, codes, all_codes, m, whole
        )
    table = GroupTable(labels, sizes, gram, crossed, indptr, columns, couplings)
    totals = Totals(
        n_rows=len(rows),
        weight=float(len(rows) if weights is None else weights.sum()),
        log_weight=0.0 if weights is None else float(np.log(weights).sum()),
        products=whole,
    )
    return table, totals


def _only(rows: Rows, factor: int) -> Rows:
    return dataclasses.replace(rows, factors=(rows.factors[factor],))


def _one(basis: Basis, factor: int) -> Basis:
    return dataclasses.replace(
        basis,
        random_origins=(basis.random_origins[factor],),
        random_ones=(basis.random_ones[factor],),
        random_maps=(basis.random_maps[factor],),
    )


def _couple(
    rows: Rows,
    basis: Basis,
    layout: Layout,
    codes: Array,
    all_codes: Sequence[Array],
    m: int,
    whole: Array,
) -> tuple[Array, Array, Array]:
    """Sum up what involves the outer factors: sparse columns, and totals."""
    W, Z = basis.products(rows)
    inner, c = Z[layout.inner], layout.n_coupled
    owners, columns, couplings = [], [], []
    for k, f in enumerate(layout.outer):
        at, q = layout.offsets[k], Z[f].shape[1]
        levels = len(layout.levels[k])
        mine = slice(at, at + levels * q)
        cells, index = np.unique(codes * levels + all_codes[f], return_inverse=True)
        sums = np.zeros((len(cells), q, inner.shape[1]))
        scatter_pairs(index.ravel(), Z[f], inner, sums)
        owners.append(np.repeat(cells // levels, q))
        columns.append((at + (cells % levels)[:, None] * q + np.arange(q)).ravel())
        couplings.append(sums.reshape(-1, inner.shape[1]))
        fixed = np.zeros((levels, q, W.shape[1]))
        scatter_pairs(all_codes[f], Z[f], W, fixed)
        whole[mine, c:] += fixed.reshape(-1, W.shape[1])
        whole[c:, mine] += fixed.reshape(-1, W.shape[1]).T
        for j, other in enumerate(layout.outer[: k + 1]):
            there, r = layout.offsets[j], Z[other].shape[1]
            n = len(layout.levels[j])
            pairs, index = np.unique(
                all_codes[f] * n + all_codes[other], return_inverse=True
            )
            blocks = np.zeros((len(pairs), q, r))
            scatter_pairs(index.ravel(), Z[f], Z[other], blocks)
            i = at + (pairs // n)[:, None] * q + np.arange(q)
            i_ = there + (pairs % n)[:, None] * r + np.arange(r)
            whole[i[:, :, None], i_[:, None, :]] = (
                whole[i[:, :, None], i_[:, None, :]] + blocks
            )
            if j != k:
                whole[i_[:, :, None], i[:, None, :]] += blocks.swapaxes(1, 2)
    owner, column = np.concatenate(owners), np.concatenate(columns)
    order = np.lexsort((column, owner))
    indptr = np.searchsorted(owner[order], np.arange(m + 1))
    return indptr, column[order], np.concatenate(couplings)[order]


def check_weights(rows: Rows) -> None:
    """Raise `ValueError` for weights that are negative or not finite."""
    weights = rows.weights
    if weights is None:
        return
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            "sample_weight must be finite and not negative; use 0 to leave a row out."
        )
