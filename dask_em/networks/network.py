"""Networks as adjacency matrices, in memory or lazy."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..labels import is_labelled
from ..sharding import DaskData, Data, MemoryData, is_dask
from .edge_files import read_edges
from .edges import Edges, edges_of_graph, edges_of_table, find_nodes

__all__ = ["Network", "as_network", "as_rows"]

#: Bytes of an entry, and entries of a row where they are unknown.
_ENTRY, _ENTRIES = 12, 100


@dataclasses.dataclass(frozen=True)
class Network:
    """Nodes and the numbers of links between them.

    Parameters
    ----------
    adjacency : csr_array or dask array of shape (n_nodes, n_nodes)
        A Dask array has chunks along rows only, dense or sparse ones of scipy's.
    directed : bool, default=False
        If not, the matrix is symmetric, with twice the links of a node to itself on
        its diagonal.
    nodes : array of shape (n_nodes,), optional
        Their names; by default their numbers.

    See Also
    --------
    as_network : Make one of whatever holds links.
    """

    adjacency: Any
    directed: bool = False
    nodes: Any = None

    def __post_init__(self) -> None:
        _check_shape(self.adjacency)
        if self.nodes is None:
            object.__setattr__(self, "nodes", np.arange(self.n_nodes))
        elif len(self.nodes) != self.n_nodes:
            raise ValueError(
                f"There are {self.n_nodes} nodes but {len(self.nodes)} names."
            )

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return int(self.adjacency.shape[1])

    @property
    def lazy(self) -> bool:
        """Whether the matrix is a Dask array."""
        return is_dask(self.adjacency)

    def find(self, names: Any) -> NDArray[np.intp]:
        """Return the numbers of nodes with some names, which are an array."""
        return find_nodes(self.nodes, names)

    def data(self) -> Data:
        """Return rows of the matrix, and their numbers, for `dask_em.fit_em`."""
        A = self.adjacency
        numbers = np.arange(self.n_nodes)
        if not self.lazy:
            return MemoryData(A, numbers)
        import dask.array as da

        meta = sp.csr_array((0, self.n_nodes))
        rows = A.map_blocks(as_rows, dtype=A.dtype, meta=meta)
        y = da.from_array(numbers, chunks=(A.chunks[0],))
        nbytes = _ENTRY * min(self.n_nodes, _ENTRIES) + 16
        return DaskData(rows, y, row_nbytes=nbytes)


def _check_shape(A: Any) -> None:
    """Raise unless this is a matrix of numbers with as many rows as columns."""
    if A.shape[0] == 0:
        raise ValueError("There are no nodes or edges; check the data.")
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(
            f"An adjacency matrix must be square, got the shape {A.shape}; a table of "
            "edges has 2 columns, or 3 with weights."
        )
    if A.dtype.kind not in "fiub":
        raise TypeError(f"Numbers of links must be numbers, got dtype {A.dtype}.")
    if is_dask(A) and A.numblocks[1] > 1:
        raise ValueError(
            f"The adjacency matrix is chunked along columns, {A.chunks[1]}; put all "
            "links of a node into one chunk with rechunk({1: -1})."
        )


def as_rows(block: Any) -> sp.csr_array:
    """Return rows of an adjacency matrix as floats, without zeros or duplicates."""
    found = sp.csr_array(block)
    if not found.has_canonical_format or (found.data == 0).any():
        found = found.copy()  # the caller's arrays are not to be changed
        found.sum_duplicates()
        found.eliminate_zeros()
    if found.dtype not in (np.float32, np.float64):
        found = found.astype(np.float64)
    return found


def as_network(X: Any, *, directed: bool = False) -> Network:
    """Make a network of whatever holds its links.

    Parameters
    ----------
    X : network, matrix or list of edges
        * An adjacency matrix of shape (n_nodes, n_nodes): an array, a sparse matrix, a
          Dask array with chunks of either along rows, which stays lazy, or a DataFrame
          whose index and columns are the nodes;
        * edges, one a row, with two nodes and perhaps a weight: an array, a DataFrame,
          or one of Dask's, which is computed; the path of a file, see `read_edges`;
          `Edges`;
        * a graph of networkx;
        * a `Network`.

        An array of numbers that is square is a matrix; where that is wrong, for just
        two or three edges, pass `Edges`.
    directed : bool, default=False
        If not, a matrix must be symmetric, and each edge of a list is a link in both
        directions.

    Returns
    -------
    Network

    Raises
    ------
    ValueError, TypeError
        If it is none of these; the message names the remedy.

    Examples
    --------
    >>> from dask_em.networks import as_network
    >>> as_network([["a", "b"], ["b", "c"], ["c", "a"], ["c", "d"]]).nodes.tolist()
    ['a', 'b', 'c', 'd']
    """
    if isinstance(X, Network):
        if X.directed != directed:
            raise ValueError(
                f"The network was made with directed={X.directed}; ask for the same."
            )
        return X
    if isinstance(X, str | os.PathLike):
        return _of_edges(read_edges(X), directed)
    if isinstance(X, Edges):
        return _of_edges(X, directed)
    if hasattr(X, "nodes") and hasattr(X, "edges") and hasattr(X, "is_directed"):
        return _of_edges(edges_of_graph(X), directed)
    if is_labelled(X):
        X = X.data
    if is_dask(X):
        return _of_dask(X, directed)
    if sp.issparse(X):
        return Network(as_rows(_numeric(X)), directed)
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        return _of_frame(X, directed)
    found = np.asarray(X)
    if found.ndim == 0:
        raise TypeError(
            "A network is a matrix, a list of edges, the path of a file or a graph, "
            f"not a {type(X).__name__}; pass a list of pairs."
        )
    # names of nodes are no numbers of links
    square = found.shape[0] == found.shape[-1] and found.dtype.kind not in "OU"
    if found.ndim == 2 and found.shape[1] in (2, 3) and not square:
        return _of_edges(edges_of_table(list(found.T)), directed)
    return Network(as_rows(_numeric(found)), directed)


def _numeric(A: Any) -> Any:
    _check_shape(A)
    return A


def _of_edges(edges: Edges, directed: bool) -> Network:
    return Network(edges.adjacency(directed), directed, edges.nodes)


def _of_frame(X: Any, directed: bool) -> Network:
    """Make a network of a DataFrame of pandas, or one like those."""
    square = X.shape[0] == X.shape[1]
    if square and list(getattr(X, "index", X.columns)) == list(X.columns):
        nodes = np.asarray(X.columns)
        return Network(as_rows(_numeric(X.to_numpy())), directed, nodes)
    return _of_edges(edges_of_table([X[name] for name in X.columns]), directed)


def _of_dask(X: Any, directed: bool) -> Network:
    """Make a network of a Dask array, or of a DataFrame of edges."""
    if hasattr(X, "columns"):
        return _of_frame(_computed(X), directed)
    if not hasattr(X, "numblocks"):
        raise TypeError(
            f"A Dask array or DataFrame is wanted, got a Dask {type(X).__name__}."
        )
    if X.ndim == 2 and X.shape[0] != X.shape[1] and X.shape[1] in (2, 3):
        return _of_edges(edges_of_table(list(np.asarray(_computed(X)).T)), directed)
    if X.ndim == 2 and np.isnan(X.shape[0]):
        X = X.copy()  # the caller's own is not to be changed
        X.compute_chunk_sizes()
    return Network(X, directed)


def _computed(X: Any) -> Any:
    """Return edges that are lazy as ones in memory."""
    from ..estimators.clients import asynchronous_client

    if asynchronous_client() is not None:
        raise TypeError(
            "Edges of a Dask collection are computed at once, which an asynchronous "
            "client cannot wait for; compute them first."
        )
    return X.compute()
