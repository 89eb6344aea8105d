"""From the user's thread into the loop that runs the fit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Interrupted", "run"]

R = TypeVar("R")


class Interrupted(Exception):
    """A fit that was interrupted before it had anything to return."""


def run(
    coroutine: Callable[[], Coroutine[Any, Any, R]],
    loop: asyncio.AbstractEventLoop | None,
    interrupt: Callable[[], None],
) -> R:
    """Run a coroutine to its end from a thread that runs no loop of ours.

    Parameters
    ----------
    coroutine : callable
        Makes the coroutine.
    loop : event loop, optional
        A loop that runs in another thread (a Dask client's), or None for one of our
        own. The caller's thread may run a loop itself, as in a notebook: it is
        blocked, as by any other function, but not entered again.
    interrupt : callable
        Called on ctrl-C; the coroutine is expected to end by itself then.
    """
    if loop is not None:
        future: Future[R] = asyncio.run_coroutine_threadsafe(coroutine(), loop)
    else:
        future = Future()
        ready = threading.Event()
        abandoned = False

        def work() -> None:
            ready.wait()
            if abandoned:
                return
            try:
                future.set_result(asyncio.run(coroutine()))
            except BaseException as error:
                future.set_exception(error)

        # nothing runs before ctrl-C is listened to
        try:
            threading.Thread(target=work, name="dask_em", daemon=True).start()
        except BaseException:
            abandoned = True
            ready.set()
            raise
    while True:
        try:
            if loop is None:
                ready.set()
            return future.result()
        except KeyboardInterrupt:
            if future.done():
                raise
            interrupt()
        except Interrupted:
            raise KeyboardInterrupt from None
