"""Parameters of a mixture of experts, and the columns that gate and experts see."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .summary import JointSummary, spread_of

__all__ = ["PER_COMPONENT", "Design", "ExpertsParams", "Frame"]

Array = NDArray[np.float64]

#: Degrees of freedom between which they are looked for.
LEAST_DOF, MOST_DOF = 0.5, 1000.0
#: Fields of `ExpertsParams` with a component along the first axis.
PER_COMPONENT = ("gate", "coef", "covariance", "dof", "counts", "doubt", "anchor")


@dataclasses.dataclass(frozen=True)
class Design:
    """Which columns of X the gate and the experts see.

    Parameters
    ----------
    gate : tuple of int
        None of them for a constant gate.
    experts : tuple of int
    """

    gate: tuple[int, ...]
    experts: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether gate and experts see the same."""
        return self.gate == self.experts

    def rows(self, X: Any, frame: Frame) -> tuple[Array, Array]:
        """Return what gate and experts see of some rows, an intercept first.

        Parameters
        ----------
        X : array of shape (n, d)
        frame : Frame

        Returns
        -------
        gate, experts : arrays of shape (1 + columns, n)
            In standard units; the same object where they see the same columns.
        """
        d = np.shape(X)[1]
        Z = np.empty((d + 1, len(X)))
        Z[0] = 1.0
        np.subtract(np.transpose(X), frame.x_mean[:, None], out=Z[1:])
        Z[1:] /= frame.x_scale[:, None]
        everything = tuple(range(d))

        def select(columns: tuple[int, ...]) -> Array:
            if columns == everything:
                return Z
            return Z[[0, *(c + 1 for c in columns)]]

        experts = select(self.experts)
        return experts if self.shared else select(self.gate), experts


@dataclasses.dataclass(frozen=True)
class Frame:
    """Units in which coefficients are estimated: columns of mean 0 and variance 1."""

    x_mean: Array
    x_scale: Array
    y_mean: Array
    y_scale: Array

    @classmethod
    def of(cls, summary: JointSummary, *, responses: bool) -> Frame:
        """Return the units of some data; the responses' own unless asked for."""
        mean, variance = summary.of_rows()
        y_mean, y_variance = summary.of_targets()
        y_scale = spread_of(y_mean, y_variance)
        if not responses:
            y_mean, y_scale = np.zeros_like(y_mean), np.ones_like(y_scale)
        return cls(mean, spread_of(mean, variance), y_mean, y_scale)


@dataclasses.dataclass(frozen=True)
class ExpertsParams:
    """Parameters of K experts with p coefficients per response, and of their gate.

    Coefficients are in standard units (see `Frame`), the intercept first; `raw` has
    those of the data.

    Attributes
    ----------
    gate : array of shape (K, g)
        Coefficients of the log odds against the last component, whose row is zero.
    coef : array of shape (K, q, p)
        For q responses; for multinomial experts, of the log odds of q classes against
        the last one, whose coefficients are zero.
    covariance : array of shape (K, q, q)
        Of Gaussian and Student-t experts; of shape (K, 0, 0) for others.
    dof : array of shape (K,)
        Of Student-t experts; of shape (0,) for others.
    counts : array of shape (K,)
        Rows that the M-step gave to each component; zeros at a start.
    doubt : array of shape (K,)
        Sums of π(1 − π) over the rows: how many the gate is in doubt about. Of shape
        (0,) where that is not known.
    anchor : array of shape (K, 1, p)
        Where Poisson experts expand their bound; of no size for others.
    reach : array of shape (p,)
        The largest absolute value of each column that experts see, for Poisson ones.
    x_mean, x_scale, y_mean, y_scale : arrays
        The units.
    x_correlation : array of shape (d, d)
        Of the columns of X.
    """

    gate: Array
    coef: Array
    covariance: Array
    dof: Array
    counts: Array
    doubt: Array
    anchor: Array
    reach: Array
    x_mean: Array
    x_scale: Array
    y_mean: Array
    y_scale: Array
    x_correlation: Array

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return len(self.gate)

    @property
    def frame(self) -> Frame:
        """The units of the coefficients."""
        return Frame(self.x_mean, self.x_scale, self.y_mean, self.y_scale)

    def some(self, index: Any) -> ExpertsParams:
        """Return some experts, with a gate that means nothing by itself."""
        changed: dict[str, Any] = {
            name: value[index] if len(value := getattr(self, name)) else value
            for name in PER_COMPONENT
        }
        return dataclasses.replace(self, **changed)

    def ordered(self, order: Any) -> ExpertsParams:
        """Return the same mixture with its components in another order."""
        found = self.some(order)
        return dataclasses.replace(found, gate=found.gate - found.gate[-1])

    def moved(self, design: Design, frame: Frame) -> ExpertsParams:
        """Return the same mixture in other units."""
        old = self.frame

        def slopes(coef: Array, columns: tuple[int, ...]) -> Array:
            """Undo the old units of the columns and apply the new ones."""
            at = list(columns)
            raw = coef[..., 1:] / old.x_scale[at]
            shift = raw @ (frame.x_mean[at] - old.x_mean[at])
            moved = np.empty_like(coef)
            moved[..., 0] = coef[..., 0] + shift
            moved[..., 1:] = raw * frame.x_scale[at]
            return moved

        gate = slopes(self.gate, design.gate)
        coef = slopes(self.coef, design.experts)
        if len(self.covariance) and self.covariance.size:
            ratio = old.y_scale / frame.y_scale
            coef = coef * ratio[:, None]
            coef[..., 0] += (old.y_mean - frame.y_mean) / frame.y_scale
            covariance = self.covariance * ratio[:, None] * ratio
        else:
            covariance = self.covariance
        return dataclasses.replace(
            self,
            gate=gate,
            coef=coef,
            covariance=covariance,
            x_mean=frame.x_mean,
            x_scale=frame.x_scale,
            y_mean=frame.y_mean,
            y_scale=frame.y_scale,
        )

    def raw(self, design: Design) -> ExpertsParams:
        """Return the same mixture in the units of the data."""
        return self.moved(
            design,
            Frame(
                np.zeros_like(self.x_mean),
                np.ones_like(self.x_scale),
                np.zeros_like(self.y_mean),
                np.ones_like(self.y_scale),
            ),
        )
