"""Mixtures of experts: one family of experts, one softmax gate."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...acceleration import Acceleration, Anderson
from ...kernels.threads import one_blas_thread
from ...model import Block, MapReduce, Model
from ...statistics import Statistics
from . import softmax
from .algebra import Grams
from .coordinates import packed, unpacked
from .families import Family
from .gaussian import Gaussian
from .multinomial import Multinomial
from .params import Design, ExpertsParams, Frame
from .poisson import Poisson
from .starts import start_of
from .summary import JointSummary, columns_of

__all__ = ["ExpertsStats", "GateStats", "MixtureOfExpertsEM", "MixtureOfExpertsModel"]

Array = NDArray[np.float64]

#: Rows of a tile, and numbers that the products of columns in it may take: what lies
#: between two products of matrices stays in cache.
_LEAST_TILE, _MOST_TILE = 2048, 8192
_CACHE = 500_000
#: Rows that a gate is in doubt about below which it separates components.
_CERTAIN = 0.5
#: Rows, less coefficients, that an expert must have been given to be a sound one.
_SPARE = 1.0
#: Rows per coefficient up to which an expert of the least variance has collapsed.
_FEW_FITS = 3.0


@dataclasses.dataclass(frozen=True)
class GateStats(Statistics):
    """Gradient and curvature of the gate's softmax regression.

    Attributes
    ----------
    linear : array of shape (K, g)
        The gradient; for EM's bound, plus the curvature times where it was taken.
    gram : array of shape (g, g)
        Weighted sum of z z'.
    hessian : array of shape (K (K - 1) / 2, g, g)
        Blocks of minus the Hessian; of no size for EM's bound.
    """

    linear: Array
    gram: Array
    hessian: Array


@dataclasses.dataclass(frozen=True)
class ExpertsStats(Statistics):
    """Statistics of a mixture of experts.

    Attributes
    ----------
    gate : GateStats
    experts : Statistics
        Of the family.
    counts : array of shape (K,)
        Sums of the responsibilities.
    constant : float
        The log-likelihood where the statistics were computed; for EM's bound, less
        what the bound says of the other statistics.
    penalised : float
        The ridges' penalty where they were computed, times the weight of the rows.
    """

    gate: GateStats
    experts: Any
    counts: Array
    constant: float
    penalised: float


@dataclasses.dataclass(frozen=True)
class MixtureOfExpertsModel(Model[ExpertsParams, ExpertsStats]):
    r"""A mixture of K experts with a softmax gate.

    .. math:: p(y \mid x) = \sum_k \pi_k(x)\, \phi_k(y \mid x), \qquad
              \pi_k(x) = \frac{e^{\alpha_{k0} + \alpha_k^\top x}}
                              {\sum_j e^{\alpha_{j0} + \alpha_j^\top x}}

    (Jacobs, Jordan, Nowlan and Hinton, 1991). Experts are updated by their M-step, the
    gate, and experts without a closed form, by one Newton step on the exact curvature,
    under the driver's safeguard on the likelihood. `mixable` has the bounds that add
    up over parameters of different age.

    Parameters
    ----------
    n_components : int
    family : Family
    design : Design
    equal_weights : bool
        Whether the gate gives all components the same probability.
    reg_gate : float
        Ridge on the slopes of the gate, in standard units.
    var_floor : float
        Least variance of a Gaussian or Student-t expert, in units of the response's.
    n_starts : int
        Random starts that are tried on a sample.
    init : {"hyperplanes", "kmeans"}
    reduction : Reduction, optional
        How local fits become one, see `dask_em.reduction`.
    """

    n_components: int
    family: Family = dataclasses.field(default_factory=Gaussian)
    design: Design = dataclasses.field(default_factory=lambda: Design((0,), (0,)))
    equal_weights: bool = False
    # a checkpoint serves other settings of these as well
    reg_gate: float = dataclasses.field(default=0.0, metadata={"free": True})
    var_floor: float = 1e-8
    n_starts: int = dataclasses.field(default=10, metadata={"free": True})
    init: str = dataclasses.field(default="hyperplanes", metadata={"free": True})
    reduction: Any = dataclasses.field(default=None, metadata={"free": True})

    # --------------------------------------------------------------- the data

    def survey(self, block: Block) -> JointSummary:
        """Return moments and ranges of rows and responses."""
        found: Any = JointSummary.of(block)
        return found

    def check(self, summary: JointSummary) -> None:
        """Raise `ValueError` for too few rows, or responses the family cannot have."""
        if summary.n_rows < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {summary.n_rows}; ask for fewer "
                "components."
            )
        d = summary.n_features
        self.family.check(summary.minimum[d:], summary.maximum[d:])

    def start(
        self,
        summary: JointSummary,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> ExpertsParams:
        """Return the best of several short fits to a sample."""
        return start_of(self, summary, sample, rng)

    def blank(self, summary: JointSummary) -> ExpertsParams:
        """Return parameters in the units of some data, before any row was seen."""
        k, d = self.n_components, self.design
        p, g = len(d.experts) + 1, len(d.gate) + 1
        q = self.family.n_predictors(summary.n_targets)
        reach = np.append(1.0, summary.reach()[list(d.experts)])
        return ExpertsParams(
            gate=np.zeros((k, g)),
            coef=np.zeros((k, q, p)),
            counts=np.zeros(k),
            doubt=np.zeros(0),
            reach=reach if isinstance(self.family, Poisson) else np.zeros(0),
            x_correlation=summary.correlation(),
            **self.family.initial(k, q, p),
            **vars(Frame.of(summary, responses=self.family.standardises)),
        )

    def adopt(self, params: ExpertsParams, summary: JointSummary) -> ExpertsParams:
        """Bring parameters into the units of these data.

        Raises
        ------
        ValueError
            If they are those of another mixture.
        """
        blank = self.blank(summary)
        found = params.gate.shape, params.coef.shape, params.covariance.shape
        wanted = blank.gate.shape, blank.coef.shape, blank.covariance.shape
        if found != wanted or len(params.x_mean) != len(blank.x_mean):
            raise ValueError(
                "the parameters to start from are those of another mixture of experts; "
                "start from ones of as many components, columns and responses."
            )
        moved = params.moved(self.design, blank.frame)
        return dataclasses.replace(
            moved,
            gate=np.zeros_like(moved.gate) if self.equal_weights else moved.gate,
            covariance=self.family.admissible(moved.covariance),
            doubt=blank.doubt,
            reach=blank.reach,
            anchor=moved.coef.copy() if blank.anchor.size else blank.anchor,
            x_correlation=blank.x_correlation,
        )

    # ----------------------------------------------------------- E- and M-step

    #: Whether statistics are those of EM's bound.
    surrogate = False

    @property
    def one_version(self) -> bool:
        """Yes: Newton steps want curvatures of one version."""
        return True

    def mixable(self) -> Any:
        """Return plain EM, whose statistics mix."""
        return MixtureOfExpertsEM(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        )

    @property
    def acceleration(self) -> Acceleration | None:
        """Anderson's."""
        return Anderson()

    def e_step(
        self, params: ExpertsParams, prepared: Block, local: Any = None
    ) -> tuple[ExpertsStats, None]:
        """Return the statistics of some rows."""
        with one_blas_thread(), np.errstate(all="ignore"):
            return self._e_step(params, prepared), None

    def _e_step(self, params: ExpertsParams, block: Block) -> ExpertsStats:
        family, design, surrogate = self.family, self.design, self.surrogate
        k, q, p = params.coef.shape
        g = params.gate.shape[1]
        flat = params.coef.reshape(k * q, p)
        n_own = family.n_grams(k, q, surrogate=surrogate)
        n_blocks = 0 if surrogate else softmax.n_blocks(k)
        shared = design.shared
        grams = Grams(n_own + (n_blocks + 1) * shared, p)
        gate_grams = grams if shared else Grams(n_blocks + 1, g)
        gradient = np.zeros((k, g))
        linear: Any = 0.0
        plain: dict[str, Array] = {}
        counts, log_likelihood = np.zeros(k), 0.0
        tile = int(np.clip(2 * _CACHE / (p * (p + 1)), _LEAST_TILE, _MOST_TILE))
        # no rows make one empty tile, so that all sums have their shapes
        for i in range(0, max(block.n_rows, 1), tile):
            rows = block.rows(slice(i, i + tile))
            w = rows.weights()
            Zg, Ze = design.rows(rows.X, params.frame)
            y = columns_of(rows.y).T
            y = (y - params.y_mean[:, None]) / params.y_scale[:, None]
            eta = (flat @ Ze).reshape(k, q, -1)
            log_prior = softmax.log_softmax(params.gate @ Zg)
            r = family.log_density(params, eta, y)
            r += log_prior
            if y.shape[1]:
                top = r.max(axis=0)
                r -= top
                np.exp(r, out=r)
                norm = r.sum(axis=0)
                r *= w / norm
                counted = w > 0
                ll = top + np.log(norm)
                log_likelihood += float(w[counted] @ ll[counted])
                if not counted.all():
                    r[:, ~counted] = 0.0  # such a row may hold anything
            prior = np.exp(log_prior)
            sums = family.sums(params, eta, y, r, Ze, surrogate=surrogate)
            weights = [sums.gram]
            if not surrogate:
                weights.append(softmax.hessian_weights(prior, w))
            weights.append(w[None])
            if shared:
                grams.add(Ze, np.concatenate(weights))
            else:
                grams.add(Ze, sums.gram)
                gate_grams.add(Zg, np.concatenate(weights[1:]))
            gradient += (r - w * prior) @ Zg.T
            linear = linear + sums.linear @ Ze.T
            for name, value in sums.plain.items():
                plain[name] = plain[name] + value if name in plain else value
            counts += r.sum(axis=1)
        total = grams.total
        own, rest = total[:n_own], total[n_own:]
        if not shared:
            rest = gate_grams.total
        experts = family.collect(params, own, linear, plain, surrogate=surrogate)
        if surrogate:
            gradient += softmax.curved(params.gate, rest[-1])
        gate = GateStats(gradient, rest[-1], rest[:-1])
        penalised = self.penalty(params) * block.weight
        return ExpertsStats(gate, experts, counts, log_likelihood, penalised)

    def m_step(self, params: ExpertsParams, stats: ExpertsStats) -> ExpertsParams:
        """Return Newton's step for the gate, and the family's for the experts."""
        gate = params.gate
        if not self.equal_weights:
            hessian = softmax.hessian_of(stats.gate.hessian, params.n_components)
            gate = softmax.newton_step(gate, stats.gate.linear, hessian, self.reg_gate)
        changed = self.family.newton_step(params, stats.experts, self.var_floor)
        return dataclasses.replace(params, gate=gate, counts=stats.counts, **changed)

    def safe_step(self, params: ExpertsParams, stats: ExpertsStats) -> ExpertsParams:
        """Return EM's step, which never lowers the likelihood."""
        gate = params.gate
        if not self.equal_weights:
            linear = stats.gate.linear
            if not self.surrogate:
                linear = linear + softmax.curved(gate, stats.gate.gram)
            gate = softmax.bohning_step(linear, stats.gate.gram, self.reg_gate)
        changed = self.family.m_step(params, stats.experts, self.var_floor)
        return dataclasses.replace(params, gate=gate, counts=stats.counts, **changed)

    def penalty(self, params: ExpertsParams) -> float:
        """Return what the ridges subtract from the log-likelihood."""
        own = 0.0
        if isinstance(self.family, Multinomial):
            own = self.family.penalty(params)
        return own + softmax.penalty(params.gate, self.reg_gate)

    def lower_bound(self, params: ExpertsParams, stats: ExpertsStats) -> float:
        """Return the penalised log-likelihood where the statistics were computed."""
        weight = stats.counts.sum()
        return float(stats.constant - (stats.penalised / weight if weight else 0.0))

    def complete(self, params: ExpertsParams, stats: ExpertsStats) -> ExpertsParams:
        """Return the parameters with what is known of their components' rows."""
        return dataclasses.replace(
            params, counts=stats.counts, doubt=self._doubt(params, stats)
        )

    def _doubt(self, params: ExpertsParams, stats: ExpertsStats) -> Array:
        k, g = params.gate.shape
        if self.surrogate or k == 1:
            return np.zeros(0)
        hessian = softmax.hessian_of(stats.gate.hessian, k)[::g, ::g]  # of intercepts
        return np.append(np.diagonal(hessian), hessian.sum())

    def separates(self, params: ExpertsParams) -> bool:
        """Whether the gate's coefficients have no finite maximum.

        So it is where a component's rows can be told from the others' by a hyperplane:
        at a maximum as far out as the fit went, not a row is in doubt any more.
        """
        if len(self.design.gate) == 0 or self.reg_gate or self.equal_weights:
            return False
        if not params.doubt.size:
            return False
        present = params.counts > 1
        return bool((params.doubt[present] < _CERTAIN).any())

    def sound(self, params: ExpertsParams) -> bool:
        """Whether no expert has collapsed onto a few rows.

        The likelihood has no maximum where one passes through as many rows as it has
        coefficients; such a fit is not to win over one of lower likelihood.
        """
        p = params.coef.shape[2]
        if not params.counts.any():
            return True
        if params.counts.min() <= p + _SPARE:
            return False
        if not params.covariance.size:
            return True
        least = np.linalg.eigvalsh(params.covariance).min(axis=1)
        # many rows at the least variance are no collapse: there is next to no noise
        at_floor = least <= self.var_floor * (1 + 1e-6)
        return not bool((at_floor & (params.counts <= _FEW_FITS * p)).any())

    # ------------------------------------------------------------- coordinates

    def pack(self, params: ExpertsParams) -> NDArray[np.float64]:
        """Return coefficients, factors of covariances, and logarithms of the rest."""
        return packed(params)

    def unpack(self, params: ExpertsParams, vector: Array) -> ExpertsParams:
        """Return parameters with the coordinates of a vector."""
        return unpacked(params, vector)

    # --------------------------------------------------------------- reduction

    def reduce(self, fits: Any, support: Block, rng: np.random.Generator) -> Any:
        """Return the one mixture that is nearest to several local fits."""
        from ...reduction.experts import reduce_fits

        return reduce_fits(self, fits, support, rng)


@dataclasses.dataclass(frozen=True)
class MixtureOfExpertsEM(MixtureOfExpertsModel):
    """The same mixture by plain EM, whose bound is affine in statistics of any age."""

    surrogate = True

    @property
    def one_version(self) -> bool:
        """No."""
        return False

    def mixable(self) -> Any:
        """Return this model."""
        return self

    @property
    def acceleration(self) -> None:
        """None: jumps are for statistics of one version."""
        return None

    def e_step(
        self, params: ExpertsParams, prepared: Block, local: Any = None
    ) -> tuple[ExpertsStats, None]:
        """Return the coefficients of the bound."""
        stats, _ = super().e_step(params, prepared)
        bare = dataclasses.replace(stats, constant=0.0)
        known = self.lower_bound(params, bare) + self.penalty(params)
        return dataclasses.replace(bare, constant=stats.constant - known), None

    def m_step(self, params: ExpertsParams, stats: ExpertsStats) -> ExpertsParams:
        """Return the maximum of the bound."""
        return self.safe_step(params, stats)

    def rebase(self, params: ExpertsParams) -> ExpertsParams:
        """Return parameters about which the bound keeps its digits."""
        if isinstance(self.family, Poisson):
            return self.family.rebased(params)
        return params

    def lower_bound(self, params: ExpertsParams, stats: ExpertsStats) -> float:
        """Return the bound."""
        gate = softmax.bohning_value(params.gate, stats.gate.linear, stats.gate.gram)
        experts = self.family.bound(params, stats.experts)
        return gate + experts + float(stats.constant) - self.penalty(params)
