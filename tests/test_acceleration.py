"""Extrapolation gets to the fixed point sooner, and never below where it has been."""

import dataclasses

import numpy as np
import pytest

from dask_em import Model, Statistics, fit_em
from dask_em.acceleration import SQUAREM, Acceleration, Anderson, named_acceleration
from dask_em.drivers.climb import Climb, Summit
from dask_em.transports import Local

# ------------------------------------------------------------------ a linear map


def contraction(n, seed=0):
    """A linear map with eigenvalues up to 0.99, and its fixed point."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    A = basis * np.linspace(0.99, 0.1, n) @ basis.T
    there = rng.normal(size=n)
    return lambda x: there + A @ (x - there), there


def evaluations(acceleration, G, there, x, distance=1e-8, at_most=10_000):
    """Evaluations of the map until a point is as close as `distance`."""
    state = acceleration.begin() if acceleration is not None else None
    for k in range(at_most):
        if np.linalg.norm(x - there) <= distance:
            return k
        step = G(x) - x
        target = state.propose(x, step) if state is not None else None
        x = x + step if target is None else target
    return at_most


@pytest.mark.parametrize("n", [1, 2, 5])
def test_anderson_solves_a_linear_map(n):
    """It takes n + 1 steps to see all directions, and one to arrive."""
    G, there = contraction(n)
    assert evaluations(Anderson(n), G, there, np.ones(n)) <= n + 2
    assert evaluations(None, G, there, np.ones(n)) > 10 * (n + 2)


def test_a_short_memory_is_still_faster():
    G, there = contraction(8)
    plain = evaluations(None, G, there, np.ones(8))
    assert evaluations(Anderson(2), G, there, np.ones(8)) < plain / 5


def test_squarem_on_a_linear_map():
    G, there = contraction(8)
    plain = evaluations(None, G, there, np.ones(8))
    assert evaluations(SQUAREM(), G, there, np.ones(8)) < plain / 3


def test_squarem_jumps_as_its_paper_says():
    G, _ = contraction(3)
    x0 = np.ones(3)
    x1, state = G(x0), SQUAREM().begin()
    assert state.propose(x0, x1 - x0) is None
    r, v = x1 - x0, G(x1) - 2 * x1 + x0
    a = -np.linalg.norm(r) / np.linalg.norm(v)
    jump = state.propose(x1, G(x1) - x1)
    np.testing.assert_allclose(jump, x0 - 2 * a * r + a * a * v)
    # a step of EM steadies it, and then it begins again
    assert state.propose(jump, G(jump) - jump) is None
    assert state.propose(x0, x1 - x0) is None
    assert state.propose(x1, G(x1) - x1) is not None


def test_squarem_of_one_dimension_arrives_at_once():
    G, there = contraction(1)
    x0 = np.array([7.0])
    state = SQUAREM().begin()
    state.propose(x0, G(x0) - x0)
    jump = state.propose(G(x0), G(G(x0)) - G(x0))
    np.testing.assert_allclose(jump, there, rtol=1e-9)


def test_the_jump_is_bounded():
    """With -a = 1 there is nothing but EM."""
    G, there = contraction(4)
    plain = evaluations(None, G, there, np.ones(4))
    assert evaluations(SQUAREM(1.0), G, there, np.ones(4)) == plain


@pytest.mark.parametrize("acceleration", [Anderson(), SQUAREM()])
def test_restart_forgets(acceleration):
    G, _ = contraction(3)
    x = np.ones(3)
    used, fresh = acceleration.begin(), acceleration.begin()
    for _ in range(2):
        used.propose(x, G(x) - x)
        x = G(x)
    used.restart()
    for _ in range(3):
        ours, theirs = (state.propose(x, G(x) - x) for state in (used, fresh))
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
        x = G(x)


@pytest.mark.parametrize("acceleration", [Anderson(), SQUAREM()])
def test_at_the_fixed_point_it_stays(acceleration):
    state, x = acceleration.begin(), np.ones(3)
    for _ in range(4):
        target = state.propose(x, np.zeros(3))
        if target is not None:
            np.testing.assert_array_equal(target, x)


def test_points_are_not_changed_in_place():
    G, _ = contraction(3)
    for acceleration in (Anderson(), SQUAREM()):
        state, x = acceleration.begin(), np.ones(3)
        for _ in range(5):
            step = G(x) - x
            kept = x.copy(), step.copy()
            state.propose(x, step)
            np.testing.assert_array_equal(x, kept[0])
            np.testing.assert_array_equal(step, kept[1])
            x = x + step


# -------------------------------------------------------------------------- settings


def test_names():
    auto = Anderson(3)
    assert named_acceleration("auto", auto) is auto
    assert named_acceleration("auto", None) is None
    assert named_acceleration(None, auto) is None
    assert named_acceleration("anderson", None) == Anderson()
    assert named_acceleration("squarem", None) == SQUAREM()
    own = SQUAREM(2.0)
    assert named_acceleration(own, auto) is own


def test_unknown_names_get_one_clear_error():
    with pytest.raises(ValueError, match=r"'auto', 'anderson', .*got 'warp'"):
        named_acceleration("warp", None)
    for value in (3, True, Anderson, ["anderson"]):
        with pytest.raises(TypeError, match="acceleration must be a name"):
            named_acceleration(value, None)


@pytest.mark.parametrize("depth", [0, -1, 2.5, "3"])
def test_bad_depths(depth):
    with pytest.raises((ValueError, TypeError), match="depth"):
        Anderson(depth)


@pytest.mark.parametrize("longest", [0.5, -1.0, float("nan")])
def test_bad_lengths(longest):
    with pytest.raises(ValueError, match="max_step must be at least 1"):
        SQUAREM(longest)


# -------------------------------------------------------------------- the safeguard


@dataclasses.dataclass(frozen=True)
class Point:
    x: float


@dataclasses.dataclass(frozen=True)
class Nothing(Statistics):
    n: float = 0.0


@dataclasses.dataclass(frozen=True)
class Scripted(Model[Point, Nothing]):
    """A model whose steps are told it."""

    refuse: tuple[float, ...] = ()

    def start(self, summary, sample, *, rng, mapreduce):
        return Point(0.0)

    def e_step(self, params, prepared, local=None):
        return Nothing(1.0), None

    def m_step(self, params, stats):
        return Point(params.x + 1)

    def lower_bound(self, params, stats):
        return -abs(params.x - 10)

    def pack(self, params):
        return np.array([params.x])

    def unpack(self, params, vector):
        if vector[0] in self.refuse:
            raise ValueError("there is no such point")
        return Point(float(vector[0]))

    def safe_step(self, params, stats):
        return Point(params.x + 0.25)


class To(Acceleration):
    """Proposes what it is told, and says when it was restarted."""

    def __init__(self, *targets):
        self.targets, self.restarts = list(targets), 0

    def begin(self):
        return self

    def propose(self, x, step):
        return self.targets.pop(0)

    def restart(self):
        self.restarts += 1


def summit(x, value, reached):
    return Summit(Point(x), Nothing(), value, Point(reached))


def climbing(*targets, **settings):
    jumps = To(*targets)
    return Climb(Scripted(**settings), jumps, 1e-13), jumps


def test_the_first_point_is_never_refused():
    climb, _ = climbing()
    assert not climb.refuses(-np.inf) and not climb.refuses(np.nan)


def test_lower_points_are_refused():
    climb, _ = climbing(None)
    climb.advance(summit(0.0, -5.0, 1.0))
    assert climb.refuses(-5.1) and climb.refuses(np.nan) and climb.refuses(-np.inf)
    assert not climb.refuses(-5.0) and not climb.refuses(-4.0)
    assert not climb.refuses(-5.0 - 1e-14)  # rounding


def test_a_jump_is_taken_and_turned_back_from():
    climb, jumps = climbing(np.array([8.0]))
    assert climb.advance(summit(0.0, -5.0, 1.0)) == Point(8.0)
    # EM's own step, then the safe one, then none
    assert climb.turn_back() == Point(1.0)
    assert jumps.restarts == 1
    assert climb.turn_back() == Point(0.25)
    assert climb.turn_back() is None
    assert climb.summit == summit(0.0, -5.0, 1.0)


def test_after_a_new_summit_everything_is_open_again():
    climb, _ = climbing(None, np.array([9.0]))
    assert climb.advance(summit(0.0, -5.0, 1.0)) == Point(1.0)
    assert climb.turn_back() == Point(0.25)
    assert climb.advance(summit(0.25, -4.0, 2.0)) == Point(9.0)
    assert climb.turn_back() == Point(2.0)
    assert climb.turn_back() == Point(0.5)


@pytest.mark.parametrize("target", [None, np.array([np.nan]), np.array([np.inf])])
def test_no_jump_is_the_step_itself(target):
    climb, _ = climbing(target)
    assert climb.advance(summit(0.0, -5.0, 1.0)) == Point(1.0)
    assert climb.turn_back() == Point(0.25)


def test_points_that_do_not_exist_are_not_jumped_to():
    climb, jumps = climbing(np.array([8.0]), refuse=(8.0,))
    assert climb.advance(summit(0.0, -5.0, 1.0)) == Point(1.0)
    assert jumps.restarts == 1


def test_coordinates_that_are_not_finite_restart():
    climb, jumps = climbing(np.array([8.0]))
    assert climb.advance(summit(np.inf, -5.0, 1.0)) == Point(1.0)
    assert jumps.restarts == 1 and len(jumps.targets) == 1


def test_without_acceleration_there_are_only_steps():
    climb = Climb(Scripted(), None, 1e-13)
    assert climb.advance(summit(0.0, -5.0, 1.0)) == Point(1.0)
    assert climb.turn_back() == Point(0.25)
    assert climb.turn_back() is None


# ---------------------------------------------------------------------------- fit_em


@dataclasses.dataclass(frozen=True)
class Mean(Statistics):
    n: float
    total: float
    squares: float


@dataclasses.dataclass(frozen=True)
class Halfway(Model[Point, Mean]):
    """A mean that is approached by slow steps: half of the values are missing."""

    share: float = 0.95

    def start(self, summary, sample, *, rng, mapreduce):
        return Point(0.0)

    def e_step(self, params, prepared, local=None):
        x = prepared.X[:, 0]
        return Mean(float(len(x)), float(x.sum()), float((x**2).sum())), None

    def m_step(self, params, stats):
        mean = stats.total / stats.n
        return Point(self.share * params.x + (1 - self.share) * mean)

    def lower_bound(self, params, stats):
        squares = stats.squares - 2 * params.x * stats.total + stats.n * params.x**2
        return -0.5 * squares


@dataclasses.dataclass(frozen=True)
class Packed(Halfway):
    """The same with coordinates."""

    @property
    def one_version(self):
        return True

    def pack(self, params):
        return np.array([params.x])

    def unpack(self, params, vector):
        return Point(float(vector[0]))


ROWS = np.arange(20.0)[:, None]


@pytest.mark.parametrize("acceleration", ["anderson", "squarem", Anderson(2)])
def test_a_model_without_coordinates_cannot_be_accelerated(acceleration):
    with pytest.raises(ValueError, match=r"acceleration= needs pack.*Halfway"):
        fit_em(Halfway(), ROWS, acceleration=acceleration, transport=Local(1))


def test_a_model_without_coordinates_is_not_accelerated_by_default():
    result = fit_em(Halfway(), ROWS, transport=Local(1), tol=1e-12, max_iter=2000)
    assert result.converged
    assert result.settings["acceleration"] == "None"
    assert result.params.x == pytest.approx(9.5, rel=1e-3)


@pytest.mark.parametrize("acceleration", ["anderson", "squarem"])
def test_acceleration_saves_passes(acceleration):
    how = {"transport": Local(1), "tol": 1e-12, "max_iter": 2000}
    plain = fit_em(Packed(), ROWS, acceleration=None, **how)
    fast = fit_em(Packed(), ROWS, acceleration=acceleration, **how)
    assert plain.converged and fast.converged
    assert fast.params.x == pytest.approx(9.5, rel=1e-6)
    assert fast.effective_passes < plain.effective_passes / 5
    assert (np.diff(fast.trace.lower_bound_before) >= 0).all()


def test_unknown_accelerations_in_fit_em():
    with pytest.raises(ValueError, match="acceleration must be one of"):
        fit_em(Packed(), ROWS, acceleration="warp", transport=Local(1))
    with pytest.raises(TypeError, match="acceleration must be a name"):
        fit_em(Packed(), ROWS, acceleration=1, transport=Local(1))


class OneVersion(Halfway):
    """Whose statistics must not be mixed, and nobody stands in for it."""

    @property
    def one_version(self):
        return True


def test_statistics_of_one_version_are_not_mixed():
    with pytest.raises(ValueError, match=r"OneVersion wants .* define mixable"):
        fit_em(OneVersion(), ROWS, schedule="fraction_barrier", transport=Local(1))
