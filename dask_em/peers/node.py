"""What one node holds."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Node", "Route", "Snapshot"]

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Route:
    """Which rows a node sends and receives in a round.

    Parameters
    ----------
    send, receive : dict of int to array of int
        For each partner, positions among the statistics that the node holds.
    combine : {"add", "replace"}
    """

    send: dict[int, NDArray[np.intp]]
    receive: dict[int, NDArray[np.intp]]
    combine: str


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A node's parameters at some version, and the latent state of its data."""

    version: int
    params: Array | None
    local: Any


class Node:
    """Some of the data, and the statistics and parameters which these need.

    It is a record that the steps of a program (`dask_em.peers.program`) fill in and
    work on; it knows neither workers nor messages.

    Parameters
    ----------
    index : int
        From 0; the last one is a helper, which has no data.
    n_nodes : int
        Nodes that have data.
    chunks : sequence
        Loaders of blocks, or blocks.
    """

    def __init__(self, index: int, n_nodes: int, chunks: Sequence[Any] = ()) -> None:
        self.index = index
        self.n_nodes = n_nodes
        #: Held by whoever works on the node: a step of a run that was given up may
        #: still be under way when the next one begins.
        self.lock = threading.RLock()
        self.chunks = chunks
        self.summary: Any = None
        self.prepared: Any = None
        #: Ids of the statistics that the data need, and who else needs them.
        self.ids: Ids = np.zeros(0, dtype=np.int64)
        self.members: NDArray[np.uint8] = np.zeros((0, 0), dtype=np.uint8)
        self.counted: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        #: Ids that the node looks after for all others, by hash; None before and after.
        self.directory: Any = None
        #: Ids that the node holds, those that only pass through it included, and
        #: where its own are among them.
        self.held: Ids = self.ids
        self.held_members = self.members
        self.own: NDArray[np.intp] | None = None
        self.routes: tuple[Route, ...] = ()
        self.params: Array | None = None
        self.stats: Array | None = None
        self.local: Any = None
        self.version = 0
        #: Of this node and of those that it looks after, by node and version.
        self.snapshots: dict[tuple[int, int], Snapshot] = {}
        self.sent = 0
        self.received = 0
        #: Entries of each column of the table, and what there is of a rotation.
        self.sizes: NDArray[np.int64] | None = None
        self.rotating: Any = None
        #: Bytes of memory that its worker has, and where it may write files.
        self.memory: int | None = None
        self.folder: str | None = None

    @property
    def is_helper(self) -> bool:
        """Whether it has no data, whatever there is."""
        return self.index == self.n_nodes

    def close(self) -> None:
        """Remove what it has left on disk."""
        if self.rotating is not None:
            self.rotating.store.close()
