"""scikit-learn's own checks, with those expected to fail and why."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_em import (
    PPCA,
    DictionaryLearning,
    FactorAnalysis,
    GaussianMixture,
    LinearMixedModel,
    MixtureOfExpertsClassifier,
    MixtureOfExpertsRegressor,
)

TYPES = ("full", "tied", "diag", "spherical")


WANTS_Y = "score_samples is of responses given rows: it takes X and y"
OVERFITTED = (
    "15 rows, 10 columns and 2 experts: every fit passes through the rows, and which "
    "one comes out hangs on rounding; tested on rows enough in test_experts.py"
)
EXPECTED = {
    "check_methods_sample_order_invariance": WANTS_Y,
    "check_methods_subset_invariance": WANTS_Y,
    "check_sample_weight_equivalence_on_dense_data": OVERFITTED,
}


def expected(estimator):
    name = type(estimator).__name__
    return EXPECTED if name.startswith("MixtureOfExperts") else {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(
    [
        *(GaussianMixture(covariance_type=kind) for kind in TYPES),
        LinearMixedModel(),
        MixtureOfExpertsRegressor(),
        DictionaryLearning(),
        FactorAnalysis(1),
        PPCA(1),
    ],
    expected_failed_checks=expected,
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(
    [
        MixtureOfExpertsClassifier(),
        MixtureOfExpertsRegressor(family="student_t", gate="constant"),
    ],
    expected_failed_checks=expected,
)
def test_scikit_learn_at_length(estimator, check):
    check(estimator)
