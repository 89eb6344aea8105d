r"""Local Gaussian mixtures made one.

The pooled mixture of all local components, each with its weight times the share of its
rows, is reduced to the one of K components that minimises the composite
transportation divergence (Zhang and Chen, 2022)

.. math:: \sum_l w_l \min_k \mathrm{KL}(N_l \Vert N_k),

by turns: every pooled component goes to its nearest target, and every target becomes
the barycentre of what went there, which has the mean and the covariance of its part of
the mixture. Neither turn raises the divergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.threads import one_blas_thread
from .base import LocalFit, Reduced, Reduction, central, finite
from .gaussian_pool import GaussianPool, Gaussians, distances, log_det, squared

if TYPE_CHECKING:
    from ..models.gaussian_mixture import CovarianceType, GaussianMixtureParams

__all__ = ["reduce_gaussians"]

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

#: Local fits that the iteration is started from, at most.
_STARTS = 20
#: Components that are merged pair by pair; where there are more, they are thinned.
_PAIRWISE = 128


def reduce_gaussians(
    fits: Sequence[LocalFit[GaussianMixtureParams]],
    n_components: int,
    covariance_type: CovarianceType,
    settings: Reduction,
    *,
    reg_covar: float = 0.0,
) -> Reduced[GaussianMixtureParams]:
    """Return the Gaussian mixture of K components nearest to several local ones.

    Parameters
    ----------
    fits : sequence of LocalFit
        They may have different numbers of components.
    n_components : int
    covariance_type : {"full", "tied", "diag", "spherical"}
        Of the fits and of the result.
    settings : Reduction
    reg_covar : float, default=0.0
        Added to the variances of the result. Those of the local fits have theirs.

    Returns
    -------
    Reduced
        A component has weight 0 if fewer than K of the local ones are distinct.

    Raises
    ------
    ValueError
        If no fit is usable.
    """
    kept = finite(fits)
    if not kept:
        raise ValueError("no local fit is finite; check the data of the shards.")
    with one_blas_thread(), np.errstate(under="ignore"):
        if settings.robust and len(kept) > 2:
            pool = GaussianPool.of([fits[i] for i in kept], covariance_type)
            kept = tuple(kept[i] for i in central(distances(pool)))
        pool = GaussianPool.of([fits[i] for i in kept], covariance_type)
        seen: set[bytes] = set()
        found = [
            _climb_down(pool, start, settings, seen)
            for start in _starts(pool, n_components)
        ]
        targets, labels, objective = min(found, key=lambda one: one[2][-1])
    mass = np.bincount(labels, pool.weights, n_components)
    sizes = np.bincount(pool.owner)
    matching = None
    if (sizes == n_components).all():
        matching = labels.reshape(len(kept), n_components)
    params = pool.params(mass / mass.sum(), targets, reg_covar)
    total = sum(fits[i].weight for i in kept)
    return Reduced(params, np.asarray(objective), kept, matching, total)


def _climb_down(
    pool: GaussianPool,
    targets: Gaussians,
    settings: Reduction,
    seen: set[bytes],
) -> tuple[Gaussians, Labels, list[float]]:
    """Alternate between assignment and barycentres until the objective rests.

    A partition met before, in this run or another, leads where it led before.
    """
    objective: list[float] = []
    found: Any = None
    while True:
        shape, distance = pool.divergence(targets)
        cost = shape + distance
        labels = cost.argmin(axis=1)
        value = float(pool.weights @ cost.min(axis=1))
        fall = objective[-1] - value if objective else np.inf
        if not fall > 0:
            return found
        objective.append(value)
        found = targets, labels, objective
        # by the first member of each part, so that the order of targets is no matter
        _, first, part = np.unique(labels, return_index=True, return_inverse=True)
        key = first[part].tobytes()
        if (
            key in seen
            or fall <= settings.tol * max(value, 1e-12)
            or len(objective) > settings.max_iter
        ):
            return found
        seen.add(key)
        targets = pool.barycentres(labels, targets)
        mass = np.bincount(labels, pool.weights, len(targets.means))
        if not mass.all():
            targets = pool.reseeded(targets, np.flatnonzero(mass == 0).tolist())


# -------------------------------------------------------------------------- the starts


def _starts(pool: GaussianPool, k: int) -> list[Gaussians]:
    """Return the local fits nearest to all others, and what greedy merging gives."""
    sizes = np.bincount(pool.owner)
    own = [pool.components.at(pool.owner == m) for m in np.flatnonzero(sizes == k)]
    value = [pool.weights @ np.add(*pool.divergence(fit)).min(axis=1) for fit in own]
    starts = [own[i] for i in np.argsort(value, kind="stable")[:_STARTS]]
    if len(own) < len(sizes):
        first = pool.components.at(np.zeros(k, dtype=np.intp))
        starts.append(pool.barycentres(_merged(pool, k), first))
    return starts


def _merged(pool: GaussianPool, k: int) -> Labels:
    """Return K groups of components, made by the mergers that cost least.

    The cost is a bound on what the divergence rises by (Runnalls, 2007).
    """
    labels, targets = np.arange(len(pool.weights)), pool.components
    n = max(_PAIRWISE, 2 * k)
    if len(labels) > n:
        heaviest = np.full(n, pool.weights.argmax())
        targets = pool.reseeded(targets.at(heaviest), range(1, n))
        labels = np.add(*pool.divergence(targets)).argmin(axis=1)
        targets = pool.barycentres(labels, targets)
    weights = np.bincount(labels, pool.weights)
    n = len(weights)
    means, covariances = targets.means[:n].copy(), targets.covariances[:n].copy()
    volume = log_det(covariances)
    group = np.arange(n)

    def merger(i: int, j: Labels) -> tuple[Array, Array, Array]:
        """Return the moments of some pairs, and what their mergers cost."""
        both = weights[i] + weights[j]
        axes = (slice(None),) + (None,) * (covariances.ndim - 1)
        a, b = (weights[i] / both), (weights[j] / both)
        gap = means[j] - means[i]
        S = a[axes] * covariances[i] + b[axes] * covariances[j]
        S += (a * b)[axes] * squared(gap, pool.kind)
        cost = both * log_det(S) - weights[i] * volume[i] - weights[j] * volume[j]
        return means[i] + b[:, None] * gap, S, cost

    alive = weights > 0
    costs = np.full((n, n), np.inf)
    for i in np.flatnonzero(alive)[:-1]:
        others = i + 1 + np.flatnonzero(alive[i + 1 :])
        costs[i, others] = costs[others, i] = merger(i, others)[2]
    while alive.sum() > k:
        i, j = divmod(int(costs.argmin()), n)
        mean, S, _ = merger(i, np.array([j]))
        means[i], covariances[i], volume[i] = mean[0], S[0], log_det(S)[0]
        weights[i] += weights[j]
        alive[j] = False
        group[group == j] = i
        costs[j] = costs[:, j] = np.inf
        others = np.setdiff1d(np.flatnonzero(alive), i)
        costs[i, others] = costs[others, i] = merger(i, others)[2]
    # groups without weight go anywhere
    place = np.where(alive, np.cumsum(alive) - 1, 0)
    return place[group[labels]]
