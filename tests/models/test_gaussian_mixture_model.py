"""What a Gaussian mixture's statistics survive."""

import dask.array as da
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Sklearns

from dask_em import GaussianMixture, fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel

TYPES = ("full", "tied", "diag", "spherical")
Z = np.random.default_rng(0).normal(size=(2000, 2))
X = np.concatenate([np.random.default_rng(1).normal(m, 1, (300, 2)) for m in (-4, 4)])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("away", [1e4, 1e6, 1e8])
def test_a_mean_may_come_from_far_away(kind, away):
    settings = {"means_init": [[away, away]], "covariance_type": kind}
    ours = GaussianMixture(1, **settings, random_state=0).fit(Z)
    theirs = Sklearns(1, **settings, random_state=0).fit(Z)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-9)
    np.testing.assert_allclose(ours.lower_bound_, theirs.score(Z), rtol=1e-12)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scale", [1e-200, 1e-18, 1e18])
def test_the_scale_of_weights_does_not_matter(kind, scale):
    weights = np.random.default_rng(2).uniform(0.5, 2.0, len(X))
    one, other = (
        GaussianMixture(2, covariance_type=kind, random_state=0).fit(X, None, w)
        for w in (weights, weights * scale)
    )
    np.testing.assert_allclose(other.means_, one.means_, rtol=1e-8)
    np.testing.assert_allclose(other.lower_bound_, one.lower_bound_, rtol=1e-10)


def test_weights_whose_sum_overflows_are_refused():
    with pytest.raises(ValueError, match="divide the weights"):
        fit_em(GaussianMixtureModel(2), X, sample_weight=np.full(len(X), 1e308))


@pytest.mark.parametrize(
    ("chunk", "match"),
    [
        (lambda b: b[:, :1], "1 columns"),
        (lambda b: b[:50], "50"),
        (lambda b: np.r_[b, b], "200"),
        (lambda b: b[:, 0], "two dimensions"),
    ],
)
def test_chunks_that_are_not_as_declared_are_refused(chunk, match):
    D = da.from_array(X, chunks=(100, 2))
    lying = D.map_blocks(chunk, dtype=float, chunks=D.chunks)
    with pytest.raises(ValueError, match=match):
        fit_em(GaussianMixtureModel(2), lying, transport="local")


def test_warm_start_needs_the_same_type_of_covariances():
    mixture = GaussianMixture(2, covariance_type="tied", warm_start=True).fit(X)
    with pytest.raises(ValueError, match="warm_start=False"):
        mixture.set_params(covariance_type="diag").fit(X)


def test_parameters_from_other_data_are_adopted():
    model = GaussianMixtureModel(2, covariance_type="tied")
    found = fit_em(model, X, random_state=0)
    part = fit_em(model, X[:400], start=found.params, tol=1e-9)
    own = fit_em(model, X[:400], random_state=0, tol=1e-9)
    np.testing.assert_allclose(part.log_likelihood, own.log_likelihood, rtol=1e-7)
