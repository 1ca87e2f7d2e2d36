"""Query: one SELECT against a database, as a stream of Arrow record batches.

Any database that SQLAlchemy reaches, and DuckDB files. Rows are read in one read-only transaction, through a cursor on
the server's side where there is one, so that the table never has to fit in memory. What a database says of an error may
quote a row: only what it says of the query itself is repeated.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from pipelines.delimited import from_text
from pipelines.reference import hidden, label_of, resolve
from privacy.errors import InputError, RecipeError
from synth.infer import plain_type, to_plain
from synth.keys import is_text

ROWS = 8_192
"""Rows that are fetched at once."""

_MAGIC: tuple[tuple[int, bytes, Literal["duckdb", "sqlite"]], ...] = (
    (8, b"DUCK", "duckdb"),
    (0, b"SQLite format 3\0", "sqlite"),
)

_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""The driver that is meant where an address names none."""

_READ_ONLY = ("mysql", "mariadb", "oracle")
"""Dialects whose transactions are made read-only by a statement before them."""

_OF_THE_QUERY = ("42", "3D", "28", "25", "57014")
"""Begins of SQLSTATE under which a message tells of the query or the login, and of no row."""

_SQLITE_SAYS = (
    "no such table", "no such column", "no such function", "near ", "incomplete input", "not authorized",
    "unable to open database file", "file is not a database", "database is locked", "ambiguous column name",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Query:
    """A SELECT and where it is asked.

    Attributes:
        address: an address as the recipe has it, references and all; empty for a file.
        file: the file of a database that is one.
        engine: sqlalchemy, or what kind of file it is.
        text: the SELECT.
    """

    address: str = ""
    file: Path | None = None
    engine: Literal["sqlalchemy", "sqlite", "duckdb"] = "sqlalchemy"
    text: str

    @property
    def label(self) -> str:
        """The source, as messages name it."""
        return (
            f"the query of {label_of(self.address)}"
            if self.file is None
            else f"the query of {self.file.name}"
        )

    @property
    def timeless(self) -> bool:
        """Whether the database keeps times as text."""
        return self.engine == "sqlite"

    def blocks(self, known: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
        """The rows, each batch in the types that its own values have; at least one batch.

        Args:
            known: columns whose types are known. Where a batch has values of several kinds, or the column is of texts,
                each value is then told as text by itself, so that none is written otherwise for what stands beside it.

        Raises:
            InputError: the database cannot be reached, or does not take the query.
            RecipeError: a reference to a secret leads nowhere.
        """
        if self.engine == "duckdb":
            yield from _duckdb_blocks(self)
        elif self.engine == "sqlite":
            yield from _sqlite_blocks(self, known)
        else:
            yield from _server_blocks(self, known)

    def digest(self) -> str:
        """SHA-256 (hex) over the query and its rows in any order; no secret goes into it."""
        total, rows = np.uint64(0), 0
        for block in self.blocks():
            rows += len(block)
            with np.errstate(over="ignore"):
                total += _hashes(block).sum(dtype=np.uint64)
        place = self.address or str(self.file)
        return hashlib.sha256(f"{place}\n{self.text}\n{rows}\n{int(total)}".encode()).hexdigest()


def database_file(path: Path) -> Literal["duckdb", "sqlite"] | None:
    """What kind of database a file is, by its first bytes."""
    if not path.is_file():
        return None
    with contextlib.suppress(OSError), path.open("rb") as stream:
        head = stream.read(16)
        return next((kind for at, magic, kind in _MAGIC if head[at:].startswith(magic)), None)
    return None


def file_query(path: Path, engine: Literal["duckdb", "sqlite"], text: str | None) -> Query:
    """A query of a database that is a file; without a text, all of its only table.

    Raises:
        RecipeError: there is no text, and not exactly one table.
        InputError: the file cannot be read.
    """
    if text is not None:
        return Query(file=path, engine=engine, text=text)
    listing = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'",
        "duckdb": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'",
    }
    found = Query(file=path, engine=engine, text=listing[engine])
    names = sorted(name for block in found.blocks() for name in block.column(0).to_pylist())
    if len(names) != 1:
        raise RecipeError(
            f"a database must have one table, or a query must say what is read, however: {path.name} has "
            f"{', '.join(map(repr, names)) or 'none'}; give a query, such as SELECT * FROM {_first(names)}"
        )
    return Query(file=path, engine=engine, text=f"SELECT * FROM {_name(names[0])}")


def _first(names: Sequence[str]) -> str:
    return _name(names[0]) if names else "a_table"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


# ---------------------------------------------------------------------------------------------- SQLAlchemy's


def _server(address: str) -> tuple[Any, tuple[str, ...]]:
    """An engine, which has not connected yet, and the secrets that its messages must not show."""
    url, secrets = resolve(address)
    if url.get_backend_name() == "sqlite":
        raise RecipeError(
            "a SQLite database must be named by the path of its file, however: the address is of another form; "
            "write input: data.sqlite, or sqlite:///data.sqlite without options"
        )
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    try:
        return create_engine(url, poolclass=NullPool, hide_parameters=True), secrets
    except (ImportError, NoSuchModuleError) as e:
        name = e.name if isinstance(e, ImportError) else url.drivername
        extra = "; pip install understudy[postgres]" if name == "psycopg" else "; install its package"
        raise InputError(f"a database needs its driver, however: {name} is not installed{extra}") from None
    except (SQLAlchemyError, TypeError, ValueError) as e:
        raise InputError(
            f"an address must be one that its driver takes, however: it does not ({type(e).__name__}); correct it"
        ) from None


def _server_blocks(query: Query, known: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    engine, secrets = _server(query.address)
    try:
        with engine.connect() as connection:
            yield from _fetched(query, _read_only(connection), known)
    except DBAPIError as e:
        raise InputError(
            f"a database must answer its query, however: {query.label}: {_told(e, secrets)}; correct address or query"
        ) from None
    except SQLAlchemyError as e:
        raise InputError(
            f"a database must answer its query, however: {query.label}: {type(e).__name__}; write a driver that "
            "is not asynchronous, and one SELECT"
        ) from None
    finally:
        engine.dispose()


def _read_only(connection: Connection) -> Connection:
    dialect = connection.dialect.name
    if dialect == "postgresql":
        connection = connection.execution_options(postgresql_readonly=True)
    if dialect in _READ_ONLY:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    return connection


def _fetched(query: Query, connection: Connection, known: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    # Without parameters, so that a % or a : of the query stays what it is.
    options = {"yield_per": ROWS, "no_parameters": True}
    result = connection.exec_driver_sql(query.text, execution_options=options)
    if not result.returns_rows:
        raise InputError(f"a query must be a SELECT, however: {query.label} gives no rows; correct it")
    yield from _arrays(query, list(result.keys()), result.partitions(ROWS), known)


def _arrays(
    query: Query, names: list[str], parts: Iterable[Sequence[Any]], known: pa.Schema | None
) -> Iterator[pa.RecordBatch]:
    """Batches of rows as drivers give them; one without rows, where there are none."""
    names = _named(query, names)
    types = {} if known is None else dict(zip(known.names, known.types, strict=True))
    empty = True
    for rows in parts:
        columns = [
            _array(list(values), types.get(name))
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, names=names)
        empty = False
    if empty:
        yield pa.RecordBatch.from_arrays([pa.nulls(0)] * len(names), names=names)


def _named(query: Query, names: list[str]) -> list[str]:
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise InputError(
            f"column names must differ, however: {query.label} has {twice!r} twice; rename one with AS"
        )
    return names


def _told(e: DBAPIError, secrets: tuple[str, ...]) -> str:
    """What may be repeated of a database's complaint: what it says of the query or the connection, not of a row."""
    cause = e.orig
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    diagnosis = getattr(getattr(cause, "diag", None), "message_primary", None)
    if state is not None:
        known = str(diagnosis) if diagnosis and str(state).startswith(_OF_THE_QUERY) else "an error"
        return f"{hidden(known, secrets)} (SQLSTATE {state})"
    # Without a statement it is the connection that failed.
    return hidden(str(cause), secrets) if e.statement is None else type(cause).__name__


# -------------------------------------------------------------------------------------------- Python's values


def _array(values: list[Any], known: pa.DataType | None = None) -> pa.Array:
    """Values of one column, as a driver gives them, as the plainest Arrow type that holds all of them.

    Of a column whose type is known, values that are no text beside others of another kind are texts each by itself.
    """
    kinds = {type(v) for v in values if v is not None}
    if known is not None and kinds <= _PLAIN and (is_text(known) or len(kinds) > 1):
        return _each_as_text(values, kinds, known)
    if date in kinds and datetime in kinds:
        values = [datetime(v.year, v.month, v.day) if type(v) is date else v for v in values]
    if Decimal in kinds:
        values = _decimals(values)
    elif kinds == {int, float}:
        values = [None if v is None else float(v) for v in values]
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    if str(array.type) == "extension<arrow.uuid>":
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    return to_plain(array, plain_type(array.type))


_PLAIN = frozenset({bool, int, float, Decimal, str})


def _each_as_text(values: list[Any], kinds: set[type], known: pa.DataType) -> pa.Array:
    """Values as texts of what they are in the column's type, each as it would be alone."""
    texts: list[str | None] = [None] * len(values)
    for kind in kinds:
        places = [i for i, v in enumerate(values) if type(v) is kind]
        own = [values[i] for i in places]
        told = _told_as(own, known)
        if told is None:
            told = [text for v in own for text in _told_as([v], known) or [str(v)]]
        for i, text in zip(places, told, strict=True):
            texts[i] = text
    return pa.array(texts, pa.string())


def _told_as(values: list[Any], known: pa.DataType) -> list[str | None] | None:
    """Values of one kind in a type, as texts; None where one does not convert."""
    if isinstance(values[0], Decimal) and is_text(known):
        # Arrow would write decimals with as many digits as the longest has.
        return [None if v.is_nan() else str(v) for v in values]
    try:
        told: list[str | None] = from_values(_array(values), known).cast(pa.string()).to_pylist()
        return told
    except (pa.ArrowException, OverflowError, ValueError):
        return None


def _decimals(values: list[Any]) -> list[Any]:
    """Decimals without NaN, which is missing; beside infinities and floats all of them are floats."""
    finite = [None if isinstance(v, Decimal) and v.is_nan() else v for v in values]
    if any(isinstance(v, float) or (isinstance(v, Decimal) and v.is_infinite()) for v in finite):
        return [None if v is None else float(v) for v in finite]
    return finite


def from_values(values: pa.Array, type: pa.DataType) -> pa.Array:
    """Values of one batch as the type of their column.

    Raises:
        pyarrow.ArrowInvalid: a value does not convert without loss.
    """
    if pa.types.is_string(values.type) and pa.types.is_temporal(type):
        return from_text(values, type)
    if pa.types.is_integer(values.type) and pa.types.is_decimal(type):
        return values.cast(pa.decimal128(19, 0)).cast(type)
    return to_plain(values, type)


def common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The plainest type for a column whose batches are of `a` and of `b`."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    numbers = [pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t) for t in (a, b)]
    if all(numbers):
        return _common_number(a, b)
    days = [t for t in (a, b) if pa.types.is_date(t)]
    times = [t for t in (a, b) if pa.types.is_timestamp(t) and t.tz is None]
    return times[0] if len(days) == len(times) == 1 else pa.string()


def _common_number(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    if pa.types.is_floating(a) or pa.types.is_floating(b):
        return pa.float64()
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return pa.int64()
    sizes = [(t.precision, t.scale) if pa.types.is_decimal(t) else (19, 0) for t in (a, b)]
    scale = max(s for _, s in sizes)
    precision = scale + max(p - s for p, s in sizes)
    return pa.decimal128(precision, scale) if precision <= 38 else pa.float64()


def _hashes(block: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A hash of each row, uint64 (n,); of values as text, so that a batch's own types do not matter."""
    import pandas as pd

    frame = pd.DataFrame({i: _text(c) for i, c in enumerate(block.columns)}, index=range(len(block)))
    if not len(frame.columns) or frame.empty:
        return np.zeros(0, np.uint64)
    return np.asarray(pd.util.hash_pandas_object(frame, index=False), np.uint64)


def _text(column: pa.Array) -> list[str]:
    return [repr(v) for v in column.to_pylist()]


# ------------------------------------------------------------------------------------------------------- files


def _sqlite_blocks(query: Query, known: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(query.file))}?mode=ro", uri=True)
        ) as connection:
            # A query could ATTACH a file that the recipe may not read.
            connection.set_authorizer(
                lambda action, *_: sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
            )
            cursor = connection.execute(query.text)
            if cursor.description is None:
                raise InputError(
                    f"a query must be a SELECT, however: {query.label} gives no rows; correct it"
                )
            names = [column[0] for column in cursor.description]
            yield from _arrays(query, names, iter(lambda: cursor.fetchmany(ROWS), []), known)
    except (sqlite3.Error, sqlite3.Warning) as e:
        said = str(e) if str(e).startswith(_SQLITE_SAYS) else type(e).__name__
        raise InputError(
            f"a database must answer its query, however: {query.label}: {said}; correct the query"
        ) from None


def _duckdb_blocks(query: Query) -> Iterator[pa.RecordBatch]:
    if importlib.util.find_spec("duckdb") is None:
        raise InputError(
            "a DuckDB file needs the package duckdb, however: it is not installed; pip install understudy[duckdb]"
        )
    duckdb: Any = importlib.import_module("duckdb")
    config = {
        # A query could read a file that the recipe may not, write one, or fetch an extension.
        "enable_external_access": "false", "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false", "temp_directory": "", "lock_configuration": "true",
    }  # fmt: skip
    try:
        with duckdb.connect(str(query.file), read_only=True, config=config) as connection:
            relation = connection.sql(query.text)
            if relation is None:
                raise InputError(
                    f"a query must be a SELECT, however: {query.label} gives no rows; correct it"
                )
            names = _named(query, list(relation.columns))
            empty = True
            for block in relation.to_arrow_reader(ROWS):
                columns = [to_plain(c, plain_type(c.type)) for c in block.columns]
                yield pa.RecordBatch.from_arrays(columns, names=names)
                empty = False
            if empty:
                yield pa.RecordBatch.from_arrays([pa.nulls(0)] * len(names), names=names)
    except duckdb.Error as e:
        of_query = (
            duckdb.CatalogException,
            duckdb.BinderException,
            duckdb.ParserException,
            duckdb.PermissionException,
        )
        said = " ".join(str(e).split("\n")[0].split()) if isinstance(e, of_query) else type(e).__name__
        raise InputError(
            f"a database must answer its query, however: {query.label}: {said}; correct the query, and close "
            "whatever else writes the file"
        ) from None
