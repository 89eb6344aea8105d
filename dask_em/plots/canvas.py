"""What all pictures need: axes, colours, columns by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LEGIBLE", "axes", "colours", "some_rows"]

Array = NDArray[Any]

#: Colours that people with any colour vision can tell apart (Okabe and Ito, 2008).
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
#: Entries of a legend that still fit beside a picture.
LEGIBLE = 10


def axes(ax: Axes | None, height: float = 4.2) -> Axes:
    """Return the axes to draw on, new ones where there are none."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "plots need matplotlib; install it with: pip install matplotlib"
        ) from None
    if ax is None:
        _, ax = plt.subplots(figsize=(7, height), layout="constrained")
    return ax


def colours(n: int) -> Array:
    """Return the colours of some components, as rows of red, green and blue."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    if n <= len(PALETTE):
        return np.array([to_rgb(name) for name in PALETTE[:n]])
    return np.asarray(colormaps["viridis"](np.linspace(0, 0.95, n))[:, :3])


def some_rows(arrays: list[Any], most: int) -> tuple[list[Array], bool]:
    """Return rows of arrays of equal length in memory, and whether they are all.

    Of more than `most` rows, so many are taken, at equal distances.
    """
    import dask

    found, whole = _thinned(arrays, most)
    computed = dask.compute(*found)  # type: ignore[attr-defined]
    # lazy ones may not have known how long they are
    found, still = _thinned([np.asarray(a) for a in computed], most)
    return found, whole and still


def _thinned(arrays: list[Any], most: int) -> tuple[list[Any], bool]:
    n = arrays[0].shape[0]
    if not n > most:  # NaN where it is not known
        return arrays, True
    at = np.linspace(0, n - 1, most).round().astype(int)
    return [a[at] for a in arrays], False
