"""What the topologies send, and how long that takes: IBM Model 1 on the Hansards.

``payload``: numbers per iteration, for each topology and number of nodes, by the plan;
nothing is run.

``count``: the same, counted where it is sent, by the nodes and by Dask, on two worker
processes; and what the client receives in an iteration.

``network``: seconds of the exchange beside what `Network` predicts, on hosts with a
slow network. It needs a Dask scheduler (``--scheduler ADDRESS``) with one worker of one
thread on each of as many hosts as there are nodes, and one more for the reducer of
``MapReduce``; the client should run on the scheduler's host. ``--send-mbit`` says how
much a host can send, and ``--receive-mbit`` how much it can receive, in Mbit/s.

``local``: seconds of an iteration on two worker processes, and what takes them.

``speedup``: speed-up of an iteration with 1 to 20 nodes, by E- and M-steps timed on one
core and exchanges as predicted; and, to validate it, real runs with 1 and 2 workers.

    DASK_EM_DATA=... python benchmarks/topologies.py payload
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gzip
import math
import os
import platform
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster
from distributed.deploy.subprocess import SubprocessCluster

from dask_em.alignment.sources import PairsSource
from dask_em.models.alignment import Model1
from dask_em.peers import iteration, ping, setup
from dask_em.topologies import (
    AllPairs,
    JunctionTree,
    MapReduce,
    Network,
    OwnerSharded,
    Plan,
    Sharing,
    Star,
    Topology,
    make_plan,
)
from dask_em.topologies.plan import choose, plan_of
from dask_em.transports.peers import PeerTransport
from dask_em.transports.peers.actors import ActorPeers
from dask_em.transports.peers.tasks import TaskPeers

MODEL = Model1()
TRANSPORTS = {"actors": ActorPeers, "futures": TaskPeers}
MAIN: dict[str, Topology] = {
    "MapReduce": MapReduce(),
    "AllPairs": AllPairs(),
    "JunctionTree": JunctionTree(),
    "OwnerSharded": OwnerSharded(),
}
EVERY: dict[str, Topology] = {
    "MapReduce": MapReduce(),
    "Star": Star(),
    "AllPairs": AllPairs(),
    "JunctionTree, maximum": JunctionTree(),
    "JunctionTree, best": JunctionTree("best"),
    "OwnerSharded": OwnerSharded(),
}
#: Bytes per second of 1 Gbit/s.
GIGABIT = 1.25e8


def read_pairs(n: int, seed: int) -> list[tuple[str, str]]:
    """Return the first n pairs of the Hansards, in random order."""
    folder = Path(os.environ["DASK_EM_DATA"]) / "alignment" / "hansards36"
    with (
        gzip.open(folder / "train.tok.en.gz", "rt", encoding="utf-8") as english,
        gzip.open(folder / "train.tok.fr.gz", "rt", encoding="utf-8") as french,
    ):
        pairs = [
            (e.rstrip("\n"), f.rstrip("\n"))
            for _, e, f in zip(range(n), english, french, strict=False)
        ]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[i] for i in order]


def prepare_parts(pairs: list[Any], n_nodes: int, summary: Any) -> list[Any]:
    """Return what each node makes of its pairs."""
    parts = PairsSource(pairs).cut(n_nodes)
    return [MODEL.prepare([chunk.load() for chunk in part], summary) for part in parts]


def print_row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def print_head(*names: str) -> None:
    print_row(*names)
    print_row(*("---" if i == 0 else "---:" for i in range(len(names))))


# -------------------------------------------------------------------------- payload


def payload(options: argparse.Namespace) -> None:
    """Print what plans say."""
    pairs = read_pairs(options.pairs, options.seed)
    summary = MODEL.survey([pairs])
    print_head(
        "nodes, topology",
        "million numbers",
        "x lower bound",
        "busiest node, million",
        "rounds",
        "messages",
        "held by one node, at most",
    )
    for n_nodes in options.nodes:
        parts = prepare_parts(pairs, n_nodes, summary)
        sharing = Sharing.of([MODEL.support(part) for part in parts]).summarised()
        for name, topology in EVERY.items():
            plan = make_plan(topology, sharing)
            held = np.array([*plan.support, 0]) + np.array(plan.carried)
            print_row(
                f"{n_nodes}, {name}" + (f" ({_kind(plan)})" if "best" in name else ""),
                f"{plan.total / 1e6:.2f}",
                f"{plan.total / plan.lower_bound:.2f}",
                f"{plan.busiest / 1e6:.2f}",
                len(plan.rounds),
                len(plan.messages),
                f"{held.max() / plan.n_statistics:.3f}",
            )
        print(
            f"{n_nodes} nodes: {sharing.n_statistics:,} statistics, lower bound "
            f"{sharing.lower_bound / 1e6:.2f} million\n"
        )


def _kind(plan: Plan) -> str:
    return getattr(plan.topology, "kind", "")


# ----------------------------------------------------------- nodes that really send


class Nodes:
    """Nodes of a transport, made to do one thing at a time.

    Parameters
    ----------
    transport : PeerTransport
    """

    def __init__(self, transport: PeerTransport) -> None:
        self.transport = transport
        self.run = transport.run
        self.version = 0

    async def open(self, pairs: list[Any], n_nodes: int) -> None:
        """Bring the pairs to the nodes, and start."""
        self.n = await self.transport.open(PairsSource(pairs), n_nodes)
        found = await self.run(setup.survey(MODEL, self.n))
        summary = found[-1][0]
        await self.run([*setup.prepare(MODEL, summary), *setup.relate(self.n)])
        await self.run([iteration.Begin(MODEL, 0), iteration.EStep(MODEL)])

    async def lay_out(self, topology: Topology) -> Plan:
        """Let nodes send by a topology from now on."""
        *_, parts = await self.run(setup.relate(self.n))
        shared = _added(parts)
        found = tuple(topology.candidates(self.n, shared.overlaps))
        (tallies,) = await self.run([setup.PlanExchange(found)])
        totals = [_added(t) for t in zip(*filter(None, tallies), strict=True)]
        plans = [
            plan_of(t, tally, shared, MODEL.width)
            for t, tally in zip(found, totals, strict=True)
        ]
        plan = dataclasses.replace(
            choose(plans, Network()), places=self.transport.places
        )
        await self.run(setup.lay_out(plan))
        await self.run([iteration.EStep(MODEL)])
        return plan

    def rest(self) -> list[Any]:
        """Return the steps of an iteration that are no exchange."""
        self.version += 1
        return [iteration.MStep(MODEL, self.version), iteration.EStep(MODEL)]

    async def seconds(self, make: Callable[[], Any]) -> float:
        """Return the time that a program takes."""
        program = make()
        began = time.perf_counter()
        await self.run(program)
        return time.perf_counter() - began

    async def time_parts(self, plan: Plan, repeats: int) -> dict[str, float]:
        """Return the fewest seconds of an iteration, and of its parts."""
        programs: dict[str, Callable[[], Any]] = {
            "C": lambda: iteration.exchange(plan),
            "M": lambda: self.rest()[:1],
            "E": lambda: self.rest()[1:],
            "nothing": lambda: [iteration.Traffic()],
            "whole": lambda: [*iteration.exchange(plan), *self.rest()],
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for i in range(repeats + 1):
            for name, make in programs.items():
                took = await self.seconds(make)
                if i:  # the first time, connections are made
                    times[name].append(took)
        return {name: min(t) for name, t in times.items()}

    async def traffic(self) -> tuple[int, int]:
        """Return the numbers that nodes have sent and received so far."""
        (found,) = await self.run([iteration.Traffic()])
        sent, received, _ = np.array(found).sum(axis=0)
        return int(sent), int(received)


def _added(parts: Sequence[Any]) -> Any:
    found = [part for part in parts if part is not None]
    return functools.reduce(lambda a, b: a + b, found)


def on_nodes(
    client: Client, kind: str, pairs: list[Any], n_nodes: int, work: Callable[..., Any]
) -> Any:
    """Return what some work finds out on nodes."""
    transport = TRANSPORTS[kind](client)

    async def fit() -> Any:
        try:
            nodes = Nodes(transport)
            await nodes.open(pairs, n_nodes)
            return await work(nodes)
        finally:
            await transport.close()

    return transport.drive(fit, lambda: None)


@contextlib.contextmanager
def local_workers(n: int, kind: Any = LocalCluster) -> Iterator[Client]:
    """Start worker processes of one thread each."""
    with (
        kind(n_workers=n, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(n)
        yield client


# ---------------------------------------------------------------------------- count


def received_here() -> int:
    """Return the bytes that this process has received on its TCP connections."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        except OSError:
            continue  # a file, or a socket of another kind
        if len(info) >= 136:
            total += struct.unpack_from("Q", info, 128)[0]  # tcpi_bytes_received
    return total


def count(options: argparse.Namespace) -> None:
    """Print what was sent beside what was planned."""
    pairs = read_pairs(options.pairs, options.seed)
    n_iterations = options.repeats
    print_head(
        "topology",
        "planned numbers",
        "counted by nodes",
        "planned between workers, bytes",
        "counted by Dask",
        "excess, %",
        "received by the client, bytes",
    )
    # the scheduler runs in a process of its own, so that this one is the client's alone
    with local_workers(2, SubprocessCluster) as client:

        async def outgoing() -> int:
            found = await client._run(
                lambda dask_worker: dask_worker.transfer_outgoing_bytes_total
            )
            return int(sum(found.values()))

        async def work(nodes: Nodes) -> None:
            for name, topology in MAIN.items():
                plan = await nodes.lay_out(topology)
                sent, received = await nodes.traffic()
                bytes_before = await outgoing()
                here = received_here()
                for _ in range(n_iterations):
                    await nodes.run([*iteration.exchange(plan), *nodes.rest()])
                here = received_here() - here
                by_dask = (await outgoing() - bytes_before) / n_iterations
                after = await nodes.traffic()
                by_nodes = (after[0] - sent) / n_iterations
                assert after[1] - received == after[0] - sent
                places = plan.places
                between = 8 * sum(
                    m.size for m in plan.messages if places[m.src] != places[m.dst]
                )
                print_row(
                    name,
                    f"{plan.total:,}",
                    f"{by_nodes:,.0f}",
                    f"{between:,}",
                    f"{by_dask:,.0f}",
                    f"{100 * (by_dask / between - 1):.3f}",
                    f"{here / n_iterations:,.0f}",
                )

        on_nodes(client, "futures", pairs, 2, work)


# -------------------------------------------------------------------------- network


def network(options: argparse.Namespace) -> None:
    """Print measured and predicted seconds of exchanges."""
    pairs = read_pairs(options.pairs, options.seed)
    incoming = options.receive_mbit / 8 * 1e6
    with Client(options.scheduler) as client:
        client.wait_for_workers(max(options.nodes) + 1)
        print_head(
            "nodes, transport, topology",
            "MB sent",
            "busiest, MB",
            "measured, s",
            "least, s",
            "predicted, s",
            "measured / predicted",
            "least / predicted",
        )
        for n_nodes in options.nodes:
            for kind in options.transports:
                rows = functools.partial(
                    _network_rows, options=options, incoming=incoming, kind=kind
                )
                on_nodes(client, kind, pairs, n_nodes, rows)


async def _network_rows(
    nodes: Nodes, options: argparse.Namespace, incoming: float, kind: str
) -> None:
    pinged = await ping.measure(nodes.run, nodes.transport.places)
    known = dataclasses.replace(
        pinged,
        bandwidth=options.send_mbit / 8 * 1e6,
        receive_bandwidth=incoming,
    )
    nothing = min(
        [await nodes.seconds(lambda: [iteration.Traffic()]) for _ in range(9)]
    )
    for name in options.topologies:
        plan = await nodes.lay_out(MAIN[name])
        times = []
        for _ in range(options.repeats):
            times.append(await nodes.seconds(lambda: iteration.exchange(plan)))  # noqa: B023
            await nodes.run(nodes.rest())
        measured, least = statistics.median(times) - nothing, min(times) - nothing
        predicted = known.seconds(plan)
        print_row(
            f"{nodes.n}, {kind}, {name}",
            f"{8 * plan.total / 1e6:.1f}",
            f"{8 * plan.busiest / 1e6:.1f}",
            f"{measured:.3f}",
            f"{least:.3f}",
            f"{predicted:.3f}",
            f"{measured / predicted:.2f}",
            f"{least / predicted:.2f}",
        )
    print(
        f"{nodes.n} nodes, {kind}, load {os.getloadavg()[0]:.1f}; ping: {pinged}; "
        f"an empty program takes {1e3 * nothing:.1f} ms\n",
        flush=True,
    )


# ---------------------------------------------------------------------------- local


def local(options: argparse.Namespace) -> None:
    """Print what an iteration takes on local processes, and where time goes."""
    pairs = read_pairs(options.pairs, options.seed)
    print_head(
        "transport, topology",
        "iteration, s",
        "E-step, s",
        "M-step, s",
        "C-step, s",
        "empty program, s",
    )
    with local_workers(2) as client:
        for kind in options.transports:

            async def work(nodes: Nodes, kind: str = kind) -> None:
                for name in options.topologies:
                    plan = await nodes.lay_out(MAIN[name])
                    took = await nodes.time_parts(plan, options.repeats)
                    cells = (took[k] for k in ("whole", "E", "M", "C", "nothing"))
                    print_row(f"{kind}, {name}", *(f"{t:.4f}" for t in cells))

            on_nodes(client, kind, pairs, 2, work)


# -------------------------------------------------------------------------- speed-up


def time_share(part: Any, repeats: int = 3) -> float:
    """Return the seconds that a node's E- and M-step take, alone on a core."""
    params = MODEL.start(part, None, part.summary, 0).params  # type: ignore[arg-type]
    assert params is not None
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        stats, _, _ = MODEL.e_step(params, part)
        params = MODEL.m_step(params, stats, part)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def speedup(options: argparse.Namespace) -> None:
    """Print and draw speed-ups."""
    pairs = read_pairs(options.pairs, options.seed)
    summary = MODEL.survey([pairs])
    links = {
        name: Network(
            latency=options.latency,
            bandwidth=bandwidth,
            per_message=options.per_message,
        )
        for name, bandwidth in (("1 Gbit/s", GIGABIT), ("100 Mbit/s", GIGABIT / 10))
    }
    work: dict[int, float] = {}
    exchange: dict[tuple[str, str, int], float] = {}
    for n_nodes in [1, *options.nodes]:
        parts = prepare_parts(pairs, n_nodes, summary)
        work[n_nodes] = max(time_share(part) for part in parts)
        sharing = Sharing.of([MODEL.support(part) for part in parts]).summarised()
        for name, topology in MAIN.items():
            plan = make_plan(topology, sharing)
            for link, speed in links.items():
                seconds = speed.seconds(plan) if n_nodes > 1 else 0.0
                exchange[link, name, n_nodes] = seconds
    overhead = _real_runs(pairs, work, options)
    gains = {
        (link, name): [
            (work[1] + overhead) / (work[n] + exchange[link, name, n] + overhead)
            for n in [1, *options.nodes]
        ]
        for link in links
        for name in MAIN
    }
    print_head("nodes", "E- and M-step, s", *(f"{n}, {k}" for k in links for n in MAIN))
    for i, n_nodes in enumerate([1, *options.nodes]):
        cells = (
            f"{exchange[link, name, n_nodes]:.3f} s: {gains[link, name][i]:.2f}"
            for link in links
            for name in MAIN
        )
        print_row(n_nodes, f"{work[n_nodes]:.4f}", *cells)
    draw(options.out, [1, *options.nodes], gains)


def _real_runs(
    pairs: list[Any], work: dict[int, float], options: argparse.Namespace
) -> float:
    """Compare real runs with predictions; return the seconds of an empty program."""
    found: dict[int, dict[str, float]] = {}
    predicted = 0.0
    for n_nodes in (1, 2):
        with local_workers(n_nodes) as client:

            async def measure(nodes: Nodes) -> tuple[dict[str, float], float]:
                plan = await nodes.lay_out(OwnerSharded())
                speed = Network()
                if nodes.n > 1:
                    speed = await ping.measure(nodes.run, nodes.transport.places)
                took = await nodes.time_parts(plan, options.repeats)
                return took, speed.seconds(plan)

            found[n_nodes], predicted = on_nodes(
                client, "actors", pairs, n_nodes, measure
            )
    print_head(
        "workers",
        "iteration, s",
        "predicted by E- and M-steps alone on a core, s",
        "by those of the workers, s",
        "C-step, s",
        "predicted, s",
    )
    for n_nodes, took in found.items():
        c = predicted if n_nodes == 2 else 0.0
        print_row(
            n_nodes,
            f"{took['whole']:.4f}",
            f"{work[n_nodes] + c + took['nothing']:.4f}",
            f"{took['E'] + took['M'] + c - took['nothing']:.4f}",
            f"{took['C'] - took['nothing']:.4f}",
            f"{c:.4f}",
        )
    gain = found[1]["whole"] / found[2]["whole"]
    print(f"speed-up with two workers: {gain:.2f}\n")
    return found[2]["nothing"]


def draw(path: Path, nodes: list[int], gains: Any) -> None:
    """Draw speed-ups."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from dask_em.plots.canvas import PALETTE

    links = list(dict.fromkeys(link for link, _ in gains))
    figure, axes = plt.subplots(
        1, len(links), figsize=(9, 4.2), sharey=True, layout="constrained"
    )
    for link, ax in zip(links, axes, strict=True):
        ax.plot(nodes, nodes, color="0.5", ls="--", lw=1, label="ideal")
        ax.axhline(1, color="0.5", lw=0.8)
        for (found, name), values in gains.items():
            if found == link:
                k = list(MAIN).index(name)
                ax.plot(
                    nodes, values, "osD^"[k] + "-", color=PALETTE[k], ms=4, label=name
                )
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set_xticks(nodes, map(str, nodes))
        ax.set_yticks(
            [2.0**k for k in range(-5, 5)],
            [*(f"1/{2**k}" for k in range(5, 0, -1)), *"1248", "16"],
        )
        ax.minorticks_off()
        ax.grid(color="0.9", lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(link)
        ax.set_xlabel("nodes")
    axes[0].set_ylabel("speed-up of an iteration")
    axes[0].legend(loc="lower left", frameon=False)
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------------------ main


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    more = {"nodes": [2, 4, 8, 10, 16, 20], "repeats": 5}
    for command, given in (
        (payload, {}),
        (count, {}),
        (network, {"nodes": [2, 4], "pairs": 100_000}),
        (local, {"repeats": 9}),
        (speedup, {"repeats": 9}),
    ):
        defaults: dict[str, Any] = {**more, **given}
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.set_defaults(run=command)
        sub.add_argument("--pairs", type=int, default=defaults.get("pairs", 200_000))
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--nodes", type=int, nargs="+", default=defaults["nodes"])
        sub.add_argument("--repeats", type=int, default=defaults["repeats"])
        sub.add_argument(
            "--transports", nargs="+", choices=TRANSPORTS, default=list(TRANSPORTS)
        )
        sub.add_argument("--topologies", nargs="+", choices=MAIN, default=list(MAIN))
        if command is network:
            sub.add_argument("--scheduler", required=True, metavar="ADDRESS")
            sub.add_argument("--send-mbit", type=float, default=100.0)
            sub.add_argument("--receive-mbit", type=float, default=math.inf)
        if command is speedup:
            sub.add_argument("--latency", type=float, default=Network().latency)
            sub.add_argument("--per-message", type=float, default=Network().per_message)
            folder = Path(__file__).resolve().parent.parent / "docs" / "_static"
            sub.add_argument(
                "--out", type=Path, default=folder / "benchmark_topologies.png"
            )
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, "
        f"dask {dask.__version__}; {options.pairs:,} pairs, seed {options.seed}\n"
    )
    options.run(options)


if __name__ == "__main__":
    main()
