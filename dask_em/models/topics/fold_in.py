"""Topics of documents, where those of words are counts and held fixed."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...kernels import count_topics as kernels
from ...sparse_model import Array
from .base import Documents

__all__ = ["FoldIn", "keep_words"]

#: Share of a token below which a word counts as one that the fit has not seen.
_SEEN = 1e-6


@dataclasses.dataclass(frozen=True)
class FoldIn:
    r"""Describes and judges documents by topics in count form.

    The counts of topics in a document are a fixed point of

    .. math:: N_{dk} = \sum_w n_{dw} \frac{(N_{dk} + a_k) \phi_{kw}}
              {\sum_j (N_{dj} + a_j) \phi_{jw}}, \quad
              \phi_{kw} = \frac{N_{wk} + b}{N_k + W b},

    which is where EM in the document's :math:`\theta_{dk} \propto N_{dk} + a_k` ends
    that begins at even ones (fold-in; Hofmann, 1999).

    Parameters
    ----------
    rows : array of shape (n_words, K)
        The N_wk + b.
    a : array of shape (K,)
        Prior counts of topics in documents.
    b : float
        Prior counts of words in topics.
    tol : float
        A document is done when less than this share of its words moves.
    max_iter : int
        Updates of a document at most.
    normalize : bool, default=True
        Whether calling this returns shares of topics, or else :math:`N_{dk} + a_k`.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.models.topics.fold_in import FoldIn
    >>> from dask_em.topics.sources import as_csr
    >>> rows = np.array([[9.1, 0.1], [0.1, 9.1]])
    >>> fold_in = FoldIn(rows, np.full(2, 0.1), 0.1, tol=1e-6, max_iter=100)
    >>> fold_in(as_csr([[4, 0], [0, 0]])).round(2)
    array([[0.98, 0.02],
           [0.5 , 0.5 ]])
    """

    rows: Array
    a: Array
    b: float
    tol: float
    max_iter: int
    normalize: bool = True

    @functools.cached_property
    def _weights(self) -> Array:
        totals: Array = self.rows.sum(axis=0)  # of the N_wk + b: that is all of it
        weights = np.empty(len(totals))
        kernels.inverse_totals(totals, len(self.rows), 0.0, weights)
        return weights

    @functools.cached_property
    def _seen(self) -> NDArray[np.bool_]:
        """Words that occur in the documents of the fit."""
        tokens = self.rows.sum(axis=1) - self.rows.shape[1] * self.b
        return tokens > _SEEN

    def counts(self, X: sp.csr_array) -> Array:
        """Return the counts of topics in documents.

        Words that the fit has not seen say nothing about topics, and are left out.

        Parameters
        ----------
        X : csr_array of shape (n_docs, n_words)

        Returns
        -------
        array of shape (n_docs, K)
        """
        docs = Documents.of([keep_words(X, self._seen)], X.shape[1])
        n_topics = len(self.a)
        found = np.repeat(docs.lengths[:, None] / n_topics, n_topics, axis=1)
        kernels.fold_in(
            docs.indptr,
            docs.indices,
            docs.counts,
            self.rows[docs.words],
            self._weights,
            self.a,
            found,
            self.max_iter,
            self.tol,
        )
        return found

    def __call__(self, X: sp.csr_array) -> Array:
        """Return the topics of documents, of shape (n_docs, K)."""
        found = self.counts(X) + self.a
        if not self.normalize:
            return found
        sums = found.sum(axis=1, keepdims=True)
        empty = sums[:, 0] == 0  # neither words nor a prior: even shares
        found[empty], sums[empty] = 1.0, len(self.a)
        found /= sums
        return found

    def part(self, X: sp.csr_array) -> float:
        """Return the log-likelihood of documents, with the topics found from them."""
        return self.completed(X, X)[0]

    def completed(
        self, observed: sp.csr_array, scored: sp.csr_array
    ) -> tuple[float, float]:
        """Return the log-probability of tokens, and how many there are.

        Without a prior of words, those that the fit has not seen have no probability;
        they are left out of both.

        Parameters
        ----------
        observed, scored : csr_array of shape (n_docs, n_words)
            Tokens of the same documents, from which to find topics, and to score.
        """
        doc = self.counts(observed)
        if self.b == 0:
            scored = keep_words(scored, self._seen)
        docs = Documents.of([scored], scored.shape[1])
        rows = self.rows[docs.words]
        found = kernels.sweep(
            docs.indptr,
            docs.indices,
            docs.counts,
            rows,
            self._weights,
            self.a,
            doc,
            np.empty_like(doc),
            np.zeros_like(rows),
        )
        return float(found), float(docs.lengths.sum())


def keep_words(X: sp.csr_array, wanted: NDArray[np.bool_]) -> sp.csr_array:
    """Return documents without the words that are not wanted.

    Parameters
    ----------
    X : csr_array of shape (n_docs, n_words)
    wanted : array of bool of shape (n_words,)
    """
    keep = wanted[X.indices]
    if keep.all():
        return X
    indptr = np.append(0, np.cumsum(keep))[X.indptr]
    return sp.csr_array((X.data[keep], X.indices[keep], indptr), shape=X.shape)
