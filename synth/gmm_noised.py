"""How a mixture of columns is learned where every answer carries noise: a start from counts of pairs, then few passes.

A pass of expectation maximization needs rows, so each must be paid, and from a start that knows single columns alone it
takes dozens until components mean something. So the curator is asked, in this order:

1. the counts of all pairs of columns, as `marginals` asks for them. A mixture over the columns' cells is fitted to
   them, at no further charge; a number of components that the noise of one count allows. That is the start.
2. a few times, for each component the rows in each cell of each column: the sums of the E step. A row is divided among
   components and lies in one cell of each column, so its vector is no longer than √(1 + columns), whatever it holds.
   In the M step the mixture is fitted anew, to both: the counts of pairs, and these sums. What pairs say of a
   component is blurred, what sums say is noisy in each cell; together they leave less of both.

The profile's rates of columns hold it as they hold the mixture of `marginals`, and its prior is the same. In the end
cells become states and scores: a component's scores have the mean and the variance that its bins give them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from privacy.curator import Answer, Batch, Curator, Floats
from synth import marginals
from synth.bins import Axis
from synth.codec import Layout
from synth.gmm import PAIRS, PASSES, MomentsOfBatch, Options, Parameters
from synth.marginals import Mixture, asked

CLEAR_ROWS = 1.0
"""Rows of a component at least, on average, in standard deviations of the noise of a pair's count."""

FEWEST_ROWS = 20
"""Rows of a component at least, on average, however little noise there is."""

STEPS = 40
"""Of the search in each M step."""


def fit_with_pairs(curator: Curator, layout: Layout, options: Options, *, seed: int) -> Parameters:
    """Learns as many components as noise allows to tell apart, two at least. All of the budget is spent.

    Args:
        curator: over encoded rows.
        layout: the encoded columns.
        options: the number of components, or the most, and the least width of a score.
        seed: of the start.
    """
    rows = max(layout.rows, 1.0)
    chosen = marginals.Options.model_validate({})
    generator = torch.Generator().manual_seed(seed)
    axes, measured = asked(curator, layout, chosen, generator, seed=seed, part=PAIRS)
    clear = int(min(1 / (CLEAR_ROWS * max(measured.noise, 1 / rows)), rows / FEWEST_ROWS))
    number = options.components or min(options.max_components, clear)
    mixture = Mixture(layout, axes, number, generator)
    mixture.fit(measured, chosen.steps, chosen.entropy)
    for _ in range(PASSES):
        with torch.no_grad():
            told = Cells(axes, *mixture.tables())
        answer = curator.sum(told, share=(1 - PAIRS) / PASSES)
        mixture.fit(measured, STEPS, chosen.entropy, _Counted(told, answer, rows).misfit)
    with torch.no_grad():
        weights, tables = mixture.tables()
    return _parameters(layout, axes, weights, tables, options.min_std)


class Cells:
    """The sums of the E step over cells: each component's rows, and those in each cell of each column.

    A row adds r ⊗ (1, one-hot cells), r its posterior, so its norm is ‖r‖ · √(1 + known columns) ≤ √(1 + columns).

    Args:
        axes: the columns.
        weights: of the components, float32 (K,).
        tables: for each column, and perhaps for more, the probability of its cells, float32 (K, cells).
    """

    def __init__(self, axes: Sequence[Axis], weights: Tensor, tables: Sequence[Tensor]) -> None:
        self._axes = axes
        self.sizes = tuple(a.size for a in axes)
        self.components = len(weights)
        self.size = self.components * (1 + sum(self.sizes))
        self.bound = math.sqrt(1 + len(axes))
        self._offsets = torch.from_numpy(np.cumsum([0, *self.sizes]))
        logs = torch.cat(list(tables[: len(axes)]), 1).clamp_min(1e-12).log().T
        # The last row stands for "unknown" and adds nothing.
        self._tables = torch.cat([logs, torch.zeros(1, self.components)])
        self._weights = weights.clamp_min(1e-30).log()

    def of(self, batch: Batch) -> MomentsOfBatch:
        """What these rows add."""
        cells = torch.from_numpy(np.stack([a.of(batch) for a in self._axes]))
        places = torch.where(cells < 0, self._offsets[-1], cells + self._offsets[:-1, None]).T
        joint = torch.nn.functional.embedding_bag(places.contiguous(), self._tables, mode="sum")
        posterior = (joint + self._weights).softmax(1)
        return MomentsOfBatch(posterior, cells, posterior.new_zeros(len(posterior), 0), self.sizes)


class _Counted:
    """How far a mixture is from what an E step was told.

    Args:
        told: what was asked.
        answer: in rows.
        rows: of the table.
    """

    def __init__(self, told: Cells, answer: Answer, rows: float) -> None:
        sums = torch.from_numpy(answer.value / rows).float().reshape(-1, told.components)
        self._parts = [part.T for part in torch.split(sums, [1, *told.sizes])]
        std = marginals.believed(answer.noise_std, rows / told.components)
        self._precision = (rows / std) ** 2

    def misfit(self, weights: Tensor, tables: Sequence[Tensor]) -> Tensor:
        """Half the squared errors over their variance."""
        found = [torch.ones_like(weights)[:, None], *tables]
        errors = [
            ((weights[:, None] * f - part) ** 2).sum() for f, part in zip(found, self._parts, strict=True)
        ]
        return 0.5 * self._precision * torch.stack(errors).sum()


def _parameters(
    layout: Layout, axes: Sequence[Axis], weights: Tensor, tables: Sequence[Tensor], min_std: float
) -> Parameters:
    """Components over states and scores.

    Args:
        layout: the encoded columns.
        axes: their cells.
        weights: float32 (K,).
        tables: for each axis, then for each group of columns, the probability of its cells, float32 (K, cells).
        min_std: least standard deviation of a score.
    """
    number = len(weights)
    states = np.zeros((layout.states, number))
    means, variances = np.zeros((2, len(layout.scored), number))
    for axis, table in zip(axes, tables, strict=False):
        field, bins, first = axis.bins.field, axis.bins, int(layout.offsets[axis.column])
        values = axis.spread(_where_there(axis, table.double().numpy().T))
        states[first : first + bins.plain] = values[: bins.plain]
        if field.score is None:
            continue
        held = values[bins.plain :].sum(0)
        states[first + bins.plain] = held
        # A component without scores has those of the column.
        own = np.where(
            held > 0, values[bins.plain :] / np.maximum(held, 1e-300), np.diff(bins.places)[:, None]
        )
        mean, square = (moment @ own for moment in bins.moments)
        means[field.score], variances[field.score] = mean, square - mean**2
    for group, table in zip(
        sorted({a.group for a in axes if a.group is not None}), tables[len(axes) :], strict=True
    ):
        first = int(layout.offsets[group])
        states[first : first + 2] = table.double().numpy().T
    return Parameters(
        log_weights=weights.clamp_min(1e-30).log(),
        log_tables=torch.from_numpy(np.log(np.maximum(states, 1e-12))).float(),
        means=torch.from_numpy(means).float(),
        stds=torch.from_numpy(np.sqrt(np.maximum(variances, min_std**2))).float(),
    )


def _where_there(axis: Axis, table: Floats) -> Floats:
    """Probability of a column's values' cells in rows that have its group, (cells, K); usual ones where none has."""
    own = table[: axis.values]
    held, usual = own.sum(0), axis.rates[: axis.values, None]
    return np.where(held > 0, own / np.maximum(held, 1e-300), usual / max(float(usual.sum()), 1e-300))
