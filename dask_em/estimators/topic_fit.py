"""Fits of topic models in count form: which engine, and what it is given."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..drivers.peer import Stage, fit_peers
from ..fit import fit_em
from ..models.topics.count import CountTopicModel, Topics
from ..result import EMResult
from ..sharding import Data, MemoryData
from ..topics.sources import Corpus, DaskSource
from ..topologies import Rotation
from ..transports import Local, named_transport
from .clients import asynchronous_client
from .topic_input import blocks_of, is_lazy

__all__ = ["Engine", "engine_for"]

#: Numbers in topics above which no node of a cluster is to have all of them.
_LARGE = 1e8
#: Fits at most with priors that are learned, passes of those before the last, and the
#: relative change of priors that is none.
_ROUNDS, _ROUND_PASSES, _SAME = 30, 10, 0.01
#: By how much steps of priors are made longer at most.
_LONGEST = 8.0

#: Settings of the estimator that are those of `fit_em` or of `fit_peers`.
_SHARED = ("transport", "shards", "deadline", "checkpoint", "resume", "verbose")


@dataclasses.dataclass(frozen=True)
class Engine:
    """How a model is fitted.

    Parameters
    ----------
    settings : mapping
        The estimator's.
    topology : str or Topology or None
        None has a manager.
    """

    settings: Mapping[str, Any]
    topology: Any = None

    def fit(
        self, model: Any, corpus: Corpus, seed: int
    ) -> Generator[Any, Any, tuple[EMResult[Any], Any]]:
        """Fit a model; yields outcomes, and returns the result and the last model."""
        given = self.settings
        shared = {name: given[name] for name in _SHARED}
        if self.topology is not None:
            result = yield fit_peers(
                [Stage(model, given["max_iter"], given["tol"])],
                corpus,
                topology=self.topology,
                gather=given["gather"],
                seed=seed,
                **shared,
            )
            return result, model
        stochastic = given["inference"] == "stochastic"
        shared |= {
            "schedule": given["schedule"],
            "hand_out": bool(given["hand_out"]),
            "max_iter": given["max_iter"],
            # what is drawn goes up and down, and says little of how far there is to go
            "tol": 0.0 if stochastic else given["tol"],
            "random_state": seed,
        }
        began = time.monotonic()
        data = _data(corpus, given["transport"])
        result = yield fit_em(model, data, **shared)
        if not model.learn_priors:
            return result, model
        shared |= {"checkpoint": None, "resume": None}
        climb = _PriorSteps()
        for left_rounds in reversed(range(_ROUNDS)):
            if result.status in ("deadline", "interrupted"):
                break
            if shared["deadline"] is not None:
                left = given["deadline"] - (time.monotonic() - began)
                if left <= 0:
                    break
                shared["deadline"] = left
            model, same = climb.advance(model, result.params)
            last = same or left_rounds == 0
            passes = given["max_iter"] if last else _ROUND_PASSES
            shared["max_iter"] = min(passes, given["max_iter"])
            later = yield fit_em(model, data, start=result.params, **shared)
            result = result.followed_by(later)
            if last:
                break
        return result, model


class _PriorSteps:
    """Steps from priors to better ones, longer as they keep their direction.

    What is left of a step in the next one tells how much longer it had better been
    (Aitken).
    """

    def __init__(self) -> None:
        self._step: Any = None
        self._factor = 1.0

    def advance(
        self, model: CountTopicModel, params: Topics
    ) -> tuple[CountTopicModel, bool]:
        """Return the model with other priors, and whether they are much the same."""
        now = np.append(model.prior, model.b)
        step = np.log(np.append(params.suggested_a, params.suggested_b) / now)
        if self._step is not None and self._step.any():
            kept = (step @ self._step) / (self._step @ self._step)
            factor = self._factor / max(1 - kept, 1 / _LONGEST)
            self._factor = float(np.clip(factor, 1.0, _LONGEST))
        self._step = step
        *a, b = now * np.exp(self._factor * step)
        better = dataclasses.replace(model, a=tuple(map(float, a)), b=float(b))
        return better, bool(self._factor * np.abs(step).max() < _SAME)


def _data(corpus: Corpus, transport: Any) -> Data:
    """Return the documents as rows; files that threads read are read at once."""
    if is_lazy(corpus) or not isinstance(named_transport(transport), Local):
        unknown = isinstance(corpus, DaskSource) and corpus.n_rows is None
        if unknown and asynchronous_client() is not None:
            raise TypeError(
                "chunks of unknown size are counted at once, which an asynchronous "
                "client cannot wait for; call X.compute_chunk_sizes() before."
            )
        return corpus.data()
    blocks = list(blocks_of(corpus, "LatentDirichletAllocation.fit"))
    if not blocks:
        raise ValueError("There are no documents to fit topics to; check the corpus.")
    return MemoryData(blocks[0] if len(blocks) == 1 else sp.vstack(blocks, "csr"))


def engine_for(settings: Mapping[str, Any], corpus: Corpus) -> Engine:
    """Return how to fit topics in count form.

    Parameters
    ----------
    settings : mapping
        The estimator's.
    corpus : Corpus
    """
    topology, transport = settings["topology"], settings["transport"]
    actors = transport == "actors" or type(transport).__name__ == "Actors"
    if not isinstance(topology, str) or topology not in ("auto", "star") or actors:
        return Engine(settings, topology)
    large = settings["n_components"] * corpus.n_words > _LARGE
    plain = (
        topology == settings["schedule"] == "auto"
        and settings["inference"] == "map"
        and not settings["learn_priors"]
    )
    if large and plain:
        channel = named_transport(transport)
        if not isinstance(channel, Local) and channel.n_workers_expected() >= 2:
            return Engine(settings, Rotation())
    return Engine(settings)
