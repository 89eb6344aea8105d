"""Gaussian mixtures, with scikit-learn's face."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.base import DensityMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from ..kernels.gaussian import weighted_log_prob
from ..models.gaussian_mixture import (
    GaussianMixtureModel,
    GaussianMixtureParams,
    GaussianMixtureStats,
)
from .base import EMEstimator, Table

__all__ = ["GaussianMixture"]

Array = NDArray[Any]


class GaussianMixture(DensityMixin, EMEstimator):
    r"""Mixture of Gaussians, fitted by expectation-maximisation where the data are.

    A drop-in for `sklearn.mixture.GaussianMixture`, with its parameters and attributes.
    The density of a row x is

    .. math:: p(x) = \sum_{k=1}^K \pi_k \, \mathcal N(x \mid \mu_k, \Sigma_k),

    and EM (Dempster, Laird and Rubin, 1977) climbs a bound on the log-likelihood, in
    turns in the parameters and in the rows' probabilities of belonging to each
    component. As the bound is a sum over rows, it may be raised one shard of the data
    at a time, in any order and from any worker, and never falls (Neal and Hinton,
    1998).

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        A covariance matrix of its own for each component, one for all, a diagonal one
        each, or a single variance each.
    tol : float, default=1e-3
        The fit has converged when a whole pass raises the mean log-likelihood by less.
    reg_covar : float, default=1e-6
        Added to the diagonal of covariances.
    max_iter : int, default=100
        Effective passes over the data at most. 0 returns the start.
    n_init : int, default=1
        Starts, of which the best outcome is kept.
    init_params : str, default="kmeans"
        ``"kmeans"``, ``"k-means++"``, ``"random_from_data"`` or ``"random"``:
        how starts are found, around the centres of k-means, of its seeding alone,
        around rows drawn at random, or from random responsibilities. On large data
        the seeding is k-means|| (Bahmani et al., 2012), itself distributed.
    weights_init : array-like of shape (n_components,), default=None
        Weights to start from, instead of those of `init_params`.
    means_init : array-like of shape (n_components, n_features), default=None
        Means to start from.
    precisions_init : array-like, default=None
        Inverse covariances to start from, of the shape of `precisions_`.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `sample`.
    warm_start : bool, default=False
        Whether `fit` goes on from the outcome of the last one; n_init does not matter
        then.
    verbose : int, default=0
        1 prints how the fit goes on.
    verbose_interval : int, default=10
        M-steps between two lines.
    schedule : str or Schedule, default="auto"
        When to run M-steps: ``"synchronous"``, ``"fraction_barrier"``,
        ``"bounded_staleness"``, ``"extra_updates"`` or an object of
        `dask_em.schedules`.
    transport : str or Transport, default="auto"
        Where to run E-steps: ``"local"`` threads, ``"futures"`` of Dask,
        ``"simulated"``, or an object of `dask_em.transports`. The default is the
        current Dask client, and threads where there is none.
    shards : int or "auto", default="auto"
        Into how many parts to cut the data.
    hand_out : bool, default=True
        Whether shards may move from slow workers to fast ones.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    checkpoint : str or path, default=None
        Directory or fsspec URL in which the state of the fit is saved now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
    covariances_ : ndarray
        Of shape (n_components, n_features, n_features) if full, (n_features,
        n_features) if tied, (n_components, n_features) if diagonal, (n_components,)
        if spherical.
    precisions_ : ndarray
        Their inverses.
    precisions_cholesky_ : ndarray
        Upper triangular U with precision U U', or square roots.
    converged_ : bool
    n_iter_ : int
        Effective passes over the data, rounded up.
    lower_bound_ : float
        Mean log-likelihood of the data at these parameters; a bound on it where the
        fit had to end before that was known.
    lower_bounds_ : list of float
        Mean lower bound before each M-step. Under the synchronous schedule it is the
        mean log-likelihood at the start of each iteration.
    result_ : EMResult
        Status, exact log-likelihood, log of the fit and settings used.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where columns have names that are strings.

    See Also
    --------
    sklearn.mixture.GaussianMixture : For arrays in memory; see `to_sklearn`.
    dask_em.fit_em : For models of one's own.

    Notes
    -----
    Attributes have the precision of the data: float32 stays float32, while sums are
    kept in float64. Input may be an array, a list, a DataFrame, a Dask array or
    DataFrame, or a `xarray.DataArray`; output is of the kind of the input.

    Rows must be finite. A `sample_weight` of 2 is the same as a row that occurs
    twice, in the starts too.

    References
    ----------
    Dempster, A. P., Laird, N. M., Rubin, D. B. (1977). Maximum likelihood from
    incomplete data via the EM algorithm. Journal of the Royal Statistical Society B
    39, 1-38.

    Neal, R. M., Hinton, G. E. (1998). A view of the EM algorithm that justifies
    incremental, sparse, and other variants. In: Learning in Graphical Models, 355-368.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = GaussianMixture(2, random_state=0).fit(X)
    >>> mixture.means_[mixture.means_[:, 0].argsort()]
    array([[ 1.,  2.],
           [10.,  2.]])
    >>> labels = mixture.predict([[0, 0], [12, 3]])
    >>> bool(labels[0] != labels[1])
    True

    What is lazy stays lazy:

    >>> import dask.array as da
    >>> mixture.predict_proba(da.ones((1000, 2), chunks=(250, 2))).chunks
    ((250, 250, 250, 250), (2,))
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        schedule: Any = "auto",
        transport: Any = "auto",
        shards: Any = "auto",
        hand_out: bool = True,
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.schedule = schedule
        self.transport = transport
        self.shards = shards
        self.hand_out = hand_out
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume

    # ------------------------------------------------------------------- the fit

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, dim: Any = None
    ) -> Any:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in memory, a Dask array or DataFrame, lazy or persisted, or a
            `xarray.DataArray`.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights that are not negative; of a labelled `X`, a DataArray of some of
            the sample dimensions.
        dim : str or sequence of str, default=None
            Sample dimensions of a labelled `X`; the first one where there are at
            most two.

        Returns
        -------
        self : GaussianMixture
            Or an awaitable of it if the current Dask client is asynchronous. If the
            fit fails, what an earlier one found is left as it was.

        Raises
        ------
        ValueError, TypeError
            If parameters or data are unusable; the message names the remedy. What
            can be seen without computing `X` is seen before any work is sent out.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` or the deadline ended the fit.
        """
        self._check_params()
        table = self._table(X, sample_weight, dim=dim, reset=True, min_samples=2)
        starts = self._starts(table.n_features)
        settings: dict[str, Any] = {}
        if all(value is not None for value in starts.values()):
            settings["n_init"] = 1  # all starts are the same
        kind = GaussianMixtureModel
        if self.max_iter == 0:
            kind, settings["max_iter"] = _Resting, 1
        model = kind(
            n_components=self.n_components,
            covariance_type=self.covariance_type,  # type: ignore[arg-type]
            reg_covar=self.reg_covar,
            init_params=self.init_params,  # type: ignore[arg-type]
            **starts,
        )
        return self._fit_model(model, table, **settings)

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, dim: Any = None
    ) -> Any:
        """Fit the mixture and return the most probable component of each row.

        Parameters
        ----------
        X, y, sample_weight, dim
            As in `fit`.

        Returns
        -------
        labels : array of int of shape (n_samples,)
            As `predict` returns; an awaitable of it if the current Dask client is
            asynchronous.
        """
        fitted = self.fit(X, y, sample_weight, dim=dim)
        if isinstance(fitted, GaussianMixture):
            return fitted.predict(X)

        async def predict() -> Any:
            return (await fitted).predict(X)

        return predict()

    def _check_params(self) -> None:
        """Raise `ValueError` for the first parameter that makes no sense."""
        for name, (holds, wanted) in _WANTED.items():
            value = getattr(self, name)
            if not holds(value):
                raise ValueError(f"{name} must be {wanted}, got {value!r}.")

    def _starts(self, n_features: int) -> dict[str, Array | None]:
        """Return where to start from, given or, for a warm start, found before."""
        k, d = self.n_components, n_features
        if self.warm_start and hasattr(self, "weights_"):
            if self.means_.shape != (k, d):
                raise ValueError(
                    "warm_start=True goes on from an earlier fit, but its means have "
                    f"the shape {self.means_.shape} and these would have {(k, d)}; set "
                    "warm_start=False to begin anew."
                )
            # not precisions_, which may be rounded to float32
            U = self.precisions_cholesky_.astype(np.float64)
            given = self.weights_, self.means_, _squared(U, self.covariance_type)
        else:
            given = self.weights_init, self.means_init, self.precisions_init
        weights, means, precisions = given
        return {
            "weights_init": None if weights is None else _check_weights(weights, k),
            "means_init": None if means is None else _checked("means", means, (k, d)),
            "precisions_init": (
                None
                if precisions is None
                else _check_precisions(precisions, self.covariance_type, k, d)
            ),
        }

    def _attributes_of(
        self, params: GaussianMixtureParams, table: Table
    ) -> Mapping[str, Any]:
        U = params.precisions_cholesky
        arrays = {
            "weights_": params.weights,
            "means_": params.means,
            "covariances_": params.covariances,
            "precisions_cholesky_": U,
            "precisions_": _squared(U, self.covariance_type),
        }
        attributes = {
            **{name: value.astype(table.dtype) for name, value in arrays.items()},
            **self._columns_of(table),
        }
        if self.max_iter == 0:
            attributes |= {"n_iter_": 0, "lower_bounds_": [], "converged_": False}
        return attributes

    # -------------------------------------------------------------- what is fitted

    def predict(self, X: Any) -> Any:
        """Return the most probable component of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.

        Returns
        -------
        labels : array of int of shape (n_samples,)
            A Dask array with the chunks of `X` if that is lazy, a DataArray of the
            sample dimensions if it is labelled.
        """
        return self._evaluate(X, "component", _Density.components, np.intp)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability with which each row belongs to each component.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.

        Returns
        -------
        responsibilities : array of shape (n_samples, n_components)
            In the precision of `X`. A Dask array with the chunks of `X` if that is
            lazy, a DataArray of the sample dimensions and ``component`` if it is
            labelled.
        """
        return self._evaluate(X, "probability", _Density.responsibilities, None, True)

    def score_samples(self, X: Any) -> Any:
        """Return the log density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.

        Returns
        -------
        log_density : array of shape (n_samples,)
            In the precision of `X`. A Dask array with the chunks of `X` if that is
            lazy, a DataArray of the sample dimensions if it is labelled.
        """
        return self._evaluate(X, "log_density", _Density.log_density, None)

    def _evaluate(
        self,
        X: Any,
        name: str,
        function: Callable[[_Density, Array], Array],
        dtype: Any,
        by_component: bool = False,
    ) -> Any:
        table = self._table(X)
        values = table.map(
            _Evaluation(self._density(), function),
            table.dtype if dtype is None else dtype,
            len(self.weights_) if by_component else None,
        )
        return table.wrap(values, name)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Return the mean log-likelihood of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts. Lazy data are computed.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        log_likelihood : float
            An awaitable of it for lazy data if the current Dask client is
            asynchronous.
        """
        table = self._table(X, sample_weight)
        return self._with_likelihood(
            table, self._log_density(), lambda total, weight: total / weight
        )

    def aic(self, X: Any) -> Any:
        """Return Akaike's information criterion for some rows; less is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts. Lazy data are computed.

        Returns
        -------
        aic : float
            An awaitable of it as for `score`.
        """
        table, penalty = self._table(X), 2 * self._n_parameters()
        return self._with_likelihood(
            table, self._log_density(), lambda total, n_rows: penalty - 2 * total
        )

    def bic(self, X: Any) -> Any:
        """Return the Bayesian information criterion for some rows; less is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts. Lazy data are computed.

        Returns
        -------
        bic : float
            An awaitable of it as for `score`.
        """
        table, n = self._table(X), self._n_parameters()
        return self._with_likelihood(
            table,
            self._log_density(),
            lambda total, n_rows: n * math.log(n_rows) - 2 * total,
        )

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """Draw rows from the mixture.

        Parameters
        ----------
        n_samples : int, default=1

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Component after component, as in scikit-learn.
        y : ndarray of int of shape (n_samples,)
            The components that they were drawn from.

        Raises
        ------
        ValueError
            If fewer than one row is asked for.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires "
                "at least one sample."
            )
        rng = check_random_state(self.random_state)
        counts = rng.multinomial(n_samples, self.weights_.astype(np.float64))
        k, d = self.means_.shape
        covariances = self.covariances_
        if self.covariance_type == "tied":
            covariances = np.broadcast_to(covariances, (k, d, d))

        def draw(mean: Array, covariance: Array, n: int) -> Array:
            if self.covariance_type in ("full", "tied"):
                return rng.multivariate_normal(mean, covariance, n)
            return mean + rng.standard_normal(size=(n, d)) * np.sqrt(covariance)

        rows = [
            draw(mean, covariance, int(n))
            for mean, covariance, n in zip(
                self.means_, covariances, counts, strict=True
            )
        ]
        return np.vstack(rows), np.repeat(np.arange(k), counts)

    def to_sklearn(self) -> Any:
        """Return the same mixture as scikit-learn's estimator, fitted.

        Returns
        -------
        mixture : sklearn.mixture.GaussianMixture
            With copies of all parameters that it knows and of all fitted attributes.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_em import GaussianMixture
        >>> X = np.array([[1.0], [2.0], [3.0], [10.0], [11.0], [12.0]])
        >>> mixture = GaussianMixture(2, random_state=0).fit(X)
        >>> bool((mixture.to_sklearn().predict(X) == mixture.predict(X)).all())
        True
        """
        from copy import deepcopy

        from sklearn.mixture import GaussianMixture as Sklearns

        check_is_fitted(self)
        ours = self.get_params(deep=False)
        theirs = Sklearns()
        theirs.set_params(
            **{name: deepcopy(ours[name]) for name in theirs.get_params(deep=False)}
        )
        for name, value in vars(self).items():
            if name.endswith("_") and name != "result_":
                setattr(theirs, name, deepcopy(value))
        return theirs

    def _density(self) -> _Density:
        """Return the density that the public attributes describe."""
        return _Density(
            self.covariance_type,
            *(
                np.asarray(value, dtype=np.float64)
                for value in (self.weights_, self.means_, self.precisions_cholesky_)
            ),
        )

    def _log_density(self) -> _Evaluation:
        return _Evaluation(self._density(), _Density.log_density)

    def _n_parameters(self) -> int:
        """Return the number of free parameters."""
        k, d = self.means_.shape
        covariances = {
            "full": k * d * (d + 1) // 2,
            "tied": d * (d + 1) // 2,
            "diag": k * d,
            "spherical": k,
        }
        return int(covariances[self.covariance_type] + k * d + k - 1)


@dataclasses.dataclass(frozen=True)
class _Density:
    """A mixture's density, small enough to send to where the rows are."""

    covariance_type: str
    weights: Array
    means: Array
    precisions_cholesky: Array

    def joint(self, X: Array) -> Array:
        """Return log densities of rows and components together."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        return weighted_log_prob(
            X,
            # near the rows, so that differences are taken before rounding
            self.means.mean(axis=0),
            log_weights,
            self.means,
            self.precisions_cholesky,
            self.covariance_type,
        )

    def components(self, X: Array) -> Array:
        return self.joint(X).argmax(axis=1)

    def log_density(self, X: Array) -> Array:
        return logsumexp(self.joint(X), axis=1)

    def responsibilities(self, X: Array) -> Array:
        joint = self.joint(X)
        with np.errstate(under="ignore"):
            return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """One of a density's methods, as a function of rows."""

    density: _Density
    method: Callable[[_Density, Array], Array]

    def __call__(self, X: Array) -> Array:
        return self.method(self.density, X)


@dataclasses.dataclass(frozen=True)
class _Resting(GaussianMixtureModel):
    """A model that stays at its start, whose likelihood is computed all the same."""

    def m_step(
        self, params: GaussianMixtureParams, stats: GaussianMixtureStats
    ) -> GaussianMixtureParams:
        """Return the parameters as they are."""
        return params


def _squared(U: Array, covariance_type: str) -> Array:
    """Return precisions from their factors."""
    if covariance_type in ("full", "tied"):
        return U @ U.swapaxes(-1, -2)
    return np.square(U)


# -------------------------------------------------------------- parameters, checked


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    def holds(value: Any) -> bool:
        return isinstance(value, str) and value in names

    return holds, f"one of {', '.join(map(repr, names))}"


def _integer_from(least: int) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: _is_integer(value) and value >= least,
        f"an integer of at least {least}",
    )


_NOT_NEGATIVE = lambda value: _is_real(value) and value >= 0, "a number of at least 0"

#: What scikit-learn's parameters must be; `fit_em` checks the others.
_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_components": _integer_from(1),
    "covariance_type": _one_of("full", "tied", "diag", "spherical"),
    "tol": _NOT_NEGATIVE,
    "reg_covar": _NOT_NEGATIVE,
    "max_iter": _integer_from(0),
    "n_init": _integer_from(1),
    "init_params": _one_of("kmeans", "k-means++", "random", "random_from_data"),
    "warm_start": (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    "verbose": (
        lambda value: isinstance(value, Integral) and int(value) >= 0,
        "True, False or an integer of at least 0",
    ),
    "verbose_interval": _integer_from(1),
}


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    array = check_array(
        value, dtype=[np.float64, np.float32], ensure_2d=False, allow_nd=True
    )
    if array.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got "
            f"{array.shape}"
        )
    return array


def _check_weights(value: Any, n_components: int) -> Array:
    weights = _checked("weights", value, (n_components,))
    if (weights < 0).any() or (weights > 1).any():
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.max():.5f}, min value {weights.min():.5f}"
        )
    total = weights.sum(dtype=np.float64)
    if abs(1 - total) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{total:.5f}"
        )
    return weights


def _check_precisions(
    value: Any, covariance_type: str, n_components: int, n_features: int
) -> Array:
    k, d = n_components, n_features
    shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
    name = f"{covariance_type} precision"
    precisions = _checked(name, value, shape[covariance_type])
    if covariance_type in ("diag", "spherical"):
        if not (precisions > 0).all():
            raise ValueError(f"'{name}' should be positive")
    elif not (
        np.allclose(precisions, precisions.swapaxes(-1, -2))
        and (np.linalg.eigvalsh(precisions) > 0).all()
    ):
        raise ValueError(f"'{name}' should be symmetric, positive-definite")
    return precisions
