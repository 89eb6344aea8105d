"""Simulated corpora of any size, drawn chunk by chunk."""

from __future__ import annotations

import dataclasses
import functools
import operator
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..kernels.corpus import draw_documents, fill_alias
from ..topics.lazy import lazy_array

__all__ = ["make_corpus", "make_corpus_array"]

#: Zipf's law as Mandelbrot has it: a word's share falls as (rank + _FIRST) ** -_SLOPE.
_FIRST, _SLOPE = 30.0, 1.05
#: Topics are drawn around these shares with this concentration, and have this part of
#: these shares besides, so that rare words occur, too.
_WEIGHT, _COMMON = 100.0, 0.15
#: Concentration of the topics of a document, and shape of the lengths of documents.
_ALPHA, _SHAPE = 0.03, 2.0

_lock = threading.Lock()


def make_corpus(
    n_documents: int = 300_000,
    n_words: int = 102_660,
    n_topics: int = 100,
    document_length: float = 332,
    *,
    seed: int = 0,
    chunk: int = 20_000,
) -> Iterator[sp.csr_array]:
    """Draw a corpus from latent Dirichlet allocation, some documents at a time.

    With the defaults it is as large as the NYTimes corpus of the UCI repository: 10⁸
    tokens, and 0.7 entries per token. Nothing is kept, so there may be as many
    documents as one likes.

    Shares of words follow Zipf's law, and words are numbered in random order. A topic
    has 15 percent of these shares, and 85 of ones drawn from a Dirichlet distribution
    around them with concentration 100. Topics of a document come from a symmetric
    Dirichlet distribution with concentration 0.03, and its length from a negative
    binomial one.

    Parameters
    ----------
    n_documents : int, default=300_000
    n_words : int, default=102_660
    n_topics : int, default=100
    document_length : float, default=332
        Tokens of a document, on average.
    seed : int, default=0
        Decides on the documents. Those of a chunk depend on it, on the number of the
        chunk and on the other parameters, but not on other chunks nor on how many
        there are.
    chunk : int, default=20_000
        Documents of a chunk.

    Yields
    ------
    csr_array of shape (chunk, n_words), float32
        The last one may have fewer documents.

    See Also
    --------
    make_corpus_array : The same corpus as a Dask array.

    Examples
    --------
    >>> from dask_em.datasets import make_corpus
    >>> blocks = list(make_corpus(250, 1000, n_topics=5, chunk=100))
    >>> [block.shape for block in blocks]
    [(100, 1000), (100, 1000), (50, 1000)]

    One that does not fit in memory is written as it is drawn:

    >>> import pathlib, tempfile
    >>> from dask_em.topics import as_corpus, write_corpus
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "corpus"
    ...     write_corpus(path, make_corpus(250, 1000, n_topics=5, chunk=100))
    ...     as_corpus(path).n_rows
    250
    """
    law = _Law.of(n_words, n_topics, document_length, seed)
    chunks = _chunks(law, n_documents, chunk)
    return (each.load() for each in chunks)


def make_corpus_array(
    n_documents: int = 300_000,
    n_words: int = 102_660,
    n_topics: int = 100,
    document_length: float = 332,
    *,
    seed: int = 0,
    chunk: int = 20_000,
) -> Any:
    """Return a corpus of `make_corpus` as a lazy Dask array.

    Parameters
    ----------
    n_documents, n_words, n_topics, document_length, seed, chunk
        As for `make_corpus`; documents are the same.

    Returns
    -------
    dask array of shape (n_documents, n_words)
        With chunks that are CSR arrays, each drawn where it is needed.

    Examples
    --------
    >>> from dask_em.datasets import make_corpus_array
    >>> X = make_corpus_array(250, 1000, n_topics=5, chunk=100)
    >>> X.chunks
    ((100, 100, 50), (1000,))
    """
    law = _Law.of(n_words, n_topics, document_length, seed)
    chunks = [[each] for each in _chunks(law, n_documents, chunk)]
    return lazy_array(chunks, law.n_words, np.float32)


def _whole(name: str, value: int, least: int = 1) -> int:
    if operator.index(value) < least:
        raise ValueError(f"{name}={value}; it must be at least {least}")
    return operator.index(value)


@dataclasses.dataclass(frozen=True)
class _Law:
    """What documents are drawn from."""

    n_words: int
    n_topics: int
    length: float
    seed: int

    @classmethod
    def of(cls, n_words: int, n_topics: int, length: float, seed: int) -> _Law:
        if not 0 < length < np.inf:
            raise ValueError(f"document_length={length}; it must be positive")
        return cls(
            _whole("n_words", n_words),
            _whole("n_topics", n_topics),
            float(length),
            _whole("seed", seed, 0),
        )

    def topics(self) -> Iterator[NDArray[np.float64]]:
        """Yield the shares of words in each topic."""
        rng = np.random.default_rng([self.seed, 0])
        shares = (np.arange(self.n_words) + _FIRST) ** -_SLOPE
        shares = rng.permutation(shares / shares.sum())
        for _ in range(self.n_topics):
            drawn = rng.standard_gamma(_WEIGHT * shares)
            yield _COMMON * shares + (1 - _COMMON) * drawn / drawn.sum()


@functools.lru_cache(maxsize=1)
def _tables(law: _Law) -> NDArray[np.int32]:
    """Return the tables of `fill_alias` for all topics."""
    tables = np.empty((law.n_topics, law.n_words, 2), np.int32)
    for table, topic in zip(tables, law.topics(), strict=True):
        fill_alias(topic, table)
    return tables


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Some documents, to be drawn where they are needed."""

    law: _Law
    number: int
    n_docs: int

    def load(self) -> sp.csr_array:
        law = self.law
        with _lock:  # threads share the tables, which one of them makes
            tables = _tables(law)
        rng = np.random.default_rng([law.seed, 1, self.number])
        lengths = rng.poisson(rng.gamma(_SHAPE, law.length / _SHAPE, self.n_docs))
        mixed = rng.standard_gamma(_ALPHA, (self.n_docs, law.n_topics))
        mixed /= mixed.sum(axis=1, keepdims=True)
        n_tokens = rng.multinomial(lengths, mixed)
        n = int(lengths.sum())
        indptr, words = np.empty(self.n_docs + 1, np.int64), np.empty(n, np.int32)
        counts = draw_documents(n_tokens, rng.random(n), tables, indptr, words)
        n_entries = indptr[-1]
        arrays = counts[:n_entries].copy(), words[:n_entries].copy(), indptr
        return sp.csr_array(arrays, shape=(self.n_docs, law.n_words))


def _chunks(law: _Law, n_documents: int, chunk: int) -> list[_Drawn]:
    n, step = _whole("n_documents", n_documents), _whole("chunk", chunk)
    return [_Drawn(law, i, min(step, n - a)) for i, a in enumerate(range(0, n, step))]
