"""Factor analysis and probabilistic principal components, with scikit-learn's face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from ..models.factor_analysis import FactorModel, FactorParams
from ..models.factor_rotation import canonical, positive, rotated
from .factors import FactorsEstimator, is_integer
from .table import Table

__all__ = ["PPCA", "FactorAnalysis"]

Array = NDArray[Any]


class FactorAnalysis(FactorsEstimator):
    r"""Factor analysis by expectation-maximisation, where the data are.

    A drop-in for `sklearn.decomposition.FactorAnalysis` that takes missing values. A
    row is a few Gaussian factors and noise of a variance of its own in every feature,

    .. math:: x = W z + \mu + e, \qquad z \sim N(0, I), \qquad
              e \sim N(0, \mathrm{diag}(\psi)),

    and EM (Rubin and Thayer, 1982) climbs the likelihood of what was observed. NaN
    stands for a value that was not, at random given those that were; nothing is
    imputed on the way.

    Parameters
    ----------
    n_components : int, default=None
        Number of factors K, from 0 to the number of features, for which None stands.
    tol : float, default=1e-7
        The fit has converged when a whole pass raises the mean log-likelihood of rows
        by less. scikit-learn's is of their sum.
    max_iter : int, default=1000
        Effective passes over the data at most.
    noise_variance_init : array-like of shape (n_features,), default=None
        Noise variances to start from. None finds them from principal components.
    rotation : {"varimax", "quartimax"}, default=None
        Rotation of the components (Kaiser, 1958). Without one, ``components_ /
        noise_variance_ @ components_.T`` is diagonal.
    random_state : int, RandomState instance or None, default=0
        Seed of the start, where there are more than 500 features or so many rows that
        it is made from some of them.
    verbose : int, default=0
        1 prints how the fit goes on.
    verbose_interval : int, default=10
        M-steps between two lines.
    schedule, transport, shards, hand_out, deadline, checkpoint, resume
        As in `GaussianMixture`.
    acceleration : str, Acceleration or None, default="auto"
        The default is Anderson's under synchronous schedules; None is for EM's own
        steps.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Loadings W, transposed.
    noise_variance_ : ndarray of shape (n_features,)
        At least 1e-8 of the variance of the feature.
    mean_ : ndarray of shape (n_features,)
        Where values are missing it is estimated, like the rest, and not the mean of
        those that are there.
    loglike_ : list of float
        Log-likelihood (a bound on it under other schedules than the synchronous one)
        before each M-step, and at the end.
    converged_ : bool
    n_iter_ : int
        Effective passes over the data, rounded up.
    lower_bound_ : float
        Mean log-likelihood of the data at these parameters.
    lower_bounds_ : list of float
        Mean lower bound before each M-step.
    result_ : EMResult
        Status, exact log-likelihood, log of the fit and settings used.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where columns have names that are strings.

    See Also
    --------
    PPCA : The same noise variance for all features.
    sklearn.decomposition.FactorAnalysis : For complete arrays in memory.

    Notes
    -----
    Where nothing is missing, each block of rows is reduced once to its products about
    the mean (to 4096 features), and a pass takes no longer for more rows. Rows that
    lack the same values share their work likewise.

    A row without any value is allowed: it tells nothing, and counts in means over
    rows. A column without any value is an error.

    References
    ----------
    Rubin, D. B., Thayer, D. T. (1982). EM algorithms for ML factor analysis.
    Psychometrika 47, 69-76.

    Kaiser, H. F. (1958). The varimax criterion for analytic rotation in factor
    analysis. Psychometrika 23, 187-200.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import FactorAnalysis
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) @ [[2.0, 1.0, -1.0, 3.0]]
    >>> X += rng.normal(size=(500, 4))
    >>> X[rng.random(X.shape) < 0.2] = np.nan
    >>> model = FactorAnalysis(1).fit(X)
    >>> model.components_.round()
    array([[ 2.,  1., -1.,  3.]])
    >>> model.transform(X).shape, bool(np.isnan(model.impute(X)).any())
    ((500, 1), False)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        tol: float = 1e-7,
        max_iter: int = 1000,
        noise_variance_init: Any = None,
        rotation: str | None = None,
        random_state: Any = 0,
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
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.noise_variance_init = noise_variance_init
        self.rotation = rotation
        self.random_state = random_state
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

    def _model(self, n_features: int) -> FactorModel:
        if self.rotation not in (None, "varimax", "quartimax"):
            raise ValueError(
                "rotation must be 'varimax', 'quartimax' or None, got "
                f"{self.rotation!r}."
            )
        init = self.noise_variance_init
        if init is not None:
            init = check_array(
                np.atleast_1d(init),
                dtype=np.float64,
                ensure_2d=False,
                input_name="noise_variance_init",
            )
            if init.shape != (n_features,) or not (init > 0).all():
                raise ValueError(
                    f"noise_variance_init must be {n_features} variances above 0, one "
                    f"per feature, got {self.noise_variance_init!r}."
                )
        k = _components(self.n_components, 0, n_features, n_features)
        return FactorModel(k, "diagonal", init)

    def _attributes_of(self, params: FactorParams, table: Table) -> Mapping[str, Any]:
        loadings = canonical(params.loadings, params.noise)
        if self.rotation is not None:
            loadings = rotated(loadings, self.rotation)  # type: ignore[arg-type]
        return {
            "components_": loadings.T.astype(table.dtype),
            "noise_variance_": params.noise.astype(table.dtype),
            "mean_": params.mean.astype(table.dtype),
        }

    def _loadings(self) -> Array:
        return np.asarray(self.components_, dtype=np.float64).T


class PPCA(FactorsEstimator):
    r"""Probabilistic principal components by expectation-maximisation.

    A row is a few Gaussian factors and noise of the same variance in every feature,

    .. math:: x = W z + \mu + e, \qquad z \sim N(0, I), \qquad
              e \sim N(0, \sigma^2 I).

    For complete data the likelihood is highest where W spans the leading eigenvectors
    of the covariance and :math:`\sigma^2` is the mean of the other eigenvalues
    (Tipping and Bishop, 1999): these are the principal components of
    `sklearn.decomposition.PCA`. EM finds the same for data with missing values, given
    as NaN, by the likelihood of what was observed.

    Parameters
    ----------
    n_components : int, default=None
        Number of components K, from 1 to the number of features less one, for which
        None stands, so that there is noise to estimate.
    tol, max_iter, random_state, verbose, verbose_interval
        As in `FactorAnalysis`.
    schedule, transport, shards, hand_out, acceleration, deadline, checkpoint, resume
        As in `FactorAnalysis`.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Principal axes, orthonormal, by decreasing variance. The largest entry of each
        is positive, as in scikit-learn.
    explained_variance_ : ndarray of shape (n_components,)
        Variances of rows along the axes, noise included. They are those of maximum
        likelihood, for complete data scikit-learn's times ``(n - 1) / n``.
    noise_variance_ : float
        At least 1e-8 of the mean variance.
    mean_ : ndarray of shape (n_features,)
        As in `FactorAnalysis`.
    loglike_, converged_, n_iter_, lower_bound_, lower_bounds_, result_
        As in `FactorAnalysis`.
    n_features_in_, feature_names_in_
        As in `FactorAnalysis`.

    See Also
    --------
    FactorAnalysis : A noise variance for each feature.
    sklearn.decomposition.PCA : For complete arrays in memory.

    Notes
    -----
    `transform` returns expected factors. For a complete row, factor k is the score of
    `sklearn.decomposition.PCA`, ``(x - mean_) @ components_[k]``, times
    ``sqrt(v - s) / v`` with its explained variance v and the noise variance s.

    References
    ----------
    Tipping, M. E., Bishop, C. M. (1999). Probabilistic principal component analysis.
    Journal of the Royal Statistical Society B 61, 611-622.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import PPCA
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) @ [[3.0, 4.0, 0.0]] + rng.normal(size=(500, 3))
    >>> X[rng.random(X.shape) < 0.2] = np.nan
    >>> model = PPCA(1).fit(X)
    >>> model.components_.round(1)
    array([[0.6, 0.8, 0. ]])
    >>> bool(0.8 < model.noise_variance_ < 1.2)
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        tol: float = 1e-7,
        max_iter: int = 1000,
        random_state: Any = 0,
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
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
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

    def _model(self, n_features: int) -> FactorModel:
        most = max(n_features - 1, 1)
        k = _components(self.n_components, 1, most, n_features)
        return FactorModel(k, "isotropic")

    def _attributes_of(self, params: FactorParams, table: Table) -> Mapping[str, Any]:
        noise = params.noise[0]
        axes, roots, _ = np.linalg.svd(params.loadings, full_matrices=False)
        return {
            "components_": positive(axes).T.astype(table.dtype),
            "explained_variance_": (np.square(roots) + noise).astype(table.dtype),
            "noise_variance_": table.dtype.type(noise),
            "mean_": params.mean.astype(table.dtype),
        }

    def _loadings(self) -> Array:
        variances = np.asarray(self.explained_variance_, dtype=np.float64)
        root = np.sqrt(np.maximum(variances - float(self.noise_variance_), 0.0))
        return np.asarray(self.components_, dtype=np.float64).T * root


def _components(wanted: Any, least: int, most: int, n_features: int) -> int:
    """Return how many components are wanted, for which None stands for the most."""
    if wanted is None:
        return most
    if not is_integer(wanted) or not least <= wanted <= most:
        raise ValueError(
            f"n_components must be None or an integer from {least} to {most} for data "
            f"with {n_features} features, got {wanted!r}."
        )
    return int(wanted)
