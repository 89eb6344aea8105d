"""Checks for models, schedules and transports of one's own.

A model that passes `check_model` runs under every schedule and transport of this
package; the same holds the other way round for `check_schedule` and
`check_transport`. They play the part of scikit-learn's `check_estimator`.
"""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .assignment import Assignment
from .fit import fit_em
from .model import Block, Model, e_step_of
from .result import EMResult
from .row_statistics import RowStatistics
from .schedules import (
    BoundedStaleness,
    ExtraUpdates,
    FractionBarrier,
    Schedule,
    Synchronous,
)
from .schedules.events import (
    Event,
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
    WorkersChanged,
)
from .schedules.ledger import ShardRecord
from .schedules.planner import Planner
from .statistics import Statistics
from .topologies import Sharing, Topology, make_plan, named_topology
from .transports import Local, Simulated, Transport

__all__ = [
    "SCHEDULES",
    "assert_monotone",
    "check_model",
    "check_schedule",
    "check_topology",
    "check_transport",
]

#: One schedule of every kind, with settings that make a difference.
SCHEDULES: tuple[Schedule, ...] = (
    Synchronous(),
    FractionBarrier(0.3),
    BoundedStaleness(1, 0.25),
    ExtraUpdates(Synchronous(), 1),
    ExtraUpdates(FractionBarrier(0.5), 2),
)

#: Relative fall of the bound that is rounding.
SLACK = 1e-10


def assert_monotone(result: EMResult[Any], slack: float = SLACK) -> None:
    """Raise `AssertionError` where the bound fell between or within M-steps.

    Falls in M-steps after a lost latent state was started anew are allowed.

    Parameters
    ----------
    result : EMResult
    slack : float, default=1e-10
        Relative fall that is taken for rounding.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.testing import assert_monotone
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> assert_monotone(GaussianMixture(2, random_state=0).fit(X).result_)
    """
    trace = result.trace
    bounds = np.ravel(np.column_stack([trace.lower_bound_before, trace.lower_bound]))
    falls = np.diff(bounds)
    falls[1::2][trace.n_resets[1:] > 0] = 0.0
    worst = float(falls.min(initial=0.0))
    scale = float(np.abs(bounds).max(initial=1.0))
    assert worst >= -slack * scale, (
        f"the bound fell by {-worst:.3g} (relative {-worst / scale:.3g}) at M-step "
        f"{int(falls.argmin() // 2) + 1} of {len(trace)}"
    )


# ------------------------------------------------------------------------ models


def check_model(
    model: Model[Any, Any],
    X: Any,
    *,
    y: Any = None,
    weights: bool = True,
    schedules: Sequence[Schedule] = SCHEDULES,
    random_state: int = 0,
) -> None:
    """Check that a model keeps its promises, on some data of its kind.

    Statistics add up over rows and are zero for none; weights are repetitions; the
    bound is affine in the statistics; an E-step at given parameters maximises it, an
    M-step never lowers it; nothing is changed in place; the model can be pickled; and
    under every schedule, with any number of shards, with late and lost reports, the
    bound never falls and ends where synchronous EM ends.

    Parameters
    ----------
    model : Model
    X : array of shape (n_rows, n_features)
        Some 50 to 1000 rows that the model fits well; or a table of another type that
        has a shape, slices and a static method ``concatenate``.
    y : array of shape (n_rows, ...), optional
    weights : bool, default=True
        Whether the model uses sample weights.
    schedules : sequence of Schedule
    random_state : int, default=0

    Raises
    ------
    AssertionError
        With a sentence that says which promise is broken.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.models.gaussian_mixture import GaussianMixtureModel
    >>> from dask_em.testing import check_model
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, (60, 2)) for m in (-4, 4)])
    >>> check_model(GaussianMixtureModel(2), X)
    """
    if not hasattr(X, "concatenate"):  # rows of a kind of their own stay as they are
        X = np.asarray(X, dtype=float)
    y = None if y is None else np.asarray(y)
    block = Block(X, y)
    first = _fitted(model, X, y, None, Local(1), Synchronous(), random_state, 1, 2)
    later = _fitted(model, X, y, None, Local(1), Synchronous(), random_state, 1, 6)
    one, two = first.params, later.params
    summary = model.survey(block)

    def e_step(params: Any, rows: Block) -> Any:
        stats, _ = e_step_of(model, params, [model.prepare(rows, summary)])
        return stats

    _check_values(model, one, e_step(one, block))
    _check_additivity(e_step, one, block)
    if weights:
        _check_weights(e_step, one, block, random_state)
    _check_affinity(model, one, two, e_step, block)
    _check_ascent(model, one, two, e_step, block)
    _check_purity(model, one, e_step, block)
    _check_schedules(model, X, y, schedules, one, random_state)


def _fitted(
    model: Model[Any, Any],
    X: Any,
    y: Any,
    start: Any,
    transport: Transport,
    schedule: Schedule,
    seed: int,
    shards: int,
    max_iter: int,
    tol: float = 0.0,
) -> EMResult[Any]:
    result = fit_em(
        model,
        X,
        y=y,
        start=start,
        transport=transport,
        schedule=schedule,
        shards=shards,
        random_state=seed,
        tol=tol,
        max_iter=max_iter,
        acceleration=None,  # the promises are those of the model's own steps
    )
    assert isinstance(result, EMResult)
    return result


def _flat(value: Any) -> np.ndarray[Any, Any]:
    """Return the fields of a dataclass as one vector."""
    if isinstance(value, RowStatistics):  # rows that are not there are zero
        return value.dense().ravel()
    if dataclasses.is_dataclass(value):
        parts = [_flat(getattr(value, f.name)) for f in dataclasses.fields(value)]
        return np.concatenate(parts) if parts else np.zeros(0)
    return np.ravel(np.asarray(value, dtype=float))


def _close(a: Any, b: Any, promise: str, rtol: float = 1e-9) -> None:
    x, z = _flat(a), _flat(b)
    assert x.shape == z.shape, f"{promise}: the shapes differ, {x.shape} and {z.shape}"
    scale = float(np.abs(z).max(initial=1.0))
    off = float(np.abs(x - z).max(initial=0.0))
    assert off <= rtol * scale, f"{promise}: they differ by {off:.3g} of {scale:.3g}"


def _check_values(model: Any, params: Any, stats: Any) -> None:
    assert isinstance(stats, Statistics), (
        "e_step must return (statistics, local) with an instance of a subclass of "
        f"dask_em.Statistics, got {type(stats).__name__}"
    )
    for name, value in (("parameters", params), ("statistics", stats)):
        assert dataclasses.is_dataclass(value), f"{name} must be a dataclass"
        try:
            type(value).__setattr__(value, dataclasses.fields(value)[0].name, 0)
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{name} must be a frozen dataclass")
    _close(
        pickle.loads(pickle.dumps(params)), params, "parameters must survive pickling"
    )
    pickle.loads(pickle.dumps(model))


def _check_additivity(e_step: Any, params: Any, block: Block) -> None:
    n = block.n_rows
    whole = e_step(params, block)
    halves = e_step(params, block.rows(slice(0, n // 3))) + e_step(
        params, block.rows(slice(n // 3, n))
    )
    _close(halves, whole, "statistics of two sets of rows must add up to the union's")
    none = e_step(params, block.rows(slice(0, 0)))
    _close(none, whole.zeros_like(), "statistics of no rows must be zero")


def _check_weights(e_step: Any, params: Any, block: Block, seed: int) -> None:
    times = np.random.default_rng(seed).integers(0, 4, block.n_rows)
    repeated = block.rows(np.repeat(np.arange(block.n_rows), times))
    weighted = Block(block.X, block.y, times.astype(float))
    _close(
        e_step(params, weighted),
        e_step(params, repeated),
        "a weight of m must be the same as a row that occurs m times (pass "
        "weights=False if the model is to ignore weights)",
    )


def _check_affinity(model: Any, one: Any, two: Any, e_step: Any, block: Block) -> None:
    s, t = e_step(one, block), e_step(two, block)
    for params in (one, two):
        mixed = model.lower_bound(params, s.scale(0.3) + t.scale(0.7))
        apart = 0.3 * model.lower_bound(params, s) + 0.7 * model.lower_bound(params, t)
        assert abs(mixed - apart) <= 1e-9 * max(abs(mixed), 1.0), (
            "lower_bound must be affine in the statistics: the bound of a mean of two "
            f"is {mixed!r}, the mean of the bounds {apart!r}; is the entropy of the "
            "posterior one of the statistics?"
        )


def _check_ascent(model: Any, one: Any, two: Any, e_step: Any, block: Block) -> None:
    for here, elsewhere in ((one, two), (two, one)):
        stats = e_step(here, block)
        bound = model.lower_bound(here, stats)
        slack = SLACK * max(abs(bound), 1.0)
        other = model.lower_bound(here, e_step(elsewhere, block))
        assert other <= bound + slack, (
            "an E-step must maximise the bound at its parameters: statistics computed "
            f"at others reach {other!r}, above its own {bound!r}"
        )
        after = model.lower_bound(model.m_step(here, stats), stats)
        assert after >= bound - slack, (
            f"an M-step must not lower the bound: it went from {bound!r} to {after!r}"
        )


def _check_purity(model: Any, params: Any, e_step: Any, block: Block) -> None:
    before = pickle.dumps((params, block))
    stats = e_step(params, block)
    kept = pickle.dumps(stats)
    model.m_step(params, stats)
    model.lower_bound(params, stats)
    assert pickle.dumps((params, block)) == before, (
        "e_step, m_step and lower_bound must not change parameters or rows in place"
    )
    assert pickle.dumps(stats) == kept, (
        "m_step and lower_bound must not change the statistics in place"
    )


def _check_schedules(
    model: Any, X: Any, y: Any, schedules: Sequence[Schedule], start: Any, seed: int
) -> None:
    reference = _fitted(
        model, X, y, start, Local(1), Synchronous(), seed, 1, 3000, 1e-11
    )
    known = reference.log_likelihood
    for schedule in schedules:
        for shards in (1, 2, 7):
            rough = Simulated(
                3, speeds=[1, 0.6, 0.1], jitter=0.5, latency=0.01, loss=0.05, seed=seed
            )
            result = _fitted(
                model, X, y, start, rough, schedule, seed, shards, 3000, 1e-11
            )
            where = f"under {schedule!r} with {shards} shards"
            try:
                assert_monotone(result)
            except AssertionError as error:
                raise AssertionError(f"{where}, {error}") from None
            assert result.log_likelihood >= known - 1e-6 * max(abs(known), 1.0), (
                f"{where}, the fit ended at a log-likelihood of "
                f"{result.log_likelihood!r}, below {known!r}"
            )


# --------------------------------------------------------------------- schedules


def check_schedule(
    schedule: Schedule, *, n_runs: int = 20, random_state: int = 0
) -> None:
    """Check that a schedule keeps a fit going, whatever happens.

    The planner is driven through random orders of arrival, refusals, failures and
    changes of the workers. M-steps must go on, every shard must be visited again and
    again, a verification must come to its end, and the same events must give the same
    actions.

    Parameters
    ----------
    schedule : Schedule
    n_runs : int, default=20
        Random histories to play.
    random_state : int, default=0

    Raises
    ------
    AssertionError
        With a sentence that says what went wrong.

    Examples
    --------
    >>> from dask_em.schedules import FractionBarrier
    >>> from dask_em.testing import check_schedule
    >>> check_schedule(FractionBarrier(0.2))
    """
    assert isinstance(schedule, Schedule), (
        f"a schedule must be an instance of a subclass of dask_em.schedules.Schedule, "
        f"got {schedule!r}"
    )
    assert pickle.loads(pickle.dumps(schedule)) == schedule, (
        "a schedule must be a frozen dataclass that survives pickling"
    )
    for run in range(n_runs):
        seed = random_state * 1_000_003 + run
        first, again = (_play(schedule, random.Random(seed)) for _ in range(2))
        assert first == again, "the same events must give the same actions"


def _play(schedule: Schedule, rng: random.Random) -> list[Any]:
    """Drive a planner through a random history; return the log of its actions."""
    n_shards, n_workers = rng.randint(1, 12), rng.randint(1, 5)
    names = [f"w{i}" for i in range(n_workers)]
    records = [
        ShardRecord(i, rng.randint(1, 5), 100, rng.choice(names))
        for i in range(n_shards)
    ]
    planner = Planner(schedule, Assignment(), records, names)
    ledger, log = planner.ledger, []
    under_way: list[RunEStep] = []
    version = now = idle = 0
    todo = list(planner.begin(0.0))
    verifying = False
    for _ in range(4000):
        while todo:
            action = todo.pop(0)
            log.append(action)
            if isinstance(action, RunEStep):
                assert action.worker in names, "an E-step was given to nobody"
                under_way.append(action)
            elif isinstance(action, Recall):
                under_way = [
                    e
                    for e in under_way
                    if (e.shard, e.worker) != (action.shard, action.worker)
                ]
            elif isinstance(action, RunMStep):
                assert ledger.n_unseen == 0, "an M-step came before the first pass"
                version += 1
                idle = 0
                todo += planner.handle(MStepDone(version, float(now)))
                if version % 7 == 0:
                    verifying = True
                    todo += planner.handle(VerifyRequested(float(now)))
            elif isinstance(action, Verified):
                assert all(r.version == version for r in ledger.records)
                verifying = False
                todo += planner.handle(VerifyRefused(float(now)))
        if version >= 30:
            break
        now += 1
        idle += 1
        assert idle < 400, f"{schedule!r} made no M-step in 400 events"
        assert under_way, f"{schedule!r} left every worker without work"
        todo += planner.handle(_some_event(rng, planner, under_way, names, float(now)))
    assert version >= 30, f"{schedule!r} made {version} M-steps in 4000 events"
    assert not verifying or version >= 30
    assert ledger.fewest_visits >= 1, f"{schedule!r} forgot a shard"
    return log


def _some_event(
    rng: random.Random,
    planner: Planner,
    under_way: list[RunEStep],
    names: list[str],
    now: float,
) -> Event:
    kind = rng.random()
    if kind < 0.02:
        return Tick(now)
    if kind < 0.04:
        if len(names) > 1 and rng.random() < 0.5:
            gone = names.pop(rng.randrange(len(names)))
            under_way[:] = [e for e in under_way if e.worker != gone]
        else:
            names.append(f"w{rng.getrandbits(30)}")
        return WorkersChanged(tuple(names), now)
    e = under_way.pop(rng.randrange(len(under_way)))
    record = planner.ledger.records[e.shard]
    if kind < 0.07:
        return ShardFailed(e.shard, e.worker, now)
    if e.extra:
        return StatsArrived(e.shard, e.worker, e.version, now, extra=True)
    if e.version <= record.version:
        return StatsDropped(e.shard, e.worker, now)
    if e.version < planner.ledger.version and kind < 0.3 and record.visits:
        return StatsRejected(e.shard, e.worker, e.version, now)
    return StatsArrived(e.shard, e.worker, e.version, now)


# -------------------------------------------------------------------- transports


@dataclasses.dataclass(frozen=True)
class _Location:
    value: float


@dataclasses.dataclass(frozen=True)
class _Sums(Statistics):
    weight: float
    total: float
    square: float


@dataclasses.dataclass(frozen=True)
class _Mean(Model[_Location, _Sums]):
    """The mean of one column, by steps of one half: a closed form to compare with."""

    fail: bool = False

    def start(
        self, summary: Any, sample: Any, *, rng: Any, mapreduce: Any
    ) -> _Location:
        return _Location(float(mapreduce(_first_of) * 0.0))

    def e_step(
        self, params: _Location, prepared: Block, local: Any = None
    ) -> tuple[_Sums, None]:
        if self.fail:
            raise ZeroDivisionError("this model always fails")
        x, w = prepared.X[:, 0], prepared.weights()
        return _Sums(float(w.sum()), float(w @ x), float(w @ np.square(x))), None

    def m_step(self, params: _Location, stats: _Sums) -> _Location:
        return _Location((params.value + stats.total / stats.weight) / 2)

    def lower_bound(self, params: _Location, stats: _Sums) -> float:
        m = params.value
        return -0.5 * (stats.square - 2 * m * stats.total + m * m * stats.weight)


def _first_of(block: Block, rng: np.random.Generator) -> float:
    return float(block.X[:1].sum())


def check_transport(
    transport: Callable[[], Transport], *, schedules: Sequence[Schedule] = SCHEDULES
) -> None:
    """Check that a transport delivers what is sent, once, and leaves nothing behind.

    Fits whose answer is known in closed form are run under every schedule with 1, 2
    and 7 shards and weights; an error of the model must reach the caller.

    Parameters
    ----------
    transport : callable
        Returns a new transport.
    schedules : sequence of Schedule

    Raises
    ------
    AssertionError
        With a sentence that says what went wrong.

    Examples
    --------
    >>> from dask_em.testing import check_transport
    >>> from dask_em.transports import Local
    >>> check_transport(lambda: Local(2))
    """
    rng = np.random.default_rng(0)
    X, w = rng.normal(3.0, 1.0, (210, 1)), rng.integers(0, 3, 210).astype(float)
    mean = float(np.average(X[:, 0], weights=w))
    best = -0.5 * float(w @ np.square(X[:, 0] - mean))
    for schedule in schedules:
        for shards in (1, 2, 7):
            result = fit_em(
                _Mean(),
                X,
                sample_weight=w,
                transport=transport(),
                schedule=schedule,
                shards=shards,
                tol=1e-14,
                max_iter=400,
                random_state=0,
            )
            assert isinstance(result, EMResult)
            where = f"{transport()!r} under {schedule!r} with {shards} shards"
            assert result.settings["shards"] == shards, f"{where}: wrong shards"
            assert abs(result.params.value - mean) < 1e-5, (
                f"{where}: the mean is {result.params.value!r}, not {mean!r}"
            )
            assert abs(result.log_likelihood - best) < 1e-8 * abs(best), (
                f"{where}: the likelihood is {result.log_likelihood!r}, not {best!r}"
            )
            assert_monotone(result)
    try:
        fit_em(_Mean(fail=True), X, transport=transport(), shards=2, random_state=0)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("an error of the model must reach the caller")


# -------------------------------------------------------------------- topologies


def check_topology(
    topology: Topology | str, *, n_nodes: int = 6, seed: int = 0
) -> None:
    """Check that a topology brings every node the sums it needs, by few messages.

    Nodes are given random statistics: some that one node needs, some that two or all
    do; some nodes need none. Rounds are then played through by hand: a node sends only
    what it holds, sender and receiver agree on what is in a message without talking
    about it, and at the end all who need a statistic have its complete sum, the same
    to the last bit. What was sent is what the plan says, and no less than any exchange
    must send. A topology that stands for several is checked for each of them.

    Parameters
    ----------
    topology : Topology or str
    n_nodes : int, default=6
    seed : int, default=0

    Raises
    ------
    AssertionError
        With a sentence that says what went wrong.

    Examples
    --------
    >>> from dask_em.testing import check_topology
    >>> from dask_em.topologies import OwnerSharded
    >>> check_topology(OwnerSharded(), n_nodes=5, seed=1)
    """
    rng = np.random.default_rng(seed)
    ids, members = _random_sharing(rng, n_nodes)
    sharing = Sharing.of([ids[members[:, k]] for k in range(n_nodes)])
    ids, members = ids[members.any(axis=1)], sharing.members
    for found in named_topology(topology).candidates(n_nodes, sharing.overlaps):
        where = f"{found!r} on {n_nodes} nodes, seed {seed}"
        try:
            _play_rounds(found, ids, sharing, rng)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from None


def _random_sharing(rng: np.random.Generator, n_nodes: int) -> tuple[Any, Any]:
    """Return ids, and which nodes need them."""
    ids = np.unique(rng.integers(0, 2**62, 60))
    degree = rng.choice([0, 1, 2, 3, n_nodes], len(ids)).clip(max=n_nodes)
    rank = rng.permuted(np.tile(np.arange(n_nodes), (len(ids), 1)), axis=1)
    empty = rng.random(n_nodes) < rng.choice([0.0, 0.3])
    return ids, (rank < degree[:, None]) & ~empty


def _play_rounds(
    topology: Topology, ids: Any, sharing: Sharing, rng: np.random.Generator
) -> None:
    n_nodes, members = sharing.n_nodes, sharing.members
    places = range(n_nodes + 1)
    needs = np.concatenate([members, np.zeros((len(ids), 1), dtype=bool)], axis=1)
    carried = np.stack([topology.carried(k, sharing) for k in places], axis=1)
    assert not (needs & carried).any(), "what a node needs is not carried by it as well"
    holds = needs | carried
    held = [np.flatnonzero(holds[:, k]) for k in places]

    def seen_from(k: int, step: int, src: int, dst: int) -> Any:
        """Return what node k makes of a message, from what it knows itself."""
        known = Sharing(
            members[held[k]], sharing.pick[held[k]], sharing.counts[held[k]]
        )
        return held[k][topology.travels(step, src, dst, known)]

    # sums of whole numbers are exact in any order; those of others show the order
    shape = (len(ids), n_nodes)
    parts = np.stack([rng.integers(1, 1000, shape), rng.normal(size=shape)], axis=-1)
    parts *= members[..., None]
    values = np.concatenate([parts, np.zeros((len(ids), 1, 2))], axis=1)
    n_sent = 0
    for step, round_ in enumerate(topology.rounds(n_nodes)):
        arrived: list[dict[int, tuple[Any, Any]]] = [{} for _ in places]
        for src, dst in round_.links:
            rows = np.flatnonzero(topology.travels(step, src, dst, sharing))
            message = f"round {step}, message from {src} to {dst}"
            for end, verb in ((src, "sent"), (dst, "received")):
                assert holds[rows, end].all(), f"{message}: {verb} but not held"
                assert np.array_equal(seen_from(end, step, src, dst), rows), (
                    f"{message}: node {end} cannot tell what is in it"
                )
            assert src not in arrived[dst], f"{message}: there are two"
            arrived[dst][src] = rows, values[rows, src]
            n_sent += len(rows)
        for k, inbox in enumerate(arrived):
            if round_.combine == "replace":
                for rows, sums in inbox.values():
                    values[rows, k] = sums
            elif inbox:
                own, values[:, k] = values[:, k].copy(), 0.0
                for src in sorted([*inbox, k]):  # in the order of the nodes
                    if src == k:
                        values[:, k] += own
                    else:
                        rows, sums = inbox[src]
                        values[rows, k] += sums
    wanted = parts[..., 0].sum(axis=1)
    for k in range(n_nodes):
        mine = members[:, k]
        assert np.array_equal(values[mine, k, 0], wanted[mine]), (
            f"node {k} ends without the complete sums"
        )
    first = values[np.arange(len(ids)), members.argmax(axis=1), 1][:, None]
    assert (values[:, :n_nodes, 1] == first)[members].all(), "sums differ between nodes"
    plan = make_plan(topology, sharing)
    assert n_sent == plan.total, (
        f"{n_sent} numbers were sent, planned were {plan.total}"
    )
    assert n_sent >= plan.lower_bound == 2 * int((members.sum(axis=1) - 1).sum())
