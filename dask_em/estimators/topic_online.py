"""Topics that are fitted to one batch of documents after the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..models.topics.count import Topics
from ..models.topics.online import Stepwise
from .fitted_topics import Array, FittedTopics
from .topic_documents import UPDATES
from .topic_input import batches_of, read_corpus
from .topic_settings import check_online, check_settings, count_model, draw_seed

__all__ = ["has_partial_fit", "partly_fitted"]

_WHOM = "LatentDirichletAllocation.partial_fit"


def has_partial_fit(lda: Any) -> bool:
    """Whether there is a `partial_fit` for the estimator's inference."""
    if lda.inference == "map":
        return True
    raise AttributeError(
        f"partial_fit is for inference='map', not {lda.inference!r}; use fit."
    )


def partly_fitted(lda: Any, X: Any) -> dict[str, Any]:
    """Return fitted attributes after some more batches.

    Parameters
    ----------
    lda : LatentDirichletAllocation
        Is not changed.
    X : object
        See `read_corpus`.
    """
    check_settings(lda)
    check_online(lda)
    known = hasattr(lda, "_topics")
    if known and lda._variational:
        raise ValueError(
            "topics were fitted by variational inference, and partial_fit is for "
            "inference='map'; fit them anew."
        )
    corpus, columns, _ = read_corpus(lda, X, reset=not known, whom=_WHOM)
    model = count_model(lda)
    prior, b = np.asarray(model.prior), float(model.b)
    if known:
        if lda._n_features_out != model.n_topics:
            raise ValueError(
                f"{lda._n_features_out} topics were fitted, and n_components is "
                f"{lda.n_components} now; fit them anew."
            )
        prior, b = lda._priors
        model = dataclasses.replace(model, a=tuple(prior.tolist()), b=b)
    steps = Stepwise(
        model,
        float(lda.total_samples),
        float(lda.learning_decay),
        float(lda.learning_offset),
        float(lda.mean_change_tol),
        max(UPDATES, int(lda.max_doc_update_iter)),
    )
    counts: Array | None = lda._topics.rows - b if known else None
    t = before = getattr(lda, "n_batch_iter_", None)
    for batch in batches_of(corpus, _WHOM):
        tokens = float(batch.data.sum(dtype=np.float64))
        if not tokens:
            continue
        if counts is None:
            counts, t = steps.begin(batch, np.random.default_rng(draw_seed(lda))), 0
        elif t is None:  # after a fit to so many documents
            total = counts.sum()
            t = round(total / tokens)
            counts *= steps.n_docs / batch.shape[0] * tokens / total
        t += 1
        counts = steps.step(counts, batch, t)
    if counts is None:
        raise ValueError(
            "None of the documents has a word; check how they were counted."
        )
    if t == before:  # nothing to learn from
        return {}
    topics = Topics(counts, counts.sum(axis=0), prior, b)
    alpha = 1 + prior
    prior_of = lda.doc_topic_prior_ if known else lda.doc_topic_prior
    found = {
        "n_batch_iter_": t,
        "doc_topic_prior_": alpha if np.ndim(prior_of) else float(alpha[0]),
        "topic_word_prior_": 1 + b,
        "_priors": (prior, b),
        "_topics": FittedTopics(topics, counts.shape[0], b, b),
        "_variational": False,
    }
    return found if known else {**columns, **found}
