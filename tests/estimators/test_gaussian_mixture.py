"""GaussianMixture, with scikit-learn's as the oracle."""

import asyncio
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Sklearns
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from dask_em import GaussianMixture
from dask_em.result import EMResult
from dask_em.transports import Simulated

da = pytest.importorskip("dask.array")

TYPES = ("full", "tied", "diag", "spherical")
STARTS = ("kmeans", "k-means++", "random", "random_from_data")
FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
K, D = 3, 4


def make_data(n=300, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.normal(size=(K, D))
    scales = rng.uniform(0.5, 1.5, size=(K, D, D)) * np.eye(D)
    members = rng.integers(K, size=n)
    noise = rng.normal(size=(n, 1, D))
    return centres[members] + (noise @ scales[members])[:, 0]


X = make_data()
CHUNKS = ((100, 0, 30, 170), (D,))


def start(kind):
    precisions = {
        "full": np.tile(np.eye(D), (K, 1, 1)),
        "tied": np.eye(D),
        "diag": np.ones((K, D)),
        "spherical": np.ones(K),
    }
    return {
        "covariance_type": kind,
        "weights_init": [0.2, 0.3, 0.5],
        "means_init": X[:K],
        "precisions_init": precisions[kind],
    }


@pytest.fixture(scope="module")
def fitted():
    return GaussianMixture(K, random_state=0).fit(X)


@pytest.fixture
def lazy():
    return da.from_array(X, chunks=CHUNKS)


def unknown(rows):
    """Forget the sizes of chunks."""
    return rows[rows[:, 0] > -np.inf]


# ------------------------------------------------------------ scikit-learn's answer


@pytest.mark.parametrize("kind", TYPES)
def test_same_as_scikit_learn(kind):
    settings = start(kind) | {"tol": 1e-6, "max_iter": 500}
    ours = GaussianMixture(K, **settings).fit(X)
    theirs = Sklearns(K, **settings).fit(X)
    for name in FITTED:
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-10
        )
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ is True
    np.testing.assert_allclose(ours.lower_bounds_[-1], theirs.lower_bound_, rtol=1e-10)
    if hasattr(theirs, "lower_bounds_"):  # scikit-learn 1.7
        np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-10)
    np.testing.assert_allclose(ours.lower_bound_, theirs.score(X), rtol=1e-10)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    for method in ("predict_proba", "score_samples"):
        a, b = (getattr(m, method)(X) for m in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    for method in ("score", "aic", "bic"):
        a, b = (getattr(m, method)(X) for m in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_parameters_are_those_of_scikit_learn():
    ours, theirs = GaussianMixture(), Sklearns()
    known = theirs.get_params()
    assert {name: ours.get_params()[name] for name in known} == known
    assert get_tags(ours).estimator_type == get_tags(theirs).estimator_type


@pytest.mark.parametrize("kind", TYPES)
def test_sample_and_way_back(kind):
    ours = GaussianMixture(K, covariance_type=kind, random_state=0).fit(X)
    theirs = ours.to_sklearn()
    for a, b in zip(ours.sample(50), theirs.sample(50), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    assert ours.sample(50)[0].shape == (50, D)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X))
    assert theirs.n_iter_ == ours.n_iter_
    assert theirs.n_features_in_ == D
    assert not hasattr(theirs, "result_")
    with pytest.raises(ValueError, match="at least one sample"):
        ours.sample(0)


def test_no_iterations_return_the_start():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = GaussianMixture(K, max_iter=0, **start("full")).fit(X)
    for name in ("weights", "means", "precisions"):
        np.testing.assert_allclose(
            getattr(ours, f"{name}_"), getattr(ours, f"{name}_init")
        )
    np.testing.assert_allclose(ours.lower_bound_, ours.to_sklearn().score(X))
    assert (ours.n_iter_, ours.converged_, ours.lower_bounds_) == (0, False, [])


def test_attributes_set_by_hand():
    ours = GaussianMixture(K, random_state=0).fit(X)
    del ours.result_
    ours.means_ = ours.means_ + 1
    theirs = ours.to_sklearn()
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X))


@pytest.mark.parametrize("n", [1, 40_000])
def test_any_number_of_rows(fitted, n):
    rows = X[np.arange(n) % len(X)]
    lazy = da.from_array(rows, chunks=(n, D))
    assert fitted.predict_proba(lazy).compute(scheduler="sync").shape == (n, K)
    expected = fitted.score_samples(X)[np.arange(n) % len(X)]
    np.testing.assert_allclose(fitted.score_samples(rows), expected)


def test_a_component_without_weight():
    ours = GaussianMixture(K, random_state=0).fit(X)
    ours.weights_ = np.array([0.0, 0.5, 0.5])
    assert (ours.predict_proba(X)[:, 0] == 0).all()
    assert np.isfinite(ours.score(X))


# --------------------------------------------------------------- the fit's settings


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize("kind", ["full", "tied"])
def test_a_weight_is_a_repeated_row(kind, how):
    weights = np.random.default_rng(1).integers(0, 4, size=len(X))
    settings = {"covariance_type": kind, "init_params": how, "random_state": 0}
    weighted = GaussianMixture(K, **settings).fit(X, sample_weight=weights)
    repeated = GaussianMixture(K, **settings).fit(X.repeat(weights, axis=0))
    for name in FITTED:
        a, b = getattr(weighted, name), getattr(repeated, name)
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(
        weighted.score(X, sample_weight=weights), repeated.score(X.repeat(weights, 0))
    )
    np.testing.assert_allclose(weighted.result_.weight, weights.sum())


def test_the_best_of_several_starts():
    settings = {"init_params": "random_from_data", "random_state": 3, "tol": 1e-4}
    one = GaussianMixture(K + 2, **settings).fit(X)
    best = GaussianMixture(K + 2, n_init=4, **settings).fit(X)
    assert best.lower_bound_ >= one.lower_bound_ - 1e-12


def test_reproducible():
    a, b = (GaussianMixture(K, random_state=7).fit(X) for _ in range(2))
    np.testing.assert_array_equal(a.means_, b.means_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", TYPES)
def test_warm_start_goes_on(kind, dtype):
    rows = X.astype(dtype)
    at_once = GaussianMixture(K, tol=0, max_iter=12, **start(kind))
    in_steps = GaussianMixture(K, tol=0, max_iter=3, warm_start=True, **start(kind))
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        at_once.fit(rows)
    for _ in range(4):
        with pytest.warns(ConvergenceWarning, match="did not converge"):
            in_steps.fit(rows)
    tolerance = 1e-9 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(in_steps.means_, at_once.means_, rtol=tolerance)
    np.testing.assert_allclose(
        in_steps.covariances_, at_once.covariances_, rtol=tolerance, atol=tolerance
    )
    with pytest.raises(ValueError, match="warm_start=False"):
        in_steps.set_params(n_components=2).fit(rows)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", TYPES)
def test_float32_stays_float32(kind):
    rows = X.astype(np.float32)
    settings = start(kind) | {"max_iter": 5, "tol": 0}
    single = GaussianMixture(K, **settings).fit(rows)
    double = GaussianMixture(K, **settings).fit(X)
    for name in FITTED:
        value = getattr(single, name)
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, getattr(double, name), rtol=1e-3, atol=1e-4)
    assert single.predict_proba(rows).dtype == np.float32
    assert single.score_samples(rows).dtype == np.float32
    assert single.score_samples(da.from_array(rows)).dtype == np.float32


def test_float32_far_from_the_origin():
    near = GaussianMixture(K, **start("full")).fit(X)
    rows = (X + 1000).astype(np.float32)
    settings = start("full") | {"means_init": X[:K] + 1000}
    far = GaussianMixture(K, **settings).fit(rows)
    np.testing.assert_allclose(far.means_ - 1000, near.means_, atol=2e-2)
    np.testing.assert_allclose(
        far.score_samples(rows), near.score_samples(X), rtol=1e-2, atol=1e-2
    )


def test_settings_reach_the_engine():
    ours = GaussianMixture(K, schedule="fraction_barrier", shards=4, random_state=0)
    result = ours.fit(X).result_
    assert isinstance(result, EMResult)
    assert result.settings["shards"] == 4
    assert result.settings["schedule"].startswith("FractionBarrier")
    assert ours.lower_bound_ == pytest.approx(result.log_likelihood / len(X))


def test_deadline_warns():
    clock = Simulated(n_workers=1, cost=1.0)
    ours = GaussianMixture(K, tol=0, deadline=2.5, transport=clock)
    with pytest.warns(ConvergenceWarning, match="longer deadline"):
        ours.fit(X)
    assert not ours.converged_
    assert 0 < ours.n_iter_ <= 3
    assert np.isfinite(ours.lower_bound_)


# -------------------------------------------------------------------- kinds of input


def test_lists(fitted):
    ours = GaussianMixture(K, random_state=0).fit(X.tolist())
    np.testing.assert_allclose(ours.means_, fitted.means_)


def test_data_frame(fitted):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    ours = GaussianMixture(K, random_state=0).fit(frame)
    np.testing.assert_allclose(ours.means_, fitted.means_)
    assert ours.feature_names_in_.tolist() == list("abcd")
    assert isinstance(ours.predict(frame), np.ndarray)
    with pytest.raises(ValueError, match="same order"):
        ours.predict(frame[list("badc")])
    with pytest.warns(UserWarning, match="valid feature names"):
        ours.predict(X)
    ours.fit(X)
    assert not hasattr(ours, "feature_names_in_")


@pytest.mark.parametrize("persist", [False, True])
def test_dask_array(lazy, fitted, persist):
    rows = lazy.persist(scheduler="sync") if persist else lazy
    ours = GaussianMixture(K, random_state=0).fit(rows)
    np.testing.assert_allclose(ours.means_, fitted.means_, rtol=1e-8)
    weights = np.arange(len(X))
    a = ours.fit(lazy, sample_weight=da.from_array(weights, chunks=70)).means_
    b = ours.fit(X, sample_weight=weights).means_
    np.testing.assert_allclose(a, b, rtol=1e-8)


def test_lazy_input_gives_lazy_output(lazy, fitted):
    for method in ("predict", "predict_proba", "score_samples"):
        ours = getattr(fitted, method)(lazy)
        expected = getattr(fitted, method)(X)
        assert isinstance(ours, da.Array)
        assert ours.chunks[0] == lazy.chunks[0]
        assert ours.shape == expected.shape
        assert ours.dtype == expected.dtype
        np.testing.assert_allclose(ours.compute(scheduler="sync"), expected)
    for method in ("score", "aic", "bic"):
        assert getattr(fitted, method)(lazy) == pytest.approx(
            getattr(fitted, method)(X)
        )
    assert fitted.score(lazy, sample_weight=np.arange(len(X))) == pytest.approx(
        fitted.score(X, sample_weight=np.arange(len(X)))
    )
    assert isinstance(GaussianMixture(K).fit_predict(lazy), da.Array)


def test_nothing_is_computed_before_its_time(fitted):
    def forbidden(block):
        raise AssertionError("computed")

    rows = da.ones((10, D), chunks=5).map_blocks(
        forbidden, dtype=float, meta=np.empty((0, 0))
    )
    assert fitted.predict_proba(rows).shape == (10, K)
    with pytest.raises(ValueError, match="n_components must be"):
        GaussianMixture(0).fit(rows)


def test_unknown_chunk_sizes(lazy, fitted):
    rows = unknown(lazy)
    for method in ("predict", "predict_proba", "score_samples"):
        ours = getattr(fitted, method)(rows)
        np.testing.assert_allclose(
            ours.compute(scheduler="sync"), getattr(fitted, method)(X)
        )
    for method in ("score", "aic", "bic"):
        assert getattr(fitted, method)(rows) == pytest.approx(
            getattr(fitted, method)(X)
        )
    assert fitted.predict_proba(rows).shape[1] == K


def test_dask_data_frame(fitted):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame(X, columns=list("abcd"))
    lazy = dd.from_pandas(frame, npartitions=3)
    ours = GaussianMixture(K, random_state=0).fit(lazy)
    np.testing.assert_allclose(ours.means_, fitted.means_)
    assert ours.feature_names_in_.tolist() == list("abcd")
    labels = ours.predict(lazy)
    assert isinstance(labels, da.Array)
    np.testing.assert_array_equal(labels.compute(), fitted.predict(X))
    weighted = ours.fit(lazy, sample_weight=lazy.a * 0 + 2)
    np.testing.assert_allclose(weighted.means_, fitted.means_)
    assert weighted.result_.weight == 2 * len(X)
    with pytest.raises(ValueError, match="same order"):
        ours.predict(lazy[list("badc")])
    with pytest.raises(TypeError, match=r"\['e'\] are not; encode or drop"):
        ours.fit(lazy.assign(e="x"))


@pytest.mark.parametrize("chunked", [False, True])
def test_labelled(fitted, chunked):
    xr = pytest.importorskip("xarray")
    field = xr.DataArray(
        X.reshape(30, 10, D),
        dims=("time", "x", "level"),
        coords={"time": np.arange(30), "level": list("abcd")},
    )
    if chunked:
        field = field.chunk({"time": 7, "x": 4})
    ours = GaussianMixture(K, **start("full")).fit(field, dim=("time", "x"))
    expected = GaussianMixture(K, **start("full")).fit(X)
    np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-8)
    assert ours.feature_names_in_.tolist() == list("abcd")

    turned = field.transpose("level", "x", "time")
    labels = ours.predict(turned)
    assert labels.dims == ("x", "time")
    assert (labels.chunks is not None) == chunked
    np.testing.assert_array_equal(
        labels.transpose("time", "x").values.ravel(), expected.predict(X)
    )
    np.testing.assert_array_equal(labels.time, field.time)
    proba = ours.predict_proba(field)
    assert proba.dims == ("time", "x", "component")
    np.testing.assert_allclose(proba.values.reshape(-1, K), expected.predict_proba(X))
    assert ours.score(turned) == pytest.approx(expected.score(X))

    weights = xr.DataArray(np.arange(30.0), dims="time", coords={"time": field.time})
    a = ours.fit(field, dim=("time", "x"), sample_weight=weights).means_
    b = expected.fit(X, sample_weight=np.repeat(np.arange(30.0), 10)).means_
    np.testing.assert_allclose(a, b, rtol=1e-8)
    assert ours.fit_predict(field, dim=("time", "x")).dims == ("time", "x")
    assert pickle.loads(pickle.dumps(ours)).predict(turned).dims == ("x", "time")
    with pytest.raises(ValueError, match="lacks the feature dimensions"):
        ours.predict(field.isel(level=0, drop=True))


# ------------------------------------------------------------------ good citizenship


def test_clone_pickle_pipeline_search(fitted):
    copy = clone(fitted)
    with pytest.raises(NotFittedError):
        copy.predict(X)
    data = pickle.dumps(fitted)
    assert len(data) < 20_000
    np.testing.assert_array_equal(pickle.loads(data).predict(X), fitted.predict(X))
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(K, random_state=0))
    assert pipeline.fit(X).predict(X).shape == (len(X),)
    search = GridSearchCV(
        GaussianMixture(random_state=0), {"n_components": [1, K]}, cv=2
    ).fit(X)
    assert search.best_params_ == {"n_components": K}


def test_a_failed_refit_changes_nothing():
    pd = pytest.importorskip("pandas")
    ours = GaussianMixture(K, random_state=0)
    ours.fit(pd.DataFrame(X, columns=list("abcd")))
    before = {**vars(ours)}
    lazy = da.from_array(np.where(X[:, :2] > 2, np.nan, X[:, :2]), chunks=(50, 2))
    for bad in (lazy, X[:2, :2], np.full((5, 2), np.nan), X[:, 0]):
        with pytest.raises(ValueError):
            ours.fit(bad)
    with pytest.raises(ValueError, match="warm"):
        ours.set_params(warm_start=True).fit(X[:, :2])
    ours.set_params(warm_start=False)
    assert vars(ours).keys() == before.keys()
    assert all(vars(ours)[name] is value for name, value in before.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_components": 0}, "n_components must be an integer of at least 1, got 0"),
        ({"n_components": 2.0}, "n_components must be an integer"),
        ({"covariance_type": "round"}, "covariance_type must be one of 'full', 'tied'"),
        ({"tol": -1}, "tol must be a number of at least 0"),
        ({"reg_covar": np.nan}, "reg_covar must be a number of at least 0"),
        ({"max_iter": -1}, "max_iter must be an integer of at least 0"),
        ({"n_init": 0}, "n_init must be an integer of at least 1"),
        ({"init_params": "guess"}, "init_params must be one of 'kmeans'"),
        ({"warm_start": "yes"}, "warm_start must be True or False"),
        ({"verbose": -1}, "verbose must be"),
        ({"verbose_interval": 0}, "verbose_interval must be"),
        ({"schedule": "whenever"}, "schedule must be one of"),
        ({"transport": "pigeon"}, "transport must be"),
        ({"shards": 0}, "shards"),
        ({"deadline": 0}, "deadline"),
        ({"weights_init": [1.0]}, r"'weights' should have the shape of \(3,\)"),
        ({"weights_init": [-0.1, 0.6, 0.5]}, r"should be in the range \[0, 1\]"),
        ({"weights_init": [0.1, 0.6, 0.5]}, "'weights' should be normalized"),
        ({"means_init": X[:2]}, "'means' should have the shape of"),
        ({"means_init": np.full((K, D), np.nan)}, "contains NaN"),
        ({"precisions_init": np.eye(D)}, "'full precision' should have the shape of"),
        (
            {"precisions_init": np.tile(-np.eye(D), (K, 1, 1))},
            "'full precision' should be symmetric, positive-definite",
        ),
        (
            {"covariance_type": "diag", "precisions_init": np.zeros((K, D))},
            "'diag precision' should be positive",
        ),
        ({"n_components": len(X) + 1}, "n_samples >= n_components"),
        ({"covariance_type": "diag", "reg_covar": 0, "n_components": len(X)}, "reg_co"),
    ],
)
def test_bad_settings_get_one_clear_error(settings, words):
    with pytest.raises(ValueError, match=words):
        GaussianMixture(**{"n_components": K, **settings}).fit(X)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda X: X[:, 0], ValueError, r"X\.reshape\(-1, 1\)"),
        (lambda X: X.rechunk((50, 2)), ValueError, r"X\.rechunk\(\{1: -1\}\)"),
        (unknown, ValueError, r"compute_chunk_sizes\(\)"),
        (lambda X: X.astype(str), TypeError, "must be numeric"),
        (lambda X: X[:1], ValueError, "minimum of 2 is required"),
        (lambda X: X[:, :0], ValueError, r"0 feature\(s\)"),
        (lambda X: da.where(X > 2, np.inf, X), ValueError, "drop or impute"),
    ],
)
def test_bad_lazy_rows_get_one_clear_error(lazy, change, error, words):
    with pytest.raises(error, match=words):
        GaussianMixture(K).fit(change(lazy))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(3), "as many rows"),
        (np.ones((len(X), 2)), "one number per row"),
        (-np.ones(len(X)), "must not be negative"),
        (np.zeros(len(X)), "zero everywhere"),
        (np.full(len(X), np.nan), "NaN"),
    ],
)
def test_bad_weights_get_one_clear_error(weights, words):
    with pytest.raises(ValueError, match=words):
        GaussianMixture(K).fit(X, sample_weight=weights)


def test_bad_rows_to_predict(fitted, lazy):
    with pytest.raises(ValueError, match="expecting 4 features"):
        fitted.predict(X[:, :2])
    with pytest.raises(ValueError, match="expecting 4 features"):
        fitted.predict(lazy[:, :2])
    with pytest.raises(ValueError, match="contains NaN"):
        fitted.predict(lazy * np.nan).compute(scheduler="sync")
    with pytest.raises(ValueError, match="dim="):
        GaussianMixture(K).fit(X, dim="x")


def test_html():
    html = GaussianMixture()._repr_html_()
    assert "dask_em.GaussianMixture.html" in html


# ----------------------------------------------------------------------- callbacks


class Witness:
    """A callback that writes down what it is told."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.log = []

    def setup(self, estimator, context):
        self.log.append("setup")

    def teardown(self, estimator, context):
        self.log.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        self.log.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.log.append(("end", context.task_name, fitted_estimator.score(X)))
        return context.task_name == "pass" and context.task_id + 1 == self.stop_after


def test_callbacks_see_every_pass():
    pytest.importorskip("sklearn.callback")
    witness = Witness()
    ours = GaussianMixture(K, random_state=0, tol=1e-6).set_callbacks(witness)
    ours.fit(X)
    first, begun, *passes, ended, last = witness.log
    assert (first, begun, last) == ("setup", ("begin", "fit"), "teardown")
    scores = [entry[2] for entry in passes if entry[0] == "end"]
    assert len(scores) == ours.n_iter_
    assert (np.diff(scores) >= -1e-12).all()
    assert ended == ("end", "fit", ours.score(X))
    np.testing.assert_array_equal(clone(ours).fit(X).means_, ours.means_)


def test_callbacks_count_passes_under_every_schedule():
    pytest.importorskip("sklearn.callback")
    witness = Witness()
    ours = GaussianMixture(
        K, n_init=2, schedule="bounded_staleness", shards=5, random_state=0
    )
    ours.set_callbacks(witness).fit(X)
    n_passes = sum(entry[:2] == ("end", "pass") for entry in witness.log)
    assert 0 < n_passes <= 2 * ours.max_iter


def test_a_callback_stops_the_fit():
    pytest.importorskip("sklearn.callback")
    ours = GaussianMixture(K, random_state=0, tol=0).set_callbacks(Witness(2)).fit(X)
    assert ours.result_.status == "callback"
    assert 0 < ours.n_iter_ <= 3
    assert not ours.converged_


def test_a_callback_that_fails():
    pytest.importorskip("sklearn.callback")

    class Failing(Witness):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("no")

    witness = Failing()
    ours = GaussianMixture(K).set_callbacks(witness)
    with pytest.raises(RuntimeError, match="no"):
        ours.fit(X)
    assert witness.log[-1] == "teardown"
    assert not hasattr(ours, "means_")


def test_progress_bar():
    pytest.importorskip("rich")
    callback = pytest.importorskip("sklearn.callback")
    ours = GaussianMixture(K, n_init=2, random_state=0)
    ours.set_callbacks(callback.ProgressBar()).fit(X)
    assert ours.converged_


# ------------------------------------------------------------------ a Dask client


@pytest.mark.cluster
def test_asynchronous_client(fitted, lazy):
    distributed = pytest.importorskip("distributed")
    witness = Witness()
    witness.on_fit_task_end = lambda estimator, context: None

    async def main():
        async with distributed.Client(
            processes=False, n_workers=2, dashboard_address=":0", asynchronous=True
        ) as client:
            ours = GaussianMixture(K, random_state=0)
            if hasattr(ours, "set_callbacks"):
                ours.set_callbacks(witness)
            assert await ours.fit(lazy) is ours
            labels = await GaussianMixture(K, random_state=0).fit_predict(lazy)
            return ours, await client.compute(labels), await ours.score(lazy)

    ours, labels, score = asyncio.run(main())
    np.testing.assert_allclose(ours.means_, fitted.means_, rtol=1e-3)
    np.testing.assert_array_equal(labels, fitted.predict(X))
    assert score == pytest.approx(fitted.score(X), rel=1e-4)
    if hasattr(ours, "set_callbacks"):
        assert witness.log[-1] == "teardown"
