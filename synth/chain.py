"""Chain: rows that have given marginals of all pairs, drawn one column after the other.

Each column is a logistic function of the columns before it, with a term for each value of each of them: of all
conditional distributions that agree with the marginals of a column and each one before it, the one of largest
entropy (Jaynes 1957; for a last column that is ordinary logistic regression). It is found from the marginals and the
rows drawn so far, a convex problem, so no row of a table is needed, and no Markov chain has to mix.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synth.draws import rowwise

RAKED = 5
"""Times that a column's own rates are put right at the end, which the search leaves to the last."""

Joint = Callable[[int, int], Tensor]
"""Two variables → their joint probabilities, float32 (cells, cells)."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One column of the chain.

    Attributes:
        rates: probability of each cell, float32 (cells,).
        there: the variable whose cell 1 says that this column is there at all, and before which it cannot stand;
            in other rows it takes its last cell. None for a column that always is.
    """

    rates: Tensor
    there: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """How strongly a term is held to 0: a normal prior of variance `variance` on it, against noise in its cell.

    Attributes:
        noise: standard deviation of a probability.
        least: probability below which all cells are held alike.
        variance: of the prior.
    """

    noise: float
    least: float
    variance: float = 1.0

    def of(self, cells: Tensor) -> Tensor:
        """λ of each cell: the marginal of the fit is that of the rows − λ × term, which is what noise explains."""
        return self.noise**2 / (self.variance * cells.clamp_min(self.least))


def drawn(
    variables: Sequence[Variable],
    joint: Joint,
    order: Sequence[int],
    *,
    rows: int,
    ridge: Ridge,
    steps: int,
    rng: np.random.Generator,
) -> Tensor:
    """Cells of new rows: int64 (rows, C).

    Args:
        variables: the columns.
        joint: of each two of them.
        order: in which they are drawn; a column stands after the one that says whether it is there.
        rows: how many.
        ridge: what keeps terms from following noise.
        steps: of the search for the terms of a column.
        rng: the only source of randomness.
    """
    cells = torch.zeros(rows, len(variables), dtype=torch.int64)
    before = torch.zeros(rows, 0)
    for place, c in enumerate(order):
        variable = variables[c]
        size = len(variable.rates)
        there = torch.ones(rows, dtype=torch.bool)
        values = size
        if variable.there is not None:
            there, values = cells[:, variable.there] == 1, size - 1
            cells[:, c] = values
        rates = variable.rates[:values]
        whole = float(rates.sum())
        if place == 0:
            cells[:, c] = _thrown(rng, (rates / whole).expand(rows, -1))
        elif there.any():
            target = torch.cat([joint(a, c)[:, :values] for a in order[:place]]) / whole
            design = before if bool(there.all()) else before[there]
            p = _conditional(design, target, rates / whole, ridge, steps, place)
            cells[there, c] = _thrown(rng, p)
        before = torch.cat([before, torch.nn.functional.one_hot(cells[:, c], size).float()], 1)
    return cells


def _thrown(rng: np.random.Generator, p: Tensor) -> Tensor:
    """One draw from each row of probabilities: int64 (n,)."""
    return torch.from_numpy(rowwise(rng, p.numpy()))


def _conditional(
    design: Tensor, target: Tensor, rates: Tensor, ridge: Ridge, steps: int, columns: int
) -> Tensor:
    """Probabilities of a column's cells in each row: float32 (n, B).

    Minimizes mean log Σ exp(b + W x) − ⟨W, target⟩ − ⟨b, rates⟩ + ½ Σ λ W² by Nesterov's accelerated gradient,
    scaled by the diagonal of the curvature, begun anew where the value rises (O'Donoghue & Candès 2012, arXiv
    1204.3982).

    Args:
        design: one-hot cells of the columns before it, float32 (n, S).
        target: joint probabilities of these and of the column, float32 (S, B).
        rates: of the column's cells, float32 (B,).
        ridge: gives λ.
        steps: of the search.
        columns: number of columns before it, so many terms add up in a row.
    """
    own = design.mean(0)[:, None]
    # The rows drawn so far have rates of their own; what is matched is how the column depends on them.
    target = target + (own - target.sum(1, keepdim=True)) * rates
    hold = ridge.of((target + own * rates) / 2)
    curvature = 0.5 * columns * (own * rates * (1 - rates)).clamp_min(1e-6) + hold
    curvature_b = (rates * (1 - rates)).clamp_min(1e-6)
    W = ahead_W = torch.zeros_like(target)
    b = ahead_b = rates.clamp_min(1e-9).log()
    pace, momentum, last = 1.0, 1.0, math.inf
    for _ in range(steps):
        log_p = torch.addmm(ahead_b, design, ahead_W)
        whole = log_p.logsumexp(1, keepdim=True)
        value = float(whole.mean() - (ahead_W * (target - 0.5 * hold * ahead_W)).sum() - ahead_b @ rates)
        if value > last + 1e-7:
            ahead_W, ahead_b, momentum, pace, last = W, b, 1.0, 0.7 * pace, math.inf
            continue
        p = (log_p - whole).exp()
        last = value
        new_W = ahead_W - pace * (design.T @ p / len(design) - target + hold * ahead_W) / curvature
        new_b = ahead_b - pace * (p.mean(0) - rates) / curvature_b
        grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead_W = new_W + (momentum - 1) / grown * (new_W - W)
        ahead_b = new_b + (momentum - 1) / grown * (new_b - b)
        W, b, momentum = new_W, new_b, grown
    p = torch.addmm(b, design, W).softmax(1)
    # What has no rate has none in the end, whatever the search has left it.
    for _ in range(RAKED):
        p = p * (rates / p.mean(0).clamp_min(1e-12))
        p = p / p.sum(1, keepdim=True).clamp_min(1e-30)
    return p
