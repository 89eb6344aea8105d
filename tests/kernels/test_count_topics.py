"""The loops of topic models in count form, against NumPy with all responsibilities."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import digamma

from dask_em.kernels import count_topics as kernels
from dask_em.kernels import sampled_topics

TOLERANCE = {np.float64: 1e-11, np.float32: 2e-5}


def problem(dtype=np.float64, n_topics=5, n_docs=12, n_words=150, seed=0):
    """Documents, one of them empty, the first of more words than a tile; and counts."""
    rng = np.random.default_rng(seed)
    X = rng.poisson(0.3, (n_docs, n_words)).astype(float)
    X[0] = rng.integers(1, 4, n_words)
    X[3] = 0
    csr = sp.csr_array(X)
    return {
        "X": X,
        "csr": (csr.indptr.astype(np.int64), csr.indices, csr.data.astype(np.float32)),
        "rows": rng.gamma(1.0, 1.0, (n_words, n_topics)).astype(dtype),
        "weights": rng.gamma(5.0, 0.01, n_topics).astype(dtype),
        "a": rng.gamma(1.0, 0.2, n_topics).astype(dtype),
        "doc": rng.gamma(1.0, 3.0, (n_docs, n_topics)).astype(dtype),
    }


def shares(p, doc):
    """Return responsibilities of shape (n_docs, n_words, K), and their scale."""
    joint = (doc + p["a"])[:, None, :] * (p["rows"] * p["weights"])[None]
    joint = joint.astype(np.float64)
    return joint / joint.sum(axis=2, keepdims=True), joint.sum(axis=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_topics", [1, 5, 24])
def test_sweep_is_the_formula(dtype, n_topics):
    p = problem(dtype, n_topics)
    gamma, scale = shares(p, p["doc"])
    found = p["X"][:, :, None] * gamma
    norm = (p["doc"] + p["a"]).sum(axis=1, dtype=float)
    likelihood = (p["X"] * np.log(scale / norm[:, None])).sum()
    new_doc, new_rows = np.full_like(p["doc"], np.nan), np.ones_like(p["rows"])
    before = p["rows"].copy(), p["doc"].copy()
    value = kernels.sweep(
        *p["csr"], p["rows"], p["weights"], p["a"], p["doc"], new_doc, new_rows
    )
    rtol = TOLERANCE[dtype]
    np.testing.assert_allclose(value, likelihood, rtol=rtol)
    np.testing.assert_allclose(new_doc, found.sum(axis=1), rtol=rtol)
    np.testing.assert_allclose(new_rows - 1, found.sum(axis=0), rtol=rtol, atol=rtol)
    for kept, given in zip(before, (p["rows"], p["doc"]), strict=True):
        np.testing.assert_array_equal(kept, given)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folding_in(dtype):
    p = problem(dtype)
    expected = p["doc"]
    for _ in range(6):
        expected = (p["X"][:, :, None] * shares(p, expected)[0]).sum(axis=1)
    doc = p["doc"].copy()
    rest = p["weights"], p["a"]
    kernels.fold_in(*p["csr"], p["rows"], *rest, doc, 6, 0.0)
    np.testing.assert_allclose(doc, expected, rtol=20 * TOLERANCE[dtype], atol=1e-5)
    # one that moves less than half of its words is done after one update
    once, early = p["doc"].copy(), expected.astype(dtype)
    kernels.fold_in(*p["csr"], p["rows"], *rest, early, 50, 0.5)
    kernels.fold_in(*p["csr"], p["rows"], *rest, once, 7, 0.0)
    np.testing.assert_allclose(early, once, rtol=20 * TOLERANCE[dtype], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_no_topic_and_what_occurs_often(dtype):
    """Words no topic has go with their document; nothing is ever NaN or infinite."""
    p = problem(dtype)
    p["rows"][[3, 7]] = 0.0
    p["a"][:] = 0.0
    p["doc"][1, 2:] = 0.0
    p["doc"][2] = 0.0
    indptr, indices, counts = p["csr"]
    huge = counts * (1e9 if dtype is np.float64 else 1e4)
    weights = np.empty(5, dtype)
    kernels.inverse_totals(p["rows"].sum(axis=0, dtype=float), 150, 0.0, weights)
    new_doc, new_rows = np.empty_like(p["doc"]), np.zeros_like(p["rows"])
    value = kernels.sweep(
        indptr, indices, huge, p["rows"], weights, p["a"], p["doc"], new_doc, new_rows
    )
    assert np.isfinite(value)
    assert np.isfinite(new_doc).all()
    tokens = np.zeros(150)
    np.add.at(tokens, indices, huge)
    np.testing.assert_allclose(new_rows.sum(axis=1), tokens, rtol=1e-5)
    np.testing.assert_allclose(
        new_doc.sum(axis=1),
        sp.csr_array((huge, indices, indptr)).sum(axis=1),
        rtol=1e-5,
    )
    # document 1 has topics 0 and 1 alone, and so has each of its words
    assert new_doc[1, 2:].max() < 1e-6 * new_doc[1].sum()
    if dtype is np.float64:
        assert value < -300 * tokens[[3, 7]].sum()  # as improbable as can be


def test_dead_topics_stay_dead():
    p = problem()
    p["rows"][:, 2] = 0.0
    weights = np.empty(5)
    kernels.inverse_totals(p["rows"].sum(axis=0), 150, 0.0, weights)
    new_doc, new_rows = np.empty_like(p["doc"]), np.zeros_like(p["rows"])
    p["doc"][:, 2] = 0.0
    kernels.sweep(
        *p["csr"], p["rows"], weights, np.zeros(5), p["doc"], new_doc, new_rows
    )
    assert new_rows[:, 2].max() < 1e-90
    np.testing.assert_allclose(new_rows.sum(axis=1), p["X"].sum(axis=0), rtol=1e-12)


def test_parts_of_the_bound():
    p = problem()
    rng = np.random.default_rng(1)
    new = rng.gamma(1.0, 2.0, p["doc"].shape)
    before, after = p["doc"] + p["a"], new + p["a"]
    before, after = (x / x.sum(axis=1, keepdims=True) for x in (before, after))
    expected = (new * np.log(after / before) + p["a"] * np.log(after)).sum()
    value = kernels.documents_part(p["doc"], new, p["a"])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    # logarithms of numbers far below 1
    counts = 10 ** rng.uniform(-140, 8, p["rows"].shape)
    every = np.empty(0, np.int64)
    value = kernels.words_part(every, p["rows"], counts, 0.3, 0.0)
    expected = ((p["rows"] + 0.3) * np.log(counts)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    ids = np.array([4, 99])
    value = kernels.words_part(ids, p["rows"][:2], counts, 0.0, 0.2)
    expected = (p["rows"][:2] * np.log(counts[ids] + 0.2)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    sums = np.empty(6)
    kernels.prior_sums(p["doc"], p["a"], sums)
    total = p["a"].sum()
    expected = (digamma(p["doc"] + p["a"]) - digamma(p["a"])).sum(axis=0)
    np.testing.assert_allclose(sums[:5], expected, rtol=1e-11)
    expected = (digamma(p["doc"].sum(axis=1) + total) - digamma(total)).sum()
    np.testing.assert_allclose(sums[5], expected, rtol=1e-11)


def test_tallies():
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, 9, 200).astype(np.int32)
    ends = np.array([0, 50, 50, 200])
    offsets = np.empty(4, np.int64)
    present, counts = sampled_topics.tally(ends, drawn, 9, offsets)
    a = rng.gamma(1.0, 1.0, 9)
    expected = 0.0
    for d in range(3):
        mine = slice(offsets[d], offsets[d + 1])
        whole = np.bincount(drawn[ends[d] : ends[d + 1]], minlength=9)
        found = np.zeros(9, int)
        found[present[mine]] = counts[mine]
        np.testing.assert_array_equal(found, whole)
        assert (np.diff(counts[mine]) <= 0).all()
        assert (counts[mine] > 0).all()
        n = whole + a
        expected += (n * np.log(n / n.sum())).sum()
    value = sampled_topics.tallies_part(offsets, present, counts, a)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_draws_have_the_probabilities_of_em():
    """Means over many sweeps, within 5 standard errors, cell by cell."""
    p = problem(n_words=20)
    columns = sp.csc_array(p["X"])
    n_docs, n_topics = p["doc"].shape
    ends = np.concatenate([[0], np.cumsum(p["X"].sum(axis=1))]).astype(np.int64)
    z = np.random.default_rng(3).integers(0, n_topics, ends[-1]).astype(np.int32)
    offsets = np.empty(n_docs + 1, np.int64)
    present, counts = sampled_topics.tally(ends, z, n_topics, offsets)
    doc = np.zeros((n_docs, n_topics))
    doc[np.repeat(np.arange(n_docs), np.diff(offsets)), present] = counts
    state, n = np.array([7], np.uint64), 4000
    rows, drawn = np.zeros((20, n_topics)), np.empty_like(z)
    by_doc = np.zeros((n_docs, n_topics))
    for _ in range(n):
        sampled_topics.sample_sweep(
            columns.indptr.astype(np.int64),
            columns.indices,
            columns.data.astype(np.int32),
            p["rows"],
            p["weights"],
            np.arange(20),
            0.0,
            p["a"],
            offsets,
            present,
            counts,
            state,
            ends[:-1].copy(),
            drawn,
            rows,
        )
        for d in range(n_docs):
            by_doc[d] += np.bincount(drawn[ends[d] : ends[d + 1]], minlength=n_topics)
    gamma, _ = shares(p, doc)
    mean = p["X"][:, :, None] * gamma
    error = np.sqrt(mean * (1 - gamma) / n)
    for axis, found in ((0, rows / n), (1, by_doc / n)):
        off = np.abs(found - mean.sum(axis=axis))
        assert (off <= 5 * np.sqrt((error**2).sum(axis=axis)) + 1e-12).all()
