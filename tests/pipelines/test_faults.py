"""Faults that real tables and machines have: each is handled or refused in words, and nothing is lost.

`docs/reliability.md` lists them with their tests.
"""

import datetime
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import machine
from pipelines.aside import Aside
from pipelines.ingest import rows_at_once
from pipelines.ingesting import _read
from pipelines.init import initialize
from pipelines.machine import available_memory, check_disk, check_memory, room
from pipelines.publish import check_sums, publish
from pipelines.recipe import Recipe
from pipelines.run import Run, open_run, reopen_run
from pipelines.steps import perform, release
from pipelines.verify import verify
from privacy.errors import InputError, NoRoom, UsageError
from synth.schema import Schema
from tests.pipelines.conftest import Understudy
from tests.pipelines.tables import bytes_of, prepare, write_visits

N = 600
LENIENT = {"gate": {"warn_only": ["singling_out", "membership", "association"]}}


def run_of(folder: Path, table: pa.Table, **fields: object) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "t.parquet")
    return open_run(prepare(folder, folder / "t.parquet", **fields), folder)


# ------------------------------------------------------------------------------------------------ odd columns


def times(start: datetime.datetime, hours: int) -> list[datetime.datetime]:
    draw = np.random.default_rng(3)
    return [start + datetime.timedelta(hours=int(h)) for h in draw.integers(0, hours, N)]


DRAW = np.random.default_rng(1)
ODD = {
    # The night in which Swiss clocks go from 2 to 3, and the one from 3 to 2.
    "zoned": pa.array(times(datetime.datetime(2024, 3, 30), 48), pa.timestamp("us", tz="Europe/Zurich")),
    "autumn": pa.array(times(datetime.datetime(2024, 10, 26), 48), pa.timestamp("ms", tz="Europe/Zurich")),
    "before 1970": pa.array(times(datetime.datetime(1850, 1, 1), 900_000), pa.timestamp("us")),
    "beyond 2262": pa.array(times(datetime.datetime(2400, 1, 1), 900_000), pa.timestamp("us")),
    "any day": pa.array(
        [datetime.date(1, 1, 1) + datetime.timedelta(int(d)) for d in DRAW.integers(0, 3_600_000, N)]
    ),
    "decimal": pa.array([Decimal(int(v)) / 100 for v in DRAW.integers(0, 10**6, N)], pa.decimal128(12, 2)),
    "beyond 2^53": pa.array(2**53 + 1 + 2 * DRAW.integers(0, 10**6, N)),
    "uint64": pa.array([2**63 + (int(v) << 40) for v in DRAW.integers(0, 10**6, N)], pa.uint64()),
    "infinite": pa.array(np.where(DRAW.random(N) < 0.3, np.inf, DRAW.normal(size=N))),
    "infinite always": pa.array(np.full(N, -np.inf)),
    "constant": pa.array(["same"] * N),
    "missing": pa.nulls(N, pa.float64()),
    "missing text": pa.nulls(N, pa.string()),
    "null": pa.nulls(N),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, Path]:
    """A table of odd columns, and its release by an untouched recipe of init (but for a quick model)."""
    table = pa.table(ODD)
    found = release(run_of(tmp_path_factory.mktemp("odd"), table, **LENIENT))
    return table, found.release


def test_odd_columns_come_out_in_their_types_and_verify(odd: tuple[pa.Table, Path]) -> None:
    table, folder = odd
    released = pq.read_table(folder / "data")
    assert released.schema.remove_metadata().types == table.schema.types
    assert verify(folder).rows == N


@pytest.mark.parametrize(
    "name", ["zoned", "autumn", "before 1970", "beyond 2262", "any day", "decimal", "uint64"]
)
def test_values_stay_within_what_there_was(odd: tuple[pa.Table, Path], name: str) -> None:
    table, folder = odd
    real, synthetic = (pc.min_max(t[name]).as_py() for t in (table, pq.read_table(folder / "data")))
    assert real["min"] <= synthetic["min"] <= synthetic["max"] <= real["max"]
    assert len(pq.read_table(folder / "data")[name].unique()) > 10


def test_integers_beyond_floats_stay_odd(odd: tuple[pa.Table, Path]) -> None:
    # A float64 cannot hold one of them.
    values = pq.read_table(odd[1] / "data")["beyond 2^53"].to_pylist()
    assert {v % 2 for v in values} == {1}


def test_infinities_constants_and_missing_columns_stay(odd: tuple[pa.Table, Path]) -> None:
    released = pq.read_table(odd[1] / "data")
    share = np.isinf(released["infinite"].to_numpy()).mean()
    assert 0.2 < share < 0.4
    assert set(released["infinite always"].to_pylist()) == {-np.inf}
    assert set(released["constant"].to_pylist()) == {"same"}
    assert all(released[n].null_count == N for n in ("missing", "missing text", "null"))


def test_decimals_of_more_than_64_bits_are_refused_by_name_of_their_type(tmp_path: Path) -> None:
    wide = pa.array([Decimal(10**20) + i for i in range(N)], pa.decimal128(30, 3))
    with pytest.raises(InputError, match=r"decimal128\(30, 3\) does not; convert the column"):
        release(run_of(tmp_path, pa.table({"x": wide})))


@pytest.mark.parametrize("rows", [1, 10])
def test_too_few_rows_are_refused_in_words(tmp_path: Path, rows: int) -> None:
    with pytest.raises(InputError, match="must have at least 20 rows"):
        release(run_of(tmp_path, pa.table({"x": list(range(rows)), "y": ["a"] * rows})))


def test_an_empty_table_is_refused_by_init_and_by_a_release(tmp_path: Path) -> None:
    run = run_of(tmp_path, pa.table({"x": [1.0, 2.0] * 50}))
    empty = pa.table({"x": pa.array([], pa.float64())})
    pq.write_table(empty, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"must have rows, however: t\.parquet has none"):
        initialize(tmp_path / "t.parquet", tmp_path, blind=False, force=True)
    with pytest.raises(InputError, match="at least 20 rows"):
        release(run)


@pytest.mark.parametrize(
    "values",
    [list(np.linspace(0, 1, N)), ["a", "b"] * (N // 2), ["same"] * N, pa.nulls(N)],
    ids=["number", "category", "constant", "missing"],
)
def test_a_table_of_one_column_is_released(tmp_path: Path, values: list[object]) -> None:
    assert release(run_of(tmp_path, pa.table({"x": values}), **LENIENT)).rows == N


# ---------------------------------------------------------------------------------------------------- drift


@pytest.fixture
def drifted(tmp_path: Path) -> Recipe:
    """A recipe, one of whose columns went while another came."""
    recipe = prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=300), **LENIENT)
    text = (tmp_path / "visits.csv").read_text("utf-8")
    (tmp_path / "visits.csv").write_text(text.replace("patient,age,ward,cost", "patient,age,station,cost"))
    schema = (tmp_path / "schema.yaml").read_text("utf-8")
    (tmp_path / "schema.yaml").write_text(schema.replace("nullable: false", "nullable: true"))
    return recipe


def test_a_changed_input_is_refused_with_every_difference_before_a_row_is_read(
    drifted: Recipe, tmp_path: Path
) -> None:
    run = open_run(drifted, tmp_path)
    with pytest.raises(InputError, match=r"- 'ward' is missing; \+ 'station' is new; .*--allow-drift"):
        release(run)
    assert run.workspace.records() == {}


def test_what_may_be_a_row_under_a_damaged_header_is_not_told(drifted: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    text = path.read_text("utf-8")
    path.write_text(text.replace("patient,age,station,cost", 'patient,age,"P00000,71,north,secret",cost'))
    with pytest.raises(InputError, match=r"\+ a name of 22 letters is new") as caught:
        release(open_run(drifted, tmp_path))
    assert "secret" not in str(caught.value)
    path.write_text(text)
    private = drifted.with_fields(
        {"privacy": {"epsilon": 1, "delta": 1e-6}, "synthesizer": "marginals", "options": {}}
    )
    with pytest.raises(InputError, match="'ward' is missing") as caught:
        release(open_run(private, tmp_path))
    assert "station" not in str(caught.value)


def test_an_allowed_drift_is_read_and_recorded(drifted: Recipe, tmp_path: Path) -> None:
    found = release(open_run(drifted.with_fields({"allow_drift": True}), tmp_path))
    said = json.loads((found.release / "certificate.json").read_text("utf-8"))["drift"]
    assert said == ["- 'ward' is missing", "+ 1 new and left out"]
    released = pq.read_table(found.release / "data")
    assert released.column_names == ["patient", "age", "ward", "cost"]
    assert released["ward"].null_count == found.rows


def test_a_recorded_drift_names_no_column_that_is_not_released(tmp_path: Path) -> None:
    run = run_of(tmp_path, pa.table({"x": list(range(N)), "HIV status": ["a", "b"] * (N // 2)}))
    path = tmp_path / run.recipe.schema_file
    stated = Schema.parse(path.read_text(), source="schema.yaml")
    drop = {"kind": "text", "action": "drop", "categories": None}
    path.write_text(
        stated.model_copy(
            update={"columns": (stated.columns[0], stated.columns[1].model_copy(update=drop))}
        ).to_yaml()
    )
    pq.write_table(pa.table({"x": list(range(N)), "y": list(range(N))}), tmp_path / "t.parquet")
    found = release(open_run(run.recipe.with_fields({"allow_drift": True}), tmp_path))
    said = (found.release / "certificate.json").read_text("utf-8")
    assert json.loads(said)["drift"] == [
        "+ 1 new and left out",
        "1 of those that are dropped are other or missing",
    ]
    assert "HIV" not in said


def test_a_column_of_another_kind_is_a_difference_of_parquet_files(tmp_path: Path) -> None:
    run = run_of(tmp_path, pa.table({"x": list(range(N)), "y": ["a", "b"] * (N // 2)}))
    pq.write_table(pa.table({"x": ["p", "q"] * (N // 2), "y": list(range(N))}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: ~ 'x' is string, no longer int64; mend"):
        release(run)


# --------------------------------------------------------------------------------------- files that change


@pytest.mark.parametrize("change", ["write", "touch", "delete"])
def test_an_input_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    run = run_of(tmp_path, pa.table({"x": list(range(200_000))}))
    rows = _read(run, run.source(), Aside())
    next(rows)
    path = tmp_path / "t.parquet"
    if change == "write":
        path.write_bytes(path.read_bytes() + b"PAR1")
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"t\.parquet(: No such file| was changed)"):
        list(rows)


def test_what_vanishes_from_the_workspace_is_made_again(tmp_path: Path) -> None:
    run = open_run(prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=300)), tmp_path)
    first = bytes_of(release(run).release)
    for name in ("rows.parquet", "profile.json", "model/model.safetensors"):
        (run.workspace.path / name).unlink()
    assert bytes_of(release(reopen_run(run.workspace.path)).release) == first


def test_what_vanishes_in_the_middle_stops_the_run_which_then_heals(tmp_path: Path) -> None:
    run = open_run(prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=300)), tmp_path)
    perform(run, "ingest")
    rows = run.workspace.path / "rows.parquet"
    rows.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        perform(run, "profile")
    assert set(run.workspace.records()) == {"ingest"}
    assert release(run).rows > 0


# ------------------------------------------------------------------------------------------- disk and memory


def limited(limit: int, work: Callable[[], None]) -> str:
    """Runs something in a fork that may write files of so many bytes only; gives what it said of the failure."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            work()
            os.write(write, b"done")
        except BaseException as e:  # noqa: BLE001 - the child says whatever it was
            os.write(write, f"{type(e).__name__}: {e}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


FILES = {"data/part-00000.parquet": b"x" * 100_000, "README.md": b"# a card"}


def test_a_disk_that_fills_up_while_publishing_leaves_the_earlier_release(tmp_path: Path) -> None:
    first = publish(tmp_path, "flights", {**FILES, "data/part-00000.parquet": b"x"})
    before = bytes_of(first)
    said = limited(50_000, lambda: publish(tmp_path, "flights", FILES) and None)
    assert said.startswith("NoRoom: release flights needs room")
    assert "of the 100,008 bytes that it needs" in said
    assert bytes_of(first) == before
    assert sorted(p.name for p in (tmp_path / "flights").iterdir()) == [".lock", first.name, "latest"]
    assert check_sums((tmp_path / "flights" / "latest").resolve()) == 2


def test_a_disk_that_fills_up_while_reading_leaves_no_half_file(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    run = run_of(tmp_path, pa.table({"x": draw.normal(size=50_000)}))
    said = limited(100_000, lambda: perform(run, "ingest") and None)
    assert said.startswith("NoRoom: the step ingest needs room")
    assert "understudy resume" in said
    assert not list(run.workspace.path.rglob("*.part"))
    perform(run, "ingest")


def test_bytes_that_are_not_there_are_missed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 99_000})())
    with pytest.raises(
        NoRoom, match=r"release flights needs 100,008 bytes of disk, however: 99,000 are free"
    ):
        publish(tmp_path / "new", "flights", FILES)
    assert not (tmp_path / "new").exists()
    check_disk(tmp_path / "new", 99_000, what="less")


def test_memory_that_is_not_there_is_missed_before_the_start() -> None:
    with pytest.raises(NoRoom, match=r"about 2\.0 GB of memory, however: 1\.0 GB are available; .*fit_rows"):
        check_memory(2_000_000_000, 1_000_000_000)
    check_memory(2_000_000_000, 2_000_000_000)
    check_memory(2_000_000_000, None)
    found = available_memory()
    assert found is None or 10**7 < found < 10**14


@pytest.mark.parametrize(
    "error", [MemoryError(), pa.ArrowMemoryError("malloc"), RuntimeError("can't allocate memory")]
)
def test_memory_that_runs_out_is_said_in_words(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(NoRoom, match="the step fit must fit into memory"), room(tmp_path, "the step fit"):
        raise error


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), room(tmp_path, "the step fit"):
        raise RuntimeError("shape")
    with pytest.raises(PermissionError), room(tmp_path, "the step fit"):
        raise PermissionError(13, "no")


@pytest.mark.parametrize("columns", [1, 64, 65, 1_000, 100_000])
def test_wide_tables_are_read_in_smaller_batches(columns: int) -> None:
    rows = rows_at_once(columns)
    assert rows == 65_536 if columns <= 64 else rows < 65_536
    assert rows * columns <= 2**22 or rows == 256


# ------------------------------------------------------------------------------------------------ interruptions


def prepared(folder: Path) -> Recipe:
    recipe = prepare(folder, write_visits(folder / "visits.csv", patients=300), name="visits")
    (folder / "recipe.yaml").write_text(recipe.to_json())
    return recipe


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_keeps_what_is_finished(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    recipe = prepared(tmp_path)
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("understudy")), "release", "recipe.yaml"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        # A suite that runs in the background ignores ctrl-C, and what it starts would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "ingest" in first
    process.send_signal(sent)
    said = process.stderr.read()
    assert process.wait(timeout=100) == code, said
    assert "Traceback" not in said
    run = open_run(recipe, tmp_path)
    assert f"`understudy resume {run.workspace.path}` goes on" in said
    assert "ingest" in run.workspace.records()
    assert "publish" not in run.workspace.records()
    assert release(run).rows > 0


def test_a_home_that_cannot_be_written_to_changes_nothing(tmp_path: Path, understudy: Understudy) -> None:
    prepared(tmp_path)
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), "/dev/null/home")
    done = understudy("release", "recipe.yaml", cwd=tmp_path, env={**os.environ, **nowhere})
    assert done.returncode == 0, done.stderr


def test_a_schedule_that_fires_twice_publishes_once(tmp_path: Path) -> None:
    recipe = prepared(tmp_path)
    first = release(open_run(recipe, tmp_path))
    before = bytes_of(tmp_path / "releases")
    second = release(open_run(recipe, tmp_path))
    assert (second.again, second.release) == (True, first.release)
    assert bytes_of(tmp_path / "releases") == before


# --------------------------------------------------------------------------------------------------- parsers

RECIPE_TEXT = """\
name: flights
input: postgresql://ann:${env:PW}@host/db
query: SELECT 1
privacy: {epsilon: 1.0, delta: 1.0e-6, shares: {profile: 0.3, model: 0.7}}
options: {components: 8}
gate: {warn_only: [copies]}
"""
SCHEMA_TEXT = """\
unit: who
columns:
- {name: who, kind: identifier, type: string, pattern: 'P[0-9]{5}'}
- {name: age, kind: numerical, type: int64, min: 0, max: 120, facts: 'declared: law'}
- {name: ward, kind: categorical, type: string, categories: [north, 'no', 1.5]}
"""


@pytest.mark.parametrize(("model", "text"), [(Recipe, RECIPE_TEXT), (Schema, SCHEMA_TEXT)])
@given(data=st.data())
def test_a_recipe_or_schema_with_any_slip_is_refused_in_words_or_read(
    model: type[Recipe] | type[Schema], text: str, data: st.DataObject
) -> None:
    model.parse(text, source="whole")
    for _ in range(data.draw(st.integers(1, 3))):
        at, span = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
        piece = data.draw(
            st.text(max_size=3)
            | st.sampled_from(["\n", ": ", "- ", "{", "&a ", "*a", "!!set ", "1e999", "~"])
        )
        text = text[:at] + piece + text[at + span :]
    try:
        found = model.parse(text, source="slipped")
    except UsageError:
        return
    assert model.parse(found.to_json(), source="again") == found


def test_a_million_distinct_texts_are_read_as_a_stream_and_none_is_learned(tmp_path: Path) -> None:
    rows = 1_000_000
    texts = pc.binary_join_element_wise("who", pa.array(np.arange(rows) // 2 * 2).cast(pa.string()), " ")
    run = run_of(tmp_path, pa.table({"name": texts, "n": DRAW.normal(size=rows)}), rows=100)
    assert run.schema["name"].kind == "text"
    for step in ("ingest", "profile", "fit", "sample"):
        perform(run, step)
    assert set(pq.read_table(run.workspace.path / "data")["name"].to_pylist()) == {"(text)"}
    assert b"who" not in (run.workspace.path / "rows.parquet").read_bytes()


def test_a_thousand_columns_are_learned_and_drawn(tmp_path: Path) -> None:
    table = pa.table(
        {f"c{i}": DRAW.normal(size=100) if i % 2 else DRAW.integers(0, 2, 100) for i in range(1_000)}
    )
    run = run_of(tmp_path, table, options={"components": 1, "passes": 1}, at_least=0)
    for step in ("ingest", "profile", "fit", "sample"):
        perform(run, step)
    assert pq.read_schema(run.workspace.path / "data" / "part-00000.parquet").names == table.column_names
