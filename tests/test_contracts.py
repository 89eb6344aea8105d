"""Every model × schedule × transport keeps its promises and ends at the same point.

A new model, schedule or transport is one line in one of the three tables.
"""

import dataclasses
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Sklearns

from dask_em import Model, Statistics, fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.schedules import (
    BoundedStaleness,
    ExtraUpdates,
    FractionBarrier,
    Incremental,
    Synchronous,
)
from dask_em.testing import (
    assert_monotone,
    check_model,
    check_schedule,
    check_transport,
)
from dask_em.transports import Local, Simulated

# ----------------------------------------------------------- a model of one's own


@dataclasses.dataclass(frozen=True)
class Rates:
    weights: np.ndarray
    rates: np.ndarray


@dataclasses.dataclass(frozen=True)
class Waits(Statistics):
    counts: np.ndarray
    totals: np.ndarray
    entropy: float


@dataclasses.dataclass(frozen=True)
class Exponentials(Model[Rates, Waits]):
    """A mixture of exponentials, as a user would write it."""

    n_components: int = 2

    def start(self, summary, sample, *, rng, mapreduce):
        k = self.n_components
        spread = 4.0 ** np.arange(k) / summary.mean[0]
        return Rates(np.full(k, 1 / k), spread)

    def e_step(self, params, prepared, local=None):
        x, w = prepared.X[:, :1], prepared.weights()
        logs = np.log(params.weights * params.rates) - x * params.rates
        norm = np.logaddexp.reduce(logs, axis=1, keepdims=True)
        resp = np.exp(logs - norm) * w[:, None]
        entropy = -float(np.sum(resp * (logs - norm)))
        return Waits(resp.sum(axis=0), x[:, 0] @ resp, entropy), None

    def m_step(self, params, stats):
        return Rates(stats.counts / stats.counts.sum(), stats.counts / stats.totals)

    def lower_bound(self, params, stats):
        prior = stats.counts @ np.log(params.weights * params.rates)
        return float(prior - params.rates @ stats.totals + stats.entropy)


def blobs(n, distance, seed=0, d=2, k=3):
    rng = np.random.default_rng(seed)
    centres = distance * np.eye(k, d) * [[1.0], [-1.0], [0.0]][:k]
    return centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))


def waits(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.exponential(np.where(rng.random(n) < 0.4, 0.1, 5.0))[:, None]


SEPARATED = blobs(180, 12.0)

# ------------------------------------------------------------------ the three tables

MODELS = {
    "full": (GaussianMixtureModel(3, "full", reg_covar=0), SEPARATED),
    "tied": (GaussianMixtureModel(3, "tied", reg_covar=0), SEPARATED),
    "diag": (GaussianMixtureModel(3, "diag", reg_covar=0), SEPARATED),
    "spherical": (GaussianMixtureModel(3, "spherical", reg_covar=0), SEPARATED),
    "full, regularised": (GaussianMixtureModel(3, "full"), SEPARATED + 1e4),
    "exponentials": (Exponentials(2), waits(200)),
}

SCHEDULES = {
    "synchronous": Synchronous(),
    "fraction 0.3": FractionBarrier(0.3),
    "fraction 1": FractionBarrier(1.0),
    "bounded 0": BoundedStaleness(0, 0.25),
    "bounded 4": BoundedStaleness(4, 1 / 16),
    "extra": ExtraUpdates(Synchronous(), 2),
    "extra, fraction": ExtraUpdates(FractionBarrier(0.5), 1),
    "incremental": Incremental(3),
}

TRANSPORTS = {
    "local": lambda: Local(2),
    "simulated": lambda: Simulated(
        3, speeds=[1.0, 0.5, 0.1], jitter=0.3, latency=0.01, loss=0.02
    ),
}

SHARDS = (1, 2, 7)

# ---------------------------------------------------------------------- contracts


@pytest.mark.parametrize("name", MODELS)
def test_model(name):
    model, rows = MODELS[name]
    check_model(model, rows)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name):
    check_schedule(SCHEDULES[name], n_runs=10, random_state=1)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_transport(name):
    check_transport(TRANSPORTS[name], schedules=[*SCHEDULES.values()])


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", MODELS)
def test_matrix(name, schedule, transport):
    """From the same start, all end where one shard and the barrier end."""
    model, rows = MODELS[name]
    how = {"tol": 1e-9, "max_iter": 2000, "random_state": 0}
    reference = fit_em(
        model, rows, transport=Local(1), schedule=Synchronous(), shards=1, **how
    )
    result = fit_em(
        model,
        rows,
        transport=TRANSPORTS[transport](),
        schedule=SCHEDULES[schedule],
        shards=5,
        **how,
    )
    assert result.converged
    assert_monotone(result)
    assert result.log_likelihood == pytest.approx(reference.log_likelihood, rel=1e-6)
    for f in dataclasses.fields(result.params):
        np.testing.assert_allclose(
            getattr(result.params, f.name),
            getattr(reference.params, f.name),
            rtol=2e-3,
            atol=1e-3,
        )


# -------------------------------------------------------------- the same fixed point


def sklearns(rows, kind, **start):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = Sklearns(
            3, covariance_type=kind, tol=1e-10, max_iter=100_000, **start
        ).fit(rows)
    return found, float(found.score_samples(rows).sum())


def precisions(kind, value=1.0, d=2, k=3):
    return {
        "full": np.tile(value * np.eye(d), (k, 1, 1)),
        "tied": value * np.eye(d),
        "diag": np.full((k, d), value),
        "spherical": np.full(k, value),
    }[kind]


KINDS = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def separated():
    """Starts, and what scikit-learn makes of them."""
    known = {}
    for kind in KINDS:
        start = {
            "weights_init": np.array([0.2, 0.3, 0.5]),
            "means_init": np.array([[8.0, 1.0], [1.0, -9.0], [1.0, 1.0]]),
            "precisions_init": precisions(kind, 0.2),
        }
        known[kind] = start, sklearns(SEPARATED, kind, **start)[1]
    return known


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_separated_clusters_end_where_scikit_learn_ends(
    separated, kind, schedule, transport, shards
):
    start, known = separated[kind]
    result = fit_em(
        GaussianMixtureModel(3, kind, **start),
        SEPARATED,
        transport=TRANSPORTS[transport](),
        schedule=SCHEDULES[schedule],
        shards=shards,
        tol=1e-10,
        max_iter=5000,
        random_state=0,
    )
    assert result.settings["shards"] == shards
    assert result.converged
    assert_monotone(result)
    assert result.log_likelihood == pytest.approx(known, rel=1e-8)


OVERLAPPING = blobs(240, 3.5, seed=2)


@pytest.fixture(scope="module")
def overlapping():
    """A start near the optimum, and the likelihood of the optimum."""
    found, _ = sklearns(OVERLAPPING, "full", init_params="k-means++", random_state=0)
    rng = np.random.default_rng(0)

    def start(noise):
        return {
            "weights_init": found.weights_,
            "means_init": found.means_ + noise * rng.normal(size=(3, 2)),
            "precisions_init": found.precisions_,
        }

    return start(0.1), sklearns(OVERLAPPING, "full", **start(0.0))[1]


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_overlapping_clusters_end_at_the_optimum_they_began_near(
    overlapping, schedule, transport, shards
):
    start, known = overlapping
    result = fit_em(
        GaussianMixtureModel(3, **start),
        OVERLAPPING,
        transport=TRANSPORTS[transport](),
        schedule=SCHEDULES[schedule],
        shards=shards,
        tol=1e-10,
        max_iter=20_000,
        random_state=0,
    )
    assert result.converged
    assert_monotone(result)
    assert result.log_likelihood == pytest.approx(known, rel=1e-7)


def test_incremental_fits_repeat_to_the_last_bit():
    """Whichever thread is faster."""
    rows = blobs(400, 3.0)
    model = GaussianMixtureModel(3, "full")
    fits = [
        fit_em(
            model,
            rows,
            schedule=Incremental(4),
            transport=Local(n_threads),
            shards=8,
            random_state=3,
        )
        for n_threads in (1, 2, 2)
    ]
    for fit in fits[1:]:
        assert fit.n_m_steps == fits[0].n_m_steps
        np.testing.assert_array_equal(fit.params.means, fits[0].params.means)
