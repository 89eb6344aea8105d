"""Threads of this process: how many there may be, and who may start them."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["n_threads", "one_blas_thread"]


def n_threads() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


class _Limit:
    """BLAS's limit, which holds for the process: how many are inside, and what was."""

    lock = threading.Lock()
    inside = 0
    original: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS from starting threads while anybody is inside.

    For matrices so small that its threads would rather wait for each other, which on a
    busy machine costs many times what they bring. The first one in sets the limit and
    the last one out lifts it.
    """
    with _Limit.lock:
        if _Limit.inside == 0:
            _Limit.original = _controller().limit(limits=1, user_api="blas")
        _Limit.inside += 1
    try:
        yield
    finally:
        with _Limit.lock:
            _Limit.inside -= 1
            if _Limit.inside == 0:
                _Limit.original.restore_original_limits()
