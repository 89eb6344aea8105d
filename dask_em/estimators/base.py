"""What all estimators share: one gatekeeper for data, one way to fit, callbacks."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Lock
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from ..drivers.managed import Progress
from ..fit import fit_em
from ..labels import Labels, is_labelled, unwrap
from ..model import Model
from ..result import EMResult
from ..sharding import as_data, is_dask

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's."""

    def with_callbacks(method: Any) -> Any:
        """Return the method as it is."""
        return method


__all__ = ["EMEstimator", "Table"]


@dataclasses.dataclass(frozen=True)
class Table:
    """What an estimator was given, checked and brought into one form.

    Attributes
    ----------
    X : array or dask array of shape (n_rows, n_features)
    sample_weight : array or dask array of shape (n_rows,), or None
    n_features : int
    feature_names : array of str, or None
    labels : Labels or None
        Of labelled input.
    """

    X: Any
    sample_weight: Any
    n_features: int
    feature_names: Any
    labels: Labels | None

    @property
    def lazy(self) -> bool:
        """Whether the rows are a Dask array."""
        return is_dask(self.X)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the results: that of the rows."""
        return self.X.dtype if self.X.dtype == np.float32 else np.dtype(np.float64)

    def map(
        self,
        function: Callable[[Any], Any],
        dtype: np.dtype[Any] | type,
        n_columns: int | None = None,
    ) -> Any:
        """Apply a function of some rows to all of them.

        Parameters
        ----------
        function : callable
            From rows to a value per row, or to `n_columns` of them.
        dtype : dtype
            Of the result.
        n_columns : int, optional

        Returns
        -------
        array or dask array of shape (n_rows,) or (n_rows, n_columns)
            Lazy where the rows are, and with the same chunks.
        """
        if not self.lazy:
            return _over_tiles(function, self.X, _n_threads())
        import dask

        flat = n_columns is None
        return self.X.map_blocks(
            _apply,
            # in the graph once, not in every task
            function=dask.delayed(function, pure=True, traverse=False),  # type: ignore[attr-defined]
            drop_axis=1 if flat else None,
            chunks=None if flat else (self.X.chunks[0], (n_columns,)),
            dtype=dtype,
            meta=np.empty((0,) if flat else (0, 0), dtype=dtype),
        )

    def wrap(self, values: Any, name: str) -> Any:
        """Give results per row the labels of the rows, if they have any."""
        if self.labels is None:
            return values
        if values.ndim == 1:
            return self.labels.wrap_rows(values, name=name)
        return self.labels.wrap_table(values, name=name)


def _apply(block: Any, function: Callable[[Any], Any]) -> Any:
    rows = np.asarray(block)
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64)
    assert_all_finite(rows, input_name="X")
    return _over_tiles(function, rows, n_threads=1)


def _over_tiles(function: Callable[[Any], Any], X: Any, n_threads: int) -> Any:
    """Apply a function to some rows at a time.

    So what it needs in between is small; and threads work on tiles of their own, as
    BLAS's threads on ever so small products would mostly wait for each other.
    """
    if len(X) <= _TILE // 8:
        return function(X)
    tiles = [X[i : i + _TILE] for i in range(0, len(X), _TILE)]
    with _ONE_BLAS_THREAD:
        if n_threads == 1:
            return np.concatenate([function(tile) for tile in tiles])
        with ThreadPoolExecutor(n_threads) as pool:
            return np.concatenate(list(pool.map(function, tiles)))


_TILE = 16_384


def _n_threads() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


class _OneBlasThread:
    """Keeps BLAS from starting threads while anybody is inside.

    The limit holds for the process, so the first one in sets it and the last one out
    lifts it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limits = threadpool_limits(1, "blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limits.restore_original_limits()


_ONE_BLAS_THREAD = _OneBlasThread()


class EMEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of the estimators: everything but the model.

    A subclass turns its parameters into a `Model`, passes it to `_fit_model`, and says
    in `_attributes_of` which fitted attributes a model's parameters amount to.
    """

    def _attributes_of(self, params: Any, table: Table) -> Mapping[str, Any]:
        """Return the fitted attributes that come from a model's parameters."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the data

    def _table(
        self,
        X: Any,
        sample_weight: Any = None,
        *,
        dim: Any = None,
        reset: bool = False,
        min_samples: int = 1,
    ) -> Table:
        """Check data of any kind; nothing lazy is computed, nothing is kept.

        Parameters
        ----------
        X : array-like, DataFrame, dask array or DataFrame, or xarray.DataArray
        sample_weight : the same with one value per row, optional
        dim : str or sequence of str, optional
            Sample dimensions of a labelled `X`.
        reset : bool, default=False
            Whether these are data to fit to, else they must match those of the fit.
        min_samples : int, default=1

        Returns
        -------
        Table
        """
        if not reset:
            check_is_fitted(self)
        # scikit-learn would write what it finds to the estimator before the fit has
        # succeeded: let it write to a copy
        probe = copy.copy(self) if reset else self
        if dim is not None and not is_labelled(X):
            raise ValueError(
                "dim= names the sample dimensions of an xarray.DataArray; leave it out "
                f"for a {type(X).__name__}."
            )
        labels = None
        if is_labelled(X):
            features = None if reset else getattr(self, "_features", None)
            array, labels = unwrap(X, dim, features=features)
            header = _header(labels, array)
        elif _is_dask_frame(X):
            # lengths are needed by a fit alone
            array, header = _array_of_frame(X, lengths=reset), X._meta
        else:
            array = header = X
        if is_dask(array):
            _check_lazy(array, min_samples)
            validate_data(probe, header, reset=reset, skip_check_array=True)
        else:
            checks: dict[str, Any] = {
                "dtype": [np.float64, np.float32],
                "ensure_min_samples": min_samples,
            }
            if labels is None:
                array = validate_data(probe, array, reset=reset, **checks)
            else:
                validate_data(probe, header, reset=reset, skip_check_array=True)
                array = check_array(array, estimator=self, **checks)
        return Table(
            X=array,
            sample_weight=_weights(sample_weight, labels),
            n_features=int(array.shape[1]),
            feature_names=getattr(probe, "feature_names_in_", None),
            labels=labels,
        )

    # ------------------------------------------------------------------- the fit

    def _fit_model(
        self, model: Model[Any, Any], table: Table, **settings: Any
    ) -> Self | Awaitable[Self]:
        """Fit a model; take over the outcome once there is one.

        Parameters
        ----------
        model : Model
        table : Table
        **settings
            For `fit_em`, in place of the parameters of the estimator.

        Returns
        -------
        self, or an awaitable of it where the current Dask client is asynchronous
        """
        names = (
            *("schedule", "transport", "shards", "hand_out", "tol", "max_iter"),
            *("deadline", "checkpoint", "resume", "random_state", "n_init"),
            *("verbose", "verbose_interval"),
        )
        settings = {n: getattr(self, n) for n in names if hasattr(self, n)} | settings
        with ExitStack() as stack:
            stack.callback(_tear_down, self)
            passes = _Passes.of(self, table, settings)
            outcome = fit_em(
                model,
                table.X,
                sample_weight=table.sample_weight,
                callback=passes,
                **settings,
            )
            if inspect.isawaitable(outcome):
                return self._adopt_later(outcome, table, passes, stack.pop_all())
            return self._adopt(outcome, table, passes)

    async def _adopt_later(
        self,
        outcome: Awaitable[EMResult[Any]],
        table: Table,
        passes: _Passes | None,
        stack: ExitStack,
    ) -> Self:
        with stack:
            return self._adopt(await outcome, table, passes)

    def _adopt(
        self, result: EMResult[Any], table: Table, passes: _Passes | None
    ) -> Self:
        """Replace the outcome of an earlier fit, all of it at once."""
        likelihood = result.log_likelihood
        if math.isnan(likelihood):
            likelihood = result.lower_bound
        attributes = {
            "result_": result,
            "converged_": result.converged,
            "n_iter_": math.ceil(result.effective_passes - 1e-9),
            "lower_bound_": likelihood / result.weight,
            "lower_bounds_": (result.trace.lower_bound_before / result.weight).tolist(),
            **self._attributes_of(result.params, table),
        }
        if passes is not None:
            passes.end(attributes)
        _warn(result, attributes["n_iter_"])
        for name in ("feature_names_in_", "_features"):
            self.__dict__.pop(name, None)
        self.__dict__.update(attributes)
        return self

    def _columns_of(self, table: Table) -> dict[str, Any]:
        """Return the attributes that describe the columns."""
        columns: dict[str, Any] = {"n_features_in_": table.n_features}
        if table.feature_names is not None:
            columns["feature_names_in_"] = table.feature_names
        if table.labels is not None:
            columns["_features"] = table.labels.features
        return columns

    # ---------------------------------------------------------------- likelihood

    def _with_likelihood(
        self,
        table: Table,
        log_density: Callable[[Any], Any],
        then: Callable[[float, float], float],
    ) -> float | Awaitable[float]:
        """Return what follows from the log-likelihood and the sum of the weights."""
        weight = table.sample_weight
        if weight is not None:
            data = as_data(table.X, None, weight)
            weight = data.arrays[2] if table.lazy else data.block.sample_weight  # type: ignore[attr-defined]
        scores = table.map(log_density, table.dtype).astype(np.float64)
        if weight is None:
            ones = np.ones_like
            weight = scores.map_blocks(ones) if table.lazy else ones(scores)
        totals = (scores * weight).sum(), weight.sum(dtype=np.float64)
        if not table.lazy:
            return then(*map(float, totals))
        client = _asynchronous_client()
        if client is None:
            import dask

            return then(*map(float, dask.compute(*totals)))  # type: ignore[attr-defined]

        async def later() -> float:
            return then(*map(float, await client.gather(client.compute(list(totals)))))

        return later()


def _asynchronous_client() -> Any:
    """Return the current Dask client if it is one to be awaited."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        client = get_client()
    except ValueError:
        return None
    return client if client.asynchronous else None


def _warn(result: EMResult[Any], n_iter: int) -> None:
    """Warn of a fit that ended before it had converged, unless on request."""
    if result.status == "max_iter" and n_iter > 0:
        warnings.warn(
            "Best performing initialization did not converge. Try different init "
            "parameters, or increase max_iter, tol, or check for degenerate data.",
            ConvergenceWarning,
            stacklevel=5,
        )
    elif result.status == "deadline":
        warnings.warn(
            f"The fit did not converge in time: {result.message}. Its result is the "
            "best so far; give it a longer deadline, or go on with warm_start=True.",
            ConvergenceWarning,
            stacklevel=5,
        )


# ------------------------------------------------------------------------ the data


def _is_dask_frame(X: Any) -> bool:
    return is_dask(X) and hasattr(X, "to_dask_array") and hasattr(X, "columns")


def _array_of_frame(X: Any, *, lengths: bool) -> Any:
    strange = [name for name, dtype in X.dtypes.items() if dtype.kind not in "fiub"]
    if strange:
        raise TypeError(
            f"X must be numeric, but the columns {strange} are not; encode or drop "
            "them."
        )
    array = X.to_dask_array(lengths=lengths or None)
    return array if array.dtype.kind in "fiub" else array.astype(np.float64)


def _header(labels: Labels, array: Any) -> Any:
    """Return something with the columns of a labelled array and no rows."""
    names = labels.features.names
    if names is None:
        return np.empty((0, array.shape[1]))
    import pandas  # which xarray depends on

    return pandas.DataFrame(columns=names)


def _check_lazy(X: Any, min_samples: int) -> None:
    """Raise for a Dask array that cannot be a table of numbers."""
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: X must have the shape "
            "(n_samples, n_features). Reshape your data with X.reshape(-1, 1) if it "
            "has a single feature or X.reshape(1, -1) if it is a single sample."
        )
    if X.dtype.kind not in "fiub":
        raise TypeError(
            f"X must be numeric, got dtype {X.dtype}; encode or drop the columns that "
            "are not numbers."
        )
    if len(X.chunks[1]) > 1:
        raise ValueError(
            f"X is chunked along the features, {X.chunks[1]}; put all features of a "
            "row into one chunk with X.rechunk({1: -1})."
        )
    if X.shape[0] < min_samples:
        raise ValueError(
            f"Found array with {X.shape[0]} sample(s) (shape={X.shape}) while a "
            f"minimum of {min_samples} is required; check how the data were selected."
        )


def _weights(weights: Any, labels: Labels | None) -> Any:
    if weights is None:
        return None
    if hasattr(weights, "to_dask_array"):
        weights = weights.to_dask_array(lengths=True)
    if labels is not None:
        return labels.flatten(weights)
    if is_labelled(weights):
        weights = weights.data
    return weights if is_dask(weights) else np.asarray(weights)


# ----------------------------------------------------------------------- callbacks


class _Passes:
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
    ) -> _Passes | None:
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
                **self._estimator._attributes_of(params, self._table)
            },
        )

    def end(self, attributes: dict[str, Any]) -> None:
        """Report the end of the fit."""
        self._context.call_on_fit_task_end(
            **self._data, reconstruction_attributes=attributes
        )


@with_callbacks
def _tear_down(estimator: EMEstimator) -> None:
    """Let callbacks go: the wrapper does so after this function has done nothing.

    `fit` itself is not wrapped: where it returns an awaitable, it is not over yet.
    """
