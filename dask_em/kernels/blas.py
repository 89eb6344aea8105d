"""How many threads BLAS may use."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["one_thread"]


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Keep BLAS on the calling thread.

    For matrices so small that its threads would rather wait for each other, which on a
    busy machine costs many times what they bring.
    """
    return _controller().limit(limits=1, user_api="blas")
