"""Functions of rows, applied to some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..kernels.threads import one_blas_thread

__all__ = ["over_tiles"]

#: Rows of a tile.
_TILE = 16_384
#: Rows that are not worth the trouble.
_FEW = 2_048


def over_tiles(function: Callable[..., Any], *arrays: Any, n_threads: int) -> Any:
    """Apply a function of some rows, of one array or several, to all of them.

    By tiles, so that what it needs in between is small; and threads work on tiles of
    their own, as BLAS's threads on ever so small products would mostly wait for each
    other.
    """
    n = len(arrays[0])
    if n <= _FEW:
        return function(*arrays)
    tiles = [[a[i : i + _TILE] for i in range(0, n, _TILE)] for a in arrays]
    with one_blas_thread():
        if n_threads == 1:
            return np.concatenate(list(map(function, *tiles)))
        with ThreadPoolExecutor(n_threads) as pool:
            return np.concatenate(list(pool.map(function, *tiles)))
