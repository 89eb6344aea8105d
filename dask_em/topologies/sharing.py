"""Which statistics are on which nodes."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sharing", "hashed", "packed"]

Ids = NDArray[np.int64]
Bools = NDArray[np.bool_]


def hashed(ids: Ids) -> NDArray[np.uint64]:
    """Scatter ids over all numbers of 64 bits, alike on all machines.

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    h = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def packed(members: Bools) -> NDArray[np.uint8]:
    """Return memberships at eight to the byte."""
    return np.packbits(members, axis=1, bitorder="little")


@dataclasses.dataclass(frozen=True)
class Sharing:
    """For each of some statistics, the nodes that need it.

    Parameters
    ----------
    members : array of bool of shape (n, n_nodes)
        Whether a node needs a statistic.
    pick : array of int of shape (n,)
        Which of the nodes that need it is its *owner*: the first, the second, ...
        It is drawn by hashing, so owners have equal shares and all nodes agree.
    counts : array of int of shape (n,)
        How many statistics are alike in all of this.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.topologies import Sharing
    >>> sharing = Sharing.of([np.array([1, 2, 7]), np.array([2, 3]), np.array([2])])
    >>> sharing.degree.tolist()
    [1, 3, 1, 1]
    >>> sharing.lower_bound
    4
    """

    members: Bools
    pick: NDArray[np.intp]
    counts: NDArray[np.int64]

    @classmethod
    def at(cls, ids: Ids, bits: NDArray[np.uint8], n_nodes: int) -> Sharing:
        """Return the sharing of ids whose memberships are packed in bytes."""
        unpacked = np.unpackbits(bits, axis=1, count=n_nodes, bitorder="little")
        members: Bools = unpacked.view(np.bool_)
        degree = members.sum(axis=1, dtype=np.int64)
        # other bits of the hash than those that choose where memberships are kept
        pick = (hashed(ids) >> np.uint64(32)).astype(np.int64) % np.maximum(degree, 1)
        return cls(members, pick, np.ones(len(ids), dtype=np.int64))

    @classmethod
    def of(cls, supports: list[Any]) -> Sharing:
        """Return the sharing of statistics, given the ids that each node needs."""
        ids = np.unique(np.concatenate([np.asarray(s, np.int64) for s in supports]))
        members = np.stack([np.isin(ids, s) for s in supports], axis=1)
        return cls.at(ids, packed(members), len(supports))

    @property
    def n_nodes(self) -> int:
        """Number of nodes that have data."""
        return int(self.members.shape[1])

    @cached_property
    def degree(self) -> NDArray[np.int64]:
        """How many nodes need each statistic."""
        return self.members.sum(axis=1, dtype=np.int64)

    @cached_property
    def owner(self) -> NDArray[np.intp]:
        """Return the node that owns each statistic, one of those that need it."""
        nth = np.cumsum(self.members, axis=1, dtype=np.int32)
        return np.argmax(nth > self.pick[:, None], axis=1)

    @property
    def n_statistics(self) -> int:
        """How many statistics there are."""
        return int(self.counts.sum())

    @property
    def lower_bound(self) -> int:
        r"""Return the fewest numbers that any exchange must send.

        It is :math:`2 \sum_p (r_p - 1)`, where r is the degree of statistic p: before
        the first node knows a sum, each of the others has sent something, and each of
        them must yet be told.
        """
        return int(2 * np.sum((self.degree - 1) * self.counts))

    @property
    def support(self) -> NDArray[np.int64]:
        """How many statistics each node needs."""
        return self.counts @ self.members

    @property
    def overlaps(self) -> NDArray[np.int64]:
        """How many statistics each two nodes share; on the diagonal, with anybody."""
        weighted = self.members * self.counts[:, None].astype(np.float64)
        found = (self.members.T.astype(np.float64) @ weighted).astype(np.int64)
        shared = self.counts * (self.degree > 1)
        np.fill_diagonal(found, shared @ self.members)
        return found

    def summarised(self) -> Sharing:
        """Return the same with statistics that are alike counted together."""
        rows = np.concatenate(
            [packed(self.members), self.pick.astype("<u4")[:, None].view(np.uint8)],
            axis=1,
        )
        as_one = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel()
        _, first, inverse = np.unique(as_one, return_index=True, return_inverse=True)
        counts = np.bincount(inverse, weights=self.counts, minlength=len(first))
        return Sharing(self.members[first], self.pick[first], counts.astype(np.int64))
