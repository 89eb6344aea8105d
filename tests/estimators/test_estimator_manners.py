"""An estimator is cloned, searched over and, where input is wrong, clear."""

import pickle

import dask.array as da
import numpy as np
import pytest
from mixture_data import D, K, X, unknown
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dask_em import GaussianMixture


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
    assert "GaussianMixture" in html
    assert "sklearn.mixture.GaussianMixture.html" not in html  # the page of another
