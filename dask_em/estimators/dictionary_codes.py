"""Sparse codes of rows as an estimator finds them, by whichever algorithm."""

from __future__ import annotations

import dataclasses
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import sparse_encode

from ..models.dictionary_learning import DictionaryModel, sparse_codes

__all__ = ["Encode", "check_settings"]

Array = NDArray[Any]

_ALGORITHMS = ("lasso_cd", "lasso_lars", "lars", "omp", "threshold")


@dataclasses.dataclass(frozen=True)
class Encode:
    """Codes of rows; travels to where these are."""

    components: Array
    algorithm: str
    price: float
    n_nonzero: int | None
    max_iter: int
    positive: bool
    split_sign: bool

    def __call__(self, X: Array) -> Array:
        """Return the codes of some rows."""
        atoms = self.components
        if self.algorithm == "lasso_cd":
            model = DictionaryModel(
                len(atoms),
                self.price,
                positive_code=self.positive,
                max_sweeps=self.max_iter,
            )
            codes = sparse_codes(model, atoms, X)
        elif len(X) == 0:
            codes = np.zeros((0, len(atoms)), X.dtype)
        else:
            codes = sparse_encode(
                X,
                atoms.astype(X.dtype),
                algorithm=self.algorithm,
                n_nonzero_coefs=self.n_nonzero,
                alpha=self.price,
                max_iter=self.max_iter,
                positive=self.positive,
            )
        if self.split_sign:
            return np.concatenate([np.maximum(codes, 0), -np.minimum(codes, 0)], axis=1)
        return codes


def check_settings(learner: Any) -> None:
    """Raise `ValueError` for the first parameter that makes no sense."""
    for name, least in (("n_components", 1), ("transform_n_nonzero_coefs", 1)):
        value = getattr(learner, name)
        if value is not None and not _is_integer(value, least):
            raise ValueError(
                f"{name} must be an integer of at least {least} or None, got {value!r}."
            )
    if not _is_integer(learner.transform_max_iter, 1):
        raise ValueError(
            "transform_max_iter must be an integer of at least 1, got "
            f"{learner.transform_max_iter!r}."
        )
    for name, value in (
        ("alpha", learner.alpha),
        ("transform_alpha", learner.transform_alpha),
    ):
        left_out = value is None and name == "transform_alpha"
        if not left_out and not (
            isinstance(value, Real) and 0 <= float(value) < np.inf
        ):
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}.")
    if learner.transform_algorithm not in _ALGORITHMS:
        raise ValueError(
            f"transform_algorithm must be one of {', '.join(map(repr, _ALGORITHMS))}, "
            f"got {learner.transform_algorithm!r}."
        )
    for name in ("split_sign", "positive_code", "positive_dict"):
        if not isinstance(getattr(learner, name), bool | np.bool_):
            raise ValueError(
                f"{name} must be True or False, got {getattr(learner, name)!r}."
            )
    if learner.positive_code and learner.transform_algorithm in ("omp", "lars"):
        raise ValueError(
            f"transform_algorithm={learner.transform_algorithm!r} knows no positive "
            "codes; use 'lasso_cd', 'lasso_lars' or 'threshold'."
        )


def _is_integer(value: Any, least: int) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and int(value) >= least
