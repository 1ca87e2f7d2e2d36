"""Ingest: CSV, Parquet, collections of images and queries of databases, as streams of Arrow record batches.

The table never has to fit in memory: `find` and `sniff` find out what an input is, `infer_types` reads a CSV once to
learn its types, `batches` streams rows of exactly the types of a schema, `digest` notices a changed input.

What a person should know of the reading, besides what `delimited` does:

- NaN is how many tools write a missing number: it is missing here. Infinities stay.
- What Arrow holds but a schema cannot name (lists, structs, bytes) becomes a string column of `REPLACED`.
- What folders say, `year=2020/month=1`, is a column.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.aside import Aside
from pipelines.dates import iso
from pipelines.delimited import (
    CANDIDATES,
    TIMES,
    Candidate,
    csv_blocks,
    csv_columns,
    csv_source,
    from_text,
    present,
)
from pipelines.gallery import (
    IMAGE_COLUMN,
    METADATA,
    files_of_images,
    format_of,
    image_blocks,
    image_source,
    plain_images,
)
from pipelines.layout import Told
from pipelines.publish import SUMS
from pipelines.query import Query, common_type, database_file, file_query, from_values
from pipelines.reference import check_input, is_address, label_of
from pipelines.scans import Scans
from pipelines.source import (
    BLOCK_BYTES,
    COMPRESSED,
    ImageFormat,
    Source,
    compressed,
    keys_of,
    opened,
    reading,
)
from privacy.errors import InputError, RecipeError, RowError
from synth.images import holds_images, is_image_type
from synth.infer import plain_type, to_plain
from synth.keys import NOT_CONVERTED, is_text
from synth.schema import DATES, DAY_OR_MONTH, IMAGE, dates_of

_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_PARQUET = b"PAR1"

IMAGES_AT_ONCE = 1024
"""Rows with bytes, which may be images, that are read at a time at most."""

IMAGE_BYTES_AT_ONCE = 32 << 20
"""Bytes of such rows: a batch ends with the rows that exceed this."""

_FEW = 16
"""Rows that are unpacked at a time: how many bytes they become is known afterwards, since a page may repeat a value."""


Table = Source | Query
"""Where rows come from."""

_FILE_ADDRESS = re.compile(r"(?:sqlite(?:\+pysqlite)?|duckdb):///([^?]+)")
"""The address of a database that is a file."""


def find(
    text: str,
    query: str | None,
    locate: Callable[[str], Path],
    *,
    scans: Scans | None = None,
    told: Told | None = None,
) -> Table:
    """Finds out what an input is: a database that an address names, or what lies at a path.

    Args:
        text: a path, or an address as SQLAlchemy has it.
        query: what a database is asked.
        locate: gives the absolute path of an input that may be read.
        scans: what a recipe says of DICOM and NIfTI files.
        told: what is known of a CSV beforehand, so that nothing of it is found out.

    Raises:
        RecipeError: query and input do not fit, or the input may not be read.
        InputError: there is nothing to read, see `sniff`.
    """
    check_input(text)
    of_file = _FILE_ADDRESS.fullmatch(text)
    if is_address(text) and of_file is None:
        if query is None:
            raise RecipeError(
                f"an input that is a server needs a query, however: {label_of(text)} has none; write query: SELECT …"
            )
        return Query(address=text, text=query)
    path = locate(text if of_file is None else of_file[1])
    engine = database_file(path)
    if engine is not None:
        return file_query(path, engine, query)
    if query is not None:
        raise RecipeError(f"a query is for a database, however: {path.name} is none; leave query out")
    return sniff(path, scans=scans, told=told)


def has_names(text: str, locate: Callable[[str], Path]) -> bool:
    """Whether `find` tells the columns of an input without reading a row: of CSV, Parquet and databases it does.

    Which columns a collection of images has follows from what lies there. This looks at names of files alone.

    Raises:
        RecipeError: the input may not be read, or is not there.
    """
    if is_address(text):
        return True
    path = locate(text)
    if path.is_file():
        return format_of(path) is None
    return any(_is_table(f) and f.name.lower() not in METADATA for f in _files_below(path))


def sniff(path: Path, *, scans: Scans | None = None, told: Told | None = None) -> Source:
    """Finds out what lies at `path`: a CSV or Parquet file, images, or a folder of one of them.

    A folder is searched through and through; names that start with `_` or `.` are passed over, and so are
    files that are called neither as tables nor as images, and folders below it that are releases (they hold a
    file SHA256SUMS): what was made from a table is no part of it.

    Raises:
        InputError: there is nothing to read, a file is damaged, the files differ in form or in columns, or a
            column name stands twice.
    """
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"an input must be a file or a folder, however: {path} is neither; correct the path")
    files = _files_below(path) if path.is_dir() else (path,)
    tables = tuple(f for f in files if _is_table(f))
    images = files_of_images(f for f in files if f not in set(tables)) if path.is_dir() or not tables else {}
    if not images:
        return _sniff_files(path, tables if path.is_dir() else files, told)
    return _sniff_images(path, files, images, scans or Scans())


def infer_types(source: Table, aside: Aside | None = None) -> pa.Schema:
    """The column types of a source: those of its Parquet files, or what all rows of a CSV or a query fit.

    A CSV is read once from end to end; a column takes the first of int64, float64, bool, date32, timestamp
    (us, or ns where more digits are written; UTC where every value has a zone) that every value fits, else
    string. Numbers with leading zeros and integers beyond int64 are strings.

    Args:
        source: what to read.
        aside: takes broken rows; None: there must be none.

    Raises:
        InputError: a file cannot be read, or Parquet files disagree about the type of a column.
    """
    if isinstance(source, Query):
        return _query_types(source)
    if source.format == "parquet":
        return _parquet_types(source)
    alive: dict[str, tuple[Candidate, ...]] = {}
    for block, _ in _file_blocks(source, aside or Aside()):
        for name, cells in zip(block.schema.names, block.columns, strict=True):
            values = present(cells) if is_text(cells.type) else cells[:0]
            if len(values):
                alive[name] = tuple(c for c in alive.get(name, CANDIDATES) if c.fits(values))
    images = (IMAGE_COLUMN,) if source.holds_images else ()
    return pa.schema(
        [
            pa.field(name, IMAGE) if name in images else _first(name, alive.get(name, ()))
            for name in source.columns
        ]
    )


def _first(name: str, alive: Sequence[Candidate]) -> pa.Field:
    """A column of the first type that is left, unless dates may be read in two ways: those stay text."""
    first = next(iter(alive), None)
    if first is None or first.dates is None:
        return pa.field(name, pa.string() if first is None else first.type)
    if any(c.dates != first.dates for c in alive):
        return pa.field(name, pa.string(), metadata={DATES: DAY_OR_MONTH})
    return pa.field(name, first.type, metadata={DATES: first.dates})


def _query_types(query: Query) -> pa.Schema:
    """The types of a query's columns; where a database keeps times as text, those that all of a column's texts fit."""
    types: dict[str, pa.DataType] = {}
    alive: dict[str, tuple[Candidate, ...]] = {}
    for block in query.blocks():
        for name, values in zip(block.schema.names, block.columns, strict=True):
            types[name] = common_type(types.get(name, pa.null()), values.type)
            if query.timeless and pa.types.is_string(values.type):
                alive[name] = tuple(c for c in alive.get(name, TIMES) if c.fits(present(values)))
    return pa.schema(
        [
            _first(name, alive.get(name, ()))
            if pa.types.is_string(type)
            else pa.field(name, pa.string() if pa.types.is_null(type) else type)
            for name, type in types.items()
        ]
    )


def batches(
    source: Table,
    schema: pa.Schema,
    *,
    batch_rows: int | None = None,
    aside: Aside | None = None,
    adapt: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Streams the rows with exactly the types of `schema`, in its order of columns.

    Args:
        source: what to read.
        schema: names, types and nullability; its columns are the source's, in any order.
        batch_rows: rows of a batch at most; None: 65,536, of wide tables fewer. A table without rows gives one
            empty batch.
        aside: takes broken rows of CSV files; None: there must be none.
        adapt: whether columns that the schema lacks are left out, and those that the source lacks are missing.

    Raises:
        InputError: a column is missing or too many, a value does not convert, a value is missing where none
            may be; file, column and row are named, the value is not.
    """
    aside = aside or Aside()
    if isinstance(source, Query):
        read, convert = _query_blocks(source, schema), from_values
    else:
        source = _named_by(source, schema)
        read = _file_blocks(source, aside)
        convert = to_plain if source.format == "parquet" else _from_cells
    batch_rows = batch_rows or rows_at_once(len(schema))
    images = [f.name for f in schema if f.type == IMAGE]
    empty = True
    for number, (block, place) in enumerate(read):
        if number == 0:
            _refuse_drift(source.label, _name_drift(block.schema.names, schema), allowed=adapt)
        block = _adapted(block, schema)
        if images and not (isinstance(source, Source) and source.holds_images):
            block = plain_images(block, images, _row_of(place), aside)
        for start in range(0, block.num_rows, batch_rows):
            piece = block.slice(start, batch_rows)
            yield _typed(piece, schema, convert, replace(place, row=place.row + start))
            empty = False
    if empty:
        yield pa.RecordBatch.from_pylist([], schema=schema)


def rows_at_once(columns: int) -> int:
    """Rows that are held at a time: some four million cells, and no more than 65,536 rows."""
    return min(65_536, max(256, (1 << 22) // columns))


def _file_blocks(source: Source, aside: Aside) -> Iterator[tuple[pa.RecordBatch, "_Place"]]:
    if source.holds_images:
        row = 0
        for block in image_blocks(source, aside):
            yield block, _Place(file=source.label, row=row)
            row += block.num_rows
        return
    for file in source.files:
        row = 0
        read = csv_blocks(source, file, aside) if source.format == "csv" else _parquet_blocks(source, file)
        for block in _with_keys(source, file, read):
            yield block, _Place(file=source.name_of(file), row=row)
            row += block.num_rows


def _query_blocks(query: Query, schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, "_Place"]]:
    row = 0
    for block in query.blocks(schema):
        yield block, _Place(file=query.label, row=row)
        row += block.num_rows


def check_drift(source: Source, schema: pa.Schema, *, allowed: bool) -> None:
    """Holds the columns of files against a schema before any row is read.

    Raises:
        InputError: they differ, and that is not allowed; every difference is named.
    """
    _refuse_drift(source.label, drift_of(source, schema), allowed=allowed)


def drift_of(source: Table, schema: pa.Schema) -> tuple[str, ...]:
    """How the columns of a source differ from a schema, a line each: `+` is new, `-` is missing, `~` another kind."""
    if isinstance(source, Query):
        found = next(source.blocks()).schema
        return _name_drift(found.names, schema)
    # Where it is known that there is no header, no row is looked at for one.
    source = source if source.numbered else _named_by(source, schema)
    names = source.columns if source.holds_images else _columns_of(source, source.files[0])
    if source.format != "parquet":
        return _name_drift(names, schema)
    types = _parquet_types(replace(source, columns=names), schema)
    other = [
        f"~ {f.name!r} is {types.field(f.name).type}, no longer {f.type}"
        for f in schema
        if f.name in names and not _may_become(types.field(f.name).type, f.type)
    ]
    return (*_name_drift(names, schema), *other)


def _name_drift(names: Sequence[str], schema: pa.Schema) -> tuple[str, ...]:
    expected = set(schema.names)
    new = [f"+ {_told_name(n)} is new" for n in names if n not in expected]
    return (*new, *(f"- {n!r} is missing" for n in schema.names if n not in set(names)))


def _may_become(found: pa.DataType, type: pa.DataType) -> bool:
    """Whether values of a type may convert: anything to text, and within numbers, times and truth values."""
    kinds = (pa.types.is_boolean, pa.types.is_temporal, is_text)
    a, b = ([is_kind(t) for is_kind in kinds] for t in (found, type))
    return a == b or is_text(type) or pa.types.is_null(found) or pa.types.is_null(type)


def _refuse_drift(label: str, drift: Sequence[str], *, allowed: bool) -> None:
    if not drift or allowed:
        return
    # Where a header is damaged, what looks like a new name may be a row.
    new = [line for line in drift if line.startswith("+")]
    known = [line for line in drift if not line.startswith("+")]
    raise RowError(
        f"an input must have the columns of its schema, however: {label}: {_some(known) or 'it has others'}",
        f"; {_some(new)}" if new else "",
        "; mend the schema, or read it as it is with --allow-drift",
    )


def recorded_drift(drift: Sequence[str], released: Sequence[str]) -> tuple[str, ...]:
    """What a certificate says of a drift: it names no column but those that are released, others are counted."""
    new = sum(line.startswith("+") for line in drift)
    known = tuple(line for line in drift if any(line[1:].startswith(f" {n!r} ") for n in released))
    dropped = len(drift) - new - len(known)
    told = (*known, f"+ {new} new and left out") if new else known
    return (*told, f"{dropped} of those that are dropped are other or missing") if dropped else told


def _some(lines: Sequence[str]) -> str:
    return "; ".join(lines[:20]) + (f"; and {len(lines) - 20} more" if len(lines) > 20 else "")


def _told_name(name: str) -> str:
    """A name that no schema vouches for: one that may be a piece of a table is not repeated."""
    plain = len(name) <= 40 and name.isprintable() and not any(c in name for c in ",;\t|")
    return repr(name) if plain else f"a name of {len(name)} letters"


def _adapted(block: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with a column of missing values for each that the source lacks."""
    for field in schema:
        if field.name not in block.schema.names:
            block = block.append_column(field.name, pa.nulls(len(block), pa.string()))
    return block


def stamp(source: Table) -> tuple[tuple[int, ...], ...]:
    """What tells that files were changed while they were read; of a query nothing, which sees one state."""
    if isinstance(source, Query):
        return ()
    found = []
    for file in source.files:
        with reading(source.name_of(file)):
            about = file.stat()
            found.append((about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(found)


def _named_by(source: Source, schema: pa.Schema) -> Source:
    """The source with a header where the schema settles it: its names stand in the first row of each file."""
    if source.format != "csv" or source.header:
        return source
    named = replace(source, header=True, numbered=())
    if all(sorted(_columns_of(named, file)) == sorted(schema.names) for file in source.files):
        return named
    return source


def digest(source: Table) -> str:
    """SHA-256 (hex) over the files' names, lengths and contents; it tells a changed input from the same one.

    Of a query it is over the rows in any order, which takes reading them.

    Raises:
        InputError: a file cannot be read.
    """
    if isinstance(source, Query):
        return source.digest()
    total = hashlib.sha256()
    for file in source.files:
        name = source.name_of(file)
        content = hashlib.sha256()
        with reading(name), file.open("rb") as stream:
            while chunk := stream.read(BLOCK_BYTES):
                content.update(chunk)
        total.update(f"{len(name.encode())}:{name}:{content.hexdigest()}\n".encode())
    return total.hexdigest()


# -------------------------------------------------------------------------------------------- what lies there


def _files_below(folder: Path) -> tuple[Path, ...]:
    """The files in `folder` and below it, by relative name."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        if SUMS in names and Path(parent) != folder:
            folders.clear()
            continue
        folders[:] = [f for f in folders if not f.startswith(("_", "."))]
        found += [Path(parent, n) for n in names if not n.startswith(("_", "."))]
    away = {f for f in found if f.is_symlink() and not f.resolve().is_relative_to(folder.resolve())}
    odd = {f for f in found if f.exists() and not f.is_file()}
    for file in away | odd:
        if _is_table(file) or format_of(file) is not None or file.name.lower() in METADATA:
            what = (
                "a link to elsewhere; copy it"
                if file in away
                else "no file, but a pipe or a device; take it out"
            )
            raise InputError(f"a file of an input must lie in its folder, however: {file} is {what}")
    left = [f for f in found if f not in away | odd]
    return tuple(sorted(left, key=lambda f: f.relative_to(folder).as_posix()))


def _suffix(name: str) -> str:
    """How a table's name ends, before what it is packed with: `.csv` of `t.csv.gz`."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if suffix in COMPRESSED else suffix


def _is_table(file: Path) -> bool:
    return _suffix(file.name) in _SUFFIXES


def _sniff_images(
    path: Path, files: Sequence[Path], images: dict[ImageFormat, list[Path]], scans: Scans
) -> Source:
    """A collection of images: all of one format, and no other table beside them than metadata."""
    tables = [f for f in files if _is_table(f) and f.name.lower() not in METADATA]
    kinds = {format: found[0] for format, found in images.items()} | (
        {"csv or parquet": tables[0]} if tables else {}
    )
    if len(kinds) > 1:
        (a, first), (b, second) = list(kinds.items())[:2]
        raise InputError(
            f"the files of one input must be of one format, however: {first} is of {a} and {second} of {b}; move one "
            "of them elsewhere, and call a table that says something of images metadata.csv"
        )
    ((format, found),) = images.items()
    said = [f for f in files if f.name.lower() in METADATA and format in ("pictures", "scans")]
    return image_source(path, format, sorted([*found, *said]), scans)


def _sniff_files(path: Path, files: tuple[Path, ...], told: Told | None) -> Source:
    if not files:
        raise InputError(
            f"an input folder must hold .csv, .tsv, .parquet or .pq files, or images, however: {path} holds none; "
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
        source = csv_source(path, files, told)
    for file in files:
        _check_names(source.name_of(file), _columns_of(source, file))
    own = _columns_of(source, files[0])
    source = replace(source, keys=_keys(source, own))
    columns = (*own, *source.keys)
    for file in files:
        _check_columns(source.name_of(file), _columns_of(source, file), columns)
    if not columns:
        raise InputError(f"a table must have columns, however: {source.name_of(files[0])} has none")
    return replace(source, columns=columns)


def _check_names(file: str, names: Sequence[str]) -> None:
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        # Not the name: a file without a header has a person's row there.
        first, second = [i + 1 for i, n in enumerate(names) if n == twice][:2]
        raise InputError(
            f"column names must differ, however: {file}: columns {first} and {second} have the same; rename one, or "
            "add a header if the first line is none"
        )


def _keys(source: Source, columns: Sequence[str]) -> tuple[str, ...]:
    """Columns that folders name and files lack; all files must lie in folders of the same names."""
    found = {tuple(k for k in keys_of(source.path, file) if k not in columns): file for file in source.files}
    if len(found) > 1:
        (a, file_a), (b, file_b) = list(found.items())[:2]
        raise InputError(
            f"all files of one input must lie in folders of the same names, however: {source.name_of(file_a)} "
            f"has {', '.join(a) or 'none'} and {source.name_of(file_b)} has {', '.join(b) or 'none'}; move them"
        )
    return next(iter(found))


def _with_keys(source: Source, file: Path, blocks: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of one file, and what its folders say of all of them, as strings."""
    keys = keys_of(source.path, file)
    for block in blocks:
        for name in source.keys:
            block = block.append_column(name, pa.array([keys[name]] * len(block), pa.string()))
        yield block


def _format_of(file: Path) -> Literal["csv", "parquet"]:
    """What a file is by its first bytes; Parquet is checked for its end, too."""
    with reading(file.name):
        packed = compressed(file)
        with opened(file) as stream:
            head = stream.read(4)
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 4))
            tail = stream.read(4)
    if not head:
        raise InputError(f"an input must hold a table, however: {file} is empty")
    if head == _PARQUET and packed:
        raise InputError(f"a Parquet file must not be packed once more, however: {file} is; unpack it first")
    if head == _PARQUET and (tail != _PARQUET or size < 12):
        raise InputError(f"a Parquet file must be whole, however: {file} is truncated; copy it again")
    if head != _PARQUET and _SUFFIXES.get(_suffix(file.name)) == "parquet":
        raise InputError(f"a .parquet file must hold Parquet, however: {file} does not; copy it again")
    if head == b"PK\x03\x04":
        raise InputError(
            f"an input must be CSV, Parquet or images, however: {file} is a zip archive; unpack it first, or pack it "
            "with gzip, bzip2, zstd or xz"
        )
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
            f"{file} must have the columns of the table and no other, however: column {list(names).index(extra[0]) + 1}"
            f"{_and_more(extra)} is none of them; mend the file or the schema"
        )


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _columns_of(source: Source, file: Path) -> tuple[str, ...]:
    """The columns of one file, with those that its folders name."""
    own = (
        tuple(_parquet_schema(source, file).names)
        if source.format == "parquet"
        else csv_columns(source, file)
    )
    return (*own, *source.keys)


# ---------------------------------------------------------------------------------------------------- Parquet


def _parquet_schema(source: Source, file: Path) -> pa.Schema:
    with reading(source.name_of(file)):
        return pq.read_schema(file)


def _parquet_types(source: Source, expected: pa.Schema | None = None) -> pa.Schema:
    """One type for each column over all files; a column without any value (type null) agrees with all.

    Args:
        source: what is read.
        expected: says which columns of bytes are of images; None: their first values do, which takes reading them.

    Raises:
        InputError: the files disagree.
    """
    known_images = None if expected is None else {f.name for f in expected if f.type == IMAGE}
    fields: dict[str, pa.Field] = {}
    for file in source.files:
        for found in _parquet_schema(source, file):
            field = pa.field(found.name, _type_of(source, file, found, known_images), found.nullable)
            known = fields.get(field.name, field)
            merged = _common_type(known.type, field.type)
            if merged is None:
                raise InputError(
                    f"a column must have one type in all files, however: {source.name_of(file)}: "
                    f"{field.name!r} is {field.type}, and {known.type} before; write it as one of them"
                )
            fields[field.name] = pa.field(field.name, merged, known.nullable or field.nullable)
    fields |= {name: pa.field(name, _key_type(source, name)) for name in source.keys}
    return pa.schema([fields[name] for name in source.columns])


def _type_of(source: Source, file: Path, field: pa.Field, images: set[str] | None) -> pa.DataType:
    """The type of a column; one of bytes is of images if `images` names it, or if it is None, by its first value."""
    if not is_image_type(field.type):
        return plain_type(field.type)
    if images is not None:
        return IMAGE if field.name in images else pa.string()
    with reading(source.name_of(file)), pq.ParquetFile(file, buffer_size=BLOCK_BYTES) as parquet:
        blocks = parquet.iter_batches(batch_size=16, columns=[field.name])
        found = (holds_images(block.column(0)) for block in itertools.islice(blocks, 64))
        shown = next((f for f in found if f is not None), field.type == IMAGE)
    return IMAGE if shown else pa.string()


def _key_type(source: Source, name: str) -> pa.DataType:
    """The first type that what folders say of a column fits, as in a CSV."""
    said = pa.array([keys_of(source.path, file)[name] for file in source.files], pa.string()).drop_null()
    return (
        next((c.type for c in CANDIDATES if c.dates is None and c.fits(said)), pa.string())
        if len(said)
        else pa.string()
    )


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
    with reading(source.name_of(file)), pq.ParquetFile(file, buffer_size=BLOCK_BYTES) as parquet:
        wide = any(is_image_type(f.type) for f in parquet.schema_arrow)
        if wide:
            yield from image_batches(parquet)
            return
        yield from parquet.iter_batches(batch_size=rows_at_once(len(source.columns) or 1))


def file_batches(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, *, images: bool, rows: int = IMAGES_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """The rows of a file of ours, in batches; those with images are bounded by bytes, too.

    Args:
        file: what is read.
        columns: those that are read; None: all.
        images: whether images are among them.
        rows: of a batch with images at most.
    """
    if images:
        return image_batches(file, columns, rows=rows)
    names = None if columns is None else list(columns)
    return iter(file.iter_batches(batch_size=65_536, columns=names, use_threads=False))


def image_batches(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, *, rows: int = IMAGES_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """The rows of a file with images, in batches that are bounded by bytes and not by rows alone.

    Args:
        file: what is read.
        columns: those that are read; None: all.
        rows: of a batch at most.
    """
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    per_row = max((g.total_byte_size / max(g.num_rows, 1) for g in groups), default=1.0)
    few = int(min(_FEW, rows, max(1.0, IMAGE_BYTES_AT_ONCE / max(per_row, 1.0))))
    held: list[pa.RecordBatch] = []
    for batch in file.iter_batches(batch_size=few, columns=columns, use_threads=False):
        held.append(batch)
        count = sum(len(b) for b in held)
        if count + few > rows or sum(b.nbytes for b in held) >= IMAGE_BYTES_AT_ONCE:
            yield from _joined(held)
            held = []
    if held:
        yield from _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One batch, as a rule."""
    yield from pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()


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
        values = _iso(block.column(field.name), field)
        try:
            typed = _nan_is_missing(convert(values, field.type))
        except NOT_CONVERTED:
            row = place.row + _first_wrong(values, field.type, convert) + 1
            raise RowError(
                f"a value must be of the column's type, however: {place.file}: {field.name!r}",
                f", about row {row},",
                f" is not {field.type}; correct the value, or the type in the schema",
            ) from None
        if typed.null_count and not field.nullable:
            row = place.row + pc.index(pc.is_null(typed), True).as_py() + 1
            raise RowError(
                f"a column that is not nullable must have no missing value, however: {place.file}: {field.name!r}",
                f", about row {row}",
                "; write nullable: true in the schema",
            )
        arrays.append(typed)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _iso(values: pa.Array, field: pa.Field) -> pa.Array:
    written = dates_of(field)
    return values if written is None or not is_text(values.type) else iso(values, written)


def _from_cells(values: pa.Array, type: pa.DataType) -> pa.Array:
    """Cells of text as `type`; images as they are."""
    return values if values.type == type else from_text(values, type)


def _nan_is_missing(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type) or not pc.any(pc.is_nan(values)).as_py():
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _row_of(place: _Place) -> Callable[[int], str]:
    return lambda row: f"{place.file} row {place.row + row + 1}"


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
