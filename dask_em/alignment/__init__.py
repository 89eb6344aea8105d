"""Sentences, their translations, and the links between their words."""

from .alignments import Alignments, Symmetrization, symmetrize
from .bitext import Bitext, BitextSummary, Vocabulary, encode_bitext, survey_bitext
from .gold import Gold, aer, read_gold
from .sources import BagSource, FileSource, PairsSource, as_bitext

__all__ = [
    "Alignments",
    "BagSource",
    "Bitext",
    "BitextSummary",
    "FileSource",
    "Gold",
    "PairsSource",
    "Symmetrization",
    "Vocabulary",
    "aer",
    "as_bitext",
    "encode_bitext",
    "read_gold",
    "survey_bitext",
    "symmetrize",
]
