"""What nodes do one after the other: steps of their own, and exchanges."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from .node import Node

__all__ = [
    "MOST_NODES",
    "Exchange",
    "Lost",
    "Program",
    "Step",
    "by_node",
    "is_own",
    "own_errors",
]


#: Nodes at most: what is planned grows with the square of their number.
MOST_NODES = 1000


class Lost(Exception):
    """A node, or what it should hold, is not there any more."""


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Mark errors of a node's own, which no loss of another can explain."""
    try:
        yield
    except Lost:
        raise
    except Exception as error:
        with contextlib.suppress(AttributeError):
            error.of_a_node = True  # type: ignore[attr-defined]
        raise


def is_own(error: BaseException) -> bool:
    """Whether an error is a node's own."""
    return getattr(error, "of_a_node", False)


def by_node(
    links: Sequence[tuple[int, int]],
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return to whom, and from whom, each node sends and receives."""
    targets: dict[int, list[int]] = {}
    sources: dict[int, list[int]] = {}
    for src, dst in links:
        targets.setdefault(src, []).append(dst)
        sources.setdefault(dst, []).append(src)
    return targets, sources


class Step(ABC):
    """Something that every node does by itself."""

    @abstractmethod
    def run(self, node: Node) -> Any:
        """Do it; return something small for the driver."""

    def share(self, node: Node) -> float:
        """Return how much of all data it goes through: for clocks that pretend."""
        return 0.0


class Exchange(ABC):
    """Messages that nodes send each other at the same time; a frozen dataclass.

    Attributes
    ----------
    links : tuple of (int, int)
        Who sends to whom.
    meanwhile : Step or None
        What a node may do, `at_most` so many times, while it waits for messages after
        it has sent its own.
    at_most : int
    """

    links: tuple[tuple[int, int], ...]
    meanwhile: Step | None = None
    at_most: int = 0

    @abstractmethod
    def message(self, node: Node, dst: int) -> Any:
        """Return what a node sends to another: arrays of their own, no views."""

    @abstractmethod
    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Take in what arrived, by sender."""

    def bare(self) -> Exchange:
        """Return the same without its links, for who need not know all of them."""
        return dataclasses.replace(self, links=())  # type: ignore[type-var]


Program: TypeAlias = Sequence[Step | Exchange]
