"""Where fits of mixtures of experts begin: random hyperplanes, or clusters of rows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...alone import em_alone
from ...model import Block
from .algebra import solve
from .params import ExpertsParams
from .regression import softmax_regression
from .summary import JointSummary, columns_of

if TYPE_CHECKING:
    from .model import MixtureOfExpertsModel

__all__ = ["start_of"]

Array = NDArray[np.float64]

#: Rows on which random starts are compared, EM steps that each is given, and steps for
#: the best of them on the whole sample where that is but a part of the data.
ROWS = 2_500
SHORT = 25
LONG = 100
#: Gain per row that ends them.
TOL = 1e-5
#: Ridge on a gate that is fitted to labels, which may be separable.
_RIDGE = 1.0


def start_of(
    model: MixtureOfExpertsModel,
    summary: JointSummary,
    sample: Block,
    rng: np.random.Generator,
) -> ExpertsParams:
    """Return the best of several short runs of EM on some rows."""
    few = sample
    if sample.n_rows > ROWS:
        few = sample.rows(np.sort(rng.choice(sample.n_rows, ROWS, replace=False)))
    best: Any = None
    failure: Exception | None = None
    n_starts = model.n_starts if model.n_components > 1 else 1
    for _ in range(n_starts):
        try:
            params = _assigned(model, summary, few, rng)
            run = em_alone(model, params, [few], tol=TOL, max_iter=SHORT)
        except (FloatingPointError, np.linalg.LinAlgError) as error:
            failure = error
            continue
        rank = model.sound(run.params), run.value
        if best is None or rank > best[0]:
            best = rank, run.params
    if best is None:
        raise ValueError(
            f"none of {n_starts} random starts led anywhere ({failure}); check "
            "the scale of y, or give a start."
        ) from failure
    params = best[1]
    if sample.n_rows < summary.n_rows and sample.n_rows > few.n_rows:
        params = em_alone(model, params, [sample], tol=TOL, max_iter=LONG).params
    return dataclasses.replace(params, counts=np.zeros(model.n_components))


def _assigned(
    model: MixtureOfExpertsModel,
    summary: JointSummary,
    rows: Block,
    rng: np.random.Generator,
) -> ExpertsParams:
    """Return the M-step of a random assignment of rows to experts."""
    blank = model.blank(summary)
    k = model.n_components
    Zg, Z = model.design.rows(rows.X, blank.frame)
    y = (columns_of(rows.y).T - blank.y_mean[:, None]) / blank.y_scale[:, None]
    w = rows.weights()
    if model.init == "kmeans":
        member = _clusters(Zg if len(Zg) > 1 else Z, w, k, rng)
    else:
        member = _hyperplanes(model, Z, y, w, k, rng)
    r = member * w
    # a first set of coefficients by least squares, whatever the family
    target = model.family.linearised(y)
    coef = np.stack([solve((Z * v) @ Z.T, (Z * v) @ target.T).T for v in r])
    if not model.family.has_covariance:
        coef = np.clip(coef, -20, 20)
    covariance = blank.covariance
    if covariance.size:
        gaps = target - coef @ Z
        total = np.einsum("kn,kin,kjn->kij", r, gaps, gaps)
        counts = r.sum(axis=1) + 1e-300
        # not narrower than a tenth of the widest, lest one expert starts alone
        spread = np.trace(total, axis1=1, axis2=2) / counts / len(y)
        wide = max(float(spread.max()), model.var_floor)
        least = max(0.1 * wide, model.var_floor)
        own = total / counts[:, None, None] + least * np.eye(len(y))
        covariance = model.family.admissible(own)
    gate = blank.gate
    if k > 1 and not model.equal_weights:
        soft = 0.9 * member + 0.1 / k
        gate = softmax_regression(
            Zg, soft * w, gate, ridge=_RIDGE, tol=1e-3, max_steps=4
        )
    anchor = coef.copy() if blank.anchor.size else blank.anchor
    return dataclasses.replace(
        blank, gate=gate, coef=coef, covariance=covariance, anchor=anchor
    )


def _hyperplanes(
    model: MixtureOfExpertsModel,
    Z: Array,
    y: Array,
    w: Array,
    k: int,
    rng: np.random.Generator,
) -> Array:
    """Give every row to the nearest of K regressions on a few rows each."""
    n, p = Z.shape[1], len(Z)
    target = model.family.linearised(y)
    usable = np.flatnonzero(w > 0)
    size = min(p + 1 if n < 40 * k else max(2 * p, 40), len(usable))
    planes = []
    for _ in range(k):
        drawn = rng.choice(usable, size=size, replace=False, p=w[usable] / w.sum())
        A = Z[:, drawn]
        planes.append(solve(A @ A.T, A @ target[:, drawn].T).T)
    residual = model.family.residual(np.stack(planes) @ Z, y)
    return _indicators(residual.argmin(axis=0), k)


def _clusters(Z: Array, w: Array, k: int, rng: np.random.Generator) -> Array:
    """Give every row to one of K clusters of rows."""
    from sklearn.cluster import KMeans

    seed = int(rng.integers(np.iinfo(np.int32).max))
    means = KMeans(k, n_init=1, random_state=seed).fit(Z[1:].T, sample_weight=w)
    return _indicators(means.labels_, k)


def _indicators(labels: Any, k: int) -> Array:
    member = np.zeros((k, len(labels)))
    member[labels, np.arange(len(labels))] = 1.0
    return member
