"""Formulas of weighted sums over rows, wherever these are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from ..sharding import as_data
from .clients import asynchronous_client
from .table import Table

__all__ = ["formula_of_sums"]


def formula_of_sums(
    table: Table, values: Sequence[Any], formula: Callable[..., float]
) -> float | Awaitable[float]:
    """Compute a formula of weighted sums of values per row.

    Parameters
    ----------
    table : Table
        Whose rows and weights they are.
    values : sequence of array or dask array of shape (n_rows,)
    formula : callable
        Of the sum of the weights, and of the weighted sum of each of the values.

    Returns
    -------
    float, or an awaitable of it for lazy data where the Dask client is asynchronous
    """
    if table.sample_weight is None:
        ones = np.ones_like
        first = values[0].astype(np.float64)
        weight = first.map_blocks(ones) if table.lazy else ones(first)
    else:
        weight = _checked_weight(table)
    totals = [weight.sum(dtype=np.float64)]
    totals += [(value.astype(np.float64) * weight).sum() for value in values]
    if not table.lazy:
        return formula(*map(float, totals))
    client = asynchronous_client()
    if client is None:
        import dask

        return formula(*map(float, dask.compute(*totals)))  # type: ignore[attr-defined]

    async def later() -> float:
        return formula(*map(float, await client.gather(client.compute(list(totals)))))

    return later()


def _checked_weight(table: Table) -> Any:
    """Return the weights as a fit would see them."""
    data: Any = as_data(table.X, None, table.sample_weight)
    return data.arrays[2] if table.lazy else data.block.sample_weight
