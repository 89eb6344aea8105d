"""What nodes do one after the other: steps of their own, and exchanges."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from .node import Node

__all__ = ["Exchange", "Lost", "Program", "Step"]


class Lost(Exception):
    """A node, or what it should hold, is not there any more."""


class Step(ABC):
    """Something that every node does by itself."""

    @abstractmethod
    def run(self, node: Node) -> Any:
        """Do it; return something small for the driver."""


class Exchange(ABC):
    """Messages that nodes send each other at the same time; a frozen dataclass.

    Attributes
    ----------
    links : tuple of (int, int)
        Who sends to whom.
    """

    links: tuple[tuple[int, int], ...]

    @abstractmethod
    def message(self, node: Node, dst: int) -> Any:
        """Return what a node sends to another: arrays of their own, no views."""

    @abstractmethod
    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Take in what arrived, by sender."""

    def bare(self) -> Exchange:
        """Return the same without its links, for who need not know all of them."""
        return dataclasses.replace(self, links=())  # type: ignore[type-var]

    def targets(self, src: int) -> list[int]:
        """Return to whom a node sends."""
        return [j for i, j in self.links if i == src]

    def sources(self, dst: int) -> list[int]:
        """Return from whom a node receives."""
        return [i for i, j in self.links if j == dst]


Program: TypeAlias = Sequence[Step | Exchange]
