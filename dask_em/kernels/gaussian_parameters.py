"""Parameters of Gaussian mixtures, rounded and laid out for the kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .simd import BLOCK

Array = NDArray[Any]
Float64 = NDArray[np.float64]

_NONE = np.empty(0)


class Components(NamedTuple):
    """Parameters about the origin, ready to be rounded to the tiles' precision.

    ``centers`` are rounded already and ``residues`` is what that leaves of the exact
    ones.  A full covariance whitens ``(x - centers) @ factor + shift``, the others
    ``(x @ factor - projected) * scale + shift``, with a factor only when tied.
    """

    centers: Float64
    residues: Float64
    log_det: Float64
    shift: Float64
    factor: Float64 = _NONE
    projected: Float64 = _NONE
    scale: Float64 = _NONE


def components_of(
    covariance_type: str,
    dtype: np.dtype[Any],
    origin: ArrayLike,
    log_weights: ArrayLike,
    means: ArrayLike,
    precisions_cholesky: ArrayLike,
) -> tuple[Components, Float64]:
    """Return the components and the log density of each at its mean, weighted."""
    exact = np.asarray(means, np.float64) - np.asarray(origin, np.float64)
    precisions_cholesky = np.asarray(precisions_cholesky, np.float64)
    components = _FORMS[covariance_type](dtype, exact, precisions_cholesky)
    constants = np.asarray(log_weights, np.float64) + components.log_det
    return components, constants - 0.5 * exact.shape[1] * np.log(2 * np.pi)


def _split(exact: Float64, dtype: np.dtype[Any]) -> tuple[Float64, Float64]:
    """Return the values rounded to ``dtype``, and what that leaves of them."""
    rounded = exact.astype(dtype).astype(np.float64)
    return rounded, exact - rounded


def _full(dtype: np.dtype[Any], exact: Float64, factor: Float64) -> Components:
    centers, residues = _split(exact, dtype)
    log_det = np.log(factor.diagonal(axis1=1, axis2=2)).sum(axis=1)
    shift = -np.einsum("kj,kji->ki", residues, factor)
    return Components(centers, residues, log_det, shift, factor)


def _tied(dtype: np.dtype[Any], exact: Float64, factor: Float64) -> Components:
    # Rows and centres must meet the same rounded factor for their projections to
    # cancel when they are close to each other and far from the origin.
    factor = _split(factor, dtype)[0]
    log_det = np.log(factor.diagonal()).sum()
    projected, remainder = _split(exact @ factor, dtype)
    scale = np.ones(exact.shape)
    return Components(
        *_split(exact, dtype), log_det, -remainder, factor, projected, scale
    )


def _diag(dtype: np.dtype[Any], exact: Float64, scale: Float64) -> Components:
    centers, residues = _split(exact, dtype)
    log_det = np.log(scale).sum(axis=1)
    return Components(
        centers, residues, log_det, -residues * scale, projected=centers, scale=scale
    )


def _spherical(dtype: np.dtype[Any], exact: Float64, scale: Float64) -> Components:
    return _diag(dtype, exact, np.repeat(scale[:, None], exact.shape[1], axis=1))


_FORMS = {"full": _full, "tied": _tied, "diag": _diag, "spherical": _spherical}


def padded_size(n_features: int) -> int:
    """Round up to a multiple of the block size."""
    return n_features + -n_features % BLOCK


def pad(values: Float64, dtype: np.dtype[Any]) -> Array:
    """Round to ``dtype`` and append features that are zero, up to whole blocks."""
    n_features = values.shape[1]
    padded = np.zeros((len(values), padded_size(n_features)), dtype)
    padded[:, :n_features] = values
    return padded


def pack(factors: Float64, shifts: Float64, dtype: np.dtype[Any]) -> Array:
    """Lay out upper-triangular factors in the order in which they are read.

    Panels of four columns, each without the rows that are zero in all of them and
    preceded by the columns' constant terms.
    """
    n_components, n_features = shifts.shape
    values = np.zeros((n_components, n_features * (n_features + 1) + 1), dtype)
    values[:, :n_features] = shifts
    values[:, n_features:-1] = factors.reshape(n_components, -1)
    return values.take(_panel_order(n_features), axis=1)


@lru_cache(maxsize=16)
def _panel_order(n_features: int) -> NDArray[np.intp]:
    """Return where the entries of the panels are in (shift, factor, 0)."""
    size = padded_size(n_features)
    table = np.full((size + 1, size), -1)
    stored = n_features * (n_features + 1)
    table[: n_features + 1, :n_features] = np.arange(stored).reshape(-1, n_features)
    return np.concatenate(
        [table[: i + BLOCK + 1, i : i + BLOCK].ravel() for i in range(0, size, BLOCK)]
    )


def unpack(blocks: Float64, n_features: int) -> Float64:
    """Assemble symmetric matrices from the blocks of their lower triangles."""
    return blocks.take(_block_order(n_features), axis=1)


@lru_cache(maxsize=16)
def _block_order(n_features: int) -> NDArray[np.intp]:
    """Return where the entries of a symmetric matrix are in its lower blocks."""
    axes = np.indices((n_features, n_features))
    lower = np.stack((axes.max(axis=0), axes.min(axis=0)))
    (i, j), (row, column) = np.divmod(lower, BLOCK)
    return BLOCK * (BLOCK * (i * (i + 1) // 2 + j) + row) + column
