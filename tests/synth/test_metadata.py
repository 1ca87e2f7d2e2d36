import json
import re
import warnings
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import SchemaError
from synth.identifier import Pattern
from synth.metadata import constraints_to_sdv, from_sdv, to_sdv
from synth.schema import Column, Schema

COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"sdtype": "id", "regex_format": r"BK\d{6}"},
    "age": {"sdtype": "numerical", "computer_representation": "Int8"},
    "pay": {"sdtype": "numerical"},
    "city": {"sdtype": "categorical"},
    "rank": {"sdtype": "ordinal"},
    "on": {"sdtype": "boolean"},
    "at": {"sdtype": "datetime", "datetime_format": "%Y-%m-%d %H:%M:%S"},
    "mail": {"sdtype": "email", "pii": True},
    "what": {"sdtype": "unknown", "pii": True},
    "lat": {"sdtype": "latitude", "pii": False},
}
KINDS = [
    *("identifier", "numerical", "numerical", "categorical", "categorical"),
    *("boolean", "datetime", "text", "text", "numerical"),
]


def metadata(version: str, columns: dict[str, dict[str, Any]] = COLUMNS, **more: Any) -> dict[str, Any]:
    if version.startswith("SINGLE"):
        return {"METADATA_SPEC_VERSION": version, "columns": columns, **more}
    tables = {"people": {"columns": columns, **more}}
    return {"METADATA_SPEC_VERSION": version, "tables": tables, "relationships": []}


@pytest.mark.parametrize("version", ["V1", "V2", "SINGLE_TABLE_V1", "SINGLE_TABLE_V2"])
def test_every_version_says_the_same(version: str) -> None:
    schema = from_sdv(metadata(version))
    assert [c.kind for c in schema] == KINDS
    assert schema["id"].pattern == "BK[0-9]{6}"
    assert (schema["age"].type, schema["at"].type, schema["mail"].action) == (
        "int8",
        "timestamp[us]",
        "regenerate",
    )


def test_the_data_decide_type_order_and_nullability() -> None:
    types = pa.schema([("pay", pa.int32()), pa.field("age", pa.int64(), nullable=False)])
    schema = from_sdv(metadata("V1", {n: COLUMNS[n] for n in ("age", "pay")}), types)
    assert [(c.name, c.type, c.nullable) for c in schema] == [("pay", "int32", True), ("age", "int64", False)]


@pytest.mark.parametrize(
    ("sdtype", "type", "kind"),
    [
        ("id", pa.int64(), "identifier"),
        ("id", pa.float64(), "numerical"),
        ("categorical", pa.int64(), "categorical"),
        ("categorical", pa.bool_(), "boolean"),
        ("boolean", pa.string(), "categorical"),
        ("numerical", pa.string(), "text"),
        ("phone_number", pa.int64(), "identifier"),
        ("datetime", pa.date32(), "datetime"),
        ("numerical", pa.duration("s"), "duration"),
        ("unknown", pa.null(), "empty"),
    ],
)
def test_where_sdtype_and_data_disagree_the_data_decide(sdtype: str, type: pa.DataType, kind: str) -> None:
    assert from_sdv(metadata("V1", {"x": {"sdtype": sdtype}}), pa.schema([("x", type)]))["x"].kind == kind


@pytest.mark.parametrize(("format", "kind"), [("%d-%m-%Y", "categorical"), ("%Y-%m-%d %H:%M", "text")])
def test_a_datetime_in_strings_stays_a_string(format: str, kind: str) -> None:
    columns = {"x": {"sdtype": "datetime", "datetime_format": format}}
    column = from_sdv(metadata("V1", columns), pa.schema([("x", pa.string())]))["x"]
    assert (column.kind, column.type) == (kind, "string")
    assert format in (column.note or "")


def test_a_sequence_key_becomes_the_unit() -> None:
    assert from_sdv(metadata("SINGLE_TABLE_V1", sequence_key="id")).unit == "id"


REFUSED = {
    "no version": ({"columns": COLUMNS}, "METADATA_SPEC_VERSION"),
    "unknown version": (metadata("V9"), "'V9'"),
    "two tables": ({"METADATA_SPEC_VERSION": "V1", "tables": {"a": {}, "b": {}}}, "it holds 2"),
    "tables of no kind": ({"METADATA_SPEC_VERSION": "V1", "tables": [1]}, "it holds 0"),
    "table of no kind": ({"METADATA_SPEC_VERSION": "V1", "tables": {"a": 1}}, "keys and values"),
    "no columns": (metadata("V1", {}), "columns"),
    "no sdtype": (metadata("V1", {"a": {}}), "'a'"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_metadata_of_one_table_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        from_sdv(data)


@pytest.mark.parametrize("names", [["id"], ["id", "age", "more"]])
def test_other_columns_than_the_datas_are_refused(names: list[str]) -> None:
    with pytest.raises(SchemaError, match="column"):
        from_sdv(
            metadata("V1", {n: COLUMNS[n] for n in ("id", "age")}),
            pa.schema([(n, pa.int64()) for n in names]),
        )


@pytest.mark.parametrize("regex", ["[A-Z]+", "a|b", "(ab)", "x{2,3}", "[^a]", r"\w", "a.b", "[", "a*", "?"])
def test_a_regex_beyond_the_grammar_gives_no_pattern(regex: str) -> None:
    columns = {"x": {"sdtype": "id", "regex_format": regex}}
    column = from_sdv(metadata("V1", columns))["x"]
    assert (column.kind, column.pattern) == ("identifier", None)


PARTS = st.sampled_from(
    ["BK", "-", ".", r"\[", r"\]", r"\\", r"\{", "[0-9]{3}", "[A-Z]", "[0-9a-f]{12}", "+", "^", "$"]
)


@given(st.lists(PARTS, min_size=1, max_size=6).map("".join))
def test_a_pattern_is_exported_as_a_regex_that_its_strings_match(pattern: str) -> None:
    schema = Schema(columns=(Column(name="x", kind="identifier", type="string", pattern=pattern),))
    regex = to_sdv(schema)["tables"]["table"]["columns"]["x"]["regex_format"]
    for text in Pattern.parse(pattern).strings(0, 3):
        assert re.fullmatch(regex, text)


@given(st.lists(PARTS, min_size=1, max_size=6).map("".join))
def test_a_pattern_survives_export_and_import(pattern: str) -> None:
    schema = Schema(columns=(Column(name="x", kind="identifier", type="string", pattern=pattern),))
    found = from_sdv(to_sdv(schema))["x"].pattern
    assert found is not None
    assert Pattern.parse(found) == Pattern.parse(pattern)


EVERY = Schema(
    columns=(
        Column(name="key", kind="identifier", type="string", pattern="BK.[0-9]{6}", nullable=False),
        Column(name="number", kind="identifier", type="int64"),
        Column(name="n", kind="numerical", type="int16", min=1, max=9),
        Column(name="f", kind="numerical", type="double", digits=2),
        Column(name="d", kind="numerical", type="decimal128(6, 2)"),
        Column(name="c", kind="categorical", type="string", categories=("a", "b")),
        Column(name="b", kind="boolean", type="bool"),
        Column(name="t", kind="datetime", type="timestamp[us]"),
        Column(name="z", kind="datetime", type="timestamp[ns, tz=UTC]"),
        Column(name="day", kind="datetime", type="date32[day]"),
        Column(name="long", kind="duration", type="duration[s]"),
        Column(name="prose", kind="text", type="string", action="replace"),
        Column(name="same", kind="constant", type="string"),
        Column(name="none", kind="empty", type="null"),
    )
)


def test_kinds_survive_export_and_import_with_the_types_at_hand() -> None:
    found = from_sdv(to_sdv(EVERY), EVERY.arrow)
    changed = {a.name: b.kind for a, b in zip(EVERY, found, strict=True) if a.kind != b.kind}
    assert changed == {"same": "categorical"}


def test_the_first_full_identifier_is_the_primary_key() -> None:
    assert to_sdv(EVERY)["tables"]["table"]["primary_key"] == "key"
    assert "primary_key" not in to_sdv(EVERY.model_copy(update={"unit": "key"}))["tables"]["table"]


@pytest.mark.filterwarnings("ignore")
def test_sdv_reads_what_is_exported() -> None:
    sdv = pytest.importorskip("sdv.metadata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = sdv.Metadata.load_from_dict(to_sdv(EVERY))
        known.validate()
    assert from_sdv(known.to_dict(), EVERY.arrow) == from_sdv(to_sdv(EVERY), EVERY.arrow)


# ----------------------------------------------------------------------------------------------- constraints

NUMBERS = {n: {"sdtype": "numerical", "computer_representation": "Int64"} for n in ("a", "b", "c")}
WORDS = {n: {"sdtype": "categorical"} for n in ("u", "v")}


def sdv_constraint(name: str, **parameters: Any) -> dict[str, Any]:
    return {"class_name": name, "parameters": parameters}


def constrained(*constraints: dict[str, Any]) -> Schema:
    return from_sdv(metadata("V1", {**NUMBERS, **WORDS}), constraints=constraints)


@pytest.mark.parametrize(
    ("constraint", "meant"),
    [
        (sdv_constraint("Inequality", low_column_name="a", high_column_name="b"), "a <= b"),
        (
            sdv_constraint("Inequality", low_column_name="a", high_column_name="b", strict_boundaries=True),
            "a < b",
        ),
        (
            sdv_constraint("Range", low_column_name="a", middle_column_name="b", high_column_name="c"),
            "a < b < c",
        ),
        (sdv_constraint("FixedCombinations", column_names=["u", "v"]), "combinations of u, v"),
        (sdv_constraint("OneHotEncoding", column_names=["a", "b", "c"]), "combinations of a, b, c"),
    ],
)
def test_constraints_of_sdv_are_read_and_written_the_same(constraint: dict[str, Any], meant: str) -> None:
    schema = constrained(constraint)
    assert [str(c) for c in schema.constraints] == [meant]
    assert schema.constraints[0].declared
    (written,) = constraints_to_sdv(schema)
    assert written["class_name"] == constraint["class_name"]
    assert constrained(written) == schema


def test_a_one_hot_encoding_lists_where_the_one_may_stand() -> None:
    (rule,) = constrained(sdv_constraint("OneHotEncoding", column_names=["a", "b", "c"])).constraints
    assert rule.values == ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def test_increments_become_the_step_of_their_column() -> None:
    schema = constrained(sdv_constraint("FixedIncrements", column_name="a", increment_value=25))
    assert (schema["a"].step, schema.constraints) == (25, ())
    bounded = schema.model_copy(
        update={"columns": (schema["a"].model_copy(update={"min": 50}), *schema.columns[1:])}
    )
    assert constraints_to_sdv(bounded)[0]["parameters"]["increment_value"] == 25


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        (sdv_constraint("PrimaryToPrimaryKeySubset", x=1), "PrimaryToPrimaryKeySubset has no counterpart"),
        (sdv_constraint("MyOwn"), "MyOwn has no counterpart"),
        ({"constraint_class": "Inequality"}, "one has none"),
        (sdv_constraint("Inequality", low_column_name="a"), "Inequality lacks high_column_name"),
        (sdv_constraint("Inequality", low_column_name="a", high_column_name="z"), "no column 'z'"),
        (sdv_constraint("FixedCombinations", column_names=["u"]), "at least 2 items"),
        (sdv_constraint("FixedIncrements", column_name="u", increment_value=5), "'u', which is string"),
    ],
)
def test_constraints_of_sdv_without_a_counterpart_are_refused_by_name(
    constraint: dict[str, Any], why: str
) -> None:
    with pytest.raises(SchemaError) as refused:
        constrained(constraint)
    assert why in str(refused.value)


def test_what_sdv_has_no_word_for_is_refused_on_the_way_out() -> None:
    plain = constrained().model_dump()
    for rule in ({"rule": "sum", "column": "a", "plus": ["b", "c"]}, {"rule": "unique", "columns": ["a"]}):
        with pytest.raises(SchemaError, match="has none; take it out"):
            constraints_to_sdv(Schema.model_validate({**plain, "constraints": [rule]}))


def test_sdv_reads_what_is_written(tmp_path: Any) -> None:
    pytest.importorskip("sdv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sdv.utils import load_constraints
    schema = constrained(
        sdv_constraint("Inequality", low_column_name="a", high_column_name="b"),
        sdv_constraint("FixedCombinations", column_names=["u", "v"]),
    )
    path = tmp_path / "constraints.json"
    path.write_text(json.dumps(constraints_to_sdv(schema)), "utf-8")
    with warnings.catch_warnings():
        # It warns of each that it cannot read.
        warnings.simplefilter("error")
        read = load_constraints(path)
    assert [type(c).__name__ for c in read] == ["Inequality", "FixedCombinations"]
