"""Latent Dirichlet allocation, with scikit-learn's face."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..drivers.peer import Stage
from ..models.topics import transform as documents
from ..models.topics.variational import VariationalLDA
from ..result import EMResult
from .peer import PeerEstimator
from .topic_input import map_documents, read_corpus, sum_documents

__all__ = ["LatentDirichletAllocation"]

Array = NDArray[Any]

#: Updates of the topics of a new document, which begin anew, at most.
_UPDATES = 100


class LatentDirichletAllocation(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, PeerEstimator
):
    r"""Topics of documents, fitted where the documents are.

    A drop-in for `sklearn.decomposition.LatentDirichletAllocation` by batch variational
    Bayes. Each of K topics is a distribution over words, each document mixes topics,

    .. math:: \beta_k \sim \mathrm{Dirichlet}(\eta), \quad
              \theta_d \sim \mathrm{Dirichlet}(\alpha), \quad
              p(w \mid d) = \sum_k \theta_{dk} \beta_{kw},

    and a bound on the log-likelihood is raised in turns in the posterior of
    :math:`\theta` and that of :math:`\beta` (Blei, Ng and Jordan, 2003; Hoffman, Blei
    and Bach, 2010). On a Dask cluster each node keeps some documents and the rows of
    parameters that belong to their words, and nodes exchange what they have in common;
    no node has all documents or all parameters (Wolfe, Haghighi and Klein, 2008).

    Parameters
    ----------
    n_components : int, default=10
        Number of topics K.
    doc_topic_prior : float or array-like of shape (n_components,), default=None
        The alphas. None stands for ``1 / n_components``.
    topic_word_prior : float, default=None
        Eta. None stands for ``1 / n_components``.
    inference : {"variational"}, default="variational"
        How the posterior is found.
    max_iter : int, default=100
        Passes over the documents at most.
    tol : float, default=1e-4
        The fit has converged when a pass raises the bound by less per token.
    mean_change_tol : float, default=1e-3
        Updates of the topics of a document end when their parameters change by less in
        the mean.
    max_doc_update_iter : int, default=5
        Updates of the topics of a document per pass, at most. A pass goes on where the
        one before has ended, so few are enough. Methods that are given new documents
        make up to 100, or this many if it is more.
    random_state : int, RandomState instance or None, default=None
        Seed of the start.
    verbose : int, default=0
        1 prints how the fit goes on.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    topology : str or Topology, default="auto"
        Which way statistics travel between nodes: ``"map_reduce"``, ``"all_pairs"``,
        ``"junction_tree"``, ``"owner_sharded"`` or an object of `dask_em.topologies`.
    transport : str or transport, default="auto"
        Where the nodes are. The default is the current Dask client, and threads where
        there is none.
    shards : int or "auto", default="auto"
        Number of nodes.
    checkpoint : str or path, default=None
        Directory that all workers reach, or fsspec URL, in which each node saves its
        part of the parameters now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.
    gather : bool or "auto", default="auto"
        Whether to bring the parameters here after the fit; by default if they take a
        gigabyte at most. Where they are left behind `components_` brings them.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Parameters lambda of the posterior of topics. Divided by their sums along rows
        they are the expected probabilities of words.
    exp_dirichlet_component_ : ndarray of shape (n_components, n_features)
        Exponential of the expected log-probabilities.
    n_iter_ : int
        Passes over the documents.
    converged_ : bool
    bound_ : float
        Perplexity of the documents by the bound, ``exp(-lower_bound / n_tokens)``.
    doc_topic_prior_ : float or ndarray of shape (n_components,)
    topic_word_prior_ : float
    result_ : EMResult
        Status, bound, log of the fit and settings used.
    plan_ : Plan
        How statistics travelled.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where columns have names that are strings.

    See Also
    --------
    sklearn.decomposition.LatentDirichletAllocation : For documents in memory.
    dask_em.topics : Corpora, and files in docword format.

    Notes
    -----
    Documents may be a sparse matrix or an array, a Dask array with sparse or dense
    chunks along documents, a `xarray.DataArray` of either, of which labels are not
    used, or the path of a file in docword format. Counts may be fractions, but
    `perplexity` wants whole tokens.

    The start draws parameters word by word, and does not depend on the number of
    nodes; nor, but for rounding, does the outcome.

    References
    ----------
    Blei, D. M., Ng, A. Y., Jordan, M. I. (2003). Latent Dirichlet allocation. Journal
    of Machine Learning Research 3, 993-1022.

    Hoffman, M. D., Blei, D. M., Bach, F. (2010). Online learning for latent Dirichlet
    allocation. Advances in Neural Information Processing Systems 23, 856-864.

    Wolfe, J., Haghighi, A., Klein, D. (2008). Fully distributed EM for very large
    datasets. International Conference on Machine Learning, 1184-1191.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import LatentDirichletAllocation
    >>> X = np.array([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]])
    >>> lda = LatentDirichletAllocation(2, random_state=0).fit(X)
    >>> lda.transform(X).argmax(axis=1) == lda.transform(X[:1]).argmax()
    array([ True,  True, False, False])
    >>> sorted(sorted(words) for words in lda.top_words(2, ["a", "b", "c", "d"]))
    [['a', 'b'], ['c', 'd']]
    """

    result_: EMResult[Any]

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: Any = None,
        topic_word_prior: float | None = None,
        inference: str = "variational",
        max_iter: int = 100,
        tol: float = 1e-4,
        mean_change_tol: float = 1e-3,
        max_doc_update_iter: int = 5,
        random_state: Any = None,
        verbose: int = 0,
        deadline: float | None = None,
        topology: Any = "auto",
        transport: Any = "auto",
        shards: Any = "auto",
        checkpoint: Any = None,
        resume: Any = None,
        gather: Any = "auto",
    ) -> None:
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.inference = inference
        self.max_iter = max_iter
        self.tol = tol
        self.mean_change_tol = mean_change_tol
        self.max_doc_update_iter = max_doc_update_iter
        self.random_state = random_state
        self.verbose = verbose
        self.deadline = deadline
        self.topology = topology
        self.transport = transport
        self.shards = shards
        self.checkpoint = checkpoint
        self.resume = resume
        self.gather = gather

    # ------------------------------------------------------------------------ fit

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit topics.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            Counts of words; also a Dask array or DataFrame of them, the path of a file
            in docword format, or an object of `dask_em.topics`.
        y : Ignored

        Returns
        -------
        self : LatentDirichletAllocation
            Or an awaitable of it if the current Dask client is asynchronous.

        Raises
        ------
        ValueError, TypeError
            If parameters or data are unusable; the message names the remedy.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` or the deadline ended the fit.
        """
        model = self._model()
        corpus, columns, _ = read_corpus(
            self, X, reset=True, whom="LatentDirichletAllocation.fit"
        )
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return self._fit_stages(
            [Stage(model, self.max_iter, self.tol)],
            corpus,
            lambda result: self._attributes_of(result, model, columns),
            seed=int(seed),
        )

    def _attributes_of(
        self, result: EMResult[Any], model: VariationalLDA, columns: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return fitted attributes beyond those that all have."""
        alpha = model.alpha
        return {
            "bound_": math.exp(-result.lower_bound / result.weight),
            "doc_topic_prior_": alpha if np.ndim(self.doc_topic_prior) else alpha[0],
            "topic_word_prior_": model.eta,
            "_topics": _Topics(result.params, columns["n_features_in_"], model.eta),
            **columns,
        }

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
        fitted = self.fit(X, y)
        if inspect.isawaitable(fitted):

            async def later() -> Any:
                return (await fitted).transform(X, normalize=normalize)

            return later()
        return fitted.transform(X, normalize=normalize)

    def _model(self) -> VariationalLDA:
        """Check the parameters and make a model of them."""
        for name in ("n_components", "max_iter", "max_doc_update_iter"):
            value = getattr(self, name)
            if not _is_integer(value) or value < 1:
                raise ValueError(
                    f"{name} must be an integer of at least 1, got {value!r}."
                )
        for name in ("tol", "mean_change_tol"):
            value = getattr(self, name)
            if not _is_real(value) or not value >= 0:
                raise ValueError(
                    f"{name} must be a number of at least 0, got {value!r}."
                )
        if self.inference != "variational":
            raise ValueError(
                f"inference must be 'variational', got {self.inference!r}."
            )
        eta = self.topic_word_prior
        if eta is not None and not (_is_real(eta) and 1e-12 <= eta < np.inf):
            raise ValueError(
                f"topic_word_prior must be a number above 0 or None, got {eta!r}."
            )
        alpha = self.doc_topic_prior
        if alpha is not None:
            try:
                found = np.asarray(alpha, dtype=np.float64)
            except (TypeError, ValueError):
                found = np.array(np.nan)
            right = found.shape in ((), (self.n_components,))
            if not right or not (found >= 1e-12).all() or not np.isfinite(found).all():
                raise ValueError(
                    "doc_topic_prior must be a number above 0, or one for each of the "
                    f"{self.n_components} components, got {alpha!r}."
                )
            alpha = tuple(found.tolist()) if found.ndim else float(found)
        return VariationalLDA(
            n_topics=int(self.n_components),
            doc_topic_prior=alpha,
            topic_word_prior=eta if eta is None else float(eta),
            mean_change_tol=float(self.mean_change_tol),
            max_doc_update_iter=int(self.max_doc_update_iter),
        )

    # --------------------------------------------------------------------- topics

    @property
    def components_(self) -> Array:
        """Parameters of the posterior of topics."""
        check_is_fitted(self)
        return self._topics.components

    @property
    def exp_dirichlet_component_(self) -> Array:
        """Exponential of the expected log-probabilities of words."""
        return documents.exp_dirichlet(self.components_)

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
            scikit-learn's ``CountVectorizer``. None stands for the names of the columns
            the fit was given, and for their numbers if they have none.

        Returns
        -------
        list of n_components lists of str or int

        Raises
        ------
        ValueError
            If `n` is not an integer of at least 1, or the vocabulary has not as many
            words as the data have columns.
        """
        if not _is_integer(n) or n < 1:
            raise ValueError(f"n must be an integer of at least 1, got {n!r}.")
        names: Any = vocabulary
        if names is None:
            names = getattr(self, "feature_names_in_", None)
        components = self.components_
        if names is None:
            names = range(components.shape[1])
        elif len(names) != components.shape[1]:
            raise ValueError(
                f"The vocabulary has {len(names)} words, but topics were fitted to "
                f"{components.shape[1]}."
            )
        elif isinstance(names, Mapping):
            columns = {column: word for word, column in names.items()}
            if columns.keys() != set(range(len(names))):
                raise ValueError(
                    "A vocabulary that is a mapping must have a column for each word, "
                    f"numbered from 0 to {len(names) - 1}; pass "
                    "get_feature_names_out() of the vectorizer."
                )
            names = columns
        order = np.argsort(-components, axis=1, kind="stable")[:, :n]
        return [[names[i] for i in row] for row in order.tolist()]

    # ------------------------------------------------------------------ documents

    def transform(self, X: Any, *, normalize: bool = True) -> Any:
        """Return the topics of documents.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            As for `fit`.
        normalize : bool, default=True
            Whether to return expected shares, which add up to one, or else the
            parameters gamma of the posterior.

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
        function = dataclasses.replace(self._describe(), normalize=normalize)
        return map_documents(function, corpus, self._n_features_out, dtype, whom)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the bound on the log-likelihood of documents, as scikit-learn does.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            As for `fit`; lazy documents are computed.
        y : Ignored

        Returns
        -------
        float
            Not divided by anything. It has the divergence of topics from their prior
            in it, and so compares models on the same documents only.
        """
        whom = "LatentDirichletAllocation.score"
        check_is_fitted(self)
        corpus, _, _ = read_corpus(self, X, reset=False, whom=whom)
        total = sum_documents(_Bound(self._describe()), corpus, whom)
        topics = documents.topics_bound(self.components_, self.topic_word_prior_)
        return float(total + topics)

    def perplexity(self, X: Any, *, seed: int = 0) -> float:
        r"""Return the perplexity of documents by completion.

        Each token is put into one of two halves with probability 1/2. Topics are found
        from the observed half, and the other is scored with their expected shares:

        .. math:: \exp\Bigl(-\frac{\sum_{d,w} n^{\mathrm{scored}}_{dw}
                  \log\sum_k \bar\theta_{dk} \bar\beta_{kw}}
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
            NaN if no token is scored.

        Raises
        ------
        ValueError
            If counts are not whole numbers, or the seed is no integer of at least 0.
        """
        if not _is_integer(seed) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}.")
        whom = "LatentDirichletAllocation.perplexity"
        check_is_fitted(self)
        corpus, _, _ = read_corpus(self, X, reset=False, whom=whom)
        function = _Completion(self._describe(), seed)
        total, n = sum_documents(function, corpus, whom)
        return math.exp(-total / n) if n else math.nan

    def _describe(self) -> _Describe:
        alpha = np.broadcast_to(
            np.asarray(self.doc_topic_prior_, np.float64), (len(self.components_),)
        )
        return _Describe(
            self.components_,
            np.array(alpha),
            float(self.mean_change_tol),
            max(_UPDATES, int(self.max_doc_update_iter)),
        )

    # --------------------------------------------------------------- scikit-learn

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32", "float64"]
        return tags


class _Topics:
    """Rows of a table as a matrix, made when it is first asked for."""

    def __init__(self, table: Any, n_words: int, eta: float) -> None:
        self._table, self._n_words, self._eta = table, n_words, eta

    @functools.cached_property
    def components(self) -> Array:
        ids, values = self._table.gather()
        rows = np.full((self._n_words, values.shape[1]), self._eta)
        words = ids < self._n_words  # not the sums over words
        rows[ids[words]] = values[words]
        return rows.T

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "components"}


@dataclasses.dataclass(frozen=True)
class _Describe:
    """Finds topics of documents; travels to where these are."""

    components: Array
    alpha: Array
    tol: float
    max_iter: int
    normalize: bool = True

    def posterior(self, X: Any) -> tuple[Array, float]:
        return documents.document_topics(
            self.components, X, self.alpha, self.tol, self.max_iter
        )

    def __call__(self, X: Any) -> Array:
        gamma, _ = self.posterior(X)
        return documents.normalised(gamma) if self.normalize else gamma


@dataclasses.dataclass(frozen=True)
class _Bound:
    """What documents contribute to the bound."""

    describe: _Describe

    def __call__(self, X: Any, chunk: int) -> float:
        return self.describe.posterior(X)[1]


@dataclasses.dataclass(frozen=True)
class _Completion:
    """Log-probability and number of the tokens scored."""

    describe: _Describe
    seed: int

    def __call__(self, X: Any, chunk: int) -> Array:
        rng = np.random.default_rng([self.seed, chunk])
        observed, scored = documents.split_tokens(X, rng)
        components = self.describe.components
        topics = components / components.sum(axis=1, keepdims=True)
        return np.array(documents.completion(self.describe(observed), topics, scored))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
