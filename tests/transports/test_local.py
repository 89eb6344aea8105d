"""Threads of this process."""

import asyncio
import dataclasses
import os
import threading
import time

import numpy as np
import pytest

from dask_em import Model, Statistics, fit_em
from dask_em.schedules import BoundedStaleness, FractionBarrier, Synchronous
from dask_em.sharding import Shard, as_data
from dask_em.testing import assert_monotone, check_transport
from dask_em.transports import Local, named_transport
from dask_em.transports.base import EStep, Failure, Report


@dataclasses.dataclass(frozen=True)
class Location:
    value: float


@dataclasses.dataclass(frozen=True)
class Sums(Statistics):
    weight: float
    total: float
    square: float


@dataclasses.dataclass(frozen=True)
class HalfWay(Model):
    """The mean by steps of one half, with pauses where `pause` says so."""

    pause: object = None

    def start(self, summary, sample, *, rng, mapreduce):
        return Location(0.0)

    def e_step(self, params, prepared, local=None):
        if self.pause is not None:
            self.pause(prepared)
        x = prepared.X[:, 0]
        return Sums(float(len(x)), float(x.sum()), float(x @ x)), None

    def m_step(self, params, stats):
        return Location((params.value + stats.total / stats.weight) / 2)

    def lower_bound(self, params, stats):
        m = params.value
        return -0.5 * (stats.square - 2 * m * stats.total + m * m * stats.weight)


X = np.random.default_rng(0).normal(3.0, 1.0, (100, 1))


def fit(transport, model=None, **kwargs):
    kwargs = {"tol": 1e-12, "max_iter": 100, "random_state": 0, **kwargs}
    return fit_em(model or HalfWay(), X, transport=transport, **kwargs)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_check_transport(n_workers):
    check_transport(lambda: Local(n_workers))


@pytest.mark.parametrize("shards", [1, 2, 7, 100, 1000])
def test_threads_do_not_change_synchronous_fits(shards):
    one, two = (fit(Local(n), shards=shards) for n in (1, 5))
    assert one.params == two.params
    assert one.trace.lower_bound.tolist() == two.trace.lower_bound.tolist()
    assert one.settings["shards"] == min(shards, 100)  # a shard has a row at least


def test_e_steps_run_on_threads_at_the_same_time():
    meeting = threading.Barrier(3, timeout=30)
    model = HalfWay(pause=lambda block: meeting.wait())
    # nobody takes over from a thread that the machine lets wait: a fourth would come
    fit(Local(3), model, shards=3, max_iter=2, hand_out=False)
    assert not meeting.broken


def test_the_default_is_one_thread_for_small_data_and_all_cores_for_large():
    async def threads(n_rows):
        local = Local()
        await local.open(as_data(np.zeros((n_rows, 1))), None)
        names = local.workers
        await local.close()
        return len(names)

    assert asyncio.run(threads(1000)) == 1
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert asyncio.run(threads(60_000)) == len(cores or range(os.cpu_count()))


def test_threads_end_with_the_fit():
    before = {t.ident for t in threading.enumerate()}
    fit(Local(4), shards=8)
    with pytest.raises(ZeroDivisionError):
        fit(Local(4), HalfWay(pause=lambda block: 1 / 0), shards=8)
    deadline = time.monotonic() + 10
    while left := [t for t in threading.enumerate() if t.ident not in before]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_errors_arrive_with_their_traceback():
    def fail(block):
        raise LookupError("where is it?")

    with pytest.raises(LookupError, match="where is it") as caught:
        fit(Local(2), HalfWay(pause=fail), shards=2)
    assert any(entry.name == "fail" for entry in caught.traceback)


@pytest.mark.parametrize("times", [1, 2])
def test_a_passing_error_is_tried_again(times):
    failures = []

    def fail(block):
        if len(failures) < times:
            failures.append(1)
            raise OSError("for a moment")

    result = fit(Local(1), HalfWay(pause=fail), shards=1)
    assert result.converged
    assert result.params.value == pytest.approx(X.mean(), abs=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [Synchronous(), FractionBarrier(0.3), BoundedStaleness(1, 0.2)],
    ids=repr,
)
def test_a_slow_thread(schedule):
    """One shard's rows take long, whoever has them."""

    def pause(block):
        time.sleep(0.02 if X[0, 0] in block.X else 0.001)

    result = fit(Local(3), HalfWay(pause=pause), shards=6, schedule=schedule)
    assert result.converged
    assert result.params.value == pytest.approx(X.mean(), abs=1e-5)
    assert_monotone(result)


def stage(script, n_workers=1, n_shards=3, model=None):
    async def main():
        local = Local(n_workers)
        pieces = await local.open(as_data(X), n_shards)
        local.begin(model or HalfWay(), [Shard(p.index, (p,)) for p in pieces])
        try:
            return await script(local)
        finally:
            local.cancel()
            await local.close()

    return asyncio.run(main())


def test_pieces_are_views_and_every_thread_has_some():
    async def script(local):
        blocks = [block for piece in local._blocks for block in piece]
        assert all(np.shares_memory(block.X, X) for block in blocks)
        assert {p.owner for p in local._pieces} == set(local.workers)

    stage(script, 3, 6)


def test_a_recall_cancels_what_has_not_begun():
    gate = threading.Event()

    async def script(local):
        for shard in range(3):
            local.submit(EStep(shard, "thread-0", 0, Location(0.0)))
        while not gate.started.is_set():
            await asyncio.sleep(0.001)
        local.recall(1, "thread-0")
        local.recall(0, "thread-0")  # too late
        gate.set()
        found = []
        while len(found) < 2:
            found += await local.receive(None)
        assert await local.receive(local.now() + 0.05) == []
        return found

    gate.started = threading.Event()

    def pause(block):
        gate.started.set()
        assert gate.wait(30)

    found = stage(script, model=HalfWay(pause=pause))
    assert [(type(e), e.shard) for e in found] == [(Report, 0), (Report, 2)]


def test_what_was_cancelled_is_never_reported():
    begun, gate = threading.Event(), threading.Event()

    def pause(block):
        begun.set()
        assert gate.wait(30)

    async def script(local):
        for shard in range(3):
            local.submit(EStep(shard, "thread-0", 0, Location(0.0)))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        local.cancel()  # the first runs, the others wait
        gate.set()
        local.submit(EStep(2, "thread-0", 7, Location(0.0)))
        found = []
        while not found:
            found = await local.receive(None)
        found += await local.receive(local.now() + 0.05)
        assert [(e.shard, e.version) for e in found] == [(2, 7)]

    stage(script, model=HalfWay(pause=pause))


def test_an_error_is_a_failure_with_its_cause():
    async def script(local):
        local.submit(EStep(1, "thread-0", 0, Location(0.0)))
        found = []
        while not found:
            found = await local.receive(None)
        return found

    (event,) = stage(script, model=HalfWay(pause=lambda block: 1 / 0))
    assert isinstance(event, Failure) and event.shard == 1
    assert isinstance(event.error, ZeroDivisionError)


def test_receive_returns_in_time():
    async def script(local):
        began = local.now()
        assert await local.receive(began - 1) == []
        assert await local.receive(began + 0.05) == []
        return local.now() - began

    assert 0.04 < stage(script) < 1


def test_a_deadline_in_real_seconds():
    slow = HalfWay(pause=lambda block: time.sleep(0.05))
    began = time.perf_counter()
    result = fit(Local(1), slow, shards=2, deadline=0.4, tol=0.0, max_iter=10_000)
    assert time.perf_counter() - began < 5
    assert result.status == "deadline" and "0.4 s" in result.message
    assert result.n_m_steps >= 1


def test_inside_a_running_loop():
    """As in a notebook: the caller's thread runs a loop of its own."""

    async def notebook():
        return fit(Local(2), shards=3)

    assert asyncio.run(notebook()).converged


def test_two_fits_at_once():
    results = {}

    def work(name):
        results[name] = fit(Local(2), shards=3)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert len({r.params.value for r in results.values()}) == 1 and len(results) == 4


@pytest.mark.parametrize("bad", [0, -1])
def test_bad_number_of_workers(bad):
    with pytest.raises(ValueError, match="n_workers must be at least 1"):
        Local(bad)


def test_names():
    assert repr(Local()) == "Local()" and repr(Local(3)) == "Local(3)"
    assert isinstance(named_transport("local"), Local)
    assert isinstance(named_transport("auto"), Local)  # without a client
    mine = Local(2)
    assert named_transport(mine) is mine
    for bad in ("Local", None, Local):
        with pytest.raises(ValueError, match="transport must be"):
            named_transport(bad)
