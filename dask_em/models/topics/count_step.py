"""The E-step of topic models in count form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import count_topics as kernels
from ...sparse_model import Array
from .base import Documents

__all__ = ["FOLD_SWEEPS", "FOLD_TOL", "topic_e_step"]

#: Updates of documents whose topics are unknown, before their E-step, and the share of
#: its words that must move between topics for a document to go on.
FOLD_SWEEPS, FOLD_TOL = 10, 1e-3


def topic_e_step(
    model: Any,
    counts: NDArray[Any],
    totals: Array,
    docs: Documents,
    words: NDArray[np.int64],
    doc: NDArray[Any] | None,
    dtype: Any = np.float64,
) -> tuple[NDArray[Any], Array, float, float, NDArray[Any]]:
    """Run an E-step in count form.

    Parameters
    ----------
    model : CountTopicModel or PeerCountTopicModel
    counts : array of shape (n_ids, K)
        Counts of words in topics.
    totals : array of shape (K,)
    docs : Documents
    words : array of shape (n_local,)
        Which rows of `counts` are those of the documents' words.
    doc : array of shape (n_docs, K), or None
        Counts of topics in documents, if they are known.
    dtype : dtype, default=float64
        Precision of the E-step and of what it returns.

    Returns
    -------
    rows : array of shape (n_local, K)
        New counts of words.
    totals : array of shape (K,)
        Their sums.
    bound : float
        The documents' part of the bound at these topics, with their new theta.
    logs : float
        Sum of the new counts times the log-probabilities of words in topics.
    doc : array of shape (n_docs, K)
        New counts of documents.
    """
    n_topics, b = model.n_topics, float(model.b)
    prior, weights = model.prior.astype(dtype), np.empty(n_topics, dtype)
    table = np.empty((len(words), 2, n_topics), dtype)
    kernels.inverse_totals(totals, docs.n_words, b, weights)
    kernels.fill_table(counts, words, b, table)
    csr = docs.indptr, docs.indices, docs.counts
    if doc is None:
        even = (docs.lengths / n_topics).astype(dtype)
        doc = np.repeat(even[:, None], n_topics, axis=1)
        kernels.fold_in(*csr, table, weights, prior, doc, FOLD_SWEEPS, FOLD_TOL)
    new_doc = np.empty((docs.n_docs, n_topics), dtype)
    likelihood = kernels.accumulate(*csr, table, weights, prior, doc, new_doc)
    rows, new_totals = np.empty((len(words), n_topics), dtype), np.zeros(n_topics)
    logs = kernels.finish(table, rows, new_totals)
    logs += new_totals @ np.log(weights, dtype=np.float64)
    bound = likelihood + kernels.documents_part(doc, new_doc, model.prior)
    return rows, new_totals, float(bound), float(logs), new_doc
