"""GaussianMixture, with scikit-learn's as the oracle."""

import warnings

import dask.array as da
import numpy as np
import pytest
from mixture_data import FITTED, STARTS, TYPES, D, K, X, start
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Sklearns
from sklearn.utils import get_tags

from dask_em import GaussianMixture
from dask_em.result import EMResult
from dask_em.transports import Simulated


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


def test_warm_start_begins_where_the_fit_before_ended():
    ours = GaussianMixture(K, warm_start=True, n_init=3, random_state=0).fit(X)
    before = ours.lower_bound_
    # n_init does not matter, nor do starts that were given for the first fit
    ours.set_params(means_init=X[:K] + 100).fit(X)
    assert ours.lower_bounds_[0] == pytest.approx(before, rel=1e-12)
    with pytest.raises(ValueError, match=r"precisions have the shapes .*warm_start="):
        ours.set_params(covariance_type="diag").fit(X)


@pytest.mark.parametrize("kind", TYPES)
def test_warm_start_far_from_the_origin(kind):
    rows = X + 1e6
    settings = start(kind) | {"means_init": rows[:K], "warm_start": True}
    ours = GaussianMixture(K, **settings).fit(rows)
    before = ours.lower_bound_
    assert ours.fit(rows).lower_bounds_[0] == pytest.approx(before, rel=1e-9)


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
    # on a virtual clock: two passes of a second each, and no time for a third
    clock = Simulated(n_workers=1, cost=1.0)
    settings = {"tol": 0, "deadline": 2.5, "transport": clock, "shards": 1}
    ours = GaussianMixture(K, **settings, **start("full"))
    with pytest.warns(ConvergenceWarning, match="longer deadline"):
        ours.fit(X)
    assert not ours.converged_
    assert ours.n_iter_ == 2
    assert np.isfinite(ours.lower_bound_)
