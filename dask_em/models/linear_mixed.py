"""Linear mixed models: EM and its accelerated kin on statistics of one version."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

from ..acceleration import Acceleration, Anderson
from ..grouping.rows import Factor
from ..grouping.table import GroupTable, Totals
from ..kernels.grouped import sum_groups
from ..kernels.threads import one_blas_thread
from ..model import Block, MapReduce, Model
from ..statistics import Statistics

__all__ = [
    "Algorithm",
    "LinearMixedModelECME",
    "MixedParams",
    "MixedStats",
    "Posterior",
    "Structure",
]

Array = NDArray[Any]
Algorithm = Literal["em", "ecme", "px_ecme"]

#: Shared effects from which the threads of BLAS pay.
LARGE = 2000
_EPS = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True)
class Structure:
    """Which effects a mixed model has.

    Parameters
    ----------
    inner : Factor
        The factor whose groups the tables hold.
    n_groups : int
    outer : tuple of Factor
        The others, whose effects all groups share.
    levels : tuple of int
        Numbers of groups of the others.
    n_fixed : int
    """

    inner: Factor
    n_groups: int
    outer: tuple[Factor, ...]
    levels: tuple[int, ...]
    n_fixed: int

    @property
    def n_coupled(self) -> int:
        """Effects of the outer factors."""
        return sum(f.n_random * n for f, n in zip(self.outer, self.levels, strict=True))

    @property
    def factors(self) -> tuple[Factor, ...]:
        """All factors, the inner one first."""
        return (self.inner, *self.outer)

    @property
    def n_theta(self) -> int:
        """Number of free entries of the Cholesky factors."""
        return sum(f.n_theta for f in self.factors)

    def slices(self) -> list[slice]:
        """Return where the outer factors' effects are."""
        sizes = [f.n_random * n for f, n in zip(self.outer, self.levels, strict=True)]
        ends = np.cumsum(sizes)
        return [slice(int(e - s), int(e)) for s, e in zip(sizes, ends, strict=True)]

    def factors_of(self, theta: Array) -> list[Array]:
        """Return the Cholesky factors, relative to sigma, of packed entries."""
        found, at = [], 0
        for factor in self.factors:
            L = np.zeros((factor.n_random, factor.n_random))
            L[factor.lower] = theta[at : at + factor.n_theta]
            at += factor.n_theta
            found.append(L)
        return found

    def packed(self, factors: list[Array]) -> Array:
        """Return the free entries of Cholesky factors."""
        return np.concatenate(
            [L[f.lower] for f, L in zip(self.factors, factors, strict=True)]
        )


@dataclasses.dataclass(frozen=True)
class MixedParams:
    r"""Parameters of a mixed model, in the coordinates of a `Basis`.

    Parameters
    ----------
    theta : array of shape (n_theta,)
        Lower triangles of the Cholesky factors of the covariances of the random
        effects, divided by :math:`\sigma`, factor after factor.
    sigma2 : float
        Residual variance.
    mean : array of shape (n_coupled + p,)
        Posterior mean of the outer factors' effects, then the fixed effects.
    cov : array of shape (n_coupled + p, n_coupled + p)
        Their posterior covariance, divided by :math:`\sigma^2`; under a flat prior
        for the fixed effects, that is the covariance of their estimate.
    """

    theta: Array
    sigma2: float
    mean: Array
    cov: Array


@dataclasses.dataclass(frozen=True)
class MixedStats(Statistics):
    """Sums over groups, all at the same Cholesky factors.

    See `dask_em.kernels.grouped.sum_groups` for the letters.

    Parameters
    ----------
    n_groups : float
    log_det : float
        Of I + K.
    explained : array of shape (w, w)
        (L'R)'N(L'R).
    products : array of shape (q, w, q, w)
        Of N L'R with itself.
    precision : array of shape (q, q)
        N.
    expansion : array of shape (q, q, q, q)
        Of K with E[u u'], in units of sigma^2; empty where it is not needed.
    """

    n_groups: float
    log_det: float
    explained: Array
    products: Array
    precision: Array
    expansion: Array


@dataclasses.dataclass(frozen=True)
class Posterior:
    """What the statistics of all groups say of the effects that they share.

    Attributes
    ----------
    mean : array of shape (n_coupled + p,)
    cov : array of shape (n_coupled + p, n_coupled + p)
        In units of sigma^2, the fixed effects' uncertainty included.
    cov_known : array of shape (n_coupled, n_coupled)
        The same of the outer effects for known fixed effects.
    rss : float
        Weighted sum of squares that sigma^2 is estimated from.
    log_det, log_det_fixed : float
        Of the covariance of y, relative, and of X' inv(it) X.
    """

    mean: Array
    cov: Array
    cov_known: Array
    rss: float
    log_det: float
    log_det_fixed: float


@dataclasses.dataclass(frozen=True)
class LinearMixedModelECME(Model[MixedParams, MixedStats]):
    r"""A linear mixed model, by steps that climb the likelihood itself.

    .. math:: y = X \beta + \sum_f Z_f b_f + e, \qquad
              b_f \sim N(0, \sigma^2 L_f L_f'), \quad e \sim N(0, \sigma^2 W^{-1}).

    One E-step gives everything an iteration needs: the profiled (restricted)
    likelihood, :math:`\beta` and :math:`\sigma^2` that maximise it for these L
    (ECME; Liu and Rubin, 1994), the expected squares of the random effects, and with
    ``algorithm="px_ecme"`` the regression on expanded effects (Liu, Rubin and Wu,
    1998), which keeps the pace where variances are small and reaches zero.

    Parameters
    ----------
    structure : Structure
    reml : bool
        Restricted likelihood.
    algorithm : {"em", "ecme", "px_ecme"}
    log_offset : float
        Added to the log-likelihood: Jacobian of the coordinates and of weights.
    weight : float
        Number of observations.
    starts : tuple of tuple of float
        Packed Cholesky factors to start from, in turn; random effects as large as the
        residuals where there are none.
    totals : Totals, optional
        W'W of all rows, which only the driver has.
    """

    structure: Structure
    reml: bool
    algorithm: Algorithm
    log_offset: float
    weight: float
    starts: tuple[tuple[float, ...], ...] = ()
    totals: Totals | None = dataclasses.field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the totals at home: workers do not need them."""
        return {**self.__dict__, "totals": None, "_memo": None, "_bound": None}

    @property
    def one_version(self) -> bool:
        """Yes."""
        return True

    @property
    def acceleration(self) -> Acceleration:
        """Anderson's, by default."""
        return Anderson()

    def mixable(self) -> Any:
        """Return plain EM, whose statistics mix."""
        from .linear_mixed_em import LinearMixedModelEM

        return LinearMixedModelEM(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        )

    # ------------------------------------------------------------------- the data

    def survey(self, block: Block) -> GroupSummary:
        """Count."""
        return GroupSummary.of(block.X)

    def adopt(self, params: MixedParams, summary: Any) -> MixedParams:
        """Check that parameters found elsewhere are of this structure."""
        s = self.structure
        n = s.n_coupled + s.n_fixed
        shapes = np.shape(params.theta), np.shape(params.mean), np.shape(params.cov)
        if shapes != ((s.n_theta,), (n,), (n, n)):
            raise ValueError(
                "the parameters to start from are those of another mixed model; start "
                "from ones with the same fixed effects, random terms and factors."
            )
        return params

    def start(
        self,
        summary: Any,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> MixedParams:
        """Begin at the given factors, or with effects as large as the residuals."""
        s = self.structure
        c, p = s.n_coupled, s.n_fixed
        theta = s.packed([np.eye(f.n_random) for f in s.factors])
        if self.starts:
            # every start of a fit has a child of its seed, numbered from 0
            number = rng.bit_generator.seed_seq.spawn_key[-1]  # type: ignore[attr-defined]
            theta = np.array(self.starts[number % len(self.starts)])
        return MixedParams(
            theta,
            0.5,
            np.zeros(c + p),
            # of the prior, and of least squares in orthonormal columns
            np.diag(np.repeat([1.0, 1.0 / self.weight], [c, p])),
        )

    # --------------------------------------------------------------------- E-step

    def e_step(
        self, params: MixedParams, prepared: Block, local: Any = None
    ) -> tuple[MixedStats, None]:
        """Return the sums over some groups."""
        expand = self.algorithm == "px_ecme"
        stats = group_sums(self.structure, params, prepared.X, self.reml, expand)
        return stats, None

    # --------------------------------------------------------------------- M-step

    def posterior(self, params: MixedParams, stats: MixedStats) -> Posterior:
        """Return the posterior of what the groups share, at the parameters' L."""
        # statistics of one version belong to the parameters that come with them first;
        # the bound is asked for again with those that follow
        memo = self.__dict__.get("_memo")
        if memo is None or memo[0] is not stats:
            small = self.structure.n_coupled < LARGE
            with one_blas_thread() if small else nullcontext():
                memo = stats, self._posterior(params, stats)
            self.__dict__["_memo"] = memo
        found: Posterior = memo[1]
        return found

    def _posterior(self, params: MixedParams, stats: MixedStats) -> Posterior:
        s, totals = self.structure, self.totals
        assert totals is not None
        c, p = s.n_coupled, s.n_fixed
        T = totals.products - stats.explained
        T = (T + T.T) / 2
        _, *outer = s.factors_of(params.theta)
        scaled = self._scaled(outer, T)
        K = scaled.copy()
        K[np.arange(c), np.arange(c)] += 1.0
        factor, info = lapack.dpotrf(K[: c + p, : c + p], lower=1)
        if info:
            raise np.linalg.LinAlgError("the fixed effects are not identified")
        diagonal = np.log(np.diag(factor))
        right = K[: c + p, -1]
        half = solve_triangular(factor, right, lower=True)
        mean = solve_triangular(factor, half, lower=True, trans=1)
        known = _inverse_of(factor[:c, :c])
        fixed = _inverse_of(factor[c:, c:])
        across = known @ K[:c, c : c + p]
        cov = np.block(
            [
                [known + across @ fixed @ across.T, -across @ fixed],
                [-fixed @ across.T, fixed],
            ]
        )
        # a sum of squares cannot fall below its own rounding
        rss = max(float(K[-1, -1] - half @ half), _EPS * _EPS * float(K[-1, -1]))
        return Posterior(
            mean=self._unscaled(outer, mean),
            cov=self._unscaled(outer, self._unscaled(outer, cov).T).T,
            cov_known=self._unscaled(outer, self._unscaled(outer, known).T).T,
            rss=max(rss, np.finfo(float).tiny),
            log_det=stats.log_det + 2 * float(diagonal[:c].sum()),
            log_det_fixed=2 * float(diagonal[c:].sum()),
        )

    def _blocks(self, outer: list[Array]) -> list[tuple[slice, Array, int]]:
        levels = self.structure.levels
        return list(zip(self.structure.slices(), outer, levels, strict=True))

    def _scaled(self, outer: list[Array], T: Array) -> Array:
        """Return the matrix for effects in units of their standard deviations."""
        found = T.copy()
        for at, L, n in self._blocks(outer):
            rows = found[at].reshape(n, len(L), -1)
            found[at] = np.einsum("ba,nbw->naw", L, rows).reshape(n * len(L), -1)
            columns = found[:, at].reshape(-1, n, len(L))
            found[:, at] = np.einsum("wnb,ba->wna", columns, L).reshape(len(T), -1)
        return found

    def _unscaled(self, outer: list[Array], effects: Array) -> Array:
        """Return effects (along the first axis) in their own units."""
        found = effects.copy()
        for at, L, n in self._blocks(outer):
            rows = found[at].reshape(n, len(L), -1)
            shape = found[at].shape
            found[at] = np.einsum("ab,nbw->naw", L, rows).reshape(shape)
        return found

    def _sigma2(self, posterior: Posterior) -> float:
        """Return the residual variance that maximises the likelihood."""
        return posterior.rss / self._dof

    @property
    def _dof(self) -> float:
        return self.weight - self.reml * self.structure.n_fixed

    def lower_bound(self, params: MixedParams, stats: MixedStats) -> float:
        """Return the log-likelihood where the statistics were computed.

        NaN where that cannot be told, for lack of digits.
        """
        memo = self.__dict__.get("_bound")
        if memo is None or memo[0] is not stats:
            try:
                memo = stats, self._log_likelihood(params, stats)
            except np.linalg.LinAlgError:
                memo = stats, float("nan")
            self.__dict__["_bound"] = memo
        value: float = memo[1]
        return value

    def _log_likelihood(self, params: MixedParams, stats: MixedStats) -> float:
        found = self.posterior(params, stats)
        profiled = self.algorithm != "em"
        sigma2 = self._sigma2(found) if profiled else params.sigma2
        value = self._dof * np.log(2 * np.pi * sigma2) + found.log_det
        value += found.rss / sigma2
        if self.reml:
            value += found.log_det_fixed
        return float(self.log_offset - value / 2)

    def m_step(self, params: MixedParams, stats: MixedStats) -> MixedParams:
        """Return the next parameters; see the class for how."""
        return self._step(params, stats, expand=self.algorithm == "px_ecme")

    def safe_step(self, params: MixedParams, stats: MixedStats) -> MixedParams:
        """Return ECME's step, which never lowers the likelihood."""
        return self._step(params, stats, expand=False)

    def _step(
        self, params: MixedParams, stats: MixedStats, *, expand: bool
    ) -> MixedParams:
        s, c = self.structure, self.structure.n_coupled
        found = self.posterior(params, stats)
        sigma2 = params.sigma2 if self.algorithm == "em" else self._sigma2(found)
        moments = shared_moments(found, sigma2, c, self.reml)
        inner, *outer = s.factors_of(params.theta)
        squares = np.tensordot(stats.products, moments, axes=((1, 3), (0, 1)))
        squares = squares + stats.precision
        stepped = [
            _covariance_step(
                s.inner, inner, squares, s.n_groups, stats.expansion if expand else None
            )
        ]
        for factor, (at, L, n) in zip(s.outer, self._blocks(outer), strict=True):
            q = len(L)
            own = _level_moments(moments[at, at], n, q)
            grams = _level_moments(self._products[at, at], n, q)
            stepped.append(_shared_step(factor, L, own, grams, expand=expand))
        new_sigma2 = sigma2
        if self.algorithm == "em":
            new_sigma2 = self._expected_error(stats, moments, sigma2)
            shrink = np.sqrt(sigma2 / new_sigma2)
            stepped = [L * shrink for L in stepped]
        return MixedParams(s.packed(stepped), new_sigma2, found.mean, found.cov)

    @property
    def _products(self) -> Array:
        assert self.totals is not None
        return self.totals.products

    def _expected_error(
        self, stats: MixedStats, moments: Array, sigma2: float
    ) -> float:
        """Return the complete-data estimate of the residual variance."""
        twice = np.einsum("awaz->wz", stats.products)
        left = self._products - stats.explained - twice
        q = self.structure.inner.n_random
        trace = q * stats.n_groups - np.trace(stats.precision)
        return sigma2 * float(np.sum(left * moments) + trace) / self.weight

    def complete(self, params: MixedParams, stats: MixedStats) -> MixedParams:
        """Return the effects and the residual variance at the final covariances."""
        found = self.posterior(params, stats)
        sigma2 = params.sigma2 if self.algorithm == "em" else self._sigma2(found)
        return MixedParams(params.theta, sigma2, found.mean, found.cov)

    # ---------------------------------------------------------------- coordinates

    def pack(self, params: MixedParams) -> Array:
        """Return the Cholesky factors, and for EM the residual variance."""
        if self.algorithm == "em":
            return np.append(params.theta, np.log(params.sigma2))
        return params.theta

    def unpack(self, params: MixedParams, vector: Array) -> MixedParams:
        """Return parameters with these Cholesky factors."""
        if self.algorithm == "em":
            return dataclasses.replace(
                params, theta=vector[:-1], sigma2=float(np.exp(vector[-1]))
            )
        return dataclasses.replace(params, theta=vector)


@dataclasses.dataclass(frozen=True)
class GroupSummary:
    """How many groups there are, how many observations, and a sum of squares."""

    n_rows: int
    weight: float
    squares: float

    @classmethod
    def of(cls, table: GroupTable) -> GroupSummary:
        """Survey a table."""
        arrays = (table.sizes, table.gram, table.cross, table.couplings)
        squares = sum(float(np.vdot(a, a)) for a in arrays)
        return cls(len(table), float(table.sizes.sum()), squares)

    def __add__(self, other: GroupSummary) -> GroupSummary:
        """Return the sums."""
        return GroupSummary(
            self.n_rows + other.n_rows,
            self.weight + other.weight,
            self.squares + other.squares,
        )

    @property
    def fingerprint(self) -> dict[str, float]:
        """What tells the groups of other data from these."""
        return dataclasses.asdict(self)


def group_sums(
    structure: Structure,
    params: MixedParams,
    table: GroupTable,
    reml: bool,
    expand: bool,
) -> MixedStats:
    """Return the sums over the groups of a table.

    Parameters
    ----------
    expand : bool
        Whether the sums for expanded parameters are wanted.
    """
    c, p, q = structure.n_coupled, structure.n_fixed, structure.inner.n_random
    w = c + p + 1
    L = structure.factors_of(params.theta)[0]
    mean = np.append(-params.mean, 1.0) / np.sqrt(params.sigma2)
    cov = params.cov
    if expand and not reml:
        cov = cov.copy()
        cov[c:] = cov[:, c:] = 0.0
    explained = np.zeros((w, w))
    products = np.zeros((q, w, q, w))
    precision = np.zeros((q, q))
    expansion = np.zeros((q, q, q, q) if expand else (0, 0, 0, 0))
    log_det = sum_groups(
        table.gram,
        table.cross,
        table.indptr,
        table.columns,
        table.couplings,
        L,
        mean,
        cov,
        c,
        explained,
        products,
        precision,
        expansion,
    )
    return MixedStats(
        float(len(table)), log_det, explained, products, precision, expansion
    )


def shared_moments(found: Posterior, sigma2: float, c: int, reml: bool) -> Array:
    """Return E[v v'] / sigma^2 for v = (-gamma, 1), shape (w, w)."""
    v = np.append(-found.mean, 1.0)
    moments = np.outer(v, v) / sigma2
    if reml:
        moments[:-1, :-1] += found.cov
    else:
        moments[:c, :c] += found.cov_known
    return moments


def _level_moments(matrix: Array, n: int, q: int) -> Array:
    """Return the diagonal blocks of a matrix, shape (n, q, q)."""
    blocks = matrix.reshape(n, q, n, q)
    at = np.arange(n)
    return blocks[at, :, at, :]


def _shared_step(
    factor: Factor, L: Array, own: Array, grams: Array, *, expand: bool
) -> Array:
    """Return the new Cholesky factor of an outer factor.

    Parameters
    ----------
    own : array of shape (n, q, q)
        E[b b'] / sigma^2 of every level.
    grams : array of shape (n, q, q)
        Z'Z of every level.
    """
    if not expand:
        return cholesky(own.mean(axis=0) * factor.pattern)
    # in units of the standard deviations, where L can be inverted
    keep = np.abs(np.diag(L)) > 1e-150
    if not keep.all():
        return cholesky(own.mean(axis=0) * factor.pattern)
    half = solve_triangular(L, own.swapaxes(0, 1).reshape(len(L), -1), lower=True)
    half = half.reshape(len(L), len(own), len(L)).transpose(1, 2, 0)
    whole = solve_triangular(L, half.swapaxes(0, 1).reshape(len(L), -1), lower=True)
    units = whole.reshape(len(L), len(own), len(L)).transpose(1, 2, 0)
    shapes = np.einsum("ba,nbc,cd->nad", L, grams, L)
    expansion = np.einsum("nab,ncd->abcd", shapes, units)
    return _covariance_step(factor, L, units.sum(axis=0), len(own), expansion)


def _covariance_step(
    factor: Factor, L: Array, squares: Array, n: float, expansion: Array | None
) -> Array:
    r"""Return the new Cholesky factor of a factor's covariance.

    Without expansion that is the one of :math:`L \, E[u u'] L'`. With it, u is
    multiplied by the matrix A first that a regression of y on the effects gives.

    Parameters
    ----------
    squares : array of shape (q, q)
        Sum of E[u u'] / sigma^2.
    n : float
        Number of groups.
    expansion : array of shape (q, q, q, q), optional
        Sum of products of L'Z'ZL and E[u u'] / sigma^2.
    """
    pattern = factor.pattern
    A = np.eye(len(L))
    if expansion is not None:
        a, b = np.nonzero(pattern)
        normal = expansion[a[:, None], a[None], b[:, None], b[None]]
        score = (squares - n * np.eye(len(L)))[a, b]
        scales = np.sqrt(np.maximum(np.diag(normal), 1e-300))
        solution = np.linalg.lstsq(
            normal / scales[:, None] / scales, score / scales, rcond=1e-12
        )[0]
        A[a, b] += solution / scales
    LA = L @ A
    return cholesky(LA @ (squares * pattern / n) @ LA.T)


def _inverse_of(factor: Array) -> Array:
    """Return the inverse of a matrix, given its lower Cholesky factor."""
    if not len(factor):
        return np.eye(0)
    lower, _ = lapack.dpotri(factor, lower=1)
    lower = np.tril(lower)
    found: Array = lower + np.tril(lower, -1).T
    return found


def cholesky(D: Array) -> Array:
    """Return the Cholesky factor of a covariance that may be singular."""
    q = len(D)
    L = np.zeros((q, q))
    for j in range(q):
        rest = D[j, j] - L[j, :j] @ L[j, :j]
        if rest > 0:
            L[j, j] = np.sqrt(rest)
            L[j + 1 :, j] = (D[j + 1 :, j] - L[j + 1 :, :j] @ L[j, :j]) / L[j, j]
    return L
