import functools
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import synth
from privacy.errors import ConditionError, InputError, SchemaError, UsageError
from synth.codec import Codec
from synth.constraints import Constraints, breaks
from synth.schema import OTHER, Schema
from synth.table import REJECTED, TableModel
from tests.synth.tables import learned, schema_for


def constrained(table: pa.Table, *constraints: dict[str, Any], **facts: Any) -> Schema:
    plain = schema_for(table, **facts)
    return Schema.model_validate({**plain.model_dump(), "constraints": constraints})


def encoded(table: pa.Table, schema: Schema) -> pa.Table:
    return Constraints(schema).encode(table)


def there_and_back(table: pa.Table, schema: Schema) -> pa.Table:
    constraints = Constraints(schema)
    made = constraints.encode(table)
    # A profile says which word stands for rare combinations; here none is rare.
    return constraints.decode(made, learned(made, constraints.coded, at_least=0).profile)


# ----------------------------------------------------------------------------------------------- there and back

UNITS = ("s", "ms", "us", "ns")


@st.composite
def ordered(draw: st.DrawFn) -> tuple[pa.Table, Schema]:
    """Two or three columns of which each is above the one before it where both are there."""
    rows, many = draw(st.integers(20, 40)), draw(st.integers(2, 3))
    strict = draw(st.booleans())
    family = draw(st.sampled_from(["int", "decimal", "float", "digits", "time", "date", "duration"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    gaps = rng.integers(1 if strict else 0, 30, (rows, many))
    units = np.cumsum(gaps, 1) + draw(st.integers(-100, 100))
    gone = draw(st.sampled_from([0.0, 0.3]))
    arrays, facts = {}, {}
    for i in range(many):
        name, mask = f"c{i}", rng.random(rows) < gone
        whole = pa.array(units[:, i], pa.int64())
        if family == "int":
            array = whole.cast(draw(st.sampled_from([pa.int16(), pa.int64()])))
        elif family == "decimal":
            array = pa.array(units[:, i] / 10).cast(pa.decimal128(12, draw(st.integers(1, 4))))
        elif family == "float":
            array = pa.array(units[:, i] * np.pi)
        elif family == "digits":
            array, facts[name] = pa.array(units[:, i] / 10), {"digits": draw(st.integers(1, 3))}
        elif family == "date":
            array = whole.cast(pa.int32()).cast(pa.date32())
        elif family == "time":
            unit = draw(st.sampled_from(UNITS))
            array = whole.cast(pa.timestamp("s")).cast(pa.timestamp(unit))
        else:
            array = whole.cast(pa.duration("s")).cast(pa.duration(draw(st.sampled_from(UNITS))))
        arrays[name] = pc.if_else(pa.array(mask), pa.scalar(None, array.type), array)
    table = pa.table(arrays)
    return table, constrained(
        table, {"rule": "order", "columns": table.column_names, "strict": strict}, **facts
    )


@given(made=ordered())
@settings(max_examples=60, deadline=None)
def test_ordered_columns_come_back_whatever_their_type_and_what_is_missing(
    made: tuple[pa.Table, Schema],
) -> None:
    table, schema = made
    if pa.types.is_floating(table.schema.field(0).type) and schema.columns[0].digits is None:
        back = there_and_back(table, schema)
        for name in table.column_names:
            np.testing.assert_allclose(back[name].to_pandas(), table[name].to_pandas(), rtol=1e-12, atol=1e-9)
    else:
        assert there_and_back(table, schema).to_pydict() == table.to_pydict()


@given(made=ordered(), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_whatever_a_model_draws_the_order_holds(made: tuple[pa.Table, Schema], seed: int) -> None:
    table, schema = made
    constraints = Constraints(schema)
    coded = constraints.encode(table)
    rng = np.random.default_rng(seed)
    # Each coded column is shuffled by itself, as if a model knew nothing of the others.
    shuffled = pa.table({n: coded[n].take(pa.array(rng.permutation(len(coded)))) for n in coded.column_names})
    rows = constraints.decode(shuffled, learned(coded, constraints.coded, at_least=0).profile)
    assert not breaks(schema.constraints[0], rows, schema).any()
    assert rows.schema.equals(schema.arrow)


def test_the_same_shuffle_without_constraints_breaks_the_order() -> None:
    table = pa.table({"a": np.arange(100), "b": np.arange(100) + 1})
    schema = constrained(table, {"rule": "order", "columns": ["a", "b"]})
    swapped = table.set_column(1, "b", table["b"].take(pa.array(np.arange(100)[::-1])))
    assert breaks(schema.constraints[0], swapped, schema).sum() > 40


def test_a_date_and_a_time_are_compared_as_times() -> None:
    day = pa.array([1, 1, None], pa.int32()).cast(pa.date32())
    time = pa.array([86_400, 86_399, 5], pa.int64()).cast(pa.timestamp("s"))
    table = pa.table({"day": day, "time": time})
    schema = constrained(table, {"rule": "order", "columns": ["day", "time"]})
    assert breaks(schema.constraints[0], table, schema).tolist() == [False, True, False]
    good = table.filter(pa.array([True, False, True]))
    assert there_and_back(good, schema).to_pydict() == good.to_pydict()


def test_a_gap_stays_on_the_grid_of_its_columns_and_within_their_declared_bounds() -> None:
    rng = np.random.default_rng(1)
    low = rng.integers(0, 20, 400) * 25
    table = pa.table({"low": low, "high": low + 25 * rng.integers(0, 8, 400)})
    said = {"facts": "declared: us", "min": 0, "max": 700, "step": 25}
    schema = constrained(table, {"rule": "order", "columns": ["low", "high"]}, low=said, high=said)
    gap = Constraints(schema).coded["high above low"]
    assert (gap.min, gap.max, gap.step, gap.declared) == (0, 700, 25, True)
    drawn = synth.fit(table, "gmm", schema=schema, threads=1).sample(2000, seed=1)
    high = drawn["high"].to_numpy()
    assert high.max() <= 700
    assert (high % 25 == 0).all()
    assert (high >= drawn["low"].to_numpy()).all()


@given(
    digits=st.lists(st.integers(0, 3), min_size=3, max_size=4),
    minus=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_a_sum_is_recomputed_to_its_last_digit(digits: list[int], minus: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    finest = max(digits)
    units = [rng.integers(-(10**6), 10**6, 50) * 10 ** (finest - d) for d in digits]
    signs = [1, *([-1] * (len(units) - 1) if minus else [1] * (len(units) - 1))]
    total = sum(s * u for s, u in zip(signs, units, strict=True))
    gone = rng.random(50) < 0.2
    columns = {f"t{i}": pa.array(u / 10.0**finest) for i, u in enumerate(units)}
    columns["t0"] = pa.array(units[0] / 10.0**finest, mask=gone)
    columns["sum"] = pa.array(total / 10.0**finest, mask=gone)
    table = pa.table(columns)
    others = [f"t{i}" for i in range(1, len(units))]
    rule = {"rule": "sum", "column": "sum", "plus": ["t0"] if minus else ["t0", *others]}
    rule |= {"minus": others} if minus else {}
    facts = {f"t{i}": {"digits": d} for i, d in enumerate(digits)} | {"sum": {"digits": finest}}
    schema = constrained(table, rule, **facts)
    assert "sum" not in Constraints(schema).coded.names
    assert there_and_back(table, schema).to_pydict() == table.to_pydict()
    assert not breaks(schema.constraints[0], table, schema).any()
    wrong = table.set_column(table.num_columns - 1, "sum", pc.add(table["sum"], 10.0**-finest))
    assert breaks(schema.constraints[0], wrong, schema).sum() == 50 - gone.sum()


def test_combinations_come_back_with_their_types_and_missing_values() -> None:
    table = pa.table(
        {
            "word": ["a", "b", None, 'q"u', "a"],
            "code": pa.array([1, 2, 3, None, 1], pa.int8()),
            "flag": pa.array([True, False, None, True, True]),
            "other": [1.5, 2.5, 3.5, 4.5, 5.5],
            "tag": pa.array(["x", "y", "y", "x", "x"]).dictionary_encode(),
        }
    )
    schema = constrained(table, {"rule": "combinations", "columns": ["word", "code", "flag", "tag"]})
    assert Constraints(schema).coded.names == ("word, code, flag, tag", "other")
    assert there_and_back(table, schema).to_pydict() == table.to_pydict()


def test_a_name_that_is_taken_is_left_to_its_column() -> None:
    table = pa.table({"a": [1, 2], "b": [1, 3], "b above a": [5, 6]})
    schema = constrained(table, {"rule": "order", "columns": ["a", "b"]}, a={"nullable": False})
    assert Constraints(schema).coded.names == ("a", "b above a'", "b above a")
    assert there_and_back(table, schema).to_pydict() == table.to_pydict()


# ----------------------------------------------------------------------------------------------- what is refused

COLUMNS = {
    "a": pa.array([1]),
    "b": pa.array([1]),
    "c": pa.array([1]),
    "word": pa.array(["x"]),
    "at": pa.array([1]).cast(pa.timestamp("s")),
    "there": pa.array(["x"]),
    "id": pa.array(["x"]),
    "text": pa.array(["x"]),
    "real": pa.array([0.5]),
}


@pytest.mark.parametrize(
    ("constraints", "why"),
    [
        ([{"rule": "order", "columns": ["a", "z"]}], "there is no column 'z'"),
        ([{"rule": "order", "columns": ["a", "word"]}], "'word' is kind: categorical"),
        ([{"rule": "order", "columns": ["a", "at"]}], "'a' holds numbers and 'at' times"),
        ([{"rule": "order", "columns": ["a", "b", "a"]}], "names 'a' twice"),
        ([{"rule": "order", "columns": ["a", "id"]}], "'id' is kind: identifier"),
        ([{"rule": "order", "columns": ["a", "b"]}, {"rule": "order", "columns": ["b", "a"]}], "go round"),
        ([{"rule": "sum", "column": "at", "plus": ["at"]}], "names 'at' twice"),
        (
            [{"rule": "sum", "column": "a", "plus": ["b"]}, {"rule": "sum", "column": "b", "plus": ["a"]}],
            "a → b → a",
        ),
        (
            [{"rule": "sum", "column": "a", "plus": ["b"]}, {"rule": "sum", "column": "a", "plus": ["c"]}],
            "'a' follows from two",
        ),
        ([{"rule": "combinations", "columns": ["word", "real"]}], "'real' is kind: numerical"),
        (
            [
                {"rule": "combinations", "columns": ["word", "there"]},
                {"rule": "combinations", "columns": ["word", "a"]},
            ],
            "'word' is in two",
        ),
        ([{"rule": "combinations", "columns": ["word", "there"], "values": [["x"]]}], "one value a column"),
        ([{"rule": "missing", "column": "there", "where": "word", "values": ["x"]}], "nullable: false"),
        ([{"rule": "missing", "column": "a", "where": "real", "values": [1]}], "'real' is kind: numerical"),
        ([{"rule": "unique", "columns": ["text"]}], "'text' is kind: text"),
        ([{"rule": "between", "columns": ["a"]}], "'order', 'sum', 'combinations'"),
    ],
)
def test_a_schema_refuses_constraints_that_no_table_can_meet(
    constraints: list[dict[str, Any]], why: str
) -> None:
    facts = {
        "there": {"nullable": False},
        "id": {"kind": "identifier"},
        "text": {"kind": "text", "action": "replace"},
    }
    plain = schema_for(pa.table(COLUMNS), **facts)
    text = plain.to_yaml() + yaml.safe_dump({"constraints": constraints})
    with pytest.raises(SchemaError, match="schema: ") as refused:
        Schema.parse(text, source="schema")
    assert why in str(refused.value)


def test_constraints_are_written_and_read_the_same() -> None:
    table = pa.table({"a": [1], "b": [2], "word": ["x"], "there": ["y"]})
    schema = constrained(
        table,
        {"rule": "order", "columns": ["a", "b"], "strict": True, "facts": "declared: law"},
        {"rule": "missing", "column": "b", "where": "word", "values": ["x", None]},
        {"rule": "combinations", "columns": ["word", "there"], "values": [["x", None], ["y", "z"]]},
        {"rule": "unique", "columns": ["a"], "note": "why"},
    )
    assert Schema.parse(schema.to_yaml(), source="s") == schema == Schema.parse(schema.to_json(), source="s")


def test_a_schema_without_constraints_is_written_as_before() -> None:
    assert "constraints" not in schema_for(pa.table({"a": [1]})).to_json()


def test_under_privacy_only_declared_constraints_are_believed() -> None:
    table = pa.table({"a": [1], "b": [2], "word": ["x"], "there": ["y"]})
    said = {"facts": "declared: law"}
    schema = constrained(
        table,
        {"rule": "order", "columns": ["a", "b"]},
        {"rule": "unique", "columns": ["a"], **said},
        {"rule": "combinations", "columns": ["word", "there"]},
    )
    assert [str(c) for c in schema.public(unit=None).constraints] == ["a unique"]
    unlisted = constrained(table, {"rule": "combinations", "columns": ["word", "there"], **said})
    with pytest.raises(SchemaError, match="must be listed under privacy"):
        unlisted.public(unit=None)


def test_a_list_of_other_types_is_refused() -> None:
    table = pa.table({"a": [1], "word": ["x"]})
    rule = {"rule": "combinations", "columns": ["a", "word"], "values": [["one", "x"]]}
    with pytest.raises(InputError, match="'a' is int64 and has 'one'"):
        Constraints(constrained(table, rule))


# ----------------------------------------------------------------------------------------------- models

CONSTRAINTS: tuple[dict[str, Any], ...] = (
    {"rule": "order", "columns": ["low", "high"]},
    {"rule": "order", "columns": ["start", "end"]},
    {"rule": "sum", "column": "total", "plus": ["net", "tax"]},
    {"rule": "missing", "column": "end", "where": "state", "values": ["open"]},
    {"rule": "combinations", "columns": ["city", "country", "prefix"]},
    {"rule": "unique", "columns": ["number"]},
    # Between columns that follow from others: this one cannot be built in.
    {"rule": "order", "columns": ["net", "total"]},
)
PLACES = {"Ulm": ("DE", 49), "Köln": ("DE", 49), "Bern": ("CH", 41), "Oslo": ("NO", 47)}


def orders(rows: int, *, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 50, rows)
    net, tax = rng.integers(1, 10**6, rows) / 100, rng.integers(-50, 10**5, rows) / 100
    start = rng.integers(0, 10**8, rows) + 1_500_000_000
    state = rng.choice(["open", "shut", "void"], rows, p=[0.3, 0.6, 0.1])
    city = rng.choice(list(PLACES), rows)
    return pa.table(
        {
            "low": pa.array(low, mask=rng.random(rows) < 0.1),
            "high": pa.array(low + rng.poisson(4, rows), pa.int16(), mask=rng.random(rows) < 0.1),
            "net": net,
            "tax": tax,
            "total": np.round(net + tax, 2),
            "start": pa.array(start).cast(pa.timestamp("s")),
            "end": pa.array(start + rng.integers(0, 10**6, rows), mask=state == "open").cast(
                pa.timestamp("s")
            ),
            "state": state,
            "city": city,
            "country": [PLACES[c][0] for c in city],
            "prefix": [PLACES[c][1] for c in city],
            "number": rng.permutation(rows * 20)[:rows],
        }
    )


def order_schema(*constraints: dict[str, Any]) -> Schema:
    money = {"digits": 2}
    return constrained(orders(50, seed=0), *(constraints or CONSTRAINTS), net=money, tax=money, total=money)


@functools.cache
def model(name: str = "gmm") -> TableModel[pa.Table]:
    return synth.fit(orders(1500, seed=1), name, schema=order_schema(), seed=7, threads=1)


def assert_met(table: pa.Table, schema: Schema) -> None:
    for constraint in schema.constraints:
        assert not breaks(constraint, table, schema).any(), str(constraint)


@pytest.mark.parametrize(
    "given",
    [
        {"low": 3},
        {"low": 3, "high": 9},
        {"high": None},
        {"low": None, "high": 15},
        {"state": "open"},
        {"end": None},
        {"city": "Ulm"},
        {"country": "DE", "state": "shut"},
        {"prefix": 41, "net": 412.34},
        {"net": 412.34, "tax": 100.0, "total": 512.34},
    ],
)
def test_conditions_on_constrained_columns_are_met(given: dict[str, Any]) -> None:
    drawn = model().sample(300, given=given, seed=3)
    assert_met(drawn, model().schema)
    for name, value in given.items():
        assert set(drawn[name].to_pylist()) == {value}


def test_a_condition_on_a_part_of_a_combination_draws_the_rest_as_often_as_it_occurs() -> None:
    table = orders(4000, seed=5)
    drawn = model("circuit").sample(4000, given={"country": "DE"}, seed=1)
    cities = pd.Series(drawn["city"].to_pylist()).value_counts(normalize=True)
    assert set(cities.index) == {"Ulm", "Köln"}
    there = table.filter(pc.equal(table["country"], "DE"))["city"].to_pandas().value_counts(normalize=True)
    assert abs(cities["Ulm"] - there["Ulm"]) < 0.05


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"high": 9}, "only 'high' is fixed; fix 'low' as well"),
        ({"total": 5.0}, "fix 'net', 'tax' as well"),
        ({"low": 9, "high": 3}, "it breaks low <= high"),
        ({"city": "Ulm", "country": "CH"}, "in none of the combinations"),
        ({"city": "Rome"}, "in none of the combinations"),
        ({"end": None, "state": "void"}, "it breaks end is missing exactly where state is open"),
        ({"number": 5}, "it fixes number unique"),
        ({"nunber": 5}, "did you mean 'number'"),
        ({"prefix": "x"}, "one value of type int64"),
    ],
)
def test_conditions_that_cannot_be_met_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConditionError) as refused:
        model().sample(5, given=given)
    assert why in str(refused.value)


def test_imputed_rows_meet_the_constraints_and_keep_what_is_known() -> None:
    table = orders(300, seed=9)
    for name in ("low", "total", "city", "end"):
        gone = np.random.default_rng(3).random(300) < 0.3
        column = pc.if_else(pa.array(gone), pa.scalar(None, table[name].type), table[name])
        holed = table.set_column(table.column_names.index(name), name, column)
        filled = model().impute(holed, seed=1)
        for constraint in model().schema.constraints:
            known = pa.array(~gone) if name == "total" else pa.array(np.ones(300, bool))
            if constraint.rule != "unique":
                assert not breaks(constraint, filled.filter(known), model().schema).any(), (
                    name,
                    str(constraint),
                )
        kept = holed[name].is_valid()
        assert filled[name].filter(kept).equals(holed[name].filter(kept))
        left = filled[name].null_count - int((pc.equal(holed["state"], "open")).to_numpy().sum()) * (
            name == "end"
        )
        assert left < 0.1 * gone.sum()


def test_a_row_that_breaks_a_constraint_is_unlikely() -> None:
    table = orders(200, seed=4)
    at = table.column_names.index("total")
    wrong = table.set_column(at, "total", pc.add(table["total"], 0.01))
    assert (model().log_prob(wrong) < model().log_prob(table) - 2).all()


def test_columns_that_are_tied_must_be_there_together() -> None:
    with pytest.raises(InputError, match="'high' is and 'low' is not"):
        model().log_prob(orders(5, seed=1).drop_columns(["low"]))
    # What follows from others may be left out.
    assert model().log_prob(orders(5, seed=1).drop_columns(["total"])).shape == (5,)


def test_stored_models_keep_their_constraints(tmp_path: Any) -> None:
    model().save(tmp_path / "m")
    again = synth.load(tmp_path / "m")
    assert again.schema == model().schema
    assert again.sample(200, seed=2).equals(model().sample(200, seed=2))


def test_shards_together_are_unique_and_say_what_they_rejected() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.integers(0, 900, 800), "x": rng.normal(size=800)})
    schema = constrained(table, {"rule": "unique", "columns": ["n"]})
    fitted = synth.fit(table, "gmm", schema=schema, threads=1)
    parts = [p for n in range(3) for p in fitted.shard(n, 60, seed=1, first_row=60 * n, of=3)]
    whole = pa.concat_tables([p.replace_schema_metadata(None) for p in parts])
    assert len(whole) == 180
    assert len(set(whole["n"].to_pylist())) == 180
    assert sum(int((p.schema.metadata or {}).get(REJECTED, 0)) for p in parts) > 180


def test_identifiers_have_no_gaps_where_rows_were_rejected() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.integers(0, 400, 300), "id": [f"K{i:03}" for i in range(300)]})
    schema = constrained(
        table, {"rule": "unique", "columns": ["n"]}, id={"kind": "identifier", "pattern": "K[0-9]{3}"}
    )
    drawn = synth.fit(table, "gmm", schema=schema, threads=1).sample(200, seed=1)
    assert len(set(drawn["id"].to_pylist())) == 200 == len(set(drawn["n"].to_pylist()))


def test_more_unique_rows_than_there_can_be_are_refused() -> None:
    table = pa.table({"n": np.arange(200) % 20, "x": np.random.default_rng(0).normal(size=200)})
    fitted = synth.fit(
        table, "gmm", schema=constrained(table, {"rule": "unique", "columns": ["n"]}), threads=1
    )
    with pytest.raises(UsageError, match="of 25 could be kept"):
        fitted.sample(25)


def test_rare_combinations_are_pooled_under_the_word_for_others() -> None:
    rng = np.random.default_rng(0)
    city = np.where(rng.random(600) < 0.05, rng.choice([f"rare {i}" for i in range(30)], 600), "Ulm")
    table = pa.table({"city": city, "land": np.where(city == "Ulm", "DE", "XX")})
    schema = constrained(table, {"rule": "combinations", "columns": ["city", "land"]})
    drawn = synth.fit(table, "gmm", schema=schema, threads=1).sample(2000, seed=1)
    assert set(zip(*drawn.to_pydict().values(), strict=True)) == {("Ulm", "DE"), (OTHER, OTHER)}


def test_a_rare_combination_with_a_number_is_named_by_the_commonest() -> None:
    rng = np.random.default_rng(0)
    code = np.where(rng.random(600) < 0.05, rng.integers(100, 130, 600), 7)
    table = pa.table({"code": code, "land": np.where(code == 7, "DE", "XX")})
    schema = constrained(table, {"rule": "combinations", "columns": ["code", "land"]})
    drawn = synth.fit(table, "gmm", schema=schema, threads=1).sample(500, seed=1)
    assert set(zip(*drawn.to_pydict().values(), strict=True)) == {(7, "DE")}


def test_only_listed_combinations_are_drawn_though_rows_have_others() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"a": rng.choice(["x", "y"], 400), "b": rng.choice(["u", "v"], 400)})
    rule = {"rule": "combinations", "columns": ["a", "b"], "values": [["x", "u"], ["y", "v"]]}
    drawn = synth.fit(table, "gmm", schema=constrained(table, rule), threads=1).sample(500, seed=1)
    assert set(zip(*drawn.to_pydict().values(), strict=True)) == {("x", "u"), ("y", "v")}


def test_what_is_released_is_within_what_the_released_schema_says() -> None:
    known = model()
    constraints = Constraints(known.schema)
    released = constraints.released(known.codec.released_schema(), known.codec.profile)
    drawn = known.sample(3000, seed=2)
    assert released.names == known.schema.names
    for name in ("low", "high", "net", "tax", "total"):
        low, high = released[name].min, released[name].max
        assert low is not None
        assert high is not None
        values = drawn[name].drop_null().to_numpy()
        assert low <= values.min()
        assert values.max() <= high
    assert set(released["city"].categories or ()) == set(PLACES)
    assert not released["total"].nullable
    assert released["end"].nullable
    joint = next(c for c in released.constraints if c.rule == "combinations")
    assert set(joint.values or ()) == {(c, *PLACES[c]) for c in PLACES}


@pytest.mark.parametrize("rule", ["order", "sum"])
def test_a_column_that_follows_from_others_is_full_where_the_schema_says_so(rule: str) -> None:
    rng = np.random.default_rng(2)
    gone = rng.random(600) < 0.3
    low = rng.integers(0, 100, 600)
    table = pa.table({"low": pa.array(low, mask=gone), "high": low + rng.integers(0, 9, 600), "x": low})
    stated: dict[str, Any] = {"rule": "order", "columns": ["low", "high"]}
    if rule == "sum":
        # What a declared schema believes of its rows; here they miss more than it says.
        stated = {"rule": "sum", "column": "high", "plus": ["low", "x"]}
    schema = constrained(table, stated, high={"nullable": False})
    drawn = synth.fit(table, "gmm", schema=schema, threads=1).sample(1500, seed=1)
    assert drawn["high"].null_count == 0
    if rule == "order":
        assert abs(drawn["low"].null_count / 1500 - gone.mean()) < 0.06
    assert_met(drawn, schema)


def test_columns_that_are_missing_together_follow_the_one_that_a_rule_is_about() -> None:
    rng = np.random.default_rng(3)
    single = rng.random(800) < 0.8
    table = pa.table(
        {
            "kind": np.where(single, "single", "joint"),
            "income": pa.array(rng.normal(50, 9, 800), mask=single),
            "checked": pa.array(rng.choice(["yes", "no"], 800), mask=single),
        }
    )
    rule = {"rule": "missing", "column": "income", "where": "kind", "values": ["single"]}
    fitted = synth.fit(
        # Too small a model to know that all three go together.
        table, "gmm", schema=constrained(table, rule), options={"components": 1}, threads=1,
    )  # fmt: skip
    drawn = fitted.sample(1000, seed=1)
    alone = np.array([k == "single" for k in drawn["kind"].to_pylist()])
    assert 0.7 < alone.mean() < 0.9
    for name in ("income", "checked"):
        assert (drawn[name].is_null().to_numpy() == alone).all()


def test_a_rule_about_a_pooled_category_is_not_released() -> None:
    state = ["open"] * 60 + ["closed"] * 60 + ["rare"] * 3
    end = pa.array([None if s != "closed" else 5 for s in state], pa.int64())
    table = pa.table({"state": state, "end": end})
    schema = constrained(
        table, {"rule": "missing", "column": "end", "where": "state", "values": ["open", "rare"]}
    )
    constraints = Constraints(schema)
    profile = learned(constraints.encode(table), constraints.coded, at_least=10).profile
    released = constraints.released(Codec(constraints.coded, profile).released_schema(), profile)
    assert "rare" not in released.to_json()
    assert released.constraints == ()


def test_integers_that_no_float_can_tell_apart_are_compared_with_floats_all_the_same() -> None:
    table = pa.table(
        {"low": pa.array([2**60 + 1, 3], pa.int64()), "high": pa.array([2.0**61, 1e15 / 3], pa.float64())}
    )
    schema = constrained(table, {"rule": "order", "columns": ["low", "high"]})
    assert len(Constraints(schema).encode(table)) == 2


def test_the_units_column_cannot_be_dropped() -> None:
    columns = [
        {"name": "mail", "kind": "text", "type": "string", "action": "drop"},
        {"name": "age", "kind": "numerical", "type": "int64"},
    ]
    schema = Schema.model_validate({"columns": columns, "unit": "mail"})
    with pytest.raises(SchemaError, match="unit's column must not be dropped"):
        _ = schema.kept
