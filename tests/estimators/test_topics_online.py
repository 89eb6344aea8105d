"""Topics fitted to one batch of documents after the other."""

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from topic_data import EACH_ITS_OWN, N_WORDS, corpus, groups_of, tokens_of

from dask_em import LatentDirichletAllocation

MANY = corpus(1000)
NEW = corpus(seed=1)
STARTED = {"learning_decay": 0.6, "learning_offset": 1.0, "total_samples": 1000}


def lda(**settings):
    common = {"n_components": 3, "random_state": 0, "transport": "local"}
    return LatentDirichletAllocation(**common | STARTED | settings)


def batches(X, n=50):
    return [X[i : i + n] for i in range(0, len(X), n)]


def test_batches_lead_where_a_fit_does():
    fitted, online = lda().fit(MANY), lda()
    for batch in batches(MANY):
        assert online.partial_fit(batch) is online
    assert online.n_batch_iter_ == 20
    assert groups_of(online) == EACH_ITS_OWN
    wanted = fitted.perplexity(NEW)
    assert online.perplexity(NEW) == pytest.approx(wanted, rel=0.02)
    # on the scale of all documents
    total = MANY.sum() + 0.1 * online.components_.size
    assert online.components_.sum() == pytest.approx(total, rel=0.05)


def test_a_step_by_hand():
    online = lda(mean_change_tol=0).partial_fit(MANY[:50])
    N, a, b, x = online.components_ - 0.1, 0.1, 0.1, MANY[50:90]
    phi = (N + b) / (N + b).sum(axis=1, keepdims=True)
    doc = np.repeat(x.sum(axis=1, keepdims=True) / 3, 3, axis=1)
    for _ in range(100):
        gamma = (doc + a)[:, :, None] * phi
        gamma *= x[:, None, :] / gamma.sum(axis=1, keepdims=True)
        doc = gamma.sum(axis=2)
    gamma = (doc + a)[:, :, None] * phi
    gamma *= x[:, None, :] / gamma.sum(axis=1, keepdims=True)
    rho = (1.0 + 2) ** -0.6
    wanted = (1 - rho) * N + rho * 1000 / 40 * gamma.sum(axis=0)
    online.partial_fit(x)
    np.testing.assert_allclose(online.components_, wanted + 0.1, rtol=1e-8, atol=1e-8)


def test_chunks_are_batches():
    kinds = [MANY[:200], sp.csr_array(MANY[:200]), MANY[:200].astype(np.float32)]
    one, *others = [lda().partial_fit(X).components_ for X in kinds]
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-6)
    lazy = da.from_array(MANY[:200], chunks=(50, N_WORDS))
    found = lda().partial_fit(lazy)
    by_hand = lda()
    for batch in batches(MANY[:200]):
        by_hand.partial_fit(batch)
    assert found.n_batch_iter_ == by_hand.n_batch_iter_ == 4
    np.testing.assert_allclose(found.components_, by_hand.components_, rtol=1e-9)
    words = lda().partial_fit(tokens_of(MANY[:50]))
    assert len(words.vocabulary_) == N_WORDS - 1
    assert words.partial_fit([["w01", "new"]]).n_batch_iter_ == 2


def test_after_a_fit():
    fitted = lda().fit(MANY[:500])
    before = fitted.perplexity(NEW)
    for batch in batches(MANY[500:]):
        fitted.partial_fit(batch)
    assert fitted.n_batch_iter_ == pytest.approx(20, abs=1)
    assert fitted.perplexity(NEW) == pytest.approx(before, rel=0.01)
    assert fitted.result_.converged
    assert not hasattr(fitted, "bound_")
    again = fitted.fit(MANY[:500])
    assert not hasattr(again, "n_batch_iter_")
    several = lda(topology="owner_sharded", doc_topic_prior=[1.1, 1.2, 1.3])
    several.fit(MANY[:500]).partial_fit(MANY[500:550])
    np.testing.assert_allclose(several.doc_topic_prior_, [1.1, 1.2, 1.3])


def test_a_batch_that_fails_changes_nothing():
    online = lda().partial_fit(MANY[:50])
    before = {**vars(online)}
    bad = np.vstack([MANY[:50], -MANY[:50]])
    lazy = da.from_array(bad, chunks=(50, N_WORDS))  # the second chunk only
    for X in (lazy, -MANY, MANY[:, :9], MANY * np.nan, ["the cat"]):
        with pytest.raises((ValueError, TypeError)):
            online.partial_fit(X)
    assert vars(online).keys() == before.keys()
    assert all(vars(online)[name] is value for name, value in before.items())
    online.partial_fit(np.zeros((2, N_WORDS), int))  # nothing to learn from
    assert online.n_batch_iter_ == 1
    fitted = lda().fit(MANY[:50]).partial_fit(np.zeros((2, N_WORDS), int))
    assert fitted.bound_ > 1
    assert not hasattr(fitted, "n_batch_iter_")
    with pytest.raises(ValueError, match="None of the documents has a word"):
        lda().partial_fit(np.zeros((2, N_WORDS), int))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_decay": 0.4}, "learning_decay must be above 0.5 and at most 1"),
        ({"learning_offset": -1}, "learning_offset must be a number of at least 0"),
        ({"total_samples": 0}, "total_samples must be a number above 0, got 0"),
        ({"topic_word_prior": 0.1}, "is below 1"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        lda(**settings).partial_fit(MANY[:50])


def test_for_maximum_a_posteriori_alone():
    assert not hasattr(lda(inference="variational"), "partial_fit")
    with pytest.raises(AttributeError):
        lda(inference="stochastic").partial_fit  # noqa: B018
    fitted = lda(inference="variational").fit(MANY[:100])
    with pytest.raises(ValueError, match="by variational inference, and partial_fit"):
        fitted.set_params(inference="map").partial_fit(MANY[:50])
    fitted = lda().fit(MANY[:100]).set_params(n_components=4)
    with pytest.raises(ValueError, match="3 topics were fitted, and n_components is 4"):
        fitted.partial_fit(MANY[:50])
