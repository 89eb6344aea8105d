"""How a fit without a manager goes: bounds by version, stages, and going back."""

from __future__ import annotations

import math

import numpy as np

from ..peers import saved
from ..result import Trace, TraceLog

__all__ = ["PeerLog"]


class PeerLog:
    """How a fit went: bounds by version, and where stages began."""

    def __init__(self) -> None:
        #: Bound before and after each iteration, and when it was.
        self._rows: list[tuple[float, float, float]] = []
        #: Version at which this run began, if it was resumed.
        self._base = 0
        self.stage_began = [0]
        self.bound = math.nan
        self.gain = math.inf
        self.has_parameters = False
        self.n_losses = 0

    @property
    def version(self) -> int:
        """M-steps made."""
        return self._base + len(self._rows)

    @property
    def stage(self) -> int:
        """Number of the present stage."""
        return len(self.stage_began) - 1

    def begin(self, bound: float, point: saved.Point | None) -> None:
        """Book the bound at the start."""
        self.forget()
        if point is not None:
            self._base, self.stage_began = point.version, list(point.stage_began)
        self.bound, self.has_parameters = bound, True

    def add(self, bound: float, seconds: float) -> None:
        """Book an iteration."""
        self._rows.append((self.bound, bound, seconds))
        self.gain, self.bound = bound - self.bound, bound

    def next_stage(self, bound: float) -> None:
        """Book the bound of the next stage's model."""
        self.stage_began.append(self.version)
        self.bound, self.gain = bound, math.inf

    def forget(self) -> None:
        """Forget all."""
        self._rows.clear()
        self.stage_began = [0]
        self.gain = math.inf

    def go_back(self, version: int) -> None:
        """Forget what came after a version."""
        del self._rows[max(version - self._base, 0) :]
        self.stage_began = [v for v in self.stage_began if v <= version]
        self.gain = math.inf

    def rebound(self, bound: float) -> None:
        """Book the bound where one has gone back to."""
        self.bound = bound
        if self._rows and self.stage_began[-1] < self.version:
            self.gain = bound - self._rows[-1][0]

    def measured(self, bound: float) -> None:
        """Book the exact bound of where one is, in place of an estimate."""
        self.gain, self.bound = bound - self.bound, bound
        if self._rows:
            before, _, seconds = self._rows[-1]
            self._rows[-1] = before, bound, seconds

    def trace(self, n_nodes: int) -> Trace:
        """Return the log as a trace: every node reports once for each M-step."""
        log = TraceLog(n_nodes)
        current = np.zeros(n_nodes, dtype=np.int32)
        for i, (before, after, seconds) in enumerate(self._rows, self._base + 1):
            log.add(current, i, seconds, float(i), before, after, n_nodes, 0, 0, 0)
        return log.trace()
