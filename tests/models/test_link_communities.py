"""Link communities against EM written out, Poisson's law and scikit-learn's NMF."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import gammaln
from scipy.stats import poisson
from sklearn.decomposition import NMF

from dask_em import fit_em
from dask_em.model import Block
from dask_em.models.link_communities import LinkCommunityModel
from dask_em.models.link_memberships import log_likelihood
from dask_em.networks import as_network
from dask_em.testing import SCHEDULES, assert_monotone, check_model

N, K = 60, 2
NUMBERS = np.arange(N)


def planted(directed, seed=0, inside=1.0):
    """Return a network with two groups, nodes of many sizes, and links to oneself."""
    rng = np.random.default_rng(seed)
    size, group = rng.gamma(2.0, 0.5, N), NUMBERS % K
    rates = np.where(group[:, None] == group, inside, 0.02) * np.outer(size, size)
    A = rng.poisson(rates).astype(float)
    A[7], A[:, 7] = 0, 0  # nobody's friend
    if not directed:
        A = np.triu(A)
        A += A.T
    return A


def fitted(model, A, **settings):
    settings = {"random_state": 0, "tol": 0, "max_iter": 5} | settings
    return fit_em(model, as_network(A, directed=model.directed).data(), **settings)


def by_hand(A, params, directed, b):
    """Make a step of EM with all posteriors in one array, as the paper writes it."""
    leaving, arriving = params.affinities()
    joint = leaving[:, None, :] * arriving[None, :, :]
    rates = joint.sum(axis=2)
    shared = A[:, :, None] * joint / np.where(rates > 0, rates, 1)[:, :, None]
    likelihood = (
        0.5
        * (1 + directed)
        * (np.sum(A * np.log(np.where(A > 0, rates, 1))) - rates.sum())
    )
    prior = b * np.log(leaving / leaving.sum(axis=0)).sum() if b else 0.0
    if directed:
        if b:
            prior += b * np.log(arriving / arriving.sum(axis=0)).sum()
        new = np.concatenate([shared.sum(axis=1), shared.sum(axis=0)])
        return new, likelihood + prior
    likelihood -= np.log(2) * np.trace(A) / 2  # a loop can be found at one end only
    return shared.sum(axis=1), likelihood + prior


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("directed", [False, True])
def test_steps_are_those_of_the_paper(directed, smoothing):
    A = planted(directed)
    model = LinkCommunityModel(3, directed, smoothing)
    for passes in (1, 4):
        result = fitted(model, A, shards=3, max_iter=passes)
        further = fitted(model, A, start=result.params, max_iter=1)
        counts, bound = by_hand(A, result.params, directed, smoothing)
        np.testing.assert_allclose(further.params.counts, counts, atol=1e-10)
        links = counts[:N].sum(axis=0) / (1 if directed else 2)
        np.testing.assert_allclose(further.params.totals, links, rtol=1e-10)
        assert result.log_likelihood == pytest.approx(bound, rel=1e-12)
        assert further.trace.lower_bound_before[0] == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("directed", [False, True])
def test_the_bound_is_the_likelihood_of_poisson_numbers(directed):
    A = planted(directed)
    result = fitted(LinkCommunityModel(3, directed), A)
    leaving, arriving = result.params.affinities()
    rates = leaving @ arriving.T
    if directed:
        pairs, numbers = rates.ravel(), A.ravel()
    else:
        upper = np.triu_indices(N, 1)
        pairs = np.concatenate([rates[upper], np.diag(rates) / 2])
        numbers = np.concatenate([A[upper], np.diag(A) / 2])
    possible = pairs > 0
    assert (numbers[~possible] == 0).all()
    logs = poisson.logpmf(numbers[possible], pairs[possible]).sum()
    logs += gammaln(numbers + 1).sum()
    assert result.log_likelihood == pytest.approx(logs, rel=1e-12)
    assert result.weight == numbers.sum()
    found = log_likelihood(sp.csr_array(A), 0, leaving, arriving, directed)
    assert found - pairs.sum() == pytest.approx(logs, rel=1e-12)


def test_directed_is_factorisation_by_divergence():
    A = planted(True)
    nmf = NMF(3, beta_loss="kullback-leibler", solver="mu", init="random", tol=1e-8)
    nmf.set_params(random_state=0, max_iter=5000)
    W = nmf.fit_transform(A)
    H, logs = nmf.components_, A[A > 0] @ np.log(A[A > 0])
    wanted = logs - A.sum() - nmf.reconstruction_err_**2 / 2
    model = LinkCommunityModel(3, directed=True)
    one = fitted(model, A, max_iter=1).params
    shares = W * H.sum(axis=1), H.T * W.sum(axis=0)  # links, up to a common factor
    start = dataclasses.replace(
        one, counts=np.concatenate(shares), totals=W.sum(axis=0) * H.sum(axis=1)
    )
    result = fitted(model, A, start=start, max_iter=50)
    assert result.trace.lower_bound_before[0] == pytest.approx(wanted, rel=1e-6)
    assert result.log_likelihood == pytest.approx(wanted, rel=1e-5)
    best = fitted(model, A, n_init=10, tol=1e-7, max_iter=2000)
    assert best.log_likelihood > wanted - 1e-3 * abs(wanted)


@pytest.mark.parametrize("directed", [False, True])
def test_promises_of_a_model(directed):
    # smoothing keeps away from 0, where EM takes for ever
    model = LinkCommunityModel(K, directed, smoothing=0.3)
    check_model(model, planted(directed), y=NUMBERS, weights=False)


@pytest.mark.parametrize(
    ("schedule", "transport"),
    [(SCHEDULES[1], "simulated"), (SCHEDULES[2], "local")],
    ids=repr,
)
def test_communities_without_smoothing_under_schedules(schedule, transport):
    A = planted(False)
    model = LinkCommunityModel(K)
    start = fitted(model, A, n_init=5, max_iter=20).params
    settings = {"start": start, "tol": 1e-8, "max_iter": 2000}
    wanted = fitted(model, A, **settings)
    result = fitted(
        model, A, **settings, schedule=schedule, transport=transport, shards=7
    )
    assert_monotone(result)
    assert result.log_likelihood == pytest.approx(wanted.log_likelihood, rel=1e-5)


def test_a_shard_reports_the_nodes_that_it_touches():
    A = np.zeros((40, 40))
    A[0, 1] = A[1, 0] = A[1, 9] = A[9, 1] = 1
    A[20, 30] = A[30, 20] = 2
    model = LinkCommunityModel(2)
    block = Block(A, np.arange(40))
    summary = model.survey(block)
    params = fitted(model, A, max_iter=1).params
    links = model.prepare(block.rows(slice(0, 10)), summary)
    stats, _ = model.e_step(params, links)
    assert stats.table.ids.tolist() == [0, 1, 9]
    np.testing.assert_allclose(stats.table.rows.sum(axis=1), [1, 2, 1])
    assert links.others.counts.dtype == np.float32  # ones need no more
    rest, _ = model.e_step(params, model.prepare(block.rows(slice(10, 40)), summary))
    assert stats.totals.sum() + rest.totals.sum() == pytest.approx(4)


@pytest.mark.parametrize("directed", [False, True])
def test_one_node_and_more_communities_than_links(directed):
    result = fitted(LinkCommunityModel(3, directed), np.array([[4.0]]), max_iter=50)
    expected = result.params.totals.sum()
    assert expected == pytest.approx(4 if directed else 2)
    assert result.log_likelihood == pytest.approx(expected * (np.log(expected) - 1))


def test_mistakes():
    model, A = LinkCommunityModel(2), planted(False)
    with pytest.raises(ValueError, match=r"pass A \+ A.T, or directed=True"):
        fitted(model, planted(True))
    lopsided = A.copy()
    lopsided[3, 5] += 1
    with pytest.raises(ValueError, match="must equal its transpose"):
        fitted(model, lopsided, shards=4)
    for value, message in ((-1.0, "must not be negative"), (np.nan, "NaN or infinite")):
        bad = A.copy()
        bad[2, 4] = bad[4, 2] = value
        with pytest.raises(ValueError, match=message):
            fitted(model, bad)
    with pytest.raises(ValueError, match="None of the 60 nodes has a link"):
        fitted(model, 0 * A)
    with pytest.raises(ValueError, match=r"pass y=np.arange\(n_nodes\)"):
        fit_em(model, A)
    with pytest.raises(ValueError, match="numbered from 0"):
        fit_em(model, A, y=NUMBERS + 1)
    with pytest.raises(ValueError, match="must be square"):
        fit_em(model, A[:50], y=NUMBERS[:50])
    with pytest.raises(ValueError, match="Nodes have no weights"):
        fit_em(model, A, y=NUMBERS, sample_weight=np.ones(N))
    with pytest.raises(ValueError, match=r"for 60 nodes it must be \(60, 2\)"):
        fitted(model, A, start=fitted(LinkCommunityModel(3), A, max_iter=1).params)
    with pytest.raises(ValueError, match="at least 1"):
        LinkCommunityModel(0)
    with pytest.raises(ValueError, match="from 0 on"):
        LinkCommunityModel(2, smoothing=-1.0)
