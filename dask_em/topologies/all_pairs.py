"""Everybody sends to everybody."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .base import Round, Topology, pairs
from .sharing import Sharing

__all__ = ["AllPairs"]


@dataclasses.dataclass(frozen=True)
class AllPairs(Topology):
    r"""Each two nodes exchange what both need, and each adds up for itself.

    One round, which is the lowest latency there is, and :math:`\sum_p r_p (r_p - 1)`
    numbers, where :math:`r_p` nodes need statistic p (Wolfe, Haghighi and Klein, 2008).

    Examples
    --------
    >>> from dask_em.topologies import AllPairs
    >>> len(AllPairs().rounds(20)[0].links)
    380
    """

    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        """Return the one round."""
        return (Round(pairs(n_nodes), "add"),) if n_nodes > 1 else ()

    def travels(
        self, step: int, src: int, dst: int, sharing: Sharing
    ) -> NDArray[np.bool_]:
        """Say that what both need travels."""
        return sharing.members[:, src] & sharing.members[:, dst]
