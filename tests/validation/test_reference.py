"""A project of Great Expectations that knows nothing of ours but `import validation.reference`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from privacy.errors import InputError
from synth.schema import REPLACED, Schema
from tests.validation.test_fidelity import HALF, HOLDOUT, SCHEMA, TRAIN, changed, shuffled
from validation import reference
from validation.expectations import suite
from validation.fidelity import measure
from validation.gates import GateRules, measures
from validation.reference import Beside, strong_pairs

PLAIN = Schema(columns=tuple(c for c in SCHEMA if "$" not in c.name))
NAMES = list(PLAIN.names)
LEARNED = [c.name for c in PLAIN if c.learned]

DISTRIBUTION = "expect_column_distribution_to_match_reference"
ASSOCIATION = "expect_column_pair_association_to_match_reference"
COPIES = "expect_table_copies_of_reference_to_be_by_chance"
TOLD = "expect_table_to_be_hard_to_tell_from_reference"
OURS = {DISTRIBUTION, ASSOCIATION, COPIES, TOLD}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    pq.write_table(TRAIN.select(NAMES), folder / "train.parquet", row_group_size=700)
    pq.write_table(HOLDOUT.select(NAMES), folder / "holdout.parquet")
    return folder


@pytest.fixture(scope="module")
def exported(real: Path) -> dict[str, Any]:
    beside = Beside(reference=str(real / "train.parquet"), holdout=str(real / "holdout.parquet"))
    found: dict[str, Any] = json.loads(json.dumps(suite(PLAIN, "visits", beside)))
    return found


def ours(exported: dict[str, Any], *types: str, **parameters: Any) -> dict[str, Any]:
    kept = [e for e in exported["expectations"] if e["type"] in (types or OURS)]
    return {**exported, "expectations": [{**e, "kwargs": {**e["kwargs"], **parameters}} for e in kept]}


def results(exported: dict[str, Any], table: pa.Table | pd.DataFrame, **parameters: str) -> list[Any]:
    context = gx.get_context(mode="ephemeral")
    loaded = context.suites.add(gx.ExpectationSuite(**exported))
    whole = (
        context.data_sources.add_pandas("p")
        .add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name="c",
            validation_definitions=[
                context.validation_definitions.add(
                    gx.ValidationDefinition(name="v", data=whole, suite=loaded)
                )
            ],
        )
    )
    frame = table.to_pandas() if isinstance(table, pa.Table) else table
    ran = checkpoint.run(batch_parameters={"dataframe": frame}, expectation_parameters=parameters)
    (found,) = ran.run_results.values()
    return list(found.results)


def failed(exported: dict[str, Any], table: pa.Table, **parameters: str) -> set[tuple[str, ...]]:
    found = set()
    for r in results(exported, table, **parameters):
        said = r.expectation_config.kwargs
        if not r.success:
            assert not r.exception_info.get("raised_exception"), r.exception_info
            found.add(
                (
                    r.expectation_config.type,
                    *(said[k] for k in ("column", "column_A", "column_B") if k in said),
                )
            )
    return found


def test_honest_rows_pass_every_expectation_of_the_inside_suite(exported: dict[str, Any]) -> None:
    assert {e["type"] for e in exported["expectations"]} >= OURS
    assert exported["meta"]["zone"].startswith("inside")
    assert failed(ours(exported), HALF.select(NAMES)) == set()


def test_each_damage_is_found_by_the_expectation_that_is_about_it(exported: dict[str, Any]) -> None:
    made = HALF.select(NAMES)
    old = changed(made, "age", pa.array(np.minimum(made["age"].to_numpy() + 25, 89)))
    assert (DISTRIBUTION, "age") in failed(ours(exported, DISTRIBUTION), old)
    full = changed(made, "in\ncome 🐘", made["in\ncome 🐘"].fill_null(30_000.0))
    assert failed(ours(exported, DISTRIBUTION), full) == {(DISTRIBUTION, "in\ncome 🐘")}
    apart = failed(ours(exported, ASSOCIATION), shuffled(made, "age"))
    assert apart
    assert all("age" in pair for pair in apart)
    copied = pa.concat_tables([made.slice(60), TRAIN.select(NAMES).slice(0, 60)])
    assert failed(ours(exported, COPIES), copied) == {(COPIES,)}
    assert failed(ours(exported, TOLD), shuffled(shuffled(made, "age"), "seen")) == {(TOLD,)}


def test_limits_are_the_gates(exported: dict[str, Any]) -> None:
    made = HALF.select(NAMES)
    fidelity = measure(TRAIN.select(NAMES), HOLDOUT.select(NAMES), made, PLAIN, at_least=10, seed=0)
    gate = {
        (m.rule, *m.columns): (m.value, m.limit)
        for m in measures(fidelity, GateRules())
        if m.level == "critical"
        and (m.rule in ("shape", "association") or (m.rule, m.columns) == ("copies", ()))
    }
    found = {}
    for r in results(ours(exported, DISTRIBUTION, ASSOCIATION, COPIES), made):
        said = r.expectation_config.kwargs
        columns = [said[k] for k in ("column", "column_A", "column_B") if k in said]
        for rule in r.result["details"]["rules"]:
            found[rule["rule"], frozenset(columns)] = (rule["observed"], rule["limit"])
    assert len(gate) > len(LEARNED)
    for (rule, *columns), figures in gate.items():
        assert found[rule, frozenset(columns)] == pytest.approx(figures, abs=1e-9)


def test_the_real_rows_may_be_named_when_the_suite_is_run(exported: dict[str, Any], real: Path) -> None:
    named = ours(exported, DISTRIBUTION, reference={"$PARAMETER": "rows"}, holdout={"$PARAMETER": "held"})
    paths = {"rows": str(real / "train.parquet"), "held": str(real / "holdout.parquet")}
    made = HALF.select(NAMES)
    assert failed(named, made, **paths) == set()
    assert failed(named, shuffled(made, "age"), **paths) == set()
    old = changed(made, "age", pa.array(np.minimum(made["age"].to_numpy() + 25, 89)))
    assert (DISTRIBUTION, "age") in failed(named, old, **paths)


def test_a_fifth_of_a_folder_of_files_is_held_out_where_no_rows_are_given(tmp_path: Path) -> None:
    whole = pa.concat_tables([TRAIN.select(NAMES), HOLDOUT.select(NAMES)])
    for number in range(3):
        pq.write_table(whole.slice(number * 2000, 2000), tmp_path / f"part-{number}.parquet")
    found = json.loads(json.dumps(suite(PLAIN, "visits", Beside(reference=str(tmp_path)))))
    ran = results(ours(found, DISTRIBUTION), HALF.select(NAMES))
    assert all(r.success for r in ran)
    rows = ran[0].result["details"]["rows"]
    assert rows["reference"] + rows["holdout"] == min(whole.num_rows, 6000)
    assert 0.15 < rows["holdout"] / whole.num_rows < 0.25


def test_rows_of_a_person_are_on_one_side_and_count_once() -> None:
    units = np.repeat(np.arange(300), 5)
    table = pa.table({"who": units, "x": np.arange(1500)})
    train, holdout = reference._split(table, Beside(reference="", unit="who"))
    assert not set(train["who"].to_pylist()) & set(holdout["who"].to_pylist())
    assert len(np.unique(reference._units(train["who"]))) == len(set(train["who"].to_pylist()))


def test_what_cannot_be_compared_is_an_error_that_says_why_without_a_value(
    exported: dict[str, Any], real: Path, tmp_path: Path
) -> None:
    made = HALF.select(NAMES)
    (tmp_path / "rows.csv").write_text("Meier\n")
    pq.write_table(TRAIN.select(["one"]), tmp_path / "narrow.parquet")
    words = changed(made, "age", pa.array(["Meier"] * made.num_rows))
    for table, beside, why in (
        (made, {"reference": str(tmp_path / "rows.csv")}, "must be Parquet"),
        (made, {"reference": str(tmp_path / "nowhere")}, "is none"),
        (made, {"reference": str(tmp_path / "narrow.parquet")}, "every column"),
        (made.slice(0, 0), {}, "must have rows"),
        (made.drop_columns(["age"]), {}, "no 'age'"),
        (words, {}, "write values alike"),
    ):
        (one,) = [e for e in ours(exported, DISTRIBUTION)["expectations"] if e["kwargs"]["column"] == "age"]
        asked = {**exported, "expectations": [{**one, "kwargs": {**one["kwargs"], **beside}}]}
        (found,) = results(asked, table)
        assert not found.success
        told = str(found.exception_info)
        assert why in told
        assert "however" in told
        assert "Meier" not in told.replace("'Meier'", "")


def test_results_hold_no_value_and_the_outside_suite_no_figure(exported: dict[str, Any]) -> None:
    outside = suite(PLAIN, "visits")
    assert outside["meta"]["zone"] == "outside"
    assert not {e["type"] for e in outside["expectations"]} & OURS
    made = changed(HALF.select(NAMES), "one", pa.array(["Meier"] * HALF.num_rows))
    assert "Meier" not in str([r.to_json_dict()["result"] for r in results(ours(exported), made)])


def test_they_are_registered_described_and_rendered(exported: dict[str, Any]) -> None:
    from great_expectations.expectations.registry import get_expectation_impl

    for kind in OURS:
        shown = get_expectation_impl(kind).schema_json()
        said = json.loads(shown)["properties"]["metadata"]["properties"]
        assert said["short_description"]["const"].startswith("Expect ")
        assert said["supported_data_sources"]["const"] == ["Pandas"]
    for result in results(ours(exported), HALF.select(NAMES)):
        result.render()
        text = json.dumps([c.to_json_dict() for c in result.expectation_config.rendered_content])
        assert "must" in text
        assert "train.parquet" in text


def test_pairs_that_are_watched_are_the_strong_ones_of_the_reference(real: Path) -> None:
    kinds = reference._learned(PLAIN)
    found, more = strong_pairs(kinds, Beside(reference=str(real / "train.parquet")))
    assert more == 0
    pairs = {frozenset((a, b)): value for a, b, value in found}
    assert pairs[frozenset(("age", "wait"))] > 0.9
    assert all(value >= 0.1 for value in pairs.values())
    assert not any("one" in pair for pair in pairs)


def test_a_wide_table_is_read_a_column_at_a_time_and_in_fewer_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"x{i}": rng.normal(size=3_000) for i in range(120)})
    pq.write_table(table, tmp_path / "wide.parquet")
    schema = Schema.model_validate(
        {"columns": [{"name": n, "kind": "numerical", "type": "double"} for n in table.column_names]}
    )
    found = suite(schema, "wide", Beside(reference=str(tmp_path / "wide.parquet")))
    assert {e["kwargs"]["rows"] for e in found["expectations"] if e["type"] == DISTRIBUTION} == {
        reference.CELLS // 120
    }
    made = pa.table({n: rng.normal(size=1_000) + (n == "x77") for n in table.column_names})
    assert failed(ours(found, DISTRIBUTION), made) == {(DISTRIBUTION, "x77")}


ELSEWHERE = """
import json, sys
import great_expectations as gx, pandas as pd
import validation.reference
context = gx.get_context(mode="file", project_root_dir=sys.argv[1])
suite = context.suites.add(gx.ExpectationSuite(**json.load(open(sys.argv[2]))))
rows = context.data_sources.add_pandas_filesystem("p", base_directory=sys.argv[3]).add_parquet_asset("a")
whole = rows.add_batch_definition_path("b", path="synthetic.parquet")
definition = context.validation_definitions.add(gx.ValidationDefinition(name="v", data=whole, suite=suite))
docs = gx.checkpoint.UpdateDataDocsAction(name="docs")
found = context.checkpoints.add(gx.Checkpoint(name="c", validation_definitions=[definition], actions=[docs])).run()
print(json.dumps([[r.expectation_config.type, r.success] for v in found.run_results.values() for r in v.results]))
"""


def test_a_project_on_a_disk_imports_the_suite_runs_it_and_writes_its_pages(
    exported: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "suite.json").write_text(json.dumps(exported))
    made = changed(HALF.select(NAMES), "note", pa.array([REPLACED] * HALF.num_rows))
    pq.write_table(made, tmp_path / "synthetic.parquet")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "project"), str(tmp_path / "suite.json"), str(tmp_path)],
        capture_output=True, text=True, env={"GX_ANALYTICS_ENABLED": "false", "PATH": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(exported["expectations"])
    assert {kind for kind, success in found if not success} == set()
    pages = "".join(p.read_text("utf-8") for p in (tmp_path / "project").rglob("*.html"))
    for sentence in (
        "must be distributed as in",
        "of their association in",
        "equal rows of",
        "Trees must not",
    ):
        assert sentence in pages


def test_a_kind_that_a_column_cannot_have_is_refused(real: Path) -> None:
    with pytest.raises(InputError, match="numbers or times"):
        reference._column("one", "numerical", pa.string(), pa.nulls(0))
    assert reference._column("n", "numerical", pa.int64(), pa.array([0.5])).type == "double"
    assert reference._column("n", "categorical", pa.large_string(), pa.nulls(0)).type == "string"
