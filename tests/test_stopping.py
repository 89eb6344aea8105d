"""When a fit ends: settings, and the gain of a whole pass by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_em.stopping import PassGain, Stopping


def test_defaults_are_scikit_learns():
    assert Stopping() == Stopping(tol=1e-3, max_iter=100, deadline=None)


@pytest.mark.parametrize("tol", [-1e-9, float("nan"), float("-inf")])
def test_bad_tol(tol):
    with pytest.raises(ValueError, match="tol must not be negative"):
        Stopping(tol=tol)


@pytest.mark.parametrize("tol", [0, 0.0, 1, 1e-300])
def test_good_tol(tol):
    assert Stopping(tol=tol).tol == tol


@pytest.mark.parametrize(
    ("max_iter", "error"),
    [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_bad_max_iter(max_iter, error):
    with pytest.raises(error, match="max_iter"):
        Stopping(max_iter=max_iter)


@pytest.mark.parametrize("deadline", [0, -1.0, float("nan")])
def test_bad_deadline(deadline):
    with pytest.raises(ValueError, match="deadline"):
        Stopping(deadline=deadline)


def test_passes_are_reports_divided_by_shards():
    gain = PassGain(4)
    for k in range(6):
        gain.accept(k % 4)
    assert gain.passes == 1.5


def test_no_gain_is_known_before_a_pass_has_been_compared():
    gain = PassGain(2)
    gain.accept(0)
    gain.accept(1)
    assert gain.update(-10.0) == math.inf
    gain.accept(0)
    assert gain.update(-9.0) == math.inf
    gain.accept(1)
    assert gain.update(-8.0) == 2.0


def test_synchronous_gains_are_those_of_successive_bounds():
    gain, bounds = PassGain(3), [-10.0, -7.0, -6.5, -6.5]
    found = []
    for bound in bounds:
        for shard in range(3):
            gain.accept(shard)
        found.append(gain.update(bound))
    assert found == [math.inf, 3.0, 0.5, 0.0]


def test_a_shard_that_was_not_refreshed_holds_the_stop_up():
    gain = PassGain(2)
    gain.accept(0)
    gain.accept(1)
    gain.update(-10.0)
    for _ in range(20):  # ten passes' worth of reports, all of one shard
        gain.accept(0)
        assert gain.update(-9.0) in (1.0, math.inf)
    gain.accept(1)  # now the last two reports refreshed both
    assert gain.update(-9.0) == 0.0


def test_restart_forgets():
    gain = PassGain(1)
    gain.accept(0)
    gain.update(-5.0)
    gain.accept(0)
    gain.restart()
    assert gain.update(-20.0) == math.inf
    gain.accept(0)
    assert gain.update(-19.0) == 1.0


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 10)), max_size=60),
)
def test_a_gain_always_covers_a_whole_pass(n, history):
    """Against a slow reading of the definition, on monotone bounds."""
    gain, accepted, log, bound = PassGain(n), [], [], 0.0
    for shard in range(n):
        gain.accept(shard)
        accepted.append(shard)
    for shard, rise in history:
        gain.accept(shard % n)
        accepted.append(shard % n)
        bound += rise
        whole = [
            b
            for at, b in log
            if len(accepted) - at >= n and set(accepted[at:]) == set(range(n))
        ]
        expected = bound - whole[-1] if whole else math.inf
        assert gain.update(bound) == pytest.approx(expected, abs=1e-9)
        log.append((len(accepted), bound))
