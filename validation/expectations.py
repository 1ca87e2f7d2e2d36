"""Expectations: the release against its schema, and fidelity against its thresholds, by Great Expectations.

Three kinds of frames are validated: rows of the release, a few columns at a time (validation grows faster
than the number of expectations on wide frames); one row per column with what `observe` counted in all shards,
since an all-missing column passes every expectation on rows; one row with a column for each constraint, of the rows
in all shards that break it; and, rule by rule, one row per column or pair with the measures of `validation.gates`.

Great Expectations reads ``$name`` as a parameter and writes HTML without escaping: inside the frames columns
are called c0, c1, …, what is reported is counts, never a value, and Data Docs are never built.
"""

import functools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from privacy.errors import SchemaError
from synth.constraints import breaks, unique_keys
from synth.identifier import Pattern
from synth.rules import Scalar, Unique
from synth.schema import OTHER, REPLACED, Column, Schema
from validation.cells import CONTINUOUS
from validation.fidelity import Fidelity
from validation.gates import GateRules, Level, Measure, measures

if TYPE_CHECKING:
    from validation.reference import Beside

ROWS = 20_000
"""Rows of the release that are validated one by one; `observe` counts in all of them."""

CHUNK = 16
"""Columns of one frame."""

_COUNT = "\0"
"""Where a message says how many; no printed name holds this character."""

_KNOWN = "values must be the schema's categories, pattern or replacement"

CLOSED = frozenset({"categorical", "boolean", "constant"})
"""Kinds whose categories, if the schema lists them, are all that there are."""


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """What all shards of a release hold in one column.

    Attributes:
        name: its name.
        type: its Arrow type; empty if a shard lacks it, several joined by `|` if shards differ.
        rows: values, missing ones included.
        missing: nulls and NaN.
        minimum: smallest value; times as text; None unless it is a number or a time.
        maximum: largest value.
        outside_categories: values that are not among the schema's categories, not of an identifier's pattern,
            or not the word that replaces a text.
        outside_range: values below the schema's min or above its max.
        off_grid: values that are not on the schema's digits or step.
        repeated: values of an identifier that stood before, by 64-bit hashes: a false one has a chance of
            about rows² / 2⁶⁵.
    """

    name: str
    type: str
    rows: int
    missing: int
    minimum: float | int | str | None
    maximum: float | int | str | None
    outside_categories: int
    outside_range: int
    off_grid: int
    repeated: int


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation that was validated.

    Attributes:
        rule: the rule of the gate that it belongs to.
        level: what it means if it failed.
        columns: the columns that it is about; empty for the table, or for all of them if it succeeded.
        expectation: its name in Great Expectations.
        success: whether it holds.
        observed: what was counted or measured.
        limit: what is allowed.
        message: rule, fact, remedy; empty if it succeeded.
    """

    rule: str
    level: Level
    columns: tuple[str, ...]
    expectation: str
    success: bool
    observed: float | int | str | None
    limit: float | int | str | None
    message: str


# ── facts ───────────────────────────────────────────────────────────────────────────────────────────────────


def observe(batches: Iterable[pa.RecordBatch], schema: Schema) -> tuple[ColumnFacts, ...]:
    """Counts, column by column, what all shards hold.

    One batch is in memory at a time, and 8 bytes for each identifier.
    """
    counters = [
        _Counter(column, unique=_is_unique(column) and column.name != schema.unit) for column in schema
    ]
    for batch in batches:
        for counter in counters:
            counter.add(batch)
    return tuple(c.facts() for c in counters)


def observe_constraints(batches: Iterable[pa.RecordBatch], schema: Schema) -> tuple[int, ...]:
    """For each constraint of the schema, how many rows of all shards break it; without any nothing is read.

    One batch is in memory at a time, and 8 bytes a row for each constraint of uniqueness.
    """
    if not schema.constraints:
        return ()
    counts = [0] * len(schema.constraints)
    hashes: dict[int, list[npt.NDArray[np.uint64]]] = {}
    for batch in batches:
        table = pa.Table.from_batches([batch])
        for i, constraint in enumerate(schema.constraints):
            if isinstance(constraint, Unique):
                keys, known = unique_keys(constraint, table)
                hashes.setdefault(i, []).append(keys[known])
            else:
                counts[i] += int(breaks(constraint, table, schema).sum())
    for i, parts in hashes.items():
        whole = np.concatenate(parts)
        counts[i] = len(whole) - len(np.unique(whole))
    return tuple(counts)


def _is_unique(column: Column) -> bool:
    """Whether values of a column must differ from each other."""
    return column.kind == "identifier" or (column.personal is not None and column.personal.unique)


class _Counter:
    """Adds up the facts of one column."""

    def __init__(self, column: Column, *, unique: bool) -> None:
        self._column = column
        self._unique = unique
        self._types: dict[str, None] = {}
        self._rows = self._missing = 0
        self._ends: tuple[Any, Any] | None = None
        self._outside_categories = self._outside_range = self._off_grid = 0
        self._grid: int | None = None
        self._hashes: list[npt.NDArray[np.uint64]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """One batch of one shard."""
        if batch.schema.names.count(self._column.name) != 1:
            self._types.setdefault("")
            return
        values = batch.column(self._column.name)
        self._types.setdefault(str(values.type))
        self._rows += len(values)
        present = _present(values)
        self._missing += len(values) - len(present)
        if len(present) == 0:
            return
        self._outside_categories += int((~_allowed(present, self._column)).sum())
        if self._unique:
            self._hashes.append(_hashes(present))
        if _measurable(present.type):
            self._add_numbers(_ticks(present), present.type)

    def _add_numbers(self, numbers: npt.NDArray[Any], kind: pa.DataType) -> None:
        low, high = numbers.min(), numbers.max()
        before = self._ends
        self._ends = (low, high) if before is None else (min(low, before[0]), max(high, before[1]))
        least, most = _bounds(self._column, kind)
        self._outside_range += int((numbers < least).sum()) if least is not None else 0
        self._outside_range += int((numbers > most).sum()) if most is not None else 0
        step, digits = self._column.step, self._column.digits
        if step is not None and step > 1 and numbers.dtype.kind in "iu":
            rest = numbers % step
            self._grid = int(rest[0]) if self._grid is None else self._grid
            self._off_grid += int((rest != self._grid).sum())
        if digits is not None and numbers.dtype.kind == "f":
            near = 1e-6 if kind in (pa.float16(), pa.float32()) else 1e-9
            numbers = numbers[np.isfinite(numbers)]
            self._off_grid += int(
                (np.abs(numbers - np.round(numbers, digits)) > near * (1 + np.abs(numbers))).sum()
            )

    def facts(self) -> ColumnFacts:
        """The sums."""
        ends = (None, None) if self._ends is None else tuple(_shown(e, self._types) for e in self._ends)
        hashes = np.concatenate(self._hashes) if self._hashes else np.zeros(0, np.uint64)
        self._hashes = []
        hashes.sort()
        return ColumnFacts(
            name=self._column.name,
            type="" if "" in self._types else " | ".join(self._types),
            rows=self._rows,
            missing=self._missing,
            minimum=ends[0],
            maximum=ends[1],
            outside_categories=self._outside_categories,
            outside_range=self._outside_range,
            off_grid=self._off_grid,
            repeated=int((hashes[1:] == hashes[:-1]).sum()),
        )


def _present(values: pa.Array) -> pa.Array:
    """Without nulls and NaN, dictionaries decoded."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    values = values.drop_null()
    return values.filter(pc.invert(pc.is_nan(values))) if pa.types.is_floating(values.type) else values


def _measurable(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(number or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind)))


def _ticks(values: pa.Array) -> npt.NDArray[Any]:
    """Numbers as they are (decimals as float64), times and durations as int64 in the units of their type."""
    kind = values.type
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.int64())
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        values = values.cast(pa.float64())
    numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers


def _shown(value: Any, types: Iterable[str]) -> float | int | str | None:
    """An end of the range as a number, or a time as text."""
    kind = _type(next(iter(types)))
    if kind is None or not pa.types.is_temporal(kind):
        return float(value) if isinstance(value, float) else int(value)
    if pa.types.is_duration(kind):
        return int(value)
    whole = pa.array([int(value)]).cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    plain = pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind
    text: str = whole.cast(plain).cast(pa.string())[0].as_py()
    return text.replace(" ", "T") + ("Z" if getattr(kind, "tz", None) else "")


def _type(text: str) -> pa.DataType | None:
    try:
        return Column(name="c", kind="categorical", type=text).arrow_type
    except ValueError:
        return None


def _bounds(column: Column, kind: pa.DataType) -> tuple[Any, Any]:
    """The schema's min and max in the units of `_ticks`; None where there is none."""
    if column.kind not in CONTINUOUS and column.kind != "identifier":
        return None, None
    return _bound(column.min, kind), _bound(column.max, kind)


def _bound(value: Scalar | None, kind: pa.DataType) -> Any:
    if value is None or not _measurable(kind):
        return None
    if not pa.types.is_temporal(kind):
        try:
            number = float(value) if isinstance(value, str) else value
        except ValueError:
            return None
        return float(np.float32(number)) if kind == pa.float32() else number
    if isinstance(value, str) and (pa.types.is_duration(kind) or pa.types.is_time(kind)):
        return int(pd.Timedelta(value).to_timedelta64().astype(f"timedelta64[{kind.unit}]").astype(np.int64))
    try:
        return int(_ticks(pa.array([value]).cast(kind))[0])
    except pa.ArrowInvalid:
        return _instant(str(value), kind)


def _instant(text: str, kind: pa.DataType) -> int:
    """A time whose text has a zone and its type none, or the other way round, or a date with an hour: as UTC.

    Raises:
        SchemaError: it is no time.
    """
    unit = "D" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    try:
        stamp = pd.Timestamp(text)
    except ValueError:
        raise SchemaError(
            f"min and max of a time must be ISO 8601, however: a column of {kind} has others"
        ) from None
    plain = stamp.tz_convert("UTC").tz_localize(None) if stamp.tzinfo is not None else stamp
    return int(plain.to_numpy().astype(f"datetime64[{unit}]").astype(np.int64))


def _allowed(present: pa.Array, column: Column) -> npt.NDArray[np.bool_]:
    """Which values may stand in the column as far as categories, pattern and replacement say."""
    text = pa.types.is_string(present.type) or pa.types.is_large_string(present.type)
    found: npt.NDArray[np.bool_] | None = None
    if column.kind == "text" and text and column.personal is None:
        found = pc.equal(present, pa.scalar(REPLACED, present.type)).to_numpy(zero_copy_only=False)
    elif column.kind == "identifier" and text and column.pattern is not None:
        regex = f"\\A(?:{_regex(column.pattern)})\\z"
        found = pc.match_substring_regex(present, regex).to_numpy(zero_copy_only=False)
    elif column.kind in CLOSED and column.categories:
        found = pc.is_in(present, value_set=_categories(column, present.type)).to_numpy(zero_copy_only=False)
    return np.ones(len(present), np.bool_) if found is None else found


@functools.lru_cache(maxsize=4096)
def _categories(column: Column, kind: pa.DataType) -> pa.Array:
    """The schema's categories as values of the type; of strings also the word for the pooled ones."""
    listed = list(column.categories or ())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array([*(str(c) for c in listed), OTHER], kind)
    readable: list[Any] = []
    for category in listed:
        try:
            readable.append(pa.array([category]).cast(kind)[0].as_py())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue  # of another type: no value can equal it
    return pa.array(readable, kind)


def _regex(pattern: str) -> str:
    """A regular expression, for RE2 and for Python, of the strings that an identifier's pattern makes."""
    parts = []
    for allowed in Pattern.parse(pattern).positions:
        one = "".join(_escaped(c) for c in allowed)
        parts.append(f"[{one}]" if len(allowed) > 1 else one)
    return "".join(parts)


def _escaped(character: str) -> str:
    """Without `$`, which Great Expectations reads as a parameter."""
    if character.isascii() and not character.isalnum():
        return f"\\x{ord(character):02x}"
    return character


def _hashes(present: pa.Array) -> npt.NDArray[np.uint64]:
    """64 bits for each value: integers and times are their own, the rest is hashed."""
    if pa.types.is_integer(present.type) or pa.types.is_temporal(present.type):
        numbers = _ticks(present)
        return numbers if numbers.dtype == np.uint64 else numbers.astype(np.int64).view(np.uint64)
    texts = np.asarray(present.to_pylist(), dtype=object)
    hashed: npt.NDArray[np.uint64] = pd.util.hash_array(texts, categorize=False)
    return hashed


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """An expectation on a frame, and what a failure means.

    Attributes:
        name: the class of the expectation in Great Expectations.
        arguments: its arguments.
        says: for each row of the frame that may break it, or for the frame, what to report.
        by_row: whether `says` has one entry for each row.
    """

    name: str
    arguments: dict[str, Any]
    says: Sequence[Check]
    by_row: bool = False


def check(
    released: pa.Table,
    facts: Sequence[ColumnFacts],
    fidelity: Fidelity | None,
    schema: Schema,
    rules: GateRules,
    broken: Sequence[int] = (),
) -> tuple[Check, ...]:
    """Validates a release with Great Expectations.

    Args:
        released: rows of the release; the first 20,000 are validated one by one.
        facts: what `observe` counted in all of them.
        fidelity: what was measured; None leaves the fidelity thresholds out.
        schema: the schema of the release.
        rules: the thresholds.
        broken: what `observe_constraints` counted; one for each constraint of the schema, or none at all.

    Returns:
        One check for each expectation that holds, and for each one that fails one for each column that breaks
        it. The same rules as the gate's, so that a failed check is a finding.
    """
    room = _Room()
    out = list(room.validate(_head(released, schema), [_order([f"c{i}" for i in range(len(schema))])]))
    rows = released.slice(0, ROWS)
    present = [c for c in schema if released.schema.names.count(c.name) == 1]
    for start in range(0, len(present), CHUNK):
        some = present[start : start + CHUNK]
        asked = [a for i, c in enumerate(some) for a in _on_rows(c, f"c{i}", rows, schema)]
        frame = pd.DataFrame({f"c{i}": _series(rows.column(c.name), c) for i, c in enumerate(some)})
        out += room.validate(frame, asked)
    out += room.validate(_facts_frame(facts, schema), list(_on_facts(facts, schema)))
    if broken:
        out += room.validate(_constraints_frame(broken), list(_on_constraints(broken, schema)))
    for rule, held in _by_rule(measures(fidelity, rules) if fidelity is not None else ()):
        out += room.validate(_measures_frame(held), _on_measures(rule, held))
    return tuple(out)


def suite(schema: Schema, name: str, beside: "Beside | None" = None) -> dict[str, Any]:
    """What a release's schema says of its rows, as a suite that other projects of Great Expectations can load.

    It is for frames as `pandas.read_parquet` gives them. Without real rows it is one for outside: it says what the
    schema says, with stock expectations, and nothing in it comes from rows. Beside real rows it is one for inside: with
    the expectations of `validation.reference` it holds the table against them, too, and so says which pairs of columns
    hang together. Great Expectations takes ``$`` for a parameter, so names and values with one are left out, as are
    bounds of times, which JSON does not carry, and images.

    Args:
        schema: of the release.
        name: of the suite.
        beside: the real rows; None for a suite for outside.

    Raises:
        InputError: the real rows cannot be read, or lack a column.

    Returns:
        JSON of an `ExpectationSuite`; `meta.left_out` lists what has no rule.
    """
    import great_expectations.expectations as stock

    rows = schema.arrow.empty_table()
    kept: list[Any] = []
    left: list[str] = []
    asked: list[tuple[Column | None, _Asked]] = []
    if all("$" not in n for n in schema.names):
        asked.append((None, _order(schema.names)))
    for column in schema:
        if "$" in column.name or column.image is not None:
            left.append(f"{column.name}: all rules")
            continue
        asked += [(column, a) for a in _on_rows(column, column.name, rows, schema)]
    room = _Room()
    for of, one in asked:
        arguments = dict(one.arguments) if of is None else _native(of, one.arguments)
        if arguments is None:
            left.append(f"{'' if of is None else of.name}: {one.name}")
            continue
        rule = one.says[0].message.partition(", however")[0]
        kept.append(getattr(stock, one.name)(**arguments, meta={"rule": rule}))
    about = {"understudy": "the schema of a synthetic release", "zone": "outside"}
    if beside is not None:
        from validation.reference import against

        more, without = against(schema, beside)
        kept, left = [*kept, *more], [*left, *without]
        about = {
            "understudy": "a synthetic release beside real rows; `import validation.reference` before loading it",
            "zone": "inside: it holds figures of real rows and must not be published",
        }
    return room.as_json(name, kept, {**about, "left_out": left})


def _native(column: Column, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments for a column as pandas reads it; None where JSON or Great Expectations cannot hold them."""
    if "min_value" in arguments and pa.types.is_temporal(column.arrow_type):
        return None
    if "value_set" not in arguments:
        return arguments
    values = list(column.categories or ()) if column.kind in CLOSED else [REPLACED]
    temporal = pa.types.is_temporal(column.arrow_type)
    return None if temporal or any("$" in str(v) for v in values) else {**arguments, "value_set": values}


class _Room:
    """An ephemeral context of Great Expectations without progress bars, telemetry or files."""

    def __init__(self) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing it warns of its own dependencies
            import great_expectations as gx
            from great_expectations.data_context.types.base import ProgressBarsConfig

            # Before any suite: without a context, suites do not know where they belong.
            self._context = gx.get_context(mode="ephemeral")
            self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
            self._source = self._context.data_sources.add_pandas("frames")
        self._count = 0

    def validate(self, frame: pd.DataFrame, asked: Sequence[_Asked]) -> Iterator[Check]:
        """Runs one suite on one frame."""
        import great_expectations as gx
        import great_expectations.expectations as stock

        if not asked:
            return
        self._count += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = self._source.add_dataframe_asset(
                f"frame {self._count}"
            ).add_batch_definition_whole_dataframe("whole")
            suite = gx.ExpectationSuite(
                name=f"suite {self._count}",
                expectations=[
                    getattr(stock, a.name)(**a.arguments, meta={"asked": i}) for i, a in enumerate(asked)
                ],
            )
            definition = gx.ValidationDefinition(
                name=f"validation {self._count}", data=batch, suite=self._context.suites.add(suite)
            )
            results = (
                self._context.validation_definitions.add(definition)
                .run(
                    batch_parameters={"dataframe": frame},
                    result_format={"result_format": "COMPLETE", "partial_unexpected_count": 0},
                )
                .results
            )
        # Results come in an order of their own.
        answered = {_place(r.expectation_config): r for r in results}
        for i, question in enumerate(asked):
            yield from _answers(question, bool(answered[i].success), dict(answered[i].result or {}))

    def as_json(self, name: str, expectations: list[Any], meta: dict[str, Any]) -> dict[str, Any]:
        """A suite that is run elsewhere."""
        import great_expectations as gx

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = gx.ExpectationSuite(name=name, expectations=expectations, meta=meta).to_json_dict()
        return dict(found)


def _place(configuration: Any) -> int:
    """Which of the asked expectations a result answers."""
    return int(configuration.meta["asked"])


def _answers(asked: _Asked, success: bool, result: dict[str, Any]) -> Iterator[Check]:
    first = asked.says[0]
    if success:
        yield Check(
            rule=first.rule, level=first.level, columns=() if asked.by_row else first.columns,
            expectation=asked.name, success=True, observed=0 if asked.by_row else _observed(result, None),
            limit=None if asked.by_row else first.limit, message="",
        )  # fmt: skip
        return
    broken = result.get("unexpected_index_list") if asked.by_row else None
    for row in sorted({int(i) for i in broken or ()}) or ([] if not asked.by_row else range(len(asked.says))):
        yield asked.says[row]
    if not asked.by_row:
        yield Check(
            rule=first.rule, level=first.level, columns=first.columns, expectation=asked.name,
            success=False, observed=_observed(result, first.observed), limit=first.limit,
            message=_counted(first.message, result),
        )  # fmt: skip


def _observed(result: dict[str, Any], otherwise: float | int | str | None) -> float | int | str | None:
    count = result.get("unexpected_count")
    return int(count) if isinstance(count, int | np.integer) else otherwise


def _counted(message: str, result: dict[str, Any]) -> str:
    """With the number of rows that break it, or, if nothing was counted, that it could not be validated."""
    count = _observed(result, None)
    return message.replace(_COUNT, "some" if count is None else f"{count:,}", 1)


def _failure(
    columns: tuple[str, ...],
    expectation: str,
    message: str,
    *,
    level: Level = "critical",
    observed: float | int | str | None = None,
    limit: float | int | str | None = None,
) -> Check:
    """What is said if an expectation of the schema fails."""
    return Check(
        rule="schema",
        level=level,
        columns=columns,
        expectation=expectation,
        success=False,
        observed=observed,
        limit=limit,
        message=message,
    )


def _head(released: pa.Table, schema: Schema) -> pd.DataFrame:
    """The released columns in their order, without rows: c0, c1, … as in the schema, x0, x1, … if unknown."""
    places = {name: f"c{i}" for i, name in enumerate(schema.names)}
    names = [places.get(name, f"x{i}") for i, name in enumerate(released.schema.names)]
    return pd.DataFrame(np.zeros((0, len(names))), columns=names)


_ORDERED = "ExpectTableColumnsToMatchOrderedList"
_ALIKE = (
    "a release must have the schema's columns in their order, however: its columns differ; "
    "see which column's check fails, and sample anew"
)


def _order(names: Sequence[str]) -> _Asked:
    return _Asked(
        name=_ORDERED, arguments={"column_list": list(names)}, says=[_failure((), _ORDERED, _ALIKE)]
    )


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────


def _series(values: pa.ChunkedArray, column: Column) -> pd.Series:
    """A column as Great Expectations reads it: numbers and times as integers or floats, all else as text."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if not _measurable(kind) or column.kind in CLOSED:
        texts = [None if v is None else _unsigned(_text(v)) for v in values.to_pylist()]
        return pd.Series(texts, dtype=object)
    plain = values.combine_chunks()
    plain = plain.combine_chunks() if isinstance(plain, pa.ChunkedArray) else plain
    filled = plain.fill_null(0) if pa.types.is_integer(kind) else plain
    if pa.types.is_temporal(kind):
        filled = plain.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).fill_null(0).cast(pa.int64())
        return pd.Series(pd.arrays.IntegerArray(_owned(filled), _nulls(plain)))
    if pa.types.is_integer(kind):
        return pd.Series(pd.arrays.IntegerArray(_owned(filled), _nulls(plain)))
    return pd.Series(plain.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _owned(values: pa.Array) -> npt.NDArray[Any]:
    return np.array(values.to_numpy(zero_copy_only=False))


def _nulls(values: pa.Array) -> npt.NDArray[np.bool_]:
    return np.array(values.is_null().to_numpy(zero_copy_only=False))


def _text(value: object) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _unsigned(text: str) -> str:
    """Without `$`, in a way that cannot be mistaken."""
    return text.replace("\ue024", "\ue024\ue024").replace("$", "\ue024-")


def _on_rows(column: Column, place: str, rows: pa.Table, schema: Schema) -> Iterator[_Asked]:
    """What the schema says of a column's values, row by row."""
    kind = rows.schema.field(column.name).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    named = (column.name,)

    def asked(name: str, message: str, **arguments: Any) -> _Asked:
        return _Asked(
            name=name,
            arguments={"column": place, **arguments},
            says=[_failure(named, name, message, limit=0)],
        )

    if column.kind == "empty":
        yield asked(
            "ExpectColumnValuesToBeNull",
            f"an empty column must hold nothing, however: {column.name!r} holds {_COUNT} values; sample anew",
        )
        return
    if not column.nullable:
        yield asked(
            "ExpectColumnValuesToNotBeNull",
            f"a column that is not nullable must be full, however: {column.name!r} misses {_COUNT} values; "
            f"set `nullable: true`, or sample anew",
        )
    least, most = _bounds(column, kind)
    if least is not None or most is not None:
        yield asked(
            "ExpectColumnValuesToBeBetween",
            f"values must lie within the schema's min and max, however: {column.name!r} has {_COUNT} "
            f"outside; correct the schema, or sample anew",
            min_value=least,
            max_value=most,
        )
    closed = column.kind in CLOSED and bool(column.categories)
    if closed or (column.kind == "text" and column.personal is None and _is_text(kind)):
        values = _categories(column, kind).to_pylist() if closed else [REPLACED]
        yield asked(
            "ExpectColumnValuesToBeInSet",
            f"{_KNOWN}, however: {column.name!r} has {_COUNT} others; correct the schema, or sample anew",
            value_set=[_unsigned(_text(v)) for v in values],
        )
    if column.kind != "identifier":
        return
    if column.pattern is not None and _is_text(kind) and "$" not in column.pattern:
        yield asked(
            "ExpectColumnValuesToMatchRegex",
            f"{_KNOWN}, however: {column.name!r} has {_COUNT} others; correct the pattern, or sample anew",
            regex=f"\\A(?:{_regex(column.pattern)})\\Z",
        )
    if column.name != schema.unit:
        yield asked(
            "ExpectColumnValuesToBeUnique",
            f"identifiers must differ from each other, however: {column.name!r} has {_COUNT} that do not; "
            f"use a longer pattern, or release fewer rows",
        )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


# ── facts and measures ──────────────────────────────────────────────────────────────────────────────────────


def _facts_frame(facts: Sequence[ColumnFacts], schema: Schema) -> pd.DataFrame:
    """One row per column of the schema; a column without facts has no type and no rows."""
    known = {f.name: f for f in facts}
    found = [known.get(c.name, _unknown(c)) for c in schema]
    columns = list(schema)
    return pd.DataFrame(
        {
            "type": [f.type for f in found],
            "type_expected": [str(c.arrow_type) for c in columns],
            "rows": [f.rows for f in found],
            "rows_expected": [max((f.rows for f in facts), default=0)] * len(columns),
            "missing": [f.missing for f in found],
            "missing_most": [f.rows if c.nullable else 0 for f, c in zip(found, columns, strict=True)],
            "missing_least": [
                f.rows if c.kind == "empty" else 0 for f, c in zip(found, columns, strict=True)
            ],
            "outside_categories": [f.outside_categories for f in found],
            "outside_range": [f.outside_range for f in found],
            "off_grid": [f.off_grid for f in found],
            "repeated": [f.repeated for f in found],
        }
    )


def _unknown(column: Column) -> ColumnFacts:
    return ColumnFacts(
        name=column.name, type="", rows=0, missing=0, minimum=None, maximum=None,
        outside_categories=0, outside_range=0, off_grid=0, repeated=0,
    )  # fmt: skip


def _on_facts(facts: Sequence[ColumnFacts], schema: Schema) -> Iterator[_Asked]:
    frame = _facts_frame(facts, schema)
    names = schema.names

    def asked(
        name: str,
        arguments: dict[str, Any],
        observed: str,
        limit: str | int,
        message: str,
        level: Level = "critical",
    ) -> _Asked:
        limits = frame[limit].tolist() if isinstance(limit, str) else [limit] * len(frame)
        says = [
            _failure(
                (column,),
                name,
                message.format(column=repr(column), value=_number(value), limit=_number(most)),
                level=level,
                observed=value,
                limit=most,
            )
            for column, value, most in zip(names, frame[observed].tolist(), limits, strict=True)
        ]
        return _Asked(name=name, arguments=arguments, says=says, by_row=True)

    def none(count: str, message: str, level: Level = "critical") -> _Asked:
        bounds = {"column": count, "min_value": 0, "max_value": 0}
        return asked("ExpectColumnValuesToBeBetween", bounds, count, 0, message, level)

    yield _Asked(
        name="ExpectTableRowCountToEqual",
        arguments={"value": len(schema)},
        says=[
            _failure(
                (), "ExpectTableRowCountToEqual", "every column must be checked; report this as a defect"
            )
        ],
    )
    yield asked(
        "ExpectColumnPairValuesToBeEqual", {"column_A": "type", "column_B": "type_expected"},
        "type", "type_expected",
        "a column must be in every shard with the schema's type, however: {column} is {value}, not {limit}; "
        "sample anew",
    )  # fmt: skip
    yield asked(
        "ExpectColumnPairValuesToBeEqual", {"column_A": "rows", "column_B": "rows_expected"},
        "rows", "rows_expected",
        "every column must have every row, however: {column} has {value} of {limit}; sample anew",
    )  # fmt: skip
    yield asked(
        "ExpectColumnValuesToBeBetween", {"column": "rows", "min_value": 1}, "rows", 1,
        "a release must have rows, however: {column} has {value}; sample anew",
    )  # fmt: skip
    yield asked(
        "ExpectColumnPairValuesAToBeGreaterThanB",
        {"column_A": "missing_most", "column_B": "missing", "or_equal": True}, "missing", "missing_most",
        "a column that is not nullable must be full, however: {column} misses {value} values; "
        "set `nullable: true`, or sample anew",
    )  # fmt: skip
    yield asked(
        "ExpectColumnPairValuesAToBeGreaterThanB",
        {"column_A": "missing", "column_B": "missing_least", "or_equal": True}, "missing", "missing_least",
        "an empty column must hold nothing, however: {column} misses only {value} of {limit}; sample anew",
    )  # fmt: skip
    yield none(
        "outside_categories",
        _KNOWN + ", however: {column} has {value} others; correct the schema, or sample anew",
    )
    yield none(
        "outside_range",
        "values must lie within the schema's min and max, however: {column} has {value} outside; "
        "correct the schema, or sample anew",
    )
    yield none(
        "off_grid",
        "values should lie on the schema's digits or step, however: {column} has {value} that do not; "
        "correct the schema",
        "warning",
    )
    yield none(
        "repeated",
        "identifiers must differ from each other, however: {column} repeats {value}; "
        "use a longer pattern, or release fewer rows",
    )


def _constraints_frame(broken: Sequence[int]) -> pd.DataFrame:
    """One row, with a column of the rows that break it for each constraint."""
    return pd.DataFrame({f"k{i}": [count] for i, count in enumerate(broken)})


def _on_constraints(broken: Sequence[int], schema: Schema) -> Iterator[_Asked]:
    name = "ExpectColumnValuesToBeBetween"
    for i, (constraint, count) in enumerate(zip(schema.constraints, broken, strict=True)):
        message = (
            f"a constraint of the schema must hold in every row, however: {constraint}: {count:,} rows break it; "
            "sample anew, or correct the constraint"
        )
        yield _Asked(
            name=name,
            arguments={"column": f"k{i}", "min_value": 0, "max_value": 0},
            says=[_failure(constraint.names, name, message, observed=count, limit=0)],
        )


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else (str(value) or "absent")


def _by_rule(held: Sequence[Measure]) -> Iterator[tuple[str, list[Measure]]]:
    for rule in dict.fromkeys(m.rule for m in held):
        yield rule, [m for m in held if m.rule == rule]


def _measures_frame(held: Sequence[Measure]) -> pd.DataFrame:
    """One row per column, or pair of columns, of one rule."""
    return pd.DataFrame({"value": [m.value for m in held], "limit": [m.limit for m in held]})


def _on_measures(rule: str, held: Sequence[Measure]) -> list[_Asked]:
    within = "ExpectColumnPairValuesAToBeGreaterThanB"
    says = [
        Check(
            rule=m.rule, level=m.level, columns=m.columns, expectation=within, success=False,
            observed=m.value, limit=m.limit, message=m.message,
        )
        for m in held
    ]  # fmt: skip
    full = [
        Check(
            rule=m.rule, level=m.level, columns=m.columns, expectation="ExpectColumnValuesToNotBeNull",
            success=False, observed=None, limit=m.limit,
            message=f"the rule {rule} must be measured, however: there is no value; report this as a defect",
        )
        for m in held
    ]  # fmt: skip
    return [
        _Asked(name="ExpectColumnValuesToNotBeNull", arguments={"column": "value"}, says=full, by_row=True),
        _Asked(
            name=within,
            arguments={"column_A": "limit", "column_B": "value", "or_equal": True},
            says=says,
            by_row=True,
        ),
    ]
