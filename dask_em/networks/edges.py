"""Lists of edges: in files, arrays and tables."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..text_files import opened

__all__ = ["Edges", "edges_of_graph", "edges_of_table", "read_edges"]

PathLike = str | os.PathLike[str]

#: Beginnings of lines that are remarks.
_REMARKS = (b"#", b"%")


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


def read_edges(path: PathLike) -> Edges:
    r"""Read edges from a file with one a line.

    Parameters
    ----------
    path : path
        Of a text, plain or compressed by gzip. A line has two nodes and perhaps a
        weight, with blanks or commas between them; those that begin with # or % are
        left out. Nodes are whole numbers, or names if one of them is not.

    Returns
    -------
    Edges

    Raises
    ------
    ValueError
        If a line is something else, or there is none.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.networks import read_edges
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "edges.csv"
    ...     _ = path.write_text("ann,bob,2\nbob,cy,1\n")
    ...     read_edges(path).nodes.tolist()
    ['ann', 'bob', 'cy']
    """
    lines: list[list[bytes]] = []
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            fields = line.replace(b",", b" ").split()
            if not fields or fields[0].startswith(_REMARKS):
                continue
            width = len(lines[0]) if lines else len(fields)
            if len(fields) != width or width not in (2, 3):
                raise ValueError(
                    f"Line {number} of {path} has {len(fields)} fields; there must be "
                    "two nodes in every line, and a weight in all of them or none."
                )
            lines.append(fields)
    if not lines:
        raise ValueError(f"{path} has no edges.")
    columns = [np.array(column) for column in zip(*lines, strict=True)]
    if len(lines) > 1 and _is_header(columns):
        raise ValueError(
            f"{path} seems to begin with the names of its columns; put # before them."
        )
    ends = np.concatenate(columns[:2])
    try:
        ends = ends.astype(np.int64)
    except ValueError:
        ends = np.char.decode(ends, "utf-8")
    weights = None
    if len(columns) == 3:
        try:
            weights = columns[2].astype(np.float64)
        except ValueError:
            raise ValueError(f"The weights in {path} are not all numbers.") from None
    return Edges(ends[: len(lines)], ends[len(lines) :], weights)


def _is_header(columns: list[NDArray[Any]]) -> bool:
    """Whether a column has numbers alone, but for its first line."""

    def numeric(values: NDArray[Any]) -> bool:
        try:
            values.astype(np.float64)
        except ValueError:
            return False
        return True

    return any(numeric(c[1:]) and not numeric(c[:1]) for c in columns)


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
