"""Reference: expectations that hold a table against real rows, for projects of Great Expectations.

For a team that has the real table beside the synthetic one. Importing this module registers them, and then
`gx.ExpectationSuite(**json)` loads what `understudy expectations export RELEASE --reference REAL` wrote.

| expectation | holds where |
|---|---|
| `ExpectColumnDistributionToMatchReference` | shape, missing rate and categories are lost no further than chance does |
| `ExpectColumnPairAssociationToMatchReference` | two columns keep half of their association, less chance |
| `ExpectTableCopiesOfReferenceToBeByChance` | no more rows equal a real one than held-out rows do |
| `ExpectTableToBeHardToTellFromReference` | trees do not surely tell rows from real ones |

`reference` names Parquet, a file or a folder, of the rows that the table was learned from, and `holdout` real rows that
it was not; without it a fifth of the reference, drawn at random, is the ceiling. Either may be `{"$PARAMETER": "name"}`
and is then given when the suite is run. Values and limits are the gate's (`validation.gates`), each expectation by
itself. Batches are pandas frames. Results hold shares and counts of real rows and names of columns, so they belong to
the inside; they hold no value.
"""

import functools
import re
import warnings
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from privacy.errors import InputError
from synth.keys import NOT_CONVERTED
from synth.schema import Column, Schema
from validation.associations import associations
from validation.cells import CONTINUOUS, Cells, cells_of
from validation.detection import FEWEST, Detection, detect
from validation.features import Features, draw
from validation.fidelity import Fidelity, count_copies, sketch
from validation.gates import GateRules, Measure, detections, measures

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing it warns of its own dependencies
    from great_expectations.compatibility import pydantic
    from great_expectations.core.metric_domain_types import MetricDomainTypes
    from great_expectations.core.suite_parameters import SuiteParameterDict
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
    from great_expectations.expectations.expectation import BatchExpectation
    from great_expectations.expectations.metadata_types import FailureSeverity
    from great_expectations.expectations.metrics.metric_provider import metric_value
    from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
    from great_expectations.render.components import LegacyRendererType, RenderedStringTemplateContent
    from great_expectations.render.renderer.renderer import renderer
    from great_expectations.render.renderer_configuration import RendererValueType

LearnedKind = Literal["numerical", "categorical", "boolean", "datetime", "duration", "constant"]
"""Kinds of columns that have a distribution."""

ROWS = 50_000
"""Rows of each table that are drawn at most."""

HELD = 0.2
"""Share of the reference that is held out where no held-out rows are given."""

_RULES = GateRules()


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The real rows, and how they are read; see the module.

    Attributes:
        reference: path of the rows that the table was learned from.
        holdout: path of real rows that it was not; None holds out a fifth of the reference.
        unit: column of the reference whose equal values mean one person; None: each row is one.
        at_least: units below which disclosure control keeps a category back.
        rows: of each table that are drawn at most.
        seed: of what is drawn.
    """

    reference: str
    holdout: str | None = None
    unit: str | None = None
    at_least: int = 10
    rows: int = ROWS
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    """Rows in the same columns and types, and the unit of each training row, None where each is one."""

    train: pa.Table
    holdout: pa.Table
    synthetic: pa.Table
    schema: Schema
    units: npt.NDArray[np.uint64] | None


def _tables(frame: pd.DataFrame, kinds: Mapping[str, LearnedKind], beside: Beside) -> _Tables:
    """Reads the real rows, and the frame in their types.

    Raises:
        InputError: a table lacks a column, has no row, or its values are of another type.
    """
    names = list(kinds)
    real = _drawn(beside.reference, [*names, *_unit_beside(names, beside)], beside)
    if beside.holdout is None:
        train, holdout = _split(real, beside)
    else:
        train, holdout = real, _drawn(beside.holdout, names, beside)
    absent = [n for n in names if n not in frame.columns]
    if absent:
        raise InputError(f"a batch must have the columns of its reference, however: it has no {absent[0]!r}")
    if not len(frame) or not train.num_rows:
        raise InputError("both tables must have rows, however: one has none")
    some = frame[names].iloc[draw(len(frame), beside.rows, np.random.default_rng(beside.seed))]
    arrays = {n: _arrow(some[n], n) for n in names}
    columns = {n: _column(n, k, real.schema.field(n).type, arrays[n]) for n, k in kinds.items()}
    schema = Schema(columns=tuple(columns.values()))
    return _Tables(
        train=_as(train, schema, "the reference"),
        holdout=_as(holdout, schema, "the held-out rows"),
        synthetic=_as(pa.table(arrays), schema, "the batch"),
        schema=schema,
        units=None if beside.unit is None else _units(train.column(beside.unit)),
    )


def _unit_beside(names: Sequence[str], beside: Beside) -> list[str]:
    return [beside.unit] if beside.unit is not None and beside.unit not in names else []


def _drawn(path: str, names: Sequence[str], beside: Beside) -> pa.Table:
    """Columns of rows of Parquet that are drawn uniformly; rows of all others pass by in batches."""
    files = [_opened(*f) for f in _files(path)]
    total = sum(f.metadata.num_rows for f in files)
    chosen = draw(total, beside.rows, np.random.default_rng(beside.seed))
    kept, start = [], 0
    for file in files:
        absent = [n for n in names if n not in file.schema_arrow.names]
        if absent:
            raise InputError(f"real rows must have every column, however: {path} has no {absent[0]!r}")
        for batch in file.iter_batches(batch_size=65_536, columns=list(names), use_threads=False):
            first, end = np.searchsorted(chosen, (start, start + len(batch)))
            start += len(batch)
            if first < end:
                kept.append(
                    batch.take(pa.array(chosen[first:end] - (start - len(batch)))).select(list(names))
                )
    if not kept:
        raise InputError(f"real rows must be there, however: {path} has none")
    return pa.concat_tables([pa.Table.from_batches([b]) for b in kept], promote_options="permissive")


def _files(path: str) -> list[tuple[str, int, int]]:
    """The Parquet files of a path, and what tells whether one was changed: when, and its bytes."""
    place = Path(path)
    try:
        found = sorted(p for p in place.rglob("*.parquet") if p.is_file()) if place.is_dir() else [place]
        stats = [(str(p), p.stat()) for p in found]
    except OSError:
        raise InputError(
            f"real rows must be a Parquet file or a folder of some, however: {path} is none"
        ) from None
    if not stats:
        raise InputError(f"a folder of real rows must hold Parquet files, however: {path} has none")
    return [(name, s.st_mtime_ns, s.st_size) for name, s in stats]


@functools.lru_cache(maxsize=16)
def _opened(path: str, _changed: int, _size: int) -> pq.ParquetFile:
    """A file whose footer was read: that of a wide table takes longer than one of its columns."""
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException):
        raise InputError(
            f"real rows must be Parquet, however: {path} is not; pandas.read_csv(…).to_parquet(…) makes it so"
        ) from None


def _split(real: pa.Table, beside: Beside) -> tuple[pa.Table, pa.Table]:
    """Four fifths and one of the rows, all rows of a unit on one side."""
    rng = np.random.default_rng([beside.seed, 1])
    units = np.arange(real.num_rows) if beside.unit is None else _units(real.column(beside.unit))
    _, place = np.unique(units, return_inverse=True)
    held = (rng.random(int(place.max(initial=-1)) + 1) < HELD)[place]
    return real.filter(pa.array(~held)), real.filter(pa.array(held))


def _units(values: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """A number for each unit; a row without one is one of its own."""
    encoded = values.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(codes < 0, len(encoded.dictionary) + np.arange(len(codes)), codes).astype(np.uint64)


def _arrow(values: pd.Series, name: str) -> pa.Array:
    try:
        found = pa.Array.from_pandas(values)
    except NOT_CONVERTED:
        raise InputError(
            f"a column must hold values of one type, however: {name!r} of the batch does not"
        ) from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _column(name: str, kind: LearnedKind, real: pa.DataType, made: pa.Array) -> Column:
    """What both sides are read as: the type of the real rows, and floats where numbers are of several types."""
    real = real.value_type if pa.types.is_dictionary(real) else real
    number = pa.types.is_integer(real) or pa.types.is_floating(real) or pa.types.is_decimal(real)
    if kind in CONTINUOUS and not (number or pa.types.is_temporal(real) or pa.types.is_null(real)):
        raise InputError(
            f"a {kind} column must hold numbers or times, however: {name!r} is {real}; correct its kind"
        )
    if pa.types.is_large_string(real) or str(real) == "string_view":
        real = pa.string()
    elif number and not pa.types.is_null(made.type) and made.type != real and kind in CONTINUOUS:
        real = pa.float64()
    try:
        return Column(name=name, kind=kind, type=str(real))
    except ValueError:
        raise InputError(
            f"a column must be of a plain type, however: {name!r} is {real}; leave it out"
        ) from None


def _as(table: pa.Table, schema: Schema, what: str) -> pa.Table:
    arrays = []
    for column in schema:
        values = table.column(column.name)
        try:
            plain = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
            arrays.append(plain.cast(column.arrow_type, safe=False))
        except NOT_CONVERTED:
            raise InputError(
                f"both tables must write values alike, however: {column.name!r} of {what} is {values.type}, not "
                f"{column.type}; convert it"
            ) from None
    return pa.table(arrays, schema=schema.arrow.remove_metadata())


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────


def _sketched(frame: pd.DataFrame, kinds: Mapping[str, LearnedKind], beside: Beside) -> Fidelity:
    t = _tables(frame, kinds, beside)
    return sketch(
        t.train, t.holdout, t.synthetic, t.schema, at_least=beside.at_least, seed=beside.seed, units=t.units
    )


def _copied(frame: pd.DataFrame, kinds: Mapping[str, LearnedKind], beside: Beside) -> Fidelity:
    t = _tables(frame, kinds, beside)
    return count_copies(
        t.train, t.holdout, t.synthetic, t.schema, at_least=beside.at_least, seed=beside.seed, units=t.units
    )


def _told(frame: pd.DataFrame, kinds: Mapping[str, LearnedKind], beside: Beside) -> Detection:
    t = _tables(frame, kinds, beside)
    cells = [cells_of(c, (t.train, t.holdout, t.synthetic)) for c in t.schema]
    found = detect(Features.of(cells), t.synthetic, seed=beside.seed)
    if found is None:
        raise InputError(f"a two-sample test needs {FEWEST} rows of each side, however: one has fewer")
    return found


PAIRS = 500
"""Pairs that are watched at most beside the strongest of each column."""


def strong_pairs(
    kinds: Mapping[str, LearnedKind], beside: Beside, rules: GateRules = _RULES
) -> tuple[list[tuple[str, str, float]], int]:
    """The pairs of columns that the gate watches in the reference, with their association, and how many more there are.

    Raises:
        InputError: the real rows cannot be read.
    """
    names = list(kinds)
    real = _drawn(beside.reference, names, beside)
    columns = (_column(n, k, real.schema.field(n).type, pa.nulls(0)) for n, k in kinds.items())
    schema = Schema(columns=tuple(columns))
    table = _as(real, schema, "the reference")
    cells: list[Cells] = [cells_of(c, (table, table.slice(0, 0), table.slice(0, 0))) for c in schema]
    strength = associations(cells, at_least=beside.at_least, seed=beside.seed)["train"]
    watched: dict[frozenset[int], float] = {}
    for i in range(len(names)):
        j = int(np.argmax(strength[i]))
        if strength[i, j] >= rules.association_at_least:
            watched[frozenset((i, j))] = float(strength[i, j])
    others = [
        (i, j) for i, j in np.argwhere(np.triu(strength, 1) >= rules.pair_at_least).tolist()
        if frozenset((i, j)) not in watched
    ]  # fmt: skip
    others.sort(key=lambda p: -strength[p[0], p[1]])
    watched |= {frozenset(p): float(strength[p[0], p[1]]) for p in others[:PAIRS]}
    found = [(names[min(p)], names[max(p)], value) for p, value in watched.items()]
    return found, max(0, len(others) - PAIRS)


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────────────────


_Figure = Callable[[pd.DataFrame, Mapping[str, LearnedKind], Beside], Fidelity | Detection]

_BESIDE = ("reference", "holdout", "unit", "at_least", "rows", "seed")


def _frame(engine: Any, domain: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(engine.get_compute_domain(domain, domain_type=MetricDomainTypes.TABLE)[0])


def _beside(said: Mapping[str, Any]) -> Beside:
    return Beside(**{k: said[k] for k in _BESIDE if said.get(k) is not None})


def _kinds(said: Mapping[str, Any]) -> dict[str, LearnedKind]:
    """Columns and their kinds as an expectation says them: one, two, or all."""
    if "kinds" in said:
        return dict(said["kinds"])
    ends = ("",) if "column" in said else ("_A", "_B")
    return {said[f"column{end}"]: said[f"kind{end}"] for end in ends}


def _register(name: str, keys: tuple[str, ...], figure: _Figure) -> None:
    """Makes a figure known as a metric; expectations that ask for the same one share it."""

    class Metric(TableMetricProvider):
        metric_name = name
        value_keys = (*keys, *_BESIDE)

        @metric_value(engine=PandasExecutionEngine)
        def _pandas(
            cls,  # noqa: N805
            execution_engine: Any,
            metric_domain_kwargs: dict[str, Any],
            metric_value_kwargs: dict[str, Any],
            metrics: Any,
            runtime_configuration: Any,
        ) -> Any:
            said = metric_value_kwargs
            return figure(_frame(execution_engine, metric_domain_kwargs), _kinds(said), _beside(said))


COLUMN, PAIR, COPIES, TWO_SAMPLE = (
    f"understudy.reference.{n}" for n in ("column", "pair", "copies", "two_sample")
)
_register(COLUMN, ("column", "kind"), _sketched)
_register(PAIR, ("column_A", "kind_A", "column_B", "kind_B"), _sketched)
_register(COPIES, ("kinds",), _copied)
_register(TWO_SAMPLE, ("kinds",), _told)


# ── expectations ────────────────────────────────────────────────────────────────────────────────────────────


def _said(default: Any, description: str) -> Any:
    return pydantic.Field(default=default, description=description)


_Path = str | SuiteParameterDict[str, Any]


class _AgainstReference(BatchExpectation, ABC):
    """What these expectations have in common: the real rows, and how a result is written."""

    reference: _Path = _said(..., "Parquet, a file or a folder, of the rows that the table was learned from")
    holdout: _Path | None = _said(
        None, "Parquet of real rows that it was not learned from, whose figures are the ceiling"
    )
    unit: str | None = _said(None, "column of the reference whose equal values mean one person")
    at_least: int = _said(10, "people below which disclosure control keeps a category back")
    rows: int = _said(ROWS, "rows of each table that are drawn at most")
    seed: int = _said(0, "of what is drawn")

    library_metadata: ClassVar[dict[str, Any]] = {
        "maturity": "production",
        "tags": ["synthetic data", "reference"],
        "contributors": ["understudy"],
    }

    class Config:
        """Of pydantic: what Great Expectations shows of an expectation beside its fields."""

        @staticmethod
        def schema_extra(schema: dict[str, Any], model: Any) -> None:
            """Adds the first line of the docstring, and what data it is for."""
            BatchExpectation.Config.schema_extra(schema, model)
            schema["properties"]["metadata"]["properties"] |= {
                "short_description": {"type": "string", "const": (model.__doc__ or "").partition("\n")[0]},
                "supported_data_sources": {"type": "array", "const": ["Pandas"]},
                "library_metadata": {"type": "object", "const": model.library_metadata},
            }

    sentence: ClassVar[str]
    """What is expected; `$name` stands for an argument."""

    @classmethod
    def _prescriptive_template(cls, renderer_configuration: Any) -> Any:
        """The sentence as Great Expectations' own service shows it."""
        for name in re.findall(r"\$(\w+)", cls.sentence):
            number = isinstance(cls.__fields__[name].default, int | float)
            renderer_configuration.add_param(
                name=name, param_type=RendererValueType.NUMBER if number else RendererValueType.STRING
            )
        renderer_configuration.template_str = cls.sentence
        return renderer_configuration

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    def _prescriptive_renderer(
        cls, configuration: Any = None, result: Any = None, runtime_configuration: Any = None
    ) -> list[RenderedStringTemplateContent]:
        """The sentence as the pages of a project show it."""
        said = configuration or result.expectation_config
        names = re.findall(r"\$(\w+)", cls.sentence)
        params = {n: said.kwargs.get(n, cls.__fields__[n].default) for n in names}
        template = {
            "template": cls.sentence,
            "params": params,
            "styling": (runtime_configuration or {}).get("styling"),
        }
        return [RenderedStringTemplateContent(content_block_type="string_template", string_template=template)]


def _result(observed: float | None, held: Sequence[Measure], **details: Any) -> dict[str, Any]:
    """An answer of Great Expectations: whether all hold, and each with its limit."""
    rules = [
        {"rule": m.rule, "observed": m.value, "limit": m.limit, "success": m.holds}
        for m in sorted(held, key=lambda m: m.holds)
    ]
    return {
        "success": all(m.holds for m in held),
        "result": {"observed_value": observed, "details": {**details, "rules": rules}},
    }


def _critical(fidelity: Fidelity, rules: GateRules, *about: str) -> list[Measure]:
    return [m for m in measures(fidelity, rules) if m.level == "critical" and m.rule in about]


def _rows(fidelity: Fidelity) -> dict[str, int]:
    return {
        "reference": fidelity.rows_train, "holdout": fidelity.rows_holdout, "batch": fidelity.rows_synthetic
    }  # fmt: skip


class ExpectColumnDistributionToMatchReference(_AgainstReference):
    """Expect a column to be distributed as in the real rows: its shape, its missing rate, and its categories.

    The distance is Kolmogorov and Smirnov's for numbers and times, the total variation for categories (SDMetrics'
    column shape is 1 less it). It may exceed what as many real rows would show by `shape_lost` points and what
    sampling adds; the missing rate may be off by `missing_points` and three standard errors; no category of
    `category_units` real rows may be lost, unless chance explains it.
    """

    column: str = _said(..., "name of the column")
    kind: LearnedKind = _said(..., "what its values are")
    shape_lost: float = _said(_RULES.shape_lost, "points that the distance may lie above its ceiling")
    missing_points: float = _said(_RULES.missing_points, "points that the missing rate may be off")
    category_units: int = _said(_RULES.category_units, "a category of so many real rows must not be lost")

    metric_dependencies: ClassVar[tuple[str, ...]] = (COLUMN,)
    success_keys: ClassVar[tuple[str, ...]] = (
        "column",
        "kind",
        "shape_lost",
        "missing_points",
        "category_units",
        *_BESIDE,
    )

    sentence = (
        "$column must be distributed as in $reference: within $shape_lost points, and chance, of real rows."
    )

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> Any:
        found: Fidelity = metrics[COLUMN]
        rules = GateRules(
            shape_lost=self.shape_lost, missing_points=self.missing_points, category_units=self.category_units
        )
        (column,) = found.columns
        distance, ceiling = (None if s is None else 1 - s for s in (column.shape, column.shape_ceiling))
        held = _critical(found, rules, "shape", "missing", "category")
        return _result(distance, held, ceiling=ceiling, rows=_rows(found))


class ExpectColumnPairAssociationToMatchReference(_AgainstReference):
    """Expect two columns to hang together as in the real rows.

    The association is |Spearman| of two numbers, the correlation ratio of a number and a category, and Cramér's V of
    two categories, in [0, 1]. Where it is 0.1 or more in the reference, and held-out rows keep it,
    `association_kept` of it must be kept, less three standard errors; and two categories that `group_share` of the real
    rows have together must occur together.
    """

    column_A: str = _said(..., "name of a column")  # noqa: N815
    column_B: str = _said(..., "name of another")  # noqa: N815
    kind_A: LearnedKind = _said(..., "what the values of the first are")  # noqa: N815
    kind_B: LearnedKind = _said(..., "what the values of the other are")  # noqa: N815
    association_kept: float = _said(_RULES.association_kept, "share of the association that is kept")
    group_share: float = _said(_RULES.group_share, "two categories together in this share must not be lost")

    metric_dependencies: ClassVar[tuple[str, ...]] = (PAIR,)
    success_keys: ClassVar[tuple[str, ...]] = (
        "column_A", "kind_A", "column_B", "kind_B", "association_kept", "group_share", *_BESIDE
    )  # fmt: skip

    sentence = (
        "$column_A and $column_B must keep $association_kept of their association in $reference, less chance."
    )

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> Any:
        found: Fidelity = metrics[PAIR]
        rules = GateRules(association_kept=self.association_kept, group_share=self.group_share)
        (pair,) = found.pairs
        held = _critical(found, rules, "association", "group")
        return _result(
            pair.association_synthetic, held,
            reference=pair.association_real, holdout=pair.association_holdout, rows=_rows(found),
        )  # fmt: skip


class ExpectTableCopiesOfReferenceToBeByChance(_AgainstReference):
    """Expect no more rows to equal a real one than chance explains.

    Counted are rows that equal, in every column of `kinds`, a real row that fewer than `at_least` people share. Their
    share may exceed that of held-out rows, and of real rows beside each other, by `copies_z` standard errors.
    """

    kinds: dict[str, LearnedKind] = _said(..., "the columns that are compared, and what their values are")
    copies_z: float = _said(_RULES.copies_z, "standard errors that copies may exceed chance by")

    metric_dependencies: ClassVar[tuple[str, ...]] = (COPIES,)
    success_keys: ClassVar[tuple[str, ...]] = ("kinds", "copies_z", *_BESIDE)

    sentence = "Rows must equal rows of $reference no more often than real rows do, within $copies_z standard errors."

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> Any:
        found: Fidelity = metrics[COPIES]
        held = _critical(found, GateRules(copies_z=self.copies_z), "copies")
        return _result(
            found.copies_rare, held,
            all_copies=found.copies, holdout=found.copies_rare_holdout, rows=_rows(found),
        )  # fmt: skip


class ExpectTableToBeHardToTellFromReference(_AgainstReference):
    """Expect gradient-boosted trees not to tell rows from real ones (the classifier two-sample test).

    The figure is the area under the curve of out-of-fold scores, 0.5 is best. It fails where the lower end of its 95 %
    interval exceeds `detection_auc`. Details name the columns that give rows away.
    """

    kinds: dict[str, LearnedKind] = _said(..., "the columns that trees read, and what their values are")
    detection_auc: float = _said(_RULES.detection_auc, "area under the curve that may be reached")

    metric_dependencies: ClassVar[tuple[str, ...]] = (TWO_SAMPLE,)
    success_keys: ClassVar[tuple[str, ...]] = ("kinds", "detection_auc", *_BESIDE)

    sentence = (
        "Trees must not surely tell rows from $reference with an area under the curve above $detection_auc."
    )

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> Any:
        found: Detection = metrics[TWO_SAMPLE]
        held = detections(found, GateRules(detection_auc=self.detection_auc))
        ceiling = None if found.ceiling is None else found.ceiling.value
        giveaways = [{"column": name, "auc_lost": value} for name, value in found.giveaways]
        return _result(
            found.auc.value, held, low=found.auc.low, ceiling=ceiling, giveaways=giveaways,
            rows={"reference": found.rows, "batch": found.rows},
        )  # fmt: skip


# ── a suite of them ─────────────────────────────────────────────────────────────────────────────────────────


TREE_COLUMNS = 100
"""Columns that trees read at most, drawn by the seed: of a thousand they take minutes."""

CELLS = 1 << 22
"""Cells of each table that are drawn at most: of a thousand columns 4,194 rows, so that they take seconds."""


def against(schema: Schema, beside: Beside) -> tuple[list[Any], list[str]]:
    """Expectations that hold a release against real rows, and what of it has none.

    Which pairs are watched, and their association, is taken from the reference.

    Raises:
        InputError: the real rows cannot be read, or lack a column.
    """
    left = [f"{c.name}: distribution" for c in schema if c.learned and "$" in c.name]
    kinds = _learned(schema)
    if not kinds:
        return [], left
    beside = replace(beside, rows=max(2_000, min(beside.rows, CELLS // len(kinds))))
    said = {k: v for k, v in asdict(beside).items() if v is not None}
    # The reference is mostly the whole table, and what is rare is pooled by the part of it that was not held out.
    units = max(_RULES.category_units, 2 * beside.at_least)
    pairs, more = strong_pairs(kinds, beside)
    if more:
        left.append(f"{more:,} more pairs of columns")
    found: list[Any] = [
        ExpectColumnDistributionToMatchReference(column=name, kind=kind, category_units=units, **said)
        for name, kind in kinds.items()
    ]
    found += [
        ExpectColumnPairAssociationToMatchReference(
            column_A=a,
            kind_A=kinds[a],
            column_B=b,
            kind_B=kinds[b],
            **said,
            meta={"association": round(value, 3)},
        )
        for a, b, value in pairs
    ]
    found.append(ExpectTableCopiesOfReferenceToBeByChance(kinds=kinds, **said))
    found.append(
        ExpectTableToBeHardToTellFromReference(kinds=kinds, **said, severity=FailureSeverity.WARNING)
    )
    return found, left


def _learned(schema: Schema) -> dict[str, LearnedKind]:
    """The columns that have a distribution; Great Expectations takes a name with `$` for a parameter."""
    return {c.name: cast(LearnedKind, c.kind) for c in schema if c.learned and "$" not in c.name}
