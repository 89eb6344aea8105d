"""Formulas of mixed models: ``rating ~ genre + pop + (1 + genre | user)``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..grouping.rows import Columns, Factor, Grouped, Rows, plain_labels

__all__ = ["FormulaFront", "MixedFormula", "RandomTerm"]


#: A name of a column, in backticks where it has unusual characters.
_NAME = r"`[^`]+`|[^\W\d][\w.]*"


@dataclasses.dataclass(frozen=True)
class RandomTerm:
    """One random term, ``(effects | group)``.

    Parameters
    ----------
    effects : str
        What varies from group to group; as in R, an intercept is part of it unless
        it says 0 or -1.
    group : tuple of str
        Columns whose combinations are the groups.
    """

    effects: str
    group: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the grouping factor."""
        return ":".join(self.group)


@dataclasses.dataclass(frozen=True)
class MixedFormula:
    """A formula taken apart.

    Parameters
    ----------
    response : str
    fixed : str
    random : tuple of RandomTerm

    Examples
    --------
    >>> from dask_em.estimators.mixed_formula import MixedFormula
    >>> formula = MixedFormula.parse("y ~ x + (1 + x || school/class)")
    >>> formula.fixed
    'x'
    >>> [term.name for term in formula.random]
    ['school', 'school', 'school:class', 'school:class']
    >>> [term.effects for term in formula.random]
    ['1', '0 + x', '1', '0 + x']
    """

    response: str
    fixed: str
    random: tuple[RandomTerm, ...]

    @classmethod
    def parse(cls, text: str) -> MixedFormula:
        """Take a formula apart.

        Raises
        ------
        ValueError
            If it has no response, or a random term is malformed.
        """
        if not isinstance(text, str):
            raise TypeError(f"formula must be a string, got {text!r}.")
        if text.count("~") != 1:
            raise ValueError(
                f"formula={text!r} must have one ~ between the response and the "
                "effects, as in 'y ~ x + (1 | group)'."
            )
        response, right = (side.strip() for side in text.split("~"))
        if not response:
            raise ValueError(f"formula={text!r} has no response on the left of ~.")
        fixed, found = _without_random(right, text)
        random = [term for inner in found for term in _random_terms(inner, text)]
        known: set[tuple[str, str]] = set()
        for term in random:
            key = (re.sub(r"\s", "", term.effects), term.name)
            if key in known:
                raise ValueError(
                    f"formula={text!r} has the random term ({term.effects} | "
                    f"{term.name}) twice; leave one out."
                )
            known.add(key)
        return cls(response, fixed or "1", tuple(random))


def _without_random(right: str, text: str) -> tuple[str, list[str]]:
    """Take the random terms, in parentheses with a bar, out of a right-hand side."""
    found = []
    kept = ""
    i = 0
    masked = _masked(right)
    while i < len(right):
        if masked[i] != "(":
            kept += right[i]
            i += 1
            continue
        end = _closing(masked, i, text)
        inner = right[i + 1 : end]
        if not _bars(masked[i + 1 : end]):
            kept += right[i : end + 1]
            i = end + 1
            continue
        before = kept.rstrip()
        if before and before[-1] != "+":
            raise ValueError(
                f"formula={text!r}: a random term must be added with +, but "
                f"({inner}) follows {before[-1]!r}."
            )
        kept = before[:-1].rstrip() if before else ""
        found.append(inner)
        i = end + 1
        if not kept:  # the sign after a random term that comes first
            rest = right[i:].lstrip()
            if rest.startswith("+"):
                i = len(right) - len(rest) + 1
    if "|" in _masked(kept):
        raise ValueError(
            f"formula={text!r}: put random terms in parentheses, as in (1 | group)."
        )
    return kept.strip(), found


def _masked(text: str) -> str:
    """Return text of the same length in which names in backticks say nothing."""
    return re.sub(r"`[^`]*`", lambda match: "_" * len(match[0]), text)


def _closing(text: str, start: int, formula: str) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"formula={formula!r} has a parenthesis that is not closed.")


def _bars(inner: str) -> bool:
    """Whether there is a bar outside of all parentheses."""
    depth = 0
    for letter in inner:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            return True
    return False


def _random_terms(inner: str, text: str) -> list[RandomTerm]:
    """Return the random terms that the inside of a parenthesis stands for."""
    effects, bar, group = (part.strip() for part in inner.partition("|"))
    independent = group.startswith("|")
    group = group.lstrip("|").strip()
    if not bar or not effects or not group or "|" in group:
        raise ValueError(
            f"formula={text!r}: the random term ({inner}) must read (effects | group) "
            "or (effects || group)."
        )
    groups: list[tuple[str, ...]] = []
    nested: tuple[str, ...] = ()
    for part in re.findall(r"(?:`[^`]*`|[^/`])+", group):
        names = [name.strip() for name in re.findall(r"(?:`[^`]*`|[^:`])+", part)]
        if not names or not all(re.fullmatch(_NAME, name) for name in names):
            raise ValueError(
                f"formula={text!r}: {group!r} must be the name of a column, or names "
                "joined by : or /; put names with other characters in backticks."
            )
        nested = (*nested, *(name.strip("`") for name in names))
        groups.append(nested)
    if len(groups) != 1 + _masked(group).count("/"):
        raise ValueError(
            f"formula={text!r}: there must be the name of a column on both sides of "
            f"/ in {group!r}."
        )
    parts = _independent(effects) if independent else [effects]
    return [RandomTerm(part, names) for names in groups for part in parts]


def _independent(effects: str) -> list[str]:
    """Return effects that are not correlated, each as a term of its own, as in R."""
    formula = _formula(effects)
    parts = []
    for term in formula:
        name = str(term)
        parts.append("1" if name == "1" else f"0 + {name}")
    return parts


def _formula(text: str) -> Any:
    try:
        import formulaic
    except ImportError as error:
        raise ImportError(
            "formulas need the package formulaic; install dask_em[formula], or give "
            "arrays: fit(X, y, groups=...)."
        ) from error
    try:
        return formulaic.Formula(text)
    except formulaic.errors.FormulaicError as error:
        raise ValueError(
            f"the formula {text!r} is malformed: {str(error).splitlines()[0]}"
        ) from error


@dataclasses.dataclass(frozen=True)
class FormulaFront:
    """How frames become rows, learned from the data that a model is fitted to.

    Parameters
    ----------
    formula : MixedFormula
    response, fixed : formulaic.ModelSpec
    random : tuple of formulaic.ModelSpec
        By term.
    factors : tuple of Factor
    members : tuple of tuple of int
        Terms of every factor.
    levels : mapping
        Categories of columns that are not numbers.
    weights : str or None
        Column of weights.
    columns : tuple of str
        All columns that are looked at.
    """

    formula: MixedFormula
    response: Any
    fixed: Any
    random: tuple[Any, ...]
    factors: tuple[Factor, ...]
    members: tuple[tuple[int, ...], ...]
    levels: Mapping[str, Any]
    weights: str | None
    columns: tuple[str, ...]

    @classmethod
    def learn(
        cls,
        formula: MixedFormula,
        frame: Any,
        levels: Mapping[str, Any],
        weights: str | None,
        *,
        whole: bool,
    ) -> FormulaFront:
        """Learn how to encode columns.

        Parameters
        ----------
        formula : MixedFormula
        frame : pandas.DataFrame
            All rows, or some.
        levels : mapping
            Categories, where the frame may not have all of them.
        weights : str or None
        whole : bool
            Whether the frame is all there is.

        Raises
        ------
        ValueError
            For columns that are missing, or transformations that would have to see
            all rows first.
        """
        wanted = needed(formula, weights, frame.columns)
        frame = _typed(frame[wanted].dropna(), levels)
        if not len(frame):
            raise ValueError(
                "there is no row without missing values in the columns of the formula."
            )
        parts = [formula.response, formula.fixed, *(t.effects for t in formula.random)]
        matrices = [
            _matrix(_formula(part if i else f"0 + {part}"), frame, part)
            for i, part in enumerate(parts)
        ]
        specs = [matrix.model_spec for matrix in matrices]
        learned = sorted({name for s in specs for name in s.transform_state})
        if learned and not whole:
            raise ValueError(
                f"{', '.join(learned)} must see all rows before the first one can be "
                "encoded; compute that column beforehand, or fit to a frame in memory."
            )
        if matrices[0].shape[1] != 1:
            raise ValueError(
                f"the response {formula.response!r} has {matrices[0].shape[1]} columns "
                "and must have one: it must be a number."
            )
        names: dict[str, list[int]] = {}
        for k, term in enumerate(formula.random):
            names.setdefault(term.name, []).append(k)
        factors, members = [], []
        for name, terms in names.items():
            # an intercept comes first: it is not stored
            terms.sort(key=lambda k: "Intercept" not in matrices[2 + k].columns)
            columns = [tuple(map(str, matrices[2 + k].columns)) for k in terms]
            flat = tuple(c for some in columns for c in some)
            twice = sorted({c for c in flat if flat.count(c) > 1})
            if twice:
                raise ValueError(
                    f"{', '.join(twice)} varies by {name!r} in more than one random "
                    "term; write (0 + x | group) for a slope without an intercept."
                )
            if not flat:
                raise ValueError(f"the random term of {name!r} has no effects.")
            factors.append(Factor(name, flat, tuple(map(len, columns))))
            members.append(tuple(terms))
        return cls(
            formula,
            specs[0],
            specs[1],
            tuple(specs[2:]),
            tuple(factors),
            tuple(members),
            dict(levels),
            weights,
            tuple(wanted),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return tuple(map(str, self.fixed.column_names))

    def kept(self, frame: Any, *, response: bool = True, groups: Any = ()) -> Any:
        """Return which rows have no missing values.

        Parameters
        ----------
        frame : pandas.DataFrame
        response : bool, default=True
            Whether the response and the weights count; groups do, too, then.
        groups : sequence of str
            Of the factors that count without a response.
        """
        wanted = set(self.columns)
        if not response:
            parts = [self.formula.fixed]
            for factor, terms in zip(self.factors, self.members, strict=True):
                if factor.name in groups:
                    parts += [self.formula.random[k].effects for k in terms]
            bare = MixedFormula("1", " + ".join(parts), ())
            wanted = set(needed(bare, None, self._mentioned(frame, " + ".join(parts))))
            for term in self.formula.random:
                wanted |= set(term.group) if term.name in groups else set()
        columns = [c for c in frame.columns if str(c) in wanted]
        return frame[columns].notna().all(axis=1).to_numpy()

    def _mentioned(self, frame: Any, text: str) -> list[str]:
        """Return the frame's columns, after checking that those in a text are there."""
        there = list(map(str, frame.columns))
        words = {a or b for a, b, _ in re.findall(_WORD, text)}
        missing = sorted((words & set(self.columns)) - set(there))
        if missing:
            raise ValueError(
                f"the data have no column {', '.join(map(repr, missing))}, which the "
                "formula asks for."
            )
        return there

    def known_factors(self, frame: Any) -> list[str]:
        """Return the factors whose columns a frame has."""
        there = set(map(str, frame.columns))
        return [
            factor.name
            for factor, terms in zip(self.factors, self.members, strict=True)
            if set(self.formula.random[terms[0]].group) <= there
        ]

    def rows(
        self,
        frame: Any,
        *,
        response: bool = True,
        groups: Sequence[str] | None = None,
    ) -> Rows:
        """Encode a frame, leaving out rows with missing values.

        Parameters
        ----------
        frame : pandas.DataFrame
        response : bool, default=True
            Whether there is one; else it is zero.
        groups : sequence of str, optional
            Factors that are wanted; all of them by default.
        """
        if groups is None:
            groups = [factor.name for factor in self.factors]
        keep = self.kept(frame, response=response, groups=groups)
        if not keep.all():
            frame = frame[keep]
        frame = _typed(frame, self.levels)
        fixed = _columns(self.fixed, frame, self.formula.fixed)
        y = np.zeros(len(frame))
        weights = None
        if response:
            y = _columns(self.response, frame, self.formula.response).array[:, 0]
            if self.weights is not None:
                weights = frame[self.weights].to_numpy(dtype=np.float64)
        grouped = []
        for factor, terms in zip(self.factors, self.members, strict=True):
            if factor.name not in groups:
                continue
            designs = [
                _columns(self.random[k], frame, self.formula.random[k].effects)
                for k in terms
            ]
            if len(designs) > 1:
                stack = np.hstack([design.array for design in designs])
                designs = [Columns(stack, designs[0].ones)]
            labels = _labels(frame, self.formula.random[terms[0]].group, factor.name)
            grouped.append(Grouped(labels, designs[0]))
        return Rows(y, fixed, tuple(grouped), weights)


def needed(formula: MixedFormula, weights: str | None, columns: Any) -> list[str]:
    """Return the columns that a formula mentions, sorted.

    Parameters
    ----------
    formula : MixedFormula
    weights : str or None
    columns : sequence of str
        Of the data.

    Raises
    ------
    ValueError
        For columns that are not there, or there twice.
    """
    parts = [formula.response, formula.fixed, *(t.effects for t in formula.random)]
    there = [str(name) for name in columns]
    wanted: set[str] = {name for term in formula.random for name in term.group}
    wanted |= set() if weights is None else {weights}
    functions: set[str] = set()
    for part in parts:
        wanted |= {str(v) for v in getattr(_formula(part), "required_variables", ())}
        # a name that formulaic takes for a transformation of its own may be a column,
        # and what it transforms is not among its variables
        for quoted, name, call in re.findall(_WORD, part):
            functions |= {name} if call else set()
            if (quoted or name) in there and not (call and name not in wanted):
                wanted.add(quoted or name)
    missing = sorted(wanted - set(there))
    unknown = [name for name in missing if name in functions]
    if unknown:
        raise ValueError(
            f"the formula calls {unknown[0]}(), which is neither a transformation of "
            f"formulaic nor a column; for a function of NumPy write np.{unknown[0]}()."
        )
    if missing:
        raise ValueError(
            f"the data have no column {', '.join(map(repr, missing))}, which the "
            "formula asks for."
        )
    twice = sorted(name for name in wanted if there.count(name) > 1)
    if twice:
        raise ValueError(
            f"the data have the column {', '.join(map(repr, twice))} more than once; "
            "rename or drop one of them."
        )
    return sorted(wanted)


#: A name in backticks, or a word, and whether a parenthesis follows it.
_WORD = r"`([^`]+)`|(?<![\w.`])([^\W\d]\w*)(?:[\w.]*)(\s*\()?"


def _typed(frame: Any, levels: Mapping[str, Any]) -> Any:
    """Give columns all of their categories.

    Raises
    ------
    ValueError
        For categories that are not among them.
    """
    import pandas

    changes = {}
    for name, known in levels.items():
        if name not in frame.columns:
            continue
        codes = pandas.Index(known, dtype=object).get_indexer(
            frame[name].astype(object)
        )
        strange = (codes < 0) & frame[name].notna().to_numpy()
        if strange.any():
            value = frame[name][strange].iloc[0]
            raise ValueError(
                f"{name!r} has the category {value!r}, which did not occur in the data "
                "that the model was fitted to; leave those rows out."
            )
        changes[name] = pandas.Categorical.from_codes(codes, categories=known)
    return frame.assign(**changes) if changes else frame


def _matrix(formula: Any, frame: Any, part: str) -> Any:
    """Evaluate (part of) a formula, with its errors in one sentence."""
    import formulaic

    try:
        return formula.get_model_matrix(frame, na_action="raise")
    except formulaic.errors.FormulaicError as error:
        raise ValueError(
            f"{part!r} cannot be evaluated: {str(error).splitlines()[0]}"
        ) from error


def _columns(spec: Any, frame: Any, part: str) -> Columns:
    matrix = _matrix(spec, frame, part)
    values = matrix.to_numpy(dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError(
            f"{part!r} has categories that did not occur in the data that the model "
            "was fitted to, or is not a number somewhere; leave those rows out."
        )
    ones = bool(len(matrix.columns)) and matrix.columns[0] == "Intercept"
    return Columns(values[:, int(ones) :], ones)


def _labels(frame: Any, group: tuple[str, ...], name: str) -> Any:
    """Return the groups of rows; combinations of several columns are strings."""
    parts = [plain_labels(np.asarray(frame[column]), name) for column in group]
    if len(parts) == 1:
        return parts[0]
    joined = np.array("")
    for k, part in enumerate(parts):
        text = part.astype(str)
        # no two combinations look the same, whatever the other rows are
        if any((np.char.find(text, mark) >= 0).any() for mark in ":\\"):
            text = np.char.replace(np.char.replace(text, "\\", "\\\\"), ":", "\\:")
        joined = np.char.add(np.char.add(joined, ":"), text) if k else text
    return joined
