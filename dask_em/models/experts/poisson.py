"""Poisson experts: log-linear rates of counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from ...statistics import Statistics
from .algebra import solve
from .families import Family, Plan, Sums
from .params import ExpertsParams

__all__ = ["Poisson", "PoissonStats"]

Array = NDArray[np.float64]

#: Newton steps at most in a regression of its own, and the relative step that ends it.
_STEPS = 100
_TOL = 1e-12
#: Linear predictors beyond which rates overflow.
_HIGH = 700.0
#: Distance from where the bound was expanded beyond which it is expanded anew.
_FAR = 200.0


@dataclasses.dataclass(frozen=True)
class PoissonStats(Statistics):
    """Score, curvature, and the bound's coefficients.

    Attributes
    ----------
    counts : array of shape (K,)
    observed, fitted : array of shape (K, 1, p)
        Weighted sums of y z and of the rates times z.
    up, down : array of shape (K, p)
        Coefficients of the exponentials in the bound.
    gram : array of shape (K, p, p)
        Weighted sums of the rates times z z'; of no size for EM's bound.
    """

    counts: Array
    observed: Array
    fitted: Array
    up: Array
    down: Array
    gram: Array


@dataclasses.dataclass(frozen=True)
class Poisson(Family):
    r"""Counts with rates :math:`\mu = e^{\eta}`.

    No quadratic lies below :math:`-e^{\eta}` everywhere, so EM's bound is that of
    generalised iterative scaling (Darroch and Ratcliff, 1972), by convexity: with
    :math:`A = \max_i \sum_j |z_{ij}|`,

    .. math:: e^{z^\top(\beta-\beta_0)} \le 1 - \tfrac1A\sum_j |z_j|
              + \sum_j \tfrac{|z_j|}{A}
              e^{\mathrm{sign}(z_j) A (\beta_j - \beta_{0j})},

    whose coefficients add up whatever parameters they were computed at. It is slow and
    only used where statistics are of different age, or where Newton's step fails.
    """

    def check(self, minimum: Array, maximum: Array) -> None:
        """Raise `ValueError` for negative counts."""
        if (minimum < 0).any():
            raise ValueError(
                f"Some y are negative (the least is {minimum.min():g}), which "
                "family='poisson' cannot have; use family='gaussian'."
            )

    def n_grams(self, k: int, q: int, *, surrogate: bool) -> int:
        """One for each expert in a Newton step."""
        return 0 if surrogate else k

    def n_parameters(self, q: int, p: int) -> int:
        """Coefficients."""
        return q * p

    def initial(self, k: int, q: int, p: int) -> dict[str, Array]:
        """Return a start."""
        return super().initial(k, q, p) | {"anchor": np.zeros((k, 1, p))}

    def log_density(self, params: ExpertsParams, eta: Array, y: Array) -> Array:
        """Return log probabilities of counts."""
        rate = np.exp(np.minimum(eta[:, 0], _HIGH))
        return np.asarray(y[0] * eta[:, 0] - rate - gammaln(y[0] + 1))

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
        """Return score, and the coefficients of the bound."""
        mu = r * np.exp(np.minimum(eta[:, 0], _HIGH))
        linear = np.stack([r * y[0], mu], axis=1)
        plain = {"counts": r.sum(axis=1), "absolute": mu @ np.abs(Z).T}
        return Sums(mu[:0] if surrogate else mu, linear, plain)

    def collect(
        self,
        params: ExpertsParams,
        gram: Array,
        linear: Array,
        plain: dict[str, Array],
        *,
        surrogate: bool,
    ) -> PoissonStats:
        """Return the statistics."""
        observed, fitted = linear[:, :1], linear[:, 1:]
        A = params.reach.sum()
        moved = A * (params.coef - params.anchor)[:, 0]
        up = 0.5 * (plain["absolute"] + fitted[:, 0]) / A * np.exp(-moved)
        down = 0.5 * (plain["absolute"] - fitted[:, 0]) / A * np.exp(moved)
        return PoissonStats(
            plain["counts"],
            observed,
            fitted,
            np.maximum(up, 0.0),
            np.maximum(down, 0.0),
            gram if not surrogate else np.zeros((len(linear), 0, 0)),
        )

    def bound(self, params: ExpertsParams, stats: Any) -> float:
        """Return the bound but for its constant."""
        moved = params.reach.sum() * (params.coef - params.anchor)[:, 0]
        with np.errstate(over="ignore"):
            rates = stats.up * np.exp(moved) + stats.down * np.exp(-moved)
        return float(np.sum(stats.observed * params.coef) - rates.sum())

    def m_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return the maximum of the bound, a quadratic equation per coefficient."""
        A = params.reach.sum()
        Y, P, N = stats.observed[:, 0], A * stats.up, A * stats.down
        root = np.sqrt(np.square(Y) + 4 * P * N)
        with np.errstate(divide="ignore", invalid="ignore"):
            # P t - N / t = Y, by the formula that does not cancel
            t = np.where(Y >= 0, (Y + root) / (2 * P), 2 * N / (root - Y))
            step = np.log(t) / A
        coef = params.coef.copy()
        usable = np.isfinite(step) & (stats.counts > 0)[:, None]
        coef[:, 0] = np.where(usable, (params.anchor[:, 0] + step), coef[:, 0])
        return {"coef": coef}

    def newton_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return Newton's step."""
        coef = params.coef.copy()
        for j, weight in enumerate(stats.counts):
            if weight > 0:
                slope = (stats.observed - stats.fitted)[j, 0]
                coef[j, 0] += solve(stats.gram[j], slope)
        return {"coef": coef}

    def rebased(self, params: ExpertsParams) -> ExpertsParams:
        """Return the parameters with the bound expanded near them, if they are far."""
        moved = params.reach.sum() * (params.coef - params.anchor)
        if np.abs(moved).max(initial=0.0) < _FAR:
            return params
        return dataclasses.replace(params, anchor=params.coef.copy())

    def residual(self, eta: Array, y: Array) -> Array:
        """Return deviances."""
        mu = np.exp(np.minimum(eta[:, 0], _HIGH))
        return np.asarray(2 * (xlogy(y[0], y[0]) - y[0] * eta[:, 0] - y[0] + mu))

    def linearised(self, y: Array) -> Array:
        """Return logarithms."""
        return np.log(y + 0.5)

    # ------------------------------------------------------------- predictions

    def mean(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the rates."""
        return np.exp(eta)

    def variance(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the rates."""
        return np.exp(eta)

    def draw(
        self, params: ExpertsParams, eta: Array, rng: np.random.Generator
    ) -> Array:
        """Draw counts."""
        return rng.poisson(np.exp(eta.T)).astype(np.float64)

    # --------------------------------------------------------------- reduction

    def divergence(
        self, source: ExpertsParams, at: Array, target: ExpertsParams, eta: Array
    ) -> Array:
        """Return divergences of Poisson distributions."""
        a, b = at[:, None, 0], eta[None, :, 0]
        mu = np.exp(np.minimum(a, _HIGH))
        return np.maximum(mu * (a - b) - mu + np.exp(np.minimum(b, _HIGH)), 0.0)

    def overlap(self, params: ExpertsParams, eta: Array) -> Array:
        """Return overlaps of normal distributions of the same two moments.

        A twelfth more of variance stands for the width of an integer.
        """
        mu = np.exp(np.clip(eta[:, 0], -_HIGH, _HIGH / 2))
        total = mu[:, None] + mu + 1 / 6
        return np.asarray(
            np.exp(-0.5 * np.square(mu[:, None] - mu) / total) / np.sqrt(total)
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
        """Return Poisson regressions on the average rates."""
        rate = np.exp(np.minimum(at[:, 0], _HIGH))
        coef = target.coef.copy()
        for k in range(plan.n_targets):
            mass = plan.to(k)
            w = mass.sum(axis=0)
            if w.sum() > 0:
                total = (mass * rate).sum(axis=0)
                coef[k, 0] = poisson_regression(Z, total, w, coef[k, 0])
        return {"coef": coef}


def poisson_regression(Z: Array, total: Array, weight: Array, start: Array) -> Array:
    """Return the coefficients of rates whose weighted sums per row are given.

    Parameters
    ----------
    Z : array of shape (p, n)
    total : array of shape (n,)
        Counts times weights.
    weight : array of shape (n,)
    start : array of shape (p,)
    """

    def value(beta: Array) -> float:
        eta = beta @ Z
        return float(total @ eta - weight @ np.exp(np.minimum(eta, _HIGH)))

    beta, height = start, value(start)
    for _ in range(_STEPS):
        mu = weight * np.exp(np.minimum(beta @ Z, _HIGH))
        step = solve((Z * mu) @ Z.T, Z @ (total - mu))
        size = 1.0
        while size > 1e-8:
            candidate = beta + size * step
            reached = value(candidate)
            if reached >= height:
                break
            size /= 2
        else:
            break
        beta, height = candidate, reached
        if np.abs(step).max() <= _TOL * (1 + np.abs(beta).max()):
            break
    return beta
