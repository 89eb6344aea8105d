"""The examples do what the documentation says of them."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from dask_em import EMResult, fit_em
from dask_em.testing import SCHEDULES, assert_monotone, check_model

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def exponential_mixture():
    """Import the example by its path, under its own name, as pickle needs it."""
    name = "exponential_mixture"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def waits():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.exponential(1.0, 2000), rng.exponential(10.0, 2000)])
    return rng.permutation(X).reshape(-1, 1)


def test_own_model_is_short():
    lines = (EXAMPLES / "exponential_mixture.py").read_text().splitlines()
    assert len(lines) < 40


def test_own_model_passes_the_checks(exponential_mixture, waits):
    check_model(exponential_mixture.Exponentials(2), waits[:400])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("transport", ["local", "simulated"])
def test_own_model_finds_the_rates(exponential_mixture, waits, schedule, transport):
    result = fit_em(
        exponential_mixture.Exponentials(2),
        waits,
        schedule=schedule,
        transport=transport,
        shards=7,
        tol=1e-10,
        max_iter=3000,
    )
    assert isinstance(result, EMResult)
    assert_monotone(result)
    np.testing.assert_allclose(np.sort(result.params.rates), [0.1, 1.0], rtol=0.1)
    # the likelihood, from the density itself
    p = result.params
    density = (p.weights * p.rates * np.exp(-waits * p.rates)).sum(axis=1)
    np.testing.assert_allclose(result.log_likelihood, np.log(density).sum(), rtol=1e-12)


@pytest.mark.soak  # CI runs it by the command of the README
@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_quickstart(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = runpy.run_path(str(EXAMPLES / "quickstart.py"))
    X = namespace["load"]()
    local = namespace["on_threads"](X)
    assert local.converged_
    # the cluster part pickles what the script defines, so it runs as a script
    import subprocess

    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py")],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {
        line.split()[0]: float(line.split()[1])
        for line in done.stdout.splitlines()
        if line.startswith(("synchronous", "fraction_barrier"))
    }
    assert rows.keys() == {"synchronous", "fraction_barrier"}
    for likelihood in rows.values():
        assert likelihood == pytest.approx(local.result_.log_likelihood, rel=1e-6)
    assert (tmp_path / "quickstart_bound.png").stat().st_size > 10_000


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_movielens(monkeypatch, tmp_path):
    pytest.importorskip("formulaic")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    import subprocess

    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "movielens.py")],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    (restricted,) = (float(x.split()[-1]) for x in lines if x.startswith("Log-lik"))
    rows = {
        line[:22].strip(): float(line[22:].split()[0])
        for line in lines
        if line.startswith(("synchronous", "fraction_barrier"))
    }
    assert rows.keys() == {"synchronous, Anderson", "synchronous", "fraction_barrier"}
    for likelihood in rows.values():
        assert likelihood == pytest.approx(restricted, rel=1e-9)
    for name in ("bound", "users", "residuals"):
        assert (tmp_path / f"movielens_{name}.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_mixture_of_experts(tmp_path):
    pytest.importorskip("matplotlib")
    import subprocess

    script = str(EXAMPLES / "mixture_of_experts.py")
    done = subprocess.run(
        [sys.executable, script, "--rows", "40000", "--workers", "2"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "40000 rows on 2 workers"
    rows = {line.split()[0]: line.split()[1:] for line in lines if "." in line}
    reduced, polished, em = (
        [float(number) for number in rows[name]]
        for name in ("one_shot", "one_shot+polish", "em")
    )
    assert polished[0] == pytest.approx(em[0], abs=0.04)  # tol per row
    assert em[0] - 40.0 < reduced[0] < em[0]
    assert reduced[2] == 1
    assert reduced[3] < polished[3]
    pairs = re.findall(r"(-?\d+\.\d+) \[ *(-?\d+(?:\.\d)?)\]", done.stdout)
    assert len(pairs) == 3 * (1 + 8 + 1)
    estimates, truth = np.array(pairs, dtype=float).T
    np.testing.assert_allclose(estimates, truth, atol=0.2)
    assert (tmp_path / "mixture_of_experts.png").stat().st_size > 10_000


def run_align(where, *options):
    import subprocess

    return subprocess.run(
        [sys.executable, str(EXAMPLES / "align.py"), *options],
        capture_output=True,
        text=True,
        check=True,
        cwd=where,
    ).stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_align(tmp_path):
    found = run_align(tmp_path, "--out", "made_up").splitlines()
    rows = [line.split() for line in found]
    (both,) = (r for r in rows if r[:1] == ["grow-diag-final-and"] and len(r) == 4)
    precision, recall, error = map(float, both[1:])
    assert precision > 0.95
    assert recall > 0.95
    assert error < 0.05
    for name in ("", ".forward", ".backward"):
        lines = (tmp_path / f"made_up{name}.align").read_text().splitlines()
        assert len(lines) == 3000
        assert re.fullmatch(r"\d+-\d+( \d+-\d+)*", lines[0])
    lexicon = (tmp_path / "made_up.lexicon.tsv").read_text().splitlines()
    best = dict(reversed([line.split("\t")[:2] for line in lexicon]))
    assert best["e1"] == "f1a"


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_align_files_on_a_cluster(tmp_path):
    import gzip

    namespace = runpy.run_path(str(EXAMPLES / "align.py"))
    pairs, gold = namespace["make_bitext"](200)
    for side, name in enumerate(("text.e.gz", "text.f.gz")):
        text = "".join(f"{pair[side]}\n" for pair in pairs)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    for side, name in enumerate(("test.e", "test.f")):
        text = "".join(f"{pair[side]}\n" for pair in pairs[:20])
        (tmp_path / name).write_text(text)
    gold.sure[:20].write(tmp_path / "gold")
    options = "--test test.e test.f --gold gold --model model1 --workers 2"
    out = run_align(tmp_path, "text.e.gz", "text.f.gz", *options.split())
    assert "2 nodes" in out
    assert "tcp://" in out
    assert "precision is that of possible links" in out


def test_chunks_of_experts_are_the_same_every_time():
    namespace = runpy.run_path(str(EXAMPLES / "mixture_of_experts.py"))
    X, y = namespace["generate"](1000, 4)
    assert X.chunks == ((250,) * 4, (8,))
    assert y.chunks == ((250,) * 4,)
    first, again = X.compute(scheduler="synchronous"), X.compute()
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first[:, 0])) == 1000


def test_movielens_reads_a_release(tmp_path):
    pytest.importorskip("formulaic")
    pytest.importorskip("pyarrow")
    namespace = runpy.run_path(str(EXAMPLES / "movielens.py"))
    ratings = [f"{user}::{i}::4::{i}" for user in (1, 2) for i in range(20 + user - 1)]
    (tmp_path / "ratings.dat").write_text("\n".join([*ratings, "3::1::5::7"]))
    movies = "\n".join(f"{i}::Film {i}::Comedy" for i in range(30))
    (tmp_path / "movies.dat").write_text(movies)
    found = namespace["load"](str(tmp_path))
    assert found.groupby("user").size().to_dict() == {1: 20, 2: 21}
    simulated = namespace["simulate"](n_users=10)
    assert set(found.columns) == set(simulated.columns)


def test_movielens_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "formulaic", None)
    with pytest.raises(SystemExit, match=r"needs formulaic: pip install .*formula"):
        runpy.run_path(str(EXAMPLES / "movielens.py"))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_patches(tmp_path):
    pytest.importorskip("matplotlib")
    import subprocess

    script = str(EXAMPLES / "patches.py")
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path)
    atoms = np.load(tmp_path / "patches_atoms.npy")
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1.0, atol=1e-6)
    assert (tmp_path / "patches_atoms.png").stat().st_size > 10_000
