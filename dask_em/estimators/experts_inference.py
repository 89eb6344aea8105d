"""Standard errors of mixtures of experts."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from numpy.typing import NDArray

from ..models.experts.coordinates import packed, unpacked
from ..models.experts.density import ExpertsDensity
from ..models.experts.information import Information, free_coordinates
from .table import Table

__all__ = ["StandardErrors", "standard_errors"]

Array = NDArray[np.float64]

#: Relative step of the delta method's derivatives.
_STEP = 1e-6


@dataclasses.dataclass(frozen=True)
class StandardErrors:
    """Standard errors of the parameters of a mixture of experts.

    Attributes
    ----------
    gate_intercept : array of shape (K,)
    gate_coef : array of shape (K, g)
        Zero for the last component, which the others are compared with.
    intercept : array of shape (K,) or (K, q)
    coef : array of shape (K, p) or (K, q, p)
    covariance : array of shape (K, q, q)
        Of no size where experts have none.
    dof : array of shape (K,)
        Of no size for experts without.
    matrix : array of shape (n_parameters, n_parameters)
        Covariance matrix of the free parameters in standard units, in which
        covariances are Cholesky factors with logarithms on the diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import MixtureOfExpertsRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 1))
    >>> y = 2 + 3 * X[:, 0] + rng.normal(size=400)
    >>> line = MixtureOfExpertsRegressor(1).fit(X, y)
    >>> line.standard_errors(X, y).coef.round(2)
    array([[0.05]])
    """

    gate_intercept: Array
    gate_coef: Array
    intercept: Array
    coef: Array
    covariance: Array
    dof: Array
    matrix: Array


def ridge_curvature(k: int, g: int, ridge: float) -> Array:
    """Return the curvature of a ridge on the slopes of K log odds, of all K."""
    coupling = np.eye(k) - np.full((k, k), 1.0 / k)
    slopes = np.diag(np.append(0.0, np.ones(g - 1)))
    return ridge * np.kron(coupling, slopes)


def standard_errors(
    density: ExpertsDensity, table: Table, reg_gate: float, reg_expert: float = 0.0
) -> StandardErrors:
    """Invert the observed information at the fitted parameters.

    Parameters
    ----------
    density : ExpertsDensity
    table : Table
        With the responses.
    reg_gate, reg_expert : float
        Ridges on the gate and on the experts of a classifier, which count as
        information.
    """
    params, design = density.params, density.design
    basis = free_coordinates(density)
    information = table.reduce(Information(density))
    k, g = params.gate.shape
    if reg_gate and k > 1:
        n = (k - 1) * g
        information[:n, :n] += ridge_curvature(k, g, reg_gate)[:n, :n]
    if reg_expert:
        _, q, p = params.coef.shape
        for c in range(k):
            own = slice((k - 1) * g + c * q * p, (k - 1) * g + (c + 1) * q * p)
            information[own, own] += ridge_curvature(q, p, reg_expert)
    free = basis.T @ information @ basis
    free = (free + free.T) / 2
    if not np.isfinite(free).all():
        raise ValueError(
            "the observed information is not finite at these rows; check the scale of "
            "X and y."
        )
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diagonal(free)), 1e-300))
    values, vectors = np.linalg.eigh(free * scale * scale[:, None])
    known = values > 1e-10 * values.max()
    half = (scale[:, None] * vectors[:, known]) / np.sqrt(values[known])
    matrix = half @ half.T
    unknown = vectors[:, ~known]
    if not known.all():
        warnings.warn(
            "The observed information is singular: some parameters are not determined "
            "by the data, and have no standard errors (NaN). Try fewer components or "
            "columns, or reg_gate.",
            UserWarning,
            stacklevel=3,
        )
        lost = np.abs(unknown).max(axis=1) > 1e-4
        matrix[lost] = matrix[:, lost] = np.nan
    # the delta method, to the units of the data
    vector = packed(params)

    def raw(step: Array) -> Array:
        found = unpacked(params, vector + step).raw(design)
        parts = (found.gate, found.coef, found.covariance, found.dof)
        return np.concatenate([part.ravel() for part in parts])

    columns = []
    for direction in basis.T:
        h = _STEP * max(1.0, float(np.abs(vector[direction > 0]).max()))
        columns.append((raw(h * direction) - raw(-h * direction)) / (2 * h))
    J = np.stack(columns, axis=1)
    # what does not depend on a parameter is as sure without it
    parts = np.where((J != 0)[:, :, None] & (J != 0)[:, None, :], matrix, 0.0)
    errors = np.sqrt(np.maximum(np.einsum("ij,ijk,ik->i", J, parts, J), 0.0))
    shapes: list[Array] = [params.gate, params.coef, params.covariance, params.dof]
    ends = np.cumsum([part.size for part in shapes])[:3]
    gate, coef, covariance, dof = (
        piece.reshape(part.shape)
        for piece, part in zip(np.split(errors, ends), shapes, strict=True)
    )
    single = density.n_responses == 1 and (table.y is None or table.y.ndim == 1)
    intercept, slopes = coef[..., 0], coef[..., 1:]
    return StandardErrors(
        gate[:, 0],
        gate[:, 1:],
        intercept[:, 0] if single else intercept,
        slopes[:, 0] if single else slopes,
        covariance,
        dof,
        matrix,
    )
