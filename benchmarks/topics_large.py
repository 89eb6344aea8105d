"""A corpus of the NYTimes' shape: written in chunks, and fitted from there.

300 000 documents, 102 660 words, about 1e8 tokens, drawn chunk by chunk. Two worker
processes of one thread, with a limit of 4 GiB each. The page cache is dropped before
the fit where that is allowed. Reports seconds of each part, and the most memory that
the client, with the scheduler in it, and the workers had.

    python benchmarks/topics_large.py --folder /tmp/nyt
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import threading
import time
import warnings
from pathlib import Path

import psutil
from distributed import Client, LocalCluster

from dask_em import LatentDirichletAllocation
from dask_em.datasets import make_corpus_array
from dask_em.topics import write_corpus


class Memory:
    """The most resident memory of this process and its children."""

    def __init__(self) -> None:
        self.most: dict[int, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.1):
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    size = process.memory_info().rss
                    self.most[process.pid] = max(self.most.get(process.pid, 0), size)

    def report(self) -> str:
        """Return gigabytes: this process, and then the others."""
        mine = self.most.pop(os.getpid())
        others = sorted(self.most.values(), reverse=True)[:2]
        return ", ".join(f"{size / 1e9:.2f} GB" for size in (mine, *others))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--topics", type=int, default=100)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--wire", default="float32")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(platform.machine(), platform.python_version(), time.strftime("%Y-%m-%d"))
    if not given.folder.exists():
        began = time.perf_counter()
        write_corpus(given.folder, make_corpus_array())
        print(f"drawn and written in {time.perf_counter() - began:.1f} s")
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
        print("the page cache is empty")
    lda = LatentDirichletAllocation(
        given.topics, max_iter=given.passes, tol=0, random_state=0, wire=given.wire
    )
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="4GiB",
            dashboard_address=":0",
        ) as cluster,
        Client(cluster),
        Memory() as memory,
    ):
        began = time.perf_counter()
        lda.fit(given.folder)
        seconds = time.perf_counter() - began
    trace = lda.result_.trace
    first, last = trace.time[0], trace.time[-1]
    passes = lda.result_.trace.effective_passes[-1] - trace.effective_passes[0]
    print(f"fit: {seconds:.1f} s, {len(trace.time)} M-steps")
    print(f"first pass, documents' topics from nothing: {first:.1f} s")
    print(f"each further pass: {(last - first) / passes:.1f} s")
    print(f"most memory, client and workers: {memory.report()}")


if __name__ == "__main__":
    main()
