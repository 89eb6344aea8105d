"""Tables of a fitted mixed model, and tests between two of them."""

from __future__ import annotations

import dataclasses
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from .linear_mixed import LinearMixedModel

__all__ = ["LikelihoodRatio", "Summary", "compare"]


@dataclasses.dataclass(frozen=True)
class LikelihoodRatio:
    """Outcome of a likelihood ratio test.

    Attributes
    ----------
    statistic : float
        Twice the difference of the log-likelihoods.
    df : int
        Difference of the numbers of parameters.
    p_value : float
        From the chi-squared distribution with `df` degrees of freedom; too large by
        up to a factor of two for a variance, which is at the border of what is
        possible if it is zero (Self and Liang, 1987).
    """

    statistic: float
    df: int
    p_value: float


def compare(one: LinearMixedModel, other: LinearMixedModel) -> LikelihoodRatio:
    """Test the smaller of two nested models against the larger.

    Raises
    ------
    ValueError
        If the models are of different data, have equally many parameters, or are
        fitted by restricted likelihoods that cannot be compared.
    """
    small, large = sorted((one, other), key=lambda model: model.n_parameters_)
    if one.n_obs_ != other.n_obs_:
        raise ValueError(
            f"the models are of {one.n_obs_:g} and {other.n_obs_:g} observations; fit "
            "both to the same rows."
        )
    if one.method_ != other.method_:
        raise ValueError("fit both models by the same method, 'ml' or 'reml'.")
    if one.method_ == "reml" and not np.array_equal(
        one.fixed_names_, other.fixed_names_
    ):
        raise ValueError(
            "restricted likelihoods of models with different fixed effects cannot be "
            "compared; fit both with method='ml'."
        )
    df = large.n_parameters_ - small.n_parameters_
    if df == 0:
        raise ValueError(
            f"both models have {small.n_parameters_} parameters; compare their aic_."
        )
    statistic = max(2 * (large.log_likelihood_ - small.log_likelihood_), 0.0)
    return LikelihoodRatio(statistic, df, float(stats.chi2.sf(statistic, df)))


class Summary:
    """What `LinearMixedModel.summary` returns: readable as text and as HTML.

    Parameters
    ----------
    model : LinearMixedModel
        Fitted.
    """

    def __init__(self, model: LinearMixedModel) -> None:
        method = "REML" if model.method_ == "reml" else "maximum likelihood"
        self.title = f"Linear mixed model fit by {method}"
        self.head = {
            "Formula": model.formula or "(arrays)",
            "Observations": f"{model.n_obs_:.10g}",
            "Groups": ", ".join(f"{k}: {n}" for k, n in model.n_groups_.items()) or "-",
            "REML criterion" if model.method_ == "reml" else "Deviance": (
                f"{model.deviance_:.4f}"
            ),
            "Log-likelihood": f"{model.log_likelihood_:.4f}",
            "AIC": f"{model.aic_:.4f}",
            "BIC": f"{model.bic_:.4f}",
            "Status": model.result_.status,
        }
        self.random = _random_rows(model)
        self.fixed = _fixed_rows(model)

    def __str__(self) -> str:
        """Return it as text."""
        wide = max(map(len, self.head))
        lines = [self.title, "", *(f"{k:<{wide}}  {v}" for k, v in self.head.items())]
        lines += ["", "Random effects:", *_aligned(self.random)]
        lines += ["", "Fixed effects:", *_aligned(self.fixed)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(
            f"<tr><th style='text-align:left'>{escape(k)}</th>"
            f"<td style='text-align:left'>{escape(v)}</td></tr>"
            for k, v in self.head.items()
        )
        return (
            f"<h4>{escape(self.title)}</h4><table>{head}</table>"
            f"<h5>Random effects</h5>{_table(self.random)}"
            f"<h5>Fixed effects</h5>{_table(self.fixed)}"
        )


def _random_rows(model: LinearMixedModel) -> list[list[str]]:
    rows = [["Group", "Effect", "Variance", "Std. dev.", "Correlation"]]
    for name, cov in model.covariance_.items():
        sd = np.sqrt(np.diag(cov))
        for k, effect in enumerate(model.effects_[name]):
            with np.errstate(invalid="ignore", divide="ignore"):
                correlations = cov[k, :k] / (sd[k] * sd[:k])
            shown = " ".join("" if c == 0 else f"{c:6.3f}" for c in correlations)
            first = name if k == 0 else ""
            rows.append([first, effect, f"{cov[k, k]:.6g}", f"{sd[k]:.6g}", shown])
    s2 = model.sigma2_
    rows.append(["Residual", "", f"{s2:.6g}", f"{np.sqrt(s2):.6g}", ""])
    return rows


def _fixed_rows(model: LinearMixedModel) -> list[list[str]]:
    rows = [["", "Estimate", "Std. error", "z", "P>|z|", "[0.025", "0.975]"]]
    inference = model.inference()
    for name, *values in zip(model.fixed_names_, *inference.values(), strict=True):
        estimate, error, z, p, low, high = values
        rows.append(
            [
                str(name),
                *(f"{v:.6g}" for v in (estimate, error)),
                f"{z:.3f}",
                "<0.001" if p < 5e-4 else f"{p:.3f}",
                *(f"{v:.6g}" for v in (low, high)),
            ]
        )
    return rows


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    left = 2 if rows[0][0] == "Group" else 1
    return [
        "  ".join(
            f"{cell:<{w}}" if k < left else f"{cell:>{w}}"
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _table(rows: list[list[str]]) -> str:
    def line(cells: list[Any], tag: str) -> str:
        return "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows[1:])
    return f"<table><tr>{line(rows[0], 'th')}</tr>{body}</table>"
