"""The gatekeeper: whatever a user calls data becomes a table of rows, or an error."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from ..kernels.threads import n_threads
from ..labels import Labels, is_labelled, unwrap
from ..sharding import array_of_frame, is_dask
from .tiles import over_tiles

__all__ = ["Table"]


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

    @classmethod
    def of(
        cls,
        estimator: Any,
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
        estimator : EMEstimator
            Whose data they are.
        X : array-like, DataFrame, dask array or DataFrame, or xarray.DataArray
        sample_weight : the same with one value per row, optional
        dim : str or sequence of str, optional
            Sample dimensions of a labelled `X`.
        reset : bool, default=False
            Whether these are data to fit to, else they must match those of the fit.
        min_samples : int, default=1
        """
        if not reset:
            check_is_fitted(estimator)
        if dim is not None and not is_labelled(X):
            raise ValueError(
                "dim= names the sample dimensions of an xarray.DataArray; leave it out "
                f"for a {type(X).__name__}."
            )
        labels = None
        if is_labelled(X):
            features = None if reset else getattr(estimator, "_features", None)
            array, labels = unwrap(X, dim, features=features)
            header = _header(labels, array)
        elif _is_dask_frame(X):
            # lengths are needed by a fit alone
            array, header = _array_of_frame(X, lengths=reset), X._meta
        else:
            array = header = X
        # scikit-learn would write what it finds to the estimator before the fit has
        # succeeded: let it write to a copy
        probe = copy.copy(estimator) if reset else estimator
        checks: dict[str, Any] = {
            "dtype": [np.float64, np.float32],
            "ensure_min_samples": min_samples,
        }
        if header is array and not is_dask(array):
            array = validate_data(probe, array, reset=reset, **checks)
        else:  # rows and columns each on their own
            if is_dask(array):
                _check_lazy(array, min_samples)
            else:
                array = check_array(array, estimator=estimator, **checks)
            validate_data(probe, header, reset=reset, skip_check_array=True)
        return cls(
            X=array,
            sample_weight=_weights(sample_weight, labels),
            n_features=int(array.shape[1]),
            feature_names=getattr(probe, "feature_names_in_", None),
            labels=labels,
        )

    @property
    def lazy(self) -> bool:
        """Whether the rows are a Dask array."""
        return is_dask(self.X)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the results: that of the rows."""
        return self.X.dtype if self.X.dtype == np.float32 else np.dtype(np.float64)

    @property
    def columns(self) -> dict[str, Any]:
        """Attributes of an estimator that describe the columns it was fitted to."""
        columns: dict[str, Any] = {"n_features_in_": self.n_features}
        if self.feature_names is not None:
            columns["feature_names_in_"] = self.feature_names
        if self.labels is not None:
            columns["_features"] = self.labels.features
        return columns

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
            return over_tiles(function, self.X, n_threads())
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
    """Apply a function to the rows of a chunk, in a Dask task."""
    rows = np.asarray(block)
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64)
    assert_all_finite(rows, input_name="X")
    return over_tiles(function, rows, n_threads=1)


def _is_dask_frame(X: Any) -> bool:
    return is_dask(X) and hasattr(X, "to_dask_array") and hasattr(X, "columns")


def _array_of_frame(X: Any, *, lengths: bool) -> Any:
    strange = [name for name, dtype in X.dtypes.items() if dtype.kind not in "fiub"]
    if strange:
        raise TypeError(
            f"X must be numeric, but the columns {strange} are not; encode or drop "
            "them."
        )
    array = array_of_frame(X) if lengths else X.to_dask_array()
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
        weights = array_of_frame(weights)
    if labels is not None:
        return labels.flatten(weights)
    if is_labelled(weights):
        weights = weights.data
    return weights if is_dask(weights) else np.asarray(weights)
