"""Checks of the parameters that `GaussianMixture` shares with scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

__all__ = ["check_settings", "check_starts", "precisions_shape"]

Array = NDArray[Any]


def check_settings(estimator: Any) -> None:
    """Raise `ValueError` for the first parameter that makes no sense."""
    for name, (holds, wanted) in _WANTED.items():
        value = getattr(estimator, name)
        if not holds(value):
            raise ValueError(f"{name} must be {wanted}, got {value!r}.")


def check_starts(estimator: Any, n_features: int) -> dict[str, Array | None]:
    """Return the starts that the user gave, as arrays; raise `ValueError` for others.

    Whatever was not given is None.
    """
    k, d, kind = estimator.n_components, n_features, estimator.covariance_type
    starts = {
        "weights_init": lambda value: _check_weights(value, k),
        "means_init": lambda value: _checked("means", value, (k, d)),
        "precisions_init": lambda value: _check_precisions(value, kind, k, d),
    }
    given = {name: getattr(estimator, name) for name in starts}
    return {
        name: None if value is None else starts[name](value)
        for name, value in given.items()
    }


def precisions_shape(
    covariance_type: str, n_components: int, n_features: int
) -> tuple[int, ...]:
    """Return the shape of covariances and of their inverses."""
    k, d = n_components, n_features
    shapes = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
    return shapes[covariance_type]


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    def holds(value: Any) -> bool:
        return isinstance(value, str) and value in names

    return holds, f"one of {', '.join(map(repr, names))}"


def _integer_from(least: int) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: _is_integer(value) and value >= least,
        f"an integer of at least {least}",
    )


_NOT_NEGATIVE = lambda value: _is_real(value) and value >= 0, "a number of at least 0"

#: What scikit-learn's parameters must be; `fit_em` checks the others.
_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_components": _integer_from(1),
    "covariance_type": _one_of("full", "tied", "diag", "spherical"),
    "tol": _NOT_NEGATIVE,
    "reg_covar": _NOT_NEGATIVE,
    "max_iter": _integer_from(0),
    "n_init": _integer_from(1),
    "init_params": _one_of("kmeans", "k-means++", "random", "random_from_data"),
    "warm_start": (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    "verbose": (
        lambda value: isinstance(value, Integral) and int(value) >= 0,
        "True, False or an integer of at least 0",
    ),
    "verbose_interval": _integer_from(1),
}


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    array = check_array(
        value, dtype=[np.float64, np.float32], ensure_2d=False, allow_nd=True
    )
    if array.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got "
            f"{array.shape}"
        )
    return array


def _check_weights(value: Any, n_components: int) -> Array:
    weights = _checked("weights", value, (n_components,))
    if (weights < 0).any() or (weights > 1).any():
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.max():.5f}, min value {weights.min():.5f}"
        )
    total = weights.sum(dtype=np.float64)
    if abs(1 - total) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{total:.5f}"
        )
    return weights


def _check_precisions(
    value: Any, covariance_type: str, n_components: int, n_features: int
) -> Array:
    name = f"{covariance_type} precision"
    shape = precisions_shape(covariance_type, n_components, n_features)
    precisions = _checked(name, value, shape)
    if covariance_type in ("diag", "spherical"):
        if not (precisions > 0).all():
            raise ValueError(f"'{name}' should be positive")
    elif not (
        np.allclose(precisions, precisions.swapaxes(-1, -2))
        and (np.linalg.eigvalsh(precisions) > 0).all()
    ):
        raise ValueError(f"'{name}' should be symmetric, positive-definite")
    return precisions
