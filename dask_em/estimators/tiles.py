"""Functions of rows, applied to some rows at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

__all__ = ["n_threads", "over_tiles"]

#: Rows of a tile.
_TILE = 16_384
#: Rows that are not worth the trouble.
_FEW = 2_048


def over_tiles(function: Callable[[Any], Any], X: Any, n_threads: int) -> Any:
    """Apply a function of some rows to all of them.

    By tiles, so that what it needs in between is small; and threads work on tiles of
    their own, as BLAS's threads on ever so small products would mostly wait for each
    other.
    """
    if len(X) <= _FEW:
        return function(X)
    tiles = [X[i : i + _TILE] for i in range(0, len(X), _TILE)]
    with _ONE_BLAS_THREAD:
        if n_threads == 1:
            return np.concatenate([function(tile) for tile in tiles])
        with ThreadPoolExecutor(n_threads) as pool:
            return np.concatenate(list(pool.map(function, tiles)))


def n_threads() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


class _OneBlasThread:
    """Keeps BLAS from starting threads while anybody is inside.

    The limit holds for the process, so the first one in sets it and the last one out
    lifts it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limits = threadpool_limits(1, "blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limits.restore_original_limits()


_ONE_BLAS_THREAD = _OneBlasThread()
