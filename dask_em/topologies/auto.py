"""Whatever takes the least time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .all_pairs import AllPairs
from .base import Round, Topology
from .map_reduce import MapReduce
from .owner_sharded import OwnerSharded
from .sharing import Sharing
from .spanning_tree import JunctionTree

__all__ = ["Auto"]


@dataclasses.dataclass(frozen=True)
class Auto(Topology):
    """All topologies, to be compared by what they would cost."""

    def candidates(
        self, n_nodes: int, overlaps: NDArray[np.int64]
    ) -> Sequence[Topology]:
        """Return one of each kind, and several trees."""
        trees = JunctionTree("best").candidates(n_nodes, overlaps)
        return [OwnerSharded(), AllPairs(), *trees, MapReduce()]

    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        """Raise: it is none itself."""
        raise TypeError("choose one of the candidates")

    def travels(
        self, step: int, src: int, dst: int, sharing: Sharing
    ) -> NDArray[np.bool_]:
        """Raise: it is none itself."""
        raise TypeError("choose one of the candidates")
