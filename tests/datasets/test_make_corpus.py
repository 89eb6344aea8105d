"""Simulated corpora."""

from itertools import islice

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from scipy.stats import chisquare

from dask_em.datasets import make_corpus, make_corpus_array, topics
from dask_em.kernels.corpus import SCALE, draw_documents, fill_alias
from dask_em.topics import as_corpus, write_corpus


def blocks(*args, **settings):
    return list(make_corpus(*args, **{"chunk": 100, **settings}))


def test_blocks_depend_on_the_seed_and_their_number_alone():
    found = blocks(250, 300, 4, 50, seed=3)
    assert [b.shape for b in found] == [(100, 300), (100, 300), (50, 300)]
    for b in found:
        assert isinstance(b, sp.csr_array) and b.dtype == np.float32
        assert b.has_canonical_format and b.data.min() >= 1
        assert (b.data % 1 == 0).all()
    longer = blocks(400, 300, 4, 50, seed=3)
    for a, b in zip(found[:2], longer, strict=False):
        assert (a != b).nnz == 0
    assert (found[0] != found[1]).nnz > 0
    assert (found[0] != blocks(100, 300, 4, 50, seed=4)[0]).nnz > 0
    array = make_corpus_array(250, 300, 4, 50, seed=3, chunk=100)
    assert array.chunks == ((100, 100, 50), (300,))
    assert isinstance(array._meta, sp.csr_array)
    assert_array_equal(array.compute().toarray(), sp.vstack(found).toarray())


def test_a_table_gives_the_shares_it_was_made_of():
    rng = np.random.default_rng(0)
    for weights in (rng.gamma(0.1, size=200), np.ones(7), np.array([0.0, 3.0, 0.0])):
        n = len(weights)
        table = np.empty((n, 2), np.int32)
        fill_alias(weights, table)
        keep = table[:, 0] / SCALE
        shares = (keep + np.bincount(table[:, 1], 1 - keep, n)) / n
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=2e-9)


def test_words_are_drawn_from_the_topics_of_tokens():
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(20, 0.5), 3)
    tables = np.empty((3, 20, 2), np.int32)
    for table, share in zip(tables, shares, strict=True):
        fill_alias(share, table)
    n_tokens = np.array([[30_000, 0, 0], [0, 0, 0], [0, 0, 30_000], [9, 20_000, 9_991]])
    n = n_tokens.sum()
    indptr, words = np.empty(5, np.int64), np.empty(n, np.int32)
    counts = draw_documents(n_tokens, rng.random(n), tables, indptr, words)
    arrays = counts[: indptr[-1]], words[: indptr[-1]], indptr
    found = sp.csr_array(arrays, shape=(4, 20))
    assert found.has_canonical_format
    assert_array_equal(found.sum(axis=1), n_tokens.sum(axis=1))
    for d in (0, 2, 3):
        expected = n_tokens[d] @ shares
        rare = expected < 5
        observed = [*found.toarray()[d, ~rare], found.toarray()[d, rare].sum()]
        expected = [*expected[~rare], expected[rare].sum()]
        if expected[-1] == 0:
            observed, expected = observed[:-1], expected[:-1]
        assert chisquare(observed, expected).pvalue > 1e-3


def test_the_shape_is_that_of_a_newspaper():
    law = topics._Law.of(102_660, 100, 332.0, 0)
    (block,) = make_corpus(3_000)
    tokens = block.sum(dtype=float)
    assert tokens / 3_000 == pytest.approx(332, rel=0.06)
    assert block.nnz / tokens == pytest.approx(0.70, abs=0.02)
    shares = np.sort(np.mean([*islice(law.topics(), 60)], axis=0))[::-1]
    assert shares.sum() == pytest.approx(1)
    assert 0.003 < shares[0] < 0.01  # without stop words
    # Zipf's law: a slope of about -1 from the 100th to the 10,000th word
    slope = np.log(shares[10_000] / shares[100]) / np.log(100)
    assert -1.3 < slope < -0.8
    assert 10 < 1e8 * shares[-1] < 100  # UCI's words occur at least ten times


def test_a_simulated_corpus_is_written(tmp_path):
    write_corpus(tmp_path / "c", make_corpus(120, 80, 3, 40, chunk=50))
    source = as_corpus(tmp_path / "c")
    assert (source.n_rows, source.n_words) == (120, 80)
    found = source.to_dask().compute()
    assert_array_equal(
        found.toarray(), sp.vstack(blocks(120, 80, 3, 40, chunk=50)).toarray()
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_documents": 0}, "n_documents=0"),
        ({"n_words": 0}, "n_words=0"),
        ({"n_topics": 0}, "n_topics=0"),
        ({"document_length": 0}, "document_length=0"),
        ({"document_length": np.nan}, "document_length=nan"),
        ({"seed": -1}, "seed=-1; it must be at least 0"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_mistakes(settings, words):
    for make in (make_corpus, make_corpus_array):
        with pytest.raises(ValueError, match=words):  # before anything is drawn
            make(**settings)
