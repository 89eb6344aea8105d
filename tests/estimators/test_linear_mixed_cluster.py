"""Mixed models on a cluster that loses workers; labelled data."""

import os
import signal

import numpy as np
import pytest

from dask_em import LinearMixedModel, fit_em
from dask_em.estimators.mixed_input import read_frame
from dask_em.grouping.cluster import gather_dask
from dask_em.models.linear_mixed import LinearMixedModelECME, Structure
from dask_em.sharding import DaskData
from dask_em.transports import Futures

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

RNG = np.random.default_rng(1)
N = 3000
G = RNG.integers(120, size=N)
X = RNG.normal(size=N)
EFFECTS = RNG.normal(size=(120, 2)) @ [[1.0, 0.2], [0.0, 0.5]]
Y = 1 + 2 * X + EFFECTS[G, 0] + X * EFFECTS[G, 1] + RNG.normal(size=N)
FRAME = pd.DataFrame({"y": Y, "x": X, "g": G})
FORMULA = "y ~ x + (1 + x | g)"


@pytest.fixture(scope="module")
def calm():
    return LinearMixedModel(FORMULA).fit(FRAME)


@pytest.mark.cluster
@pytest.mark.chaos
@pytest.mark.parametrize("schedule", ["synchronous", "bounded_staleness"])
def test_a_worker_killed_in_mid_fit(processes, calm, schedule):
    """The sums of its groups are made again from the rows; the answer is the same."""
    dd = pytest.importorskip("dask.dataframe")
    from distributed import Client

    with Client(processes) as client:
        lazy = dd.from_pandas(FRAME, npartitions=6)
        given = read_frame(FORMULA, lazy, None)
        front = given.front
        found = gather_dask(given.chunks, front.rows, front.names, front.factors)
        structure = Structure(front.factors[0], found.n_groups, (), (), 2)
        offset = N * found.basis.log_jacobian + found.basis.log_restricted
        model = LinearMixedModelECME(
            structure, True, "px_ecme", offset, float(N), (), found.totals
        )
        killed = []

        def kill(progress):
            if progress.version >= 2 and not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        result = fit_em(
            model,
            DaskData(found.table),
            transport=Futures(client),
            schedule=schedule,
            shards=6,
            tol=1e-8,
            step_tol=1e-8,
            max_iter=1000,
            deadline=120.0,
            callback=kill,
        )
        assert killed
        assert result.converged
        assert -2 * result.log_likelihood == pytest.approx(calm.deviance_, abs=1e-7)


@pytest.mark.cluster
def test_effects_outlive_the_cluster(cluster, calm):
    dd = pytest.importorskip("dask.dataframe")
    from distributed import Client

    with Client(cluster):
        model = LinearMixedModel(FORMULA).fit(dd.from_pandas(FRAME, npartitions=4))
        assert model.result_.settings["grouping"] == "partial groups"
        lazy = model.random_effects_.lazily("g")
        assert sum(len(part.compute().labels) for part in lazy) == 120
    np.testing.assert_allclose(model.predict(FRAME), calm.predict(FRAME), atol=1e-8)
    # in the order of the rows, though the groups came in that of the buckets
    assert model.random_effects_["g"].labels.tolist() == list(range(120))


def test_labelled_rows(calm):
    xr = pytest.importorskip("xarray")
    rows = {"time": np.arange(N)}
    table = xr.DataArray(X[:, None], dims=("time", "feature"), coords=rows)
    y, groups = (xr.DataArray(v, dims="time", coords=rows) for v in (Y, G))
    model = LinearMixedModel().fit(table, y, groups=groups, Z=None)
    plain = LinearMixedModel().fit(X[:, None], Y, groups=G)
    assert model.deviance_ == pytest.approx(plain.deviance_, abs=1e-9)
    predicted = model.predict(table, groups=groups)
    assert predicted.dims == ("time",)
    np.testing.assert_array_equal(predicted.time, rows["time"])
    np.testing.assert_allclose(predicted, plain.predict(X[:, None], groups=G))


def test_a_dataset_with_a_formula(calm):
    xr = pytest.importorskip("xarray")
    data = xr.Dataset({k: ("row", FRAME[k].to_numpy()) for k in FRAME})
    model = LinearMixedModel(FORMULA).fit(data)
    assert model.deviance_ == pytest.approx(calm.deviance_, abs=1e-9)
    np.testing.assert_allclose(model.predict(data), calm.predict(FRAME))
