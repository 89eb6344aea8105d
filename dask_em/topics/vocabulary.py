"""The words of documents: which there are, and which make up a vocabulary."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

__all__ = [
    "A_TEXT",
    "Census",
    "added",
    "checked_documents",
    "chosen_words",
    "listed_words",
    "ordered_words",
    "shortened",
    "take_census",
]

A_TEXT = (
    "Documents must be lists of words, got the text {}; split texts into words, those "
    "of a bag with .map(str.split)."
)


def shortened(value: Any) -> str:
    """Return what a value looks like, for messages."""
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def checked_documents(documents: Iterable[Any]) -> list[Sequence[str]]:
    """Return documents as a list; raise for what is no list of words."""
    found = list(documents)
    for document in found:
        if isinstance(document, str):
            raise TypeError(A_TEXT.format(shortened(document)))
        try:
            if not isinstance(document, Sequence | np.ndarray):
                raise TypeError
            "".join(document)  # the fastest look at every type
        except TypeError:
            raise TypeError(
                "Documents must be lists of words, which are of type str, got "
                f"{shortened(document)}."
            ) from None
    return found


@dataclasses.dataclass(frozen=True)
class Census:
    """What is counted of some documents.

    Attributes
    ----------
    docs : tuple of int
        How many there are in each block.
    found_in, tokens : Counter
        Documents that a word is in, and how often it is in all of them.
    """

    docs: tuple[int, ...]
    found_in: Counter[str]
    tokens: Counter[str]

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return sum(self.tokens.values())


def take_census(documents: Iterable[Any]) -> Census:
    """Count documents and their words."""
    found = checked_documents(documents)
    return Census(
        (len(found),),
        Counter(chain.from_iterable(map(set, found))),
        Counter(chain.from_iterable(found)),
    )


def added(parts: Sequence[Census]) -> Census:
    """Add up what was counted of consecutive documents."""
    found_in: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for part in parts:
        found_in.update(part.found_in)
        tokens.update(part.tokens)
    docs = tuple(chain.from_iterable(part.docs for part in parts))
    return Census(docs, found_in, tokens)


def chosen_words(
    census: Census, min_df: int | float, max_df: int | float, max_features: int | None
) -> tuple[str, ...]:
    """Choose the words of a vocabulary, as scikit-learn's ``CountVectorizer`` does.

    Parameters
    ----------
    census : Census
        Of all documents.
    min_df, max_df, max_features
        As for `TokenSource`.

    Returns
    -------
    tuple of str
        Sorted.
    """
    n_docs = sum(census.docs)
    low, high = (
        limit if isinstance(limit, int | np.integer) else limit * n_docs
        for limit in (min_df, max_df)
    )
    if high < low:
        raise ValueError(
            f"max_df={max_df} is fewer of the {n_docs} documents than "
            f"min_df={min_df}; no word can be in so many."
        )
    words = sorted(word for word, n in census.found_in.items() if low <= n <= high)
    if max_features is not None:
        most = sorted(words, key=lambda word: -census.tokens[word])
        words = sorted(most[:max_features])
    if not words:
        raise ValueError(
            f"No word is left of {len(census.tokens)} in {n_docs} documents; "
            "there must be some, and min_df and max_df must let them pass."
        )
    return tuple(words)


def listed_words(vocabulary: Sequence[str] | Mapping[str, int]) -> tuple[str, ...]:
    """Return the words of a vocabulary in order, which a set has not."""
    if isinstance(vocabulary, Mapping):
        numbers = {number: word for word, number in vocabulary.items()}
        if numbers.keys() != set(range(len(vocabulary))):
            raise ValueError("vocabulary must number its words from 0, without gaps.")
        words = tuple(numbers[k] for k in range(len(numbers)))
    elif isinstance(vocabulary, Iterable) and not isinstance(
        vocabulary, str | set | frozenset
    ):
        words = tuple(vocabulary)
    else:
        raise TypeError(
            "vocabulary must be a sequence of words, which are of type str, got "
            f"{shortened(vocabulary)}."
        )
    if not all(isinstance(word, str) for word in words):
        raise TypeError("vocabulary must hold words, which are of type str.")
    return words


def ordered_words(vocabulary: Sequence[str] | Mapping[str, int]) -> tuple[str, ...]:
    """Return the words of a vocabulary in order; raise for none, or twice the same."""
    words = listed_words(vocabulary)
    if len(set(words)) != len(words):
        (word, n), *_ = Counter(words).most_common(1)
        raise ValueError(f"vocabulary has {word!r} {n} times; leave it in once.")
    if not words:
        raise ValueError("vocabulary has no words.")
    return words
