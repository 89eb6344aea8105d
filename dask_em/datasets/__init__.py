"""Data to try mixed models on: simulated ones, and MovieLens from the user's disk."""

from .mixed import MixedModelData, make_mixed_model, make_movielens_replica
from .movielens import load_movielens

__all__ = [
    "MixedModelData",
    "load_movielens",
    "make_mixed_model",
    "make_movielens_replica",
]
