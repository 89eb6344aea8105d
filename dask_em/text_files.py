"""Files of text, plain or compressed."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

__all__ = ["is_compressed", "opened"]

PathLike = str | os.PathLike[str]


def is_compressed(path: PathLike) -> bool:
    """Return whether a file is compressed by gzip, whatever its name."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def opened(path: PathLike) -> Iterator[IO[bytes]]:
    """Open a file to be read as bytes, which are decompressed if need be.

    Raises
    ------
    gzip.BadGzipFile
        If it is compressed, and damaged or cut off.
    """
    try:
        with gzip.open(path) if is_compressed(path) else open(path, "rb") as file:
            yield cast(IO[bytes], file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = str(error).rstrip(".")
        raise gzip.BadGzipFile(
            f"{path} is damaged, compress it again: {reason}"
        ) from None
