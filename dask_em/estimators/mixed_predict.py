"""Predictions of a fitted mixed model, for arrays and frames, lazy or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grouping.rows import Columns, Factor, Rows, plain_labels
from ..labels import is_labelled, unwrap
from ..sharding import is_dask
from .mixed_effects import Effects
from .mixed_formula import FormulaFront
from .mixed_input import (
    _by_name,
    _checked_design,
    _chunked,
    _unframed,
    frame_of_labelled,
)

__all__ = ["Prediction", "predict_arrays", "predict_frame"]

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A fitted model as a function of rows; it goes to where they are.

    Parameters
    ----------
    front : ArrayFront or FormulaFront
    beta : array of shape (p,)
    effects : mapping of Effects
        By factor.
    """

    front: Any
    beta: Array
    effects: Mapping[str, Effects]

    def of_arrays(
        self, X: Any, labels: Mapping[str, Any], designs: Mapping[str, Any]
    ) -> Array:
        """Predict from arrays; factors without labels are left out."""
        found = _times(Columns(np.asarray(X), self.front.ones), self.beta)
        for factor, kind in zip(self.front.factors, self.front.designs, strict=True):
            if factor.name not in labels:
                continue
            named = plain_labels(labels[factor.name], factor.name)
            modes = self.effects[factor.name].of(named)
            if kind == "ones":
                found = found + modes[:, 0]
            else:
                design = _two(designs[factor.name], factor)
                found = found + np.einsum("nq,nq->n", design, modes)
        return found

    def of_frame(self, frame: Any) -> Array:
        """Predict from a DataFrame; NaN for rows with missing values."""
        front: FormulaFront = self.front
        known = front.known_factors(frame)
        keep = front.kept(frame, response=False, groups=known)
        found = np.full(len(frame), np.nan)
        if not keep.any():
            return found
        rows = front.rows(frame, response=False, groups=known)
        values = _times(rows.fixed, self.beta)
        for name, grouped in zip(known, rows.factors, strict=True):
            modes = self.effects[name].of(grouped.labels)
            values += np.einsum("nq,nq->n", grouped.design.dense(), modes)
        found[keep] = values
        return found

    def response(self, frame: Any) -> Any:
        """Return the response of a frame, NaN where values are missing."""
        frame = _plain_frame(frame)
        if is_dask(frame):
            return _map_frame(self._response, frame)
        return self._response(frame)

    def _response(self, frame: Any) -> Array:
        found = np.full(len(frame), np.nan)
        keep = self.front.kept(frame)
        if keep.any():
            found[keep] = self.front.rows(frame).y
        return found

    def rows(self, X: Any, groups: Any, Z: Any) -> Rows:
        """Return rows in memory, without a response.

        Raises
        ------
        ValueError, TypeError
            For lazy rows, lengths that differ, and frames with missing values.
        """
        X = _plain_frame(X)
        if is_dask(X):
            raise TypeError(
                "this needs rows in memory; compute them, or some of them, first."
            )
        if isinstance(self.front, FormulaFront):
            found: Rows = self.front.rows(X, response=False)
            if len(found) != len(X):
                raise ValueError(
                    f"{len(X) - len(found)} rows have missing values; drop them first."
                )
            return found
        X = np.asarray(X)
        labels, designs = self.named(groups, Z)
        missing = [f.name for f in self.front.factors if f.name not in labels]
        if missing:
            raise ValueError(f"groups must name {', '.join(map(repr, missing))}.")
        for name, value in (*labels.items(), *designs.items()):
            if len(value) != len(X):
                raise ValueError(
                    f"{name!r} has {len(value)} labels or rows of Z for {len(X)} rows "
                    "of X."
                )
        made: Rows = self.front.rows(
            X,
            None,
            [np.asarray(labels[f.name]) for f in self.front.factors],
            [
                None if f.name not in designs else _two(designs[f.name], f)
                for f in self.front.factors
            ],
        )
        return made

    def named(self, groups: Any, Z: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return groups and designs by the names of the fit.

        Raises
        ------
        ValueError
            For groups without the columns that their effects multiply.
        """
        labels, designs = _by_name(groups, "groups"), _by_name(Z, "Z")
        factors = self.front.factors
        if len(factors) == 1:  # a single one goes by any name
            name = factors[0].name
            if len(labels) == 1:
                labels = dict(zip([name], labels.values(), strict=True))
            if len(designs) == 1:
                designs = dict(zip([name], designs.values(), strict=True))
        known = {f.name for f in factors}
        if set(labels) - known:
            raise ValueError(
                f"groups names {sorted(set(labels) - known)}, which the model was not "
                f"fitted with; it knows {sorted(known)}."
            )
        for factor, kind in zip(factors, self.front.designs, strict=True):
            if kind == "array" and factor.name in labels and factor.name not in designs:
                raise ValueError(
                    f"the groups of {factor.name!r} have {factor.n_random} random "
                    "effects; give the columns that they multiply as Z."
                )
        return labels, designs


def _plain_frame(data: Any) -> Any:
    """Return the rows of a Dataset as a frame; anything else as it is."""
    return frame_of_labelled(data) if hasattr(data, "data_vars") else data


def _times(columns: Columns, beta: Array) -> Array:
    values = np.asarray(columns.array, dtype=np.float64)
    if columns.ones:
        found: Array = values @ beta[1:] + beta[0]
        return found
    return np.asarray(values @ beta)


def _two(design: Any, factor: Factor) -> Array:
    found = np.asarray(design, dtype=np.float64)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != factor.n_random:
        raise ValueError(
            f"Z of {factor.name!r} must have {factor.n_random} columns, as in the fit, "
            f"got the shape {found.shape}."
        )
    return found


def predict_arrays(prediction: Prediction, X: Any, groups: Any, Z: Any) -> Any:
    """Predict from arrays, lazily where X is lazy."""
    labels = None
    if is_labelled(X):
        X, labels = unwrap(X, None)
    X = _unframed(X, labels)
    named, designs = prediction.named(groups, Z)
    named = {k: _unframed(v, labels) for k, v in named.items()}
    n = X.shape[0]
    designs = {
        k: _checked_design(k, _unframed(v, labels), X, n) for k, v in designs.items()
    }
    for name, value in named.items():
        if len(value) != n:
            raise ValueError(
                f"groups[{name!r}] has {len(value)} labels for {n} rows of X."
            )
    p = len(prediction.beta) - prediction.front.ones
    if X.ndim != 2 or X.shape[1] != p:
        raise ValueError(
            f"X has the shape {X.shape}, but the model was fitted to {p} features."
        )
    if not is_dask(X):
        found = prediction.of_arrays(X, named, designs)
        return found if labels is None else labels.wrap_rows(found, name="prediction")
    import dask
    import dask.array as da

    named = {
        k: _chunked(v if is_dask(v) else np.asarray(v), X) for k, v in named.items()
    }
    delayed: Any = dask.delayed  # type: ignore[attr-defined]
    work = delayed(prediction.of_arrays, pure=False, traverse=False)
    parts = []
    X = X.rechunk({1: -1})
    for i, rows in enumerate(X.chunks[0]):
        part = work(
            X.blocks[i].to_delayed().item(),
            {k: v.blocks[i].to_delayed().item() for k, v in named.items()},
            {k: v.blocks[i].to_delayed().item() for k, v in designs.items()},
        )
        parts.append(da.from_delayed(part, (rows,), dtype=np.float64))  # type: ignore[no-untyped-call]
    found = da.concatenate(parts)  # type: ignore[no-untyped-call]
    return found if labels is None else labels.wrap_rows(found, name="prediction")


def predict_frame(prediction: Prediction, frame: Any) -> Any:
    """Predict from a frame, lazily where it is lazy."""
    frame = _plain_frame(frame)
    if not hasattr(frame, "columns"):
        raise TypeError(
            "with a formula, predict takes a DataFrame of pandas or Dask, got "
            f"{type(frame).__name__}."
        )
    if is_dask(frame):
        return _map_frame(prediction.of_frame, frame)
    return prediction.of_frame(frame)


def _map_frame(function: Any, frame: Any) -> Any:
    """Apply a function of rows to the partitions of a Dask DataFrame."""
    import dask
    import dask.array as da

    delayed: Any = dask.delayed  # type: ignore[attr-defined]
    work = delayed(function, pure=False, traverse=False)
    parts = [
        da.from_delayed(work(part), (np.nan,), dtype=np.float64)  # type: ignore[no-untyped-call]
        for part in frame.to_delayed()
    ]
    return da.concatenate(parts, allow_unknown_chunksizes=True)  # type: ignore[no-untyped-call]
