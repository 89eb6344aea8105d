"""The Python blocks of the README and the documentation run, as one would type them.

The blocks of a page share a namespace, in order. What a page takes for granted is in
`GIVEN`. A block that cannot be run is preceded by a line `<!-- not run: reason -->`.
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?P<before>[^\n]*)\n+```python\n(?P<code>.*?)^```", re.M | re.S)
DATA = """
import numpy as np
X = np.random.default_rng(0).normal([[0], [5]], 1.0, (2, 500)).reshape(-1, 1)
"""
FITTED = DATA + "from dask_em import GaussianMixture\n"
RATINGS = """
import pandas as pd
ratings = pd.DataFrame({"user": np.arange(600) % 30, "genre": ["a", "b", "b"] * 200})
ratings["rating"] = ratings["user"] % 3 + np.random.default_rng(1).normal(size=600)
"""
GIVEN = {
    "README.md": DATA + RATINGS,
    "docs/index.md": DATA,
    "docs/schedules.md": FITTED + "gm = GaussianMixture(2).fit(X)\n",
    "docs/faults.md": FITTED + "import dask.array as da\nD = da.from_array(X)\n",
}
#: Pages whose kind the README and the others stand for when time is short.
SLOW = {"docs/quickstart.md", "docs/mixed_models.md", "docs/mixtures_of_experts.md"}


def pages():
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for path in found:
        text = path.read_text(encoding="utf-8")
        if blocks_of(text):
            name = path.relative_to(ROOT).as_posix()
            marks = [pytest.mark.cluster] if "Client(" in text else []
            marks += [pytest.mark.slow] if name in SLOW else []
            yield pytest.param(name, id=name, marks=marks)


def blocks_of(text):
    """Code of every block, after as many empty lines as precede it on the page."""
    return [
        "\n" * text.count("\n", 0, match.start("code")) + match["code"]
        for match in BLOCK.finditer(text)
        if not match["before"].startswith("<!-- not run:")
    ]


@pytest.fixture
def small_clients(monkeypatch):
    """Let `Client()` start two threads rather than a process per core."""
    distributed = pytest.importorskip("distributed")
    started = []

    def client():
        started.append(
            distributed.client.Client(
                processes=False,
                n_workers=2,
                threads_per_worker=1,
                dashboard_address=":0",
            )
        )
        return started[-1]

    monkeypatch.setattr("dask.distributed.Client", client)
    yield
    for each in started:
        each.shutdown()
        each.close()


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", [*pages()])
def test_blocks_run(name, small_clients, monkeypatch, tmp_path):
    text = (ROOT / name).read_text(encoding="utf-8")
    if "xarray" in text:
        pytest.importorskip("xarray")
    monkeypatch.chdir(tmp_path)  # checkpoints are written here
    monkeypatch.syspath_prepend(ROOT / "examples")
    # a module, so that the classes of a page can be pickled
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    exec(GIVEN.get(name, ""), vars(page))
    for code in blocks_of(text):
        exec(compile(code, str(ROOT / name), "exec"), vars(page))


def test_blocks_are_found():
    text = (
        "a\n\n```python\nx = 1\n```\n\n<!-- not run: slow -->\n```python\n1 / 0\n```\n"
    )
    assert blocks_of(text) == ["\n\n\nx = 1\n"]


def test_pages_are_found():
    assert {p.id for p in pages()} >= {"README.md", "docs/quickstart.md"}
