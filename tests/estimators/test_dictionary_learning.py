"""DictionaryLearning, with scikit-learn's as the oracle."""

import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
from sklearn.decomposition import DictionaryLearning as Sklearns
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning

from dask_em import DictionaryLearning
from dask_em.testing import SCHEDULES, assert_monotone
from dask_em.transports import Futures, Local, Simulated

N, K, P = 300, 6, 10
RNG = np.random.default_rng(0)
ATOMS = RNG.normal(size=(K, P))
ATOMS /= np.linalg.norm(ATOMS, axis=1, keepdims=True)
CODES = RNG.laplace(scale=2.0, size=(N, K)) * (RNG.random((N, K)) < 0.35)
X = CODES @ ATOMS + 0.1 * RNG.normal(size=(N, P))
INIT = X[:K] / np.linalg.norm(X[:K], axis=1, keepdims=True)
NEAR = ATOMS + 0.2 * RNG.normal(size=ATOMS.shape)
SETTINGS = {"alpha": 0.3, "tol": 1e-7, "max_iter": 1000, "dict_init": INIT}


def objective(X, learner, weights=1.0):
    codes = sparse_encode(
        X, learner.components_, algorithm="lasso_lars", alpha=learner.alpha
    )
    rows = 0.5 * np.square(X - codes @ learner.components_).sum(axis=1)
    return float(np.sum(weights * (rows + learner.alpha * np.abs(codes).sum(axis=1))))


@pytest.fixture(scope="module")
def fitted():
    return DictionaryLearning(K, **SETTINGS).fit(X)


def test_as_good_as_scikit_learn(fitted):
    theirs = Sklearns(K, alpha=0.3, tol=1e-8, dict_init=INIT, fit_algorithm="cd")
    theirs.fit(X)
    best = objective(X, theirs)
    assert objective(X, fitted) <= best * 1.001
    assert fitted.error_[-1] == pytest.approx(objective(X, fitted), rel=1e-6)
    assert fitted.lower_bound_ == pytest.approx(-fitted.error_[-1] / N)
    assert (np.diff(fitted.error_) <= 1e-10 * fitted.error_[:-1]).all()
    assert np.linalg.norm(fitted.components_, axis=1).max() <= 1 + 1e-12
    # the atoms that rows were made of
    assert abs(fitted.components_ @ ATOMS.T).max(axis=0).min() > 0.95
    assert fitted.converged_


def test_parameters_are_those_of_scikit_learn():
    not_ours = {"fit_algorithm", "n_jobs", "code_init", "callback"}
    ours = DictionaryLearning().get_params()
    assert Sklearns().get_params().keys() - not_ours <= ours.keys()


@pytest.mark.parametrize("schedule", [*SCHEDULES, "incremental"], ids=repr)
def test_every_schedule_ends_at_the_same_objective(fitted, schedule):
    rough = Simulated(3, speeds=[1, 0.5, 0.1], jitter=0.5, latency=0.01, loss=0.05)
    # how long a fit rests on its way from afar hangs on the order of reports
    settings = SETTINGS | {"dict_init": NEAR, "tol": 1e-5, "schedule": schedule}
    for transport in (Local(2), rough):
        ours = DictionaryLearning(K, shards=7, transport=transport, **settings).fit(X)
        assert ours.error_[-1] == pytest.approx(fitted.error_[-1], rel=1e-3)
        assert_monotone(ours.result_)


@pytest.mark.cluster
def test_on_a_cluster(fitted, client):
    lazy = da.from_array(X, chunks=(50, P))
    settings = SETTINGS | {"dict_init": NEAR, "tol": 1e-5}
    ours = DictionaryLearning(K, **settings, transport=Futures(client)).fit(lazy)
    assert ours.error_[-1] == pytest.approx(fitted.error_[-1], rel=1e-3)
    assert_monotone(ours.result_)


ALGORITHMS = ["lasso_cd", "lasso_lars", "lars", "omp", "threshold"]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_transform_is_that_of_scikit_learn(fitted, algorithm, split):
    ours = DictionaryLearning(
        K,
        alpha=0.3,
        transform_algorithm=algorithm,
        transform_n_nonzero_coefs=3 if algorithm in ("lars", "omp") else None,
        split_sign=split,
    )
    ours.components_, ours.n_features_in_ = fitted.components_, P
    theirs = sparse_encode(
        X,
        fitted.components_,
        algorithm="lasso_lars" if algorithm == "lasso_cd" else algorithm,
        n_nonzero_coefs=ours.transform_n_nonzero_coefs,
        alpha=0.3,
    )
    codes = ours.transform(X)
    lazy = ours.transform(da.from_array(X, chunks=((100, 0, 200), P)))
    assert lazy.chunks[0] == (100, 0, 200)
    np.testing.assert_allclose(lazy.compute(scheduler="sync"), codes, atol=1e-10)
    assert codes.shape == (N, len(ours.get_feature_names_out()))
    np.testing.assert_allclose(ours.inverse_transform(codes), theirs @ ours.components_)
    if split:
        assert codes.min() >= 0
        codes = codes[:, :K] - codes[:, K:]
    np.testing.assert_allclose(codes, theirs, atol=1e-6)


def test_labels(fitted):
    xr = pytest.importorskip("xarray")
    field = xr.DataArray(X.reshape(30, 10, P), dims=("time", "x", "level"))
    ours = DictionaryLearning(K, **SETTINGS).fit(field, dim=("time", "x"))
    np.testing.assert_allclose(ours.components_, fitted.components_, atol=1e-8)
    codes = ours.transform(field.chunk({"time": 7}))
    assert codes.dims == ("time", "x", "component")
    assert codes.chunks is not None
    expected = ours.transform(X)
    np.testing.assert_allclose(codes.values, expected.reshape(30, 10, K), atol=1e-8)
    rows = ours.inverse_transform(codes)
    assert rows.dims == field.dims
    expected = expected @ ours.components_
    np.testing.assert_allclose(rows.values, expected.reshape(field.shape), atol=1e-8)


def test_positive():
    rows = np.abs(X)
    settings = {"alpha": 0.3, "positive_code": True, "positive_dict": True}
    ours = DictionaryLearning(K, dict_init=rows[:K], tol=1e-6, **settings).fit(rows)
    theirs = Sklearns(
        K, dict_init=INIT_OF(rows), fit_algorithm="cd", max_iter=200, **settings
    ).fit(rows)
    assert ours.components_.min() >= 0
    assert ours.transform(rows).min() >= 0
    assert ours.error_[-1] <= theirs.error_[-1] * 1.01


def INIT_OF(rows):
    return rows[:K] / np.linalg.norm(rows[:K], axis=1, keepdims=True)


def test_a_weight_is_a_repeated_row():
    weights = np.random.default_rng(1).integers(0, 4, size=N)
    settings = {"alpha": 0.3, "random_state": 0, "schedule": "synchronous"}
    weighted = DictionaryLearning(K, **settings).fit(X, sample_weight=weights)
    repeated = DictionaryLearning(K, **settings).fit(X.repeat(weights, axis=0))
    np.testing.assert_allclose(
        weighted.components_, repeated.components_, rtol=1e-6, atol=1e-8
    )
    assert weighted.error_[-1] == pytest.approx(objective(X, weighted, weights))


def test_single_precision(fitted):
    rows = X.astype(np.float32)
    ours = DictionaryLearning(K, **SETTINGS | {"tol": 1e-5}).fit(rows)
    assert ours.components_.dtype == np.float32
    assert ours.transform(rows).dtype == np.float32
    assert ours.error_[-1] == pytest.approx(fitted.error_[-1], rel=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n", [1, 3])
def test_few_rows(n):
    rows = X[:n].copy()
    rows[:, 2] = 0  # a column of zeros
    ours = DictionaryLearning(K, alpha=0.1, random_state=0).fit(rows)
    assert ours.components_.shape == (K, P)
    # each row is its own atom, at the price of its norm
    norms = np.linalg.norm(rows, axis=1)
    assert ours.error_[-1] == pytest.approx(np.sum(0.1 * norms - 0.005), rel=0.01)
    learner = DictionaryLearning(2 * P, alpha=0.1, random_state=0).fit(rows * 0)
    assert learner.error_[-1] == 0
    assert (learner.transform(rows * 0) == 0).all()


def test_defaults_and_unused_atoms():
    ours = DictionaryLearning(alpha=0.3, tol=1e-2, random_state=0).fit(X)
    assert ours.components_.shape == (P, P)
    # atoms of zeros are put to use
    start = np.concatenate([INIT[:2], np.zeros((K - 2, P))])
    reseeded = DictionaryLearning(K, **SETTINGS | {"dict_init": start}).fit(X)
    assert (np.abs(reseeded.transform(X)).sum(axis=0) > 0).all()


def mairal(batches, atoms, alpha):
    """Return the atoms of online learning, in plain NumPy."""
    A, B, W = np.zeros((K, K)), np.zeros((K, P)), 0
    for rows in batches:
        C = sparse_encode(rows, atoms, algorithm="lasso_lars", alpha=alpha)
        share = W / (W + len(rows))
        A, B, W = share * A + C.T @ C, share * B + C.T @ rows, W + len(rows)
        before = None
        for _ in range(2000):
            before = atoms.copy()
            for j in range(K):
                u = atoms[j] + (B[j] - A[j] @ atoms) / A[j, j]
                atoms[j] = u / max(np.linalg.norm(u), 1)
            if np.abs(atoms - before).max() < 1e-9:
                break
    return atoms


def test_partial_fit_is_online_learning():
    rows = np.tile(X, (4, 1))
    batches = [rows[i : i + 100] for i in range(0, len(rows), 100)]
    ours = DictionaryLearning(K, alpha=0.3, dict_init=INIT)
    for i, batch in enumerate(batches):
        lazy = da.from_array(batch, chunks=(40, P)) if i % 2 else batch
        assert ours.partial_fit(lazy) is ours
    assert ours.n_steps_ == len(batches)
    reference = mairal(batches, INIT.copy(), 0.3)
    ours.alpha = 0.3
    found = objective(X, ours)
    ours.components_ = reference
    assert found == pytest.approx(objective(X, ours), rel=5e-3)


def test_partial_fit_goes_on_from_a_fit(fitted):
    ours = pickle.loads(pickle.dumps(fitted))
    ours.partial_fit(X[:20])
    assert objective(X, ours) <= objective(X, fitted) * 1.01
    with pytest.raises(ValueError, match="call fit to begin anew"):
        ours.set_params(n_components=2, dict_init=None).partial_fit(X)
    with pytest.raises(ValueError, match="zero everywhere"):
        DictionaryLearning(K).partial_fit(X, sample_weight=np.zeros(N))
    with pytest.raises(ValueError, match="NaN"):
        DictionaryLearning(K).partial_fit(da.from_array(np.full((4, P), np.nan)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_components": 0}, "n_components must be an integer of at least 1 or None"),
        ({"alpha": -1}, "alpha must be a number of at least 0"),
        ({"transform_alpha": "much"}, "transform_alpha must be a number"),
        ({"transform_algorithm": "ista"}, "transform_algorithm must be one of"),
        ({"transform_max_iter": 0}, "transform_max_iter must be an integer"),
        ({"transform_n_nonzero_coefs": 0}, "transform_n_nonzero_coefs must be"),
        ({"positive_dict": "yes"}, "positive_dict must be True or False"),
        ({"positive_code": True, "transform_algorithm": "omp"}, "no positive codes"),
        ({"dict_init": INIT[:2]}, r"dict_init must have the shape \(6, 10\)"),
        ({"max_iter": 0}, "max_iter"),
        ({"schedule": "whenever"}, "schedule must be one of"),
    ],
)
def test_bad_settings_get_one_clear_error(settings, words):
    with pytest.raises(ValueError, match=words):
        DictionaryLearning(**{"n_components": K, **settings}).fit(X)


def test_a_failed_refit_changes_nothing(fitted):
    ours = pickle.loads(pickle.dumps(fitted))
    before = {**vars(ours)}
    for bad in (np.full((5, P), np.nan), X[:, :3], X[:, 0]):
        with pytest.raises(ValueError):
            ours.fit(bad)
    assert all(vars(ours)[name] is value for name, value in before.items())
    with pytest.raises(ValueError, match="columns that"):
        ours.inverse_transform(X)


def test_the_best_start_is_kept():
    settings = {"alpha": 0.3, "random_state": 5}  # of which the first ends badly
    one = DictionaryLearning(K, **settings).fit(X)
    best = DictionaryLearning(K, n_init=4, **settings).fit(X)
    assert best.error_[-1] < 0.96 * one.error_[-1]
    assert best.error_[-1] == pytest.approx(objective(X, best), rel=1e-6)


def test_a_fit_goes_on_from_a_checkpoint(tmp_path):
    with pytest.warns(ConvergenceWarning):
        begun = DictionaryLearning(K, **SETTINGS | {"max_iter": 5})
        begun.set_params(checkpoint=tmp_path).fit(X)
    ours = DictionaryLearning(K, **SETTINGS, resume=tmp_path).fit(X)
    assert ours.error_[0] == pytest.approx(begun.error_[-1], rel=1e-6)
    assert ours.error_[-1] == pytest.approx(objective(X, ours), rel=1e-6)
    ours.partial_fit(X[:20])
    with pytest.raises(ValueError, match="of another fit"):
        DictionaryLearning(K, **SETTINGS, resume=tmp_path).fit(X[1:])


def test_a_fit_cut_short_says_so():
    with pytest.warns(ConvergenceWarning, match="scale the rows"):
        DictionaryLearning(K, alpha=0.3, max_iter=2, tol=0).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DictionaryLearning(K, alpha=0.3, tol=1.0, random_state=0).fit_transform(X)
