"""What models of word alignment share: the table of words, and its place in the ids."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...alignment.alignments import Alignments
from ...alignment.bitext import BitextSummary, encode_bitext, survey_bitext
from ...kernels.word_table import (
    dirichlet_penalty,
    dirichlet_rows,
    normalise_rows,
    sum_rows,
)
from ...sparse_model import SparseModel, Start
from .prepared import PreparedBitext, index_bitext

__all__ = ["FLOOR", "AlignmentModel", "Stage", "check_null"]

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

#: Probability of words that were never seen, or never seen in the same pair.
FLOOR = 1e-12
#: What is below it in an E-step with a prior could not be told from 0.
TINY = 1e-60
#: Whose digamma function is still told from infinity.
LEAST_ALPHA = 1e-12


def check_null(probability: float | None) -> None:
    """Raise `ValueError` for what is no probability of NULL; None stands for one."""
    if probability is not None and not 0 <= probability < 1:
        raise ValueError(
            f"null_probability must be at least 0 and below 1, or None, not "
            f"{probability}"
        )


@dataclasses.dataclass(frozen=True)
class AlignmentModel(SparseModel):
    r"""Base of models that explain each target word by a source word, or by NULL.

    All have a table of translation probabilities :math:`t(f \mid e)`. With source
    words numbered from 1, NULL as 0, and target words from 0 to V - 1, the id of
    (e, f) is :math:`e (V + 1) + f`. The id :math:`e (V + 1) + V` is that of the sum
    over f, so that a node can normalise what it has of a row (Wolfe, Haghighi and
    Klein, 2008). Whatever else a model has comes behind the table.

    With a prior, the table's parameters are expected counts n, their sums included,
    and the E-step takes :math:`\exp(\psi(n_{ef} + \alpha) - \psi(n_e + \alpha V))` for
    :math:`t(f \mid e)`. Without, they are probabilities, with 1 for the sums.

    Parameters
    ----------
    reverse : bool, default=False
        Explain the source side by the target side instead.
    alpha : float, default=0.0
        Of a symmetric Dirichlet prior on each source word's translations, among all
        words of the target side, with variational inference (Riley and Gildea, 2012).
        Small values keep rare words from explaining whatever stands next to them; 0 is
        maximum likelihood. Alignments are those of the posterior's mean.

    References
    ----------
    Brown, P. F., Della Pietra, S. A., Della Pietra, V. J., Mercer, R. L. (1993). The
    mathematics of statistical machine translation. Computational Linguistics 19(2),
    263-311.

    Riley, D., Gildea, D. (2012). Improving the IBM alignment models using variational
    Bayes. ACL 2012, 306-310.
    """

    reverse: bool = False
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, not {self.alpha}")
        if 0 < self.alpha < LEAST_ALPHA:
            raise ValueError(
                f"alpha must be 0 or at least {LEAST_ALPHA:g}, not {self.alpha:g}: "
                "what is less cannot be computed with"
            )

    # --------------------------------------------------------------- the data

    def survey(self, blocks: Sequence[Any]) -> BitextSummary:
        """Collect the words and lengths of some pairs."""
        summary = survey_bitext(blocks)
        return summary.reversed() if self.reverse else summary

    def check(self, summary: BitextSummary) -> None:
        """Raise `ValueError` where there is nothing to learn from."""
        if not summary.shapes:
            raise ValueError(
                f"none of the {summary.n_pairs} pairs has words on both sides: there "
                "is nothing to align"
            )

    def prepare(self, blocks: Sequence[Any], summary: BitextSummary) -> PreparedBitext:
        """Number words, merge pairs that are the same, and index all cells.

        Words that are not in the summary are allowed, for alignments of other data.
        """
        sides = summary.source_vocabulary, summary.target_vocabulary
        if self.reverse:
            bitext = encode_bitext(blocks, *sides[::-1]).reversed()
        else:
            bitext = encode_bitext(blocks, *sides)
        return index_bitext(bitext, summary)

    def support(self, prepared: PreparedBitext) -> Ids:
        """Return the ids of the table of words, and those of the rest."""
        return np.concatenate(
            [prepared.ids, prepared.first_other + self._other_ids(prepared)]
        )

    def _other_ids(self, prepared: PreparedBitext) -> Ids:
        """Return the ids behind the table of words, counted from 0."""
        return np.empty(0, dtype=np.int64)

    def _other_start(self, prepared: PreparedBitext) -> Array:
        """Return parameters for `_other_ids`."""
        return np.empty(0)

    def start(
        self,
        prepared: PreparedBitext,
        counted: NDArray[np.bool_],
        summary: BitextSummary,
        seed: int,
    ) -> Start:
        """Give all target words the same probability."""
        words = np.zeros(prepared.n_words)  # the prior
        if not self.alpha:
            words[:] = 1.0 / len(summary.target_types)
            words[prepared.rows[1:] - 1] = 1.0
        params = np.concatenate([words, self._other_start(prepared)])
        return Start(params=params[:, None])

    # ----------------------------------------------------------- E- and M-step

    def e_step(
        self, params: Array, prepared: PreparedBitext, local: Any = None
    ) -> tuple[Array, float, None]:
        """Return expected counts, and the log-likelihood at these parameters."""
        n = prepared.n_words
        others = np.zeros(len(params) - n)
        table = np.zeros((n, 2))
        self._fill(np.ascontiguousarray(params[:n, 0]), prepared, table[:, 0])
        bound = self._count(params[n:, 0], table, others, prepared)
        sum_rows(table[:, 1], prepared.rows)
        return np.concatenate([table[:, 1], others])[:, None], bound, None

    def _fill(self, words: Array, prepared: PreparedBitext, out: Array) -> None:
        """Write what stands for probabilities in the E-step to an array."""
        if self.alpha:
            n_target = len(prepared.summary.target_types)
            dirichlet_rows(words, prepared.rows, self.alpha, n_target, TINY, out)
        else:
            out[:] = words

    def penalty(
        self, params: Array, prepared: PreparedBitext, counted: NDArray[np.bool_]
    ) -> float:
        """Return the negative divergence of the table's posterior from its prior."""
        if not self.alpha:
            return 0.0
        n = prepared.n_words
        return dirichlet_penalty(
            np.ascontiguousarray(params[:n, 0]),
            prepared.rows,
            self.alpha,
            len(prepared.summary.target_types),
            counted[:n],
        )

    @abstractmethod
    def _count(
        self, other: Array, table: Array, counts: Array, prepared: PreparedBitext
    ) -> float:
        """Fill in expected counts of words, ``table[:, 1]``, and of the rest.

        Parameters
        ----------
        other : array of shape (n_others,)
            Parameters behind the table of words.
        table : array of shape (n_words, 2)
            Parameters of words, and a place for their counts; rows' sums are not
            needed.
        counts : array of shape (n_others,)
            Receives the other counts.
        prepared : PreparedBitext

        Returns
        -------
        float
            The log-likelihood.
        """

    def m_step(self, params: Array, stats: Array, prepared: PreparedBitext) -> Array:
        """Return relative frequencies, and what the model makes of the rest."""
        n = prepared.n_words
        out = np.empty_like(params)
        if self.alpha:
            out[:n] = stats[:n]
        else:
            out[:n] = params[:n]  # for rows without counts
            normalise_rows(stats[:n, 0], prepared.rows, out[:n, 0])
        out[n:, 0] = self._estimate(params[n:, 0], stats[n:, 0], prepared)
        return out

    def _estimate(self, other: Array, counts: Array, prepared: PreparedBitext) -> Array:
        """Return parameters for `_other_ids`, given the ones before and counts."""
        return other

    def first_stage(self) -> Stage:
        """Return the model that fits the table of words alone, as IBM Model 1 does.

        It has the same ids and prepared data, and leaves other parameters alone; so
        it can be run for a few iterations before this one.
        """
        return Stage(self.reverse, self.alpha, self)

    # ------------------------------------------------------------ fitted models

    def align(self, params: Array, prepared: PreparedBitext) -> Alignments:
        """Return the most probable links of all pairs, in their order.

        Parameters
        ----------
        params : array of shape (n_ids, 1)
            For the ids of `support`; 0 or NaN where there are none, as for pairs of
            words that training has never seen. Without a prior those have the
            probability `FLOOR`, and so have unknown words, which are thus aligned by
            position if the model knows of positions, and to NULL otherwise.
        prepared : PreparedBitext

        Returns
        -------
        Alignments
            Links (i, j) of source and target positions; the source is that of the
            data even where `reverse` is set. Pairs with an empty side have none.
        """
        theta, other = self._known(params, prepared)
        lengths = np.repeat(prepared.shapes[:, 1], np.diff(prepared.starts))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        best = np.empty(offsets[-1], dtype=np.int32)
        self._best(theta, other, prepared, best)
        linked = best >= 0
        n_links = np.concatenate([[0], np.cumsum(linked)])[offsets]
        position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return self._placed(n_links, best[linked], position[linked], prepared)

    @abstractmethod
    def _best(
        self,
        theta: Array,
        other: Array,
        prepared: PreparedBitext,
        best: NDArray[np.int32],
    ) -> None:
        """Fill in the best source position of each target token, -1 for NULL."""

    @abstractmethod
    def log_likelihood(self, params: Array, prepared: PreparedBitext) -> Array:
        """Return the log-likelihood of each pair, in their order.

        Parameters
        ----------
        params : array of shape (n_ids, 1)
            As for `align`.
        prepared : PreparedBitext

        Returns
        -------
        array of shape (n_pairs,)
            0 for pairs with an empty side.
        """

    def probabilities(self, params: Array, prepared: PreparedBitext) -> Array:
        """Return the translation probabilities of the pairs of words.

        Parameters
        ----------
        params : array of shape (n_ids, 1)
            As for `align`.
        prepared : PreparedBitext

        Returns
        -------
        array of shape (n_words,)
            For ``prepared.ids``. With a prior, the posterior's mean. What stands for
            sums of rows has no meaning.
        """
        return self._known(params, prepared)[0][:-1]

    def _known(self, params: Array, prepared: PreparedBitext) -> tuple[Array, Array]:
        """Return probabilities of words, and one for unknown words; and the rest."""
        n = prepared.n_words
        words = np.nan_to_num(params[:n, 0])
        if self.alpha:
            prior = self.alpha * len(prepared.summary.target_types)
            sums = words[prepared.rows[1:] - 1]
            words += self.alpha
            words /= np.repeat(sums + prior, np.diff(prepared.rows))
        theta = np.full(n + 1, FLOOR)
        np.copyto(theta[:n], words, where=words > 0)
        return theta, np.nan_to_num(params[n:, 0])

    def _placed(
        self, offsets: Ids, source: Any, target: Any, prepared: PreparedBitext
    ) -> Alignments:
        sides = (target, source) if self.reverse else (source, target)
        return Alignments(offsets, *sides).take(prepared.place)

    @staticmethod
    def _spread(values: Array, prepared: PreparedBitext) -> Array:
        """Return what the distinct pairs have for all pairs."""
        return np.append(values, 0.0)[prepared.place]


@dataclasses.dataclass(frozen=True)
class Stage(AlignmentModel):
    """IBM Model 1 on the data and ids of another model.

    Parameters
    ----------
    reverse : bool
    alpha : float
    model : AlignmentModel
    """

    model: AlignmentModel = None  # type: ignore[assignment]

    def _other_ids(self, prepared: PreparedBitext) -> Ids:
        return self.model._other_ids(prepared)

    def _other_start(self, prepared: PreparedBitext) -> Array:
        return self.model._other_start(prepared)

    def _count(
        self, other: Array, table: Array, counts: Array, prepared: PreparedBitext
    ) -> float:
        return self.model1._count(other, table, counts, prepared)

    def _best(
        self,
        theta: Array,
        other: Array,
        prepared: PreparedBitext,
        best: NDArray[np.int32],
    ) -> None:
        self.model1._best(theta, other, prepared, best)

    def log_likelihood(self, params: Array, prepared: PreparedBitext) -> Array:
        """Return the log-likelihood of each pair under Model 1."""
        return self.model1.log_likelihood(params, prepared)

    @property
    def model1(self) -> AlignmentModel:
        """Model 1."""
        from .model1 import Model1

        return Model1(self.reverse, self.alpha)
