"""Schema: what is publicly known of each column.

A schema is what a person may write down without looking at a row: names, kinds, types, and, where they are
known from a public source, bounds, categories and step. `understudy init` fills it from the rows and marks
what it took with ``facts: observed``. Bounds and categories marked so are for review only: they are learned anew
at every release. A person who knows them from elsewhere writes ``facts: "declared: codebook 2024"``, and they
bind. What says the form of a column (type, step, digits, pattern) holds as it is written.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import pyarrow as pa
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from privacy.errors import InputError, SchemaError, UsageError
from synth import rules
from synth.keys import NOT_CONVERTED
from synth.people import Personal
from synth.rules import Combinations, Constraint, Scalar

Kind = Literal[
    "numerical",
    "categorical",
    "boolean",
    "datetime",
    "duration",
    "identifier",
    "text",
    "image",
    "constant",
    "empty",
]
Dates = Literal[
    "DD-MM-YYYY", "DD/MM/YYYY", "DD.MM.YYYY", "MM-DD-YYYY", "MM/DD/YYYY", "YYYY/MM/DD", "YYYY.MM.DD"
]
DATES = b"dates"
"""Key of an Arrow field's metadata: how a source writes the column's dates; `DAY_OR_MONTH` where that is open."""
DAY_OR_MONTH = b"day or month"


def _finite(text: str) -> bool:
    """Whether a text stands for a number that is not infinite; what is no number at all is told elsewhere."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return True


M = TypeVar("M", bound=BaseModel)
Values = TypeVar("Values", pa.Array, pa.ChunkedArray)

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""Arrow type of a column of images: an encoded image, and a name that nobody may rely on."""

LEARNED: frozenset[Kind] = frozenset(
    {"numerical", "categorical", "boolean", "datetime", "duration", "constant"}
)
"""Kinds whose values are learned as states and scores; of the others only the missing pattern is. Of images the pixels
are learned, too, by synthesizers that know images."""

OTHER = "(other)"
"""What stands for the pooled rare categories of a column of strings."""

REPLACED = "(text)"
"""What stands for a text that was replaced."""


class Picture(BaseModel):
    """What every image of a column is brought to before it is learned, and what is released."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: Annotated[int, Field(ge=1, le=1024, description="pixels")]
    height: Annotated[int, Field(ge=1, le=1024, description="pixels")]
    mode: Annotated[Literal["L", "RGB"], Field(description="L: 8 bits of grey; RGB: three times 8 bits")]
    resize: Annotated[
        Literal["pad", "crop", "stretch", "refuse"],
        Field(
            description="what is done with another size: pad, shrunk or grown to fit, the rest black; crop, to cover, "
            "the rest cut off; stretch, without regard to its form; refuse, an error"
        ),
    ] = "pad"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, 3 if self.mode == "RGB" else 1

    @property
    def size(self) -> int:
        """Numbers of an image."""
        return self.height * self.width * self.shape[2]


class Column(BaseModel):
    """One column: its name, its kind, its Arrow type, and what is known of its values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Kind
    type: Annotated[str, Field(description="Arrow type, e.g. int64, string, timestamp[us, tz=UTC]")]
    nullable: bool = True
    facts: Annotated[
        str, Field(pattern=r"^(observed|declared: .+)$", description="where the facts below come from")
    ] = "observed"
    min: Annotated[Scalar | None, Field(description="smallest value; times in ISO 8601")] = None
    max: Annotated[Scalar | None, Field(description="largest value; times in ISO 8601")] = None
    digits: Annotated[int | None, Field(ge=0, le=15, description="decimals of a float")] = None
    step: Annotated[int | None, Field(ge=1, description="grid of integers and times, in units of type")] = (
        None
    )
    categories: tuple[Scalar, ...] | None = None
    pattern: Annotated[
        str | None, Field(description="form of an identifier: literals, [a-z] classes, {n}")
    ] = None
    action: Annotated[
        Literal["replace", "regenerate", "drop"] | None, Field(description="what is done with a text")
    ] = None
    personal: Annotated[
        Personal | None, Field(description="what a text with `action: regenerate` is made up as")
    ] = None
    dates: Annotated[
        Dates | None,
        Field(description="how the source writes dates, where they are text and not in ISO 8601"),
    ] = None
    image: Annotated[
        Picture | None,
        Field(description="size and mode that the images of a column of images are brought to"),
    ] = None
    learn: Annotated[
        Literal["none"] | None,
        Field(description="none: under privacy, bounds and categories must be declared, not learned"),
    ] = None
    note: Annotated[str | None, Field(description="a remark for the reader, e.g. a warning of init")] = None

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        parse_type(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "text" and self.action is None:
            raise ValueError(
                "free text is never learned, however: kind: text has no action; write `action: replace`"
            )
        if self.kind != "text" and self.action is not None:
            raise ValueError(f"action is for kind: text, however: kind: {self.kind}; leave it out")
        if (self.action == "regenerate") != (self.personal is not None):
            raise ValueError(
                "`action: regenerate` and `personal` belong together, however: one is there without the other; "
                "write e.g. `personal: {what: email}`"
            )
        if self.personal is not None and self.type not in ("string", "large_string"):
            raise ValueError(
                f"personal data are made up as strings, however: type={self.type}; write kind: identifier, or "
                "`action: drop`"
            )
        if self.dates is not None and not pa.types.is_temporal(self.arrow_type):
            raise ValueError(
                f"dates are written in columns of times, however: type={self.type}; write `type: date32[day]` or "
                "`type: timestamp[us]`"
            )
        if (self.kind == "image") != (self.image is not None):
            raise ValueError(
                f"kind: image and `image` belong together, however: kind: {self.kind}; write e.g. "
                "`image: {width: 28, height: 28, mode: L}`, or leave it out"
            )
        if (self.kind == "image") != (self.arrow_type == IMAGE) and self.kind not in ("text", "empty"):
            raise ValueError(
                f"images are of type {IMAGE}, and only they, however: kind: {self.kind}, type: {self.type}; correct "
                "one of them"
            )
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must differ from each other, however: one is listed twice")
        if pa.types.is_floating(self.arrow_type) or pa.types.is_decimal(self.arrow_type):
            for value in (self.min, self.max, *(self.categories or ())):
                if isinstance(value, str) and not _finite(value):
                    raise ValueError(
                        f"bounds and categories of type={self.type} must be finite, however: {value!r}"
                    )
        return self

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type that `type` names."""
        return parse_type(self.type)

    @property
    def declared(self) -> bool:
        """Whether the facts are public by declaration, and so bind."""
        return self.facts != "observed"

    def check_public(self) -> None:
        """Refuses a column that must not be learned by noisy answers, and would have to be, and images of unknown size.

        Raises:
            SchemaError: `learn: none`, without declared bounds or categories; images whose size is not declared.
        """
        if self.image is not None and not self.declared and self.action != "drop":
            raise SchemaError(
                f"under privacy the size of images must be public, however: {self.name!r} says {self.image.width} × "
                f'{self.image.height} as rows have it; choose one, and write it with `facts: "declared: <source>"`'
            )
        if self.learn is None or not self.learned or self.kind == "boolean":
            return
        known = self.categories is not None or (self.min is not None and self.max is not None)
        if not (self.declared and known):
            raise SchemaError(
                f"a column with `learn: none` must be declared, however: {self.name!r} has no declared bounds or "
                'categories; write them with `facts: "declared: <source>"`, or leave `learn` out'
            )

    @property
    def learned(self) -> bool:
        """Whether the values are learned from rows, not only the missing pattern."""
        return self.kind in LEARNED


_LAST = ("facts", "note")
"""Fields of a constraint that are written last."""


def _said(constraint: BaseModel, field: str, value: object) -> bool:
    """Whether a field says more than its default."""
    return field in ("rule", "facts") or (
        value != type(constraint).model_fields[field].default and value != []
    )


_FORGOTTEN = {
    "nullable": True,
    "min": None,
    "max": None,
    "digits": None,
    "step": None,
    "categories": None,
    "pattern": None,
    "note": None,
}
"""Facts of a column that are not declared, so taken from rows."""


def _forgotten(column: Column) -> Column:
    """A column without what rows showed; what is done with personal data is the steward's word."""
    personal = column.personal
    if personal is not None:
        personal = Personal(what=personal.what, of=personal.of)
    return column.model_copy(update={**_FORGOTTEN, "personal": personal})


def dates_of(field: pa.Field) -> Dates | None:
    """How a source writes the dates of an Arrow field; None: in ISO 8601, or not known."""
    said = (field.metadata or {}).get(DATES)
    return next((d for d in get_args(Dates) if d.encode() == said), None)


def typed(column: Column, array: Values, *, remedy: str = "convert it") -> Values:
    """Values in a column's type.

    Raises:
        InputError: they are of another and do not convert.
    """
    try:
        return array if array.type == column.arrow_type else array.cast(column.arrow_type)
    except NOT_CONVERTED:
        raise InputError(
            f"column {column.name!r} must be {column.type}, however: it is {array.type}; {remedy}"
        ) from None


class Schema(BaseModel):
    """The columns of one table, in order, and the column that names the privacy unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    unit: Annotated[str | None, Field(description="column whose equal values mean one person")] = None
    units_about: Annotated[int | None, Field(ge=1, description="public, rough number of units")] = None
    constraints: Annotated[
        tuple[Constraint, ...], Field(description="what holds in every row, and so in every released one")
    ] = ()
    suggestions: Annotated[
        tuple[Constraint, ...],
        Field(
            description="constraints that all rows of the source meet; none binds before it is moved there"
        ),
    ] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [c.name for c in self.columns]
        twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"column names must differ, however: {twice[0]!r} stands twice")
        if self.unit is not None and self.unit not in names:
            raise ValueError(f"unit must name a column, however: there is no column {self.unit!r}")
        if self.unit is not None and self[self.unit].learned:
            raise ValueError(
                f"the unit's column is never learned, however: {self.unit!r} is kind: {self[self.unit].kind}; "
                "write kind: identifier"
            )
        rules.check(self.columns, self.constraints)
        rules.check(self.columns, self.suggestions)
        return self

    def __iter__(self) -> Iterator[Column]:  # type: ignore[override]
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, name: str) -> Column:
        """The column of that name.

        Raises:
            SchemaError: there is none; the message names the nearest.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(
            f"a column must exist, however: there is no column {name!r}{nearest(name, self.names) or self._some()}"
        )

    def _some(self) -> str:
        """The names, as many as a line takes."""
        shown = ", ".join(map(repr, self.names[:12]))
        return f"; there are {shown}" + (f" and {len(self) - 12} more" if len(self) > 12 else "")

    def public(self, *, unit: str | None) -> "Schema":
        """What may be believed under differential privacy: what was taken from rows is forgotten.

        Args:
            unit: the column that names the privacy unit; None keeps the schema's own.

        Raises:
            SchemaError: that column does not exist or is learned, a column that says `learn: none` lacks what
                would have to be learned, or declared combinations are not listed.
        """
        for column in self.columns:
            column.check_public()
        return self.forgetful(unit=unit)

    def forgetful(self, *, unit: str | None) -> "Schema":
        """The schema without what was taken from rows, whatever may be promised of it.

        Args:
            unit: as in `public`.

        Raises:
            SchemaError: the unit's column does not exist or is learned, or declared combinations are not listed.
        """
        changed = [c if c.declared else _forgotten(c) for c in self.columns]
        believed = tuple(c for c in self.constraints if c.declared)
        for constraint in believed:
            if isinstance(constraint, Combinations) and constraint.values is None:
                raise SchemaError(
                    f"declared combinations must be listed under privacy, however: {constraint} has no `values`, so "
                    "rows would have to show them; list them, or mark the constraint `facts: observed`"
                )
        try:
            return Schema(
                columns=tuple(changed),
                unit=unit or self.unit,
                units_about=self.units_about,
                constraints=believed,
            )
        except ValidationError as e:
            raise SchemaError(e.errors()[0]["msg"].removeprefix("Value error, ")) from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(c.name for c in self.columns)

    @property
    def kept(self) -> "Schema":
        """The schema without the columns that are dropped: nothing of these is stored, learned or released.

        Raises:
            SchemaError: all of them are, or the unit's is.
        """
        kept = tuple(c for c in self.columns if c.action != "drop")
        if len(kept) == len(self.columns) and not self.suggestions:
            return self
        if not kept:
            raise SchemaError("a schema must keep a column, however: all have `action: drop`; keep one")
        if self.unit is not None and self[self.unit].action == "drop":
            raise SchemaError(
                f"the unit's column must not be dropped, however: {self.unit!r} has `action: drop`; write kind: "
                "identifier, whose values are made anew"
            )
        return self.model_copy(update={"columns": kept, "suggestions": ()})

    @property
    def images(self) -> tuple[Column, ...]:
        """The columns of images."""
        return tuple(c for c in self.columns if c.image is not None)

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of a table with these columns."""
        return pa.schema([pa.field(c.name, c.arrow_type, c.nullable) for c in self.columns])

    @property
    def source(self) -> pa.Schema:
        """What a source must have: dates as it writes them in the fields' metadata, and of dropped columns no value."""
        fields = zip(self.arrow, self.columns, strict=True)
        return pa.schema(
            [
                f.with_nullable(c.nullable or c.action == "drop").with_metadata(
                    {DATES: c.dates} if c.dates else None
                )
                for f, c in fields
            ]
        )

    def to_yaml(self) -> str:
        """As a person would write it: one block per column, nothing that is at its default."""
        data = self._data()
        for column in data["columns"]:
            if "categories" in column and not column["categories"]:
                del column["categories"]
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)

    def to_json(self) -> str:
        """As the release carries it; equal schemas give equal text."""
        text = json.dumps(self._data(), indent=1, ensure_ascii=False)
        # YAML takes these for line ends or refuses them; JSON does not mind them being escaped.
        return (
            re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}", text) + "\n"
        )

    def _data(self) -> dict[str, Any]:
        """As plain data, without what nobody said."""
        data = self.model_dump(mode="json", exclude_none=True, exclude={"constraints", "suggestions"})
        for name, constraints in (("constraints", self.constraints), ("suggestions", self.suggestions)):
            # A None among values means missing, and stays.
            stated = [(c, c.model_dump(mode="json")) for c in constraints]
            if stated:
                data[name] = [
                    {k: d[k] for k in sorted(d, key=_LAST.__contains__) if _said(c, k, d[k])}
                    for c, d in stated
                ]
        return data

    @classmethod
    def parse(cls, text: str, *, source: str) -> "Schema":
        """Reads YAML (of which JSON is a part).

        Args:
            text: the YAML text.
            source: the name of the file, for messages.

        Raises:
            SchemaError: it is not YAML, or breaks a rule; the message names file and field.
        """
        return parse_model(cls, text, source=source, error=SchemaError)


def parse_model(model: type[M], text: str, *, source: str, error: type[UsageError]) -> M:
    """Reads what a person wrote in YAML into a strict model.

    Raises:
        UsageError: of the class `error`; one line per broken rule, with the nearest known key.
    """
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as e:
        # PyYAML's constructors trip over tags that do not fit their value, e.g. `!!bool maybe`.
        where = getattr(e, "problem_mark", None)
        line = f" at line {where.line + 1}" if where is not None else ""
        problem = getattr(e, "problem", None) or " ".join(str(e).split()) or type(e).__name__
        raise error(f"{source} must be YAML, however: {problem}{line}") from None
    if not isinstance(data, Mapping):
        raise error(f"{source} must hold keys and values, however: it holds {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise error("\n".join(_explain(e, model, source))) from None


class _Dumper(yaml.SafeDumper):
    """Puts strings with unusual line ends into double quotes; PyYAML's other styles lose them."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        unusual = any(c in data for c in "\x85\u2028\u2029")
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if unusual else None)


_Dumper.add_representer(str, _Dumper.represent_str)


class _StrictLoader(yaml.SafeLoader):
    """YAML where a key that stands twice is an error, not a silent overwrite, and 1e-07 is a number, as in JSON.

    A date without quotes is the text that was written: PyYAML would cut its nanoseconds, and write it differently.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - of PyYAML, which copies it before it adds to it
        first: [(tag, form) for tag, form in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            try:
                twice = key in seen
            except TypeError:
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain value", key_node.start_mark
                ) from None
            if twice:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


for _yaml in (_Dumper, _StrictLoader):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _explain(e: ValidationError, model: type[BaseModel], source: str) -> Iterator[str]:
    for problem in e.errors(include_url=False, include_input=True):
        path = ".".join(str(p) for p in problem["loc"]) or "the whole"
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, problem["loc"][:-1])
            hint = nearest(str(problem["loc"][-1]), known) or f"; known are {', '.join(sorted(known))}"
            yield f"{source}: {path}: unknown key{hint}"
        elif problem["type"] == "missing":
            yield f"{source}: {path}: must be given, however: it is missing"
        else:
            kind = _KINDS.get(problem["type"])
            text = f"must be {kind}" if kind else problem["msg"].removeprefix("Value error, ")
            given = problem["input"]
            fact = (
                f", however: {path.split('.')[-1]}={given!r}"
                if isinstance(given, bool | int | float | str)
                else ""
            )
            yield f"{source}: {path}: {text}{fact}"


_KINDS = {
    "tuple_type": "a list, as [a, b]", "list_type": "a list, as [a, b]", "dict_type": "keys and values",
    "model_type": "keys and values", "model_attributes_type": "keys and values", "string_type": "text",
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false",
    "bool_parsing": "true or false",
}  # fmt: skip
"""What pydantic's kinds of error ask for, in words of YAML."""


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model that stands at `loc` inside `model`."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = _inner_model(current.model_fields[str(part)].annotation) or current
    return [field.alias or name for name, field in current.model_fields.items()]


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _inner_model(inner)
        if found is not None:
            return found
    return None


def nearest(name: str, known: Any) -> str:
    """`; did you mean 'x'?` for the known name that is nearest, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


_SIMPLE: dict[str, pa.DataType] = {
    str(t): t
    for t in (
        pa.null(), pa.bool_(), pa.string(), pa.large_string(), pa.date32(), pa.date64(),
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        pa.float16(), pa.float32(), pa.float64(), pa.binary(), pa.large_binary(),
        pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    )
}  # fmt: skip
_SIMPLE[str(IMAGE)] = IMAGE
_SIMPLE |= {"float32": pa.float32(), "float64": pa.float64(), "float16": pa.float16(), "str": pa.string()}


def parse_type(text: str) -> pa.DataType:
    """The Arrow type of that name, the inverse of `str(type)` for every type that a column may have.

    Raises:
        ValueError: no such type.

    Examples:
        >>> parse_type("timestamp[us, tz=UTC]")
        TimestampType(timestamp[us, tz=UTC])
    """
    if text in _SIMPLE:
        return _SIMPLE[text]
    if m := re.fullmatch(r"timestamp\[(s|ms|us|ns)(?:, tz=([^\]]+))?\]", text):
        return pa.timestamp(m[1], tz=m[2])
    if m := re.fullmatch(r"duration\[(s|ms|us|ns)\]", text):
        return pa.duration(m[1])
    if m := re.fullmatch(r"decimal(32|64|128|256)\((\d+), (-?\d+)\)", text):
        makers = {"32": pa.decimal32, "64": pa.decimal64, "128": pa.decimal128, "256": pa.decimal256}
        return makers[m[1]](int(m[2]), int(m[3]))
    m = re.fullmatch(r"dictionary<values=(\w+), indices=(\w+), ordered=([01])>", text)
    if m and m[1] in _SIMPLE and m[2] in _SIMPLE:
        return pa.dictionary(_SIMPLE[m[2]], _SIMPLE[m[1]], ordered=m[3] == "1")
    raise ValueError(
        f"type must be an Arrow type that holds plain values, however: type={text!r}; e.g. int64, string"
    )
