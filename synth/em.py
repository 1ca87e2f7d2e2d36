"""Expectation maximization on sums that are asked of a curator, and the choice of a size.

One loop serves every model that learns by sums. It follows Cappé & Moulines 2009 (arXiv 0712.4273): where an
answer covers only a part of the rows, the running moments move by a step that shrinks; a full answer makes it
the ordinary algorithm of Dempster, Laird & Rubin 1977.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from privacy.curator import Batch, Curator, Floats, Held, Split, Statistic
from synth.codec import Encoded

P = TypeVar("P")

FEWEST_STEPS = 150
"""Steps of a fit of a small table, whose passes are short."""

FEWEST_PASSES = 2

MOST_CELLS = 20_000_000
"""Cells that all passes together look at, where that makes `FEWEST_PASSES` at least."""

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
    effort: float,
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
        effort: share of all this that is spent; trial fits spend less.
        split: what is learned from.
    """
    parameters = start
    hint = int(max(STEP_ROWS, rows / 256, entries))
    steps = math.ceil(effort * max(FEWEST_STEPS, visits / min(hint, rows)))
    running: Floats | None = None
    for step in range(steps):
        answer = curator.sum(moments(parameters), split=split, rows_hint=hint)
        covered = max(1.0, rows * answer.part)
        pace = max(answer.part, (step + 2.0) ** -0.6)
        current = answer.value / covered
        running = current if running is None else (1 - pace) * running + pace * current
        parameters = maximize(running)
    return parameters


def visits_of(rows: float, columns: int, passes: int) -> float:
    """Rows that a fit looks at in all its passes: very many rows, and wide ones, say the same with fewer passes."""
    return max(FEWEST_PASSES * rows, min(passes * rows, MOST_CELLS / columns))


def best_size(
    sizes: Sequence[int],
    fit: Callable[[int], P],
    log_prob: Callable[[P], Callable[[Encoded], Floats]],
    curator: Curator,
    *,
    columns: int,
) -> int:
    """The largest size whose trial fit is not measurably worse on rows that it has not seen; sizes rise.

    Worse means: by more than one standard error of the mean difference of the rows' log-likelihoods. Between
    equals the larger fits finer dependence.

    Args:
        sizes: candidates, rising.
        fit: a size → parameters, learned from the split "fit".
        log_prob: parameters → log-likelihood of rows.
        curator: over encoded rows.
        columns: number of columns, which bounds what a row may count.
    """
    if len(sizes) == 1:
        return sizes[0]
    best = fit(sizes[0])
    for smaller, size in itertools.pairwise(sizes):
        challenger = fit(size)
        if loses(curator, log_prob(best), log_prob(challenger), columns=columns):
            return smaller
        best = challenger
    return sizes[-1]


def loses(
    curator: Curator,
    champion: Callable[[Encoded], Floats],
    challenger: Callable[[Encoded], Floats],
    *,
    columns: int,
) -> bool:
    """Whether the second model's log-likelihood of unseen rows is below the first's, by more than a standard error."""
    gain, squares, rows = curator.sum(Contest(champion, challenger, columns), split="select").value
    mean = gain / max(rows, 1.0)
    error = math.sqrt(max(squares / max(rows, 1.0) - mean**2, 0.0) / max(rows, 1.0))
    return bool(mean < -error)


class Contest:
    """Σ of (d, d², 1) over rows, with d the gain in log-likelihood of one model over another.

    A row counts within ± 5 per column only, which bounds its vector.
    """

    size = 3

    def __init__(
        self, champion: Callable[[Encoded], Floats], challenger: Callable[[Encoded], Floats], columns: int
    ) -> None:
        self._champion, self._challenger = champion, challenger
        self._most = 5.0 * columns
        self.bound = math.sqrt(self._most**2 + self._most**4 + 1)

    def of(self, batch: Batch) -> Held:
        """What these rows add."""
        rows = encoded_of(batch)
        gains = np.clip(self._challenger(rows) - self._champion(rows), -self._most, self._most)
        return Held(np.stack([gains, gains**2, np.ones(len(gains))], 1))


def encoded_of(batch: Batch) -> Encoded:
    """The encoded rows of a curator's batch."""
    pixels = batch.columns.get("pixels")
    return Encoded(
        # Copies: batches may be read-only maps of files, which torch does not take.
        states=np.array(batch.columns["states"], np.int32),
        scores=np.array(batch.columns["scores"], np.float32),
        pixels=None if pixels is None else np.array(pixels),
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


def slices(rows: int, size: int = 8192) -> list[slice]:
    """Stretches of at most `size` rows that cover all rows in their order; an empty one where there are none."""
    return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]
