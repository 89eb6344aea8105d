"""Corpora as sources of blocks of documents."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..labels import is_labelled
from ..peers.source import InMemory, Source
from ..sharding import DaskData, Data, MemoryData, is_dask
from .docword import Header, PathLike, Span, read_header, read_span, spans
from .lazy import chunk_count, lazy_array

__all__ = [
    "Corpus",
    "DaskSource",
    "DocwordSource",
    "SparseSource",
    "as_corpus",
    "as_csr",
    "refuse_texts",
    "unlabelled",
]


#: Bytes of an entry in memory, and entries of a document where they are unknown.
_ENTRY = 12
_ENTRIES = 300


class Corpus(Source):
    """Documents as counts of words; blocks are CSR arrays, (n_docs, n_words)."""

    @property
    @abstractmethod
    def n_words(self) -> int:
        """Number of words in the vocabulary."""

    @property
    def n_entries(self) -> int | None:
        """Distinct words, summed over documents; None where nobody has looked."""
        return None

    @property
    def vocabulary_(self) -> Sequence[str] | None:
        """Words in the order of their numbers, None where they are unknown."""
        return None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the counts in blocks."""
        return np.dtype(np.float32)

    def to_dask(self, chunk_docs: int | str = "auto") -> Any:
        """Return the documents as a lazy Dask array.

        Parameters
        ----------
        chunk_docs : int or "auto", default="auto"
            Documents of a chunk, on average: all chunks have about the same number of
            entries. "auto" makes chunks of up to 48 MiB.

        Returns
        -------
        dask array of shape (n_docs, n_words)
            With chunks that are CSR arrays, each loaded where it is needed. A file in
            docword format that is cut off is not noticed.

        Examples
        --------
        >>> from dask_em.topics import as_corpus
        >>> as_corpus([[1, 0, 2], [0, 1, 0]]).to_dask(chunk_docs=1).chunks
        ((1, 1), (3,))
        """
        n_chunks = chunk_count(chunk_docs, self.n_rows, self.n_entries)
        return lazy_array(self.cut(n_chunks), self.n_words, self.dtype)

    def data(self) -> Data:
        """Return the documents as rows for a fit with a manager."""
        return DaskSource(self.to_dask())._rows(self.n_entries)


def as_csr(block: Any) -> sp.csr_array:
    """Turn counts into the form that topic models work with.

    Parameters
    ----------
    block : sparse matrix or array-like of shape (n_docs, n_words)
        Is not changed.

    Returns
    -------
    csr_array of float32 or float64
        Without zeros or duplicates. Counts keep their precision; integers become
        float32 where that is exact.
    """
    given = block if sp.issparse(block) else np.asarray(block)
    if given.dtype == np.float16:  # which scipy has not
        given = given.astype(np.float32)
    if given.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {given.ndim}D array instead: counts of words must "
            "have the shape (n_docs, n_words)."
        )
    if given.dtype.kind not in "fiub":
        raise TypeError(f"Counts of words must be numbers, got dtype {given.dtype}.")
    found = sp.csr_array(given)
    if not found.has_canonical_format or (found.data == 0).any():
        found = found.copy()  # the caller's arrays are not to be changed
        found.sum_duplicates()
        found.eliminate_zeros()
    if found.dtype not in (np.float32, np.float64):
        small = not found.nnz or np.abs(found.data).max() <= 2**24
        found = found.astype(np.float32 if small else np.float64)
    return found


@dataclasses.dataclass(frozen=True)
class SparseSource(Corpus):
    """A corpus in memory.

    Parameters
    ----------
    X : csr_array of shape (n_docs, n_words)
        See `as_csr`.
    """

    X: sp.csr_array

    @property
    def n_rows(self) -> int:
        """Number of documents."""
        return int(self.X.shape[0])

    @property
    def n_words(self) -> int:
        """Number of words in the vocabulary."""
        return int(self.X.shape[1])

    @property
    def n_entries(self) -> int:
        """Distinct words, summed over documents."""
        return int(self.X.nnz)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the counts."""
        return self.X.dtype

    def data(self) -> Data:
        """Return the documents as rows for a fit with a manager."""
        return MemoryData(self.X)

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Cut documents into parts with about as many entries each."""
        indptr, n = self.X.indptr, self.n_rows
        # a document costs something even if it is empty
        work = indptr + np.arange(n + 1)
        inner = np.searchsorted(work, work[-1] * np.arange(1, n_nodes) / n_nodes)
        edges = [0, *inner.tolist(), n]
        return [
            [InMemory(self.X[a:b])] if a < b else []
            for a, b in itertools.pairwise(edges)
        ]


@dataclasses.dataclass(frozen=True)
class DaskSource(Corpus):
    """A corpus that is a Dask array, lazy or persisted.

    Parameters
    ----------
    X : dask array of shape (n_docs, n_words)
        With dense chunks, or sparse ones of scipy's, along documents only; the sizes
        of chunks may be unknown.

    Raises
    ------
    ValueError
        If it has not two dimensions, or is chunked along words.
    """

    X: Any

    def __post_init__(self) -> None:
        if self.X.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got {self.X.ndim}D array instead: counts of words "
                "must have the shape (n_docs, n_words)."
            )
        if self.X.dtype.kind not in "fiub":
            raise TypeError(f"X must be numeric, got dtype {self.X.dtype}.")
        if self.X.numblocks[1] > 1:
            raise ValueError(
                f"X is chunked along words, {self.X.chunks[1]}; put all words of a "
                "document into one chunk with X.rechunk({1: -1})."
            )
        if np.isnan(self.X.shape[1]):
            raise ValueError(
                "The number of words of X is unknown; call X.compute_chunk_sizes(), or "
                "give its columns a size when it is made."
            )

    @property
    def n_rows(self) -> int | None:
        """Number of documents, None if it is unknown."""
        n = self.X.shape[0]
        return None if np.isnan(n) else int(n)

    @property
    def n_words(self) -> int:
        """Number of words in the vocabulary."""
        return int(self.X.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the counts in blocks, as `as_csr` chooses it for small ones."""
        given = np.dtype(self.X.dtype)
        return given if given == np.float64 else np.dtype(np.float32)

    def to_dask(self, chunk_docs: int | str = "auto") -> Any:
        """Return the array, with chunks that are CSR arrays.

        Parameters
        ----------
        chunk_docs : "auto"
            Chunks stay as they are.
        """
        if chunk_docs != "auto":
            raise ValueError(
                "chunks of a Dask array are not cut anew; call rechunk on it, or write "
                "it with write_corpus(..., docs_per_chunk=...)."
            )
        meta = sp.csr_array((0, 0), dtype=self.dtype)
        return self.X.map_blocks(as_csr, dtype=self.dtype, meta=meta)

    def data(self) -> Data:
        """Return the documents as rows for a fit with a manager.

        Chunks of unknown sizes are computed to count their rows.
        """
        return self._rows(None)

    def _rows(self, n_entries: int | None) -> Data:
        X = self.X
        if self.n_rows is None:
            X = X.copy()  # the caller's own is not to be changed
            X.compute_chunk_sizes()
        n_rows, n_words = X.shape
        if not n_rows:
            raise ValueError("There are no documents to fit to; check the corpus.")
        if n_entries is None:
            n_entries = n_rows * min(n_words, _ENTRIES)
        meta = sp.csr_array((0, n_words), dtype=self.dtype)
        blocks = X.map_blocks(as_csr, dtype=self.dtype, meta=meta)
        return DaskData(blocks, row_nbytes=_ENTRY * n_entries / max(n_rows, 1) + 8)

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Deal out chunks, about as many documents each if their sizes are known.

        Chunks are not split, so with fewer of them than nodes some have nothing to do.
        """
        from dask import delayed

        convert = delayed(as_csr, pure=True)
        blocks = [convert(block) for block in self.X.to_delayed().ravel()]
        sizes = np.asarray(self.X.chunks[0], dtype=float)
        if np.isnan(sizes).any() or not sizes.sum():
            sizes = np.ones(len(blocks))
        middles = np.cumsum(sizes) - sizes / 2
        owners = np.floor(middles / sizes.sum() * n_nodes).astype(int)
        return [
            [blocks[i] for i in np.flatnonzero(owners == node)]
            for node in range(n_nodes)
        ]


@dataclasses.dataclass(frozen=True)
class _DocwordLoader:
    """Reads some documents of a file."""

    path: str
    header: Header
    span: Span

    @property
    def n_docs(self) -> int:
        return self.span.docs[1] - self.span.docs[0]

    def load(self) -> sp.csr_array:
        return read_span(self.path, self.header, self.span)


@dataclasses.dataclass(frozen=True)
class DocwordSource(Corpus):
    """A corpus in docword format, read by the nodes, each its own part.

    Parameters
    ----------
    path : path
        Of a file that all workers see. Parts of a plain file are read from where they
        are; to reach a part of one compressed by gzip all before it is read, too.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.topics import DocwordSource, write_docword
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "docword.txt"
    ...     write_docword(path, [[2, 0], [1, 3]])
    ...     DocwordSource(path).n_words
    2
    """

    path: PathLike
    header: Header = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.path.abspath(self.path))
        object.__setattr__(self, "header", read_header(self.path))

    @property
    def n_rows(self) -> int:
        """Number of documents."""
        return self.header.n_docs

    @property
    def n_words(self) -> int:
        """Number of words in the vocabulary."""
        return self.header.n_words

    @property
    def n_entries(self) -> int:
        """Distinct words, summed over documents."""
        return self.header.nnz

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Cut the file into parts with about as many bytes, or documents, each."""
        return [
            [_DocwordLoader(os.fspath(self.path), self.header, span)]
            if span.docs[0] < span.docs[1]
            else []
            for span in spans(self.path, self.header, n_nodes)
        ]


def as_corpus(X: Any) -> Corpus:
    """Make a source of documents of whatever holds their counts.

    Parameters
    ----------
    X : object
        A corpus; the path of a directory that `write_corpus` wrote, or of a file in
        docword format; lists of words, in a list or a Dask bag, which make a
        `TokenSource`; or counts, of shape (n_docs, n_words), in a Dask array or
        DataFrame, a sparse matrix, or anything like an array. Of an
        `xarray.DataArray` the array alone is used.

    Returns
    -------
    Corpus

    Examples
    --------
    >>> from dask_em.topics import as_corpus
    >>> corpus = as_corpus([[1, 0, 2], [0, 1, 0]])
    >>> corpus.n_rows, corpus.n_words
    (2, 3)
    >>> as_corpus([["tea", "time"], ["tea"]]).vocabulary_
    ('tea', 'time')
    """
    from .tokens import TokenSource, are_tokens

    if isinstance(X, Corpus):
        return X
    if isinstance(X, str | os.PathLike):
        return _of_path(X)
    X = unlabelled(X)
    if is_dask(X):
        from dask.delayed import Delayed

        if isinstance(X, Delayed):  # which has every attribute
            raise TypeError(
                "Counts of words, or lists of words, are wanted, got a Dask Delayed; "
                "make an array of it with dask.array.from_delayed, or a bag."
            )
        if hasattr(X, "fold"):  # a bag
            return TokenSource(X)
        found = X.to_dask_array() if hasattr(X, "to_dask_array") else X
        if hasattr(found, "numblocks"):
            return DaskSource(found)
        raise TypeError(
            "Counts of words, or lists of words, are wanted, got a Dask "
            f"{type(X).__name__}; pass counts as a Dask array, or words as a bag."
        )
    if are_tokens(X):
        return TokenSource(X)
    refuse_texts(X)
    return SparseSource(as_csr(X))


def unlabelled(X: Any) -> Any:
    """Return the array of an `xarray.DataArray`, and anything else as it is."""
    if not is_labelled(X):
        return X
    if not hasattr(X, "dtype"):
        raise TypeError(
            "Counts of words are wanted, got an xarray.Dataset; pass the DataArray in "
            "it that has them."
        )
    return X.data


def _of_path(path: PathLike) -> Corpus:
    try:
        if os.path.isdir(path):
            from .chunks import ChunkedSource

            return ChunkedSource(path)
        return DocwordSource(path)
    except OSError as error:
        missing = (errno.ENOENT, errno.ENAMETOOLONG)
        if not isinstance(path, str) or error.errno not in missing:
            raise
        shown = path if len(path) <= 60 else f"{path[:60]}..."
        raise FileNotFoundError(
            errno.ENOENT, "no such file; a string is the path of a corpus", shown
        ) from None


def refuse_texts(X: Any) -> None:
    """Raise for texts in place of counts, and for what is only gone through once."""
    if hasattr(X, "__next__"):
        raise TypeError(
            "Documents are read more than once, which an iterator cannot be; make a "
            "list of it, or a corpus on disk with dask_em.topics.write_corpus."
        )
    first = X
    for depth in range(2):
        if isinstance(first, list | tuple):
            first = first[0] if first else None
        elif getattr(first, "ndim", None) == 1:  # an array, or a column of pandas'
            first = next(iter(first), None)
        if isinstance(first, str) and depth:
            raise TypeError(
                "Lists of words are wanted in a list or a Dask bag, got "
                f"{type(X).__name__} of {type(next(iter(X))).__name__}; pass "
                "dask_em.topics.TokenSource(documents)."
            )
        if isinstance(first, str):
            raise TypeError(
                "Counts of words, or lists of words, are wanted, got texts; split them "
                "into words, or count them with scikit-learn's "
                "CountVectorizer().fit_transform(texts)."
            )
