"""Principal components of some rows, to start from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model import Block

__all__ = ["spectrum"]

Array = NDArray[Any]

#: Features up to which all components are computed.
_FEW = 500
#: Numbers to start from at most.
_MOST = 2 * 10**7
#: Further components, and turns, of the subspace that comes close to the first ones.
_MORE, _TURNS = 10, 8


def spectrum(
    sample: Block, origin: Array, unit: Array, n: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Return the leading components of the covariance about a point.

    Exact for a moderate number of features, else by iteration of a random subspace
    (Halko, Martinsson and Tropp, 2011).

    Parameters
    ----------
    sample : Block
        Rows; missing values are put at the origin.
    origin : array of shape (n_features,)
    unit : array of shape (n_features,)
        By which features are divided.
    n : int
        Components wanted, as many as features at most.
    rng : numpy.random.Generator

    Returns
    -------
    values : array of shape (n,)
        Variances, from the largest to the smallest.
    vectors : array of shape (n_features, n)
    variances : array of shape (n_features,)
        Of the features.
    """
    d = len(origin)
    most = max(_MOST // d, 4 * n)
    if sample.n_rows > most:
        sample = sample.rows(np.sort(rng.choice(sample.n_rows, most, replace=False)))
    Y = np.nan_to_num((np.asarray(sample.X, dtype=np.float64) - origin) / unit)
    w = sample.weights()
    total = w.sum()
    Y *= np.sqrt(w / total if total > 0 else w)[:, None]
    variances = np.square(Y).sum(axis=0)
    basis = np.eye(d)
    if d > _FEW and n + _MORE < d:
        basis = rng.standard_normal((d, n + _MORE))
        for _ in range(_TURNS):
            basis = np.linalg.qr(Y.T @ (Y @ basis))[0]
        Y = Y @ basis
    values, vectors = np.linalg.eigh(Y.T @ Y)
    leading = slice(None, -n - 1 if n else -1, -1)
    values, vectors = values[leading][:n], vectors[:, leading][:, :n]
    return np.maximum(values, 0.0), basis @ vectors, variances
