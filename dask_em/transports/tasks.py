"""What `Futures` runs on the workers of a Dask cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

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


#: Latent states of shards on this worker, by (fit, run, shard).
_STATES: dict[tuple[str, int, int], Any] = {}


def forget_states(fit: str) -> None:
    """Drop the latent states of a fit from this worker."""
    for key in [k for k in _STATES if k[0] == fit]:
        _STATES.pop(key, None)


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
    state_key: tuple[str, int, int],
    visited: bool,
    *pieces: Any,
) -> tuple[Any, bool, bool]:
    """Run an E-step; say whether latent state was lost, and whether there is any."""
    known: Model[Any, Any] = model.value if isinstance(model, Opaque) else model
    prepared = [block for piece in pieces for block in loaded(piece)]
    local = _STATES.get(state_key)
    stats, state = execute(
        known, dataclasses.replace(e_step, params=params.value), prepared, local
    )
    if state is not None:
        _STATES[state_key] = state
    restarted = visited and local is None and state is not None
    return stats, restarted, state is not None
