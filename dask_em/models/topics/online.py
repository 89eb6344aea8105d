"""Topics in count form from one batch of documents after the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp

from ...sparse_model import Array
from .base import Documents, survey_counts
from .count import CountTopicModel
from .count_start import start_counts
from .count_step import topic_e_step
from .fold_in import FoldIn

__all__ = ["Stepwise"]


@dataclasses.dataclass(frozen=True)
class Stepwise:
    r"""Stepwise EM for topics in count form.

    A batch of the documents moves all counts some of the way to its own, scaled up to
    all documents,

    .. math:: N_{wk} \leftarrow (1 - \rho_t) N_{wk} + \rho_t \frac{D}{|B_t|}
              \sum_{d \in B_t} n_{dw} \gamma_{dwk}, \quad
              \rho_t = (\tau_0 + t)^{-\kappa}

    (Cappé and Moulines, 2009; Hoffman, Blei and Bach, 2010).

    Parameters
    ----------
    model : CountTopicModel
    n_docs : float
        Documents D of the whole corpus.
    decay : float
        Kappa.
    offset : float
        Tau_0.
    tol : float
        Of the fold-in of a batch; see `FoldIn`.
    max_iter : int
    """

    model: CountTopicModel
    n_docs: float
    decay: float
    offset: float
    tol: float
    max_iter: int

    def begin(self, X: sp.csr_array, rng: np.random.Generator) -> Array:
        """Return counts to begin with, of shape (n_words, K).

        Parameters
        ----------
        X : csr_array of shape (n_docs, n_words)
            The first batch.
        rng : Generator
        """
        summary = survey_counts(X, self.model.name)
        found = start_counts(self.model, summary, X, rng)
        found *= self.n_docs / X.shape[0]
        return found

    def step(self, counts: Array, X: sp.csr_array, t: int) -> Array:
        """Return the counts after a batch.

        Parameters
        ----------
        counts : array of shape (n_words, K)
            Are not changed.
        X : csr_array of shape (n_docs, n_words)
        t : int
            Number of the batch, from 1.
        """
        model, b = self.model, float(self.model.b)
        docs = Documents.of([X], X.shape[1])
        if not X.nnz:
            return counts
        find: Any = FoldIn(counts + b, model.prior, b, self.tol, self.max_iter)
        rows, *_ = topic_e_step(
            model, counts, counts.sum(axis=0), docs, docs.words, find.counts(X)
        )
        rho = (self.offset + t) ** -self.decay
        found: Array = counts * (1 - rho)
        found[docs.words] += rho * self.n_docs / X.shape[0] * rows
        return found
