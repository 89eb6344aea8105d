"""Lists of edges in files."""

from __future__ import annotations

import codecs
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..text_files import opened
from .edges import Edges

__all__ = ["read_edges"]

PathLike = str | os.PathLike[str]

#: Beginnings of lines that are remarks.
_REMARKS = (b"#", b"%")


def read_edges(path: PathLike) -> Edges:
    r"""Read edges from a file with one a line.

    Parameters
    ----------
    path : path
        Of a text, plain or compressed by gzip. A line has two nodes and perhaps a
        weight, with commas between them or else blanks; those that begin with # or %
        are left out. Nodes are whole numbers, or names if one of them is not. Commas
        are for names with blanks, and for quotation marks around names.

    Returns
    -------
    Edges

    Raises
    ------
    ValueError
        If a line is something else, or there is none.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.networks import read_edges
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "edges.csv"
    ...     _ = path.write_text("ann,bob,2\nbob,cy,1\n")
    ...     read_edges(path).nodes.tolist()
    ['ann', 'bob', 'cy']
    """
    lines: list[list[bytes]] = []
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            line = line.strip()
            if not line or line.startswith(_REMARKS):
                continue
            fields = line.split()
            if b"," in line:
                fields = [field.strip().strip(b'"') for field in line.split(b",")]
            width = len(lines[0]) if lines else len(fields)
            if len(fields) != width or width not in (2, 3):
                raise ValueError(
                    f"Line {number} of {path} has {len(fields)} fields; there must be "
                    "two nodes in every line, and a weight in all of them or none."
                )
            if not all(fields):
                raise ValueError(f"Line {number} of {path} lacks a field; drop it.")
            lines.append(fields)
    if not lines:
        raise ValueError(f"{path} has no edges.")
    columns = [np.array(column) for column in zip(*lines, strict=True)]
    if len(lines) > 1 and _is_header(columns):
        raise ValueError(
            f"{path} seems to begin with the names of its columns; put # before them."
        )
    ends = np.concatenate(columns[:2])
    ends = _numbers_or_texts(ends, path)
    weights = None
    if len(columns) == 3:
        try:
            weights = columns[2].astype(np.float64)
        except ValueError:
            raise ValueError(f"The weights in {path} are not all numbers.") from None
    return Edges(ends[: len(lines)], ends[len(lines) :], weights)


def _numbers_or_texts(names: NDArray[np.bytes_], path: PathLike) -> NDArray[Any]:
    """Return names from a file as whole numbers, if they are all that."""
    if not (np.char.find(names, b"_") >= 0).any():  # 1_0 would be 10
        try:
            return names.astype(np.int64)
        except (ValueError, OverflowError):
            pass
    try:
        return np.char.decode(names, "utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} has names that are not UTF-8; convert it.") from None


def _is_header(columns: list[NDArray[Any]]) -> bool:
    """Whether a column has numbers alone, but for its first line."""

    def numeric(values: NDArray[Any]) -> bool:
        try:
            values.astype(np.float64)
        except ValueError:
            return False
        return True

    return any(numeric(c[1:]) and not numeric(c[:1]) for c in columns)
