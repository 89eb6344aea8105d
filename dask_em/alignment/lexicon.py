"""What words mean, as probabilities."""

from __future__ import annotations

import gzip
import os
import re
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
    dictionaries of their translations. The table is brought here from where it was
    computed when the first row is wanted.

    With `alpha` above 0, the probabilities of a word's translations do not add up to 1:
    the prior keeps the rest for all words that it was never seen with, which is most of
    it for rare words. `normalise` divides by the sum of those that were seen.

    Parameters
    ----------
    table : DistributedTable
        Of ids e (V + 1) + f, with the sum of each row at f = V.
    words, translations : Vocabulary
        Of e, which is numbered from 1, and of f.
    alpha : float, default=0.0
        If above 0 the table has expected counts, and this is what the prior adds.
    null : bool, default=True
        Whether there is an empty word.

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
        null: bool = True,
    ) -> None:
        self._table = table
        self.words = words
        self.translations = translations
        self._alpha = alpha
        self._null = null

    def _row(
        self, word: str | None, normalise: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return the numbers of translations, and their probabilities."""
        if word not in self:
            raise KeyError(word)
        e = 0 if word is NULL else self.words.index[word] + 1
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
        if normalise:
            found = found / found.sum()
        return ids[a:b] - e * width, found

    def __getitem__(self, word: str | None) -> dict[str, float]:
        """Return the translations of a word that it has been seen with."""
        numbers, found = self._row(word)
        names = self.translations.words
        return {names[k]: p for k, p in zip(numbers, found.tolist(), strict=True)}

    def __contains__(self, word: object) -> bool:
        return self._null if word is NULL else word in self.words.index

    def __iter__(self) -> Iterator[str | None]:
        if self._null:
            yield NULL
        yield from self.words.words

    def __len__(self) -> int:
        return len(self.words) + self._null

    def top(
        self, word: str | None, n: int = 10, *, normalise: bool = False
    ) -> list[tuple[str, float]]:
        """Return the most probable translations of a word, best first.

        Parameters
        ----------
        word : str or None
        n : int, default=10
        normalise : bool, default=False
            Divide by the sum of the word's row, so that it is 1 despite a prior.

        Raises
        ------
        KeyError
            If the word was not in the data.
        """
        numbers, found = self._row(word, normalise)
        best = np.argsort(-found, kind="stable")[:n]
        names = self.translations.words
        return [(names[numbers[k]], float(found[k])) for k in best]

    def to_scipy(self, *, normalise: bool = False) -> Any:
        """Return the probabilities as a sparse matrix.

        Parameters
        ----------
        normalise : bool, default=False
            Divide rows by their sums.

        Returns
        -------
        csr_array of shape (n_words + 1, n_translations)
            The first row is that of the empty word, without entries if there is none.
        """
        from scipy.sparse import csr_array

        width = len(self.translations) + 1
        ids, values = self._table.gather()
        n_rows = len(self.words) + 1
        a, b = np.searchsorted(ids, [0 if self._null else width, n_rows * width])
        e, f = np.divmod(ids[a:b], width)
        cells = f < width - 1
        found = values[a:b, 0]
        if self._alpha:
            totals = np.zeros(n_rows)
            totals[e[~cells]] = found[~cells]
            prior = self._alpha * len(self.translations)
            found = (found + self._alpha) / (totals[e] + prior)
        e, f, found = e[cells], f[cells], found[cells]
        if normalise:
            found = found / np.bincount(e, found, minlength=n_rows)[e]
        return csr_array((found, (e, f)), shape=(n_rows, width - 1))

    def write(
        self,
        path: str | os.PathLike[str],
        minimum: float = 1e-3,
        *,
        normalise: bool = False,
    ) -> None:
        """Write lines of word, translation and probability, separated by tabs.

        The empty word is written as ``<null>``.

        Parameters
        ----------
        path : path
            Compressed if it ends in ``.gz``.
        minimum : float, default=1e-3
            Probabilities below are left out; with a prior, those of rare words may all
            be, unless they are normalised.
        normalise : bool, default=False
            Divide probabilities by the sum of their word's.

        Raises
        ------
        ValueError
            If a word has a tab or the end of a line in it.
        """
        for token in (*self.words.words, *self.translations.words):
            if re.search(r"[\t\n\r]", token):
                raise ValueError(
                    f"{token!r} has a tab or the end of a line in it, which separate "
                    "what is written: replace them in the tokens"
                )
        path = os.fspath(path)
        table = self.to_scipy(normalise=normalise)
        names = self.translations.words
        opened = (
            gzip.open(path, "wt", encoding="utf-8")
            if path.endswith(".gz")
            else open(path, "w", encoding="utf-8")
        )
        with cast(IO[str], opened) as file:
            for e, word in enumerate([NULL, *self.words.words]):
                shown = "<null>" if word is NULL else word
                a, b = table.indptr[e : e + 2]
                found = table.data[a:b]
                for k in np.argsort(-found, kind="stable"):
                    if found[k] < minimum:
                        break
                    name = names[table.indices[a + k]]
                    file.write(f"{shown}\t{name}\t{found[k]:.6g}\n")

    def __repr__(self) -> str:
        """Say how many words there are."""
        return f"Lexicon({len(self.words):,} words, {self._table.n_rows:,} numbers)"
