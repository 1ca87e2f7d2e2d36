"""Regression: linear and logistic, with the standard errors that a researcher would print beside each coefficient.

Standard errors are those of the information matrix: σ² (XᵀX)⁻¹ with σ² = RSS / (n − p), and (XᵀWX)⁻¹ at the maximum
of the likelihood. They hold where rows are independent, and for linear models where errors are alike everywhere.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kind = Literal["linear", "logistic"]

ALIASED = 1e-9
"""Share of a column's square that others must leave unexplained, or it says nothing of its own."""

STEPS, CLOSE = 40, 1e-9
"""Steps of Newton's method at most, and how little the likelihood still rises, in parts of a row, where it ends."""

VAGUE = 50.0
"""Standard error of a logistic coefficient, of a column with standard deviation 1, from which on it is not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """Coefficients, float64 (p,), and their covariance, float64 (p, p); NaN where the rows do not tell."""

    values: Floats
    covariance: Floats

    @property
    def errors(self) -> Floats:
        """Standard errors, float64 (p,)."""
        return np.sqrt(np.diag(self.covariance))


LARGEST = 1e100
"""Values beyond this overflow where they are multiplied; rows that have one tell nothing."""


def fit(kind: Kind, x: Floats, y: Floats) -> Fit | None:
    """One regression.

    A column that follows from those before it, and in a logistic regression one of two values that one class has only,
    has no coefficient: it is left out as R leaves it out, so that the others have theirs.

    Args:
        kind: linear, or logistic with y in {0, 1}.
        x: float64 (n, p), the first column all 1.
        y: float64 (n,).

    Returns:
        None where there are too few rows, y follows exactly from x, or no maximum of the likelihood exists.
    """
    if len(y) <= x.shape[1] or np.ptp(y) == 0 or not max(np.abs(x).max(), np.abs(y).max()) < LARGEST:
        return None
    able = independent(x)
    if kind == "logistic":
        able &= ~_separated(x, y)
        able &= independent(np.where(able, x, 0.0))
    found = _linear(x[:, able], y) if kind == "linear" else _logistic(x[:, able], y)
    if found is None:
        return None
    values, covariance = np.full(x.shape[1], np.nan), np.full((x.shape[1],) * 2, np.nan)
    values[able], covariance[np.ix_(able, able)] = found
    # Where a class ends at a value, the likelihood of some coefficients rises for ever, ever more slowly.
    if kind == "logistic":
        vague = np.sqrt(np.diag(covariance)) * x.std(axis=0) > VAGUE
        values[vague], covariance[vague], covariance[:, vague] = np.nan, np.nan, np.nan
    return Fit(values=values, covariance=covariance)


def independent(x: Floats) -> npt.NDArray[np.bool_]:
    """Which columns do not follow from those before them: bool (p,)."""
    gram = x.T @ x
    size = np.sqrt(np.diag(gram))
    gram = gram / np.outer(np.where(size > 0, size, 1.0), np.where(size > 0, size, 1.0))
    kept: list[int] = []
    for j in range(x.shape[1]):
        left = float(gram[j, j])
        if kept:
            left -= float(gram[kept, j] @ np.linalg.solve(gram[np.ix_(kept, kept)], gram[kept, j]))
        if left > ALIASED:
            kept.append(j)
    out = np.zeros(x.shape[1], np.bool_)
    out[kept] = True
    return out


def cells(x: Floats, y: Floats) -> npt.NDArray[np.int64]:
    """Rows that each coefficient rests on, int64 (p,).

    Of a mark, 0 or 1, the fewest that are on one side of it and, where y is of two classes, in one class; of other
    columns all rows, or those of the rarer class.
    """
    marks = np.isin(x, (0.0, 1.0)).all(axis=0)
    classes = [y == 0, y == 1] if np.isin(y, (0.0, 1.0)).all() else [np.ones(len(y), np.bool_)]
    whole = min(int(c.sum()) for c in classes)
    of_mark = np.min([[x[c].sum(axis=0), (1 - x[c]).sum(axis=0)] for c in classes], axis=(0, 1))
    constant = np.ptp(x, axis=0) == 0 if len(x) else marks
    return np.where(marks & ~constant, of_mark, whole).astype(np.int64)


def _separated(x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
    """Marks that one class has only, so that their coefficient is infinite."""
    found: npt.NDArray[np.bool_] = cells(x, y) == 0
    return found


def _linear(x: Floats, y: Floats) -> tuple[Floats, Floats] | None:
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ (x.T @ y)
    # Once more on what is left over: the inverse of a badly conditioned matrix loses digits.
    beta = np.asarray(beta + inverse @ (x.T @ (y - x @ beta)), np.float64)
    rest = float(((y - x @ beta) ** 2).sum())
    if rest <= 1e-12 * float(((y - y.mean()) ** 2).sum()):
        return None
    variance = rest / (len(y) - x.shape[1])
    return beta, np.asarray(variance * inverse, np.float64)


def _logistic(x: Floats, y: Floats) -> tuple[Floats, Floats] | None:
    """Newton's method with halved steps; None where the likelihood has no maximum."""
    beta = np.zeros(x.shape[1])
    best = _log_likelihood(x @ beta, y)
    for _ in range(STEPS):
        p = _sigmoid(x @ beta)
        information = x.T @ (x * (p * (1 - p))[:, None])
        try:
            step = np.linalg.solve(information, x.T @ (y - p))
        except np.linalg.LinAlgError:
            return None
        now = _log_likelihood(x @ (beta + step), y)
        while not now >= best - CLOSE and np.abs(step).max() > 1e-12:
            step = step / 2
            now = _log_likelihood(x @ (beta + step), y)
        beta, gained, best = beta + step, now - best, now
        if gained < CLOSE:
            break
    else:
        return None
    p = _sigmoid(x @ beta)
    weights = p * (1 - p)
    # Where all rows are told for certain the likelihood rises for ever, however slowly.
    if weights.max() < 1e-6 or np.abs(x @ beta).max() > 500:
        return None
    inverse = np.linalg.inv(x.T @ (x * weights[:, None]))
    return beta, np.asarray(inverse, np.float64)


def _sigmoid(score: Floats) -> Floats:
    out: Floats = 0.5 * (1 + np.tanh(score / 2))
    return out


def _log_likelihood(score: Floats, y: Floats) -> float:
    return float((y * score - np.logaddexp(0.0, score)).sum())
