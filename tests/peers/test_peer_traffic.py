"""What nodes send each other, counted by themselves and by Dask."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from distributed import Client
from lexicon_model import LexiconModel, Pairs, bitext
from peer_models import Ranges, WideModel

from dask_em.drivers.peer import Stage, fit_peers
from dask_em.peers.iteration import MStep, Traffic
from dask_em.topologies import (
    AllPairs,
    JunctionTree,
    MapReduce,
    OwnerSharded,
    Star,
    Tree,
)
from dask_em.transports.peers.actors import ActorPeers
from dask_em.transports.peers.local import LocalPeers
from dask_em.transports.peers.tasks import TaskPeers

TOPOLOGIES = [
    MapReduce(),
    AllPairs(),
    JunctionTree(),
    OwnerSharded(),
    Star(1),
    Tree(1),
]


class Spy:
    """Notes, after each iteration, what nodes have sent and received, and hold."""

    def peers(self) -> Any:
        return self

    async def run(self, program: Any) -> Any:
        """Ask for the traffic after an iteration, and see how small results are."""
        results = await super().run(program)  # type: ignore[misc]
        if not any(isinstance(step, MStep) for step in program):
            return results
        vars(self).setdefault("traffic", [])
        vars(self).setdefault("outgoing", [])
        vars(self).setdefault("results", [])
        self.results.append(len(pickle.dumps(results)))  # type: ignore[attr-defined]
        if isinstance(self, TaskPeers):
            self.outgoing.append(  # type: ignore[attr-defined]
                sum((await self._client.run(outgoing)).values())
            )
        (found,) = await super().run([Traffic()])  # type: ignore[misc]
        self.traffic.append(found)  # type: ignore[attr-defined]
        return results


def outgoing(dask_worker: Any) -> int:
    return int(dask_worker.transfer_outgoing_bytes_total)


class LocalSpy(Spy, LocalPeers):
    pass


class TaskSpy(Spy, TaskPeers):
    pass


class ActorSpy(Spy, ActorPeers):
    pass


def assert_as_planned(spy: Any, plan: Any) -> None:
    assert len(spy.traffic) > 1
    found = np.array(spy.traffic)
    sent, received, held = np.moveaxis(found, 2, 0)
    for i, (out, in_) in enumerate(zip(sent, received, strict=True), start=1):
        assert (out == i * plan.sent).all()
        assert (in_ == i * plan.received).all()
    assert (held == np.add((*plan.support, 0), plan.carried)).all()


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
@pytest.mark.parametrize("width", [1, 3])
def test_nodes_send_what_is_planned(topology: Any, width: int) -> None:
    spy = LocalSpy(2)
    stage = Stage(LexiconModel(width=width), 3)
    result: Any = fit_peers(
        [stage], Pairs(bitext(60)), topology=topology, transport=spy, shards=5
    )
    assert_as_planned(spy, result.plan)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("kind", [TaskSpy, ActorSpy])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_nodes_on_a_cluster_do_too(processes: Any, topology: Any, kind: Any) -> None:
    with Client(processes) as client:
        spy = kind(client)
        result: Any = fit_peers(
            [Stage(LexiconModel(), 3)],
            Pairs(bitext(60)),
            topology=topology,
            transport=spy,
            shards=4,
        )
    assert_as_planned(spy, result.plan)


@pytest.mark.cluster
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
@pytest.mark.parametrize(
    "shards",
    [
        pytest.param(2, marks=pytest.mark.soak),
        pytest.param(4, marks=pytest.mark.slow),
    ],
)
def test_bytes_between_workers(processes: Any, topology: Any, shards: int) -> None:
    """Statistics travel once, as bare numbers; the client sees none of them."""
    size, step = 400_000, 150_000
    ranges = [(k * step, k * step + size) for k in range(shards)]
    with Client(processes) as client:
        spy = TaskSpy(client)
        result: Any = fit_peers(
            [Stage(WideModel(), 4)],
            Ranges(ranges),
            topology=topology,
            transport=spy,
            shards=shards,
            gather=False,
        )
        plan = result.plan
    plan = result.plan
    assert_as_planned(spy, plan)
    across = [m.size for m in plan.messages if plan.places[m.src] != plan.places[m.dst]]
    payload = 8 * sum(across)
    assert payload >= 1_000_000
    per_iteration = np.diff(spy.outgoing)  # type: ignore[attr-defined]
    assert (per_iteration >= payload).all()
    assert (per_iteration <= 1.05 * payload).all(), per_iteration / payload
    assert max(spy.results) < 2000  # type: ignore[attr-defined]
