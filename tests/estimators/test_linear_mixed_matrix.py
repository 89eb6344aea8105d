"""Whatever the schedule, the shards and the transport, the answer is the same."""

import os
from pathlib import Path

import numpy as np
import pytest

from dask_em import LinearMixedModel
from dask_em.schedules import (
    BoundedStaleness,
    ExtraUpdates,
    FractionBarrier,
    Synchronous,
)
from dask_em.testing import assert_monotone
from dask_em.transports import Local, Simulated

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

data = [
    pytest.mark.data,
    pytest.mark.skipif(
        "DASK_EM_DATA" not in os.environ, reason="DASK_EM_DATA is not set"
    ),
]

SCHEDULES = {
    "synchronous": Synchronous(),
    "fraction": FractionBarrier(0.5),
    "bounded": BoundedStaleness(),
    "extra": ExtraUpdates(),
}

TRANSPORTS = {
    "local": lambda: Local(2),
    "simulated": lambda: Simulated(
        3, speeds=[1.0, 0.5, 0.1], jitter=0.3, latency=0.01, loss=0.02
    ),
}

FORMULAS = {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "Penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "Dyestuff2": "Yield ~ 1 + (1 | Batch)",
}

#: Deviances that lme4 and MixedModels.jl agree on.
DEVIANCES = {
    ("sleepstudy", "ml"): 1751.9393444636682,
    ("sleepstudy", "reml"): 1743.6282722424,
    ("Penicillin", "ml"): 332.1883486700085,
    ("Penicillin", "reml"): 330.86058899,
}


def read(name):
    return pd.read_csv(Path(os.environ["DASK_EM_DATA"]) / "lmm" / f"{name}.csv.gz")


_REFERENCES = {}


def reference(name, method):
    """The synchronous fit on one shard."""
    if (name, method) not in _REFERENCES:
        model = LinearMixedModel(
            FORMULAS[name],
            method=method,
            schedule=Synchronous(),
            transport=Local(1),
            shards=1,
        )
        _REFERENCES[name, method] = model.fit(read(name))
    return _REFERENCES[name, method]


def assert_same(found, known):
    assert found.converged_
    assert found.deviance_ == pytest.approx(known.deviance_, rel=0, abs=1e-7)
    assert found.sigma2_ == pytest.approx(known.sigma2_, rel=1e-5)
    np.testing.assert_allclose(found.coef_, known.coef_, rtol=1e-5)
    assert found.intercept_ == pytest.approx(known.intercept_, rel=1e-5)
    assert found.covariance_.keys() == known.covariance_.keys()
    for factor, cov in known.covariance_.items():
        np.testing.assert_allclose(found.covariance_[factor], cov, rtol=1e-5)
    np.testing.assert_allclose(
        found.fixed_covariance_, known.fixed_covariance_, rtol=1e-5
    )


# ----------------------------------------------------------------------- the matrix


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=data) for n in ("sleepstudy", "Penicillin")]
)
def test_matrix(name, method, schedule, shards, transport):
    model = LinearMixedModel(
        FORMULAS[name],
        method=method,
        schedule=SCHEDULES[schedule],
        transport=TRANSPORTS[transport](),
        shards=shards,
        random_state=0,
    ).fit(read(name))
    assert model.result_.settings["shards"] == shards
    assert_monotone(model.result_)
    assert_same(model, reference(name, method))
    known = DEVIANCES[name, method]
    assert model.deviance_ == pytest.approx(known, rel=0, abs=1e-6)


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("algorithm", ["em", "ecme", "px_ecme"])
@pytest.mark.parametrize("acceleration", [None, "anderson", "squarem"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=data) for n in ("sleepstudy", "Penicillin")]
)
def test_algorithms_and_accelerations(name, acceleration, algorithm, method):
    model = LinearMixedModel(
        FORMULAS[name],
        method=method,
        algorithm=algorithm,
        acceleration=acceleration,
        tol=1e-9,
        max_iter=20_000,
    ).fit(read(name))
    climbed = model.result_.trace.lower_bound_before
    assert np.diff(climbed).min() >= -1e-10 * np.abs(climbed).max()
    if algorithm != "em":
        assert_monotone(model.result_)
    assert_same(model, reference(name, method))


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize(
    ("name", "acceleration"),
    [
        pytest.param("sleepstudy", None, marks=data),
        pytest.param("sleepstudy", "squarem", marks=data),
        pytest.param("Penicillin", "anderson", marks=data),
    ],
)
def test_the_bound_after_an_m_step_of_plain_em(name, acceleration, method):
    model = LinearMixedModel(
        FORMULAS[name],
        method=method,
        algorithm="em",
        acceleration=acceleration,
        max_iter=20_000,
    ).fit(read(name))
    assert_monotone(model.result_)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("name", [pytest.param("Dyestuff2", marks=data)])
def test_zero_variance(name, method, schedule, shards):
    """At the border the model is a linear one: y = mean + e."""
    frame = read(name)
    model = LinearMixedModel(
        FORMULAS[name],
        method=method,
        schedule=SCHEDULES[schedule],
        transport=Local(2),
        shards=shards,
        max_iter=5000,
    ).fit(frame)
    assert model.converged_
    assert_monotone(model.result_)
    y = frame["Yield"].to_numpy()
    n, reml = len(y), method == "reml"
    sigma2 = np.sum((y - y.mean()) ** 2) / (n - reml)
    deviance = (n - reml) * (np.log(2 * np.pi * sigma2) + 1) + reml * np.log(n)
    assert model.deviance_ == pytest.approx(deviance, rel=0, abs=1e-6)
    assert 0 <= model.covariance_["Batch"][0, 0] < 1e-6 * sigma2
    assert model.sigma2_ == pytest.approx(sigma2, rel=1e-6)
    assert model.intercept_ == pytest.approx(y.mean(), rel=1e-6)


# ----------------------------------------------------------------------- on a cluster


def simulated(rows_per_group, n=2000, seed=0):
    """Rows with random slopes, their groups scattered over all chunks."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(n) // rows_per_group)
    X = rng.normal(size=(n, 2))
    effects = rng.multivariate_normal(
        np.zeros(2), [[1.0, 0.4], [0.4, 0.6]], size=groups.max() + 1
    )[groups]
    Z = np.column_stack([np.ones(n), X[:, 0]])
    y = 1 + X @ [2.0, -1.0] + np.sum(Z * effects, axis=1) + rng.normal(size=n)
    return X, y, groups, Z


@pytest.fixture(scope="module")
def in_memory():
    known = {}
    for route, rows_per_group in (("partial groups", 50), ("rows by key", 4)):
        X, y, groups, Z = simulated(rows_per_group)
        model = LinearMixedModel(shards=1, transport=Local(1))
        known[route] = (X, y, groups, Z), model.fit(X, y, groups=groups, Z=Z)
    return known


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("route", "schedule"),
    [
        pytest.param(
            route, schedule, marks=() if schedule == quick else pytest.mark.slow
        )
        for route, quick in (
            ("partial groups", "fraction"),
            ("rows by key", "synchronous"),
        )
        for schedule in SCHEDULES
    ],
)
def test_chunks_on_a_cluster(client, in_memory, route, schedule):
    da = pytest.importorskip("dask.array")
    (X, y, groups, Z), known = in_memory[route]
    lazy = [da.from_array(a, chunks=(500, *a.shape[1:])) for a in (X, y, groups, Z)]
    model = LinearMixedModel(schedule=SCHEDULES[schedule], max_iter=5000)
    model.fit(lazy[0], lazy[1], groups={"group": lazy[2]}, Z={"group": lazy[3]})
    assert model.result_.settings["grouping"] == route
    assert_monotone(model.result_)
    assert_same(model, known)
    ours, theirs = (m.random_effects_["group"] for m in (model, known))
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.modes, theirs.modes, atol=1e-5)
