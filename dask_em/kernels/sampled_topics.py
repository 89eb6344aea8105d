r"""Loops over the tokens of documents for topic models by sampling, compiled.

A token of word w in document d is given topic k with a probability proportional to

.. math:: (N_{dk} + a_k) \phi_{kw} = a_k \phi_{kw} + N_{dk} \phi_{kw}.

The first part is the same for all documents, and its running sums are made once per
word; of the second only the topics that the document has matter. So a token costs about
as much as its document has topics, not as there are. Words are taken one by one, that
all their topics stay in the cache.

Documents are *tallies* in CSR form: topics, the most frequent first, and their counts.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["sample_sweep", "tallies_part", "tally"]

_FASTMATH = {"contract", "reassoc", "nsz"}
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53


@_jit
def _uniform(state: Any) -> float:
    """Return a number in [0, 1) of splitmix64 (Steele, Lea and Flood, 2014)."""
    state[0] += _GOLDEN
    x = state[0]
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    x = x ^ (x >> _S31)
    return np.float64(x >> _S11) * _UNIT


@_jit
def sample_sweep(
    starts: Any,
    docs: Any,
    counts: Any,
    topics: Any,
    weights: Any,
    words: Any,
    b: float,
    a: Any,
    offsets: Any,
    present: Any,
    tallies: Any,
    state: Any,
    places: Any,
    drawn: Any,
    rows: Any,
) -> None:
    """Draw the topics of all tokens.

    Parameters
    ----------
    starts, docs, counts : arrays of shape (n_words + 1,), (nnz,) and (nnz,)
        Documents in CSC form; counts are whole numbers.
    topics : array of shape (n_ids, K)
        Counts of words in topics.
    weights : array of shape (K,)
        Such that phi_kw = (topics_wk + b) weights_k.
    words : array of shape (n_words,)
        Which rows of `topics`.
    b : float
    a : array of shape (K,)
        Positive.
    offsets, present, tallies : arrays of shape (n_docs + 1,), (n,) and (n,)
        The tallies that the probabilities are made of.
    state : array of shape (1,), uint64
        Of the generator; is advanced.
    places : array of shape (n_docs,)
        Where in `drawn` the next token of a document goes; is advanced.
    drawn : array of shape (n_tokens,)
        Receives the topics, document by document.
    rows : array of shape (n_words, K)
        Their counts are added to it.
    """
    n_topics = a.shape[0]
    phi, sums = np.empty(n_topics), np.empty(n_topics)
    for i in range(starts.shape[0] - 1):
        if starts[i] == starts[i + 1]:
            continue
        given, row = topics[words[i]], rows[i]
        for k in range(n_topics):
            phi[k] = (given[k] + b) * weights[k]
        anywhere = 0.0
        for k in range(n_topics):
            anywhere += a[k] * phi[k]
            sums[k] = anywhere
        for j in range(starts[i], starts[i + 1]):
            d = docs[j]
            first, last = offsets[d], offsets[d + 1]
            here = 0.0
            for t in range(first, last):
                here += tallies[t] * phi[present[t]]
            at = places[d]
            for _ in range(counts[j]):
                u = _uniform(state) * (here + anywhere)
                if u < here:
                    t = first
                    u -= tallies[t] * phi[present[t]]
                    while u >= 0.0 and t + 1 < last:
                        t += 1
                        u -= tallies[t] * phi[present[t]]
                    k = int(present[t])
                else:
                    k = int(np.searchsorted(sums, u - here, "right"))
                    k = min(k, n_topics - 1)
                drawn[at] = k
                at += 1
                row[k] += 1.0
            places[d] = at


@_jit
def tally(ends: Any, drawn: Any, n_topics: int, offsets: Any) -> Any:
    """Count the topics of documents.

    Parameters
    ----------
    ends : array of shape (n_docs + 1,)
        Where in `drawn` the tokens of documents begin, and the last one's end.
    drawn : array of shape (n_tokens,)
        Topics.
    n_topics : int
    offsets : array of shape (n_docs + 1,)
        Is filled.

    Returns
    -------
    present, tallies : arrays of shape (n,)
    """
    n_docs = ends.shape[0] - 1
    seen = np.zeros(n_topics, np.int32)
    found = np.empty(n_topics, np.int32)
    offsets[0] = 0
    for d in range(n_docs):
        n = 0
        for i in range(ends[d], ends[d + 1]):
            k = drawn[i]
            n += seen[k] == 0
            seen[k] = 1
        for i in range(ends[d], ends[d + 1]):
            seen[drawn[i]] = 0
        offsets[d + 1] = offsets[d] + n
    present = np.empty(offsets[n_docs], np.uint32)  # unsigned is indexed faster
    tallies = np.empty(offsets[n_docs], np.int32)
    for d in range(n_docs):
        n = 0
        for i in range(ends[d], ends[d + 1]):
            k = drawn[i]
            if seen[k] == 0:
                found[n] = k
                n += 1
            seen[k] += 1
        order = np.argsort(-seen[found[:n]], kind="mergesort")
        at = offsets[d]
        for j in range(n):
            k = found[order[j]]
            present[at + j] = k
            tallies[at + j] = seen[k]
        for j in range(n):
            seen[found[j]] = 0
    return present, tallies


@_jit
def tallies_part(offsets: Any, present: Any, tallies: Any, a: Any) -> float:
    r"""Return :math:`\sum_{dk} (N_{dk} + a_k) \log\theta_{dk}`.

    Here :math:`\theta_{dk} = (N_{dk} + a_k) / (N_d + \sum_k a_k)`.

    Parameters
    ----------
    offsets, present, tallies : arrays of shape (n_docs + 1,), (n,) and (n,)
    a : array of shape (K,)
        Positive.
    """
    n_topics = a.shape[0]
    of_prior = np.empty(n_topics)
    prior = nothing = 0.0
    for k in range(n_topics):
        of_prior[k] = a[k] * np.log(a[k])
        prior += a[k]
        nothing += of_prior[k]
    found = 0.0
    for d in range(offsets.shape[0] - 1):
        tokens, part = prior, nothing
        for t in range(offsets[d], offsets[d + 1]):
            k = present[t]
            n = tallies[t] + a[k]
            part += n * np.log(n) - of_prior[k]
            tokens += tallies[t]
        found += part - tokens * np.log(tokens)
    return found
