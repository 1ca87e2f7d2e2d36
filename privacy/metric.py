"""Metric: rows of a mixed table as points, and who is nearest to whom, exactly.

Distances are taken on a grid of integers that float32 holds exactly, so that neither the number of threads nor
the order of a sum moves a figure, and products of matrices do the work.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]
Floats = NDArray[np.float64]
Points = NDArray[np.float32]
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]

ATTRIBUTES = 256
"""Attributes that distances see at most; of a wider table, as many are drawn."""

FEATURES = 512
"""Features that the categories of a table share: each column has so many buckets for them, at least two."""

TAIL = 0.01
"""Share of the numbers at either end that does not count for the scale of a column."""

_CHUNK = 8_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Rows as arrays.

    Attributes:
        codes: int32 (n, A): categories; equal codes are equal values on all sides, −1 is missing.
        numbers: float64 (n, B): numbers and times; NaN is missing.
    """

    codes: Codes
    numbers: Floats

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.numbers.ndim != 2 or len(self.codes) != len(self.numbers):
            raise ValueError(
                "records must be two matrices of as many rows, however: their shapes are "
                f"{self.codes.shape} and {self.numbers.shape}"
            )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def attributes(self) -> int:
        """Columns of both kinds."""
        return int(self.codes.shape[1] + self.numbers.shape[1])

    def take(self, rows: Places) -> "Records":
        """Some of the rows, in this order."""
        return Records(codes=self.codes[rows], numbers=self.numbers[rows])

    def values(self) -> Floats:
        """Categories and numbers alike, float64 (n, A + B): NaN is missing, −0 is 0."""
        return np.concatenate([np.where(self.codes < 0, np.nan, self.codes), self.numbers + 0.0], axis=1)

    def draw(self, rng: np.random.Generator, most: int) -> "Records":
        """At most so many rows in random order; which ones does not depend on the order that they had."""
        columns = [*self.codes.T, *(self.numbers + 0.0).T]
        order = np.lexsort(columns) if columns else np.arange(len(self))
        return self.take(order[rng.permutation(len(self))[:most]])


class Metric:
    """Rows as points: a number on the scale of its column, a category as a corner of a simplex.

    Two categories that differ are as far apart as the ends of the central 98 % of a column's numbers. What lies
    half of that beyond an end is cut there, and a missing number lies there, too. Rank as a scale was rejected:
    where one value has most rows, as zero has in amounts, a little noise is a long way. The commonest categories
    have buckets of their own, as far as there are buckets; rarer ones share them.

    Args:
        known: rows from which scales and buckets are learned.
        rng: draws attributes where the table has more than `ATTRIBUTES`.
    """

    def __init__(self, known: Records, rng: np.random.Generator) -> None:
        self._width = known.codes.shape[1]
        self.attributes = np.sort(rng.permutation(known.attributes)[:ATTRIBUTES])
        # No coordinate is beyond 2 · unit, and three sums of squares, one an attribute, must stay below 2²⁴.
        self.unit = math.isqrt(2**24 // (12 * max(len(self.attributes), 1)))
        self._scales = [_scale(c) for c in known.numbers.T]
        self._order = [_by_frequency(c) for c in known.codes.T]
        most = max(2, FEATURES // max(len(self.attributes), 1))
        self._buckets = [min(most, len(order)) for order in self._order]
        sizes = [self._buckets[a] if a < self._width else 1 for a in self.attributes]
        self.owner = np.repeat(self.attributes, sizes)
        """The attribute that each feature is of: int64 (D,)."""

    def of(self, records: Records) -> Points:
        """The points: float32 (n, D), whole numbers."""
        points = np.zeros((len(records), len(self.owner)), np.float32)
        for a in self.attributes:
            own = np.flatnonzero(self.owner == a)
            if a < self._width:
                bucket = self._bucket(a, records.codes[:, a])
                points[np.arange(len(records)), own[bucket]] = round(math.sqrt(2) * self.unit)
            else:
                points[:, own[0]] = self._number(a - self._width, records.numbers[:, a - self._width])
        return points

    def _number(self, column: int, numbers: Floats) -> Floats:
        low, high = self._scales[column]
        with np.errstate(over="ignore"):
            scaled = np.clip(2 * (numbers - low) / (high - low) - 1, -2, 2)
        return np.round(np.where(np.isnan(scaled), -2.0, scaled) * self.unit)

    def _bucket(self, column: int, codes: Codes) -> Places:
        order = self._order[column]
        # What nobody knows has the bucket that its code gives it.
        known = codes + 1 < len(order)
        return np.where(known, order[np.where(known, codes + 1, 0)], codes) % self._buckets[column]


def _scale(numbers: Floats) -> tuple[float, float]:
    """Where the central 98 % of the numbers lie, all of them if that is a point; a stretch from it if that is one."""
    present = numbers[np.isfinite(numbers)]
    if not len(present):
        return 0.0, 1.0
    for tail in (TAIL, 0.0):
        low, high = np.quantile(present, [tail, 1 - tail])
        if high > low:
            return float(low), float(high)
    return float(low), float(low) + max(1.0, abs(float(low)))


def _by_frequency(codes: Codes) -> Places:
    """By code + 1, the place of the code among all, the commonest first: int64."""
    counts = np.bincount(codes + 1, minlength=1)
    order = np.empty(len(counts), np.int64)
    order[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return order


def nearest(points: Points, among: Points, *, parts: int = 1) -> tuple[Floats, Places]:
    """The nearest in each part of `among`, of equals the first: squared distances and places, (n, parts)."""
    edges = np.linspace(0, len(among), min(parts, len(among)) + 1).astype(np.int64)
    found = []
    for gaps in _gaps(points, among):
        places = np.stack([a + gaps[:, a:b].argmin(1) for a, b in itertools.pairwise(edges)], axis=1)
        found.append((np.take_along_axis(gaps, places, 1).astype(np.float64), places))
    distances, places = (np.concatenate(f) for f in zip(*found, strict=True))
    return distances, places


def two_nearest(points: Points, among: Points) -> tuple[Floats, Places]:
    """The nearest and the next: squared distances (n, 2), and the place of the nearest (n,)."""
    found = []
    for gaps in _gaps(points, among):
        rows, place = np.arange(len(gaps)), gaps.argmin(1)
        first = gaps[rows, place]
        gaps[rows, place] = np.inf
        found.append((np.stack([first, gaps.min(1)], axis=1).astype(np.float64), place))
    distances, places = (np.concatenate(f) for f in zip(*found, strict=True))
    return distances, places


def _gaps(points: Points, among: Points) -> Iterator[Points]:
    """Squared distances of some points at a time to all of `among`, exact."""
    squares = np.einsum("ij,ij->i", among, among)
    step = max(1, _CHUNK // max(len(among), 1))
    for start in range(0, max(len(points), 1), step):
        rows = points[start : start + step]
        gaps = rows @ among.T
        gaps *= -2
        gaps += squares
        gaps += np.einsum("ij,ij->i", rows, rows)[:, None]
        yield gaps
