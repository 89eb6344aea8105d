"""Gaussian kernels against direct float64 formulas and scikit-learn."""

import numpy as np
import pytest
from numba import njit
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from dask_em.kernels import elementary, gaussian, simd

E_STEPS = {
    "full": gaussian.full_e_step,
    "tied": gaussian.tied_e_step,
    "diag": gaussian.diag_e_step,
    "spherical": gaussian.spherical_e_step,
}
TYPES = list(E_STEPS)
DTYPES = [np.float64, np.float32]
TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}


def make_precisions(kind, k, d, rng):
    if kind == "diag":
        return rng.uniform(0.5, 2.0, size=(k, d))
    if kind == "spherical":
        return rng.uniform(0.5, 2.0, size=k)
    shape = (k, d, d) if kind == "full" else (d, d)
    noise = np.triu(rng.normal(scale=0.3 / np.sqrt(d), size=shape), 1)
    return noise + np.eye(d) * rng.uniform(0.5, 2.0, size=(*shape[:-2], 1, d))


def make_problem(kind, n=777, d=7, k=3, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(scale=2 / np.sqrt(d), size=(k, d))
    X = (means[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(dtype)
    log_weights = np.log(rng.dirichlet(np.full(k, 5.0)))
    return X, rng.random(n), log_weights, means, make_precisions(kind, k, d, rng)


def as_full(kind, precisions, k, d):
    if kind == "tied":
        return np.array([precisions] * k)
    if kind == "diag":
        return np.array([np.diag(p) for p in precisions])
    if kind == "spherical":
        return np.array([p * np.eye(d) for p in precisions])
    return precisions


def oracle_log_prob(kind, X, log_weights, means, precisions):
    k, d = means.shape
    factors = as_full(kind, precisions, k, d)
    whitened = np.einsum("nkj,kji->nki", X.astype(np.float64)[:, None] - means, factors)
    log_det = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    return (
        log_weights
        + log_det
        - 0.5 * d * np.log(2 * np.pi)
        - 0.5 * (whitened**2).sum(axis=2)
    )


def oracle(kind, X, sample_weight, log_weights, means, precisions):
    """Direct formulas in float64, returned in the form of the kernel."""
    log_prob = oracle_log_prob(kind, X, log_weights, means, precisions)
    log_likelihood = logsumexp(log_prob, axis=1)
    w = np.ones(len(X)) if sample_weight is None else sample_weight
    r = np.exp(log_prob - log_likelihood[:, None]) * w[:, None]
    centered = X.astype(np.float64)[:, None] - means
    first = np.einsum("nk,nkd->kd", r, centered)
    if kind == "full":
        second = np.einsum("nk,nki,nkj->kij", r, centered, centered, optimize=True)
    else:
        second = np.einsum("nk,nkd->kd", r, centered**2)
    if kind == "spherical":
        second = second.sum(axis=1)
    statistics = (r.sum(axis=0), first, second, w @ log_likelihood)
    return statistics[:2] + statistics[3:] if kind == "tied" else statistics


def assert_statistics(actual, expected, tolerance):
    """Compare relative to the largest entry of each statistic."""
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        a, e = np.asarray(a), np.asarray(e)
        assert a.dtype == np.float64 and a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * np.abs(e).max())


def run(kind, X, w, origin, *parameters):
    return E_STEPS[kind](X, w, origin, *parameters)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        (777, 7, 3),
        (128, 4, 2),
        (129, 8, 5),
        (1, 3, 2),
        (300, 1, 3),
        (300, 5, 1),
        (1, 1, 1),
        (150, 130, 2),
        (300, 2, 70),
    ],
)
def test_statistics_match_direct_formulas(kind, dtype, n, d, k):
    X, w, *parameters = make_problem(kind, n, d, k, dtype)
    for weight in (None, w):
        actual = run(kind, X, weight, X.mean(axis=0), *parameters)
        assert_statistics(
            actual, oracle(kind, X, weight, *parameters), TOLERANCE[dtype]
        )


def test_oracle_agrees_with_scipy():
    X, _, log_weights, means, precisions = make_problem("full", n=50)
    expected = [
        a + multivariate_normal(m, np.linalg.inv(u @ u.T)).logpdf(X)
        for a, m, u in zip(log_weights, means, precisions, strict=True)
    ]
    actual = oracle_log_prob("full", X, log_weights, means, precisions)
    np.testing.assert_allclose(actual, np.transpose(expected), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TYPES)
def test_agrees_with_sklearn(kind, dtype):
    X, _, log_weights, means, precisions = make_problem(kind, dtype=dtype)
    model = GaussianMixture(len(means), covariance_type=kind)
    model.weights_, model.means_ = np.exp(log_weights), means
    model.precisions_cholesky_ = precisions
    scores = model.score_samples(X.astype(np.float64))
    origin = X.mean(axis=0)
    log_likelihood = run(kind, X, None, origin, log_weights, means, precisions)[-1]
    assert log_likelihood == pytest.approx(scores.sum(), rel=TOLERANCE[dtype])
    log_prob = gaussian.weighted_log_prob(
        X, origin, log_weights, means, precisions, kind
    )
    assert log_prob.dtype == dtype
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(
        logsumexp(log_prob, axis=1), scores, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("kind", TYPES)
def test_log_prob_over_several_tiles(kind):
    X, _, *parameters = make_problem(kind, n=5000)
    actual = gaussian.weighted_log_prob(X, X[0], *parameters, kind)
    expected = oracle_log_prob(kind, X, *parameters)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TYPES)
def test_any_layout(kind, dtype):
    X, w, *parameters = make_problem(kind, dtype=dtype)
    expected = run(kind, X, w, X[0], *parameters)
    wide = np.zeros((2 * len(X), 3 * X.shape[1]), dtype)
    wide[::2, 1::3] = X
    frozen = X.copy()
    frozen.flags.writeable = False
    strided_weight = np.repeat(w, 2)[::2]
    for layout in (np.asfortranarray(X), wide[::2, 1::3], frozen, X[::-1][::-1]):
        actual = run(kind, layout, strided_weight, X[0], *parameters)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("kind", TYPES)
def test_no_rows_give_zeros(kind):
    X, _, *parameters = make_problem(kind)
    expected = run(kind, X, None, X[0], *parameters)
    empty = run(kind, X[:0], None, X[0], *parameters)
    for a, e in zip(empty, expected, strict=True):
        assert np.shape(a) == np.shape(e)
        assert not np.any(a)


@pytest.mark.parametrize(("dtype", "offset"), [(np.float64, 1e8), (np.float32, 1e3)])
@pytest.mark.parametrize("kind", TYPES)
def test_common_offset_does_not_cost_accuracy(kind, dtype, offset):
    X, w, log_weights, means, precisions = make_problem(kind)
    # On a grid that the shifted rows and means are exact on, both runs see the same.
    grid = 2.0**20 if dtype == np.float64 else 2.0**10
    X, means = np.round(X * grid) / grid, np.round(means * grid) / grid
    shifted = (X + offset).astype(dtype)
    assert np.array_equal(shifted.astype(np.float64) - offset, X)
    # float32 would round this origin by more than the tolerance.
    origin = np.full(X.shape[1], offset + 0.09)
    parameters = (log_weights, means, precisions)
    actual = run(
        kind,
        shifted,
        w,
        origin,
        log_weights,
        means + offset,
        precisions,
    )
    assert_statistics(actual, oracle(kind, X, w, *parameters), TOLERANCE[dtype])


@pytest.mark.parametrize("kind", TYPES)
def test_moments_are_about_the_exact_means(kind):
    """Means that float32 rounds by many times the rows' spread about them."""
    rng = np.random.default_rng(1)
    center = np.array([4096.0, -8192.0, 2048.0])
    steps = rng.integers(-2, 3, size=(500, 3)) * 2.0**-10
    X = (center + steps).astype(np.float32)
    means = (center + 2.0**-14 * np.array([1.0, 1.3, -0.7]))[None]
    precisions = np.eye(3)[None] if kind == "full" else np.ones((1, 3))
    precisions = {"tied": np.eye(3), "spherical": np.ones(1)}.get(kind, precisions)
    parameters = (np.zeros(1), means, precisions)
    actual = run(kind, X, None, np.zeros(3), *parameters)
    assert_statistics(actual, oracle(kind, X, None, *parameters), 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tied_rows_and_means_meet_the_same_factor(dtype):
    """A row at its mean is at no distance, however far from the origin both are."""
    # Powers of two, so that the projections are as exact as the rounded factor.
    means = np.array([[2.0**24, -(2.0**25)]])
    parameters = (np.zeros(1), means, np.diag([1 / 3, 1 / 7]))
    X = np.repeat(means, 10, axis=0).astype(dtype)
    expected = -10 * (np.log(21) + np.log(2 * np.pi))
    actual = gaussian.tied_e_step(X, None, np.zeros(2), *parameters)[-1]
    assert actual == pytest.approx(expected, rel=TOLERANCE[dtype])
    log_prob = gaussian.weighted_log_prob(X, np.zeros(2), *parameters, "tied")
    assert log_prob.sum() == pytest.approx(expected, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TYPES)
def test_weight_two_equals_repeated_row(kind, dtype):
    X, _, *parameters = make_problem(kind, n=200, dtype=dtype)
    w = np.random.default_rng(2).integers(0, 3, size=len(X))
    weighted = run(kind, X, w, X[0], *parameters)
    repeated = run(kind, np.repeat(X, w, axis=0), None, X[0], *parameters)
    assert_statistics(weighted, repeated, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TYPES)
def test_empty_component_gets_nothing(kind, dtype):
    X, w, log_weights, means, precisions = make_problem(kind, dtype=dtype)
    log_weights[1] = -np.inf
    parameters = (log_weights, means, precisions)
    actual = run(kind, X, w, X[0], *parameters)
    assert_statistics(actual, oracle(kind, X, w, *parameters), TOLERANCE[dtype])
    assert all(not np.any(statistic[1]) for statistic in actual[:-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_invalid_rows_show_in_the_log_likelihood(kind, dtype, value):
    X, _, *parameters = make_problem(kind, dtype=dtype)
    origin = X[0].copy()
    X[400, 2] = value
    assert np.isnan(run(kind, X, None, origin, *parameters)[-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TYPES)
def test_far_outliers(kind, dtype):
    X, w, *parameters = make_problem(kind, dtype=dtype)
    X[5], X[700] = 1e4, -3e5
    actual = run(kind, X, w, np.zeros(X.shape[1]), *parameters)
    assert np.all([np.all(np.isfinite(a)) for a in actual])
    assert_statistics(actual, oracle(kind, X, w, *parameters), TOLERANCE[dtype])


@pytest.mark.parametrize("kind", TYPES)
def test_components_far_apart(kind):
    X, w, log_weights, means, precisions = make_problem(kind)
    labels = np.arange(len(X)) % 3
    distant = means + 1e6 * np.arange(3)[:, None]
    X = X - means[labels] + distant[labels]
    parameters = (log_weights, distant, precisions)
    actual = run(kind, X, w, X.mean(axis=0), *parameters)
    # The rows carry 1e6 times the rounding error of centred ones.
    assert_statistics(actual, oracle(kind, X, w, *parameters), 1e-8)
    counts = np.bincount(labels, weights=w)
    np.testing.assert_allclose(actual[0], counts, rtol=1e-12)


def test_scatter_is_symmetric():
    X, w, *parameters = make_problem("full", d=10)
    second = gaussian.full_e_step(X, w, X[0], *parameters)[2]
    np.testing.assert_array_equal(second, second.transpose(0, 2, 1))


def test_rejects_other_dtypes():
    X, _, *parameters = make_problem("full")
    with pytest.raises(TypeError, match="float32 or float64"):
        gaussian.full_e_step(X.astype(int), None, X[0], *parameters)


@njit(fastmath=simd.FASTMATH)
def apply_exp(x, result):
    for i in range(x.size):
        result[i] = elementary.exp(x[i])


@njit(fastmath=simd.FASTMATH)
def apply_log(x, result):
    for i in range(x.size):
        result[i] = elementary.log(x[i])


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_accurate_to_an_ulp(dtype):
    lowest = np.ceil(np.log(np.finfo(dtype).tiny))
    x = np.concatenate([np.linspace(lowest, 0, 40001), -np.logspace(-18, 1, 999)])
    x = x.astype(dtype)
    actual = np.empty_like(x)
    apply_exp(x, actual)
    exact = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(actual - exact) / np.spacing(exact.astype(dtype))) < 1.1
    special = np.array([0, lowest - 1, -np.inf, np.nan], dtype)
    result = np.empty_like(special)
    apply_exp(special, result)
    np.testing.assert_array_equal(result, [1, 0, 0, np.nan])


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_is_accurate_to_the_rounding_of_one(dtype):
    x = np.concatenate([np.linspace(1, 4, 30001), np.logspace(0, 6, 30001)])
    x = x.astype(dtype)
    actual = np.empty_like(x)
    apply_log(x, actual)
    exact = np.log(x.astype(np.longdouble))
    error = np.abs(actual - exact) / np.maximum(exact, 1)
    assert np.max(error) < 1.5 * np.finfo(dtype).eps
    result = np.empty(2, dtype)
    apply_log(np.array([1, np.nan], dtype), result)
    np.testing.assert_array_equal(result, [0, np.nan])
