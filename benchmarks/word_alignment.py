"""Word alignment: beside NLTK and eflomal, error rates, and text without gold links.

``nltk``: the first 5000 pairs of the Hansards. NLTK divides by too much where a target
word occurs twice in a sentence, so tables and log-likelihoods are compared on the first
5000 pairs where none does; times on both. Seconds of an iteration are the median of
several.

``eflomal``: a sweep of the Gibbs sampler of its model 1 beside an iteration of ours, on
the same pairs, one direction, one sampler, one thread each. Seconds of a sweep are the
difference of two runs that differ in nothing but the number of sweeps.

``time``: seconds to read, number and index the words, and of an iteration, on a thread.

``aer``: alignment error rates on the 447 sentences of the NAACL 2003 shared task, which
are aligned with the first N pairs of the Hansards as usual.

``heldout``: log-likelihood per word of the last 5 % of other corpora.

    DASK_EM_DATA=... python benchmarks/word_alignment.py nltk
    DASK_EM_DATA=... python benchmarks/word_alignment.py eflomal --binary .../eflomal
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import dask_em
from dask_em import HMMAligner, IBMModel1, IBMModel2, aer, symmetrize
from dask_em.alignment import read_gold

ALONE: dict[str, Any] = {"transport": "local", "shards": 1}
SIZES = (10_000, 100_000, 310_661)
Pair = tuple[str, str]


def hansards(folder: Path, n: int | None = None) -> list[Pair]:
    """Return the first pairs, English and French."""
    sides = []
    for language in ("en", "fr"):
        path = folder / "hansards36" / f"train.tok.{language}.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sides.append([line.rstrip("\n") for line in islice(file, n)])
    return list(zip(*sides, strict=True))


def gold_pairs(folder: Path) -> list[Pair]:
    sides = [
        (folder / "hansards_naacl03_gold" / f"test.tok.{language}")
        .read_text(encoding="utf-8")
        .splitlines()
        for language in "ef"
    ]
    return list(zip(*sides, strict=True))


def timed(pairs: Any, model: Any) -> tuple[float, float, Any]:
    """Fit; return seconds before the first iteration, and the median of iterations."""
    fitted = model.set_params(**ALONE).fit(pairs)
    moments = fitted.result_.trace.time
    each = np.diff(moments)
    return float(moments[0] - np.median(each)), float(np.median(each)), fitted


def compile_all() -> None:
    """Have everything compiled before anything is timed."""
    for model in (IBMModel1(), IBMModel2(), HMMAligner()):
        model.set_params(**ALONE).fit([("a b", "c d"), ("a", "c")])


# ------------------------------------------------------------------------------- NLTK


def nltk_model(pairs: list[Pair], n_iter: int) -> tuple[Any, list[float]]:
    """Return NLTK's model, and the seconds of each iteration."""
    from nltk.translate import AlignedSent
    from nltk.translate.ibm1 import IBMModel1 as Theirs

    bitext = [AlignedSent(f.split(), e.split()) for e, f in pairs]
    model = Theirs(bitext, 0)
    seconds = []
    for _ in range(n_iter):
        began = time.perf_counter()
        model.train(bitext)
        seconds.append(time.perf_counter() - began)
    return model, seconds


def nltk(folder: Path, n_iter: int = 5) -> None:
    pairs = hansards(folder)
    plain = pairs[:5000]
    clean = [
        pair for pair in pairs if len(set(words := pair[1].split())) == len(words)
    ][:5000]
    print("| pairs | target words | NLTK, s | dask_em, s | ratio |")
    print("|---|---:|---:|---:|---:|")
    for name, chosen in (("first 5000", plain), ("no word twice", clean)):
        theirs, seconds = nltk_model(chosen, n_iter)
        _, ours, fitted = timed(chosen, IBMModel1(max_iter=50))
        n_words = fitted.result_.summary.n_tokens
        their = float(np.median(seconds))
        print(f"| {name} | {n_words} | {their:.3f} | {ours:.5f} | {their / ours:.0f} |")
    # as many iterations, and every number that either has
    fitted = IBMModel1(max_iter=n_iter, **ALONE).fit(clean)
    table = theirs.translation_table
    lexicon = fitted.translation_table_
    worst, n = 0.0, 0
    for word in lexicon:
        for translation, p in lexicon[word].items():
            other = table[translation][word]
            # NLTK has no smaller probability than that
            p, other = max(p, 1e-12), max(other, 1e-12)
            worst = max(worst, abs(p - other) / other)
            n += 1
    total = 0.0
    for e, f in clean:
        source = [None, *e.split()]
        for word in f.split():
            p = math.fsum(table[word][s] for s in source) / len(source)
            total += math.log(p)
    gap = abs(total - fitted.log_likelihood_) / abs(total)
    print(f"\n{n} probabilities: largest relative difference {worst:.2g}")
    print(f"log-likelihood {fitted.log_likelihood_:.6f}, relative difference {gap:.2g}")


# ---------------------------------------------------------------------------- eflomal


def eflomal_binary() -> str | None:
    spec = importlib.util.find_spec("eflomal")
    if spec is None or not spec.submodule_search_locations:
        return None
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "eflomal")


def write_numbers(sentences: list[str], path: Path) -> None:
    """Write sentences the way eflomal reads them."""
    index: dict[str, int] = {}
    lines = []
    for sentence in sentences:
        codes = [index.setdefault(word, len(index)) for word in sentence.split()]
        lines.append(" ".join(map(str, [len(codes), *codes])) if codes else "0")
    path.write_text(f"{len(lines)} {len(index)}\n" + "\n".join(lines) + "\n")


def eflomal(folder: Path, binary: str | None, repeats: int = 3) -> None:
    binary = binary or eflomal_binary()
    if not binary:
        sys.exit("install eflomal, or give --binary")
    print("| pairs | eflomal, s a sweep | dask_em, s an iteration | ratio |")
    print("|---|---:|---:|---:|")
    for n, few, many in ((10_000, 20, 220), (100_000, 5, 25), (310_661, 3, 13)):
        pairs = hansards(folder, n)
        with tempfile.TemporaryDirectory() as place:
            paths = [Path(place) / side for side in ("source", "target")]
            for path, sentences in zip(paths, zip(*pairs, strict=True), strict=True):
                write_numbers(list(sentences), path)

            def run(sweeps: int, paths: list[Path] = paths) -> float:
                began = time.perf_counter()
                subprocess.run(
                    [
                        *(binary, "-s", paths[0], "-t", paths[1]),
                        *("-f", os.devnull, "-m", "1", "-1", str(sweeps)),
                        *("-n", "1", "-N", "0.2", "-q"),
                    ],
                    check=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
                return time.perf_counter() - began

            # one after the other, so that a busy moment does not hit one side alone
            sweeps, iterations = [], []
            for _ in range(repeats):
                fewer = run(few)
                sweeps.append((run(many) - fewer) / (many - few))
                _, seconds, _ = timed(pairs, IBMModel1(max_iter=many - few))
                iterations.append(seconds)
        theirs, ours = float(np.median(sweeps)), float(np.median(iterations))
        print(f"| {n} | {theirs:.4f} | {ours:.4f} | {theirs / ours:.2f} |")


# ------------------------------------------------------------------------------- time


def timing(folder: Path) -> None:
    print("| pairs | model | before the first iteration, s | an iteration, s |")
    print("|---|---|---:|---:|")
    for n in SIZES:
        pairs = hansards(folder, n)
        for name, model in {
            "1": IBMModel1(max_iter=11),
            "2, diagonal": IBMModel2(model1_iter=0, max_iter=5),
            "HMM": HMMAligner(model1_iter=0, max_iter=5),
        }.items():
            before, each, _ = timed(pairs, model)
            print(f"| {n} | {name} | {before:.2f} | {each:.3f} |", flush=True)


# -------------------------------------------------------------------------------- AER


def error_rates(folder: Path) -> None:
    test = gold_pairs(folder)
    gold = read_gold(
        folder / "hansards_naacl03_gold" / "test.wa.nonullalign", len(test)
    )
    print("| N | model | en→fr | fr→en | intersection | grow-diag-final-and | s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for n in (0, *SIZES):
        pairs = [*hansards(folder, n), *test]
        for name, model in {
            "1": IBMModel1(),
            "1, alpha 0.01": IBMModel1(alpha=0.01),
            "2, diagonal": IBMModel2(),
            "HMM": HMMAligner(),
            "HMM, Viterbi": HMMAligner(decoding="viterbi"),
        }.items():
            began = time.perf_counter()
            links = []
            for reverse in (False, True):
                model.set_params(reverse=reverse, transport="local")
                links.append(model.fit(pairs).align(test))
            rates = [aer(found, gold) for found in links]
            rates += [
                aer(symmetrize(*links, method), gold)
                for method in ("intersection", "grow-diag-final-and")
            ]
            cells = " | ".join(f"{rate:.3f}" for rate in rates)
            seconds = time.perf_counter() - began
            print(f"| {n} | {name} | {cells} | {seconds:.0f} |", flush=True)


# ---------------------------------------------------------------------------- heldout


def tokens(sentence: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s]", sentence.lower()))


def other_corpora(folder: Path) -> dict[str, list[Pair]]:
    path = folder / "tatoeba_enfr" / "fra-eng.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    found = {"Tatoeba": [(tokens(row[0]), tokens(row[1])) for row in rows]}
    sides = []
    for language in ("en", "fr"):
        path = folder / "multi30k" / f"train.lc.norm.tok.{language}.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sides.append([line.rstrip("\n") for line in file])
    return found | {"Multi30k": list(zip(*sides, strict=True))}


def unigram(train: list[Pair], test: list[Pair], floor: float = 1e-12) -> float:
    """Return the log-likelihood of a word, whatever the source says."""
    counts = Counter(word for _, f in train for word in f.split())
    total = sum(counts.values())
    p: dict[str, float] = defaultdict(lambda: floor)
    p.update({word: n / total for word, n in counts.items()})
    words = [word for e, f in test if e for word in f.split()]
    return sum(math.log(p[word]) for word in words) / len(words)


def heldout(folder: Path) -> None:
    print("| corpus | pairs | model | training | held out | seen words alone |")
    print("|---|---:|---|---:|---:|---:|")
    for corpus, pairs in other_corpora(folder).items():
        last = len(pairs) // 20
        train, test = pairs[:-last], pairs[-last:]
        known = {word for _, f in train for word in f.split()}
        words = [word for e, f in test if e for word in f.split()]
        new = sum(word not in known for word in words) / len(words)

        def tell(
            name: str,
            values: list[float],
            row: str = f"| {corpus} | {len(pairs)}",
            new: float = new,
        ) -> None:
            # each word that is new has log(1e-12)
            seen = (values[1] - new * math.log(1e-12)) / (1 - new)
            cells = " | ".join(f"{value:.3f}" for value in [*values, seen])
            print(f"{row} | {name} | {cells} |", flush=True)

        tell("words' frequencies", [unigram(train, part) for part in (train, test)])
        for name, model in {
            "1": IBMModel1(),
            "1, alpha 0.01": IBMModel1(alpha=0.01),
            "2, diagonal": IBMModel2(),
            "HMM": HMMAligner(),
        }.items():
            model.set_params(transport="local").fit(train)
            tell(name, [model.score(part) for part in (train, test)])
        print(f"({corpus}: {new:.2%} of the words held out are new)")


# -------------------------------------------------------------------------------------


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("nltk", "eflomal", "time", "aer", "heldout"))
    parser.add_argument("--data", default=os.environ.get("DASK_EM_DATA"))
    parser.add_argument("--binary", help="eflomal's program, if it is not importable")
    options = parser.parse_args()
    if not options.data:
        sys.exit("set DASK_EM_DATA, or give --data")
    folder = Path(options.data) / "alignment"
    versions = [f"dask_em {dask_em.__version__}", f"NumPy {np.__version__}"]
    for name in ("numba", "nltk", "eflomal"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    print(", ".join(versions), f"{cores} cores, load {load:.1f}", sep=", ")
    compile_all()
    if options.mode == "nltk":
        nltk(folder)
    elif options.mode == "eflomal":
        eflomal(folder, options.binary)
    elif options.mode == "time":
        timing(folder)
    elif options.mode == "aer":
        error_rates(folder)
    else:
        heldout(folder)


if __name__ == "__main__":
    main()
