"""Delimited: CSV files, with encoding, delimiter, header and types found out, or read as somebody says.

- A cell that is empty or one of `MISSING`, unquoted, is missing. In a column of strings, quotes
  make ``""`` an empty string and ``"NA"`` a text; in a column of any other type those are missing, too.
- A line that is wholly blank is skipped; a quote is escaped by doubling it.
- Spaces around a number, a date or a truth value are ignored; a string keeps its spaces.
- A row with too many or too few cells is broken, and so is one that is no text of the encoding that was said: it is
  set aside, up to as many as somebody allowed.
- Each row is decoded by itself: whatever bytes one holds, the others are read as if it were not there. In UTF-8 and
  cp1252 a line end, a quote and a delimiter are bytes that no letter holds; UTF-16 goes on after a wrong
  unit.
"""

import codecs
import csv
import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.aside import Aside, Broken
from pipelines.dates import WRITTEN, iso
from pipelines.layout import Told
from pipelines.source import BLOCK_BYTES, Source, chunks, keys_of, opened, reading
from privacy.errors import InputError, RowError
from synth.schema import Dates

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")
"""Cells of a CSV that mean: missing. Shorter than pandas' list: `None` is a category of real tables."""

_DELIMITERS = (",", ";", "\t", "|")
_READ_BYTES = 4 << 20
_LOOK_ROWS = 1000

_WRONG = "\U0010fffe"
"""What bytes that are no text become: no character, by Unicode's own word, so a row that has it is no text either."""

_MARK = "understudy.wrong"
codecs.register_error(_MARK, lambda e: (_WRONG, e.end if isinstance(e, UnicodeDecodeError) else 0))


def csv_source(path: Path, files: tuple[Path, ...], told: Told | None = None) -> Source:
    """Encoding, delimiter and header, which all files must share.

    Args:
        path: the file or the folder.
        files: what is read.
        told: what is known beforehand: then no file is opened here.

    Raises:
        InputError: they do not share them, or are no CSV.
    """
    if told is None:
        return _found(path, files)
    numbered = told.numbered({key for file in files for key in keys_of(path, file)})
    return Source(
        path=path,
        format="csv",
        files=files,
        columns=(),
        encoding=told.layout.encoding,
        delimiter=told.layout.delimiter,
        header=not numbered,
        numbered=numbered,
    )


def _found(path: Path, files: tuple[Path, ...]) -> Source:
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
    with reading(file.name), opened(file) as stream:
        mark = stream.read(4)
    if mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        raise InputError(f"a CSV must be UTF-8, UTF-16 or cp1252, however: {file} is UTF-32; convert it")
    if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        candidates: tuple[str, ...] = ("utf-16",)
    elif any(b"\0" in chunk for chunk in chunks(file)):
        raise InputError(f"a CSV must be text, however: {file} holds NUL bytes; is it another format?")
    else:
        candidates = ("ascii", "utf-8", "cp1252")
    for encoding in candidates:
        if _decodes(file, encoding):
            return encoding
    raise InputError(f"a CSV must be UTF-8, UTF-16 or cp1252, however: {file} is none of them; convert it")


def _decodes(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with reading(file.name):
        try:
            for chunk in chunks(file):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _head(file: Path, encoding: str) -> tuple[str, bool]:
    """The first characters of a CSV file, and whether they are all of it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)("replace")
    with reading(file.name), opened(file) as stream:
        return decoder.decode(stream.read(BLOCK_BYTES)), not stream.read(1)


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


def csv_columns(source: Source, file: Path) -> tuple[str, ...]:
    """The names of the columns of one CSV file; nothing is looked at beyond its first row that is not blank."""
    if source.numbered and not source.header:
        return source.numbered
    first = _first_row(source, file)
    if not source.header:
        return tuple(f"column_{i}" for i in range(1, len(first) + 1))
    return tuple(cell.strip() or f"column_{i}" for i, cell in enumerate(first, start=1))


def _first_row(source: Source, file: Path) -> list[str]:
    with reading(source.name_of(file)), _text_of(source, file, errors="replace") as text:
        try:
            return next((row for row in csv.reader(text, delimiter=source.delimiter or ",") if row), [])
        except csv.Error:
            return []


def _text_of(source: Source, file: Path, *, errors: str) -> io.TextIOWrapper:
    encoding = "utf-8-sig" if (source.encoding or "utf-8") == "utf-8" else source.encoding
    return io.TextIOWrapper(opened(file), encoding=encoding, errors=errors, newline="")


def csv_blocks(source: Source, file: Path, aside: Aside) -> Iterator[pa.RecordBatch]:
    """The rows of one CSV file, every column as string, missing cells as nulls; broken rows go aside.

    Raises:
        RowError: more rows are broken than may be set aside.
        InputError: the file cannot be read.
    """
    names = csv_columns(source, file)
    left = aside.most - len(aside.rows)
    odd = undecoded = row = 0

    def set_aside(_: Any) -> str:
        nonlocal odd
        odd += 1
        return "skip" if odd + undecoded <= left else "error"

    name, utf8 = source.name_of(file), _Utf8(source.encoding or "utf-8")
    with reading(name), opened(file) as stream:
        try:
            for block in _reader(source, file, utf8.of(stream), names, set_aside):
                plain = _texts(block) if utf8.wrong else block
                undecoded += len(block) - len(plain)
                if odd + undecoded > left:
                    raise _too_many(source, file, aside, len(names))
                yield plain
                row += len(plain)
        except pa.ArrowException:
            if odd + undecoded > left:
                raise _too_many(source, file, aside, len(names)) from None
            raise RowError(
                f"a CSV must be well formed, however: {name}: it breaks",
                f" somewhere after row {row}",
                "; is a quote not closed?",
            ) from None
    if odd + undecoded:
        aside.rows += _broken(source, file, len(names))


def _reader(
    source: Source,
    file: Path,
    stream: Any,
    names: Sequence[str],
    set_aside: Callable[[Any], str],
) -> pa.RecordBatchReader:
    return pyarrow.csv.open_csv(
        stream,
        read_options=pyarrow.csv.ReadOptions(
            column_names=names,
            skip_rows=_blank_lines(file, source.encoding or "utf-8"),
            skip_rows_after_names=int(source.header),
            block_size=_READ_BYTES,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=set_aside
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in names},
            null_values=list(MISSING),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


class _Utf8:
    """Turns text into UTF-8, which Arrow insists on: one byte that is none would else refuse the whole file.

    Attributes:
        wrong: whether something was no text so far.
    """

    def __init__(self, encoding: str) -> None:
        self.wrong = False
        self._decoder = codecs.getincrementaldecoder(encoding)(_MARK)

    def of(self, stream: BinaryIO) -> Any:
        """The bytes of a stream, turned."""
        return pa.TransformInputStream(pa.PythonFile(stream, mode="r"), self._turned)

    def _turned(self, data: Any) -> bytes:
        text = self._decoder.decode(bytes(data), not len(data))
        self.wrong = self.wrong or _WRONG in text
        return text.encode()


def _texts(block: pa.RecordBatch) -> pa.RecordBatch:
    """Those rows of a block whose every cell is text."""
    wrong = [pc.fill_null(pc.match_substring(column, _WRONG), False) for column in block.columns]
    return block.filter(pc.invert(functools.reduce(pc.or_, wrong)))


def _too_many(source: Source, file: Path, aside: Aside, width: int) -> RowError:
    found = list(islice(_broken(source, file, width), aside.most - len(aside.rows) + 1))
    aside.rows += found
    last = found[-1] if found else None
    name = source.name_of(file)
    if last is not None and last.encoding:
        return RowError(
            f"a row must be text in {last.encoding}, however: {name}: more rows than `broken_rows: {aside.most}` "
            "allows are not",
            f", the last is that of line {last.line}",
            "; say in `csv:` of the recipe how the file is written, mend it, or set such rows aside with a larger "
            "broken_rows",
        )
    where = "" if last is None else f", that of line {last.line} has {last.cells}"
    return RowError(
        f"a row must have {width} cells, however: {name}: more rows than `broken_rows: {aside.most}` "
        "allows have others",
        where,
        "; mend the file, or set such rows aside with a larger broken_rows in the recipe",
    )


def _broken(source: Source, file: Path, width: int) -> Iterator[Broken]:
    """The broken rows of a file, with the lines that they begin in; Arrow, which is quicker, tells no lines."""
    with _text_of(source, file, errors=_MARK) as text:
        rows, line, is_name = csv.reader(text, delimiter=source.delimiter or ","), 0, source.header
        try:
            for row in rows:
                wrong = not is_name and any(_WRONG in cell for cell in row)
                if row and (wrong or len(row) != width):
                    yield Broken(
                        file=source.name_of(file),
                        line=line + 1,
                        cells=len(row),
                        text=tuple(cell.replace(_WRONG, "\ufffd") for cell in row),
                        encoding=(source.encoding or "utf-8") if wrong else "",
                    )
                line, is_name = rows.line_num, is_name and not row
        except csv.Error:
            return


def present(column: pa.Array) -> pa.Array:
    """The cells that hold something, without the spaces around them."""
    values = pc.utf8_trim_whitespace(column.drop_null())
    return values.filter(pc.invert(pc.is_in(values, pa.array(MISSING))))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A type that a CSV column may have: how its values look, dates as in ISO 8601, and that they convert."""

    type: pa.DataType
    form: str
    dates: Dates | None = None

    def fits(self, values: pa.Array) -> bool:
        """Whether every one of `values`, string (n,), is of this type."""
        values = iso(values, self.dates)
        return pc.all(pc.match_substring_regex(values, f"^(?:{self.form})$")).as_py() and _casts(
            values, self.type
        )


_INT = "0|-?[1-9][0-9]*"
_FLOAT = r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|-?inf"
_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,%d})?)?"
_ZONE = "(?:Z|[-+][0-9]{2}(?::?[0-9]{2})?)"
CANDIDATES = (
    Candidate(type=pa.int64(), form=_INT),
    Candidate(type=pa.string(), form=_INT),  # integers beyond int64: a float would lose their last digits
    Candidate(type=pa.float64(), form=_FLOAT),
    Candidate(type=pa.bool_(), form="true|false|True|False|TRUE|FALSE"),
    Candidate(type=pa.date32(), form=_DATE),
    Candidate(type=pa.timestamp("us"), form=f"{_DATE}(?:{_CLOCK % 6})?"),
    Candidate(type=pa.timestamp("us", tz="UTC"), form=_DATE + _CLOCK % 6 + _ZONE),
    Candidate(type=pa.timestamp("ns"), form=f"{_DATE}(?:{_CLOCK % 9})?"),
    Candidate(type=pa.timestamp("ns", tz="UTC"), form=_DATE + _CLOCK % 9 + _ZONE),
    *(Candidate(type=pa.date32(), form=_DATE, dates=d) for d in WRITTEN),
    *(Candidate(type=pa.timestamp("us"), form=f"{_DATE}(?:{_CLOCK % 6})?", dates=d) for d in WRITTEN),
)
"""In order of preference; a column takes the first that no value of it ruled out."""

TIMES = tuple(c for c in CANDIDATES if pa.types.is_temporal(c.type))
"""The types that a database without times writes as text."""


def _casts(values: pa.Array, type: pa.DataType) -> bool:
    try:
        _parse(values, type)
    except pa.ArrowInvalid:
        return False
    return True


def from_text(values: pa.Array, type: pa.DataType) -> pa.Array:
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
