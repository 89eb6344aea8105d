"""Functions exp and log that vectorise.

Numba calls the scalar functions of the C library unless Intel SVML is installed;
these series compile to SIMD code anywhere.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

# Without 'reassoc', which would cancel the rounding trick of exp.
_OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}
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


def exp(x: float) -> float:
    """Return ``exp(x)`` for ``x <= 0``, with subnormal results flushed to zero."""
    raise NotImplementedError("compiled code only")


def log(x: float) -> float:
    """Return ``log(x)`` for positive normal ``x`` and NaN."""
    raise NotImplementedError("compiled code only")


@overload(exp, jit_options=_OPTIONS)
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


@overload(log, jit_options=_OPTIONS)
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
