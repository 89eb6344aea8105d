"""Word aligners, from whatever a bitext is given as to links and probabilities."""

import asyncio
import copy
import gzip
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from clusters import assert_clean
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from dask_em import HMMAligner, IBMModel1, IBMModel2, aer, symmetrize
from dask_em.alignment import Alignments, read_gold
from dask_em.topologies import JunctionTree

MODELS = {
    "1": IBMModel1(max_iter=4),
    "2": IBMModel2(max_iter=3, model1_iter=2),
    "2, table": IBMModel2(prior="table", max_iter=3, model1_iter=2),
    "hmm": HMMAligner(max_iter=3, model1_iter=2),
}


def made_up(n, seed=0):
    """Sentences, translated word by word with small changes of order."""
    rng = np.random.default_rng(seed)
    pairs, links = [], []
    for _ in range(n):
        words = rng.choice(60, rng.integers(2, 9), replace=False)
        order = np.argsort(np.arange(len(words)) + 1.2 * rng.random(len(words)))
        pairs.append(
            (
                " ".join(f"e{w}" for w in words),
                " ".join(f"f{w}" for w in words[order]),
            )
        )
        links.append([(int(i), j) for j, i in enumerate(order)])
    return pairs, Alignments.from_links(links)


PAIRS, LINKS = made_up(150)
# empty sides, and a pair that repeats
PAIRS[7], PAIRS[20], PAIRS[21] = ("", "f1 f2"), ("e1", ""), ("", "")
PAIRS += [PAIRS[0]] * 3
EMPTY = (7, 20, 21)
OTHERS, _ = made_up(20, seed=1)
OTHERS += [("e1 unheard e2", "f1 inouï f2"), ("unheard", "inouï"), ("", ""), ("e1", "")]


def fresh(name, **settings):
    return clone(MODELS[name]).set_params(**{"transport": "local"} | settings)


_FITTED = {}


def reference(name, **settings):
    """Fit on one node, once."""
    key = name, *sorted(settings.items())
    if key not in _FITTED:
        _FITTED[key] = fresh(name, shards=1, **settings).fit(PAIRS)
    return _FITTED[key]


def assert_same(found, wanted):
    """Compare parameters, likelihoods and links."""
    ids, values = wanted.result_.params.gather()
    found_ids, found_values = found.result_.params.gather()
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_allclose(found_values, values, rtol=1e-9, atol=1e-12)
    assert found.log_likelihoods_ == pytest.approx(wanted.log_likelihoods_, rel=1e-9)
    assert found.source_vocabulary_ == wanted.source_vocabulary_
    assert found.target_vocabulary_ == wanted.target_vocabulary_
    assert found.align(PAIRS) == wanted.align(PAIRS)


# ------------------------------------------------------------------ ways to give a text


def write(folder, compressed):
    paths = []
    for k, side in enumerate(zip(*PAIRS, strict=True)):
        path = folder / f"text.{k}{'.gz' if compressed else ''}"
        data = "".join(f"{line}\n" for line in side).encode()
        path.write_bytes(gzip.compress(data) if compressed else data)
        paths.append(path)
    return tuple(paths)


def text(kind, folder):
    """Return the arguments of fit."""
    sides = [list(side) for side in zip(*PAIRS, strict=True)]
    if kind == "tokens":
        return ([(e.split(), tuple(f.split())) for e, f in PAIRS],)
    if kind == "generator":
        return (iter(PAIRS),)
    if kind == "two lists":
        return sides
    if kind == "files":
        return write(folder, False)
    if kind == "compressed files":
        return (write(folder, True),)
    if kind == "lists of files":
        return [[path] for path in write(folder, False)]
    if kind == "bag":
        import dask.bag

        return (dask.bag.from_sequence(PAIRS, npartitions=4),)
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"e": sides[0], "f": sides[1]})
    if kind == "frame":
        return (frame,)
    dd = pytest.importorskip("dask.dataframe")
    return (dd.from_pandas(frame, npartitions=3),)


KINDS = [
    "tokens",
    "generator",
    "two lists",
    "files",
    "compressed files",
    "lists of files",
    "bag",
    "frame",
    "Dask frame",
]


@pytest.mark.parametrize("kind", KINDS)
def test_text(tmp_path, kind):
    model = fresh("1", shards=3).fit(*text(kind, tmp_path))
    assert_same(model, reference("1"))
    assert model.plan_.n_nodes == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["two lists", "compressed files", "bag", "Dask frame"])
def test_text_on_a_cluster(client, tmp_path, kind):
    model = fresh("hmm", transport="auto", shards=3).fit(*text(kind, tmp_path))
    assert_same(model, reference("hmm"))


@pytest.mark.slow
def test_more_shards_than_partitions(client):
    import dask.bag

    bag = dask.bag.from_sequence(PAIRS, npartitions=2)
    model = fresh("1", transport="futures", shards=5).fit(bag)
    assert_same(model, reference("1"))


# -------------------------------------------------------------- wherever it is computed

WAYS = [
    ("1", "local", 3, "owner_sharded"),
    ("1", "futures", 5, "junction_tree"),
    ("1", "actors", 2, "all_pairs"),
    ("2", "local", 5, "map_reduce"),
    ("2", "actors", 3, "star"),
    ("2, table", "local", 2, "tree"),
    pytest.param("2, table", "futures", 2, "owner_sharded", marks=pytest.mark.slow),
    ("hmm", "local", 4, "all_pairs"),
    pytest.param("hmm", "futures", 3, "auto", marks=pytest.mark.slow),
    ("hmm", "actors", 4, "junction_tree"),
]


@pytest.mark.parametrize(("name", "transport", "shards", "topology"), WAYS)
def test_wherever(client, name, transport, shards, topology):
    model = fresh(name, transport=transport, shards=shards, topology=topology)
    model.fit(PAIRS)
    assert_same(model, reference(name))
    assert model.plan_.n_nodes == shards
    assert model.result_.settings["shards"] == shards


def test_an_object_as_topology():
    topology = JunctionTree([(0, 1), (1, 2)])
    model = fresh("1", shards=3, topology=topology).fit(PAIRS)
    assert_same(model, reference("1"))
    assert model.plan_.topology == topology


# -------------------------------------------------------------------- what is estimated


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reverse", [False, True])
def test_attributes(name, reverse):
    model = reference(name, reverse=reverse)
    source = sorted({w for e, f in PAIRS if e and f for w in e.split()})
    assert model.source_vocabulary_ == tuple(source)
    assert model.target_vocabulary_ == tuple(f"f{w[1:]}" for w in source)
    n_iter = model.max_iter + (0 if name == "1" else model.model1_iter)
    assert model.n_iter_ == n_iter == model.result_.n_m_steps
    assert not model.converged_
    rising = model.log_likelihoods_
    assert len(rising) == n_iter + 1
    assert rising[-1] == model.log_likelihood_ == model.result_.log_likelihood
    assert np.isfinite(rising).all()
    # model 1 may be better than the next one is before its first iteration
    stages = [rising] if name == "1" else [rising[: model.model1_iter + 1]]
    stages.append(rising[n_iter - model.max_iter + 1 :])
    for each in stages:
        assert (np.diff(each) >= -1e-9 * abs(rising[-1])).all()
    word, translation = ("f7", "e7") if reverse else ("e7", "f7")
    assert word in model.translation_table_
    assert model.top_translations(word, 3)[0][0] == translation


def test_log_likelihood_is_that_of_the_pairs():
    for name in ("1", "2, table"):
        model = reference(name, alpha=0.0)
        n_words = sum(len(f.split()) for e, f in PAIRS if e and f)
        assert model.score(PAIRS) * n_words == pytest.approx(model.log_likelihood_)


def test_positions():
    diagonal, hmm = reference("2"), reference("hmm")
    assert diagonal.tension_ > 1.0
    assert diagonal.null_probability_ == hmm.null_probability_ == 0.2
    assert hmm.jump_probabilities_.shape == (15,)
    assert hmm.jump_probabilities_.sum() == pytest.approx(1.0)
    assert hmm.jump_probabilities_.argmax() == 8  # one further
    assert not hasattr(reference("2, table"), "tension_")
    for name in ("2", "hmm"):
        learnt = reference(name, null_probability=None)
        assert 0 <= learnt.null_probability_ < 0.2  # there are no words without a link


@pytest.mark.parametrize("name", ["2", "hmm"])
@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_without_an_empty_word(name, alpha):
    model = reference(name, null_probability=0, alpha=alpha)
    assert np.isfinite(model.log_likelihoods_).all()
    table = model.translation_table_
    assert None not in table and list(table) == list(model.source_vocabulary_)
    assert table.to_scipy()[[0]].nnz == 0
    with pytest.raises(KeyError):
        model.top_translations(None)
    assert len(model.align(OTHERS)) == len(OTHERS)


@pytest.mark.parametrize("name", ["1", "hmm"])
def test_the_least_prior(name):
    model = reference(name, alpha=1e-12)
    assert np.isfinite(model.log_likelihoods_).all()
    assert np.isfinite(model.translation_table_.to_scipy().data).all()


def test_a_resumed_fit_that_was_complete(tmp_path):
    model = fresh("1", shards=1, checkpoint=tmp_path / "fit").fit(PAIRS)
    again = fresh("1", shards=1, resume=tmp_path / "fit").fit(PAIRS)
    assert again.log_likelihoods_ == [again.result_.lower_bound]
    assert again.log_likelihood_ == pytest.approx(model.log_likelihood_)


def test_it_converges():
    model = fresh("1", max_iter=200, tol=1e-3).fit(PAIRS)
    assert model.converged_ and model.n_iter_ < 200
    n_words = model.result_.weight
    gains = np.diff(model.log_likelihoods_) / n_words
    assert gains[-1] < 1e-3 <= gains[:-1].min()


def test_without_model_1():
    model = fresh("hmm", model1_iter=0, max_iter=2).fit(PAIRS)
    assert model.n_iter_ == 2


def test_verbose(capsys):
    fresh("1", verbose=1, max_iter=2).fit(PAIRS)
    assert len(capsys.readouterr().out.splitlines()) == 2


# -------------------------------------------------------------------------------- links


@pytest.mark.parametrize("name", MODELS)
def test_links(name):
    forward = reference(name).align(PAIRS)
    backward = reference(name, reverse=True).align(PAIRS)
    found = symmetrize(forward, backward)
    known = [k for k in range(len(LINKS)) if k not in EMPTY]
    for links in (forward, backward, found):
        assert len(links) == len(PAIRS)
        assert all(links[k] == [] for k in EMPTY)
        right = sum(len(set(links[k]) & set(LINKS[k])) for k in known)
        assert right > 0.8 * sum(len(LINKS[k]) for k in known)
        assert links[-1] == links[0]  # the same pair
    # each word has one link at most on the side that is explained
    if name != "hmm":
        for links, side in ((forward, 1), (backward, 0)):
            for each in links:
                ends = [link[side] for link in each]
                assert len(set(ends)) == len(ends)


@pytest.mark.parametrize("name", MODELS)
def test_reverse_is_the_other_text_with_links_turned(name):
    turned = fresh(name).fit([(f, e) for e, f in PAIRS])
    model = reference(name, reverse=True)
    assert model.log_likelihood_ == pytest.approx(turned.log_likelihood_, rel=1e-12)
    links = turned.align([(f, e) for e, f in PAIRS])
    assert [sorted((i, j) for j, i in each) for each in links] == list(
        model.align(PAIRS)
    )


def test_decoding():
    model = fresh("hmm").fit(PAIRS)
    best = model.align(PAIRS)
    many, few = (
        model.set_params(threshold=t).align(PAIRS)
        for t in (0.05, 0.95)  # is looked at when it is needed
    )
    for a, b, c in zip(few, best, many, strict=True):
        assert set(a) <= set(b) <= set(c)
    assert len(few.source) < len(best.source) < len(many.source)
    for wrong in ({"threshold": 2}, {"decoding": "x"}):
        with pytest.raises(ValueError, match="must be"):
            copy.copy(model).set_params(**wrong).align(PAIRS)
    viterbi = model.set_params(decoding="viterbi").align(PAIRS)
    for each in viterbi:
        targets = [j for _, j in each]
        assert targets == sorted(set(targets)) or len(set(targets)) == len(targets)
    assert viterbi != best


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reverse", [False, True])
def test_unseen_sentences(name, reverse):
    model = reference(name, reverse=reverse)
    links = model.align(OTHERS)
    assert len(links) == len(OTHERS)
    assert links[-1] == links[-2] == []
    # words that training has seen are aligned as ever, next to one that it has not
    assert {(0, 0), (2, 2)} <= set(links[-4])
    for (e, f), each in zip(OTHERS, links, strict=True):
        for i, j in each:
            assert i < len(e.split()) and j < len(f.split())
    one_by_one = [model.align([pair])[0] for pair in OTHERS]
    assert one_by_one == list(links)
    assert len(model.align([])) == 0
    assert list(model.align(*map(list, zip(*OTHERS, strict=True)))) == list(links)


def test_links_of_many(monkeypatch):
    """What is aligned in several blocks is aligned as in one."""
    from dask_em.estimators import aligner

    wanted = reference("hmm").align(PAIRS)
    monkeypatch.setattr(aligner, "_PAIRS", 40)
    assert reference("hmm").align(PAIRS) == wanted


def test_links_of_files(tmp_path):
    model = reference("1")
    for compressed in (False, True):
        assert model.align(*write(tmp_path, compressed)) == model.align(PAIRS)


def lazily(kind):
    import dask.bag

    if kind == "bag":
        return dask.bag.from_sequence(OTHERS, npartitions=3)
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame(OTHERS, columns=["e", "f"])
    return dd.from_pandas(frame, npartitions=3)


@pytest.mark.parametrize("kind", ["bag", "frame"])
@pytest.mark.parametrize("name", ["1", "hmm"])
def test_lazy_links(kind, name):
    import dask.bag

    model = reference(name)
    lazy = model.align(lazily(kind))
    assert isinstance(lazy, dask.bag.Bag)
    assert lazy.npartitions == 3
    found = lazy.compute(scheduler="threads")
    assert Alignments.from_links(found) == model.align(OTHERS)


def test_lazy_links_are_not_computed():
    import dask.bag

    def fail(pair):
        raise ValueError("somebody has looked")

    lazy = reference("1").align(dask.bag.from_sequence(OTHERS, 2).map(fail))
    with pytest.raises(ValueError, match="somebody has looked"):
        lazy.compute(scheduler="threads")


@pytest.mark.slow
def test_lazy_links_on_a_cluster(client):
    """Even where the parameters are on the cluster, and the model is fitted again."""
    model = fresh("1", transport="futures", shards=3, gather=False).fit(PAIRS)
    lazy = model.align(lazily("bag"))
    wanted = reference("1").align(OTHERS)
    model.fit(PAIRS[:2])
    assert Alignments.from_links(lazy.compute()) == wanted


# -------------------------------------------------------------------------------- score


@pytest.mark.parametrize("name", MODELS)
def test_score(name):
    model = reference(name)
    good = model.score(OTHERS[:20])
    words = [f.split() for _, f in OTHERS[:20]]
    shuffled = [(e, " ".join(words[k - 1])) for k, (e, _) in enumerate(OTHERS[:20])]
    assert -3.0 < good < 0.0
    assert model.score(shuffled) < good - 1.0
    assert model.score(lazily("bag")) == pytest.approx(model.score(OTHERS), rel=1e-12)
    with pytest.raises(ValueError, match="there is no score"):
        model.score([("", "x"), ("y", "")])


def test_score_of_a_word_by_hand():
    model = reference("1")
    table = model.translation_table_
    p = [
        (table[None].get(f, 0) + table["e3"].get(f, 0) + table["e4"].get(f, 0)) / 3
        for f in ("f3", "f4")
    ]
    assert model.score([("e3 e4", "f3 f4")]) == pytest.approx(np.log(p).mean())
    unknown = model.score([("e3", "inouï")])
    assert unknown == pytest.approx(np.log(1e-12))


# ------------------------------------------------------------------------- translations


def test_translations():
    model = reference("1")
    best = model.top_translations("e5", 2)
    assert best == model.translation_table_.top("e5", 2)
    assert len(best) == 2 and best[0][0] == "f5"
    assert model.top_translations(None, 1)[0][0] in model.target_vocabulary_
    with pytest.raises(KeyError, match="unheard"):
        model.top_translations("unheard")
    for n in (0, -1, 2.5, "many"):
        with pytest.raises((TypeError, ValueError), match="n must be"):
            model.top_translations("e5", n)


@pytest.mark.parametrize("name", MODELS)
def test_table(name):
    lexicon = reference(name, alpha=0.0).translation_table_
    np.testing.assert_allclose(lexicon.to_scipy().sum(axis=1), 1.0, rtol=1e-9)
    assert list(lexicon) == [None, *reference(name).source_vocabulary_]


# ------------------------------------------------------------------------------ manners


@pytest.mark.parametrize("name", MODELS)
def test_pickle(name):
    model = reference(name)
    again = pickle.loads(pickle.dumps(model))
    assert again.align(OTHERS) == model.align(OTHERS)
    assert again.score(OTHERS) == model.score(OTHERS)
    assert again.get_params() == model.get_params()
    assert again.top_translations("e5") == model.top_translations("e5")


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name):
    model = clone(reference(name))
    assert model.get_params() == reference(name).get_params()
    for use in (model.align, model.score):
        with pytest.raises(NotFittedError):
            use(OTHERS)
    with pytest.raises(NotFittedError):
        model.top_translations("e5")
    model.set_params(max_iter=7, topology="star")
    assert (model.max_iter, model.topology) == (7, "star")
    with pytest.raises(ValueError, match="Invalid parameter 'colour'"):
        model.set_params(colour=1)


@pytest.mark.parametrize("name", MODELS)
def test_repr(name):
    model = reference(name)
    assert repr(model).startswith(f"{type(model).__name__}(")
    assert "max_iter" in repr(model)
    assert type(model).__name__ in model._repr_html_()
    assert "max_iter" in model.result_._repr_html_()


def test_it_takes_words_that_look_like_numbers():
    pairs = [("1 2", "3 4"), ("1 5", "3 6"), ("5", "6")]
    model = fresh("1", max_iter=50).fit(pairs)
    assert model.align(pairs[:2]).to_pharaoh() == ["0-0 1-1", "0-0 1-1"]


# ------------------------------------------------------------------------------- errors

BAD = [
    ("1", {"max_iter": 0}, "max_iter must be"),
    ("1", {"max_iter": 2.5}, "max_iter must be"),
    ("1", {"tol": -1.0}, "tol must not be negative"),
    ("1", {"tol": None}, "tol must be a number, got None"),
    ("1", {"alpha": 1e-13}, "alpha must be 0 or at least 1e-12, not 1e-13"),
    ("1", {"alpha": -0.1}, "alpha must be at least 0, not -0.1"),
    ("1", {"alpha": float("nan")}, "alpha must be finite, got nan"),
    ("1", {"alpha": "none"}, "alpha must be a number, got 'none'"),
    ("1", {"reverse": "yes"}, "reverse must be True or False, got 'yes'"),
    ("1", {"shards": "many"}, "shards must be 'auto' or an integer, got 'many'"),
    ("1", {"shards": 0}, "shards must be"),
    ("1", {"transport": "pigeons"}, "transport must be 'auto', 'local'"),
    ("1", {"transport": "pigeons"}, "transport must be"),
    ("1", {"topology": "ring"}, "topology must be one of"),
    ("1", {"gather": "maybe"}, "gather must be"),
    ("1", {"deadline": -1.0}, "deadline is a number of seconds above 0"),
    ("1", {"deadline": "soon"}, "deadline must be"),
    ("2", {"prior": "x"}, "prior must be 'diagonal' or 'table', got 'x'"),
    ("2", {"model1_iter": -1}, "model1_iter must be"),
    ("2", {"null_probability": 1.0}, "null_probability must be"),
    ("2", {"null_probability": "some"}, "null_probability must be"),
    ("hmm", {"decoding": "x"}, "decoding must be 'posterior' or 'viterbi', got 'x'"),
    ("hmm", {"threshold": 2}, "threshold must be between 0 and 1, got 2"),
    ("hmm", {"threshold": "high"}, "threshold must be"),
    ("hmm", {"max_jump": 0}, "max_jump must be"),
    ("hmm", {"max_jump": 10**6}, "max_jump must be from 1 to 100, not 1000000"),
    ("hmm", {"model1_iter": 1.5}, "model1_iter must be"),
]


@pytest.mark.parametrize(("name", "settings", "complaint"), BAD, ids=str)
def test_bad_settings(name, settings, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint) as caught:
        fresh(name).set_params(**settings).fit(PAIRS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"tol": None}, {"max_iter": 0}, {"model1_iter": -1}, {"alpha": -1}]
)
def test_bad_settings_leave_iterators_alone(settings):
    pairs = iter(PAIRS)
    with pytest.raises((TypeError, ValueError)):
        fresh("hmm").set_params(**settings).fit(pairs)
    assert next(pairs) is PAIRS[0]


def lines(folder, name, n):
    path = folder / name
    path.write_text("word\n" * n)
    return path


def bad_text(kind, folder):
    if kind == "a number":
        return (7,), TypeError, "pairs of sentences are wanted"
    if kind == "a string":
        return ("a b",), TypeError, "pairs of sentences are wanted"
    if kind == "strings":
        return (["a b", "c d"],), TypeError, r"expected a pair .* got '[ac] [bd]'"
    if kind == "triples":
        return ([("a", "b", "c")],), TypeError, "expected a pair of sentences"
    if kind == "numbers":
        return ([(1, 2)],), TypeError, "a sentence is a string or a list"
    if kind == "missing values":
        return ([("a", "b"), ("c", None)],), TypeError, "a sentence is a string or"
    if kind == "two lengths":
        return (["a", "b"], ["c"]), ValueError, "2 source sentences and 1 target"
    if kind == "files of two lengths":
        paths = lines(folder, "e", 3), lines(folder, "f", 2)
        return paths, ValueError, r"e has 3 lines and .*f 2"
    if kind == "no file":
        paths = lines(folder, "e", 3), folder / "missing.f"
        return paths, FileNotFoundError, r"missing\.f"
    if kind == "no columns":
        pd = pytest.importorskip("pandas")
        return (pd.DataFrame({"e": ["a"]}),), ValueError, "two columns is wanted"
    if kind == "nothing":
        return ([],), ValueError, "none of the 0 pairs has words on both sides"
    assert kind == "nothing on both sides"
    return ([("a", ""), ("", "b")],), ValueError, "none of the 2 pairs has words"


BAD_TEXTS = [
    "a number",
    "a string",
    "strings",
    "triples",
    "numbers",
    "missing values",
    "two lengths",
    "files of two lengths",
    "no file",
    "no columns",
    "nothing",
    "nothing on both sides",
]


@pytest.mark.parametrize(
    ("kind", "transport"),
    [
        pytest.param(
            kind,
            transport,
            marks=()
            if transport == "local" or kind in ("numbers", "nothing")
            else pytest.mark.slow,
        )
        for transport in ("local", "futures", "actors")
        for kind in BAD_TEXTS
    ],
)
def test_what_is_no_bitext(client, tmp_path, kind, transport):
    """Errors arrive soon, wherever they were raised."""
    data, error, complaint = bad_text(kind, tmp_path)
    began = time.monotonic()
    with pytest.raises(error, match=complaint) as caught:
        fresh("1", transport=transport, shards=2).fit(*data)
    assert time.monotonic() < began + 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transport", ["local", "futures", "actors"])
def test_bytes_that_are_no_text(client, tmp_path, transport):
    paths = lines(tmp_path, "e", 2), tmp_path / "f"
    paths[1].write_bytes("é\né\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"f is not UTF-8: b'.xe9.n'$"):
        fresh("1", transport=transport, shards=2).fit(*paths)


def test_a_bag_that_fails(client):
    import dask.bag

    def fail(pair):
        raise KeyError("mine")

    bag = dask.bag.from_sequence(PAIRS, npartitions=2).map(fail)
    for transport in ("local", "futures"):
        with pytest.raises(KeyError, match="mine"):
            fresh("1", transport=transport).fit(bag)


@pytest.mark.parametrize(
    ("settings", "data"),
    [({"max_iter": 0}, PAIRS), ({}, [("a", 3)]), ({"deadline": 1e-9}, PAIRS)],
    ids=["settings", "text", "deadline"],
)
def test_what_was_fitted_stays(settings, data):
    model = fresh("1").fit(PAIRS)
    before = dict(vars(model))
    with pytest.raises((TypeError, ValueError, TimeoutError)):
        model.set_params(**settings).fit(data)
    after = vars(model)
    assert set(before) == set(after)
    assert all(after[k] is before[k] for k in before if k not in settings)
    assert model.align(OTHERS) == reference("1").align(OTHERS)


def test_fitted_again():
    model = fresh("hmm").fit(OTHERS).fit(PAIRS)
    assert_same(model, reference("hmm"))


def test_deadline():
    model = fresh("1", max_iter=10**6, deadline=1.0)
    with pytest.warns(ConvergenceWarning, match="deadline"):
        model.fit(PAIRS)
    assert model.result_.status == "deadline"
    assert 0 < model.n_iter_ < 10**6
    assert model.log_likelihood_ >= reference("1").log_likelihoods_[1]
    assert len(model.align(OTHERS)) == len(OTHERS)


# ----------------------------------------------------------------------------- clusters


@pytest.mark.parametrize(
    "transport", [pytest.param("futures", marks=pytest.mark.slow), "actors"]
)
def test_parameters_stay_where_they_are(client, transport):
    model = fresh("hmm", transport=transport, shards=3, gather=False).fit(PAIRS)
    assert "where it was computed" in repr(model.result_.params)
    assert "words" in repr(model.translation_table_)
    assert "where it was computed" in repr(model.result_.params)
    wanted = reference("hmm").top_translations("e5", 3)
    for (f, p), (g, q) in zip(model.top_translations("e5", 3), wanted, strict=True):
        assert f == g and p == pytest.approx(q, rel=1e-9)
    assert ", here)" in repr(model.result_.params)
    assert_same(model, reference("hmm"))


def test_gather():
    for gather in (True, "auto"):
        model = fresh("1", gather=gather).fit(PAIRS)
        assert ", here)" in repr(model.result_.params)


@pytest.mark.slow
def test_pickle_of_what_is_on_a_cluster(client):
    model = fresh("1", transport="futures", shards=3, gather=False).fit(PAIRS)
    assert_same(pickle.loads(pickle.dumps(model)), reference("1"))


@pytest.mark.slow
def test_a_client_that_is_closed(cluster):
    from distributed import Client

    with Client(cluster):
        model = fresh("1", transport="futures", shards=2, gather=False).fit(PAIRS)
        gathered = fresh("1", transport="futures", shards=2).fit(PAIRS)
    assert gathered.align(OTHERS) == reference("1").align(OTHERS)
    for use in (
        lambda: model.top_translations("e5"),
        lambda: model.align(OTHERS),
        lambda: model.score(OTHERS),
        lambda: pickle.dumps(model),
    ):
        with pytest.raises(RuntimeError, match="its client is closed; fit again"):
            use()


@pytest.mark.parametrize(
    "transport",
    [
        pytest.param("auto", marks=pytest.mark.slow),
        pytest.param("actors", marks=pytest.mark.soak),
    ],
)
def test_asynchronous(cluster, transport):
    from distributed import Client

    async def fit():
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            assert client.asynchronous
            model = fresh("1", transport=transport, shards=3)
            outcome = model.fit(PAIRS)
            assert not hasattr(model, "result_")
            assert await outcome is model
            return model

    assert_same(asyncio.run(fit()), reference("1"))
    with Client(cluster) as client:
        assert_clean(client)


@pytest.mark.cluster
@pytest.mark.parametrize(
    "transport",
    [
        pytest.param("futures", marks=pytest.mark.soak),
        pytest.param("actors", marks=pytest.mark.soak),
    ],
)
def test_a_worker_killed_in_mid_fit(processes, transport):
    from distributed import Client

    pairs, _ = made_up(3000, seed=2)
    settings = {"max_iter": 60, "model1_iter": 2, "shards": 4}
    wanted = fresh("hmm", **settings).fit(pairs)
    with Client(processes) as client:
        client.wait_for_workers(2)
        fresh("hmm", transport=transport, shards=4).fit(PAIRS)  # all is compiled
        victim = next(iter(client.run(os.getpid).values()))
        timer = threading.Timer(1.5, os.kill, (victim, signal.SIGKILL))
        began = time.monotonic()
        timer.start()
        model = fresh("hmm", transport=transport, **settings).fit(pairs)
        timer.join()
        assert time.monotonic() > began + 1.5
        assert model.result_.settings["losses"] >= 1
        ids, values = wanted.result_.params.gather()
        np.testing.assert_array_equal(model.result_.params.gather()[0], ids)
        np.testing.assert_allclose(
            model.result_.params.gather()[1], values, rtol=1e-7, atol=1e-12
        )
        assert model.log_likelihood_ == pytest.approx(wanted.log_likelihood_, rel=1e-9)
        assert model.n_iter_ == wanted.n_iter_


# ---------------------------------------------------------------------- the real corpus

ALL = 310_661


@pytest.fixture(scope="module")
def corpus():
    """All pairs, of which the last 447 are in the gold standard, and that."""
    if "DASK_EM_DATA" not in os.environ:
        pytest.skip("DASK_EM_DATA is not set")
    folder = Path(os.environ["DASK_EM_DATA"]) / "alignment"
    gold = folder / "hansards_naacl03_gold"
    sides = []
    for language, name in (("e", "en"), ("f", "fr")):
        with gzip.open(folder / "hansards36" / f"train.tok.{name}.gz", "rt") as file:
            sides.append(file.read().splitlines())
        sides[-1] += (gold / f"test.tok.{language}").read_text().splitlines()
    pairs = list(zip(*sides, strict=True))
    assert len(pairs) == ALL + 447
    return pairs, read_gold(gold / "test.wa.nonullalign", 447)


def error_rates(corpus, n, model, *methods):
    """Return the rates of both directions, and of what methods make of them."""
    pairs, gold = corpus
    links = []
    for reverse in (False, True):
        model = clone(model).set_params(reverse=reverse, transport="local")
        model.fit([*pairs[:n], *pairs[ALL:]])
        links.append(model.align(pairs[ALL:]))
    both = [symmetrize(*links, method) for method in methods]
    return [aer(found, gold) for found in [*links, *both]]


@pytest.mark.data
def test_error_rates_of_model_1(corpus):
    found = error_rates(corpus, 10_000, IBMModel1(), "intersection")
    assert found == pytest.approx([0.395, 0.357, 0.281], abs=3e-3)


@pytest.mark.data
def test_error_rates_of_the_hmm(corpus):
    *_, both = error_rates(corpus, 10_000, HMMAligner(), "grow-diag-final-and")
    assert both <= 0.15


@pytest.mark.data
@pytest.mark.slow
def test_error_rates_of_the_hmm_on_all_pairs(corpus):
    *_, both = error_rates(corpus, ALL, HMMAligner(), "grow-diag-final-and")
    assert both <= 0.139


@pytest.fixture(scope="module")
def one_node(corpus):
    pairs = corpus[0][:5000]
    return pairs, IBMModel1(transport="local", shards=1).fit(pairs)


def compare_on_hansards(one_node, transport, n_nodes, topology):
    pairs, wanted = one_node
    model = IBMModel1(transport=transport, shards=n_nodes, topology=topology)
    model.fit(pairs)
    np.testing.assert_allclose(
        model.log_likelihoods_, wanted.log_likelihoods_, rtol=1e-9
    )
    for one, other in zip(
        model.result_.params.gather(), wanted.result_.params.gather(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-300)


TOPOLOGIES = (
    *("owner_sharded", "junction_tree", "all_pairs"),
    *("map_reduce", "star", "tree"),
)
CASES = [  # all on threads; on Dask each topology once by each transport
    ("local", n_nodes, topology) for n_nodes in (2, 4, 8, 20) for topology in TOPOLOGIES
]
for first, transport in enumerate(("futures", "actors")):
    CASES += [
        (transport, (2, 4, 8)[(first + k) % 3], topology)
        for k, topology in enumerate(TOPOLOGIES)
    ]
#: One on Dask by each transport, and the others on the most nodes.
SOME = [("futures", 4, "junction_tree"), ("actors", 4, "owner_sharded")]
SOME += [("local", 20, topology) for topology in ("junction_tree", "owner_sharded")]
#: Each topology once, each number of nodes.
QUICK = [
    ("local", (2, 4, 8, 20)[k % 4], topology) for k, topology in enumerate(TOPOLOGIES)
]


@pytest.mark.data
@pytest.mark.parametrize(("transport", "n_nodes", "topology"), QUICK)
def test_hansards_on_some_nodes(one_node, transport, n_nodes, topology):
    compare_on_hansards(one_node, transport, n_nodes, topology)


@pytest.mark.data
@pytest.mark.parametrize(
    ("transport", "n_nodes", "topology"),
    [
        pytest.param(
            *case, marks=pytest.mark.slow if case in SOME else pytest.mark.soak
        )
        for case in CASES
        if case not in QUICK
    ],
)
def test_hansards_on_nodes(client, one_node, transport, n_nodes, topology):
    compare_on_hansards(one_node, transport, n_nodes, topology)
