"""FactorAnalysis and PPCA, with scikit-learn's and the Gaussian itself as oracles."""

import pickle

import dask.array as da
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Sklearns
from sklearn.decomposition._factor_analysis import _ortho_rotation
from sklearn.exceptions import ConvergenceWarning

from dask_em.estimators.factor_analysis import PPCA, FactorAnalysis

N, D, K = 400, 7, 2


def make_data(seed=0, n=N):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(D, K))
    noise = rng.uniform(0.3, 1.2, D)
    X = rng.normal(size=(n, K)) @ W.T + rng.normal(size=(n, D)) * np.sqrt(noise)
    return X + 5 * rng.normal(size=D), W, noise


X, TRUE_LOADINGS, TRUE_NOISE = make_data()
HIDDEN = np.random.default_rng(7).random(X.shape) < 0.25
HIDDEN[3] = True  # a row of which nothing is known
HOLES = np.where(HIDDEN, np.nan, X)
BOTH = pytest.mark.parametrize("kind", [FactorAnalysis, PPCA])
#: Chunks of rows and columns, one of them empty.
CHUNKS = ((100, 0, 30, 270), (D,))


def log_densities(rows, mean, covariance):
    """Of what was observed of each row, by SciPy."""
    found = []
    for x in rows:
        o = ~np.isnan(x)
        known = multivariate_normal(mean[o], covariance[np.ix_(o, o)]) if o.any() else 0
        found.append(known.logpdf(x[o]) if o.any() else 0.0)
    return np.array(found)


# ------------------------------------------------------------------ nothing missing


@pytest.mark.parametrize("k", [0, 1, 2])
def test_same_as_scikit_learn(k):
    ours = FactorAnalysis(k, tol=1e-12).fit(X)
    theirs = Sklearns(k, tol=1e-9, max_iter=20_000, svd_method="lapack").fit(X)
    assert ours.converged_
    np.testing.assert_allclose(ours.loglike_[-1], theirs.loglike_[-1], rtol=1e-9)
    np.testing.assert_allclose(ours.score(X), theirs.score(X), rtol=1e-9)
    for method in ("get_covariance", "get_precision"):
        a, b = (getattr(m, method)() for m in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=2e-4)
    np.testing.assert_allclose(ours.mean_, theirs.mean_)
    signs = np.sign(np.sum(ours.components_ * theirs.components_, axis=1))
    np.testing.assert_allclose(
        ours.components_, signs[:, None] * theirs.components_, atol=1e-3
    )
    np.testing.assert_allclose(
        ours.transform(X), signs * theirs.transform(X), atol=1e-3
    )
    assert (np.diff(ours.result_.trace.lower_bound_before) > -1e-9).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_that_goes_to_zero(seed):
    """Heywood cases, where EM is slow and scikit-learn ends early."""
    rows = np.random.default_rng(seed).normal(size=(25, 4))
    ours = FactorAnalysis(2, tol=1e-8).fit(rows)
    theirs = Sklearns(2, tol=1e-6, max_iter=20_000, svd_method="lapack").fit(rows)
    assert ours.loglike_[-1] >= theirs.loglike_[-1] - 1e-5 * abs(theirs.loglike_[-1])
    assert (ours.noise_variance_ >= 1e-8 * rows.var(axis=0) * (1 - 1e-9)).all()
    assert ours.n_iter_ < 200


@pytest.mark.parametrize("k", [1, 2, 4])
def test_principal_components_in_closed_form(k):
    values, vectors = np.linalg.eigh(np.cov(X.T, ddof=0))
    ours = PPCA(k).fit(X)
    np.testing.assert_allclose(ours.noise_variance_, values[: D - k].mean(), rtol=1e-6)
    np.testing.assert_allclose(ours.explained_variance_, values[: -k - 1 : -1], 1e-6)
    cosines = np.sum(ours.components_ * vectors[:, : -k - 1 : -1].T, axis=1)
    np.testing.assert_allclose(abs(cosines), 1, rtol=1e-6)
    theirs = PCA(k).fit(X)
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-6)
    np.testing.assert_allclose(
        ours.explained_variance_, theirs.explained_variance_ * (N - 1) / N
    )
    v, s = ours.explained_variance_, ours.noise_variance_
    np.testing.assert_allclose(
        ours.transform(X), theirs.transform(X) * np.sqrt(v - s) / v, atol=1e-6
    )
    np.testing.assert_allclose(
        ours.get_precision() @ ours.get_covariance(), np.eye(D), atol=1e-9
    )


@pytest.mark.parametrize("rotation", ["varimax", "quartimax"])
def test_rotations_are_those_of_scikit_learn(rotation):
    plain = FactorAnalysis(3).fit(X)
    turned = FactorAnalysis(3, rotation=rotation).fit(X)
    known = _ortho_rotation(plain.components_.T, method=rotation)
    np.testing.assert_allclose(turned.components_, known, atol=1e-10)
    np.testing.assert_allclose(turned.get_covariance(), plain.get_covariance())


def test_a_start_of_ones_own():
    ours = FactorAnalysis(2, noise_variance_init=np.linspace(1, 2, D), tol=1e-11).fit(X)
    known = FactorAnalysis(2, tol=1e-11).fit(X)
    np.testing.assert_allclose(ours.get_covariance(), known.get_covariance(), atol=1e-4)
    assert ours.loglike_[0] != pytest.approx(known.loglike_[0])


# ------------------------------------------------------------------------- missing


@BOTH
def test_likelihood_is_that_of_what_was_observed(kind):
    ours = kind(K).fit(HOLES)
    known = log_densities(HOLES, ours.mean_, ours.get_covariance())
    np.testing.assert_allclose(ours.score_samples(HOLES), known, atol=1e-10)
    assert ours.score_samples(HOLES)[3] == 0
    assert ours.lower_bound_ == pytest.approx(known.mean(), rel=1e-12)
    assert ours.loglike_[-1] == pytest.approx(known.sum(), rel=1e-12)


@BOTH
def test_no_direction_climbs_from_the_optimum(kind):
    rows = HOLES[:200]
    ours = kind(K, tol=1e-13).fit(rows)

    def score(loadings, mean, noise):
        return log_densities(rows, mean, loadings @ loadings.T + np.diag(noise)).mean()

    rng = np.random.default_rng(0)
    point = ours._loadings(), ours.mean_, np.broadcast_to(ours.noise_variance_, D)
    slopes = []
    for _ in range(3):
        noise = (
            rng.normal(size=D) if kind is FactorAnalysis else rng.normal() * np.ones(D)
        )
        step = [1e-4 * rng.normal(size=(D, K)), 1e-4 * rng.normal(size=D), 1e-4 * noise]
        ahead, behind = (
            score(*(p + sign * s for p, s in zip(point, step, strict=True)))
            for sign in (1, -1)
        )
        slopes.append((ahead - behind) / 2e-4)
    assert np.abs(slopes).max() < 2e-4
    moved = score(point[0], point[1] + 0.05, point[2])
    assert moved < ours.lower_bound_ - 1e-3  # so that small slopes mean something


@BOTH
def test_imputation_is_nearly_as_good_as_the_truth(kind):
    rows, _, _ = make_data(n=3000)
    hidden = np.random.default_rng(1).random(rows.shape) < 0.2
    holes = np.where(hidden, np.nan, rows)
    ours = kind(K).fit(holes)
    filled = ours.impute(holes)
    np.testing.assert_array_equal(filled[~hidden], rows[~hidden])
    truth = FactorAnalysis(K).fit(rows[:10])
    truth.components_, truth.noise_variance_ = TRUE_LOADINGS.T, TRUE_NOISE
    truth.mean_ = rows.mean(axis=0)

    def error(filled):
        return np.sqrt(np.mean((filled - rows)[hidden] ** 2))

    slack = 1.01 if kind is FactorAnalysis else 1.05  # noise is not isotropic here
    best = error(truth.impute(holes))
    assert error(filled) < slack * best
    assert error(np.where(hidden, np.nanmean(holes, axis=0), rows)) > 1.3 * best


def test_imputation_is_the_conditional_expectation():
    ours = FactorAnalysis(K).fit(HOLES)
    C, m = ours.get_covariance(), ours.mean_
    x = HOLES[0]
    o = ~np.isnan(x)
    assert 0 < o.sum() < D
    known = m[~o] + C[np.ix_(~o, o)] @ np.linalg.solve(C[np.ix_(o, o)], x[o] - m[o])
    np.testing.assert_allclose(ours.impute(HOLES)[0, ~o], known, rtol=1e-9)
    np.testing.assert_allclose(ours.impute(HOLES)[3], m)
    z = ours.transform(HOLES)
    np.testing.assert_allclose(z[3], 0, atol=1e-15)
    np.testing.assert_allclose(ours.inverse_transform(z)[0, ~o], known, rtol=1e-9)
    with pytest.raises(ValueError, match="the 2 columns that transform"):
        ours.inverse_transform(np.ones((3, K + 1)))


@BOTH
@pytest.mark.parametrize("rows", [X, HOLES])
def test_far_from_the_origin(kind, rows):
    near, far = kind(K).fit(rows), kind(K).fit(rows + 1e8)
    np.testing.assert_allclose(far.get_covariance(), near.get_covariance(), atol=1e-6)
    np.testing.assert_allclose(far.mean_ - 1e8, near.mean_, atol=1e-5)
    np.testing.assert_allclose(far.lower_bound_, near.lower_bound_, rtol=1e-7)
    np.testing.assert_allclose(far.score(rows + 1e8), far.lower_bound_, rtol=1e-7)


@BOTH
@pytest.mark.parametrize("rows", [X, HOLES])
def test_a_weight_is_a_repeated_row(kind, rows):
    weights = np.random.default_rng(1).integers(0, 4, size=N)
    weighted = kind(K).fit(rows, sample_weight=weights)
    repeated = kind(K).fit(rows.repeat(weights, axis=0))
    np.testing.assert_allclose(
        weighted.get_covariance(), repeated.get_covariance(), rtol=1e-6, atol=1e-8
    )
    assert weighted.score(rows, sample_weight=weights) == pytest.approx(
        repeated.score(rows.repeat(weights, 0))
    )


def test_constant_columns():
    for rows in (X.copy(), HOLES.copy()):
        rows[:, 1] = 0.1
        ours = FactorAnalysis(K).fit(rows)
        assert 0 < ours.noise_variance_[1] < 1e-6
        np.testing.assert_allclose(ours.components_[:, 1], 0, atol=1e-9)
        assert ours.mean_[1] == pytest.approx(0.1)
        assert np.isfinite(ours.score(rows))
        assert np.isfinite(PPCA(K).fit(rows).transform(rows)).all()


# ---------------------------------------------------------------- kinds of input


@BOTH
def test_dask_arrays(kind):
    lazy = da.from_array(HOLES, chunks=CHUNKS)
    ours, known = kind(K).fit(lazy), kind(K).fit(HOLES)
    np.testing.assert_allclose(ours.get_covariance(), known.get_covariance(), rtol=1e-7)
    for method in ("transform", "impute", "score_samples"):
        found = getattr(known, method)(lazy)
        assert isinstance(found, da.Array)
        assert found.chunks[0] == lazy.chunks[0]
        np.testing.assert_allclose(
            found.compute(scheduler="sync"), getattr(known, method)(HOLES), atol=1e-12
        )
    assert known.score(lazy) == pytest.approx(known.score(HOLES))
    rows = known.inverse_transform(known.transform(lazy))
    whole = known.inverse_transform(da.ones((2, K), dtype=int))  # are no whole numbers
    np.testing.assert_allclose(whole, known.inverse_transform(np.ones((2, K))))
    with pytest.raises(ValueError, match="Expected 2D array"):
        known.inverse_transform(da.ones(K))
    assert isinstance(rows, da.Array)
    assert rows.shape == (N, D)


@BOTH
def test_float32(kind):
    single, double = kind(K).fit(HOLES.astype(np.float32)), kind(K).fit(HOLES)
    for name in ("components_", "mean_", "noise_variance_"):
        assert getattr(single, name).dtype == np.float32
        np.testing.assert_allclose(
            getattr(single, name), getattr(double, name), rtol=1e-2, atol=1e-2
        )
    for method in ("transform", "impute", "score_samples"):
        assert getattr(single, method)(HOLES.astype(np.float32)).dtype == np.float32


def test_data_frames():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(HOLES, columns=list("abcdefg"))
    ours = PPCA(K).set_output(transform="pandas").fit(frame)
    assert ours.feature_names_in_.tolist() == list("abcdefg")
    assert ours.transform(frame).columns.tolist() == ["ppca0", "ppca1"]
    with pytest.raises(ValueError, match="same order"):
        ours.impute(frame[list("bacdefg")])
    dd = pytest.importorskip("dask.dataframe")
    lazy = dd.from_pandas(frame.convert_dtypes(), npartitions=2)  # with NA for NaN
    again = PPCA(K).fit(lazy)
    np.testing.assert_allclose(again.mean_, ours.mean_)
    rows = again.inverse_transform(dd.from_pandas(frame[["a", "b"]] * 0 + 1, 2))
    assert rows.shape[1] == D


@pytest.mark.parametrize("chunked", [False, True])
def test_labelled(chunked):
    xr = pytest.importorskip("xarray")
    field = xr.DataArray(
        HOLES.reshape(20, 20, D),
        dims=("time", "x", "level"),
        coords={"time": np.arange(20), "level": list("abcdefg")},
    )
    if chunked:
        field = field.chunk({"time": 7, "x": 6})
    ours, known = PPCA(K).fit(field, dim=("time", "x")), PPCA(K).fit(HOLES)
    np.testing.assert_allclose(ours.get_covariance(), known.get_covariance(), rtol=1e-7)
    factors = ours.transform(field)
    assert factors.dims == ("time", "x", "component")
    assert (factors.chunks is not None) == chunked
    np.testing.assert_allclose(
        factors.values.reshape(-1, K), known.transform(HOLES), atol=1e-6
    )
    filled = ours.impute(field.transpose("level", "x", "time"))
    assert filled.dims == ("x", "time", "level")
    xr.testing.assert_equal(filled.level, field.level)
    np.testing.assert_allclose(
        filled.transpose(*field.dims).values.reshape(-1, D),
        known.impute(HOLES),
        atol=1e-6,
    )
    back = ours.inverse_transform(factors)
    assert back.dims == field.dims
    xr.testing.assert_equal(back.time, field.time)
    np.testing.assert_allclose(
        back.values.reshape(-1, D),
        known.inverse_transform(known.transform(HOLES)),
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="component"):
        known.inverse_transform(factors)


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (FactorAnalysis, {"n_components": D + 1}, "from 0 to 7"),
        (FactorAnalysis, {"n_components": 2.0}, "n_components must be None or"),
        (PPCA, {"n_components": D}, "from 1 to 6 for data with 7 features"),
        (FactorAnalysis, {"rotation": "round"}, "rotation must be 'varimax'"),
        (FactorAnalysis, {"noise_variance_init": [1.0]}, "7 variances above 0"),
        (FactorAnalysis, {"noise_variance_init": np.zeros(D)}, "7 variances above 0"),
        (PPCA, {"tol": -1}, "tol must be"),
        (PPCA, {"max_iter": 0}, "max_iter must be"),
        (PPCA, {"schedule": "whenever"}, "schedule must be one of"),
    ],
)
def test_bad_settings_get_one_clear_error(kind, settings, words):
    with pytest.raises(ValueError, match=words):
        kind(**settings).fit(X)


def test_bad_rows_get_one_clear_error_and_change_nothing():
    ours = FactorAnalysis(K).fit(HOLES)
    before = {**vars(ours)}
    infinite, empty = HOLES.copy(), HOLES.copy()
    infinite[5, 2], empty[:, 4] = np.inf, np.nan
    lazy = da.from_array(infinite, chunks=CHUNKS)
    for rows, words in (
        (infinite, "contains infinity"),
        (lazy, "contains infinity in 1 rows"),
        (empty, "1 of the columns of X have no value .*column 4, from 0"),
        (X[:1], "minimum of 2"),
    ):
        with pytest.raises(ValueError, match=words):
            ours.fit(rows)
    weights = np.isnan(HOLES[:, 0]).astype(float)
    with pytest.raises(ValueError, match="column 0, from 0"):
        ours.fit(HOLES, sample_weight=weights)
    assert all(vars(ours)[name] is value for name, value in before.items())
    for rows in (infinite, lazy):
        with pytest.raises(ValueError, match="infinity"):
            np.asarray(ours.transform(rows))


def test_too_few_passes_warn_and_a_fit_can_be_resumed(tmp_path):
    how = {"checkpoint": tmp_path, "resume": True, "tol": 1e-9, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        FactorAnalysis(K, max_iter=3, **how).fit(HOLES)
    ours = FactorAnalysis(K, **how).fit(HOLES)
    known = FactorAnalysis(K, tol=1e-9).fit(HOLES)
    assert ours.result_.resumed_from is not None
    assert ours.lower_bound_ == pytest.approx(known.lower_bound_, abs=1e-7)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.transform(HOLES), ours.transform(HOLES))
