"""Prior counts of topic models: which there can be, and which suit the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.topics import fill_digamma
from ...sparse_model import Array
from .count_state import Topics

__all__ = ["check_priors", "next_priors"]

#: What learned prior counts are kept between.
_LEAST, _MOST = 1e-6, 1e3


def check_priors(n_topics: int, a: Any, b: Any) -> None:
    """Raise `ValueError` unless a and b can be prior counts for so many topics."""
    if n_topics < 1:
        raise ValueError(f"n_topics must be at least 1, got {n_topics}.")
    given = np.asarray(a, dtype=np.float64)
    if given.shape not in ((), (n_topics,)):
        raise ValueError(
            f"a must be one number, or one for each of the {n_topics} topics; got an "
            f"array of shape {given.shape}."
        )
    if not (np.isfinite(given).all() and np.isfinite(b)):
        raise ValueError("Prior counts a and b must be finite.")
    if (given < 0).any() or b < 0:
        raise ValueError(
            "Prior counts a and b must not be negative; they are the parameters of "
            "Dirichlet distributions less 1."
        )


def next_priors(a: Array, b: float, topics: Topics, sums: Array) -> tuple[Array, float]:
    r"""Make a step of Minka's fixed-point iteration (2000, eq. 55).

    .. math:: a_k \leftarrow a_k
        \frac{\sum_d \psi(N_{dk} + a_k) - \psi(a_k)}
             {\sum_d \psi(N_d + \sum_k a_k) - \psi(\sum_k a_k)}

    raises the probability of the counts of topics in documents, as multinomial draws
    from shares that have a Dirichlet distribution of parameters a; and likewise for b
    and the counts of words in topics.

    Parameters
    ----------
    a : array of shape (K,)
    b : float
    topics : Topics
    sums : array of shape (K + 1,)
        The numerators and the denominator of the step, without a.

    Returns
    -------
    a : array of shape (K,)
    b : float
    """
    found = a * sums[:-1] / sums[-1] if sums[-1] > 0 else a
    n_words = len(topics.counts)
    words = _digamma_sum(topics.counts, b)
    wholes = n_words * _digamma_sum(topics.totals, n_words * b)
    new_b = b * words / wholes if wholes > 0 else b
    return np.clip(found, _LEAST, _MOST), float(np.clip(new_b, _LEAST, _MOST))


def _digamma_sum(counts: Array, prior: float) -> float:
    """Return the sum over counts n of psi(n + prior) - psi(prior)."""
    n = np.maximum(counts.ravel().astype(np.float64), 0.0) + prior
    psi = np.empty_like(n)
    fill_digamma(n, psi)
    least = np.empty(1)
    fill_digamma(np.array([prior]), least)
    return float((psi - least).sum())
