"""Mixtures of experts: what others find, what formulas say, what must not matter."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from dask_em import Block, fit_em
from dask_em.models.experts.coordinates import packed
from dask_em.models.experts.gaussian import Gaussian
from dask_em.models.experts.model import MixtureOfExpertsEM, MixtureOfExpertsModel
from dask_em.models.experts.multinomial import Multinomial
from dask_em.models.experts.params import Design, Frame
from dask_em.models.experts.poisson import Poisson
from dask_em.models.experts.softmax import hessian_of
from dask_em.models.experts.student import StudentT
from dask_em.testing import SCHEDULES, assert_monotone, check_model
from dask_em.transports import Local, Simulated

pd = pytest.importorskip("pandas")

SHARED, APART, CONSTANT = (
    Design((0, 1), (0, 1)),
    Design((0,), (1,)),
    Design((), (0, 1)),
)
DESIGNS = pytest.mark.parametrize(
    "design", [SHARED, APART, CONSTANT], ids=["shared", "apart", "constant"]
)
FAMILIES = {
    "gaussian": Gaussian(),
    "two": Gaussian(),
    "diag": Gaussian("diag"),
    "tied": Gaussian("tied"),
    "t": StudentT(),
    "two t": StudentT(),
    "poisson": Poisson(),
    "multinomial": Multinomial(3),
}
ALL = pytest.mark.parametrize("name", FAMILIES)


def make_rows(n=160, seed=0):
    """Rows of ±1, which expert, and a linear predictor that tells experts apart."""
    rng = np.random.default_rng(seed)
    X = rng.choice([-1.0, 1.0], size=(n, 2))
    first = rng.random(n) < 1 / (1 + np.exp(-0.5 * X[:, 0]))
    return rng, X, first, np.where(first, 1, -1) * (1.5 + 0.5 * X[:, 1])


def responses(name, rng, X, first, eta):
    """Responses of a family that tell which expert they are of."""
    n = len(X)
    if name == "poisson":
        rate = np.where(first, 3 + 0.3 * X[:, 1], 0.5 - 0.3 * X[:, 1])
        return rng.poisson(np.exp(rate)).astype(float)
    if name == "multinomial":
        logits = np.stack([eta, -eta, 0 * eta], 1)
        return np.argmax(logits + rng.gumbel(size=(n, 3)), 1).astype(float)
    noise = rng.standard_t(3, size=n) if name.endswith("t") else rng.normal(size=n)
    y = 3 * eta + 0.5 * noise
    if name in ("two", "diag", "tied", "two t"):
        return np.column_stack([y, eta + 0.3 * rng.normal(size=n) + 0.2 * noise])
    return y


def smooth(name, n=300, seed=3):
    """The same with rows that are not all alike, in units of their own."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    first = rng.random(n) < 1 / (1 + np.exp(-1 - 1.5 * X[:, 0]))
    eta = np.where(first, 1.5 + X[:, 0], -1.5 - X[:, 1])
    y = responses(name, rng, X, first, eta)
    if name == "multinomial":
        logits = np.where(first, X[:, 1], -X[:, 1])[:, None] * [2.0, -2.0, 0.0]
        y = np.argmax(logits + rng.gumbel(size=(n, 3)), 1).astype(float)
    return X * [2.0, 0.5] + [10.0, 3.0], y


def fit(model, X, y, **settings):
    known = {"tol": 1e-11, "max_iter": 2000, "random_state": 0, "transport": Local(1)}
    return fit_em(model, X, y=y, **known | settings)


def some_params(model, X, y, seed=0):
    """Parameters without any symmetry, in the units of the data at hand."""
    rng = np.random.default_rng(seed)
    blank = model.blank(model.survey(Block(X, y)))
    gate = 0.5 * rng.normal(size=blank.gate.shape)
    coef = 0.5 * rng.normal(size=blank.coef.shape)
    changed = {"gate": gate - gate[-1], "coef": coef}
    if isinstance(model.family, Multinomial):
        changed["coef"] = coef - coef[:, -1:]
    if blank.covariance.size:
        q = coef.shape[1]
        root = 0.5 * rng.normal(size=(len(coef), q, q)) + np.eye(q)
        changed["covariance"] = root @ root.swapaxes(1, 2)
    if len(blank.dof):
        changed["dof"] = rng.uniform(2, 9, len(coef))
    return dataclasses.replace(blank, **changed)


def naive_log_likelihood(model, params, X, y, w):
    """Row by row, in the units of the data."""
    raw, family, total = params.raw(model.design), model.family, 0.0
    at_gate, at_experts = list(model.design.gate), list(model.design.experts)
    for x, target, weight in zip(X, y, w, strict=True):
        prior = log_softmax(raw.gate @ np.r_[1.0, x[at_gate]])
        terms = []
        for k in range(model.n_components):
            eta = raw.coef[k] @ np.r_[1.0, x[at_experts]]
            if isinstance(family, Poisson):
                log_density = stats.poisson.logpmf(target, np.exp(eta[0]))
            elif isinstance(family, Multinomial):
                log_density = log_softmax(eta)[int(target)]
            elif isinstance(family, StudentT) and len(eta) > 1:
                log_density = stats.multivariate_t.logpdf(
                    target, eta, raw.covariance[k], raw.dof[k]
                )
            elif isinstance(family, StudentT):
                scale = np.sqrt(raw.covariance[k, 0, 0])
                log_density = stats.t.logpdf(target, raw.dof[k], eta[0], scale)
            elif len(eta) > 1:
                log_density = stats.multivariate_normal.logpdf(
                    target, eta, raw.covariance[k]
                )
            else:
                scale = np.sqrt(raw.covariance[k, 0, 0])
                log_density = stats.norm.logpdf(target, eta[0], scale)
            terms.append(prior[k] + log_density)
        total += weight * logsumexp(terms)
    return total


def predicted(model, params, X):
    """Gate's probabilities and the experts' linear predictors, in units of the data."""
    Zg, Ze = model.design.rows(X, params.frame)
    eta = params.coef @ Ze
    if params.covariance.size:
        eta = eta * params.y_scale[:, None] + params.y_mean[:, None]
    return np.exp(log_softmax(params.gate @ Zg, axis=0)), eta


def e_step(model, params, X, y, w=None):
    return model.e_step(params, Block(X, y, w))[0]


# ------------------------------------------------------------------ published fits

needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(
        "DASK_EM_DATA" not in os.environ, reason="DASK_EM_DATA is not set"
    ),
]
GAUSS, POISSON = Gaussian(), Poisson()
REFERENCES = {
    "NPreg_yn_const": ("NPreg", ("x", "x2"), "yn", 2, (), (0, 1), GAUSS),
    "NPreg_yn_gate_x": ("NPreg", ("x", "x2"), "yn", 2, (0,), (0, 1), GAUSS),
    "NPreg_yp_poisson": ("NPreg", ("x",), "yp", 2, (), (0,), POISSON),
    "tone_const": ("tonedata", ("stretchratio",), "tuned", 2, (), (0,), GAUSS),
    "tone_gate_x": ("tonedata", ("stretchratio",), "tuned", 2, (0,), (0,), GAUSS),
    "CO2_const": ("CO2data", ("GNP",), "CO2", 2, (), (0,), GAUSS),
    "patent_poisson_K3_gate": (
        "patent",
        ("lgRD", "RDS"),
        "Patents",
        3,
        (1,),
        (0,),
        POISSON,
    ),
}


def read(name):
    folder = Path(os.environ["DASK_EM_DATA"]) / "moe"
    frame = pd.read_csv(folder / f"{name}.csv")
    return {column: frame[column].to_numpy() for column in frame.columns}


def columns(table, names):
    squares = {"x2": table["x"] ** 2} if "x2" in names else {}
    return np.column_stack([(table | squares)[c] for c in names]).astype(float)


def published(name):
    folder = Path(os.environ["DASK_EM_DATA"]) / "moe"
    return json.loads((folder / "reference_fits.json").read_text())[name]


class TestPublished:
    pytestmark = needs_data

    @pytest.mark.parametrize("name", REFERENCES)
    def test_reference(self, name):
        file, names, target, k, gate, experts, family = REFERENCES[name]
        table, known = read(file), published(name)
        model = MixtureOfExpertsModel(k, family, Design(gate, experts))
        X, y = columns(table, names), table[target].astype(float)
        result = fit(model, X, y, n_init=10, tol=1e-12)
        assert model.sound(result.params)
        assert result.log_likelihood == pytest.approx(known["loglik"], rel=1e-8)
        raw = result.params.raw(model.design)
        theirs = np.array(known["beta"])
        # every expert of theirs, and the one of ours that is nearest to it
        gaps = np.abs(raw.coef[:, 0] - theirs[:, None]).sum(axis=2)
        order = gaps.argmin(axis=1)
        assert sorted(order) == list(range(k))
        raw = raw.ordered(order)
        np.testing.assert_allclose(raw.coef[:, 0], theirs, rtol=1e-5, atol=1e-6)
        if "sigma" in known:
            sigma = np.sqrt(raw.covariance[:, 0, 0])
            np.testing.assert_allclose(sigma, known["sigma"], rtol=1e-5)
        if "gate" in known:
            np.testing.assert_allclose(raw.gate, known["gate"], rtol=2e-5, atol=1e-6)
        if "weights" in known:  # means of the gate over rows
            share = result.params.counts[order] / len(y)
            np.testing.assert_allclose(share, known["weights"], atol=1e-5)

    def test_equal_variances_and_weights(self):
        """MoEClust's optimum."""
        table = read("CO2data")
        X, y = columns(table, ("GNP",)), table["CO2"]
        model = MixtureOfExpertsModel(
            3, Gaussian("tied"), Design((), (0,)), equal_weights=True
        )
        result = fit(model, X, y, n_init=10)
        assert model.sound(result.params)
        assert result.log_likelihood == pytest.approx(-65.937, abs=5e-4)
        assert not result.params.gate.any()
        covariance = result.params.covariance
        assert (covariance == covariance[0]).all()

    @pytest.mark.parametrize("seed", range(3))
    def test_an_expert_of_two_rows_does_not_win(self, seed):
        table = read("CO2data")
        X, y = columns(table, ("GNP",)), table["CO2"]
        model = MixtureOfExpertsModel(2, GAUSS, Design((), (0,)))
        result = fit(model, X, y, n_init=10, random_state=seed)
        assert model.sound(result.params)
        assert result.log_likelihood == pytest.approx(-66.939768, abs=1e-5)


def test_a_collapsed_expert_is_not_sound():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 1))
    y = rng.normal(size=40)
    model = MixtureOfExpertsModel(2, GAUSS, Design((), (0,)))
    params = model.blank(model.survey(Block(X, y)))
    member = np.zeros((2, 40))
    member[0, :2] = member[1, 2:] = 1.0
    _, Z = model.design.rows(X, params.frame)
    response = (y - params.y_mean) / params.y_scale
    coef = np.stack(
        [np.linalg.lstsq(Z[:, r > 0].T, response[r > 0], rcond=None)[0] for r in member]
    )
    params = dataclasses.replace(
        params,
        coef=coef[:, None],
        covariance=np.array([1e-10, 1.0])[:, None, None],
        gate=np.array([[-3.0], [0.0]]),
    )
    result = fit(model, X, y, start=params, max_iter=300)
    assert np.isfinite(result.log_likelihood)
    assert not model.sound(result.params)
    best = fit(model, X, y, n_init=5)
    assert model.sound(best.params)


# --------------------------------------------------------------------- one expert


class TestOneExpert:
    X = np.random.default_rng(5).normal(size=(250, 3)) * [1, 10, 0.1] + [0, 5, -3]
    A = np.column_stack([np.ones(250), X])
    design = Design((), (0, 1, 2))

    def of(self, family, y, cls=MixtureOfExpertsModel, **settings):
        model = cls(1, family, self.design)
        result = fit(model, self.X, y, **settings)
        return result, result.params.raw(self.design)

    @pytest.mark.parametrize("cls", [MixtureOfExpertsModel, MixtureOfExpertsEM])
    def test_least_squares(self, cls):
        rng = np.random.default_rng(6)
        Y = self.X @ rng.normal(size=(3, 2)) + 4 + rng.normal(size=(250, 2))
        result, raw = self.of(GAUSS, Y, cls)
        beta = np.linalg.lstsq(self.A, Y, rcond=None)[0]
        residual = Y - self.A @ beta
        covariance = residual.T @ residual / 250
        np.testing.assert_allclose(raw.coef[0], beta.T, rtol=1e-9)
        np.testing.assert_allclose(raw.covariance[0], covariance, rtol=1e-9)
        value = stats.multivariate_normal.logpdf(residual, None, covariance).sum()
        assert result.log_likelihood == pytest.approx(value, rel=1e-12)

    def test_poisson_regression(self):
        rng = np.random.default_rng(7)
        rate = np.exp(0.5 + self.X @ [0.3, 0.02, -0.4])
        y = rng.poisson(rate).astype(float)
        result, raw = self.of(POISSON, y)
        shift, scale = self.X.mean(axis=0), self.X.std(axis=0)
        glm = PoissonRegressor(alpha=0, tol=1e-12, solver="newton-cholesky")
        glm.fit((self.X - shift) / scale, y)
        slopes = glm.coef_ / scale
        beta = np.r_[glm.intercept_ - slopes @ shift, slopes]
        np.testing.assert_allclose(raw.coef[0, 0], beta, rtol=1e-6)
        value = stats.poisson.logpmf(y, np.exp(self.A @ beta)).sum()
        assert result.log_likelihood == pytest.approx(value, rel=1e-10)

    @pytest.mark.parametrize("n_classes", [2, 4])
    def test_logistic_regression(self, n_classes):
        rng = np.random.default_rng(8)
        Z = (self.X - self.X.mean(axis=0)) / self.X.std(axis=0)
        logits = Z @ rng.normal(size=(3, n_classes))
        y = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
        result, raw = self.of(Multinomial(n_classes), y.astype(float))
        theirs = LogisticRegression(C=1e12, tol=1e-12, max_iter=1000).fit(Z, y)
        value = theirs.predict_log_proba(Z)[np.arange(250), y].sum()
        assert result.log_likelihood == pytest.approx(value, rel=1e-8)
        found = log_softmax(raw.coef[0] @ self.A.T, axis=0).T
        np.testing.assert_allclose(found, theirs.predict_log_proba(Z), atol=1e-4)
        assert (raw.coef[0, -1] == 0).all()

    @pytest.mark.parametrize("cls", [MixtureOfExpertsModel, MixtureOfExpertsEM])
    def test_t_distribution(self, cls):
        y = stats.t.rvs(4, 3, 2, size=800, random_state=9)
        X = np.ones((800, 1))
        model = cls(1, StudentT(), Design((), ()))
        result = fit(model, X, y, tol=1e-12)
        raw = result.params.raw(model.design)
        dof, loc, scale = stats.t.fit(y)
        found = raw.dof[0], raw.coef[0, 0, 0], np.sqrt(raw.covariance[0, 0, 0])
        np.testing.assert_allclose(found, (dof, loc, scale), rtol=2e-3)
        value = stats.t.logpdf(y, dof, loc, scale).sum()
        assert result.log_likelihood >= value - 1e-7
        assert result.log_likelihood == pytest.approx(value, rel=1e-6)


# ------------------------------------------------------------------------ formulas


@ALL
@DESIGNS
@pytest.mark.parametrize("k", [1, 3])
def test_the_likelihood_is_the_formulas(name, design, k):
    X, y = smooth(name, 60)
    w = np.random.default_rng(1).uniform(0, 2, 60)
    model = MixtureOfExpertsModel(k, FAMILIES[name], design)
    params = some_params(model, X, y)
    known = naive_log_likelihood(model, params, X, y, w)
    assert e_step(model, params, X, y, w).constant == pytest.approx(known, rel=1e-10)
    bound = MixtureOfExpertsEM(k, FAMILIES[name], design)
    value = bound.lower_bound(params, e_step(bound, params, X, y, w))
    assert value == pytest.approx(known, rel=1e-10)


def numerical(function, at, step=1e-5):
    """Return the gradient by central differences of fourth order."""
    at = np.asarray(at, dtype=float)
    slope = np.empty_like(at)
    for i in np.ndindex(at.shape):
        values = []
        for multiple in (-2, -1, 1, 2):
            moved = at.copy()
            moved[i] += multiple * step
            values.append(function(moved))
        slope[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return slope


@DESIGNS
@pytest.mark.parametrize("name", ["gaussian", "poisson", "multinomial"])
def test_gradients(name, design):
    """The likelihood's slope is in the statistics, for gate and experts."""
    X, y = smooth(name, 80)
    w = np.random.default_rng(1).uniform(0, 2, 80)
    model = MixtureOfExpertsModel(3, FAMILIES[name], design)
    params = some_params(model, X, y)
    found = e_step(model, params, X, y, w)

    def value(**changed):
        moved = dataclasses.replace(params, **changed)
        return e_step(model, moved, X, y, w).constant

    slope = numerical(lambda gate: value(gate=gate), params.gate)
    np.testing.assert_allclose(found.gate.linear, slope, rtol=1e-6, atol=1e-6)
    slope = numerical(lambda coef: value(coef=coef), params.coef)
    if name == "poisson":
        linear = found.experts.observed - found.experts.fitted
    elif name == "multinomial":
        linear = found.experts.linear
    else:
        fitted = params.coef @ found.experts.gram
        precision = np.linalg.inv(params.covariance)
        linear = precision @ (found.experts.cross - fitted)
    np.testing.assert_allclose(linear, slope, rtol=1e-6, atol=1e-6)


def test_curvature_of_the_gate():
    """It is that of the log-likelihood with the experts known: of softmax alone."""
    X, y = smooth("gaussian", 80)
    w = np.random.default_rng(1).uniform(0, 2, 80)
    model = MixtureOfExpertsModel(3, GAUSS, SHARED)
    params = some_params(model, X, y)
    Z, _ = model.design.rows(X, params.frame)

    def normaliser(free):
        gate = np.vstack([free, np.zeros(3)])
        return w @ logsumexp(gate @ Z, axis=0)

    free = params.gate[:-1]
    known = numerical(
        lambda a: numerical(normaliser, a, 1e-3)[0, 1], free, 1e-3
    )  # one row of the Hessian
    found = hessian_of(e_step(model, params, X, y, w).gate.hessian, 3)
    np.testing.assert_allclose(found[1], known.ravel(), rtol=1e-6, atol=1e-6)
    assert np.linalg.eigvalsh(found).min() > 0


@pytest.mark.parametrize("name", ["poisson", "multinomial"])
def test_curvature_of_experts(name):
    """With one expert, it is the Hessian of the likelihood."""
    X, y = smooth(name, 80)
    model = MixtureOfExpertsModel(1, FAMILIES[name], CONSTANT)
    params = some_params(model, X, y)

    def value(free):
        coef = params.coef.copy()
        coef[0, : len(free)] = free
        return e_step(model, dataclasses.replace(params, coef=coef), X, y).constant

    n_free = 1 if name == "poisson" else 2
    free = params.coef[0, :n_free]
    slopes = numerical(lambda a: numerical(value, a, 1e-3)[0, 1], free, 1e-3)
    experts = e_step(model, params, X, y).experts
    if name == "poisson":
        found = experts.gram[0]
    else:
        found = hessian_of(experts.hessian[0], 3)
    np.testing.assert_allclose(found[1], -slopes.ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["poisson", "multinomial"])
def test_the_bound_touches_and_stays_below(name):
    X, y = smooth(name, 100)
    model = MixtureOfExpertsEM(2, FAMILIES[name], SHARED)
    params = some_params(model, X, y)
    found = e_step(model, params, X, y)
    for seed in range(20):
        other = some_params(model, X, y, seed + 1)
        bound = model.lower_bound(other, found)
        value = naive_log_likelihood(model, other, X, y, np.ones(100))
        assert bound <= value + 1e-9 * abs(value)


# -------------------------------------------------------------- the model's promises


def promised(name, design):
    """Data on which plain EM is quick, and the model of them."""
    rng, X, first, eta = make_rows()
    settings = {"n_starts": 2}
    family = FAMILIES[name]
    if name == "multinomial":  # who gave a class is known by the gate alone
        X[:, 0] += 0.3 * rng.normal(size=len(X))
        side = np.where(X[:, 0] > 0, X[:, 1], -X[:, 1])
        logits = 2 * side[:, None] * [1.0, -1.0, 0.0]
        y = np.argmax(logits + rng.gumbel(size=(len(X), 3)), 1).astype(float)
        family = Multinomial(3, ridge=1.0)
        settings["reg_gate"] = 1.0
    else:
        y = responses(name, rng, X, first, eta)
    return MixtureOfExpertsEM(2, family, design, **settings), X, y


@pytest.mark.parametrize(
    ("name", "design"),
    [
        pytest.param(
            name,
            design,
            id=f"{label}-{name}",
            marks=pytest.mark.slow if name == "poisson" and label != "apart" else (),
        )
        for label, design in (
            ("shared", SHARED),
            ("apart", APART),
            ("constant", CONSTANT),
        )
        for name in ("gaussian", "two", "diag", "tied", "poisson")
    ],
)
def test_promises(name, design):
    model, X, y = promised(name, design)
    check_model(model, X, y=y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "design"),
    [
        ("multinomial", APART),
        ("t", APART),
        pytest.param("t", SHARED, marks=pytest.mark.soak),
        pytest.param("t", CONSTANT, marks=pytest.mark.soak),
        pytest.param("two t", SHARED, marks=pytest.mark.soak),
        pytest.param("multinomial", SHARED, marks=pytest.mark.soak),
    ],
)
def test_promises_of_slow_families(name, design):
    model, X, y = promised(name, design)
    check_model(model, X, y=y)


def assert_climbs(result):
    """The penalised likelihood never fell from one point to the next."""
    values = np.append(result.trace.lower_bound_before, result.log_likelihood)
    assert np.diff(values).min(initial=0.0) >= -1e-10 * np.abs(values).max()


def rough(seed=0):
    return Simulated(
        3, speeds=[1, 0.5, 0.1], jitter=0.3, latency=0.01, loss=0.02, seed=seed
    )


def ends_alike(name, design, transport):
    X, y = smooth(name)
    family = Multinomial(3, ridge=1.0) if name == "multinomial" else FAMILIES[name]
    model = MixtureOfExpertsModel(2, family, design, n_starts=3, reg_gate=0.1)
    start = fit(model, X, y, max_iter=2, tol=0).params
    known = fit(model, X, y, start=start)
    assert known.converged
    assert_climbs(known)
    for schedule in SCHEDULES:
        for shards in (1, 2, 7):
            result = fit(
                model,
                X,
                y,
                start=start,
                schedule=schedule,
                shards=shards,
                transport=transport(),
            )
            assert result.converged
            assert_climbs(result)
            assert result.log_likelihood == pytest.approx(
                known.log_likelihood, rel=1e-7
            ), (schedule, shards)


@pytest.mark.parametrize("transport", [lambda: Local(2), rough], ids=["local", "rough"])
@pytest.mark.parametrize("name", ["gaussian", "poisson"])
def test_every_schedule_ends_alike(name, transport):
    ends_alike(name, SHARED, transport)


@pytest.mark.soak
@pytest.mark.parametrize("transport", [lambda: Local(2), rough], ids=["local", "rough"])
@pytest.mark.parametrize(
    ("name", "design"),
    [
        ("two", SHARED),
        ("two", APART),
        ("tied", SHARED),
        ("tied", APART),
        ("t", SHARED),
        ("multinomial", SHARED),
        ("multinomial", APART),
    ],
)
def test_every_schedule_ends_alike_for_all(name, design, transport):
    ends_alike(name, design, transport)


# ------------------------------------------------------- covariances, weights, limits


@pytest.mark.slow
@pytest.mark.parametrize(
    "acceleration", [None, "anderson", pytest.param("squarem", marks=pytest.mark.soak)]
)
@ALL
def test_the_bound_never_falls(name, acceleration):
    X, y = smooth(name)
    for reg_gate in (0.0, 1e-3):
        model = MixtureOfExpertsModel(3, FAMILIES[name], SHARED, reg_gate=reg_gate)
        result = fit(model, X, y, acceleration=acceleration, max_iter=60, tol=1e-9)
        assert_climbs(result)
        if not reg_gate:
            assert_monotone(result)
    known = naive_log_likelihood(model, result.params, X, y, np.ones(len(X)))
    found = result.log_likelihood + model.penalty(result.params)
    assert found == pytest.approx(known, rel=1e-9)


def test_restricted_covariances_are_stationary():
    X, Y = smooth("two")
    values = {}
    for kind in ("full", "diag", "tied"):
        model = MixtureOfExpertsModel(2, Gaussian(kind), SHARED)
        result = fit(model, X, Y)
        values[kind] = result.log_likelihood
        covariance = result.params.raw(SHARED).covariance
        if kind == "diag":
            assert (covariance[:, 0, 1] == 0).all()
        if kind == "tied":
            assert (covariance[0] == covariance[1]).all()
        # the covariance is that of the residuals
        raw = result.params.raw(SHARED)
        A = np.column_stack([np.ones(len(X)), X])
        log_r = log_softmax(A @ raw.gate.T, axis=1)
        for k in range(2):
            log_r[:, k] += stats.multivariate_normal.logpdf(
                Y - A @ raw.coef[k].T, None, covariance[k]
            )
        r = np.exp(log_softmax(log_r, axis=1))
        gaps = [Y - A @ raw.coef[k].T for k in range(2)]
        sums = np.stack([(g * r[:, [k]]).T @ g for k, g in enumerate(gaps)])
        known = sums / r.sum(axis=0)[:, None, None]
        if kind == "diag":
            known = known * np.eye(2)
        if kind == "tied":
            known = np.broadcast_to(sums.sum(axis=0) / len(X), known.shape)
        np.testing.assert_allclose(covariance, known, rtol=1e-4, atol=1e-7)
    assert values["full"] > max(values["diag"], values["tied"])


@pytest.mark.parametrize("cls", [MixtureOfExpertsModel, MixtureOfExpertsEM])
def test_equal_weights_leave_the_gate_alone(cls):
    X, y = smooth("gaussian")
    result = fit(cls(3, GAUSS, CONSTANT, equal_weights=True), X, y, max_iter=30, tol=0)
    assert not result.params.gate.any()
    assert result.effective_passes > 1


@ALL
def test_weights_are_repetitions(name):
    X, y = smooth(name)
    times = np.random.default_rng(2).integers(0, 4, len(X))
    model = MixtureOfExpertsModel(2, FAMILIES[name], SHARED, reg_gate=0.1)
    start = fit(model, X, y, max_iter=2, tol=0).params
    one = fit(model, X, y, start=start, sample_weight=times.astype(float))
    again = np.repeat(np.arange(len(X)), times)
    other = fit(model, X[again], y[again], start=start)
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-9)
    for found, known in zip(
        predicted(model, one.params, X), predicted(model, other.params, X), strict=True
    ):
        np.testing.assert_allclose(found, known, rtol=1e-3, atol=1e-3)


@ALL
def test_rows_without_weight_may_hold_anything(name):
    X, y = smooth(name)
    strange = np.full((3, 2), 1e30)
    more = np.concatenate([X, strange])
    values = np.zeros((3, *y.shape[1:])) if name == "multinomial" else 1e30
    targets = np.concatenate([y, np.broadcast_to(values, (3, *y.shape[1:]))])
    w = np.r_[np.ones(len(X)), np.zeros(3)]
    for cls in (MixtureOfExpertsModel, MixtureOfExpertsEM):
        model = cls(2, FAMILIES[name], SHARED)
        params = some_params(model, X, y)
        found = e_step(model, params, more, targets, w)
        known = e_step(model, params, X, y)
        assert found.constant == pytest.approx(known.constant, rel=1e-12)
        np.testing.assert_allclose(found.gate.linear, known.gate.linear, rtol=1e-9)
        np.testing.assert_allclose(found.counts, known.counts, rtol=1e-12)
        for field in dataclasses.fields(known.experts):
            np.testing.assert_allclose(
                getattr(found.experts, field.name),
                getattr(known.experts, field.name),
                rtol=1e-9,
                atol=1e-9,
                err_msg=field.name,
            )


@pytest.mark.parametrize("name", ["gaussian", "two", "t", "poisson"])
def test_a_large_offset_does_no_harm(name):
    X, y = smooth(name)
    # what the columns still hold of their digits beside the offset
    far = 1e8
    X = (X + far) - far
    shifted = y if name == "poisson" else y + far
    y = y if name == "poisson" else shifted - far
    model = MixtureOfExpertsModel(2, FAMILIES[name], SHARED, reg_gate=0.1)
    one, other = fit(model, X, y), fit(model, X + far, shifted)
    assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-7)
    here, there = (
        predicted(model, one.params, X),
        predicted(model, other.params, X + far),
    )
    order = [0, 1] if np.abs(here[0] - there[0]).max() < 0.5 else [1, 0]
    np.testing.assert_allclose(there[0][order], here[0], atol=1e-4)
    offset = 0.0 if name == "poisson" else far
    np.testing.assert_allclose(there[1][order] - offset, here[1], atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "multinomial" else ())
        for name in FAMILIES
    ],
)
def test_columns_that_say_nothing_new(name):
    X, y = smooth(name)
    more = np.column_stack([X, X @ [1.0, -2.0], np.full(len(X), 7.0)])
    wide = Design((0, 1, 2, 3), (0, 1, 2, 3))
    settings = {"n_starts": 3}
    one = MixtureOfExpertsModel(2, FAMILIES[name], SHARED, **settings)
    other = MixtureOfExpertsModel(2, FAMILIES[name], wide, **settings)
    known, found = fit(one, X, y, n_init=3), fit(other, more, y, n_init=3)
    rel = 1e-4 if name == "multinomial" else 1e-7
    assert found.log_likelihood == pytest.approx(known.log_likelihood, rel=rel)
    assert np.abs(packed(found.params)).max() < 100


def test_responses_that_a_family_cannot_have():
    X, y = smooth("poisson")
    model = MixtureOfExpertsModel(2, POISSON, SHARED)
    with pytest.raises(ValueError, match="negative"):
        fit(model, X, y - 5)


def test_fewer_rows_than_components():
    model = MixtureOfExpertsModel(5, GAUSS, SHARED)
    with pytest.raises(ValueError, match="fewer components"):
        fit(model, np.ones((4, 2)), np.arange(4.0))


def test_parameters_of_another_mixture_are_refused():
    X, y = smooth("gaussian")
    model = MixtureOfExpertsModel(2, GAUSS, SHARED)
    start = fit(model, X, y, max_iter=2, tol=0).params
    with pytest.raises(ValueError, match="another mixture"):
        fit(MixtureOfExpertsModel(3, GAUSS, SHARED), X, y, start=start)


@pytest.mark.parametrize("cls", [MixtureOfExpertsModel, MixtureOfExpertsEM])
def test_a_gate_that_separates(cls):
    """Its likelihood has no maximum; the experts' have."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.uniform(-2, -1, 100), rng.uniform(1, 2, 100)]
    left = x < 0
    y = np.where(left, 1 + 2 * x, 3 - x) + 0.1 * rng.normal(size=200)
    model = cls(2, GAUSS, Design((0,), (0,)))
    result = fit(model, x[:, None], y, tol=1e-8, max_iter=500)
    raw = result.params.raw(model.design)
    assert np.isfinite(packed(result.params)).all()
    assert np.isfinite(result.log_likelihood)
    assert_monotone(result)
    own = [np.polyfit(x[s], y[s], 1)[::-1] for s in (left, ~left)]
    order = np.argsort(raw.coef[:, 0, 0])
    np.testing.assert_allclose(raw.coef[order, 0], own, atol=1e-4)
    gate, _ = predicted(model, result.params, np.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(gate[order], np.eye(2), atol=1e-2)


# -------------------------------------------------------------------- coordinates


@ALL
def test_coordinates_and_back(name):
    X, y = smooth(name, 60)
    model = MixtureOfExpertsModel(3, FAMILIES[name], SHARED)
    params = some_params(model, X, y)
    vector = model.pack(params)
    again = model.unpack(params, vector)
    np.testing.assert_allclose(model.pack(again), vector, rtol=1e-12)
    for field in ("gate", "coef", "covariance", "dof"):
        np.testing.assert_allclose(
            getattr(again, field), getattr(params, field), rtol=1e-10, atol=1e-12
        )
    moved = model.unpack(params, vector + 0.01)
    assert np.isfinite(e_step(model, moved, X, y).constant)


@ALL
@DESIGNS
def test_other_units_change_nothing(name, design):
    X, y = smooth(name, 60)
    model = MixtureOfExpertsModel(3, FAMILIES[name], design)
    params = some_params(model, X, y)
    rng = np.random.default_rng(4)
    q = len(params.y_mean)
    plain = params.covariance.size == 0
    frame = Frame(
        rng.normal(size=2),
        rng.uniform(0.5, 2, 2),
        np.zeros(q) if plain else rng.normal(size=q),
        np.ones(q) if plain else rng.uniform(0.5, 2, q),
    )
    value = e_step(model, params, X, y).constant
    for other in (params.moved(design, frame), params.raw(design)):
        assert e_step(model, other, X, y).constant == pytest.approx(value, rel=1e-10)
        for found, known in zip(
            predicted(model, other, X), predicted(model, params, X), strict=True
        ):
            np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-9)
    shuffled = params.ordered([2, 0, 1])
    assert e_step(model, shuffled, X, y).constant == pytest.approx(value, rel=1e-12)
    assert (shuffled.gate[-1] == 0).all()
    assert (params.raw(design).frame.x_scale == 1).all()
