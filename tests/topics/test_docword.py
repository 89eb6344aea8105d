"""Files in docword format, and corpora as sources."""

import gzip
import os
import pickle
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_em.models.topics.base import CorpusSummary
from dask_em.models.topics.variational import VariationalLDA
from dask_em.topics import (
    DaskSource,
    DocwordSource,
    SparseSource,
    as_corpus,
    docword,
    read_docword,
    read_vocab,
    write_docword,
)
from dask_em.topics.sources import as_csr


def corpus(n_docs=40, n_words=30, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.3, (n_docs, n_words))
    counts[[0, 7, 8, n_docs - 1]] = 0  # empty at the ends and in the middle
    counts[:, 3] = 0
    return counts


def joined(source, n_nodes):
    parts = source.cut(n_nodes)
    assert len(parts) == n_nodes
    loaded = [
        dask.compute(loader)[0] if dask.is_dask_collection(loader) else loader.load()
        for part in parts
        for loader in pickle.loads(pickle.dumps(part))
    ]
    assert all(isinstance(block, sp.csr_array) for block in loaded)
    return np.vstack([block.toarray() for block in loaded])


@pytest.fixture(params=["docword.txt", "docword.txt.gz"])
def path(request, tmp_path):
    found = tmp_path / request.param
    write_docword(found, corpus())
    return found


def test_round_trip(path):
    found = read_docword(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), corpus())
    np.testing.assert_array_equal(read_docword(path, 5, 12).toarray(), corpus()[5:12])
    assert read_docword(path, 3, 3).shape == (0, 30)
    with pytest.raises(ValueError, match="41"):
        read_docword(path, 3, 41)


@pytest.mark.parametrize("n_nodes", [1, 2, 3, 7, 100])
def test_parts_make_up_the_whole(path, n_nodes, monkeypatch):
    monkeypatch.setattr(docword, "_CHUNK", 50)  # lines are cut in two
    source = DocwordSource(path)
    assert (source.n_rows, source.n_words) == (40, 30)
    np.testing.assert_array_equal(joined(source, n_nodes), corpus())


def test_chunks_and_blank_lines(tmp_path, monkeypatch):
    path = tmp_path / "docword.txt"
    path.write_bytes(b"3\r\n4\r\n3\r\n1  2\t3\r\n\r\n 3 1 1\n3 4 2")
    for size in (1, 7, 1000):
        monkeypatch.setattr(docword, "_CHUNK", size)
        np.testing.assert_array_equal(
            read_docword(path).toarray(), [[0, 3, 0, 0], [0] * 4, [1, 0, 0, 2]]
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2\n3\n", "does not begin with three lines"),
        ("2\nx\n3\n", "does not begin with three lines"),
        ("2\n3\n1\n1 4 1\n", "word 4, but its words are numbered from 1 to 3"),
        ("2\n3\n1\n1 0 1\n", "word 0"),
        ("2\n3\n1\n3 1 1\n", "document 3"),
        ("2\n3\n1\n1 1 -1\n", "negative number in the line '1 1 -1'"),
        ("2\n3\n2\n1 1 1\n1 2 1.5\n", "whole numbers, but '1 2 1.5'"),
        ("2\n3\n1\n1 1\n", "'1 1' does not"),
        ("2\n3\n1\n1 1 1 1\n", "'1 1 1 1' does not"),
        ("2\n3\n2\n1 1 1\n", "1 entries but its header says 2; it may be cut off"),
        ("2\n3\n2\n2 1 1\n1 1 1\n", "not in order"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, words):
    path = tmp_path / "docword.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_docword(path)


def cut_off(folder, n_bytes=None):
    """Write a file that ends early: whole lines are missing, or some bytes."""
    path = folder / ("docword.txt" if n_bytes is None else "docword.txt.gz")
    write_docword(path, corpus())
    data = path.read_bytes()
    path.write_bytes(
        b"".join(data.splitlines(keepends=True)[:-20])
        if n_bytes is None
        else data[:-n_bytes]
    )
    return path


@pytest.mark.parametrize("n_nodes", [1, 2, 7])
def test_a_file_that_ends_early(tmp_path, n_nodes):
    model = VariationalLDA(2)
    words = r"docword\.txt has \d+ entries but its header says \d+; it may be cut"
    with pytest.raises(ValueError, match=words):
        parts = DocwordSource(cut_off(tmp_path)).cut(n_nodes)
        blocks = [[loader.load() for loader in part] for part in parts]
        blocks = pickle.loads(pickle.dumps(blocks))
        model.check(sum(map(model.survey, blocks), CorpusSummary()))
    for n_bytes in (8, 100):
        with pytest.raises(ValueError, match=r"uncompressed .*; it may be cut off"):
            read_docword(cut_off(tmp_path, n_bytes))


def test_what_is_not_a_corpus(tmp_path):
    words = "no such file; a string is the path of a corpus: 'the cat"
    for text in ("the cat sat", "the cat " * 500):
        with pytest.raises(FileNotFoundError, match=words):
            as_corpus(text)
    with pytest.raises(FileNotFoundError, match=r"missing'$"):
        as_corpus(tmp_path / "missing")
    for texts in (["a b", "c"], ("a", "b"), np.array(["a b"])):
        with pytest.raises(TypeError, match=r"got texts; .*CountVectorizer"):
            as_corpus(texts)
    with pytest.raises(TypeError, match=r"got a Dask Delayed; .*from_delayed"):
        as_corpus(dask.delayed(["a b", "c"]))


def test_a_file_out_of_order_cannot_be_cut(tmp_path):
    path = tmp_path / "docword.txt"
    lines = "".join(f"{d} 1 1\n" for d in range(90, 0, -1))
    path.write_text(f"90\n1\n90\n{lines}")
    with pytest.raises(ValueError, match="not in order"):
        DocwordSource(path).cut(4)


def test_only_counts_are_written(tmp_path):
    for bad in ([[0.5]], [[-1]], [[np.nan]]):
        with pytest.raises(ValueError, match="whole numbers"):
            write_docword(tmp_path / "docword.txt", bad)


def test_vocabulary(tmp_path):
    with gzip.open(tmp_path / "vocab", "wt", encoding="utf-8") as file:
        file.write("one\nzwölf\n")
    assert read_vocab(tmp_path / "vocab") == ["one", "zwölf"]


@pytest.mark.parametrize("n_nodes", [1, 3, 50])
def test_sources_in_memory(n_nodes):
    counts = corpus()
    for X in (counts, counts.tolist(), sp.coo_matrix(counts), sp.csc_array(counts)):
        source = as_corpus(X)
        assert isinstance(source, SparseSource)
        np.testing.assert_array_equal(joined(source, n_nodes), counts)


@pytest.mark.parametrize("n_nodes", [1, 3, 50])
def test_sources_of_dask(n_nodes):
    counts = corpus()
    dense = da.from_array(counts, chunks=(9, 30))
    for X in (
        dense,
        dense.map_blocks(sp.csr_matrix, dtype=int),
        dense[dense[:, 0] >= 0],
    ):
        source = as_corpus(X)
        assert isinstance(source, DaskSource)
        np.testing.assert_array_equal(joined(source, n_nodes), counts)
    assert source.n_rows is None
    with pytest.raises(ValueError, match="chunked along words"):
        as_corpus(da.ones((10, 4), chunks=(5, 2)))
    with pytest.raises(ValueError, match="2D"):
        as_corpus(da.ones(10))


def test_counts_are_left_alone():
    X = sp.csr_matrix(([1, 0, 2, 3], [1, 0, 2, 2], [0, 2, 4]), shape=(2, 3))
    found = as_csr(X)
    assert X.nnz == 4
    assert found.dtype == np.float32
    assert found.nnz == 2
    np.testing.assert_array_equal(found.toarray(), [[0, 1, 0], [0, 0, 5]])
    assert as_csr([[2**24 + 1]]).dtype == np.float64
    assert np.shares_memory(as_csr(found).data, found.data)
    half = np.ones((1, 2), np.float16)  # which scipy has not
    assert as_csr(half).dtype == np.float32
    assert DaskSource(da.from_array(half)).data().n_rows == 1


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "n_docs", "n_words", "nnz", "tokens"),
    [("kos", 3430, 6906, 353160, 467714), ("nips", 1500, 12375, 746316, 1932365)],
)
def test_real_corpora(name, n_docs, n_words, nnz, tokens):
    if "DASK_EM_DATA" not in os.environ:
        pytest.skip("DASK_EM_DATA is not set")
    folder = Path(os.environ["DASK_EM_DATA"]) / "topics"
    X = read_docword(folder / f"docword.{name}.txt.gz")
    assert (X.shape, X.nnz) == ((n_docs, n_words), nnz)
    assert X.sum(dtype=float) == tokens
    assert len(read_vocab(folder / f"vocab.{name}.txt.gz")) == n_words
