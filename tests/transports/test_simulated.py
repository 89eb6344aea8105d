"""The virtual clock: times by hand, faults, losses, many workers."""

import asyncio
import dataclasses
import time

import numpy as np
import pytest

from dask_em import Model, Statistics, fit_em
from dask_em.schedules import (
    BoundedStaleness,
    ExtraUpdates,
    FractionBarrier,
    Synchronous,
)
from dask_em.sharding import Shard, as_data
from dask_em.testing import assert_monotone, check_transport
from dask_em.transports import Fault, Simulated
from dask_em.transports.base import EStep, Failure, Report, WorkersAre


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
    """The mean by steps of one half: parameters of 8 bytes, statistics of 24."""

    def start(self, summary, sample, *, rng, mapreduce):
        return Location(0.0)

    def e_step(self, params, prepared, local=None):
        x = prepared.X[:, 0]
        return Sums(float(len(x)), float(x.sum()), float(x @ x)), None

    def m_step(self, params, stats):
        return Location((params.value + stats.total / stats.weight) / 2)

    def lower_bound(self, params, stats):
        m = params.value
        return -0.5 * (stats.square - 2 * m * stats.total + m * m * stats.weight)


X = np.random.default_rng(0).normal(3.0, 1.0, (100, 1))
MEAN = float(X.mean())


def fit(transport, *, schedule=None, shards=4, hand_out=False, **kwargs):
    kwargs = {"tol": 0.0, "max_iter": 3, "random_state": 0, **kwargs}
    return fit_em(
        HalfWay(),
        X,
        transport=transport,
        schedule=schedule or Synchronous(),
        shards=shards,
        hand_out=hand_out,
        **kwargs,
    )


def times(transport, **kwargs):
    return fit(transport, **kwargs).trace.time.tolist()


# ----------------------------------------------------------------- times by hand


def test_a_pass_takes_its_cost_divided_by_the_workers():
    assert times(Simulated(4, cost=8.0)) == pytest.approx([2, 4, 6])
    assert times(Simulated(2, cost=8.0), shards=2) == pytest.approx([4, 8, 12])


def test_the_slowest_sets_the_pace_of_a_barrier():
    slow = Simulated(4, cost=8.0, speeds=[1, 2, 1, 0.25])
    assert times(slow) == pytest.approx([8, 16, 24])


def test_who_waited():
    """Two shards each on workers of speeds 1 and 1/2, in three passes and a last."""
    transport = Simulated(2, cost=4.0, speeds=[1.0, 0.5])
    fit(transport)
    timeline = transport.timeline
    assert timeline.workers == ("worker-0", "worker-1")
    assert [(i.worker, i.start, i.stop) for i in timeline.until(4.0).intervals] == [
        ("worker-0", 0.0, 1.0),
        ("worker-1", 0.0, 2.0),
        ("worker-0", 1.0, 2.0),
        ("worker-1", 2.0, 4.0),
    ]
    assert timeline.waiting() == {"worker-0": 0.5, "worker-1": 0.0}
    assert {i.kind for i in timeline.intervals} == {"work"}


def test_extra_updates_and_transfers_are_told_apart():
    slow = Simulated(2, cost=4.0, speeds=[1.0, 0.1])
    fit(slow, schedule=ExtraUpdates(Synchronous(), 1))
    assert {i.kind for i in slow.timeline.intervals} == {"work", "extra"}
    slow = Simulated(2, cost=4.0, speeds=[1.0, 0.1], bandwidth=1e4)
    fit(slow, hand_out=True, shards=8)
    moves = [i for i in slow.timeline.intervals if i.kind == "transfer"]
    assert moves
    assert slow.timeline.waiting(["work", "transfer"])["worker-0"] < 0.2


def test_shards_of_a_worker_queue():
    assert times(Simulated(2, cost=8.0)) == pytest.approx([4, 8, 12])
    assert times(Simulated(1, cost=8.0)) == pytest.approx([8, 16, 24])


def test_uneven_shards():
    assert times(Simulated(3, cost=100.0), shards=3) == pytest.approx([34, 68, 102])


def test_latency_is_paid_each_way():
    assert times(Simulated(4, cost=8.0, latency=0.5)) == pytest.approx([3, 6, 9])


def test_messages_take_their_size_over_the_bandwidth():
    # 8 bytes of parameters there, 24 of statistics back
    assert times(Simulated(4, cost=8.0, bandwidth=8.0)) == pytest.approx([6, 12, 18])


def test_cost_may_be_a_function_of_rows():
    fixed = Simulated(2, cost=lambda rows: 1.0 + rows / 10)
    assert times(fixed, shards=2) == pytest.approx([6, 12, 18])


def test_m_steps_may_cost():
    # the time of an M-step is logged when it is done
    assert times(Simulated(4, cost=8.0, m_step_cost=1.0)) == pytest.approx([3, 6, 9])


def test_an_m_step_after_a_fraction_does_not_wait():
    """Shards of 1, 1, 1 and 100 s: after the first pass the slow one is late."""
    slow = Simulated(4, cost=4.0, speeds=[1, 1, 1, 0.01])
    found = times(slow, schedule=FractionBarrier(0.75), max_iter=40)
    assert found[:5] == pytest.approx([100, 101, 102, 103, 104])


# --------------------------------------------------------- the transport by itself


class Stage:
    """A simulated transport that has been opened, one shard per piece."""

    def __init__(self, transport, n_shards):
        self.transport, self.n_shards = transport, n_shards

    async def __aenter__(self):
        t = self.transport
        pieces = await t.open(as_data(X), self.n_shards)
        self.shards = [Shard(p.index, (p,)) for p in pieces]
        t.begin(HalfWay(), self.shards)
        return self

    async def __aexit__(self, *error):
        await self.transport.close()

    def submit(self, shard, worker, version=0):
        e_step = EStep(shard, f"worker-{worker}", version, Location(0.0))
        self.transport.submit(e_step)

    async def all(self):
        """Receive until nothing is left; return (time, event)."""
        t, found = self.transport, []
        while True:
            try:
                events = await t.receive(None)
            except RuntimeError:
                return found
            found += [(t.now(), e) for e in events]


def play(transport, n_shards, script):
    async def main():
        async with Stage(transport, n_shards) as stage:
            return await script(stage)

    return asyncio.run(main())


def test_consecutive_pieces_go_to_the_same_worker():
    async def script(stage):
        return [s.owner for s in stage.shards], stage.transport.workers

    owners, workers = play(Simulated(3), 7, script)
    assert owners == sorted(owners) and set(owners) == set(workers)
    assert len(workers) == 3


def test_moves_are_charged_once():
    """A shard of 25 rows is 200 bytes: 2 s at 100 bytes per second, and latency."""

    elapsed = []

    async def script(stage):
        t = stage.transport
        for _ in range(2):
            began = t.now()
            t.move(0, "worker-0", "worker-1")
            stage.submit(0, 1)
            elapsed.append([at - began for at, _ in await stage.all()])
        t.move(0, "worker-1", "worker-0")
        began = t.now()
        stage.submit(0, 0)
        elapsed.append([at - began for at, _ in await stage.all()])

    play(Simulated(2, cost=4.0, latency=0.25, bandwidth=100.0), 4, script)
    message = 0.25 + 0.08 + 0.25 + 0.24
    assert elapsed[0] == pytest.approx([message + 1.0 + 0.25 + 2.0])
    assert elapsed[1] == pytest.approx([message + 1.0])  # it is there already
    assert elapsed[2] == pytest.approx([message + 1.0 + 0.25 + 2.0])


def test_a_recall_reaches_what_waits_and_not_what_runs():
    async def script(stage):
        stage.submit(0, 0)
        stage.submit(1, 0)
        stage.submit(2, 1)
        await stage.transport.receive(0.1)
        stage.transport.recall(1, "worker-0")
        stage.transport.recall(2, "worker-1")
        return await stage.all()

    found = play(Simulated(2, cost=4.0), 4, script)
    assert [(at, e.shard) for at, e in found] == [(1.0, 0), (1.0, 2)]


def test_reports_carry_the_statistics_of_their_rows():
    async def script(stage):
        for shard in range(4):
            stage.submit(shard, shard % 2, version=shard)
        return await stage.all(), stage.shards

    found, shards = play(Simulated(2), 4, script)
    assert len(found) == 4
    for _, report in found:
        assert isinstance(report, Report) and not report.extra
        assert report.version == report.shard
        (part,) = shards[report.shard].pieces[0].parts
        assert report.stats.total == pytest.approx(X[part.start : part.stop].sum())


def test_an_extra_update_begins_with_an_m_step_of_its_own():
    async def script(stage):
        total = Sums(2.0, 8.0, 0.0)
        stage.transport.submit(EStep(0, "worker-0", 3, Location(0.0), total))
        return await stage.all()

    ((_, report),) = play(Simulated(1), 1, script)
    assert report.extra and report.version == 3


def test_time_passes_until_the_time_asked_for():
    async def script(stage):
        t = stage.transport
        stage.submit(0, 0)
        assert await t.receive(0.5) == [] and t.now() == 0.5
        assert await t.receive(0.2) == [] and t.now() == 0.5  # never backwards
        (report,) = await t.receive(99.0)
        assert t.now() == 1.0 and report.shard == 0
        assert await t.receive(99.0) == [] and t.now() == 99.0
        with pytest.raises(RuntimeError, match=r"nothing will ever happen.*deadline"):
            await t.receive(None)

    play(Simulated(1), 1, script)


def test_cancelled_e_steps_are_never_reported():
    async def script(stage):
        t = stage.transport
        for shard in range(4):
            stage.submit(shard, 0)
        await t.receive(0.3)
        t.cancel()
        assert await stage.all() == []
        began = t.now()
        stage.submit(2, 0)  # the worker is free at once
        ((at, report),) = await stage.all()
        assert report.shard == 2 and at - began == pytest.approx(0.25)

    play(Simulated(1), 4, script)


def test_a_worker_that_dies_takes_its_work_with_it():
    async def script(stage):
        stage.submit(0, 0)
        stage.submit(1, 0)
        stage.submit(2, 1)
        return await stage.all()

    faults = [Fault(0, at=0.6, back=5.0)]
    found = play(Simulated(2, cost=4.0, faults=faults), 4, script)
    assert [(at, type(e)) for at, e in found] == [
        (0.6, WorkersAre),
        (1.0, Report),
        (5.0, WorkersAre),
    ]
    assert found[0][1].workers == ("worker-1",)
    assert found[2][1].workers == ("worker-0", "worker-1")


def test_messages_to_the_dead_are_lost():
    async def script(stage):
        stage.submit(0, 0)  # arrives at 1 s; dead from 0.5 s on, and back at 0.7 s
        return await stage.all()

    faults = [Fault(0, at=0.5, back=0.7)]
    found = play(Simulated(1, latency=1.0, faults=faults), 1, script)
    assert [type(e) for _, e in found] == [WorkersAre, WorkersAre]


def test_a_worker_that_returns_has_to_load_its_data_again():
    async def script(stage):
        await stage.transport.receive(None)
        await stage.transport.receive(None)
        stage.submit(0, 0)
        return await stage.all()

    faults = [Fault(0, at=1.0, back=2.0)]
    found = play(Simulated(1, bandwidth=400.0, faults=faults), 1, script)
    # 800 bytes of rows, 8 and 24 of messages
    assert [at for at, _ in found] == pytest.approx([2 + 0.02 + 1.0 + 2.0 + 0.06])


def test_losses_come_as_failures():
    async def script(stage):
        for _ in range(400):
            stage.submit(0, 0)
        return await stage.all()

    found = play(Simulated(1, loss=0.25), 1, script)
    lost = [e for _, e in found if isinstance(e, Failure)]
    assert len(found) == 400 and 60 < len(lost) < 140
    assert all(e.error is None and e.shard == 0 for e in lost)


def test_jitter_is_lognormal_and_seeded():
    async def script(stage):
        for _ in range(500):
            stage.submit(0, 0)
        return np.diff([0.0, *(at for at, _ in await stage.all())])

    logs = np.log(play(Simulated(1, jitter=0.3, seed=1), 1, script))
    assert abs(logs.mean()) < 0.06 and logs.std() == pytest.approx(0.3, abs=0.04)
    again = np.log(play(Simulated(1, jitter=0.3, seed=1), 1, script))
    other = np.log(play(Simulated(1, jitter=0.3, seed=2), 1, script))
    np.testing.assert_array_equal(logs, again)
    assert not np.allclose(logs, other)


# --------------------------------------------------------------------- whole fits

LIKELIHOOD = -0.5 * float(np.square(X - MEAN).sum())
SCHEDULES = [Synchronous(), FractionBarrier(0.5), BoundedStaleness(2, 0.25)]


def converge(transport, **kwargs):
    kwargs = {"tol": 1e-12, "max_iter": 400, **kwargs}
    return fit(transport, **kwargs)


@pytest.mark.parametrize("hand_out", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize(
    "faults",
    [
        [Fault(0, at=1.3)],
        [Fault(0, at=0.5, back=2.0), Fault(1, at=3.1, back=3.2)],
        [Fault(i, at=1.2, back=50.0 + i) for i in range(4)],
        [Fault(i, at=1.0, back=2.0) for i in range(4)],  # at the moment of reports
        [Fault(i, at=0.0) for i in range(3)],
    ],
    ids=["one", "one by one", "all for a while", "at a report", "all but one, at once"],
)
def test_deaths_do_not_change_the_answer(faults, schedule, hand_out):
    transport = Simulated(4, cost=4.0, latency=0.01, faults=faults)
    result = converge(transport, schedule=schedule, shards=8, hand_out=hand_out)
    assert result.status == "converged"
    assert result.params.value == pytest.approx(MEAN, abs=1e-5)
    assert result.log_likelihood == pytest.approx(LIKELIHOOD, rel=1e-9)
    assert_monotone(result)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_all_die_for_ever(schedule):
    faults = [Fault(i, at=1.5) for i in range(4)]
    transport = Simulated(4, cost=4.0, faults=faults)
    result = converge(transport, schedule=schedule, deadline=60.0)
    assert result.status == "deadline"
    assert "60 s" in result.message and "no worker was there" in result.message
    assert np.isnan(result.log_likelihood)
    assert result.n_m_steps >= 1 and np.isfinite(result.params.value)
    assert_monotone(result)


def test_all_die_for_ever_before_the_first_report():
    faults = [Fault(i, at=0.1) for i in range(4)]
    result = converge(Simulated(4, cost=4.0, faults=faults), deadline=60.0)
    assert (result.status, result.n_m_steps) == ("deadline", 0)
    assert result.params.value == 0.0  # the start


def test_all_die_for_ever_without_a_deadline():
    faults = [Fault(i, at=1.5) for i in range(4)]
    with pytest.raises(RuntimeError, match="give the fit a deadline"):
        converge(Simulated(4, cost=4.0, faults=faults))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_heavy_losses(schedule):
    transport = Simulated(3, loss=0.6, jitter=1.0, latency=0.1, seed=5)
    result = converge(transport, schedule=schedule, shards=7, hand_out=True)
    assert result.params.value == pytest.approx(MEAN, abs=1e-5)
    assert_monotone(result)


def test_the_same_seed_gives_the_same_fit():
    def run(seed):
        t = Simulated(4, jitter=0.5, loss=0.1, latency=0.01, seed=seed)
        return converge(t, schedule=FractionBarrier(0.3), hand_out=True)

    one, two, other = run(0), run(0), run(1)
    np.testing.assert_array_equal(one.trace.time, two.trace.time)
    np.testing.assert_array_equal(one.trace.lower_bound, two.trace.lower_bound)
    assert one.params == two.params
    assert one.trace.time[-1] != other.trace.time[-1]


def test_a_transport_can_be_used_again():
    transport = Simulated(3, jitter=0.5, faults=[Fault(0, at=1.0, back=2.0)])
    first, second = converge(transport), converge(transport)
    assert first.trace.time.tolist() == second.trace.time.tolist()


@pytest.mark.slow
def test_a_thousand_workers_take_seconds():
    rng = np.random.default_rng(0)
    many = rng.normal(size=(4000, 1))
    transport = Simulated(
        1000, cost=1000.0, speeds=[0.1] * 10 + [1.0] * 990, latency=0.01, jitter=0.1
    )
    began = time.perf_counter()
    result = fit_em(
        HalfWay(),
        many,
        transport=transport,
        schedule=BoundedStaleness(4),
        shards=2000,
        tol=0.0,
        max_iter=5,
        random_state=0,
    )
    assert time.perf_counter() - began < 30
    assert result.settings["workers"] == 1000 and result.settings["shards"] == 2000
    assert result.effective_passes >= 5
    assert_monotone(result)


def test_check_transport():
    check_transport(lambda: Simulated(3, jitter=0.3, latency=0.01, loss=0.1))


# --------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Simulated(0), ValueError, "n_workers must be at least 1"),
        (lambda: Simulated(2.0), TypeError, "n_workers"),
        (lambda: Simulated(2, speeds=[1.0]), ValueError, "speeds must be 2 numbers"),
        (lambda: Simulated(2, speeds=[1.0, 0.0]), ValueError, "above 0"),
        (lambda: Simulated(2, speeds=[1, float("nan")]), ValueError, "speeds"),
        (lambda: Simulated(jitter=-0.1), ValueError, "jitter must not be negative"),
        (lambda: Simulated(latency=-1), ValueError, "latency must not be negative"),
        (lambda: Simulated(latency=float("nan")), ValueError, "latency"),
        (lambda: Simulated(bandwidth=0), ValueError, "bandwidth must be above 0"),
        (lambda: Simulated(loss=1), ValueError, "nothing would ever arrive"),
        (lambda: Simulated(loss=-0.1), ValueError, "loss"),
        (lambda: Simulated(loss="often"), TypeError, "loss"),
    ],
)
def test_bad_settings(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_repr():
    assert repr(Simulated(3, latency=0.5)) == "Simulated(3, latency=0.5)"
