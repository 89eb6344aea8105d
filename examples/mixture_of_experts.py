"""A mixture of experts on a cluster: local fits made one, polished, and plain EM.

Rows are generated where they are needed, chunk by chunk. Every worker fits its own
rows; their fits are reduced to one, and a few passes over all rows make that the
maximum-likelihood estimate, which plain EM finds by passes alone.

    python examples/mixture_of_experts.py [--rows N] [--workers M]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from dask_em import MixtureOfExpertsRegressor

N_COMPONENTS, N_FEATURES = 3, 8
CHUNKS_PER_WORKER = 4
#: Intercepts and slopes of the experts, their standard deviations, and the gate's.
RNG = np.random.default_rng(3)
EXPERTS = RNG.integers(-4, 5, size=(N_COMPONENTS, N_FEATURES + 1)).astype(float)
NOISE = np.array([1.0, 1.5, 2.0])
GATE = RNG.integers(-2, 3, size=(N_COMPONENTS, N_FEATURES + 1)).astype(float)
GATE -= GATE[-1]

STRATEGIES = {
    "one_shot": {"strategy": "one_shot"},
    "one_shot+polish": {"strategy": "one_shot+polish"},
    "em": {"strategy": "em"},
}


def chunk_of_rows(start: np.ndarray, chunk: int) -> np.ndarray:
    """Return rows with their responses in the last column, the same every time."""
    rng = np.random.default_rng([int(start[0, 0]), 0])
    X = rng.normal(size=(chunk, N_FEATURES))
    Z = np.column_stack([np.ones(chunk), X])
    own = (Z @ GATE.T + rng.gumbel(size=(chunk, N_COMPONENTS))).argmax(axis=1)
    y = (Z * EXPERTS[own]).sum(axis=1) + NOISE[own] * rng.normal(size=chunk)
    return np.column_stack([X, y])


def generate(n_rows: int, n_chunks: int) -> tuple[da.Array, da.Array]:
    """Return lazy rows and responses."""
    chunk = -(-n_rows // n_chunks)
    first = da.arange(n_chunks, chunks=1)[:, None]
    data = first.map_blocks(
        chunk_of_rows,
        chunk,
        chunks=((chunk,) * n_chunks, (N_FEATURES + 1,)),
        dtype=float,
        meta=np.empty((0, 0)),
    )
    return data[:, :N_FEATURES], data[:, N_FEATURES]


def on_a_cluster(n_rows: int, n_workers: int) -> dict[str, Any]:
    fits = {}
    with (
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        X, y = client.persist(generate(n_rows, CHUNKS_PER_WORKER * n_workers))
        # the first fit on a cluster loads code; leave that out
        MixtureOfExpertsRegressor(2, max_iter=2, tol=1e9).fit(X, y)
        for name, settings in STRATEGIES.items():
            model = MixtureOfExpertsRegressor(N_COMPONENTS, random_state=0, **settings)
            began = time.perf_counter()
            fits[name] = model.fit(X, y), time.perf_counter() - began
    return fits


def moved(result: Any, per_e_step: float) -> float:
    """Return about how many bytes parameters and statistics were.

    An E-step takes parameters and returns statistics, and a local fit returns both.
    """
    report = result.settings.get("one_shot", {})
    e_steps = result.n_e_steps if result.settings["strategy"] != "one_shot" else 0
    return report.get("nbytes", 0) + e_steps * per_e_step


def print_table(fits: dict[str, Any]) -> None:
    report = fits["one_shot"][0].result_.settings["one_shot"]
    per_e_step = report["nbytes"] / report["local_fits"]
    print(
        f"{'strategy':<18}{'log-likelihood':>18}{'passes':>9}{'rounds':>9}"
        f"{'kB moved':>11}{'seconds':>10}"
    )
    for name, (fit, seconds) in fits.items():
        result = fit.result_
        # local fits are one round; so is every M-step on all rows
        rounds = ("one_shot" in name) + (name != "one_shot") * result.n_m_steps
        print(
            f"{name:<18}{result.log_likelihood:>18.3f}"
            f"{result.effective_passes:>9.1f}{rounds:>9}"
            f"{moved(result, per_e_step) / 1000:>11.1f}{seconds:>10.2f}"
        )
    print(
        f"\n{report['local_fits']} local fits of up to {report['local_passes']} "
        f"passes; their reduction took {report['reduction_seconds']:.2f} s."
    )


def print_parameters(fit: MixtureOfExpertsRegressor) -> None:
    """Print estimates beside what the data were made with."""
    found = np.column_stack([fit.intercept_, fit.coef_])
    distance = np.abs(found[:, None] - EXPERTS).sum(axis=2)
    print("\nExperts: estimates, and in brackets what the rows were made with")
    for k, nearest in enumerate(distance.argmin(axis=1)):
        pairs = zip(found[k], EXPERTS[nearest], strict=True)
        print("  " + "  ".join(f"{a:6.2f} [{b:2.0f}]" for a, b in pairs))
        std = float(np.sqrt(fit.covariances_[k, 0, 0]))
        print(f"  standard deviation {std:.2f} [{NOISE[nearest]:.1f}]")


def draw(fit: MixtureOfExpertsRegressor, n_rows: int, path: str) -> None:
    try:
        import matplotlib
    except ImportError:
        print("\nNo picture: matplotlib is not installed (pip install matplotlib).")
        return
    matplotlib.use("Agg")
    from dask_em.plotting import plot_experts

    X, y = generate(min(n_rows, 5000), 1)
    best = int(np.ptp(fit.coef_, axis=0).argmax())
    ax = plot_experts(fit, X, y, feature=best)
    ax.set_title("Rows by the expert that is responsible for them")
    ax.figure.savefig(path, dpi=120)
    print(f"\nA picture of the experts is in {path}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    fits = on_a_cluster(given.rows, given.workers)
    print(f"{given.rows} rows on {given.workers} workers\n")
    print_table(fits)
    fit, _ = fits["one_shot+polish"]
    print_parameters(fit)
    draw(fit, given.rows, "mixture_of_experts.png")


if __name__ == "__main__":
    main()
