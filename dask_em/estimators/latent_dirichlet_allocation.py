"""Latent Dirichlet allocation, with scikit-learn's face."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if

from ..drivers.peer import Stage
from ..models.topics.variational import VariationalLDA
from ..result import EMResult
from .fitted_topics import FittedTopics
from .peer import PeerEstimator
from .rounds import in_turn
from .topic_documents import TopicDocuments
from .topic_fit import engine_for
from .topic_input import read_corpus
from .topic_online import has_partial_fit, partly_fitted
from .topic_settings import (
    check_settings,
    count_model,
    draw_seed,
    peer_model,
    variational_model,
)
from .topic_words import TopicWords

__all__ = ["LatentDirichletAllocation"]


class LatentDirichletAllocation(
    ClassNamePrefixFeaturesOutMixin, TopicWords, TopicDocuments, PeerEstimator
):
    r"""Topics of documents, fitted where the documents are.

    Each of K topics is a distribution over words, each document mixes topics,

    .. math:: \phi_k \sim \mathrm{Dirichlet}(\eta), \quad
              \theta_d \sim \mathrm{Dirichlet}(\alpha), \quad
              p(w \mid d) = \sum_k \theta_{dk} \phi_{kw},

    and EM finds topics and shares of topics of maximum posterior probability: a word of
    a document belongs to topic k with a probability proportional to

    .. math:: (N_{dk} + \alpha_k - 1) \frac{N_{wk} + \eta - 1}{N_k + W (\eta - 1)},

    and the counts N are sums of these probabilities (Chien and Wu, 2008; Asuncion et
    al., 2009). They add up over parts of the documents, so on a Dask cluster each
    worker keeps some documents, and reports of slow workers are not waited for (Neal
    and Hinton, 1998). A pass over the documents costs a fraction of one of variational
    Bayes, which is there, too.

    Parameters
    ----------
    n_components : int, default=10
        Number of topics K.
    doc_topic_prior : float or array-like of shape (n_components,), default=None
        The alphas, 1 or more: prior counts of topics in documents, plus 1. None stands
        for 1.1. For variational inference any number above 0, and None stands for
        ``1 / n_components``.
    topic_word_prior : float, default=None
        Eta, likewise, for words in topics.
    inference : {"map", "variational", "stochastic"}, default="map"
        How topics are found: by EM, as above; by batch variational Bayes, which is
        what scikit-learn does; or, for hundreds of topics and more, by EM in which each
        token is given one topic that is drawn, so that it costs about as much as its
        document has topics, however many there are (Zaheer et al., 2016).
    max_iter : int, default=100
        Passes over the documents at most; "stochastic" makes them all.
    tol : float, default=1e-4
        The fit has converged when a pass raises the log-posterior (the bound, for
        variational inference) by less per token.
    mean_change_tol : float, default=1e-3
        For new documents: updates of a document's topics end when less than this share
        of its words moves from one topic to another. For variational inference: when
        their parameters change by less in the mean, in the fit as well.
    max_doc_update_iter : int, default=5
        For variational inference: updates of the topics of a document per pass, at
        most. A pass goes on where the one before has ended, so few are enough. Methods
        that are given new documents make up to 100, or this many if it is more.
    learn_priors : bool, default=False
        Whether to go on, after a fit, with the priors that make its counts most
        probable (Minka, 2000), until they stay what they are. `max_iter` holds for each
        of the fits; checkpoints are of the first one.
    learning_decay : float, default=0.7
        For `partial_fit`: kappa in the weight ``(learning_offset + t) ** -kappa`` of
        batch t; above 0.5 and at most 1.
    learning_offset : float, default=10.0
        For `partial_fit`: 0 or more; large values make the first batches count less.
    total_samples : float, default=1e6
        For `partial_fit`: documents of the whole corpus.
    random_state : int, RandomState instance or None, default=None
        Seed of the start.
    verbose : int, default=0
        1 prints how the fit goes on.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    schedule : Schedule or str, default="auto"
        When to make M-steps: ``"synchronous"``, ``"bounded_staleness"``,
        ``"extra_updates"``, ``"fraction_barrier"`` or an object of
        `dask_em.schedules`. By default, on a cluster, reports that are not too old are
        used as they come; on threads documents are visited in groups, with an M-step
        after each.
    hand_out : bool, default=True
        Whether documents may move from slow to fast workers.
    wire : {None, "float32"}, default=None
        Precision of what travels, and of E-steps; the default is double precision.
    topology : str or Topology, default="auto"
        By default, and with ``"star"``, the fit has a manager, which has all topics.
        Otherwise workers exchange rows of topics among themselves, and nobody has them
        all: ``"rotation"`` (Kumar et al., 2014), ``"owner_sharded"``,
        ``"junction_tree"``, ``"all_pairs"``, ``"map_reduce"`` or an object of
        `dask_em.topologies`. On a cluster of two workers or more the default is
        ``"rotation"`` where topics have more than 1e8 numbers in all, and `schedule`
        is left alone; ``result_.settings`` tells. Variational inference always is
        without a manager.
    transport : str or transport, default="auto"
        Where documents are. The default is the current Dask client, and threads where
        there is none.
    shards : int or "auto", default="auto"
        Parts of the documents; without a manager, number of nodes.
    checkpoint : str or path, default=None
        Directory, or URL that fsspec understands, in which topics are saved now and
        then; one that all workers reach where there is no manager.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.
    gather : bool or "auto", default="auto"
        Without a manager: whether to bring topics here after the fit; by default if
        they take a gigabyte at most. Where they are left behind `components_` brings
        them.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The :math:`N_{wk} + \eta - 1`; for variational inference parameters lambda of
        the posterior. Divided by their sums along rows they are probabilities of words.
    exp_dirichlet_component_ : ndarray of shape (n_components, n_features)
        These probabilities; for variational inference the exponential of expected
        log-probabilities.
    n_iter_ : int
        Passes over the documents.
    converged_ : bool
    bound_ : float
        ``exp(-F / n_tokens)``, where F is what the fit has raised: the log-likelihood
        :math:`\sum n_{dw} \log \sum_k \theta_{dk} \phi_{kw}` plus
        :math:`\sum (\alpha_k - 1) \log \theta_{dk} + (\eta - 1) \sum \log
        \phi_{kw}`; or the variational bound; or the log-probability of words and the
        topics drawn for them. It compares fits with the same settings to the same
        documents; without priors it is their perplexity.
    doc_topic_prior_ : float or ndarray of shape (n_components,)
        The alphas, as they were given or learned.
    topic_word_prior_ : float
        Eta, likewise.
    n_batch_iter_ : int
        Batches that `partial_fit` has seen. Documents of a `fit` before count as so
        many batches as they make.
    result_ : EMResult
        Status, log of the fit and settings used; of the last `fit`.
    plan_ : Plan
        How statistics travelled, where there was no manager.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where columns have names that are strings.
    vocabulary_ : tuple of str
        Words of the columns, where the corpus knew them.

    See Also
    --------
    sklearn.decomposition.LatentDirichletAllocation : For documents in memory.
    dask_em.topics : Corpora, and files.

    Notes
    -----
    Documents may be a sparse matrix or an array, a Dask array with sparse or dense
    chunks along documents, a `xarray.DataArray` of either, of which labels are not
    used, lists of words, in memory or in a Dask bag, or the path of a corpus. Counts
    may be fractions, but `perplexity` and ``inference="stochastic"`` want whole tokens.

    ``doc_topic_prior=1, topic_word_prior=1`` is maximum likelihood: probabilistic
    latent semantic analysis (Hofmann, 1999). The EM optimizer of Spark has
    ``doc_topic_prior=50 / n_components + 1, topic_word_prior=1.1``. Priors below 1 have
    no maximum, and are for variational inference.

    The start draws topics from documents. Fits on threads repeat to the last bit for
    the same number of threads; what the default schedule does on a cluster depends on
    how fast its workers are.

    References
    ----------
    Asuncion, A., Welling, M., Smyth, P., Teh, Y. W. (2009). On smoothing and inference
    for topic models. UAI 2009, 27-34.

    Blei, D. M., Ng, A. Y., Jordan, M. I. (2003). Latent Dirichlet allocation. Journal
    of Machine Learning Research 3, 993-1022.

    Chien, J.-T., Wu, M.-S. (2008). Adaptive Bayesian latent semantic analysis. IEEE
    Transactions on Audio, Speech, and Language Processing 16(1), 198-207.

    Hoffman, M. D., Blei, D. M., Bach, F. (2010). Online learning for latent Dirichlet
    allocation. Advances in Neural Information Processing Systems 23, 856-864.

    Hofmann, T. (1999). Probabilistic latent semantic indexing. SIGIR 1999, 50-57.

    Kumar, A., Beutel, A., Ho, Q., Xing, E. (2014). Fugue: slow-worker-agnostic
    distributed learning for big models on big data. AISTATS 2014, 531-539.

    Minka, T. (2000). Estimating a Dirichlet distribution. Technical report, MIT.

    Neal, R. M., Hinton, G. E. (1998). A view of the EM algorithm that justifies
    incremental, sparse, and other variants. Learning in Graphical Models, 355-368.

    Wolfe, J., Haghighi, A., Klein, D. (2008). Fully distributed EM for very large
    datasets. International Conference on Machine Learning, 1184-1191.

    Zaheer, M., Wick, M., Tristan, J.-B., Smola, A., Steele, G. (2016). Exponential
    stochastic cellular automata for massively parallel inference. AISTATS 2016.

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

    Maximum likelihood, and the settings of Spark's EM:

    >>> plsa = LatentDirichletAllocation(2, doc_topic_prior=1, topic_word_prior=1)
    >>> spark = LatentDirichletAllocation(
    ...     2, doc_topic_prior=50 / 2 + 1, topic_word_prior=1.1
    ... )
    >>> float(plsa.fit(X).components_.sum().round())
    27.0
    """

    result_: EMResult[Any]

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: Any = None,
        topic_word_prior: float | None = None,
        inference: str = "map",
        max_iter: int = 100,
        tol: float = 1e-4,
        mean_change_tol: float = 1e-3,
        max_doc_update_iter: int = 5,
        learn_priors: bool = False,
        learning_decay: float = 0.7,
        learning_offset: float = 10.0,
        total_samples: float = 1e6,
        random_state: Any = None,
        verbose: int = 0,
        deadline: float | None = None,
        schedule: Any = "auto",
        hand_out: bool = True,
        wire: str | None = None,
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
        self.learn_priors = learn_priors
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.total_samples = total_samples
        self.random_state = random_state
        self.verbose = verbose
        self.deadline = deadline
        self.schedule = schedule
        self.hand_out = hand_out
        self.wire = wire
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
            Counts of words; also a Dask array or DataFrame of them, lists of words,
            the path of a corpus, or an object of `dask_em.topics`.
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
        check_settings(self)
        corpus, columns, _ = read_corpus(
            self, X, reset=True, whom="LatentDirichletAllocation.fit"
        )
        if self.inference != "variational":
            return in_turn(self._fit_counts(corpus, columns))
        model = variational_model(self)
        return self._fit_stages(
            [Stage(model, self.max_iter, self.tol)],
            corpus,
            lambda result: self._of_posterior(result, model, columns),
            seed=draw_seed(self),
        )

    def _fit_counts(
        self, corpus: Any, columns: Mapping[str, Any]
    ) -> Generator[Any, Any, Self]:
        """Fit topics in count form; yields what may have to be awaited."""
        engine = engine_for(self.get_params(deep=False), corpus)
        seed = draw_seed(self)
        if engine.topology is None:
            model: Any = count_model(self, seed)
        else:
            model = peer_model(self, engine.topology)
        result, model = yield from engine.fit(model, corpus, seed)
        prior, b = np.asarray(model.prior, dtype=np.float64), float(model.b)
        several = np.ndim(self.doc_topic_prior) or self.learn_priors
        topics = FittedTopics(result.params, columns["n_features_in_"], b, b)
        attributes = {
            "doc_topic_prior_": 1 + prior if several else float(1 + prior[0]),
            "topic_word_prior_": 1 + b,
            "_priors": (prior, b),
            "_topics": topics,
            "_variational": False,
            **columns,
        }
        return self._adopt(result, attributes)

    def _of_posterior(
        self, result: EMResult[Any], model: VariationalLDA, columns: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return fitted attributes beyond those that all have."""
        alpha, eta = model.alpha, model.eta
        return {
            "doc_topic_prior_": alpha if np.ndim(self.doc_topic_prior) else alpha[0],
            "topic_word_prior_": eta,
            "_priors": (alpha, eta),
            "_topics": FittedTopics(result.params, columns["n_features_in_"], 0.0, eta),
            "_variational": True,
            **columns,
        }

    def _adopt(self, result: EMResult[Any], attributes: Mapping[str, Any]) -> Self:
        """Replace the outcome of an earlier fit, all of it at once."""
        if result.n_m_steps == 0 and result.status == "deadline":
            raise TimeoutError(f"Nothing was fitted: {result.message}.")
        if result.n_m_steps == 0 and result.status == "interrupted":
            raise KeyboardInterrupt
        waited = self.tol > 0 and self.inference != "stochastic"
        if result.status == "deadline" or (result.status == "max_iter" and waited):
            warnings.warn(
                f"The fit did not converge: {result.message}. Its result is the best "
                "so far; increase max_iter, tol or deadline.",
                ConvergenceWarning,
                stacklevel=5,
            )
        with np.errstate(over="ignore"):  # of priors that outweigh the tokens by far
            bound = np.exp(-result.lower_bound / result.weight)
        found = {
            "result_": result,
            "converged_": result.converged,
            "n_iter_": math.ceil(result.effective_passes - 1e-9),
            "bound_": float(bound),
            **attributes,
        }
        if result.plan is not None:
            found["plan_"] = result.plan
        for name in ("plan_", "n_batch_iter_", "vocabulary_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        self.__dict__.update(found)
        return self

    @available_if(has_partial_fit)
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Improve topics by a batch of documents.

        A batch moves topics some of the way to its own: stepwise EM (Cappé and
        Moulines, 2009), with the steps of online LDA (Hoffman, Blei and Bach, 2010).
        It may follow a `fit`. It is done in this process, and what a call that fails
        has seen is forgotten.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_documents, n_features)
            As for `fit`. Chunks of a Dask array, and partitions of a bag, are batches
            of their own, one after the other.
        y : Ignored

        Returns
        -------
        self : LatentDirichletAllocation

        Raises
        ------
        ValueError
            If parameters or data are unusable, or topics were fitted by variational
            inference before.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_em import LatentDirichletAllocation
        >>> X = np.array([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]])
        >>> lda = LatentDirichletAllocation(2, total_samples=400, random_state=0)
        >>> for _ in range(100):
        ...     lda = lda.partial_fit(X)
        >>> sorted(sorted(words) for words in lda.top_words(2))
        [[0, 1], [2, 3]]
        """
        found = partly_fitted(self, X)
        if found:
            self.__dict__.update(found)
            self.__dict__.pop("bound_", None)  # of other topics
        return self

    # --------------------------------------------------------------- scikit-learn

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32", "float64"]
        return tags
