"""Labels: everything that is taken apart can be put together again."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

xr = pytest.importorskip("xarray")

from dask_em import GaussianMixture  # noqa: E402
from dask_em.labels import is_labelled, trace_dataset, unwrap  # noqa: E402

SHAPES = [(4, 3, 5, 2), (1, 3, 1, 5), (2, 3, 6, 6), (6, 1, 1, 1), (1, 1, 1, 4)]
SAMPLES = [("t",), ("t", "y"), ("y", "x", "t"), ("x", "t", "y", "f")]


def field(shape, lazy=False, dims=()):
    values = np.random.default_rng(0).normal(size=shape)
    coords = {
        "t": np.arange(shape[0]) * 10,
        "lat": (("y", "x"), values[0, :, :, 0]),
        "f": list("abcdefgh")[: shape[3]],
        "units": "m",
    }
    X = xr.DataArray(values, dims=("t", "y", "x", "f"), coords=coords)
    if lazy:
        X = X.chunk({d: 2 if d in dims else -1 for d in X.dims})
    return X


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dims", SAMPLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_come_back_in_their_place(shape, dims, lazy):
    X = field(shape, lazy, dims)
    table, labels = unwrap(X, dims)
    features = [d for d in X.dims if d not in dims]
    samples = [d for d in X.dims if d in dims]
    assert table.shape == (labels.n_rows, X.size // labels.n_rows)
    assert (labels.chunks is not None) == lazy

    rows = labels.wrap_rows(table.sum(axis=1), name="total")
    expected = X.sum(features).transpose(*samples)
    assert rows.dims == tuple(samples)
    assert rows.name == "total"
    np.testing.assert_allclose(rows.values, expected.values)
    for name, coord in X.coords.items():
        assert (name in rows.coords) == ({*coord.dims} <= {*dims})
    if lazy:
        assert rows.chunks == X.transpose(*samples, *features).chunks[: len(samples)]

    whole = labels.wrap_table(table, dim="column")
    assert whole.dims == (*samples, "column")
    np.testing.assert_array_equal(whole.column, np.arange(table.shape[1]))
    np.testing.assert_allclose(whole.sum("column").values, expected.values)


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_follow_the_rows(lazy):
    dims = ("t", "y", "x")
    X = field((4, 3, 5, 2), lazy, dims)
    _, labels = unwrap(X, dims)
    by_time = xr.DataArray([1.0, 2, 3, 4], dims="t", coords={"t": X.t})
    weights = labels.wrap_rows(labels.flatten(by_time))
    expected = np.broadcast_to(by_time.values[:, None, None], labels.shape)
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_array_equal(
        labels.wrap_rows(labels.flatten(np.array(expected))), expected
    )
    with pytest.raises(ValueError, match="reindex_like"):
        labels.flatten(by_time.assign_coords(t=[0, 1, 2, 3]))
    with pytest.raises(ValueError, match="not sample dimensions"):
        labels.flatten(by_time.rename(t="z"))
    with pytest.raises(ValueError, match="as a DataArray"):
        labels.flatten(np.ones(7))


def test_eager_values_of_lazy_rows():
    X = field((4, 3, 5, 2), True, ("t", "y", "x"))
    table, labels = unwrap(X, ("t", "y", "x"))
    rows = labels.wrap_rows(table.sum(axis=1).compute())
    np.testing.assert_allclose(rows, X.sum("f"))


def test_default_dimension():
    line = xr.DataArray(np.arange(5.0), dims="x")
    assert unwrap(line)[0].shape == (5, 1)
    assert unwrap(line.expand_dims(y=3))[1].dims == ("y",)
    with pytest.raises(ValueError, match="dim="):
        unwrap(field((2, 2, 2, 2)))
    with pytest.raises(ValueError, match="dim="):
        unwrap(xr.DataArray(1.0))


def test_features_of_the_fit_decide():
    X = field((4, 3, 5, 2))
    _, labels = unwrap(X, ("t", "y", "x"))
    turned = X.transpose("f", "x", "t", "y").isel(t=slice(2))
    again, found = unwrap(turned, features=labels.features)
    assert found.dims == ("x", "t", "y")
    np.testing.assert_array_equal(found.wrap_table(again), turned.transpose(..., "f"))
    assert labels.features.names.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="lacks the feature dimensions"):
        unwrap(X.isel(f=0, drop=True), features=labels.features)
    with pytest.raises(ValueError, match="was fitted to"):
        unwrap(X.isel(f=[0]), features=labels.features)
    with pytest.raises(ValueError, match="into line"):
        unwrap(X.isel(f=[1, 0]), features=labels.features)
    with pytest.raises(ValueError, match="expand_dims"):
        unwrap(X.isel(t=0, y=0, x=0), features=labels.features)


def test_one_clear_error():
    X = field((4, 3, 5, 2))
    with pytest.raises(TypeError, match="to_dataarray"):
        unwrap(X.to_dataset(name="a"))
    with pytest.raises(ValueError, match="must name dimensions"):
        unwrap(X, dim="z")
    with pytest.raises(ValueError, match=r"X\.chunk\(\{'f': -1\}\)"):
        unwrap(X.chunk({"f": 1}), dim=("t", "y", "x"))


def test_small_and_picklable():
    X = field((4, 3, 5, 2))
    features = unwrap(X, ("t", "y", "x"))[1].features
    data = pickle.dumps(features)
    assert len(data) < 3000
    assert pickle.loads(data).names.tolist() == ["a", "b"]


def test_xarray_is_not_imported():
    code = (
        "import sys, dask_em.labels; assert not dask_em.labels.is_labelled([1]); "
        "sys.exit('xarray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert is_labelled(xr.DataArray(1.0))


def test_trace():
    X = np.random.default_rng(0).normal(size=(60, 2))
    result = GaussianMixture(2, tol=1e-2, random_state=0).fit(X).result_
    log = trace_dataset(result)
    assert dict(log.sizes) == {"m_step": result.n_m_steps, "shard": 1}
    np.testing.assert_array_equal(log.m_step, result.trace.version)
    assert {*log.data_vars} == {
        *("lower_bound", "lower_bound_before", "time", "effective_passes"),
        *("n_reports", "n_reissued", "n_resets", "n_refused", "staleness"),
    }
    assert log.time.attrs["units"] == "s"
    assert log.attrs["status"] == result.status
    assert log.attrs["settings_schedule"] == "Synchronous()"
