"""Statistics are an additive group, and sums do not depend on who adds."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_em import Statistics
from dask_em.statistics import tree_sum


@dataclasses.dataclass(frozen=True)
class Moments(Statistics):
    count: float
    total: np.ndarray
    square: np.ndarray


@dataclasses.dataclass(frozen=True)
class Nested(Statistics):
    inner: Moments
    entropy: float


def moments(seed):
    rng = np.random.default_rng(seed)
    return Moments(float(rng.normal()), rng.normal(size=3), rng.normal(size=(2, 2)))


def nested(seed):
    return Nested(moments(seed), float(seed))


def flat(value):
    if isinstance(value, Statistics):
        return np.concatenate(
            [flat(getattr(value, f.name)) for f in dataclasses.fields(value)]
        )
    return np.ravel(value)


@pytest.mark.parametrize("make", [moments, nested])
def test_it_is_an_additive_group(make):
    a, b, c = make(1), make(2), make(3)
    np.testing.assert_array_equal(flat(a + b), flat(a) + flat(b))
    np.testing.assert_array_equal(flat(a - b), flat(a) - flat(b))
    np.testing.assert_allclose(flat((a + b) + c), flat(a + (b + c)), rtol=1e-14)
    np.testing.assert_array_equal(flat(a + a.zeros_like()), flat(a))
    np.testing.assert_array_equal(flat(a - a), flat(a.zeros_like()))
    np.testing.assert_array_equal(flat(a.scale(-2.5)), -2.5 * flat(a))
    np.testing.assert_array_equal(flat(a.scale(0.0)), flat(a.zeros_like()))


def test_every_field_keeps_its_own_value():
    a = Moments(1.0, np.array([1.0, 2.0]), np.array([10.0]))
    b = Moments(5.0, np.array([3.0, 7.0]), np.array([20.0]))
    added, taken = a + b, b - a
    assert (added.count, taken.count) == (6.0, 4.0)
    assert added.total.tolist() == [4.0, 9.0]
    assert taken.total.tolist() == [2.0, 5.0]
    assert added.square.tolist() == [30.0]


@pytest.mark.parametrize("make", [moments, nested])
def test_operations_leave_their_operands_alone(make):
    a, b = make(1), make(2)
    before = pickle.dumps((a, b))
    a + b, a - b, a.scale(3.0), a.zeros_like(), tree_sum([a, b, a])
    assert pickle.dumps((a, b)) == before


def test_zeros_are_independent_of_their_model_and_keep_shape_and_type():
    a = Moments(3.0, np.ones(4, dtype=np.float32), np.ones((0, 2)))
    zero = a.zeros_like()
    assert zero.total.dtype == np.float32 and zero.total.shape == (4,)
    assert zero.square.shape == (0, 2)
    assert zero.count == 0.0 and np.ndim(zero.count) == 0
    zero.total[:] = 7.0
    assert a.total.tolist() == [1.0] * 4


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        moments(0).count = 1.0


def test_other_things_cannot_be_added():
    a = moments(0)
    for other in (nested(0), 1.0, None):
        with pytest.raises(TypeError):
            a + other
        with pytest.raises(TypeError):
            a - other


def test_nbytes_counts_every_array():
    assert moments(0).nbytes == 8 + 3 * 8 + 4 * 8
    assert nested(0).nbytes == moments(0).nbytes + 8
    half = Moments(1.0, np.zeros(3, dtype=np.float32), np.zeros(0))
    assert half.nbytes == 8 + 3 * 4


def test_pickle():
    a = nested(4)
    np.testing.assert_array_equal(flat(pickle.loads(pickle.dumps(a))), flat(a))


def count(value):
    return Moments(value, np.array([value]), np.zeros(0))


@given(st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=70))
def test_tree_sum_adds_every_term_once(values):
    total = tree_sum([count(v) for v in values])
    exact = math.fsum(values)
    scale = math.fsum(map(abs, values))
    # log2(70) additions deep: rounding grows with the depth, not the number
    assert abs(total.count - exact) <= 8 * np.finfo(float).eps * scale
    assert total.total[0] == total.count


def test_tree_sum_is_a_balanced_tree():
    """(a + b) + (c + d), not ((a + b) + c) + d: in floats they differ."""
    tiny = 2.0**-53
    total = tree_sum([count(v) for v in (1.0, tiny, tiny, tiny)])
    assert total.count == 1.0 + 2 * tiny
    many = tree_sum([count(v) for v in [1.0] + [tiny] * (2**12 - 1)])
    assert many.count == pytest.approx(1.0 + tiny * 2**12, abs=6 * tiny, rel=0)
    assert many.count > 1.0 + tiny * 2**11


def test_tree_sum_of_one_and_of_none():
    a = moments(0)
    assert tree_sum([a]) is a
    assert tree_sum((a, a)).count == 2 * a.count
    with pytest.raises(ValueError, match="nothing to add up"):
        tree_sum([])
