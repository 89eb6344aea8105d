"""Pairs of sentences come in order from wherever they are."""

import gzip
import pickle
from itertools import chain

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
    assert isinstance(as_bitext(["a"], ["b"]), PairsSource)
    with pytest.raises(ValueError, match="2 source sentences and 1 target"):
        as_bitext(["a", "b"], ["c"])
    with pytest.raises(TypeError, match="pairs of sentences are wanted"):
        as_bitext(3)
