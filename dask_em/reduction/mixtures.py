"""Fitted mixtures in, one mixture out, no rows: for data that may not leave a site."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..schedules.base import check_integer
from .base import LocalFit, Reduction

__all__ = ["reduce_mixture"]

Array = NDArray[np.float64]


def reduce_mixture(
    models: Sequence[Any],
    weights: Any = None,
    n_components: int | None = None,
    *,
    support: Any = None,
    n_support: int = 2000,
    gate: str = "matched",
    robust: bool = False,
    random_state: Any = None,
) -> Any:
    r"""Make one mixture of several that were fitted to different rows.

    The pooled mixture of all components is approximated by one of K components, the
    nearest to it by optimal transport. For Gaussian mixtures that is

    .. math:: \min_g \sum_l w_l \min_k \mathrm{KL}(\mathcal N_l \Vert \mathcal N_k)

    (Zhang and Chen, 2022). For mixtures of experts the divergences are averaged over
    rows of X (Chamroukhi and Pham, 2023): over `support`, or over rows drawn from
    normal distributions with the moments that each fit has kept of its own.

    Parameters
    ----------
    models : sequence of fitted estimators
        `GaussianMixture` of this package or of scikit-learn,
        `MixtureOfExpertsRegressor` or `MixtureOfExpertsClassifier`, all of one kind
        and of the same columns. They may have different numbers of components.
    weights : array-like of shape (n_models,), default=None
        Numbers of rows that they stand for. By default those that they were fitted
        to, where all say so, else equal ones.
    n_components : int, default=None
        Components of the result. The default is the number that most models have.
    support : array-like of shape (n_rows, n_features), default=None
        Rows at which experts are compared. Not used for Gaussian mixtures.
    n_support : int, default=2000
        Rows drawn of them, or made up.
    gate : {"matched", "transport"}, default="matched"
        How a mixture of experts gets its gate, see `MixtureOfExpertsRegressor`.
    robust : bool, default=False
        Whether models far from the others are left out.
    random_state : int, RandomState instance or None, default=None
        Of the support sample.

    Returns
    -------
    estimator
        Of the kind of the models, fitted. Its attribute ``reduction_`` holds the
        objective of every step, which never rises, the models that were kept, and
        which component went where.

    Raises
    ------
    ValueError, TypeError
        If the models cannot be put together.

    References
    ----------
    Zhang, Q., Chen, J. (2022). Distributed learning of finite Gaussian mixtures.
    Journal of Machine Learning Research 23 (99), 1-40.

    Chamroukhi, F., Pham, N. T. (2023). Distributed learning of mixtures of experts.
    arXiv:2312.09877.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import GaussianMixture, reduce_mixture
    >>> rng = np.random.default_rng(0)
    >>> sites = [
    ...     rng.normal(size=(500, 1)) + 8 * rng.integers(2, size=(500, 1))
    ...     for _ in range(4)
    ... ]
    >>> models = [GaussianMixture(2, random_state=0).fit(X) for X in sites]
    >>> one = reduce_mixture(models)
    >>> bool(np.allclose(np.sort(one.means_.ravel()), [0, 8], atol=0.1))
    True
    """
    if not isinstance(models, Iterable):
        raise TypeError(
            f"models must be a list of fitted estimators, got a "
            f"{type(models).__name__}."
        )
    models = list(models)
    if not models:
        raise ValueError("there is no model to reduce; give at least one.")
    for model in models:
        check_is_fitted(model)
    kinds = {type(model) for model in models}
    if len(kinds) > 1:
        names = ", ".join(
            sorted(f"{k.__module__.split('.')[0]}.{k.__name__}" for k in kinds)
        )
        raise TypeError(f"models must be of one kind, got {names}.")
    if not any(hasattr(models[0], a) for a in ("precisions_cholesky_", "_density_")):
        raise TypeError(
            "models must be Gaussian mixtures or mixtures of experts, got "
            f"{type(models[0]).__name__}."
        )
    check_integer("n_support", n_support, 1)
    lambdas = _weights(models, weights)
    k = _n_components(models, n_components)
    if gate not in ("matched", "transport"):
        raise ValueError(f"gate must be 'matched' or 'transport', got {gate!r}.")
    settings = Reduction(gate, int(n_support), bool(robust))  # type: ignore[arg-type]
    _check_columns(models)
    if hasattr(models[0], "precisions_cholesky_"):
        return _gaussians(models, lambdas, k, settings)
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    rng = np.random.default_rng(seed)
    return _experts(models, lambdas, k, settings, support, rng)


def _weights(models: Sequence[Any], weights: Any) -> Array:
    if weights is None:
        known = [
            getattr(model, "result_", getattr(model, "reduction_", None))
            for model in models
        ]
        if all(result is not None for result in known):
            return np.array([result.weight for result in known])  # type: ignore[union-attr]
        return np.ones(len(models))
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != (len(models),):
        raise ValueError(
            f"weights must be one number per model, {len(models)} of them, got the "
            f"shape {found.shape}."
        )
    if not np.isfinite(found).all() or (found < 0).any() or not (found > 0).any():
        raise ValueError(
            "weights must be finite, not negative, and not all zero; give the numbers "
            "of rows."
        )
    return found


def _n_components(models: Sequence[Any], n_components: int | None) -> int:
    if n_components is None:
        sizes = [len(model.weights_) for model in models]
        return int(max(sorted(set(sizes)), key=sizes.count))
    if int(n_components) != n_components or n_components < 1:
        raise ValueError(f"n_components must be at least 1, got {n_components!r}.")
    return int(n_components)


def _check_columns(models: Sequence[Any]) -> None:
    widths = {int(model.n_features_in_) for model in models}
    if len(widths) > 1:
        raise ValueError(
            f"models were fitted to different numbers of columns: {sorted(widths)}."
        )
    names = {tuple(getattr(model, "feature_names_in_", ())) for model in models}
    if len(names - {()}) > 1:
        raise ValueError(
            "models were fitted to columns of different names; bring them into one "
            "order before they are fitted."
        )


def _gaussians(
    models: Sequence[Any], weights: Array, k: int, settings: Reduction
) -> Any:
    from ..models.gaussian_density import precisions_of
    from ..models.gaussian_mixture import GaussianMixtureParams
    from .gaussians import reduce_gaussians

    types = {model.covariance_type for model in models}
    if len(types) > 1:
        raise ValueError(
            f"models have different covariance types: {', '.join(sorted(types))}."
        )
    [kind] = types

    def params_of(model: Any) -> GaussianMixtureParams:
        weights, means, covariances, factors = (
            np.asarray(getattr(model, name), dtype=np.float64)
            for name in ("weights_", "means_", "covariances_", "precisions_cholesky_")
        )
        origin = means.mean(axis=0)
        return GaussianMixtureParams(
            weights, means, covariances, factors, means, origin
        )

    fits = [
        LocalFit(params_of(model), float(weight))
        for model, weight in zip(models, weights, strict=True)
    ]
    reduced = reduce_gaussians(fits, k, kind, settings)
    params = reduced.params
    found = clone(models[0]).set_params(n_components=k)
    U = params.precisions_cholesky
    found.__dict__.update(
        weights_=params.weights,
        means_=params.means,
        covariances_=params.covariances,
        precisions_cholesky_=U,
        precisions_=precisions_of(U, kind),
        converged_=True,
        n_iter_=len(reduced.objective),
        lower_bound_=float("nan"),
        lower_bounds_=[],
        reduction_=reduced,
        **_columns_of(models),
    )
    if hasattr(models[0], "_fitted_type"):
        found._fitted_type = kind
    return found


def _columns_of(models: Sequence[Any]) -> dict[str, Any]:
    """Return what the models know of the columns."""
    return {
        name: getattr(model, name)
        for model in reversed(models)
        for name in ("n_features_in_", "feature_names_in_", "_features")
        if hasattr(model, name)
    }


def _experts(
    models: Sequence[Any],
    weights: Array,
    k: int,
    settings: Reduction,
    support: Any,
    rng: np.random.Generator,
) -> Any:
    from ..model import Block
    from ..models.experts.model import MixtureOfExpertsModel
    from ..models.experts.params import Frame
    from .experts import reduce_fits

    densities = [model._density_ for model in models]
    first = densities[0]
    alike = all(
        d.design == first.design
        and d.family == first.family
        and d.n_responses == first.n_responses
        and d.equal_weights == first.equal_weights
        for d in densities
    )
    if alike and first.classifies:
        alike = all(
            np.array_equal(model.classes_, models[0].classes_) for model in models
        )
    if not alike:
        raise ValueError(
            "models must have the same family, gate, columns and responses (classes, "
            "for classifiers)."
        )
    share = weights / weights.sum()
    means = np.stack([d.params.x_mean for d in densities])
    mean = share @ means
    spreads = np.stack([model.feature_covariance_ for model in models])
    gaps = means - mean
    covariance = np.tensordot(share, spreads, 1) + (gaps.T * share) @ gaps
    scale = np.sqrt(np.diagonal(covariance))
    scale = np.where(scale > 0, scale, 1.0)
    y_mean = share @ np.stack([d.params.y_mean for d in densities])
    y_scale = share @ np.stack([d.params.y_scale for d in densities])
    frame = Frame(mean, scale, y_mean, y_scale)
    if support is None:
        counts = rng.multinomial(settings.n_support, share)
        rows = np.concatenate(
            [
                rng.multivariate_normal(m, C, size=n, method="svd")
                for m, C, n in zip(means, spreads, counts, strict=True)
            ]
        )
    else:
        rows = np.asarray(support, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(mean) or not len(rows):
            raise ValueError(
                f"support must be rows of {len(mean)} columns, got the shape "
                f"{rows.shape}."
            )
        if not np.isfinite(rows).all():
            raise ValueError("support contains NaN or infinity; drop those rows.")
    model = MixtureOfExpertsModel(
        k,
        first.family,
        first.design,
        equal_weights=first.equal_weights,
        reg_gate=float(max(m.reg_gate_ for m in models)),
        reduction=settings,
    )
    fits = [
        LocalFit(d.params.moved(d.design, frame), float(weight))
        for d, weight in zip(densities, weights, strict=True)
    ]
    reduced = reduce_fits(model, fits, Block(rows), rng)
    correlation = covariance / scale / scale[:, None]
    params = dataclasses.replace(reduced.params, x_correlation=correlation)
    found = clone(models[0]).set_params(n_components=k)
    found._adopt_reduction(dataclasses.replace(reduced, params=params), models[0])
    found.__dict__.update(_columns_of(models))
    return found
