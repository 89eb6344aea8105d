"""Dictionary learning, with scikit-learn's face."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from ..model import Block, Summary
from ..models.dictionary_learning import DictionaryModel, DictionaryParams
from ..result import EMResult
from ..sharding import as_data
from .callbacks import Passes
from .clients import asynchronous_client
from .components import ComponentsEstimator
from .dictionary_codes import Encode, check_settings
from .table import Table

__all__ = ["DictionaryLearning"]

Array = NDArray[Any]


class DictionaryLearning(ComponentsEstimator):
    r"""Atoms of which rows are sparse combinations, learned where the rows are.

    With the face of `sklearn.decomposition.DictionaryLearning`. Atoms D and codes a are
    found that make

    .. math:: \sum_i \tfrac12 \lVert y_i - a_i D \rVert^2 + \alpha \lVert a_i \rVert_1,
              \qquad \lVert d_k \rVert \le 1

    small, by turns: codes of the rows given the atoms, by coordinate descent from the
    codes of before, and atoms given the sums :math:`\sum a' a` and :math:`\sum a' y`
    (Mairal, Bach, Ponce and Sapiro, 2010). This is like EM, but of no likelihood. As
    the objective is a sum over rows, it may be lowered one shard at a time, in any
    order and from any worker, and never rises.

    Parameters
    ----------
    n_components : int, default=None
        Number of atoms K. None stands for the number of features.
    alpha : float, default=1.0
        Price of a unit of code. Rows should be scaled so that it fits them.
    max_iter : int, default=200
        Effective passes over the data at most.
    tol : float, default=1e-5
        The fit has converged when a whole pass lowers the mean objective by less.
    n_init : int, default=1
        Starts from rows at random, of which the one that ends with the lowest objective
        is kept.
    transform_algorithm : str, default="lasso_cd"
        How `transform` finds codes: ``"lasso_cd"`` as the fit does, or as scikit-learn
        does by ``"lasso_lars"``, ``"lars"``, ``"omp"`` or ``"threshold"``.
    transform_n_nonzero_coefs : int, default=None
        Atoms per row for ``"lars"`` and ``"omp"``. None stands for a tenth of the
        features.
    transform_alpha : float, default=None
        The price in `transform`; the error to be reached for ``"omp"``. None stands
        for `alpha`.
    transform_max_iter : int, default=1000
        Sweeps of coordinate descent at most.
    dict_init : array-like of shape (n_components, n_features), default=None
        Atoms to start from. None draws rows at random.
    split_sign : bool, default=False
        Whether `transform` puts negative parts of codes into columns of their own.
    positive_code : bool, default=False
        Whether codes must not be negative.
    positive_dict : bool, default=False
        Whether atoms must not be negative.
    random_state : int, RandomState instance or None, default=None
        Seed of the start.
    verbose : int, default=0
        1 prints how the fit goes on.
    schedule : str or Schedule, default="auto"
        When to update atoms: ``"synchronous"``, ``"incremental"``,
        ``"fraction_barrier"``, ``"bounded_staleness"``, ``"extra_updates"`` or an
        object of `dask_em.schedules`. The default is several times a pass on threads,
        and a bounded staleness on a cluster.
    transport : str or Transport, default="auto"
        Where to code rows: ``"local"`` threads, ``"futures"`` of Dask,
        ``"simulated"``, or an object of `dask_em.transports`. The default is the
        current Dask client, and threads where there is none.
    shards : int or "auto", default="auto"
        Into how many parts to cut the data.
    hand_out : bool, default=True
        Whether shards may move from slow workers to fast ones.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    checkpoint : str or path, default=None
        Directory or fsspec URL in which the state of the fit is saved now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The atoms.
    error_ : ndarray
        The objective before each update of the atoms, and at the end.
    n_iter_ : int
        Effective passes over the data, rounded up.
    n_steps_ : int
        Batches that `partial_fit` was given since the last `fit`.
    converged_ : bool
    lower_bound_ : float
        Minus the mean objective.
    lower_bounds_ : list of float
        The same before each update of the atoms.
    result_ : EMResult
        Status, log of the fit and settings used. What is called log-likelihood there
        is minus the objective.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where columns have names that are strings.

    See Also
    --------
    sklearn.decomposition.DictionaryLearning : For arrays in memory.
    sklearn.decomposition.MiniBatchDictionaryLearning : The same, online.

    Notes
    -----
    An atom that no row uses is replaced by what one of the rows of the start's sample
    lacks most, if that is worth its price; else it stays.

    Attributes have the precision of the data, and single precision is coded in single
    precision. A `sample_weight` of 2 is the same as a row that occurs twice.

    References
    ----------
    Mairal, J., Bach, F., Ponce, J., Sapiro, G. (2010). Online learning for matrix
    factorization and sparse coding. Journal of Machine Learning Research 11, 19-60.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import DictionaryLearning
    >>> rng = np.random.default_rng(0)
    >>> codes = rng.laplace(size=(200, 3)) * (rng.random((200, 3)) < 0.4)
    >>> X = 5 * codes @ np.eye(3, 6)
    >>> learner = DictionaryLearning(3, alpha=0.1, tol=1e-9, random_state=0).fit(X)
    >>> abs(learner.components_).max(axis=1).round(2)
    array([1., 1., 1.])
    >>> learner.transform(X).shape
    (200, 3)

    What is lazy stays lazy:

    >>> import dask.array as da
    >>> learner.transform(da.from_array(X, chunks=(50, 6))).chunks
    ((50, 50, 50, 50), (3,))
    """

    _advice = (
        "Dictionary learning did not converge. Increase max_iter or tol, or scale the "
        "rows so that alpha fits them."
    )

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1.0,
        max_iter: int = 200,
        tol: float = 1e-5,
        n_init: int = 1,
        transform_algorithm: str = "lasso_cd",
        transform_n_nonzero_coefs: int | None = None,
        transform_alpha: float | None = None,
        transform_max_iter: int = 1000,
        dict_init: Any = None,
        split_sign: bool = False,
        positive_code: bool = False,
        positive_dict: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        schedule: Any = "auto",
        transport: Any = "auto",
        shards: Any = "auto",
        hand_out: bool = True,
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol
        self.n_init = n_init
        self.transform_algorithm = transform_algorithm
        self.transform_n_nonzero_coefs = transform_n_nonzero_coefs
        self.transform_alpha = transform_alpha
        self.transform_max_iter = transform_max_iter
        self.dict_init = dict_init
        self.split_sign = split_sign
        self.positive_code = positive_code
        self.positive_dict = positive_dict
        self.random_state = random_state
        self.verbose = verbose
        self.schedule = schedule
        self.transport = transport
        self.shards = shards
        self.hand_out = hand_out
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume

    # ------------------------------------------------------------------------ fit

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, dim: Any = None
    ) -> Any:
        """Learn atoms.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in memory, a Dask array or DataFrame, lazy or persisted, or a
            `xarray.DataArray`.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights that are not negative; of a labelled `X`, a DataArray of some of
            the sample dimensions.
        dim : str or sequence of str, default=None
            Sample dimensions of a labelled `X`; the first one where there are at
            most two.

        Returns
        -------
        self : DictionaryLearning
            Or an awaitable of it if the current Dask client is asynchronous. If the
            fit fails, what an earlier one found is left as it was.

        Raises
        ------
        ValueError, TypeError
            If parameters or data are unusable; the message names the remedy.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` or the deadline ended the fit.
        """
        check_settings(self)
        table = Table.of(self, X, sample_weight, dim=dim, reset=True)
        given = {} if self.dict_init is None else {"n_init": 1}
        return self._fit_model(self._model(table.n_features), table, **given)

    def _model(self, n_features: int) -> DictionaryModel:
        k = n_features if self.n_components is None else int(self.n_components)
        atoms = self.dict_init
        if atoms is not None:
            atoms = check_array(atoms, dtype=np.float64, input_name="dict_init")
            if atoms.shape != (k, n_features):
                raise ValueError(
                    f"dict_init must have the shape {(k, n_features)} of n_components "
                    f"atoms with as many features as X, got {atoms.shape}."
                )
        return DictionaryModel(
            n_components=k,
            penalty=float(self.alpha),
            positive_code=bool(self.positive_code),
            positive_dict=bool(self.positive_dict),
            dict_init=atoms,
        )

    def _attributes_of(
        self, params: DictionaryParams, table: Table
    ) -> Mapping[str, Any]:
        return {"components_": params.atoms.astype(table.dtype)}

    def _adopt(
        self, result: EMResult[Any], table: Table, passes: Passes | None
    ) -> DictionaryLearning:
        super()._adopt(result, table, passes)
        bounds = [*result.trace.lower_bound_before, result.lower_bound]
        self.error_ = -np.array(bounds)
        params = result.params
        self._online = params.squares, params.cross, result.weight
        self.__dict__.pop("n_steps_", None)
        return self

    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, dim: Any = None
    ) -> DictionaryLearning:
        r"""Learn from one batch of rows, online.

        The batch is coded with the atoms so far, the sums are updated,

        .. math:: A \leftarrow \tfrac{W}{W + w} A + \sum a' a, \qquad
                  B \leftarrow \tfrac{W}{W + w} B + \sum a' y,

        with w the weight of the batch and W that of all before, and the atoms are
        fitted to them: old codes, found with worse atoms, count for less and less
        (Mairal et al., 2010, section 3.4). After a `fit` its rows are those before.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; a lazy batch is computed.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
        dim : str or sequence of str, default=None
            As in `fit`.

        Returns
        -------
        self : DictionaryLearning

        Raises
        ------
        ValueError, TypeError
            If parameters or data are unusable; the message names the remedy.
        """
        check_settings(self)
        first = not hasattr(self, "components_")
        table = Table.of(self, X, sample_weight, dim=dim, reset=first)
        block, model = _in_memory(table), self._model(table.n_features)
        if first:
            rng = np.random.default_rng(
                check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            )
            sums, seen = None, 0.0
            params = model.start(Summary.of(block), block, rng=rng, mapreduce=_nowhere)
        else:
            if len(self.components_) != model.n_components:
                raise ValueError(
                    f"there are {len(self.components_)} atoms from before, but "
                    f"n_components asks for {model.n_components}; call fit to begin "
                    "anew."
                )
            *sums, seen = self._online
            # atoms that nobody uses become what rows of this batch lack
            rows = np.asarray(block.X[:_SPARE], dtype=np.float64)
            params = DictionaryParams(self.components_.astype(np.float64), rows)
        stats, _ = model.e_step(params, block)
        weight = block.weight
        if sums is not None:
            share = seen / (seen + weight)
            stats = dataclasses.replace(
                stats,
                squares=share * sums[0] + stats.squares,
                cross=share * sums[1] + stats.cross,
            )
        params = model.m_step(params, stats)
        self.__dict__.update(
            **(table.columns if first else {}),
            components_=params.atoms.astype(table.dtype),
            n_steps_=getattr(self, "n_steps_", 0) + 1,
            _online=(stats.squares, stats.cross, seen + weight),
        )
        return self

    # ---------------------------------------------------------------------- codes

    def transform(self, X: Any) -> Any:
        """Return the sparse code of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.

        Returns
        -------
        codes : array of shape (n_samples, n_components)
            In the precision of `X`; twice as many columns if `split_sign`. A Dask
            array with the chunks of `X` if that is lazy, a DataArray of the sample
            dimensions and ``component`` if it is labelled.
        """
        check_is_fitted(self)
        check_settings(self)
        table = Table.of(self, X)
        price = self.alpha if self.transform_alpha is None else self.transform_alpha
        encode = Encode(
            self.components_,
            self.transform_algorithm,
            float(price),
            self.transform_n_nonzero_coefs,
            int(self.transform_max_iter),
            bool(self.positive_code),
            bool(self.split_sign),
        )
        codes = table.map(encode, table.dtype, self._n_features_out)
        return table.wrap(codes, "code")

    def _rows(self, codes: Any) -> Any:
        k = len(self.components_)
        if self.split_sign:
            codes = codes[..., :k] - codes[..., k:]
        return codes @ self.components_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_) * (2 if self.split_sign else 1)


#: Rows of a batch that atoms nobody uses may be made of.
_SPARE = 64


def _in_memory(table: Table) -> Block:
    """Return the rows and weights of a table, checked."""
    data: Any = as_data(table.X, None, table.sample_weight)
    if table.lazy:
        if asynchronous_client() is not None:
            raise TypeError(
                "partial_fit computes a lazy batch at once, which an asynchronous "
                "client cannot wait for; pass a batch in memory."
            )
        import dask

        X, _, weights = dask.compute(*data.arrays)  # type: ignore[attr-defined]
        assert_all_finite(X, input_name="X")
        data = as_data(np.asarray(X), None, weights)
    if not data.block.weight > 0:
        raise ValueError("sample_weight is zero everywhere; give some row a weight.")
    return data.block


def _nowhere(fn: Callable[..., Any]) -> Any:
    raise NotImplementedError("a batch is all there is to start from")
