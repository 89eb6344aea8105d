"""A Gaussian mixture on real data: on threads, then on a cluster with a slow worker.

The handwritten digits that come with scikit-learn are reduced to a few principal
components and clustered. The second part starts a small Dask cluster in which one
worker takes ten times as long as the others, and compares two schedules.

    python examples/quickstart.py
"""

from __future__ import annotations

import time
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, WorkerPlugin
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from dask_em import GaussianMixture
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.plotting import plot_bound
from dask_em.schedules import FractionBarrier, Synchronous

N_WORKERS = 4
SCHEDULES = {
    "synchronous": Synchronous(),
    # an M-step after every second of the 16 shards
    "fraction_barrier": FractionBarrier(gamma=1 / 8),
}


class Pace(WorkerPlugin):
    """Let E-steps take a given time per row, and ten times that on one worker.

    The digits are so few that every cluster would be done at once; this makes a
    larger problem of them, and one machine a bad one.
    """

    name = "pace"

    def __init__(self, seconds_per_row: float, slow_worker: int) -> None:
        self.seconds_per_row = seconds_per_row
        self.slow_worker = slow_worker

    def setup(self, worker) -> None:
        seconds = self.seconds_per_row
        if worker.name == self.slow_worker:
            seconds *= 10
        e_step = GaussianMixtureModel.e_step

        def paced(model, params, prepared, local=None):
            time.sleep(seconds * prepared.n_rows)
            return e_step(model, params, prepared, local)

        GaussianMixtureModel.e_step = paced  # this worker's own process only


def load() -> np.ndarray:
    digits = load_digits().data
    return PCA(8, random_state=0).fit_transform(digits)


def mixture(**settings) -> GaussianMixture:
    """All fits begin at the same start and are pursued to the same precision."""
    return GaussianMixture(
        10, reg_covar=1e-3, tol=1e-7, max_iter=500, random_state=3, **settings
    )


def on_threads(X: np.ndarray) -> GaussianMixture:
    fit = mixture().fit(X)
    sizes = np.sort(np.bincount(fit.predict(X)))[::-1]
    print(f"On threads: {fit.result_}")
    print(f"Clusters of {', '.join(map(str, sizes))} digits\n")
    return fit


def on_a_cluster(X: np.ndarray) -> dict[str, GaussianMixture]:
    fits = {}
    with (
        LocalCluster(
            n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Pace(seconds_per_row=2e-4, slow_worker=1))
        D = client.persist(da.from_array(X, chunks=(100, X.shape[1])))
        # the first fit on a cluster loads compiled code; leave that out
        mixture(schedule="synchronous").set_params(max_iter=2, tol=1e9).fit(D)
        for name, schedule in SCHEDULES.items():
            fits[name] = mixture(schedule=schedule, shards=16).fit(D)
    return fits


def print_table(fits: dict[str, GaussianMixture]) -> None:
    print(f"One of {N_WORKERS} workers ten times slower than the others:\n")
    columns = ("schedule", "log-likelihood", "M-steps", "effective passes", "seconds")
    print("{:<18}{:>18}{:>10}{:>18}{:>10}".format(*columns))
    for name, fit in fits.items():
        result = fit.result_
        print(
            f"{name:<18}{result.log_likelihood:>18.4f}{result.n_m_steps:>10}"
            f"{result.effective_passes:>18.1f}{result.trace.time[-1]:>10.2f}"
        )


def draw(fits: dict[str, GaussianMixture], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("\nNo plot: matplotlib is not installed (pip install matplotlib).")
        return
    matplotlib.use("Agg")
    ax = plot_bound({name: fit.result_ for name, fit in fits.items()}, gap=True)
    ax.set_title(f"Digits on {N_WORKERS} workers, one of them ten times slower")
    ax.figure.savefig(path, dpi=120)
    print(f"\nThe bound against time is in {path}.")


def main() -> None:
    X = load()
    on_threads(X)
    fits = on_a_cluster(X)
    print_table(fits)
    draw(fits, Path("quickstart_bound.png"))


if __name__ == "__main__":
    main()
