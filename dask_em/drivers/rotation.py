"""Fits in which slices of the parameters go from node to node."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ..peers import cells, copies, rotation, saved
from ..peers.program import Program
from ..topologies import Rotation
from ..topologies.base import pairs
from ..topologies.rotation import rotation_plan
from .peer import PeerFit

__all__ = ["RotationFit"]

#: Passes that find the sums of rows, where only those of columns are known.
_FOLDS = 5


@dataclasses.dataclass
class RotationFit(PeerFit):
    """A fit by rotation; see `fit_peers` for the parameters.

    An iteration is a pass. Its bound is measured while sums change, so it is an
    estimate. Before the fit ends it makes a *rebuild*: a pass at sums that stay as they
    are, which yields their exact bound, and as new sums what one step of EM would make
    of them. Starts, and what is left after a loss, become a state by a rebuild, too.
    """

    async def run(self) -> Any:
        """Run the fit."""
        #: Whether the bound is exact, and new sums wait to be adopted.
        self._rebuilt = False
        self._n_rebuilds = self._n_extra = 0
        return await super().run()

    @property
    def _rotation(self) -> Rotation:
        assert isinstance(self.topology, Rotation)
        return self.topology

    # ---------------------------------------------------------------- getting ready

    async def _set_up(self) -> None:
        """Cut the data of all nodes."""
        known = await self._survey()
        (there,) = await self._run([cells.HasBlocks()])
        places = self.transport.places
        cut = cells.Cut(
            self._model,
            self.seed,
            self._rotation.slices_per_node,
            self._rotation.in_memory,
            tuple(map(places.count, places)),
        )
        steps = cells.set_up(self._model, cut, known, there[:-1])
        *_, found = await self._run(steps)
        lengths, lower_bound = found[0]
        self._plan = dataclasses.replace(
            rotation_plan(
                self._rotation, lengths, self._n, self._model.width, lower_bound
            ),
            places=places,
        )

    # --------------------------------------------------------------------- programs

    def _laps(self, sub_epoch: Callable[[int, int], Program]) -> Program:
        """Return the steps of a pass: some laps, each of all sub-epochs."""
        laps = self._rotation.slices_per_node
        program: list[Any] = []
        for lap in range(laps):
            program += [rotation.Turn(lap)] if laps > 1 else []
            for t in range(self._n):
                program += sub_epoch(lap, t)
        return [*program, *([rotation.Turn(None)] if laps > 1 else [])]

    def _tell(self, extra: Any = None) -> rotation.TellSums:
        most = self._rotation.max_extra if extra is not None else 0
        return rotation.TellSums(pairs(self._n), extra, most)

    def _pass_on(self, lap: int, t: int, *, gossip: bool = False) -> Program:
        ring = self._rotation.ring(self._n)
        return [rotation.PassSlice(lap, t, gossip, ring)] if ring else []

    def _start(self) -> Program:
        """Return the steps that make the slices of a start."""
        model = self._model
        return [
            rotation.StartSlices(model, self.seed),
            *self._laps(
                lambda lap, t: [rotation.Pool(model, lap, t), *self._pass_on(lap, t)]
            ),
        ]

    def _rebuild(self) -> Program:
        """Return a pass at sums that stay as they are."""
        model = self._model
        return [
            rotation.SumUp(of_slices=True),
            self._tell(),
            rotation.OpenRebuild(model),
            *self._laps(
                lambda lap, t: [rotation.Rebuild(model, lap, t), *self._pass_on(lap, t)]
            ),
            rotation.Bound(),
        ]

    def _pass(self) -> Program:
        """Return the sweeps of a pass."""
        model, how = self._model, self._rotation
        gossip = how.wait == "neighbours"

        def sub_epoch(lap: int, t: int) -> list[Any]:
            program: list[Any] = [rotation.Sweep(model, lap, t)]
            if gossip:
                due = how.max_staleness and (lap * self._n + t + 1) % how.max_staleness
                told = [self._tell()] if due == 0 else []
                return [*program, *self._pass_on(lap, t, gossip=True), *told]
            extra = how.wait == "extra_updates" and how.max_extra > 0
            again = rotation.Sweep(model, lap, t, extra=True) if extra else None
            return [*program, self._tell(again), *self._pass_on(lap, t)]

        laps = self._laps(sub_epoch)
        return [rotation.SumUp(), self._tell(), *laps, rotation.Bound(model)]

    # -------------------------------------------------------------------- the climb

    async def _begin(self) -> None:
        """Start from scratch, or where another fit has ended."""
        await self._run(self._start())
        if self.checkpoint is not None or self.resume:
            await self._run([copies.Publish(0)])
        point = await self._point()
        if point is not None:
            location = self._shelf.location
            restore: Program = [
                saved.Restore(location, point),
                copies.Take(self._model),
            ]
            await self._run([*restore, *self._fold()])
        self._rebuilt = False
        self._log.begin(await self._exactly(), point)

    def _fold(self) -> Program:
        """Return the steps that find the sums of rows of nodes that have none."""
        return [*self._rebuild(), rotation.Adopt(fold=True)] * _FOLDS

    async def _exactly(self) -> float:
        """Make a rebuild, and return the exact bound."""
        *_, found = await self._run(self._rebuild())
        self._rebuilt = True
        self._n_rebuilds += 1
        return self._sum([bound for bound, _ in found])

    async def _iterate(self) -> None:
        """Make a pass; where it gains little, see what is really gained."""
        log, stage = self._log, self.stages[0]
        version = log.version + 1
        program: list[Any] = [rotation.Adopt()] if self._rebuilt else []
        program += self._pass()
        due = time.monotonic() >= self._kept + self.snapshot_seconds
        kept_by = self.transport.looked_after if due else ()
        if kept_by:
            laps = range(self._rotation.slices_per_node)
            program += [
                copies.KeepSlices(kept_by, version, lap, lap == laps[-1])
                for lap in laps
            ]
        self._rebuilt = False
        *_, found = await self._run(program)
        if due:
            self._kept = time.monotonic()
        bound = self._sum([bound for bound, _ in found])
        self._n_extra += sum(extra for _, extra in found)
        log.add(bound, self._elapsed())
        self._losses = 0
        if stage.tol > 0 and log.gain < stage.tol * self._weight:
            log.measured(await self._exactly())

    def _stopped(self) -> str | None:
        """Return why to stop here, or None: estimates do not count as convergence."""
        status = super()._stopped()
        if status == "converged" and not self._rebuilt:
            return None
        return status

    async def _conclude(self) -> None:
        """Make the bound exact."""
        if not self._rebuilt:
            self._log.measured(await self._exactly())

    def _to_save(self) -> Program:
        return [copies.Publish(self._log.version)]

    async def _return(self, version: int, links: tuple[tuple[int, int], ...]) -> None:
        """Go back to copies of the slices of all nodes."""
        back = [
            copies.ReturnSlices(links, version, lap)
            for lap in range(self._rotation.slices_per_node)
        ]
        await self._run([*back, copies.GoBack(version), *self._fold()])
        self._rebuilt = False
        bound, log = await self._exactly(), self._log
        if version > log.version:  # lost after the pass
            log.add(bound, self._elapsed())
        else:
            log.go_back(version)
            log.rebound(bound)

    # ----------------------------------------------------------------------- result

    async def _export(self) -> None:
        """Take the slices out of the nodes."""
        await self._run([copies.Publish(self._log.version, last=True)])
        await super()._export()

    def _more_settings(self) -> dict[str, Any]:
        return {
            "schedule": self._rotation.wait,
            "extra updates": self._n_extra,
            "rebuilds": self._n_rebuilds,
        }
