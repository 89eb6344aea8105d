"""Linear mixed models: plain EM, whose statistics mix under any schedule."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from ..grouping.rows import Factor
from ..grouping.table import Totals
from ..model import Block, MapReduce, Model
from ..statistics import Statistics
from .linear_mixed import (
    GroupSummary,
    LinearMixedModelECME,
    MixedParams,
    Structure,
    cholesky,
    group_sums,
)

__all__ = ["LinearMixedModelEM", "SurrogateStats"]

Array = NDArray[Any]

#: Least standard deviation of random effects, in units of that of the residuals: EM
#: never leaves zero, where their posterior has no entropy either.
LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class SurrogateStats(Statistics):
    r"""Coefficients of the bound, in absolute units, so that versions mix.

    Given what all groups share, :math:`v = (-\gamma, 1)`, the posterior of a group's
    effects has the mean :math:`M R v` and the covariance :math:`\sigma^2 M`, with the
    :math:`M = (D^{-1} + Z'Z)^{-1}` and :math:`\sigma^2` of its E-step.

    Parameters
    ----------
    products : array of shape (q, w, q, w)
        Sum of the products of M R with itself.
    covariance : array of shape (q, q)
        Sum of sigma^2 M.
    residual : array of shape (w, w)
        Sum of - 2 R'M R + R'M Z'Z M R.
    trace : float
        Sum of sigma^2 tr(Z'Z M).
    entropy : float
        Sum of log det(sigma^2 M) / 2.
    """

    products: Array
    covariance: Array
    residual: Array
    trace: float
    entropy: float


@dataclasses.dataclass(frozen=True)
class LinearMixedModelEM(Model[MixedParams, SurrogateStats]):
    r"""A linear mixed model by EM on complete-data statistics.

    The effects that groups share (the fixed ones, and those of the outer factors) are
    a latent part of the parameters with a posterior of their own, a flat prior for
    the fixed effects standing for the restricted likelihood; a group's effects are
    latent given them. The bound

    .. math:: F = E[\log p(y, b, \gamma)] + H(q(b \mid \gamma)) + H(q(\gamma))

    is then affine in the statistics however old they are (Neal and Hinton, 1998), and
    its maximum is that of the (restricted) likelihood.

    Parameters
    ----------
    See `LinearMixedModelECME`.
    """

    structure: Structure
    reml: bool
    algorithm: str
    log_offset: float
    weight: float
    starts: tuple[tuple[float, ...], ...] = ()
    totals: Totals | None = dataclasses.field(default=None, compare=False, repr=False)

    def survey(self, block: Block) -> GroupSummary:
        """Count."""
        return GroupSummary.of(block.X)

    def start(
        self,
        summary: Any,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> MixedParams:
        """Begin where the accelerated algorithms begin."""
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return LinearMixedModelECME(**known).start(
            summary, sample, rng=rng, mapreduce=mapreduce
        )

    def _factors(self, params: MixedParams) -> list[Array]:
        """Return the Cholesky factors, relative to sigma, kept from zero."""
        found = self.structure.factors_of(params.theta)
        for L in found:
            at = np.arange(len(L))
            L[at, at] = np.maximum(np.abs(L[at, at]), LEAST)
        return found

    def e_step(
        self, params: MixedParams, prepared: Block, local: Any = None
    ) -> tuple[SurrogateStats, None]:
        """Return the coefficients of some groups."""
        s = self.structure
        L, *_ = factors = self._factors(params)
        params = dataclasses.replace(params, theta=s.packed(factors))
        sums = group_sums(s, params, prepared.X, self.reml, expand=False)
        m, q = sums.n_groups, s.inner.n_random
        log_det = 2 * float(np.log(np.diag(L)).sum()) + q * np.log(params.sigma2)
        return SurrogateStats(
            products=np.einsum("ab,bwcz,dc->awdz", L, sums.products, L, optimize=True),
            covariance=params.sigma2 * L @ sums.precision @ L.T,
            residual=-sums.explained - np.einsum("awaz->wz", sums.products),
            trace=params.sigma2 * (q * m - float(np.trace(sums.precision))),
            entropy=(m * log_det - sums.log_det) / 2,
        ), None

    def m_step(self, params: MixedParams, stats: SurrogateStats) -> MixedParams:
        """Return the posterior of what is shared, then the variances."""
        s = self.structure
        c = s.n_coupled
        mean, cov = self._shared(params, stats)
        inner = self._squares(mean, cov, stats) / s.n_groups * s.inner.pattern
        stepped = [cholesky(inner)]
        for factor, at, n in zip(s.outer, s.slices(), s.levels, strict=True):
            stepped.append(cholesky(self._outer_squares(factor, mean, cov, at) / n))
        v = np.append(-mean, 1.0)
        moments = np.outer(v, v)
        moments[:-1, :-1] += cov
        assert self.totals is not None
        error = np.sum((self.totals.products + stats.residual) * moments)
        sigma2 = float(error + stats.trace) / self.weight
        whole = cov / sigma2
        if not self.reml:
            whole[c:] = whole[:, c:] = 0.0
        theta = s.packed([L / np.sqrt(sigma2) for L in stepped])
        return MixedParams(theta, sigma2, mean, whole)

    def _shared(
        self, params: MixedParams, stats: SurrogateStats
    ) -> tuple[Array, Array]:
        """Return mean and covariance of the best posterior of what is shared."""
        s = self.structure
        c = s.n_coupled
        assert self.totals is not None
        inner, *outer = self._factors(params)
        inverse = cho_solve((inner, True), np.eye(len(inner)))
        Q = self.totals.products + stats.residual
        Q = Q + np.tensordot(inverse, stats.products, axes=((0, 1), (0, 2)))
        Q = (Q + Q.T) / 2
        for L, at, n in zip(outer, s.slices(), s.levels, strict=True):
            prior = cho_solve((L, True), np.eye(len(L)))
            Q[at, at] += np.kron(np.eye(n), prior)
        both = cho_factor(Q[:-1, :-1], lower=True)
        mean = cho_solve(both, Q[:-1, -1])
        if self.reml:
            return mean, params.sigma2 * cho_solve(both, np.eye(len(mean)))
        cov = np.zeros_like(Q[:-1, :-1])
        if c:
            known = cho_factor(Q[:c, :c], lower=True)
            cov[:c, :c] = params.sigma2 * cho_solve(known, np.eye(c))
        return mean, cov

    def complete(self, params: MixedParams, stats: SurrogateStats) -> MixedParams:
        """Fill in the covariance of the fixed effects, which ML has no posterior of."""
        if self.reml:
            return params
        full = dataclasses.replace(self, reml=True)
        _, cov = full._shared(params, stats)
        return dataclasses.replace(params, cov=cov / params.sigma2)

    def _squares(self, mean: Array, cov: Array, stats: SurrogateStats) -> Array:
        """Return the sum of E[b b'] of the inner factor."""
        v = np.append(-mean, 1.0)
        moments = np.outer(v, v)
        moments[:-1, :-1] += cov
        found: Array = np.tensordot(stats.products, moments, axes=((1, 3), (0, 1)))
        return found + stats.covariance

    def _outer_squares(
        self, factor: Factor, mean: Array, cov: Array, at: slice
    ) -> Array:
        """Return the sum of E[b b'] of an outer factor, as far as it is free."""
        q = factor.n_random
        effects = mean[at].reshape(-1, q)
        n = len(effects)
        blocks = cov[at, at].reshape(n, q, n, q)
        own = np.einsum("nanb->ab", blocks)
        found: Array = (effects.T @ effects + own) * factor.pattern
        return found

    def lower_bound(self, params: MixedParams, stats: SurrogateStats) -> float:
        """Return the bound."""
        s = self.structure
        c, p, m = s.n_coupled, s.n_fixed, s.n_groups
        assert self.totals is not None
        cov = params.sigma2 * params.cov
        if not self.reml:
            cov = cov.copy()
            cov[c:] = cov[:, c:] = 0.0
        mean = params.mean
        v = np.append(-mean, 1.0)
        moments = np.outer(v, v)
        moments[:-1, :-1] += cov
        inner, *outer = (np.sqrt(params.sigma2) * L for L in self._factors(params))
        error = np.sum((self.totals.products + stats.residual) * moments) + stats.trace
        value = -self.weight / 2 * np.log(2 * np.pi * params.sigma2)
        value -= error / params.sigma2 / 2
        value += _prior(inner, self._squares(mean, cov, stats), m)
        value += stats.entropy + m * len(inner) / 2
        for factor, L, at, n in zip(s.outer, outer, s.slices(), s.levels, strict=True):
            squares = self._outer_squares(factor, mean, cov, at)
            value += _prior(L, squares, n) + n * len(L) / 2
        random = c + p if self.reml else c
        if random:
            sign, log_det = np.linalg.slogdet(cov[:random, :random])
            value += log_det / 2 if sign > 0 else 0.0
        if self.reml:
            value += p / 2 * (1 + np.log(2 * np.pi))
        return float(self.log_offset + value)


def _prior(L: Array, squares: Array, n: int) -> float:
    """Return E[log p(b)] but for the constant, for n groups."""
    half = solve_triangular(L, squares, lower=True)
    whole = solve_triangular(L, half.T, lower=True)
    return float(-n * np.log(np.diag(L)).sum() - np.trace(whole) / 2)
