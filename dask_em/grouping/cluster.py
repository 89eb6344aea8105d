"""Rows into tables of groups, by tasks of a Dask cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil

from ..kernels.grouped import counting_sort
from ..kernels.threads import n_threads
from .basis import Basis
from .gather import Gathered, Layout, Route, check_weights, cross, factorized
from .rows import Factor, Rows, bucket_of
from .survey import Survey
from .table import GroupTable, Totals

__all__ = ["gather_dask"]

#: Chunks of tables on a cluster, at most.
BUCKETS = 64


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
        labels, codes = factorized(inner)
        all_codes: list[Any] = [None] * len(rows.factors)
        for f, levels in zip(layout.outer, layout.levels, strict=True):
            all_codes[f] = np.searchsorted(levels, rows.factors[f].labels)
        return cross(rows, self.basis, layout, labels, codes, all_codes, threads=1)


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
        threads or n_threads(),
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
