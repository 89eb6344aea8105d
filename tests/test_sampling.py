"""The sample that models start from depends on the data, not on how they lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_em.model import Block
from dask_em.sampling import canonical, draw, merge


def assert_equal(a, b):
    for left, right in ((a.X, b.X), (a.y, b.y), (a.sample_weight, b.sample_weight)):
        if left is None or right is None:
            assert left is right
        else:
            np.testing.assert_array_equal(left, right)


small = st.lists(
    st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 3)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=80)
@given(small, st.randoms(use_true_random=False), st.booleans())
def test_order_and_repetition_do_not_matter(table, random, with_y):
    if not any(w for *_, w in table):
        return

    def block(rows, weights):
        X = np.array([[a, b] for a, b, _ in rows], dtype=float)
        y = X.sum(axis=1) % 3 if with_y else None
        return Block(X, y, None if weights is None else np.array(weights, float))

    reference = canonical(block(table, [w for *_, w in table]))
    shuffled = list(table)
    random.shuffle(shuffled)
    assert_equal(canonical(block(shuffled, [w for *_, w in shuffled])), reference)
    repeated = [row for row in shuffled for _ in range(row[2])]
    assert_equal(canonical(block(repeated, None)), reference)
    # sorted by the first column first, every row once, nothing lost
    X = reference.X.tolist()
    assert X == sorted(X) and len({*map(tuple, X)}) == len(X)
    assert reference.weight == sum(w for *_, w in table)
    assert (reference.sample_weight > 0).all()
    assert_equal(canonical(reference), reference)


def test_rows_with_different_targets_are_different_rows():
    X = np.ones((3, 1))
    found = canonical(Block(X, np.array([2, 1, 2])))
    assert found.y.tolist() == [1, 2]
    assert found.sample_weight.tolist() == [1.0, 2.0]
    wide = canonical(Block(X, np.array([[1.0, 0], [1, 5], [1, 0]])))
    assert wide.y.tolist() == [[1, 0], [1, 5]]


def test_rows_keep_their_type():
    X = np.array([[2.0], [1.0]], dtype=np.float32)
    found = canonical(Block(X))
    assert found.X.dtype == np.float32
    assert found.X.ravel().tolist() == [1.0, 2.0]
    # in float64 these differ, and so they do here
    near = np.array([[1.0], [1.0 + 2**-52]])
    assert canonical(Block(near)).n_rows == 2


def test_canonical_leaves_its_argument_alone():
    X = np.array([[3.0], [1.0], [3.0]])
    block = Block(X, None, np.array([1.0, 0.0, 2.0]))
    assert canonical(block).X.tolist() == [[3.0]]
    assert X.ravel().tolist() == [3.0, 1.0, 3.0]
    assert block.sample_weight.tolist() == [1.0, 0.0, 2.0]


def test_merge_puts_blocks_one_after_the_other():
    a = Block(np.array([[1.0]]), np.array([5]), np.array([0.5]))
    b = Block(np.array([[2.0], [3.0]]), np.array([6, 7]), np.array([1.0, 2.0]))
    both = merge([a, b])
    assert both.X.ravel().tolist() == [1.0, 2.0, 3.0]
    assert both.y.tolist() == [5, 6, 7]
    assert both.sample_weight.tolist() == [0.5, 1.0, 2.0]
    assert merge([a]) is a
    bare = merge([Block(a.X), Block(b.X)])
    assert bare.y is None and bare.sample_weight is None


@pytest.mark.parametrize("fraction", [1.0, 3.0])
def test_the_whole_is_drawn_whole(fraction):
    block = Block(np.arange(6.0).reshape(6, 1))
    (drawn,) = draw(block, np.random.default_rng(0), fraction)
    assert drawn is block


def test_draw_has_the_right_size_on_average_and_no_row_twice():
    block = Block(np.arange(7.0).reshape(7, 1), np.arange(7))
    sizes = []
    for seed in range(3000):
        (drawn,) = draw(block, np.random.default_rng(seed), 0.3)
        assert drawn.X.ravel().tolist() == drawn.y.tolist() == sorted({*drawn.y})
        sizes.append(drawn.n_rows)
    assert set(sizes) == {2, 3}
    assert np.mean(sizes) == pytest.approx(2.1, abs=0.03)


def test_draw_takes_every_row_equally_often():
    block = Block(np.zeros((5, 1)), np.arange(5))
    hits = np.zeros(5)
    for seed in range(4000):
        hits[draw(block, np.random.default_rng(seed), 0.4)[0].y] += 1
    assert hits.sum() == 4000 * 2
    assert (np.abs(hits - 1600) < 5 * np.sqrt(1600)).all()


def test_draw_of_nothing():
    none = Block(np.zeros((0, 2)))
    (drawn,) = draw(none, np.random.default_rng(0), 0.9)
    assert drawn.X.shape == (0, 2)
