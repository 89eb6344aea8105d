"""Whose client it is that computes what is lazy."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["asynchronous_client"]


def asynchronous_client() -> Any:
    """Return the current Dask client if it is one to be awaited."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        client = get_client()
    except ValueError:
        return None
    return client if client.asynchronous else None
