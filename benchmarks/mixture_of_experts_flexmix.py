"""A mixture of Gaussian experts beside R's flexmix.

Three linear regressions on five columns, with a softmax gate on the same columns
(flexmix: ``FLXMRglm`` and ``FLXPmultinom``), 100 000 rows. Both start from the same
assignment of rows to components, of which 30 % are wrong. The first table has the
seconds of an EM iteration, once everything is set up; flexmix's are the difference of
two fits of different length. The second has whole fits to convergence. flexmix divides
the residual sum of squares by n - p, so that its likelihood must be a little lower.

    python benchmarks/mixture_of_experts_flexmix.py

flexmix runs in R (Debian: r-cran-flexmix) and is left out where there is no Rscript.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

import dask_em
from dask_em import Block, fit_em
from dask_em.models.experts.algebra import solve
from dask_em.models.experts.gaussian import Gaussian
from dask_em.models.experts.model import MixtureOfExpertsModel
from dask_em.models.experts.params import Design, ExpertsParams
from dask_em.models.experts.regression import softmax_regression
from dask_em.transports import Local

R_SCRIPT = """
suppressMessages(library(flexmix))
a <- commandArgs(TRUE)
d <- read.csv(a[1])
few <- as.integer(a[2]); many <- as.integer(a[3])
right <- paste(setdiff(names(d), c("y", "start")), collapse = " + ")
response <- as.formula(paste("y ~", right))
gate <- FLXPmultinom(as.formula(paste("~", right)))
run <- function(iterations, tolerance) {
    gc()
    t <- system.time(m <- flexmix(response, data = d, k = max(d$start),
        cluster = d$start, concomitant = gate,
        control = list(iter.max = iterations, tolerance = tolerance, minprior = 0)))
    list(seconds = t[["elapsed"]], iterations = m@iter, value = as.numeric(logLik(m)))
}
a1 <- run(few, 0); a2 <- run(many, 0)
each <- (a2$seconds - a1$seconds) / (a2$iterations - a1$iterations)
cat("each", each, "\\n")
whole <- run(1000, 1e-12)
cat("seconds", whole$seconds, "\\n")
cat("iterations", whole$iterations, "\\n")
cat("loglik", sprintf("%.8f", whole$value), "\\n")
cat("version", as.character(packageVersion("flexmix")), "\\n")
cat("R", paste(R.version$major, R.version$minor, sep = "."), "\\n")
"""


def make_data(n: int, d: int, k: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Return rows, responses, and an assignment of which 30 % are wrong."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    gate = softmax(0.7 * X @ rng.normal(size=(d, k)) + 0.3 * rng.normal(size=k), axis=1)
    label = (gate.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    slopes, intercepts = rng.normal(size=(d, k)), 2 * rng.normal(size=k)
    mean = np.take_along_axis(X @ slopes + intercepts, label[:, None], 1)[:, 0]
    y = mean + rng.uniform(0.7, 1.3, k)[label] * rng.normal(size=n)
    start = np.where(rng.random(n) < 0.3, rng.integers(k, size=n), label)
    return X, y, start


def start_of(model: MixtureOfExpertsModel, X: Any, y: Any, label: Any) -> ExpertsParams:
    """Return the M-step of an assignment."""
    blank = model.blank(model.survey(Block(X, y)))
    _, Z = model.design.rows(X, blank.frame)
    response = (y - blank.y_mean) / blank.y_scale
    member = np.eye(model.n_components)[label].T
    coef = np.stack([solve((Z * r) @ Z.T, (Z * r) @ response) for r in member])
    total = (member * np.square(response - coef @ Z)).sum(axis=1)
    return dataclasses.replace(
        blank,
        gate=softmax_regression(Z, member, blank.gate),
        coef=coef[:, None],
        covariance=(total / member.sum(axis=1))[:, None, None],
    )


def ours(
    model: Any, X: Any, y: Any, start: Any, threads: int, **settings: Any
) -> tuple[Any, float, float]:
    """Fit; return the result, seconds of a pass, and seconds altogether."""
    times = []

    def note(progress: Any) -> None:
        times.append(time.perf_counter())

    began = time.perf_counter()
    result = fit_em(
        model,
        X,
        y=y,
        start=start,
        transport=Local(threads),
        schedule="synchronous",
        random_state=0,
        callback=note,
        **settings,
    )
    whole = time.perf_counter() - began
    return result, (times[-1] - times[0]) / (len(times) - 1), whole


def by_flexmix(
    X: Any, y: Any, label: Any, few: int, many: int
) -> dict[str, str] | None:
    """Fit with flexmix; return what it prints."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        table, script = Path(folder) / "data.csv", Path(folder) / "fit.R"
        header = ",".join(["y", "start", *(f"x{j}" for j in range(X.shape[1]))])
        rows = np.column_stack([y, label + 1, X])
        np.savetxt(table, rows, delimiter=",", header=header, comments="", fmt="%.17g")
        script.write_text(R_SCRIPT)
        done = subprocess.run(
            ["Rscript", str(script), str(table), str(few), str(many)],
            capture_output=True,
            text=True,
            check=True,
        )
    return dict(line.split() for line in done.stdout.splitlines())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--components", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--iterations", type=int, nargs=2, default=(2, 12))
    options = parser.parse_args()
    n, d, k = options.rows, options.columns, options.components
    X, y, label = make_data(n, d, k)
    model = MixtureOfExpertsModel(
        k, Gaussian(), Design(tuple(range(d)), tuple(range(d)))
    )
    start = start_of(model, X, y, label)
    theirs = by_flexmix(X, y, label, *options.iterations)
    cores = len(os.sched_getaffinity(0))
    print(f"dask_em {dask_em.__version__}, NumPy {np.__version__}, {cores} cores")
    if theirs is None:
        print("flexmix: there is no Rscript")
    else:
        print(f"flexmix {theirs['version']}, R {theirs['R']}")
    print(f"{n} rows, {d} columns, {k} experts")

    print("\nSeconds of an EM iteration")
    if theirs is not None:
        print(f"  flexmix             {float(theirs['each']):8.4f}")
    for threads in (1, 2):
        each = min(
            ours(
                model,
                X,
                y,
                start,
                threads,
                acceleration=None,
                tol=0,
                max_iter=options.iterations[1],
            )[1]
            for _ in range(options.repeat)
        )
        ratio = "" if theirs is None else f"   {float(theirs['each']) / each:6.1f} x"
        print(f"  dask_em, {threads} threads  {each:8.4f}{ratio}")

    print("\nTo convergence        seconds  iterations   log-likelihood")
    if theirs is not None:
        seconds, value = float(theirs["seconds"]), float(theirs["loglik"])
        steps = theirs["iterations"]
        print(f"  flexmix           {seconds:10.3f}{steps:>12}{value:17.6f}")
    for threads in (1, 2):
        runs = [
            ours(model, X, y, start, threads, tol=1e-10, max_iter=1000)
            for _ in range(options.repeat)
        ]
        result, _, whole = min(runs, key=lambda run: run[2])
        print(
            f"  dask_em, {threads} threads{whole:10.3f}{result.effective_passes:12.0f}"
            f"{result.log_likelihood:17.6f}"
            + ("" if theirs is None else f"   {seconds / whole:6.1f} x")
        )
    if theirs is not None:
        gain = result.log_likelihood - value
        print(f"  log-likelihood of dask_em less flexmix's: {gain:.6f}")


if __name__ == "__main__":
    main()
