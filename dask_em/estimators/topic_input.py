"""What users call a corpus, checked; and functions of documents applied to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from sklearn.utils.validation import check_non_negative, validate_data

from ..kernels.threads import n_threads
from ..models.topics.base import check_counts
from ..sharding import is_dask
from ..topics.sources import (
    Corpus,
    DaskSource,
    SparseSource,
    as_corpus,
    as_csr,
    refuse_texts,
    unlabelled,
)
from .clients import asynchronous_client

__all__ = ["map_documents", "read_corpus", "sum_documents"]

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
    X : Corpus, path, dask array or DataFrame, sparse matrix or array-like
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
    if isinstance(X, Corpus | str) or hasattr(X, "__fspath__") or is_dask(X):
        corpus = as_corpus(X)
        if hasattr(X, "_meta") and hasattr(X, "columns"):  # a DataFrame of Dask's
            validate_data(probe, X._meta, reset=reset, skip_check_array=True)
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
    if isinstance(corpus, DaskSource):
        import dask

        return corpus.X.map_blocks(
            _apply,
            # in the graph once, not in every task
            function=dask.delayed(function, pure=True, traverse=False),  # type: ignore[attr-defined]
            cast=dtype,
            whom=whom,
            chunks=(corpus.X.chunks[0], (n_columns,)),
            dtype=dtype,
            meta=np.empty((0, 0), dtype=dtype),
        )
    tiles = list(_tiles(corpus, whom))
    if len(tiles) == 1:
        return function(tiles[0]).astype(dtype, copy=False)
    with ThreadPoolExecutor(n_threads()) as pool:
        found = [
            values.astype(dtype, copy=False) for values in pool.map(function, tiles)
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
    if not isinstance(corpus, DaskSource):
        with ThreadPoolExecutor(n_threads()) as pool:
            tiles = list(_tiles(corpus, whom))
            return sum(pool.map(function, tiles, range(len(tiles))))
    if asynchronous_client() is not None:
        raise TypeError(
            "this computes lazy data at once, which an asynchronous client cannot "
            "wait for; use a Client(asynchronous=False), or data in memory."
        )
    import dask

    send = dask.delayed(function, pure=True, traverse=False)  # type: ignore[attr-defined]
    one = dask.delayed(_call, pure=False)  # type: ignore[attr-defined]
    blocks = corpus.X.to_delayed().ravel()
    return sum(dask.compute(*(one(send, b, i, whom) for i, b in enumerate(blocks))))  # type: ignore[attr-defined]


def _tiles(corpus: Corpus, whom: str) -> Any:
    (loaders,) = corpus.cut(1)
    for loader in loaders:
        block = loader.load()
        check_counts(block, whom)
        for i in range(0, block.shape[0], _TILE):
            yield block[i : i + _TILE]


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
