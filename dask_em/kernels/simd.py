"""SIMD vectors as a Numba type, and the operations on them.

LLVM's automatic vectorisation leaves most of the arithmetic throughput unused in
kernels that update a block of accumulators: it moves the block through memory, and
adds up the lanes of each accumulator by itself.  Hence explicit vectors.

Kernels work on quads, tuples of four vectors, and on blocks of sixteen; LLVM keeps
both in registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

# NaN and infinities carry meaning (invalid rows, empty components), hence neither
# 'nnan' nor 'ninf'.
FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
#: How to compile functions that use vectors.
OPTIONS = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}

VECTOR_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f") else 32
#: Vectors in a quad; register blocks hold this many features times this many vectors.
BLOCK = 4


class Vector(types.Type):
    """As many scalars of one floating type as a SIMD register holds."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(f"Vector({dtype}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        scalar = dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(scalar, fe_type.lanes))


def _quad(vector: Vector) -> Any:
    return types.UniTuple(vector, BLOCK)


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
    target = context.get_value_type(Vector(array.dtype))
    for _ in range(BLOCK):
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
def lanes(typingctx: Any, array: Any) -> Any:
    """Return the number of elements of the array in a vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, Vector(array.dtype).lanes)

    return types.intp(array), codegen


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """Load one vector from a contiguous 1-D array."""
    vector = Vector(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = context.get_value_type(vector)
        pointer = _emit_pointer(context, builder, array, args[0], args[1], target)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), codegen


@intrinsic
def load4(typingctx: Any, array: Any, index: Any, stride: Any) -> Any:
    """Load the four vectors that are ``stride`` elements apart."""
    quad = _quad(Vector(array.dtype))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = _emit_pointers(context, builder, array, *args)
        align = array.dtype.bitwidth // 8
        loaded = [builder.load(pointer, align=align) for pointer in pointers]
        return context.make_tuple(builder, quad, loaded)

    return quad(array, types.intp, types.intp), codegen


@intrinsic
def store4(typingctx: Any, array: Any, index: Any, stride: Any, quad: Any) -> Any:
    """Store four vectors ``stride`` elements apart."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = _emit_pointers(context, builder, array, *args[:3])
        vectors = cgutils.unpack_tuple(builder, args[3])
        for pointer, vector in zip(pointers, vectors, strict=True):
            builder.store(vector, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, quad), codegen


@intrinsic
def splat(typingctx: Any, scalar: Any) -> Any:
    """Copy a scalar into every lane of a vector."""
    vector = Vector(scalar)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_splat(builder, args[0], context.get_value_type(vector))

    return vector(scalar), codegen


@intrinsic
def splat4(typingctx: Any, array: Any, index: Any) -> Any:
    """Copy each of four consecutive elements into every lane of a vector."""
    quad = _quad(Vector(array.dtype))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(quad.dtype)
        data = context.make_array(array)(context, builder, args[0]).data
        vectors = []
        for i in range(BLOCK):
            index = builder.add(args[1], args[1].type(i))
            scalar = builder.load(builder.gep(data, [index]))
            vectors.append(_emit_splat(builder, scalar, vector))
        return context.make_tuple(builder, quad, vectors)

    return quad(array, types.intp), codegen


def _elementwise(emit: Any, *operands: Any) -> Any:
    """Type and emit an operation on quads; a lone vector meets all four of one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        columns = [
            [arg] * BLOCK
            if isinstance(operand, Vector)
            else cgutils.unpack_tuple(builder, arg)
            for operand, arg in zip(operands, args, strict=True)
        ]
        results = [emit(builder, *values) for values in zip(*columns, strict=True)]
        return context.make_tuple(builder, operands[0], results)

    return operands[0](*operands), codegen


@intrinsic
def add(typingctx: Any, a: Any, b: Any) -> Any:
    """Return ``a + b``."""
    return _elementwise(lambda builder, x, y: builder.fadd(x, y), a, b)


@intrinsic
def sub(typingctx: Any, a: Any, b: Any) -> Any:
    """Return ``a - b``."""
    return _elementwise(lambda builder, x, y: builder.fsub(x, y), a, b)


@intrinsic
def mul(typingctx: Any, a: Any, b: Any) -> Any:
    """Return ``a * b``."""
    return _elementwise(lambda builder, x, y: builder.fmul(x, y), a, b)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``."""
    return _elementwise(_emit_fma, a, b, c)


@intrinsic
def add_products(typingctx: Any, block: Any, a: Any, b: Any) -> Any:
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
def zeros(typingctx: Any, array: Any, count: Any) -> Any:
    """Return a tuple of ``count`` vectors of zeros of the array's dtype."""
    vectors = types.UniTuple(Vector(array.dtype), count.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(vectors), None)

    return vectors(array, count), codegen


@intrinsic
def add_sums(typingctx: Any, total: Any, index: Any, vectors: Any) -> Any:
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
