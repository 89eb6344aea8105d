"""Communities of made-up and of real networks, and what they say of links."""

import asyncio
import itertools
import os
import pickle
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from dask_em.estimators.mixed_membership_network import MixedMembershipNetwork
from dask_em.networks import Edges, Network

N, K = 90, 3
GROUP = np.arange(N) % K


def planted(directed=False, seed=0):
    """Return a network with three groups; the first nodes are half in another."""
    rng = np.random.default_rng(seed)
    theta = np.eye(K)[GROUP]
    theta[:3] = (theta[:3] + np.roll(theta[:3], 1, axis=1)) / 2
    theta = 0.02 + 0.8 * theta * rng.uniform(0.5, 1.5, (N, 1))
    into = np.roll(theta, 1, axis=0) if directed else theta
    A = rng.poisson(theta @ into.T).astype(float)
    if not directed:
        A = np.triu(A, 1) + np.triu(A, 1).T
    return A


A, D = planted(), planted(directed=True)


def network(**settings):
    settings = {"n_init": 3, "random_state": 0} | settings
    return MixedMembershipNetwork(K, **settings)


@pytest.fixture(scope="module")
def fitted():
    return network().fit(A)


@pytest.fixture(scope="module")
def directed():
    return network(directed=True, smoothing=0.1).fit(D)


def real(name):
    if "DASK_EM_DATA" not in os.environ:
        pytest.skip("DASK_EM_DATA is not set")
    return Path(os.environ["DASK_EM_DATA"]) / "topics" / name


# ---------------------------------------------------------------------- networks


def test_groups_are_found(fitted):
    assert normalized_mutual_info_score(GROUP[3:], fitted.labels_[3:]) > 0.95
    memberships = fitted.memberships_
    np.testing.assert_allclose(memberships.sum(axis=1), 1)
    assert memberships[3:].max(axis=1).mean() > 0.9
    assert memberships[:3].max(axis=1).mean() < 0.8
    assert fitted.converged_
    assert fitted.n_iter_ <= 500
    assert np.diff(fitted.lower_bounds_).min() > -1e-9
    assert fitted.nodes_.tolist() == list(range(N))
    assert fitted.n_features_in_ == N


def test_directed_groups_are_found(directed):
    # links go from a group to the next one
    labels = directed.out_memberships_.argmax(axis=1)
    assert normalized_mutual_info_score(GROUP[3:], labels[3:]) > 0.9
    arriving = directed.in_memberships_.argmax(axis=1)
    assert normalized_mutual_info_score(GROUP[4:], arriving[4:]) > 0.9
    assert np.mean(arriving[4:] == labels[3:-1]) > 0.9


@pytest.mark.data
def test_political_blogs():
    labels = np.loadtxt(real("labels.polblogs.txt.gz"))
    model = MixedMembershipNetwork(2, n_init=5, random_state=0)
    model.fit(real("edges.polblogs.txt.gz"))
    assert model.nodes_.tolist() == list(range(1224))
    assert normalized_mutual_info_score(labels, model.labels_) >= 0.70


@pytest.mark.data
def test_links_of_blogs_that_were_kept():
    edges = np.loadtxt(real("edges.polblogs.txt.gz"), dtype=int)
    rng, nodes = np.random.default_rng(0), np.arange(1224)
    kept = rng.random(len(edges)) < 0.1
    known = sp.coo_array((np.ones(len(edges)), edges.T), shape=(1224, 1224)).toarray()
    others = np.sort(rng.integers(0, 1224, (5000, 2)), axis=1)
    absent = (known[tuple(others.T)] == 0) & (others[:, 0] != others[:, 1])
    others = others[absent][: kept.sum()]
    pairs = np.concatenate([edges[kept], others])
    present = np.arange(len(pairs)) < kept.sum()
    degrees = np.bincount(edges[~kept].ravel(), minlength=1224)
    by_degree = roc_auc_score(present, degrees[pairs].prod(axis=1))
    model = MixedMembershipNetwork(4, smoothing=0.1, n_init=1, random_state=0)
    model.fit(Edges(*edges[~kept].T, nodes=nodes))
    assert model.score_links(pairs, present) > by_degree + 0.03


@pytest.mark.data
def test_monks():
    """Whom monks liked best, at three times (Sampson, 1968).

    The matrices have the monks in the order of Sampson's numbers: those who like each
    other as Basil, Amand, Elias and Simplicius do are 3, 13, 17 and 18. The groups are
    those of White, Boorman and Breiger (1976), American Journal of Sociology 81.
    """
    loyal = [4, 5, 6, 8, 9, 10, 11]  # Peter, Bonaventure, Berthold, Victor, ...
    turks = [1, 2, 7, 12, 14, 15, 16]  # John, Gregory, Mark, Winfrid, Hugh, ...
    outcasts = [3, 13, 17, 18]
    names = [f"adj.sampson-SAMPLK{time}.txt.gz" for time in (1, 2, 3)]
    likes = sum(np.loadtxt(real(name)) for name in names)
    for seed in range(3):
        model = MixedMembershipNetwork(3, random_state=seed).fit(likes + likes.T)
        found = {tuple(np.flatnonzero(model.labels_ == k) + 1) for k in range(3)}
        assert found == {tuple(loyal), tuple(turks), tuple(outcasts)}


# --------------------------------------------------------------- what is computed


def test_score_is_the_bound(fitted, directed):
    lazy = da.from_array(A, chunks=(40, N))
    for X in (A, sp.csr_array(A), lazy):
        assert fitted.score(X) == pytest.approx(fitted.lower_bound_, rel=1e-12)
    unsmoothed = network(directed=True).fit(D)
    assert unsmoothed.score(D) == pytest.approx(unsmoothed.lower_bound_, rel=1e-12)
    assert directed.score(D) < unsmoothed.score(D)
    assert directed.score(D) > directed.lower_bound_  # which has the prior in it


def test_expected_links(fitted, directed):
    pairs = [(0, 5), (5, 0), (7, 7)]
    theta = fitted.affinities_
    wanted = [theta[0] @ theta[5], theta[0] @ theta[5], theta[7] @ theta[7] / 2]
    np.testing.assert_allclose(fitted.expected_links(pairs), wanted)
    np.testing.assert_allclose(
        fitted.link_probability(pairs), 1 - np.exp(-np.r_[wanted])
    )
    one_way = directed.affinities_ @ directed.in_affinities_.T
    found = directed.expected_links(pairs)
    np.testing.assert_allclose(found, [one_way[0, 5], one_way[5, 0], one_way[7, 7]])
    # as many links as there are
    upper = np.transpose(np.triu_indices(N))
    assert fitted.expected_links(upper).sum() == pytest.approx(A.sum() / 2)
    assert fitted.community_links_.sum() == pytest.approx(A.sum() / 2)
    assert one_way.sum() == pytest.approx(D.sum())
    assert directed.community_links_.sum() == pytest.approx(D.sum())
    everything = np.transpose(np.nonzero(np.ones((N, N))))
    auc = roc_auc_score(D.ravel() > 0, one_way.ravel())
    assert directed.score_links(everything, D.ravel() > 0) == pytest.approx(auc)


def test_names_of_any_kind():
    ring = [0, "a", (1, 2), (1, 3)]  # are no array, and no pairs of numbers
    nodes = np.empty(4, object)
    nodes[:] = ring
    A = np.roll(np.eye(4), 1, axis=0)
    model = (
        network()
        .set_params(n_components=2)
        .fit(Network(sp.csr_array(A + A.T), nodes=nodes))
    )
    found = model.expected_links([*itertools.pairwise(ring)])
    theta = model.affinities_
    np.testing.assert_allclose(found, np.sum(theta[:-1] * theta[1:], axis=1))


def test_new_nodes_with_the_links_of_old_ones_have_their_shares(fitted, directed):
    # the best shares of a node, given all others, are those that EM ends with
    found = fitted.transform(A)
    np.testing.assert_allclose(found, fitted.memberships_, atol=0.03)
    np.testing.assert_allclose(
        directed.transform(D), directed.out_memberships_, atol=0.03
    )
    lazy = da.from_array(A, chunks=(40, N)).map_blocks(sp.csr_array, dtype=float)
    for X in (da.from_array(A, chunks=(40, N)), lazy):
        there = fitted.transform(X)
        assert there.chunks == ((40, 40, 10), (K,))
        np.testing.assert_allclose(there.compute(), found, rtol=1e-12)
    np.testing.assert_allclose(fitted.transform(sp.coo_array(A)), found, rtol=1e-12)
    labels = fitted.predict(sp.csr_matrix(A[3:]))
    np.testing.assert_array_equal(labels, found[3:].argmax(axis=1))
    np.testing.assert_allclose(fitted.transform(np.zeros((1, N))), 1 / K)


def test_nodes_without_links():
    lonely = np.pad(A, (0, 2))
    for smoothing in (0.0, 0.2):
        model = network(smoothing=smoothing).fit(lonely)
        np.testing.assert_allclose(model.memberships_[N:], 1 / K)
        assert model.labels_[N:].tolist() == [-1, -1]
        assert model.labels_[:N].min() == 0
    one_way = np.zeros((3, 3))
    one_way[0, 1] = one_way[1, 0] = one_way[0, 2] = 1
    model = MixedMembershipNetwork(1, directed=True, random_state=0).fit(one_way)
    assert model.labels_.tolist() == [0, 0, 0]
    assert model.expected_links([(2, 0)])[0] == 0


# ------------------------------------------------------------------- where it runs


@pytest.mark.cluster
def test_a_cluster_finds_the_same(client):
    settings = {"smoothing": 0.2, "tol": 1e-4, "n_init": 1}
    here = network(transport="local", **settings).fit(A)
    lazy = da.from_array(A, chunks=(30, N)).map_blocks(sp.csr_array, dtype=float)
    for schedule, X in (("synchronous", A), ("bounded_staleness", lazy)):
        model = network(schedule=schedule, shards=6, **settings).fit(X)
        assert "Futures" in model.result_.settings["transport"]
        assert model.lower_bound_ == pytest.approx(here.lower_bound_, rel=2e-3)
        assert normalized_mutual_info_score(model.labels_, here.labels_) > 0.9
    assert model.score(lazy) == pytest.approx(model.score(A), rel=1e-12)


@pytest.mark.cluster
def test_an_asynchronous_client(fitted, cluster):
    from distributed import Client

    async def fit():
        async with Client(cluster.scheduler_address, asynchronous=True):
            model = network(shards=2, n_init=1, tol=1e-4)
            labels = await model.fit_predict(A)
            with pytest.raises(TypeError, match="asynchronous client cannot"):
                fitted.score(da.from_array(A, chunks=(40, N)))
            return labels

    found = asyncio.run(fit())
    assert normalized_mutual_info_score(found, fitted.labels_) > 0.9


def test_fits_repeat_and_are_the_same_for_any_kind_of_input(fitted):
    edges = np.transpose(np.nonzero(np.triu(A)))
    edges = np.column_stack([edges, A[tuple(edges.T)]])
    for X in (A, sp.coo_array(A), edges, da.from_array(A, chunks=(50, N))):
        found = network(shards=1).fit_transform(X)
        np.testing.assert_allclose(found, fitted.memberships_, atol=1e-6)
    names = np.array([f"n{i:02d}" for i in range(N)])
    i, j = edges[:, :2].T.astype(int)
    named = network().fit(Edges(names[i], names[j], edges[:, 2]))
    assert named.nodes_.tolist() == names.tolist()
    pair = [("n05", "n08")]
    np.testing.assert_allclose(
        named.expected_links(pair), fitted.expected_links([(5, 8)]), atol=1e-6
    )


# ------------------------------------------------------------------------- manners


@pytest.mark.parametrize(
    "check",
    [
        check_get_params_invariance,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
    ],
)
def test_manners_of_scikit_learn(check):
    check("MixedMembershipNetwork", MixedMembershipNetwork())


def test_clones_pickles_and_parameters_stay(fitted):
    again = clone(fitted).fit(A)
    np.testing.assert_array_equal(again.memberships_, fitted.memberships_)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.transform(A), fitted.transform(A))
    assert copy.get_params() == fitted.get_params()
    assert fitted.__sklearn_tags__().input_tags.pairwise


def test_a_failed_fit_changes_nothing():
    model = network().fit(A)
    before = pickle.dumps(model.__dict__["memberships_"]), set(model.__dict__)
    bad = A.copy()
    bad[0, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.fit(bad)
    assert before == (pickle.dumps(model.memberships_), set(model.__dict__))


def test_checkpoint(tmp_path):
    with pytest.warns(ConvergenceWarning):
        network(max_iter=3, n_init=1, checkpoint=tmp_path).fit(A)
    model = network(n_init=1, checkpoint=tmp_path, resume=True).fit(A)
    assert model.result_.resumed_from is not None
    assert model.converged_
    with pytest.raises(ValueError, match="of another fit"):
        network(n_init=1, checkpoint=tmp_path, resume=True).fit(A[::-1, ::-1])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components"),
        ({"n_components": 1.5}, TypeError, "n_components"),
        ({"directed": "yes"}, TypeError, "directed must be True or False"),
        ({"smoothing": -0.1}, ValueError, "smoothing must be"),
        ({"smoothing": "some"}, TypeError, "smoothing must be"),
        ({"n_init": 0}, ValueError, "n_init"),
        ({"tol": -1}, ValueError, "tol"),
        ({"tol": None}, TypeError, "tol must be a number"),
        ({"verbose_interval": 0}, ValueError, "verbose_interval"),
    ],
)
def test_parameters_that_make_no_sense(settings, error, message):
    with pytest.raises(error, match=message):
        network().set_params(**settings).fit(A)


def test_mistakes(fitted):
    with pytest.raises(NotFittedError):
        network().transform(A)
    with pytest.raises(ValueError, match=r"pass A \+ A.T, or directed=True"):
        network().fit(D)
    with pytest.raises(ValueError, match="must be square"):
        network().fit(A[:10])
    with pytest.raises(ValueError, match="column for each of the 90 nodes"):
        fitted.transform(A[:, :10])
    with pytest.raises(ValueError, match="column for each of the 90 nodes"):
        fitted.transform(da.from_array(A[:, :10]))
    with pytest.raises(ValueError, match="chunked along nodes"):
        fitted.transform(da.from_array(A, chunks=(N, 10)))
    with pytest.raises(ValueError, match="must not be negative"):
        fitted.transform(-A)
    with pytest.raises(ValueError, match="must have the shape"):
        fitted.expected_links([1, 2, 3])
    with pytest.raises(ValueError, match="90 is not a node"):
        fitted.expected_links([(0, 90)])
    with pytest.raises(ValueError, match="other nodes than the 90 of the fit"):
        fitted.score(A[1:, 1:])
    with pytest.raises(ValueError, match="nodes has a link"):
        fitted.score(0 * A)
    for lazy in (False, True):
        for bad, message in ((-A, "negative"), (A * np.nan, "NaN"), (D, "transpose")):
            with pytest.raises(ValueError, match=message):
                fitted.score(da.from_array(bad, chunks=(40, N)) if lazy else bad)
