"""What to do with topics once they are there: describe and judge other documents."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import digamma

from ...kernels import topics as kernels
from ...sparse_model import Array
from .base import Documents
from .variational import infer_topics, topics_part

__all__ = [
    "Posterior",
    "completion",
    "document_topics",
    "exp_dirichlet",
    "normalised",
    "probabilities",
    "split_tokens",
    "topics_bound",
]


def exp_dirichlet(components: Array) -> Array:
    r"""Return :math:`e^{E[\log\beta]}` of topics.

    Parameters
    ----------
    components : array of shape (K, n_words)
        Parameters of their Dirichlet distributions.
    """
    return np.exp(digamma(components) - digamma(components.sum(axis=1))[:, None])


def probabilities(components: Array) -> Array:
    """Return topics as distributions of words; one without any is an even one.

    Parameters
    ----------
    components : array of shape (K, n_words)
    """
    sums = components.sum(axis=1, keepdims=True)
    empty = sums == 0
    return np.where(empty, 1 / components.shape[1], components / (sums + empty))


def normalised(gamma: Array) -> Array:
    """Return the expected shares of topics, which add up to one in each row."""
    return gamma / gamma.sum(axis=1, keepdims=True)


def document_topics(
    components: Array, X: sp.csr_array, alpha: Array, tol: float, max_iter: int
) -> tuple[Array, float]:
    """Find the posterior of the topics of documents, given those of words.

    Parameters
    ----------
    components : array of shape (K, n_words)
    X : csr_array of shape (n_docs, n_words)
    alpha : array of shape (K,)
    tol : float
        Mean absolute change of gamma below which a document is done.
    max_iter : int
        Updates of a document at most.

    Returns
    -------
    gamma : array of shape (n_docs, K)
    bound : float
        What the documents contribute to the bound on the log-likelihood;
        `topics_bound` is the rest of it.
    """
    docs = Documents.of([X], X.shape[1])
    rows = np.ascontiguousarray(components.T[docs.words], dtype=np.float64)
    totals = components.sum(axis=1, dtype=np.float64)
    gamma = alpha + docs.lengths[:, None] / len(components)
    stats = np.zeros(rows.shape)
    bound = infer_topics(rows, totals, docs, alpha, tol, max_iter, gamma, stats)
    return gamma, bound


def topics_bound(components: Array, eta: float) -> float:
    """Return minus the divergence of the posterior of topics from their prior.

    Parameters
    ----------
    components : array of shape (K, n_words)
    eta : float
    """
    rows = np.ascontiguousarray(components.T, dtype=np.float64)
    totals = components.sum(axis=1, dtype=np.float64)
    part = kernels.dirichlet_part(rows, totals, eta)
    return float(part + topics_part(totals, len(rows), eta))


def split_tokens(
    X: sp.csr_array, rng: np.random.Generator
) -> tuple[sp.csr_array, sp.csr_array]:
    """Put each token of documents into one of two halves, with probability 1/2.

    Parameters
    ----------
    X : csr_array of shape (n_docs, n_words)
        Whole numbers.
    rng : Generator

    Returns
    -------
    observed, scored : csr_array of shape (n_docs, n_words)

    Raises
    ------
    ValueError
        If counts are not whole numbers.
    """
    if (X.data % 1 != 0).any():
        raise ValueError(
            "Tokens can be counted and split only if all counts are whole numbers; "
            "pass counts of words, not weights such as tf-idf."
        )
    n = X.data.astype(np.int64)
    drawn = rng.binomial(n, 0.5)
    halves = []
    for part in (drawn, n - drawn):
        half = sp.csr_array((part.astype(X.dtype), X.indices, X.indptr), shape=X.shape)
        half = half.copy()  # eliminate_zeros works in place on shared indices
        half.eliminate_zeros()
        halves.append(half)
    return halves[0], halves[1]


def completion(
    theta: Array, topics: Array, scored: sp.csr_array
) -> tuple[float, float]:
    r"""Return the log-probability of tokens, :math:`\sum n_{dw} \log\theta_d'\beta_w`.

    Parameters
    ----------
    theta : array of shape (n_docs, K)
        Shares of topics, found from other tokens of the documents.
    topics : array of shape (K, n_words)
        Probabilities of words.
    scored : csr_array of shape (n_docs, n_words)

    Returns
    -------
    log_probability, n_tokens : float
    """
    columns: NDArray[np.float64] = np.ascontiguousarray(topics.T)
    total = 0.0
    for d in range(scored.shape[0]):
        mine = slice(scored.indptr[d], scored.indptr[d + 1])
        p = columns[scored.indices[mine]] @ theta[d]
        total += float(scored.data[mine] @ np.log(p))
    return total, float(scored.data.sum(dtype=np.float64))


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Describes and judges documents by a posterior of topics.

    Parameters
    ----------
    components : array of shape (K, n_words)
    alpha : array of shape (K,)
    tol : float
        Mean absolute change of gamma below which a document is done.
    max_iter : int
        Updates of a document at most.
    normalize : bool, default=True
        Whether calling this returns expected shares of topics, or else gamma.
    """

    components: Array
    alpha: Array
    tol: float
    max_iter: int
    normalize: bool = True

    def __call__(self, X: sp.csr_array) -> Array:
        """Return the topics of documents, of shape (n_docs, K)."""
        gamma, _ = self._found(X)
        return normalised(gamma) if self.normalize else gamma

    def part(self, X: sp.csr_array) -> float:
        """Return what documents contribute to the bound on the log-likelihood."""
        return self._found(X)[1]

    def completed(
        self, observed: sp.csr_array, scored: sp.csr_array
    ) -> tuple[float, float]:
        """Return the log-probability of tokens, and how many there are.

        Parameters
        ----------
        observed, scored : csr_array of shape (n_docs, n_words)
            Tokens of the same documents, from which to find topics, and to score.
        """
        gamma, _ = self._found(observed)
        return completion(normalised(gamma), probabilities(self.components), scored)

    def _found(self, X: sp.csr_array) -> tuple[Array, float]:
        return document_topics(self.components, X, self.alpha, self.tol, self.max_iter)
