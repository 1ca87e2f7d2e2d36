"""Expectation maximization on sums that are asked of a curator, and the choice of a size.

One loop serves every model that learns by sums. It follows Cappé & Moulines 2009 (arXiv 0712.4273): where an
answer covers only a part of the rows, the running moments move by a step that shrinks; a full answer makes it
the ordinary algorithm of Dempster, Laird & Rubin 1977.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from privacy.curator import Batch, Curator, Floats, Split, Statistic
from synth.codec import Encoded

P = TypeVar("P")

STEP_ROWS = 1024
"""Rows of a step where an exact curator allows a part: many small steps find better optima than few large."""


def maximize_likelihood(
    curator: Curator,
    start: P,
    moments: Callable[[P], Statistic],
    maximize: Callable[[Floats], P],
    *,
    rows: float,
    entries: int,
    visits: float,
    split: Split,
) -> P:
    """Runs the algorithm from `start`.

    Args:
        curator: over encoded rows.
        start: the first parameters.
        moments: the statistic of the E step under given parameters.
        maximize: moments per row → parameters.
        rows: number of rows of the split, about.
        entries: values of all columns together; a step covers no fewer rows, or it would spend its time on
            the parameters rather than on rows.
        visits: rows that may be looked at in all passes together.
        split: what is learned from.
    """
    parameters = start
    hint = int(max(STEP_ROWS, rows / 256, entries))
    steps = max(4, math.ceil(visits / min(hint, rows)))
    running: Floats | None = None
    for step in range(steps):
        answer = curator.sum(moments(parameters), split=split, rows_hint=hint)
        covered = max(1.0, rows * answer.part)
        pace = max(answer.part, (step + 2.0) ** -0.6)
        current = answer.value / covered
        running = current if running is None else (1 - pace) * running + pace * current
        parameters = maximize(running)
    return parameters


def best_size(
    sizes: Sequence[int], fit: Callable[[int], P], likelihood: Callable[[P], Statistic], curator: Curator
) -> int:
    """The size whose trial fit gives rows that it has not seen the highest likelihood; sizes rise.

    The search ends at the first size that is not better than the one before.
    """
    best, best_value = sizes[0], -math.inf
    for size in sizes if len(sizes) > 1 else ():
        value = float(curator.sum(likelihood(fit(size)), split="select").value[0])
        if value <= best_value:
            break
        best, best_value = size, value
    return best


class LogLikelihood:
    """Σ log p(row). A row counts within ± `bound` only."""

    size = 1

    def __init__(self, log_prob: Callable[[Encoded], Floats], columns: int) -> None:
        self._log_prob = log_prob
        self.bound = 20.0 * columns

    def of(self, batch: Batch) -> "_Values":
        """What these rows add."""
        return _Values(np.clip(self._log_prob(encoded_of(batch)), -self.bound, self.bound))


class _Values:
    def __init__(self, values: Floats) -> None:
        self._values = values

    def norms(self) -> Floats:
        return np.abs(self._values)

    def weighted(self, weights: Floats | None) -> Floats:
        return np.array([self._values.sum() if weights is None else self._values @ weights])


def encoded_of(batch: Batch) -> Encoded:
    """The encoded rows of a curator's batch."""
    return Encoded(
        states=np.asarray(batch.columns["states"], np.int32),
        scores=np.asarray(batch.columns["scores"], np.float32),
    )


def simplex(rates: Floats) -> Floats:
    """Rates that make exactly 1; equal ones where all are 0."""
    total = rates.sum()
    return rates / total if total > 0 else np.full(len(rates), 1 / len(rates))


def grouped(index: Tensor, values: Tensor, size: int) -> Tensor:
    """Σ of the rows of `values` that share an index.

    Args:
        index: int64 (n,) in [0, size).
        values: float32 (n, K).
        size: number of groups.

    Returns:
        float32 (size, K).
    """
    if size <= 512:
        hot = torch.zeros(len(index), size).scatter_(1, index[:, None], 1.0)
        return hot.T @ values
    return torch.zeros(size, values.shape[1]).index_add_(0, index, values)
