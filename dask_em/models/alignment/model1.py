"""IBM Model 1: words are translated one by one, wherever they stand."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ...kernels.alignment import (
    model1_e_step,
    positional_best,
    positional_log_likelihoods,
)
from .base import AlignmentModel
from .prepared import PreparedBitext

__all__ = ["Model1"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Model1(AlignmentModel):
    r"""IBM Model 1 (Brown et al., 1993).

    .. math:: p(f_1^m \mid e_1^l) = \prod_{j=1}^m \frac{1}{l + 1}
              \sum_{i=0}^l t(f_j \mid e_i)

    with NULL as :math:`e_0`. The likelihood is concave, so the start does not matter.

    Parameters
    ----------
    reverse : bool, default=False
        Explain the source side by the target side instead.
    alpha : float, default=0.0
        See `AlignmentModel`.

    Examples
    --------
    >>> pairs = [("the house", "la maison"), ("the flower", "la fleur")]
    >>> blocks = [[*pairs, ("a flower", "une fleur")]]
    >>> model = Model1()
    >>> summary = model.survey(blocks)
    >>> prepared = model.prepare(blocks, summary)
    >>> params = model.start(prepared, None, summary, seed=0).params
    >>> for _ in range(5):
    ...     stats, bound, _ = model.e_step(params, prepared)
    ...     params = model.m_step(params, stats, prepared)
    >>> model.align(params, prepared).to_pharaoh()
    ['0-0 1-1', '0-0 1-1', '0-0 1-1']
    """

    def _count(
        self, other: Array, table: Array, counts: Array, prepared: PreparedBitext
    ) -> float:
        bound = model1_e_step(
            table, prepared.cells, prepared.shapes, prepared.starts, prepared.weights
        )
        table[:, 1] *= table[:, 0]
        return bound

    def _best(
        self,
        theta: Array,
        other: Array,
        prepared: PreparedBitext,
        best: NDArray[np.int32],
    ) -> None:
        prior = _uniform(prepared)
        positional_best(
            theta, prepared.cells, prepared.shapes, prepared.starts, prior, best
        )

    def log_likelihood(self, params: Array, prepared: PreparedBitext) -> Array:
        """Return the log-likelihood of each pair; see `AlignmentModel`."""
        theta, _ = self._known(params, prepared)
        each = positional_log_likelihoods(
            theta, prepared.cells, prepared.shapes, prepared.starts, _uniform(prepared)
        )
        return self._spread(each, prepared)


def _uniform(prepared: PreparedBitext) -> Array:
    length, m = prepared.shapes.T
    return np.repeat(1.0 / (length + 1), m * (length + 1))
