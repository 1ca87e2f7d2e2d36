"""Ingest: CSV and Parquet, a file or a folder, as streams of Arrow record batches.

The table never has to fit in memory: `sniff` finds out what lies at a path, `infer_types` reads a CSV once to
learn its types, `batches` streams rows of exactly the types of a schema, `digest` notices a changed input.

What a person should know of the reading:

- In a CSV, a cell that is empty or one of `MISSING`, unquoted, is missing. In a column of strings, quotes
  make ``""`` an empty string and ``"NA"`` a text; in a column of any other type those are missing, too.
- A line that is wholly blank is skipped; a quote is escaped by doubling it.
- NaN is how many tools write a missing number: it is missing here. Infinities stay.
- Spaces around a number, a date or a truth value are ignored; a string keeps its spaces.
- What Arrow holds but a schema cannot name (lists, structs, bytes) becomes a string column of `REPLACED`.
"""

import codecs
import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.publish import SUMS
from privacy.errors import InputError
from synth.infer import plain_type, to_plain
from synth.keys import NOT_CONVERTED

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")
"""Cells of a CSV that mean: missing. Shorter than pandas' list: `None` is a category of real tables."""

_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_DELIMITERS = (",", ";", "\t", "|")
_BLOCK_BYTES = 1 << 20
_READ_BYTES = 4 << 20
_LOOK_ROWS = 1000
_PARQUET = b"PAR1"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What lies at a path: one table in one file or in several files of one form.

    Attributes:
        path: the file or the folder that was asked for.
        format: csv or parquet.
        files: the files, in the order of their relative names.
        columns: the column names, in the order of the first file.
        encoding: of the CSV files: utf-8, utf-16 or cp1252; None for Parquet.
        delimiter: of the CSV files; None for Parquet.
        header: whether the first row of each CSV file holds names; else they are column_1, column_2, …
    """

    path: Path
    format: Literal["csv", "parquet"]
    files: tuple[Path, ...]
    columns: tuple[str, ...]
    encoding: str | None = None
    delimiter: str | None = None
    header: bool = True

    def name_of(self, file: Path) -> str:
        """The name of one of the files, relative to the source, as messages and digests use it."""
        return file.name if file == self.path else file.relative_to(self.path).as_posix()


def sniff(path: Path) -> Source:
    """Finds out what lies at `path`: a CSV or Parquet file, or a folder of one of them.

    A folder is searched through and through; names that start with `_` or `.` are passed over, and so are
    files that are not called .csv, .tsv, .parquet or .pq, and folders below it that are releases (they hold a
    file SHA256SUMS): what was made from a table is no part of it.

    Raises:
        InputError: there is nothing to read, a file is damaged, the files differ in form or in columns, or a
            column name stands twice.
    """
    if path.is_dir():
        return _sniff_files(path, _files_below(path))
    if not path.is_file():
        raise InputError(f"an input must be a file or a folder, however: {path} is neither; correct the path")
    return _sniff_files(path, (path,))


def infer_types(source: Source) -> pa.Schema:
    """The column types of a source: those of its Parquet files, or what all rows of its CSV files fit.

    A CSV is read once from end to end; a column takes the first of int64, float64, bool, date32, timestamp
    (us, or ns where more digits are written; UTC where every value has a zone) that every value fits, else
    string. Numbers with leading zeros and integers beyond int64 are strings.

    Raises:
        InputError: a file cannot be read, or Parquet files disagree about the type of a column.
    """
    if source.format == "parquet":
        return _parquet_types(source)
    alive: dict[str, tuple[_Candidate, ...]] = dict.fromkeys(source.columns, _CANDIDATES)
    seen: set[str] = set()
    for file in source.files:
        for block in _csv_blocks(source, file):
            for name in source.columns:
                values = _present(block.column(name))
                if len(values):
                    seen.add(name)
                    alive[name] = tuple(c for c in alive[name] if c.fits(values))
    first = {name: next((c.type for c in alive[name]), pa.string()) for name in source.columns}
    return pa.schema(
        [pa.field(name, first[name] if name in seen else pa.string()) for name in source.columns]
    )


def batches(source: Source, schema: pa.Schema, *, batch_rows: int = 65536) -> Iterator[pa.RecordBatch]:
    """Streams the rows with exactly the types of `schema`, in its order of columns.

    Args:
        source: what to read.
        schema: names, types and nullability; its columns are the source's, in any order.
        batch_rows: rows of a batch at most. A table without rows gives one empty batch.

    Raises:
        InputError: a column is missing or too many, a value does not convert, a value is missing where none
            may be; file, column and row are named, the value is not.
    """
    source = _named_by(source, schema)
    for file in source.files:
        _check_columns(source.name_of(file), _columns_of(source, file), schema.names)
    empty = True
    read = _csv_blocks if source.format == "csv" else _parquet_blocks
    convert = _from_text if source.format == "csv" else to_plain
    for file in source.files:
        row = 0
        for block in read(source, file):
            for start in range(0, block.num_rows, batch_rows):
                piece = block.slice(start, batch_rows)
                place = _Place(file=source.name_of(file), row=row + start)
                yield _typed(piece, schema, convert, place)
                empty = False
            row += block.num_rows
    if empty:
        yield pa.RecordBatch.from_pylist([], schema=schema)


def _named_by(source: Source, schema: pa.Schema) -> Source:
    """The source with a header where the schema settles it: its names stand in the first row of each file."""
    if source.format != "csv" or source.header:
        return source
    named = replace(source, header=True)
    if all(sorted(_columns_of(named, file)) == sorted(schema.names) for file in source.files):
        return named
    return source


def digest(source: Source) -> str:
    """SHA-256 (hex) over the files' names, lengths and contents; it tells a changed input from the same one.

    Raises:
        InputError: a file cannot be read.
    """
    total = hashlib.sha256()
    for file in source.files:
        name = source.name_of(file)
        content = hashlib.sha256()
        with _reading(name):
            for chunk in _chunks(file):
                content.update(chunk)
        total.update(f"{len(name.encode())}:{name}:{content.hexdigest()}\n".encode())
    return total.hexdigest()


# -------------------------------------------------------------------------------------------- what lies there


def _files_below(folder: Path) -> tuple[Path, ...]:
    """The table files in `folder` and below it, by relative name."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        if SUMS in names and Path(parent) != folder:
            folders.clear()
            continue
        folders[:] = [f for f in folders if not f.startswith(("_", "."))]
        found += [Path(parent, n) for n in names if not n.startswith(("_", ".")) and _suffix(n) in _SUFFIXES]
    for file in found:
        if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"a file of an input must lie in its folder, however: {file} is a link to elsewhere; copy it"
            )
        key = next((p for p in file.relative_to(folder).parent.parts if "=" in p), None)
        if key is not None:
            raise InputError(
                f"columns must stand in the files, however: the folder {key!r} in {folder} names one; "
                "write the table without partition folders"
            )
    return tuple(sorted(found, key=lambda f: f.relative_to(folder).as_posix()))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _sniff_files(path: Path, files: tuple[Path, ...]) -> Source:
    if not files:
        raise InputError(
            f"an input folder must hold .csv, .tsv, .parquet or .pq files, however: {path} holds none; "
            "correct the path"
        )
    formats = {_format_of(file): file for file in files}
    if len(formats) > 1:
        raise InputError(
            f"the files of one input must be of one format, however: {formats['csv']} is CSV and "
            f"{formats['parquet']} is Parquet; move one of them elsewhere"
        )
    if "parquet" in formats:
        source = Source(path=path, format="parquet", files=files, columns=())
    else:
        source = _csv_source(path, files)
    columns = [_columns_of(source, file) for file in files]
    for file, names in zip(files, columns, strict=True):
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise InputError(
                f"column names must differ, however: {source.name_of(file)}: {twice!r} stands twice"
            )
        _check_columns(source.name_of(file), names, columns[0])
    if not columns[0]:
        raise InputError(f"a table must have columns, however: {source.name_of(files[0])} has none")
    return replace(source, columns=columns[0])


def _format_of(file: Path) -> Literal["csv", "parquet"]:
    """What a file is by its first bytes; Parquet is checked for its end, too."""
    with _reading(file.name), file.open("rb") as stream:
        head = stream.read(4)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 4))
        tail = stream.read(4)
    if not size:
        raise InputError(f"an input must hold a table, however: {file} is empty")
    if head == _PARQUET and (tail != _PARQUET or size < 12):
        raise InputError(f"a Parquet file must be whole, however: {file} is truncated; copy it again")
    if head != _PARQUET and _SUFFIXES.get(_suffix(file.name)) == "parquet":
        raise InputError(f"a .parquet file must hold Parquet, however: {file} does not; copy it again")
    if head[:2] == b"\x1f\x8b" or head == b"PK\x03\x04" or head == b"\x28\xb5\x2f\xfd":
        raise InputError(f"an input must be CSV or Parquet, however: {file} is compressed; unpack it first")
    return "parquet" if head == _PARQUET else "csv"


def _check_columns(file: str, names: Sequence[str], expected: Sequence[str]) -> None:
    missing = [n for n in expected if n not in set(names)]
    if missing:
        raise InputError(
            f"{file} must have every column of the table, however: {missing[0]!r} is missing"
            f"{_and_more(missing)}; mend the file or the schema"
        )
    extra = [n for n in names if n not in set(expected)]
    if extra:
        raise InputError(
            f"{file} must have the columns of the table and no other, however: it has {extra[0]!r}"
            f"{_and_more(extra)}; mend the file or the schema"
        )


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _columns_of(source: Source, file: Path) -> tuple[str, ...]:
    if source.format == "parquet":
        return tuple(_parquet_schema(source, file).names)
    rows = _head_rows(file, source.encoding or "utf-8", source.delimiter or ",")
    first = next((r for r in rows if r), [])
    if not source.header:
        return tuple(f"column_{i}" for i in range(1, len(first) + 1))
    return tuple(cell.strip() or f"column_{i}" for i, cell in enumerate(first, start=1))


# -------------------------------------------------------------------------------------------------------- CSV


def _csv_source(path: Path, files: tuple[Path, ...]) -> Source:
    """Encoding, delimiter and header, which all files must share."""
    encodings = {_encoding_of(file): file for file in files}
    if len(encodings) > 1:
        encodings.pop("ascii", None)
    encoding = _only(encodings, "encoding").replace("ascii", "utf-8")
    delimiters = {_delimiter_of(file, encoding): file for file in files}
    if len(delimiters) > 1:
        delimiters.pop("", None)
    delimiter = _only(delimiters, "delimiter") or ","
    headers = {_has_header(_head_rows(file, encoding, delimiter)): file for file in files}
    if len(headers) > 1:
        raise InputError(
            f"every CSV file of one input must have a header, however: {headers[False]} has none; add it"
        )
    return Source(
        path=path,
        format="csv",
        files=files,
        columns=(),
        encoding=encoding,
        delimiter=delimiter,
        header=True in headers,
    )


def _only(found: dict[str, Path], what: str) -> str:
    if len(found) > 1:
        (a, file_a), (b, file_b) = list(found.items())[:2]
        raise InputError(
            f"the CSV files of one input must share one {what}, however: {file_a} has {a!r} and {file_b} "
            f"has {b!r}; write them alike"
        )
    return next(iter(found))


def _encoding_of(file: Path) -> str:
    """The encoding that decodes the whole file: ascii, utf-8, utf-16 (by its mark), else cp1252."""
    with _reading(file.name), file.open("rb") as stream:
        mark = stream.read(4)
    if mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        raise InputError(f"a CSV must be UTF-8, UTF-16 or cp1252, however: {file} is UTF-32; convert it")
    if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        candidates: tuple[str, ...] = ("utf-16",)
    elif any(b"\0" in chunk for chunk in _chunks(file)):
        raise InputError(f"a CSV must be text, however: {file} holds NUL bytes; is it another format?")
    else:
        candidates = ("ascii", "utf-8", "cp1252")
    for encoding in candidates:
        if _decodes(file, encoding):
            return encoding
    raise InputError(f"a CSV must be UTF-8, UTF-16 or cp1252, however: {file} is none of them; convert it")


def _decodes(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with _reading(file.name):
        try:
            for chunk in _chunks(file):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _head(file: Path, encoding: str) -> tuple[str, bool]:
    """The first characters of a CSV file, and whether they are all of it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    with _reading(file.name), file.open("rb") as stream:
        return decoder.decode(stream.read(_BLOCK_BYTES)), not stream.read(1)


def _blank_lines(file: Path, encoding: str) -> int:
    """How many blank lines come before the first row; Arrow would take the header for data after them."""
    text, _ = _head(file, encoding)
    return len(text[: len(text) - len(text.lstrip("\r\n"))].splitlines())


def _head_rows(file: Path, encoding: str, delimiter: str) -> list[list[str]]:
    """The first rows of a CSV file that are not blank; a last row that may be cut is left out."""
    text, whole = _head(file, encoding)
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            rows.append(row)
            if len(rows) > _LOOK_ROWS:
                return [r for r in rows if r]
    except csv.Error:
        whole = True
    return [r for r in (rows if whole or len(rows) == 1 else rows[:-1]) if r]


def _delimiter_of(file: Path, encoding: str) -> str:
    """The delimiter that splits most rows as it splits the first; empty if there is only one column."""
    best, best_score = "", (0.0, 0)
    for delimiter in _DELIMITERS:
        widths = [len(r) for r in _head_rows(file, encoding, delimiter)]
        if not widths or widths[0] < 2:
            continue
        score = (sum(w == widths[0] for w in widths) / len(widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


_KINDS = tuple(
    re.compile(form)
    for form in (
        r"[-+]?[$€£]?(?:\d{1,3}(?:[,']\d{3})+(?:\.\d+)?|\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?%?",
        r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[T ]\d{1,2}:\d{2}.*)?",
        r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?",
        r"(?i:true|false)",
        r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}",
    )
)
"""What no column is called, unless its values are of another kind: numbers, dates, clock times, truth, mail."""

_NO_VALUE = frozenset({*MISSING, "?"})


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row holds names; where in doubt it does not, since names are published as they are.

    It holds none if

    1. a cell is a number, a date, a truth value, … as the values below it are, unless the numbers count up
       as the names of wide tables do;
    2. or no text of it stands over values that are all numbers, dates, …, and a name is empty (but the first,
       which is an index), or stands twice, or is a value of its own column twice more (where that column has
       other values, too: a ticked box often holds the name of its column).
    """
    first = [cell.strip() for cell in rows[0]] if rows else []
    whole = [row for row in rows[1:] if len(row) == len(first)]
    below = [[v for row in whole if (v := row[i].strip()) not in _NO_VALUE] for i in range(len(first))]
    columns = list(zip(first, below, strict=True))
    alike = [i for i, (cell, values) in enumerate(columns) if _is_alike(cell, values, known=bool(whole))]
    if alike and not _counts_up(first, below, alike):
        return False
    if any(_is_over_another_kind(cell, values) for cell, values in columns):
        return True
    nameless = any(values and not cell for cell, values in columns[1:])
    twice = bool(whole) and len({c for c in first if c}) < sum(map(bool, first))
    return not (nameless or twice or any(_recurs(cell, values) for cell, values in columns))


def _mostly(values: Sequence[str], kind: re.Pattern[str]) -> bool:
    """Whether nine in ten values are of a kind: codes like `unknown` stand among the numbers of many tables."""
    return sum(kind.fullmatch(v) is not None for v in values) >= 0.9 * len(values) > 0


def _is_alike(cell: str, values: Sequence[str], *, known: bool) -> bool:
    """Whether a cell of the first row is of the kind of the values below it; of any kind if no row is known."""
    return any(kind.fullmatch(cell) and (not known or _mostly(values, kind)) for kind in _KINDS)


def _is_text(cell: str) -> bool:
    return cell not in _NO_VALUE and not any(kind.fullmatch(cell) for kind in _KINDS)


def _is_over_another_kind(cell: str, values: Sequence[str]) -> bool:
    """Whether a text stands over values that are all numbers, all dates, …: only a name does."""
    return _is_text(cell) and len(values) > 0 and any(all(map(k.fullmatch, values)) for k in _KINDS)


def _recurs(cell: str, values: Sequence[str]) -> bool:
    return _is_text(cell) and 2 <= values.count(cell) < len(values)


def _counts_up(first: Sequence[str], below: Sequence[Sequence[str]], alike: Sequence[int]) -> bool:
    """Whether the numbers of a first row are names of a wide table: they go up or down by one step.

    Two numbers are enough if they are years over values that are none; three if they are 0 or 1, 2, … and the
    row holds nothing else (but perhaps an empty first cell); else it takes four, which a row of data seldom has.
    """
    places = [i for i, cell in enumerate(first) if cell.isdecimal()]
    numbers = [int(first[i]) for i in places]
    steps = {b - a for a, b in pairwise(numbers)}
    if not set(alike) <= set(places) or len(steps) != 1 or steps == {0}:
        return False
    values = [v for i in places for v in below[i]]
    if all(map(_is_year, [first[i] for i in places])):
        return 2 * sum(map(_is_year, values)) <= len(values)
    alone = steps == {1} and numbers[0] in (0, 1) and sum(map(bool, first)) == len(places)
    return len(numbers) >= (3 if alone else 4)


def _is_year(cell: str) -> bool:
    return re.fullmatch(r"1[89]\d\d|2[01]\d\d", cell) is not None


def _csv_blocks(source: Source, file: Path) -> Iterator[pa.RecordBatch]:
    """The rows of one CSV file, every column as string, missing cells as nulls."""
    names = _columns_of(source, file)
    row = 0
    with _reading(source.name_of(file), lambda e: _csv_problem(e, row)):
        reader = pyarrow.csv.open_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(
                column_names=names,
                skip_rows=_blank_lines(file, source.encoding or "utf-8"),
                skip_rows_after_names=int(source.header),
                block_size=_READ_BYTES,
                encoding={"utf-8": "utf8"}.get(source.encoding or "utf-8", source.encoding),
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=source.delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                null_values=list(MISSING),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for block in reader:
            yield block
            row += block.num_rows


def _csv_problem(error: Exception, rows_read: int) -> str:
    """What Arrow complains of, without the row that it would quote."""
    where = f"somewhere after row {rows_read}"
    if m := re.search(r"Expected (\d+) columns, got (\d+)", str(error)):
        return f"a row must have {m[1]} cells, however: {{file}}: one has {m[2]}, {where}; mend the row"
    return f"a CSV must be well formed, however: {{file}}: it breaks {where}; is a quote not closed?"


def _present(column: pa.Array) -> pa.Array:
    """The cells that hold something, without the spaces around them."""
    values = pc.utf8_trim_whitespace(column.drop_null())
    return values.filter(pc.invert(pc.is_in(values, pa.array(MISSING))))


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A type that a CSV column may have: how its values look, and that they convert."""

    type: pa.DataType
    form: str

    def fits(self, values: pa.Array) -> bool:
        """Whether every one of `values`, string (n,), is of this type."""
        return pc.all(pc.match_substring_regex(values, f"^(?:{self.form})$")).as_py() and _casts(
            values, self.type
        )


_INT = "0|-?[1-9][0-9]*"
_FLOAT = r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|-?inf"
_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,%d})?)?"
_ZONE = "(?:Z|[-+][0-9]{2}(?::?[0-9]{2})?)"
_CANDIDATES = (
    _Candidate(type=pa.int64(), form=_INT),
    _Candidate(type=pa.string(), form=_INT),  # integers beyond int64: a float would lose their last digits
    _Candidate(type=pa.float64(), form=_FLOAT),
    _Candidate(type=pa.bool_(), form="true|false|True|False|TRUE|FALSE"),
    _Candidate(type=pa.date32(), form=_DATE),
    _Candidate(type=pa.timestamp("us"), form=f"{_DATE}(?:{_CLOCK % 6})?"),
    _Candidate(type=pa.timestamp("us", tz="UTC"), form=_DATE + _CLOCK % 6 + _ZONE),
    _Candidate(type=pa.timestamp("ns"), form=f"{_DATE}(?:{_CLOCK % 9})?"),
    _Candidate(type=pa.timestamp("ns", tz="UTC"), form=_DATE + _CLOCK % 9 + _ZONE),
)
"""In order of preference; a column takes the first that no value of it ruled out."""


def _casts(values: pa.Array, type: pa.DataType) -> bool:
    try:
        _parse(values, type)
    except pa.ArrowInvalid:
        return False
    return True


def _from_text(values: pa.Array, type: pa.DataType) -> pa.Array:
    """Cells of a CSV, string (n,), as `type`; in any type but string, a quoted `MISSING` is missing, too."""
    if pa.types.is_string(type):
        return values
    if pa.types.is_large_string(type) or pa.types.is_dictionary(type):
        return values.cast(type)
    trimmed = pc.utf8_trim_whitespace(values)
    missing = pc.is_in(trimmed, pa.array(MISSING))
    return _parse(pc.if_else(missing, pa.scalar(None, pa.string()), trimmed), type)


def _parse(values: pa.Array, type: pa.DataType) -> pa.Array:
    """`values`, string (n,), as `type`; Arrow has no cast for clock times and durations."""
    if pa.types.is_time(type):
        unit = "ns" if type == pa.time64("ns") else "us"
        return pc.binary_join_element_wise("1970-01-01", values, "T").cast(pa.timestamp(unit)).cast(type)
    if pa.types.is_duration(type):
        return values.cast(pa.int64()).cast(type)
    if pa.types.is_null(type) and values.null_count < len(values):
        raise pa.ArrowInvalid("a column of type null holds values")
    return values.cast(type) if not pa.types.is_null(type) else pa.nulls(len(values))


# ---------------------------------------------------------------------------------------------------- Parquet


def _parquet_schema(source: Source, file: Path) -> pa.Schema:
    with _reading(source.name_of(file)):
        return pq.read_schema(file)


def _parquet_types(source: Source) -> pa.Schema:
    """One type for each column over all files; a column without any value (type null) agrees with all."""
    fields: dict[str, pa.Field] = {}
    for file in source.files:
        for found in _parquet_schema(source, file):
            field = pa.field(found.name, plain_type(found.type), found.nullable)
            known = fields.get(field.name, field)
            merged = _common_type(known.type, field.type)
            if merged is None:
                raise InputError(
                    f"a column must have one type in all files, however: {source.name_of(file)}: "
                    f"{field.name!r} is {field.type}, and {known.type} before; write it as one of them"
                )
            fields[field.name] = pa.field(field.name, merged, known.nullable or field.nullable)
    return pa.schema([fields[name] for name in source.columns])


def _common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if pa.types.is_dictionary(a) and pa.types.is_dictionary(b) and a.value_type == b.value_type:
        return pa.dictionary(pa.int32(), a.value_type, ordered=a.ordered and b.ordered)
    return None


def _parquet_blocks(source: Source, file: Path) -> Iterator[pa.RecordBatch]:
    # buffer_size: without it a whole row group is read at once, which may be the whole file.
    with _reading(source.name_of(file)), pq.ParquetFile(file, buffer_size=_BLOCK_BYTES) as parquet:
        yield from parquet.iter_batches(batch_size=65536)


# ------------------------------------------------------------------------------------------------- conversion


_Convert = Callable[[pa.Array, pa.DataType], pa.Array]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a batch stands, for messages: the file, and how many of its rows come before."""

    file: str
    row: int


def _typed(
    block: pa.RecordBatch,
    schema: pa.Schema,
    convert: _Convert,
    place: _Place,
) -> pa.RecordBatch:
    """The columns of `schema`, converted and checked."""
    arrays = []
    for field in schema:
        values = block.column(field.name)
        try:
            typed = _nan_is_missing(convert(values, field.type))
        except NOT_CONVERTED:
            row = place.row + _first_wrong(values, field.type, convert) + 1
            raise InputError(
                f"a value must be of the column's type, however: {place.file}: {field.name!r}, about row "
                f"{row}, is not {field.type}; correct the value, or the type in the schema"
            ) from None
        if typed.null_count and not field.nullable:
            row = place.row + pc.index(pc.is_null(typed), True).as_py() + 1
            raise InputError(
                f"a column that is not nullable must have no missing value, however: {place.file}: "
                f"{field.name!r}, about row {row}; write nullable: true in the schema"
            )
        arrays.append(typed)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _nan_is_missing(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type) or not pc.any(pc.is_nan(values)).as_py():
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _first_wrong(values: pa.Array, type: pa.DataType, convert: _Convert) -> int:
    """The index of the first value that does not convert, by halving."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(values.slice(low, middle - low), type)
            low = middle
        except NOT_CONVERTED:
            high = middle
    return low


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_BLOCK_BYTES):
            yield chunk


@contextmanager
def _reading(file: str, explain: Callable[[Exception], str] | None = None) -> Iterator[None]:
    """Turns what goes wrong while reading a file into an error that names it and quotes nothing of it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise InputError(f"an input must be readable, however: {file}: {os.strerror(e.errno)}") from None
        problem = explain(e) if explain else "a file must be whole, however: {file} is damaged; copy it again"
        raise InputError(problem.replace("{file}", file)) from None
