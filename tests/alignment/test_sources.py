"""Pairs of sentences come in order from wherever they are."""

import gzip
import pickle
from itertools import chain
from pathlib import Path

import pytest

from dask_em.alignment import BagSource, FileSource, PairsSource, as_bitext
from dask_em.alignment import sources as module

PAIRS = [(f"a {k} é", f"b {k} x\u2028y") for k in range(23)]


def loaded(source, n_nodes):
    parts = source.cut(n_nodes)
    assert len(parts) == n_nodes
    return [
        [pair for loader in pickle.loads(pickle.dumps(part)) for pair in loader.load()]
        for part in parts
    ]


def joined(parts):
    return list(chain.from_iterable(parts))


def write(folder, pairs, name="text", compressed=False):
    paths = []
    for side, lines in zip("st", zip(*pairs, strict=True), strict=True):
        path = folder / f"{name}.{side}{'.gz' if compressed else ''}"
        data = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(data) if compressed else data)
        paths.append(path)
    return tuple(paths)


@pytest.mark.parametrize("n_nodes", [1, 3, 30])
@pytest.mark.parametrize("compressed", [False, True])
def test_files(tmp_path, monkeypatch, n_nodes, compressed):
    monkeypatch.setattr(module, "STRIDE", 4)
    first = write(tmp_path, PAIRS[:9], "one", compressed)
    second = write(tmp_path, PAIRS[9:], "two")
    source = FileSource(*zip(first, second, strict=True))
    parts = loaded(source, n_nodes)
    assert source.n_rows == 23
    assert joined(parts) == PAIRS
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_files_of_different_lengths(tmp_path):
    source, _ = write(tmp_path, PAIRS)
    _, target = write(tmp_path, PAIRS[:-1], "shorter")
    with pytest.raises(ValueError, match=r"has 23 lines and .* 22"):
        FileSource(source, target).cut(2)
    with pytest.raises(ValueError, match="are no pairs"):
        FileSource([source, source], target)


def test_a_file_that_has_changed(tmp_path):
    paths = write(tmp_path, PAIRS)
    ((loader,),) = FileSource(*paths).cut(1)
    write(tmp_path, PAIRS[:5])
    with pytest.raises(ValueError, match="has changed"):
        loader.load()


@pytest.mark.parametrize("n_nodes", [1, 3, 30])
def test_pairs(n_nodes):
    parts = loaded(as_bitext(iter(PAIRS)), n_nodes)
    assert joined(parts) == PAIRS


def test_collections():
    pd = pytest.importorskip("pandas")
    import dask
    import dask.bag

    frame = pd.DataFrame(PAIRS, columns=["en", "fr"])
    assert joined(loaded(as_bitext(frame), 2)) == PAIRS
    for collection in [
        dask.bag.from_sequence(PAIRS, npartitions=4),
        pytest.importorskip("dask.dataframe").from_pandas(frame, npartitions=4),
    ]:
        source = as_bitext(collection)
        assert isinstance(source, BagSource)
        assert source.n_rows is None
        parts = source.cut(3)
        assert list(map(len, parts)) == [2, 1, 1]
        with dask.config.set(scheduler="synchronous"):
            blocks = dask.compute(*joined(parts))
        assert joined(blocks) == PAIRS
    with pytest.raises(ValueError, match="two columns"):
        as_bitext(frame[["en"]])


def test_what_is_a_bitext(tmp_path):
    paths = write(tmp_path, PAIRS)
    for source in [
        as_bitext(paths),
        as_bitext(*paths),
        as_bitext([paths[0]], [paths[1]]),
    ]:
        assert isinstance(source, FileSource)
        assert as_bitext(source) is source
    for sides in (["a"], ["b"]), (["a.", "3.5"], ["b.", "3,5"]), (["a/b", "c d"],) * 2:
        assert isinstance(as_bitext(*sides), PairsSource)
    with pytest.raises(ValueError, match="2 source sentences and 1 target"):
        as_bitext(["a", "b"], ["c"])
    with pytest.raises(TypeError, match="pairs of sentences are wanted"):
        as_bitext(3)


@pytest.mark.parametrize(
    "sides",
    [
        (Path("no/e"), "no/f"),
        ([Path("e")], ["f"]),
        (["a.en", "b.en"], ["a.fr", "b.fr"]),
        (["x/e"], ["x/f"]),
        ("e", "f"),
    ],
    ids=str,
)
def test_missing_files(sides):
    with pytest.raises(FileNotFoundError, match=r"there is no file /.*e.*, /.*f[^;]*$"):
        as_bitext(*sides)


def test_some_files_are_missing(tmp_path):
    source, target = map(str, write(tmp_path, PAIRS))
    with pytest.raises(FileNotFoundError, match=r"there is no file /[^,]*gone$"):
        as_bitext([source, source], [target, f"{tmp_path}/gone"])
    with pytest.raises(TypeError, match="one side is a path"):
        as_bitext(source, [target])


def test_two_strings_are_two_paths():
    for texts in (("the house", "la maison"), (("the house", "la maison"),)):
        with pytest.raises(FileNotFoundError, match="for one pair of sentences give"):
            as_bitext(*texts)


def test_whatever_files_are_called(tmp_path):
    """Compressed or not, with a mark of byte order or not."""
    lines = [f"{line}\n".encode() for line in "abc"]
    (tmp_path / "plain.gz").write_bytes(b"".join(lines))
    (tmp_path / "marked").write_bytes(gzip.compress(b"\xef\xbb\xbf" + b"".join(lines)))
    source = FileSource(tmp_path / "plain.gz", tmp_path / "marked")
    for n_nodes in (1, 3):
        assert joined(loaded(source, n_nodes)) == [("a", "a"), ("b", "b"), ("c", "c")]


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "wide").write_bytes("a\nb\n".encode("utf-16"))
    with pytest.raises(ValueError, match="wide is UTF-16: convert it to UTF-8"):
        FileSource(tmp_path / "wide", tmp_path / "wide").cut(1)
    for data in (gzip.compress(b"a b c" * 9)[:-12], b"\x1f\x8bno"):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(gzip.BadGzipFile, match="bad is damaged"):
            FileSource(tmp_path / "bad", tmp_path / "bad").cut(1)


def test_columns():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(PAIRS, columns=["en", "fr"], index=range(5, 28))
    for sides in [
        (frame["en"], frame["fr"]),
        (frame[["en"]], frame[["fr"]]),
        (frame.set_axis(["text", "text"], axis=1),),
    ]:
        assert joined(loaded(as_bitext(*sides), 2)) == PAIRS
    with pytest.raises(ValueError, match="a side is one column"):
        as_bitext(frame, frame)
    frame.loc[7, "fr"] = None
    for sides in (frame,), (frame["en"], frame["fr"]):
        with pytest.raises(ValueError, match=r"row 7 of column 'fr' .* dropna\(\)"):
            as_bitext(*sides)


def test_two_collections():
    bag = pytest.importorskip("dask.bag").from_sequence(["a"])
    with pytest.raises(TypeError, match=r"zip the bags first: fit\(dask.bag.zip\(a, b"):
        as_bitext(bag, bag)
