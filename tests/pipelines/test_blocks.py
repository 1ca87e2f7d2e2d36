"""Monthly releases of a table that grows: who is learned from, who pays, and what is told of it."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.cli import run as command
from pipelines.init import initialize
from pipelines.plan import estimate
from pipelines.private import ledger_at
from pipelines.recipe import load
from pipelines.run import Run, open_run, reopen_run
from pipelines.steps import check, perform, release
from privacy.book import Event
from privacy.chain import BESIDE
from privacy.errors import BudgetRefused, InputError, LedgerError, RecipeError
from tests.pipelines.tables import write_visits
from tests.privacy.ledgers import Place

PRIVACY = {"epsilon": 3.0, "delta": 1e-5, "unit": "patient", "max_rows_per_unit": 2}
OLD, ALL = 300, 700
"""Patients of January, and those of January and February."""

JANUARY, FEBRUARY = {f"P{i:05d}" for i in range(OLD)}, {f"P{i:05d}" for i in range(OLD, ALL)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """January's table, its schema and its recipe."""
    initialize(write_visits(tmp_path / "visits.csv", patients=OLD), tmp_path, blind=False, force=True)
    return tmp_path


def grow(folder: Path) -> None:
    """February's table: new visits of the old patients, and new patients."""
    write_visits(folder / "visits.csv", patients=ALL, seed=2)


def opened(folder: Path, block: str | None, *, dataset: str = "visits", **privacy: Any) -> Run:
    said = {**PRIVACY, **({} if block is None else {"block": block}), **privacy}
    quick = {"components": 8, "steps": 5, "bins": 4, "rows": 1_000, "states": 4, "passes": 1}
    fields = {
        "dataset": dataset, "privacy": said, "threads": 1, "options": quick,
        "gate": {"warn_only": ["shape", "association"]},
    }  # fmt: skip
    return open_run(load(folder / "recipe.yaml").with_fields(fields), folder)


def read_by(run: Run) -> set[str]:
    """The patients whose rows the run may use."""
    return set(pq.read_table(run.workspace.path / "rows.parquet", columns=["patient"]).column(0).to_pylist())


def guarantee_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "certificate.json").read_text("utf-8"))["formal_guarantee"]
    return found


def test_next_month_is_released_from_whom_no_release_knows_and_the_certificate_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = str(estimate(opened(folder, "2026-01")).privacy)
    assert "reads blocks 2026-01 (0 spent)" in plan
    january = opened(folder, "2026-01")
    release(january)
    assert read_by(january) == JANUARY
    grow(folder)
    february = opened(folder, "2026-02")
    plan = str(estimate(february).privacy)
    assert "reads blocks 2026-02 (0 spent), each of which pays the whole epsilon" in plan
    assert "blocks spent, whose units are left out: 2026-01" in plan
    out = release(february)
    # Rows of January's patients are left out whatever month they are of.
    assert read_by(february) == FEBRUARY
    assert 0.7 < out.rows / (2 * len(FEBRUARY)) < 1.2
    assert "reserved for this run: 2026-02" in str(estimate(february).privacy)
    formal = guarantee_of(out.release)
    blocks = formal["lifetime"]["blocks"]
    assert [(b["block"], b["read"]) for b in blocks] == [("2026-01", False), ("2026-02", True)]
    assert all(b["spent_epsilon"] == pytest.approx(3, rel=0.01) for b in blocks)
    assert formal["lifetime"]["spent_epsilon"] == max(b["spent_epsilon"] for b in blocks)
    assert "block" in formal["neighbours"]
    page = (out.release / "report.html").read_text("utf-8")
    assert "learned from blocks 2026-02" in page
    assert "other blocks, which were spent or came later, were left out: 2026-01" in page
    # Without blocks there is nothing left for anybody.
    with pytest.raises(BudgetRefused, match="in 2026-01, 2026-02, which cannot pay"):
        release(opened(folder, None))
    with pytest.raises(BudgetRefused, match="in 2026-01, 2026-02, which cannot pay"):
        release(opened(folder, "2026-02", edition="again"))
    plan = str(estimate(opened(folder, "2026-02", edition="more")).privacy)
    assert "no block can pay\n" in plan
    assert "will be REFUSED" in plan
    monkeypatch.chdir(folder)
    assert command(["budget"]) == 0
    assert "  block 2026-02: epsilon 3" in capsys.readouterr().out
    assert command(["budget", "history", "visits", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [e["blocks"] for e in entries if e["event"] == "assigned"] == [["2026-01"], ["2026-02"]]
    assert command(["budget", "verify", "--release", str(out.release)]) == 0
    Place(f"{folder}/.understudy/ledger.sqlite", folder / "key").tamper(f"DELETE FROM {BESIDE}")
    assert command(["budget", "verify"]) == 1
    with pytest.raises(LedgerError, match="put into a block"):
        perform(opened(folder, "2026-03"), "ingest")


def test_blocks_with_budget_left_are_learned_from_again(folder: Path) -> None:
    lifetime = {"lifetime": {"epsilon": 8.0, "delta": 1e-5}}
    perform(opened(folder, "2026-01", **lifetime), "ingest")
    grow(folder)
    both = opened(folder, "2026-02", **lifetime)
    perform(both, "ingest")
    assert read_by(both) == JANUARY | FEBRUARY
    # The third of January is the second of February.
    third = opened(folder, "2026-02", **lifetime, epsilon=6.8)
    perform(third, "ingest")
    assert read_by(third) == FEBRUARY


def test_the_plain_account_would_be_refused_and_a_dataset_that_it_knows_may_have_blocks(folder: Path) -> None:
    perform(opened(folder, None, lifetime={"epsilon": 4.0, "delta": 1e-5}), "ingest")
    grow(folder)
    with pytest.raises(BudgetRefused, match="within epsilon 4"):
        perform(opened(folder, None, edition="february"), "ingest")
    # Nobody knows whom the first release read, so it is counted for everybody.
    with pytest.raises(BudgetRefused, match="in 2026-02, which cannot pay"):
        perform(opened(folder, "2026-02"), "ingest")
    less = opened(folder, "2026-02", epsilon=2.0)
    perform(less, "ingest")
    assert read_by(less) == JANUARY | FEBRUARY


def test_who_was_put_into_a_block_by_a_run_that_crashed_is_not_new_to_the_next(folder: Path) -> None:
    run = opened(folder, "2026-01")
    # Nothing can be written there, so that the run ends between the assignment and the first use of a row.
    blocked = run.workspace.path / ".rows.parquet.part.paid"
    blocked.mkdir()
    with pytest.raises(OSError, match="paid"):
        perform(run, "ingest")
    assert not (run.workspace.path / "rows.parquet").exists()
    grow(folder)
    february = opened(folder, "2026-02")
    perform(february, "ingest")
    assert read_by(february) == FEBRUARY
    blocked.rmdir()
    perform(run, "ingest")
    assert read_by(run) == JANUARY
    events = [row.event for row in ledger_at(folder).history("visits")]
    assert events.count(Event.ASSIGNED) == 2


def test_held_out_rows_have_blocks_too(folder: Path) -> None:
    perform(opened(folder, "2026-01"), "ingest")
    grow(folder)
    recipe = opened(folder, "2026-02").recipe
    write_visits(folder / "held.csv", patients=ALL + 200, seed=3)
    run = open_run(recipe.with_fields({"holdout": "held.csv"}), folder)
    facts = perform(run, "ingest").facts
    assert JANUARY.isdisjoint(read_by(run))
    assert len(read_by(run)) == ALL + 200 - OLD
    assert (
        facts["rows"] + facts["holdout_rows"]
        == pq.read_metadata(run.workspace.path / "rows.parquet").num_rows
    )
    assert facts["holdout_rows"] > facts["rows"] > 0


def test_a_grown_table_under_another_name_is_refused(folder: Path) -> None:
    perform(opened(folder, "2026-01"), "ingest")
    grow(folder)
    with pytest.raises(BudgetRefused, match="dataset: visits"):
        perform(opened(folder, "2026-02", dataset="others"), "ingest")
    assert not any(row.event is Event.ASSIGNED for row in ledger_at(folder).history("others"))


def test_a_row_without_its_unit_is_refused_and_not_counted(folder: Path) -> None:
    run = opened(folder, "2026-01")
    with (folder / "visits.csv").open("a") as table:
        table.write(",30,north,300.00\n")
    with pytest.raises(InputError, match="'patient' is missing; name the unit") as refused:
        perform(run, "ingest")
    assert "1 times" not in str(refused.value)
    assert not (run.workspace.path / "rows.parquet").exists()


@pytest.mark.parametrize(
    ("block", "privacy", "said"),
    [
        ("2026-01", {"unit": None, "max_rows_per_unit": 1}, "known again"),
        ("March 26", {}, "pattern"),
        ("", {}, "pattern"),
    ],
)
def test_what_can_be_no_block_is_refused_before_a_row_is_read(
    folder: Path, block: str, privacy: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        check(opened(folder, block, **privacy))
    assert not (folder / ".understudy" / "ledger.sqlite").exists()


def test_units_of_another_type_would_look_new_and_are_refused_before_a_row_is_read(folder: Path) -> None:
    perform(opened(folder, "2026-01"), "ingest")
    schema = folder / "schema.yaml"
    schema.write_text(schema.read_text("utf-8").replace("type: string", "type: int64", 1), "utf-8")
    run = opened(folder, "2026-02")
    with pytest.raises(BudgetRefused, match="were 'patient' as string, and are 'patient' as int64 now"):
        perform(run, "ingest")


def test_a_recipe_without_a_block_keeps_its_digest(folder: Path) -> None:
    text = opened(folder, None).recipe.to_json()
    assert "block" not in json.loads(text)["privacy"]
    assert opened(folder, "2026-01").recipe.digest() != opened(folder, None).recipe.digest()


def test_a_schedule_names_its_blocks_by_the_day(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter([date(2026, 1, 31), date(2026, 1, 31), date(2026, 2, 1), date(2026, 12, 31)])
    monkeypatch.setattr("pipelines.recipe.today", lambda: next(days))
    runs = [opened(folder, "%Y-%m") for _ in range(3)]
    said = [run.recipe.privacy.block for run in runs if run.recipe.privacy is not None]
    assert said == ["2026-01", "2026-01", "2026-02"]
    assert runs[0].workspace.path == runs[1].workspace.path != runs[2].workspace.path
    weekly = opened(folder, None, edition="week-%G-%V")
    assert weekly.recipe.privacy is not None
    assert weekly.recipe.privacy.edition == "week-2026-53"
    # What a run was made from stays as it was read.
    perform(runs[2], "ingest")
    assert reopen_run(runs[2].workspace.path).recipe == runs[2].recipe
    with pytest.raises(RecipeError, match="may hold %Y, %m, %d, %G and %V"):
        opened(folder, "%Y-%B")
