"""What runs on the workers of a Dask cluster: nodes live there between tasks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ...peers.iteration import Export
from ...peers.node import Node
from ...peers.program import Exchange, Lost, Step, own_errors

__all__ = ["Deliver", "advance", "export", "forget", "install", "message", "nodes_of"]

#: Nodes on this worker, by worker (several may be in one process), fit and index.
_NODES: dict[tuple[str, str, int], Node] = {}
#: The run, and the task in it, that changed a node last. A task that expects another
#: one comes too late, or a second time.
_STAMPS: dict[tuple[str, str, int], tuple[int, int]] = {}
#: Fits that are over, for which some task may still come.
_OVER: set[str] = set()
_LOCK = threading.Lock()


def _here() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def install(fit: str, index: int, n_nodes: int, *chunks: Any) -> bool:
    """Make a node."""
    from distributed import get_worker

    worker = get_worker()
    key = str(worker.address), fit, index
    node = Node(index, n_nodes, chunks)
    node.memory = worker.memory_manager.memory_limit or None
    node.folder = worker.local_directory
    with _LOCK:
        if fit in _OVER:
            raise Lost("the fit is over")
        _NODES[key] = node
        _STAMPS[key] = (0, 0)
    return True


def _found(fit: str, index: int) -> Node:
    with _LOCK:
        node = _NODES.get((_here(), fit, index))
    if node is None:
        raise Lost(f"node {index} is not there")
    return node


def _check(node: Node, fit: str, stamp: tuple[int, int]) -> None:
    """Raise unless a node is as a task expects it."""
    run, tick = stamp
    last = _STAMPS.get((_here(), fit, node.index))
    if last is None or not (last == stamp or (tick == 0 and last[0] < run)):
        raise Lost(f"node {node.index} is not what it was")


class Deliver:
    """An exchange whose messages are among a task's dependencies."""

    def __init__(self, exchange: Exchange, sources: Sequence[int]) -> None:
        self.exchange = exchange
        self.sources = sources


def advance(
    fit: str,
    index: int,
    stamp: tuple[int, int],
    items: Sequence[Step | Deliver],
    payloads: Sequence[Any],
    *before: Any,
) -> list[Any]:
    """Do some steps on a node, and deliver messages to it."""
    node = _found(fit, index)
    with node.lock:
        _check(node, fit, stamp)
        run, tick = stamp
        _STAMPS[_here(), fit, index] = (run, tick + 1)
        with own_errors():
            results = []
            arrived = iter(payloads)
            for item in items:
                if isinstance(item, Deliver):
                    inbox = {src: next(arrived) for src in item.sources}
                    item.exchange.deliver(node, inbox)
                else:
                    results.append(item.run(node))
            return results


def message(
    fit: str,
    index: int,
    stamp: tuple[int, int],
    exchange: Exchange,
    dst: int,
    *before: Any,
) -> Any:
    """Return what a node sends to another."""
    node = _found(fit, index)
    with node.lock:
        _check(node, fit, stamp)
        with own_errors():
            return exchange.message(node, dst)


def export(fit: str, index: int) -> Any:
    """Return a node's parameters, to outlive it."""
    return Export().run(_found(fit, index))


def nodes_of(worker: str, fit: str) -> dict[int, Node]:
    """Return the nodes of a fit on a worker."""
    with _LOCK:
        return {k: n for (w, f, k), n in _NODES.items() if (w, f) == (worker, fit)}


def forget(fit: str) -> None:
    """Drop the nodes of a fit from this process."""
    with _LOCK:
        _OVER.add(fit)
        for key in [k for k in _NODES if k[1] == fit]:
            _NODES.pop(key).close()
            _STAMPS.pop(key, None)
