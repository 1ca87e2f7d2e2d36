"""Arrow batches as the arrays of a curator, and the store of recoded rows."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.curator import Batch
from privacy.errors import InputError
from synth.rows import HELD_OUT, EncodedStore, RawRows, open_store, table_source
from synth.schema import REPLACED
from tests.synth.tables import mixed, mixed_schema, schema_for


def units_of(table: pa.Table, unit: str | None, *, batch_rows: int = 7) -> NDArray[np.uint64]:
    rows = RawRows(schema_for(table, unit=unit), table_source(table, batch_rows=batch_rows))
    return np.concatenate([b.unit for b in rows.batches(columns=())])


UNITS = {
    pa.string(): st.text(max_size=3),
    pa.int64(): st.integers(-(2**62), 2**62) | st.integers(-2, 2),
    pa.uint64(): st.integers(2**63, 2**64 - 2) | st.integers(0, 2),
    pa.float64(): st.sampled_from([0.5, 1.5, -3.0]),
    pa.date32(): st.dates(),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", "b", "ä"]),
}


@pytest.mark.parametrize("type", UNITS, ids=str)
@given(data=st.data())
def test_rows_are_of_one_unit_exactly_if_they_have_the_same_present_value(
    type: pa.DataType, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.none() | UNITS[type], min_size=1, max_size=25))
    plain = pa.array(values, type.value_type if pa.types.is_dictionary(type) else type)
    array = plain.dictionary_encode().cast(type) if pa.types.is_dictionary(type) else plain
    units = units_of(pa.table({"who": array}), "who")
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            same = i == j or (one is not None and one == other)
            assert (units[i] == units[j]) == same


def test_units_have_the_numbers_that_ledgers_know_them_by() -> None:
    # Another number for the same unit would make it new to every ledger, which then lets it pay twice.
    words, numbers = (units_of(pa.table({"who": pa.array(v)}), "who") for v in (["P1", "P2"], [1, 2]))
    assert words.tolist() == [12321938259116050432, 11320014840947554304]
    assert numbers.tolist() == [14527792480392477576, 16706431460607536361]


def test_a_unit_that_is_not_a_number_is_no_unit_that_rows_share() -> None:
    units = units_of(pa.table({"who": pa.array([math.nan, math.nan, 1.0, None])}), "who")
    assert len(set(units.tolist())) == 4


def test_without_a_unit_column_each_row_is_a_unit_numbered_through_all_batches() -> None:
    assert units_of(pa.table({"x": range(20)}), None).tolist() == list(range(20))


@given(st.integers(1, 30), st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=30))
def test_units_do_not_depend_on_how_the_rows_are_cut_into_batches(cut: int, values: list[str]) -> None:
    table = pa.table({"who": values})
    np.testing.assert_array_equal(
        units_of(table, "who", batch_rows=cut), units_of(table, "who", batch_rows=1000)
    )


def test_only_the_columns_that_are_asked_for_are_read() -> None:
    table = mixed(30)
    asked: list[list[str]] = []

    def source(columns: Sequence[str]):  # type: ignore[no-untyped-def]
        asked.append(list(columns))
        return table_source(table)(columns)

    rows = RawRows(mixed_schema(table), source)
    (batch,) = rows.batches(columns=["age", "city"])
    assert set(batch.columns) == {"age", "city"}
    assert asked == [["age", "city"]]
    assert sum(len(b) for b in rows.batches(columns=())) == 30


def test_of_identifiers_and_texts_only_the_missing_pattern_is_read() -> None:
    table = mixed(50)
    rows = RawRows(mixed_schema(table), table_source(table))
    (batch,) = rows.batches()
    for name in ("id", "note"):
        assert set(np.unique(batch.columns[name]).tolist()) <= {0, int(np.iinfo(np.int64).min)}
        assert name not in rows.dictionaries or len(rows.dictionaries[name]) == 0


def test_the_source_may_say_itself_what_is_held_out() -> None:
    held = [True, False] * 10
    table = pa.table({"x": range(20), HELD_OUT: held})
    rows = RawRows(schema_for(table.select(["x"])), table_source(table, batch_rows=3), marked=True)
    found = [h for b in rows.batches() for h in b.holdout.tolist()]  # type: ignore[union-attr]
    assert found == held


def test_evidence_gets_the_rows_back_as_a_table() -> None:
    table = mixed(50)
    rows = RawRows(mixed_schema(table), table_source(table, batch_rows=8))
    back = rows.table(rows.batches())
    assert back.schema.equals(table.schema)
    for name in table.schema.names:
        expected = table.column(name).to_pylist()
        if name in ("id", "note"):
            expected = [None if v is None else REPLACED for v in expected]
        assert back.column(name).to_pylist() == expected


# --------------------------------------------------------------------------------------------------- store


def batch_of(unit: NDArray[np.uint64], *, start: int = 0) -> Batch:
    row = np.arange(start, start + len(unit), dtype=np.int64)
    return Batch(unit=unit, columns={"row": row, "wide": np.stack([row, -row], 1)}, holdout=row % 3 == 0)


def stored(folder: Path | None, rows: int, *, batch: int = 1000):  # type: ignore[no-untyped-def]
    store = EncodedStore(folder, unit_is_row=True)
    for start in range(0, rows, batch):
        units = np.arange(start, min(rows, start + batch), dtype=np.uint64)
        store.write(batch_of(units, start=start))
    return store.close()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 20))
def test_a_store_gives_back_every_row_once_with_all_that_belongs_to_it(units: list[int], cut: int) -> None:
    store = EncodedStore(None, unit_is_row=False)
    for start in range(0, len(units), cut):
        store.write(batch_of(np.array(units[start : start + cut], np.uint64), start=start))
    found = [
        (int(row), int(unit), bool(held), wide.tolist())
        for b in store.close().batches()
        for row, unit, held, wide in zip(b.columns["row"], b.unit, b.holdout, b.columns["wide"], strict=True)  # type: ignore[arg-type]
    ]
    assert sorted(found) == [(i, u, i % 3 == 0, [i, -i]) for i, u in enumerate(units)]


ROWS = 20_000


def test_any_stretch_of_a_store_is_a_fair_sample_of_all_rows() -> None:
    order = np.concatenate([b.columns["row"] for b in stored(None, ROWS).batches()])

    def chi_square(rows: NDArray[np.int64]) -> float:
        stretches = np.stack(
            [np.bincount(rows[i : i + 2000] // 1000, minlength=20) for i in range(0, ROWS, 2000)]
        )
        return float(((stretches - 100.0) ** 2 / 100).sum())

    # 9 × 19 degrees of freedom: mean 171, standard deviation 18.5.
    assert chi_square(order) < 171 + 6 * 18.5
    # Rows that are only half shuffled would be seen.
    half = np.where(np.arange(ROWS) % 2 == 0, np.arange(ROWS), order)
    assert chi_square(half) > 171 + 6 * 18.5


@given(st.integers(1, 3000))
def test_batches_of_a_store_are_as_large_as_wished_and_hold_the_same_rows(size: int) -> None:
    store = stored(None, 3000)
    batches = list(store.batches(size=size))
    assert max(len(b) for b in batches) <= size
    np.testing.assert_array_equal(
        np.concatenate([b.unit for b in batches]), np.concatenate([b.unit for b in store.batches()])
    )


def test_the_order_of_a_store_does_not_depend_on_how_rows_came_in() -> None:
    one = [b.unit.tolist() for b in stored(None, 3000, batch=3000).batches()]
    assert [b.unit.tolist() for b in stored(None, 3000, batch=17).batches()] == one


def test_files_hold_what_memory_holds_and_can_be_opened_again(tmp_path: Path) -> None:
    memory, files = stored(None, 5000), stored(tmp_path / "encoded", 5000)
    again = open_store(tmp_path / "encoded", unit_is_row=True)
    assert again.unit_is_row
    assert len(memory) == len(files) == len(again) == 5000
    for first, *others in zip(memory.batches(), files.batches(), again.batches(), strict=True):
        for other in others:
            np.testing.assert_array_equal(first.unit, other.unit)
            np.testing.assert_array_equal(first.holdout, other.holdout)  # type: ignore[arg-type]
            for name in ("row", "wide"):
                np.testing.assert_array_equal(first.columns[name], other.columns[name])
    assert sorted(p.name for p in (tmp_path / "encoded").iterdir()) == [
        "holdout.npy",
        "row.npy",
        "unit.npy",
        "wide.npy",
    ]


def test_a_store_without_rows_or_without_a_holdout_is_refused() -> None:
    with pytest.raises(InputError, match="it has none"):
        EncodedStore(None, unit_is_row=True).close()
    with pytest.raises(ValueError, match="holdout is None"):
        EncodedStore(None, unit_is_row=True).write(Batch(unit=np.zeros(1, np.uint64), columns={}))
