"""Linear mixed models end where lme4, nlme and MixedModels.jl end.

Reference values are strings: what is printed tells how many digits are known. Deviances
are -2 log-likelihood, or lme4's REML criterion.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from dask_em import LinearMixedModel

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        "DASK_EM_DATA" not in os.environ, reason="DASK_EM_DATA is not set"
    ),
]

DEVIANCE = 1e-6
RELATIVE = 1e-5


def read(name):
    path = Path(os.environ["DASK_EM_DATA"]) / "lmm" / f"{name}.csv.gz"
    frame = pd.read_csv(path)
    if name == "Orthodont":
        frame["female"] = (frame["Sex"] == "Female").astype(float)
    return frame


def assert_published(found, published):
    """Agreement to 1e-5, or to what the digits say where those are fewer."""
    words = published.split()
    found = np.ravel(found)
    assert len(found) == len(words)
    for value, word in zip(found, words, strict=True):
        decimals = len(word.partition(".")[2])
        tolerance = max(0.501 * 10.0**-decimals, RELATIVE * abs(float(word)))
        assert value == pytest.approx(float(word), rel=0, abs=tolerance), published


def lower(covariance):
    """The lower triangle, row by row."""
    return covariance[np.tril_indices(len(covariance))]


REFERENCES = {
    "sleepstudy, ML": (
        "sleepstudy",
        "Reaction ~ Days + (Days | Subject)",
        "ml",
        1751.9393444636682,
        "251.40510485 10.46728596",
        "6.632295 1.502239",
        {"Subject": "565.51541 11.05545 32.68220"},
        "654.94101",
    ),
    "sleepstudy, REML": (
        "sleepstudy",
        "Reaction ~ Days + (Days | Subject)",
        "reml",
        1743.6282722424,
        "251.40510485 10.46728596",
        "6.8246 1.5458",
        {"Subject": "612.09017 9.60437 35.07164"},
        "654.94103",
    ),
    "sleepstudy, intercepts": (
        "sleepstudy",
        "Reaction ~ Days + (1 | Subject)",
        "ml",
        1794.07864301,
        "251.40510485 10.46728596",
        "9.5062 0.8017",
        {"Subject": "1296.86995"},
        "954.52784",
    ),
    "sleepstudy, no correlation": (
        "sleepstudy",
        "Reaction ~ Days + (Days || Subject)",
        "ml",
        1752.003255140962,
        "251.40510485 10.46728596",
        None,
        {"Subject": "584.24979 0.00000 33.63314"},
        "653.11604",
    ),
    "Dyestuff, ML": (
        "Dyestuff",
        "Yield ~ 1 + (1 | Batch)",
        "ml",
        327.32705988112673,
        "1527.5",
        None,
        {"Batch": "1388.33303"},
        "2451.25009",
    ),
    "Dyestuff, REML": (
        "Dyestuff",
        "Yield ~ 1 + (1 | Batch)",
        "reml",
        319.654276842342,
        "1527.5",
        None,
        {"Batch": "1764.04951"},
        "2451.25009",
    ),
    "Dyestuff2": (
        "Dyestuff2",
        "Yield ~ 1 + (1 | Batch)",
        "ml",
        162.87303665382575,
        "5.6656",
        None,
        {"Batch": "0.00000000"},
        "13.34610",
    ),
    "Penicillin, ML": (
        "Penicillin",
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        "ml",
        332.1883486700085,
        "22.97222222",
        None,
        {"plate": "0.714993", "sample": "3.135188"},
        "0.302425",
    ),
    "Penicillin, REML": (
        "Penicillin",
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        "reml",
        330.86058899,
        "22.97222222",
        None,
        {"plate": "0.716909", "sample": "3.730918"},
        "0.302415",
    ),
    "Orthodont, ML": (
        "Orthodont",
        "distance ~ age + (age | Subject)",
        "ml",
        439.21160127,
        "16.76111111 0.66018519",
        "0.76076 0.06992",
        {"Subject": "4.81410 -0.274211 0.0461927"},
        "1.716203",
    ),
    "Orthodont, REML": (
        "Orthodont",
        "distance ~ age + (age | Subject)",
        "reml",
        442.63668588,
        "16.76111111 0.66018519",
        "0.77525 0.07125",
        {"Subject": "5.415110 -0.321062 0.0512696"},
        "1.716203",
    ),
    "Orthodont, sexes": (
        "Orthodont",
        "distance ~ age + female + (1 | Subject)",
        "ml",
        434.85648509,
        "17.70671296 0.66018519 -2.32102273",
        None,
        {"Subject": "2.993171"},
        "2.024154",
    ),
    "Orthodont, slopes of sexes, ML": (
        "Orthodont",
        "distance ~ I(age - 11) * female + (1 + I(age - 11) | Subject)",
        "ml",
        427.80595080,
        "24.96875 0.784375 -2.32102273 -0.30482955",
        None,
        {"Subject": "3.070161 0.063094 0.023759"},
        "1.716203",
    ),
    "Orthodont, slopes of sexes, REML": (
        "Orthodont",
        "distance ~ I(age - 11) * female + (1 + I(age - 11) | Subject)",
        "reml",
        432.58166150,
        "24.96875 0.784375 -2.32102273 -0.30482955",
        None,
        {"Subject": "3.350097 0.068142 0.032524"},
        "1.716203",
    ),
    "InstEval, three factors": (
        "InstEval",
        "y ~ 1 + service + (1 | s) + (1 | d) + (1 | dept)",
        "ml",
        237721.76877450474,
        "3.28258118 -0.09258861",
        None,
        {"s": "0.105973", "d": "0.265204", "dept": "0.006168"},
        "1.386489",
    ),
    "InstEval, two factors": (
        "InstEval",
        "y ~ 1 + service + (1 | s) + (1 | d)",
        "ml",
        237730.61535927,
        "3.28327966 -0.09113603",
        None,
        {"s": "0.105638", "d": "0.271217"},
        "1.386598",
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_reference(name):
    data, formula, method, deviance, beta, errors, covariance, sigma2 = REFERENCES[name]
    model = LinearMixedModel(formula, method=method).fit(read(data))
    assert model.converged_
    assert model.deviance_ == pytest.approx(deviance, rel=0, abs=DEVIANCE)
    assert_published([model.intercept_, *model.coef_], beta)
    if errors is not None:
        assert_published(np.sqrt(np.diag(model.fixed_covariance_)), errors)
    assert model.covariance_.keys() == covariance.keys()
    for factor, published in covariance.items():
        assert_published(lower(model.covariance_[factor]), published)
    assert_published(model.sigma2_, sigma2)


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize(
    ("formula", "cask", "batch"),
    [
        ("strength ~ 1 + (1 | batch/cask)", "batch:cask", "batch"),
        ("strength ~ 1 + (1 | sample) + (1 | batch)", "sample", "batch"),
    ],
    ids=["nested", "named"],
)
def test_pastes(formula, cask, batch, method):
    """Nested factors are the same by either way of saying so."""
    model = LinearMixedModel(formula, method=method).fit(read("Pastes"))
    known = {
        "ml": (247.9944658624955, "8.433672", "1.199154"),
        "reml": (246.99074585, "8.433668", "1.657310"),
    }
    deviance, within, between = known[method]
    assert model.deviance_ == pytest.approx(deviance, rel=0, abs=DEVIANCE)
    assert_published(model.intercept_, "60.05333333")
    assert_published(model.covariance_[cask], within)
    assert_published(model.covariance_[batch], between)
    assert_published(model.sigma2_, "0.678000")
    assert model.n_groups_ == {cask: 30, batch: 10}


def test_standard_deviations_and_correlation_that_nlme_prints():
    formula = "distance ~ age + (age | Subject)"
    model = LinearMixedModel(formula).fit(read("Orthodont"))
    cov = model.covariance_["Subject"]
    sd = np.sqrt(np.diag(cov))
    assert_published(sd, "2.3270341 0.22642779")
    assert_published(cov[0, 1] / sd.prod(), "-0.60933286")
    assert_published(np.sqrt(model.sigma2_), "1.310040")
    assert_published(model.log_likelihood_, "-221.31834294")


def test_standard_deviations_that_julia_prints():
    formula = "Reaction ~ Days + (Days | Subject)"
    model = LinearMixedModel(formula, method="ml").fit(read("sleepstudy"))
    sd = np.sqrt(np.diag(model.covariance_["Subject"]))
    assert_published(sd, "23.78066 5.71684")
    assert_published(model.log_likelihood_, "-875.969672")


def test_no_variance_between_batches():
    model = LinearMixedModel("Yield ~ 1 + (1 | Batch)", method="ml")
    model.fit(read("Dyestuff2"))
    assert_published(np.sqrt(model.sigma2_), "3.6532313514")
    assert 0 <= model.covariance_["Batch"][0, 0] < 1e-8


def test_lectures_with_an_interaction_of_28_coefficients():
    formula = "y ~ 1 + service * C(dept) + (1 | s) + (1 | d)"
    model = LinearMixedModel(formula, method="ml").fit(read("InstEval"))
    assert len(model.fixed_names_) == 28
    assert model.deviance_ == pytest.approx(237585.5534151695, rel=0, abs=DEVIANCE)


# ------------------------------------------------------------------ ratings of films

COLUMNS = [
    *("(Intercept)", "genrechildren", "genrecomedy", "genredrama"),
    *("movie.logit.pop", "user.liked.lastTRUE"),
]


def fit_ratings(method, **settings):
    frame = read("movielens_sample")
    X = frame[COLUMNS].to_numpy(float)
    model = LinearMixedModel(method=method, fit_intercept=False, shards=1, **settings)
    return model.fit(X, frame["rating"].to_numpy(float), groups=frame["group"], Z=X)


def passes_to_within(result, maximum, distance=1e-6):
    """E-steps until the log-likelihood is within a distance of its maximum."""
    trace = result.trace
    there = np.flatnonzero(trace.lower_bound_before >= maximum - distance)
    return int(trace.effective_passes[there[0]])


@pytest.mark.parametrize("method", ["ml", "reml"])
def test_ratings_by_users(method):
    model = fit_ratings(method)
    maximum = {"ml": -134716.349927675, "reml": -134740.542776931}[method]
    assert model.log_likelihood_ == pytest.approx(maximum, rel=0, abs=DEVIANCE)
    cov = next(iter(model.covariance_.values()))
    if method == "ml":
        assert_published(
            model.coef_,
            "3.43633708 -0.08375840 -0.02329464 0.11397147 0.37150158 0.19146186",
        )
        assert_published(
            np.diag(cov),
            "0.17414167 0.32251354 0.10307083 0.05510431 0.02268620 0.04772798",
        )
        assert_published(model.sigma2_, "0.75498103")
    else:
        assert_published(
            model.coef_,
            "3.43634006 -0.08376080 -0.02329485 0.11397427 0.37150246 0.19144633",
        )
        assert_published(
            np.sqrt(np.diag(model.fixed_covariance_)),
            "0.00919199 0.02055872 0.01096258 0.00907786 0.00381449 0.00683388",
        )
        assert_published(
            cov,
            "0.17422713 0.09023785 -0.02396264 -0.03012290 -0.01410664 -0.03582818 "
            "0.09023785 0.32295676 -0.12429017 -0.05257387 0.00553639 0.00764693 "
            "-0.02396264 -0.12429017 0.10319457 -0.00170766 0.00091553 -0.00077814 "
            "-0.03012290 -0.05257387 -0.00170766 0.05519021 0.00192599 -0.00539839 "
            "-0.01410664 0.00553639 0.00091553 0.00192599 0.02270094 -0.00633756 "
            "-0.03582818 0.00764693 -0.00077814 -0.00539839 -0.00633756 0.04776960",
        )
        assert_published(model.sigma2_, "0.75497998")
    assert passes_to_within(model.result_, maximum) <= 50
