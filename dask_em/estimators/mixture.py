"""What a fitted mixture says of rows, whatever its components are."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from sklearn.base import DensityMixin

from .sums import formula_of_sums
from .table import Table

__all__ = ["Density", "MixtureMixin"]


class Density(Protocol):
    """A mixture's density, as NumPy functions of rows; it goes to where they are."""

    @property
    def n_components(self) -> int:
        """Number of components."""

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""

    def components(self, X: Any) -> Any:
        """Return the most probable component of each row."""

    def responsibilities(self, X: Any) -> Any:
        """Return the probabilities of the components for each row."""

    def log_density(self, X: Any) -> Any:
        """Return the log density of each row."""


class MixtureMixin(DensityMixin):
    """Predictions and scores of an `EMEstimator` that fits a mixture."""

    def _density(self) -> Density:
        """Return the density that the fitted attributes describe."""
        raise NotImplementedError

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, dim: Any = None
    ) -> Any:
        """Fit the mixture and return the most probable component of each row.

        Parameters
        ----------
        X, y, sample_weight, dim
            As in `fit`.

        Returns
        -------
        labels : array of int of shape (n_samples,)
            As `predict` returns; an awaitable of it if the current Dask client is
            asynchronous.
        """
        fitted = self.fit(X, y, sample_weight, dim=dim)  # type: ignore[attr-defined]
        if fitted is self:
            return self.predict(X)

        async def predict() -> Any:
            return (await fitted).predict(X)

        return predict()

    def predict(self, X: Any) -> Any:
        """Return the most probable component of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.

        Returns
        -------
        labels : array of int of shape (n_samples,)
            A Dask array with the chunks of `X` if that is lazy, a DataArray of the
            sample dimensions if it is labelled.
        """
        table = Table.of(self, X)
        labels = table.map(self._density().components, np.intp)
        return table.wrap(labels, "component")

    def predict_proba(self, X: Any) -> Any:
        """Return the probability with which each row belongs to each component.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `predict`.

        Returns
        -------
        responsibilities : array of shape (n_samples, n_components)
            In the precision of `X`; lazy or labelled as for `predict`, with one
            dimension more, ``component``.
        """
        table, density = Table.of(self, X), self._density()
        values = table.map(density.responsibilities, table.dtype, density.n_components)
        return table.wrap(values, "probability")

    def score_samples(self, X: Any) -> Any:
        """Return the log density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `predict`.

        Returns
        -------
        log_density : array of shape (n_samples,)
            In the precision of `X`; lazy or labelled as for `predict`.
        """
        table = Table.of(self, X)
        values = table.map(self._density().log_density, table.dtype)
        return table.wrap(values, "log_density")

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Return the mean log-likelihood of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts. Lazy data are computed.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        log_likelihood : float
            An awaitable of it for lazy data if the current Dask client is
            asynchronous.
        """
        table = Table.of(self, X, sample_weight)
        scores = table.map(self._density().log_density, table.dtype)
        return formula_of_sums(table, [scores], lambda weight, total: total / weight)

    def aic(self, X: Any) -> Any:
        """Return Akaike's information criterion for some rows; less is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `score`.

        Returns
        -------
        aic : float
            Or an awaitable of it, as for `score`.
        """
        table, density = Table.of(self, X), self._density()
        penalty = 2 * density.n_parameters
        scores = table.map(density.log_density, table.dtype)
        return formula_of_sums(
            table, [scores], lambda n_rows, total: penalty - 2 * total
        )

    def bic(self, X: Any) -> Any:
        """Return the Bayesian information criterion for some rows; less is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `score`.

        Returns
        -------
        bic : float
            Or an awaitable of it, as for `score`.
        """
        table, density = Table.of(self, X), self._density()
        n = density.n_parameters
        scores = table.map(density.log_density, table.dtype)
        return formula_of_sums(
            table, [scores], lambda n_rows, total: n * math.log(n_rows) - 2 * total
        )
