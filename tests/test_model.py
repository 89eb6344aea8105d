"""Blocks, the survey of the data, and the pieces of a model that have defaults."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_em.model import Block, Model, Summary, e_step_of
from dask_em.statistics import Statistics


def rows(n, d=3, seed=0, offset=0.0, dtype=float):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * [1.0, 0.1, 10.0][:d] + offset).astype(dtype)


# ------------------------------------------------------------------------- blocks


def test_block_counts_rows_weight_and_bytes():
    X = rows(5, dtype=np.float32)
    bare = Block(X)
    assert (bare.n_rows, bare.weight, bare.nbytes) == (5, 5.0, 5 * 3 * 4)
    full = Block(X, y=np.zeros((5, 2)), sample_weight=np.arange(5.0))
    assert (full.weight, full.nbytes) == (10.0, 60 + 80 + 40)
    assert Block(X[:0]).weight == 0.0
    np.testing.assert_array_equal(bare.weights(), np.ones(5))


def test_block_weight_does_not_lose_float32_weights():
    w = np.array([2.0**24, 1, 1, 1], dtype=np.float32)  # a float32 sum stays at 2**24
    block = Block(np.empty((len(w), 0)), sample_weight=w)
    assert block.weight == 2**24 + 3
    assert Block(np.empty((2, 1)), sample_weight=w[:2]).weights().dtype == np.float64


def test_block_rows_takes_the_same_rows_of_everything():
    block = Block(rows(6), np.arange(6), np.arange(6) / 10)
    for index in (slice(1, 5, 2), np.array([1, 3]), np.arange(6) % 2 == 1):
        part = block.rows(index)
        assert part.y.tolist() == np.arange(6)[index].tolist()
        np.testing.assert_array_equal(part.X, block.X[index])
        np.testing.assert_array_equal(part.sample_weight, np.arange(6)[index] / 10)
    assert block.rows(slice(1, 3)).X.base is not None  # slices are views
    assert Block(rows(6)).rows(slice(0, 2)).y is None


# ------------------------------------------------------------------------ summary


def oracle(X, w=None):
    w = np.ones(len(X)) if w is None else w
    wide = X.astype(np.longdouble)
    mean = (w[:, None] * wide).sum(axis=0) / w.sum()
    scatter = (w[:, None] * (wide - mean) ** 2).sum(axis=0)
    return w.sum(), mean.astype(float), scatter.astype(float)


def assert_summary(summary, X, w=None, rtol=1e-12):
    weight, mean, scatter = oracle(X, w)
    assert summary.n_rows == len(X)
    assert summary.weight == pytest.approx(weight, rel=1e-12)
    np.testing.assert_allclose(summary.mean, mean, rtol=rtol, atol=1e-12)
    close = {"rtol": 1e3 * rtol, "atol": 1e-25}
    np.testing.assert_allclose(summary.scatter, scatter, **close)
    np.testing.assert_allclose(summary.variance, scatter / weight, **close)


@pytest.mark.parametrize("n", [1, 2, 4095, 4096, 4097, 10_001])
@pytest.mark.parametrize("weighted", [False, True])
def test_summary_is_numpys(n, weighted):
    X = rows(n)
    w = np.random.default_rng(1).uniform(0.1, 3, n) if weighted else None
    summary = Summary.of(Block(X, sample_weight=w))
    assert_summary(summary, X, w)
    assert (summary.n_nonfinite, summary.n_negative_weights) == (0, 0)
    assert summary.n_features == 3


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6, 1e8])
@pytest.mark.parametrize("n", [50, 9000])
def test_a_common_offset_does_not_cancel(offset, n):
    X = rows(n, offset=offset)
    summary = Summary.of(Block(X))
    _, mean, scatter = oracle(X)
    np.testing.assert_allclose(summary.mean, mean, rtol=1e-14, atol=1e-12)
    np.testing.assert_allclose(summary.scatter, scatter, rtol=1e-6)
    assert (summary.variance > 0).all()


def test_an_offset_beyond_float32s_resolution_of_squares():
    X = rows(6000, offset=1e4, dtype=np.float32)
    summary = Summary.of(Block(X))
    assert summary.dtype == np.float32
    assert summary.mean.dtype == np.float64
    _, mean, scatter = oracle(X)
    np.testing.assert_allclose(summary.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(summary.scatter, scatter, rtol=1e-9)


@pytest.mark.parametrize("value", [0.1, 1e8 + 0.1, -1e-300])
def test_constant_features_have_no_scatter_at_all(value):
    summary = Summary.of(Block(np.full((5000, 2), value)))
    assert summary.mean.tolist() == [value, value]
    assert summary.scatter.tolist() == [0.0, 0.0]


def test_no_rows():
    none = Summary.of(Block(np.empty((0, 2))))
    assert (none.n_rows, none.weight) == (0, 0.0)
    assert none.mean.tolist() == none.scatter.tolist() == [0.0, 0.0]
    some = Summary.of(Block(rows(5, 2, offset=1e8)))
    for both in (none + some, some + none):
        np.testing.assert_array_equal(both.mean, some.mean)
        np.testing.assert_array_equal(both.scatter, some.scatter)
        assert both.n_rows == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_rows_are_counted_and_left_out(bad):
    X = rows(5000)
    X[[0, 17, 4500], [0, 1, 2]] = bad
    X[17, 2] = bad  # the same row twice is one row
    summary = Summary.of(Block(X))
    assert summary.n_nonfinite == 3
    good = np.delete(X, [0, 17, 4500], axis=0)
    _, mean, scatter = oracle(good)
    np.testing.assert_allclose(summary.mean, mean, atol=1e-12)
    np.testing.assert_allclose(summary.scatter, scatter, rtol=1e-9)
    assert summary.weight == 4997
    only = Summary.of(Block(np.full((3, 2), bad)))
    assert (only.n_rows, only.n_nonfinite, only.weight) == (3, 3, 0.0)


def test_bad_weights_are_counted():
    w = np.array([1.0, np.nan, -2.0, -0.5, 0.0])
    summary = Summary.of(Block(rows(5), sample_weight=w))
    assert summary.n_nonfinite == 1
    assert summary.n_negative_weights == 2


def test_rows_of_weight_zero_count_for_nothing_but_rows():
    X = rows(40)
    X[::2] = 1e9
    w = np.tile([0.0, 2.0], 20)
    summary = Summary.of(Block(X, sample_weight=w))
    _, mean, scatter = oracle(X[1::2], np.full(20, 2.0))
    np.testing.assert_allclose(summary.scatter, scatter, rtol=1e-6)
    assert summary.n_rows == 40 and summary.weight == 40
    np.testing.assert_allclose(summary.mean, mean, rtol=1e-6)
    assert summary.mean.max() < 100 and np.isfinite(summary.scatter).all()


def test_all_weights_zero():
    summary = Summary.of(Block(rows(4), sample_weight=np.zeros(4)))
    assert summary.weight == 0.0
    assert summary.mean.tolist() == [0.0] * 3


matrices = hnp.arrays(
    np.float64,
    st.tuples(st.integers(3, 40), st.just(2)),
    elements=st.floats(-1e3, 1e3, width=32),
)


@settings(max_examples=60)
@given(matrices, st.data())
def test_combine_is_the_union_whatever_the_brackets(X, data):
    n = len(X)
    w = data.draw(
        hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    )
    i, j = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    a, b, c = (
        Summary.of(Block(X[s], sample_weight=w[s]))
        for s in (slice(0, i), slice(i, j), slice(j, n))
    )
    whole = Summary.of(Block(X, sample_weight=w))
    for summary in ((a + b) + c, a + (b + c), (c + a) + b):
        assert summary.n_rows == n
        assert summary.weight == pytest.approx(w.sum())
        scale = max(1.0, float(np.abs(X).max()))
        np.testing.assert_allclose(summary.mean, whole.mean, atol=1e-12 * scale)
        np.testing.assert_allclose(
            summary.scatter, whole.scatter, rtol=1e-9, atol=1e-11 * scale**2
        )


def test_combine_adds_counts_and_takes_the_wider_type():
    a = Summary.of(Block(np.array([[np.nan], [1.0]], dtype=np.float32)))
    b = Summary.of(Block(np.array([[2.0]]), sample_weight=np.array([-1.0])))
    both = a + b
    assert both.dtype == np.float64
    assert (both.n_rows, both.n_nonfinite, both.n_negative_weights) == (3, 1, 1)
    assert (a + a).dtype == np.float32


def test_weights_are_repetitions():
    X = rows(30)
    times = np.random.default_rng(0).integers(0, 4, 30)
    weighted = Summary.of(Block(X, sample_weight=times.astype(float)))
    repeated = Summary.of(Block(np.repeat(X, times, axis=0)))
    assert weighted.weight == repeated.weight
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.scatter, repeated.scatter, rtol=1e-12)


# -------------------------------------------------------------------------- models


@dataclasses.dataclass(frozen=True)
class Sums(Statistics):
    n: float
    total: float


@dataclasses.dataclass(frozen=True)
class Params:
    slope: float


class Affine(Model):
    """F = 3 - 2 slope + slope * total - n: with a constant, so `gain` must drop it."""

    keeps_local = False

    def start(self, summary, sample, *, rng, mapreduce):
        return Params(1.0)

    def e_step(self, params, prepared, local=None):
        seen = None if not self.keeps_local else (local or 0) + 1
        return Sums(float(prepared.n_rows), float(prepared.X.sum())), seen

    def m_step(self, params, stats):
        return params

    def lower_bound(self, params, stats):
        return 3.0 - 2 * params.slope + params.slope * stats.total - stats.n


class WithLocal(Affine):
    keeps_local = True


class Preparing(Affine):
    def prepare(self, block, summary):
        return block


def test_the_four_functions_are_needed():
    class Incomplete(Affine):
        m_step = Model.m_step

    with pytest.raises(TypeError, match="m_step"):
        Incomplete()


def test_defaults():
    model, block = Affine(), Block(rows(4))
    assert model.prepare(block, None) is block
    assert not model.prepares and Preparing().prepares
    assert model.survey(block).n_rows == 4
    assert model.check(None) is None
    assert isinstance(pickle.loads(pickle.dumps(model)), Affine)


def test_gain_is_the_change_of_the_bound_alone():
    model, params = Affine(), Params(0.5)
    old, new = Sums(4.0, 10.0), Sums(4.0, 13.0)
    others = Sums(100.0, -7.0)
    expected = model.lower_bound(params, others + new) - model.lower_bound(
        params, others + old
    )
    assert model.gain(params, new - old) == pytest.approx(expected)
    assert model.gain(params, old - old) == 0.0


def test_e_step_over_pieces_adds_up_and_keeps_states_apart():
    pieces = [Block(rows(n, seed=n)) for n in (2, 0, 3)]
    whole = sum(p.X.sum() for p in pieces)
    stats, local = e_step_of(Affine(), Params(1.0), pieces)
    assert stats.n == 5 and stats.total == pytest.approx(whole)
    assert local is None
    _, local = e_step_of(WithLocal(), Params(1.0), pieces)
    assert local == (1, 1, 1)
    _, local = e_step_of(WithLocal(), Params(1.0), pieces, (5, 6, 7))
    assert local == (6, 7, 8)
    _, local = e_step_of(WithLocal(), Params(1.0), pieces[:1], (5,))
    assert local == (6,)
    with pytest.raises(ValueError, match="no pieces"):
        e_step_of(Affine(), Params(1.0), [])
