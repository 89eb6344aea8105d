"""Settings of topic models, checked, and models made of them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..models.topics.count import CountTopicModel
from ..models.topics.count_peers import PeerCountTopicModel
from ..models.topics.rotating import RotatingTopicModel
from ..models.topics.stochastic import StochasticTopicModel
from ..models.topics.variational import VariationalLDA
from ..topologies import Rotation

__all__ = [
    "INFERENCES",
    "check_online",
    "check_settings",
    "count_model",
    "draw_seed",
    "is_integer",
    "peer_model",
    "variational_model",
]

INFERENCES = ("map", "variational", "stochastic")

#: Prior counts that None stands for, but for variational inference.
_PRIOR = 0.1


def check_settings(lda: Any) -> None:
    """Raise `ValueError` for settings that make no sense, or not together."""
    for name in ("n_components", "max_iter", "max_doc_update_iter"):
        value = getattr(lda, name)
        if not is_integer(value) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    for name in ("tol", "mean_change_tol"):
        value = getattr(lda, name)
        if not _is_real(value) or not value >= 0:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}.")
    if lda.inference not in INFERENCES:
        raise ValueError(
            "inference must be 'map', 'variational' or 'stochastic', got "
            f"{lda.inference!r}."
        )
    if lda.wire not in (None, "float32"):
        raise ValueError(f"wire must be 'float32' or None, got {lda.wire!r}.")
    for name in ("hand_out", "learn_priors"):
        value = getattr(lda, name)
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}.")
    _check_prior(lda, "topic_word_prior", lda.topic_word_prior, ())
    _check_prior(lda, "doc_topic_prior", lda.doc_topic_prior, (lda.n_components,))
    if lda.learn_priors and 1 in (lda.topic_word_prior, np.min(lda.doc_topic_prior)):
        raise ValueError(
            "learn_priors=True begins at priors above 1; leave doc_topic_prior and "
            "topic_word_prior out, or make them larger."
        )
    if lda.inference == "variational":
        refused = {
            "schedule": lda.schedule in ("auto", "synchronous"),
            "wire": lda.wire is None,
            "learn_priors": not lda.learn_priors,
        }
        for name, left_out in refused.items():
            if not left_out:
                raise ValueError(
                    f"{name}={getattr(lda, name)!r} is for inference='map'; leave it "
                    "out with inference='variational'."
                )


def check_online(lda: Any) -> None:
    """Raise `ValueError` for settings of `partial_fit` that make no sense."""
    kappa, tau = lda.learning_decay, lda.learning_offset
    if not _is_real(kappa) or not 0.5 < kappa <= 1:
        raise ValueError(
            f"learning_decay must be above 0.5 and at most 1, got {kappa!r}."
        )
    if not _is_real(tau) or not 0 <= tau < np.inf:
        raise ValueError(
            f"learning_offset must be a number of at least 0, got {tau!r}."
        )
    n = lda.total_samples
    if not _is_real(n) or not 0 < n < np.inf:
        raise ValueError(f"total_samples must be a number above 0, got {n!r}.")


def _check_prior(lda: Any, name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise unless a prior is None, or one or several numbers that can be one."""
    if value is None:
        return
    least = 1e-12 if lda.inference == "variational" else 1.0
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    right = found.shape in ((), shape) and np.isfinite(found).all()
    if isinstance(value, bool) or not right or (found <= 0).any():
        several = f", or one for each of the {shape[0]} components" if shape else ""
        bound = "above 0" if least < 1 else "of at least 1"
        raise ValueError(f"{name} must be a number {bound}{several}, got {value!r}.")
    if (found < least).any():
        raise ValueError(
            f"{name}={value!r} is below 1, where inference={lda.inference!r} has no "
            "optimum: it is the prior counts plus 1; use inference='variational' for "
            "such priors."
        )
    if lda.inference == "stochastic" and (found <= 1).any():
        raise ValueError(
            f"{name} must be above 1 for inference='stochastic', got {value!r}; use "
            "inference='map' for maximum likelihood."
        )


def variational_model(lda: Any) -> VariationalLDA:
    """Return the model of variational inference."""
    alpha, eta = lda.doc_topic_prior, lda.topic_word_prior
    if alpha is not None:
        alpha = np.asarray(alpha, dtype=np.float64)
        alpha = tuple(alpha.tolist()) if alpha.ndim else float(alpha)
    return VariationalLDA(
        n_topics=int(lda.n_components),
        doc_topic_prior=alpha,
        topic_word_prior=None if eta is None else float(eta),
        mean_change_tol=float(lda.mean_change_tol),
        max_doc_update_iter=int(lda.max_doc_update_iter),
    )


def count_model(lda: Any, seed: int = 0) -> CountTopicModel:
    """Return the model of a fit with a manager, in count form."""
    settings: dict[str, Any] = {
        **_priors(lda),
        "learn_priors": bool(lda.learn_priors),
        "wire32": lda.wire == "float32",
    }
    if lda.inference == "stochastic":
        # who begins at random cannot know the seed with which to resume
        drawn = 0 if lda.random_state is None else seed
        return StochasticTopicModel(**settings, seed=drawn)
    return CountTopicModel(**settings)


def peer_model(lda: Any, topology: Any) -> Any:
    """Return the model of a fit without a manager, in count form."""
    if lda.inference == "stochastic":
        raise ValueError(
            "inference='stochastic' has a manager; leave topology out, or use "
            "inference='map'."
        )
    if lda.schedule not in ("auto", "synchronous"):
        raise ValueError(
            f"schedule={lda.schedule!r} is for fits with a manager, and topology="
            f"{topology!r} has none; leave one of them out."
        )
    if lda.learn_priors:
        raise ValueError(
            "learn_priors=True is for fits with a manager, and topology="
            f"{topology!r} has none; leave one of them out."
        )
    if topology == "rotation" or isinstance(topology, Rotation):
        return RotatingTopicModel(**_priors(lda), wire32=lda.wire == "float32")
    if lda.wire is not None:
        raise ValueError(
            f"wire={lda.wire!r} is for fits with a manager, and for "
            "topology='rotation'; leave it out."
        )
    return PeerCountTopicModel(**_priors(lda))


def _priors(lda: Any) -> dict[str, Any]:
    a: Any = lda.doc_topic_prior
    if a is None:
        a = _PRIOR
    else:
        counts = np.asarray(a, dtype=np.float64) - 1.0
        a = tuple(counts.tolist()) if counts.ndim else float(counts)
    eta = lda.topic_word_prior
    b = _PRIOR if eta is None else float(eta) - 1.0
    return {"n_topics": int(lda.n_components), "a": a, "b": b}


def draw_seed(lda: Any) -> int:
    """Draw a seed as `random_state` says."""
    state = check_random_state(lda.random_state)
    return int(state.randint(np.iinfo(np.int32).max))


def is_integer(value: Any) -> bool:
    """Whether this is a whole number and not a truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
