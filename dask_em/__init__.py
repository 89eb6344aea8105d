"""Expectation-maximisation for data that do not fit, on machines that do not keep pace.

Estimators such as `GaussianMixture` and `LinearMixedModel` have scikit-learn's face;
`fit_em` fits a model of one's own. All run on threads of this process, or on a Dask
cluster where there is a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import alignment, datasets
    from .alignment.alignments import symmetrize
    from .alignment.gold import aer
    from .estimators.experts_classifier import MixtureOfExpertsClassifier
    from .estimators.experts_regressor import MixtureOfExpertsRegressor
    from .estimators.gaussian_mixture import GaussianMixture
    from .estimators.latent_dirichlet_allocation import LatentDirichletAllocation
    from .estimators.linear_mixed import LinearMixedModel
    from .estimators.word_aligners import HMMAligner, IBMModel1, IBMModel2
    from .fit import fit_em
    from .model import Block, Model
    from .reduction.mixtures import reduce_mixture
    from .result import EMResult
    from .sparse_model import SparseModel
    from .statistics import Statistics
    from .versions import show_versions

__all__ = [
    "PPCA",
    "Block",
    "DictionaryLearning",
    "EMResult",
    "FactorAnalysis",
    "GaussianMixture",
    "HMMAligner",
    "IBMModel1",
    "IBMModel2",
    "LatentDirichletAllocation",
    "LinearMixedModel",
    "MixedMembershipNetwork",
    "MixtureOfExpertsClassifier",
    "MixtureOfExpertsRegressor",
    "Model",
    "SparseModel",
    "Statistics",
    "aer",
    "alignment",
    "datasets",
    "fit_em",
    "reduce_mixture",
    "show_versions",
    "symmetrize",
]

_WHERE = {
    "Block": ".model",
    "DictionaryLearning": ".estimators.dictionary_learning",
    "EMResult": ".result",
    "FactorAnalysis": ".estimators.factor_analysis",
    "GaussianMixture": ".estimators.gaussian_mixture",
    "HMMAligner": ".estimators.word_aligners",
    "IBMModel1": ".estimators.word_aligners",
    "IBMModel2": ".estimators.word_aligners",
    "LatentDirichletAllocation": ".estimators.latent_dirichlet_allocation",
    "LinearMixedModel": ".estimators.linear_mixed",
    "MixedMembershipNetwork": ".estimators.mixed_membership_network",
    "MixtureOfExpertsClassifier": ".estimators.experts_classifier",
    "MixtureOfExpertsRegressor": ".estimators.experts_regressor",
    "Model": ".model",
    "PPCA": ".estimators.factor_analysis",
    "SparseModel": ".sparse_model",
    "Statistics": ".statistics",
    "aer": ".alignment.gold",
    "alignment": ".alignment",
    "datasets": ".datasets",
    "fit_em": ".fit",
    "reduce_mixture": ".reduction.mixtures",
    "show_versions": ".versions",
    "symmetrize": ".alignment.alignments",
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
