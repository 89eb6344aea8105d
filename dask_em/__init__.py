"""Expectation-maximisation for data that do not fit, on machines that do not keep pace.

`GaussianMixture` and `LinearMixedModel` have scikit-learn's face; `fit_em` fits a model
of one's own. Both run
on threads of this process, or on a Dask cluster where there is a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import datasets
    from .estimators.experts_classifier import MixtureOfExpertsClassifier
    from .estimators.experts_regressor import MixtureOfExpertsRegressor
    from .estimators.gaussian_mixture import GaussianMixture
    from .estimators.linear_mixed import LinearMixedModel
    from .fit import fit_em
    from .model import Block, Model
    from .reduction.mixtures import reduce_mixture
    from .result import EMResult
    from .statistics import Statistics
    from .versions import show_versions

__all__ = [
    "Block",
    "EMResult",
    "GaussianMixture",
    "LinearMixedModel",
    "MixtureOfExpertsClassifier",
    "MixtureOfExpertsRegressor",
    "Model",
    "Statistics",
    "datasets",
    "fit_em",
    "reduce_mixture",
    "show_versions",
]

_WHERE = {
    "Block": ".model",
    "EMResult": ".result",
    "GaussianMixture": ".estimators.gaussian_mixture",
    "LinearMixedModel": ".estimators.linear_mixed",
    "MixtureOfExpertsClassifier": ".estimators.experts_classifier",
    "MixtureOfExpertsRegressor": ".estimators.experts_regressor",
    "Model": ".model",
    "Statistics": ".statistics",
    "datasets": ".datasets",
    "fit_em": ".fit",
    "reduce_mixture": ".reduction.mixtures",
    "show_versions": ".versions",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is: workers need little of it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if _WHERE[name] == f".{name}":  # a module itself
        return import_module(_WHERE[name], __name__)
    return getattr(import_module(_WHERE[name], __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
