"""Whole fits of Gaussian mixtures against scikit-learn, side by side.

All sides see the same rows and the same start, and run the same number of iterations:
scikit-learn with its default threads, `dask_em` on threads, and `dask_em` on a
LocalCluster of single-threaded processes, under the barrier and with the default
schedule. The time per iteration is the difference of a long and a short fit, so that
set-up costs cancel. Memory is the growth of the peak above what is resident with the
data loaded and a tiny fit done, summed over the processes of a cluster.

Every case runs in a fresh process.

    python benchmarks/fit_vs_sklearn.py
    python benchmarks/fit_vs_sklearn.py --shapes 2000000x50x20 --types full --repeats 1
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import distributed
import numba
import numpy as np
import psutil
import scipy
import sklearn
from distributed import Client, LocalCluster
from kernel_gaussian import blas_peak, elapsed, unit_precisions, useful_flops
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference

import dask_em
from dask_em import GaussianMixture

#: What is compared, and the settings of `dask_em`.
SIDES = {
    "sklearn": {},
    "threads": {"transport": "local"},
    "cluster": {"transport": "futures", "schedule": "synchronous"},
    "cluster, default": {"transport": "futures"},
}
TINY = 1000
SHORT = 2
#: Arithmetic that makes a long fit long enough to be timed, at 4 to 25 iterations.
LONG_FLOPS = 1e11
#: Somebody else's load halves the rate of a threaded product, in any one process.
BLAS_ROUNDS = 5
MB = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows in a file, and a mixture to fit to them."""

    path: Path
    n: int
    d: int
    k: int
    dtype: str
    covariance_type: str

    @property
    def flops(self) -> float:
        return useful_flops(self.covariance_type, self.n, self.d, self.k)

    @property
    def iterations(self) -> int:
        return int(np.clip(LONG_FLOPS / self.flops, 4, 25))

    @property
    def megabytes(self) -> float:
        return self.n * self.d * np.dtype(self.dtype).itemsize / MB

    def centers(self) -> np.ndarray:
        """Return centres two standard deviations apart: EM takes its time with them."""
        rng = np.random.default_rng(0)
        return rng.normal(scale=np.sqrt(2 / self.d), size=(self.k, self.d))

    def start(self) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(1).normal(size=(self.k, self.d))
        return {
            "weights_init": np.full(self.k, 1 / self.k),
            "means_init": self.centers() + noise / np.sqrt(2 * self.d),
            "precisions_init": unit_precisions(self.covariance_type, self.d, self.k),
        }

    def save_rows(self) -> None:
        rng = np.random.default_rng(2)
        X = rng.standard_normal((self.n, self.d), dtype=self.dtype)
        X += self.centers().astype(self.dtype)[rng.integers(self.k, size=self.n)]
        np.save(self.path, X)

    def lazy_rows(self, n_chunks: int) -> da.Array:
        rows = -(-self.n // n_chunks)
        chunks = (
            tuple(min(rows, self.n - start) for start in range(0, self.n, rows)),
            (self.d,),
        )
        return da.map_blocks(
            read_chunk, self.path, rows, chunks=chunks, dtype=self.dtype
        )


def read_chunk(path, rows, block_info):
    start = block_info[None]["chunk-location"][0] * rows
    return np.array(np.load(path, mmap_mode="r")[start : start + rows])


def fit(case, side, X, iterations):
    """Fit, and check that no side took fewer iterations than the others."""
    kind = Reference if side == "sklearn" else GaussianMixture
    mixture = kind(
        case.k,
        covariance_type=case.covariance_type,
        tol=0,
        max_iter=iterations,
        **case.start(),
        **SIDES[side],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(X)
    if mixture.n_iter_ != iterations:
        raise RuntimeError(f"{side}: {mixture.n_iter_} of {iterations} iterations")


def measure(case, side, repeats, n_workers, n_chunks):
    """Return seconds per iteration and megabytes of growth, in a fresh process."""
    with contextlib.ExitStack() as stack:
        processes = here
        if side.startswith("cluster"):
            cluster = LocalCluster(
                n_workers, threads_per_worker=1, processes=True, dashboard_address=None
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
            X = case.lazy_rows(n_chunks).persist()
            distributed.wait(X)

            def processes(fn):
                return fn() + sum(client.run(fn).values())

        else:
            X = np.load(case.path)
        fit(case, side, X[:TINY], SHORT)
        resident = processes(resident_megabytes)
        long = SHORT + case.iterations
        shorts, longs = zip(
            *(
                [elapsed(fit, case, side, X, length) for length in (SHORT, long)]
                for _ in range(repeats)
            ),
            strict=True,
        )
        seconds = (min(longs) - min(shorts)) / case.iterations
        return seconds, processes(peak_megabytes) - resident


def here(fn):
    return fn()


def resident_megabytes():
    return psutil.Process().memory_info().rss / MB


def peak_megabytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MB if sys.platform == "darwin" else 1024)


def in_fresh_process(fn, *args):
    # A process inherits the peak of the one that started it: this one stays small.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(fn, *args).result()


def print_table(options, folder):
    """Print a line per case, as soon as it is measured."""
    peaks = {
        dtype: max(in_fresh_process(blas_peak, dtype) for _ in range(BLAS_ROUNDS))
        for dtype in options.dtypes
    }
    for dtype, peak in peaks.items():
        print(f"- BLAS-3 in {dtype}: {peak / 1e9:.0f} GFLOP/s")
    ours = [side for side in options.sides if side != "sklearn"]
    columns = [
        *("n x d x K", "covariances", "dtype", "iterations"),
        *(f"{side}, s" for side in options.sides),
        *(f"sklearn / {side}" for side in ours if "sklearn" in options.sides),
        *(f"{side}, GFLOP/s (of BLAS-3)" for side in options.sides),
        "data, MB",
        *(f"{side}, + MB" for side in options.sides),
        "load",
    ]
    print()
    print_row(columns)
    print_row(["---"] * 3 + ["---:"] * (len(columns) - 3))
    for shape in options.shapes:
        n, d, k = map(int, shape.split("x"))
        for dtype in options.dtypes:
            path = folder / f"{shape}-{dtype}.npy"
            cases = [Case(path, n, d, k, dtype, kind) for kind in options.types]
            in_fresh_process(cases[0].save_rows)
            for case in cases:
                print_row(row_of(case, options, peaks[dtype]))
            path.unlink()


def row_of(case, options, peak):
    seconds, megabytes = {}, {}
    for side in options.sides:
        seconds[side], megabytes[side] = in_fresh_process(
            measure, case, side, options.repeats, options.workers, options.chunks
        )
    rates = [case.flops / value for value in seconds.values()]
    theirs = seconds.get("sklearn")
    return [
        f"{case.n:,} x {case.d} x {case.k}",
        case.covariance_type,
        case.dtype,
        case.iterations,
        *(f"{value:.4f}" for value in seconds.values()),
        *(f"{theirs / seconds[s]:.1f}" for s in seconds if theirs and s != "sklearn"),
        *(f"{rate / 1e9:.1f} ({rate / peak:.0%})" for rate in rates),
        f"{case.megabytes:.0f}",
        *(f"{value:.0f}" for value in megabytes.values()),
        f"{os.getloadavg()[0]:.1f}",
    ]


def print_row(cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def print_versions():
    for module in (dask_em, np, scipy, sklearn, numba, dask, distributed):
        print(f"- {module.__name__} {module.__version__}")
    print(f"- Python {platform.python_version()}, {platform.platform()}")
    print(f"- {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=["200000x10x5", "200000x50x20"],
        help="n_samples x n_features x n_components",
    )
    parser.add_argument("--types", nargs="+", default=["full", "diag"])
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--workers", type=int, default=2, help="of the cluster")
    parser.add_argument("--chunks", type=int, default=16, help="of the Dask array")
    return parser.parse_args()


def main():
    options = parse_arguments()
    print_versions()
    with tempfile.TemporaryDirectory() as folder:
        print_table(options, Path(folder))


if __name__ == "__main__":
    main()
