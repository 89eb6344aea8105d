"""What estimators of word alignments share."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..alignment.alignments import Alignments
from ..alignment.bitext import BitextSummary
from ..alignment.lexicon import Lexicon
from ..alignment.sources import BagSource, as_bitext
from ..drivers.peer import Stage
from ..models.alignment.base import AlignmentModel
from ..models.alignment.prepared import PreparedBitext
from ..peers.source import Loader
from ..peers.table import DistributedTable
from ..result import EMResult
from ..schedules.base import check_integer
from ..stopping import Stopping
from .peer import PeerEstimator

__all__ = ["Aligner", "check_number"]

#: Pairs that are aligned at a time.
_PAIRS = 20_000


class Aligner(PeerEstimator):
    """Base of word aligners: everything but the model."""

    reverse: bool
    max_iter: int
    tol: float

    @abstractmethod
    def _model(self) -> AlignmentModel:
        """Return the model with this estimator's settings."""

    def _stages(self) -> Sequence[Stage]:
        """Return the models to fit, one after the other."""
        return [Stage(self._model(), self.max_iter, self.tol)]

    def fit(self, bitext: Any, target: Any = None) -> Self | Awaitable[Self]:
        """Fit the model to pairs of sentences.

        Parameters
        ----------
        bitext : iterable of pairs, tuple of two paths, Dask bag or DataFrame
            Pairs (source, target) of sentences, each a string, split at whitespace, or
            a list of tokens; or two UTF-8 text files, possibly compressed by gzip, with
            as many lines, which the workers must find under the same path; or a Dask
            bag of pairs, or a pandas or Dask DataFrame with two columns. With
            `target`: the source side alone.
        target : path or sequence of sentences, optional
            The target side.

        Returns
        -------
        self
            Or an awaitable of it if the current Dask client is asynchronous.

        Raises
        ------
        ValueError
            If the sides have different numbers of sentences, or no pair has words on
            both sides.
        FileNotFoundError
            If a file is missing.
        TypeError
            If this is no bitext.
        """
        settings = self.get_params(deep=False)
        for name in ("tol", "alpha", "null_probability"):
            if name in settings:
                optional = name == "null_probability"
                check_number(name, settings[name], optional=optional)
        if not isinstance(self.reverse, bool | np.bool_):
            raise TypeError(f"reverse must be True or False, got {self.reverse!r}.")
        stages = self._stages()
        for stage in stages:  # before iterators of a bitext are used up
            Stopping(stage.tol, stage.max_iter, settings["deadline"])
        return self._fit_stages(stages, as_bitext(bitext, target), self._attributes_of)

    def _attributes_of(self, result: EMResult[Any]) -> Mapping[str, Any]:
        """Return fitted attributes beyond those that all have."""
        summary: BitextSummary = result.summary
        model = self._model()
        translated, translations = (
            summary.source_vocabulary,
            summary.target_vocabulary,
        )
        both = (translated, translations)
        trace = result.trace
        return {
            "source_vocabulary_": both[bool(model.reverse)].words,
            "target_vocabulary_": both[not model.reverse].words,
            "translation_table_": Lexicon(
                result.params,
                translated,
                translations,
                model.alpha,
                null=getattr(model, "null_probability", None) != 0,
            ),
            "log_likelihood_": result.log_likelihood,
            "log_likelihoods_": [
                *trace.lower_bound_before[:1].tolist(),
                *trace.lower_bound.tolist(),
            ]
            or [result.lower_bound],
            "_fitted_model": model,
            "_summary": summary,
        }

    # ------------------------------------------------------------------ predictions

    def align(self, bitext: Any, target: Any = None) -> Any:
        """Return the most probable links between the words of sentences.

        Parameters of a model that are still on a cluster are brought to this process
        first.

        Parameters
        ----------
        bitext, target
            As for `fit`; the sentences may be others than those.

        Returns
        -------
        Alignments
            For each pair, links (i, j) of positions in source and target, from 0. For
            a Dask bag or DataFrame, a Dask bag of lists of links, not yet computed.
        """
        check_is_fitted(self)
        source = as_bitext(bitext, target)
        if isinstance(source, BagSource):
            return self._align_lazily(source)
        return Alignments.concatenate(
            self._aligned(self.result_.params, block) for block in _blocks(source)
        )

    def _aligned(self, table: DistributedTable, block: Any) -> Alignments:
        model: AlignmentModel = self._fitted_model
        prepared = model.prepare([block], self._summary)
        return self._decode(table.take(model.support(prepared)), prepared)

    def _decode(self, params: Any, prepared: PreparedBitext) -> Alignments:
        """Return links, given parameters for the support of the data."""
        return self._fitted_model.align(params, prepared)

    def _align_lazily(self, source: BagSource) -> Any:
        import dask.bag
        from dask import delayed

        self.result_.params.gather()  # once, not in every task
        shared = delayed(copy.copy(self))  # which another fit does not change
        parts = [delayed(_links)(shared, block) for block in source.blocks()]
        return dask.bag.from_delayed(parts)

    def score(self, bitext: Any, target: Any = None) -> float:
        """Return the mean log-likelihood of a target word.

        It is computed in this process, and parameters are brought here first.

        Parameters
        ----------
        bitext, target
            As for `fit`.

        Returns
        -------
        log_likelihood : float
            Per target word (source word with `reverse`) of the pairs that have words
            on both sides; exp of minus it is the perplexity. Words that training has
            not seen have a probability of 1e-12.
        """
        check_is_fitted(self)
        source = as_bitext(bitext, target)
        if isinstance(source, BagSource):
            import dask

            blocks = iter(dask.compute(*source.blocks()))  # type: ignore[attr-defined]
        else:
            blocks = _blocks(source)
        total, words = 0.0, 0
        model, table = self._fitted_model, self.result_.params
        for block in blocks:
            prepared = model.prepare([block], self._summary)
            params = table.take(model.support(prepared))
            total += float(np.sum(model.log_likelihood(params, prepared)))
            words += model.survey([block]).n_tokens
        if not words:
            raise ValueError("no pair has words on both sides: there is no score")
        return total / words

    def top_translations(
        self, word: str | None, n: int = 10
    ) -> list[tuple[str, float]]:
        """Return the most probable translations of a word, best first.

        The whole table of words is brought to this process first.

        Parameters
        ----------
        word : str or None
            Of the source (with `reverse`, of the target); None is the empty word.
        n : int, default=10

        Raises
        ------
        KeyError
            If the word was not in the data.
        """
        check_is_fitted(self)
        check_integer("n", n, 1)
        return self.translation_table_.top(word, n)


def check_number(name: str, value: object, *, optional: bool = False) -> None:
    """Raise `TypeError` or `ValueError` unless this is a finite number, or None."""
    if optional and value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}.")


def _blocks(source: Any) -> Iterator[Any]:
    """Yield the blocks of a source whose length is known, of moderate size."""
    n_parts = max(1, -(-source.n_rows // _PAIRS))
    for part in source.cut(n_parts):
        for chunk in part:
            yield chunk.load() if isinstance(chunk, Loader) else chunk


def _links(aligner: Aligner, block: Any) -> list[list[tuple[int, int]]]:
    return list(aligner._aligned(aligner.result_.params, block))
