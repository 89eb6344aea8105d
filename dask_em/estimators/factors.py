"""What estimators share whose rows are a few factors and noise."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ..models.factor_analysis import FactorModel
from ..models.factor_posterior import FactorDensity
from .components import ComponentsEstimator
from .sums import formula_of_sums
from .table import Table

__all__ = ["FactorsEstimator"]

Array = NDArray[Any]


class FactorsEstimator(ComponentsEstimator):
    """Base of the estimators that fit a `FactorModel`.

    A subclass makes the model, and says what loadings and noise its fitted attributes
    stand for.
    """

    _advice = (
        "The fit did not converge. Increase max_iter or tol, or ask for fewer "
        "components."
    )

    def _model(self, n_features: int) -> FactorModel:
        """Check the parameters and make a model of them."""
        raise NotImplementedError

    def _loadings(self) -> Array:
        """Return the loadings in float64, of shape (n_features, n_components)."""
        raise NotImplementedError

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, dim: Any = None
    ) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in memory, a Dask array or DataFrame, lazy or persisted, or a
            `xarray.DataArray`. NaN stands for a missing value.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights that are not negative; of a labelled `X`, a DataArray of some of
            the sample dimensions.
        dim : str or sequence of str, default=None
            Sample dimensions of a labelled `X`; the first one where there are at
            most two.

        Returns
        -------
        self
            Or an awaitable of it if the current Dask client is asynchronous. If the
            fit fails, what an earlier one found is left as it was.

        Raises
        ------
        ValueError, TypeError
            If parameters or data are unusable; the message names the remedy. So are
            data with an infinity, and those with a column that is missing altogether.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` or the deadline ended the fit.
        """
        _check_settings(self)
        table = Table.of(
            self,
            X,
            sample_weight,
            dim=dim,
            reset=True,
            min_samples=2,
            allow_nan=True,
        )
        return self._fit_model(self._model(table.n_features), table)

    # -------------------------------------------------------------------- rows

    def transform(self, X: Any) -> Any:
        """Return the expected factors of each row, given what was observed of it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.

        Returns
        -------
        factors : array of shape (n_samples, n_components)
            In the precision of `X`. A Dask array with the chunks of `X` if that is
            lazy; a DataArray with the dimension ``component`` if it is labelled.
        """
        table, density = self._table(X), self._density()
        n = density.loadings.shape[1]
        values = table.map(density.factors, table.dtype, n)
        return table.wrap(values, "factors")

    def _rows(self, values: Any) -> Any:
        density = self._density()
        return values @ density.loadings.T + density.mean

    def impute(self, X: Any) -> Any:
        """Return rows with what was missing replaced by its conditional expectation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `transform`.

        Returns
        -------
        rows : array of shape (n_samples, n_features)
            What was observed is left as it is. Lazy, or labelled like `X` with the
            features last, as for `transform`.
        """
        table = self._table(X)
        values = table.map(self._density().imputed, table.dtype, table.n_features)
        if table.labels is None:
            return values
        return table.labels.wrap_features(values, name="imputed")

    def score_samples(self, X: Any) -> Any:
        """Return the log density of what was observed of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `transform`.

        Returns
        -------
        log_density : array of shape (n_samples,)
            In the precision of `X`; lazy or labelled as for `transform`. 0 for a row
            of which nothing was observed.
        """
        table = self._table(X)
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
        table = self._table(X, sample_weight)
        scores = table.map(self._density().log_density, table.dtype)
        return formula_of_sums(table, [scores], lambda weight, total: total / weight)

    def _table(self, X: Any, sample_weight: Any = None) -> Table:
        return Table.of(self, X, sample_weight, allow_nan=True)

    def _density(self) -> FactorDensity:
        mean, noise = (
            np.asarray(value, dtype=np.float64)
            for value in (self.mean_, self.noise_variance_)
        )
        return FactorDensity(self._loadings(), mean, np.broadcast_to(noise, mean.shape))

    # -------------------------------------------------------------- covariances

    def get_covariance(self) -> Array:
        """Return the covariance of rows, loadings times themselves plus the noise.

        Returns
        -------
        covariance : ndarray of shape (n_features, n_features)
        """
        check_is_fitted(self)
        density = self._density()
        covariance = density.loadings @ density.loadings.T
        covariance[np.diag_indices_from(covariance)] += density.noise
        return covariance

    def get_precision(self) -> Array:
        """Return the inverse of the covariance of rows.

        Returns
        -------
        precision : ndarray of shape (n_features, n_features)
            By the matrix inversion lemma: what is inverted has as many rows as there
            are components.
        """
        check_is_fitted(self)
        density = self._density()
        weighted = density.loadings / density.noise[:, None]
        inner = density.loadings.T @ weighted
        inner[np.diag_indices_from(inner)] += 1.0
        precision = -weighted @ np.linalg.solve(inner, weighted.T)
        precision[np.diag_indices_from(precision)] += 1.0 / density.noise
        return precision

    # ------------------------------------------------------------- scikit-learn

    @property
    def loglike_(self) -> list[float]:
        """Log-likelihood before each M-step, and at the end."""
        check_is_fitted(self)
        trace = self.result_.trace.lower_bound_before
        return [*trace.tolist(), self.lower_bound_ * self.result_.weight]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _check_settings(estimator: Any) -> None:
    """Raise `ValueError` for the first parameter that makes no sense."""
    if not is_number(estimator.tol) or not estimator.tol >= 0:
        raise ValueError(f"tol must be a number of at least 0, got {estimator.tol!r}.")
    for name in ("max_iter", "verbose_interval"):
        value = getattr(estimator, name)
        if not is_integer(value) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def is_integer(value: Any) -> bool:
    """Whether this is an integer, which True is not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether this is a real number, which True is not."""
    return isinstance(value, Real) and not isinstance(value, bool)
