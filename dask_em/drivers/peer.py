"""Fits without a manager: nodes exchange statistics and make M-steps of their own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ..checkpoint import fingerprint_of
from ..peers import iteration, ping, saved, setup
from ..peers.program import MOST_NODES, Lost, Program
from ..peers.source import Source
from ..peers.table import DistributedTable
from ..result import EMResult, Status
from ..rotating_model import RotatingModel
from ..schedules.base import check_integer
from ..stopping import Stopping
from ..topologies import Network, Rotation, Topology, named_topology
from ..topologies.plan import Plan, choose, plan_of
from ..transports import named_peers
from ..transports.peers import PeerTransport
from ..transports.runner import Interrupted
from .managed import Control, Progress
from .peer_log import PeerLog

__all__ = ["PeerFit", "Stage", "fit_peers"]

R = TypeVar("R")

logger = logging.getLogger("dask_em")

#: Seconds between two snapshots, unless the user says otherwise.
SNAPSHOT_SECONDS = 10.0
#: Seconds between two checkpoints, unless the user says otherwise.
CHECKPOINT_SECONDS = 30.0
#: Bytes of parameters up to which they are brought to the client after a fit.
GATHERED = 1_000_000_000
#: Losses without any progress in between before the fit gives up.
_ATTEMPTS = 10
#: Seconds that lost nodes may take to be made anew, the deadline notwithstanding.
_GRACE = 10.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """A model, and how long to fit it before the next one takes over.

    The models of several stages share what they prepare and their ids; each begins at
    the parameters where the one before has ended.

    Parameters
    ----------
    model : SparseModel or RotatingModel
    max_iter : int
        Iterations at most.
    tol : float, default=0
        Gain of an iteration per unit of weight below which it has converged.
    """

    model: Any
    max_iter: int
    tol: float = 0.0


def fit_peers(
    stages: Sequence[Stage],
    source: Source,
    *,
    topology: Topology | str = "auto",
    transport: Any = "auto",
    shards: int | str = "auto",
    deadline: float | None = None,
    seed: int = 0,
    verbose: int = 0,
    callback: Callable[[Progress[Any]], bool | None] | None = None,
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    gather: bool | str = "auto",
    checkpoint: Any = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    resume: Any = None,
) -> EMResult[DistributedTable] | Awaitable[EMResult[DistributedTable]]:
    """Fit models whose M-step is distributed.

    Parameters
    ----------
    stages : sequence of Stage
    source : Source
    topology, transport, shards
        As in `fit_em`; a shard is a node.
    deadline : float, optional
        Seconds after which the fit ends with what it has.
    seed : int, default=0
    verbose : int, default=0
        1 prints a line per iteration.
    callback : callable, optional
        Called with a `Progress` (without params) after every iteration; True ends the
        fit.
    snapshot_seconds : float, default=10
        Seconds between two copies of each node's parameters to another worker.
    gather : bool or "auto", default="auto"
        Whether to bring the parameters here after the fit; by default if they take a
        gigabyte at most.
    checkpoint : str or path, optional
        Directory that all workers reach, or URL that fsspec understands: each node
        saves its part of the parameters there now and then.
    checkpoint_seconds : float, default=30
        Seconds between two saves.
    resume : bool or str or path, optional
        True goes on from `checkpoint` if there is one; a path must hold one.

    Returns
    -------
    EMResult or awaitable of it
    """
    if shards != "auto":
        if isinstance(shards, str):
            raise TypeError(f"shards must be 'auto' or an integer, got {shards!r}.")
        check_integer("shards", shards, 1)
        if shards > MOST_NODES:
            raise ValueError(
                f"shards={shards} are nodes here, each two of which may send each "
                f"other messages; {MOST_NODES} are the most."
            )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}.")
    if gather not in (True, False, "auto") or (
        isinstance(gather, int) and not (isinstance(gather, bool))
    ):
        raise ValueError(f"gather must be True, False or 'auto', got {gather!r}.")
    saved.check_places(checkpoint, resume)
    for stage in stages:
        Stopping(stage.tol, stage.max_iter, deadline)
    chosen = named_topology(topology)
    kind = _kind_of_fit(stages, chosen)
    channel = named_peers(transport)
    fit = kind(
        stages=stages,
        source=source,
        topology=chosen,
        transport=channel,
        n_nodes=None if shards == "auto" else int(shards),
        deadline=deadline,
        seed=seed,
        verbose=verbose,
        callback=callback,
        snapshot_seconds=snapshot_seconds,
        gather=gather,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
    )
    return channel.drive(fit.run, fit.control.interrupt)


def _kind_of_fit(stages: Sequence[Stage], topology: Topology) -> type[PeerFit]:
    """Return what fits these models so."""
    rotates = isinstance(topology, Rotation)
    for stage in stages:
        if isinstance(stage.model, RotatingModel) != rotates:
            name = type(stage.model).__name__
            raise ValueError(
                f"{name} exchanges statistics, and Rotation moves parameters; choose "
                "another topology, or a dask_em.rotating_model.RotatingModel."
                if rotates
                else f"{name} is for topology='rotation'; got {topology.name}."
            )
    if not rotates:
        return PeerFit
    if len(stages) > 1:
        raise ValueError(
            f"with topology='rotation' a fit has one stage; got {len(stages)}."
        )
    from .rotation import RotationFit  # which is a PeerFit

    return RotationFit


@dataclasses.dataclass
class PeerFit:
    """A fit without a manager; see `fit_peers` for the parameters."""

    stages: Sequence[Stage]
    source: Source
    topology: Topology
    transport: PeerTransport
    n_nodes: int | None
    deadline: float | None = None
    seed: int = 0
    verbose: int = 0
    callback: Callable[[Progress[Any]], bool | None] | None = None
    snapshot_seconds: float = SNAPSHOT_SECONDS
    gather: bool | str = "auto"
    checkpoint: Any = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    resume: Any = None
    control: Control = dataclasses.field(default_factory=Control)

    async def run(self) -> EMResult[DistributedTable]:
        """Run the fit, and leave nothing but its result behind."""
        self._began = time.monotonic()
        self._zero = self.transport.now()
        self._summary: Any = None
        self._plan: Plan | None = None
        self._losses = 0
        self._log = PeerLog()
        self._target: saved.Shelf | None = None
        self._saved = -1
        self._kept = 0.0
        self._resumed_from: str | None = None
        try:
            self._n = await self._in_time(
                self.transport.open(self.source, self.n_nodes), "data were got ready"
            )
            await self._surely(self._set_up)
            return await self._climb()
        finally:
            await self.transport.close()

    # ---------------------------------------------------------------- getting ready

    @property
    def _model(self) -> Any:
        return self.stages[0].model

    async def _set_up(self) -> None:
        """Let every node know what it holds and whom to send what."""
        known = await self._survey()
        # nodes have told each other, but those made anew have not been told
        program = [*setup.prepare(self._model, known), *setup.relate(self._n)]
        *_, shared = await self._run(program)
        if self._plan is None:
            self._plan = await self._make_plan(_added(shared))
        self._plan = dataclasses.replace(self._plan, places=self.transport.places)
        await self._run(setup.lay_out(self._plan))

    async def _survey(self) -> Any:
        """Bring data to nodes, and look at them; return what was known before."""
        await self._in_time(self.transport.install(), "data were brought to nodes")
        known = self._summary
        if known is None:
            found = await self._run(setup.survey(self._model, self._n))
            summary = found[-1][0]
            if not hasattr(summary, "weight"):
                raise TypeError(
                    f"{type(self._model).__name__}.survey must return an object with a "
                    f"property weight, got {type(summary).__name__}."
                )
            self._model.check(summary)
            self._summary = summary
        return known

    async def _make_plan(self, shared: setup.Overlaps) -> Plan:
        found = tuple(self.topology.candidates(self._n, shared.overlaps))
        (tallies,) = await self._run([setup.PlanExchange(found)])
        totals = [_added(parts) for parts in zip(*filter(None, tallies), strict=True)]
        plans = [
            plan_of(topology, tally, shared, self._model.width)
            for topology, tally in zip(found, totals, strict=True)
        ]
        network = Network()
        if len(plans) > 1 and self._n > 1:
            network = await ping.measure(self._run, self.transport.places)
        return choose(plans, network)

    async def _run(self, program: Program) -> list[list[Any]]:
        return await self._in_time(self.transport.run(program), None)

    async def _in_time(self, work: Coroutine[Any, Any, R], what: str | None) -> R:
        """Wait for something; before there are parameters, not beyond the deadline."""
        task = asyncio.ensure_future(work)
        began = time.monotonic()
        try:
            while not task.done():
                left = 0.25
                if (
                    self.deadline is not None
                    and not self.transport.virtual
                    and (what is not None or not self._log.has_parameters)
                ):
                    end = self._began + self.deadline
                    if self._log.has_parameters:  # they may yet be saved
                        end = max(end, began + _GRACE)
                    left = min(left, end - time.monotonic())
                await asyncio.wait({task}, timeout=max(left, 0.0))
                if task.done():
                    break
                if self._log.has_parameters and what is None:
                    continue  # an iteration is finished before the fit ends
                if self.control.reason is not None:
                    raise Interrupted("interrupted before there were parameters")
                if left <= 0:
                    raise TimeoutError(
                        f"the deadline of {self.deadline:g} s passed while "
                        f"{what or 'nodes were set up'}; allow more time."
                    )
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    # -------------------------------------------------------------------- the climb

    async def _climb(self) -> EMResult[DistributedTable]:
        """Iterate until it is time to stop."""
        log = self._log
        await self._surely(self._begin)
        self._kept = written = time.monotonic()
        ended = False  # by the callback
        while True:
            status: Any = "callback" if ended else self._stopped()
            if status == "next":
                await self._surely(self._next_stage)
                continue
            if status is not None:
                self._check_that_there_is_something(status)
                last = (self._conclude, self._save, self._export)
                for work in last:
                    if not await self._surely(work):
                        break
                else:
                    return self._result(status)
                ended = False
                continue
            if not await self._surely(self._iterate):
                continue
            if self.verbose:
                print(
                    f"  Iteration {log.version}\t log-likelihood "
                    f"{log.bound:.10g}\t gain {log.gain / self._weight:.3g}"
                )
            ended = await self._called_back()
            if time.monotonic() >= written + self.checkpoint_seconds:
                await self._surely(self._save)
                written = time.monotonic()

    async def _conclude(self) -> None:
        """See to it that the bound is that of the parameters: it is."""

    def _check_that_there_is_something(self, status: str) -> None:
        """Raise where a fit had to end before it made anything."""
        if self._log.version > 0:
            return
        if status == "interrupted":
            raise Interrupted("interrupted before the first M-step")
        if status == "deadline":
            raise TimeoutError(
                f"the deadline of {self.deadline:g} s passed before the first M-step; "
                "allow more time."
            )

    def _stopped(self) -> str | None:
        """Return why to stop here, "next" for the next stage, or None."""
        log, stage = self._log, self.stages[self._log.stage]
        if self.control.reason is not None:
            return self.control.reason
        if self.deadline is not None and self._elapsed() > self.deadline:
            return "deadline"
        done = log.version - log.stage_began[-1]
        converged = stage.tol > 0 and done > 0 and log.gain < stage.tol * self._weight
        if not converged and done < stage.max_iter:
            return None
        if log.stage + 1 < len(self.stages):
            return "next"
        return "converged" if converged else "max_iter"

    def _elapsed(self) -> float:
        """Return the seconds since the fit began, on the transport's clock."""
        return self.transport.now() - self._zero

    @property
    def _weight(self) -> float:
        return float(self._summary.weight) or 1.0

    async def _begin(self) -> None:
        """Start from scratch."""
        assert self._plan is not None
        model = self._model
        (sums,) = await self._run([iteration.Begin(model, self.seed)])
        program: Program = [iteration.EStep(model)]
        if any(sums):
            rounds = iteration.exchange(self._plan)
            program = [*rounds, iteration.MStep(model, 0), *program]
        point = await self._point()
        if point is not None:
            stage = self.stages[len(point.stage_began) - 1]
            program = [
                saved.Restore(self._shelf.location, point),
                iteration.EStep(stage.model, afresh=True),
            ]
        *_, bounds = await self._run(program)
        self._log.begin(self._sum(bounds), point)

    async def _point(self) -> saved.Point | None:
        """Return where to resume, if so; and see to it that checkpoints can be."""
        if self.checkpoint is None and not self.resume:
            return None
        own = self.resume is None or isinstance(self.resume, bool)
        resumed = self.checkpoint if own else self.resume
        (sums,) = await self._run([saved.Checksum()])
        fingerprint = {
            "models": [fingerprint_of(s.model, self._summary) for s in self.stages],
            "ids": sum(sums) % 2**64,
            "weight": float(self._summary.weight),
        }
        self._shelf = saved.Shelf(resumed, fingerprint)
        point = None
        if (
            self._saved >= 0 and self._target is not None
        ):  # after a loss: this fit's own
            self._shelf = self._target
            return self._shelf.load()
        if self.resume and not (self.resume is True and not self._shelf.exists()):
            point = self._shelf.load()
            self._resumed_from = str(resumed)
        if self.checkpoint is not None and self._shelf.location != str(self.checkpoint):
            self._target = saved.Shelf(self.checkpoint, fingerprint)
        elif self.checkpoint is not None:
            self._target = self._shelf
        if self._target is not None:
            if self._target.exists():
                self._target.load()  # raises for one of another fit, before any work
            folder = self._target.new_folder()
            await self._run([saved.Probe(self._target.location, folder)])
            self._target.drop(folder)
        return point

    async def _save(self) -> None:
        """Let all nodes write their parts of the parameters."""
        shelf, log = self._target, self._log
        if shelf is None or log.version == self._saved:
            return
        folder = None
        try:
            folder = shelf.new_folder()
            began = tuple(log.stage_began)
            point = saved.Point(log.version, began, log.bound, folder, self._n)
            save = saved.Save(shelf.location, folder)
            await self._run([*self._to_save(), save])
            shelf.put(point)
            folder, self._saved = None, log.version
        except (OSError, ValueError) as error:  # the fit is worth more than its copy
            logger.warning("no checkpoint was saved in %s: %s", shelf.location, error)
        finally:
            if folder is not None:
                with contextlib.suppress(OSError):
                    shelf.drop(folder)

    def _to_save(self) -> Program:
        """Return the steps before parameters are where they are saved from."""
        return []

    async def _iterate(self) -> None:
        """Exchange statistics, make the M-step everywhere, and the next E-step."""
        assert self._plan is not None
        model, log = self.stages[self._log.stage].model, self._log
        version = log.version + 1
        due = time.monotonic() >= self._kept + self.snapshot_seconds
        kept_by = self.transport.looked_after if due else ()
        program = iteration.iteration(model, self._plan, version, kept_by)
        *_, bounds = await self._run(program)
        if due:
            self._kept = time.monotonic()
        log.add(self._sum(bounds), self._elapsed())
        self._losses = 0

    def _sum(self, bounds: Sequence[float]) -> float:
        """Add up the parts of the bound."""
        bound = math.fsum(bounds)
        if not math.isfinite(bound):
            model = self.stages[self._log.stage].model
            raise ArithmeticError(
                f"the bound of {type(model).__name__} is {bound} at version "
                f"{self._log.version}: its E-step or M-step has left what floating "
                "point can hold; check the data for extreme values, and priors."
            )
        return bound

    async def _next_stage(self) -> None:
        """Let the next model take over."""
        log = self._log
        (bounds,) = await self._run(
            [iteration.EStep(self.stages[log.stage + 1].model, afresh=True)]
        )
        log.next_stage(self._sum(bounds))

    async def _called_back(self) -> bool:
        if self.callback is None:
            return False
        progress = Progress(
            version=self._log.version,
            effective_passes=float(self._log.version),
            lower_bound=self._log.bound / self._weight,
            gain=self._log.gain / self._weight,
            params=None,
        )
        return bool(await asyncio.to_thread(self.callback, progress))

    # --------------------------------------------------------------------- recovery

    async def _surely(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something that the loss of a worker may spoil.

        Return False if that happened, and the fit has gone back to where all nodes
        were; before there was such a place, it is done again.
        """
        lost = False
        while True:
            try:
                if lost:
                    await self._recover()
                    if self._log.has_parameters:
                        return False
                await work()
                return True
            except Lost as error:
                lost = True
                self._losses += 1
                if self._losses >= _ATTEMPTS:
                    raise RuntimeError(
                        f"the fit has lost workers {_ATTEMPTS} times without any "
                        "progress; look into the logs of the workers, which may lack "
                        "memory (more of them, or more shards, need less each)."
                    ) from error
                logger.warning("%s; the fit goes back to its last snapshot", error)

    async def _recover(self) -> None:
        """Make lost nodes anew, and go back to where all were."""
        self._log.n_losses += 1
        await self._in_time(self.transport.recover(), "lost nodes were made anew")
        await self._set_up()
        if not self._log.has_parameters:
            return
        (held,) = await self._run([iteration.ShowSnapshots()])
        links_of = iteration.snapshot_to_use(held, self._n)
        if links_of is None:
            self._log.forget()
            await self._begin()
        else:
            await self._return(*links_of)
        self._kept = -math.inf  # copies that others kept may be gone

    async def _return(self, version: int, links: tuple[tuple[int, int], ...]) -> None:
        """Go back to a snapshot of all nodes."""
        ahead = version > self._log.version  # lost after the M-step
        if not ahead:
            self._log.go_back(version)
        stage = self.stages[self._log.stage]
        afresh = version == self._log.stage_began[-1] > 0
        *_, bounds = await self._run(
            [
                iteration.ReturnSnapshots(links, version),
                iteration.RollBack(version),
                iteration.EStep(stage.model, afresh),
            ]
        )
        bound = self._sum(bounds)
        if ahead:
            self._log.add(bound, self._elapsed())
        else:
            self._log.rebound(bound)

    # ----------------------------------------------------------------------- result

    async def _export(self) -> None:
        """Take the parameters out of the nodes."""
        plan = self._plan
        assert plan is not None
        pieces = await self._in_time(self.transport.export(), None)
        self._table = DistributedTable(pieces, plan.n_statistics, plan.width)
        small = self.gather == "auto" and self._table.nbytes <= GATHERED
        if small or self.gather is True or self.transport.kind == "local":
            fetching = self.transport.unless_lost(self._table.fetch())
            await self._in_time(fetching, None)

    def _result(self, status: Status) -> EMResult[DistributedTable]:
        plan = self._plan
        assert plan is not None
        log = self._log
        messages = {
            "converged": "the gain fell below tol",
            "max_iter": "all iterations were made",
            "deadline": "the deadline passed",
            "interrupted": "interrupted",
            "callback": "a callback ended it",
        }
        return EMResult(
            params=self._table,
            status=status,
            message=messages[status],
            lower_bound=log.bound,
            log_likelihood=log.bound,
            weight=self._weight,
            n_m_steps=log.version,
            n_e_steps=self._n * (log.version + 1),
            effective_passes=float(log.version),
            resumed_from=self._resumed_from,
            trace=log.trace(self._n),
            settings={
                "schedule": "synchronous",
                "topology": plan.topology.name,
                "transport": self.transport.kind,
                "shards": self._n,
                "numbers sent per exchange": plan.total,
                "losses": log.n_losses,
            }
            | self._more_settings(),
            plan=plan,
            summary=self._summary,
        )

    def _more_settings(self) -> dict[str, Any]:
        """Return what else there is to say of how it was done."""
        return {}


def _added(parts: Any) -> Any:
    """Add up what several nodes have; helpers have None."""
    found = [part for part in parts if part is not None]
    return functools.reduce(lambda a, b: a + b, found)
