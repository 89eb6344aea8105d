"""Student-t experts: regressions that outliers do not pull at."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import digamma, gammaln, polygamma

from ...statistics import Statistics
from .families import Plan, Sums
from .gaussian import (
    Gaussian,
    log_determinant,
    mahalanobis,
    outer,
    regression,
    scatter,
)
from .params import LEAST_DOF, MOST_DOF, ExpertsParams

__all__ = ["StudentStats", "StudentT"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class StudentStats(Statistics):
    """Moments of the rows of each expert, weighted by the expected precision u.

    Attributes
    ----------
    counts : array of shape (K,)
    precision, log_precision : array of shape (K,)
        Sums of the expectations of u and log u.
    gram : array of shape (K, p, p)
    cross : array of shape (K, q, p)
    square : array of shape (K, q, q)
    """

    counts: Array
    precision: Array
    log_precision: Array
    gram: Array
    cross: Array
    square: Array


@dataclasses.dataclass(frozen=True)
class StudentT(Gaussian):
    r"""Responses of a t distribution: normal with a precision that is itself random.

    :math:`y \mid u \sim \mathcal N(\mu, \Sigma / u)` with
    :math:`u \sim \mathrm{Gamma}(\nu/2, \nu/2)` (Lange, Little and Taylor, 1989). The
    degrees of freedom ν are estimated for each expert.
    """

    def n_parameters(self, q: int, p: int) -> int:
        """Coefficients, scale matrix and degrees of freedom."""
        return super().n_parameters(q, p) + 1

    def initial(self, k: int, q: int, p: int) -> dict[str, Array]:
        """Return a start with ten degrees of freedom."""
        return super().initial(k, q, p) | {"dof": np.full(k, 10.0)}

    def log_density(self, params: ExpertsParams, eta: Array, y: Array) -> Array:
        """Return log densities of t distributions."""
        q = len(y)
        nu = params.dof
        distance, log_det = mahalanobis(params.covariance, y - eta)
        constant = gammaln((nu + q) / 2) - gammaln(nu / 2)
        constant -= 0.5 * (q * np.log(nu * np.pi) + log_det)
        constant -= np.log(params.y_scale).sum()
        tail = np.log1p(distance / nu[:, None])
        return np.asarray(constant[:, None] - 0.5 * (nu + q)[:, None] * tail)

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
        """Return moments weighted by the expected precisions."""
        q = len(y)
        distance, _ = mahalanobis(params.covariance, y - eta)
        shape, rate = (
            (params.dof[:, None] + q) / 2,
            (params.dof[:, None] + distance) / 2,
        )
        u = r * (shape / rate)
        return Sums(
            u,
            u[:, None, :] * y,
            {
                "counts": r.sum(axis=1),
                "precision": u.sum(axis=1),
                "log_precision": (r * (digamma(shape) - np.log(rate))).sum(axis=1),
                "square": outer(u, y),
            },
        )

    def collect(
        self,
        params: ExpertsParams,
        gram: Array,
        linear: Array,
        plain: dict[str, Array],
        *,
        surrogate: bool,
    ) -> Any:
        """Return the moments."""
        return StudentStats(gram=gram, cross=linear, **plain)

    def bound(self, params: ExpertsParams, stats: Any) -> float:
        """Return the expected log density of responses and precisions."""
        half = params.dof / 2
        normal = stats.counts * log_determinant(params.covariance)
        inverse = np.linalg.inv(params.covariance)
        normal = normal.sum() + np.sum(inverse * scatter(params.coef, stats))
        gamma = stats.counts * (half * np.log(half) - gammaln(half))
        gamma += half * (stats.log_precision - stats.precision)
        return float(gamma.sum() - 0.5 * normal)

    def m_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return EM's step."""
        return self._step(params, stats, stats.counts, var_floor)

    def newton_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return PX-EM's step, which is longer (Liu, Rubin and Wu, 1998)."""
        return self._step(params, stats, stats.precision, var_floor)

    def _step(
        self, params: ExpertsParams, stats: Any, divisor: Array, var_floor: float
    ) -> dict[str, Array]:
        coef = regression(stats, params.coef)
        covariance = self._covariance(
            scatter(coef, stats), divisor, params.covariance, var_floor
        )
        dof = params.dof.copy()
        for j, weight in enumerate(stats.counts):
            if weight > 0:
                gap = (stats.log_precision[j] - stats.precision[j]) / weight
                dof[j] = degrees_of_freedom(gap)
        return {"coef": coef, "covariance": covariance, "dof": dof}

    # ------------------------------------------------------------- predictions

    def variance(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the variance, which is infinite below two degrees of freedom."""
        with np.errstate(divide="ignore"):
            factor = np.where(
                params.dof > 2, params.dof / np.maximum(params.dof - 2, 0), np.inf
            )
        return super().variance(params, eta) * factor[:, None, None]

    def draw(
        self, params: ExpertsParams, eta: Array, rng: np.random.Generator
    ) -> Array:
        """Draw responses of t distributions."""
        normal = super().draw(params, eta, rng) - eta.T
        u = rng.gamma(params.dof / 2, 2 / params.dof)
        return np.asarray(eta.T + normal / np.sqrt(u))

    # --------------------------------------------------------------- reduction

    def divergence(
        self, source: ExpertsParams, at: Array, target: ExpertsParams, eta: Array
    ) -> Array:
        """Return divergences of responses and precisions together.

        Those of t distributions themselves have no closed form; these bound them.
        """
        normal = super().divergence(source, at, target, eta)
        a, b = source.dof[:, None] / 2, target.dof[None, :] / 2
        gamma = a * np.log(a) - gammaln(a) - b * np.log(b) + gammaln(b)
        gamma = gamma + (a - b) * (digamma(a) - np.log(a) - 1)
        return normal + np.maximum(gamma, 0.0)[:, :, None]

    def barycentre(
        self,
        source: ExpertsParams,
        at: Array,
        plan: Plan,
        target: ExpertsParams,
        Z: Array,
        var_floor: float,
    ) -> dict[str, Array]:
        """Return the Gaussian one, and degrees of freedom by moments of log u."""
        changed = super().barycentre(source, at, plan, target, Z, var_floor)
        mass = plan.by_expert
        half = source.dof / 2
        gap = digamma(half) - np.log(half) - 1
        dof = target.dof.copy()
        for k, m in enumerate(mass.T):
            if m.sum() > 0:
                dof[k] = degrees_of_freedom(float(m @ gap / m.sum()))
        return changed | {"dof": dof}


def degrees_of_freedom(gap: float) -> float:
    """Solve log(ν/2) − ψ(ν/2) + 1 + gap = 0, within limits.

    `gap` is the mean of E log u − E u.
    """

    def slope(log_dof: float) -> float:
        half = np.exp(log_dof) / 2
        return float(np.log(half) - digamma(half) + 1 + gap)

    low, high = np.log(LEAST_DOF), np.log(MOST_DOF)
    if slope(high) >= 0:
        return MOST_DOF
    if slope(low) <= 0:
        return LEAST_DOF
    root = brentq(slope, low, high, xtol=1e-12, rtol=1e-12)
    dof = float(np.exp(root))
    # the last digits, by Newton
    half = dof / 2
    derivative = 1 / dof - polygamma(1, half) / 2
    return float(dof - slope(root) / derivative)
