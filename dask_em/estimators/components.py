"""What estimators share whose rows are combinations of a few components."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from ..labels import is_labelled
from ..sharding import is_dask
from .base import EMEstimator

__all__ = ["ComponentsEstimator"]


class ComponentsEstimator(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, EMEstimator
):
    """Base of the estimators that write a row as a few numbers, and numbers as a row.

    A subclass has `fit` and `transform`, and says in `_rows` what its numbers stand
    for.
    """

    def fit_transform(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, dim: Any = None
    ) -> Any:
        """Fit, and return of the same rows what `transform` returns.

        Parameters
        ----------
        X, y, sample_weight, dim
            As in `fit`.

        Returns
        -------
        array of shape (n_samples, n_components)
            An awaitable of it if the current Dask client is asynchronous.
        """
        fitted = self.fit(X, y, sample_weight, dim=dim)  # type: ignore[attr-defined]
        if not inspect.isawaitable(fitted):
            return self.transform(X)  # type: ignore[attr-defined]

        async def later() -> Any:
            return (await fitted).transform(X)

        return later()

    def inverse_transform(self, X: Any) -> Any:
        """Return the rows that stand behind what `transform` returned.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            As `transform` returns; a Dask collection, too.

        Returns
        -------
        rows : array of shape (n_samples, n_features)
            In the precision of `X`. Lazy where that is; labelled like the data of the
            fit if both are labelled.

        Raises
        ------
        ValueError
            If it has another number of columns than `transform` returns.
        """
        check_is_fitted(self)
        if is_labelled(X):
            return self._labelled_rows(X)
        if hasattr(X, "to_dask_array"):
            X = X.to_dask_array()
        if not is_dask(X):
            X = check_array(X, dtype=[np.float64, np.float32])
        if X.ndim != 2:
            raise ValueError(f"Expected 2D array, got {X.ndim}D array instead.")
        return self._checked_rows(X)

    def _labelled_rows(self, X: Any) -> Any:
        features = getattr(self, "_features", None)
        if features is None or "component" not in X.dims:
            raise ValueError(
                "Labelled input needs the dimension 'component' and a fit to labelled "
                "data; pass the array itself, X.data."
            )
        from xarray import DataArray

        X = X.transpose(..., "component")
        rows = self._checked_rows(X.data)
        samples = X.isel(component=0, drop=True)
        return DataArray(
            rows.reshape((*samples.shape, *features.shape)),
            coords={**samples.coords, **features.coords},
            dims=(*samples.dims, *features.dims),
            name="mean",
        )

    def _checked_rows(self, values: Any) -> Any:
        if values.shape[-1] != self._n_features_out:
            raise ValueError(
                f"X must have the {self._n_features_out} columns that transform "
                f"returns, got {values.shape[-1]}."
            )
        dtype = np.dtype(np.float32 if values.dtype == np.float32 else np.float64)
        return self._rows(values).astype(dtype)

    def _rows(self, values: Any) -> Any:
        """Return rows from arrays, lazy ones too, whose last axis is checked."""
        raise NotImplementedError

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)  # type: ignore[attr-defined]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
