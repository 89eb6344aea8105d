"""Nodes and what travels between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import axes

if TYPE_CHECKING:
    from ..topologies.plan import Plan

__all__ = ["plot_plan"]

Array = NDArray[np.float64]


def plot_plan(plan: Plan, ax: Any = None, *, beside: Sequence[Plan] = ()) -> Any:
    """Draw nodes, and what travels between each two as a line.

    A line's width is in proportion to the numbers sent in both directions, a node's
    size to the statistics that it holds, and its colour says how many numbers it sends
    and receives. Nodes of a tree are drawn around its centre, others in a circle; a
    helper without data is in the middle.

    Parameters
    ----------
    plan : Plan
    ax : matplotlib axes, optional
    beside : sequence of Plan, optional
        Other plans whose pictures are to have the same scales.

    Returns
    -------
    matplotlib axes
    """
    ax = axes(ax, 5.5)
    n = plan.n_nodes
    scales = [plan, *beside]
    most = max(max(_between(p).values(), default=1) for p in scales)
    largest = max(int(_holds(p).max()) for p in scales)
    between = _between(plan)
    helper = any(n in pair for pair in between)
    at = _places(plan, list(between), helper)
    for (i, j), numbers in sorted(between.items(), key=lambda item: item[1]):
        share = numbers / most
        ax.plot(
            *zip(at[i], at[j], strict=True),
            color="0.35",
            alpha=0.3 + 0.55 * share,
            linewidth=0.5 + 7.5 * share,
            solid_capstyle="round",
            zorder=1,
        )
    shown = np.arange(n + helper)
    # in units of which a colour bar has few digits
    busiest = max(p.busiest for p in scales)
    unit, name = (1e6, ", million") if busiest >= 1e6 else (1e3, ", thousand")
    if busiest < 1e4:
        unit, name = 1.0, ""
    load = (plan.sent + plan.received) / unit
    dots = ax.scatter(
        *at[shown].T,
        s=180 + 520 * _holds(plan)[shown] / max(largest, 1),
        c=load[shown],
        cmap="viridis",
        vmin=0,
        vmax=max(busiest / unit, 1e-9),
        edgecolors="w",
        linewidths=1.5,
        zorder=2,
    )
    for k in range(n):
        light = dots.norm(load[k]) > 0.6
        ax.annotate(
            f"{k}",
            at[k],
            ha="center",
            va="center_baseline",
            fontsize=8,
            color="k" if light else "w",
            zorder=3,
        )
    if helper:  # between two of the lines that end there
        angle = np.pi / 2 - np.pi / n
        ax.annotate(
            "reducer",
            (0.6 * np.cos(angle), 0.6 * np.sin(angle)),
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.15", "fc": "w", "ec": "none", "alpha": 0.9},
            zorder=3,
        )
    ax.set_xlim(-1.25, 1.25)
    ax.set_ylim(-1.25, 1.25)
    ax.set_aspect("equal")
    ax.set_axis_off()
    bar = ax.figure.colorbar(dots, ax=ax, shrink=0.75)
    bar.set_label(f"numbers sent and received{name}")
    ratio = plan.total / (plan.width * plan.lower_bound) if plan.lower_bound else 1.0
    ax.set_title(
        f"{plan.topology.name}\n{plan.total:,} numbers, {ratio:.2f} x the lower bound",
        fontsize="medium",
    )
    return ax


def _between(plan: Plan) -> dict[tuple[int, int], int]:
    """Return the numbers that each two nodes send each other."""
    found: dict[tuple[int, int], int] = {}
    for m in plan.messages:
        pair = min(m.src, m.dst), max(m.src, m.dst)
        found[pair] = found.get(pair, 0) + m.size * plan.width
    return found


def _holds(plan: Plan) -> NDArray[np.int64]:
    """Return how many statistics each node holds, the helper last."""
    return np.array([*plan.support, 0]) + np.array(plan.carried)


def _places(plan: Plan, links: list[tuple[int, int]], helper: bool) -> Array:
    """Return where to draw each node; the helper, if there is one, in the middle."""
    n = plan.n_nodes
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    at = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if n == 1 and not helper:
        at[:] = 0
    elif n > 2 and not helper and len(links) == n - 1:
        at = _around_the_centre(n, links, at)
    return np.concatenate([at, [[0.0, 0.0]]])


def _around_the_centre(n: int, links: list[tuple[int, int]], circle: Array) -> Array:
    """Return places in rings around the centre of a tree, so that no lines cross."""
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for i, j in links:
        neighbours[i].append(j)
        neighbours[j].append(i)

    def walk(root: int) -> tuple[list[int], dict[int, int], dict[int, int]]:
        order, depth, parent = [root], {root: 0}, {root: root}
        for k in order:
            for other in sorted(neighbours[k]):
                if other not in depth:
                    depth[other], parent[other] = depth[k] + 1, k
                    order.append(other)
        return order, depth, parent

    end = walk(0)[0][-1]
    order, depth, parent = walk(end)
    if len(order) < n:  # as many links as a tree has, but there is none
        return circle
    centre = order[-1]
    for _ in range(depth[order[-1]] // 2):
        centre = parent[centre]
    order, depth, parent = walk(centre)
    leaves = dict.fromkeys(range(n), 0)
    for k in reversed(order):
        leaves[k] = max(leaves[k], 1)
        if k != centre:
            leaves[parent[k]] += leaves[k]
    # each subtree has a sector as wide as it has leaves
    first = {centre: 0.0}
    used = dict.fromkeys(range(n), 0.0)
    at = np.zeros((n, 2))
    deepest = max(depth.values())
    for k in order[1:]:
        up = parent[k]
        first[k] = first[up] + used[up]
        used[up] += leaves[k]
        turn = np.pi / 2 - 2 * np.pi * (first[k] + leaves[k] / 2) / leaves[centre]
        at[k] = np.array([np.cos(turn), np.sin(turn)]) * depth[k] / deepest
    return at
