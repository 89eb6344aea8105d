"""How many experts: fits of several sizes side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from inspect import isawaitable
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone

from ..schedules.base import check_integer

__all__ = ["Selection", "selected"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Mixtures of several sizes, and which is best by a criterion.

    Attributes
    ----------
    criterion : str
    criteria : dict
        From number of components to the value of the criterion; less is better.
    estimators : dict
        From number of components to the fitted estimator.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import MixtureOfExpertsRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-2, 2, (300, 1))
    >>> y = np.where(rng.random(300) < 0.5, 5 + X[:, 0], -5 * X[:, 0])
    >>> y += rng.normal(0, 0.3, 300)
    >>> mixture = MixtureOfExpertsRegressor(gate="constant", random_state=0)
    >>> found = mixture.select_n_components(X, y, candidates=[1, 2, 3])
    >>> found.n_components
    2
    >>> found.best.n_components
    2
    """

    criterion: str
    criteria: Mapping[int, float]
    estimators: Mapping[int, Any]

    @property
    def n_components(self) -> int:
        """The best number of components."""
        return min(self.criteria, key=lambda k: self.criteria[k])

    @property
    def best(self) -> Any:
        """The estimator that has it."""
        return self.estimators[self.n_components]


def selected(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    candidates: Sequence[int],
    criterion: str,
) -> Selection:
    """Fit clones of an estimator; see `Selection`.

    Raises
    ------
    ValueError
        If there is no candidate, or no such criterion.
    """
    if criterion not in ("aic", "bic", "icl"):
        raise ValueError(f"criterion must be 'bic', 'icl' or 'aic', got {criterion!r}.")
    if isinstance(candidates, Integral) or not len(list(candidates)):
        raise ValueError(
            "candidates must list numbers of components, for instance range(1, 6), got "
            f"{candidates!r}."
        )
    for k in candidates:
        check_integer("candidates", k, 1)
    sizes = sorted({int(k) for k in candidates})
    fitted: dict[int, Any] = {}
    values: dict[int, float] = {}
    for k in sizes:
        one = clone(estimator).set_params(n_components=k)
        found = one.fit(X, y, sample_weight)
        if isawaitable(found):
            found.close()  # type: ignore[attr-defined]
            raise TypeError(
                "select_n_components cannot wait for fits with an asynchronous client; "
                "use a Client(asynchronous=False)."
            )
        fitted[k] = found
        values[k] = float(getattr(one, criterion)(X, y, sample_weight))
        if np.isnan(values[k]):
            values[k] = np.inf
    return Selection(criterion, values, fitted)
