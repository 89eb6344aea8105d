"""Rows into tables of groups: in this process, or by tasks of a Dask cluster."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from ..kernels.blas import one_thread
from ..kernels.grouped import counting_sort, scatter_groups, scatter_pairs
from .rows import Factor, Rows, bucket_of
from .survey import Basis, Survey
from .table import GroupTable, Totals

__all__ = ["Gathered", "Layout", "cross", "gather_dask", "gather_memory", "survey_rows"]

Array = NDArray[Any]

#: Rows that a thread looks at together.
TILE = 1 << 14
#: Largest table of products of shared effects, in bytes.
LIMIT = 1 << 30
#: Chunks of tables on a cluster, at most.
BUCKETS = 64

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
    n_rows : int
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
    n_threads: int | None = None,
) -> Survey:
    """Survey rows in memory, on threads."""
    parts = _ranges(len(rows), n_threads)
    with ThreadPoolExecutor(len(parts)) as pool:
        surveys = list(
            pool.map(
                lambda part: Survey.of(rows[part], names, factors, with_levels=False),
                parts,
            )
        )
    return surveys[0].merge(surveys[1:])


def _ranges(n: int, n_threads: int | None) -> list[slice]:
    """Cut rows into a range for each thread."""
    cores = n_threads or len(os.sched_getaffinity(0))
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
    with one_thread():  # there are threads enough
        survey = survey_rows(rows, names, factors)
        basis = Basis.of(survey, names, factors)
        labels, codes = zip(*(_factorized(f.labels) for f in rows.factors), strict=True)
        layout = Layout.of(factors, labels)
        table, totals = cross(
            rows, basis, layout, labels[layout.inner], codes[layout.inner], codes
        )
    return Gathered(table, totals, basis, layout, "memory")


def _factorized(labels: Array) -> tuple[Array, Array]:
    """Return sorted labels, and the place of each row's among them."""
    if labels.dtype.kind in "iu" and len(labels):
        least, most = int(labels.min()), int(labels.max())
        if (
            most - least < 4 * len(labels) and most < 2**62
        ):  # a table is faster than a sort
            seen = np.zeros(most - least + 1, dtype=bool)
            shifted = labels - labels.dtype.type(least)
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
    n_threads: int | None = None,
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
    n_threads : int, optional
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

    parts = _ranges(len(rows), n_threads)
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


# ------------------------------------------------------------------- on Dask


def gather_dask(
    chunks: Sequence[Any],
    make: Callable[[Any], Rows],
    names: Sequence[str],
    factors: Sequence[Factor],
    *,
    n_buckets: int | None = None,
) -> Gathered:
    """Sum up rows that lie in chunks of Dask collections.

    Rows of a group may be in any chunk. Either the groups' partial sums are brought
    together, or the rows themselves, whichever are fewer bytes. The data are read
    twice; nothing of them is kept.

    Parameters
    ----------
    chunks : sequence of Delayed
    make : callable
        Makes `Rows` of a chunk.
    names : sequence of str
    factors : sequence of Factor
    n_buckets : int, optional
        Chunks of the result; by default as many as the data have, within limits.
    """
    import dask
    import dask.array as da

    delayed: Any = dask.delayed  # type: ignore[attr-defined]
    several = len(factors) > 1
    made = delayed(make, pure=False)
    lazy = [made(chunk) for chunk in chunks]
    look = delayed(_Survey(tuple(names), tuple(factors), several), pure=False)
    survey = _tree([look(rows) for rows in lazy], delayed(_merge, pure=False))
    found: Survey = dask.compute(survey)[0]  # type: ignore[attr-defined]
    check_survey(found)
    basis = Basis.of(found, names, factors)
    layout = Layout(0, (), (), (0,))
    if several:
        layout = Layout.of(factors, found.levels)
    memory, slots = _capacity()
    if n_buckets is None:  # as few as balance: small pieces fragment memory
        n_buckets = min(len(chunks), 4 * slots, BUCKETS)
    q, p = factors[layout.inner].n_random, len(names)
    cells = 8 * (q + 1) * sum(factors[f].n_random for f in layout.outer)
    by_group = found.n_labels[layout.inner] * 8 * (q * (q + 1) // 2 + q * (p + 1) + 3)
    by_group += cells * found.n_rows
    by_row = found.n_rows * found.row_nbytes
    work = delayed(_Cross(basis, layout), pure=False)
    route: Route = "partial groups"
    if by_row < by_group and by_row < memory / 4:
        # rows of a group must all be in memory before they are summed up
        route = "rows by key"
        split = delayed(_split_rows, pure=False, nout=n_buckets)
        parts = [split(rows, layout.inner, n_buckets) for rows in lazy]
        join = delayed(_join_rows, pure=False)
        both = [work(join([part[b] for part in parts])) for b in range(n_buckets)]
        buckets = [pair[0] for pair in both]
        totals = [pair[1] for pair in both]
    else:
        split = delayed(_split_table, pure=False, nout=n_buckets + 1)
        parts = [split(work(rows), n_buckets) for rows in lazy]
        totals = [part[n_buckets] for part in parts]
        # along a tree, so that sums of a few chunks are held at a time
        join = delayed(_join_tables, pure=False)
        buckets = [_tree([part[b] for part in parts], join) for b in range(n_buckets)]
    total = _tree(totals, delayed(_added, pure=False))
    buckets = list(dask.persist(*buckets))  # type: ignore[attr-defined]
    size = delayed(len, pure=False)
    *sizes, summed = dask.compute(*[size(b) for b in buckets], total)  # type: ignore[attr-defined]
    width = q * (q + 1) // 2 + q * (p + 1)
    arrays = [
        da.from_delayed(bucket, (n, width), meta=np.empty((0, 0)))  # type: ignore[no-untyped-call]
        for bucket, n in zip(buckets, sizes, strict=True)
        if n
    ]
    table = da.concatenate(arrays, axis=0)  # type: ignore[no-untyped-call]
    return Gathered(table, summed, basis, layout, route)


def check_survey(survey: Survey) -> None:
    """Raise `ValueError` where nothing can be fitted."""
    if survey.n_rows == 0:
        raise ValueError("no row has a positive weight; check how they were selected.")


@dataclasses.dataclass(frozen=True)
class _Cross:
    basis: Basis
    layout: Layout

    def __call__(self, rows: Rows) -> tuple[GroupTable, Totals]:
        rows = rows.counted()
        layout = self.layout
        inner = rows.factors[layout.inner].labels
        labels, codes = _factorized(inner)
        all_codes: list[Any] = [None] * len(rows.factors)
        for f, levels in zip(layout.outer, layout.levels, strict=True):
            all_codes[f] = np.searchsorted(levels, rows.factors[f].labels)
        return cross(rows, self.basis, layout, labels, codes, all_codes, n_threads=1)


@dataclasses.dataclass(frozen=True)
class _Survey:
    names: tuple[str, ...]
    factors: tuple[Factor, ...]
    several: bool

    def __call__(self, rows: Rows) -> Survey:
        check_weights(rows)
        return Survey.of(
            rows.counted(), self.names, self.factors, with_levels=self.several
        )


def check_weights(rows: Rows) -> None:
    """Raise `ValueError` for weights that are negative or not finite."""
    weights = rows.weights
    if weights is None:
        return
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            "sample_weight must be finite and not negative; use 0 to leave a row out."
        )


def _capacity() -> tuple[float, int]:
    """Return bytes of memory and threads of the cluster, or of this machine."""
    from distributed import default_client

    try:
        info = default_client().scheduler_info(n_workers=-1)["workers"].values()
    except (ValueError, TypeError):
        info = []
    memory = float(sum(worker["memory_limit"] or 0 for worker in info))
    threads = sum(int(worker["nthreads"]) for worker in info)
    return (
        memory or float(psutil.virtual_memory().total),
        threads or len(os.sched_getaffinity(0)),
    )


def _merge(surveys: Sequence[Survey]) -> Survey:
    return surveys[0].merge(surveys[1:])


def _added(terms: Sequence[Any]) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _tree(items: list[Any], combine: Callable[[list[Any]], Any]) -> Any:
    """Combine lazily, eight at a time."""
    while len(items) > 1:
        items = [combine(items[i : i + 8]) for i in range(0, len(items), 8)]
    return items[0]


def _split_table(made: tuple[GroupTable, Totals], n: int) -> list[Any]:
    table, totals = made
    if n == 1:
        return [table, totals]
    where = bucket_of(table.labels, n)
    return [*(table[np.flatnonzero(where == b)] for b in range(n)), totals]


def _join_tables(tables: Sequence[GroupTable]) -> GroupTable:
    return GroupTable.combine(tables)


def _split_rows(rows: Rows, inner: int, n: int) -> list[Rows]:
    rows = rows.counted()
    if n == 1:
        return [rows]
    order, starts = counting_sort(bucket_of(rows.factors[inner].labels, n), n)
    return [rows[order[starts[b] : starts[b + 1]]] for b in range(n)]


def _join_rows(parts: Sequence[Rows]) -> Rows:
    return Rows.concatenate(parts)
