"""The table of words' translations: which there are, and how they are normalised.

The table is sparse: `rows` says where each source word's pairs begin among all, and the
last place of a row belongs to the sum of the row.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

__all__ = [
    "dirichlet_penalty",
    "dirichlet_rows",
    "index_cells",
    "normalise_rows",
    "sum_rows",
]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def index_cells(
    source: Any,
    source_offsets: Any,
    target: Any,
    target_offsets: Any,
    order: Any,
    starts: Any,
    sentence: Any,
    n_target: int,
    cell_offsets: Any,
    cells: Any,
) -> Any:
    """Find the distinct pairs of words, and which of them each cell is.

    Source words are taken one by one, and each one's target words are marked in an
    array as large as the vocabulary. So nothing is ever sorted but the distinct target
    words of one source word.

    Parameters
    ----------
    source, source_offsets : arrays of shape (n,) and (n_pairs + 1,)
        Words of the source side, where NULL is word 0 and stands before each sentence;
        -1 is unknown.
    target, target_offsets : arrays
        The same for the target side, without NULL.
    order, starts : arrays
        The tokens of the source side sorted by word, and where each word's begin.
    sentence : array of shape (n,)
        Which pair a source token belongs to.
    n_target : int
        Number of words of the target side; a row of ids has one more, the last, for
        the row's sum.
    cell_offsets : array of shape (n_pairs + 1,)
    cells : array of shape (n_cells,), int32
        Filled in for known words, left alone for others.

    Returns
    -------
    ids : array of shape (n_ids,)
        Sorted: row by row, for words of the source that occur.
    rows : array of shape (n_rows + 1,)
        Where rows begin.
    """
    width = n_target + 1
    stamp = np.full(width, -1, np.int64)
    place = np.empty(width, np.int32)
    words = np.empty(width, np.int32)
    ids = np.empty(max(1024, len(source)), np.int64)
    rows = np.zeros(len(starts), np.int64)
    n_rows = 0
    n_ids = 0
    for s in range(len(starts) - 1):
        mine = order[starts[s] : starts[s + 1]]
        if len(mine) == 0:
            continue
        n = 0
        for token in mine:
            k = sentence[token]
            for j in range(target_offsets[k], target_offsets[k + 1]):
                t = target[j]
                if t >= 0 and stamp[t] != s:
                    stamp[t] = s
                    words[n] = t
                    n += 1
        words[:n].sort()
        if n_ids + n + 1 > len(ids):
            larger = np.empty(2 * len(ids) + n + 1, np.int64)
            larger[:n_ids] = ids[:n_ids]
            ids = larger
        if n_ids + n + 1 >= 2**31 - 1:
            raise ValueError("more than 2**31 pairs of words: use more nodes")
        for r in range(n):
            place[words[r]] = n_ids + r
            ids[n_ids + r] = s * width + words[r]
        ids[n_ids + n] = s * width + n_target
        n_ids += n + 1
        n_rows += 1
        rows[n_rows] = n_ids
        for token in mine:
            k = sentence[token]
            step = source_offsets[k + 1] - source_offsets[k]
            at = cell_offsets[k] + token - source_offsets[k]
            for j in range(target_offsets[k], target_offsets[k + 1]):
                if target[j] >= 0:
                    cells[at] = place[target[j]]
                at += step
    return ids[:n_ids].copy(), rows[: n_rows + 1].copy()


@_jit
def sum_rows(stats: Any, rows: Any) -> None:
    """Put the sum of each row into its last place.

    Parameters
    ----------
    stats : array of shape (n_ids,)
    rows : array of shape (n_rows + 1,)
    """
    for r in range(len(rows) - 1):
        s = 0.0
        last = rows[r + 1] - 1
        for p in range(rows[r], last):
            s += stats[p]
        stats[last] = s


@_jit
def normalise_rows(stats: Any, rows: Any, params: Any) -> None:
    """Divide each row by its last number; rows of nothing keep what they have.

    Parameters
    ----------
    stats : array of shape (n_ids,)
    rows : array of shape (n_rows + 1,)
    params : array of shape (n_ids,)
        Receives the quotients.
    """
    for r in range(len(rows) - 1):
        last = rows[r + 1] - 1
        total = stats[last]
        if total > 0:
            for p in range(rows[r], last):
                params[p] = stats[p] / total
        params[last] = 1.0


@_jit
def _digamma(x: float) -> float:
    """By recurrence to where the asymptotic series has all digits."""
    s = 0.0
    while x < 8.0:
        s -= 1.0 / x
        x += 1.0
    y = 1.0 / (x * x)
    series = 1 / 240.0 - y * (1 / 132.0 - y * (691 / 32760.0 - y / 12.0))
    series = y * (1 / 12.0 - y * (1 / 120.0 - y * (1 / 252.0 - y * series)))
    return s + np.log(x) - 0.5 / x - series


@_jit
def dirichlet_rows(
    counts: Any, rows: Any, alpha: float, n_target: int, floor: float, out: Any
) -> None:
    r"""Compute :math:`\exp E \log t(f \mid e)` of Dirichlet posteriors.

    Parameters
    ----------
    counts : array of shape (n_ids,)
        With the sum of each row, over all data, in its last place.
    rows : array of shape (n_rows + 1,)
    alpha : float
        Of the symmetric prior.
    n_target : int
    floor : float
        Stands for anything below it.
    out : array of shape (n_ids,)
    """
    for r in range(len(rows) - 1):
        last = rows[r + 1] - 1
        whole = _digamma(n_target * alpha + counts[last])
        for p in range(rows[r], last):
            out[p] = max(np.exp(_digamma(alpha + counts[p]) - whole), floor)
        out[last] = 0.0


@_jit
def dirichlet_penalty(
    counts: Any, rows: Any, alpha: float, n_target: int, counted: Any
) -> float:
    """Sum up negative divergences of Dirichlet posteriors from their prior.

    Parameters
    ----------
    counts, rows, alpha, n_target
        As for `dirichlet_rows`.
    counted : array of bool of shape (n_ids,)

    Returns
    -------
    float
    """
    total = 0.0
    for r in range(len(rows) - 1):
        last = rows[r + 1] - 1
        for p in range(rows[r], last):
            if counted[p]:
                n = counts[p]
                total += math.lgamma(alpha + n) - math.lgamma(alpha)
                total -= n * _digamma(alpha + n)
        if counted[last]:
            prior, n = n_target * alpha, counts[last]
            total += math.lgamma(prior) - math.lgamma(prior + n)
            total += n * _digamma(prior + n)
    return total
