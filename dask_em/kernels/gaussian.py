"""Fused expectation step of Gaussian mixtures.

One pass over the rows yields everything an EM iteration needs: the densities, the
responsibilities, the weighted statistics and the log-likelihood.  Rows are read in
tiles that stay in cache, transposed so that the lanes of a SIMD register hold
consecutive rows; no array of size ``n_samples`` is ever allocated.  Tile arithmetic
runs in the precision of the data, sums over tiles in float64.

Every call is single-threaded and releases the GIL: callers run one call per thread
on disjoint row blocks and add the results.

The loops are written with explicit SIMD vectors, because LLVM's automatic
vectorisation leaves most of the arithmetic throughput unused here: it moves the
accumulators of a register block through memory, and adds up the lanes of each by
itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cache
from math import factorial
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Float64 = NDArray[np.float64]

# NaN and infinities carry meaning (invalid rows, empty components), hence neither
# 'nnan' nor 'ninf'.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
_OPTIONS = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}

_VECTOR_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f") else 32
# Register blocks hold _BLOCK features times _BLOCK vectors of rows.
_BLOCK = 4
# Of one feature in a tile: long enough to amortise the sums over lanes, short
# enough that a tile and its centred copy stay in the second-level cache.
_TILE_BYTES = 1024
_BLAS_ROWS = 2048


# --------------------------------------------------------------------------------
# SIMD vectors as a Numba type
#
# Kernels work on quads, tuples of four vectors, which LLVM keeps in registers.


class _Vector(types.Type):
    """As many scalars of one floating type as a SIMD register holds."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = _VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(f"Vector({dtype}, {self.lanes})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        scalar = dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(scalar, fe_type.lanes))


def _quad(vector: _Vector) -> Any:
    return types.UniTuple(vector, _BLOCK)


def _mask(indices: Iterable[int]) -> Any:
    indices = list(indices)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), indices)


def _emit_pointer(
    context: Any, builder: Any, array: Any, value: Any, index: Any, target: Any
) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), target.as_pointer())


def _emit_pointers(
    context: Any, builder: Any, array: Any, value: Any, index: Any, stride: Any
) -> Any:
    """Yield pointers to the four vectors that are ``stride`` elements apart."""
    target = context.get_value_type(_Vector(array.dtype))
    for _ in range(_BLOCK):
        yield _emit_pointer(context, builder, array, value, index, target)
        index = builder.add(index, stride)


def _emit_splat(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(single, undefined, _mask([0] * vector.count))


def _emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    bits = 64 if a.type.element == ir.DoubleType() else 32
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(a.type, [a.type] * 3),
        f"llvm.fmuladd.v{a.type.count}f{bits}",
    )
    return builder.call(function, [a, b, c])


@intrinsic
def _lanes(typingctx: Any, array: Any) -> Any:
    """Return the number of elements of the array in a vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, _Vector(array.dtype).lanes)

    return types.intp(array), codegen


@intrinsic
def _load(typingctx: Any, array: Any, index: Any) -> Any:
    """Load one vector from a contiguous 1-D array."""
    vector = _Vector(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = context.get_value_type(vector)
        pointer = _emit_pointer(context, builder, array, args[0], args[1], target)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), codegen


@intrinsic
def _load4(typingctx: Any, array: Any, index: Any, stride: Any) -> Any:
    """Load the four vectors that are ``stride`` elements apart."""
    quad = _quad(_Vector(array.dtype))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = _emit_pointers(context, builder, array, *args)
        align = array.dtype.bitwidth // 8
        loaded = [builder.load(pointer, align=align) for pointer in pointers]
        return context.make_tuple(builder, quad, loaded)

    return quad(array, types.intp, types.intp), codegen


@intrinsic
def _store4(typingctx: Any, array: Any, index: Any, stride: Any, quad: Any) -> Any:
    """Store four vectors ``stride`` elements apart."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = _emit_pointers(context, builder, array, *args[:3])
        vectors = cgutils.unpack_tuple(builder, args[3])
        for pointer, vector in zip(pointers, vectors, strict=True):
            builder.store(vector, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, quad), codegen


@intrinsic
def _splat(typingctx: Any, scalar: Any) -> Any:
    """Copy a scalar into every lane of a vector."""
    vector = _Vector(scalar)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_splat(builder, args[0], context.get_value_type(vector))

    return vector(scalar), codegen


@intrinsic
def _splat4(typingctx: Any, array: Any, index: Any) -> Any:
    """Copy each of four consecutive elements into every lane of a vector."""
    quad = _quad(_Vector(array.dtype))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(quad.dtype)
        data = context.make_array(array)(context, builder, args[0]).data
        vectors = []
        for i in range(_BLOCK):
            index = builder.add(args[1], args[1].type(i))
            scalar = builder.load(builder.gep(data, [index]))
            vectors.append(_emit_splat(builder, scalar, vector))
        return context.make_tuple(builder, quad, vectors)

    return quad(array, types.intp), codegen


def _elementwise(emit: Any, *operands: Any) -> Any:
    """Type and emit an operation on quads; a lone vector meets all four of one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        columns = [
            [arg] * _BLOCK
            if isinstance(operand, _Vector)
            else cgutils.unpack_tuple(builder, arg)
            for operand, arg in zip(operands, args, strict=True)
        ]
        results = [emit(builder, *values) for values in zip(*columns, strict=True)]
        return context.make_tuple(builder, operands[0], results)

    return operands[0](*operands), codegen


@intrinsic
def _add(typingctx: Any, a: Any, b: Any) -> Any:
    """Return ``a + b``."""
    return _elementwise(lambda builder, x, y: builder.fadd(x, y), a, b)


@intrinsic
def _sub(typingctx: Any, a: Any, b: Any) -> Any:
    """Return ``a - b``."""
    return _elementwise(lambda builder, x, y: builder.fsub(x, y), a, b)


@intrinsic
def _mul(typingctx: Any, a: Any, b: Any) -> Any:
    """Return ``a * b``."""
    return _elementwise(lambda builder, x, y: builder.fmul(x, y), a, b)


@intrinsic
def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``."""
    return _elementwise(_emit_fma, a, b, c)


@intrinsic
def _add_products(typingctx: Any, block: Any, a: Any, b: Any) -> Any:
    """Add ``a[i] * b[j]`` to the vector ``4 * i + j`` of a block, for all pairs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        totals, left, right = (cgutils.unpack_tuple(builder, arg) for arg in args)
        pairs = itertools.product(left, right)
        results = [
            _emit_fma(builder, x, y, total)
            for (x, y), total in zip(pairs, totals, strict=True)
        ]
        return context.make_tuple(builder, block, results)

    return block(block, a, b), codegen


@intrinsic(prefer_literal=True)
def _zeros(typingctx: Any, array: Any, count: Any) -> Any:
    """Return a tuple of ``count`` vectors of zeros of the array's dtype."""
    vectors = types.UniTuple(_Vector(array.dtype), count.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(vectors), None)

    return vectors(array, count), codegen


@intrinsic
def _add_sums(typingctx: Any, total: Any, index: Any, vectors: Any) -> Any:
    """Add the lane sum of the i-th vector to ``total[index + i]``, in float64.

    The sums are formed together, by a tree that adds neighbouring lanes of two
    vectors into one: a fraction of the work of reducing each vector by itself.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def add_neighbours(a: Any, b: Any) -> Any:
            width = 2 * a.type.count if b else a.type.count
            b = b or ir.Constant(a.type, ir.Undefined)
            even = builder.shuffle_vector(a, b, _mask(range(0, width, 2)))
            odd = builder.shuffle_vector(a, b, _mask(range(1, width, 2)))
            return builder.fadd(even, odd)

        parts = cgutils.unpack_tuple(builder, args[2])
        partial_sums = vectors.dtype.lanes
        while partial_sums > 1:
            pairs = itertools.zip_longest(parts[::2], parts[1::2])
            parts = [add_neighbours(a, b) for a, b in pairs]
            partial_sums //= 2
        position = args[1]
        for part in parts:
            wide = ir.VectorType(ir.DoubleType(), part.type.count)
            if part.type != wide:
                part = builder.fpext(part, wide)
            pointer = _emit_pointer(context, builder, total, args[0], position, wide)
            updated = builder.fadd(builder.load(pointer, align=8), part)
            builder.store(updated, pointer, align=8)
            position = builder.add(position, position.type(wide.count))
        return context.get_dummy_value()

    return types.void(total, types.intp, vectors), codegen


# --------------------------------------------------------------------------------
# Vectorisable exp and log
#
# Numba calls the scalar functions of the C library unless Intel SVML is installed;
# these series compile to SIMD code anywhere.  They are compiled without 'reassoc',
# which would cancel the rounding trick of exp.

_SCALAR_OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}
# ln 2 = high + low, with high short enough that its multiples are exact.
_LN2 = {
    types.float64: (float.fromhex("0x1.62e42feep-1"), 1.9082149292705877e-10),
    types.float32: (0.693359375, -2.12194440054690583e-4),
}


# The floating type and the integer that holds its bits.
_NUMPY_TYPES: dict[Any, tuple[Any, Any]] = {
    types.float64: (np.float64, np.int64),
    types.float32: (np.float32, np.int32),
}


def _exp(x: float) -> float:
    """Return ``exp(x)`` for ``x <= 0``, with subnormal results flushed to zero."""
    raise NotImplementedError("compiled code only")


def _log(x: float) -> float:
    """Return ``log(x)`` for finite ``x >= 1`` and NaN."""
    raise NotImplementedError("compiled code only")


@overload(_exp, jit_options=_SCALAR_OPTIONS)
def _overload_exp(x: Any) -> Any:
    f, i = _NUMPY_TYPES[x]
    digits, bias = np.finfo(f).nmant, np.finfo(f).maxexp - 1
    # Adding `rounder` rounds to an integer n and leaves n + bias in the low bits.
    rounder = f(1.5 * 2.0**digits + bias)
    ln2_high, ln2_low = (f(part) for part in _LN2[x])
    log2e, lowest = f(1 / np.log(2)), f(np.ceil(np.log(np.finfo(f).tiny)))
    zero, one = f(0), f(1)
    c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = (
        f(1 / factorial(k)) for k in range(2, 14)
    )

    def exp(x: Any) -> Any:
        clipped = lowest if x < lowest else x
        shifted = f(clipped * log2e + rounder)
        n = shifted - rounder
        r = (clipped - n * ln2_high) - n * ln2_low
        p = c8 + r * (c9 + r * (c10 + r * (c11 + r * (c12 + r * c13))))
        p = c3 + r * (c4 + r * (c5 + r * (c6 + r * (c7 + r * p))))
        p = one + r * (one + r * (c2 + r * p))
        power = i(i(shifted.view(i)) << digits)
        return zero if x < lowest else p * power.view(f)

    return exp


@overload(_log, jit_options=_SCALAR_OPTIONS)
def _overload_log(x: Any) -> Any:
    f, i = _NUMPY_TYPES[x]
    digits = i(np.finfo(f).nmant)
    sqrt_half = i(f(np.sqrt(0.5)).view(i))
    ln2_high, ln2_low = (f(part) for part in _LN2[x])
    one, two = f(1), f(2)
    c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 = (f(1 / (2 * k + 1)) for k in range(1, 11))

    def log(x: Any) -> Any:
        # x = m 2^n with m in [sqrt(1/2), sqrt(2)), and log m = 2 artanh(q).
        bits = i(f(x).view(i))
        n = i((bits - sqrt_half) >> digits)
        m = i(bits - i(n << digits)).view(f)
        q = (m - one) / (m + one)
        q2 = q * q
        p = c6 + q2 * (c7 + q2 * (c8 + q2 * (c9 + q2 * c10)))
        p = c1 + q2 * (c2 + q2 * (c3 + q2 * (c4 + q2 * (c5 + q2 * p))))
        log_m = two * q + two * q * q2 * p
        value = f(n) * ln2_high + (log_m + f(n) * ln2_low)
        return value if x == x else x

    return log


# --------------------------------------------------------------------------------
# Operations on one tile
#
# A tile is a flat array of features x rows, the number of features padded with
# zeros to a multiple of four, the number of rows a multiple of four vectors.


@njit(**_OPTIONS)
def _load_tile(
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


@njit(**_OPTIONS)
def _load_weights(
    sample_weight: Float64, start: int, stop: int, weights: Array
) -> None:
    """Copy the weights of the tile's rows; rows that only fill the tile have none."""
    weights[: stop - start] = 1
    weights[stop - start :] = 0
    if sample_weight.size:
        for t in range(stop - start):
            weights[t] = sample_weight[start + t]


@njit(**_OPTIONS)
def _center(tile: Array, center: Array, centered: Array, rows: int) -> None:
    v = _lanes(tile)
    for j in range(center.size):
        value = _splat(center[j])
        for t in range(j * rows, (j + 1) * rows, 4 * v):
            _store4(centered, t, v, _sub(_load4(tile, t, v), value))


@njit(**_OPTIONS)
def _project(
    tile: Array, t: int, rows: int, panels: Array, position: int, length: int
) -> Any:
    """Project four vectors of rows onto the four columns of a panel.

    The columns' constant terms come first in the panel, then ``length`` rows.
    """
    v = _lanes(tile)
    one = _splat(tile.dtype.type(1))
    constants = _splat4(panels, position)
    z = _add_products(_zeros(tile, 16), constants, (one, one, one, one))
    for j in range(length):
        x = _load4(tile, j * rows + t, v)
        z = _add_products(z, _splat4(panels, position + 4 * (j + 1)), x)
    return z


@njit(**_OPTIONS)
def _whiten(
    tile: Array, rows: int, features: int, panels: Array, whitened: Array
) -> None:
    """Multiply every row of the tile by an upper-triangular factor."""
    v = _lanes(tile)
    for t in range(0, rows, 4 * v):
        position = 0
        for i in range(0, features, 4):
            z = _project(tile, t, rows, panels, position, i + 4)
            position += 4 * (i + 5)
            p = i * rows + t
            _store4(whitened, p, v, z[:4])
            _store4(whitened, p + rows, v, z[4:8])
            _store4(whitened, p + 2 * rows, v, z[8:12])
            _store4(whitened, p + 3 * rows, v, z[12:])


@njit(**_OPTIONS)
def _mahalanobis(
    tile: Array, rows: int, features: int, panels: Array, distances: Array
) -> None:
    """Compute the squared norms of the rows times an upper-triangular factor."""
    v = _lanes(tile)
    for t in range(0, rows, 4 * v):
        total = _zeros(tile, 4)
        position = 0
        for i in range(0, features, 4):
            z = _project(tile, t, rows, panels, position, i + 4)
            position += 4 * (i + 5)
            total = _fma(z[:4], z[:4], total)
            total = _fma(z[4:8], z[4:8], total)
            total = _fma(z[8:12], z[8:12], total)
            total = _fma(z[12:], z[12:], total)
        _store4(distances, t, v, total)


@njit(**_OPTIONS)
def _scaled_distances(
    tile: Array,
    rows: int,
    center: Array,
    scale: Array,
    shift: Array,
    distances: Array,
) -> None:
    """Compute the squared norms of ``(x - center) * scale + shift``."""
    v = _lanes(tile)
    for t in range(0, rows, 4 * v):
        total = _zeros(tile, 4)
        for j in range(center.size):
            z = _sub(_load4(tile, j * rows + t, v), _splat(center[j]))
            z = _fma(z, _splat(scale[j]), _splat(shift[j]))
            total = _fma(z, z, total)
        _store4(distances, t, v, total)


@njit(**_OPTIONS)
def _normalize(
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
            score[t] = _exp(score[t] - peak[t])
            total[t] += score[t]
    log_likelihood = 0.0
    for t in range(rows):
        log_density = np.float64(peak[t]) + np.float64(_log(total[t]))
        log_likelihood += np.float64(weights[t]) * log_density
        total[t] = weights[t] / total[t]
    for k in range(constants.size):
        score = scores[k]
        for t in range(rows):
            score[t] *= total[t]
    return log_likelihood


@njit(**_OPTIONS)
def _sum(values: Array) -> float:
    total = 0.0
    for t in range(values.size):
        total += np.float64(values[t])
    return total


@njit(**_OPTIONS)
def _add_scatter(
    centered: Array,
    rows: int,
    weights: Array,
    scaled: Array,
    first: Float64,
    second: Float64,
) -> None:
    """Add the weighted first moments and the lower 4x4 blocks of the second."""
    v = _lanes(centered)
    position = 0
    for i in range(0, first.size, 4):
        total = _zeros(centered, 4)
        for t in range(0, rows, v):
            y = _mul(_load4(centered, i * rows + t, rows), _load(weights, t))
            _store4(scaled, t, rows, y)
            total = _add(total, y)
        _add_sums(first, i, total)
        for j in range(0, i + 4, 4):
            block = _zeros(centered, 16)
            for t in range(0, rows, v):
                y = _load4(scaled, t, rows)
                block = _add_products(block, y, _load4(centered, j * rows + t, rows))
            _add_sums(second, position, block)
            position += 16


@njit(**_OPTIONS)
def _add_moments(
    tile: Array, rows: int, center: Array, weights: Array, moments: Float64
) -> None:
    """Add first and second moments, for four features at a time 4 and 4 of them."""
    v = _lanes(tile)
    for j in range(0, center.size, 4):
        value = _splat4(center, j)
        first = second = _zeros(tile, 4)
        for t in range(0, rows, v):
            x = _sub(_load4(tile, j * rows + t, rows), value)
            y = _mul(x, _load(weights, t))
            first = _add(first, y)
            second = _fma(x, y, second)
        _add_sums(moments, 2 * j, first)
        _add_sums(moments, 2 * j + 4, second)


# --------------------------------------------------------------------------------
# The two kernels


def _full_kernel(
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
        _load_tile(X, start, stop, origin, tile, rows)
        _load_weights(sample_weight, start, stop, weights)
        for k in range(n_components):
            _center(tile, centers[k], centered, rows)
            _mahalanobis(centered, rows, features, panels[k], scores[k])
        log_likelihood += _normalize(scores, constants, weights, peak, total)
        for k in range(n_components):
            count = _sum(scores[k])
            if count == 0:
                continue
            counts[k] += count
            _center(tile, centers[k], centered, rows)
            _add_scatter(centered, rows, scores[k], scaled, first[k], second[k])
    return counts, first, second, log_likelihood


def _separable_kernel(
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
) -> tuple[Float64, Float64, float]:
    """Diagonal precisions; with ``panels``, of the whitened rows (tied).

    ``centers`` are about the rows, ``projected`` about the rows the distances are
    taken of: the same, but whitened for a tied covariance.
    """
    n_components, features = centers.shape
    counts = np.zeros(n_components)
    moments = np.zeros((n_components, 2 * features))
    tile = np.zeros(features * rows, X.dtype)
    whitened = np.empty_like(tile) if panels.size else tile
    scores = np.empty((n_components, rows), X.dtype)
    weights = np.empty(rows, X.dtype)
    peak = np.empty(rows, X.dtype)
    total = np.empty(rows, X.dtype)
    log_likelihood = 0.0
    for start in range(0, X.shape[0], rows):
        stop = min(start + rows, X.shape[0])
        _load_tile(X, start, stop, origin, tile, rows)
        _load_weights(sample_weight, start, stop, weights)
        if panels.size:
            _whiten(tile, rows, features, panels, whitened)
        for k in range(n_components):
            _scaled_distances(
                whitened, rows, projected[k], scale[k], shift[k], scores[k]
            )
        log_likelihood += _normalize(scores, constants, weights, peak, total)
        for k in range(n_components):
            count = _sum(scores[k])
            if count == 0:
                continue
            counts[k] += count
            _add_moments(tile, rows, centers[k], scores[k], moments[k])
    return counts, moments, log_likelihood


@cache
def _compiled(kernel: Any, dtype: np.dtype[Any]) -> Any:
    """Compile a kernel for one precision, on first use.

    The explicit signature accepts every memory layout, writeable or not, where
    specialisation on demand would compile each combination anew.
    """
    scalar = from_dtype(dtype)
    rows = types.Array(scalar, 2, "A", readonly=True)
    weight = types.Array(types.float64, 1, "A", readonly=True)
    vector, matrix = scalar[::1], scalar[:, ::1]
    parameters = [vector, matrix, matrix]
    if kernel is _separable_kernel:
        parameters = [vector, matrix, vector, matrix, matrix, matrix]
    signature = (rows, weight, types.float64[::1], *parameters, types.intp)
    return njit(signature, cache=True, **_OPTIONS)(kernel)


# --------------------------------------------------------------------------------
# From parameters to tiles and back


_NONE = np.empty(0)


class _Components(NamedTuple):
    """Parameters about the origin, ready to be rounded to the tiles' precision.

    ``centers`` are rounded already and ``residues`` is what that leaves of the exact
    ones.  A full covariance whitens ``(x - centers) @ factor + shift``, the others
    ``(x @ factor - projected) * scale + shift``, with a factor only when tied.
    """

    centers: Float64
    residues: Float64
    log_det: Float64
    shift: Float64
    factor: Float64
    projected: Float64 = _NONE
    scale: Float64 = _NONE


def _split(exact: Float64, dtype: np.dtype[Any]) -> tuple[Float64, Float64]:
    """Return the values rounded to ``dtype``, and what that leaves of them."""
    rounded = exact.astype(dtype).astype(np.float64)
    return rounded, exact - rounded


def _full(dtype: np.dtype[Any], exact: Float64, factor: Float64) -> _Components:
    centers, residues = _split(exact, dtype)
    log_det = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    shift = -np.einsum("kj,kji->ki", residues, factor)
    return _Components(centers, residues, log_det, shift, factor)


def _tied(dtype: np.dtype[Any], exact: Float64, factor: Float64) -> _Components:
    # Rows and centres must meet the same rounded factor for their projections to
    # cancel when they are close to each other and far from the origin.
    factor = _split(factor, dtype)[0]
    log_det = np.log(np.diagonal(factor)).sum()
    projected, remainder = _split(exact @ factor, dtype)
    scale = np.ones_like(exact)
    return _Components(
        *_split(exact, dtype), log_det, -remainder, factor, projected, scale
    )


def _diag(dtype: np.dtype[Any], exact: Float64, scale: Float64) -> _Components:
    centers, residues = _split(exact, dtype)
    log_det = np.log(scale).sum(axis=1)
    return _Components(
        centers, residues, log_det, -residues * scale, _NONE, centers, scale
    )


def _spherical(dtype: np.dtype[Any], exact: Float64, scale: Float64) -> _Components:
    return _diag(dtype, exact, np.broadcast_to(scale[:, None], exact.shape))


_COMPONENTS = {"full": _full, "tied": _tied, "diag": _diag, "spherical": _spherical}


def _components(
    covariance_type: str,
    dtype: np.dtype[Any],
    origin: ArrayLike,
    log_weights: ArrayLike,
    means: ArrayLike,
    precisions_cholesky: ArrayLike,
) -> tuple[_Components, Float64]:
    """Return the components and the log density of each at its mean, weighted."""
    exact = np.asarray(means, np.float64) - np.asarray(origin, np.float64)
    precisions_cholesky = np.asarray(precisions_cholesky, np.float64)
    components = _COMPONENTS[covariance_type](dtype, exact, precisions_cholesky)
    constants = np.asarray(log_weights, np.float64) + components.log_det
    return components, constants - 0.5 * exact.shape[1] * np.log(2 * np.pi)


def _check_rows(X: Array) -> Array:
    X = np.require(X, requirements="A")
    if X.ndim != 2 or X.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"X must be a 2-D float32 or float64 array, not {X.ndim}-D {X.dtype}"
        )
    return X


def _run(
    kernel: Any,
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    *parameters: Float64,
) -> Any:
    """Run a kernel with its parameters rounded to the precision of the rows."""
    return _compiled(kernel, X.dtype)(
        X,
        np.asarray(() if sample_weight is None else sample_weight, np.float64),
        np.ascontiguousarray(origin, np.float64),
        *(np.ascontiguousarray(value, X.dtype) for value in parameters),
        _TILE_BYTES // X.dtype.itemsize,
    )


def _pad(values: Float64, axes: int = 1) -> Float64:
    """Append zeros along the trailing axes up to a multiple of the block size."""
    widths = [(0, 0)] * (values.ndim - axes)
    widths += [(0, -size % _BLOCK) for size in values.shape[values.ndim - axes :]]
    return np.pad(values, widths)


def _pack(factor: Float64, shift: Float64) -> Float64:
    """Lay out upper-triangular factors in the order in which they are read.

    Panels of four columns, each without the rows that are zero in all of them and
    preceded by the columns' constant terms.
    """
    factor = np.concatenate([_pad(shift)[..., None, :], _pad(factor, 2)], axis=-2)
    panels = [
        factor[..., : i + _BLOCK + 1, i : i + _BLOCK].reshape(*factor.shape[:-2], -1)
        for i in range(0, factor.shape[-1], _BLOCK)
    ]
    return np.concatenate(panels, axis=-1)


def _unpack(blocks: Float64, n_features: int) -> Float64:
    """Assemble lower-triangular matrices from their packed blocks."""
    size = n_features + -n_features % _BLOCK
    matrices = np.zeros((len(blocks), size, size))
    corners = ((i, j) for i in range(0, size, _BLOCK) for j in range(0, i + 1, _BLOCK))
    for position, (i, j) in enumerate(corners):
        block = blocks[:, 16 * position : 16 * (position + 1)].reshape(-1, 4, 4)
        matrices[:, i : i + _BLOCK, j : j + _BLOCK] = block
    return matrices[:, :n_features, :n_features]


def _separable_e_step(
    covariance_type: str,
    X: Array,
    sample_weight: ArrayLike | None,
    origin: ArrayLike,
    *parameters: ArrayLike,
) -> tuple[Float64, Float64, Float64, float]:
    X = _check_rows(X)
    n_features = X.shape[1]
    components, constants = _components(covariance_type, X.dtype, origin, *parameters)
    centers, residues, _, shift, factor, *scaling = components
    panels = np.empty(0)
    if factor.size:
        panels = _pack(factor, np.zeros(n_features))
    counts, moments, log_likelihood = _run(
        _separable_kernel,
        X,
        sample_weight,
        origin,
        constants,
        _pad(centers),
        panels,
        *(_pad(values) for values in (*scaling, shift)),
    )
    moments = moments.reshape(len(counts), -1, 2, _BLOCK).swapaxes(1, 2)
    moments = moments.reshape(len(counts), 2, -1)[:, :, :n_features]
    # From the rounded centres to the exact means.
    first, second = moments[:, 0], moments[:, 1]
    second = second - residues * (2 * first - counts[:, None] * residues)
    first = first - counts[:, None] * residues
    return counts, first, second, log_likelihood


# --------------------------------------------------------------------------------
# Public functions


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
    components, constants = _components(
        "full", X.dtype, origin, log_weights, means, precisions_cholesky
    )
    centers, residues, _, shift, factor, *_ = components
    counts, first, blocks, log_likelihood = _run(
        _full_kernel,
        X,
        sample_weight,
        origin,
        constants,
        _pad(centers),
        _pack(factor, shift),
    )
    first = first[:, : X.shape[1]]
    second = _unpack(blocks, X.shape[1])
    # From the rounded centres to the exact means.
    cross = residues[:, :, None] * first[:, None, :]
    second -= cross + cross.transpose(0, 2, 1)
    second += counts[:, None, None] * residues[:, :, None] * residues[:, None, :]
    first = first - counts[:, None] * residues
    lower = np.tril(second)
    second = lower + np.tril(lower, -1).transpose(0, 2, 1)
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
    components, constants = _components(
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
