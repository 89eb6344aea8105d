"""Nodes and what travels between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..topologies.plan import Plan

__all__ = ["plot_plan"]


def plot_plan(plan: Plan, ax: Any = None) -> Any:
    """Draw nodes in a circle, and what travels between each two as a line.

    A line's width is in proportion to the numbers sent in both directions, a node's
    size to the statistics that it holds, and its colour says how many numbers it sends
    and receives. A helper without data is in the middle.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(5.5, 5))
    helper = any(plan.n_nodes in (m.src, m.dst) for m in plan.messages)
    n = plan.n_nodes
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    at = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if n == 1:
        at[:] = 0
    at = np.concatenate([at, [[0.0, 0.0]]])
    between: dict[tuple[int, int], int] = {}
    for message in plan.messages:
        pair = min(message.src, message.dst), max(message.src, message.dst)
        between[pair] = between.get(pair, 0) + message.size * plan.width
    most = max(between.values(), default=1)
    for (i, j), numbers in sorted(between.items(), key=lambda item: item[1]):
        share = numbers / most
        ax.plot(
            *zip(at[i], at[j], strict=True),
            color="0.35",
            alpha=0.25 + 0.6 * share,
            linewidth=0.4 + 4.6 * share,
            solid_capstyle="round",
            zorder=1,
        )
    shown = np.arange(n + helper)
    holds = np.array([*plan.support, 0]) + np.array(plan.carried)
    load = (plan.sent + plan.received) / 1e6
    size = 150 + 450 * holds[shown] / max(holds.max(), 1)
    dots = ax.scatter(
        *at[shown].T, s=size, c=load[shown], cmap="viridis", edgecolors="w", zorder=2
    )
    dots.set_clim(0, max(load.max(), 1e-9))
    for k in shown:
        outward = at[k] * 1.17 if k < n and n > 1 else at[k] + [0, 0.14]
        name = f"{k}" if k < n else "reducer"
        ax.annotate(name, outward, ha="center", va="center")
    ax.set_xlim(-1.35, 1.35)
    ax.set_ylim(-1.35, 1.35)
    ax.set_aspect("equal")
    ax.set_axis_off()
    bar = ax.figure.colorbar(dots, ax=ax, shrink=0.75)
    bar.set_label("numbers sent and received, million")
    ratio = plan.total / (plan.width * plan.lower_bound) if plan.lower_bound else 1.0
    ax.set_title(
        f"{plan.topology.name}\n{plan.total:,} numbers, {ratio:.2f} x the lower bound",
        fontsize="medium",
    )
    return ax
