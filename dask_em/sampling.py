"""Some rows to start from."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from .model import Block

__all__ = ["SAMPLE_ROWS", "canonical", "draw", "merge"]

#: Rows of the sample that models start from; smaller data are the sample.
SAMPLE_ROWS = 10_000


def draw(block: Block, rng: np.random.Generator, fraction: float) -> list[Block]:
    """Return a random fraction of a block's rows, as a list to be added to others."""
    if fraction >= 1:
        return [block]
    n = int(np.floor(block.n_rows * fraction + rng.random()))
    rows = np.sort(rng.choice(block.n_rows, size=min(n, block.n_rows), replace=False))
    return [block.rows(rows)]


def merge(blocks: list[Block]) -> Block:
    """Put blocks one after the other."""
    if len(blocks) == 1:
        return blocks[0]

    def joined(name: str) -> Any:
        arrays = [getattr(b, name) for b in blocks]
        if arrays[0] is None:
            return None
        if sp.issparse(arrays[0]):
            return sp.vstack(arrays, format="csr")
        # rows of a kind of their own know how to be put together
        return getattr(type(arrays[0]), "concatenate", np.concatenate)(arrays)

    return Block(joined("X"), joined("y"), joined("sample_weight"))


def canonical(block: Block) -> Block:
    """Sort rows, merge equal ones and add up their weights; drop those of weight 0.

    A start that is drawn from such a block does not depend on the order of the rows,
    nor on whether a row is repeated or has a weight instead.
    """
    if not isinstance(block.X, np.ndarray):
        return block
    w = block.weights()
    kept = block if (w > 0).all() else block.rows(w > 0)
    X = np.ascontiguousarray(kept.X)
    columns = [X] if kept.y is None else [X, np.asarray(kept.y).reshape(len(X), -1)]
    table = np.hstack([c.astype(np.float64) for c in columns])
    order = np.lexsort(table.T[::-1])
    table = table[order]
    new = np.ones(len(table), dtype=bool)
    new[1:] = (table[1:] != table[:-1]).any(axis=1)
    weights = np.add.reduceat(kept.weights()[order], np.flatnonzero(new))
    first = kept.rows(order[new])
    return Block(first.X, first.y, weights)
