"""Words of fitted topics: the most probable ones, and whether they go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..models.topics import transform as documents
from ..models.topics.coherence import MEASURES, WordsTogether, coherence
from .fitted_topics import Array, FittedTopics
from .topic_input import read_corpus, sum_documents
from .topic_settings import is_integer

__all__ = ["TopicWords"]


class TopicWords:
    """Mixin of `LatentDirichletAllocation`: what its topics are made of."""

    _topics: FittedTopics
    _variational: bool

    @property
    def components_(self) -> Array:
        """Parameters of topics, word by word."""
        check_is_fitted(self)
        return self._topics.components

    @property
    def exp_dirichlet_component_(self) -> Array:
        """Probabilities of words, or the exponential of expected log-probabilities."""
        components = self.components_
        if self._variational:
            return documents.exp_dirichlet(components)
        return documents.probabilities(components)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def top_words(
        self,
        n: int = 10,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
    ) -> list[list[Any]]:
        """Return the most probable words of each topic, the most probable first.

        Parameters
        ----------
        n : int, default=10
        vocabulary : sequence of str of length n_features, default=None
            The words; or a mapping from words to columns, such as the `vocabulary_` of
            scikit-learn's ``CountVectorizer``. None stands for the words of the
            documents, or the names of the columns, that the fit was given, and for
            their numbers if they have none.

        Returns
        -------
        list of n_components lists of str or int

        Raises
        ------
        ValueError
            If `n` is not an integer of at least 1, or the vocabulary has not as many
            words as the data have columns.
        """
        if not is_integer(n) or n < 1:
            raise ValueError(f"n must be an integer of at least 1, got {n!r}.")
        top = self._top(n)
        names: Any = vocabulary
        if names is None:
            names = getattr(self, "vocabulary_", None)
        if names is None:
            names = getattr(self, "feature_names_in_", None)
        n_words = self.components_.shape[1]
        names = range(n_words) if names is None else names
        if isinstance(names, set | frozenset):
            raise TypeError("a set of words has no order; pass a list of them.")
        if not isinstance(names, Mapping):
            names = list(names)  # a series would be asked for labels
        if len(names) != n_words:
            raise ValueError(
                f"The vocabulary has {len(names)} words, but topics were fitted to "
                f"{n_words}."
            )
        if isinstance(names, Mapping):
            columns = {column: word for word, column in names.items()}
            if columns.keys() != set(range(len(names))):
                raise ValueError(
                    "A vocabulary that is a mapping must have a column for each word, "
                    f"numbered from 0 to {len(names) - 1}; pass "
                    "get_feature_names_out() of the vectorizer."
                )
            names = columns
        return [[names[i] for i in row] for row in top.tolist()]

    def _top(self, n: int) -> Array:
        return np.argsort(-self.components_, axis=1, kind="stable")[:, :n]

    def coherence(self, X: Any, n: int = 10, measure: str = "u_mass") -> Array:
        r"""Return how often the top words of each topic are in documents together.

        With D documents, D(v) of which have the word v and D(v, u) both v and u, it is
        the mean over pairs of top words, u before v, of

        .. math:: \log\frac{D(v, u) + 1}{D(u)} \quad\text{or}\quad
                  \log\frac{D(v, u) D}{D(v) D(u)} \Big/ \log\frac{D}{D(v, u)}

        for "u_mass" (Mimno et al., 2011) and "npmi" (Bouma, 2009), which is -1 for
        words that are never together and 1 for those that always are. More is better.
        Pairs with a word that is in no document are left out.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            As for `fit`; lazy documents are computed.
        n : int, default=10
            Top words of a topic.
        measure : {"u_mass", "npmi"}, default="u_mass"

        Returns
        -------
        ndarray of shape (n_components,)
            NaN for a topic without pairs.

        Raises
        ------
        ValueError
            If `n` is not an integer of at least 2, or there is no such measure.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_em import LatentDirichletAllocation
        >>> X = np.array([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]])
        >>> lda = LatentDirichletAllocation(2, random_state=0).fit(X)
        >>> lda.coherence(X, n=2, measure="npmi")
        array([1., 1.])
        """
        if not is_integer(n) or n < 2:
            raise ValueError(f"n must be an integer of at least 2, got {n!r}.")
        if measure not in MEASURES:
            raise ValueError(f"measure must be 'u_mass' or 'npmi', got {measure!r}.")
        whom = "LatentDirichletAllocation.coherence"
        check_is_fitted(self)
        corpus, _, _ = read_corpus(self, X, reset=False, whom=whom)
        words, top = np.unique(self._top(n), return_inverse=True)
        found = np.zeros(len(words) ** 2 + 1)  # without a document, too
        found += sum_documents(WordsTogether(words), corpus, whom)
        pairs = found[:-1].reshape(len(words), len(words))
        return coherence(
            pairs, found[-1], top.reshape(self._n_features_out, -1), measure
        )
