"""What regressors and classifiers that are mixtures of experts share."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..fit import check_strategy
from ..model import Model
from ..models.experts.density import ExpertsDensity
from ..models.experts.families import Family
from ..models.experts.model import MixtureOfExpertsModel
from ..models.experts.params import Design, ExpertsParams
from ..reduction.base import Reduction
from ..result import EMResult
from ..schedules.base import check_integer
from ..transports import named_transport
from .base import EMEstimator
from .experts_inference import StandardErrors, standard_errors
from .experts_selection import Selection, selected
from .sums import formula_of_sums
from .table import Table

__all__ = ["MixtureOfExperts"]

Array = NDArray[Any]

#: Ridge on a gate that separates components, in standard units.
SEPARATION_RIDGE = 1e-3
#: Slope, in standard units, that such a gate is brought down to before another fit.
STEEP = 5.0
#: Local fits from which, and rows per parameter in each for which, "auto" means to
#: begin with them.
MANY = 8
ROWS_PER_PARAMETER = 20


class MixtureOfExperts(EMEstimator):
    """Base of the mixtures of experts: everything but the kind of response."""

    # parameters of the subclasses, for the type checker
    n_components: int
    gate: str
    gate_features: Any
    expert_features: Any
    tol: float
    max_iter: int
    n_init: int
    init: str
    reg_gate: float
    warm_start: bool
    random_state: Any
    strategy: str
    n_polish: int | None
    reduction_gate: str
    n_support: int
    robust: bool
    shards: Any
    transport: Any

    def _family(self, n_predictors: int) -> Family:
        """Return the family of the experts."""
        raise NotImplementedError

    def _check_settings(self) -> None:
        """Raise `ValueError` or `TypeError` for unusable parameters."""
        check_integer("n_components", self.n_components, 1)
        check_integer("max_iter", self.max_iter, 1)
        check_integer("n_init", self.n_init, 1)
        check_integer("n_support", self.n_support, 1)
        for name, options in {
            "gate": ("softmax", "constant", "equal"),
            "init": ("hyperplanes", "kmeans"),
            "reduction_gate": ("matched", "transport"),
            "strategy": ("auto", "em", "one_shot", "one_shot+polish"),
        }.items():
            if getattr(self, name) not in options:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, options))}, got "
                    f"{getattr(self, name)!r}."
                )
        for name in ("tol", "reg_gate"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
                raise ValueError(f"{name} must not be negative, got {value!r}.")
        named_transport(self.transport)

    def _fit_experts(self, table: Table, family: Family) -> Any:
        """Fit to rows and responses that have been checked."""
        design = self._design(table)
        model = MixtureOfExpertsModel(
            self.n_components,
            family,
            design,
            equal_weights=self.gate == "equal",
            reg_gate=float(self.reg_gate),
            var_floor=float(getattr(self, "var_floor", 1e-8)),
            init=self.init,
        )
        found = self._found(model, table)
        strategy, n_fits, free = self._strategy(table, model)
        if strategy != "em" and table.X.shape[0] < n_fits * free:
            warnings.warn(
                f"{n_fits} local fits have fewer rows each than the mixture has "
                f"parameters, {free}; use fewer shards, or strategy='em'.",
                UserWarning,
                stacklevel=3,
            )
        check_strategy(model, strategy, self.n_polish)
        reduction = Reduction(
            gate=self.reduction_gate,  # type: ignore[arg-type]
            n_support=self.n_support,
            robust=self.robust,
            brief=strategy == "one_shot+polish",
        )
        model = dataclasses.replace(model, reduction=reduction)
        settings: dict[str, Any] = {"start": found, "strategy": strategy}
        if found is not None:
            settings["n_init"] = 1
        return self._fit_model(model, table, **settings)

    def _found(
        self, model: MixtureOfExpertsModel, table: Table
    ) -> ExpertsParams | None:
        """Return the outcome of an earlier fit, for a warm start."""
        if not self.warm_start or not hasattr(self, "_density_"):
            return None
        found = self._density_
        same = (
            found.n_components == model.n_components
            and found.design == model.design
            and found.family == model.family
        )
        if not same:
            raise ValueError(
                "warm_start=True goes on from an earlier fit, but that was of other "
                "components, columns, experts or responses; set warm_start=False to "
                "begin anew."
            )
        return found.params

    def _strategy(
        self, table: Table, model: MixtureOfExpertsModel
    ) -> tuple[str, int, int]:
        """Return what "auto" stands for: local fits first, where there are many.

        Also, how many local fits there would be, and how many parameters each has.
        """
        n = table.X.shape[0]
        if self.shards == "auto":
            n_fits = named_transport(self.transport).n_workers_expected()
        else:
            n_fits = int(self.shards) if isinstance(self.shards, Integral) else 1
        responses = 1 if table.y.ndim == 1 else table.y.shape[1]
        q = model.family.n_predictors(responses)
        p = len(model.design.experts) + 1
        free = model.n_components * (
            model.family.n_parameters(q, p) + len(model.design.gate) + 1
        )
        many = n_fits >= MANY and n >= n_fits * free * ROWS_PER_PARAMETER
        strategy = self.strategy
        if strategy == "auto":
            strategy = "one_shot+polish" if many else "em"
        return strategy, n_fits, free

    def _refitted(
        self, model: Model[Any, Any], result: EMResult[Any]
    ) -> tuple[Model[Any, Any], Any] | None:
        assert isinstance(model, MixtureOfExpertsModel)
        if not model.separates(result.params):
            return None
        warnings.warn(
            "The gate tells components apart without error, so that its likelihood "
            f"has no maximum; a ridge of {SEPARATION_RIDGE:g} was put on its slopes. "
            "Set reg_gate to choose one, or leave columns out with gate_features.",
            UserWarning,
            stacklevel=5,
        )
        # from a gate that still is in doubt about some rows
        gate = result.params.gate
        steep = float(np.abs(gate[:, 1:]).max())
        start = dataclasses.replace(
            result.params, gate=gate * min(1.0, STEEP / max(steep, 1e-300))
        )
        return dataclasses.replace(model, reg_gate=SEPARATION_RIDGE), start

    # ------------------------------------------------------------- what was fitted

    def _design(self, table: Table) -> Design:
        names = table.feature_names
        gate: tuple[int, ...] = ()
        if self.gate == "softmax":
            gate = columns_named(
                "gate_features", self.gate_features, table.n_features, names
            )
        experts = columns_named(
            "expert_features", self.expert_features, table.n_features, names
        )
        return Design(gate, experts)

    def _attributes_of(self, params: ExpertsParams, table: Table) -> Mapping[str, Any]:
        """Return the fitted attributes that a model's parameters amount to."""
        density = ExpertsDensity(
            self._family(params.coef.shape[1]),
            self._design(table),
            params,
            self.gate == "equal",
        )
        raw = params.raw(density.design)
        total = params.counts.sum()
        scale = params.x_scale
        return {
            "_density_": density,
            "gate_intercept_": raw.gate[:, 0],
            "gate_coef_": raw.gate[:, 1:],
            "weights_": params.counts / total if total > 0 else params.counts,
            "n_parameters_": density.n_parameters,
            "feature_mean_": params.x_mean,
            "feature_covariance_": params.x_correlation * scale * scale[:, None],
        }

    def _adopt_reduction(self, reduced: Any, like: MixtureOfExperts) -> None:
        """Become the reduction of several estimators, one of which this is like."""
        data = {
            name: getattr(like, name)
            for name in ("_flat_y", "classes_")
            if hasattr(like, name)
        }
        columns = getattr(like, "feature_names_in_", None)
        table = Table(None, None, like.n_features_in_, columns, None, None, data)
        self.__dict__.update(
            **self._attributes_of(reduced.params, table),
            **data,
            reg_gate_=like.reg_gate_,
            log_likelihood_=math.nan,
            converged_=True,
            n_iter_=len(reduced.objective) - 1,
            lower_bound_=math.nan,
            lower_bounds_=[],
            reduction_=reduced,
        )

    def _adopt(self, result: EMResult[Any], table: Table, passes: Any) -> Any:
        super()._adopt(result, table, passes)
        known = result.settings
        self.reg_gate_ = float(known.get("reg_gate", self.reg_gate))
        value = result.log_likelihood
        if math.isnan(value):
            value = result.lower_bound
        model = MixtureOfExpertsModel(
            self.n_components, self._density_.family, reg_gate=self.reg_gate_
        )
        self.log_likelihood_ = value + model.penalty(result.params)
        return self

    # ---------------------------------------------------------------- predictions

    def _over(self, X: Any, function: str, name: str, n_columns: int | None) -> Any:
        """Apply a function of the density to rows."""
        table = Table.of(self, X)
        values = table.map(getattr(self._density_, function), table.dtype, n_columns)
        return table.wrap(values, name)

    def _by_expert(self, X: Any, dim: str | None) -> Any:
        """Return what every expert predicts; along `dim`, if it is several numbers."""
        table, density = Table.of(self, X), self._density_
        k, q = density.n_components, density.n_responses
        values = table.map(density.experts, table.dtype, k * q)
        if dim is None:
            return table.wrap(values, "expert")
        if table.labels is None:
            return values.reshape((values.shape[0], k, q))
        import xarray

        parts = [
            table.wrap(values[:, c * q : (c + 1) * q], "expert", dim) for c in range(k)
        ]
        return xarray.concat(parts, dim="component").transpose(..., "component", dim)

    def _over_both(
        self, X: Any, y: Any, function: str, name: str, n_columns: int | None
    ) -> Any:
        """Apply a function of the density to rows with responses."""
        table = self._joint_table(X, y)
        values = table.map(getattr(self._density_, function), table.dtype, n_columns)
        return table.wrap(values, name)

    def _joint_table(self, X: Any, y: Any, sample_weight: Any = None) -> Table:
        table = Table.of(self, X, sample_weight)
        return self._checked_responses(table.with_responses(y))

    def _checked_responses(self, table: Table) -> Table:
        """Return a table whose responses are as the experts want them."""
        raise NotImplementedError

    def gate_proba(self, X: Any) -> Any:
        """Return the probability that the gate gives to each expert.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts.

        Returns
        -------
        array of shape (n_samples, n_components)
            Lazy or labelled where X is.
        """
        check_is_fitted(self)
        return self._over(X, "gate", "gate", self._density_.n_components)

    def responsibilities(self, X: Any, y: Any) -> Any:
        """Return the probability that each expert has produced the response.

        Unlike `gate_proba`, which knows only where a row lies, this knows what was
        observed there; labels from the one and from the other differ widely.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)

        Returns
        -------
        array of shape (n_samples, n_components)
        """
        check_is_fitted(self)
        k = self._density_.n_components
        return self._over_both(X, y, "responsibilities", "responsibility", k)

    def score_samples(self, X: Any, y: Any) -> Any:
        """Return the log density of each response, given its row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)

        Returns
        -------
        array of shape (n_samples,)
        """
        return self._over_both(X, y, "log_density", "log_density", None)

    def sample(self, X: Any, *, random_state: Any = None) -> tuple[Array, Array]:
        """Draw a response for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            In memory.
        random_state : int, RandomState instance or None, default=None
            The estimator's by default.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        component : ndarray of int of shape (n_samples,)
            The experts that they were drawn from.
        """
        table = Table.of(self, X)
        if table.lazy:
            raise TypeError("sample wants rows in memory; compute X first.")
        seed = self.random_state if random_state is None else random_state
        source = check_random_state(seed).randint(np.iinfo(np.int32).max)
        y, component = self._density_.draw(table.X, np.random.default_rng(source))
        return self._as_given(y), component

    def _as_given(self, y: Array) -> Array:
        """Return drawn responses in the form of those that were fitted to."""
        raise NotImplementedError

    # ------------------------------------------------------------------- criteria

    def _criterion(self, X: Any, y: Any, sample_weight: Any, formula: Any) -> Any:
        table = self._joint_table(X, y, sample_weight)
        density = self._density_
        values = [
            table.map(function, np.float64)
            for function in (density.log_density, density.entropy)
        ]
        return formula_of_sums(table, values, formula)

    def aic(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return Akaike's information criterion for some rows; less is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
            Or an awaitable of it, for lazy data and an asynchronous Dask client.
        """
        check_is_fitted(self)
        free = self.n_parameters_
        return self._criterion(
            X, y, sample_weight, lambda n, total, entropy: 2 * free - 2 * total
        )

    def bic(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return the Bayesian information criterion for some rows; less is better.

        Parameters
        ----------
        X, y, sample_weight
            As in `aic`.

        Returns
        -------
        float
            -2 log-likelihood + parameters times the logarithm of the sum of weights.
        """
        check_is_fitted(self)
        free = self.n_parameters_
        return self._criterion(
            X,
            y,
            sample_weight,
            lambda n, total, entropy: free * math.log(n) - 2 * total,
        )

    def icl(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return the integrated complete-data criterion for some rows; less is better.

        It is `bic` plus twice the entropy of the responsibilities, so that it prefers
        experts that can be told apart (Biernacki, Celeux and Govaert, 2000).

        Parameters
        ----------
        X, y, sample_weight
            As in `aic`.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        free = self.n_parameters_
        return self._criterion(
            X,
            y,
            sample_weight,
            lambda n, total, entropy: free * math.log(n) - 2 * total + 2 * entropy,
        )

    def standard_errors(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> StandardErrors:
        """Return standard errors of the parameters, from the observed information.

        Parameters
        ----------
        X, y, sample_weight
            The rows that the estimator was fitted to. Lazy ones are computed.

        Returns
        -------
        StandardErrors
            Fields named and shaped as the attributes: ``gate_intercept``,
            ``gate_coef``, ``intercept``, ``coef``, ``covariance``, ``dof``, and
            ``matrix``, the covariance matrix of all of them.

        Warns
        -----
        UserWarning
            If the information is singular, so that some errors are NaN.
        """
        table = self._joint_table(X, y, sample_weight)
        ridge = float(getattr(self, "reg_expert", 0.0))
        return standard_errors(self._density_, table, self.reg_gate_, ridge)

    def select_n_components(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        candidates: Sequence[int] = (1, 2, 3, 4, 5),
        criterion: str = "bic",
    ) -> Selection:
        """Fit with several numbers of experts and say which is best.

        The estimator itself is not fitted.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        candidates : sequence of int, default=(1, 2, 3, 4, 5)
        criterion : {"bic", "icl", "aic"}, default="bic"

        Returns
        -------
        Selection
            ``best`` is a fitted estimator, ``criteria`` the values of all.
        """
        return selected(self, X, y, sample_weight, candidates, criterion)


def columns_named(
    name: str, chosen: Any, n_features: int, names: Any
) -> tuple[int, ...]:
    """Return the numbers of columns that are given by number or by name.

    Raises
    ------
    ValueError
        If there is no such column.
    """
    if chosen is None:
        return tuple(range(n_features))
    mask = np.asarray(chosen)
    if mask.dtype == bool:
        if mask.shape != (n_features,):
            raise ValueError(
                f"{name} is a mask of the shape {mask.shape}, but X has {n_features} "
                "columns."
            )
        chosen = np.flatnonzero(mask)
    found = []
    known = [] if names is None else list(names)
    for column in [chosen] if isinstance(chosen, (str, Integral)) else list(chosen):
        if isinstance(column, str) and column in known:
            found.append(known.index(column))
        elif isinstance(column, Integral) and -n_features <= int(column) < n_features:
            found.append(int(column) % n_features)
        else:
            raise ValueError(
                f"{name} names the column {column!r}, which X does not have; it has "
                f"{known or f'columns 0 to {n_features - 1}'}."
            )
    if len(set(found)) < len(found):
        raise ValueError(f"{name} names a column twice: {chosen!r}.")
    return tuple(found)
