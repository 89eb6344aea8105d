"""Factor analysis against scikit-learn: seconds to the same likelihood.

scikit-learn fits to a tight tolerance first; its log-likelihood, less a millionth of a
nat per row, is the target. Both sides are then timed to the first iteration that
reaches it. With values missing, where scikit-learn has nothing to compare with, the
time of a fit to the default tolerance is shown, with and without acceleration.

    python benchmarks/factor_analysis.py
    python benchmarks/factor_analysis.py --shapes 20000x50x5 --repeats 1
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from sklearn.decomposition import FactorAnalysis as Reference
from sklearn.exceptions import ConvergenceWarning

from dask_em.estimators.factor_analysis import PPCA, FactorAnalysis

SHAPES = "20000x20x3,100000x50x5,100000x100x10"
#: Nats per row.
SLACK = 1e-6


def rows(n, d, k, missing=0.0):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, k)) @ rng.normal(size=(k, d))
    X += rng.normal(size=(n, d)) * np.sqrt(rng.uniform(0.2, 3.0, d))
    if missing:
        X[rng.random(X.shape) < missing] = np.nan
    return X


def elapsed(fit, repeats):
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        found = fit()
        seconds.append(time.perf_counter() - began)
    return min(seconds), found


def first_at(values, target):
    return int(np.argmax(np.asarray(values) >= target)) + 1


def complete(n, d, k, repeats):
    X = rows(n, d, k)
    known = Reference(k, tol=1e-7 * n, max_iter=1000, svd_method="lapack").fit(X)
    target = known.loglike_[-1] - SLACK * n
    line = [f"{n}x{d}x{k}"]
    for method in ("lapack", "randomized"):
        whole = Reference(k, tol=0, max_iter=known.n_iter_ + 5, svd_method=method)
        trace = whole.fit(X).loglike_
        if max(trace) < target:
            line.append(f"{'never':>8s}")
            continue
        n_iter = first_at(trace, target)
        theirs = Reference(k, tol=0, max_iter=n_iter, svd_method=method)
        seconds, _ = elapsed(lambda theirs=theirs: theirs.fit(X), repeats)
        line.append(f"{seconds:8.3f} s ({n_iter})")
    for acceleration in ("auto", None):
        how = {"acceleration": acceleration, "transport": "local"}
        trace = FactorAnalysis(k, tol=1e-9, **how).fit(X).loglike_
        n_iter = first_at(trace, target)
        ours = FactorAnalysis(k, tol=0, max_iter=n_iter, **how)
        seconds, _ = elapsed(lambda ours=ours: ours.fit(X), repeats)
        line.append(f"{seconds:8.3f} s ({n_iter})")
    print("  ".join(line), flush=True)


def incomplete(n, d, k, repeats):
    X = rows(n, d, k, 0.2)
    line = [f"{n}x{d}x{k}"]
    for kind in (FactorAnalysis, PPCA):
        for acceleration in ("auto", None):
            ours = kind(k, acceleration=acceleration, transport="local")
            seconds, _ = elapsed(lambda ours=ours: ours.fit(X), repeats)
            line.append(f"{seconds:8.3f} s ({ours.n_iter_}, {ours.lower_bound_:.6f})")
    print("  ".join(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    shapes = [tuple(map(int, s.split("x"))) for s in options.shapes.split(",")]
    warnings.simplefilter("ignore", ConvergenceWarning)
    FactorAnalysis(1).fit(rows(50, 3, 1))  # imports
    print("complete, seconds (iterations) to the same likelihood")
    print("shape  scikit-learn lapack  randomized  dask_em  without acceleration")
    for shape in shapes:
        complete(*shape, options.repeats)
    print("a fifth of the values missing, seconds (passes, log-likelihood per row)")
    print("shape  FactorAnalysis  without acceleration  PPCA  without acceleration")
    for n, d, k in shapes:
        incomplete(min(n, 20_000), d, k, 1)


if __name__ == "__main__":
    main()
