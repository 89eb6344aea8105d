"""Topic models of the NYTimes' shape on 4 to 64 workers, and with 5 to 1000 topics.

300 000 documents of 102 660 words, about 1e8 tokens. Seconds per entry of an E-step are
measured first, for each number of topics, on one core; passes then run on a virtual
clock, with messages over 10 Gbit/s that take a millisecond. The numbers in them are
real, of every ``--thin``-th document; the clock counts all.

    python benchmarks/topics_scaling.py workers topics
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

from dask_em.datasets import make_corpus
from dask_em.drivers.peer import Stage, fit_peers
from dask_em.models.topics.base import Documents
from dask_em.models.topics.count_peers import PeerCountTopicModel
from dask_em.models.topics.count_step import topic_e_step
from dask_em.models.topics.rotating import RotatingTopicModel
from dask_em.topics import as_corpus
from dask_em.topologies import Rotation
from dask_em.transports import Simulated

LATENCY, BANDWIDTH = 1e-3, 1.25e9
WORKERS = (4, 8, 16, 32, 64)
TOPICS = (5, 10, 25, 50, 100, 250, 500, 1000)
ENTRIES = 70.8e6
PASSES = 3
TOPOLOGIES: dict[str, Any] = {
    "owner_sharded": "owner_sharded",
    "rotation, barrier": Rotation("barrier", in_memory=10**11),
    "rotation, extra updates": Rotation("extra_updates", in_memory=10**11),
    "rotation, neighbours": Rotation("neighbours", in_memory=10**11),
}


def corpus(thin: int) -> sp.csr_array:
    """Return some of the documents."""
    blocks = make_corpus(300_000 // thin)
    return sp.vstack(list(blocks), format="csr")


def seconds_per_entry(X: sp.csr_array, n_topics: int) -> float:
    """Time E-steps on one core, of what a sixteenth of all documents would be."""
    docs = Documents.of([X[: 300_000 // 16]], X.shape[1])
    model = PeerCountTopicModel(n_topics)
    rng = np.random.default_rng(0)
    counts = rng.gamma(1.0, 1.0, (X.shape[1], n_topics))
    doc = rng.gamma(1.0, 1.0, (docs.n_docs, n_topics))
    best = np.inf
    for _ in range(3):
        began = time.perf_counter()
        topic_e_step(model, counts, counts.sum(axis=0), docs, docs.words, doc)
        best = min(best, time.perf_counter() - began)
    return best / len(docs.indices)


def per_pass(
    X: sp.csr_array, topology: Any, n_workers: int, n_topics: int, second: float
) -> float:
    """Return virtual seconds of a pass."""
    transport = Simulated(
        n_workers, cost=second * ENTRIES, latency=LATENCY, bandwidth=BANDWIDTH
    )
    rotates = isinstance(topology, Rotation)
    kind: Any = RotatingTopicModel if rotates else PeerCountTopicModel
    peers = transport.peers()
    times: list[float] = []
    transport.peers = lambda: peers  # type: ignore[method-assign]
    fit_peers(
        [Stage(kind(n_topics), PASSES + 1, 0.0)],
        as_corpus(X),
        topology=topology,
        transport=transport,
        shards=n_workers,
        callback=lambda progress: times.append(peers.now()),
        gather=False,
    )
    return (times[-1] - times[0]) / (len(times) - 1)


def by_workers(thin: int) -> None:
    X = corpus(thin)
    second = seconds_per_entry(X, 25)
    print(f"\nK = 25: {second * 1e9:.1f} ns per entry, one core")
    print("| topology |", " | ".join(f"{w} workers" for w in WORKERS), "|")
    print("|---" * (len(WORKERS) + 1) + "|")
    for name, topology in TOPOLOGIES.items():
        found = [per_pass(X, topology, w, 25, second) for w in WORKERS]
        print(f"| {name} |", " | ".join(f"{s * 1e3:.0f} ms" for s in found), "|")


def by_topics(thin: int) -> None:
    X = corpus(thin)
    print("\n| K | ns per entry | " + " | ".join(TOPOLOGIES) + " |")
    print("|---:" * (len(TOPOLOGIES) + 2) + "|")
    for n_topics in TOPICS:
        second = seconds_per_entry(X, n_topics)
        # fewer documents where there are many topics: they are for the numbers alone
        some = X[:: max(1, n_topics // 100)]
        found = [per_pass(some, t, 16, n_topics, second) for t in TOPOLOGIES.values()]
        shown = " | ".join(f"{s * 1e3:.0f} ms" for s in found)
        print(f"| {n_topics} | {second * 1e9:.1f} | {shown} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="+", choices=["workers", "topics"])
    parser.add_argument("--thin", type=int, default=10)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(platform.machine(), platform.python_version(), time.strftime("%Y-%m-%d"))
    if "workers" in given.what:
        by_workers(given.thin)
    if "topics" in given.what:
        by_topics(given.thin)


if __name__ == "__main__":
    main()
