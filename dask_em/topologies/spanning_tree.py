"""Statistics travel along the edges of a tree."""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .base import Round, Topology
from .sharing import Sharing

__all__ = ["JunctionTree", "Star", "Tree"]

Edges = tuple[tuple[int, int], ...]
Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class _Rooted:
    """A spanning tree, hung up at its centre so that it is as flat as can be.

    Parameters
    ----------
    parent : tuple of int
        Of each node; the root is its own.
    depth : tuple of int
    below : array of bool of shape (n_nodes, n_nodes)
        Whether the second node lies in the subtree of the first.
    """

    parent: tuple[int, ...]
    depth: tuple[int, ...]
    below: Bools


@functools.lru_cache(maxsize=64)
def _rooted(edges: Edges, n_nodes: int) -> _Rooted:
    neighbours: list[list[int]] = [[] for _ in range(n_nodes)]
    for i, j in edges:
        if not (0 <= i < n_nodes and 0 <= j < n_nodes):
            raise ValueError(
                f"the tree has the edge {(i, j)}, but nodes are numbered from 0 to "
                f"{n_nodes - 1}; name the edges of a tree on these nodes."
            )
        neighbours[i].append(j)
        neighbours[j].append(i)

    def walk(root: int) -> tuple[list[int], list[int], list[int]]:
        parent, depth, order = [-1] * n_nodes, [0] * n_nodes, [root]
        parent[root] = root
        for k in order:
            for other in neighbours[k]:
                if parent[other] < 0:
                    parent[other], depth[other] = k, depth[k] + 1
                    order.append(other)
        return parent, depth, order

    if len(edges) != n_nodes - 1 or len(walk(0)[2]) != n_nodes:
        raise ValueError(
            f"{len(edges)} edges do not make a tree on {n_nodes} nodes; a tree has "
            f"{n_nodes - 1} and reaches every node."
        )
    # the middle of a longest path: the end of a walk from anywhere, and from there
    end = walk(0)[2][-1]
    parent, depth, order = walk(end)
    centre = order[-1]
    for _ in range(depth[centre] // 2):
        centre = parent[centre]
    parent, depth, order = walk(centre)
    below = np.eye(n_nodes, dtype=bool)
    for k in reversed(order[1:]):
        below[parent[k]] |= below[k]
    return _Rooted(tuple(parent), tuple(depth), below)


class _SpanningTree(Topology):
    """A tree on which each statistic is carried between all nodes that need it."""

    @abstractmethod
    def edges(self, n_nodes: int) -> Edges:
        """Return the edges."""

    def _tree(self, n_nodes: int) -> _Rooted:
        return _rooted(self.edges(n_nodes), n_nodes)

    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        """Return a round for every level, from the leaves up and down again."""
        if n_nodes == 1:
            return ()
        tree = self._tree(n_nodes)
        levels = [
            tuple((k, tree.parent[k]) for k in range(n_nodes) if tree.depth[k] == depth)
            for depth in range(max(tree.depth), 0, -1)
        ]
        up = [Round(links, "add") for links in levels]
        down = [
            Round(tuple((j, i) for i, j in links), "replace")
            for links in reversed(levels)
        ]
        return (*up, *down)

    def travels(self, step: int, src: int, dst: int, sharing: Sharing) -> Bools:
        """Say that what is needed on both sides of an edge travels along it."""
        tree = self._tree(sharing.n_nodes)
        return _crosses(tree, src if tree.parent[src] == dst else dst, sharing)

    def carried(self, place: int, sharing: Sharing) -> Bools:
        """Say what passes through a node between others."""
        n_nodes = sharing.n_nodes
        passing = np.zeros(len(sharing.counts), dtype=bool)
        if place == n_nodes or n_nodes == 1:
            return passing
        tree = self._tree(n_nodes)
        for k in range(n_nodes):
            if tree.parent[k] != k and place in (k, tree.parent[k]):
                passing |= _crosses(tree, k, sharing)
        return passing & ~sharing.members[:, place]


def _crosses(tree: _Rooted, child: int, sharing: Sharing) -> Bools:
    """Say which statistics are needed both below an edge and above it."""
    inside = sharing.members[:, tree.below[child]].sum(axis=1, dtype=np.int64)
    return (inside > 0) & (inside < sharing.degree)


@dataclasses.dataclass(frozen=True)
class JunctionTree(_SpanningTree):
    r"""Statistics travel along a tree, as in belief propagation.

    An edge carries, in both directions, what is needed on both of its sides; so along
    the path between two nodes that need a statistic all nodes have it (the running
    intersection property). With the number of edges of the smallest subtree that holds
    all nodes that need statistic p, :math:`e_p`, it sends :math:`2 \sum_p e_p` numbers
    in as many rounds as the tree is wide.

    Parameters
    ----------
    tree : {"maximum", "best"} or sequence of (int, int), default="maximum"
        ``"maximum"`` is the spanning tree that maximises the number of statistics
        shared along its edges (Wolfe, Haghighi and Klein, 2008), which is a junction
        tree if there is one. Where there is none, others can be cheaper: ``"best"``
        compares the true costs of that tree, the best star, a chain and a balanced
        tree. Or the edges of a tree.

    References
    ----------
    Wolfe, J., Haghighi, A., Klein, D. (2008). Fully distributed EM for very large
    datasets. ICML 2008, 1184-1191.

    Jensen, F. V., Jensen, F. (1994). Optimal junction trees. UAI 1994, 360-366.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.topologies import JunctionTree, Sharing
    >>> sharing = Sharing.of([np.arange(10), np.arange(5, 15), np.arange(10, 20)])
    >>> (tree,) = JunctionTree().candidates(3, sharing.overlaps)
    >>> tree
    JunctionTree(tree=((0, 1), (1, 2)))
    """

    tree: str | Edges = "maximum"
    #: What kind of tree it is, for reports.
    kind: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.tree, str):
            if self.tree not in ("maximum", "best"):
                raise ValueError(
                    "tree must be 'maximum', 'best' or a sequence of edges, got "
                    f"{self.tree!r}."
                )
            return
        try:
            edges = tuple((int(i), int(j)) for i, j in self.tree)
        except (TypeError, ValueError):
            raise ValueError(
                "tree must be 'maximum', 'best' or a sequence of edges, which are "
                f"pairs of nodes, got {self.tree!r}."
            ) from None
        object.__setattr__(self, "tree", edges)

    def candidates(
        self, n_nodes: int, overlaps: NDArray[np.int64]
    ) -> Sequence[Topology]:
        """Return the maximum spanning tree, or several trees."""
        if not isinstance(self.tree, str):
            self._tree(n_nodes)  # raises
            return [self]
        maximum = JunctionTree(_maximum_spanning_tree(overlaps), "maximum")
        if self.tree == "maximum" or n_nodes < 3:
            return [maximum]
        shared = np.diagonal(overlaps)
        chain = tuple((k, k + 1) for k in range(n_nodes - 1))
        balanced = Tree(2).edges(n_nodes)
        hub = int(shared.argmax())
        star = Star(hub).edges(n_nodes)
        others = [
            JunctionTree(star, f"star at {hub}"),
            JunctionTree(balanced, "balanced"),
            JunctionTree(chain, "chain"),
        ]
        return [maximum, *(t for t in others if t != maximum)]

    @property
    def name(self) -> str:
        """What to call it in a sentence: edges can be many."""
        return f"JunctionTree ({self.kind})" if self.kind else repr(self)

    def edges(self, n_nodes: int) -> Edges:
        """Return the edges."""
        if isinstance(self.tree, str):
            raise ValueError("which tree it is depends on the data; see `candidates`")
        return self.tree


@dataclasses.dataclass(frozen=True)
class Star(_SpanningTree):
    r"""Statistics travel to one node that has data too, and back.

    Parameters
    ----------
    hub : int, default=0
        Which node that is.

    Examples
    --------
    >>> from dask_em.topologies import Star
    >>> Star(1).edges(3)
    ((1, 0), (1, 2))
    """

    hub: int = 0

    def candidates(
        self, n_nodes: int, overlaps: NDArray[np.int64]
    ) -> Sequence[Topology]:
        """Return itself, if there is such a node."""
        self.edges(n_nodes)  # raises
        return [self]

    def edges(self, n_nodes: int) -> Edges:
        """Return the edges."""
        if not 0 <= self.hub < n_nodes:
            raise ValueError(
                f"hub must be one of the nodes 0 to {n_nodes - 1}, got {self.hub!r}."
            )
        return tuple((self.hub, k) for k in range(n_nodes) if k != self.hub)


@dataclasses.dataclass(frozen=True)
class Tree(_SpanningTree):
    """Statistics travel along a balanced tree, whatever nodes share.

    Parameters
    ----------
    fan_in : int, default=2
        Children of a node.

    Examples
    --------
    >>> from dask_em.topologies import Tree
    >>> Tree(2).edges(5)
    ((0, 1), (0, 2), (1, 3), (1, 4))
    """

    fan_in: int = 2

    def __post_init__(self) -> None:
        if self.fan_in < 1:
            raise ValueError(f"fan_in must be at least 1, got {self.fan_in!r}.")

    def edges(self, n_nodes: int) -> Edges:
        """Return the edges."""
        return tuple(((k - 1) // self.fan_in, k) for k in range(1, n_nodes))


def _maximum_spanning_tree(overlaps: NDArray[np.int64]) -> Edges:
    """Grow the tree of greatest weight from node 0 (Prim, 1957)."""
    n_nodes = len(overlaps)
    best = overlaps[0].copy()  # the strongest tie of each node to the tree
    tie = np.zeros(n_nodes, dtype=int)
    outside = np.arange(n_nodes) != 0
    edges = []
    for _ in range(n_nodes - 1):
        k = int(np.where(outside, best, -1).argmax())
        edges.append((int(tie[k]), k))
        outside[k] = False
        stronger = outside & (overlaps[k] > best)
        best[stronger], tie[stronger] = overlaps[k][stronger], k
    return tuple(edges)
