"""What Great Expectations finds in releases that keep their schema, and in such as do not."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import great_expectations as gx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synth.schema import OTHER, REPLACED, Schema
from tests.synth.tables import schema_for
from tests.validation.test_fidelity import HALF, HOLDOUT, SCHEMA, TRAIN, changed, people, schema_of, shuffled
from validation.expectations import Check, ColumnFacts, check, observe, observe_constraints, suite
from validation.fidelity import measure
from validation.gates import GateRules, verdict

RULES = GateRules()
CITY, FLAG = "$city\"'", "<script>alert(1)</script>"
RELEASED = changed(HALF, "note", pa.array([REPLACED] * HALF.num_rows))


def facts_of(table: pa.Table, schema: Schema = SCHEMA, rows: int = 700) -> tuple[ColumnFacts, ...]:
    return observe(table.to_batches(max_chunksize=rows), schema)


def checked(table: pa.Table, schema: Schema = SCHEMA) -> tuple[Check, ...]:
    return check(table, facts_of(table, schema), None, schema, RULES)


def failed(checks: Sequence[Check], level: str = "critical") -> set[tuple[str, ...]]:
    return {c.columns for c in checks if not c.success and c.level == level}


def test_a_release_that_keeps_its_schema_passes_whatever_its_columns_are_called() -> None:
    fidelity = measure(TRAIN, HOLDOUT, RELEASED, SCHEMA, at_least=10, seed=0)
    found = check(RELEASED, facts_of(RELEASED), fidelity, SCHEMA, RULES)
    assert [c for c in found if not c.success and c.level == "critical"] == []
    assert {"schema", "missing", "association", "information", "copies", "shape", "trend", "repeats"} == {
        c.rule for c in found
    }
    assert {
        "ExpectTableColumnsToMatchOrderedList",
        "ExpectColumnValuesToNotBeNull",
        "ExpectColumnValuesToBeBetween",
        "ExpectColumnValuesToBeInSet",
        "ExpectColumnValuesToBeNull",
        "ExpectColumnValuesToMatchRegex",
        "ExpectColumnValuesToBeUnique",
        "ExpectColumnPairValuesToBeEqual",
        "ExpectColumnPairValuesAToBeGreaterThanB",
    } <= {c.expectation for c in found}


def _set(name: str, value: object, *, at: int = 2) -> pa.Table:
    values = RELEASED[name].to_pylist()
    values[at] = value
    return changed(RELEASED, name, pa.array(values, RELEASED[name].type))


@pytest.mark.parametrize(
    ("released", "name"),
    [
        (_set("age", 90), "age"),
        (_set("age", 17), "age"),
        (_set("age", None), "age"),
        (_set(CITY, "$nowhere"), CITY),
        (_set("one", "y"), "one"),
        (_set("void", "full"), "void"),
        (_set("note", "Herr Meier has the flu"), "note"),
        (_set("id", RELEASED["id"][0].as_py()), "id"),
        (_set("id", "Q03000002"), "id"),
        (_set("id", "P03999999\n"), "id"),
        (_set("seen", RELEASED["seen"][0].as_py().replace(year=1950)), "seen"),
        (changed(RELEASED, "age", RELEASED["age"].cast(pa.int32())), "age"),
        (changed(RELEASED, "age", RELEASED["age"].cast(pa.string())), "age"),
        (changed(RELEASED, "wait", RELEASED["wait"].cast(pa.int64())), "wait"),
    ],
)
def test_one_wrong_cell_or_type_is_refused_and_its_column_is_named(released: pa.Table, name: str) -> None:
    found = checked(released)
    assert failed(found) == {(name,)}
    said = verdict(None, found, RULES)
    assert not said.passed
    assert said.summary.startswith("refused by schema")
    assert {f.columns for f in said.critical} == {(name,)}
    assert all("\0" not in f.message and repr(name) in f.message for f in said.critical)


@pytest.mark.parametrize("row", [2, 2999])
def test_a_wrong_value_is_found_in_any_shard(row: int) -> None:
    wrong = _set("age", 90, at=row)
    found = check(RELEASED.slice(0, 100), facts_of(wrong), None, SCHEMA, RULES)
    assert failed(found) == {("age",)}


def test_a_value_off_the_grid_warns() -> None:
    found = checked(_set("in\ncome 🐘", 1.23456))
    assert failed(found) == set()
    assert failed(found, "warning") == {("in\ncome 🐘",)}


def test_the_word_for_pooled_categories_is_a_category() -> None:
    assert failed(checked(_set(CITY, OTHER))) == set()


def test_no_value_is_in_any_message() -> None:
    for released in (_set("note", "Herr Meier"), _set(CITY, "Herr Meier"), _set("void", "Herr Meier")):
        assert not any("Meier" in c.message or "Meier" in str(c.observed) for c in checked(released))


def test_columns_in_another_order_or_absent_or_unknown_are_refused() -> None:
    names = RELEASED.schema.names
    assert () in failed(checked(RELEASED.select(names[::-1])))
    assert {(), ("age",)} <= failed(checked(RELEASED.drop(["age"])))
    assert () in failed(checked(RELEASED.append_column("more", RELEASED["age"])))


def test_a_shard_without_a_column_is_refused() -> None:
    batches = [*RELEASED.slice(0, 100).to_batches(), *RELEASED.slice(100).drop(["age"]).to_batches()]
    found = check(RELEASED.slice(0, 100), observe(batches, SCHEMA), None, SCHEMA, RULES)
    assert ("age",) in failed(found)


def test_an_all_missing_column_does_not_pass_for_want_of_values() -> None:
    empty = changed(RELEASED, CITY, pa.nulls(RELEASED.num_rows, pa.string()))
    fidelity = measure(TRAIN, HOLDOUT, empty, SCHEMA, at_least=10, seed=0)
    found = check(empty, facts_of(empty), fidelity, SCHEMA, RULES)
    assert (CITY,) in {c.columns for c in found if not c.success and c.rule == "missing"}


def test_a_release_without_rows_is_refused() -> None:
    assert failed(checked(RELEASED.slice(0, 0)))
    assert failed(check(RELEASED, (), None, SCHEMA, RULES))


def test_fidelity_thresholds_are_the_gates_own() -> None:
    released = shuffled(RELEASED, "age")
    fidelity = measure(TRAIN, HOLDOUT, released, SCHEMA, at_least=10, seed=0)
    checks = check(released, facts_of(released), fidelity, SCHEMA, RULES)
    assert "age" in {c.columns[0] for c in checks if not c.success and c.rule == "association"}
    assert verdict(fidelity, checks, RULES).critical == verdict(fidelity, (), RULES).critical


def test_the_unit_may_repeat_though_it_is_an_identifier() -> None:
    repeated = changed(RELEASED, "id", pa.array(["P00000001"] * RELEASED.num_rows))
    assert failed(checked(repeated, SCHEMA.model_copy(update={"unit": "id"}))) == set()
    assert failed(checked(repeated)) == {("id",)}


def test_a_wide_table_is_checked_in_chunks() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"$x{i}": pa.array(rng.integers(0, 5, 50)) for i in range(40)})
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": n, "kind": "numerical", "type": "int64", "min": 0, "max": 4}
                for n in table.schema.names
            ]
        }
    )
    assert failed(checked(table, schema)) == set()
    wrong = changed(table, "$x37", pa.array([9] * 50))
    assert failed(checked(wrong, schema)) == {("$x37",)}


def test_types_of_every_sort_are_checked() -> None:
    table = pa.table(
        {
            "u": pa.array([0, 2**64 - 1, None], pa.uint64()),
            "i": pa.array([-(2**63), 2**63 - 1, None]),
            "f": pa.array([0.1, float("nan"), None], pa.float32()),
            "day": pa.array([0, -400_000, None], pa.date32()),
            "at": pa.array([0, 1, None], pa.time64("us")),
            "code": pa.array([1, 2, None], pa.int8()),
            "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
            "key": pa.array([7, 8, 9]),
        }
    )
    facts = {
        "u": ("numerical", {"min": 0, "max": 2**64 - 1}),
        "i": ("numerical", {"min": -(2**63), "max": 2**63 - 1}),
        "f": ("numerical", {"min": 0.1, "max": 0.1, "digits": 1}),
        "day": ("datetime", {"min": "0800-01-01", "max": "1970-01-01T00:00:00"}),
        "at": ("datetime", {"min": "00:00:00"}),
        "code": ("categorical", {"categories": (1, 2)}),
        "dictionary": ("categorical", {"categories": ("a", "b")}),
        "key": ("identifier", {"min": 7, "max": 9}),
    }
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": n, "kind": k, "type": str(table[n].type), **more} for n, (k, more) in facts.items()
            ]
        }
    )
    assert failed(checked(table, schema)) == set()
    seen = {f.name: f for f in facts_of(table, schema, 2)}
    assert (seen["u"].maximum, seen["i"].minimum) == (2**64 - 1, -(2**63))
    assert (seen["f"].missing, seen["f"].rows) == (2, 3)
    assert seen["day"].maximum == "1970-01-01"
    tighter: dict[str, dict[str, object]] = {"i": {"max": 2**63 - 2}, "code": {"categories": (1,)}}
    columns = tuple(c.model_copy(update=tighter.get(c.name, {})) for c in schema)
    tight = schema.model_copy(update={"columns": columns})
    assert failed(checked(table, tight)) == {("i",), ("code",)}


def test_facts_do_not_depend_on_the_shards() -> None:
    assert facts_of(RELEASED, rows=1) == facts_of(RELEASED, rows=3000)


def test_repeated_identifiers_are_counted_as_a_set_would() -> None:
    rng = np.random.default_rng(1)
    ids = [f"P{i:08}" for i in rng.integers(0, 2000, 3000)]
    table = changed(RELEASED, "id", pa.array(ids))
    (found,) = (f for f in facts_of(table) if f.name == "id")
    assert found.repeated == len(ids) - len(set(ids))


def test_our_own_code_warns_of_nothing() -> None:
    small = people(60, seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(small, small, small, schema_of(small), at_least=10, seed=0)
        checked(RELEASED.slice(0, 60))


def test_each_constraint_is_an_expectation_and_a_broken_one_is_named() -> None:
    table = pa.table({"a": [1, 2, 3], "b": [1, 5, 2], "word": ["x", "x", "y"]})
    stated = [
        {"rule": "order", "columns": ["a", "b"]},
        {"rule": "unique", "columns": ["word"]},
        {"rule": "combinations", "columns": ["a", "word"], "values": [[1, "x"], [2, "x"], [3, "y"]]},
        {"rule": "missing", "column": "b", "where": "word", "values": ["z"]},
    ]
    schema = Schema.model_validate({**schema_for(table).model_dump(), "constraints": stated})
    # A repeated value is found across shards, too.
    broken = observe_constraints(table.to_batches(max_chunksize=1), schema)
    assert broken == (1, 1, 0, 0)
    found = check(table, facts_of(table, schema), None, schema, RULES, broken)
    failures = [c for c in found if not c.success]
    assert [(c.columns, c.observed) for c in failures] == [(("a", "b"), 1), (("word",), 1)]
    assert "a <= b: 1 rows break it" in failures[0].message
    assert {c.columns for c in found if c.success and c.limit == 0} >= {("a", "word"), ("b", "word")}


# ------------------------------------------------------------------------------------------ the suite that is exported


def run_elsewhere(exported: dict, frame: pd.DataFrame) -> set[tuple[str, str]]:
    """What fails in a project of its own that knows nothing of ours: (expectation, column)."""
    context = gx.get_context(mode="ephemeral")
    suite = context.suites.add(gx.ExpectationSuite(**json.loads(json.dumps(exported))))
    batch = (
        context.data_sources.add_pandas("p")
        .add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
    )
    results = batch.get_batch({"dataframe": frame}).validate(suite).results
    assert len(results) == len(exported["expectations"])
    return {
        (r.expectation_config.type, r.expectation_config.kwargs.get("column", ""))
        for r in results
        if not r.success
    }


def frame_of(table: pa.Table, tmp_path: Path) -> pd.DataFrame:
    pq.write_table(table, tmp_path / "part.parquet")
    return pd.read_parquet(tmp_path / "part.parquet")


def test_a_suite_is_run_by_a_project_that_knows_nothing_of_ours(tmp_path: Path) -> None:
    plain = Schema(columns=tuple(c for c in SCHEMA if "$" not in c.name))
    rows = RELEASED.select(plain.names)
    exported = suite(plain, "visits")
    assert exported["name"] == "visits"
    assert all("must" in e["meta"]["rule"] for e in exported["expectations"])
    assert run_elsewhere(exported, frame_of(rows, tmp_path)) == set()
    for name, value, broken in (
        ("age", 90, "expect_column_values_to_be_between"),
        ("age", None, "expect_column_values_to_not_be_null"),
        ("one", "y", "expect_column_values_to_be_in_set"),
        ("note", "Herr Meier", "expect_column_values_to_be_in_set"),
        ("void", "full", "expect_column_values_to_be_null"),
        ("id", "Q03000002", "expect_column_values_to_match_regex"),
        ("id", RELEASED["id"][0].as_py(), "expect_column_values_to_be_unique"),
    ):
        assert (broken, name) in run_elsewhere(
            exported, frame_of(_set(name, value).select(plain.names), tmp_path)
        )
    fewer = run_elsewhere(exported, frame_of(rows.drop_columns([plain.names[-1]]), tmp_path))
    assert ("expect_table_columns_to_match_ordered_list", "") in fewer


def test_a_suite_says_what_it_has_no_rule_for() -> None:
    exported = suite(SCHEMA, "visits")
    named = {e["kwargs"].get("column") for e in exported["expectations"]}
    assert CITY not in named
    assert f"{CITY}: all rules" in exported["meta"]["left_out"]
    assert "seen: ExpectColumnValuesToBeBetween" in exported["meta"]["left_out"]
