"""Plots of mixtures of experts and of reductions show the numbers of the models."""

import numpy as np
import pytest
from scipy import stats

from dask_em import (
    GaussianMixture,
    MixtureOfExpertsClassifier,
    MixtureOfExpertsRegressor,
    reduce_mixture,
)

plt = pytest.importorskip("matplotlib.pyplot")

from matplotlib.colors import to_rgb  # noqa: E402

from dask_em.plots.canvas import PALETTE, colours  # noqa: E402
from dask_em.plotting import plot_experts, plot_gate, plot_reduction  # noqa: E402


@pytest.fixture(autouse=True)
def closed_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    """Two lines, the second where the first column is large."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 2)) + np.array([1.0, -2.0])
    second = X[:, 0] - 1 + 0.7 * rng.logistic(size=900) > 0
    y = np.where(second, 2 + 3 * X[:, 0] + X[:, 1], -1 - 2 * X[:, 0])
    return X, y + 0.4 * rng.normal(size=900)


@pytest.fixture(scope="module")
def mixture(data):
    return MixtureOfExpertsRegressor(2, random_state=0).fit(*data)


@pytest.fixture(scope="module")
def sites(data):
    X, y = data
    # of many starts, so that all of them have the same two experts
    model = MixtureOfExpertsRegressor(2, n_init=3, random_state=0)
    return [
        MixtureOfExpertsRegressor(**model.get_params()).fit(X[i::3], y[i::3])
        for i in range(3)
    ]


def drawn_lines(ax):
    """Points of the experts' lines by their label, with their colours."""
    found = {}
    for lines in ax.collections:
        label = lines.get_label()
        if label.startswith("expert"):
            segments = np.array(lines.get_segments())
            points = np.vstack([segments[:, 0], segments[-1:, 1]])
            found[label] = points, lines.get_colors()
    return found


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --------------------------------------------------------------------------- experts


def test_experts(mixture, data):
    X, y = data
    _, mine = plt.subplots()
    ax = plot_experts(mixture, X, y, feature=1, ax=mine)
    assert ax is mine
    points = ax.collections[0]
    np.testing.assert_array_equal(points.get_offsets(), np.column_stack([X[:, 1], y]))
    share = mixture.responsibilities(X, y)
    np.testing.assert_allclose(points.get_facecolors()[:, :3], share @ colours(2))
    lines = drawn_lines(ax)
    assert list(lines) == ["expert 0", "expert 1"] == entries(ax)
    for k, (line, colour) in enumerate(lines.values()):
        own = share[:, k] @ X / share[:, k].sum()
        mean = mixture.intercept_[k] + own[0] * mixture.coef_[k, 0]
        np.testing.assert_allclose(line[:, 1], mean + line[:, 0] * mixture.coef_[k, 1])
        np.testing.assert_allclose(colour[:, :3] - 0.8 * colours(2)[k], 0, atol=1e-12)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column 1", "response")
    assert ax.get_ylim()[0] < y.min() < y.max() < ax.get_ylim()[1]


def test_lines_fade_with_the_gate(data):
    X, y = data
    one = MixtureOfExpertsRegressor(2, random_state=0).fit(X[:, :1], y)
    for k, (line, colour) in enumerate(
        drawn_lines(plot_experts(one, X[:, :1], y)).values()
    ):
        gate = one.gate_proba(line[:, :1])[:, k]
        middle = (gate[:-1] + gate[1:]) / 2
        np.testing.assert_allclose(colour[:, 3], 0.2 + 0.8 * middle, atol=1e-12)
        assert np.ptp(colour[:, 3]) > 0.5


def test_some_of_many_rows(mixture):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12_000, 2))
    y = mixture.predict(X)
    ax = plot_experts(mixture, X, y)
    offsets = ax.collections[0].get_offsets()
    assert len(offsets) == 5000
    np.testing.assert_array_equal(offsets[[0, -1], 0], X[[0, -1], 0])
    assert ax.get_ylabel() == "response (5000 rows, evenly)"


def test_lazy_rows(mixture, data):
    import dask.array as da

    X, y = (da.from_array(a, chunks=(250, *a.shape[1:])) for a in data)
    lazy, eager = plot_experts(mixture, X, y), plot_experts(mixture, *data)
    for one, other in zip(lazy.collections, eager.collections, strict=True):
        np.testing.assert_allclose(one.get_offsets(), other.get_offsets())
    assert len(plot_gate(mixture, X).collections[0].get_offsets()) == len(data[0])


def test_frames(data):
    pd = pytest.importorskip("pandas")
    X, y = pd.DataFrame(data[0], columns=["age", "income"]), pd.Series(data[1])
    one = MixtureOfExpertsRegressor(2, random_state=0).fit(X, y)
    assert plot_experts(one, X, y, feature="income").get_xlabel() == "income"
    ax = plot_gate(one, X, features=["income", "age"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("income", "age")
    with pytest.raises(ValueError, match="feature names the column 'wealth'"):
        plot_experts(one, X, y, feature="wealth")


def test_lazy_frames_of_unknown_length(mixture):
    pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 2))
    y = mixture.predict(X)
    rows, response = (dd.from_array(a, chunksize=2000) for a in (X, y))
    named = MixtureOfExpertsRegressor(2, random_state=0).fit(rows, response)
    ax = plot_experts(named, rows, response)
    offsets = ax.collections[0].get_offsets()
    at = np.linspace(0, 5999, 5000).round().astype(int)
    np.testing.assert_array_equal(offsets, np.column_stack([X[at, 0], y[at]]))
    assert ax.get_ylabel() == "response (5000 rows, evenly)"


def test_several_responses(data):
    X, y = data
    Y = np.column_stack([y, -2 * y])
    one = MixtureOfExpertsRegressor(2, random_state=0).fit(X, Y)
    ax = plot_experts(one, X, Y, target=1)
    np.testing.assert_array_equal(ax.collections[0].get_offsets()[:, 1], Y[:, 1])
    assert ax.get_ylabel() == "response 1"
    with pytest.raises(ValueError, match="target must be a column of y, 0 to 1"):
        plot_experts(one, X, Y, target=2)


def test_rates_are_curves(data):
    X = data[0][:, :1]
    y = np.random.default_rng(0).poisson(np.exp(0.5 * X[:, 0]))
    one = MixtureOfExpertsRegressor(1, family="poisson").fit(X, y)
    ((line, _),) = drawn_lines(plot_experts(one, X, y)).values()
    rate = np.exp(one.intercept_[0] + one.coef_[0, 0] * line[:, 0])
    np.testing.assert_allclose(line[:, 1], rate)


def test_a_classifier_has_no_lines(data):
    X, y = data
    one = MixtureOfExpertsClassifier(2, random_state=0).fit(X, y > 0)
    with pytest.raises(TypeError, match="not classes; see plot_gate"):
        plot_experts(one, X, y > 0)
    assert plot_gate(one, X).images


# ------------------------------------------------------------------------------ gate


def test_gate_over_one_column(mixture, data):
    X, _ = data
    ax = plot_gate(mixture, X, features=0)
    *curves, rug = ax.lines
    rows = np.tile(X.mean(axis=0), (len(curves[0].get_xdata()), 1))
    rows[:, 0] = curves[0].get_xdata()
    gate = mixture.gate_proba(rows)
    for k, curve in enumerate(curves):
        np.testing.assert_allclose(curve.get_ydata(), gate[:, k], atol=1e-12)
        assert to_rgb(curve.get_color()) == to_rgb(PALETTE[k])
    np.testing.assert_array_equal(rug.get_xdata(), X[:, 0])
    assert entries(ax) == ["expert 0", "expert 1"]
    assert ax.get_ylabel() == "probability by the gate"


def test_gate_over_two_columns(mixture, data):
    X, _ = data
    ax = plot_gate(mixture, X)
    (image,) = ax.images
    picture = np.asarray(image.get_array())
    left, right, low, high = image.get_extent()
    n = len(picture)
    across, up = np.meshgrid(np.linspace(left, right, n), np.linspace(low, high, n))
    gate = mixture.gate_proba(np.column_stack([across.ravel(), up.ravel()]))
    sure = 2 * gate.max(axis=1, keepdims=True) - 1
    expected = 1 - 0.75 * sure * (1 - colours(2)[gate.argmax(axis=1)])
    np.testing.assert_allclose(picture.reshape(-1, 3), expected, atol=1e-9)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), X)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column 0", "column 1")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (7, "features names the column 7"),
        ([], "one or two columns"),
        ([0, 0], "twice"),
    ],
)
def test_gate_mistakes(mixture, data, features, message):
    with pytest.raises(ValueError, match=message):
        plot_gate(mixture, data[0], features=features)
    assert not plt.get_fignums()


def test_a_constant_gate(data):
    one = MixtureOfExpertsRegressor(2, gate="constant", random_state=0).fit(*data)
    with pytest.raises(ValueError, match="the same for all rows"):
        plot_gate(one, data[0])
    for _, colour in drawn_lines(plot_experts(one, *data)).values():
        assert np.ptp(colour[:, 3]) < 1e-12


# ------------------------------------------------------------------------- reduction


def spheres(rng, n=400, at=(0.0, 7.0)):
    return np.asarray(at)[rng.integers(2, size=n), None] + rng.normal(size=(n, 2))


@pytest.fixture(scope="module")
def gaussians():
    rng = np.random.default_rng(0)
    return [GaussianMixture(2, random_state=i).fit(spheres(rng)) for i in range(4)]


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_ellipses(kind):
    rng = np.random.default_rng(1)
    models = [
        GaussianMixture(2, covariance_type=kind, random_state=i).fit(spheres(rng))
        for i in range(3)
    ]
    one = reduce_mixture(models)
    ax = plot_reduction(models, one)
    *local, first, second = ax.patches
    assert len(local) == 6
    for patch, mean in zip((first, second), one.means_, strict=True):
        np.testing.assert_allclose(patch.get_center(), mean)
        # the edge is two standard deviations away
        edge = patch.get_patch_transform().transform([[1, 0], [0, 1], [-1, 0]]) - mean
        full = np.linalg.inv(one_covariance(one, patch is second))
        np.testing.assert_allclose(np.einsum("ij,jk,ik->i", edge, full, edge), 4.0)
    for i, patch in enumerate(local):
        mean = models[i // 2].means_[i % 2]
        np.testing.assert_allclose(patch.get_center(), mean)
        nearest = np.linalg.norm(one.means_ - mean, axis=1).argmin()
        assert to_rgb(patch.get_edgecolor()) == to_rgb(PALETTE[nearest])
        assert patch.get_linewidth() < first.get_linewidth()
    assert entries(ax) == ["component 0", "component 1", "of 3 models"]


def one_covariance(model, k):
    given = model.covariances_
    return {
        "full": lambda: given[int(k)],
        "tied": lambda: given,
        "diag": lambda: np.diag(given[int(k)]),
        "spherical": lambda: np.eye(2) * given[int(k)],
    }[model.covariance_type]()


def test_densities(gaussians):
    one = reduce_mixture(gaussians)
    ax = plot_reduction(gaussians, one, features=1)
    assert len(ax.lines) == 10
    for k, line in enumerate(ax.lines[-2:]):
        std = np.sqrt(one.covariances_[k, 1, 1])
        density = stats.norm.pdf(line.get_xdata(), one.means_[k, 1], std)
        np.testing.assert_allclose(line.get_ydata(), one.weights_[k] * density)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column 1", "weighted density")


def test_models_that_were_left_out(gaussians):
    far = GaussianMixture(2, random_state=0).fit(
        spheres(np.random.default_rng(5), at=(300.0, 400.0))
    )
    models = [*gaussians[:2], far, *gaussians[2:]]
    one = reduce_mixture(models, robust=True)
    assert one.reduction_.kept == (0, 1, 3, 4)
    ax = plot_reduction(models, one)
    grey = [p for p in ax.patches if to_rgb(p.get_edgecolor()) == (0.6, 0.6, 0.6)]
    assert [p.get_center()[0] > 200 for p in grey] == [True, True]
    assert entries(ax)[-1] == "1 left out"


def test_experts_of_sites(sites):
    one = reduce_mixture(sites, random_state=0)
    ax = plot_reduction(sites, one)
    lines = drawn_lines(ax)
    assert entries(ax) == ["expert 0", "expert 1", "of 3 models"]
    for k, (line, colour) in enumerate(lines.values()):
        slope = np.diff(line[:, 1]) / np.diff(line[:, 0])
        np.testing.assert_allclose(slope, one.coef_[k, 0])
        np.testing.assert_allclose(colour[:, :3] - colours(2)[k], 0, atol=1e-12)
    local = [c for c in ax.collections if c.get_label() == "_local"]
    assert len(local) == 6
    for i, line in enumerate(local):
        slope = sites[i // 2].coef_[i % 2, 0]
        nearest = np.abs(one.coef_[:, 0] - slope).argmin()
        np.testing.assert_allclose(line.get_colors()[0, :3], colours(2)[nearest])
    half = 2 * np.sqrt(one.feature_covariance_[0, 0])
    mean = one.feature_mean_[0]
    np.testing.assert_allclose(ax.get_xlim(), (mean - half, mean + half))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column 0", "mean response")


def test_classes_of_sites(data):
    X, y = data
    named = np.where(y > 0, "up", "down")
    models = [
        MixtureOfExpertsClassifier(1, random_state=0).fit(X[i::2], named[i::2])
        for i in range(2)
    ]
    ax = plot_reduction(models, reduce_mixture(models, random_state=0), features=1)
    assert ax.get_ylabel() == "probability of up"
    ((line, _),) = drawn_lines(ax).values()
    assert (line[:, 1] > 0).all() and (line[:, 1] < 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": [0, 1]}, "features must name one column"),
        ({"features": 5}, "features names the column 5"),
        ({"target": 3}, "target must be 0 to 0"),
    ],
)
def test_reduction_mistakes(sites, settings, message):
    with pytest.raises(ValueError, match=message):
        plot_reduction(sites, reduce_mixture(sites, random_state=0), **settings)
    assert not plt.get_fignums()


def test_other_models_have_no_such_picture(gaussians):
    one = reduce_mixture(gaussians)
    with pytest.raises(ValueError, match="more models than the 2 given"):
        plot_reduction(gaussians[:2], one)
    with pytest.raises(TypeError, match="must be a Gaussian mixture or"):
        plot_reduction([3], 3)


def test_many_components_have_colours_of_their_own():
    assert len(np.unique(colours(12), axis=0)) == 12
    assert len(np.unique(colours(7), axis=0)) == 7
