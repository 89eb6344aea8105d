"""Latent Dirichlet allocation by variational inference, as scikit-learn has it."""

import asyncio
import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_em.estimators.latent_dirichlet_allocation import LatentDirichletAllocation
from dask_em.topics import write_docword

N_WORDS = 30


def corpus(n_docs=120, seed=0):
    """Documents of three topics, ten words each; word 7 never occurs."""
    rng = np.random.default_rng(seed)
    topics = np.kron(np.eye(3), np.full((1, 10), 0.09)) + 0.01 / 3
    shares = rng.dirichlet(np.full(3, 0.2), n_docs)
    counts = rng.poisson(40 * shares @ topics)
    counts[:, 7] = 0
    counts[4] = 0
    return counts


COUNTS = corpus()


def lda(**settings):
    common = {"n_components": 3, "random_state": 0, "transport": "local"}
    common["inference"] = "variational"
    return LatentDirichletAllocation(**common | settings)


@pytest.fixture(scope="module")
def fitted():
    return lda(shards=2).fit(COUNTS)


def test_topics_are_found(fitted):
    groups = {frozenset(i // 10 for i in words) for words in fitted.top_words(9)}
    assert groups == {frozenset([k]) for k in range(3)}
    assert fitted.components_.shape == fitted.exp_dirichlet_component_.shape == (3, 30)
    assert (fitted.components_[:, 7] == 1 / 3).all()
    np.testing.assert_allclose(fitted.components_.sum(), COUNTS.sum() + 30, rtol=1e-9)
    assert fitted.converged_
    assert fitted.doc_topic_prior_ == fitted.topic_word_prior_ == 1 / 3
    assert (np.diff(fitted.result_.trace.lower_bound) > -1e-6).all()
    np.testing.assert_allclose(
        fitted.bound_, np.exp(-fitted.result_.lower_bound / COUNTS.sum())
    )
    assert fitted.score(COUNTS) == pytest.approx(fitted.result_.lower_bound, rel=1e-3)


@pytest.mark.parametrize("shards", [1, 4])
def test_input_of_any_kind(fitted, shards, tmp_path):
    write_docword(tmp_path / "plain", COUNTS)
    write_docword(tmp_path / "zipped.gz", COUNTS)
    dense = da.from_array(COUNTS, chunks=(50, N_WORDS))
    for X in (
        sp.csr_matrix(COUNTS),
        sp.csc_array(COUNTS.astype(np.float32)),
        COUNTS.tolist(),
        dense,
        dense.map_blocks(sp.csr_matrix, dtype=COUNTS.dtype),
        dense[dense[:, 0] >= 0],
        tmp_path / "plain",
        str(tmp_path / "zipped.gz"),
    ):
        found = lda(shards=shards).fit(X)
        np.testing.assert_allclose(found.components_, fitted.components_, rtol=1e-7)
        assert found.n_iter_ == fitted.n_iter_


def test_labelled_documents(fitted):
    xarray = pytest.importorskip("xarray")
    labels = {"doc": [f"d{i}" for i in range(len(COUNTS))]}
    for data in (COUNTS, da.from_array(COUNTS, chunks=(50, N_WORDS))):
        X = xarray.DataArray(data, dims=("doc", "word"), coords=labels)
        found = lda(shards=2).fit(X)
        np.testing.assert_allclose(found.components_, fitted.components_, rtol=1e-7)
        theta = found.transform(X)
        assert type(theta) is type(data)
        np.testing.assert_allclose(theta, fitted.transform(COUNTS), rtol=1e-6)
        assert np.isfinite(found.score(X) + found.perplexity(X))
    with pytest.raises(TypeError, match=r"got an xarray\.Dataset; pass the DataArray"):
        lda().fit(X.to_dataset(name="counts"))


def test_what_is_no_count(fitted):
    dask_bag = pytest.importorskip("dask.bag")
    for use in (lda().fit, fitted.transform, fitted.score):
        with pytest.raises(TypeError, match="CountVectorizer"):
            use(["the cat sat", "the mat"])
        with pytest.raises(FileNotFoundError, match="path of a corpus"):
            use("the cat sat")
        with pytest.raises(TypeError, match="a list of it, or a corpus on disk"):
            use(iter([["the", "cat"]]))
        with pytest.raises(TypeError, match=r"list of ndarray; pass .*TokenSource"):
            use([np.array(["the", "cat"])])
    with pytest.raises(ValueError, match="There are no documents"):
        lda(inference="map").fit(da.zeros((0, N_WORDS)))
    texts = dask_bag.from_sequence(["the cat sat"])
    with pytest.raises(TypeError, match="must be lists of words, got the text"):
        lda().fit(texts)
    for words in ([["the", "cat"]], texts.map(str.split)):
        with pytest.raises(ValueError, match=r"pass counts, or TokenSource\(X, voc"):
            fitted.transform(words)


def test_a_file_that_ends_early(fitted, tmp_path):
    write_docword(tmp_path / "docword", COUNTS)
    lines = (tmp_path / "docword").read_text().splitlines()
    (tmp_path / "docword").write_text("\n".join(lines[:-100]))
    for use in (lda(shards=1).fit, lda(shards=3).fit, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match=r"docword has .* may be cut off"):
            use(tmp_path / "docword")


def test_fit_transform_for_an_asynchronous_client(fitted, cluster):
    from distributed import Client

    async def fit():
        async with Client(cluster.scheduler_address, asynchronous=True):
            model = lda(transport="auto", shards=2)
            return await model.fit_transform(COUNTS, normalize=False)

    np.testing.assert_allclose(
        asyncio.run(fit()), fitted.transform(COUNTS, normalize=False), rtol=1e-6
    )


def test_transform_in_memory_and_lazily(fitted, tmp_path):
    theta = fitted.transform(COUNTS)
    np.testing.assert_allclose(theta.sum(axis=1), 1)
    np.testing.assert_allclose(theta[4], 1 / 3)
    assert fitted.transform(COUNTS.astype(np.float32)).dtype == np.float32
    gamma = fitted.transform(sp.csr_array(COUNTS), normalize=False)
    np.testing.assert_allclose(gamma.sum(axis=1), COUNTS.sum(axis=1) + 1)
    lazy = da.from_array(COUNTS, chunks=(50, N_WORDS))
    for X in (lazy, lazy.map_blocks(sp.csr_matrix, dtype=COUNTS.dtype)):
        found = fitted.transform(X)
        assert found.chunks == ((50, 50, 20), (3,))
        np.testing.assert_allclose(found.compute(), theta, rtol=1e-12)
        assert fitted.score(X) == pytest.approx(fitted.score(COUNTS), rel=1e-12)
    write_docword(tmp_path / "docword", COUNTS)
    np.testing.assert_allclose(fitted.transform(tmp_path / "docword"), theta)
    np.testing.assert_allclose(lda(shards=2).fit_transform(COUNTS), theta, rtol=1e-6)


def test_many_documents_are_described_in_tiles(fitted):
    many = sp.csr_array(np.tile(COUNTS, (80, 1)))
    np.testing.assert_allclose(
        fitted.transform(many), np.tile(fitted.transform(COUNTS), (80, 1))
    )


def test_perplexity_by_completion(fitted):
    held_out = corpus(seed=1)
    found = fitted.perplexity(held_out)
    assert 10 < found < 22  # 30 words, of which a pure topic has 10
    assert found == fitted.perplexity(sp.csr_matrix(held_out))
    assert found != fitted.perplexity(held_out, seed=1)
    lazy = da.from_array(held_out, chunks=(60, N_WORDS))
    assert fitted.perplexity(lazy) == pytest.approx(found, rel=0.05)
    one = lda(n_components=1).fit(COUNTS)
    assert found < one.perplexity(held_out)
    assert np.isnan(fitted.perplexity(np.zeros((2, N_WORDS), int)))
    with pytest.raises(ValueError, match="whole numbers"):
        fitted.perplexity(held_out * 0.5)
    for seed in (None, -1, 0.5):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
            fitted.perplexity(held_out, seed=seed)


def test_words_have_names(fitted):
    pd = pytest.importorskip("pandas")
    words = [f"w{i}" for i in range(N_WORDS)]
    named = lda().fit(pd.DataFrame(COUNTS, columns=words))
    assert named.top_words(2) == fitted.top_words(2, words)
    assert list(named.get_feature_names_out()) == [
        f"latentdirichletallocation{k}" for k in range(3)
    ]
    columns = dict(zip(reversed(words), reversed(range(N_WORDS)), strict=True))
    assert fitted.top_words(2, columns) == fitted.top_words(2, words)
    series = pd.Series(words, index=range(5, 5 + N_WORDS))
    assert fitted.top_words(2, series) == fitted.top_words(2, words)
    with pytest.raises(TypeError, match="a set of words has no order; pass a list"):
        fitted.top_words(2, set(words))
    with pytest.raises(ValueError, match="vocabulary has 2 words"):
        fitted.top_words(2, ["a", "b"])
    with pytest.raises(ValueError, match=r"0 to 29; pass get_feature_names_out\(\)"):
        fitted.top_words(2, dict.fromkeys(words, 1))
    for n in (0, -1, 2.5, "many"):
        with pytest.raises(ValueError, match="n must be an integer of at least 1"):
            fitted.top_words(n)


def test_clone_and_pickle(fitted):
    with pytest.raises(NotFittedError):
        clone(fitted).components_  # noqa: B018
    assert not hasattr(clone(fitted), "components_")
    data = pickle.dumps(fitted)
    assert len(data) < 20_000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.components_, fitted.components_)
    np.testing.assert_array_equal(again.transform(COUNTS), fitted.transform(COUNTS))


def test_a_failed_refit_changes_nothing():
    found = lda().fit(COUNTS)
    before = {**vars(found)}
    lazy = da.from_array(-COUNTS[:, :5], chunks=(50, 5))
    for bad in (lazy, -COUNTS, COUNTS[0], np.zeros((3, 4))):
        with pytest.raises(ValueError):
            found.fit(bad)
    assert vars(found).keys() == before.keys()
    assert all(vars(found)[name] is value for name, value in before.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_components": 0}, "n_components must be an integer of at least 1, got 0"),
        ({"max_iter": 1.5}, "max_iter must be an integer"),
        ({"max_doc_update_iter": 0}, "max_doc_update_iter must be an integer"),
        ({"tol": None}, "tol must be a number of at least 0, got None"),
        ({"tol": -1}, "tol must be a number of at least 0"),
        ({"mean_change_tol": np.nan}, "mean_change_tol must be a number"),
        ({"doc_topic_prior": 0}, "doc_topic_prior must be a number above 0"),
        ({"doc_topic_prior": "a"}, "number above 0, or one .*, got 'a'"),
        ({"doc_topic_prior": [1, 2]}, "one for each of the 3 components"),
        ({"topic_word_prior": -1}, "topic_word_prior must be a number above 0"),
        ({"inference": "gibbs"}, "inference must be 'map', 'variational' or 'stoch"),
        ({"schedule": "extra_updates"}, "schedule='extra_updates' is for inference='m"),
        ({"wire": "float32"}, "wire='float32' is for inference='map'; leave it out"),
        ({"learn_priors": True}, "learn_priors=True is for inference='map'"),
        ({"shards": 0}, "shards"),
        ({"topology": "ring"}, "topology"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        lda(**settings).fit(COUNTS)


def test_new_documents_must_match(fitted):
    for X in (COUNTS[:, :9], da.from_array(COUNTS[:, :9], chunks=(50, 9))):
        with pytest.raises(ValueError, match="X has 9 features, but Latent"):
            fitted.transform(X)
    with pytest.raises(ValueError, match=r"passed to LatentDirichletAllocation.trans"):
        fitted.transform(-COUNTS)
    lazy = fitted.transform(da.from_array(-COUNTS, chunks=(50, N_WORDS)))
    with pytest.raises(ValueError, match="Negative values"):
        lazy.compute()


def test_priors_of_their_own():
    alpha = [0.1, 0.5, 2.0]
    found = lda(doc_topic_prior=alpha, topic_word_prior=0.05).fit(COUNTS)
    np.testing.assert_array_equal(found.doc_topic_prior_, alpha)
    gamma = found.transform(COUNTS, normalize=False)
    np.testing.assert_allclose(gamma[4], alpha)


def test_a_fit_cut_short_warns():
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        found = lda(max_iter=2).fit(COUNTS)
    assert found.n_iter_ == 2
    assert not found.converged_


def test_components_of_an_untouched_graph(fitted):
    """The topics are in the graph once, however many chunks there are."""
    few, many = (
        fitted.transform(da.from_array(COUNTS, chunks=(n, N_WORDS))) for n in (120, 4)
    )
    (found,) = dask.compute(many)
    np.testing.assert_allclose(found, few.compute(), rtol=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        LatentDirichletAllocation(3, max_iter=5, transport="local", inference=inference)
        for inference in ("map", "variational")
    ]
)
def test_scikit_learn(estimator, check):
    check(estimator)
