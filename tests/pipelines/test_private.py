"""Releases under differential privacy: what is spent, what is refused, what leaves."""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import private
from pipelines.audit import as_unit, examine, kept_at, last, surrogate
from pipelines.cli import run as command
from pipelines.drawing import learned_rows
from pipelines.init import initialize
from pipelines.judging import evidence_of, verdict_of
from pipelines.plan import estimate
from pipelines.private import ledger_at
from pipelines.recipe import load
from pipelines.run import Run, open_run, reopen_run
from pipelines.steps import check, perform, release, told
from pipelines.workspace import Record
from privacy.book import Budget
from privacy.chain import NAME
from privacy.errors import (
    BudgetRefused,
    InputError,
    LedgerError,
    RecipeError,
    ReleaseError,
    SchemaError,
    UsageError,
)
from privacy.mechanisms import SystemNoise
from privacy.overheard import Overheard
from privacy.private import Charge, Journal
from synth.schema import Column
from tests.pipelines.tables import bytes_of, write_table, write_visits
from tests.privacy.ledgers import Place

PRIVACY = {"epsilon": 3.0, "delta": 1e-5}
QUICK = {"components": 8, "steps": 5, "bins": 4, "rows": 1_000, "states": 4, "passes": 1}
"""A model that is fitted in a moment, whatever it is good for."""

UNJUDGED = {"warn_only": ["shape", "association"]}
"""What a quick model of few rows loses is the noise's doing: it decides no test of what was spent or promised."""

SMALL: dict[str, dict[str, Any]] = {"gmm": {"max_components": 20}, "circuit": {"states": 8}}
"""Options with which models of sums are fitted fast."""

RARE = "zzz-only-one-has-this"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of every kind, in which one row has what no other has, its schema and its recipe."""
    folder = tmp_path_factory.mktemp("source")
    table = write_table(folder / "people.csv", rows=2_000)
    lines = table.read_text("utf-8").splitlines(keepends=True)
    # The record is 13 fields; the first is the age, the fourth a category.
    last = lines[-1].split(",")
    table.write_text("".join([*lines[:-1], ",".join(["77", "99999999.5", RARE, *last[3:]])]), "utf-8")
    initialize(table, folder, blind=False, force=True)
    return folder


def opened(source: Path, folder: Path, *, watch: Any = None, **fields: object) -> Run:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    changes = {
        "dataset": "people",
        "privacy": PRIVACY,
        "threads": 1,
        "options": QUICK,
        "gate": UNJUDGED,
        **fields,
    }
    if changes.get("synthesizer", "auto") != "auto" or changes["privacy"] is None:
        changes["options"] = {}
    return open_run(load(folder / "recipe.yaml").with_fields(changes), folder, watch=watch)


@pytest.fixture(scope="module")
def done(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = opened(source, tmp_path_factory.mktemp("done"))
    return run, release(run).release


def certificate_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "certificate.json").read_text("utf-8"))
    return data


# ----------------------------------------------------------------------------------------------- what is promised


def test_the_certificate_says_what_was_spent_within_one_percent_from_below(done: tuple[Run, Path]) -> None:
    run, folder = done
    promised = certificate_of(folder)
    formal = promised["formal_guarantee"]
    assert (formal["epsilon"], formal["delta"]) == (3.0, 1e-5)
    assert 0.99 * 3 <= formal["spent_epsilon"] <= 3
    assert sum(m["share"] for m in formal["mechanisms"]) == pytest.approx(1, rel=1e-6)
    assert {m["for"] for m in formal["mechanisms"]} == {"profile", "model", "report"}
    (report,) = (m for m in formal["mechanisms"] if m["for"] == "report")
    assert report["share"] == pytest.approx(0.05)
    assert "counted anew" in formal["quality_figures"]
    assert all(m["noise_std"] > 0 for m in formal["mechanisms"])
    assert formal["failure_delta"] == pytest.approx(1e-6)
    assert "epsilon 3" in promised["statement"]
    assert "No formal" not in promised["statement"]
    spent = ledger_at(run.folder).spent("people")
    assert spent.epsilon == pytest.approx(formal["spent_epsilon"])
    assert formal["lifetime"]["ledger_head"] == ledger_at(run.folder).head()


def test_what_one_row_has_alone_is_in_no_file_of_the_release(done: tuple[Run, Path]) -> None:
    _, folder = done
    for name, data in bytes_of(folder).items():
        assert RARE.encode() not in data, name
        assert b"99999999.5" not in data, name
    table = pq.read_table(folder / "data")
    assert RARE not in {v for c in table.columns for v in c.to_pylist()}
    # It was in the source, and it is in the workspace, so the search would find it.
    run, _ = done
    assert RARE.encode() in (run.folder / "people.csv").read_bytes()


@dataclass
class Told:
    """Keeps all records that a watch is told of."""

    records: list[Record] = field(default_factory=list)

    def started(self, step: str) -> None:
        pass

    def wrote(self, step: str, path: Path) -> None:
        pass

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        self.records.append(record)


def test_the_number_of_private_rows_is_told_nowhere(source: Path, tmp_path: Path) -> None:
    watch = Told()
    first = release(opened(source, tmp_path / "a", watch=watch))
    again = release(opened(source, tmp_path / "b"))
    assert dict(watch.records[0].facts) == {}
    assert all("holdout_rows" not in r.facts for r in watch.records)
    # Nor is any digest of what was read: whoever guesses a row could check it.
    assert all(dict(r.inputs) == dict(r.outputs) == {} for r in watch.records[:3])
    run = opened(source, tmp_path / "a")
    secret = {*run.workspace.records()["ingest"].outputs.values()}
    assert not any({*r.inputs.values(), *r.outputs.values()} & secret for r in watch.records)
    # The count that is told is the profile's, which carries noise, so not all profiles of the same rows tell one. That
    # noise is about 12 rows, so that two tell the same once in forty times; all six, never in a lifetime.
    told = {first.rows, again.rows}
    for name in "cdef":
        other = opened(source, tmp_path / name)
        for step in ("ingest", "profile"):
            perform(other, step)
        told.add(learned_rows(other))
    assert first.rows == learned_rows(run)
    assert len(told) > 1
    assert first.rows == pytest.approx(2_000, rel=0.2)
    # And whoever reads it is told that it does.
    assert set(watch.records[1].facts) == {"noised_rows", "charges"}
    assert first.rows_noised


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        ("1,2,3", "a row must have 13 cells"),
        ('"unclosed', "a row must have 13 cells"),
        ("old" + 12 * ",", "a value must be of the column's type"),
        (13 * '"",', "a row must have 13 cells"),
    ],
)
def test_a_refused_ingest_tells_neither_rows_nor_numbers(
    source: Path, tmp_path: Path, record: str, rule: str
) -> None:
    run = opened(source, tmp_path)
    with (tmp_path / "people.csv").open("a") as table:
        table.write(record + "\n")
    with pytest.raises(InputError, match=rule) as caught:
        release(run)
    said = str(caught.value)
    assert not re.search(r"(row|line) \d|200\d|that of", said)
    # Whoever may look into the workspace finds it there.
    refused = (run.workspace.path / "refused.txt").read_text("utf-8")
    assert "refused.txt" in said
    assert re.search(r"(row|line) \d", refused)
    with pytest.raises(InputError, match=r"(row|line) \d"):
        release(open_run(run.recipe.with_fields({"privacy": None, "options": {}}), tmp_path))


def test_two_releases_of_the_same_recipe_differ_since_noise_has_no_seed(source: Path, tmp_path: Path) -> None:
    first, second = (release(opened(source, tmp_path / name, rows=100)).release for name in "ab")
    assert certificate_of(first)["model_digest"] != certificate_of(second)["model_digest"]


def test_the_plan_says_the_noise_before_anything_is_spent(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    plan = estimate(run)
    assert "epsilon 3, delta 1e-05 for a row" in plan.privacy
    assert "±" in plan.privacy
    assert "observed are learned anew" in plan.privacy
    assert plan.synthesizer == "marginals"
    assert (plan.source_rows, plan.rows) == (None, None)
    assert "2,000" not in plan.describe()
    assert ledger_at(run.folder).datasets() == ()


def test_a_plan_of_a_private_recipe_needs_no_run_and_begins_none(source: Path, tmp_path: Path) -> None:
    begun = opened(source, tmp_path / "begun")
    shutil.copytree(source, tmp_path / "fresh")
    fresh = open_run(begun.recipe, tmp_path / "fresh", begin=False)
    assert estimate(fresh).privacy == estimate(begun).privacy
    assert not fresh.workspace.path.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gmm", "80% of it for counts of pairs of columns, 20% of it for 3 passes"),
        ("circuit", "90% of it for counts of pairs of columns, 10% of it for one pass"),
    ],
)
def test_models_that_learn_by_sums_say_their_shares_and_release_what_they_promise(
    source: Path, tmp_path: Path, name: str, said: str
) -> None:
    run = opened(source, tmp_path, synthesizer=name, gate=UNJUDGED)
    run = open_run(run.recipe.with_fields({"options": SMALL[name]}), tmp_path)
    assert said in estimate(run).privacy
    out = release(run)
    formal = certificate_of(out.release)["formal_guarantee"]
    assert 0.99 * 3 <= formal["spent_epsilon"] <= 3
    assert {m["for"] for m in formal["mechanisms"]} == {"profile", "model", "report"}
    assert any("sum" in m["question"] for m in formal["mechanisms"] if m["for"] == "model")
    assert 1_800 < out.rows < 2_200


def test_the_plan_warns_of_tables_that_are_too_small_for_their_epsilon(source: Path, tmp_path: Path) -> None:
    little = {**PRIVACY, "epsilon": 0.05}
    for about, warned in ((2_000, True), (90_000, False)):
        run = opened(source, tmp_path / str(about), privacy=little)
        schema = run.folder / "schema.yaml"
        schema.write_text(schema.read_text("utf-8") + f"\nunits_about: {about}\n", "utf-8")
        said = estimate(open_run(run.recipe, run.folder, begin=False)).privacy
        assert bool(re.search(r"warning: noise is \d+% of about 2,000 units", said)) == warned
        assert ("warning" in said) == warned


def test_the_plan_says_that_a_second_release_would_be_refused(done: tuple[Run, Path]) -> None:
    run, _ = done
    second = open_run(run.recipe.with_fields({"privacy": {**PRIVACY, "edition": "second"}}), run.folder)
    said = estimate(second).privacy
    assert said is not None
    assert "REFUSED" in said
    with pytest.raises(BudgetRefused):
        perform(second, "ingest")
    assert "REFUSED" not in str(estimate(run).privacy)


# ----------------------------------------------------------------------------------------------- the lifetime


def test_a_second_release_beyond_the_lifetime_is_refused_before_a_row_is_read(
    source: Path, tmp_path: Path
) -> None:
    release(opened(source, tmp_path))
    second = opened(source, tmp_path, seed=1)
    with pytest.raises(BudgetRefused, match="within epsilon 3"):
        release(second)
    assert not (second.workspace.path / "rows.parquet").exists()
    assert len(ledger_at(tmp_path).spent("people").outstanding) == 0


def test_a_lifetime_that_the_recipe_states_allows_another_edition(source: Path, tmp_path: Path) -> None:
    lifetime = {"lifetime": {"epsilon": 8.0, "delta": 1e-5}}
    for edition in ("january", "february"):
        release(opened(source, tmp_path, privacy={**PRIVACY, **lifetime, "edition": edition}))
    spent = ledger_at(tmp_path).spent("people")
    assert 3.5 < spent.epsilon < 6.1
    with pytest.raises(BudgetRefused, match="within epsilon 8"):
        release(opened(source, tmp_path, privacy={**PRIVACY, "edition": "march", "epsilon": 7.9}))


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [(8.0, "epsilon 8 at .*ledger says epsilon 3 at"), (1.0, "of what is stated is spent")],
)
def test_another_lifetime_than_the_ledgers_is_refused_before_a_row_is_read(
    done: tuple[Run, Path], tmp_path: Path, epsilon: float, said: str
) -> None:
    lifetime = {"lifetime": {"epsilon": epsilon, "delta": 1e-5}}
    run = moved(done, tmp_path / "folder", privacy={**PRIVACY, "epsilon": 0.5, **lifetime})
    assert re.search(f"will be REFUSED: .*{said}", str(estimate(run).privacy))
    with pytest.raises(BudgetRefused, match=said) as refused:
        release(run)
    assert refused.value.exit_code == 4
    assert events_of(run.folder) == ["budget", "reserved", "touched", "identified", "committed"]


def test_a_lifetime_below_the_releases_own_epsilon_is_refused_and_not_written(
    source: Path, tmp_path: Path
) -> None:
    run = opened(source, tmp_path, privacy={**PRIVACY, "lifetime": {"epsilon": 0.5, "delta": 1e-5}})
    assert "will be REFUSED: releases of 'people' must together stay within epsilon 0.5" in str(
        estimate(run).privacy
    )
    with pytest.raises(BudgetRefused, match=r"within epsilon 0\.5"):
        release(run)
    assert events_of(tmp_path) == []


def events_of(folder: Path) -> list[str]:
    """What happened to the dataset, but for single answers."""
    return [str(row.event) for row in ledger_at(folder).history("people") if row.event != "charged"]


def test_a_source_that_changed_is_not_read_again(source: Path, tmp_path: Path) -> None:
    first = release(opened(source, tmp_path))
    run = opened(source, tmp_path)
    write_table(tmp_path / "people.csv", rows=500, seed=9)
    again = release(run)
    assert again.release == first.release
    assert events_of(tmp_path) == ["budget", "reserved", "touched", "identified", "committed"]


def test_a_source_that_is_gone_is_missed_by_nobody_who_has_read_it(source: Path, tmp_path: Path) -> None:
    first = release(opened(source, tmp_path))
    run = opened(source, tmp_path)
    (tmp_path / "people.csv").unlink()
    again = release(run)
    assert again.release == first.release
    assert again.again
    # Taken away twice, and each time published again from what the run holds.
    for _ in range(2):
        shutil.rmtree(tmp_path / "releases")
        back = release(reopen_run(run.workspace.path))
        assert back.release == first.release
        assert back.release.is_dir()
        assert not back.again
    assert release(run).again
    assert "publish" in estimate(run).cached
    # Another schema is another fit, which needs the rows.
    schema = tmp_path / "schema.yaml"
    schema.write_text(schema.read_text("utf-8") + "\nunits_about: 3000\n", "utf-8")
    spent = events_of(tmp_path)
    with pytest.raises(RecipeError, match="an input must exist"):
        release(open_run(run.recipe, tmp_path))
    assert events_of(tmp_path) == spent


def test_the_same_rows_under_another_name_are_refused_and_stay_charged(source: Path, tmp_path: Path) -> None:
    release(opened(source, tmp_path))
    with pytest.raises(BudgetRefused, match="'people'"):
        release(opened(source, tmp_path, dataset="others"))
    assert ledger_at(tmp_path).spent("others").epsilon == pytest.approx(3, rel=0.01)


def test_what_a_gate_refuses_stays_spent(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    for step in ("ingest", "profile", "fit", "sample", "validate", "gate"):
        perform(run, step)
    history = ledger_at(tmp_path).history("people")
    assert [str(row.event) for row in history][-1] == "committed"
    perform(run, "gate")
    assert len(ledger_at(tmp_path).history("people")) == len(history)


# ----------------------------------------------------------------------------------------------- resuming


def forget(run: Run, step: str) -> None:
    """As if the process had died before the step was recorded."""
    manifest = json.loads(run.workspace.manifest.read_text("utf-8"))
    del manifest["steps"][step]
    run.workspace.manifest.write_text(json.dumps(manifest), "utf-8")


def journal_of(run: Run) -> Path:
    (folder,) = run.workspace.path.glob("private-*")
    return folder / "journal"


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("part", ["profile", "model", "report"])
def test_a_journal_that_is_gone_gives_nothing_back_and_is_not_drawn_anew(
    source: Path, tmp_path: Path, settled: bool, part: str
) -> None:
    run = opened(source, tmp_path)
    for name in ("ingest", "profile", "fit", *(["sample", "validate", "gate"] if settled else [])):
        perform(run, name)
    shutil.rmtree(journal_of(run) / part)
    with pytest.raises(ReleaseError, match="some are missing"):
        release(run)
    # Nor where an artifact is damaged as well, so that the step runs again.
    step = "profile" if part == "profile" else "fit"
    (run.workspace.path / next(iter(run.workspace.records()[step].outputs))).unlink()
    with pytest.raises(ReleaseError, match="some are missing"):
        perform(run, step)
    assert ledger_at(tmp_path).spent("people").epsilon == pytest.approx(3, rel=0.01)


def test_a_source_that_was_asked_about_is_not_read_again(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    release(run)
    (run.workspace.path / "rows.parquet").unlink()
    table = tmp_path / "people.csv"
    lines = table.read_text("utf-8").splitlines(keepends=True)
    table.write_text("".join([lines[0], lines[-1], *lines[1:]]), "utf-8")
    with pytest.raises(ReleaseError, match="not read again"):
        release(run)


def test_a_workspace_that_was_put_back_after_it_was_settled_answers_nothing_new(
    source: Path, tmp_path: Path
) -> None:
    run = opened(source, tmp_path / "table")
    perform(run, "ingest")
    shutil.copytree(run.workspace.path, tmp_path / "copy")
    release(run)
    shutil.rmtree(run.workspace.path)
    shutil.copytree(tmp_path / "copy", run.workspace.path)
    with pytest.raises(ReleaseError, match="settled"):
        release(run)


@pytest.mark.parametrize("step", ["profile", "fit"])
def test_a_workspace_that_was_put_back_before_it_was_settled_draws_no_answer_twice(
    source: Path, tmp_path: Path, step: str
) -> None:
    run = opened(source, tmp_path / "table")
    for name in ("ingest", "profile")[: 1 if step == "profile" else 2]:
        perform(run, name)
    shutil.copytree(run.workspace.path, tmp_path / "copy")
    perform(run, step)
    shutil.rmtree(run.workspace.path)
    shutil.copytree(tmp_path / "copy", run.workspace.path)
    with pytest.raises(BudgetRefused, match="drew answers that its folder does not hold"):
        perform(run, step)


def test_of_two_copies_of_a_run_one_goes_on(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    perform(run, "ingest")
    accounts = [private._account(run, "profile") for _ in range(2)]
    charge = Charge(question="a question", rho=1e-4, noise_std=1.0, sensitivity=1.0)
    drawn = [np.zeros(1)]
    assert accounts[0].answered(charge, lambda: None, lambda _: drawn) == drawn
    with pytest.raises(BudgetRefused, match="drew answers that its folder does not hold"):
        accounts[1].answered(charge, lambda: None, lambda _: pytest.fail("noise was drawn"))


def test_a_charge_that_no_ledger_was_told_of_is_lost_and_the_run_goes_on(
    source: Path, tmp_path: Path
) -> None:
    run = opened(source, tmp_path)
    for name in ("ingest", "profile"):
        perform(run, name)
    # A crash between the two writes.
    charge = Charge(question="a question", rho=1e-4, noise_std=1.0, sensitivity=1.0)
    Journal(journal_of(run) / "model").charge(charge)
    perform(run, "fit")
    assert private.charges_of(run, "model")[0] == charge
    assert len(private.charges_of(run, "model")) > 1


def test_a_reservation_that_was_voided_is_not_used(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    budget = private.budget_of(run.recipe.privacy, run.schema)  # type: ignore[arg-type]
    asked = Budget(epsilon=3.0, delta=1e-5)
    taken = ledger_at(tmp_path).reserve("people", run="dead", worst=budget.worst, asked=asked)
    ledger_at(tmp_path).void(taken.id)
    folder = run.workspace.path / f"private-{private.kept_inputs(run)['recipe and schema'][:12]}"
    folder.mkdir()
    (folder / "reservation.json").write_text(json.dumps({"id": taken.id, "dataset": "people"}))
    with pytest.raises(ReleaseError, match="void"):
        release(run)
    assert not (run.workspace.path / "rows.parquet").exists()
    release(run)


def test_a_ledger_that_lost_a_release_is_noticed_before_a_row_is_read(source: Path, tmp_path: Path) -> None:
    release(opened(source, tmp_path))
    for name in ("ledger.sqlite", "ledger.key"):
        (tmp_path / ".understudy" / name).unlink()
    second = opened(source, tmp_path, seed=1)
    with pytest.raises(LedgerError, match="head"):
        release(second)
    assert not (second.workspace.path / "rows.parquet").exists()


def moved(done: tuple[Run, Path], folder: Path, **fields: object) -> Run:
    """Another recipe, in a copy of a folder in which one was released."""
    run, _ = done
    shutil.copytree(run.folder, folder, symlinks=True)
    return open_run(run.recipe.with_fields({"name": "others", **fields}), folder)


@pytest.mark.parametrize("left", ["releases", ".understudy/runs"])
@pytest.mark.parametrize("how", ["cut", "replaced"])
def test_a_ledger_that_lost_a_release_is_noticed_by_every_recipe_and_by_plan_and_verify(
    done: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, how: str
) -> None:
    folder = tmp_path / "folder"
    second = moved(done, folder)
    with pytest.raises(BudgetRefused, match="within epsilon 3"):
        perform(second, "ingest")
    (recorded,) = folder.glob(".understudy/runs/people-*/private-*/reservation.json")
    assert json.loads(recorded.read_text("utf-8"))["ledger"] == ".understudy/ledger.sqlite"
    for name in {"releases", ".understudy/runs"} - {left}:
        shutil.rmtree(folder / name)
    second = open_run(second.recipe, folder)
    own = folder / ".understudy"
    if how == "replaced":
        for name in ("ledger.sqlite", "ledger.key"):
            (own / name).unlink()
    else:
        place = Place(str(own / "ledger.sqlite"), own / "ledger.key")
        place.tamper(f"DELETE FROM {NAME} WHERE number > 1")
    for attempt in (estimate, release):
        with pytest.raises(LedgerError, match="rows were cut off it"):
            attempt(second)
    monkeypatch.chdir(folder)
    assert command(["budget", "verify"]) == 1


def test_runs_and_releases_of_another_ledger_are_held_against_that_one_alone(
    done: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = moved(done, tmp_path / "folder")
    trusted = private.trusted(second.folder, ledger_at(second.folder), root=second.release_root)
    assert trusted == 1
    monkeypatch.setenv("UNDERSTUDY_LEDGER", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    assert private.trusted(second.folder, ledger_at(second.folder), root=second.release_root) == 0
    perform(second, "ingest")
    monkeypatch.delenv("UNDERSTUDY_LEDGER")
    assert private.trusted(second.folder, ledger_at(second.folder)) == 1


def test_an_audit_that_contradicts_the_promise_stops_the_release(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    found = examine(run, rows=500, canaries=50)
    told = json.loads(found.path.read_text("utf-8"))
    found.path.write_text(json.dumps({**told, "epsilon": 9.9}), "utf-8")
    assert "will be REFUSED: an audit must not contradict" in str(estimate(run).privacy)
    with pytest.raises(ReleaseError, match="contradict"):
        release(run)
    assert events_of(tmp_path) == []
    # It can be repeated, as after a fault was mended.
    assert not examine(run, rows=500, canaries=50).broken


def test_an_audit_that_contradicts_a_promise_that_was_paid_for_stops_the_publication(
    source: Path, tmp_path: Path
) -> None:
    run = opened(source, tmp_path)
    perform(run, "ingest")
    found = examine(run, rows=500, canaries=50)
    told = json.loads(found.path.read_text("utf-8"))
    found.path.write_text(json.dumps({**told, "epsilon": 9.9}), "utf-8")
    with pytest.raises(ReleaseError, match="contradict"):
        release(run)
    assert not (tmp_path / "releases" / "people").exists()


def test_a_journal_that_costs_other_than_the_ledger_says_is_not_certified(
    source: Path, tmp_path: Path
) -> None:
    run = opened(source, tmp_path)
    for step in ("ingest", "profile", "fit", "sample", "validate", "gate"):
        perform(run, step)
    private.guarantee_of(run, audit=None)
    path = min((journal_of(run) / "model").glob("*.json"))
    charge = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**charge, "rho": charge["rho"] * 0.99}), "utf-8")
    with pytest.raises(ReleaseError, match="cost what the ledger says"):
        private.guarantee_of(run, audit=None)
    with pytest.raises(ReleaseError, match="cost what the ledger says"):
        release(run)
    assert not (tmp_path / "releases" / "people").exists()


def test_fewer_rows_may_be_learned_from_and_as_many_as_there_are_released(
    source: Path, tmp_path: Path
) -> None:
    run = opened(source, tmp_path, fit_rows=500)
    schema = tmp_path / "schema.yaml"
    schema.write_text(schema.read_text("utf-8") + "\nunits_about: 2000\n", "utf-8")
    out = release(run)
    assert learned_rows(run) == pytest.approx(500, rel=0.4)
    assert out.rows == pytest.approx(2_000, rel=0.4)


def test_another_schema_is_another_fit_at_another_charge(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    release(run)
    schema = tmp_path / "schema.yaml"
    schema.write_text(schema.read_text("utf-8").replace("  nullable: false", "  nullable: true", 1), "utf-8")
    schema.write_text(schema.read_text("utf-8") + "\nunits_about: 2000\n", "utf-8")
    with pytest.raises(BudgetRefused, match="within epsilon 3"):
        release(run)


def test_a_run_that_died_while_it_read_goes_on_with_its_reservation(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    perform(run, "ingest")
    forget(run, "ingest")
    release(run)
    assert events_of(tmp_path) == ["budget", "reserved", "touched", "identified", "committed"]


@pytest.mark.parametrize("step", ["profile", "fit"])
def test_a_step_that_is_resumed_replays_its_answers_at_no_new_charge(
    source: Path, tmp_path: Path, step: str
) -> None:
    run = opened(source, tmp_path)
    for name in ("ingest", "profile", "fit"):
        perform(run, name)
    journal = bytes_of(journal_of(run))
    outputs = run.workspace.records()[step].outputs
    forget(run, step)
    perform(run, step)
    assert run.workspace.records()[step].outputs == outputs
    assert bytes_of(journal_of(run)) == journal


def test_a_damaged_journal_stops_the_run_and_says_what_to_do(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    for name in ("ingest", "profile"):
        perform(run, name)
    forget(run, "profile")
    next(iter((journal_of(run) / "profile").glob("*.json"))).write_text("{}")
    with pytest.raises(ReleaseError, match="release anew"):
        perform(run, "profile")


# ----------------------------------------------------------------------------------------------- noised figures


def test_the_page_holds_noised_figures_with_intervals_that_were_charged(done: tuple[Run, Path]) -> None:
    run, folder = done
    figures = evidence_of(run).noised
    assert figures is not None
    assert not figures.held_out
    learned = {c.name for c in run.schema if c.learned}
    assert {c.name for c in figures.columns} <= learned
    assert len(figures.columns) >= 8
    assert all(s.low <= s.value <= s.high for s in (figures.shape, figures.trend) if s is not None)
    page = (folder / "report.html").read_text("utf-8")
    assert "Counted anew, with noise" in page
    assert "noised number" in page
    assert "Score (noised)" in (folder / "README.md").read_text("utf-8")
    outcomes = {j.outcome for j in verdict_of(run).judged}
    assert outcomes <= {"pass", "fail", "undecided"}
    assert outcomes


def test_a_report_without_a_share_asks_nothing_and_shows_what_was_fitted_to(
    source: Path, tmp_path: Path
) -> None:
    run = opened(source, tmp_path, privacy={**PRIVACY, "shares": {"report": 0}})
    assert "report 0%: no noised figures" in estimate(run).privacy
    folder = release(run).release
    formal = certificate_of(folder)["formal_guarantee"]
    assert {m["for"] for m in formal["mechanisms"]} == {"profile", "model"}
    assert formal["spent_epsilon"] >= 0.99 * 3
    assert formal["quality_figures"] == "of what the model was fitted to"
    assert evidence_of(run).noised is None
    assert "noised counts that the model was fitted to" in (folder / "report.html").read_text("utf-8")


def test_the_answer_is_replayed_byte_for_byte_at_no_new_charge(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    for name in ("ingest", "profile", "fit"):
        perform(run, name)
    journal, recount = bytes_of(journal_of(run)), (run.workspace.path / "recount.json").read_bytes()
    assert len(private.charges_of(run, "report")) == 1
    forget(run, "fit")
    (run.workspace.path / "recount.json").unlink()
    perform(run, "fit")
    assert (run.workspace.path / "recount.json").read_bytes() == recount
    assert bytes_of(journal_of(run)) == journal
    # Another validation, for instance by a newer Understudy, asks nothing.
    for name in ("sample", "validate"):
        perform(run, name)
    forget(run, "validate")
    perform(run, "validate")
    assert bytes_of(journal_of(run)) == journal


def test_what_one_row_has_alone_is_no_cell_of_the_question(done: tuple[Run, Path]) -> None:
    run, _ = done
    text = (run.workspace.path / "recount.json").read_text("utf-8")
    assert RARE not in text
    assert RARE not in json.dumps(evidence_of(run).to_dict())


def test_held_out_rows_are_counted_where_there_are_some(source: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "held.csv", rows=1_500, seed=7)
    run = opened(source, tmp_path, holdout="held.csv")
    folder = release(run).release
    figures = evidence_of(run).noised
    assert figures is not None
    assert figures.held_out
    assert figures.rows == pytest.approx(1_500, rel=0.2)
    formal = certificate_of(folder)["formal_guarantee"]
    assert "has not learned from" in formal["quality_figures"]
    # What is held out is charged as if it were not: somebody may be on both sides.
    assert formal["spent_epsilon"] >= 0.99 * 3
    assert "if the holdout has as many rows" not in estimate(run).privacy


def test_the_plan_says_what_noise_will_hide(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    assert "set `units_about`" in estimate(run).privacy
    schema = tmp_path / "schema.yaml"
    text = schema.read_text("utf-8")
    schema.write_text(text + "\nunits_about: 2000\n", "utf-8")
    told = estimate(run).privacy
    assert "report 5%" in told
    assert "too noisy to decide: shapes" in told
    schema.write_text(text + "\nunits_about: 90000\n", "utf-8")
    assert "too noisy" not in estimate(run).privacy


@pytest.mark.parametrize("holdout", [0.2, "held.csv"])
def test_an_exact_report_stays_inside_and_the_certificate_says_that_there_is_one(
    source: Path, tmp_path: Path, holdout: float | str
) -> None:
    write_table(tmp_path / "held.csv", rows=600, seed=7)
    run = opened(source, tmp_path, privacy={**PRIVACY, "exact_report": True}, holdout=holdout)
    assert "exact report" in estimate(run).privacy
    out = release(run)
    promised = certificate_of(out.release)
    assert promised["formal_guarantee"]["exact_report"] is True
    assert any("exact report" in line for line in promised["formal_guarantee"]["not_covered"])
    assert "exact report" in promised["statement"]
    assert out.exact_report is not None
    exact = json.loads((run.workspace.path / "exact-evidence.json").read_text("utf-8"))
    train, held = exact["fidelity"]["rows_train"], exact["fidelity"]["rows_holdout"]
    assert (train, held) == (2_000, 0 if holdout == 0.2 else 600)
    # Nothing of it is outside: neither a file nor a figure.
    files = bytes_of(out.release)
    assert not any("exact" in name for name in files)
    found = exact["fidelity"]
    every = [found["shape"], found["trend"], *(c["shape"] for c in found["columns"])]
    # A score may be short by chance, and then stand anywhere.
    figures = [f for f in (repr(v).encode() for v in every if v is not None) if len(f) > 10]
    assert len(figures) > 1
    assert not any(f in data for f in figures for data in files.values())
    assert (run.workspace.path / "exact-report.html").exists()
    # Nor is a digest of the rows, or of what was computed from them, told to who watches.
    for step in ("validate", "gate", "publish"):
        record = told(run, step, run.workspace.records()[step])
        assert not record.inputs
        assert bool(record.outputs) == (step != "validate")


def test_nothing_exact_is_computed_unless_it_was_asked_for(done: tuple[Run, Path]) -> None:
    run, folder = done
    assert not list(run.workspace.path.glob("exact*"))
    assert certificate_of(folder)["formal_guarantee"]["exact_report"] is False
    assert "exact report" not in certificate_of(folder)["statement"]


# ----------------------------------------------------------------------------------------------- units


def persons(folder: Path, *, named: float, **privacy: object) -> Run:
    """A table of 400 rows of whom a share has a person, of that table alone; and its run."""
    folder.mkdir()
    rng = np.random.default_rng(len(folder.name))
    person = [f"{folder.name}-{i:05d}" if rng.random() < named else "" for i in range(400)]
    lines = [f"{who},{rng.integers(0, 90)}" for who in person]
    (folder / "table.csv").write_text("\n".join(["person,age", *lines]) + "\n", "utf-8")
    initialize(folder / "table.csv", folder, blind=False, force=True)
    text = (folder / "schema.yaml").read_text("utf-8")
    before, after = text.split("- name: person\n", 1)
    own, others = after.split("- name: age\n", 1)
    unit = "- name: person\n  kind: identifier\n  type: string\n- name: age\n"
    assert "kind:" in own
    (folder / "schema.yaml").write_text(before + unit + others, "utf-8")
    promised = {**PRIVACY, "unit": "person", **privacy}
    fields = {"dataset": folder.name, "privacy": promised, "threads": 1, "options": QUICK}
    return open_run(load(folder / "recipe.yaml").with_fields(fields), folder)


def test_rows_without_a_person_are_not_known_again_in_another_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_LEDGER", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    for name in ("one", "another"):
        perform(persons(tmp_path / name, named=0.3), "ingest")


@pytest.mark.parametrize("first", [None, "patient"])
def test_a_known_source_under_another_name_and_another_unit_is_refused(
    tmp_path: Path, first: str | None
) -> None:
    initialize(write_visits(tmp_path / "visits.csv", patients=500), tmp_path, blind=False, force=True)
    recipe = load(tmp_path / "recipe.yaml")
    for name, unit in (("rows1", first), ("others", None if first else "patient")):
        privacy = {**PRIVACY, "unit": unit}
        run = open_run(recipe.with_fields({"dataset": name, "privacy": privacy, "threads": 1}), tmp_path)
        if name == "rows1":
            perform(run, "ingest")
            continue
        with pytest.raises(BudgetRefused, match="dataset: rows1"):
            perform(run, "ingest")


def test_recipes_of_two_folders_share_a_ledger_that_is_named_by_its_path_and_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [persons(tmp_path / name, named=1.0) for name in ("one", "another", "last")]
    monkeypatch.setenv("UNDERSTUDY_LEDGER", str(tmp_path / "shared" / "ledger.sqlite"))
    for run in runs[:2]:
        perform(run, "ingest")
        assert not (run.folder / ".understudy" / "ledger.key").exists()
    ledger = ledger_at(tmp_path)
    assert ledger.datasets() == ("one", "another")
    # A key that is lost costs nothing.
    (tmp_path / "shared" / "ledger.key").unlink()
    head = ledger.head()
    with pytest.raises(LedgerError, match=r"ledger\.key is missing"):
        perform(runs[2], "ingest")
    assert ledger.head() == head


@pytest.mark.parametrize("said", ["ledger.sqlite", "sqlite:///ledger.sqlite", "sqlite://"])
@pytest.mark.parametrize("variable", ["UNDERSTUDY_LEDGER", "UNDERSTUDY_LEDGER_KEY"])
def test_a_ledger_or_key_whose_place_depends_on_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv(variable, said)
    with pytest.raises(UsageError, match=f"{variable} must name a file from the root on"):
        ledger_at(tmp_path)


def test_who_only_looks_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(source, tmp_path / "folder")
    shutil.rmtree(tmp_path / "folder" / ".understudy", ignore_errors=True)
    recipe = load(source / "recipe.yaml").with_fields(
        {"dataset": "people", "privacy": PRIVACY, "options": QUICK}
    )
    estimate(open_run(recipe, tmp_path / "folder", begin=False))
    monkeypatch.chdir(tmp_path / "folder")
    assert command(["budget"]) == 0
    assert not (tmp_path / "folder" / ".understudy").exists()


def test_a_column_without_any_person_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'person' has no value in any row"):
        perform(persons(tmp_path / "one", named=0.0), "ingest")


def test_releases_of_other_units_are_not_added_up(tmp_path: Path) -> None:
    run = persons(tmp_path / "one", named=1.0)
    for step in ("ingest", "profile"):
        perform(run, step)
    rows = {**PRIVACY, "lifetime": {"epsilon": 9.0, "delta": 1e-5}}
    ledger_at(run.folder).set_budget("one", Budget(epsilon=9.0, delta=1e-5), by="steward")
    refused = "units were 'person' as string, and are rows now"
    other = open_run(run.recipe.with_fields({"privacy": rows}), run.folder)
    assert refused in str(estimate(other).privacy)
    with pytest.raises(BudgetRefused, match=refused):
        perform(other, "ingest")
    assert not (other.workspace.path / "rows.parquet").exists()
    again = open_run(run.recipe.with_fields({"seed": 1}), run.folder)
    perform(again, "ingest")


def test_rows_of_one_person_are_one_unit(tmp_path: Path) -> None:
    table = write_visits(tmp_path / "visits.csv", patients=1_500)
    initialize(table, tmp_path, blind=False, force=True)
    privacy = {**PRIVACY, "unit": "patient", "max_rows_per_unit": 2}
    recipe = load(tmp_path / "recipe.yaml").with_fields(
        {"dataset": "visits", "privacy": privacy, "threads": 1}
    )
    out = release(open_run(recipe, tmp_path))
    formal = certificate_of(out.release)["formal_guarantee"]
    assert formal["unit"] == "all rows of one patient, at most 2 of them kept"
    assert all(m["sensitivity"] >= 2 for m in formal["mechanisms"] if "marginals of rows" in m["question"])
    # 1,500 patients keep about 1.8 of their 3.5 rows.
    assert 2_300 < out.rows < 3_400


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"synthesizer": "sdv-gaussian-copula"}, RecipeError, "the rows themselves"),
        ({"privacy": {"epsilon": 1, "delta": 1e-3}}, RecipeError, "units_about"),
        ({"privacy": {**PRIVACY, "max_rows_per_unit": 3}}, RecipeError, "max_rows_per_unit"),
        ({"privacy": {**PRIVACY, "unit": "age"}}, SchemaError, "kind: identifier"),
        ({"privacy": {**PRIVACY, "unit": "nobody"}}, SchemaError, "'nobody'"),
        ({"dataset": None}, RecipeError, "dataset"),
    ],
)
def test_what_cannot_be_promised_is_refused_before_anything_is_spent(
    source: Path, tmp_path: Path, fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    run = opened(source, tmp_path, **fields)
    with pytest.raises(error, match=said):
        release(run)
    assert not (tmp_path / ".understudy" / "ledger.sqlite").exists()


def test_delta_is_held_against_the_units_that_the_schema_states(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path, privacy={"epsilon": 1.0, "delta": 1e-4})
    check(run)
    schema = tmp_path / "schema.yaml"
    schema.write_text(schema.read_text("utf-8") + "\nunits_about: 20000\n", "utf-8")
    with pytest.raises(RecipeError, match="about 20,000 units"):
        check(run)


def test_so_is_that_of_the_lifetime(source: Path, tmp_path: Path) -> None:
    lifetime = {"lifetime": {"epsilon": 3.0, "delta": 0.5}}
    run = opened(source, tmp_path, privacy={**PRIVACY, **lifetime})
    with pytest.raises(RecipeError, match=r"privacy\.lifetime\.delta must be .*delta=0\.5"):
        release(run)
    assert not (tmp_path / ".understudy" / "ledger.sqlite").exists()


def test_a_column_that_must_not_be_learned_must_be_declared(source: Path, tmp_path: Path) -> None:
    run = opened(source, tmp_path)
    schema = tmp_path / "schema.yaml"
    text = schema.read_text("utf-8")
    schema.write_text(text.replace("- name: age\n", "- name: age\n  learn: none\n"), "utf-8")
    with pytest.raises(SchemaError, match="'age'"):
        check(run)
    schema.write_text(
        text.replace("- name: age\n", '- name: age\n  learn: none\n  facts: "declared: law"\n').replace(
            "  facts: observed\n", "", 1
        ),
        "utf-8",
    )
    check(run)


# ----------------------------------------------------------------------------------------------- audits


def test_an_audit_reads_no_private_row_costs_nothing_and_is_cited_by_the_certificate(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(source, tmp_path)
    found = examine(run, rows=1_000, canaries=200)
    assert 0 <= found.found.epsilon <= 3
    assert not found.broken
    assert ledger_at(tmp_path).datasets() == ()
    assert not (run.workspace.path / "rows.parquet").exists()
    cited = certificate_of(release(run).release)["formal_guarantee"]["audit"]
    assert cited["kind"] == "lower bound, not proof"
    assert cited["canaries"] == 200
    # Another configuration is not covered by it.
    other = opened(source, tmp_path, privacy={**PRIVACY, "epsilon": 2.0})
    assert last(other) is None


def test_an_audit_finds_answers_without_noise_and_stops_the_release(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = tmp_path / "declared"
    shutil.copytree(source, declared)
    schema = (declared / "schema.yaml").read_text("utf-8")
    # Canaries must differ in what is learned of them.
    (declared / "schema.yaml").write_text(
        schema.replace("facts: observed", 'facts: "declared: the test"'), "utf-8"
    )
    run = opened(declared, tmp_path / "run", privacy={**PRIVACY, "epsilon": 1.0})
    with monkeypatch.context() as patched:
        patched.setattr(SystemNoise, "gaussian", lambda self, values, *, scale: values)
        found = examine(run, rows=400, canaries=200)
    assert found.broken
    assert found.found.attack.startswith("answers")
    assert "promise is broken" in found.describe()
    with pytest.raises(ReleaseError, match="contradict what is promised"):
        release(run)


def test_an_audit_puts_in_canaries_of_as_many_rows_as_a_unit_may_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = persons(tmp_path / "people", named=1.0, max_rows_per_unit=3)
    seen = []
    histogram = Overheard.histogram

    def listening(self: Overheard, cells: Any, **asked: Any) -> Any:
        seen.append(self._of_canaries())
        return histogram(self, cells, **asked)

    monkeypatch.setattr(Overheard, "histogram", listening)
    assert not examine(run, rows=500, canaries=50).broken
    assert all((len(rows), each) == (50, 3) for rows, each in seen)
    assert seen


@pytest.mark.parametrize(
    "kind", ["int8", "uint16", "int64", "double", "date32[day]", "timestamp[us]", "string"]
)
def test_made_up_units_have_the_type_of_their_column(kind: str) -> None:
    arrow = Column(name="unit", kind="identifier", type=kind).arrow_type
    units = as_unit(np.arange(100), arrow)
    assert units.type == arrow
    assert len(units.unique()) == 100


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"configuration": "another", "epsilon": 0.0}'])
def test_an_audit_that_is_not_whole_is_said_in_words(source: Path, tmp_path: Path, text: str) -> None:
    run = opened(source, tmp_path)
    kept_at(run).parent.mkdir(parents=True)
    kept_at(run).write_text(text, "utf-8")
    with pytest.raises(ReleaseError, match="remove it, and audit again"):
        last(run)


def test_an_audit_is_of_one_configuration_whatever_is_reported_of_it(source: Path, tmp_path: Path) -> None:
    one = kept_at(opened(source, tmp_path))
    assert kept_at(opened(source, tmp_path, privacy={**PRIVACY, "exact_report": True})) == one
    assert kept_at(opened(source, tmp_path, at_least=0)) != one


def test_an_audit_without_a_promise_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no `privacy` section"):
        examine(opened(source, tmp_path, privacy=None))


def test_made_up_rows_fit_the_schema_and_canaries_are_unlike_them(source: Path, tmp_path: Path) -> None:
    schema = opened(source, tmp_path).schema
    usual, odd = (surrogate(schema, 2_000, np.random.default_rng(0), odd=o) for o in (False, True))
    assert usual.schema.equals(schema.arrow)
    assert np.mean(usual["age"].to_numpy()) < 0.6 * np.mean(odd["age"].to_numpy())


# ----------------------------------------------------------------------------------------------- the command


def test_more_rows_are_drawn_from_a_model_at_no_charge(done: tuple[Run, Path], tmp_path: Path) -> None:
    run, _ = done
    entries = len(ledger_at(run.folder).history("people"))
    out = tmp_path / "more.parquet"
    assert command(["sample", str(run.workspace.path), str(out), "--rows", "321"]) == 0
    assert pq.read_table(out).num_rows == 321
    assert pq.read_table(out).schema.names == list(run.schema.names)
    assert command(["sample", str(run.workspace.path), str(out)]) == 2
    assert command(["sample", str(tmp_path), str(tmp_path / "x.parquet")]) != 0
    assert len(ledger_at(run.folder).history("people")) == entries


def test_a_budget_of_a_name_that_nobody_knows_says_that_it_begins_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["budget", "set", "people", "--epsilon", "3", "--delta", "0.5"]) == 2
    for name, said in (
        ("people", "people: a new dataset, which had no budget here before\n"),
        ("poeple", "poeple: a new dataset, which had no budget here before; others are: people\n"),
        ("people", "people: epsilon 0 of 3"),
    ):
        assert command(["budget", "set", name, "--epsilon", "3", "--delta", "1e-5"]) == 0
        assert capsys.readouterr().out.startswith(said)


def test_where_there_is_no_ledger_nothing_is_verified_or_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (["verify"], "there is no entry in"),
        (["history", "nobody"], "'nobody' is not in"),
        (["show", "nobody"], "known are: none yet"),
    ):
        assert command(["budget", *words]) == 2
        assert said in capsys.readouterr().err
    assert command(["budget"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_budgets_are_shown_set_listed_and_verified(
    done: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = done
    monkeypatch.chdir(run.folder)
    assert command(["budget"]) == 0
    assert "people: epsilon 3 of 3" in capsys.readouterr().out
    assert command(["budget", "history", "people", "--json"]) == 0
    events = [e["event"] for e in json.loads(capsys.readouterr().out)["entries"]]
    assert events == ["budget", "reserved", "touched", "identified", "committed"]
    assert command(["budget", "verify", "--release", str(folder)]) == 0
    assert (
        "what 1 certificates that were named say, and what 1 certificates here say" in capsys.readouterr().out
    )
    assert command(["budget", "set", "people", "--epsilon", "1", "--delta", "1e-5"]) == 4
    assert "spent" in capsys.readouterr().err
    assert command(["budget", "set", "people"]) == 2
    assert command(["budget", "show", "strangers"]) == 2
    assert command(["budget", "history", "strangers"]) == 2
    assert command(["budget", "void"]) == 0
