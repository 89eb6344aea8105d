"""Labelled arrays: the one module that knows xarray.

Everywhere else rows are rows. Here a `xarray.DataArray` is taken apart into a table of
rows and the labels that say where each row came from, and what is computed per row is
put back together. Nothing is imported or computed before a labelled array turns up.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Hashable, Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from .sharding import is_dask

if TYPE_CHECKING:
    from .result import EMResult

__all__ = ["Features", "Labels", "is_labelled", "trace_dataset", "unwrap"]

#: A dimension's name; xarray allows any hashable.
Dim = Hashable


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Labels of the columns: all that predictions need to know of the fit's labels.

    Attributes
    ----------
    dims : tuple of str
        Feature dimensions, in the order in which they were stacked; none for data
        with a single, unnamed feature.
    shape : tuple of int
    coords : xarray.Coordinates
        Those that depend on feature dimensions alone.
    """

    dims: tuple[Dim, ...]
    shape: tuple[int, ...]
    coords: Any

    @property
    def names(self) -> Any:
        """Names of the features, an array of str, or None where they have none.

        They have names if there is one feature dimension with strings along it.
        """
        if len(self.dims) != 1 or self.dims[0] not in self.coords:
            return None
        names = np.asarray(self.coords[self.dims[0]].values, dtype=object)
        return names if all(isinstance(name, str) for name in names) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Where the rows and columns of a table came from.

    Attributes
    ----------
    dims : tuple of str
        Sample dimensions, in the order in which they were stacked.
    shape : tuple of int
    coords : xarray.Coordinates
        Those that depend on sample dimensions alone.
    chunks : tuple of tuple of int or None
        Chunks along the sample dimensions; None for data in memory.
    features : Features
    """

    dims: tuple[Dim, ...]
    shape: tuple[int, ...]
    coords: Any
    chunks: tuple[tuple[int, ...], ...] | None
    features: Features

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return math.prod(self.shape)

    def wrap_rows(self, values: Any, name: str | None = None) -> Any:
        """Give a value per row the sample dimensions and coordinates of the data.

        Parameters
        ----------
        values : array or dask array of shape (n_rows,)
        name : str, optional
            Name of the result.

        Returns
        -------
        xarray.DataArray
            Of the sample dimensions; lazy if `values` are.
        """
        from xarray import DataArray

        return DataArray(
            self._unstack(values), coords=self.coords, dims=self.dims, name=name
        )

    def wrap_table(
        self, values: Any, dim: str = "component", name: str | None = None
    ) -> Any:
        """Give a row of values per row the labels of the data, and one dimension more.

        Parameters
        ----------
        values : array or dask array of shape (n_rows, n)
        dim : str, default="component"
            The dimension along the columns, which are numbered from 0.
        name : str, optional
            Name of the result.

        Returns
        -------
        xarray.DataArray
            Of the sample dimensions and `dim`; lazy if `values` are.
        """
        from xarray import DataArray

        return DataArray(
            self._unstack(values), coords=self.coords, dims=(*self.dims, dim), name=name
        ).assign_coords({dim: np.arange(values.shape[1])})

    def wrap_features(self, values: Any, name: str | None = None) -> Any:
        """Give a table like the one of the data their labels, the features last.

        Parameters
        ----------
        values : array or dask array of shape (n_rows, n_features)
        name : str, optional
            Name of the result.

        Returns
        -------
        xarray.DataArray
            Of the sample and the feature dimensions; lazy if `values` are.
        """
        from xarray import DataArray

        features = self.features
        rows = self._unstack(values)
        return DataArray(
            rows.reshape((*self.shape, *features.shape)),
            coords={**self.coords, **features.coords},
            dims=(*self.dims, *features.dims),
            name=name,
        )

    def flatten(self, values: Any, name: str = "sample_weight") -> Any:
        """Bring something per sample, such as weights, into the order of the rows.

        Parameters
        ----------
        values : xarray.DataArray or array
            A labelled array may lack sample dimensions: it is repeated along them, so
            that weights by latitude, say, need only the latitude. An array without
            labels has the shape of the samples, or (n_rows,) where that is no
            different.
        name : str
            What messages call it.

        Returns
        -------
        array or dask array of shape (n_rows,)

        Raises
        ------
        ValueError
            If dimensions, coordinates or shape are not those of the samples.
        """
        if is_labelled(values):
            values = self._aligned(values, name)
        elif not is_dask(values):
            values = np.asarray(values)
        if values.shape == (self.n_rows,) and self.chunks is None:
            return values
        if values.shape != self.shape:
            raise ValueError(
                f"{name} must have the shape of the samples, {self.shape} for "
                f"the dimensions {self.dims}, got {values.shape}; give it as a "
                "DataArray with these dimensions."
            )
        return _stack(self._chunked(values), len(self.shape))[:, 0]

    def _chunked(self, values: Any) -> Any:
        """Give an array the chunks of the samples, if they have any."""
        if self.chunks is None:
            return values
        if is_dask(values):
            return values.rechunk(self.chunks)
        from dask.array import from_array

        return from_array(values, chunks=self.chunks)

    def _aligned(self, values: Any, name: str) -> Any:
        from xarray import Dataset, align

        strange = [d for d in values.dims if d not in self.dims]
        if strange:
            raise ValueError(
                f"{name} has the dimensions {strange}, which are not sample "
                f"dimensions; those are {self.dims}. Reduce it over them."
            )
        try:
            align(Dataset(coords=self.coords), values, join="exact")
        except ValueError as error:
            raise ValueError(
                f"{name} and X have different coordinates; align them first, for "
                f"instance with {name}.reindex_like(X)."
            ) from error
        sizes = dict(zip(self.dims, self.shape, strict=True))
        return values.variable.set_dims(sizes).transpose(*self.dims).data

    def _unstack(self, values: Any) -> Any:
        """Undo the stacking of the sample dimensions."""
        trailing = values.shape[1:]
        if len(self.shape) == 1 or self.chunks is None:
            return values.reshape((*self.shape, *trailing))
        from dask.array import from_array, reshape_blockwise

        if not is_dask(values):
            rows = tuple(math.prod(lengths) for lengths in product(*self.chunks))
            values = from_array(values, chunks=(rows, *trailing))
        return reshape_blockwise(
            values, (*self.shape, *trailing), (*self.chunks, *((n,) for n in trailing))
        )


def is_labelled(X: Any) -> bool:
    """Whether this is an xarray object; does not import xarray to find out."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(X, (xarray.DataArray, xarray.Dataset))


def unwrap(
    X: Any,
    dim: str | Sequence[str] | None = None,
    *,
    features: Features | None = None,
) -> tuple[Any, Labels]:
    """Turn a labelled array into a table of rows, and its labels.

    Several sample dimensions are stacked, and so are several feature dimensions.
    Arrays of Dask chunks stay as they are: every chunk of samples becomes a chunk of
    rows where it lies, without any data being computed or moved.

    Parameters
    ----------
    X : xarray.DataArray
    dim : str or sequence of str, optional
        The sample dimensions; all others are features. Where there are at most two
        dimensions, the first one is the default.
    features : Features, optional
        Of the fit. If given, its dimensions are the features, in its order, and `dim`
        is not needed: all others are samples.

    Returns
    -------
    array : array or dask array of shape (n_rows, n_features)
    labels : Labels

    Raises
    ------
    TypeError
        For a `xarray.Dataset`.
    ValueError
        If it is not clear which dimensions are samples, if a dimension is missing, or
        if there are several chunks along the features.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from dask_em.labels import unwrap
    >>> profiles = xr.DataArray(np.zeros((4, 3, 2)), dims=("depth", "time", "x"))
    >>> table, labels = unwrap(profiles, dim=("time", "x"))
    >>> table.shape
    (6, 4)
    >>> labels.wrap_rows(table.sum(axis=1)).sizes
    Frozen({'time': 3, 'x': 2})
    """
    from xarray import Dataset

    if isinstance(X, Dataset):
        raise TypeError(
            "X is a Dataset; turn its variables into one dimension with "
            "X.to_dataarray('variable')."
        )
    sample_dims, feature_dims = _dims(X, dim, features)
    X = X.transpose(*sample_dims, *feature_dims)
    n = len(sample_dims)
    found = Features(feature_dims, X.shape[n:], _coords_along(X, feature_dims))
    if features is not None:
        _check_same(features, found)
    labels = Labels(
        dims=sample_dims,
        shape=X.shape[:n],
        coords=_coords_along(X, sample_dims),
        chunks=X.chunks[:n] if is_dask(X.data) else None,
        features=found,
    )
    if is_dask(X.data):
        for name, chunks in zip(feature_dims, X.chunks[n:], strict=True):
            if len(chunks) > 1:
                raise ValueError(
                    f"X is chunked along the features, {name!r} into {chunks}; put all "
                    f"features of a row into one chunk with X.chunk({{{name!r}: -1}})."
                )
    return _stack(X.data, n), labels


def _dims(
    X: Any, dim: str | Sequence[str] | None, features: Features | None
) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Return sample and feature dimensions, each in the order of the array's."""
    if features is not None:
        missing = [d for d in features.dims if d not in X.dims]
        if missing:
            raise ValueError(
                f"X lacks the feature dimensions {missing} of the data that the model "
                f"was fitted to; it has {tuple(X.dims)}."
            )
        samples = tuple(d for d in X.dims if d not in features.dims)
        if not samples:
            raise ValueError(
                f"X has feature dimensions only, {tuple(X.dims)}; give a single sample "
                "a dimension with X.expand_dims('sample')."
            )
        return samples, features.dims
    if dim is None:
        if not 1 <= X.ndim <= 2:
            raise ValueError(
                f"X has the dimensions {tuple(X.dims)}: say which of them are samples "
                "with dim=, for instance "
                f"dim={tuple(X.dims[:1]) if X.ndim else ('time',)}."
            )
        wanted: tuple[Dim, ...] = (X.dims[0],)
    else:
        wanted = _as_tuple(dim)
    missing = [d for d in wanted if d not in X.dims]
    if missing or not wanted:
        raise ValueError(
            f"dim={dim!r} must name dimensions of X, which has {tuple(X.dims)}."
        )
    return (
        tuple(d for d in X.dims if d in wanted),
        tuple(d for d in X.dims if d not in wanted),
    )


def _as_tuple(dim: Hashable | Iterable[Hashable]) -> tuple[Dim, ...]:
    if isinstance(dim, str) or not isinstance(dim, Iterable):
        return (dim,)
    return tuple(dim)


def _coords_along(X: Any, dims: tuple[Dim, ...]) -> Any:
    """Return the coordinates that depend on some dimensions alone."""
    names = [name for name, c in X.coords.items() if {*c.dims} <= {*dims}]
    return X.coords.to_dataset()[names].coords


def _check_same(fitted: Features, found: Features) -> None:
    if fitted.shape != found.shape:
        raise ValueError(
            f"X has {found.shape} features along {found.dims}, but the model was "
            f"fitted to {fitted.shape}."
        )
    for name in fitted.dims:
        if name in fitted.coords and name in found.coords:
            expected, got = fitted.coords[name].values, found.coords[name].values
            if not np.array_equal(expected, got):
                raise ValueError(
                    f"The coordinates along the feature dimension {name!r} should be "
                    "those of the data that the model was fitted to; bring them into "
                    f"line with X.reindex or X.sel along {name!r}."
                )


def _stack(values: Any, n_sample_dims: int) -> Any:
    """Merge the leading dimensions into rows, the others into columns.

    The rows of lazy arrays come chunk by chunk, so that no data have to move; EM does
    not mind the order, and `Labels.wrap_rows` undoes it.
    """
    samples, features = values.shape[:n_sample_dims], values.shape[n_sample_dims:]
    shape = (math.prod(samples), math.prod(features))
    if n_sample_dims == 1 or not is_dask(values):
        return values.reshape(shape)
    from dask.array import reshape_blockwise

    # reshape_blockwise takes dimensions of length 1 for others
    narrow = tuple(i for i, n in enumerate(samples) if n == 1)
    table = values.reshape((*samples, shape[1])).squeeze(narrow)
    if table.ndim < 3:
        return table.reshape(shape)
    if shape[1] > 1:
        return reshape_blockwise(table, shape)
    return reshape_blockwise(table[..., 0], shape[:1])[:, None]


def trace_dataset(result: EMResult[Any]) -> Any:
    """Return the log of a fit as a labelled data set.

    Parameters
    ----------
    result : EMResult
        Such as `GaussianMixture(...).fit(X).result_`.

    Returns
    -------
    xarray.Dataset
        Of the dimensions m_step (with the number of the M-step as coordinate) and
        shard. Status, message, log-likelihood, sum of weights and settings are
        attributes.

    See Also
    --------
    dask_em.result.Trace : What the variables are.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.labels import trace_dataset
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> log = trace_dataset(GaussianMixture(2, random_state=0).fit(X).result_)
    >>> bool((log.lower_bound.diff("m_step") >= -1e-9).all())
    True
    """
    from xarray import Dataset

    trace = result.trace
    variables = {
        name: ("m_step", getattr(trace, name), attrs)
        for name, attrs in _TRACE_ATTRS.items()
    }
    staleness = {"long_name": "M-steps by which a shard's statistics were late"}
    return Dataset(
        {**variables, "staleness": (("m_step", "shard"), trace.staleness, staleness)},
        coords={
            "m_step": ("m_step", trace.version, {"long_name": "number of the M-step"}),
            "shard": np.arange(trace.staleness.shape[1]),
        },
        attrs={
            "status": result.status,
            "message": result.message,
            "log_likelihood": result.log_likelihood,
            "weight": result.weight,
            **{f"settings_{key}": str(value) for key, value in result.settings.items()},
        },
    )


_TRACE_ATTRS = {
    "lower_bound_before": {"long_name": "log-likelihood bound before the M-step"},
    "lower_bound": {"long_name": "log-likelihood bound after the M-step"},
    "time": {"long_name": "time since the first E-step was sent out", "units": "s"},
    "effective_passes": {"long_name": "E-steps accepted per shard"},
    "n_reports": {"long_name": "reports since the M-step before"},
    "n_reissued": {"long_name": "late reports refused"},
    "n_resets": {"long_name": "reports with a latent state begun anew"},
    "n_refused": {"long_name": "points left again, the likelihood being lower"},
}
