"""Documents as lists of words, which are numbered and counted where they are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..peers.source import runs
from ..sharding import is_dask
from .lazy import lazy_array
from .sources import Corpus
from .vocabulary import (
    A_TEXT,
    Census,
    added,
    checked_documents,
    chosen_words,
    ordered_words,
    shortened,
    take_census,
)

__all__ = ["TokenSource", "are_tokens"]

#: Summaries of blocks that are added up at a time.
_FAN_IN = 8


class TokenSource(Corpus):
    """Documents that are lists of words, in memory or in a Dask bag.

    The vocabulary is found, when it is first needed, in one pass over all documents,
    which are counted where they are. Blocks are the partitions of a bag.

    Parameters
    ----------
    documents : dask.bag.Bag or iterable of lists of str
    vocabulary : sequence of str or mapping from str to int, default=None
        The words in order, or with their numbers; such as the `vocabulary_` of
        scikit-learn's ``CountVectorizer``. None stands for the words of the documents,
        sorted.
    min_df, max_df : int or float, default=1 and 1.0
        In how many documents a word of the vocabulary must and may be, or in which
        share of them if it is a float.
    max_features : int, default=None
        How many words to take, the most frequent ones of them. None takes all.

    Raises
    ------
    TypeError
        If documents are texts, or a word is no str; which those of a bag are found to
        be when they are computed.
    ValueError
        If the limits do not make sense, words of the vocabulary are twice in it, or
        nothing is left of it.

    Examples
    --------
    >>> import dask.bag as db
    >>> from dask_em.topics import TokenSource
    >>> texts = db.from_sequence(["milk and tea", "tea and time", "tea"])
    >>> corpus = TokenSource(texts.map(str.split), min_df=2)
    >>> corpus.vocabulary_, corpus.n_rows, corpus.n_outside
    (('and', 'tea'), 3, 2)
    """

    def __init__(
        self,
        documents: Any,
        *,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
        min_df: int | float = 1,
        max_df: int | float = 1.0,
        max_features: int | None = None,
    ) -> None:
        if hasattr(documents, "columns") or (
            is_dask(documents) and not hasattr(documents, "fold")
        ):
            raise TypeError(
                "Lists of words are wanted in a list or a Dask bag, got "
                f"{type(documents).__name__}; call to_bag() on a column of Dask's, or "
                "tolist() on one of pandas'."
            )
        if isinstance(documents, str):
            raise TypeError(A_TEXT.format(shortened(documents)))
        self._lazy = is_dask(documents)
        self.documents: Any = documents if self._lazy else list(documents)
        if not self._lazy:
            checked_documents(self.documents)
        self._given = None if vocabulary is None else ordered_words(vocabulary)
        for name, limit in (("min_df", min_df), ("max_df", max_df)):
            whole = isinstance(limit, int | np.integer) and not isinstance(limit, bool)
            if not (whole and limit >= 1) and not (
                isinstance(limit, float | np.floating) and 0 <= limit <= 1
            ):
                raise ValueError(
                    f"{name} must be an int of at least 1, or a float from 0 to 1, got "
                    f"{limit!r}."
                )
        if max_features is not None and not (
            isinstance(max_features, int | np.integer) and max_features >= 1
        ):
            raise ValueError(
                f"max_features must be an int of at least 1, got {max_features!r}."
            )
        self.min_df, self.max_df, self.max_features = min_df, max_df, max_features

    @property
    def vocabulary_(self) -> tuple[str, ...]:
        """Words in the order of their numbers; finding them takes a pass."""
        return self._encoder.words

    @property
    def n_words(self) -> int:
        """Number of words in the vocabulary."""
        return len(self.vocabulary_)

    @property
    def n_rows(self) -> int | None:
        """Number of documents, None for a bag that has not been gone through."""
        if not self._lazy:
            return len(self.documents)
        return sum(self._census.docs) if "_census" in self.__dict__ else None

    @property
    def n_tokens(self) -> int:
        """Number of tokens, those outside the vocabulary included; takes a pass."""
        return self._census.n_tokens

    @property
    def n_outside(self) -> int:
        """How many tokens are not in the vocabulary, and left out; takes a pass."""
        inside = self._census.tokens
        return self.n_tokens - sum(inside[word] for word in self.vocabulary_)

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Deal out partitions, or documents in memory, about as many to each."""
        if not self._lazy:
            n = len(self.documents)
            return [
                [_TokenLoader(self.documents[a:b], self._encoder)] if a < b else []
                for a, b in runs(n, n_nodes)
            ]
        from dask import delayed

        encode = delayed(self._encoder, pure=True, traverse=False)
        blocks = [encode(block) for block in self.documents.to_delayed()]
        return [blocks[a:b] for a, b in runs(len(blocks), n_nodes)]

    def to_dask(self, chunk_docs: int | str = "auto") -> Any:
        """Return the counts as a lazy Dask array; see `Corpus.to_dask`.

        Parameters
        ----------
        chunk_docs : int or "auto", default="auto"
            Of a bag, a chunk is a partition, whatever it is. Their sizes are known if
            there was a pass to find the vocabulary.
        """
        if not self._lazy:
            return super().to_dask(chunk_docs)
        if chunk_docs != "auto":
            raise ValueError(
                "partitions of a bag are not cut anew; call repartition on it."
            )
        (blocks,), n_words = self.cut(1), self.n_words
        sizes = self._census.docs if "_census" in self.__dict__ else None
        return lazy_array([[block] for block in blocks], n_words, self.dtype, sizes)

    @cached_property
    def _encoder(self) -> _Encoder:
        if self._given is not None:
            return _Encoder(self._given)
        return _Encoder(
            chosen_words(self._census, self.min_df, self.max_df, self.max_features)
        )

    @cached_property
    def _census(self) -> Census:
        if not self._lazy:
            return take_census(self.documents)
        import dask

        from ..estimators.clients import asynchronous_client

        if asynchronous_client() is not None:
            raise TypeError(
                "words are counted at once, which an asynchronous client cannot wait "
                "for; use a Client(asynchronous=False)."
            )
        count, add = dask.delayed(take_census), dask.delayed(added)  # type: ignore[attr-defined]
        found = [count(block) for block in self.documents.to_delayed()]
        while len(found) > 1:
            found = [add(found[i : i + _FAN_IN]) for i in range(0, len(found), _FAN_IN)]
        return dask.compute(found[0])[0]  # type: ignore[attr-defined]


def are_tokens(X: Any) -> bool:
    """Whether these are documents as lists of words, in memory."""
    if not isinstance(X, list | tuple):
        return False
    if not all(isinstance(document, list | tuple) for document in X):
        return False
    return isinstance(next(chain.from_iterable(X), None), str)


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """Counts words of documents.

    Parameters
    ----------
    words : tuple of str
    """

    words: tuple[str, ...]

    @cached_property
    def index(self) -> dict[str, int]:
        return {word: k for k, word in enumerate(self.words)}

    def __call__(self, documents: Iterable[Any]) -> sp.csr_array:
        found, n = checked_documents(documents), len(self.words)
        indptr = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(document) for document in found], out=indptr[1:])
        get = functools.partial(map, self.index.get)
        # unknown words go to a column more, which is cut off
        flat = (n if k is None else k for k in get(chain.from_iterable(found)))
        words = np.fromiter(flat, np.int32, indptr[-1])
        ones = np.ones(len(words), np.float32)
        counts = sp.csr_array((ones, words, indptr), shape=(len(found), n + 1))
        counts.sum_duplicates()
        return counts[:, :n]

    def __reduce__(self) -> Any:
        return _Encoder, (self.words,)  # the index is made anew


@dataclasses.dataclass(frozen=True)
class _TokenLoader:
    """Counts the words of documents that travel to where they are needed."""

    documents: list[Sequence[str]]
    encoder: _Encoder

    @property
    def n_docs(self) -> int:
        return len(self.documents)

    def load(self) -> sp.csr_array:
        return self.encoder(self.documents)
