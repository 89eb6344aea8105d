"""What a fitted mixture of experts says of rows, in the units of the data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import softmax
from .families import Family
from .multinomial import Multinomial
from .params import Design, ExpertsParams
from .summary import columns_of

__all__ = ["ExpertsDensity"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ExpertsDensity:
    """The conditional density of responses, as functions of rows.

    It goes to where the rows are. Results are in float64.

    Parameters
    ----------
    family : Family
    design : Design
    params : ExpertsParams
    equal_weights : bool
    """

    family: Family
    design: Design
    params: ExpertsParams
    equal_weights: bool = False

    @property
    def n_components(self) -> int:
        """Number of components."""
        return self.params.n_components

    @property
    def n_responses(self) -> int:
        """Responses of an expert, or classes."""
        return int(self.params.coef.shape[1])

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        k, q, p = self.params.coef.shape
        gate = 0 if self.equal_weights else (k - 1) * self.params.gate.shape[1]
        experts = k * self.family.n_parameters(q, p)
        if getattr(self.family, "covariance_type", "") == "tied":
            experts -= (k - 1) * self.family.n_variances(q)  # type: ignore[attr-defined]
        return gate + experts

    def _at(self, X: Any) -> tuple[Array, Array]:
        """Return log gates (K, n) and linear predictors (K, q, n)."""
        X = np.asarray(X, dtype=np.float64)
        Zg, Ze = self.design.rows(X, self.params.frame)
        return softmax.log_softmax(self.params.gate @ Zg), self.params.coef @ Ze

    def _means(self, eta: Array) -> Array:
        """Return the experts' means, of shape (K, q, n)."""
        p = self.params
        mean = self.family.mean(p, eta)
        if self.family.standardises:
            mean = p.y_mean[:, None] + p.y_scale[:, None] * mean
        return mean

    def gate(self, X: Any) -> Array:
        """Return the gate's probabilities, of shape (n, K)."""
        return np.exp(self._at(X)[0]).T

    def experts(self, X: Any) -> Array:
        """Return the experts' means, of shape (n, K q)."""
        mean = self._means(self._at(X)[1])
        return mean.reshape(-1, mean.shape[2]).T

    def mean(self, X: Any) -> Array:
        """Return the mean response, of shape (n, q)."""
        log_gate, eta = self._at(X)
        return np.einsum("kn,kqn->nq", np.exp(log_gate), self._means(eta))

    def std(self, X: Any) -> Array:
        """Return standard deviations of the response, of shape (n, q)."""
        log_gate, eta = self._at(X)
        gate, mean = np.exp(log_gate), self._means(eta)
        within = self.family.variance(self.params, eta)
        if self.family.standardises:
            within = within * np.square(self.params.y_scale)[:, None]
        centre = np.einsum("kn,kqn->qn", gate, mean)
        with np.errstate(invalid="ignore"):  # a weight of 0 times no variance
            parts = np.where(gate[:, None] > 0, gate[:, None] * within, 0.0)
        between = np.einsum("kn,kqn->qn", gate, np.square(mean - centre))
        return np.sqrt(parts.sum(axis=0) + between).T

    def classes(self, X: Any) -> Array:
        """Return the most probable class."""
        return self.mean(X).argmax(axis=1)

    def components(self, X: Any) -> Array:
        """Return the component that is most probable by the gate."""
        return self._at(X)[0].argmax(axis=0)

    def joint(self, X: Any, y: Any) -> Array:
        """Return log probabilities of component and response, of shape (K, n)."""
        p = self.params
        log_gate, eta = self._at(X)
        y = columns_of(y).T
        if not np.isfinite(y).all():
            raise ValueError("y contains NaN or infinity; drop those rows.")
        if y.size:
            self.family.check(y.min(axis=1), y.max(axis=1))
        y = (y - p.y_mean[:, None]) / p.y_scale[:, None]
        with np.errstate(over="ignore"):
            return np.asarray(log_gate + self.family.log_density(p, eta, y))

    def log_density(self, X: Any, y: Any) -> Array:
        """Return the log density of each response."""
        return np.logaddexp.reduce(self.joint(X, y), axis=0)

    def responsibilities(self, X: Any, y: Any) -> Array:
        """Return the probabilities of the components, of shape (n, K)."""
        return np.exp(softmax.log_softmax(self.joint(X, y))).T

    def entropy(self, X: Any, y: Any) -> Array:
        """Return the entropy of the responsibilities of each row."""
        logs = softmax.log_softmax(self.joint(X, y))
        with np.errstate(invalid="ignore"):
            terms = np.where(np.isfinite(logs), np.exp(logs) * logs, 0.0)
        return np.asarray(-terms.sum(axis=0))

    def draw(self, X: Any, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw a response for each row.

        Returns
        -------
        y : array of shape (n, n_targets)
        component : array of int of shape (n,)
        """
        p = self.params
        log_gate, eta = self._at(X)
        component = (log_gate + rng.gumbel(size=log_gate.shape)).argmax(axis=0)
        own = eta[component, :, np.arange(len(component))]
        y = self.family.draw(p.some(component), own, rng)
        if self.family.standardises:
            y = p.y_mean[:, None] + p.y_scale[:, None] * y
        return y.T, component

    @property
    def classifies(self) -> bool:
        """Whether responses are classes."""
        return isinstance(self.family, Multinomial)
