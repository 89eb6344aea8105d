"""Lists of edges: in arrays, tables and graphs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["Edges", "edges_of_graph", "edges_of_table", "ends_of_pairs", "find_nodes"]

#: Up to here floats are exact whole numbers.
_EXACT = 2**53


@dataclasses.dataclass(frozen=True)
class Edges:
    """Edges between nodes that have names.

    Parameters
    ----------
    sources, targets : arrays of shape (n_edges,)
        Names of nodes: whole numbers, or texts.
    weights : array of shape (n_edges,), optional
        Numbers of links, 1 unless given.
    nodes : array of shape (n_nodes,), optional
        All nodes, in the order that they are to have; by default those that have an
        edge, sorted.

    Raises
    ------
    ValueError
        If lengths differ, there is no edge, a node is not among `nodes`, or a weight is
        negative or not finite.

    Examples
    --------
    >>> from dask_em.networks import Edges
    >>> edges = Edges(["a", "b"], ["b", "c"], [1.0, 2.0])
    >>> edges.nodes.tolist()
    ['a', 'b', 'c']
    >>> edges.adjacency(directed=True).toarray()
    array([[0., 1., 0.],
           [0., 0., 2.],
           [0., 0., 0.]])
    """

    sources: Any
    targets: Any
    weights: Any = None
    nodes: Any = None

    def __post_init__(self) -> None:
        ends = _names(self.sources), _names(self.targets)
        n = len(ends[0])
        if n == 0:
            raise ValueError("There are no edges; check the data.")
        weights = np.ones(n) if self.weights is None else _numbers(self.weights)
        if not n == len(ends[1]) == len(weights):
            raise ValueError(
                f"Edges have {n} sources, {len(ends[1])} targets and {len(weights)} "
                "weights; give as many of each."
            )
        if not np.isfinite(weights).all():
            raise ValueError("Weights of edges must not be NaN or infinite; drop them.")
        if (weights < 0).any():
            raise ValueError(
                "Weights of edges must not be negative; they are numbers of links."
            )
        if self.nodes is None:
            try:
                nodes, found = np.unique(np.concatenate(ends), return_inverse=True)
            except TypeError:
                raise TypeError(
                    "Nodes are of types that cannot be sorted, or missing; give all "
                    "of them the same type, or pass nodes=."
                ) from None
            places = found[:n], found[n:]
        else:
            nodes = _names(self.nodes)
            places = find_nodes(nodes, ends[0]), find_nodes(nodes, ends[1])
        object.__setattr__(self, "sources", ends[0])
        object.__setattr__(self, "targets", ends[1])
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "_places", places)

    def adjacency(self, directed: bool) -> sp.csr_array:
        """Return the matrix of numbers of links.

        Parameters
        ----------
        directed : bool
            If not, an edge between i and j adds to A_ij and to A_ji, so that one from
            a node to itself adds twice its weight to A_ii.

        Returns
        -------
        csr_array of shape (n_nodes, n_nodes)
            Edges that occur several times are added up.
        """
        n = len(self.nodes)
        places = self._places  # type: ignore[attr-defined]
        A = sp.csr_array(sp.coo_array((self.weights, places), shape=(n, n)))
        A.eliminate_zeros()
        return A if directed else sp.csr_array(A + A.T)


def find_nodes(nodes: NDArray[Any], names: Any) -> NDArray[np.intp]:
    """Return where among the nodes some names are.

    Parameters
    ----------
    nodes : array of shape (n_nodes,)
    names : array of shape (n,)

    Raises
    ------
    ValueError
        If a name is not that of a node, or two nodes have the same.
    """
    wanted = _names(names)
    known = set(nodes.tolist())
    if len(known) < len(nodes):
        raise ValueError("Two nodes have the same name; give each its own.")
    strange = next((name for name in wanted.tolist() if name not in known), None)
    if strange is not None:
        raise ValueError(f"{strange!r} is not a node of the network; see its nodes.")
    if nodes.dtype.kind == "O":
        place = {name: i for i, name in enumerate(nodes.tolist())}
        return np.array([place[name] for name in wanted.tolist()], dtype=np.intp)
    order = np.argsort(nodes)
    return order[np.searchsorted(nodes, wanted, sorter=order)]


def edges_of_table(columns: list[Any]) -> Edges:
    """Return the edges of a table with two columns, or three.

    Parameters
    ----------
    columns : list of arrays of shape (n_edges,)
        Sources, targets and perhaps weights.
    """
    if len(columns) not in (2, 3):
        raise ValueError(
            f"A table of edges has columns for sources, targets and perhaps weights, "
            f"got {len(columns)} columns."
        )
    return Edges(*columns)


def edges_of_graph(graph: Any) -> Edges:
    """Return the edges of a graph of networkx, or of one like those.

    Parameters
    ----------
    graph : object
        With `nodes`, and `edges` that tell the weights; without one an edge is a link.
    """
    found = list(graph.edges(data="weight", default=1))
    if not found:
        raise ValueError("There are no edges; check the graph.")
    sources, targets, weights = zip(*found, strict=True)
    ends = _objects(sources), _objects(targets)
    return Edges(*ends, np.array(weights), _objects(graph.nodes))


def ends_of_pairs(pairs: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the names of the first and of the second node of pairs.

    Parameters
    ----------
    pairs : array-like of shape (n_pairs, 2)
        Names of all kinds, where it is a list: tuples, too.
    """
    given = pairs.to_numpy() if hasattr(pairs, "to_numpy") else pairs
    if isinstance(given, np.ndarray):
        shape = given.shape
        if len(shape) == 2 and shape[1] == 2:
            return given[:, 0], given[:, 1]
    else:
        listed = list(given)
        shape = (len(listed),)
        kinds = list | tuple | np.ndarray
        if all(isinstance(pair, kinds) and len(pair) == 2 for pair in listed):
            return _objects(i for i, _ in listed), _objects(j for _, j in listed)
    raise ValueError(f"pairs must have the shape (n_pairs, 2), got {shape}.")


def _objects(values: Any) -> NDArray[Any]:
    """Return an array of objects, which may be tuples."""
    listed = list(values)
    found = np.empty(len(listed), dtype=object)
    found[:] = listed
    return found


def _plain(names: NDArray[Any]) -> NDArray[Any]:
    """Return names as an array of numbers or texts, if they are all that."""
    kinds = {type(name) for name in names.tolist()}
    return np.array(names.tolist()) if kinds in ({int}, {str}) else names


def _names(values: Any) -> NDArray[Any]:
    """Return names of nodes: an array of whole numbers or texts."""
    found = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if found.ndim != 1:
        raise ValueError(f"Names of nodes must have one dimension, got {found.ndim}.")
    if found.dtype.kind == "O":
        return _plain(found)
    if found.dtype.kind == "f":
        if not (np.isfinite(found) & (found == np.floor(found))).all():
            raise ValueError(
                "Nodes must be whole numbers or texts; got fractions, NaN or infinity."
            )
        if (np.abs(found) > _EXACT).any():
            raise ValueError(
                "Nodes beyond 2**53 are not exact as floats; pass them as integers."
            )
        return found.astype(np.int64)
    if found.dtype.kind not in "iuUT":
        raise TypeError(
            f"Nodes must be whole numbers or texts, got dtype {found.dtype}."
        )
    return found


def _numbers(weights: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(weights).astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError("Weights of edges must be numbers.") from None
