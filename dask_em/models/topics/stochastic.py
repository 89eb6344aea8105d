"""Topic models in count form, fitted by stochastic EM."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...kernels import count_topics, sampled_topics
from ...kernels.topics import fill_digamma
from ...model import Block
from ...sparse_model import Array, Ids
from .base import CorpusSummary, Documents
from .count import CountTopicModel, Topics, TopicStatistics

__all__ = ["StochasticTopicModel", "Tallies", "Tokens", "Topics"]

#: Draws of the tokens of documents whose topics are unknown, before their E-step.
BURN_IN = 4
#: Tokens that a document must not have, and whole numbers up to which single precision
#: can count.
_LONGEST, _EXACT = 2**31, 2**24


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Documents word by word.

    Attributes
    ----------
    words : array of shape (n_local,), int64
        Ids of the words that occur here: sorted.
    starts, docs, counts : arrays of shape (n_local + 1,), (nnz,) and (nnz,)
        CSC form.
    ends : array of shape (n_docs + 1,)
        Numbers of tokens in the documents before each one.
    n_words : int
        Size of the vocabulary.
    most : float
        Tokens of the most frequent word.
    key : int
        Tells these documents from others.
    """

    words: Ids
    starts: NDArray[np.int64]
    docs: NDArray[np.int32]
    counts: NDArray[np.int32]
    ends: NDArray[np.int64]
    n_words: int
    most: float
    key: int

    @classmethod
    def of(cls, given: Documents) -> Tokens:
        """Take documents apart.

        Parameters
        ----------
        given : Documents
            With whole counts.
        """
        shape = given.n_docs, len(given.words)
        rows = sp.csr_array((given.counts, given.indices, given.indptr), shape=shape)
        columns = rows.tocsc()
        ends = np.zeros(given.n_docs + 1, np.int64)
        np.cumsum(np.rint(given.lengths).astype(np.int64), out=ends[1:])
        return cls(
            given.words,
            columns.indptr.astype(np.int64),
            columns.indices.astype(np.int32),
            columns.data.astype(np.int32),
            ends,
            given.n_words,
            float(given.totals.max(initial=0.0)),
            zlib.crc32(given.indptr.tobytes(), zlib.crc32(given.indices.tobytes())),
        )


@dataclasses.dataclass(frozen=True)
class Tallies:
    """Topics of the tokens of documents: the latent state.

    Attributes
    ----------
    offsets, topics, counts : arrays of shape (n_docs + 1,), (n,) and (n,)
        CSR form, the most frequent topics of a document first.
    visits : int
        E-steps so far.
    """

    offsets: NDArray[np.int64]
    topics: NDArray[np.uint32]
    counts: NDArray[np.int32]
    visits: int

    @classmethod
    def none(cls, n_docs: int) -> Tallies:
        """Return those of documents none of whose tokens has a topic yet."""
        topics, counts = np.empty(0, np.uint32), np.empty(0, np.int32)
        return cls(np.zeros(n_docs + 1, np.int64), topics, counts, 0)


@dataclasses.dataclass(frozen=True)
class StochasticTopicModel(CountTopicModel):
    r"""The model of `CountTopicModel` for many topics: E-steps by drawing.

    Every token is given one topic, drawn with the probabilities that
    `CountTopicModel` would share it by, and counts are whole numbers (stochastic EM:
    Celeux and Diebolt, 1985; for topic models, Zaheer et al., 2016). A token costs
    about as much as its document has topics, however many there are.

    The bound is the log-probability of tokens *and* their topics, which fluctuates from
    E-step to E-step: it tells how far a fit has come, but a gain below `tol` may be due
    to chance, and is a matter of `max_iter` rather than of convergence.

    Parameters
    ----------
    n_topics : int, default=10
        Number of topics K.
    a : float or tuple of K floats, default=0.1
        Prior counts of topics in documents: above 0.
    b : float, default=0.1
        Prior counts of words in topics: above 0.
    learn_priors : bool, default=False
        As for `CountTopicModel`.
    wire32 : bool, default=False
        Whether topics travel in single precision; whole numbers lose nothing by it.
    begin : {"documents", "random"}, default="documents"
        As for `CountTopicModel`.
    seed : int, default=0
        Of the draws. Documents, the seed and the number of the visit determine them.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Celeux, G., Diebolt, J. (1985). The SEM algorithm: a probabilistic teacher algorithm
    derived from the EM algorithm for the mixture problem. Computational Statistics
    Quarterly 2, 73-82.

    Zaheer, M., Wick, M., Tristan, J.-B., Smola, A., Steele, G. (2016). Exponential
    stochastic cellular automata for massively parallel inference. AISTATS 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em import fit_em
    >>> from dask_em.models.topics.stochastic import StochasticTopicModel
    >>> X = np.array([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]], float)
    >>> result = fit_em(StochasticTopicModel(2), X, random_state=0, tol=0, max_iter=9)
    >>> float(result.params.counts.sum())
    27.0
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.prior.min() > 0 and self.b > 0):
            raise ValueError(
                "Topics can be drawn only with prior counts a and b above 0, for what "
                "is never drawn never comes back; use CountTopicModel for a = b = 0."
            )

    @property
    def incremental(self) -> bool:
        """False: with many topics, M-steps cost too much to make many."""
        return False

    def survey(self, block: Block) -> CorpusSummary:
        """Count documents, words and tokens, and check counts.

        Raises
        ------
        ValueError
            If a count is negative, not finite or not a whole number, a document has too
            many tokens, or documents have weights.
        """
        found = super().survey(block)
        data = block.X.data if sp.issparse(block.X) else np.asarray(block.X)
        if (data % 1 != 0).any():
            raise ValueError(
                f"Counts of words passed to {self.name} must be whole numbers for "
                "topics to be drawn, not weights such as tf-idf; use EM without draws."
            )
        longest = np.max(block.X.sum(axis=1), initial=0.0)
        if longest >= _LONGEST:
            raise ValueError(
                f"A document passed to {self.name} has {longest:.3g} tokens, too many "
                "to draw the topic of each; use EM without draws."
            )
        return found

    def prepare(self, block: Block, summary: CorpusSummary) -> Tokens:  # type: ignore[override]
        """Sort entries by word."""
        return Tokens.of(super().prepare(block, summary))

    def e_step(  # type: ignore[override]
        self, params: Topics, prepared: Tokens, local: Any = None
    ) -> tuple[TopicStatistics, Tallies]:
        """Return drawn counts of words in topics, and those of documents."""
        dtype = np.float32 if prepared.most <= _EXACT else np.float64
        rows = np.zeros((len(prepared.words), self.n_topics), dtype)
        state = local
        if state is None:
            state = Tallies.none(len(prepared.ends) - 1)
            for step in range(BURN_IN):
                # every topic is as good as any other for the first draw
                a = np.ones(self.n_topics) if step == 0 else self.prior
                state = self._draw(params, prepared, state, a, rows)
                rows[:] = 0.0
        state = self._draw(params, prepared, state, self.prior, rows)
        tallies = state.offsets, state.topics, state.counts
        constant = sampled_topics.tallies_part(*tallies, self.prior)
        totals = rows.sum(axis=0, dtype=np.float64)
        found = self.statistics(prepared, rows, totals, constant)
        if self.learn_priors:
            sums = _prior_sums(state, prepared.ends, self.prior)
            found = dataclasses.replace(found, priors=sums)
        return found, state

    def _draw(
        self,
        params: Topics,
        tokens: Tokens,
        state: Tallies,
        a: Array,
        rows: NDArray[Any],
    ) -> Tallies:
        """Draw all tokens' topics, and add up those of words in `rows`."""
        weights, b = np.empty(self.n_topics), float(self.b)
        count_topics.inverse_totals(params.totals, tokens.n_words, b, weights)
        seed = np.random.SeedSequence([self.seed, tokens.key, state.visits])
        generator = seed.generate_state(1, np.uint64)
        drawn = np.empty(tokens.ends[-1], np.int32)
        sampled_topics.sample_sweep(
            tokens.starts,
            tokens.docs,
            tokens.counts,
            params.counts,
            weights,
            tokens.words,
            b,
            a,
            state.offsets,
            state.topics,
            state.counts,
            generator,
            tokens.ends[:-1].copy(),
            drawn,
            rows,
        )
        offsets = np.empty_like(tokens.ends)
        topics, counts = sampled_topics.tally(
            tokens.ends, drawn, self.n_topics, offsets
        )
        return Tallies(offsets, topics, counts, state.visits + 1)

    def gain(self, params: Topics, change: TopicStatistics) -> float:
        """Return 0: what falls by chance is no reason to refuse a late report."""
        return 0.0


def _prior_sums(state: Tallies, ends: NDArray[np.int64], a: Array) -> Array:
    """Return the sums of `kernels.count_topics.prior_sums`, of tallies."""
    prior = a.sum()
    x = np.concatenate([state.counts + a[state.topics], np.diff(ends) + prior, a])
    x = np.append(x, prior)
    psi = np.empty_like(x)
    fill_digamma(x, psi)
    n, n_docs, n_topics = len(state.counts), len(ends) - 1, len(a)
    least = psi[n + n_docs : -1]
    gains = psi[:n] - least[state.topics]
    sums = np.bincount(state.topics, weights=gains, minlength=n_topics)
    return np.append(sums, (psi[n : n + n_docs] - psi[-1]).sum())
