"""Pictures of mixtures of experts: the experts over the rows, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..estimators.experts_base import columns_named
from ..estimators.table import Table
from .canvas import LEGIBLE, axes, colours, some_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..estimators.experts_base import MixtureOfExperts
    from ..estimators.experts_regressor import MixtureOfExpertsRegressor

__all__ = [
    "draw_line",
    "gate_along",
    "lines_along",
    "name_of",
    "plot_experts",
    "plot_gate",
    "weighted_means",
]

Array = NDArray[Any]

#: Points up to which each is drawn.
POINTS = 5000
#: Points of a curve, and of a side of a map.
CURVE, SIDE = 201, 201
#: Rows over which a gate is averaged.
AVERAGED = 100
#: What lines are darkened by, where there are points of their colour.
DARKER = 0.8
#: Opacity of an expert's line where the gate does not choose it.
FAINT = 0.2


def plot_experts(
    mixture: MixtureOfExpertsRegressor,
    X: Any,
    y: Any,
    *,
    feature: int | str = 0,
    target: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the response against a column, and the experts over it.

    A point has the colours of the experts, blended by its responsibilities. Lines are
    the experts' means, with the other columns at the means of the rows that the expert
    is responsible for; they fade where the gate, averaged over the other columns, gives
    them little.

    Parameters
    ----------
    mixture : MixtureOfExpertsRegressor
        Fitted.
    X, y
        As in `MixtureOfExpertsRegressor.fit`. Of more than 5000 rows, so many are
        drawn, at equal distances; the axis says so. Lazy ones are computed.
    feature : int or str, default=0
        Column of X to draw against.
    target : int, default=0
        Column of y, where it has several.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If the mixture is a classifier.
    ValueError
        If there is no such column.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import MixtureOfExpertsRegressor
    >>> from dask_em.plotting import plot_experts
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-3, 3, (300, 1))
    >>> y = np.abs(X[:, 0]) + rng.normal(scale=0.2, size=300)
    >>> mixture = MixtureOfExpertsRegressor(2, random_state=0).fit(X, y)
    >>> plot_experts(mixture, X, y).get_xlabel()
    'column 0'
    """
    table = Table.of(mixture, X).with_responses(y)
    density = mixture._density_
    if density.classifies:
        raise TypeError("plot_experts draws numbers, not classes; see plot_gate.")
    column = _column("feature", feature, mixture)
    q = density.n_responses
    if not isinstance(target, Integral) or not 0 <= target < q:
        raise ValueError(f"target must be a column of y, 0 to {q - 1}, got {target!r}.")
    ax = axes(ax)
    (rows, response), whole = some_rows([table.X, table.y], POINTS)
    shade = colours(density.n_components)
    found = density.responsibilities(rows, response)
    response = response.reshape(len(rows), -1)[:, target].astype(np.float64)
    own = np.clip(found @ shade, 0, 1)
    size = 16.0 if len(rows) <= 1000 else 6.0
    at = rows[:, column]
    ax.scatter(at, response, s=size, c=own, alpha=0.55, linewidths=0, zorder=2)
    ends = _range(at)
    centres = weighted_means(rows, found, mixture.feature_mean_)
    along, gate = gate_along(density, rows, column, ends)
    mean = lines_along(density, centres, column, along, target)
    for k, colour in enumerate(shade):
        # somewhat darker than the points beneath
        draw_line(ax, along, mean[:, k], gate[:, k], DARKER * colour, 2.5, k)
    ax.set_xlim(*ends)
    ax.set_ylim(_range(response))
    shown = "" if whole else f" ({len(rows)} rows, evenly)"
    ax.set_xlabel(name_of(mixture, column))
    ax.set_ylabel(("response" if q == 1 else f"response {target}") + shown)
    _legend(ax, DARKER * shade)
    return ax


def plot_gate(
    mixture: MixtureOfExperts,
    X: Any,
    *,
    features: int | str | Sequence[int | str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where the gate gives the rows to which expert.

    Over one column there is a curve for every expert. Over two, a region has the
    colour of its most probable expert, the paler, the less that is certain; rows are
    dots. All other columns are at their means.

    Parameters
    ----------
    mixture : MixtureOfExpertsRegressor or MixtureOfExpertsClassifier
        Fitted.
    X
        As in its `fit`. Of more than 5000 rows, so many are drawn, at equal distances.
        Lazy ones are computed.
    features : int, str, or sequence of one or two of them, optional
        Columns of X to draw over; the first two that the gate sees by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the gate is the same for all rows, or there are no such columns.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import MixtureOfExpertsRegressor
    >>> from dask_em.plotting import plot_gate
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-3, 3, (300, 1))
    >>> y = np.abs(X[:, 0]) + rng.normal(scale=0.2, size=300)
    >>> mixture = MixtureOfExpertsRegressor(2, random_state=0).fit(X, y)
    >>> plot_gate(mixture, X).get_ylabel()
    'probability by the gate'
    """
    table = Table.of(mixture, X)
    density = mixture._density_
    seen = density.design.gate
    if not seen:
        raise ValueError(
            "the gate is the same for all rows, so there is nothing to draw; see "
            "weights_."
        )
    if features is None:
        chosen = seen[:2]
    else:
        names = getattr(mixture, "feature_names_in_", None)
        chosen = columns_named("features", features, mixture.n_features_in_, names)
    if len(chosen) not in (1, 2):
        raise ValueError(f"features must name one or two columns, got {features!r}.")
    ax = axes(ax)
    (rows,), _ = some_rows([table.X], POINTS)
    shade = colours(density.n_components)
    ax.set_xlabel(name_of(mixture, chosen[0]))
    if len(chosen) == 1:
        at = np.linspace(*_range(rows[:, chosen[0]]), CURVE)
        gate = density.gate(_varied(mixture.feature_mean_, chosen[0], at))
        for k, colour in enumerate(shade):
            ax.plot(at, gate[:, k], color=colour, linewidth=2, label=f"expert {k}")
        _rug(ax, rows[:, chosen[0]])
        ax.set_xlim(at[0], at[-1])
        ax.set_ylim(-0.06, 1.03)
        ax.set_ylabel("probability by the gate")
        ax.grid(alpha=0.3)
        _legend(ax, shade)
        return ax
    _map(mixture, rows, chosen, shade, ax)
    ax.set_ylabel(name_of(mixture, chosen[1]))
    _legend(ax, shade, patches=True)
    return ax


def _map(
    mixture: MixtureOfExperts,
    rows: Array,
    chosen: tuple[int, ...],
    shade: Array,
    ax: Axes,
) -> None:
    """Fill the plane of two columns with the colours of the gate's choice."""
    (left, right), (low, high) = (_range(rows[:, c]) for c in chosen)
    grid = np.tile(mixture.feature_mean_, (SIDE * SIDE, 1))
    across, up = np.meshgrid(
        np.linspace(left, right, SIDE), np.linspace(low, high, SIDE)
    )
    grid[:, chosen[0]], grid[:, chosen[1]] = across.ravel(), up.ravel()
    gate = mixture._density_.gate(grid)
    k = len(shade)
    # from white, where all are alike, to three quarters of the colour
    least = 1 / k if k > 1 else 0.0
    sure = 0.75 * (gate.max(axis=1) - least) / (1 - least)
    picture = 1 - sure[:, None] * (1 - shade[gate.argmax(axis=1)])
    ax.imshow(
        np.clip(picture, 0, 1).reshape(SIDE, SIDE, 3),
        extent=(left, right, low, high),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        zorder=0,
    )
    size = 8.0 if len(rows) <= 1000 else 3.0
    ax.scatter(
        rows[:, chosen[0]],
        rows[:, chosen[1]],
        s=size,
        color="0.15",
        alpha=0.5,
        linewidths=0,
    )
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)


def weighted_means(rows: Array, share: Array, otherwise: Array) -> Array:
    """Return the mean row of each component, for shares of shape (rows, K)."""
    total = share.sum(axis=0)
    known = total > 1e-6 * len(rows)
    means = share.T @ rows / np.where(known, total, 1.0)[:, None]
    return np.where(known[:, None], means, otherwise)


def gate_along(
    density: Any, rows: Array, column: int, ends: tuple[float, float]
) -> tuple[Array, Array]:
    """Return values of a column, and the gate there, averaged over the other ones.

    Returns
    -------
    at : array of shape (n,)
    gate : array of shape (n, K)
    """
    at = np.linspace(*ends, CURVE)
    few = rows[np.linspace(0, len(rows) - 1, min(AVERAGED, len(rows))).astype(int)]
    if density.design.gate in ((), (column,)):
        few = few[:1]
    gate = [density.gate(_varied(row, column, at)) for row in few]
    return at, np.mean(gate, axis=0)


def lines_along(
    density: Any, centres: Array, column: int, at: Array, target: int
) -> Array:
    """Return experts' means as a column varies and the others stay at their centres.

    Parameters
    ----------
    density : ExpertsDensity
    centres : array of shape (K, n_features)
    column : int
    at : array of shape (n,)
    target : int

    Returns
    -------
    array of shape (n, K)
    """
    k, q = density.n_components, density.n_responses
    lines = [
        density.experts(_varied(centre, column, at)).reshape(-1, k, q)[:, i, target]
        for i, centre in enumerate(centres)
    ]
    return np.stack(lines, axis=1)


def _varied(row: Array, column: int, at: Array) -> Array:
    """Return copies of a row in which one column has other values."""
    rows = np.tile(np.asarray(row, dtype=np.float64), (len(at), 1))
    rows[:, column] = at
    return rows


def draw_line(
    ax: Axes,
    at: Array,
    height: Array,
    gate: Array,
    colour: Any,
    width: float,
    component: int | None = None,
) -> None:
    """Draw an expert's line, opaque where the gate chooses it.

    Lines on which others lie are outlined in white, and labelled with their number.
    """
    from matplotlib.collections import LineCollection

    points = np.stack([at, height], axis=1)
    segments: Any = np.stack([points[:-1], points[1:]], axis=1)
    middle = (gate[:-1] + gate[1:]) / 2
    opacity = FAINT + (1 - FAINT) * middle
    if component is not None:
        edge = np.column_stack([np.ones((len(middle), 3)), 0.9 * middle])
        ax.add_collection(
            LineCollection(segments, colors=edge, linewidths=width + 2, zorder=3),
            autolim=False,
        )
    shade = np.column_stack([np.tile(colour, (len(opacity), 1)), opacity])
    lines = LineCollection(
        segments,
        colors=shade,
        linewidths=width,
        capstyle="butt",
        zorder=3 if component is None else 4,
        label="_local" if component is None else f"expert {component}",
    )
    ax.add_collection(lines, autolim=False)


def name_of(mixture: Any, column: int) -> str:
    """Return what a column is called."""
    names = getattr(mixture, "feature_names_in_", None)
    return f"column {column}" if names is None else str(names[column])


def _column(what: str, chosen: Any, mixture: Any) -> int:
    """Return the number of a column that is given by number or by name."""
    names = getattr(mixture, "feature_names_in_", None)
    found = columns_named(what, chosen, mixture.n_features_in_, names)
    if len(found) != 1:
        raise ValueError(f"{what} must name one column, got {chosen!r}.")
    return found[0]


def _range(values: Array) -> tuple[float, float]:
    """Return ends with a margin around some values."""
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _rug(ax: Axes, values: Array) -> None:
    """Draw short strokes at the foot of the axes, one for each value."""
    ax.plot(
        values,
        np.full(len(values), -0.03),
        "|",
        color="0.3",
        markersize=6,
        markeredgewidth=0.6,
        alpha=min(0.4, 60 / len(values)),
        label="_rows",
    )


def _legend(ax: Axes, shade: Array, patches: bool = False) -> None:
    """Say which colour is which expert, beside the picture."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if len(shade) > LEGIBLE:
        return
    handles: list[Any] = [
        Patch(facecolor=colour, alpha=0.75, label=f"expert {k}")
        if patches
        else Line2D([], [], color=colour, linewidth=2.5, label=f"expert {k}")
        for k, colour in enumerate(shade)
    ]
    ax.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
    )
