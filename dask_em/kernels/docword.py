"""The loop over the bytes of a docword file, compiled."""

from __future__ import annotations

from typing import Any

import numba

__all__ = ["NEGATIVE", "NOT_WHOLE", "OK", "WRONG_LENGTH", "parse_lines"]

OK, NOT_WHOLE, NEGATIVE, WRONG_LENGTH = 0, 1, 2, 3

_NEWLINE, _MINUS, _ZERO, _NINE = 10, 45, 48, 57
_BLANKS = (9, 13, 32)


@numba.njit(nogil=True, cache=True)
def parse_lines(text: Any, out: Any) -> Any:
    """Read three whole numbers from each line.

    Parameters
    ----------
    text : array of shape (n_bytes,), uint8
        Whole lines; the last one may lack its newline. Empty ones are skipped.
    out : array of shape (n_lines, 3), int64
        Receives the numbers; at least as many rows as lines.

    Returns
    -------
    n_read : int
        Lines that were filled in.
    line : int
        Number of the line, from 0, at which reading ended.
    status : int
        ``OK``, or what is wrong with that line.
    """
    n_read, line, field, value, digits, negative = 0, 0, 0, 0, 0, False
    n = text.shape[0]
    for i in range(n + 1):
        byte = text[i] if i < n else _NEWLINE
        if _ZERO <= byte <= _NINE:
            value = 10 * value + (byte - _ZERO)
            digits += 1
            if digits > 18:  # more would not fit into 64 bits
                return n_read, line, NOT_WHOLE
            continue
        if byte == _MINUS and digits == 0 and not negative:
            negative = True
            continue
        if byte != _NEWLINE and byte not in _BLANKS:
            return n_read, line, NOT_WHOLE
        if negative and digits == 0:
            return n_read, line, NOT_WHOLE
        if digits:
            if negative:
                return n_read, line, NEGATIVE
            if field == 3:
                return n_read, line, WRONG_LENGTH
            out[n_read, field] = value
            field += 1
            value, digits = 0, 0
        if byte == _NEWLINE:
            if field == 3:
                n_read += 1
            elif field:
                return n_read, line, WRONG_LENGTH
            field = 0
            line += 1
    return n_read, line, OK
