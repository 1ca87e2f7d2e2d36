"""Suggest: constraints that all rows of a table meet, found in the same pass in which `synth.infer` looks at it.

What every row meets may still be chance, or true and useless: 80 is below 2,000 in every row, too. So a rule is
suggested only where rows that know nothing of each other would break it, and where it helps to know it: a gap must vary
less than the column that it stands for. Memory and time are bounded: what a batch breaks is never looked at again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from privacy.curator import Floats
from synth.keys import is_text
from synth.rules import Combinations, Missing, Order, Scalar, Sum, acyclic, family
from synth.schema import Column

LABELS = 200
"""Distinct values of a column up to which it may be part of a combination; those that say where another is missing are
at most `SAYING`."""

SAYING = 20
NUMBERS = 120
"""Columns of numbers that are compared with each other at most."""

DISTINCT_ROWS = 5000
"""Rows of the first batch in which distinct values are counted."""

SAMPLE = 200
"""Rows of the first batch in which sums are looked for."""

BY_CHANCE = 0.2
"""Share of pairs of unrelated rows that must break an order, or it says nothing."""

TIGHT = 0.5
"""A gap must vary less than this share of what the upper column varies."""

ROUGH = 1.2
"""A gap may have at most so many times the distinct values of the upper column; else round numbers would be lost."""

SHARED = 0.95
"""Share of the rows whose combination enough rows must share."""

NEAR = 1e-6


@final
class Suggestions:
    """Takes a table batch by batch; `found` says which rules no row broke."""

    def __init__(self, fields: Sequence[pa.Field], *, at_least: int) -> None:
        self._at_least = max(at_least, 1)
        numbers = [f for f in fields if _is_number(_plain(f.type))][:NUMBERS]
        self._rows = 0
        self._orders = {
            kind: _Orders([f.name for f in numbers if family(_plain(f.type)) == kind])
            for kind in dict.fromkeys(family(_plain(f.type)) for f in numbers)
        }
        self._sums = _Sums([f.name for f in numbers if family(_plain(f.type)) == "numbers"])
        self._labels = _Labels(
            [f.name for f in fields if _is_label(_plain(f.type))], [f.name for f in fields]
        )

    def add(self, batch: pa.RecordBatch) -> None:
        """Takes the next rows."""
        if not batch.num_rows:
            return
        self._rows += batch.num_rows
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for orders in self._orders.values():
            orders.add(columns)
        self._sums.add(columns)
        self._labels.add(columns)

    def found(self, columns: Sequence[Column]) -> tuple[Order | Sum | Combinations | Missing, ...]:
        """The rules that are suggested for columns of these kinds, none of which decides what another does."""
        known = {c.name: c for c in columns}
        rules: list[Any] = []
        sums = list(self._sums.found(known, self._rows))
        rules += sums
        totals = {s.column for s in sums}
        joint = list(self._labels.combinations(known, self._rows, self._at_least, totals))
        rules += joint
        taken = totals | {n for j in joint for n in j.columns}
        for orders in self._orders.values():
            rules += orders.found(known, self._rows, taken)
        rules += self._labels.missing(known, self._rows, self._at_least, taken)
        return tuple(rules)


@final
class _Orders:
    """Pairs of comparable columns of which one is never above the other."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        many = len(self._names)
        self._alive = ~np.eye(many, dtype=bool)
        self._both = np.zeros((many, many))
        self._gap = np.zeros((3, many, many))
        self._own = np.zeros((3, many))
        self._chance = np.zeros((many, many))
        self._rough = np.zeros((many, many))
        self._ties = np.zeros((many, many), np.int64)
        self._first = True

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Takes the next rows."""
        if len(self._names) < 2 or not self._alive.any():
            return
        values = np.stack([_floats(columns[n]) for n in self._names], 1)
        few = values[:1000]
        if len(few) < len(values):
            self._kill(few)
        self._kill(values)
        with np.errstate(invalid="ignore", over="ignore"):
            here = np.isfinite(values)
            zeroed = np.where(here, values, 0.0)
            self._own += np.stack([here.sum(0), zeroed.sum(0), (zeroed**2).sum(0)])
            moved = np.roll(values, max(1, len(values) // 2), axis=0)
            for low, high in np.argwhere(self._alive):
                gap = values[:, high] - values[:, low]
                there = gap[np.isfinite(gap)]
                self._both[low, high] += len(there)
                self._ties[low, high] += int((there == 0).sum())
                self._gap[:, low, high] += (len(there), there.sum(), (there**2).sum())
                if self._first:
                    unrelated = moved[:, high] - values[:, low]
                    unrelated = unrelated[np.isfinite(unrelated)]
                    met = gap[:DISTINCT_ROWS]
                    kinds = np.unique(values[:DISTINCT_ROWS, high][np.isfinite(met)])
                    gaps = np.unique(np.round(met[np.isfinite(met)], 6))
                    self._rough[low, high] = len(gaps) / max(1, len(kinds))
                    self._chance[low, high] = float((unrelated < 0).mean()) if len(unrelated) else 0.0
        self._first = False

    def _kill(self, values: Floats) -> None:
        with np.errstate(invalid="ignore"):
            for low in np.flatnonzero(self._alive.any(1)):
                high = np.flatnonzero(self._alive[low])
                self._alive[low, high] &= ~(values[:, [low]] > values[:, high]).any(0)

    def found(self, known: Mapping[str, Column], rows: int, taken: set[str]) -> Iterator[Order]:
        """The nearest lower column of each that has one, as chains."""
        below: dict[str, str] = {}
        for high, name in enumerate(self._names):
            if name in taken or not _is_ordered(known[name]):
                continue
            lows = [i for i in np.flatnonzero(self._alive[:, high]) if self._helps(int(i), high, known, rows)]
            if lows:
                tightest = min(lows, key=lambda i: _spread(self._gap[:, i, high]))
                below[name] = self._names[tightest]
        # Two columns that are equal in all rows are below each other.
        for name in list(below):
            if below.get(below[name]) == name:
                del below[name]
        for upper, lower in below.items():
            i, j = self._names.index(lower), self._names.index(upper)
            note = (
                f"holds in all {int(self._both[i, j]):,} rows that have both; of unrelated rows "
                f"{self._chance[i, j]:.0%} would break it"
            )
            yield Order(rule="order", columns=(lower, upper), note=note)

    def _helps(self, low: int, high: int, known: Mapping[str, Column], rows: int) -> bool:
        lower, upper = known[self._names[low]], known[self._names[high]]
        if not _is_ordered(lower) or self._both[low, high] < max(50, 0.1 * rows):
            return False
        if self._rough[low, high] > ROUGH:
            return False
        if self._chance[low, high] < BY_CHANCE or not _same_grid(lower, upper):
            return False
        return _spread(self._gap[:, low, high]) < TIGHT * _spread(self._own[:, high])


def _spread(sums: Floats) -> float:
    """Standard deviation from (count, Σx, Σx²)."""
    count, total, squares = sums
    return math.sqrt(max(squares / count - (total / count) ** 2, 0.0)) if count else 0.0


def _same_grid(lower: Column, upper: Column) -> bool:
    """Whether the upper column keeps its digits and its step if it is learned as a gap above the lower one."""
    if pa.types.is_floating(upper.arrow_type) or pa.types.is_floating(lower.arrow_type):
        if upper.digits is None:
            return True
        return (lower.digits if pa.types.is_floating(lower.arrow_type) else 0) in range(upper.digits + 1)
    return (lower.step or 1) % (upper.step or 1) == 0


@final
class _Sums:
    """Columns that are the sum of two or three others; what the first rows suggest, all others must confirm."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._candidates: list[tuple[str, tuple[str, ...]]] | None = None
        self._filled: dict[str, int] = dict.fromkeys(names, 0)

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Takes the next rows."""
        if len(self._names) < 3 or self._candidates == []:
            return
        values = {n: _floats(columns[n]) for n in self._names}
        if self._candidates is None:
            self._candidates = list(_sums(values))
        kept = []
        for total, terms in self._candidates:
            whole = np.sum([values[t] for t in terms], axis=0)
            if _equal(values[total], whole):
                kept.append((total, terms))
        self._candidates = kept
        for name in {n for total, terms in kept for n in (total, *terms)}:
            self._filled[name] += int((np.nan_to_num(values[name]) != 0).sum())

    def found(self, known: Mapping[str, Column], rows: int) -> Iterator[Sum]:
        """One rule a total, with the fewest terms, none of which goes round."""
        needs: dict[str, set[str]] = {}
        for total, terms in sorted(self._candidates or (), key=lambda c: len(c[1])):
            names = (total, *terms)
            ordered = all(known[n].kind == "numerical" for n in names)
            if total in needs or not ordered or min(self._filled[n] for n in names) < max(10, 0.01 * rows):
                continue
            try:
                acyclic({**needs, total: set(terms)})
            except ValueError:
                continue
            needs[total] = set(terms)
            yield Sum(rule="sum", column=total, plus=terms, note=f"holds in all {rows:,} rows")


def _sums(values: Mapping[str, Floats]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Totals and their terms as some rows suggest: sums of two are looked up among columns and differences of two."""
    rows = min(map(len, values.values()))
    some = np.linspace(0, rows - 1, min(rows, SAMPLE)).astype(np.int64)
    if rows < 20:
        return
    sample = {n: v[some] for n, v in values.items()}
    moving = [n for n, v in sample.items() if len(np.unique(np.nan_to_num(v))) > 3]
    scale = 1.0 + np.nanmax([np.nanmax(np.abs(np.nan_to_num(sample[n]))) for n in moving]) if moving else 1.0

    def signature(vector: Floats) -> bytes:
        # Twice the noise of a sum of floats must not change it often; what it hides, all rows tell apart.
        return np.where(np.isnan(vector), np.inf, np.round(vector, 4 if scale < 1e9 else 0) + 0.0).tobytes()

    singles = {signature(sample[n]): n for n in moving}
    pairs: dict[bytes, tuple[str, str]] = {}
    for i, one in enumerate(moving):
        for two in moving[i + 1 :]:
            key = signature(sample[one] + sample[two])
            pairs.setdefault(key, (one, two))
            if key in singles and singles[key] not in (one, two):
                yield singles[key], (one, two)
    for total in moving:
        for third in moving:
            if total == third:
                continue
            found = pairs.get(signature(sample[total] - sample[third]))
            if found and total not in found and third not in found and third == max(third, *found):
                yield total, (*found, third)


def _equal(one: Floats, two: Floats) -> bool:
    gone = np.isnan(one)
    if not np.array_equal(gone, np.isnan(two)):
        return False
    one, two = one[~gone], two[~gone]
    return bool((np.abs(one - two) <= NEAR * (1 + np.abs(one))).all())


@dataclass
class _Known:
    """The values of a column of labels so far, in the order in which they came; None: it has too many."""

    codes: dict[Scalar | None, int] | None
    counts: NDArray[np.int64]


@final
class _Labels:
    """Columns of few values that decide others: which value these have, or where these are missing."""

    def __init__(self, names: Sequence[str], every: Sequence[str]) -> None:
        self._known = {n: _Known({}, np.zeros(0, np.int64)) for n in names}
        # decides[a][b]: the code that b has for each code of a; absent where a does not decide b.
        self._decides: dict[str, dict[str, NDArray[np.int64]]] = {
            a: {b: np.full(LABELS + 1, -1, np.int64) for b in names if b != a} for a in names
        }
        # gone[a][b]: rows in which b is there and missing for each code of a.
        self._gone: dict[str, dict[str, NDArray[np.int64]]] = {
            a: {b: np.zeros((LABELS + 1, 2), np.int64) for b in every if b != a} for a in names
        }

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Takes the next rows."""
        codes = {}
        for name, known in self._known.items():
            if known.codes is not None:
                codes[name] = _codes(columns[name], known)
        self._forget([n for n, k in self._known.items() if k.codes is None])
        nulls = {n: columns[n].is_null(nan_is_null=True).to_numpy(zero_copy_only=False) for n in columns}
        for a, mine in codes.items():
            if self._known[a].codes is None:
                continue
            first = np.unique(mine, return_index=True)
            for b in [b for b in self._decides[a] if b in codes and self._known[b].codes is not None]:
                table = self._decides[a][b]
                new = table[first[0]] < 0
                table[first[0][new]] = codes[b][first[1][new]]
                if not (table[mine] == codes[b]).all():
                    del self._decides[a][b]
            for b in list(self._gone[a]):
                self._gone[a][b] += np.stack(
                    [np.bincount(mine[nulls[b] == g], minlength=LABELS + 1) for g in (False, True)], 1
                )
                if (self._gone[a][b] > 0).all(1).any():
                    del self._gone[a][b]

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._decides.pop(name, None)
            self._gone.pop(name, None)
            for others in self._decides.values():
                others.pop(name, None)

    def combinations(
        self, known: Mapping[str, Column], rows: int, at_least: int, taken: set[str]
    ) -> Iterator[Combinations]:
        """Each column with all that it decides, the one with most values first; no column twice."""
        used = set(taken)
        sizes = {a: len(self._known[a].codes or ()) for a in self._decides}
        for a in sorted(self._decides, key=lambda n: (-sizes[n], list(known).index(n))):
            counts = self._known[a].counts
            shared = counts[counts >= at_least].sum() / max(1, counts.sum())
            if a in used or sizes[a] < 3 or shared < SHARED or not _is_labelled(known[a]):
                continue
            decided = [
                b
                for b in self._decides[a]
                if b not in used and _is_labelled(known[b]) and self._says_much(a, b, rows)
            ]
            if decided and any(is_text(known[n].arrow_type) for n in (a, *decided)):
                names = [n for n in known if n == a or n in decided]
                used |= set(names)
                yield Combinations(
                    rule="combinations",
                    columns=tuple(names),
                    note=f"in all {rows:,} rows {a} decides {', '.join(decided)}; {sizes[a]} combinations",
                )

    def _says_much(self, a: str, b: str, rows: int) -> bool:
        """Whether values of `b` that know nothing of `a` would hardly agree so."""
        counts = self._known[b].counts
        most = counts.max() / max(1, counts.sum())
        return len(counts) > 1 and most < 1 and (rows - len(self._known[a].counts)) * -math.log(most) > 20

    def missing(
        self, known: Mapping[str, Column], rows: int, at_least: int, taken: set[str]
    ) -> Iterator[Missing]:
        """For each column the one of fewest values that says exactly where it is missing."""
        best: dict[str, tuple[int, str, list[int]]] = {}
        for a, others in self._gone.items():
            codes = self._known[a].codes or {}
            if not 2 <= len(codes) <= SAYING or (known[a].kind == "numerical" and len(codes) > SAYING):
                continue
            for b, table in others.items():
                table = table[: len(codes)]
                gone = np.flatnonzero(table[:, 1])
                named = [list(codes)[i] for i in gone]
                enough = table.sum(0).min() >= max(at_least, 10) and (table.sum(1) >= at_least).all()
                itself = named == [None]
                if not enough or itself or not _may_miss(known[b]) or b in taken:
                    continue
                if b not in best or len(codes) < best[b][0]:
                    best[b] = (len(codes), a, [int(i) for i in gone])
        needs: dict[str, set[str]] = {}
        for b, (_, a, places) in best.items():
            try:
                acyclic({**needs, b: {a}})
            except ValueError:
                continue
            needs[b] = {a}
            values = tuple(list(self._known[a].codes or ())[i] for i in places)
            yield Missing(
                rule="missing", column=b, where=a, values=values, note=f"holds in all {rows:,} rows"
            )


def _codes(array: pa.Array, known: _Known) -> NDArray[np.int64]:
    """Codes of the values; `known` loses its codes where these are too many."""
    assert known.codes is not None
    words = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    if len(words.dictionary) > 4 * LABELS:
        known.codes = None
        return np.zeros(0, np.int64)
    values = [*words.dictionary.to_pylist(), None]
    places = words.indices.cast(pa.int64()).fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
    met = np.bincount(places, minlength=len(values)) > 0
    table = np.zeros(len(values), np.int64)
    for i in np.flatnonzero(met):
        table[i] = known.codes.setdefault(values[i], len(known.codes))
    if len(known.codes) > LABELS:
        known.codes = None
        return np.zeros(0, np.int64)
    codes: NDArray[np.int64] = table[places]
    counts = np.bincount(codes, minlength=len(known.codes))
    counts[: len(known.counts)] += known.counts
    known.counts = counts
    return codes


def _plain(type: pa.DataType) -> pa.DataType:
    return type.value_type if pa.types.is_dictionary(type) else type


def _is_number(type: pa.DataType) -> bool:
    number = pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)
    return bool(number or (pa.types.is_temporal(type) and not pa.types.is_interval(type)))


def _is_label(type: pa.DataType) -> bool:
    return bool(is_text(type) or pa.types.is_boolean(type) or pa.types.is_integer(type))


def _is_ordered(column: Column) -> bool:
    return column.kind in ("numerical", "datetime", "duration")


def _is_labelled(column: Column) -> bool:
    whole = column.kind == "numerical" and pa.types.is_integer(column.arrow_type)
    return column.kind in ("categorical", "boolean") or whole


def _may_miss(column: Column) -> bool:
    return column.nullable and column.kind not in ("empty", "text", "identifier")


def _floats(array: pa.Array) -> Floats:
    """Values as float64 (n,), NaN where missing; times in seconds, so that units do not matter."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_temporal(kind):
        unit = (
            86_400.0
            if pa.types.is_date32(kind)
            else 1e-3
            if pa.types.is_date64(kind)
            else _SECONDS[kind.unit]
        )
        small = pa.int32() if kind.bit_width == 32 else pa.int64()
        return np.asarray(_floats(array.cast(small)) * unit)
    floats = pc.cast(array, pa.float64(), safe=False)
    return np.array(floats.fill_null(np.nan).to_numpy(zero_copy_only=False))


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
