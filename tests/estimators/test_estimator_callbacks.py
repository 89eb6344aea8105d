"""What scikit-learn's callbacks and asynchronous clients see of a fit."""

import asyncio

import numpy as np
import pytest
from mixture_data import K, X
from sklearn.base import clone

from dask_em import GaussianMixture


class Witness:
    """A callback that writes down what it is told."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.log = []

    def setup(self, estimator, context):
        self.log.append("setup")

    def teardown(self, estimator, context):
        self.log.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        self.log.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.log.append(("end", context.task_name, fitted_estimator.score(X)))
        return context.task_name == "pass" and context.task_id + 1 == self.stop_after


def test_callbacks_see_every_pass():
    pytest.importorskip("sklearn.callback")
    witness = Witness()
    ours = GaussianMixture(K, random_state=0, tol=1e-6).set_callbacks(witness)
    ours.fit(X)
    first, begun, *passes, ended, last = witness.log
    assert (first, begun, last) == ("setup", ("begin", "fit"), "teardown")
    scores = [entry[2] for entry in passes if entry[0] == "end"]
    assert len(scores) == ours.n_iter_
    assert (np.diff(scores) >= -1e-12).all()
    assert ended == ("end", "fit", ours.score(X))
    np.testing.assert_array_equal(clone(ours).fit(X).means_, ours.means_)


def test_callbacks_count_passes_under_every_schedule():
    pytest.importorskip("sklearn.callback")
    witness = Witness()
    ours = GaussianMixture(
        K, n_init=2, schedule="bounded_staleness", shards=5, random_state=0
    )
    ours.set_callbacks(witness).fit(X)
    n_passes = sum(entry[:2] == ("end", "pass") for entry in witness.log)
    assert 0 < n_passes <= 2 * ours.max_iter


def test_a_callback_stops_the_fit():
    pytest.importorskip("sklearn.callback")
    ours = GaussianMixture(K, random_state=0, tol=0).set_callbacks(Witness(2)).fit(X)
    assert ours.result_.status == "callback"
    assert 0 < ours.n_iter_ <= 3
    assert not ours.converged_


def test_a_callback_that_fails():
    pytest.importorskip("sklearn.callback")

    class Failing(Witness):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("no")

    witness = Failing()
    ours = GaussianMixture(K).set_callbacks(witness)
    with pytest.raises(RuntimeError, match="no"):
        ours.fit(X)
    assert witness.log[-1] == "teardown"
    assert not hasattr(ours, "means_")


def test_progress_bar():
    pytest.importorskip("rich")
    callback = pytest.importorskip("sklearn.callback")
    ours = GaussianMixture(K, n_init=2, random_state=0)
    ours.set_callbacks(callback.ProgressBar()).fit(X)
    assert ours.converged_


@pytest.mark.cluster
def test_asynchronous_client(fitted, lazy):
    distributed = pytest.importorskip("distributed")
    witness = Witness()
    witness.on_fit_task_end = lambda estimator, context: None

    async def main():
        async with distributed.Client(
            processes=False, n_workers=2, dashboard_address=":0", asynchronous=True
        ) as client:
            ours = GaussianMixture(K, random_state=0)
            if hasattr(ours, "set_callbacks"):
                ours.set_callbacks(witness)
            assert await ours.fit(lazy) is ours
            labels = await GaussianMixture(K, random_state=0).fit_predict(lazy)
            return ours, await client.compute(labels), await ours.score(lazy)

    ours, labels, score = asyncio.run(main())
    np.testing.assert_allclose(ours.means_, fitted.means_, rtol=1e-3)
    np.testing.assert_array_equal(labels, fitted.predict(X))
    assert score == pytest.approx(fitted.score(X), rel=1e-4)
    if hasattr(ours, "set_callbacks"):
        assert witness.log[-1] == "teardown"
