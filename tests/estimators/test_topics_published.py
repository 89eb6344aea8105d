"""Topics of public collections: held-out perplexities that others have found, too.

References are by batch EM in plain NumPy, one start each: a tenth of the documents is
held out, each of their tokens is observed or scored with probability 1/2, and topics of
documents are found from the observed ones by 100 updates with prior counts of 0.1.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from dask_em import LatentDirichletAllocation
from dask_em.topics import read_docword

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(
        "DASK_EM_DATA" not in os.environ, reason="DASK_EM_DATA is not set"
    ),
]

#: Collection and topics; perplexity for prior counts of words of 0.1 and of 0.01.
TABLE = {
    ("kos", 8): (1880, 1895),
    ("nips", 8): (2030, 2055),
    ("kos", 16): (1736, 1751),
    ("nips", 16): (1890, 1912),
    ("kos", 32): (1625, 1646),
    ("nips", 32): (1727, 1755),
    ("kos", 64): (1570, 1569),
    ("nips", 64): (1619, 1629),
    ("kos", 128): (1575, 1533),
    ("nips", 128): (1541, 1532),
}
AT_ONCE = [("kos", 8)]


def halves(name):
    """Return documents for the fit, and observed and scored tokens of the others."""
    folder = Path(os.environ["DASK_EM_DATA"]) / "topics"
    X = read_docword(folder / f"docword.{name}.txt.gz", dtype=np.float64)
    rng = np.random.default_rng(0)
    order, n = rng.permutation(X.shape[0]), X.shape[0] // 10
    observed = X[np.sort(order[:n])]
    scored = observed.copy()
    observed.data = rng.binomial(observed.data.astype(int), 0.5).astype(float)
    scored.data -= observed.data
    return X[np.sort(order[n:])], observed, scored


def completed(phi, observed, scored):
    """Return the perplexity of scored tokens, given topics of shape (K, W)."""
    total = 0.0
    for d in range(observed.shape[0]):
        mine = slice(observed.indptr[d], observed.indptr[d + 1])
        x, p = observed.data[mine], phi[:, observed.indices[mine]]
        N = np.full(len(phi), x.sum() / len(phi))
        for _ in range(100):
            gamma = (N + 0.1)[:, None] * p
            N = gamma / gamma.sum(axis=0) @ x
        total += scored.data[mine] @ np.log((N + 0.1) / (N + 0.1).sum() @ p)
    return np.exp(-total / scored.data.sum())


@pytest.mark.parametrize(
    ("name", "n_topics"),
    [
        pytest.param(*case, marks=() if case in AT_ONCE else pytest.mark.soak)
        for case in TABLE
    ],
)
def test_perplexity(name, n_topics):
    X, observed, scored = halves(name)
    for eta, published in zip((1.1, 1.01), TABLE[name, n_topics], strict=True):
        lda = LatentDirichletAllocation(
            n_topics,
            topic_word_prior=eta,
            max_iter=200,
            random_state=0,
            transport="local",
        ).fit(X)
        found = completed(lda.exp_dirichlet_component_, observed, scored)
        assert 0.93 * published < found < 1.02 * published
        assert lda.perplexity(observed + scored) == pytest.approx(found, rel=0.025)


@pytest.mark.soak
@pytest.mark.parametrize("schedule", ["auto", "bounded_staleness", "extra_updates"])
def test_schedules_end_in_the_same_place(schedule):
    X, observed, scored = halves("kos")
    found, wanted = (
        LatentDirichletAllocation(
            16, schedule=s, shards=8, tol=2e-5, max_iter=300, random_state=0
        )
        .fit(X)
        .perplexity(observed + scored)
        for s in (schedule, "synchronous")
    )
    assert found == pytest.approx(wanted, rel=0.01)
