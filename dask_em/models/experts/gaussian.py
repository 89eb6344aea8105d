"""Gaussian experts: weighted linear regressions."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...statistics import Statistics
from .algebra import solve
from .families import Family, Plan, Sums
from .params import ExpertsParams

__all__ = ["CovarianceType", "Gaussian", "GaussianStats"]

Array = NDArray[np.float64]
CovarianceType = Literal["full", "diag", "tied"]


@dataclasses.dataclass(frozen=True)
class GaussianStats(Statistics):
    """Moments of the rows of each expert.

    Attributes
    ----------
    counts : array of shape (K,)
    gram : array of shape (K, p, p)
    cross : array of shape (K, q, p)
    square : array of shape (K, q, q)
    """

    counts: Array
    gram: Array
    cross: Array
    square: Array


@dataclasses.dataclass(frozen=True)
class Gaussian(Family):
    """Normal responses.

    Parameters
    ----------
    covariance_type : {"full", "diag", "tied"}
        Of each expert, uncorrelated, or the same for all experts.
    """

    covariance_type: CovarianceType = "full"
    standardises: ClassVar[bool] = True
    has_covariance: ClassVar[bool] = True

    def n_grams(self, k: int, q: int, *, surrogate: bool) -> int:
        """One for each expert."""
        return k

    def n_parameters(self, q: int, p: int) -> int:
        """Coefficients and covariance."""
        return q * p + self.n_variances(q)

    def n_variances(self, q: int) -> int:
        """Return the free parameters of a covariance."""
        return q if self.covariance_type == "diag" else q * (q + 1) // 2

    def log_density(self, params: ExpertsParams, eta: Array, y: Array) -> Array:
        """Return normal log densities."""
        q = len(y)
        distance, log_det = mahalanobis(params.covariance, y - eta)
        constant = q * np.log(2 * np.pi) + log_det + 2 * np.log(params.y_scale).sum()
        return -0.5 * (distance + constant[:, None])

    def sums(
        self,
        params: ExpertsParams,
        eta: Array,
        y: Array,
        r: Array,
        Z: Array,
        *,
        surrogate: bool,
    ) -> Sums:
        """Return first and second moments."""
        return Sums(
            r, r[:, None, :] * y, {"counts": r.sum(axis=1), "square": outer(r, y)}
        )

    def collect(
        self,
        params: ExpertsParams,
        gram: Array,
        linear: Array,
        plain: dict[str, Array],
        *,
        surrogate: bool,
    ) -> GaussianStats:
        """Return the moments."""
        return GaussianStats(gram=gram, cross=linear, **plain)

    def bound(self, params: ExpertsParams, stats: Any) -> float:
        """Return the expected log density, but for its constant."""
        return float(
            -0.5 * np.sum(stats.counts * log_determinant(params.covariance))
            - 0.5 * np.sum(_inverse(params.covariance) * scatter(params.coef, stats))
        )

    def m_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return weighted least squares."""
        coef = regression(stats, params.coef)
        covariance = self._covariance(
            scatter(coef, stats), stats.counts, params.covariance, var_floor
        )
        return {"coef": coef, "covariance": covariance}

    def admissible(self, covariance: Array) -> Array:
        """Return them without correlations, or averaged, where that is asked for."""
        return self._covariance(
            covariance, np.ones(len(covariance)), covariance, floor=0.0
        )

    def _covariance(
        self, total: Array, counts: Array, before: Array, floor: float
    ) -> Array:
        """Return covariances of sums of products; empty experts' as before."""
        if self.covariance_type == "diag":
            total = total * np.eye(total.shape[-1])
        elif self.covariance_type == "tied":
            total = np.broadcast_to(total.sum(axis=0), total.shape)
            counts = np.full_like(counts, counts.sum())
        return floored(total, counts, before, floor)

    # ------------------------------------------------------------- predictions

    def mean(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the linear predictor."""
        return eta

    def variance(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the diagonal of the covariance."""
        diagonal = np.diagonal(params.covariance, axis1=1, axis2=2)
        return np.broadcast_to(diagonal[:, :, None], eta.shape)

    def draw(
        self, params: ExpertsParams, eta: Array, rng: np.random.Generator
    ) -> Array:
        """Draw normal responses."""
        factor = np.linalg.cholesky(params.covariance)
        noise = rng.standard_normal(eta.shape)
        return np.asarray((eta + np.einsum("nij,nj->ni", factor, noise)).T)

    # --------------------------------------------------------------- reduction

    def divergence(
        self, source: ExpertsParams, at: Array, target: ExpertsParams, eta: Array
    ) -> Array:
        """Return divergences of normal distributions."""
        q = at.shape[1]
        precision = _inverse(target.covariance)
        trace = np.einsum("kij,lji->lk", precision, source.covariance)
        log_det = log_determinant(target.covariance) - np.reshape(
            log_determinant(source.covariance), (-1, 1)
        )
        constant = np.maximum(0.5 * (log_det + trace - q), 0.0)[:, :, None]
        if q == 1:
            distance = at - eta[None, :, 0]
            np.square(distance, out=distance)
            distance *= 0.5 * precision[:, 0]
        else:
            factor = np.linalg.cholesky(precision).swapaxes(1, 2)
            gap = np.einsum("kij,lkjn->lkin", factor, at[:, None] - eta)
            distance = 0.5 * np.einsum("lkin,lkin->lkn", gap, gap)
        distance += constant
        return distance

    def overlap(self, params: ExpertsParams, eta: Array) -> Array:
        """Return normal densities of the differences, at zero."""
        total = params.covariance[:, None] + params.covariance
        factor = np.linalg.inv(np.linalg.cholesky(total))
        gap = np.einsum("abij,abjn->abin", factor, eta[:, None] - eta)
        log_det = 2 * np.log(np.diagonal(factor, axis1=2, axis2=3)).sum(axis=2)
        return np.asarray(
            np.exp(0.5 * (log_det[..., None] - np.einsum("abin,abin->abn", gap, gap)))
        )

    def barycentre(
        self,
        source: ExpertsParams,
        at: Array,
        plan: Plan,
        target: ExpertsParams,
        Z: Array,
        var_floor: float,
    ) -> dict[str, Array]:
        """Return regressions on the average prediction, and both kinds of spread."""
        coef = target.coef.copy()
        total, counts = np.zeros_like(target.covariance), np.zeros(plan.n_targets)
        for k in range(plan.n_targets):
            mass = plan.to(k)
            w = mass.sum(axis=0)
            counts[k] = w.sum()
            if not counts[k] > 0:
                continue
            average = np.einsum("ln,lqn->qn", mass, at)
            coef[k] = solve((Z * w) @ Z.T, Z @ average.T).T
            gap = at - coef[k] @ Z
            between = np.einsum("ln,lin,ljn->ij", mass, gap, gap, optimize=True)
            total[k] = np.tensordot(mass.sum(axis=1), source.covariance, 1) + between
        covariance = self._covariance(total, counts, target.covariance, var_floor)
        return {"coef": coef, "covariance": covariance}


# ------------------------------------------------------- shared with Student-t experts


def mahalanobis(covariance: Array, residual: Array) -> tuple[Array, Array]:
    """Return squared distances and log determinants.

    Parameters
    ----------
    covariance : array of shape (K, q, q)
    residual : array of shape (K, q, n)

    Returns
    -------
    array of shape (K, n), array of shape (K,)
    """
    if residual.shape[1] == 1:
        variance = covariance[:, 0, 0]
        return np.square(residual[:, 0]) / variance[:, None], np.log(variance)
    factor = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(factor)
    whitened = inverse @ residual
    distance = np.einsum("kin,kin->kn", whitened, whitened)
    return distance, 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)


def log_determinant(covariance: Array) -> Array:
    """Return log determinants of matrices of shape (K, q, q)."""
    return np.asarray(np.linalg.slogdet(covariance)[1])


def _inverse(covariance: Array) -> Array:
    return np.asarray(np.linalg.inv(covariance), dtype=np.float64)


def outer(r: Array, y: Array) -> Array:
    """Return weighted sums of y y', of shape (K, q, q)."""
    return np.asarray((r[:, None, :] * y) @ y.T)


def scatter(coef: Array, stats: Any) -> Array:
    """Return the weighted sum of products of residuals, of shape (K, q, q)."""
    fitted = coef @ stats.gram
    cross = stats.cross @ coef.swapaxes(1, 2)
    return np.asarray(
        stats.square - cross - cross.swapaxes(1, 2) + fitted @ coef.swapaxes(1, 2)
    )


def regression(stats: Any, before: Array) -> Array:
    """Return least squares coefficients; those before where an expert has no rows."""
    coef = before.copy()
    for j, weight in enumerate(stats.counts):
        if weight > 0:
            coef[j] = solve(stats.gram[j], stats.cross[j].T).T
    return coef


def floored(total: Array, counts: Array, before: Array, floor: float) -> Array:
    """Return covariances with no eigenvalue below the floor; empty ones as before."""
    covariance = before.copy()
    kept = counts > 0
    raw = total[kept] / counts[kept, None, None]
    raw = (raw + raw.swapaxes(1, 2)) / 2
    if raw.shape[-1] == 1:
        covariance[kept] = np.maximum(raw, floor)
    else:  # the maximum of the bound among covariances above the floor
        values, vectors = np.linalg.eigh(raw)
        values = np.maximum(values, floor)
        covariance[kept] = (vectors * values[:, None, :]) @ vectors.swapaxes(1, 2)
    return covariance
