"""Messages between Dask actors: one on each worker."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from typing import Any

from ...peers.program import Lost, Program
from . import on_worker
from .cluster import ClusterPeers
from .host import Host

__all__ = ["ActorPeers", "HostActor", "Parcel"]


class Parcel:
    """A message on its way, which is let go of as soon as it has arrived.

    Calls of actors leave cycles behind that hold what was sent until Python looks for
    such, and messages may be large.

    Parameters
    ----------
    payload : object
    """

    def __init__(self, payload: Any) -> None:
        self._payload = payload

    def unpack(self) -> Any:
        """Return the message, and keep it no longer."""
        payload, self._payload = self._payload, None
        return payload


class HostActor:
    """The nodes of a fit on a worker, to be called by the client and other workers.

    Parameters
    ----------
    fit : str
    """

    def __init__(self, fit: str) -> None:
        from distributed import get_worker

        worker = get_worker()
        self._worker = worker.address
        self._fit = fit
        self._n_threads = worker.state.nthreads
        self._host: Host | None = None

    async def connect(self, homes: dict[int, str], actors: dict[str, Any]) -> None:
        """Learn where all nodes are.

        Parameters
        ----------
        homes : dict of int to str
            Address of the worker of each node.
        actors : dict of str to Actor
        """
        if self._host is not None:
            self._host.close()
        self._host = Host(
            on_worker.nodes_of(self._worker, self._fit),
            self._n_threads,
            {
                k: functools.partial(_send, actors[address])
                for k, address in homes.items()
                if address != self._worker
            },
        )

    async def run(self, run: int, program: Program) -> dict[int, list[Any]]:
        """Run a program on the nodes here."""
        return await self._connected().run(run, program)

    async def receive(
        self, run: int, position: int, src: int, dst: int, parcel: Parcel
    ) -> None:
        """Take in a message from another worker."""
        self._connected().receive(run, position, src, dst, parcel.unpack())

    def _connected(self) -> Host:
        if self._host is None:
            raise Lost("the actor is not connected any more")
        return self._host

    async def close(self) -> None:
        """Stop the threads."""
        if self._host is not None:
            self._host.close()
            self._host = None


async def _send(
    actor: Any, run: int, position: int, src: int, dst: int, payload: Any
) -> None:
    parcel = Parcel(payload)
    del payload
    try:
        await actor.receive(run, position, src, dst, parcel)
    finally:
        parcel.unpack()


class ActorPeers(ClusterPeers):
    """Runs programs in actors that send each other messages.

    A message takes about a millisecond, and none passes the scheduler. An actor does
    not survive its worker; the fit goes on with a new one.
    """

    kind = "actors"

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._futures: list[Any] = []
        self._actors: dict[str, Any] = {}

    async def _connect(self) -> None:
        """Put an actor on each worker, in place of those there were."""
        if self._futures:
            await self._stop()  # whoever is left may still wait for those who are lost
        await self.unless_lost(self._start())

    async def _start(self) -> None:
        addresses = sorted(set(self.places))
        self._futures = [
            self._client.submit(
                HostActor,
                self._fit,
                actor=True,
                workers=[address],
                key=f"peer_host-{self._fit}-{uuid.uuid4().hex[:8]}",
                pure=False,
            )
            for address in addresses
        ]
        actors = await asyncio.gather(*(_result(f) for f in self._futures))
        self._actors = dict(zip(addresses, actors, strict=True))
        homes = dict(enumerate(self.places))
        await asyncio.gather(*(a.connect(homes, self._actors) for a in actors))

    async def _run(self, run: int, program: Program) -> list[list[Any]]:
        found = await asyncio.gather(
            *(actor.run(run, program) for actor in self._actors.values())
        )
        results = {k: r for part in found for k, r in part.items()}
        return [results[k] for k in range(self._n_nodes + 1)]

    async def _stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(*map(_closed, self._actors.values()))
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(5):
                # proxies, here and on workers, are in cycles and would keep them
                await self._client.cancel(self._futures, force=True)
        self._futures, self._actors = [], {}

    async def close(self) -> None:
        """Stop the actors."""
        if self._futures:
            await self._stop()
        await super().close()


async def _closed(actor: Any) -> None:
    """Let an actor stop, if it is still there."""
    with contextlib.suppress(Exception):
        await actor.close()


async def _result(future: Any) -> Any:
    return await future
