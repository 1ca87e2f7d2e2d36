"""Dependencies: orders of two columns, and columns that follow from others, found in real rows; are they kept?

What is looked for holds in all but one of a thousand training rows, and more often than it would if both columns were
independent; so a start that lies before its end is found, and two numbers of different size are not.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from validation.cells import SIDES, Cells, Codes, Floats, groups_of
from validation.features import draw

HOLDS = 0.999
"""Share of the training rows in which a dependency holds: real tables have their errors."""

CHANCE = 0.98
"""A dependency that as many rows would keep if the columns were independent is none."""

UNLIKELY = 1e-6
"""Chance of so many rows in a row, if the columns were independent, above which an order is none."""

ROWS = 20_000
"""Training rows that dependencies are looked for in, at most."""

FEWEST = 50
"""Rows of a side that speak of a dependency, at least."""

VALUES = 1_000
"""Values of a column that follows from another, or from which one follows, at most."""

GLANCE = 1_000
"""Rows that a column which follows from another is first looked for in."""

Measure = Literal["order", "follows"]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """One that training rows have.

    Attributes:
        measure: order, the first is at most the second; or follows, the second has one value for each of the first.
        columns: the two.
        kept: by side, the share of the rows which speak of it that keep it; None where they are fewer than `FEWEST`.
        rows: by side, how many speak of it: those that have both values, and the first from among the training rows',
            or any where hardly one has.
    """

    measure: Measure
    columns: tuple[str, str]
    kept: Mapping[str, float | None]
    rows: Mapping[str, int]


def dependencies(cells: Sequence[Cells], *, seed: int) -> Iterator[Dependency]:
    """All of two columns; on tables of more than `WIDE` columns those within groups, drawn by `seed`."""
    if not cells:
        return
    rows = draw(len(cells[0].codes["train"]), ROWS, np.random.default_rng(seed))
    tried = [_Tried.of(c, rows) for c in cells]
    for group in groups_of(len(cells), seed=seed):
        for i, j in itertools.combinations(group, 2):
            for first, second in ((i, j), (j, i)):
                yield from _order(cells[first], cells[second], rows)
                yield from _follows(cells[first], cells[second], tried[first], tried[second])


def _order(first: Cells, second: Cells, rows: Codes) -> Iterator[Dependency]:
    if first.numbers is None or second.numbers is None or first.column.kind != second.column.kind:
        return
    low, high = first.numbers["train"][rows], second.numbers["train"][rows]
    there = ~np.isnan(low) & ~np.isnan(high)
    n = int(there.sum())
    if n < FEWEST or np.mean(low[there] <= high[there]) < HOLDS:
        return
    chance = _by_chance(low[there], high[there])
    if chance > CHANCE or chance**n > UNLIKELY:
        return
    speak = {s: ~np.isnan(first.numbers[s]) & ~np.isnan(second.numbers[s]) for s in SIDES}
    holds = {s: first.numbers[s] <= second.numbers[s] for s in SIDES}
    yield _found("order", first, second, speak, holds)


def _by_chance(low: Floats, high: Floats) -> float:
    """How often a value of one column is at most a value of another row's other column."""
    return float(1 - np.searchsorted(np.sort(high), low, side="left").mean() / len(high))


def _found(
    measure: Measure, first: Cells, second: Cells, speak: Mapping[str, Flags], holds: Mapping[str, Flags]
) -> Dependency:
    rows = {side: int(s.sum()) for side, s in speak.items()}
    kept = {s: float(holds[s][speak[s]].mean()) if rows[s] >= FEWEST else None for s in SIDES}
    return Dependency(measure=measure, columns=(first.column.name, second.column.name), kept=kept, rows=rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tried:
    """A column of the rows that are looked at: its values in order, and which of them each row has, −1 for none."""

    values: Codes
    place: Codes

    @classmethod
    def of(cls, cells: Cells, rows: Codes) -> "_Tried":
        codes = cells.codes["train"][rows]
        values, place = np.unique(codes, return_inverse=True)
        missing = int(len(values) > 0 and values[0] < 0)
        return cls(values=values[missing:], place=place - missing)


def _follows(first: Cells, second: Cells, keys: _Tried, told: _Tried) -> Iterator[Dependency]:
    a, b = len(keys.values), len(told.values)
    if not 2 <= b <= a <= VALUES:
        return
    # A few rows rule out nearly all pairs.
    if len(keys.place) > 4 * GLANCE and not _may_follow(keys.place[:GLANCE], told.place[:GLANCE], b):
        return
    there = (keys.place >= 0) & (told.place >= 0)
    counts = np.bincount(keys.place[there] * b + told.place[there], minlength=a * b).reshape(a, b)
    # A key that one row has says nothing of whether another row of it would have the same value.
    again = counts.sum(axis=1) >= 2
    rows, n = int(counts[again].sum()), int(there.sum())
    if rows < max(FEWEST, n / 2) or counts[again].max(axis=1).sum() < HOLDS * rows:
        return
    if counts.sum(axis=0).max() > CHANCE * n:
        return
    known, value = keys.values[again], told.values[counts.argmax(axis=1)][again]
    speak, holds = {}, {}
    for side in SIDES:
        at = np.searchsorted(known, first.codes[side]).clip(max=len(known) - 1)
        both = (first.codes[side] >= 0) & (second.codes[side] >= 0)
        same = known[at] == first.codes[side]
        # Of values that are all made up none is followed by what real rows have.
        speak[side] = both & same if (both & same).sum() >= FEWEST else both
        holds[side] = same & (value[at] == second.codes[side])
    yield _found("follows", first, second, speak, holds)


def _may_follow(keys: Codes, told: Codes, width: int) -> bool:
    """Whether hardly any two of these rows have one key and different values."""
    there = (keys >= 0) & (told >= 0)
    pairs = len(np.unique(keys[there] * width + told[there]))
    return bool(pairs - len(np.unique(keys[there])) <= 10 * (1 - HOLDS) * len(keys))
