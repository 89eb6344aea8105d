"""Loops over the words of sentence pairs, compiled.

Sentence pairs are sorted by *shape*, the numbers (l, m) of source and target tokens;
`shapes` of shape (G, 2) lists them, and the pairs `starts[g]` to `starts[g + 1]` have
shape g. A *cell* is a target token and a source token, or NULL, of a pair; the array
`cells` holds where in the table of words each cell's parameter is: pair by pair, within
a pair target token by target token, and NULL before the source tokens.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = [
    "model1_e_step",
    "positional_best",
    "positional_e_step",
    "positional_log_likelihoods",
]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def model1_e_step(
    table: Any, cells: Any, shapes: Any, starts: Any, weights: Any
) -> float:
    """Share every target token among the source tokens of its sentence, and NULL.

    Parameters
    ----------
    table : array of shape (n_ids, 2)
        Probabilities, next to the sums they are to be multiplied with for expected
        counts, so that the second loop finds in the cache what the first one fetched.
    cells, shapes, starts : arrays
    weights : array of shape (n_pairs,)

    Returns
    -------
    float
        The log-likelihood.
    """
    total = 0.0
    at = 0
    for g in range(len(shapes)):
        width = shapes[g, 0] + 1
        m = shapes[g, 1]
        share = 1.0 / width
        for k in range(starts[g], starts[g + 1]):
            w = weights[k]
            # a logarithm for many factors, not for each
            product = 1.0
            log = 0.0
            for _ in range(m):
                s = 0.0
                for c in cells[at : at + width]:
                    s += table[c, 0]
                product *= s * share
                if product < 1e-200:
                    log += np.log(product)
                    product = 1.0
                r = w / s
                for c in cells[at : at + width]:
                    table[c, 1] += r
                at += width
            total += w * (log + np.log(product))
    return total


@_jit
def positional_e_step(
    table: Any,
    cells: Any,
    shapes: Any,
    starts: Any,
    weights: Any,
    prior: Any,
    counts: Any,
) -> float:
    """Share target tokens, where positions have probabilities of their own.

    Parameters
    ----------
    table, cells, shapes, starts, weights : arrays
        As for `model1_e_step`.
    prior : array of shape (n_positions,)
        Probabilities of positions: shape by shape, ordered like the cells of a pair.
    counts : array of shape (n_positions,)
        Expected numbers of links are added to it.

    Returns
    -------
    float
        The log-likelihood.
    """
    total = 0.0
    at = 0
    base = 0
    for g in range(len(shapes)):
        width = shapes[g, 0] + 1
        m = shapes[g, 1]
        for k in range(starts[g], starts[g + 1]):
            w = weights[k]
            product = 1.0
            log = 0.0
            for j in range(m):
                here = base + j * width
                s = 0.0
                for i in range(width):
                    s += table[cells[at + i], 0] * prior[here + i]
                product *= s
                if product < 1e-200:
                    log += np.log(product)
                    product = 1.0
                r = w / s
                for i in range(width):
                    c = cells[at + i]
                    x = prior[here + i] * r
                    table[c, 1] += x
                    counts[here + i] += x * table[c, 0]
                at += width
            total += w * (log + np.log(product))
        base += m * width
    return total


@_jit
def positional_log_likelihoods(
    theta: Any, cells: Any, shapes: Any, starts: Any, prior: Any
) -> Any:
    """Return the log-likelihood of each pair; see `positional_e_step`.

    Parameters
    ----------
    theta : array of shape (n_ids,)
    cells, shapes, starts, prior : arrays

    Returns
    -------
    array of shape (n_pairs,)
    """
    out = np.zeros(starts[-1])
    at = 0
    base = 0
    for g in range(len(shapes)):
        width = shapes[g, 0] + 1
        m = shapes[g, 1]
        for k in range(starts[g], starts[g + 1]):
            for j in range(m):
                s = 0.0
                for i in range(width):
                    s += theta[cells[at + i]] * prior[base + j * width + i]
                out[k] += np.log(s)
                at += width
        base += m * width
    return out


@_jit
def positional_best(
    theta: Any, cells: Any, shapes: Any, starts: Any, prior: Any, best: Any
) -> None:
    """Find every target token's most probable source token.

    Parameters
    ----------
    theta : array of shape (n_ids,)
    cells, shapes, starts, prior : arrays
        As for `positional_e_step`.
    best : array of shape (n_target_tokens,), int32
        Receives positions, -1 for NULL, which also wins where it is as good.
    """
    at = 0
    base = 0
    token = 0
    for g in range(len(shapes)):
        width = shapes[g, 0] + 1
        m = shapes[g, 1]
        for _ in range(starts[g], starts[g + 1]):
            for j in range(m):
                here = base + j * width
                top = theta[cells[at]] * prior[here]
                best[token] = -1
                for i in range(1, width):
                    p = theta[cells[at + i]] * prior[here + i]
                    if p > top:
                        top = p
                        best[token] = i - 1
                at += width
                token += 1
        base += m * width
