"""How fast messages travel."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from ..topologies import Network
from ..topologies.base import pairs
from .node import Node
from .program import Exchange, Program

__all__ = ["measure"]

#: Numbers in a large message; messages of an exchange are of this order.
_LARGE = 250_000
_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Ping(Exchange):
    """Send numbers that mean nothing."""

    links: tuple[tuple[int, int], ...]
    size: int

    def message(self, node: Node, dst: int) -> Any:
        """Send them."""
        return np.zeros(self.size)

    def deliver(self, node: Node, inbox: dict[int, Any]) -> None:
        """Drop them."""


async def measure(
    run: Callable[[Program], Awaitable[Any]], places: tuple[str, ...]
) -> Network:
    """Measure latency, bandwidth and the cost of a message, on idle nodes.

    Nodes send to one on another worker, where there is one, all at the same time. What
    else goes on can only make it longer, so the least of several times counts.
    """
    n_nodes = len(places) - 1
    others = [
        next(
            (
                j
                for step in range(1, n_nodes)
                if places[j := (k + step) % n_nodes] != places[k]
            ),
            (k + 1) % n_nodes,
        )
        for k in range(n_nodes)
    ]
    ring = tuple(enumerate(others))

    async def seconds(*exchanges: Exchange) -> float:
        times = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            await run(exchanges)
            times.append(time.perf_counter() - began)
        return min(times)

    await run([Ping(ring, 1)])  # connections are made
    once = await seconds(Ping(ring, 1))
    thrice = await seconds(*[Ping(ring, 1)] * 3)
    large = await seconds(Ping(ring, _LARGE))
    latency = (thrice - once) / 2
    per_message = 0.0
    if n_nodes > 2:
        every = await seconds(Ping(pairs(n_nodes), 1))
        per_message = max((every - once) / (2 * (n_nodes - 2)), 0.0)
        latency -= 2 * per_message  # each node has had two
    sharing = max(places.count(place) for place in places[:-1])
    sent = 8 * _LARGE * sharing  # through the same card
    bandwidth = sent / max(large - once, 1e-6)
    return Network(max(latency, 1e-5), bandwidth / sharing, per_message)
