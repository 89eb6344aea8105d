"""Sentences, their translations, and the links between their words."""

from .alignments import Alignments, symmetrize
from .bitext import BitextSummary, Vocabulary
from .gold import Gold, aer, read_gold
from .sources import BagSource, FileSource, PairsSource, as_bitext

__all__ = [
    "Alignments",
    "BagSource",
    "BitextSummary",
    "FileSource",
    "Gold",
    "PairsSource",
    "Vocabulary",
    "aer",
    "as_bitext",
    "read_gold",
    "symmetrize",
]
