"""Rows around a few centres, and starts to fit from."""

import numpy as np

TYPES = ("full", "tied", "diag", "spherical")
STARTS = ("kmeans", "k-means++", "random", "random_from_data")
FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
K, D = 3, 4


def make_data(n=300, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.normal(size=(K, D))
    scales = rng.uniform(0.5, 1.5, size=(K, D, D)) * np.eye(D)
    members = rng.integers(K, size=n)
    noise = rng.normal(size=(n, 1, D))
    return centres[members] + (noise @ scales[members])[:, 0]


X = make_data()
#: Chunks of rows and columns, one of them empty.
CHUNKS = ((100, 0, 30, 170), (D,))


def start(kind):
    precisions = {
        "full": np.tile(np.eye(D), (K, 1, 1)),
        "tied": np.eye(D),
        "diag": np.ones((K, D)),
        "spherical": np.ones(K),
    }
    return {
        "covariance_type": kind,
        "weights_init": [0.2, 0.3, 0.5],
        "means_init": X[:K],
        "precisions_init": precisions[kind],
    }


def unknown(rows):
    """Forget the sizes of chunks."""
    return rows[rows[:, 0] > -np.inf]
