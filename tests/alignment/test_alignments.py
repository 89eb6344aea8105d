"""Links can be written, read, put together and compared."""

import numpy as np
import pytest

from dask_em.alignment import Alignments, Gold, aer, read_gold, symmetrize

LINES = ["0-0 1-2", "", "2-1 3-0"]
NEIGHBOURS = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]


def at_random(rng, n=60, size=7):
    pairs = []
    for _ in range(n):
        k = rng.integers(0, 9)
        pairs.append(list(map(tuple, rng.integers(0, size, (k, 2)).tolist())))
    return Alignments.from_links(pairs)


def test_pharaoh(tmp_path):
    alignments = Alignments.from_pharaoh(LINES)
    assert alignments.to_pharaoh() == LINES
    alignments.write(tmp_path / "links")
    assert Alignments.from_pharaoh(tmp_path / "links") == alignments
    assert list(alignments) == [[(0, 0), (1, 2)], [], [(2, 1), (3, 0)]]
    with pytest.raises(ValueError, match="line 2 is no alignment"):
        Alignments.from_pharaoh(["0-0", "1:2"])


def test_a_sequence():
    alignments = Alignments.from_pharaoh(LINES)
    assert alignments[-1] == [(2, 1), (3, 0)]
    assert alignments[1:].to_pharaoh() == LINES[1:]
    assert alignments.take([2, -1, 0, 2]).to_pharaoh() == [
        LINES[2],
        "",
        LINES[0],
        LINES[2],
    ]
    assert Alignments.concatenate([alignments[:1], alignments[1:]]) == alignments
    assert len(Alignments.concatenate([])) == 0
    with pytest.raises(IndexError):
        alignments[3]


def test_links_are_sorted_and_distinct():
    assert Alignments.from_pharaoh(["2-1 0-3 2-1 0-1"]).to_pharaoh() == ["0-1 0-3 2-1"]


@pytest.mark.parametrize(
    "arrays",
    [([0, 1], [0, 1], [0, 1]), ([1, 1], [0], [0]), ([0, 1], [0], []), ([], [], [])],
)
def test_arrays_that_do_not_fit(arrays):
    with pytest.raises(ValueError, match="offsets must rise"):
        Alignments(*arrays)


def by_the_book(forward, reverse, final, both):
    """Growing and finishing, as Koehn's pseudo-code has it."""
    forward, reverse = set(forward), set(reverse)
    union, links = forward | reverse, forward & reverse
    free_s = lambda i: all(i != a for a, _ in links)  # noqa: E731
    free_t = lambda j: all(j != b for _, b in links)  # noqa: E731
    before = None
    while before != len(links):
        before = len(links)
        for i in range(10):
            for j in range(10):
                if (i, j) not in links:
                    continue
                for a, b in [(-1, 0), (0, -1), (1, 0), (0, 1), *NEIGHBOURS]:
                    new = i + a, j + b
                    if new in union and (free_s(new[0]) or free_t(new[1])):
                        links.add(new)
    for side in (forward, reverse) if final else ():
        for i, j in sorted(side):
            free = free_s(i), free_t(j)
            if all(free) if both else any(free):
                links.add((i, j))
    return sorted(links)


def test_symmetrized_by_the_book():
    rng = np.random.default_rng(1)
    forward, reverse = at_random(rng), at_random(rng)
    for method, steps in {
        "grow-diag": (False, False),
        "grow-diag-final": (True, False),
        "grow-diag-final-and": (True, True),
    }.items():
        # the order of neighbours is horizontal and vertical ones first
        expected = [
            by_the_book(f, r, *steps) for f, r in zip(forward, reverse, strict=True)
        ]
        assert list(symmetrize(forward, reverse, method)) == expected
    for method, operation in [("union", set.union), ("intersection", set.intersection)]:
        expected = [
            sorted(operation(set(f), set(r)))
            for f, r in zip(forward, reverse, strict=True)
        ]
        assert list(symmetrize(forward, reverse, method)) == expected


def test_long_sentences_are_symmetrized():
    one = Alignments.from_pharaoh(["0-0 300-150"])
    assert symmetrize(one, one) == one


def test_links_as_lists():
    a, b = Alignments.from_pharaoh(LINES), Alignments.from_pharaoh(LINES[::-1])
    assert symmetrize(list(a), list(b), "union") == symmetrize(a, b, "union")
    assert aer(list(a), Gold(list(b), list(a))) == aer(a, Gold(b, a))
    assert aer(list(a), list(a)) == 0


@pytest.mark.parametrize(
    "links", [LINES, [[(0, 1, 2)]], [[(0, 1), (2,)]], [[(0.5, 1)]], [[(0, None)]]]
)
def test_no_links(links):
    with pytest.raises(TypeError, match=r"a list of \(i, j\), not of"):
        aer(links, [[]])


def test_links_that_are_not_computed():
    bag = pytest.importorskip("dask.bag").from_sequence([[(0, 0)]])
    for use in (symmetrize, aer):
        with pytest.raises(TypeError, match="compute it first"):
            use(bag, bag)


def test_a_string_of_links():
    assert Alignments.from_pharaoh("0-0 1-2\n3-1").to_pharaoh() == ["0-0 1-2", "3-1"]
    with pytest.raises(FileNotFoundError):
        Alignments.from_pharaoh("no-file")


def test_nothing_to_symmetrize():
    one = Alignments.from_pharaoh(["0-0"])
    with pytest.raises(ValueError, match="of 1 pairs and of 0 pairs"):
        symmetrize(one, one[:0])
    with pytest.raises(ValueError, match="unknown method 'both'"):
        symmetrize(one, one, "both")


@pytest.mark.parametrize(
    "text",
    [
        "0001 1 1 S\n0001 2 3 P\n0003 1 2\n",
        "s1 1 1 S\ns1 2 3 p\ns3 1 2 S\n",
        "0-0 1?2\n\n0-1\n",
        "0-0 1p2\n\n0-1\n",
    ],
)
def test_gold(tmp_path, text):
    (tmp_path / "gold").write_text(text)
    gold = read_gold(tmp_path / "gold")
    assert gold.sure.to_pharaoh() == ["0-0", "", "0-1"]
    assert gold.possible.to_pharaoh() == ["0-0 1-2", "", "0-1"]
    assert len(read_gold(tmp_path / "gold", 5)) == 5
    with pytest.raises(ValueError, match="pair 3, of 2"):
        read_gold(tmp_path / "gold", 2)


@pytest.mark.parametrize("text", ["0001 1 1 S\n0001 0 1 S\n", "0-0\n1/2\n", "1 1 1 X"])
def test_no_gold(tmp_path, text):
    (tmp_path / "gold").write_text(text)
    with pytest.raises(ValueError, match=r"line \d"):
        read_gold(tmp_path / "gold")


def test_aer():
    rng = np.random.default_rng(2)
    a, sure, possible = (at_random(rng, 40, 4) for _ in range(3))
    A, S, P = (
        {(k, *link) for k in range(40) for link in x[k]} for x in (a, sure, possible)
    )
    expected = 1 - (len(A & S) + len(A & (S | P))) / (len(A) + len(S))
    assert aer(a, Gold(sure, possible)) == pytest.approx(expected, abs=1e-15)
    assert aer(sure, Gold(sure, possible)) == 0
    with pytest.raises(ValueError, match="39 pairs are aligned"):
        aer(a[1:], Gold(sure, possible))
