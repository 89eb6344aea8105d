"""A whole fit: survey, starts, local fits or EM from each, the best one kept."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from ..acceleration import Acceleration, named_acceleration
from ..assignment import Assignment
from ..checkpoint import Checkpoint, Checkpointer, fingerprint_of
from ..model import Block, Model, e_step_of
from ..reduction.base import LocalFit, Reduced
from ..result import EMResult, Status, TraceLog
from ..sampling import SAMPLE_ROWS, canonical, merge
from ..schedules import (
    BoundedStaleness,
    Incremental,
    Schedule,
    Synchronous,
    named_schedule,
)
from ..sharding import Data, Piece, Shard
from ..statistics import Statistics
from ..stopping import Stopping
from ..transports import Local, Transport
from ..transports.runner import Interrupted
from .managed import Control, ManagedRun, Progress
from .one_shot import Evaluate, FitAlone
from .survey import DrawRows, SurveyRows, added, check_summaries

__all__ = ["CHECKPOINT_SECONDS", "Fit"]

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)
R = TypeVar("R")

logger = logging.getLogger("dask_em")

#: Gain of a pass per unit of weight at which a fit under a schedule that mixes
#: versions hands over to a synchronous one, where a model asks for that.
COARSE = 1e-6
#: Gain of a pass per unit of weight that ends local fits which passes over all rows
#: follow.
LOCAL_TOL = 1e-4
#: Rows on which the time of an E-step is measured before shards are made, to begin
#: with, and seconds that are long enough to tell.
_PROBE_ROWS = 64
_PROBE_SECONDS = 0.002
#: Groups of shards that threads visit in turn, and rows of a shard at least.
_GROUPS = 8
_GROUP_ROWS = 25
#: Seconds between two checkpoints, unless the user says otherwise.
CHECKPOINT_SECONDS = 30.0


@dataclasses.dataclass
class Fit:
    """A whole fit: survey, starts, EM from each of them, the best one kept.

    See `fit_em` for the parameters.
    """

    model: Model[Any, Any]
    data: Data
    transport: Transport
    schedule: Schedule | str = "auto"
    shards: int | str = "auto"
    hand_out: bool = True
    stopping: Stopping = dataclasses.field(default_factory=Stopping)
    n_init: int = 1
    start: Any = None
    checkpoint: Any = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    resume: Any = None
    seed: int = 0
    verbose: int = 0
    verbose_interval: int = 10
    callback: Callable[[Progress[Any]], bool | None] | None = None
    acceleration: Acceleration | str | None = "auto"
    strategy: str = "em"
    n_polish: int | None = None
    control: Control = dataclasses.field(default_factory=Control)

    async def run(self) -> EMResult[Any]:
        """Run the fit on the transport, and leave nothing behind on it."""
        transport = self.transport
        self._began = time.monotonic()
        self._asked: set[Future[Any]] = set()
        try:
            point = await self._in_time(self._open(), "data and workers were got ready")
            # the deadline counts from the call, on the transport's clock
            began = transport.now()
            if not transport.virtual:
                began -= time.monotonic() - self._began
            return await self._best_of_starts(point, began)
        finally:
            try:
                for future in list(self._asked):  # whoever asked takes his out
                    future.cancel()
            finally:
                await transport.close()

    async def _open(self) -> Checkpoint | None:
        """Get everything ready that all starts share."""
        wanted = None if self.shards == "auto" else int(self.shards)
        if wanted is None and self._by_groups:
            wanted = self._many()
        self._pieces = await self.transport.open(
            self.data, wanted, one_each=self.strategy != "em"
        )
        self._calls = 0
        summaries = await self._map(SurveyRows(self.model))
        check_summaries(summaries, self._pieces, self.data.n_features)
        summary = added(summaries)
        self.model.check(summary)
        self._summary = summary
        point = self._restore(summary)
        self._sample = await self._draw_sample()
        if self.model.prepares:
            await self.transport.prepare(self.model, summary)
        return point

    @property
    def _by_groups(self) -> bool:
        """Whether threads visit shards in turn, as the model likes it."""
        plain = isinstance(self.transport, Local) and self.strategy == "em"
        return plain and self.model.incremental and self.schedule != "synchronous"

    def _many(self) -> int | None:
        """Return shards for groups of them; None for data too small to be cut."""
        at_once = max(self.transport.n_workers_expected(), 2)
        n = min(_GROUPS * at_once, self.data.n_rows // _GROUP_ROWS)
        return n if n >= _GROUPS else None

    # ---------------------------------------------------------- before the loop

    async def _in_time(self, work: Coroutine[Any, Any, R], what: str) -> R:
        """Wait for something outside the loop, which minds the deadline itself."""
        task = asyncio.ensure_future(work)
        deadline = None if self.transport.virtual else self.stopping.deadline
        try:
            while not task.done():
                left = 0.25
                if deadline is not None:
                    left = min(left, self._began + deadline - time.monotonic())
                await asyncio.wait({task}, timeout=max(left, 0.0))
                if task.done():
                    break
                if self.control.reason is not None:
                    raise Interrupted(f"interrupted while {what}")
                if left <= 0:
                    nobody = not getattr(self.transport, "workers", True)
                    raise TimeoutError(
                        f"the deadline of {deadline:g} s passed while {what}"
                        f"{': there is no worker' if nobody else ''}; check that the "
                        "cluster has workers that answer, or give the fit a longer "
                        "deadline."
                    )
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=5)

    async def _map(self, fn: Callable[[Any, np.random.Generator], Any]) -> list[Any]:
        """Apply `fn` to all pieces, with random numbers that depend on the seed."""
        self._calls += 1
        seed = np.random.SeedSequence([self.seed, self._calls]).generate_state(1)[0]
        return await self.transport.map(fn, int(seed))

    async def _mapreduce(self, fn: Callable[[Any, np.random.Generator], Any]) -> Any:
        """Apply `fn` to all pieces and add up in the order of the pieces."""
        return added(await self._map(fn))

    async def _draw_sample(self) -> Block:
        fraction = SAMPLE_ROWS / self._summary.n_rows
        # up to twice as many are taken whole: only whole data give the same start
        # for weights and repeated rows
        whole = fraction >= 0.5
        blocks = await self._mapreduce(DrawRows(1.0 if whole else fraction))
        sample = merge(blocks)
        return canonical(sample) if whole else sample

    async def _start(self, rng: np.random.Generator) -> Any:
        """Let the model find starting parameters, in a thread of its own.

        There, it may wait for what it asks of the workers.
        """
        loop = asyncio.get_running_loop()

        def mapreduce(fn: Callable[[Any, np.random.Generator], Any]) -> Any:
            future = asyncio.run_coroutine_threadsafe(self._mapreduce(fn), loop)
            self._asked.add(future)
            try:
                return future.result()
            finally:
                self._asked.discard(future)

        return await asyncio.to_thread(
            self.model.start, self._summary, self._sample, rng=rng, mapreduce=mapreduce
        )

    async def _make_shards(self, params: Any) -> list[Shard]:
        """Group pieces into as many shards as the time of an E-step suggests."""
        pieces = self._pieces
        workers = max(len(self.transport.workers), 1)
        if self.shards == "auto" and len(pieces) > workers and not self._by_groups:
            per_row = await asyncio.to_thread(self._probe, params)
            seconds = per_row * self.data.n_rows / workers
            per_worker = self.transport.shards_per_worker(seconds)
        else:
            per_worker = len(pieces)
        by_owner: dict[str, list[Piece]] = {}
        for piece in pieces:
            by_owner.setdefault(piece.owner, []).append(piece)
        groups: list[Sequence[Piece]] = []
        for owned in by_owner.values():
            n = min(per_worker, len(owned))
            bounds = [len(owned) * k // n for k in range(n + 1)]
            groups += [owned[a:b] for a, b in itertools.pairwise(bounds)]
        # in the order of the rows, whoever holds them: sums then repeat to the last bit
        groups.sort(key=lambda group: group[0].index)
        return [Shard(i, tuple(group)) for i, group in enumerate(groups)]

    def _probe(self, params: Any) -> float:
        """Return seconds of an E-step per row, from some rows in this process."""
        n_rows = min(_PROBE_ROWS, self._sample.n_rows)
        while True:
            rows = self._sample.rows(slice(0, n_rows))
            prepared = [self.model.prepare(rows, self._summary)]
            seconds = float("inf")
            for _ in range(2):  # the first may compile
                began = time.perf_counter()
                e_step_of(self.model, params, prepared)
                seconds = min(seconds, time.perf_counter() - began)
            # enough rows that what a call costs in itself does not count
            if seconds > _PROBE_SECONDS or rows.n_rows == self._sample.n_rows:
                return seconds / rows.n_rows
            n_rows *= 4

    # ---------------------------------------------------------------- the loop

    async def _best_of_starts(
        self, point: Checkpoint | None, began: float
    ) -> EMResult[Any]:
        best: EMResult[Any] | None = None
        seeds = np.random.SeedSequence(self.seed).spawn(self.n_init)
        first = point.init if point else 0
        for init in range(first, max(self.n_init, first + 1)):
            resumed = point is not None and init == point.init
            if point is not None and init == point.init:
                params = self.model.adopt(point.params, self._summary)
            elif self.start is not None:
                params = self.model.adopt(self.start, self._summary)
            else:
                rng = np.random.default_rng(seeds[init])
                try:
                    params = await self._in_time(
                        self._start(rng), "the model looked for a start"
                    )
                except (TimeoutError, Interrupted) as error:
                    if best is None:
                        raise
                    why: Status = "interrupted"
                    if isinstance(error, TimeoutError):
                        why = "deadline"
                    best = dataclasses.replace(best, status=why, message=str(error))
                    break
            if self.strategy == "em" or resumed:
                result = await self._maximise(params, init, best, point, began)
            else:
                result = await self._in_one_shot(params, init, best, point, began)
            if best is None or _better(self.model, result, best):
                best = result
            if result.status in ("deadline", "interrupted"):
                break
        assert best is not None
        if point is not None:
            if point.best is not None and not best.log_likelihood >= (
                point.best_bound * best.weight
            ):
                params = self.model.adopt(point.best, self._summary)
                best = await self._maximise(params, self.n_init, None, None, began)
            best.resumed_from = self._resumed_from
        return best

    async def _in_one_shot(
        self,
        params: Any,
        init: int,
        best: EMResult[Any] | None,
        point: Checkpoint | None,
        began: float,
    ) -> EMResult[Any]:
        """Fit locally, reduce to one, and polish by passes over all rows."""
        until = self.stopping
        seconds = None
        if until.deadline is not None and not self.transport.virtual:
            # most of what is left, for the local fits that a worker has
            left = self._began + until.deadline - time.monotonic()
            turns = math.ceil(len(self._pieces) / max(len(self.transport.workers), 1))
            seconds = 0.7 * left / turns
        tol = until.tol
        if self.strategy == "one_shot+polish" and tol > 0:
            tol = max(tol, LOCAL_TOL)  # what is left, the passes over all rows make up
        alone = FitAlone(self.model, params, tol, until.max_iter, seconds)
        local = await self._in_time(self._map(alone), "the local fits were made")
        fits: list[LocalFit[Any]] = [fit for one in local for fit in one]
        if not any(fit.weight > 0 for fit in fits):
            raise ValueError(
                f"none of {len(fits)} local fits succeeded; use fewer shards, or "
                "strategy='em'."
            )
        rng = np.random.default_rng([self.seed, init])
        started = time.perf_counter()
        reduced: Reduced[Any] = await self._in_time(
            asyncio.to_thread(self.model.reduce, fits, self._sample, rng),
            "the local fits were reduced",
        )
        report: dict[str, Any] = {
            "local_fits": len(fits),
            "kept": len(reduced.kept),
            "nbytes": sum(fit.nbytes for fit in fits),
            "local_passes": max(fit.n_iter for fit in fits),
            "local_seconds": max(fit.seconds for fit in fits if fit.weight > 0),
            "reduction_seconds": time.perf_counter() - started,
            "objective": float(reduced.objective[-1]),
            "reduction_steps": len(reduced.objective) - 1,
        }
        rows = sum(fit.weight for fit in fits)
        passes = sum(fit.n_iter * fit.weight for fit in fits) / rows
        if self.strategy == "one_shot":
            candidates = {"reduction": reduced.params, **reduced.alternatives}
            evaluate = Evaluate(self.model, tuple(candidates.values()))
            found = await self._in_time(
                self._mapreduce(evaluate), "the likelihood was computed"
            )
            value, chosen, stats = max(
                (
                    (float(self.model.lower_bound(params, stats)), name, stats)
                    for (name, params), stats in zip(
                        candidates.items(), found.stats, strict=True
                    )
                ),
                key=lambda one: one[0] if one[0] == one[0] else -math.inf,
            )
            report["chosen"] = chosen
            converged = all(fit.converged for fit in fits if fit.weight > 0)
            result: EMResult[Any] = EMResult(
                params=self.model.complete(candidates[chosen], stats),
                status="converged" if converged else "max_iter",
                message=f"the reduction of {len(reduced.kept)} local fits",
                lower_bound=value,
                log_likelihood=value,
                weight=self._summary.weight,
                n_m_steps=1,
                n_e_steps=len(self._pieces),
                effective_passes=passes + 1,
                resumed_from=None,
                trace=TraceLog(len(self._pieces)).trace(),
                settings=self._settings("None", len(self._pieces), None),
            )
            reached: Progress[Any] = Progress(
                1, passes + 1, value / result.weight, float("nan"), result.params
            )
            await self.transport.consult(lambda: self._save(reached, init, best, point))
        else:
            result = await self._maximise(
                reduced.params, init, best, point, began, self.n_polish
            )
            result = dataclasses.replace(
                result, effective_passes=result.effective_passes + passes
            )
        settings = {**result.settings, "n_polish": self.n_polish, "one_shot": report}
        return dataclasses.replace(result, settings=settings)

    def _settings(
        self, schedule: str, n_shards: int, acceleration: Acceleration | None
    ) -> dict[str, Any]:
        """Return what a result says of how it came about."""
        return {
            "model": type(self.model).__name__,
            **_scalars(self.model),
            "strategy": self.strategy,
            "schedule": schedule,
            "transport": repr(self.transport),
            "shards": n_shards,
            "workers": len(self.transport.workers),
            "hand_out": self.hand_out,
            "acceleration": repr(acceleration),
            "tol": self.stopping.tol,
            "max_iter": self.stopping.max_iter,
            "seed": self.seed,
        }

    async def _maximise(
        self,
        params: Any,
        init: int,
        best: EMResult[Any] | None,
        point: Checkpoint | None,
        began: float,
        n_passes: int | None = None,
    ) -> EMResult[Any]:
        """Climb from some parameters, for some passes at most."""
        transport = self.transport
        if not dataclasses.is_dataclass(params):
            raise TypeError(
                "start must return an instance of a frozen dataclass of arrays, got "
                f"{type(params).__name__}."
            )
        shards = await self._make_shards(params)
        auto: Schedule = BoundedStaleness()
        alone = isinstance(transport, Local) or len(shards) <= len(transport.workers)
        if alone or self.model.one_version:
            auto = Synchronous()
        if self._by_groups and len(shards) > 1:
            auto = Incremental(_GROUPS)
        schedule = named_schedule(self.schedule, auto=auto)
        acceleration = named_acceleration(self.acceleration, self.model.acceleration)
        if acceleration is not None and not self.model.packs:
            raise ValueError(
                "acceleration= needs pack and unpack, which "
                f"{type(self.model).__name__} does not define; define them, or set "
                "acceleration=None."
            )
        stopping = self.stopping
        if n_passes is not None:
            stopping = dataclasses.replace(stopping, max_iter=n_passes)
        if point is not None and init == point.init:
            left = stopping.max_iter - int(point.effective_passes)
            stopping = dataclasses.replace(stopping, max_iter=max(left, 1))
        after = self._after_m_step(init, best, point)

        async def climb(
            model: Model[Any, Any],
            params: Any,
            schedule: Schedule,
            until: Stopping,
            before: EMResult[Any] | None = None,
        ) -> EMResult[Any]:
            transport.begin(model, shards)
            managed: ManagedRun[Any, Any] = ManagedRun(
                model,
                params,
                transport,
                shards,
                schedule=schedule,
                assignment=Assignment(
                    hand_out=self.hand_out,
                    latency=max(transport.round_trip, 1e-4),
                    bandwidth=transport.bandwidth,
                ),
                stopping=until,
                weight=self._summary.weight,
                began=began,
                control=self.control,
                callback=after if before is None else _counted_on(after, before),
                acceleration=acceleration,
            )
            return await managed.run()

        if schedule.mixes and self.model.one_version:
            # most of the way by steps that mix versions, the rest by ones that do not
            mixable = self.model.mixable()
            if mixable.one_version:
                raise ValueError(
                    f"{type(self.model).__name__} wants statistics of one version, "
                    f"which {schedule!r} mixes; use schedule='synchronous', or define "
                    "mixable()."
                )
            coarse = dataclasses.replace(
                stopping, tol=max(stopping.tol, COARSE), step_tol=None
            )
            result = await climb(mixable, params, schedule, coarse)
            left = stopping.max_iter - math.ceil(result.effective_passes)
            if result.converged and left > 0:
                fine = dataclasses.replace(stopping, max_iter=left)
                result = result.followed_by(
                    await climb(self.model, result.params, Synchronous(), fine, result)
                )
            elif result.converged:
                result = dataclasses.replace(result, status="max_iter")
            if result.status == "max_iter":
                message = f"max_iter={stopping.max_iter} passes were made"
                result = dataclasses.replace(result, message=message)
        else:
            result = await climb(self.model, params, schedule, stopping)
        if result.n_m_steps:
            progress = Progress(
                result.n_m_steps,
                result.effective_passes,
                result.lower_bound / result.weight,
                float("nan"),
                result.params,
            )
            await transport.consult(lambda: self._save(progress, init, best, point))
        used = acceleration if self.model.one_version or not schedule.mixes else None
        settings = self._settings(repr(schedule), len(shards), used)
        if self.verbose:
            print(
                f"Initialization {init}: {result.status}, {result.n_m_steps} M-steps, "
                f"{result.effective_passes:.1f} passes, log-likelihood per row "
                f"{result.log_likelihood / result.weight:.6g}"
            )
        return dataclasses.replace(result, settings=settings)

    def _after_m_step(
        self, init: int, best: EMResult[Any] | None, point: Checkpoint | None
    ) -> Callable[[Progress[Any]], bool | None] | None:
        """Return what is to be done after every M-step: print, save, call back."""
        if not self.verbose and self.checkpoint is None:
            return self.callback
        saved = time.monotonic()
        printed = 0

        def after(progress: Progress[Any]) -> bool | None:
            nonlocal saved, printed
            if self.verbose and progress.version >= printed + self.verbose_interval:
                printed = progress.version
                print(
                    f"  Iteration {progress.version}\t passes "
                    f"{progress.effective_passes:.1f}\t bound per row "
                    f"{progress.lower_bound:.6g}\t gain {progress.gain:.3g}"
                )
            if time.monotonic() >= saved + self.checkpoint_seconds:
                saved = time.monotonic()
                self._save(progress, init, best, point)
            return None if self.callback is None else self.callback(progress)

        return after

    def _save(
        self,
        progress: Progress[Any],
        init: int,
        best: EMResult[Any] | None,
        point: Checkpoint | None,
    ) -> None:
        """Write a checkpoint, if one is wanted; a full disk does not end the fit."""
        if self.checkpoint is None:
            return
        now = Checkpoint(
            params=progress.params,
            lower_bound=progress.lower_bound,
            version=progress.version,
            effective_passes=progress.effective_passes,
            init=init,
            seed=self.seed,
        )
        if best is not None:
            bound = best.log_likelihood / best.weight
            now = dataclasses.replace(now, best=best.params, best_bound=bound)
        if point is not None:
            now = now.after(point)
        try:
            self._checkpointer.save(now)
        except OSError as error:
            logger.warning("the checkpoint could not be written: %s", error)

    # -------------------------------------------------------------- checkpoints

    def _restore(self, summary: Any) -> Checkpoint | None:
        """Return the checkpoint to go on from, after checking where to write."""
        if self.checkpoint is None and self.resume is None:
            return None
        fingerprint = fingerprint_of(self.model, summary)
        point = None
        if self.resume is not None and self.resume is not False:
            location = self.checkpoint if self.resume is True else self.resume
            if location is None:
                raise ValueError(
                    "resume=True goes on from checkpoint=, which is not set; give "
                    "the directory as checkpoint=, or as resume= itself."
                )
            source = Checkpointer(location, fingerprint)
            # the first run of a script that always says resume=True has none yet
            if self.resume is not True or source.exists():
                point = source.load(self.model)
                self.seed = point.seed
                self._resumed_from = source.location
        if self.checkpoint is not None:
            self._checkpointer = Checkpointer(self.checkpoint, fingerprint)
            if self._checkpointer.exists():
                self._checkpointer.load(None)  # refuses a foreign one, before any work
        return point


def _counted_on(
    after: Callable[[Progress[Any]], bool | None] | None, before: EMResult[Any]
) -> Callable[[Progress[Any]], bool | None] | None:
    """Return a callback that counts on from an earlier part of the fit."""
    if after is None:
        return None

    def call(progress: Progress[Any]) -> bool | None:
        return after(
            dataclasses.replace(
                progress,
                version=progress.version + before.n_m_steps,
                effective_passes=progress.effective_passes + before.effective_passes,
            )
        )

    return call


def _scalars(model: Model[Any, Any]) -> dict[str, Any]:
    """Return the settings of a model that are single values."""
    if not dataclasses.is_dataclass(model):
        return {}
    found = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    plain = (str, int, float, bool)
    return {name: value for name, value in found.items() if isinstance(value, plain)}


def _better(model: Model[Any, Any], a: EMResult[Any], b: EMResult[Any]) -> bool:
    """Whether `a` is the better fit; one without an exact likelihood goes by F."""
    sound = model.sound(a.params), model.sound(b.params)
    if sound[0] != sound[1]:
        return sound[0]

    def height(result: EMResult[Any]) -> float:
        known = result.log_likelihood
        return result.lower_bound if np.isnan(known) else known

    return bool(height(a) > height(b)) or bool(np.isnan(height(b)))
