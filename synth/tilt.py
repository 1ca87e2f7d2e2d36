"""Tilt: rows of a model, weighed so that pairs of columns whose dependence it loses come out as they were counted.

A model p that has no room for the dependence of some pairs is taken for q(x) ∝ p(x) · w(x). Log w is a sum of terms,
one for each cell of each of these pairs: of all distributions in which the pairs have given shares that is the one
nearest to p (Csiszár 1975). The terms are found by raking (Deming & Stephan 1940) on rows drawn from p, each term with
a normal prior, so that cells of few rows say little. All that is needed of private rows are counts.

Weights are bounded, so a row of q is a row of p that passed a draw of luck, and so under a condition, unless hardly any
row of it passes. The density of a row of which something is not known is a mean over `CANDIDATES` draws of that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privacy.curator import Floats
from synth.bins import Bins

CELLS, MOST_CELLS = 10, 4000
"""Cells of a column at most, and of all columns together."""

GAP = 0.05
"""What a pair may lose: a correlation, over the best scores of both columns' cells."""

ERRORS = 3
"""Standard errors by which it must lose more than nothing."""

VARIANCE = 0.5
"""Of the prior of a term, which is a log ratio."""

MOST_WEIGHT = 32.0
"""Bound on a row's weight, relative to the mean: at worst so many rows are drawn for each that is kept."""

CANDIDATES = 32
"""Draws over which the density of a row is a mean of which something is not known."""

POOL, POOL_CELLS = 300_000, 20_000_000
"""Rows that the terms are found on, and cells of them, at most."""

ROUNDS, NEAR = 15, 0.002
"""Of raking at most, and the difference of shares at which it ends."""

FEW = 4
"""Drawn rows of a cell below which they do not tell its term."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Values of all columns, joined to few cells.

    Attributes:
        of_value: for each column int64 (B + 1,): the cell of each value; that of unknown is −1.
        above: for each column the one that says whether it is there (state 0: it is not), or −1.
    """

    of_value: tuple[NDArray[np.int64], ...]
    above: tuple[int, ...]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Cells of each column: int64 (C,)."""
        return np.array([cells.max() + 1 for cells in self.of_value])

    def of(self, values: NDArray[np.int64], columns: Sequence[int] | None = None) -> NDArray[np.int8]:
        """Cells of values (n, C), −1 where the column is not there or unknown: int8 (n, len(columns))."""
        chosen = range(len(self.of_value)) if columns is None else columns
        out = np.empty((len(values), len(chosen)), np.int8)
        for i, c in enumerate(chosen):
            out[:, i] = self.of_value[c][values[:, c]]
            if self.above[c] >= 0:
                out[values[:, self.above[c]] == 0, i] = -1
        return out


def cells_of(bins: Sequence[Bins], groups: Sequence[NDArray[np.int64]]) -> Cells:
    """Cells that are unions of groups of values: common states alone, rare ones together, stretches of numbers.

    A stretch of numbers has about a tenth of the rows, or it would have too few.

    Args:
        bins: the columns.
        groups: for each column the group of each value, int64 (B,); groups of bins rise with them.
    """
    most = int(max(2, min(CELLS, MOST_CELLS // len(bins))))
    maps = []
    for b, group in zip(bins, groups, strict=True):
        rates = np.bincount(group, b.rates)
        cell = np.zeros(len(rates), np.int64)
        plain = np.unique(group[: b.plain])
        common = plain[np.argsort(-rates[plain], kind="stable")]
        if b.field.score is None:
            cell[common] = np.minimum(np.arange(len(common)), most - 1)
        else:
            common = common[: most - 1][rates[common[: most - 1]] > 1 / (5 * most)]
            cell[common] = np.arange(len(common))
            rest = np.setdiff1d(np.arange(len(rates)), common)
            share = float(rates[rest].sum())
            room = max(1, min(most - len(common), math.ceil(share * most)))
            place = (np.cumsum(rates[rest]) - rates[rest] / 2) / max(share, 1e-300)
            cell[rest] = len(common) + np.minimum((place * room).astype(np.int64), room - 1)
        cell = np.unique(cell, return_inverse=True)[1]
        maps.append(np.append(cell[group], -1))
    return Cells(of_value=tuple(maps), above=_above(bins))


def _above(bins: Sequence[Bins]) -> tuple[int, ...]:
    return tuple(-1 if b.field.group is None else b.field.group for b in bins)


@dataclass(frozen=True, kw_only=True)
class Tilt:
    """Weights of rows.

    Attributes:
        cells: of the columns.
        pairs: int64 (S, 2): columns.
        terms: for each pair float64 (cells of the first × cells of the second + 1,): log ratios, in row-major order;
            the last is that of rows in which one of the two is not there.
        log_mass: log of the mean weight of p's rows.
        most: bound on a weight, relative to that mean.
    """

    cells: Cells
    pairs: NDArray[np.int64]
    terms: tuple[Floats, ...]
    log_mass: float
    most: float

    def log_weights(self, values: NDArray[np.int64]) -> Floats:
        """Log of each row's weight, at most log `most`; the mean weight of p's rows is 1, about: float64 (n,).

        Args:
            values: int64 (n, C).
        """
        columns = np.unique(self.pairs)
        cells = self.cells.of(values, columns.tolist())
        out = np.zeros(len(values))
        sizes = self.cells.sizes
        for (a, b), terms in zip(np.searchsorted(columns, self.pairs).tolist(), self.terms, strict=True):
            out += terms[_crossed(cells[:, a], cells[:, b], int(sizes[columns[b]]), len(terms))]
        return np.minimum(out - self.log_mass, math.log(self.most))

    def open(self, values: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The rows (n, C) of which something that weights depend on is not known: bool (n,)."""
        out = np.zeros(len(values), bool)
        for c in np.unique(self.pairs).tolist():
            unknown = self.cells.of_value[c][values[:, c]] < 0
            above = self.cells.above[c]
            if above >= 0:
                unknown &= values[:, above] != 0
            out |= unknown
        return out

    def kept(self, values: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Which rows of p are rows of q: bool (n,)."""
        luck = np.log(np.maximum(rng.random(len(values)), 1e-300))
        return np.asarray(luck < self.log_weights(values) - math.log(self.most))

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restored`."""
        columns = np.unique(self.pairs).tolist()
        return {
            "tilt.pairs": torch.from_numpy(self.pairs),
            "tilt.scale": torch.tensor([self.log_mass, self.most], dtype=torch.float64),
            **{f"tilt.cells.{c}": torch.from_numpy(self.cells.of_value[c]) for c in columns},
            **{f"tilt.terms.{s}": torch.from_numpy(terms) for s, terms in enumerate(self.terms)},
        }


def restored(bins: Sequence[Bins], tensors: Mapping[str, Tensor]) -> Tilt | None:
    """A tilt from its tensors; None where there are none."""
    if "tilt.pairs" not in tensors:
        return None
    nothing = [np.full(b.size + 1, -1) for b in bins]
    maps = [
        tensors[f"tilt.cells.{c}"].numpy() if f"tilt.cells.{c}" in tensors else none
        for c, none in enumerate(nothing)
    ]
    pairs = tensors["tilt.pairs"].numpy()
    log_mass, most = tensors["tilt.scale"].tolist()
    return Tilt(
        cells=Cells(of_value=tuple(maps), above=_above(bins)),
        pairs=pairs,
        terms=tuple(tensors[f"tilt.terms.{s}"].numpy() for s in range(len(pairs))),
        log_mass=log_mass,
        most=most,
    )


def learned(
    cells: Cells, shares: Floats, rows: float, draw: Callable[[int], NDArray[np.int64]], *, most: int
) -> Tilt | None:
    """The tilt towards counted pairs of the `most` pairs that a model loses most of; None where it loses none.

    Args:
        cells: of the columns.
        shares: of rows in each cell of each pair, as counted: float64 (cells, cells), all columns' after one another.
        rows: that were counted.
        draw: draws values of rows of the model, int64 (n, C).
        most: pairs.
    """
    columns, sizes = len(cells.of_value), cells.sizes
    size = int(min(POOL, POOL_CELLS // columns))
    pool = np.concatenate([cells.of(draw(min(20_000, size - done))) for done in range(0, size, 20_000)])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    model = _gram(pool, offsets)
    gaps = _gaps(shares, model, offsets, 1 / rows + 1 / size)
    first, second = np.nonzero(np.triu(gaps >= GAP, 1))
    apart = [cells.above[a] != b and cells.above[b] != a for a, b in zip(first, second, strict=True)]
    pairs = np.stack([first, second], 1)[np.array(apart, bool)]
    pairs = pairs[np.argsort(-gaps[pairs[:, 0], pairs[:, 1]], kind="stable")][:most]
    if not len(pairs):
        return None
    places, targets = [], []
    for a, b in pairs.tolist():
        block = np.s_[offsets[a] : offsets[a + 1], offsets[b] : offsets[b + 1]]
        drawn = model[block]
        # A row's worth of what the model has says that no cell is impossible.
        expected = np.outer(drawn.sum(1), drawn.sum(0)) / max(drawn.sum(), 1e-300)
        target = _margins_of(shares[block] + expected / rows, drawn)
        targets.append(np.append(target.ravel(), max(0.0, 1 - drawn.sum())))
        places.append(_crossed(pool[:, a], pool[:, b], int(sizes[b]), target.size + 1))
    terms, log_weights = _raked(places, targets, rows)
    log_mass = float(np.log(np.exp(log_weights - log_weights.max()).mean()) + log_weights.max())
    most_weight = max(1.0, min(MOST_WEIGHT, math.exp(float(log_weights.max()) - log_mass)))
    # The mean of bounded weights is 1, or densities would not add up.
    for _ in range(50):
        log_mass += math.log(np.minimum(np.exp(log_weights - log_mass), most_weight).mean())
    return Tilt(cells=cells, pairs=pairs, terms=terms, log_mass=log_mass, most=most_weight)


def _crossed(first: NDArray[np.int8], second: NDArray[np.int8], width: int, size: int) -> NDArray[np.int64]:
    """Cells of two columns → cell of the pair, the last where one is not there: int64 (n,)."""
    there = (first >= 0) & (second >= 0)
    return np.where(there, first.astype(np.int64) * width + second, size - 1)


def _gram(pool: NDArray[np.int8], offsets: NDArray[np.int64]) -> Floats:
    """Shares of rows (n, C) in each cell of each pair: float64 (cells, cells)."""
    out = torch.zeros(int(offsets[-1]), int(offsets[-1]), dtype=torch.float64)
    for start in range(0, len(pool), 8192):
        part = pool[start : start + 8192]
        hot = torch.zeros(len(part), int(offsets[-1]) + 1)
        # What is not there goes to one more cell, which is left out.
        hot.scatter_(1, torch.from_numpy(np.where(part >= 0, part + offsets[:-1], offsets[-1])), 1.0)
        out += hot[:, :-1].T @ hot[:, :-1]
    return np.asarray(out.numpy() / len(pool))


def _gaps(shares: Floats, model: Floats, offsets: NDArray[np.int64], noise: float) -> Floats:
    """How much of each pair's dependence a model loses: float64 (C, C).

    √ Σ (s − m)² / (rₘ cₘ) over a pair's cells bounds the difference of any correlation between scores of them, and
    so of Cramér's V, the correlation ratio and Spearman's rank correlation. What chance adds to the sum is taken off;
    0 where chance alone may have made it (a sum over independent cells has the variance of a chi-square).
    """
    own = np.diag(model)
    # What the model never draws, no weight can bring back.
    scale = np.where(own > 0, 1 / np.maximum(own, 1e-12), 0.0)
    sums = np.empty((len(offsets) - 1, len(offsets) - 1))
    for c, rows in enumerate(map(slice, offsets[:-1], offsets[1:])):
        terms = (shares[rows] - model[rows]) ** 2 - np.maximum(shares[rows], model[rows]) * noise
        sums[c] = np.add.reduceat(scale[rows] @ terms * scale, offsets[:-1])
    free = np.maximum(np.diff(offsets) - 1, 1)
    chance = ERRORS * np.sqrt(2.0 * np.outer(free, free)) * noise
    return np.sqrt(np.where(sums > chance, sums, 0))


def _margins_of(table: Floats, other: Floats) -> Floats:
    """The table with the margins of another: they stay the model's, its dependence is what was counted."""
    for _ in range(30):
        table = table * (other.sum(1) / np.maximum(table.sum(1), 1e-300))[:, None]
        table = table * (other.sum(0) / np.maximum(table.sum(0), 1e-300))
    return table


def _raked(
    places: Sequence[NDArray[np.int64]], targets: Sequence[Floats], rows: float
) -> tuple[tuple[Floats, ...], Floats]:
    """Terms of each pair, and the log-weight of each row of the pool.

    Each pair's terms in turn maximize Σ target · term − log-mass − term² / (2 · rows · variance), by Newton's steps.
    """
    hold = 1 / (rows * VARIANCE)
    terms = [np.zeros(len(t)) for t in targets]
    log_weights = np.zeros(len(places[0]))
    for _ in range(ROUNDS):
        miss = 0.0
        for s, (place, target) in enumerate(zip(places, targets, strict=True)):
            weights = np.exp(log_weights - log_weights.max())
            now = np.bincount(place, weights, minlength=len(target)) / weights.sum()
            step = np.zeros(len(target))
            for _ in range(20):
                then = now * np.exp(step)
                step += np.clip((target - then - (terms[s] + step) * hold) / (then + hold), -1, 1)
            step[np.bincount(place, minlength=len(target)) < FEW] = 0
            miss = max(miss, float(np.abs(now * (np.exp(step) - 1)).sum()))
            terms[s] += step
            log_weights += step[place]
        if miss < NEAR:
            break
    return tuple(terms), log_weights
