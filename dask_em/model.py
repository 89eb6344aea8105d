"""What is computed: the four functions of a model, and the rows they see."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .acceleration import Acceleration
from .reduction.base import LocalFit, Reduced
from .statistics import Statistics

__all__ = ["Block", "MapReduce", "Model", "Summary"]

P = TypeVar("P")  # parameters: a frozen dataclass of arrays
S = TypeVar("S", bound=Statistics)

#: ``mapreduce(fn)`` applies ``fn(block, rng)`` to every block of the data, where it
#: lies, and adds up the results; ``rng`` is a generator of the block's own.
MapReduce = Callable[[Callable[[Any, np.random.Generator], Any]], Any]


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows that a kernel sees at once.

    Parameters
    ----------
    X : array of shape (n_rows, n_features)
        Or a sparse one, in CSR form.
    y : array of shape (n_rows,) or (n_rows, n_targets), optional
    sample_weight : array of shape (n_rows,), optional
        None stands for weights of one.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import Block
    >>> block = Block(np.array([[1.0], [2.0], [3.0]]))
    >>> block.rows(slice(1, 3)).X.ravel()
    array([2., 3.])
    >>> block.weights()
    array([1., 1., 1.])
    """

    X: Any
    y: Any = None
    sample_weight: Any = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        if self.sample_weight is None:
            return float(self.n_rows)
        return float(np.sum(self.sample_weight, dtype=np.float64))

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        arrays = (self.X, self.y, self.sample_weight)
        return sum(_nbytes(a) for a in arrays if a is not None)

    def rows(self, index: Any) -> Block:
        """Return the rows selected by a slice or an index array."""
        return Block(
            *(
                None if a is None else a[index]
                for a in (self.X, self.y, self.sample_weight)
            )
        )

    def weights(self) -> NDArray[Any]:
        """Return the weights as an array, ones where none were given."""
        if self.sample_weight is None:
            return np.ones(self.n_rows)
        return np.asarray(self.sample_weight, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the survey, the one pass before the fit, finds out about the data.

    Summaries of disjoint sets of rows combine into the summary of their union, with
    the pairwise update of Chan, Golub and LeVeque (1983), which does not cancel.

    Parameters
    ----------
    n_rows : int
    weight : float
        Sum of the weights; `n_rows` without weights.
    mean : array of shape (n_features,)
        Weighted mean of every feature: the common origin of second moments.
    scatter : array of shape (n_features,)
        Weighted sum of squared deviations from `mean`.
    n_nonfinite : int
        Rows with a NaN or an infinity in them; they enter no other field.
    n_negative_weights : int
        Rows of negative weight.
    dtype : numpy.dtype
    """

    #: What values of the rows that count as not finite are.
    refused: ClassVar[str] = "NaN or infinity"

    n_rows: int
    weight: float
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]
    n_nonfinite: int
    n_negative_weights: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, block: Block) -> Summary:
        """Survey one block of rows, in tiles, so that memory stays small."""
        if sp.issparse(block.X):
            raise TypeError(
                "X is sparse, and this model wants all numbers; pass X.toarray()."
            )
        n = block.X.shape[0]
        with np.errstate(over="ignore", invalid="ignore"):  # weights may overflow
            total = cls._of_tile(block.rows(slice(0, _TILE)))
            for i in range(_TILE, n, _TILE):
                total = total.combine(cls._of_tile(block.rows(slice(i, i + _TILE))))
        return total

    @classmethod
    def _of_tile(cls, block: Block) -> Summary:
        X = np.asarray(block.X, dtype=np.float64)
        w = block.weights()
        finite = np.isfinite(X).all(axis=1) & np.isfinite(w)
        negative = w < 0
        n = X.shape[0]
        if not finite.all():
            X, w = X[finite], w[finite]
        weight = float(w.sum())
        if weight != 0:
            # two steps, so that a large common offset does not cancel; from a row that
            # counts, since one of weight 0 may hold anything
            shift = X[np.abs(w).argmax()]
            mean = shift + w @ (X - shift) / weight
            scatter = w @ np.square(X - mean)
        else:
            mean = np.zeros(X.shape[1])
            scatter = np.zeros(X.shape[1])
        return cls(
            n_rows=n,
            weight=weight,
            mean=mean,
            scatter=scatter,
            n_nonfinite=int(n - finite.sum()),
            n_negative_weights=int(negative.sum()),
            dtype=np.dtype(block.X.dtype),
        )

    def combine(self, other: Summary) -> Summary:
        """Return the summary of both sets of rows."""
        weight = self.weight + other.weight
        share = other.weight / weight if weight != 0 else 0.0
        delta = other.mean - self.mean
        with np.errstate(over="ignore", invalid="ignore"):
            between = (self.weight * share) * np.square(delta)
            mean = self.mean + share * delta
        return Summary(
            n_rows=self.n_rows + other.n_rows,
            weight=weight,
            mean=mean,
            scatter=self.scatter + other.scatter + between,
            n_nonfinite=self.n_nonfinite + other.n_nonfinite,
            n_negative_weights=self.n_negative_weights + other.n_negative_weights,
            dtype=np.promote_types(self.dtype, other.dtype),
        )

    __add__ = combine

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.mean.shape[0])

    @property
    def variance(self) -> NDArray[np.float64]:
        """Weighted variance of every feature."""
        return self.scatter / self.weight


_TILE = 4096


def _nbytes(array: Any) -> int:
    if sp.issparse(array):  # has no size of its own
        return sum(a.nbytes for a in (array.data, array.indices, array.indptr))
    return int(array.nbytes)


class Model(ABC, Generic[P, S]):
    r"""A model that EM can fit: structure and hyper-parameters, no state.

    Four functions are needed, `start`, `e_step`, `m_step` and `lower_bound`; the rest
    have defaults. Parameters and statistics are values (frozen dataclasses of
    arrays) that pass through; the model object itself never changes and is sent to
    the workers with every task, so it should be small. A model works on NumPy arrays
    and knows nothing of schedules, transports or clusters.

    The one promise a model makes, beyond the usual ones of EM, is that the bound is
    affine in the statistics,

    .. math:: F(\\theta, S) = c(\\theta) + \\langle a(\\theta), S \\rangle,

    which holds as soon as the entropy of the posterior is one of the statistics
    (Neal and Hinton, 1998). `dask_em.testing.check_model` tests it.
    """

    def survey(self, block: Block) -> Any:
        """Look at rows once before the fit; summaries are combined by ``+``."""
        return Summary.of(block)

    def check(self, summary: Any) -> None:
        """Raise `ValueError` where the data cannot be fitted by this model."""

    @property
    def prepares(self) -> bool:
        """Whether `prepare` does anything; where not, the rows stay as they are."""
        return type(self).prepare is not Model.prepare

    def prepare(self, block: Block, summary: Any) -> Any:
        """Turn rows into what `e_step` wants to see; done once per block."""
        return block

    @abstractmethod
    def start(
        self,
        summary: Any,
        sample: Block,
        *,
        rng: np.random.Generator,
        mapreduce: MapReduce,
    ) -> P:
        """Return starting parameters.

        Parameters
        ----------
        summary : Summary
            Of the whole data.
        sample : Block
            Some rows: all of them where they are few, in an order that does not
            depend on how they were stored (see `dask_em.sampling`).
        rng : numpy.random.Generator
        mapreduce : callable
            ``mapreduce(fn)`` applies ``fn(prepared, rng)`` to all of the data and
            adds up what it returns.
        """

    def adopt(self, params: P, summary: Any) -> P:
        """Fit parameters that were found elsewhere to the data at hand.

        Called where a fit begins at given parameters instead of `start`'s.
        """
        return params

    def rebase(self, params: P) -> P:
        """Return the parameters, or the same ones in coordinates nearer to them.

        Called after every M-step. If another object is returned, the statistics of
        all rows are computed anew at it: an answer for parameters that have come so
        far from where a fit began that statistics about that place lose precision.
        """
        return params

    @abstractmethod
    def e_step(self, params: P, prepared: Any, local: Any = None) -> tuple[S, Any]:
        """Return the statistics of some rows, and their latent state.

        Parameters
        ----------
        params : P
        prepared : object
            What `prepare` returned; the `Block` itself by default.
        local : object, optional
            Latent state of these rows that an earlier E-step returned, or None.

        Returns
        -------
        statistics : Statistics
            The coefficients of a minorising surrogate of the log-likelihood of these
            rows, the entropy of their posterior included; zeros for no rows.
        local : object or None
            State that stays with the rows; None for models without any.
        """

    @abstractmethod
    def m_step(self, params: P, stats: S) -> P:
        """Return the parameters that maximise the bound given `stats`."""

    @abstractmethod
    def lower_bound(self, params: P, stats: S) -> float:
        """Return F, the bound on the log-likelihood; affine in `stats`.

        At the parameters that `stats` were computed at it is the log-likelihood
        itself (for exact E-steps).
        """

    # ------------------------------------------------- for models with more to say

    @property
    def one_version(self) -> bool:
        """Whether statistics must all have been computed at the same parameters.

        So it is where a step climbs the log-likelihood itself, as ECME's do (Liu and
        Rubin, 1994). `lower_bound` is then the log-likelihood at the parameters that
        the statistics were computed at, and the model runs under synchronous
        schedules only; `mixable` stands in for it under the others.
        """
        return False

    def mixable(self) -> Model[P, S]:
        """Return the model for schedules that mix statistics of several versions.

        It shares the parameters and what `prepare` made. What it finds is where a
        synchronous fit of this model then begins.
        """
        return self

    @property
    def incremental(self) -> bool:
        """Whether M-steps between parts of the rows pay on a single machine, too.

        So it is where an M-step is cheap and fresh parameters are worth much. The
        default schedule on threads is then `dask_em.schedules.Incremental`.
        """
        return False

    @property
    def resolution(self) -> float:
        """Relative fall of the bound that is taken for rounding."""
        return 1e-13

    @property
    def acceleration(self) -> Acceleration | None:
        """What ``acceleration="auto"`` stands for; it needs `pack` and `unpack`."""
        return None

    def pack(self, params: P) -> NDArray[np.float64]:
        """Return the parameters as a vector of unconstrained coordinates."""
        raise NotImplementedError

    def unpack(self, params: P, vector: NDArray[np.float64]) -> P:
        """Return parameters like these, at other coordinates.

        Raises
        ------
        ValueError, ArithmeticError, numpy.linalg.LinAlgError
            Where there are none; EM's own step is made instead.
        """
        raise NotImplementedError

    @property
    def packs(self) -> bool:
        """Whether parameters can be packed into a vector."""
        return type(self).pack is not Model.pack

    def reduce(
        self, fits: Sequence[LocalFit[P]], support: Block, rng: np.random.Generator
    ) -> Reduced[P]:
        """Return the one fit that is nearest to several local ones.

        Parameters
        ----------
        fits : sequence of LocalFit
            That began at the same parameters.
        support : Block
            Some rows at which they may be compared.
        rng : numpy.random.Generator
        """
        raise NotImplementedError

    @property
    def reduces(self) -> bool:
        """Whether local fits can be made one."""
        return type(self).reduce is not Model.reduce

    def safe_step(self, params: P, stats: S) -> P:
        """Return an M-step that cannot lower the likelihood, where `m_step` might."""
        return self.m_step(params, stats)

    def complete(self, params: P, stats: S) -> P:
        """Fill in what final parameters and statistics computed at them determine."""
        return params

    def sound(self, params: P) -> bool:
        """Whether this is a fit to keep; of several starts, the best such one wins.

        For models whose likelihood grows without bound where a part of them collapses
        onto a few rows.
        """
        return True

    def gain(self, params: P, change: S) -> float:
        """Return by how much the bound at `params` changes with the statistics."""
        return self.lower_bound(params, change) - self.lower_bound(
            params, change.zeros_like()
        )


def e_step_of(
    model: Model[P, S], params: P, prepared: Sequence[Any], local: Any = None
) -> tuple[S, Any]:
    """Run the E-step over the pieces of a shard and add up their statistics."""
    if not prepared:
        raise ValueError("a shard has no pieces")
    states = []
    total: S | None = None
    for i, piece in enumerate(prepared):
        outcome = model.e_step(params, piece, local[i] if local else None)
        if not (
            isinstance(outcome, tuple)
            and len(outcome) == 2
            and isinstance(outcome[0], Statistics)
        ):
            raise TypeError(
                f"e_step of {type(model).__name__} must return a pair (statistics, "
                "local), the first an instance of a subclass of dask_em.Statistics "
                "and the second None where there is no latent state."
            )
        stats, state = outcome
        total = stats if total is None else total + stats
        states.append(state)
    assert total is not None
    return total, None if all(s is None for s in states) else tuple(states)
