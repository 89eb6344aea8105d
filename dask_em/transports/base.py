"""How E-steps reach workers and statistics come back."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from ..model import Model, e_step_of
from ..sharding import Data, Piece, Shard
from .runner import run

if TYPE_CHECKING:
    from .peers.base import PeerTransport

__all__ = [
    "EStep",
    "Failure",
    "Report",
    "Transport",
    "TransportEvent",
    "WorkersAre",
    "apply_to_piece",
    "execute",
]

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class EStep:
    """An E-step to be run.

    Parameters
    ----------
    shard : int
    worker : str
    version : int
        Of `params`.
    params : object
    total : Statistics, optional
        For an extra update: the sum of all statistics, from which the worker makes
        an M-step of its own before its E-step.
    """

    shard: int
    worker: str
    version: int
    params: Any
    total: Any = None


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of an E-step."""

    shard: int
    worker: str
    version: int
    extra: bool
    stats: Any
    restarted: bool = False


@dataclasses.dataclass(frozen=True)
class Failure:
    """An E-step that did not come to its end.

    `error` is what the model raised, or None where the worker was lost.
    """

    shard: int
    worker: str
    error: BaseException | None = None


@dataclasses.dataclass(frozen=True)
class WorkersAre:
    """The workers have changed to these."""

    workers: tuple[str, ...]


TransportEvent: TypeAlias = Report | Failure | WorkersAre


class Transport(ABC):
    """Moves work and statistics; knows neither models nor schedules.

    A transport is opened for one fit at a time: `open` cuts the data and makes the
    pieces resident, `map` runs something over all of them, and between `begin` and
    `cancel` E-steps are submitted and their outcomes received.
    """

    #: Whether the clock is not the real one.
    virtual: ClassVar[bool] = False

    @abstractmethod
    async def open(
        self, data: Data, n_shards: int | None, *, one_each: bool = False
    ) -> list[Piece]:
        """Make the data resident and return their pieces, with their owners.

        `n_shards` is the user's wish, or None to let the transport choose; with
        `one_each`, it chooses one for every worker.
        """

    @abstractmethod
    async def map(
        self, fn: Callable[[Any, np.random.Generator], R], seed: int
    ) -> list[R]:
        """Apply `fn` to the blocks of every piece; return the sums, one per piece."""

    @abstractmethod
    async def prepare(self, model: Model[Any, Any], summary: Any) -> None:
        """Replace the blocks of every piece by what the model prepares from them."""

    @abstractmethod
    def begin(self, model: Model[Any, Any], shards: Sequence[Shard]) -> None:
        """Get ready for the E-steps of a model on shards made of the pieces."""

    @property
    @abstractmethod
    def workers(self) -> tuple[str, ...]:
        """Names of the workers."""

    @abstractmethod
    def now(self) -> float:
        """Seconds on this transport's clock."""

    @abstractmethod
    def submit(self, e_step: EStep) -> None:
        """Send out an E-step; a `Report` or a `Failure` follows."""

    @abstractmethod
    def recall(self, shard: int, worker: str) -> None:
        """Take back an E-step that has not begun; its report may come all the same."""

    @abstractmethod
    def move(self, shard: int, src: str, dst: str) -> None:
        """Let a shard's data live on another worker from now on."""

    @abstractmethod
    async def receive(self, until: float | None) -> list[TransportEvent]:
        """Wait for events, until a time at most.

        The list may be empty earlier, too, so that somebody else may be heard.
        """

    @abstractmethod
    async def call(self, fn: Callable[[], R]) -> R:
        """Run the M-step, without blocking what must not be blocked."""

    async def consult(self, fn: Callable[[], R]) -> R:
        """Run a user's function, which may take its time or use this transport."""
        return fn()

    @abstractmethod
    def cancel(self) -> None:
        """Drop every E-step in flight; none of them is reported any more."""

    @abstractmethod
    async def close(self) -> None:
        """Release the data and the workers."""

    def drive(
        self,
        fit: Callable[[], Coroutine[Any, Any, R]],
        interrupt: Callable[[], None],
    ) -> R | Awaitable[R]:
        """Run a fit on the loop where this transport lives, and wait for it.

        `interrupt` is called on ctrl-C. A transport that lives on the caller's own
        loop returns an awaitable.
        """
        return run(fit, None, interrupt)

    def peers(self) -> PeerTransport:
        """Return what carries messages from worker to worker.

        Raises
        ------
        ValueError
            If there is no such thing.
        """
        raise ValueError(
            f"{type(self).__name__} carries no messages between workers; use "
            "transport='local', 'futures' or 'actors' for models whose M-step is "
            "distributed."
        )

    def shards_per_worker(self, seconds: float) -> int:
        """Choose shards per worker where a worker's share takes `seconds`."""
        return 1

    def n_workers_expected(self) -> int:
        """Return how many workers there will be, as far as one knows before `open`."""
        return 1

    @property
    def round_trip(self) -> float:
        """Seconds that sending an E-step out and hearing of it costs."""
        return 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes per second at which a shard's data move."""
        return float("inf")


def apply_to_piece(
    fn: Callable[[Any, np.random.Generator], Any],
    blocks: Sequence[Any],
    seed: int,
    index: int,
) -> Any:
    """Apply `fn` to the blocks of a piece and add up.

    One with a method ``over_piece`` is given all blocks together instead. The generator
    depends on the seed and the piece, not on who does it.
    """
    rng = np.random.default_rng([seed, index])
    over_piece = getattr(fn, "over_piece", None)
    if over_piece is not None:  # it wants to see all of the piece at once
        return over_piece(blocks, rng)
    total = fn(blocks[0], rng)
    for block in blocks[1:]:
        total = total + fn(block, rng)
    return total


def execute(
    model: Model[Any, Any], e_step: EStep, prepared: Sequence[Any], local: Any
) -> tuple[Any, Any]:
    """Run an E-step where the data are; return statistics and latent state."""
    params = e_step.params
    if e_step.total is not None:
        params = model.m_step(params, e_step.total)
    return e_step_of(model, params, prepared, local)
