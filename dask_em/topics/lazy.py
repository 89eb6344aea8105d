"""Dask arrays with sparse chunks that are loaded where they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..peers.source import InMemory

__all__ = ["chunk_count", "lazy_array", "n_docs_of"]

#: Bytes of a chunk, and of an entry: a column and a count.
_CHUNK = 48 << 20
_ENTRY = 8


def chunk_count(
    chunk_docs: int | str, n_docs: int | None, n_entries: int | None
) -> int:
    """Return how many chunks to cut a corpus into.

    Parameters
    ----------
    chunk_docs : int or "auto"
        Documents of a chunk, on average.
    n_docs, n_entries : int or None
        Of the corpus, None where nobody knows.
    """
    if chunk_docs == "auto":
        n_bytes = _ENTRY * ((n_entries or 0) + (n_docs or 0))
        return max(1, min(-(-n_bytes // _CHUNK), n_docs or 1))
    if isinstance(chunk_docs, bool) or not isinstance(chunk_docs, int | np.integer):
        raise TypeError(f"chunk_docs must be an int or 'auto', got {chunk_docs!r}.")
    if chunk_docs < 1:
        raise ValueError(f"chunk_docs must be at least 1, got {chunk_docs}.")
    return max(1, -(-(n_docs or 0) // int(chunk_docs)))


def n_docs_of(loader: Any) -> float:
    """Return how many documents will be loaded, NaN where nobody knows."""
    block = loader.block if isinstance(loader, InMemory) else None
    return getattr(loader, "n_docs", np.nan) if block is None else block.shape[0]


def lazy_array(
    parts: Sequence[Sequence[Any]],
    n_words: int,
    dtype: Any,
    sizes: Sequence[float] | None = None,
) -> Any:
    """Return a Dask array of what loaders, or Dask's ``Delayed``, make of documents.

    Parameters
    ----------
    parts : sequence of sequences of Loader or Delayed
        Loaders of a part make up a chunk. A ``Delayed`` is a chunk.
    n_words : int
    dtype : dtype
    sizes : sequence of int, optional
        Documents of each ``Delayed``.

    Returns
    -------
    dask array of shape (n_docs, n_words)
        With chunks that are CSR arrays.
    """
    import dask.array as da

    meta = sp.csr_array((0, 0), dtype=dtype)
    filled = [tuple(part) for part in parts if len(part)]
    if not filled:
        return da.from_array(sp.csr_array((0, n_words), dtype=dtype), asarray=False)
    if any(hasattr(loader, "dask") for part in filled for loader in part):
        blocks = [block for part in filled for block in part]
        known = [np.nan] * len(blocks) if sizes is None else sizes
        return da.concatenate(
            [
                da.from_delayed(block, (n, n_words), dtype, meta)
                for block, n in zip(blocks, known, strict=True)
            ],
            allow_unknown_chunksizes=True,
        )
    places = np.empty((len(filled), 1), dtype=object)
    places[:, 0] = [_Part(part) for part in filled]
    rows = tuple(sum(map(n_docs_of, part)) for part in filled)
    return da.from_array(places, chunks=1).map_blocks(
        _load, dtype=dtype, chunks=(rows, (n_words,)), meta=meta
    )


class _Part:
    """Loaders of a chunk; NumPy must not take them for numbers."""

    def __init__(self, loaders: tuple[Any, ...]) -> None:
        self.loaders = loaders

    def __dask_tokenize__(self) -> Any:
        return self.loaders


def _load(places: Any) -> sp.csr_array:
    blocks = [loader.load() for loader in places[0, 0].loaders]
    return blocks[0] if len(blocks) == 1 else sp.vstack(blocks, format="csr")
