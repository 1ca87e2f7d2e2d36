"""Which tables pass the gate and which do not, and what the verdict says of them."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from privacy.estimate import Estimate
from synth.schema import Schema
from tests.validation.test_fidelity import HALF, HOLDOUT, SCHEMA, TRAIN, changed, people, shuffled
from validation.cells import cells_of
from validation.detection import Detection
from validation.evidence import Evidence
from validation.features import Features
from validation.fidelity import ColumnFidelity, Fidelity, LostGroup, PairFidelity, measure
from validation.gates import (
    LISTED,
    Finding,
    GateRules,
    Verdict,
    lost_by_chance,
    measures,
    verdict,
    verdict_on,
)
from validation.structure import structure
from validation.utility import Score, Task, Utility

RULES = GateRules()
CITY, INCOME = "$city\"'", "in\ncome 🐘"


def judged(synthetic: pa.Table, rules: GateRules = RULES) -> Verdict:
    return verdict(measure(TRAIN, HOLDOUT, synthetic, SCHEMA, at_least=10, seed=0), (), rules)


def broken(found: Verdict) -> set[tuple[str, str]]:
    return {(f.rule, c) for f in found.critical for c in (f.columns or ("",))}


@pytest.mark.parametrize("rows", [20, 100, 3000])
def test_real_rows_pass(rows: int) -> None:
    assert judged(HALF.slice(0, rows)).passed


@settings(max_examples=10, deadline=None)
@given(st.integers(10, 60))
def test_real_rows_of_a_small_table_pass(seed: int) -> None:
    train, holdout, synthetic = (people(n, seed=seed + i) for i, n in enumerate((150, 60, 150)))
    found = verdict(measure(train, holdout, synthetic, SCHEMA, at_least=10, seed=0), (), RULES)
    assert found.passed, found.summary


def test_a_shuffled_column_is_refused_and_named() -> None:
    found = judged(shuffled(HALF, "age"))
    assert ("association", "age") in broken(found)
    assert "'age'" in found.summary
    assert {rule for rule, _ in broken(found)} == {"association"}


def test_a_lost_category_is_refused_and_named() -> None:
    found = judged(HALF.filter(pa.array([v != "Oslo" for v in HALF[CITY].to_pylist()])))
    assert ("category", CITY) in broken(found)
    assert "'Oslo'" in next(f.message for f in found.critical if f.rule == "category")


def test_a_category_that_so_few_rows_may_well_miss_only_warns() -> None:
    found = judged(HALF.filter(pa.array([v != "Oslo" for v in HALF[CITY].to_pylist()])).slice(0, 12))
    assert not {rule for rule, _ in broken(found)} & {"category"}


def test_missing_values_that_are_gone_are_refused_and_named() -> None:
    full = changed(HALF, INCOME, pa.array([40_000.0 if v is None else v for v in HALF[INCOME].to_pylist()]))
    found = judged(full)
    assert ("missing", INCOME) in broken(found)
    assert found.summary.count("\n") == 0


@pytest.mark.parametrize("share", [0.02, 0.1, 1.0])
def test_copies_of_training_rows_are_refused(share: float) -> None:
    count = int(share * TRAIN.num_rows)
    mixed = pa.concat_tables([TRAIN.slice(0, count), HALF.slice(0, HALF.num_rows - count)])
    assert ("copies", "") in broken(judged(mixed)) <= {("copies", ""), ("copies", "note")}


def test_copies_that_chance_gives_pass_where_few_distinct_rows_exist() -> None:
    def table(rows: int, seed: int) -> pa.Table:
        rng = np.random.default_rng(seed)
        return pa.table(
            {k: pa.array(rng.choice(list("abcd"), rows, p=[0.7, 0.2, 0.08, 0.02])) for k in "xyz"}
        )

    schema = Schema.model_validate(
        {"columns": [{"name": k, "kind": "categorical", "type": "string"} for k in "xyz"]}
    )
    found = measure(table(2000, 1), table(500, 2), table(5000, 3), schema, at_least=10, seed=0)
    assert found.copies is not None
    assert found.copies > 0.9
    assert verdict(found, (), RULES).passed


def hourly(rows: int, *, seed: int, stores: str = "ab") -> tuple[pa.Table, pa.Table, pa.Table, Schema]:
    """Hours that are unique, so that held-out rows cannot have one, and a store; then good synthetic rows."""
    rng = np.random.default_rng(seed)

    def table(hours: np.ndarray) -> pa.Table:
        at = np.datetime64("2024-01-01", "s") + hours.astype("timedelta64[h]")
        return pa.table({"at": pa.array(at), "store": pa.array(rng.choice(list(stores), len(hours)))})

    hours = rng.permutation(rows)
    cut = int(0.8 * rows)
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": "at", "kind": "datetime", "type": "timestamp[s]"},
                {"name": "store", "kind": "categorical", "type": "string"},
            ]
        }
    )
    return table(hours[:cut]), table(hours[cut:]), table(rng.integers(0, rows, rows)), schema


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_a_unique_hour_that_chance_hits_passes_and_copied_rows_do_not(seed: int) -> None:
    train, holdout, good, schema = hourly(4000, seed=seed)

    def copies(synthetic: pa.Table) -> list[str]:
        found = verdict(measure(train, holdout, synthetic, schema, at_least=10, seed=0), (), RULES)
        return [f.rule for f in found.critical if f.rule == "copies"]

    assert copies(good) == []
    assert copies(train) == ["copies"]
    mixed = pa.concat_tables([train.slice(0, 1000), good.slice(0, 3000)])
    assert copies(mixed) == ["copies"]


def test_without_held_out_rows_copies_warn() -> None:
    found = verdict(measure(TRAIN, HOLDOUT.slice(0, 0), TRAIN, SCHEMA, at_least=10, seed=0), (), RULES)
    assert ("copies", "warning") in {(f.rule, f.level) for f in found.findings}


# ── thresholds, by hand ─────────────────────────────────────────────────────────────────────────────────────


def one(**changes: object) -> Fidelity:
    """A fidelity of one column, good but for the changes."""
    column = ColumnFidelity(
        name="c", kind="categorical", shape=0.95, shape_ceiling=0.97, missing_real=0.2, missing_synthetic=0.2,
        missing_holdout=0.2, lost=(), strongest="d", association_real=0.6, association_synthetic=0.6,
        association_holdout=0.6,
    )  # fmt: skip
    names = {k: v for k, v in changes.items() if k in ColumnFidelity.__dataclass_fields__}
    good = Fidelity(
        rows_train=10_000, rows_holdout=2_500, rows_synthetic=10_000, shape=0.95, trend=0.9,
        shape_ceiling=0.97, trend_ceiling=0.95, copies=0.01, copies_holdout=0.01,
        columns=(replace(column, **names),), pairs=(), overlays=(),
        copies_rare=0.01, copies_rare_holdout=0.01,
    )  # fmt: skip
    return replace(good, **{k: v for k, v in changes.items() if k not in names})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, None),
        ({"missing_synthetic": 0.25}, None),
        ({"missing_synthetic": 0.27}, "missing"),
        ({"missing_synthetic": 0.13}, "missing"),
        ({"missing_synthetic": 0.0, "missing_real": 0.0009}, None),
        ({"missing_synthetic": 0.0, "missing_real": 0.0011}, "missing"),
        ({"association_synthetic": 0.27}, None),
        ({"association_synthetic": 0.25}, "association"),
        ({"association_synthetic": 0.0, "association_real": 0.11}, "association"),
        ({"association_synthetic": 0.0, "association_real": 0.09}, None),
        ({"association_synthetic": 0.0, "association_holdout": 0.2}, None),
        ({"lost": (("x", 0.0009),)}, None),
        ({"lost": (("x", 0.0011),)}, "category"),
        ({"lost": (("x", 0.0011),), "sizes": (0, 0, 900)}, None),
        ({"lost": (("x", 0.03),), "noised": True}, None),
        ({"lost": (("x", 0.06),), "noised": True}, "category"),
        ({"groups": (LostGroup(columns=("c", "d"), values=("x", "y"), share=0.009),)}, None),
        ({"groups": (LostGroup(columns=("c", "d"), values=("x", "y"), share=0.011),)}, "group"),
        ({"shape": 0.71}, None),
        ({"shape": 0.69}, "shape"),
        ({"shape": 0.1, "pooled": 0.65}, None),
        ({"shape": 0.1, "pooled": 0.55}, "shape"),
        ({"copies": 0.018, "copies_rare": 0.018}, None),
        ({"copies": 0.025, "copies_rare": 0.025}, "copies"),
        ({"copies": 0.5, "copies_rare": 0.01}, None),
        (
            {"copies": 0.42, "copies_holdout": 0.44, "copies_rare": 0.1, "copies_rare_holdout": 0.001},
            "copies",
        ),
        ({"copies": 0.5, "copies_rare": None}, "copies"),
        ({"copies": 0.018, "copies_rare": None, "copies_rare_holdout": None}, None),
        ({"copies_rare": 0.4, "copies_rare_moved": 0.4}, None),
        ({"copies_rare": 0.5, "copies_rare_moved": 0.4}, "copies"),
    ],
)
def test_a_near_miss_passes_and_a_breach_is_refused(changes: dict[str, object], rule: str | None) -> None:
    found = verdict(one(**changes), (), RULES)
    assert [f.rule for f in found.critical] == ([rule] if rule else [])


def test_a_rule_that_a_recipe_softens_only_warns() -> None:
    found = verdict(one(missing_synthetic=0.9), (), GateRules(warn_only=("missing",)))
    assert found.passed
    assert [f.rule for f in found.warnings] == ["missing"]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValidationError, match="a rule must be one of"):
        GateRules(warn_only=("speed",))


def test_many_warnings_are_listed_worst_first_and_then_counted() -> None:
    pairs = tuple(
        PairFidelity(
            first="a", second=f"b{i}", trend=0.5 - i / 1000, trend_ceiling=0.9, association_real=0.5,
            association_synthetic=0.4,
        )
        for i in range(40)
    )  # fmt: skip
    found = verdict(one(pairs=pairs), (), RULES)
    assert found.passed
    assert len(found.warnings) == LISTED + 1
    assert found.warnings[0].columns == ("a", "b39")
    assert "30 more" in found.warnings[-1].message
    assert found.summary == "passed with 11 warnings"


@pytest.mark.parametrize("synthetic", [HALF, shuffled(HALF, "age")])
def test_a_verdict_survives_json(synthetic: pa.Table) -> None:
    found = judged(synthetic)
    assert Verdict.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_summary_is_one_line_whatever_the_names_are() -> None:
    finding = Finding(
        rule="schema", level="critical", columns=("a\n\x1b[31m",), message="m 'a\\n'", value=1.0, limit=0.0
    )
    summary = Verdict(findings=(finding,)).summary
    assert summary.isprintable()
    assert summary.startswith("refused by schema (a")


def test_every_measure_is_a_number_beside_a_number() -> None:
    held = measures(measure(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=10, seed=0), RULES)
    assert {m.rule for m in held} == {
        "copies",
        "missing",
        "association",
        "information",
        "shape",
        "trend",
        "repeats",
    }
    assert all(np.isfinite([m.value, m.limit]).all() for m in held)
    assert sum(m.rule == "missing" for m in held) == 2 * len(SCHEMA)


# ── damage and chance ───────────────────────────────────────────────────────────────────────────────────────


def test_rows_of_a_group_that_never_come_are_refused_and_named() -> None:
    both = zip(HALF[CITY].to_pylist(), HALF["<script>alert(1)</script>"].to_pylist(), strict=True)
    found = judged(HALF.filter(pa.array([pair != ("Köln", True) for pair in both])))
    assert {f.rule for f in found.critical} == {"group"}
    assert "'Köln'" in found.critical[0].message


def test_a_model_that_collapsed_is_refused() -> None:
    rng = np.random.default_rng(0)
    assert "shape" in {r for r, _ in broken(judged(HALF.take(rng.integers(0, 5, HALF.num_rows))))}


def test_one_copy_in_a_hundred_is_refused() -> None:
    count = HALF.num_rows // 100
    mixed = pa.concat_tables([TRAIN.slice(0, count), HALF.slice(0, HALF.num_rows - count)])
    assert ("copies", "") in broken(judged(mixed)) <= {("copies", ""), ("copies", "note")}


def test_a_rare_category_that_is_lost_is_refused() -> None:
    odd = np.arange(TRAIN.num_rows) % (TRAIN.num_rows // 12) == 0
    rare = [("Ilanz" if o else v) for o, v in zip(odd, TRAIN[CITY].to_pylist(), strict=True)]
    found = verdict(
        measure(changed(TRAIN, CITY, pa.array(rare)), HOLDOUT, HALF, SCHEMA, at_least=10, seed=0), (), RULES
    )
    assert ("category", CITY) in broken(found)


def test_categories_that_chance_loses_are_as_many_as_a_simulation_says() -> None:
    rng = np.random.default_rng(0)
    rates = np.concatenate([np.full(300, 6.0), np.full(40, 12.0)])
    lost = 0
    for _ in range(2_000):
        train, made = rng.poisson(rates), rng.poisson(rates)
        lost += int(((train >= 10) & (made == 0)).sum())
    fidelity = one(sizes=(0, 0, 300, 40), rows_synthetic=10_000)
    assert lost_by_chance(10, fidelity) == pytest.approx(lost / 2_000, rel=0.3)


def test_a_level_that_is_critical_is_not_said_to_warn_as_well() -> None:
    found = verdict(one(missing_synthetic=0.9, shape=0.1), (), RULES)
    assert sorted(f.rule for f in found.findings) == ["missing", "shape"]


def test_a_column_that_is_pooled_for_the_most_part_warns_and_says_so() -> None:
    (found,) = verdict(one(shape=0.1, pooled=0.87), (), RULES).findings
    assert (found.rule, found.level) == ("shape", "warning")
    assert "87 % of its values are too rare to be released" in found.message


def test_a_few_rows_are_not_held_to_the_ceiling_of_many() -> None:
    assert not verdict(one(shape=0.7, rows_synthetic=100), (), RULES).findings
    assert {f.rule for f in verdict(one(shape=0.7), (), RULES).findings} == {"shape"}


FIGURE = Estimate(value=0.9, low=0.88, high=0.92, surely=0.86)


@pytest.mark.parametrize(
    ("gap", "named", "levels"),
    [(0.15, True, []), (0.3, True, ["critical"]), (0.3, False, ["warning"])],
)
def test_a_named_target_must_be_taught(gap: float, named: bool, levels: list[str]) -> None:
    lost = Estimate(value=gap, low=gap - 0.02, high=gap + 0.02, surely=gap - 0.04)
    score = Score(model="trees", synthetic=FIGURE, real=FIGURE, gap=lost)
    task = Task(
        target="c", measure="AUC", named=named, rows=10, scores=(score,), ranking=None, ranking_ceiling=None,
        features=(),
    )  # fmt: skip
    found = verdict(one(), (), RULES, utility=Utility(tasks=(task,)))
    assert [(f.rule, f.level) for f in found.findings] == [("utility", level) for level in levels]


@pytest.mark.parametrize(("area", "warns"), [(0.76, False), (0.78, True)])
def test_rows_that_are_surely_told_apart_warn(area: float, warns: bool) -> None:
    auc = Estimate(value=area, low=area - 0.02, high=area + 0.02, surely=area - 0.04)
    told = Detection(rows=900, auc=auc, ceiling=None, told=0.1, giveaways=(("c", 0.2),))
    found = verdict(one(), (), RULES, detection=told)
    assert [(f.rule, f.level, f.columns) for f in found.findings] == [
        ("detection", "warning", ("c",))
    ] * warns


def test_damage_that_no_association_sees_is_refused() -> None:
    rng = np.random.default_rng(0)
    schema = Schema.model_validate(
        {"columns": [{"name": n, "kind": "numerical", "type": "double"} for n in ("x", "y", "u", "v")]}
    )

    def table(rows: int) -> pa.Table:
        x = rng.normal(size=rows)
        gone = rng.random(rows) < 0.4
        columns = {
            "x": x,
            "y": x**2 + rng.normal(0, 0.1, rows),
            "u": rng.normal(size=rows),
            "v": rng.normal(size=rows),
        }
        return pa.table({n: pa.array(c, mask=gone if n in "uv" else None) for n, c in columns.items()})

    train, holdout, like = table(3000), table(1500), table(3000)

    def broken(synthetic: pa.Table) -> set[str]:
        cells = [cells_of(c, (train, holdout, synthetic)) for c in schema]
        evidence = Evidence(
            fidelity=measure(train, holdout, synthetic, schema, at_least=10, seed=0),
            structure=structure(cells, Features.of(cells), seed=0),
        )
        said = verdict_on(evidence, (), GateRules())
        return {f.rule for f in said.critical} | {f.rule for f in said.warnings if f.rule == "information"}

    def shuffled_alone(name: str) -> pa.Table:
        at = like.schema.get_field_index(name)
        return like.set_column(at, name, like[name].take(pa.array(rng.permutation(len(like)))))

    assert broken(like) == set()
    assert broken(shuffled_alone("y")) == {"information"}
    # Both are missing as often as before, but no longer together.
    assert "missing" in broken(shuffled_alone("v"))
    assert broken(like.take(pa.array(rng.integers(0, 100, 3000)))) == {"repeats"}


def test_a_noised_missing_rate_warns_and_refuses_nothing() -> None:
    found = measure(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=10, seed=0)
    worst = tuple(replace(c, missing_real=0.9) for c in found.columns)
    exact = verdict(replace(found, columns=worst), (), GateRules())
    noised = verdict(replace(found, columns=worst, noised=True), (), GateRules())
    assert any(f.rule == "missing" for f in exact.critical)
    assert not any(f.rule == "missing" for f in noised.critical)
    assert any("noised count" in f.message for f in noised.warnings if f.rule == "missing")


def test_real_names_in_a_text_are_refused_and_made_up_ones_are_not() -> None:
    schema = Schema.model_validate(
        {"columns": [
            {"name": "age", "kind": "numerical", "type": "int64"},
            {"name": "mail", "kind": "text", "type": "string", "action": "replace"},
        ]}
    )  # fmt: skip

    def table(rows: int, start: int) -> pa.Table:
        ages = np.random.default_rng(start).integers(18, 90, rows)
        return pa.table({"age": ages, "mail": [f"{i}@mail" for i in range(start, start + rows)]})

    train, holdout = table(1000, 0), table(500, 1000)

    def refused(synthetic: pa.Table) -> set[tuple[str, ...]]:
        found = verdict(measure(train, holdout, synthetic, schema, at_least=10, seed=0), (), RULES)
        return {f.columns for f in found.critical if f.rule == "copies"}

    assert refused(table(1000, 5000)) == set()
    # The addresses of others: no row as a whole is anybody's.
    moved = train.set_column(1, "mail", pa.chunked_array([pa.array(np.roll(train["mail"].to_pylist(), 1))]))
    assert ("mail",) in refused(moved)
    assert ("mail",) in refused(pa.concat_tables([table(950, 5000), moved.slice(0, 50)]))
