"""Translation probabilities as a mapping, a matrix and a file."""

import gzip
import itertools
import pickle

import numpy as np
import pytest

from dask_em import IBMModel1
from dask_em.alignment.lexicon import Lexicon

PAIRS = [
    ("the house", "la maison"),
    ("the book", "le livre"),
    ("a book", "un livre"),
    ("the house the book", "la maison le livre"),
]


def fitted(**settings):
    return IBMModel1(transport="local", shards=2, **settings).fit(PAIRS)


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["likelihood", "prior"])
def lexicon(request):
    return fitted(alpha=request.param).translation_table_


def by_hand(n_iter=5):
    """IBM Model 1 in a few lines."""
    pairs = [([None, *e.split()], f.split()) for e, f in PAIRS]
    words = {f for _, target in pairs for f in target}
    theta = {(e, f): 1 / len(words) for s, t in pairs for e in s for f in t}
    for _ in range(n_iter):
        counts = dict.fromkeys(theta, 0.0)
        for source, target in pairs:
            for f in target:
                total = sum(theta[e, f] for e in source)
                for e in source:
                    counts[e, f] += theta[e, f] / total
        sums = {}
        for (e, _), n in counts.items():
            sums[e] = sums.get(e, 0.0) + n
        theta = {(e, f): n / sums[e] for (e, f), n in counts.items()}
    return theta


def test_it_is_a_mapping():
    theta = by_hand()
    lexicon = fitted().translation_table_
    assert list(lexicon) == [None, "a", "book", "house", "the"]
    assert len(lexicon) == 5
    assert "book" in lexicon and None in lexicon
    assert "livre" not in lexicon and 3 not in lexicon
    found = {(e, f): p for e in lexicon for f, p in lexicon[e].items()}
    assert found == pytest.approx(theta, rel=1e-12)
    assert set(lexicon["a"]) == {"un", "livre"}  # no others were in its sentences
    for word in ("livre", 3, ""):
        with pytest.raises(KeyError):
            lexicon[word]


def test_a_mapping_has_more():
    """What comes with a mapping, such as items() and dict()."""
    lexicon = fitted().translation_table_
    assert dict(lexicon.items()) == dict(lexicon)
    assert list(lexicon.keys()) == list(lexicon)
    assert lexicon.get("livre") is None
    assert lexicon.get("a") == lexicon["a"]


def test_best_first(lexicon):
    for word in lexicon:
        best = lexicon.top(word, 100)
        assert dict(best) == lexicon[word]
        assert all(p >= q for (_, p), (_, q) in itertools.pairwise(best))
        assert lexicon.top(word, 1) == best[:1]
    with pytest.raises(KeyError, match="livre"):
        lexicon.top("livre")


def test_matrix(lexicon):
    table = lexicon.to_scipy()
    assert table.shape == (5, 5)
    dense = table.toarray()
    for row, word in zip(dense, lexicon, strict=True):
        found = {
            f: p for f, p in zip(lexicon.translations.words, row, strict=True) if p
        }
        assert found == lexicon[word]


def test_rows_sum_to_one():
    table = fitted().translation_table_.to_scipy()
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-12)


def test_with_a_prior_some_is_left_for_other_words():
    alpha = 0.1
    lexicon = fitted(alpha=alpha).translation_table_
    never = len(lexicon.translations) - len(lexicon["a"])
    left = 1 - sum(lexicon["a"].values())
    # "a" stands in one sentence: its expected count is at most that of two words
    assert never * alpha / (2 + 5 * alpha) < left < never * alpha / (5 * alpha)
    assert sum(lexicon[None].values()) == pytest.approx(1.0)  # stands everywhere


def test_normalised(tmp_path, lexicon):
    table = lexicon.to_scipy(normalise=True)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-12)
    for row, word in zip(table.toarray(), lexicon, strict=True):
        best = lexicon.top(word, 100, normalise=True)
        assert [f for f, _ in best] == [f for f, _ in lexicon.top(word, 100)]
        assert sorted(p for _, p in best) == pytest.approx(sorted(row[row > 0]))
    lexicon.write(tmp_path / "table", minimum=0, normalise=True)
    rows = [line.split("\t") for line in (tmp_path / "table").read_text().splitlines()]
    assert sum(float(p) for *_, p in rows) == pytest.approx(len(lexicon), rel=1e-4)


def test_words_that_cannot_be_written(tmp_path):
    for word in ("a\tb", "a\nb", "a\r"):
        for pair in (([word], ["x"]), (["x"], [word])):
            lexicon = IBMModel1(transport="local").fit([pair]).translation_table_
            with pytest.raises(ValueError, match="has a tab or the end of a line"):
                lexicon.write(tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_the_empty_string_is_a_word(tmp_path):
    lexicon = IBMModel1(transport="local").fit([([""], ["x"])]).translation_table_
    lexicon.write(tmp_path / "table")
    assert (tmp_path / "table").read_text() == "<null>\tx\t1\n\tx\t1\n"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_file(tmp_path, lexicon, ending):
    path = tmp_path / f"table.tsv{ending}"
    lexicon.write(path, minimum=0.05)
    data = path.read_bytes()
    text = (gzip.decompress(data) if ending else data).decode()
    rows = [line.split("\t") for line in text.splitlines()]
    names = {"<null>" if e is None else e: e for e in lexicon}
    wanted = [
        (e, f, p) for e in names for f, p in lexicon.top(names[e], 99) if p >= 0.05
    ]
    assert [row[:2] for row in rows] == [[e, f] for e, f, _ in wanted]
    found = [float(p) for _, _, p in rows]
    assert found == pytest.approx([p for *_, p in wanted], rel=1e-5)


def test_it_is_written_as_utf8(tmp_path):
    model = IBMModel1(transport="local").fit([("naïve", "été")])
    model.translation_table_.write(tmp_path / "table")
    text = (tmp_path / "table").read_bytes().decode("utf-8")
    assert text == "<null>\tété\t1\nnaïve\tété\t1\n"


def test_a_word_that_looks_like_the_empty_word():
    """Words may be called anything."""
    pairs = [("<null> None", "x y"), ("None", "x"), ("<null>", "y")]
    lexicon = IBMModel1(transport="local").fit(pairs).translation_table_
    assert list(lexicon) == [None, "<null>", "None"]
    assert lexicon.top("None", 1)[0][0] == "x"
    assert lexicon.top("<null>", 1)[0][0] == "y"
    assert lexicon["None"] != lexicon[None]


def test_pickle(lexicon):
    again = pickle.loads(pickle.dumps(lexicon))
    assert isinstance(again, Lexicon)
    assert {e: again[e] for e in again} == {e: lexicon[e] for e in lexicon}


def test_repr(lexicon):
    assert repr(lexicon) == f"Lexicon(4 words, {lexicon._table.n_rows} numbers)"
