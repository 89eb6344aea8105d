"""Models of word alignment against enumeration, a peer and published corpora."""

import dataclasses
import gzip
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_em.alignment import aer, read_gold, symmetrize
from dask_em.models.alignment import DiagonalModel, HMMModel, Model1, Model2
from dask_em.models.alignment.base import FLOOR
from dask_em.models.alignment.positions import Positions

MODELS = [
    Model1(),
    Model1(reverse=True, alpha=0.01),
    Model2(),
    Model2(alpha=0.5),
    DiagonalModel(),
    DiagonalModel(null_probability=None, alpha=0.1),
    HMMModel(max_jump=2),
    HMMModel(null_probability=None, max_jump=3, sweeps=3),
    HMMModel(alpha=0.02, reverse=True),
]


def corpus(rng, n=40, words=8, longest=6):
    def sentence():
        return [str(w) for w in rng.integers(0, words, rng.integers(1, longest + 1))]

    return [(sentence(), sentence()) for _ in range(n)]


def begun(model, pairs):
    summary = model.survey([pairs])
    model.check(summary)
    prepared = model.prepare([pairs], summary)
    ids = model.support(prepared)
    counted = np.ones(len(ids), dtype=bool)
    return summary, prepared, model.start(prepared, counted, summary, 0).params


def run(model, prepared, params, n_iter):
    bounds = []
    counted = np.ones(len(params), dtype=bool)
    for _ in range(n_iter):
        stats, bound, _ = model.e_step(params, prepared)
        bounds.append(bound + model.penalty(params, prepared, counted))
        params = model.m_step(params, stats, prepared)
    return params, bounds


def fitted(model, pairs, n_iter=5):
    summary, prepared, params = begun(model, pairs)
    params, _ = run(model.first_stage(), prepared, params, 2)
    params, _ = run(model, prepared, params, n_iter)
    return summary, prepared, params


def table(model, summary, prepared, params):
    """Probabilities of words, by word, with None for NULL."""
    theta = model.probabilities(params, prepared)
    source = [None, *summary.source_vocabulary.words]
    target = [*summary.target_vocabulary.words, "sum"]
    known = {}
    for id_, p in zip(prepared.ids, theta, strict=True):
        s, t = divmod(id_, len(target))
        known[source[s], target[t]] = p
    return known


# ----------------------------------------------------------------- what all have


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_ids(model):
    rng = np.random.default_rng(0)
    pairs = corpus(rng)
    summary, prepared, params = begun(model, pairs)
    ids = model.support(prepared)
    assert params.shape == (len(ids), 1)
    assert (np.diff(ids) > 0).all()
    assert ids[0] >= 0
    sides = [(t, s) if model.reverse else (s, t) for s, t in pairs]
    met = {(s, t) for left, right in sides for s in [None, *left] for t in right}
    met |= {(s, "sum") for s, _ in met}
    assert set(table(model, summary, prepared, params)) == met


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(0, len(MODELS) - 1))
def test_bounds_rise(seed, k):
    model = MODELS[k]
    _, prepared, params = begun(model, corpus(np.random.default_rng(seed)))
    params, first = run(model.first_stage(), prepared, params, 4)
    params, second = run(model, prepared, params, 12)
    for bounds in (first, second):
        assert (np.diff(bounds) >= -1e-9 * np.abs(bounds[:-1])).all()


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_two_nodes(model):
    pairs = corpus(np.random.default_rng(3))
    summary, prepared, params = begun(model, pairs)
    ids = model.support(prepared)
    parts = [model.prepare([part], summary) for part in (pairs[:15], pairs[15:], [])]
    own = [model.support(part) for part in parts]
    where = [np.searchsorted(ids, these) for these in own]
    each = [params[w] for w in where]
    for stage in [model.first_stage()] * 2 + [model] * 3:
        stats, bound, _ = stage.e_step(params, prepared)
        params = stage.m_step(params, stats, prepared)
        total, bounds, mine = np.zeros_like(stats), 0.0, []
        for part, w, theirs in zip(parts, where, each, strict=True):
            found, b, _ = stage.e_step(theirs, part)
            np.add.at(total, w, found)
            bounds += b
        np.testing.assert_allclose(total, stats, rtol=1e-10, atol=1e-12)
        assert bounds == pytest.approx(bound, rel=1e-12)
        for part, w, theirs in zip(parts, where, each, strict=True):
            mine.append(stage.m_step(theirs, total[w], part))
            np.testing.assert_allclose(mine[-1], params[w], rtol=1e-8, atol=1e-12)
        each = mine


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_scores_and_copies(model):
    pairs = corpus(np.random.default_rng(4), n=12)
    pairs = [*pairs, ([], ["1"]), *pairs[:5], (["1"], [])]
    _, prepared, params = fitted(model, pairs)
    scores = model.log_likelihood(params, prepared)
    links = model.align(params, prepared)
    assert scores[12] == scores[-1] == 0
    assert links[12] == links[-1] == []
    np.testing.assert_array_equal(scores[13:18], scores[:5])
    assert links[13:18] == links[:5]
    if not model.alpha:
        _, bound, _ = model.e_step(params, prepared)
        assert scores.sum() == pytest.approx(bound, rel=1e-12)


def test_reversed():
    pairs = corpus(np.random.default_rng(5))
    swapped = [(t, s) for s, t in pairs]
    for model in (Model1(), HMMModel()):
        _, prepared, params = fitted(model, swapped)
        back = dataclasses.replace(model, reverse=True)
        _, prepared_back, params_back = fitted(back, pairs)
        np.testing.assert_array_equal(params_back, params)
        links = model.align(params, prepared)
        assert [sorted((j, i) for i, j in pair) for pair in links] == list(
            back.align(params_back, prepared_back)
        )


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_other_sentences(alpha):
    pairs = [
        ("the house", "la maison"),
        ("the book", "le livre"),
        ("a book", "un livre"),
        ("a house", "une maison"),
        ("the car", "la voiture"),
    ]
    pairs = pairs * 5
    new = [("the house blue", "la maison bleu"), ("blue", "bleu"), ("house", "maison")]
    for model in [Model1, Model2, DiagonalModel, HMMModel]:
        model = model(alpha=alpha)
        summary, prepared, params = fitted(model, pairs, 10)
        known = dict(zip(model.support(prepared).tolist(), params[:, 0], strict=True))
        other = model.prepare([new], summary)
        ids = model.support(other).tolist()
        lookup = np.array([[known.get(id_, np.nan)] for id_ in ids])
        links = model.align(lookup, other)
        assert links[0][:2] == [(0, 0), (1, 1)]
        assert links[2] == [(0, 0)]
        scores = model.log_likelihood(lookup, other)
        assert np.isfinite(scores).all()
        assert scores[1] == pytest.approx(np.log(FLOOR))
        # NULL, where nothing is known; or else by position
        positional = not isinstance(model, Model1 | Model2)
        assert links[0][2:] == [(2, 2)] * positional
        assert links[1] == [(0, 0)] * positional


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="none of the 1 pairs"):
        Model1().check(Model1().survey([[("", "a")]]))
    for wrong in [{"alpha": -1.0}, {"max_jump": 0}, {"null_probability": 1.0}]:
        with pytest.raises(ValueError, match=r"must be (at least|from 1 to)"):
            HMMModel(**wrong)


# ----------------------------------------------------------------------- oracles


def test_model1_is_that_of_nltk():
    from nltk.translate import AlignedSent, IBMModel1

    # no target word twice in a sentence: such words NLTK divides by sums twice as large
    pairs = [
        (left, list(dict.fromkeys(right)))
        for left, right in corpus(np.random.default_rng(6), 300, 60, 12)
    ]
    summary, prepared, params = begun(Model1(), pairs)
    params, bounds = run(Model1(), prepared, params, 5)
    ours = table(Model1(), summary, prepared, params)
    theirs = IBMModel1([AlignedSent(t, s) for s, t in pairs], 5).translation_table
    for (s, t), p in ours.items():
        if t != "sum":
            assert p == pytest.approx(theirs[t][s], rel=1e-9, abs=1e-12)
    expected = sum(
        np.log(np.mean([theirs[t][s] for s in [None, *left]]))
        for left, right in pairs
        for t in right
    )
    _, bound, _ = Model1().e_step(params, prepared)
    assert bound == pytest.approx(expected, rel=1e-9)
    assert (np.diff(bounds) > 0).all()


def enumerated(pairs, words, weigh):
    """Likelihoods, expected counts and best alignments, by trying all alignments."""
    likelihoods, counts, best = [], {}, []
    for left, right in pairs:
        weights = {}
        for a in product(range(-1, len(left)), repeat=len(right)):
            p = weigh(a, len(left), len(right))
            for j, i in enumerate(a):
                p *= words[left[i] if i >= 0 else None, right[j]]
            weights[a] = p
        total = sum(weights.values())
        likelihoods.append(np.log(total))
        best.append(max(weights, key=weights.get))
        for a, p in weights.items():
            for j, i in enumerate(a):
                key = (left[i] if i >= 0 else None), right[j]
                counts[key] = counts.get(key, 0.0) + p / total
    return likelihoods, counts, best


def weigher(model, prepared, params):
    """The probability of an alignment of sentences of some lengths."""
    other = params[prepared.n_words :, 0]
    if isinstance(model, HMMModel):
        null, jumps, d = other[0], model._jumps(other), model.max_jump

        def weigh(a, length, m):
            p, last = 1.0, -1
            for i in a:
                c = [jumps[np.clip(k - last, -d, d) + d] for k in range(length)]
                p *= null if i < 0 else (1 - null) * c[i] / sum(c)
                last = last if i < 0 else i
            return p

        return weigh
    prior = model._prior(other, prepared)
    here = Positions(prepared.shapes)
    lengths = here.repeat(here.shapes[:, 0]), here.repeat(here.shapes[:, 1])
    keys = zip(*lengths, here.source, here.target, strict=True)
    known = dict(zip(keys, prior, strict=True))
    return lambda a, length, m: np.prod(
        [known[length, m, i, j] for j, i in enumerate(a)]
    )


@pytest.mark.parametrize(
    "model", [Model2(), DiagonalModel(), HMMModel(max_jump=2), HMMModel()], ids=repr
)
def test_by_enumeration(model):
    pairs = corpus(np.random.default_rng(7), n=25, words=5, longest=4)
    summary, prepared, params = fitted(model, pairs, 3)
    words = table(model, summary, prepared, params)
    expected, counts, best = enumerated(pairs, words, weigher(model, prepared, params))
    scores = model.log_likelihood(params, prepared)
    np.testing.assert_allclose(scores, expected, rtol=1e-10)
    stats, bound, _ = model.e_step(params, prepared)
    assert bound == pytest.approx(sum(expected), rel=1e-10)
    found = table(Model1(), summary, prepared, np.maximum(stats, FLOOR))
    for key, n in counts.items():
        assert found[key] == pytest.approx(n, rel=1e-9, abs=2e-12)
    links = model.align(params, prepared)
    assert [dict((j, i) for i, j in pair) for pair in links] == [
        {j: i for j, i in enumerate(a) if i >= 0} for a in best
    ]


def test_posteriors_by_enumeration():
    model = HMMModel()
    pairs = corpus(np.random.default_rng(8), n=10, words=5, longest=4)
    summary, prepared, params = fitted(model, pairs, 1)
    words, weigh = (
        table(model, summary, prepared, params),
        weigher(model, prepared, params),
    )
    links = model.align_posterior(params, prepared, 0.3)
    for (left, right), found in zip(pairs, links, strict=True):
        posterior = {}
        for a in product(range(-1, len(left)), repeat=len(right)):
            p = weigh(a, len(left), len(right))
            for j, i in enumerate(a):
                p *= words[left[i] if i >= 0 else None, right[j]]
            for j, i in enumerate(a):
                posterior[i, j] = posterior.get((i, j), 0.0) + p
            posterior["all"] = posterior.get("all", 0.0) + p
        total = posterior.pop("all")
        assert found == sorted(
            key for key, p in posterior.items() if key[0] >= 0 and p / total > 0.3
        )


def test_the_tension_is_that_of_the_maximum():
    model = DiagonalModel()
    summary, prepared, params = fitted(model, corpus(np.random.default_rng(9)), 3)
    stats, _, _ = model.e_step(params, prepared)
    total = stats[-1, 0]

    def bound(tension):
        normalisers = 0.0
        for (length, m), n in summary.shapes.items():
            gap = np.abs(
                np.arange(1, length + 1) / length - np.arange(1, m + 1)[:, None] / m
            )
            normalisers += n * np.log(np.exp(-tension * gap).sum(axis=1)).sum()
        return -tension * total - normalisers

    found = model.m_step(params, stats, prepared)[-1, 0]
    assert found > 0.1
    for step in (-1e-3, 1e-3):
        assert bound(found + step) < bound(found)


def test_long_sentences():
    rng = np.random.default_rng(10)
    words = [str(w) for w in rng.integers(0, 400, 200)]
    pairs = [(words, [f"{w}'" for w in words])] + [
        ([str(w)], [f"{w}'"]) for w in range(400)
    ]
    model = HMMModel()
    _, prepared, params = fitted(model, pairs)
    assert np.isfinite(params).all()
    assert np.isfinite(model.log_likelihood(params, prepared)).all()
    right = {(k, k) for k in range(200)}
    assert len(right & set(model.align(params, prepared)[0])) > 190
    assert len(right & set(model.align_posterior(params, prepared)[0])) > 190


# --------------------------------------------------------------- the real corpus


def hansards(n):
    folder = Path(os.environ["DASK_EM_DATA"]) / "alignment"
    gold = folder / "hansards_naacl03_gold"
    sides = []
    for language in "ef":
        name = {"e": "en", "f": "fr"}[language]
        with gzip.open(folder / "hansards36" / f"train.tok.{name}.gz", "rt") as file:
            lines = [next(file).rstrip("\n") for _ in range(n)]
        test = (gold / f"test.tok.{language}").read_text().splitlines()
        sides.append([*lines, *test])
    return list(zip(*sides, strict=True)), read_gold(gold / "test.wa.nonullalign", 447)


@pytest.mark.data
@pytest.mark.skipif("DASK_EM_DATA" not in os.environ, reason="DASK_EM_DATA is not set")
class TestHansards:
    def errors(self, n, forward, first, then):
        pairs, gold = hansards(n)
        links = []
        for reverse in (False, True):
            model = dataclasses.replace(forward, reverse=reverse)
            _, prepared, params = begun(model, pairs)
            params, bounds = run(model.first_stage(), prepared, params, first)
            params, _ = run(model, prepared, params, then)
            links.append(model.align(params, prepared)[-447:])
            if not reverse:
                bound = bounds[-1]
        each = [aer(found, gold) for found in links]
        return (
            bound,
            *each,
            *(
                aer(symmetrize(*links, method), gold)
                for method in ("intersection", "grow-diag-final-and")
            ),
        )

    def test_model1(self):
        _, forward, reverse, both, _ = self.errors(10_000, Model1(), 5, 0)
        assert (forward, reverse, both) == pytest.approx(
            (0.395, 0.357, 0.281), abs=3e-3
        )

    def test_hmm(self):
        *_, both, grown = self.errors(10_000, HMMModel(alpha=0.01), 5, 5)
        assert both < 0.135
        assert grown < 0.16

    @pytest.mark.parametrize(
        ("n", "log_likelihood"),
        [
            pytest.param(100_000, -4_094_672.1, marks=pytest.mark.slow),
            pytest.param(310_661, -12_900_825.2, marks=pytest.mark.soak),
        ],
    )
    def test_likelihood(self, n, log_likelihood):
        bound, *_ = self.errors(n, Model1(), 5, 0)
        assert bound == pytest.approx(log_likelihood, rel=1e-6)
