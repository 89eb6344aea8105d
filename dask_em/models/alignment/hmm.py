"""Alignments as a hidden Markov model: the next word stands where the last one did."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ...alignment.alignments import Alignments
from ...kernels.alignment_hmm import (
    hmm_best,
    hmm_e_step,
    hmm_log_likelihoods,
    hmm_posterior_links,
)
from .base import AlignmentModel, check_null
from .prepared import PreparedBitext

__all__ = ["HMMModel"]

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

#: What `max_jump` may be at most: work and messages grow with it.
LONGEST_JUMP = 100


@dataclasses.dataclass(frozen=True)
class HMMModel(AlignmentModel):
    r"""Hidden Markov model of alignments (Vogel, Ney and Tillmann, 1996).

    With :math:`i'` as the last position that a target word was aligned to (0 before
    the first), the next target word comes from NULL with probability :math:`p_0`,
    which leaves :math:`i'` as it is (Och and Ney, 2003), and otherwise from position i
    with probability

    .. math:: (1 - p_0) \frac{c(i - i')}{\sum_{k=1}^l c(k - i')},

    where c depends on jumps of up to `max_jump` and is the same for all longer ones.
    The bound is to be maximised in c of

    .. math:: \sum_d n_d \log c_d - \sum_{l, i'} n_{l i'} \log \sum_k c(k - i'),

    which has no closed form. Its second part is replaced by tangents of the logarithm
    there, which gives :math:`c_d = n_d / \sum_{l, i'} n_{l i'} K_{l i' d} / Z_{l i'}`
    with the number K of positions at a jump of d; each such sweep raises the bound
    (Hunter, 2004), and `sweeps` of them are made in an M-step.

    Parameters
    ----------
    reverse : bool, default=False
        Explain the source side by the target side instead.
    alpha : float, default=0.0
        See `AlignmentModel`.
    null_probability : float or None, default=0.2
        :math:`p_0`; None to learn it.
    max_jump : int, default=7
        100 at most.
    sweeps : int, default=20

    References
    ----------
    Vogel, S., Ney, H., Tillmann, C. (1996). HMM-based word alignment in statistical
    translation. COLING 1996, 836-841.

    Och, F. J., Ney, H. (2003). A systematic comparison of various statistical
    alignment models. Computational Linguistics 29(1), 19-51.

    Hunter, D. R. (2004). MM algorithms for generalized Bradley-Terry models. Annals of
    Statistics 32(1), 384-406.
    """

    null_probability: float | None = 0.2
    max_jump: int = 7
    sweeps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_null(self.null_probability)
        if not 1 <= self.max_jump <= LONGEST_JUMP:
            raise ValueError(
                f"max_jump must be from 1 to {LONGEST_JUMP}, not {self.max_jump}: all "
                "longer jumps are equally likely"
            )

    # Other parameters: NULL, not NULL, the jumps, and for every length l that occurs
    # somewhere the positions 0 to l to jump from, of which only counts are needed.

    @property
    def _n_jumps(self) -> int:
        return 2 * self.max_jump + 1

    def _lengths(self, prepared: PreparedBitext) -> Ids:
        return np.unique([length for length, _ in prepared.summary.shapes]).astype(
            np.int64
        )

    def _other_ids(self, prepared: PreparedBitext) -> Ids:
        lengths = self._lengths(prepared)
        first = 2 + self._n_jumps
        blocks = [
            first + (length - 1) * (length + 2) // 2 + np.arange(length + 1)
            for length in lengths
        ]
        return np.concatenate([np.arange(first), *blocks])

    def _other_start(self, prepared: PreparedBitext) -> Array:
        null = self.null_probability
        other = np.ones(len(self._other_ids(prepared)))
        other[0] = 0.2 if null is None else null
        other[1] = 1 - other[0]
        other[2 : 2 + self._n_jumps] = 1 / self._n_jumps
        return other

    def _jumps(self, other: Array) -> Array:
        return np.ascontiguousarray(other[2 : 2 + self._n_jumps])

    def _count(
        self, other: Array, table: Array, counts: Array, prepared: PreparedBitext
    ) -> float:
        lengths = self._lengths(prepared)
        longest = int(lengths.max(initial=1))
        jumps, rows = np.zeros(self._n_jumps), np.zeros((longest + 1, longest + 1))
        bound, counts[0], counts[1] = hmm_e_step(
            table,
            prepared.cells,
            prepared.shapes,
            prepared.starts,
            prepared.weights,
            other[0],
            self._jumps(other),
            jumps,
            rows,
        )
        counts[2 : 2 + self._n_jumps] = jumps
        counts[2 + self._n_jumps :] = np.concatenate(
            [rows[length, : length + 1] for length in lengths]
        )
        return bound

    def _estimate(self, other: Array, counts: Array, prepared: PreparedBitext) -> Array:
        out = other.copy()
        if self.null_probability is None:
            out[0] = counts[0] / (counts[0] + counts[1])
            out[1] = 1 - out[0]
        c = self._jumps(other)
        n, rows = self._jumps(counts), counts[2 + self._n_jumps :]
        reach = self._reach(prepared)
        for _ in range(self.sweeps):
            z = reach @ c
            shares = np.divide(rows, z, out=np.zeros_like(rows), where=z > 0)
            tried = shares @ reach
            c = np.divide(n, tried, out=np.zeros_like(n), where=tried > 0)
            c /= c.sum()
        out[2 : 2 + self._n_jumps] = c
        return out

    def _reach(self, prepared: PreparedBitext) -> Array:
        """Return how many positions are at each jump, of shape (n_rows, n_jumps)."""
        d = self.max_jump
        reach = []
        for length in self._lengths(prepared):
            last, i = np.arange(-1, length)[:, None], np.arange(length)
            jump = np.clip(i - last, -d, d)[:, :, None]
            reach.append((jump == np.arange(-d, d + 1)).sum(axis=1))
        return np.concatenate(reach).astype(float)

    # ------------------------------------------------------------ fitted models

    def _best(
        self,
        theta: Array,
        other: Array,
        prepared: PreparedBitext,
        best: NDArray[np.int32],
    ) -> None:
        hmm_best(
            theta,
            prepared.cells,
            prepared.shapes,
            prepared.starts,
            other[0],
            self._jumps(other),
            best,
        )

    def align_posterior(
        self, params: Array, prepared: PreparedBitext, threshold: float = 0.5
    ) -> Alignments:
        """Return the links whose posterior probability is above a threshold.

        Parameters
        ----------
        params : array of shape (n_ids, 1)
            As for `align`.
        prepared : PreparedBitext
        threshold : float, default=0.5

        Returns
        -------
        Alignments
        """
        theta, other = self._known(params, prepared)
        offsets, source, target = hmm_posterior_links(
            theta,
            prepared.cells,
            prepared.shapes,
            prepared.starts,
            other[0],
            self._jumps(other),
            threshold,
        )
        return self._placed(offsets, source, target, prepared)

    def log_likelihood(self, params: Array, prepared: PreparedBitext) -> Array:
        """Return the log-likelihood of each pair; see `AlignmentModel`."""
        theta, other = self._known(params, prepared)
        each = hmm_log_likelihoods(
            theta,
            prepared.cells,
            prepared.shapes,
            prepared.starts,
            other[0],
            self._jumps(other),
        )
        return self._spread(each, prepared)
