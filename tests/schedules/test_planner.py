"""The state machine of a fit, driven by lists of events."""

import heapq
import itertools
import pickle
import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_em.assignment import Assignment
from dask_em.schedules import (
    BoundedStaleness,
    ExtraUpdates,
    FractionBarrier,
    Incremental,
    Schedule,
    Synchronous,
    named_schedule,
)
from dask_em.schedules.events import (
    Move,
    MStepDone,
    Recall,
    RunEStep,
    RunMStep,
    ShardFailed,
    StatsArrived,
    StatsDropped,
    StatsRejected,
    Tick,
    Verified,
    VerifyRefused,
    VerifyRequested,
    WakeAt,
    WorkersChanged,
)
from dask_em.schedules.ledger import Ledger, ShardRecord
from dask_em.schedules.planner import Planner
from dask_em.testing import check_schedule

ROWS, NBYTES = 10, 100
STAY = Assignment(hand_out=False)


def plan(schedule, holders, assignment=STAY, workers=None):
    """Plan for shards held as in "aab": 0 and 1 on a, 2 on b."""
    records = [ShardRecord(i, ROWS, NBYTES, h) for i, h in enumerate(holders)]
    return Planner(schedule, assignment, records, workers or sorted({*holders}))


def e_steps(version, *runs, extra=False):
    """Actions from words like "0a": shard 0 on a."""
    return [RunEStep(int(r[:-1]), r[-1], version, extra) for r in runs]


def arrive(planner, run, version, at, **kwargs):
    return planner.handle(StatsArrived(int(run[:-1]), run[-1], version, at, **kwargs))


def first_pass(planner, runs, at=1.0):
    """Let every shard report once and make the first M-step."""
    planner.begin(0.0)
    for run in runs[:-1]:
        assert RunMStep() not in arrive(planner, run, 0, at)
    assert arrive(planner, runs[-1], 0, at) == [RunMStep()]
    return planner.handle(MStepDone(1, at))


# ---------------------------------------------------------------- the schedules


def test_every_worker_begins_with_its_first_shard():
    assert plan(Synchronous(), "aabbb").begin(0.0) == e_steps(0, "0a", "2b")


def test_incremental_by_hand():
    """Shards 0 and 1, then 2 and 3, then again; whoever has none waits."""
    p = plan(Incremental(2), "abab")
    assert first_pass(p, ["0a", "1b", "2a", "3b"]) == e_steps(1, "0a", "1b")
    assert arrive(p, "1b", 1, 2.0) == []
    assert arrive(p, "0a", 1, 3.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 3.0)) == e_steps(2, "2a", "3b")
    arrive(p, "2a", 2, 4.0)
    assert arrive(p, "3b", 2, 4.0) == [RunMStep()]
    assert p.handle(MStepDone(3, 4.0)) == e_steps(3, "0a", "1b")


def test_incremental_groups_are_single_shards_where_there_are_few():
    p = plan(Incremental(8), "ab")
    assert first_pass(p, ["0a", "1b"]) == e_steps(1, "0a")


def test_synchronous_by_hand():
    p = plan(Synchronous(), "aab")
    assert p.begin(0.0) == e_steps(0, "0a", "2b")
    assert arrive(p, "2b", 0, 1.0) == []
    assert arrive(p, "0a", 0, 2.0) == e_steps(0, "1a")
    assert arrive(p, "1a", 0, 3.0) == [RunMStep()]
    # nothing is planned while the M-step is under way
    assert p.handle(Tick(3.5)) == []
    assert p.handle(MStepDone(1, 4.0)) == e_steps(1, "2b", "0a")[::-1]


def test_fraction_counts_reports_since_the_last_m_step_and_discards_nobody():
    p = plan(FractionBarrier(0.5), "abcd")
    # the first M-step needs all shards, whatever gamma is
    assert first_pass(p, ["0a", "1b", "2c", "3d"]) == e_steps(1, "0a", "1b", "2c", "3d")
    assert arrive(p, "0a", 1, 2.0) == []
    assert arrive(p, "1b", 1, 3.0) == [RunMStep()]
    # the others are neither recalled nor given anything else
    assert p.handle(MStepDone(2, 3.0)) == e_steps(2, "0a", "1b")
    # a late report counts, and its worker goes on at the new parameters
    assert arrive(p, "2c", 1, 4.0) == e_steps(2, "2c")
    assert p.ledger.records[2].version == 1
    assert p.ledger.reports == 1
    # the same shard once more is a second report
    assert arrive(p, "2c", 2, 5.0) == [RunMStep()]
    assert p.handle(MStepDone(3, 5.0)) == e_steps(3, "2c")
    assert [r.visits for r in p.ledger.records] == [2, 2, 3, 1]


@pytest.mark.parametrize(
    ("gamma", "needed"), [(0.1, 1), (0.3, 3), (0.31, 4), (0.7, 7), (1, 10), (1.0, 10)]
)
def test_the_fraction_is_rounded_up_but_not_by_rounding_errors(gamma, needed):
    holders = "abcdefghij"
    for schedule in (FractionBarrier(gamma), BoundedStaleness(3, gamma)):
        p = plan(schedule, holders)
        first_pass(p, [f"{i}{h}" for i, h in enumerate(holders)])
        for k in range(needed - 1):
            assert RunMStep() not in arrive(p, f"{k}{holders[k]}", 1, 2.0)
        k = needed - 1
        assert arrive(p, f"{k}{holders[k]}", 1, 2.0) == [RunMStep()]


@pytest.mark.parametrize(("gamma", "needed"), [(0.07, 7), (0.29, 29), (0.55, 55)])
def test_the_fraction_of_a_hundred(gamma, needed):
    """0.07 * 100 is 7.000000000000001."""
    ledger = Ledger([ShardRecord(i, ROWS, NBYTES, "a") for i in range(100)])
    for schedule in (FractionBarrier(gamma), BoundedStaleness(2, gamma)):
        ledger.reports = needed - 1
        assert not schedule.m_step_due(ledger)
        ledger.reports = needed
        assert schedule.m_step_due(ledger)


def test_staleness_is_bounded_in_visits():
    p = plan(BoundedStaleness(max_staleness=1, gamma=0.25), "abcd")
    first_pass(p, ["0a", "1b", "2c", "3d"])
    assert arrive(p, "0a", 1, 2.0) == [RunMStep()]
    # a is one visit ahead of the others: it may go on
    assert p.handle(MStepDone(2, 2.0)) == e_steps(2, "0a")
    assert arrive(p, "0a", 2, 3.0) == [RunMStep()]
    # two ahead: it may not
    assert p.handle(MStepDone(3, 3.0)) == []
    assert arrive(p, "1b", 1, 4.0) == [RunMStep()]
    assert p.handle(MStepDone(4, 4.0)) == e_steps(4, "1b")
    assert arrive(p, "2c", 1, 5.0) == [RunMStep()]
    assert p.handle(MStepDone(5, 5.0)) == e_steps(5, "2c")
    assert arrive(p, "3d", 1, 6.0) == [RunMStep()]
    # the slowest has come: a may start again
    assert p.handle(MStepDone(6, 6.0)) == e_steps(6, "0a", "3d")


def test_staleness_zero_is_a_barrier_of_visits():
    p = plan(BoundedStaleness(max_staleness=0, gamma=0.5), "abcd")
    first_pass(p, ["0a", "1b", "2c", "3d"])
    assert arrive(p, "0a", 1, 2.0) == []
    assert arrive(p, "1b", 1, 2.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 2.0)) == []
    assert arrive(p, "2c", 1, 3.0) == []  # late, and a visit ahead
    assert arrive(p, "3d", 1, 4.0) == [RunMStep()]
    assert p.handle(MStepDone(3, 4.0)) == e_steps(3, "0a", "1b", "2c", "3d")


def extra_plan(max_extra):
    p = plan(ExtraUpdates(Synchronous(), max_extra), "ab")
    p.begin(0.0)
    # nobody makes extra updates before the first M-step
    assert arrive(p, "0a", 0, 1.0) == []
    assert arrive(p, "1b", 0, 100.0) == [RunMStep()]
    assert p.handle(MStepDone(1, 100.0)) == e_steps(1, "0a", "1b")
    return p


@pytest.mark.parametrize("max_extra", [0, 1, 2, 5])
def test_extra_updates_are_limited_between_m_steps(max_extra):
    p = extra_plan(max_extra)
    at = 101.0
    actions = arrive(p, "0a", 1, at)
    for _ in range(max_extra):
        assert actions == e_steps(1, "0a", extra=True)
        at += 1
        actions = arrive(p, "0a", 1, at, extra=True)
    assert actions == []
    assert p.ledger.reports == 1  # extra updates are no reports
    assert p.ledger.records[0].visits == 2
    assert arrive(p, "1b", 1, 200.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 200.0)) == e_steps(2, "0a", "1b")
    # the next version has its own allowance
    assert arrive(p, "0a", 2, 201.0) == e_steps(
        2, *["0a"] * (max_extra > 0), extra=True
    )


def test_no_extra_updates_while_verifying():
    p = extra_plan(2)
    p.handle(VerifyRequested(100.0))
    assert arrive(p, "0a", 1, 101.0) == []


def test_an_extra_update_under_way_does_not_hold_the_m_step_up():
    p = extra_plan(2)
    assert arrive(p, "0a", 1, 101.0) == e_steps(1, "0a", extra=True)
    assert arrive(p, "1b", 1, 102.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 102.0)) == e_steps(2, "1b")
    # it comes late: the shard itself is next
    assert arrive(p, "0a", 1, 103.0, extra=True) == e_steps(2, "0a")


# -------------------------------------------------------------- refused reports


def refuse(planner, run, version, at):
    return planner.handle(StatsRejected(int(run[:-1]), run[-1], version, at))


def test_a_refused_report_is_issued_again_first_at_the_current_parameters():
    p = plan(FractionBarrier(0.25), "aaab")
    p.begin(0.0)
    arrive(p, "3b", 0, 1.0)
    for run in ("0a", "1a"):
        arrive(p, run, 0, 1.0)
    assert arrive(p, "2a", 0, 1.0) == [RunMStep()]
    assert p.handle(MStepDone(1, 1.0)) == e_steps(1, "0a", "3b")
    assert arrive(p, "3b", 1, 2.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 2.0)) == e_steps(2, "3b")
    # 0 was computed at version 1; before 1 and 2, which have waited longer
    before = p.ledger.reports, p.ledger.records[0].visits
    assert refuse(p, "0a", 1, 3.0) == e_steps(2, "0a")
    assert (p.ledger.reports, p.ledger.records[0].visits) == before
    assert p.ledger.records[0].version == 0  # the accepted statistics stay
    # at version 2 it is asked for once only
    assert arrive(p, "0a", 2, 4.0) == [RunMStep()]


def test_after_two_refusals_m_steps_wait():
    p = plan(FractionBarrier(0.25), "abcd")
    first_pass(p, ["0a", "1b", "2c", "3d"])
    assert arrive(p, "0a", 1, 2.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 2.0)) == e_steps(2, "0a")
    assert refuse(p, "3d", 1, 3.0) == e_steps(2, "3d")
    assert arrive(p, "0a", 2, 4.0) == [RunMStep()]  # one refusal holds nothing up
    assert p.handle(MStepDone(3, 4.0)) == e_steps(3, "0a")
    assert refuse(p, "3d", 2, 5.0) == e_steps(3, "3d")
    assert arrive(p, "0a", 3, 6.0) == []
    assert arrive(p, "1b", 1, 6.0) == e_steps(3, "1b")
    assert arrive(p, "1b", 3, 7.0) == []
    assert arrive(p, "3d", 3, 8.0) == [RunMStep()]
    # and it is forgotten then
    assert p.handle(MStepDone(4, 8.0)) == e_steps(4, "0a", "1b", "3d")
    assert arrive(p, "0a", 4, 9.0) == [RunMStep()]


def test_an_overdue_shard_may_start_whatever_the_bound_on_staleness():
    p = plan(BoundedStaleness(0, 0.5), "ab")
    first_pass(p, ["0a", "1b"])
    assert arrive(p, "0a", 1, 2.0) == [RunMStep()]
    p.handle(MStepDone(2, 2.0))
    assert refuse(p, "1b", 1, 3.0) == e_steps(2, "1b")


# ---------------------------------------------------------------------- failures


def test_a_lost_e_step_is_sent_out_again_first():
    p = plan(Synchronous(), "aab")
    p.begin(0.0)
    assert p.handle(ShardFailed(0, "a", 1.0)) == e_steps(0, "0a")
    assert arrive(p, "0a", 0, 2.0) == e_steps(0, "1a")


def test_a_failure_of_nobodys_e_step_changes_nothing():
    p = plan(Synchronous(), "ab")
    p.begin(0.0)
    arrive(p, "0a", 0, 1.0)
    assert p.handle(ShardFailed(0, "a", 2.0)) == []
    assert p.handle(ShardFailed(1, "z", 2.0)) == []
    assert arrive(p, "1b", 0, 3.0) == [RunMStep()]


def test_a_duplicate_frees_its_worker_and_counts_for_nothing():
    p = plan(FractionBarrier(0.5), "aabb")
    p.begin(0.0)
    for run in ("0a", "1a", "2b"):
        arrive(p, run, 0, 1.0)
    arrive(p, "3b", 0, 1.0)
    p.handle(MStepDone(1, 1.0))
    before = [(r.version, r.visits) for r in p.ledger.records], p.ledger.reports
    assert p.handle(StatsDropped(0, "a", 2.0)) == e_steps(1, "1a")
    assert before == (
        [(r.version, r.visits) for r in p.ledger.records],
        p.ledger.reports,
    )


# -------------------------------------------------------------- workers come and go


def test_the_shards_of_a_worker_that_leaves_go_to_the_others():
    p = plan(Synchronous(), "abb")
    p.begin(0.0)
    assert p.handle(WorkersChanged(("a",), 1.0)) == []  # a is busy
    # the transport tells of the loss as well: nothing is done twice
    assert p.handle(ShardFailed(1, "b", 1.0)) == []
    assert arrive(p, "0a", 0, 2.0) == e_steps(0, "2a")
    assert arrive(p, "2a", 0, 3.0) == e_steps(0, "1a")
    assert arrive(p, "1a", 0, 4.0) == [RunMStep()]
    assert {r.holder for r in p.ledger.records} == {"a"}


def test_its_current_shards_follow_after_the_m_step():
    p = plan(Synchronous(), "ab")
    p.begin(0.0)
    arrive(p, "1b", 0, 1.0)
    assert p.handle(WorkersChanged(("a",), 2.0)) == []
    assert arrive(p, "0a", 0, 3.0) == [RunMStep()]
    assert p.handle(MStepDone(1, 3.0)) == e_steps(1, "1a")
    assert arrive(p, "1a", 1, 4.0) == e_steps(1, "0a")


def test_a_late_report_of_a_worker_that_left_is_taken():
    p = plan(Synchronous(), "ab")
    p.begin(0.0)
    p.handle(WorkersChanged(("a",), 1.0))
    arrive(p, "1b", 0, 2.0)
    actions = arrive(p, "0a", 0, 3.0)
    assert actions == [RunMStep()]


def test_a_shard_that_may_not_start_does_not_block_those_behind_it():
    p = plan(BoundedStaleness(0, 0.5), "ab")
    first_pass(p, ["0a", "1b"])
    assert arrive(p, "0a", 1, 2.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 2.0)) == []  # 0 is ahead: it waits for 1
    # 1 comes to stand behind 0, and has to go first all the same
    assert p.handle(WorkersChanged(("a",), 3.0)) == e_steps(2, "1a")


def test_all_leave_and_one_returns():
    p = plan(Synchronous(), "ab")
    p.begin(0.0)
    arrive(p, "0a", 0, 1.0)
    assert p.handle(WorkersChanged((), 2.0)) == []
    assert p.handle(Tick(3.0)) == []
    assert p.handle(WorkersChanged(("c",), 9.0)) == e_steps(0, "1c")
    assert arrive(p, "1c", 0, 10.0) == [RunMStep()]
    assert p.handle(MStepDone(1, 10.0)) == e_steps(1, "0c")
    assert arrive(p, "0c", 1, 11.0) == e_steps(1, "1c")


def test_all_leave_during_the_m_step():
    p = plan(Synchronous(), "ab")
    p.begin(0.0)
    arrive(p, "0a", 0, 1.0)
    arrive(p, "1b", 0, 1.0)
    p.handle(WorkersChanged((), 2.0))
    assert p.handle(MStepDone(1, 3.0)) == []
    assert p.handle(WorkersChanged(("b",), 4.0)) == e_steps(1, "0b")


def test_a_fit_may_begin_without_workers():
    p = plan(Synchronous(), "ab", workers=["nobody"])
    p.handle(WorkersChanged((), 0.0))
    assert p.handle(WorkersChanged(("x", "y"), 1.0)) == e_steps(0, "0x", "1y")


def test_a_newcomer_takes_over_waiting_shards():
    p = plan(Synchronous(), "aaaa", Assignment())
    p.begin(0.0)
    assert arrive(p, "0a", 0, 5.0) == e_steps(0, "1a")
    actions = p.handle(WorkersChanged(("a", "n"), 6.0))
    assert actions == [Move(2, "a", "n"), RunEStep(2, "n", 0)]
    assert p.ledger.records[2].holder == "n"


def test_a_newcomer_takes_nothing_over_without_hand_out():
    p = plan(Synchronous(), "aaaa")
    p.begin(0.0)
    arrive(p, "0a", 0, 5.0)
    assert p.handle(WorkersChanged(("a", "n"), 6.0)) == []


# ------------------------------------------------------- hand-out, recall, backup


def history(p, speeds, *, until, move_cost=0.0, overhead=0.0):
    """Play a perfect world with these speeds; return what was done, and when."""
    log, agenda, queues, busy = [], [], {w: [] for w in speeds}, {}
    order, version = itertools.count(), 0
    held = {r.index: r.holder for r in p.ledger.records}

    def work(worker, now):
        if worker in busy or not queues[worker]:
            return
        run = queues[worker].pop(0)
        busy[worker] = run
        seconds = ROWS / speeds[worker] + overhead
        if held[run.shard] != worker:
            seconds += move_cost
            held[run.shard] = worker
        heapq.heappush(agenda, (now + seconds, next(order), run))

    def perform(actions, now):
        nonlocal version
        todo = list(actions)
        while todo:
            action = todo.pop(0)
            log.append((now, action))
            match action:
                case RunEStep():
                    queues[action.worker].append(action)
                    work(action.worker, now)
                case Recall(shard, worker):
                    queues[worker] = [r for r in queues[worker] if r.shard != shard]
                case RunMStep():
                    version += 1
                    todo += p.handle(MStepDone(version, now))
                case WakeAt(at):
                    heapq.heappush(agenda, (at, next(order), None))

    perform(p.begin(0.0), 0.0)
    while agenda:
        now, _, run = heapq.heappop(agenda)
        if now > until:
            break
        if run is None:
            perform(p.handle(Tick(now)), now)
            continue
        del busy[run.worker]
        record = p.ledger.records[run.shard]
        if not run.extra and run.version <= record.version:
            event = StatsDropped(run.shard, run.worker, now)
        else:
            event = StatsArrived(run.shard, run.worker, run.version, now, run.extra)
        perform(p.handle(event), now)
        work(run.worker, now)
    return log


def moves(log):
    return [a for _, a in log if isinstance(a, Move)]


def m_steps(log):
    return sum(a == RunMStep() for _, a in log)


HANDED = [Synchronous(), FractionBarrier(0.25), BoundedStaleness(4, 1 / 16)]


@pytest.mark.parametrize("schedule", HANDED, ids=repr)
def test_shards_move_from_slow_to_fast(schedule):
    p = plan(schedule, "aaaaaaaabbbbbbbb", Assignment())
    log = history(p, {"a": 10.0, "b": 1.0}, until=400)
    assert {(m.src, m.dst) for m in moves(log)} == {("b", "a")}
    holders = Counter(r.holder for r in p.ledger.records)
    assert holders["b"] <= 3  # a tenth of the speed, a tenth of the shards
    still = history(plan(schedule, "a" * 8 + "b" * 8), {"a": 10.0, "b": 1.0}, until=400)
    assert m_steps(log) > 3 * m_steps(still) or not isinstance(schedule, Synchronous)


@pytest.mark.parametrize("schedule", HANDED, ids=repr)
@pytest.mark.parametrize("latency", [0.011, 5.0])
def test_nothing_moves_between_equals(schedule, latency):
    p = plan(schedule, "aaaabbbbcccc", Assignment(latency=latency))
    log = history(p, {"a": 1.0, "b": 1.0, "c": 1.0}, until=1000)
    assert m_steps(log) > 10
    assert not any(isinstance(a, Move | Recall) for _, a in log)


@pytest.mark.parametrize("schedule", HANDED, ids=repr)
def test_nothing_ever_moves_without_hand_out(schedule):
    assignment = Assignment(hand_out=False, latency=5.0)
    p = plan(schedule, "aaaabbbbcccc", assignment)
    log = history(p, {"a": 10.0, "b": 0.1, "c": 1.0}, until=3000)
    assert m_steps(log) > 2
    assert not any(isinstance(a, Move | Recall | WakeAt) for _, a in log)


def test_a_move_that_costs_more_than_it_brings_is_not_made():
    cheap = Assignment(bandwidth=1e9)
    dear = Assignment(bandwidth=NBYTES / 1e4)  # a move takes 10 000 s
    speeds = {"a": 4.0, "b": 1.0}
    assert moves(history(plan(Synchronous(), "aabb", cheap), speeds, until=200))
    assert not moves(history(plan(Synchronous(), "aabb", dear), speeds, until=200))


@pytest.mark.parametrize(
    ("theirs", "mine", "nbytes", "pays"),
    [
        (10.0, 1.0, 0, True),
        (1.0, 1.0, 0, False),
        (1.3, 1.0, 0, False),
        (1.5, 1.0, 0, True),
        (1.5, 1.0, 10**9, False),
        (3.0, 1.0, 10**9, True),
    ],
)
def test_when_a_move_pays(theirs, mine, nbytes, pays):
    assert Assignment().pays(theirs, mine, nbytes) is pays


def test_depth_is_two_where_a_round_trip_matters():
    assignment = Assignment(latency=0.01)
    assert assignment.depth(None) == 1
    assert assignment.depth(0.05) == 2
    assert assignment.depth(10.0) == 1
    assert Assignment(in_flight=1).depth(1e-6) == 1


def recalled():
    """Return a planner that has just recalled shard 3 from the slower b."""
    p = plan(Synchronous(), "aabb", Assignment(latency=1.0))
    p.begin(0.0)
    assert arrive(p, "0a", 0, 1.0) == e_steps(0, "1a")
    assert arrive(p, "2b", 0, 2.0) == e_steps(0, "3b")
    arrive(p, "1a", 0, 3.0)
    assert arrive(p, "3b", 0, 6.0) == [RunMStep()]
    assert p.handle(MStepDone(1, 6.0)) == e_steps(1, "0a", "1a", "2b", "3b")
    arrive(p, "0a", 1, 7.0)
    # b still has two in front of it: the one that waits in its queue comes over
    assert arrive(p, "1a", 1, 8.0) == [
        Recall(3, "b"),
        Move(3, "b", "a"),
        RunEStep(3, "a", 1),
    ]
    assert p.ledger.records[3].holder == "a"
    return p


def test_an_e_step_that_waits_on_a_slow_worker_is_recalled():
    p = recalled()
    arrive(p, "3a", 1, 9.0)
    assert arrive(p, "2b", 1, 9.5) == [RunMStep()]


def test_a_recall_that_came_too_late_does_no_harm():
    p = recalled()
    arrive(p, "3b", 1, 8.5)  # b had begun it already
    assert p.ledger.records[3].version == 1
    assert arrive(p, "2b", 1, 9.0) == [RunMStep()]
    actions = p.handle(MStepDone(2, 9.0))
    assert RunEStep(2, "b", 2) in actions
    # a is still at the old one; its report is dropped, and it goes on
    p.handle(StatsDropped(3, "a", 10.0))
    assert RunEStep(3, "a", 2) in arrive(p, "0a", 2, 11.0)


def test_a_shard_whose_duplicate_is_dropped_is_not_forgotten():
    p = plan(FractionBarrier(1.0), "abc")
    first_pass(p, ["0a", "1b", "2c"])
    p.handle(WorkersChanged(("a", "c"), 2.0))  # 1 waits on a now
    arrive(p, "1b", 1, 3.0)  # but b had done it
    early = arrive(p, "0a", 1, 4.0)
    assert arrive(p, "2c", 1, 5.0) == [RunMStep()]
    later = p.handle(MStepDone(2, 5.0))
    if early == e_steps(1, "1a"):  # done for nothing, and at the wrong moment
        later += p.handle(StatsDropped(1, "a", 6.0))
    later += arrive(p, "0a", 2, 7.0)
    assert RunEStep(1, "a", 2) in later


def test_a_stuck_e_step_is_run_elsewhere_as_well():
    p = plan(Synchronous(), "ab", Assignment())
    first_pass(p, ["0a", "1b"])
    p.handle(Tick(1.5))
    (wake,) = arrive(p, "0a", 1, 2.0)  # a idles: the planner asks to be woken
    assert isinstance(wake, WakeAt) and wake.at > 2.0
    early = p.handle(Tick(wake.at))
    assert all(isinstance(a, WakeAt) for a in early) and early
    actions = p.handle(Tick(20.0))
    assert actions[:2] == [Move(1, "b", "a"), RunEStep(1, "a", 1)]
    # nobody else is asked for it a second time
    assert not any(isinstance(a, RunEStep) for a in p.handle(Tick(40.0)))
    # whoever comes first is taken
    assert arrive(p, "1a", 1, 41.0) == [RunMStep()]
    assert e_steps(2, "0a")[0] in p.handle(MStepDone(2, 41.0))
    p.handle(StatsDropped(1, "b", 42.0))
    assert p.ledger.records[1].visits == 2


def test_a_stuck_e_step_stays_where_it_is_without_hand_out():
    p = plan(Synchronous(), "ab")
    first_pass(p, ["0a", "1b"])
    assert arrive(p, "0a", 1, 2.0) == []
    assert p.handle(Tick(2000.0)) == []


# ------------------------------------------------------------------ verification


def test_a_verification_visits_every_stale_shard_and_makes_no_m_step():
    p = plan(FractionBarrier(0.25), "abcd")
    first_pass(p, ["0a", "1b", "2c", "3d"])
    assert arrive(p, "0a", 1, 2.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 2.0)) == e_steps(2, "0a")
    assert p.handle(VerifyRequested(2.0)) == []
    assert arrive(p, "0a", 2, 3.0) == []
    # late reports are taken, but the shard has to come again
    assert arrive(p, "1b", 1, 3.0) == e_steps(2, "1b")
    assert refuse(p, "2c", 1, 3.0) == e_steps(2, "2c")
    assert arrive(p, "3d", 1, 3.0) == e_steps(2, "3d")
    assert arrive(p, "1b", 2, 4.0) == arrive(p, "2c", 2, 4.0) == []
    assert arrive(p, "3d", 2, 5.0) == [Verified(2)]
    assert {r.version for r in p.ledger.records} == {2}
    # refused: the next M-step follows at once, since all are current
    assert p.handle(VerifyRefused(5.0)) == [RunMStep()]


def test_a_verification_overrules_the_bound_on_staleness():
    p = plan(BoundedStaleness(0, 0.5), "ab")
    first_pass(p, ["0a", "1b"])
    assert arrive(p, "0a", 1, 2.0) == [RunMStep()]
    assert p.handle(MStepDone(2, 2.0)) == []
    assert p.handle(VerifyRequested(2.0)) == e_steps(2, "0a")


def test_a_verification_of_current_shards_is_over_at_once():
    p = plan(Synchronous(), "a")
    p.begin(0.0)
    assert arrive(p, "0a", 0, 1.0) == [RunMStep()]
    p.handle(MStepDone(1, 1.0))
    p.handle(VerifyRequested(1.0))
    assert arrive(p, "0a", 1, 2.0) == [Verified(1)]


def test_a_verification_survives_the_loss_of_all_workers():
    p = plan(Synchronous(), "ab")
    first_pass(p, ["0a", "1b"])
    p.handle(VerifyRequested(1.0))
    p.handle(WorkersChanged((), 2.0))
    assert p.handle(WorkersChanged(("z",), 3.0)) == e_steps(1, "0z")
    assert arrive(p, "0z", 1, 4.0) == e_steps(1, "1z")
    assert arrive(p, "1z", 1, 5.0) == [Verified(1)]


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: FractionBarrier(0), ValueError, "gamma.*fraction of the shards"),
        (lambda: FractionBarrier(1.1), ValueError, "gamma"),
        (lambda: FractionBarrier(float("nan")), ValueError, "gamma"),
        (lambda: FractionBarrier("half"), TypeError, "gamma must be a number"),
        (lambda: FractionBarrier(True), TypeError, "gamma"),
        (lambda: BoundedStaleness(-1), ValueError, "max_staleness must be at least 0"),
        (lambda: BoundedStaleness(1.5), TypeError, "max_staleness.*integer"),
        (lambda: BoundedStaleness(1, 0), ValueError, "gamma"),
        (lambda: ExtraUpdates(max_extra=-1), ValueError, "max_extra"),
        (lambda: ExtraUpdates("synchronous"), TypeError, "base must be one of"),
        (lambda: ExtraUpdates(ExtraUpdates()), TypeError, "base must be one of"),
    ],
)
def test_bad_settings(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_names():
    assert named_schedule("auto", auto=FractionBarrier(0.2)) == FractionBarrier(0.2)
    assert named_schedule("synchronous", auto=None) == Synchronous()
    assert named_schedule("fraction_barrier", auto=None) == FractionBarrier()
    assert named_schedule("bounded_staleness", auto=None) == BoundedStaleness()
    assert named_schedule("extra_updates", auto=None) == ExtraUpdates()
    mine = FractionBarrier(0.9)
    assert named_schedule(mine, auto=None) is mine
    for bad in ("Synchronous", "", None, 3, Synchronous):
        with pytest.raises(ValueError, match=re.escape(repr(bad))):
            named_schedule(bad, auto=Synchronous())


MANY = [
    Synchronous(),
    *(FractionBarrier(g) for g in (0.01, 0.1, 0.34, 0.5, 0.99, 1.0)),
    *(BoundedStaleness(s, g) for s in (0, 1, 2, 5) for g in (0.02, 0.3, 1.0)),
    *(ExtraUpdates(Synchronous(), n) for n in (0, 1, 2, 4)),
    ExtraUpdates(FractionBarrier(0.4), 2),
    ExtraUpdates(BoundedStaleness(1, 0.2), 1),
]


@pytest.mark.parametrize("schedule", MANY, ids=repr)
def test_check_schedule(schedule):
    check_schedule(schedule, n_runs=6)


class Never(Schedule):
    def __eq__(self, other):
        return type(other) is type(self)

    def m_step_due(self, ledger):
        return False


class NobodyStarts(Never):
    def may_start(self, ledger, shard):
        return False


def test_m_steps_go_on_under_a_lazy_schedule_of_ones_own():
    check_schedule(Never(), n_runs=3)


def test_check_schedule_finds_a_schedule_that_is_not_a_value():
    class Random(Synchronous):
        count = itertools.count()

        def m_step_due(self, ledger):
            return next(self.count) % 3 == 0

    Random.__qualname__ = "Random"
    globals()["Random"] = Random
    try:
        with pytest.raises(AssertionError, match="same events"):
            check_schedule(Random())
    finally:
        del globals()["Random"]


# ------------------------------------------------------- determinism and pickling


@pytest.mark.parametrize("schedule", MANY[::3], ids=repr)
def test_same_events_same_actions(schedule):
    speeds = {"a": 3.0, "b": 1.0, "c": 0.2}
    logs = [
        history(plan(schedule, "aaabbbccc", Assignment(latency=1.0)), speeds, until=300)
        for _ in range(2)
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) > 30


@pytest.mark.parametrize("schedule", MANY[::3], ids=repr)
def test_a_planner_can_be_pickled_in_the_middle(schedule):
    p = plan(schedule, "aabb", Assignment(latency=1.0))
    p.begin(0.0)
    for at, run in enumerate(["0a", "2b", "1a"]):
        arrive(p, run, 0, 1.0 + at)
    copy = pickle.loads(pickle.dumps(p))
    for event in (
        StatsArrived(3, "b", 0, 9.0),
        MStepDone(1, 9.0),
        StatsArrived(0, "a", 1, 10.0),
        WorkersChanged(("a", "c"), 11.0),
        Tick(40.0),
        VerifyRequested(41.0),
    ):
        assert copy.handle(event) == p.handle(event)


@pytest.mark.parametrize("schedule", MANY, ids=repr)
def test_schedules_are_values(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(schedule) == hash(pickle.loads(pickle.dumps(schedule)))
    assert eval(repr(schedule)) == schedule
    with pytest.raises(AttributeError):
        schedule.gamma = 0.1


def test_the_clock_never_runs_backwards():
    p = plan(Synchronous(), "ab", Assignment())
    p.begin(100.0)
    arrive(p, "0a", 0, 110.0)
    arrive(p, "1b", 0, 90.0)
    for worker in p._roster:
        assert worker.pace is None or worker.pace >= 0


# ---------------------------------------------------------------- random histories

schedules = st.sampled_from(MANY)


def check_ledger(ledger: Ledger):
    records = ledger.records
    assert ledger.n_unseen == sum(r.visits == 0 for r in records)
    assert ledger.n_current == sum(r.version == ledger.version for r in records)
    assert ledger.fewest_visits == min(r.visits for r in records)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), schedules, st.booleans(), st.booleans())
def test_any_history(data, schedule, hand_out, calm):
    """Draw what happens next, again and again, and look at every action.

    In a calm history nothing fails and no worker leaves; in the others recalled
    E-steps and those of workers that left may report all the same.
    """
    names = list("abcde")[: data.draw(st.integers(1, 4))]
    n = data.draw(st.integers(1, 8))
    rng = data.draw(st.randoms(use_true_random=False))
    assignment = Assignment(hand_out=hand_out, latency=rng.choice([0.01, 1.0]))
    p = plan(schedule, [rng.choice(names) for _ in range(n)], assignment, names)
    ledger = p.ledger
    live, zombies, haunted, issued = [], [], set(), Counter()
    version, now = 0, 0.0
    verifying = False
    todo = list(p.begin(now))
    newcomers = (f"newcomer-{i}" for i in itertools.count())
    base = getattr(schedule, "base", schedule)

    def look_at(action):
        nonlocal version, verifying
        match action:
            case RunEStep(shard, worker, at_version, extra):
                record = ledger.records[shard]
                assert worker in names, "given to nobody"
                assert at_version == version == ledger.version
                twice = (shard, worker) in {(r.shard, r.worker) for r in live}
                assert not twice or (shard, worker) in haunted
                live.append(action)
                assert haunted or sum(r.worker == worker for r in live) <= 2
                if extra:
                    assert isinstance(schedule, ExtraUpdates) and not verifying
                    assert record.extra <= schedule.max_extra
                    assert record.version == version
                else:
                    issued[shard, version] += 1
                    free = verifying or record.visits == 0 or record.refusals >= 2
                    if isinstance(base, BoundedStaleness) and not free:
                        ahead = record.visits - ledger.fewest_visits
                        assert ahead <= base.max_staleness or not calm
            case Recall(shard, worker):
                assert hand_out
                (run,) = [r for r in live if (r.shard, r.worker) == (shard, worker)]
                live.remove(run)
                if rng.random() < 0.5:
                    zombies.append(run)
                    haunted.add((shard, worker))
            case Move(shard, src, dst):
                assert hand_out and src != dst and {src, dst} <= {*names}
                assert todo[0] == RunEStep(shard, dst, version), "moved for nothing"
            case RunMStep():
                assert ledger.n_unseen == 0 and not verifying
                assert ledger.reports, "an M-step, though nothing is new"
                version += 1
                todo.extend(p.handle(MStepDone(version, now)))
                if rng.random() < 0.1:
                    verifying = True
                    todo.extend(p.handle(VerifyRequested(now)))
            case Verified(at_version):
                assert at_version == version and verifying
                assert all(r.version == version for r in ledger.records)
                verifying = False
                todo.extend(p.handle(VerifyRefused(now)))
            case WakeAt(at):
                assert at > now

    for _ in range(data.draw(st.integers(0, 120))):
        while todo:
            look_at(todo.pop(0))
        check_ledger(ledger)
        assert live or zombies or not names, "nobody works, nothing will happen"
        now += rng.random()
        kind = rng.random()
        if not calm and (kind < 0.05 or not names or not (live or zombies)):
            if rng.random() < 0.5 and names:
                gone = names.pop(rng.randrange(len(names)))
                zombies += [r for r in live if r.worker == gone and rng.random() < 0.3]
                live = [r for r in live if r.worker != gone]
            else:
                names.append(next(newcomers))
            if not names and rng.random() < 0.5:  # all may be gone for a while
                names.append(next(newcomers))
            todo += p.handle(WorkersChanged(tuple(names), now))
            continue
        if kind < 0.1:
            todo += p.handle(Tick(now))
            continue
        pool = zombies if zombies and (not live or kind > 0.9) else live
        run = pool.pop(rng.randrange(len(pool)))
        shard, worker = run.shard, run.worker
        record = ledger.records[shard]
        if not calm and kind < 0.2:
            event = ShardFailed(shard, worker, now)
        elif run.extra:
            event = StatsArrived(shard, worker, run.version, now, extra=True)
        elif run.version <= record.version:
            event = StatsDropped(shard, worker, now)
        elif record.visits and run.version < version and rng.random() < 0.3:
            event = StatsRejected(shard, worker, run.version, now)
        else:
            event = StatsArrived(shard, worker, run.version, now)
        todo += p.handle(event)
    if calm and not hand_out:
        assert all(times == 1 for times in issued.values()), "asked for twice"
