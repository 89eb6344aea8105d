"""What `Futures` runs on the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from dask.sizeof import sizeof

from ..model import Block, Model
from ..sharding import Part, Recipe
from .base import EStep, apply_to_piece, execute

R = TypeVar("R")


@sizeof.register(Block)
def _sizeof_block(block: Block) -> int:
    return block.nbytes


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of a piece, opaque to Dask."""

    blocks: list[Any]
    #: Whether these are views of chunks that somebody else keeps on this worker.
    borrowed: bool = False

    def __reduce__(self) -> Any:
        return Blocks, (self.blocks,)  # a copy borrows nothing


@sizeof.register(Blocks)
def _sizeof_blocks(blocks: Blocks) -> int:
    return 1000 if blocks.borrowed else sum(_size(b) for b in blocks.blocks)


def _size(value: Any) -> int:
    """Return the bytes of what a model prepared, which may be a class of its own."""
    if isinstance(value, (tuple, list)):
        return sum(_size(v) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(_size(getattr(value, f.name)) for f in dataclasses.fields(value))
    return int(sizeof(value))


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A value in which Dask is not to look for futures."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Lazily:
    """A recipe whose blocks are to be prepared every time."""

    recipe: Recipe
    model: Model[Any, Any]
    summary: Any

    def load(self) -> list[Any]:
        """Compute and prepare the blocks in this thread."""
        return [self.model.prepare(b, self.summary) for b in self.recipe.load()]


#: A shard's latent state: the fit, the run and the shard.
StateKey: TypeAlias = tuple[str, int, int]

#: Seconds within which another worker is to hand over a latent state.
_HAND_OVER = 5.0

#: Latent states of shards on this worker, with the version they were computed at.
_STATES: dict[StateKey, tuple[int, Any]] = {}


def forget_states(fit: str) -> None:
    """Drop the latent states of a fit from this worker."""
    for key in [k for k in _STATES if k[0] == fit]:
        _STATES.pop(key, None)


def state_of(key: StateKey) -> tuple[int, Any] | None:
    """Return a latent state from this worker, if it has it."""
    return _STATES.get(key)


def _handed_over(key: StateKey, worker: Any, address: str) -> tuple[int, Any] | None:
    """Fetch a latent state from the worker that has it; None if that has gone.

    It is asked directly, outside of its tasks: it may be busy for long, and be slow
    for the very reason that its shard has moved here.
    """
    from distributed.protocol import pickle
    from distributed.utils import sync

    async def ask() -> Any:
        async with asyncio.timeout(_HAND_OVER):
            return await worker.rpc(address).run(
                function=pickle.dumps(state_of), args=pickle.dumps((key,))
            )

    try:
        answer = sync(worker.loop, ask)
    except (OSError, RuntimeError):  # TimeoutError is one, and lost connections are
        return None
    return answer["result"] if answer["status"] == "OK" else None


def identity(value: R) -> R:
    """Return the value: a copy on another worker, to Dask."""
    return value


def assemble(parts: Sequence[Part], borrowed: bool, *columns: Sequence[Any]) -> Blocks:
    """Make blocks of chunks; a view where it can be one."""
    return Blocks(
        [
            part.take(Block(*(_as_array(c) for c in row)))
            for part, row in zip(parts, zip(*columns, strict=True), strict=True)
        ],
        borrowed,
    )


def _as_array(chunk: Any) -> Any:
    """Return what NumPy can be told to understand as its array."""
    return np.asarray(chunk) if hasattr(chunk, "__array__") else chunk


def load(recipe: Recipe) -> Blocks:
    """Compute a piece from where its data come from."""
    return Blocks(recipe.load())


def loaded(piece: Any) -> list[Any]:
    """Return the blocks of a piece, resident or not."""
    return piece.blocks if isinstance(piece, Blocks) else piece.load()


def prepare_piece(model: Model[Any, Any], summary: Any, piece: Blocks) -> Blocks:
    """Prepare the blocks of a piece."""
    return Blocks([model.prepare(block, summary) for block in piece.blocks])


def map_pieces(fn: Any, seed: int, indices: Sequence[int], *pieces: Any) -> list[Any]:
    """Apply a function to some pieces; return a result for each."""
    return [
        apply_to_piece(fn, loaded(piece), seed, index)
        for index, piece in zip(indices, pieces, strict=True)
    ]


def e_step(
    model: Model[Any, Any] | Opaque,
    e_step: EStep,
    params: Opaque,
    state_key: StateKey,
    visited: bool,
    state_at: str | None,
    *pieces: Any,
) -> tuple[Any, bool, str | None]:
    """Run an E-step; say whether latent state was lost, and who has it now, if any.

    `state_at` is the worker that had it before.
    """
    from distributed import get_worker

    worker = get_worker()
    known: Model[Any, Any] = model.value if isinstance(model, Opaque) else model
    prepared = [block for piece in pieces for block in loaded(piece)]
    states = [state_of(state_key)]  # may be an old one, if the shard has been away
    if state_at not in (None, worker.address):
        states.append(_handed_over(state_key, worker, state_at))
    _, local = max(
        (state for state in states if state is not None),
        key=lambda state: state[0],
        default=(0, None),
    )
    stats, state = execute(
        known, dataclasses.replace(e_step, params=params.value), prepared, local
    )
    if state is not None:
        _STATES[state_key] = (e_step.version, state)
    restarted = visited and local is None and state is not None
    return stats, restarted, None if state is None else worker.address
