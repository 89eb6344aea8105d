"""Documents and fitted topics: shares of topics, scores, perplexity."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..models.topics import transform as documents
from ..models.topics.fold_in import FoldIn
from .fitted_topics import Array, FittedTopics
from .topic_input import map_documents, read_corpus, sum_documents
from .topic_settings import is_integer

__all__ = ["UPDATES", "TopicDocuments"]

#: Updates of the topics of a new document, which begin anew, at most.
UPDATES = 100


class TopicDocuments(TransformerMixin):
    """Mixin of `LatentDirichletAllocation`: what it does with documents."""

    _topics: FittedTopics
    _variational: bool
    _priors: tuple[Any, float]
    topic_word_prior_: float
    mean_change_tol: float
    max_doc_update_iter: int

    def fit_transform(self, X: Any, y: Any = None, *, normalize: bool = True) -> Any:
        """Fit topics and return those of the documents; see `fit` and `transform`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
        y : Ignored
        normalize : bool, default=True

        Returns
        -------
        array or dask array of shape (n_documents, n_components)
            Or an awaitable of it if the current Dask client is asynchronous.
        """
        fitted = self.fit(X, y)  # type: ignore[attr-defined]
        if inspect.isawaitable(fitted):

            async def later() -> Any:
                return (await fitted).transform(X, normalize=normalize)

            return later()
        return fitted.transform(X, normalize=normalize)

    def transform(self, X: Any, *, normalize: bool = True) -> Any:
        """Return the topics of documents.

        The topics of words are held fixed. A document without words that the fit has
        seen is described by the prior.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            As for `fit`. Lists of words are counted by the vocabulary of the fit.
        normalize : bool, default=True
            Whether to return shares, which add up to one, or else what they are made
            of: the expected counts of the document's words in topics plus those of
            the prior; for variational inference the parameters gamma of the posterior.

        Returns
        -------
        array or dask array of shape (n_documents, n_components)
            Lazy where the documents are, and with the same chunks.

        Raises
        ------
        ValueError
            If counts are negative, or documents have not the columns of the fit.
        """
        whom = "LatentDirichletAllocation.transform"
        check_is_fitted(self)
        corpus, _, dtype = read_corpus(self, X, reset=False, whom=whom)
        function = dataclasses.replace(self._described, normalize=normalize)
        n_topics = self._topics.rows.shape[1]
        return map_documents(function, corpus, n_topics, dtype, whom)

    def score(self, X: Any, y: Any = None) -> float:
        r"""Return the log-likelihood of documents, or a bound on it.

        It is :math:`\sum_{dw} n_{dw} \log\sum_k \theta_{dk} \phi_{kw}` with the shares
        that `transform` returns; for variational inference the bound, as scikit-learn
        has it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            As for `fit`; lazy documents are computed.
        y : Ignored

        Returns
        -------
        float
            Not divided by anything. Shares are fitted to the very tokens that are
            scored, so the more topics the better; see `perplexity`. The bound has the
            divergence of topics from their prior in it, and so compares models on the
            same documents only.
        """
        whom = "LatentDirichletAllocation.score"
        check_is_fitted(self)
        corpus, _, _ = read_corpus(self, X, reset=False, whom=whom)
        total = float(sum_documents(_Part(self._described), corpus, whom))
        if self._variational:
            components = self._topics.components
            total += documents.topics_bound(components, self.topic_word_prior_)
        return total

    def perplexity(self, X: Any, *, seed: int = 0) -> float:
        r"""Return the perplexity of documents by completion.

        Each token is put into one of two halves with probability 1/2. Topics are found
        from the observed half, and the other is scored with the shares that `transform`
        returns:

        .. math:: \exp\Bigl(-\frac{\sum_{d,w} n^{\mathrm{scored}}_{dw}
                  \log\sum_k \theta_{dk} \phi_{kw}}
                  {\sum_{d,w} n^{\mathrm{scored}}_{dw}}\Bigr)

        It is a number for held-out documents. scikit-learn's method of this name turns
        `score` into a perplexity instead, which for new documents is dominated by the
        divergence of topics from their prior.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            As for `fit`, but whole numbers; lazy documents are computed.
        seed : int, default=0
            Of the halves. Those of lazy documents depend on the chunks, too.

        Returns
        -------
        float
            NaN if no token is scored. With ``topic_word_prior=1`` words that the fit
            has not seen, which have no probability then, are not scored.

        Raises
        ------
        ValueError
            If counts are not whole numbers, or the seed is no integer of at least 0.
        """
        if not is_integer(seed) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}.")
        whom = "LatentDirichletAllocation.perplexity"
        check_is_fitted(self)
        corpus, _, _ = read_corpus(self, X, reset=False, whom=whom)
        found = sum_documents(_Completion(self._described, seed), corpus, whom)
        total, n = np.broadcast_to(found, 2)
        return math.exp(-total / n) if n else math.nan

    @property
    def _described(self) -> FoldIn | documents.Posterior:
        """What finds topics of documents; it travels to where these are."""
        tol = float(self.mean_change_tol)
        most = max(UPDATES, int(self.max_doc_update_iter))
        documents_prior, words_prior = self._priors
        if self._variational:
            topics = self._topics.components
            return documents.Posterior(topics, documents_prior, tol, most)
        return FoldIn(self._topics.rows, documents_prior, words_prior, tol, most)


@dataclasses.dataclass(frozen=True)
class _Part:
    """What documents contribute to a score."""

    described: FoldIn | documents.Posterior

    def __call__(self, X: Any, chunk: int) -> float:
        return self.described.part(X)


@dataclasses.dataclass(frozen=True)
class _Completion:
    """Log-probability and number of the tokens scored."""

    described: FoldIn | documents.Posterior
    seed: int

    def __call__(self, X: Any, chunk: int) -> Array:
        rng = np.random.default_rng([self.seed, chunk])
        halves = documents.split_tokens(X, rng)
        return np.array(self.described.completed(*halves))
