"""`DictionaryLearning` beside scikit-learn's two, on patches of a photograph.

All begin at the same atoms. Each is run for growing numbers of passes, and the exact
objective of all rows at its atoms is computed after each, outside of the time: seconds
to an objective are read off.

    python benchmarks/dictionary_learning.py [--rows 20000] [--atoms 100]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_sample_image
from sklearn.decomposition import DictionaryLearning as Batch
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d

from dask_em import DictionaryLearning
from dask_em.models.dictionary_learning import DictionaryModel, sparse_codes


def patches(n_rows: int) -> Any:
    """Return patches of 8 x 8 pixels, centred and scaled."""
    image = load_sample_image("china.jpg").mean(axis=2)
    rows = extract_patches_2d(image, (8, 8), max_patches=n_rows, random_state=0)
    X = rows.reshape(n_rows, -1)
    X = X - X.mean(axis=1, keepdims=True)
    return X / X.std()


def objective(X: Any, atoms: Any, alpha: float) -> float:
    """Return the mean objective at the best codes."""
    codes = sparse_codes(DictionaryModel(len(atoms), alpha), atoms, X)
    total = 0.5 * np.square(X - codes @ atoms).sum() + alpha * np.abs(codes).sum()
    return float(total / len(X))


def path(
    make: Callable[[int], Any], X: Any, alpha: float, passes: list[int]
) -> list[tuple[int, float, float]]:
    """Return passes, seconds and objective of fits of growing length."""
    found = []
    for n in passes:
        learner = make(n)
        began = time.perf_counter()
        learner.fit(X)
        seconds = time.perf_counter() - began
        found.append((n, seconds, objective(X, learner.components_, alpha)))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--atoms", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=1.0)
    given = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # passes are what is asked for
    X, k, alpha = patches(given.rows), given.atoms, given.alpha
    rows = X[np.random.default_rng(0).choice(len(X), k, replace=False)]
    start = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shared = {"alpha": alpha, "dict_init": start, "random_state": 0}

    def ours(n: int, **settings: Any) -> Any:
        return DictionaryLearning(k, max_iter=n, tol=0, **shared, **settings)

    def batch(n: int) -> Any:
        return Batch(k, max_iter=n, tol=0, fit_algorithm="cd", **shared)

    def online(n: int) -> Any:
        return MiniBatchDictionaryLearning(
            k, max_iter=n, tol=0, max_no_improvement=None, fit_algorithm="cd", **shared
        )

    ours(1).fit(X[:200])  # compiles
    kinds: dict[str, tuple[Callable[[int], Any], list[int]]] = {
        "dask_em, incremental": (ours, [1, 2, 5, 10, 20, 40]),
        "dask_em, synchronous": (
            lambda n: ours(n, schedule="synchronous"),
            [2, 5, 10, 20, 40],
        ),
        "MiniBatchDictionaryLearning": (online, [1, 2, 5]),
        "DictionaryLearning": (batch, [2, 5, 10, 20]),
    }
    print(
        f"{X.shape[0]} x {X.shape[1]}, {k} atoms, alpha {alpha}; scikit-learn "
        f"{sklearn.__version__}; load {os.getloadavg()[0]:.1f}"
    )
    for name, (make, passes) in kinds.items():
        for n, seconds, reached in path(make, X, alpha, passes):
            print(f"{name:<30} {n:>3} passes {seconds:>8.2f} s  {reached:.4f}")


if __name__ == "__main__":
    main()
