"""What estimators share whose M-step is distributed."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
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

    @abstractmethod
    def _attributes_of(self, result: EMResult[Any]) -> Mapping[str, Any]:
        """Return fitted attributes beyond those that all have."""

    def _fit_stages(
        self, stages: Sequence[Stage], source: Source, **more: Any
    ) -> Self | Awaitable[Self]:
        """Fit models one after the other; take over the outcome once there is one.

        Parameters
        ----------
        stages : sequence of Stage
        source : Source
        **more
            For `fit_peers`; what it has in common with the estimator is the
            estimator's.
        """
        own = self.get_params(deep=False)
        settings = {name: own[name] for name in _COMMON if name in own}
        outcome = fit_peers(stages, source, **settings | more)
        if inspect.isawaitable(outcome):

            async def later() -> Self:
                return self._adopt(await outcome)

            return later()
        return self._adopt(outcome)

    def _adopt(self, result: EMResult[Any]) -> Self:
        """Replace the outcome of an earlier fit, all of it at once."""
        attributes = {
            "result_": result,
            "plan_": result.plan,
            "converged_": result.converged,
            "n_iter_": result.n_m_steps,
            **self._attributes_of(result),
        }
        if result.status == "deadline":
            warnings.warn(
                f"The fit ended before its time: {result.message}. Its result is the "
                "best so far; give it a longer deadline.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self.__dict__.update(attributes)
        return self
