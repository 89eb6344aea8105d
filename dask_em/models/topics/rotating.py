"""Counts of words in topics, cut into slices of words that go round."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...kernels import count_topics as kernels
from ...rotating_model import Array, Cell, Indices, RotatingModel
from ...topologies.sharing import hashed
from .base import CorpusSummary, Documents, check_corpus, survey_counts
from .count_priors import check_priors
from .count_start import STARTS
from .draws import draw_rows

__all__ = ["Entries", "RotatingTopicModel"]

#: Documents that start a topic, on average.
_POOLED = 5.0

_NONE = np.empty(0, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class Entries:
    """Words of documents in CSR form; both are numbered by the cell that has them."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    counts: NDArray[Any]


@dataclasses.dataclass(frozen=True)
class RotatingTopicModel(RotatingModel):
    r"""Topics as expected counts, of documents' words and of words over all documents.

    The model of `CountTopicModel`, with the same objective, for fits in which neither
    all documents nor all words are ever in one place: rows of the table are documents,
    columns words.

    Parameters
    ----------
    n_topics : int, default=10
        Number of topics K.
    a : float or tuple of K floats, default=0.1
        Prior counts of topics in documents: 0 or more.
    b : float, default=0.1
        Prior counts of words in topics: 0 or more.
    wire32 : bool, default=False
        Whether all counts are in single precision.
    begin : {"documents", "random"}, default="documents"
        Topics at the start: the words of some documents each, drawn by what is in
        them, and all words a little; or almost even ones. Either depends on the seed
        and the data, not on how these are cut.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.drivers.peer import Stage, fit_peers
    >>> from dask_em.models.topics.rotating import RotatingTopicModel
    >>> from dask_em.topics import as_corpus
    >>> X = np.array([[4, 3, 0, 0], [2, 5, 0, 0], [0, 0, 3, 3], [0, 0, 6, 1]], float)
    >>> stages = [Stage(RotatingTopicModel(2), max_iter=50, tol=1e-6)]
    >>> result = fit_peers(stages, as_corpus(X), topology="rotation", shards=2)
    >>> ids, counts = result.params.gather()  # the last row are sums over words
    >>> np.sort(counts[-1]).round().tolist()
    [13.0, 14.0]
    """

    n_topics: int = 10
    a: float | tuple[float, ...] = 0.1
    b: float = 0.1
    wire32: bool = False
    begin: str = "documents"

    #: In messages about data.
    name = "LatentDirichletAllocation.fit"

    def __post_init__(self) -> None:
        check_priors(self.n_topics, self.a, self.b)
        if self.begin not in STARTS:
            raise ValueError(f"begin must be one of {STARTS}, got {self.begin!r}.")

    @property
    def width(self) -> int:  # type: ignore[override]
        """Numbers of a document or a word: the topics."""
        return self.n_topics

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        """Their type."""
        return np.float32 if self.wire32 else np.float64

    @property
    def prior(self) -> Array:
        """Prior counts of topics in documents, of shape (K,)."""
        return np.full(self.n_topics, self.a, dtype=self.dtype)

    def survey(self, blocks: Sequence[sp.csr_array]) -> CorpusSummary:
        """Count documents, words and tokens, and check counts."""
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

    def column_sizes(
        self, prepared: Documents, summary: CorpusSummary
    ) -> NDArray[np.int64]:
        """Return in how many documents each word occurs."""
        sizes = np.zeros(prepared.n_words, np.int64)
        sizes[prepared.words] = np.bincount(
            prepared.indices, minlength=len(prepared.words)
        )
        return sizes

    def cut(
        self,
        prepared: Documents,
        slice_of: NDArray[np.int32],
        place: NDArray[np.int32],
        n_slices: int,
    ) -> list[Cell]:
        """Cut documents by words."""
        doc = np.repeat(
            np.arange(prepared.n_docs, dtype=np.int32), np.diff(prepared.indptr)
        )
        part = slice_of[prepared.words][prepared.indices]
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(n_slices + 1))
        cells = []
        for j in range(n_slices):
            at = order[ends[j] : ends[j + 1]]
            docs, first = np.unique(doc[at], return_index=True)
            words, indices = np.unique(prepared.indices[at], return_inverse=True)
            entries = Entries(
                np.append(first, len(at)),
                indices.astype(np.int32),
                prepared.counts[at],
            )
            columns = place[prepared.words[words]].astype(np.intp)
            cells.append(Cell(docs.astype(np.intp), columns, entries, len(at)))
        return cells

    # ------------------------------------------------------------------------ start

    def start_rows(self, prepared: Documents) -> Array:
        """Return even counts."""
        even = (prepared.lengths / self.n_topics).astype(self.dtype)
        return np.repeat(even[:, None], self.n_topics, axis=1)

    def groups(
        self, prepared: Documents, summary: CorpusSummary, seed: int
    ) -> Indices | None:
        """Return the topic that each document starts.

        It depends on the seed and the document's words and counts alone.
        """
        if self.begin != "documents":
            return None
        word = hashed(prepared.words)[prepared.indices]
        size = prepared.counts.astype(np.float64).view(np.uint64)
        sums = np.append(np.uint64(0), np.cumsum(word * (size | np.uint64(1))))
        found = np.diff(sums[prepared.indptr]) + np.uint64(seed % 2**63)
        first = hashed(found.view(np.int64))
        second = hashed(first.view(np.int64))
        drawn = (first >> np.uint64(11)) * 2.0**-53 < self._pooled(summary)
        topic = (second >> np.uint64(32)) % np.uint64(self.n_topics)
        return np.where(drawn, topic.astype(np.intp), -1)

    def _pooled(self, summary: CorpusSummary) -> float:
        """Return the share of documents that start topics."""
        return min(1.0, _POOLED * self.n_topics / max(summary.n_docs, 1))

    def pool(self, cell: Cell, groups: Indices) -> Array:
        """Return the words of the documents that start topics."""
        data = cell.data
        topic = np.repeat(groups, np.diff(data.indptr))
        taken = topic >= 0
        at = data.indices[taken] * np.int64(self.n_topics) + topic[taken]
        size = len(cell.columns) * self.n_topics
        found = np.bincount(at, weights=data.counts[taken], minlength=size)
        return found.reshape(-1, self.n_topics).astype(self.dtype)

    def start_columns(
        self,
        ids: NDArray[np.int64],
        sizes: NDArray[np.int64],
        summary: CorpusSummary,
        seed: int,
    ) -> Array:
        """Return nearly even counts: of each word about as many as there are of it.

        Next to documents that start topics they are as many as the words of these.
        """
        found = draw_rows(seed, ids, self.n_topics)
        share = self._pooled(summary) if self.begin == "documents" else 1.0
        found *= share / self.n_topics * sizes[:, None]
        return found

    # ----------------------------------------------------------------------- sweeps

    def sweep(
        self, cell: Cell, rows: Array, columns: Array, totals: Array, n_columns: int
    ) -> tuple[Array, Array, float]:
        """Share the words of a cell among topics."""
        data, shape = cell.data, (len(cell.columns), self.n_topics)
        weights = np.empty(self.n_topics, self.dtype)
        kernels.inverse_totals(totals, n_columns, self.b, weights)
        table = np.empty((shape[0], 2, shape[1]), self.dtype)
        kernels.fill_table(columns, cell.columns, self.b, table)
        docs = rows[cell.rows]
        bound = kernels.accumulate(
            data.indptr,
            data.indices,
            data.counts,
            table,
            weights,
            self.prior,
            docs,
            docs,
        )
        new = np.empty(shape, self.dtype)
        kernels.finish(table, new, np.zeros(self.n_topics))
        return docs, new, float(bound)

    def penalty_rows(self, rows: Array) -> float:
        """Return the part of the priors of documents' topics."""
        if not self.prior.any():
            return 0.0
        return float(kernels.documents_part(rows, rows, self.prior))

    def penalty_columns(
        self, columns: Array, totals: Array, n_columns: int, n_absent: int
    ) -> float:
        """Return the part of the priors of topics' words."""
        if self.b == 0:
            return 0.0
        # without counts of their own, all that is left are those of the prior
        logs = self.b * np.log(totals + n_columns * self.b).sum()
        found = kernels.words_part(
            _NONE, np.zeros_like(columns), columns, self.b, self.b
        )
        absent = n_absent * self.n_topics * self.b * np.log(self.b)
        return float(found + absent - (len(columns) + n_absent) * logs)
