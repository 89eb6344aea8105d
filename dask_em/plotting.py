"""Pictures of a fit; matplotlib is asked for when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .plots.canvas import axes
from .plots.experts import plot_experts, plot_gate
from .plots.reduction import plot_reduction
from .plots.timeline import plot_timeline
from .result import EMResult
from .schedules.base import check_integer
from .sharding import is_dask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .estimators.linear_mixed import LinearMixedModel

__all__ = [
    "plot_bound",
    "plot_experts",
    "plot_gate",
    "plot_random_effects",
    "plot_reduction",
    "plot_residuals",
    "plot_timeline",
]

Array = NDArray[Any]

#: Groups up to which each has its label on the axis.
LABELLED = 40
#: Points up to which each is drawn.
POINTS = 5000


def plot_bound(
    results: Mapping[str, EMResult[Any]] | EMResult[Any],
    ax: Axes | None = None,
    *,
    gap: bool = False,
) -> Axes:
    """Draw the bound against time.

    Parameters
    ----------
    results : EMResult or mapping of str to EMResult
        Fits of the same data, with the names that the legend is to show.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    gap : bool, default=False
        Draw how far the bound lies below the best likelihood of all, on a logarithmic
        scale, instead of the bound itself. The last steps are only visible so.

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
    >>> from dask_em.plotting import plot_bound
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> fit = GaussianMixture(2, random_state=0).fit(X)
    >>> plot_bound(fit.result_).get_xlabel()
    'time in seconds'
    """
    if isinstance(results, EMResult):
        results = {"": results}
    ax = axes(ax)
    best = max(
        float(np.nanmax([r.log_likelihood, r.lower_bound]) / r.weight)
        for r in results.values()
    )
    for name, result in results.items():
        bound = result.trace.lower_bound / result.weight
        height = np.maximum(best - bound, 1e-16) if gap else bound
        # the bound is constant between two M-steps
        ax.step(result.trace.time, height, where="post", label=name)
    if gap:
        ax.set_yscale("log")
    ax.set_xlabel("time in seconds")
    ax.set_ylabel("log-likelihood per row still to gain" if gap else "bound per row")
    ax.grid(alpha=0.3)
    if any(results):
        ax.legend()
    return ax


def plot_random_effects(
    model: LinearMixedModel,
    factor: str | None = None,
    *,
    effect: str | None = None,
    level: float = 0.95,
    max_groups: int = 200,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw a random effect of all groups, sorted, with intervals.

    The intervals are :math:`\hat b_i \pm z\, s_i` of the modes (BLUPs) and conditional
    standard deviations of `random_effects_`: for known fixed effects and variances.

    Parameters
    ----------
    model : LinearMixedModel
        Fitted. Effects on a cluster are fetched.
    factor : str, optional
        The grouping factor; the first one by default.
    effect : str, optional
        One of ``model.effects_[factor]``; the first one by default.
    level : float, default=0.95
        Of the intervals.
    max_groups : int, default=200
        Of more groups than this, so many are drawn, at equal distances in the order of
        their modes, the least and the largest among them; the axis says so.
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
        If there is no such factor or effect, or a number is out of range.

    Examples
    --------
    >>> from dask_em import LinearMixedModel
    >>> from dask_em.datasets import make_mixed_model
    >>> from dask_em.plotting import plot_random_effects
    >>> data = make_mixed_model(2000, n_groups=30, n_random=1, random_state=0)
    >>> model = LinearMixedModel(fit_intercept=False)
    >>> model = model.fit(data.X, data.y, groups=data.groups, Z=data.Z)
    >>> plot_random_effects(model).get_xlabel()
    'z0, with 95 % intervals'
    """
    from scipy import stats
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model, "fixed_covariance_")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}.")
    check_integer("max_groups", max_groups, 1)
    factor = _one_of("factor", factor, list(model.effects_))
    names = model.effects_[factor]
    k = names.index(_one_of("effect", effect, names))
    ax = axes(ax, height=6.0)
    effects = model.random_effects_[factor]
    order = np.argsort(effects.modes[:, k], kind="stable")
    n = len(order)
    if n > max_groups:
        order = order[np.linspace(0, n - 1, max_groups).round().astype(int)]
    modes = effects.modes[order, k]
    half = float(stats.norm.ppf((1 + level) / 2)) * effects.std[order, k]
    rank = np.arange(len(order))
    ax.axvline(0.0, color="0.4", linewidth=1, zorder=1)
    ax.hlines(rank, modes - half, modes + half, color="C0", alpha=0.5, linewidth=1.2)
    size = 4.0 if len(order) <= LABELLED else 2.0
    ax.plot(modes, rank, "o", color="C0", markersize=size, zorder=3)
    ax.set_ylim(-1, len(order))
    if len(order) <= LABELLED:
        ax.set_yticks(rank, [str(label) for label in effects.labels[order]])
    else:
        ax.set_yticks([])
    shown = "sorted" if len(order) == n else f"{len(order)} of {n}, evenly by rank"
    ax.set_xlabel(f"{names[k]}, with {100 * level:g} % intervals")
    ax.set_ylabel(f"{factor} ({shown})")
    ax.grid(alpha=0.3, axis="x")
    return ax


def plot_residuals(
    model: LinearMixedModel,
    X: Any,
    y: Any = None,
    *,
    groups: Any = None,
    Z: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw residuals against fitted values, random effects included.

    More than 5000 rows are counted in hexagons. Rows with missing values are left out.

    Parameters
    ----------
    model : LinearMixedModel
        Fitted.
    X, y, groups, Z
        As in `LinearMixedModel.fit`; Dask collections are computed.
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
        If no row has all its values.

    Examples
    --------
    >>> from dask_em import LinearMixedModel
    >>> from dask_em.datasets import make_mixed_model
    >>> from dask_em.plotting import plot_residuals
    >>> data = make_mixed_model(2000, n_groups=30, n_random=1, random_state=0)
    >>> model = LinearMixedModel(fit_intercept=False)
    >>> model = model.fit(data.X, data.y, groups=data.groups)
    >>> plot_residuals(model, data.X, data.y, groups=data.groups).get_ylabel()
    'residual'
    """
    fitted = model.predict(X, groups=groups, Z=Z)
    residuals = model.residuals(X, y, groups=groups, Z=Z)
    fitted, residuals = _computed(fitted, residuals)
    keep = np.isfinite(fitted) & np.isfinite(residuals)
    fitted, residuals = fitted[keep], residuals[keep]
    if not len(fitted):
        raise ValueError("no row has all its values, so there is nothing to draw.")
    ax = axes(ax)
    if len(fitted) > POINTS:
        cells = ax.hexbin(
            fitted, residuals, gridsize=60, bins="log", mincnt=1, cmap="viridis_r"
        )
        ax.figure.colorbar(cells, ax=ax, label="rows")
    else:
        ax.plot(fitted, residuals, "o", color="C0", markersize=3, alpha=0.5)
    ax.axhline(0.0, color="C3", linewidth=1)
    ax.set_xlabel("fitted value")
    ax.set_ylabel("residual")
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)
    return ax


def _one_of(what: str, name: str | None, known: list[str]) -> str:
    """Return a name that is known, by default the first."""
    if not known:
        raise ValueError("the model has no random effects to draw.")
    if name is None:
        return known[0]
    if name not in known:
        raise ValueError(
            f"{what} must be one of {', '.join(map(repr, known))}, got {name!r}."
        )
    return name


def _computed(*arrays: Any) -> list[Array]:
    """Return arrays without labels, in memory."""
    plain = [getattr(a, "data", a) if hasattr(a, "dims") else a for a in arrays]
    if any(map(is_dask, plain)):
        import dask

        plain = list(dask.compute(*plain))  # type: ignore[attr-defined]
    return [np.asarray(a, dtype=np.float64).ravel() for a in plain]
