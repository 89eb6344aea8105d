"""Sentence pairs as the E-step wants to see them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ...alignment.bitext import Bitext, BitextSummary
from ...kernels.grouped import counting_sort
from ...kernels.word_table import index_cells

__all__ = ["PreparedBitext", "index_bitext"]

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class PreparedBitext:
    """Sentence pairs, indexed.

    Pairs that are the same have been merged, and are sorted by their lengths; see
    `dask_em.kernels.alignment` for the layout.

    Attributes
    ----------
    summary : BitextSummary
        Of all data, with the sides in the direction of the model.
    shapes, starts : array of shape (G, 2) and (G + 1,)
        Lengths (l, m) that occur here, and where the pairs with each of them begin.
    weights : array of shape (n_distinct,)
        How often each of the distinct pairs occurs.
    place : array of shape (n_pairs,)
        Which of the distinct pairs each pair is, -1 if a side is empty.
    ids, rows : array of shape (n_ids,) and (n_rows + 1,)
        The pairs of words, and where each source word's begin.
    cells : array of int32
        Where in `ids` each cell is; ``len(ids)`` for unknown words.
    """

    summary: BitextSummary
    shapes: Ids
    starts: Ids
    weights: Array
    place: Ids
    ids: Ids
    rows: Ids
    cells: NDArray[np.int32]

    @property
    def n_words(self) -> int:
        """Number of ids that belong to the table of words; they are the first."""
        return len(self.ids)

    @property
    def first_other(self) -> int:
        """The first id that cannot be one of the table of words."""
        sources = len(self.summary.source_types) + 1
        return sources * (len(self.summary.target_types) + 1)


def index_bitext(bitext: Bitext, summary: BitextSummary) -> PreparedBitext:
    """Merge pairs that are the same, and find out which words meet.

    Parameters
    ----------
    bitext : Bitext
    summary : BitextSummary
        Whose words are numbered in `bitext`.

    Returns
    -------
    PreparedBitext
    """
    distinct, weights, place = bitext.merged()
    n = len(distinct)
    length, m = np.diff(distinct.source_offsets), np.diff(distinct.target_offsets)
    changes = np.flatnonzero((np.diff(length) != 0) | (np.diff(m) != 0)) + 1
    starts = np.concatenate([[0], changes, [n]]) if n else np.zeros(1, np.int64)
    shapes = np.column_stack([length[starts[:-1]], m[starts[:-1]]])
    # NULL is word 0 and stands before every sentence
    source = np.insert(distinct.source + 1, distinct.source_offsets[:-1], 0)
    unknown = np.insert(distinct.source < 0, distinct.source_offsets[:-1], False)
    source[unknown] = -1
    offsets = distinct.source_offsets + np.arange(n + 1)
    cell_offsets = np.concatenate([[0], np.cumsum((length + 1) * m)])
    n_source = len(summary.source_types) + 1
    n_target = len(summary.target_types)
    cells = np.full(cell_offsets[-1], -1, dtype=np.int32)
    order, bounds = counting_sort(source, n_source)
    ids, rows = index_cells(
        source,
        offsets,
        distinct.target,
        distinct.target_offsets,
        order,
        bounds,
        np.repeat(np.arange(n, dtype=np.int32), length + 1),
        n_target,
        cell_offsets,
        cells,
    )
    if unknown.any() or (distinct.target < 0).any():
        cells[cells < 0] = len(ids)
    return PreparedBitext(summary, shapes, starts, weights, place, ids, rows, cells)
