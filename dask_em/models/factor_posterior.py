"""The posterior of factors given what was observed of rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .factor_patterns import Moments, Rows, patterns

__all__ = ["FactorDensity", "Posterior", "Sums"]

Array = NDArray[Any]

#: Numbers of a tile.
_TILE = 2**20


@dataclasses.dataclass
class Sums:
    """Statistics that are being added up; see `FactorStats`."""

    second: Array
    cross: Array
    square: Array
    divergence: float = 0.0

    @classmethod
    def zeros(cls, n_features: int, n_factors: int, complete: bool) -> Sums:
        """Return sums of no rows."""
        q = n_factors + 1
        return cls(
            np.zeros((1 if complete else n_features, q * (q + 1) // 2)),
            np.zeros((n_features, q)),
            np.zeros(n_features),
        )


class Posterior:
    r"""Means and covariances of factors z where x = W z + b + noise was observed.

    With O the features observed,

    .. math:: \mathrm{cov}(z \mid x_O) = C_O = (I + W_O' \Psi_O^{-1} W_O)^{-1}, \qquad
              \mathrm E(z \mid x_O) = C_O W_O' \Psi_O^{-1} (x_O - b_O).

    Rows that lack the same values have the same covariance. Those of many patterns
    are inverted together, and their sums over features are products of matrices.

    Parameters
    ----------
    loadings : array of shape (n_features, K)
        W.
    shift : array of shape (n_features,)
        b.
    noise : array of shape (n_features,)
        The diagonal of Psi.
    """

    def __init__(self, loadings: Array, shift: Array, noise: Array) -> None:
        self.loadings, self.shift, self.noise = loadings, shift, noise
        self.weighted = loadings / noise[:, None]
        self._k = loadings.shape[1]
        self._lower = np.tril_indices(self._k)

    def covariances(self, observed: Array) -> tuple[Array, Array]:
        """Return covariances, and the log determinants of their inverses.

        Parameters
        ----------
        observed : array of shape (n_patterns, n_features)
            1 where a value is there, else 0.
        """
        rows, columns = self._lower
        products = self.loadings[:, rows] * self.weighted[:, columns]
        return self._inverted(observed @ products)

    def _inverted(self, packed: Array) -> tuple[Array, Array]:
        rows, columns = self._lower
        precisions = np.empty((len(packed), self._k, self._k))
        precisions[:, rows, columns] = precisions[:, columns, rows] = packed
        precisions += np.eye(self._k)
        lower = np.linalg.cholesky(precisions)
        log_det = 2 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
        return np.linalg.inv(precisions), log_det

    def means(self, D: Array, covariances: Array, member: Array) -> Array:
        """Return means of the factors of rows.

        Parameters
        ----------
        D : array of shape (n_rows, n_features)
            ``x - b``, and 0 where that is missing.
        covariances : array of shape (n_patterns, K, K)
        member : array of int of shape (n_rows,)
        """
        U = D @ self.weighted
        if len(covariances) == 1:
            return U @ covariances[0]
        return np.matmul(covariances[member], U[:, :, None])[:, :, 0]

    def add_moments(self, moments: Moments, sums: Sums) -> None:
        """Add the statistics of rows that lack the same values, from their moments."""
        features, n = moments.features, moments.weight
        loadings, weighted = self.loadings[features], self.weighted[features]
        shift, k = self.shift[features], self._k
        inner = (loadings.T @ weighted)[self._lower]
        covariances, log_det = self._inverted(inner[None])
        regression = weighted @ covariances[0]
        # products of rows about the origin with those about the mean
        about = moments.second @ regression - np.outer(
            moments.first, shift @ regression
        )
        first = (moments.first - n * shift) @ regression
        second = regression.T @ about - np.outer(shift @ regression, first)
        both = np.empty((k + 1, k + 1))
        both[:k, :k] = n * covariances[0] + (second + second.T) / 2
        both[k, :k] = first
        both[k, k] = n
        packed = both[np.tril_indices(k + 1)]
        sums.second[features if len(sums.second) > 1 else slice(None)] += packed
        sums.cross[features] += np.column_stack([about, moments.first])
        sums.square[features] += np.diagonal(moments.second)
        trace = np.trace(covariances[0])
        sums.divergence += 0.5 * (n * (trace - k + log_det[0]) + np.trace(second))

    def add_rows(self, rows: Rows, sums: Sums) -> None:
        """Add the statistics of rows."""
        Y, w, observed, starts = rows.Y, rows.weights, rows.observed, rows.starts
        covariances, log_det = self.covariances(observed)
        member = rows.member
        D = Y - (self.shift if len(observed) == 1 else observed[member] * self.shift)
        if len(observed) == 1:
            D *= observed
        means = self.means(D, covariances, member)
        weighted = means * w[:, None]
        i, j = self._lower
        counts = np.add.reduceat(w, starts)
        second = np.add.reduceat(weighted[:, i] * means[:, j], starts)
        packed = np.column_stack(
            [
                second + counts[:, None] * covariances[:, i, j],
                np.add.reduceat(weighted, starts),
                counts,
            ]
        )
        sums.second += (
            packed.sum(axis=0) if len(sums.second) == 1 else (observed.T @ packed)
        )
        sums.cross += Y.T @ np.column_stack([weighted, w])
        sums.square += w @ np.square(Y)
        traces = np.trace(covariances, axis1=1, axis2=2)
        sums.divergence += 0.5 * float(
            counts @ (traces - self._k + log_det) + np.sum(weighted * means)
        )


@dataclasses.dataclass(frozen=True)
class FactorDensity:
    """A factor model as functions of rows; it goes to where they are.

    Parameters
    ----------
    loadings : array of shape (n_features, K)
    mean : array of shape (n_features,)
    noise : array of shape (n_features,)
    """

    loadings: Array
    mean: Array
    noise: Array

    def factors(self, X: Array) -> Array:
        """Return the posterior means of the factors, given what was observed."""
        return self._over_tiles(lambda D, observed, means, log_det: means, X)

    def log_density(self, X: Array) -> Array:
        """Return the log density of what was observed; 0 where nothing was."""
        constants = np.log(2 * np.pi * self.noise)

        def log_density(D: Array, observed: Array, means: Array, det: Array) -> Array:
            # of what factors leave over: no difference of two large numbers
            rest = D - observed * (means @ self.loadings.T)
            distance = np.square(rest) @ (1 / self.noise)
            distance += np.square(means).sum(axis=1)
            return -0.5 * (distance + observed @ constants + det)

        return self._over_tiles(log_density, X)

    def imputed(self, X: Array) -> Array:
        """Return rows with conditional expectations where values are missing."""

        def imputed(D: Array, observed: Array, means: Array, det: Array) -> Array:
            return np.where(observed, D, means @ self.loadings.T) + self.mean

        filled = self._over_tiles(imputed, X)
        return np.where(np.isnan(X), filled, X)

    def _over_tiles(self, function: Any, X: Array) -> Array:
        posterior = Posterior(self.loadings, self.mean, self.noise)
        p, k = self.loadings.shape
        step = max(64, _TILE // (p + k * k))
        found = [
            self._of_tile(function, posterior, X[i : i + step])
            for i in range(0, max(len(X), 1), step)
        ]
        return np.concatenate(found)

    def _of_tile(self, function: Any, posterior: Posterior, X: Array) -> Array:
        D = np.asarray(X, dtype=np.float64) - self.mean
        missing = np.isnan(D)
        if missing.any():
            order, starts = patterns(missing)
            member = np.empty(len(D), dtype=np.intp)
            member[order] = np.repeat(
                np.arange(len(starts)), np.diff(starts, append=len(D))
            )
            observed = (~missing[order[starts]]).astype(np.float64)
            D[missing] = 0.0
        else:
            member = np.zeros(len(D), dtype=np.intp)
            observed = np.ones((1, D.shape[1]))
        covariances, log_det = posterior.covariances(observed)
        means = posterior.means(D, covariances, member)
        return function(D, observed[member], means, log_det[member])
