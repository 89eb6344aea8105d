"""Rows of a table, added where they belong, compiled."""

from __future__ import annotations

from typing import Any

import numba

__all__ = ["add_rows"]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_rows(table: Any, at: Any, rows: Any, sign: float) -> None:
    """Add so many times some rows to those of a table.

    Parameters
    ----------
    table : array of shape (n_rows, width)
        Is changed.
    at : array of shape (n,)
        Which of its rows.
    rows : array of shape (n, width)
    sign : float
    """
    for i in range(at.shape[0]):
        row, more = table[at[i]], rows[i]
        for k in range(row.shape[0]):
            row[k] += sign * more[k]
