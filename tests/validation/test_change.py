"""Two synthetic tables: which columns moved further than chance."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from synth.schema import Column, Schema
from validation.change import AT_ONCE, schema_change, shifts

ROWS = 4_000
SCHEMA = Schema(
    columns=(
        Column(name="age", kind="numerical", type="double"),
        Column(name="city", kind="categorical", type="string"),
        Column(name="shop", kind="categorical", type="string"),
        Column(name="day", kind="datetime", type="timestamp[s]"),
        Column(name="code", kind="identifier", type="string"),
    )
)


def table(
    seed: int, *, older: float = 0.0, south: float = 0.3, gone: float = 0.1, rows: int = ROWS
) -> pa.Table:
    rng = np.random.default_rng(seed)
    age = rng.normal(40 + older, 10, rows)
    return pa.table(
        {
            "age": pa.array(age, mask=rng.random(rows) < gone),
            "city": np.where(rng.random(rows) < south, "south", "north"),
            "shop": [f"shop {i}" for i in rng.integers(0, 200, rows)],
            "day": pa.array(rng.integers(1_500_000_000, 1_600_000_000, rows), pa.timestamp("s")),
            "code": [f"{i}" for i in range(rows)],
        }
    )


@pytest.mark.parametrize("seed", range(20))
def test_two_draws_of_one_table_do_not_move(seed: int) -> None:
    found = shifts(table(seed).select, table(seed + 1_000).select, SCHEMA)
    assert [s.column for s in found if s.moved] == []
    assert {s.column for s in found} == {"age", "city", "shop", "day"}


@pytest.mark.parametrize(
    ("change", "column"), [({"older": 1.5}, "age"), ({"south": 0.36}, "city"), ({"gone": 0.2}, "age")]
)
def test_what_moved_is_found_and_told_first(change: dict[str, float], column: str) -> None:
    first, *others = shifts(table(1).select, table(2, **change).select, SCHEMA)
    assert (first.column, first.moved) == (column, True)
    assert not any(s.moved for s in others)


def test_a_mean_and_the_category_that_moved_most_are_told() -> None:
    found = {s.column: s for s in shifts(table(1).select, table(2, older=5, south=0.5).select, SCHEMA)}
    assert found["age"].figure == "mean"
    assert found["age"].after - found["age"].before == pytest.approx(5, abs=0.8)  # type: ignore[operator]
    assert found["city"].figure in ("south", "north")
    assert found["age"].missing_before == pytest.approx(0.1, abs=0.02)


def test_a_column_without_values_is_no_error() -> None:
    empty = table(1).set_column(0, "age", pa.nulls(ROWS, pa.float64()))
    found = {s.column: s for s in shifts(table(1).select, empty.select, SCHEMA)}
    assert found["age"].after is None
    assert found["age"].moved


def test_columns_that_came_went_and_changed_are_told() -> None:
    after = Schema(
        columns=(
            Column(name="age", kind="numerical", type="int64", max=90),
            Column(name="city", kind="categorical", type="string", categories=("a", "b")),
            Column(name="new", kind="boolean", type="bool"),
        )
    )
    found = schema_change(SCHEMA, after)
    assert found.added == ("new",)
    assert set(found.removed) == {"shop", "day", "code"}
    assert dict(found.changed)["age"] == "type double → int64; max none → 90"
    assert dict(found.changed)["city"] == "categories: 2 new, 0 gone"
    assert schema_change(after, after).none


def test_columns_are_read_a_few_at_a_time_and_only_those_that_are_compared() -> None:
    wide = pa.table({f"x{i}": np.arange(50) for i in range(40)} | {"code": ["a"] * 50})
    schema = Schema.model_validate(
        {
            "columns": [{"name": f"x{i}", "kind": "numerical", "type": "int64"} for i in range(40)]
            + [{"name": "code", "kind": "identifier", "type": "string"}]
        }
    )
    asked: list[list[str]] = []

    def rows(names: Sequence[str]) -> pa.Table:
        asked.append(list(names))
        return wide.select(names)

    assert len(shifts(rows, rows, schema)) == 40
    assert max(len(names) for names in asked) == AT_ONCE
    assert not any("code" in names for names in asked)
