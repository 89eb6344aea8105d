"""Local fits, reduction and polish, on every transport."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from test_contracts import Exponentials, waits

from dask_em import GaussianMixture, MixtureOfExpertsRegressor, fit_em
from dask_em.alone import em_alone
from dask_em.model import Block
from dask_em.models.experts.gaussian import Gaussian
from dask_em.models.experts.model import MixtureOfExpertsModel
from dask_em.models.experts.params import Design
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.reduction.base import Reduction
from dask_em.testing import SCHEDULES, assert_monotone
from dask_em.transports import Futures, Local, Simulated


def experts(n, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) * [1.0, 2.0, 0.5] + [0.0, 10.0, -3.0]
    first = rng.random(n) < 1 / (1 + np.exp(-(X[:, 0] + 0.5 * (X[:, 1] - 10))))
    y = np.where(first, 4 + X @ [1.0, 2.0, 0.0], -2 + X @ [0.0, -1.0, 1.0])
    return X, y + rng.normal(scale=np.where(first, 0.5, 1.0))


X, Y = experts(6000)
MODEL = MixtureOfExpertsModel(2, Gaussian(), Design((0, 1, 2), (0, 1, 2)))


def fit(strategy, model=MODEL, data=(X, Y), **settings):
    settings = {"tol": 1e-9, "max_iter": 300, "random_state": 0} | settings
    return fit_em(model, data[0], y=data[1], strategy=strategy, **settings)


@pytest.fixture(scope="module")
def pooled():
    return fit("em", tol=1e-11)


def test_em_alone_is_em(pooled):
    start = fit("em", max_iter=1).params
    block = Block(X, Y)
    run = em_alone(
        MODEL, start, [block.rows(slice(0, 999)), block.rows(slice(999, None))],
        tol=1e-11, max_iter=300,
    )  # fmt: skip
    assert run.converged
    assert run.value == pytest.approx(pooled.log_likelihood, rel=1e-10)


TRANSPORTS = {
    "local": lambda: Local(2),
    "simulated": lambda: Simulated(5, speeds=[1, 1, 1, 0.5, 0.1], loss=0.05),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("m", [1, 3, 8])
def test_strategies(m, transport, pooled):
    how = {"shards": m, "transport": TRANSPORTS[transport]()}
    shot = fit("one_shot", **how)
    polished = fit("one_shot+polish", **how)
    two = fit("one_shot+polish", n_polish=2, **how)
    n = len(X)
    gap = (pooled.log_likelihood - shot.log_likelihood) / n
    assert -1e-9 <= gap < (1e-9 if m == 1 else 1e-3)
    assert shot.converged
    assert polished.log_likelihood == pytest.approx(pooled.log_likelihood, rel=1e-9)
    assert two.log_likelihood == pytest.approx(pooled.log_likelihood, rel=1e-6)
    assert two.log_likelihood >= shot.log_likelihood - 1e-9 * n
    assert_monotone(polished)
    report = shot.settings["one_shot"]
    assert report["local_fits"] == report["kept"] == m
    fields = sum(
        np.asarray(getattr(shot.params, f.name)).nbytes
        for f in dataclasses.fields(shot.params)
    )
    assert m * fields <= report["nbytes"] < 20 * m * fields
    assert report["local_passes"] >= 1
    assert shot.effective_passes <= report["local_passes"] + 1


def test_likelihood_of_one_shot_is_exact():
    shot = fit("one_shot", shards=4)
    stats, _ = MODEL.e_step(shot.params, Block(X, Y))
    assert shot.log_likelihood == pytest.approx(stats.constant, rel=1e-12)


def test_one_local_fit_for_every_worker():
    shot = fit("one_shot", transport=Simulated(7))
    assert shot.settings["one_shot"]["local_fits"] == 7


def test_order_of_rows_does_not_matter_much(pooled):
    order = np.random.default_rng(0).permutation(len(X))
    shot = fit("one_shot", data=(X[order], Y[order]), shards=6)
    gap = (pooled.log_likelihood - shot.log_likelihood) / len(X)
    assert 0 <= gap < 1e-3


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_gaussian_mixture(kind):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6000, 2)) + 3 * rng.integers(3, size=(6000, 1))
    how = {"covariance_type": kind, "random_state": 0, "tol": 1e-9, "max_iter": 500}
    em = GaussianMixture(3, **how).fit(rows)
    shot = GaussianMixture(3, strategy="one_shot", shards=6, **how).fit(rows)
    polished = GaussianMixture(3, strategy="one_shot+polish", shards=6, **how).fit(rows)
    assert 0 <= em.lower_bound_ - shot.lower_bound_ < 3e-3
    assert polished.lower_bound_ == pytest.approx(em.lower_bound_, abs=1e-7)
    assert polished.result_.settings["one_shot"]["kept"] == 6


def test_corrupt_shard_is_left_out():
    """One local fit of sixteen with means a hundred times too large."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(16_000, 2)) + 6 * rng.integers(2, size=(16_000, 1))
    clean = fit_em(
        GaussianMixtureModel(2), rows[1000:], strategy="one_shot", shards=15,
        random_state=0, tol=1e-8,
    )  # fmt: skip
    spoilt = rows.copy()
    spoilt[:1000] *= 100
    model = GaussianMixtureModel(2, reduction=Reduction(robust=True))
    found = fit_em(
        model, spoilt, strategy="one_shot", shards=16, tol=1e-8, start=clean.params
    )
    assert found.settings["one_shot"]["kept"] == 15
    order = found.params.means[:, 0].argsort()
    wanted = clean.params.means[clean.params.means[:, 0].argsort()]
    change = np.linalg.norm(found.params.means[order] - wanted)
    assert change < 0.01 * np.linalg.norm(wanted)


class Failing(MixtureOfExpertsModel):
    """A model that cannot begin with the rows of one shard."""

    def e_step(self, params, prepared, local=None):
        if not params.counts.any() and prepared.X[0, 0] == X[0, 0]:
            raise FloatingPointError("not with these rows")
        return super().e_step(params, prepared, local)


def test_local_fit_that_fails_is_left_out(pooled):
    failing = Failing(2, Gaussian(), MODEL.design)
    start = dataclasses.replace(fit("em", max_iter=2).params, counts=np.zeros(2))
    shot = fit("one_shot", failing, shards=4, start=start)
    assert shot.settings["one_shot"]["local_fits"] == 4
    assert shot.settings["one_shot"]["kept"] == 3
    assert (pooled.log_likelihood - shot.log_likelihood) / len(X) < 1e-3
    with pytest.raises(ValueError, match="none of 1 local fits succeeded"):
        fit("one_shot", failing, shards=1, start=start)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="strategy must be"):
        fit("two_shots")
    with pytest.raises(ValueError, match="n_polish must be"):
        fit("one_shot+polish", n_polish=0)
    with pytest.raises(ValueError, match="needs a reduction of local fits"):
        fit_em(Exponentials(2), waits(50), strategy="one_shot")


def test_deadline_in_local_fits():
    with pytest.raises(TimeoutError, match="deadline"):
        fit("one_shot", deadline=1e-4)


def test_checkpoint(tmp_path, pooled):
    first = fit(
        "one_shot+polish", n_polish=1, shards=4, checkpoint=tmp_path,
        checkpoint_seconds=0,
    )  # fmt: skip
    again = fit("one_shot+polish", shards=4, resume=tmp_path)
    assert again.resumed_from == str(tmp_path)
    assert "one_shot" not in again.settings  # it goes on where it was
    assert again.log_likelihood >= first.log_likelihood
    assert again.log_likelihood == pytest.approx(pooled.log_likelihood, rel=1e-9)


def test_checkpoint_of_a_reduction(tmp_path, pooled):
    shot = fit("one_shot", shards=4, checkpoint=tmp_path)
    again = fit("em", resume=tmp_path)
    assert again.log_likelihood >= shot.log_likelihood
    assert again.log_likelihood == pytest.approx(pooled.log_likelihood, rel=1e-9)


def test_shards_without_weight():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 2)) + 6 * rng.integers(2, size=(2000, 1))
    weight = np.ones(2000)
    weight[:500] = 0
    for kind in ("full", "tied", "diag", "spherical"):
        mixture = GaussianMixture(
            2, covariance_type=kind, strategy="one_shot", shards=4, random_state=0
        ).fit(rows, sample_weight=weight)
        assert mixture.result_.settings["one_shot"]["kept"] == 3
        assert np.isfinite(mixture.means_).all()


# -------------------------------------------------------------------------- on Dask


@pytest.mark.parametrize("lazy", [False, True])
def test_on_a_cluster(client, pooled, lazy):
    data = (X, Y)
    if lazy:
        data = da.from_array(X, chunks=(700, 3)), da.from_array(Y, chunks=500)
    shot = fit("one_shot", data=data, transport=Futures(client))
    n_workers = shot.settings["workers"]
    assert shot.settings["one_shot"]["local_fits"] == n_workers
    assert (pooled.log_likelihood - shot.log_likelihood) / len(X) < 1e-3
    polished = fit("one_shot+polish", data=data, transport=Futures(client), shards=8)
    assert polished.settings["one_shot"]["local_fits"] == 8
    assert polished.log_likelihood == pytest.approx(pooled.log_likelihood, rel=1e-8)


def test_auto_begins_with_local_fits_where_they_are_many():
    settings = {"random_state": 0, "transport": Simulated(10)}
    few = MixtureOfExpertsRegressor(2, **settings).fit(X[:500], Y[:500])
    assert few.result_.settings["strategy"] == "em"
    many = MixtureOfExpertsRegressor(2, **settings).fit(X, Y)
    assert many.result_.settings["strategy"] == "one_shot+polish"
    assert many.converged_


# ------------------------------------------------------------- the paper's simulation


def simulated(n, seed):
    """Draw from the truth that comes with the paper's code, with correlated rows."""
    folder = os.environ.get("DASK_EM_DATA")
    if not folder:
        pytest.skip("DASK_EM_DATA is not set")
    truth = json.loads(
        (Path(folder) / "moe" / "dmoe_true_params_K4_d20.json").read_text()
    )
    rng = np.random.default_rng(seed)
    d = truth["d"]
    spread = 0.25 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    rows = rng.normal(size=(n, d)) @ np.linalg.cholesky(spread).T
    odds = rows @ np.array(truth["Alpha"], float) + truth["alpha0"]
    k = (odds + rng.gumbel(size=odds.shape)).argmax(axis=1)
    mean = np.array(truth["beta0"], float)[k]
    mean += np.einsum("nd,nd->n", rows, np.array(truth["Beta"], float)[:, k].T)
    noise = np.sqrt(np.array(truth["sigma2"], float))[k]
    return rows, mean + noise * rng.normal(size=n), truth


BARS = {4: (1e-4, 1e-6), 16: (1e-4, 1e-6), 64: (1.5e-3, 5e-6)}


@pytest.mark.data
def test_published_simulation():
    """The gap to the pooled fit, and the variance that the released formula misses."""
    n = 100_000
    rows, y, truth = simulated(n, 0)
    model = MixtureOfExpertsModel(4, Gaussian(), Design((*range(20),), (*range(20),)))
    pooled = fit("em", model, (rows, y), tol=1e-10)
    for m, (shot_bar, polish_bar) in BARS.items():
        shot = fit("one_shot", model, (rows, y), shards=m, tol=1e-8)
        two = fit("one_shot+polish", model, (rows, y), shards=m, n_polish=2, tol=1e-8)
        assert (pooled.log_likelihood - shot.log_likelihood) / n <= shot_bar
        assert (pooled.log_likelihood - two.log_likelihood) / n <= polish_bar
    # m == 64: the released formula's squared error is 0.24
    raw = shot.params.raw(model.design)
    order = raw.coef[:, 0, 0].argsort()
    variances = raw.covariance[order, 0, 0]
    error = np.mean((variances - np.array(truth["sigma2"], float)) ** 2)
    assert error < 0.24 / 30


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_every_schedule_on_a_cluster(client, family, schedule):
    y = Y if family == "gaussian" else np.floor(np.exp(np.clip((Y + 12) / 8, 0, 4)))
    how = {"family": family, "random_state": 0, "tol": 1e-9, "reg_gate": 1e-3}
    alone = MixtureOfExpertsRegressor(2, transport=Local(1), **how).fit(X, y)
    found = MixtureOfExpertsRegressor(
        2, transport=Futures(client), schedule=schedule, strategy="em", shards=6, **how
    ).fit(X, y)
    assert found.converged_
    assert found.log_likelihood_ == pytest.approx(alone.log_likelihood_, rel=1e-7)
