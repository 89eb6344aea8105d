"""The door for any model: `fit_em`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np

from .acceleration import Acceleration, named_acceleration
from .drivers.managed import Progress
from .drivers.peer import Stage, fit_peers
from .drivers.whole import CHECKPOINT_SECONDS, Fit
from .model import Model
from .peers.source import as_source
from .result import EMResult
from .schedules import Schedule, Synchronous, named_schedule
from .schedules.base import check_integer
from .sharding import Data, array_of_frame, as_data
from .sparse_model import SparseModel
from .statistics import Statistics
from .stopping import Stopping
from .transports import Transport, named_transport

__all__ = ["check_strategy", "fit_em"]

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)


def fit_em(
    model: Model[P, S] | SparseModel,
    X: Any,
    *,
    y: Any = None,
    sample_weight: Any = None,
    dim: Any = None,
    schedule: Schedule | str = "auto",
    transport: Transport | str = "auto",
    shards: int | str = "auto",
    hand_out: bool = True,
    acceleration: Acceleration | str | None = "auto",
    tol: float = 1e-3,
    step_tol: float | None = None,
    max_iter: int = 100,
    deadline: float | None = None,
    n_init: int = 1,
    start: P | None = None,
    checkpoint: Any = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    resume: Any = None,
    random_state: Any = None,
    verbose: int = 0,
    verbose_interval: int = 10,
    callback: Callable[[Progress[P]], bool | None] | None = None,
    strategy: str = "em",
    n_polish: int | None = None,
    topology: Any = "auto",
) -> EMResult[Any] | Awaitable[EMResult[Any]]:
    r"""Fit a model by expectation-maximisation.

    EM climbs the bound

    .. math:: F(q, \theta) = \mathrm E_q[\log p(x, z \mid \theta)] + H(q)
              \le \log p(x \mid \theta)

    by turns in q, shard by shard, and in the parameters θ (Dempster, Laird and Rubin,
    1977; Neal and Hinton, 1998). F never falls, whatever the schedule.

    Parameters
    ----------
    model : Model or SparseModel
    X : array of shape (n_rows, n_features)
        NumPy or Dask array (lazy or persisted; unknown chunk sizes are refused),
        DataFrame of numbers, or `xarray.DataArray`. For a `SparseModel`: whatever its
        blocks are made of, as anything that can be sliced, a Dask collection, or a
        `dask_em.peers.source.Source`.
    y : array of shape (n_rows, ...), optional
        Further columns that the model wants to see beside X.
    sample_weight : array of shape (n_rows,), optional
        A weight of 2 is the same as a row that occurs twice.
    dim : str or sequence of str, optional
        Sample dimensions of a labelled `X`; the first one by default.
    schedule : Schedule or str, default="auto"
        ``"synchronous"``, ``"fraction_barrier"``, ``"bounded_staleness"``,
        ``"extra_updates"`` or an object from `dask_em.schedules`. The default is
        synchronous on threads and a bounded staleness on a cluster.
    transport : Transport or str, default="auto"
        ``"local"``, ``"futures"``, ``"simulated"`` or an object from
        `dask_em.transports`. The default is Dask where there is a client, else
        threads.
    shards : int or "auto", default="auto"
        Shards to cut the data into.
    hand_out : bool, default=True
        Whether shards may move from slow to fast workers.
    acceleration : Acceleration or str or None, default="auto"
        ``"anderson"``, ``"squarem"`` or an object from `dask_em.acceleration`, for
        models that define `Model.pack`, under synchronous schedules; a jump is taken
        back where the likelihood falls. The default is the model's own choice.
    tol : float, default=1e-3
        Gain of an effective pass per unit of weight below which the fit has
        converged.
    step_tol : float, optional
        For models that define `Model.pack`: the fit has converged only when, besides,
        an M-step moves no coordinate by more than this.
    max_iter : int, default=100
        Effective passes at most: E-steps divided by shards.
    deadline : float, optional
        Seconds after which the fit ends with what it has.
    n_init : int, default=1
        Starts, of which the best is kept.
    start : P, optional
        Parameters to start from, instead of the model's own.
    checkpoint : str or path, optional
        Directory, or URL that fsspec understands, to save the state of the fit in.
    checkpoint_seconds : float, default=30
        Seconds between two saves.
    resume : bool or str or path, optional
        True goes on from `checkpoint` if there is one; a path must hold one.
    random_state : int, numpy.random.RandomState or None, default=None
    verbose : int, default=0
    verbose_interval : int, default=10
        M-steps between two lines of output.
    callback : callable, optional
        Called with a `Progress` after every M-step; returning True ends the fit.
    strategy : {"em", "one_shot", "one_shot+polish"}, default="em"
        For models that define `Model.reduce`: EM on all rows; or EM on the rows of
        each worker (of each shard, where `shards` is a number) and reduction of the
        local fits to one; or that, followed by EM from there.
    n_polish : int, optional
        Passes at most after a reduction. The default is to go on until the fit has
        converged.
    topology : Topology or str, default="auto"
        How statistics of a `SparseModel` travel: ``"owner_sharded"``,
        ``"junction_tree"``, ``"all_pairs"``, ``"map_reduce"``, ``"star"``, ``"tree"``
        or an object from `dask_em.topologies`. The default is what would take the
        least time. Of the other settings, such a model knows `transport`, `shards`,
        `tol`, `max_iter`, `deadline`, `checkpoint`, `resume`, `random_state`,
        `verbose` and `callback`.

    Returns
    -------
    EMResult or awaitable of it
        An awaitable if the current Dask client is asynchronous.

    Raises
    ------
    ValueError, TypeError
        For input that cannot be fitted, in one sentence that names the remedy.
    TimeoutError
        If the deadline passes before there are any parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import fit_em
    >>> from dask_em.models.gaussian_mixture import GaussianMixtureModel
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> result = fit_em(GaussianMixtureModel(2), X, random_state=0)
    >>> result.status
    'converged'
    """
    if isinstance(model, SparseModel):
        unknown = {
            "y": y is None,
            "sample_weight": sample_weight is None,
            "dim": dim is None,
            "schedule": schedule in ("auto", "synchronous"),
            "acceleration": acceleration in ("auto", None),
            "step_tol": step_tol is None,
            "n_init": n_init == 1,
            "start": start is None,
            "strategy": strategy == "em",
            "n_polish": n_polish is None,
        }
        for name, left_out in unknown.items():
            if not left_out:
                raise ValueError(
                    f"{name} is not for models whose M-step is distributed; leave it "
                    f"out for {type(model).__name__}."
                )
        return fit_peers(
            [Stage(model, max_iter, tol)],
            as_source(X),
            topology=topology,
            transport=transport,
            shards=shards,
            deadline=deadline,
            seed=_seed(random_state),
            verbose=verbose,
            callback=callback,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            resume=resume,
        )
    if topology not in ("auto", "star"):
        raise ValueError(
            f"topology={topology!r} is for models whose M-step is distributed, see "
            f"dask_em.SparseModel; leave it out for {type(model).__name__}."
        )
    if not isinstance(model, Model):
        name = getattr(model, "__name__", type(model).__name__)
        call = f"; call it: {name}(...)" if isinstance(model, type) else ""
        raise TypeError(
            "model must be an instance of a subclass of dask_em.Model, got "
            f"{name}{call}."
        )
    if shards != "auto":
        if isinstance(shards, str):
            raise TypeError(f"shards must be 'auto' or an integer, got {shards!r}.")
        check_integer("shards", shards, 1)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}.")
    check_integer("n_init", n_init, 1)
    stopping = Stopping(tol, max_iter, deadline, step_tol)
    named_acceleration(acceleration, None)
    named_schedule(schedule, auto=Synchronous())
    check_strategy(model, strategy, n_polish)
    channel = named_transport(transport)
    fit = Fit(
        model=model,
        data=(
            X if isinstance(X, Data) else as_data(*_arrays(X, y, sample_weight, dim))
        ),
        transport=channel,
        schedule=schedule,
        shards=shards,
        hand_out=hand_out,
        stopping=stopping,
        n_init=n_init,
        start=start,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        seed=_seed(random_state),
        verbose=verbose,
        verbose_interval=verbose_interval,
        callback=callback,
        acceleration=acceleration,
        strategy=strategy,
        n_polish=n_polish,
    )
    return channel.drive(fit.run, fit.control.interrupt)


def check_strategy(model: Model[Any, Any], strategy: Any, n_polish: Any) -> None:
    """Raise for a strategy that there is not, or not for this model."""
    if strategy not in ("em", "one_shot", "one_shot+polish"):
        raise ValueError(
            f"strategy must be 'em', 'one_shot' or 'one_shot+polish', got {strategy!r}."
        )
    if strategy != "em" and not model.reduces:
        raise ValueError(
            f"strategy={strategy!r} needs a reduction of local fits, which "
            f"{type(model).__name__} does not define; use strategy='em'."
        )
    if n_polish is not None:
        check_integer("n_polish", n_polish, 1)


def _arrays(X: Any, y: Any, sample_weight: Any, dim: Any) -> tuple[Any, Any, Any]:
    """Take labels and frames off."""
    from . import labels

    if labels.is_labelled(X):
        X, names = labels.unwrap(X, dim)
        if labels.is_labelled(sample_weight):
            sample_weight = names.flatten(sample_weight)
    elif dim is not None:
        raise ValueError(
            "dim= names the sample dimensions of an xarray.DataArray; leave it out "
            f"for a {type(X).__name__}."
        )
    return _plain(X), _plain(y), _plain(sample_weight)


def _plain(array: Any) -> Any:
    if hasattr(array, "to_dask_array"):
        return array_of_frame(array)
    if hasattr(array, "to_numpy"):
        return array.to_numpy()
    return getattr(array, "data", array) if hasattr(array, "dims") else array


def _seed(random_state: Any) -> int:
    from sklearn.utils import check_random_state

    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
