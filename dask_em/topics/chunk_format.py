"""The format of corpora on disk: files, types of arrays, and the header.

A corpus is a directory with a file ``corpus.json`` and a folder of data that this file
names. A new version of a corpus is another folder, and there is only ever one
``corpus.json``, which is replaced as a whole; so there is no moment at which a corpus
is incomplete. The format is described in the documentation of topic models.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from .docword import PathLike

__all__ = [
    "ARRAYS",
    "FORMAT",
    "HEADER",
    "SINGLE",
    "VERSION",
    "VOCABULARY",
    "Chunk",
    "Header",
    "checksum_of",
    "file_of",
    "read_header",
]

HEADER = "corpus.json"
VOCABULARY = "vocabulary.txt"
FORMAT, VERSION = "dask_em corpus", 1

#: Arrays of a chunk, and which types they may have on disk.
ARRAYS = {
    "indptr": ("<i4", "<i8"),
    "indices": ("<u2", "<i4"),
    "counts": ("|u1", "<u2", "<u4", "<f4", "<f8"),
}
#: Those whose every value a number of single precision holds.
SINGLE = ("|u1", "<u2", "<f4")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What ``corpus.json`` says about some consecutive documents.

    Attributes
    ----------
    name : str
        What the names of its files begin with.
    docs, entries : int
    tokens : float
        Sum of the counts.
    counts : str
        Their type on disk.
    checksum : int
        CRC-32 of the contents of the arrays, one after the other.
    """

    name: str
    docs: int
    entries: int
    tokens: float
    counts: str
    checksum: int

    def __post_init__(self) -> None:
        numbers = (self.docs, self.entries, self.checksum)
        if (
            not _NAME.fullmatch(self.name)
            or any(type(n) is not int or n < 0 for n in numbers)
            or not self.tokens >= 0
            or self.counts not in ARRAYS["counts"]
        ):
            raise ValueError


@dataclasses.dataclass(frozen=True)
class Header:
    """What is needed of ``corpus.json``.

    Attributes
    ----------
    data : str
        Name of the folder with all other files.
    n_words : int
    chunks : tuple of Chunk
    vocabulary : int or None
        CRC-32 of the list of words, None if there is none.
    n_tokens : float
    """

    data: str
    n_words: int
    chunks: tuple[Chunk, ...]
    vocabulary: int | None
    n_tokens: float


def file_of(folder: str, chunk: str, array: str) -> str:
    """Return the path of an array of a chunk."""
    return os.path.join(folder, f"{chunk}.{array}.npy")


def checksum_of(arrays: Sequence[NDArray[Any]]) -> int:
    """Return the CRC-32 of the contents of arrays, one after the other."""
    found = 0
    for array in arrays:
        found = (
            zlib.crc32(memoryview(array.data).cast("B"), found) if array.size else found
        )
    return found


def read_header(path: PathLike) -> Header:
    """Read ``corpus.json``.

    Parameters
    ----------
    path : path
        Of the directory.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, or of another format or version.
    """
    try:
        with open(os.path.join(path, HEADER), encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} has no file {HEADER}, so it is no corpus that write_corpus wrote "
            "to its end."
        ) from None
    except ValueError:
        raise ValueError(f"{HEADER} of {path} is damaged; write it again.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{HEADER} of {path} is not that of a corpus of dask_em.")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{path} is in version {found.get('version')!r} of the format and this "
            f"dask_em reads version {VERSION}; install a dask_em that knows it."
        )
    try:
        header = Header(
            found["data"],
            found["n_words"],
            tuple(Chunk(**chunk) for chunk in found["chunks"]),
            found["vocabulary"],
            found["n_tokens"],
        )
        sums = {
            "n_docs": sum(chunk.docs for chunk in header.chunks),
            "n_entries": sum(chunk.entries for chunk in header.chunks),
            "n_tokens": sum(chunk.tokens for chunk in header.chunks),
        }
        right = (
            _NAME.fullmatch(header.data)
            and 0 <= header.n_words < 2**31
            and all(found[key] == value for key, value in sums.items())
        )
    except (KeyError, TypeError, ValueError):
        right = None
    if not right:
        raise ValueError(f"{HEADER} of {path} is damaged; write the corpus again.")
    return header
