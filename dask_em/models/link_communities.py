"""Link communities of networks, by EM."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..kernels import count_topics as kernels
from ..model import Block, MapReduce, Model
from ..row_statistics import RowStatistics
from .link_state import (
    Communities,
    Links,
    LinkStatistics,
    NetworkSummary,
    compact,
    halved,
)
from .topics.base import Documents

__all__ = ["LinkCommunityModel"]

#: Least factor of a node.
_LEAST = 1e-100

_EVERY = np.empty(0, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class LinkCommunityModel(Model[Communities, LinkStatistics]):
    r"""Communities of links: each has its own number of them, and its own nodes.

    Numbers of links are Poisson, and add up over communities (Ball, Karrer and Newman,
    2011):

    .. math:: A_{ij} \sim \mathrm{Poisson}\Bigl(\sum_z \theta_{iz} \theta_{jz}\Bigr),
              \qquad \theta_{iz} = \sqrt{\kappa_z}\, \phi_{iz}, \qquad
              \phi_{iz} = \frac{k_{iz} + b}{\kappa_z + n b}.

    A link belongs to a community with a probability proportional to
    :math:`\theta_{iz} \theta_{jz}`; the :math:`k_{iz}` are the sums of these over links
    of a node, and the :math:`\kappa_z` their sums over nodes, twice the links of a
    community. With b = 0 this is EM for the maximum of the likelihood, and otherwise
    for that of the posterior under Dirichlet priors of :math:`\phi_z` with parameters
    1 + b. In a directed network there are a :math:`\phi_{iz}` for links that leave a
    node and another for those that arrive, and the model is probabilistic latent
    semantic analysis of the adjacency matrix (Hofmann, 1999).

    Data are rows of the adjacency matrix as `Block.X`, and their numbers as `Block.y`.
    In an undirected network a link is two entries, :math:`A_{ij}` and :math:`A_{ji}`,
    and :math:`A_{ii}` is twice the number of links of a node to itself.

    Parameters
    ----------
    n_communities : int, default=2
        Number of communities K.
    directed : bool, default=False
    smoothing : float, default=0.0
        The b: imaginary links of every node in every community.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Ball, B., Karrer, B., Newman, M. E. J. (2011). Efficient and principled method for
    detecting communities in networks. Physical Review E 84, 036103.

    Hofmann, T. (1999). Probabilistic latent semantic indexing. SIGIR 1999, 50-57.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import fit_em
    >>> from dask_em.models.link_communities import LinkCommunityModel
    >>> A = np.kron(np.eye(2), np.ones((3, 3)) - np.eye(3))  # two triangles
    >>> result = fit_em(LinkCommunityModel(2), A, y=np.arange(6), random_state=0)
    >>> result.params.totals.round(3).tolist()
    [3.0, 3.0]
    """

    n_communities: int = 2
    directed: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.n_communities < 1:
            raise ValueError(
                f"n_communities must be at least 1, got {self.n_communities}."
            )
        if not 0 <= self.smoothing < np.inf:
            raise ValueError(
                f"smoothing must be a number from 0 on, got {self.smoothing}."
            )

    # --------------------------------------------------------------- before the fit

    def survey(self, block: Block) -> NetworkSummary:
        """Count nodes and links, and check rows and their numbers.

        Raises
        ------
        ValueError
            If a number of links is negative or not finite, or rows have no numbers.
        """
        numbers, X = _numbers_of(block), _rows_of(block)
        if block.sample_weight is not None:
            raise ValueError(
                "Nodes have no weights; give sample_weight up, or weights to links."
            )
        return NetworkSummary.of(X, numbers, self.directed)

    def check(self, summary: NetworkSummary) -> None:
        """Raise `ValueError` for matrices that are no network, or one without links."""
        summary.check(self.directed)

    def prepare(self, block: Block, summary: NetworkSummary) -> Links:
        """Leave out every other entry of an undirected network, and number nodes."""
        numbers, X = _numbers_of(block), _rows_of(block)
        twice = 0.0
        if not self.directed:
            X, loops = halved(X, numbers)
            # a link can be found at either of its ends: ln 2, unless they are the same
            twice = float((X.data.sum(dtype=np.float64) - loops) * np.log(2))
        linked = np.flatnonzero(np.diff(X.indptr))
        others = Documents.of([compact(X[linked])], summary.n_nodes)
        rows = numbers[linked]
        ends = others.words + (summary.n_nodes if self.directed else 0)
        ids = np.union1d(rows, ends)
        places = np.searchsorted(ids, rows), np.searchsorted(ids, ends)
        return Links(rows, others, ids, *places, twice)

    def start(
        self,
        summary: NetworkSummary,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> Communities:
        """Draw random shares of nodes in communities."""
        # how many links a node has does not matter to the first E-step
        counts = rng.dirichlet(np.ones(self.n_communities), self._n_ids(summary))
        totals = counts.sum(axis=0) / (1 if self.directed else 2)
        return Communities(counts, totals, self.directed, float(self.smoothing))

    def adopt(self, params: Communities, summary: NetworkSummary) -> Communities:
        """Take over communities that were found elsewhere.

        Raises
        ------
        ValueError
            If they are of another number, or of another network.
        """
        wanted = self._n_ids(summary), self.n_communities
        if params.counts.shape != wanted:
            raise ValueError(
                f"The communities to start from have the shape {params.counts.shape}; "
                f"for {summary.n_nodes} nodes it must be {wanted}."
            )
        return dataclasses.replace(
            params, directed=self.directed, smoothing=float(self.smoothing)
        )

    def _n_ids(self, summary: NetworkSummary) -> int:
        return summary.n_nodes * (2 if self.directed else 1)

    # ------------------------------------------------------------------------- EM

    def e_step(
        self, params: Communities, prepared: Links, local: Any = None
    ) -> tuple[LinkStatistics, None]:
        """Share links among communities."""
        others, b, shape = prepared.others, params.smoothing, params.counts.shape
        weights, prior = np.exp(params.log_weights), np.full(shape[1], b)
        doc, ends = params.counts[prepared.rows], prepared.ids[prepared.of_others]
        table = np.empty((len(ends), 2, shape[1]))
        kernels.fill_table(params.counts, ends, b, table)
        new_doc = np.empty_like(doc)
        csr = others.indptr, others.indices, others.counts
        logs = kernels.accumulate(*csr, table, weights, prior, doc, new_doc)
        # the kernel divides by the sum of a row's factors
        logs += others.lengths @ np.log(np.maximum(doc + b, _LEAST).sum(axis=1))
        # what is left without the parts that are linear in the counts is the entropy
        new, totals = np.empty((len(ends), shape[1])), np.zeros(shape[1])
        logs -= kernels.finish(table, new, totals)
        logs -= kernels.words_part(_EVERY, new_doc, doc, 0.0, b)
        logs -= totals @ params.log_weights
        rows = np.zeros((len(prepared.ids), shape[1]))
        rows[prepared.of_rows] = new_doc
        rows[prepared.of_others] += new
        every = len(rows) == shape[0]
        found = RowStatistics(None if every else prepared.ids, rows, shape[0])
        return LinkStatistics(found, totals, float(logs + prepared.constant)), None

    def m_step(self, params: Communities, stats: LinkStatistics) -> Communities:
        """Return the counts as they are: smoothing is added where they are used."""
        return dataclasses.replace(
            params, counts=stats.table.dense(), totals=stats.totals
        )

    def lower_bound(self, params: Communities, stats: LinkStatistics) -> float:
        """Return the bound on the objective, which is affine in the statistics."""
        b, n_ids = params.smoothing, len(params.counts)
        part = kernels.words_part(_EVERY, stats.table.dense(), params.counts, b, b)
        part -= b * n_ids * np.log(params.masses).sum() + params.totals.sum()
        return float(part + stats.totals @ params.log_weights + stats.constant)

    def gain(self, params: Communities, change: LinkStatistics) -> float:
        """Return by how much the bound changes: the nodes in `change` tell."""
        ids = _EVERY if change.table.ids is None else change.table.ids
        rows, b = change.table.rows, params.smoothing
        part = kernels.words_part(ids, rows, params.counts, 0.0, b)
        return float(part + change.totals @ params.log_weights + change.constant)


def _rows_of(block: Block) -> sp.csr_array:
    """Return rows in CSR form, as floats."""
    X = block.X if isinstance(block.X, sp.csr_array) else sp.csr_array(block.X)
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)


def _numbers_of(block: Block) -> NDArray[np.int64]:
    """Return the numbers of the nodes that rows are of."""
    if block.y is None:
        raise ValueError(
            "Rows of an adjacency matrix need their numbers; pass "
            "y=np.arange(n_nodes), or dask_em.networks.as_network(A).data()."
        )
    return np.asarray(block.y).astype(np.int64)
