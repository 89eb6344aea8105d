"""What a synchronous iteration costs on top of its E-steps.

16 one-thread workers, one shard each, E-steps that sleep: the median time between
M-steps should be near the length of an E-step.

    python benchmarks/overhead.py [--processes] [--workers 16] [--seconds 0.1]
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

from dask_em import fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.transports import Futures


@dataclasses.dataclass(frozen=True)
class SleepyMixture(GaussianMixtureModel):
    """A Gaussian mixture whose E-steps take a given time."""

    seconds: float = 0.1

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        end = time.perf_counter() + self.seconds
        result = super().e_step(params, prepared, local)
        time.sleep(max(end - time.perf_counter(), 0.0))
        return result


def measure(
    processes: bool = False,
    n_workers: int = 16,
    seconds: float = 0.1,
    iterations: int = 50,
) -> np.ndarray:
    """Return the seconds between M-steps."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(m, 1.0, (400, 2)) for m in (-1.0, 1.0)])
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=processes,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        result = fit_em(
            SleepyMixture(2, seconds=seconds),
            X,
            transport=Futures(client),
            schedule="synchronous",
            shards=n_workers,
            hand_out=False,
            tol=0.0,
            max_iter=iterations + 1,
            random_state=0,
        )
    return np.diff(result.trace.time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--iterations", type=int, default=50)
    args = parser.parse_args()
    times = measure(args.processes, args.workers, args.seconds, args.iterations)
    low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
    print(
        f"{args.workers} workers, E-steps of {args.seconds * 1e3:.0f} ms: an iteration "
        f"takes {median * 1e3:.0f} ms (10-90 %: {low * 1e3:.0f}-{high * 1e3:.0f}), "
        f"{median / args.seconds:.2f} x the E-step"
    )


if __name__ == "__main__":
    main()
