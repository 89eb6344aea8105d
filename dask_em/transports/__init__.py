"""How E-steps reach workers and statistics come back."""

from __future__ import annotations

from typing import Any

from .base import Transport
from .local import Local
from .simulated import Fault, Simulated

__all__ = ["Fault", "Futures", "Local", "Simulated", "Transport", "named_transport"]


def __getattr__(name: str) -> Any:
    if name == "Futures":  # imports distributed, which takes a while
        from .futures import Futures

        return Futures
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def named_transport(transport: Transport | str) -> Transport:
    """Return the transport that a user's argument stands for.

    ``"auto"`` is Dask where this process has a client, and threads otherwise.
    """
    if isinstance(transport, Transport):
        return transport
    if transport == "local":
        return Local()
    if transport == "simulated":
        return Simulated()
    if transport in ("auto", "futures"):
        client = _current_client()
        if client is None and transport == "auto":
            return Local()
        from .futures import Futures

        return Futures()
    if isinstance(transport, type):
        raise ValueError(
            f"transport must be an object, got {transport!r}; call it: "
            f"{transport.__name__}()."
        )
    raise ValueError(
        "transport must be 'auto', 'local', 'futures', 'simulated' or an object from "
        f"dask_em.transports, got {transport!r}."
    )


def _current_client() -> Any:
    """Return the Dask client of this process or task, if there is one."""
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None
