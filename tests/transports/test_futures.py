"""The Dask transport on a cluster of threads, where nothing goes wrong."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from clusters import assert_clean, local_cluster
from distributed import Client
from slow_models import (
    FailingMixture,
    SlowMixture,
    UnpicklableMixture,
    VisitedMixture,
    clusters,
    start,
)

from dask_em import fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.testing import SCHEDULES, assert_monotone, check_transport
from dask_em.transports import Futures, Local

X = clusters()
W = np.random.default_rng(1).integers(0, 3, len(X)).astype(float)
MODEL = GaussianMixtureModel(3)


def fitted(X: Any, client: Any = None, model: Any = MODEL, **settings: Any) -> Any:
    settings = {"start": start(), "tol": 1e-12, "max_iter": 2000} | settings
    if "transport" not in settings:
        settings["transport"] = Futures(client)
    return fit_em(model, X, random_state=0, **settings)


@pytest.fixture(scope="module")
def plain() -> Any:
    return fitted(X, transport=Local(1))


@pytest.fixture(scope="module")
def weighted() -> Any:
    return fitted(X, transport=Local(1), sample_weight=W)


def assert_same(result: Any, wanted: Any) -> None:
    assert result.converged, result.message
    assert result.log_likelihood == pytest.approx(wanted.log_likelihood, rel=1e-8)
    assert_monotone(result)


# ------------------------------------------------------------------------ contract


def test_contract(client: Any) -> None:
    check_transport(lambda: Futures(client))


@pytest.mark.slow
@pytest.mark.cluster
def test_contract_on_processes(processes: Any) -> None:
    with Client(processes) as client:
        check_transport(lambda: Futures(client))
        assert_clean(client)


# ----------------------------------------------------------------------------- data


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_array(client: Any, plain: Any, schedule: Any) -> None:
    result = fitted(X, client, schedule=schedule)
    assert_same(result, plain)
    assert result.settings["transport"] == "Futures()"


UNEVEN = ((100, 0, 1, 399, 0, 300, 100, 0), (2,))


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("chunks", [(90, 2), UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("weights", [None, "numpy", "dask"])
def test_dask_array(
    client: Any, plain: Any, weighted: Any, persisted: Any, chunks: Any, weights: Any
) -> None:
    lazy = da.from_array(X, chunks=chunks)
    w: Any = None if weights is None else W
    if weights == "dask":
        w = da.from_array(W, chunks=250)
    if persisted:
        lazy = client.persist(lazy)
    result = fitted(lazy, client, sample_weight=w)
    assert_same(result, plain if weights is None else weighted)


def test_computed_lazily(client: Any, plain: Any) -> None:
    lazy = da.from_array(X, chunks=(100, 2)).map_blocks(lambda x: x * 1.0)
    assert_same(fitted(lazy, client), plain)


def test_frame(client: Any, plain: Any) -> None:
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pd.DataFrame(X, columns=["a", "b"]), npartitions=5)
    assert_same(fitted(frame, client), plain)


def test_prepared(client: Any) -> None:
    model = GaussianMixtureModel(3, covariance_type="tied")
    wanted = fit_em(model, X, transport=Local(1), random_state=0, tol=1e-10)
    for data in (X, da.from_array(X, chunks=(100, 2))):
        found = fit_em(
            model, data, transport=Futures(client), random_state=0, tol=1e-10
        )
        assert found.log_likelihood == pytest.approx(wanted.log_likelihood, rel=1e-8)


def test_own_start_is_the_local_one(client: Any) -> None:
    wanted = fitted(X, transport=Local(1), start=None)
    assert_same(fitted(X, client, start=None), wanted)


@pytest.mark.parametrize("persisted", [False, True])
def test_larger_than_memory(plain: Any, persisted: bool) -> None:
    # 14 kB of rows, 2 x 10 kB of memory; so small a limit cannot be enforced
    lazy = da.from_array(X, chunks=(100, 2)).map_blocks(lambda x: x * 1.0)
    off = {
        f"distributed.worker.memory.{name}": False
        for name in ("target", "spill", "pause", "terminate")
    }
    with (
        dask.config.set(off),
        local_cluster(processes=False, memory_limit=10_000) as cluster,
        Client(cluster) as client,
    ):
        data = client.persist(lazy) if persisted else lazy
        assert_same(fitted(data, client), plain)
        tied = GaussianMixtureModel(3, covariance_type="tied")
        a, b = (
            fit_em(tied, x, transport=t, random_state=0, tol=1e-10)
            for x, t in ((X, Local(1)), (data, Futures(client)))
        )
        assert b.log_likelihood == pytest.approx(a.log_likelihood, rel=1e-8)
        assert_clean(client)


def test_large_parameters(client: Any) -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(400, 40))
    model = GaussianMixtureModel(8)  # 100 kB of covariances, and as much again
    a, b = (
        fit_em(model, wide, transport=t, random_state=0, tol=1e-8)
        for t in (Local(1), Futures(client))
    )
    assert b.log_likelihood == pytest.approx(a.log_likelihood, rel=1e-7)


# --------------------------------------------------------------------- ways to call


def test_inside_a_task(plain: Any) -> None:
    with (
        local_cluster(processes=False, n_workers=1) as cluster,
        Client(cluster) as client,
    ):
        task = client.submit(fitted, X, transport="auto", pure=False)
        assert_same(task.result(timeout=60), plain)


def test_asynchronous_client(cluster: Any, plain: Any) -> None:
    async def work() -> tuple[Any, Any]:
        from dask_em import GaussianMixture

        async with Client(cluster.scheduler_address, asynchronous=True):
            result = await fitted(X, transport="auto")
            mixture = GaussianMixture(3, random_state=0, tol=1e-6)
            return result, await mixture.fit(X)

    result, estimator = asyncio.run(work())
    assert_same(result, plain)
    assert estimator.converged_
    assert estimator.result_.settings["transport"] == "Futures()"


def test_the_current_client_is_found(client: Any, plain: Any) -> None:
    assert fitted(X, transport="auto").settings["transport"] == "Futures()"


def test_a_client_that_is_not_the_default(cluster: Any, plain: Any) -> None:
    with Client(cluster, set_as_default=False) as client:
        assert_same(fitted(X, client), plain)
        assert_same(fitted(da.from_array(X, chunks=(300, 2)), client), plain)


def test_no_client() -> None:
    with pytest.raises(ValueError, match="needs a Dask client"):
        fitted(X, transport="futures")


def test_workers_come_later(plain: Any) -> None:
    with (
        local_cluster(processes=False, n_workers=0) as cluster,
        Client(cluster) as client,
    ):
        timer = threading.Timer(1.0, lambda: cluster.scale(1))
        timer.start()
        result = fitted(X, client)
        timer.join()
    assert_same(result, plain)


def test_two_fits_at_once(client: Any, plain: Any, weighted: Any) -> None:
    results: dict[str, Any] = {}

    def run(name: str, **settings: Any) -> None:
        results[name] = fitted(X, client, **settings)

    threads = [
        threading.Thread(target=run, args=("plain",)),
        threading.Thread(target=run, args=("weighted",), kwargs={"sample_weight": W}),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(results["plain"], plain)
    assert_same(results["weighted"], weighted)


# ------------------------------------------------------------------ what is left over


def test_nothing_grows_with_iterations(client: Any) -> None:
    def counts(dask_scheduler: Any) -> tuple[set[str], int]:
        spans = dask_scheduler.extensions["spans"].spans.values()
        ours = sum(s.name[0].startswith("dask_em-") for s in spans if s.name)
        return set(dask_scheduler.task_groups), ours

    groups, spans = client.run_on_scheduler(counts)
    data = da.from_array(X, chunks=(100, 2))
    seen: list[int] = []

    def known(dask_scheduler: Any) -> int:
        return len(dask_scheduler.tasks)

    def watch(progress: Any) -> None:
        if progress.version % 10 == 0:
            seen.append(client.run_on_scheduler(known))

    # pieces stay where they are: copies of those that move are tested below
    result = fitted(data, client, tol=0.0, max_iter=60, callback=watch, hand_out=False)
    assert result.n_m_steps >= 60
    after, spans_after = client.run_on_scheduler(counts)
    new = [g for g in after - groups if "e_step-" in g]
    assert len(new) <= 1
    assert len(after - groups) <= 20  # a fresh one per M-step would make 60
    assert spans_after - spans == 1
    # pieces, chunks behind them and at most two tasks per thread; not one per M-step
    assert max(seen) <= min(seen) + 55
    assert_clean(client)


def test_chains_of_copies_are_cut(client: Any) -> None:
    """Data that move on and on leave no trail of copies on the scheduler."""

    async def wander(data: Any) -> tuple[int, int]:
        from dask_em.sharding import Shard, as_data

        transport = Futures(client)
        transport._client = client
        pieces = await transport.open(as_data(data), 1)
        transport.begin(MODEL, [Shard(0, tuple(pieces))])

        def known() -> Any:
            return client.run_on_scheduler(
                lambda dask_scheduler: len(dask_scheduler.tasks)
            )

        before = await known()
        slots = sorted({s.rpartition("#")[0] + "#0" for s in transport.workers})
        for i in range(60):
            transport.move(0, slots[i % 2], slots[1 - i % 2])
            await transport._settle([0])
        after = await known()
        await transport.map(_rows, 0)
        await transport.close()
        return before, after

    for data in (X, da.from_array(X, chunks=(450, 2)).map_blocks(lambda x: x * 1.0)):
        before, after = client.sync(wander, data)
        assert after <= before + 20


def _rows(block: Any, rng: Any) -> int:
    return int(block.n_rows)


@pytest.mark.slow
@pytest.mark.cluster
def test_memory_stays_flat(processes: Any) -> None:
    import psutil

    data = da.from_array(clusters(3000), chunks=(300, 2))
    with Client(processes) as client:

        def sizes() -> list[float]:
            gc.collect()
            pids = [
                psutil.Process().pid,
                *client.run(lambda: psutil.Process().pid).values(),
            ]
            return [psutil.Process(p).memory_info().rss / 1e6 for p in pids]

        fitted(data, client, tol=0.0, max_iter=150)
        before = sizes()  # of client and scheduler together, and of the workers
        fitted(data, client, tol=0.0, max_iter=500)
        after = sizes()
    assert max(b - a for a, b in zip(before, after, strict=True)) < 25, (before, after)


# ------------------------------------------------------------------------- bad input


@pytest.fixture
def no_tasks(client: Any) -> Any:
    """Check that no task of ours was sent."""

    def count(dask_scheduler: Any) -> int:
        return sum(dask_scheduler.transition_counter for _ in (0,))

    before = client.run_on_scheduler(count)
    yield
    assert client.run_on_scheduler(count) == before


@pytest.mark.usefixtures("no_tasks")
def test_refused_at_the_door(client: Any) -> None:
    lazy = da.from_array(X, chunks=(100, 2))
    with pytest.raises(ValueError, match="unknown size"):
        fitted(lazy[lazy[:, 0] > 0], client)
    with pytest.raises(ValueError, match="chunked along the features"):
        fitted(lazy.rechunk((100, 1)), client)


def test_nan_in_a_lazy_chunk(client: Any) -> None:
    bad = X.copy()
    bad[250, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        fitted(da.from_array(bad, chunks=(100, 2)), client)


def test_error_in_a_chunk(client: Any) -> None:
    def broken(x: Any) -> Any:
        raise OSError("no such file")

    lazy = da.from_array(X, chunks=(100, 2)).map_blocks(broken, meta=np.empty((0, 0)))
    with pytest.raises(OSError, match="no such file"):
        fitted(lazy, client)


@pytest.mark.parametrize(
    ("found", "message"),
    [(None, "not installed on 1 of the"), ("0.0.0", r"has dask_em 0\.0\.0")],
)
def test_other_version(client: Any, monkeypatch: Any, found: Any, message: str) -> None:
    import dask_em

    async def ask(client: Any, addresses: Any) -> dict[str, Any]:
        return {"tcp://a": found, "tcp://b": dask_em.__version__}

    monkeypatch.setattr("dask_em.transports.futures.ask_versions", ask)
    with pytest.raises(RuntimeError, match=message):
        fitted(X, client)


def test_error_of_the_model(client: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="the model's own"):
        fitted(X, client, FailingMixture(3))


def test_model_that_cannot_travel(client: Any) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        fitted(X, client, UnpicklableMixture(3))


def test_error_in_the_background_ends_the_fit(client: Any, monkeypatch: Any) -> None:
    def broken(self: Any) -> None:
        raise ArithmeticError("a bug in the transport")

    monkeypatch.setattr(Futures, "_forget_params", broken)
    with pytest.raises(ArithmeticError, match="a bug"):
        fitted(X, client)


# ------------------------------------------------------------------------- deadlines


def test_deadline_without_workers() -> None:
    with (
        local_cluster(processes=False, n_workers=0) as cluster,
        Client(cluster) as client,
        pytest.raises(TimeoutError, match=r"deadline of 0\.5 s .* no worker"),
    ):
        fitted(X, client, deadline=0.5)


def test_deadline_in_the_loop(client: Any) -> None:
    began = time.monotonic()
    slow = SlowMixture(3, seconds=0.05)
    result = fitted(X, client, slow, deadline=2.0, tol=0.0, shards=4)
    assert result.status == "deadline"
    assert "shards" in result.message
    assert time.monotonic() - began < 5


def test_deadline_before_the_loop(client: Any) -> None:
    with pytest.raises(TimeoutError, match="got ready"):
        fitted(X, client, SlowMixture(3, seconds=0.3), deadline=0.2, shards=4)


@pytest.mark.cluster
def test_latent_state_moves_with_its_shard(processes: Any, tmp_path: Any) -> None:
    """Shards leave the slow worker, and go on where they were."""
    model = VisitedMixture(3, folder=str(tmp_path), seconds=0.02)
    with Client(processes) as client:
        fitted(
            X, client, model=model, shards=8, max_iter=8, tol=0, schedule="synchronous"
        )
        assert_clean(client)
    begun: dict[str, list[tuple[int, int, str]]] = {}
    for path in tmp_path.iterdir():
        shard, worker, visits = path.name.split("-")
        begun.setdefault(shard, []).append(
            (path.stat().st_mtime_ns, int(visits), worker)
        )
    assert len(begun) == 8
    moved = [seen for seen in begun.values() if len({w for _, _, w in seen}) > 1]
    assert moved
    for seen in moved:
        second = min(at for at, visits, _ in seen if visits == 2)
        # nobody began anew; at first, two may have been at it at the same time
        assert all(at <= second for at, visits, _ in seen if visits == 1)
        assert {visits for _, visits, _ in seen} >= set(range(1, 9))
