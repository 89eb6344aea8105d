"""Who sends which statistics to whom."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .sharing import Sharing

__all__ = ["Round", "Topology", "pairs"]

Bools = NDArray[np.bool_]


def pairs(n_nodes: int) -> tuple[tuple[int, int], ...]:
    """Return all ordered pairs of different nodes."""
    return tuple((i, j) for i in range(n_nodes) for j in range(n_nodes) if i != j)


@dataclasses.dataclass(frozen=True)
class Round:
    """Messages that are sent at the same time.

    Parameters
    ----------
    links : tuple of (int, int)
        Who sends to whom.
    combine : {"add", "replace"}
        What the receiver does with what it gets.

    Examples
    --------
    >>> from dask_em.topologies import Tree
    >>> Tree(2).rounds(3)[0]
    Round(links=((1, 0), (2, 0)), combine='add')
    """

    links: tuple[tuple[int, int], ...]
    combine: Literal["add", "replace"]


class Topology(ABC):
    """How statistics reach all nodes that need them, as complete sums.

    A topology is settings only. It says in which rounds messages are sent and which
    statistics are in each; this follows from who needs a statistic, and is computed by
    sender and receiver each for itself, so that bare numbers travel. Nodes are
    numbered from 0; node `n_nodes` is a helper without data, for topologies that want
    one.
    """

    def candidates(
        self, n_nodes: int, overlaps: NDArray[np.int64]
    ) -> Sequence[Topology]:
        """Return the concrete topologies that this may stand for.

        Parameters
        ----------
        n_nodes : int
        overlaps : array of shape (n_nodes, n_nodes)
            How many statistics each two nodes share; on the diagonal, how many a node
            shares with anybody.

        Raises
        ------
        ValueError
            If it does not suit this number of nodes.
        """
        return [self]

    @abstractmethod
    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        """Return the rounds, one after the other."""

    @abstractmethod
    def travels(self, step: int, src: int, dst: int, sharing: Sharing) -> Bools:
        """Say which statistics are in a message of a round."""

    def carried(self, place: int, sharing: Sharing) -> Bools:
        """Say which statistics pass through a node that does not need them."""
        return np.zeros(len(sharing.counts), dtype=bool)

    def tally(self, sharing: Sharing) -> Tally:
        """Count what is in all messages."""
        rounds = self.rounds(sharing.n_nodes)
        sizes = tuple(
            np.array(
                [
                    sharing.counts[self.travels(step, src, dst, sharing)].sum()
                    for src, dst in round_.links
                ],
                dtype=np.int64,
            )
            for step, round_ in enumerate(rounds)
        )
        extra = [
            sharing.counts[self.carried(place, sharing)].sum()
            for place in range(sharing.n_nodes + 1)
        ]
        return Tally(sizes, np.array(extra, dtype=np.int64))

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return repr(self)


@dataclasses.dataclass(frozen=True)
class Tally:
    """How many statistics are in each message of each round, and pass through nodes."""

    sizes: tuple[NDArray[np.int64], ...]
    carried: NDArray[np.int64]

    def __add__(self, other: Any) -> Tally:
        return Tally(
            tuple(a + b for a, b in zip(self.sizes, other.sizes, strict=True)),
            self.carried + other.carried,
        )
