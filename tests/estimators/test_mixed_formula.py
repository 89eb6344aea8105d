"""Formulas are taken apart as lme4 takes them apart."""

import numpy as np
import pytest

from dask_em.estimators.mixed_formula import FormulaFront, MixedFormula

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")


def parts(text):
    """Response, fixed part, and (effects, group) of every random term."""
    found = MixedFormula.parse(text)
    return (
        found.response,
        found.fixed.replace(" ", ""),
        [(t.effects.replace(" ", ""), t.name) for t in found.random],
    )


@pytest.mark.parametrize(
    ("text", "fixed", "random"),
    [
        ("y ~ x", "x", []),
        ("y ~ 1", "1", []),
        ("y ~ x + (1 | g)", "x", [("1", "g")]),
        ("y ~ x + (x | g)", "x", [("x", "g")]),
        ("y ~ x + (0 + x | g)", "x", [("0+x", "g")]),
        ("y ~ x + (-1 + x | g)", "x", [("-1+x", "g")]),
        ("y ~ 0 + x + (1 | g)", "0+x", [("1", "g")]),
        ("y ~ x - 1 + (1 | g)", "x-1", [("1", "g")]),
        ("y~x+(1|g)", "x", [("1", "g")]),
        ("  y  ~\tx  +  ( 1  |  g )  ", "x", [("1", "g")]),
        # random terms alone, first and in the middle
        ("y ~ (1 | g)", "1", [("1", "g")]),
        ("y ~ (1 | g) + (1 | h)", "1", [("1", "g"), ("1", "h")]),
        ("y ~ (1 | g) + x", "x", [("1", "g")]),
        ("y ~ x + (1 | g) + z", "x+z", [("1", "g")]),
        ("y ~ (1 | g) + x + (1 | h) + z", "x+z", [("1", "g"), ("1", "h")]),
        ("y ~ (1 | g) - 1", "-1", [("1", "g")]),
        # crossed, nested, joined
        ("y ~ x + (1 | g) + (x | h)", "x", [("1", "g"), ("x", "h")]),
        ("y ~ x + (1 | a/b)", "x", [("1", "a"), ("1", "a:b")]),
        ("y ~ (1 | a / b / c)", "1", [("1", "a"), ("1", "a:b"), ("1", "a:b:c")]),
        ("y ~ x + (1 | a:b)", "x", [("1", "a:b")]),
        ("y ~ x + (1 | a : b)", "x", [("1", "a:b")]),
        ("y ~ (x | a/b)", "1", [("x", "a"), ("x", "a:b")]),
        ("y ~ (1 | g) + (0 + x | g)", "1", [("1", "g"), ("0+x", "g")]),
        # parentheses that are no random terms
        ("y ~ I(x - 1) * (a + b) + (1 | g)", "I(x-1)*(a+b)", [("1", "g")]),
        ("y ~ (x + I(x**2) | g)", "1", [("x+I(x**2)", "g")]),
        ("y ~ x + (1 | my.group_2)", "x", [("1", "my.group_2")]),
    ],
)
def test_parts(text, fixed, random):
    assert parts(text) == ("y", fixed, random)


def test_a_transformed_response():
    assert parts("log(y) ~ x + (1 | g)")[0] == "log(y)"


@pytest.mark.parametrize(
    ("text", "random"),
    [
        ("y ~ (x || g)", [("1", "g"), ("0+x", "g")]),
        ("y ~ (1 + x || g)", [("1", "g"), ("0+x", "g")]),
        ("y ~ (0 + x || g)", [("0+x", "g")]),
        ("y ~ (1 || g)", [("1", "g")]),
        ("y ~ (x + z || g)", [("1", "g"), ("0+x", "g"), ("0+z", "g")]),
        (
            "y ~ (x || a/b)",
            [("1", "a"), ("0+x", "a"), ("1", "a:b"), ("0+x", "a:b")],
        ),
    ],
)
def test_two_bars_make_effects_independent(text, random):
    assert parts(text) == ("y", "1", random)


def test_two_bars_warn_of_nothing():
    assert len(MixedFormula.parse("y ~ (x || g)").random) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("y + x", "must have one ~"),
        ("y ~ x ~ z", "must have one ~"),
        ("", "must have one ~"),
        ("~ x + (1 | g)", "has no response"),
        ("y ~ x + (1 | g", "parenthesis that is not closed"),
        ("y ~ x + 1 | g", "put random terms in parentheses"),
        ("y ~ x * (1 | g)", r"must be added with \+"),
        ("y ~ x - (1 | g)", r"must be added with \+"),
        ("y ~ x + (| g)", "must read"),
        ("y ~ x + (1 |)", "must read"),
        ("y ~ x + (1 | g | h)", "must read"),
        ("y ~ x + (1 | g + h)", "must be the name of a column"),
        ("y ~ x + (1 | g/)", "must be the name of a column on both sides"),
        ("y ~ x + (1 | 2g)", "must be the name of a column"),
        ("y ~ x + (1 | f(g))", "must be the name of a column"),
        ("y ~ (1 | g) + (1 | g)", "twice"),
        ("y ~ (1 | g) + ( 1|g )", "twice"),
        ("y ~ (1 | a) + (1 | a/b)", "twice"),
    ],
)
def test_malformed_formulas_get_one_clear_error(text, words):
    with pytest.raises(ValueError, match=words):
        MixedFormula.parse(text)


@pytest.mark.parametrize("text", [None, 3, ["y ~ x"]])
def test_a_formula_is_a_string(text):
    with pytest.raises(TypeError, match="formula must be a string"):
        MixedFormula.parse(text)


# ------------------------------------------------------------------------- encoding

FRAME = pd.DataFrame(
    {
        "y": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "x": [0.5, 1.5, -1.0, 2.0, 0.0, 1.0],
        "kind": ["b", "a", "c", "a", "b", "c"],
        "g": [1, 1, 2, 2, 3, 3],
        "h": ["u", "v", "u", "v", "u", "v"],
    }
)


def learned(text, frame=FRAME):
    levels = {"kind": ["a", "b", "c"]}
    formula = MixedFormula.parse(text)
    if "kind" not in text:
        levels = {}
    return FormulaFront.learn(formula, frame, levels, None, whole=True)


def test_names_and_columns():
    front = learned("y ~ x * kind + (1 + x | g) + (0 + x | h)")
    assert front.names == (
        *("Intercept", "x", "kind[T.b]", "kind[T.c]"),
        *("x:kind[T.b]", "x:kind[T.c]"),
    )
    assert [(f.name, f.columns, f.blocks) for f in front.factors] == [
        ("g", ("Intercept", "x"), (2,)),
        ("h", ("x",), (1,)),
    ]
    rows = front.rows(FRAME)
    np.testing.assert_array_equal(rows.y, FRAME["y"])
    x = FRAME["x"].to_numpy()
    is_b, is_c = ((FRAME["kind"] == k).to_numpy(float) for k in "bc")
    expected = np.column_stack([np.ones(6), x, is_b, is_c, x * is_b, x * is_c])
    np.testing.assert_array_equal(rows.fixed.dense(), expected)
    np.testing.assert_array_equal(
        rows.factors[0].design.dense(), np.column_stack([np.ones(6), x])
    )
    np.testing.assert_array_equal(rows.factors[1].design.dense(), x[:, None])
    np.testing.assert_array_equal(rows.factors[0].labels, FRAME["g"])
    np.testing.assert_array_equal(rows.factors[1].labels, FRAME["h"])


def test_terms_of_one_group_are_blocks_of_one_factor():
    front = learned("y ~ 1 + (0 + x | g) + (1 | g)")
    (factor,) = front.factors
    assert factor.columns == ("Intercept", "x") and factor.blocks == (1, 1)
    design = front.rows(FRAME).factors[0].design.dense()
    np.testing.assert_array_equal(design, np.column_stack([np.ones(6), FRAME["x"]]))


def test_combinations_of_columns_are_groups():
    front = learned("y ~ 1 + (1 | g:h)")
    labels = front.rows(FRAME).factors[0].labels
    assert labels.tolist() == ["1:u", "1:v", "2:u", "2:v", "3:u", "3:v"]


def test_combinations_that_read_alike_are_different_groups():
    """("a:b", "c") is not ("a", "b:c")."""
    frame = FRAME.assign(g=["a:b", "a", "p", "q", "r", "s"])
    frame["h"] = ["c", "b:c", "t", "t", "t", "t"]
    labels = learned("y ~ 1 + (1 | g:h)", frame).rows(frame).factors[0].labels
    assert len(set(labels.tolist())) == 6


def test_rows_with_missing_values_are_left_out():
    frame = FRAME.assign(x=[0.5, np.nan, -1.0, 2.0, 0.0, 1.0])
    frame["h"] = ["u", "v", "u", None, "u", "v"]
    front = learned("y ~ x + (1 | h)", frame)
    np.testing.assert_array_equal(front.rows(frame).y, [1.0, 3.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("y ~ nothing + (1 | g)", "no column 'nothing'"),
        ("y ~ x + (1 | nobody)", "no column 'nobody'"),
        ("kind ~ x + (1 | g)", "must have one"),
        ("y ~ x + (x | g) + (1 | g)", "more than one random term"),
        ("y ~ x + (0 | g)", "has no effects"),
    ],
)
def test_data_that_do_not_fit_a_formula(text, words):
    with pytest.raises(ValueError, match=words):
        learned(text)
