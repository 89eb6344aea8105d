"""What topic models share: documents, the ids of their statistics, and a start."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...sparse_model import Array, Ids, SparseModel, Start
from .draws import draw_rows

__all__ = [
    "CorpusSummary",
    "Documents",
    "TopicModel",
    "check_corpus",
    "check_counts",
    "survey_counts",
]


@dataclasses.dataclass(frozen=True)
class CorpusSummary:
    """Sizes of a corpus, or of a part of it; those of parts are added up.

    Attributes
    ----------
    n_docs : int
    n_empty : int
        Documents without words.
    n_words : int or None
        Size of the vocabulary, None if there were no blocks to tell.
    n_entries : int
        Distinct words, summed over documents.
    n_tokens : float
        Sum of the counts.
    read : Read or None
        What blocks say that are parts of a file.
    """

    n_docs: int = 0
    n_empty: int = 0
    n_words: int | None = None
    n_entries: int = 0
    n_tokens: float = 0.0
    read: Any = None

    @property
    def weight(self) -> float:
        """Number of tokens."""
        return self.n_tokens

    @property
    def n_rows(self) -> int:
        """Number of documents."""
        return self.n_docs

    @property
    def fingerprint(self) -> dict[str, float | None]:
        """What tells one corpus from another, for checkpoints."""
        return {
            "n_docs": self.n_docs,
            "n_words": self.n_words,
            "n_entries": self.n_entries,
            "n_tokens": self.n_tokens,
        }

    def __add__(self, other: CorpusSummary) -> CorpusSummary:
        known = {n for n in (self.n_words, other.n_words) if n is not None}
        if len(known) > 1:
            raise ValueError(
                f"Blocks of documents have {min(known)} and {max(known)} columns; all "
                "must have one for each word of the same vocabulary."
            )
        read = [r for r in (self.read, other.read) if r is not None]
        return CorpusSummary(
            self.n_docs + other.n_docs,
            self.n_empty + other.n_empty,
            known.pop() if known else None,
            self.n_entries + other.n_entries,
            self.n_tokens + other.n_tokens,
            functools.reduce(operator.add, read) if read else None,
        )


@dataclasses.dataclass(frozen=True)
class Documents:
    """The documents of a node, with words numbered from 0 in the order of their ids.

    Attributes
    ----------
    words : array of shape (n_local,), int64
        Ids of the words that occur here: sorted.
    indptr, indices, counts : arrays of shape (n_docs + 1,), (nnz,) and (nnz,)
        CSR form, with indices into `words`.
    totals : array of shape (n_local,)
        Sums of the counts of words.
    n_words : int
        Size of the vocabulary.
    """

    words: Ids
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    counts: NDArray[Any]
    totals: Array
    n_words: int

    @property
    def n_docs(self) -> int:
        """Number of documents."""
        return len(self.indptr) - 1

    @property
    def lengths(self) -> Array:
        """Tokens of each document."""
        sums = np.concatenate([[0.0], np.cumsum(self.counts, dtype=np.float64)])
        return np.diff(sums[self.indptr])

    @classmethod
    def of(cls, blocks: Sequence[sp.csr_array], n_words: int) -> Documents:
        """Join blocks of documents; there may be none.

        Parameters
        ----------
        blocks : sequence of csr_array of shape (n_docs, n_words)
        n_words : int
        """
        indices = [block.indices for block in blocks]
        ends = np.cumsum([0, *(block.indptr[-1] for block in blocks)], dtype=np.int64)
        indptr = np.concatenate(
            [
                np.zeros(1, np.int64),
                *(b.indptr[1:] + end for b, end in zip(blocks, ends, strict=False)),
            ]
        )
        present = np.zeros(n_words, bool)
        for part in indices:
            present[part] = True
        words = np.flatnonzero(present)
        local = (np.cumsum(present) - 1).astype(np.int32)
        joined = np.concatenate([np.empty(0, np.int32), *(local[i] for i in indices)])
        if blocks:
            counts = np.concatenate([block.data for block in blocks])
        else:
            counts = np.empty(0, np.float32)
        sums = np.bincount(joined, weights=counts, minlength=len(words))
        totals = sums.astype(np.float64, copy=False)  # whole numbers for nothing
        return cls(words, indptr, joined, counts, totals, n_words)


def check_counts(block: sp.csr_array, whom: str) -> None:
    """Raise unless counts are finite and not negative.

    Parameters
    ----------
    block : csr_array
    whom : str
        Who was given them, for the message.
    """
    if not np.isfinite(block.data).all():
        raise ValueError(
            f"Counts of words passed to {whom} must not be NaN or infinite."
        )
    if block.nnz and block.data.min() < 0:
        raise ValueError(
            f"Negative values in data passed to {whom}; words cannot occur less often "
            "than never."
        )


def survey_counts(block: sp.csr_array, whom: str) -> CorpusSummary:
    """Count documents, words and tokens of a block, and check counts.

    Parameters
    ----------
    block : csr_array of shape (n_docs, n_words)
    whom : str
        Who was given them, for the message.

    Raises
    ------
    ValueError
        If a count is negative or not finite.
    """
    check_counts(block, whom)
    return CorpusSummary(
        n_docs=block.shape[0],
        n_empty=int((np.diff(block.indptr) == 0).sum()),
        n_words=block.shape[1],
        n_entries=int(block.nnz),
        n_tokens=float(block.data.sum(dtype=np.float64)),
        read=getattr(block, "read", None),
    )


def check_corpus(summary: CorpusSummary) -> None:
    """Raise `ValueError` for a file cut off, or a corpus without a single word."""
    if summary.read is not None:
        summary.read.verify()
    if summary.n_tokens <= 0:
        raise ValueError(
            f"None of the {summary.n_docs} documents has a word; check how they were "
            "counted."
        )


@dataclasses.dataclass(frozen=True)
class TopicModel(SparseModel):
    """A model whose statistics are counts of words in topics.

    There is a row of K of them for each word, with the word's number as its id, and
    one for the sums over all words, which has the size of the vocabulary as its id and
    is needed by every node, as topics are normalised by it.

    Parameters
    ----------
    n_topics : int, default=10
        Number of topics K.
    """

    n_topics: int = 10

    #: In messages about data.
    name = "LatentDirichletAllocation.fit"

    @property
    def width(self) -> int:  # type: ignore[override]
        """Numbers per statistic: the topics."""
        return self.n_topics

    def survey(self, blocks: Sequence[sp.csr_array]) -> CorpusSummary:
        """Count documents, words and tokens, and check counts.

        Raises
        ------
        ValueError
            If a count is negative or not finite.
        """
        summary = CorpusSummary()
        for block in blocks:
            summary = summary + survey_counts(block, self.name)
        return summary

    def check(self, summary: CorpusSummary) -> None:
        """Raise `ValueError` for a file cut off, or a corpus without a single word."""
        check_corpus(summary)

    def prepare(
        self, blocks: Sequence[sp.csr_array], summary: CorpusSummary
    ) -> Documents:
        """Join blocks, with words renumbered."""
        return Documents.of(blocks, summary.n_words or 0)

    def support(self, prepared: Documents) -> Ids:
        """Return the words of the documents, and the id of the sums."""
        return np.append(prepared.words, prepared.n_words)

    def start(
        self,
        prepared: Documents,
        counted: NDArray[np.bool_],
        summary: CorpusSummary,
        seed: int,
    ) -> Start:
        """Draw counts near 1 for every word and topic, as scikit-learn does.

        A word's are the same whichever node draws them.
        """
        stats = np.zeros((len(counted), self.n_topics))
        mine = counted[:-1]
        stats[:-1][mine] = draw_rows(seed, prepared.words[mine], self.n_topics)
        stats[-1] = stats[:-1].sum(axis=0)
        return Start(stats=stats)
