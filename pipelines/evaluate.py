"""evaluate: the evidence of a release for a table that any tool made; nothing is fitted, nothing published."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import ingest as reading
from pipelines.ingesting import images_at_once, images_compared
from pipelines.plan import rows_of
from pipelines.run import versions
from pipelines.source import Source
from pipelines.steps import check_learned
from pipelines.validating import images_made
from privacy.curator import ExactCurator
from privacy.errors import GateRefused, InputError, SchemaError, UsageError
from synth.images import unseen
from synth.infer import infer
from synth.rows import HELD_OUT, RawRows
from synth.schema import LEARNED, Schema
from validation import report
from validation.ceilings import FEWEST
from validation.evidence import Evidence, gather, gather_images
from validation.expectations import check, observe, observe_constraints
from validation.fidelity import ColumnFidelity
from validation.gates import GateRules, Verdict, verdict_on
from validation.images import ImageEvidence
from validation.inception import Weights
from validation.markup import one_line, points, within

HOLDOUT = 0.2
"""Share of the real rows that is held out where no table of them is given."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `evaluate` was asked.

    Attributes:
        real: the rows that the synthetic ones were learned from.
        synthetic: the synthetic rows.
        holdout: real rows that the tool never saw; None: a share of `real` is taken for them.
        schema: the schema, YAML or JSON; None: it is inferred from `real`.
        targets: columns that models predict; none: those that the schema suggests.
        protected: columns whose groups are compared.
        rows: rows of each side that are measured at most.
        at_least: units below which no bin and no category is shown.
        seed: of what is drawn.
        inception: weights of InceptionV3, for distances of images as they are published.
        inception_images: images of each side that it looks at at most.
    """

    real: Path
    synthetic: Path
    holdout: Path | None = None
    schema: Path | None = None
    targets: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    rows: int = 50_000
    at_least: int = 10
    seed: int = 0
    inception: Path | None = None
    inception_images: int = 50_000

    def __post_init__(self) -> None:
        if self.rows < 100:
            raise UsageError(f"evidence needs 100 rows at least, however: --rows {self.rows}; give more")
        if self.inception_images < 100:
            raise UsageError(
                f"InceptionV3 needs 100 images at least, however: --inception-images {self.inception_images}; give more"
            )
        if self.at_least < 0 or self.seed < 0:
            raise UsageError("--at-least and --seed must be 0 or more, however: one is negative")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The evidence, and what the default gate says of it.

    Attributes:
        name: of the synthetic table.
        schema: what its columns are.
        evidence: all of it.
        verdict: the gate's.
        notes: what a reader must know of how it was measured.
    """

    name: str
    schema: Schema
    evidence: Evidence
    verdict: Verdict
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.verdict.to_dict(), "notes": list(self.notes), "evidence": self.evidence.to_dict()}

    def describe(self) -> str:
        """For a person."""
        found = self.evidence.fidelity
        scores = (
            ("column shapes", found.shape, found.shape_ceiling, found.shape_error),
            ("pair trends", found.trend, found.trend_ceiling, found.trend_error),
        )
        lines = [
            f"{name:<16}{points(score):>6}{'' if top is None else f' of {within(top, error)}'}"
            for name, score, top, error in scores
        ]
        lines += _of_models(self.evidence)
        lines += [f"note: {n}" for n in self.notes]
        lines += [f"{f.level}: {f.rule}: {one_line(f.message)}" for f in self.verdict.findings]
        return "\n".join([*lines, f"verdict: {self.verdict.summary}"])

    def page(self) -> str:
        """As a page of HTML."""
        return report.render(
            title=self.name,
            evidence=self.evidence,
            verdict=self.verdict,
            certificate={
                "statement": "Nothing is promised: this table was made elsewhere, and only what is measured here is "
                "known of it. All figures are exact, so this page belongs to the inside.",
                "evaluated": list(self.notes),
                "versions": versions(),
            },
            schema=self.schema,
            zone="inside",
        )

    def raise_if_refused(self) -> None:
        """Raises.

        Raises:
            GateRefused: a critical rule is broken.
        """
        if not self.verdict.passed:
            refused = GateRefused(f"the default gate refuses {self.name}: {self.verdict.summary}")
            refused.told = True
            raise refused


def evaluate(asked: Asked) -> Evaluated:
    """Holds a synthetic table against the real one.

    Raises:
        InputError: a table cannot be read or has no row, or the tables differ in columns, types or categories.
        SchemaError: the schema cannot be read.
    """
    named = {"real": asked.real, "synthetic": asked.synthetic, "holdout": asked.holdout}
    sources = {side: reading.sniff(path) for side, path in named.items() if path is not None}
    rows = {side: rows_of(source) for side, source in sources.items()}
    whole, notes = _schema_of(asked, sources)
    stated = unseen(whole)
    schema = stated.kept
    weights = _weights(asked, whole)
    check_learned(schema, target=asked.targets, protected=asked.protected)
    synthetic = _drawn(
        sources["synthetic"], stated, keep=min(1.0, asked.rows / max(rows["synthetic"], 1)), asked=asked
    )
    for side, path in named.items():
        if path is not None and next(_batches(sources[side], stated)).num_rows == 0:
            raise InputError(f"each table must have rows, however: {path} has none; give another")
    notes += _sampled(rows, asked) + _left_out(schema)
    evidence = _evidence(asked, sources, rows, synthetic, stated)
    if whole.kept.images:
        evidence = replace(evidence, images=_image_evidence(asked, sources, rows, whole, weights))
        notes += _of_images(whole.kept, evidence)
    _check_alike(evidence, asked)
    rules = GateRules()
    checks = _checks(asked, sources["synthetic"], synthetic, evidence, stated, rules)
    found = verdict_on(evidence, checks, rules)
    return Evaluated(
        name=asked.synthetic.name, schema=schema, evidence=evidence, verdict=found, notes=tuple(notes)
    )


def _schema_of(asked: Asked, sources: dict[str, Source]) -> tuple[Schema, list[str]]:
    """The schema and how it came about."""
    if asked.schema is not None:
        try:
            text = asked.schema.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise SchemaError(
                f"a schema must be a readable UTF-8 file, however: {asked.schema} is not"
            ) from None
        return _binding(Schema.parse(text, source=asked.schema.name)), []
    types = reading.infer_types(sources["real"])
    # What rows show is no rule that other rows must keep.
    found = infer(lambda: reading.batches(sources["real"], types), at_least=asked.at_least)
    schema = found.forgetful(unit=None)
    notes = ["the kinds of the columns were found out from the real rows; --schema says them for certain"]
    for side in ("synthetic", "holdout"):
        if side in sources:
            schema, widened = _widened(schema, sources[side])
            notes += widened
    return schema, notes


def _binding(stated: Schema) -> Schema:
    """Without the bounds and categories that are only observed: a release learns them anew, and nothing binds here."""
    loose = {"min": None, "max": None, "categories": None}
    columns = tuple(c if c.declared else c.model_copy(update=loose) for c in stated)
    return stated.model_copy(update={"columns": columns})


def _widened(schema: Schema, source: Source) -> tuple[Schema, list[str]]:
    """With floats where one table has whole numbers and the other has not: tools write 3.0 for 3."""
    try:
        types = reading.infer_types(source)
    except InputError:
        return schema, []  # `batches` says better what is wrong
    known = {f.name: f.type for f in types}
    columns, notes = [], []
    for column in schema:
        kind = known.get(column.name)
        if kind is not None and pa.types.is_floating(kind) and pa.types.is_integer(column.arrow_type):
            column = column.model_copy(update={"type": "double"})
            notes.append(
                f"{column.name!r} has whole numbers in the real table and fractions, or missing values, in "
                f"{source.path.name}; both are read as fractions"
            )
        columns.append(column)
    return Schema(columns=tuple(columns), unit=schema.unit), notes


def _batches(source: Source, stated: Schema, *, batch_rows: int | None = None) -> Iterator[pa.RecordBatch]:
    """The columns that are kept; of those that are dropped a synthetic table has none, and may have."""
    kept = stated.kept.names
    there = tuple(c for c in stated if c.name in kept or c.name in source.columns)
    for batch in reading.batches(source, Schema(columns=there).source, batch_rows=batch_rows):
        yield batch.select(kept)


def _drawn(source: Source, stated: Schema, *, keep: float, asked: Asked) -> pa.Table:
    """Rows of a source, each with the same chance; in memory there are those alone."""
    rng = np.random.default_rng(asked.seed)
    kept = [
        batch if keep == 1 else batch.filter(pa.array(rng.random(batch.num_rows) < keep))
        for batch in _batches(source, stated)
    ]
    return pa.Table.from_batches(kept, schema=stated.kept.arrow)


def _left_out(schema: Schema) -> list[str]:
    """Which columns nobody compares."""
    identifiers, texts = (
        ", ".join(repr(c.name) for c in schema if c.kind == kind) for kind in ("identifier", "text")
    )
    notes = []
    if identifiers:
        notes.append(f"identifiers are not compared, nor looked for in the real rows: {identifiers}")
    if texts:
        notes.append(
            f"texts are compared by what is missing and by whether they are real rows\u2019 own alone: {texts}"
        )
    return notes


def _sampled(rows: dict[str, int], asked: Asked) -> list[str]:
    notes = []
    if asked.holdout is None:
        notes.append(
            f"{100 * HOLDOUT:.0f} % of the real rows are taken for held-out ones; if the tool learned from them, too, "
            "attacks on membership see nothing, so give --holdout"
        )
    large = ", ".join(f"{side} about {n:,}" for side, n in rows.items() if n > asked.rows)
    if large:
        notes.append(
            f"evidence is of {asked.rows:,} rows of each side at most, drawn uniformly ({large}); --rows says how many"
        )
    return notes


def _curator(
    asked: Asked,
    sources: dict[str, Source],
    rows: dict[str, int],
    stated: Schema,
    *,
    most: int,
    batch_rows: int | None = None,
) -> tuple[ExactCurator, RawRows]:
    """A curator who splits the real rows, or takes the split as it is given, and looks at so many of a side at most."""
    marked = "holdout" in sources

    def real(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for side in ("real", "holdout") if marked else ("real",):
            for batch in _batches(sources[side], stated, batch_rows=batch_rows):
                held = pa.array(np.full(batch.num_rows, side == "holdout"))
                yield (batch.append_column(HELD_OUT, held) if marked else batch).select(list(columns))

    raw = RawRows(stated.kept, real, marked=marked)
    total = rows["real"] + rows.get("holdout", 0)
    larger = max(rows["real"] * (1.0 if marked else 1 - HOLDOUT), rows.get("holdout", 0), 1)
    curator = ExactCurator(
        raw,
        key=hashlib.blake2b(f"split {asked.seed}".encode(), digest_size=16).digest(),
        holdout=HOLDOUT,
        keep=min(1.0, most / larger) if total else 1.0,
    )
    return curator, raw


def _evidence(
    asked: Asked,
    sources: dict[str, Source],
    rows: dict[str, int],
    synthetic: pa.Table,
    stated: Schema,
) -> Evidence:
    """Through the second door."""
    schema = stated.kept
    curator, raw = _curator(asked, sources, rows, stated, most=asked.rows)
    sealed = gather(
        curator,
        raw,
        synthetic,
        schema,
        targets=asked.targets,
        protected=asked.protected,
        at_least=asked.at_least,
        seed=asked.seed,
    )
    return sealed.open(formal_guarantee=False)


def _weights(asked: Asked, whole: Schema) -> Weights | None:
    """Weights of InceptionV3, read once before anything else is.

    Raises:
        UsageError: there are no images.
        InputError: the file holds other weights.
    """
    if asked.inception is None:
        return None
    if not whole.kept.images:
        raise UsageError("--inception needs a column of images, however: there is none; leave it out")
    weights = Weights(path=asked.inception, images=asked.inception_images)
    weights.network()
    return weights


def _image_evidence(
    asked: Asked, sources: dict[str, Source], rows: dict[str, int], whole: Schema, weights: Weights | None
) -> ImageEvidence | None:
    """Images held against each other, decoded within the limits of a release; None with too few of them."""
    schema = whole.kept
    most = min(asked.rows, images_compared(schema))
    at_once = images_at_once(max(c.image.size for c in schema.images if c.image is not None))
    curator, raw = _curator(asked, sources, rows, whole, most=most, batch_rows=at_once)
    rng = np.random.default_rng(asked.seed)
    keep = most / max(rows["synthetic"], 1)
    drawn = (
        batch if keep >= 1 else batch.filter(pa.array(rng.random(batch.num_rows) < keep))
        for batch in _batches(sources["synthetic"], whole, batch_rows=at_once)
    )
    found = gather_images(
        curator, raw, schema, images_made(drawn, most),
        targets=asked.targets, seed=asked.seed, inception=weights,
    )  # fmt: skip
    return found.open(formal_guarantee=False)


def _of_images(schema: Schema, evidence: Evidence) -> Iterator[str]:
    """What a reader must know of how images were compared."""
    first, *others = (repr(c.name) for c in schema.images)
    if evidence.images is None:
        yield f"images of {first} are too few to be compared, so nothing is known of copies; bring 50 of each side"
    if others:
        yield f"of images those of {first} are compared; of {', '.join(others)} only whether they are there"


def _check_alike(evidence: Evidence, asked: Asked) -> None:
    """Refuses tables that write the same thing in different ways, and targets that cannot be predicted.

    Raises:
        InputError: a column has no value in common, or a target that somebody named cannot be predicted.
    """
    skipped = {} if evidence.utility is None else evidence.utility.skipped
    for target in asked.targets:
        if target in skipped:
            raise InputError(
                f"a target must be predictable, however: {target!r} {skipped[target]}; name another with --target"
            )
    if not any(c.kind in LEARNED or c.kind == "image" for c in evidence.fidelity.columns):
        raise InputError(
            "tables must have a column that can be compared, however: there are only texts, identifiers and columns "
            "without values; say the kinds with --schema"
        )
    for column in evidence.fidelity.columns:
        _check_column(column, asked.synthetic.name, column.shape, column.missing_synthetic, asked)
        if asked.holdout is None:
            continue
        _check_column(column, asked.holdout.name, column.shape_ceiling, column.missing_holdout, asked)
        if column.missing_holdout == 1 > column.missing_real and evidence.fidelity.rows_holdout >= FEWEST:
            raise InputError(
                f"held-out rows must be such as the real ones, however: {column.name!r} of {asked.holdout.name} has no "
                f"value, that of {asked.real.name} has; hold out rows of the same table"
            )


def _check_column(
    column: ColumnFidelity, name: str, shape: float | None, missing: float, asked: Asked
) -> None:
    # SDMetrics scores nothing in common a little above 0.
    alien = shape is not None and shape < 1e-6 and missing < 1
    if alien and column.kind in ("categorical", "boolean", "constant"):
        raise InputError(
            f"both tables must write values alike, however: {column.name!r} of {name} has no value "
            f"that {asked.real.name} has; recode one of them, or say the kind with --schema"
        )


def _checks(
    asked: Asked,
    source: Source,
    synthetic: pa.Table,
    evidence: Evidence,
    stated: Schema,
    rules: GateRules,
) -> Sequence[Any]:
    """What a given schema demands of all rows; an inferred one demands nothing. Texts may be any here."""
    if asked.schema is None:
        return ()
    schema = stated.kept
    columns = tuple(c for c in schema if c.kind != "text")
    unit = schema.unit if schema.unit in {c.name for c in columns} else None
    kept = schema.model_copy(update={"columns": columns, "unit": unit, "suggestions": ()})
    facts = observe((b.select(kept.names) for b in _batches(source, stated)), kept)
    broken = observe_constraints(_batches(source, stated), schema)
    return check(synthetic.select(kept.names), facts, evidence.fidelity, kept, rules, broken)


def _of_models(evidence: Evidence) -> Iterator[str]:
    if (found := evidence.detection) is not None:
        beside = "" if found.ceiling is None else f" of {found.ceiling.value:.3f}"
        yield f"{'two-sample AUC':<16}{found.auc.value:>6.3f}{beside}, 0.5 is best"
    for task in evidence.utility.tasks if evidence.utility is not None else ():
        for score in task.scores:
            yield (
                f"{f'{score.model} {task.measure}':<16}{score.synthetic.value:>6.3f} of {score.real.value:.3f} "
                f"({score.real.low:.3f} to {score.real.high:.3f}), predicting {one_line(task.target)}"
            )
    for r in evidence.inference.regressions if evidence.inference is not None else ():
        beside = "" if r.ceiling is None else f" of {r.ceiling.overlap:.2f}"
        of_class = "" if r.outcome is None else f" is {one_line(r.outcome[0])}"
        yield (
            f"{'interval overlap':<16}{r.synthetic.overlap:>6.2f}{beside}, {len(r.coefficients)} coefficients, "
            f"explaining {one_line(r.target)}{of_class}"
        )
