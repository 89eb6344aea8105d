"""Mixtures of experts: local fits made one, on the design of Chamroukhi and Pham.

``accuracy``: 10^5 rows of the simulation whose parameters were published with
arXiv:2312.09877 (4 experts, 20 columns), cut into 4, 16 and 64 parts. The reduction of
the local fits, polished by passes of EM, beside what the paper compares with, all made
of the same local fits: the middle fit, the ensemble of all, averages of parameters as
numbered (by intercept) and as matched with the first fit, and the reduction with the
variance of the released code. Medians over data sets.

``time``: 10^6 rows on 64 workers with links of 10 ms each way. Every task is timed
alone on one thread, at its fastest of three runs, and laid on a simulated clock: the
slowest local fit, the reduction, and every pass of polishing as its slowest E-step, sum
and M-step. EM on one machine, and synchronous EM on the same 64 workers, run to the
same likelihood from the same start. The start itself costs all of them the same and is
reported apart, and so would a last pass for the likelihood be.

``real``: 10^6 rows on two worker processes.

``beijing``: hourly PM2.5 at twelve stations, which are twelve natural sites.

    DASK_EM_DATA=... python benchmarks/mixture_of_experts.py accuracy
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

import dask_em
from dask_em import Block, MixtureOfExpertsRegressor, fit_em, reduce_mixture
from dask_em.drivers.one_shot import FitAlone
from dask_em.models.experts import softmax
from dask_em.models.experts.algebra import Grams, solve
from dask_em.models.experts.density import ExpertsDensity
from dask_em.models.experts.gaussian import Gaussian
from dask_em.models.experts.model import MixtureOfExpertsModel
from dask_em.models.experts.params import Design, ExpertsParams
from dask_em.models.experts.starts import ROWS, start_of
from dask_em.reduction.base import LocalFit, Reduction
from dask_em.reduction.experts import reduce_fits
from dask_em.sampling import SAMPLE_ROWS
from dask_em.statistics import tree_sum
from dask_em.transports import Local, Simulated

R = TypeVar("R")

LINK = 0.010
WORKERS = 64
#: Log-likelihoods per row that count as the same.
SAME = 1e-9


# ---------------------------------------------------------------------- the simulation


@dataclasses.dataclass(frozen=True)
class Truth:
    """The published parameters."""

    params: ExpertsParams
    design: Design

    @classmethod
    def of(cls, folder: Path) -> Truth:
        """Read them."""
        path = folder / "moe" / "dmoe_true_params_K4_d20.json"
        known = json.loads(path.read_text())
        gate = np.column_stack([known["alpha0"], np.transpose(known["Alpha"])])
        coef = np.column_stack([known["beta0"], np.transpose(known["Beta"])])
        k, d = len(coef), coef.shape[1] - 1
        none = np.zeros(0)
        params = ExpertsParams(
            gate=gate - gate[-1],
            coef=coef[:, None].astype(float),
            covariance=np.reshape(known["sigma2"], (k, 1, 1)).astype(float),
            dof=none,
            counts=np.zeros(k),
            doubt=none,
            anchor=np.zeros((k, 0, d + 1)),
            reach=none,
            x_mean=np.zeros(d),
            x_scale=np.ones(d),
            y_mean=np.zeros(1),
            y_scale=np.ones(1),
            x_correlation=np.eye(d),
        )
        columns = tuple(range(d))
        return cls(params, Design(columns, columns))

    def draw(self, n: int, seed: Any) -> tuple[Any, Any, Any]:
        """Return rows, responses and components."""
        rng = np.random.default_rng(seed)
        d = len(self.params.x_mean)
        lags = np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
        X = rng.normal(size=(n, d)) @ np.linalg.cholesky(0.25**lags).T
        y, component = self.density(self.params).draw(X, rng)
        return X, y[:, 0], component

    def density(self, params: ExpertsParams) -> ExpertsDensity:
        return ExpertsDensity(Gaussian(), self.design, params)

    def model(self, **settings: Any) -> MixtureOfExpertsModel:
        return MixtureOfExpertsModel(
            self.params.n_components, design=self.design, **settings
        )


# ------------------------------------------------------------------------- accuracy


class WithinOnly(Gaussian):
    """The released code's variances, which lose the spread between experts."""

    def barycentre(  # type: ignore[no-untyped-def]
        self, source, at, plan, target, Z, var_floor
    ):
        changed = super().barycentre(source, at, plan, target, Z, var_floor)
        mass = plan.by_expert
        within = np.tensordot(mass, source.covariance, axes=([0], [0]))
        changed["covariance"] = within / mass.sum(axis=0)[:, None, None]
        return changed


@dataclasses.dataclass(frozen=True)
class Recording(MixtureOfExpertsModel):
    """Keeps the local fits."""

    kept: Any = None

    def reduce(self, fits: Any, support: Block, rng: np.random.Generator) -> Any:
        self.kept[:] = [list(fits), support]
        return super().reduce(fits, support, rng)


def aligned(truth: Truth, params: ExpertsParams) -> ExpertsParams:
    """Return parameters in units of the data, numbered like the truth."""
    raw = params.raw(truth.design)
    gaps = raw.coef[:, None, 0] - truth.params.coef[None, :, 0]
    rows, columns = linear_sum_assignment(np.square(gaps).sum(axis=2))
    return raw.ordered(rows[np.argsort(columns)])


def divergence(truth: Truth, fits: Any, target: ExpertsParams, X: Any) -> float:
    """Return the mean transportation divergence from a mixture of fits."""
    _, Z = truth.design.rows(X, target.frame)
    total = 0.0
    for share, fit in fits:
        prior = truth.density(fit).gate(X).T
        cost = Gaussian().divergence(fit, fit.coef @ Z, target, target.coef @ Z)
        total += share * float(np.sum(prior * cost.min(axis=1)))
    return total / len(X)


def measured(truth: Truth, fits: Any, train: Any, test: Any) -> dict[str, float]:
    """Return how good a mixture of `fits`, pairs of share and parameters, is."""
    X, y, component = test
    single = len(fits) == 1
    fits = [(share, aligned(truth, fit)) for share, fit in fits]
    found = {}
    for name, (A, b) in {"train": train[:2], "test": (X, y)}.items():
        logs = [np.log(s) + truth.density(fit).log_density(A, b) for s, fit in fits]
        found[name] = float(np.mean(np.logaddexp.reduce(logs, axis=0)))
    mean = sum(s * truth.density(fit).mean(X)[:, 0] for s, fit in fits)
    found["rpe"] = float(np.sum(np.square(y - mean)) / np.sum(np.square(y)))
    found["divergence"] = divergence(truth, fits, truth.params, X[:20_000])
    if single:
        density, params = truth.density(fits[0][1]), fits[0][1]
        labels = density.components(X), density.responsibilities(X, y).argmax(axis=1)
        found["ari gate"], found["ari posterior"] = (
            adjusted_rand_score(component, label) for label in labels
        )
        for name, part in {
            "slopes": lambda p: p.coef[..., 1:],
            "gate": lambda p: p.gate[:-1],
            "variance": lambda p: p.covariance,
        }.items():
            gap = part(params) - part(truth.params)
            found[f"mse {name}"] = float(np.mean(np.square(gap)))
    return found


def averaged(fits: Sequence[ExpertsParams], shares: Any) -> ExpertsParams:
    names = ("gate", "coef", "covariance")
    means = {n: np.tensordot(shares, [getattr(f, n) for f in fits], 1) for n in names}
    return dataclasses.replace(fits[0], **means)


def baselines(
    truth: Truth, fits: Sequence[LocalFit[Any]], X: Any
) -> dict[str, list[tuple[float, ExpertsParams]]]:
    """Return the paper's other estimators, of the same local fits."""
    raw = [fit.params.raw(truth.design) for fit in fits]
    shares = np.array([fit.weight for fit in fits]) / sum(fit.weight for fit in fits)
    few = X[:500]
    _, Z = truth.design.rows(few, raw[0].frame)
    sums = [
        divergence(truth, [(1.0, other) for other in raw], target, few)
        for target in raw
    ]
    by_intercept = [fit.ordered(fit.coef[:, 0, 0].argsort()) for fit in raw]
    like_first = []
    first = raw[0]
    for fit in raw:
        cost = Gaussian().divergence(fit, fit.coef @ Z, first, first.coef @ Z)
        rows, columns = linear_sum_assignment(cost.mean(axis=2))
        like_first.append(fit.ordered(rows[np.argsort(columns)]))
    return {
        "middle": [(1.0, raw[int(np.argmin(sums))])],
        "naive average": [(1.0, averaged(by_intercept, shares))],
        "aligned average": [(1.0, averaged(like_first, shares))],
        "ensemble": list(zip(shares.tolist(), raw, strict=True)),
    }


COLUMNS = {
    "train": (1e5, ".2f"),
    "test": (1e5, ".2f"),
    "rpe": (1, ".5f"),
    "ari gate": (1, ".4f"),
    "ari posterior": (1, ".4f"),
    "mse slopes": (1, ".5f"),
    "mse gate": (1, ".4f"),
    "mse variance": (1, ".5f"),
    "divergence": (1, ".5f"),
}


def accuracy(truth: Truth, n: int, n_sets: int) -> None:
    tables: dict[tuple[str, int], list[dict[str, float]]] = {}

    def note(name: str, m: int, value: dict[str, float], pooled: Any) -> None:
        gaps = {key: value[key] - pooled[key] for key in ("train", "test")}
        tables.setdefault((name, m), []).append(value | gaps)

    for seed in range(n_sets):
        train, test = truth.draw(n, [seed, 0]), truth.draw(n, [seed, 1])
        X, y, _ = train
        tight: dict[str, Any] = {"tol": 1e-10, "random_state": seed}
        whole = fit_em(truth.model(), X, y=y, max_iter=500, **tight)
        pooled = measured(truth, [(1.0, whole.params)], train, test)
        note("truth", 1, measured(truth, [(1.0, truth.params)], train, test), pooled)
        note("pooled EM", 1, pooled, pooled)
        for m in (4, 16, 64):
            kept: list[Any] = []
            model = Recording(truth.params.n_components, design=truth.design, kept=kept)
            found = fit_em(
                model,
                X,
                y=y,
                tol=1e-6,
                max_iter=500,
                strategy="one_shot",
                shards=m,
                random_state=seed,
            )
            fits, support = kept
            made = {"one_shot": [(1.0, found.params)]}
            rng = np.random.default_rng(seed)
            transport = truth.model(reduction=Reduction(gate="transport"))
            start = reduce_fits(transport, fits, support, rng).params
            made["one_shot, transport gate"] = [(1.0, start)]
            for passes in (1, 2, 3):
                more = fit_em(
                    truth.model(),
                    X,
                    y=y,
                    start=found.params,
                    tol=0,
                    max_iter=passes,
                )
                made[f"one_shot+polish({passes})"] = [(1.0, more.params)]
            released = truth.model(
                family=WithinOnly(),
                reduction=Reduction(gate="transport", n_support=n // m // 4),
            )
            theirs = reduce_fits(released, fits, Block(X, y), rng).params
            made["released variance, transport gate"] = [(1.0, theirs)]
            for name, mixture in (made | baselines(truth, fits, X)).items():
                note(name, m, measured(truth, mixture, train, test), pooled)
    print(f"\n{n} rows, medians of {n_sets} data sets; log-likelihoods per row less")
    print("those of pooled EM, times 1e5\n")
    print("| estimator | M | " + " | ".join(COLUMNS) + " |")
    print("|---" * (2 + len(COLUMNS)) + "|")
    medians = {
        key: {c: np.median([v.get(c, np.nan) for v in values]) for c in COLUMNS}
        for key, values in tables.items()
    }
    for (name, m), row in sorted(medians.items(), key=lambda item: item[0][1]):
        cells = [
            "" if np.isnan(row[c]) else f"{row[c] * by:{form}}"
            for c, (by, form) in COLUMNS.items()
        ]
        print(f"| {name} | {m} | " + " | ".join(cells) + " |")
    print("\n| bar | M | median | worst | |\n|---|---|---|---|---|")
    bars = {
        "one_shot": (1e-4, 1e-4, 1.5e-3),
        "one_shot+polish(2)": (1e-6, 1e-6, 5e-6),
    }
    for name, limits in bars.items():
        for m, limit in zip((4, 16, 64), limits, strict=True):
            gaps = [-value["train"] for value in tables[name, m]]
            middle = float(np.median(gaps))
            told = "met" if middle <= limit else f"missed by {middle / limit:.2f} x"
            print(
                f"| {name}: gap {limit:g} | {m} | {middle:.3g} | {max(gaps):.3g} |",
                end="",
            )
            print(f" {told} |")
    for name in ("one_shot", "released variance, transport gate"):
        worst = max(value["mse variance"] for value in tables[name, 64])
        error = float(medians[name, 64]["mse variance"])
        print(
            f"| {name}: variance error, 0.24 is the released code's | 64 | {error:.3g} "
            f"| {worst:.3g} | {0.24 / error:.1f} x smaller |"
        )


# ----------------------------------------------------------------------------- time


def fastest(task: Callable[[], R], repeats: int = 3) -> tuple[float, R]:
    """Return the least of several times, and what the task returned."""
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        result = task()
        best = min(best, time.perf_counter() - began)
    return best, result


def slowest(
    tasks: Sequence[Callable[[], R]], repeats: int = 3
) -> tuple[float, list[R]]:
    """Return the time of the slowest of several tasks, at its fastest."""
    seconds, results = [], []
    for task in tasks:
        each, result = fastest(task, 1)
        seconds.append(each)
        results.append(result)
    times = np.array(seconds)
    runs = np.ones(len(tasks))
    while True:
        i = int(times.argmax())
        if runs[i] >= repeats:
            return float(times[i]), results
        runs[i] += 1
        times[i] = min(times[i], fastest(tasks[i], 1)[0])


def cold_start(
    model: MixtureOfExpertsModel, summary: Any, rows: Block, seed: int = 0
) -> ExpertsParams:
    """Return the paper's start: clusters of X, five steps for the gate, regressions."""
    blank = model.blank(summary)
    k = model.n_components
    _, Z = model.design.rows(rows.X, blank.frame)
    y = (np.asarray(rows.y).reshape(1, -1) - blank.y_mean[:, None]) / blank.y_scale[0]
    labels = KMeans(k, n_init=1, random_state=seed).fit(Z[1:].T).labels_
    member = np.eye(k)[labels].T
    gate = blank.gate
    for _ in range(5):
        prior = np.exp(softmax.log_softmax(gate @ Z))
        grams = Grams(softmax.n_blocks(k), len(Z))
        grams.add(Z, softmax.hessian_weights(prior, np.ones(Z.shape[1])))
        hessian = softmax.hessian_of(grams.total, k)
        gate = softmax.newton_step(gate, (member - prior) @ Z.T, hessian)
    coef = np.stack([solve((Z * r) @ Z.T, (Z * r) @ y.T).T for r in member])
    gaps = np.square(y - (coef @ Z)[:, 0])
    variance = (member * gaps).sum(axis=1) / member.sum(axis=1)
    return dataclasses.replace(
        blank, gate=gate, coef=coef, covariance=variance[:, None, None]
    )


@dataclasses.dataclass
class Timed:
    """Local fits and their reduction, with the seconds of the critical path."""

    params: ExpertsParams
    local: float
    reduction: float
    passes: tuple[int, float]
    nbytes: int


class Bench:
    """Rows on 64 workers, and what every task on them costs."""

    def __init__(self, truth: Truth, n: int, seed: int = 0) -> None:
        self.truth, self.n = truth, n
        self.X, self.y, _ = truth.draw(n, [seed, 0])
        self.model = truth.model()
        self.whole = Block(self.X, self.y)
        bounds = np.arange(WORKERS + 1) * n // WORKERS
        self.blocks = [
            Block(np.ascontiguousarray(self.X[a:b]), self.y[a:b].copy())
            for a, b in itertools.pairwise(bounds)
        ]
        self.summary = self.model.survey(self.whole)
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(n, SAMPLE_ROWS, replace=False))
        self.sample = self.whole.rows(chosen)

    def value(self, params: ExpertsParams) -> float:
        return float(self.model.e_step(params, self.whole)[0].constant)

    def measure(self, params: ExpertsParams) -> None:
        """Time a pass: on a worker, for the server, and on one machine."""
        tasks = [
            lambda block=block: self.model.e_step(params, block)[0]
            for block in self.blocks
        ]
        self.e_step, stats = slowest(tasks, 5)

        def m_step() -> ExpertsParams:
            return self.model.m_step(params, tree_sum(stats))

        self.m_step, _ = fastest(m_step, 10)
        self.stats_nbytes = sum(each.nbytes for each in stats)
        self.pass_of_cluster = 2 * LINK + self.e_step + self.m_step
        self.pass_of_one = {}
        for threads in (1, 2):
            run = fit_em(
                self.model,
                self.X,
                y=self.y,
                start=params,
                tol=0,
                max_iter=6,
                acceleration=None,
                transport=Local(threads),
            )
            self.pass_of_one[threads] = float(np.diff(run.trace.time).min())

    def climb(self, start: ExpertsParams) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return when synchronous EM on the workers is how high."""
        per_row = self.e_step / len(self.blocks[0].X)
        result = fit_em(
            self.model,
            self.X,
            y=self.y,
            start=start,
            tol=1e-12,
            max_iter=500,
            schedule="synchronous",
            shards=WORKERS,
            transport=Simulated(
                WORKERS,
                cost=lambda rows: rows * per_row,
                latency=LINK,
                m_step_cost=self.m_step,
            ),
        )
        trace = result.trace
        # parameters are there a pass before their likelihood is known
        times = np.append(trace.time - trace.time[0], trace.time[-1])
        return times, np.append(trace.lower_bound_before, result.log_likelihood), result

    def local_fits(
        self,
        start: ExpertsParams | Callable[[Block], ExpertsParams],
        tol: float,
        max_iter: int,
    ) -> tuple[float, list[LocalFit[Any]]]:
        """Fit on every worker; return the seconds of the slowest."""

        def task(block: Block) -> Callable[[], LocalFit[Any]]:
            def run() -> LocalFit[Any]:
                params = start(block) if callable(start) else start
                alone = FitAlone(self.model, params, tol, max_iter)
                return alone.over_piece([block], np.random.default_rng(0))[0]

            return run

        return slowest([task(block) for block in self.blocks])

    def reduced(
        self,
        local: float,
        fits: Sequence[LocalFit[Any]],
        brief: bool = False,
        informed: bool = True,
    ) -> Timed:
        """Make the local fits one."""
        if not informed:
            fits = [dataclasses.replace(fit, stats=None) for fit in fits]
        model = self.truth.model(reduction=Reduction(brief=brief))
        reduction, found = fastest(
            lambda: model.reduce(fits, self.sample, np.random.default_rng(0)), 5
        )
        counts = [fit.n_iter for fit in fits]
        nbytes = sum(fit.nbytes for fit in fits)
        passes = max(counts), float(np.mean(counts))
        return Timed(found.params, local, reduction, passes, nbytes)

    def polished(self, params: ExpertsParams, n_polish: int) -> float:
        if not n_polish:
            return self.value(params)
        run = fit_em(
            self.model,
            self.X,
            y=self.y,
            start=params,
            tol=0,
            max_iter=n_polish,
            transport=Local(1),
        )
        return float(run.log_likelihood)

    def row(
        self,
        found: Timed,
        n_polish: int,
        value: float,
        best: float,
        times: np.ndarray,
        values: np.ndarray,
    ) -> str:
        """Return a line of the table, beside EM to the same likelihood."""
        critical = 2 * LINK + found.local + found.reduction
        critical += n_polish * self.pass_of_cluster
        moved = found.nbytes + n_polish * self.stats_nbytes
        cells = [
            f"{n_polish}",
            f"{found.passes[0]} ({found.passes[1]:.1f})",
            f"{found.local:.3f} | {found.reduction:.3f} | {critical:.3f}",
            f"{(best - value) / self.n:.2g} | {moved / 1e6:.2f}",
        ]
        there = np.flatnonzero(values >= value - SAME * self.n)
        if not len(there):
            return " | ".join([*cells, "never | | | | | "])
        on_cluster = max(float(times[there[0]]), 1e-300)
        passes = round(on_cluster / self.pass_of_cluster)
        on_one = [max(passes, 1e-300) * s for s in self.pass_of_one.values()]
        ratios = [critical / seconds for seconds in (*on_one, on_cluster)]
        cells.append(f"{passes} | {on_one[0]:.2f} | {ratios[0]:.3f} | {ratios[1]:.3f}")
        cells.append(f"{on_cluster:.3f} | {ratios[2]:.2f}")
        return " | ".join(cells)


#: Tolerances and most passes of local fits.
LOCAL = ((1e-6, 500), (1e-4, 500))
#: Settings of the reduction.
REDUCTIONS: tuple[dict[str, Any], ...] = (
    {"brief": False},
    {"brief": True},
    {"brief": True, "informed": False},
)


def timing(truth: Truth, n: int) -> None:
    bench = Bench(truth, n)
    rng = np.random.default_rng(1)
    seconds = {}
    few = bench.sample.rows(
        np.sort(rng.choice(bench.sample.n_rows, ROWS, replace=False))
    )
    model, summary = bench.model, bench.summary
    starts: dict[str, Any] = {
        "default": lambda: start_of(
            model, summary, bench.sample, np.random.default_rng(2)
        ),
        "short": lambda: start_of(model, summary, few, np.random.default_rng(2)),
        "cold": lambda: cold_start(model, summary, bench.sample),
    }
    for name, task in starts.items():
        seconds[name], starts[name] = fastest(task)
    default = starts["default"]
    bench.measure(default)
    optimum = bench.climb(default)[1].max()
    print(f"\n{n} rows, {WORKERS} workers, links of {LINK * 1e3:g} ms each way")
    print(
        f"a pass: {bench.e_step * 1e3:.2f} ms on the slowest worker, "
        f"{bench.m_step * 1e3:.2f} ms for sum and M-step, "
        f"{bench.pass_of_cluster * 1e3:.1f} ms with its round trip and "
        f"{bench.stats_nbytes / 1e6:.2f} MB of statistics; on one machine "
        + ", ".join(f"{s:.3f} s on {t} threads" for t, s in bench.pass_of_one.items())
    )
    header = (
        "| local fits | polish | passes of a fit, most (mean) | local s | reduction s "
        "| critical s | gap per row | MB | EM passes | one machine, s | ratio | ratio, "
        "2 threads | 64 workers, s | ratio |"
    )
    for name, start in starts.items():
        times, values, run = bench.climb(start)
        best = max(optimum, values.max())
        print(
            f"\nStart: {name}, {seconds[name]:.2f} s, gap "
            f"{(best - values[0]) / n:.3g}; EM ends {(best - values[-1]) / n:.3g} "
            f"below the best after {run.effective_passes:.0f} passes\n"
        )
        print(header)
        print("|---" * header.count(" | ") + "|---|")
        local = [(f"tol={tol:g}, {most}", start, tol, most) for tol, most in LOCAL]
        if name == "cold":
            own = functools.partial(cold_start, model, summary)
            local.append(("every worker's own cold start", own, *LOCAL[0]))
        for label, begin, tol, most in local:
            fits = bench.local_fits(begin, tol, most)
            for given in REDUCTIONS:
                found = bench.reduced(*fits, **given)
                sent = "" if given.get("informed", True) else ", no statistics"
                brief = ", brief reduction" if given["brief"] else ""
                named = f"{label}{brief}{sent}"
                for n_polish in (0, 1, 2):
                    value = bench.polished(found.params, n_polish)
                    row = bench.row(found, n_polish, value, best, times, values)
                    print(f"| {named} | {row} |", flush=True)


# ---------------------------------------------------------------------- real workers


def real(truth: Truth, n: int, repeats: int) -> None:
    import dask.array as da
    from dask import delayed
    from distributed import Client, LocalCluster, wait

    chunk = n // 16
    d = truth.design.experts[-1] + 1
    parts = [delayed(truth.draw)(chunk, [0, i]) for i in range(16)]
    X = da.concatenate(
        [da.from_delayed(p[0], (chunk, d), dtype=float) for p in parts], axis=0
    )
    y = da.concatenate([da.from_delayed(p[1], (chunk,), dtype=float) for p in parts])
    runs: dict[str, dict[str, Any]] = {
        "em, synchronous": {"strategy": "em", "schedule": "synchronous"},
        "em, auto": {"strategy": "em"},
        "one_shot+polish, n_polish=2": {"strategy": "one_shot+polish", "n_polish": 2},
        "one_shot+polish, n_polish=None": {"strategy": "one_shot+polish"},
    }
    found: dict[str, list[Any]] = {name: [] for name in runs}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True) as cluster,
        Client(cluster),
    ):
        X, y = X.persist(), y.persist()
        wait([X, y])
        k = truth.params.n_components
        MixtureOfExpertsRegressor(k, max_iter=2, random_state=0).fit(X, y)
        for _ in range(repeats):
            for name, settings in runs.items():
                mixture = MixtureOfExpertsRegressor(k, random_state=0, **settings)
                began = time.perf_counter()
                mixture.fit(X, y)
                seconds = time.perf_counter() - began
                found[name].append((seconds, mixture))
    best = max(m.log_likelihood_ for each in found.values() for _, m in each)
    print(f"\n{n} rows in 16 persisted chunks, 2 worker processes of one thread\n")
    print(
        "| fit | s (least of all) | all | passes | gap per row |\n|---|---|---|---|---|"
    )
    for name, each in found.items():
        seconds, mixture = min(each, key=lambda pair: pair[0])
        result = mixture.result_
        print(
            f"| {name} | {seconds:.2f} | "
            f"{', '.join(f'{s:.2f}' for s, _ in each)} | "
            f"{result.effective_passes:.1f} | "
            f"{(best - mixture.log_likelihood_) / n:.2g} |"
        )


# --------------------------------------------------------------------------- Beijing


def beijing_rows(folder: Path) -> tuple[Any, ...]:
    """Return predictors, responses, stations and whether to train, by station."""
    import pandas

    table = pandas.read_csv(folder / "moe" / "beijing_pm25.csv.gz", low_memory=False)
    plain = "PM2.5 PM10 SO2 NO2 CO O3 TEMP PRES DEWP RAIN WSPM".split()
    points = "N NNE NE ENE E ESE SE SSE S SSW SW WSW W WNW NW NNW".split()
    parts = []
    for station, hours in table.groupby("station", sort=True):
        when = pandas.to_datetime(hours[["year", "month", "day", "hour"]])
        known = hours[plain].apply(pandas.to_numeric, errors="coerce")
        known.index = when
        known = known.sort_index()
        known = known.interpolate(limit_direction="both")
        angle = hours["wd"].map({p: i * np.pi / 8 for i, p in enumerate(points)})
        angle.index = when
        angle = angle.sort_index().ffill().bfill()
        columns = {f"PM2.5-{lag}": known["PM2.5"].shift(lag) for lag in (1, 2, 24)}
        columns |= {f"{c}-1": known[c].shift(1) for c in plain[1:6]}
        columns |= {c: known[c] for c in plain[6:]}
        turns = {
            "wd": angle,
            "hour": known.index.hour * (2 * np.pi / 24),
            "month": (known.index.month - 1) * (2 * np.pi / 12),
        }
        for name, turn in turns.items():
            columns |= {f"sin {name}": np.sin(turn), f"cos {name}": np.cos(turn)}
        frame = pandas.DataFrame(columns, index=known.index)
        frame["y"], frame["station"] = known["PM2.5"], station
        parts.append(frame.iloc[24:])
    rows = pandas.concat(parts)
    train = np.asarray(rows.index < "2016-03-01")
    X = rows.drop(columns=["y", "station"]).to_numpy()
    X = (X - X[train].mean(axis=0)) / X[train].std(axis=0)
    return X, rows["y"].to_numpy(), rows["station"].to_numpy(), train


def beijing(folder: Path) -> None:
    X, y, station, train = beijing_rows(folder)
    print(f"\nBeijing: {train.sum()} rows to train, {(~train).sum()} to test, ", end="")
    print(f"{X.shape[1]} columns, {len(set(station))} stations\n")
    print(
        "| fit | RMSE | MAE | test log-lik | train log-lik | passes | s |"
        "\n|---|---|---|---|---|---|---|"
    )

    def tell(name: str, fit: Any, seconds: float) -> None:
        gap = y[~train] - fit.predict(X[~train])
        own = [fit.score_samples(X[at], y[at]).mean() for at in (~train, train)]
        result = getattr(fit, "result_", None)
        passes = f"{result.effective_passes:.0f}" if result is not None else ""
        print(
            f"| {name} | {np.sqrt(np.mean(gap**2)):.3f} | {np.abs(gap).mean():.3f} | "
            f"{own[0]:.4f} | {own[1]:.4f} | {passes} | {seconds:.1f} |",
            flush=True,
        )

    def run(name: str, **settings: Any) -> Any:
        began = time.perf_counter()
        fit = MixtureOfExpertsRegressor(4, **settings).fit(X[train], y[train])
        tell(name, fit, time.perf_counter() - began)
        return fit

    for seed in range(3):
        run(f"pooled, seed {seed}", random_state=seed)
    run("pooled, n_init=5", random_state=0, n_init=5)
    for gate in ("matched", "transport"):
        run(
            f"one_shot on 12 shards, {gate} gate",
            strategy="one_shot",
            shards=12,
            reduction_gate=gate,
            random_state=0,
        )
    for passes in (2, 10):
        run(
            f"one_shot+polish({passes}) on 12 shards",
            strategy="one_shot+polish",
            shards=12,
            n_polish=passes,
            random_state=0,
        )
    began = time.perf_counter()
    sites = [
        MixtureOfExpertsRegressor(4, random_state=0).fit(X[at], y[at])
        for at in (train & (station == name) for name in sorted(set(station)))
    ]
    local = time.perf_counter() - began
    support = X[train][:: max(train.sum() // 20_000, 1)]
    for gate in ("matched", "transport"):
        for name, given in {
            "": {},
            ", rows as support": {"support": support, "n_support": 20_000},
        }.items():
            began = time.perf_counter()
            one = reduce_mixture(sites, gate=gate, random_state=0, **given)
            seconds = local + time.perf_counter() - began
            tell(f"reduce_mixture of stations, {gate} gate{name}", one, seconds)
            for passes in (2, 10):
                one_more = reduce_mixture(sites, gate=gate, random_state=0, **given)
                one_more.set_params(
                    warm_start=True, strategy="em", max_iter=passes, tol=0.0
                )
                began = time.perf_counter()
                one_more.fit(X[train], y[train])
                more = time.perf_counter() - began
                tell(f"and {passes} passes over all", one_more, seconds + more)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("accuracy", "time", "real", "beijing"))
    parser.add_argument("--data", default=os.environ.get("DASK_EM_DATA"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if not options.data:
        sys.exit("set DASK_EM_DATA, or give --data")
    folder = Path(options.data)
    cores = len(os.sched_getaffinity(0))
    print(f"dask_em {dask_em.__version__}, NumPy {np.__version__}, {cores} cores")
    truth = Truth.of(folder)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # passes are limited here
        if options.mode == "accuracy":
            accuracy(truth, options.rows or 100_000, options.sets)
        elif options.mode == "time":
            timing(truth, options.rows or 1_000_000)
        elif options.mode == "real":
            real(truth, options.rows or 1_000_000, options.repeat)
        else:
            beijing(folder)


if __name__ == "__main__":
    main()
