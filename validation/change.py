"""Change: how the columns of two synthetic tables of one dataset differ, beside what chance moves.

Rows are drawn anew for each release, so two releases of one table differ by sampling, and their models by how they were
fitted. A column that moved further than sampling does was drawn from another distribution: since the source moved, or
since the model did.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from synth.schema import Column, Schema
from validation.cells import Cells, cells_of
from validation.fidelity import MISSING

MEAN, SPREAD = 0.9, 0.3
"""Of a Kolmogorov–Smirnov distance of two samples of one column, in √(1/n + 1/m); a total variation spreads less."""

ERRORS = 3
"""Standard deviations that chance is given."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One column of both tables.

    Attributes:
        column: its name.
        distance: Kolmogorov–Smirnov for numbers and times, total variation for categories, in [0, 1]; missing values
            are a value of their own in either.
        chance: what sampling alone moves at most.
        figure: what is told of it: the mean of numbers, the median of times (seconds since 1970), or the category
            that moved most.
        before: that figure: a mean, a median, or the category's share; None without values.
        after: the same afterwards.
        missing_before: share of missing values.
        missing_after: the same afterwards.
    """

    column: str
    distance: float
    chance: float
    figure: str
    before: float | None
    after: float | None
    missing_before: float
    missing_after: float

    @property
    def moved(self) -> bool:
        """Whether it moved further than chance does."""
        return self.distance > self.chance


Rows = Callable[[Sequence[str]], pa.Table]
"""Gives rows of a release with the named columns; as often as asked, the same."""

AT_ONCE = 16
"""Columns that are in memory at a time."""


def shifts(before: Rows, after: Rows, schema: Schema) -> tuple[Shift, ...]:
    """How far each column moved, furthest first; what is made up anew is not compared, and not read.

    Args:
        before: of one release.
        after: of another.
        schema: the columns that both have, as the later one describes them.
    """
    learned = [c for c in schema if c.learned]
    found: list[Shift] = []
    for start in range(0, len(learned), AT_ONCE):
        some = learned[start : start + AT_ONCE]
        first, second = (rows([c.name for c in some]) for rows in (before, after))
        found += [_shift(cells_of(c, (first, second.slice(0, 0), second))) for c in some]
    return tuple(sorted(found, key=lambda s: (s.chance - s.distance, s.column)))


def _shift(cells: Cells) -> Shift:
    gone = cells.missing("train"), cells.missing("synthetic")
    rows = [max(len(cells.codes[side]), 1) for side in ("train", "synthetic")]
    error = math.sqrt(sum(1 / n for n in rows))
    distance, mean, figure, figures = (_numbers if cells.numbers is not None else _categories)(cells, error)
    return Shift(
        column=cells.column.name,
        # Of numbers the missing ones are not among the values that are compared.
        distance=max(distance, abs(gone[0] - gone[1])),
        chance=mean + ERRORS * SPREAD * error,
        figure=figure,
        before=figures[0],
        after=figures[1],
        missing_before=gone[0],
        missing_after=gone[1],
    )


_Told = tuple[float, float, str, tuple[float | None, float | None]]
"""The distance, its mean by chance alone, what is told, and that before and after."""


def _numbers(cells: Cells, error: float) -> _Told:
    assert cells.numbers is not None
    first, second = (v[~np.isnan(v)] for v in (cells.numbers["train"], cells.numbers["synthetic"]))
    times = cells.column.kind == "datetime"
    told = "median" if times else "mean"
    middle = np.median if times else np.mean
    own, other = (float(middle(v)) if len(v) else None for v in (first, second))
    if not len(first) or not len(second):
        return float(len(first) != len(second)), 0.0, told, (own, other)
    return float(stats.ks_2samp(first, second).statistic), MEAN * error, told, (own, other)


def _categories(cells: Cells, error: float) -> _Told:
    size = len(cells.values) + 1
    shares = []
    for side in ("train", "synthetic"):
        codes = cells.codes[side]
        shares.append(np.bincount(np.where(codes < 0, size - 1, codes), minlength=size) / max(len(codes), 1))
    gaps = np.abs(shares[0] - shares[1])
    most = int(gaps.argmax())
    label = MISSING if most == size - 1 else str(cells.values[most].as_py())
    # Each share errs like a normal one, whose mean deviation is √(2/π) of its standard one; half of them count.
    pooled = (shares[0] + shares[1]) / 2
    mean = math.sqrt(2 / math.pi) / 2 * error * float(np.sqrt(pooled * (1 - pooled)).sum())
    return float(gaps.sum() / 2), mean, label, (float(shares[0][most]), float(shares[1][most]))


@dataclass(frozen=True, kw_only=True)
class SchemaChange:
    """What became of columns: names, and what changed of those that both have, in words."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]

    @property
    def none(self) -> bool:
        """Whether nothing changed."""
        return not (self.added or self.removed or self.changed)


def schema_change(before: Schema, after: Schema) -> SchemaChange:
    """How the columns of two releases differ."""
    known = {c.name: c for c in before}
    return SchemaChange(
        added=tuple(c.name for c in after if c.name not in known),
        removed=tuple(c.name for c in before if c.name not in set(after.names)),
        changed=tuple(
            (c.name, "; ".join(told))
            for c in after
            if c.name in known and (told := list(_differences(known[c.name], c)))
        ),
    )


def _differences(before: Column, after: Column) -> Iterator[str]:
    for what in ("kind", "type", "nullable", "min", "max"):
        first, second = getattr(before, what), getattr(after, what)
        if first != second:
            yield f"{what} {_said(first)} → {_said(second)}"
    first, second = (set(c.categories or ()) for c in (before, after))
    if first != second:
        yield f"categories: {len(second - first)} new, {len(first - second)} gone"


def _said(value: object) -> str:
    return "none" if value is None else str(value)
