import re
import warnings
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import SchemaError
from synth.identifier import Pattern
from synth.metadata import from_sdv, to_sdv
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
        "replace",
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
