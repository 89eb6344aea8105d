"""Topic models in count form, whose statistics nodes exchange among themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import count_topics as kernels
from ...sparse_model import Array, Start
from .base import CorpusSummary, Documents, TopicModel
from .count_priors import check_priors
from .count_start import shared_start
from .count_step import topic_e_step

__all__ = ["PeerCountTopicModel"]


@dataclasses.dataclass(frozen=True)
class PeerCountTopicModel(TopicModel):
    """The model of `CountTopicModel` for nodes that have some of the words each.

    Parameters and statistics are the counts of words in topics, and their sums in the
    last row. The latent state of documents are their own counts of topics.

    Parameters
    ----------
    n_topics : int, default=10
        Number of topics K.
    a : float or tuple of K floats, default=0.1
        Prior counts of topics in documents: 0 or more.
    b : float, default=0.1
        Prior counts of words in topics: 0 or more.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.models.topics.count_peers import PeerCountTopicModel
    >>> from dask_em.topics.sources import as_csr
    >>> blocks = [as_csr([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]])]
    >>> model = PeerCountTopicModel(n_topics=2)
    >>> summary = model.survey(blocks)
    >>> docs = model.prepare(blocks, summary)
    >>> counted = np.ones(len(model.support(docs)), bool)
    >>> stats = model.start(docs, counted, summary, seed=0).stats
    >>> params, local, bounds = np.zeros_like(stats), None, []
    >>> for _ in range(3):
    ...     params = model.m_step(params, stats, docs)
    ...     stats, bound, local = model.e_step(params, docs, local)
    ...     bounds.append(bound + model.penalty(params, docs, counted))
    >>> bounds == sorted(bounds)
    True
    """

    a: float | tuple[float, ...] = 0.1
    b: float = 0.1

    def __post_init__(self) -> None:
        check_priors(self.n_topics, self.a, self.b)

    @property
    def prior(self) -> Array:
        """Prior counts of topics in documents, of shape (K,)."""
        return np.full(self.n_topics, self.a, dtype=np.float64)

    def start(
        self,
        prepared: Documents,
        counted: NDArray[np.bool_],
        summary: CorpusSummary,
        seed: int,
    ) -> Start:
        """Pool some documents for each topic, whichever nodes have them."""
        rows = shared_start(prepared, self.n_topics, summary, seed)
        return Start(stats=np.vstack([rows, rows.sum(axis=0)]))

    def e_step(
        self, params: Array, prepared: Documents, local: Any = None
    ) -> tuple[Array, float, Array]:
        """Return expected counts of words in topics.

        Parameters
        ----------
        params : array of shape (n_local + 1, K)
        prepared : Documents
        local : array of shape (n_docs, K), optional
            Counts of topics in documents, as they were found before. None begins with
            even ones, and finds better ones first.

        Returns
        -------
        stats : array of shape (n_local + 1, K)
        bound : float
        doc : array of shape (n_docs, K)
        """
        words = np.arange(len(prepared.words))
        rows, totals, bound, _, doc = topic_e_step(
            self, params[:-1], params[-1], prepared, words, local
        )
        return np.vstack([rows, totals]), bound, doc

    def m_step(self, params: Array, stats: Array, prepared: Documents) -> Array:
        """Return the counts as they are: the priors are added where they are used."""
        return np.array(stats)

    def penalty(
        self, params: Array, prepared: Documents, counted: NDArray[np.bool_]
    ) -> float:
        """Return the log-density of the prior of words, up to a constant.

        Words contribute what they have more than one that occurs nowhere; what all
        words have in common is counted with the sums.
        """
        b = float(self.b)
        if b == 0:
            return 0.0
        value = b * np.log1p(params[:-1][counted[:-1]] / b).sum()
        if counted[-1]:
            weights = np.empty(self.n_topics)
            kernels.inverse_totals(params[-1], prepared.n_words, b, weights)
            value += prepared.n_words * b * np.log(b * weights).sum()
        return float(value)
