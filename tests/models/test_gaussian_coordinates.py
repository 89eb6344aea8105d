"""Mixtures as vectors, and what accelerators make of them."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Sklearns

from dask_em import GaussianMixture
from dask_em.models.gaussian_coordinates import packed, unpacked

RNG = np.random.default_rng(0)
KINDS = ("full", "tied", "diag", "spherical")


def covariances(kind, k, d):
    matrices = RNG.normal(size=(k, d, 2 * d))
    matrices = matrices @ matrices.swapaxes(1, 2)
    return {
        "full": matrices,
        "tied": matrices[0],
        "diag": RNG.uniform(0.1, 3.0, (k, d)),
        "spherical": RNG.uniform(0.1, 3.0, k),
    }[kind]


@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (1, 4), (4, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind, shape):
    k, d = shape
    weights = RNG.dirichlet(np.ones(k))
    means, known = RNG.normal(size=shape), covariances(kind, k, d)
    how = {"full": kind in ("full", "tied"), "scale": 2.5}
    vector = packed(weights, means, known, **how)
    assert vector.ndim == 1
    found = unpacked(vector, np.zeros(shape), np.zeros(known.shape), **how)
    for ours, theirs in zip(found, (weights, means, known), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_any_vector_is_a_mixture(kind):
    how = {"full": kind in ("full", "tied"), "scale": 1.0}
    shape = covariances(kind, 3, 2).shape
    n = 3 + 6 + (int(np.prod(shape)) // 4 * 3 if how["full"] else int(np.prod(shape)))
    weights, _, found = unpacked(
        RNG.normal(size=n) * 3, np.zeros((3, 2)), np.zeros(shape), **how
    )
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    if how["full"]:
        assert (np.linalg.eigvalsh(found) > 0).all()
    else:
        assert (found > 0).all()


@pytest.mark.parametrize("acceleration", ["anderson", "squarem"])
@pytest.mark.parametrize("kind", KINDS)
def test_fewer_passes_to_the_same_optimum(kind, acceleration):
    centres = np.array([[0.0, 0.0], [2.2, 1.0], [0.0, 2.6]])
    X = centres[RNG.integers(3, size=900)] + RNG.normal(size=(900, 2))
    start = {
        "means_init": centres,
        "weights_init": np.full(3, 1 / 3),
        "precisions_init": {
            "full": np.tile(np.eye(2), (3, 1, 1)),
            "tied": np.eye(2),
            "diag": np.ones((3, 2)),
            "spherical": np.ones(3),
        }[kind],
    }
    how = {"covariance_type": kind, "reg_covar": 0.0, "max_iter": 20_000, **start}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        known = Sklearns(3, tol=1e-11, **how).fit(X)
    plain = GaussianMixture(3, tol=1e-11, **how).fit(X)
    fast = GaussianMixture(3, tol=1e-11, acceleration=acceleration, **how).fit(X)
    assert fast.converged_
    assert fast.lower_bound_ == pytest.approx(known.score(X), abs=1e-7)
    assert fast.n_iter_ < plain.n_iter_ / 2
    # the likelihood at the points that were kept never falls
    kept = fast.result_.trace.lower_bound_before
    assert np.diff(kept).min() >= -1e-9 * abs(kept[-1])
