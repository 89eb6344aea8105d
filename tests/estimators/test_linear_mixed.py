"""A linear mixed model is the one whose dense formulas fill textbooks."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dask_em import LinearMixedModel

METHODS = ["ml", "reml"]

# --------------------------------------------------------------------- dense formulas


def covariance_of_y(factors, sigma2, n, weights=None):
    """V of rows whose effects are given as (labels, Z, covariance) by factor."""
    V = sigma2 * np.diag(np.ones(n) if weights is None else 1 / weights)
    for labels, Z, cov in factors:
        V += (Z @ cov @ Z.T) * (labels[:, None] == labels[None])
    return V


def normal(mean, V):
    root = stats.Covariance.from_cholesky(np.linalg.cholesky(V))
    return stats.multivariate_normal(mean, root)


def log_likelihood(X, y, V, method):
    """Log-density of y at the best fixed effects; restricted, if that is asked for."""
    A = X.T @ np.linalg.solve(V, X)
    beta = np.linalg.solve(A, X.T @ np.linalg.solve(V, y))
    value = normal(X @ beta, V).logpdf(y)
    if method == "reml":
        value += len(beta) / 2 * np.log(2 * np.pi) - np.linalg.slogdet(A)[1] / 2
    return value, beta, np.linalg.inv(A)


def assert_dense(model, X, y, factors, weights=None, rtol=1e-6):
    """Everything a fit says of itself, against the dense formulas.

    `X` with a column for the intercept, `factors` as a dict of (labels, Z).
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    n = len(y)
    known = [(g, Z, model.covariance_[name]) for name, (g, Z) in factors.items()]
    V = covariance_of_y(known, model.sigma2_, n, weights)
    value, beta, cov = log_likelihood(X, y, V, model.method)
    assert model.log_likelihood_ == pytest.approx(value, rel=rtol, abs=1e-7)
    assert model.deviance_ == -2 * model.log_likelihood_
    found = model.inference()["estimate"]
    np.testing.assert_allclose(found, beta, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(model.fixed_covariance_, cov, rtol=rtol, atol=rtol**2)
    # no covariance or residual variance nearby is better
    slack = 1e-9 * abs(value)
    for scale in (0.98, 1.02):
        V_ = covariance_of_y(known, scale * model.sigma2_, n, weights)
        assert log_likelihood(X, y, V_, model.method)[0] <= value + slack
        for f, (g, Z, D) in enumerate(known):
            for k in range(len(D)):
                S = np.eye(len(D))
                S[k, k] = scale
                other = [*known]
                other[f] = (g, Z, S @ D @ S)
                V_ = covariance_of_y(other, model.sigma2_, n, weights)
                assert log_likelihood(X, y, V_, model.method)[0] <= value + slack
    # best linear unbiased predictions and conditional covariances
    residual = np.linalg.solve(V, y - X @ beta)
    for name, (g, Z) in factors.items():
        D, effects = model.covariance_[name], model.random_effects_[name]
        assert effects.labels.tolist() == np.unique(g).tolist()
        for k, label in enumerate(effects.labels):
            Zk = Z * (g == label)[:, None]
            mode = D @ Zk.T @ residual
            given = D - D @ Zk.T @ np.linalg.solve(V, Zk) @ D
            np.testing.assert_allclose(effects.modes[k], mode, rtol=rtol, atol=1e-6)
            np.testing.assert_allclose(effects.covs[k], given, rtol=1e-5, atol=1e-6)


def intercept(X):
    return np.column_stack([np.ones(len(X)), X])


def make(n=72, seed=0, m=12, levels=5):
    """Rows of two crossed factors with a slope in each, in no order."""
    rng = np.random.default_rng(seed)
    g, h = rng.integers(m, size=n), rng.integers(levels, size=n)
    g[:m], h[:levels] = np.arange(m), np.arange(levels)
    X = rng.normal(size=(n, 2))
    Z = np.column_stack([np.ones(n), X[:, 0]])
    cov = np.array([[1.0, 0.5], [0.5, 0.8]])
    b = rng.multivariate_normal(np.zeros(2), cov, size=m)[g]
    c = rng.multivariate_normal(np.zeros(2), 0.7 * cov, size=levels)[h]
    y = 1 + X @ [2.0, -1.0] + np.sum(Z * b, axis=1) + rng.normal(size=n)
    return X, y, g, h, Z, y + np.sum(Z * c, axis=1)


X, Y, G, H, Z, Y_CROSSED = make()
N = len(Y)
ONES = np.ones((N, 1))


@pytest.fixture(scope="module")
def slopes():
    return LinearMixedModel().fit(X, Y, groups=G, Z=Z)


@pytest.fixture(scope="module")
def frame():
    pd = pytest.importorskip("pandas")
    pytest.importorskip("formulaic")
    return pd.DataFrame({"y": Y, "x": X[:, 0], "z": X[:, 1], "g": G, "h": H})


@pytest.fixture(scope="module")
def of_frame(frame):
    return LinearMixedModel("y ~ x + z + (x | g)").fit(frame)


# ------------------------------------------------------------------------ likelihood


@pytest.mark.parametrize("method", METHODS)
def test_intercepts(method):
    model = LinearMixedModel(method=method).fit(X, Y, groups=G)
    assert_dense(model, intercept(X), Y, {"group": (G, ONES)})
    assert model.effects_ == {"group": ["Intercept"]}


@pytest.mark.parametrize("method", METHODS)
def test_slopes(method):
    model = LinearMixedModel(method=method).fit(X, Y, groups=G, Z=Z)
    assert_dense(model, intercept(X), Y, {"group": (G, Z)})
    assert model.covariance_["group"][0, 1] != 0
    assert model.n_parameters_ == 3 + 3 + 1
    assert model.n_groups_ == {"group": 12} and model.n_obs_ == N


@pytest.mark.parametrize("method", METHODS)
def test_crossed_factors_with_a_slope_in_each(method):
    model = LinearMixedModel(method=method)
    model.fit(X, Y_CROSSED, groups={"g": G, "h": H}, Z={"g": Z, "h": Z})
    assert_dense(model, intercept(X), Y_CROSSED, {"g": (G, Z), "h": (H, Z)})
    assert model.n_groups_ == {"g": 12, "h": 5}


@pytest.mark.parametrize("method", METHODS)
def test_three_crossed_factors(method):
    third = np.random.default_rng(5).integers(3, size=N)
    y = Y_CROSSED + np.array([-2.0, 0.0, 2.0])[third]
    groups = {"third": third, "g": G, "h": H}
    model = LinearMixedModel(method=method).fit(X, y, groups=groups)
    expected = {name: (labels, ONES) for name, labels in groups.items()}
    assert_dense(model, intercept(X), y, expected)


@pytest.mark.parametrize("method", METHODS)
def test_independent_effects(method):
    model = LinearMixedModel(method=method, covariance="diagonal")
    model.fit(X, Y, groups=G, Z=Z)
    assert_dense(model, intercept(X), Y, {"group": (G, Z)})
    assert model.covariance_["group"][0, 1] == 0
    assert model.n_parameters_ == 3 + 2 + 1


def test_two_bars_are_independent_effects(frame):
    arrays = LinearMixedModel(covariance="diagonal").fit(X, Y, groups=G, Z=Z)
    model = LinearMixedModel("y ~ x + z + (x || g)").fit(frame)
    assert model.deviance_ == pytest.approx(arrays.deviance_, abs=1e-8)
    np.testing.assert_allclose(
        model.covariance_["g"], arrays.covariance_["group"], rtol=1e-5
    )


def test_a_formula_is_the_same_as_arrays(of_frame, slopes):
    assert of_frame.deviance_ == pytest.approx(slopes.deviance_, abs=1e-8)
    np.testing.assert_allclose(of_frame.coef_, slopes.coef_, rtol=1e-8)
    assert of_frame.fixed_names_ == ["Intercept", "x", "z"]
    assert of_frame.effects_ == {"g": ["Intercept", "x"]}


@pytest.mark.parametrize("method", METHODS)
def test_without_an_intercept(method):
    model = LinearMixedModel(method=method, fit_intercept=False)
    model.fit(X, Y - 1, groups=G, Z=Z)
    assert_dense(model, X, Y - 1, {"group": (G, Z)})
    assert model.intercept_ == 0.0 and len(model.coef_) == 2


def test_effects_of_all_predictors_share_their_array():
    same = LinearMixedModel(fit_intercept=False).fit(Z, Y, groups=G, Z=Z)
    other = LinearMixedModel(fit_intercept=False).fit(Z, Y, groups=G, Z=Z.copy())
    assert_dense(same, Z, Y, {"group": (G, Z)})
    assert same.deviance_ == pytest.approx(other.deviance_, abs=1e-9)


# --------------------------------------------------------------------------- weights


@pytest.mark.parametrize("method", METHODS)
def test_frequencies_are_rows_that_occur_again(method):
    times = np.random.default_rng(1).integers(0, 3, N)
    again = np.repeat(np.arange(N), times)
    model = LinearMixedModel(method=method)
    model.fit(X, Y, sample_weight=times, groups=G, Z=Z)
    factors = {"group": (G[again], Z[again])}
    assert_dense(model, intercept(X[again]), Y[again], factors)
    assert model.n_obs_ == times.sum()


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_precisions_divide_the_residual_variance(method, crossed):
    w = np.random.default_rng(2).uniform(0.2, 5.0, N)
    model = LinearMixedModel(method=method, weights="precision")
    if crossed:
        model.fit(X, Y_CROSSED, w, groups={"g": G, "h": H}, Z={"h": Z})
        factors = {"g": (G, ONES), "h": (H, Z)}
        assert_dense(model, intercept(X), Y_CROSSED, factors, w)
    else:
        model.fit(X, Y, w, groups=G, Z=Z)
        assert_dense(model, intercept(X), Y, {"group": (G, Z)}, w)
    assert model.n_obs_ == N


def test_weights_may_be_a_column(frame):
    w = np.random.default_rng(2).integers(1, 4, N)
    formula = "y ~ x + z + (x | g)"
    named = LinearMixedModel(formula).fit(frame.assign(w=w), sample_weight="w")
    given = LinearMixedModel(formula).fit(frame, sample_weight=w)
    arrays = LinearMixedModel().fit(X, Y, w, groups=G, Z=Z)
    assert named.deviance_ == given.deviance_
    assert named.deviance_ == pytest.approx(arrays.deviance_, abs=1e-8)


# ----------------------------------------------------------------- difficult numbers


def test_single_precision_is_computed_in_double():
    few = [a.astype(np.float32) for a in (X, Y, Z)]
    model = LinearMixedModel().fit(few[0], few[1], groups=G, Z=few[2])
    many = [a.astype(np.float64) for a in few]
    assert_dense(model, intercept(many[0]), many[1], {"group": (G, many[2])})


def test_far_from_the_origin():
    """Numbers with so few digits that 1e8 can be added to them exactly."""
    x, y = (np.round(a * 2**16) / 2**16 for a in (X, Y))
    far = x + 1e8
    near = LinearMixedModel().fit(
        x, y, groups=G, Z=np.column_stack([np.ones(N), x[:, 0]])
    )
    model = LinearMixedModel().fit(
        far, y + 1e8, groups=G, Z=np.column_stack([np.ones(N), far[:, 0]])
    )
    assert model.log_likelihood_ == pytest.approx(near.log_likelihood_, abs=1e-5)
    np.testing.assert_allclose(model.coef_, near.coef_, rtol=1e-6)
    assert model.sigma2_ == pytest.approx(near.sigma2_, rel=1e-6)
    slope, known = (m.covariance_["group"][1, 1] for m in (model, near))
    assert slope == pytest.approx(known, rel=1e-5)


def test_intercepts_far_from_the_origin():
    x, y = (np.round(a * 2**16) / 2**16 for a in (X, Y))
    near = LinearMixedModel().fit(x, y, groups=G)
    model = LinearMixedModel().fit(x + 1e8, y + 1e8, groups=G)
    assert model.log_likelihood_ == pytest.approx(near.log_likelihood_, abs=1e-6)
    np.testing.assert_allclose(
        model.covariance_["group"], near.covariance_["group"], rtol=1e-6
    )
    ours, theirs = (m.random_effects_["group"] for m in (model, near))
    np.testing.assert_allclose(ours.modes, theirs.modes, rtol=1e-6)
    np.testing.assert_allclose(ours.covs, theirs.covs, rtol=1e-6)


def test_a_group_of_one_row():
    g = np.where(G == 11, 10, G)
    g[7] = 99
    model = LinearMixedModel().fit(X, Y, groups=g, Z=Z)
    assert_dense(model, intercept(X), Y, {"group": (g, Z)})


@pytest.mark.parametrize(
    "rename",
    [
        lambda g: g + 10**12,
        lambda g: -3 * g,
        lambda g: g.astype(np.int8) - 5,
        lambda g: g.astype(float),
        lambda g: np.array([f"group {k}" for k in g]),
        lambda g: np.array([f"é{'x' * k}" for k in g], dtype=object),
        lambda g: [f"{k}" for k in g],
    ],
    ids=["large", "negative", "int8", "float", "strings", "objects", "list"],
)
def test_labels(slopes, rename):
    labels = rename(G)
    model = LinearMixedModel().fit(X, Y, groups=labels, Z=Z)
    assert model.deviance_ == pytest.approx(slopes.deviance_, abs=1e-9)
    labels = np.asarray(labels)
    found, known = (m.random_effects_["group"] for m in (model, slopes))
    for k in range(12):
        name = labels[np.flatnonzero(k == G)[0]]
        (at,) = np.flatnonzero(found.labels == name)
        np.testing.assert_allclose(found.modes[at], known.modes[k], atol=1e-6)


def test_two_values_are_labels_too():
    model = LinearMixedModel().fit(X, Y_CROSSED, groups=H % 2 == 1)
    assert model.n_groups_ == {"group": 2}


def test_categories_are_labels(frame, of_frame):
    other = frame.assign(g=frame["g"].map("g{}".format).astype("category"))
    model = LinearMixedModel("y ~ x + z + (x | g)").fit(other)
    assert model.deviance_ == pytest.approx(of_frame.deviance_, abs=1e-9)
    assert model.random_effects_["g"].labels[0] == "g0"


def test_the_order_of_rows_does_not_matter(slopes):
    order = np.random.default_rng(3).permutation(N)
    model = LinearMixedModel().fit(X[order], Y[order], groups=G[order], Z=Z[order])
    assert model.deviance_ == pytest.approx(slopes.deviance_, abs=1e-9)
    np.testing.assert_allclose(model.coef_, slopes.coef_, rtol=1e-7)


# ------------------------------------------------------------------------- inference


def test_tests_and_intervals(slopes):
    found = slopes.fixed_effects_
    assert list(found.index) == ["Intercept", "x0", "x1"]
    error = np.sqrt(np.diag(slopes.fixed_covariance_))
    np.testing.assert_allclose(found["std_error"], error)
    z = found["estimate"] / error
    np.testing.assert_allclose(found["z"], z)
    np.testing.assert_allclose(found["p_value"], 2 * stats.norm.cdf(-np.abs(z)))
    wide = slopes.inference(0.99)
    np.testing.assert_allclose(
        wide["ci_upper"] - wide["ci_lower"], 2 * stats.norm.ppf(0.995) * error
    )


def test_information_criteria(slopes):
    k = 3 + 3 + 1
    assert slopes.aic_ == pytest.approx(slopes.deviance_ + 2 * k)
    assert slopes.bic_ == pytest.approx(slopes.deviance_ + k * np.log(N))


def test_summary_has_the_numbers(of_frame):
    summary = of_frame.summary()
    for text in (str(summary), summary._repr_html_()):
        for number in (
            f"{of_frame.deviance_:.4f}",
            f"{of_frame.aic_:.4f}",
            f"{of_frame.sigma2_:.6g}",
            f"{of_frame.covariance_['g'][1, 1]:.6g}",
            f"{of_frame.coef_[1]:.6g}",
            f"{np.sqrt(of_frame.fixed_covariance_[2, 2]):.6g}",
        ):
            assert number in text
        assert "g: 12" in text and "Intercept" in text and "REML" in text
    assert "y ~ x + z + (x | g)" in str(summary)


def test_likelihood_ratio():
    settings = {"method": "ml"}
    small = LinearMixedModel(**settings).fit(X, Y, groups=G)
    large = LinearMixedModel(**settings).fit(X, Y, groups=G, Z=Z)
    test = small.likelihood_ratio_test(large)
    assert test == large.likelihood_ratio_test(small)
    assert test.df == 2
    assert test.statistic == pytest.approx(small.deviance_ - large.deviance_)
    assert test.p_value == pytest.approx(stats.chi2.sf(test.statistic, 2))


def test_models_that_cannot_be_compared(slopes):
    with pytest.raises(ValueError, match="same rows"):
        slopes.likelihood_ratio_test(
            LinearMixedModel().fit(X[:-1], Y[:-1], groups=G[:-1])
        )
    with pytest.raises(ValueError, match="same method"):
        slopes.likelihood_ratio_test(LinearMixedModel(method="ml").fit(X, Y, groups=G))
    with pytest.raises(ValueError, match="different fixed effects"):
        slopes.likelihood_ratio_test(LinearMixedModel().fit(X[:, :1], Y, groups=G))
    with pytest.raises(ValueError, match="compare their aic_"):
        slopes.likelihood_ratio_test(slopes)
    with pytest.raises(NotFittedError):
        slopes.likelihood_ratio_test(LinearMixedModel())


def test_effects_as_a_frame(of_frame):
    found = of_frame.random_effects_["g"].to_frame()
    assert list(found.columns) == ["Intercept", "x", "Intercept (sd)", "x (sd)"]
    assert found.index.name == "g" and len(found) == 12
    np.testing.assert_allclose(
        found["x (sd)"], np.sqrt(of_frame.random_effects_["g"].covs[:, 1, 1])
    )


def test_effects_are_a_mapping(of_frame):
    effects = of_frame.random_effects_
    assert list(effects) == ["g"] and len(effects) == 1
    assert "12 groups x 2" in repr(effects)
    with pytest.raises(KeyError, match="the factors are g"):
        effects["nobody"]


# ------------------------------------------------------------------------ prediction


def expected(model, X, labels, Z):
    """X beta + Z b, with b = 0 for groups that were not seen."""
    effects = next(iter(model.random_effects_.values()))
    known = dict(zip(effects.labels.tolist(), effects.modes, strict=True))
    none = np.zeros(Z.shape[1])
    b = np.array([known.get(label, none) for label in labels.tolist()])
    return model.intercept_ + X @ model.coef_ + np.sum(Z * b, axis=1)


def test_predict_known_and_new_groups(slopes):
    labels = G.copy()
    labels[:20] = [-7, 50] * 10
    found = slopes.predict(X, groups=labels, Z=Z)
    np.testing.assert_allclose(found, expected(slopes, X, labels, Z))
    alone = slopes.predict(X)
    np.testing.assert_allclose(alone, slopes.intercept_ + X @ slopes.coef_)
    np.testing.assert_allclose(found[:20], alone[:20])


def test_predict_crossed_factors_one_at_a_time():
    model = LinearMixedModel().fit(X, Y_CROSSED, groups={"g": G, "h": H})
    of_g, of_h = (model.random_effects_[f].modes[:, 0] for f in "gh")
    fixed = model.intercept_ + X @ model.coef_
    both = model.predict(X, groups={"h": H, "g": G})
    np.testing.assert_allclose(both, fixed + of_g[G] + of_h[H])
    np.testing.assert_allclose(model.predict(X, groups={"h": H}), fixed + of_h[H])


def test_predict_lazily(slopes):
    da = pytest.importorskip("dask.array")
    lazy = da.from_array(X, chunks=(40, 2))
    found = slopes.predict(lazy, groups=G, Z=Z)
    assert isinstance(found, da.Array) and found.shape == (N,)
    eager = slopes.predict(X, groups=G, Z=Z)
    np.testing.assert_allclose(found.compute(scheduler="sync"), eager)
    labels, design = da.from_array(G, chunks=70), da.from_array(Z, chunks=(70, 2))
    found = slopes.predict(lazy, groups=labels, Z=design)
    np.testing.assert_allclose(found.compute(scheduler="sync"), eager)


def test_predict_a_frame(of_frame, frame):
    found = of_frame.predict(frame)
    np.testing.assert_allclose(found, expected(of_frame, X, G, Z))
    alone = of_frame.predict(frame[["x", "z"]])
    np.testing.assert_allclose(alone, of_frame.intercept_ + X @ of_frame.coef_)
    new = of_frame.predict(frame.assign(g=1000))
    np.testing.assert_allclose(new, alone)


def test_missing_values_are_predicted_as_missing(of_frame, frame):
    holes = frame.copy()
    holes.loc[3, "x"] = np.nan
    holes.loc[8, "z"] = np.nan
    holes.loc[5, "y"] = np.nan
    known = of_frame.predict(frame)
    found = of_frame.predict(holes)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 8]
    np.testing.assert_allclose(np.delete(found, [3, 8]), np.delete(known, [3, 8]))
    assert np.isnan(of_frame.predict(holes.iloc[[3, 8]])).all()
    residuals = of_frame.residuals(holes)
    assert np.flatnonzero(np.isnan(residuals)).tolist() == [3, 5, 8]


def test_predict_a_lazy_frame(of_frame, frame):
    dd = pytest.importorskip("dask.dataframe")
    found = of_frame.predict(dd.from_pandas(frame, npartitions=3))
    assert not isinstance(found, np.ndarray)
    known = of_frame.predict(frame)
    np.testing.assert_allclose(found.compute(scheduler="sync"), known)


def test_residuals(slopes, of_frame, frame):
    found = slopes.residuals(X, Y, groups=G, Z=Z)
    np.testing.assert_allclose(found, Y - expected(slopes, X, G, Z))
    np.testing.assert_allclose(of_frame.residuals(frame), found, atol=1e-5)
    with pytest.raises(ValueError, match="residuals need y"):
        slopes.residuals(X)


@pytest.mark.parametrize("factors", [("g",), ("g", "h")])
def test_simulations_have_the_moments_of_the_model(factors):
    groups = {name: {"g": G, "h": H}[name] for name in factors}
    designs = {name: Z for name in factors}
    model = LinearMixedModel().fit(X, Y_CROSSED, groups=groups, Z=designs)
    few = slice(0, 30)
    labels = {name: value[few] for name, value in groups.items()}
    n = 4000
    draws = model.simulate(
        X[few],
        groups=labels,
        Z={name: Z[few] for name in factors},
        n_samples=n,
        random_state=0,
    )
    assert draws.shape == (n, 30)
    known = [(labels[f], Z[few], model.covariance_[f]) for f in factors]
    V = covariance_of_y(known, model.sigma2_, 30)
    mean = model.predict(X[few])
    off = (draws.mean(axis=0) - mean) / np.sqrt(np.diag(V) / n)
    assert np.abs(off).max() < 5
    spread = np.sqrt((np.outer(np.diag(V), np.diag(V)) + V**2) / n)
    assert np.abs((np.cov(draws.T) - V) / spread).max() < 5.5


def test_the_seed_decides_on_simulations(slopes):
    how = {"groups": G, "Z": Z}
    one, again = (slopes.simulate(X, random_state=3, **how) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, slopes.simulate(X, random_state=4, **how))


def test_simulations_of_a_frame(of_frame, frame):
    assert of_frame.simulate(frame, n_samples=2, random_state=0).shape == (2, N)


# -------------------------------------------------------------------------- manners


def test_clone_and_pickle(slopes):
    copy = clone(slopes)
    with pytest.raises(NotFittedError):
        copy.predict(X)
    again = pickle.loads(pickle.dumps(slopes))
    np.testing.assert_array_equal(
        again.predict(X, groups=G, Z=Z), slopes.predict(X, groups=G, Z=Z)
    )
    np.testing.assert_array_equal(
        again.random_effects_["group"].covs, slopes.random_effects_["group"].covs
    )
    assert str(again.summary()) == str(slopes.summary())


def test_a_fit_from_a_formula_is_pickled(of_frame, frame):
    again = pickle.loads(pickle.dumps(of_frame))
    np.testing.assert_array_equal(again.predict(frame), of_frame.predict(frame))


def test_a_failed_refit_changes_nothing():
    model = LinearMixedModel().fit(X, Y, groups=G)
    before = {**vars(model)}
    for bad in (
        lambda: model.fit(X * np.nan, Y, groups=G),
        lambda: model.fit(X, Y, groups=np.zeros(N)),
        lambda: model.fit(X[:, [0, 0]], Y, groups=G),
        lambda: model.fit(X[:, :1], Y, groups=G[:5]),
        lambda: model.fit(X[:, :1], Y, groups=np.arange(N)),
    ):
        with pytest.raises(ValueError):
            bad()
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


def test_fit_in_a_pipeline_and_a_search():
    with sklearn.config_context(enable_metadata_routing=True):
        model = LinearMixedModel().set_fit_request(groups=True)
        model.set_predict_request(groups=True)
        pipeline = make_pipeline(StandardScaler(), model)
        pipeline.fit(X, Y, groups=G)
        direct = LinearMixedModel().fit(StandardScaler().fit_transform(X), Y, groups=G)
        np.testing.assert_allclose(pipeline[-1].coef_, direct.coef_)
        np.testing.assert_allclose(
            pipeline.predict(X, groups=G),
            direct.predict(StandardScaler().fit_transform(X), groups=G),
        )
        search = GridSearchCV(
            LinearMixedModel()
            .set_fit_request(groups=True)
            .set_score_request(groups=True),  # of new groups: as if there were none
            {"fit_intercept": [True, False]},
            cv=GroupKFold(3),
        ).fit(X, Y + 100, groups=G)
        assert search.best_params_ == {"fit_intercept": True}


def test_resume_where_a_fit_was_cut_off(tmp_path, slopes):
    place = str(tmp_path / "fit")
    cut = LinearMixedModel(checkpoint=place, max_iter=3)
    with pytest.warns(ConvergenceWarning):
        cut.fit(X, Y, groups=G, Z=Z)
    assert not cut.converged_
    resumed = LinearMixedModel(checkpoint=place, resume=True)
    resumed.fit(X, Y, groups=G, Z=Z)
    assert resumed.result_.resumed_from is not None
    assert resumed.deviance_ == pytest.approx(slopes.deviance_, abs=1e-8)
    with pytest.raises(ValueError):  # it is of other data
        LinearMixedModel(resume=place).fit(X[:-9], Y[:-9], groups=G[:-9])


def test_without_groups_it_is_least_squares():
    for method in METHODS:
        model = LinearMixedModel(method=method).fit(X, Y)
        sigma2 = np.sum((Y - model.predict(X)) ** 2) / (N - 3 * (method == "reml"))
        assert model.sigma2_ == pytest.approx(sigma2)
        assert_dense(model, intercept(X), Y, {})


def test_no_fixed_effects_but_the_intercept(frame):
    model = LinearMixedModel("y ~ 1 + (1 | g)").fit(frame)
    assert_dense(model, ONES, Y, {"g": (G, ONES)})


def test_no_fixed_effects_at_all(frame):
    model = LinearMixedModel("y ~ 0 + (1 | g)").fit(frame)
    known = [(G, ONES, model.covariance_["g"])]
    V = covariance_of_y(known, model.sigma2_, N)
    value = normal(np.zeros(N), V).logpdf(Y)
    assert model.log_likelihood_ == pytest.approx(value, abs=1e-7)


def test_names_of_columns(frame):
    model = LinearMixedModel().fit(frame[["x", "z"]], frame["y"], groups=frame["g"])
    assert model.fixed_names_ == ["Intercept", "x", "z"]
    assert model.feature_names_in_.tolist() == ["x", "z"]
    assert model.n_groups_ == {"g": 12}


def test_lazy_groups_have_the_name_of_others():
    da = pytest.importorskip("dask.array")
    lazy = [da.from_array(a, chunks=(50, *a.shape[1:])) for a in (X, Y, G)]
    model = LinearMixedModel().fit(lazy[0], lazy[1], groups=lazy[2])
    assert model.n_groups_ == {"group": 12}


def test_a_lazy_series_of_groups(frame):
    dd = pytest.importorskip("dask.dataframe")
    lazy = dd.from_pandas(frame, npartitions=3)
    model = LinearMixedModel().fit(lazy[["x", "z"]], lazy["y"], groups=lazy["g"])
    assert model.n_groups_ == {"g": 12}


# ------------------------------------------------------------------------- mistakes


def with_one(array, value):
    changed = np.array(array, dtype=float)
    changed[3] = value
    return changed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "mle"}, "method must be one of 'reml', 'ml', got 'mle'"),
        ({"algorithm": "newton"}, "algorithm must be one of 'px_ecme'"),
        ({"covariance": "full"}, "covariance must be one of 'unstructured'"),
        ({"weights": "inverse"}, "weights must be one of 'frequency'"),
        ({"acceleration": "warp"}, "acceleration must be one of 'auto', 'anderson'"),
        ({"schedule": "whenever"}, "schedule must be one of"),
        ({"transport": "pigeon"}, "transport must be"),
        ({"tol": -1}, "tol must not be negative, got -1"),
        ({"max_iter": -1}, "max_iter must be"),
        ({"shards": 0}, "shards"),
        ({"deadline": 0}, "deadline"),
    ],
)
def test_bad_settings_get_one_clear_error(settings, words):
    with pytest.raises(ValueError, match=words):
        LinearMixedModel(**settings).fit(X, Y, groups=G)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"X": with_one(X, np.nan)}, "NaN"),
        ({"X": with_one(X, np.inf)}, "infinity"),
        ({"y": with_one(Y, np.nan)}, "NaN"),
        ({"y": with_one(Y, -np.inf)}, "infinity"),
        ({"Z": with_one(Z, np.nan)}, "NaN"),
        ({"Z": with_one(Z, np.inf)}, "infinity"),
        ({"y": Y[:-1]}, "inconsistent numbers of samples"),
        ({"y": None}, "requires y"),
        ({"Z": Z[:-1]}, "one row for each row of X"),
        ({"groups": G[:-1]}, "one label per row"),
        ({"groups": np.column_stack([G, H])}, "one label per row"),
        ({"groups": None, "Z": Z}, "Z names"),
        ({"groups": {"g": G}, "Z": {"h": Z}}, "Z names"),
        ({"groups": with_one(G, np.nan)}, "missing labels"),
        ({"groups": np.array([*G[:-1], None])}, "missing labels"),
        ({"groups": np.zeros(N, int)}, "one group only"),
        ({"groups": {"g": G, "h": np.zeros(N)}}, "'h' has one group only"),
        ({"groups": np.arange(N)}, "as many as there are observations"),
        ({"groups": np.arange(N) // 2, "Z": Z}, "as many as there are observations"),
        ({"sample_weight": -np.ones(N)}, "not negative"),
        ({"sample_weight": with_one(np.ones(N), np.nan)}, "finite"),
        ({"sample_weight": with_one(np.ones(N), np.inf)}, "finite"),
        ({"sample_weight": np.ones(N - 1)}, "one number per row"),
        ({"sample_weight": np.zeros(N)}, "zero everywhere"),
        ({"X": np.column_stack([X, X[:, 0] - X[:, 1]])}, "dependent: x2"),
        ({"X": np.column_stack([X, 3 * np.ones(N)])}, "dependent: x2"),
        ({"X": np.column_stack([X[:, 0], np.zeros(N)])}, "dependent: x1"),
    ],
)
def test_bad_arrays_get_one_clear_error(arguments, words):
    given = {"X": X, "y": Y, "groups": G} | arguments
    with pytest.raises(ValueError, match=words):
        LinearMixedModel().fit(given.pop("X"), given.pop("y"), **given)


def test_linearly_dependent_random_effects_are_named():
    twice = np.column_stack([Z, Z[:, 1]])
    with pytest.warns(UserWarning, match=r"z0, z1, z2 \| group"):
        LinearMixedModel(max_iter=200).fit(X, Y, groups=G, Z=twice)


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("y ~ nothing + (1 | g)", "no column 'nothing'"),
        ("y ~ x + (1 | nobody)", "no column 'nobody'"),
        ("nowhere ~ x + (1 | g)", "no column 'nowhere'"),
        ("y ~ x + z + I(x - z) + (1 | g)", r"dependent: I\(x - z\)"),
        ("y + x", "must have one ~"),
        ("~ x + (1 | g)", "no response"),
        ("y ~ x + (1 | g", "not closed"),
        ("y ~ x * (1 | g)", r"must be added with \+"),
        ("y ~ x + 1 | g", "in parentheses"),
        ("y ~ x + (1 | g) + (1 | g)", "twice"),
        ("y ~ x + (1 + | g)", "malformed|cannot be evaluated"),
        ("y ~ x ) + (1 | g)", "malformed|parenthes"),
        ("y ~ x +* z + (1 | g)", "malformed"),
    ],
)
def test_bad_formulas_get_one_clear_error(frame, formula, words):
    with pytest.raises(ValueError, match=words):
        LinearMixedModel(formula).fit(frame)


def test_formulas_take_frames_and_nothing_else(frame):
    model = LinearMixedModel("y ~ x + (1 | g)")
    with pytest.raises(TypeError, match="takes a DataFrame"):
        model.fit(X)
    for name, value in (("y", Y), ("groups", G), ("Z", Z)):
        with pytest.raises(ValueError, match=f"{name} is part of the formula"):
            model.fit(frame, **{name: value})
    with pytest.raises(ValueError, match="without missing values"):
        model.fit(frame.assign(x=np.nan))
    with pytest.raises(TypeError, match="formula must be a string"):
        LinearMixedModel(3).fit(frame)


def test_bad_rows_to_predict(slopes, of_frame, frame):
    with pytest.raises(ValueError, match="expecting 2 features"):
        slopes.predict(X[:, :1])
    with pytest.raises(ValueError, match="NaN"):
        slopes.predict(X * np.nan)
    with pytest.raises(TypeError, match="labels of the same kind"):
        slopes.predict(X, groups=G.astype(str), Z=Z)
    with pytest.raises(TypeError, match="labels of the same kind"):
        of_frame.predict(frame.assign(g=frame["g"].map("g{}".format)))
    with pytest.raises(ValueError, match="as Z"):
        slopes.predict(X, groups=G)
    with pytest.raises(ValueError, match="labels for"):
        slopes.predict(X, groups=G[:-1], Z=Z)
    with pytest.raises(ValueError, match="one row for each row of X"):
        slopes.predict(X, groups=G, Z=Z[:-1])
    with pytest.raises(TypeError, match="takes a DataFrame"):
        of_frame.predict(X)
    crossed = LinearMixedModel().fit(X, Y_CROSSED, groups={"g": G, "h": H})
    with pytest.raises(ValueError, match="not fitted with"):
        crossed.predict(X, groups={"nobody": G})


@pytest.mark.parametrize("ask", ["predict", "simulate", "residuals"])
def test_too_few_columns_for_the_effects(slopes, ask):
    given = (X, Y) if ask == "residuals" else (X,)
    with pytest.raises(ValueError, match="column"):
        getattr(slopes, ask)(*given, groups=G, Z=Z[:, :1])


@pytest.mark.parametrize("which", [slice(None), slice(0, 3)])
def test_categories_that_were_not_seen_get_one_clear_error(frame, which):
    kinds = np.array(["a", "b", "c"])[H % 3]
    model = LinearMixedModel("y ~ x + kind + (1 | g)").fit(frame.assign(kind=kinds))
    kinds = kinds.astype(object)
    kinds[which] = "new"
    with pytest.raises(ValueError, match="did not occur"):
        model.predict(frame.assign(kind=kinds))


def test_a_frame_without_one_of_two_factors(frame):
    crossed = frame.assign(y=Y_CROSSED)
    model = LinearMixedModel("y ~ x + z + (1 | g) + (1 | h)").fit(crossed)
    expected = model.predict(frame.assign(h=1000))
    np.testing.assert_allclose(model.predict(frame.drop(columns="h")), expected)


@pytest.mark.parametrize("term", ["center(x)", "scale(x)", "poly(x, 2)"])
def test_transforms_that_see_all_rows(frame, term):
    model = LinearMixedModel(f"y ~ {term} + z + (1 | g)", method="ml").fit(frame)
    degree = 2 if "poly" in term else 1
    columns = np.column_stack([X[:, 0] ** k for k in range(1, degree + 1)])
    direct = LinearMixedModel(method="ml")
    direct.fit(np.column_stack([columns, X[:, 1]]), Y, groups=G)
    assert model.deviance_ == pytest.approx(direct.deviance_, abs=1e-8)
    np.testing.assert_allclose(
        model.predict(frame.iloc[:5]),
        model.predict(frame)[:5],
    )


def test_labels_with_fractions_in_some_chunks_only():
    da = pytest.importorskip("dask.array")
    labels = np.where(G % 2 == 0, G, G + 0.5)
    labels[: N // 2] = G[: N // 2] // 2 * 2  # whole numbers in the first chunk
    known = LinearMixedModel().fit(X, Y, groups=labels)
    size = N // 2
    lazy = [da.from_array(a, chunks=(size, *a.shape[1:])) for a in (X, Y, labels)]
    model = LinearMixedModel().fit(lazy[0], lazy[1], groups={"g": lazy[2]})
    assert model.n_groups_["g"] == known.n_groups_["group"]
    assert model.deviance_ == pytest.approx(known.deviance_, abs=1e-7)


def test_predict_for_some_labels_with_fractions():
    labels = G / 2
    model = LinearMixedModel().fit(X, Y, groups=labels)
    whole = labels == np.round(labels)
    np.testing.assert_allclose(
        model.predict(X[whole], groups=labels[whole]),
        model.predict(X, groups=labels)[whole],
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X", np.nan), ("X", np.inf), ("y", np.nan), ("y", np.inf)),
        *(("Z", np.nan), ("w", np.nan), ("w", -1.0)),
    ],
)
def test_bad_lazy_numbers_get_one_clear_error(name, value):
    da = pytest.importorskip("dask.array")
    given = {"X": X, "y": Y, "w": np.ones(N), "Z": Z}
    given[name] = with_one(given[name], value)
    lazy = {
        k: da.from_array(a, chunks=(30, *a.shape[1:]))
        for k, a in {**given, "g": G}.items()
    }
    with pytest.raises(ValueError, match=r"NaN or infinity|sample_weight"):
        LinearMixedModel().fit(
            lazy["X"], lazy["y"], lazy["w"], groups={"g": lazy["g"]}, Z={"g": lazy["Z"]}
        )


@pytest.mark.parametrize("column", ["x", "y"])
def test_infinity_in_a_frame_gets_one_clear_error(frame, column):
    with pytest.raises(ValueError, match="NaN or infinity"):
        LinearMixedModel("y ~ x + (1 | g)").fit(
            frame.assign(**{column: with_one(frame[column], np.inf)})
        )


@pytest.mark.parametrize("kind", ["NaT", "NA"])
def test_other_missing_labels_get_the_same_error(kind):
    pd = pytest.importorskip("pandas")
    labels = np.datetime64("2020-01-01") + G
    labels[3] = np.datetime64("NaT")
    if kind == "NA":
        labels = np.array([pd.NA, *G[1:]], dtype=object)
    with pytest.raises(ValueError, match="missing labels"):
        LinearMixedModel().fit(X, Y, groups=labels)


def test_labels_beyond_signed_integers(slopes):
    labels = G.astype(np.uint64) + np.uint64(2**63)
    model = LinearMixedModel().fit(X, Y, groups=labels, Z=Z)
    assert model.deviance_ == pytest.approx(slopes.deviance_, abs=1e-9)


@pytest.mark.parametrize("level", [-0.1, 1.5, 95])
def test_levels_of_confidence_are_shares(slopes, level):
    with pytest.raises(ValueError, match="level"):
        slopes.inference(level)


def test_a_fit_that_is_cut_off_says_so():
    with pytest.warns(ConvergenceWarning):
        model = LinearMixedModel(max_iter=2).fit(X, Y, groups=G, Z=Z)
    assert not model.converged_ and model.n_iter_ == 2


def test_fits_are_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LinearMixedModel().fit(X, Y, groups=G).converged_


def test_the_higher_of_two_maxima_is_found(monkeypatch):
    """Few groups and two slopes: orthonormal coordinates alone lead to the lower."""
    rng = np.random.default_rng(266)
    m = rng.integers(5, 24)
    g = np.repeat(np.arange(m), rng.integers(1, 12, m))
    n = len(g)
    x = np.column_stack([rng.normal(size=n), rng.exponential(10, size=n)])
    b = rng.normal(size=(m, 3)) * [0.3, 0.3, 0.02]
    z = np.column_stack([np.ones(n), x])
    y = np.einsum("nq,nq->n", z, b[g]) + rng.standard_t(3, size=n)
    both = LinearMixedModel(method="ml").fit(x, y, groups=g, Z=z)
    monkeypatch.setattr("dask_em.estimators.mixed_fitted.FEW", 0)
    one = LinearMixedModel(method="ml").fit(x, y, groups=g, Z=z)
    assert one.converged_ and both.converged_
    assert one.deviance_ > both.deviance_ + 1


# -------------------------------------------------------- found by hostile readers


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint8])
def test_labels_of_small_integers_do_not_overflow(dtype):
    """The span of the labels exceeds what their type holds."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    labels = rng.integers(info.min, info.max, 40_000, endpoint=True).astype(dtype)
    if dtype is np.int16:
        labels = (labels // 8 * 8).astype(dtype)
    x = rng.normal(size=(len(labels), 1))
    y = x[:, 0] + rng.normal(size=len(labels))
    model = LinearMixedModel().fit(x, y, groups=labels)
    assert model.n_groups_ == {"group": len(np.unique(labels))}
    assert model.deviance_ == pytest.approx(
        LinearMixedModel().fit(x, y, groups=labels.astype(np.int64)).deviance_
    )


def test_labels_do_not_depend_on_other_rows(frame):
    odd = frame.assign(a=np.where(frame.x > 0, "p\\q", "r"), b=frame.g % 3)
    odd.loc[odd.index[-5:], "a"] = "s:t"
    model = LinearMixedModel("y ~ x + (1 | a:b)").fit(odd)
    np.testing.assert_allclose(model.predict(odd)[:40], model.predict(odd.iloc[:40]))


def test_blas_has_its_threads_back_after_fits_at_once():
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_info

    def threads():
        return sorted(
            pool["num_threads"]
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        )

    LinearMixedModel().fit(X, Y, groups=G)
    before = threads()
    with ThreadPoolExecutor(3) as pool:
        fits = [
            pool.submit(LinearMixedModel().fit, X, Y_CROSSED, groups={"g": G, "h": H})
            for _ in range(9)
        ]
        assert all(fit.result().converged_ for fit in fits)
    assert threads() == before


def test_errors_of_estimates_after_an_early_end():
    """Maximum likelihood has no posterior of the fixed effects, yet a covariance."""
    how = {"method": "ml", "schedule": "bounded_staleness", "shards": 4}
    with pytest.warns(ConvergenceWarning):
        early = LinearMixedModel(max_iter=3, **how).fit(X, Y, groups=G)
    assert early.result_.status == "max_iter"
    late = LinearMixedModel(**how).fit(X, Y, groups=G)
    np.testing.assert_allclose(
        early.inference()["std_error"], late.inference()["std_error"], rtol=0.3
    )
    with pytest.warns(ConvergenceWarning):
        crossed = LinearMixedModel(max_iter=3, **how)
        crossed.fit(X, Y_CROSSED, groups={"g": G, "h": H})
    assert np.isfinite(crossed.predict(X, groups={"g": G, "h": H})).all()


def test_checkpoints_of_other_groups_are_refused(tmp_path):
    place = str(tmp_path / "fit")
    LinearMixedModel(checkpoint=place).fit(X, Y, groups={"g": G, "h": H})
    for other in ({"g": G, "h": G % 5}, {"g": G}, {"g": np.roll(G, 1), "h": H}):
        with pytest.raises(ValueError, match="another fit"):
            LinearMixedModel(checkpoint=place, resume=True).fit(X, Y, groups=other)


def test_a_named_series_of_groups_with_columns(slopes):
    pd = pytest.importorskip("pandas")
    model = LinearMixedModel().fit(X, Y, groups=pd.Series(G, name="school"), Z=Z)
    assert list(model.n_groups_) == ["school"]
    assert model.deviance_ == pytest.approx(slopes.deviance_, abs=1e-9)


def test_residuals_of_a_column(slopes):
    column = slopes.residuals(X, Y[:, None], groups=G, Z=Z)
    np.testing.assert_array_equal(column, slopes.residuals(X, Y, groups=G, Z=Z))
    with pytest.raises(ValueError, match="values for"):
        slopes.residuals(X, Y[:-1], groups=G, Z=Z)


def test_score_with_weights_and_missing_values(frame):
    model = LinearMixedModel("y ~ x + (1 | g)").fit(frame)
    gaps = frame.assign(x=frame.x.where(frame.index % 7 != 0))
    whole = gaps.x.notna().to_numpy()
    weights = np.linspace(0.5, 2.0, len(frame))
    assert model.score(gaps, sample_weight=weights) == pytest.approx(
        model.score(frame[whole], sample_weight=weights[whole])
    )
    with pytest.raises(ValueError, match="missing values"):
        model.simulate(gaps)
