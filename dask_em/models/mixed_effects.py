"""What a fitted mixed model says of the groups: modes and conditional covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grouping.table import GroupTable
from ..kernels.grouped import group_posteriors
from .linear_mixed import TILE, MixedParams, Structure

__all__ = ["group_effects", "known_cov"]

Array = NDArray[Any]


def known_cov(structure: Structure, params: MixedParams) -> Array:
    """Return the covariance of the outer effects for known fixed effects.

    In units of sigma^2, shape (n_coupled, n_coupled).
    """
    c = structure.n_coupled
    cov = params.cov
    if not c or not structure.n_fixed:
        return cov[:c, :c]
    across = np.linalg.solve(cov[c:, c:], cov[c:, :c])
    found: Array = cov[:c, :c] - cov[:c, c:] @ across
    return found


def group_effects(
    structure: Structure, params: MixedParams, outer_cov: Array, table: GroupTable
) -> tuple[Array, Array]:
    r"""Return modes and covariances of the random effects of a table's groups.

    Given the data, the fixed effects and the variances, in the coordinates of the
    parameters:

    .. math:: E[b_i] = M_i R_i v, \qquad
              \operatorname{cov}(b_i) = \sigma^2 (M_i + M_i R_o V_o R_o' M_i),

    where the second part is the uncertainty of the outer factors' effects.

    Returns
    -------
    modes : array of shape (m, q)
    covs : array of shape (m, q, q)
    """
    c, p, q = structure.n_coupled, structure.n_fixed, structure.inner.n_random
    d, m = p + 1, len(table)
    L = structure.factors_of(params.theta)[0]
    v = np.append(-params.mean, 1.0)
    whole = np.zeros((c + p, c + p))
    whole[:c, :c] = outer_cov
    modes = np.empty((m, q))
    covs = np.empty((m, q, q))
    nothing = np.zeros(c + d)
    # sums over groups that nobody wants here
    waste = np.zeros((c + d, c + d)), np.zeros((q, c + d, q, c + d)), np.zeros((q, q))
    for i in range(0, m, TILE):
        tile = table[i : i + TILE]
        t = len(tile)
        N, moments = np.empty((t, q, q)), np.empty((t, q, q))
        group_posteriors(
            tile.gram,
            tile.cross,
            L,
            tile.indptr,
            tile.columns,
            tile.couplings,
            nothing,
            whole,
            c,
            np.empty((t, q, q)),
            N,
            np.empty((t, q, d)),
            np.empty((t, q, d)),
            moments,
            *waste,
        )
        right = tile.cross @ v[c:]
        if c:
            owners = np.repeat(np.arange(t), np.diff(tile.indptr))
            np.add.at(right, owners, tile.couplings * v[tile.columns][:, None])
        modes[i : i + t] = np.einsum("ab,tbc,dc,td->ta", L, N, L, right, optimize=True)
        covs[i : i + t] = params.sigma2 * (L @ moments @ L.T)
    return modes, covs
