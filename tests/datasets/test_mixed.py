"""Simulated data have the moments that they should have."""

import builtins
import dataclasses
import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dask_em.datasets import make_mixed_model, make_movielens_replica

pd = pytest.importorskip("pandas")

ARRAYS = ["X", "Z", "y", "groups"]
OURS = ["children", "comedy", "drama", "popularity", "liked_last"]
PUBLIC = [
    *("genrechildren", "genrecomedy", "genredrama"),
    *("movie.logit.pop", "user.liked.lastTRUE"),
]


def a_sample(n=50, columns=OURS):
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.standard_normal((n, 5)), columns=columns)


def assert_close(found, truth, error, z=5.0):
    """No further from the truth than `z` standard errors."""
    assert (np.abs(np.asarray(found) - truth) <= z * np.asarray(error)).all()


def by_least_squares(data):
    """Each group's random effects, and the covariance of their errors.

    Given the coefficients, groups with many rows tell their random effects.
    """
    effects, errors = [], []
    residual = data.y - data.X @ data.coef
    for group in np.unique(data.groups):
        Z = data.Z[data.groups == group]
        inverse = np.linalg.inv(Z.T @ Z)
        effects.append(inverse @ Z.T @ residual[data.groups == group])
        errors.append(data.sigma**2 * inverse)
    return np.array(effects), np.mean(errors, axis=0)


def check_parameters(data):
    """The data's moments against the parameters that come with them."""
    effects, error = by_least_squares(data)
    m = len(effects)
    total = data.covariance + error
    assert_close(effects.mean(axis=0), 0.0, np.sqrt(total.diagonal() / m))
    # variance of an entry of a Wishart matrix
    spread = np.outer(total.diagonal(), total.diagonal()) + total**2
    assert_close(effects.T @ effects / m, total, np.sqrt(spread / m))
    noise = data.y - data.X @ data.coef
    noise -= np.einsum("ij,ij->i", data.Z, effects[data.groups])
    dof = len(data.y) - effects.size
    assert_close(noise @ noise / dof, data.sigma**2, data.sigma**2 * np.sqrt(2 / dof))


# -------------------------------------------------------------- the paper's design


def test_the_design():
    data = make_mixed_model(500, 20, 5, 3, random_state=0)
    assert data.coef.tolist() == [-2.0, 2.0, -2.0, 2.0, -2.0]
    assert data.sigma == 1.0
    a, b, c = np.sqrt(2), np.sqrt(3), np.sqrt(6)
    block = [[1, -0.4 * a, 0.3 * b], [-0.4 * a, 2, 0.001 * c], [0.3 * b, 0.001 * c, 3]]
    np.testing.assert_allclose(data.covariance, block, rtol=1e-14)
    assert data.X.shape == (500, 5) and data.Z.shape == (500, 3)
    assert data.y.shape == data.groups.shape == (500,)
    for name in ARRAYS:
        kind = np.int64 if name == "groups" else np.float64
        assert getattr(data, name).dtype == kind
    assert {*np.unique(data.X)} == {*np.unique(data.Z)} == {-1.0, 1.0}
    assert data.groups.min() >= 0 and data.groups.max() < 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.sigma = 2.0


def test_covariances_of_other_sizes():
    six = make_mixed_model(10, 2, 1, 6, random_state=0).covariance
    scale = np.sqrt(np.arange(1, 7))
    correlation = six / np.outer(scale, scale)
    block = [[1, -0.4, 0.3], [-0.4, 1, 0.001], [0.3, 0.001, 1]]
    np.testing.assert_allclose(correlation[:3, :3], block, rtol=1e-14)
    np.testing.assert_allclose(correlation[3:, 3:], block, rtol=1e-14)
    assert (six[:3, 3:] == 0).all() and (six[3:, :3] == 0).all()
    for q in (1, 2, 4, 5, 7):
        found = make_mixed_model(10, 2, 1, q, random_state=0).covariance
        np.testing.assert_allclose(found, np.diag(np.arange(1.0, q + 1)), rtol=1e-14)


@pytest.mark.parametrize("n_random", [1, 3, 6])
def test_moments_of_the_design(n_random):
    n, m, p = 150_000, 1500, 4
    data = make_mixed_model(n, m, p, n_random, random_state=1)
    columns = np.hstack([data.X, data.Z])
    q = columns.shape[1]
    assert_close(columns.mean(axis=0), 0.0, n**-0.5)
    off = ~np.eye(q, dtype=bool)
    assert_close((columns.T @ columns / n)[off], 0.0, n**-0.5)
    counts = np.bincount(data.groups, minlength=m)
    assert len(counts) == m
    assert_close(counts, n / m, np.sqrt(n / m), z=6.0)
    assert_close(counts.var(), n / m, n / m * np.sqrt(2 / m))
    check_parameters(data)


def test_chunks_do_not_show():
    """Rows just before and after the borders of chunks are as random as others."""
    data = make_mixed_model(200_000, 10, 2, 1, random_state=3)
    first, second = slice(0, 1 << 16), slice(1 << 16, 1 << 17)
    agreement = (data.X[first] == data.X[second]).mean()
    assert_close(agreement, 0.5, 0.5 * (1 << 17) ** -0.5)


def test_the_design_is_light_on_memory():
    tracemalloc.start()
    data = make_mixed_model(400_000, 100, 20, 6, random_state=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    outputs = sum(getattr(data, name).nbytes for name in ARRAYS)
    assert peak < outputs + 16 * 2**20  # a chunk of 65,536 rows, whatever the size


@pytest.mark.parametrize("name", ["n_rows", "n_groups", "n_fixed", "n_random"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name}=0; it must be at least 1"):
        make_mixed_model(**{name: 0})
    with pytest.raises(TypeError):
        make_mixed_model(**{name: 2.5})


# ------------------------------------------------------------------------- seeds


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: make_mixed_model(100, 5, 2, 2, random_state=seed),
        lambda seed: make_movielens_replica(a_sample(), [30] * 4, random_state=seed),
    ],
)
def test_the_seed_decides(make):
    seeds = [
        lambda: 5,
        lambda: np.random.RandomState(5),
        lambda: np.random.default_rng(5),
    ]
    for seed in seeds:
        first, again = make(seed()), make(seed())
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for one, other in ((make(5), make(6)), (make(None), make(None))):
        assert not np.array_equal(one.X, other.X)
        assert not np.array_equal(one.y, other.y)


def test_the_replica_is_the_same_by_default():
    one, other = (make_movielens_replica(a_sample(), [3, 4]) for _ in range(2))
    np.testing.assert_array_equal(one.y, other.y)


# ------------------------------------------------------------------- the replica


def test_rows_come_from_the_sample():
    sample = a_sample()
    data = make_movielens_replica(sample, [3, 1, 600])
    assert data.Z is data.X and data.X.shape == (604, 6)
    assert data.groups.tolist() == [0] * 3 + [1] + [2] * 600
    assert (data.X[:, 0] == 1).all()
    drawn = {*map(tuple, data.X[:, 1:].tolist())}
    assert drawn <= {*map(tuple, sample.to_numpy().tolist())}
    assert len(drawn) == 50  # each is missed with probability 6e-6


def test_rows_are_drawn_uniformly():
    data = make_movielens_replica(a_sample(4), [100] * 500, random_state=2)
    _, counts = np.unique(data.X[:, 4], return_counts=True)
    assert_close(counts / len(data.X), 0.25, np.sqrt(0.25 * 0.75 / len(data.X)))


def test_moments_of_the_replica():
    data = make_movielens_replica(a_sample(300), [100] * 1500, random_state=4)
    check_parameters(data)
    assert data.sigma**2 == pytest.approx(0.75497998)
    assert data.coef[0] == 3.43634006 and data.covariance[5, 5] == 0.04776960
    np.testing.assert_array_equal(data.covariance, data.covariance.T)
    assert np.linalg.eigvalsh(data.covariance)[0] > 0


def test_parameters_of_ones_own():
    coef, covariance = np.arange(6.0), np.diag([1.0, 2, 0, 0.5, 0, 0])
    covariance[0, 1] = covariance[1, 0] = 0.7
    data = make_movielens_replica(
        a_sample(), [80] * 800, coef=coef, covariance=covariance, sigma2=4.0
    )
    np.testing.assert_array_equal(data.coef, coef)
    np.testing.assert_array_equal(data.covariance, covariance)
    assert data.sigma == 2.0
    check_parameters(data)
    # where the random effects have no variance and the noise hardly any, y is exact
    bare = make_movielens_replica(
        a_sample(), [5, 6], coef=coef, covariance=np.zeros((6, 6)), sigma2=1e-20
    )
    np.testing.assert_allclose(bare.y, bare.X @ coef, atol=1e-8)


def test_files_and_both_names_of_the_columns(tmp_path):
    ours, public = a_sample(), a_sample(columns=PUBLIC)
    public.insert(0, "(Intercept)", 1)
    public.insert(0, "group", 7)
    path, sizes = tmp_path / "sample.csv.gz", tmp_path / "sizes.txt.gz"
    public.to_csv(path, index=False)
    sizes.write_bytes(gzip.compress(b"4\n6\n2\n"))
    expected = make_movielens_replica(ours, np.array([4, 6, 2]))
    for sample in (public, path, str(path)):
        found = make_movielens_replica(sample, sizes)
        for name in ARRAYS:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"coef": [1.0, 2.0]}, r"coef has shape \(2,\)"),
        ({"coef": [np.nan] * 6}, "coef .* be finite"),
        ({"covariance": np.eye(5)}, r"covariance has shape \(5, 5\)"),
        ({"covariance": -np.eye(6)}, "eigenvalue -1; it must be positive"),
        ({"covariance": np.eye(6) + np.eye(6, k=1)}, "covariance is not symmetric"),
        ({"sigma2": 0.0}, "sigma2=0 .* must be positive"),
        ({"sigma2": [1.0]}, "sigma2 has shape"),
        ({"sizes": [1.5]}, "sizes must be"),
        ({"sizes": [2, 0]}, "sizes must be"),
        ({"sizes": []}, "sizes must be"),
        ({"sizes": [[1, 2]]}, "sizes must be"),
        ({"sizes": ["a"]}, "sizes must be"),
        ({"sample": a_sample()[OURS[:4]]}, "it must have children, comedy"),
        ({"sample": a_sample(0)}, "the sample has no rows"),
        ({"sample": a_sample() * np.nan}, "not finite"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message):
        make_movielens_replica(**{"sample": a_sample(), "sizes": [3], **settings})


def test_pandas_is_missing(monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(ImportError, match="needs pandas; install it with: pip"):
        make_movielens_replica("sample.csv", [3])


@pytest.mark.data
def test_a_replica_as_large_as_movielens():
    if "DASK_EM_DATA" not in os.environ:
        pytest.skip("DASK_EM_DATA is not set")
    folder = Path(os.environ["DASK_EM_DATA"]) / "lmm"
    data = make_movielens_replica(
        folder / "movielens_sample.csv.gz", folder / "movielens10m_group_sizes.txt.gz"
    )
    assert data.X.shape == (6_897_344, 6)
    counts = np.bincount(data.groups)
    assert len(counts) == 66_219 and counts.min() == 20 and counts.max() == 500
    sample = pd.read_csv(folder / "movielens_sample.csv.gz")[["(Intercept)", *PUBLIC]]
    error = sample.std() / np.sqrt(len(data.X))
    assert_close(data.X.mean(axis=0), sample.mean(), error)
    # ratings of a user are alike, so it is users who count here
    spread = np.sqrt(np.einsum("ij,jk,ik->i", data.X, data.covariance, data.X).mean())
    mean = data.X.mean(axis=0) @ data.coef
    share = np.sqrt(np.sum((counts / counts.sum()) ** 2))
    assert_close(data.y.mean(), mean, spread * share + data.sigma * len(data.y) ** -0.5)
