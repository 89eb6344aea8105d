"""Regression by mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import assert_all_finite

from ..models.experts.families import Family, named_family
from ..models.experts.gaussian import Gaussian
from ..models.experts.params import ExpertsParams
from ..models.experts.student import StudentT
from .experts_base import MixtureOfExperts
from .sums import formula_of_sums
from .table import Table

__all__ = ["MixtureOfExpertsRegressor"]

Array = NDArray[Any]


class MixtureOfExpertsRegressor(RegressorMixin, MixtureOfExperts):
    r"""Regressions, each for its part of the data, and a gate that says whose a row is.

    .. math:: p(y \mid x) = \sum_{k=1}^K \pi_k(x)\,
              \phi\bigl(y \mid b_{k0} + b_k^\top x\bigr), \qquad
              \pi_k(x) = \frac{e^{a_{k0} + a_k^\top x}}
                              {\sum_j e^{a_{j0} + a_j^\top x}}

    (Jacobs, Jordan, Nowlan and Hinton, 1991), fitted by maximum likelihood where the
    data are. The gate's M-step is one Newton step, under a safeguard; under schedules
    that mix statistics of different age it is the maximum of Böhning's quadratic bound
    (1992), so that the likelihood's bound never falls.

    Parameters
    ----------
    n_components : int, default=2
        Number of experts K.
    family : {"gaussian", "student_t", "poisson"}, default="gaussian"
        Distribution of the response given its expert: normal, t with degrees of
        freedom that are estimated (robust to outliers), or Poisson with a log link.
    covariance_type : {"full", "diag", "tied"}, default="full"
        Of several responses; ``"tied"`` gives all experts the same variance. Poisson
        experts have none.
    var_floor : float, default=1e-8
        Least variance of an expert, as a fraction of the response's.
    gate : {"softmax", "constant", "equal"}, default="softmax"
        Probabilities of the experts that depend on the row; that are the same
        everywhere (a mixture of regressions); or that are all equal.
    gate_features, expert_features : sequence of str or int, default=None
        Columns that the gate and the experts see; all of them by default.
    tol : float, default=1e-6
        The fit has converged when a whole pass raises the mean log-likelihood by less.
    max_iter : int, default=500
        Effective passes over the data at most: of local fits, and of EM on all rows.
    n_init : int, default=1
        Starts, of which the best outcome is kept. Each is itself the best of ten
        short fits to a sample. An outcome with an expert that has collapsed onto a
        few rows is kept only where there is no other.
    init : {"hyperplanes", "kmeans"}, default="hyperplanes"
        Short fits begin with regressions on a few rows drawn at random each, or with
        clusters of the rows of X.
    reg_gate : float, default=0.0
        Ridge on the gate's slopes, in units of the columns' standard deviations. Where
        0 turns out to have no solution, as components can be told apart without
        error, a small one is switched on, with a warning; see `reg_gate_`.
    strategy : str, default="auto"
        ``"em"``: EM on all rows. ``"one_shot"``: EM on the rows of each worker (of
        each of `shards`, where that is a number), and reduction of these local fits
        to one by optimal transport, with one round of communication (Chamroukhi and
        Pham, 2023). ``"one_shot+polish"``: that, and then EM on all rows from there,
        for `n_polish` passes or to convergence. The default is the last one where
        there are at least eight local fits with rows enough, else EM.
    n_polish : int, default=None
        Passes after a reduction. None goes on until the fit has converged, with the
        maximum-likelihood estimate.
    reduction_gate : {"matched", "transport"}, default="matched"
        The gate of a reduction: matched local coefficients, averaged by their
        information; or softmax regression on the masses of the transport plan.
    n_support : int, default=2000
        Rows at which experts are compared in a reduction.
    robust : bool, default=False
        Whether local fits far from the others are left out of a reduction.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `sample`.
    warm_start : bool, default=False
        Whether `fit` goes on from the outcome of the last one.
    verbose : int, default=0
        1 prints how the fit goes on.
    verbose_interval : int, default=10
        M-steps between two lines.
    schedule, transport, shards, hand_out, acceleration
        As in `dask_em.fit_em`.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    checkpoint : str or path, default=None
        Directory or fsspec URL in which the state of the fit is saved now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.

    Attributes
    ----------
    intercept_ : ndarray of shape (n_components,) or (n_components, n_targets)
    coef_ : ndarray of shape (n_components, n_expert_features)
        Or (n_components, n_targets, n_expert_features) for a `y` of two dimensions. Of
        the logarithm of the rate, for Poisson experts.
    covariances_ : ndarray of shape (n_components, n_targets, n_targets)
        Of the experts (scale matrices for Student-t); not there for Poisson.
    dof_ : ndarray of shape (n_components,)
        Degrees of freedom of Student-t experts.
    gate_intercept_ : ndarray of shape (n_components,)
    gate_coef_ : ndarray of shape (n_components, n_gate_features)
        Log odds against the last component, whose row is zero.
    weights_ : ndarray of shape (n_components,)
        Shares of the rows that the experts have.
    log_likelihood_ : float
        Of all rows, without penalty.
    n_parameters_ : int
    reg_gate_ : float
        Ridge that was used.
    converged_ : bool
    n_iter_ : int
        Effective passes over the data, local fits included, rounded up.
    lower_bound_ : float
        Mean log-likelihood, less the ridge's penalty.
    lower_bounds_ : list of float
        The same before each M-step.
    feature_mean_ : ndarray of shape (n_features,)
    feature_covariance_ : ndarray of shape (n_features, n_features)
        Moments of the rows, from which `dask_em.reduce_mixture` can make a support
        sample where there are no rows.
    result_ : EMResult
        Status, exact log-likelihood, log of the fit and settings used; those of a
        reduction under ``result_.settings["one_shot"]``, with the bytes it moved.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where columns have names that are strings.

    See Also
    --------
    MixtureOfExpertsClassifier : For classes.
    reduce_mixture : Make one of several fitted mixtures, without rows.

    Notes
    -----
    The order of the experts is arbitrary. `log_likelihood_`, `bic` and the like use
    maximum-likelihood variances, so values are slightly above those of R's flexmix,
    whose variances have another divisor.

    References
    ----------
    Jacobs, R. A., Jordan, M. I., Nowlan, S. J., Hinton, G. E. (1991). Adaptive mixtures
    of local experts. Neural Computation 3, 79-87.

    Böhning, D. (1992). Multinomial logistic regression algorithm. Annals of the
    Institute of Statistical Mathematics 44, 197-200.

    Chamroukhi, F., Pham, N. T. (2023). Distributed learning of mixtures of experts.
    arXiv:2312.09877.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import MixtureOfExpertsRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-3, 3, (500, 1))
    >>> y = np.where(X[:, 0] + rng.normal(size=500) > 0, 3 * X[:, 0], -2 * X[:, 0])
    >>> y = y + rng.normal(scale=0.2, size=500)
    >>> mixture = MixtureOfExpertsRegressor(2, random_state=0).fit(X, y)
    >>> mixture.coef_[mixture.coef_[:, 0].argsort()].round(1)
    array([[-2.],
           [ 3.]])
    >>> mixture.predict([[2.5]]).round(0)
    array([7.])
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        family: str = "gaussian",
        covariance_type: str = "full",
        var_floor: float = 1e-8,
        gate: str = "softmax",
        gate_features: Any = None,
        expert_features: Any = None,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 1,
        init: str = "hyperplanes",
        reg_gate: float = 0.0,
        strategy: str = "auto",
        n_polish: int | None = None,
        reduction_gate: str = "matched",
        n_support: int = 2000,
        robust: bool = False,
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
    ) -> None:
        self.n_components = n_components
        self.family = family
        self.covariance_type = covariance_type
        self.var_floor = var_floor
        self.gate = gate
        self.gate_features = gate_features
        self.expert_features = expert_features
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init = init
        self.reg_gate = reg_gate
        self.strategy = strategy
        self.n_polish = n_polish
        self.reduction_gate = reduction_gate
        self.n_support = n_support
        self.robust = robust
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, dim: Any = None) -> Any:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in memory, a Dask array or DataFrame, lazy or persisted, or a
            `xarray.DataArray`.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Responses, with the chunks or labels of X where it has any.
        sample_weight : array-like of shape (n_samples,), default=None
            A weight of 2 is the same as a row that occurs twice.
        dim : str or sequence of str, default=None
            Sample dimensions of a labelled `X`; the first one where there are at
            most two.

        Returns
        -------
        self : MixtureOfExpertsRegressor
            Or an awaitable of it if the current Dask client is asynchronous. If the
            fit fails, what an earlier one found is left as it was.

        Raises
        ------
        ValueError, TypeError
            If parameters or data are unusable; the message names the remedy.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` or the deadline ended the fit.
        UserWarning
            If a ridge had to be put on the gate.
        """
        self._check_settings()
        table = Table.of(self, X, sample_weight, dim=dim, reset=True, min_samples=2)
        table = self._checked_responses(table.with_responses(y), known=False)
        flat = table.y.ndim == 1
        table = table.with_attributes(_flat_y=flat)
        return self._fit_experts(table, self._family(1 if flat else table.y.shape[1]))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = self.family != "poisson"
        return tags

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.family not in ("gaussian", "student_t", "poisson"):
            raise ValueError(
                "family must be 'gaussian', 'student_t' or 'poisson', got "
                f"{self.family!r}."
            )
        if self.covariance_type not in ("full", "diag", "tied"):
            raise ValueError(
                "covariance_type must be 'full', 'diag' or 'tied', got "
                f"{self.covariance_type!r}."
            )
        if not isinstance(self.var_floor, Real) or not 0 < float(self.var_floor) < 1:
            raise ValueError(
                f"var_floor must lie between 0 and 1, got {self.var_floor!r}."
            )

    def _family(self, n_predictors: int) -> Family:
        kinds = {"gaussian": Gaussian, "student_t": StudentT}
        if self.family in kinds:
            return kinds[self.family](self.covariance_type)  # type: ignore[arg-type]
        return named_family(self.family)

    def _checked_responses(self, table: Table, *, known: bool = True) -> Table:
        y = table.y
        if y.dtype.kind not in "fiub":
            try:
                if y.dtype.kind != "O" or table.lazy:
                    raise TypeError
                y = y.astype(np.float64)
            except (TypeError, ValueError):
                raise ValueError(
                    f"y must be numeric, got dtype {y.dtype}; encode it, or use "
                    "MixtureOfExpertsClassifier for classes."
                ) from None
        if not table.lazy:
            y = np.asarray(y, dtype=np.float64)
            assert_all_finite(y, input_name="y")
            if self.family == "poisson" and (y < 0).any():
                raise ValueError(
                    f"Some y are negative (the least is {y.min():g}), which "
                    "family='poisson' cannot have; use family='gaussian'."
                )
        fitted = getattr(self, "_density_", None) if known else None
        n = 1 if y.ndim == 1 else y.shape[1]
        if fitted is not None and n != fitted.n_responses:
            raise ValueError(
                f"y has {n} responses per row, but the fit was to {fitted.n_responses}."
            )
        if self.family == "poisson" and y.ndim == 2 and y.shape[1] != 1:
            raise ValueError(
                "family='poisson' takes one response; fit one mixture for each column "
                "of y, or use family='gaussian'."
            )
        return table.replacing(y)

    def _attributes_of(self, params: ExpertsParams, table: Table) -> Mapping[str, Any]:
        attributes = dict(super()._attributes_of(params, table))
        raw = params.raw(attributes["_density_"].design)
        single = table.attributes["_flat_y"]
        attributes |= {
            "intercept_": raw.coef[:, 0, 0] if single else raw.coef[..., 0],
            "coef_": raw.coef[:, 0, 1:] if single else raw.coef[..., 1:],
        }
        if raw.covariance.size:
            attributes["covariances_"] = raw.covariance
        if raw.dof.size:
            attributes["dof_"] = raw.dof
        return attributes

    # ----------------------------------------------------------------- predictions

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the mean response.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.
        return_std : bool, default=False
            Whether to return standard deviations as well.

        Returns
        -------
        mean : array of shape (n_samples,) or (n_samples, n_targets)
            A Dask array if X is lazy, a DataArray if it is labelled.
        std : array of the same shape
            Of a new response, whichever expert it comes from. Infinite where a
            Student-t expert has at most two degrees of freedom.
        """
        mean = self._of_responses(X, "mean", "mean")
        return (mean, self._of_responses(X, "std", "std")) if return_std else mean

    def _of_responses(self, X: Any, function: str, name: str) -> Any:
        table = Table.of(self, X)
        q = self._density_.n_responses
        values = table.map(getattr(self._density_, function), table.dtype, q)
        if self._flat_y:
            return table.wrap(values[:, 0], name)
        return table.wrap(values, name, "target")

    def expert_predict(self, X: Any) -> Any:
        """Return the mean response of every expert.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_components) or (n_samples, n_components, n_targets)
        """
        return self._by_expert(X, None if self._flat_y else "target")

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return the coefficient of determination of the predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts. Lazy data are computed.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
            1 less the share of the variance of y that is left in the residuals,
            averaged over responses; an awaitable of it if the current Dask client is
            asynchronous.
        """
        table = self._joint_table(X, y, sample_weight)
        q = self._density_.n_responses
        without = table.without_responses()
        mean = without.map(self._density_.mean, np.float64, q)
        # about a point near the responses, lest squares cancel
        origin = self._density_.params.y_mean
        observed = table.y if table.y.ndim == 2 else table.y[:, None]
        columns = []
        for j in range(q):
            centred = observed[:, j] - origin[j]
            columns += [centred, centred**2, (observed[:, j] - mean[:, j]) ** 2]

        def formula(weight: float, *sums: float) -> float:
            found = []
            for j in range(q):
                first, second, left = sums[3 * j : 3 * j + 3]
                total = second - first * first / weight
                if total > 0:
                    found.append(1 - left / total)
                else:
                    found.append(1.0 if left == 0 else 0.0)
            return float(np.mean(found))

        return formula_of_sums(table, columns, formula)

    def _as_given(self, y: Array) -> Array:
        return y[:, 0] if self._flat_y else y
