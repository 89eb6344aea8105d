"""The loop of a fit with a manager: its iterates, its invariant, its ends."""

import dataclasses
import os
import signal
import time
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Sklearns

from dask_em import Block, Model, Statistics, fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.schedules import (
    BoundedStaleness,
    ExtraUpdates,
    FractionBarrier,
    Synchronous,
)
from dask_em.testing import assert_monotone
from dask_em.transports import Fault, Local, Simulated
from dask_em.transports.base import EStep, execute

K, D = 3, 2


def clusters(n=240, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(K, D))
    return centres[rng.integers(K, size=n)] + spread * rng.normal(size=(n, D))


X = clusters()
GIVEN = {
    "weights_init": np.array([0.2, 0.3, 0.5]),
    "means_init": X[:K].copy(),
    "precisions_init": np.tile(np.eye(D), (K, 1, 1)),
}
MIXTURE = GaussianMixtureModel(K, **GIVEN)

SCHEDULES = [
    Synchronous(),
    FractionBarrier(0.3),
    FractionBarrier(1.0),
    BoundedStaleness(0, 0.2),
    BoundedStaleness(3, 1 / 16),
    ExtraUpdates(Synchronous(), 2),
    ExtraUpdates(FractionBarrier(0.5), 1),
]


def fit(model=MIXTURE, data=X, **kwargs):
    kwargs = {"transport": Local(1), "random_state": 0, **kwargs}
    return fit_em(model, data, **kwargs)


# ------------------------------------------------------------ synchronous is EM


def sklearns(**kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Sklearns(K, random_state=0, **GIVEN, **kwargs).fit(X)


@pytest.mark.parametrize("shards", [1, 4])
def test_iterates_are_scikit_learns(shards):
    for n in range(1, 9):
        ours = fit(schedule=Synchronous(), shards=shards, tol=0.0, max_iter=n)
        theirs = sklearns(tol=0.0, max_iter=n)
        assert ours.n_m_steps == theirs.n_iter_ == n
        for name in ("weights", "means", "covariances"):
            np.testing.assert_allclose(
                getattr(ours.params, name), getattr(theirs, name + "_"), rtol=1e-9
            )
        # scikit-learn's bound is that before its last M-step
        assert ours.trace.lower_bound_before[-1] / len(X) == pytest.approx(
            theirs.lower_bound_, rel=1e-11
        )


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5, 1e-8])
def test_it_stops_where_scikit_learn_stops(tol):
    ours = fit(schedule=Synchronous(), shards=3, tol=tol, max_iter=1000)
    theirs = sklearns(tol=tol, max_iter=1000)
    assert ours.converged and theirs.converged_
    assert ours.n_m_steps == theirs.n_iter_
    np.testing.assert_allclose(ours.params.means, theirs.means_, rtol=1e-8)


def bits(result):
    return [
        getattr(result.params, f.name).tobytes()
        for f in dataclasses.fields(result.params)
    ]


def test_synchronous_fits_are_equal_to_the_last_bit_whoever_computes():
    transports = [
        Local(1),
        Local(2),
        Local(5),
        Simulated(1),
        Simulated(3, speeds=[1, 0.5, 0.05], jitter=1.0, seed=3),
        Simulated(12, latency=0.2, loss=0.2),
        Simulated(4, cost=4.0, faults=[Fault(0, 0.7), Fault(1, 2.0, 3.0)]),
    ]
    fits = [
        fit(transport=t, schedule=Synchronous(), shards=6, tol=1e-6) for t in transports
    ]
    for other in fits[1:]:
        assert bits(other) == bits(fits[0])
        assert other.log_likelihood == fits[0].log_likelihood
        assert other.trace.lower_bound.tolist() == fits[0].trace.lower_bound.tolist()


# -------------------------------------------------------------- F never falls


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_bound_never_falls(data):
    n = data.draw(st.integers(1, 6), "workers")
    number = {"allow_nan": False, "allow_infinity": False}
    speeds = data.draw(
        st.lists(st.floats(0.02, 1.0, **number), min_size=n, max_size=n), "speeds"
    )
    deaths = st.builds(
        lambda worker, at, away: Fault(worker, at, at + away),
        st.integers(0, n - 1),
        st.floats(0.0, 5.0, **number),
        st.floats(0.01, 5.0, **number),
    )
    faults = data.draw(
        st.lists(deaths, max_size=3, unique_by=lambda f: f.worker), "faults"
    )
    transport = Simulated(
        n,
        speeds=speeds,
        jitter=data.draw(st.sampled_from([0.0, 0.3, 2.0]), "jitter"),
        loss=data.draw(st.sampled_from([0.0, 0.1, 0.4]), "loss"),
        latency=data.draw(st.sampled_from([0.0, 0.01, 0.5]), "latency"),
        faults=faults,
        seed=data.draw(st.integers(0, 100), "seed"),
    )
    result = fit(
        GaussianMixtureModel(K, init_params="random_from_data", reg_covar=0.0),
        clusters(120, spread=1.5),
        transport=transport,
        schedule=data.draw(st.sampled_from(SCHEDULES), "schedule"),
        shards=data.draw(st.integers(1, 9), "shards"),
        hand_out=data.draw(st.booleans(), "hand_out"),
        tol=1e-4,
        max_iter=25,
    )
    assert_monotone(result)
    assert result.status in ("converged", "max_iter")
    assert np.isfinite(result.log_likelihood)


def test_assert_monotone_can_fail():
    result = fit(tol=1e-6)
    trace = result.trace
    fallen = trace.lower_bound.copy()
    fallen[2] = trace.lower_bound_before[2] - 1e-9 * abs(fallen[2])
    broken = dataclasses.replace(trace, lower_bound=fallen)
    with pytest.raises(AssertionError, match=r"fell.*M-step 3"):
        assert_monotone(dataclasses.replace(result, trace=broken))


class Late(Simulated):
    """Now and then delivers statistics of the starting parameters, marked as late."""

    def begin(self, model, shards):
        super().begin(model, shards)
        self._start, self._sent, self.n_late = None, 0, 0

    def submit(self, e_step):
        self._start = self._start or e_step.params
        self._sent += 1
        if self._sent % 7 == 0 and e_step.version > 1 and e_step.total is None:
            e_step = OfOld(e_step.shard, e_step.worker, e_step.version, self._start)
        super().submit(e_step)

    async def receive(self, until):
        return [self._marked(e) for e in await super().receive(until)]

    def _marked(self, event):
        """Age by one version what is worse at the start than anything since."""
        stats = getattr(event, "stats", None)
        if stats is None or id(stats) not in self._old:
            return event
        self.n_late += 1
        return dataclasses.replace(event, version=event.version - 1)


@dataclasses.dataclass(frozen=True)
class OfOld(EStep):
    """An E-step at the starting parameters."""


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(FractionBarrier(0.25), marks=pytest.mark.slow),
        BoundedStaleness(4, 0.2),
    ],
    ids=repr,
)
def test_late_reports_that_would_lower_the_bound_are_refused_and_asked_for_again(
    schedule, monkeypatch
):
    old = {}

    def executing(model, e_step, prepared, local):
        stats, state = execute(model, e_step, prepared, local)
        if isinstance(e_step, OfOld):
            old[id(stats)] = stats  # kept, so that the id stays its own
        return stats, state

    monkeypatch.setattr("dask_em.transports.simulated.execute", executing)
    monkeypatch.setattr(Late, "_old", old, raising=False)
    reference = fit(tol=1e-9, max_iter=3000)
    transport = Late(4)
    result = fit(
        transport=transport, schedule=schedule, shards=8, tol=1e-9, max_iter=3000
    )
    assert transport.n_late > 5
    assert result.trace.n_reissued.sum() > 5
    assert_monotone(result)
    assert result.converged
    assert result.log_likelihood == pytest.approx(reference.log_likelihood, rel=1e-7)


# --------------------------------------------------------------- small models


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
    """The mean by steps of one half; `watch` sees every E-step."""

    watch: object = None
    keeps: bool = False

    def start(self, summary, sample, *, rng, mapreduce):
        return Location(0.0)

    def e_step(self, params, prepared, local=None):
        if self.watch is not None:
            self.watch(params, prepared, local)
        x = prepared.X[:, 0]
        state = None
        if self.keeps:
            state = np.zeros(len(x)) if local is None else local + 1
        return Sums(float(len(x)), float(x.sum()), float(x @ x)), state

    def m_step(self, params, stats):
        return Location((params.value + stats.total / stats.weight) / 2)

    def lower_bound(self, params, stats):
        m = params.value
        return -0.5 * (stats.square - 2 * m * stats.total + m * m * stats.weight)


ROWS = np.random.default_rng(1).normal(2.0, 1.0, (60, 1))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("transport", [lambda: Local(2), lambda: Simulated(3)])
def test_latent_state_is_handed_back_on_the_next_visit(schedule, transport):
    visits = {}

    def watch(params, block, local):
        mine = visits.setdefault(block.X[0, 0], [])
        mine.append(None if local is None else int(local[0]))
        assert local is None or len(local) == block.n_rows

    result = fit(
        HalfWay(watch, keeps=True),
        ROWS,
        transport=transport(),
        schedule=schedule,
        shards=5,
        hand_out=False,
        tol=1e-10,
    )
    assert result.converged
    probe = visits.pop(ROWS[0, 0])  # the probe before the fit looks at these, too
    assert len(visits) == 4 and len(probe) > 1
    for seen in visits.values():
        assert seen == [None, *range(len(seen) - 1)]


def test_latent_state_does_not_pass_from_fit_to_fit():
    firsts = []

    def watch(params, block, local):
        firsts.append(local)

    transport = Local(1)
    for _ in range(2):
        firsts.clear()
        fit(HalfWay(watch, keeps=True), ROWS, transport=transport, shards=1)
        assert firsts[0] is None and firsts[-1] is not None


# -------------------------------------------------------------------- the stop


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_the_likelihood_reported_is_exact_at_the_parameters(schedule, tol):
    rough = Simulated(4, speeds=[1, 1, 0.5, 0.05], jitter=0.5, latency=0.01)
    result = fit(transport=rough, schedule=schedule, shards=7, tol=tol, max_iter=3000)
    assert result.converged
    stats, _ = MIXTURE.e_step(result.params, Block(X))
    exact = MIXTURE.lower_bound(result.params, stats)
    assert result.log_likelihood == pytest.approx(exact, rel=1e-12)
    assert result.lower_bound == result.log_likelihood
    # converged means that a whole pass more would have gained less than tol
    trace = result.trace
    assert (result.log_likelihood - trace.lower_bound_before[-1]) / len(X) < tol
    assert_monotone(result)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_no_stop_before_every_shard_was_refreshed(schedule):
    """One shard is a hundred times slower, and holds what matters."""
    rows = np.zeros((40, 1))
    rows[:10] = 8.0
    slow = Simulated(4, cost=4.0, speeds=[0.01, 1, 1, 1])
    result = fit(
        HalfWay(),
        rows,
        transport=slow,
        schedule=schedule,
        shards=4,
        hand_out=False,
        tol=1e-3,
        max_iter=100_000,
    )
    assert result.converged
    assert result.params.value == pytest.approx(2.0, abs=0.1)
    assert result.trace.time[-1] >= 200  # two visits of the slow shard at least
    assert result.n_e_steps >= 8


def test_a_tolerance_of_zero_makes_all_passes():
    result = fit(
        HalfWay(), np.ones((4, 1)), schedule=Synchronous(), tol=0.0, max_iter=80
    )
    assert result.status == "max_iter" and result.n_m_steps == 80
    assert result.params.value == 1.0  # there is nothing to gain any more


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("max_iter", [1, 2, 5])
def test_max_iter_counts_effective_passes(schedule, max_iter):
    result = fit(
        transport=Simulated(3, jitter=0.3),
        schedule=schedule,
        shards=6,
        tol=0.0,
        max_iter=max_iter,
    )
    assert result.status == "max_iter"
    assert f"max_iter={max_iter}" in result.message
    assert max_iter <= result.effective_passes < max_iter + 1
    passes = result.trace.effective_passes
    assert (passes[:-1] < max_iter).all()
    # the sweep that makes the likelihood exact is no pass of the fit
    assert np.isfinite(result.log_likelihood)
    assert result.n_e_steps <= 6 * (max_iter + 1) + 6


def test_one_pass_is_one_step_of_em():
    result = fit(schedule=Synchronous(), shards=5, max_iter=1, tol=0.0)
    assert (result.n_m_steps, result.effective_passes) == (1, 1.0)
    assert result.n_e_steps == 10  # a pass, and the exact sweep


def test_deadline():
    result = fit(
        transport=Simulated(4, cost=4.0),
        schedule=Synchronous(),
        shards=4,
        tol=0.0,
        deadline=3.5,
    )
    assert result.status == "deadline" and "3.5 s" in result.message
    assert "4 shards" in result.message and "4 workers" in result.message
    assert result.n_m_steps == 3
    assert result.trace.time.tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(result.log_likelihood)
    assert result.lower_bound == result.trace.lower_bound[-1]


def test_a_deadline_before_the_first_pass_says_what_was_missing():
    slow = Simulated(4, cost=4.0, speeds=[1, 1, 0.01, 0.01])
    result = fit(transport=slow, shards=4, deadline=2.0, hand_out=False)
    assert (result.status, result.n_m_steps) == ("deadline", 0)
    assert "2 of 4 shards had never reported" in result.message
    np.testing.assert_array_equal(result.params.means, GIVEN["means_init"])


# --------------------------------------------------------------------- callbacks


def test_callbacks_see_every_m_step():
    seen = []
    result = fit(HalfWay(), ROWS, schedule=Synchronous(), callback=seen.append)
    assert [p.version for p in seen] == list(range(1, result.n_m_steps + 1))
    assert seen[0].gain == np.inf and seen[-1].gain < 1e-3
    np.testing.assert_allclose(
        [p.lower_bound for p in seen], result.trace.lower_bound / len(ROWS)
    )
    assert [p.effective_passes for p in seen] == result.trace.effective_passes.tolist()
    assert seen[-1].params == result.params


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_callback_ends_the_fit(schedule):
    result = fit(
        transport=Simulated(3),
        schedule=schedule,
        shards=4,
        tol=0.0,
        callback=lambda progress: progress.version == 3,
    )
    assert (result.status, result.n_m_steps) == ("callback", 3)
    assert result.trace.version.tolist() == [1, 2, 3]
    stats, _ = MIXTURE.e_step(result.params, Block(X))
    assert result.log_likelihood == pytest.approx(
        MIXTURE.lower_bound(result.params, stats), rel=1e-12
    )


@pytest.mark.parametrize("answer", [None, False, 0])
def test_other_answers_of_a_callback_do_not(answer):
    assert fit(HalfWay(), ROWS, callback=lambda progress: answer).converged


def test_an_error_in_a_callback_is_the_users_to_see():
    def callback(progress):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fit(callback=callback)


@pytest.mark.parametrize("transport", [lambda: Local(2), lambda: Simulated(2)])
def test_control_c_keeps_what_there_is(transport):
    seen = []

    def callback(progress):
        seen.append(progress)
        if progress.version == 3:
            os.kill(os.getpid(), signal.SIGINT)
        if progress.version >= 3:
            time.sleep(0.05)

    result = fit(
        HalfWay(),
        ROWS,
        transport=transport(),
        schedule=Synchronous(),
        tol=0.0,
        max_iter=2000,
        callback=callback,
    )
    assert result.status == "interrupted"
    assert 3 <= result.n_m_steps < 100
    assert result.params == seen[-1].params
    assert "user" in result.message


# ------------------------------------------------------------------------ errors


@pytest.mark.parametrize("schedule", SCHEDULES[::2], ids=repr)
def test_an_error_of_the_model_reaches_the_caller_after_some_tries(schedule):
    tries = []

    def watch(params, block, local):
        if params.value > 1.0:  # well on the way
            tries.append(1)
            raise LookupError("in the model")

    # without hand-out nobody else tries at the same time
    how = {"schedule": schedule, "shards": 1, "hand_out": False}
    with pytest.raises(LookupError, match="in the model"):
        fit(HalfWay(watch), ROWS, transport=Local(2), **how)
    assert len(tries) == 3
    with pytest.raises(LookupError, match="in the model"):
        fit(HalfWay(watch), ROWS, transport=Simulated(2), **how)


def test_an_error_in_an_m_step():
    class Broken(HalfWay):
        def m_step(self, params, stats):
            raise ArithmeticError("no step")

    for transport in (Local(2), Simulated(2)):
        with pytest.raises(ArithmeticError, match="no step"):
            fit(Broken(), ROWS, transport=transport)


def test_an_error_in_the_start():
    class Broken(HalfWay):
        def start(self, summary, sample, *, rng, mapreduce):
            mapreduce(lambda block, rng: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        fit(Broken(), ROWS)


def test_the_start_may_ask_all_rows():
    class Asking(HalfWay):
        def start(self, summary, sample, *, rng, mapreduce):
            total = mapreduce(lambda block, rng: block.X.sum())
            return Location(total / summary.weight)

    result = fit(Asking(), ROWS, shards=4, schedule=Synchronous(), max_iter=1)
    assert result.params.value == pytest.approx(ROWS.mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.array([[1.0], [np.nan], [np.inf]]), "NaN or infinity in 2 "),
        (np.array([1.0, 2.0]), "Expected 2D"),
        (np.zeros((0, 1)), "minimum of 1"),
    ],
)
def test_bad_rows_are_refused_at_the_door(rows, words):
    def watch(params, block, local):
        raise AssertionError("work was sent out")

    with pytest.raises(ValueError, match=words):
        fit(HalfWay(watch), rows)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"shards": 0}, ValueError),
        ({"shards": 2.5}, TypeError),
        ({"shards": "many"}, TypeError),
        ({"n_init": 0}, ValueError),
        ({"tol": -1.0}, ValueError),
        ({"max_iter": 0}, ValueError),
        ({"deadline": -1}, ValueError),
        ({"schedule": "quickly"}, ValueError),
        ({"transport": "pigeon"}, ValueError),
        ({"dim": "x"}, ValueError),
        ({"resume": True}, ValueError),
    ],
    ids=repr,
)
def test_bad_arguments(kwargs, error):
    with pytest.raises(error):
        fit(HalfWay(), ROWS, **kwargs)
    with pytest.raises(TypeError, match=r"dask_em\.Model"):
        fit_em(HalfWay, ROWS)


# ------------------------------------------------------------------ several starts


def test_the_best_of_several_starts_is_kept():
    data = clusters(90, spread=0.3, seed=4)
    model = GaussianMixtureModel(6, init_params="random")
    one = [fit(model, data, random_state=s, max_iter=5, tol=0) for s in range(3)]
    assert len({r.log_likelihood for r in one}) == 3
    many = fit(model, data, n_init=5, random_state=0, max_iter=5, tol=0)
    assert many.log_likelihood >= one[0].log_likelihood  # its first start is the same


def test_a_given_start():
    start = Location(1.5)
    seen = []

    def watch(params, block, local):
        seen.append(params.value)

    fit(HalfWay(watch), ROWS, start=start, max_iter=2, tol=0.0)
    assert seen[0] == 1.5
