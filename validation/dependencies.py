"""Dependencies: orders of two columns, and columns that follow from others, found in real rows; are they kept?

What is looked for holds in all but one of a thousand training rows, and more often than it would if both columns were
independent; so a start that lies before its end is found, and two numbers of different size are not.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from validation.cells import SIDES, Cells, Codes, Floats, groups_of

HOLDS = 0.999
"""Share of the training rows in which a dependency holds: real tables have their errors."""

CHANCE = 0.98
"""A dependency that as many rows would keep if the columns were independent is none."""

FEWEST = 50
"""Rows of a side that speak of a dependency, at least."""

VALUES = 1_000
"""Values of a column that follows from another, or from which one follows, at most."""

Measure = Literal["order", "follows"]


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """One that training rows have.

    Attributes:
        measure: order, the first is at most the second; or follows, the second has one value for each of the first.
        columns: the two.
        kept: by side, the share of the rows which speak of it that keep it; None where they are fewer than `FEWEST`.
    """

    measure: Measure
    columns: tuple[str, str]
    kept: Mapping[str, float | None]


def dependencies(cells: Sequence[Cells], *, seed: int) -> Iterator[Dependency]:
    """All of two columns; on tables of more than `WIDE` columns those within groups, drawn by `seed`."""
    for group in groups_of(len(cells), seed=seed):
        for i, j in itertools.combinations(group, 2):
            for first, second in ((cells[i], cells[j]), (cells[j], cells[i])):
                yield from _order(first, second)
                yield from _follows(first, second)


def _order(first: Cells, second: Cells) -> Iterator[Dependency]:
    if first.numbers is None or second.numbers is None or first.column.kind != second.column.kind:
        return
    low, high = first.numbers, second.numbers
    kept = {side: _share(low[side] <= high[side], _both(low[side], high[side])) for side in SIDES}
    there = _both(low["train"], high["train"])
    if (kept["train"] or 0.0) < HOLDS or _by_chance(low["train"][there], high["train"][there]) > CHANCE:
        return
    yield Dependency(measure="order", columns=(first.column.name, second.column.name), kept=kept)


def _both(first: Floats, second: Floats) -> Codes:
    return np.flatnonzero(~np.isnan(first) & ~np.isnan(second))


def _by_chance(low: Floats, high: Floats) -> float:
    """How often a value of one column is at most a value of another row's other column."""
    return float(1 - np.searchsorted(np.sort(high), low, side="left").mean() / len(high))


def _share(holds: np.ndarray[tuple[int], np.dtype[np.bool_]], rows: Codes) -> float | None:
    return None if len(rows) < FEWEST else float(holds[rows].mean())


def _follows(first: Cells, second: Cells) -> Iterator[Dependency]:
    a, b = first.codes["train"], second.codes["train"]
    there = (a >= 0) & (b >= 0)
    keys, place = np.unique(a[there], return_inverse=True)
    values, told = np.unique(b[there], return_inverse=True)
    if not 2 <= len(values) <= len(keys) <= VALUES:
        return
    counts = np.bincount(place * len(values) + told, minlength=len(keys) * len(values))
    counts = counts.reshape(len(keys), len(values))
    of_key = counts.sum(axis=1)
    # A key that one row has says nothing of whether another row of it would have the same value.
    again = of_key >= 2
    rows = int(of_key[again].sum())
    if rows < max(FEWEST, len(place) / 2) or counts[again].max(axis=1).sum() < HOLDS * rows:
        return
    if counts.sum(axis=0).max() > CHANCE * len(place):
        return
    follows = values[counts.argmax(axis=1)]
    kept = {side: _kept(keys, follows, again, first.codes[side], second.codes[side]) for side in SIDES}
    yield Dependency(measure="follows", columns=(first.column.name, second.column.name), kept=kept)


def _kept(
    keys: Codes, follows: Codes, again: np.ndarray[tuple[int], np.dtype[np.bool_]], a: Codes, b: Codes
) -> float | None:
    at = np.searchsorted(keys, a).clip(max=len(keys) - 1)
    speaks = np.flatnonzero((keys[at] == a) & again[at] & (b >= 0))
    return _share(follows[at] == b, speaks)
