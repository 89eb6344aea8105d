"""Gaussian mixtures, with scikit-learn's face."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..models.gaussian_density import GaussianMixtureDensity, precisions_of
from ..models.gaussian_mixture import (
    GaussianMixtureModel,
    GaussianMixtureParams,
    GaussianMixtureStats,
)
from .base import EMEstimator
from .gaussian_checks import check_settings, check_starts, precisions_shape
from .mixture import MixtureMixin
from .table import Table

__all__ = ["GaussianMixture"]

Array = NDArray[Any]


class GaussianMixture(MixtureMixin, EMEstimator):
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
    acceleration : str, Acceleration or None, default="auto"
        ``"anderson"``, ``"squarem"`` or an object of `dask_em.acceleration`, to jump
        ahead where EM is slow, under synchronous schedules. The default is EM's own
        steps, which are scikit-learn's.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    checkpoint : str or path, default=None
        Directory or fsspec URL in which the state of the fit is saved now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.
    strategy : {"em", "one_shot", "one_shot+polish"}, default="em"
        EM on all rows; or EM on the rows of each worker (of each of `shards`, where
        that is a number) and reduction of these local fits to one by optimal transport
        (Zhang and Chen, 2022), with one round of communication; or that, and then EM
        on all rows from there.
    n_polish : int, default=None
        Passes after a reduction. None goes on until the fit has converged.

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
    feature_names_in_ : ndarray of shape (n_features,)
        Where columns have names that are strings.

    See Also
    --------
    sklearn.mixture.GaussianMixture : For arrays in memory; see `to_sklearn`.
    dask_em.fit_em : For models of one's own.
    dask_em.reduce_mixture : Make one of several fitted mixtures, without rows.

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

    Zhang, Q., Chen, J. (2022). Distributed learning of finite Gaussian mixtures.
    Journal of Machine Learning Research 23 (99), 1-40.

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
        acceleration: Any = "auto",
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
        strategy: str = "em",
        n_polish: int | None = None,
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
        self.acceleration = acceleration
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume
        self.strategy = strategy
        self.n_polish = n_polish

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
        check_settings(self)
        table = Table.of(self, X, sample_weight, dim=dim, reset=True, min_samples=2)
        found = self._found(table.n_features)
        starts = check_starts(self, table.n_features) if found is None else {}
        settings: dict[str, Any] = {"start": found}
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

    def _found(self, n_features: int) -> GaussianMixtureParams | None:
        """Return the outcome of an earlier fit, for a warm start."""
        if not self.warm_start or not hasattr(self, "weights_"):
            return None
        k, d = self.n_components, n_features
        found = self.means_.shape, self.precisions_cholesky_.shape
        wanted = (k, d), precisions_shape(self.covariance_type, k, d)
        # shapes of two types coincide where there are as many components as features
        same = getattr(self, "_fitted_type", self.covariance_type)
        if found != wanted or same != self.covariance_type:
            raise ValueError(
                "warm_start=True goes on from an earlier fit, but its means and "
                f"precisions have the shapes {found} and these would have {wanted}; "
                "set warm_start=False to begin anew."
            )
        weights, means, covariances, U = self._in_float64(
            "weights_", "means_", "covariances_", "precisions_cholesky_"
        )
        # reference and origin only until the model adopts the parameters
        return GaussianMixtureParams(
            weights, means, covariances, U, reference=means, origin=means[0]
        )

    def _attributes_of(
        self, params: GaussianMixtureParams, table: Table
    ) -> Mapping[str, Any]:
        U = params.precisions_cholesky
        arrays = {
            "weights_": params.weights,
            "means_": params.means,
            "covariances_": params.covariances,
            "precisions_cholesky_": U,
            "precisions_": precisions_of(U, self.covariance_type),
        }
        attributes: dict[str, Any] = {
            name: value.astype(table.dtype) for name, value in arrays.items()
        }
        attributes["_fitted_type"] = self.covariance_type
        if self.max_iter == 0:
            attributes |= {"n_iter_": 0, "lower_bounds_": [], "converged_": False}
        return attributes

    def _density(self) -> GaussianMixtureDensity:
        return GaussianMixtureDensity(
            self.covariance_type,  # type: ignore[arg-type]
            *self._in_float64("weights_", "means_", "precisions_cholesky_"),
        )

    def _in_float64(self, *names: str) -> list[Array]:
        return [np.asarray(getattr(self, name), dtype=np.float64) for name in names]

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

        rows = list(map(draw, self.means_, covariances, counts))
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


@dataclasses.dataclass(frozen=True)
class _Resting(GaussianMixtureModel):
    """A model that stays at its start, whose likelihood is computed all the same."""

    def m_step(
        self, params: GaussianMixtureParams, stats: GaussianMixtureStats
    ) -> GaussianMixtureParams:
        """Return the parameters as they are."""
        return params
