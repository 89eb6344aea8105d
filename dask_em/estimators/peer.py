"""What estimators share whose M-step is distributed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from ..drivers.peer import Stage, fit_peers
from ..peers.source import Source
from ..result import EMResult

__all__ = ["PeerEstimator"]

#: Parameters of an estimator that are those of `fit_peers`.
_COMMON = (
    "topology",
    "transport",
    "shards",
    "deadline",
    "checkpoint",
    "resume",
    "gather",
    "verbose",
)


class PeerEstimator(BaseEstimator):
    """Base of estimators that fit models of sparse statistics."""

    def _fit_stages(
        self,
        stages: Sequence[Stage],
        source: Source,
        attributes: Callable[[EMResult[Any]], Mapping[str, Any]],
        **more: Any,
    ) -> Self | Awaitable[Self]:
        """Fit models one after the other; take over the outcome once there is one.

        Parameters
        ----------
        stages : sequence of Stage
        source : Source
        attributes : callable
            Returns fitted attributes beyond those that all have.
        **more
            For `fit_peers`; what it has in common with the estimator is the
            estimator's.
        """
        own = self.get_params(deep=False)
        settings = {name: own[name] for name in _COMMON if name in own}
        outcome = fit_peers(stages, source, **settings | more)
        if inspect.isawaitable(outcome):

            async def later() -> Self:
                result = await outcome
                return self._adopt(result, attributes(result))

            return later()
        return self._adopt(outcome, attributes(outcome))

    def _adopt(self, result: EMResult[Any], attributes: Mapping[str, Any]) -> Self:
        """Replace the outcome of an earlier fit, all of it at once."""
        waited = self.get_params(deep=False)["tol"] > 0
        if result.status == "deadline" or (result.status == "max_iter" and waited):
            warnings.warn(
                f"The fit did not converge: {result.message}. Its result is the best "
                "so far; increase max_iter, tol or deadline.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(
            {
                "result_": result,
                "plan_": result.plan,
                "converged_": result.converged,
                "n_iter_": result.n_m_steps,
                **attributes,
            }
        )
        return self
