"""The door for data, and the cutting of chunks into pieces."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_em import fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.sharding import (
    DaskData,
    MemoryData,
    Part,
    Piece,
    Recipe,
    Shard,
    as_data,
    cut,
    is_dask,
)

N, D = 23, 3
X = np.arange(N * D, dtype=float).reshape(N, D)
Y = np.arange(N)
W = np.linspace(0.5, 2, N)


# ------------------------------------------------------------------------ the door


def unknown(array):
    return array[da.from_array(np.ones(len(array), bool), chunks=array.chunks[0])]


LAZY = da.from_array(X, chunks=(5, D))

BAD_VALUES = {
    "one dimension": (X[:, 0], None, None, r"Expected 2D.*reshape"),
    "three dimensions": (X[None], None, None, "Expected 2D.*got 3D"),
    "a number": (3.0, None, None, "Expected 2D.*got 0D"),
    "no rows": (X[:0], None, None, r"Found array with 0 sample\(s\)"),
    "no features": (X[:, :0], None, None, r"0 feature\(s\)"),
    "lazy, no rows": (LAZY[:0], None, None, r"Found array with 0 sample\(s\)"),
    "unknown chunks": (unknown(LAZY), None, None, r"compute_chunk_sizes\(\)"),
    "chunked features": (LAZY.rechunk((5, 2)), None, None, r"X.rechunk\(\{1: -1\}\)"),
    "short y": (X, Y[:-1], None, "y and X must have as many rows.*23"),
    "scalar y": (X, 1.0, None, "y and X must have as many rows"),
    "short weights": (X, None, W[:-1], "sample_weight and X must have as many"),
    "scalar weight": (X, None, 2.0, "sample_weight and X must have as many"),
    "two weights a row": (X, None, np.ones((N, 2)), "one number per row"),
    "NaN in weights": (X, None, np.where(Y == 3, np.nan, W), "NaN or infinity"),
    "infinite weight": (X, None, np.where(Y == 3, np.inf, W), "NaN or infinity"),
    "negative weight": (X, None, np.where(Y == 3, -1, W), "must not be negative.*0"),
    "all weights zero": (X, None, np.zeros(N), "zero everywhere"),
    "lazy y only": (X, da.from_array(Y, chunks=5), None, "X is in memory.*from_array"),
    "lazy short y": (LAZY, da.from_array(Y[:9], chunks=4), None, "as many rows"),
    "lazy unknown y": (LAZY, unknown(da.from_array(Y, chunks=5)), None, r"y\.compute_"),
    "lazy unknown weights": (
        LAZY,
        None,
        unknown(da.from_array(W, chunks=5)),
        r"sample_weight\.compute_chunk_sizes",
    ),
    "lazy two weights a row": (LAZY, None, da.ones((N, 2)), "one number per row"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_mistake_is_one_sentence_with_its_remedy(case):
    x, y, w, words = BAD_VALUES[case]
    with pytest.raises(ValueError, match=words):
        as_data(x, y, w)


@pytest.mark.parametrize(
    "bad",
    [
        np.full((3, 2), "a"),
        np.array([[{}], [None]], dtype=object),
        np.ones((3, 2)) + 1j,
        np.array([["2020-01-01"]], dtype="datetime64[D]"),
    ],
    ids=["text", "objects", "complex", "dates"],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_no_number(bad, lazy):
    with pytest.raises(TypeError, match=r"numeric.*encode or drop"):
        as_data(da.from_array(bad, chunks=bad.shape) if lazy else bad)


def test_nothing_is_computed_at_the_door():
    def boom(block):
        raise AssertionError("computed")

    lazy = LAZY.map_blocks(boom, dtype=float, meta=np.empty((0, 0)))
    data = as_data(lazy, lazy[:, 0], lazy[:, 1])
    assert isinstance(data, DaskData) and data.n_rows == N


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [
        ("float32", "float32"),
        ("float64", "float64"),
        ("float16", "float64"),
        ("int8", "float64"),
        ("uint64", "float64"),
        ("bool", "float64"),
        (">f8", "float64"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_dtypes(dtype, becomes, lazy):
    x = (X % 2).astype(dtype)
    data = as_data(da.from_array(x, chunks=(7, D)) if lazy else x)
    assert data.dtype == becomes
    pieces = cut(data.chunk_rows, 2, data.row_nbytes)
    loaded = np.concatenate([b.X for p in pieces for b in data.load(p)])
    assert loaded.dtype == becomes
    np.testing.assert_array_equal(loaded, X % 2)


def test_arrays_in_memory_are_not_copied():
    data = as_data(X, Y, W)
    assert isinstance(data, MemoryData)
    (block,) = data.load(Piece(0, (Part(0, 3, 9),), 0))
    for loaded, original in ((block.X, X), (block.y, Y), (block.sample_weight, W)):
        assert np.shares_memory(loaded, original)
        np.testing.assert_array_equal(loaded, original[3:9])
    assert (data.n_rows, data.n_features) == (N, D)
    assert data.nbytes == X.nbytes + Y.nbytes + W.nbytes


def test_lists_are_arrays():
    data = as_data([[1, 2], [3, 4]], sample_weight=[1, 0])
    assert data.dtype == float and data.block.sample_weight.tolist() == [1.0, 0.0]


def test_is_dask():
    assert is_dask(LAZY) and not is_dask(X) and not is_dask(None)


# --------------------------------------------------------------------------- cut

chunk_lists = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum)


def rows_of(pieces):
    return [
        (part.chunk, row)
        for piece in pieces
        for part in piece.parts
        for row in range(part.start, part.stop)
    ]


@settings(max_examples=200)
@given(chunk_lists, st.integers(1, 60), st.data())
def test_cut(chunks, n, data):
    owners = data.draw(
        st.none()
        | st.lists(
            st.sampled_from(["a", "b", "c"]),
            min_size=len(chunks),
            max_size=len(chunks),
        )
    )
    pieces = cut(chunks, n, 16.0, owners)
    total = sum(chunks)
    # every row exactly once
    assert sorted(rows_of(pieces)) == [
        (i, row) for i, size in enumerate(chunks) for row in range(size)
    ]
    # as many pieces as wanted, unless there are fewer rows; none is empty
    assert len(pieces) == min(n, total)
    assert [p.index for p in pieces] == list(range(len(pieces)))
    assert all(part.stop > part.start for p in pieces for part in p.parts)
    assert [p.nbytes for p in pieces] == [16 * p.rows for p in pieces]
    # sizes balanced for every owner, and owners respected
    alive = [owners[i] for i, size in enumerate(chunks) if size] if owners else [""]
    if len(set(alive)) <= n and len(set(alive)) <= total:
        assert {p.owner for p in pieces} == set(alive)
        for piece in pieces:
            if owners:
                assert {owners[part.chunk] for part in piece.parts} == {piece.owner}
        for owner in set(alive):
            sizes = [p.rows for p in pieces if p.owner == owner]
            assert max(sizes) - min(sizes) <= 1
    else:
        sizes = [p.rows for p in pieces]
        assert max(sizes) - min(sizes) <= 1
    # parts of a chunk that follow each other in a piece are one part
    for piece in pieces:
        assert len({part.chunk for part in piece.parts}) == len(piece.parts)


def test_cut_by_hand():
    pieces = cut([4, 0, 3, 3], 3, 8.0)
    assert [p.parts for p in pieces] == [
        (Part(0, 0, 3),),
        (Part(0, 3, 4), Part(2, 0, 2)),
        (Part(2, 2, 3), Part(3, 0, 3)),
    ]
    assert [p.nbytes for p in pieces] == [24, 24, 32]


def test_owners_get_pieces_by_their_rows():
    pieces = cut([100, 300, 100], 10, 1.0, ["a", "b", "a"])
    assert [p.owner for p in pieces].count("b") == 6
    assert [p.rows for p in pieces] == [50] * 10
    # the smallest owner has one all the same
    pieces = cut([1, 1000], 4, 1.0, ["a", "b"])
    assert (pieces[0].owner, pieces[0].rows) == ("a", 1)


def test_more_owners_than_pieces():
    pieces = cut([10, 10, 10], 2, 1.0, ["a", "b", "c"])
    assert [p.rows for p in pieces] == [15, 15]
    assert {p.owner for p in pieces} == {"a"}


def test_fewer_rows_than_pieces():
    assert [p.rows for p in cut([2, 0, 1], 50, 1.0)] == [1, 1, 1]


def test_an_owner_of_one_row_is_not_cut_in_two():
    pieces = cut([1, 5], 6, 1.0, ["a", "b"])
    assert [(p.owner, p.rows) for p in pieces] == [("a", 1), *[("b", 1)] * 5]


def test_cutting_many_chunks_is_quick():
    pieces = cut([1000] * 20_000, 1000, 8.0, [f"w{i % 100}" for i in range(20_000)])
    assert {p.rows for p in pieces} == {20_000}


def test_shard_adds_up_its_pieces():
    pieces = cut([10, 7], 4, 8.0, ["a", "a"])
    shard = Shard(3, tuple(pieces[1:3]))
    assert shard.rows == pieces[1].rows + pieces[2].rows
    assert shard.nbytes == 8 * shard.rows
    assert shard.owner == "a"


# ----------------------------------------------------------------------- recipes


def lazy_data(chunks=(5, 0, 11, 7)):
    x = da.from_array(X, chunks=(chunks, (D,)), name=False)
    y = da.from_array(np.stack([Y, -Y], axis=1), chunks=(10, 1))  # other chunks
    w = da.from_array(W, chunks=4)
    return as_data(x, y, w)


@settings(max_examples=25)
@given(
    st.integers(1, 30), st.sampled_from([(23,), (5, 0, 11, 7), (0, 1, 22), (1,) * N])
)
def test_recipes_bring_every_row_back_with_its_target_and_weight(n, chunks):
    data = lazy_data(chunks)
    assert data.chunk_rows == chunks
    blocks = [
        block
        for piece in cut(data.chunk_rows, n, data.row_nbytes)
        for block in data.load(piece)
    ]
    for block in blocks:
        assert type(block.X) is np.ndarray
        np.testing.assert_array_equal(block.y[:, 0], block.X[:, 0] / D)
        np.testing.assert_array_equal(block.y[:, 1], -block.y[:, 0])
        np.testing.assert_array_equal(block.sample_weight, W[block.y[:, 0]])
    np.testing.assert_array_equal(np.concatenate([b.X for b in blocks]), X)


def test_row_nbytes_counts_targets_and_weights():
    assert lazy_data().row_nbytes == 8 * (D + 2 + 1)
    assert as_data(LAZY.astype("f4")).row_nbytes == 4 * D


def test_a_recipe_computes_its_own_chunks_only():
    def load(block_id=None):
        if block_id[0] != 2:
            raise AssertionError(f"chunk {block_id} was not asked for")
        return X[10:15]

    x = da.map_blocks(load, chunks=((5, 5, 5, 5, 3), (D,)), dtype=float, meta=X[:0])
    data = as_data(x)
    (block,) = data.load(Piece(0, (Part(2, 1, 4),), 0))
    np.testing.assert_array_equal(block.X, X[11:14])


def test_a_recipe_is_culled_and_travels():
    big = da.random.default_rng(0).normal(size=(100_000, 2), chunks=(100, 2))
    data = as_data(big + 1)
    recipe = data.recipe(Piece(0, (Part(7, 0, 10), Part(8, 0, 100)), 0))
    assert isinstance(recipe, Recipe)
    assert len(recipe.graph) < 20
    blocks = pickle.loads(pickle.dumps(recipe)).load()
    expected = (big + 1)[700:900].compute()
    np.testing.assert_array_equal(blocks[0].X, expected[:10])
    np.testing.assert_array_equal(blocks[1].X, expected[100:])


def test_persisted_and_optimised_arrays():
    x = (LAZY * 2).persist(scheduler="sync")
    w = (da.from_array(W, chunks=5) + 0).persist(scheduler="sync")
    data = as_data(x[1:], None, w[1:])
    pieces = cut(data.chunk_rows, 3, data.row_nbytes)
    blocks = [b for p in pieces for b in data.load(p)]
    np.testing.assert_array_equal(np.concatenate([b.X for b in blocks]), 2 * X[1:])
    np.testing.assert_array_equal(
        np.concatenate([b.sample_weight for b in blocks]), W[1:]
    )


def test_memory_targets_join_lazy_rows():
    data = as_data(LAZY, list(Y), W)
    blocks = data.load(Piece(0, (Part(1, 0, 5), Part(4, 1, 3)), 0))
    assert [b.y.tolist() for b in blocks] == [[5, 6, 7, 8, 9], [21, 22]]
    np.testing.assert_array_equal(blocks[1].sample_weight, W[21:])


def test_recipes_do_not_start_a_scheduler():
    """Loading happens inside tasks: it must not hand work to a client."""

    def refuse(*args, **kwargs):
        raise AssertionError("a scheduler was asked")

    with dask.config.set(scheduler=refuse):
        (block,) = as_data(LAZY + 1).load(Piece(0, (Part(0, 0, 5),), 0))
    np.testing.assert_array_equal(block.X, X[:5] + 1)


def test_sparse_rows_are_taken_as_they_are():
    X = scipy.sparse.csr_array(np.eye(3))
    data = as_data(X.tocoo())
    assert data.nbytes == X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    [block] = data.load(Piece(0, (Part(0, 1, 3),), 0))
    np.testing.assert_array_equal(block.X.toarray(), np.eye(3)[1:])


def test_sparse_rows_for_a_model_of_dense_ones():
    with pytest.raises(TypeError, match=r"X is sparse.*toarray"):
        fit_em(GaussianMixtureModel(1), scipy.sparse.csr_array(np.eye(3)))
