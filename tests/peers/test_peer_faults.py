"""Fits of peers on a cluster whose workers die, stop, come and go."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from clusters import assert_clean, local_cluster
from distributed import Client
from lexicon_model import Pairs, bitext, reference
from peer_models import CountingLexicon, FailingLexicon, SlowLexicon

from dask_em.drivers.peer import Stage, fit_peers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

PAIRS = bitext(40)
TRANSPORTS = ["futures", "actors"]
SNAPSHOTS = [0.0, 1e9]
N_ITER = 25


def some(names: Any, values: Any, cases: Any) -> Any:
    """Parametrize with the product of values: some cases are chaos, the rest soak."""
    assert set(cases) <= set(itertools.product(*values))
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(
                *case, marks=pytest.mark.chaos if case in cases else pytest.mark.soak
            )
            for case in itertools.product(*values)
        ],
    )


def fitted(model: Any = None, **settings: Any) -> Any:
    stage = Stage(model or SlowLexicon(0.05), settings.pop("max_iter", N_ITER))
    return fit_peers([stage], Pairs(PAIRS), **{"shards": 3} | settings)


@pytest.fixture(scope="module")
def calm() -> Any:
    return reference(PAIRS, N_ITER)


def assert_undisturbed(result: Any, calm: Any) -> None:
    ids, params, bounds = calm
    found_ids, found = result.params.gather()
    assert np.array_equal(found_ids, ids)
    np.testing.assert_allclose(found, params, rtol=1e-8)
    np.testing.assert_allclose(result.trace.lower_bound, bounds[1:], rtol=1e-9)
    assert result.log_likelihood == pytest.approx(bounds[-1], rel=1e-9)


def nodes_left() -> int:
    from dask_em.transports.peers import on_worker

    return len(on_worker._NODES) + len(on_worker._STAMPS)


def assert_nothing_left(client: Any) -> None:
    assert_clean(client, 15)
    assert not any(client.run(nodes_left).values())


def pids(cluster: Any) -> list[int]:
    """Return the process ids of workers that are alive, without asking them."""
    nannies = cluster.workers.values()
    return [n.pid for n in nannies if n.pid is not None and psutil.pid_exists(n.pid)]


def kill(victims: list[int], sign: int = signal.SIGKILL) -> None:
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something in another thread while the block runs; raise what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture
def three() -> Iterator[Any]:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        local_cluster(n_workers=3, processes=True) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(three: Any) -> Iterator[Any]:
    with Client(three) as client:
        client.wait_for_workers(3, timeout=30)
        yield client
        assert_nothing_left(client)


def at(*versions: int) -> Any:
    """Return a callback that calls back once at each version, and what to call."""
    due = list(versions)

    def wrap(disturb: Callable[[], None]) -> Callable[[Any], None]:
        def callback(progress: Any) -> None:
            if due and progress.version == due[0]:
                due.pop(0)
                disturb()

        return callback

    return wrap


# ---------------------------------------------------------------------------- losses


@some(
    ("transport", "snapshot_seconds", "victim"),
    [TRANSPORTS, SNAPSHOTS, [0, 2]],
    [("futures", 0.0, 0), ("actors", 0.0, 2), ("futures", 1e9, 2)],
)
def test_one_is_killed(
    three: Any,
    client: Any,
    calm: Any,
    transport: str,
    snapshot_seconds: float,
    victim: int,
) -> None:
    callback = at(7)(lambda: kill([pids(three)[victim]]))
    result = fitted(
        transport=transport, snapshot_seconds=snapshot_seconds, callback=callback
    )
    assert_undisturbed(result, calm)
    assert result.settings["losses"] >= 1


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("snapshot_seconds", SNAPSHOTS)
def test_killed_in_an_e_step(
    three: Any, client: Any, calm: Any, transport: str, snapshot_seconds: float
) -> None:
    def disturb() -> None:
        time.sleep(2.0)
        kill(pids(three)[1:2])

    with meanwhile(disturb):
        result = fitted(
            SlowLexicon(0.2), transport=transport, snapshot_seconds=snapshot_seconds
        )
    assert_undisturbed(result, calm)
    assert result.settings["losses"] >= 1


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("snapshot_seconds", SNAPSHOTS)
def test_killed_twice(
    three: Any, client: Any, calm: Any, transport: str, snapshot_seconds: float
) -> None:
    victims = [0, -1]
    callback = at(5, 9)(lambda: kill([pids(three)[victims.pop()]]))
    result = fitted(
        transport=transport, snapshot_seconds=snapshot_seconds, callback=callback
    )
    assert_undisturbed(result, calm)
    assert result.settings["losses"] >= 2


@some(("transport",), [TRANSPORTS], [("actors",)])
def test_latent_state_survives(three: Any, client: Any, transport: str) -> None:
    """The bound of this model counts the E-steps that its data have seen."""
    model = CountingLexicon()
    known = fitted(model, transport="local", max_iter=12)
    model.seconds = 0.05
    callback = at(7)(lambda: kill(pids(three)[:1]))
    result = fitted(
        model, transport=transport, snapshot_seconds=0, max_iter=12, callback=callback
    )
    np.testing.assert_allclose(
        result.params.gather()[1], known.params.gather()[1], rtol=1e-8
    )
    assert result.settings["losses"] >= 1
    assert result.log_likelihood == pytest.approx(known.log_likelihood, rel=1e-9)


@some(
    ("transport", "slow"),
    [TRANSPORTS, ["survey", "prepare"]],
    [("futures", "prepare")],
)
def test_killed_during_set_up(
    three: Any, client: Any, calm: Any, transport: str, slow: str
) -> None:
    def disturb() -> None:
        time.sleep(1.0)
        kill(pids(three)[:1])

    with meanwhile(disturb):
        result = fitted(SlowLexicon(1.5, slow), transport=transport)
    assert_undisturbed(result, calm)


@some(("transport", "snapshot_seconds"), [TRANSPORTS, SNAPSHOTS], [("actors", 1e9)])
def test_all_are_killed(
    three: Any, client: Any, calm: Any, transport: str, snapshot_seconds: float
) -> None:
    callback = at(6)(lambda: kill(pids(three)))
    result = fitted(
        transport=transport, snapshot_seconds=snapshot_seconds, callback=callback
    )
    assert_undisturbed(result, calm)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("close", [False, True])
def test_one_leaves_for_good(calm: Any, transport: str, close: bool) -> None:
    with (
        local_cluster(n_workers=3, processes=True) as cluster,
        Client(cluster) as client,
    ):

        def disturb() -> None:
            first = min(client.scheduler_info(n_workers=-1)["workers"])
            if close:
                cluster.scale(2)
            else:
                client.retire_workers([first])

        callback = at(6)(disturb)
        result = fitted(transport=transport, snapshot_seconds=0, callback=callback)
        assert_undisturbed(result, calm)
        assert_nothing_left(client)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_stops_for_a_while(
    three: Any, client: Any, calm: Any, transport: str
) -> None:
    def disturb() -> None:
        [victim] = pids(three)[:1]
        kill([victim], signal.SIGSTOP)
        threading.Timer(3.0, kill, ([victim], signal.SIGCONT)).start()

    result = fitted(transport=transport, callback=at(6)(disturb))
    assert_undisturbed(result, calm)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_restart(three: Any, client: Any, calm: Any, transport: str) -> None:
    with Client(three, set_as_default=False) as other:

        def disturb() -> None:
            time.sleep(2.0)
            other.restart()

        with meanwhile(disturb):
            result = fitted(SlowLexicon(0.15), transport=transport)
    assert_undisturbed(result, calm)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_last_one_leaves_and_another_comes(calm: Any, transport: str) -> None:
    with (
        local_cluster(n_workers=1, processes=True) as cluster,
        Client(cluster) as client,
    ):

        def disturb() -> None:
            cluster.scale(0)
            threading.Timer(2.0, cluster.scale, (2,)).start()

        result = fitted(transport=transport, callback=at(6)(disturb))
        assert_undisturbed(result, calm)
        assert_nothing_left(client)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("alone", [False, True])
def test_a_worker_comes_back_at_its_address(
    calm: Any, transport: str, alone: bool
) -> None:
    """Its nanny may give it the port that it had."""
    from distributed import Nanny, Scheduler, SpecCluster

    port = free_port()
    spec = {
        0: {"cls": Nanny, "options": {"nthreads": 1}},
        1: {"cls": Nanny, "options": {"nthreads": 1, "worker_port": port}},
    }
    if alone:
        del spec[0]
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": ":0"}}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        SpecCluster(workers=spec, scheduler=scheduler, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(len(spec))
        callback = at(6)(lambda: kill([cluster.workers[1].pid]))
        result = fitted(transport=transport, snapshot_seconds=0, callback=callback)
        assert_undisturbed(result, calm)
        assert_nothing_left(client)


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# ------------------------------------------------------------------------ other ends


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_worker_before_the_deadline(transport: str) -> None:
    with (
        local_cluster(n_workers=0, processes=True) as cluster,
        Client(cluster),
        pytest.raises(TimeoutError, match="deadline of 1 s passed"),
    ):
        fitted(transport=transport, deadline=1.0)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_comes_back(transport: str) -> None:
    """There are parameters, but nobody is left who has them: the deadline counts."""
    with (
        local_cluster(n_workers=1, processes=True) as cluster,
        Client(cluster),
        pytest.raises(TimeoutError),
    ):
        fitted(
            transport=transport, deadline=8.0, callback=at(6)(lambda: cluster.scale(0))
        )


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_deadline_and_interrupt(client: Any, transport: str) -> None:
    result = fitted(transport=transport, deadline=2.0, max_iter=10**6)
    assert result.status == "deadline"
    _, params, bounds = reference(PAIRS, result.n_m_steps)
    assert result.log_likelihood == pytest.approx(bounds[-1], rel=1e-9)

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    result = fitted(transport=transport, max_iter=10**6, callback=at(5)(interrupt))
    assert result.status == "interrupted"
    _, params, bounds = reference(PAIRS, result.n_m_steps)
    np.testing.assert_allclose(result.params.gather()[1], params, rtol=1e-8)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("where", ["survey", "e_step"])
@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), OSError("mine"), RuntimeError("mine"), TimeoutError("mine")],
    ids=lambda e: type(e).__name__,
)
def test_errors(client: Any, transport: str, where: str, error: Any) -> None:
    model = FailingLexicon(where, error, PAIRS[-1][1])
    with pytest.raises(type(error), match="mine"):
        fitted(model, transport=transport)
