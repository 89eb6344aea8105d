"""Networks out of files, arrays, tables and graphs."""

import gzip

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_em.networks import Edges, Network, as_network, read_edges

#: With a link twice, one in both directions, and one of a node to itself.
SOURCES = ["b", "a", "b", "d", "d", "c"]
TARGETS = ["a", "c", "a", "c", "d", "d"]
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0]
TEXT = "\n".join(
    f"{s} {t} {w}" for s, t, w in zip(SOURCES, TARGETS, WEIGHTS, strict=True)
)


def counted(directed, weights=WEIGHTS):
    """Return the adjacency matrix, entry by entry."""
    A = np.zeros((4, 4))
    for s, t, w in zip(SOURCES, TARGETS, weights, strict=True):
        i, j = "abcd".index(s), "abcd".index(t)
        A[i, j] += w
        if not directed:
            A[j, i] += w
    return A


def assert_is(network, A, nodes="abcd"):
    assert network.nodes.tolist() == list(nodes)
    assert network.n_nodes == len(A)
    np.testing.assert_array_equal(network.adjacency.toarray(), A)


class Graph:
    """Stands in for a graph of networkx."""

    def __init__(self, nodes, edges):
        self.nodes, self._edges = nodes, edges

    def is_directed(self):
        return False

    def edges(self, data, default):
        assert (data, default) == ("weight", 1)
        return iter(self._edges)


# ------------------------------------------------------------------------- edges


@pytest.mark.parametrize("directed", [False, True])
def test_edges_add_up(directed):
    edges = Edges(SOURCES, TARGETS, WEIGHTS)
    assert_is(as_network(edges, directed=directed), counted(directed))
    ones = Edges(SOURCES, TARGETS)
    assert_is(as_network(ones, directed=directed), counted(directed, [1] * 6))


@pytest.mark.parametrize("separator", [" ", "\t", ",", " , "])
def test_files(tmp_path, separator):
    path = tmp_path / "edges.txt"
    lines = ["# remark", *TEXT.replace(" ", separator).split("\n"), "", "% another"]
    path.write_text("\r\n".join(lines))
    assert_is(as_network(path), counted(False))
    packed = tmp_path / "edges.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert_is(as_network(str(packed), directed=True), counted(True))


def test_names_in_files(tmp_path):
    path = tmp_path / "edges"
    path.write_bytes(b'\xef\xbb\xbf"ann b",cy\ncy, dan\n')
    assert read_edges(path).nodes.tolist() == ["ann b", "cy", "dan"]
    for names in (["10", "1_0"], ["1", "9" * 20]):  # one is 10 to int, one too large
        path.write_text(" ".join(names))
        assert read_edges(path).nodes.tolist() == names
    path.write_bytes(b"\xe9 a\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_edges(path)


def test_numbers_in_files_are_nodes_in_their_order(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text("10 9\n9 100\n")
    assert read_edges(path).nodes.tolist() == [9, 10, 100]
    path.write_text("10 9\n9 x\n")
    assert read_edges(path).nodes.tolist() == ["10", "9", "x"]


def test_arrays_and_tables():
    pandas = pytest.importorskip("pandas")
    numbers = [[1, 0, 1.0], [0, 2, 2], [1, 0, 0.5], [3, 2, 1], [3, 3, 3], [2, 3, 1]]
    lazy = da.from_array(np.array(numbers), chunks=(4, 3))
    for X in (numbers, np.array(numbers, np.float32), lazy):
        assert_is(as_network(X), counted(False), range(4))
    named = [list(row) for row in zip(SOURCES, TARGETS, strict=True)]
    assert_is(as_network(named), counted(False, [1] * 6))
    frame = pandas.DataFrame({"from": SOURCES, "to": TARGETS, "n": WEIGHTS})
    assert_is(as_network(frame, directed=True), counted(True))
    assert_is(as_network(frame[["from", "to"]]), counted(False, [1] * 6))
    dd = pytest.importorskip("dask.dataframe")
    assert_is(as_network(dd.from_pandas(frame, npartitions=2)), counted(False))


def test_graphs_keep_their_nodes_and_those_without_edges():
    nodes = [("x", 1), "lone", 3]
    network = as_network(Graph(nodes, [(3, ("x", 1), 2.0), (3, 3, 1)]))
    assert_is(network, [[0, 0, 2], [0, 0, 0], [2, 0, 2]], nodes)
    assert network.find(np.array(["lone", 3], dtype=object)).tolist() == [1, 2]


def test_nodes_may_be_given():
    network = as_network(Edges([1, 5], [5, 2], nodes=[5, 2, 7, 1]), directed=True)
    wanted = np.zeros((4, 4))
    wanted[3, 0] = wanted[0, 1] = 1
    assert_is(network, wanted, [5, 2, 7, 1])
    assert network.find(np.array([7, 5, 7])).tolist() == [2, 0, 2]


# ------------------------------------------------------------- adjacency matrices


def test_matrices():
    pandas = pytest.importorskip("pandas")
    A = counted(False)
    for X in (A, A.tolist(), sp.coo_array(A), sp.csc_matrix(A), A.astype(np.float32)):
        assert_is(as_network(X), A, range(4))
    frame = pandas.DataFrame(A, index=list("abcd"), columns=list("abcd"))
    assert_is(as_network(frame), A)
    given = sp.csr_array(A)
    given.data[0] = 0
    assert as_network(given).adjacency.nnz == given.nnz - 1
    assert given.data[0] == 0  # is as it was


def test_rows_and_their_numbers_for_a_fit():
    A = counted(False)
    data = as_network(A).data()
    assert data.block.y.tolist() == [0, 1, 2, 3]
    lazy = da.from_array(A, chunks=(3, 4))
    for X in (lazy, lazy.map_blocks(sp.csr_matrix, dtype=float), lazy[lazy[:, 0] > -1]):
        network = as_network(X)
        assert network.lazy
        data = network.data()
        rows, numbers = (array.to_delayed().ravel() for array in data.arrays[:2])
        assert data.chunk_rows == (3, 1)
        second = rows[1].compute()
        assert isinstance(second, sp.csr_array)
        np.testing.assert_array_equal(second.toarray(), A[3:])
        assert numbers[1].compute().tolist() == [3]


def test_a_network_stays_what_it_is():
    network = as_network(counted(True), directed=True)
    assert as_network(network, directed=True) is network
    with pytest.raises(ValueError, match="made with directed=True"):
        as_network(network)
    with pytest.raises(ValueError, match="4 nodes but 3 names"):
        Network(network.adjacency, True, np.arange(3))


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no edges"),
        ("# nothing\n", "has no edges"),
        ("1 2\n1\n", r"Line 2 of .* has 1 fields"),
        ("1 2\n1 2 3\n", r"Line 2 of .* has 3 fields"),
        ("1 2 3 4\n", r"Line 1 of .* has 4 fields"),
        ("source target\n1 2\n", "names of its columns"),
        ("1 2 one\n1 2 two\n", "not all numbers"),
        ("1 2 nan\n", "NaN or infinite"),
        ("1 2 -1\n", "must not be negative"),
        ("a,,2\nb,c,1\n", "Line 1 of .* lacks a field"),
    ],
)
def test_mistakes_in_files(tmp_path, text, message):
    (tmp_path / "edges").write_text(text)
    with pytest.raises(ValueError, match=message):
        as_network(tmp_path / "edges")


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((4, 5)), ValueError, r"must be square, got the shape \(4, 5\)"),
        (np.ones(4), ValueError, "must be square"),
        (sp.csr_array(np.ones((4, 2))), ValueError, "must be square"),
        (np.ones((4, 4), complex), TypeError, "must be numbers"),
        (np.full((4, 4), "a"), TypeError, "must be numbers"),
        (np.full((4, 2), 0.5), ValueError, "whole numbers or texts"),
        (np.full((4, 2), np.nan), ValueError, "whole numbers or texts"),
        (np.full((4, 3), -1.0), ValueError, "must not be negative"),
        (np.empty((0, 2)), ValueError, "no edges"),
        ([], ValueError, "no nodes or edges"),
        ({(1, 2)}, TypeError, "not a set; pass a list"),
        (np.full((4, 2), 2.0**60), ValueError, "pass them as integers"),
        (np.array([["a", 1], [None, "b"], ["a", "b"]], object), TypeError, "sorted"),
        (da.ones((4, 4), chunks=(4, 2)), ValueError, "chunked along columns"),
        (da.ones((4, 5), chunks=(2, 5)), ValueError, "must be square"),
        (Graph(["a"], []), ValueError, "no edges"),
    ],
)
def test_mistakes(X, error, message):
    with pytest.raises(error, match=message):
        as_network(X)


def test_mistakes_in_edges():
    with pytest.raises(ValueError, match="2 sources, 1 targets and 2 weights"):
        Edges([1, 2], [1])
    with pytest.raises(ValueError, match="9 is not a node of the network"):
        Edges([1], [9], nodes=[1, 2])
    with pytest.raises(ValueError, match="same name"):
        Edges([1], [1], nodes=[1, 1])
    with pytest.raises(TypeError, match="must be numbers"):
        Edges([1], [2], ["heavy"])
    bag = pytest.importorskip("dask.bag").from_sequence([1, 2], npartitions=1)
    with pytest.raises(TypeError, match="Dask array or DataFrame"):
        as_network(bag)
    with pytest.raises(FileNotFoundError):
        as_network("no such file")
