"""Link communities of networks, with scikit-learn's face."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.base import ClusterMixin
from sklearn.metrics import roc_auc_score
from sklearn.utils.validation import check_is_fitted

from ..models.link_communities import LinkCommunityModel
from ..models.link_memberships import fold_in, log_likelihood, shares
from ..models.link_state import Communities, NetworkSummary
from ..networks.edges import ends_of_pairs, find_nodes
from ..networks.network import Network, as_network, as_rows
from ..schedules.base import check_integer
from ..sharding import is_dask
from .base import EMEstimator
from .clients import asynchronous_client
from .table import Table

__all__ = ["MixedMembershipNetwork"]

Array = NDArray[Any]


class MixedMembershipNetwork(ClusterMixin, EMEstimator):
    r"""Communities of a network that overlap, fitted by expectation-maximisation.

    Links belong to communities, and nodes to those of their links. The number of links
    between two nodes is Poisson,

    .. math:: A_{ij} \sim \mathrm{Poisson}\Bigl(\sum_z \theta_{iz} \theta_{jz}\Bigr),

    and EM shares each link among the communities, in proportion to
    :math:`\theta_{iz} \theta_{jz}` (Ball, Karrer and Newman, 2011). Nodes with many
    links just have large affinities :math:`\theta`, so that communities are not found
    by degree. Pairs of nodes without a link cost no time. In a directed network a node
    has an affinity for links that leave it and another for those that arrive.

    Parameters
    ----------
    n_components : int, default=2
        Number of communities K.
    directed : bool, default=False
        Whether the link from i to j is another than that from j to i.
    smoothing : float, default=0.0
        Imaginary links of every node in every community: the parameters of Dirichlet
        priors, less 1. A little of it, such as 0.1, keeps affinities above 0, which
        is better for the prediction of links.
    tol : float, default=1e-5
        The fit has converged when a pass raises the log-likelihood by less per link.
    max_iter : int, default=500
        Effective passes over the links at most.
    n_init : int, default=10
        Starts, of which the one with the highest likelihood is kept: there are many
        local maxima.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts.
    verbose : int, default=0
        1 prints how the fit goes on.
    verbose_interval : int, default=10
        M-steps between two lines.
    schedule : str or Schedule, default="auto"
        When to run M-steps, see `dask_em.schedules`.
    transport : str or Transport, default="auto"
        Where to run E-steps: the current Dask client, and threads where there is none.
    shards : int or "auto", default="auto"
        Into how many parts to cut the rows of the adjacency matrix.
    hand_out : bool, default=True
        Whether shards may move from slow workers to fast ones.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    checkpoint : str or path, default=None
        Directory or fsspec URL in which the state of the fit is saved now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.

    Attributes
    ----------
    memberships_ : ndarray of shape (n_nodes, n_components)
        Share of each community in the links of a node; rows add up to 1. Those of
        nodes without links are all 1 / K.
    labels_ : ndarray of int of shape (n_nodes,)
        Community with the largest share; -1 for nodes without links.
    affinities_ : ndarray of shape (n_nodes, n_components)
        The :math:`\theta`; in a directed network those for links that leave.
    in_affinities_ : ndarray of shape (n_nodes, n_components)
        Those for links that arrive; the same array in an undirected network.
    out_memberships_, in_memberships_ : ndarray of shape (n_nodes, n_components)
        As `memberships_`, of the links that leave a node, or arrive.
    community_links_ : ndarray of shape (n_components,)
        Expected number of links of each community.
    nodes_ : ndarray of shape (n_nodes,)
        Names of the nodes, or numbers if they have none.
    lower_bound_ : float
        Log-likelihood per link, plus the logarithm of the prior where there is
        smoothing.
    lower_bounds_ : list of float
        The bound on it before each M-step.
    converged_ : bool
    n_iter_ : int
        Effective passes over the links, rounded up.
    result_ : EMResult
        Status, bound, log of the fit and settings used.
    n_features_in_ : int
        Number of nodes.

    See Also
    --------
    dask_em.networks : Networks, and files with edges.
    dask_em.LatentDirichletAllocation : For documents.

    Notes
    -----
    A network is what `dask_em.networks.as_network` takes: a square adjacency matrix,
    dense, sparse or lazy, a list of edges, the path of a file with them, or a graph of
    networkx. As an affinity matrix does in scikit-learn, a matrix has a row and a
    column for each node, so that its rows alone cannot be split for cross-validation.

    An edge between i and j is one link, which is two entries of the matrix of an
    undirected network; one from i to itself is counted twice in :math:`A_{ii}`, and
    expected :math:`\sum_z \theta_{iz}^2 / 2` times. The likelihood is that of all pairs
    of nodes, up to a term of the data alone.

    References
    ----------
    Ball, B., Karrer, B., Newman, M. E. J. (2011). Efficient and principled method for
    detecting communities in networks. Physical Review E 84, 036103.

    Examples
    --------
    Two triangles that share a node:

    >>> from dask_em import MixedMembershipNetwork
    >>> edges = ["ab", "bc", "ca", "cd", "de", "ec"]
    >>> network = MixedMembershipNetwork(2, random_state=0)
    >>> network = network.fit([[*edge] for edge in edges])
    >>> network.nodes_.tolist()
    ['a', 'b', 'c', 'd', 'e']
    >>> network.memberships_.max(axis=1).round(2).tolist()
    [1.0, 1.0, 0.5, 1.0, 1.0]
    >>> network.expected_links([("a", "b"), ("a", "d")]).round(2).tolist()
    [0.67, 0.0]
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        directed: bool = False,
        smoothing: float = 0.0,
        tol: float = 1e-5,
        max_iter: int = 500,
        n_init: int = 10,
        random_state: Any = None,
        verbose: int = 0,
        verbose_interval: int = 10,
        schedule: Any = "auto",
        transport: Any = "auto",
        shards: Any = "auto",
        hand_out: bool = True,
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> None:
        self.n_components = n_components
        self.directed = directed
        self.smoothing = smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.schedule = schedule
        self.transport = transport
        self.shards = shards
        self.hand_out = hand_out
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        tags.input_tags.sparse = True
        return tags

    # ------------------------------------------------------------------------ fit

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit communities.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_nodes, n_nodes), or edges
            See `dask_em.networks.as_network`.
        y : Ignored

        Returns
        -------
        self : MixedMembershipNetwork
            Or an awaitable of it if the current Dask client is asynchronous. If the
            fit fails, what an earlier one found is left as it was.

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
        network = as_network(X, directed=self.directed)
        table = Table(
            X=network.data(),
            sample_weight=None,
            n_features=network.n_nodes,
            feature_names=None,
            labels=None,
            attributes={"nodes_": network.nodes},
        )
        return self._fit_model(model, table)

    def _model(self) -> LinkCommunityModel:
        check_integer("n_components", self.n_components, 1)
        check_integer("verbose_interval", self.verbose_interval, 1)
        if not isinstance(self.directed, bool | np.bool_):
            raise TypeError(f"directed must be True or False, got {self.directed!r}.")
        if not isinstance(self.smoothing, Real):
            raise TypeError(f"smoothing must be a number, got {self.smoothing!r}.")
        return LinkCommunityModel(
            int(self.n_components), bool(self.directed), float(self.smoothing)
        )

    def _attributes_of(self, params: Communities, table: Table) -> Mapping[str, Any]:
        leaving, arriving = params.smoothed()
        affinities, in_affinities = params.affinities()
        both = leaving + arriving if params.directed else leaving
        memberships = shares(both)
        smoothed = 2 * params.smoothing if params.directed else params.smoothing
        linked = (both > smoothed).any(axis=1)
        return {
            "memberships_": memberships,
            "out_memberships_": shares(leaving),
            "in_memberships_": shares(arriving),
            "labels_": np.where(linked, memberships.argmax(axis=1), -1),
            "affinities_": affinities,
            "in_affinities_": in_affinities,
            "community_links_": params.links,
            "_fitted": (params.directed, params.smoothing),
        }

    def fit_predict(self, X: Any, y: Any = None) -> Any:
        """Fit communities and return the one with the largest share in each node.

        Parameters
        ----------
        X, y
            As in `fit`.

        Returns
        -------
        labels : ndarray of int of shape (n_nodes,)
            The `labels_`; an awaitable of them if the current Dask client is
            asynchronous.
        """
        return self._after_fit(X, "labels_")

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit communities and return the shares that nodes have in them.

        Parameters
        ----------
        X, y
            As in `fit`.

        Returns
        -------
        memberships : ndarray of shape (n_nodes, n_components)
            The `memberships_`; an awaitable of them if the current Dask client is
            asynchronous.
        """
        return self._after_fit(X, "memberships_")

    def _after_fit(self, X: Any, name: str) -> Any:
        fitted = self.fit(X)
        if fitted is self:
            return getattr(self, name)

        async def later() -> Any:
            return getattr(await fitted, name)

        return later()

    # ------------------------------------------------------------------ new nodes

    def transform(self, X: Any) -> Any:
        """Return the shares in communities of new nodes, by their links to known ones.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_new, n_nodes)
            Numbers of links to the nodes of the fit, in the order of `nodes_`: those
            that leave the new nodes, in a directed network. May be a Dask array.

        Returns
        -------
        memberships : array of shape (n_new, n_components)
            A Dask array with the chunks of `X` if that is lazy. Rows of nodes without
            links are all 1 / K.
        """
        check_is_fitted(self)
        known = self.in_affinities_, self._fitted[1]
        n, K = known[0].shape
        if not (sp.issparse(X) or is_dask(X)):
            X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != n:
            raise ValueError(
                f"X must have a column for each of the {n} nodes of the fit, got an "
                f"array of shape {X.shape}."
            )
        if not is_dask(X):
            return _folded(X, known)
        if X.numblocks[1] > 1:
            raise ValueError(
                "X is chunked along nodes; put them into one chunk with "
                "X.rechunk({1: -1})."
            )
        import dask

        return X.map_blocks(
            _folded,
            # in the graph once, not in every task
            known=dask.delayed(known, pure=True, traverse=False),  # type: ignore[attr-defined]
            chunks=(X.chunks[0], (K,)),
            dtype=float,
            meta=np.empty((0, K)),
        )

    def predict(self, X: Any) -> Any:
        """Return the community with the largest share in each new node.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_new, n_nodes)
            As in `transform`.

        Returns
        -------
        labels : array of int of shape (n_new,)
        """
        return self.transform(X).argmax(axis=1)

    # ---------------------------------------------------------------------- links

    def expected_links(self, pairs: Any) -> Array:
        """Return the expected number of links between nodes.

        Parameters
        ----------
        pairs : array-like of shape (n_pairs, 2)
            Names of nodes, as in `nodes_`: from the first of a pair to the second, in
            a directed network.

        Returns
        -------
        expected : ndarray of shape (n_pairs,)

        Raises
        ------
        ValueError
            If one is not a node of the fit.
        """
        check_is_fitted(self)
        i, j = (find_nodes(self.nodes_, names) for names in ends_of_pairs(pairs))
        found = np.einsum("pk,pk->p", self.affinities_[i], self.in_affinities_[j])
        if not self._fitted[0]:
            found[i == j] /= 2
        return found

    def link_probability(self, pairs: Any) -> Array:
        """Return the probability that there is a link between nodes, or several.

        Parameters
        ----------
        pairs : array-like of shape (n_pairs, 2)
            As in `expected_links`.

        Returns
        -------
        probability : ndarray of shape (n_pairs,)
        """
        return -np.expm1(-self.expected_links(pairs))

    def score_links(self, pairs: Any, present: Any) -> float:
        """Return how well the model tells pairs with a link from those without.

        Parameters
        ----------
        pairs : array-like of shape (n_pairs, 2)
            As in `expected_links`; best of links that were kept from the fit, and of
            pairs without one.
        present : array-like of bool of shape (n_pairs,)

        Returns
        -------
        auc : float
            Area under the ROC curve: the probability that one with a link has the
            larger expected number of them.
        """
        return float(roc_auc_score(present, self.expected_links(pairs)))

    def score(self, X: Any, y: Any = None) -> float:
        """Return the log-likelihood of a network of the same nodes, per link.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_nodes, n_nodes), or edges
            As in `fit`; lazy ones are computed. Nodes without links may be missing.
        y : Ignored

        Returns
        -------
        log_likelihood : float
            That of Poisson numbers of links between all pairs of nodes, up to a term of
            the data alone, divided by the number of links. Links that the model holds
            impossible make it very low; smoothing avoids that.
        """
        check_is_fitted(self)
        directed, _ = self._fitted
        network = as_network(X, directed=directed)
        if not np.array_equal(network.nodes, self.nodes_):
            raise ValueError(
                f"X has other nodes than the {self.n_features_in_} of the fit, or in "
                "another order; pass dask_em.networks.Edges(..., nodes=nodes_)."
            )
        summary, total = self._summed(network)
        summary.check(directed)
        expected = float(self.community_links_.sum())
        return float(total - expected) / summary.weight

    def _summed(self, network: Network) -> Any:
        """Return sizes, and the sum of links times their log-expectations."""
        pair = self.affinities_, self.in_affinities_
        A, directed = network.adjacency, self._fitted[0]
        if not network.lazy:
            return _of_block(A, 0, pair, directed)
        if asynchronous_client() is not None:
            raise TypeError(
                "this computes lazy data at once, which an asynchronous client cannot "
                "wait for; use a Client(asynchronous=False), or data in memory."
            )
        import dask

        one = dask.delayed(_of_block, pure=False)  # type: ignore[attr-defined]
        send = dask.delayed(pair, pure=True, traverse=False)  # type: ignore[attr-defined]
        firsts = np.cumsum([0, *A.chunks[0]]).tolist()
        blocks = A.to_delayed().ravel()
        found = dask.compute(  # type: ignore[attr-defined]
            *(
                one(block, first, send, directed)
                for block, first in zip(blocks, firsts, strict=False)
            )
        )
        summaries, totals = zip(*found, strict=True)
        return functools.reduce(operator.add, summaries), sum(totals)


def _folded(X: Any, known: tuple[Array, float]) -> Array:
    """Return the shares of new nodes, given the affinities of known ones."""
    rows = as_rows(X)
    if not np.isfinite(rows.data).all() or (rows.data < 0).any():
        raise ValueError(
            "Numbers of links must not be negative, NaN or infinite; drop them."
        )
    return fold_in(*known, rows)


def _of_block(block: Any, first: int, pair: tuple[Array, Array], directed: bool) -> Any:
    rows = as_rows(block)
    numbers = np.arange(first, first + rows.shape[0])
    sizes = NetworkSummary.of(rows, numbers, directed)
    return sizes, log_likelihood(rows, first, *pair, directed)
