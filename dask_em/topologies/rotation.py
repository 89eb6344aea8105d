"""Slices of the parameters go round, and the data stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ..schedules.base import check_integer
from .base import Round, Topology
from .plan import Message, Plan
from .sharing import Sharing

__all__ = ["Rotation", "rotation_plan"]

_WAITS = ("barrier", "extra_updates", "neighbours")


@dataclasses.dataclass(frozen=True)
class Rotation(Topology):
    r"""Slices of the parameters go from node to node, each at one node at a time.

    With w nodes the table of counts of documents and words is cut into w times w
    blocks, by documents, which stay with their node, and by words, whose parameters
    travel. In *sub-epoch* t node i has slice i + t (modulo w): it makes an E-step of
    the block there, and an M-step for the documents and words of the block, whose
    parameters nobody else has at that time. Then slices move on. Of what all share,
    the K sums over all words, each node tells the others its own part. After w
    sub-epochs, a *pass*, every slice has met all documents. No node ever holds all of
    the model.

    Parameters
    ----------
    wait : {"extra_updates", "barrier", "neighbours"}, default="extra_updates"
        What a node does until it has the sums of all others. With "barrier" it waits
        (Gemulla et al., 2011). With "extra_updates" it sweeps its own block again
        while it waits (Fugue; Kumar et al., 2014). With "neighbours" it waits for the
        next slice alone, and sums travel with the slices: those of a node that is h
        ahead in the ring are h - 1 sub-epochs old then, so never older than w - 2.
    max_extra : int, default=2
        Extra sweeps of a block in a sub-epoch, at most.
    max_staleness : int, optional
        For "neighbours": sub-epochs after which all nodes tell each other their sums.
        By default only the beginning of a pass does that.
    slices_per_node : int, default=1
        More of them are smaller: only one in so many travels at a time.
    in_memory : int or "auto", default="auto"
        Bytes that a node may use for what its blocks contributed last; what is beyond
        lies in files of its worker's local directory. By default a quarter of the
        worker's memory, shared by its nodes.

    References
    ----------
    Gemulla, R., Nijkamp, E., Haas, P. J., Sismanis, Y. (2011). Large-scale matrix
    factorization with distributed stochastic gradient descent. KDD 2011, 69-77.

    Kumar, A., Beutel, A., Ho, Q., Xing, E. (2014). Fugue: slow-worker-agnostic
    distributed learning for big models on big data. AISTATS 2014, 531-539.

    Examples
    --------
    >>> from dask_em.topologies import Rotation
    >>> Rotation(wait="barrier").sub_epochs(3)
    ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    """

    wait: str = "extra_updates"
    max_extra: int = 2
    max_staleness: int | None = None
    slices_per_node: int = 1
    in_memory: int | str = "auto"

    def __post_init__(self) -> None:
        if self.wait not in _WAITS:
            raise ValueError(
                f"wait must be one of {', '.join(map(repr, _WAITS))}, got "
                f"{self.wait!r}."
            )
        check_integer("max_extra", self.max_extra, 0)
        check_integer("slices_per_node", self.slices_per_node, 1)
        if self.max_staleness is not None:
            check_integer("max_staleness", self.max_staleness, 1)
            if self.wait != "neighbours":
                raise ValueError(
                    f"max_staleness is for wait='neighbours'; with {self.wait!r} all "
                    "nodes tell each other their sums after every sub-epoch."
                )
        if isinstance(self.in_memory, str):
            if self.in_memory != "auto":
                raise ValueError(
                    "in_memory must be 'auto' or a number of bytes, got "
                    f"{self.in_memory!r}."
                )
        else:
            check_integer("in_memory", self.in_memory, 0)

    @property
    def name(self) -> str:
        """What to call it in a sentence: with what is not the default."""
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"Rotation({', '.join(given)})"

    def sub_epochs(self, n_nodes: int) -> tuple[tuple[int, ...], ...]:
        """Return the slice of each node, by sub-epoch of a pass.

        Parameters
        ----------
        n_nodes : int

        Returns
        -------
        tuple of tuple of int
        """
        return tuple(
            tuple(lap * n_nodes + (i + t) % n_nodes for i in range(n_nodes))
            for lap in range(self.slices_per_node)
            for t in range(n_nodes)
        )

    def ring(self, n_nodes: int) -> tuple[tuple[int, int], ...]:
        """Return who passes a slice to whom."""
        if n_nodes == 1:
            return ()
        return tuple((i, (i - 1) % n_nodes) for i in range(n_nodes))

    def candidates(self, n_nodes: int, overlaps: NDArray[np.int64]) -> NoReturn:
        """Raise: it has no exchange of statistics."""
        raise ValueError(
            "topology='rotation' moves parameters, and has no exchange of statistics; "
            "choose another topology for this model, or for this plan."
        )

    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        """Return a round for every sub-epoch."""
        ring = self.ring(n_nodes)
        return tuple(Round(ring, "replace") for _ in self.sub_epochs(n_nodes) if ring)

    def travels(
        self, step: int, src: int, dst: int, sharing: Sharing
    ) -> NDArray[np.bool_]:
        """Raise: what travels does not depend on who needs it."""
        self.candidates(0, np.zeros((0, 0), np.int64))


def rotation_plan(
    topology: Rotation,
    lengths: Sequence[int],
    n_nodes: int,
    width: int,
    lower_bound: int,
) -> Plan:
    """Return what a pass sends, given how many statistics each slice has.

    Parameters
    ----------
    topology : Rotation
    lengths : sequence of int
    n_nodes, width : int
    lower_bound : int
        Of an exchange of statistics, to compare with.
    """
    ring = topology.ring(n_nodes)
    own = [sum(lengths[i::n_nodes]) for i in range(n_nodes)]
    return Plan(
        topology=topology,
        n_nodes=n_nodes,
        width=width,
        rounds=tuple(
            tuple(Message(src, dst, lengths[slices[src]]) for src, dst in ring)
            for slices in topology.sub_epochs(n_nodes)
            if ring
        ),
        support=tuple(own),
        carried=(0,) * (n_nodes + 1),
        n_statistics=sum(lengths) + 1,  # with the sum over all
        lower_bound=lower_bound,
    )
