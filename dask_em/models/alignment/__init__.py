"""Models of word alignment, whose statistics are of pairs of words."""

from .base import AlignmentModel
from .hmm import HMMModel
from .model1 import Model1
from .model2 import DiagonalModel, Model2
from .prepared import PreparedBitext

__all__ = [
    "AlignmentModel",
    "DiagonalModel",
    "HMMModel",
    "Model1",
    "Model2",
    "PreparedBitext",
]
