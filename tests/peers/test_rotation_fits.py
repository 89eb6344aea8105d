"""Fits by rotation against EM and block updates in plain NumPy."""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import tempfile
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from lexicon_model import LexiconModel, Pairs, bitext
from rotating_models import Uneven, topical

from dask_em.drivers.peer import Stage, fit_peers
from dask_em.drivers.rotation import RotationFit
from dask_em.models.topics.rotating import RotatingTopicModel
from dask_em.peers import rotation
from dask_em.peers.cells import slices_of
from dask_em.topics import as_corpus
from dask_em.topologies import Rotation
from dask_em.transports import Simulated
from dask_em.transports.peers import on_worker

K, A, B = 4, 0.3, 0.2
MODEL = RotatingTopicModel(K, a=A, b=B)
WAITS = ["barrier", "extra_updates", "neighbours"]


@functools.cache
def corpus(n_docs: int = 40, n_words: int = 30) -> Any:
    return topical(n_docs, n_words, K)


def fitted(X: Any, model: Any = MODEL, **settings: Any) -> Any:
    stage = Stage(model, settings.pop("max_iter", 5), settings.pop("tol", 0.0))
    settings = {"topology": Rotation("barrier"), "transport": "local"} | settings
    return fit_peers([stage], as_corpus(X), **settings)


def counts_of(result: Any, X: Any) -> Any:
    """Return the counts of words; the last row must be their sum."""
    ids, rows = result.params.gather()
    assert ids[-1] == X.shape[1]
    assert np.array_equal(ids[:-1], np.flatnonzero(X.sum(axis=0)))
    np.testing.assert_allclose(rows[-1], rows[:-1].sum(axis=0), rtol=1e-9)
    found = np.zeros((X.shape[1], K))
    found[ids[:-1]] = rows[:-1]
    return found


# ------------------------------------------------------------------- plain NumPy


def start_of(X: Any, model: Any = MODEL) -> tuple[Any, Any]:
    """Return counts of documents and of words at the start."""
    lengths = X.sum(axis=1)
    n_wk = np.zeros((X.shape[1], K))
    words = np.flatnonzero(X.sum(axis=0))
    prepared = model.prepare([X], summary := model.survey([X]))
    sizes = model.column_sizes(prepared, summary)
    n_wk[words] = model.start_columns(words, sizes[words], summary, 0)
    for d, k in enumerate(model.groups(prepared, summary, 0)):
        if k >= 0:
            n_wk[:, k] += X.toarray()[d]
    return np.repeat(lengths[:, None] / K, K, axis=1), n_wk


def e_step(X: Any, n_dk: Any, n_wk: Any, n_k: Any) -> tuple[Any, Any]:
    """Return the new counts of a dense block, of documents and of words."""
    theta = n_dk + A
    phi = (n_wk + B) / n_k
    ratio = X / (theta @ phi.T)
    return theta * (ratio @ phi), phi * (ratio.T @ theta)


def objective(X: Any, n_dk: Any, n_wk: Any) -> float:
    theta = (n_dk + A) / (n_dk + A).sum(axis=1, keepdims=True)
    phi = (n_wk + B) / (n_wk + B).sum(axis=0)
    likelihood = (X * np.log(theta @ phi.T)).sum()
    return float(likelihood + A * np.log(theta).sum() + B * np.log(phi).sum())


def synchronous(X: Any, n_iter: int) -> tuple[Any, list[float]]:
    """Return what EM makes of the start, and the objective before each step."""
    X, (n_dk, n_wk) = X.toarray(), start_of(X)
    bounds = []
    for _ in range(n_iter):
        bounds.append(objective(X, n_dk, n_wk))
        n_dk, n_wk = e_step(X, n_dk, n_wk, (n_wk + B).sum(axis=0))
    return n_wk, [*bounds, objective(X, n_dk, n_wk)]


def by_blocks(X: Any, n_nodes: int, per_node: int, n_passes: int) -> Any:
    """Return what a step of EM and some passes of block updates make of the start."""
    n_dk, n_wk = start_of(X)
    edges = [sum(c.load().shape[0] for c in part) for part in as_corpus(X).cut(n_nodes)]
    docs = np.split(np.arange(X.shape[0]), np.cumsum(edges)[:-1])
    slice_of, _ = slices_of(np.diff(sp.csc_array(X).indptr), n_nodes * per_node)
    X = X.toarray()
    last: dict[Any, Any] = {}
    totals = (n_wk + B).sum(axis=0)
    for i, mine in enumerate(docs):
        for j in range(n_nodes * per_node):
            words = np.flatnonzero(slice_of == j)
            block = X[np.ix_(mine, words)]
            last[i, j] = e_step(block, n_dk[mine], n_wk[words], totals)
    n_dk, n_wk = np.zeros_like(n_dk), np.zeros_like(n_wk)
    for (i, j), (rows, columns) in last.items():
        n_dk[docs[i]] += rows
        n_wk[slice_of == j] += columns
    for _ in range(n_passes):
        for slices in Rotation(slices_per_node=per_node).sub_epochs(n_nodes):
            totals = (n_wk + B).sum(axis=0)
            for i, j in enumerate(slices):
                words = np.flatnonzero(slice_of == j)
                block = X[np.ix_(docs[i], words)]
                new = e_step(block, n_dk[docs[i]], n_wk[words], totals)
                n_dk[docs[i]] += new[0] - last[i, j][0]
                n_wk[words] += new[1] - last[i, j][1]
                last[i, j] = new
    return n_wk, objective(X, n_dk, n_wk)


# ---------------------------------------------------------------- what is computed


async def rebuild_only(fit: Any) -> None:
    """Adopt what a rebuild has found, and make the next: synchronous EM."""
    await fit._run([rotation.Adopt()])
    fit._log.add(await fit._exactly(), 0.0)


@pytest.mark.parametrize(("n_nodes", "per_node"), [(1, 1), (2, 2), (3, 1), (5, 1)])
def test_a_rebuild_is_a_step_of_em(
    monkeypatch: Any, n_nodes: int, per_node: int
) -> None:
    monkeypatch.setattr(RotationFit, "_iterate", rebuild_only)
    X = corpus()
    how = Rotation("barrier", slices_per_node=per_node)
    result = fitted(X, shards=n_nodes, topology=how)
    counts, bounds = synchronous(X, 5)
    np.testing.assert_allclose(counts_of(result, X), counts, rtol=1e-10)
    trace = result.trace
    np.testing.assert_allclose(trace.lower_bound_before, bounds[:-1], rtol=1e-11)
    assert result.log_likelihood == pytest.approx(bounds[-1], rel=1e-11)
    assert np.all(np.diff(bounds) > 0)


@pytest.mark.parametrize(
    ("n_nodes", "per_node", "in_memory"),
    [(1, 1, "auto"), (2, 1, 0), (3, 2, 1000), (5, 1, "auto")],
)
def test_passes_are_block_updates(n_nodes: int, per_node: int, in_memory: Any) -> None:
    """In memory, or in files that are gone afterwards."""
    X = corpus()
    pattern = os.path.join(tempfile.gettempdir(), "dask_em-blocks-*")
    before, seen = set(glob.glob(pattern)), []
    how = Rotation("barrier", slices_per_node=per_node, in_memory=in_memory)
    result = fitted(
        X,
        shards=n_nodes,
        topology=how,
        callback=lambda _: seen.append(len(set(glob.glob(pattern)) - before)),
    )
    counts, bound = by_blocks(X, n_nodes, per_node, 5)
    np.testing.assert_allclose(counts_of(result, X), counts, rtol=1e-10)
    assert result.log_likelihood == pytest.approx(bound, rel=1e-11)
    assert seen == [0 if in_memory == "auto" else n_nodes] * 5
    assert set(glob.glob(pattern)) == before
    assert result.plan.n_nodes == n_nodes
    assert result.params.n_rows == len(result.params.gather()[0])


@pytest.mark.parametrize("wait", WAITS)
def test_it_ends_where_em_does(wait: str) -> None:
    """Whatever nodes do while they wait; the bound is exact at the end."""
    X = corpus(200, 60)
    how = Rotation(wait)
    far = synchronous(X, 300)[1][-1]
    slow = Simulated(4, speeds=[1, 1, 1, 0.25])
    result = fitted(X, topology=how, transport=slow, max_iter=300, tol=1e-7)
    assert result.status == "converged"
    assert result.log_likelihood == pytest.approx(far, rel=0.01)
    assert (result.settings["extra updates"] > 0) == (wait == "extra_updates")
    again = fitted(X, topology=how, transport=slow, max_iter=300, tol=1e-7)
    assert again.log_likelihood == result.log_likelihood


def test_older_sums_are_told_in_between() -> None:
    """With a bound of one sub-epoch, all know what they would after a barrier."""
    X, found = corpus(), {}
    for how in (
        Rotation("barrier"),
        Rotation("neighbours"),
        Rotation("neighbours", max_staleness=1),
    ):
        found[how] = counts_of(fitted(X, topology=how, shards=5), X)
    barrier, alone, told = found.values()
    np.testing.assert_allclose(told, barrier, rtol=1e-10)
    assert not np.allclose(alone, barrier, rtol=1e-8)


def test_single_precision() -> None:
    X = corpus()
    model = dataclasses.replace(MODEL, wire32=True)
    result = fitted(X, model, shards=3)
    counts, bound = by_blocks(X, 3, 1, 5)
    np.testing.assert_allclose(counts_of(result, X), counts, rtol=1e-3, atol=1e-3)
    assert result.log_likelihood == pytest.approx(bound, rel=1e-5)


def test_maximum_likelihood_and_even_starts() -> None:
    """Without priors; sums stay those of the data, and the likelihood rises."""
    X = corpus()
    model = RotatingTopicModel(K, a=0.0, b=0.0, begin="random")
    result = fitted(X, model, shards=3, max_iter=30, seed=3)
    np.testing.assert_allclose(counts_of(result, X).sum(axis=1), X.sum(axis=0))
    assert np.all(np.diff(result.trace.lower_bound) > 0)


@pytest.mark.parametrize("transport", ["futures", "actors"])
def test_clusters_compute_the_same(client: Any, transport: str) -> None:
    X = corpus()
    how = Rotation("barrier", slices_per_node=2, in_memory=0)
    here = fitted(X, topology=how, shards=3, max_iter=3)
    there = fitted(X, topology=how, shards=3, max_iter=3, transport=transport)
    np.testing.assert_allclose(counts_of(there, X), counts_of(here, X), rtol=1e-9)
    np.testing.assert_allclose(
        there.trace.lower_bound, here.trace.lower_bound, rtol=1e-11
    )
    assert not on_worker._NODES
    spans = client.run(lambda dask_worker: os.listdir(dask_worker.local_directory))
    assert not any("blocks" in name for names in spans.values() for name in names)


# ------------------------------------------------------------------- extra updates


@pytest.mark.parametrize("transport", ["local", "futures", "actors"])
def test_who_waits_sweeps_on(client: Any, transport: str) -> None:
    result = fitted(
        corpus(41),
        Uneven(K, a=A, b=B),
        topology=Rotation(max_extra=3),
        shards=2,
        max_iter=4,
        transport=transport,
    )
    # all but the first sub-epoch, in which nobody knows how long it will be
    assert 9 <= result.settings["extra updates"] <= 3 * 8


def test_extra_updates_save_time() -> None:
    """With one worker that is four times as slow, but not if all are alike."""
    X = corpus(300, 80)
    seconds: dict[Any, float] = {}
    far = synchronous(X, 40)[1][-1]
    for speeds in ((1, 1, 1, 1), (1, 1, 1, 0.25)):
        for wait in ("barrier", "extra_updates"):
            sim = Simulated(4, speeds=speeds, cost=4.0, latency=0.01, bandwidth=1e7)
            result = fitted(X, topology=Rotation(wait), transport=sim, max_iter=80)
            there = np.argmax(result.trace.lower_bound > far)
            assert result.trace.lower_bound[there] > far
            seconds[speeds, wait] = result.trace.time[there]
            waited = sim.timeline.waiting()["worker-0"]
            assert waited < 0.2 if speeds[3] == 1 else waited > 0.2
    alike, uneven = (1, 1, 1, 1), (1, 1, 1, 0.25)
    assert seconds[alike, "extra_updates"] == seconds[alike, "barrier"]
    assert seconds[uneven, "extra_updates"] < 0.85 * seconds[uneven, "barrier"]
    assert seconds[uneven, "barrier"] > 3 * seconds[alike, "barrier"]


def test_neighbours_need_no_barrier() -> None:
    """Delays that come and go add up for all together only with a barrier."""
    stop = {}
    for wait in ("barrier", "neighbours"):
        sim = Simulated(6, jitter=1.0, seed=1)
        result = fitted(corpus(), topology=Rotation(wait), transport=sim)
        stop[wait] = result.trace.time[-1]
    assert stop["neighbours"] < 0.9 * stop["barrier"]


# -------------------------------------------------------------------------- odd data


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("shape", [(3, 30), (40, 3), (1, 1)])
def test_fewer_documents_or_words_than_nodes(wait: str, shape: Any) -> None:
    X = sp.csr_array(np.random.default_rng(0).poisson(2.0, shape) + 1.0)
    result = fitted(X, topology=Rotation(wait), shards=6, max_iter=4)
    np.testing.assert_allclose(counts_of(result, X).sum(axis=1), X.sum(axis=0))
    assert np.isfinite(result.log_likelihood)


def test_no_words_at_all() -> None:
    with pytest.raises(ValueError, match="None of the 3 documents has a word"):
        fitted(sp.csr_array((3, 4)), shards=2)


# ------------------------------------------------------------------ the usual things


def test_callback_and_settings() -> None:
    seen: list[Any] = []

    def callback(progress: Any) -> bool:
        seen.append(progress)
        return progress.version == 3

    X = corpus()
    result = fitted(X, shards=2, max_iter=50, callback=callback)
    assert result.status == "callback" and result.n_m_steps == len(seen) == 3
    counts, bound = by_blocks(X, 2, 1, 3)
    np.testing.assert_allclose(counts_of(result, X), counts, rtol=1e-10)
    assert result.log_likelihood == pytest.approx(bound) == result.trace.lower_bound[-1]
    assert result.settings["topology"] == "Rotation(wait='barrier')"
    assert result.settings["rebuilds"] == 2 and result.settings["extra updates"] == 0


@pytest.mark.parametrize("transport", ["local", "simulated"])
def test_deadline(transport: str) -> None:
    X = corpus()
    chosen: Any = Simulated(2, cost=0.1) if transport == "simulated" else transport
    result = fitted(X, transport=chosen, shards=2, deadline=0.5, max_iter=10**6)
    assert result.status == "deadline" and result.n_m_steps > 0
    if transport == "simulated":  # of 0.05 virtual seconds each, and a rebuild
        assert 7 <= result.n_m_steps <= 10
        bound = by_blocks(X, 2, 1, result.n_m_steps)[1]
        assert result.log_likelihood == pytest.approx(bound)


def test_checkpoint(tmp_path: Any) -> None:
    """Go on with another number of nodes; documents are found out anew."""
    X = corpus(200, 60)
    first = fitted(X, shards=3, max_iter=30, checkpoint=tmp_path)
    then = fitted(X, shards=2, max_iter=31, checkpoint=tmp_path, resume=True)
    assert then.resumed_from == str(tmp_path) and then.n_m_steps == 31
    assert len(then.trace) == 1
    gained = first.log_likelihood - first.trace.lower_bound_before[0]
    assert then.trace.lower_bound_before[0] > first.log_likelihood - 0.05 * gained
    with pytest.raises(ValueError, match="is of another fit"):
        fitted(X, RotatingTopicModel(K + 1), checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"topology": "all_pairs"}, "RotatingTopicModel is for topology='rotation'"),
        ({"transport": Simulated(2, loss=0.1)}, "for fits with a manager only"),
        ({"model": LexiconModel()}, "LexiconModel exchanges statistics, and Rotation"),
    ],
    ids=["topology", "lossy", "model"],
)
def test_bad_arguments(settings: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        fitted(corpus(), **{"shards": 2} | settings)
    assert "\n" not in str(caught.value)


def test_one_stage() -> None:
    with pytest.raises(ValueError, match="one stage"):
        fit_peers([Stage(MODEL, 1)] * 2, as_corpus(corpus()), topology="rotation")


def test_other_topologies_are_simulated_too() -> None:
    """Messages take their time, and so do E-steps."""
    stage = Stage(LexiconModel(), 5)
    known = fit_peers([stage], Pairs(bitext(40)), transport="local", shards=4)
    sim = Simulated(4, cost=4.0, speeds=[1, 1, 1, 0.5], latency=0.25)
    result = fit_peers(
        [stage], Pairs(bitext(40)), transport=sim, topology="all_pairs", seed=0
    )
    assert result.log_likelihood == pytest.approx(known.log_likelihood, rel=1e-9)
    # a second for the slower worker's E-step twice, latency of a round, and of 2 ways
    np.testing.assert_allclose(np.diff(result.trace.time), 2.0 + 0.25 + 0.5)
    assert sim.timeline.waiting()["worker-3"] < sim.timeline.waiting()["worker-0"]
