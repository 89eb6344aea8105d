"""Latent Dirichlet allocation by EM in count form."""

import asyncio
import copy
import os
import pickle
import signal
import threading
import time

import dask.array as da
import dask.bag as db
import numpy as np
import pytest
import scipy.sparse as sp
from clusters import local_cluster
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from topic_data import EACH_ITS_OWN, N_WORDS, corpus, groups_of, tokens_of

from dask_em import LatentDirichletAllocation
from dask_em.estimators import topic_fit
from dask_em.models.topics import transform
from dask_em.models.topics.coherence import WordsTogether, coherence
from dask_em.models.topics.count import CountTopicModel
from dask_em.schedules import BoundedStaleness, ExtraUpdates
from dask_em.topics import SparseSource, TokenSource, write_corpus, write_docword
from dask_em.topologies import Rotation
from dask_em.transports import Futures, Simulated

COUNTS = corpus()
NEW = corpus(seed=1)
SEEN = COUNTS.any(axis=0)


def lda(**settings):
    return LatentDirichletAllocation(
        **{"n_components": 3, "random_state": 0, "transport": "local"} | settings
    )


@pytest.fixture(scope="module")
def fitted():
    return lda().fit(COUNTS)


@pytest.fixture(scope="module")
def synchronous():
    return lda(schedule="synchronous", tol=1e-7, max_iter=2000).fit(COUNTS)


# ---------------------------------------------------------------- plain NumPy


def folded(X, phi, doc, a, n_sweeps, tol=0.0):
    """Update counts of topics in documents, given topics of shape (K, W)."""
    for x, N in zip(X, doc, strict=True):
        for _ in range(n_sweeps):
            gamma = (N + a)[:, None] * phi
            new = gamma / gamma.sum(axis=0) @ x
            change = np.abs(new - N).sum()
            N[:] = new
            if change <= 2 * tol * x.sum():
                break
    return doc


def even(X, K=3):
    return np.repeat(X.sum(axis=1, keepdims=True) / K, K, axis=1).astype(float)


def reference(X, N_wk, n_passes, a, b):
    """Run batch EM in count form; return N_wk and the objective before each pass."""
    doc, values = None, []
    for _ in range(n_passes):
        phi = ((N_wk + b) / (N_wk.sum(axis=0) + len(N_wk) * b)).T
        if doc is None:
            doc = folded(X, phi, even(X), a, 10, 1e-3)
        old, doc = doc, np.zeros_like(doc)
        N_wk = np.zeros_like(N_wk)
        for d, x in enumerate(X):
            gamma = (old[d] + a)[:, None] * phi
            gamma *= x / gamma.sum(axis=0)
            doc[d] = gamma.sum(axis=1)
            N_wk += gamma.T
        theta = old + a
        theta /= theta.sum(axis=1, keepdims=True)
        value = (X * np.log(theta @ phi)).sum() + (a * np.log(theta)).sum()
        values.append(value + b * np.log(phi).sum())
    return N_wk, values


@pytest.mark.parametrize(
    "priors", [{}, {"doc_topic_prior": [1.3, 1.1, 1.5], "topic_word_prior": 1.02}]
)
def test_a_synchronous_fit_is_plain_em(priors, monkeypatch):
    begun, start = [], CountTopicModel.start

    def watched(*args, **more):
        begun.append(start(*args, **more))
        return begun[0]

    monkeypatch.setattr(CountTopicModel, "start", watched)
    settings = {"schedule": "synchronous", "tol": 0, "max_iter": 7, "shards": 3}
    found = lda(**settings, **priors).fit(sp.csr_array(COUNTS))
    a = np.asarray(priors.get("doc_topic_prior", 1.1)) - 1
    b = priors.get("topic_word_prior", 1.1) - 1
    N_wk, values = reference(COUNTS, begun[0].counts, 7, a, b)
    np.testing.assert_allclose(found.components_.T, N_wk + b, rtol=1e-10, atol=1e-10)
    phi = (N_wk + b) / (N_wk + b).sum(axis=0)
    np.testing.assert_allclose(found.exp_dirichlet_component_.T, phi, rtol=1e-10)
    # a bound is reported once documents have been updated at the same topics
    bounds = found.result_.trace.lower_bound_before
    assert (np.diff(bounds) > 0).all()
    assert all(np.diff(values) > 0)
    assert (bounds[1:] >= np.array(values)[1:] - 1e-9 * abs(values[0])).all()


def test_topics_are_found(fitted):
    assert groups_of(fitted) == EACH_ITS_OWN
    assert fitted.converged_
    assert fitted.n_iter_ < 100
    assert not hasattr(fitted, "plan_")
    assert fitted.doc_topic_prior_ == fitted.topic_word_prior_ == 1.1
    np.testing.assert_allclose(fitted.components_.sum(), COUNTS.sum() + 9, rtol=1e-9)
    np.testing.assert_allclose(fitted.components_[:, 7], 0.1)
    np.testing.assert_allclose(fitted.exp_dirichlet_component_.sum(axis=1), 1)
    again = lda().fit(COUNTS)
    np.testing.assert_array_equal(again.components_, fitted.components_)
    other = lda(random_state=1).fit(COUNTS)
    assert (other.components_ != fitted.components_).any()


def test_maximum_likelihood_and_the_settings_of_spark():
    plsa = lda(doc_topic_prior=1, topic_word_prior=1, max_iter=900, tol=1e-6)
    plsa.fit(COUNTS)
    np.testing.assert_allclose(plsa.components_.sum(), COUNTS.sum(), rtol=1e-9)
    np.testing.assert_allclose(
        np.exp(-plsa.score(COUNTS) / COUNTS.sum()), plsa.bound_, rtol=1e-3
    )
    assert plsa.components_[:, 7].max() == 0
    unseen = np.zeros((1, N_WORDS), int)
    unseen[0, 7] = 3
    np.testing.assert_allclose(plsa.transform(unseen), 1 / 3)
    assert np.isnan(plsa.perplexity(unseen))
    spark = lda(doc_topic_prior=50 / 3 + 1, topic_word_prior=1.1).fit(COUNTS)
    assert spark.doc_topic_prior_ == pytest.approx(50 / 3 + 1)
    assert groups_of(spark) == EACH_ITS_OWN
    # so strong a prior makes documents more alike
    assert spark.transform(NEW).max() < plsa.transform(NEW).max() < 1 + 1e-12


# ---------------------------------------------------------- schedules, transports


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "bounded_staleness", "shards": 6},
        {"schedule": ExtraUpdates(), "shards": 6},
        {"schedule": "fraction_barrier", "shards": 6},
        {},
        {"wire": "float32"},
        {"transport": Simulated(3), "shards": 6},
        {"transport": Simulated(2), "schedule": BoundedStaleness(1)},
        {"topology": "owner_sharded", "shards": 3},
        {"topology": "rotation", "shards": 3},
        {"topology": Rotation("barrier"), "shards": 2},
        {"inference": "stochastic"},
    ],
    ids=str,
)
def test_all_ways_lead_to_the_same_place(settings, synchronous):
    found = lda(**settings).fit(COUNTS)
    assert found.perplexity(NEW) == pytest.approx(synchronous.perplexity(NEW), rel=0.01)
    assert ("topology" in settings) == hasattr(found, "plan_")
    assert found.n_iter_ >= 2


def inputs_of(counts, folder):
    dense = da.from_array(counts, chunks=(50, N_WORDS))
    write_docword(folder / "docword", counts)
    write_corpus(folder / "chunks", counts, docs_per_chunk=40)
    tokens = db.from_sequence(tokens_of(counts), npartitions=3)
    return {
        "csr_matrix": sp.csr_matrix(counts),
        "float32": sp.csc_array(counts.astype(np.float32)),
        "dense chunks": dense,
        "sparse chunks": dense.map_blocks(sp.csr_matrix, dtype=counts.dtype),
        "unknown chunks": dense[dense[:, 0] >= 0],
        "docword": folder / "docword",
        "corpus": folder / "chunks",
        "tokens": tokens_of(counts),
        "bag": tokens,
    }


KINDS = """csr_matrix, float32, dense chunks, sparse chunks, unknown chunks, docword,
corpus, tokens, bag"""


@pytest.mark.parametrize("kind", KINDS.replace("\n", " ").split(", "))
def test_input_of_any_kind(kind, tmp_path, synchronous):
    X = inputs_of(COUNTS, tmp_path)[kind]
    found = lda(schedule="synchronous", tol=1e-7, max_iter=2000).fit(X)
    words = SEEN if kind in ("tokens", "bag") else slice(None)
    wanted = synchronous.components_[:, words]
    if kind in ("tokens", "bag"):
        assert found.vocabulary_ == tuple(f"w{i:02d}" for i in np.flatnonzero(SEEN))
        assert {w[:1] for words in found.top_words(3) for w in words} == {"w"}
        ours = found.perplexity(X)
        assert ours == pytest.approx(synchronous.perplexity(COUNTS), rel=0.05)
    else:
        np.testing.assert_allclose(found.components_, wanted, rtol=1e-6)
    theta = found.transform(X)
    assert hasattr(theta, "dask") == (kind.endswith("chunks") or kind == "bag")
    np.testing.assert_allclose(
        np.asarray(theta), found.transform(COUNTS[:, words]), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("kind", ["csr_matrix", "sparse chunks", "bag"])
def test_on_a_cluster(client, kind, tmp_path, synchronous):
    X = inputs_of(COUNTS, tmp_path)[kind]
    found = lda(transport="auto", shards=8, tol=0, max_iter=10).fit(X)
    assert "Staleness" in found.result_.settings["schedule"]
    wanted = synchronous.perplexity(COUNTS)
    assert found.perplexity(X) == pytest.approx(wanted, rel=0.05)


def test_for_an_asynchronous_client(cluster, fitted, monkeypatch):
    from distributed import Client

    monkeypatch.setattr(topic_fit, "_ROUNDS", 2)

    async def fit(X, **settings):
        async with Client(cluster.scheduler_address, asynchronous=True):
            model = lda(transport="auto", max_iter=5, tol=0, **settings)
            return await model.fit_transform(X)

    theta = asyncio.run(fit(COUNTS, learn_priors=True))
    assert theta.shape == (len(COUNTS), 3)
    hard = fitted.transform(COUNTS).max(axis=1) > 0.95
    ours, theirs = (t[hard].argmax(axis=1) for t in (theta, fitted.transform(COUNTS)))
    assert len({*zip(ours, theirs, strict=True)}) == 3
    dense = da.from_array(COUNTS, chunks=(50, N_WORDS))
    with pytest.raises(TypeError, match="compute_chunk_sizes"):
        asyncio.run(fit(dense[dense[:, 0] >= 0]))
    with pytest.raises(ValueError, match="Negative values"):
        asyncio.run(fit(-dense))


def test_large_topics_go_round(client, monkeypatch, synchronous):
    monkeypatch.setattr(topic_fit, "_LARGE", 3 * N_WORDS - 1)
    short = {"max_iter": 3, "tol": 0, "transport": Futures(client)}
    found = lda(**short).fit(COUNTS)
    assert "otation" in found.result_.settings["topology"]
    assert found.components_.sum() == pytest.approx(COUNTS.sum() + 9)
    for own in ({"transport": "local"}, {"schedule": "synchronous"}):
        managed = lda(**short | own).fit(COUNTS)
        assert "topology" not in managed.result_.settings


@pytest.mark.cluster
@pytest.mark.chaos
def test_a_worker_is_killed(synchronous):
    from distributed import Client

    X = sp.csr_array(np.tile(COUNTS, (100, 1)))

    with (
        local_cluster(n_workers=3, processes=True) as cluster,
        Client(cluster) as client,
    ):
        found = lda(transport=Futures(client), tol=0, max_iter=1, shards=9).fit(X)
        found.set_params(max_iter=60)
        began = len(cluster.workers)
        killed = []

        def kill():
            time.sleep(0.5)
            [worker, *_] = cluster.workers.values()
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(time.monotonic())

        thread = threading.Thread(target=kill)
        thread.start()
        found.fit(X)
        ended = time.monotonic()
        thread.join()
    assert began == 3
    assert killed[0] < ended
    assert found.perplexity(NEW) == pytest.approx(synchronous.perplexity(NEW), rel=0.01)


# ----------------------------------------------------------------------- documents


def test_documents_are_folded_in(fitted):
    exact = copy.copy(fitted).set_params(mean_change_tol=0)
    a, K = 0.1, 3
    wanted = folded(NEW, fitted.exp_dirichlet_component_, even(NEW), a, 100) + a
    found = exact.transform(NEW, normalize=False)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    theta = wanted / wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(exact.transform(NEW), theta, rtol=1e-9)
    np.testing.assert_allclose(theta[4], 1 / K)
    p = np.log(theta @ fitted.exp_dirichlet_component_)
    assert exact.score(NEW) == pytest.approx((NEW * p).sum(), rel=1e-9)
    # as it is by default
    np.testing.assert_allclose(fitted.transform(NEW), theta, atol=0.02)
    observed, scored = (
        half.toarray()
        for half in transform.split_tokens(
            sp.csr_array(NEW.astype(float)), np.random.default_rng([5, 0])
        )
    )
    doc = folded(observed, fitted.exp_dirichlet_component_, even(observed), a, 100) + a
    theta = doc / doc.sum(axis=1, keepdims=True)
    p = np.log(theta @ fitted.exp_dirichlet_component_)
    wanted = np.exp(-(scored * p).sum() / scored.sum())
    assert exact.perplexity(NEW, seed=5) == pytest.approx(wanted, rel=1e-9)


def test_lazily_and_in_tiles(fitted):
    theta = fitted.transform(NEW)
    lazy = da.from_array(NEW.astype(np.float32), chunks=(50, N_WORDS))
    found = fitted.transform(lazy)
    assert found.chunks == ((50, 50, 20), (3,))
    assert found.dtype == found.compute().dtype == np.float32
    np.testing.assert_allclose(found, theta, rtol=1e-5)
    many = sp.csr_array(np.tile(NEW, (80, 1)))
    np.testing.assert_allclose(fitted.transform(many), np.tile(theta, (80, 1)))
    assert fitted.score(lazy) == pytest.approx(fitted.score(NEW), rel=1e-6)


def test_words_and_documents_that_say_nothing():
    found = lda(doc_topic_prior=[1.1, 1.2, 1.7]).fit(COUNTS)
    unseen = np.zeros((2, N_WORDS), int)
    unseen[1, 7] = 5  # a word that the fit has not seen
    np.testing.assert_allclose(found.transform(unseen), [[0.1, 0.2, 0.7]] * 2)
    both = NEW.copy()
    both[:, 7] = 3
    np.testing.assert_allclose(found.transform(both), found.transform(NEW))
    words = lda().fit(tokens_of(COUNTS))
    theta = words.transform([["w01", "w02", "new"], ["new"], []])
    np.testing.assert_allclose(theta, words.transform([["w01", "w02"], [], []]))
    np.testing.assert_allclose(theta[1:], 1 / 3)
    np.testing.assert_allclose(words.transform([[], []]), 1 / 3)
    other = TokenSource(tokens_of(COUNTS), vocabulary=words.vocabulary_[::-1])
    with pytest.raises(ValueError, match="other words than LatentDirichletAllocation"):
        words.transform(other)


def test_priors_that_outweigh_the_words():
    found = lda(doc_topic_prior=1e6).fit(COUNTS)
    assert found.bound_ == np.inf
    np.testing.assert_allclose(found.transform(COUNTS), 1 / 3, rtol=1e-3)


def test_coherence_by_brute_force(fitted):
    n, found = 4, {}
    for measure in ("u_mass", "npmi"):
        wanted = []
        for top in fitted.top_words(n):
            values = []
            for i in range(n):
                for j in range(i):
                    v, u = NEW[:, top[i]] > 0, NEW[:, top[j]] > 0
                    p, q, both = v.mean(), u.mean(), (v & u).mean()
                    if measure == "u_mass":
                        values.append(np.log(((v & u).sum() + 1) / u.sum()))
                    else:
                        values.append(np.log(both / (p * q)) / -np.log(both))
            wanted.append(np.mean(values))
        lazy = da.from_array(NEW, chunks=(50, N_WORDS))
        found[measure] = fitted.coherence(NEW, n, measure)
        np.testing.assert_allclose(found[measure], wanted, rtol=1e-12)
        np.testing.assert_allclose(fitted.coherence(lazy, n, measure), wanted)
    never = np.zeros((3, N_WORDS), int)
    never[[0, 1], [0, 1]] = 1
    top = np.array([[0, 1], [0, 7]])
    counted = WordsTogether(np.arange(N_WORDS))(sp.csr_array(never))
    pairs = counted[:-1].reshape(N_WORDS, N_WORDS)
    assert coherence(pairs, counted[-1], top, "npmi")[0] == -1
    assert np.isnan(coherence(pairs, counted[-1], top, "u_mass")[1])
    nothing = SparseSource(sp.csr_array((0, N_WORDS)))
    assert np.isnan(fitted.coherence(nothing, n)).all()
    with pytest.raises(ValueError, match="n must be an integer of at least 2"):
        fitted.coherence(NEW, n=1)
    with pytest.raises(ValueError, match="measure must be 'u_mass' or 'npmi', got 'c"):
        fitted.coherence(NEW, measure="c_v")


# --------------------------------------------------------------------------- priors


@pytest.mark.parametrize("bad", [(4.0, 6.0), (1.0001, 1.0001)])
def test_priors_are_learned(bad):
    settings = {"doc_topic_prior": bad[0], "topic_word_prior": bad[1]}
    given = lda(**settings).fit(COUNTS)
    learned = lda(**settings, learn_priors=True).fit(COUNTS)
    assert learned.perplexity(NEW) < given.perplexity(NEW)
    assert learned.doc_topic_prior_.shape == (3,)
    # wherever they begin
    other = lda(learn_priors=True).fit(COUNTS)
    np.testing.assert_allclose(
        learned.doc_topic_prior_ - 1, other.doc_topic_prior_ - 1, rtol=0.05
    )
    b = other.topic_word_prior_ - 1
    assert learned.topic_word_prior_ - 1 == pytest.approx(b, rel=0.05)
    assert learned.topic_word_prior_ != bad[1]
    assert learned.result_.settings["b"] + 1 == learned.topic_word_prior_
    assert learned.n_iter_ > given.n_iter_
    cut = lda(**settings, learn_priors=True, max_iter=1, tol=0).fit(COUNTS)
    assert cut.n_iter_ <= 31


# --------------------------------------------------------------------------- manners


def test_with_scikit_learn(fitted):
    data = pickle.dumps(fitted)
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.transform(NEW), fitted.transform(NEW))
    assert not hasattr(clone(fitted), "components_")
    assert "LatentDirichletAllocation" in fitted._repr_html_()
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(COUNTS, columns=[f"w{i}" for i in range(N_WORDS)])
    named = lda().set_output(transform="pandas").fit(frame)
    theta = named.transform(frame)
    assert list(theta.columns) == [f"latentdirichletallocation{k}" for k in range(3)]
    assert named.feature_names_in_[2] == "w2"
    assert named.top_words(1)[0][0][0] == "w"
    search = GridSearchCV(lda(max_iter=5, tol=0), {"n_components": [1, 3]}, cv=2)
    assert search.fit(COUNTS).best_params_ == {"n_components": 3}


def test_a_failed_refit_changes_nothing():
    found = lda().fit(COUNTS)
    before = {**vars(found)}
    lazy = da.from_array(-COUNTS[:, :5], chunks=(50, 5))
    for bad in (lazy, -COUNTS, COUNTS[0], np.zeros((3, 4)), COUNTS * np.nan):
        with pytest.raises(ValueError):
            found.fit(bad)
    for texts in (["the cat", "sat"], np.array([["the", "cat"]])):
        with pytest.raises((TypeError, ValueError)):
            found.fit(texts)
    assert vars(found).keys() == before.keys()
    assert all(vars(found)[name] is value for name, value in before.items())
    found.fit(tokens_of(COUNTS))
    assert hasattr(found, "vocabulary_")
    assert not hasattr(found.fit(COUNTS), "vocabulary_")


def test_a_file_that_ends_early(tmp_path, fitted):
    write_docword(tmp_path / "docword", COUNTS)
    lines = (tmp_path / "docword").read_text().splitlines()
    (tmp_path / "docword").write_text("\n".join(lines[:-100]))
    for use in (lda().fit, lda(shards=3).fit, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match=r"docword has .* may be cut off"):
            use(tmp_path / "docword")


def test_an_empty_file(tmp_path):
    write_docword(tmp_path / "docword", np.zeros((0, 3), int))
    with pytest.raises(ValueError, match="There are no documents to fit"):
        lda().fit(tmp_path / "docword")


@pytest.mark.parametrize("inference", ["map", "stochastic"])
def test_a_fit_goes_on_from_its_checkpoint(inference, tmp_path, synchronous):
    settings = {"inference": inference, "random_state": None, "checkpoint": tmp_path}
    settings |= {"schedule": "synchronous", "tol": 0}
    lda(max_iter=5, **settings).fit(COUNTS)
    found = lda(max_iter=60, resume=True, **settings).fit(COUNTS)
    assert found.result_.resumed_from is not None
    assert found.perplexity(NEW) == pytest.approx(synchronous.perplexity(NEW), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"doc_topic_prior": 0.5}, "doc_topic_prior=0.5 is below 1, .* inference='var"),
        ({"topic_word_prior": 0.01}, "below 1, where inference='map' has no optimum"),
        ({"doc_topic_prior": [1, 2]}, "at least 1, or one for each of the 3 comp"),
        ({"doc_topic_prior": "a"}, "number of at least 1, or one .*, got 'a'"),
        ({"doc_topic_prior": -1}, "doc_topic_prior must be a number of at least 1"),
        ({"topic_word_prior": np.inf}, "topic_word_prior must be a number of at least"),
        ({"learn_priors": 1}, "learn_priors must be True or False, got 1"),
        ({"learn_priors": True, "doc_topic_prior": 1}, "begins at priors above 1"),
        ({"learn_priors": True, "topology": "rotation"}, "has none; leave one of them"),
        ({"wire": "float16"}, "wire must be 'float32' or None, got 'float16'"),
        ({"wire": "float32", "topology": "all_pairs"}, "wire='float32' is for fits wi"),
        ({"schedule": "extra_updates", "topology": "all_pairs"}, "leave one of them o"),
        ({"schedule": "whenever"}, "schedule"),
        ({"topology": "ring"}, "topology must be one of"),
        ({"inference": "stochastic", "topology": "all_pairs"}, "has a manager; leave"),
        ({"inference": "stochastic", "topic_word_prior": 1}, "must be above 1 for inf"),
        ({"hand_out": "no"}, "hand_out must be True or False"),
        ({"n_components": 0}, "n_components must be an integer of at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        lda(**settings).fit(COUNTS)
