"""How well the top words of topics go together."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...sparse_model import Array

__all__ = ["MEASURES", "WordsTogether", "coherence"]

MEASURES = ("u_mass", "npmi")


@dataclasses.dataclass(frozen=True)
class WordsTogether:
    """Counts documents in which words occur together; travels to where these are.

    Parameters
    ----------
    words : array of shape (n,)
        Numbers of the words, sorted.
    """

    words: NDArray[np.int64]

    def __call__(self, X: sp.csr_array, chunk: int = 0) -> Array:
        """Return counts for pairs of words, and the number of documents.

        Parameters
        ----------
        X : csr_array of shape (n_docs, n_words)
        chunk : int, default=0
            Not used.

        Returns
        -------
        array of shape (n * n + 1,)
        """
        found = X[:, self.words].astype(np.float64)
        found.data[:] = 1.0
        pairs = (found.T @ found).toarray()
        return np.append(pairs.ravel(), X.shape[0])


def coherence(
    pairs: Array, n_docs: float, top: NDArray[np.int64], measure: str
) -> Array:
    r"""Return the coherence of topics.

    With D documents, D(v) of which have the word v and D(v, u) both v and u, it is the
    mean over pairs of top words, u before v, of

    .. math:: \log\frac{D(v, u) + 1}{D(u)} \quad\text{or}\quad
              \log\frac{D(v, u) D}{D(v) D(u)} \Big/ \log\frac{D}{D(v, u)}

    for "u_mass" (Mimno et al., 2011) and "npmi" (Bouma, 2009). Pairs with a word that
    no document has are left out.

    Parameters
    ----------
    pairs : array of shape (n, n)
        The D(v, u), and the D(v) on the diagonal.
    n_docs : float
    top : array of int of shape (K, n_top)
        Rows of `pairs`: the words of each topic, the most probable first.
    measure : {"u_mass", "npmi"}

    Returns
    -------
    array of shape (K,)
        NaN without pairs.
    """
    later, earlier = np.tril_indices(top.shape[1], -1)
    v, u = top[:, later], top[:, earlier]
    single, both = pairs.diagonal(), pairs[v, u]
    known = (single[v] > 0) & (single[u] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if measure == "u_mass":
            found = np.log((both + 1) / single[u])
        else:
            found = np.log(both * n_docs / (single[v] * single[u]))
            found /= np.log(n_docs / both)
            found[both == 0] = -1.0
            found[both == n_docs] = 1.0  # in every document, always together
        found[~known] = 0.0
        means: Array = found.sum(axis=1) / known.sum(axis=1)
    return means
