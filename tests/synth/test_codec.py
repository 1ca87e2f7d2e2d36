"""Rows that go through the codec and come back."""

import datetime
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from privacy.errors import ConditionError, InputError
from synth.codec import UNKNOWN, Codec, Encoded, plain
from synth.keys import from_keys, to_keys
from synth.schema import OTHER, REPLACED, Schema
from tests.synth.tables import coded, learned, mixed, mixed_schema, schema_for

ROWS = 800
SEEDS = st.integers(0, 2**32 - 1)


def through(table: pa.Table, schema: Schema | None = None, *, at_least: int = 10) -> pa.Table:
    """A table that was learned, encoded and decoded."""
    codec = learned(table, schema or schema_for(table), at_least=at_least).codec
    return codec.decode(codec.encode(table))


# --------------------------------------------------------------------------------------------------- round trip

days = st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1))
instants = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))
FEW = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63) + 1, 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 2),
    pa.float16(): st.sampled_from([i / 4 - 3 for i in range(60)]),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=4) | st.sampled_from(["007", "0", "00", " 7", "NA", "null", ""]),
    pa.large_string(): st.text(max_size=4),
    pa.decimal128(10, 2): st.integers(-(10**9), 10**9).map(lambda u: Decimal(u).scaleb(-2)),
    pa.decimal64(9, 0): st.integers(-(10**8), 10**8).map(Decimal),
    pa.date32(): days,
    pa.date64(): days,
    pa.time32("s"): st.times().map(lambda t: t.replace(microsecond=0)),
    pa.time64("us"): st.times(),
    pa.timestamp("s"): instants.map(lambda t: t.replace(microsecond=0)),
    pa.timestamp("us"): instants,
    pa.timestamp("ns"): instants,
    pa.timestamp("ns", "Europe/Berlin"): instants.map(lambda t: t.replace(tzinfo=datetime.UTC)),
    pa.timestamp("ms", "UTC"): instants.map(lambda t: t.replace(microsecond=0, tzinfo=datetime.UTC)),
    pa.duration("s"): st.integers(-(10**9), 10**9).map(lambda s: datetime.timedelta(seconds=s)),
    pa.duration("us"): st.timedeltas(datetime.timedelta(-999), datetime.timedelta(999)),
    pa.dictionary(pa.int8(), pa.string()): st.text(max_size=4),
    pa.dictionary(pa.int32(), pa.int64()): st.integers(-9, 9),
}


@pytest.mark.parametrize("type", FEW, ids=str)
@settings(max_examples=20)
@given(data=st.data())
def test_a_column_of_few_values_comes_back_unchanged(type: pa.DataType, data: st.DataObject) -> None:
    values = data.draw(st.lists(FEW[type], min_size=1, max_size=6))
    cells = data.draw(st.lists(st.none() | st.sampled_from(values), min_size=2, max_size=40))
    value_type = type.value_type if pa.types.is_dictionary(type) else type
    plain_array = pa.array(
        [np.float16(c) if c is not None else None for c in cells] if type == pa.float16() else cells,
        value_type,
    )
    array = plain_array.dictionary_encode().cast(type) if pa.types.is_dictionary(type) else plain_array
    table = pa.table({"x": array})
    back = through(table, at_least=0)
    assert back.column("x").type == type
    assert back.column("x").to_pylist() == table.column("x").to_pylist()


def test_every_kind_of_column_keeps_type_and_missing_pattern() -> None:
    table = mixed(ROWS)
    back = through(table, mixed_schema(table))
    assert back.schema.names == table.schema.names
    for name in table.schema.names:
        before, after = table.column(name).combine_chunks(), back.column(name).combine_chunks()
        assert after.type == before.type
        assert after.is_null().equals(before.is_null())


def test_atoms_and_categories_come_back_exactly() -> None:
    table = mixed(ROWS)
    back = through(table, mixed_schema(table))
    for name in ("city", "member", "grade", "one", "void"):
        assert back.column(name).to_pylist() == table.column(name).to_pylist()
    zero = np.array(table.column("income").to_pylist(), float) == 0
    assert (np.array(back.column("income").to_pylist(), float)[zero] == 0).all()


def test_what_a_curator_recodes_is_what_encode_gives() -> None:
    table = mixed(ROWS)
    known = learned(table, mixed_schema(table), batch_rows=77)
    one, two = coded(known), known.codec.encode(table)
    np.testing.assert_array_equal(one.states, two.states)
    np.testing.assert_array_equal(one.scores, two.scores)


def test_leading_zeros_survive() -> None:
    table = pa.table({"zip": ["007", "07", "7", "0301"] * 20})
    assert through(table).equals(table)


def test_integers_beyond_floats_survive() -> None:
    exact = pa.table({"x": [2**53 + i for i in range(20)] * 10})
    assert through(exact).equals(exact)
    rng = np.random.default_rng(0)
    many = 2**62 + rng.integers(0, 50_000, 1000)
    back = through(pa.table({"x": many})).column("x").to_numpy()
    inner = (many >= np.sort(many)[9]) & (many <= np.sort(many)[-10])
    assert np.abs(back - many)[inner].max() <= 2


SHAPES = ["normal", "lognormal", "cauchy", "uniform", "mixture", "tiny", "huge"]


def numbers(shape: str, rng: np.random.Generator, rows: int) -> np.ndarray:
    x = rng.standard_normal(rows)
    made = {
        "normal": x,
        "lognormal": np.exp(3 * x),
        "cauchy": rng.standard_cauchy(rows),
        "uniform": rng.uniform(-1, 1, rows),
        "mixture": np.where(rng.random(rows) < 0.5, x, 1e6 + x),
        "tiny": x * 1e-310,
        "huge": x * 1e300,
    }
    return made[shape]


@pytest.mark.parametrize("form", ["float", "integer", "time", "duration"])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=3)
@given(seed=SEEDS)
def test_what_is_spread_comes_back_close_to_its_place_in_its_cell(shape: str, form: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = numbers(shape, rng, 1000)
    array = pa.array(values)
    if form != "float":
        array = pa.array((values / np.abs(values).max() * 2**61).astype(np.int64))
        array = array.view(
            {"integer": pa.int64(), "time": pa.timestamp("ns"), "duration": pa.duration("us")}[form]
        )
    table = pa.table({"x": array})
    known = learned(table, schema_for(table))
    back = to_keys(known.codec.decode(known.codec.encode(table)).column("x").combine_chunks())
    keys = to_keys(array)
    edges = np.array(known["x"].edges, np.int64)
    inner = (keys >= edges[0]) & (keys < edges[-1])
    kept = np.clip(keys, edges[0], edges[-1] - 1)
    cell = np.searchsorted(edges, kept, side="right") - 1
    if form == "float":
        place, reals, ends = (from_keys(k, pa.float64()).to_numpy() for k in (kept, back, edges))
        with np.errstate(over="ignore"):
            width = np.diff(ends)[cell]
        error = np.abs(reals / 2 - place / 2) * 2
    else:
        error = np.abs((back - kept).astype(object)).astype(float)
        width = np.diff(edges.astype(object)).astype(float)[cell]
    assert (error <= 0.01 * width + (2 if form != "float" else 0))[inner].all()
    # What was cut comes back in the outermost cells.
    back_cell = np.searchsorted(edges, back, side="right") - 1
    assert (back_cell[~inner] == cell[~inner]).all()


@pytest.mark.parametrize("low", [0.0, -60.0])
def test_a_column_that_takes_only_some_values_gives_these_back_exactly(low: float) -> None:
    values = np.where(np.arange(6000) % 2 == 0, low - np.arange(6000) % 50 - 1, 10.0 + np.arange(6000) % 53)
    table = pa.table({"x": np.round(values, 1)})
    assert learned(table, schema_for(table))["x"].support
    assert through(table).equals(table)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([5, 60, 3600]))
def test_a_step_is_kept_by_every_value_that_is_drawn(seed: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    grid = rng.integers(-30_000, 30_000, 3000) * step
    table = pa.table({"x": pa.array(grid).view(pa.timestamp("s"))})
    codec = learned(table, schema_for(table, x={"step": step})).codec
    scores = rng.normal(0, 1.5, (2000, 1)).astype(np.float32)
    drawn = codec.decode(
        Encoded(states=np.full((2000, 1), codec.layout.fields[0].spread, np.int32), scores=scores)
    )
    keys = to_keys(drawn.column("x").combine_chunks())
    assert (keys % step == 0).all()
    back = to_keys(codec.decode(codec.encode(table)).column("x").combine_chunks())
    inner = (grid >= np.sort(grid)[9]) & (grid <= np.sort(grid)[-10])
    assert np.abs(back - grid)[inner].max() <= 2 * step


@given(SEEDS, st.integers(0, 4))
@settings(max_examples=10)
def test_floats_have_the_digits_of_their_schema(seed: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    table = pa.table({"x": np.round(rng.normal(0, 10.0 ** (4 - digits), 3000), digits)})
    codec = learned(table, schema_for(table, x={"digits": digits})).codec
    drawn = codec.decode(random_rows(codec, rng, 2000)).column("x").drop_null().to_numpy()
    np.testing.assert_array_equal(drawn, np.round(drawn, digits))


# --------------------------------------------------------------------------------------------------- edges


def test_a_column_without_values_stays_without() -> None:
    for type in (pa.string(), pa.int64(), pa.timestamp("us", "UTC"), pa.null()):
        table = pa.table({"x": pa.nulls(30, type), "y": [1, 2] * 15})
        assert through(table).column("x").combine_chunks().equals(pa.nulls(30, type))
        assert through(table, schema_for(table, x={"kind": "empty"})).column("x").null_count == 30


def test_a_constant_stays_what_it_is_and_missing_where_it_was() -> None:
    for values in (["x", None] * 20, [7, None] * 20, [datetime.date(1950, 1, 1), None] * 20):
        table = pa.table({"x": values})
        assert through(table, schema_for(table, x={"kind": "constant"})).equals(table)


def test_a_few_rare_numbers_are_not_taken_for_missing() -> None:
    table = pa.table({"x": pa.array([float(i) ** 3 for i in range(15)] + [None] * 485)})
    back = through(table)
    assert back.column("x").null_count == 485


def test_rare_strings_come_back_as_one_word() -> None:
    table = pa.table({"x": ["a"] * 80 + [f"rare {i}" for i in range(20)]})
    assert through(table).column("x").to_pylist() == ["a"] * 80 + [OTHER] * 20


def test_a_string_that_was_not_learned_counts_as_rare_or_unknown() -> None:
    pooled = learned(pa.table({"x": ["a"] * 80 + [f"rare {i}" for i in range(20)]})).codec
    closed = learned(pa.table({"x": ["a"] * 80 + ["b"] * 20})).codec
    new = pa.table({"x": ["never seen"]})
    assert pooled.encode(new).states.tolist() == [[2]]
    assert closed.encode(new).states.tolist() == [[UNKNOWN]]


def test_identifiers_are_new_unique_and_follow_from_the_number_of_the_row() -> None:
    table = mixed(ROWS)
    codec = learned(table, mixed_schema(table)).codec
    encoded = codec.encode(table)
    whole = codec.decode(encoded).column("id").to_pylist()
    assert len(set(whole)) == ROWS
    part = codec.decode(encoded.take(slice(300, 500)), first_row=300).column("id").to_pylist()
    assert part == whole[300:500]


def test_identifiers_that_are_numbers_stay_in_their_range_and_are_unique() -> None:
    table = pa.table({"id": list(range(1000, 1500)), "x": [1, 2] * 250})
    ids = through(table, schema_for(table, id={"kind": "identifier", "min": 1000, "max": 9999})).column("id")
    values = ids.to_pylist()
    assert len(set(values)) == 500
    assert min(values) >= 1000
    assert max(values) <= 9999


def test_texts_are_replaced() -> None:
    table = mixed(ROWS)
    assert set(through(table, mixed_schema(table)).column("note").to_pylist()) == {REPLACED, None}


def test_a_column_that_the_table_lacks_is_unknown_and_order_does_not_matter() -> None:
    table = mixed(ROWS)
    codec = learned(table, mixed_schema(table)).codec
    names = table.schema.names
    part = codec.encode(table.select([n for n in reversed(names) if n != "city"]))
    whole = codec.encode(table)
    at = names.index("city")
    assert (part.states[:, at] == UNKNOWN).all()
    np.testing.assert_array_equal(np.delete(part.states, at, 1), np.delete(whole.states, at, 1))


def test_a_column_of_another_type_is_converted_or_refused_by_name() -> None:
    table = mixed(ROWS)
    codec = learned(table, mixed_schema(table)).codec
    wide = table.set_column(0, "age", table.column("age").cast(pa.int64()))
    np.testing.assert_array_equal(codec.encode(wide).states, codec.encode(table).states)
    with pytest.raises(InputError, match="'age' must be int16"):
        codec.encode(table.set_column(0, "age", pa.array([datetime.date(2020, 1, 1)] * ROWS)))


def test_the_layout_numbers_states_and_scores_column_by_column() -> None:
    table = mixed(ROWS)
    codec = learned(table, mixed_schema(table)).codec
    layout = codec.layout
    assert [f.name for f in layout.fields] == table.schema.names
    assert layout.states == sum(f.states for f in layout.fields)
    assert [layout.fields[i].score for i in layout.scored] == list(range(len(layout.scored)))
    encoded = codec.encode(table)
    assert encoded.scores.shape == (ROWS, len(layout.scored))
    for i, field in enumerate(layout.fields):
        assert sum(field.rates) == pytest.approx(1)
        assert encoded.states[:, i].max() < field.states
        if field.score is not None:
            held = encoded.scores[encoded.states[:, i] == field.spread, field.score]
            # A score is standard normal by construction.
            assert abs(held.mean()) < 0.1
            assert abs(held.std() - 1) < 0.1


# --------------------------------------------------------------------------------------------------- conditions


def conditioned() -> Codec:
    table = mixed(ROWS)
    return learned(table, mixed_schema(table)).codec


def test_a_condition_knows_its_columns_and_nothing_else() -> None:
    codec = conditioned()
    encoded = codec.condition({"city": "Ulm", "income": None})
    known = {
        f.name: int(s) for f, s in zip(codec.layout.fields, encoded.states[0], strict=True) if s != UNKNOWN
    }
    assert known == {"city": 1 + codec.profile.columns[2].atoms.index("Ulm"), "income": 0}


WRONG = [
    ("cty", "Ulm", "'cty' is none; did you mean 'city'"),
    ("city", "Ulmm", "'Köln'"),
    ("age", None, "age = None"),
    ("age", "forty", "'age' must be one value of type int16"),
    ("age", 2.5, "'age' must be one value of type int16"),
    ("age", 10**6, "'age'"),
    ("age", 2**70, "'age'"),
    ("age", object(), "'age'"),
    ("age", [1], "'age'"),
    ("city", {"a": 1}, "'city'"),
    ("seen", "yesterday", "'seen'"),
    ("one", "y", "one = 'y'"),
    ("void", "full", "void = 'full'"),
    ("wait", datetime.date(2020, 1, 1), "'wait'"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG, ids=lambda v: str(v)[:20])
def test_an_impossible_condition_is_refused_by_name(name: str, value: object, said: str) -> None:
    with pytest.raises(ConditionError) as refused:
        conditioned().condition({name: value})
    assert said in str(refused.value)


def test_a_number_between_all_values_that_a_column_takes_has_no_probability() -> None:
    few = learned(pa.table({"x": [1, 5, 9] * 50}), None).codec
    support = learned(pa.table({"x": [3 * (i % 100) for i in range(5000)]}), None).codec
    for codec, value in ((few, 4), (support, 4)):
        with pytest.raises(ConditionError, match="x = 4"):
            codec.condition({"x": value})
    assert support.condition({"x": 6}).states.tolist() == [[1]]


@pytest.mark.parametrize("value", [10**4, -5])
def test_a_number_far_outside_of_what_was_learned_has_no_probability(value: int) -> None:
    with pytest.raises(ConditionError, match="age"):
        conditioned().condition({"age": value})


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3), st.dates(),
    st.datetimes(), st.timedeltas(), st.times(), st.decimals(), st.lists(st.integers(), max_size=2),
)  # fmt: skip


@given(st.sampled_from([n for n in mixed(1).schema.names if n not in ("note", "one")]), anything)
@settings(max_examples=300)
def test_any_value_makes_a_condition_or_a_condition_error(name: str, value: object) -> None:
    try:
        encoded = CODEC.condition({name: value})
    except ConditionError as e:
        assert name in str(e)  # noqa: PT017
        return
    assert encoded.states[0, CODEC.schema.names.index(name)] != UNKNOWN


CODEC = conditioned()


# --------------------------------------------------------------------------------------------------- released schema


def random_rows(codec: Codec, rng: np.random.Generator, rows: int) -> Encoded:
    """Rows in all states that have probability, with scores far into the tails."""
    states = np.empty((rows, len(codec.layout.fields)), np.int32)
    for i, field in enumerate(codec.layout.fields):
        possible = [s for s, rate in enumerate(field.rates) if rate > 0]
        states[:, i] = rng.choice(possible, rows)
    return Encoded(
        states=states, scores=rng.normal(0, 3, (rows, len(codec.layout.scored))).astype(np.float32)
    )


def test_the_bounds_of_durations_are_counts_and_of_times_iso() -> None:
    table = mixed(ROWS)
    released = learned(table, mixed_schema(table)).codec.released_schema()
    assert isinstance(released["wait"].min, int)
    assert str(released["born"].min).startswith("18") or str(released["born"].min).startswith("19")
    assert "T" in str(released["seen"].max)


def test_a_released_constant_of_any_type_can_be_written_and_read() -> None:
    for value in (
        datetime.date(1950, 1, 1),
        Decimal("1.50"),
        datetime.timedelta(seconds=3),
        7,
        True,
        "x",
        1.5,
    ):
        table = pa.table({"x": [value] * 30})
        released = learned(table, schema_for(table, x={"kind": "constant"})).codec.released_schema()
        assert Schema.parse(released.to_json(), source="s") == released


def key_of(bound: object, type: pa.DataType) -> int:
    """The key of a bound as a schema writes it."""
    if pa.types.is_time(type):
        bound = datetime.time.fromisoformat(str(bound)[:15])
    if pa.types.is_floating(type):
        bound = np.float16(bound) if type == pa.float16() else bound
        return int(to_keys(pa.array([bound], type))[0])
    if pa.types.is_dictionary(type):
        type = type.value_type
    if pa.types.is_time(type) or pa.types.is_integer(type):
        return int(to_keys(pa.array([bound], type))[0])
    return int(to_keys(pa.array([bound]).cast(type))[0])


def assert_holds(schema: Schema, table: pa.Table) -> None:
    """Every fact of the schema is true of every row, checked one value at a time."""
    assert [(f.name, f.type) for f in table.schema] == [(f.name, f.type) for f in schema.arrow]
    for column in schema:
        array = table.column(column.name).combine_chunks()
        assert column.nullable or array.null_count == 0, column.name
        present = array.drop_null()
        present = present.dictionary_decode() if pa.types.is_dictionary(present.type) else present
        if column.categories is not None:
            assert {plain(v) for v in present} <= set(column.categories), column.name
        if column.min is not None and len(present):
            assert to_keys(present).min() >= key_of(column.min, array.type), column.name
        if column.max is not None and len(present):
            assert to_keys(present).max() <= key_of(column.max, array.type), column.name
        if column.digits is not None:
            values = present.to_numpy()
            np.testing.assert_array_equal(np.round(values, column.digits), values)


@settings(max_examples=8)
@given(SEEDS, st.sampled_from([0, 2, 10, 50]))
def test_the_released_schema_holds_for_all_that_can_be_drawn(seed: int, at_least: int) -> None:
    table = mixed(400, seed=seed % 1000)
    codec = learned(table, mixed_schema(table), at_least=at_least).codec
    released = codec.released_schema()
    assert_holds(released, codec.decode(random_rows(codec, np.random.default_rng(seed), 500)))
    assert Schema.parse(released.to_json(), source="s") == released


@pytest.mark.parametrize("type", [t for t in FEW if not pa.types.is_boolean(t)], ids=str)
@settings(max_examples=10)
@given(data=st.data())
def test_the_released_schema_of_any_column_can_be_written_and_read(
    type: pa.DataType, data: st.DataObject
) -> None:
    values = data.draw(st.lists(FEW[type], min_size=12, max_size=40, unique=True))
    cells = data.draw(st.lists(st.none() | st.sampled_from(values), min_size=20, max_size=60))
    value_type = type.value_type if pa.types.is_dictionary(type) else type
    array = pa.array(
        [np.float16(c) if c is not None and type == pa.float16() else c for c in cells], value_type
    )
    table = pa.table({"x": array.dictionary_encode().cast(type) if pa.types.is_dictionary(type) else array})
    codec = learned(table, schema_for(table), at_least=2).codec
    released = codec.released_schema()
    assert Schema.parse(released.to_json(), source="s") == released
    assert_holds(released, codec.decode(random_rows(codec, np.random.default_rng(0), 200)))


def test_a_category_that_is_called_like_the_pool_makes_no_second_one() -> None:
    table = pa.table({"x": [OTHER] * 50 + ["a"] * 50 + [f"rare {i}" for i in range(20)]})
    codec = learned(table, schema_for(table)).codec
    released = codec.released_schema()
    assert Schema.parse(released.to_json(), source="s") == released


def test_what_was_observed_of_rows_is_not_released() -> None:
    table = mixed(ROWS)
    schema = mixed_schema(table).model_copy()
    columns = [c.model_copy(update={"min": -1, "max": 10**9}) if c.name == "age" else c for c in schema]
    released = learned(table, Schema(columns=tuple(columns))).codec.released_schema()
    assert (released["age"].min, released["age"].max) == (18, 89)


# --------------------------------------------------------------------------------------------------- density


@pytest.mark.parametrize("shape", ["normal", "lognormal", "mixture"])
def test_the_slope_of_a_score_is_what_finite_differences_give(shape: str) -> None:
    values = np.sort(numbers(shape, np.random.default_rng(0), 4000))
    table = pa.table({"x": values})
    codec = learned(table, schema_for(table)).codec
    # Two points of the same cell, a quarter of it apart.
    ends = from_keys(np.array(codec.profile.columns[0].edges), pa.float64()).to_numpy()
    width = np.diff(ends)
    held = (np.array(codec.profile.columns[0].cell_rates) > 0) & (width > 1e-9 * np.abs(ends[1:]))
    low, high = (ends[:-1] + 0.375 * width)[held], (ends[:-1] + 0.625 * width)[held]
    middle = pa.table({"x": (low + high) / 2})
    slope = np.exp(codec.log_jacobian(codec.encode(middle)))
    u = [ndtr(codec.encode(pa.table({"x": x})).scores[:, 0].astype(float)) for x in (low, high)]
    score = codec.encode(middle).scores[:, 0].astype(float)
    density = np.exp(-(score**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(slope * density, (u[1] - u[0]) / (high - low), rtol=0.01)
