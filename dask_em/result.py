"""What a fit returns: parameters, status and the log of how it went."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from html import escape
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMResult", "Status", "Trace"]

P = TypeVar("P")

Status = Literal["converged", "max_iter", "deadline", "interrupted", "callback"]


@dataclasses.dataclass
class Trace:
    """The log of a fit, one entry per M-step.

    Attributes
    ----------
    version : array of shape (n_m_steps,), int
        Number of the M-step, from 1.
    time : array of shape (n_m_steps,), seconds
        Since the first E-step was sent out; virtual seconds in a simulation.
    effective_passes : array of shape (n_m_steps,)
        E-steps accepted so far divided by the number of shards.
    lower_bound_before, lower_bound : array of shape (n_m_steps,)
        The bound F just before and just after the M-step, not divided by anything.
    n_reports : array of shape (n_m_steps,), int
        Reports since the M-step before.
    n_reissued : array of shape (n_m_steps,), int
        Late reports refused since then, whose E-steps were run again.
    n_resets : array of shape (n_m_steps,), int
        Reports since then that started a lost latent state anew.
    n_refused : array of shape (n_m_steps,), int
        Points refused since then, proposed by an accelerator or reached by a step, at
        which the log-likelihood turned out to be lower.
    staleness : array of shape (n_m_steps, n_shards), int
        By how many M-steps each shard's statistics were older than the parameters
        that the M-step replaced; 0 is current.
    """

    version: NDArray[np.int64]
    time: NDArray[np.float64]
    effective_passes: NDArray[np.float64]
    lower_bound_before: NDArray[np.float64]
    lower_bound: NDArray[np.float64]
    n_reports: NDArray[np.int64]
    n_reissued: NDArray[np.int64]
    n_resets: NDArray[np.int64]
    n_refused: NDArray[np.int64]
    staleness: NDArray[np.int32]

    def __len__(self) -> int:
        """Return the number of M-steps logged."""
        return len(self.version)

    def followed_by(self, later: Trace) -> Trace:
        """Return the log of this fit and of one that went on where it ended."""
        offsets = {
            "version": self.version[-1] if len(self) else 0,
            "time": self.time[-1] if len(self) else 0.0,
            "effective_passes": self.effective_passes[-1] if len(self) else 0.0,
        }
        return Trace(
            **{
                f.name: np.concatenate(
                    [
                        getattr(self, f.name),
                        getattr(later, f.name) + offsets.get(f.name, 0),
                    ]
                )
                for f in dataclasses.fields(self)
            }
        )


class TraceLog:
    """Collects the rows of a `Trace`."""

    def __init__(self, n_shards: int) -> None:
        self._n_shards = n_shards
        self._rows: list[tuple[Any, ...]] = []
        self._staleness: list[NDArray[np.int32]] = []

    def add(self, staleness: NDArray[np.int32], *row: Any) -> None:
        """Append a row, its fields in the order of `Trace`'s."""
        self._rows.append(row)
        self._staleness.append(staleness)

    @property
    def last_passes(self) -> float:
        """Effective passes at the last M-step; 0 before the first."""
        return float(self._rows[-1][2]) if self._rows else 0.0

    def trace(self) -> Trace:
        """Return what was collected, as arrays."""
        names = [f.name for f in dataclasses.fields(Trace)][:-1]
        columns = list(zip(*self._rows, strict=True)) or [()] * len(names)
        integer = {"version", "n_reports", "n_reissued", "n_resets", "n_refused"}
        arrays: dict[str, Any] = {
            name: np.array(column, dtype=np.int64 if name in integer else np.float64)
            for name, column in zip(names, columns, strict=True)
        }
        staleness = (
            np.stack(self._staleness)
            if self._staleness
            else np.zeros((0, self._n_shards), dtype=np.int32)
        )
        return Trace(staleness=staleness, **arrays)


@dataclasses.dataclass
class EMResult(Generic[P]):
    """Outcome of a fit.

    Attributes
    ----------
    params : dataclass of arrays
        The parameters.
    status : {"converged", "max_iter", "deadline", "interrupted", "callback"}
        Why the fit ended.
    message : str
        The same in a sentence; for a deadline, what was waited for.
    lower_bound : float
        The bound F at `params`, not divided by the number of rows.
    log_likelihood : float
        The log-likelihood at `params`: exact, or NaN where the fit had to end before
        every shard could be evaluated at them.
    weight : float
        Sum of the sample weights; the number of rows without weights.
    n_m_steps, n_e_steps : int
        M-steps, and E-steps of shards whose statistics arrived.
    effective_passes : float
        E-steps accepted before the last M-step, divided by the number of shards.
    resumed_from : str or None
        Checkpoint that the fit went on from.
    trace : Trace
    settings : mapping
        Schedule, transport, shards, and so on, as used.
    plan : Plan or None
        How statistics travelled, where the M-step was distributed.
    summary : object or None
        What the survey of the data found, where the M-step was distributed.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> GaussianMixture(2, random_state=0).fit(X).result_.status
    'converged'
    """

    params: P
    status: Status
    message: str
    lower_bound: float
    log_likelihood: float
    weight: float
    n_m_steps: int
    n_e_steps: int
    effective_passes: float
    resumed_from: str | None
    trace: Trace
    settings: Mapping[str, Any]
    plan: Any = None
    summary: Any = None

    @property
    def converged(self) -> bool:
        """Whether the stopping rule was met."""
        return self.status == "converged"

    def followed_by(self, later: EMResult[P]) -> EMResult[P]:
        """Return the outcome of this fit and one that went on where it ended."""
        return dataclasses.replace(
            later,
            n_m_steps=self.n_m_steps + later.n_m_steps,
            n_e_steps=self.n_e_steps + later.n_e_steps,
            effective_passes=self.effective_passes + later.effective_passes,
            trace=self.trace.followed_by(later.trace),
        )

    def __repr__(self) -> str:
        """Return one line: status, likelihood, effort."""
        return (
            f"EMResult({self.status}: log_likelihood={self.log_likelihood:.6g}, "
            f"n_m_steps={self.n_m_steps}, "
            f"effective_passes={self.effective_passes:.1f})"
        )

    def _repr_html_(self) -> str:
        rows = {
            "status": f"{self.status} ({self.message})",
            "log-likelihood": f"{self.log_likelihood:.10g}",
            "lower bound": f"{self.lower_bound:.10g}",
            "sum of weights": f"{self.weight:.10g}",
            "M-steps": self.n_m_steps,
            "effective passes": f"{self.effective_passes:.2f}",
            "resumed from": self.resumed_from or "-",
            **self.settings,
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(str(k))}</th>"
            f"<td style='text-align:left'>{escape(str(v))}</td></tr>"
            for k, v in rows.items()
        )
        return f"<table><caption>EMResult</caption><tbody>{cells}</tbody></table>"
