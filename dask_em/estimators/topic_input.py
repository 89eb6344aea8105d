"""What users call a corpus, checked; and functions of documents applied to it."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
from sklearn.utils.validation import check_non_negative, validate_data

from ..kernels.threads import n_threads
from ..models.topics.base import check_counts
from ..sharding import is_dask
from ..topics.lazy import chunk_count
from ..topics.sources import (
    Corpus,
    DaskSource,
    SparseSource,
    as_corpus,
    as_csr,
    refuse_texts,
    unlabelled,
)
from ..topics.tokens import TokenSource, are_tokens
from .clients import asynchronous_client

__all__ = [
    "batches_of",
    "blocks_of",
    "is_lazy",
    "map_documents",
    "read_corpus",
    "sum_documents",
]

T = TypeVar("T")

#: Documents of a tile.
_TILE = 4_096


def read_corpus(
    estimator: Any, X: Any, *, reset: bool, whom: str
) -> tuple[Corpus, dict[str, Any], np.dtype[Any]]:
    """Check a corpus of any kind; nothing lazy is computed, nothing is kept.

    Parameters
    ----------
    estimator : LatentDirichletAllocation
        Whose data they are.
    X : object
        See `as_corpus`. Lists of words that are not to be fitted to are counted by
        the vocabulary of the fit.
    reset : bool
        Whether these are data to fit to, else they must match those of the fit.
    whom : str
        Who was given them, for messages.

    Returns
    -------
    corpus : Corpus
    columns : dict
        Attributes of the estimator that describe the columns.
    dtype : dtype
        Precision of results: that of the data.
    """
    # scikit-learn would write what it finds to the estimator before the fit has
    # succeeded: let it write to a copy
    probe = copy.copy(estimator) if reset else estimator
    X = unlabelled(X)
    words = are_tokens(X) or (is_dask(X) and hasattr(X, "fold"))
    known = None if reset else getattr(estimator, "vocabulary_", None)
    if known is not None and isinstance(X, list | tuple):  # a batch without a word
        words |= all(isinstance(text, list | tuple) and not text for text in X)
    if words and not reset:
        if known is None:
            raise ValueError(
                f"{type(estimator).__name__} was fitted to counts of words whose names "
                "it does not know; pass counts, or TokenSource(X, vocabulary=...)."
            )
        X = TokenSource(X, vocabulary=known)
    if words or isinstance(X, Corpus | str) or hasattr(X, "__fspath__") or is_dask(X):
        corpus = as_corpus(X)
        if hasattr(X, "_meta") and hasattr(X, "columns"):  # a DataFrame of Dask's
            validate_data(probe, X._meta, reset=reset, skip_check_array=True)
        elif known is not None and tuple(corpus.vocabulary_ or known) != known:
            raise ValueError(
                f"X has other words than {type(estimator).__name__} was fitted to; "
                "pass lists of words, or TokenSource(..., vocabulary=) with its "
                "vocabulary_."
            )
        elif not reset and corpus.n_words != estimator.n_features_in_:
            raise ValueError(
                f"X has {corpus.n_words} features, but {type(estimator).__name__} is "
                f"expecting {estimator.n_features_in_} features as input."
            )
        given = getattr(getattr(corpus, "X", None), "dtype", None)
    else:
        refuse_texts(X)
        X = validate_data(probe, X, reset=reset, accept_sparse="csr", dtype="numeric")
        check_non_negative(X, whom)
        corpus, given = SparseSource(as_csr(X)), X.dtype
    columns: dict[str, Any] = {"n_features_in_": corpus.n_words}
    if reset:
        vocabulary = corpus.vocabulary_
        if vocabulary is not None:
            columns["vocabulary_"] = tuple(vocabulary)
        if hasattr(probe, "feature_names_in_"):
            columns["feature_names_in_"] = probe.feature_names_in_
    return corpus, columns, np.dtype("f4" if given == np.float32 else "f8")


def map_documents(
    function: Callable[[Any], Any],
    corpus: Corpus,
    n_columns: int,
    dtype: np.dtype[Any],
    whom: str,
) -> Any:
    """Apply a function of some documents to all of them.

    Parameters
    ----------
    function : callable
        From a CSR array of shape (n_docs, n_words) to an array of shape
        (n_docs, n_columns).
    corpus : Corpus
    n_columns : int
    dtype : dtype
        Of the result.
    whom : str

    Returns
    -------
    array or dask array of shape (n_docs, n_columns)
        Lazy for lazy documents, and with the same chunks.
    """
    if is_lazy(corpus):
        import dask

        X = _lazy(corpus)
        return X.map_blocks(
            _apply,
            # in the graph once, not in every task
            function=dask.delayed(function, pure=True, traverse=False),  # type: ignore[attr-defined]
            cast=dtype,
            whom=whom,
            chunks=(X.chunks[0], (n_columns,)),
            dtype=dtype,
            meta=np.empty((0, 0), dtype=dtype),
        )
    tiles = _tiles(corpus, whom)
    found = [
        values.astype(dtype, copy=False)
        for values in _mapped(lambda tile, _: function(tile), tiles)
    ]
    return np.concatenate([np.empty((0, n_columns), dtype), *found])


def sum_documents(
    function: Callable[[Any, int], Any], corpus: Corpus, whom: str
) -> Any:
    """Add up a function of some documents over all of them; lazy ones are computed.

    Parameters
    ----------
    function : callable
        From a CSR array of shape (n_docs, n_words) and the number of the chunk to an
        array of fixed shape.
    corpus : Corpus
    whom : str
    """
    if not is_lazy(corpus):
        return sum(_mapped(function, _tiles(corpus, whom)))
    if asynchronous_client() is not None:
        raise TypeError(
            "this computes lazy data at once, which an asynchronous client cannot "
            "wait for; use a Client(asynchronous=False), or data in memory."
        )
    import dask

    send = dask.delayed(function, pure=True, traverse=False)  # type: ignore[attr-defined]
    one = dask.delayed(_call, pure=False)  # type: ignore[attr-defined]
    blocks = _lazy(corpus).to_delayed().ravel()
    return sum(dask.compute(*(one(send, b, i, whom) for i, b in enumerate(blocks))))  # type: ignore[attr-defined]


def is_lazy(corpus: Corpus) -> bool:
    """Whether documents are in a Dask collection."""
    if isinstance(corpus, TokenSource):
        return is_dask(corpus.documents)
    return isinstance(corpus, DaskSource)


def _lazy(corpus: Corpus) -> Any:
    """Return lazy documents as a Dask array, as they were given if they were one."""
    return corpus.X if isinstance(corpus, DaskSource) else corpus.to_dask()


def blocks_of(corpus: Corpus, whom: str) -> Iterator[sp.csr_array]:
    """Load documents that are not lazy, some at a time, and check their counts.

    Parameters
    ----------
    corpus : Corpus
    whom : str
        Who was given them, for messages.

    Raises
    ------
    ValueError
        If a count is negative or not finite, or a file is cut off.
    """
    n_parts = 1
    if not isinstance(corpus, SparseSource):
        n_parts = chunk_count("auto", corpus.n_rows, corpus.n_entries)
    read = None
    for loader in itertools.chain.from_iterable(corpus.cut(n_parts)):
        block = loader.load()
        check_counts(block, whom)
        part = getattr(block, "read", None)
        read = part if read is None or part is None else read + part
        yield block
    if read is not None:
        read.verify()


def batches_of(corpus: Corpus, whom: str) -> Iterator[sp.csr_array]:
    """Load documents of any kind, a chunk at a time, and check their counts."""
    if not is_lazy(corpus):
        yield from blocks_of(corpus, whom)
        return
    if asynchronous_client() is not None:
        raise TypeError(
            "chunks are computed one after the other, which an asynchronous client "
            "cannot wait for; use a Client(asynchronous=False), or data in memory."
        )
    for block in _lazy(corpus).to_delayed().ravel():
        yield _checked(block.compute(), whom)


def _tiles(corpus: Corpus, whom: str) -> Iterator[sp.csr_array]:
    for block in blocks_of(corpus, whom):
        for i in range(0, block.shape[0], _TILE):
            yield block[i : i + _TILE]


def _mapped(
    function: Callable[[Any, int], T], tiles: Iterator[sp.csr_array]
) -> Iterator[T]:
    """Apply a function to tiles and their numbers, few of which are there at a time."""
    n = n_threads()
    with ThreadPoolExecutor(n) as pool:
        pending: deque[Any] = deque()
        for i, tile in enumerate(tiles):
            pending.append(pool.submit(function, tile, i))
            if len(pending) > 2 * n:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _checked(block: Any, whom: str) -> Any:
    found = as_csr(block)
    check_counts(found, whom)
    return found


def _apply(
    block: Any, *, function: Callable[[Any], Any], cast: np.dtype[Any], whom: str
) -> Any:
    return function(_checked(block, whom)).astype(cast, copy=False)


def _call(function: Callable[[Any, int], Any], block: Any, i: int, whom: str) -> Any:
    return function(_checked(block, whom), i)
