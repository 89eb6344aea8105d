"""The picture of a reduction: local components, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..estimators.experts_base import columns_named
from .canvas import LEGIBLE, axes, colours
from .experts import draw_line, gate_along, lines_along, name_of, weighted_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_reduction"]

Array = NDArray[Any]

#: Standard deviations to which ellipses and lines reach.
REACH = 2.0
#: Points of a density.
CURVE = 401
#: Rows at which experts are compared to find out where they went.
SUPPORT = 500
#: Probability by the gate from which a piece of an expert's line is to be in view.
SEEN = 0.05
GREY = (0.6, 0.6, 0.6)


def plot_reduction(
    models: Sequence[Any],
    reduced: Any,
    *,
    features: int | str | Sequence[int | str] | None = None,
    target: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw local components thin, and the ones they were reduced to thick.

    A local component has the colour of the one that it is nearest to by
    Kullback-Leibler divergence, where the reduction sends it; those of a model that
    was left out as outlying are grey. Of Gaussian mixtures, ellipses of two standard
    deviations are drawn over two columns, and weighted densities over one. Of mixtures
    of experts, the experts' means are drawn over one column, two standard deviations to
    each side, with the others where the reduced expert's rows have their mean; lines
    fade where the gate, averaged over the other columns, gives them little. Rows are
    made up for this, as normal ones with the moments of the fits.

    Parameters
    ----------
    models : sequence of estimators
        What was given to `reduce_mixture`, in the same order.
    reduced : estimator
        What it returned.
    features : int, str, or sequence of one or two of them, optional
        Columns to draw over; by default the first two for Gaussian mixtures, the
        first one that experts see otherwise, for which only one may be given.
    target : int, optional
        Response of the experts to draw, by default the first one; for classifiers the
        number of the class whose probability is drawn, by default the last one.
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
        If the mixtures are of another kind.
    ValueError
        If there are no such columns or responses.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import GaussianMixture, reduce_mixture
    >>> from dask_em.plotting import plot_reduction
    >>> rng = np.random.default_rng(0)
    >>> sites = [
    ...     rng.normal(size=(300, 2)) + 6 * rng.integers(2, size=(300, 1))
    ...     for _ in range(3)
    ... ]
    >>> models = [GaussianMixture(2, random_state=0).fit(X) for X in sites]
    >>> ax = plot_reduction(models, reduce_mixture(models))
    >>> ax.get_xlabel(), len(ax.patches)
    ('column 0', 8)
    """
    models = list(models)
    found = getattr(reduced, "reduction_", None)
    kept = set(range(len(models)) if found is None else found.kept)
    if kept and max(kept) >= len(models):
        raise ValueError(
            f"reduced was made of more models than the {len(models)} given; give those "
            "that were given to reduce_mixture."
        )
    if hasattr(reduced, "precisions_cholesky_"):
        draw: Any = _gaussians
        default: tuple[int, ...] = tuple(range(min(2, int(reduced.n_features_in_))))
        most = 2
    elif hasattr(reduced, "_density_"):
        draw, most = _experts, 1
        default = (reduced._density_.design.experts or (0,))[:1]
    else:
        raise TypeError(
            "reduced must be a Gaussian mixture or a mixture of experts, got "
            f"{type(reduced).__name__}."
        )
    if features is None:
        chosen = default
    else:
        names = getattr(reduced, "feature_names_in_", None)
        chosen = columns_named("features", features, reduced.n_features_in_, names)
    if not 1 <= len(chosen) <= most:
        raise ValueError(
            f"features must name one {'column' if most == 1 else 'or two columns'}, "
            f"got {features!r}."
        )
    if draw is _experts:
        target = _target(reduced._density_, target)
    ax = axes(ax)
    shade = colours(reduced.n_components)
    draw(models, reduced, kept, chosen, target, shade, ax)
    ax.set_xlabel(name_of(reduced, chosen[0]))
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)
    _legend(ax, shade, "expert" if draw is _experts else "component", models, kept)
    return ax


def _legend(
    ax: Axes, shade: Array, what: str, models: Sequence[Any], kept: set[int]
) -> None:
    from matplotlib.lines import Line2D

    handles = []
    if len(shade) <= LEGIBLE:
        handles = [
            Line2D([], [], color=colour, linewidth=2.8, label=f"{what} {k}")
            for k, colour in enumerate(shade)
        ]
    label = f"of {len(models)} models"
    handles.append(Line2D([], [], color="0.3", linewidth=0.8, label=label))
    if len(kept) < len(models):
        label = f"{len(models) - len(kept)} left out"
        handles.append(
            Line2D([], [], color=GREY, linewidth=0.8, linestyle="--", label=label)
        )
    ax.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
    )


# ------------------------------------------------------------------- Gaussian mixtures


def _gaussians(
    models: Sequence[Any],
    reduced: Any,
    kept: set[int],
    chosen: tuple[int, ...],
    target: int | None,
    shade: Array,
    ax: Axes,
) -> None:
    """Draw ellipses, or densities."""
    means, covariances = _moments(reduced)
    layers = []
    for i, model in enumerate(models):
        own = _moments(model)
        if i in kept:
            colour = shade[_divergence(*own, means, covariances).argmin(axis=1)]
        else:
            colour = np.tile(GREY, (len(own[0]), 1))
        style = "-" if i in kept else "--"
        layers.append((model, *own, colour, 0.8, style, 0.75))
    layers.append((reduced, means, covariances, shade, 2.8, "-", 1.0))
    at = list(chosen)
    if len(at) == 2:
        _ellipses(layers, at, ax)
        ax.set_ylabel(name_of(reduced, chosen[1]))
    else:
        _densities(layers, at[0], ax)
        ax.set_ylabel("weighted density")


def _ellipses(layers: Sequence[Any], at: list[int], ax: Axes) -> None:
    from matplotlib.patches import Ellipse

    for depth, (_, means, covariances, shade, width, style, alpha) in enumerate(layers):
        for mean, covariance, colour in zip(means, covariances, shade, strict=True):
            values, vectors = np.linalg.eigh(covariance[np.ix_(at, at)])
            angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
            across, up = 2 * REACH * np.sqrt(np.maximum(values, 0.0))[::-1]
            ax.add_patch(
                Ellipse(
                    mean[at],
                    across,
                    up,
                    angle=angle,
                    fill=False,
                    edgecolor=colour,
                    linewidth=width,
                    linestyle=style,
                    alpha=alpha,
                    zorder=2 + (depth == len(layers) - 1),
                )
            )
    *_, (_, means, _, shade, _, _, _) = layers
    ax.scatter(
        means[:, at[0]], means[:, at[1]], c=shade, s=45, edgecolors="white", zorder=4
    )
    ax.autoscale_view()


def _densities(layers: Sequence[Any], column: int, ax: Axes) -> None:
    curves = []
    for model, means, covariances, *style in layers:
        spread = np.sqrt(covariances[:, column, column])
        curves.append((model.weights_, means[:, column], spread, *style))
    low = min((centre - 3.5 * s).min() for _, centre, s, *_ in curves)
    high = max((centre + 3.5 * s).max() for _, centre, s, *_ in curves)
    at = np.linspace(low, high, CURVE)
    for weights, centre, spread, shade, width, style, alpha in curves:
        height = np.exp(-0.5 * ((at[:, None] - centre) / spread) ** 2)
        height *= weights / (spread * np.sqrt(2 * np.pi))
        for line, colour in zip(height.T, shade, strict=True):
            ax.plot(at, line, style, color=colour, linewidth=width, alpha=alpha)
    ax.set_xlim(low, high)
    ax.set_ylim(bottom=0)


def _moments(model: Any) -> tuple[Array, Array]:
    """Return means and full covariance matrices."""
    means = np.asarray(model.means_, dtype=np.float64)
    k, d = means.shape
    given = np.asarray(model.covariances_, dtype=np.float64)
    kind = model.covariance_type
    if kind == "tied":
        return means, np.tile(given, (k, 1, 1))
    if kind == "diag":
        return means, given[:, None] * np.eye(d)
    if kind == "spherical":
        return means, given[:, None, None] * np.eye(d)
    return means, given


def _divergence(
    means: Array, covariances: Array, to_means: Array, to_covariances: Array
) -> Array:
    """Return twice the divergences of Gaussians, up to what does not tell them apart.

    The result has the shape (components, targets).
    """
    columns = []
    for mean, covariance in zip(to_means, to_covariances, strict=True):
        inverse = np.linalg.inv(covariance)
        gap = means - mean
        columns.append(
            np.linalg.slogdet(covariance)[1]
            + np.einsum("ij,lji->l", inverse, covariances)
            + np.einsum("li,ij,lj->l", gap, inverse, gap)
        )
    return np.stack(columns, axis=1)


# ---------------------------------------------------------------- mixtures of experts


def _experts(
    models: Sequence[Any],
    reduced: Any,
    kept: set[int],
    chosen: tuple[int, ...],
    target: int,
    shade: Array,
    ax: Axes,
) -> None:
    """Draw lines of experts."""
    (column,) = chosen
    centre = float(reduced.feature_mean_[column])
    half = REACH * float(np.sqrt(reduced.feature_covariance_[column, column])) or 0.5
    q = reduced._density_.n_responses
    support = np.random.default_rng(0).multivariate_normal(
        reduced.feature_mean_, reduced.feature_covariance_, size=SUPPORT, method="svd"
    )
    centres = weighted_means(
        support, reduced._density_.gate(support), reduced.feature_mean_
    )
    ends = centre - half, centre + half
    seen = []
    for i, model in enumerate([*models, reduced]):
        density, last = model._density_, i == len(models)
        went = np.arange(density.n_components)
        if not last:
            went = _nearest(density, reduced._density_, support)
        along, gate = gate_along(density, support, column, ends)
        mean = lines_along(density, centres[went], column, along, target)
        if last or i in kept:
            seen.append(mean[gate > SEEN])
        for k, to in enumerate(went):
            colour = shade[to] if last or i in kept else GREY
            width, number = (3.0, k) if last else (0.8, None)
            draw_line(ax, along, mean[:, k], gate[:, k], colour, width, number)
    values = np.concatenate(seen)
    margin = 0.06 * float(np.ptp(values)) or 0.5
    ax.set_xlim(*ends)
    ax.set_ylim(values.min() - margin, values.max() + margin)
    if reduced._density_.classifies:
        ax.set_ylabel(f"probability of {reduced.classes_[target]!s}")
    else:
        ax.set_ylabel("mean response" if q == 1 else f"mean of response {target}")


def _nearest(density: Any, reduced: Any, rows: Array) -> NDArray[np.intp]:
    """Return the expert of the reduction that each local one is nearest to."""
    to = reduced.params
    own = density.params.moved(density.design, to.frame)
    Ze = reduced.design.rows(rows, to.frame)[1]
    cost = reduced.family.divergence(own, own.coef @ Ze, to, to.coef @ Ze)
    prior = density.gate(rows).T
    return np.asarray(np.einsum("ls,lks->lk", prior, cost).argmin(axis=1))


def _target(density: Any, target: int | None) -> int:
    """Return the number of the response to draw."""
    q = density.n_responses
    if target is None:
        return q - 1 if density.classifies else 0
    if not 0 <= int(target) < q:
        raise ValueError(f"target must be 0 to {q - 1}, got {target!r}.")
    return int(target)
