"""Documents as lists of words."""

import itertools
import pickle

import dask
import dask.bag as db
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import CountVectorizer

from dask_em.topics import (
    ChunkedSource,
    TokenSource,
    as_corpus,
    read_corpus,
    write_corpus,
)


def documents(n=60, seed=0):
    """Words with frequencies that fall as 1 / rank; some documents are empty."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i:02d}" for i in rng.permutation(50)])
    shares = 1 / np.arange(1, 51)
    lengths = rng.poisson(12, n)
    lengths[[0, 5]] = 0
    return [
        list(map(str, rng.choice(words, size=k, p=shares / shares.sum())))
        for k in lengths
    ]


def blocks_of(source, n_nodes):
    parts = source.cut(n_nodes)
    assert len(parts) == n_nodes
    found = [
        dask.compute(x)[0]
        if hasattr(x, "dask")
        else pickle.loads(pickle.dumps(x)).load()
        for part in parts
        for x in part
    ]
    assert all(isinstance(b, sp.csr_array) and b.has_canonical_format for b in found)
    assert all(b.dtype == np.float32 for b in found)
    return sp.vstack(found).toarray()


LIMITS = [
    {},
    {"min_df": 3},
    {"min_df": 0.1, "max_df": 0.5},
    {"max_df": 20},
    {"max_features": 7},
    {"min_df": 4, "max_df": 0.6, "max_features": 11},
]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("lazy", [False, True])
def test_counts_are_those_of_scikit_learn(limits, lazy):
    docs = documents()
    given = db.from_sequence(docs, npartitions=11) if lazy else docs
    source = TokenSource(given, **limits)
    oracle = CountVectorizer(analyzer=list, **limits)
    X = oracle.fit_transform(docs)
    assert source.vocabulary_ == tuple(oracle.get_feature_names_out())
    assert (source.n_rows, source.n_words) == X.shape
    assert source.n_tokens == sum(map(len, docs))
    assert source.n_outside == source.n_tokens - X.sum()
    for n_nodes in (1, 3, 70):
        assert_array_equal(blocks_of(source, n_nodes), X.toarray())
    array = source.to_dask()
    assert array.shape == X.shape
    assert_array_equal(array.compute().toarray(), X.toarray())


@pytest.mark.parametrize("lazy", [False, True])
def test_a_vocabulary_that_is_given(lazy):
    docs = documents()
    words = ["w07", "none", "w01", "w30"]
    X = CountVectorizer(analyzer=list, vocabulary=words).fit_transform(docs)
    given = db.from_sequence(docs, npartitions=4) if lazy else docs
    for vocabulary in (words, {"none": 1, "w30": 3, "w07": 0, "w01": 2}):
        source = TokenSource(given, vocabulary=vocabulary)
        assert source.vocabulary_ == tuple(words)
        assert source.n_rows == (None if lazy else 60)  # nobody has looked
        assert_array_equal(blocks_of(source, 2), X.toarray())
        assert np.isnan(source.to_dask().shape[0]) == lazy
        assert source.n_outside == sum(map(len, docs)) - X.sum()
        assert source.n_rows == 60


def test_whatever_makes_a_corpus_takes_words():
    docs = [["tea", "time"], (), ("tea", "tea")]
    for given in (docs, tuple(docs), db.from_sequence(docs)):
        source = as_corpus(given)
        assert isinstance(source, TokenSource)
        assert_array_equal(blocks_of(source, 1), [[1, 1], [0, 0], [2, 0]])
    assert_array_equal(
        blocks_of(TokenSource(np.array(d, dtype=str) for d in docs), 1),
        [[1, 1], [0, 0], [2, 0]],
    )


def test_a_bag_is_written_without_being_brought_here(tmp_path):
    docs = documents(200)
    seen = []

    def words(doc):
        seen.append(len(doc))
        return doc

    bag = db.from_sequence(docs, npartitions=9).map(words)
    write_corpus(tmp_path / "c", TokenSource(bag, min_df=2))
    assert len(seen) == 2 * len(docs)  # one pass for words, one for counts
    oracle = CountVectorizer(analyzer=list, min_df=2)
    X = oracle.fit_transform(docs)
    assert_array_equal(read_corpus(tmp_path / "c").toarray(), X.toarray())
    source = ChunkedSource(tmp_path / "c")
    assert source.vocabulary_ == oracle.get_feature_names_out().tolist()
    assert len(source.chunks) == bag.npartitions
    write_corpus(tmp_path / "list", docs, docs_per_chunk=30)
    sizes = [chunk.docs for chunk in ChunkedSource(tmp_path / "list").chunks]
    assert len(sizes) == 7 and max(sizes) <= 30 and sum(sizes) == 200


def test_words_are_counted_on_a_cluster(client):
    docs = documents()
    source = as_corpus(db.from_sequence(docs, npartitions=10))
    X = CountVectorizer(analyzer=list).fit_transform(docs)
    assert_array_equal(source.to_dask().compute().toarray(), X.toarray())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["tea time", "tea"], r"lists of words, got the text .*\.map\(str\.split\)"),
        ([["tea", 1]], "which are of type str, got"),
        ([["tea"], None], "which are of type str, got None"),
        ([["tea"], {"tea": 1}], "which are of type str, got"),
        ([["tea"], b"tea"], "which are of type str, got"),
        ([["tea"], iter(["tea"])], "which are of type str, got"),
    ],
)
def test_what_is_no_list_of_words(given, words):
    with pytest.raises(TypeError, match=words):
        TokenSource(given)
    if not any(hasattr(doc, "__next__") for doc in given):
        source = as_corpus(db.from_sequence(given, npartitions=2))
        with pytest.raises(TypeError, match=words):
            source.n_words  # noqa: B018
        source = TokenSource(source.documents, vocabulary=["tea"])
        with pytest.raises(TypeError, match=words):
            blocks_of(source, 1)


def test_mistakes():
    import pandas as pd

    docs = [["tea", "time"], ["tea"]]
    for error, words, settings in (
        (ValueError, "'tea' 2 times", {"vocabulary": ["tea", "time", "tea"]}),
        (ValueError, "without gaps", {"vocabulary": {"tea": 0, "time": 2}}),
        (ValueError, "no words", {"vocabulary": []}),
        (TypeError, "of type str", {"vocabulary": [1]}),
        (TypeError, "of type str", {"vocabulary": "tea"}),
        (TypeError, "of type str", {"vocabulary": {"tea"}}),  # in which order?
        (TypeError, "of type str", {"vocabulary": 5}),
        (ValueError, "without gaps", {"vocabulary": {"tea": "0"}}),
        (ValueError, "min_df must be", {"min_df": 1.5}),
        (ValueError, "min_df must be", {"min_df": 0}),
        (ValueError, "max_df must be", {"max_df": "all"}),
        (ValueError, "max_features must be", {"max_features": 0}),
        (ValueError, "max_features must be", {"max_features": 0.5}),
    ):
        with pytest.raises(error, match=words):
            TokenSource(docs, **settings)
    for words, settings in (
        ("max_df=0.5 is fewer of the 2 documents than min_df=2", (2, 0.5)),
        ("No word is left of 2 in 2 documents", (3, 3)),
    ):
        source = TokenSource(docs, min_df=settings[0], max_df=settings[1])
        with pytest.raises(ValueError, match=words):
            source.n_words  # noqa: B018
    for given in ("tea", pd.DataFrame({"a": docs}), dask.delayed(docs)):
        with pytest.raises(TypeError, match="words"):
            TokenSource(given)
    with pytest.raises(ValueError, match="repartition"):
        TokenSource(db.from_sequence(docs)).to_dask(5)
    assert TokenSource(itertools.repeat(["tea"], 7)).to_dask(2).chunks[0] == (
        2,
        2,
        2,
        1,
    )
