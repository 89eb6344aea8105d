"""Atoms of image patches: what small pieces of a photograph are made of.

Patches of a photograph that comes with scikit-learn are cut out chunk by chunk, where
a worker needs them, and a dictionary is learned from them. A patch is then a sum of a
few atoms: most of them are edges and gratings.

    python examples/patches.py
"""

from __future__ import annotations

import time
from pathlib import Path

import dask.array as da
import numpy as np
from sklearn.datasets import load_sample_image

from dask_em import DictionaryLearning

SIDE = 8
N_ATOMS = 64


def photograph() -> np.ndarray:
    return load_sample_image("china.jpg").mean(axis=2) / 255


def cut(band: np.ndarray) -> np.ndarray:
    """Return the patches of some lines of the image, each with a mean of zero."""
    windows = np.lib.stride_tricks.sliding_window_view(band, (SIDE, SIDE))
    rows = windows[::2, ::2].reshape(-1, SIDE * SIDE)
    return rows - rows.mean(axis=1, keepdims=True)


def patches(image: np.ndarray, n_chunks: int = 8) -> da.Array:
    """Return every other patch along both axes, as a lazy array of rows."""
    height, width = image.shape
    per_line = (width - SIDE) // 2 + 1
    starts = np.arange(0, height - SIDE + 1, 2)
    chunks = []
    for lines in np.array_split(starts, n_chunks):
        band = image[lines[0] : lines[-1] + SIDE]
        rows = len(lines) * per_line
        chunks.append(
            da.from_array(band, chunks=band.shape).map_blocks(
                cut, chunks=((rows,), (SIDE * SIDE,)), dtype=image.dtype
            )
        )
    return da.concatenate(chunks)


def learn(X: da.Array, **settings) -> DictionaryLearning:
    scale = float(X.std().compute())
    learner = DictionaryLearning(
        N_ATOMS,
        # a unit of code costs as much as the standard deviation of a pixel
        alpha=scale,
        tol=2e-2 * scale**2,
        max_iter=50,
        random_state=0,
        **settings,
    )
    return learner.fit(X)


def in_order(learner: DictionaryLearning, X: da.Array) -> np.ndarray:
    """Return the atoms, those that are used most first."""
    use = abs(learner.transform(X)).sum(axis=0).compute()
    return learner.components_[np.argsort(-use)]


def draw(atoms: np.ndarray, path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("No picture: matplotlib is not installed (pip install matplotlib).")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n = int(np.ceil(np.sqrt(len(atoms))))
    figure, axes = plt.subplots(n, n, figsize=(6, 6))
    for ax in axes.flat:
        ax.axis("off")
    for ax, atom in zip(axes.flat, atoms, strict=False):
        limit = abs(atom).max()
        ax.imshow(atom.reshape(SIDE, SIDE), cmap="gray", vmin=-limit, vmax=limit)
    figure.suptitle("Atoms of a photograph, the most used first", y=0.94)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"They are drawn in {path}.")


def main() -> None:
    X = patches(photograph())
    began = time.perf_counter()
    learner = learn(X)
    seconds = time.perf_counter() - began
    codes = learner.transform(X)
    used = float((codes != 0).sum(axis=1).mean().compute())
    lost = float(da.square(X - learner.inverse_transform(codes)).sum().compute())
    share = 1 - lost / float(da.square(X).sum().compute())
    print(
        f"{N_ATOMS} atoms of {len(X)} patches after {learner.n_iter_} passes, in "
        f"{seconds:.1f} s: a patch uses {used:.1f} of them, and they explain "
        f"{share:.1%} of its variance."
    )
    atoms = in_order(learner, X)
    np.save("patches_atoms.npy", atoms)
    print("The atoms are in patches_atoms.npy.")
    draw(atoms, Path("patches_atoms.png"))


if __name__ == "__main__":
    main()
