"""The density of a Gaussian mixture, as functions of rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ..kernels.gaussian import weighted_log_prob
from .gaussian_mixture import CovarianceType

__all__ = ["GaussianMixtureDensity", "precisions_of"]

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class GaussianMixtureDensity:
    """A Gaussian mixture's density, small enough to send to where the rows are.

    Results have the precision of the rows.

    Parameters
    ----------
    covariance_type : {"full", "tied", "diag", "spherical"}
    weights : array of shape (K,)
    means : array of shape (K, d)
    precisions_cholesky : array of shape (K, d, d), (d, d), (K, d) or (K,)
        As in `GaussianMixtureParams`.
    """

    covariance_type: CovarianceType
    weights: Array
    means: Array
    precisions_cholesky: Array

    @property
    def n_components(self) -> int:
        """Number of components."""
        return len(self.means)

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        k, d = self.means.shape
        covariances = {
            "full": k * d * (d + 1) // 2,
            "tied": d * (d + 1) // 2,
            "diag": k * d,
            "spherical": k,
        }
        return covariances[self.covariance_type] + k * d + k - 1

    def joint(self, X: Array) -> Array:
        """Return log densities of rows and components together."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        return weighted_log_prob(
            X,
            # near the rows, so that differences are taken before rounding
            self.means.mean(axis=0),
            log_weights,
            self.means,
            self.precisions_cholesky,
            self.covariance_type,
        )

    def components(self, X: Array) -> Array:
        """Return the most probable component of each row."""
        return self.joint(X).argmax(axis=1)

    def log_density(self, X: Array) -> Array:
        """Return the log density of each row."""
        return logsumexp(self.joint(X), axis=1)

    def responsibilities(self, X: Array) -> Array:
        """Return the probabilities of the components for each row."""
        joint = self.joint(X)
        with np.errstate(under="ignore"):
            return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def precisions_of(precisions_cholesky: Array, covariance_type: str) -> Array:
    """Return precisions from their factors U, as U U'."""
    U = precisions_cholesky
    if covariance_type in ("full", "tied"):
        return U @ U.swapaxes(-1, -2)
    return np.square(U)
