"""Rotations on workers that die, or that have little memory."""

from __future__ import annotations

import os
import threading
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import scipy.sparse as sp
from clusters import assert_clean, local_cluster
from distributed import Client
from rotating_models import SlowTopics, topical

from dask_em.drivers.peer import Stage, fit_peers
from dask_em.models.topics.rotating import RotatingTopicModel
from dask_em.topics import as_corpus
from dask_em.topologies import Rotation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

X = topical(200, 60, 4)


def fitted(**settings: Any) -> Any:
    stage = Stage(SlowTopics(4, a=0.3, b=0.2), settings.pop("max_iter", 15))
    how = settings.pop("topology", Rotation("barrier"))
    return fit_peers([stage], as_corpus(X), **{"topology": how, "shards": 3} | settings)


def n_left(dask_worker: Any) -> int:
    """Return how many nodes, and files of theirs, are left on a worker."""
    from dask_em.transports.peers import on_worker

    folder = os.listdir(dask_worker.local_directory)
    return len(on_worker._NODES) + sum("blocks" in name for name in folder)


@pytest.mark.parametrize(
    ("transport", "wait", "snapshot_seconds"),
    [
        pytest.param("futures", "barrier", 0.0, marks=pytest.mark.chaos),
        pytest.param("actors", "extra_updates", 0.0, marks=pytest.mark.soak),
        pytest.param("actors", "neighbours", 1e9, marks=pytest.mark.soak),
    ],
)
def test_one_is_killed(transport: str, wait: str, snapshot_seconds: float) -> None:
    """The fit goes back to its copies, or begins anew, and ends where it would have."""
    calm = fitted(transport="local", topology=Rotation(wait))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        local_cluster(n_workers=3, processes=True) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(3, timeout=30)
        due = [6]

        def callback(progress: Any) -> None:
            if due and progress.version == due[0]:
                due.pop()
                psutil.Process(cluster.workers[1].pid).kill()

        result = fitted(
            transport=transport,
            topology=Rotation(wait, in_memory=0),
            callback=callback,
            snapshot_seconds=snapshot_seconds,
        )
        assert_clean(client, 15)
        assert not any(client.run(n_left).values())
    assert result.status == "max_iter" and result.n_m_steps == 15
    assert result.settings["losses"] >= 1
    _, counts = result.params.gather()
    np.testing.assert_allclose(counts[-1].sum(), X.sum())
    assert result.log_likelihood == pytest.approx(calm.log_likelihood, rel=0.005)
    gains = np.diff(result.trace.lower_bound)
    assert gains.min() > -0.01 * np.ptp(result.trace.lower_bound)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("transport", ["futures", "actors"])
def test_a_model_larger_than_any_worker(transport: str) -> None:
    """A table of 670 MB on four workers of 600 MB each, none of which is restarted."""
    n_words, n_topics = 120_000, 700
    rng = np.random.default_rng(0)
    words = np.concatenate([np.arange(n_words), rng.integers(0, n_words, n_words)])
    docs = rng.integers(0, 400, 2 * n_words)
    counts = sp.csr_array((np.ones(2 * n_words), (docs, words)), shape=(400, n_words))
    limit = 600_000_000
    highest = 0
    with (
        local_cluster(n_workers=4, processes=True, memory_limit=limit) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(4, timeout=30)
        pids = [nanny.pid for nanny in cluster.workers.values()]
        done = threading.Event()

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.02):
                sizes = [psutil.Process(pid).memory_info().rss for pid in pids]
                highest = max(highest, *sizes)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            result = fit_peers(
                [Stage(RotatingTopicModel(n_topics, begin="random"), 1)],
                as_corpus(counts),
                topology=Rotation(slices_per_node=16),
                transport=transport,
                gather=False,
            )
        finally:
            done.set()
            watching.join()
        assert result.params.nbytes > limit
        assert result.settings["losses"] == 0
        assert [nanny.pid for nanny in cluster.workers.values()] == pids
        assert highest < limit
        assert not any(client.run(n_left).values())
