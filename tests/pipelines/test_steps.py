import datetime
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan import estimate
from pipelines.publish import check_sums
from pipelines.recipe import load
from pipelines.run import open_run, reopen_run
from pipelines.steps import STEPS, Outcome, release
from pipelines.verify import verify
from privacy.errors import GateRefused, RecipeError, SchemaError
from synth.constraints import breaks
from synth.schema import Schema
from tests.pipelines.tables import QUICK, Ran, bytes_of, opened, prepare, write_table, write_visits
from tests.synth.test_constraints import orders
from validation.exposure import TOLD, share

ALONE = """
import json, sys
from pathlib import Path
from pipelines.recipe import load
from pipelines.run import open_run
from pipelines.steps import release
folder = Path(sys.argv[1])
recipe = load(folder / "recipe.yaml")
print(release(open_run(recipe, folder)).release)
"""

NO_NETWORK = """
import socket
def refuse(*a, **k):
    raise AssertionError("a connection was made")
for name in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(socket.socket, name, refuse)
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


def alone(folder: Path, *, before: str = "", env: dict[str, str] | None = None) -> Path:
    """A release in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", before + ALONE, str(folder)],
        env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return Path(done.stdout.strip())


def visits(folder: Path, *, patients: int = 300, **fields: object) -> Path:
    """A folder with a small table of visits and its recipe, written down."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = prepare(folder, write_visits(folder / "visits.csv", patients=patients), name="visits", **fields)
    (folder / "recipe.yaml").write_text(recipe.to_json(), "utf-8")
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of three shards, drawn in its own process, with OMP_NUM_THREADS=1."""
    folder = visits(tmp_path_factory.mktemp("first"), shard_rows=400, threads=2)
    return alone(folder, env={"OMP_NUM_THREADS": "1"})


# ------------------------------------------------------------------------------------------ the same for ever


def test_a_recipe_in_two_folders_and_at_two_settings_of_the_environment_gives_the_same_bytes(
    first: Path, tmp_path: Path
) -> None:
    env = {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    second = alone(visits(tmp_path / "other", shard_rows=400, threads=2), env=env)
    assert second.name == first.name
    assert bytes_of(second) == bytes_of(first)


def test_two_processes_write_the_release_that_one_would(first: Path, tmp_path: Path) -> None:
    folder = visits(tmp_path, shard_rows=400, threads=2, workers=2)
    several = alone(folder, env={"OMP_NUM_THREADS": "1"})
    assert len(list((first / "data").iterdir())) >= 3
    assert bytes_of(several) == bytes_of(first)


def test_another_root_takes_the_same_release_without_another_fit(tmp_path: Path) -> None:
    folder = visits(tmp_path, patients=200)
    recipe = prepare(folder, folder / "visits.csv")
    here = release(open_run(recipe, folder)).release
    watch = Ran()
    there = release(open_run(recipe.with_fields({"to": "there"}), folder, watch=watch)).release
    assert watch.ran == ["publish"]
    assert there == folder / "there" / "visits" / here.name
    assert bytes_of(there) == bytes_of(here)


def test_a_release_that_was_taken_away_is_published_again_each_time(tmp_path: Path) -> None:
    folder = visits(tmp_path, patients=200)
    run = open_run(prepare(folder, folder / "visits.csv"), folder)
    here = release(run).release
    content = bytes_of(here)
    for _ in range(3):
        shutil.rmtree(folder / "releases")
        assert "publish" not in estimate(run).cached
        back = release(run)
        assert (back.release, back.again) == (here, False)
        assert bytes_of(here) == content
        assert release(run).again


def test_another_seed_gives_other_rows(first: Path, tmp_path: Path) -> None:
    folder = visits(tmp_path, shard_rows=400, seed=8)
    recipe = prepare(folder, folder / "visits.csv", shard_rows=400, seed=8)
    other = release(open_run(recipe, folder)).release
    assert not pq.read_table(other / "data").equals(pq.read_table(first / "data"))


# -------------------------------------------------------------------------------------- what a release holds


def test_a_release_holds_what_it_should_and_passes_its_own_checksums(done: Outcome) -> None:
    assert sorted(bytes_of(done.release)) == [
        "README.md", "SHA256SUMS", "certificate.json", "croissant.json", "data/part-00000.parquet",
        "figures.json", "provenance.json", "report.html", "schema.json",
    ]  # fmt: skip
    assert check_sums(done.release) == 8
    assert (done.release.parent / "latest").resolve() == done.release


def test_a_release_tells_of_no_time_host_user_or_place(done: Outcome) -> None:
    today = datetime.datetime.now()
    told = [str(done.run.parents[2]), str(Path.home()) + "/", "/tmp/", done.run.name, "people.csv"]
    told += [
        (today + datetime.timedelta(days=d)).strftime(f) for d in (-1, 0, 1) for f in ("%Y-%m-%d", "%Y/%m/%d")
    ]
    told += [socket.gethostname()] if len(socket.gethostname()) > 3 else []
    told += [getpass.getuser()] if getpass.getuser() not in ("root", "user", "data") else []
    for name, content in bytes_of(done.release).items():
        for word in told:
            assert word.encode() not in content, f"{name} holds {word!r}"
        if not name.endswith(".parquet"):
            assert not re.search(
                rb"\d\d:\d\d:\d\d\.\d+ (UTC|GMT)|\b\d+\.\d+ ?s(ec(onds)?)?\b(?=[^\w-])", content
            )


def test_no_cell_of_the_release_is_a_booking_of_the_input_and_texts_are_replaced(done: Outcome) -> None:
    released = pq.read_table(done.release / "data")
    assert set(released["story"].to_pylist()) == {"(text)"}
    codes = released["code"].to_pylist()
    assert len(set(codes)) == len(codes) == 1_000
    assert all(re.fullmatch(r"ID\d{6}", c) for c in codes)


def test_columns_stay_in_their_place_with_their_types(done: Outcome) -> None:
    released = pq.read_schema(done.release / "data" / "part-00000.parquet")
    run = reopen_run(done.run)
    assert released.remove_metadata().equals(run.schema.arrow.remove_metadata())
    assert set(pq.read_table(done.release / "data")["a, b"].to_pylist()) == {"007", "008"}
    assert pq.read_table(done.release / "data")["nothing"].null_count == done.rows


def test_parquet_says_that_it_is_synthetic_and_from_what(done: Outcome) -> None:
    metadata = pq.read_schema(done.release / "data" / "part-00000.parquet").metadata
    run = reopen_run(done.run)
    assert metadata[b"synthetic"] == b"true"
    assert metadata[b"recipe_digest"].decode() == run.recipe.digest()
    assert len(metadata[b"model_digest"]) == 64
    assert metadata[b"privacy"].startswith(b"No formal privacy guarantee")


# --------------------------------------------------------------------------------------------- what runs agai


def test_a_run_in_which_nothing_changed_does_nothing(done: Outcome) -> None:
    watch = Ran()
    before = bytes_of(done.run)
    again = release(reopen_run(done.run, watch=watch))
    assert (watch.ran, watch.kept) == ([], list(STEPS))
    assert again == replace(done, again=True)
    assert bytes_of(done.run) == before


def test_what_runs_again_is_what_a_change_reaches(tmp_path: Path) -> None:
    run = opened(tmp_path)
    path = release(run).run
    rows = (path / "rows.parquet").read_bytes()

    def again() -> list[str]:
        watch = Ran()
        release(reopen_run(path, watch=watch))
        return watch.ran

    # An artifact that is not what its step wrote.
    (path / "model" / "model.safetensors").write_bytes(b"other")
    assert again() == ["fit"]
    (path / "data" / "part-00000.parquet").unlink()
    assert again() == ["sample"]
    # A release that somebody took away.
    for link in (run.release_root / run.recipe.name).iterdir():
        link.rename(tmp_path / f"away-{link.name}")
    assert again() == ["publish"]
    # Another input under the same name: everything, and other rows.
    write_table(tmp_path / "people.csv", seed=2)
    assert again() == list(STEPS)
    assert (path / "rows.parquet").read_bytes() != rows


@pytest.mark.parametrize(
    ("before", "after"), [("nullable: false", "nullable: true"), ("P00[0-9]{3}", "Q[0-9]{6}")]
)
def test_a_changed_schema_reaches_the_release(tmp_path: Path, before: str, after: str) -> None:
    folder = visits(tmp_path, patients=200)
    schema = folder / "schema.yaml"
    # A patient as an identifier: nothing is learned of it, so a change of its form changes nothing learned.
    ward = schema.read_text("utf-8").split("- name: age")[1]
    form = "columns:\n- name: patient\n  kind: identifier\n  type: string\n  nullable: false\n"
    schema.write_text(form + "  pattern: P00[0-9]{3}\n- name: age" + ward, "utf-8")
    run = open_run(load(folder / "recipe.yaml"), folder)
    old = release(run).release
    schema.write_text(schema.read_text("utf-8").replace(before, after), "utf-8")
    watch = Ran()
    new = release(reopen_run(run.workspace.path, watch=watch)).release
    assert watch.ran == list(STEPS)
    assert verify(new).rows == verify(old).rows
    assert old != new
    assert (after in (new / "schema.json").read_text("utf-8")) == after.startswith("Q")


# -------------------------------------------------------------------------------------------- ways to describ


def test_a_file_can_be_the_holdout(tmp_path: Path) -> None:
    write_visits(tmp_path / "held.csv", patients=200, seed=2)
    recipe = prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=300), holdout="held.csv")
    found = release(open_run(recipe, tmp_path))
    records = reopen_run(found.run).workspace.records()
    train = len(pa.csv.read_csv(tmp_path / "visits.csv"))
    assert records["ingest"].facts["rows"] == found.rows == train
    assert records["ingest"].facts["holdout_rows"] == len(pa.csv.read_csv(tmp_path / "held.csv"))
    # All rows of the source are learned from: none of them is held out.
    assert records["profile"].facts["rows"] == train


def test_broken_rows_stay_in_the_workspace(tmp_path: Path) -> None:
    recipe = prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=300), broken_rows=1)
    with (tmp_path / "visits.csv").open("a") as table:
        table.write("P00001,surplus-nobody-else-has,north,3,4\n")
    rows = len((tmp_path / "visits.csv").read_text().splitlines()) - 2
    found = release(open_run(recipe, tmp_path))
    assert found.rows == rows
    (aside,) = (found.run / "set-aside.jsonl").read_text("utf-8").splitlines()
    assert (json.loads(aside)["line"], json.loads(aside)["cells"]) == (rows + 2, 5)
    assert reopen_run(found.run).workspace.records()["ingest"].facts["set_aside"] == 1
    assert not any(b"surplus" in content for content in bytes_of(found.release).values())


def test_a_holdout_outside_the_folder_is_refused(tmp_path: Path) -> None:
    write_visits(tmp_path / "held.csv", patients=50)
    folder = visits(tmp_path / "inner", patients=50)
    run = open_run(prepare(folder, folder / "visits.csv", holdout="../held.csv"), folder)
    with pytest.raises(RecipeError, match="must lie in the recipe"):
        release(run)


def test_a_table_where_a_person_has_many_rows_is_split_by_person(tmp_path: Path) -> None:
    recipe = prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=400))
    schema = tmp_path / "schema.yaml"
    rest = schema.read_text("utf-8").split("- name: age")[1]
    form = "columns:\n- name: patient\n  kind: identifier\n  type: string\n  pattern: P[0-9]{5}\n"
    schema.write_text(f"unit: patient\n{form}- name: age{rest}", "utf-8")
    found = release(open_run(recipe, tmp_path))
    encoded = found.run / "encoded"
    units, held = np.load(encoded / "unit.npy"), np.load(encoded / "holdout.npy")
    assert len(units) == found.rows > len(set(units)) == 400
    assert not set(units[held]) & set(units[~held])
    assert 0.1 < held.mean() < 0.3
    assert all(
        re.fullmatch("P[0-9]{5}", p) for p in pq.read_table(found.release / "data")["patient"].to_pylist()
    )


def test_a_schema_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    folder = visits(tmp_path, patients=50)
    run = open_run(prepare(folder, folder / "visits.csv", schema="elsewhere.yaml"), folder)
    with pytest.raises(SchemaError, match=r"elsewhere\.yaml.*understudy init"):
        release(run)


def test_a_refused_release_publishes_nothing_and_keeps_its_run(tmp_path: Path) -> None:
    run = opened(tmp_path, options={**QUICK["options"], "components": 1})
    with pytest.raises(GateRefused, match="association") as caught:
        release(run)
    assert caught.value.run == str(run.workspace.path)
    assert not run.release_root.exists()
    assert "gate" not in run.workspace.records()
    assert (run.workspace.path / "verdict.json").exists()


def test_a_release_that_attackers_learn_from_is_refused(tmp_path: Path) -> None:
    # Without disclosure control times and amounts that one person has come out as they are.
    run = opened(tmp_path, at_least=0)
    with pytest.raises(GateRefused, match="singling out by one value wins"):
        release(run)
    assert not run.release_root.exists()
    lenient = run.recipe.with_fields({"gate": {"warn_only": ["singling_out"]}})
    assert "warning" in release(open_run(lenient, tmp_path)).verdict


def test_a_release_says_what_attackers_achieve(done: Outcome) -> None:
    inside = json.loads((done.run / "evidence.json").read_text("utf-8"))["attacks"]
    assert {a["name"] for a in inside["done"]} >= {"copies", "membership", "linkability", "inference"}
    page, card = ((done.release / name).read_text("utf-8") for name in ("report.html", "README.md"))
    assert "What attackers learn" in page
    assert "after" in page.split("What it is good for")[1]
    assert "| trees |" in card
    for attack in inside["done"]:
        assert TOLD[attack["name"]].title in page
        assert f"| {TOLD[attack['name']].title} | {share(attack['success'])} |" in card


# ---------------------------------------------------------------------------------------------------- outside


def test_a_release_makes_no_connection(first: Path, tmp_path: Path) -> None:
    folder = visits(tmp_path, shard_rows=400, threads=2)
    assert bytes_of(alone(folder, before=NO_NETWORK, env={"OMP_NUM_THREADS": "1"})) == bytes_of(first)


def test_the_ban_on_connections_would_notice_one(tmp_path: Path) -> None:
    tried = subprocess.run(
        [sys.executable, "-c", NO_NETWORK + "socket.socket().connect(('127.0.0.1', 9))"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "a connection was made" in tried.stderr


def test_a_release_meets_its_constraints_says_so_and_lacks_what_is_dropped(tmp_path: Path) -> None:
    table = orders(1200, seed=1).append_column("mail", pa.array([f"p{i}@firm.test" for i in range(1200)]))
    pq.write_table(table, tmp_path / "orders.parquet")
    recipe = prepare(tmp_path, tmp_path / "orders.parquet", name="orders", shard_rows=500)
    path = tmp_path / "schema.yaml"
    drafted = Schema.parse(path.read_text("utf-8"), source="schema.yaml")
    # What rows suggest is declared, one constraint needs rejection, and the mail is left out.
    columns = [
        c.model_copy(update={"action": "drop", "personal": None}) if c.name == "mail" else c for c in drafted
    ]
    columns = [
        c.model_copy(update={"kind": "numerical", "min": 1, "max": 24_000}) if c.name == "number" else c
        for c in columns
    ]
    suggested = [c.model_dump() for c in drafted.suggestions]
    assert {c["rule"] for c in suggested} == {"order", "sum", "combinations", "missing"}
    stated = [*suggested, {"rule": "unique", "columns": ["number"]}]
    schema = Schema.model_validate({"columns": [c.model_dump() for c in columns], "constraints": stated})
    path.write_text(schema.to_yaml(), "utf-8")
    run = open_run(recipe, tmp_path)
    done = release(run)
    released = Schema.parse((done.release / "schema.json").read_text("utf-8"), source="schema.json")
    rows = pq.read_table(done.release / "data")
    assert len(rows) == 1200
    assert "mail" not in rows.column_names
    assert "mail" not in pq.read_table(run.workspace.path / "rows.parquet").column_names
    for constraint in released.constraints:
        assert not breaks(constraint, rows, released).any(), str(constraint)
    rejected = run.workspace.records()["sample"].facts["rejected"]
    # Three shards divide the values of the unique column among themselves.
    assert rejected > 1200
    card = (done.release / "README.md").read_text("utf-8")
    assert f"({rejected:,}) were rejected" in card
    assert "total = net \\+ tax" in card or "total = net + tax" in card
