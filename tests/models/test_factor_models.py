"""Factor models: what their statistics are, and that every schedule keeps them."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dask_em import Block, fit_em
from dask_em.models import factor_patterns, factor_start
from dask_em.models.factor_analysis import FactorModel, FactorParams
from dask_em.models.factor_summary import FactorSummary
from dask_em.schedules import BoundedStaleness, FractionBarrier, Synchronous
from dask_em.testing import SCHEDULES as EVERY
from dask_em.testing import assert_monotone, check_model
from dask_em.transports import Local, Simulated

NOISES = ("diagonal", "isotropic")
SCHEDULES = (Synchronous(), FractionBarrier(0.3), BoundedStaleness(1, 0.25))


def rows(n, d, k, *, missing=0.0, patterns=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + 0.7 * rng.normal(
        size=(n, d)
    )
    if patterns is None:
        X[rng.random(X.shape) < missing] = np.nan
    else:
        masks = rng.random((patterns, d)) < missing
        X[masks[rng.integers(patterns, size=n)]] = np.nan
    return X


def some_params(d, k, origin, seed=1):
    rng = np.random.default_rng(seed)
    return FactorParams(
        loadings=rng.normal(size=(d, k)),
        shift=0.1 * rng.normal(size=d),
        noise=rng.uniform(0.3, 1.0, d),
        origin=origin,
        scale=np.ones(d),
    )


def by_hand(params, X, w):
    """Statistics and log-likelihood, row by row from the joint Gaussian."""
    d, k = params.loadings.shape
    second, cross, square = np.zeros((d, k + 1, k + 1)), np.zeros((d, k + 1)), 0.0
    likelihood = 0.0
    covariance = params.loadings @ params.loadings.T + np.diag(params.noise)
    for x, weight in zip(X, w, strict=True):
        o = ~np.isnan(x)
        y = np.where(o, x - params.origin, 0.0)
        W, S = params.loadings[o], covariance[np.ix_(o, o)]
        gain = np.linalg.solve(S, W).T
        mean = np.append(gain @ (y[o] - params.shift[o]), 1.0)
        products = np.outer(mean, mean)
        products[:k, :k] += np.eye(k) - gain @ W
        second += weight * o[:, None, None] * products
        cross += weight * np.outer(y, mean)
        square = square + weight * y**2
        if o.any():
            likelihood += weight * multivariate_normal.logpdf(x[o], params.mean[o], S)
    return second, cross, square, likelihood


@pytest.mark.parametrize(
    ("noise", "missing", "schedules"),
    [
        ("diagonal", 0.0, SCHEDULES[1:2]),
        ("diagonal", 0.15, SCHEDULES[2:]),
        pytest.param("diagonal", 0.15, EVERY, marks=pytest.mark.slow),
        pytest.param("isotropic", 0.0, EVERY, marks=pytest.mark.slow),
        pytest.param("isotropic", 0.15, EVERY, marks=pytest.mark.slow),
    ],
)
def test_model(noise, missing, schedules):
    X = rows(250, 6, 1, missing=missing)
    check_model(FactorModel(1, noise), X, schedules=schedules)


@pytest.mark.parametrize(
    ("missing", "patterns"), [(0.0, None), (0.3, None), (0.3, 3), (1.0, 1)]
)
@pytest.mark.parametrize("n", [90, 900])  # as rows, and as moments where they repeat
def test_e_step_is_that_of_the_joint_gaussian(n, missing, patterns):
    X = rows(n, 6, 2, missing=missing, patterns=patterns) + 3.0
    if patterns == 3:
        X[5:10] = np.nan
    w = np.random.default_rng(3).uniform(0.5, 2.0, n)
    model, block = FactorModel(2), Block(X, None, w)
    summary = model.survey(block)
    params = some_params(6, 2, np.full(6, 2.9))
    summary = FactorSummary(**{**vars(summary), "mean": params.origin})
    prepared = model.prepare(block, summary)
    assert bool(prepared.moments) == (
        n == 900 and (missing, patterns) != (0.3, None) and missing < 1
    )
    stats, _ = model.e_step(params, prepared)
    second, cross, square, likelihood = by_hand(params, X, w)
    lower = np.tril_indices(3)
    expected = second[:, lower[0], lower[1]]
    ours = np.broadcast_to(stats.second, expected.shape)
    np.testing.assert_allclose(ours, expected, atol=1e-9 * n)
    np.testing.assert_allclose(stats.cross, cross, atol=1e-9 * n)
    np.testing.assert_allclose(stats.square, square, atol=1e-9 * n)
    assert model.lower_bound(params, stats) == pytest.approx(likelihood, rel=1e-11)


def test_too_many_features_stay_rows(monkeypatch):
    X = rows(600, 8, 2)
    model = FactorModel(2)
    reduced = fit_em(model, X, tol=1e-9)
    monkeypatch.setattr(factor_patterns, "MOST_FEATURES", 7)
    assert not model.prepare(Block(X), model.survey(Block(X))).moments
    whole = fit_em(model, X, tol=1e-9)
    np.testing.assert_allclose(whole.log_likelihood, reduced.log_likelihood, rtol=1e-12)


def test_survey_is_of_what_was_observed():
    X = rows(500, 5, 2, missing=0.4) + 1e8
    X[:250, 3] = np.nan  # nothing in the first parts
    X[0, 0] = np.inf
    w = np.random.default_rng(2).integers(0, 3, 500).astype(float)
    w[:5] = 1
    parts = [
        FactorSummary.of(Block(X, None, w).rows(s))
        for s in (slice(0, 100), slice(100, 101), slice(101, 500))
    ]
    found = parts[0] + parts[1] + parts[2]
    X, w = X[1:], w[1:]
    there = ~np.isnan(X)
    counts = w @ there
    mean = 1e8 + w @ np.where(there, X - 1e8, 0.0) / counts
    np.testing.assert_allclose(found.counts, counts)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-15)
    np.testing.assert_allclose(
        found.variance, w @ np.where(there, X - mean, 0.0) ** 2 / counts, rtol=1e-9
    )
    assert (found.n_rows, found.n_nonfinite) == (500, 1)
    assert found.n_missing == (~there).any(axis=1).sum()
    assert found.weight == w.sum()


@pytest.mark.parametrize(
    ("noise", "missing"), [("diagonal", 0.0), ("diagonal", 0.15), ("isotropic", 0.15)]
)
def test_schedules_and_transports_agree(noise, missing):
    X = rows(300, 6, 1, missing=missing, seed=2) + 1e8
    how = {"tol": 1e-9, "max_iter": 1000, "random_state": 0}
    model = FactorModel(1, noise)
    known = fit_em(model, X, transport=Local(1), shards=1, **how)
    for schedule in SCHEDULES:
        rough = Simulated(3, speeds=[1.0, 0.5, 0.1], jitter=0.3, loss=0.02)
        for transport in (Local(2), rough):
            found = fit_em(
                model,
                X,
                transport=transport,
                schedule=schedule,
                shards=5,
                acceleration=None,
                **how,
            )
            assert found.converged
            assert_monotone(found)
            assert found.log_likelihood == pytest.approx(known.log_likelihood, rel=1e-7)
            a, b = (r.params.loadings @ r.params.loadings.T for r in (found, known))
            np.testing.assert_allclose(a, b, atol=5e-3)


@pytest.mark.parametrize("schedule", SCHEDULES[::2])
def test_on_a_cluster(client, schedule):
    X = rows(300, 6, 1, missing=0.15, seed=2)
    how = {"tol": 1e-6, "max_iter": 60, "random_state": 0}
    known = fit_em(FactorModel(1), X, transport=Local(1), **how)
    found = fit_em(
        FactorModel(1), X, transport="futures", schedule=schedule, shards=4, **how
    )
    assert found.log_likelihood == pytest.approx(known.log_likelihood, rel=1e-5)


@pytest.mark.parametrize("acceleration", ["auto", None])
def test_principal_components_from_anywhere(acceleration):
    X = rows(300, 6, 2)
    start = some_params(6, 2, X.mean(axis=0) + 0.3)
    found = fit_em(
        FactorModel(2, "isotropic"),
        X,
        start=start,
        tol=1e-13,
        max_iter=2000,
        acceleration=acceleration,
    ).params
    values, vectors = np.linalg.eigh(np.cov(X.T, ddof=0))
    np.testing.assert_allclose(found.noise, values[:4].mean(), rtol=1e-6)
    np.testing.assert_allclose(found.mean, X.mean(axis=0), atol=1e-5)
    known = (vectors[:, 4:] * (values[4:] - values[:4].mean())) @ vectors[:, 4:].T
    np.testing.assert_allclose(found.loadings @ found.loadings.T, known, atol=1e-5)


@pytest.mark.parametrize("noise", NOISES)
def test_coordinates_there_and_back(noise):
    model = FactorModel(2, noise)
    params = fit_em(model, rows(100, 5, 2), max_iter=2).params
    found = model.unpack(params, model.pack(params))
    for name in ("loadings", "shift", "noise"):
        np.testing.assert_allclose(getattr(found, name), getattr(params, name))
    lowered = model.unpack(params, model.pack(params) * 0 - 1.0)
    assert (lowered.noise > 0).all()


def test_acceleration_reaches_the_same_optimum_in_fewer_passes():
    X = rows(300, 8, 3, missing=0.1, seed=4)
    plain, fast = (
        fit_em(FactorModel(3), X, tol=1e-9, max_iter=5000, acceleration=a)
        for a in (None, "auto")
    )
    assert fast.n_m_steps < plain.n_m_steps / 3
    assert fast.log_likelihood > plain.log_likelihood - 1e-6 * len(X)


def test_start_of_many_features_comes_close_to_the_exact_one(monkeypatch):
    block = Block(rows(400, 60, 4), None, np.linspace(1, 2, 400))
    rng = np.random.default_rng(0)
    origin, unit = block.X.mean(axis=0), np.full(60, 2.0)
    exact = factor_start.spectrum(block, origin, unit, 4, rng)
    known = np.cov((block.X / 2).T, aweights=block.weights(), ddof=0)
    centred = np.average(block.X, axis=0, weights=block.weights()) - origin
    known += np.outer(centred, centred) / 4
    np.testing.assert_allclose(exact[0], np.linalg.eigvalsh(known)[:-5:-1], rtol=1e-10)
    np.testing.assert_allclose(exact[2], np.diag(known), rtol=1e-10)
    monkeypatch.setattr(factor_start, "_FEW", 10)
    close = factor_start.spectrum(block, origin, unit, 4, rng)
    np.testing.assert_allclose(close[0], exact[0], rtol=1e-6)
    np.testing.assert_allclose(abs(np.sum(close[1] * exact[1], axis=0)), 1, rtol=1e-6)
