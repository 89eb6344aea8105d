"""Arrays, frames and labelled data, in memory and lazy: all one to an estimator."""

import pickle

import dask.array as da
import numpy as np
import pytest
from mixture_data import D, K, X, start, unknown

from dask_em import GaussianMixture


def test_lists(fitted):
    ours = GaussianMixture(K, random_state=0).fit(X.tolist())
    np.testing.assert_allclose(ours.means_, fitted.means_)


def test_data_frame(fitted):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    ours = GaussianMixture(K, random_state=0).fit(frame)
    np.testing.assert_allclose(ours.means_, fitted.means_)
    assert ours.feature_names_in_.tolist() == list("abcd")
    assert isinstance(ours.predict(frame), np.ndarray)
    with pytest.raises(ValueError, match="same order"):
        ours.predict(frame[list("badc")])
    with pytest.warns(UserWarning, match="valid feature names"):
        ours.predict(X)
    ours.fit(X)
    assert not hasattr(ours, "feature_names_in_")


@pytest.mark.parametrize("persist", [False, True])
def test_dask_array(lazy, fitted, persist):
    rows = lazy.persist(scheduler="sync") if persist else lazy
    ours = GaussianMixture(K, random_state=0).fit(rows)
    np.testing.assert_allclose(ours.means_, fitted.means_, rtol=1e-8)
    weights = np.arange(len(X))
    a = ours.fit(lazy, sample_weight=da.from_array(weights, chunks=70)).means_
    b = ours.fit(X, sample_weight=weights).means_
    np.testing.assert_allclose(a, b, rtol=1e-8)


def test_lazy_input_gives_lazy_output(lazy, fitted):
    for method in ("predict", "predict_proba", "score_samples"):
        ours = getattr(fitted, method)(lazy)
        expected = getattr(fitted, method)(X)
        assert isinstance(ours, da.Array)
        assert ours.chunks[0] == lazy.chunks[0]
        assert ours.shape == expected.shape
        assert ours.dtype == expected.dtype
        np.testing.assert_allclose(ours.compute(scheduler="sync"), expected)
    for method in ("score", "aic", "bic"):
        assert getattr(fitted, method)(lazy) == pytest.approx(
            getattr(fitted, method)(X)
        )
    assert fitted.score(lazy, sample_weight=np.arange(len(X))) == pytest.approx(
        fitted.score(X, sample_weight=np.arange(len(X)))
    )
    assert isinstance(GaussianMixture(K).fit_predict(lazy), da.Array)


def test_nothing_is_computed_before_its_time(fitted):
    def forbidden(block):
        raise AssertionError("computed")

    rows = da.ones((10, D), chunks=5).map_blocks(
        forbidden, dtype=float, meta=np.empty((0, 0))
    )
    assert fitted.predict_proba(rows).shape == (10, K)
    with pytest.raises(ValueError, match="n_components must be"):
        GaussianMixture(0).fit(rows)


def test_unknown_chunk_sizes(lazy, fitted):
    rows = unknown(lazy)
    for method in ("predict", "predict_proba", "score_samples"):
        ours = getattr(fitted, method)(rows)
        np.testing.assert_allclose(
            ours.compute(scheduler="sync"), getattr(fitted, method)(X)
        )
    for method in ("score", "aic", "bic"):
        assert getattr(fitted, method)(rows) == pytest.approx(
            getattr(fitted, method)(X)
        )
    assert fitted.predict_proba(rows).shape[1] == K


def test_dask_data_frame(fitted):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame(X, columns=list("abcd"))
    lazy = dd.from_pandas(frame, npartitions=3)
    ours = GaussianMixture(K, random_state=0).fit(lazy)
    np.testing.assert_allclose(ours.means_, fitted.means_)
    assert ours.feature_names_in_.tolist() == list("abcd")
    labels = ours.predict(lazy)
    assert isinstance(labels, da.Array)
    np.testing.assert_array_equal(labels.compute(), fitted.predict(X))
    weighted = ours.fit(lazy, sample_weight=lazy.a * 0 + 2)
    np.testing.assert_allclose(weighted.means_, fitted.means_)
    assert weighted.result_.weight == 2 * len(X)
    with pytest.raises(ValueError, match="same order"):
        ours.predict(lazy[list("badc")])
    with pytest.raises(TypeError, match=r"\['e'\] are not; encode or drop"):
        ours.fit(lazy.assign(e="x"))


@pytest.mark.parametrize("chunked", [False, True])
def test_labelled(fitted, chunked):
    xr = pytest.importorskip("xarray")
    field = xr.DataArray(
        X.reshape(30, 10, D),
        dims=("time", "x", "level"),
        coords={"time": np.arange(30), "level": list("abcd")},
    )
    if chunked:
        field = field.chunk({"time": 7, "x": 4})
    ours = GaussianMixture(K, **start("full")).fit(field, dim=("time", "x"))
    expected = GaussianMixture(K, **start("full")).fit(X)
    np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-8)
    assert ours.feature_names_in_.tolist() == list("abcd")

    turned = field.transpose("level", "x", "time")
    labels = ours.predict(turned)
    assert labels.dims == ("x", "time")
    assert (labels.chunks is not None) == chunked
    np.testing.assert_array_equal(
        labels.transpose("time", "x").values.ravel(), expected.predict(X)
    )
    np.testing.assert_array_equal(labels.time, field.time)
    proba = ours.predict_proba(field)
    assert proba.dims == ("time", "x", "component")
    np.testing.assert_allclose(proba.values.reshape(-1, K), expected.predict_proba(X))
    assert ours.score(turned) == pytest.approx(expected.score(X))

    weights = xr.DataArray(np.arange(30.0), dims="time", coords={"time": field.time})
    a = ours.fit(field, dim=("time", "x"), sample_weight=weights).means_
    b = expected.fit(X, sample_weight=np.repeat(np.arange(30.0), 10)).means_
    np.testing.assert_allclose(a, b, rtol=1e-8)
    assert ours.fit_predict(field, dim=("time", "x")).dims == ("time", "x")
    assert pickle.loads(pickle.dumps(ours)).predict(turned).dims == ("x", "time")
    with pytest.raises(ValueError, match="lacks the feature dimensions"):
        ours.predict(field.isel(level=0, drop=True))
