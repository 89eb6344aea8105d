"""IBM Model 2: where a word stands matters, too."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...kernels.alignment import (
    positional_best,
    positional_e_step,
    positional_log_likelihoods,
)
from .base import AlignmentModel, check_null
from .positions import Positions
from .prepared import PreparedBitext

__all__ = ["DiagonalModel", "Model2"]

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


#: Positions of a run of shapes.
_POSITIONS = 500_000


class _Positional(AlignmentModel):
    """What models have in common in which words' positions are independent."""

    @abstractmethod
    def _prior(self, other: Array, prepared: PreparedBitext) -> Array:
        """Return the probabilities of `Positions` of the prepared shapes."""

    @abstractmethod
    def _sums(
        self, other: Array, found: Array, counts: Array, prepared: PreparedBitext
    ) -> None:
        """Make counts for `_other_ids` of expected numbers of links."""

    def _count(
        self, other: Array, table: Array, counts: Array, prepared: PreparedBitext
    ) -> float:
        prior = self._prior(other, prepared)
        found = np.zeros_like(prior)
        bound = positional_e_step(
            table,
            prepared.cells,
            prepared.shapes,
            prepared.starts,
            prepared.weights,
            prior,
            found,
        )
        table[:, 1] *= table[:, 0]
        self._sums(other, found, counts, prepared)
        return bound

    def _best(
        self,
        theta: Array,
        other: Array,
        prepared: PreparedBitext,
        best: NDArray[np.int32],
    ) -> None:
        prior = self._prior(other, prepared)
        positional_best(
            theta, prepared.cells, prepared.shapes, prepared.starts, prior, best
        )

    def log_likelihood(self, params: Array, prepared: PreparedBitext) -> Array:
        """Return the log-likelihood of each pair; see `AlignmentModel`."""
        theta, other = self._known(params, prepared)
        prior = self._prior(other, prepared)
        each = positional_log_likelihoods(
            theta, prepared.cells, prepared.shapes, prepared.starts, prior
        )
        return self._spread(each, prepared)


@dataclasses.dataclass(frozen=True)
class Model2(_Positional):
    r"""IBM Model 2 (Brown et al., 1993), with a table of positions.

    .. math:: p(f_1^m \mid e_1^l) = \prod_{j=1}^m \sum_{i=0}^l
              a(i \mid j, l, m) \, t(f_j \mid e_i)

    The table has a row for every target position of sentences of every pair of
    lengths, which is much for few data; `DiagonalModel` has two parameters.
    A row's counts add up to the number of sentences of these lengths, so their sums
    need not travel.

    Parameters
    ----------
    reverse : bool, default=False
        Explain the source side by the target side instead.
    alpha : float, default=0.0
        See `AlignmentModel`.
    """

    def _places(self, prepared: PreparedBitext) -> Ids:
        """Where each shape's positions begin among those of all data; -1 for none."""
        everywhere = Positions.of(prepared.summary.shapes)
        at = {
            (length, m): k
            for (length, m), k in zip(
                everywhere.shapes.tolist(),
                everywhere.offsets[:-1].tolist(),
                strict=True,
            )
        }
        return np.array(
            [at.get((length, m), -1) for length, m in prepared.shapes.tolist()],
            dtype=np.int64,
        )

    def _learnt(self, prepared: PreparedBitext) -> NDArray[np.bool_]:
        """Whether positions belong to lengths that training has seen."""
        here = Positions(prepared.shapes)
        return np.repeat(self._places(prepared) >= 0, here.sizes)

    def _other_ids(self, prepared: PreparedBitext) -> Ids:
        here, places = Positions(prepared.shapes), self._places(prepared)
        ids = np.repeat(places, here.sizes) + here._within
        return ids[np.repeat(places >= 0, here.sizes)]

    def _other_start(self, prepared: PreparedBitext) -> Array:
        here = Positions(prepared.shapes)
        return (1.0 / (here.repeat(prepared.shapes[:, 0]) + 1))[self._learnt(prepared)]

    def _prior(self, other: Array, prepared: PreparedBitext) -> Array:
        here = Positions(prepared.shapes)
        prior = 1.0 / (here.repeat(prepared.shapes[:, 0]) + 1)
        prior[self._learnt(prepared)] = other
        return prior

    def _sums(
        self, other: Array, found: Array, counts: Array, prepared: PreparedBitext
    ) -> None:
        counts[:] = found

    def _estimate(self, other: Array, counts: Array, prepared: PreparedBitext) -> Array:
        seen = prepared.summary.shapes
        n = np.array([seen[length, m] for length, m in prepared.shapes.tolist()])
        return counts / np.repeat(n, Positions(prepared.shapes).sizes)


@dataclasses.dataclass(frozen=True)
class DiagonalModel(_Positional):
    r"""IBM Model 2 with positions near the diagonal (Dyer et al., 2013).

    .. math:: p(f_1^m \mid e_1^l) = \prod_{j=1}^m \Bigl[ p_0\, t(f_j \mid \text{NULL})
              + (1 - p_0) \sum_{i=1}^l \frac{e^{-\lambda h_{ij}}}{Z_j(\lambda)}
              \, t(f_j \mid e_i) \Bigr], \quad
              h_{ij} = \Bigl| \frac il - \frac jm \Bigr|

    The M-step maximises the bound in :math:`\lambda` exactly. For that, a position is
    drawn for all target words, and one that comes from NULL makes no use of it: the
    likelihood is the same, and how often each :math:`Z_j` occurs is then known from
    the lengths of the sentences. So two statistics suffice, the sum of h and the
    number of words that come from NULL.

    Parameters
    ----------
    reverse : bool, default=False
        Explain the source side by the target side instead.
    alpha : float, default=0.0
        See `AlignmentModel`.
    null_probability : float or None, default=0.2
        :math:`p_0`; None to learn it.
    tension : float, default=4.0
        :math:`\lambda` before it is learnt.

    References
    ----------
    Dyer, C., Chahuneau, V., Smith, N. A. (2013). A simple, fast, and effective
    reparameterization of IBM Model 2. NAACL-HLT 2013, 644-648.
    """

    null_probability: float | None = 0.2
    tension: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_null(self.null_probability)

    def _other_ids(self, prepared: PreparedBitext) -> Ids:
        return np.arange(2)

    def _other_start(self, prepared: PreparedBitext) -> Array:
        null = self.null_probability
        return np.array([0.2 if null is None else null, self.tension])

    def _prior(self, other: Array, prepared: PreparedBitext) -> Array:
        null, tension = other
        here = Positions(prepared.shapes)
        return np.where(here.source < 0, null, (1 - null) * _diagonal(here, tension))

    def _sums(
        self, other: Array, found: Array, counts: Array, prepared: PreparedBitext
    ) -> None:
        if not len(found):
            return
        here = Positions(prepared.shapes)
        nulls = found[here.tokens]
        expected = _per_token(_diagonal(here, other[1]) * here.distance, here)
        counts[0] = nulls.sum()
        counts[1] = (found * here.distance).sum() + (nulls * expected).sum()

    def _estimate(self, other: Array, counts: Array, prepared: PreparedBitext) -> Array:
        null = self.null_probability
        if null is None:
            null = counts[0] / prepared.summary.n_tokens
        return np.array([null, _tension(counts[1], prepared.summary.shapes, other[1])])


def _per_token(values: Array, positions: Positions) -> Array:
    return np.add.reduceat(values, positions.tokens)


def _diagonal(positions: Positions, tension: float) -> Array:
    """Probabilities of positions other than NULL, for which 0 stands."""
    if not len(positions.shapes):
        return np.empty(0)
    p = np.exp(-tension * positions.distance)
    p[positions.tokens] = 0.0
    lengths = np.repeat(positions.shapes[:, 0] + 1, positions.shapes[:, 1])
    return p / np.repeat(_per_token(p, positions), lengths)


def _moments(shapes: Ids, n_pairs: Array, tension: float) -> tuple[float, float]:
    """Return the expected sum of distances over all target tokens, and its variance.

    Shapes are taken a run at a time, so that memory does not grow with their number.
    """
    sizes = shapes[:, 1] * (shapes[:, 0] + 1)
    run = np.cumsum(sizes) // _POSITIONS
    mean_sum = variance = 0.0
    for part in np.split(np.arange(len(shapes)), np.flatnonzero(np.diff(run)) + 1):
        here = Positions(shapes[part])
        weights = np.repeat(n_pairs[part], here.shapes[:, 1])
        weighted = _diagonal(here, tension) * here.distance
        mean = _per_token(weighted, here)
        square = _per_token(weighted * here.distance, here)
        mean_sum += float((weights * mean).sum())
        variance += float((weights * (square - mean**2)).sum())
    return mean_sum, variance


def _tension(
    total: float, counts: Mapping[tuple[int, int], int], before: float
) -> float:
    """Return the tension at which the expected sum of distances is `total`.

    The sum falls with the tension, by the variance of the distances, so that is the
    maximum of a concave function; Newton's method, with a bracket for its steps.
    """
    shapes = np.array(sorted(counts), dtype=np.int64).reshape(-1, 2)
    n_pairs = np.array([counts[length, m] for length, m in shapes.tolist()], float)
    low, high = 0.0, 100.0
    x = min(max(before, low), high)
    for _ in range(60):
        mean, slope = _moments(shapes, n_pairs, x)
        excess = mean - total
        if excess > 0:
            low = x
        else:
            high = x
        step = excess / slope if slope > 0 else 0.0
        if abs(step) <= 1e-10 * (1.0 + x):
            break
        x = x + step if low < x + step < high else (low + high) / 2
    return x
