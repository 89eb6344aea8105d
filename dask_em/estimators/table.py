"""The gatekeeper: whatever a user calls data becomes a table of rows, or an error."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from ..kernels.threads import n_threads
from ..labels import Labels, is_labelled, unwrap
from ..sharding import array_of_frame, as_data, is_dask
from .clients import asynchronous_client
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
    y : array or dask array of shape (n_rows, ...), or None
        Responses, with the chunks of X.
    attributes : mapping
        Further fitted attributes that come from the data themselves.
    allow_nan : bool
        Whether NaN stands for a missing value.
    """

    X: Any
    sample_weight: Any
    n_features: int
    feature_names: Any
    labels: Labels | None
    y: Any = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allow_nan: bool = False

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
        allow_nan: bool = False,
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
        allow_nan : bool, default=False
            Whether NaN stands for a missing value, instead of being refused.
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
            "ensure_all_finite": "allow-nan" if allow_nan else True,
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
            allow_nan=allow_nan,
        )

    def with_responses(self, y: Any) -> Table:
        """Return the table with responses beside its rows.

        Parameters
        ----------
        y : array-like of shape (n_rows, ...)
            Of any kind that X may be; a labelled one is brought into the order of the
            rows.

        Raises
        ------
        ValueError
            If it has another length, or is missing.
        """
        if y is None:
            raise ValueError(
                "This estimator requires y to be passed, but the target y is None; "
                "call fit(X, y)."
            )
        unknown = self.lazy and bool(np.isnan(self.X.shape[0]))
        if hasattr(y, "to_dask_array"):
            y = y.to_dask_array() if unknown else array_of_frame(y)
        elif self.labels is not None:
            y = self._flattened(y)
        elif is_labelled(y):
            y = y.data
        elif not is_dask(y):
            y = np.asarray(y)
        if y.ndim not in (1, 2):
            raise ValueError(
                f"y must have the shape (n_samples,) or (n_samples, n_targets), got "
                f"{y.ndim} dimensions."
            )
        if is_dask(y) and not self.lazy:
            raise ValueError(
                "y is a Dask array but X is in memory; compute y, or turn X into a "
                "Dask array with dask.array.from_array(X, chunks=...)."
            )
        if unknown != (is_dask(y) and bool(np.isnan(y.shape[0]))):
            name = "X" if unknown else "y"
            raise ValueError(
                f"{name} has chunks of unknown size; call {name}.compute_chunk_sizes() "
                "first (or, for a DataFrame, to_dask_array(lengths=True))."
            )
        if unknown:
            if y.numblocks[0] != self.X.numblocks[0]:
                raise ValueError(
                    f"X has {self.X.numblocks[0]} partitions and y "
                    f"{y.numblocks[0]}; give them the same."
                )
            return dataclasses.replace(self, y=y)
        n, wanted = y.shape[0], self.X.shape[0]
        if n != wanted:
            raise ValueError(
                "Found input variables with inconsistent numbers of samples: X has "
                f"{wanted} rows, y {n}; check how they were selected."
            )
        if self.lazy:
            from dask.array import from_array

            chunks = (self.X.chunks[0], *((c,) for c in y.shape[1:]))
            y = y.rechunk(chunks) if is_dask(y) else from_array(y, chunks=chunks)
        return dataclasses.replace(self, y=y)

    def _flattened(self, y: Any) -> Any:
        """Bring labelled responses into the order of the rows."""
        assert self.labels is not None
        known = self.labels.dims
        extra = [d for d in getattr(y, "dims", ()) if d not in known]
        if is_labelled(y) and len(extra) == 1:
            columns = [
                self.labels.flatten(y.isel({extra[0]: i}), name="y")
                for i in range(y.sizes[extra[0]])
            ]
            if self.lazy:
                from dask.array import stack

                return stack(columns, axis=1).rechunk({1: -1})
            return np.stack(columns, axis=1)
        if not is_labelled(y) and np.shape(y) == (self.labels.n_rows,):
            return y if is_dask(y) else np.asarray(y)
        return self.labels.flatten(y, name="y")

    def replacing(self, y: Any) -> Table:
        """Return the table with other responses, of the same rows in the same order."""
        return dataclasses.replace(self, y=y)

    def without_responses(self) -> Table:
        """Return the table as it was without responses."""
        return dataclasses.replace(self, y=None)

    def with_attributes(self, **attributes: Any) -> Table:
        """Return the table with fitted attributes that come from it."""
        return dataclasses.replace(self, attributes={**self.attributes, **attributes})

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
        return {**columns, **self.attributes}

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
            From rows, and their responses where the table has any, to a value per
            row, or to `n_columns` of them.
        dtype : dtype
            Of the result.
        n_columns : int, optional

        Returns
        -------
        array or dask array of shape (n_rows,) or (n_rows, n_columns)
            Lazy where the rows are, and with the same chunks.
        """
        arrays = (self.X,) if self.y is None else (self.X, self.y)
        if not self.lazy:
            values = over_tiles(function, *arrays, n_threads=n_threads())
            return np.asarray(values).astype(dtype, copy=False)
        import dask
        from dask.array import map_blocks

        flat = n_columns is None
        if len(arrays) == 2 and arrays[1].ndim == 1:  # chunks are paired by position
            arrays = arrays[0], arrays[1][:, None]
        return map_blocks(
            _apply,
            *arrays,
            cast=np.dtype(dtype),
            allow_nan=self.allow_nan,
            # in the graph once, not in every task
            function=dask.delayed(function, pure=True, traverse=False),  # type: ignore[attr-defined]
            drop_axis=1 if flat else None,
            chunks=None if flat else (self.X.chunks[0], (n_columns,)),
            dtype=dtype,
            meta=np.empty((0,) if flat else (0, 0), dtype=dtype),
        )

    def reduce(self, function: Callable[[Any, Any, Any], Any]) -> Any:
        """Add up a function of rows, responses and weights over all of them.

        Parameters
        ----------
        function : callable
            From arrays of rows, responses and weights to an array of fixed shape.

        Returns
        -------
        array
            Lazy data are computed.
        """
        weights = self.sample_weight
        if weights is not None:  # checked as a fit would
            checked: Any = as_data(self.X, None, weights)
            weights = checked.arrays[2] if self.lazy else checked.block.sample_weight
        if not self.lazy:
            w = np.ones(len(self.X)) if weights is None else weights.astype(float)
            return function(self.X, self.y, w)
        if asynchronous_client() is not None:
            raise TypeError(
                "this computes lazy data at once, which an asynchronous client cannot "
                "wait for; use a Client(asynchronous=False), or data in memory."
            )
        import dask

        columns = [self.X, self.y, weights]
        parts = [
            [None] * len(self.X.chunks[0])
            if column is None
            else column.to_delayed().ravel().tolist()
            for column in columns
        ]
        one = dask.delayed(_reduced, pure=False)  # type: ignore[attr-defined]
        send = dask.delayed(function, pure=True, traverse=False)  # type: ignore[attr-defined]
        found = [one(send, *row) for row in zip(*parts, strict=True)]
        while len(found) > 1:
            found = [
                dask.delayed(np.add)(*found[i : i + 2])  # type: ignore[attr-defined]
                if i + 1 < len(found)
                else found[i]
                for i in range(0, len(found), 2)
            ]
        return dask.compute(found[0])[0]  # type: ignore[attr-defined]

    def wrap(self, values: Any, name: str, dim: str = "component") -> Any:
        """Give results per row the labels of the rows, if they have any.

        Parameters
        ----------
        values : array or dask array of shape (n_rows,) or (n_rows, n)
        name : str
            Of the result.
        dim : str, default="component"
            Of its columns.
        """
        if self.labels is None:
            return values
        if values.ndim == 1:
            return self.labels.wrap_rows(values, name=name)
        return self.labels.wrap_table(values, dim=dim, name=name)


def _apply(
    block: Any,
    *others: Any,
    function: Callable[..., Any],
    cast: np.dtype[Any],
    allow_nan: bool,
) -> Any:
    """Apply a function to the rows of a chunk, in a Dask task."""
    rows = np.asarray(block)
    responses = [np.asarray(y) for y in others]
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64)
    assert_all_finite(rows, allow_nan=allow_nan, input_name="X")
    if any(len(y) != len(rows) for y in responses):
        raise ValueError(
            f"a chunk of X has {len(rows)} rows, that of y {len(responses[0])}; give "
            "both the same chunks."
        )
    values = over_tiles(function, rows, *responses, n_threads=1)
    return np.asarray(values).astype(cast, copy=False)


def _reduced(function: Callable[[Any, Any, Any], Any], X: Any, y: Any, w: Any) -> Any:
    """Apply a function to a chunk, in a Dask task."""
    weights = np.ones(len(X)) if w is None else np.asarray(w, dtype=float)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("sample_weight must be finite and not negative.")
    rows, responses = np.asarray(X), None if y is None else np.asarray(y)
    if responses is not None and len(responses) != len(rows):
        raise ValueError(
            f"a chunk of X has {len(rows)} rows, that of y {len(responses)}; give both "
            "the same chunks."
        )
    return function(rows, responses, weights)


def _is_dask_frame(X: Any) -> bool:
    return is_dask(X) and hasattr(X, "to_dask_array") and hasattr(X, "columns")


def _array_of_frame(X: Any, *, lengths: bool) -> Any:
    strange = [name for name, dtype in X.dtypes.items() if dtype.kind not in "fiub"]
    if strange:
        raise TypeError(
            f"X must be numeric, but the columns {strange} are not; encode or drop "
            "them."
        )
    nullable = [
        name for name, dtype in X.dtypes.items() if not isinstance(dtype, np.dtype)
    ]
    if nullable:  # of which NA is no number
        X = X.astype(dict.fromkeys(nullable, np.float64))
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
