"""Expectation steps of Gaussian mixtures against scikit-learn, side by side.

Both sides run the same number of EM iterations from the same parameters on the same
data. scikit-learn uses its default threads; here, one kernel call per thread. The
time per iteration is the difference of two runs of different length, so that set-up
costs cancel on both sides.

    python benchmarks/kernel_gaussian.py --shapes 200000x50x20 200000x10x5
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from dask_em.kernels import gaussian

E_STEPS = {
    "full": gaussian.full_e_step,
    "tied": gaussian.tied_e_step,
    "diag": gaussian.diag_e_step,
    "spherical": gaussian.spherical_e_step,
}


def useful_flops(covariance_type, n, d, k):
    """Count the arithmetic no implementation avoids: densities and moments."""
    if covariance_type == "full":
        return n * k * (2 * d * (d + 1) + 5 * d)
    if covariance_type == "tied":
        return n * (d * (d + 1) + k * 6 * d)
    return n * k * 8 * d


def blas_peak(dtype, size=3000):
    """Measure the matrix product's rate at the default number of threads."""
    a = np.random.default_rng(0).random((size, size)).astype(dtype)
    return 2 * size**3 / min(elapsed(np.matmul, a, a) for _ in range(4))


def elapsed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def make_data(n, d, k, dtype, seed=0):
    """Draw overlapping clusters, and a start close to them."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(scale=2.0, size=(k, d))
    X = rng.standard_normal((n, d), dtype=dtype)
    X += centers.astype(dtype)[rng.integers(k, size=n)]
    return X, np.full(k, 1 / k), centers + rng.normal(scale=0.3, size=(k, d))


def unit_precisions(covariance_type, d, k):
    return {
        "full": np.broadcast_to(np.eye(d), (k, d, d)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[covariance_type]


def fit_sklearn(covariance_type, X, weights, means, iterations):
    GaussianMixture(
        len(weights),
        covariance_type=covariance_type,
        tol=0,
        max_iter=iterations,
        weights_init=weights,
        means_init=means,
        precisions_init=unit_precisions(covariance_type, X.shape[1], len(weights)),
    ).fit(X)


def sklearn_seconds(covariance_type, X, weights, means, iterations):
    """Time an iteration: a long fit minus a short one, over the difference."""
    arguments = (covariance_type, X, weights, means)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        short = min(elapsed(fit_sklearn, *arguments, 1) for _ in range(2))
        long = min(elapsed(fit_sklearn, *arguments, 1 + iterations) for _ in range(2))
    return (long - short) / iterations


def kernel_seconds(covariance_type, X, weights, means, threads, repeats=5):
    """Time one call per thread on equal shares of the rows."""
    shards = np.array_split(X, threads)
    precisions = unit_precisions(covariance_type, X.shape[1], len(weights))
    arguments = (means.mean(axis=0), np.log(weights), means, precisions)

    def run(shard):
        return E_STEPS[covariance_type](shard, None, *arguments)

    run(X[:1])
    with ThreadPoolExecutor(threads) as pool:
        return min(elapsed(lambda: list(pool.map(run, shards))) for _ in range(repeats))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=["200000x10x5", "200000x50x20"],
        help="n_samples x n_features x n_components",
    )
    parser.add_argument("--types", nargs="+", default=list(E_STEPS), choices=E_STEPS)
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--iterations", type=int, default=3)
    return parser.parse_args()


def main():
    options = parse_arguments()
    peaks = {dtype: blas_peak(dtype) for dtype in options.dtypes}
    print(
        f"{'shape':>14} {'type':>9} {'dtype':>7} {'sklearn s':>9} {'ours s':>8} "
        f"{'ratio':>6} {'GFLOP/s':>7} {'of gemm':>7}"
    )
    for shape in options.shapes:
        n, d, k = map(int, shape.split("x"))
        for dtype in options.dtypes:
            X, weights, means = make_data(n, d, k, dtype)
            for kind in options.types:
                ours = kernel_seconds(kind, X, weights, means, options.threads)
                theirs = sklearn_seconds(kind, X, weights, means, options.iterations)
                rate = useful_flops(kind, n, d, k) / ours
                print(
                    f"{shape:>14} {kind:>9} {dtype:>7} {theirs:9.4f} {ours:8.4f} "
                    f"{theirs / ours:6.1f} {rate / 1e9:7.1f} "
                    f"{rate / peaks[dtype]:7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
