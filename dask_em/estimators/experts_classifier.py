"""Classification by mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from ..labels import is_labelled
from ..models.experts.families import Family
from ..models.experts.multinomial import Multinomial
from ..models.experts.params import ExpertsParams
from ..sharding import is_dask
from .clients import asynchronous_client
from .experts_base import MixtureOfExperts
from .sums import formula_of_sums
from .table import Table

__all__ = ["MixtureOfExpertsClassifier"]

Array = NDArray[Any]


class MixtureOfExpertsClassifier(ClassifierMixin, MixtureOfExperts):
    r"""Logistic regressions, each for its part of the data, and a gate between them.

    .. math:: P(y = g \mid x) = \sum_{k=1}^K \pi_k(x)\,
              \frac{e^{b_{kg0} + b_{kg}^\top x}}
                   {\sum_h e^{b_{kh0} + b_{kh}^\top x}}

    with the softmax gate of `MixtureOfExpertsRegressor` (Jordan and Jacobs, 1994).
    Experts, too, are updated by Newton steps under a safeguard, or by the maximum of
    Böhning's bound (1992).

    Parameters
    ----------
    n_components : int, default=2
        Number of experts K.
    reg_expert : float, default=1e-3
        Ridge on the experts' slopes, in units of the columns' standard deviations.
        Without one, an expert whose classes can be told apart has no finite maximum.
    gate : {"softmax", "constant", "equal"}, default="softmax"
        Probabilities of the experts that depend on the row; that are the same
        everywhere (a mixture of regressions); or that are all equal.
    gate_features, expert_features : sequence of str or int, default=None
        Columns that the gate and the experts see; all of them by default.
    tol : float, default=1e-6
        The fit has converged when a whole pass raises the mean log-likelihood by less.
    max_iter : int, default=500
        Effective passes over the data at most: of local fits, and of EM on all rows.
    n_init : int, default=1
        Starts, of which the best outcome is kept. Each is itself the best of ten
        short fits to a sample. An outcome with an expert that has collapsed onto a
        few rows is kept only where there is no other.
    init : {"hyperplanes", "kmeans"}, default="hyperplanes"
        Short fits begin with regressions on a few rows drawn at random each, or with
        clusters of the rows of X.
    reg_gate : float, default=0.0
        Ridge on the gate's slopes, in units of the columns' standard deviations. Where
        0 turns out to have no solution, as components can be told apart without
        error, a small one is switched on, with a warning; see `reg_gate_`.
    strategy : str, default="auto"
        ``"em"``: EM on all rows. ``"one_shot"``: EM on the rows of each worker (of
        each of `shards`, where that is a number), and reduction of these local fits
        to one by optimal transport, with one round of communication (Chamroukhi and
        Pham, 2023). ``"one_shot+polish"``: that, and then EM on all rows from there,
        for `n_polish` passes or to convergence. The default is the last one where
        there are at least eight local fits with rows enough, else EM.
    n_polish : int, default=None
        Passes after a reduction. None goes on until the fit has converged, with the
        maximum-likelihood estimate.
    reduction_gate : {"matched", "transport"}, default="matched"
        The gate of a reduction: matched local coefficients, averaged by their
        information; or softmax regression on the masses of the transport plan.
    n_support : int, default=2000
        Rows at which experts are compared in a reduction.
    robust : bool, default=False
        Whether local fits far from the others are left out of a reduction.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `sample`.
    warm_start : bool, default=False
        Whether `fit` goes on from the outcome of the last one.
    verbose : int, default=0
        1 prints how the fit goes on.
    verbose_interval : int, default=10
        M-steps between two lines.
    schedule, transport, shards, hand_out, acceleration
        As in `dask_em.fit_em`.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    checkpoint : str or path, default=None
        Directory or fsspec URL in which the state of the fit is saved now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    intercept_ : ndarray of shape (n_components, n_classes)
    coef_ : ndarray of shape (n_components, n_classes, n_expert_features)
        Log odds against the last class, for which they are zero.
    gate_intercept_ : ndarray of shape (n_components,)
    gate_coef_ : ndarray of shape (n_components, n_gate_features)
        Log odds against the last component, whose row is zero.
    weights_ : ndarray of shape (n_components,)
        Shares of the rows that the experts have.
    log_likelihood_ : float
        Of all rows, without penalty.
    n_parameters_ : int
    reg_gate_ : float
        Ridge that was used.
    converged_ : bool
    n_iter_ : int
        Effective passes over the data, local fits included, rounded up.
    lower_bound_ : float
        Mean log-likelihood, less the ridge's penalty.
    lower_bounds_ : list of float
        The same before each M-step.
    feature_mean_ : ndarray of shape (n_features,)
    feature_covariance_ : ndarray of shape (n_features, n_features)
        Moments of the rows, from which `dask_em.reduce_mixture` can make a support
        sample where there are no rows.
    result_ : EMResult
        Status, exact log-likelihood, log of the fit and settings used; those of a
        reduction under ``result_.settings["one_shot"]``, with the bytes it moved.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where columns have names that are strings.

    See Also
    --------
    MixtureOfExpertsRegressor : For numbers.

    References
    ----------
    Jordan, M. I., Jacobs, R. A. (1994). Hierarchical mixtures of experts and the EM
    algorithm. Neural Computation 6, 181-214.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import MixtureOfExpertsClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-3, 3, (600, 2))
    >>> same = (X + rng.normal(scale=0.3, size=X.shape) > 0).sum(axis=1) != 1
    >>> y = np.where(same, "same", "different")
    >>> mixture = MixtureOfExpertsClassifier(2, n_init=5, random_state=0).fit(X, y)
    >>> bool(mixture.score(X, y) > 0.85)
    True
    >>> mixture.predict([[2, 2], [-2, 2]])
    array(['same', 'different'], dtype='<U9')
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        reg_expert: float = 1e-3,
        gate: str = "softmax",
        gate_features: Any = None,
        expert_features: Any = None,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 1,
        init: str = "hyperplanes",
        reg_gate: float = 0.0,
        strategy: str = "auto",
        n_polish: int | None = None,
        reduction_gate: str = "matched",
        n_support: int = 2000,
        robust: bool = False,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        schedule: Any = "auto",
        transport: Any = "auto",
        shards: Any = "auto",
        hand_out: bool = True,
        acceleration: Any = "auto",
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> None:
        self.n_components = n_components
        self.reg_expert = reg_expert
        self.gate = gate
        self.gate_features = gate_features
        self.expert_features = expert_features
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init = init
        self.reg_gate = reg_gate
        self.strategy = strategy
        self.n_polish = n_polish
        self.reduction_gate = reduction_gate
        self.n_support = n_support
        self.robust = robust
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.schedule = schedule
        self.transport = transport
        self.shards = shards
        self.hand_out = hand_out
        self.acceleration = acceleration
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, dim: Any = None) -> Any:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in memory, a Dask array or DataFrame, lazy or persisted, or a
            `xarray.DataArray`.
        y : array-like of shape (n_samples,)
            Classes: numbers or strings. Those of lazy data are looked up in one pass.
        sample_weight : array-like of shape (n_samples,), default=None
            A weight of 2 is the same as a row that occurs twice.
        dim : str or sequence of str, default=None
            Sample dimensions of a labelled `X`; the first one where there are at
            most two.

        Returns
        -------
        self : MixtureOfExpertsClassifier
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
        UserWarning
            If a ridge had to be put on the gate.
        """
        self._check_settings()
        table = Table.of(self, X, sample_weight, dim=dim, reset=True, min_samples=2)
        if getattr(y, "ndim", 1) == 2 and not is_dask(y) and not is_labelled(y):
            y = column_or_1d(y, warn=True)
        in_memory = not is_dask(y) and not is_dask(getattr(y, "data", None))
        table = table.with_responses(y)
        classes = self._classes_of(table, y if in_memory else None)
        table = table.with_attributes(classes_=classes)
        family = self._family(len(classes))
        return self._fit_experts(_coded(table, classes), family)

    def _check_settings(self) -> None:
        super()._check_settings()
        ridge = self.reg_expert
        if not isinstance(ridge, Real) or not 0 <= float(ridge) < np.inf:
            raise ValueError(
                f"reg_expert must not be negative, got {self.reg_expert!r}."
            )

    def _family(self, n_predictors: int) -> Family:
        return Multinomial(n_predictors, float(self.reg_expert))

    def _classes_of(self, table: Table, given: Any) -> Array:
        y = table.y
        if y.ndim == 2 and y.shape[1] != 1:
            raise ValueError(
                f"y must have one class per row, got the shape {y.shape}; fit one "
                "mixture for each column."
            )
        if given is not None or not table.lazy:
            y = np.asarray(given if table.lazy else y)
            if y.dtype.kind in "fc":
                assert_all_finite(y, input_name="y")
            check_classification_targets(np.ravel(y))
            classes = np.unique(y)
        else:
            if asynchronous_client() is not None:
                raise TypeError(
                    "the classes of a lazy y are computed before the fit, which an "
                    "asynchronous client cannot wait for; use a "
                    "Client(asynchronous=False), or y in memory."
                )
            from dask.array import unique

            classes = np.asarray(unique(y.reshape(-1)).compute())
            check_classification_targets(classes)
        if len(classes) < 2:
            raise ValueError(
                "This classifier needs at least 2 classes in y, but there is 1 class: "
                f"{classes.tolist()[0]!r}."
            )
        return classes

    def _found(self, model: Any, table: Table) -> Any:
        found = super()._found(model, table)
        if found is not None and not np.array_equal(
            self.classes_, table.attributes["classes_"]
        ):
            raise ValueError(
                "warm_start=True goes on from an earlier fit, but that was to the "
                f"classes {self.classes_.tolist()}; set warm_start=False to begin anew."
            )
        return found

    def _checked_responses(self, table: Table) -> Table:
        return _coded(table, self.classes_)

    def _attributes_of(self, params: ExpertsParams, table: Table) -> Mapping[str, Any]:
        attributes = dict(super()._attributes_of(params, table))
        raw = params.raw(attributes["_density_"].design)
        return attributes | {
            "intercept_": raw.coef[..., 0],
            "coef_": raw.coef[..., 1:],
        }

    # ----------------------------------------------------------------- predictions

    def predict(self, X: Any) -> Any:
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts; chunk sizes may be unknown.

        Returns
        -------
        array of shape (n_samples,)
            A Dask array if X is lazy, a DataArray if it is labelled.
        """
        table = Table.of(self, X)
        named = _Named(self._density_, self.classes_)
        return table.wrap(table.map(named, self.classes_.dtype), "class")

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        table = Table.of(self, X)
        values = table.map(self._density_.mean, table.dtype, len(self.classes_))
        return table.wrap(values, "probability", "class")

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return np.log(self.predict_proba(X))

    def expert_predict(self, X: Any) -> Any:
        """Return the probability of each class by every expert.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_components, n_classes)
        """
        return self._by_expert(X, "class")

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return the share of rows whose class is predicted right.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of any kind that `fit` accepts. Lazy data are computed.
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
            An awaitable of it if the current Dask client is asynchronous.
        """
        table = self._joint_table(X, y, sample_weight)
        found = table.without_responses().map(self._density_.classes, np.float64)
        right = (found == table.y).astype(np.float64)
        return formula_of_sums(table, [right], lambda weight, total: total / weight)

    def _as_given(self, y: Array) -> Array:
        return np.asarray(self.classes_[y[:, 0].astype(np.intp)])


class _Named:
    """The most probable class by its name, as a function of rows."""

    def __init__(self, density: Any, classes: Array) -> None:
        self.density, self.classes = density, classes

    def __call__(self, X: Any) -> Array:
        return np.asarray(self.classes[self.density.classes(X)])


def _coded(table: Table, classes: Array) -> Table:
    """Return the table with the numbers of the classes as responses."""
    if table.y.ndim == 2 and table.y.shape[1] != 1:
        raise ValueError(
            f"y must have one class per row, got the shape {table.y.shape}."
        )
    y = table.y if table.y.ndim == 1 else table.y[:, 0]
    if table.lazy:
        return table.replacing(y.map_blocks(_codes, classes, dtype=np.float64))
    return table.replacing(_codes(y, classes))


def _codes(y: Any, classes: Array) -> Array:
    """Return the number of each label; NaN for one that is not a class."""
    y = np.asarray(y)
    codes = np.searchsorted(classes, y)
    known = classes[np.minimum(codes, len(classes) - 1)] == y
    if not known.all():
        strange = y[~known].tolist()[0]
        raise ValueError(
            f"y has the class {strange!r}, which the fit did not see; leave out its "
            "rows, or fit again."
        )
    return codes.astype(np.float64)
