"""What all estimators share: one way to fit."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, Self

from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from ..fit import fit_em
from ..model import Model
from ..result import EMResult
from .callbacks import CallbackSupportMixin, Passes, tear_down
from .table import Table

__all__ = ["EMEstimator"]


class EMEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of the estimators: everything about a fit but the model.

    A subclass turns its parameters into a `Model`, passes it to `_fit_model`, and says
    in `_attributes_of` which fitted attributes a model's parameters amount to.
    """

    #: What to do about a fit that made all its passes without converging.
    _advice = (
        "Best performing initialization did not converge. Try different init "
        "parameters, or increase max_iter, tol, or check for degenerate data."
    )

    def _attributes_of(self, params: Any, table: Table) -> Mapping[str, Any]:
        """Return the fitted attributes that come from a model's parameters."""
        raise NotImplementedError

    def _fit_model(
        self, model: Model[Any, Any], table: Table, **settings: Any
    ) -> Self | Awaitable[Self]:
        """Fit a model; take over the outcome once there is one.

        Parameters
        ----------
        model : Model
        table : Table
        **settings
            For `fit_em`. The others that it has in common with the estimator are the
            estimator's.

        Returns
        -------
        self, or an awaitable of it where the current Dask client is asynchronous
        """
        known = inspect.signature(fit_em).parameters
        own = {k: v for k, v in self.get_params(deep=False).items() if k in known}
        settings = own | settings
        with ExitStack() as stack:
            stack.callback(tear_down, self)
            passes = Passes.of(self, table, settings)
            outcome = fit_em(
                model,
                table.X,
                y=table.y,
                sample_weight=table.sample_weight,
                callback=passes,
                **settings,
            )

            def again(result: EMResult[Any]) -> Any:
                changed = self._refitted(model, result)
                if changed is None:
                    return None
                other, start = changed
                return fit_em(
                    other,
                    table.X,
                    y=table.y,
                    sample_weight=table.sample_weight,
                    callback=passes,
                    **settings
                    | {"start": start, "n_init": 1, "strategy": "em", "resume": None},
                )

            if inspect.isawaitable(outcome):
                return self._adopt_later(outcome, again, table, passes, stack.pop_all())
            return self._adopt(again(outcome) or outcome, table, passes)

    def _refitted(
        self, model: Model[Any, Any], result: EMResult[Any]
    ) -> tuple[Model[Any, Any], Any] | None:
        """Return another model that the fit is to go on with, and from where."""
        return None

    async def _adopt_later(
        self,
        outcome: Awaitable[EMResult[Any]],
        again: Callable[[EMResult[Any]], Any],
        table: Table,
        passes: Passes | None,
        stack: ExitStack,
    ) -> Self:
        with stack:
            result = await outcome
            further = again(result)
            if further is not None:
                result = await further
            return self._adopt(result, table, passes)

    def _adopt(
        self, result: EMResult[Any], table: Table, passes: Passes | None
    ) -> Self:
        """Replace the outcome of an earlier fit, all of it at once."""
        if result.n_m_steps == 0 and result.status == "deadline":
            raise TimeoutError(f"Nothing was fitted: {result.message}.")
        if result.n_m_steps == 0 and result.status == "interrupted":
            raise KeyboardInterrupt
        likelihood = result.log_likelihood
        if math.isnan(likelihood):
            likelihood = result.lower_bound
        attributes = {
            "result_": result,
            "converged_": result.converged,
            "n_iter_": math.ceil(result.effective_passes - 1e-9),
            "lower_bound_": likelihood / result.weight,
            "lower_bounds_": (result.trace.lower_bound_before / result.weight).tolist(),
            **table.columns,
            **self._attributes_of(result.params, table),
        }
        if passes is not None:
            passes.end(attributes)
        _warn(result, attributes["n_iter_"], self._advice)
        for name in ("feature_names_in_", "_features", "reduction_"):
            self.__dict__.pop(name, None)
        self.__dict__.update(attributes)
        return self


def _warn(result: EMResult[Any], n_iter: int, advice: str) -> None:
    """Warn of a fit that ended before it had converged, unless on request."""
    polished = result.settings.get("n_polish") is not None  # as long as was asked for
    if result.status == "max_iter" and n_iter > 0 and not polished:
        warnings.warn(advice, ConvergenceWarning, stacklevel=5)
    elif result.status == "deadline":
        warnings.warn(
            f"The fit did not converge in time: {result.message}. Its result is the "
            "best so far; give it a longer deadline, or go on with warm_start=True.",
            ConvergenceWarning,
            stacklevel=5,
        )
