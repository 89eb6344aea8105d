"""Coordinates in which mixed models are well conditioned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from .rows import Columns, Factor, Rows
from .survey import Frame, Survey, stacked

__all__ = ["Basis"]

Array = NDArray[Any]

#: Part of a column that must not be explained by those before it.
COLLINEAR = 1e-11


@dataclasses.dataclass(frozen=True)
class Basis:
    r"""Coordinates in which a mixed model is fitted.

    The fixed effects' columns are made orthonormal, the response is replaced by its
    residuals from least squares, in units of their standard deviation, and the
    columns of every correlated set of random effects are made orthonormal too. The
    model is the same; what changes are its coordinates,

    .. math:: \beta = \beta_0 + J \tilde\beta, \qquad b = s T \tilde b.

    Parameters
    ----------
    origin : array of shape (k,)
        Subtracted from the fixed columns (the ones aside) before they are mapped.
    map : array of shape (p, p)
        Maps centred columns to orthonormal ones.
    response_origin : float
    response_coef : array of shape (p,)
        Least squares in the new coordinates.
    scale : float
        Standard deviation of the residuals.
    random_origins : tuple of array
    random_maps : tuple of array of shape (q, q)
    log_jacobian : float
        Of the map from data to coordinates, for the likelihood of y.
    log_restricted : float
        The same for the restricted likelihood.
    collinear : tuple of str
        Sets of random effects whose columns are linearly dependent.
    exact : bool
        Whether the fixed effects explain the response but for rounding.
    """

    origin: Array
    ones: bool
    map: Array
    response_origin: float
    response_coef: Array
    scale: float
    random_origins: tuple[Array, ...]
    random_ones: tuple[bool, ...]
    random_maps: tuple[Array, ...]
    log_jacobian: float
    log_restricted: float
    collinear: tuple[str, ...]
    exact: bool

    @classmethod
    def of(
        cls, survey: Survey, names: Sequence[str], factors: Sequence[Factor]
    ) -> Basis:
        """Choose coordinates.

        Raises
        ------
        ValueError
            If a fixed effect is a linear combination of those before it.
        """
        frame = survey.fixed
        p = len(frame.triangle) - 1
        weight = survey.weight
        signs = np.where(np.diag(frame.triangle) < 0, -1.0, 1.0)
        triangle = frame.triangle * signs[:, None]
        R = triangle[:p, :p]
        check_rank(R, names)
        map_ = solve_triangular(R, np.eye(p)) * np.sqrt(weight) if p else np.eye(0)
        r_xy = triangle[:p, p]
        rss = float(triangle[p, p])
        around = float(np.linalg.norm(triangle[int(frame.ones) :, p]))
        # residuals that are rounding have no scale of their own
        exact = not rss > 1e-13 * around
        scale = around if exact else rss
        scale = scale / np.sqrt(weight) if scale > 0 else 1.0
        origins, maps, collinear = [], [], []
        for factor, random in zip(factors, survey.random, strict=True):
            origin, mapped, bad = _random_map(random, factor, weight)
            origins.append(origin)
            maps.append(mapped)
            collinear += bad
        log_det = float(np.log(np.abs(np.diag(R))).sum() - p / 2 * np.log(weight))
        return cls(
            origin=frame.origin[:-1],
            ones=frame.ones,
            map=map_,
            response_origin=float(frame.origin[-1]),
            response_coef=r_xy / np.sqrt(weight),
            scale=scale,
            random_origins=tuple(origins),
            random_ones=tuple(random.ones for random in survey.random),
            random_maps=tuple(maps),
            log_jacobian=-float(np.log(scale)),
            log_restricted=-log_det + p * float(np.log(scale)),
            collinear=tuple(collinear),
            exact=exact,
        )

    @classmethod
    def least_norm(cls, survey: Survey) -> Basis:
        """Choose coordinates where fixed effects are linearly dependent.

        Their estimates are then those of the least norm, the intercept aside; without
        random effects, that is what least squares in scikit-learn gives. The columns
        of `map` that stand for nothing are zero.
        """
        frame = survey.fixed
        k = int(frame.ones)
        p = len(frame.triangle) - 1
        root = np.sqrt(survey.weight)
        R, r_xy = frame.triangle[:p, :p], frame.triangle[:p, p]
        U, sizes, V = np.linalg.svd(R[k:, k:])
        kept = sizes > COLLINEAR * sizes.max(initial=0.0)
        inverse = np.where(kept, root / np.where(kept, sizes, 1.0), 0.0)
        map_ = np.zeros((p, p))
        map_[k:, k:] = V.T * inverse
        coef = np.zeros(p)
        coef[k:] = np.where(kept, U.T @ r_xy[k:], 0.0) / root
        if k:
            map_[0, 0] = root / R[0, 0]
            map_[0, 1:] = -(R[0, 1:] @ map_[1:, 1:]) / R[0, 0]
            coef[0] = r_xy[0] / root
        found = cls.of(
            dataclasses.replace(
                survey,
                fixed=Frame(frame.ones, frame.origin[-1:], _response_only(frame, k)),
            ),
            ["Intercept"][:k],
            (),
        )
        return dataclasses.replace(
            found,
            origin=frame.origin[:-1],
            map=map_,
            response_coef=coef,
            log_restricted=0.0,
        )

    def products(self, rows: Rows) -> tuple[Array, list[Array]]:
        """Return rows in these coordinates, scaled by the roots of their weights.

        Returns
        -------
        W : array of shape (n, p + 1)
            Fixed effects and response.
        Z : list of array of shape (n, q)
            Random effects, by factor.
        """
        X = _mapped(rows.fixed, self.origin, self.map)
        y = np.asarray(rows.y, dtype=np.float64) - self.response_origin
        y -= X @ self.response_coef
        y /= self.scale
        W = np.column_stack([X, y])
        Z = [
            W[:, :-1]
            if factor.design.array is rows.fixed.array
            and factor.design.ones == rows.fixed.ones
            and np.array_equal(mapped, self.map)
            else _mapped(factor.design, origin, mapped)
            for factor, origin, mapped in zip(
                rows.factors, self.random_origins, self.random_maps, strict=True
            )
        ]
        if rows.weights is not None:
            roots = np.sqrt(rows.weights)[:, None]
            Z = [z * roots for z in Z]
            W = W * roots
        return W, Z

    # ------------------------------------------------------------- and back

    def coef(self, beta: Array) -> Array:
        """Return fixed effects in the user's coordinates."""
        inner = self.map @ (self.response_coef + self.scale * beta)
        coef: Array = self._uncentred(inner)
        if self.ones:
            coef[0] += self.response_origin
        return coef

    def coef_cov(self, cov: Array) -> Array:
        """Return the covariance of fixed effects in the user's coordinates."""
        J = self.scale * self._uncentred(self.map)
        return J @ cov @ J.T

    def _uncentred(self, inner: Array) -> Array:
        found = inner.copy()
        if self.ones:
            found[0] -= self.origin @ inner[1:]
        return found

    def random_map(self, factor: int) -> Array:
        """Return T of a factor: effects in the user's coordinates are s T times."""
        mapped: Array = self.random_maps[factor].copy()
        if self.random_ones[factor]:
            mapped[0] -= self.random_origins[factor] @ mapped[1:]
        return self.scale * mapped


def _response_only(frame: Frame, k: int) -> Array:
    """Return the factor of the ones and the response, the other columns left out."""
    return stacked([frame.triangle[:, [*range(k), -1]]], k + 1)


def _mapped(columns: Columns, origin: Array, map_: Array) -> Array:
    values = np.asarray(columns.array, dtype=np.float64)
    if columns.ones:
        out: Array = (values - origin) @ map_[1:]
        out += map_[0]
        return out
    return values @ map_


def check_rank(R: Array, names: Sequence[str]) -> None:
    """Raise `ValueError` for columns that the ones before them explain."""
    norms = np.linalg.norm(R, axis=0)
    left = np.abs(np.diag(R))
    bad = [
        name
        for name, rest, norm in zip(names, left, norms, strict=True)
        if not rest > COLLINEAR * norm
    ]
    if bad:
        raise ValueError(
            f"the fixed effects are linearly dependent: {', '.join(map(str, bad))} "
            f"{'is a combination' if len(bad) == 1 else 'are combinations'} of the "
            "columns before (or zero throughout); leave out as many columns."
        )


def _random_map(
    frame: Frame, factor: Factor, weight: float
) -> tuple[Array, Array, list[str]]:
    """Return origin and map of a factor's columns, and what is collinear in them."""
    q = factor.n_random
    R = frame.triangle.copy()
    origin = frame.origin.copy()
    mapped = np.zeros((q, q))
    bad = []
    for k, block in enumerate(factor.slices):
        centred = frame.ones and k == 0
        if frame.ones and not centred:  # a shift would mix in another block
            inner = slice(block.start - 1, block.stop - 1)
            R[:, block] += np.outer(R[:, 0], origin[inner])
            origin[inner] = 0.0
        triangle = R
        if len(factor.blocks) > 1:
            triangle = stacked([R[:, block]], block.stop - block.start)
        triangle = triangle * np.where(np.diag(triangle) < 0, -1.0, 1.0)[:, None]
        norms = np.linalg.norm(triangle, axis=0)
        if (np.abs(np.diag(triangle)) > COLLINEAR * norms).all():
            mapped[block, block] = solve_triangular(triangle, np.eye(len(triangle)))
        else:
            bad.append(", ".join(factor.columns[block]) + f" | {factor.name}")
            mapped[block, block] = np.diag(1 / np.where(norms > 0, norms, 1.0))
    return origin, mapped * np.sqrt(weight), bad
