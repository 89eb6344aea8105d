"""Reduction of mixtures of experts, against brute force."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from scipy import integrate, stats

from dask_em import (
    GaussianMixture,
    MixtureOfExpertsClassifier,
    MixtureOfExpertsRegressor,
    reduce_mixture,
)
from dask_em.model import Block
from dask_em.models.experts import softmax
from dask_em.models.experts.algebra import Grams
from dask_em.models.experts.families import Plan
from dask_em.models.experts.gaussian import Gaussian
from dask_em.models.experts.model import MixtureOfExpertsModel
from dask_em.models.experts.multinomial import Multinomial
from dask_em.models.experts.params import Design, ExpertsParams
from dask_em.models.experts.poisson import Poisson
from dask_em.models.experts.student import StudentT
from dask_em.reduction.base import LocalFit, Reduction, central
from dask_em.reduction.experts import reduce_fits
from dask_em.reduction.matching import matched, relabelled_curvature

FAMILIES = {
    "gaussian": Gaussian(),
    "student_t": StudentT(),
    "poisson": Poisson(),
    "multinomial": Multinomial(3),
}


def mixture(family, k, seed, d=2, spread=0.0, base=None):
    """Return parameters of K experts, near those of `base` if there is one."""
    rng = np.random.default_rng(seed)
    q = family.n_predictors(1)
    blank = dict(
        covariance=np.zeros((k, 0, 0)), dof=np.zeros(0), anchor=np.zeros((k, 0, d + 1))
    )
    gate = rng.normal(size=(k, d + 1))
    coef = 1.5 * rng.normal(size=(k, q, d + 1))
    if family.has_covariance:
        blank["covariance"] = rng.uniform(0.2, 0.6, (k, 1, 1))
    if isinstance(family, StudentT):
        blank["dof"] = rng.uniform(3, 12, k)
    if base is not None:
        gate = base.gate + spread * gate
        coef = base.coef + spread * coef
        blank["covariance"] = base.covariance * np.exp(
            spread * rng.normal(size=base.covariance.shape)
        )
        blank["dof"] = base.dof
    if isinstance(family, Poisson):
        coef = coef / 3
    if isinstance(family, Multinomial):
        coef = coef - coef[:, -1:]
    return ExpertsParams(
        gate=gate - gate[-1],
        coef=coef,
        counts=np.ones(k),
        doubt=np.zeros(0),
        reach=np.ones(d + 1) if isinstance(family, Poisson) else np.zeros(0),
        x_mean=np.zeros(d),
        x_scale=np.ones(d),
        y_mean=np.zeros(1),
        y_scale=np.ones(1),
        x_correlation=np.eye(d),
        **blank,
    )


def model_of(family, k, d=2, **settings):
    columns = tuple(range(d))
    reduction = Reduction(**settings)
    return MixtureOfExpertsModel(
        k, family, Design(columns, columns), reduction=reduction
    )


def rows(n=300, d=2, seed=0):
    return Block(np.random.default_rng(seed).normal(size=(n, d)))


def log_density(model, params, X, y):
    from dask_em.models.experts.density import ExpertsDensity

    return ExpertsDensity(model.family, model.design, params).log_density(X, y)


def assert_same_mixture(model, a, b, tol=1e-10):
    """Two mixtures are the same, whatever their components are called."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    y = rng.integers(0, 3, 50).astype(float)
    np.testing.assert_allclose(
        log_density(model, a, X, y), log_density(model, b, X, y), rtol=tol, atol=tol
    )


def fits_near(family, k, m, spread, seed=0):
    base = mixture(family, k, seed)
    return [
        LocalFit(mixture(family, k, 100 + i, spread=spread, base=base), 50.0 + i)
        for i in range(m)
    ]


def reduced(model, fits, support=None):
    return reduce_fits(model, fits, support or rows(), np.random.default_rng(0))


# ------------------------------------------------------------------ the whole thing


@pytest.mark.parametrize("gate", ["matched", "transport"])
@pytest.mark.parametrize("name", FAMILIES)
def test_one_fit_stays_as_it_is(name, gate):
    model = model_of(FAMILIES[name], 3, gate=gate)
    params = mixture(FAMILIES[name], 3, 0)
    found = reduced(model, [LocalFit(params, 10.0)])
    assert_same_mixture(model, found.params, params, 1e-6)
    assert found.objective[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_fits_give_that_fit(name):
    model = model_of(FAMILIES[name], 3)
    params = mixture(FAMILIES[name], 3, 0)
    again = params.ordered([2, 0, 1])
    found = reduced(model, [LocalFit(params, 10.0), LocalFit(again, 30.0)])
    assert_same_mixture(model, found.params, params, 1e-6)
    assert found.matching.shape == (2, 3)


@pytest.mark.parametrize("gate", ["matched", "transport"])
@pytest.mark.parametrize("name", FAMILIES)
def test_order_of_fits_and_labels_does_not_matter(name, gate):
    model = model_of(FAMILIES[name], 3, gate=gate)
    fits = fits_near(FAMILIES[name], 3, 6, 0.1)
    one = reduced(model, fits)
    shuffled = [
        dataclasses.replace(fit, params=fit.params.ordered(order))
        for fit, order in zip(
            fits[::-1], [[1, 2, 0], [0, 1, 2], [2, 1, 0]] * 2, strict=True
        )
    ]
    other = reduced(model, shuffled)
    assert other.objective[-1] == pytest.approx(one.objective[-1], rel=1e-6)
    assert_same_mixture(model, other.params, one.params, 1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FAMILIES)
def test_objective_never_rises(name, seed):
    model = model_of(FAMILIES[name], 3, tol=0.0)
    fits = [
        LocalFit(mixture(FAMILIES[name], k, seed * 10 + i), 1.0 + i)
        for i, k in enumerate((3, 2, 4, 3, 5))
    ]
    objective = reduced(model, fits).objective
    assert len(objective) > 1
    assert (np.diff(objective) <= 1e-12 * objective[0]).all()


def test_fits_without_weight_or_sense_are_left_out():
    model = model_of(Gaussian(), 2)
    fits = fits_near(Gaussian(), 2, 3, 0.05)
    broken = dataclasses.replace(fits[0].params, coef=np.full((2, 1, 3), np.nan))
    found = reduced(model, [*fits, LocalFit(broken, 5.0), LocalFit(broken, 0.0)])
    assert found.kept == (0, 1, 2)
    with pytest.raises(ValueError, match="no local fit is finite"):
        reduced(model, [LocalFit(broken, 5.0)])


@pytest.mark.parametrize("name", FAMILIES)
def test_filter_drops_a_corrupt_fit(name):
    fits = fits_near(FAMILIES[name], 2, 16, 0.02)
    bad = dataclasses.replace(fits[3].params, coef=fits[3].params.coef * 100)
    spoilt = [*fits[:3], dataclasses.replace(fits[3], params=bad), *fits[4:]]
    if name == "multinomial":  # what is certain, steeper, is no less right
        bad = dataclasses.replace(bad, coef=-bad.coef)
        spoilt[3] = dataclasses.replace(fits[3], params=bad)
    robust = reduced(model_of(FAMILIES[name], 2, robust=True), spoilt)
    assert 3 not in robust.kept
    assert len(robust.kept) >= 12
    clean = reduced(model_of(FAMILIES[name], 2), fits)
    mass = np.abs(robust.params.coef[:, None] - clean.params.coef).sum(axis=(2, 3))
    order = mass.argmin(axis=0)
    change = robust.params.coef[order] - clean.params.coef
    assert np.linalg.norm(change) < 0.01 * np.linalg.norm(clean.params.coef)


def test_central():
    points = np.append(np.linspace(0, 1, 9), 30.0)
    distances = np.abs(points - points[:, None])
    assert central(distances) == tuple(range(9))
    assert central(np.zeros((5, 5))) == tuple(range(5))
    assert central(np.zeros((2, 2))) == (0, 1)


def test_variance_has_the_spread_between_fits():
    """One expert each: the released formula would leave out the second term."""
    fits = [
        LocalFit(
            dataclasses.replace(
                mixture(Gaussian(), 1, 0), coef=np.array([[[b, 0.0, 0.0]]])
            ),
            w,
        )
        for b, w in ((-1.0, 1.0), (2.0, 3.0))
    ]
    within = float(fits[0].params.covariance[0, 0, 0])
    found = reduced(model_of(Gaussian(), 1), fits).params
    mean = 0.25 * -1 + 0.75 * 2
    between = 0.25 * (-1 - mean) ** 2 + 0.75 * (2 - mean) ** 2
    assert found.coef[0, 0, 0] == pytest.approx(mean, rel=1e-12)
    assert found.covariance[0, 0, 0] == pytest.approx(within + between, rel=1e-12)


# ------------------------------------------------------------------------ its parts


def distribution(name, params, i, eta):
    if name == "gaussian":
        return stats.norm(eta[i, 0, 0], np.sqrt(params.covariance[i, 0, 0]))
    return stats.poisson(np.exp(eta[i, 0, 0]))


@pytest.mark.parametrize("name", ["gaussian", "poisson"])
def test_divergence_by_integration(name):
    family = FAMILIES[name]
    a, b = mixture(family, 3, 0), mixture(family, 2, 1)
    Z = np.array([[1.0], [0.3], [-0.4]])
    at, eta = a.coef @ Z, b.coef @ Z
    found = family.divergence(a, at, b, eta)
    for i in range(3):
        for j in range(2):
            p, q = distribution(name, a, i, at), distribution(name, b, j, eta)
            if name == "gaussian":

                def gap(y, p=p, q=q):
                    return p.pdf(y) * (p.logpdf(y) - q.logpdf(y))

                wanted = integrate.quad(gap, *p.interval(1 - 1e-14), limit=200)[0]
            else:
                y = np.arange(400)
                wanted = np.sum(p.pmf(y) * (p.logpmf(y) - q.logpmf(y)))
            assert found[i, j, 0] == pytest.approx(wanted, rel=1e-6)


def test_overlap_by_integration():
    a = mixture(Gaussian(), 3, 0)
    eta = a.coef @ np.array([[1.0], [0.3], [-0.4]])
    found = Gaussian().overlap(a, eta)[..., 0]
    wanted = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            p, q = (distribution("gaussian", a, m, eta) for m in (i, j))
            wanted[i, j] = integrate.quad(
                lambda y, p=p, q=q: p.pdf(y) * q.pdf(y), -30, 30, limit=500
            )[0]
    ratio = found / wanted  # up to a constant that cancels
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_barycentres_minimise_the_majorant(name):
    family = FAMILIES[name]
    source, target = mixture(family, 6, 0), mixture(family, 2, 1)
    rng = np.random.default_rng(2)
    Z = np.vstack([np.ones(80), rng.normal(size=(2, 80))])
    at = source.coef @ Z
    plan = Plan(rng.integers(0, 2, (6, 80)).astype(np.int16), rng.random((6, 80)), 2)

    def value(params):
        cost = family.divergence(source, at, params, params.coef @ Z)
        own = np.take_along_axis(cost, plan.target[:, None].astype(int), 1)[:, 0]
        return np.sum(plan.mass * own)

    changed = family.barycentre(source, at, plan, target, Z, 1e-8)
    best = dataclasses.replace(target, **changed)
    low = value(best)
    assert low < value(target)
    for field in changed:
        for sign in (-1e-3, 1e-3):
            bent = getattr(best, field) * (1 + sign)
            assert value(dataclasses.replace(best, **{field: bent})) >= low - 1e-9
    bent = best.coef + 1e-3 * rng.normal(size=best.coef.shape)
    if name != "multinomial":
        assert value(dataclasses.replace(best, coef=bent)) > low


@pytest.mark.parametrize("name", FAMILIES)
def test_nearest_is_the_least_divergence(name):
    family = FAMILIES[name]
    source, target = mixture(family, 5, 0), mixture(family, 3, 1)
    Z = np.vstack([np.ones(40), np.random.default_rng(0).normal(size=(2, 40))])
    at, eta = source.coef @ Z, target.coef @ Z
    cost = family.divergence(source, at, target, eta)
    index, least = family.nearest(source, at, target, eta)
    np.testing.assert_array_equal(index, cost.argmin(axis=1))
    np.testing.assert_allclose(least, cost.min(axis=1), atol=1e-12)


def test_relabelled_curvature():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(3, 60))
    eta = rng.normal(size=(4, 60))
    order = np.array([2, 0, 3, 1])

    def curvature(eta):
        grams = Grams(softmax.n_blocks(4), 3)
        grams.add(Z, softmax.hessian_weights(np.exp(softmax.log_softmax(eta)), 1.0))
        return softmax.hessian_of(grams.total, 4)

    np.testing.assert_allclose(
        relabelled_curvature(curvature(eta), order, 3),
        curvature(eta[order]),
        atol=1e-12,
    )


def test_matched():
    mass = np.array([[0.1, 5.0, 0.0], [4.0, 4.5, 0.0], [0.0, 0.0, 1.0]])
    assert matched(mass).tolist() == [1, 0, 2]


# ------------------------------------------------------------- models in, model out


@pytest.fixture(scope="module")
def sites():
    rng = np.random.default_rng(3)
    n = 8000
    X = rng.normal(size=(n, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]]) + [5.0, -2.0]
    first = rng.random(n) < 1 / (1 + np.exp(-2 * (X[:, 0] - 5)))
    y = np.where(first, 3 + 2 * X[:, 0], -1 - X[:, 1]) + 0.5 * rng.normal(size=n)
    return X, y


def fitted(X, y, k=2, **settings):
    return MixtureOfExpertsRegressor(k, random_state=0, **settings).fit(X, y)


@pytest.fixture(scope="module")
def whole(sites):
    return fitted(*sites)


@pytest.fixture(scope="module")
def local(sites):
    X, y = sites
    return [fitted(X[i::8], y[i::8]) for i in range(8)]


def gap(model, whole, sites):
    return (whole.score_samples(*sites) - model.score_samples(*sites)).mean()


@pytest.mark.parametrize("settings", [{}, {"gate": "transport"}, {"robust": True}])
def test_federated(sites, whole, local, settings):
    one = reduce_mixture(local, random_state=0, **settings)
    worst = 2e-2 if settings.get("gate") == "transport" else 1e-3
    assert 0 <= gap(one, whole, sites) < worst
    assert gap(one, whole, sites) < gap(local[0], whole, sites) or worst > 1e-3
    with_rows = reduce_mixture(local, support=sites[0], **settings)
    assert 0 <= gap(with_rows, whole, sites) < worst
    assert one.predict(sites[0]).shape == (8000,)
    assert one.reduction_.matching.shape == (len(one.reduction_.kept), 2)


def test_federated_standard_attributes(local, whole):
    one = reduce_mixture(local, random_state=0)
    assert type(one) is MixtureOfExpertsRegressor
    np.testing.assert_allclose(one.feature_mean_, whole.feature_mean_, rtol=1e-9)
    np.testing.assert_allclose(
        one.feature_covariance_, whole.feature_covariance_, rtol=1e-9
    )
    assert one.n_components == 2
    assert one.n_features_in_ == 2


def test_federated_unequal_numbers(sites, whole):
    X, y = sites
    models = [fitted(X[i::4], y[i::4], k) for i, k in enumerate((2, 3, 2, 2))]
    one = reduce_mixture(models, random_state=0)
    assert one.n_components == 2
    assert one.reduction_.matching is None
    assert np.isfinite(gap(one, whole, sites))
    three = reduce_mixture(models, n_components=3, random_state=0)
    assert three.coef_.shape == (3, 2)


def test_federated_classifiers(sites):
    X, _ = sites
    rng = np.random.default_rng(0)
    first = X[:, 0] + rng.normal(size=len(X)) > 5
    odds = np.where(first, 2 * (X[:, 1] + 2), -2 * (X[:, 1] + 2))
    y = np.where(rng.random(len(X)) < 1 / (1 + np.exp(-odds)), "yes", "no")
    models = [
        MixtureOfExpertsClassifier(2, random_state=0).fit(X[i::4], y[i::4])
        for i in range(4)
    ]
    one = reduce_mixture(models, random_state=0)
    assert one.classes_.tolist() == ["no", "yes"]
    best = max(model.score(X, y) for model in models)
    assert one.score(X, y) > best - 0.01


def test_federated_scikit_learn():
    from sklearn.mixture import GaussianMixture as Sklearns

    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 2)) + 8 * rng.integers(2, size=(4000, 1))
    models = [Sklearns(2, random_state=0).fit(X[i::4]) for i in range(4)]
    one = reduce_mixture(models)
    assert isinstance(one, Sklearns)
    assert one.score(X) == pytest.approx(
        Sklearns(2, random_state=0).fit(X).score(X), abs=1e-4
    )


def test_bad_input(local, whole):
    with pytest.raises(ValueError, match="at least one"):
        reduce_mixture([])
    with pytest.raises(TypeError, match="of one kind"):
        reduce_mixture([whole, GaussianMixture(1).fit([[0.0], [1.0]])])
    with pytest.raises(ValueError, match="one number per model"):
        reduce_mixture(local, weights=[1.0])
    with pytest.raises(ValueError, match="not negative"):
        reduce_mixture(local, weights=[-1.0] * 8)
    with pytest.raises(ValueError, match="gate must be"):
        reduce_mixture(local, gate="mean")
    with pytest.raises(ValueError, match="support must be rows of 2"):
        reduce_mixture(local, support=np.ones((5, 3)))
    with pytest.raises(ValueError, match="numbers of columns"):
        reduce_mixture([whole, fitted(np.arange(40.0)[:, None], np.arange(40.0), 1)])
    other = copy.deepcopy(whole).set_params(gate="constant")
    other = other.fit(np.random.default_rng(0).normal(size=(50, 2)), np.arange(50.0))
    with pytest.raises(ValueError, match="same family, gate"):
        reduce_mixture([whole, other])
