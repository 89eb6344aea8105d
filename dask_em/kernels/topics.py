r"""Loops over the words of documents for topic models, compiled.

All of them hold one row of topics per word and one per document, and never a number
per word of a document and topic.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .elementary import exp, log

__all__ = ["dirichlet_part", "expected_log", "fill_digamma", "fill_gammaln", "infer"]

# 'reassoc' lets sums over topics be vectorised. NaN and infinities are looked for.
_FASTMATH = {"contract", "reassoc", "nsz"}
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)

#: Where a word's probability is lost to underflow and is computed from logarithms.
_LOST = 1e-250
_HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)
# Keeps log of the product in `_gammaln` away from arguments below 1.
_LIFT = 2.0**64
_LOG_LIFT = 64 * np.log(2)


@_jit
def _digamma(x: Any) -> Any:
    """Return the digamma function of x > 0.

    That is the asymptotic series (Abramowitz and Stegun 6.3.18) at x + 8, less the sum
    of 1 / (x + i), i < 8, as a single fraction in t = x (x + 7): without branches, so
    that loops over it are vectorised.
    """
    y = x + 8.0
    z = 1.0 / (y * y)
    s = 1 / 132 - z * (691 / 32760 - z * (1 / 12))
    s = z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * s))))
    t = x * (x + 7.0)
    over = 720.0 + t * (504.0 + t * (84.0 + t * 4.0))
    under = t * (720.0 + t * (252.0 + t * (28.0 + t)))
    return (log(y) - 0.5 / y - s) - (2.0 * x + 7.0) * over / under


@_jit
def _gammaln(x: Any) -> Any:
    """Return the log of the gamma function of x > 1e-20, as `_digamma` does."""
    y = x + 8.0
    z = 1.0 / (y * y)
    s = 1 / 1188 - z * (691 / 360360 - z * (1 / 156))
    s = (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z * s)))) / y
    t = x * (x + 7.0)
    under = t * (720.0 + t * (252.0 + t * (28.0 + t)))
    stirling = (y - 0.5) * log(y) - y + _HALF_LOG_2PI + s
    return stirling - (log(under * _LIFT) - _LOG_LIFT)


@_jit
def fill_digamma(x: Any, out: Any) -> None:
    """Fill in the digamma function of positive numbers.

    Parameters
    ----------
    x, out : contiguous arrays of shape (n,)
    """
    for i in range(x.shape[0]):
        out[i] = _digamma(x[i])


@_jit
def fill_gammaln(x: Any, out: Any) -> None:
    """Fill in the log of the gamma function of positive numbers.

    Parameters
    ----------
    x, out : contiguous arrays of shape (n,)
    """
    for i in range(x.shape[0]):
        out[i] = _gammaln(x[i])


@_jit
def expected_log(rows: Any, totals: Any, logs: Any, scaled: Any, peaks: Any) -> None:
    r"""Fill in E[log beta] of words, and its exponential scaled to a maximum of 1.

    .. math:: E[\log\beta_{kw}] = \psi(\lambda_{kw}) - \psi(\Lambda_k)

    Parameters
    ----------
    rows : array of shape (n_words, K)
        Parameters of the Dirichlet distributions, word by word.
    totals : array of shape (K,)
        Their sums over all words, also those that are not here.
    logs : array of shape (n_words, K)
        Receives the expectation, less `peaks`.
    scaled : array of shape (n_words, K)
        Receives the exponential of that.
    peaks : array of shape (n_words,)
        Receives the largest expectation of each word.
    """
    n_topics = rows.shape[1]
    mass = np.empty(n_topics)
    fill_digamma(totals, mass)
    for w in range(rows.shape[0]):
        row = logs[w]
        fill_digamma(rows[w], row)
        peak = -np.inf
        for k in range(n_topics):
            row[k] -= mass[k]
            peak = max(peak, row[k])
        for k in range(n_topics):
            row[k] -= peak
            scaled[w, k] = exp(row[k])
        peaks[w] = peak


@_jit
def dirichlet_part(rows: Any, totals: Any, prior: float) -> float:
    r"""Return what words contribute to minus the divergence of topics from their prior.

    .. math:: \sum_{kw} \log\Gamma(\lambda_{kw}) - \log\Gamma(\eta)
              + (\eta - \lambda_{kw}) E[\log\beta_{kw}]

    A word that occurs nowhere has :math:`\lambda_{kw} = \eta` and contributes nothing.

    Parameters
    ----------
    rows : array of shape (n_words, K)
    totals : array of shape (K,)
    prior : float
    """
    n_topics = rows.shape[1]
    mass, psi, gammaln = np.empty(n_topics), np.empty(n_topics), np.empty(n_topics)
    fill_digamma(totals, mass)
    constant = _gammaln(prior)
    total = 0.0
    for w in range(rows.shape[0]):
        fill_digamma(rows[w], psi)
        fill_gammaln(rows[w], gammaln)
        s = 0.0
        for k in range(n_topics):
            s += gammaln[k] - constant + (prior - rows[w, k]) * (psi[k] - mass[k])
        total += s
    return total


@_jit
def _logarithmic(row: Any, psi: Any, peak: float, phi: Any) -> float:
    """Fill in the probabilities of a word's topics; return the log of their scale."""
    n_topics = row.shape[0]
    top = -np.inf
    for k in range(n_topics):
        phi[k] = row[k] + (psi[k] - peak)
        top = max(top, phi[k])
    s = 0.0
    for k in range(n_topics):
        phi[k] = np.exp(phi[k] - top)
        s += phi[k]
    for k in range(n_topics):
        phi[k] /= s
    return top + np.log(s)


@_jit
def _dots(scaled: Any, words: Any, e: Any, norms: Any) -> None:
    """Fill in the inner products of e with the rows of words, four at a time."""
    n, n_topics = words.shape[0], scaled.shape[1]
    j = 0
    while j + 4 <= n:
        a, b = scaled[words[j]], scaled[words[j + 1]]
        c, d = scaled[words[j + 2]], scaled[words[j + 3]]
        sa = sb = sc = sd = 0.0
        for k in range(n_topics):
            sa += e[k] * a[k]
            sb += e[k] * b[k]
            sc += e[k] * c[k]
            sd += e[k] * d[k]
        norms[j], norms[j + 1], norms[j + 2], norms[j + 3] = sa, sb, sc, sd
        j += 4
    while j < n:
        a = scaled[words[j]]
        sa = 0.0
        for k in range(n_topics):
            sa += e[k] * a[k]
        norms[j] = sa
        j += 1


@_jit
def _combine(scaled: Any, words: Any, ratios: Any, acc: Any) -> None:
    """Fill in the sum of the rows of words times their ratios."""
    n, n_topics = words.shape[0], scaled.shape[1]
    for k in range(n_topics):
        acc[k] = 0.0
    j = 0
    while j + 4 <= n:
        a, b = scaled[words[j]], scaled[words[j + 1]]
        c, d = scaled[words[j + 2]], scaled[words[j + 3]]
        ra, rb, rc, rd = ratios[j], ratios[j + 1], ratios[j + 2], ratios[j + 3]
        for k in range(n_topics):
            acc[k] += ra * a[k] + rb * b[k] + (rc * c[k] + rd * d[k])
        j += 4
    while j < n:
        a, ra = scaled[words[j]], ratios[j]
        for k in range(n_topics):
            acc[k] += ra * a[k]
        j += 1


@_jit
def infer(
    indptr: Any,
    words: Any,
    counts: Any,
    logs: Any,
    scaled: Any,
    prior: Any,
    tol: float,
    max_iter: int,
    gamma: Any,
    stats: Any,
) -> float:
    r"""Find the topics of documents, and add up those of their words.

    For each document the fixed point of

    .. math:: \phi_{wk} \propto e^{\psi(\gamma_k) + E[\log\beta_{kw}]}, \qquad
              \gamma_k = \alpha_k + \sum_w n_w \phi_{wk}

    is approached from the :math:`\gamma` given (Blei, Ng and Jordan, 2003, eq. 6-7).
    Statistics and bound are those of the last :math:`\phi` and the :math:`\gamma` that
    follows from it, so the bound holds however many updates there were:

    .. math:: \sum_w n_w \log\sum_k e^{\psi(\gamma^-_k) + E[\log\beta_{kw}]}
              - \sum_k (\gamma_k - \alpha_k) \psi(\gamma^-_k)
              + \log\frac{B(\gamma)}{B(\alpha)}

    with :math:`\gamma^-` the :math:`\gamma` that :math:`\phi` came from, and B the
    multivariate beta function.

    Parameters
    ----------
    indptr, words, counts : arrays of shape (n_docs + 1,), (nnz,) and (nnz,)
        Documents in CSR form, with words that are rows of `logs`.
    logs : array of shape (n_words, K)
        As `expected_log` fills them in.
    scaled : array of shape (n_words, K)
        Their exponentials.
    prior : array of shape (K,)
    tol : float
        Mean absolute change of :math:`\gamma` below which a document is done.
    max_iter : int
        Updates of a document at most, and at least 1 is made.
    gamma : array of shape (n_docs, K)
        Where to start; is updated.
    stats : array of shape (n_words, K)
        The sums of :math:`n_w \phi_{wk}` are added to them.

    Returns
    -------
    float
        The bound, without what `expected_log` took off as peaks.
    """
    n_docs, n_topics = gamma.shape
    longest = 0
    for d in range(n_docs):
        longest = max(longest, indptr[d + 1] - indptr[d])
    psi, phi, gammaln = np.empty(n_topics), np.empty(n_topics), np.empty(n_topics)
    e, acc, lost = np.empty(n_topics), np.empty(n_topics), np.zeros(n_topics)
    norms, ratios = np.empty(longest), np.empty(longest)
    log_most = np.log(n_topics)
    constant, mass = 0.0, 0.0
    for k in range(n_topics):
        constant -= _gammaln(prior[k])
        mass += prior[k]
    constant += _gammaln(mass)
    bound = 0.0
    for d in range(n_docs):
        first, last = indptr[d], indptr[d + 1]
        n = last - first
        if n == 0:
            gamma[d] = prior
            continue
        mine, n_w, g = words[first:last], counts[first:last], gamma[d]
        peak, any_lost = 0.0, False
        for _ in range(max(max_iter, 1)):
            fill_digamma(g, psi)
            peak = -np.inf
            for k in range(n_topics):
                peak = max(peak, psi[k])
            for k in range(n_topics):
                e[k] = exp(psi[k] - peak)
            _dots(scaled, mine, e, norms)
            smallest = np.inf
            for j in range(n):
                smallest = min(smallest, norms[j])
                ratios[j] = n_w[j] / norms[j]
            any_lost = not smallest > _LOST
            if any_lost:
                lost[:] = 0.0
                for j in range(n):
                    if not norms[j] > _LOST:
                        ratios[j] = 0.0
                        _logarithmic(logs[mine[j]], psi, peak, phi)
                        for k in range(n_topics):
                            lost[k] += n_w[j] * phi[k]
            _combine(scaled, mine, ratios, acc)
            change = 0.0
            for k in range(n_topics):
                new = prior[k] + e[k] * acc[k] + lost[k]
                change += abs(new - g[k])
                g[k] = new
            if any_lost:
                lost[:] = 0.0
            if change < tol * n_topics:
                break
        for j in range(n):
            row, r = stats[mine[j]], ratios[j]
            b = scaled[mine[j]]
            for k in range(n_topics):
                row[k] += r * (e[k] * b[k])
        tokens, s = 0.0, 0.0
        if any_lost:
            for j in range(n):
                if not norms[j] > _LOST:
                    log_norm = _logarithmic(logs[mine[j]], psi, peak, phi)
                    s += n_w[j] * (log_norm - log_most)
                    norms[j] = n_topics  # makes up for log_most
                    row = stats[mine[j]]
                    for k in range(n_topics):
                        row[k] += n_w[j] * phi[k]
        for j in range(n):  # norms are at most K, and log wants 1 or more
            tokens += n_w[j]
            s -= n_w[j] * log(max(n_topics / norms[j], 1.0))
        s += tokens * (log_most + peak)
        fill_gammaln(g, gammaln)
        for k in range(n_topics):
            s += gammaln[k] - (g[k] - prior[k]) * psi[k]
        bound += s + constant - _gammaln(mass + tokens)
    return bound
