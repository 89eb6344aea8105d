"""Loops over links between the words of sentences, compiled.

Links of all pairs lie in two arrays of positions; those of pair k are
``offsets[k]:offsets[k + 1]``, sorted by source and then by target position.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["in_order", "symmetrize_links", "take_links"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def in_order(offsets: Any, source: Any, target: Any) -> Any:
    """Sort the links of each pair, and drop those that occur again.

    Parameters
    ----------
    offsets : array of shape (n_pairs + 1,)
    source, target : arrays of shape (n_links,)
        Sorted in place.

    Returns
    -------
    offsets : array of shape (n_pairs + 1,)
        The first ``offsets[-1]`` links are those to be kept.
    """
    out = np.zeros_like(offsets)
    n = 0
    for k in range(len(offsets) - 1):
        first = n
        for p in range(offsets[k], offsets[k + 1]):
            s, t = source[p], target[p]
            q = n
            # insertion: there are few, and most are in order
            while q > first and (
                source[q - 1] > s or (source[q - 1] == s and target[q - 1] > t)
            ):
                q -= 1
            if q > first and source[q - 1] == s and target[q - 1] == t:
                continue
            for r in range(n, q, -1):
                source[r] = source[r - 1]
                target[r] = target[r - 1]
            source[q] = s
            target[q] = t
            n += 1
        out[k + 1] = n
    return out


@_jit
def take_links(offsets: Any, source: Any, target: Any, place: Any) -> Any:
    """Return the links of some pairs, and none for negative numbers.

    Parameters
    ----------
    offsets, source, target : arrays
    place : array of shape (n_taken,)

    Returns
    -------
    offsets, source, target : arrays
    """
    out = np.zeros(len(place) + 1, np.int64)
    for k in range(len(place)):
        n = 0
        if place[k] >= 0:
            n = offsets[place[k] + 1] - offsets[place[k]]
        out[k + 1] = out[k] + n
    s, t = np.empty(out[-1], np.int32), np.empty(out[-1], np.int32)
    for k in range(len(place)):
        if place[k] >= 0:
            first, last = offsets[place[k]], offsets[place[k] + 1]
            s[out[k] : out[k + 1]] = source[first:last]
            t[out[k] : out[k + 1]] = target[first:last]
    return out, s, t


@_jit
def _add(grid: Any, i: int, j: int, by_source: Any, by_target: Any) -> None:
    grid[i, j] |= 4
    by_source[i] += 1
    by_target[j] += 1


@_jit
def _grow(grid: Any, length: int, m: int, by_source: Any, by_target: Any) -> None:
    """Add neighbours that are in the union and of which a word is not aligned yet."""
    di = (-1, 0, 1, 0, -1, -1, 1, 1)
    dj = (0, -1, 0, 1, -1, 1, -1, 1)
    grown = True
    while grown:
        grown = False
        for i in range(length):
            for j in range(m):
                if grid[i, j] < 4:
                    continue
                for d in range(8):
                    a, b = i + di[d], j + dj[d]
                    if a < 0 or b < 0 or a >= length or b >= m:
                        continue
                    if grid[a, b] in (1, 2) and not (by_source[a] and by_target[b]):
                        _add(grid, a, b, by_source, by_target)
                        grown = True


@_jit
def _finish(
    grid: Any,
    length: int,
    m: int,
    side: int,
    both: bool,
    by_source: Any,
    by_target: Any,
) -> None:
    """Add links of one direction of which a word is not aligned yet, or both."""
    for i in range(length):
        for j in range(m):
            if not grid[i, j] & side or grid[i, j] >= 4:
                continue
            taken = (by_source[i] > 0) + (by_target[j] > 0)
            if taken == 0 or (taken == 1 and not both):
                _add(grid, i, j, by_source, by_target)


@_jit
def symmetrize_links(
    offsets_1: Any,
    source_1: Any,
    target_1: Any,
    offsets_2: Any,
    source_2: Any,
    target_2: Any,
    grow: bool,
    final: bool,
    both: bool,
) -> Any:
    """Start from the links that both have, and add some that one has.

    Parameters
    ----------
    offsets_1, source_1, target_1, offsets_2, source_2, target_2 : arrays
        Links of the same pairs.
    grow : bool
        Add neighbours, diagonal ones too.
    final : bool
        Then add links of words that are not aligned yet: first those of the first,
        then those of the second.
    both : bool
        Only where neither word is aligned yet.

    Returns
    -------
    offsets, source, target : arrays
    """
    n_pairs = len(offsets_1) - 1
    out = np.zeros(n_pairs + 1, np.int64)
    s = np.empty(len(source_1) + len(source_2), np.int32)
    t = np.empty(len(source_1) + len(source_2), np.int32)
    grid = np.zeros((64, 64), np.uint8)  # 1 and 2: who has it, 4: taken
    n = 0
    for k in range(n_pairs):
        length, m = 0, 0
        for p in range(offsets_1[k], offsets_1[k + 1]):
            length, m = max(length, source_1[p] + 1), max(m, target_1[p] + 1)
        for p in range(offsets_2[k], offsets_2[k + 1]):
            length, m = max(length, source_2[p] + 1), max(m, target_2[p] + 1)
        if length > grid.shape[0] or m > grid.shape[1]:
            grid = np.zeros((max(2 * length, 64), max(2 * m, 64)), np.uint8)
        grid[:length, :m] = 0
        by_source, by_target = np.zeros(length, np.int32), np.zeros(m, np.int32)
        for p in range(offsets_1[k], offsets_1[k + 1]):
            grid[source_1[p], target_1[p]] |= 1
        for p in range(offsets_2[k], offsets_2[k + 1]):
            i, j = source_2[p], target_2[p]
            grid[i, j] |= 2
            if grid[i, j] == 3:
                _add(grid, i, j, by_source, by_target)
        if grow:
            _grow(grid, length, m, by_source, by_target)
        if final:
            _finish(grid, length, m, 1, both, by_source, by_target)
            _finish(grid, length, m, 2, both, by_source, by_target)
        for i in range(length):
            for j in range(m):
                if grid[i, j] >= 4:
                    s[n] = i
                    t[n] = j
                    n += 1
        out[k + 1] = n
    return out, s[:n].copy(), t[:n].copy()
