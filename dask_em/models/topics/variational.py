"""Latent Dirichlet allocation by variational Bayes."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ...kernels import topics as kernels
from ...sparse_model import Array
from .base import Documents, TopicModel

__all__ = ["VariationalLDA"]


@dataclasses.dataclass(frozen=True)
class VariationalLDA(TopicModel):
    r"""Latent Dirichlet allocation with a mean-field posterior of topics and words.

    Topics of documents are drawn from a Dirichlet distribution of parameters
    :math:`\alpha_k`, words of topics from one of parameters :math:`\eta`. Their
    posterior is approximated by Dirichlet distributions of parameters
    :math:`\gamma_{dk}` and :math:`\lambda_{kw}` and by a distribution :math:`\phi` over
    topics for each word of a document (Hoffman, Blei and Bach, 2010). The bound on the
    log-likelihood, raised in turns in all of them, is a sum over documents plus

    .. math:: \sum_k \log\frac{\Gamma(W\eta)}{\Gamma(\Lambda_k)} + \sum_{kw}
              \log\frac{\Gamma(\lambda_{kw})}{\Gamma(\eta)} + (\eta - \lambda_{kw})
              \bigl(\psi(\lambda_{kw}) - \psi(\Lambda_k)\bigr),

    to which words that occur nowhere, with :math:`\lambda_{kw} = \eta`, contribute
    nothing: no node needs to have them.

    The parameters are the rows of :math:`\lambda`, and their sums :math:`\Lambda_k =
    W \eta + N_k` in the last one. The latent state is :math:`\gamma`, from which the
    next E-step goes on, so that the bound never falls, however few updates it makes.

    Parameters
    ----------
    n_topics : int, default=10
        Number of topics K.
    doc_topic_prior : float or tuple of K floats, default=None
        The alphas. None stands for 1 / K.
    topic_word_prior : float, default=None
        Eta. None stands for 1 / K.
    mean_change_tol : float, default=1e-3
        Updates of a document end when the mean absolute change of gamma is below.
    max_doc_update_iter : int, default=5
        Updates of a document at most, per E-step.

    References
    ----------
    Hoffman, M. D., Blei, D. M., Bach, F. (2010). Online learning for latent Dirichlet
    allocation. Advances in Neural Information Processing Systems 23, 856-864.

    Examples
    --------
    Three passes over four documents on a single node:

    >>> import numpy as np
    >>> from dask_em.models.topics.variational import VariationalLDA
    >>> from dask_em.topics.sources import as_csr
    >>> blocks = [as_csr([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]])]
    >>> model = VariationalLDA(n_topics=2)
    >>> summary = model.survey(blocks)
    >>> docs = model.prepare(blocks, summary)
    >>> counted = np.ones(len(model.support(docs)), bool)
    >>> stats = model.start(docs, counted, summary, seed=0).stats
    >>> params, gamma, bounds = np.zeros_like(stats), None, []
    >>> for _ in range(3):
    ...     params = model.m_step(params, stats, docs)
    ...     stats, bound, gamma = model.e_step(params, docs, gamma)
    ...     bounds.append(bound + model.penalty(params, docs, counted))
    >>> bounds == sorted(bounds)
    True
    """

    doc_topic_prior: float | tuple[float, ...] | None = None
    topic_word_prior: float | None = None
    mean_change_tol: float = 1e-3
    max_doc_update_iter: int = 5

    @property
    def alpha(self) -> Array:
        """Parameters of the prior of documents, of shape (K,)."""
        given = self.doc_topic_prior
        value = 1 / self.n_topics if given is None else given
        return np.ascontiguousarray(
            np.broadcast_to(np.asarray(value, dtype=np.float64), (self.n_topics,))
        )

    @property
    def eta(self) -> float:
        """Parameter of the prior of words."""
        given = self.topic_word_prior
        return 1 / self.n_topics if given is None else float(given)

    def e_step(
        self, params: Array, prepared: Documents, local: Array | None = None
    ) -> tuple[Array, float, Array]:
        """Return expected counts of words in topics.

        Parameters
        ----------
        params : array of shape (n_local + 1, K)
        prepared : Documents
        local : array of shape (n_docs, K), optional
            Gamma, as it was found before. None begins with even topics.

        Returns
        -------
        stats : array of shape (n_local + 1, K)
        bound : float
        gamma : array of shape (n_docs, K)
        """
        alpha = self.alpha
        if local is None:
            gamma = alpha + prepared.lengths[:, None] / self.n_topics
        else:
            gamma = np.array(local)  # a step may be taken twice from the same state
        stats = np.zeros(params.shape)
        bound = infer_topics(
            params[:-1],
            params[-1],
            prepared,
            alpha,
            self.mean_change_tol,
            self.max_doc_update_iter,
            gamma,
            stats[:-1],
        )
        stats[-1] = stats[:-1].sum(axis=0)
        return stats, bound, gamma

    def m_step(self, params: Array, stats: Array, prepared: Documents) -> Array:
        """Add the prior to the counts: eta for each word, W eta to their sums."""
        found = stats + self.eta
        found[-1] = stats[-1] + prepared.n_words * self.eta
        return found

    def penalty(
        self, params: Array, prepared: Documents, counted: NDArray[np.bool_]
    ) -> float:
        """Return minus the divergence of the posterior of topics from their prior.

        That of the counted words; what concerns whole topics is counted with the sums.
        """
        rows = np.ascontiguousarray(params[:-1][counted[:-1]])
        value = kernels.dirichlet_part(rows, np.ascontiguousarray(params[-1]), self.eta)
        if counted[-1]:
            value += topics_part(params[-1], prepared.n_words, self.eta)
        return float(value)


def topics_part(totals: Array, n_words: int, eta: float) -> float:
    """Return the part of the bound that concerns topics as wholes.

    Parameters
    ----------
    totals : array of shape (K,)
        Sums of the parameters of topics.
    n_words : int
    eta : float
    """
    return float(len(totals) * gammaln(n_words * eta) - gammaln(totals).sum())


def infer_topics(
    rows: Array,
    totals: Array,
    docs: Documents,
    alpha: Array,
    tol: float,
    max_iter: int,
    gamma: Array,
    stats: Array,
) -> float:
    """Run `kernels.topics.infer` with the posterior of topics; return the exact bound.

    Parameters
    ----------
    rows : array of shape (n_local, K)
        Parameters of topics, word by word.
    totals : array of shape (K,)
    docs : Documents
    alpha : array of shape (K,)
    tol : float
    max_iter : int
    gamma : array of shape (n_docs, K)
        Is updated.
    stats : array of shape (n_local, K)
        Is added to.
    """
    logs, scaled = np.empty(rows.shape), np.empty(rows.shape)
    peaks = np.empty(len(rows))
    rows, totals = np.ascontiguousarray(rows), np.ascontiguousarray(totals)
    kernels.expected_log(rows, totals, logs, scaled, peaks)
    bound = kernels.infer(
        docs.indptr,
        docs.indices,
        docs.counts,
        logs,
        scaled,
        alpha,
        tol,
        max_iter,
        gamma,
        stats,
    )
    return float(bound + docs.totals @ peaks)
