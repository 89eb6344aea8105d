"""Links between the words of sentences and those of their translations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..kernels.links import in_order, symmetrize_links, take_links

__all__ = ["Alignments", "Links", "Symmetrization", "as_alignments", "symmetrize"]

Symmetrization = Literal[
    "intersection", "union", "grow-diag", "grow-diag-final", "grow-diag-final-and"
]
#: A line that is no path.
_PHARAOH = re.compile(r"\s*\d+-\d+(?:\s+\d+-\d+)*\s*")


class Alignments(Sequence[list[tuple[int, int]]]):
    """Links (i, j) of source and target positions, for each pair of sentences.

    Positions count from 0. Each pair's links are sorted, and none occurs twice.

    Parameters
    ----------
    offsets : array of shape (n_pairs + 1,)
        Where each pair's links begin.
    source, target : array of shape (n_links,)
        Positions.

    Raises
    ------
    ValueError
        If the arrays do not fit together.

    Examples
    --------
    >>> alignments = Alignments.from_pharaoh(["0-0 1-2", "", "1-0"])
    >>> len(alignments), alignments[0], alignments[-1]
    (3, [(0, 0), (1, 2)], [(1, 0)])
    >>> alignments
    <Alignments: 3 links in 3 pairs>
    """

    def __init__(self, offsets: ArrayLike, source: ArrayLike, target: ArrayLike):
        starts = np.array(offsets, dtype=np.int64)
        self.source = np.array(source, dtype=np.int32)
        self.target = np.array(target, dtype=np.int32)
        n_links = len(self.source)
        if (
            len(self.target) != n_links
            or not len(starts)
            or starts[0] != 0
            or starts[-1] != n_links
            or (np.diff(starts) < 0).any()
        ):
            raise ValueError(
                "offsets must rise from 0 to the number of links, of which source and "
                f"target must have the same: got {len(self.source)} and "
                f"{len(self.target)}"
            )
        if n_links and min(self.source.min(), self.target.min()) < 0:
            raise ValueError("positions of links count from 0")
        self.offsets = in_order(starts, self.source, self.target)
        self.source = self.source[: self.offsets[-1]]
        self.target = self.target[: self.offsets[-1]]

    @classmethod
    def from_links(cls, links: Iterable[Iterable[tuple[int, int]]]) -> Alignments:
        """Make alignments of the links of each pair.

        Raises
        ------
        TypeError
            If something is no list of (i, j).
        """
        rows = [list(pair) for pair in links]
        flat = [link for row in rows for link in row]
        ends = _array(flat)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        return cls(offsets, ends[:, 0], ends[:, 1])

    @classmethod
    def from_pharaoh(cls, lines: Iterable[str] | str | os.PathLike[str]) -> Alignments:
        """Read lines such as ``0-0 1-2``, one for each pair.

        Parameters
        ----------
        lines : iterable of str, or path
            Or a string of links.

        Raises
        ------
        ValueError
            For a link that is not of this form.
        """
        if isinstance(lines, str) and _PHARAOH.fullmatch(lines):
            lines = lines.splitlines()
        elif isinstance(lines, str | os.PathLike):
            lines = Path(lines).read_text(encoding="utf-8").splitlines()
        links = []
        for n, line in enumerate(lines):
            try:
                links.append([_link(word) for word in line.split()])
            except ValueError:
                raise ValueError(
                    f"line {n + 1} is no alignment like '0-0 1-2': {line[:60]!r}"
                ) from None
        return cls.from_links(links)

    def to_pharaoh(self) -> list[str]:
        """Return lines such as ``0-0 1-2``, one for each pair."""
        words = [
            f"{i}-{j}"
            for i, j in zip(self.source.tolist(), self.target.tolist(), strict=True)
        ]
        offsets = self.offsets.tolist()
        return [" ".join(words[a:b]) for a, b in pairwise(offsets)]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the lines of `to_pharaoh` to a file."""
        text = "".join(f"{line}\n" for line in self.to_pharaoh())
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def concatenate(cls, parts: Iterable[Alignments]) -> Alignments:
        """Return the alignments of all pairs of several parts."""
        parts = list(parts)
        n_links = [np.diff(part.offsets) for part in parts]
        return cls(
            np.concatenate([[0], np.cumsum(np.concatenate([[], *n_links]))]),
            np.concatenate([[], *(part.source for part in parts)]),
            np.concatenate([[], *(part.target for part in parts)]),
        )

    def take(self, place: ArrayLike) -> Alignments:
        """Return the alignments of some pairs; -1 stands for a pair without links.

        Parameters
        ----------
        place : array of shape (n_taken,)
        """
        index = np.asarray(place, dtype=np.int64)
        return Alignments(*take_links(self.offsets, self.source, self.target, index))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> list[tuple[int, int]]: ...
    @overload
    def __getitem__(self, index: slice) -> Alignments: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        k = range(len(self))[index]
        here = slice(self.offsets[k], self.offsets[k + 1])
        return list(
            zip(self.source[here].tolist(), self.target[here].tolist(), strict=True)
        )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self[k] for k in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Alignments):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("offsets", "source", "target")
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Alignments: {len(self.source)} links in {len(self)} pairs>"

    @property
    def pair(self) -> NDArray[np.int64]:
        """Which pair each link belongs to, of shape (n_links,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


#: Alignments, or whatever `Alignments.from_links` makes some of.
Links = Alignments | Iterable[Iterable[tuple[int, int]]]


def as_alignments(links: Links) -> Alignments:
    """Return links as alignments; raise `TypeError` for lazy ones."""
    if hasattr(links, "__dask_graph__"):
        raise TypeError(
            "links that are a Dask collection have not been computed yet: compute it "
            "first"
        )
    return links if isinstance(links, Alignments) else Alignments.from_links(links)


def _array(links: list[Any]) -> NDArray[Any]:
    """Return links as an array of shape (n_links, 2)."""
    if not links:
        return np.empty((0, 2), dtype=np.int32)
    try:
        ends = np.array(links)
    except ValueError:  # of different lengths
        ends = np.empty(0)
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu":
        raise TypeError(
            f"links of a pair are a list of (i, j), not of {links[0]!r}; lines like "
            "'0-0 1-2' are read by Alignments.from_pharaoh"
        )
    return ends


def _link(word: str) -> tuple[int, int]:
    i, j = word.split("-")
    return int(i), int(j)


def symmetrize(
    forward: Links,
    reverse: Links,
    method: Symmetrization = "grow-diag-final-and",
) -> Alignments:
    """Make one alignment of those of two directions.

    Links that both have are kept. *grow-diag* adds links of the union next to them,
    diagonally too, of which a word is not aligned yet, until there are no more.
    *final* adds, first from `forward` and then from `reverse`, links of which a word is
    not aligned yet; *final-and* those of which both are not.

    Parameters
    ----------
    forward, reverse : Alignments, or sequence of lists of links
        Both with links (source position, target position).
    method : {"intersection", "union", "grow-diag", "grow-diag-final", \
"grow-diag-final-and"}

    Returns
    -------
    Alignments

    Raises
    ------
    ValueError
        If they are of different numbers of pairs, or the method is unknown.
    TypeError
        If they are no links, or have not been computed yet.

    References
    ----------
    Koehn, P., Och, F. J., Marcu, D. (2003). Statistical phrase-based translation.
    HLT-NAACL 2003, 48-54.

    Examples
    --------
    >>> forward = Alignments.from_pharaoh(["0-0 1-1 2-1"])
    >>> reverse = Alignments.from_pharaoh(["0-0 1-1 3-3"])
    >>> symmetrize(forward, reverse, "intersection").to_pharaoh()
    ['0-0 1-1']
    >>> symmetrize(forward, reverse, "grow-diag").to_pharaoh()
    ['0-0 1-1 2-1']
    >>> symmetrize(forward, reverse).to_pharaoh()
    ['0-0 1-1 2-1 3-3']
    """
    forward, reverse = as_alignments(forward), as_alignments(reverse)
    if len(forward) != len(reverse):
        raise ValueError(
            f"alignments of {len(forward)} pairs and of {len(reverse)} pairs cannot be "
            "put together"
        )
    if method == "union":
        n_links = np.diff(forward.offsets), np.diff(reverse.offsets)
        order = np.argsort(np.concatenate([forward.pair, reverse.pair]), kind="stable")
        return Alignments(
            np.concatenate([[0], np.cumsum(n_links[0] + n_links[1])]),
            np.concatenate([forward.source, reverse.source])[order],
            np.concatenate([forward.target, reverse.target])[order],
        )
    steps = {
        "intersection": (False, False, False),
        "grow-diag": (True, False, False),
        "grow-diag-final": (True, True, False),
        "grow-diag-final-and": (True, True, True),
    }
    if method not in steps:
        known = ", ".join(repr(name) for name in sorted([*steps, "union"]))
        raise ValueError(f"unknown method {method!r}; there are {known}")
    return Alignments(
        *symmetrize_links(
            forward.offsets,
            forward.source,
            forward.target,
            reverse.offsets,
            reverse.source,
            reverse.target,
            *steps[method],
        )
    )
