"""Arrays and frames become shards: which rows, and how to load them.

A *chunk* is a Dask chunk (an in-memory array is one chunk), a *piece* a run of rows
from one or several chunks that always travels whole, and a *shard* the pieces that
one task handles.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from .model import Block

__all__ = [
    "DaskData",
    "Data",
    "MemoryData",
    "Part",
    "Piece",
    "Shard",
    "array_of_frame",
    "as_data",
    "cut",
]


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of one chunk, which has `of` rows in all."""

    chunk: int
    start: int
    stop: int
    of: int | None = dataclasses.field(default=None, compare=False)

    def take(self, chunk: Block) -> Block:
        """Return these rows of the chunk.

        Raises
        ------
        ValueError
            If the chunk is not as long as the array declares.
        """
        arrays = {"X": chunk.X, "y": chunk.y, "sample_weight": chunk.sample_weight}
        for name, array in arrays.items():
            if array is None or self.of is None:
                continue
            if array.ndim == 0 or array.shape[0] != self.of:
                raise ValueError(
                    f"chunk {self.chunk} of {name} has the shape {array.shape} but "
                    f"{self.of} rows are declared; give map_blocks the right chunks=."
                )
        if chunk.X.ndim != 2:
            raise ValueError(
                f"chunk {self.chunk} of X has the shape {chunk.X.shape} but two "
                "dimensions are declared; give map_blocks the right chunks=."
            )
        return chunk.rows(slice(self.start, self.stop))


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows that travel together."""

    index: int
    parts: tuple[Part, ...]
    nbytes: int
    owner: str = ""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(p.stop - p.start for p in self.parts)


@dataclasses.dataclass(frozen=True)
class Shard:
    """Pieces that one task handles, on one worker."""

    index: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(p.rows for p in self.pieces)

    @property
    def nbytes(self) -> int:
        """Size of its data in bytes."""
        return sum(p.nbytes for p in self.pieces)

    @property
    def owner(self) -> str:
        """Worker on which its first piece lies."""
        return self.pieces[0].owner


class Data(ABC):
    """Rows with their targets and weights, in memory or still to be computed.

    Attributes
    ----------
    chunk_rows : tuple of int
        Rows of every chunk.
    row_nbytes : float
        Size of a row, targets and weight included.
    n_features : int
    dtype : numpy.dtype
        Of `X`.
    """

    chunk_rows: tuple[int, ...]
    row_nbytes: float
    n_features: int
    dtype: np.dtype[Any]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(self.chunk_rows)

    @property
    def nbytes(self) -> float:
        """Size in bytes."""
        return self.n_rows * self.row_nbytes

    @abstractmethod
    def load(self, piece: Piece) -> list[Block]:
        """Return the blocks of a piece, in this process."""


class MemoryData(Data):
    """Arrays in this process; blocks are views of them."""

    def __init__(self, X: Any, y: Any = None, sample_weight: Any = None) -> None:
        self.block = Block(X, y, sample_weight)
        self.chunk_rows = (X.shape[0],)
        self.n_features = X.shape[1]
        self.dtype = X.dtype
        self.row_nbytes = self.block.nbytes / max(X.shape[0], 1)

    def load(self, piece: Piece) -> list[Block]:
        """Return views of the rows."""
        return [self.block.rows(slice(p.start, p.stop)) for p in piece.parts]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to compute a piece's blocks from storage: a culled Dask graph.

    It is sent to whoever needs the rows, so data that do not fit in memory are never
    in more than one task at a time.
    """

    graph: Any
    keys: tuple[tuple[Any, Any, Any], ...]
    parts: tuple[Part, ...]

    def load(self) -> list[Block]:
        """Compute the blocks in this thread."""
        import dask

        wanted = [key for triple in self.keys for key in triple if key is not None]
        values = dict(
            zip(wanted, dask.get(self.graph, wanted), strict=True)  # type: ignore[attr-defined]
        )
        return [
            part.take(Block(*(None if k is None else values[k] for k in triple)))
            for triple, part in zip(self.keys, self.parts, strict=True)
        ]


class DaskData(Data):
    """Dask arrays with the same row chunks, computed or not.

    Parameters
    ----------
    X, y, sample_weight : dask array
    row_nbytes : float, optional
        Size of a row, where chunks are sparse.
    """

    def __init__(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        row_nbytes: float | None = None,
    ) -> None:
        self.arrays = (X, y, sample_weight)
        self.chunk_rows = tuple(int(n) for n in X.chunks[0])
        self.n_features = int(X.shape[1])
        self.dtype = X.dtype
        self.row_nbytes = row_nbytes or sum(
            a.dtype.itemsize * int(np.prod(a.shape[1:], dtype=np.int64))
            for a in self.arrays
            if a is not None
        )

    def keys(self, chunk: int) -> tuple[Any, Any, Any]:
        """Return the keys of a chunk's X, y and weights in their graphs."""
        x, y, w = (
            None if a is None else (a.name, chunk, *(0 for _ in a.shape[1:]))
            for a in self.arrays
        )
        return x, y, w

    def recipe(self, piece: Piece) -> Recipe:
        """Return how to compute a piece from what the arrays were made of."""
        from dask.highlevelgraph import HighLevelGraph

        keys = tuple(self.keys(part.chunk) for part in piece.parts)
        wanted = {key for triple in keys for key in triple if key is not None}
        graph: dict[Any, Any] = {}
        for array in self.arrays:
            if array is not None:
                mine = {k for k in wanted if k[0] == array.name}
                layers = HighLevelGraph.from_collections("", {}, [array])
                graph.update(layers.cull(mine).to_dict())
        return Recipe(graph, keys, piece.parts)

    def load(self, piece: Piece) -> list[Block]:
        """Compute the blocks in this thread."""
        return self.recipe(piece).load()


def as_data(X: Any, y: Any = None, sample_weight: Any = None) -> Data:
    """Check arrays at the door and return them as `Data`.

    Parameters
    ----------
    X : array, sparse array or dask array of shape (n_rows, n_features)
        Of Dask, with sparse chunks too; they are for models that expect them.
    y, sample_weight : array or dask array of shape (n_rows, ...), optional

    Raises
    ------
    ValueError
        For a wrong shape, unknown chunk sizes, chunked features, no rows, or lengths
        that differ.
    TypeError
        For rows that are not numbers.
    """
    if hasattr(type(X), "concatenate"):  # a table of its own kind, see `GroupTable`
        return MemoryData(X, y, sample_weight)
    lazy = is_dask(X) or is_dask(y) or is_dask(sample_weight)
    if sp.issparse(X):
        X = sp.csr_array(X)
    elif not is_dask(X):
        X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: X must have the shape "
            "(n_rows, n_features). Reshape your data with X.reshape(-1, 1) if it has "
            "a single feature or X.reshape(1, -1) if it is a single row."
        )
    if X.dtype.kind not in "fiub":
        raise TypeError(
            f"X must be numeric, got dtype {X.dtype}; encode or drop the columns "
            "that are not numbers."
        )
    X = _as_float(X)
    if is_dask(X):
        _check_chunks(X)
    if X.shape[1] == 0 or X.shape[0] == 0:
        raise ValueError(
            f"Found array with {X.shape[0]} sample(s) and {X.shape[1]} feature(s) "
            f"(shape={X.shape}) while a minimum of 1 of each is required."
        )
    rows = X.chunks[0] if is_dask(X) else None
    y = _aligned("y", y, X, rows)
    sample_weight = _aligned("sample_weight", sample_weight, X, rows)
    if sample_weight is not None:
        if sample_weight.ndim != 1:
            raise ValueError(
                "sample_weight must have one number per row, got an array of shape "
                f"{sample_weight.shape}."
            )
        sample_weight = _as_float(sample_weight)
    if not lazy:
        if sample_weight is not None:
            _check_weights(sample_weight)
        return MemoryData(X, y, sample_weight)
    if rows is None:
        raise ValueError(
            "y and sample_weight are Dask arrays but X is in memory; turn X into one "
            "with dask.array.from_array(X, chunks=...), or compute the others."
        )
    return DaskData(X, y, sample_weight)


def array_of_frame(frame: Any) -> Any:
    """Return the rows of a Dask DataFrame or Series, as an array of known chunks."""
    array = frame.to_dask_array()
    # not lengths=True: what Dask's optimiser makes of the frame to find them may have
    # other partitions than the array
    return array.compute_chunk_sizes()


def is_dask(array: Any) -> bool:
    """Whether this is a Dask collection, without importing Dask for it."""
    return hasattr(array, "__dask_graph__") and array.__dask_graph__() is not None


def _as_float(array: Any) -> Any:
    return array if array.dtype in (np.float32, np.float64) else array.astype(float)


def _check_chunks(X: Any) -> None:
    if any(np.isnan(n) for n in X.chunks[0]):
        raise ValueError(
            "X has chunks of unknown size; call X.compute_chunk_sizes() first (or, "
            "for a DataFrame, X.to_dask_array(lengths=True))."
        )
    if len(X.chunks[1]) > 1:
        raise ValueError(
            f"X is chunked along the features, {X.chunks[1]}; put all features of a "
            "row into one chunk with X.rechunk({1: -1})."
        )


def _check_weights(weights: Any) -> None:
    if not np.isfinite(weights).all():
        raise ValueError("sample_weight contains NaN or infinity; drop those rows.")
    if (weights < 0).any():
        raise ValueError(
            "sample_weight must not be negative; use 0 to leave a row out."
        )
    if not (weights > 0).any():
        raise ValueError("sample_weight is zero everywhere; no row counts.")


def _aligned(name: str, array: Any, X: Any, rows: Any) -> Any:
    """Return an array with X's length and, for Dask, X's row chunks."""
    if array is None:
        return None
    if rows is None:
        array = array if is_dask(array) else np.asarray(array)
        length = array.shape[0] if array.ndim else None
    else:
        import dask.array as da

        array = array if is_dask(array) else np.asarray(array)
        length = array.shape[0] if array.ndim else None
        if length is not None and np.isnan(length):
            raise ValueError(
                f"{name} has chunks of unknown size; call "
                f"{name}.compute_chunk_sizes() first."
            )
        if length == X.shape[0]:
            chunks = (rows, *((n,) for n in array.shape[1:]))
            array = (
                array.rechunk(chunks)
                if is_dask(array)
                else da.from_array(array, chunks=chunks)
            )
    if length != X.shape[0]:
        raise ValueError(
            f"{name} and X must have as many rows: {name}.shape == {array.shape}, "
            f"X has {X.shape[0]} rows."
        )
    return array


def cut(
    chunk_rows: Sequence[int],
    n_pieces: int,
    row_nbytes: float,
    owners: Sequence[str] | None = None,
) -> list[Piece]:
    """Cut chunks into pieces of nearly equal size, each on one worker.

    Parameters
    ----------
    chunk_rows : sequence of int
        Rows of every chunk; chunks without rows are left out.
    n_pieces : int
        Pieces wanted. There are as many, unless there are fewer rows; with more
        owners than pieces a piece spans several owners.
    row_nbytes : float
    owners : sequence of str, optional
        Worker on which every chunk lies.
    """
    chunks = [i for i, n in enumerate(chunk_rows) if n > 0]
    total = sum(chunk_rows)
    n_pieces = max(1, min(n_pieces, total))
    groups: dict[str, list[int]] = {}
    for i in chunks:
        groups.setdefault("" if owners is None else owners[i], []).append(i)
    if len(groups) > n_pieces:
        groups = {next(iter(groups)): chunks}
    pieces: list[Piece] = []
    shares = _apportion(
        [sum(chunk_rows[i] for i in members) for members in groups.values()], n_pieces
    )
    for (owner, members), share in zip(groups.items(), shares, strict=True):
        for parts in _runs(chunk_rows, members, share):
            rows = sum(p.stop - p.start for p in parts)
            nbytes = int(rows * row_nbytes)
            pieces.append(Piece(len(pieces), tuple(parts), nbytes, owner))
    return pieces


def _apportion(sizes: Sequence[int], n: int) -> list[int]:
    """Share out n pieces in proportion to sizes, at least one each."""
    shares = [1] * len(sizes)
    for _ in range(n - len(sizes)):
        ratios = [
            size / share if share < size else 0.0
            for size, share in zip(sizes, shares, strict=True)
        ]
        shares[max(range(len(sizes)), key=ratios.__getitem__)] += 1
    return shares


def _runs(
    chunk_rows: Sequence[int], members: Sequence[int], n: int
) -> list[list[Part]]:
    """Cut the rows of some chunks, taken one after the other, into n runs."""
    total = sum(chunk_rows[i] for i in members)
    bounds = [total * k // n for k in range(n + 1)]
    runs: list[list[Part]] = [[] for _ in range(n)]
    k = offset = 0
    for i in members:
        start = 0
        while start < chunk_rows[i]:
            stop = min(chunk_rows[i], bounds[k + 1] - offset)
            runs[k].append(Part(i, start, stop, chunk_rows[i]))
            start = stop
            if offset + stop == bounds[k + 1] and k + 1 < n:
                k += 1
        offset += chunk_rows[i]
    return runs
