import json
import re

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import SchemaError, UsageError
from synth.schema import Column, Schema, nearest, parse_type

TYPES = [
    pa.null(), pa.bool_(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary(),
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64(),
    pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    *(pa.timestamp(u) for u in ("s", "ms", "us", "ns")),
    *(pa.timestamp("us", tz) for tz in ("UTC", "Europe/Berlin", "+05:30", "Etc/GMT-1")),
    *(pa.duration(u) for u in ("s", "ms", "us", "ns")),
    pa.decimal32(9, 2), pa.decimal64(18, 0), pa.decimal128(38, 38), pa.decimal256(76, 10), pa.decimal128(5, -2),
    *(pa.dictionary(i, v, ordered=o)
      for i in (pa.int8(), pa.uint32()) for v in (pa.string(), pa.int64(), pa.float64()) for o in (True, False)),
]  # fmt: skip

SIMPLE = """
columns:
- {name: age, kind: numerical, type: int64}
- {name: city, kind: categorical, type: string}
"""


def refusal(text: str) -> str:
    with pytest.raises(SchemaError) as refused:
        Schema.parse(text, source="schema.yaml")
    return str(refused.value)


# --------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize("type", TYPES, ids=str)
def test_the_name_of_every_type_gives_the_type(type: pa.DataType) -> None:
    assert parse_type(str(type)) == type


@pytest.mark.parametrize(
    ("name", "type"), [("float64", pa.float64()), ("float32", pa.float32()), ("str", pa.string())]
)
def test_usual_names_of_types_are_understood(name: str, type: pa.DataType) -> None:
    assert parse_type(name) == type


@given(
    st.text()
    | st.from_regex(r"(timestamp|decimal128|duration|dictionary)[\[(<][\w, =+:]*[\])>]", fullmatch=True)
)
def test_what_is_no_type_is_refused_and_what_is_one_reads_back(text: str) -> None:
    try:
        type = parse_type(text)
    except ValueError:
        return
    assert parse_type(str(type)) == type


# --------------------------------------------------------------------------------------------------- round trip

scalars = (
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12)
)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    kind = draw(
        st.sampled_from(
            [
                "numerical",
                "categorical",
                "boolean",
                "datetime",
                "duration",
                "identifier",
                "text",
                "constant",
                "empty",
            ]
        )
    )
    return Column(
        name=name,
        kind=kind,
        type=str(draw(st.sampled_from(TYPES))),
        nullable=draw(st.booleans()),
        facts=draw(st.sampled_from(["observed", "declared: codebook 2024"])),
        min=draw(st.none() | scalars),
        max=draw(st.none() | scalars),
        digits=draw(st.none() | st.integers(0, 15)),
        step=draw(st.none() | st.integers(1)),
        categories=draw(st.none() | st.lists(st.text(), min_size=1, unique=True).map(tuple)),
        pattern=draw(st.none() | st.text()),
        action="replace" if kind == "text" else None,
        note=draw(st.none() | st.text()),
    )


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(st.text(), min_size=1, max_size=5, unique=True))
    made = tuple(draw(columns(n)) for n in names)
    return Schema(
        columns=made,
        unit=draw(st.sampled_from([None, *(c.name for c in made if not c.learned)])),
        units_about=draw(st.none() | st.integers(1)),
    )


@settings(max_examples=200)
@given(schemas())
def test_what_is_written_as_yaml_or_json_reads_back_as_the_same_schema(schema: Schema) -> None:
    assert Schema.parse(schema.to_yaml(), source="s") == schema
    assert Schema.parse(schema.to_yaml(), source="s").to_json() == schema.to_json()
    assert Schema.parse(schema.to_json(), source="s") == schema
    assert Schema.model_validate(json.loads(schema.to_json())) == schema


@pytest.mark.parametrize(
    "value", [1e-7, 1e16, -2.5e300, 5e-324, "1e5", "1_0", "0x10", "2024-01-01", "~", "yes", "\x85", "\x7f"]
)
def test_numbers_stay_numbers_and_words_that_look_like_them_stay_words(value: float | str) -> None:
    schema = Schema(columns=(Column(name="x", kind="numerical", type="double", min=value),))
    for text in (schema.to_yaml(), schema.to_json()):
        back = Schema.parse(text, source="s")["x"].min
        assert (type(back), back) == (type(value), value)


def test_dates_without_quotes_are_the_text_that_was_written() -> None:
    times = "2020-01-31", "2021-12-31T23:59:59.999999999"
    words = "2021-12-31 23:59:59", "2021-13-31"
    text = f"""
    columns:
    - {{name: day, kind: datetime, type: "timestamp[ns]", min: {times[0]}, max: {times[1]}}}
    - {{name: word, kind: categorical, type: string, categories: [{", ".join(words)}]}}
    constraints: [{{rule: missing, column: day, where: word, values: [{words[1]}]}}]
    """
    schema = Schema.parse(text, source="s")
    assert (schema["day"].min, schema["day"].max) == times
    assert schema["word"].categories == words
    assert schema.constraints[0].values == words[1:]  # type: ignore[union-attr]
    assert Schema.parse(schema.to_yaml(), source="s") == schema


def test_bounds_may_be_numbers_of_numpy() -> None:
    column = Column(name="x", kind="numerical", type="int64", min=np.int64(3), max=np.float32(4.5))
    assert (type(column.min), column.min, column.max) == (int, 3, 4.5)


@given(st.lists(scalars, min_size=1, max_size=6))
def test_categories_keep_their_types(values: list[bool | int | float | str]) -> None:
    try:
        column = Column(name="x", kind="categorical", type="string", categories=tuple(values))
    except ValueError:
        assert len(set(values)) < len(values)
        return
    schema = Schema(columns=(column,))
    back = Schema.parse(schema.to_yaml(), source="s").columns[0].categories
    assert back is not None
    assert [(type(v), v) for v in back] == [(type(v), v) for v in values]


def test_the_arrow_schema_has_the_names_types_and_nullability() -> None:
    text = """
    columns:
    - {name: a, kind: numerical, type: int8, nullable: false}
    - {name: b, kind: datetime, type: "timestamp[us, tz=UTC]"}
    """
    expected = pa.schema([pa.field("a", pa.int8(), False), pa.field("b", pa.timestamp("us", "UTC"))])
    assert Schema.parse(text, source="s").arrow.equals(expected)


# --------------------------------------------------------------------------------------------------- strictness


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    message = refusal(SIMPLE.replace("kind: numerical", "knd: numerical"))
    assert "schema.yaml: columns.0.knd: unknown key; did you mean 'kind'?" in message
    assert "schema.yaml: columns.0.kind: must be given" in message
    assert "did you mean 'units_about'?" in refusal(SIMPLE + "units_abot: 3\n")


def test_an_unknown_key_that_is_near_to_none_is_refused_with_all_known_ones() -> None:
    assert "known are columns, constraints, suggestions, unit, units_about" in refusal(SIMPLE + "zzz: 3\n")


def test_a_key_that_stands_twice_is_refused_with_its_line() -> None:
    message = refusal("columns:\n- name: a\n  kind: numerical\n  kind: text\n  type: int64\n")
    assert "'kind' stands twice" in message
    assert "line 4" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("int64", "int65"), "type='int65'"),
        (("kind: numerical", "kind: number"), "kind='number'"),
        (("kind: numerical", "kind: text"), "action: replace"),
        (("type: int64", "type: int64, action: replace"), "leave it out"),
        (("type: int64", "type: int64, nullable: [1]"), "columns.0.nullable"),
        (("type: int64", "type: int64, digits: 16"), "digits=16"),
        (("type: int64", "type: int64, max: 1e999"), "columns.0.max: must be finite, however: max=inf"),
        (("type: int64", "type: double, max: nan"), "type=double must be finite, however: 'nan'"),
        (("type: int64", "type: double, min: '-Infinity'"), "must be finite, however: '-Infinity'"),
        (("type: int64", "type: double, categories: [inf, 1.0]"), "must be finite, however: 'inf'"),
        (("type: int64", "type: int64, min: [1]"), "columns.0.min: must be a number, text, true or false"),
        (("type: string", "type: string, categories: [a, .nan]"), "columns.1.categories.1: must be finite"),
        (("type: int64", "type: int64, step: 0"), "step=0"),
        (("type: int64", "type: int64, facts: guessed"), "facts='guessed'"),
        (("type: int64", "type: int64, facts: 'declared: '"), "columns.0.facts"),
        (("type: string", "type: string, categories: [a, b, a]"), "one is listed twice"),
        (
            (
                "columns:",
                "constraints: [{rule: missing, column: age, where: city, values: [.inf]}]\ncolumns:",
            ),
            "must be finite",
        ),
        (("name: city", "name: age"), "'age' stands twice"),
        (("columns:", "unit: patient\ncolumns:"), "no column 'patient'"),
        (("columns:", "unit: age\ncolumns:"), "write kind: identifier"),
        (("columns:", "units_about: 0\ncolumns:"), "units_about=0"),
    ],
)
def test_a_broken_rule_is_told_with_file_field_and_fact(change: tuple[str, str], said: str) -> None:
    message = refusal(SIMPLE.replace(*change, 1))
    assert message.startswith("schema.yaml: ")
    assert said in message


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", "columns: []", "columns: {}", "a: [", "\t", "a: b: c"]
)
def test_what_is_no_schema_at_all_is_refused(text: str) -> None:
    assert "schema.yaml" in refusal(text)


@pytest.mark.parametrize(
    "scalar",
    [
        "!!timestamp x", "!!float x", "!!int x", "!!bool maybe", "!!binary é", "!!python/object:os.system x",
        "!!set {a}", "!!omap [a]", "!!null x", "&a [*a]", "*a", "2024-01-01", "2024-99-99", "{? [a] : b}",
        "{<<: {a: 1}}", "=", ".nan", "1e999", "0x", "1_000", "9" * 5000, "\x00", "\ud800",
    ],
)  # fmt: skip
def test_no_trick_of_yaml_gets_past_the_schema_error(scalar: str) -> None:
    text = f"columns:\n- {{name: age, kind: numerical, type: int64, min: {scalar}}}\n"
    try:
        schema = Schema.parse(text, source="s")
    except SchemaError:
        return
    assert isinstance(schema.columns[0].min, bool | int | float | str | None)


words = st.sampled_from(
    ["columns", "name", "kind", "type", "int64", "text", "- ", ": ", "\n", "  ", "[", "]", "{", "}", "? ", "&a ",
     "*a", "!!", "!!int ", "!!timestamp ", "!!bool ", "<<", ", ", "'", '"', "|", ">", "%", "---", "1", "~", "#", "\t"]
)  # fmt: skip


@settings(max_examples=300)
@given(st.text() | st.lists(words | st.text(max_size=2), max_size=25).map("".join))
def test_whatever_stands_in_the_file_only_a_schema_error_comes_out(text: str) -> None:
    try:
        Schema.parse(text, source="s")
    except SchemaError as e:
        assert str(e).startswith("s")  # noqa: PT017


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = [
    "columns",
    "unit",
    "units_about",
    "name",
    "kind",
    "type",
    "facts",
    "min",
    "categories",
    "digits",
    "action",
]


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from(fields), json_like, max_size=3),
    st.dictionaries(st.sampled_from(fields), json_like, max_size=8),
)
def test_any_values_under_known_keys_give_a_schema_or_a_schema_error(
    top: dict[str, object], column: dict[str, object]
) -> None:
    text = yaml.safe_dump({"columns": [column], **top})
    try:
        schema = Schema.parse(text, source="s")
    except SchemaError:
        return
    assert Schema.parse(schema.to_yaml(), source="s").names == schema.names


# --------------------------------------------------------------------------------------------------- use


def test_a_column_is_found_by_its_name_and_a_wrong_name_gets_the_nearest() -> None:
    schema = Schema.parse(SIMPLE, source="s")
    assert schema["city"].kind == "categorical"
    assert (len(schema), [c.name for c in schema]) == (2, ["age", "city"])
    with pytest.raises(SchemaError, match=re.escape("no column 'cty'; did you mean 'city'?")):
        schema["cty"]


def test_a_wrong_schema_is_a_mistake_of_use() -> None:
    assert issubclass(SchemaError, UsageError)
    assert SchemaError.exit_code == 2


def test_only_declared_facts_bind_and_only_values_of_some_kinds_are_learned() -> None:
    assert Column(name="a", kind="numerical", type="int64", facts="declared: law").declared
    assert not Column(name="a", kind="numerical", type="int64").declared
    assert Column(name="a", kind="duration", type="duration[s]").learned
    assert not Column(name="a", kind="identifier", type="string").learned


def test_nearest_says_nothing_where_nothing_is_near() -> None:
    assert nearest("abc", ["xyz"]) == ""
    assert nearest("", ["a"]) == ""
