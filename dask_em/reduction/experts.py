r"""Local mixtures of experts made one by optimal transport.

The pooled mixture of all local experts, each with its local gate times the share of
its rows, is itself a mixture of experts. The one of K experts that is nearest to it
minimises the expected transportation divergence (Chamroukhi and Pham, 2023)

.. math:: \mathcal R(g) = \mathbb E_X \Bigl[\sum_l \hat\pi_l(X)
          \min_k \mathrm{KL}\bigl(\varphi_l(\cdot \mid X) \,\Vert\,
          \varphi_k(\cdot \mid X)\bigr)\Bigr],

whose expectation is taken over a support sample. With the plan frozen, every expert of
g becomes the barycentre of what is sent to it, which majorises the objective: no step
raises it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.threads import one_blas_thread
from ..model import Block
from ..models.experts import softmax
from ..models.experts.algebra import Grams, solve
from ..models.experts.families import Plan
from ..models.experts.gaussian import Gaussian
from ..models.experts.params import PER_COMPONENT, ExpertsParams
from ..models.experts.regression import softmax_regression
from ..statistics import tree_sum
from .base import LocalFit, Reduced, Reduction, central, finite
from .matching import matched, relabelled_curvature

if TYPE_CHECKING:
    from ..models.experts.model import MixtureOfExpertsModel

__all__ = ["Pool", "reduce_fits"]

Array = NDArray[np.float64]

#: Numbers that a table of costs may have; the support is thinned to keep within it.
_ROOM = 4e7
#: Rows of the support where the result is but a start.
_BRIEF = 500
#: Rows at which fits are compared to find the outlying and the middle ones.
_FEW = 100


@dataclasses.dataclass(frozen=True)
class Pool:
    """All components of several mixtures, at the rows of a support sample.

    Attributes
    ----------
    params : ExpertsParams
        Of all L components, one fit after the other.
    owner : array of int of shape (L,)
        The fit that each is of.
    eta : array of shape (L, q, S)
        Linear predictors.
    prior : array of shape (L, S)
        Local gates, times the shares of the fits and the weights of the rows, which
        add up to one.
    """

    params: ExpertsParams
    owner: NDArray[np.intp]
    eta: Array
    prior: Array

    @classmethod
    def of(
        cls, fits: Sequence[LocalFit[ExpertsParams]], Zg: Array, Ze: Array, w: Array
    ) -> Pool:
        """Pool some fits."""
        all_params = [fit.params for fit in fits]
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(p, name) for p in all_params])
            for name in PER_COMPONENT
            if name != "doubt"
        }
        total = sum(fit.weight for fit in fits)
        prior = [
            np.exp(softmax.log_softmax(fit.params.gate @ Zg)) * (w * fit.weight / total)
            for fit in fits
        ]
        params = dataclasses.replace(all_params[0], doubt=np.zeros(0), **joined)
        owner = np.repeat(np.arange(len(fits)), [p.n_components for p in all_params])
        return cls(params, owner, params.coef @ Ze, np.concatenate(prior))

    def at(self, rows: Any) -> Pool:
        """Return the same at some of the rows."""
        return Pool(self.params, self.owner, self.eta[..., rows], self.prior[:, rows])


def reduce_fits(
    model: MixtureOfExpertsModel,
    fits: Sequence[LocalFit[ExpertsParams]],
    support: Block,
    rng: np.random.Generator,
) -> Reduced[ExpertsParams]:
    """Return the mixture of K experts that is nearest to several local ones.

    Parameters
    ----------
    model : MixtureOfExpertsModel
    fits : sequence of LocalFit
        In the same units; they may have different numbers of components.
    support : Block
        Rows at which experts are compared.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If no fit is usable.
    """
    settings = model.reduction or Reduction()
    kept = finite(fits)
    if not kept:
        raise ValueError("no local fit is finite; check the data of the shards.")
    k = model.n_components
    n_pooled = sum(fits[i].params.n_components for i in kept)
    g = len(model.design.gate) + 1
    # no fewer rows than the gate has coefficients
    wanted = _BRIEF if settings.brief else settings.n_support
    wanted = max(min(wanted, settings.n_support), 2 * g * k)
    n_rows = int(min(wanted, max(_ROOM / (n_pooled * k), 2 * g * k, 200)))
    w = support.weights()
    usable = np.flatnonzero(w > 0)
    chosen = np.sort(rng.choice(usable, size=min(n_rows, len(usable)), replace=False))
    n_few = min(_FEW // 4 if settings.brief else _FEW, len(chosen))
    few = np.sort(rng.choice(len(chosen), size=n_few, replace=False))
    w = w[chosen] / w[chosen].sum()
    Zg, Ze = model.design.rows(
        np.asarray(support.X)[chosen], fits[kept[0]].params.frame
    )
    with one_blas_thread(), np.errstate(under="ignore"):
        if settings.robust:
            pool = Pool.of([fits[i] for i in kept], Zg, Ze, w).at(few)
            near = central(_distances(model, pool))
            kept = tuple(kept[i] for i in near)
        good = [fits[i] for i in kept]
        pool = Pool.of(good, Zg, Ze, w)
        seen = pool.at(few)
        known = _informed(model, good) and settings.gate == "matched"
        middle = 0
        if settings.brief and known:
            # all that is wanted is who is who, and they began at the same start
            pool, Zg, Ze = seen, Zg[:, few], Ze[:, few]
            begin = _average([(fit.params, fit.weight) for fit in good])
            params, plan, objective = _climb_down(model, pool, begin, Ze, settings)
        else:
            cost = _costs(model, seen)
            middle = _middle(model, good, seen, cost)
            tried = [
                _climb_down(model, seen, start, Ze[:, few], settings)
                for start in _starts(model, good, seen, cost, middle)
            ]
            params, plan, objective = min(tried, key=lambda found: found[2][-1])
            params, plan, objective = _climb_down(model, pool, params, Ze, settings)
        gates, order = _gates(model, good, pool, plan, Zg, settings)
        # from each local component to that of the result
        matching = None if order is None else np.argsort(order, axis=1)
    anchor = params.coef.copy() if params.anchor.size else params.anchor
    counts = plan.by_expert.sum(axis=0) * sum(fit.weight for fit in good)
    found = {
        name: dataclasses.replace(
            params, gate=gate, anchor=anchor, counts=counts, doubt=np.zeros(0)
        )
        for name, gate in gates.items()
    }
    if "matched" in found and len(good) > 1:
        experts = _pooled_experts(model, good, order, params)
        found["matched"] = dataclasses.replace(found["matched"], **experts)
    kind = settings.gate if settings.gate in found else "transport"
    best = found.pop(kind)
    if settings.gate == "transport" or settings.brief:
        found = {}  # who asks for the published method gets it
    elif good[middle].params.n_components == k and len(good) > 1:
        found["middle"] = good[middle].params
    total = sum(fit.weight for fit in good)
    return Reduced(best, np.asarray(objective), kept, matching, total, found)


# ------------------------------------------------------------------------- the experts


def _climb_down(
    model: MixtureOfExpertsModel,
    pool: Pool,
    start: ExpertsParams,
    Z: Array,
    settings: Reduction,
) -> tuple[ExpertsParams, Plan, list[float]]:
    """Alternate between plan and barycentres until the objective rests."""
    family, k = model.family, model.n_components
    params, objective = start, [np.inf]
    kept: Any = None
    while True:
        eta = params.coef @ Z
        target, cost = family.nearest(pool.params, pool.eta, params, eta)
        value = float(np.sum(pool.prior * cost))
        fall = objective[-1] - value
        if fall <= 0 and kept is not None:  # rounding, or no more to be had
            return *kept, objective[1:]
        kept = params, Plan(target, pool.prior, k)
        objective.append(value)
        if fall <= settings.tol * value or len(objective) > settings.max_iter:
            return *kept, objective[1:]
        changed = family.barycentre(
            pool.params, pool.eta, kept[1], params, Z, model.var_floor
        )
        params = dataclasses.replace(params, **changed)


def _starts(
    model: MixtureOfExpertsModel,
    fits: Sequence[LocalFit[ExpertsParams]],
    pool: Pool,
    cost: Array,
    middle: int,
) -> list[ExpertsParams]:
    """Return experts to begin with: the middle fit's, and averages of matched ones."""
    k = model.n_components
    full = _full(model, fits)
    if not full:
        return [pool.params.ordered(_spread(cost, pool.prior.sum(axis=1), k))]
    centre = fits[middle].params
    if len(full) == 1:
        return [centre]
    target = np.flatnonzero(pool.owner == middle)
    aligned = []
    for m in full:
        own = np.flatnonzero(pool.owner == m)
        order = matched(-cost[np.ix_(own, target)])
        aligned.append((fits[m].params.ordered(order), fits[m].weight))
    return [_average(aligned), centre]


def _average(fits: Sequence[tuple[ExpertsParams, float]]) -> ExpertsParams:
    """Return the average of experts whose numbers correspond."""
    weights = np.array([weight for _, weight in fits])
    average = {
        name: np.tensordot(
            weights / weights.sum(), [getattr(p, name) for p, _ in fits], axes=1
        )
        for name in ("coef", "covariance", "dof")
    }
    return dataclasses.replace(fits[0][0], **average)


def _full(
    model: MixtureOfExpertsModel, fits: Sequence[LocalFit[ExpertsParams]]
) -> list[int]:
    """Return which fits have as many components as the result is to have."""
    k = model.n_components
    return [m for m, fit in enumerate(fits) if fit.params.n_components == k]


def _costs(model: MixtureOfExpertsModel, pool: Pool) -> Array:
    """Return the divergence of every component from every other, over the rows."""
    columns = []
    for m in range(int(pool.owner.max()) + 1):  # a table of all of them may be large
        own = np.flatnonzero(pool.owner == m)
        cost = model.family.divergence(
            pool.params, pool.eta, pool.params.some(own), pool.eta[own]
        )
        columns.append(np.einsum("ls,lks->lk", pool.prior, cost))
    return np.concatenate(columns, axis=1)


def _middle(
    model: MixtureOfExpertsModel,
    fits: Sequence[LocalFit[ExpertsParams]],
    pool: Pool,
    cost: Array,
) -> int:
    """Return the fit whose components the others' are nearest to."""
    full = _full(model, fits)
    if not full:
        return 0
    far = [cost[:, pool.owner == m].min(axis=1).sum() for m in full]
    return full[int(np.argmin(far))]


def _spread(cost: Array, mass: Array, k: int) -> NDArray[np.intp]:
    """Return components that are heavy and far from each other."""
    chosen = [int(mass.argmax())]
    while len(chosen) < min(k, len(mass)):
        nearest = cost[:, chosen].min(axis=1)
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    chosen += [chosen[0]] * (k - len(chosen))
    return np.asarray(chosen)


def _informed(
    model: MixtureOfExpertsModel, fits: Sequence[LocalFit[ExpertsParams]]
) -> bool:
    """Whether the experts can be estimated from the fits' statistics."""
    return (
        isinstance(model.family, Gaussian)
        and len(_full(model, fits)) == len(fits)
        and all(fit.stats is not None for fit in fits)
    )


def _pooled_experts(
    model: MixtureOfExpertsModel,
    fits: Sequence[LocalFit[ExpertsParams]],
    order: NDArray[np.intp],
    params: ExpertsParams,
) -> dict[str, Array]:
    """Return experts estimated from the sums of the fits' own statistics.

    Where fits have sent them along and experts have a closed form, they know more than
    the local estimates: the least squares of all rows, given local responsibilities.
    """
    if not _informed(model, fits):
        return {}
    parts = []
    for fit, own in zip(fits, order, strict=True):
        stats = fit.stats.experts
        fields = [f.name for f in dataclasses.fields(stats)]
        parts.append(
            type(stats)(**{name: getattr(stats, name)[own] for name in fields})
        )
    changed: dict[str, Array] = model.family.m_step(
        params, tree_sum(parts), model.var_floor
    )
    return changed


# --------------------------------------------------------------------------- the gate


def _gates(
    model: MixtureOfExpertsModel,
    fits: Sequence[LocalFit[ExpertsParams]],
    pool: Pool,
    plan: Plan,
    Zg: Array,
    settings: Reduction,
) -> tuple[dict[str, Array], Any]:
    """Return gates by their kind, and who was matched with whom."""
    k, g = model.n_components, len(Zg)
    blank = np.zeros((k, g))
    matching = None
    if all(fit.params.n_components == k for fit in fits):
        mass = plan.by_expert
        matching = np.stack([matched(mass[pool.owner == m]) for m in range(len(fits))])
    if model.equal_weights or k == 1:
        return {"matched": blank, "transport": blank}, matching
    gates = {}
    if matching is not None:
        blank = gates["matched"] = _averaged_gate(fits, matching, Zg, pool)
        if settings.brief and settings.gate == "matched":
            return gates, matching
    gates["transport"] = softmax_regression(
        Zg, plan.by_row, blank, ridge=model.reg_gate
    )
    return gates, matching


def _averaged_gate(
    fits: Sequence[LocalFit[ExpertsParams]],
    matching: NDArray[np.intp],
    Zg: Array,
    pool: Pool,
) -> Array:
    """Average the coefficients of matched gates, weighted by their information.

    That is the curvature at a fit's own rows; at the support, where it was not sent.
    """
    k, g = fits[0].params.gate.shape
    informed = all(fit.stats is not None for fit in fits)
    total = sum(fit.weight for fit in fits)
    curvature = np.zeros(((k - 1) * g,) * 2)
    pulled = np.zeros((k - 1) * g)
    plain = np.zeros((k, g))
    for m, (fit, order) in enumerate(zip(fits, matching, strict=True)):
        gate = fit.params.ordered(order).gate
        plain += fit.weight / total * gate
        if informed:
            blocks = fit.stats.gate.hessian
        else:
            prior = pool.prior[pool.owner == m]
            mass = prior.sum(axis=0)
            grams = Grams(softmax.n_blocks(k), g)
            grams.add(Zg, softmax.hessian_weights(prior / mass, mass))
            blocks = grams.total
        own = relabelled_curvature(softmax.hessian_of(blocks, k), order, g)
        curvature += own
        pulled += own @ gate[:-1].ravel()
    if len(fits) == 1:
        return plain
    # where there is no information, the plain average
    offset = pulled - curvature @ plain[:-1].ravel()
    moved = plain.copy()
    moved[:-1] += solve(curvature, offset).reshape(k - 1, g)
    return moved


# ------------------------------------------------------------------------- the filter


def _distances(model: MixtureOfExpertsModel, pool: Pool) -> Array:
    """Return distances between the conditional densities of all pairs of fits.

    The expected squared L2 distance over the support, in units of the densities' own
    norms: 0 for equal ones, 1 for such as do not overlap.
    """
    inner = model.family.overlap(pool.params, pool.eta)
    inner = np.einsum("as,bs,abs->ab", pool.prior, pool.prior, inner)
    m = int(pool.owner.max()) + 1
    member = np.eye(m)[pool.owner]
    total = member.T @ inner @ member
    # fits of different weight are compared as densities
    share = member.T @ pool.prior.sum(axis=1)
    total = total / share / share[:, None]
    norms = np.diagonal(total)
    both = norms + norms[:, None]
    return np.sqrt(np.maximum(1 - 2 * total / np.maximum(both, 1e-300), 0.0))
