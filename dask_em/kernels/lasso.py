r"""Loops of dictionary learning, compiled: sparse codes of rows, and atoms given codes.

A code is held by the atoms it uses, as a row of a sparse matrix is: of a hundred atoms
a row uses ten or so.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["add_moments", "encode", "update_atoms"]

# 'reassoc' lets sums be vectorised
_FASTMATH = {"contract", "reassoc", "nsz"}
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)


@_jit
def _shrunk(z: Any, penalty: Any, positive: bool) -> Any:
    """Return z moved towards zero by the penalty, and not across it."""
    if z > penalty:
        return z - penalty
    if z < -penalty and not positive:
        return z + penalty
    return z * 0


#: Sweeps after which the best code of the same signs is solved for, again and again.
_SWEEPS = 4
#: Times that a row may take other atoms into use.
_ROUNDS = 100


@_jit
def _direction(
    n: int, packed: Any, values: Any, slopes: Any, penalty: Any, factor: Any, step: Any
) -> bool:
    """Fill in how far coefficients are from the best ones of the same signs.

    Where atoms depend on each other, fill in a change instead that leaves the fit as it
    is and does not lengthen the code. Return whether that is so.
    """
    m = 0
    for i in range(n):
        m += values[i] != 0
    tiny = 256 * np.finfo(packed.dtype).eps
    at = 0
    for i in range(n):  # Cholesky's factor of the atoms in use, and the first solve
        if values[i] == 0:
            continue
        column = 0
        for k in range(i):
            if values[k] == 0:
                continue
            s = packed[i * n + k]
            for p in range(column):
                s -= factor[at * m + p] * factor[column * m + p]
            factor[at * m + column] = s / factor[column * m + column]
            column += 1
        norm = packed[i * n + i]
        s = norm
        for p in range(at):
            s -= factor[at * m + p] * factor[at * m + p]
        if s <= tiny * norm:
            for p in range(m):  # as loops, which compile in half the time
                step[p] = -factor[at * m + p] if p < at else 0
            _solve_transposed(at, m, factor, step)
            step[at] = 1
            longer = step[0] * 0
            column = 0
            for k in range(i + 1):
                if values[k] != 0:
                    longer += step[column] * np.sign(values[k])
                    column += 1
            if longer > 0 or (longer == 0 and values[i] > 0):
                for p in range(at + 1):
                    step[p] = -step[p]
            return True
        factor[at * m + at] = np.sqrt(s)
        s = slopes[i] - (penalty if values[i] > 0 else -penalty)
        for p in range(at):
            s -= factor[at * m + p] * step[p]
        step[at] = s / factor[at * m + at]
        at += 1
    _solve_transposed(m, m, factor, step)
    return False


@_jit
def _solve_transposed(n: int, stride: int, factor: Any, x: Any) -> None:
    """Solve with the transpose of a lower triangle, in place."""
    for i in range(n - 1, -1, -1):
        s = x[i]
        for p in range(i + 1, n):
            s -= factor[p * stride + i] * x[p]
        x[i] = s / factor[i * stride + i]


@_jit
def _to_minimum(
    n: int, packed: Any, values: Any, slopes: Any, penalty: Any, factor: Any, step: Any
) -> None:
    """Go towards the best code of the same signs, as far as signs stay the same.

    The objective is a square function there, which falls all the way; an atom whose
    coefficient reaches zero first is left.
    """
    free = _direction(n, packed, values, slopes, penalty, factor, step)
    share, first, at = penalty * 0 + 1, -1, 0
    for i in range(n):
        if values[i] != 0:
            if free or values[i] * (values[i] + share * step[at]) <= 0:
                reach = -values[i] / step[at] if step[at] != 0 else -share
                if reach >= 0 and (first < 0 or reach < share):
                    share, first = reach, i
            at += 1
    if free and first < 0:
        return
    at = 0
    for i in range(n):
        if values[i] != 0:
            change = -values[i] if i == first else share * step[at]
            at += 1
            values[i] += change
            for k in range(n):
                slopes[k] -= change * packed[i * n + k]


@_jit
def _descend_among(
    n: int,
    used: Any,
    gram: Any,
    products: Any,
    penalty: Any,
    positive: bool,
    tol: Any,
    max_sweeps: int,
    code: Any,
    packed: Any,
    values: Any,
    slopes: Any,
    factor: Any,
    step: Any,
) -> None:
    """Find the best code among those that use some atoms only.

    What these have to do with each other is packed first: all sweeps are then over
    numbers that lie side by side, and few.
    """
    for i in range(n):
        row, at = gram[used[i]], i * n
        for k in range(n):
            packed[at + k] = row[used[k]]
        values[i] = code[used[i]]
    for i in range(n):
        s = products[used[i]]
        for k in range(n):
            s -= packed[i * n + k] * values[k]
        slopes[i] = s
    sweeps, largest = 0, np.inf
    while largest > tol and sweeps < max_sweeps:
        sweeps += 1
        largest = tol * 0
        for i in range(n):
            at = i * n
            norm = packed[at + i]
            if norm <= 0:
                continue
            old = values[i]
            new = _shrunk(slopes[i] + norm * old, penalty, positive) / norm
            change = new - old
            if change != 0:
                values[i] = new
                for k in range(n):
                    slopes[k] -= change * packed[at + k]
                largest = max(largest, abs(change) * norm)
        if sweeps % _SWEEPS == 0 and largest > tol:
            _to_minimum(n, packed, values, slopes, penalty, factor, step)
    for i in range(n):
        code[used[i]] = values[i]


@_jit
def encode(
    products: Any,
    gram: Any,
    penalty: Any,
    positive: bool,
    tol: Any,
    max_sweeps: int,
    indptr: Any,
    indices: Any,
    values: Any,
    new_indptr: Any,
    new_indices: Any,
    new_values: Any,
) -> None:
    r"""Find the sparse codes of rows by coordinate descent, each from one it had.

    .. math:: \min_a \tfrac12 \lVert y - a D \rVert^2 + \lambda \lVert a \rVert_1

    A step sets one coordinate to where the objective is lowest, so that this never
    rises, with :math:`q = (y - a D) D'` and G the Gram matrix :math:`D D'`:

    .. math:: a_j \leftarrow S(q_j + G_{jj} a_j, \lambda) / G_{jj}, \qquad
              S(z, \lambda) = \mathrm{sign}(z) \max(|z| - \lambda, 0)

    (Friedman, Hastie and Tibshirani, 2010). The atoms in use are swept until they rest;
    a sweep over all then brings in others, or ends it. Where sweeps take long, steps to
    the best code of the same signs come between them (Lee, Battle, Raina and Ng, 2006).

    Parameters
    ----------
    products : array of shape (n, K)
        Rows times atoms, :math:`y D'`.
    gram : array of shape (K, K)
    penalty : float
        Lambda.
    positive : bool
        Whether codes must not be negative.
    tol : float
        The slope of the objective along any atom, relative to the largest of
        `products`, at which a row is done.
    max_sweeps : int
        Sweeps over the atoms in use, at most, each time that these have changed.
    indptr, indices, values : arrays of shape (n + 1,), (nnz,) and (nnz,)
        Codes to begin at. Where there are none, `indptr` is constant.
    new_indptr : array of shape (n + 1,)
        Receives where the code of each row begins.
    new_indices, new_values : arrays of shape (n K,)
        Receive atoms and coefficients.
    """
    n_rows, k = products.shape
    code, slopes = np.zeros_like(gram[0]), np.empty_like(gram[0])
    some, small = np.empty_like(gram[0]), np.empty_like(gram[0])
    packed, factor = np.empty(k * k, gram.dtype), np.empty(k * k, gram.dtype)
    step = np.empty_like(gram[0])
    used = np.empty(k, np.int32)
    end = 0
    for t in range(n_rows):
        new_indptr[t] = end
        b = products[t]
        peak = penalty * 0
        for j in range(k):
            peak = max(peak, b[j] if positive else abs(b[j]))
        if peak <= penalty:
            continue  # nothing is worth its price
        least = tol * peak
        n = 0
        for i in range(indptr[t], indptr[t + 1]):
            used[n] = indices[i]
            code[used[n]] = values[i]
            n += 1
        for _ in range(_ROUNDS):
            if n > 0:
                _descend_among(
                    n,
                    used,
                    gram,
                    b,
                    penalty,
                    positive,
                    least,
                    max_sweeps,
                    code,
                    packed,
                    some,
                    small,
                    factor,
                    step,
                )
            # from the products every time, so that rounding does not add up
            for j in range(k):
                slopes[j] = b[j]
            for i in range(n):
                a, row = code[used[i]], gram[used[i]]
                for j in range(k):
                    slopes[j] -= a * row[j]
            changed = False
            for j in range(k):
                old, norm = code[j], gram[j, j]
                if (old == 0 and abs(slopes[j]) <= penalty) or norm <= 0:
                    continue
                change = _shrunk(slopes[j] + norm * old, penalty, positive) / norm - old
                if abs(change) * norm > least:
                    changed = True
                    code[j] = old + change
                    row = gram[j]
                    for i in range(k):
                        slopes[i] -= change * row[i]
            n = 0
            for j in range(k):
                if code[j] != 0:
                    used[n] = j
                    n += 1
            if not changed:
                break
        for i in range(n):
            new_indices[end] = used[i]
            new_values[end] = code[used[i]]
            code[used[i]] = 0
            end += 1
    new_indptr[n_rows] = end


@_jit
def add_moments(
    X: Any,
    weights: Any,
    indptr: Any,
    indices: Any,
    values: Any,
    squares: Any,
    cross: Any,
) -> Any:
    r"""Add up what rows and their codes contribute to the objective.

    Parameters
    ----------
    X : array of shape (n, P)
    weights : array of shape (n,), float64
    indptr, indices, values : arrays
        Codes a, of shape (n, K).
    squares : array of shape (K, K), float64
        The sum of :math:`w a' a` is added, below the diagonal and on it.
    cross : array of shape (K, P), float64
        The sum of :math:`w a' y` is added.

    Returns
    -------
    energy, size : float
        Sums of the weighted squared norms of rows and absolute sums of codes.
    """
    n_columns = X.shape[1]
    energy = size = 0.0
    for t in range(X.shape[0]):
        y, w = X[t], weights[t]
        s = 0.0
        for p in range(n_columns):
            s += np.float64(y[p]) * np.float64(y[p])
        energy += w * s
        for i in range(indptr[t], indptr[t + 1]):
            a = w * np.float64(values[i])
            size += abs(a)
            j = indices[i]
            into = cross[j]
            for p in range(n_columns):
                into[p] += a * y[p]
            among = squares[j]
            for m in range(indptr[t], i + 1):  # atoms are in order
                among[indices[m]] += a * np.float64(values[m])
    return energy, size


@_jit
def update_atoms(
    squares: Any, cross: Any, atoms: Any, positive: bool, gain: float, rounds: int
) -> None:
    r"""Lower the objective in the atoms, one after the other, in place.

    .. math:: d_j \leftarrow \Pi\Bigl(d_j
              + \frac{1}{A_{jj}} \bigl(B_j - \sum_k A_{jk} d_k\bigr)\Bigr)

    with :math:`\Pi` the projection onto the unit ball, of which each is the best there
    is given the others (Mairal, Bach, Ponce and Sapiro, 2010, algorithm 2).

    Parameters
    ----------
    squares : array of shape (K, K)
        A.
    cross : array of shape (K, P)
        B.
    atoms : array of shape (K, P)
    positive : bool
        Whether atoms must not be negative.
    gain : float
        A round that gains less, relative to the rounds before, is the last.
    rounds : int
        Rounds at most.
    """
    k, n_columns = atoms.shape
    found = np.empty(n_columns)
    total = 0.0
    for _ in range(rounds):
        moved = 0.0
        for j in range(k):
            norm = squares[j, j]
            if not norm > 0:
                continue
            found[:] = cross[j]
            for i in range(k):
                a, other = squares[j, i], atoms[i]
                if a != 0:
                    for p in range(n_columns):
                        found[p] -= a * other[p]
            length = 0.0
            for p in range(n_columns):
                value = atoms[j, p] + found[p] / norm
                if positive and value < 0:
                    value = 0.0
                found[p] = value
                length += value * value
            if not np.isfinite(length):
                continue  # an atom in so little use that its place is rounding
            scale = 1.0 / np.sqrt(length) if length > 1 else 1.0
            change = 0.0
            for p in range(n_columns):
                value = found[p] * scale
                step = value - atoms[j, p]
                change += step * step
                atoms[j, p] = value
            moved += norm * change
        total += moved
        if moved <= gain * total:
            break
