"""Learning a profile where answers are exact, by asking again and again.

Every atom is shared by at least `at_least` units, and cells end at midpoints of the key space or at atoms. Bounds are
the `at_least`-th smallest and largest value: each the value of some unit, with at least as many units beyond or at it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from privacy.curator import MISSING, Answer, Cells, Curator, Keys, Shared
from privacy.errors import InputError
from synth.absence import learn_absences
from synth.keys import float_keys, is_real, is_text, key_floats
from synth.noised import learn_noised
from synth.profile import (
    LARGEST_KEY,
    ColumnProfile,
    Labels,
    Profile,
    cuts_between,
    declared_bounds,
    declared_names,
)
from synth.schema import Column, Schema

ATOM_SHARE = 0.01
"""A value with this share of the present rows may be an atom."""

ATOM_EXCESS = 3.0
"""A value among many is an atom if it has this many times the rows of its neighbours."""

FEW_VALUES = 32
"""A numeric column with at most so many values is all atoms."""

SUPPORT_SHARE = 0.95
SUPPORT_VALUES = 2000
"""Where at most so many shared values hold this share, the column takes only these values."""

CELLS = 256
"""Cells that the spread of a continuous column is learned in."""

MOST_ROUNDED = 1e100
"""Numbers beyond are not rounded: what is next to them may be none."""

ENDS = 3
"""Times the units that must share each end of a range; with fewer the ends are rounded."""

_WAYS = 64
_ROUNDS = 10
_FLOAT_KEYS = float_keys(np.array([-np.finfo(np.float64).max, np.finfo(np.float64).max]))


def learn(schema: Schema, curator: Curator, labels: Labels, *, at_least: int = 10) -> Profile:
    """Asks the curator about each column.

    Args:
        schema: the columns; facts that are declared bind, all others are learned.
        curator: over raw columns.
        labels: gives the strings of codes.
        at_least: units that must share a value before it may be named; 0 turns disclosure control off.

    Raises:
        InputError: there are too few rows to say anything under disclosure control.
    """
    anything = Cells(columns=(schema.names[0],), edges=(np.empty(0, np.int64),))
    if curator.price(anything, share=1.0) > 0:
        # Search asks dozens of questions, of which each would have a small part of the budget.
        return learn_noised(schema, curator, labels, at_least=at_least)
    enough = max(1, at_least)
    rows = float(curator.total(of="rows").value)
    if rows < 2 * enough:
        raise InputError(
            f"a table must have at least {2 * enough} rows to train on, however: it has {rows:.0f}; "
            "bring more rows, hold fewer of them back, or set `at_least: 0` if its values may be public"
        )
    halves = [Cells(columns=(c.name,), edges=(np.empty(0, np.int64),)) for c in schema]
    presence = curator.histogram(halves)
    learned = [c for c in schema if c.learned]
    shared = dict(
        zip(
            (c.name for c in learned), curator.values([c.name for c in learned], at_least=enough), strict=True
        )
    )
    shared |= {c.name: _within(c, shared[c.name]) for c in learned if c.declared and _ordered(c)}
    columns = {
        c.name: _discrete(c, shared.get(c.name), presence[i].value, rows, labels, enough)
        for i, c in enumerate(schema)
    }
    numeric = [c for c in learned if columns[c.name].pooled > 0 and not is_text(c.arrow_type) and _ordered(c)]
    columns |= _continuous(numeric, columns, shared, curator, rows, enough)
    few = {n for n, s in shared.items() if s.others < enough and not schema[n].declared}
    complete = [_complete(columns[c.name], keep_pool=c.name not in few, enough=enough / rows) for c in schema]
    often = [
        i
        for i, (c, counts) in enumerate(zip(schema, presence, strict=True))
        if c.learned and _both(counts, enough)
    ]
    if often and schema.unit is not None:
        of_units = curator.histogram([halves[i] for i in often], of="units")
        often = [i for i, counts in zip(often, of_units, strict=True) if _both(counts, enough)]
    absences = learn_absences(curator, schema.names, often)
    return Profile(rows=rows, at_least=at_least, columns=tuple(complete), absences=absences)


def _both(counts: Answer, enough: int) -> bool:
    """Whether enough have a column missing, and enough have it."""
    return bool(counts.value[0] > enough - 0.5 and counts.value[1:].sum() > enough - 0.5)


def _ordered(column: Column) -> bool:
    return column.kind in ("numerical", "datetime", "duration")


def _discrete(
    column: Column,
    shared: Shared | None,
    presence: NDArray[np.float64],
    rows: float,
    labels: Labels,
    enough: int,
) -> ColumnProfile:
    """Missing rate and atoms; for an ordered column what is left stands in `pooled` until cells take it."""
    present = float(presence[1:].sum())
    missing = float(presence[0]) / rows
    if shared is None:
        return ColumnProfile(name=column.name, missing=missing, pooled=present / rows)
    atoms = _atoms(shared, present, enough) if _ordered(column) else np.ones(len(shared.keys), bool)
    keys, counts = shared.keys[atoms], shared.counts[atoms]
    names: Sequence[int | str] = (
        labels(column.name, keys) if is_text(column.arrow_type) else [int(k) for k in keys]
    )
    if column.declared and column.categories is not None:
        named = [i for i, name in enumerate(names) if name in declared_names(column)]
        names, counts = [names[i] for i in named], counts[named]
    if is_text(column.arrow_type):
        # Codes come in the order in which rows came; the order of the strings says nothing about rows.
        order = np.argsort(np.array(names, dtype=object), kind="stable")
        names, counts = [names[i] for i in order], counts[order]
    if not _ordered(column) and not is_text(column.arrow_type) and present > 0 and not len(names):
        raise InputError(
            f"a column of categories must have one that at least {enough} units share, however: {column.name!r} "
            "has none; make it kind: numerical or identifier, or lower at_least"
        )
    return ColumnProfile(
        name=column.name,
        missing=missing,
        atoms=tuple(names),
        atom_rates=tuple(float(c) / rows for c in counts),
        pooled=max(0.0, present - float(counts.sum())) / rows,
    )


def _within(column: Column, shared: Shared) -> Shared:
    """Shared values cut to the declared bounds, as the codec cuts what it encodes."""
    keys, place = np.unique(np.clip(shared.keys, *declared_bounds(column)), return_inverse=True)
    counts = np.bincount(place, shared.counts, minlength=len(keys)).astype(np.float64)
    return replace(shared, keys=keys, counts=counts)


def _atoms(shared: Shared, present: float, enough: int) -> NDArray[np.bool_]:
    """Which of the shared values are atoms: all of few, else those that stand out among their neighbours."""
    counts = shared.counts
    rest = present - counts.sum()
    if len(counts) <= FEW_VALUES and rest < max(2 * enough, 0.01 * present):
        return np.ones(len(counts), bool)
    noticeable = counts >= max(enough, ATOM_SHARE * present)
    stands_out = np.zeros(len(counts), bool)
    # A float that is exactly shared among values that are not is an atom, however its shared neighbours are.
    mostly_unshared = rest > 0.5 * present
    for i in np.flatnonzero(noticeable):
        neighbours = np.concatenate([counts[max(0, i - 5) : i], counts[i + 1 : i + 6]])
        usual = np.median(neighbours) if len(neighbours) else 0.0
        stands_out[i] = mostly_unshared or counts[i] > ATOM_EXCESS * usual
    return stands_out


def _continuous(
    columns: Sequence[Column],
    profiles: Mapping[str, ColumnProfile],
    shared: Mapping[str, Shared],
    curator: Curator,
    rows: float,
    enough: int,
) -> dict[str, ColumnProfile]:
    """Cells for what is not an atom."""
    done: dict[str, ColumnProfile] = {}
    spread: list[Column] = []
    for column in columns:
        profile = profiles[column.name]
        support = _support(profile, shared[column.name], rows)
        if support is not None:
            done[column.name] = support
        elif profile.pooled * rows >= enough:
            spread.append(column)
    if spread:
        bounds = _bounds(spread, curator, enough)
        spread = [c for c in spread if c.name in bounds]
        done |= _cells(spread, profiles, bounds, curator, enough)
    return done


def _support(profile: ColumnProfile, shared: Shared, rows: float) -> ColumnProfile | None:
    """Cells around shared values, where these are (nearly) all that the column takes."""
    atom = np.isin(shared.keys, np.array([int(a) for a in profile.atoms], np.int64))
    keys, counts = shared.keys[~atom], shared.counts[~atom]
    present = (1 - profile.missing) * rows
    rest = profile.pooled * rows
    covered = shared.counts.sum() / max(present, 1.0)
    if not len(keys) or len(keys) > SUPPORT_VALUES or covered < SUPPORT_SHARE:
        return None
    # Between floats on both sides of zero a gap may exceed what int64 holds, but half of it never does.
    gap = keys[1:].view(np.uint64) - keys[:-1].view(np.uint64)
    middle = keys[:-1] + (gap // np.uint64(2) + gap % np.uint64(2)).view(np.int64)
    edges = np.concatenate([keys[:1], middle, np.minimum(keys[-1:], LARGEST_KEY - 1) + 1])
    rates = counts / counts.sum() * rest / rows
    return replace(
        profile,
        pooled=0.0,
        edges=tuple(int(e) for e in edges),
        support=tuple(int(k) for k in keys),
        cell_rates=tuple(float(r) for r in rates),
    )


def _bounds(columns: Sequence[Column], curator: Curator, enough: int) -> dict[str, tuple[int, int]]:
    """For each column the `enough`-th smallest and largest key, by units; declared bounds bind.

    A column with values of fewer units has no bounds. With fewer than `ENDS` times as many there would be little more
    than the value of one unit between the two, so they are rounded outward to one digit.

    A search that cuts the range into 256 parts at a time: the k-th key lies where the count from the end
    reaches k. Eight rounds reach the key itself.
    """
    low = {c.name: (int(MISSING) + 1, int(np.iinfo(np.int64).max)) for c in columns}
    for column in columns:
        if is_real(column.arrow_type):
            low[column.name] = (int(_FLOAT_KEYS[0]), int(_FLOAT_KEYS[1]))
    high = dict(low)
    few: set[str] = set()
    thin: set[str] = set()
    for _ in range(8):
        for ends, of in ((low, "lowest"), (high, "highest")):
            cells = [Cells(columns=(n,), edges=(cuts_between(a, b, 256),)) for n, (a, b) in ends.items()]
            answers = curator.histogram(cells, of=of)  # type: ignore[arg-type]
            for cell, answer in zip(cells, answers, strict=True):
                counts = answer.value[1:]
                if counts.sum() < enough:
                    few.add(cell.columns[0])
                elif enough > 1 and counts.sum() < ENDS * enough:
                    thin.add(cell.columns[0])
                if of == "highest":
                    i = len(counts) - 1 - int(np.searchsorted(np.cumsum(counts[::-1]), enough))
                else:
                    i = int(np.searchsorted(np.cumsum(counts), enough))
                edges = cell.edges[0]
                i = min(max(i, 1), len(edges) - 1)
                ends[cell.columns[0]] = (int(edges[i - 1]), int(edges[i]))
    bounds = {}
    for column in columns:
        if column.name in few:
            continue
        first, last = low[column.name][0], high[column.name][0]
        least, most = declared_bounds(column)
        if column.name in thin:
            first, last = _rounded(column, min(first, last), max(first, last))
        first = least if column.declared and column.min is not None else first
        last = most if column.declared and column.max is not None else last
        # The edge above the last key must be a key as well.
        last = min(max(first, last), LARGEST_KEY - 1)
        bounds[column.name] = (min(first, last), last)
    return bounds


def _rounded(column: Column, first: int, last: int) -> tuple[int, int]:
    """Keys of the value at or below the first, and at or above the last, that have one digit that is not 0."""
    real = is_real(column.arrow_type)
    low, high = key_floats(np.array([first, last], np.int64)).tolist() if real else (first, last)
    if not max(abs(low), abs(high)) < MOST_ROUNDED:
        return first, last

    def outward(value: float, towards: Callable[[float], int]) -> float:
        if value == 0:
            return value
        size = 10.0 ** math.floor(math.log10(abs(value)))
        return float(towards(value / size) * size)

    ends = outward(low, math.floor), outward(high, math.ceil)
    if real:
        keys = float_keys(np.array(ends, np.float64))
        return int(keys[0]), int(keys[1])
    # Bounds of a column with a step stay on its grid.
    step = max(1, column.step or 1)
    low = first - math.ceil((first - int(ends[0])) / step) * step
    high = last + math.ceil((int(ends[1]) - last) / step) * step
    return max(low, int(MISSING) + 1), min(high, LARGEST_KEY - 1)


def _cells(
    columns: Sequence[Column],
    profiles: Mapping[str, ColumnProfile],
    bounds: Mapping[str, tuple[int, int]],
    curator: Curator,
    enough: int,
) -> dict[str, ColumnProfile]:
    """Splits cells that hold too many units until each holds about 1/256 of them."""
    edges = {}
    for c in columns:
        first, last = bounds[c.name]
        atoms = np.array([int(a) for a in profiles[c.name].atoms if first <= int(a) <= last], np.int64)
        # An atom has a cell of its own, which stays empty.
        edges[c.name] = np.unique(
            np.concatenate([cuts_between(first, last + 1, 2 * CELLS), atoms, atoms + 1])
        )
    target: dict[str, float] = {}
    unsettled = list(edges)
    for _ in range(_ROUNDS):
        answers = curator.histogram([_over(n, edges[n]) for n in unsettled], of="units")
        finer = {}
        for name, answer in zip(unsettled, answers, strict=True):
            units = _without(answer.value[2:-1], edges[name], profiles[name])
            target.setdefault(name, max(float(enough), units.sum() / CELLS))
            finer[name] = _split(edges[name], units, target[name])
        unsettled = [n for n in unsettled if len(finer[n]) > len(edges[n])]
        edges |= {n: finer[n] for n in unsettled}
        if not unsettled:
            break
    cells = [_over(n, edges[n]) for n in edges]
    done = {}
    for name, of_rows, of_units in zip(
        edges, curator.histogram(cells), curator.histogram(cells, of="units"), strict=True
    ):
        rows, units = (_cut(a.value, edges[name], profiles[name]) for a in (of_rows, of_units))
        done[name] = _merged(profiles[name], edges[name], rows, units, max(enough, target[name] / 2))
    return done


def _cut(answer: NDArray[np.float64], edges: Keys, profile: ColumnProfile) -> NDArray[np.float64]:
    """Counts of the cells; what lies beyond the bounds is cut to them, so it counts for the outermost."""
    counts = _without(answer[2:-1], edges, profile)
    counts[0] += answer[1]
    counts[-1] += answer[-1]
    return counts


def _over(name: str, edges: Keys) -> Cells:
    return Cells(columns=(name,), edges=(edges,))


def _without(counts: NDArray[np.float64], edges: Keys, profile: ColumnProfile) -> NDArray[np.float64]:
    """Counts of the cells between edges, without those of the atoms."""
    return np.where(np.isin(edges[:-1], np.array(profile.atoms, np.int64)), 0.0, counts)


def _split(edges: Keys, counts: NDArray[np.float64], target: float) -> Keys:
    full = np.flatnonzero((counts > 2 * target) & (np.diff(edges) > 1))
    new = [
        cuts_between(int(edges[i]), int(edges[i + 1]), min(_WAYS, int(np.ceil(2 * counts[i] / target))))
        for i in full
    ]
    return np.unique(np.concatenate([edges, *new]))


def _merged(
    profile: ColumnProfile,
    edges: Keys,
    rows: NDArray[np.float64],
    units: NDArray[np.float64],
    at_least: float,
) -> ColumnProfile:
    """Joins neighbouring cells until each holds enough units; their rows give the rates."""
    borders, held, running, running_units = [int(edges[0])], [], 0.0, 0.0
    for right, count, own in zip(edges[1:], rows, units, strict=True):
        running += count
        running_units += own
        # A gap stays a gap: a cell without rows is kept apart, so that nothing is spread over it.
        if running_units >= at_least or running == 0:
            borders.append(int(right))
            held.append(running)
            running = running_units = 0.0
    last = max((i for i, h in enumerate(held) if h > 0), default=None)
    if last is None:
        return profile
    if running > 0:
        del borders[last + 2 :], held[last + 1 :]
        borders[-1] = int(edges[-1])
        held[-1] += running
    rates = np.array(held) / sum(held) * profile.pooled
    return replace(profile, pooled=0.0, edges=tuple(borders), cell_rates=tuple(float(r) for r in rates))


def _complete(profile: ColumnProfile, *, keep_pool: bool, enough: float) -> ColumnProfile:
    """Rates that make 1; a pool of too few units, or of a share below `enough`, is dissolved."""
    pooled = profile.pooled if keep_pool and profile.pooled >= enough else 0.0
    atoms = np.array(profile.atom_rates)
    cells = np.array(profile.cell_rates)
    present = pooled + atoms.sum() + cells.sum()
    if present == 0:
        return replace(profile, missing=1.0, pooled=0.0)
    factor = (1 - profile.missing) / present
    return replace(
        profile,
        pooled=float(pooled * factor),
        atom_rates=tuple(float(r) for r in atoms * factor),
        cell_rates=tuple(float(r) for r in cells * factor),
    )
