"""Constraints: a table whose constraints hold ⇄ a table whose columns are free, which is what is learned.

Models draw columns that know nothing of constraints. So a column that must not be below others is learned as its gap
above the highest of them, a column that is a sum is not learned at all, and columns that have only some combinations
are learned as one column of these. Whatever a model draws, the way back gives rows in which the constraints hold.
What cannot be built in that way (uniqueness, a column that must not be missing, an order between columns that follow
from others) is checked in `synth.table`, which draws anew.

Arithmetic is exact where it can be: numbers with known decimals, decimals and times are integers of their common unit.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from privacy.curator import MISSING
from privacy.errors import ConditionError, InputError
from synth.keys import NOT_A_VALUE, from_keys, is_real, is_text, one
from synth.profile import ColumnProfile, Profile, key_of
from synth.rules import (
    Combinations,
    Missing,
    Order,
    Sum,
    Unique,
    acyclic,
    dependences,
    family,
    goes_round,
    grid_step,
)
from synth.schema import OTHER, Column, Schema, nearest, typed

Source = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
Known = Mapping[str, pa.Array]
Numbers = NDArray[np.int64] | NDArray[np.float64]
"""Values on a grid: integers where it is exact."""

_MOST_DIGITS = 9
_LARGEST = 2.0**62
_NEAR = 1e-9
"""Relative error that a sum of floats without known decimals may have."""


class Constraints:
    """How the constraints of one schema are built into what is learned.

    Attributes:
        schema: the table's.
        coded: the columns that are learned; the schema itself where it has no constraints.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._joints = tuple(_Joint(schema, c) for c in _of(schema, Combinations))
        self._sums = {c.column: _Total(schema, c) for c in _of(schema, Sum)}
        self._absent = {c.column: c for c in _of(schema, Missing)}
        self._gaps: dict[str, _Gap] = {}
        joined = {n for joint in self._joints for n in joint.rule.columns}
        needs = dependences(schema.constraints)
        lowers: dict[str, dict[str, bool]] = {}
        for order in _of(schema, Order):
            for low, high in order.pairs:
                free = high not in joined and high not in self._sums
                if free and not goes_round(needs, upper=high, lower=low):
                    needs.setdefault(high, set()).add(low)
                    lowers.setdefault(high, {})[low] = order.strict or lowers.get(high, {}).get(low, False)
        self._order = acyclic(needs)
        taken = set(schema.names)
        for high, below in lowers.items():
            self._gaps[high] = _Gap(schema, high, below, taken)
        for joint in self._joints:
            joint.name = _free(joint.name, taken)
        self.coded = self._coded() if schema.constraints else schema

    def _coded(self) -> Schema:
        columns: list[Column] = []
        first = {joint.rule.columns[0]: joint for joint in self._joints}
        joined = {n for joint in self._joints for n in joint.rule.columns}
        for column in self.schema:
            if column.name in first:
                columns.append(first[column.name].column)
            elif column.name in self._gaps:
                columns += self._gaps[column.name].columns
            elif column.name not in joined and column.name not in self._sums:
                columns.append(column)
        return self.schema.model_copy(update={"columns": tuple(columns), "constraints": ()})

    # ---------------------------------------------------------------------------------------------- there

    def source(self, source: Source) -> Source:
        """The coded columns of a source of the table's; other columns that it has pass."""
        if not self.schema.constraints:
            return source

        def coded(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            needed = list(dict.fromkeys(n for c in columns for n in self._sources(c))) or [
                self.schema.names[0]
            ]
            for batch in source(needed):
                whole = dict(zip(batch.schema.names, batch.columns, strict=True))
                made = whole | self._encoded(whole)
                names = list(columns) or [self.coded.names[0]][:0]
                if not names:
                    yield batch
                    continue
                yield pa.RecordBatch.from_arrays([made[n] for n in names], names=names)

        return coded

    def encode(self, table: pa.Table) -> pa.Table:
        """The coded columns of a table; of columns that it lacks, what follows from them lacks too.

        Raises:
            InputError: it has some of the columns that a constraint ties together and not others, or one of another
                type than the schema says.
        """
        if not self.schema.constraints:
            return table
        whole: dict[str, pa.Array] = {}
        for name in table.column_names:
            whole[name] = self._typed(name, _one(table.column(name)))
        self._check_whole(whole)
        made = self._encoded(whole)
        kept = {n: made.get(n, whole.get(n)) for n in self.coded.names}
        arrays = {n: a for n, a in kept.items() if a is not None}
        return pa.table(arrays) if arrays else table.select([])

    def typed(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """Some columns of a table in the schema's types.

        Raises:
            InputError: one has another type and does not convert.
        """
        return pa.table({n: self._typed(n, _one(table.column(n))) for n in names})

    def _typed(self, name: str, array: pa.Array) -> pa.Array:
        return typed(self.schema[name], array) if name in self.schema.names else array

    def _check_whole(self, there: Known) -> None:
        tied = [(j.rule.columns, j.rule.columns) for j in self._joints]
        tied += [((g.upper,), tuple(g.lowers)) for g in self._gaps.values()]
        tied += [((t.rule.column,), t.rule.terms) for t in self._sums.values()]
        for ones, others in tied:
            lacking = [n for n in others if n not in there]
            held = [n for n in ones if n in there]
            if held and lacking:
                raise InputError(
                    f"columns that a constraint ties together must be there together, however: {held[0]!r} is and "
                    f"{lacking[0]!r} is not; give both or neither"
                )

    def _sources(self, coded: str) -> tuple[str, ...]:
        """The table's columns that a coded one is made from."""
        for joint in self._joints:
            if coded == joint.name:
                return joint.rule.columns
        for gap in self._gaps.values():
            if coded in gap.names:
                return (gap.upper, *gap.lowers)
        return (coded,)

    def _encoded(self, whole: Known) -> dict[str, pa.Array]:
        made: dict[str, pa.Array] = {}
        for joint in self._joints:
            if all(n in whole for n in joint.rule.columns):
                made[joint.name] = joint.encode(whole)
        for gap in self._gaps.values():
            if gap.upper in whole and all(n in whole for n in gap.lowers):
                made |= gap.encode(whole)
        return made

    # ---------------------------------------------------------------------------------------------- and back

    def decode(self, coded: pa.Table, profile: Profile) -> pa.Table:
        """The table of coded rows: in each of them every constraint holds that is built in.

        Raises:
            InputError: no combination of columns may be named, and the columns have no word for others.
        """
        if not self.schema.constraints:
            return coded
        whole = {n: _one(coded.column(n)) for n in coded.column_names}
        for joint in self._joints:
            whole |= joint.decode(whole.pop(joint.name), _commonest(profile, joint.name))
        for name in self._order:
            if name in self._sums:
                whole[name] = self._sums[name].compute(whole)
            elif name in self._gaps:
                whole[name] = self._gaps[name].decode(whole)
            if name in self._absent:
                says = _says(self._absent[name], whole)
                whole[name] = pc.if_else(pa.array(says), pa.scalar(None, whole[name].type), whole[name])
        return pa.Table.from_arrays([whole[n] for n in self.schema.names], schema=self.schema.arrow)

    def released(self, coded: Schema, profile: Profile) -> Schema:
        """The schema of what `decode` gives.

        Args:
            coded: of the coded columns, with facts that hold for every row that is drawn.
            profile: says which combinations there are.
        """
        if not self.schema.constraints:
            return coded
        made: dict[str, Column] = {c.name: c for c in coded}
        constraints = []
        for joint in self._joints:
            made |= joint.released(profile)
        for name in self._order:
            if name in self._sums:
                made[name] = self._sums[name].released(made)
            elif name in self._gaps:
                made[name] = self._gaps[name].released(made)
            if name in self._absent:
                made[name] = made[name].model_copy(update={"nullable": True})
        listed = {joint.rule: joint.listed(profile) for joint in self._joints}
        for constraint in self.schema.constraints:
            values: dict[str, object] = {}
            if isinstance(constraint, Combinations):
                values = {"values": listed[constraint]}
            elif isinstance(constraint, Missing) and not constraint.declared:
                # A category that is pooled must not be told by a rule about it.
                known = made[constraint.where].categories
                if known is not None and any(v is not None and v not in known for v in constraint.values):
                    continue
            constraints.append(constraint.model_copy(update={**values, "note": None}))
        return coded.model_copy(
            update={
                "columns": tuple(made[n] for n in self.schema.names),
                "constraints": tuple(constraints),
            }
        )

    # ---------------------------------------------------------------------------------------------- checks

    def broken(self, table: pa.Table) -> NDArray[np.bool_]:
        """Which rows break a constraint that is about single rows: bool (n,)."""
        found = np.zeros(len(table), np.bool_)
        for constraint in self.schema.constraints:
            if not isinstance(constraint, Unique | Combinations):
                found |= breaks(constraint, table, self.schema)
        for name in (*self._sums, *self._gaps):
            found |= _outside(self.schema[name], table.column(name))
            if not self.schema[name].nullable:
                found |= _null(_one(table.column(name)))
        return found

    @property
    def may_miss(self) -> bool:
        """Whether a column may come out missing that must not be."""
        return bool(self._absent) or any(not self.schema[n].nullable for n in (*self._sums, *self._gaps))

    def to_draw_anew(self, table: pa.Table) -> Iterator[tuple[NDArray[np.bool_], tuple[str, ...]]]:
        """Rows in which a column is missing and must not be, with the coded columns that must be drawn anew."""
        for name, constraint in self._absent.items():
            whole = {n: _one(table.column(n)) for n in constraint.names}
            rows = _null(whole[name]) & ~_says(constraint, whole)
            yield rows, self._coded_of(name)
        for name in (*self._sums, *self._gaps):
            if not self.schema[name].nullable:
                terms = self._sums[name].rule.terms if name in self._sums else (name,)
                yield _null(_one(table.column(name))), tuple(c for t in terms for c in self._coded_of(t))

    def said_missing(self, table: pa.Table) -> Iterator[tuple[NDArray[np.bool_], str]]:
        """Rows in which a rule says that a column is missing, with its coded column."""
        for name, constraint in self._absent.items():
            if name in self.coded.names:
                yield _says(constraint, {constraint.where: _one(table.column(constraint.where))}), name

    def _coded_of(self, name: str) -> tuple[str, ...]:
        """What is learned in place of a column, as far as it is its own."""
        if name in self._gaps:
            return self._gaps[name].names
        return (name,) if name in self.coded.names else ()

    @property
    def unique(self) -> tuple[Unique, ...]:
        """The constraints that are about all rows together."""
        return tuple(_of(self.schema, Unique))

    # ---------------------------------------------------------------------------------------------- conditions

    def conditions(self, given: Mapping[str, object], profile: Profile) -> list[dict[str, object]]:
        """Conditions on coded columns that together mean these: rows that meet any of them do.

        Raises:
            ConditionError: a column does not exist, a condition contradicts a constraint, or says of a column that
                follows from others without saying it of these.
        """
        for name in given:
            if name not in self.schema.names:
                raise ConditionError(
                    f"a condition must name a column, however: {name!r} is none{nearest(name, self.schema.names)}"
                )
        if not self.schema.constraints:
            return [dict(given)]
        found: dict[str, object] = dict(given)
        cells = {
            n: self._cell(n, v) for n, v in given.items() if n not in self.coded.names or n in self._tied
        }
        self._check_given(cells, given)
        for name in self._sums:
            found.pop(name, None)
        for gap in self._gaps.values():
            found.pop(gap.upper, None)
            found |= gap.condition(cells)
        choices: list[dict[str, object]] = [found]
        for joint in self._joints:
            some = {n: cells[n] for n in joint.rule.columns if n in cells}
            if some:
                labels = joint.matching(some, profile)
                rest = [{k: v for k, v in c.items() if k not in some} for c in choices]
                choices = [{**c, joint.name: label} for c in rest for label in labels]
        return choices

    @cached_property
    def _tied(self) -> frozenset[str]:
        """The columns that a constraint about single rows names."""
        stated = (c for c in self.schema.constraints if not isinstance(c, Unique))
        return frozenset(n for c in stated for n in c.names)

    def _cell(self, name: str, value: object) -> pa.Array:
        kind = self.schema[name].arrow_type
        try:
            return one(value, kind)
        except NOT_A_VALUE:
            raise ConditionError(
                f"a condition on {name!r} must be one value of type {kind}, however: it is "
                f"{type(value).__name__}; draw for each of several values, None means missing"
            ) from None

    def _check_given(self, cells: Known, given: Mapping[str, object]) -> None:
        for constraint in self.schema.constraints:
            held = [n for n in constraint.names if n in cells]
            lacking = [n for n in constraint.names if n not in cells]
            if isinstance(constraint, Unique) and not [n for n in constraint.names if n not in given]:
                raise ConditionError(
                    f"a condition must leave rows that differ, however: it fixes {constraint}; leave a column out"
                )
            follows = isinstance(constraint, Sum) and constraint.column in cells
            follows |= isinstance(constraint, Order) and any(
                high in self._gaps and high in cells and cells[high][0].is_valid and low not in cells
                for low, high in constraint.pairs
            )
            if follows and lacking:
                raise ConditionError(
                    f"a condition on a column that follows from others must fix these too, however: {constraint}, and "
                    f"only {', '.join(map(repr, held))} is fixed; fix {', '.join(map(repr, lacking))} as well, or "
                    f"condition on them alone"
                )
            if isinstance(constraint, Unique | Combinations) or lacking:
                continue
            if breaks(constraint, pa.table(dict(cells)), self.schema)[0]:
                raise ConditionError(
                    f"a condition must be possible, however: it breaks {constraint}; correct it"
                )


def breaks(constraint: object, table: pa.Table, schema: Schema) -> NDArray[np.bool_]:
    """Which rows break a constraint: bool (n,); of rows that are not unique, all but the first.

    Args:
        constraint: of the schema; combinations without a list are met by every row.
        table: rows that have its columns.
        schema: says what the columns are.
    """
    whole = {n: _one(table.column(n)) for n in constraint.names}  # type: ignore[attr-defined]
    found = np.zeros(len(table), np.bool_)
    if isinstance(constraint, Order):
        for low, high in constraint.pairs:
            grid = _Grid([schema[low], schema[high]])
            (a, no_a), (b, no_b) = grid.read(low, whole[low]), grid.read(high, whole[high])
            found |= ~no_a & ~no_b & ((b <= a) if constraint.strict else (b < a))
    elif isinstance(constraint, Sum):
        found = _Total(schema, constraint).differs(whole)
    elif isinstance(constraint, Missing):
        found = _null(whole[constraint.column]) != _says(constraint, whole)
    elif isinstance(constraint, Combinations) and constraint.values is not None:
        joint = _Joint(schema, constraint)
        found = ~np.asarray(pc.is_in(joint.encode(whole), value_set=pa.array(joint.labels, pa.string())))
    elif isinstance(constraint, Unique):
        hashes, known = unique_keys(constraint, table)
        first = np.flatnonzero(known)[np.unique(hashes[known], return_index=True)[1]]
        found = known.copy()
        found[first] = False
    return found


def unique_keys(constraint: Unique, table: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """64 bits for each row's values, uint64 (n,), and whether all of them are there, bool (n,).

    Two rows that differ share them with probability 2^-64.
    """
    known = np.ones(len(table), np.bool_)
    total = np.zeros(len(table), np.uint64)
    for name in constraint.columns:
        array = _one(table.column(name))
        known &= ~_null(array)
        values = pa.array(array.dictionary_decode() if pa.types.is_dictionary(array.type) else array)
        plain = (
            values.to_pandas() if not is_text(values.type) else pd.Series(values.to_pylist(), dtype=object)
        )
        hashed = pd.util.hash_pandas_object(plain, index=False, categorize=True).to_numpy().astype(np.uint64)
        with np.errstate(over="ignore"):
            total = (total ^ hashed) * np.uint64(0x9E3779B97F4A7C15)
            total ^= total >> np.uint64(29)
    return total, known


# ------------------------------------------------------------------------------------------------------- gaps


class _Gap:
    """A column as its gap above the highest of those that it must not be below; where these are missing, as it is."""

    def __init__(self, schema: Schema, upper: str, lowers: Mapping[str, bool], taken: set[str]) -> None:
        self.upper = upper
        self.lowers = dict(lowers)
        self._column = schema[upper]
        below = [schema[n] for n in lowers]
        self._grid = _Grid([self._column, *below])
        self._strict = any(lowers.values())
        self._gap = self._gap_column(below, _free(f"{upper} above {' and '.join(lowers)}", taken))
        self._own: Column | None = None
        if all(c.nullable for c in below):
            name = _free(f"{upper} without {' and '.join(lowers)}", taken)
            self._own = self._column.model_copy(update={"name": name, "nullable": True, "note": None})

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is learned in place of the column."""
        return (self._gap,) if self._own is None else (self._gap, self._own)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(c.name for c in self.columns)

    def encode(self, whole: Known) -> dict[str, pa.Array]:
        """The columns that are learned."""
        value, missing = self._grid.read(self.upper, whole[self.upper])
        base, none = self._base(whole)
        gap = self._grid.gaps(value - base, missing | none, self._gap.arrow_type)
        made = {self._gap.name: gap}
        if self._own is not None:
            own = whole[self.upper]
            made[self._own.name] = pc.if_else(pa.array(none), own, pa.scalar(None, own.type))
        return made

    def decode(self, whole: Known) -> pa.Array:
        """The column."""
        base, none = self._base(whole)
        gap, missing = self._grid.read_gaps(whole[self._gap.name])
        value = base + gap
        if self._strict and value.dtype == np.float64:
            value = np.maximum(value, np.nextafter(base, np.inf))
        made = self._grid.write(self.upper, value, missing | none, upward=True, at_most=self._most)
        if self._own is None:
            return made
        return pc.if_else(pa.array(none), whole[self._own.name], made)

    def condition(self, cells: Known) -> dict[str, object]:
        """What is known of the columns that are learned, where these cells are."""
        lows = [cells[n] for n in self.lowers if n in cells]
        found: dict[str, object] = {}
        if self.upper in cells and not cells[self.upper][0].is_valid:
            found = dict.fromkeys(self.names)
        elif self.upper in cells and len(lows) == len(self.lowers):
            found = {n: a[0].as_py() for n, a in self.encode(cells).items()}
        elif self._own is not None and any(cell[0].is_valid for cell in lows):
            found = {self._own.name: None}
        return found

    def released(self, made: Mapping[str, Column]) -> Column:
        """The column with facts that hold for every row: its ends follow from those of its parts."""
        below = [made[n] for n in self.lowers]
        gap = made[self._gap.name]
        own = None if self._own is None else made[self._own.name]
        nullable = gap.nullable if own is None else gap.nullable or own.nullable
        if all(not c.nullable for c in below) and own is not None:
            nullable = gap.nullable
        ends = {"min": self._end(below, gap, "min", own), "max": self._end(below, gap, "max", own)}
        kept = {
            k: v
            for k, v in ends.items()
            if not (self._column.declared and getattr(self._column, k) is not None)
        }
        return self._column.model_copy(update={**kept, "nullable": nullable})

    def _end(self, below: Sequence[Column], gap: Column, side: str, own: Column | None) -> object:
        ends = [getattr(c, side) for c in below]
        if any(e is None for e in ends) or getattr(gap, side) is None:
            return None
        values = [self._grid.value(c, e) for c, e in zip(below, ends, strict=True)]
        total = max(values) + self._grid.gap_value(getattr(gap, side))
        if own is not None and getattr(own, side) is None and own.nullable is False:
            return None
        if own is not None and getattr(own, side) is not None:
            alone = self._grid.value(self._column, getattr(own, side))
            total = min(total, alone) if side == "min" else max(total, alone)
        written = self._grid.write(
            self.upper, np.array([total]), np.zeros(1, np.bool_), upward=True, at_most=None
        )
        return _plain(written[0])

    @cached_property
    def _most(self) -> int | float | None:
        """The declared largest value of the column, on the grid."""
        if not self._column.declared or self._column.max is None:
            return None
        return self._grid.value(self._column, self._column.max)

    def _base(self, whole: Known) -> tuple[Numbers, NDArray[np.bool_]]:
        """The highest of the lower columns, and where all of them are missing."""
        read = [self._grid.read(n, whole[n]) for n in self.lowers]
        values, missing = read[0]
        for other, gone in read[1:]:
            values = np.where(missing, other, np.where(gone, values, np.maximum(values, other)))
            missing = missing & gone
        return np.where(missing, 0, values), missing

    def _gap_column(self, below: Sequence[Column], name: str) -> Column:
        kind, type = self._grid.gap_type
        least: int | float = 0
        step = None
        if self._grid.exact:
            all_columns = [self._column, *below]
            if type != "double":
                starts = [None if c.min is None else int(self._grid.value(c, c.min)) for c in all_columns]
                factors = [self._grid.factor(c.name) for c in all_columns]
                steps = [
                    None if c.step is None else c.step * f for c, f in zip(all_columns, factors, strict=True)
                ]
                step = grid_step(steps, starts)
            least = ((step or 1) if type != "double" else 10.0**-self._grid.digits) if self._strict else 0
        most = None
        bounded = all(c.declared and c.min is not None for c in below)
        if bounded and self._column.declared and self._column.max is not None:
            lowest = max(self._grid.value(c, c.min) for c in below if c.min is not None)
            most = self._grid.shown_gap(self._grid.value(self._column, self._column.max) - lowest)
        return Column(
            name=name,
            kind="duration" if kind == "duration" else "numerical",
            type=type,
            nullable=self._column.nullable or any(c.nullable for c in below),
            facts=f"declared: never below {' and '.join(self.lowers)}",
            min=least,
            max=most,
            digits=self._grid.digits if type == "double" and self._grid.exact else None,
            step=step,
        )


class _Total:
    """A column that is the sum or difference of others."""

    def __init__(self, schema: Schema, rule: Sum) -> None:
        self.rule = rule
        self._column = schema[rule.column]
        self._grid = _Grid([schema[n] for n in rule.names])

    def compute(self, whole: Known) -> pa.Array:
        """The column from those that it is the sum of."""
        value, missing, _ = self._sum(whole)
        return self._grid.write(self.rule.column, value, missing, upward=False, at_most=None)

    def differs(self, whole: Known) -> NDArray[np.bool_]:
        """Where the column is not what it should be, beyond half a unit of its last digit."""
        value, missing, size = self._sum(whole)
        held, gone = self._grid.read(self.rule.column, whole[self.rule.column])
        apart = np.abs(held - value)
        near = self._grid.coarseness(self.rule.column) / 2 if self._grid.exact else _NEAR * (1 + size)
        return np.asarray((missing != gone) | (~missing & ~gone & (apart > near)))

    def released(self, made: Mapping[str, Column]) -> Column:
        """The column with facts that hold for every row."""
        ends: dict[str, object] = {}
        for side, other in (("min", "max"), ("max", "min")):
            parts = [(made[n], side, 1) for n in self.rule.plus] + [
                (made[n], other, -1) for n in self.rule.minus
            ]
            ends[side] = None
            if all(getattr(c, s) is not None for c, s, _ in parts):
                total = sum(sign * self._grid.value(c, getattr(c, s)) for c, s, sign in parts)
                written = self._grid.write(
                    self.rule.column,
                    np.array([total]),
                    np.zeros(1, np.bool_),
                    upward=side == "max",
                    at_most=None,
                )
                ends[side] = _plain(written[0])
        kept = {
            k: v
            for k, v in ends.items()
            if not (self._column.declared and getattr(self._column, k) is not None)
        }
        nullable = any(made[n].nullable for n in self.rule.terms)
        return self._column.model_copy(update={**kept, "nullable": nullable, "step": None})

    def _sum(self, whole: Known) -> tuple[Numbers, NDArray[np.bool_], NDArray[np.float64]]:
        """The sum, where a term is missing, and the sum of magnitudes."""
        value: Numbers = np.zeros(1, np.int64)
        missing = np.zeros(1, np.bool_)
        size = np.zeros(1)
        for names, sign in ((self.rule.plus, 1), (self.rule.minus, -1)):
            for name in names:
                term, gone = self._grid.read(name, whole[name])
                value, missing, size = value + sign * term, missing | gone, size + np.abs(term)
        return value, missing, size


class _Grid:
    """Values of columns that can be compared, in their common unit.

    Exact are integers, times, and numbers whose decimals are known: int64. Other floats stay what they are.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = {c.name: c for c in columns}
        types = [c.arrow_type for c in columns]
        self._numbers = family(types[0]) == "numbers"
        digits = [_digits(c) for c in columns] if self._numbers else [0]
        self.exact = all(d is not None and d <= _MOST_DIGITS for d in digits)
        self.digits = max((d or 0) for d in digits) if self.exact else 0
        self._unit = "D"
        if not self._numbers:
            self._unit = max((_unit(t) for t in types), key=list(_PER_DAY).index)

    @property
    def gap_type(self) -> tuple[str, str]:
        """Kind and type of differences."""
        if not self._numbers and self._unit != "D":
            return "duration", f"duration[{self._unit}]"
        return "numerical", "int64" if self.exact and not self.digits else "double"

    def factor(self, name: str) -> int:
        """Units of the grid in one unit of the column's type."""
        if not self._numbers:
            return _PER_DAY[self._unit] // _PER_DAY[_unit(self._columns[name].arrow_type)]
        return 10 ** (self.digits - (_digits(self._columns[name]) or 0)) if self.exact else 1

    def coarseness(self, name: str) -> int:
        """Units of the grid between neighbouring values of the column."""
        if pa.types.is_date64(self._columns[name].arrow_type):
            return _PER_DAY[self._unit]
        return self.factor(name)

    def read(self, name: str, array: pa.Array) -> tuple[Numbers, NDArray[np.bool_]]:
        """Values on the grid, 0 where missing, and where they are: int64 or float64 (n,), bool (n,)."""
        missing = _null(array)
        if not self._numbers:
            raw = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64()).cast(pa.int64())
            return _times(raw.fill_null(0).to_numpy(zero_copy_only=False), self.factor(name)), missing
        if self.exact and pa.types.is_integer(array.type) and not pa.types.is_uint64(array.type):
            whole = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            return _times(whole, self.factor(name)), missing
        # Unsafe: what lies beyond 2^53 is rounded, as everywhere where floats and integers meet.
        floats = array.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False)
        floats = np.where(missing, 0.0, floats)
        if not self.exact:
            return floats, missing
        digits = _digits(self._columns[name]) or 0
        with np.errstate(over="ignore"):
            return _times(_whole(floats * 10.0**digits), self.factor(name)), missing

    def write(
        self,
        name: str,
        values: Numbers,
        missing: NDArray[np.bool_],
        *,
        upward: bool,
        at_most: int | float | None,
    ) -> pa.Array:
        """Values on the grid as the column has them, rounded to its own digits: up, or to the nearest."""
        column, kind = self._columns[name], self._columns[name].arrow_type
        values = values if at_most is None else np.minimum(values, at_most)
        if not self.exact:
            return _numbers(np.asarray(values, np.float64), missing, kind)
        units = np.asarray(values, np.int64)
        step = self.coarseness(name)
        half = 0 if step == 1 else (step - 1 if upward else step // 2)
        units = (units + half) // step
        if not self._numbers:
            raw = units * (_PER_DAY["ms"] if pa.types.is_date64(kind) else 1)
            small = pa.int32() if kind.bit_width == 32 else pa.int64()
            info = np.iinfo(small.to_pandas_dtype())
            return pa.array(np.clip(raw, info.min, info.max), mask=missing).cast(small).cast(kind)
        digits = _digits(column) or 0
        if pa.types.is_integer(kind):
            info = np.iinfo(kind.to_pandas_dtype())
            return pa.array(np.clip(units, info.min, min(info.max, 2**63 - 1)), mask=missing).cast(kind)
        if pa.types.is_decimal(kind):
            return from_keys(np.where(missing, MISSING, units), kind)
        return _numbers(units / 10.0**digits, missing, kind)

    def gaps(self, values: Numbers, missing: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
        """Differences on the grid as the column of gaps has them."""
        if pa.types.is_floating(kind):
            return pa.array(values / 10.0**self.digits if self.exact else values, mask=missing).cast(kind)
        return pa.array(np.asarray(values, np.int64), mask=missing).cast(kind)

    def read_gaps(self, array: pa.Array) -> tuple[Numbers, NDArray[np.bool_]]:
        """The inverse of `gaps`."""
        missing = _null(array)
        if not pa.types.is_floating(array.type):
            return array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), missing
        floats = np.where(missing, 0.0, array.fill_null(0.0).to_numpy(zero_copy_only=False))
        return (_whole(floats * 10.0**self.digits) if self.exact else floats), missing

    def value(self, column: Column, written: object) -> int | float:
        """A bound, as a schema writes it, on the grid."""
        known = column if column.name in self._columns else next(iter(self._columns.values()))
        kind = column.arrow_type
        if self._numbers:
            number, _ = self.read(known.name, pa.array([float(str(written))]).cast(pa.float64()))
            return number[0].item()  # type: ignore[no-any-return]
        key = key_of(column, written)  # type: ignore[arg-type]
        return key * (_PER_DAY[self._unit] // _PER_DAY[_unit(kind)])

    def gap_value(self, written: object) -> int | float:
        """A bound of the gaps, as a schema writes it, on the grid."""
        number = float(str(written))
        return round(number * 10**self.digits) if self.exact else number

    def shown_gap(self, value: int | float) -> int | float:
        """The inverse of `gap_value`."""
        return value / 10**self.digits if self.exact and self.digits else value


_PER_DAY = {"D": 1, "s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def _unit(kind: pa.DataType) -> str:
    if pa.types.is_date(kind):
        return "D" if pa.types.is_date32(kind) else "ms"
    return str(kind.unit)


def _digits(column: Column) -> int | None:
    """Decimals of a column of numbers, or None where they are not known."""
    kind = column.arrow_type
    if pa.types.is_integer(kind):
        return 0
    if pa.types.is_decimal(kind):
        return None if is_real(kind) else int(kind.scale)
    return column.digits


def _whole(floats: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.rint(floats), -_LARGEST, _LARGEST).astype(np.int64)


def _times(whole: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    """Whole · factor, held within what int64 holds with room for a difference."""
    most = int(_LARGEST) // factor
    return np.clip(np.asarray(whole, np.int64), -most, most) * factor


def _numbers(values: NDArray[np.float64], missing: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    floats = pa.array(values, mask=missing)
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        return pa.array(np.clip(np.rint(values), info.min, min(info.max, 2.0**62)), mask=missing).cast(
            kind, safe=False
        )
    return floats.cast(kind, safe=False)


# ------------------------------------------------------------------------------------------------ combinations


class _Joint:
    """Columns as one: each combination of their values is a word."""

    def __init__(self, schema: Schema, rule: Combinations) -> None:
        self.rule = rule
        self.name = ", ".join(rule.columns)
        self._columns = [schema[n] for n in rule.columns]
        self._text = all(is_text(c.arrow_type) for c in self._columns)
        self.labels = () if rule.values is None else tuple(self._label(row) for row in rule.values)

    @property
    def column(self) -> Column:
        """What is learned in place of the columns."""
        listed = (
            {"categories": self.labels, "facts": "declared: combinations are listed"} if self.labels else {}
        )
        return Column.model_validate(
            {"name": self.name, "kind": "categorical", "type": "string", "nullable": False, **listed}
        )

    def encode(self, whole: Known) -> pa.Array:
        """The word of each row."""
        codes = np.zeros(len(whole[self.rule.columns[0]]), np.int64)
        words: list[list[str | None]] = []
        for column in self._columns:
            array = whole[column.name]
            array = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
            known = [*array.dictionary.cast(pa.string()).to_pylist(), None]
            places = array.indices.cast(pa.int64()).fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
            codes = codes * len(known) + places
            # Few combinations occur, so that codes stay small whatever the number of columns.
            seen, codes = np.unique(codes, return_inverse=True)
            before = words or [[]]
            words = [[*before[int(s) // len(known)], known[int(s) % len(known)]] for s in seen]
        return pa.array([_word(w) for w in words], pa.string()).take(pa.array(codes.astype(np.int64)))

    def decode(self, labels: pa.Array, stand_in: str | None) -> dict[str, pa.Array]:
        """The columns of each row; a rare combination is named by the word for others, or by the commonest one."""
        words = labels.dictionary_encode()
        rows = [self._values(w, stand_in) for w in words.dictionary.to_pylist()]
        made = {}
        for i, column in enumerate(self._columns):
            kind = column.arrow_type
            plain = kind.value_type if pa.types.is_dictionary(kind) else kind
            values = pa.array([r[i] for r in rows], pa.string()).cast(plain).take(words.indices)
            made[column.name] = values.dictionary_encode().cast(kind) if plain != kind else values
        return made

    def matching(self, some: Known, profile: Profile) -> list[str]:
        """The words that have these values.

        Raises:
            ConditionError: there is none.
        """
        wanted = {self.rule.columns.index(n): a.cast(pa.string())[0].as_py() for n, a in some.items()}
        learned = _learned(profile, self.name)
        words = [str(a) for a in learned.atoms]
        words += [OTHER] if learned.pooled > 0 and self._text and not self.labels else []
        found = [w for w in words if all(self._values(w, OTHER)[i] == v for i, v in wanted.items())]
        if not found:
            shown = ", ".join(f"{self.rule.columns[i]} = {v!r}" for i, v in wanted.items())
            raise ConditionError(
                f"a condition must be possible, however: {shown} is in none of the {self.rule}; "
                "leave a column out or correct a value"
            )
        return found

    def listed(self, profile: Profile) -> tuple[tuple[object, ...], ...]:
        """The combinations that are released, with values as a schema writes them."""
        learned = _learned(profile, self.name)
        words = [str(a) for a in learned.atoms]
        words += [OTHER] if learned.pooled > 0 and self._text and not self.labels else []
        table = self.decode(pa.array(words, pa.string()), None)
        columns = [[_plain(v) for v in table[c.name]] for c in self._columns]
        return tuple(dict.fromkeys(zip(*columns, strict=True)))

    def released(self, profile: Profile) -> dict[str, Column]:
        """The columns with facts that hold for every row."""
        rows = self.listed(profile)
        made = {}
        for i, column in enumerate(self._columns):
            values = [v for v in dict.fromkeys(r[i] for r in rows) if v is not None]
            facts: dict[str, object] = {"nullable": any(r[i] is None for r in rows)}
            if column.kind in ("numerical", "datetime"):
                ordered = sorted(values, key=lambda v: v)  # type: ignore[arg-type, return-value]
                facts |= {"min": ordered[0], "max": ordered[-1]} if ordered else {}
            else:
                facts["categories"] = tuple(sorted(values, key=str))
            made[column.name] = column.model_copy(update=facts)
        return made

    def _label(self, row: Sequence[object]) -> str:
        values = []
        for column, value in zip(self._columns, row, strict=True):
            kind = column.arrow_type
            plain = kind.value_type if pa.types.is_dictionary(kind) else kind
            try:
                values.append(one(value, plain).cast(pa.string())[0].as_py())
            except NOT_A_VALUE:
                raise InputError(
                    f"combinations must list values of their columns' types, however: {self.rule}: {column.name!r} is "
                    f"{column.type} and has {value!r}; correct the list"
                ) from None
        return _word(values)

    def _values(self, word: str | None, stand_in: str | None) -> list[str | None]:
        if word == OTHER and (not self._text or self.labels) and stand_in != OTHER:
            if stand_in is None:
                raise InputError(
                    f"combinations must have one that enough units share, however: {self.rule} have none; list them "
                    "under `values`, leave the constraint out, or lower at_least"
                )
            word = stand_in
        if word is None or word == OTHER:
            return [OTHER] * len(self._columns)
        values: list[str | None] = json.loads(word)
        return values


def _word(values: Sequence[str | None]) -> str:
    return json.dumps(list(values), ensure_ascii=False)


def _learned(profile: Profile, name: str) -> ColumnProfile:
    return next(c for c in profile.columns if c.name == name)


def _commonest(profile: Profile, name: str) -> str | None:
    learned = _learned(profile, name)
    return str(learned.atoms[int(np.argmax(learned.atom_rates))]) if learned.atoms else None


# --------------------------------------------------------------------------------------------------------- small


def _says(rule: Missing, whole: Known) -> NDArray[np.bool_]:
    """Where the rule says that its column is missing."""
    array = whole[rule.where]
    plain = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    listed: list[pa.Scalar] = []
    for value in rule.values:
        if value is not None:
            try:
                listed.append(one(value, plain.type)[0].as_py())
            except NOT_A_VALUE:
                raise InputError(
                    f"a constraint must name values of the column's type, however: {rule.where!r} is {plain.type} "
                    f"and {value!r} is not; correct the constraint"
                ) from None
    found = np.asarray(pc.is_in(plain, value_set=pa.array(listed, plain.type)).fill_null(False))
    missing = _null(plain)
    return np.asarray(np.where(missing, None in rule.values, found), np.bool_)


def _outside(column: Column, values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where a column that follows from others is beyond its declared bounds."""
    found = np.zeros(len(values), np.bool_)
    if not column.declared or (column.min is None and column.max is None):
        return found
    grid = _Grid([column])
    held, missing = grid.read(column.name, _one(values))
    if column.min is not None:
        found |= held < grid.value(column, column.min)
    if column.max is not None:
        found |= held > grid.value(column, column.max)
    return found & ~missing


def _null(array: pa.Array) -> NDArray[np.bool_]:
    floating = pa.types.is_floating(array.type)
    return np.array(array.is_null(nan_is_null=floating).to_numpy(zero_copy_only=False), np.bool_)


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def _plain(value: pa.Scalar) -> bool | int | float | str | None:
    """A scalar as a schema writes it."""
    if not value.is_valid:
        return None
    from synth.codec import plain

    return plain(value)


def _free(name: str, taken: set[str]) -> str:
    """The name, or the next one that no column has."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def _of(schema: Schema, rule: type) -> list:  # type: ignore[type-arg]
    return [c for c in schema.constraints if isinstance(c, rule)]
