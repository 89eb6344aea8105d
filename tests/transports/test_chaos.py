"""The Dask transport on a cluster whose workers die, stop, come and go."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
from clusters import assert_clean, local_cluster
from distributed import Client
from slow_models import DeadlyMixture, SlowMixture, clusters, start

from dask_em import fit_em
from dask_em.testing import SCHEDULES, assert_monotone
from dask_em.transports import Futures, Local

pytestmark = [pytest.mark.cluster, pytest.mark.chaos]

X = clusters(900, apart=2.5)


def fitted(data: Any, client: Any, seconds: float = 0.02, **settings: Any) -> Any:
    settings = {"start": start(), "tol": 1e-9, "max_iter": 500, "shards": 6} | settings
    settings = {"transport": Futures(client), "deadline": 60.0} | settings
    model = settings.pop("model", SlowMixture(3, seconds=seconds))
    return fit_em(model, data, random_state=0, **settings)


@pytest.fixture(scope="module")
def calm() -> float:
    result = fitted(X, None, 0.0, transport=Local(1), tol=1e-12, max_iter=5000)
    return float(result.log_likelihood)


def assert_undisturbed(result: Any, calm: float) -> None:
    assert result.converged, result.message
    assert result.log_likelihood == pytest.approx(calm, rel=1e-7)
    assert_monotone(result)


def data_of(kind: str, client: Any) -> Any:
    if kind == "numpy":
        return X
    lazy = da.from_array(X, chunks=(60, 2)).map_blocks(_slowly)
    return client.persist(lazy) if kind == "persisted" else lazy


def _slowly(block: np.ndarray) -> np.ndarray:
    time.sleep(0.02)
    return block * 1.0


# ------------------------------------------------------------------------ the means


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
    # a worker that dies a hundred times is still worth another try
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        local_cluster(n_workers=3, processes=True) as cluster,
    ):
        yield cluster


def chaos_run(seed: int, cluster: Any, calm: float) -> None:
    """Fit while workers are killed or stopped at random; compare the answers."""
    rng = random.Random(seed)
    kind = rng.choice(["numpy", "lazy"])
    schedule = rng.choice(SCHEDULES)
    done = threading.Event()
    # before the loop, that is while data are made and surveyed, as well as in it
    pauses = [rng.uniform(0.0, 0.7)] + [rng.uniform(0.1, 1.5) for _ in range(5)]

    def disturb() -> None:
        for pause in pauses:
            if done.wait(pause):
                return
            alive = pids(cluster)
            if not alive:
                continue
            if rng.random() < 0.25:
                [victim] = rng.sample(alive, 1)
                kill([victim], signal.SIGSTOP)
                done.wait(rng.uniform(0.2, 3.0))
                kill([victim], signal.SIGCONT)
            else:
                kill(rng.sample(alive, rng.randint(1, len(alive))))

    with Client(cluster) as client:
        try:
            with meanwhile(disturb):
                try:
                    result = fitted(data_of(kind, client), client, schedule=schedule)
                finally:
                    done.set()
        finally:
            kill(pids(cluster), signal.SIGCONT)
        try:
            assert_undisturbed(result, calm)
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed}, {kind}, {schedule!r}: {error}"
            ) from None
        assert_clean(client)


@pytest.mark.parametrize("seed", range(1))
def test_random(three: Any, calm: float, seed: int) -> None:
    chaos_run(seed, three, calm)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_soak(three: Any, calm: float, seed: int) -> None:
    chaos_run(100 + seed, three, calm)


# ------------------------------------------------------------- one thing at a time


SOAK = pytest.mark.soak


def in_ci(*chosen: Any, kinds: Any, times: Any) -> Any:
    """Return all pairs, those not chosen to be run by hand."""
    return [
        pytest.param(kind, when, marks=() if (kind, when) in chosen else SOAK)
        for kind in kinds
        for when in times
    ]


@pytest.mark.parametrize(
    ("kind", "when"),
    in_ci(
        ("numpy", 1.0),
        ("lazy", 0.3),
        ("persisted", 2.0),
        kinds=["numpy", "lazy", "persisted"],
        times=[0.05, 0.3, 1.0, 2.0],
    ),
)
def test_one_is_killed(three: Any, calm: float, kind: str, when: float) -> None:
    def disturb() -> None:
        time.sleep(when)
        kill(pids(three)[:1])

    with Client(three) as client:
        data = data_of(kind, client)
        with meanwhile(disturb):
            result = fitted(data, client)
        assert_undisturbed(result, calm)
        assert_clean(client)


@pytest.mark.parametrize(
    ("kind", "when"),
    in_ci(("lazy", 1.5), kinds=["numpy", "lazy"], times=[0.3, 1.5]),
)
def test_all_are_killed(three: Any, calm: float, kind: str, when: float) -> None:
    def disturb() -> None:
        time.sleep(when)
        kill(pids(three))

    with Client(three) as client, meanwhile(disturb):
        assert_undisturbed(fitted(data_of(kind, client), client), calm)


@pytest.mark.parametrize("phase", ["e_step", pytest.param("verify", marks=SOAK)])
def test_killed_in_a_phase(three: Any, calm: float, phase: str) -> None:
    """Kill when the fit is known to be in the first pass, or in the last one."""
    victims: list[int] = []

    def callback(progress: Any) -> None:
        due = progress.version == 1 if phase == "e_step" else progress.gain < 1e-8
        if due and not victims:
            victims.extend(pids(three)[:1])
            kill(victims)

    with Client(three) as client:
        result = fitted(data_of("lazy", client), client, callback=callback)
    assert victims
    assert_undisturbed(result, calm)


@pytest.mark.parametrize(
    ("kind", "when"),
    in_ci(("numpy", 0.2), kinds=["numpy", "lazy"], times=[0.2, 1.5]),
)
def test_one_stops_for_a_while(three: Any, calm: float, kind: str, when: float) -> None:
    """Others take over what a stopped worker has, long before it goes on."""
    ended: list[float] = []

    def disturb() -> None:
        time.sleep(when)
        [victim] = pids(three)[:1]
        kill([victim], signal.SIGSTOP)
        end = time.monotonic() + 60
        while time.monotonic() < end and not ended:
            time.sleep(0.1)
        kill([victim], signal.SIGCONT)

    with Client(three) as client, meanwhile(disturb):
        began = time.monotonic()
        try:
            result = fitted(data_of(kind, client), client)
        finally:
            ended.append(time.monotonic())
    assert_undisturbed(result, calm)
    assert ended[0] - began < 50


def test_one_retires(three: Any, calm: float) -> None:
    with Client(three) as client:

        def disturb() -> None:
            time.sleep(1.0)
            client.retire_workers([next(iter(client.nthreads()))])

        with meanwhile(disturb):
            assert_undisturbed(fitted(data_of("lazy", client), client), calm)


def test_one_joins_and_gets_work(calm: float) -> None:
    seen: set[str] = set()

    with local_cluster(n_workers=1) as cluster, Client(cluster) as client:

        def note(dask_scheduler: Any) -> list[str]:
            return [a for a, w in dask_scheduler.workers.items() if w.processing]

        def callback(progress: Any) -> None:
            if progress.version == 3:
                cluster.scale(2)
            seen.update(client.run_on_scheduler(note))

        result = fitted(X, client, 0.05, callback=callback, shards=8)
    assert_undisturbed(result, calm)
    assert len(seen) == 2


@pytest.mark.parametrize("when", ["never", "survey", "loop"])
def test_nobody_comes_back(when: str) -> None:
    with local_cluster(n_workers=2) as cluster, Client(cluster) as client:
        if when == "never":
            cluster.scale(0)
            while client.nthreads():
                time.sleep(0.05)

        def disturb() -> None:
            time.sleep(0.2 if when == "survey" else 2.5)
            client.retire_workers(list(client.nthreads()), close_workers=True)
            cluster.scale(0)

        began = time.monotonic()
        with meanwhile(disturb if when != "never" else lambda: None):
            if when == "loop":
                result = fitted(X, client, 0.01, deadline=6.0, tol=0.0, max_iter=10**6)
                assert result.status == "deadline"
                assert "no worker was there" in result.message
            else:
                with pytest.raises(TimeoutError, match="there is no worker"):
                    fitted(X, client, 0.2, deadline=6.0)
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", ["lazy", pytest.param("numpy", marks=SOAK)])
def test_restart(three: Any, calm: float, kind: str) -> None:
    with Client(three) as client, Client(three, set_as_default=False) as other:

        def disturb() -> None:
            time.sleep(1.5)
            other.restart()

        with meanwhile(disturb):
            assert_undisturbed(fitted(data_of(kind, client), client), calm)


def test_restart_loses_persisted_data(three: Any) -> None:
    with Client(three) as client, Client(three, set_as_default=False) as other:

        def disturb() -> None:
            time.sleep(1.5)
            other.restart()

        data = data_of("persisted", client)
        with meanwhile(disturb), pytest.raises(RuntimeError, match="persist the data"):
            fitted(data, client, 0.05, tol=0.0)


def test_the_model_kills() -> None:
    """A fit that kills every worker it gets ends, and says so."""
    with (
        local_cluster(n_workers=1) as cluster,
        Client(cluster) as client,
        pytest.raises(RuntimeError, match="10 times in a row"),
    ):
        fitted(X, client, model=DeadlyMixture(3), shards=1)


def test_the_scheduler_is_killed() -> None:
    with contextlib.ExitStack() as stack:
        run = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
        run += ["--port", "0", "--host", "127.0.0.1"]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        scheduler = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env=env)
        stack.callback(_end, scheduler)
        assert scheduler.stderr is not None
        address = ""
        while "Scheduler at:" not in address:
            address = scheduler.stderr.readline()
        threading.Thread(target=scheduler.stderr.read, daemon=True).start()
        address = address.split("Scheduler at:")[1].strip()
        run = [sys.executable, "-m", "distributed.cli.dask_worker", address]
        worker = subprocess.Popen(
            [*run, "--nthreads", "1", "--no-nanny", "--no-dashboard"],
            stderr=subprocess.DEVNULL,
            env=env,
        )
        stack.callback(_end, worker)
        client = stack.enter_context(Client(address, timeout="5s"))
        client.wait_for_workers(1)

        def disturb() -> None:
            time.sleep(2.0)
            scheduler.kill()

        with meanwhile(disturb), pytest.raises(ConnectionError, match="scheduler is"):
            fitted(X, client, tol=0.0, max_iter=10**6)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


# ------------------------------------------------------------- the client's own death


def resume_run(seed: int, directory: Path, cluster: Any, calm: float) -> None:
    """Kill the process that fits, and go on from its checkpoint in this one."""
    rng = random.Random(seed)
    here = Path(__file__).parent
    script = f"""
        import sys
        sys.path.insert(0, {str(here)!r})
        from distributed import Client
        from slow_models import SlowMixture, clusters, start
        from dask_em import fit_em
        if __name__ == "__main__":
            with Client({cluster.scheduler_address!r}):
                fit_em(
                    SlowMixture(3, seconds=0.02), clusters(900, apart=2.5),
                    start=start(), tol=1e-9, max_iter=500, random_state=0, shards=6,
                    checkpoint={str(directory)!r}, checkpoint_seconds=0.05,
                    callback=lambda p: print(p.version, flush=True),
                )
    """
    paths = [str(Path(sys.modules["dask_em"].__file__).parents[1]), *sys.path]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    ) as process:
        last = rng.randint(5, 25)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= last:
                break
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
    with Client(cluster) as client:
        settings = {"checkpoint": directory, "resume": True, "start": None}
        result = fitted(X, client, **settings)
        assert result.resumed_from == str(directory)
        assert_undisturbed(result, calm)
        assert_clean(client, 40)  # the scheduler lets go of the dead client's, too


@pytest.mark.parametrize("seed", range(1))
def test_resume(processes: Any, calm: float, seed: int, tmp_path: Path) -> None:
    resume_run(seed, tmp_path, processes, calm)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_resume_soak(processes: Any, calm: float, seed: int, tmp_path: Path) -> None:
    resume_run(100 + seed, tmp_path, processes, calm)
