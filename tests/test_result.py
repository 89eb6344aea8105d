"""What a fit returns: the trace as arrays, and how it looks."""

import dataclasses
import pickle

import numpy as np
import pytest

from dask_em import EMResult, fit_em
from dask_em.models.gaussian_mixture import GaussianMixtureModel
from dask_em.result import Trace, TraceLog
from dask_em.transports import Simulated

X = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0.0], [5.0]], 30, 0)
INTEGER = {"version", "n_reports", "n_reissued", "n_resets", "n_refused"}


@pytest.fixture(scope="module")
def result():
    return fit_em(
        GaussianMixtureModel(2),
        X,
        transport=Simulated(3, speeds=[1, 1, 0.2], jitter=0.3),
        schedule="fraction_barrier",
        shards=6,
        tol=1e-8,
        random_state=0,
    )


def test_an_empty_log_has_arrays_of_the_right_shape():
    log = TraceLog(4)
    assert log.last_passes == 0.0
    trace = log.trace()
    assert len(trace) == 0
    assert trace.staleness.shape == (0, 4)
    for f in dataclasses.fields(Trace)[:-1]:
        assert getattr(trace, f.name).shape == (0,)
        kind = np.int64 if f.name in INTEGER else np.float64
        assert getattr(trace, f.name).dtype == kind, f.name


def test_rows_are_logged_in_the_order_of_the_fields():
    log = TraceLog(2)
    log.add(np.array([0, 1], dtype=np.int32), 1, 0.5, 1.0, -9.0, -8.0, 3, 1, 0, 2)
    log.add(np.array([2, 0], dtype=np.int32), 2, 0.7, 1.5, -8.0, -7.5, 1, 0, 1, 0)
    trace = log.trace()
    assert log.last_passes == 1.5
    assert trace.version.tolist() == [1, 2]
    assert trace.time.tolist() == [0.5, 0.7]
    assert trace.effective_passes.tolist() == [1.0, 1.5]
    assert trace.lower_bound_before.tolist() == [-9.0, -8.0]
    assert trace.lower_bound.tolist() == [-8.0, -7.5]
    assert trace.n_reports.tolist() == [3, 1]
    assert trace.n_reissued.tolist() == [1, 0]
    assert trace.n_resets.tolist() == [0, 1]
    assert trace.n_refused.tolist() == [2, 0]
    assert trace.staleness.tolist() == [[0, 1], [2, 0]]
    assert trace.staleness.dtype == np.int32


def test_the_trace_of_a_fit_is_consistent(result):
    trace = result.trace
    n = result.n_m_steps
    assert len(trace) == n > 2
    for f in dataclasses.fields(Trace):
        value = getattr(trace, f.name)
        assert type(value) is np.ndarray and len(value) == n, f.name
    assert trace.version.tolist() == list(range(1, n + 1))
    assert (np.diff(trace.time) >= 0).all() and trace.time[0] > 0
    assert (trace.n_reports >= 1).all()
    np.testing.assert_allclose(
        trace.effective_passes, np.cumsum(trace.n_reports) / 6, rtol=1e-12
    )
    assert result.effective_passes == trace.effective_passes[-1]
    assert result.n_e_steps >= trace.n_reports.sum()
    assert trace.staleness.shape == (n, 6)
    assert (trace.staleness >= 0).all() and trace.staleness.max() > 0
    assert (trace.staleness[0] == 0).all()
    slack = 1e-10 * np.abs(trace.lower_bound).max()
    assert (trace.lower_bound >= trace.lower_bound_before - slack).all()


def test_the_result_says_what_was_used(result):
    assert result.converged and result.status == "converged"
    assert result.resumed_from is None
    assert result.weight == len(X)
    assert result.lower_bound == result.log_likelihood
    settings = result.settings
    assert settings["shards"] == 6 and settings["workers"] == 3
    assert settings["model"] == "GaussianMixtureModel"
    assert "FractionBarrier" in settings["schedule"]
    assert "Simulated" in settings["transport"]


def test_pickle(result):
    copy = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(copy.params.means, result.params.means)
    np.testing.assert_array_equal(copy.trace.time, result.trace.time)


def test_repr_is_one_line(result):
    text = repr(result)
    assert "\n" not in text
    assert "converged" in text and f"n_m_steps={result.n_m_steps}" in text


def test_html_repr_escapes_everything(result):
    evil = "<script>alert('x')</script> & co"
    rich = dataclasses.replace(
        result,
        message=evil,
        resumed_from=evil,
        settings={evil: evil, "shards": 3},
    )
    html = rich._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html
    assert html.count("&lt;script&gt;") == 4
    assert " & co" not in html
    assert html.startswith("<table>") and html.endswith("</table>")
    assert html.count("<tr>") == html.count("</tr>") == 9
    assert "resumed from" in EMResult._repr_html_(result)


def test_repr_of_an_unfinished_fit():
    result = EMResult(
        params=None,
        status="deadline",
        message="",
        lower_bound=float("nan"),
        log_likelihood=float("nan"),
        weight=1.0,
        n_m_steps=0,
        n_e_steps=0,
        effective_passes=0.0,
        resumed_from=None,
        trace=TraceLog(1).trace(),
        settings={},
    )
    assert not result.converged
    assert "nan" in repr(result) and "nan" in result._repr_html_()
