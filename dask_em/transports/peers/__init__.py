"""How nodes send each other messages, and who runs their steps."""

from __future__ import annotations

from .base import PeerTransport

__all__ = ["PeerTransport"]
