"""Loops over rows and groups of mixed models, compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = [
    "counting_sort",
    "each_group",
    "scatter_groups",
    "scatter_pairs",
    "sum_groups",
]

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
def _posterior(
    gram: Any, cross: Any, L: Any, C: Any, G: Any, K: Any, N: Any, LR: Any, NLR: Any
) -> float:
    """Fill in K, N, L'R and N L'R of a group (see `sum_groups`); return log det."""
    q, d = cross.shape
    k = 0
    for a in range(q):
        for b in range(a + 1):
            G[a, b] = gram[k]
            G[b, a] = gram[k]
            k += 1
    for a in range(q):  # G L, in the place of N; L is lower triangular
        for b in range(q):
            s = 0.0
            for c in range(b, q):
                s += G[a, c] * L[c, b]
            N[a, b] = s
    for a in range(q):
        for b in range(a + 1):
            s = 0.0
            for c in range(a, q):
                s += L[c, a] * N[c, b]
            K[a, b] = s
            K[b, a] = s
    log_det = 0.0
    det = 1.0
    for a in range(q):  # Cholesky factor of I + K
        for b in range(a):
            s = K[a, b]
            for c in range(b):
                s -= C[a, c] * C[b, c]
            C[a, b] = s / C[b, b]
        pivot = 1.0 + K[a, a]
        for c in range(a):
            pivot -= C[a, c] * C[a, c]
        C[a, a] = np.sqrt(pivot)
        det *= pivot
        if det > 1e200:
            log_det += np.log(det)
            det = 1.0
    log_det += np.log(det)
    for e in range(q):  # N, column by column
        for a in range(q):
            s = 1.0 if a == e else 0.0
            for c in range(e, a):
                s -= C[a, c] * N[c, e]
            N[a, e] = s / C[a, a] if a >= e else 0.0
        for a in range(q - 1, -1, -1):
            s = N[a, e]
            for c in range(a + 1, q):
                s -= C[c, a] * N[c, e]
            N[a, e] = s / C[a, a]
    for a in range(q):
        for e in range(d):
            LR[a, e] = 0.0
            NLR[a, e] = 0.0
    for a in range(q):
        for c in range(a, q):
            x = L[c, a]
            for e in range(d):
                LR[a, e] += x * cross[c, e]
    for a in range(q):
        for c in range(q):
            x = N[a, c]
            for e in range(d):
                NLR[a, e] += x * LR[c, e]
    return log_det


@_jit
def _couple(couplings: Any, L: Any, N: Any, lr: Any, nlr: Any) -> None:
    """Fill in L'R and N L'R for the sparse columns of a group, row by row."""
    q = len(N)
    for i in range(couplings.shape[0]):
        for a in range(q):
            s = 0.0
            for c in range(a, q):
                s += L[c, a] * couplings[i, c]
            lr[i, a] = s
        for a in range(q):
            s = 0.0
            for c in range(q):
                s += N[a, c] * lr[i, c]
            nlr[i, a] = s


@_jit
def _moments(
    columns: Any,
    nlr: Any,
    NLR: Any,
    N: Any,
    mean: Any,
    cov: Any,
    n_coupled: int,
    u: Any,
    vw: Any,
    out: Any,
) -> None:
    """Fill in E[u u'] of a group for v of some mean and covariance."""
    q, d = NLR.shape
    n_sparse = columns.shape[0]
    for a in range(q):
        s = 0.0
        for e in range(d):
            s += NLR[a, e] * mean[n_coupled + e]
        for i in range(n_sparse):
            s += nlr[i, a] * mean[columns[i]]
        u[a] = s
    for i in range(n_sparse + d - 1):  # covariance times the columns of N L'R
        row = columns[i] if i < n_sparse else n_coupled + i - n_sparse
        for a in range(q):
            s = 0.0
            for j in range(n_sparse):
                s += cov[row, columns[j]] * nlr[j, a]
            for e in range(d - 1):
                s += cov[row, n_coupled + e] * NLR[a, e]
            vw[i, a] = s
    for a in range(q):
        for b in range(a + 1):
            s = N[a, b] + u[a] * u[b]
            for i in range(n_sparse):
                s += nlr[i, a] * vw[i, b]
            for e in range(d - 1):
                s += NLR[a, e] * vw[n_sparse + e, b]
            out[a, b] = s
            out[b, a] = s


@_jit
def _widest(indptr: Any) -> int:
    widest = 0
    for g in range(len(indptr) - 1):
        widest = max(widest, indptr[g + 1] - indptr[g])
    return widest


@_jit
def sum_groups(
    gram: Any,
    cross: Any,
    indptr: Any,
    columns: Any,
    couplings: Any,
    L: Any,
    mean: Any,
    cov: Any,
    n_coupled: int,
    B: Any,
    H: Any,
    precision: Any,
    expansion: Any,
) -> float:
    r"""Sum up the posteriors of the random effects of groups.

    With :math:`b = L u`, :math:`K = L' Z'Z L` and :math:`N = (I + K)^{-1}`, the
    posterior of :math:`u` given :math:`\gamma` (the effects that all groups share and
    the fixed ones) has the mean :math:`N L'R v`, where :math:`R = Z'W` and
    :math:`v = (-\gamma, 1)`, and the covariance :math:`\sigma^2 N`.

    Parameters
    ----------
    gram, cross : arrays of shape (m, q (q + 1) / 2) and (m, q, d)
        Of the groups; `cross` with the dense columns of W only, the last ones.
    indptr, columns, couplings : arrays of shape (m + 1,), (nnz,) and (nnz, q)
        The sparse columns of R, group by group.
    L : array of shape (q, q)
    mean, cov : arrays of shape (w,) and (w - 1, w - 1)
        :math:`v / \sigma`, and the covariance of :math:`\gamma` in units of
        :math:`\sigma^2`, at which `expansion` is taken.
    n_coupled : int
        Number of sparse columns in all, which come first.
    B, H : arrays of shape (w, w) and (q, w, q, w)
        Sums of (L'R)'N(L'R) and of products of N L'R are added to them.
    precision : array of shape (q, q)
        The sum of N is added to it.
    expansion : array of shape (q, q, q, q)
        The sum of K times :math:`E[u u'] / \sigma^2` is added to it; nothing is if it
        is empty.

    Returns
    -------
    float
        Sum of log det (I + K).
    """
    m, q, d = cross.shape
    expands = expansion.size > 0
    widest = _widest(indptr)
    C, G, K, N, E = (
        np.empty((q, q)),
        np.empty((q, q)),
        np.empty((q, q)),
        np.empty((q, q)),
        np.empty((q, q)),
    )
    LR, NLR = np.empty((q, d)), np.empty((q, d))
    lr, nlr = np.empty((widest, q)), np.empty((widest, q))
    u, vw = np.empty(q), np.empty((widest + d, q))
    own = np.zeros((q * d, q * d))  # products of the dense columns, upper triangle
    both = np.zeros((q * q, q * q))
    flat, flat_K, flat_E = NLR.reshape(q * d), K.reshape(q * q), E.reshape(q * q)
    log_det = 0.0
    for g in range(m):
        log_det += _posterior(gram[g], cross[g], L, C, G, K, N, LR, NLR)
        for a in range(q):
            for b in range(q):
                precision[a, b] += N[a, b]
        for i in range(q * d):
            x = flat[i]
            for j in range(i, q * d):
                own[i, j] += x * flat[j]
        for a in range(q):
            for e in range(d):
                x = LR[a, e]
                for f in range(d):
                    B[n_coupled + e, n_coupled + f] += x * NLR[a, f]
        first, last = indptr[g], indptr[g + 1]
        n_sparse = last - first
        mine = columns[first:last]
        if n_sparse:
            _couple(couplings[first:last], L, N, lr, nlr)
        for i in range(n_sparse):
            col = mine[i]
            for j in range(n_sparse):
                other = mine[j]
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
                    s += lr[i, a] * NLR[a, e]
                B[col, n_coupled + e] += s
                B[n_coupled + e, col] += s
                for a in range(q):
                    for b in range(q):
                        s = nlr[i, a] * NLR[b, e]
                        H[a, col, b, n_coupled + e] += s
                        H[b, n_coupled + e, a, col] += s
        if expands:
            _moments(mine, nlr, NLR, N, mean, cov, n_coupled, u, vw, E)
            for i in range(q * q):
                x = flat_K[i]
                for j in range(q * q):
                    both[i, j] += x * flat_E[j]
    for a in range(q):
        for e in range(d):
            for b in range(q):
                for f in range(d):
                    i, j = a * d + e, b * d + f
                    H[a, n_coupled + e, b, n_coupled + f] += own[min(i, j), max(i, j)]
    if expands:
        for i in range(q * q):
            for j in range(q * q):
                expansion[i // q, i % q, j // q, j % q] += both[i, j]
    return log_det


@_jit
def each_group(
    gram: Any,
    cross: Any,
    indptr: Any,
    columns: Any,
    couplings: Any,
    L: Any,
    v: Any,
    cov: Any,
    n_coupled: int,
    modes: Any,
    covs: Any,
) -> None:
    """Compute the posterior of u of every group; see `sum_groups` for the letters.

    Parameters
    ----------
    v : array of shape (w,)
    modes : array of shape (m, q)
        Receives N L'R v.
    covs : array of shape (m, q, q)
        Receives the covariances in units of sigma^2, that of gamma included.
    """
    m, q, d = cross.shape
    widest = _widest(indptr)
    C, G, K, N = (
        np.empty((q, q)),
        np.empty((q, q)),
        np.empty((q, q)),
        np.empty((q, q)),
    )
    LR, NLR = np.empty((q, d)), np.empty((q, d))
    lr, nlr = np.empty((widest, q)), np.empty((widest, q))
    u, vw = np.empty(q), np.empty((widest + d, q))
    nothing = np.zeros(len(v))
    for g in range(m):
        _posterior(gram[g], cross[g], L, C, G, K, N, LR, NLR)
        first, last = indptr[g], indptr[g + 1]
        _couple(couplings[first:last], L, N, lr, nlr)
        mine = columns[first:last]
        _moments(mine, nlr, NLR, N, nothing, cov, n_coupled, u, vw, covs[g])
        for a in range(q):
            s = 0.0
            for e in range(d):
                s += NLR[a, e] * v[n_coupled + e]
            for i in range(last - first):
                s += nlr[i, a] * v[mine[i]]
            modes[g, a] = s
