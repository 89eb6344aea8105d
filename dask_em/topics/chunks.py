"""Corpora on disk, in chunks of raw arrays that are read as fast as the disk allows."""

from __future__ import annotations

import dataclasses
import itertools
import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from tokenize import TokenError
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .chunk_format import (
    ARRAYS,
    SINGLE,
    VOCABULARY,
    Chunk,
    checksum_of,
    file_of,
    read_header,
)
from .docword import PathLike
from .sources import Corpus

__all__ = ["ChunkedSource", "read_corpus"]


@dataclasses.dataclass(frozen=True)
class _ChunkLoader:
    """Reads some documents of a chunk."""

    folder: str
    chunk: Chunk
    start: int
    stop: int
    n_words: int
    dtype: np.dtype[Any]

    @property
    def n_docs(self) -> int:
        return self.stop - self.start

    def load(self) -> sp.csr_array:
        whole = self.n_docs == self.chunk.docs
        indptr = self.read("indptr", self.start, self.stop + 1)
        a, b = int(indptr[0]), int(indptr[-1])
        if not (0 <= a <= b <= self.chunk.entries and (np.diff(indptr) >= 0).all()):
            raise self.damage()
        indices = self.read("indices", a, b)
        counts = self.read("counts", a, b)
        if whole and checksum_of([indptr, indices, counts]) != self.chunk.checksum:
            raise self.damage()
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.n_words:
            raise self.damage()
        return sp.csr_array(
            (
                counts.astype(self.dtype, copy=False),
                indices.astype(np.int32, copy=False),
                (indptr - a).astype(np.int32 if b - a < 2**31 else np.int64),
            ),
            shape=(self.n_docs, self.n_words),
        )

    def read(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """Read a run of an array."""
        path = file_of(self.folder, self.chunk.name, array)
        n = self.chunk.docs + 1 if array == "indptr" else self.chunk.entries
        try:
            with open(path, "rb", buffering=0) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                if shape != (n,) or dtype.str not in ARRAYS[array]:
                    raise ValueError
                file.seek(start * dtype.itemsize, os.SEEK_CUR)
                found = np.fromfile(file, dtype, stop - start)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is missing: it was deleted, another corpus was written in its "
                "place, or the disk is not one that all machines share."
            ) from None
        except (ValueError, EOFError, SyntaxError, TokenError):  # of the header
            raise self.damage() from None
        if len(found) != stop - start:
            raise self.damage()
        return found

    def damage(self) -> ValueError:
        path = file_of(self.folder, self.chunk.name, "*")
        return ValueError(f"{path} are damaged; write the corpus again.")


class ChunkedSource(Corpus):
    """A corpus that `write_corpus` wrote, read by the nodes, each its own part.

    Parameters
    ----------
    path : path
        Of a directory that all workers see.

    Raises
    ------
    FileNotFoundError
        If there is no corpus.
    ValueError
        If it is damaged, or of another format or version. Files of counts are looked
        at when they are read; a chunk that is read as a whole is compared with its
        checksum.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.topics import ChunkedSource, write_corpus
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "corpus"
    ...     write_corpus(path, [[2, 0], [1, 3]], vocabulary=["tea", "time"])
    ...     corpus = ChunkedSource(path)
    ...     corpus.n_rows, corpus.n_entries, corpus.vocabulary_
    (2, 3, ['tea', 'time'])
    """

    def __init__(self, path: PathLike) -> None:
        self.path = os.path.abspath(path)
        self._header = read_header(self.path)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """What is on disk."""
        return self._header.chunks

    @property
    def n_rows(self) -> int:
        """Number of documents."""
        return sum(chunk.docs for chunk in self.chunks)

    @property
    def n_words(self) -> int:
        """Number of words in the vocabulary."""
        return self._header.n_words

    @property
    def n_entries(self) -> int:
        """Distinct words, summed over documents."""
        return sum(chunk.entries for chunk in self.chunks)

    @property
    def n_tokens(self) -> float:
        """Sum of the counts."""
        return self._header.n_tokens

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the counts in blocks: double precision only if they need it."""
        single = all(chunk.counts in SINGLE for chunk in self.chunks)
        return np.dtype(np.float32 if single else np.float64)

    @cached_property
    def vocabulary_(self) -> list[str] | None:
        """Words in the order of their numbers, None if they were not given."""
        if self._header.vocabulary is None:
            return None
        path = os.path.join(self.path, self._header.data, VOCABULARY)
        try:
            with open(path, "rb") as file:
                text = file.read()
        except FileNotFoundError:
            text = b""
        words = text.decode("utf-8", "replace").split("\n")[:-1]
        if zlib.crc32(text) != self._header.vocabulary or len(words) != self.n_words:
            raise ValueError(f"{path} is damaged; write the corpus again.")
        return words

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Cut documents into parts with about as many entries each."""
        # a document costs something even if it is empty
        work = np.cumsum([0, *(chunk.entries + chunk.docs for chunk in self.chunks)])
        edges = [(0, 0)]
        for i in range(1, n_nodes):
            near = float(work[-1]) * i / n_nodes
            k = int(np.searchsorted(work, near, "right")) - 1
            # on the boundary of two chunks, or in one: of which it has to be seen where
            inside = near > work[k] and k < len(self.chunks)
            edges.append((k, self._document(k, near - work[k]) if inside else 0))
        edges.append((len(self.chunks), 0))
        return [self._between(a, b) for a, b in itertools.pairwise(edges)]

    def _document(self, k: int, work: float) -> int:
        loader = self._loader(k, 0, self.chunks[k].docs)
        indptr = loader.read("indptr", 0, loader.n_docs + 1)
        done = indptr + np.arange(len(indptr))
        return int(np.searchsorted(done, work).clip(0, loader.n_docs))

    def _between(self, first: tuple[int, int], last: tuple[int, int]) -> list[Any]:
        found = []
        for k in range(first[0], min(last[0] + 1, len(self.chunks))):
            start = first[1] if k == first[0] else 0
            stop = last[1] if k == last[0] else self.chunks[k].docs
            if start < stop:
                found.append(self._loader(k, start, stop))
        return found

    def _loader(self, k: int, start: int, stop: int) -> _ChunkLoader:
        folder = os.path.join(self.path, self._header.data)
        return _ChunkLoader(
            folder, self.chunks[k], start, stop, self.n_words, self.dtype
        )

    def between(self, start: int, stop: int) -> list[Any]:
        """Return loaders of consecutive documents, from 0.

        Parameters
        ----------
        start, stop : int
            First document, and the one after the last.
        """
        first = np.cumsum([0, *(chunk.docs for chunk in self.chunks)])
        return [
            self._loader(k, max(start - a, 0), min(stop, b) - a)
            for k, (a, b) in enumerate(itertools.pairwise(first.tolist()))
            if max(start, a) < min(stop, b)
        ]


def read_corpus(
    path: PathLike, start: int = 0, stop: int | None = None
) -> sp.csr_array:
    """Read a corpus that `write_corpus` wrote, or some consecutive documents of it.

    Parameters
    ----------
    path : path
        Of its directory.
    start : int, default=0
        First document, from 0.
    stop : int, default=None
        The one after the last. None stands for the end of the corpus.

    Returns
    -------
    csr_array of shape (stop - start, n_words)
        Of float32, or float64 if counts need it.

    See Also
    --------
    ChunkedSource : A corpus that is not read before it is needed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.topics import read_corpus, write_corpus
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "corpus"
    ...     write_corpus(path, [[2, 0], [1, 3]])
    ...     read_corpus(path, start=1).toarray()
    array([[1., 3.]], dtype=float32)
    """
    source = ChunkedSource(path)
    stop = source.n_rows if stop is None else stop
    if not 0 <= start <= stop <= source.n_rows:
        raise ValueError(
            f"Documents {start} to {stop} are not among the {source.n_rows} of {path}."
        )
    blocks = [loader.load() for loader in source.between(start, stop)]
    if len(blocks) == 1:
        return blocks[0]
    empty = sp.csr_array((0, source.n_words), dtype=source.dtype)
    return sp.vstack([empty, *blocks], format="csr")
