"""Iteration counts of the published DEM simulation, re-computed.

What is measured: how many iterations the code released with Srivastava, DePalma and Liu
(2019, "An Asynchronous Distributed Expectation Maximization Algorithm for Massive
Data", JCGS; arXiv:1806.07533) takes on the paper's linear mixed model, next to the
ratios in its figures. No time is measured and nothing of dask_em is used: it is what
our own schedules are compared with.

The rule of that code: every iteration a random floor(γK) of the K workers are active;
all of them are waited for, and what the others sent is thrown away, so that their slots
keep the statistics of their last active iteration. One iteration is that of van Dyk's
(2000) ECME_0 with β integrated out (REML): D from the random effects' second moments,
then β at the new D, then σ². It starts at D = I, σ² = 10.

- γ rows: one synchronous pass first, not counted; stop when the log-likelihood (ML, at
  the new parameters, all workers) changes by at most 1e-7, absolutely.
- EM row: one process. Every pass counts, the first too; stop on the REML objective,
  same 1e-7. "γ = 1" is the released rule with all workers active: the same steps as
  EM, counted and stopped as the γ rows. The paper has no such row.

A group's cross-products are computed once, and an iteration is linear algebra on those:
the same numbers as the released code's, which inverts a matrix of a group's size.

    OMP_NUM_THREADS=1 python benchmarks/dem_released.py [--q 3 6] [--workers 10 20]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import platform
import time

import numpy as np

TOL = 1e-7
MAX_ITER = 1000

#: Medians over the paper's ten replications at n = 1e6, m = 1e4, p = 10, read from its
#: figures: EM's iterations for each q; ratios to EM's for each (q, K) and γ.
PUBLISHED_EM = {3: 7, 6: 8}
PUBLISHED_RATIO = {
    (3, 10): {0.7: 1.71, 0.5: 2.43, 0.3: 3.71},
    (3, 20): {0.7: 1.86, 0.5: 2.64, 0.3: 4.29},
    (6, 10): {0.7: 1.69, 0.5: 2.44, 0.3: 3.63},
    (6, 20): {0.7: 1.75, 0.5: 2.56, 0.3: 4.31},
}


def design(
    n: int, m: int, p: int, q: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """X (n, p), Z (n, q), y and group of the paper's simulation, sorted by group."""
    if q % 3:
        raise ValueError(f"q must be a multiple of 3, got {q}")
    rng = np.random.default_rng(seed)
    block = [[1.0, -0.4, 0.3], [-0.4, 1.0, 0.001], [0.3, 0.001, 1.0]]
    scale = np.sqrt(np.arange(1, q + 1))
    covariance = np.outer(scale, scale) * np.kron(np.eye(q // 3), block)
    effects = rng.multivariate_normal(np.zeros(q), covariance, size=m)
    group = np.sort(rng.integers(m, size=n))
    X = 2 * rng.integers(2, size=(n, p), dtype=np.int8) - 1
    Z = 2 * rng.integers(2, size=(n, q), dtype=np.int8) - 1
    beta = np.resize([-2.0, 2.0], p)
    y = rng.normal(size=n)
    for rows in np.array_split(np.arange(n), max(n // 100_000, 1)):
        y[rows] += X[rows] @ beta + (Z[rows] * effects[group[rows]]).sum(axis=1)
    return X, Z, y, group


@dataclasses.dataclass(frozen=True)
class CrossProducts:
    """Every group's cross-products; `xy` stands for the columns [X y]."""

    zz: np.ndarray  # (m, q, q)
    zxy: np.ndarray  # (m, q, p + 1)
    xyxy: np.ndarray  # (m, p + 1, p + 1)
    n_rows: int

    @classmethod
    def of(cls, X, Z, y, group, m: int, groups_at_once: int = 500) -> CrossProducts:
        q = Z.shape[1]
        width = q + X.shape[1] + 1
        products = np.empty((m, width, width))
        bounds = np.searchsorted(group, np.arange(m + 1))
        for first in range(0, m, groups_at_once):
            ends = bounds[first : first + groups_at_once + 1]
            rows = slice(ends[0], ends[-1])
            W = np.column_stack([Z[rows], X[rows], y[rows]])
            ends = ends - ends[0]
            for i, (begin, end) in enumerate(itertools.pairwise(ends)):
                products[first + i] = W[begin:end].T @ W[begin:end]
        return cls(
            zz=products[:, :q, :q].copy(),
            zxy=products[:, :q, q:].copy(),
            xyxy=products[:, q:, q:].copy(),
            n_rows=len(y),
        )


class Manager:
    """The manager's slots and parameters; the workers' sums are taken in place.

    `share` (K, m) holds 1 where a group is a worker's. With U = (I + ZDZ')^-1 and
    M = (D^-1 + Z'Z)^-1 of a group, DZ'U = MZ' and [X y]'U[X y] = [X y]'[X y] - R'MR,
    R = Z'[X y].
    """

    def __init__(self, data: CrossProducts, share: np.ndarray) -> None:
        self.data = data
        self.share = share
        n_workers, self.m = share.shape
        q = data.zz.shape[1]
        self.p = data.xyxy.shape[1] - 1
        self.D = np.eye(q)
        self.sigma2 = 10.0
        self.moments = np.zeros((n_workers, q, q))  # sum of E bb'
        self.normal = np.zeros((n_workers, self.p, self.p + 1))  # X'U[X y]
        self.quads = np.zeros(n_workers)  # r'Ur
        everyone = np.arange(n_workers)
        self._at_new_D()
        self._update_beta(everyone)
        self.iterate(everyone)

    def iterate(self, active: np.ndarray) -> None:
        """One iteration; only the slots of the active workers are renewed."""
        # D, from messages at the old parameters
        b = self.MR @ self.v
        MRx = self.MR[:, :, : self.p]
        V = self.M + MRx @ self.C @ MRx.transpose(0, 2, 1)
        outer = b[:, :, None] * b[:, None, :] + self.sigma2 * V
        self.moments[active] = self._by_worker(outer)[active]
        self.D = self.moments.sum(axis=0) / (self.sigma2 * self.m)
        # β at the new D
        self._at_new_D()
        self._update_beta(active)
        # σ² at the new D and β
        r = self.data.zxy @ self.v
        rss = (self.data.xyxy @ self.v) @ self.v
        quads = self._by_worker(rss - np.einsum("iq,iqr,ir->i", r, self.M, r))
        self.quads[active] = quads[active]
        self.sigma2 = self.quads.sum() / (self.data.n_rows - self.p)
        # of all workers at the new parameters, without the constant
        n = self.data.n_rows
        deviance = n * math.log(self.sigma2) + self.log_det + quads.sum() / self.sigma2
        self.ml = -0.5 * deviance
        X_U_X = self.all_normal[:, : self.p]
        self.reml = self.ml - 0.5 * (
            np.linalg.slogdet(X_U_X)[1] - self.p * math.log(self.sigma2)
        )

    def _at_new_D(self) -> None:
        L = np.linalg.cholesky(self.D)
        inner = np.eye(len(L)) + L.T @ self.data.zz @ L
        diagonals = np.linalg.cholesky(inner).diagonal(axis1=1, axis2=2)
        self.log_det = 2 * np.log(diagonals).sum()
        self.M = L @ np.linalg.inv(inner) @ L.T
        self.MR = self.M @ self.data.zxy

    def _update_beta(self, active: np.ndarray) -> None:
        R, xyxy = self.data.zxy, self.data.xyxy
        Rx = R[:, :, : self.p]
        normal = self._by_worker(xyxy[:, : self.p] - Rx.transpose(0, 2, 1) @ self.MR)
        self.all_normal = normal.sum(axis=0)
        self.normal[active] = normal[active]
        total = self.normal.sum(axis=0)
        self.C = np.linalg.inv(total[:, : self.p])
        self.v = np.append(-self.C @ total[:, self.p], 1.0)

    def _by_worker(self, values: np.ndarray) -> np.ndarray:
        sums = self.share @ values.reshape(self.m, -1)
        return sums.reshape(len(self.share), *values.shape[1:])


def parts(m: int, n_workers: int, seed: int) -> np.ndarray:
    """Every group to a worker at random, as an indicator (n_workers, m)."""
    worker = np.random.default_rng(seed).integers(n_workers, size=m)
    return (worker == np.arange(n_workers)[:, None]).astype(float)


def em(data: CrossProducts) -> int:
    """Iterations of the single process: the first pass counts; REML objective."""
    manager = Manager(data, np.ones((1, len(data.zz))))
    before = manager.reml
    for t in range(2, MAX_ITER + 1):
        manager.iterate(np.arange(1))
        if abs(manager.reml - before) <= TOL:
            return t
        before = manager.reml
    return MAX_ITER


def released(data: CrossProducts, share: np.ndarray, gamma: float, seed: int) -> int:
    """Iterations of the released rule: the first pass does not count; ML."""
    rng = np.random.default_rng(seed)
    n_workers = len(share)
    n_active = math.floor(round(gamma * n_workers, 9))
    manager = Manager(data, share)
    before = math.inf  # the released code does not compare with the first pass
    for t in range(1, MAX_ITER + 1):
        manager.iterate(rng.choice(n_workers, size=n_active, replace=False))
        if abs(manager.ml - before) <= TOL:
            return t
        before = manager.ml
    return MAX_ITER


def main(args: argparse.Namespace) -> None:
    print(f"Python {platform.python_version()}, NumPy {np.__version__}")
    print(
        f"n = {args.rows}, m = {args.groups}, p = {args.p}; "
        f"data seed {args.data_seed}, {args.seeds} activation seeds.\n"
        "Published: medians of ten replications, read as ratios from the figures; the "
        "iterations\nare those ratios times EM's.\n"
    )
    print(
        "| design | method | iterations, median (range) | ratio to EM "
        "| published iterations | published ratio |\n|---|---|---|---|---|---|"
    )
    as_published = (args.rows, args.groups, args.p) == (1_000_000, 10_000, 10)
    began = time.perf_counter()
    for q in args.q:
        drawn = design(args.rows, args.groups, args.p, q, args.data_seed)
        data = CrossProducts.of(*drawn, args.groups)
        del drawn
        base = em(data)
        published_em = PUBLISHED_EM.get(q) if as_published else None
        for n_workers in args.workers:
            name = f"q={q}, K={n_workers}"
            print(
                f"| {name} | EM | {base} | 1 | {published_em or '–'} | "
                f"{1 if published_em else '–'} |",
                flush=True,
            )
            ratios = PUBLISHED_RATIO.get((q, n_workers), {}) if as_published else {}
            share = parts(args.groups, n_workers, args.data_seed + n_workers)
            for gamma in args.gamma:
                # with everybody active there is nothing to draw
                seeds = range(args.seeds if gamma < 1 else 1)
                counts = [released(data, share, gamma, seed) for seed in seeds]
                median = np.median(counts)
                spread = f" ({min(counts)}–{max(counts)})" if gamma < 1 else ""
                ratio = ratios.get(gamma)
                iterations = f"{ratio * published_em:.1f}" if ratio else "–"
                print(
                    f"| {name} | γ = {gamma:g} | {median:g}{spread} | "
                    f"{median / base:.2f} | {iterations} | {ratio or '–'} |",
                    flush=True,
                )
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--p", type=int, default=10)
    parser.add_argument("--q", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--gamma", type=float, nargs="+", default=[1.0, 0.7, 0.5, 0.3])
    parser.add_argument("--seeds", type=int, default=6, help="activation seeds")
    parser.add_argument("--data-seed", type=int, default=12345)
    main(parser.parse_args())
