"""Sentences become numbers, and what was counted of them adds up."""

import numpy as np
import pytest

from dask_em.alignment import Vocabulary
from dask_em.alignment.bitext import encode_bitext, survey_bitext

PAIRS = [
    ("the house", "la maison"),
    (["the", "book"], ("le", "livre")),
    ("the house", "la maison"),
    ("", "rien"),
    ("nothing", []),
]


def test_summaries_add_up():
    whole = survey_bitext([PAIRS])
    assert survey_bitext([PAIRS[:1]]) + survey_bitext([PAIRS[1:3], PAIRS[3:]]) == whole
    assert (whole.n_pairs, whole.n_empty, whole.n_tokens, whole.weight) == (5, 2, 6, 6)
    assert "rien" not in whole.target_types
    assert whole.reversed().reversed() == whole


def test_pairs_that_are_the_same_are_merged():
    summary = survey_bitext([PAIRS])
    sides = summary.source_vocabulary, summary.target_vocabulary
    distinct, weights, place = encode_bitext([PAIRS], *sides).merged()
    assert len(distinct) == 2
    assert place[0] == place[2] != place[1]
    assert place[3:].tolist() == [-1, -1]
    assert weights[place[:2]].tolist() == [2.0, 1.0]
    words = [sides[0].words[k] for k in distinct.source]
    assert sorted(words) == ["book", "house", "the", "the"]


def test_sorted_by_lengths():
    rng = np.random.default_rng(0)
    pairs = [
        (["a"] * rng.integers(1, 4), ["b"] * rng.integers(1, 4)) for _ in range(50)
    ]
    words = Vocabulary.of("ab")
    distinct, weights, place = encode_bitext([pairs], words, words).merged()
    lengths = np.diff(distinct.source_offsets), np.diff(distinct.target_offsets)
    shapes = list(zip(*lengths, strict=True))
    assert shapes == sorted(set((len(s), len(t)) for s, t in pairs))
    assert [shapes[k] for k in place] == [(len(s), len(t)) for s, t in pairs]
    assert weights.sum() == 50


@pytest.mark.parametrize(
    "pair", ["a b", ("a",), ("a", "b", "c"), 3, {"e": "a", "f": "b"}, {"a", "b"}]
)
def test_not_a_pair(pair):
    with pytest.raises(TypeError, match="expected a pair of sentences"):
        survey_bitext([[pair]])


def test_a_line_with_both():
    with pytest.raises(TypeError, match=r"got 'a \|\|\| b'; .* line\.split"):
        survey_bitext([["a ||| b"]])


@pytest.mark.parametrize(
    ("sentence", "complaint"),
    [
        (["a", 3], r"not \['a', 3\]"),
        (4, "not 4"),
        (None, "not None"),
        (map(str, [1, 2]), r"not a map object: call list\(\) on it"),
        ((w for w in "ab"), "not a generator object: call list"),
        ({"a": 1}, "not a dict: list its words"),
        ({"a", "b"}, "not a set: list its words"),
        (b"a b", r"not bytes: call \.decode\(\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_not_a_sentence(sentence, complaint):
    with pytest.raises(TypeError, match=f"a string or a list of strings, {complaint}"):
        survey_bitext([[("a", sentence)]])
