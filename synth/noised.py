"""Learning a profile where every answer carries noise: few questions, each about all columns at once.

What a person declared is taken for what it is; the rest is asked for. Categories are counted, or found by noisy
thresholds where none are declared. A number is counted in cells over its bounds, or over all magnitudes where none are
declared; cells that hold much are cut again, twice (a tree of noisy counts in the manner of PrivTree, Zhang, Xiao & Xie
2016, arXiv 1601.03229, with a depth that is fixed). Then neighbours are joined until noise no longer drowns them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from privacy.curator import MISSING, Answer, Batch, Cells, Curator, Floats, Keys, Marginal
from privacy.errors import InputError
from synth.keys import float_keys, is_real, is_text, key_floats
from synth.profile import (
    LARGEST_KEY,
    ColumnProfile,
    Labels,
    Profile,
    cuts_between,
    declared_bounds,
    key_of,
)
from synth.schema import Column, Schema

NAMES_SHARE, RANGE_SHARE, FIRST_SHARE, SECOND_SHARE, THIRD_SHARE = 0.15, 0.1, 0.4, 0.2, 0.15
"""Shares of the budget: names of categories, magnitudes of numbers, counts of all columns, two rounds of finer
cells."""

FIRST_CELLS, WAYS = 64, 32
"""Cells over the bounds of a number, and cells that a full one is cut into."""

SINGLE_KEYS = 128
"""A number with at most so many possible values is counted value by value."""

CLEAR = 4.0
"""A count of so many standard deviations of its noise is taken for real."""

ATOM_SHARE, ATOM_EXCESS = 0.01, 3.0
"""Share of the rows, and excess over neighbouring values, that make a value an atom."""

MOST_CELLS = 256

GRID, PRIOR_STEPS = 300, 200
"""Counts that a prior of counts is made of, and steps of its search."""

MOST_WIDER = 4
"""Times a cell's width that a part drowned by noise may have to be joined to it; what is wider may be no part of the
range at all."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Cells of a column by listed keys: 0 for missing, one for each key, the last for all others.

    Attributes:
        columns: the name of the column.
        keys: int64 (m,), all different.
    """

    columns: tuple[str]
    keys: Keys

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells."""
        return (len(self.keys) + 2,)

    def cell(self, batch: Batch) -> NDArray[np.int64]:
        """The cell of each row: int64 (n,)."""
        own = np.asarray(batch.columns[self.columns[0]], np.int64)
        order = np.argsort(self.keys, kind="stable")
        ordered = self.keys[order]
        place = np.searchsorted(ordered, own).clip(max=max(0, len(ordered) - 1))
        found = ordered[place] == own if len(ordered) else np.zeros(len(own), np.bool_)
        cell = np.where(found, order[place] + 1, len(self.keys) + 1) if len(ordered) else np.ones_like(own)
        return np.where(own == MISSING, 0, cell).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """Noisy counts of the cells between edges, and their variances."""

    edges: Keys
    counts: Floats
    variances: Floats


def learn_noised(schema: Schema, curator: Curator, labels: Labels, *, at_least: int) -> Profile:
    """Asks the curator about all columns.

    Args:
        schema: the columns; facts that are declared bind, all others are learned.
        curator: over raw columns; codes of declared strings are their places in the schema.
        labels: gives the strings of codes.
        at_least: rows that a value must have, by its noisy count, before it is named.

    Raises:
        InputError: noise drowns the table.
    """
    named = _named(schema, curator, labels, at_least)
    numbers = [c for c in schema if _ordered(c)]
    bounds = _bounds(numbers, curator)
    grids = {c.name: _grid(c, *bounds[c.name]) for c in numbers if c.name in bounds}
    first = {c.name: _first(c, named, grids) for c in schema}
    answers = dict(zip(first, curator.histogram(list(first.values()), share=FIRST_SHARE), strict=True))
    rows, error = _total(list(answers.values()))
    if rows < CLEAR * error or rows < 2:
        raise InputError(
            f"a table must have more rows than the noise that its budget asks for, however: about {max(rows, 0):.0f} "
            f"rows are seen under noise of {error:.0f}; bring more rows or a larger epsilon"
        )
    columns = {}
    counted = {name: _inner(answers[name], grids[name]) for name in grids}
    counted |= _finer(schema, counted, curator, rows)
    for column in schema:
        answer = answers[column.name]
        missing = _present_or_none(float(answer.value[0]), answer.noise_std, column)
        if column.name in grids:
            columns[column.name] = _numeric(column, missing, counted[column.name], rows, at_least)
        elif column.name in named:
            columns[column.name] = _categories(column, named[column.name], missing, answer, rows, at_least)
        else:
            columns[column.name] = _presence(column, missing, answer, rows)
    return Profile(rows=rows, at_least=at_least, columns=tuple(columns[c.name] for c in schema))


def share_asked(schema: Schema) -> float:
    """The most that all questions use of a profile's budget, by what is public: nobody asks for what is declared."""
    numbers = [c for c in schema if _ordered(c)]
    others = [c for c in schema if c.learned and not _ordered(c)]
    shares = (
        (NAMES_SHARE, any(not _is_listed(c) and c.kind != "boolean" for c in others)),
        (RANGE_SHARE, any(not _is_bounded(c) for c in numbers)),
        (FIRST_SHARE, True),
        (SECOND_SHARE + THIRD_SHARE, bool(numbers)),
    )
    return sum(share for share, asked in shares if asked)


def _is_listed(column: Column) -> bool:
    return column.declared and column.categories is not None


def _is_bounded(column: Column) -> bool:
    return column.declared and column.min is not None and column.max is not None


def _ordered(column: Column) -> bool:
    return column.kind in ("numerical", "datetime", "duration") or (
        column.kind == "constant" and not is_text(column.arrow_type) and column.categories is None
    )


# --- names of categories


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Categories of a column: their keys for the curator, and what the profile calls them."""

    keys: Keys
    names: tuple[int | str, ...]


def _named(schema: Schema, curator: Curator, labels: Labels, at_least: int) -> dict[str, _Names]:
    """Categories that are declared, or that a noisy threshold lets pass."""
    named: dict[str, _Names] = {}
    unknown: list[Column] = []
    for column in schema:
        if not column.learned or _ordered(column):
            continue
        if _is_listed(column):
            named[column.name] = _declared(column)
        elif column.kind == "boolean":
            named[column.name] = _Names(keys=np.array([0, 1]), names=(0, 1))
        else:
            unknown.append(column)
    if unknown:
        found = curator.values([c.name for c in unknown], at_least=max(1, at_least), share=NAMES_SHARE)
        for column, shared in zip(unknown, found, strict=True):
            keys = shared.keys
            if not is_text(column.arrow_type):
                named[column.name] = _Names(keys=keys, names=tuple(int(k) for k in keys))
                continue
            names = labels(column.name, keys)
            # Codes come in the order in which rows came; the order of the strings says nothing about rows.
            order = sorted(range(len(names)), key=names.__getitem__)
            named[column.name] = _Names(keys=keys[order], names=tuple(names[i] for i in order))
    return named


def _declared(column: Column) -> _Names:
    assert column.categories is not None
    if is_text(column.arrow_type):
        names = [str(c) for c in column.categories]
        order = sorted(range(len(names)), key=names.__getitem__)
        return _Names(keys=np.array(order, np.int64), names=tuple(names[i] for i in order))
    keys = np.unique([key_of(column, c) for c in column.categories]).astype(np.int64)
    return _Names(keys=keys, names=tuple(int(k) for k in keys))


# --- magnitudes of numbers


def _bounds(columns: Sequence[Column], curator: Curator) -> dict[str, tuple[int, int]]:
    """Smallest and largest key of each column: as declared, else powers of two that clearly hold rows."""
    bounds = {c.name: declared_bounds(c) for c in columns if _is_bounded(c)}
    unknown = [c for c in columns if c.name not in bounds]
    if not unknown:
        return bounds
    cells = [Cells(columns=(c.name,), edges=(_magnitudes(c),)) for c in unknown]
    for column, cell, answer in zip(unknown, cells, curator.histogram(cells, share=RANGE_SHARE), strict=True):
        edges = cell.edges[0]
        clear = np.flatnonzero(answer.value[2:-1] > CLEAR * answer.noise_std)
        if len(clear):
            low, high = int(edges[clear[0]]), int(edges[clear[-1] + 1]) - 1
            least, most = declared_bounds(column)
            low = least if column.declared and column.min is not None else max(low, least)
            high = most if column.declared and column.max is not None else min(high, most)
            bounds[column.name] = (min(low, high), high)
    return bounds


def _magnitudes(column: Column) -> Keys:
    """Edges at ± powers of two: of the value for a float, else of the key."""
    if is_real(column.arrow_type):
        powers = np.exp2(np.arange(-30, 101, dtype=np.float64))
        return float_keys(np.concatenate([-powers[::-1], [0.0], powers]))
    whole = [2**e for e in range(63)]
    return np.array([-p for p in reversed(whole)] + [0] + whole + [LARGEST_KEY], np.int64)


# --- cells of numbers


def _grid(column: Column, low: int, high: int) -> Keys:
    """Edges of about equal cells from the smallest key to the largest; zero and both ends have cells of their own."""
    high = min(high, LARGEST_KEY - 1)
    if _steps(column, low, high + 1) <= SINGLE_KEYS:
        return _parts(column, low, high + 1, SINGLE_KEYS)
    alone = [k for k in (low, high, *_zero(column)) if low <= k <= high]
    edges = _parts(column, low, high + 1, FIRST_CELLS if high - low >= SINGLE_KEYS else high - low + 1)
    return np.unique(np.concatenate([edges, alone, np.array(alone) + 1])).astype(np.int64)


def _zero(column: Column) -> list[int]:
    if column.kind != "numerical" or pa.types.is_unsigned_integer(column.arrow_type):
        return []
    return [int(float_keys(np.array([0.0]))[0])] if is_real(column.arrow_type) else [0]


def _steps(column: Column, first: int, last: int) -> float:
    """Steps between values that can be written with a float's digits from one key to another; for others infinite."""
    if not is_real(column.arrow_type) or column.digits is None:
        return math.inf
    low, high = key_floats(np.array([first, last], np.int64))
    return float((high - low) * 10.0**column.digits)


def _parts(column: Column, first: int, last: int, parts: int) -> Keys:
    """Edges of at most so many equal parts from one key to another: equal in value, which keys of floats are not."""
    if not is_real(column.arrow_type):
        return cuts_between(first, last, parts)
    ends = key_floats(np.array([first, last], np.int64))
    if not np.isfinite(ends).all() or not math.isfinite(ends[1] - ends[0]):
        return cuts_between(first, last, parts)
    values = np.linspace(ends[0], ends[1], parts + 1)[1:-1]
    if column.digits is not None:
        # Half-way between values that can be written, so that none of them is torn.
        scale = 10.0**column.digits
        alone = _steps(column, first, last) <= parts
        below = np.arange(math.floor(ends[0] * scale), ends[1] * scale) if alone else np.floor(values * scale)
        values = (below + 0.5) / scale
    inner = float_keys(values)
    inside = inner[(inner > first) & (inner < last)]
    return np.unique(np.concatenate([[first], inside, [last]])).astype(np.int64)


def _first(column: Column, named: Mapping[str, _Names], grids: Mapping[str, Keys]) -> Marginal:
    """What is counted of a column in the first round."""
    if column.name in named:
        return Listed(columns=(column.name,), keys=named[column.name].keys)
    return Cells(columns=(column.name,), edges=(grids.get(column.name, np.empty(0, np.int64)),))


def _inner(answer: Answer, edges: Keys) -> _Counted:
    """Counts between the edges; what lies beyond belongs to the outermost cells."""
    counts = answer.value[2:-1].copy()
    variances = np.full(len(counts), answer.noise_std**2)
    for end, beyond in ((0, 1), (-1, -1)):
        counts[end] += answer.value[beyond]
        variances[end] += answer.noise_std**2
    return _Counted(edges=edges, counts=counts, variances=variances)


def _widths(edges: Keys) -> Floats:
    """Keys between edges; floats would lose those of cells beyond 2^53."""
    return (edges[1:].view(np.uint64) - edges[:-1].view(np.uint64)).astype(np.float64)


def _extent(column: Column, left: int, right: int) -> float:
    """How far two keys lie apart: in value, or in keys where these are even."""
    if not is_real(column.arrow_type):
        return float(right - left)
    low, high = key_floats(np.array([left, right], np.int64))
    return float(high - low)


def _finer(
    schema: Schema, counted: Mapping[str, _Counted], curator: Curator, rows: float
) -> dict[str, _Counted]:
    """Counts in finer cells where the first ones hold much, in two rounds."""
    done = dict(counted)
    for share in (SECOND_SHARE, THIRD_SHARE):
        finer = {name: _cut(schema[name], c, rows) for name, c in done.items()}
        finer = {name: edges for name, edges in finer.items() if len(edges) > len(done[name].edges)}
        if not finer:
            break
        cells = [Cells(columns=(name,), edges=(edges,)) for name, edges in finer.items()]
        for name, answer in zip(finer, curator.histogram(cells, share=share), strict=True):
            done[name] = _joined(done[name], _inner(answer, finer[name]))
    return done


def _cut(column: Column, counted: _Counted, rows: float) -> Keys:
    """Edges with those cells cut that hold more than a cell should, and clearly so."""
    edges, step = counted.edges, max(1, column.step or 1)
    most = np.maximum(2 * rows / MOST_CELLS, 2 * CLEAR * np.sqrt(counted.variances))
    full = np.flatnonzero((counted.counts > most) & (_widths(edges) > step))
    new = [_parts(column, int(edges[i]), int(edges[i + 1]), WAYS) for i in full]
    return np.unique(np.concatenate([edges, *new])).astype(np.int64)


def _joined(coarse: _Counted, fine: _Counted) -> _Counted:
    """Two rounds of counts as one: children are moved to the best estimate of their parent, all alike.

    The least squares of a tree of two levels (Hay et al. 2010, arXiv 0904.0942).
    """
    parent = np.searchsorted(coarse.edges, fine.edges[:-1], side="right") - 1
    number = np.bincount(parent, minlength=len(coarse.counts))
    sums = np.bincount(parent, fine.counts, minlength=len(coarse.counts))
    spread = np.bincount(parent, fine.variances, minlength=len(coarse.counts))
    best = (coarse.counts * spread + sums * coarse.variances) / (spread + coarse.variances)
    counts = fine.counts + ((best - sums) / number)[parent]
    shrunk = np.where(number == 1, coarse.variances / (coarse.variances + spread), 1.0)
    return replace(fine, counts=counts, variances=fine.variances * shrunk[parent])


# --- profiles


def _total(answers: Sequence[Answer]) -> tuple[float, float]:
    """Rows of the table and the standard deviation of that, from the counts of all columns."""
    weights = np.array([1 / (a.noise_std**2 * a.value.size) for a in answers])
    sums = np.array([a.value.sum() for a in answers])
    return float(weights @ sums / weights.sum()), float(1 / math.sqrt(weights.sum()))


def _present_or_none(count: float, noise: float, column: Column) -> float:
    """A count of missing values, unless none are declared or it may well be noise alone."""
    if column.declared and not column.nullable:
        return 0.0
    return count if count > CLEAR / 2 * noise else 0.0


def _shares(counts: Floats, rows: float) -> Floats:
    """Counts as shares that make 1 and are not negative: the nearest ones in squares."""
    if len(counts) == 1 or counts.max(initial=0.0) <= 0:
        return np.full(len(counts), 1 / max(1, len(counts)))
    ordered = np.sort(counts)[::-1]
    excess = (np.cumsum(ordered) - rows) / np.arange(1, len(ordered) + 1)
    last = int(np.flatnonzero(ordered - excess > 0)[-1])
    return np.asarray(np.maximum(counts - excess[last], 0) / rows)


def _deconvolved(counts: Floats, noise: float) -> Floats:
    """Counts as they are expected to be without the noise, given how all of them lie (empirical Bayes).

    The prior is the one on a grid of counts of largest likelihood, found by expectation maximization (Kiefer &
    Wolfowitz 1956). It leaves counts that are clear alone, and brings together those of which only their mean is.
    """
    if noise <= 0 or len(counts) < 3:
        return counts
    most = max(float(counts.max()), noise)
    grid = most * np.linspace(0, 1, max(GRID, 1 + math.ceil(2 * math.sqrt(most / noise)))) ** 2
    likelihood = np.exp(-0.5 * ((counts[:, None] - grid) / noise).clip(-40, 40) ** 2) + 1e-300
    prior = np.full(len(grid), 1 / len(grid))
    for _ in range(PRIOR_STEPS):
        joint = likelihood * prior
        prior = (joint / joint.sum(1, keepdims=True)).mean(0)
    joint = likelihood * prior
    return np.asarray(joint @ grid / joint.sum(1))


def _presence(column: Column, missing: float, answer: Answer, rows: float) -> ColumnProfile:
    """A column of which only the missing pattern is known, or whose values no bounds were found for."""
    counts = np.array([missing, float(answer.value[1:].sum())])
    share = _shares(counts, rows) if missing else np.array([0.0, 1.0])
    if column.learned:
        return ColumnProfile(name=column.name, missing=1.0)
    return ColumnProfile(name=column.name, missing=float(share[0]), pooled=float(share[1]))


def _categories(
    column: Column, names: _Names, missing: float, answer: Answer, rows: float, at_least: int
) -> ColumnProfile:
    other = float(answer.value[-1])
    if other < max(at_least, CLEAR * answer.noise_std):
        other = 0.0
    if not len(names.names) and not other:
        return ColumnProfile(name=column.name, missing=1.0)
    counts = np.concatenate([[missing], _deconvolved(answer.value[1:-1], answer.noise_std), [other]])
    asked = np.array([missing > 0, *[True] * len(names.names), other > 0])
    shares = np.zeros(len(counts))
    shares[asked] = _shares(counts[asked], rows)
    return ColumnProfile(
        name=column.name,
        missing=float(shares[0]),
        atoms=names.names,
        atom_rates=tuple(float(s) for s in shares[1:-1]),
        pooled=float(shares[-1]),
    )


def _numeric(column: Column, missing: float, counted: _Counted, rows: float, at_least: int) -> ColumnProfile:
    """Atoms, and cells that noise does not drown."""
    edges, counts = counted.edges, counted.counts.copy()
    atoms = _atoms(counted, rows)
    borders, held, running = [int(edges[0])], [], 0.0
    open_to_more: list[bool] = []
    target = np.maximum(max(at_least, rows / MOST_CELLS), CLEAR * np.sqrt(counted.variances))

    def close(right: int, count: float, *, atom: bool = False) -> None:
        borders.append(right)
        held.append(count)
        open_to_more.append(not atom)

    def joins(rest: tuple[int, int], cell: tuple[int, int]) -> bool:
        return _extent(column, *rest) <= MOST_WIDER * _extent(column, *cell)

    def close_rest(right: int) -> None:
        """What noise drowns joins the cell before it: alone it counts for nothing, and an end of the range is lost."""
        before = open_to_more and open_to_more[-1]
        if before and joins((borders[-1], right), (borders[-2], borders[-1])):
            borders[-1], held[-1] = right, held[-1] + running
        else:
            close(right, running)

    for left, right, count, atom, enough in zip(edges[:-1], edges[1:], counts, atoms, target, strict=True):
        left, right, first = int(left), int(right), not held
        # What is full by itself is never joined to emptier cells before it, but to the end of the range.
        starts = not atom and first and joins((borders[-1], left), (left, right))
        if (atom or count >= enough) and borders[-1] < left and not starts:
            close_rest(left)
            running = 0.0
        if atom or running + count >= enough or count >= enough:
            close(right, 0.0 if atom else running + count, atom=atom)
            running = 0.0
        else:
            running += count
    if borders[-1] < edges[-1]:
        close_rest(int(edges[-1]))
    cells = np.array(held)
    held_by_atoms = counts[atoms]
    asked = np.concatenate([[missing > 0], np.ones(len(held_by_atoms), bool), cells != 0])
    all_counts = np.concatenate([[missing], held_by_atoms, cells])
    shares = np.zeros(len(all_counts))
    shares[asked] = _shares(all_counts[asked], rows)
    in_cells = shares[1 + len(held_by_atoms) :]
    profile = ColumnProfile(
        name=column.name,
        missing=float(shares[0]),
        atoms=tuple(int(k) for k in edges[:-1][atoms]),
        atom_rates=tuple(float(s) for s in shares[1 : 1 + len(held_by_atoms)]),
    )
    if not in_cells.sum() > 0:
        return profile
    return replace(profile, edges=tuple(borders), cell_rates=tuple(float(s) for s in in_cells))


def _atoms(counted: _Counted, rows: float) -> NDArray[np.bool_]:
    """Cells of a single key that stand out among the cells around them, by rows for each key."""
    widths = _widths(counted.edges)
    deviations = np.sqrt(counted.variances)
    density = np.maximum(counted.counts, deviations) / widths
    around = np.maximum(np.append(0.0, density[:-1]), np.append(density[1:], 0.0))
    clear = counted.counts >= np.maximum(ATOM_SHARE * rows, CLEAR * deviations)
    return np.asarray((widths == 1) & clear & (density > ATOM_EXCESS * around))
