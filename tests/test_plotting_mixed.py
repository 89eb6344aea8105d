"""Plots of mixed models show the numbers of the model."""

import numpy as np
import pytest
from scipy import stats

from dask_em import LinearMixedModel
from dask_em.datasets import make_mixed_model

plt = pytest.importorskip("matplotlib.pyplot")

from dask_em.plotting import plot_random_effects, plot_residuals  # noqa: E402


@pytest.fixture(autouse=True)
def closed_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    return make_mixed_model(4000, n_groups=60, n_random=3, random_state=0)


@pytest.fixture(scope="module")
def model(data):
    model = LinearMixedModel(fit_intercept=False)
    return model.fit(data.X, data.y, groups=data.groups, Z=data.Z)


def drawn(ax):
    """Points and ends of bars, in the order on the page."""
    (points,) = [line for line in ax.lines if len(line.get_xdata()) > 2]
    (bars,) = ax.collections
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    heights = np.array([segment[0, 1] for segment in bars.get_segments()])
    np.testing.assert_array_equal(points.get_ydata(), heights)
    return np.asarray(points.get_xdata()), ends


@pytest.mark.parametrize("effect", [None, "z0", "z2"])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_all_groups_with_intervals(model, effect, level):
    ax = plot_random_effects(model, effect=effect, level=level)
    modes, ends = drawn(ax)
    effects = model.random_effects_["group"]
    k = 2 if effect == "z2" else 0
    order = np.argsort(effects.modes[:, k])
    np.testing.assert_array_equal(modes, effects.modes[order, k])
    half = stats.norm.ppf((1 + level) / 2) * effects.std[order, k]
    np.testing.assert_allclose(ends, np.stack([modes - half, modes + half], axis=1))
    assert ax.get_xlabel() == f"{effect or 'z0'}, with {100 * level:g} % intervals"
    assert ax.get_ylabel() == "group (sorted)"


def test_some_of_many_groups(model):
    ax = plot_random_effects(model, max_groups=7)
    modes, _ = drawn(ax)
    every = np.sort(model.random_effects_["group"].modes[:, 0])
    assert len(modes) == 7
    assert (modes[0], modes[-1]) == (every[0], every[-1])
    ranks = np.searchsorted(every, modes)
    assert set(np.diff(ranks)) <= {9, 10}
    assert ax.get_ylabel() == "group (7 of 60, evenly by rank)"
    labels = model.random_effects_["group"].to_frame()["z0"].sort_values().index
    shown = [int(text.get_text()) for text in ax.get_yticklabels()]
    assert shown == labels[ranks].tolist()


def test_one_group_is_a_subset_too(model):
    ax = plot_random_effects(model, max_groups=1)
    (bars,) = ax.collections
    assert len(bars.get_segments()) == 1


def test_factors_by_name():
    rng = np.random.default_rng(0)
    groups = {"a": rng.integers(8, size=900), "b": rng.integers(12, size=900)}
    y = rng.normal(size=8)[groups["a"]] + rng.normal(size=900)
    model = LinearMixedModel().fit(rng.normal(size=(900, 1)), y, groups=groups)
    for factor, shown in ((None, "a"), ("a", "a"), ("b", "b")):
        ax = plot_random_effects(model, factor)
        modes, _ = drawn(ax)
        expected = np.sort(model.random_effects_[shown].modes[:, 0])
        np.testing.assert_array_equal(modes, expected)
        assert ax.get_ylabel() == f"{shown} (sorted)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": "school"}, "factor must be one of 'group', got 'school'"),
        ({"effect": "z7"}, "effect must be one of 'z0', 'z1', 'z2', got 'z7'"),
        ({"level": 95}, "level must be between 0 and 1, got 95"),
        ({"max_groups": 0}, "max_groups"),
    ],
)
def test_mistakes(model, settings, message):
    with pytest.raises(ValueError, match=message):
        plot_random_effects(model, **settings)
    assert not plt.get_fignums()


def test_no_random_effects(data):
    model = LinearMixedModel().fit(data.X, data.y)
    with pytest.raises(ValueError, match="no random effects"):
        plot_random_effects(model)


def test_residuals(model, data):
    _, mine = plt.subplots()
    ax = plot_residuals(model, data.X, data.y, groups=data.groups, Z=data.Z, ax=mine)
    assert ax is mine
    points, zero = ax.lines
    fitted = model.predict(data.X, groups=data.groups, Z=data.Z)
    np.testing.assert_array_equal(points.get_xdata(), fitted)
    np.testing.assert_array_equal(points.get_ydata(), data.y - fitted)
    assert set(zero.get_ydata()) == {0.0}


def test_residuals_of_many_rows_are_counted():
    data = make_mixed_model(6000, n_groups=60, n_random=1, random_state=0)
    model = LinearMixedModel().fit(data.X, data.y, groups=data.groups)
    ax = plot_residuals(model, data.X, data.y, groups=data.groups)
    (cells,) = ax.collections
    assert cells.get_array().sum() == 6000
    assert len(ax.lines) == 1  # zero


def test_dask_arrays_are_computed(model, data):
    import dask.array as da

    X, Z, y, groups = (
        da.from_array(a, chunks=(1000, *a.shape[1:]))
        for a in (data.X, data.Z, data.y, data.groups)
    )
    ax = plot_residuals(model, X, y, groups={"group": groups}, Z=Z)
    expected = plot_residuals(model, data.X, data.y, groups=data.groups, Z=data.Z)
    for one, other in zip(ax.lines, expected.lines, strict=True):
        np.testing.assert_allclose(one.get_xydata(), other.get_xydata(), rtol=1e-12)
    lazy = LinearMixedModel(fit_intercept=False)
    lazy.fit(X, y, groups={"group": groups}, Z={"group": Z})
    modes, _ = drawn(plot_random_effects(lazy))
    np.testing.assert_allclose(modes, drawn(plot_random_effects(model))[0], rtol=1e-5)


def test_frames():
    pytest.importorskip("formulaic")
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=500), "g": rng.integers(20, size=500)})
    frame["y"] = frame["x"] + rng.normal(size=20)[frame["g"]] + rng.normal(size=500)
    frame.loc[3, "x"] = np.nan
    model = LinearMixedModel("y ~ x + (1 | g)").fit(frame)
    points, _ = plot_residuals(model, frame).lines
    kept = frame.dropna()
    np.testing.assert_allclose(points.get_xdata(), model.predict(kept))
    np.testing.assert_allclose(points.get_ydata(), kept["y"] - model.predict(kept))
    lazy, _ = plot_residuals(model, dd.from_pandas(frame, npartitions=3)).lines
    np.testing.assert_allclose(lazy.get_xydata(), points.get_xydata())


def test_nothing_to_draw(model, data):
    y = np.full(3, np.nan)
    with pytest.raises(ValueError, match="no row has all its values"):
        plot_residuals(model, data.X[:3], y, groups=data.groups[:3], Z=data.Z[:3])
