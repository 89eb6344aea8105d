"""Time to the answer when one of the workers is slow.

A mixture is fitted with default settings and with the plain barrier (synchronous, one
shard per worker, no hand-out), on equal workers and with one of them ten times slower:
in the simulator, and on a real LocalCluster whose E-steps are padded by sleeping. What
counts is the time until the bound is within 1e-6, relatively, of the final
log-likelihood.

    python benchmarks/straggler.py --simulator
    python benchmarks/straggler.py --cluster
    python benchmarks/straggler.py --stopped
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
from distributed import Client, LocalCluster, get_worker

from dask_em import fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.result import EMResult
from dask_em.schedules import FractionBarrier, Synchronous
from dask_em.transports import Futures, Simulated

N_WORKERS = 16
N_ROWS = 16_000


@dataclasses.dataclass(frozen=True)
class PaddedMixture(GaussianMixtureModel):
    """A mixture whose E-steps sleep: `pad` seconds per row, more on a slow worker."""

    pad: float = 0.0
    slow: str = ""

    def e_step(self, params, prepared, local=None):
        began = time.perf_counter()
        outcome = super().e_step(params, prepared, local)
        seconds = self.pad * prepared.n_rows * (10 if self._is_slow() else 1)
        time.sleep(max(seconds - (time.perf_counter() - began), 0.0))
        return outcome

    def _is_slow(self) -> bool:
        try:
            return bool(self.slow) and str(get_worker().name) == self.slow
        except ValueError:  # not in a task
            return False


#: Centres so close that EM needs some dozens of passes.
MEANS = np.random.default_rng(3).normal(size=(5, 3)) * 3.5


def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(m, 1.0, (N_ROWS // 5, 3)) for m in MEANS])
    return rng.permutation(X)


def model(**padding) -> PaddedMixture:
    start = MEANS + np.random.default_rng(1).normal(size=MEANS.shape)
    return PaddedMixture(
        5,
        weights_init=np.full(5, 0.2),
        means_init=start,
        precisions_init=np.stack([np.eye(3)] * 5),
        **padding,
    )


def seconds_to(result: EMResult, target: float) -> float:
    reached = result.trace.lower_bound >= target - 1e-6 * abs(target)
    return float(result.trace.time[reached.argmax()]) if reached.any() else np.inf


def report(name: str, result: EMResult, target: float, base: float) -> None:
    seconds = seconds_to(result, target)
    trace = result.trace
    bounds = np.ravel(np.column_stack([trace.lower_bound_before, trace.lower_bound]))
    fall = -np.diff(bounds).min() / abs(target)
    print(
        f"| {name} | {result.settings['shards']} | {seconds:.2f} | "
        f"{seconds / base:.3f} | {result.n_m_steps} | {result.effective_passes:.1f} | "
        f"{trace.n_reissued.sum()} | {max(fall, 0.0):.1e} |",
        flush=True,
    )


HEADER = (
    "| settings | shards | s to 1e-6 | ratio | M-steps | passes | re-issued | fall |\n"
    "|---|---|---|---|---|---|---|---|"
)
SETTINGS = {
    "plain barrier": {
        "schedule": Synchronous(),
        "shards": N_WORKERS,
        "hand_out": False,
    },
    "default": {},
    "synchronous, handed out": {"schedule": Synchronous()},
    "gamma = 0.5, one shard each": {
        "schedule": FractionBarrier(0.5),
        "shards": N_WORKERS,
        "hand_out": False,
    },
}


def final(X: np.ndarray) -> float:
    return fit_em(
        model(), X, transport="local", tol=1e-13, max_iter=2000
    ).log_likelihood


def simulator(n_passes: int) -> None:
    X = rows()
    target = final(X)
    for speeds in ([1.0] * N_WORKERS, [0.1] + [1.0] * (N_WORKERS - 1)):
        print(f"\nSimulator, slowest speed {min(speeds)}\n\n{HEADER}")
        base = None
        for name, settings in SETTINGS.items():
            clock = Simulated(
                N_WORKERS,
                cost=float(N_WORKERS),
                speeds=speeds,
                latency=0.011,
                bandwidth=1e9,
            )
            result = fit_em(
                model(), X, transport=clock, tol=1e-12, max_iter=n_passes, **settings
            )
            base = base or seconds_to(result, target)
            report(name, result, target, base)


def cluster(n_passes: int, names: list[str]) -> None:
    X = rows()
    target = final(X)
    pad = 1.0 * N_WORKERS / len(X)
    with (
        LocalCluster(
            n_workers=N_WORKERS,
            threads_per_worker=1,
            dashboard_address=None,
            memory_limit=0,
        ) as workers,
        Client(workers) as client,
    ):
        client.wait_for_workers(N_WORKERS)
        warm = model()
        fit_em(warm, X, transport=Futures(client), max_iter=3)
        for slow in ("", "3"):
            title = "one of 16 ten times slower" if slow else "equal workers"
            print(f"\nLocalCluster, {title}\n\n{HEADER}", flush=True)
            base = None
            for name in names:
                result = fit_em(
                    model(pad=pad, slow=slow),
                    X,
                    transport=Futures(client),
                    tol=1e-12,
                    max_iter=n_passes,
                    **SETTINGS[name],
                )
                base = base or seconds_to(result, target)
                report(name, result, target, base)


@contextlib.contextmanager
def stopped(pid: int, share: float, period: float = 1.0) -> Iterator[None]:
    """Stop a process of ours for a share of the time."""
    done = threading.Event()

    def blink() -> None:
        while not done.is_set():
            os.kill(pid, signal.SIGSTOP)
            done.wait(share * period)
            os.kill(pid, signal.SIGCONT)
            done.wait((1 - share) * period)

    thread = threading.Thread(target=blink)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        os.kill(pid, signal.SIGCONT)


def half_stopped(n_passes: int) -> None:
    """One of two workers stopped 90 % of the time: real work, nothing slept."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(20, 30)) * 1.0
    X = np.concatenate([rng.normal(m, 1.0, (20_000, 30)) for m in means])
    X = rng.permutation(X)
    mixture = GaussianMixtureModel(
        20,
        weights_init=np.full(20, 0.05),
        means_init=X[:20],
        precisions_init=np.stack([np.eye(30)] * 20),
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
        ) as workers,
        Client(workers) as client,
    ):
        import dask.array as da

        D = client.persist(da.from_array(X, chunks=(25_000, 30)))
        fit_em(mixture, D, transport=Futures(client), max_iter=3)
        pid = next(iter(client.run(os.getpid).values()))
        print("\n| settings | undisturbed s | stopped s | ratio |\n|---|---|---|---|")
        for name, settings in {
            "default": {},
            "synchronous, handed out": {"schedule": Synchronous()},
            "plain barrier": {
                "schedule": Synchronous(),
                "shards": 2,
                "hand_out": False,
            },
        }.items():
            common = {"transport": Futures(client), "tol": 1e-12, "max_iter": n_passes}
            seconds = []
            for disturbed in (False, True):
                guard = stopped(pid, 0.9) if disturbed else contextlib.nullcontext()
                began = time.perf_counter()
                with guard:
                    fit_em(mixture, D, **common, **settings)
                seconds.append(time.perf_counter() - began)
            print(
                f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | "
                f"{seconds[1] / seconds[0]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulator", action="store_true")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--stopped", action="store_true")
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument(
        "--settings", nargs="+", default=["plain barrier", "default"], choices=SETTINGS
    )
    args = parser.parse_args()
    if args.simulator:
        simulator(args.passes)
    if args.cluster:
        cluster(args.passes, args.settings)
    if args.stopped:
        half_stopped(args.passes)
