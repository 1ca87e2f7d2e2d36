"""Rows: Arrow record batches as the arrays that a curator reads, and the files that recoded rows go to.

This is plumbing of the inside. Nothing here computes anything that leaves.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from privacy.curator import MISSING, Batch, Keys
from privacy.errors import InputError
from synth.images import missing, pixels
from synth.keys import Dictionary, from_keys, is_text, to_keys
from synth.schema import REPLACED, Column, Schema

Source = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
"""Gives record batches with the named columns, in a fixed order, as often as asked."""

MOST_BATCH_ROWS = 8192

HELD_OUT = "\0held out"
"""Name of the boolean column by which a source itself says which rows are held out."""

PIXELS = "\0pixels of "
"""Before the name of a column of images: its pixels, uint8 (n, height · width · channels), beside its key."""


class RawRows:
    """The raw columns of a table as keys, with a 64-bit number for the unit of each row.

    Args:
        schema: the columns; its `unit` says which rows belong together.
        source: where the record batches come from.
        marked: whether the source has the column `HELD_OUT`.
    """

    def __init__(self, schema: Schema, source: Source, *, marked: bool = False) -> None:
        self._schema = schema
        self._source = source
        self._marked = marked
        self._dictionaries = {c.name: Dictionary(_public(c)) for c in schema if is_text(c.arrow_type)}

    @property
    def unit_is_row(self) -> bool:
        """Whether each row is a unit of its own."""
        return self._schema.unit is None

    @property
    def dictionaries(self) -> dict[str, Dictionary]:
        """The dictionary of each column of strings. They hold private values and stay inside."""
        return self._dictionaries

    def batches(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        """All rows with these columns (None: all, pixels included), in the source's own batches."""
        names = list(self._schema.names if columns is None else columns)
        extra = [n for n in (self._schema.unit,) if n is not None and n not in names]
        extra += [HELD_OUT] if self._marked else []
        start = 0
        pictured = self._schema.images if columns is None else ()
        for record in self._source([*names, *extra]):
            wide: dict[str, NDArray[np.generic]] = {
                PIXELS + c.name: pixels(record.column(c.name), c.image).reshape(record.num_rows, -1)
                for c in pictured
                if c.image is not None
            }
            keys: dict[str, NDArray[np.generic]] = {n: self._keys(n, record.column(n)) for n in names}
            yield Batch(
                unit=self._unit(record, start),
                columns=keys | wide,
                holdout=record.column(HELD_OUT).to_numpy(zero_copy_only=False) if self._marked else None,
            )
            start += record.num_rows

    def table(self, batches: Iterable[Batch]) -> pa.Table:
        """Batches as a table in the schema's types, for evidence.

        Of identifiers and texts only the missing pattern is kept.
        """
        records = []
        for batch in batches:
            arrays = [self._array(c, batch.columns[c.name]) for c in self._schema]
            records.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema.arrow))
        return pa.Table.from_batches(records, schema=self._schema.arrow)

    def values(self, column: Column, keys: NDArray[np.generic]) -> pa.Array:
        """Keys of a column as its values, for evidence; of what is not learned only the missing pattern."""
        return self._array(column, keys)

    def _array(self, column: Column, keys: NDArray[np.generic]) -> pa.Array:
        codes = np.asarray(keys, np.int64)
        kind = column.arrow_type
        if not column.learned:
            known = pa.array(np.zeros(len(codes), np.int64), mask=codes == MISSING)
            return pa.array([REPLACED]).take(known).cast(kind) if is_text(kind) else from_keys(codes, kind)
        if column.name not in self._dictionaries:
            return from_keys(codes, kind)
        seen, place = np.unique(np.where(codes == MISSING, 0, codes), return_inverse=True)
        labels = pa.array(self._dictionaries[column.name].labels(seen) if np.any(codes != MISSING) else [""])
        return labels.take(pa.array(place.astype(np.int64), mask=codes == MISSING)).cast(kind)

    def _keys(self, name: str, array: pa.Array) -> Keys:
        if not self._schema[name].learned:
            # Of identifiers, texts, images and empty columns only the missing pattern is ever a key.
            if self._schema[name].image is not None:
                return np.where(missing(array), MISSING, 0)
            return np.where(array.is_null().to_numpy(zero_copy_only=False), MISSING, 0)
        if name in self._dictionaries:
            return self._dictionaries[name].codes(array)
        return to_keys(array)

    def _unit(self, record: pa.RecordBatch, start: int) -> NDArray[np.uint64]:
        ordinal = np.arange(start, start + record.num_rows, dtype=np.uint64)
        if self._schema.unit is None:
            return ordinal
        array = record.column(self._schema.unit)
        # A row without a unit is a unit of its own.
        missing = array.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        return np.where(missing, _scatter(ordinal ^ _NO_UNIT), _unit_hash(array))


class EncodedRows:
    """Rows of an encoded table, read batch by batch from memory or from memory-mapped files.

    Args:
        arrays: `unit`, `holdout` and the encoded columns; the first axis is the row.
        unit_is_row: whether each row is a unit of its own.
    """

    def __init__(self, arrays: dict[str, NDArray[np.generic]], *, unit_is_row: bool) -> None:
        self._arrays = arrays
        self._unit_is_row = unit_is_row

    @property
    def unit_is_row(self) -> bool:
        """Whether each row is a unit of its own."""
        return self._unit_is_row

    def __len__(self) -> int:
        return len(self._arrays["unit"])

    def batches(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        """All rows, in the order of the store; a batch has at most 8,192, which caches like."""
        names = [n for n in self._arrays if n not in ("unit", "holdout")] if columns is None else columns
        rows = min(size or MOST_BATCH_ROWS, MOST_BATCH_ROWS)
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield Batch(
                unit=self._arrays["unit"][part].view(np.uint64),
                columns={n: self._arrays[n][part] for n in names},
                holdout=self._arrays["holdout"][part].view(np.bool_),
            )


class EncodedStore:
    """Takes recoded batches and gives them back in an order drawn by unit, so that any stretch is a fair sample.

    Args:
        folder: where the files `<name>.npy` go; None keeps everything in memory.
        unit_is_row: whether each row is a unit of its own.
    """

    def __init__(self, folder: Path | None, *, unit_is_row: bool) -> None:
        self._folder = folder
        self._unit_is_row = unit_is_row
        self._parts: dict[str, list[NDArray[np.generic]]] = {}

    def write(self, batch: Batch) -> None:
        """Appends rows; `batch.holdout` must be set."""
        if batch.holdout is None:
            raise ValueError("a recoded batch must say what is held out, however: holdout is None")
        for name, array in {"unit": batch.unit, "holdout": batch.holdout, **batch.columns}.items():
            self._parts.setdefault(name, []).append(np.ascontiguousarray(array))

    def close(self) -> EncodedRows:
        """Shuffles and, where there is a folder, writes the files.

        Raises:
            InputError: no row was written.
        """
        if not self._parts:
            raise InputError("a table must have rows, however: it has none; check the input")
        unit = np.concatenate(self._parts["unit"]).view(np.uint64)
        order = np.argsort(_scatter(unit), kind="stable")
        arrays: dict[str, NDArray[np.generic]] = {}
        for name in list(self._parts):
            whole = np.concatenate(self._parts.pop(name))[order]
            arrays[name] = whole if self._folder is None else _mapped(self._folder / f"{name}.npy", whole)
        return EncodedRows(arrays, unit_is_row=self._unit_is_row)


def open_store(folder: Path, *, unit_is_row: bool) -> EncodedRows:
    """The rows that an `EncodedStore` wrote into `folder`."""
    arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in sorted(folder.glob("*.npy"))}
    return EncodedRows(arrays, unit_is_row=unit_is_row)


def table_source(table: pa.Table, *, batch_rows: int = 65_536) -> Source:
    """A source that reads a table in memory."""

    def source(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        # A selection without columns would lose the number of rows, so one column always stays.
        names = list(columns) or table.column_names[:1]
        yield from table.select(names).to_batches(max_chunksize=batch_rows)

    return source


def _public(column: Column) -> list[str]:
    """Strings that are declared, so that their codes say nothing of the rows."""
    return [str(c) for c in column.categories or ()] if column.declared else []


_NO_UNIT = np.uint64(0xA5A5_0000_0000_0000)


def _unit_hash(array: pa.Array) -> NDArray[np.uint64]:
    """A 64-bit number for each value; two units share one with probability 2^-64."""
    if is_text(array.type):
        encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        labels = encoded.dictionary.cast(pa.string()).to_numpy(zero_copy_only=False)
        table = np.append(pd.util.hash_array(labels, categorize=False), 0).astype(np.uint64)
        indices = encoded.indices.cast(pa.int64()).fill_null(len(labels)).to_numpy(zero_copy_only=False)
        return table[indices]  # type: ignore[no-any-return]
    return _scatter(to_keys(array).view(np.uint64))


def _scatter(unit: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A fixed pseudo-random number for each unit (multiplicative hashing, Knuth 1998, §6.4)."""
    with np.errstate(over="ignore"):
        x = (unit + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)


def _mapped(path: Path, array: NDArray[np.generic]) -> NDArray[np.generic]:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
