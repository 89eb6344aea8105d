"""Sentences and their translations: words as numbers, and what is counted first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bitext",
    "BitextSummary",
    "Vocabulary",
    "encode_bitext",
    "split_pair",
    "survey_bitext",
]

#: A sentence: its tokens, or a string that whitespace separates into tokens.
Sentence = str | Sequence[str]
Pair = tuple[Sentence, Sentence]

_SENTENCE = "a sentence is a string or a list of strings"


def _tokens(sentence: Any) -> Sequence[str]:
    if isinstance(sentence, str):
        return sentence.split()
    tokens = sentence if isinstance(sentence, list) else _listed(sentence)
    try:
        "".join(tokens)  # the fastest look at every type
    except TypeError:
        raise TypeError(f"{_SENTENCE}, not {_shortened(sentence)}") from None
    return tokens


def _listed(sentence: Any) -> list[Any]:
    """Return the tokens of what is no list; raise for what has none in order."""
    kind = type(sentence).__name__
    if isinstance(sentence, bytes | bytearray):
        raise TypeError(f"{_SENTENCE}, not {kind}: call .decode() on it")
    if isinstance(sentence, Iterator):
        raise TypeError(f"{_SENTENCE}, not a {kind} object: call list() on it")
    if isinstance(sentence, Mapping | Set):
        raise TypeError(f"{_SENTENCE}, not a {kind}: list its words in their order")
    return list(sentence) if isinstance(sentence, Iterable) else [sentence]


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def split_pair(pair: Any) -> tuple[Sequence[str], Sequence[str]]:
    """Return the tokens of both sides of a pair.

    Parameters
    ----------
    pair : tuple of two sentences
        Each a string, which is split at whitespace, or a sequence of tokens.

    Returns
    -------
    source, target : sequence of str

    Raises
    ------
    TypeError
        If it is no pair, or a token is no string.

    Examples
    --------
    >>> split_pair(("the house", ["la", "maison"]))
    (['the', 'house'], ['la', 'maison'])
    """
    try:
        if isinstance(pair, str | dict | set | frozenset):
            raise TypeError
        source, target = pair
    except (TypeError, ValueError):
        joined = isinstance(pair, str) and " ||| " in pair
        raise TypeError(
            f"expected a pair of sentences (source, target), got {_shortened(pair)}"
            + ("; split such lines with line.split(' ||| ')" if joined else "")
        ) from None
    return _tokens(source), _tokens(target)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Distinct words in sorted order, numbered from 0.

    Parameters
    ----------
    words : tuple of str

    Examples
    --------
    >>> vocabulary = Vocabulary.of({"house", "the"})
    >>> vocabulary.encode(["the", "green", "house"]).tolist()
    [1, -1, 0]
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, words: Iterable[str]) -> Vocabulary:
        """Return the vocabulary of some words, which may repeat."""
        return cls(tuple(sorted(set(words))))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of every word."""
        return {word: k for k, word in enumerate(self.words)}

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int32]:
        """Return the words' numbers, -1 for words that are not in the vocabulary."""
        index = self.index
        return np.array([index.get(token, -1) for token in tokens], dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class BitextSummary:
    """What a look at a bitext finds; summaries of parts add up.

    Pairs of which a side is empty cannot be learnt from: they are counted, and neither
    their words nor their lengths are.

    Attributes
    ----------
    source_types, target_types : frozenset of str
    shapes : dict
        How many pairs have l source and m target tokens, by (l, m).
    n_empty : int
        Pairs with an empty side.

    Examples
    --------
    >>> summary = survey_bitext([[("the house", "la maison"), ("the", "")]])
    >>> summary.n_pairs, summary.n_empty, summary.n_tokens, summary.shapes
    (2, 1, 2, {(2, 2): 1})
    """

    source_types: frozenset[str]
    target_types: frozenset[str]
    shapes: dict[tuple[int, int], int]
    n_empty: int = 0

    def __add__(self, other: BitextSummary) -> BitextSummary:
        shapes = dict(self.shapes)
        for shape, n in other.shapes.items():
            shapes[shape] = shapes.get(shape, 0) + n
        return BitextSummary(
            self.source_types | other.source_types,
            self.target_types | other.target_types,
            shapes,
            self.n_empty + other.n_empty,
        )

    @property
    def n_pairs(self) -> int:
        """Number of pairs, those with an empty side included."""
        return sum(self.shapes.values()) + self.n_empty

    @property
    def n_tokens(self) -> int:
        """Number of target tokens that can be learnt from."""
        return sum(m * n for (_, m), n in self.shapes.items())

    @property
    def weight(self) -> int:
        """Number of target tokens, by which log-likelihoods are divided."""
        return self.n_tokens

    def reversed(self) -> BitextSummary:
        """Return the summary of the bitext with its sides swapped."""
        return BitextSummary(
            self.target_types,
            self.source_types,
            {(m, length): n for (length, m), n in self.shapes.items()},
            self.n_empty,
        )

    @cached_property
    def source_vocabulary(self) -> Vocabulary:
        """Words of the source side."""
        return Vocabulary.of(self.source_types)

    @cached_property
    def target_vocabulary(self) -> Vocabulary:
        """Words of the target side."""
        return Vocabulary.of(self.target_types)


def survey_bitext(blocks: Iterable[Iterable[Any]]) -> BitextSummary:
    """Look at all pairs of some blocks once.

    Parameters
    ----------
    blocks : iterable of iterables of pairs

    Returns
    -------
    BitextSummary

    Raises
    ------
    TypeError
        If something is no pair of sentences.
    """
    source_types: set[str] = set()
    target_types: set[str] = set()
    shapes: dict[tuple[int, int], int] = {}
    n_empty = 0
    for pair in chain.from_iterable(blocks):
        source, target = split_pair(pair)
        if not source or not target:
            n_empty += 1
            continue
        source_types.update(source)
        target_types.update(target)
        shape = len(source), len(target)
        shapes[shape] = shapes.get(shape, 0) + 1
    return BitextSummary(
        frozenset(source_types), frozenset(target_types), shapes, n_empty
    )


@dataclasses.dataclass(frozen=True)
class Bitext:
    """Pairs of sentences as numbers.

    Attributes
    ----------
    source, target : array of shape (n_source_tokens,), (n_target_tokens,), int32
        Words' numbers, -1 for unknown words.
    source_offsets, target_offsets : array of shape (n_pairs + 1,), int64
        Where sentences begin.
    """

    source: NDArray[np.int32]
    source_offsets: NDArray[np.int64]
    target: NDArray[np.int32]
    target_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.source_offsets) - 1

    def reversed(self) -> Bitext:
        """Return the bitext with its sides swapped."""
        return Bitext(
            self.target, self.target_offsets, self.source, self.source_offsets
        )

    def merged(self) -> tuple[Bitext, NDArray[np.float64], NDArray[np.int64]]:
        """Merge pairs that are the same, and sort them by their lengths.

        Returns
        -------
        distinct : Bitext
            Without pairs of which a side is empty; sorted by the length of the source,
            then of the target.
        weights : array of shape (n_distinct,)
            How often each occurs.
        place : array of shape (n_pairs,)
            Which of the distinct pairs each pair is, -1 with an empty side.
        """
        place = np.empty(len(self), dtype=np.int64)
        known: dict[tuple[bytes, bytes], int] = {}
        first: list[int] = []
        # keys are bytes: hashed once, at the speed of memory
        source, target = self.source.tobytes(), self.target.tobytes()
        s_ends, t_ends = (
            (4 * self.source_offsets).tolist(),
            (4 * self.target_offsets).tolist(),
        )
        for n in range(len(self)):
            key = (
                source[s_ends[n] : s_ends[n + 1]],
                target[t_ends[n] : t_ends[n + 1]],
            )
            if not key[0] or not key[1]:
                place[n] = -1
                continue
            k = known.setdefault(key, len(first))
            if k == len(first):
                first.append(n)
            place[n] = k
        chosen = np.array(first, dtype=np.int64)
        weights = np.bincount(place[place >= 0], minlength=len(first))
        length = np.diff(self.source_offsets)[chosen]
        m = np.diff(self.target_offsets)[chosen]
        order = np.lexsort((m, length))
        rank = np.empty(len(order) + 1, dtype=np.int64)
        rank[order] = np.arange(len(order))
        rank[-1] = -1  # the place of those with an empty side
        chosen = chosen[order]
        distinct = Bitext(
            *_take(self.source, self.source_offsets, chosen),
            *_take(self.target, self.target_offsets, chosen),
        )
        return distinct, weights[order].astype(np.float64), rank[place]


def _take(
    tokens: NDArray[np.int32], offsets: NDArray[np.int64], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    lengths = np.diff(offsets)[chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    where = np.arange(starts[-1]) + np.repeat(offsets[chosen] - starts[:-1], lengths)
    return tokens[where], starts


def encode_bitext(
    blocks: Iterable[Iterable[Any]], source: Vocabulary, target: Vocabulary
) -> Bitext:
    """Turn pairs of sentences into numbers.

    Parameters
    ----------
    blocks : iterable of iterables of pairs
    source, target : Vocabulary

    Returns
    -------
    Bitext

    Examples
    --------
    >>> words = Vocabulary.of(["a", "b"])
    >>> bitext = encode_bitext([[("b a", "a"), ("b c", "")]], words, words)
    >>> bitext.source.tolist(), bitext.source_offsets.tolist()
    ([1, 0, 1, -1], [0, 2, 4])
    """
    s_index, t_index = source.index, target.index
    s_codes: list[int] = []
    t_codes: list[int] = []
    s_offsets, t_offsets = [0], [0]
    for pair in chain.from_iterable(blocks):
        left, right = split_pair(pair)
        s_codes.extend([s_index.get(token, -1) for token in left])
        t_codes.extend([t_index.get(token, -1) for token in right])
        s_offsets.append(len(s_codes))
        t_offsets.append(len(t_codes))
    return Bitext(
        np.array(s_codes, dtype=np.int32),
        np.array(s_offsets, dtype=np.int64),
        np.array(t_codes, dtype=np.int32),
        np.array(t_offsets, dtype=np.int64),
    )
