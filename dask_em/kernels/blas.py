"""How many threads BLAS may use."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["one_thread"]


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_lock = threading.Lock()
#: How many are inside, and what the first of them has to undo.
_inside: list[Any] = []


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS on the calling thread.

    For matrices so small that its threads would rather wait for each other, which on a
    busy machine costs many times what they bring. The limit is the process's: it is
    taken by the first who comes in, and lifted by the last who leaves.
    """
    with _lock:
        first = not _inside
        _inside.append(
            _controller().limit(limits=1, user_api="blas") if first else None
        )
    try:
        yield
    finally:
        with _lock:
            limit = _inside[0]
            _inside.pop()
            if _inside:
                _inside[0] = limit
            else:
                limit.restore_original_limits()
