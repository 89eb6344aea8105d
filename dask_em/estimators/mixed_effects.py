"""Random effects of a fitted model, computed when they are looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grouping.basis import Basis
from ..grouping.rows import Factor
from ..grouping.table import GroupTable
from ..models.linear_mixed import MixedParams, Structure
from ..models.mixed_effects import group_effects, known_cov
from ..sharding import is_dask

__all__ = ["Effects", "RandomEffects"]

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Effects:
    """Random effects of one factor's groups.

    Attributes
    ----------
    factor : Factor
    labels : array of shape (m,)
        Sorted.
    modes : array of shape (m, q)
        Conditional means: best linear unbiased predictions.
    covs : array of shape (m, q, q)
        Conditional covariances, for known fixed effects and variances.
    """

    factor: Factor
    labels: Array
    modes: Array
    covs: Array

    @property
    def std(self) -> Array:
        """Conditional standard deviations, shape (m, q)."""
        found: Array = np.sqrt(np.einsum("mqq->mq", self.covs))
        return found

    def to_frame(self) -> Any:
        """Return modes and standard deviations as a DataFrame, a row per group."""
        import pandas

        names = self.factor.columns
        columns = {name: self.modes[:, k] for k, name in enumerate(names)}
        columns |= {f"{name} (sd)": self.std[:, k] for k, name in enumerate(names)}
        return pandas.DataFrame(
            columns, index=pandas.Index(self.labels, name=self.factor.name)
        )

    def of(self, labels: Array) -> Array:
        """Return the modes of groups, zero for those that were not seen.

        Raises
        ------
        TypeError
            If some labels are numbers and the others are not.
        """
        numbers = self.labels.dtype.kind in "iuf"
        if (labels.dtype.kind in "iuf") != numbers:
            raise TypeError(
                f"the groups of {self.factor.name!r} were "
                f"{'numbers' if numbers else 'strings'} when "
                "the model was fitted; give labels of the same kind."
            )
        if not len(self.labels):
            return np.zeros((len(labels), self.modes.shape[1]))
        at = np.minimum(np.searchsorted(self.labels, labels), len(self.labels) - 1)
        found: Array = np.where(
            (self.labels[at] == labels)[:, None], self.modes[at], 0.0
        )
        return found


class RandomEffects(Mapping[str, Effects]):
    """Random effects by grouping factor.

    They are computed from the cross-products of the groups when they are first looked
    at, and kept; of data on a cluster, `lazily` computes them where they lie.
    """

    def __init__(
        self,
        structure: Structure,
        params: MixedParams,
        basis: Basis,
        order: tuple[int, ...],
        outer_labels: tuple[Array, ...],
        table: Any,
    ) -> None:
        self._structure = structure
        self._params = params
        self._basis = basis
        self._order = order
        self._outer_labels = outer_labels
        self._table = table
        self._known: dict[str, Effects] = {}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the factors."""
        return iter(f.name for f in self._structure.factors)

    def __len__(self) -> int:
        """Return the number of factors."""
        return len(self._structure.factors)

    def __getitem__(self, name: str) -> Effects:
        """Return the effects of a factor; of a cluster's data, fetch them."""
        if name not in self._known:
            names = [f.name for f in self._structure.factors]
            if name not in names:
                raise KeyError(f"{name!r}; the factors are {', '.join(names)}")
            k = names.index(name)
            self._known[name] = self._outer(k - 1) if k else self._inner()
        return self._known[name]

    @property
    def size(self) -> int:
        """Number of random effects."""
        s = self._structure
        return s.n_groups * s.inner.n_random + s.n_coupled

    def __repr__(self) -> str:
        """Say how many effects there are."""
        s = self._structure
        sizes = [s.n_groups, *s.levels]
        parts = (
            f"{f.name}: {n} groups x {f.n_random}"
            for f, n in zip(s.factors, sizes, strict=True)
        )
        return f"RandomEffects({', '.join(parts)})"

    def __getstate__(self) -> dict[str, Any]:
        """Take the effects along, not what they were computed from."""
        for name in self:
            self[name]
        return {**self.__dict__, "_table": None}

    def lazily(self, name: str) -> list[Any]:
        """Return delayed `Effects` of the groups of each chunk on the cluster.

        Parameters
        ----------
        name : str
            The factor with the most effects, whose groups the chunks hold.

        Raises
        ------
        ValueError
            If the data were in memory, or for another factor.
        """
        import dask

        if not is_dask(self._table) or name != self._structure.inner.name:
            raise ValueError(
                f"the effects of {name!r} are in memory; use random_effects_[{name!r}]."
            )
        compute = dask.delayed(self._of_table(), pure=False)  # type: ignore[attr-defined]
        return [compute(block) for block in self._table.to_delayed().ravel()]

    def _inner(self) -> Effects:
        if is_dask(self._table):
            import dask

            try:
                lazy = self.lazily(self._structure.inner.name)
                parts = dask.compute(*lazy)  # type: ignore[attr-defined]
            except (ValueError, KeyError) as error:
                raise RuntimeError(
                    "the sums of the groups were on a cluster that is gone; look at "
                    "random_effects_, or pickle the model, before the cluster closes."
                ) from error
            labels = np.concatenate([p.labels for p in parts])
            order = np.argsort(labels, kind="stable")
            return Effects(
                self._structure.inner,
                labels[order],
                np.concatenate([p.modes for p in parts])[order],
                np.concatenate([p.covs for p in parts])[order],
            )
        return self._of_table()(self._table)

    def _of_table(self) -> _OfTable:
        s, params = self._structure, self._params
        return _OfTable(
            s, params, known_cov(s, params), self._basis.random_map(self._order[0])
        )

    def _outer(self, k: int) -> Effects:
        s, params = self._structure, self._params
        factor, at = s.outer[k], s.slices()[k]
        n, q = s.levels[k], factor.n_random
        T = self._basis.random_map(self._order[k + 1])
        blocks = params.sigma2 * known_cov(s, params)[at, at].reshape(n, q, n, q)
        index = np.arange(n)
        covs = blocks[index, :, index, :]
        modes = params.mean[at].reshape(n, q)
        return Effects(factor, self._outer_labels[k], modes @ T.T, T @ covs @ T.T)


@dataclasses.dataclass(frozen=True)
class _OfTable:
    """Computes the effects of a table's groups, wherever it is."""

    structure: Structure
    params: MixedParams
    outer_cov: Array
    map: Array

    def __call__(self, table: GroupTable) -> Effects:
        modes, covs = group_effects(self.structure, self.params, self.outer_cov, table)
        T = self.map
        return Effects(self.structure.inner, table.labels, modes @ T.T, T @ covs @ T.T)
