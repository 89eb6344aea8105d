"""Which slice is where, how columns are dealt out, and where blocks are kept."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from dask_em.peers.blocks import Store
from dask_em.peers.cells import slices_of
from dask_em.peers.patience import Patience
from dask_em.topologies import Rotation, Sharing, make_plan
from dask_em.topologies.rotation import rotation_plan


@pytest.mark.parametrize("n_nodes", [1, 2, 5])
@pytest.mark.parametrize("per_node", [1, 3])
def test_every_block_once(n_nodes: int, per_node: int) -> None:
    """In a sub-epoch all have different slices, and in a pass each has had each."""
    rotation = Rotation(slices_per_node=per_node)
    order = np.array(rotation.sub_epochs(n_nodes))
    assert order.shape == (n_nodes * per_node, n_nodes)
    for slices in order:
        assert len(set(slices)) == n_nodes
    for slices in order.T:
        assert sorted(slices) == list(range(n_nodes * per_node))


@pytest.mark.parametrize("n_nodes", [2, 5])
def test_the_ring_brings_what_is_next(n_nodes: int) -> None:
    rotation = Rotation()
    order = rotation.sub_epochs(n_nodes)
    for now, then in zip(order, (*order[1:], order[0]), strict=True):
        assert all(now[src] == then[dst] for src, dst in rotation.ring(n_nodes))
    assert Rotation().ring(1) == ()


@pytest.mark.parametrize("n_slices", [1, 3, 8, 60])
def test_slices_are_balanced(n_slices: int) -> None:
    sizes = np.random.default_rng(0).zipf(1.5, 2000) % 1000
    slice_of, place = slices_of(sizes, n_slices)
    assert np.array_equal(slice_of < 0, sizes == 0)
    lengths = [np.count_nonzero(slice_of == j) for j in range(n_slices)]
    assert max(lengths) - min(lengths) <= 1
    weights = np.bincount(slice_of[sizes > 0], weights=sizes[sizes > 0])
    assert weights.max() - weights.min() <= sizes.max()
    for j, length in enumerate(lengths):
        assert place[slice_of == j].tolist() == list(range(length))


def test_plan() -> None:
    plan = rotation_plan(Rotation(), [4, 3, 3], 3, 2, lower_bound=30)
    assert plan.n_statistics == 11 and plan.support == (4, 3, 3)
    assert plan.total == 3 * 10 * 2  # each of three sub-epochs moves all there is
    assert plan.sent.tolist() == [20, 20, 20, 0]
    assert plan.explain().startswith("Rotation(): asked for.\n3 nodes, 11 statistics")


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"wait": "never"}, ValueError, "wait must be one of 'barrier'"),
        ({"max_extra": -1}, ValueError, "max_extra"),
        ({"max_staleness": 2}, ValueError, "max_staleness is for wait='neighbours'"),
        ({"slices_per_node": 0}, ValueError, "slices_per_node"),
        ({"in_memory": "much"}, ValueError, "in_memory must be 'auto'"),
        ({"in_memory": 1.5}, TypeError, "in_memory"),
    ],
    ids=str,
)
def test_bad_settings(settings: Any, error: Any, complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        Rotation(**settings)


def test_it_plans_no_exchange() -> None:
    with pytest.raises(ValueError, match="moves parameters"):
        make_plan("rotation", Sharing.of([np.arange(3), np.arange(2)]))


# ------------------------------------------------------------------------- the store


def test_store(tmp_path: Any) -> None:
    """What does not fit is in files, and all come back as they were."""
    store = Store(250, str(tmp_path))
    known = {i: (np.arange(10.0) + i, np.arange(2) - i) for i in range(4)}
    for _ in range(2):
        for name, arrays in known.items():
            store.put(name, *arrays)
    assert store.n_files == 2 * 2  # two groups of 96 bytes fit
    for name, arrays in known.items():
        found = store.get(name)
        assert found is not None
        for a, b in zip(found, arrays, strict=True):
            assert np.array_equal(a, b) and a.dtype == b.dtype
    assert store.get("other") is None
    store.drop(3)
    store.drop(0)
    store.put("other", np.zeros(12))
    assert store.n_files == 2
    [folder] = os.listdir(tmp_path)
    assert len(os.listdir(tmp_path / folder)) == 2
    store.close()
    assert not os.listdir(tmp_path)


def test_nobody_begins_what_others_would_wait_for() -> None:
    patience = Patience()
    assert not patience.pays(0, 0.0, 1.0)  # nothing is known
    patience.waited(0, 3.0)
    assert patience.pays(0, 0.0, 1.0) and patience.pays(0, 2.0, 1.0)
    assert not patience.pays(0, 2.5, 1.0) and not patience.pays(1, 0.0, 1.0)
    patience.waited(0, 0.0)
    assert not patience.pays(0, 1.0, 1.0)
