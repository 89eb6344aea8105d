"""Topologies bring everybody the sums they need, and send what the formulas say."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_em.testing import check_topology
from dask_em.topologies import (
    AllPairs,
    JunctionTree,
    MapReduce,
    Network,
    OwnerSharded,
    Sharing,
    Star,
    Topology,
    Tree,
    make_plan,
    named_topology,
)
from dask_em.topologies.base import Round
from dask_em.topologies.spanning_tree import _maximum_spanning_tree

TOPOLOGIES: list[Topology | str] = [
    MapReduce(),
    AllPairs(),
    OwnerSharded(),
    JunctionTree(),
    JunctionTree("best"),
    Star(),
    Tree(1),
    Tree(2),
    Tree(3),
    "auto",
]


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
@pytest.mark.parametrize("n_nodes", [1, 2, 3, 4, 8, 20])
def test_promises(topology: Any, n_nodes: int) -> None:
    for seed in range(3):
        check_topology(topology, n_nodes=n_nodes, seed=seed)


def random_tree(rng: np.random.Generator, n_nodes: int) -> tuple[tuple[int, int], ...]:
    """Return the edges of a tree, in any order and direction, with any numbering."""
    name = rng.permutation(n_nodes)
    edges = [(name[k], name[rng.integers(k)]) for k in range(1, n_nodes)]
    edges = [e[::-1] if rng.random() < 0.5 else e for e in edges]
    return tuple(
        (int(edges[i][0]), int(edges[i][1])) for i in rng.permutation(len(edges))
    )


@given(
    st.sampled_from([*TOPOLOGIES, "hub", "edges"]),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_promises_at_random(topology: Any, n_nodes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if topology == "hub":
        topology = Star(int(rng.integers(n_nodes)))
    elif topology == "edges":
        topology = JunctionTree(random_tree(rng, n_nodes))
    check_topology(topology, n_nodes=n_nodes, seed=seed)


# ------------------------------------------------------------ what the check notices


class Broken(OwnerSharded):
    """Owners in two rounds, with a fault."""

    def __init__(self, fault: str) -> None:
        object.__setattr__(self, "fault", fault)

    def rounds(self, n_nodes: int) -> tuple[Round, ...]:
        found = super().rounds(n_nodes)
        if self.fault == "one round":
            return found[:1]
        if self.fault == "adds twice":
            return found[0], Round(found[1].links, "add")
        return found

    def travels(self, step: int, src: int, dst: int, sharing: Sharing) -> Any:
        if self.fault == "all":
            return np.ones(len(sharing.counts), dtype=bool)
        found = super().travels(step, src, dst, sharing)
        if self.fault == "by position":
            return found & (np.arange(len(found)) % 5 > 0)
        return found


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("one round", "complete sums"),
        ("adds twice", "complete sums"),
        ("all", "not held"),
        ("by position", "cannot tell"),
    ],
)
def test_faults_are_noticed(fault: str, complaint: str) -> None:
    check_topology(Broken(""))
    with pytest.raises(AssertionError, match=complaint):
        check_topology(Broken(fault))


# -------------------------------------------------------------------------- formulas


def supports(n_nodes: int, seed: int, n_ids: int = 300) -> list[Any]:
    """Return ids of each node; some nodes need many, and some ids are in demand."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.5, 1.0, (n_ids, 1)) * rng.uniform(0.3, 1.0, n_nodes)
    needs = rng.random((n_ids, n_nodes)) < chance
    return [np.flatnonzero(needs[:, k]) for k in range(n_nodes)]


def degrees(found: list[Any]) -> Any:
    return np.unique(np.concatenate(found), return_counts=True)[1]


def steiner_edges(edges: Any, terminals: set[int]) -> int:
    """Count the edges that are left when leaves that nobody needs are pruned."""
    left = {frozenset(e) for e in edges}
    while True:
        ends = [k for e in left for k in e]
        useless = {k for k in ends if ends.count(k) == 1} - terminals
        if not useless:
            return len(left) if len(terminals) > 1 else 0
        left = {e for e in left if not e & useless}


CASES = [(n, seed) for n in (2, 3, 4, 7, 11) for seed in range(2)]


@pytest.mark.parametrize(("n_nodes", "seed"), CASES)
def test_formulas(n_nodes: int, seed: int) -> None:
    found = supports(n_nodes, seed)
    r, sharing = degrees(found), Sharing.of(found)

    def total(topology: Any, width: int = 1) -> int:
        return make_plan(topology, sharing, width=width).total

    bound = 2 * int((r - 1).sum())
    assert sharing.lower_bound == bound
    assert total(MapReduce()) == 2 * r.sum()
    assert total(AllPairs()) == (r * (r - 1)).sum()
    assert total(OwnerSharded()) == bound
    assert total(OwnerSharded(), width=3) == 3 * bound
    for hub in range(n_nodes):
        here = np.isin(np.unique(np.concatenate(found)), found[hub])
        assert total(Star(hub)) == 2 * (r - here)[r > 1].sum()


@pytest.mark.parametrize(("n_nodes", "seed"), CASES)
def test_trees_send_along_steiner_trees(n_nodes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = supports(n_nodes, seed, 80)
    sharing = Sharing.of(found)
    (maximum,) = JunctionTree().candidates(n_nodes, sharing.overlaps)
    trees = [Star(n_nodes - 1), Tree(1), Tree(2), Tree(3), maximum]
    trees += [JunctionTree(random_tree(rng, n_nodes)) for _ in range(3)]
    who = [set(np.flatnonzero(row)) for row in sharing.members]
    for tree in trees:
        edges = tree.edges(n_nodes)  # type: ignore[attr-defined]
        wanted = [steiner_edges(edges, needs) for needs in who]
        plan = make_plan(tree, sharing)
        assert plan.total == 2 * sum(wanted)
        # a tree is walked up and down, and hangs at its centre
        assert len(plan.rounds) == 2 * radius(edges, n_nodes)


def radius(edges: Any, n_nodes: int) -> int:
    far = np.full((n_nodes, n_nodes), n_nodes)
    np.fill_diagonal(far, 0)
    for i, j in edges:
        far[i, j] = far[j, i] = 1
    for k in range(n_nodes):
        far = np.minimum(far, far[:, [k]] + far[[k]])
    return int(far.max(axis=1).min())


def all_trees(n_nodes: int) -> list[Any]:
    every = list(itertools.combinations(range(n_nodes), 2))
    return [
        tree
        for tree in itertools.combinations(every, n_nodes - 1)
        if len(joined(tree, n_nodes)) == 1
    ]


def joined(edges: Any, n_nodes: int) -> set[int]:
    label = list(range(n_nodes))
    for i, j in edges:
        label = [label[i] if c == label[j] else c for c in label]
    return set(label)


@pytest.mark.parametrize("n_nodes", [4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_maximum_spanning_tree(n_nodes: int, seed: int) -> None:
    trees = all_trees(n_nodes)
    assert len(trees) == n_nodes ** (n_nodes - 2)  # Cayley
    overlaps = Sharing.of(supports(n_nodes, seed)).overlaps

    def weight(tree: Any) -> int:
        return sum(overlaps[i, j] for i, j in tree)

    assert weight(_maximum_spanning_tree(overlaps)) == max(map(weight, trees))


@pytest.mark.parametrize("seed", range(5))
def test_a_junction_tree_is_found_where_there_is_one(seed: int) -> None:
    """Nodes along a hidden chain; each id is needed by a run of them."""
    rng = np.random.default_rng(seed)
    n_nodes = int(rng.integers(3, 9))
    chain = rng.permutation(n_nodes)
    edges = np.sort(rng.integers(0, n_nodes, (200, 2)), axis=1)
    edges = np.concatenate([edges, [(k, k + 1) for k in range(n_nodes - 1)]])
    needs = [
        np.flatnonzero((edges[:, 0] <= k) & (k <= edges[:, 1])) for k in range(n_nodes)
    ]
    sharing = Sharing.of([needs[chain[k]] for k in range(n_nodes)])
    plan = make_plan(JunctionTree(), sharing)
    assert plan.total == plan.lower_bound
    assert not any(plan.carried)


@pytest.mark.parametrize(("n_nodes", "seed"), CASES)
@pytest.mark.parametrize(
    "network", [Network(), Network(latency=0, bandwidth=1e4, per_message=0)]
)
def test_best_and_auto_are_never_dearer(n_nodes: int, seed: int, network: Any) -> None:
    sharing = Sharing.of(supports(n_nodes, seed))

    def seconds(topology: Any) -> float:
        return network.seconds(make_plan(topology, sharing, network=network))

    assert seconds(JunctionTree("best")) <= seconds(JunctionTree())
    others = [MapReduce(), AllPairs(), OwnerSharded(), JunctionTree("best")]
    assert seconds("auto") <= min(map(seconds, others))


@pytest.mark.parametrize("seed", range(4))
def test_sharing(seed: int) -> None:
    n_nodes = 9  # two bytes of memberships
    found = supports(n_nodes, seed)
    sharing = Sharing.of(found)
    sets = [set(map(int, s)) for s in found]
    assert sharing.n_statistics == len(set().union(*sets))
    assert sharing.support.tolist() == list(map(len, sets))
    for i, j in itertools.product(range(n_nodes), repeat=2):
        others = set().union(*(s for k, s in enumerate(sets) if k != i))
        wanted = sets[i] & (others if i == j else sets[j])
        assert sharing.overlaps[i, j] == len(wanted)
    assert sharing.members[np.arange(len(sharing.owner)), sharing.owner].all()
    less = sharing.summarised()
    assert len(less.counts) < len(sharing.counts)
    for name in ("n_statistics", "lower_bound"):
        assert getattr(less, name) == getattr(sharing, name)
    assert (less.overlaps == sharing.overlaps).all()
    assert (less.support == sharing.support).all()
    plans = [make_plan(OwnerSharded(), s) for s in (less, sharing)]
    assert plans[0] == plans[1]


def test_owners_have_equal_shares() -> None:
    sharing = Sharing.of([np.arange(20_000)] * 5)
    shares = np.bincount(sharing.owner, minlength=5)
    assert abs(shares - 4000).max() < 300  # five standard deviations
    plan = make_plan(OwnerSharded(), sharing)
    assert plan.busiest < 1.05 * 2 * plan.total / 5


# ------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("topology", "complaint"),
    [
        (JunctionTree([(0, 1), (1, 2), (2, 0)]), "3 edges do not make a tree on 4"),
        (JunctionTree([(0, 1), (0, 1), (2, 3)]), "3 edges do not make a tree on 4"),
        (JunctionTree([(0, 1), (1, 2)]), "a tree has 3 and reaches every node"),
        (JunctionTree([(0, 1), (1, 2), (3, 3)]), "do not make a tree"),
        (JunctionTree([(0, 1), (1, 2), (2, 4)]), r"edge \(2, 4\), but nodes are"),
        (JunctionTree([(0, 1), (1, 2), (-1, 3)]), "numbered from 0 to 3"),
        (Star(4), "hub"),
        (Star(-1), "hub"),
    ],
    ids=str,
)
def test_topologies_that_do_not_suit(topology: Any, complaint: str) -> None:
    sharing = Sharing.of([np.arange(5)] * 4)
    with pytest.raises(ValueError, match=complaint) as caught:
        make_plan(topology, sharing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: named_topology("ring"), "must be one of 'auto', 'map_reduce'"),
        (lambda: named_topology(3), "got 3"),  # type: ignore[arg-type]
        (lambda: named_topology(Star), r"call it: Star\(\)"),  # type: ignore[arg-type]
        (lambda: JunctionTree("minimum"), "'maximum', 'best' or a sequence"),
        (lambda: Tree(0), "fan_in must be at least 1, got 0"),
        (lambda: JunctionTree(3), "tree must be"),  # type: ignore[arg-type]
        (lambda: JunctionTree([(0, 1, 2)]), "tree must be"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
