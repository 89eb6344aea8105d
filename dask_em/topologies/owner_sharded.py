"""Each statistic is added up by one of those who need it."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .base import Round, Topology, pairs
from .sharing import Sharing

__all__ = ["OwnerSharded"]


@dataclasses.dataclass(frozen=True)
class OwnerSharded(Topology):
    r"""Each statistic has an owner, one of the nodes that need it, who adds it up.

    A sparse reduce-scatter and all-gather, as between the mirrors of a vertex in
    PowerGraph (Gonzalez et al., 2012). With :math:`2 \sum_p (r_p - 1)` numbers, where
    :math:`r_p` nodes need statistic p, it sends as few as any exchange can, and the
    load is spread evenly because owners are drawn by hashing. What only two nodes need
    they exchange directly, in the first of the two rounds.

    References
    ----------
    Gonzalez, J. E., Low, Y., Gu, H., Bickson, D., Guestrin, C. (2012). PowerGraph:
    distributed graph-parallel computation on natural graphs. OSDI 2012, 17-30.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.topologies import OwnerSharded, Sharing
    >>> sharing = Sharing.of([np.arange(10), np.arange(5, 15), np.arange(8)])
    >>> tally = OwnerSharded().tally(sharing)
    >>> int(sum(sizes.sum() for sizes in tally.sizes)) == sharing.lower_bound
    True
    """

    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        """Return two rounds: to the owners, and from them."""
        if n_nodes == 1:
            return ()
        gather = Round(pairs(n_nodes), "add")
        if n_nodes == 2:  # all goes directly
            return (gather,)
        return gather, Round(pairs(n_nodes), "replace")

    def travels(
        self, step: int, src: int, dst: int, sharing: Sharing
    ) -> NDArray[np.bool_]:
        """Say what goes to an owner, between two, or back."""
        members, degree = sharing.members, sharing.degree
        both = members[:, src] & members[:, dst]
        if step == 0:
            return both & ((sharing.owner == dst) | (degree == 2))
        return both & (sharing.owner == src) & (degree > 2)
