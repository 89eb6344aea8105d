r"""Loops over the words of documents for topic models in count form, compiled.

The state of a model are expected counts: of documents' words in topics, N_dk, and of
words in topics, N_wk. A word of a document belongs to topic k with a probability
proportional to

.. math:: (N_{dk} + a_k) \frac{N_{wk} + b}{N_k + W b}.

`table` of shape (n_words, 2, K) has the factors :math:`N_{wk} + b` of a word next to
the sums that become its new counts, so that what one loop fetches the next one finds in
the cache. The denominators are folded into the side of documents, as `weights`.

Factors are bounded from below, by numbers far under all that counts: products of them
are never 0, and a word that no topic has goes where its document's others go.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .elementary import log
from .topics import fill_digamma

__all__ = [
    "accumulate",
    "documents_part",
    "fill_table",
    "finish",
    "fold_in",
    "inverse_totals",
    "merge",
    "prior_sums",
    "sweep",
    "words_part",
]

_FASTMATH = {"contract", "reassoc", "nsz"}
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)

#: Words of a document that are dealt with together.
_TILE = 64
#: Least factors of words and of documents in double and in single precision.
_LEAST_WORD, _LEAST_WORD_32 = 1e-150, 1e-15
_LEAST_DOC, _LEAST_DOC_32 = 1e-100, 1e-8


@_jit
def _least_word(array: Any) -> Any:
    return array.dtype.type(_LEAST_WORD if array.itemsize == 8 else _LEAST_WORD_32)


@_jit
def _least_doc(array: Any) -> Any:
    return array.dtype.type(_LEAST_DOC if array.itemsize == 8 else _LEAST_DOC_32)


@_jit
def inverse_totals(totals: Any, n_words: int, b: float, weights: Any) -> None:
    """Fill in 1 / (N_k + W b).

    Parameters
    ----------
    totals : array of shape (K,)
        The N_k.
    n_words : int
        Size W of the vocabulary.
    b : float
    weights : array of shape (K,)
        Is filled; its precision is that of the E-step.
    """
    least = _least_word(weights)
    for k in range(totals.shape[0]):
        weights[k] = 1.0 / max(totals[k] + n_words * b, n_words * least)


@_jit
def fill_table(counts: Any, words: Any, b: float, table: Any) -> None:
    """Fill in the factors of words, and zeros next to them.

    Parameters
    ----------
    counts : array of shape (n_ids, K)
    words : array of shape (n_words,)
        Which rows of it.
    b : float
    table : array of shape (n_words, 2, K)
    """
    least = _least_word(table)
    for i in range(words.shape[0]):
        given, row, sums = counts[words[i]], table[i, 0], table[i, 1]
        for k in range(row.shape[0]):
            row[k] = max(given[k] + b, least)
        for k in range(row.shape[0]):
            sums[k] = 0.0


@_jit
def _fill_doc(doc: Any, a: Any, weights: Any, least: Any, factors: Any) -> float:
    """Fill in the factors of a document; return the sum of its N_dk + a_k."""
    total = 0.0
    for k in range(doc.shape[0]):
        factors[k] = max(doc[k] + a[k], least)
    for k in range(doc.shape[0]):
        total += factors[k]
    for k in range(doc.shape[0]):
        factors[k] *= weights[k]
    return total


@_jit
def _dots(table: Any, words: Any, factors: Any, norms: Any) -> None:
    """Fill in inner products of a document's factors with words', four at a time."""
    n, n_topics = words.shape[0], factors.shape[0]
    zero = table.dtype.type(0)
    j = 0
    while j + 4 <= n:
        a, b = table[words[j], 0], table[words[j + 1], 0]
        c, d = table[words[j + 2], 0], table[words[j + 3], 0]
        sa = sb = sc = sd = zero
        for k in range(n_topics):
            sa += factors[k] * a[k]
            sb += factors[k] * b[k]
            sc += factors[k] * c[k]
            sd += factors[k] * d[k]
        norms[j], norms[j + 1], norms[j + 2], norms[j + 3] = sa, sb, sc, sd
        j += 4
    while j < n:
        a = table[words[j], 0]
        sa = zero
        for k in range(n_topics):
            sa += factors[k] * a[k]
        norms[j] = sa
        j += 1


@_jit
def _combine(table: Any, words: Any, ratios: Any, acc: Any) -> None:
    """Add the factors of words times their ratios."""
    n, n_topics = words.shape[0], acc.shape[0]
    j = 0
    while j + 4 <= n:
        a, b = table[words[j], 0], table[words[j + 1], 0]
        c, d = table[words[j + 2], 0], table[words[j + 3], 0]
        ra, rb, rc, rd = ratios[j], ratios[j + 1], ratios[j + 2], ratios[j + 3]
        for k in range(n_topics):
            acc[k] += ra * a[k] + rb * b[k] + (rc * c[k] + rd * d[k])
        j += 4
    while j < n:
        a, ra = table[words[j], 0], ratios[j]
        for k in range(n_topics):
            acc[k] += ra * a[k]
        j += 1


@_jit
def accumulate(
    indptr: Any,
    indices: Any,
    counts: Any,
    table: Any,
    weights: Any,
    a: Any,
    doc: Any,
    new_doc: Any,
) -> float:
    r"""Share the words of documents among topics.

    Parameters
    ----------
    indptr, indices, counts : arrays of shape (n_docs + 1,), (nnz,) and (nnz,)
        Documents in CSR form, with words that are rows of `table`.
    table : array of shape (n_words, 2, K)
        Factors of words, and sums to which are added the new counts of words divided
        by these factors.
    weights, a : arrays of shape (K,)
        Of the same precision as `table`.
    doc : array of shape (n_docs, K)
        The N_dk before.
    new_doc : array of shape (n_docs, K)
        Receives the new ones; it may be `doc`.

    Returns
    -------
    float
        The log-likelihood :math:`\sum_{dw} n_{dw} \log\sum_k \theta_{dk}\phi_{kw}`
        before, with :math:`\theta_{dk}` proportional to :math:`N_{dk} + a_k`.
    """
    n_docs, n_topics = doc.shape
    factors = np.empty(n_topics, table.dtype)
    acc = np.empty(n_topics, table.dtype)
    norms, ratios = np.empty(_TILE, table.dtype), np.empty(_TILE, table.dtype)
    least = _least_doc(table)
    likelihood = 0.0
    for d in range(n_docs):
        total = _fill_doc(doc[d], a, weights, least, factors)
        acc[:] = 0.0
        of_doc = 0.0
        for first in range(indptr[d], indptr[d + 1], _TILE):
            last = min(first + _TILE, indptr[d + 1])
            mine, n_w, n = indices[first:last], counts[first:last], last - first
            _dots(table, mine, factors, norms)
            for j in range(n):
                ratios[j] = n_w[j] / norms[j]
            _combine(table, mine, ratios, acc)
            for j in range(n):
                sums, r = table[mine[j], 1], ratios[j]
                for k in range(n_topics):
                    sums[k] += r * factors[k]
            for j in range(n):
                of_doc -= n_w[j] * log(max(total / norms[j], 1.0))
        likelihood += of_doc
        new = new_doc[d]
        for k in range(n_topics):
            new[k] = factors[k] * acc[k]
    return likelihood


@_jit
def finish(table: Any, rows: Any, totals: Any) -> float:
    """Make new counts of words from what `accumulate` left in a table.

    Parameters
    ----------
    table : array of shape (n_words, 2, K)
    rows : array of shape (n_words, K)
        Is filled.
    totals : array of shape (K,)
        Sums over these words are added to it.

    Returns
    -------
    float
        Sum of the new counts times the logarithms of the words' factors.
    """
    n_topics = rows.shape[1]
    total = 0.0
    for i in range(rows.shape[0]):
        factors, sums, row = table[i, 0], table[i, 1], rows[i]
        part = 0.0
        for k in range(n_topics):
            row[k] = factors[k] * sums[k]
            part += row[k] * log(np.float64(factors[k]))
        for k in range(n_topics):
            totals[k] += row[k]
        total += part
    return total


@_jit
def merge(table: Any, words: Any, step: float, counts: Any, totals: Any) -> None:
    """Add new counts of words, so many times, where they belong.

    Parameters
    ----------
    table : array of shape (n_words, 2, K)
        As `accumulate` left it.
    words : array of shape (n_words,)
        Rows of `counts`.
    step : float
    counts : array of shape (n_ids, K)
    totals : array of shape (K,)
        The sums of `counts`.
    """
    for i in range(words.shape[0]):
        factors, sums, row = table[i, 0], table[i, 1], counts[words[i]]
        for k in range(totals.shape[0]):
            more = step * (factors[k] * sums[k])
            row[k] += more
            totals[k] += more


@_jit
def sweep(
    indptr: Any,
    indices: Any,
    counts: Any,
    rows: Any,
    weights: Any,
    a: Any,
    doc: Any,
    new_doc: Any,
    new_rows: Any,
) -> float:
    """Share the words of documents among topics; see `accumulate`.

    Parameters
    ----------
    indptr, indices, counts : arrays of shape (n_docs + 1,), (nnz,) and (nnz,)
    rows : array of shape (n_words, K)
        The factors N_wk + b.
    weights, a : arrays of shape (K,)
    doc, new_doc : arrays of shape (n_docs, K)
    new_rows : array of shape (n_words, K)
        New counts of words are added to it.

    Returns
    -------
    float
        The log-likelihood before.
    """
    n_words, n_topics = rows.shape
    table = np.empty((n_words, 2, n_topics), rows.dtype)
    fill_table(rows, np.arange(n_words), 0.0, table)
    found = accumulate(indptr, indices, counts, table, weights, a, doc, new_doc)
    for i in range(n_words):
        factors, sums, row = table[i, 0], table[i, 1], new_rows[i]
        for k in range(n_topics):
            row[k] += factors[k] * sums[k]
    return found


@_jit
def fold_in(
    indptr: Any,
    indices: Any,
    counts: Any,
    rows: Any,
    weights: Any,
    a: Any,
    doc: Any,
    n_sweeps: int,
    tol: float,
) -> None:
    """Find the topics of documents, given those of words.

    Parameters
    ----------
    indptr, indices, counts : arrays of shape (n_docs + 1,), (nnz,) and (nnz,)
    rows : array of shape (n_words, K), or a table of shape (n_words, 2, K)
        The factors N_wk + b, which are positive.
    weights, a : arrays of shape (K,)
    doc : array of shape (n_docs, K)
        Where to start; is updated.
    n_sweeps : int
        Updates of a document at most.
    tol : float
        A document is done when an update moves less than this share of its words from
        one topic to another.
    """
    table = rows.reshape(rows.shape[0], -1, doc.shape[1])
    n_topics = doc.shape[1]
    factors = np.empty(n_topics, table.dtype)
    acc = np.empty(n_topics, table.dtype)
    norms, ratios = np.empty(_TILE, table.dtype), np.empty(_TILE, table.dtype)
    least = _least_doc(table)
    for d in range(doc.shape[0]):
        mine_all = doc[d]
        for _ in range(n_sweeps):
            _fill_doc(mine_all, a, weights, least, factors)
            acc[:] = 0.0
            for first in range(indptr[d], indptr[d + 1], _TILE):
                last = min(first + _TILE, indptr[d + 1])
                mine, n_w = indices[first:last], counts[first:last]
                _dots(table, mine, factors, norms)
                for j in range(last - first):
                    ratios[j] = n_w[j] / norms[j]
                _combine(table, mine, ratios, acc)
            change, tokens = 0.0, 0.0
            for k in range(n_topics):
                new = factors[k] * acc[k]
                change += abs(new - mine_all[k])
                tokens += new
                mine_all[k] = new
            if change <= 2.0 * tol * tokens:
                break


@_jit
def documents_part(doc: Any, new_doc: Any, a: Any) -> float:
    r"""Return what documents add to the bound beside their log-likelihood.

    .. math:: \sum_{dk} N'_{dk} (\log\theta'_{dk} - \log\theta_{dk})
              + a_k \log\theta'_{dk}

    Parameters
    ----------
    doc : array of shape (n_docs, K)
        The N_dk that :math:`\theta` is made of.
    new_doc : array of shape (n_docs, K)
        The new ones, of which :math:`\theta'` is made.
    a : array of shape (K,)
    """
    n_topics = a.shape[0]
    least = np.float64(_least_doc(doc))
    prior = a.sum()
    found = 0.0
    for d in range(doc.shape[0]):
        old, new = doc[d], new_doc[d]
        before = after = tokens = part = 0.0
        for k in range(n_topics):
            x, y = max(old[k] + a[k], least), max(new[k] + a[k], least)
            before += x
            after += y
            tokens += new[k]
            part += (new[k] + a[k]) * log(y) - new[k] * log(x)
        found += part + tokens * log(before) - (tokens + prior) * log(after)
    return found


@_jit
def words_part(ids: Any, rows: Any, counts: Any, prior: float, b: float) -> float:
    r"""Return :math:`\sum_{wk} (N_{wk} + prior) \log(P_{wk} + b)`.

    Parameters
    ----------
    ids : array of shape (n_words,)
        Which words `rows` are of; the rows of `counts`, in order, if it is empty.
    rows : array of shape (n_words, K)
        The N_wk.
    counts : array of shape (n_ids, K)
        The P_wk.
    prior, b : float
    """
    n_topics = counts.shape[1]
    every = ids.shape[0] == 0
    total = 0.0
    for i in range(rows.shape[0]):
        row, at = rows[i], counts[i if every else ids[i]]
        part = 0.0
        for k in range(n_topics):
            x = max(np.float64(at[k]) + b, _LEAST_WORD)
            part += (row[k] + prior) * log(x)
        total += part
    return total


@_jit
def prior_sums(doc: Any, a: Any, sums: Any) -> None:
    r"""Fill in the sums over documents from which priors are learned.

    They are :math:`\sum_d \psi(N_{dk} + a_k) - \psi(a_k)` for each topic, and
    :math:`\sum_d \psi(N_d + \sum_k a_k) - \psi(\sum_k a_k)` (Minka, 2000, eq. 55).

    Parameters
    ----------
    doc : array of shape (n_docs, K)
    a : array of shape (K,)
        Positive.
    sums : array of shape (K + 1,)
    """
    n_topics = a.shape[0]
    x, psi, least = np.empty(n_topics), np.empty(n_topics), np.empty(n_topics)
    whole, psi_whole = np.empty(2), np.empty(2)
    fill_digamma(a, least)
    sums[:] = 0.0
    prior = a.sum()
    for d in range(doc.shape[0]):
        tokens = 0.0
        for k in range(n_topics):
            x[k] = doc[d, k] + a[k]
            tokens += doc[d, k]
        fill_digamma(x, psi)
        for k in range(n_topics):
            sums[k] += psi[k] - least[k]
        whole[0], whole[1] = tokens + prior, prior
        fill_digamma(whole, psi_whole)
        sums[n_topics] += psi_whole[0] - psi_whole[1]
