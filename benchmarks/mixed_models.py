"""`LinearMixedModel` beside lme4 and statsmodels, on a replica of MovieLens.

The replica has the true numbers of ratings of the 66 219 users of DEM's analysis
(6 897 344 rows), predictors drawn from a sample of them, and a response simulated from
the REML estimates. Times run from arrays (a data frame for the others) in memory to the
converged fit; memory is what the process grows by meanwhile. The others get the first
tenth and hundredth of the users, on which `LinearMixedModel` is timed too.

    DASK_EM_DATA=... python benchmarks/mixed_models.py

lme4 runs in R (Debian: r-cran-lme4) and is left out where there is no Rscript.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import dask_em
from dask_em import LinearMixedModel
from dask_em.datasets import make_movielens_replica
from dask_em.grouping.gather import gather_memory
from dask_em.grouping.rows import Columns, Factor, Grouped, Rows

COLUMNS = ("one", "children", "comedy", "drama", "popularity", "liked")
R_SCRIPT = """
suppressMessages(library(lme4))
d <- read.csv(commandArgs(TRUE)[1])
t <- system.time(m <- lmer(rating ~ children + comedy + drama + popularity + liked +
    (children + comedy + drama + popularity + liked | user), d,
    control = lmerControl(calc.derivs = FALSE)))
cat("seconds", t[["elapsed"]], "\\n")
cat("deviance", sprintf("%.8f", REMLcrit(m)), "\\n")
cat("version", as.character(packageVersion("lme4")), "\\n")
"""


def resident() -> int:
    """Bytes that this process occupies."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most that the process grows by inside a block."""

    def __enter__(self) -> Peak:
        self.bytes, self._began, self._stop = 0, resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, resident() - self._began)

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()


def ours(X: Any, y: Any, users: Any) -> tuple[LinearMixedModel, float]:
    """Fit with everything varying by user; return the model and seconds."""
    Z = np.column_stack([np.ones(len(X)), X]) if len(X) < 1_000_000 else None
    began = time.perf_counter()
    if Z is None:
        Z = np.column_stack([np.ones(len(X)), X])
    model = LinearMixedModel().fit(X, y, groups=users, Z=Z)
    return model, time.perf_counter() - began


def by_lme4(X: Any, y: Any, users: Any) -> dict[str, str] | None:
    """Fit with lme4; return what it prints."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "data.csv"
        header = ",".join(("rating", "user", *COLUMNS[1:]))
        rows = np.column_stack([y, users, X])
        np.savetxt(table, rows, delimiter=",", header=header, comments="", fmt="%.17g")
        script = Path(folder) / "fit.R"
        script.write_text(R_SCRIPT)
        done = subprocess.run(
            ["Rscript", str(script), str(table)],
            capture_output=True,
            text=True,
            check=True,
        )
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def by_statsmodels(X: Any, y: Any, users: Any) -> tuple[float, float, str] | None:
    """Fit with statsmodels; return seconds, deviance and version."""
    try:
        import statsmodels
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ImportError:
        return None
    Z = np.column_stack([np.ones(len(X)), X])
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MixedLM(y, Z, groups=users, exog_re=Z).fit(reml=True)
    return time.perf_counter() - began, -2 * float(fit.llf), statsmodels.__version__


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("DASK_EM_DATA"))
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if not options.data:
        sys.exit("set DASK_EM_DATA, or give --data")
    folder = Path(options.data) / "lmm"
    replica = make_movielens_replica(
        folder / "movielens_sample.csv.gz", folder / "movielens10m_group_sizes.txt.gz"
    )
    users, y = replica.groups, replica.y
    X, Z = np.ascontiguousarray(replica.X[:, 1:]), replica.Z
    del replica
    ours(X[:10_000], y[:10_000], users[:10_000])  # compiles
    cores = len(os.sched_getaffinity(0))
    print(f"dask_em {dask_em.__version__}, NumPy {np.__version__}, {cores} cores")
    print(f"\nReplica: {len(y)} rows, {len(np.unique(users))} users")
    factor = Factor("user", COLUMNS, (6,))
    for _ in range(options.repeat):
        with Peak() as peak:
            began = time.perf_counter()
            rows = Rows(y, Columns(X, True), (Grouped(users, Columns(X, True)),))
            gathered = gather_memory(rows, COLUMNS, (factor,))
            once = time.perf_counter() - began
        del gathered
        with Peak() as peak:
            began = time.perf_counter()
            model = LinearMixedModel().fit(X, y, groups=users, Z=Z)
            seconds = time.perf_counter() - began
        print(
            f"  {seconds:.2f} s, of which statistics once {once:.2f} s; "
            f"{model.result_.n_e_steps // model.result_.settings['shards']} E-steps; "
            f"+{peak.bytes / 1e6:.0f} MB; criterion {model.deviance_:.6f}"
        )
    for share, name in ((10, "lme4"), (100, "statsmodels")):
        n = int(np.searchsorted(users, users.max() // share, side="right"))
        part = X[:n], y[:n], users[:n]
        model, seconds = min((ours(*part) for _ in range(3)), key=lambda pair: pair[1])
        print(f"\n1/{share}: {n} rows; dask_em {seconds:.3f} s, {model.deviance_:.6f}")
        if name == "lme4":
            found = by_lme4(*part)
            if found is None:
                print("  lme4: there is no Rscript")
                continue
            theirs, deviance = float(found["seconds"]), float(found["deviance"])
            version = found["version"]
        else:
            fitted = by_statsmodels(*part)
            if fitted is None:
                print("  statsmodels is not installed")
                continue
            theirs, deviance, version = fitted
        print(
            f"  {name} {version}: {theirs:.1f} s, {deviance:.6f} (ours lower by "
            f"{deviance - model.deviance_:.2g}): {theirs / seconds:.0f} x"
        )


if __name__ == "__main__":
    main()
