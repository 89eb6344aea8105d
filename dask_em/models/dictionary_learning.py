"""Dictionary learning: rows as sparse sums of a few atoms."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import lasso as kernels
from ..kernels.threads import one_blas_thread
from ..model import Block, MapReduce, Model, Summary
from ..statistics import Statistics

__all__ = [
    "Codes",
    "DictionaryModel",
    "DictionaryParams",
    "DictionaryStats",
    "sparse_codes",
]

Array = NDArray[np.floating[Any]]

#: Numbers of products of rows and atoms that are there at a time.
_TILE = 131_072
#: Rows of the start's sample that are kept to make new atoms of.
_SPARE = 64
#: Share of the largest sum, of squares and of products, below which an atom is unused.
_UNUSED = 1e-13
#: Rounds of an M-step at most, and the relative gain of the last one.
_ROUNDS = 20
_GAIN = 1e-2


def _none() -> Array:
    return np.empty((0, 0))


@dataclasses.dataclass(frozen=True)
class DictionaryParams:
    """A dictionary of K atoms of P features.

    Attributes
    ----------
    atoms : array of shape (K, P)
        Of norm 1 at most.
    spare : array of shape (m, P)
        Some rows, of which atoms are made in place of those that no row uses.
    squares, cross : arrays of shape (K, K) and (K, P)
        As of `DictionaryStats`, of all rows at these atoms, once a fit has ended:
        online learning goes on from them. Empty before.
    """

    atoms: Array
    spare: Array
    squares: Array = dataclasses.field(default_factory=_none)
    cross: Array = dataclasses.field(default_factory=_none)


@dataclasses.dataclass(frozen=True)
class DictionaryStats(Statistics):
    """What the objective needs to know of rows y and their codes a.

    Attributes
    ----------
    squares : array of shape (K, K)
        Sum of a' a.
    cross : array of shape (K, P)
        Sum of a' y.
    energy : float
        Sum of the squared norms of y.
    size : float
        Sum of the absolute values of a.
    """

    squares: Array
    cross: Array
    energy: float
    size: float


@dataclasses.dataclass(frozen=True)
class Codes:
    """Sparse codes of rows, held as a CSR matrix holds them.

    Attributes
    ----------
    indptr : array of shape (n_rows + 1,), int64
    indices : array of shape (nnz,), int32
        Atoms, in order within a row.
    values : array of shape (nnz,)
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: Array

    @classmethod
    def none(cls, n_rows: int, dtype: Any) -> Codes:
        """Return codes that use no atom."""
        empty = np.empty(0, np.int32)
        return cls(np.zeros(n_rows + 1, np.int64), empty, np.empty(0, dtype))

    @classmethod
    def concatenate(cls, parts: list[Codes]) -> Codes:
        """Put codes one after the other; at least one part."""
        counts = [np.diff(part.indptr) for part in parts]
        indptr = np.zeros(sum(map(len, counts)) + 1, np.int64)
        np.cumsum(np.concatenate(counts), out=indptr[1:])
        return cls(
            indptr,
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def rows(self, start: int, stop: int) -> Codes:
        """Return the codes of consecutive rows, in arrays that may be written to."""
        indptr = self.indptr[start : stop + 1]
        mine = slice(indptr[0], indptr[-1])
        return Codes(
            indptr - indptr[0],
            np.require(self.indices[mine], requirements="W"),
            np.require(self.values[mine], requirements="W"),
        )

    def dense(self, n_atoms: int) -> Array:
        """Return an array of shape (n_rows, n_atoms)."""
        n_rows = len(self.indptr) - 1
        codes = np.zeros((n_rows, n_atoms), self.values.dtype)
        codes[np.repeat(np.arange(n_rows), np.diff(self.indptr)), self.indices] = (
            self.values
        )
        return codes


@dataclasses.dataclass(frozen=True)
class DictionaryModel(Model[DictionaryParams, DictionaryStats]):
    r"""Rows y as sparse combinations of K atoms of norm 1 at most.

    The bound is minus the objective of Mairal, Bach, Ponce and Sapiro (2010),

    .. math:: -F = \sum_i w_i \Bigl(\tfrac12 \lVert y_i - a_i D \rVert^2
              + \lambda \lVert a_i \rVert_1\Bigr)
              = \tfrac12 e - \langle D, B \rangle + \tfrac12 \langle D D', A \rangle
              + \lambda s,

    with the weighted sums :math:`A = \sum a' a`, :math:`B = \sum a' y`,
    :math:`e = \sum \lVert y \rVert^2` and :math:`s = \sum \lVert a \rVert_1`. An E-step
    finds the codes a, an M-step the atoms. There is no likelihood and no posterior: a
    code is the one best value, which is all that the engine needs for F never to fall.

    An atom that no row uses becomes what a row of the start's sample lacks most, if
    that is worth the price of its use, and else stays.

    Parameters
    ----------
    n_components : int
        Number of atoms K.
    penalty : float, default=1.0
        Lambda.
    positive_code, positive_dict : bool, default=False
        Whether codes, or atoms, must not be negative.
    dict_init : array of shape (K, P), optional
        Atoms to start from, in place of rows drawn at random. Longer ones are cut to
        norm 1.
    code_tol : float, default=1e-9
        Slope of the objective along any atom, relative to the largest product of the
        row with an atom, at which a code is taken for the best. Rows in single
        precision are coded to that precision.
    max_sweeps : int, default=1000
        Sweeps of coordinate descent before the atoms in use are looked over.

    References
    ----------
    Mairal, J., Bach, F., Ponce, J., Sapiro, G. (2010). Online learning for matrix
    factorization and sparse coding. Journal of Machine Learning Research 11, 19-60.
    """

    n_components: int
    penalty: float = 1.0
    positive_code: bool = False
    positive_dict: bool = False
    dict_init: Array | None = None
    code_tol: float = 1e-9
    max_sweeps: int = 1000

    @property
    def incremental(self) -> bool:
        """M-steps are cheap, and codes of many rows say much the same of the atoms."""
        return True

    @property
    def resolution(self) -> float:
        """Relative fall that is rounding: the bound is a difference of large sums."""
        return 1e-11

    # -------------------------------------------------------------- the start

    def start(
        self,
        summary: Summary,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> DictionaryParams:
        """Return rows drawn at random as atoms, of norm 1; directions if too few."""
        X, w = np.asarray(sample.X, dtype=np.float64), sample.weights()
        w = np.where(np.square(X).sum(axis=1) > 0, w, 0.0)
        n = min(_SPARE + self.n_components, int(np.count_nonzero(w)))
        drawn = X[rng.choice(len(X), n, replace=False, p=w / w.sum())] if n else X[:0]
        k = 0 if self.dict_init is not None else min(n, self.n_components)
        spare = np.ascontiguousarray(drawn[k : k + _SPARE])
        if self.dict_init is not None:
            atoms = np.array(self.dict_init, dtype=np.float64)
        else:
            more = rng.standard_normal((self.n_components - k, X.shape[1]))
            atoms = np.concatenate([drawn[:k], more])
            if self.positive_dict:
                atoms = np.abs(atoms)
            atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        if self.positive_dict:
            atoms = np.maximum(atoms, 0)
        norms = np.linalg.norm(atoms, axis=1, keepdims=True)
        return DictionaryParams(atoms / np.maximum(norms, 1.0), spare)

    # ----------------------------------------------------------- E- and M-step

    def e_step(
        self, params: DictionaryParams, prepared: Block, local: Codes | None = None
    ) -> tuple[DictionaryStats, Codes]:
        """Return the sums over some rows, and their codes."""
        k, n_columns = params.atoms.shape
        squares, cross = np.zeros((k, k)), np.zeros((k, n_columns))
        energy = size = 0.0
        codes, weights = [], np.require(prepared.weights(), np.float64, ("C", "W"))
        for start, X, found in self._coded(params.atoms, prepared.X, local):
            codes.append(found)
            of_tile = kernels.add_moments(
                X,
                weights[start : start + len(X)],
                found.indptr,
                found.indices,
                found.values,
                squares,
                cross,
            )
            energy, size = energy + of_tile[0], size + of_tile[1]
        squares += np.tril(squares, -1).T
        stats = DictionaryStats(squares, cross, float(energy), float(size))
        return stats, Codes.concatenate(codes)

    def _coded(self, atoms: Array, X: Any, local: Codes | None = None) -> Any:
        """Find codes tile by tile; yield where each begins, its rows and its codes."""
        dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
        step = max(_TILE // len(atoms), 16)
        with one_blas_thread():
            D = np.ascontiguousarray(atoms, dtype=dtype)
            gram = D @ D.T
            for start in range(0, max(X.shape[0], 1), step):
                # kernels are compiled for arrays that may be written to
                tile = np.require(X[start : start + step], dtype, ("C", "W"))
                known = (
                    Codes.none(len(tile), dtype)
                    if local is None
                    else local.rows(start, start + len(tile))
                )
                yield start, tile, self._descend(tile @ D.T, gram, known)

    def _descend(self, products: Array, gram: Array, known: Codes) -> Codes:
        (n, k), dtype = products.shape, products.dtype
        indptr = np.empty(n + 1, np.int64)
        indices, values = np.empty(n * k, np.int32), np.empty(n * k, dtype)
        kernels.encode(
            products,
            gram,
            dtype.type(self.penalty),
            self.positive_code,
            dtype.type(max(self.code_tol, 16 * float(np.finfo(dtype).eps))),
            self.max_sweeps,
            known.indptr,
            known.indices,
            known.values,
            indptr,
            indices,
            values,
        )
        end = int(indptr[-1])
        return Codes(indptr, indices[:end].copy(), values[:end].copy())

    def m_step(
        self, params: DictionaryParams, stats: DictionaryStats
    ) -> DictionaryParams:
        """Lower the objective in the atoms; make new ones of those that none uses."""
        atoms = np.array(params.atoms)
        kernels.update_atoms(
            stats.squares, stats.cross, atoms, self.positive_dict, _GAIN, _ROUNDS
        )
        used = np.abs(np.diagonal(stats.squares))
        weight = np.abs(stats.cross).max(axis=1, initial=0.0)
        unused = (used <= _UNUSED * used.max()) & (weight <= _UNUSED * weight.max())
        if unused.any():
            atoms[unused] = params.atoms[unused]
            self._replace(atoms, np.flatnonzero(unused), params.spare)
        return DictionaryParams(atoms, params.spare)

    def _replace(self, atoms: Array, unused: NDArray[np.intp], spare: Array) -> None:
        """Put what the spare rows lack most into the place of atoms.

        A row takes an atom into use if its product with what the row lacks exceeds the
        penalty, and that of the residual's own direction is the residual's norm.
        """
        if not len(spare):
            return
        held = np.delete(atoms, unused, axis=0)
        residual = spare
        if len(held):
            residual = spare - sparse_codes(self, held, spare) @ held
        for j in unused:
            lack = np.maximum(residual, 0) if self.positive_dict else residual
            norms = np.linalg.norm(lack, axis=1)
            worst = int(norms.argmax())
            if not norms[worst] > self.penalty:
                return
            atoms[j] = lack[worst] / norms[worst]
            product = residual @ atoms[j]
            code = np.sign(product) * np.maximum(np.abs(product) - self.penalty, 0)
            if self.positive_code:
                code = np.maximum(code, 0)
            residual = residual - np.outer(code, atoms[j])

    def lower_bound(self, params: DictionaryParams, stats: DictionaryStats) -> float:
        """Return minus the objective."""
        D = params.atoms
        with one_blas_thread():
            fitted = np.sum(D * (stats.cross - 0.5 * (stats.squares @ D)))
        return float(fitted - 0.5 * stats.energy - self.penalty * stats.size)

    def complete(
        self, params: DictionaryParams, stats: DictionaryStats
    ) -> DictionaryParams:
        """Keep the sums that atoms are made of."""
        return dataclasses.replace(params, squares=stats.squares, cross=stats.cross)


def sparse_codes(model: DictionaryModel, atoms: Array, X: Any) -> Array:
    """Return the codes of rows, as an array.

    Parameters
    ----------
    model : DictionaryModel
    atoms : array of shape (K, P)
    X : array of shape (n_rows, P)

    Returns
    -------
    codes : array of shape (n_rows, K)
        In the precision of `X`.
    """
    parts = [found for _, _, found in model._coded(atoms, X)]
    return Codes.concatenate(parts).dense(len(atoms))
