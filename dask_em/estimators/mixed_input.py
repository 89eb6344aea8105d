"""What users give mixed models: arrays or frames, in memory or on a cluster."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, validate_data

from ..grouping.rows import Columns, Factor, Grouped, Rows, plain_labels
from ..labels import is_labelled, unwrap
from ..sharding import array_of_frame, as_data, is_dask
from .mixed_formula import FormulaFront, MixedFormula, needed

__all__ = ["ArrayFront", "MixedInput", "read_arrays", "read_frame"]

Array = NDArray[Any]

#: Rows from which the encoding of frames is learned.
HEAD = 1000


@dataclasses.dataclass(frozen=True)
class MixedInput:
    """Checked input: rows in memory, or chunks from which a front makes rows.

    Parameters
    ----------
    front : ArrayFront or FormulaFront
        Knows the names and makes rows.
    rows : Rows or None
        Where they are in memory.
    chunks : list of Delayed
        Where they are not.
    columns : mapping
        Fitted attributes that describe the columns of X.
    """

    front: Any
    rows: Rows | None
    chunks: list[Any]
    columns: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ArrayFront:
    """How chunks of arrays become rows.

    Parameters
    ----------
    names : tuple of str
        Of the fixed effects.
    ones : bool
        Whether the first of them is an intercept.
    factors : tuple of Factor
    designs : tuple
        By factor: "ones" for an intercept, "array" for columns of their own.
    """

    names: tuple[str, ...]
    ones: bool
    factors: tuple[Factor, ...]
    designs: tuple[str, ...]

    def rows(
        self,
        X: Any,
        y: Any = None,
        groups: Any = (),
        Z: Any = (),
        weights: Any = None,
    ) -> Rows:
        """Make rows of arrays."""
        fixed = Columns(X, self.ones)
        grouped = []
        for factor, kind, labels, design in zip(
            self.factors, self.designs, groups, Z, strict=False
        ):
            columns = Columns(np.zeros((len(X), 0)), ones=True)
            if kind == "array":
                columns = Columns(design, ones=False)
            grouped.append(Grouped(plain_labels(labels, factor.name), columns))
        y = np.zeros(len(X)) if y is None else y
        return Rows(y, fixed, tuple(grouped), weights)

    def chunk(self, arrays: Any) -> Rows:
        """Make rows of a chunk of Dask arrays."""
        X, y, groups, Z, weights = arrays
        X = np.asarray(X)
        if X.dtype.kind != "f":
            X = X.astype(np.float64)
        return self.rows(X, np.asarray(y), groups, Z, weights)


def read_arrays(
    estimator: Any,
    X: Any,
    y: Any,
    groups: Any,
    Z: Any,
    sample_weight: Any,
) -> MixedInput:
    """Check arrays at the door.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, missing values in memory, unknown chunk sizes.
    """
    if y is None:
        raise ValueError(
            "requires y to be passed, but the target y is None; or give a formula and "
            "a DataFrame."
        )
    labels = None
    if is_labelled(X):
        X, labels = unwrap(X, None)
    named = _by_name(groups, "groups")
    designs = _by_name(Z, "Z")
    if len(named) == 1 and set(designs) == {"group"}:  # a single one needs no name
        designs = dict(zip(named, designs.values(), strict=True))
    if set(designs) - set(named):
        raise ValueError(
            f"Z names {sorted(set(designs) - set(named))}, which groups do not; give "
            "both the same names."
        )
    header = X
    X, y, sample_weight = (_unframed(a, labels) for a in (X, y, sample_weight))
    named = {k: _unframed(v, labels) for k, v in named.items()}
    designs = {k: _unframed(v, labels) for k, v in designs.items()}
    probe = copy.copy(estimator)
    if is_dask(X):
        data = as_data(X, y, sample_weight)
        X, y, sample_weight = data.arrays  # type: ignore[attr-defined]
        if y.ndim != 1:
            raise ValueError(f"y must have one column, got the shape {y.shape}.")
        meta = header._meta if hasattr(header, "_meta") else header
        lazy = meta if hasattr(meta, "columns") else X
        validate_data(probe, lazy, reset=True, skip_check_array=True)
    else:
        if is_dask(y) or any(map(is_dask, [*named.values(), *designs.values()])):
            raise ValueError(
                "X is in memory but y, groups or Z are Dask collections; compute them, "
                "or turn X into one with dask.array.from_array."
            )
        X, y = validate_data(
            probe,
            header if labels is None and not is_dask(header) else X,
            y,
            dtype=[np.float64, np.float32],
            y_numeric=True,
            ensure_min_samples=2,
        )
        if sample_weight is not None:
            sample_weight = _checked_weights(sample_weight, len(X))
    n = X.shape[0]
    named = {k: _aligned(k, v, X, n) for k, v in named.items()}
    designs = {k: _checked_design(k, v, X, n) for k, v in designs.items()}
    front = _array_front(estimator, probe, X, named, designs)
    columns = {"n_features_in_": int(X.shape[1])}
    if hasattr(probe, "feature_names_in_"):
        columns["feature_names_in_"] = probe.feature_names_in_
    in_order = [designs.get(name) for name in named]
    if not is_dask(X):
        rows = front.rows(X, y, list(named.values()), in_order, sample_weight)
        return MixedInput(front, rows, [], columns)
    arrays = (X, y, list(named.values()), in_order, sample_weight)
    return MixedInput(front, None, _blocks(arrays), columns)


def _by_name(value: Any, what: str) -> dict[str, Any]:
    """Return groups or designs by the name of their factor."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items() if v is not None}
    if what == "groups" and getattr(value, "ndim", 1) == 2:
        if hasattr(value, "columns"):
            return {str(name): value[name] for name in value.columns}
        raise ValueError(
            "groups must have one label per row; for several factors give a dict or a "
            "DataFrame, which name them."
        )
    series = what == "groups" and hasattr(value, "to_frame")
    name = getattr(value, "name", None) if series else None
    return {"group" if what == "Z" or not isinstance(name, str) else name: value}


def _unframed(value: Any, labels: Any) -> Any:
    """Take labels and frames off."""
    if value is None:
        return None
    if is_labelled(value):
        return value.data if labels is None else labels.flatten(value)
    if hasattr(value, "to_dask_array"):
        return array_of_frame(value)
    if hasattr(value, "to_numpy") and not is_dask(value):
        return value.to_numpy()
    return value


def _checked_weights(weights: Any, n: int) -> Array:
    found = np.asarray(weights, dtype=np.float64)
    if found.ndim == 0:
        found = np.full(n, float(found))
    if found.shape != (n,):
        raise ValueError(
            "sample_weight must have one number per row, got an array of shape "
            f"{found.shape} for {n} rows."
        )
    if not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(
            "sample_weight must be finite and not negative; use 0 to leave a row out."
        )
    if not found.any():
        raise ValueError("sample_weight is zero everywhere; no row counts.")
    return found


def _aligned(name: str, value: Any, X: Any, n: int) -> Any:
    """Return labels with as many rows as X, and its chunks."""
    if not is_dask(value):
        value = np.asarray(value)
    if value.ndim != 1 or value.shape[0] != n:
        raise ValueError(
            f"groups[{name!r}] must have one label per row: got the shape "
            f"{value.shape} for {n} rows."
        )
    return _chunked(value, X)


def _chunked(value: Any, X: Any) -> Any:
    if not is_dask(X):
        return value
    import dask.array as da

    chunks = (X.chunks[0], *((k,) for k in value.shape[1:]))
    if is_dask(value):
        return value.rechunk(chunks)
    return da.from_array(value, chunks=chunks)  # type: ignore[no-untyped-call]


def _checked_design(name: str, value: Any, X: Any, n: int) -> Any:
    if not is_dask(value):
        value = np.asarray(value)
        if value.ndim == 1:
            value = value[:, None]
        value = check_array(value, dtype=[np.float64, np.float32], input_name="Z")
    elif value.ndim == 1:
        value = value[:, None]
    if value.ndim != 2 or value.shape[0] != n:
        raise ValueError(
            f"Z[{name!r}] must have one row for each row of X: got the shape "
            f"{value.shape} for {n} rows."
        )
    return _chunked(value, X)


def _array_front(
    estimator: Any,
    probe: Any,
    X: Any,
    groups: Mapping[str, Any],
    designs: Mapping[str, Any],
) -> ArrayFront:
    known = getattr(probe, "feature_names_in_", None)
    names = [f"x{i}" for i in range(X.shape[1])] if known is None else list(known)
    if estimator.fit_intercept:
        names = ["Intercept", *names]
    factors, kinds = [], []
    for name in groups:
        design = designs.get(name)
        if design is None:
            factors.append(Factor(name, ("Intercept",), (1,)))
            kinds.append("ones")
            continue
        q = int(design.shape[1])
        diagonal = estimator.covariance == "diagonal"
        columns = tuple(f"z{i}" for i in range(q))
        factors.append(Factor(name, columns, (1,) * q if diagonal else (q,)))
        kinds.append("array")
    return ArrayFront(
        tuple(map(str, names)), estimator.fit_intercept, tuple(factors), tuple(kinds)
    )


def _blocks(arrays: Any) -> list[Any]:
    """Return the chunks of aligned Dask arrays, each as a delayed tuple."""
    import dask

    X, y, groups, Z, weights = arrays
    n = X.numblocks[0]

    def parts(array: Any) -> list[Any]:
        return [None] * n if array is None else array.to_delayed().ravel().tolist()

    columns = [parts(X), parts(y), [parts(g) for g in groups], [parts(z) for z in Z]]
    w = parts(weights)
    delayed: Any = dask.delayed  # type: ignore[attr-defined]
    return [
        delayed(_tuple, pure=False)(
            columns[0][i],
            columns[1][i],
            [g[i] for g in columns[2]],
            [z[i] for z in columns[3]],
            w[i],
        )
        for i in range(n)
    ]


def _tuple(*parts: Any) -> tuple[Any, ...]:
    return parts


# ------------------------------------------------------------------------ frames


def read_frame(text: str, data: Any, sample_weight: Any) -> MixedInput:
    """Check a frame at the door, and learn how to encode it.

    Raises
    ------
    ValueError, TypeError
        For a malformed formula, missing columns, data that are no frame.
    """
    formula = MixedFormula.parse(text)
    if is_labelled(data) or hasattr(data, "to_dask_dataframe"):
        data = frame_of_labelled(data)
    lazy = is_dask(data) and hasattr(data, "npartitions")
    if not hasattr(data, "columns") or (is_dask(data) and not lazy):
        raise TypeError(
            "with a formula, fit takes a DataFrame of pandas or Dask, or an "
            f"xarray.Dataset, got {type(data).__name__}."
        )
    weights = None
    if isinstance(sample_weight, str):
        weights = sample_weight
    elif sample_weight is not None:
        if lazy:
            raise TypeError(
                "sample_weight of a Dask DataFrame is the name of one of its columns."
            )
        weights = "(weights)"
        data = data.assign(**{weights: _checked_weights(sample_weight, len(data))})
    data = data[needed(formula, weights, data.columns)].dropna()
    if weights is not None:  # rows that do not count may have categories of their own
        data = data[data[weights] != 0]
    text = " ".join([formula.response, formula.fixed, *_effects(formula)])
    levels = {name: _levels(data[name]) for name in _categories(formula, data)}
    if lazy:
        head = _head(data, text)
        front = FormulaFront.learn(formula, head, levels, weights, whole=False)
        return MixedInput(front, None, data.to_delayed(), {})
    # what is computed from columns may have to see all rows
    plain = "(" not in text
    head = data.head(HEAD) if plain else data
    front = FormulaFront.learn(formula, head, levels, weights, whole=True)
    return MixedInput(front, front.rows(data), [], {})


def _effects(formula: MixedFormula) -> list[str]:
    return [term.effects for term in formula.random]


def _head(data: Any, text: str) -> Any:
    """Return some rows of a lazy frame, with all values of the columns in ``C()``."""
    import pandas

    head = data.head(HEAD, npartitions=-1)
    declared = sorted(set(re.findall(r"\bC\(\s*([^\W\d]\w*)\s*[,)]", text)))
    for name in declared if len(head) else []:
        if name in data.columns:
            values = _levels(data[name])
            rows = head.iloc[[0] * len(values)].assign(**{name: values})
            head = pandas.concat([head, rows.astype(head.dtypes.to_dict())])
    return head


def frame_of_labelled(data: Any) -> Any:
    """Return the rows of a Dataset, lazily where it is lazy."""
    if not hasattr(data, "data_vars"):
        raise TypeError(
            "with a formula, labelled data must be an xarray.Dataset whose variables "
            "are the columns."
        )
    lazy = any(is_dask(variable.data) for variable in data.data_vars.values())
    frame = data.to_dask_dataframe() if lazy else data.to_dataframe()
    return frame if lazy else frame.reset_index()


def _categories(formula: MixedFormula, data: Any) -> list[str]:
    """Return the columns that are not numbers, whose categories must be known."""
    effects = " + ".join([formula.fixed, *_effects(formula)])
    bare = MixedFormula(formula.response, effects, ())
    kinds = dict(data.dtypes)
    return [
        name
        for name in needed(bare, None, data.columns)
        if getattr(kinds[name], "kind", "O") not in "fiubcmM"
    ]


def _levels(column: Any) -> list[Any]:
    """Return the values that occur: in the order of a category, else sorted."""
    if is_dask(column):
        import dask

        # by partition: Dask's own unique() would shuffle
        unique = dask.delayed(_unique, pure=False)  # type: ignore[attr-defined]
        parts = dask.compute(*map(unique, column.to_delayed()))  # type: ignore[attr-defined]
        found = {value for part in parts for value in part}
    else:
        found = set(_unique(column))
    order = getattr(column.dtype, "categories", None)
    if order is not None and (not is_dask(column) or column.cat.known):
        return [level for level in order if level in found]
    try:
        return sorted(found)
    except TypeError as error:
        raise ValueError(
            f"the column {column.name!r} mixes values that cannot be ordered "
            f"({error}); make them all strings."
        ) from error


def _unique(column: Any) -> list[Any]:
    return list(column.dropna().unique())
