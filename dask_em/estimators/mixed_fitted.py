"""What a mixed model was fitted to, and what its parameters say of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grouping.basis import Basis
from ..grouping.gather import Gathered
from ..models.linear_mixed import MixedParams, Structure, cholesky
from ..sharding import DaskData, Data, MemoryData, is_dask
from .mixed_effects import RandomEffects
from .mixed_input import MixedInput

__all__ = ["Fitted"]

Array = NDArray[Any]

#: Random effects up to which a fit has two starts.
FEW = 2000
#: Standard deviation, in units of the residuals', from which a start makes no sense.
FAR = 100.0


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a fit is of: stands in for the table of rows of other estimators."""

    given: MixedInput
    gathered: Gathered | None
    structure: Structure | None
    n_obs: float
    method: str
    basis: Basis | None = None
    sample_weight: Any = None

    @property
    def X(self) -> Data | None:
        """The tables of groups, as the engine's data."""
        if self.gathered is None:
            return None
        table = self.gathered.table
        return DaskData(table) if is_dask(table) else MemoryData(table)

    @property
    def y(self) -> None:
        """None: the responses are in the tables."""
        return None

    @property
    def columns(self) -> Mapping[str, Any]:
        """Attributes that describe the columns of X."""
        return self.given.columns

    def attributes(self, params: MixedParams) -> Mapping[str, Any]:
        """Return the fitted attributes, in the user's coordinates."""
        front = self.given.front
        gathered, structure = self.gathered, self.structure
        basis = self.basis if gathered is None else gathered.basis
        assert basis is not None
        c = 0 if structure is None else structure.n_coupled
        beta = basis.coef(params.mean[c:])
        effects: Mapping[str, Any] = {}
        covariance: dict[str, Array] = {}
        groups: dict[str, int] = {}
        n_theta = 0
        if gathered is not None and structure is not None:
            layout = gathered.layout
            order = (layout.inner, *layout.outer)
            factors = structure.factors_of(params.theta)
            found = {}
            for f, L in zip(order, factors, strict=True):
                half = basis.random_map(f) @ L
                found[f] = params.sigma2 * half @ half.T
            for f, factor in enumerate(front.factors):
                covariance[factor.name] = found[f] * factor.pattern
            sizes = dict(
                zip(order, (structure.n_groups, *structure.levels), strict=True)
            )
            groups = {g.name: sizes[f] for f, g in enumerate(front.factors)}
            n_theta = structure.n_theta
            effects = RandomEffects(
                structure, params, basis, order, layout.levels, gathered.table
            )
        ones = bool(basis.ones)
        return {
            "fixed_names_": list(front.names),
            "intercept_": float(beta[0]) if ones else 0.0,
            "coef_": beta[1:] if ones else beta,
            "_beta": beta,
            "fixed_covariance_": basis.coef_cov(params.cov[c:, c:] * params.sigma2),
            "covariance_": covariance,
            "effects_": {g.name: list(g.columns) for g in front.factors},
            "sigma2_": float(params.sigma2 * basis.scale**2),
            "random_effects_": effects,
            "n_obs_": self.n_obs,
            "n_groups_": groups,
            "n_parameters_": len(beta) + n_theta + 1,
            "method_": self.method,
            "_front": front,
        }

    def starts(self) -> tuple[tuple[float, ...], ...]:
        """Return Cholesky factors to start from.

        Random effects as large as the residuals in orthonormal coordinates; and, where
        there are few of them, so that the likelihood may have several maxima and a
        second fit costs little, in the user's coordinates, where lme4 starts.
        """
        structure, gathered = self.structure, self.gathered
        assert structure is not None and gathered is not None
        units = [np.eye(factor.n_random) for factor in structure.factors]
        found = [structure.packed(units)]
        size = structure.n_groups * structure.inner.n_random + structure.n_coupled
        if size <= FEW and any(factor.n_random > 1 for factor in structure.factors):
            layout, basis = gathered.layout, gathered.basis
            theirs = []
            order = (layout.inner, *layout.outer)
            for f, factor in zip(order, structure.factors, strict=True):
                back = np.linalg.inv(basis.random_map(f) / basis.scale)
                theirs.append(cholesky(back @ back.T * factor.pattern))
            theta = structure.packed(theirs)
            if np.abs(theta).max() < FAR:  # else offsets or scales say nothing
                found.append(theta)
        return tuple(tuple(theta.tolist()) for theta in found)

    def check_identified(self) -> None:
        """Raise `ValueError` where the data cannot tell the variances apart."""
        structure, n = self.structure, self.n_obs
        assert structure is not None and self.gathered is not None
        if self.gathered.basis.exact:
            raise ValueError(
                "the fixed effects explain y exactly, or y is constant: there is "
                "nothing left that could vary between groups or rows."
            )
        p = structure.n_fixed
        if n <= p:
            raise ValueError(
                f"{n:g} observations are too few for {p} fixed effects and a residual "
                "variance; leave out columns."
            )
        sizes = (structure.n_groups, *structure.levels)
        for factor, m in zip(structure.factors, sizes, strict=True):
            if m < 2:
                raise ValueError(
                    f"the grouping factor {factor.name!r} has one group only, which "
                    "tells nothing about how groups vary; leave it out."
                )
            effects = m * factor.n_random
            if effects >= n:
                raise ValueError(
                    f"the {m} groups of {factor.name!r} have {effects} random effects, "
                    f"as many as there are observations ({n:g}) or more, so that they "
                    "cannot be told from residuals; leave out slopes or the factor (or "
                    "set weights='precision', if weights are not numbers of rows)."
                )
