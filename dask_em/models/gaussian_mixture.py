"""Gaussian mixtures with full, tied, diagonal or spherical covariances."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtri

from ..kernels import gaussian as kernels
from ..model import Block, MapReduce, Model, Summary
from ..reduction.base import LocalFit, Reduced, Reduction
from ..reduction.gaussians import reduce_gaussians
from ..statistics import Statistics
from .gaussian_coordinates import packed, unpacked
from .seeding import cluster, nearest, seeds

__all__ = [
    "CovarianceType",
    "GaussianMixtureModel",
    "GaussianMixtureParams",
    "GaussianMixtureStats",
    "precisions_cholesky_of",
]

Array = NDArray[np.floating[Any]]
CovarianceType = Literal["full", "tied", "diag", "spherical"]
InitParams = Literal["kmeans", "k-means++", "random", "random_from_data"]


@dataclasses.dataclass(frozen=True)
class GaussianMixtureParams:
    """Parameters of a Gaussian mixture with K components in d dimensions.

    Attributes
    ----------
    weights : array of shape (K,)
    means : array of shape (K, d)
    covariances : array of shape (K, d, d), (d, d), (K, d) or (K,)
        For full, tied, diagonal and spherical covariances.
    precisions_cholesky : array like `covariances`
        Upper triangular U with precision U U'; square roots where that is diagonal.
    reference : array of shape (K, d)
        Points about which the statistics' moments are taken, fixed during a fit.
        They lie near the means, so that moments do not cancel.
    origin : array of shape (d,)
        A point near the data.
    """

    weights: Array
    means: Array
    covariances: Array
    precisions_cholesky: Array
    reference: Array
    origin: Array


@dataclasses.dataclass(frozen=True)
class GaussianMixtureStats(Statistics):
    """Sufficient statistics of a Gaussian mixture.

    Attributes
    ----------
    counts : array of shape (K,)
        Sums of the responsibilities.
    first : array of shape (K, d)
        Sums of ``x - reference``, weighted by responsibility.
    second : array of shape (K, d, d), (d, d), (K, d) or (K,)
        Sums of products of ``x - reference``; of ``x - origin`` over all rows for
        tied covariances; over the features, too, for spherical ones.
    entropy : float
        Entropy of the responsibilities.
    """

    counts: Array
    first: Array
    second: Array
    entropy: float


@dataclasses.dataclass(frozen=True)
class _WithScatter:
    """Rows and their scatter about the origin, which tied covariances need."""

    block: Block
    scatter: Array

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return self.block.weight


@dataclasses.dataclass(frozen=True)
class GaussianMixtureModel(Model[GaussianMixtureParams, GaussianMixtureStats]):
    r"""A mixture of K Gaussians, as in scikit-learn.

    The bound is that of Neal and Hinton (1998),

    .. math:: F = \\sum_k N_k \\bigl(\\log\\pi_k
              + \\tfrac12\\log|\\Lambda_k| - \\tfrac d2\\log 2\\pi\\bigr)
              - \\tfrac12 \\mathrm{tr}(\\Lambda_k S_k) + H,

    with counts N, scatter matrices S about the means, precisions Λ and the entropy H
    of the responsibilities.

    Parameters
    ----------
    n_components : int, default=1
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
    reg_covar : float, default=1e-6
        Added to the variances by every M-step. The M-step maximises the bound for 0;
        a value above it makes the bound fall short of its maximum by a term of second
        order in it.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
    weights_init, means_init, precisions_init : array, optional
        Starting values that replace those found by `init_params`.
    reduction : Reduction, optional
        How local fits become one, see `dask_em.reduction.base.Reduction`.
    """

    n_components: int = 1
    covariance_type: CovarianceType = "full"
    reg_covar: float = 1e-6
    init_params: InitParams = "kmeans"
    weights_init: Array | None = None
    means_init: Array | None = None
    precisions_init: Array | None = None
    reduction: Any = None

    # --------------------------------------------------------------- the data

    @property
    def prepares(self) -> bool:
        """Whether `prepare` does anything."""
        return self.covariance_type == "tied"

    def check(self, summary: Summary) -> None:
        """Raise `ValueError` for fewer rows than components."""
        if summary.n_rows < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {summary.n_rows}; ask for fewer "
                "components."
            )

    def prepare(self, block: Block, summary: Summary) -> Any:
        """Compute the scatter matrix once, for tied covariances."""
        if self.covariance_type != "tied":
            return block
        d = summary.n_features
        scatter = np.zeros((d, d))
        for i in range(0, block.n_rows, 4096):
            rows = block.rows(slice(i, i + 4096))
            centred = rows.X - summary.mean
            scatter += (centred * rows.weights()[:, None]).T @ centred
        return _WithScatter(block, scatter)

    # -------------------------------------------------------------- the start

    def start(
        self,
        summary: Summary,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> GaussianMixtureParams:
        """Return the M-step of an assignment of rows, given starts put in place."""
        given = self.weights_init, self.means_init, self.precisions_init
        origin = np.asarray(summary.mean, dtype=np.float64)
        if all(value is not None for value in given):
            weights, means, precisions = (
                np.asarray(value, dtype=np.float64) for value in given
            )
            return self._with_precisions(
                weights, means, precisions, reference=means.copy(), origin=origin
            )
        # a sample sorted by rows is the whole of small data
        complete = bool(np.isclose(sample.weight, summary.weight, rtol=1e-9))
        if self.init_params == "random":
            params = self._start_at_random(
                origin, sample if complete else None, rng, mapreduce
            )
        else:
            params = self._start_at_centres(
                self._centres(sample, complete, rng, mapreduce), origin, mapreduce
            )
        if self.weights_init is not None:
            weights = np.asarray(self.weights_init, dtype=np.float64)
            params = dataclasses.replace(params, weights=weights)
        if self.means_init is not None:
            means = np.asarray(self.means_init, dtype=np.float64)
            params = dataclasses.replace(params, means=means, reference=means.copy())
        if self.precisions_init is not None:
            params = self._with_precisions(
                params.weights,
                params.means,
                np.asarray(self.precisions_init, dtype=np.float64),
                reference=params.reference,
                origin=origin,
            )
        return params

    def adopt(
        self, params: GaussianMixtureParams, summary: Summary
    ) -> GaussianMixtureParams:
        """Take moments about points near these data and these means."""
        return dataclasses.replace(
            params, reference=params.means.copy(), origin=np.array(summary.mean)
        )

    def _centres(
        self,
        sample: Block,
        complete: bool,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> Array:
        k = self.n_components
        if self.init_params == "random_from_data":
            X, w = np.asarray(sample.X, dtype=np.float64), sample.weights()
            enough = np.count_nonzero(w) >= k
            return X[rng.choice(len(X), size=k, replace=not enough, p=w / w.sum())]
        centres = seeds(k, sample, complete, rng, mapreduce)
        return cluster(centres, mapreduce) if self.init_params == "kmeans" else centres

    def _start_at_centres(
        self, centres: Array, origin: Array, mapreduce: MapReduce
    ) -> GaussianMixtureParams:
        """Give every row to its nearest centre, then run an M-step."""
        stats = mapreduce(_Hard(self, centres, origin))
        return self._estimate(stats, centres, origin)

    def _start_at_random(
        self,
        origin: Array,
        sample: Block | None,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> GaussianMixtureParams:
        """Draw every row's responsibilities at random, then run an M-step."""
        reference = np.tile(origin, (self.n_components, 1))
        assign = _AtRandom(self, reference, origin)
        if sample is None:
            stats = mapreduce(assign)
        else:
            stats = assign(self.prepare(sample, _Origin(origin)), rng)  # type: ignore[arg-type]
        return self._estimate(stats, reference, origin)

    # ----------------------------------------------------------- E- and M-step

    def e_step(
        self, params: GaussianMixtureParams, prepared: Any, local: Any = None
    ) -> tuple[GaussianMixtureStats, None]:
        """Return the statistics of some rows."""
        block = prepared.block if isinstance(prepared, _WithScatter) else prepared
        with np.errstate(divide="ignore"):
            log_weights = np.log(params.weights)
        arguments = (
            block.X,
            block.sample_weight,
            params.origin,
            log_weights,
            params.means,
            params.precisions_cholesky,
        )
        shift = params.means - params.reference
        if self.covariance_type == "tied":
            counts, first, log_likelihood = kernels.tied_e_step(*arguments)
            second = prepared.scatter
        else:
            e_step = {
                "full": kernels.full_e_step,
                "diag": kernels.diag_e_step,
                "spherical": kernels.spherical_e_step,
            }[self.covariance_type]
            counts, first, second, log_likelihood = e_step(*arguments)
            second = _shifted(second, first, counts, shift)
        first = first + counts[:, None] * shift
        stats = GaussianMixtureStats(counts, first, second, 0.0)
        entropy = float(log_likelihood - self.lower_bound(params, stats))
        return dataclasses.replace(stats, entropy=entropy), None

    def m_step(
        self, params: GaussianMixtureParams, stats: GaussianMixtureStats
    ) -> GaussianMixtureParams:
        """Return weighted means and covariances.

        Raises
        ------
        ValueError
            If a covariance is not positive definite.
        """
        return self._estimate(stats, params.reference, params.origin, params)

    def rebase(self, params: GaussianMixtureParams) -> GaussianMixtureParams:
        """Move the reference to the means where one has come far from it."""
        if not _far(params.means - params.reference, params.covariances).any():
            return params
        return dataclasses.replace(params, reference=params.means.copy())

    def reduce(
        self,
        fits: Sequence[LocalFit[GaussianMixtureParams]],
        support: Block,
        rng: np.random.Generator,
    ) -> Reduced[GaussianMixtureParams]:
        """Return the mixture that is nearest to several local ones.

        Closed forms need neither a support nor random numbers.
        """
        return reduce_gaussians(
            fits,
            self.n_components,
            self.covariance_type,
            self.reduction or Reduction(),
        )

    def _estimate(
        self,
        stats: GaussianMixtureStats,
        reference: Array,
        origin: Array,
        before: GaussianMixtureParams | None = None,
    ) -> GaussianMixtureParams:
        # an empty component keeps a trace of weight, small whatever the weights' scale
        least = 10 * np.finfo(np.float64).eps
        counts = stats.counts + least * min(1.0, stats.counts.sum() / len(reference))
        shift = stats.first / counts[:, None]
        means = reference + shift
        scatter = self._scatter(stats, shift, reference - origin)
        reg = self.reg_covar
        match self.covariance_type:
            case "full":
                covariances = scatter / counts[:, None, None]
                covariances = (covariances + covariances.swapaxes(1, 2)) / 2
                covariances[:, np.arange(len(origin)), np.arange(len(origin))] += reg
            case "tied":
                covariances = scatter / counts.sum()
                covariances = (covariances + covariances.T) / 2
                covariances[np.diag_indices(len(origin))] += reg
            case "diag":
                covariances = scatter / counts[:, None] + reg
            case "spherical":
                covariances = scatter / (counts * len(origin)) + reg
        if before is not None and self.covariance_type != "tied":
            # moments about a point so far away have no digits left for the spread:
            # keep it until they have been taken anew about the new mean
            lost = _far(shift, covariances, LOST) | _far(
                shift, before.covariances, LOST
            )
            covariances[lost] = before.covariances[lost]
        return GaussianMixtureParams(
            weights=counts / counts.sum(),
            means=means,
            covariances=covariances,
            precisions_cholesky=precisions_cholesky_of(
                covariances, self.covariance_type
            ),
            reference=reference,
            origin=origin,
        )

    def lower_bound(
        self, params: GaussianMixtureParams, stats: GaussianMixtureStats
    ) -> float:
        """Return the bound on the log-likelihood."""
        d = params.means.shape[1]
        U = params.precisions_cholesky
        shift = params.means - params.reference
        scatter = self._scatter(stats, shift, params.reference - params.origin)
        match self.covariance_type:
            case "full":
                half_log_det = np.log(np.diagonal(U, axis1=1, axis2=2)).sum(axis=1)
                distance = np.sum(np.matmul(scatter, U) * U)
            case "tied":
                half_log_det = np.full(self.n_components, np.log(np.diagonal(U)).sum())
                distance = np.sum((scatter @ U) * U)
            case "diag":
                half_log_det = np.log(U).sum(axis=1)
                distance = np.sum(scatter * np.square(U))
            case "spherical":
                half_log_det = d * np.log(U)
                distance = np.sum(scatter * np.square(U))
        with np.errstate(divide="ignore", invalid="ignore"):
            prior = np.where(
                stats.counts == 0, 0.0, stats.counts * np.log(params.weights)
            )
        constant = half_log_det - 0.5 * d * np.log(2 * np.pi)
        return float(
            prior.sum() + stats.counts @ constant - 0.5 * distance + stats.entropy
        )

    def _scatter(
        self, stats: GaussianMixtureStats, shift: Array, offset: Array
    ) -> Array:
        """Move the second moments to points that lie `shift` from the reference."""
        if self.covariance_type != "tied":
            return _shifted(stats.second, stats.first, stats.counts, -shift)
        # about the origin: sum_k N_k m m' - s m' - m s' with s the first moments
        first = stats.first + stats.counts[:, None] * offset
        means = shift + offset
        cross = first.T @ means
        return stats.second + (means.T * stats.counts) @ means - cross - cross.T

    # ------------------------------------------------------------- coordinates

    def _coordinates(self, params: GaussianMixtureParams) -> dict[str, Any]:
        """Return how parameters are packed; the same throughout a fit."""
        spread = np.sqrt(np.mean((params.reference - params.origin) ** 2))
        return {
            "full": self.covariance_type in ("full", "tied"),
            "scale": float(spread) or 1.0,
        }

    def pack(self, params: GaussianMixtureParams) -> NDArray[np.float64]:
        """Return weights, means and covariances as a vector."""
        means = params.means - params.origin
        return packed(
            params.weights, means, params.covariances, **self._coordinates(params)
        )

    def unpack(
        self, params: GaussianMixtureParams, vector: Array
    ) -> GaussianMixtureParams:
        """Return parameters with the weights, means and covariances of a vector."""
        weights, means, covariances = unpacked(
            vector, params.means, params.covariances, **self._coordinates(params)
        )
        return dataclasses.replace(
            params,
            weights=weights,
            means=params.origin + means,
            covariances=covariances,
            precisions_cholesky=precisions_cholesky_of(
                covariances, self.covariance_type
            ),
        )

    def _with_precisions(
        self,
        weights: Array,
        means: Array,
        precisions: Array,
        *,
        reference: Array,
        origin: Array,
    ) -> GaussianMixtureParams:
        """Return parameters with given precisions, which need not be means' own."""
        if self.covariance_type in ("full", "tied"):
            covariances = np.linalg.inv(precisions)
            upper = _upper_factor(precisions)
        else:
            covariances, upper = 1.0 / precisions, np.sqrt(precisions)
        return GaussianMixtureParams(
            weights, means, covariances, upper, reference, origin
        )


def precisions_cholesky_of(
    covariances: Array, covariance_type: CovarianceType
) -> Array:
    """Return the factors U with U U' = inverse of the covariance.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    if covariance_type in ("diag", "spherical"):
        if not (covariances > 0).all():
            raise ValueError(_ILL_DEFINED)
        return 1.0 / np.sqrt(covariances)
    try:
        lower = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        raise ValueError(_ILL_DEFINED) from None
    if not np.isfinite(lower).all():
        raise ValueError(_ILL_DEFINED)
    if covariances.ndim == 2:
        return _inverse(lower).T
    return np.stack([_inverse(factor).T for factor in lower])


def _inverse(lower: Array) -> Array:
    """Invert a triangular matrix.

    LAPACK's own routine: for small matrices the call costs more than the work.
    """
    inverse, info = dtrtri(lower, lower=1)
    if info != 0:
        raise ValueError(_ILL_DEFINED)
    return np.asarray(inverse)


#: Squared distance of a mean from its reference, in units of its variance, above which
#: moments are taken anew about the mean, and above which they are of no use.
FAR = 1e6
LOST = 1e10


def _far(shift: Array, covariances: Array, limit: float = FAR) -> NDArray[np.bool_]:
    """Return which means have come too far for the variance of any feature."""
    k, d = shift.shape
    if covariances.shape == (k, d, d):
        variances = np.diagonal(covariances, axis1=1, axis2=2)
    elif covariances.shape == (d, d) and covariances.shape != (k, d):
        variances = np.diagonal(covariances)[None, :]
    elif covariances.shape == (k, d):
        variances = covariances
    else:
        variances = covariances[:, None]
    return np.asarray((np.square(shift) > limit * np.abs(variances)).any(axis=1))


_ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined "
    "empirical covariance (for instance caused by singleton or collapsed samples). "
    "Try to decrease the number of components, or increase reg_covar, or scale the "
    "input data."
)


def _upper_factor(precisions: Array) -> Array:
    """Return upper triangular U with U U' = precision."""
    flipped = precisions[..., ::-1, ::-1]
    return np.ascontiguousarray(np.linalg.cholesky(flipped)[..., ::-1, ::-1])


def _shifted(second: Array, first: Array, counts: Array, shift: Array) -> Array:
    """Move second moments from points p to points p - shift."""
    if second.ndim == 3:
        cross = first[:, :, None] * shift[:, None, :]
        outer = shift[:, :, None] * shift[:, None, :]
        return second + cross + cross.swapaxes(1, 2) + counts[:, None, None] * outer
    moved = 2 * first * shift + counts[:, None] * np.square(shift)
    return second + (moved if second.ndim == 2 else moved.sum(axis=1))


# functions that travel to the rows ------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Origin:
    """As much of a summary as `prepare` needs."""

    mean: Array

    @property
    def n_features(self) -> int:
        return len(self.mean)


@dataclasses.dataclass(frozen=True)
class _Hard:
    """Statistics of rows that belong to their nearest centre alone."""

    model: GaussianMixtureModel
    centres: Array
    origin: Array

    def __call__(self, prepared: Any, rng: np.random.Generator) -> GaussianMixtureStats:
        def responsibilities(X: Array) -> Array:
            member = np.zeros((len(X), len(self.centres)))
            member[np.arange(len(X)), nearest(X, self.centres)[0]] = 1.0
            return member

        return _moments(self.model, prepared, self.centres, responsibilities)


@dataclasses.dataclass(frozen=True)
class _AtRandom:
    """Statistics of rows with responsibilities drawn at random."""

    model: GaussianMixtureModel
    reference: Array
    origin: Array

    def __call__(self, prepared: Any, rng: np.random.Generator) -> GaussianMixtureStats:
        def responsibilities(X: Array) -> Array:
            drawn = rng.random((len(X), len(self.reference)))
            return drawn / drawn.sum(axis=1, keepdims=True)

        return _moments(self.model, prepared, self.reference, responsibilities)


def _moments(
    model: GaussianMixtureModel, prepared: Any, reference: Array, assign: Any
) -> GaussianMixtureStats:
    """Return statistics about the reference for given responsibilities.

    The entropy is left out: these are for a first M-step, not for the bound.
    """
    block = prepared.block if isinstance(prepared, _WithScatter) else prepared
    k, d = reference.shape
    kind = model.covariance_type
    shape = {"full": (k, d, d), "diag": (k, d), "spherical": (k,)}.get(kind, (d, d))
    counts, first, second = np.zeros(k), np.zeros((k, d)), np.zeros(shape)
    for i in range(0, block.n_rows, 2048):
        rows = block.rows(slice(i, i + 2048))
        X = np.asarray(rows.X, dtype=np.float64)
        resp = assign(X) * rows.weights()[:, None]
        counts += resp.sum(axis=0)
        for j in range(k):
            mine = np.flatnonzero(resp[:, j])
            Y, r = X[mine] - reference[j], resp[mine, j]
            first[j] += r @ Y
            if kind == "full":
                second[j] += (Y * r[:, None]).T @ Y
            elif kind == "diag":
                second[j] += r @ np.square(Y)
            elif kind == "spherical":
                second[j] += float(r @ np.square(Y).sum(axis=1))
    if kind == "tied":
        second = prepared.scatter
    return GaussianMixtureStats(counts, first, second, 0.0)
