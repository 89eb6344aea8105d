"""Factor analysis and probabilistic principal components, values missing or not."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..acceleration import Acceleration, Anderson
from ..kernels.threads import one_blas_thread
from ..model import Block, MapReduce, Model
from ..statistics import Statistics
from .factor_patterns import Grouped, grouped
from .factor_posterior import Posterior, Sums
from .factor_start import spectrum
from .factor_summary import FactorSummary

__all__ = ["NOISE_FLOOR", "FactorModel", "FactorParams", "FactorStats", "Noise"]

Array = NDArray[Any]
Noise = Literal["diagonal", "isotropic"]

#: Least noise variance, in units of the feature's variance.
NOISE_FLOOR = 1e-8
#: Least share of its variance that a feature's noise has at the start.
_START_NOISE = 0.05
#: Least squared length of a factor's loadings at the start, in units of the mean
#: variance: EM cannot leave zero.
_START_LOADING = 1e-6
#: What a jump may leave of the noise at least.
_FALL = 0.1


@dataclasses.dataclass(frozen=True)
class FactorParams:
    """Parameters of a factor model with K factors of d features.

    Attributes
    ----------
    loadings : array of shape (d, K)
    shift : array of shape (d,)
        The mean, from the origin.
    noise : array of shape (d,)
        Variances.
    origin : array of shape (d,)
        The point about which moments are taken, fixed during a fit.
    scale : array of shape (d,)
        Standard deviations of the data, fixed during a fit.
    """

    loadings: Array
    shift: Array
    noise: Array
    origin: Array
    scale: Array

    @property
    def mean(self) -> Array:
        """The mean."""
        return self.origin + self.shift


@dataclasses.dataclass(frozen=True)
class FactorStats(Statistics):
    """Sufficient statistics of a factor model; y is ``x - origin``, q = K + 1.

    Attributes
    ----------
    second : array of shape (d, q (q + 1) / 2) or (1, q (q + 1) / 2)
        Of each feature, the sum of the expected products of (z, 1) over rows where it
        was observed, the lower triangle row by row; one for all features of data that
        lack nothing.
    cross : array of shape (d, q)
        Sums of y times the expected (z, 1).
    square : array of shape (d,)
        Sums of y squared.
    divergence : float
        Of the posterior of the factors from their prior.
    """

    second: Array
    cross: Array
    square: Array
    divergence: float


@dataclasses.dataclass(frozen=True)
class FactorModel(Model[FactorParams, FactorStats]):
    r"""Rows as a few factors and noise, with EM of Rubin and Thayer (1982).

    .. math:: x = W z + \mu + e, \qquad z \sim N(0, I), \qquad e \sim N(0, \Psi)

    with a diagonal :math:`\Psi` (factor analysis), or with :math:`\sigma^2 I`
    (probabilistic principal components; Tipping and Bishop, 1999). NaN stands for what
    was not observed; given the observed features O of a row the factors are Gaussian,
    and with :math:`\tilde z = (z, 1)` and the rows :math:`\tilde w_j` of
    :math:`(W, \mu)` the bound is

    .. math:: F = -\tfrac12 \sum_j \Bigl( n_j \log 2\pi\psi_j
              + \frac{s_j - 2 c_j' \tilde w_j + \tilde w_j' A_j \tilde w_j}{\psi_j}
              \Bigr) - D

    with :math:`A_j = \sum \mathrm E \tilde z \tilde z'`, :math:`c_j = \sum x_j \mathrm
    E \tilde z` and :math:`s_j = \sum x_j^2` over the rows where feature j was observed,
    and the divergence D of the factors' posterior from their prior. The M-step is a
    least-squares fit per feature.

    Parameters
    ----------
    n_factors : int, default=1
        K.
    noise : {"diagonal", "isotropic"}, default="diagonal"
    noise_init : array of shape (d,), optional
        Noise variances to start from.
    """

    n_factors: int = 1
    noise: Noise = "diagonal"
    noise_init: Array | None = None

    # --------------------------------------------------------------- the data

    def survey(self, block: Block) -> FactorSummary:
        """Look at the values that are there."""
        return FactorSummary.of(block)  # type: ignore[return-value]

    def check(self, summary: FactorSummary) -> None:
        """Raise `ValueError` for features of which nothing was observed."""
        empty = np.flatnonzero(summary.counts == 0)
        if len(empty):
            named = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
            raise ValueError(
                f"{len(empty)} of the columns of X have no value in any row that "
                f"counts (column {named}, from 0); drop these columns."
            )

    def prepare(self, block: Block, summary: FactorSummary) -> Grouped:
        """Group rows by what they lack; add up products of those that lack the same."""
        return grouped(block, summary.mean, summary.n_missing == 0)

    # -------------------------------------------------------------- the start

    def start(
        self,
        summary: FactorSummary,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> FactorParams:
        """Return principal components of some rows, with means for missing values.

        For isotropic noise and all rows, that is the fit itself where nothing lacks.
        """
        scale = self._scale(summary)
        given = self.noise_init
        unit = scale if given is None else np.sqrt(given)
        values, vectors, variances = spectrum(
            sample, summary.mean, unit, self.n_factors, rng
        )
        left = summary.n_features - self.n_factors
        if given is not None:
            level = 1.0
        elif left:
            level = (variances.sum() - values.sum()) / left
        else:
            level = values[-1] / 2
        least = _START_LOADING * variances.mean() or _START_LOADING
        loadings = vectors * np.sqrt(np.maximum(values - level, least))
        if given is not None:
            noise = np.ones_like(scale)
        elif self.noise == "isotropic":
            noise = np.full_like(scale, level)
        else:
            rest = variances - np.square(loadings).sum(axis=1)
            noise = np.maximum(rest, _START_NOISE * variances)
        return FactorParams(
            loadings=loadings * unit[:, None],
            shift=np.zeros_like(scale),
            noise=self._floored(noise * unit**2, scale),
            origin=np.array(summary.mean),
            scale=scale,
        )

    def adopt(self, params: FactorParams, summary: FactorSummary) -> FactorParams:
        """Take moments about a point near these data."""
        return dataclasses.replace(
            params,
            shift=params.shift + (params.origin - summary.mean),
            origin=np.array(summary.mean),
            scale=self._scale(summary),
        )

    def _scale(self, summary: FactorSummary) -> Array:
        """Return standard deviations; a constant feature has that of all the others."""
        variance = summary.variance
        typical = variance.mean() or 1.0
        if self.noise == "isotropic":
            variance = np.full_like(variance, typical)
        return np.sqrt(np.where(variance > 0, variance, typical))

    def _floored(self, noise: Array, scale: Array) -> Array:
        return np.maximum(noise, NOISE_FLOOR * np.square(scale))

    # ----------------------------------------------------------- E- and M-step

    def e_step(
        self, params: FactorParams, prepared: Grouped, local: Any = None
    ) -> tuple[FactorStats, None]:
        """Return the statistics of some rows."""
        d, k = params.loadings.shape
        sums = Sums.zeros(d, k, prepared.complete)
        posterior = Posterior(params.loadings, params.shift, params.noise)
        with one_blas_thread():
            for moments in prepared.moments:
                posterior.add_moments(moments, sums)
            for rows in prepared.tiles(k * k):
                posterior.add_rows(rows, sums)
        return FactorStats(sums.second, sums.cross, sums.square, sums.divergence), None

    def m_step(self, params: FactorParams, stats: FactorStats) -> FactorParams:
        """Return a regression of each feature on the factors, and what it leaves."""
        second = _unpacked(stats.second, stats.cross.shape[1])
        if len(second) == 1:
            found = np.linalg.solve(second[0], stats.cross.T).T
        else:
            found = np.linalg.solve(second, stats.cross[:, :, None])[:, :, 0]
        rest = stats.square - np.sum(stats.cross * found, axis=1)
        counts = np.broadcast_to(stats.second[:, -1], rest.shape)
        if self.noise == "isotropic":
            noise = np.full_like(rest, rest.sum() / counts.sum())
        else:
            noise = rest / counts
        return dataclasses.replace(
            params,
            loadings=np.ascontiguousarray(found[:, :-1]),
            shift=np.ascontiguousarray(found[:, -1]),
            noise=self._floored(noise, params.scale),
        )

    def lower_bound(self, params: FactorParams, stats: FactorStats) -> float:
        """Return the bound on the log-likelihood."""
        augmented = np.column_stack([params.loadings, params.shift])
        rows, columns = np.tril_indices(augmented.shape[1])
        pairs = (
            augmented[:, rows]
            * augmented[:, columns]
            * np.where(rows == columns, 1.0, 2.0)
        )
        rest = (
            stats.square
            - 2 * np.sum(stats.cross * augmented, axis=1)
            + np.sum(stats.second * pairs, axis=1)
        )
        logs = stats.second[:, -1] * np.log(2 * np.pi * params.noise)
        return float(-0.5 * np.sum(logs + rest / params.noise) - stats.divergence)

    # ------------------------------------------------------------- coordinates

    @property
    def acceleration(self) -> Acceleration | None:
        """Anderson's: EM is slow where noise is much or factors are alike."""
        return Anderson()

    def pack(self, params: FactorParams) -> NDArray[np.float64]:
        """Return loadings, mean and noise in units of the data.

        Not logarithms of the noise: where it goes to zero, as in what is known as a
        Heywood case, they have far to go, and EM goes there slowly.
        """
        noise = params.noise / np.square(params.scale)
        return np.concatenate(
            [
                (params.loadings / params.scale[:, None]).ravel(),
                params.shift / params.scale,
                noise[:1] if self.noise == "isotropic" else noise,
            ]
        )

    def unpack(self, params: FactorParams, vector: Array) -> FactorParams:
        """Return parameters with the loadings, mean and noise of a vector.

        No noise falls by more than a factor: without any there is no way back.
        """
        d, k = params.loadings.shape
        noise = vector[d * k + d :] * np.square(params.scale)
        return dataclasses.replace(
            params,
            loadings=vector[: d * k].reshape(d, k) * params.scale[:, None],
            shift=vector[d * k : d * k + d] * params.scale,
            noise=self._floored(np.maximum(noise, _FALL * params.noise), params.scale),
        )


def _unpacked(packed: Array, size: int) -> Array:
    """Return symmetric matrices from their lower triangles."""
    rows, columns = np.tril_indices(size)
    matrices = np.empty((len(packed), size, size))
    matrices[:, rows, columns] = matrices[:, columns, rows] = packed
    return matrices
