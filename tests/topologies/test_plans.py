"""Plans: what they say, what they cost, and how they look."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dask_em.topologies import (
    AllPairs,
    JunctionTree,
    MapReduce,
    Message,
    Network,
    OwnerSharded,
    Sharing,
    Star,
    make_plan,
)

SUPPORTS = [np.arange(100), np.arange(50, 150), np.arange(140, 200), np.arange(0)]
SHARING = Sharing.of(SUPPORTS)
ALL = [MapReduce(), AllPairs(), OwnerSharded(), JunctionTree(), Star(), "auto"]


def test_seconds_by_hand() -> None:
    plan = make_plan(MapReduce(), SHARING, width=2)
    # up: 100, 100, 60 statistics of 16 bytes; the reducer gets three messages
    assert plan.rounds[0] == (Message(0, 4, 100), Message(1, 4, 100), Message(2, 4, 60))
    network = Network(
        latency=0.25, bandwidth=100.0, per_message=2.0, receive_bandwidth=50.0
    )
    up = 0.25 + 3 * 2.0 + 260 * 16 / 50
    down = 0.25 + 3 * 2.0 + 260 * 16 / 100
    assert network.seconds(plan) == pytest.approx(up + down, rel=1e-14)
    # nothing received is slower than the slowest of those who send and receive
    plan = make_plan(AllPairs(), SHARING)
    slow = Network(latency=0.0, bandwidth=1.0, per_message=0.0)
    assert network.seconds(make_plan(AllPairs(), Sharing.of(SUPPORTS[:1]))) == 0.0
    assert slow.seconds(plan) == 8 * (50 + 10)  # node 1 shares with both others


def test_a_round_without_messages_has_its_latency() -> None:
    plan = make_plan(AllPairs(), Sharing.of([np.arange(3), np.arange(3, 5)]))
    assert plan.messages == ()
    assert Network(latency=0.5).seconds(plan) == 0.5


def test_numbers() -> None:
    plan = make_plan(Star(2), SHARING)
    assert plan.support == (100, 100, 60, 0)
    assert plan.carried == (0, 0, 50, 0, 0)  # what 0 and 1 share passes through 2
    assert plan.n_statistics == 200
    assert plan.lower_bound == 2 * (50 + 10)
    assert plan.sent.tolist() == [50, 60, 110, 0, 0]
    assert plan.received.tolist() == [50, 60, 110, 0, 0]
    assert plan.total == plan.sent.sum() == sum(m.size for m in plan.messages)
    assert plan.busiest == 220


@pytest.mark.parametrize("topology", ALL, ids=str)
@pytest.mark.parametrize(
    "n_nodes", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 4]
)
def test_looks(topology: Any, n_nodes: int) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plan = make_plan(topology, Sharing.of(SUPPORTS[:n_nodes]), width=3)
    plan = dataclasses.replace(plan, places=("<a>",) * (n_nodes + 1))
    text, html = str(plan), plan._repr_html_()
    assert f"{plan.total:,} numbers per exchange" in text
    assert "&lt;a&gt;" in html and "<a>" not in html
    assert html.count("<tr>") == 1 + n_nodes + (topology == MapReduce() and n_nodes > 1)
    ax = plan.plot()
    assert plan.plot(ax) is ax
    ax.figure.canvas.draw()
    plt.close(ax.figure)


def test_reasons() -> None:
    assert make_plan(AllPairs(), SHARING).reason == "asked for"
    plan = make_plan("auto", SHARING)
    assert "fastest by prediction" in plan.reason
    assert [s for _, s in plan.others] == sorted(s for _, s in plan.others)
    assert plan.others[0][0] == plan.topology.name
    assert "one node" in make_plan("auto", Sharing.of(SUPPORTS[:1])).reason


def test_topologies_are_chosen_by_the_network() -> None:
    sharing = Sharing.of([np.arange(1000)] * 8)
    fast = Network(latency=1.0, bandwidth=1e12, per_message=0.0)
    slow = Network(latency=1e-9, bandwidth=1e3, per_message=0.0)
    dear = Network(latency=1e-9, bandwidth=1e12, per_message=1.0)
    assert make_plan("auto", sharing, network=fast).topology == AllPairs()
    assert make_plan("auto", sharing, network=slow).topology == OwnerSharded()
    assert isinstance(make_plan("auto", sharing, network=dear).topology, JunctionTree)
