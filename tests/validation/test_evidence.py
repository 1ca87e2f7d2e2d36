"""What comes through the door for evidence: sealed, and of no single unit."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from privacy.curator import ExactCurator
from privacy.errors import LeakRefused
from synth.rows import RawRows, table_source
from synth.schema import Schema
from validation import evidence
from validation.evidence import gather


@pytest.mark.parametrize("unit", [None, "patient"])
def test_a_category_of_one_unit_is_named_only_where_each_row_is_a_unit(unit: str | None) -> None:
    patients = [*range(400), *[400] * 70]
    table = pa.table({"patient": pa.array(patients), "diag": pa.array([*["A", "B"] * 200, *["RAREDX"] * 70])})
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": "patient", "kind": "identifier", "type": "int64"},
                {"name": "diag", "kind": "categorical", "type": "string"},
            ],
            "unit": unit,
        }
    )
    rows = RawRows(schema, table_source(table, batch_rows=100))
    curator = ExactCurator(rows, key=b"k" * 16, holdout=0.0)
    sealed = gather(curator, rows, table.slice(0, 400), schema, at_least=10, seed=0)
    with pytest.raises(LeakRefused):
        sealed.open(formal_guarantee=True)
    found = sealed.open(formal_guarantee=False).fidelity
    assert found.rows_train == 470
    assert ("RAREDX" in json.dumps(found.to_dict())) == (unit is None)


def test_rows_of_one_unit_are_held_out_together_in_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table(
        {"patient": np.repeat(np.arange(300), 2), "cost": np.random.default_rng(0).normal(size=600)}
    )
    told: list[object] = []
    for name in ("measure", "structure"):
        plain = getattr(evidence, name)

        def noted(*given: object, plain: Any = plain, **named: object) -> object:
            told.append(named["held_units"])
            return plain(*given, **named)

        monkeypatch.setattr(evidence, name, noted)
    for unit in (None, "patient"):
        columns = [
            {"name": "patient", "kind": "identifier", "type": "int64"},
            {"name": "cost", "kind": "numerical", "type": "double"},
        ]
        schema = Schema.model_validate({"columns": columns, "unit": unit})
        rows = RawRows(schema, table_source(table, batch_rows=100))
        curator = ExactCurator(rows, key=b"k" * 16, holdout=0.3)
        gather(curator, rows, table, schema, at_least=10, seed=0)
    assert told[:2] == [None, None]
    for units in told[2:]:
        assert len(np.unique(np.asarray(units))) * 2 == len(np.asarray(units))


@pytest.mark.parametrize("unit", [None, "patient"])
def test_attacks_are_sealed_and_guess_about_as_many_units_as_there_are(unit: str | None) -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(600), 3)
    table = pa.table(
        {"patient": patients, "cost": rng.normal(size=1800), "ward": rng.choice(["n", "s"], 1800)}
    )
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": "patient", "kind": "identifier", "type": "int64"},
                {"name": "cost", "kind": "numerical", "type": "double"},
                {"name": "ward", "kind": "categorical", "type": "string"},
            ],
            "unit": unit,
        }
    )
    rows = RawRows(schema, table_source(table, batch_rows=100))
    curator = ExactCurator(rows, key=b"k" * 16, holdout=0.3)
    sealed = gather(curator, rows, table, schema, at_least=10, seed=0)
    with pytest.raises(LeakRefused):
        sealed.open(formal_guarantee=True)
    found = {a.name: a for a in sealed.open(formal_guarantee=False).attacks.done}
    people = 1800 if unit is None else 600
    assert found["membership"].guesses == pytest.approx(0.7 * people, rel=0.1)
    # Every row of everybody is among the synthetic ones, held-out rows too; there is nothing beyond that.
    assert found["linkability"].risk.proven(0.0) <= 0
