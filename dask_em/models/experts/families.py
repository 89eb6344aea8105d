"""What all kinds of experts have in common."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .params import ExpertsParams

__all__ = ["Family", "Plan", "Sums", "named_family"]

Array = NDArray[np.float64]


@dataclasses.dataclass
class Sums:
    """What a family wants to have added up over the rows of a tile.

    Attributes
    ----------
    gram : array of shape (m, n)
        Weights of z z'.
    linear : array of shape (..., n)
        Weights of z.
    plain : dict of array
        Sums that do not involve z, or that the family has formed itself.
    """

    gram: Array
    linear: Array
    plain: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A transport plan: every expert sends its whole mass, row by row, to one target.

    Attributes
    ----------
    target : array of int of shape (L, n)
    mass : array of shape (L, n)
    n_targets : int
    """

    target: NDArray[np.int16]
    mass: Array
    n_targets: int

    def to(self, k: int) -> Array:
        """Return the masses that go to one target, of shape (L, n)."""
        return np.where(self.target == k, self.mass, 0.0)

    @property
    def by_row(self) -> Array:
        """Masses that targets receive, of shape (K, n)."""
        return np.stack([self.to(k).sum(axis=0) for k in range(self.n_targets)])

    @property
    def by_expert(self) -> Array:
        """Masses from expert to target, of shape (L, K)."""
        sums = [self.to(k).sum(axis=1) for k in range(self.n_targets)]
        return np.stack(sums, axis=1)


class Family(ABC):
    """A conditional distribution of the response given linear predictors.

    A family knows one tile of rows at a time. Its statistics are either those of EM,
    which add up over parameters of different age (``surrogate``), or those of a Newton
    step where EM's M-step has no closed form.
    """

    #: Whether responses are brought to mean 0 and variance 1.
    standardises: ClassVar[bool] = False
    #: Whether parameters comprise covariances.
    has_covariance: ClassVar[bool] = False

    def check(self, minimum: Array, maximum: Array) -> None:  # noqa: B027
        """Raise `ValueError` for responses that the family cannot have."""

    def n_predictors(self, n_targets: int) -> int:
        """Return how many linear predictors an expert has."""
        return n_targets

    @abstractmethod
    def n_grams(self, k: int, q: int, *, surrogate: bool) -> int:
        """Return how many weighted sums of z z' are wanted."""

    @abstractmethod
    def n_parameters(self, q: int, p: int) -> int:
        """Return the free parameters of one expert."""

    @abstractmethod
    def log_density(self, params: ExpertsParams, eta: Array, y: Array) -> Array:
        """Return the log density of every expert at responses.

        Parameters
        ----------
        params : ExpertsParams
        eta : array of shape (K, q, n)
            Linear predictors.
        y : array of shape (n_targets, n)
            In standard units.

        Returns
        -------
        array of shape (K, n)
            Per unit of the response as given.
        """

    @abstractmethod
    def sums(
        self,
        params: ExpertsParams,
        eta: Array,
        y: Array,
        r: Array,
        Z: Array,
        *,
        surrogate: bool,
    ) -> Sums:
        """Return what is to be added up, for responsibilities `r` of shape (K, n)."""

    @abstractmethod
    def collect(
        self,
        params: ExpertsParams,
        gram: Array,
        linear: Array,
        plain: dict[str, Array],
        *,
        surrogate: bool,
    ) -> Any:
        """Return statistics of sums over all rows."""

    @abstractmethod
    def bound(self, params: ExpertsParams, stats: Any) -> float:
        """Return EM's bound, but for its constant; of surrogate statistics."""

    @abstractmethod
    def m_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return changed fields: the maximum of EM's bound."""

    def newton_step(self, params: ExpertsParams, stats: Any, var_floor: float) -> Any:
        """Return changed fields: a step that may be longer than EM's."""
        return self.m_step(params, stats, var_floor)

    def initial(self, k: int, q: int, p: int) -> dict[str, Array]:
        """Return fields of a start, before any row was seen."""
        none = np.zeros((k, 0, 0))
        return {
            "covariance": np.tile(np.eye(q), (k, 1, 1))
            if self.has_covariance
            else none,
            "dof": np.zeros(0),
            "anchor": np.zeros((k, 0, p)),
        }

    def admissible(self, covariance: Array) -> Array:
        """Return covariances of the family's kind that are near to given ones."""
        return covariance

    def residual(self, eta: Array, y: Array) -> Array:
        """Return how badly linear predictors fit responses, to start from.

        Parameters
        ----------
        eta : array of shape (K, q, n)
        y : array of shape (n_targets, n)

        Returns
        -------
        array of shape (K, n)
        """
        return np.square(eta - y).sum(axis=1)

    def linearised(self, y: Array) -> Array:
        """Return what least squares is to fit to start an expert, of shape (q, n)."""
        return y

    # ------------------------------------------------------------- predictions

    @abstractmethod
    def mean(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the mean response of every expert, in the units of `eta`."""

    @abstractmethod
    def variance(self, params: ExpertsParams, eta: Array) -> Array:
        """Return the variance of the response, of the shape of `mean`."""

    @abstractmethod
    def draw(
        self, params: ExpertsParams, eta: Array, rng: np.random.Generator
    ) -> Array:
        """Draw responses of shape (n_targets, n), one expert's for each row.

        `params` and `eta` are those of the rows' experts: arrays of shape (n, ...) and
        (n, q).
        """

    # --------------------------------------------------------------- reduction

    @abstractmethod
    def divergence(
        self, source: ExpertsParams, at: Array, target: ExpertsParams, eta: Array
    ) -> Array:
        r"""Return Kullback-Leibler divergences between experts.

        Parameters
        ----------
        source : ExpertsParams
            Of L experts, with linear predictors `at` of shape (L, q, n).
        target : ExpertsParams
            Of K experts, with `eta` of shape (K, q, n).

        Returns
        -------
        array of shape (L, K, n)
        """

    def nearest(
        self, source: ExpertsParams, at: Array, target: ExpertsParams, eta: Array
    ) -> tuple[NDArray[np.int16], Array]:
        """Return the target that each expert is nearest to, row by row, and how near.

        Parameters
        ----------
        source, at, target, eta
            As in `divergence`.

        Returns
        -------
        arrays of shape (L, n)
        """
        least = self.divergence(source, at, target.some([0]), eta[:1])[:, 0]
        index = np.zeros(least.shape, dtype=np.int16)
        for k in range(1, len(eta)):
            cost = self.divergence(source, at, target.some([k]), eta[k : k + 1])[:, 0]
            closer = cost < least
            index[closer] = k
            np.minimum(least, cost, out=least)
        return index, least

    @abstractmethod
    def overlap(self, params: ExpertsParams, eta: Array) -> Array:
        """Return integrals of the product of any two experts' densities.

        Parameters
        ----------
        params : ExpertsParams
            Of L experts, with linear predictors `eta` of shape (L, q, n).

        Returns
        -------
        array of shape (L, L, n)
        """

    @abstractmethod
    def barycentre(
        self,
        source: ExpertsParams,
        at: Array,
        plan: Plan,
        target: ExpertsParams,
        Z: Array,
        var_floor: float,
    ) -> dict[str, Array]:
        """Return changed fields of the K experts nearest to what a plan sends them.

        Parameters
        ----------
        source : ExpertsParams
            Of L experts, with linear predictors `at` of shape (L, q, n).
        plan : Plan
        target : ExpertsParams
            The experts so far, kept where nothing is sent.
        Z : array of shape (p, n)
        var_floor : float
        """


def named_family(family: Any) -> Family:
    """Return a family by its name.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    from .gaussian import Gaussian
    from .multinomial import Multinomial
    from .poisson import Poisson
    from .student import StudentT

    families: dict[str, Any] = {
        "gaussian": Gaussian,
        "student_t": StudentT,
        "poisson": Poisson,
        "multinomial": Multinomial,
    }
    if isinstance(family, Family):
        return family
    if family not in families:
        raise ValueError(
            f"family must be one of {sorted(set(families) - {'multinomial'})}, got "
            f"{family!r}."
        )
    made: Family = families[family]()
    return made
