"""Whatever the topology and the transport, peers compute what one node would."""

from __future__ import annotations

import asyncio
import functools
import pickle
import signal
import threading
from typing import Any

import numpy as np
import pytest
from clusters import assert_clean
from distributed import Client
from lexicon_model import Count, LexiconModel, Pairs, bitext, reference
from peer_models import FailingLexicon, SlowLexicon

from dask_em.drivers.peer import Stage, fit_peers
from dask_em.topologies import (
    AllPairs,
    JunctionTree,
    MapReduce,
    OwnerSharded,
    Star,
    Tree,
)
from dask_em.transports.peers import on_worker

TOPOLOGIES: dict[str, Any] = {
    "map_reduce": MapReduce(),
    "all_pairs": AllPairs(),
    "maximum": JunctionTree("maximum"),
    "best": JunctionTree("best"),
    "owner_sharded": OwnerSharded(),
    "star": Star(),
    "tree": Tree(),
    "auto": "auto",
}
TRANSPORTS = ["local", "futures", "actors"]
#: Tasks take their time.
MOSTLY = ["local", pytest.param("futures", marks=pytest.mark.slow), "actors"]
N_ITER = 5
PAIRS = bitext(40)


def fitted(pairs: Any = PAIRS, model: Any = None, **settings: Any) -> Any:
    max_iter = settings.pop("max_iter", N_ITER)
    stage = Stage(model or LexiconModel(), max_iter, settings.pop("tol", 0.0))
    return fit_peers([stage], Pairs(pairs), **settings)


@functools.cache
def wanted(n: int = 40, *, by_statistics: bool = False, width: int = 1) -> Any:
    model = LexiconModel(by_statistics=by_statistics, width=width)
    return reference(bitext(n), N_ITER, model)


def assert_same(result: Any, reference: Any) -> None:
    """Compare ids, parameters, and the bound before and after every iteration."""
    ids, params, bounds = reference
    found_ids, found = result.params.gather()
    assert np.array_equal(found_ids, ids)
    np.testing.assert_allclose(found, params, rtol=1e-9)
    trace = result.trace
    assert result.n_m_steps == len(trace) == len(bounds) - 1
    np.testing.assert_allclose(trace.lower_bound, bounds[1:], rtol=1e-9)
    np.testing.assert_allclose(trace.lower_bound_before, bounds[:-1], rtol=1e-9)
    assert result.log_likelihood == trace.lower_bound[-1]


def compare(client: Any, case: tuple[Any, ...]) -> None:
    topology, transport, n_nodes, by_statistics, width = case
    result = fitted(
        model=LexiconModel(by_statistics=by_statistics, width=width),
        topology=TOPOLOGIES[topology],
        transport=transport,
        shards=n_nodes,
    )
    assert_same(result, wanted(by_statistics=by_statistics, width=width))
    assert result.plan.n_nodes == n_nodes
    assert result.status == "max_iter"
    assert not on_worker._NODES and not on_worker._STAMPS


CASES = [
    (topology, transport, n_nodes, by_statistics, width)
    for topology in TOPOLOGIES
    for transport in TRANSPORTS
    for n_nodes in (1, 2, 5)
    for by_statistics in (False, True)
    for width in (1, 2)
]
#: Each topology and each transport, with each setting at least once.
DIAGONAL = [
    (topology, transport, (5, 2, 5, 1)[(i + j) % 4], (i + j) % 2 == 0, 1 + i % 2)
    for i, topology in enumerate(TOPOLOGIES)
    for j, transport in enumerate(TRANSPORTS)
    if transport == "local" or i % 2 == j % 2
]
#: All on tasks but one.
LONG = [case for case in DIAGONAL if case[1] == "futures"][1:]
#: With these each topology is once on each transport of a cluster.
OTHERS = [
    (topology, ("actors", "futures")[i % 2 == 0], (2, 5)[i // 2 % 2], i < 4, 2 - i % 2)
    for i, topology in enumerate(TOPOLOGIES)
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case in LONG else ())
        for case in DIAGONAL
    ],
    ids=str,
)
def test_some_of_all(client: Any, case: Any) -> None:
    compare(client, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_more_of_all(client: Any, case: Any) -> None:
    compare(client, case)


@pytest.mark.soak
@pytest.mark.parametrize(
    "case", [c for c in CASES if c not in DIAGONAL and c not in OTHERS], ids=str
)
def test_all(client: Any, case: Any) -> None:
    compare(client, case)


# ------------------------------------------------------------------------ odd data


@pytest.mark.parametrize("transport", MOSTLY)
@pytest.mark.parametrize("topology", ["map_reduce", "owner_sharded", "best"])
def test_nodes_without_data(client: Any, transport: str, topology: str) -> None:
    result = fitted(
        bitext(3), topology=TOPOLOGIES[topology], transport=transport, shards=6
    )
    assert_same(result, wanted(3))
    assert result.plan.support.count(0) == 3


@pytest.mark.parametrize("n_nodes", [1, 4])
def test_one_pair(n_nodes: int) -> None:
    assert_same(fitted(bitext(1), transport="local", shards=n_nodes), wanted(1))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_no_pairs(topology: str) -> None:
    result = fitted(
        [], topology=TOPOLOGIES[topology], transport="local", shards=3, tol=1e-3
    )
    assert result.status == "converged"
    assert result.log_likelihood == 0.0
    assert len(result.params.gather()[0]) == 0


class Picky(LexiconModel):
    """Raises where there are no pairs."""

    def check(self, summary: Count) -> None:
        if not summary.weight:
            raise ValueError("there are no sentence pairs")


@pytest.mark.parametrize("transport", MOSTLY)
def test_the_model_is_asked_whether_it_fits(client: Any, transport: str) -> None:
    with pytest.raises(ValueError, match="there are no sentence pairs"):
        fitted([], Picky(), transport=transport, shards=2)


class Unsorted(LexiconModel):
    """Names its ids in a wrong order."""

    def support(self, prepared: Any) -> Any:
        return super().support(prepared)[::-1]


def test_ids_must_be_sorted() -> None:
    with pytest.raises(ValueError, match=r"Unsorted\.support must return sorted"):
        fitted(model=Unsorted(), transport="local", shards=2)


# -------------------------------------------------------------------------- the end


def test_it_converges() -> None:
    result = fitted(transport="local", shards=3, max_iter=500, tol=1e-4)
    assert result.status == "converged" and result.n_m_steps < 500
    gains = np.diff(result.trace.lower_bound) / result.weight
    assert gains[-1] < 1e-4 <= gains[:-1].min()


def test_stages() -> None:
    """The second model goes on from the parameters of the first."""
    stages = [Stage(LexiconModel(), 2), Stage(LexiconModel(), N_ITER - 2)]
    result = fit_peers(stages, Pairs(PAIRS), transport="local", shards=3)
    assert_same(result, wanted())  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", MOSTLY)
def test_callback(client: Any, transport: str) -> None:
    seen: list[Any] = []

    def callback(progress: Any) -> bool:
        seen.append(progress)
        return progress.version == 3

    result = fitted(transport=transport, shards=2, callback=callback)
    assert result.status == "callback"
    assert [p.version for p in seen] == [1, 2, 3]
    bounds = [p.lower_bound * result.weight for p in seen]
    np.testing.assert_allclose(bounds, wanted()[2][1:4], rtol=1e-9)
    _, params, _ = reference(PAIRS, 3)
    np.testing.assert_allclose(result.params.gather()[1], params, rtol=1e-9)


@pytest.mark.parametrize("transport", MOSTLY)
def test_a_callback_that_fails(client: Any, transport: str) -> None:
    def callback(progress: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fitted(transport=transport, shards=2, callback=callback)


@pytest.mark.parametrize("transport", MOSTLY)
def test_deadline(client: Any, transport: str) -> None:
    """It ends after an iteration, with its exact log-likelihood."""
    result = fitted(
        model=SlowLexicon(0.05),
        transport=transport,
        shards=2,
        deadline=2.0 if transport == "futures" else 0.7,
        max_iter=10**6,
    )
    assert result.status == "deadline"
    assert result.n_m_steps > 0
    _, params, bounds = reference(PAIRS, result.n_m_steps)
    np.testing.assert_allclose(result.params.gather()[1], params, rtol=1e-8)
    assert result.log_likelihood == pytest.approx(bounds[-1], rel=1e-9)


@pytest.mark.parametrize("transport", MOSTLY)
@pytest.mark.parametrize("slow", ["survey", "e_step"])
def test_deadline_before_there_is_anything(
    client: Any, transport: str, slow: str
) -> None:
    with pytest.raises(TimeoutError, match=r"deadline of 0\.2 s passed"):
        fitted(
            model=SlowLexicon(0.6, slow), transport=transport, shards=2, deadline=0.2
        )


@pytest.mark.parametrize("transport", MOSTLY)
def test_interrupt(client: Any, transport: str) -> None:
    def callback(progress: Any) -> None:
        if progress.version == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    result = fitted(
        model=SlowLexicon(0.02),
        transport=transport,
        shards=2,
        max_iter=10**6,
        callback=callback,
        deadline=30.0,
    )
    assert result.status == "interrupted"
    assert 3 <= result.n_m_steps <= 5
    _, params, _ = reference(PAIRS, result.n_m_steps)
    np.testing.assert_allclose(result.params.gather()[1], params, rtol=1e-9)


@pytest.mark.parametrize("transport", MOSTLY)
def test_interrupt_before_there_is_anything(client: Any, transport: str) -> None:
    timer = threading.Timer(
        0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    )
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fitted(model=SlowLexicon(1.5, "survey"), transport=transport, shards=2)
    timer.join()


# --------------------------------------------------------------------------- errors


@pytest.mark.timeout(60)  # not after all attempts
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("where", ["survey", "e_step"])
def test_errors_of_a_model(client: Any, transport: str, where: str) -> None:
    with pytest.raises(ValueError, match="my own"):
        fitted(
            model=FailingLexicon(where, ValueError("my own"), PAIRS[-1][1]),
            transport=transport,
            shards=4,
        )
    assert not on_worker._NODES


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "error", [OSError("my own"), FileNotFoundError("my own"), RuntimeError("my own")]
)
def test_errors_that_look_like_losses(client: Any, transport: str, error: Any) -> None:
    with pytest.raises(type(error), match="my own"):
        model = FailingLexicon("e_step", error, PAIRS[-1][1])
        fitted(model=model, transport=transport, shards=4)


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"topology": "ring"}, ValueError, "topology must be one of"),
        ({"topology": Star}, ValueError, r"call it: Star\(\)"),
        ({"topology": Star(7)}, ValueError, "hub must be one of the nodes 0 to 1"),
        ({"topology": JunctionTree([(0, 5)])}, ValueError, "numbered from 0 to 1"),
        ({"transport": "pigeons"}, ValueError, "transport must be"),
        ({"shards": 0}, ValueError, "shards must be"),
        ({"shards": "many"}, TypeError, "shards must be"),
        ({"callback": 3}, TypeError, "callback must be callable"),
        ({"gather": "maybe"}, ValueError, "gather must be"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"deadline": -1.0}, ValueError, "deadline"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_arguments(settings: Any, error: Any, complaint: str) -> None:
    with pytest.raises(error, match=complaint) as caught:
        fitted(**{"transport": "local", "shards": 2} | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transport", ["futures", "actors"])
def test_without_a_client(transport: str) -> None:
    with pytest.raises(ValueError, match="needs a Dask client"):
        fitted(transport=transport)


# ------------------------------------------------------------------ clients of kinds


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["futures", "actors"])
def test_two_fits_at_once(client: Any, transport: str) -> None:
    found: dict[int, Any] = {}

    def fit(n: int) -> None:
        found[n] = fitted(bitext(n), transport=transport, shards=3)

    threads = [threading.Thread(target=fit, args=(n,)) for n in (20, 40)]
    with client.as_current():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for n in (20, 40):
        assert_same(found[n], wanted(n))
    assert not on_worker._NODES


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["futures", "actors"])
def test_asynchronous(cluster: Any, transport: str) -> None:
    async def fit() -> Any:
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            assert client.asynchronous
            return await fitted(transport=transport, shards=3)

    assert_same(asyncio.run(fit()), wanted())
    with Client(cluster) as client:
        assert_clean(client)


def fit_in_a_task(transport: str) -> Any:
    return fitted(transport=transport, shards=2)


@pytest.mark.parametrize("transport", MOSTLY[1:])
def test_inside_a_task(client: Any, transport: str) -> None:
    future = client.submit(fit_in_a_task, transport, pure=False)
    assert_same(future.result(), wanted())


@pytest.mark.parametrize("transport", MOSTLY)
def test_the_result_can_be_pickled(client: Any, transport: str) -> None:
    result = fitted(transport=transport, shards=3, gather=False)
    if transport != "local":
        assert "where it was computed" in repr(result.params)
    assert_same(pickle.loads(pickle.dumps(result)), wanted())
    ids, params, _ = wanted()
    some = result.params.take(np.array([ids[3], 10**9, ids[0]]))
    assert some[:, 0].tolist() == pytest.approx([params[3, 0], 0.0, params[0, 0]])


@pytest.mark.slow
def test_rows_left_on_a_cluster_that_is_gone(cluster: Any) -> None:
    with Client(cluster):
        result = fitted(transport="futures", shards=2, gather=False)
    with pytest.raises(RuntimeError, match="its client is closed"):
        result.params.gather()


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("shards", [1, 5])
def test_copies_change_nothing(client: Any, transport: str, shards: int) -> None:
    """Those of one node alone have nowhere to go."""
    result = fitted(transport=transport, shards=shards, snapshot_seconds=0.0)
    assert_same(result, wanted())
