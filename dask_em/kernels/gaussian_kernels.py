"""The loops over tiles of rows, compiled for one precision on first use.

Rows are read in tiles that stay in cache; no array of size ``n_samples`` is ever
allocated.  Tile arithmetic runs in the precision of the data, sums over tiles in
float64.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import from_dtype, njit, types
from numpy.typing import ArrayLike, NDArray

from .gaussian_tiles import (
    add_moments,
    add_scatter,
    load_tile,
    load_weights,
    mahalanobis,
    normalize,
    scaled_distances,
    subtract,
    sum_of,
    whiten,
)
from .simd import OPTIONS

Array = NDArray[Any]
Float64 = NDArray[np.float64]

# Of one feature in a tile: long enough to amortise the sums over lanes, short
# enough that a tile and its centred copy stay in the second-level cache.
_TILE_BYTES = 1024


def run(
    kernel: Any,
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    *parameters: Array,
) -> Any:
    """Run a kernel; its parameters are contiguous and have the dtype of the rows."""
    return _compiled(kernel, X.dtype)(
        X,
        np.asarray(() if sample_weight is None else sample_weight, np.float64),
        np.ascontiguousarray(origin, np.float64),
        *parameters,
        _TILE_BYTES // X.dtype.itemsize,
    )


@cache
def _compiled(kernel: Any, dtype: np.dtype[Any]) -> Any:
    """Compile a kernel for one precision.

    The explicit signature accepts every memory layout, writeable or not, where
    specialisation on demand would compile each combination anew.
    """
    scalar = from_dtype(dtype)
    rows = types.Array(scalar, 2, "A", readonly=True)
    weight = types.Array(types.float64, 1, "A", readonly=True)
    vector, matrix = scalar[::1], scalar[:, ::1]
    parameters = [vector, matrix, matrix]
    if kernel is separable_kernel:
        parameters = [vector, matrix, vector, matrix, matrix, matrix]
    signature = (rows, weight, types.float64[::1], *parameters, types.intp)
    # Numba's disk cache watches no file but this one; the name that it files the
    # machine code under tells versions of the others apart.
    kernel.__qualname__ = f"{kernel.__name__}_{_fingerprint()}"
    return njit(signature, cache=True, **OPTIONS)(kernel)


@cache
def _fingerprint() -> str:
    """Return a hash of the files whose functions are compiled into the kernels."""
    folder = Path(__file__).parent
    names = ("simd.py", "elementary.py", "gaussian_tiles.py")
    sources = b"".join((folder / name).read_bytes() for name in names)
    return hashlib.sha256(sources).hexdigest()[:12]


def full_kernel(
    X: Array,
    sample_weight: Float64,
    origin: Float64,
    constants: Array,
    centers: Array,
    panels: Array,
    rows: int,
) -> tuple[Float64, Float64, Float64, float]:
    """Quadratic forms of each component's own factor."""
    n_components, features = centers.shape
    blocks = features // 4
    counts = np.zeros(n_components)
    first = np.zeros((n_components, features))
    second = np.zeros((n_components, 8 * blocks * (blocks + 1)))
    tile = np.zeros(features * rows, X.dtype)
    centered = np.empty_like(tile)
    scaled = np.empty(4 * rows, X.dtype)
    scores = np.empty((n_components, rows), X.dtype)
    weights = np.empty(rows, X.dtype)
    peak = np.empty(rows, X.dtype)
    total = np.empty(rows, X.dtype)
    log_likelihood = 0.0
    for start in range(0, X.shape[0], rows):
        stop = min(start + rows, X.shape[0])
        load_tile(X, start, stop, origin, tile, rows)
        load_weights(sample_weight, start, stop, weights)
        for k in range(n_components):
            subtract(tile, centers[k], centered, rows)
            mahalanobis(centered, rows, features, panels[k], scores[k])
        log_likelihood += normalize(scores, constants, weights, peak, total)
        for k in range(n_components):
            count = sum_of(scores[k])
            if count == 0:
                continue
            counts[k] += count
            subtract(tile, centers[k], centered, rows)
            add_scatter(centered, rows, scores[k], scaled, first[k], second[k])
    return counts, first, second, log_likelihood


def separable_kernel(
    X: Array,
    sample_weight: Float64,
    origin: Float64,
    constants: Array,
    centers: Array,
    panels: Array,
    projected: Array,
    scale: Array,
    shift: Array,
    rows: int,
) -> tuple[Float64, Float64, Float64, float]:
    """Diagonal precisions; with ``panels``, of the whitened rows (tied).

    ``centers`` are about the rows, ``projected`` about the rows the distances are
    taken of: the same, but whitened for a tied covariance.
    """
    n_components, features = centers.shape
    counts = np.zeros(n_components)
    first = np.zeros((n_components, features))
    second = np.zeros((n_components, features))
    tile = np.zeros(features * rows, X.dtype)
    whitened = np.empty_like(tile) if panels.size else tile
    scores = np.empty((n_components, rows), X.dtype)
    weights = np.empty(rows, X.dtype)
    peak = np.empty(rows, X.dtype)
    total = np.empty(rows, X.dtype)
    log_likelihood = 0.0
    for start in range(0, X.shape[0], rows):
        stop = min(start + rows, X.shape[0])
        load_tile(X, start, stop, origin, tile, rows)
        load_weights(sample_weight, start, stop, weights)
        if panels.size:
            whiten(tile, rows, features, panels, whitened)
        for k in range(n_components):
            scaled_distances(
                whitened, rows, projected[k], scale[k], shift[k], scores[k]
            )
        log_likelihood += normalize(scores, constants, weights, peak, total)
        for k in range(n_components):
            count = sum_of(scores[k])
            if count == 0:
                continue
            counts[k] += count
            add_moments(tile, rows, centers[k], scores[k], first[k], second[k])
    return counts, first, second, log_likelihood
