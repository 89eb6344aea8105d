"""Fused expectation step of Gaussian mixtures.

One pass over the rows yields everything an EM iteration needs: the densities, the
responsibilities, the weighted statistics and the log-likelihood.

Every call is single-threaded and releases the GIL: callers run one call per thread
on disjoint row blocks and add the results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .gaussian_kernels import full_kernel, run, separable_kernel
from .gaussian_parameters import components_of, pack, pad, unpack

Array = NDArray[Any]
Float64 = NDArray[np.float64]

_BLAS_ROWS = 2048


def full_e_step(
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    log_weights: ArrayLike,
    means: ArrayLike,
    precisions_cholesky: ArrayLike,
) -> tuple[Float64, Float64, Float64, float]:
    """Compute the expectation step of a mixture with full covariances.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows, float32 or float64, in any memory layout. Their dtype is the precision
        of the densities; sums are kept in float64.
    sample_weight : array-like of shape (n_samples,) or None
        Non-negative weights of the rows; None means one each.
    origin : array-like of shape (n_features,)
        Point near the data, subtracted in float64 before anything is rounded.
    log_weights : array-like of shape (n_components,)
        Logarithms of the mixing proportions; ``-inf`` switches a component off.
    means : array-like of shape (n_components, n_features)
        Component means, in the coordinates of `X`.
    precisions_cholesky : array-like of shape (n_components, n_features, n_features)
        Upper-triangular factors ``U`` of the precision matrices ``U @ U.T``.

    Returns
    -------
    counts : ndarray of shape (n_components,)
        Weighted sums of the responsibilities.
    first : ndarray of shape (n_components, n_features)
        Weighted sums of ``x - mean``.
    second : ndarray of shape (n_components, n_features, n_features)
        Weighted sums of the outer products of ``x - mean``.
    log_likelihood : float
        Weighted sum of the rows' log densities under the mixture.
    """
    X = _check_rows(X)
    dtype, n_features = X.dtype, X.shape[1]
    components, constants = components_of(
        "full", dtype, origin, log_weights, means, precisions_cholesky
    )
    centers, residues, _, shift, factor, *_ = components
    counts, first, blocks, log_likelihood = run(
        full_kernel,
        X,
        sample_weight,
        origin,
        constants.astype(dtype),
        pad(centers, dtype),
        pack(factor, shift, dtype),
    )
    first = first[:, :n_features]
    second = unpack(blocks, n_features)
    # From the rounded centres to the exact means. Both terms are symmetric in floating
    # point, too.
    moved = first - 0.5 * counts[:, None] * residues
    cross = residues[:, :, None] * moved[:, None, :]
    second -= cross + cross.swapaxes(1, 2)
    first = first - counts[:, None] * residues
    return counts, first, second, log_likelihood


def tied_e_step(
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    log_weights: ArrayLike,
    means: ArrayLike,
    precisions_cholesky: ArrayLike,
) -> tuple[Float64, Float64, float]:
    """Compute the expectation step of a mixture with one shared covariance.

    The second moments are left out: the scatter of the data about the overall mean
    does not depend on the responsibilities, and the shared covariance follows from
    it and the component means.

    Parameters
    ----------
    X, sample_weight, origin, log_weights, means
        As in `full_e_step`.
    precisions_cholesky : array-like of shape (n_features, n_features)
        Upper-triangular factor ``U`` of the precision matrix ``U @ U.T``.

    Returns
    -------
    counts : ndarray of shape (n_components,)
        Weighted sums of the responsibilities.
    first : ndarray of shape (n_components, n_features)
        Weighted sums of ``x - mean``.
    log_likelihood : float
        Weighted sum of the rows' log densities under the mixture.
    """
    counts, first, _, log_likelihood = _separable_e_step(
        "tied", X, sample_weight, origin, log_weights, means, precisions_cholesky
    )
    return counts, first, log_likelihood


def diag_e_step(
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    log_weights: ArrayLike,
    means: ArrayLike,
    precisions_cholesky: ArrayLike,
) -> tuple[Float64, Float64, Float64, float]:
    """Compute the expectation step of a mixture with diagonal covariances.

    Parameters
    ----------
    X, sample_weight, origin, log_weights, means
        As in `full_e_step`.
    precisions_cholesky : array-like of shape (n_components, n_features)
        Inverse standard deviations.

    Returns
    -------
    counts : ndarray of shape (n_components,)
        Weighted sums of the responsibilities.
    first : ndarray of shape (n_components, n_features)
        Weighted sums of ``x - mean``.
    second : ndarray of shape (n_components, n_features)
        Weighted sums of ``(x - mean) ** 2``.
    log_likelihood : float
        Weighted sum of the rows' log densities under the mixture.
    """
    return _separable_e_step(
        "diag", X, sample_weight, origin, log_weights, means, precisions_cholesky
    )


def spherical_e_step(
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    log_weights: ArrayLike,
    means: ArrayLike,
    precisions_cholesky: ArrayLike,
) -> tuple[Float64, Float64, Float64, float]:
    """Compute the expectation step of a mixture with spherical covariances.

    Parameters
    ----------
    X, sample_weight, origin, log_weights, means
        As in `full_e_step`.
    precisions_cholesky : array-like of shape (n_components,)
        Inverse standard deviations.

    Returns
    -------
    counts : ndarray of shape (n_components,)
        Weighted sums of the responsibilities.
    first : ndarray of shape (n_components, n_features)
        Weighted sums of ``x - mean``.
    second : ndarray of shape (n_components,)
        Weighted sums of ``(x - mean) ** 2``, summed over the features.
    log_likelihood : float
        Weighted sum of the rows' log densities under the mixture.
    """
    counts, first, second, log_likelihood = _separable_e_step(
        "spherical", X, sample_weight, origin, log_weights, means, precisions_cholesky
    )
    return counts, first, second.sum(axis=1), log_likelihood


def weighted_log_prob(
    X: Array,
    origin: ArrayLike,
    log_weights: ArrayLike,
    means: ArrayLike,
    precisions_cholesky: ArrayLike,
    covariance_type: str,
) -> Array:
    """Compute the log joint density of every row and component.

    Parameters
    ----------
    X, origin, log_weights, means, precisions_cholesky
        As in the expectation step of the covariance type.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Form of the covariances.

    Returns
    -------
    ndarray of shape (n_samples, n_components)
        Log mixing proportion plus log density, in the dtype of `X`.
    """
    X = _check_rows(X)
    components, constants = components_of(
        covariance_type, X.dtype, origin, log_weights, means, precisions_cholesky
    )
    centers, _, _, shift, factor, projected, scale = (
        value.astype(X.dtype) for value in components
    )
    log_prob = np.empty((len(X), len(constants)), X.dtype)
    for start in range(0, len(X), _BLAS_ROWS):
        rows = slice(start, start + _BLAS_ROWS)
        tile = (X[rows] - np.asarray(origin, np.float64)).astype(X.dtype, copy=False)
        if covariance_type == "tied":
            tile = tile @ factor
        for k in range(len(constants)):
            if covariance_type == "full":
                whitened = (tile - centers[k]) @ factor[k] + shift[k]
            else:
                whitened = (tile - projected[k]) * scale[k] + shift[k]
            log_prob[rows, k] = np.einsum("ij,ij->i", whitened, whitened)
    log_prob *= -0.5
    log_prob += constants.astype(X.dtype)
    return log_prob


def _separable_e_step(
    covariance_type: str,
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    *parameters: ArrayLike,
) -> tuple[Float64, Float64, Float64, float]:
    X = _check_rows(X)
    dtype, n_features = X.dtype, X.shape[1]
    components, constants = components_of(covariance_type, dtype, origin, *parameters)
    centers, residues, _, shift, factor, projected, scale = components
    panels = np.empty(0, dtype)
    if factor.size:
        panels = pack(factor[None], np.zeros((1, n_features)), dtype)[0]
    counts, first, second, log_likelihood = run(
        separable_kernel,
        X,
        sample_weight,
        origin,
        constants.astype(dtype),
        pad(centers, dtype),
        panels,
        pad(projected, dtype),
        pad(scale, dtype),
        pad(shift, dtype),
    )
    first, second = first[:, :n_features], second[:, :n_features]
    # From the rounded centres to the exact means.
    second = second - residues * (2 * first - counts[:, None] * residues)
    first = first - counts[:, None] * residues
    return counts, first, second, log_likelihood


def _check_rows(X: Array) -> Array:
    X = np.require(X, requirements="A")
    if X.ndim != 2 or X.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"X must be a 2-D float32 or float64 array, not {X.ndim}-D {X.dtype}"
        )
    return X
