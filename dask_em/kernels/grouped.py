"""Loops over rows and groups of mixed models, compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["counting_sort", "group_posteriors", "scatter_groups", "scatter_pairs"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def counting_sort(codes: Any, n_codes: int) -> Any:
    """Return the stable order of small integers, and where each of them starts.

    Parameters
    ----------
    codes : array of int of shape (n,)
        Below `n_codes`; negative ones are left out.
    n_codes : int

    Returns
    -------
    order : array of shape (n_kept,), int64
    starts : array of shape (n_codes + 1,), int64
    """
    starts = np.zeros(n_codes + 1, np.int64)
    for code in codes:
        if code >= 0:
            starts[code + 1] += 1
    for k in range(n_codes):
        starts[k + 1] += starts[k]
    at = starts[:-1].copy()
    order = np.empty(starts[n_codes], np.int64)
    for i in range(codes.shape[0]):
        code = codes[i]
        if code >= 0:
            order[at[code]] = i
            at[code] += 1
    return order, starts


@_jit
def scatter_groups(codes: Any, Z: Any, W: Any, gram: Any, cross: Any) -> None:
    """Add the cross-products of rows to those of their groups.

    Parameters
    ----------
    codes : array of int of shape (n,)
    Z : array of shape (n, q)
    W : array of shape (n, w)
    gram : array of shape (m, q (q + 1) / 2)
        Lower triangles of Z'Z, row by row.
    cross : array of shape (m, q, w)
        Z'W.
    """
    n, q = Z.shape
    w = W.shape[1]
    for i in range(n):
        g = codes[i]
        k = 0
        for a in range(q):
            z = Z[i, a]
            for b in range(a + 1):
                gram[g, k] += z * Z[i, b]
                k += 1
            for b in range(w):
                cross[g, a, b] += z * W[i, b]


@_jit
def scatter_pairs(cells: Any, A: Any, B: Any, out: Any) -> None:
    """Add the outer products of rows of A and B to the cells they belong to.

    Parameters
    ----------
    cells : array of int of shape (n,)
    A : array of shape (n, a)
    B : array of shape (n, b)
    out : array of shape (n_cells, a, b)
    """
    for i in range(cells.shape[0]):
        c = cells[i]
        for a in range(A.shape[1]):
            for b in range(B.shape[1]):
                out[c, a, b] += A[i, a] * B[i, b]


@_jit
def group_posteriors(
    gram: Any,
    cross: Any,
    L: Any,
    indptr: Any,
    columns: Any,
    couplings: Any,
    mean: Any,
    cov: Any,
    n_coupled: int,
    shape: Any,
    precision: Any,
    scaled: Any,
    effects: Any,
    moments: Any,
    B: Any,
    H: Any,
    sums: Any,
) -> float:
    r"""Posteriors of the random effects of some groups.

    With :math:`b = L u`, :math:`K = L' Z'Z L` and :math:`N = (I + K)^{-1}`, the
    posterior of :math:`u` given :math:`\gamma` (the effects that all groups share and
    the fixed ones) has the mean :math:`N L'R v`, where :math:`R = Z'W` and
    :math:`v = (-\gamma, 1)`, and the covariance :math:`\sigma^2 N`.

    Parameters
    ----------
    gram, cross : arrays of shape (t, q (q + 1) / 2) and (t, q, d)
        Of the groups; `cross` with the dense columns of W only, the last ones.
    L : array of shape (q, q)
    indptr, columns, couplings : arrays of shape (t + 1,), (nnz,) and (nnz, q)
        The sparse columns of R, group by group.
    mean, cov : arrays of shape (w,) and (w - 1, w - 1)
        :math:`v / \sigma`, and the covariance of :math:`\gamma` in units of
        :math:`\sigma^2`, at which `moments` are taken.
    n_coupled : int
        Number of sparse columns in all, which come first.
    shape : array of shape (t, q, q)
        Receives K.
    precision : array of shape (t, q, q)
        Receives N.
    scaled, effects : arrays of shape (t, q, d)
        Receive L'R and N L'R.
    moments : array of shape (t, q, q)
        Receives :math:`E[u u'] / \sigma^2`; nothing is computed if t is 0 there.
    B, H : arrays of shape (w, w) and (q, w, q, w)
        What involves sparse columns is added to them: sums of (L'R)'N(L'R) and of
        products of N L'R.
    sums : array of shape (q, q)
        N is added to it.

    Returns
    -------
    float
        Sum of log det (I + K).
    """
    t, q, d = cross.shape
    with_moments = moments.shape[0] > 0
    C = np.empty((q, q))
    G = np.empty((q, q))
    GL = np.empty((q, q))
    widest = 0
    for g in range(t):
        widest = max(widest, indptr[g + 1] - indptr[g])
    lr = np.empty((widest, q))
    nlr = np.empty((widest, q))
    u = np.empty(q)
    n_dense = d - 1 if with_moments else 0
    vw = np.empty((widest + n_dense, q))
    log_det = 0.0
    for g in range(t):
        k = 0
        for a in range(q):
            for b in range(a + 1):
                G[a, b] = gram[g, k]
                G[b, a] = gram[g, k]
                k += 1
        for a in range(q):  # L is lower triangular
            for b in range(q):
                s = 0.0
                for c in range(b, q):
                    s += G[a, c] * L[c, b]
                GL[a, b] = s
        for a in range(q):
            for b in range(a + 1):
                s = 0.0
                for c in range(a, q):
                    s += L[c, a] * GL[c, b]
                shape[g, a, b] = s
                shape[g, b, a] = s
        # Cholesky factor of I + K
        det = 1.0
        for a in range(q):
            for b in range(a + 1):
                s = shape[g, a, b]
                for c in range(b):
                    s -= C[a, c] * C[b, c]
                if a == b:
                    pivot = s + 1.0
                    det *= pivot
                    C[a, a] = np.sqrt(pivot)
                    if det > 1e200:
                        log_det += np.log(det)
                        det = 1.0
                else:
                    C[a, b] = s / C[b, b]
        log_det += np.log(det)
        for e in range(q):  # N, column by column
            for a in range(q):
                s = 1.0 if a == e else 0.0
                for c in range(a):
                    s -= C[a, c] * u[c]
                u[a] = s / C[a, a]
            for a in range(q - 1, -1, -1):
                s = u[a]
                for c in range(a + 1, q):
                    s -= C[c, a] * u[c]
                u[a] = s / C[a, a]
            for a in range(q):
                precision[g, a, e] = u[a]
                sums[a, e] += u[a]
        for a in range(q):
            for e in range(d):
                s = 0.0
                for c in range(a, q):
                    s += L[c, a] * cross[g, c, e]
                scaled[g, a, e] = s
        for a in range(q):
            for e in range(d):
                s = 0.0
                for c in range(q):
                    s += precision[g, a, c] * scaled[g, c, e]
                effects[g, a, e] = s
        first = indptr[g]
        n_sparse = indptr[g + 1] - first
        for i in range(n_sparse):
            for a in range(q):
                s = 0.0
                for c in range(a, q):
                    s += L[c, a] * couplings[first + i, c]
                lr[i, a] = s
            for a in range(q):
                s = 0.0
                for c in range(q):
                    s += precision[g, a, c] * lr[i, c]
                nlr[i, a] = s
        for i in range(n_sparse):
            col = columns[first + i]
            for j in range(n_sparse):
                other = columns[first + j]
                s = 0.0
                for a in range(q):
                    s += lr[i, a] * nlr[j, a]
                B[col, other] += s
                for a in range(q):
                    for b in range(q):
                        H[a, col, b, other] += nlr[i, a] * nlr[j, b]
            for e in range(d):
                s = 0.0
                for a in range(q):
                    s += lr[i, a] * effects[g, a, e]
                B[col, n_coupled + e] += s
                B[n_coupled + e, col] += s
                for a in range(q):
                    for b in range(q):
                        s = nlr[i, a] * effects[g, b, e]
                        H[a, col, b, n_coupled + e] += s
                        H[b, n_coupled + e, a, col] += s
        if not with_moments:
            continue
        for a in range(q):
            s = 0.0
            for e in range(d):
                s += effects[g, a, e] * mean[n_coupled + e]
            for i in range(n_sparse):
                s += nlr[i, a] * mean[columns[first + i]]
            u[a] = s
        n_active = n_sparse + d - 1
        for i in range(n_active):  # covariance times the columns of N L'R
            row = columns[first + i] if i < n_sparse else n_coupled + i - n_sparse
            for a in range(q):
                s = 0.0
                for j in range(n_sparse):
                    s += cov[row, columns[first + j]] * nlr[j, a]
                for e in range(d - 1):
                    s += cov[row, n_coupled + e] * effects[g, a, e]
                vw[i, a] = s
        for a in range(q):
            for b in range(a + 1):
                s = precision[g, a, b] + u[a] * u[b]
                for i in range(n_sparse):
                    s += nlr[i, a] * vw[i, b]
                for e in range(d - 1):
                    s += effects[g, a, e] * vw[n_sparse + e, b]
                moments[g, a, b] = s
                moments[g, b, a] = s
    return log_det
