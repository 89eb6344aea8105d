"""Data in parts that are loaded where they are needed."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["InMemory", "Loader", "Source"]


@runtime_checkable
class Loader(Protocol):
    """How to get a block: small, and can be sent anywhere."""

    def load(self) -> Any:
        """Return the block."""


@dataclasses.dataclass(frozen=True)
class InMemory:
    """A block that is there already, and travels to where it is needed."""

    block: Any

    def load(self) -> Any:
        """Return the block."""
        return self.block


class Source(ABC):
    """Data that can be cut into parts, one for each node."""

    @property
    @abstractmethod
    def n_rows(self) -> int | None:
        """Number of sentences, documents, ..., or None where nobody knows yet."""

    @abstractmethod
    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Return what each of `n_nodes` nodes has to load; for some, nothing.

        Each is a sequence of `Loader`, or of Dask's ``Delayed`` whose values are
        blocks. Blocks keep their order: node by node, and within a node.
        """
