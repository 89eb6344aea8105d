"""Models whose statistics each concern some of the data only."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SparseModel", "Start"]

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a fit begins: either parameters, or statistics to be added up.

    Parameters
    ----------
    params : array of shape (n_ids, width), optional
        The same for an id wherever it occurs.
    stats : array of shape (n_ids, width), optional
        What this node contributes to the sum over all nodes, from which the first
        M-step makes parameters.
    """

    params: Array | None = None
    stats: Array | None = None

    def __post_init__(self) -> None:
        if (self.params is None) == (self.stats is None):
            raise ValueError("a start has either params or stats")


class SparseModel(ABC):
    r"""A model of many statistics, each of which only some of the data touch.

    Statistics are sums over the data, numbered by ids; data name the ids they need
    (`support`), and a node that holds some of the data keeps those rows of statistics
    and parameters and no others. The M-step is *local*: what a node needs to make its
    parameters is the sum, over all nodes, of the statistics of its own ids. Where a
    parameter is normalised by a sum over ids that other nodes have, that sum is made a
    statistic with an id of its own (Wolfe, Haghighi and Klein, 2008).

    Methods are given what a node holds. A model object holds structure and
    hyper-parameters only, is never changed, and travels to the nodes, so it should be
    small.

    Notes
    -----
    *Blocks* are what a data source loads, `prepared` is what `prepare` makes of them,
    once. `params` and `stats` are arrays of shape (n_ids, width), aligned with the ids
    of `support`.

    References
    ----------
    Wolfe, J., Haghighi, A., Klein, D. (2008). Fully distributed EM for very large
    datasets. ICML 2008, 1184-1191.

    Examples
    --------
    Shares of words, whose sum is a statistic too, with the id 99:

    >>> import dataclasses
    >>> import numpy as np
    >>> from dask_em import SparseModel, fit_em
    >>> from dask_em.sparse_model import Start
    >>> @dataclasses.dataclass
    ... class Seen:
    ...     weight: int
    ...
    ...     def __add__(self, other):
    ...         return Seen(self.weight + other.weight)
    >>> class Shares(SparseModel):
    ...     def survey(self, blocks):
    ...         return Seen(sum(len(block) for block in blocks))
    ...
    ...     def prepare(self, blocks, summary):
    ...         words = [word for block in blocks for word in block]
    ...         ids, counts = np.unique(words, return_counts=True)
    ...         counts = np.append(counts, counts.sum())
    ...         return np.append(ids, 99), counts[:, None]
    ...
    ...     def support(self, prepared):
    ...         return prepared[0]
    ...
    ...     def start(self, prepared, counted, summary, seed):
    ...         return Start(stats=prepared[1])
    ...
    ...     def e_step(self, params, prepared, local=None):
    ...         _, counts = prepared
    ...         bound = counts[:-1, 0] @ np.log(params[:-1, 0])
    ...         return counts, bound, None
    ...
    ...     def m_step(self, params, stats, prepared):
    ...         return stats / stats[-1]
    >>> result = fit_em(Shares(), [3, 5, 3, 8], shards=2, max_iter=1, tol=0)
    >>> ids, shares = result.params.gather()
    >>> ids.tolist(), shares.ravel().tolist()
    ([3, 5, 8, 99], [0.5, 0.25, 0.25, 1.0])
    """

    #: Numbers per statistic.
    width: int = 1

    @abstractmethod
    def survey(self, blocks: Sequence[Any]) -> Any:
        """Look at blocks once; summaries of disjoint data are combined by ``+``.

        The summary has a property `weight`, by which gains are divided that are
        compared with `tol` (for instance the number of tokens).
        """

    def check(self, summary: Any) -> None:  # noqa: B027
        """Raise `ValueError` where the data cannot be fitted by this model."""

    @abstractmethod
    def prepare(self, blocks: Sequence[Any], summary: Any) -> Any:
        """Turn blocks into what `e_step` wants to see; done once. There may be none."""

    @abstractmethod
    def support(self, prepared: Any) -> Ids:
        """Return the ids of the statistics that the data need: sorted, distinct.

        Ids are non-negative, and the same thing has the same id on every node.
        """

    @abstractmethod
    def start(
        self, prepared: Any, counted: NDArray[np.bool_], summary: Any, seed: int
    ) -> Start:
        """Return where to begin.

        Parameters
        ----------
        prepared : object
        counted : array of bool of shape (n_ids,)
            Whether this node is the one that counts an id: each id is counted by
            exactly one of the nodes that have it.
        summary : object
            Of all data.
        seed : int
            The same on all nodes, and in all fits with the same `random_state`.
        """

    @abstractmethod
    def e_step(
        self, params: Array, prepared: Any, local: Any = None
    ) -> tuple[Array, float, Any]:
        """Return what the node's data contribute.

        `params` and `local` are to be left as they are: they may be somebody's copy.

        Returns
        -------
        stats : array of shape (n_ids, width)
        bound : float
            The data's part of the bound on the log-likelihood.
        local : object
            Latent state of the data, which is handed in again next time, or None.
        """

    @abstractmethod
    def m_step(self, params: Array, stats: Array, prepared: Any) -> Array:
        """Return the parameters that maximise the bound.

        Parameters
        ----------
        params : array of shape (n_ids, width)
            The ones before; zeros for a start by statistics.
        stats : array of shape (n_ids, width)
            Summed over all nodes.
        prepared : object
            For the structure of the ids; the result must depend on the parameters
            and statistics of each id's own kin alone, so that all nodes agree.
        """

    def penalty(
        self, params: Array, prepared: Any, counted: NDArray[np.bool_]
    ) -> float:
        """Return the part of the bound that depends on parameters alone.

        It is summed over nodes; an id's part must be counted where `counted` says.
        """
        return 0.0
