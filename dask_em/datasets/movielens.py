"""MovieLens as it comes from GroupLens, with the predictors of the DEM paper."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_movielens"]

_SITE = "https://grouplens.org/datasets/movielens/"

#: Categories of the genres; 100K and 1M say "Children's" where others say "Children".
_CATEGORIES = {
    "action": ("Action", "Adventure", "Fantasy", "Horror", "Sci-Fi", "Thriller"),
    "children": ("Animation", "Children", "Children's"),
    "comedy": ("Comedy",),
    "drama": (
        *("Crime", "Documentary", "Drama", "Film-Noir", "Musical", "Mystery"),
        *("Romance", "War", "Western"),
    ),
}
#: Row of each genre in the sum-to-zero contrasts: children, comedy, drama.
_CONTRASTS = {
    genre: row
    for genres, row in zip(
        _CATEGORIES.values(), np.vstack([-np.ones(3), np.eye(3)]), strict=True
    )
    for genre in genres
}
#: Flags of u.item in their order, after "unknown".
_FLAGS = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical"),
    *("Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_LIKED = 4.0  # ratings from here on are likes
_WINDOW = 30  # so many of a movie's ratings make its popularity

_COLUMNS = ("user", "movie", "rating", "timestamp")
_CSV_COLUMNS = ("userId", "movieId", "rating", "timestamp")


@dataclass(frozen=True)
class _Layout:
    """How a release writes its ratings."""

    ratings: str
    movies: str
    separator: str
    fields: tuple[str, ...]  # in the file's order; those that are "" hold nothing

    @property
    def line(self) -> str:
        """What a line looks like, for messages."""
        return self.separator.join(name for name in self.fields if name)


_LAYOUTS = (
    _Layout("ratings.csv", "movies.csv", ",", _CSV_COLUMNS),
    _Layout("ratings.dat", "movies.dat", "::", _COLUMNS),
    _Layout("u.data", "u.item", "\t", _COLUMNS),
)
_NAMES = " or ".join(layout.ratings for layout in _LAYOUTS)


def load_movielens(
    path: str | PathLike[str],
    *,
    features: bool = True,
    min_ratings: int | None = None,
    max_ratings: int | None = None,
) -> pd.DataFrame:
    r"""Read a release of MovieLens, and compute the predictors of the DEM paper.

    All layouts are known: 100K (``u.data``), 1M and 10M (``ratings.dat``), and 20M,
    25M, 32M and latest (``ratings.csv``). Nothing is downloaded.

    Parameters
    ----------
    path : path-like
        Folder of an unpacked release, its zip file, or the file of ratings. With
        `features`, the file of movies is expected beside the ratings.
    features : bool, default=True
        Add the predictors.
    min_ratings, max_ratings : int, optional
        Keep the users with at least or at most so many ratings. They are dropped
        after the predictors are computed, so that their ratings count towards the
        popularity of a movie. The paper has 20 and 500.

    Returns
    -------
    pandas.DataFrame of n_ratings rows
        In the order of the file, with the columns

        * `user`, `movie`: int32;
        * `rating`: float64, 0.5 to 5 (whole numbers from 1 in 100K and 1M);
        * `timestamp`: int64, seconds since 1970;

        and, with `features`, as float64,

        * `children`, `comedy`, `drama`: the movie's genres;
        * `popularity`: of the movie, before this rating;
        * `liked_last`: 1 if the user's previous rating was a like, otherwise 0.

    Raises
    ------
    ImportError
        If pandas or pyarrow is not installed.
    FileNotFoundError
        If there is nothing at `path`, no ratings, or no movies for the features.
    ValueError
        If a file has another layout or is damaged, a rated movie is not among the
        movies, or `min_ratings` exceeds `max_ratings`.

    Notes
    -----
    The predictors are those of [2]_, who follow [3]_. Genres are merged into action,
    children, comedy and drama. A movie's weight for each is its share of the movie's
    genres, and the weights are coded by contrasts that sum to zero, with action as the
    row of −1. IMAX and names that are not genres are left out; a movie without any
    genre has zeros.

    A like is a rating of at least 4. Popularity is the logit of
    ``(likes + 0.5) / (ratings + 1)`` over the movie's last 30 ratings, or all if they
    are fewer, before this one. Of ratings with the same timestamp, the one that the
    file has first comes first.

    References
    ----------
    .. [1] F. M. Harper and J. A. Konstan. The MovieLens datasets: history and context.
       ACM Transactions on Interactive Intelligent Systems 5(4), 2015. To be cited
       where the data are used.
    .. [2] S. Srivastava, G. DePalma and C. Liu. An asynchronous distributed
       expectation maximization algorithm for massive data: the DEM algorithm. Journal
       of Computational and Graphical Statistics 28(2), 2019.
    .. [3] P. O. Perry. Fast moment-based estimation for hierarchical models. Journal
       of the Royal Statistical Society B 79(1), 2017.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dask_em.datasets import load_movielens
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ratings = pathlib.Path(folder, "ratings.dat")
    ...     _ = ratings.write_text("1::7::5::100\n1::8::3::200\n2::7::4::300\n")
    ...     movies = pathlib.Path(folder, "movies.dat")
    ...     _ = movies.write_text(
    ...         "7::Up (2009)::Comedy|Drama\n8::Jaws (1975)::Action\n"
    ...     )
    ...     table = load_movielens(folder)
    >>> table[["comedy", "drama", "liked_last"]].to_numpy().tolist()
    [[0.5, 0.5, 0.0], [-1.0, -1.0, 1.0], [0.5, 0.5, 0.0]]
    >>> table["popularity"].round(3).tolist()
    [0.0, 0.0, 1.099]
    """
    if min_ratings is not None and max_ratings is not None:
        if min_ratings > max_ratings:
            raise ValueError(
                f"no user can have at least min_ratings={min_ratings} and at most "
                f"max_ratings={max_ratings} ratings; swap them"
            )
    _require_pandas()
    with _release(Path(path)) as (folder, ratings):
        layout = _layout(ratings)
        table = _read_ratings(ratings, layout)
        if features:
            movies = _find_movies(folder, layout)
            _add_genres(table, _read_genres(movies, layout), movies.name)
            _add_history(table)
    if min_ratings is None and max_ratings is None:
        return table
    count = table.groupby("user")["user"].transform("size")
    lowest = 0 if min_ratings is None else min_ratings
    highest = np.inf if max_ratings is None else max_ratings
    return table[count.between(lowest, highest)].reset_index(drop=True)


def _require_pandas() -> None:
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"load_movielens needs {error.name}; install it with: "
            'pip install "dask_em[dataframe]"'
        ) from None


# ------------------------------------------------------------------------- files


@contextmanager
def _release(path: Path) -> Iterator[tuple[Traversable, Traversable]]:
    """The folder of a release and its file of ratings, also inside a zip."""
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}; download a release of MovieLens from {_SITE}"
        )
    if path.is_dir():
        ratings = _find_ratings([path], path)
        yield path, ratings
    elif not (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        yield path.parent, path
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                root = zipfile.Path(archive)
                # GroupLens packs one folder
                folders = [root, *(item for item in root.iterdir() if item.is_dir())]
                ratings = _find_ratings(folders, path)
                yield ratings.parent, ratings
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); download it again from {_SITE}"
            ) from error


def _find_ratings(folders: list[Any], path: Path) -> Any:
    for folder in folders:
        for layout in _LAYOUTS:
            if (folder / layout.ratings).is_file():
                return folder / layout.ratings
    raise FileNotFoundError(
        f"{path} holds no ratings ({_NAMES}); pass the folder or the zip file of a "
        f"release of MovieLens"
    )


def _find_movies(folder: Traversable, layout: _Layout) -> Traversable:
    movies = folder / layout.movies
    if not movies.is_file():
        raise FileNotFoundError(
            f"there is no {layout.movies} beside the ratings in {folder}; put it "
            "there, or pass features=False"
        )
    return movies


@contextmanager
def _lines(path: Traversable) -> Iterator[Iterator[tuple[int, str]]]:
    """Numbered lines of a file."""
    # The encoding differs among releases, but only in titles, which are dropped.
    with (
        path.open("rb") as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace") as text,
    ):
        yield enumerate(text, 1)


def _layout(ratings: Traversable) -> _Layout:
    """Told by the first line: files get renamed."""
    with ratings.open("rb") as file:
        # a line of ratings is short, and what is no text at all may have no lines
        line = file.readline(1000).decode("utf-8-sig", errors="replace").strip()
    for layout in _LAYOUTS:
        names = [name.strip('"') for name in line.split(layout.separator)]
        if layout.fields is _CSV_COLUMNS:
            if {*_CSV_COLUMNS} <= {*names}:
                return _Layout("ratings.csv", "movies.csv", ",", tuple(names))
        elif len(names) == len(_COLUMNS):
            return layout
    known = ", or ".join(repr(layout.line) for layout in _LAYOUTS)
    raise ValueError(
        f"{ratings.name} starts with {line[:60]!r}, which no release of MovieLens does "
        f"(lines are {known}); pass an unchanged {_NAMES}"
    )


# ----------------------------------------------------------------------- ratings


def _read_ratings(ratings: Traversable, layout: _Layout) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    is_csv = layout.separator == ","
    columns = _CSV_COLUMNS if is_csv else _COLUMNS
    types = dict(
        zip(columns, (pa.int32(), pa.int32(), pa.float64(), pa.int64()), strict=True)
    )
    names, blank = [*layout.fields], []
    if layout.separator == "::":
        # The parser wants one character, so every other field is empty; that they
        # are is checked by their type, which has no values.
        names = [field for name in columns for field in (name, f"after {name}")][:-1]
        blank = names[1::2]
    with ratings.open("rb") as file:
        try:
            found = arrow_csv.read_csv(
                file,
                read_options=arrow_csv.ReadOptions(
                    column_names=names, skip_rows=int(is_csv), block_size=1 << 24
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=layout.separator[0], quote_char='"' if is_csv else False
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types={**types, **dict.fromkeys(blank, pa.null())},
                    include_columns=[*columns, *blank],
                    null_values=[""],
                ),
            )
        except pa.ArrowInvalid as error:
            raise _damage(ratings, layout, str(error)) from None
    found = found.select([*columns]).rename_columns([*_COLUMNS])
    if found.num_rows == 0:
        raise ValueError(f"{ratings.name} has no ratings; download it from {_SITE}")
    if any(column.null_count for column in found.columns):
        raise _damage(ratings, layout, "a field is empty")
    table = found.to_pandas(split_blocks=True, self_destruct=True)
    if not table["rating"].between(0.5, 5.0).all():
        raise _damage(ratings, layout, "a rating is not between 0.5 and 5")
    return table


def _damage(ratings: Traversable, layout: _Layout, what: str) -> ValueError:
    """The error that quotes the first damaged line."""
    where = what.split("\n")[0]
    with _lines(ratings) as lines:
        for number, line in lines:
            if number == 1 and layout.separator == ",":
                continue
            if line.strip() and not _is_rating(line, layout):
                where = f"line {number} is {line.strip()[:60]!r}"
                break
    return ValueError(
        f"{ratings.name} is damaged: {where}, where {layout.line!r} belongs; download "
        f"the release again from {_SITE}"
    )


def _is_rating(line: str, layout: _Layout) -> bool:
    values = line.replace('"', "").strip().split(layout.separator)
    if len(values) != len(layout.fields):
        return False
    row = dict(zip(layout.fields, values, strict=True))
    user, movie, rating, timestamp = (
        row[name] for name in (_CSV_COLUMNS if "userId" in row else _COLUMNS)
    )
    try:
        int(user), int(movie), int(timestamp)
        return 0.5 <= float(rating) <= 5.0
    except ValueError:
        return False


# ------------------------------------------------------------------------ genres


def _read_genres(movies: Traversable, layout: _Layout) -> dict[int, list[str]]:
    """Genres by movie."""
    genres = {}
    with _lines(movies) as lines:
        for number, line in lines:
            if not line.strip() or (layout.separator == "," and number == 1):
                continue
            try:
                movie, names = _movie(line.rstrip("\n"), layout)
            except (ValueError, csv.Error):
                raise ValueError(
                    f"{movies.name} is damaged: line {number} is "
                    f"{line.strip()[:60]!r}, which is not a movie with its genres; "
                    f"download the release again from {_SITE}"
                ) from None
            genres[movie] = names
    return genres


def _movie(line: str, layout: _Layout) -> tuple[int, list[str]]:
    """Number and genres from a line; titles may contain separators."""
    if layout.separator == "\t":
        start, *flags = line.rsplit("|", len(_FLAGS) + 1)
        if len(flags) <= len(_FLAGS) or not {*flags} <= {"0", "1"}:
            raise ValueError("flags are missing")
        chosen = zip(_FLAGS, flags[1:], strict=True)  # the first is "unknown"
        return int(start.split("|")[0]), [name for name, flag in chosen if flag == "1"]
    if layout.separator == "::":
        movie, _, rest = line.partition("::")
        _, separator, genres = rest.rpartition("::")
        if not separator:
            raise ValueError("a field is missing")
    else:
        movie, _, genres = next(csv.reader([line], strict=True))
    return int(movie), genres.split("|")


def _code(genres: list[str]) -> NDArray[np.float64]:
    """Mean of the contrasts of a movie's genres, shape (3,)."""
    rows = [_CONTRASTS[genre] for genre in genres if genre in _CONTRASTS]
    return np.mean(rows, axis=0) if rows else np.zeros(3)


def _add_genres(table: pd.DataFrame, genres: dict[int, list[str]], name: str) -> None:
    """Add the columns `children`, `comedy` and `drama` in place."""
    known = np.array(sorted(genres), dtype=np.int64)
    rated = table["movie"].to_numpy()
    row = np.searchsorted(known, rated)
    found = row < len(known)
    found[found] = known[row[found]] == rated[found]
    if not found.all():
        raise ValueError(
            f"movie {rated[~found][0]} is rated but not in {name}; take both files "
            "from the same release"
        )
    codes = np.array([_code(genres[movie]) for movie in known.tolist()])
    for contrast, column in zip(codes.T, ("children", "comedy", "drama"), strict=True):
        table[column] = contrast[row]


# ----------------------------------------------------------------------- history


def _add_history(table: pd.DataFrame) -> None:
    """Add the columns `popularity` and `liked_last` in place."""
    order = np.argsort(table["timestamp"].to_numpy(), kind="stable")
    liked = table["rating"].to_numpy()[order] >= _LIKED
    likes, count = _earlier_likes(table["movie"].to_numpy()[order], liked, _WINDOW)
    popularity = np.empty(len(order))
    # the logit of (likes + 0.5) / (count + 1)
    popularity[order] = np.log((likes + 0.5) / (count - likes + 0.5))
    table["popularity"] = popularity
    last, _ = _earlier_likes(table["user"].to_numpy()[order], liked, 1)
    liked_last = np.empty(len(order))
    liked_last[order] = last
    table["liked_last"] = liked_last


def _earlier_likes(
    group: NDArray[np.int32], liked: NDArray[np.bool_], window: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the likes among a group's last few rows before each row.

    Parameters
    ----------
    group, liked : arrays of shape (n_rows,)
        In the order of time.
    window : int
        So many rows back at most.

    Returns
    -------
    likes, count : arrays of shape (n_rows,), int64
        Of the rows looked back at, those liked and all.
    """
    order = np.argsort(group, kind="stable")
    sorted_group = group[order]
    place = np.arange(len(order))
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = sorted_group[1:] != sorted_group[:-1]
    begin = np.maximum.accumulate(np.where(starts, place, 0))
    np.maximum(begin, place - window, out=begin)
    total = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(liked[order], out=total[1:])
    likes, count = np.empty_like(place), np.empty_like(place)
    likes[order] = total[:-1] - total[begin]
    count[order] = place - begin
    return likes, count
