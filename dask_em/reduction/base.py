"""What goes into a reduction and what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["LocalFit", "Reduced", "Reduction", "central", "finite"]

Array = NDArray[np.float64]
P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Reduction:
    """How local fits are made one.

    Parameters
    ----------
    gate : {"matched", "transport"}
        How a mixture of experts gets its gate: from the coefficients of the local
        gates, after components were matched, or from the masses of the transport
        plan (Chamroukhi and Pham, 2023).
    n_support : int
        Rows at which the experts are compared.
    robust : bool
        Whether fits far from the others are left out.
    tol : float
        Relative fall of the objective that ends the iteration.
    max_iter : int
    brief : bool
        Whether the result is but the start of passes over all rows, for which fewer
        rows of support will do.

    Examples
    --------
    >>> from dask_em.reduction.base import Reduction
    >>> Reduction(gate="transport").n_support
    2000
    """

    gate: Literal["matched", "transport"] = "matched"
    n_support: int = 2000
    robust: bool = False
    tol: float = 1e-6
    max_iter: int = 500
    brief: bool = False


@dataclasses.dataclass(frozen=True)
class LocalFit(Generic[P]):
    """A mixture fitted to the rows of one place.

    Attributes
    ----------
    params : P
    weight : float
        Of the rows.
    stats : Statistics or None
        Computed at `params`: how sure the fit is of them.
    n_iter : int
        Passes over its rows.
    log_likelihood : float
    seconds : float
    converged : bool

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.reduction.base import LocalFit
    >>> mixture = GaussianMixture(2, random_state=0).fit([[0.0], [0.1], [5.0], [5.1]])
    >>> LocalFit(mixture.result_.params, weight=4.0).nbytes > 0
    True
    """

    params: P
    weight: float
    stats: Any = None
    n_iter: int = 0
    log_likelihood: float = float("nan")
    seconds: float = float("nan")
    converged: bool = True

    @property
    def nbytes(self) -> int:
        """Size of what is sent, in bytes."""
        names = [f.name for f in dataclasses.fields(self.params)]  # type: ignore[arg-type]
        sizes = [np.asarray(getattr(self.params, name)).nbytes for name in names]
        return int(sum(sizes) + (0 if self.stats is None else self.stats.nbytes))


@dataclasses.dataclass(frozen=True)
class Reduced(Generic[P]):
    """One mixture made of several.

    Attributes
    ----------
    params : P
    objective : array of shape (n_iter + 1,)
        The transportation divergence, which never rises.
    kept : tuple of int
        Fits that went into it.
    weight : float
        Sum of their weights.
    matching : array of shape (n_kept, K) or None
        Component of the result that each component of a fit went to most, where all
        have as many.
    alternatives : mapping of str to P
        Other mixtures that may be nearer to the rows, for who can look at them.

    Examples
    --------
    >>> from dask_em import GaussianMixture, reduce_mixture
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> models = [GaussianMixture(2, random_state=i).fit(X) for i in range(3)]
    >>> reduce_mixture(models).reduction_.kept
    (0, 1, 2)
    """

    params: P
    objective: Array
    kept: tuple[int, ...]
    matching: Any = None
    weight: float = float("nan")
    alternatives: Mapping[str, P] = dataclasses.field(default_factory=dict)


#: Distances from the centre, in median absolute deviations above the median, that
#: count as far.
_FAR = 6.0


def central(distances: Array) -> tuple[int, ...]:
    """Return which of several fits are not far from the one in their middle.

    The middle one has the least median distance to the others; and those are kept
    whose distance to it is not far above the median, in the manner of the
    distance-filtered reduction of Zhang, Tan and Chen (2024), but with the threshold
    set by the spread of the distances.

    Parameters
    ----------
    distances : array of shape (M, M)

    Returns
    -------
    tuple of int
        In increasing order.
    """
    m = len(distances)
    if m <= 2:
        return tuple(range(m))
    off = distances + np.diag(np.full(m, np.nan))
    centre = int(np.argmin(np.nanmedian(off, axis=1)))
    others = np.delete(distances[centre], centre)
    middle = float(np.median(others))
    spread = 1.4826 * float(np.median(np.abs(others - middle)))
    # fits that agree to the last digits are not to part ways over rounding
    limit = middle + _FAR * spread + 0.1 * middle
    return tuple(i for i in range(m) if i == centre or distances[centre, i] <= limit)


def finite(fits: Sequence[LocalFit[Any]]) -> tuple[int, ...]:
    """Return which fits have finite parameters and a positive weight."""

    def usable(fit: LocalFit[Any]) -> bool:
        values = [getattr(fit.params, f.name) for f in dataclasses.fields(fit.params)]
        return fit.weight > 0 and all(bool(np.isfinite(v).all()) for v in values)

    return tuple(i for i, fit in enumerate(fits) if usable(fit))
