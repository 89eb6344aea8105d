"""Where pairs of sentences come from: memory, text files, and Dask's collections."""

from __future__ import annotations

import codecs
import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from ..peers.source import Collection, Rows, Source, runs
from ..text_files import is_compressed, opened

__all__ = ["BagSource", "FileSource", "LineLoader", "PairsSource", "as_bitext"]

Path = str | os.PathLike[str]
#: A place to seek to is remembered for every so many lines.
STRIDE = 4096
#: What has a folder or an ending, such as text.en.
_LIKE_A_PATH = re.compile(r".*(?:[/\\]\S|\w\.[A-Za-z]\w*$)")


class PairsSource(Rows):
    """Pairs of sentences in memory.

    Parameters
    ----------
    rows : sequence of pairs (source, target)
        Sentences are strings, or sequences of tokens.

    Examples
    --------
    >>> source = PairsSource([("a", "b"), ("c", "d"), ("e", "f")])
    >>> [len(part[0].load()) for part in source.cut(2)]
    [2, 1]
    """


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A place in a file: how far to seek, and how many lines to skip there."""

    offset: int
    skip: int


@dataclasses.dataclass(frozen=True)
class LineLoader:
    """Some lines of a file, and the same lines of its translation.

    Parameters
    ----------
    source, target : str
        Paths.
    marks : tuple
        Where to begin, in either.
    n_lines : int
    """

    source: str
    target: str
    marks: tuple[_Mark, _Mark]
    n_lines: int

    def load(self) -> list[tuple[str, str]]:
        """Return pairs of lines.

        Raises
        ------
        ValueError
            If there are fewer lines than there were.
        """
        sides = [
            _lines(path, mark, self.n_lines)
            for path, mark in zip((self.source, self.target), self.marks, strict=True)
        ]
        for path, lines in zip((self.source, self.target), sides, strict=True):
            if len(lines) != self.n_lines:
                raise ValueError(f"{path} has changed: lines have gone")
        return list(zip(*sides, strict=True))


def _lines(path: str, mark: _Mark, n_lines: int) -> list[str]:
    with opened(path) as file:
        file.seek(mark.offset)
        lines = list(islice(file, mark.skip, mark.skip + n_lines))
        if lines and mark == _Mark(0, 0):
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        # not str.splitlines, for which some spaces in a line are ends of lines
        try:
            return [line.decode("utf-8").rstrip("\r\n") for line in lines]
        except UnicodeDecodeError as error:
            # which would arrive from a worker without its message
            wrong = error.object[:40]
            raise ValueError(f"{path} is not UTF-8: {wrong!r}") from None


@dataclasses.dataclass(frozen=True)
class _Index:
    """How many lines a file has, and where some of them begin."""

    path: str
    n_lines: int
    offsets: tuple[int, ...]
    compressed: bool

    @classmethod
    def of(cls, path: str) -> _Index:
        n, at, offsets = 0, 0, []
        with opened(path) as file:
            for line in file:
                if n == 0 and line.startswith(
                    (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
                ):
                    raise ValueError(f"{path} is UTF-16: convert it to UTF-8")
                if n % STRIDE == 0:
                    offsets.append(at)
                n += 1
                at += len(line)
        return cls(path, n, tuple(offsets), is_compressed(path))

    def mark(self, line: int) -> _Mark:
        # seeking in a compressed file reads all there is before: so do lines
        if self.compressed:
            return _Mark(0, line)
        return _Mark(self.offsets[line // STRIDE], line % STRIDE)


class FileSource(Source):
    """Text files with a sentence in a line, whose translation is in the same line.

    Parts are loaded where they are needed, so nodes must find the files under the same
    paths. They are UTF-8, plain or compressed by gzip.

    Parameters
    ----------
    source, target : path, or sequence of paths
        As many of one as of the other.

    Raises
    ------
    ValueError
        If there are not, or, as soon as lines are counted, if a file has other than
        its translation's number of lines.
    FileNotFoundError
        If there are no such files.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.alignment import FileSource
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [pathlib.Path(folder) / name for name in ("en", "fr")]
    ...     for path in paths:
    ...         _ = path.write_text("one two")
    ...     FileSource(*paths).n_rows
    1
    """

    def __init__(self, source: Path | Sequence[Path], target: Path | Sequence[Path]):
        self.source, self.target = _paths(source), _paths(target)
        if len(self.source) != len(self.target):
            raise ValueError(
                f"{len(self.source)} source files and {len(self.target)} target files "
                "are no pairs"
            )
        paths = [*self.source, *self.target]
        missing = [path for path in paths if not os.path.exists(path)]
        if missing:
            raise FileNotFoundError(f"there is no file {_named(missing)}")

    @cached_property
    def _indices(self) -> list[tuple[_Index, _Index]]:
        pairs = []
        for source, target in zip(self.source, self.target, strict=True):
            pair = _Index.of(source), _Index.of(target)
            if pair[0].n_lines != pair[1].n_lines:
                raise ValueError(
                    f"{source} has {pair[0].n_lines} lines and {target} "
                    f"{pair[1].n_lines}: lines are to be translations of each other"
                )
            pairs.append(pair)
        return pairs

    @property
    def n_rows(self) -> int:
        """Number of lines, which are counted once."""
        return sum(pair[0].n_lines for pair in self._indices)

    def cut(self, n_nodes: int) -> list[Sequence[Any]]:
        """Return parts of about the same number of lines."""
        return [self._part(a, b) for a, b in runs(self.n_rows, n_nodes)]

    def _part(self, start: int, stop: int) -> list[LineLoader]:
        loaders = []
        first = 0
        for source, target in self._indices:
            a = max(start - first, 0)
            b = min(stop - first, source.n_lines)
            if b > a:
                marks = source.mark(a), target.mark(a)
                loaders.append(LineLoader(source.path, target.path, marks, b - a))
            first += source.n_lines
        return loaders


def _named(missing: list[str], n: int = 3) -> str:
    more = f" and {len(missing) - n} more" if len(missing) > n else ""
    return ", ".join(missing[:n]) + more


def _paths(paths: Path | Sequence[Path]) -> list[str]:
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    return [os.path.abspath(path) for path in paths]


class BagSource(Collection):
    """Pairs of sentences in a Dask bag, or two columns of a Dask DataFrame.

    Parameters
    ----------
    collection : dask.bag.Bag of pairs, or dask.dataframe.DataFrame with two columns

    Examples
    --------
    >>> import dask.bag as db
    >>> from dask_em.alignment import BagSource
    >>> bag = db.from_sequence([("a", "b"), ("c", "d")], npartitions=2)
    >>> len(BagSource(bag).blocks())
    2
    """

    def blocks(self) -> list[Any]:
        """Return all partitions, as delayed lists of pairs."""
        from dask import delayed

        as_block = delayed(_frame_pairs if _is_frame(self.collection) else list)
        return [as_block(part) for part in super().blocks()]


def _is_frame(obj: Any) -> bool:
    return hasattr(obj, "columns")


def _frame_pairs(frame: Any) -> list[tuple[Any, Any]]:
    # by place: both may have the same name
    source, target = (_column(frame.iloc[:, k]) for k in range(2))
    return list(zip(source, target, strict=True))


def _column(series: Any) -> list[Any]:
    """Return the sentences of a column, of which none may be missing."""
    missing = series.isna()
    if missing.any():
        row = series.index[missing.argmax()]
        raise ValueError(
            f"row {row!r} of column {series.name!r} has no sentence: leave such rows "
            "out with dropna()"
        )
    return list(series.tolist())


def as_bitext(obj: Any, target: Any = None) -> Source:
    """Return a source of pairs of sentences.

    Parameters
    ----------
    obj : object
        An iterable of pairs, a tuple of two paths, a Dask bag of pairs, a pandas or
        Dask DataFrame with two columns of text, or a `Source`. If `target` is given:
        the source side alone, a path, a list of paths, or sentences.
    target : object, optional
        The other side.

    Returns
    -------
    Source

    Raises
    ------
    ValueError
        If the two sides have different numbers of sentences, or a DataFrame has not
        two columns, or no sentence in some row.
    FileNotFoundError
        If a file is missing. Strings are taken for paths if they are two, or in two
        lists if they are paths, some are files, or all look like ``text.en``.
    TypeError
        If it is none of these.

    Examples
    --------
    >>> as_bitext([("the house", "la maison")]).n_rows
    1
    >>> as_bitext(["the house"], [["la", "maison"]]).n_rows
    1
    """
    if target is not None:
        return _two_sides(obj, target)
    if isinstance(obj, Source):
        return obj
    if isinstance(obj, tuple) and len(obj) == 2 and all(map(_is_path, obj)):
        return _two_files(*obj)
    if _is_frame(obj):
        if len(obj.columns) != 2:
            raise ValueError(
                f"a DataFrame of two columns is wanted, not of {len(obj.columns)}; "
                "select the one of the source and the one of the target"
            )
        if hasattr(obj, "to_delayed"):
            return BagSource(obj)
        return PairsSource(_frame_pairs(obj))
    if hasattr(obj, "to_delayed"):
        return BagSource(obj)
    if isinstance(obj, Iterable) and not _is_path(obj):
        return PairsSource(obj if isinstance(obj, list) else list(obj))
    raise TypeError(
        "pairs of sentences are wanted: an iterable of pairs, two paths, a Dask bag "
        f"or a DataFrame of two columns, not {type(obj).__name__}"
    )


def _is_path(obj: Any) -> bool:
    return isinstance(obj, str | os.PathLike)


def _two_sides(source: Any, target: Any) -> Source:
    if _is_path(source) and _is_path(target):
        return _two_files(source, target)
    if _is_path(source) or _is_path(target):
        raise TypeError(
            "one side is a path or a string and the other is not: give two paths, or "
            "two lists of paths or of sentences"
        )
    source, target = _side(source), _side(target)
    both = [*source, *target]
    if source and all(map(_is_path, both)) and _are_files(both):
        return FileSource(source, target)
    if len(source) != len(target):
        raise ValueError(
            f"{len(source)} source sentences and {len(target)} target sentences are "
            "no pairs"
        )
    return PairsSource(list(zip(source, target, strict=True)))


def _two_files(source: Path, target: Path) -> FileSource:
    try:
        return FileSource(source, target)
    except FileNotFoundError as error:
        if not any(re.search(r"\s", os.fspath(path)) for path in (source, target)):
            raise
        raise FileNotFoundError(
            f"{error}: two strings are two paths; for one pair of sentences give "
            "[(source, target)]"
        ) from None


def _side(obj: Any) -> list[Any]:
    """Return the sentences, or the paths, of one side."""
    if hasattr(obj, "to_delayed"):
        bags = "a.to_bag(), b.to_bag()" if hasattr(obj, "to_bag") else "a, b"
        raise TypeError(f"zip the bags first: fit(dask.bag.zip({bags}))")
    if _is_frame(obj):
        if len(obj.columns) != 1:
            raise ValueError(
                f"a side is one column: select one of the {len(obj.columns)} of this "
                "DataFrame"
            )
        obj = obj.iloc[:, 0]
    return _column(obj) if hasattr(obj, "isna") else list(obj)


def _are_files(strings: list[Any]) -> bool:
    """Return whether strings, which may be sentences, are meant to be paths."""
    if any(isinstance(each, os.PathLike) for each in strings):
        return True
    like = [each for each in strings if _LIKE_A_PATH.match(each)]
    if len(like) == len(strings) and not any(re.search(r"\s", each) for each in like):
        return True
    return any(map(os.path.isfile, like)) or all(map(os.path.isfile, strings))
