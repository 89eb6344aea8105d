"""Fits one after the other, whether or not they have to be awaited."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import Any

__all__ = ["in_turn"]


def in_turn(steps: Generator[Any, Any, Any]) -> Any:
    """Run what yields outcomes of fits and is sent their results.

    Parameters
    ----------
    steps : generator
        It yields results, or awaitables of them.

    Returns
    -------
    object
        What the generator returns; an awaitable of it if the first outcome is one.
    """
    try:
        outcome = next(steps)
        while not inspect.isawaitable(outcome):
            outcome = steps.send(outcome)
    except StopIteration as end:
        return end.value
    return _later(steps, outcome)


async def _later(steps: Generator[Any, Any, Any], outcome: Any) -> Any:
    try:
        while True:
            try:
                result = await outcome
            except Exception as error:
                outcome = steps.throw(error)
            else:
                outcome = steps.send(result)
    except StopIteration as end:
        return end.value
