"""Align the words of a text and its translation, on threads or on a cluster.

Two models are fitted, one for each direction, and their links are made one alignment.
Files have a sentence in a line, tokens between spaces, and may be compressed (.gz).

    python examples/align.py TRAIN.en TRAIN.fr --out hansards --workers 4
    python examples/align.py TRAIN.en TRAIN.fr --test TEST.en TEST.fr --gold TEST.links

Without files, pairs of sentences are made up, whose links are known.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

from dask_em import HMMAligner, IBMModel1, IBMModel2, aer, symmetrize
from dask_em.alignment import Alignments, Gold, read_gold

MODELS = {"hmm": HMMAligner, "model2": IBMModel2, "model1": IBMModel1}
METHODS = ("intersection", "union", "grow-diag", "grow-diag-final")
METHODS += ("grow-diag-final-and",)


def make_bitext(n_pairs: int, seed: int = 0) -> tuple[list[tuple[str, str]], Gold]:
    """Make up sentences and their translations; return them and their links.

    Each of 500 words has two translations, neighbours may change places, and some
    words of the target stand for nothing.
    """
    rng = np.random.default_rng(seed)
    pairs, links = [], []
    for _ in range(n_pairs):
        source = rng.zipf(1.3, rng.integers(3, 13)) % 500
        order = np.argsort(np.arange(len(source)) + 1.5 * rng.random(len(source)))
        target, linked = [], []
        for i in order.tolist():
            if rng.random() < 0.1:
                target.append(f"de{rng.integers(3)}")
            linked.append((i, len(target)))
            target.append(f"f{source[i]}{'ab'[rng.random() < 0.3]}")
        pairs.append((" ".join(f"e{word}" for word in source), " ".join(target)))
        links.append(linked)
    known = Alignments.from_links(links)
    return pairs, Gold(known, known)


@contextlib.contextmanager
def workers(n: int) -> Iterator[Client | None]:
    """Start so many workers; none for threads of this process."""
    if not n:
        yield None
        return
    with (
        LocalCluster(
            n_workers=n, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def fit(name: str, bitext: tuple[Any, ...], **settings: Any) -> dict[str, Any]:
    """Fit a model in each direction, and say how it went."""
    fitted = {}
    for direction in ("forward", "backward"):
        began = time.perf_counter()
        model = MODELS[name](reverse=direction == "backward", **settings)
        fitted[direction] = model.fit(*bitext)
        seconds = time.perf_counter() - began
        bounds = ", ".join(f"{bound:.0f}" for bound in model.log_likelihoods_)
        print(f"{direction}: {model.n_iter_} iterations in {seconds:.1f} s")
        print(f"  log-likelihood {bounds}")
    return fitted


def write(
    prefix: str, alignments: dict[str, Alignments], fitted: Any, minimum: float
) -> None:
    """Write alignments, and what words mean."""
    written = []
    for name, links in alignments.items():
        middle = f".{name}" if name in fitted else ""
        written.append(f"{prefix}{middle}.align")
        links.write(written[-1])
    for name, middle in (("forward", ""), ("backward", ".backward")):
        written.append(f"{prefix}{middle}.lexicon.tsv")
        fitted[name].translation_table_.write(written[-1], minimum)
    print(f"written: {', '.join(written)}")


def print_quality(
    alignments: dict[str, Alignments], gold: Gold, *, whole: bool
) -> None:
    """Compare with known links; there is a recall if those are all there are."""
    print(f"\n{'':<22}{'precision':>10}{'recall':>8}{'AER':>8}")
    for name, links in alignments.items():
        right = [set(a) & set(b) for a, b in zip(links, gold.possible, strict=True)]
        sure = [set(a) & set(b) for a, b in zip(links, gold.sure, strict=True)]
        precision = sum(map(len, right)) / max(len(links.source), 1)
        recall = sum(map(len, sure)) / max(len(gold.sure.source), 1)
        print(f"{name:<22}{precision:>10.3f}{recall:>8.3f}{aer(links, gold):>8.3f}")
    if not whole:
        print("precision is that of possible links, recall that of sure ones")


def main() -> None:
    parser = argparse.ArgumentParser(description="Align words.")
    parser.add_argument("source", nargs="?", help="text, a sentence in a line")
    parser.add_argument("target", nargs="?", help="its translation, line by line")
    parser.add_argument("--out", metavar="PREFIX", help="where to write")
    parser.add_argument("--model", choices=MODELS, default="hmm")
    parser.add_argument("--workers", type=int, default=0, help="0: threads, no cluster")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument(
        "--lexicon-minimum",
        type=float,
        default=0.01,
        metavar="P",
        help="leave less probable translations out",
    )
    parser.add_argument("--symmetrize", choices=METHODS, default=METHODS[-1])
    parser.add_argument(
        "--test", nargs=2, metavar=("SOURCE", "TARGET"), help="align these instead"
    )
    parser.add_argument("--gold", help="links made by people, of what is aligned")
    options = parser.parse_args()
    if (options.source is None) != (options.target is None):
        parser.error("two files are needed: a text and its translation")
    if options.source is None and (options.test or options.gold):
        parser.error("--test and --gold go with files to learn from")

    gold = None
    if options.source is None:
        pairs, gold = make_bitext(3000)
        bitext: tuple[Any, ...] = (pairs,)
    else:
        bitext = (options.source, options.target)
    with workers(options.workers) as client:
        fitted = fit(options.model, bitext, max_iter=options.iterations)
        if client is not None:
            print(f"\nHow counts travelled:\n{fitted['forward'].plan_.explain()}\n")
        wanted = tuple(options.test or bitext)
        alignments = {name: model.align(*wanted) for name, model in fitted.items()}
    alignments[options.symmetrize] = symmetrize(
        alignments["forward"], alignments["backward"], options.symmetrize
    )
    print(f"{options.symmetrize}: {alignments[options.symmetrize]!r}")
    if options.out:
        write(options.out, alignments, fitted, options.lexicon_minimum)
    if options.gold:
        gold = read_gold(options.gold, len(alignments["forward"]))
    if gold is not None:
        print_quality(alignments, gold, whole=options.gold is None)


if __name__ == "__main__":
    main()
