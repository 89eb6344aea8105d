"""Data in parts that are loaded where they are needed."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

__all__ = ["Collection", "InMemory", "Loader", "Rows", "Source", "as_source", "runs"]


@runtime_checkable
class Loader(Protocol):
    """How to get a block: small, and can be sent anywhere."""

    def load(self) -> Any:
        """Return the block."""


@dataclasses.dataclass(frozen=True)
class InMemory:
    """A block that is there already, and travels to where it is needed.

    Parameters
    ----------
    block : object
    """

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


def runs(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Return the bounds of parts of a run, of which the first are larger by one."""
    size, larger = divmod(n, n_parts)
    return list(pairwise(k * size + min(k, larger) for k in range(n_parts + 1)))


class Rows(Source):
    """Anything in memory that has a length and can be sliced; a block is a slice.

    Parameters
    ----------
    rows : sequence or array
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        shape = getattr(self.rows, "shape", None)
        return int(shape[0]) if shape else len(self.rows)

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Return slices of about the same length."""
        return [
            [InMemory(self.rows[a:b])] if a < b else []
            for a, b in runs(self.n_rows, n_nodes)
        ]


class Collection(Source):
    """A Dask collection; a block is a partition, or a chunk of rows.

    Parameters
    ----------
    collection : Dask array, bag or DataFrame
    """

    def __init__(self, collection: Any) -> None:
        self.collection = collection

    @property
    def n_rows(self) -> None:
        """None: nobody has looked."""
        return None

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Return runs of about as many blocks."""
        blocks = self.blocks()
        return [blocks[a:b] for a, b in runs(len(blocks), n_nodes)]

    def blocks(self) -> list[Any]:
        """Return all blocks, to be computed."""
        found = self.collection.to_delayed()
        return list(found.ravel() if hasattr(found, "ravel") else found)


def as_source(data: Any) -> Source:
    """Return data as a source.

    Parameters
    ----------
    data : Source, Dask collection, or something that can be sliced

    Raises
    ------
    ValueError
        If a Dask array is not chunked along the first dimension alone.
    TypeError
        If it is none of these.
    """
    if isinstance(data, Source):
        return data
    if hasattr(data, "to_delayed"):
        chunks = getattr(data, "chunks", ((),))
        if any(len(along) > 1 for along in chunks[1:]):
            raise ValueError(
                "the array is chunked along other dimensions than the first, "
                f"{chunks}; put what belongs to a row into one chunk, with "
                "rechunk({1: -1})."
            )
        return Collection(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return Rows(data)
    if getattr(data, "shape", None) and hasattr(data, "__getitem__"):  # sparse
        return Rows(data)
    raise TypeError(
        "data must be a sequence or an array, a Dask collection, or a Source, got "
        f"{type(data).__name__}."
    )
