"""Topic models in count form, against NumPy with all responsibilities."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import digamma, xlogy

from dask_em import Block, fit_em
from dask_em.models.topics import count_step, stochastic
from dask_em.models.topics.count import CountTopicModel
from dask_em.models.topics.count_peers import PeerCountTopicModel
from dask_em.models.topics.stochastic import StochasticTopicModel
from dask_em.models.topics.transform import completion
from dask_em.schedules import Synchronous
from dask_em.testing import assert_monotone, check_model
from dask_em.topics.sources import as_csr


def corpus(n_docs=45, n_words=30, n_topics=3, tokens=40, seed=0):
    """Documents of some topics; some are empty, and two words never occur."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_words - 2, 0.1), n_topics)
    shares = rng.dirichlet(np.full(n_topics, 0.2), n_docs)
    counts = rng.poisson(tokens * shares @ topics).astype(float)
    counts[[0, 5]] = 0
    return np.insert(counts, [0, 10], 0, axis=1)


class Reference:
    """EM in count form, with responsibilities of shape (n_docs, n_words, K)."""

    def __init__(self, X, topics, a, b):
        self.X, self.b = X, b
        self.words = topics.counts.T.copy()
        n_topics = len(self.words)
        self.a = np.full(n_topics, a)
        self.doc = np.repeat(X.sum(axis=1)[:, None] / n_topics, n_topics, axis=1)
        going = X.sum(axis=1) > 0
        for _ in range(count_step.FOLD_SWEEPS):
            new = self.found()[0]
            moved = 0.5 * np.abs(new - self.doc).sum(axis=1)
            self.doc[going] = new[going]
            going &= moved > count_step.FOLD_TOL * X.sum(axis=1)

    @property
    def theta(self):
        found = self.doc + self.a
        mass = found.sum(axis=1, keepdims=True)
        return np.divide(found, mass, out=np.zeros_like(found), where=mass > 0)

    @property
    def phi(self):
        found = self.words + self.b
        return found / found.sum(axis=1, keepdims=True)

    def gamma(self):
        joint = self.theta[:, None, :] * self.phi.T[None]
        scale = joint.sum(axis=2, keepdims=True)
        return np.divide(joint, scale, out=np.zeros_like(joint), where=scale > 0)

    def found(self):
        weighted = self.X[:, :, None] * self.gamma()
        return weighted.sum(axis=1), weighted.sum(axis=0).T

    def prior(self):
        """Return the log-density of both priors, up to constants."""
        return xlogy(self.a, self.theta).sum() + xlogy(self.b, self.phi).sum()

    def objective(self):
        mean = self.theta @ self.phi
        return xlogy(self.X, np.where(self.X > 0, mean, 1)).sum() + self.prior()

    def step(self):
        """Make one pass; return the bound between its E-step and its M-step."""
        gamma = self.gamma()
        weighted = self.X[:, :, None] * gamma
        self.doc = weighted.sum(axis=1)
        joint = self.theta[:, None, :] * self.phi.T[None]
        value = (xlogy(weighted, joint) - xlogy(weighted, gamma)).sum() + self.prior()
        self.words = weighted.sum(axis=0).T
        return value


def begin(model, X, seed=0):
    block = Block(as_csr(X))
    summary = model.survey(block)
    rng = np.random.default_rng(seed)
    return model.start(summary, block, rng=rng, mapreduce=None)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("a", "b"), [(0.1, 0.05), ((0.3, 0.01, 0.2, 0.0), 0.0), (0.0, 0.0)]
)
def test_five_passes_are_the_reference(a, b, shards):
    X = corpus()
    model = CountTopicModel(4, a, b)
    start = begin(model, X)
    reference = Reference(X, start, a, b)
    result = fit_em(
        model,
        X,
        start=start,
        schedule=Synchronous(),
        shards=shards,
        max_iter=5,
        tol=0,
    )
    bounds = [reference.step() for _ in range(5)]
    found = result.params
    np.testing.assert_allclose(found.counts.T, reference.words, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.totals, found.counts.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.trace.lower_bound_before, bounds, rtol=1e-12)
    np.testing.assert_allclose(found.probabilities(b), reference.phi, atol=1e-12)
    assert_monotone(result)


def test_bound_rises_from_one_objective_to_the_next():
    X = corpus()
    model = CountTopicModel(4, 0.2, 0.1, begin="random")
    start = begin(model, X)
    reference = Reference(X, start, 0.2, 0.1)
    values = []
    for _ in range(30):
        values += [reference.objective(), reference.step()]
    assert values == sorted(values)
    result = fit_em(
        model, X, start=start, schedule=Synchronous(), shards=2, max_iter=30, tol=0
    )
    bounds = result.trace.lower_bound_before
    np.testing.assert_allclose(bounds, values[1::2], rtol=1e-12)


def test_promises():
    check_model(CountTopicModel(3), corpus(), weights=False)


def test_promises_without_priors():
    schedules = (Synchronous(),)
    model = CountTopicModel(3, 0.0, 0.0)
    check_model(model, corpus(), weights=False, schedules=schedules)


def test_gain_is_a_difference_of_bounds():
    X = as_csr(corpus())
    model = CountTopicModel(3, 0.1, 0.2)
    params = begin(model, X)
    block = Block(X)
    summary = model.survey(block)
    parts = [model.prepare(block.rows(s), summary) for s in (slice(9), slice(9, None))]
    (one, doc), (rest, _) = (model.e_step(params, part) for part in parts)
    params = model.m_step(params, one + rest)
    again, _ = model.e_step(params, parts[0], doc)
    change = again - one
    gain = model.lower_bound(params, again + rest) - model.lower_bound(
        params, one + rest
    )
    assert gain > 0
    np.testing.assert_allclose(model.gain(params, change), gain, rtol=1e-9)
    dense = (again + rest) - (one + rest)
    assert dense.table.is_dense and not change.table.is_dense
    np.testing.assert_allclose(model.gain(params, dense), gain, rtol=1e-9)


def test_single_precision():
    X = corpus()
    model = CountTopicModel(4)
    start = begin(model, X)
    settings = {"schedule": Synchronous(), "shards": 3, "max_iter": 40, "tol": 0}
    exact = fit_em(model, X, start=start, **settings)
    small = dataclasses.replace(model, wire32=True)
    rough = fit_em(small, X, start=start, **settings)
    assert_monotone(rough, slack=small.resolution)
    np.testing.assert_allclose(rough.log_likelihood, exact.log_likelihood, rtol=1e-5)
    block = Block(as_csr(X))
    summary = model.survey(block)
    stats, doc = small.e_step(rough.params, small.prepare(block, summary))
    assert stats.table.rows.dtype == doc.dtype == np.float32
    sent = pickle.loads(pickle.dumps(rough.params))
    assert sent.counts.dtype == np.float32
    assert pickle.loads(pickle.dumps(exact.params)).counts.dtype == np.float64
    small.e_step(sent, small.prepare(block, summary))
    kept = small.adopt(sent, summary)
    assert kept.counts.dtype == np.float64


def test_starts():
    X = corpus(200, 60, 4)
    for model in (CountTopicModel(4), CountTopicModel(4, 0.0, 0.0)):
        one, again, other = (begin(model, X, seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one.counts, again.counts)
        assert (one.counts != other.counts).any()
        np.testing.assert_allclose(one.counts.sum(), X.sum())
        np.testing.assert_allclose(one.totals, one.counts.sum(axis=0))
        assert one.counts.min() > 0  # also words that never occur in the sample
    # documents are a better start than chance
    model = CountTopicModel(4)
    settings = {"schedule": Synchronous(), "max_iter": 3, "tol": 0}
    near = fit_em(model, X, random_state=0, **settings)
    far = fit_em(dataclasses.replace(model, begin="random"), X, **settings)
    assert near.log_likelihood > far.log_likelihood + 0.02 * X.sum()
    # more topics than documents
    begin(CountTopicModel(300), X)


def minka(counts, prior):
    """Return one step of the fixed point for rows of counts."""
    n, whole = counts.sum(axis=1), np.broadcast_to(prior, counts.shape[1:]).sum()
    over = (digamma(counts + prior) - digamma(prior)).sum(axis=0)
    return prior * over / (digamma(n + whole) - digamma(whole)).sum()


@pytest.mark.parametrize("kind", [CountTopicModel, StochasticTopicModel])
def test_priors_are_learned(kind):
    X = corpus()
    model = kind(3, (0.1, 0.2, 0.4), 0.3, learn_priors=True)
    settings = {"schedule": Synchronous(), "shards": 2, "max_iter": 4, "tol": 0}
    result = fit_em(model, X, random_state=0, **settings)
    plain = dataclasses.replace(model, learn_priors=False)
    same = fit_em(plain, X, random_state=0, **settings)
    np.testing.assert_array_equal(same.params.suggested_a, model.prior)
    assert same.params.suggested_b == 0.3
    np.testing.assert_array_equal(same.params.counts, result.params.counts)
    found = result.params
    b = minka(found.counts.T, np.full(X.shape[1], 0.3)).mean()
    np.testing.assert_allclose(found.suggested_b, b, rtol=1e-9)
    # the sums, from the state that goes with them
    block = Block(as_csr(X))
    docs = model.prepare(block, model.survey(block))
    stats, state = model.e_step(found, docs)
    if kind is StochasticTopicModel:
        shape = len(X), 3
        parts = state.counts, state.topics.astype(np.int32), state.offsets
        state = sp.csr_array(parts, shape=shape).toarray()
    suggested = model.complete(found, stats).suggested_a
    np.testing.assert_allclose(suggested, minka(state, model.prior), rtol=1e-9)


class Nodes:
    """Nodes of a peer topology, whose statistics are added up by hand."""

    def __init__(self, model, X, edges):
        self.model, self.n_words = model, X.shape[1]
        blocks = [[as_csr(X[i:j])] for i, j in itertools.pairwise(edges)]
        self.summary = model.survey([b for part in blocks for b in part])
        self.docs = [model.prepare(part, self.summary) for part in blocks]
        self.ids = [model.support(docs) for docs in self.docs]
        self.counted, seen = [], np.zeros(0, int)
        for ids in self.ids:
            self.counted.append(~np.isin(ids, seen))
            seen = np.union1d(seen, ids)
        self.local = [None] * len(blocks)
        self.add(
            [
                model.start(docs, counted, self.summary, 7).stats
                for docs, counted in zip(self.docs, self.counted, strict=True)
            ]
        )

    def add(self, parts):
        self.whole = np.zeros((self.n_words + 1, self.model.width))
        for ids, part in zip(self.ids, parts, strict=True):
            self.whole[ids] += part
        self.params = [
            self.model.m_step(part, self.whole[ids], docs)
            for part, ids, docs in zip(parts, self.ids, self.docs, strict=True)
        ]

    def step(self):
        parts, value = [], 0.0
        for i, docs in enumerate(self.docs):
            stats, bound, self.local[i] = self.model.e_step(
                self.params[i], docs, self.local[i]
            )
            parts.append(stats)
            value += bound
            value += self.model.penalty(self.params[i], docs, self.counted[i])
        self.add(parts)
        return value


@pytest.mark.parametrize("b", [0.0, 0.2])
def test_peers_do_what_one_machine_does(b):
    X = corpus()
    model = PeerCountTopicModel(3, 0.1, b)
    one, three = Nodes(model, X, [0, 45]), Nodes(model, X, [0, 4, 30, 45])
    np.testing.assert_allclose(one.whole, three.whole, rtol=1e-12)
    assert 0.5 * X.sum() < one.whole[-1].sum() < 2 * X.sum()
    managed = CountTopicModel(3, 0.1, b)
    params = dataclasses.replace(
        begin(managed, X), counts=one.whole[:-1], totals=one.whole[-1]
    )
    block = Block(as_csr(X))
    docs = managed.prepare(block, managed.survey(block))
    local, bounds = None, []
    for _ in range(6):
        stats, local = managed.e_step(params, docs, local)
        bounds.append(managed.lower_bound(params, stats))
        params = managed.m_step(params, stats)
        np.testing.assert_allclose(one.step(), bounds[-1], rtol=1e-12)
        np.testing.assert_allclose(three.step(), bounds[-1], rtol=1e-12)
        for nodes in (one, three):
            np.testing.assert_allclose(
                nodes.whole[:-1], params.counts, rtol=1e-9, atol=1e-12
            )
    assert bounds == sorted(bounds)
    found = fit_em(model, as_csr(X), shards=2, max_iter=3, random_state=0)
    assert np.isfinite(found.log_likelihood)


def perplexity(params, b, X):
    """Score half of the words of documents by the other half."""
    rng = np.random.default_rng(0)
    halves = rng.binomial(X.astype(int), 0.5)
    topics = params.probabilities(b)
    counts = np.repeat(halves.sum(axis=1)[:, None] / len(topics), len(topics), axis=1)
    for _ in range(50):
        theta = counts + 0.1
        joint = theta[:, :, None] * topics[None]
        weights = np.divide(
            halves, joint.sum(axis=1), out=np.zeros(X.shape), where=halves > 0
        )
        counts = (joint * weights[:, None]).sum(axis=2)
    theta = (counts + 0.1) / (counts + 0.1).sum(axis=1, keepdims=True)
    total, n = completion(theta, topics, as_csr(X - halves))
    return np.exp(-total / n)


def test_drawn_topics_are_as_good():
    X = corpus(400, 120, 5, seed=4)
    test, train = X[:60], X[60:]
    settings = {"random_state": 0, "max_iter": 40, "tol": 0, "shards": 2}
    exact = fit_em(CountTopicModel(5), train, **settings)
    drawn = fit_em(StochasticTopicModel(5), train, **settings)
    np.testing.assert_array_equal(drawn.params.counts.sum(axis=1), train.sum(axis=0))
    best = perplexity(exact.params, 0.1, test)
    assert perplexity(drawn.params, 0.1, test) < 1.05 * best
    uniform = dataclasses.replace(
        exact.params, counts=np.ones_like(drawn.params.counts)
    )
    assert best < 0.5 * perplexity(uniform, 0.1, test)
    again = fit_em(StochasticTopicModel(5), train, **settings)
    np.testing.assert_array_equal(again.params.counts, drawn.params.counts)
    other = fit_em(StochasticTopicModel(5, seed=1), train, **settings)
    assert (other.params.counts != drawn.params.counts).any()


def test_bound_of_drawn_topics_is_the_joint():
    X = corpus()
    model = StochasticTopicModel(3, 0.2, 0.1)
    params = begin(model, X)
    block = Block(as_csr(X))
    stats, state = model.e_step(params, model.prepare(block, model.survey(block)))
    parts = state.counts, state.topics.astype(np.int32), state.offsets
    doc = sp.csr_array(parts, shape=(len(X), 3)).toarray()
    words = stats.table.dense().T
    np.testing.assert_array_equal(words.sum(axis=0), X.sum(axis=0))
    np.testing.assert_array_equal(doc.sum(axis=1), X.sum(axis=1))
    np.testing.assert_array_equal(doc.sum(axis=0), words.sum(axis=1))
    theta, phi = doc + 0.2, params.counts.T + 0.1
    theta, phi = (x / x.sum(axis=1, keepdims=True) for x in (theta, phi))
    expected = ((doc + 0.2) * np.log(theta)).sum() + ((words + 0.1) * np.log(phi)).sum()
    np.testing.assert_allclose(model.lower_bound(params, stats), expected, rtol=1e-12)
    assert model.gain(params, stats.scale(-1.0)) == 0


def test_words_that_are_more_than_single_precision_counts(monkeypatch):
    monkeypatch.setattr(stochastic, "BURN_IN", 0)  # it takes time
    X = np.array([[2.0**24 + 6, 1], [0, 3]])
    model = StochasticTopicModel(1)
    params = begin(model, X)
    docs = model.prepare(Block(X), model.survey(Block(X)))
    stats, _ = model.e_step(params, docs)
    np.testing.assert_array_equal(stats.table.dense()[:, 0], X.sum(axis=0))
    with pytest.raises(ValueError, match=r"2\.15e\+09 tokens, too many to draw"):
        model.survey(Block(sp.csr_array([[2.0**30] * 2])))


def test_what_cannot_be_fitted():
    for settings, words in (
        ({"n_topics": 0}, "n_topics must be at least 1, got 0"),
        ({"a": -0.1}, "must not be negative"),
        ({"b": np.nan}, "must be finite"),
        ({"a": (0.1, 0.2)}, "one for each of the 3 topics"),
        ({"b": 0.0, "learn_priors": True}, "only from ones above 0"),
        ({"begin": "here"}, "begin must be one of"),
    ):
        with pytest.raises(ValueError, match=words):
            CountTopicModel(**{"n_topics": 3, **settings})
    with pytest.raises(ValueError, match="one for each of the 3 topics"):
        PeerCountTopicModel(3, (0.1,))
    with pytest.raises(ValueError, match="prior counts a and b above 0"):
        StochasticTopicModel(3, 0.0)
    X = corpus()
    with pytest.raises(ValueError, match="have no weights"):
        fit_em(CountTopicModel(3), X, sample_weight=np.ones(len(X)))
    with pytest.raises(ValueError, match="whole numbers"):
        fit_em(StochasticTopicModel(3), X * 0.3)
    with pytest.raises(ValueError, match="Negative values"):
        fit_em(CountTopicModel(3), -X)
    with pytest.raises(ValueError, match="None of the 2 documents has a word"):
        fit_em(CountTopicModel(3), X[[0, 5]])
    start = begin(CountTopicModel(4), X)
    with pytest.raises(ValueError, match=r"must be \(30, 3\)"):
        fit_em(CountTopicModel(3), X, start=start)
