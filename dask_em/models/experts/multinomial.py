"""Multinomial logistic experts: classifiers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...statistics import Statistics
from . import softmax
from .families import Family, Plan, Sums
from .params import ExpertsParams

__all__ = ["Multinomial", "MultinomialStats"]

Array = NDArray[np.float64]


#: Classes above which the blocks of a Hessian are too many.
MANY_CLASSES = 12


@dataclasses.dataclass(frozen=True)
class MultinomialStats(Statistics):
    """Gradient and curvature of weighted softmax regressions.

    Attributes
    ----------
    counts : array of shape (K,)
    linear : array of shape (K, G, p)
        The gradient; for EM's bound, plus the curvature times where it was taken.
    gram : array of shape (K, p, p)
        Weighted sums of z z'.
    hessian : array of shape (K, G (G - 1) / 2, p, p)
        Blocks of minus the Hessian; of no size for EM's bound.
    """

    counts: Array
    linear: Array
    gram: Array
    hessian: Array


@dataclasses.dataclass(frozen=True)
class Multinomial(Family):
    """Classes, coded 0 to G - 1, with log odds that are linear.

    Parameters
    ----------
    n_classes : int
    ridge : float
        On the experts' slopes.
    """

    n_classes: int = 2
    ridge: float = 0.0

    def n_predictors(self, n_targets: int) -> int:
        """One for each class, the last of them zero."""
        return self.n_classes

    @property
    def _bounded(self) -> bool:
        """Whether there are too many classes for exact curvatures."""
        return self.n_classes > MANY_CLASSES

    def n_grams(self, k: int, q: int, *, surrogate: bool) -> int:
        """One for each expert; in a Newton step, the Hessian's blocks besides."""
        surrogate = surrogate or self._bounded
        return k * (1 if surrogate else 1 + softmax.n_blocks(self.n_classes))

    def n_parameters(self, q: int, p: int) -> int:
        """Coefficients, against the last class."""
        return (self.n_classes - 1) * p

    def log_density(self, params: ExpertsParams, eta: Array, y: Array) -> Array:
        """Return log probabilities of classes."""
        codes = y[0].astype(np.intp)
        logs = _log_softmax(eta)
        return np.asarray(logs[:, codes, np.arange(len(codes))])

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
        """Return gradients and curvatures."""
        codes = y[0].astype(np.intp)
        probability = np.exp(_log_softmax(eta))
        gap = -probability
        gap[:, codes, np.arange(len(codes))] += 1.0
        linear = gap * r[:, None, :]
        gram = r
        if not surrogate and not self._bounded:
            blocks = [
                softmax.hessian_weights(p, w)
                for p, w in zip(probability, r, strict=True)
            ]
            gram = np.concatenate([r, *blocks])
        return Sums(gram, linear, {"counts": r.sum(axis=1)})

    def collect(
        self,
        params: ExpertsParams,
        gram: Array,
        linear: Array,
        plain: dict[str, Array],
        *,
        surrogate: bool,
    ) -> MultinomialStats:
        """Return the statistics."""
        k, _, p = linear.shape
        hessian = np.zeros((k, 0, p, p))
        if surrogate or self._bounded:
            curved = [
                softmax.curved(a, g) for a, g in zip(params.coef, gram, strict=True)
            ]
            linear = linear + np.stack(curved)
        else:
            hessian = gram[k:].reshape(k, -1, p, p)
        return MultinomialStats(plain["counts"], linear, gram[:k], hessian)

    def bound(self, params: ExpertsParams, stats: Any) -> float:
        """Return Böhning's bound but for its constant."""
        return sum(
            softmax.bohning_value(coef, linear, gram)
            for coef, linear, gram in zip(
                params.coef, stats.linear, stats.gram, strict=True
            )
        )

    def m_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return the maximum of the bound."""
        coef = params.coef.copy()
        for j, weight in enumerate(stats.counts):
            if weight > 0:
                linear = stats.linear[j]
                if stats.hessian.size:  # a gradient
                    linear = linear + softmax.curved(coef[j], stats.gram[j])
                coef[j] = softmax.bohning_step(linear, stats.gram[j], self.ridge)
        return {"coef": coef}

    def newton_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return Newton's step; the bound's, where there are many classes."""
        if self._bounded:
            return self.m_step(params, stats, var_floor)
        coef = params.coef.copy()
        for j, weight in enumerate(stats.counts):
            if weight > 0:
                hessian = softmax.hessian_of(stats.hessian[j], self.n_classes)
                coef[j] = softmax.newton_step(
                    coef[j], stats.linear[j], hessian, self.ridge
                )
        return {"coef": coef}

    def penalty(self, params: ExpertsParams) -> float:
        """Return the ridge's penalty."""
        return sum(softmax.penalty(coef, self.ridge) for coef in params.coef)

    def residual(self, eta: Array, y: Array) -> Array:
        """Return minus the log probability of the classes."""
        codes = y[0].astype(np.intp)
        return np.asarray(-_log_softmax(eta)[:, codes, np.arange(len(codes))])

    def linearised(self, y: Array) -> Array:
        """Return log odds of smoothed indicators."""
        codes = y[0].astype(np.intp)
        target = np.full((self.n_classes, len(codes)), -1.0)
        target[codes, np.arange(len(codes))] = 1.0
        return target - target[-1]

    # ------------------------------------------------------------- predictions

    def mean(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the probabilities of the classes."""
        return np.exp(_log_softmax(eta))

    def variance(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the variance of the classes' indicators."""
        p = self.mean(params, eta)
        return p * (1 - p)

    def draw(
        self, params: ExpertsParams, eta: Array, rng: np.random.Generator
    ) -> Array:
        """Draw classes."""
        noise = rng.gumbel(size=eta.shape)
        return np.argmax(eta + noise, axis=1)[None].astype(np.float64)

    # --------------------------------------------------------------- reduction

    def divergence(
        self, source: ExpertsParams, at: Array, target: ExpertsParams, eta: Array
    ) -> Array:
        """Return divergences of the classes' distributions."""
        here, there = _log_softmax(at), _log_softmax(eta)
        probability = np.exp(here)
        own = np.einsum("lgn,lgn->ln", probability, here)
        cross = np.einsum("lgn,kgn->lkn", probability, there)
        return np.maximum(own[:, None] - cross, 0.0)

    def overlap(self, params: ExpertsParams, eta: Array) -> Array:
        """Return probabilities of drawing the same class."""
        probability = np.exp(_log_softmax(eta))
        return np.einsum("agn,bgn->abn", probability, probability)

    def barycentre(
        self,
        source: ExpertsParams,
        at: Array,
        plan: Plan,
        target: ExpertsParams,
        Z: Array,
        var_floor: float,
    ) -> dict[str, Array]:
        """Return softmax regressions on the average probabilities."""
        from .regression import softmax_regression

        probability = np.exp(_log_softmax(at))
        coef = target.coef.copy()
        for k in range(plan.n_targets):
            total = np.einsum("ln,lgn->gn", plan.to(k), probability)
            if total.sum() > 0:
                coef[k] = softmax_regression(Z, total, coef[k], ridge=self.ridge)
        return {"coef": coef}


def _log_softmax(eta: Array) -> Array:
    shifted = eta - eta.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(shifted)
