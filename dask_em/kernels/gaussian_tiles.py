"""What the Gaussian kernels do with one tile of rows.

A tile is a flat array of features x rows, the number of features padded with zeros
to a multiple of four, the number of rows a multiple of four vectors.  Lanes of a
vector hold consecutive rows of one feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .elementary import exp, log
from .simd import (
    OPTIONS,
    add,
    add_products,
    add_sums,
    fma,
    lanes,
    load,
    load4,
    mul,
    splat,
    splat4,
    store4,
    sub,
    zeros,
)

Array = NDArray[Any]
Float64 = NDArray[np.float64]


@njit(**OPTIONS)
def load_tile(
    X: Array, start: int, stop: int, origin: Float64, tile: Array, rows: int
) -> None:
    """Copy rows of ``X`` minus ``origin``; repeat the last one to fill the tile."""
    for j in range(X.shape[1]):
        shift = origin[j]
        row = j * rows
        for t in range(stop - start):
            tile[row + t] = X[start + t, j] - shift
        for t in range(stop - start, rows):
            tile[row + t] = tile[row + stop - start - 1]


@njit(**OPTIONS)
def load_weights(sample_weight: Float64, start: int, stop: int, weights: Array) -> None:
    """Copy the weights of the tile's rows; rows that only fill the tile have none."""
    weights[: stop - start] = 1
    weights[stop - start :] = 0
    if sample_weight.size:
        for t in range(stop - start):
            weights[t] = sample_weight[start + t]


@njit(**OPTIONS)
def subtract(tile: Array, center: Array, centered: Array, rows: int) -> None:
    """Subtract the centre from every row."""
    v = lanes(tile)
    for j in range(center.size):
        value = splat(center[j])
        for t in range(j * rows, (j + 1) * rows, 4 * v):
            store4(centered, t, v, sub(load4(tile, t, v), value))


@njit(**OPTIONS)
def _project(
    tile: Array, t: int, rows: int, panels: Array, position: int, length: int
) -> Any:
    """Project four vectors of rows onto the four columns of a panel.

    The columns' constant terms come first in the panel, then ``length`` rows.
    """
    v = lanes(tile)
    one = splat(tile.dtype.type(1))
    constants = splat4(panels, position)
    z = add_products(zeros(tile, 16), constants, (one, one, one, one))
    for j in range(length):
        x = load4(tile, j * rows + t, v)
        z = add_products(z, splat4(panels, position + 4 * (j + 1)), x)
    return z


@njit(**OPTIONS)
def whiten(
    tile: Array, rows: int, features: int, panels: Array, whitened: Array
) -> None:
    """Multiply every row of the tile by an upper-triangular factor."""
    v = lanes(tile)
    for t in range(0, rows, 4 * v):
        position = 0
        for i in range(0, features, 4):
            z = _project(tile, t, rows, panels, position, i + 4)
            position += 4 * (i + 5)
            p = i * rows + t
            store4(whitened, p, v, z[:4])
            store4(whitened, p + rows, v, z[4:8])
            store4(whitened, p + 2 * rows, v, z[8:12])
            store4(whitened, p + 3 * rows, v, z[12:])


@njit(**OPTIONS)
def mahalanobis(
    tile: Array, rows: int, features: int, panels: Array, distances: Array
) -> None:
    """Compute the squared norms of the rows times an upper-triangular factor."""
    v = lanes(tile)
    for t in range(0, rows, 4 * v):
        total = zeros(tile, 4)
        position = 0
        for i in range(0, features, 4):
            z = _project(tile, t, rows, panels, position, i + 4)
            position += 4 * (i + 5)
            total = fma(z[:4], z[:4], total)
            total = fma(z[4:8], z[4:8], total)
            total = fma(z[8:12], z[8:12], total)
            total = fma(z[12:], z[12:], total)
        store4(distances, t, v, total)


@njit(**OPTIONS)
def scaled_distances(
    tile: Array,
    rows: int,
    center: Array,
    scale: Array,
    shift: Array,
    distances: Array,
) -> None:
    """Compute the squared norms of ``(x - center) * scale + shift``."""
    v = lanes(tile)
    for t in range(0, rows, 4 * v):
        total = zeros(tile, 4)
        for j in range(center.size):
            z = sub(load4(tile, j * rows + t, v), splat(center[j]))
            z = fma(z, splat(scale[j]), splat(shift[j]))
            total = fma(z, z, total)
        store4(distances, t, v, total)


@njit(**OPTIONS)
def normalize(
    scores: Array, constants: Array, weights: Array, peak: Array, total: Array
) -> float:
    """Turn squared distances into weighted responsibilities, in place.

    Returns the weighted log-likelihood of the tile.
    """
    rows = weights.size
    half = scores.dtype.type(0.5)
    peak[:] = -np.inf
    total[:] = 0
    for k in range(constants.size):
        score, constant = scores[k], constants[k]
        for t in range(rows):
            score[t] = constant - half * score[t]
            peak[t] = score[t] if score[t] > peak[t] else peak[t]
    for k in range(constants.size):
        score = scores[k]
        for t in range(rows):
            score[t] = exp(score[t] - peak[t])
            total[t] += score[t]
    log_likelihood = 0.0
    for t in range(rows):
        log_density = np.float64(peak[t]) + np.float64(log(total[t]))
        log_likelihood += np.float64(weights[t]) * log_density
        total[t] = weights[t] / total[t]
    for k in range(constants.size):
        score = scores[k]
        for t in range(rows):
            score[t] *= total[t]
    return log_likelihood


@njit(**OPTIONS)
def sum_of(values: Array) -> float:
    """Return the sum in float64."""
    total = 0.0
    for t in range(values.size):
        total += np.float64(values[t])
    return total


@njit(**OPTIONS)
def add_scatter(
    centered: Array,
    rows: int,
    weights: Array,
    scaled: Array,
    first: Float64,
    second: Float64,
) -> None:
    """Add the weighted first moments and the lower 4x4 blocks of the second."""
    v = lanes(centered)
    position = 0
    for i in range(0, first.size, 4):
        total = zeros(centered, 4)
        for t in range(0, rows, v):
            y = mul(load4(centered, i * rows + t, rows), load(weights, t))
            store4(scaled, t, rows, y)
            total = add(total, y)
        add_sums(first, i, total)
        for j in range(0, i + 4, 4):
            block = zeros(centered, 16)
            for t in range(0, rows, v):
                y = load4(scaled, t, rows)
                block = add_products(block, y, load4(centered, j * rows + t, rows))
            add_sums(second, position, block)
            position += 16


@njit(**OPTIONS)
def add_moments(
    tile: Array,
    rows: int,
    center: Array,
    weights: Array,
    first: Float64,
    second: Float64,
) -> None:
    """Add the weighted first moments about a centre, and those of the squares."""
    v = lanes(tile)
    for j in range(0, center.size, 4):
        value = splat4(center, j)
        sums = squares = zeros(tile, 4)
        for t in range(0, rows, v):
            x = sub(load4(tile, j * rows + t, rows), value)
            y = mul(x, load(weights, t))
            sums = add(sums, y)
            squares = fma(x, y, squares)
        add_sums(first, j, sums)
        add_sums(second, j, squares)
