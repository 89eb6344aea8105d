"""Forwards, backwards and best paths of alignments that jump, compiled.

The hidden state before a target token is the last source position that something was
aligned to, of which there are l + 1: -1 stands for none. NULL keeps the position, so
its states need not be told apart from the others, and a target token costs O(l^2).
Layout of the data: see `dask_em.kernels.alignment`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["hmm_best", "hmm_e_step", "hmm_log_likelihoods", "hmm_posterior_links"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
# sums in any order: otherwise they are not vectorised
_fast = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"}
)


@_jit
def _bucket(jump: int, max_jump: int) -> int:
    return max(-max_jump, min(max_jump, jump)) + max_jump


@_jit
def _fill_transitions(jumps: Any, length: int, A: Any) -> None:
    """Probabilities of the next position given the last one, A[last + 1, next]."""
    max_jump = len(jumps) // 2
    for last in range(-1, length):
        z = 0.0
        for i in range(length):
            A[last + 1, i] = jumps[_bucket(i - last, max_jump)]
            z += A[last + 1, i]
        for i in range(length):
            # no jump that fits has ever been seen: any is as good
            A[last + 1, i] = A[last + 1, i] / z if z > 0 else 1.0 / length


@_fast
def _forward(
    theta: Any,
    mine: Any,
    length: int,
    m: int,
    null: float,
    A: Any,
    f: Any,
    ahead: Any,
    z: Any,
) -> float:
    """Return the log-likelihood of a pair.

    `f[j]` receives the distribution of the last position before token j, given the
    tokens before it, `ahead[j]` that of the next position, and `z[j]` the probability
    of token j given those before it.
    """
    log = 0.0
    f[0, : length + 1] = 0.0
    f[0, 0] = 1.0
    for j in range(m):
        row = mine[j * (length + 1) : (j + 1) * (length + 1)]
        ahead[j, :length] = 0.0
        for last in range(
            min(length, length * j) + 1
        ):  # only -1 before the first token
            x = f[j, last]
            for i in range(length):
                ahead[j, i] += x * A[last, i]
        stay = null * theta[row[0]]
        f[j + 1, 0] = stay * f[j, 0]
        s = f[j + 1, 0]
        for i in range(length):
            x = (1 - null) * theta[row[i + 1]] * ahead[j, i] + stay * f[j, i + 1]
            f[j + 1, i + 1] = x
            s += x
        z[j] = s
        log += np.log(s)
        for i in range(length + 1):
            f[j + 1, i] /= s
    return log


@_fast
def _step_back(A: Any, length: int, v: Any, stay: float, b: Any) -> None:
    """Turn what follows a position after a token into what follows it before."""
    for last in range(length + 1):
        s = stay * b[last]
        for i in range(length):
            s += A[last, i] * v[i]
        b[last] = s


@_fast
def _add_outer(w: float, f: Any, v: Any, n: int, length: int, moves: Any) -> None:
    for last in range(n):
        x = w * f[last]
        for i in range(length):
            moves[last, i] += x * v[i]


@_jit
def hmm_e_step(
    table: Any,
    cells: Any,
    shapes: Any,
    starts: Any,
    weights: Any,
    null: float,
    jumps: Any,
    jump_counts: Any,
    row_counts: Any,
) -> Any:
    r"""Sum up the posteriors of links and jumps.

    Parameters
    ----------
    table : array of shape (n_ids, 2)
        Probabilities, and sums of posteriors.
    cells, shapes, starts, weights : arrays
    null : float
        Probability of NULL.
    jumps : array of shape (2 D + 1,)
        Weights of jumps; the first and the last one are those of all longer jumps.
    jump_counts : array of shape (2 D + 1,)
        Expected numbers of jumps are added to it.
    row_counts : array of shape (max_length + 1, max_length + 1)
        Expected numbers of jumps from position i' among l are added at (l, i' + 1).

    Returns
    -------
    log_likelihood, null_count, real_count : float
    """
    max_l, max_m = 1, 1
    for g in range(len(shapes)):
        max_l = max(max_l, shapes[g, 0])
        max_m = max(max_m, shapes[g, 1])
    max_jump = len(jumps) // 2
    A = np.zeros((max_l + 1, max_l))
    moves = np.zeros((max_l + 1, max_l))
    f = np.zeros((max_m + 1, max_l + 1))
    ahead = np.zeros((max_m, max_l))
    z = np.zeros(max_m)
    v = np.zeros(max_l)
    b = np.zeros(max_l + 1)
    theta = table[:, 0]
    at = 0
    total, nulls, reals = 0.0, 0.0, 0.0
    for g in range(len(shapes)):
        length, m = shapes[g, 0], shapes[g, 1]
        size = m * (length + 1)
        _fill_transitions(jumps, length, A)
        moves[: length + 1, :length] = 0.0
        for k in range(starts[g], starts[g + 1]):
            w = weights[k]
            mine = cells[at : at + size]
            at += size
            total += w * _forward(theta, mine, length, m, null, A, f, ahead, z)
            b[: length + 1] = 1.0
            for j in range(m - 1, -1, -1):
                first = j * (length + 1)
                stay = null * theta[mine[first]] / z[j]
                kept = 0.0
                for i in range(length + 1):
                    kept += f[j, i] * b[i]
                kept *= stay * w
                table[mine[first], 1] += kept
                nulls += kept
                scale = (1 - null) / z[j]
                for i in range(length):
                    c = mine[first + i + 1]
                    v[i] = table[c, 0] * scale * b[i + 1]
                    table[c, 1] += w * ahead[j, i] * v[i]
                # transitions are multiplied in once for all pairs of this shape
                _add_outer(w, f[j], v, length + 1 if j > 0 else 1, length, moves)
                _step_back(A, length, v, stay, b)
        for last in range(-1, length):
            for i in range(length):
                x = moves[last + 1, i] * A[last + 1, i]
                jump_counts[_bucket(i - last, max_jump)] += x
                row_counts[length, last + 1] += x
                reals += x
    return total, nulls, reals


@_jit
def hmm_log_likelihoods(
    theta: Any, cells: Any, shapes: Any, starts: Any, null: float, jumps: Any
) -> Any:
    """Return the log-likelihood of each pair; see `hmm_e_step`.

    Returns
    -------
    array of shape (n_pairs,)
    """
    out = np.zeros(starts[-1])
    at = 0
    for g in range(len(shapes)):
        length, m = shapes[g, 0], shapes[g, 1]
        size = m * (length + 1)
        A = np.zeros((length + 1, length))
        f, ahead, z = np.zeros((m + 1, length + 1)), np.zeros((m, length)), np.zeros(m)
        _fill_transitions(jumps, length, A)
        for k in range(starts[g], starts[g + 1]):
            mine = cells[at : at + size]
            out[k] = _forward(theta, mine, length, m, null, A, f, ahead, z)
            at += size
    return out


@_jit
def hmm_best(
    theta: Any, cells: Any, shapes: Any, starts: Any, null: float, jumps: Any, best: Any
) -> None:
    """Find the most probable alignment of each pair (Viterbi).

    Parameters
    ----------
    theta, cells, shapes, starts, null, jumps
        As for `hmm_e_step`.
    best : array of shape (n_target_tokens,), int32
        Receives positions, -1 for NULL.
    """
    at = 0
    token = 0
    for g in range(len(shapes)):
        length, m = shapes[g, 0], shapes[g, 1]
        A = np.zeros((length + 1, length))
        _fill_transitions(jumps, length, A)
        came = np.zeros((m, length + 1), np.int32)
        d, new = np.zeros(length + 1), np.zeros(length + 1)
        for _ in range(starts[g], starts[g + 1]):
            d[:] = 0.0
            d[0] = 1.0
            for j in range(m):
                stay = null * theta[cells[at]]
                top = 0.0
                for i in range(length + 1):
                    new[i] = d[i] * stay
                    came[j, i] = -1  # NULL, and the same position before
                for i in range(length):
                    x = (1 - null) * theta[cells[at + i + 1]]
                    for last in range(length + 1):
                        p = d[last] * A[last, i] * x
                        if p > new[i + 1]:
                            new[i + 1] = p
                            came[j, i + 1] = last
                for i in range(length + 1):
                    top = max(top, new[i])
                for i in range(length + 1):
                    d[i] = new[i] / top
                at += length + 1
            last = 0
            for i in range(length + 1):
                if d[i] > d[last]:
                    last = i
            for j in range(m - 1, -1, -1):
                if came[j, last] < 0:
                    best[token + j] = -1
                else:
                    best[token + j] = last - 1
                    last = came[j, last]
            token += m


@_jit
def hmm_posterior_links(
    theta: Any,
    cells: Any,
    shapes: Any,
    starts: Any,
    null: float,
    jumps: Any,
    threshold: float,
) -> Any:
    """Find all links whose posterior probability is above a threshold.

    Parameters
    ----------
    theta, cells, shapes, starts, null, jumps
        As for `hmm_e_step`.
    threshold : float

    Returns
    -------
    offsets : array of shape (n_pairs + 1,)
    source, target : arrays of shape (n_links,), int32
    """
    offsets = np.zeros(starts[-1] + 1, np.int64)
    source = np.empty(1024, np.int32)
    target = np.empty(1024, np.int32)
    n = 0
    at = 0
    for g in range(len(shapes)):
        length, m = shapes[g, 0], shapes[g, 1]
        size = m * (length + 1)
        A = np.zeros((length + 1, length))
        f, ahead, z = np.zeros((m + 1, length + 1)), np.zeros((m, length)), np.zeros(m)
        v, b = np.zeros(length), np.zeros(length + 1)
        _fill_transitions(jumps, length, A)
        for k in range(starts[g], starts[g + 1]):
            mine = cells[at : at + size]
            at += size
            _forward(theta, mine, length, m, null, A, f, ahead, z)
            b[:] = 1.0
            if n + size > len(source):
                more = len(source) + size
                source = np.append(source, np.empty(more, np.int32))
                target = np.append(target, np.empty(more, np.int32))
            for j in range(m - 1, -1, -1):
                first = j * (length + 1)
                for i in range(length):
                    v[i] = theta[mine[first + i + 1]] * (1 - null) / z[j] * b[i + 1]
                    if ahead[j, i] * v[i] > threshold:
                        source[n] = i
                        target[n] = j
                        n += 1
                _step_back(A, length, v, null * theta[mine[first]] / z[j], b)
            offsets[k + 1] = n
    return offsets, source[:n].copy(), target[:n].copy()
