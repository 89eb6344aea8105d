"""Writing corpora: a directory of chunks, made or replaced as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from .chunk_format import (
    ARRAYS,
    FORMAT,
    HEADER,
    VERSION,
    VOCABULARY,
    Chunk,
    file_of,
    read_header,
)
from .chunk_writer import ChunkWriter
from .docword import PathLike
from .sources import Corpus, as_corpus
from .vocabulary import listed_words

__all__ = ["write_corpus"]

_FOLDER = re.compile(r"data-[0-9a-f]{12}")


def write_corpus(
    path: PathLike,
    blocks: Any,
    *,
    vocabulary: Sequence[str] | Mapping[str, int] | None = None,
    n_words: int | None = None,
    docs_per_chunk: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a corpus to be read fast, in parts, any number of times.

    Parameters
    ----------
    path : path
        Of a directory, which is made if it is not there.
    blocks : iterable of sparse matrices, or whatever `as_corpus` takes
        An iterable, such as a generator, is written as it comes and may have more
        documents than fit in memory. Dask's arrays and bags are computed chunk by
        chunk and written where they are, so workers have to see `path`.
    vocabulary : sequence of str of length n_words, default=None
        Words in the order of their numbers, or a mapping from words to numbers; that
        of the corpus if it has one.
    n_words : int, default=None
        Number of words, which is needed where there are no blocks to tell.
    docs_per_chunk : int, default=None
        Documents of a chunk. By default chunks have about 4 million entries, which is
        20 MB on disk and 32 MB in memory. Chunks of Dask's are divided if they are
        larger, and never joined.
    overwrite : bool, default=False
        Whether to put it in the place of a corpus that is there. That one is deleted
        when the new one is complete, so it is still there if writing fails.

    Raises
    ------
    FileExistsError
        If there is something at `path` already.
    ValueError
        If counts are negative or not finite, blocks have different numbers of columns,
        or the vocabulary has not one word for each.

    See Also
    --------
    ChunkedSource : Such a corpus, to be fitted.
    read_corpus : Its counts, in memory.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from dask_em.topics import as_corpus, write_corpus
    >>> rng = np.random.default_rng(0)
    >>> blocks = (rng.poisson(0.1, (100, 50)) for _ in range(5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "corpus"
    ...     write_corpus(path, blocks)
    ...     as_corpus(path).n_rows
    500
    """
    if docs_per_chunk is not None and not (
        isinstance(docs_per_chunk, int | np.integer) and docs_per_chunk >= 1
    ):
        raise ValueError(
            f"docs_per_chunk must be an int of at least 1, got {docs_per_chunk!r}."
        )
    if vocabulary is not None:
        vocabulary = listed_words(vocabulary)
    path = os.path.abspath(path)
    _check_place(path, overwrite)
    if not _are_blocks(blocks):
        blocks = as_corpus(blocks)
        n_words = blocks.n_words if n_words is None else n_words
        vocabulary = blocks.vocabulary_ if vocabulary is None else vocabulary
    words = None if vocabulary is None else _text(vocabulary)
    if vocabulary is not None:
        n_words = len(vocabulary) if n_words is None else n_words
        if len(vocabulary) != n_words:
            raise ValueError(
                f"The vocabulary has {len(vocabulary)} words and there are {n_words} "
                "columns; it must have a word for each."
            )
    data = f"data-{uuid.uuid4().hex[:12]}"
    folder = os.path.join(path, data)
    existed = os.path.isdir(path)
    os.makedirs(folder)
    try:
        writer = ChunkWriter(folder, docs_per_chunk, n_words)
        if isinstance(blocks, Corpus):
            chunks = writer.corpus(blocks)
        else:
            chunks = writer.stream(blocks)
        if writer.n_words is None:
            raise ValueError("There are no blocks; say how many words with n_words=.")
        _check_files(folder, chunks)
        if words is not None:
            with open(os.path.join(folder, VOCABULARY), "wb") as file:
                file.write(words)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "data": data,
            "n_docs": sum(chunk.docs for chunk in chunks),
            "n_words": writer.n_words,
            "n_entries": sum(chunk.entries for chunk in chunks),
            "n_tokens": sum(chunk.tokens for chunk in chunks),
            "vocabulary": None if words is None else zlib.crc32(words),
            "chunks": [dataclasses.asdict(chunk) for chunk in chunks],
        }
        _replace(os.path.join(path, HEADER), json.dumps(header, indent=1).encode())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise
    if read_header(path).data != data:
        return  # somebody has replaced it already, and tidies up
    _tidy(path, {HEADER, data})
    _tidy(folder, {n for n in os.listdir(folder) if n.endswith((".npy", ".txt"))})


def _tidy(folder: str, kept: set[str]) -> None:
    """Delete what is of no use any more, or was left by somebody who was killed."""
    for name in set(os.listdir(folder)) - kept:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(path)


def _check_place(path: str, overwrite: bool) -> None:
    """Raise if something is there that is not to be, or cannot be, replaced."""
    if not os.path.lexists(path):
        return
    there = set(os.listdir(path)) if os.path.isdir(path) else {""}
    if not there:
        return
    if not all(name.startswith(HEADER) or _FOLDER.fullmatch(name) for name in there):
        raise FileExistsError(
            f"{path} holds other things than a corpus; give a new directory."
        )
    if not overwrite:
        what = "a corpus" if HEADER in there else "what is left of a failed write"
        raise FileExistsError(
            f"{path} holds {what}; give another path, or overwrite=True to replace it."
        )


def _are_blocks(given: Any) -> bool:
    """Whether these are blocks of a corpus, rather than a corpus."""
    if hasattr(given, "__next__"):
        return True
    first = given[0] if isinstance(given, list | tuple) and given else None
    return sp.issparse(first) or getattr(first, "ndim", 0) == 2


def _text(vocabulary: Sequence[str]) -> bytes:
    for word in vocabulary:
        if "\n" in word:
            raise ValueError(f"{word!r} has the end of a line in it; leave it out.")
    return "".join(f"{word}\n" for word in vocabulary).encode("utf-8")


def _check_files(folder: str, chunks: Iterable[Chunk]) -> None:
    for chunk in chunks:
        for array in ARRAYS:
            if not os.path.exists(file_of(folder, chunk.name, array)):
                raise FileNotFoundError(
                    "what workers wrote is not found here; the directory must be on a "
                    f"disk that workers and this process share: {folder}"
                )


def _replace(path: str, data: bytes) -> None:
    """Put a file in place at once."""
    temporary = f"{path}.{uuid.uuid4().hex[:12]}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
