"""Orders and columns that follow from others: found where real rows have them, and their keeping counted."""

import numpy as np
import pyarrow as pa
import pytest

from synth.schema import Schema
from validation.cells import cells_of
from validation.dependencies import dependencies
from validation.evidence import Evidence
from validation.features import Features
from validation.fidelity import measure
from validation.gates import GateRules, verdict_on
from validation.structure import structure

SCHEMA = Schema.model_validate(
    {
        "columns": [
            {"name": "start", "kind": "datetime", "type": "timestamp[s]"},
            {"name": "end", "kind": "datetime", "type": "timestamp[s]"},
            {"name": "small", "kind": "numerical", "type": "double"},
            {"name": "large", "kind": "numerical", "type": "double"},
            {"name": "grade", "kind": "categorical", "type": "string"},
            {"name": "level", "kind": "numerical", "type": "int64"},
            {"name": "who", "kind": "numerical", "type": "int64"},
        ]
    }
)
GRADES = np.array(["a", "b", "c", "d"])


def table(rows: int, seed: int, *, broken: float = 0.0) -> pa.Table:
    """Ends after starts and levels that follow from grades, but for a share of the rows."""
    rng = np.random.default_rng(seed)
    start = np.datetime64("2024-01-01", "s") + rng.integers(0, 10**7, rows).astype("timedelta64[s]")
    took = rng.integers(0, 10**6, rows) * np.where(rng.random(rows) < broken, -1, 1)
    grade = rng.integers(0, 4, rows)
    level = np.where(rng.random(rows) < broken, (grade // 2 + 1) % 2, grade // 2)
    return pa.table(
        {
            "start": pa.array(start),
            "end": pa.array(start + took.astype("timedelta64[s]"), mask=rng.random(rows) < 0.1),
            # One is always less than the other, by what they are and not by rows.
            "small": rng.uniform(0, 1, rows), "large": rng.uniform(5, 6, rows),
            "grade": GRADES[grade], "level": level, "who": np.arange(rows),
        }
    )  # fmt: skip


TRAIN, HOLDOUT, LIKE = table(3000, 0), table(800, 1), table(2000, 2)


def found(train: pa.Table, synthetic: pa.Table) -> dict[tuple[str, str, str], dict[str, float | None]]:
    cells = [cells_of(c, (train, HOLDOUT, synthetic)) for c in SCHEMA]
    return {(d.measure, *d.columns): dict(d.kept) for d in dependencies(cells, seed=0)}


def test_what_real_rows_have_is_found_and_nothing_that_chance_gives() -> None:
    # Each number of a person tells a grade, but no other row says so; small is less than large in any two rows.
    assert found(TRAIN, LIKE) == {
        ("order", "start", "end"): {"train": 1.0, "holdout": 1.0, "synthetic": 1.0},
        ("follows", "grade", "level"): {"train": 1.0, "holdout": 1.0, "synthetic": 1.0},
    }


def test_rows_that_break_one_are_counted() -> None:
    kept = found(TRAIN, table(4000, 3, broken=0.2))
    assert kept["order", "start", "end"]["synthetic"] == pytest.approx(0.8, abs=0.03)
    assert kept["follows", "grade", "level"]["synthetic"] == pytest.approx(0.8, abs=0.03)


def test_real_rows_may_have_an_error_in_a_thousand_and_no_more() -> None:
    assert ("order", "start", "end") in found(table(20_000, 4, broken=0.0005), LIKE)
    assert not found(table(20_000, 4, broken=0.01), LIKE)


def test_few_rows_speak_of_nothing() -> None:
    assert not found(TRAIN.slice(0, 40), LIKE)
    assert found(TRAIN, LIKE.slice(0, 40))["order", "start", "end"]["synthetic"] is None


def test_no_few_rows_of_independent_columns_are_in_order() -> None:
    schema = Schema(columns=tuple(SCHEMA[n] for n in ("small", "large")))
    for seed in range(60):
        rng = np.random.default_rng(seed)
        # Of two rows the first is less than the second in 97.5 of 100 cases.
        sides = [
            pa.table({"small": rng.normal(size=n), "large": rng.normal(2.8, 1, n)}) for n in (60, 60, 60)
        ]
        cells = [cells_of(c, tuple(sides)) for c in schema]
        assert not list(dependencies(cells, seed=0))


def test_values_that_are_all_made_up_keep_nothing() -> None:
    made = LIKE.set_column(LIKE.schema.get_field_index("grade"), "grade", pa.array(["z"] * len(LIKE)))
    assert found(TRAIN, made)["follows", "grade", "level"]["synthetic"] == 0.0


def test_the_gate_warns_of_what_is_broken_and_names_both_columns() -> None:
    def judged(synthetic: pa.Table) -> list[tuple[str, ...]]:
        cells = [cells_of(c, (TRAIN, HOLDOUT, synthetic)) for c in SCHEMA]
        shown = structure(cells, Features.of(cells), seed=0)
        fidelity = measure(TRAIN, HOLDOUT, synthetic, SCHEMA, at_least=10, seed=0)
        said = verdict_on(Evidence(fidelity=fidelity, structure=shown), (), GateRules())
        return [f.columns for f in said.findings if f.rule == "dependency" and f.level == "warning"]

    assert judged(LIKE) == []
    assert sorted(judged(table(2000, 5, broken=0.2))) == [("grade", "level"), ("start", "end")]
