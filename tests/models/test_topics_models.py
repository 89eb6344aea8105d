"""Topic models, node by node, without a driver."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import digamma, gammaln, logsumexp
from sklearn.decomposition import LatentDirichletAllocation

from dask_em.kernels import topics as kernels
from dask_em.models.topics import transform
from dask_em.models.topics.draws import draw_rows
from dask_em.models.topics.variational import VariationalLDA
from dask_em.topics.sources import as_csr


def corpus(n_docs=40, n_words=25, seed=0):
    """Documents of three topics; some are empty, and some words never occur."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_words - 2, 0.2), 3)
    shares = rng.dirichlet(np.full(3, 0.3), n_docs)
    counts = rng.poisson(30 * shares @ topics)
    counts[[0, 5]] = 0
    return np.insert(counts, [0, 10], 0, axis=1)


class Cluster:
    """Nodes that add their statistics up by hand."""

    def __init__(self, model, parts):
        self.model = model
        parts = [[as_csr(block) for block in part] for part in parts]
        surveys = [model.survey(part) for part in parts]
        self.summary = sum(surveys[1:], surveys[0])
        model.check(self.summary)
        self.docs = [model.prepare(part, self.summary) for part in parts]
        self.ids = [model.support(docs) for docs in self.docs]
        self.counted, seen = [], np.zeros(0, int)
        for ids in self.ids:
            self.counted.append(~np.isin(ids, seen))
            seen = np.union1d(seen, ids)
        self.gamma = [None] * len(parts)

    def start(self, seed=0):
        starts = [
            self.model.start(docs, counted, self.summary, seed).stats
            for docs, counted in zip(self.docs, self.counted, strict=True)
        ]
        self.params = [np.zeros_like(stats) for stats in starts]
        self.m_step(starts)
        return self

    def start_at(self, components):
        rows = np.vstack([components.T, components.sum(axis=1)])
        self.params = [rows[ids] for ids in self.ids]
        return self

    def m_step(self, stats):
        whole = np.zeros((self.summary.n_words + 1, self.model.width))
        for ids, part in zip(self.ids, stats, strict=True):
            whole[ids] += part
        self.params = [
            self.model.m_step(params, whole[ids], docs)
            for params, ids, docs in zip(self.params, self.ids, self.docs, strict=True)
        ]

    def e_step(self):
        stats, bound = [], 0.0
        for i, docs in enumerate(self.docs):
            found = self.model.e_step(self.params[i], docs, self.gamma[i])
            stats.append(found[0])
            bound += found[1] + self.model.penalty(
                self.params[i], docs, self.counted[i]
            )
            self.gamma[i] = found[2]
        return stats, bound

    def climb(self, n):
        bounds = []
        for i in range(n):
            stats, bound = self.e_step()
            bounds.append(bound)
            if i < n - 1:
                self.m_step(stats)
        return np.array(bounds)

    @property
    def components(self):
        whole = np.full((self.summary.n_words + 1, self.model.width), self.model.eta)
        for ids, params in zip(self.ids, self.params, strict=True):
            whole[ids] = params
        np.testing.assert_allclose(whole[:-1].sum(axis=0), whole[-1], rtol=1e-12)
        return whole[:-1].T


def brute_bound(counts, components, before, alpha, eta):
    """Bound at the phi that `before` makes and the gamma that follows, in full."""
    W = counts.shape[1]
    beta = digamma(components) - digamma(components.sum(axis=1))[:, None]
    log_phi = digamma(before)[:, :, None] + beta[None]
    log_phi -= logsumexp(log_phi, axis=1, keepdims=True)
    phi = np.exp(log_phi)
    weighted = counts[:, None, :] * phi
    gamma = alpha + weighted.sum(axis=2)
    theta = digamma(gamma) - digamma(gamma.sum(axis=1))[:, None]
    bound = (weighted * (theta[:, :, None] + beta[None] - log_phi)).sum()
    bound += ((alpha - gamma) * theta).sum() + gammaln(gamma).sum()
    bound -= gammaln(gamma.sum(axis=1)).sum()
    bound += len(counts) * (gammaln(alpha.sum()) - gammaln(alpha).sum())
    bound += ((eta - components) * beta).sum() + gammaln(components).sum()
    bound -= gammaln(components.sum(axis=1)).sum()
    bound += len(components) * (gammaln(W * eta) - W * gammaln(eta))
    return bound, gamma, weighted.sum(axis=0).T


def test_special_functions():
    x = 10 ** np.random.default_rng(0).uniform(-12, 9, 20_000)
    x = np.concatenate([x, np.linspace(1e-3, 30, 20_001)])
    found = np.empty_like(x)
    for fill, expected in (
        (kernels.fill_digamma, digamma(x)),
        (kernels.fill_gammaln, gammaln(x)),
    ):
        fill(x, found)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha", [0.3, (0.1, 0.2, 0.7, 1.5)])
def test_bound_and_statistics_are_those_of_the_definition(dtype, alpha):
    counts = corpus()
    model = VariationalLDA(4, doc_topic_prior=alpha, topic_word_prior=0.2)
    one = Cluster(dataclasses.replace(model, max_doc_update_iter=1), [[counts]])
    one.docs[0] = dataclasses.replace(
        one.docs[0], counts=one.docs[0].counts.astype(dtype)
    )
    one.start()
    for _ in range(3):
        before = one.gamma[0]
        if before is None:
            before = model.alpha + counts.sum(axis=1, keepdims=True) / 4
        components = one.components
        stats, bound = one.e_step()
        expected, gamma, by_word = brute_bound(
            counts, components, before, model.alpha, 0.2
        )
        np.testing.assert_allclose(bound, expected, rtol=1e-12)
        full = counts.sum(axis=1) > 0
        np.testing.assert_allclose(one.gamma[0][full], gamma[full], rtol=1e-10)
        np.testing.assert_allclose(one.gamma[0][~full], model.alpha[None].repeat(2, 0))
        np.testing.assert_allclose(
            stats[0][:-1], by_word[one.ids[0][:-1]], rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(stats[0][-1], by_word.sum(axis=0), rtol=1e-12)
        one.m_step(stats)


@pytest.mark.parametrize("updates", [1, 3, 100])
def test_bound_never_falls(updates):
    model = VariationalLDA(4, max_doc_update_iter=updates)
    bounds = Cluster(model, [[corpus()]]).start().climb(60)
    assert (np.diff(bounds) > -1e-9 * abs(bounds[-1])).all()
    assert bounds[-1] > bounds[0] + 100


def test_nodes_make_no_difference():
    counts = corpus()
    model = VariationalLDA(4, topic_word_prior=0.05)
    alone = Cluster(model, [[counts]]).start()
    parts = [[counts[:7], counts[7:7], counts[7:20]], [], [counts[20:]]]
    three = Cluster(model, parts).start()
    np.testing.assert_allclose(alone.components, three.components, rtol=1e-12)
    np.testing.assert_allclose(alone.climb(20), three.climb(20), rtol=1e-9)
    np.testing.assert_allclose(alone.components, three.components, rtol=1e-9)
    np.testing.assert_allclose(alone.gamma[0], np.vstack(three.gamma), rtol=1e-9)
    assert (alone.components[:, [0, 11]] == 0.05).all()  # words that never occur
    assert dataclasses.asdict(three.summary) == {
        "n_docs": 40,
        "n_empty": 2,
        "n_words": 25,
        "n_entries": np.count_nonzero(counts),
        "n_tokens": counts.sum(),
        "read": None,
    }


def test_ends_where_scikit_learn_ends():
    counts = corpus()
    start = 0.2 + draw_rows(3, np.arange(25), 3).T

    class Begun(LatentDirichletAllocation):
        def _init_latent_vars(self, n_features, dtype=np.float64):
            super()._init_latent_vars(n_features, dtype)
            beta = digamma(start) - digamma(start.sum(axis=1))[:, None]
            self.components_, self.exp_dirichlet_component_ = start, np.exp(beta)

    settings = {"doc_topic_prior": 0.9, "topic_word_prior": 0.2}
    tight = {"mean_change_tol": 1e-12, "max_doc_update_iter": 5000}
    peer = Begun(3, **settings, **tight, max_iter=300).fit(sp.csr_matrix(counts))
    model = VariationalLDA(3, **settings, mean_change_tol=1e-12)
    model = dataclasses.replace(model, max_doc_update_iter=50)
    ours = Cluster(model, [[counts]]).start_at(start)
    ours.climb(301)
    np.testing.assert_allclose(ours.components, peer.components_, rtol=1e-6)
    gamma, bound = transform.document_topics(
        peer.components_, as_csr(counts), model.alpha, 1e-12, 5000
    )
    np.testing.assert_allclose(
        transform.normalised(gamma), peer.transform(counts), rtol=1e-6, atol=1e-9
    )
    total = bound + transform.topics_bound(peer.components_, 0.2)
    np.testing.assert_allclose(total, peer.score(counts), rtol=1e-9)


def test_probabilities_too_small_for_floats():
    """With tiny priors words are left to topics whose weight underflows."""
    counts = corpus()
    alpha, eta = np.full(3, 2e-4), 1e-3
    components = np.full((3, 25), eta)
    components[:, 1::3] += np.eye(3)[:, np.arange(8) % 3] * 50
    before = alpha + counts.sum(axis=1, keepdims=True) * [[1.0, 0.0, 0.0]]
    model = VariationalLDA(3, tuple(alpha), eta, max_doc_update_iter=1)
    one = Cluster(model, [[counts]]).start_at(components)
    one.gamma = [before]
    stats, bound = one.e_step()
    expected, gamma, by_word = brute_bound(counts, components, before, alpha, eta)
    np.testing.assert_allclose(bound, expected, rtol=1e-12)
    full = counts.sum(axis=1) > 0
    np.testing.assert_allclose(one.gamma[0][full], gamma[full], rtol=1e-9)
    np.testing.assert_allclose(
        stats[0][:-1], by_word[one.ids[0][:-1]], rtol=1e-9, atol=1e-200
    )


def test_starts_belong_to_words():
    drawn = draw_rows(7, np.array([2, 40, 10**12]), 200)
    np.testing.assert_array_equal(drawn[1:], draw_rows(7, np.array([40, 10**12]), 200))
    assert (drawn != draw_rows(8, np.array([2, 40, 10**12]), 200)).all()
    many = draw_rows(0, np.arange(20_000), 10)
    assert abs(many.mean() - 1) < 2e-3
    assert abs(many.std() - 0.1) < 1e-3
    assert abs(np.corrcoef(many.T) - np.eye(10)).max() < 0.03


def test_what_cannot_be_fitted():
    model = VariationalLDA(2)
    for bad, words in (
        ([[1, -1]], "Negative values in data passed to LatentDirichletAllocation.fit"),
        ([[1, np.nan]], "must not be NaN or infinite"),
        ([[0, 0], [0, 0]], "None of the 2 documents has a word"),
    ):
        with pytest.raises(ValueError, match=words):
            Cluster(model, [[bad]])
    with pytest.raises(ValueError, match="2 and 3 columns"):
        Cluster(model, [[[[1, 2]], [[1, 2, 3]]]])


def test_halves_and_completion():
    counts = as_csr(corpus())
    halves = transform.split_tokens(counts, np.random.default_rng(0))
    np.testing.assert_array_equal((halves[0] + halves[1]).toarray(), corpus())
    share = halves[0].sum() / counts.sum()
    assert 0.4 < share < 0.6
    theta, topics = np.full((40, 2), 0.5), np.full((2, 25), 1 / 25)
    total, n = transform.completion(theta, topics, halves[1])
    assert n == halves[1].sum()
    np.testing.assert_allclose(np.exp(-total / n), 25)
    with pytest.raises(ValueError, match="whole numbers"):
        transform.split_tokens(counts * 0.3, np.random.default_rng(0))
