"""Tables of which only some rows are there."""

import numpy as np
import pytest

from dask_em.row_statistics import RowStatistics
from dask_em.statistics import tree_sum

N_ROWS, WIDTH = 12, 3


def table(ids, dtype=np.float64, seed=0):
    """Return some rows of random numbers, or all of them."""
    rng = np.random.default_rng(seed)
    n = N_ROWS if ids is None else len(ids)
    rows = rng.normal(size=(n, WIDTH)).astype(dtype)
    return RowStatistics(None if ids is None else np.array(ids, int), rows, N_ROWS)


SOME = {
    "none": [],
    "few": [1, 4],
    "others": [0, 4, 11],
    "most": [0, 1, 2, 3, 5, 7, 8, 10],
    "all": None,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("right", SOME)
@pytest.mark.parametrize("left", SOME)
def test_sums_and_differences_are_those_of_whole_tables(left, right, dtype):
    a, b = table(SOME[left], dtype), table(SOME[right], dtype, seed=1)
    for found, expected in (
        (a + b, a.dense() + b.dense()),
        (a - b, a.dense() - b.dense()),
        (tree_sum([a, b, a]), 2 * a.dense() + b.dense()),
        (a.scale(-2.0), -2 * a.dense()),
        (a + a.zeros_like(), a.dense()),
    ):
        np.testing.assert_allclose(found.dense(), expected, rtol=1e-6)
        if found.ids is not None:
            assert (np.diff(found.ids) > 0).all()
    assert (a + b).rows.dtype == np.float64


def test_terms_are_left_as_they_are():
    a, b = table([1, 4]), table([4, 5], seed=1)
    before = a.rows.copy(), b.rows.copy()
    total = a + b
    tree_sum([a, a])
    _ = total + a
    np.testing.assert_array_equal(a.rows, before[0])
    np.testing.assert_array_equal(b.rows, before[1])


def test_a_report_is_as_large_as_its_rows():
    assert table([1, 4]).nbytes == 2 * (WIDTH + 1) * 8
    assert table([1, 4], np.float32).nbytes == 2 * (WIDTH * 4 + 8)


def test_a_sum_of_most_rows_has_all():
    assert (table([1, 4]) + table([0, 2])).ids.tolist() == [0, 1, 2, 4]
    assert (table(SOME["most"]) + table([11])).is_dense
    dense = table(None)
    assert dense.dense() is dense.rows
