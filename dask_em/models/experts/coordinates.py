"""Unconstrained coordinates of mixtures of experts, for accelerators."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .params import LEAST_DOF, MOST_DOF, ExpertsParams

__all__ = ["packed", "unpacked"]

Array = NDArray[np.float64]


def packed(params: ExpertsParams) -> Array:
    """Return coefficients, Cholesky factors with log diagonals, and log dof."""
    parts = [params.gate[:-1].ravel(), params.coef.ravel()]
    if params.covariance.size:
        lower = np.linalg.cholesky(params.covariance)
        diagonal = np.diagonal(lower, axis1=1, axis2=2)
        rows, columns = np.tril_indices(lower.shape[-1], -1)
        parts += [
            np.log(diagonal).ravel(),
            (lower[:, rows, columns] / diagonal[:, columns]).ravel(),
        ]
    if len(params.dof):
        parts.append(np.log(params.dof))
    return np.concatenate(parts)


def unpacked(params: ExpertsParams, vector: Array) -> ExpertsParams:
    """Return parameters of the same shapes with the coordinates of a vector.

    Raises
    ------
    FloatingPointError
        If they overflow.
    """
    k, q = len(params.gate), params.covariance.shape[-1]
    sizes = [params.gate[:-1].size, params.coef.size]
    if params.covariance.size:
        sizes += [k * q, k * q * (q - 1) // 2]
    pieces = np.split(vector, np.cumsum(sizes))
    gate = np.zeros_like(params.gate)
    gate[:-1] = pieces[0].reshape(gate[:-1].shape)
    coef = pieces[1].reshape(params.coef.shape)
    covariance, dof = params.covariance, params.dof
    with np.errstate(over="raise", invalid="raise"):
        if params.covariance.size:
            diagonal = np.exp(pieces[2]).reshape(k, q)
            lower = np.zeros_like(covariance)
            rows, columns = np.tril_indices(q, -1)
            below = pieces[3].reshape(k, len(rows))
            lower[:, rows, columns] = below * diagonal[:, columns]
            lower[:, np.arange(q), np.arange(q)] = diagonal
            covariance = lower @ lower.swapaxes(1, 2)
        if len(dof):
            dof = np.clip(np.exp(pieces[-1]), LEAST_DOF, MOST_DOF)
    return dataclasses.replace(
        params, gate=gate, coef=coef.copy(), covariance=covariance, dof=dof
    )
