"""Drawing words of documents, compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["SCALE", "draw_documents", "fill_alias"]

_FASTMATH = {"contract", "reassoc", "nsz"}
#: Stands for a probability of 1.
SCALE = 2**31 - 1

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)


@_jit
def fill_alias(weights: Any, table: Any) -> Any:
    """Fill the table of the alias method (Vose, 1991).

    A uniformly drawn place i becomes word i with probability ``table[i, 0] / SCALE``,
    and word ``table[i, 1]`` otherwise; words then have probabilities proportional to
    weights. Both numbers are next to each other, for tables are larger than caches.

    Parameters
    ----------
    weights : array of shape (n_words,)
        Not negative, and not all 0.
    table : array of shape (n_words, 2), int32
        Is filled in.
    """
    n = len(weights)
    left = weights * (n / weights.sum())
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    n_small = n_large = 0
    for i in range(n):
        if left[i] < 1.0:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        i, j = small[n_small], large[n_large - 1]
        table[i, 0], table[i, 1] = np.int32(left[i] * SCALE), j
        left[j] -= 1.0 - left[i]
        if left[j] < 1.0:
            n_large -= 1
            small[n_small] = j
            n_small += 1
    for k in range(n_small):  # there by rounding
        table[small[k], 0], table[small[k], 1] = SCALE, small[k]
    for k in range(n_large):
        table[large[k], 0], table[large[k], 1] = SCALE, large[k]


@_jit
def draw_documents(
    n_tokens: Any, uniform: Any, tables: Any, indptr: Any, words: Any
) -> Any:
    """Draw the words of documents, and count them.

    Parameters
    ----------
    n_tokens : array of shape (n_docs, n_topics), int
        How many tokens of a document have a topic.
    uniform : array of shape (n_tokens.sum(),)
        Drawn from 0 to 1, one for each token.
    tables : array of shape (n_topics, n_words, 2)
        Of `fill_alias`.
    indptr : array of shape (n_docs + 1,)
    words : array of shape (n_tokens.sum(),), int32
        Both are filled in as those of a CSR array.

    Returns
    -------
    counts : array of shape (n_tokens.sum(),), float32
        Of which, and of `words`, the first ``indptr[-1]`` count.
    """
    n_words = tables.shape[1]
    counts = np.empty(len(words), np.float32)
    token = filled = 0
    indptr[0] = 0
    for d in range(len(n_tokens)):
        first = token
        for k in range(n_tokens.shape[1]):
            for _ in range(n_tokens[d, k]):
                place = uniform[token] * n_words
                i = min(int(place), n_words - 1)
                keep = (place - i) * SCALE < tables[k, i, 0]
                words[token] = i if keep else tables[k, i, 1]
                token += 1
        drawn = np.sort(words[first:token])
        start = filled  # never beyond the tokens that were read
        for word in drawn:
            if filled > start and words[filled - 1] == word:
                counts[filled - 1] += 1
            else:
                words[filled], counts[filled] = word, 1
                filled += 1
        indptr[d + 1] = filled
    return counts
