"""Chain: texts that are appended, never changed, each bound to the one before it by a hash.

It lives in one SQLite file or one PostgreSQL schema. A writer reads, decides and appends in one transaction
under one lock, so no two decide upon the same rows, and what it appended is on the disk when the transaction
ends: a process may be killed at any moment.

A link's hash covers its text and the hash before it, so a link that is edited, deleted or moved is noticed by
whoever reads it. Who may write to the database can still drop the last links, put an older copy in place, or
write a whole chain anew: only a head that somebody kept elsewhere shows that.

What is too long for a text that everybody reads is kept beside the link whose text names its digest.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError

from privacy.errors import Busy, LedgerError, UnderstudyError, UsageError

NAME = "understudy_ledger"
BESIDE = "understudy_units"

GENESIS = hashlib.sha256(b"Understudy ledger").hexdigest()
"""The head of a chain without links."""

_TABLE = Table(
    NAME,
    MetaData(),
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("hash", Text, nullable=False),
)
_BESIDE = Table(
    BESIDE,
    MetaData(),
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
_LOCK = int.from_bytes(hashlib.sha256(NAME.encode()).digest()[:8], "big", signed=True)

# Who may write can drop triggers, too: they are there against mistakes, the chain is there against intent.
_KEPT = "rows of a ledger are appended, never changed or deleted"


def _triggers(table: str, dialect: str, *, insert: str) -> tuple[str, ...]:
    """What keeps a table's rows; a row that `insert` is true of is none that may come next."""
    if dialect == "postgresql":
        return (
            f"CREATE FUNCTION {table}_kept() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_KEPT}'; END $$",
            f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_kept()",
        )
    stop = f"BEGIN SELECT RAISE(ABORT, '{_KEPT}'); END"
    return (
        f"CREATE TRIGGER {table}_update BEFORE UPDATE ON {table} {stop}",
        f"CREATE TRIGGER {table}_delete BEFORE DELETE ON {table} {stop}",
        # INSERT OR REPLACE deletes without firing the trigger above.
        f"CREATE TRIGGER {table}_insert BEFORE INSERT ON {table} WHEN {insert} {stop}",
    )


_NOT_NEXT = f"NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM {NAME})"
_THERE = f"EXISTS (SELECT 1 FROM {BESIDE} WHERE number = NEW.number)"


@dataclass(frozen=True)
class Link:
    """One text of a chain.

    Attributes:
        number: its position, from 1.
        body: the text.
        hash: SHA-256 (hex) over the hash before it and the text.
    """

    number: int
    body: str
    hash: str


class Session:
    """A chain within one transaction.

    Attributes:
        exists: whether the chain was there when the transaction began.
    """

    def __init__(self, connection: Connection | None, *, exists: bool) -> None:
        self._connection = connection
        self.exists = exists

    def since(self, number: int, head: str) -> Iterator[Link]:
        """The links after that one, checked one by one.

        Args:
            number: of the last link that the reader knows, 0 for none.
            head: its hash, `GENESIS` for none.

        Raises:
            LedgerError: that one is no longer there, or a link is not what was appended.
        """
        rows: Iterator[tuple[int, str, str]] = iter(())
        if self._connection is not None:
            query = select(_TABLE).where(_TABLE.c.number >= number).order_by(_TABLE.c.number)
            rows = (tuple(row) for row in self._connection.execute(query))
        if number:
            known = next(rows, None)
            if known is None or (known[0], known[2]) != (number, head):
                raise tampered(f"row {number} is not what it was when this process read it")
        for found, body, digest in rows:
            number += 1
            if found != number:
                raise tampered(f"row {number} is missing, and row {found} comes next")
            if _digest(head, body) != digest:
                raise tampered(f"row {number} does not fit its hash and the row before it")
            head = digest
            yield Link(number, body, digest)

    def append(self, number: int, head: str, body: str) -> Link:
        """Appends a text after the last link, of which it is told number and hash."""
        link = Link(number + 1, body, _digest(head, body))
        assert self._connection is not None, "a session that only reads"
        self._connection.execute(_TABLE.insert().values(number=link.number, body=link.body, hash=link.hash))
        return link

    def keep(self, number: int, data: bytes) -> None:
        """Keeps data beside the link of that number, in the same transaction."""
        assert self._connection is not None, "a session that only reads"
        if not inspect(self._connection).has_table(BESIDE):
            _create(self._connection, _BESIDE, insert=_THERE)
        self._connection.execute(_BESIDE.insert().values(number=number, data=data))

    def kept(self, number: int) -> bytes:
        """What lies beside the link of that number; nothing where nothing does."""
        if self._connection is None or not inspect(self._connection).has_table(BESIDE):
            return b""
        query = select(_BESIDE.c.data).where(_BESIDE.c.number == number)
        return bytes(self._connection.execute(query).scalar() or b"")


class Chain:
    """A chain in a database, which is created with its first link.

    Connections last one transaction, so an object may be kept by a process that forks, and used by threads.
    """

    def __init__(self, where: Path | str, *, patience_seconds: float) -> None:
        """Names a chain; nothing is opened yet.

        Args:
            where: path of a SQLite file, or a SQLAlchemy URL (`sqlite:///…`, `postgresql+psycopg://…`).
            patience_seconds: how long to wait for others who write.

        Raises:
            UsageError: the address is none, or its driver is missing.
        """
        url = _url(where)
        self.name = url.render_as_string()
        self.file = Path(url.database or "").absolute() if url.drivername == "sqlite" else None
        self._patience_seconds = patience_seconds
        self._engine = _engine(url, patience_seconds)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """The chain as it is.

        Raises:
            LedgerError: it cannot be read, or is no chain.
        """
        if self.file and not self.file.exists():
            yield Session(None, exists=False)
            return
        with self._connected() as connection:
            exists = self._has_table(connection)
            yield Session(connection if exists else None, exists=exists)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """The chain while nobody else writes; what is appended lasts if the block ends without an error.

        Raises:
            Busy: others kept it locked.
            LedgerError: it cannot be read or written, or is no chain.
        """
        self._make_file()
        with self._connected() as connection:
            for statement in self._begin():
                connection.exec_driver_sql(statement)
            exists = self._has_table(connection)
            if not exists:
                _create(connection, _TABLE, insert=_NOT_NEXT)
            yield Session(connection, exists=exists)
            connection.commit()

    def _make_file(self) -> None:
        if not self.file or self.file.exists():
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()
        except OSError as error:
            raise LedgerError(
                f"a ledger must lie where it can be written, however: {self.file}: {error.strerror}; give another path"
            ) from None

    def _begin(self) -> tuple[str, ...]:
        if self.file:
            # FULL leaves the removal of the journal to the file system: after a power failure the last transaction
            # could be rolled back, and with it the reservation of a run that has begun to read.
            return "PRAGMA synchronous = EXTRA", "BEGIN IMMEDIATE"
        return (
            f"SET LOCAL lock_timeout = {max(1, round(1000 * self._patience_seconds))}",
            "SET LOCAL synchronous_commit = on",
            # Not a lock on the table: that needs rights which those who append need not have.
            f"SELECT pg_advisory_xact_lock({_LOCK})",
        )

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise self._told(error.orig) from None

    def _has_table(self, connection: Connection) -> bool:
        tables = inspect(connection).get_table_names()
        if self.file and tables and NAME not in tables:
            raise LedgerError(
                f"a ledger must have a file of its own, however: {self.name} is a database with other tables; give "
                "another path"
            )
        return NAME in tables

    def _told(self, cause: BaseException | None) -> UnderstudyError:
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or getattr(cause, "sqlstate", "") == "55P03":
            return Busy(
                f"one process at a time may write to a ledger, however: {self.name} was locked for "
                f"{self._patience_seconds:g} s; find out who holds it, and try again"
            )
        fact = (str(cause).splitlines() or [type(cause).__name__])[0]
        return LedgerError(
            f"a ledger must be a database that Understudy alone writes, however: {self.name}: {fact}; see that the "
            "address is right and can be reached, or restore the ledger's last good copy"
        )


def _create(connection: Connection, table: Table, *, insert: str) -> None:
    table.create(connection)
    for trigger in _triggers(table.name, connection.dialect.name, insert=insert):
        connection.exec_driver_sql(trigger)


def tampered(fact: str) -> LedgerError:
    """The error of a chain that is broken."""
    return LedgerError(
        f"a ledger's rows must be as they were written, however: {fact}; restore its last good copy, and count the "
        "releases since as spent"
    )


def _digest(former: str, body: str) -> str:
    return hashlib.sha256(f"{former}\n{body}".encode()).hexdigest()


def _url(where: Path | str) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        raise UsageError("a ledger's address must be a path or a URL, however: it is neither") from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg") or url.database in (None, "", ":memory:"):
        raise UsageError(
            "a ledger must be a SQLite file or a PostgreSQL database (postgresql+psycopg://host/database), however: "
            f"{url.render_as_string()} is neither"
        )
    return url


def _engine(url: URL, patience_seconds: float) -> Engine:
    if url.drivername == "sqlite":
        # mode=rw never makes a file; the driver begins no transaction, since it would do so late and without lock.
        address = f"file:{quote(str(Path(url.database or '').absolute()))}?mode=rw"
        return create_engine(
            "sqlite://",
            poolclass=NullPool,
            creator=lambda: sqlite3.connect(
                address, uri=True, timeout=patience_seconds, isolation_level=None
            ),
        )
    try:
        # Under another isolation the rows of whoever held the lock before would not be seen.
        return create_engine(url, poolclass=NullPool, isolation_level="READ COMMITTED")
    except ImportError:
        raise UsageError(
            "a ledger in PostgreSQL needs the driver psycopg, however: it is not installed; "
            "`pip install 'understudy[postgres]'`"
        ) from None
