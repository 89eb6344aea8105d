"""Linear mixed models, with scikit-learn's face."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..acceleration import named_acceleration
from ..grouping.basis import Basis
from ..grouping.cluster import gather_dask
from ..grouping.gather import (
    Gathered,
    check_weights,
    gather_memory,
    survey_rows,
)
from ..grouping.rows import Rows, plain_labels
from ..models.linear_mixed import LinearMixedModelECME, MixedParams, Structure
from ..result import EMResult, TraceLog
from ..sharding import is_dask
from .base import EMEstimator
from .mixed_effects import RandomEffects
from .mixed_fitted import Fitted
from .mixed_input import MixedInput, read_arrays, read_frame
from .mixed_predict import Prediction, predict_arrays, predict_frame
from .mixed_summary import LikelihoodRatio, Summary, compare
from .table import Table

__all__ = ["LinearMixedModel"]

Array = NDArray[Any]

#: Numbers of random effects that are fetched from a cluster after a fit.
FETCH = 2_000_000


class LinearMixedModel(RegressorMixin, EMEstimator):
    r"""Linear mixed model, fitted by expectation-maximisation where the data are.

    .. math:: y = X \beta + \sum_f Z_f b_f + e, \qquad
              b_f \sim N(0, \Sigma_f) \text{ for every group}, \quad
              e \sim N(0, \sigma^2)

    with the fixed effects :math:`\beta` and random effects :math:`b_f` of one or
    several grouping factors, nested or crossed. The estimates are those of maximum
    likelihood or REML: the same as lme4's.

    The rows are read twice, to sum up cross-products per group; iterations see only
    those. What the default algorithm climbs is the likelihood itself (ECME; Liu and
    Rubin, 1994), over expanded parameters (PX-EM; Liu, Rubin and Wu, 1998), with
    Anderson's extrapolation under a safeguard; a few dozen iterations give the
    answer to some eight digits, on the border of zero variance too.

    Parameters
    ----------
    formula : str, default=None
        As in lme4: ``"y ~ x + (1 + x | group)"``; ``(... || group)`` for independent
        effects, ``(1 | a/b)`` for nested factors, several terms for crossed ones.
        Fixed and random effects are encoded by formulaic. Without a formula, `fit`
        takes arrays.
    method : {"reml", "ml"}, default="reml"
        Restricted or full maximum likelihood.
    algorithm : {"px_ecme", "ecme", "em"}, default="px_ecme"
    covariance : {"unstructured", "diagonal"}, default="unstructured"
        Of the random effects of arrays; formulas say it themselves.
    fit_intercept : bool, default=True
        Whether arrays get an intercept; formulas say it themselves.
    weights : {"frequency", "precision"}, default="frequency"
        What a `sample_weight` w means: a row that occurs w times, as elsewhere in
        scikit-learn, or one whose residual variance is :math:`\sigma^2 / w`, as in
        lme4.
    acceleration : str, Acceleration or None, default="auto"
        ``"anderson"`` (the default), ``"squarem"``, an object of
        `dask_em.acceleration`, or None.
    tol : float, default=1e-8
        The fit has converged when an iteration changes no entry of the relative
        covariance factors by more.
    max_iter : int, default=1000
        Iterations (effective passes over the groups) at most.
    random_state : int, RandomState instance or None, default=None
        Seed of `simulate`; fits do not depend on it.
    schedule : str or Schedule, default="auto"
        When to run M-steps. The default is synchronous, with shards handed from slow
        to fast workers. Under others, EM on statistics of several versions goes most
        of the way, and the default the rest.
    transport, shards, hand_out, deadline, checkpoint, resume, verbose
        See `fit_em`.

    Attributes
    ----------
    fixed_effects_ : DataFrame
        Estimates, standard errors, z, p values and 95 % confidence intervals.
    fixed_names_ : list of str
    coef_ : array of shape (n_features,)
    intercept_ : float
        0 without one.
    fixed_covariance_ : array of shape (p, p)
        Covariance of all fixed effects, the intercept first.
    covariance_ : dict of array of shape (q, q)
        Covariance of the random effects of each factor, by its name.
    effects_ : dict of list of str
        Names of the random effects of each factor.
    sigma2_ : float
        Residual variance.
    random_effects_ : RandomEffects
        By factor: labels, modes (BLUPs), conditional covariances, ``to_frame()``;
        computed when they are looked at.
    log_likelihood_ : float
        Of y, or restricted.
    deviance_ : float
        -2 times that; with REML, lme4's REML criterion.
    aic_, bic_ : float
    n_parameters_ : int
        Of fixed effects, (co)variances and residual variance.
    n_obs_ : float
        Number of observations, by their weights.
    n_groups_ : dict of int
    method_ : str
        `method` of the fit.
    converged_, n_iter_, lower_bound_, lower_bounds_, result_
        See `GaussianMixture`. ``result_.settings["grouping"]`` says how the rows of
        groups were brought together.
    n_features_in_, feature_names_in_
        Of arrays.

    Notes
    -----
    Crossed factors are exact: the factor with the most random effects is eliminated
    group by group, and the others' effects have a joint posterior with the fixed
    ones. With c of those other effects an iteration takes of the order of c^3
    operations and c^2 memory on top of the groups', so the second largest factor may
    have some ten thousand levels.

    Standard errors and z tests are asymptotic, for known variances.

    References
    ----------
    Laird, N. M., Ware, J. H. (1982). Random-effects models for longitudinal data.
    Biometrics 38, 963-974.

    Liu, C., Rubin, D. B. (1994). The ECME algorithm. Biometrika 81, 633-648.

    Liu, C., Rubin, D. B., Wu, Y. N. (1998). Parameter expansion to accelerate EM: the
    PX-EM algorithm. Biometrika 85, 755-770.

    Srivastava, S., DePalma, G., Liu, C. (2019). An asynchronous distributed
    expectation maximization algorithm for massive data: the DEM algorithm. Journal of
    Computational and Graphical Statistics 28, 233-243.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import LinearMixedModel
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(50), 20)
    >>> X = rng.normal(size=(1000, 1))
    >>> y = 1 + 2 * X[:, 0] + rng.normal(size=50)[groups] + rng.normal(size=1000)
    >>> model = LinearMixedModel().fit(X, y, groups=groups)
    >>> model.coef_.round(1)
    array([2.])
    >>> model.n_groups_
    {'group': 50}
    >>> model.predict(X[:2], groups=groups[:2]).shape
    (2,)
    """

    def __init__(
        self,
        formula: str | None = None,
        *,
        method: str = "reml",
        algorithm: str = "px_ecme",
        covariance: str = "unstructured",
        fit_intercept: bool = True,
        weights: str = "frequency",
        acceleration: Any = "auto",
        tol: float = 1e-8,
        max_iter: int = 1000,
        random_state: Any = None,
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
        self.formula = formula
        self.method = method
        self.algorithm = algorithm
        self.covariance = covariance
        self.fit_intercept = fit_intercept
        self.weights = weights
        self.acceleration = acceleration
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.schedule = schedule
        self.transport = transport
        self.shards = shards
        self.hand_out = hand_out
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume

    _advice = (
        "The fit did not converge. Increase max_iter, or look at the model: effects "
        "that the data hardly determine make every algorithm slow."
    )

    # ----------------------------------------------------------------------- fit

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        Z: Any = None,
    ) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            With a formula, a DataFrame of pandas or Dask (parquet or CSV on disk,
            larger than memory) or an `xarray.Dataset`. Without one, an array of NumPy
            or Dask, a DataFrame or a `xarray.DataArray` of the fixed effects.
        y : array of shape (n_samples,)
            Without a formula.
        sample_weight : array of shape (n_samples,) or str, default=None
            Weights, see `weights`; with a formula, may be the name of a column.
        groups : array of shape (n_samples,), DataFrame or dict of them, default=None
            Labels of the groups, by the name of their factor where there are several.
            Rows of a group may lie anywhere. None is a linear model without random
            effects.
        Z : array of shape (n_samples, q) or dict of them, default=None
            Columns of random effects, by the name of the factor where there are
            several; by default an intercept for each group.

        Returns
        -------
        self : LinearMixedModel
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
        """
        self._check()
        given = self._read(X, y, sample_weight, groups, Z)
        front = given.front
        if not front.factors:
            return self._fit_fixed(given)
        if given.rows is not None:
            rows = _counted(given.rows)
            gathered = gather_memory(rows, front.names, front.factors)
        else:
            _check_client()
            make = front.chunk if hasattr(front, "chunk") else front.rows
            gathered = gather_dask(given.chunks, make, front.names, front.factors)
        layout = gathered.layout
        structure = Structure(
            front.factors[layout.inner],
            gathered.n_groups,
            tuple(front.factors[f] for f in layout.outer),
            tuple(len(known) for known in layout.levels),
            len(front.names),
        )
        fitted = Fitted(given, gathered, structure, self._n_obs(gathered), self.method)
        fitted.check_identified()
        for what in gathered.basis.collinear:
            warnings.warn(
                f"the columns of the random effects ({what}) are linearly dependent: "
                "their covariance is not determined by the data.",
                stacklevel=2,
            )
        starts = fitted.starts()
        model = LinearMixedModelECME(
            structure,
            self.method == "reml",
            self.algorithm,  # type: ignore[arg-type]
            self._log_offset(gathered, fitted.n_obs),
            fitted.n_obs,
            starts,
            gathered.totals,
        )
        try:
            return self._fit_model(
                model,
                fitted,  # type: ignore[arg-type]
                step_tol=self.tol,
                n_init=len(starts),
            )
        except FloatingPointError as error:
            raise ValueError(
                "the random effects explain y but for rounding, so that there is no "
                "residual variance to compare them with; check y, or leave out factors."
            ) from error

    def _check(self) -> None:
        """Raise for unusable parameters."""
        for name, allowed in (
            ("method", ("reml", "ml")),
            ("algorithm", ("px_ecme", "ecme", "em")),
            ("covariance", ("unstructured", "diagonal")),
            ("weights", ("frequency", "precision")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, allowed))}, got "
                    f"{value!r}."
                )
        named_acceleration(self.acceleration, None)

    def _read(
        self, X: Any, y: Any, sample_weight: Any, groups: Any, Z: Any
    ) -> MixedInput:
        if self.formula is None:
            return read_arrays(self, X, y, groups, Z, sample_weight)
        for name, value in (("y", y), ("groups", groups), ("Z", Z)):
            if value is not None:
                raise ValueError(
                    f"{name} is part of the formula; pass the DataFrame alone."
                )
        return read_frame(self.formula, X, sample_weight)

    def _n_obs(self, gathered: Gathered) -> float:
        totals = gathered.totals
        precision = self.weights == "precision"
        return float(totals.n_rows) if precision else totals.weight

    def _log_offset(self, gathered: Gathered, n_obs: float) -> float:
        basis, totals = gathered.basis, gathered.totals
        offset = n_obs * basis.log_jacobian
        if self.method == "reml":
            offset += basis.log_restricted
        if self.weights == "precision":
            offset += totals.log_weight / 2
        return offset

    def _fit_fixed(self, given: MixedInput) -> LinearMixedModel:
        """Fit a linear model: there is nothing to iterate."""
        if given.rows is None:
            raise ValueError(
                "a linear model without groups needs no EM; fit it with dask-ml or on "
                "a sample in memory, or give groups."
            )
        rows = _counted(given.rows)
        front = given.front
        survey = survey_rows(rows, front.names, ())
        p = rank = len(front.names)
        try:
            basis = Basis.of(survey, front.names, ())
        except ValueError as error:
            if self.formula is not None:
                raise
            basis = Basis.least_norm(survey)
            rank = int(np.count_nonzero(basis.map.any(axis=0)))
            warnings.warn(f"{error} The estimates are of least norm.", stacklevel=3)
        precision = self.weights == "precision"
        n = float(survey.n_rows) if precision else survey.weight
        reml = self.method == "reml"
        dof = max(n - reml * rank, 1.0)
        rss = (survey.fixed.triangle[p, p] / basis.scale) ** 2
        sigma2 = max(float(rss) / dof, np.finfo(float).tiny)
        value = dof * (math.log(2 * math.pi * sigma2) + 1)
        value += rank * math.log(survey.weight) if reml else 0.0
        offset = n * basis.log_jacobian + reml * basis.log_restricted
        offset += survey.log_weight / 2 if precision else 0.0
        params = MixedParams(
            np.zeros(0),
            sigma2,
            np.zeros(p),
            np.diag(basis.map.any(axis=0) / survey.weight),
        )
        log_likelihood = offset - value / 2
        result: EMResult[MixedParams] = EMResult(
            params=params,
            status="converged",
            message="least squares: there are no random effects",
            lower_bound=log_likelihood,
            log_likelihood=log_likelihood,
            weight=n,
            n_m_steps=1,
            n_e_steps=1,
            effective_passes=1.0,
            resumed_from=None,
            trace=TraceLog(1).trace(),
            settings={"model": "LinearModel"},
        )
        fitted = Fitted(given, None, None, n, self.method, basis)
        self._adopt(result, fitted, None)  # type: ignore[arg-type]
        return self

    def _attributes_of(self, params: Any, table: Table) -> Mapping[str, Any]:
        """Return the fitted attributes that a model's parameters amount to."""
        fitted: Fitted = table  # type: ignore[assignment]
        return fitted.attributes(params)

    def _adopt(
        self, result: EMResult[Any], table: Table, passes: Any
    ) -> LinearMixedModel:
        fitted: Fitted = table  # type: ignore[assignment]
        if fitted.gathered is not None:
            settings = {**result.settings, "grouping": fitted.gathered.route}
            result = dataclasses.replace(result, settings=settings)
        super()._adopt(result, table, passes)
        value = result.log_likelihood
        self.log_likelihood_ = result.lower_bound if math.isnan(value) else value
        self.deviance_ = -2 * self.log_likelihood_
        k = self.n_parameters_
        self.aic_ = self.deviance_ + 2 * k
        self.bic_ = self.deviance_ + math.log(self.n_obs_) * k

        if result.converged and is_dask(getattr(fitted.X, "arrays", (None,))[0]):
            self._fetch()
        return self

    def _fetch(self) -> None:
        """Take effects that are few off the cluster, which may be gone later on."""
        effects: RandomEffects = self.random_effects_
        if effects.size <= FETCH:
            for name in effects:
                effects[name]

    # ------------------------------------------------------------------ inference

    @property
    def fixed_effects_(self) -> Any:
        """Estimates of the fixed effects with their tests, as a DataFrame."""
        check_is_fitted(self, "fixed_covariance_")
        import pandas

        return pandas.DataFrame(self.inference(), index=list(self.fixed_names_))

    def inference(self, level: float = 0.95) -> dict[str, Array]:
        """Return estimates, standard errors, tests and confidence intervals.

        Parameters
        ----------
        level : float, default=0.95
            Of the confidence intervals.

        Returns
        -------
        dict of array of shape (p,)
            ``estimate``, ``std_error``, ``z``, ``p_value``, ``ci_lower``,
            ``ci_upper``.
        """
        check_is_fitted(self, "fixed_covariance_")
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}.")
        estimate = self._beta
        error = np.sqrt(np.diag(self.fixed_covariance_))
        with np.errstate(divide="ignore", invalid="ignore"):
            z = estimate / error
        half = stats.norm.ppf((1 + level) / 2) * error
        return {
            "estimate": estimate,
            "std_error": error,
            "z": z,
            "p_value": 2 * stats.norm.sf(np.abs(z)),
            "ci_lower": estimate - half,
            "ci_upper": estimate + half,
        }

    def summary(self) -> Summary:
        """Return the usual tables, readable as text and in a notebook."""
        check_is_fitted(self, "fixed_covariance_")
        return Summary(self)

    def likelihood_ratio_test(self, other: LinearMixedModel) -> LikelihoodRatio:
        """Compare with a nested model of the same rows.

        Parameters
        ----------
        other : LinearMixedModel
            Fitted; the larger or the smaller one.

        Returns
        -------
        LikelihoodRatio
            ``statistic``, ``df``, ``p_value``.

        Raises
        ------
        ValueError
            If the models cannot be compared: other rows, another method, or REML with
            other fixed effects.
        """
        check_is_fitted(self, "fixed_covariance_")
        check_is_fitted(other, "fixed_covariance_")
        return compare(self, other)

    # ----------------------------------------------------------------- prediction

    def predict(self, X: Any, *, groups: Any = None, Z: Any = None) -> Any:
        """Predict the response.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            With a formula, a frame with its columns; those of the groups may be
            missing.
        groups, Z
            As in `fit`. For groups that were not seen, and for factors that are left
            out, random effects are zero, which is what is expected of a new group.

        Returns
        -------
        array of shape (n_samples,)
            Lazy where X is. Rows of a frame with missing values get NaN.
        """
        check_is_fitted(self, "fixed_covariance_")
        if self.formula is not None:
            return predict_frame(self._prediction(), X)
        if not is_dask(X) and not hasattr(X, "dims"):
            checked = validate_data(
                self, X, reset=False, dtype=[np.float64, np.float32]
            )
            return predict_arrays(self._prediction(), checked, groups, Z)
        return predict_arrays(self._prediction(), X, groups, Z)

    def _prediction(self) -> Prediction:
        return Prediction(self._front, self._beta, dict(self.random_effects_))

    def residuals(
        self, X: Any, y: Any = None, *, groups: Any = None, Z: Any = None
    ) -> Any:
        """Return responses minus predictions.

        Parameters
        ----------
        X, y, groups, Z
            As in `fit`.

        Returns
        -------
        array of shape (n_samples,)
        """
        predicted = self.predict(X, groups=groups, Z=Z)
        if self.formula is not None:
            y = self._prediction().response(X)
        elif y is None:
            raise ValueError("residuals need y, the observed responses.")
        elif not is_dask(y):
            y = np.ravel(y.to_numpy() if hasattr(y, "to_numpy") else y)
            if len(y) != len(predicted):
                raise ValueError(
                    f"y has {len(y)} values for {len(predicted)} rows of X."
                )
        return y - predicted

    def score(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        Z: Any = None,
    ) -> float:
        """Return the coefficient of determination of the predictions.

        Parameters
        ----------
        X, y, groups, Z
            As in `fit`.
        sample_weight : array of shape (n_samples,), default=None
            Of rows in memory.

        Returns
        -------
        float
            1 less the share of the variance of y that is left in the residuals.
        """
        left = self.residuals(X, y, groups=groups, Z=Z)
        y = self._prediction().response(X) if self.formula is not None else y
        if is_dask(left):
            import dask

            left, y, sample_weight = dask.compute(left, y, sample_weight)  # type: ignore[attr-defined]
        left, y = np.asarray(left, dtype=float), np.asarray(y, dtype=float).ravel()
        weights = np.ones(len(y)) if sample_weight is None else sample_weight
        if isinstance(weights, str):
            weights = X[weights].compute() if is_dask(X) else X[weights]
        weights = np.asarray(weights, dtype=float)
        known = np.ones(len(y), dtype=bool)
        if self.formula is not None:  # rows with missing values have no prediction
            known = np.isfinite(left)
        return float(
            r2_score(y[known], (y - left)[known], sample_weight=weights[known])
        )

    def simulate(
        self,
        X: Any,
        *,
        groups: Any = None,
        Z: Any = None,
        n_samples: int = 1,
        random_state: Any = None,
    ) -> Array:
        """Draw new responses from the model, new random effects included.

        All rows are of weight 1.

        Parameters
        ----------
        X, groups, Z
            As in `fit`, in memory.
        n_samples : int, default=1
            Number of draws.
        random_state : int, RandomState instance or None, default=None
            The estimator's by default.

        Returns
        -------
        array of shape (n_samples, n_rows)
        """
        check_is_fitted(self, "fixed_covariance_")
        seed = self.random_state if random_state is None else random_state
        rng = check_random_state(seed)
        rows: Rows = self._prediction().rows(X, groups, Z)
        fixed = rows.fixed.dense() @ self._beta
        draws = np.tile(fixed, (n_samples, 1))
        draws += rng.standard_normal(draws.shape) * math.sqrt(self.sigma2_)
        for factor, grouped in zip(self._front.factors, rows.factors, strict=True):
            names, codes = np.unique(
                plain_labels(grouped.labels, factor.name), return_inverse=True
            )
            design = grouped.design.dense()
            cov = self.covariance_[factor.name]
            for draw in draws:
                b = rng.multivariate_normal(np.zeros(len(cov)), cov, size=len(names))
                draw += np.einsum("nq,nq->n", design, b[codes.ravel()])
        return draws


def _counted(rows: Rows) -> Rows:
    """Leave out rows of weight 0; raise for weights or values that are unusable."""
    check_weights(rows)
    rows = rows.counted()
    if not len(rows):
        raise ValueError("no row has a positive weight; check how they were selected.")
    return rows


def _check_client() -> None:
    """Raise where tasks cannot be waited for."""
    from distributed import default_client

    try:
        client = default_client()
    except ValueError:
        return
    if client.asynchronous:
        raise TypeError(
            "LinearMixedModel sums up Dask collections before the fit and cannot do so "
            "with an asynchronous client; use a Client(asynchronous=False), or data in "
            "memory."
        )
