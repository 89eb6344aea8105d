"""Gaussian mixtures made one: what does not change the result, and how good it is."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dask_em import fit_em
from dask_em.checkpoint import fingerprint_of
from dask_em.models.gaussian_mixture import (
    GaussianMixtureModel,
    GaussianMixtureParams,
    precisions_cholesky_of,
)
from dask_em.reduction.base import LocalFit, Reduction
from dask_em.reduction.gaussian_pool import GaussianPool, Gaussians, distances
from dask_em.reduction.gaussians import reduce_gaussians

TYPES = ("full", "tied", "diag", "spherical")


def params_of(weights, means, covariances, kind):
    means = np.asarray(means, dtype=float)
    return GaussianMixtureParams(
        np.asarray(weights, dtype=float),
        means,
        covariances,
        precisions_cholesky_of(covariances, kind),
        means.copy(),
        means.mean(axis=0),
    )


def mixture(seed, kind="full", k=3, d=2, apart=4.0):
    """Return a random mixture."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(k, d, d + 2))
    S = A @ A.swapaxes(1, 2) / (d + 2)
    variances = np.diagonal(S, axis1=1, axis2=2)
    covariances = {
        "full": S,
        "tied": S[0],
        "diag": variances.copy(),
        "spherical": variances.mean(axis=1),
    }[kind]
    means = apart * rng.normal(size=(k, d))
    return params_of(rng.dirichlet(np.full(k, 5.0)), means, covariances, kind)


def moved(params, kind, rng, by=0.1):
    """Return a mixture like another, as a local fit is like the truth."""
    return params_of(
        rng.dirichlet(params.weights * 500),
        params.means + by * rng.normal(size=params.means.shape),
        params.covariances * (1 + by * rng.uniform(-0.5, 0.5)),
        kind,
    )


def relabelled(params, kind, order):
    own = params.covariances if kind == "tied" else params.covariances[order]
    return params_of(params.weights[order], params.means[order], own, kind)


def local(seed, kind="full", m=6, **settings):
    """Return the fits of `m` places, with labels in any order."""
    rng = np.random.default_rng(seed)
    truth = mixture(seed, kind, **settings)
    fits = []
    for _ in range(m):
        order = rng.permutation(len(truth.weights))
        near = relabelled(moved(truth, kind, rng), kind, order)
        fits.append(LocalFit(near, float(rng.uniform(50, 500))))
    return fits


def assert_same(one, other, kind, rtol=1e-9, atol=1e-12):
    """Compare mixtures whose components come in any order."""
    gap = np.abs(one.means[:, None] - other.means).sum(axis=2)
    _, order = linear_sum_assignment(gap)
    other = relabelled(other, kind, order)
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=rtol, atol=atol
        )


def matrices(params, kind):
    """Return covariances as matrices."""
    k, d = params.means.shape
    S = params.covariances
    if kind == "tied":
        return np.broadcast_to(S, (k, d, d))
    if kind == "spherical":
        return S[:, None, None] * np.eye(d)
    return S if kind == "full" else S[:, None] * np.eye(d)


def divergence(mu, S, nu, T):
    """Return the Kullback-Leibler divergence of two Gaussians, as in the books."""
    inverse, gap = np.linalg.inv(T), nu - mu
    log_det = np.linalg.slogdet(T)[1] - np.linalg.slogdet(S)[1]
    trace = np.trace(inverse @ S)
    return 0.5 * (log_det + trace + gap @ inverse @ gap - len(mu))


# --------------------------------------------------------------------- its ingredients


@pytest.mark.parametrize("kind", TYPES)
def test_the_divergence_is_that_of_the_books(kind):
    fits = local(0, kind, m=3, d=4)
    pool = GaussianPool.of(fits, kind)
    shape, distance = pool.divergence(pool.components)
    pairs = [
        (m, S)
        for fit in fits
        for m, S in zip(fit.params.means, matrices(fit.params, kind), strict=True)
    ]
    expected = [[divergence(*a, *b) for b in pairs] for a in pairs]
    np.testing.assert_allclose(shape + distance, expected, rtol=1e-10, atol=1e-12)


def test_the_divergence_is_an_expected_log_ratio():
    params = mixture(1, k=2, d=3, apart=1.0)
    one, other = (
        multivariate_normal(m, S)
        for m, S in zip(params.means, params.covariances, strict=True)
    )
    X = one.rvs(400_000, random_state=0)
    ratio = one.logpdf(X) - other.logpdf(X)
    pool = GaussianPool.of([LocalFit(params, 1.0)], "full")
    value = np.add(*pool.divergence(pool.components))[0, 1]
    assert abs(value - ratio.mean()) < 4 * ratio.std() / np.sqrt(len(X))


@pytest.mark.parametrize("kind", TYPES)
def test_distances_are_those_of_the_densities(kind):
    fits = local(2, kind, m=4, apart=1.0)
    axis = np.linspace(-12, 12, 241)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    densities = [
        sum(
            w * multivariate_normal(m, S).pdf(grid)
            for w, m, S in zip(
                fit.params.weights,
                fit.params.means,
                matrices(fit.params, kind),
                strict=True,
            )
        ).ravel()
        for fit in fits
    ]
    inner = np.array([[f @ g for g in densities] for f in densities])
    both = np.diagonal(inner)[:, None] + np.diagonal(inner)
    expected = np.sqrt(np.maximum(-np.log(2 * inner / both), 0))
    found = distances(GaussianPool.of(fits, kind))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", TYPES)
def test_distances_in_many_dimensions_do_not_overflow(kind):
    fits = local(3, kind, m=4, d=50, k=4, apart=20.0)
    far = dataclasses.replace(fits[0].params, means=fits[0].params.means * 1e150)
    found = distances(GaussianPool.of([*fits, LocalFit(far, 100.0)], kind))
    assert np.isfinite(found).all()
    assert found[:4, :4].max() < 3
    assert found[4, :4].min() > 4


# --------------------------------------------------------------------------- symmetries


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("away", [0.0, 1e8])
def test_one_fit_is_its_own_reduction(kind, away):
    params = mixture(4, kind)
    params = params_of(params.weights, params.means + away, params.covariances, kind)
    for m in (1, 5):
        fits = [LocalFit(params, 10.0 + i) for i in range(m)]
        found = reduce_gaussians(fits, 3, kind, Reduction())
        assert_same(found.params, params, kind, rtol=1e-12)
        assert found.objective[-1] < 1e-12
        assert found.matching.shape == (m, 3)
        assert found.kept == tuple(range(m))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_order_of_fits_and_labels_does_not_matter(kind, k):
    rng = np.random.default_rng(5)
    fits = local(5, kind, apart=1.5)
    one = reduce_gaussians(fits, k, kind, Reduction())
    shuffled = [
        dataclasses.replace(
            fits[i], params=relabelled(fits[i].params, kind, rng.permutation(3))
        )
        for i in rng.permutation(len(fits))
    ]
    other = reduce_gaussians(shuffled, k, kind, Reduction())
    assert_same(one.params, other.params, kind)
    np.testing.assert_allclose(one.objective[-1], other.objective[-1], rtol=1e-9)


@pytest.mark.parametrize("kind", TYPES)
def test_units_and_offsets_do_not_matter(kind):
    fits = local(6, kind)
    one = reduce_gaussians(fits, 3, kind, Reduction()).params
    unit, away = 1e-7, 1e8 * 1e-7
    there = []
    for fit in fits:
        p = fit.params
        own = params_of(p.weights, p.means * unit + away, p.covariances * unit**2, kind)
        there.append(dataclasses.replace(fit, params=own))
    other = reduce_gaussians(there, 3, kind, Reduction()).params
    back = params_of(
        other.weights,
        (other.means - away) / unit,
        other.covariances / unit**2,
        kind,
    )
    assert_same(one, back, kind, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.origin, other.weights @ other.means, rtol=1e-14)
    np.testing.assert_array_equal(other.reference, other.means)


@pytest.mark.parametrize("kind", TYPES)
def test_far_from_zero_no_digits_of_the_covariances_are_lost(kind):
    """With means on a grid, so that moving them by a power of two is exact."""
    here, there = [], []
    for fit in local(16, kind):
        p = fit.params
        means = np.round(p.means * 2**10) / 2**10
        for fits, away in ((here, 0.0), (there, 2.0**40)):
            own = params_of(p.weights, means + away, p.covariances, kind)
            fits.append(dataclasses.replace(fit, params=own))
    one, other = (
        reduce_gaussians(fits, 3, kind, Reduction()).params for fits in (here, there)
    )
    np.testing.assert_allclose(one.covariances, other.covariances, rtol=1e-12)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-12)
    np.testing.assert_allclose(one.means, other.means - 2.0**40, rtol=0, atol=3e-4)


# ------------------------------------------------------------------------ the iteration


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_objective_never_rises_and_the_result_has_its_value(kind, k, seed):
    rng = np.random.default_rng(seed)
    fits = [
        LocalFit(mixture(100 * seed + i, kind, int(rng.integers(1, 7))), 1.0 + i)
        for i in range(8)
    ]
    found = reduce_gaussians(fits, k, kind, Reduction())
    assert (np.diff(found.objective) < 0).all()
    assert (found.params.weights > 0).sum() == k
    np.testing.assert_allclose(found.params.weights.sum(), 1, rtol=1e-12)
    # computed anew, in the units of the data
    total = sum(fit.weight for fit in fits)
    S = matrices(found.params, kind)
    value = sum(
        fit.weight
        / total
        * w
        * min(divergence(m, own, found.params.means[j], S[j]) for j in range(k))
        for fit in fits
        for w, m, own in zip(
            fit.params.weights,
            fit.params.means,
            matrices(fit.params, kind),
            strict=True,
        )
    )
    np.testing.assert_allclose(found.objective[-1], value, rtol=1e-8)
    # the barycentres keep the mean
    mean = sum(f.weight / total * f.params.weights @ f.params.means for f in fits)
    np.testing.assert_allclose(found.params.weights @ found.params.means, mean)


@pytest.mark.parametrize("kind", TYPES)
def test_a_single_component_has_the_moments_of_the_pool(kind):
    fits = local(7, kind)
    found = reduce_gaussians(fits, 1, kind, Reduction())
    w = np.concatenate([fit.weight * fit.params.weights for fit in fits])
    mu = np.concatenate([fit.params.means for fit in fits])
    S = np.concatenate([matrices(fit.params, kind) for fit in fits])
    mean = w @ mu / w.sum()
    gap = mu - mean
    total = np.tensordot(w, S + gap[:, :, None] * gap[:, None], 1) / w.sum()
    expected = {
        "full": total[None],
        "tied": total,
        "diag": np.diagonal(total)[None],
        "spherical": np.array([np.trace(total) / 2]),
    }[kind]
    np.testing.assert_allclose(found.params.means[0], mean)
    np.testing.assert_allclose(found.params.covariances, expected)
    assert found.matching is None


@pytest.mark.parametrize("kind", TYPES)
def test_fits_may_have_different_numbers_of_components(kind):
    """Where one fit has merged two components and another has split one."""
    rng = np.random.default_rng(8)
    means = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    unit = {
        "full": lambda k: np.tile(np.eye(2), (k, 1, 1)),
        "tied": lambda k: np.eye(2),
        "diag": lambda k: np.ones((k, 2)),
        "spherical": np.ones,
    }[kind]
    fits = []
    for chosen in ([0, 1], [1, 2], [0, 2], [0, 1, 2, 2], [0, 0, 1, 2]):
        near = means[chosen] + 0.05 * rng.normal(size=(len(chosen), 2))
        weights = np.full(len(chosen), 1 / len(chosen))
        fits.append(LocalFit(params_of(weights, near, unit(len(chosen)), kind), 1.0))
    found = reduce_gaussians(fits, 3, kind, Reduction())
    order = np.argsort(found.params.means @ [1, 2])
    np.testing.assert_allclose(found.params.means[order], means, atol=0.15)
    assert found.objective[-1] < 0.01
    assert found.matching is None


def test_a_large_pool_is_thinned_before_it_is_merged():
    truth = mixture(9, "diag", k=5, d=3, apart=10.0)
    rng = np.random.default_rng(9)
    fits = [LocalFit(moved(truth, "diag", rng), 1.0) for _ in range(60)]
    # each of them with a component too many, which is like another
    for i, fit in enumerate(fits):
        order = np.r_[:5, i % 5]
        p = relabelled(fit.params, "diag", order)
        halved = p.weights / np.bincount(order)[order]
        fits[i] = LocalFit(dataclasses.replace(p, weights=halved), 1.0)
    found = reduce_gaussians(fits, 5, "diag", Reduction())
    assert_same(found.params, truth, "diag", rtol=0.15, atol=0.1)


def test_components_that_are_not_there_have_no_weight():
    fits = [LocalFit(mixture(10, k=2), 1.0)] * 3
    found = reduce_gaussians(fits, 4, "full", Reduction())
    np.testing.assert_allclose(
        np.sort(found.params.weights), np.sort([0, 0, *fits[0].params.weights])
    )
    assert np.isfinite(found.params.precisions_cholesky).all()


def test_a_target_that_lost_its_components_is_put_elsewhere():
    """A start whose components coincide is not where it ends."""
    truth = mixture(11, k=3, apart=10.0)
    same = relabelled(truth, "full", np.zeros(3, dtype=int))
    same = dataclasses.replace(same, weights=np.full(3, 1 / 3))
    pool = GaussianPool.of([LocalFit(truth, 1.0), LocalFit(same, 1.0)], "full")
    targets = pool.reseeded(pool.components.at([3, 4, 5]), [1, 2])
    cost = np.add(*pool.divergence(targets)).min(axis=1)
    np.testing.assert_allclose(cost, 0, atol=1e-12)


@pytest.mark.parametrize("kind", TYPES)
def test_no_target_stays_unused_where_components_are_left(kind):
    """Two fits of two distinct components each, of which one comes twice."""
    four = mixture(17, kind, k=4, apart=10.0)
    fits = []
    for chosen in ([0, 0, 1], [2, 2, 3]):
        p = relabelled(four, kind, np.array(chosen))
        third = dataclasses.replace(p, weights=np.full(3, 1 / 3))
        fits.append(LocalFit(third, 1.0))
    found = reduce_gaussians(fits, 3, kind, Reduction())
    assert (found.params.weights > 0).all()
    assert (np.diff(found.objective) < 0).all()


def test_an_unused_target_does_not_go_where_there_is_one_already():
    """With a shared covariance, a component's own may be what costs most."""
    narrow, wide = np.eye(2) / 4, 9 * np.eye(2)
    fits = [
        LocalFit(params_of([0.5, 0.5], [[0, 0], [9, 0]], narrow, "tied"), 1.0),
        LocalFit(params_of([0.9, 0.1], [[0, 0], [0, 2]], wide, "tied"), 1.0),
    ]
    pool = GaussianPool.of(fits, "tied")
    targets = pool.barycentres(np.array([0, 1, 0, 0]), pool.components.at([0, 1, 1]))
    at = np.r_[[targets.means[0]], pool.components.means[1:2]]
    targets = dataclasses.replace(targets, means=at[[0, 1, 1]])
    found = pool.reseeded(targets, [2])
    np.testing.assert_array_equal(found.means[2], pool.components.means[3])
    np.testing.assert_array_equal(found.covariances, targets.covariances)


def test_barycentres_minimise_the_divergence():
    """For each type, moving the barycentre a little makes things worse."""
    rng = np.random.default_rng(12)
    for kind in TYPES:
        pool = GaussianPool.of(local(12, kind), kind)
        labels = rng.integers(2, size=len(pool.weights))
        targets = pool.barycentres(labels, pool.components.at([0, 1]))

        def value(means, S, pool=pool, labels=labels):
            cost = np.add(*pool.divergence(Gaussians(means, S)))
            return pool.weights @ np.take_along_axis(cost, labels[:, None], 1)[:, 0]

        least = value(targets.means, targets.covariances)
        for by in (0.99, 1.01):
            assert value(targets.means, targets.covariances * by) > least
            assert value(targets.means * by, targets.covariances) > least


# -------------------------------------------------------------------------- what is bad


def test_fits_without_weight_or_with_infinities_are_left_out():
    fits = local(13)
    bad = dataclasses.replace(fits[0].params, means=np.full((3, 2), np.nan))
    more = [
        LocalFit(bad, 100.0),
        *fits,
        LocalFit(mixture(99), 0.0),
        LocalFit(dataclasses.replace(fits[0].params, covariances=bad.means), 5.0),
    ]
    found = reduce_gaussians(more, 3, "full", Reduction())
    assert found.kept == tuple(range(1, 7))
    expected = reduce_gaussians(fits, 3, "full", Reduction())
    assert_same(found.params, expected.params, "full", rtol=0, atol=0)
    with pytest.raises(ValueError, match="no local fit"):
        reduce_gaussians(more[:1], 3, "full", Reduction())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("d", [2, 30])
def test_one_corrupt_fit_in_sixteen_does_not_matter(kind, d):
    fits = local(14, kind, m=16, d=d, k=4)
    clean = reduce_gaussians(fits[:15], 4, kind, Reduction())
    wrong = dataclasses.replace(fits[15].params, means=fits[15].params.means * 100)
    fits[15] = dataclasses.replace(fits[15], params=wrong)
    found = reduce_gaussians(fits, 4, kind, Reduction(robust=True))
    assert found.kept == tuple(range(15))
    assert_same(found.params, clean.params, kind, rtol=0.01)
    plain = reduce_gaussians(fits, 4, kind, Reduction())
    assert np.abs(plain.params.means).max() > 2 * np.abs(clean.params.means).max()


@pytest.mark.parametrize("kind", TYPES)
def test_nothing_is_left_out_that_is_alike(kind):
    for seed in range(5):
        fits = local(seed, kind, m=16)
        assert len(reduce_gaussians(fits, 3, kind, Reduction(robust=True)).kept) >= 14
    same = [fits[0]] * 5
    assert len(reduce_gaussians(same, 3, kind, Reduction(robust=True)).kept) == 5


# --------------------------------------------------------------------------- statistics


def wasserstein(one, other):
    """Return the mean distance of means, over the best matching."""
    gap = np.linalg.norm(one.means[:, None] - other.means, axis=2)
    rows, columns = linear_sum_assignment(gap)
    return gap[rows, columns].mean()


def log_likelihood(params, X):
    """Return it per row, for matrices."""
    parts = [
        np.log(w) + multivariate_normal(m, S).logpdf(X)
        for w, m, S in zip(
            params.weights, params.means, params.covariances, strict=True
        )
    ]
    return logsumexp(parts, axis=0).mean()


@pytest.mark.slow
def test_errors_fall_with_the_square_root_of_the_number_of_fits():
    """On average: in a single data set the errors of three means are a few numbers."""
    truth = mixture(15, k=3, d=3, apart=4.0)
    model = GaussianMixtureModel(3, means_init=truth.means)
    L = np.linalg.cholesky(truth.covariances)
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        label = rng.choice(3, size=20_000, p=truth.weights)
        Z = rng.normal(size=(20_000, 3))
        X = truth.means[label] + np.einsum("nij,nj->ni", L[label], Z)
        pooled, *found = (
            fit_em(model, part, random_state=0, tol=1e-8, transport="local").params
            for part in (X, *X.reshape(20, 1000, 3))
        )
        fits = [LocalFit(params, 1000.0) for params in found]
        reduced = model.reduce(fits, None, rng).params
        own = np.mean([wasserstein(params, truth) for params in found])
        # next to nothing is lost against all rows at once
        assert wasserstein(reduced, pooled) < 0.1 * own
        gap = log_likelihood(pooled, X) - log_likelihood(reduced, X)
        assert -1e-6 < gap < 1e-3
        errors.append((own, wasserstein(reduced, truth)))
    local_error, reduced_error = np.mean(errors, axis=0)
    np.testing.assert_allclose(local_error / reduced_error, np.sqrt(20), rtol=0.3)


def test_the_setting_of_the_model_is_used_and_none_leaves_no_trace():
    fits = local(14, m=16)
    wrong = dataclasses.replace(fits[3].params, means=fits[3].params.means * 100)
    fits[3] = dataclasses.replace(fits[3], params=wrong)
    plain = GaussianMixtureModel(3)
    robust = GaussianMixtureModel(3, reduction=Reduction(robust=True))
    assert 3 in plain.reduce(fits, None, None).kept
    assert 3 not in robust.reduce(fits, None, None).kept
    assert plain.reduces
    assert "reduction" not in fingerprint_of(plain, None)["settings"]
