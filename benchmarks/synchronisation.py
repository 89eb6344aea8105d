"""Ways to synchronise a topic model where one of four workers is four times slower.

``simulator``: virtual time until held-out documents have a perplexity of 1700, on KOS
(K = 25) and NIPS (K = 50), from almost even topics. The unit is a pass over all
documents by four healthy workers. With the share of that time that the healthy workers
waited.

``picture``: who works when, drawn side by side.

``cluster``: time to the same log-posterior on four real worker processes, on 20
Newsgroups replicated. E-steps are padded by sleeping, so that those of a shard take 100
ms and more and workers need not share cores; one of them sleeps four times as long.

    DASK_EM_DATA=... python benchmarks/synchronisation.py simulator
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from topics import CORPORA, TARGET, Corpus

from dask_em import fit_em
from dask_em.drivers.peer import Stage, fit_peers
from dask_em.models.topics.count import CountTopicModel
from dask_em.models.topics.rotating import RotatingTopicModel
from dask_em.schedules import BoundedStaleness, ExtraUpdates, Schedule, Synchronous
from dask_em.topics import as_corpus, read_docword
from dask_em.topologies import Rotation
from dask_em.transports import Simulated, Timeline

SLOW = (1.0, 1.0, 1.0, 0.25)
#: Messages cost 1 % of a pass each way.
LATENCY = 0.01


@dataclasses.dataclass(frozen=True)
class Managed:
    schedule: Schedule
    shards: int
    hand_out: bool = False


STRATEGIES: dict[str, Managed | Rotation] = {
    "barrier": Managed(Synchronous(), 4),
    "barrier + extra updates": Managed(ExtraUpdates(Synchronous(), 2), 4),
    "bounded staleness, shards stay": Managed(BoundedStaleness(3), 16),
    "barrier, 64 shards handed out": Managed(Synchronous(), 64, True),
    "bounded staleness, 16 shards handed out": Managed(BoundedStaleness(), 16, True),
    "bounded staleness, 64 shards handed out": Managed(BoundedStaleness(), 64, True),
    "rotation, barrier": Rotation("barrier"),
    "rotation, extra updates": Rotation("extra_updates"),
    "rotation, neighbours": Rotation("neighbours"),
}


class Watched(Simulated):
    """A simulation whose nodes can be looked at in mid-fit."""

    def peers(self) -> Any:
        self.nodes = super().peers()
        return self.nodes


@dataclasses.dataclass
class Run:
    seconds: float
    waiting: float
    passes: float
    timeline: Timeline


def topics_of(nodes: Any, n_words: int, b: float) -> np.ndarray:
    """Put topics together from the slices of all nodes."""
    held = [node.rotating for node in nodes._nodes[:-1]]
    width = held[0].totals.shape[1]
    counts = np.full((width, n_words), b)
    for mine in held:
        for j, ids in mine.home.items():
            counts[:, ids] = mine.slices[j].columns.T + b
    return counts / counts.sum(axis=1, keepdims=True)


def run(
    strategy: Managed | Rotation,
    corpus: Corpus,
    n_topics: int,
    speeds: tuple[float, ...],
    seed: int,
    most: float,
    target: float = TARGET,
) -> Run:
    """Fit until the target is reached, or so much virtual time has passed."""
    transport = Watched(len(speeds), cost=4.0, speeds=speeds, latency=LATENCY)
    reached: list[tuple[float, float]] = []
    data = as_corpus(corpus.train)
    b = 0.1

    def score(progress: Any) -> bool:
        if isinstance(strategy, Rotation):
            now = transport.nodes.now()
            topics = topics_of(transport.nodes, corpus.train.shape[1], b)
        else:
            now = transport.now()
            topics = progress.params.probabilities(b)
        if corpus.perplexity(topics) <= target and not reached:
            reached.append((now, progress.effective_passes))
        return bool(reached) or now > most

    if isinstance(strategy, Rotation):
        fit_peers(
            [Stage(RotatingTopicModel(n_topics, begin="random"), 1000, 0.0)],
            data,
            topology=strategy,
            transport=transport,
            shards=len(speeds),
            seed=seed,
            callback=score,
        )
    else:
        fit_em(
            CountTopicModel(n_topics, begin="random"),
            data.data(),
            schedule=strategy.schedule,
            shards=strategy.shards,
            hand_out=strategy.hand_out,
            transport=transport,
            tol=0,
            max_iter=1000,
            random_state=seed,
            callback=_sometimes(score, 8 if strategy.shards > 16 else 1),
        )
    seconds, passes = reached[0] if reached else (np.inf, np.inf)
    timeline = transport.timeline.until(min(seconds, most))
    shares = timeline.waiting()
    healthy = [w for w, s in zip(timeline.workers, speeds, strict=True) if s == 1.0]
    waiting = float(np.mean([shares[w] for w in healthy]))
    return Run(seconds, waiting, passes, timeline)


def _sometimes(score: Callable[[Any], bool], every: int) -> Callable[[Any], bool]:
    """Score every so many M-steps: it takes longer than these."""

    def call(progress: Any) -> bool:
        return progress.version % every == 0 and score(progress)

    return call


def simulate(seeds: int, corpora: list[str]) -> None:
    """Print time to the target for all strategies."""
    print("\n| corpus | speeds | strategy | time | of the barrier | waiting | passes |")
    print("|---|---|---|---:|---:|---:|---:|")
    for name in corpora:
        corpus, n_topics = Corpus(name), CORPORA[name]
        for speeds in (SLOW, (1.0,) * 4):
            base = np.nan
            for label, strategy in STRATEGIES.items():
                found = [
                    run(strategy, corpus, n_topics, speeds, seed, 400.0)
                    for seed in range(seeds)
                ]
                seconds = float(np.median([r.seconds for r in found]))
                if label == "barrier":
                    base = seconds
                print(
                    f"| {name} | {'one slow' if speeds is SLOW else 'equal'} | {label} "
                    f"| {seconds:.1f} | {seconds / base:.2f} | "
                    f"{np.mean([r.waiting for r in found]):.1%} | "
                    f"{np.median([r.passes for r in found]):.1f} |",
                    flush=True,
                )


PICTURED = {
    "barrier: all wait for the slow one": "barrier",
    "bounded staleness: three passes ahead, then they wait": (
        "bounded staleness, shards stay"
    ),
    "rotation with extra updates: who would wait sweeps again": (
        "rotation, extra updates"
    ),
    "hand-out: shards move to who is free": "bounded staleness, 64 shards handed out",
}


def picture(path: str) -> None:
    """Draw the first passes of four strategies."""
    import matplotlib.pyplot as plt

    from dask_em.plotting import plot_timeline

    corpus = Corpus("kos")
    figure, axes = plt.subplots(
        4, 1, figsize=(8, 8.4), sharex=True, layout="constrained"
    )
    for ax, (title, label) in zip(axes, PICTURED.items(), strict=True):
        found = run(STRATEGIES[label], corpus, 25, SLOW, 0, 16.0, target=0.0)
        plot_timeline(found.timeline, ax)
        if ax.get_legend():
            ax.get_legend().remove()
        ax.set_title(
            f"{title} ({found.waiting:.0%} of their time)", loc="left", size=10
        )
        ax.set_xlabel("")
        ax.set_xlim(0, 16)
    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    axes[-1].set_xlabel("time, in passes of four healthy workers")
    figure.savefig(path, dpi=110)
    print("written to", path)


# ------------------------------------------------------------------------ real workers

#: Seconds that the E-steps of all documents take on one healthy worker.
PASS_SECONDS = 6.4
COPIES = 4


def _pad(began: float, entries: int, second: float) -> None:
    """Sleep until an E-step of so many entries has taken its time."""
    from distributed import Worker

    # steps of actors run in threads that know of no worker
    names = {str(worker.name) for worker in Worker._instances}
    slow = 4 if names == {"3"} else 1
    seconds = slow * entries * second
    time.sleep(max(seconds - (time.perf_counter() - began), 0.0))


@dataclasses.dataclass(frozen=True)
class PaddedTopics(CountTopicModel):
    """Topics whose E-steps take so many seconds per entry."""

    second: float = 0.0

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        began = time.perf_counter()
        outcome = super().e_step(params, prepared, local)
        _pad(began, len(prepared.indices), self.second)
        return outcome


@dataclasses.dataclass(frozen=True)
class PaddedRotation(RotatingTopicModel):
    """The same, for cells."""

    second: float = 0.0

    def sweep(self, cell: Any, *given: Any) -> Any:
        began = time.perf_counter()
        outcome = super().sweep(cell, *given)
        _pad(began, cell.size, self.second)
        return outcome


def real(only: list[str] | None) -> None:
    """Print seconds to the log-posterior where the barrier is after 25 passes."""
    from distributed import Client, LocalCluster

    X = read_docword(
        Path(os.environ["DASK_EM_DATA"]) / "topics" / "docword.20news-train.txt.gz"
    )
    X = sp.vstack([X] * COPIES, format="csr")
    second = PASS_SECONDS / X.nnz
    data = as_corpus(X)
    tokens = float(X.sum())
    print(f"{X.shape[0]} documents, {X.nnz} entries, {tokens:.0f} tokens")
    base = target = np.nan
    print("\n| strategy | s | of the barrier | M-steps or passes | extra updates |")
    print("|---|---:|---:|---:|---:|")
    for label, strategy in STRATEGIES.items():
        if only and label not in only:
            continue
        with (
            LocalCluster(
                n_workers=4, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            Client(cluster),
        ):
            seconds, value, n, extra = _on_cluster(
                strategy, data, second, target, tokens
            )
        if label == "barrier":
            base, target = seconds, value
        print(
            f"| {label} | {seconds:.1f} | {seconds / base:.2f} | {n} | {extra} |",
            flush=True,
        )


def _on_cluster(
    strategy: Managed | Rotation, data: Any, second: float, target: float, tokens: float
) -> tuple[float, float, int, Any]:
    passes = 25 if np.isnan(target) else 200
    reached: list[float] = []
    began = [time.perf_counter()]

    def look(progress: Any) -> bool:
        now = time.perf_counter()
        if progress.version <= 1 and len(began) == 1:
            began.append(now)  # what comes before is not the strategy's
        if progress.lower_bound >= target and not reached:
            reached.append(now)
        return bool(reached)

    if isinstance(strategy, Rotation):
        result = fit_peers(
            [Stage(PaddedRotation(20, begin="random", second=second), passes, 0.0)],
            data,
            topology=strategy,
            transport="actors",
            shards=4,
            callback=look,
        )
    else:
        result = fit_em(
            PaddedTopics(20, begin="random", second=second),
            data.data(),
            schedule=strategy.schedule,
            shards=strategy.shards,
            hand_out=strategy.hand_out,
            tol=0,
            max_iter=passes,
            random_state=0,
            callback=look,
        )
    end = reached[0] if reached else time.perf_counter()
    value = float(result.trace.lower_bound[-1] / tokens)
    extra = result.settings.get("extra updates", "")
    return end - began[-1], value, result.n_m_steps, extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["simulator", "picture", "cluster"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--corpora", nargs="*", default=list(CORPORA))
    parser.add_argument("--out", default="synchronisation.png")
    parser.add_argument("--only", nargs="*", help="names of strategies")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(platform.machine(), platform.python_version(), time.strftime("%Y-%m-%d"))
    if given.what == "simulator":
        simulate(given.seeds, given.corpora)
    elif given.what == "picture":
        picture(given.out)
    else:
        real(given.only)


if __name__ == "__main__":
    main()
