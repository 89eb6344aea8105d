"""What fitted link communities say of nodes and of links."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..kernels import count_topics as kernels
from .link_state import compact
from .topics.base import Documents

__all__ = ["fold_in", "log_likelihood", "shares"]

Array = NDArray[np.float64]

#: Updates of a new node at most, and the share of its links that must move between
#: communities for it to go on.
_SWEEPS, _TOL = 1000, 1e-6
#: Least affinity and expected number of links, and links that are dealt with together.
_LEAST, _TILE = 1e-150, 1 << 16


def shares(counts: Array) -> Array:
    """Divide rows by their sums; those of zeros become even.

    Parameters
    ----------
    counts : array of shape (n, K)
    """
    sums = counts.sum(axis=1, keepdims=True)
    even = np.full_like(counts, 1 / counts.shape[1])
    return np.divide(counts, sums, out=even, where=sums > 0)


def fold_in(affinities: Array, smoothing: float, rows: sp.csr_array) -> Array:
    """Return the shares of new nodes in communities, whose affinities stay as they are.

    Parameters
    ----------
    affinities : array of shape (n_nodes, K)
        Of the nodes at the other ends of links.
    smoothing : float
    rows : csr_array of shape (n_new, n_nodes)
        Numbers of links.

    Returns
    -------
    array of shape (n_new, K)
    """
    n_communities = affinities.shape[1]
    prior = np.full(n_communities, smoothing)
    counts = np.asarray(rows.sum(axis=1), dtype=np.float64)[:, None]
    counts = np.repeat(counts / n_communities, n_communities, axis=1)
    table = np.maximum(affinities, _LEAST)
    weights = 1 / table.sum(axis=0)
    docs = Documents.of([compact(rows)], rows.shape[1])
    table = table[docs.words]
    csr = docs.indptr, docs.indices, docs.counts
    kernels.fold_in(*csr, table, weights, prior, counts, _SWEEPS, _TOL)
    return shares(counts + smoothing)


def log_likelihood(
    rows: sp.csr_array, first: int, leaving: Array, arriving: Array, directed: bool
) -> float:
    """Return the sum of links times the logarithms of how many are expected.

    Parameters
    ----------
    rows : csr_array of shape (n_rows, n_nodes)
        Rows `first` and so on of an adjacency matrix.
    first : int
    leaving, arriving : arrays of shape (n_nodes, K)
        Affinities.
    directed : bool

    Returns
    -------
    float
    """
    i = np.repeat(np.arange(first, first + rows.shape[0]), np.diff(rows.indptr))
    total = 0.0
    for at in range(0, rows.nnz, _TILE):
        here = slice(at, at + _TILE)
        mine, others = i[here], rows.indices[here]
        expected = np.einsum("lk,lk->l", leaving[mine], arriving[others])
        if not directed:
            expected[mine == others] /= 2
        total += rows.data[here] @ np.log(np.maximum(expected, _LEAST))
    return total if directed else total / 2
