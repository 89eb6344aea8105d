"""MovieLens is read whatever its layout, and its predictors are what they should be."""

import builtins
import math
import os
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dask_em.datasets import load_movielens

LAYOUTS = ["100k", "1m", "10m", "32m"]
GENRES = (
    "Action Adventure Animation Children Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
CATEGORY = dict.fromkeys("Action Adventure Fantasy Horror Sci-Fi Thriller".split(), 0)
CATEGORY |= {"Animation": 1, "Children": 1, "Comedy": 2}
FEATURES = ["children", "comedy", "drama", "popularity", "liked_last"]


def a_release(seed=0, n_ratings=600, n_users=12, n_movies=9, half_stars=False):
    """Ratings, with many ties in time, and the genres of the movies."""
    rng = np.random.default_rng(seed)
    rows = sorted({*zip(*rng.integers(1, 400, size=(2, n_ratings)), strict=True)})
    step = 0.5 if half_stars else 1.0
    # a few movies get most ratings, so that the window of 30 is full and overflows
    ratings = [
        (
            int(user) % n_users + 1,
            int(movie) % n_movies * 7 + 3,
            float(rng.integers(1, round(5 / step) + 1) * step),
            978300000 + int(rng.integers(60)),
        )
        for user, movie in rows
    ]
    genres = {
        i * 7 + 3: [g for g in GENRES if rng.random() < 0.15] for i in range(n_movies)
    }
    genres[3], genres[10], genres[17] = [], ["Comedy"], ["Action", "Drama"]
    return ratings, genres


def number(rating):
    return f"{rating:g}"


def write(folder, layout, ratings, genres):
    """The files of a release, with the oddities of each."""
    names = {
        "100k": ("u.data", "u.item"),
        "1m": ("ratings.dat", "movies.dat"),
        "10m": ("ratings.dat", "movies.dat"),
        "32m": ("ratings.csv", "movies.csv"),
    }[layout]
    old = {"Children": "Children's"} if layout in ("100k", "1m") else {}
    lines, movies = [], []
    separator = {"100k": "\t", "32m": ","}.get(layout, "::")
    if layout == "32m":
        lines.append("userId,movieId,rating,timestamp")
        movies.append("movieId,title,genres")
    for user, movie, rating, time in ratings:
        lines.append(separator.join([str(user), str(movie), number(rating), str(time)]))
    for movie, tags in genres.items():
        tags = [old.get(tag, tag) for tag in tags]
        if layout == "100k":
            flags = ["0" if tags else "1"]  # "unknown" is the first
            flags += [str(int(old.get(g, g) in tags)) for g in GENRES]
            movies.append(f"{movie}|Misérables, Les (1995)||||{'|'.join(flags)}")
            movies[-1] = movies[-1].replace("||||", "|01-Jan-1995||http://a.b/?x|")
        elif layout == "32m":
            joined = "|".join(tags) or "(no genres listed)"
            movies.append(f'{movie},"Café, ""Le"": a::b, c (1995)",{joined}')
        else:
            if layout == "10m" and movie % 2:
                tags = [*tags, "IMAX"]
            joined = "|".join(tags) or "(no genres listed)"
            movies.append(f"{movie}::Café: a::b (1995)::{joined}")
    encoding = "latin-1" if layout in ("100k", "1m") else "utf-8"
    end = "\r\n" if layout == "32m" else "\n"
    for name, content in zip(names, (lines, movies), strict=True):
        (folder / name).write_bytes((end.join(content) + end).encode(encoding))
    return folder / names[0], folder / names[1]


def expected(ratings, genres):
    """The predictors, one rating at a time, straight from their definition."""
    times = [time for *_, time in ratings]
    order = sorted(range(len(ratings)), key=lambda i: (times[i], i))
    of_movie, of_user, rows = {}, {}, {}
    for i in order:
        user, movie, rating, time = ratings[i]
        last = of_movie.setdefault(movie, [])[-30:]
        pos = sum(liked for liked in last)
        neg = sum(not liked for liked in last)
        share = (pos + 0.5) / (pos + neg + 1)
        weights = [0.0, 0.0, 0.0, 0.0]
        for tag in genres[movie]:
            weights[CATEGORY.get(tag, 3)] += 1 / len(genres[movie])
        code = [w - weights[0] for w in weights[1:]]
        before = of_user.setdefault(user, [])
        rows[i] = [
            *(user, movie, rating, time),
            *code,
            math.log(share / (1 - share)),
            float(before[-1]) if before else 0.0,
        ]
        of_movie[movie].append(rating >= 4)
        before.append(rating >= 4)
    return [rows[i] for i in range(len(ratings))]


def check(table, ratings, genres):
    assert [*table.columns] == ["user", "movie", "rating", "timestamp", *FEATURES]
    assert [*table.index] == [*range(len(ratings))]
    np.testing.assert_allclose(
        table.to_numpy(dtype=float), expected(ratings, genres), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_column_of_every_layout(tmp_path, layout):
    ratings, genres = a_release(half_stars=layout in ("10m", "32m"))
    path, _ = write(tmp_path, layout, ratings, genres)
    table = load_movielens(tmp_path)
    check(table, ratings, genres)
    kinds = {"user": "int32", "movie": "int32", "timestamp": "int64"}
    for name in table.columns:
        assert table[name].dtype == kinds.get(name, "float64")
    # the window was full, and not always
    n_earlier = table.groupby("movie").cumcount()
    assert (n_earlier > 40).any() and (n_earlier < 10).any()
    # the file itself, and as a string
    assert load_movielens(str(path)).equals(table)
    bare = load_movielens(tmp_path, features=False)
    assert bare.equals(table[["user", "movie", "rating", "timestamp"]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", ["", "ml/"])
def test_a_zip_reads_like_its_folder(tmp_path, layout, folder):
    ratings, genres = a_release(seed=1, n_ratings=80)
    files = write(tmp_path, layout, ratings, genres)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/ml/._ratings", "")
        for file in files:
            archive.write(file, folder + file.name)
    check(load_movielens(tmp_path / "ml.zip"), ratings, genres)


def test_a_renamed_file_of_ratings(tmp_path):
    ratings, genres = a_release(n_ratings=50)
    path, _ = write(tmp_path, "100k", ratings, genres)
    path = path.rename(tmp_path / "mine.txt")
    check(load_movielens(path), ratings, genres)


def test_a_csv_written_again(tmp_path):
    """Quotes, another order and columns of one's own do not matter."""
    ratings, genres = a_release(n_ratings=50)
    path, _ = write(tmp_path, "32m", ratings, genres)
    lines = ['"rating","timestamp","mine","movieId","userId"']
    lines += [f'{r},{t},"a",{movie},"{user}"' for user, movie, r, t in ratings]
    path.write_text("\n".join(lines))
    check(load_movielens(tmp_path), ratings, genres)


def test_one_rating(tmp_path):
    ratings, genres = [(1, 2, 4.0, 100)], {2: ["Western"]}
    write(tmp_path, "32m", ratings, genres)
    check(load_movielens(tmp_path), ratings, genres)


@pytest.mark.parametrize(
    "low, high", [(3, None), (None, 5), (3, 5), (9, 9), (99, None)]
)
def test_users_are_dropped_after_the_features(tmp_path, low, high):
    ratings, genres = a_release(seed=2, n_ratings=60, n_users=14)
    write(tmp_path, "1m", ratings, genres)
    table = load_movielens(tmp_path, min_ratings=low, max_ratings=high)
    users = [user for user, *_ in ratings]
    keep = [
        (low or 0) <= users.count(user) <= (high or len(users)) for user, *_ in ratings
    ]
    rows = [
        row for row, kept in zip(expected(ratings, genres), keep, strict=True) if kept
    ]
    assert [*table.index] == [*range(len(rows))]
    if rows:
        np.testing.assert_allclose(table.to_numpy(dtype=float), rows, atol=1e-12)
    assert len(rows) < len(ratings)


def test_imax_and_unknown_genres_do_not_count(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::2::3::4\n1::3::3::4\n1::4::3::4\n")
    (tmp_path / "movies.dat").write_text(
        "2::A (1990)::Children|IMAX|Comedy\n3::B (1990)::IMAX\n4::C (1990)::Opera|War\n"
    )
    table = load_movielens(tmp_path)
    codes = table[["children", "comedy", "drama"]].to_numpy().tolist()
    assert codes == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


# ------------------------------------------------------------------------ errors


@pytest.mark.parametrize("features", [True, False])
def test_nothing_there(tmp_path, features):
    with pytest.raises(
        FileNotFoundError, match=r"there is no .*missing; download a rel"
    ):
        load_movielens(tmp_path / "missing", features=features)
    with pytest.raises(
        FileNotFoundError, match=r"holds no ratings .*; pass the folder"
    ):
        load_movielens(tmp_path, features=features)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        archive.writestr("ml/links.csv", "movieId\n")
    with pytest.raises(FileNotFoundError, match=r"ml.zip holds no ratings"):
        load_movielens(tmp_path / "ml.zip", features=features)


def test_movies_are_needed_for_features_only(tmp_path):
    _, movies = write(tmp_path, "1m", *a_release(n_ratings=30))
    movies.unlink()
    with pytest.raises(FileNotFoundError, match=r"no movies.dat .* features=False"):
        load_movielens(tmp_path)
    load_movielens(tmp_path, features=False)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "1,2,3.5,100\n",
        "1;2;3;4\n",
        "user,movie,rating\n",
        "1\t2\t3\n",
        "\x00\xff\x00",
    ],
)
def test_another_layout(tmp_path, content):
    (tmp_path / "ratings.csv").write_text(content)
    with pytest.raises(ValueError, match=r"starts with .* no release .*; pass an unch"):
        load_movielens(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "damage", ["1|2|3", "1|2|3|4|5", "x|2|3|4", "1||3|4", "1|2|9|4", "1|2|nan|4", "1|2"]
)
def test_a_damaged_line_is_named(tmp_path, layout, damage):
    path, _ = write(tmp_path, layout, *a_release(n_ratings=40))
    separator = {"100k": "\t", "32m": ","}.get(layout, "::")
    lines = path.read_text().splitlines()
    lines[5] = damage.replace("|", separator)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        ValueError, match=r"is damaged: line 6 is .*; download"
    ) as found:
        load_movielens(tmp_path)
    assert repr(lines[5]) in str(found.value)
    assert "\n" not in str(found.value)


def test_fields_between_single_colons_are_damage(tmp_path):
    path, _ = write(tmp_path, "1m", *a_release(n_ratings=40))
    path.write_text(path.read_text() + "1:5:2::3::100\n")
    with pytest.raises(ValueError, match=r"is damaged: line .* is '1:5:2::3::100'"):
        load_movielens(tmp_path)


def test_numbers_too_large(tmp_path):
    path, _ = write(tmp_path, "32m", *a_release(n_ratings=40))
    path.write_text(path.read_text() + "99999999999,3,3,100\n")
    with pytest.raises(ValueError, match=r"ratings.csv is damaged: .*99999999999"):
        load_movielens(tmp_path)


def test_only_a_header(tmp_path):
    write(tmp_path, "32m", [], {3: []})
    with pytest.raises(ValueError, match=r"ratings.csv has no ratings; download"):
        load_movielens(tmp_path)


@pytest.mark.parametrize(
    "layout, damage",
    [
        ("100k", "3|Title|1|0"),
        ("100k", "3|Title|" + "|".join("2" * 19)),
        ("1m", "3::Title"),
        ("1m", "x::Title::Comedy"),
        ("32m", "3,Title"),
        ("32m", '3,"Title,Comedy'),
    ],
)
def test_a_damaged_movie_is_named(tmp_path, layout, damage):
    _, movies = write(tmp_path, layout, *a_release(n_ratings=40))
    lines = movies.read_bytes().splitlines()
    lines[2] = damage.encode()
    movies.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match=r"is damaged: line 3 is .*; download"):
        load_movielens(tmp_path)


def test_a_movie_without_an_entry(tmp_path):
    ratings, genres = a_release(n_ratings=40)
    write(tmp_path, "10m", [*ratings, (1, 999, 3.0, 5)], genres)
    with pytest.raises(ValueError, match=r"movie 999 is rated but not in movies.dat"):
        load_movielens(tmp_path)


def test_a_damaged_zip(tmp_path):
    ratings, genres = a_release(n_ratings=300)
    files = write(tmp_path, "10m", ratings, genres)
    path = tmp_path / "ml.zip"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"ml.zip is damaged .*; download it again"):
        load_movielens(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_movielens(path)


def test_bounds_the_wrong_way_round(tmp_path):
    with pytest.raises(ValueError, match="min_ratings=5 and at most max_ratings=2"):
        load_movielens(tmp_path, min_ratings=5, max_ratings=2)


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_a_package_is_missing(tmp_path, monkeypatch, package):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    write(tmp_path, "1m", *a_release(n_ratings=10))
    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(ImportError, match=f"needs {package}; install it with: pip"):
        load_movielens(tmp_path)


# ------------------------------------------------------------------ the real thing


@pytest.mark.data
def test_codes_of_the_public_sample(tmp_path):
    """Those of MovieLens 10M as the authors of the paper coded them."""
    if "DASK_EM_DATA" not in os.environ:
        pytest.skip("DASK_EM_DATA is not set")
    pd = pytest.importorskip("pandas")
    path = Path(os.environ["DASK_EM_DATA"]) / "lmm" / "movielens_sample.csv.gz"
    sample = pd.read_csv(path)
    columns = ["genrechildren", "genrecomedy", "genredrama"]
    wanted = {*map(tuple, sample[columns].to_numpy().round(9).tolist())}

    # a movie for every number of genres of each category
    ranges = (range(n + 1) for n in (6, 2, 1, 9))
    kinds = [[g for g in GENRES if CATEGORY.get(g, 3) == kind] for kind in range(4)]
    genres = {
        i: [g for kind, n in zip(kinds, numbers, strict=True) for g in kind[:n]]
        for i, numbers in enumerate(product(*ranges))
        if 0 < sum(numbers) <= 8  # no movie has more
    }
    write(tmp_path, "10m", [(1, movie, 3.0, movie) for movie in genres], genres)
    table = load_movielens(tmp_path)
    codes = table[["children", "comedy", "drama"]].to_numpy().round(9)
    assert wanted <= {*map(tuple, (codes + 0.0).tolist())}

    # popularity takes the values of a window of 30
    possible = [
        math.log((pos + 0.5) / (n - pos + 0.5))
        for n in range(31)
        for pos in range(n + 1)
    ]
    nearest = np.abs(np.subtract.outer(sample["movie.logit.pop"].unique(), possible))
    assert nearest.min(axis=1).max() < 1e-9
