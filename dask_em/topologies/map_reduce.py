"""One reducer adds everything up."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .base import Round, Topology
from .sharing import Sharing

__all__ = ["MapReduce"]


@dataclasses.dataclass(frozen=True)
class MapReduce(Topology):
    r"""A reducer of its own adds up all statistics and sends all of them back.

    It sends :math:`2 \sum_p r_p` numbers in two rounds, where :math:`r_p` nodes need
    statistic p, and all pass through the reducer, which holds every statistic there
    is. The baseline of Wolfe, Haghighi and Klein (2008).

    Examples
    --------
    >>> from dask_em.topologies import MapReduce
    >>> MapReduce().rounds(2)[0].links
    ((0, 2), (1, 2))
    """

    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        """Return two rounds: up, and down again."""
        if n_nodes == 1:
            return ()
        up = tuple((k, n_nodes) for k in range(n_nodes))
        return Round(up, "add"), Round(tuple((j, i) for i, j in up), "replace")

    def travels(
        self, step: int, src: int, dst: int, sharing: Sharing
    ) -> NDArray[np.bool_]:
        """Say that everything travels, even what only one node needs."""
        return sharing.members[:, src if step == 0 else dst]

    def carried(self, place: int, sharing: Sharing) -> NDArray[np.bool_]:
        """Say that everything passes through the reducer."""
        at_reducer = place == sharing.n_nodes > 1
        return np.full(len(sharing.counts), at_reducer)
