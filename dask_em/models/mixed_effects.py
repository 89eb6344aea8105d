"""What a fitted mixed model says of the groups: modes and conditional covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grouping.table import GroupTable
from ..kernels.grouped import each_group
from .linear_mixed import MixedParams, Structure

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
    L = structure.factors_of(params.theta)[0]
    whole = np.zeros((c + p, c + p))
    whole[:c, :c] = outer_cov
    modes = np.empty((len(table), q))
    covs = np.empty((len(table), q, q))
    each_group(
        table.gram,
        table.cross,
        table.indptr,
        table.columns,
        table.couplings,
        L,
        np.append(-params.mean, 1.0),
        whole,
        c,
        modes,
        covs,
    )
    return modes @ L.T, params.sigma2 * (L @ covs @ L.T)
