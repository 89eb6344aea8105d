"""Links of networks, communities of them, and the statistics these are made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..row_statistics import RowStatistics
from ..statistics import Statistics
from .topics.base import Documents

__all__ = [
    "Communities",
    "LinkStatistics",
    "Links",
    "NetworkSummary",
    "compact",
    "halved",
]

Array = NDArray[np.float64]

#: Least number of links of a community.
_LEAST = 1e-150
#: Asymmetry, as a share of all links, that is rounding.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Communities:
    """Expected numbers of links, as `LinkCommunityModel` fits them.

    Attributes
    ----------
    counts : array of shape (n_nodes, K) or (2 * n_nodes, K)
        Ends of links that a node has in a community. In a directed network, those
        that leave a node, and after all of them those that arrive at one.
    totals : array of shape (K,)
        Links of a community.
    directed : bool
    smoothing : float
        What is added to each of the counts.
    """

    counts: Array
    totals: Array
    directed: bool = False
    smoothing: float = 0.0

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.counts) // 2 if self.directed else len(self.counts)

    @property
    def links(self) -> Array:
        """The totals, which rounding may have taken below 0."""
        return np.maximum(self.totals, 0.0)

    @property
    def masses(self) -> Array:
        """Sums of the smoothed counts over nodes, of shape (K,)."""
        ends = self.links if self.directed else 2 * self.links
        return np.maximum(ends + self.n_nodes * self.smoothing, _LEAST)

    @property
    def log_weights(self) -> Array:
        """Logarithms of what the smoothed counts of both ends are multiplied with."""
        return np.log(np.maximum(self.links, _LEAST)) - 2 * np.log(self.masses)

    def smoothed(self) -> tuple[Array, Array]:
        """Return the smoothed counts of ends that leave, and arrive.

        Returns
        -------
        leaving, arriving : array of shape (n_nodes, K)
            The same array in an undirected network.
        """
        counts = np.maximum(self.counts, 0.0) + self.smoothing
        if not self.directed:
            return counts, counts
        return counts[: self.n_nodes], counts[self.n_nodes :]

    def affinities(self) -> tuple[Array, Array]:
        r"""Return the :math:`\theta` of ends that leave, and arrive.

        Returns
        -------
        leaving, arriving : array of shape (n_nodes, K)
            The same array in an undirected network.
        """
        links = self.links if self.directed else 2 * self.links
        scale = np.sqrt(links) / self.masses
        leaving, arriving = self.smoothed()
        if not self.directed:
            found = leaving * scale
            return found, found
        return leaving * scale, arriving * scale


@dataclasses.dataclass(frozen=True)
class LinkStatistics(Statistics):
    """New counts of links, and the part of the bound that they leave out.

    Attributes
    ----------
    table : RowStatistics
        Of the nodes that links of these rows touch.
    totals : array of shape (K,)
    constant : float
    """

    table: RowStatistics
    totals: Array
    constant: float


@dataclasses.dataclass(frozen=True)
class NetworkSummary:
    """Sizes of some rows of an adjacency matrix; those of parts are added up.

    Attributes
    ----------
    n_nodes : int
        Columns.
    n_rows : int
    n_links : float
        Sum of the entries.
    form, transposed : float
        The sums of A_ij u_i v_j and of A_ij v_i u_j, with u and v as good as random:
        equal where all rows are there and the matrix equals its transpose, and only
        then, but for odd coincidences.
    numbers : int
        Sum of the numbers of the rows.
    halved : bool
        Whether a link is two entries.
    """

    n_nodes: int
    n_rows: int
    n_links: float
    form: float
    transposed: float
    numbers: int
    halved: bool

    @classmethod
    def of(
        cls, X: sp.csr_array, numbers: NDArray[np.int64], directed: bool
    ) -> NetworkSummary:
        """Look at some rows, and at their numbers.

        Raises
        ------
        ValueError
            If a number of links is negative or not finite.
        """
        if not np.isfinite(X.data).all():
            raise ValueError("Numbers of links must not be NaN or infinite.")
        if X.nnz and X.data.min() < 0:
            raise ValueError("Numbers of links must not be negative.")
        form = transposed = 0.0
        if X.shape[0] and numbers.max() < X.shape[1]:
            u, v = (np.modf(np.arange(X.shape[1]) * f)[0] for f in (0.61803399, 2**0.5))
            form, transposed = u[numbers] @ (X @ v), v[numbers] @ (X @ u)
        return cls(
            n_nodes=X.shape[1],
            n_rows=X.shape[0],
            n_links=float(X.data.sum(dtype=np.float64)),
            form=float(form),
            transposed=float(transposed),
            numbers=int(numbers.sum()),
            halved=not directed,
        )

    def check(self, directed: bool) -> None:
        """Raise `ValueError` for matrices that are no network, or one without links."""
        n = self.n_nodes
        if self.n_rows != n:
            raise ValueError(
                f"An adjacency matrix must be square, got {self.n_rows} rows and "
                f"{n} columns."
            )
        if self.numbers != n * (n - 1) // 2:
            raise ValueError(
                "Rows of an adjacency matrix are numbered from 0; pass "
                "y=np.arange(n_nodes)."
            )
        if self.n_links <= 0:
            raise ValueError(f"None of the {n} nodes has a link; check the data.")
        if not directed and abs(self.form - self.transposed) > _ROUNDING * self.n_links:
            raise ValueError(
                "The adjacency matrix A of an undirected network must equal its "
                "transpose; pass A + A.T, or directed=True."
            )

    @property
    def fingerprint(self) -> list[float]:
        """What tells these rows from others, up to rounding."""
        return [float(self.n_nodes), self.n_links, self.form, self.transposed]

    @property
    def weight(self) -> float:
        """Number of links."""
        return self.n_links / 2 if self.halved else self.n_links

    def __add__(self, other: NetworkSummary) -> NetworkSummary:
        if other.n_nodes != self.n_nodes:
            raise ValueError(
                f"Blocks of adjacency have {self.n_nodes} and {other.n_nodes} columns; "
                "all must have one for each node."
            )
        return NetworkSummary(
            self.n_nodes,
            self.n_rows + other.n_rows,
            self.n_links + other.n_links,
            self.form + other.form,
            self.transposed + other.transposed,
            self.numbers + other.numbers,
            self.halved,
        )


@dataclasses.dataclass(frozen=True)
class Links:
    """Links of some nodes, each of which is here once.

    Attributes
    ----------
    rows : array of shape (n_rows,), int64
        Numbers of the nodes.
    others : Documents
        Their links, with the nodes at the other ends in place of words.
    ids : array of shape (n_ids,), int64
        Rows of the table of counts that they touch: sorted.
    of_rows, of_others : arrays of int
        Where in `ids` the nodes are, and those at the other ends.
    constant : float
        The part of the log-likelihood that no parameter changes.
    """

    rows: NDArray[np.int64]
    others: Documents
    ids: NDArray[np.int64]
    of_rows: NDArray[np.intp]
    of_others: NDArray[np.intp]
    constant: float


def compact(X: sp.csr_array) -> sp.csr_array:
    """Return rows in single precision where that is exact, as whole numbers are."""
    small = X.data.astype(np.float32)
    if not (small == X.data).all():
        return X
    return sp.csr_array((small, X.indices, X.indptr), shape=X.shape)


def halved(X: sp.csr_array, numbers: NDArray[np.int64]) -> tuple[sp.csr_array, float]:
    """Keep one of the two entries of each link; return the sum of links to oneself.

    A link between two nodes stays with the first of them if the sum of their numbers
    is even, and otherwise with the second, so that all have about half of theirs.
    """
    rows = np.repeat(numbers, np.diff(X.indptr))
    loop = rows == X.indices
    kept = ((rows + X.indices) % 2 == 0) == (rows < X.indices)
    counts = np.where(loop, X.data / 2, X.data)
    kept |= loop
    ends = np.concatenate([[0], np.cumsum(kept)])[X.indptr]
    half = sp.csr_array((counts[kept], X.indices[kept], ends), shape=X.shape)
    return half, float(counts[loop].sum(dtype=np.float64))
