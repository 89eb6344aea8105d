"""Where topic models in count form begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ...kernels import count_topics as kernels
from ...sparse_model import Array
from .base import CorpusSummary, Documents
from .draws import draw_rows, uniforms

__all__ = ["STARTS", "shared_start", "start_counts"]

#: Ways to start: by pooled documents and a pass of stepwise EM, or almost even topics.
STARTS = ("documents", "random")

#: Documents that are pooled for a topic, and the share of words that is not theirs.
_POOLED, _BACKGROUND = 2, 0.8
#: Chunks of the sample, their least number of documents, and updates of a document.
_CHUNKS, _CHUNK_DOCS, _SWEEPS = 64, 10, 8
#: An update ends when less than this share of its words moves between topics.
_TOL = 1e-2
#: Entries of documents, times topics, that a start may look at.
_WORK = 5e8
#: Steps of stepwise EM are (t + tau0) ** -kappa.
_KAPPA, _TAU0 = 0.6, 1.0


def start_counts(
    model: Any, summary: CorpusSummary, sample: sp.csr_array, rng: np.random.Generator
) -> Array:
    """Return counts of words in topics that add up to the tokens of the corpus.

    Parameters
    ----------
    model : CountTopicModel
    summary : CorpusSummary
    sample : csr_array of shape (n_docs, n_words)
    rng : Generator

    Returns
    -------
    array of shape (n_words, K)
    """
    n_topics = model.n_topics
    shape = sample.shape[1], n_topics
    if model.begin == "random" or not sample.nnz:
        counts = rng.gamma(100.0, 0.01, shape)
        counts *= summary.n_tokens / counts.sum()
        return counts
    counts = _pooled(sample, n_topics, rng)
    counts *= summary.n_tokens / counts.sum()
    return _stepwise(model, counts, summary.n_tokens, sample, rng)


def _pooled(sample: sp.csr_array, n_topics: int, rng: np.random.Generator) -> Array:
    """Return topics that are a few random documents each, and all words a little."""
    whole = np.flatnonzero(np.diff(sample.indptr))
    each = min(_POOLED, -(-len(whole) // n_topics))
    drawn = rng.permutation(np.resize(rng.permutation(whole), each * n_topics))
    words = np.asarray(sample.sum(axis=0), dtype=np.float64).ravel()
    counts = np.empty((sample.shape[1], n_topics))
    # words outside of the sample must be able to join any topic
    even = (words + 1.0) / (words.sum() + len(words))
    for k in range(n_topics):
        mine = sample[drawn[k * each : (k + 1) * each]]
        own = np.asarray(mine.sum(axis=0), dtype=np.float64).ravel()
        counts[:, k] = (1 - _BACKGROUND) * own / own.sum() + _BACKGROUND * even
    return counts


def _stepwise(
    model: Any,
    counts: Array,
    n_tokens: float,
    sample: sp.csr_array,
    rng: np.random.Generator,
) -> Array:
    r"""Make one pass of stepwise EM (Cappé and Moulines, 2009) over the sample.

    Each chunk moves all counts by a part :math:`\rho` towards its own, scaled up to the
    tokens of the corpus. The counts so far are held as a multiple of an array, so that
    the rows of a chunk's words alone are touched.
    """
    n_topics, n_words = model.n_topics, sample.shape[1]
    # documents enough to begin with, if there are many topics
    most = int(_WORK / n_topics * sample.shape[0] / sample.nnz)
    order = rng.permutation(sample.shape[0])[: max(most, _CHUNK_DOCS)]
    chunks = max(1, min(_CHUNKS, len(order) // _CHUNK_DOCS))
    prior, weights, totals = model.prior, np.empty(n_topics), counts.sum(axis=0)
    space = np.empty((0, 2, n_topics))
    scale = 1.0
    for t, rows in enumerate(np.array_split(order, chunks)):
        docs = Documents.of([sample[np.sort(rows)]], n_words)
        n, tokens = len(docs.words), docs.lengths.sum()
        if tokens == 0:
            continue
        if n > len(space):
            space = np.empty((n, 2, n_topics))
        table = space[:n]
        # factors are known up to a constant: those of the array itself will do
        kernels.fill_table(counts, docs.words, model.b / scale, table)
        kernels.inverse_totals(totals, n_words, model.b / scale, weights)
        doc = np.repeat(docs.lengths[:, None] / n_topics, n_topics, axis=1)
        csr = docs.indptr, docs.indices, docs.counts
        kernels.fold_in(*csr, table, weights, prior, doc, _SWEEPS, _TOL)
        kernels.accumulate(*csr, table, weights, prior, doc, doc)
        rho = (t + 1 + _TAU0) ** -_KAPPA
        scale *= 1 - rho
        step = rho * n_tokens / tokens / scale
        kernels.merge(table, docs.words, step, counts, totals)
    counts *= scale
    return counts


def shared_start(
    docs: Documents, n_topics: int, summary: CorpusSummary, seed: int
) -> Array:
    """Return what some of the documents contribute to the counts to start from.

    Whether a document is pooled, and for which topic, depends on what is in it, so the
    sum over all documents is the same whichever node has which of them.

    Parameters
    ----------
    docs : Documents
    n_topics : int
    summary : CorpusSummary
        Of the whole corpus.
    seed : int

    Returns
    -------
    array of shape (n_local, K)
    """
    share = min(1.0, n_topics * _POOLED / max(summary.n_docs - summary.n_empty, 1))
    doc_of = np.repeat(np.arange(docs.n_docs), np.diff(docs.indptr))
    of_words = uniforms(seed, docs.words, 1)[:, 0]
    contents = np.bincount(
        doc_of, weights=of_words[docs.indices] * docs.counts, minlength=docs.n_docs
    )
    drawn = uniforms(seed, contents.astype(np.float64).view(np.uint64), 2)
    topic = (drawn[:, 1] * n_topics).astype(np.int64)
    mine = drawn[doc_of, 0] < share
    cells = docs.indices[mine].astype(np.int64) * n_topics + topic[doc_of[mine]]
    shape = len(docs.words), n_topics
    pooled = np.bincount(
        cells, weights=docs.counts[mine], minlength=shape[0] * shape[1]
    ).reshape(shape)
    even = draw_rows(seed, docs.words, n_topics) * (docs.totals[:, None] / n_topics)
    found: Array = (1 - _BACKGROUND) / share * pooled + _BACKGROUND * even
    return found
