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
from ..sharding import is_dask
from .docword import Header, PathLike, Span, read_header, read_span, spans

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


class Corpus(Source):
    """Documents as counts of words; blocks are CSR arrays, (n_docs, n_words)."""

    @property
    @abstractmethod
    def n_words(self) -> int:
        """Number of words in the vocabulary."""


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
    X : Corpus, path, dask array or DataFrame, sparse matrix or array-like
        A path is that of a file in docword format; all others have the shape
        (n_docs, n_words). Of an `xarray.DataArray` the array alone is used.

    Returns
    -------
    Corpus

    Examples
    --------
    >>> from dask_em.topics import as_corpus
    >>> corpus = as_corpus([[1, 0, 2], [0, 1, 0]])
    >>> corpus.n_rows, corpus.n_words
    (2, 3)
    """
    if isinstance(X, Corpus):
        return X
    if isinstance(X, str | os.PathLike):
        return _of_path(X)
    X = unlabelled(X)
    if is_dask(X):
        found = X.to_dask_array() if hasattr(X, "to_dask_array") else X
        if not hasattr(found, "numblocks"):
            raise TypeError(
                f"Counts of words are wanted, got a Dask {type(X).__name__}; count the "
                "words of texts with scikit-learn's HashingVectorizer, or "
                "CountVectorizer with a vocabulary, in map_partitions, and pass the "
                "counts as a Dask array, or the path of a docword file."
            )
        return DaskSource(found)
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


def _of_path(path: PathLike) -> DocwordSource:
    try:
        return DocwordSource(path)
    except OSError as error:
        missing = (errno.ENOENT, errno.ENAMETOOLONG)
        if not isinstance(path, str) or error.errno not in missing:
            raise
        shown = path if len(path) <= 60 else f"{path[:60]}..."
        raise FileNotFoundError(
            errno.ENOENT, "no such file; a string is the path of a docword file", shown
        ) from None


def refuse_texts(X: Any) -> None:
    """Raise for texts in place of counts, or lists of words."""
    first = X
    for _ in range(2):
        if isinstance(first, list | tuple):
            first = first[0] if first else None
        elif getattr(first, "ndim", None) == 1:  # an array, or a column of pandas'
            first = next(iter(first), None)
        if isinstance(first, str):
            raise TypeError(
                "Counts of words are wanted, got texts; count their words with "
                "scikit-learn's CountVectorizer().fit_transform(texts)."
            )
