"""Mixtures of experts as a user meets them."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dask_em import MixtureOfExpertsClassifier as Classifier
from dask_em import MixtureOfExpertsRegressor as Regressor

pd = pytest.importorskip("pandas")


def lines(n=800, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    first = rng.random(n) < 1 / (1 + np.exp(-(0.5 + 2 * X[:, 0])))
    y = np.where(first, 1 + 2 * X[:, 0], -1 - X[:, 1])
    return X, y + noise * rng.normal(size=n)


X, Y = lines()
RNG = np.random.default_rng(5)
COUNTS = RNG.poisson(np.exp(np.clip(0.5 * Y + 0.5, -3, 3))).astype(float)
LABELS = np.where(RNG.random(len(Y)) < 1 / (1 + np.exp(-2 * Y)), "warm", "cold")


@pytest.fixture(scope="module")
def mixture():
    return Regressor(2, random_state=0, tol=1e-9).fit(X, Y)


@pytest.fixture(scope="module")
def classifier():
    return Classifier(2, random_state=0).fit(X, LABELS)


def by_hand(m, X, y):
    """Return joint densities of component and response, from the attributes alone."""
    odds = m.gate_intercept_ + X @ m.gate_coef_.T
    gate = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    mean = m.intercept_ + X @ m.coef_.T
    return (
        gate,
        mean,
        gate
        * stats.norm.pdf(
            np.asarray(y)[:, None], mean, np.sqrt(m.covariances_[:, 0, 0])
        ),
    )


# ------------------------------------------------------------------------ predictions


def test_predictions_are_what_the_attributes_say(mixture):
    gate, mean, joint = by_hand(mixture, X, Y)
    total = joint.sum(axis=1)
    np.testing.assert_allclose(mixture.gate_proba(X), gate, rtol=1e-9)
    np.testing.assert_allclose(mixture.expert_predict(X), mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mixture.score_samples(X, Y), np.log(total), rtol=1e-8)
    np.testing.assert_allclose(
        mixture.responsibilities(X, Y), joint / total[:, None], rtol=1e-7, atol=1e-12
    )
    centre = (gate * mean).sum(axis=1)
    variance = mixture.covariances_[:, 0, 0]
    spread = np.sqrt((gate * (variance + mean**2)).sum(axis=1) - centre**2)
    found, std = mixture.predict(X, return_std=True)
    np.testing.assert_allclose(found, centre, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(std, spread, rtol=1e-7)


def test_likelihood_and_criteria(mixture):
    total = mixture.score_samples(X, Y).sum()
    assert mixture.log_likelihood_ == pytest.approx(total, rel=1e-12)
    k = 3 + 2 * 4
    assert mixture.n_parameters_ == k
    assert mixture.aic(X, Y) == pytest.approx(2 * k - 2 * total)
    assert mixture.bic(X, Y) == pytest.approx(k * np.log(len(X)) - 2 * total)
    r = mixture.responsibilities(X, Y)
    entropy = -np.sum(r * np.log(np.maximum(r, 1e-300)))
    assert mixture.icl(X, Y) == pytest.approx(mixture.bic(X, Y) + 2 * entropy)


def test_recovers_the_truth(mixture):
    order = mixture.intercept_.argsort()
    np.testing.assert_allclose(mixture.intercept_[order], [-1, 1], atol=0.1)
    np.testing.assert_allclose(mixture.coef_[order], [[0, -1], [2, 0]], atol=0.1)
    assert mixture.converged_
    assert mixture.score(X, Y) == pytest.approx(
        1 - np.var(Y - mixture.predict(X)) / np.var(Y), abs=1e-3
    )


@pytest.mark.parametrize("family", ["gaussian", "student_t", "poisson"])
def test_sample(family):
    y = COUNTS if family == "poisson" else Y
    m = Regressor(2, family=family, random_state=0).fit(X, y)
    row = np.repeat(X[:1], 40_000, axis=0)
    drawn, component = m.sample(row, random_state=1)
    mean, std = m.predict(X[:1], return_std=True)
    assert drawn.mean() == pytest.approx(mean[0], abs=5 * std[0] / 200)
    assert drawn.std() == pytest.approx(std[0], rel=0.1)
    assert np.mean(component) == pytest.approx(m.gate_proba(X[:1])[0, 1], abs=0.02)


def test_one_component_is_least_squares():
    m = Regressor(1).fit(X, Y)
    line = LinearRegression().fit(X, Y)
    np.testing.assert_allclose(m.coef_[0], line.coef_, rtol=1e-9)
    left = Y - line.predict(X)
    assert m.covariances_[0, 0, 0] == pytest.approx(np.mean(left**2), rel=1e-9)
    errors = m.standard_errors(X, Y)
    design = np.column_stack([np.ones(len(X)), X])
    wanted = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * np.mean(left**2))
    np.testing.assert_allclose(errors.intercept[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(errors.coef[0], wanted[1:], rtol=1e-5)
    variance = np.mean(left**2)
    assert errors.covariance[0, 0, 0] == pytest.approx(
        variance * np.sqrt(2 / len(X)), rel=1e-4
    )


def test_several_responses():
    both = np.column_stack([Y, 3 * Y + RNG.normal(size=len(Y))])
    m = Regressor(2, random_state=0).fit(X, both)
    assert m.coef_.shape == (2, 2, 2)
    assert m.intercept_.shape == (2, 2)
    assert m.covariances_.shape == (2, 2, 2)
    assert m.predict(X).shape == (800, 2)
    assert m.expert_predict(X).shape == (800, 2, 2)
    mean, std = m.predict(X, return_std=True)
    assert mean.shape == std.shape == (800, 2)
    wanted = np.log(
        sum(
            m.gate_proba(X)[:, k]
            * [
                stats.multivariate_normal.pdf(y, mu, m.covariances_[k])
                for y, mu in zip(both, m.expert_predict(X)[:, k], strict=True)
            ]
            for k in range(2)
        )
    )
    np.testing.assert_allclose(m.score_samples(X, both), wanted, rtol=1e-7)
    errors = m.standard_errors(X, both)
    assert errors.coef.shape == (2, 2, 2)
    assert errors.covariance.shape == (2, 2, 2)
    assert np.isfinite(errors.matrix).all()


def test_classifier(classifier):
    assert classifier.classes_.tolist() == ["cold", "warm"]
    proba = classifier.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    experts = classifier.expert_predict(X)
    assert experts.shape == (800, 2, 2)
    mixed = (classifier.gate_proba(X)[:, :, None] * experts).sum(axis=1)
    np.testing.assert_allclose(mixed, proba, rtol=1e-9)
    right = classifier.predict(X) == LABELS
    assert classifier.score(X, LABELS) == pytest.approx(right.mean())
    chosen = proba[np.arange(len(X)), (LABELS == "warm").astype(int)]
    total = np.log(chosen).sum()
    assert classifier.log_likelihood_ == pytest.approx(total, rel=1e-9)
    np.testing.assert_allclose(classifier.score_samples(X, LABELS), np.log(chosen))
    drawn, _ = classifier.sample(np.repeat(X[:1], 5000, axis=0))
    assert np.mean(drawn == "warm") == pytest.approx(proba[0, 1], abs=0.03)


# -------------------------------------------------------------------- standard errors


def hessian_errors(m, y):
    """Return standard errors by differences of the likelihood in raw coefficients."""
    sizes = [2, 1, 4, 2, 2]

    def likelihood(v):
        g, g0, b, b0, logs = np.split(v, np.cumsum(sizes)[:-1])
        odds = np.column_stack([X @ g + g0[0], np.zeros(len(X))])
        gate = odds - np.logaddexp.reduce(odds, axis=1, keepdims=True)
        mean = b0 + X @ b.reshape(2, 2).T
        dens = stats.norm.logpdf(y[:, None], mean, np.exp(logs))
        return np.logaddexp.reduce(gate + dens, axis=1).sum()

    v = np.concatenate(
        [
            m.gate_coef_[0],
            m.gate_intercept_[:1],
            m.coef_.ravel(),
            m.intercept_,
            0.5 * np.log(m.covariances_.ravel()),
        ]
    )
    n, h = len(v), 1e-3
    H = np.empty((n, n))
    unit = h * np.eye(n)
    for i in range(n):
        for j in range(n):
            H[i, j] = (
                likelihood(v + unit[i] + unit[j])
                - likelihood(v + unit[i] - unit[j])
                - likelihood(v - unit[i] + unit[j])
                + likelihood(v - unit[i] - unit[j])
            ) / (4 * h * h)
    return np.split(np.sqrt(np.diag(np.linalg.inv(-H))), np.cumsum(sizes)[:-1])


def test_standard_errors(mixture):
    gate, gate0, coef, intercept, logs = hessian_errors(mixture, Y)
    found = mixture.standard_errors(X, Y)
    np.testing.assert_allclose(found.gate_coef[0], gate, rtol=1e-3)
    np.testing.assert_allclose(found.gate_intercept[0], gate0[0], rtol=1e-3)
    np.testing.assert_allclose(found.coef.ravel(), coef, rtol=1e-3)
    np.testing.assert_allclose(found.intercept, intercept, rtol=1e-3)
    variance = mixture.covariances_.ravel()
    np.testing.assert_allclose(found.covariance.ravel(), 2 * variance * logs, rtol=1e-3)
    lazy = mixture.standard_errors(
        da.from_array(X, chunks=(300, 2)), da.from_array(Y, chunks=300)
    )
    np.testing.assert_allclose(lazy.matrix, found.matrix, rtol=1e-7, atol=1e-12)


def test_standard_errors_of_what_is_not_determined():
    twice = np.column_stack([X, X[:, 0]])
    m = Regressor(2, random_state=0).fit(twice, Y)
    np.testing.assert_allclose(
        m.predict(twice), Regressor(2, random_state=0).fit(X, Y).predict(X), atol=1e-2
    )
    with pytest.warns(UserWarning, match="information is singular"):
        assert np.isnan(m.standard_errors(twice, Y).coef).any()


# ------------------------------------------------------------------- kinds of input


def test_lazy_and_labelled(mixture):
    xarray = pytest.importorskip("xarray")
    Xd, Yd = da.from_array(X, chunks=(250, 2)), da.from_array(Y, chunks=170)
    lazy = Regressor(2, random_state=0, tol=1e-9).fit(Xd, Yd)
    assert lazy.log_likelihood_ == pytest.approx(mixture.log_likelihood_, rel=1e-9)
    assert isinstance(mixture.predict(Xd), da.Array)
    np.testing.assert_allclose(mixture.predict(Xd).compute(), mixture.predict(X))
    np.testing.assert_allclose(
        mixture.responsibilities(Xd, Yd).compute(), mixture.responsibilities(X, Y)
    )
    assert mixture.score(Xd, Yd) == pytest.approx(mixture.score(X, Y))
    assert mixture.bic(Xd, Yd) == pytest.approx(mixture.bic(X, Y))
    grid = xarray.DataArray(
        X.reshape(40, 20, 2), dims=("lat", "lon", "what"),
        coords={"lat": np.arange(40), "what": ["t", "s"]},
    )  # fmt: skip
    target = xarray.DataArray(Y.reshape(40, 20), dims=("lat", "lon")).transpose()
    labelled = Regressor(2, random_state=0, tol=1e-9).fit(
        grid, target, dim=("lat", "lon")
    )
    assert labelled.log_likelihood_ == pytest.approx(mixture.log_likelihood_, rel=1e-9)
    assert labelled.feature_names_in_.tolist() == ["t", "s"]
    assert labelled.predict(grid).dims == ("lat", "lon")
    assert labelled.gate_proba(grid).dims == ("lat", "lon", "component")
    assert labelled.score_samples(grid, target).shape == (40, 20)


def test_frames_and_columns_by_name():
    frame = pd.DataFrame(X, columns=["height", "width"])
    m = Regressor(
        2, gate_features=["height"], expert_features=["width", "height"],
        random_state=0,
    ).fit(frame, pd.Series(Y))  # fmt: skip
    assert m.gate_coef_.shape == (2, 1)
    assert m.coef_.shape == (2, 2)
    by_number = Regressor(
        2, gate_features=[0], expert_features=[1, 0], random_state=0
    ).fit(X, Y)
    np.testing.assert_allclose(m.coef_, by_number.coef_)
    with pytest.raises(ValueError, match="names the column 'depth'"):
        Regressor(2, gate_features=["depth"]).fit(frame, Y)


def test_float32(mixture):
    m = Regressor(2, random_state=0).fit(X.astype(np.float32), Y.astype(np.float32))
    assert m.predict(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(m.coef_, mixture.coef_, atol=1e-2)


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_weights_are_repetitions(offset):
    times = np.random.default_rng(0).integers(0, 3, len(X))
    again = np.repeat(np.arange(len(X)), times)
    how = {"random_state": 0, "tol": 1e-11}
    a = Regressor(2, **how).fit(X + offset, Y + offset, times)
    b = Regressor(2, **how).fit((X + offset)[again], (Y + offset)[again])
    assert a.log_likelihood_ == pytest.approx(b.log_likelihood_, rel=1e-8)
    np.testing.assert_allclose(
        a.predict(X + offset), b.predict(X + offset), rtol=1e-7, atol=1e-4
    )


# ---------------------------------------------------------------------------- manners


def test_clone_pickle_and_pipeline(mixture):
    again = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(again.predict(X), mixture.predict(X))
    with pytest.raises(NotFittedError):
        clone(mixture).predict(X)
    pipe = make_pipeline(StandardScaler(), Regressor(2, random_state=0))
    assert cross_val_score(pipe, X, Y, cv=3).mean() > 0.4
    search = GridSearchCV(
        Classifier(random_state=0), {"n_components": [1, 2]}, cv=2
    ).fit(X, LABELS)
    assert search.best_params_["n_components"] in (1, 2)


def test_failed_refit_leaves_the_fit():
    m = Regressor(2, random_state=0).fit(X, Y)
    before = pickle.dumps(m.__dict__)
    with pytest.raises(ValueError, match="NaN"):
        m.fit(X, np.where(np.arange(len(Y)) == 3, np.nan, Y))
    with pytest.raises(ValueError):
        m.fit(X[:, :1], Y[:5])
    lazy = da.from_array(np.where(np.arange(len(Y)) == 3, np.nan, Y), chunks=100)
    with pytest.raises(ValueError, match="X or y contains NaN"):
        m.fit(da.from_array(X, chunks=(100, 2)), lazy)
    assert pickle.dumps(m.__dict__) == before


def test_warm_start():
    m = Regressor(2, random_state=0, warm_start=True, tol=1e-9).fit(X, Y)
    first = m.log_likelihood_
    m.fit(X, Y)
    assert m.log_likelihood_ >= first - 1e-6
    assert m.n_iter_ <= 4
    with pytest.raises(ValueError, match="of other components"):
        m.set_params(n_components=3).fit(X, Y)


def test_select_n_components():
    found = Regressor(random_state=0).select_n_components(X, Y, candidates=[1, 2, 3])
    assert found.n_components == 2
    assert found.best.bic(X, Y) == found.criteria[2]
    with pytest.raises(ValueError, match="criterion"):
        Regressor().select_n_components(X, Y, criterion="cv")


def test_separable_gate():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (150, 1))
    x = x[np.abs(x[:, 0]) > 0.05]
    y = np.where(x[:, 0] < 0, 1 + 2 * x[:, 0], 5 - x[:, 0])
    y = y + 0.1 * rng.normal(size=len(y))
    with pytest.warns(UserWarning, match="a ridge of 0.001"):
        m = Regressor(2, random_state=0).fit(x, y)
    assert m.converged_
    assert m.reg_gate_ == 1e-3
    for side, line in ((x[:, 0] < 0, 0), (x[:, 0] > 0, 1)):
        exact = LinearRegression().fit(x[side], y[side])
        k = m.intercept_.argsort()[line]
        np.testing.assert_allclose(m.coef_[k], exact.coef_, atol=1e-2)
        assert m.intercept_[k] == pytest.approx(exact.intercept_, abs=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = Regressor(2, reg_gate=0.1, random_state=0).fit(x, y)
    assert chosen.reg_gate_ == 0.1
    # and it is smoother
    assert np.abs(chosen.gate_coef_).max() < np.abs(m.gate_coef_).max()


def test_gate_without_columns():
    constant = Regressor(2, gate="constant", random_state=0).fit(X, Y)
    assert constant.gate_coef_.shape == (2, 0)
    np.testing.assert_allclose(
        constant.gate_proba(X), np.tile(constant.weights_, (len(X), 1)), atol=1e-4
    )
    equal = Regressor(2, gate="equal", random_state=0).fit(X, Y)
    np.testing.assert_allclose(equal.gate_proba(X), 0.5)
    assert equal.n_parameters_ == constant.n_parameters_ - 1
    assert equal.log_likelihood_ < constant.log_likelihood_


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"family": "gamma"}, "family must be"),
        ({"gate": "hard"}, "gate must be"),
        ({"init": "zeros"}, "init must be"),
        ({"strategy": "two_shots"}, "strategy must be"),
        ({"reduction_gate": "mean"}, "reduction_gate must be"),
        ({"reg_gate": -1.0}, "reg_gate must not be negative"),
        ({"var_floor": 2.0}, "var_floor must lie"),
        ({"covariance_type": "spherical"}, "covariance_type must be"),
        ({"n_components": 0}, "n_components"),
        ({"n_polish": 0}, "n_polish"),
        ({"expert_features": [7]}, "names the column 7"),
        ({"expert_features": [0, 0]}, "names a column twice"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Regressor(**settings).fit(X, Y)


def test_responses_that_make_no_sense(classifier, mixture):
    with pytest.raises(ValueError, match="negative"):
        Regressor(2, family="poisson").fit(X, Y)
    with pytest.raises(ValueError, match="one response"):
        Regressor(2, family="poisson").fit(X, np.abs(np.column_stack([Y, Y])))
    with pytest.raises(ValueError, match="requires y"):
        Regressor(2).fit(X, None)
    with pytest.raises(ValueError, match="MixtureOfExpertsClassifier"):
        Regressor(2).fit(X, LABELS)
    with pytest.raises(ValueError, match="at least 2 classes"):
        Classifier(2).fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="'hot', which the fit did not see"):
        classifier.score_samples(X[:2], ["hot", "cold"])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        mixture.score_samples(X, Y[:5])
    with pytest.raises(ValueError, match="y is a Dask array but X is in memory"):
        Regressor(2).fit(X, da.from_array(Y))


# ----------------------------------------------------------------- published fits


def table(name):
    folder = os.environ.get("DASK_EM_DATA")
    if not folder:
        pytest.skip("DASK_EM_DATA is not set")
    return pd.read_csv(Path(folder) / "moe" / name)


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "columns", "response", "settings", "wanted"),
    [
        ("NPreg.csv", ["x", "x2"], "yn", {"gate": "constant"}, -642.532014),
        ("NPreg.csv", ["x", "x2"], "yn", {"gate_features": ["x"]}, -642.063880),
        (
            "NPreg.csv", ["x"], "yp", {"gate": "constant", "family": "poisson"},
            -440.640294,
        ),
        ("tonedata.csv", ["stretchratio"], "tuned", {"gate": "constant"}, 141.198402),
        ("tonedata.csv", ["stretchratio"], "tuned", {}, 142.848014),
        ("CO2data.csv", ["GNP"], "CO2", {"gate": "constant"}, -66.939768),
        (
            "patent.csv", ["lgRD", "RDS"], "Patents",
            {
                "n_components": 3, "family": "poisson",
                "gate_features": ["RDS"], "expert_features": ["lgRD"],
            },
            -197.675021,
        ),
    ],
)  # fmt: skip
def test_published(file, columns, response, settings, wanted):
    frame = table(file)
    if "x" in frame:
        frame["x2"] = frame["x"] ** 2
    m = Regressor(**({"n_components": 2} | settings), n_init=10, random_state=0)
    m.fit(frame[columns], frame[response])
    assert m.log_likelihood_ == pytest.approx(wanted, rel=1e-6)


# ------------------------------------------------------------------- hostile readings


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3])
def test_next_to_no_noise_is_no_collapse(noise):
    rng = np.random.default_rng(0)
    first = rng.random(600) < 0.5
    X = rng.normal(size=(600, 2))
    y = np.where(first, X @ [1.0, 2.0], X @ [-1.0, 0.5]) + noise * rng.normal(size=600)
    m = Regressor(2, random_state=0).fit(X, y)
    order = m.coef_[:, 0].argsort()
    np.testing.assert_allclose(m.coef_[order], [[-1, 0.5], [1, 2]], atol=1e-2)


@pytest.mark.parametrize("strategy", ["em", "one_shot", "one_shot+polish"])
def test_variances_keep_to_the_floor(strategy):
    y = X @ [1.0, 2.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        m = Regressor(
            2, var_floor=1e-2, strategy=strategy, shards=3, random_state=0
        ).fit(X, y)
    assert m.covariances_.min() >= 1e-2 * y.var() * (1 - 1e-9)


def test_number_of_responses_is_checked(mixture, classifier):
    both = np.column_stack([Y, Y])
    two = Regressor(2, random_state=0).fit(X, np.column_stack([Y, Y**2]))
    for call in (two.score, two.score_samples, two.standard_errors):
        with pytest.raises(ValueError, match="1 responses per row, but the fit was to"):
            call(X, Y)
    with pytest.raises(ValueError, match="2 responses per row, but the fit was to 1"):
        mixture.score(X, both)
    with pytest.raises(ValueError, match="one class per row"):
        classifier.score(X, np.column_stack([LABELS, LABELS]))


def test_lazy_rows_are_checked_as_they_come(mixture):
    Xd = da.from_array(X, chunks=(100, 2))
    bad = np.where(np.arange(len(Y)) == 3, np.nan, Y)
    with pytest.raises(ValueError, match="y contains NaN"):
        mixture.score_samples(Xd, da.from_array(bad, chunks=100)).compute()
    counts = Regressor(2, family="poisson", random_state=0).fit(X, COUNTS)
    with pytest.raises(ValueError, match="negative"):
        counts.score_samples(Xd, da.from_array(Y, chunks=100)).compute()
    with pytest.raises(ValueError, match="not be negative"):
        mixture.standard_errors(X, Y, -np.ones(len(X)))
    unknown = Xd[da.from_array(X[:, 0], chunks=100) > 0]
    with pytest.raises(ValueError, match="X has chunks of unknown size"):
        Regressor(2).fit(unknown, Y[X[:, 0] > 0])
    few = da.from_array(Y, chunks=100)[da.from_array(X[:, 1], chunks=100) > 0]
    with pytest.raises(ValueError, match="give both the same chunks"):
        mixture.score_samples(unknown, few).compute()


def test_dask_frames(mixture):
    dd = pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pd.DataFrame(X, columns=["a", "b"]), npartitions=3)
    series = dd.from_pandas(pd.Series(Y), npartitions=3)
    m = Regressor(2, random_state=0, tol=1e-9).fit(frame, series)
    assert m.score(frame, series) == pytest.approx(mixture.score(X, Y))
    assert m.bic(frame, series) == pytest.approx(mixture.bic(X, Y))
    np.testing.assert_allclose(
        m.standard_errors(frame, series).coef, mixture.standard_errors(X, Y).coef, 1e-4
    )
    with pytest.raises(ValueError, match="3 partitions and y 2"):
        m.score(frame, dd.from_pandas(pd.Series(Y), npartitions=2))


def test_labelled_and_lazy(mixture):
    xarray = pytest.importorskip("xarray")
    grid = xarray.DataArray(X.reshape(40, 20, 2), dims=("lat", "lon", "what"))
    target = xarray.DataArray(Y.reshape(40, 20), dims=("lat", "lon"))
    lazy = grid.chunk(lat=10), target.chunk(lat=5)
    m = Regressor(2, random_state=0, tol=1e-9).fit(*lazy, dim=("lat", "lon"))
    assert m.log_likelihood_ == pytest.approx(mixture.log_likelihood_, rel=1e-9)
    assert m.score(*lazy) == pytest.approx(mixture.score(X, Y))
    both = xarray.concat([target, 2 * target + 1e-2 * grid[..., 0]], dim="of")
    for rows in (grid, grid.chunk(lon=10)):
        two = Regressor(2, random_state=0).fit(rows, both, dim=("lat", "lon"))
        assert two.predict(rows).dims == ("lat", "lon", "target")
        assert two.expert_predict(rows).dims == ("lat", "lon", "component", "target")


def test_resume_after_the_ridge(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (150, 1))
    y = np.where(x[:, 0] < 0, 1 + 2 * x[:, 0], 5 - x[:, 0]) + 0.1 * rng.normal(size=150)
    how = {"checkpoint": tmp_path, "random_state": 0}
    with pytest.warns(UserWarning, match="a ridge"):
        first = Regressor(2, **how).fit(x, y)
    with pytest.warns(UserWarning, match="a ridge"):
        again = Regressor(2, resume=True, **how).fit(x, y)
    assert again.log_likelihood_ == pytest.approx(first.log_likelihood_, rel=1e-6)


def test_parameters_changed_after_the_fit(mixture):
    other = pickle.loads(pickle.dumps(mixture)).set_params(n_components=3)
    assert other.expert_predict(X).shape == (800, 2)
    assert other.gate_proba(da.from_array(X, chunks=(100, 2))).shape == (800, 2)


def test_masks_of_columns():
    masked = Regressor(2, gate_features=[True, False], random_state=0).fit(X, Y)
    named = Regressor(2, gate_features=[0], random_state=0).fit(X, Y)
    np.testing.assert_array_equal(masked.gate_coef_, named.gate_coef_)
    with pytest.raises(ValueError, match="is a mask of the shape"):
        Regressor(2, gate_features=[True]).fit(X, Y)


def test_ridge_counts_as_information():
    X = StandardScaler().fit_transform(lines()[0])  # the ridge's units
    m = Classifier(1, reg_expert=50.0, tol=1e-12).fit(X, LABELS)
    theirs = LogisticRegression(C=2 / 50, tol=1e-10).fit(X, LABELS)
    np.testing.assert_allclose(-m.coef_[0, 0], theirs.coef_[0], rtol=1e-4)
    p = theirs.predict_proba(X)[:, 1]
    design = np.column_stack([np.ones(len(X)), X])
    H = (design.T * (p * (1 - p))) @ design + np.diag([0, 25.0, 25.0])
    wanted = np.sqrt(np.diag(np.linalg.inv(H)))[1:]
    np.testing.assert_allclose(m.standard_errors(X, LABELS).coef[0, 0], wanted, 1e-3)


def test_local_fits_of_too_few_rows():
    with pytest.warns(UserWarning, match="fewer rows each than the mixture has param"):
        Regressor(2, strategy="one_shot", shards=100, random_state=0).fit(X, Y)


def test_many_classes_do_without_exact_curvatures():
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(15, 2))
    labels = rng.integers(0, 15, 900)
    rows = centres[labels] + 0.5 * rng.normal(size=(900, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        m = Classifier(1, max_iter=200).fit(rows, labels)
    assert m.coef_.shape == (1, 15, 2)
    theirs = LogisticRegression(C=100, max_iter=1000).fit(rows, labels)
    assert m.score(rows, labels) > theirs.score(rows, labels) - 0.05
    assert (np.diff(m.lower_bounds_) > -1e-9).all()


def test_reductions_of_reductions_keep_their_weight():
    from dask_em import reduce_mixture

    parts = [Regressor(2, random_state=0).fit(X[i::2], Y[i::2]) for i in range(2)]
    one = reduce_mixture(parts, random_state=0)
    assert one.reduction_.weight == 800
    again = reduce_mixture([one, parts[0]], random_state=0)
    assert again.reduction_.weight == 1200
    assert np.isnan(one.lower_bound_)
    refitted = one.set_params(warm_start=True).fit(X, Y)
    assert not hasattr(refitted, "reduction_")
