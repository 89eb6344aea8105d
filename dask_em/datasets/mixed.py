"""Simulated data for linear mixed models with one grouping factor."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MixedModelData", "make_mixed_model", "make_movielens_replica"]

_CHUNK = 1 << 16  # rows simulated at a time, so that temporaries stay small

#: Correlation of three random effects in the simulation of the paper.
_CORRELATION = np.array([[1.0, -0.4, 0.3], [-0.4, 1.0, 0.001], [0.3, 0.001, 1.0]])

#: Predictors but for the intercept: as `load_movielens` names them, and as the public
#: sample does.
_PREDICTORS = (
    ("children", "comedy", "drama", "popularity", "liked_last"),
    (
        *("genrechildren", "genrecomedy", "genredrama"),
        *("movie.logit.pop", "user.liked.lastTRUE"),
    ),
)
#: REML estimates for the public sample; `make_movielens_replica` says which it is.
_COEF = (3.43634006, -0.08376080, -0.02329485, 0.11397427, 0.37150246, 0.19144633)
_COVARIANCE = (
    (0.17422713, 0.09023785, -0.02396264, -0.03012290, -0.01410664, -0.03582818),
    (0.09023785, 0.32295676, -0.12429017, -0.05257387, 0.00553639, 0.00764693),
    (-0.02396264, -0.12429017, 0.10319457, -0.00170766, 0.00091553, -0.00077814),
    (-0.03012290, -0.05257387, -0.00170766, 0.05519021, 0.00192599, -0.00539839),
    (-0.01410664, 0.00553639, 0.00091553, 0.00192599, 0.02270094, -0.00633756),
    (-0.03582818, 0.00764693, -0.00077814, -0.00539839, -0.00633756, 0.04776960),
)
_SIGMA2 = 0.75497998


@dataclass(frozen=True, eq=False)
class MixedModelData:
    """Data of a linear mixed model, and the parameters that they were drawn from.

    Row j of group i is ``y[j] = X[j] @ coef + Z[j] @ b[i] + e[j]``, with the group's
    random effects ``b[i]`` normal with the given covariance and ``e[j]`` normal with
    standard deviation `sigma`.

    Attributes
    ----------
    X : array of shape (n_rows, n_fixed)
    Z : array of shape (n_rows, n_random)
    y : array of shape (n_rows,)
    groups : array of shape (n_rows,), int64
        From 0 to the number of groups minus 1.
    coef : array of shape (n_fixed,)
    covariance : array of shape (n_random, n_random)
    sigma : float
    """

    X: NDArray[np.float64]
    Z: NDArray[np.float64]
    y: NDArray[np.float64]
    groups: NDArray[np.int64]
    coef: NDArray[np.float64]
    covariance: NDArray[np.float64]
    sigma: float


def make_mixed_model(
    n_rows: int = 10_000,
    n_groups: int = 100,
    n_fixed: int = 10,
    n_random: int = 3,
    *,
    random_state: Any = None,
) -> MixedModelData:
    """Simulate data by the design of the DEM paper.

    Predictors are −1 or 1 with equal probability, independently, and there is no
    intercept. Each row's group is drawn uniformly, so groups differ in size and some
    may be empty. The coefficients are −2, 2, −2, and so on, and `sigma` is 1.

    Parameters
    ----------
    n_rows, n_groups : int
        The paper has 10⁶ rows in 10⁴ groups and 10⁷ in 10⁵.
    n_fixed : int, default=10
        Fixed effects; 10 and 20 in the paper.
    n_random : int, default=3
        Random effects; 3 and 6 in the paper. Their variances are 1, 2, up to
        `n_random`. With 3 they are correlated (−0.4, 0.3 and 0.001), with 6 the first
        three and the last three are so, and with any other number they are independent.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        Decides on the data; None for other data every time.

    Returns
    -------
    MixedModelData

    Raises
    ------
    ValueError
        If a number is not positive.

    References
    ----------
    .. [1] S. Srivastava, G. DePalma and C. Liu. An asynchronous distributed
       expectation maximization algorithm for massive data: the DEM algorithm. Journal
       of Computational and Graphical Statistics 28(2), 2019.
    .. [2] P. O. Perry. Fast moment-based estimation for hierarchical models. Journal
       of the Royal Statistical Society B 79(1), 2017.

    Examples
    --------
    >>> from dask_em.datasets import make_mixed_model
    >>> data = make_mixed_model(1000, n_groups=10, random_state=0)
    >>> data.X.shape, data.Z.shape
    ((1000, 10), (1000, 3))
    >>> data.covariance.diagonal().round(12).tolist()
    [1.0, 2.0, 3.0]
    """
    n_rows = _positive("n_rows", n_rows)
    n_groups = _positive("n_groups", n_groups)
    n_fixed = _positive("n_fixed", n_fixed)
    n_random = _positive("n_random", n_random)
    rng = _generator(random_state)
    coef = np.where(np.arange(n_fixed) % 2 == 0, -2.0, 2.0)
    covariance = _design_covariance(n_random)
    groups = rng.integers(n_groups, size=n_rows)
    X = _signs(rng, n_rows, n_fixed)
    Z = _signs(rng, n_rows, n_random)
    y = _response(rng, X, Z, groups, n_groups, coef, covariance, 1.0)
    return MixedModelData(X, Z, y, groups, coef, covariance, 1.0)


def make_movielens_replica(
    sample: pd.DataFrame | str | PathLike[str],
    sizes: ArrayLike | str | PathLike[str],
    *,
    coef: ArrayLike | None = None,
    covariance: ArrayLike | None = None,
    sigma2: float | None = None,
    random_state: Any = 0,
) -> MixedModelData:
    """Simulate data as large as MovieLens from a sample of its predictors.

    Each user's rows are drawn from the sample with replacement, and the responses are
    simulated. The same six predictors have fixed effects and random ones by user: the
    intercept, three contrasts of genres, the movie's popularity, and whether the user
    liked the last movie.

    Parameters
    ----------
    sample : pandas.DataFrame or path-like
        Predictors, with the columns that `load_movielens` gives, or those of the
        public sample ``dataSel`` [1]_: `genrechildren`, `genrecomedy`, `genredrama`,
        `movie.logit.pop`, `user.liked.lastTRUE`. A path is that of a CSV file. Other
        columns do not matter.
    sizes : array of int, shape (n_users,), or path-like
        Ratings per user. A path is that of a text file with one number per line.
    coef : array of shape (6,), optional
    covariance : array of shape (6, 6), optional
    sigma2 : float, optional
        Parameters to simulate from, in the order of the predictors above. Each is by
        default its REML estimate for the 100,000 ratings of the public sample.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        Decides on the data; None for other data every time.

    Returns
    -------
    MixedModelData
        Ordered by group. `Z` is `X`, not a copy.

    Raises
    ------
    ImportError
        If a file is to be read and pandas is not installed.
    ValueError
        If a predictor is missing or not finite, a size is not a positive whole number,
        or a parameter has the wrong shape, the covariance is not symmetric and
        positive semi-definite, or the variance is not positive.

    References
    ----------
    .. [1] S. Srivastava, C. Li and D. B. Dunson. Scalable Bayes via barycenter in
       Wasserstein space. Journal of Machine Learning Research 19(8), 2018; the sample
       is in https://github.com/blayes/WASP.

    Examples
    --------
    >>> import pandas as pd
    >>> from dask_em.datasets import make_movielens_replica
    >>> sample = pd.DataFrame(
    ...     {
    ...         "children": [0.0, -1.0],
    ...         "comedy": [1.0, -1.0],
    ...         "drama": [0.0, -1.0],
    ...         "popularity": [0.3, -0.7],
    ...         "liked_last": [0.0, 1.0],
    ...     }
    ... )
    >>> data = make_movielens_replica(sample, [2, 3])
    >>> data.groups.tolist(), data.X.shape, data.Z is data.X
    ([0, 0, 1, 1, 1], (5, 6), True)
    """
    predictors = _predictors(sample)
    counts = _sizes(sizes)
    beta = _array("coef", _COEF if coef is None else coef, (6,))
    D = _array("covariance", _COVARIANCE if covariance is None else covariance, (6, 6))
    variance = float(_array("sigma2", _SIGMA2 if sigma2 is None else sigma2, ()))
    if variance <= 0:
        raise ValueError(f"sigma2={variance:g} is no variance; it must be positive")
    sigma = float(np.sqrt(variance))
    _root(D)  # complains before anything large is made
    rng = _generator(random_state)
    groups = np.repeat(np.arange(len(counts)), counts)
    # Rows are drawn independently, so it does not matter which user's turn it is.
    X = predictors[rng.integers(len(predictors), size=len(groups))]
    y = _response(rng, X, X, groups, len(counts), beta, D, sigma)
    return MixedModelData(X, X, y, groups, beta, D, sigma)


# -------------------------------------------------------------------- simulation


def _design_covariance(n_random: int) -> NDArray[np.float64]:
    if n_random in (3, 6):
        correlation = np.kron(np.eye(n_random // 3), _CORRELATION)
    else:
        correlation = np.eye(n_random)
    scale = np.sqrt(np.arange(1.0, n_random + 1))
    return correlation * np.outer(scale, scale)


def _chunks(n_rows: int) -> list[slice]:
    return [slice(i, min(i + _CHUNK, n_rows)) for i in range(0, n_rows, _CHUNK)]


def _signs(
    rng: np.random.Generator, n_rows: int, n_columns: int
) -> NDArray[np.float64]:
    """−1 or 1, in an array of shape (n_rows, n_columns)."""
    signs = np.empty((n_rows, n_columns))
    for rows in _chunks(n_rows):
        shape = signs[rows].shape
        bits = rng.integers(2, size=shape, dtype=np.int8)
        np.subtract(2 * bits, 1, out=signs[rows])
    return signs


def _response(
    rng: np.random.Generator,
    X: NDArray[np.float64],
    Z: NDArray[np.float64],
    groups: NDArray[np.int64],
    n_groups: int,
    coef: NDArray[np.float64],
    covariance: NDArray[np.float64],
    sigma: float,
) -> NDArray[np.float64]:
    """Draw random effects and noise, and add up, shape (n_rows,)."""
    effects = rng.standard_normal((n_groups, len(covariance))) @ _root(covariance)
    y = np.empty(len(X))
    for rows in _chunks(len(X)):
        y[rows] = X[rows] @ coef
        y[rows] += np.einsum("ij,ij->i", Z[rows], effects[groups[rows]])
        y[rows] += sigma * rng.standard_normal(len(y[rows]))
    return y


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric root: unique, unlike others, also where the covariance is singular."""
    largest = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > 1e-10 * largest:
        raise ValueError(
            "covariance is not symmetric; pass the mean with its transpose"
        )
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-10 * largest:
        raise ValueError(
            f"covariance has the eigenvalue {values[0]:g}; it must be positive "
            "semi-definite"
        )
    return (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T


# ------------------------------------------------------------------------- input


def _generator(random_state: Any) -> np.random.Generator:
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(np.iinfo(np.int32).max)
    return np.random.default_rng(random_state)


def _positive(name: str, value: int) -> int:
    if operator.index(value) < 1:
        raise ValueError(f"{name}={value}; it must be at least 1")
    return operator.index(value)


def _array(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.array(value, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(
            f"{name} has shape {array.shape}; it must have shape {shape} and be finite"
        )
    return array


def _predictors(sample: Any) -> NDArray[np.float64]:
    """The predictors with an intercept, shape (n_sample, 6)."""
    if isinstance(sample, (str, PathLike)):
        sample = _read_sample(fspath(sample))
    for names in _PREDICTORS:
        if {*names} <= {*sample.columns}:
            break
    else:
        raise ValueError(
            f"the sample has the columns {', '.join(map(str, sample.columns))}; it "
            f"must have {', '.join(_PREDICTORS[0])} or {', '.join(_PREDICTORS[1])}"
        )
    table = sample[[*names]].to_numpy(dtype=np.float64)
    if len(table) == 0 or not np.isfinite(table).all():
        raise ValueError(
            "the sample has no rows, or values that are not finite; drop those rows"
        )
    return np.column_stack([np.ones(len(table)), table])


def _read_sample(path: str) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise ImportError(
            'reading a sample needs pandas; install it with: pip install "dask_em'
            '[dataframe]"'
        ) from None
    return pd.read_csv(path)


def _sizes(sizes: Any) -> NDArray[np.int64]:
    if isinstance(sizes, (str, PathLike)):
        sizes = np.loadtxt(fspath(sizes), ndmin=1)
    array = np.asarray(sizes)
    whole = array.astype(np.int64) if array.dtype.kind in "iuf" else array
    if (
        array.ndim != 1
        or array.size == 0
        or array.dtype.kind not in "iuf"
        or not np.array_equal(whole, array)
        or whole.min() < 1
    ):
        raise ValueError(
            "sizes must be a list of numbers of rows, one for each user, all whole and "
            "at least 1"
        )
    return whole
