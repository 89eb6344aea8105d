"""Pictures of a fit; matplotlib is asked for when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .result import EMResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_bound"]


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
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "plots need matplotlib; install it with: pip install matplotlib"
        ) from None
    if isinstance(results, EMResult):
        results = {"": results}
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
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
