"""scikit-learn's callbacks, told of a fit that goes on elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..drivers.managed import Progress
from .table import Table

if TYPE_CHECKING:
    from .base import EMEstimator

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's."""

    def with_callbacks(method: Any) -> Any:
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Passes", "tear_down"]


class Passes:
    """Tells scikit-learn's callbacks of effective passes, one task each.

    A pass is what they know as an iteration. M-steps are not: under an asynchronous
    schedule there are several in a pass, and nobody knows in advance how many.
    """

    def __init__(
        self, estimator: EMEstimator, context: Any, table: Table, max_iter: int
    ) -> None:
        self._estimator = estimator
        self._context = context
        self._table = table
        self._max_iter = max_iter
        self._left = context.max_subtasks
        self._version = self._passes = 0
        self._data: dict[str, Any] = {"estimator": estimator, "X": table.X}
        if table.sample_weight is not None:
            self._data["metadata"] = {"sample_weight": table.sample_weight}
        context.call_on_fit_task_begin(**self._data)

    @classmethod
    def of(
        cls, estimator: EMEstimator, table: Table, settings: Mapping[str, Any]
    ) -> Passes | None:
        """Return what reports to the callbacks of an estimator, if it has any."""
        if not getattr(estimator, "_skl_callbacks", None):
            return None
        max_iter = settings["max_iter"]
        context = estimator._init_callback_context(
            max_subtasks=max_iter * settings.get("n_init", 1)
        )
        return cls(estimator, context, table, max_iter)

    def __call__(self, progress: Progress[Any]) -> bool:
        """Report the passes completed since the last M-step; True is to stop."""
        if progress.version <= self._version:  # the next one of n_init
            self._passes = 0
        self._version = progress.version
        done = min(math.floor(progress.effective_passes + 1e-9), self._max_iter)
        stops = [self._pass(progress.params) for _ in range(self._passes, done)]
        self._passes = max(done, self._passes)
        return any(stops)

    def _pass(self, params: Any) -> bool:
        if self._left == 0:  # a resumed fit may come back to its best start
            return False
        self._left -= 1
        context = self._context.subcontext("pass")
        context.call_on_fit_task_begin(**self._data)
        return context.call_on_fit_task_end(
            **self._data,
            reconstruction_attributes=lambda: {
                **self._table.columns,
                **self._estimator._attributes_of(params, self._table),
            },
        )

    def end(self, attributes: dict[str, Any]) -> None:
        """Report the end of the fit."""
        self._context.call_on_fit_task_end(
            **self._data, reconstruction_attributes=attributes
        )


@with_callbacks
def tear_down(estimator: EMEstimator) -> None:
    """Let callbacks go: the wrapper does so after this function has done nothing.

    `fit` itself is not wrapped: where it returns an awaitable, it is not over yet.
    """
