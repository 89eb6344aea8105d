"""The bound of EM for mixed models: affine, additive, climbed by every step."""

import dataclasses

import numpy as np
import pytest

from dask_em import Block, fit_em
from dask_em.grouping.gather import gather_memory
from dask_em.grouping.rows import Columns, Factor, Grouped, Rows
from dask_em.models.linear_mixed import LinearMixedModelECME, Structure
from dask_em.schedules import Synchronous
from dask_em.testing import assert_monotone, check_model
from dask_em.transports import Local

RNG = np.random.default_rng(5)
G = np.repeat(np.arange(40), RNG.integers(2, 9, 40))
N = len(G)
H = RNG.integers(6, size=N)
X = RNG.normal(size=(N, 2))
B = RNG.normal(size=(40, 2)) @ [[1.0, 0.3], [0.0, 0.7]]
Y = X @ [1.0, -1.0] + B[G, 0] + X[:, 0] * B[G, 1] + RNG.normal(size=6)[H] * 0.8
Y = Y + RNG.normal(size=N)

SLOPES = Grouped(G, Columns(X[:, :1], True)), Factor("g", ("Intercept", "x"), (2,))
APART = Grouped(G, Columns(X[:, :1], True)), Factor("g", ("Intercept", "x"), (1, 1))
CROSSED = Grouped(H, Columns(np.zeros((N, 0)), True)), Factor("h", ("Intercept",), (1,))
TERMS = {"slopes": [SLOPES], "independent": [APART], "crossed": [SLOPES, CROSSED]}


def made(name, reml, algorithm="px_ecme"):
    grouped, factors = zip(*TERMS[name], strict=True)
    found = gather_memory(Rows(Y, Columns(X, True), grouped), "abc", factors)
    layout = found.layout
    structure = Structure(
        factors[layout.inner],
        found.n_groups,
        tuple(factors[f] for f in layout.outer),
        tuple(len(known) for known in layout.levels),
        3,
    )
    offset = N * found.basis.log_jacobian + reml * found.basis.log_restricted
    model = LinearMixedModelECME(
        structure, reml, algorithm, offset, float(N), (), found.totals
    )
    return model, found.table


@pytest.mark.parametrize(
    ("name", "reml"),
    [
        pytest.param(
            name,
            reml,
            marks=pytest.mark.slow
            if (name, reml) == ("slopes", True)
            else (pytest.mark.soak),
        )
        for name in TERMS
        for reml in (False, True)
    ],
)
def test_the_model_whose_statistics_mix(name, reml):
    model, table = made(name, reml)
    check_model(model.mixable(), table, weights=False)


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("name", TERMS)
def test_both_models_know_one_likelihood(name, reml):
    """F of the mixing model at the optimum is the exact likelihood there."""
    model, table = made(name, reml)
    how = {"transport": Local(1), "max_iter": 3000}
    exact = fit_em(model, table, tol=1e-8, step_tol=1e-9, **how)
    mixing = model.mixable()
    at_rest = fit_em(
        mixing, table, start=exact.params, schedule=Synchronous(), tol=1e-12, **how
    )
    assert at_rest.log_likelihood == pytest.approx(exact.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(
        np.abs(at_rest.params.theta), np.abs(exact.params.theta), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("algorithm", ["em", "ecme", "px_ecme"])
@pytest.mark.parametrize("name", TERMS)
def test_no_step_lowers_the_likelihood(name, algorithm):
    model, table = made(name, True, algorithm)
    result = fit_em(
        model, table, acceleration=None, transport=Local(1), tol=1e-9, max_iter=200
    )
    assert_monotone(result)
    assert result.trace.n_refused.sum() == 0


def test_the_expected_squares_are_the_gradient():
    """The likelihood's slope in the inner factor is what the moments say."""
    model, table = made("crossed", True)
    start = model.start(None, None, rng=None, mapreduce=None)

    def height(theta):
        params = dataclasses.replace(start, theta=theta)
        return model.lower_bound(params, model.e_step(params, Block(table))[0])

    stats, _ = model.e_step(start, Block(table))
    found = model.posterior(start, stats)
    sigma2 = found.rss / (N - 3)
    v = np.append(-found.mean, 1.0)
    moments = np.outer(v, v) / sigma2
    moments[:-1, :-1] += found.cov
    squares = np.tensordot(stats.products, moments, axes=((1, 3), (0, 1)))
    squares = squares + stats.precision
    # at L = I, d l / d L = L^-T (S - m I), lower triangle
    slope = squares - 40 * np.eye(2)
    rows, columns = model.structure.inner.lower
    for k, (i, j) in enumerate(zip(rows, columns, strict=True)):
        step = np.zeros_like(start.theta)
        step[k] = 1e-5
        by_differences = height(start.theta + step) - height(start.theta - step)
        assert by_differences / 2e-5 == pytest.approx(slope[i, j], rel=1e-5, abs=1e-4)
