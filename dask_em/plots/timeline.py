"""Who worked when, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .canvas import PALETTE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..transports.timeline import Timeline

__all__ = ["plot_timeline"]

#: Colour, hatch and name of what workers do.
_STYLES = {
    "work": (PALETTE[0], "", "E-step"),
    "extra": (PALETTE[4], "////", "extra update"),
    "transfer": ("0.75", "", "data on the way"),
}


def plot_timeline(timeline: Timeline, ax: Axes | None = None) -> Axes:
    """Draw what workers did as bars, one row each; gaps are waits.

    Parameters
    ----------
    timeline : Timeline
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.plotting import plot_timeline
    >>> from dask_em.transports import Simulated
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> slow = Simulated(2, speeds=[1.0, 0.5])
    >>> mixture = GaussianMixture(2, transport=slow, random_state=0).fit(X)
    >>> plot_timeline(slow.timeline).get_xlabel()
    'time in seconds'
    """
    workers = timeline.workers
    ax = axes(ax, 1.2 + 0.35 * min(len(workers), 30))
    rows = {worker: row for row, worker in enumerate(workers)}
    present = [k for k in _STYLES if any(i.kind == k for i in timeline.intervals)]
    for kind in present:
        colour, hatch, label = _STYLES[kind]
        mine: list[Any] = [i for i in timeline.intervals if i.kind == kind]
        ax.barh(
            [rows[i.worker] for i in mine],
            [i.seconds for i in mine],
            left=[i.start for i in mine],
            height=0.8,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
            label=label,
        )
    ax.set_ylim(len(workers) - 0.5, -0.5)
    if len(workers) <= 30:
        ax.set_yticks(range(len(workers)), workers)
    ax.set_xlim(left=0)
    ax.set_xlabel("time in seconds")
    if len(present) > 1:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    return ax
