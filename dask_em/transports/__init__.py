"""How E-steps reach workers and statistics come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Transport
from .local import Local
from .simulated import Fault, Simulated
from .timeline import Interval, Timeline

if TYPE_CHECKING:
    from .peers.base import PeerTransport

__all__ = [
    "Actors",
    "Fault",
    "Futures",
    "Interval",
    "Local",
    "Simulated",
    "Timeline",
    "Transport",
    "named_transport",
]


def __getattr__(name: str) -> Any:
    if name == "Futures":  # imports distributed, which takes a while
        from .futures import Futures

        return Futures
    if name == "Actors":
        from .actors import Actors

        return Actors
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
    if transport == "actors" or type(transport).__name__ == "Actors":
        raise ValueError(
            "transport='actors' is for models whose M-step is distributed (see "
            "dask_em.SparseModel); use 'futures' for this one."
        )
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


def named_peers(transport: Any) -> PeerTransport:
    """Return what carries messages between workers, for a user's argument.

    ``"auto"`` is Dask's tasks where this process has a client, and threads otherwise.
    """
    if isinstance(transport, str) and transport == "actors":
        from .actors import Actors

        return Actors().peers()
    if hasattr(transport, "peers") and not isinstance(transport, type):
        return transport.peers()
    if isinstance(transport, str) and transport in (
        "auto",
        "local",
        "futures",
        "simulated",
    ):
        return named_transport(transport).peers()
    raise ValueError(
        "transport must be 'auto', 'local', 'futures', 'actors', 'simulated' or an "
        "object from dask_em.transports that carries messages between workers, got "
        f"{transport!r}."
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
