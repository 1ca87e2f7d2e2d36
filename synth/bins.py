"""Bins: columns as values of finite number, for models that are discrete.

A column's values are its states, with "spread" cut into bins of its score; inside a bin a score is drawn as the
column's own distribution has it there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from privacy.curator import Batch, Floats
from synth.codec import UNKNOWN, Encoded, Field, Layout
from synth.em import simplex

_EDGE = 1e-6


class Bins:
    """The values of one column: its states before "spread", then bins of its score.

    Args:
        field: the column.
        cuts: scores between the bins, float64, rising; of no meaning for a column without scores.
    """

    def __init__(self, field: Field, cuts: Floats) -> None:
        scored = field.score is not None
        self.field = field
        self.cuts = cuts
        self.plain = field.states - scored
        self.size = self.plain + (len(cuts) + 1 if scored else 0)
        self.places = ndtr(np.concatenate([[-np.inf], cuts, [np.inf]]))
        spread = field.rates[-1] * np.diff(self.places) if scored else np.empty(0)
        self.rates = simplex(np.concatenate([field.rates[: self.plain], spread]))

    def of(self, states: NDArray[np.int32], scores: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """The value of each row: int64 (n,), `size` for unknown."""
        values = states.astype(np.int64)
        if scores is not None:
            values = np.where(values == self.plain, self.plain + np.searchsorted(self.cuts, scores), values)
        return np.where(states == UNKNOWN, self.size, values)

    def draw(
        self, values: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """A state and a score for each value; scores are standard normal inside their bin."""
        states = np.minimum(values, self.plain).astype(np.int32)
        scores = np.zeros(len(values), np.float32)
        spread = np.flatnonzero(values >= self.plain)
        if len(spread):
            bin_of = values[spread] - self.plain
            low, high = self.places[bin_of], self.places[bin_of + 1]
            u = low + rng.random(len(bin_of)) * (high - low)
            scores[spread] = ndtri(np.clip(u, _EDGE, 1 - _EDGE))
        return states, scores

    @cached_property
    def moments(self) -> tuple[Floats, Floats]:
        """Mean of the scores in each bin, and of their squares: float64 (bins,) both."""
        ends = np.concatenate([[-np.inf], self.cuts, [np.inf]])
        height = np.exp(-0.5 * ends**2) / math.sqrt(2 * math.pi)
        width = np.maximum(np.diff(self.places), 1e-300)
        edges = np.where(np.isfinite(ends), ends, 0.0) * height
        return -np.diff(height) / width, 1 - np.diff(edges) / width

    def log_density(self, values: NDArray[np.int64], scores: NDArray[np.float32]) -> Floats:
        """Log-density of the scores inside their bins: float64 (n,), 0 for other values."""
        out = np.zeros(len(values))
        spread = (values >= self.plain) & (values < self.size)
        bin_of = values[spread] - self.plain
        width = self.places[bin_of + 1] - self.places[bin_of]
        x = scores[spread].astype(np.float64)
        out[spread] = -0.5 * x**2 - 0.5 * math.log(2 * math.pi) - np.log(np.maximum(width, 1e-300))
        return out


class Axis:
    """One column of a marginal: its values, of which the rare ones share a cell.

    A column of a group that is missing together has one more cell, the last, for the rows that lack the group.

    Args:
        column: index of the field in the layout.
        bins: its values.
        absent: share of the rows that lack its group; None for a column of no group.
        least: rate below which a value that is no bin has no cell of its own.
    """

    def __init__(self, column: int, bins: Bins, *, absent: float | None, least: float) -> None:
        self.column, self.bins = column, bins
        self.group = bins.field.group
        rare = (bins.rates < least) & (np.arange(bins.size) < bins.plain)
        cells = np.cumsum(~rare) - 1
        if rare.sum() > 1:
            cells[rare] = cells[-1] + 1
        else:
            cells = np.arange(bins.size)
        self._cells = cells
        self.values = int(cells.max()) + 1
        self.size = self.values + (absent is not None)
        there = 1.0 if absent is None else 1 - absent
        rates = np.bincount(cells, bins.rates, minlength=self.values) * there
        self.rates = rates if absent is None else np.append(rates, absent)
        # Unknown is the last cell of a column of a group, and elsewhere no cell.
        self._of_value = np.append(cells, -1 if absent is None else self.values)
        self._order = np.argsort(cells, kind="stable")
        self._line = np.cumsum(bins.rates[self._order])

    def of(self, batch: Batch) -> NDArray[np.int64]:
        """The cell of each row: int64 (n,) in [−1, size)."""
        states, score = np.asarray(batch.columns["states"], np.int32), self.bins.field.score
        scores = None if score is None else np.asarray(batch.columns["scores"], np.float32)[:, score]
        return np.asarray(self._of_value[self.bins.of(states[:, self.column], scores)], np.int64)

    def spread(self, cells: Floats) -> Floats:
        """Probability of each value, (values, …), by that of each cell, (cells, …), and the column's own rates."""
        held = np.bincount(self._cells, self.bins.rates, minlength=self.values)
        even = 1 / np.bincount(self._cells, minlength=self.values)
        own = np.where(held > 0, 1 / np.maximum(held, 1e-300), 0.0)[self._cells] * self.bins.rates
        own = np.where(held[self._cells] > 0, own, even[self._cells])
        return np.asarray(cells[self._cells] * own.reshape(-1, *[1] * (cells.ndim - 1)))

    def draw(self, cells: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A value in each cell, by the column's own rates: int64 (n,)."""
        ends = np.searchsorted(self._cells[self._order], np.arange(self.values), side="right")
        line = np.concatenate([[0.0], self._line])
        low, high = line[np.concatenate([[0], ends[:-1]])], line[ends]
        luck = low[cells] + rng.random(len(cells)) * (high - low)[cells]
        first = np.concatenate([[0], ends[:-1]])[cells]
        at = np.searchsorted(self._line, luck, side="right")
        return np.asarray(self._order[np.clip(at, first, ends[cells] - 1)], np.int64)


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """A marginal of encoded rows: the cells of some columns, crossed. A row that is in no cell of one is in none."""

    axes: tuple[Axis, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of a batch."""
        return ("states", "scores")

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each column."""
        return tuple(a.size for a in self.axes)

    def cell(self, batch: Batch) -> NDArray[np.int64]:
        """The cell of each row: int64 (n,)."""
        flat, known = np.zeros(len(batch), np.int64), np.ones(len(batch), np.bool_)
        for axis in self.axes:
            own = axis.of(batch)
            flat, known = flat * axis.size + own, known & (own >= 0)
        return np.where(known, flat, -1)


def cuts(field: Field, most: int) -> Floats:
    """Scores that cut a column into at most `most` bins of about equal rates; values stay whole."""
    if field.score is None:
        return np.empty(0)
    return cuts_along(field, most) if field.whole else np.asarray(ndtri(np.arange(1, most) / most))


def cuts_along(field: Field, most: int) -> Floats:
    """Scores that cut a column into at most `most` bins between cells, of which the smallest are joined first."""
    places = ndtr(np.array(field.borders, np.float64))
    places = np.unique(np.concatenate([[0.0], places[(places > _EDGE) & (places < 1 - _EDGE)], [1.0]]))
    rates = list(np.diff(places))
    kept = list(places[1:-1])
    while len(rates) > most:
        at = int(np.argmin(np.add(rates[:-1], rates[1:])))
        rates[at : at + 2] = [rates[at] + rates[at + 1]]
        del kept[at]
    return np.asarray(ndtri(np.array(kept, np.float64)))


def bins_of(layout: Layout, most: int) -> list[Bins]:
    """The bins of all columns: not more than the rows can fill with a hundred each."""
    allowed = int(max(8, min(most, layout.rows / 100)))
    return [Bins(f, cuts(f, allowed)) for f in layout.fields]


def values_of(bins: Sequence[Bins], encoded: Encoded) -> Tensor:
    """int64 (n, C)."""
    columns = []
    for c, b in enumerate(bins):
        scores = None if b.field.score is None else encoded.scores[:, b.field.score]
        columns.append(b.of(encoded.states[:, c], scores))
    return torch.from_numpy(np.stack(columns, 1))


def log_densities(bins: Sequence[Bins], values: Tensor, encoded: Encoded) -> Floats:
    """Σ over the scores of each row of their log-density inside their bins: float64 (n,).

    Args:
        bins: the columns.
        values: their values, int64 (n, C).
        encoded: the rows.
    """
    total = np.zeros(len(encoded))
    for c, b in enumerate(bins):
        if b.field.score is not None:
            total += b.log_density(values[:, c].numpy(), encoded.scores[:, b.field.score])
    return total


def cuts_of(bins: Sequence[Bins]) -> dict[str, Tensor]:
    """What must be stored of bins; the inverse is `bins_from`."""
    return {f"cuts.{c}": torch.from_numpy(b.cuts) for c, b in enumerate(bins)}


def bins_from(layout: Layout, tensors: Mapping[str, Tensor]) -> list[Bins]:
    """The bins of all columns from what was stored."""
    return [Bins(f, tensors[f"cuts.{c}"].numpy()) for c, f in enumerate(layout.fields)]
