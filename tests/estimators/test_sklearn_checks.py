"""scikit-learn's own checks, none of them expected to fail."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_em import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([GaussianMixture(covariance_type=kind) for kind in TYPES])
def test_scikit_learn(estimator, check):
    check(estimator)
