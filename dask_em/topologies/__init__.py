"""Who sends which statistics to whom."""

from __future__ import annotations

from collections.abc import Callable

from .all_pairs import AllPairs
from .auto import Auto
from .base import Round, Topology
from .cost import Network
from .map_reduce import MapReduce
from .owner_sharded import OwnerSharded
from .plan import Message, Plan, make_plan
from .rotation import Rotation
from .sharing import Sharing
from .spanning_tree import JunctionTree, Star, Tree

__all__ = [
    "AllPairs",
    "JunctionTree",
    "MapReduce",
    "Message",
    "Network",
    "OwnerSharded",
    "Plan",
    "Rotation",
    "Round",
    "Sharing",
    "Star",
    "Topology",
    "Tree",
    "make_plan",
]

_NAMED: dict[str, Callable[[], Topology]] = {
    "auto": Auto,
    "map_reduce": MapReduce,
    "all_pairs": AllPairs,
    "junction_tree": JunctionTree,
    "owner_sharded": OwnerSharded,
    "rotation": Rotation,
    "star": Star,
    "tree": Tree,
}


def named_topology(topology: Topology | str) -> Topology:
    """Return the topology that a user's argument stands for."""
    if isinstance(topology, Topology):
        return topology
    if isinstance(topology, str) and topology in _NAMED:
        return _NAMED[topology]()
    if isinstance(topology, type):
        raise ValueError(
            f"topology must be an object, got {topology!r}; call it: "
            f"{topology.__name__}()."
        )
    raise ValueError(
        f"topology must be one of {', '.join(map(repr, _NAMED))} or an object from "
        f"dask_em.topologies, got {topology!r}."
    )
