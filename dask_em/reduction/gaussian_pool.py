"""All components of several Gaussian mixtures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .base import LocalFit

if TYPE_CHECKING:
    from ..models.gaussian_mixture import CovarianceType, GaussianMixtureParams

__all__ = ["GaussianPool", "Gaussians", "distances", "log_det", "squared"]

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

#: Divergence that is told from rounding, in nats.
_DISTINCT = 1e-10
#: Squared distance in standard deviations beyond which densities do not overlap.
_APART = 80.0


@dataclasses.dataclass(frozen=True)
class Gaussians:
    """Gaussians that the pooled ones may go to.

    Attributes
    ----------
    means : array of shape (K, d)
    covariances : array of shape (K, d, d) or (K, d)
    """

    means: Array
    covariances: Array

    def at(self, index: Any) -> Gaussians:
        """Return some of them."""
        return Gaussians(self.means[index], self.covariances[index])


@dataclasses.dataclass(frozen=True)
class GaussianPool:
    """All components of several mixtures, in units of the standard deviations within.

    The units are powers of two, which cost no digits; and the origin is a median, which
    a fit that is far off does not drag along with it.

    Attributes
    ----------
    weights : array of shape (L,)
        They add up to one.
    components : Gaussians
        With matrices for tied covariances, and with features' variances for spherical.
    log_det : array of shape (L,)
    owner : array of int of shape (L,)
        The fit that each is of.
    kind : {"full", "tied", "diag", "spherical"}
    origin, scale : arrays of shape (d,)
    """

    weights: Array
    components: Gaussians
    log_det: Array
    owner: Labels
    kind: CovarianceType
    origin: Array
    scale: Array

    @classmethod
    def of(
        cls,
        fits: Sequence[LocalFit[GaussianMixtureParams]],
        kind: CovarianceType,
    ) -> GaussianPool:
        """Pool some fits."""
        every = [fit.params for fit in fits]
        means = np.concatenate([params.means for params in every])
        d = means.shape[1]
        own = [params.covariances for params in every]
        if kind == "tied":
            own = [np.tile(p.covariances, (len(p.means), 1, 1)) for p in every]
        elif kind == "spherical":
            own = [np.tile(p.covariances[:, None], d) for p in every]
        covariances = np.concatenate(own)
        largest = max(fit.weight for fit in fits)
        shares = [fit.weight / largest for fit in fits]
        weights = np.concatenate(
            [
                params.weights / params.weights.sum() * share
                for params, share in zip(every, shares, strict=True)
            ]
        )
        weights = weights / weights.sum()
        variances = covariances
        if covariances.ndim == 3:
            variances = np.diagonal(covariances, axis1=1, axis2=2)
        scale = np.exp2(np.round(weights @ np.log2(variances) / 2))
        if kind == "spherical":
            scale = np.full(d, scale[0])
        origin = np.median(means, axis=0)
        units = scale[:, None] * scale if covariances.ndim == 3 else scale**2
        components = Gaussians((means - origin) / scale, covariances / units)
        return cls(
            weights,
            components,
            log_det(components.covariances),
            np.repeat(np.arange(len(fits)), [len(p.means) for p in every]),
            kind,
            origin,
            scale,
        )

    def params(
        self, weights: Array, targets: Gaussians, reg_covar: float
    ) -> GaussianMixtureParams:
        """Return a mixture in the units of the data."""
        from ..models.gaussian_mixture import (
            GaussianMixtureParams,
            precisions_cholesky_of,
        )

        covariances = targets.covariances
        if covariances.ndim == 3:
            covariances = covariances * (self.scale[:, None] * self.scale)
            covariances = covariances + reg_covar * np.eye(len(self.scale))
        else:
            covariances = covariances * self.scale**2 + reg_covar
        if self.kind == "tied":
            covariances = covariances[0]
        elif self.kind == "spherical":
            covariances = covariances[:, 0]
        means = self.origin + self.scale * targets.means
        return GaussianMixtureParams(
            weights=weights,
            means=means,
            covariances=covariances,
            precisions_cholesky=precisions_cholesky_of(covariances, self.kind),
            reference=means.copy(),
            origin=self.origin + self.scale * (weights @ targets.means),
        )

    def divergence(self, targets: Gaussians) -> tuple[Array, Array]:
        """Return the divergence of every component from every target, in two parts.

        Returns
        -------
        shape : array of shape (L, K)
            What it would be if the means were equal.
        distance : array of shape (L, K)
            What comes on top.
        """
        own, d = self.components, self.components.means.shape[1]
        if targets.covariances.ndim == 3:
            lower = np.linalg.cholesky(targets.covariances)
            white = np.linalg.inv(lower)
            precision = white.swapaxes(1, 2) @ white
            trace = own.covariances.reshape(-1, d * d) @ precision.reshape(-1, d * d).T
            volume = 2 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
            gap = (own.means - targets.means[:, None]) @ white.swapaxes(1, 2)
            distance = np.square(gap).sum(axis=2).T
        else:
            trace = own.covariances @ (1 / targets.covariances).T
            volume = np.log(targets.covariances).sum(axis=1)
            gap = own.means[:, None] - targets.means
            distance = (np.square(gap) / targets.covariances).sum(axis=2)
        shape = np.maximum(trace - d + volume - self.log_det[:, None], 0.0)
        return shape / 2, distance / 2

    def barycentres(self, labels: Labels, before: Gaussians) -> Gaussians:
        """Return targets with the moments of what went there, or as before."""
        own, k = self.components, len(before.means)
        share = np.zeros((k, len(labels)))
        share[labels, np.arange(len(labels))] = self.weights
        mass = share.sum(axis=1)
        full = mass > 0
        share[full] /= mass[full, None]
        means = np.where(full[:, None], share @ own.means, before.means)
        within = own.covariances + squared(own.means - means[labels], self.kind)
        flat = share @ within.reshape(len(labels), -1)
        covariances = flat.reshape(k, *within.shape[1:])
        if covariances.ndim == 3:
            covariances = (covariances + covariances.swapaxes(1, 2)) / 2
        if self.kind == "tied":
            shared = np.tensordot(mass / mass.sum(), covariances, axes=1)
            return Gaussians(means, np.broadcast_to(shared, covariances.shape).copy())
        covariances[~full] = before.covariances[~full]
        return Gaussians(means, covariances)

    def reseeded(self, targets: Gaussians, empty: Sequence[int]) -> Gaussians:
        """Put unused targets, one by one, where most divergence is.

        A target to which nothing goes may be put anywhere without a rise, and a
        component that has its own costs nothing more.
        """
        means, covariances = targets.means.copy(), targets.covariances.copy()
        used = np.setdiff1d(np.arange(len(means)), empty)
        shape, distance = self.divergence(targets.at(used))
        cost = (shape + distance).min(axis=1)
        for i in empty:
            # a shared covariance stays as it is
            gain = cost - shape[:, 0] if self.kind == "tied" else cost
            best = int(np.argmax(np.where(gain > _DISTINCT, self.weights * gain, 0.0)))
            if not gain[best] > _DISTINCT:
                break
            means[i] = self.components.means[best]
            if self.kind != "tied":
                covariances[i] = self.components.covariances[best]
            new = self.divergence(Gaussians(means[i : i + 1], covariances[i : i + 1]))
            cost = np.minimum(cost, (new[0] + new[1])[:, 0])
        return Gaussians(means, covariances)


def distances(pool: GaussianPool) -> Array:
    r"""Return distances between the densities of all pairs of fits.

    With inner products of densities, the distance of f and g is

    .. math:: \sqrt{-\log\frac{2\langle f, g\rangle}
              {\lVert f\rVert^2 + \lVert g\rVert^2}},

    which grows with their L2 distance in units of their norms and is close to it where
    that is small, but has no upper bound: between noisy fits in many dimensions the
    latter is nearly at its bound, and none would be far from the others.
    """
    mu, S = pool.components.means, pool.components.covariances
    (n, d), matrices = mu.shape, S.ndim == 3
    inner = np.empty((n, n))
    for i in range(n):
        # far enough for squares to overflow is far enough
        gap = np.clip(mu[i:] - mu[i], -1e100, 1e100)
        if not matrices:
            total = S[i:] + S[i]
            volume = np.log(total).sum(axis=1)
            distance = (np.square(gap) / total).sum(axis=1)
        else:
            # bounds, by the direction of the gap and the concavity of log det
            square = np.square(gap).sum(axis=1)
            along = ((gap @ S[i]) * gap).sum(axis=1)
            along += np.matmul(gap[:, None], S[i:] @ gap[:, :, None])[:, 0, 0]
            distance = square / np.maximum(along, 1e-300) * square
            volume = d * np.log(2) + (pool.log_det[i] + pool.log_det[i:]) / 2
            near = np.flatnonzero(~(distance > _APART))
            # the last row of the factor of a bordered matrix is the whitened gap
            bordered = np.zeros((len(near), d + 1, d + 1))
            bordered[:, :d, :d] = S[i] + S[i:][near]
            bordered[:, d, :d] = gap[near]
            bordered[:, d, d] = 1e300
            lower = np.linalg.cholesky(bordered)
            distance[near] = np.square(lower[:, d, :d]).sum(axis=1)
            diagonal = np.diagonal(lower, axis1=1, axis2=2)[:, :d]
            volume[near] = 2 * np.log(diagonal).sum(axis=1)
        inner[i, i:] = inner[i:, i] = -(volume + distance) / 2
    with np.errstate(divide="ignore"):
        weights = np.log(pool.weights)
    inner += weights[:, None] + weights
    starts = np.flatnonzero(np.diff(pool.owner, prepend=-1))
    inner = np.logaddexp.reduceat(np.logaddexp.reduceat(inner, starts, 0), starts, 1)
    # fits of different weight are compared as densities
    share = np.log(np.bincount(pool.owner, pool.weights))
    inner -= share[:, None] + share
    norms = np.diagonal(inner)
    both = np.logaddexp(norms[:, None], norms)
    return np.sqrt(np.maximum(both - np.log(2) - inner, 0.0))


def squared(gap: Array, kind: CovarianceType) -> Array:
    """Return what differences of means add to covariances of some type."""
    if kind in ("full", "tied"):
        return gap[:, :, None] * gap[:, None, :]
    squares = np.square(gap)
    if kind == "spherical":
        squares = np.tile(squares.mean(axis=1, keepdims=True), gap.shape[1])
    return squares


def log_det(covariances: Array) -> Array:
    """Return the logarithms of determinants."""
    if covariances.ndim == 2:
        return np.log(covariances).sum(axis=1)
    lower = np.linalg.cholesky(covariances)
    return 2 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
