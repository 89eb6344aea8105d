"""Data to try models on: simulated ones, and MovieLens from the user's disk."""

from .mixed import MixedModelData, make_mixed_model, make_movielens_replica
from .movielens import load_movielens
from .topics import make_corpus, make_corpus_array

__all__ = [
    "MixedModelData",
    "load_movielens",
    "make_corpus",
    "make_corpus_array",
    "make_mixed_model",
    "make_movielens_replica",
]
