"""Cells: one column of training, held-out and synthetic rows over one dictionary, as all evidence reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from synth.schema import Column, Kind

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

CONTINUOUS: frozenset[Kind] = frozenset({"numerical", "datetime", "duration"})

SIDES = ("train", "holdout", "synthetic")

DRAWN = "drawn"
"""The side of one training row for each unit: all training rows where each is a unit of its own."""

BINS = 20
"""Bins of a number where it is counted: quantiles of the training rows."""

WIDE, GROUP = 100, 25
"""Pairs of a table of more than WIDE columns are measured within random groups of GROUP columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """One column of the three tables, over one dictionary.

    Attributes:
        column: what it is.
        codes: by side and for `DRAWN`, int64 (rows,): equal codes are equal values; -1 is missing.
        numbers: by side and for `DRAWN`, float64 (rows,): the value, epoch seconds or seconds, NaN is
            missing; None unless the kind is continuous.
        values: by code, the value as it is shown; empty if the kind is continuous.
    """

    column: Column
    codes: Mapping[str, Codes]
    numbers: Mapping[str, Floats] | None
    values: pa.Array = field(repr=False)

    @cached_property
    def edges(self) -> Floats:
        """Where the bins of a number end: quantiles of the training rows, each once; none without numbers."""
        train = np.zeros(0) if self.numbers is None else self.numbers["train"]
        present = train[~np.isnan(train)]
        inner = np.linspace(0, 1, BINS + 1)[1:-1]
        return np.unique(np.quantile(present, inner)) if len(present) else np.zeros(0)

    def missing(self, side: str) -> float:
        """Share of missing values, 0 for a table without rows."""
        codes = self.codes[side]
        return float(np.mean(codes < 0)) if len(codes) else 0.0

    def counts(self, side: str) -> Codes:
        """Rows by code, int64 (codes,)."""
        codes = self.codes[side]
        return np.bincount(codes[codes >= 0], minlength=len(self.values)).astype(np.int64)


def cells_of(column: Column, tables: tuple[pa.Table, ...], drawn: Codes | None = None) -> Cells:
    """One column of the three `SIDES`; `drawn` are the rows of the first that stand for their units."""
    parts = [_read(table, column) for table in tables]
    values = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
    codes, dictionary = _encode(values)
    cuts = np.cumsum([len(p) for p in parts])[:-1]
    by_side = dict(zip(SIDES, np.split(codes, cuts), strict=True))
    by_side[DRAWN] = by_side["train"] if drawn is None else by_side["train"][drawn]
    if not column.learned or column.kind not in CONTINUOUS:
        return Cells(column=column, codes=by_side, numbers=None, values=dictionary)
    numbers = dict(zip(SIDES, np.split(as_numbers(values), cuts), strict=True))
    numbers[DRAWN] = numbers["train"] if drawn is None else numbers["train"][drawn]
    return Cells(column=column, codes=by_side, numbers=numbers, values=pa.nulls(0))


def _read(table: pa.Table, column: Column) -> pa.ChunkedArray:
    """The column as the schema's type, dictionaries decoded; all missing where it cannot be read."""
    wanted = column.arrow_type
    wanted = wanted.value_type if pa.types.is_dictionary(wanted) else wanted
    absent = pa.chunked_array([pa.nulls(table.num_rows, wanted)])
    if table.schema.names.count(column.name) != 1:
        return absent
    found = table.column(column.name)
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    try:
        return found.cast(wanted, safe=False) if found.type != wanted else found
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return absent


def _encode(values: pa.ChunkedArray) -> tuple[Codes, pa.Array]:
    """Codes, int64 (rows,) with -1 for missing, and their dictionary. −0 is 0, NaN is missing."""
    kind = values.type
    if pa.types.is_floating(kind):
        plain = values.cast(pa.float64()).to_numpy(zero_copy_only=False) + 0.0
        values = pa.chunked_array([pa.array(plain, from_pandas=True)])
    elif pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    if pa.types.is_null(values.type):
        return np.full(len(values), -1, np.int64), pa.nulls(0)
    encoded = values.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return codes, encoded.dictionary


def as_numbers(values: pa.ChunkedArray) -> Floats:
    """Values as float64, times and durations in seconds; missing and infinite ones are NaN."""
    kind, per_second = values.type, 1.0
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        per_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
    elif pa.types.is_date64(kind):
        per_second = 1e3
    elif pa.types.is_date32(kind):
        per_second = 1 / 86_400
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    try:
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / per_second
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.full(len(values), np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def one_of_each(units: npt.NDArray[np.uint64], *, seed: int) -> Codes:
    """Numbers of the rows that stand for their units, one drawn for each, ascending."""
    order = np.random.default_rng(seed).permutation(len(units))
    return np.sort(order[np.unique(units[order], return_index=True)[1]])


def groups_of(columns: int, *, seed: int) -> list[list[int]]:
    """Numbers of the columns between which pairs are measured: all, or of a wide table groups drawn by `seed`."""
    if columns <= WIDE:
        return [list(range(columns))]
    order = np.random.default_rng(seed).permutation(columns)
    parts = np.array_split(order, -(-columns // GROUP))
    return [sorted(part.tolist()) for part in parts]
