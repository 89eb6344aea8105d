"""What an exchange amounts to: every message's size, before anything is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .base import Tally, Topology
from .cost import Network
from .sharing import Sharing

__all__ = ["Message", "Plan", "choose", "make_plan"]


@dataclasses.dataclass(frozen=True)
class Message:
    """What one node sends another in a round.

    Parameters
    ----------
    src, dst : int
        Nodes.
    size : int
        Statistics in it.

    Examples
    --------
    >>> from dask_em.topologies import Message
    >>> Message(src=0, dst=1, size=500)
    Message(src=0, dst=1, size=500)
    """

    src: int
    dst: int
    size: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """How statistics travel in one exchange.

    Parameters
    ----------
    topology : Topology
        The concrete one.
    n_nodes : int
        Nodes that have data; a helper without data is node `n_nodes`.
    width : int
        Numbers per statistic.
    rounds : tuple of tuple of Message
        Messages that are not empty.
    support : tuple of int
        Statistics that each node needs.
    carried : tuple of int of length n_nodes + 1
        Statistics that pass through each node without its needing them.
    n_statistics : int
        Statistics that there are.
    lower_bound : int
        The fewest statistics that any exchange must send.
    reason : str
        Why this topology.
    others : tuple of (str, float)
        The topologies it was compared with, and their predicted seconds.
    places : tuple of str
        Worker that each node is on, where that is known.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.topologies import OwnerSharded, Sharing, make_plan
    >>> sharing = Sharing.of([np.arange(6), np.arange(3, 9)])
    >>> print(make_plan(OwnerSharded(), sharing).explain())
    OwnerSharded(): asked for.
    2 nodes, 9 statistics of 1 number, 1 round, 2 messages.
    6 numbers per exchange, 1.00 x the lower bound of 6; busiest node 6.
    48 B between workers.
    node  needs  carries  sends  receives  traffic
       0      6        0      3         3     48 B
       1      6        0      3         3     48 B
    """

    topology: Topology
    n_nodes: int
    width: int
    rounds: tuple[tuple[Message, ...], ...]
    support: tuple[int, ...]
    carried: tuple[int, ...]
    n_statistics: int
    lower_bound: int
    reason: str = "asked for"
    others: tuple[tuple[str, float], ...] = ()
    places: tuple[str, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages."""
        return tuple(m for messages in self.rounds for m in messages)

    @property
    def sent(self) -> NDArray[np.int64]:
        """Numbers that each node sends, the helper last."""
        return self._loads("src")

    @property
    def received(self) -> NDArray[np.int64]:
        """Numbers that each node receives, the helper last."""
        return self._loads("dst")

    @property
    def total(self) -> int:
        """Numbers that are sent in all."""
        return int(self.sent.sum())

    @property
    def busiest(self) -> int:
        """Numbers that the busiest node sends and receives."""
        return int((self.sent + self.received).max())

    def _loads(self, end: str) -> NDArray[np.int64]:
        loads = np.zeros(self.n_nodes + 1, dtype=np.int64)
        for message in self.messages:
            loads[getattr(message, end)] += message.size * self.width
        return loads

    @property
    def between_workers(self) -> int:
        """Numbers that are sent from one worker to another; all, if it is unknown."""
        places = self.places or tuple(map(str, range(self.n_nodes + 1)))
        return self.width * sum(
            m.size for m in self.messages if places[m.src] != places[m.dst]
        )

    @property
    def _has_helper(self) -> bool:
        return self.n_nodes in {m.dst for m in self.messages}

    def _head(self) -> list[str]:
        bound = self.width * self.lower_bound
        ratio = f"{self.total / bound:.2f} x " if bound else ""
        lines = [
            f"{self.topology.name}: {self.reason}.",
            f"{_many(self.n_nodes, 'node')}, {_many(self.n_statistics, 'statistic')} "
            f"of {_many(self.width, 'number')}, {_many(len(self.rounds), 'round')}, "
            f"{_many(len(self.messages), 'message')}.",
            f"{self.total:,} numbers per exchange, {ratio}the lower bound of "
            f"{bound:,}; busiest node {self.busiest:,}.",
            f"{_size(8 * self.between_workers)} between workers.",
        ]
        if self.others:
            compared = ", ".join(f"{name} {s:.3g} s" for name, s in self.others)
            lines.append(f"Predicted: {compared}.")
        return lines

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["node", "needs", "carries", "sends", "receives", "traffic"]
        if self.places:
            header.append("worker")
        rows = []
        for k in range(self.n_nodes + self._has_helper):
            needs = self.support[k] if k < self.n_nodes else 0
            row: list[Any] = [k, needs, self.carried[k], self.sent[k], self.received[k]]
            traffic = _size(8 * int(self.sent[k] + self.received[k]))
            cells = [*(f"{n:,}" for n in row), traffic]
            rows.append([*cells, self.places[k]] if self.places else cells)
        return header, rows

    def explain(self) -> str:
        """Return the plan in words, with a line for every node."""
        header, rows = self._table()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        table = [
            "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
            for row in [header, *rows]
        ]
        return "\n".join(self._head() + table)

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        header, rows = self._table()
        head = "".join(
            f"<p style='margin:0'>{escape(line)}</p>" for line in self._head()
        )
        cells = "".join(f"<th>{escape(name)}</th>" for name in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"{head}<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the nodes and what travels between them.

        Parameters
        ----------
        ax : matplotlib axes, optional

        Returns
        -------
        ax : matplotlib axes
        """
        from ..plots.plan import plot_plan

        return plot_plan(self, ax)


def _size(nbytes: int) -> str:
    """Return a number of bytes in a unit that suits it."""
    size, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


def _many(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


class Totals(Protocol):
    """What a plan says of statistics as a whole; see `Sharing`."""

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""

    @property
    def support(self) -> NDArray[np.int64]:
        """Statistics that each node needs."""

    @property
    def n_statistics(self) -> int:
        """Statistics that there are."""

    @property
    def lower_bound(self) -> int:
        """The fewest numbers that any exchange must send."""


def plan_of(topology: Topology, tally: Tally, totals: Totals, width: int) -> Plan:
    """Return the plan that a tally of messages amounts to."""
    rounds = tuple(
        tuple(
            Message(src, dst, int(size))
            for (src, dst), size in zip(round_.links, sizes, strict=True)
            if size
        )
        for round_, sizes in zip(
            topology.rounds(totals.n_nodes), tally.sizes, strict=True
        )
    )
    return Plan(
        topology=topology,
        n_nodes=totals.n_nodes,
        width=width,
        rounds=rounds,
        support=tuple(map(int, totals.support)),
        carried=tuple(map(int, tally.carried)),
        n_statistics=totals.n_statistics,
        lower_bound=totals.lower_bound,
    )


def make_plan(
    topology: Topology | str,
    sharing: Sharing,
    *,
    width: int = 1,
    network: Network | None = None,
) -> Plan:
    """Plan an exchange, here, of statistics whose sharing is known.

    Parameters
    ----------
    topology : Topology or str
    sharing : Sharing
        Of all statistics.
    width : int, default=1
        Numbers per statistic.
    network : Network, optional
        By which topologies are compared, where there is a choice.

    Returns
    -------
    Plan

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.topologies import Sharing, make_plan
    >>> sharing = Sharing.of([np.arange(1000), np.arange(500, 1500), np.arange(700)])
    >>> make_plan("auto", sharing).topology
    AllPairs()
    """
    from . import named_topology

    wanted = named_topology(topology)
    sharing = sharing.summarised()
    found = wanted.candidates(sharing.n_nodes, sharing.overlaps)
    plans = [plan_of(t, t.tally(sharing), sharing, width) for t in found]
    return choose(plans, network or Network())


def choose(plans: Sequence[Plan], network: Network) -> Plan:
    """Return the plan that takes the least time, with the reason."""
    if len(plans) == 1:
        return plans[0]
    seconds = [network.seconds(plan) for plan in plans]
    order = sorted(range(len(plans)), key=lambda i: (seconds[i], i))
    best = plans[order[0]]
    if best.n_nodes == 1:
        return dataclasses.replace(
            best, reason="there is one node, and nothing to send"
        )
    reason = (
        f"the fastest by prediction, with a latency of {network.latency * 1e3:.3g} ms "
        f"and {network.bandwidth / 1e6:.3g} MB/s"
    )
    return dataclasses.replace(
        best,
        reason=reason,
        others=tuple((plans[i].topology.name, seconds[i]) for i in order),
    )
