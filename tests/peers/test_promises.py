"""What a fit of nodes promises to models, checkpoints and those who wait."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
from lexicon_model import Count, LexiconModel, Pairs, bitext, reference

from dask_em import SparseModel, fit_em
from dask_em.drivers.peer import Stage, fit_peers
from dask_em.sparse_model import Start

PAIRS = bitext(60)


def fitted(model: Any = None, **settings: Any) -> Any:
    settings = {
        "shards": 3,
        "transport": "local",
        "topology": "owner_sharded",
    } | settings
    max_iter = settings.pop("max_iter", 3)
    return fit_peers(
        [Stage(model or LexiconModel(), max_iter)], Pairs(PAIRS), **settings
    )


class Constant(SparseModel):
    """Relative frequencies, from statistics that the model keeps for itself."""

    def __init__(self, read_only: bool = False) -> None:
        self.read_only = read_only

    def survey(self, blocks: Any) -> Count:
        return Count(float(sum(len(block) for block in blocks)))

    def prepare(self, blocks: Any, summary: Any) -> Any:
        rows = np.concatenate([*blocks, np.zeros(0)]).astype(np.int64)
        ids, counts = np.unique(rows, return_counts=True)
        stats = np.append(counts, counts.sum()).astype(float)[:, None]
        stats.flags.writeable = not self.read_only
        return np.append(ids, 100), stats

    def support(self, prepared: Any) -> Any:
        return prepared[0]

    def start(self, prepared: Any, counted: Any, summary: Any, seed: int) -> Start:
        return Start(stats=prepared[1])

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        _, stats = prepared
        return stats, float(stats[:-1, 0] @ np.log(params[:-1, 0])), None

    def m_step(self, params: Any, stats: Any, prepared: Any) -> Any:
        return stats / stats[-1]


ROWS = np.random.default_rng(0).integers(0, 12, 200)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("topology", ["owner_sharded", "all_pairs", "junction_tree"])
def test_statistics_that_a_model_keeps(read_only: bool, topology: str) -> None:
    result = fit_em(
        Constant(read_only), ROWS, topology=topology, shards=3, max_iter=4, tol=0
    )
    shares = np.bincount(ROWS) / len(ROWS)
    np.testing.assert_allclose(result.params.gather()[1][:-1, 0], shares, rtol=1e-12)
    expected = np.bincount(ROWS) @ np.log(shares)
    np.testing.assert_allclose(result.trace.lower_bound, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("method", "returns", "complaint"),
    [
        ("support", [1.5, 2.5], "sorted, distinct"),
        ("support", [[1]], "sorted, distinct"),
        ("start", np.zeros(3), "must return a dask_em.Start"),
        (
            "start",
            Start(params=np.zeros(3)),
            r"start must return an array of .* \(13, 1",
        ),
        ("e_step", 3.0, "must return statistics, bound"),
        ("e_step", (np.zeros(13), 0.0, None), r"shape \(13, 1\), .* \(13,\)"),
        ("e_step", ("many", 0.0, None), "of numbers .* got str"),
        ("m_step", None, r"m_step must return an array"),
        ("survey", 3, "a property weight"),
    ],
)
def test_what_a_model_must_return(method: str, returns: Any, complaint: str) -> None:
    model = type("Mistaken", (Constant,), {method: lambda self, *args: returns})()
    with pytest.raises((TypeError, ValueError), match=complaint):
        fit_em(model, ROWS, shards=1)


@pytest.mark.parametrize("bound", [np.nan, np.inf])
def test_a_bound_that_is_no_number(bound: float) -> None:
    def e_step(self: Any, params: Any, prepared: Any, local: Any = None) -> Any:
        return prepared[1], bound, None

    with pytest.raises(ArithmeticError, match="the bound of Mistaken is"):
        fit_em(type("Mistaken", (Constant,), {"e_step": e_step})(), ROWS, shards=1)


@pytest.mark.parametrize(
    "setting",
    [
        {"y": ROWS},
        {"sample_weight": np.ones(200)},
        {"n_init": 5},
        {"schedule": "bounded_staleness"},
        {"strategy": "one_shot"},
        {"start": 3},
    ],
)
def test_settings_of_other_models(setting: Any) -> None:
    with pytest.raises(ValueError, match="is not for models whose M-step"):
        fit_em(Constant(), ROWS, **setting)


# ------------------------------------------------------------------------ checkpoints


def test_resuming_with_other_nodes(tmp_path: Any) -> None:
    known = reference(PAIRS, 6)
    first = fitted(max_iter=2, checkpoint=tmp_path / "there")
    assert first.n_m_steps == 2
    again = fitted(max_iter=6, checkpoint=tmp_path / "there", resume=True, shards=2)
    assert again.n_m_steps == 6 and again.resumed_from == str(tmp_path / "there")
    np.testing.assert_allclose(again.params.gather()[1], known[1], rtol=1e-9)
    np.testing.assert_allclose(again.trace.lower_bound, known[2][3:], rtol=1e-11)
    assert len(os.listdir(tmp_path / "there")) == 2  # no folder of before is left


def test_a_worse_fit_replaces_nothing(tmp_path: Any) -> None:
    fitted(max_iter=5, checkpoint=tmp_path)
    fitted(max_iter=1, checkpoint=tmp_path)
    assert fitted(max_iter=5, resume=tmp_path).n_m_steps == 5
    assert len(os.listdir(tmp_path)) == 2


def test_of_other_data(tmp_path: Any) -> None:
    fitted(max_iter=1, checkpoint=tmp_path)
    stage = Stage(LexiconModel(), 1)
    with pytest.raises(ValueError, match="is of another fit"):
        fit_peers([stage], Pairs(PAIRS[:-3]), checkpoint=tmp_path, transport="local")


class Asked(Pairs):
    """Fails where anybody looks at the data."""

    def cut(self, n_nodes: int) -> Any:
        raise AssertionError("work was begun")


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"resume": True}, ValueError, "give that, or"),
        ({"resume": "nowhere"}, FileNotFoundError, "there is no checkpoint"),
        ({"checkpoint": 5}, TypeError, "must be a path"),
        ({"checkpoint": True}, TypeError, "must be a path"),
        ({"gather": 1}, ValueError, "gather must be"),
        ({"shards": 2000}, ValueError, "1000 are the most"),
    ],
)
def test_before_any_work(settings: Any, error: Any, complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        fit_peers([Stage(LexiconModel(), 1)], Asked(PAIRS), **settings)


def test_damaged(tmp_path: Any) -> None:
    fitted(max_iter=1, checkpoint=tmp_path)
    header = tmp_path / "dask_em-nodes.json"
    folder = tmp_path / json.loads(header.read_text())["point"]["folder"]
    (folder / "1.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"cannot be read .*; move it away"):
        fitted(resume=tmp_path)
    (folder / "1.npz").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        fitted(resume=tmp_path)
    header.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        fitted(checkpoint=tmp_path)


def test_a_place_that_cannot_be_written_to(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    calls: list[int] = []
    with pytest.raises(OSError, match="cannot be written to"):
        fitted(checkpoint=tmp_path / "file" / "below", callback=calls.append)
    assert not calls


def test_a_save_that_fails_costs_no_fit(tmp_path: Any, monkeypatch: Any) -> None:
    from dask_em.peers import saved

    def full(self: Any, node: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(saved.Save, "run", full)
    assert fitted(checkpoint=tmp_path).n_m_steps == 3


# --------------------------------------------------------------------------- clusters


@pytest.mark.slow
def test_parameters_on_a_worker_that_is_gone() -> None:
    from clusters import local_cluster
    from distributed import Client

    with local_cluster(processes=False) as cluster, Client(cluster) as client:
        result = fitted(transport="futures", shards=2, gather=False)
        first = sorted(cluster.workers)[0]
        client.sync(cluster.workers[first].close)
        with pytest.raises(RuntimeError, match="is gone; fit again"):
            result.params.gather()


class Broken(LexiconModel):
    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        raise ConnectionError("the model's own")


@pytest.mark.parametrize("transport", ["local", "futures", "actors"])
def test_errors_that_are_no_losses(client: Any, transport: str) -> None:
    with pytest.raises(ConnectionError, match="the model's own"):
        fitted(Broken(), transport=transport, deadline=20)


def test_a_clone_keeps_its_client(client: Any) -> None:
    from sklearn.base import clone

    from dask_em import IBMModel1
    from dask_em.transports import Actors, Futures

    for kind in (Actors, Futures):
        assert clone(IBMModel1(transport=kind(client))).transport._given is client


@pytest.mark.parametrize("transport", ["futures", "actors"])
def test_a_recovery_that_is_spoilt(
    client: Any, monkeypatch: Any, transport: str
) -> None:
    """What a first attempt to bring nodes to workers has left out is made good."""
    from dask_em.peers.program import Lost
    from dask_em.transports.peers import cluster

    install, calls = cluster.ClusterPeers._install, []

    async def spoilt(self: Any, nodes: Any) -> None:
        calls.append(list(nodes))
        if len(calls) < 3:
            raise Lost("on the way")
        await install(self, nodes)

    monkeypatch.setattr(cluster.ClusterPeers, "_install", spoilt)
    result = fitted(transport=transport, deadline=60)
    assert calls == [[0, 1, 2, 3]] * 3 and result.settings["losses"] == 2
    np.testing.assert_allclose(
        result.params.gather()[1], reference(PAIRS, 3)[1], rtol=1e-9
    )


def test_a_reducer_that_begins_again() -> None:
    """It keeps nothing of what it was sent before."""
    from dask_em.peers.iteration import Begin
    from dask_em.peers.node import Node

    node = Node(2, 2)
    node.stats = np.ones((3, 1))
    Begin(LexiconModel(), 0).run(node)
    assert node.stats is None


def test_beginning_anew_beside_a_checkpoint(tmp_path: Any) -> None:
    fitted(max_iter=2, checkpoint=tmp_path)
    again = fitted(max_iter=4, checkpoint=tmp_path, resume=False)
    assert len(again.trace) == 4 and again.resumed_from is None
