"""Topic models in count form: maximum a posteriori and maximum likelihood by EM."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...kernels import count_topics as kernels
from ...model import Block, MapReduce, Model
from ...row_statistics import RowStatistics
from ...sparse_model import Array
from .base import CorpusSummary, Documents, check_corpus, survey_counts
from .count_priors import check_priors, next_priors
from .count_start import STARTS, start_counts
from .count_state import Topics, TopicStatistics
from .count_step import topic_e_step

__all__ = ["CountTopicModel", "TopicStatistics", "Topics"]

_EVERY = np.empty(0, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class CountTopicModel(Model[Topics, TopicStatistics]):
    r"""A topic model whose parameters are expected counts.

    A word of a document belongs to topic k with probability proportional to

    .. math:: (N_{dk} + a_k) \frac{N_{wk} + b}{N_k + W b},

    and the N are the sums of these probabilities. That is EM for the maximum a
    posteriori of topics :math:`\theta_d` of documents and :math:`\phi_k` of words under
    Dirichlet priors with parameters :math:`1 + a_k` and :math:`1 + b` (Chien and Wu,
    2008; Asuncion et al., 2009). With a = b = 0 it is probabilistic latent semantic
    analysis (Hofmann, 1999), and the EM of Spark's LDA is another setting of a and b.
    The objective is

    .. math:: \sum_{dw} n_{dw} \log\sum_k \theta_{dk} \phi_{kw}
              + \sum_{dk} a_k \log\theta_{dk} + b \sum_{kw} \log\phi_{kw}.

    The latent state of documents are their counts :math:`N_{dk}`, of which the next
    E-step makes :math:`\theta`. Where they are not known, for the first E-step or after
    a loss, a few updates with the topics held fixed come before: topics near
    convergence would otherwise be drawn back by documents that begin anew.

    Parameters
    ----------
    n_topics : int, default=10
        Number of topics K.
    a : float or tuple of K floats, default=0.1
        Prior counts of topics in documents: 0 or more.
    b : float, default=0.1
        Prior counts of words in topics: 0 or more.
    learn_priors : bool, default=False
        Whether to compute, at the end of a fit, the values of a and b from which a next
        one had better begin (Minka, 2000).
    wire32 : bool, default=False
        Whether E-steps, and what travels between workers, are in single precision:
        half the bytes, and faster.
    begin : {"documents", "random"}, default="documents"
        Topics at the start: pooled documents and one pass of stepwise EM over the
        sample, or almost even ones.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Asuncion, A., Welling, M., Smyth, P., Teh, Y. W. (2009). On smoothing and inference
    for topic models. UAI 2009, 27-34.

    Chien, J.-T., Wu, M.-S. (2008). Adaptive Bayesian latent semantic analysis. IEEE
    Transactions on Audio, Speech, and Language Processing 16(1), 198-207.

    Hofmann, T. (1999). Probabilistic latent semantic indexing. SIGIR 1999, 50-57.

    Minka, T. (2000). Estimating a Dirichlet distribution. Technical report, MIT.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import fit_em
    >>> from dask_em.models.topics.count import CountTopicModel
    >>> X = np.array([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]], float)
    >>> result = fit_em(CountTopicModel(2), X, random_state=0)
    >>> np.sort(result.params.totals).round().tolist()
    [13.0, 14.0]
    """

    n_topics: int = 10
    a: float | tuple[float, ...] = 0.1
    b: float = 0.1
    learn_priors: bool = False
    wire32: bool = False
    begin: str = "documents"

    #: In messages about data.
    name = "LatentDirichletAllocation.fit"

    def __post_init__(self) -> None:
        check_priors(self.n_topics, self.a, self.b)
        if self.learn_priors and not (self.prior.min() > 0 and self.b > 0):
            raise ValueError(
                "Priors can be learned only from ones above 0; give a and b a small "
                "value to begin with."
            )
        if self.begin not in STARTS:
            raise ValueError(f"begin must be one of {STARTS}, got {self.begin!r}.")

    @property
    def prior(self) -> Array:
        """Prior counts of topics in documents, of shape (K,)."""
        return np.full(self.n_topics, self.a, dtype=np.float64)

    @property
    def resolution(self) -> float:
        """Relative fall of the bound that is taken for rounding."""
        return 1e-6 if self.wire32 else 1e-13

    @property
    def incremental(self) -> bool:
        """Whether M-steps between the E-steps of shards pay on one machine too."""
        return True

    # --------------------------------------------------------------- before the fit

    def survey(self, block: Block) -> CorpusSummary:
        """Count documents, words and tokens, and check counts.

        Raises
        ------
        ValueError
            If a count is negative or not finite, or documents have weights.
        """
        if block.sample_weight is not None:
            raise ValueError(
                f"Documents passed to {self.name} have no weights; repeat them instead."
            )
        return survey_counts(_counts_of(block), self.name)

    def check(self, summary: CorpusSummary) -> None:
        """Raise `ValueError` for a file cut off, or a corpus without a single word."""
        check_corpus(summary)

    def prepare(self, block: Block, summary: CorpusSummary) -> Documents:
        """Number the words that occur."""
        return Documents.of([_counts_of(block)], summary.n_words or 0)

    def start(
        self,
        summary: CorpusSummary,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> Topics:
        """Return topics from the documents of the sample."""
        counts = start_counts(self, summary, _counts_of(sample), rng)
        return self._topics(counts, counts.sum(axis=0))

    def adopt(self, params: Topics, summary: CorpusSummary) -> Topics:
        """Take over topics that were found elsewhere.

        Raises
        ------
        ValueError
            If they are of another number, or of another vocabulary.
        """
        wanted = (summary.n_words, self.n_topics)
        if params.counts.shape != wanted:
            raise ValueError(
                f"The topics to start from have the shape {params.counts.shape}; for "
                f"{wanted[0]} words and {wanted[1]} topics it must be {wanted}."
            )
        return self._topics(params.counts.astype(np.float64), params.totals)

    def _topics(self, counts: NDArray[Any], totals: Array) -> Topics:
        return Topics(counts, totals, self.prior, float(self.b), self.wire32)

    # ------------------------------------------------------------------------- EM

    def e_step(
        self, params: Topics, prepared: Documents, local: Any = None
    ) -> tuple[TopicStatistics, NDArray[Any]]:
        """Return expected counts of words in topics, and those of documents."""
        dtype = np.float32 if self.wire32 else np.float64
        rows, totals, bound, logs, doc = topic_e_step(
            self, params.counts, params.totals, prepared, prepared.words, local, dtype
        )
        found = self.statistics(prepared, rows, totals, bound - logs)
        if self.learn_priors:
            kernels.prior_sums(doc, self.prior, found.priors)
        return found, doc

    def statistics(
        self, prepared: Any, rows: NDArray[Any], totals: Array, constant: float
    ) -> TopicStatistics:
        """Put together the statistics of some documents, for which no prior is learned.

        Parameters
        ----------
        prepared : Documents or Tokens
        rows : array of shape (n_local, K)
            New counts of their words.
        totals : array of shape (K,)
        constant : float
        """
        every = len(prepared.words) == prepared.n_words
        ids = None if every else prepared.words
        table = RowStatistics(ids, rows, prepared.n_words)
        priors = np.zeros(self.n_topics + 1 if self.learn_priors else 0)
        return TopicStatistics(table, totals, constant, priors)

    def m_step(self, params: Topics, stats: TopicStatistics) -> Topics:
        """Return the counts as they are: the priors are added where they are used."""
        return dataclasses.replace(
            params, counts=stats.table.dense(), totals=stats.totals
        )

    def lower_bound(self, params: Topics, stats: TopicStatistics) -> float:
        """Return the bound on the objective, which is affine in the statistics."""
        n_words, b = params.counts.shape[0], float(self.b)
        part = kernels.words_part(_EVERY, stats.table.dense(), params.counts, b, b)
        mass = stats.totals + n_words * b
        return float(part + mass @ self._log_weights(params) + stats.constant)

    def gain(self, params: Topics, change: TopicStatistics) -> float:
        """Return by how much the bound changes: the words in `change` tell."""
        table = change.table
        ids = _EVERY if table.ids is None else table.ids
        part = kernels.words_part(ids, table.rows, params.counts, 0.0, float(self.b))
        change_of_mass = change.totals @ self._log_weights(params)
        return float(part + change_of_mass + change.constant)

    def _log_weights(self, params: Topics) -> Array:
        weights = np.empty(self.n_topics)
        n_words = params.counts.shape[0]
        kernels.inverse_totals(params.totals, n_words, float(self.b), weights)
        found: Array = np.log(weights)
        return found

    def complete(self, params: Topics, stats: TopicStatistics) -> Topics:
        """Put in the priors that suit the data better, where asked for."""
        if not self.learn_priors:
            return params
        a, b = next_priors(self.prior, float(self.b), params, stats.priors)
        return dataclasses.replace(params, suggested_a=a, suggested_b=b)


def _counts_of(block: Block) -> sp.csr_array:
    """Return the counts of a block in CSR form, as floats."""
    X = block.X if isinstance(block.X, sp.csr_array) else sp.csr_array(block.X)
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
