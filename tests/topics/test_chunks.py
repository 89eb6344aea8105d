"""Corpora in chunks on disk, and lazy arrays of them."""

import json
import os
import shutil
import zlib
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from dask_em import LatentDirichletAllocation
from dask_em.topics import (
    ChunkedSource,
    Corpus,
    DaskSource,
    DocwordSource,
    as_corpus,
    chunk_writer,
    corpus_directory,
    docword,
    lazy,
    read_corpus,
    write_corpus,
    write_docword,
)


def counts(n_docs=40, n_words=30, seed=0, rate=0.3):
    rng = np.random.default_rng(seed)
    found = rng.poisson(rate, (n_docs, n_words))
    found[[0, 7, 8, n_docs - 1]] = 0
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "corpus"


def written(path, *args, **settings):
    write_corpus(path, *args, **settings)
    return ChunkedSource(path)


def loaded(parts):
    return [np.vstack([x.load().toarray() for x in part]) for part in parts if part]


def data_files(path):
    return sorted(path.glob("data-*/*"))


def test_the_format_is_as_documented(path):
    X = counts()
    write_corpus(path, X, docs_per_chunk=15, vocabulary=[f"w{i}é" for i in range(30)])
    header = json.loads((path / "corpus.json").read_text())
    folder = path / header["data"]
    assert (header["format"], header["version"]) == ("dask_em corpus", 1)
    assert (header["n_docs"], header["n_words"]) == X.shape
    assert (header["n_entries"], header["n_tokens"]) == ((X > 0).sum(), X.sum())
    names = [chunk["name"] for chunk in header["chunks"]]
    files = {f"{n}.{a}.npy" for n in names for a in ("indptr", "indices", "counts")}
    assert {f.name for f in folder.iterdir()} == files | {"vocabulary.txt"}
    for chunk, rows in zip(header["chunks"], (X[:15], X[15:30], X[30:]), strict=True):
        arrays = [
            np.load(folder / f"{chunk['name']}.{array}.npy")
            for array in ("indptr", "indices", "counts")
        ]
        assert [a.dtype.str for a in arrays] == ["<i4", "<u2", "|u1"]
        indptr, indices, values = arrays
        assert_array_equal(
            sp.csr_array((values, indices, indptr), rows.shape).todense(), rows
        )
        crc = zlib.crc32(b"".join(a.tobytes() for a in arrays))
        assert (chunk["docs"], chunk["entries"]) == (len(rows), (rows > 0).sum())
        assert (chunk["tokens"], chunk["checksum"]) == (rows.sum(), crc)
    text = (folder / "vocabulary.txt").read_bytes()
    assert text.decode().split("\n")[:2] == ["w0é", "w1é"]
    assert zlib.crc32(text) == header["vocabulary"]


@pytest.mark.parametrize("n_nodes", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("docs_per_chunk", [None, 1, 13])
def test_parts_make_up_the_whole(path, docs_per_chunk, n_nodes):
    X = counts()
    source = written(path, X, docs_per_chunk=docs_per_chunk)
    assert (source.n_rows, source.n_words, source.n_entries) == (40, 30, (X > 0).sum())
    parts = source.cut(n_nodes)
    assert len(parts) == n_nodes
    assert_array_equal(np.vstack(loaded(parts)), X)
    # a part is heavier than the average by a document at most
    work = [(b > 0).sum() + len(b) for b in loaded(parts)]
    assert max(work) <= source.cut(1)[0][0].n_words + 1 + sum(work) / n_nodes


def test_documents_are_read_alone(path, monkeypatch):
    X = counts()
    source = written(path, X, docs_per_chunk=10)
    read = []
    fromfile = np.fromfile

    def counting(file, dtype, count):
        read.append(count)
        return fromfile(file, dtype, count)

    monkeypatch.setattr(np, "fromfile", counting)
    assert_array_equal(read_corpus(path, 12, 15).toarray(), X[12:15])
    n = (X[12:15] > 0).sum()
    assert read == [4, n, n]
    assert_array_equal(read_corpus(path, 5, 33).toarray(), X[5:33])
    assert read_corpus(path, 5, 5).shape == (0, 30)
    with pytest.raises(ValueError, match="not among the 40"):
        read_corpus(path, 5, 41)
    assert source.vocabulary_ is None


@pytest.mark.parametrize(
    ("largest", "on_disk", "in_memory"),
    [
        (255, "|u1", "f4"),
        (256, "<u2", "f4"),
        (65536, "<u4", "f8"),
        (0.5, "<f8", "f8"),
        (np.float32(0.1), "<f4", "f4"),
        (2.0**40, "<f8", "f8"),
    ],
)
def test_types_of_counts(path, largest, on_disk, in_memory):
    dtype = np.asarray(largest).dtype
    X = np.array([[largest, 0], [1, 1]], dtype=dtype)
    source = written(path, X)
    assert source.chunks[0].counts == on_disk
    assert source.dtype == in_memory == source.to_dask().dtype
    assert_array_equal(read_corpus(path).toarray(), X)
    assert read_corpus(path).dtype == in_memory


def test_many_words(path):
    X = sp.csr_array(([1, 2], ([0, 1], [65536, 0])), shape=(2, 65537))
    write_corpus(path, X)
    assert np.load(next(path.glob("data-*/*indices*"))).dtype == "<i4"
    assert_array_equal(read_corpus(path).toarray(), X.toarray())


def kinds(tmp_path):
    X = counts()
    write_docword(tmp_path / "d.txt", X)
    write_docword(tmp_path / "d.txt.gz", X)
    lazy = da.from_array(X, chunks=(9, 30))
    write_corpus(tmp_path / "other", X, docs_per_chunk=11)
    return {
        "blocks": (X[i : i + 6] for i in range(0, 40, 6)),
        "list": [sp.csr_matrix(X[:20]), sp.csc_array(X[20:])],
        "matrix": sp.csr_matrix(X),
        "dask": lazy,
        "unknown": lazy[lazy.sum(axis=1) >= 0],
        "docword": tmp_path / "d.txt",
        "gzip": tmp_path / "d.txt.gz",
        "chunks": str(tmp_path / "other"),
    }


@pytest.mark.parametrize("n_docs", [None, 7])
def test_whatever_is_written_is_read(tmp_path, path, n_docs, monkeypatch):
    monkeypatch.setattr(chunk_writer, "_ENTRIES", 60)
    monkeypatch.setattr(docword, "_CHUNK", 100)
    for name, given in kinds(tmp_path).items():
        source = written(path / name, given, docs_per_chunk=n_docs)
        assert_array_equal(read_corpus(path / name).toarray(), counts(), name)
        docs = [chunk.docs for chunk in source.chunks]
        if n_docs is None:
            assert max(chunk.entries for chunk in source.chunks) <= 75, name
        elif name in ("dask", "unknown"):
            assert docs == [7, 2, 7, 2, 7, 2, 7, 2, 4]
        else:
            assert docs == [7, 7, 7, 7, 7, 5], name


def test_an_empty_corpus(path):
    assert written(path, np.empty((0, 4))).n_rows == 0
    assert ChunkedSource(path).cut(3) == [[], [], []]
    assert read_corpus(path).shape == ChunkedSource(path).to_dask().shape == (0, 4)
    write_corpus(path, iter([]), n_words=3, overwrite=True)
    assert read_corpus(path).shape == (0, 3)


def test_an_array_is_written_on_a_cluster(path, client):
    X = counts(400)
    write_corpus(path, da.from_array(X, chunks=(50, 30)).map_blocks(sp.csr_array))
    assert_array_equal(as_corpus(path).to_dask(100).compute().toarray(), X)
    assert len(ChunkedSource(path).chunks) == 8
    # a disk of which each machine has its own
    elsewhere = chunk_writer.ChunkWriter(str(path / "nowhere"), None, 30)
    with pytest.raises(FileNotFoundError, match="workers do not find the directory"):
        elsewhere.corpus(as_corpus(da.from_array(X)))


@pytest.mark.slow
@pytest.mark.cluster
def test_an_array_is_written_by_processes(path, processes):
    from distributed import Client

    X = counts(400)
    with Client(processes):
        write_corpus(path, da.from_array(X, chunks=(50, 30)).map_blocks(sp.csr_array))
        assert_array_equal(as_corpus(path).to_dask(100).compute().toarray(), X)
    assert len(ChunkedSource(path).chunks) == 8


def test_a_fit_of_a_corpus_on_disk_is_that_of_it_in_memory(path):
    write_corpus(path, counts(), docs_per_chunk=9)
    lda = LatentDirichletAllocation(2, random_state=0, max_iter=200)
    bounds = [lda.fit(X).bound_ for X in (counts(), str(path))]
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-5)


def test_a_corpus_is_replaced_by_a_whole_one_alone(path):
    X = counts()
    write_corpus(path, X, vocabulary=list("abcdefghijklmnopqrstuvwxyzäöüß"))
    kept = data_files(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_corpus(path, X)

    def failing():
        yield X[:20]
        raise OSError("the network is gone")

    def chunk(block):
        if block[0, 0] == 0:
            raise OSError("the network is gone")
        return block

    ends = da.from_array(np.eye(4), chunks=(1, 4)).map_blocks(chunk, dtype=float)
    bad = [
        (failing(), OSError, "network"),
        ([X, X[:, :-1]], ValueError, "A block has 29 columns and there are 30 words"),
        (-X, ValueError, "finite and not negative"),
        ([X, X * np.nan], ValueError, "finite and not negative"),
        (ends, OSError, "network"),
        (iter([]), ValueError, "n_words="),
    ]
    for blocks, error, words in bad:
        with pytest.raises(error, match=words):
            write_corpus(path, blocks, docs_per_chunk=7, overwrite=True)
        assert_array_equal(read_corpus(path).toarray(), X)
        assert ChunkedSource(path).vocabulary_[-1] == "ß"
        assert data_files(path) == kept
    # the corpus that is replaced is the one that is read
    write_corpus(path, ChunkedSource(path).to_dask(), overwrite=True)
    assert_array_equal(read_corpus(path).toarray(), X)
    assert not set(kept) & set(data_files(path))
    # nothing remains of a first one that fails
    with pytest.raises(OSError, match="network"):
        write_corpus(path / "x", failing())
    assert not (path / "x").exists()


def test_two_write_at_once(path, monkeypatch):
    replace, first = corpus_directory._replace, [True]

    def replaced(*given):
        replace(*given)
        if first.pop() if first else False:
            write_corpus(path, counts(seed=1), overwrite=True)

    monkeypatch.setattr(corpus_directory, "_replace", replaced)
    write_corpus(path, counts())
    assert_array_equal(read_corpus(path).toarray(), counts(seed=1))


def test_what_is_there_already(path):
    path.mkdir()
    (path / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="holds other things"):
            write_corpus(path, counts(), overwrite=overwrite)
    with pytest.raises(FileExistsError, match="other things"):
        write_corpus(path / "thesis.txt", counts())
    with pytest.raises(ValueError, match="docs_per_chunk must be an int of at least 1"):
        write_corpus(path / "x", counts(), docs_per_chunk=2.5)
    shutil.rmtree(path)
    (path / "data-0123456789ab").mkdir(parents=True)
    (path / "corpus.json.0123456789ab").touch()
    with pytest.raises(FileExistsError, match="left of a failed write"):
        write_corpus(path, counts())
    assert written(path, counts(), overwrite=True).n_rows == 40
    assert len(os.listdir(path)) == 2


def test_vocabularies(path):
    for words, message in (
        (["a", "b\n"], "end of a line"),
        (["a"], "has 1 words and there are 2 columns"),
    ):
        with pytest.raises(ValueError, match=message):
            write_corpus(path, [[1, 0]], vocabulary=words)
    for words in ([1, 2], {"tea", "time"}, "ab"):  # a set has no order
        with pytest.raises(TypeError, match="of type str"):
            write_corpus(path, [[1, 0]], vocabulary=words)
    numbered = written(path / "numbered", [[1, 0]], vocabulary={"time": 1, "tea": 0})
    assert numbered.vocabulary_ == ["tea", "time"]
    shutil.rmtree(path)
    odd = ["a b", "\u2028\r"]
    source = written(path, [[1, 0]], vocabulary=odd)
    assert source.vocabulary_ == odd
    assert written(path / "x", source).vocabulary_ == odd  # goes with it
    data_files(path)[-1].write_text("a\nc\n")
    with pytest.raises(ValueError, match=r"vocabulary\.txt is damaged"):
        ChunkedSource(path).vocabulary_  # noqa: B018


@pytest.mark.parametrize("array", ["indptr", "indices", "counts"])
def test_damage_is_noticed(path, array):
    source = written(path, counts())
    (file,) = path.glob(f"data-*/*.{array}.npy")
    intact = file.read_bytes()
    flipped = intact[:-1] + bytes([intact[-1] ^ 1])
    (loader,) = source.cut(1)[0]
    open_end = intact.replace(b"}", b"{", 1)  # of the header
    for damaged in (flipped, intact[:-1], intact[:50], b"", b"text" + intact, open_end):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"000000\.\*\.npy are damaged"):
            loader.load()
    file.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        loader.load()


def test_headers_that_are_refused(path):
    write_corpus(path, counts(), docs_per_chunk=20)
    header = json.loads((path / "corpus.json").read_text())
    first = header["chunks"][0]
    for change, words in (
        ({"format": "zarr"}, "not that of a corpus"),
        ({"version": 2}, "version 2 of the format and this dask_em reads version 1"),
        ({"n_docs": 41}, "damaged"),
        ({"chunks": header["chunks"][:1]}, "damaged"),
        ({"chunks": [{**first, "name": "../x"}]}, "damaged"),
        ({"chunks": [{**first, "docs": -1}, {**first, "docs": 41}]}, "damaged"),
        ({"data": "../x"}, "damaged"),
        ({"n_words": "30"}, "damaged"),
    ):
        (path / "corpus.json").write_text(json.dumps({**header, **change}))
        with pytest.raises(ValueError, match=words):
            as_corpus(path)
    for text in ("", "[1]", "{", '{"format": "dask_em corpus", "version": 1}'):
        (path / "corpus.json").write_text(text)
        with pytest.raises(ValueError, match=r"corpus\.json of"):
            as_corpus(path)
    (path / "corpus.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no file corpus\.json"):
        as_corpus(str(path))


# ------------------------------------------------------------------- lazy arrays


def test_lazy_arrays(tmp_path, monkeypatch):
    X = counts()
    given = kinds(tmp_path)
    for name in ("matrix", "docword", "gzip", "chunks"):
        source = as_corpus(given[name])
        whole = source.to_dask()
        assert whole.chunks == ((40,), (30,))
        parts = source.to_dask(chunk_docs=6)
        assert parts.shape == X.shape and parts.numblocks == (7, 1)
        assert isinstance(parts._meta, sp.csr_array) and parts.dtype == np.float32
        for array in (whole, parts, parts[3:20]):
            found = array.compute()
            assert isinstance(found, sp.csr_array)
            assert found.dtype == np.float32
        assert_array_equal(found.toarray(), X[3:20])
        blocks = dask.compute(*parts.to_delayed().ravel())
        assert tuple(b.shape[0] for b in blocks) == parts.chunks[0]
        again = DaskSource(parts)
        assert again.n_rows == 40
        found = dask.compute(*(b for part in again.cut(3) for b in part))
        assert_array_equal(sp.vstack(found).toarray(), X)
    monkeypatch.setattr(lazy, "_CHUNK", 500)
    n_bytes = 8 * ((X > 0).sum() + 40)
    n_chunks = source.to_dask().numblocks[0]
    assert n_bytes / 500 <= n_chunks < n_bytes / 500 + 1


def test_lazy_arrays_of_other_corpora():
    X = da.from_array(counts(), chunks=(9, 30))
    found = as_corpus(X).to_dask()
    assert found.chunks == X.chunks
    assert_array_equal(found.compute().toarray(), counts())
    with pytest.raises(ValueError, match="rechunk"):
        as_corpus(X).to_dask(5)
    for bad, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="chunk_docs"):
            as_corpus(counts()).to_dask(bad)

    class Own(Corpus):
        n_rows, n_words = None, 30

        def cut(self, n_nodes):
            return as_corpus(X).cut(n_nodes)

    own = Own().to_dask()
    assert np.isnan(own.shape[0])
    assert_array_equal(own.compute().toarray(), counts())


def test_a_docword_file_that_is_cut_off_is_not_written(tmp_path, path):
    for name in ("docword.txt", "docword.txt.gz"):
        file = tmp_path / name
        write_docword(file, counts())
        text = read_text(file)
        other = tmp_path / f"cut.{name.removesuffix('.gz')}"
        other.write_text("".join(text[:-3]))
        for n_docs in (None, 7):
            with pytest.raises(ValueError, match="it may be cut off"):
                write_corpus(path, DocwordSource(other), docs_per_chunk=n_docs)
    assert not path.exists()


def read_text(path: Path) -> list[str]:
    from dask_em.text_files import opened

    with opened(path) as file:
        return file.read().decode().splitlines(keepends=True)
