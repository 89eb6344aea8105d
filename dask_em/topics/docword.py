"""The docword format of the UCI "Bag of Words" collections.

Three lines with the number of documents D, of words W and of the lines that follow,
and then a line ``document word count`` per word of a document. Numbers start at 1,
and documents are in order. A document without a line is empty.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..kernels.docword import NEGATIVE, NOT_WHOLE, OK, parse_lines
from ..text_files import is_compressed, opened

__all__ = [
    "Header",
    "Read",
    "Span",
    "read_blocks",
    "read_docword",
    "read_header",
    "read_span",
    "read_vocab",
    "spans",
    "write_docword",
]

PathLike = str | os.PathLike[str]

#: Bytes parsed at a time, which bounds the memory beside the result.
_CHUNK = 1 << 24

_DISORDER = "The documents of {path} are not in order; sort its lines by document."


@dataclasses.dataclass(frozen=True)
class Header:
    """The first three lines.

    Attributes
    ----------
    n_docs, n_words, nnz : int
    n_bytes : int
        Length of the three lines.
    """

    n_docs: int
    n_words: int
    nnz: int
    n_bytes: int


@dataclasses.dataclass(frozen=True)
class Span:
    """Some consecutive documents, and where in the file they are.

    Attributes
    ----------
    docs : (int, int)
        First document, from 0, and the one after the last.
    where : (int, int) or None
        Their bytes; None where only reading from the beginning finds them.
    """

    docs: tuple[int, int]
    where: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Read:
    """How many entries were found in a part of a file; those of parts are added up.

    Attributes
    ----------
    path : str
    n_read : int
        Those with a count of 0 included.
    nnz : int
        How many the header says there are in the whole file.
    """

    path: str
    n_read: int
    nnz: int

    def __add__(self, other: Read) -> Read:
        return dataclasses.replace(self, n_read=self.n_read + other.n_read)

    def verify(self) -> None:
        """Raise `ValueError` unless there are as many as there should be."""
        if self.n_read != self.nnz:
            raise ValueError(
                f"{self.path} has {self.n_read} entries but its header says "
                f"{self.nnz}; it may be cut off."
            )


def read_header(path: PathLike) -> Header:
    """Read the first three lines of a file.

    Parameters
    ----------
    path : path

    Returns
    -------
    Header

    Raises
    ------
    ValueError
        If they are not three whole numbers.
    """
    with opened(path) as file:
        return _header(file, path)


def _header(file: IO[bytes], path: PathLike) -> Header:
    lines = [file.readline(100) for _ in range(3)]
    try:
        n_docs, n_words, nnz = (int(line) for line in lines)
        if min(n_docs, n_words, nnz) < 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{path} does not begin with three lines that hold the numbers of "
            "documents, words and entries; it is not in docword format."
        ) from None
    return Header(n_docs, n_words, nnz, sum(map(len, lines)))


def read_docword(
    path: PathLike, start: int = 0, stop: int | None = None, *, dtype: Any = np.float32
) -> sp.csr_array:
    """Read a corpus, or some consecutive documents of it.

    Parameters
    ----------
    path : path
        Of a plain file, or of one compressed by gzip.
    start : int, default=0
        First document, from 0.
    stop : int, default=None
        The one after the last. None stands for the end of the corpus.
    dtype : dtype, default=float32
        Of the counts; float32 is exact up to 2 ** 24.

    Returns
    -------
    csr_array of shape (stop - start, n_words)

    Raises
    ------
    ValueError
        If the file is not in docword format, its documents are out of order, numbers
        are out of range, or there are not as many entries as its header says.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dask_em.topics import read_docword, write_docword
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "docword.txt.gz"
    ...     write_docword(path, [[2, 0, 1], [0, 0, 0], [0, 3, 0]])
    ...     read_docword(path).toarray()
    array([[2., 0., 1.],
           [0., 0., 0.],
           [0., 3., 0.]], dtype=float32)
    """
    header = read_header(path)
    stop = header.n_docs if stop is None else stop
    if not 0 <= start <= stop <= header.n_docs:
        raise ValueError(
            f"Documents {start} to {stop} are not among the {header.n_docs} of {path}."
        )
    return read_span(path, header, Span((start, stop)), dtype=dtype)


def read_span(
    path: PathLike, header: Header, span: Span, *, dtype: Any = np.float32
) -> sp.csr_array:
    """Read the documents of a span; see `read_docword`.

    Where the bytes of the span are known nothing else is read. The result then has the
    attribute `read`, a `Read`, for only the parts of a file together tell whether it
    lacks lines at its end.
    """
    start, stop = span.docs
    shape = (stop - start, header.n_words)
    docs, words, counts = [np.empty(0, int)], [np.empty(0, np.int32)], [np.empty(0)]
    n_read, at_end, last_doc = 0, True, 0
    for entries in _entries(path, header, span):
        doc, word, count = entries.T
        _check(path, header, doc, word, last_doc)
        n_read, last_doc = n_read + len(doc), int(doc[-1])
        keep = (doc > start) & (doc <= stop) & (count > 0)
        if span.where is not None and (doc[0] <= start or doc[-1] > stop):
            raise ValueError(f"{path} has changed since it was cut into parts.")
        docs.append(doc[keep] - 1 - start)
        words.append((word[keep] - 1).astype(np.int32))
        counts.append(count[keep].astype(dtype))
        if span.where is None and last_doc > stop:
            at_end = False
            break
    read = Read(os.fspath(path), n_read, header.nnz)
    if span.where is None and at_end:
        read.verify()
    indptr = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(np.bincount(np.concatenate(docs), minlength=shape[0]), out=indptr[1:])
    data = np.concatenate(counts).astype(dtype)
    found = sp.csr_array((data, np.concatenate(words), indptr), shape=shape)
    found.sum_duplicates()
    if span.where is not None:
        found.read = read
    return found


def read_blocks(path: PathLike, n_entries: int) -> Iterator[sp.csr_array]:
    """Yield all documents of a file in order, some at a time.

    Parameters
    ----------
    path : path
    n_entries : int
        How many entries to gather before documents are yielded.

    Yields
    ------
    csr_array of shape (n, n_words)
        As `read_span` returns them.
    """
    header = read_header(path)
    whole = Span((0, header.n_docs))
    held = [np.empty((0, 3), np.int64)]
    start = n_held = last_doc = 0
    read = Read(os.fspath(path), 0, header.nnz)
    for entries in _entries(path, header, whole):
        _check(path, header, entries[:, 0], entries[:, 1], last_doc)
        last_doc = int(entries[-1, 0])
        read += dataclasses.replace(read, n_read=len(entries))
        held.append(entries)
        n_held += len(entries)
        if n_held >= n_entries:  # the last document may go on
            found = np.concatenate(held)
            cut = int(np.searchsorted(found[:, 0], last_doc))
            if cut:
                yield _block(found[:cut], start, last_doc - 1, header)
                start = last_doc - 1
            held, n_held = [found[cut:]], len(found) - cut
    read.verify()
    yield _block(np.concatenate(held), start, header.n_docs, header)


def _block(
    entries: NDArray[np.int64], start: int, stop: int, header: Header
) -> sp.csr_array:
    doc, word, count = entries[entries[:, 2] > 0].T
    indptr = np.zeros(stop - start + 1, np.int64)
    np.cumsum(np.bincount(doc - 1 - start, minlength=stop - start), out=indptr[1:])
    counts, words = count.astype(np.float32), (word - 1).astype(np.int32)
    found = sp.csr_array((counts, words, indptr), shape=(stop - start, header.n_words))
    found.sum_duplicates()
    return found


def _check(
    path: PathLike,
    header: Header,
    doc: NDArray[np.int64],
    word: NDArray[np.int64],
    last_doc: int,
) -> None:
    """Raise for ids out of range, or documents out of order."""
    for name, ids, n in (
        ("document", doc, header.n_docs),
        ("word", word, header.n_words),
    ):
        outside = (ids < 1) | (ids > n)
        if outside.any():
            raise ValueError(
                f"{path} has an entry for {name} {ids[outside][0]}, but its {name}s "
                f"are numbered from 1 to {n}."
            )
    if doc[0] < last_doc or (np.diff(doc) < 0).any():
        raise ValueError(_DISORDER.format(path=path))


def _entries(path: PathLike, header: Header, span: Span) -> Iterator[NDArray[np.int64]]:
    """Yield arrays of shape (n, 3) with the entries of a span, n > 0."""
    first, last = span.where or (header.n_bytes, None)
    with opened(path) as file:
        file.seek(first)
        left, tail = last and last - first, b""
        while True:
            try:
                text = file.read(_CHUNK if left is None else min(_CHUNK, left))
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(
                    f"{path} cannot be uncompressed ({error}); it may be cut off."
                ) from None
            left = left and left - len(text)
            whole, _, rest = (tail + text).rpartition(b"\n")
            ends = not text
            if ends:  # the last line may lack its newline
                whole, rest = tail, b""
            found = np.empty((whole.count(b"\n") + 1, 3), np.int64)
            n, n_lines, status = parse_lines(np.frombuffer(whole, np.uint8), found)
            if status != OK:
                raise ValueError(_complaint(path, whole, n_lines, status))
            if n:
                yield found[:n]
            tail = rest
            if ends:
                return


def _complaint(path: PathLike, text: bytes, line: int, status: int) -> str:
    shown = text.split(b"\n")[line][:60].decode("utf-8", "replace")
    if status == NEGATIVE:
        return f"{path} has a negative number in the line {shown!r}."
    what = "holds something else" if status == NOT_WHOLE else "does not"
    return (
        f"Each line of {path} must be 'document word count' in whole numbers, but "
        f"{shown!r} {what}."
    )


def spans(path: PathLike, header: Header, n: int) -> list[Span]:
    """Cut a corpus into consecutive parts.

    Those of a plain file have as many bytes each, up to a document, and are found by
    looking at the file there; those of a compressed one have as many documents.

    Parameters
    ----------
    path : path
    header : Header
    n : int

    Returns
    -------
    list of Span
        Of length n; some may have no documents.
    """
    if is_compressed(path):
        edges = [header.n_docs * i // n for i in range(n + 1)]
        return [Span(docs) for docs in itertools.pairwise(edges)]
    if n == 1:  # read as a whole, it is verified at once
        return [Span((0, header.n_docs))]
    size = os.path.getsize(path)
    begin = header.n_bytes
    with open(path, "rb") as file:
        inner = [
            _next_document(file, path, begin, begin + (size - begin) * i // n, size)
            for i in range(1, n)
        ]
    # empty documents belong with the ones before them
    cuts = [(begin, 0)]
    for where, doc in inner:
        cuts.append((where, header.n_docs if doc is None else doc))
    cuts.append((size, header.n_docs))
    if any(a[1] > b[1] for a, b in itertools.pairwise(cuts)):
        raise ValueError(_DISORDER.format(path=path))
    return [Span((a[1], b[1]), (a[0], b[0])) for a, b in itertools.pairwise(cuts)]


def _next_document(
    file: IO[bytes], path: PathLike, begin: int, near: int, size: int
) -> tuple[int, int | None]:
    """Return where the first document after a place begins, and its number from 0."""
    if near <= begin:
        return begin, 0
    file.seek(near - 1)
    file.readline()  # whatever was going on there
    doc = None
    while file.tell() < size:
        where, line = file.tell(), file.readline()
        if not line.split():
            continue
        try:
            found = int(line.split()[0])
        except ValueError:
            raise ValueError(_complaint(path, line, 0, NOT_WHOLE)) from None
        if doc is not None and found != doc:
            return where, found - 1
        doc = found
    return size, None


def write_docword(path: PathLike, X: Any) -> None:
    """Write a corpus.

    Parameters
    ----------
    path : path
        Compressed by gzip if it ends in ``.gz``.
    X : array-like or sparse matrix of shape (n_docs, n_words)
        Counts: whole numbers that are not negative.

    Raises
    ------
    ValueError
        If they are something else.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.topics import read_docword, write_docword
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "docword.txt"
    ...     write_docword(path, [[2, 0], [1, 3]])
    ...     read_docword(path).toarray().tolist()
    [[2.0, 0.0], [1.0, 3.0]]
    """
    counts = sp.coo_array(sp.csr_array(X))
    data = np.asarray(counts.data)
    if not (np.isfinite(data).all() and (data >= 0).all() and (data % 1 == 0).all()):
        raise ValueError("Counts must be whole numbers that are not negative.")
    keep = data > 0
    entries = np.stack(
        [counts.row[keep] + 1, counts.col[keep] + 1, data[keep].astype(np.int64)],
        axis=1,
    )
    zipped = str(path).endswith(".gz")
    with gzip.open(path, "wt") if zipped else open(path, "w", encoding="ascii") as file:
        file.write(f"{counts.shape[0]}\n{counts.shape[1]}\n{len(entries)}\n")
        for i in range(0, len(entries), 1 << 16):
            lines = (
                f"{d} {w} {n}\n" for d, w, n in entries[i : i + (1 << 16)].tolist()
            )
            file.writelines(lines)


def read_vocab(path: PathLike) -> list[str]:
    """Read the words of a corpus.

    Parameters
    ----------
    path : path
        One word per line, in the order of their ids; plain or compressed by gzip.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.topics import read_vocab
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "vocab.txt"
    ...     _ = path.write_text("tea")
    ...     read_vocab(path)
    ['tea']
    """
    with opened(Path(path)) as file:
        return file.read().decode("utf-8").splitlines()
