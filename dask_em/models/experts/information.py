r"""Observed information of mixtures of experts.

With :math:`s_k` the score of the complete data for component k and :math:`H_k` its
derivative, a row adds

.. math:: -\nabla^2 \log p = \bar s \bar s^\top
          - \sum_k \tau_k \bigl(H_k + s_k s_k^\top\bigr), \qquad
          \bar s = \sum_k \tau_k s_k

(Louis, 1982). Everything is a weighted sum of products of what gate and experts see;
the weights are derivatives of an expert's log density in its few linear predictors and
shape parameters, by differences.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import softmax
from .coordinates import packed, unpacked
from .density import ExpertsDensity
from .params import ExpertsParams
from .summary import columns_of

__all__ = ["Information", "free_coordinates"]

Array = NDArray[np.float64]

_TILE = 2048
#: Step of the differences.
_STEP = 1e-4


@dataclasses.dataclass(frozen=True)
class Information:
    """The observed information in packed coordinates, as a function of rows.

    Parameters
    ----------
    density : ExpertsDensity
    """

    density: ExpertsDensity

    def __call__(self, X: Any, y: Any, w: Any) -> Array:
        """Return the information in some rows, a matrix of all packed coordinates."""
        n = len(packed(self.density.params))
        total = np.zeros((n, n))
        y = columns_of(y)
        for i in range(0, len(X), _TILE):
            rows = slice(i, i + _TILE)
            total += self._of(np.asarray(X[rows], dtype=np.float64), y[rows].T, w[rows])
        return total

    def _of(self, X: Array, y: Array, w: Array) -> Array:
        params = self.density.params
        k, q, p = params.coef.shape
        g = params.gate.shape[1]
        Zg, Ze = self.density.design.rows(X, params.frame)
        y = (y - params.y_mean[:, None]) / params.y_scale[:, None]
        eta = params.coef @ Ze
        log_prior = softmax.log_softmax(params.gate @ Zg)
        prior = np.exp(log_prior)
        logs, u, V = self._derivatives(params, eta, y)
        tau = np.exp(softmax.log_softmax(log_prior + logs))
        # where each of an expert's derivatives sits, and what it multiplies
        one = np.ones((1, len(w)))
        n_shapes = len(u) - q
        places = self._places(k, q, p, g, n_shapes)
        features = [Ze] * q + [one] * n_shapes
        mean_score = np.zeros((places[-1], len(w)))
        free = k - 1
        for j in range(free):
            mean_score[j * g : (j + 1) * g] = (tau[j] - prior[j]) * Zg
        total = np.zeros((places[-1],) * 2)
        for j in range(free):
            for m in range(free):
                same = float(j == m)
                weight = same * (tau[j] - prior[j]) + 2 * prior[j] * prior[m]
                weight = weight - tau[j] * prior[m] - prior[j] * tau[m]
                block = (Zg * (w * weight)) @ Zg.T
                total[j * g : (j + 1) * g, m * g : (m + 1) * g] -= block
        for c in range(k):
            for a, za in enumerate(features):
                at = places[0][c][a]
                mean_score[at] = tau[c] * u[a, c] * za
                for b, zb in enumerate(features):
                    weight = w * tau[c] * (V[a, b, c] + u[a, c] * u[b, c])
                    total[at, places[0][c][b]] -= (za * weight) @ zb.T
                for j in range(free):
                    weight = w * tau[c] * (float(j == c) - prior[j]) * u[a, c]
                    block = (Zg * weight) @ za.T
                    rows = slice(j * g, (j + 1) * g)
                    total[rows, at] -= block
                    total[at, rows] -= block.T
        return total + (mean_score * w) @ mean_score.T

    def _places(
        self, k: int, q: int, p: int, g: int, n_shapes: int
    ) -> tuple[list[list[slice]], int]:
        """Return where derivatives sit in the packed vector, and its length."""
        params = self.density.params
        begin = (k - 1) * g
        shapes = begin + k * q * p
        found: list[list[slice]] = []
        m = params.covariance.shape[-1]
        below = m * (m - 1) // 2
        dof = shapes + k * (m + below)
        for c in range(k):
            own = [
                slice(begin + (c * q + a) * p, begin + (c * q + a + 1) * p)
                for a in range(q)
            ]
            singles = [shapes + c * m + i for i in range(m)]
            singles += [shapes + k * m + c * below + i for i in range(below)]
            singles += [dof + c] if len(params.dof) else []
            assert len(singles) == n_shapes
            found.append(own + [slice(s, s + 1) for s in singles])
        return found, len(packed(params))

    def _derivatives(
        self, params: ExpertsParams, eta: Array, y: Array
    ) -> tuple[Array, Array, Array]:
        """Return log densities, and their derivatives in predictors and shapes.

        Returns
        -------
        arrays of shapes (K, n), (R, K, n) and (R, R, K, n)
        """
        family = self.density.family
        k, q, _ = eta.shape
        m = params.covariance.shape[-1]
        n_shapes = m * (m + 1) // 2 + (len(params.dof) > 0)
        vector = packed(params)
        places, _ = self._places(
            k, q, params.coef.shape[2], params.gate.shape[1], n_shapes
        )

        def value(*steps: tuple[int, float]) -> Array:
            moved, at = eta, vector
            for a, h in steps:
                if a < q:
                    moved = moved.copy()
                    moved[:, a] += h
                else:
                    at = at.copy()
                    for own in places:
                        at[own[a]] += h
            shaped = params if at is vector else unpacked(params, at)
            return family.log_density(shaped, moved, y)

        h = _STEP
        R = q + n_shapes
        here = value()
        up = [value((a, h)) for a in range(R)]
        down = [value((a, -h)) for a in range(R)]
        first = np.stack([(a - b) / (2 * h) for a, b in zip(up, down, strict=True)])
        second = np.empty((R, R, *here.shape))
        for a in range(R):
            second[a, a] = (up[a] - 2 * here + down[a]) / h**2
            for b in range(a):
                mixed = value((a, h), (b, h)) - value((a, h), (b, -h))
                mixed += value((a, -h), (b, -h)) - value((a, -h), (b, h))
                second[a, b] = second[b, a] = mixed / (4 * h**2)
        return here, first, second


def free_coordinates(density: ExpertsDensity) -> Array:
    """Return a basis of the packed coordinates that are free.

    Returns
    -------
    array of shape (n_packed, n_parameters)
        Columns of zeros and ones: shared ones where experts share a covariance.
    """
    params = density.params
    k, q, p = params.coef.shape
    m = params.covariance.shape[-1]
    kind = getattr(density.family, "covariance_type", "full")
    labels: list[Any] = []
    n_gate = params.gate[:-1].size
    labels += [None if density.equal_weights else ("gate", i) for i in range(n_gate)]
    for c in range(k):
        for a in range(q):
            dropped = density.classifies and a == q - 1
            labels += [None if dropped else ("coef", c, a, i) for i in range(p)]
    owner = [0 if kind == "tied" else c for c in range(k)]
    labels += [("log_diagonal", owner[c], i) for c in range(k) for i in range(m)]
    labels += [
        None if kind == "diag" else ("below", owner[c], i)
        for c in range(k)
        for i in range(m * (m - 1) // 2)
    ]
    labels += [("dof", c) for c in range(len(params.dof))]
    names = list(dict.fromkeys(label for label in labels if label is not None))
    basis = np.zeros((len(labels), len(names)))
    for row, label in enumerate(labels):
        if label is not None:
            basis[row, names.index(label)] = 1.0
    return basis
