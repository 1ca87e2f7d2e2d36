"""Profile: what was learned of each column by asking the curator.

A profile says, for each column, how often it is missing, which values carry a noticeable share of the rows
(atoms), which rare values were pooled, and how the rest is spread over cells. How it is learned is another room's:
`synth.learn`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from privacy.curator import MISSING, Keys
from privacy.errors import SchemaError
from synth.absence import Absence
from synth.keys import NOT_A_VALUE, is_text, one, to_keys
from synth.rules import Scalar
from synth.schema import Column

Labels = Callable[[str, Keys], list[str]]
"""Column and codes → strings. Asked only for codes that may leave."""

LARGEST_KEY = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """What was learned of one column. All rates are shares of all rows; together they make 1.

    Attributes:
        name: the column.
        missing: rate of missing values.
        atoms: keys of the atoms, or strings for a column of strings.
        atom_rates: their rates.
        pooled: rate of the values that are pooled because too few units share them.
        edges: keys (m + 1): borders of the m cells of the rest; empty when there is no rest.
        support: keys (m): the values that the cells stand for, where the column takes only these; else empty.
        cell_rates: rates of the m cells.
    """

    name: str
    missing: float
    atoms: tuple[int | str, ...] = ()
    atom_rates: tuple[float, ...] = ()
    pooled: float = 0.0
    edges: tuple[int, ...] = ()
    support: tuple[int, ...] = ()
    cell_rates: tuple[float, ...] = ()

    @property
    def spread(self) -> float:
        """Rate of the rows whose value lies in cells."""
        return float(sum(self.cell_rates))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What was learned of a table.

    Attributes:
        rows: number of rows that are learned from, as answered.
        at_least: units that had to share a value; 0 means that disclosure control was off.
        columns: one profile per column of the schema, in its order.
        absences: groups of columns that are missing together.
    """

    rows: float
    at_least: int
    columns: tuple[ColumnProfile, ...]
    absences: tuple[Absence, ...] = ()

    def to_json(self) -> str:
        """JSON text; equal profiles give equal text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """The inverse of `to_json`."""
        data = json.loads(text)
        columns = tuple(ColumnProfile(**_tuples(c)) for c in data["columns"])
        absences = tuple(Absence(**_tuples(a)) for a in data["absences"])
        return cls(rows=data["rows"], at_least=data["at_least"], columns=columns, absences=absences)


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def declared_bounds(column: Column) -> tuple[int, int]:
    """The keys of the declared bounds; the ends of the key space where none is declared."""
    low, high = int(MISSING) + 1, int(LARGEST_KEY)
    if column.declared and column.min is not None:
        low = key_of(column, column.min)
    if column.declared and column.max is not None:
        high = key_of(column, column.max)
    return low, max(low, high)


def declared_names(column: Column) -> set[int | str]:
    """The declared categories, as strings or as keys."""
    assert column.categories is not None
    if is_text(column.arrow_type):
        return {str(c) for c in column.categories}
    return {key_of(column, c) for c in column.categories}


def key_of(column: Column, value: Scalar) -> int:
    """The key of a value as a schema writes it.

    Raises:
        SchemaError: it is no value of the column's type.
    """
    kind = column.arrow_type
    try:
        if pa.types.is_time(kind):
            # Arrow reads no times of a day, but those of the first day.
            return int(to_keys(pa.array([f"1970-01-01T{value}"]).cast(pa.timestamp(kind.unit)))[0])
        if pa.types.is_timestamp(kind):
            zoned = bool(re.search(r"(Z|[+-]\d\d:?\d\d)$", str(value)))
            # A time without a zone is meant in UTC.
            kind = pa.timestamp(kind.unit, "UTC" if zoned else None)
        return int(to_keys(one(value, kind))[0])
    except NOT_A_VALUE:
        raise SchemaError(
            f"facts of a column must be of its type, however: column {column.name!r} is {column.type} and has "
            f"{value!r}; correct the schema"
        ) from None


def cuts_between(first: int, last: int, parts: int) -> Keys:
    """At most `parts` + 1 borders of equal parts from first to last, both included, as int64."""
    span = last - first
    parts = max(1, min(parts, span))
    return np.array([first + span * i // parts for i in range(parts)] + [last], np.int64)
