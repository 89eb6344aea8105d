"""scikit-learn's own checks, none of them expected to fail."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_em import GaussianMixture, LinearMixedModel

TYPES = ("full", "tied", "diag", "spherical")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(
    [*(GaussianMixture(covariance_type=kind) for kind in TYPES), LinearMixedModel()]
)
def test_scikit_learn(estimator, check):
    check(estimator)
