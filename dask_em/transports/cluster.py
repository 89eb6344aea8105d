"""A Dask client, and what a fit has to know of the cluster behind it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from distributed import (
    Client,
    KilledWorker,
    get_client,
    get_worker,
    worker_client,
)
from distributed.comm import CommClosedError
from distributed.scheduler import NoValidWorkerError

from .runner import run

__all__ = [
    "LOST",
    "ask_versions",
    "call_for_workers",
    "cancelled",
    "check_picklable",
    "check_versions",
    "drive",
    "gone",
    "in_task",
    "the_client",
    "tidy_up",
]

R = TypeVar("R")

logger = logging.getLogger("dask_em")

#: Errors that are the cluster's, not the model's.
LOST = (
    KilledWorker,
    NoValidWorkerError,
    CancelledError,
    asyncio.CancelledError,
    CommClosedError,
    ConnectionError,
)


def in_task() -> bool:
    """Whether this code runs in a task on a worker."""
    try:
        get_worker()
    except ValueError:
        return False
    return True


def the_client(transport: str = "futures") -> Client:
    """Return the current client.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        return get_client()
    except ValueError:
        raise ValueError(
            f"transport={transport!r} needs a Dask client; create one first with "
            "distributed.Client(), or use transport='local'."
        ) from None


def drive(
    given: Client | None,
    transport: str,
    use: Callable[[Client], None],
    fit: Callable[[], Coroutine[Any, Any, R]],
    interrupt: Callable[[], None],
) -> R | Awaitable[R]:
    """Run a fit on a client's loop.

    Parameters
    ----------
    given : Client, optional
        By default the current one, which inside a task is the worker's own.
    transport : str
        What to call it in an error.
    use : callable
        Told which client it is.
    fit, interrupt : callable
        As in `Transport.drive`.
    """
    if given is None and in_task():
        with worker_client() as client:  # leaves the thread pool for so long
            use(client)
            return run(fit, client.loop.asyncio_loop, interrupt)
    client = given or the_client(transport)
    if client.status in ("closing", "closed"):
        raise ValueError(
            f"the Dask client of transport={transport!r} is closed; make a new one."
        )
    use(client)
    if client.asynchronous:
        return fit()
    return run(fit, client.loop.asyncio_loop, interrupt)


def cancelled() -> bool:
    """Whether it is this asyncio task that was cancelled, not a Dask future."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def gone() -> ConnectionError:
    """Return the error for a cluster that is not there any more."""
    return ConnectionError(
        "the Dask scheduler is gone, or this process has lost its connection to "
        "it; start a cluster and call fit again, with checkpoint= and resume= to "
        "go on from where a fit was."
    )


def call_for_workers(client: Client) -> Any:
    """Submit a task that needs a worker, so that an adaptive cluster starts one.

    Return its future, which is to be held until there is one.
    """
    return client.submit(int, key=f"call_for_workers-{uuid.uuid4().hex}", pure=False)


async def tidy_up(client: Client, drop: Callable[[], None]) -> None:
    """Let all workers drop what they keep for a fit, if they answer."""
    try:
        async with asyncio.timeout(10):
            await client.run(drop, on_error="ignore")
    except (*LOST, OSError) as error:  # TimeoutError is one
        if cancelled():
            raise
        logger.info("some workers keep what they have of a fit: %r", error)


async def ask_versions(client: Client, addresses: list[str] | None) -> dict[str, Any]:
    """Return the version of this package on workers; None where it is missing."""

    def probe() -> str | None:  # nested, so it travels by value
        try:
            import dask_em
        except ImportError:
            return None
        return str(dask_em.__version__)

    try:
        async with asyncio.timeout(5):
            found = dict(await client.run(probe, workers=addresses, on_error="return"))
            if addresses is None:  # it unpacks the tasks
                found["the scheduler"] = await client.run_on_scheduler(probe)
            return found
    except TimeoutError:
        logger.warning("some workers did not say which dask_em they have")
        return {}


def check_versions(found: dict[str, Any]) -> None:
    """Raise unless all workers have this package, in this version."""
    from .. import __version__

    missing = [a for a, v in found.items() if v is None]
    if missing:
        raise RuntimeError(
            f"dask_em is not installed on {len(missing)} of the cluster's "
            f"{len(found)} processes (for instance {missing[0]}); install it "
            f"there, in the version {__version__} of this process, and restart "
            "them."
        )
    others = {v for v in found.values() if isinstance(v, str)} - {__version__}
    if others:
        raise RuntimeError(
            f"the cluster has dask_em {', '.join(sorted(others))} but this process "
            f"has {__version__}; install the same version everywhere."
        )


def check_picklable(fn: Any) -> None:
    """Raise unless what is sent to the workers, the model above all, can travel."""
    from distributed.protocol.pickle import dumps

    try:
        dumps(fn)
    except Exception as error:
        raise TypeError(
            f"the model cannot be sent to the workers, because it cannot be pickled "
            f"({error}); keep locks, files and connections out of it, or use "
            "transport='local'."
        ) from error
