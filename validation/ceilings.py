"""Ceilings: how much what held-out rows score hangs on which rows were held out.

A grouped jackknife (Quenouille 1956, Tukey 1958): each of some groups of held-out rows is left out once, and how far
the figures then lie apart tells the standard error. All figures are computed for all groups at once, from counts.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from validation.associations import told
from validation.cells import WIDE, Cells, Codes, Floats

GROUPS = 20
"""Groups of held-out rows."""

FEWEST = 100
"""Held-out rows, or units where rows have units, without which there is no standard error."""


_BINS = 10
"""Bins of a number beside a category, as SDMetrics has them."""


class Groups:
    """Rows of one side in groups, of which each is left out once; none of them: the rows as they are.

    What a method returns has a first axis of all rows, then all but the first group, and so on.
    """

    def __init__(self, place: Codes, count: int) -> None:
        """`place`, int64 (rows,), is the group of each row; `count` is the number of groups."""
        self._place = place
        self._count = count

    @classmethod
    def none(cls, rows: int) -> "Groups":
        """Rows as they are."""
        return cls(np.zeros(rows, np.int64), 0)

    @classmethod
    def drawn(cls, rows: int, units: npt.NDArray[np.uint64] | None, *, seed: int) -> "Groups":
        """Rows in groups, those of one unit in the same; as they are where there are too few."""
        own = np.arange(rows) if units is None else np.unique(units, return_inverse=True)[1]
        most = int(own.max(initial=-1)) + 1
        if most < FEWEST:
            return cls.none(rows)
        dealt = np.random.default_rng(seed).permutation(most) % GROUPS
        return cls(dealt[own].astype(np.int64), GROUPS)

    def of(self, rows: npt.NDArray[Any]) -> "Groups":
        """Of some rows, by their numbers or by a mark for each."""
        return Groups(self._place[rows], self._count)

    def sums(self, codes: Codes, size: int, weights: Floats | None = None) -> Floats:
        """Rows of each code, or their weights: float64 (1 + groups, size)."""
        if not self._count:
            return np.atleast_2d(np.bincount(codes, weights, size)).astype(np.float64)
        own = np.bincount(self._place * size + codes, weights, self._count * size).reshape(self._count, size)
        whole = own.sum(axis=0)
        return np.concatenate([whole[None, :], whole[None, :] - own])

    def shares(self, codes: Codes, size: int) -> Floats:
        """Share of the rows that have each code, float64 (1 + groups, size)."""
        counts = self.sums(codes, size)
        found: Floats = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return found

    def least(self, values: Floats) -> Floats:
        """The least value of each line: (lines, rows) → float64 (1 + groups, lines)."""
        if not self._count:
            alone: Floats = np.min(values, axis=1, initial=np.inf)[None, :]
            return alone
        own = np.stack([values[:, self._place == g].min(axis=1, initial=np.inf) for g in range(self._count)])
        without = [np.delete(own, g, axis=0).min(axis=0) for g in range(self._count)]
        least: Floats = np.stack([own.min(axis=0), *without])
        return least

    def parts(self) -> Iterator[npt.NDArray[np.bool_]]:
        """Marks of the rows that stay: all, then all but each group."""
        yield np.ones(len(self._place), np.bool_)
        for group in range(self._count):
            yield self._place != group


def shares(codes: Codes, size: int) -> Floats:
    """Share of rows without groups that have each code: float64 (1, size)."""
    return Groups.none(len(codes)).shares(codes, size)


def error(figures: Floats) -> float | None:
    """The standard error of a figure that was computed for all rows and without each group, float64 (1 + groups,)."""
    without = figures[1:]
    if not len(without) or not np.isfinite(without).all():
        return None
    count = len(without)
    return float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))


def overlap(first: Floats, second: Floats) -> Floats:
    """1 less the total variation of shares, over the last axis."""
    kept: Floats = 1 - np.abs(first - second).sum(axis=-1) / 2
    return kept


def cumulated(train: Floats, values: Floats, groups: Groups) -> tuple[Floats, Floats, Floats]:
    """Where two samples of numbers step, and their distribution functions there.

    Args:
        train: of the training rows, (n,).
        values: of a side, (m,).
        groups: of its rows.

    Returns:
        the values that occur, ascending, float64 (k,), and the shares of either up to each: (1, k), (1 + groups, k).
    """
    steps, place = np.unique(np.concatenate([train, values]), return_inverse=True)
    own, theirs = np.split(place, [len(train)])
    first = shares(own, len(steps))
    return steps, first.cumsum(axis=1), groups.shares(theirs, len(steps)).cumsum(axis=1)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Standard errors of what held-out rows score; None where there are too few.

    Attributes:
        shape: of the table's column shapes.
        trend: of its pair trends.
        shapes: of each column's shape, by its number.
    """

    shape: float | None
    trend: float | None
    shapes: dict[int, float | None]


def errors(
    learned: Sequence[Cells], shapes: Iterable[int], pairs: Iterable[tuple[int, int]], groups: Groups
) -> Errors:
    """Standard errors of the ceilings of shapes and trends.

    The scores themselves are SDMetrics'. Here they are computed the same way, so that twenty reports need not be made,
    but for categories beyond the commonest and what SDMetrics draws of more than 50,000 rows.

    Args:
        learned: the columns.
        shapes: numbers of those that have a shape.
        pairs: numbers of two columns that have a trend.
        groups: of the held-out rows.
    """
    alone = {i: _shape(learned[i], groups) for i in shapes}

    # Pairs are of groups of columns, so that few columns are held at a time.
    @functools.lru_cache(maxsize=WIDE)
    def coded(i: int) -> _Coded:
        return _codes(learned[i], groups)

    @functools.lru_cache(maxsize=WIDE)
    def numbers(i: int) -> tuple[Floats, Floats]:
        return _standard(learned[i].numbers or {})

    together = [
        _correlated(numbers(i), numbers(j), groups)
        if learned[i].numbers is not None and learned[j].numbers is not None
        else _counted(coded(i), coded(j), groups)
        for i, j in pairs
    ]
    known = {i: error(f) if _present(learned[i]) >= FEWEST else None for i, f in alone.items()}
    return Errors(shape=_of_mean(list(alone.values())), trend=_of_mean(together), shapes=known)


def _of_mean(figures: list[Floats]) -> float | None:
    return error(np.mean(figures, axis=0)) if figures else None


def _present(cells: Cells) -> int:
    """Held-out rows that have a value."""
    return int((cells.codes["holdout"] >= 0).sum())


def _shape(cells: Cells, groups: Groups) -> Floats:
    """1 less Kolmogorov and Smirnov's distance, or less the total variation: (1 + groups,)."""
    if cells.numbers is None:
        there = {s: cells.codes[s] >= 0 for s in ("train", "holdout")}
        train, holdout = (cells.codes[s][there[s]] for s in ("train", "holdout"))
        first = shares(train, len(cells.values))
        return overlap(first, groups.of(there["holdout"]).shares(holdout, len(cells.values)))
    present = {s: ~np.isnan(cells.numbers[s]) for s in ("train", "holdout")}
    own, theirs = (cells.numbers[s][present[s]] for s in ("train", "holdout"))
    _, first, second = cumulated(own, theirs, groups.of(present["holdout"]))
    kept: Floats = 1 - np.abs(first - second).max(axis=1)
    return kept


@dataclass(frozen=True, kw_only=True, eq=False)
class _Coded:
    """A column as SDMetrics counts pairs with it.

    Attributes:
        train: of the training rows, (n,); 0 is the first value.
        holdout: of the held-out rows, (m,), or where bins hang on which rows there are (1 + groups, m).
        size: how many there are.
    """

    train: npt.NDArray[np.integer[Any]]
    holdout: npt.NDArray[np.integer[Any]]
    size: int

    def held(self, at: int) -> npt.NDArray[np.integer[Any]]:
        return self.holdout if self.holdout.ndim == 1 else self.holdout[at]


def _codes(cells: Cells, groups: Groups) -> _Coded:
    """Categories as far as pairs tell them apart, and ten bins of a number between the ends of each side by itself.

    Bins that differ by side are SDMetrics' (0.32), so one row far out moves a score, and with it its error.
    """
    if cells.numbers is None:
        train, holdout = (told(cells, side) + 1 for side in ("train", "holdout"))
        return _Coded(
            train=train, holdout=holdout, size=int(max(train.max(initial=0), holdout.max(initial=0))) + 1
        )
    own, theirs = (cells.numbers[s] for s in ("train", "holdout"))
    binned = np.stack([_binned(theirs, stays) for stays in groups.parts()])
    return _Coded(train=_binned(own, np.ones(len(own), np.bool_)), holdout=binned, size=_BINS + 2)


def _binned(values: Floats, stays: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    present = values[stays & ~np.isnan(values)]
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(present.min(), present.max(), _BINS + 1) if len(present) else np.zeros(1)
    if not np.isfinite(edges).all():
        return np.zeros(len(values), np.int8)
    return np.digitize(values, edges).astype(np.int8)


def _counted(first: _Coded, second: _Coded, groups: Groups) -> Floats:
    size = first.size * second.size
    train = _both(first.train, second.train, second.size)
    own = shares(train, size)
    if first.holdout.ndim == second.holdout.ndim == 1:
        return overlap(own, groups.shares(_both(first.holdout, second.holdout, second.size), size))
    kept = []
    for at, stays in enumerate(groups.parts()):
        there = _both(first.held(at)[stays], second.held(at)[stays], second.size)
        kept.append(overlap(own, shares(there, size)))
    return np.concatenate(kept)


def _both(first: npt.NDArray[np.integer[Any]], second: npt.NDArray[np.integer[Any]], wide: int) -> Codes:
    return first.astype(np.int64) * wide + second


def _standard(numbers: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Numbers of training and held-out rows in standard deviations of the training rows."""
    train, holdout = (numbers[s] for s in ("train", "holdout"))
    present = train[~np.isnan(train)]
    with np.errstate(over="ignore", invalid="ignore"):
        middle, spread = (present.mean(), present.std() or 1.0) if len(present) else (0.0, 1.0)
        return (train - middle) / spread, (holdout - middle) / spread


def _correlated(first: tuple[Floats, Floats], second: tuple[Floats, Floats], groups: Groups) -> Floats:
    """1 less half of how far the correlations lie apart."""
    (own_a, theirs_a), (own_b, theirs_b) = first, second
    real, held = np.isfinite(own_a) & np.isfinite(own_b), np.isfinite(theirs_a) & np.isfinite(theirs_b)
    own = _correlation(own_a[real], own_b[real], Groups.none(int(real.sum())))
    theirs = _correlation(theirs_a[held], theirs_b[held], groups.of(held))
    kept: Floats = 1 - np.abs(own - theirs) / 2
    return kept


def _correlation(a: Floats, b: Floats, groups: Groups) -> Floats:
    """Pearson's, (1 + groups,); 0 where a column is constant."""
    nothing = np.zeros(len(a), np.int64)
    n, x, y, xx, yy, xy = (
        groups.sums(nothing, 1, w)[:, 0] for w in (np.ones(len(a)), a, b, a * a, b * b, a * b)
    )
    n = np.maximum(n, 1)
    spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    together = xy / n - x / n * y / n
    known: Floats = np.divide(together, spread, out=np.zeros_like(together), where=spread > 1e-12)
    return known
