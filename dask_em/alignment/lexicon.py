"""What words mean, as probabilities."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..peers.table import DistributedTable
from .bitext import Vocabulary

__all__ = ["Lexicon"]

#: What the empty word is called.
NULL = None


class Lexicon(Mapping[str | None, dict[str, float]]):
    """Translation probabilities of a fitted model.

    A mapping of the words that are translated (None stands for the empty word) to
    dictionaries of their translations. Rows are brought here from where they were
    computed when the first one is wanted.

    Parameters
    ----------
    table : DistributedTable
        Of ids e (V + 1) + f, with the sum of each row at f = V.
    words, translations : Vocabulary
        Of e, which is numbered from 1, and of f.
    alpha : float, default=0.0
        If above 0 the table has expected counts, and this is what the prior adds.

    Examples
    --------
    >>> from dask_em import IBMModel1
    >>> bitext = [
    ...     ("das Haus", "the house"),
    ...     ("das Buch", "the book"),
    ...     ("ein Buch", "a book"),
    ... ]
    >>> lexicon = IBMModel1(max_iter=20).fit(bitext).translation_table_
    >>> max(lexicon["Haus"], key=lexicon["Haus"].get)
    'house'
    >>> lexicon.top("ein", 1)[0][0]
    'a'
    """

    def __init__(
        self,
        table: DistributedTable,
        words: Vocabulary,
        translations: Vocabulary,
        alpha: float = 0.0,
    ) -> None:
        self._table = table
        self.words = words
        self.translations = translations
        self._alpha = alpha

    def _row(self, word: str | None) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return the numbers of translations, and their probabilities."""
        if word is NULL:
            e = 0
        elif word in self.words.index:
            e = self.words.index[word] + 1
        else:
            raise KeyError(word)
        width = len(self.translations) + 1
        ids, values = self._table.gather()
        a, b = np.searchsorted(ids, [e * width, e * width + width - 1])
        found = values[a:b, 0]
        if self._alpha:
            total = (
                values[b, 0] if b < len(ids) and ids[b] == (e + 1) * width - 1 else 0
            )
            prior = self._alpha * len(self.translations)
            found = (found + self._alpha) / (total + prior)
        return ids[a:b] - e * width, found

    def __getitem__(self, word: str | None) -> dict[str, float]:
        """Return the translations of a word that it has been seen with."""
        numbers, found = self._row(word)
        names = self.translations.words
        return {names[k]: p for k, p in zip(numbers, found.tolist(), strict=True)}

    def __contains__(self, word: object) -> bool:
        return word is NULL or word in self.words.index

    def __iter__(self) -> Iterator[str | None]:
        yield NULL
        yield from self.words.words

    def __len__(self) -> int:
        return len(self.words) + 1

    def top(self, word: str | None, n: int = 10) -> list[tuple[str, float]]:
        """Return the most probable translations of a word, best first.

        Parameters
        ----------
        word : str or None
        n : int, default=10

        Raises
        ------
        KeyError
            If the word was not in the data.
        """
        numbers, found = self._row(word)
        best = np.argsort(-found, kind="stable")[:n]
        names = self.translations.words
        return [(names[numbers[k]], float(found[k])) for k in best]

    def to_scipy(self) -> Any:
        """Return the probabilities as a sparse matrix.

        Returns
        -------
        csr_array of shape (n_words + 1, n_translations)
            The first row is that of the empty word.
        """
        from scipy.sparse import csr_array

        width = len(self.translations) + 1
        ids, values = self._table.gather()
        ids = ids[: np.searchsorted(ids, len(self) * width)]
        e, f = np.divmod(ids, width)
        cells = f < width - 1
        found = values[: len(ids), 0]
        if self._alpha:
            totals = np.zeros(len(self))
            totals[e[~cells]] = found[~cells]
            prior = self._alpha * len(self.translations)
            found = (found + self._alpha) / (totals[e] + prior)
        return csr_array(
            (found[cells], (e[cells], f[cells])), shape=(len(self), width - 1)
        )

    def write(self, path: str | os.PathLike[str], minimum: float = 1e-3) -> None:
        """Write lines of word, translation and probability, separated by tabs.

        Parameters
        ----------
        path : path
            Compressed if it ends in ``.gz``.
        minimum : float, default=1e-3
            Probabilities below are left out.
        """
        path = os.fspath(path)
        table = self.to_scipy()
        names = self.translations.words
        opened = (
            gzip.open(path, "wt", encoding="utf-8")
            if path.endswith(".gz")
            else open(path, "w", encoding="utf-8")
        )
        with cast(IO[str], opened) as file:
            for e, word in enumerate(self):
                a, b = table.indptr[e : e + 2]
                found = table.data[a:b]
                for k in np.argsort(-found, kind="stable"):
                    if found[k] < minimum:
                        break
                    name = names[table.indices[a + k]]
                    file.write(f"{word or '<null>'}\t{name}\t{found[k]:.6g}\n")

    def __repr__(self) -> str:
        """Say how many words there are."""
        return f"Lexicon({len(self.words):,} words, {self._table.n_rows:,} numbers)"
