"""Alignments made by people, and how far others are from them."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .alignments import Alignments, Links, as_alignments, symmetrize

__all__ = ["Gold", "aer", "read_gold"]

#: Sentence, positions of the source and the target from 1, and how sure.
_NAACL = re.compile(r"\s*\S*?(\d+)\s+(\d+)\s+(\d+)(?:\s+([SP]))?\s*", re.IGNORECASE)
_PHARAOH = re.compile(r"(\d+)([-?p])(\d+)")


@dataclasses.dataclass(frozen=True)
class Gold:
    """Links that people made.

    Parameters
    ----------
    sure : Alignments, or sequence of lists of links
        Links that have to be there.
    possible : Alignments, or sequence of lists of links
        Links that may be there; sure ones are added.

    Raises
    ------
    ValueError
        If they are of different numbers of pairs.

    Examples
    --------
    >>> from dask_em.alignment import Gold
    >>> gold = Gold(sure=[[(0, 0)]], possible=[[(1, 1)]])
    >>> gold.possible.to_pharaoh()
    ['0-0 1-1']
    """

    sure: Alignments
    possible: Alignments

    def __post_init__(self) -> None:
        object.__setattr__(self, "sure", as_alignments(self.sure))
        both = symmetrize(self.sure, self.possible, "union")
        object.__setattr__(self, "possible", both)

    def __len__(self) -> int:
        return len(self.sure)


def read_gold(path: str | os.PathLike[str], n_pairs: int | None = None) -> Gold:
    """Read alignments made by people.

    Two formats are known. In that of the NAACL 2003 shared task a line is a link, with
    the number of the pair and positions that count from 1: ``0001 2 3 P``, and S is
    meant where nothing is said. In the other a line is a pair, and positions count
    from 0: ``0-0 1?2``, with ``?`` or ``p`` for links that are possible only.

    Parameters
    ----------
    path : path
    n_pairs : int, optional
        How many pairs there are, if the last ones may be without links.

    Returns
    -------
    Gold

    Raises
    ------
    ValueError
        If a line has neither format, or a link is of a pair beyond `n_pairs`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.alignment import read_gold
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "gold.txt"
    ...     _ = path.write_text("0-0 1?2")
    ...     gold = read_gold(path)
    >>> gold.sure.to_pharaoh(), gold.possible.to_pharaoh()
    (['0-0'], ['0-0 1-2'])
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if line.strip()), "")
    rows = _naacl if _NAACL.fullmatch(first) else _pharaoh
    n_found, sure, possible = rows(lines)
    if n_pairs is not None and n_found > n_pairs:
        raise ValueError(f"{path} has links of pair {n_found}, of {n_pairs} pairs")
    n = n_pairs or n_found
    return Gold(
        Alignments.from_links([sure.get(k, []) for k in range(n)]),
        Alignments.from_links([possible.get(k, []) for k in range(n)]),
    )


_Found = dict[int, list[tuple[int, int]]]


def _naacl(lines: list[str]) -> tuple[int, _Found, _Found]:
    sure: _Found = {}
    possible: _Found = {}
    for n, line in enumerate(lines):
        if not line.strip():
            continue
        match = _NAACL.fullmatch(line)
        if not match or "0" in (match[1].lstrip("0") or "0", match[2], match[3]):
            raise ValueError(
                f"line {n + 1} is no link like '0001 2 3 S', counted from 1: "
                f"{line[:60]!r}"
            )
        links = possible if (match[4] or "S").upper() == "P" else sure
        links.setdefault(int(match[1]) - 1, []).append(
            (int(match[2]) - 1, int(match[3]) - 1)
        )
    return max([-1, *sure, *possible]) + 1, sure, possible


def _pharaoh(lines: list[str]) -> tuple[int, _Found, _Found]:
    sure: _Found = {}
    possible: _Found = {}
    for k, line in enumerate(lines):
        for word in line.split():
            match = _PHARAOH.fullmatch(word)
            if not match:
                raise ValueError(
                    f"line {k + 1} has neither links like '0-0 1?2' nor one like "
                    f"'0001 2 3 S': {line[:60]!r}"
                )
            links = sure if match[2] == "-" else possible
            links.setdefault(k, []).append((int(match[1]), int(match[3])))
    return len(lines), sure, possible


def aer(alignments: Links, gold: Gold | Links) -> float:
    r"""Return the alignment error rate (Och and Ney, 2003).

    .. math:: 1 - \frac{|A \cap S| + |A \cap P|}{|A| + |S|}

    with links A, sure ones S and possible ones P, of which S is a part.

    Parameters
    ----------
    alignments : Alignments, or sequence of lists of links
    gold : Gold, or links, all of which are sure

    Returns
    -------
    float
        0 is best.

    Raises
    ------
    ValueError
        If they are of different numbers of pairs.
    TypeError
        If they are no links, or have not been computed yet.

    Examples
    --------
    >>> sure = Alignments.from_pharaoh(["0-0", "1-1"])
    >>> possible = Alignments.from_pharaoh(["0-1", ""])
    >>> aer(Alignments.from_pharaoh(["0-0 0-1", "2-1"]), Gold(sure, possible))
    0.4
    """
    alignments = as_alignments(alignments)
    if not isinstance(gold, Gold):
        gold = Gold(as_alignments(gold), as_alignments(gold))
    if len(alignments) != len(gold):
        raise ValueError(
            f"{len(alignments)} pairs are aligned, and the gold standard has "
            f"{len(gold)}; align those pairs only"
        )
    n_links, n_sure = len(alignments.source), len(gold.sure.source)
    if n_links + n_sure == 0:
        return 0.0
    right = _common(alignments, gold.sure) + _common(alignments, gold.possible)
    return 1.0 - right / (n_links + n_sure)


def _common(a: Alignments, b: Alignments) -> int:
    return len(np.intersect1d(_keys(a), _keys(b), assume_unique=True))


def _keys(a: Alignments) -> NDArray[Any]:
    fields = [("pair", "i8"), ("source", "i4"), ("target", "i4")]
    keys = np.empty(len(a.source), dtype=fields)
    keys["pair"], keys["source"], keys["target"] = a.pair, a.source, a.target
    return keys
