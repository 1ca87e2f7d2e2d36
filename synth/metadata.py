"""Metadata: the schema as SDV writes it, in JSON, read and written without SDV.

Three versions are read: ``V1`` and ``V2``, which hold tables, and ``SINGLE_TABLE_V1``, which is one. What SDV
calls sdtypes becomes kinds:

    numerical                       numerical
    categorical, ordinal            categorical
    boolean                         boolean; categorical, if it is written in strings
    datetime                        datetime; if it is written in strings, see below
    id                              identifier, with `regex_format` as pattern where our grammar has it
    email, phone_number, name…      strings: text that is made up (`personal`); integers: identifier
    unknown, and what we lack       strings: text; integers: identifier; latitude, longitude: numerical

Where sdtype and data disagree, as with an `id` that is a float, the data's type decides. SDV keeps datetimes
as strings of a ``datetime_format``, too: such a column is categorical where the format has no finer part than
a day, else text, and a note names the format. Without types, a datetime is taken for timestamp[us]. Bounds
and categories of V2 are not taken over: SDV finds them in rows, so they are not public. A `sequence_key`
becomes the unit.

Constraints stand in a file of their own, which ``synthesizer.get_constraints(filepath)`` of SDV 2 writes and
``sdv.utils.load_constraints`` reads:

    Inequality, Range          order (Range: of three columns)
    FixedCombinations          combinations
    OneHotEncoding             combinations that list where the 1 may stand
    FixedIncrements            the column's `step`
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from privacy.errors import SchemaError
from synth.identifier import Pattern
from synth.keys import is_text
from synth.rules import Combinations, Order
from synth.schema import REPLACED, Column, Schema

VERSIONS = ("V1", "V2", "SINGLE_TABLE_V1", "SINGLE_TABLE_V2")

_TABLE = "table"


def from_sdv(
    data: Mapping[str, Any], types: pa.Schema | None = None, constraints: Sequence[Any] = ()
) -> Schema:
    """Reads SDV metadata of one table.

    Args:
        data: the parsed JSON.
        constraints: the parsed JSON of SDV's constraints.
        types: the Arrow types of the columns, if the data are at hand; columns take their order from it, too.

    Raises:
        SchemaError: it is no SDV metadata of a known version, holds more than one table, names other
            columns than `types`, or a constraint has no counterpart or does not fit the columns.

    Examples:
        >>> columns = {"age": {"sdtype": "numerical", "computer_representation": "Int64"}}
        >>> from_sdv({"METADATA_SPEC_VERSION": "SINGLE_TABLE_V1", "columns": columns})["age"].type
        'int64'
    """
    columns = _columns(_single_table(data))
    if types is not None:
        _check_names(columns, types)
        columns = {name: columns[name] for name in types.names}
    key = _single_table(data).get("sequence_key")
    made = {n: _column(n, c, types.field(n) if types else None) for n, c in columns.items()}
    rules = [rule for c in constraints for rule in _rules(c, made)]
    try:
        return Schema(
            columns=tuple(made.values()),
            unit=key if isinstance(key, str) and key in columns else None,
            constraints=tuple(rules),
        )
    except ValidationError as e:
        raise SchemaError(f"SDV metadata must make a schema, however: {e.errors()[0]['msg']}") from None


def to_sdv(schema: Schema) -> dict[str, Any]:
    """Writes a schema as SDV metadata V1, which `sdv.metadata.Metadata.load_from_dict` reads.

    The first identifier that holds a value in every row and is not the privacy unit is the primary key. What
    SDV has no word for (bounds, categories, notes, the unit) is left out.

    Examples:
        >>> schema = Schema(columns=(Column(name="age", kind="numerical", type="int64"),))
        >>> to_sdv(schema)["tables"]["table"]["columns"]
        {'age': {'sdtype': 'numerical', 'computer_representation': 'Int64'}}
    """
    table: dict[str, Any] = {"columns": {c.name: _sdv_column(c) for c in schema}}
    keys = [c.name for c in schema if _is_key(c) and c.name != schema.unit]
    if keys:
        table["primary_key"] = keys[0]
    return {"METADATA_SPEC_VERSION": "V1", "tables": {_TABLE: table}, "relationships": []}


def constraints_to_sdv(schema: Schema) -> list[dict[str, Any]]:
    """Writes a schema's constraints as SDV 2 does, for `sdv.utils.load_constraints`.

    Raises:
        SchemaError: SDV has no counterpart of one.

    Examples:
        >>> columns = tuple(Column(name=n, kind="numerical", type="int64") for n in ("a", "b"))
        >>> rule = {"rule": "order", "columns": ["a", "b"]}
        >>> schema = Schema.model_validate({"columns": columns, "constraints": [rule]})
        >>> constraints_to_sdv(schema)[0]["class_name"]
        'Inequality'
    """
    made = [_sdv_constraint(c) for c in schema.constraints]
    for column in schema:
        step, least = column.step, column.min
        # SDV counts increments from 0.
        if step is not None and step > 1 and isinstance(least, int) and least % step == 0:
            made.append(_constraint("FixedIncrements", column_name=column.name, increment_value=step))
    return made


def _sdv_constraint(rule: Any) -> dict[str, Any]:
    if isinstance(rule, Order) and len(rule.columns) == 2:
        low, high = rule.columns
        return _constraint(
            "Inequality", low_column_name=low, high_column_name=high, strict_boundaries=rule.strict
        )
    if isinstance(rule, Order) and len(rule.columns) == 3:
        names = ("low_column_name", "middle_column_name", "high_column_name")
        return _constraint(
            "Range", **dict(zip(names, rule.columns, strict=True)), strict_boundaries=rule.strict
        )
    if isinstance(rule, Combinations):
        hot = rule.values is not None and _is_one_hot(rule.values, len(rule.columns))
        return _constraint("OneHotEncoding" if hot else "FixedCombinations", column_names=list(rule.columns))
    raise SchemaError(
        f"a constraint must have a counterpart in SDV, however: {rule} has none; take it out of the schema first"
    )


def _constraint(name: str, /, **parameters: Any) -> dict[str, Any]:
    return {"class_name": name, "parameters": {**parameters, "table_name": _TABLE}}


def _is_one_hot(values: Sequence[Sequence[Any]], columns: int) -> bool:
    return sorted(tuple(map(_number, row)) for row in values) == sorted(
        tuple(int(i == j) for j in range(columns)) for i in range(columns)
    )


def _number(value: Any) -> int:
    return value if value in (0, 1) and not isinstance(value, str) else -1


_KNOWN = {
    "Inequality": ("low_column_name", "high_column_name"),
    "Range": ("low_column_name", "middle_column_name", "high_column_name"),
    "FixedCombinations": ("column_names",),
    "OneHotEncoding": ("column_names",),
    "FixedIncrements": ("column_name", "increment_value"),
}
"""Constraints of SDV that have a counterpart, with the parameters that we need."""


def _rules(constraint: Any, columns: dict[str, Column]) -> list[Any]:
    """The rules of one constraint; a step is written into its column.

    Raises:
        SchemaError: it is none of SDV's, has no counterpart, or names what is not there.
    """
    name = constraint.get("class_name") if isinstance(constraint, Mapping) else None
    if not isinstance(name, str):
        raise SchemaError(
            "a constraint of SDV must have a class_name, however: one has none; "
            "write them with synthesizer.get_constraints(filepath)"
        )
    said = constraint.get("parameters", {})
    if name not in _KNOWN:
        raise SchemaError(
            f"a constraint of SDV must be one of {', '.join(_KNOWN)}, however: {name} has no counterpart; "
            "take it out, and write what it means as a constraint of the schema"
        )
    lacking = [p for p in _KNOWN[name] if not isinstance(said, Mapping) or p not in said]
    if lacking:
        raise SchemaError(f"a constraint of SDV must have its parameters, however: {name} lacks {lacking[0]}")
    values = [said[p] for p in _KNOWN[name]]
    facts = "declared: SDV constraints"
    if name == "FixedIncrements":
        _set_step(str(values[0]), values[1], columns)
        return []
    try:
        if name in ("Inequality", "Range"):
            # SDV's Range excludes its ends unless it is told otherwise; Inequality includes equal values.
            strict = bool(said.get("strict_boundaries", name == "Range"))
            return [Order(rule="order", columns=tuple(values), strict=strict, facts=facts)]
        names = tuple(values[0])
        listed = None
        if name == "OneHotEncoding":
            floats = [n for n in names if n in columns and not pa.types.is_integer(columns[n].arrow_type)]
            booleans = all(n in columns and pa.types.is_boolean(columns[n].arrow_type) for n in names)
            if floats and not booleans:
                raise SchemaError(
                    f"columns of OneHotEncoding must be integers or booleans, however: {floats[0]!r} is "
                    f"{columns[floats[0]].type}; convert it"
                )
            listed = tuple(
                tuple((i == j) if booleans else int(i == j) for j in range(len(names)))
                for i in range(len(names))
            )
        return [Combinations(rule="combinations", columns=names, values=listed, facts=facts)]
    except (ValidationError, TypeError) as e:
        why = e.errors()[0]["msg"] if isinstance(e, ValidationError) else "its columns are no list"
        raise SchemaError(f"a constraint of SDV must make a rule, however: {name}: {why}") from None


def _set_step(name: str, step: Any, columns: dict[str, Column]) -> None:
    if name not in columns:
        raise SchemaError(
            f"a constraint must name columns, however: FixedIncrements: there is no column {name!r}"
        )
    if not isinstance(step, int) or step < 1 or not pa.types.is_integer(columns[name].arrow_type):
        raise SchemaError(
            f"increments must be whole numbers of a column of integers, however: FixedIncrements of {name!r}, which is "
            f"{columns[name].type}, has {step!r}; take it out, or set the column's `digits`"
        )
    columns[name] = columns[name].model_copy(update={"step": step})


def _single_table(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of the metadata that describes the only table."""
    version = data.get("METADATA_SPEC_VERSION")
    if version not in VERSIONS:
        raise SchemaError(
            f"METADATA_SPEC_VERSION must be one of {', '.join(VERSIONS)}, however: {version!r}; "
            "write the metadata anew with SDV 1.0 or later"
        )
    if "tables" not in data:
        return data
    tables = data["tables"]
    if not isinstance(tables, Mapping) or len(tables) != 1:
        count = len(tables) if isinstance(tables, Mapping) else 0
        raise SchemaError(
            f"SDV metadata must hold one table, however: it holds {count}; keep the one you want"
        )
    table = next(iter(tables.values()))
    if not isinstance(table, Mapping):
        raise SchemaError("a table of SDV metadata must hold keys and values, however: it does not")
    return table


def _columns(table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    columns = table.get("columns")
    if not isinstance(columns, Mapping) or not columns:
        raise SchemaError("a table of SDV metadata must have columns, however: it has none")
    for name, column in columns.items():
        if not isinstance(column, Mapping) or not isinstance(column.get("sdtype"), str):
            raise SchemaError(f"a column of SDV metadata must have an sdtype, however: {name!r} has none")
    return {str(name): column for name, column in columns.items()}


def _check_names(columns: Mapping[str, Any], types: pa.Schema) -> None:
    for name in types.names:
        if name not in columns:
            raise SchemaError(f"SDV metadata must have every column, however: {name!r} is missing; add it")
    for name in columns:
        if name not in types.names:
            raise SchemaError(
                f"SDV metadata must name columns of the table, however: there is no {name!r}; take it out"
            )


def _column(name: str, column: Mapping[str, Any], field: pa.Field | None) -> Column:
    """One column, with the type that the data have, or else the one that SDV's words suggest."""
    sdtype = str(column["sdtype"])
    type = field.type if field is not None else _suggested_type(sdtype, column)
    facts = {"name": name, "type": str(type), "nullable": field is None or field.nullable}
    try:
        return Column.model_validate(facts | _kind(sdtype, column, type))
    except ValidationError as e:
        raise SchemaError(f"a column must fit a schema, however: {name!r}: {e.errors()[0]['msg']}") from None


def _kind(sdtype: str, column: Mapping[str, Any], type: pa.DataType) -> dict[str, Any]:
    """The kind, and what belongs to it; where sdtype and type disagree, the type has the last word."""
    if sdtype == "datetime" and is_text(type):
        return _datetime_in_strings(str(column.get("datetime_format")))
    if sdtype == "id" and is_text(type):
        return {"kind": "identifier", "pattern": _pattern(column.get("regex_format"))}
    if sdtype in ("categorical", "ordinal", "boolean") and is_text(type):
        return {"kind": "categorical"}
    if sdtype in ("categorical", "ordinal") and pa.types.is_integer(type):
        return {"kind": "categorical"}
    if is_text(type):
        return _text(sdtype)
    if pa.types.is_integer(type) and sdtype not in _PLAIN_NUMBERS:
        note = None if sdtype == "id" else f"SDV calls it {sdtype}"
        return {"kind": "identifier", "note": note}
    return {"kind": _kind_of_type(type)}


_PLAIN_NUMBERS = frozenset({"numerical", "boolean", "datetime", "latitude", "longitude"})


PERSONAL = {
    "name": "name",
    "first_name": "first_name",
    "last_name": "last_name",
    "user_name": "user_name",
    "email": "email",
    "phone_number": "phone",
    "address": "address",
    "street_address": "street",
    "city": "city",
    "postcode": "postcode",
    "credit_card_number": "card",
    "iban": "iban",
    "ssn": "national_number",
}
"""What SDV calls personal data, and what we make up for it."""


def _text(sdtype: str) -> dict[str, Any]:
    if sdtype in PERSONAL:
        note = f"SDV calls it {sdtype}; every value is made up"
        return {
            "kind": "text",
            "action": "regenerate",
            "personal": {"what": PERSONAL[sdtype]},
            "note": note,
        }
    return {
        "kind": "text",
        "action": "replace",
        "note": f"SDV calls it {sdtype}; every value becomes {REPLACED}",
    }


def _datetime_in_strings(format: str) -> dict[str, Any]:
    note = f"strings of the form {format}; SDV calls it datetime"
    if re.search(r"%[HIMSfpXcsTrR]", format):
        return _text("datetime") | {"note": f"{note}; every value becomes {REPLACED}"}
    return {"kind": "categorical", "note": note}


def _kind_of_type(type: pa.DataType) -> str:
    if pa.types.is_null(type):
        return "empty"
    if pa.types.is_boolean(type):
        return "boolean"
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        return "datetime"
    if pa.types.is_duration(type) or pa.types.is_time(type):
        return "duration"
    return "categorical" if pa.types.is_dictionary(type) else "numerical"


def _suggested_type(sdtype: str, column: Mapping[str, Any]) -> pa.DataType:
    """The Arrow type of a column of which only SDV's words are known."""
    if sdtype == "numerical":
        whole = column.get("decimal_places") == 0
        return _REPRESENTATIONS.get(
            str(column.get("computer_representation")), pa.int64() if whole else pa.float64()
        )
    return _TYPES.get(sdtype, pa.string())


_TYPES = {
    "boolean": pa.bool_(),
    "datetime": pa.timestamp("us"),
    "latitude": pa.float64(),
    "longitude": pa.float64(),
}

_REPRESENTATIONS = {
    "Float": pa.float64(),
    "Int8": pa.int8(),
    "Int16": pa.int16(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "UInt8": pa.uint8(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
}


_SPECIAL = re.compile(r"[.^$*+?()|\\\[\]{}]")


def _pattern(regex: Any) -> str | None:
    """A regular expression in the grammar of patterns; None where that grammar has no such thing."""
    if not isinstance(regex, str) or not regex:
        return None
    text = re.sub(r"\\(.)", _escape_of_ours, re.sub(r"^\^|(?<!\\)\$$", "", regex))
    bare = re.sub(r"\\[^A-Za-z0-9]|\[[^\]\\^][^\]\\]*\]|\{\d+\}", "", text)
    if _SPECIAL.search(bare):
        return None
    try:
        Pattern.parse(text)
    except SchemaError:
        return None
    return text


def _escape_of_ours(escape: re.Match[str]) -> str:
    r"""What our grammar writes for `\d`, or for an escaped character."""
    return "[0-9]" if escape[1] == "d" else escape[0]


def _regex(pattern: str) -> str:
    """A pattern as a regular expression: what the grammar takes literally is escaped.

    Examples:
        >>> _regex("A.[0-9]{3}")
        'A\\\\.[0-9]{3}'
    """
    tokens = re.finditer(r"\\(.)|(\[[^\]]+\](?:\{\d+\})?)|(.)", pattern, re.DOTALL)
    return "".join(t[2] or re.sub(_SPECIAL, r"\\\g<0>", t[1] or t[3]) for t in tokens)


def _is_key(column: Column) -> bool:
    repeats = column.note is not None and "values repeat" in column.note
    return column.kind == "identifier" and not column.nullable and not repeats


def _sdv_column(column: Column) -> dict[str, Any]:
    type = column.arrow_type
    if column.kind == "identifier":
        return {"sdtype": "id"} | ({"regex_format": _regex(column.pattern)} if column.pattern else {})
    if column.personal is not None:
        sdtypes = {what: sdtype for sdtype, what in PERSONAL.items()}
        return {"sdtype": sdtypes[column.personal.what], "pii": True}
    if column.kind in ("text", "duration", "empty"):
        return {"sdtype": "unknown", "pii": column.kind == "text"}
    if column.kind == "boolean" or pa.types.is_boolean(type):
        return {"sdtype": "boolean"}
    if column.kind == "categorical" or is_text(type):
        return {"sdtype": "categorical"}
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        return {"sdtype": "datetime", "datetime_format": _datetime_format(type)}
    if pa.types.is_duration(type) or pa.types.is_time(type):
        return {"sdtype": "unknown", "pii": False}
    known = {known: name for name, known in _REPRESENTATIONS.items()}
    return {"sdtype": "numerical", "computer_representation": known.get(type, "Float")}


def _datetime_format(type: pa.DataType) -> str:
    if pa.types.is_date(type):
        return "%Y-%m-%d"
    fraction = "" if type.unit == "s" else ".%f"
    return f"%Y-%m-%d %H:%M:%S{fraction}" + ("%z" if type.tz is not None else "")
