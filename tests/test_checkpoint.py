"""Fits that survive their process: files that are whole, one's own, and no pickles."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types

import fsspec
import numpy as np
import pytest

from dask_em import Model, Statistics, fit_em
from dask_em.checkpoint import Checkpoint, Checkpointer, fingerprint_of
from dask_em.model import Block, Summary
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.schedules import FractionBarrier, Synchronous
from dask_em.transports import Local, Simulated

FILE = "dask_em-checkpoint.npz"


@dataclasses.dataclass(frozen=True)
class Params:
    means: np.ndarray
    scale: float


@dataclasses.dataclass(frozen=True)
class Sums(Statistics):
    n: float


@dataclasses.dataclass(frozen=True)
class Toy(Model):
    width: int = 3
    name: str = "toy"

    def start(self, summary, sample, *, rng, mapreduce):
        raise NotImplementedError

    e_step = m_step = lower_bound = start


ROWS = np.random.default_rng(0).normal(size=(50, 2))
MARK = fingerprint_of(Toy(), Summary.of(Block(ROWS)))


def point(bound=-1.0, **kwargs):
    kwargs = {
        "params": Params(np.arange(6.0).reshape(2, 3), 0.25),
        "lower_bound": bound,
        "version": 7,
        "effective_passes": 3.5,
        "init": 1,
        "seed": 42,
        **kwargs,
    }
    return Checkpoint(**kwargs)


def assert_equal(a, b):
    assert type(a) is type(b)
    for f in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name))


@pytest.fixture
def url():
    """A directory in fsspec's memory, empty before and after."""
    location = "memory://dask_em-tests/deep/er"
    fs = fsspec.filesystem("memory")
    yield location
    if fs.exists("/dask_em-tests"):
        fs.rm("/dask_em-tests", recursive=True)


LOCATIONS = ["directory", "path", "url of files", "memory"]


@pytest.fixture(params=LOCATIONS)
def location(request, tmp_path, url):
    place = tmp_path / "not" / "there yet"
    return {
        "directory": str(place),
        "path": place,
        "url of files": place.as_uri().replace("%20", " "),
        "memory": url,
    }[request.param]


# -------------------------------------------------------------------- the file


def test_round_trip(location):
    saver = Checkpointer(location, MARK)
    assert not saver.exists()
    best = Params(np.ones((2, 3)), 9.0)
    saved = point(best=best, best_bound=-2.0)
    assert saver.save(saved) and saver.exists()
    found = Checkpointer(location, MARK).load(Toy())
    assert_equal(found.params, saved.params)
    assert_equal(found.best, best)
    assert type(found.params.scale) is float
    for f in dataclasses.fields(Checkpoint):
        if f.name not in ("params", "best"):
            assert getattr(found, f.name) == getattr(saved, f.name)


def test_without_a_best_start(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    saver.save(point())
    found = saver.load(Toy())
    assert found.best is None and found.best_bound == -np.inf
    assert saver.load(None).params is None


def test_types_of_arrays_are_kept(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    for dtype in ("f4", "i8", "?", "c16", "U3"):
        mine = np.zeros((2, 0), dtype)
        saver.save(point(params=Params(mine, 1.0)))
        found = saver.load(Toy()).params.means
        assert found.dtype == mine.dtype and found.shape == mine.shape


def test_numpy_scalars_are_numbers_too(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    saver.save(point(np.float64(-1), version=np.int64(3), seed=np.int32(5)))
    found = saver.load(Toy())
    assert (found.version, found.seed) == (3, 5)


def test_no_pickles(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    saver.save(point(best=point().params))
    with np.load(tmp_path / FILE, allow_pickle=False) as archive:
        assert all(not archive[k].dtype.hasobject for k in archive.files)
        header = json.loads(str(archive["header"]))
    assert header["versions"]["numpy"] == np.__version__


def test_parameters_that_would_need_pickles_are_refused(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    for bad in (None, {}, point()):
        with pytest.raises(TypeError, match=r"params\.means cannot be saved"):
            saver.save(point(params=Params(bad, 1.0)))
    assert not saver.exists()


def test_nothing_is_left_beside_it(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    for k in range(5):
        saver.save(point(-5.0 + k))
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("where", ["open", "write", "mv"])
def test_a_failure_leaves_the_old_one_whole(tmp_path, monkeypatch, where):
    saver = Checkpointer(tmp_path, MARK)
    saver.save(point(-9.0))
    before = (tmp_path / FILE).read_bytes()
    fs = saver._fs

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    class Disk:
        """Takes some bytes, then is full."""

        def __init__(self, path, mode):
            self.file = open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            self.file.write(content[:100])
            full()

    real = fs.open

    def opened(path, mode="rb", **kwargs):
        if "w" not in mode:
            return real(path, mode, **kwargs)
        return full() if where == "open" else Disk(path, mode)

    monkeypatch.setattr(fs, "mv" if where == "mv" else "open", full, raising=False)
    if where != "mv":
        monkeypatch.setattr(fs, "open", opened)
    with pytest.raises(OSError, match="no space"):
        saver.save(point(-1.0))
    monkeypatch.undo()
    assert (tmp_path / FILE).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert saver.load(Toy()).lower_bound == -9.0
    # and the next attempt is not taken for a repetition
    assert saver.save(point(-1.0)) and saver.load(Toy()).lower_bound == -1.0


def test_half_a_file_of_a_killed_process_is_no_obstacle(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    (tmp_path / f"{FILE}.abc.partial").write_bytes(b"half")
    assert not saver.exists()
    assert saver.save(point()) and saver.load(Toy()).version == 7


def test_the_better_one_is_kept(tmp_path):
    saver = Checkpointer(tmp_path, MARK)
    assert saver.save(point(-3.0, version=1))
    assert not saver.save(point(-4.0, version=2))
    # another process, too
    other = Checkpointer(tmp_path, MARK)
    assert not other.save(point(-3.5, version=3))
    assert other.load(Toy()).version == 1
    assert other.save(point(-3.0, version=4))  # as good, and newer
    assert other.save(point(-2.0, version=5))
    # the best start counts, not the one under way
    mine = Params(np.zeros((2, 3)), 1.0)
    assert other.save(point(-50.0, version=6, best=mine, best_bound=-1.0))
    assert not other.save(point(-1.5, version=7))
    assert other.load(Toy()).version == 6


FOREIGN = {
    "settings": fingerprint_of(Toy(width=4), Summary.of(Block(ROWS))),
    "model": fingerprint_of(GaussianMixtureModel(3), Summary.of(Block(ROWS))),
    "data": fingerprint_of(Toy(), Summary.of(Block(ROWS[:-1]))),
    "data, moved": fingerprint_of(Toy(), Summary.of(Block(ROWS + 0.01))),
    "data, stretched": fingerprint_of(
        Toy(), Summary.of(Block((ROWS - ROWS.mean(0)) * 1.01 + ROWS.mean(0)))
    ),
    "data, weighted": fingerprint_of(
        Toy(), Summary.of(Block(ROWS, sample_weight=np.full(50, 2.0)))
    ),
    "data, more columns": fingerprint_of(Toy(), Summary.of(Block(ROWS[:, :1]))),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_one_is_refused_and_kept(tmp_path, what):
    Checkpointer(tmp_path, FOREIGN[what]).save(point(-9.0))
    before = (tmp_path / FILE).read_bytes()
    mine = Checkpointer(tmp_path, MARK)
    words = f"another fit.*{what.split(',')[0]}.*choose another directory"
    with pytest.raises(ValueError, match=words):
        mine.load(Toy())
    with pytest.raises(ValueError, match=words):
        mine.save(point(0.0))
    assert (tmp_path / FILE).read_bytes() == before


def test_the_same_data_in_another_order_is_not_foreign(tmp_path):
    halves = Summary.of(Block(ROWS[::-1][:20])) + Summary.of(Block(ROWS[::-1][20:]))
    Checkpointer(tmp_path, fingerprint_of(Toy(), halves)).save(point())
    assert Checkpointer(tmp_path, MARK).load(Toy()).version == 7


def archive(**arrays):
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def whole(tmp_path):
    Checkpointer(tmp_path, MARK).save(point())
    return (tmp_path / FILE).read_bytes()


CORRUPT = {
    "empty": lambda good: b"",
    "garbage": lambda good: b"garbage" * 100,
    "half": lambda good: good[: len(good) // 2],
    "damaged": lambda good: good.replace(np.float64(5).tobytes(), b"damaged!"),
    "pickle": lambda good: archive(header=np.array([{"format": 1}], dtype=object)),
    "no header": lambda good: archive(x=np.zeros(2)),
    "not JSON": lambda good: archive(header=np.array("{")),
    "a list": lambda good: archive(header=np.array("[1]")),
    "other format": lambda good: archive(header=np.array('{"format": 99}')),
    "nothing else": lambda good: archive(header=np.array('{"format": 1}')),
    "no bound": lambda good: archive(
        header=np.array(json.dumps({"format": 1, "fingerprint": MARK, "type": "P"}))
    ),
}


@pytest.mark.parametrize("how", CORRUPT)
def test_a_damaged_one_is_refused_and_kept(tmp_path, how):
    bad = CORRUPT[how](whole(tmp_path))
    (tmp_path / FILE).write_bytes(bad)
    mine = Checkpointer(tmp_path, MARK)
    with pytest.raises(ValueError, match=r"cannot be read .*choose another directory"):
        mine.load(Toy())
    with pytest.raises(ValueError, match="cannot be read"):
        mine.save(point(0.0))
    assert (tmp_path / FILE).read_bytes() == bad


def test_arrays_that_are_missing(tmp_path):
    Older = dataclasses.make_dataclass("Params", ["means"], frozen=True)
    Checkpointer(tmp_path, MARK).save(point(params=Older(np.zeros(2))))
    with pytest.raises(ValueError, match="no scale for Params"):
        Checkpointer(tmp_path, MARK).load(Toy())


def test_types_are_looked_up_beside_the_model_only(tmp_path):
    Evil = dataclasses.make_dataclass("Popen", ["args"], frozen=True)
    Checkpointer(tmp_path, MARK).save(point(params=Evil(np.zeros(1))))
    with pytest.raises(ValueError, match=r"'Popen'.*top of"):
        Checkpointer(tmp_path, MARK).load(Toy())


def test_none_there(location):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*leave out resume"):
        Checkpointer(location, MARK).load(Toy())


def test_bad_locations(tmp_path):
    with pytest.raises(ValueError, match="fsspec"):
        Checkpointer("nowhere://at/all", MARK)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a directory"):
        Checkpointer(tmp_path / "file", MARK)


# -------------------------------------------------------------------------- fits


def clusters():
    rng = np.random.default_rng(1)
    means = np.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]])
    return means[rng.integers(3, size=300)] + rng.normal(size=(300, 2))


X = clusters()
MODEL = GaussianMixtureModel(3)


def fit(model=MODEL, data=X, **kwargs):
    kwargs = {
        "transport": Local(1),
        "schedule": Synchronous(),
        "tol": 1e-7,
        "max_iter": 3000,
        "random_state": 0,
        "checkpoint_seconds": 0,
        **kwargs,
    }
    return fit_em(model, data, **kwargs)


class Killed(Exception):
    """Stands for the end of the process."""


def until(version):
    def callback(progress):
        if progress.version >= version:
            raise Killed

    return callback


@pytest.mark.parametrize(
    ("location", "schedule"),
    [
        *((place, Synchronous()) for place in LOCATIONS),
        ("path", FractionBarrier(0.3)),
        *(
            pytest.param(place, FractionBarrier(0.3), marks=pytest.mark.slow)
            for place in LOCATIONS
            if place != "path"
        ),
    ],
    indirect=["location"],
    ids=repr,
)
def test_resume_arrives_at_the_same_answer(location, schedule):
    how = {"schedule": schedule, "shards": 4}
    undisturbed = fit(**how, transport=Simulated(3))
    assert undisturbed.resumed_from is None and undisturbed.n_m_steps > 30
    with pytest.raises(Killed):
        fit(**how, transport=Simulated(3), checkpoint=location, callback=until(15))
    seen = []
    resumed = fit(
        **how,
        transport=Simulated(3),
        checkpoint=location,
        resume=True,
        random_state=99,
        callback=seen.append,
    )
    assert resumed.resumed_from == str(location)
    assert resumed.converged
    assert resumed.log_likelihood == pytest.approx(undisturbed.log_likelihood, abs=1e-4)
    # it went on where it had been, and did not begin anew
    assert seen[0].lower_bound >= undisturbed.trace.lower_bound[10] / len(X)
    assert resumed.n_m_steps < undisturbed.n_m_steps


def test_a_synchronous_fit_goes_on_exactly_where_it_was(tmp_path):
    undisturbed = fit()
    with pytest.raises(Killed):
        fit(checkpoint=tmp_path, callback=until(15))
    resumed = fit(resume=tmp_path)
    n = undisturbed.n_m_steps - resumed.n_m_steps
    assert 10 <= n <= 15
    np.testing.assert_allclose(
        resumed.trace.lower_bound, undisturbed.trace.lower_bound[n:], rtol=1e-12
    )
    np.testing.assert_allclose(
        resumed.params.means, undisturbed.params.means, rtol=1e-9
    )


def test_resume_true_without_a_checkpoint_begins_anew(tmp_path):
    reference = fit()
    result = fit(checkpoint=tmp_path / "new", resume=True)
    assert result.resumed_from is None
    assert result.params.means.tobytes() == reference.params.means.tobytes()
    assert (tmp_path / "new" / FILE).exists()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_resume_from_a_path_without_a_checkpoint_is_an_error(tmp_path, checkpointed):
    kwargs = {"checkpoint": tmp_path / "mine"} if checkpointed else {}
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        fit(resume=tmp_path / "missing", **kwargs)
    assert not list(tmp_path.iterdir())


def test_resume_true_needs_a_checkpoint_to_be_named():
    with pytest.raises(ValueError, match="resume=True goes on from checkpoint="):
        fit(resume=True)


def test_resume_false_is_no_resume(tmp_path):
    fit(checkpoint=tmp_path)
    assert fit(checkpoint=tmp_path, resume=False).resumed_from is None


@pytest.mark.parametrize(
    "other",
    [
        {"model": GaussianMixtureModel(4)},
        {"model": GaussianMixtureModel(3, covariance_type="diag")},
        {"data": X[:-1]},
        {"data": X + 1},
        {"sample_weight": np.full(len(X), 0.5)},
    ],
    ids=["components", "covariances", "rows", "place", "weights"],
)
@pytest.mark.parametrize("resume", [True, False])
def test_a_fit_refuses_a_foreign_checkpoint_before_any_e_step(tmp_path, other, resume):
    fit(checkpoint=tmp_path, max_iter=3, tol=0)
    before = (tmp_path / FILE).read_bytes()

    def callback(progress):
        raise AssertionError("work was done")

    with pytest.raises(ValueError, match="is of another fit"):
        fit(**other, checkpoint=tmp_path, resume=resume, callback=callback)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_fit_refuses_a_damaged_checkpoint(tmp_path):
    (tmp_path / FILE).write_bytes(b"damaged")
    for kwargs in ({"checkpoint": tmp_path}, {"resume": tmp_path}):
        with pytest.raises(ValueError, match="cannot be read"):
            fit(**kwargs)
    assert (tmp_path / FILE).read_bytes() == b"damaged"


def test_a_worse_fit_does_not_replace_a_better_checkpoint(tmp_path):
    fit(checkpoint=tmp_path, tol=1e-9)
    before = (tmp_path / FILE).read_bytes()
    fit(checkpoint=tmp_path, max_iter=2, tol=0, random_state=1)
    assert (tmp_path / FILE).read_bytes() == before


def test_checkpoints_are_written_every_so_often(tmp_path, monkeypatch):
    saves, clock = [], [0.0]
    monkeypatch.setattr(Checkpointer, "save", lambda self, c: saves.append(c.version))
    fake = types.SimpleNamespace(
        monotonic=lambda: clock[0], perf_counter=time.perf_counter
    )
    monkeypatch.setattr("dask_em.drivers.whole.time", fake)

    def one_second(progress):
        clock[0] += 1

    kwargs = {"checkpoint": tmp_path, "max_iter": 30, "tol": 0, "callback": one_second}
    fit(**kwargs, checkpoint_seconds=0)
    assert len(saves) >= 30
    saves.clear()
    fit(**kwargs, checkpoint_seconds=10)
    assert saves[0] in (10, 11) and saves[1] - saves[0] == 10
    assert len(saves) <= 4  # and perhaps one at the end


def test_several_starts_resume_in_the_one_under_way(tmp_path):
    model = GaussianMixtureModel(5, init_params="random")
    how = {"n_init": 4, "tol": 1e-5}
    undisturbed = fit(model, **how)
    count = []

    def callback(progress):
        count.append(progress.version)
        if count.count(1) == 3 and progress.version > 3:
            raise Killed

    with pytest.raises(Killed):
        fit(model, **how, checkpoint=tmp_path, callback=callback)
    found = Checkpointer(tmp_path, fingerprint_of(model, Summary.of(Block(X)))).load(
        model
    )
    # either start 2 was being saved, or none of its points beat what was there
    assert found.init in (0, 1, 2) and found.seed
    resumed = fit(model, **how, resume=tmp_path)
    assert resumed.log_likelihood == pytest.approx(undisturbed.log_likelihood, rel=1e-6)


SCRIPT = """
import sys, time
import numpy as np
from dask_em import fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.schedules import Synchronous
from dask_em.transports import Local

def callback(progress):
    print(progress.version, flush=True)
    time.sleep(0.02)

fit_em(
    GaussianMixtureModel(3), np.load(sys.argv[1]), transport=Local(1),
    schedule=Synchronous(), tol=1e-7, max_iter=3000, random_state=0,
    checkpoint=sys.argv[2], checkpoint_seconds=0, callback=callback,
)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_is_resumed(tmp_path):
    undisturbed = fit()
    np.save(tmp_path / "X.npy", X)
    place = tmp_path / "saved"
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "X.npy"), str(place)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        for line in child.stdout:
            if int(line) >= 12:
                break
    finally:
        child.kill()
        child.wait(60)
        child.stdout.close()
    assert child.returncode == -signal.SIGKILL
    resumed = fit(checkpoint=place, resume=True)
    assert resumed.resumed_from == str(place)
    assert resumed.converged
    assert 8 <= undisturbed.n_m_steps - resumed.n_m_steps <= 20
    assert resumed.log_likelihood == pytest.approx(
        undisturbed.log_likelihood, rel=1e-10
    )
    np.testing.assert_allclose(
        resumed.params.means, undisturbed.params.means, rtol=1e-8
    )
