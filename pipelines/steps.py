"""The steps of a release: ingest → profile → fit → sample → validate → gate → publish.

Each is a plain function over a workspace. It reads artifacts of earlier steps, writes its own, and says what
it depended on; `perform` runs it only if that changed. No step looks back. The runner, this process or a
Prefect flow, only decides the order.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import ingest as reading
from pipelines import private, watermark
from pipelines.aside import Aside
from pipelines.catalog import rebuild
from pipelines.croissant import croissant, provenance
from pipelines.machine import available_memory, check_disk, check_memory, room
from pipelines.publish import publish as publish_files
from pipelines.recipe import Recipe, canonical, resolve_input
from pipelines.source import Source
from pipelines.workspace import MODEL, Record, Workspace, digest_of, sha256, write_atomic
from privacy.certificate import Certificate, with_guarantee, without_guarantee
from privacy.errors import (
    GateRefused,
    InputError,
    RecipeError,
    ReleaseError,
    RowError,
    SchemaError,
    UnderstudyError,
)
from synth.constraints import Constraints
from synth.images import as_images, missing, pixels, unseen, without_pixels
from synth.keys import is_text
from synth.schema import IMAGE, REPLACED, Column, Schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from privacy.curator import Curator, ExactCurator, Split
    from privacy.inside import Exact
    from synth.codec import Codec
    from synth.parity import Parity
    from synth.profile import Profile
    from synth.registry import Model
    from synth.rows import EncodedRows, RawRows
    from synth.rows import Source as RowSource
    from synth.table import TableModel
    from validation.evidence import Evidence, Made
    from validation.gates import Finding, Verdict
    from validation.images import ImageEvidence
    from validation.inception import Weights
    from validation.learning import Learning
    from validation.noised import Noised
    from validation.noised_images import NoisedImages

ROWS = "rows.parquet"
ASIDE = "set-aside.jsonl"
REFUSED = "refused.txt"
PROFILE = "profile.json"
ENCODED = "encoded"
RUNS = Path(".understudy", "runs")
"""Where the runs of a recipe lie, beside it."""

RECOUNT = "recount.json"
SEEN = "seen.json"
CURVE = "curve.json"
DATA = "data"
DRAWS = "draws"
EVIDENCE = "evidence.json"
EXACT = "exact-evidence.json"
EXACT_PAGE = "exact-report.html"
CHECKS = "checks.json"
VERDICT = "verdict.json"
SHADOWS = "shadows.json"
SCHEMA = "schema.json"
RELEASE = "release.json"
REPORT = "report.html"

NOISED_ROWS = "noised_rows"
"""Under which name the profile's number of rows is told under privacy."""

ENCODED_BYTES = 400_000_000
"""What the encoded rows may take at most; wider tables learn from fewer rows."""


IMAGE_ROWS, IMAGE_BYTES = 60_000, 200_000_000
"""Images of each side, and bytes of their pixels, that evidence looks at at most."""

IMAGES_SHOWN = 1_000
"""Synthetic images among which the ends of strips are sought."""

INCEPTION_BYTES = 1_200_000_000
"""Memory of InceptionV3, of a batch of images in it, and of five covariances of its features."""

BASE_BYTES = 700_000_000
"""Resident memory of the imports and of one batch."""


class Watch(Protocol):
    """Who is told how a run goes on."""

    def started(self, step: str) -> None:
        """A step begins."""
        ...

    def wrote(self, step: str, path: Path) -> None:
        """A step wrote an artifact."""
        ...

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        """A step is finished, or was found finished."""
        ...


class Silent:
    """Tells nobody."""

    def started(self, step: str) -> None:
        """A step begins."""

    def wrote(self, step: str, path: Path) -> None:
        """A step wrote an artifact."""

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        """A step is finished, or was found finished."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A recipe, the folder that its paths are relative to, and the workspace of its run."""

    recipe: Recipe
    folder: Path
    roots: tuple[Path, ...]
    workspace: Workspace
    watch: Watch

    @property
    def schema(self) -> Schema:
        """The columns that are released; under privacy, what of them may be believed."""
        return self.source_schema.kept

    @property
    def source_schema(self) -> Schema:
        """The columns that the source has, those that are dropped included; under privacy, what may be believed."""
        privacy, stated = self.recipe.privacy, self.stated
        return stated if privacy is None else stated.public(unit=privacy.unit)

    @property
    def stated(self) -> Schema:
        """The schema as it is written.

        Raises:
            SchemaError: it is not there or breaks a rule.
        """
        return schema_of(self.recipe, self.folder)

    @property
    def most_rows(self) -> int:
        """Rows to learn from at most."""
        return min(self.recipe.fit_rows, max(1, ENCODED_BYTES // encoded_bytes(self.schema)))

    @property
    def release_root(self) -> Path:
        """Where releases go."""
        return (self.folder / Path(self.recipe.to).expanduser()).resolve()

    def source(self) -> reading.Table:
        """The input, checked and recognized."""
        return reading.find(self.recipe.input, self.recipe.query, self._locate, scans=self.recipe.scans)

    def holdout_source(self) -> reading.Table | None:
        """The input that is held out, where the recipe names one."""
        if not isinstance(self.recipe.holdout, str):
            return None
        return reading.find(self.recipe.holdout, None, self._locate, scans=self.recipe.scans)

    @property
    def inception(self) -> "Weights | None":
        """Weights of InceptionV3, where the recipe names them.

        Raises:
            RecipeError: they are not there, or lie where the recipe may not read.
        """
        from validation.inception import Weights

        path = None if self.recipe.inception is None else self._locate(self.recipe.inception)
        return None if path is None else Weights(path=path, images=self.recipe.inception_images)

    def _locate(self, text: str) -> Path:
        return resolve_input(text, folder=self.folder, extra_roots=self.roots)


def schema_of(recipe: Recipe, folder: Path) -> Schema:
    """The schema of a recipe as it is written.

    Raises:
        SchemaError: it is not there or breaks a rule.
    """
    path = folder / recipe.schema_file
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SchemaError(
            f"a schema must be a readable UTF-8 file, however: {path}: {getattr(e, 'strerror', e)}; "
            "`understudy init DATA` writes one"
        ) from None
    return Schema.parse(text, source=path.name)


def encoded_bytes(schema: Schema) -> int:
    """Bytes of an encoded row: four for a state or a score, nine for unit and split, one for a number of an image."""
    return 8 * len(schema) + 9 + sum(c.image.size for c in schema if c.image is not None)


def open_run(
    recipe: Recipe,
    folder: Path,
    *,
    roots: Sequence[Path] = (),
    watch: Watch | None = None,
    begin: bool = True,
) -> Run:
    """The run of a recipe: the same recipe in the same folder always has the same workspace.

    Without `begin` nothing is written, and there may be no workspace yet.
    """
    folder = folder.resolve()
    path = folder / RUNS / f"{recipe.name}-{recipe.digest()[:12]}"
    workspace = Workspace(path)
    if begin:
        workspace.create(
            {
                "recipe": json.loads(recipe.to_json()),
                "folder": str(folder),
                "roots": [str(Path(r).resolve()) for r in roots],
            }
        )
    return Run(recipe=recipe, folder=folder, roots=tuple(roots), workspace=workspace, watch=watch or Silent())


def reopen_run(path: Path, *, watch: Watch | None = None) -> Run:
    """The run whose workspace lies at `path`, or has that name among the runs of this folder.

    Raises:
        ReleaseError: there is none.
    """
    named = RUNS / path
    workspace = Workspace((named if not path.exists() and named.is_dir() else path).resolve())
    about = workspace.about()
    recipe = Recipe.parse(canonical(about["recipe"]), source=str(workspace.manifest))
    roots = tuple(Path(r) for r in about["roots"])
    return Run(
        recipe=recipe, folder=Path(about["folder"]), roots=roots, workspace=workspace, watch=watch or Silent()
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        name: its name.
        inputs: what it depends on, name → digest.
        act: does it; returns the files it wrote and small facts.
    """

    name: str
    inputs: Callable[[Run], dict[str, str]]
    act: Callable[[Run], tuple[list[Path], dict[str, Any]]]


def perform(run: Run, name: str) -> Record:
    """Runs one step unless it is finished and nothing that it depends on changed."""
    step = STEPS[name]
    run.watch.started(name)
    inputs = inputs_of(run, name)
    found = run.workspace.finished(name, inputs)
    if found is not None:
        run.watch.ended(name, told(run, name, found), cached=True)
        return found
    began = time.perf_counter()
    try:
        with room(run.workspace.path, f"the step {name}"):
            outputs, facts = step.act(run)
    except RowError as e:
        raise refusal_of(run, e) from None
    record = run.workspace.commit(name, inputs, outputs, facts, time.perf_counter() - began)
    run.watch.ended(name, told(run, name, record), cached=False)
    return record


def refusal_of(run: Run, e: RowError) -> InputError:
    """What may be said outside of rows that are not what they should be: under privacy not where, nor how many."""
    if run.recipe.privacy is None:
        return e
    write_atomic(run.workspace.path / REFUSED, f"{e}\n".encode())
    return InputError(
        f"{e.public()}; where they stand is private: {REFUSED} in the folder of the run says it"
    )


def told(run: Run, name: str, record: Record) -> Record:
    """What may be said of a step outside the workspace: under privacy no number of rows, and no digest of them."""
    if run.recipe.privacy is None or name not in private.KEPT:
        return record
    return replace(record, inputs={}, outputs={}, facts={} if name == "ingest" else record.facts)


def inputs_of(run: Run, name: str) -> dict[str, str]:
    """What a step depends on: its own inputs, our code, and the packages that the numbers depend on."""
    if run.recipe.privacy is not None and name in private.KEPT:
        return private.kept_inputs(run)
    return {**STEPS[name].inputs(run), "code": code_digest(), "versions": digest_of(versions())}


@functools.cache
def code_digest() -> str:
    """SHA-256 (hex) of our own source files: another version, or another checkout, computes anew."""
    here = Path(__file__).parent.parent
    sources = sorted(
        p for room in ("pipelines", "privacy", "synth", "validation") for p in here.glob(f"{room}/*")
    )
    return digest_of({str(p.relative_to(here)): sha256(p) for p in sources if p.is_file()})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a release came to.

    Attributes:
        release: its folder.
        run: the workspace.
        verdict: what the gate said, in one line.
        rows: rows released.
        seconds: by step; of a finished step, what it took when it ran.
        again: whether nothing had changed since the release was published, so that nothing ran.
        rows_noised: whether as many rows were released as a noised count of the source says.
        exact_report: a page of exact figures in the workspace, where the recipe of a private run wants one.
        warnings: what the gate found and did not refuse, rule and message, as coarse as the release says it.
    """

    release: Path
    run: Path
    verdict: str
    rows: int
    seconds: Mapping[str, float]
    again: bool = False
    rows_noised: bool = False
    exact_report: Path | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        exact = None if self.exact_report is None else str(self.exact_report)
        return {**asdict(self), "release": str(self.release), "run": str(self.run), "exact_report": exact}


def release(run: Run) -> Outcome:
    """Walks all steps.

    Raises:
        UnderstudyError: what went wrong, with what to do.
    """
    try:
        with run.workspace.locked():
            check(run)
            watermark.number_of(run.recipe)  # A key that is missing is missed before anything is spent.
            check_room(run)
            before = run.workspace.records()
            for name in STEPS:
                perform(run, name)
    except UnderstudyError as e:
        e.run = str(run.workspace.path)
        raise
    except KeyboardInterrupt as e:
        e.add_note(str(run.workspace.path))  # so that whoever is told to resume it knows where it lies
        raise
    return outcome(run, before)


def check(run: Run) -> None:
    """Finds what is wrong with a recipe before anything is read or spent.

    Raises:
        UsageError: recipe, schema or options break a rule.
    """
    from synth.registry import check_images, check_options, check_private

    name = synthesizer_of(run.recipe, run.stated)
    check_images(name, run.schema)
    check_options(name, run.recipe.options)
    if run.recipe.privacy is not None:
        check_private(name)
        private.check_private(run)
    check_learned(run.schema, target=run.recipe.targets, protected=run.recipe.protected)
    if run.recipe.parity is not None:
        run.recipe.parity.check(name, run.schema)
    check_inception(run)
    watermark.check(run.recipe, run.schema)
    sources, arrow = (run.source(), run.holdout_source()), run.source_schema.arrow
    if run.recipe.privacy is not None and run.workspace.has("ingest"):
        return  # What was asked about is never read again, whatever became of it.
    for source in sources:
        # A query is held against the schema when it is read: until then nothing connects.
        if isinstance(source, Source):
            try:
                reading.check_drift(source, arrow, allowed=run.recipe.allow_drift)
            except RowError as e:
                raise refusal_of(run, e) from None


def check_inception(run: Run) -> None:
    """Finds out before anything is read or spent whether weights of InceptionV3 can be used, where some are named.

    Raises:
        RecipeError: nothing would use them, or they lie where the recipe may not read.
        InputError: the file holds other weights.
    """
    privacy, weights = run.recipe.privacy, run.inception
    if weights is None:
        return
    if not run.schema.images:
        raise RecipeError(
            "inception needs a column of images, however: the schema has none; leave it out of the recipe"
        )
    if privacy is not None and not privacy.exact_report:
        raise RecipeError(
            "inception is for exact evidence, however: under privacy none is made; write exact_report: true, or leave "
            "inception out"
        )
    weights.network()


def check_room(run: Run) -> None:
    """Finds out before anything is read whether memory and disk suffice.

    Raises:
        NoRoom: they do not.
    """
    check_memory(memory_of(run), available_memory())
    source = run.source()
    if isinstance(source, Source) and run.recipe.privacy is None and not run.workspace.has("ingest"):
        check_disk(run.workspace.path, sum(f.stat().st_size for f in source.files) // 4, what="the run")


def memory_of(run: Run, rows: int | None = None) -> int:
    """Estimated resident memory in bytes; `rows` of the source, where they are known."""
    fitted = run.most_rows if rows is None else min(rows, run.most_rows)
    sizes = [c.image.size for c in run.schema.images if c.image is not None]
    pictured_by = 0 if run.recipe.inception is None else INCEPTION_BYTES
    # Batches of encoded images and of their pixels are held in a few copies, and evidence holds three sides.
    pictured = 8 * reading.IMAGE_BYTES_AT_ONCE + 3 * min(IMAGE_BYTES, max(sizes) * fitted) if sizes else 0
    return BASE_BYTES + 2 * encoded_bytes(run.schema) * fitted + pictured + pictured_by


def check_learned(schema: Schema, **named: Sequence[str]) -> None:
    """Refuses what evidence cannot be about: by what it is, names of columns.

    Raises:
        SchemaError: one is no column, or one that is not learned.
    """
    for what, names in named.items():
        for name in names:
            if not schema[name].learned:
                raise SchemaError(
                    f"a {what} column must be learned, however: {name!r} is kind: {schema[name].kind}; name another"
                )


def synthesizer_of(recipe: Recipe, schema: Schema) -> str:
    """The synthesizer that a recipe means: `auto` follows from whether answers are noised, and from the columns."""
    from synth.registry import resolve

    images = any(c.action != "drop" for c in schema.images)
    return resolve(recipe.synthesizer, private=recipe.privacy is not None, images=images)


def outcome(run: Run, before: Mapping[str, Record]) -> Outcome:
    """What a finished run came to; `before` are its records as they were before it was walked."""
    records = run.workspace.records()
    published = json.loads((run.workspace.path / RELEASE).read_text("utf-8"))
    return Outcome(
        release=Path(published["release"]),
        run=run.workspace.path,
        verdict=str(records["gate"].facts["summary"]),
        rows=int(records["sample"].facts["rows"]),
        seconds={name: record.seconds for name, record in records.items()},
        again=records == before,
        rows_noised=run.recipe.privacy is not None and run.recipe.rows == "source",
        exact_report=run.workspace.path / EXACT_PAGE if EXACT_PAGE in records["validate"].outputs else None,
        warnings=tuple(published["warnings"]),
    )


# --- ingest


def _ingest_inputs(run: Run) -> dict[str, str]:
    held = run.holdout_source()
    return {
        "source": reading.digest(run.source()),
        "holdout": "" if held is None else reading.digest(held),
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of(
            [run.recipe.broken_rows, run.recipe.allow_drift, run.recipe.scans.model_dump(mode="json")]
        ),
    }


def _ingest(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Copies the input into the workspace in the schema's types, so that nothing can change under the run.

    Under privacy rows have their name only when all that may be used are there, and no others.
    """
    from synth.rows import HELD_OUT

    schema = run.schema
    if run.recipe.privacy is not None:
        private.reserve(run)
    held = run.holdout_source()
    target = run.workspace.path / ROWS
    part = target.with_name(f".{ROWS}.part")
    arrow = schema.arrow if held is None else schema.arrow.append(pa.field(HELD_OUT, pa.bool_(), False))
    counts, aside = [], Aside(most=run.recipe.broken_rows)
    with pq.ParquetWriter(part, arrow, compression="zstd", compression_level=1) as writer:
        for source, is_held in ((run.source(), False), (held, True)):
            rows = 0
            for whole in () if source is None else _read(run, source, aside):
                batch = _needed(whole.select(list(schema.names)).cast(schema.arrow), schema)
                marked = (
                    batch if held is None else batch.append_column(HELD_OUT, pa.array([is_held] * len(batch)))
                )
                writer.write_batch(marked.cast(arrow), row_group_size=65_536)
                rows += batch.num_rows
            counts.append(rows)
    if run.recipe.privacy is not None:
        private.identify(run, _units(run, part))
        if run.recipe.privacy.block is not None:
            counts = _keep_paid(run, part)
    part.replace(target)
    kept_aside = run.workspace.path / ASIDE
    write_atomic(kept_aside, "".join(f"{json.dumps(b.to_dict())}\n" for b in aside.rows).encode())
    run.watch.wrote("ingest", target)
    drift: list[str] = []
    if run.recipe.allow_drift:
        found = reading.drift_of(run.source(), run.source_schema.arrow)
        drift += reading.recorded_drift(found, schema.names)
    facts: dict[str, Any] = {"rows": counts[0], "columns": len(schema)}
    if aside.rows:
        facts["set_aside"] = len(aside.rows)
    if drift:
        facts["drift"] = drift
    return [target, kept_aside], facts if held is None else {**facts, "holdout_rows": counts[1]}


def _read(run: Run, source: reading.Table, aside: Aside) -> Iterator[pa.RecordBatch]:
    """The rows of a source, which must stay as it is meanwhile."""
    before = reading.stamp(source)
    yield from reading.batches(source, run.source_schema.source, aside=aside, adapt=run.recipe.allow_drift)
    if reading.stamp(source) != before:
        raise InputError(
            f"an input must stay as it is while it is read, however: {source.label} was changed; release again "
            "when it is whole"
        )


def _units(run: Run, path: Path) -> Iterator["NDArray[np.uint64]"]:
    """A digest of each row's unit, or of each row's content where rows are units."""
    import pandas as pd

    if run.schema.unit is not None:
        yield from (b.unit for b in raw_rows(run, path).batches(()))
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=65_536, columns=list(run.schema.names), use_threads=False):
            # Of a column of images its files are hashed: a struct cannot be.
            columns = [
                c.field("bytes") if f.type == IMAGE else c for f, c in zip(batch.schema, batch, strict=True)
            ]
            plain = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
            frame = plain.to_pandas(types_mapper=pd.ArrowDtype)
            yield pd.util.hash_pandas_object(frame, index=False).to_numpy().astype(np.uint64)


def _keep_paid(run: Run, path: Path) -> list[int]:
    """Leaves of a file's rows those whose blocks the run pays for; returns how many, and how many held-out ones."""
    from synth.rows import HELD_OUT

    with pq.ParquetFile(path) as file:
        missing = sum(b.column(0).null_count for b in file.iter_batches(columns=[str(run.schema.unit)]))
    if missing:
        raise RowError(
            f"with blocks each row must name its unit, or it would be new each time, however: {run.schema.unit!r} is",
            f" {missing:,} times",
            " missing; name the unit, or leave such rows out of the input",
        )
    paid = private.assign(run, _units(run, path))
    kept, start, counts = path.with_name(f"{path.name}.paid"), 0, [0, 0]
    with (
        pq.ParquetFile(path) as file,
        pq.ParquetWriter(kept, file.schema_arrow, compression="zstd", compression_level=1) as writer,
    ):
        for whole in reading.file_batches(file, images=bool(run.schema.images)):
            batch = whole.filter(pa.array(paid[start : start + len(whole)]))
            start += len(whole)
            writer.write_batch(batch, row_group_size=65_536)
            held = batch.column(HELD_OUT).true_count if HELD_OUT in batch.schema.names else 0
            counts = [counts[0] + len(batch) - held, counts[1] + held]
    kept.replace(path)
    return counts


def _needed(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """The batch without what is never learned: of identifiers and texts only the missing pattern, of images no name."""
    arrays = []
    for column, array in zip(schema, batch.columns, strict=True):
        if column.image is not None:
            array = as_images(array)
        elif is_text(array.type) and not column.learned and column.name != schema.unit:
            missing = array.is_null().to_numpy(zero_copy_only=False)
            place = pa.array(np.zeros(len(array), np.int64), mask=missing)
            array = pa.array([REPLACED]).take(place).cast(array.type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def raw_rows(run: Run, path: Path | None = None) -> "RawRows":
    """The ingested rows, or those of a file that becomes them, for a curator."""
    from synth.rows import RawRows

    return RawRows(run.schema, _stored(run, path), marked=isinstance(run.recipe.holdout, str))


def coded_rows(run: Run) -> "RawRows":
    """The ingested rows in the columns that are learned, into which constraints are built."""
    from synth.rows import RawRows

    constraints = Constraints(run.schema)
    source = constraints.source(_stored(run))
    return RawRows(constraints.coded, source, marked=isinstance(run.recipe.holdout, str))


def _stored(run: Run, path: Path | None = None) -> "RowSource":
    path = path or run.workspace.path / ROWS
    schema = run.schema
    strings = [c.name for c in schema if is_text(c.arrow_type) and c.learned]

    def source(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        names = list(columns) or [schema.names[0]]
        pictured = [c.image.size for c in schema.images if c.name in names and c.image is not None]
        with pq.ParquetFile(path, read_dictionary=[s for s in strings if s in names]) as file:
            rows = images_at_once(max(pictured, default=1))
            for batch in reading.file_batches(file, names, images=bool(pictured), rows=rows):
                yield batch.select(names)

    return source


def images_at_once(size: int) -> int:
    """Rows whose pixels, of so many bytes each, are in memory at a time."""
    return max(1, min(reading.IMAGES_AT_ONCE, reading.IMAGE_BYTES_AT_ONCE // size))


def curator_of(run: Run, rows: "RawRows", *, at_most: int) -> "ExactCurator":
    """The curator over the ingested rows, who looks at `at_most` of them, drawn by unit."""
    from privacy.curator import ExactCurator

    facts = run.workspace.records()["ingest"].facts
    total = max(1, facts["rows"] + facts.get("holdout_rows", 0))
    holdout = run.recipe.holdout
    return ExactCurator(
        rows,
        key=split_key(run),
        # Under privacy a share is not held out: the model learns from all rows.
        holdout=holdout if isinstance(holdout, float) and run.recipe.privacy is None else 0.0,
        keep=min(1.0, at_most / total),
    )


def split_key(run: Run) -> bytes:
    """What splits are drawn by: the recipe's seed, under privacy a secret."""
    if run.recipe.privacy is not None:
        return private.secret_of(run)
    return hashlib.blake2b(f"split {run.recipe.seed}".encode(), digest_size=16).digest()


# --- profile


def _profile_inputs(run: Run) -> dict[str, str]:
    recipe = run.recipe
    return {
        "rows": run.workspace.records()["ingest"].outputs[ROWS],
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of([recipe.holdout, recipe.seed, recipe.at_least, recipe.fit_rows]),
    }


def _profile(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Asks the curator about each column, and encodes the rows once."""
    from synth.codec import Codec
    from synth.learn import learn
    from synth.rows import EncodedStore
    from synth.table import labels_of

    schema = Constraints(run.schema).coded
    rows = coded_rows(run)
    curator: Curator = (
        curator_of(run, rows, at_most=run.most_rows)
        if run.recipe.privacy is None
        else private.curator_of(run, rows, "profile", keep=private.keep_of(run))
    )
    profile = learn(schema, curator, labels_of(rows), at_least=run.recipe.at_least)
    path = run.workspace.path / PROFILE
    write_atomic(path, profile.to_json().encode())
    run.watch.wrote("profile", path)
    codec = Codec(schema, profile)
    folder = run.workspace.fresh(ENCODED)
    store = EncodedStore(folder, unit_is_row=rows.unit_is_row)
    curator.recode(lambda batch: codec.code(batch, rows.dictionaries), store)
    files = sorted(folder.glob("*.npy"))
    run.watch.wrote("profile", files[-1])
    # Under privacy the number is a noised answer, which whoever reads it must know.
    name = "rows" if run.recipe.privacy is None else NOISED_ROWS
    return [path, *files], {name: int(profile.rows), **_charged(run, "profile")}


def _charged(run: Run, *parts: str) -> dict[str, int]:
    """How many answers parts took, under privacy: the journal must never hold fewer."""
    if run.recipe.privacy is None:
        return {}
    return {private.charges_fact(part): len(private.charges_of(run, part)) for part in parts}


# --- fit


def _fit_inputs(run: Run) -> dict[str, str]:
    recipe = run.recipe
    return {
        "profile": digest_of(dict(run.workspace.records()["profile"].outputs)),
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of([recipe.synthesizer, recipe.options, recipe.seed, recipe.threads]),
    }


def _fit(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Asks the curator until the model is trained."""
    from privacy.curator import ExactCurator
    from synth.codec import Codec
    from synth.profile import Profile
    from synth.rows import open_store
    from synth.table import TableModel, fit_encoded

    recipe = run.recipe
    constraints = Constraints(run.schema)
    profile = Profile.from_json((run.workspace.path / PROFILE).read_text("utf-8"))
    codec = Codec(constraints.coded, profile)
    encoded = open_store(run.workspace.path / ENCODED, unit_is_row=run.schema.unit is None)
    curator: Curator = (
        ExactCurator(encoded, key=split_key(run))
        if recipe.privacy is None
        else private.curator_of(run, encoded, "model")
    )
    model = fit_encoded(
        curator,
        codec,
        synthesizer_of(recipe, run.stated),
        recipe.options,
        seed=recipe.seed,
        threads=recipe.threads,
    )
    fitted = TableModel(codec, model, frame=pa.Table, threads=recipe.threads, constraints=constraints)
    folder = run.workspace.fresh(MODEL)
    fitted.save(folder)
    files = sorted(folder.iterdir())
    run.watch.wrote("fit", files[-1])
    files += _recounted(run, model, codec, encoded)
    if fitted.trained is not None and fitted.trained.looks:
        path = run.workspace.path / CURVE
        write_atomic(path, json.dumps(asdict(fitted.trained)).encode())
        files.append(path)
    return files, {
        "synthesizer": fitted.synthesizer,
        "digest": fitted.digest(),
        **_charged(run, "model", "report"),
    }


def _recounted(run: Run, model: "Model", codec: "Codec", encoded: "EncodedRows") -> Iterator[Path]:
    """Under privacy, where the report has a share, rows are counted once more with noise of its own.

    It is asked here, beside the fit, because what this step asked is never asked again. The question follows from the
    profile and the model alone, so it would be the same after the synthetic rows were drawn.
    """
    from validation.coarse import ask
    from validation.noised_images import figures_of, lens_of

    privacy, seed = run.recipe.privacy, run.recipe.seed
    if privacy is None or not privacy.shares.report:
        return
    curator = private.curator_of(run, encoded, "report")
    learned = [i for i, column in enumerate(codec.schema) if column.learned]
    split: Split = "holdout" if isinstance(run.recipe.holdout, str) else "train"
    rows = privacy.max_rows_per_unit if run.schema.unit is not None else 1
    lens = None
    if codec.layout.images:
        most = images_compared(run.schema)
        lens = lens_of(model, codec, targets=run.recipe.targets, seed=seed, most=most)
    more = () if lens is None else lens.asked
    recount, seen = ask(curator, codec.layout, learned, split=split, unit_rows=rows, seed=seed, more=more)
    path = run.workspace.path / RECOUNT
    write_atomic(path, recount.to_json().encode())
    run.watch.wrote("fit", path)
    yield path
    found = None if lens is None else figures_of(lens, seen)
    if found is not None:
        path = run.workspace.path / SEEN
        write_atomic(path, json.dumps(found.to_dict(), ensure_ascii=False).encode())
        run.watch.wrote("fit", path)
        yield path


# --- sample


def _sample_inputs(run: Run) -> dict[str, str]:
    recipe = run.recipe
    return {
        "model": digest_of(dict(run.workspace.records()["fit"].outputs)),
        "recipe": digest_of(
            [recipe.seed, released_rows(run), recipe.shard_rows, recipe.draws, recipe.digest()]
        ),
        **watermark.number_of(recipe),
    }


def released_rows(run: Run) -> int:
    """How many rows the release has."""
    if run.recipe.rows != "source":
        return run.recipe.rows
    if run.recipe.privacy is not None:
        # As many as the noised profile saw, and those that were not looked at.
        keep = private.keep_of(run)
        return max(1, round(learned_rows(run) / keep))
    return int(run.workspace.records()["ingest"].facts["rows"])


def learned_rows(run: Run) -> int:
    """How many rows a model learns from, as the profile says: under privacy a noised number."""
    facts = run.workspace.records()["profile"].facts
    return int(facts["rows" if run.recipe.privacy is None else NOISED_ROWS])


class Shard(NamedTuple):
    """One file of rows: of which draw of the table, its number in it, and its rows."""

    draw: int
    number: int
    rows: int


def shards_of(run: Run, draw: int = 1) -> list[Shard]:
    """The shards of one draw of the table."""
    rows, size = released_rows(run), run.recipe.shard_rows
    return [Shard(draw, i, min(size, rows - i * size)) for i in range(-(-rows // size))]


def all_shards(run: Run) -> list[Shard]:
    """The shards of all draws."""
    return [shard for draw in range(1, run.recipe.draws + 1) for shard in shards_of(run, draw)]


GROUP_PARTS = 4
"""Parts of a draw that make a row group of a shard."""


def shard_name(shard: Shard) -> str:
    """Where a shard lies in the workspace and in the release: the first draw is the data, others stand beside it."""
    folder = DATA if shard.draw == 1 else f"{DRAWS}/{shard.draw}"
    return f"{folder}/part-{shard.number:05d}.parquet"


def sample_shard(run: Run, shard: Shard) -> Path:
    """Draws and writes one shard, a function of (model digest, seed, draw, shard number) alone."""
    import torch

    from synth.table import REJECTED, load

    torch.set_num_threads(1)
    model: TableModel[pa.Table] = load(run.workspace.path / MODEL)
    digest = run.workspace.records()["fit"].facts["digest"]
    first_row, shards = shard.number * run.recipe.shard_rows, len(shards_of(run))
    parts = model.shard(
        shard.number,
        shard.rows,
        seed=run.recipe.seed,
        first_row=first_row,
        of=shards,
        draw=shard.draw,
        parity=run.recipe.parity,
    )
    about = {
        "synthetic": "true",
        "generator": f"understudy {versions()['understudy']}",
        "recipe_digest": run.recipe.digest(),
        "model_digest": digest,
        "privacy": promise_of(run.recipe),
    }
    if run.schema.images:
        shown = {c.name: {"_type": "Image"} for c in run.schema.images}
        about["huggingface"] = json.dumps({"info": {"features": shown}})
    path = run.workspace.path / shard_name(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    # `datasets` takes a column for images only where it may be missing.
    fields = [f.with_nullable(True) if f.type == IMAGE else f for f in model.schema.arrow]
    arrow = pa.schema(fields, metadata=about)
    asked = run.recipe.watermark
    marker = None if asked is None else watermark.Marker(asked, model.schema)
    with pq.ParquetWriter(part, arrow, compression="zstd") as writer:
        rejected = 0
        while group := list(itertools.islice(parts, GROUP_PARTS)):
            rejected += sum(int((p.schema.metadata or {}).get(REJECTED, 0)) for p in group)
            table = (
                pa.concat_tables([p.replace_schema_metadata(None) for p in group])
                .unify_dictionaries()
                .replace_schema_metadata(about)
            )
            table = table if marker is None else marker.mark(table)
            table = table.cast(arrow) if run.schema.images else table
            writer.write_table(table, row_group_size=max(1, len(table)))
        if model.schema.constraints:
            writer.add_key_value_metadata({REJECTED: str(rejected)})
    part.replace(path)
    return path


def promise_of(recipe: Recipe) -> str:
    """What is promised, as a shard says it."""
    if recipe.privacy is None:
        return without_guarantee(recipe.at_least)[0]
    target = f"epsilon {recipe.privacy.epsilon:g}, delta {recipe.privacy.delta:g}"
    return f"differential privacy: {target}; see certificate.json"


def _sample(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Writes all shards, in this process or in several; the bytes are the same."""
    for folder in (DATA, DRAWS):
        run.workspace.fresh(folder)
    files = []
    for path in _each(run, all_shards(run)):
        run.watch.wrote("sample", path)
        files.append(path)
    facts = {"rows": released_rows(run), "shards": len(shards_of(run)), **watermark.number_of(run.recipe)}
    return files, facts if not run.schema.constraints else {**facts, "rejected": _rejected(files)}


def _rejected(shards: Sequence[Path]) -> int:
    """Drawn rows that were rejected because they broke a constraint, as the shards say."""
    from synth.table import REJECTED

    return sum(int((pq.read_metadata(path).metadata or {}).get(REJECTED, 0)) for path in shards)


def _each(run: Run, shards: list[Shard]) -> Iterator[Path]:
    workers = min(run.recipe.workers, len(shards))
    if workers == 1:
        yield from (sample_shard(run, shard) for shard in shards)
        return
    quiet = replace(run, watch=Silent())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(sample_shard, quiet, shard) for shard in shards]
        yield from (job.result() for job in jobs)


# --- validate


def _validate_inputs(run: Run) -> dict[str, str]:
    records = run.workspace.records()
    recipe = run.recipe
    # Under privacy nothing here looks at rows, unless an exact report was asked for.
    looks = recipe.privacy is None or recipe.privacy.exact_report
    rows = {"rows": records["ingest"].outputs[ROWS]} if looks else {}
    if run.recipe.privacy is not None and RECOUNT in records["fit"].outputs:
        rows["recount"] = records["fit"].outputs[RECOUNT]
    return {
        **rows,
        "data": digest_of(dict(records["sample"].outputs)),
        "profile": records["profile"].outputs[PROFILE],
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of(
            [
                recipe.evidence_rows,
                recipe.at_least,
                recipe.seed,
                recipe.holdout,
                recipe.gate.model_dump(),
                recipe.targets,
                recipe.protected,
                recipe.inception_images,
            ]
        ),
        "inception": "" if run.inception is None else sha256(run.inception.path),
        "fit": "" if recipe.privacy is not None else digest_of(dict(records["fit"].outputs)),
    }


def _validate(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Measures the shards against training and held-out rows; exact evidence stays in the workspace."""
    from synth.codec import Codec
    from synth.profile import Profile
    from validation.expectations import Check, check, observe, observe_constraints

    profile = Profile.from_json((run.workspace.path / PROFILE).read_text("utf-8"))
    constraints = Constraints(run.schema)
    codec = Codec(constraints.coded, profile)
    released = constraints.released(codec.released_schema(), profile)
    schema_path = run.workspace.path / SCHEMA
    write_atomic(schema_path, released.to_json().encode())
    if run.recipe.privacy is None:
        evidence = exact_evidence(run).open(formal_guarantee=False)
        if run.schema.images:
            evidence = replace(evidence, images=_image_evidence(run).open(formal_guarantee=False))
        evidence = replace(evidence, learning=_learning(run))
    else:
        evidence = _noised_evidence(run, profile)
    evidence_path = run.workspace.path / EVIDENCE
    write_atomic(evidence_path, json.dumps(evidence.to_dict(), ensure_ascii=False).encode())
    run.watch.wrote("validate", evidence_path)
    shown = unseen(released)
    checks: list[Check] = []
    for draw in range(1, run.recipe.draws + 1):
        # Each draw is a table of its own; what is measured is the same for all of them.
        facts = observe(_judged_batches(run, draw), shown)
        broken = observe_constraints(_judged_batches(run, draw), shown)
        fidelity = evidence.fidelity if draw == 1 else None
        checks += check(_head(run, 20_000, draw), facts, fidelity, shown, run.recipe.gate, broken)
    checks_path = run.workspace.path / CHECKS
    write_atomic(checks_path, json.dumps([asdict(c) for c in checks], ensure_ascii=False).encode())
    failed = sum(not c.success for c in checks)
    exact = _kept_inside(run, released)
    return [schema_path, evidence_path, checks_path, *exact], {"checks": len(checks), "failed": failed}


def _noised_evidence(run: Run, profile: "Profile") -> "Evidence":
    """What is known under privacy: synthetic rows beside noised counts, those of the fit and those of the report."""
    from synth.codec import Codec
    from validation.coarse import Recount
    from validation.evidence import Evidence
    from validation.fitted import fitted
    from validation.noised import PARTS, Drawn, noised

    constraints = Constraints(unseen(run.schema))
    codec = Codec(constraints.coded, profile)
    table = constraints.encode(_head(run, run.recipe.evidence_rows))
    path = run.workspace.path / RECOUNT
    figures: Noised | None = None
    if RECOUNT in run.workspace.records()["fit"].outputs and len(table) >= PARTS:
        recount, rows = Recount.from_json(path.read_text("utf-8"), codec.layout), codec.encode(table)
        drawn = [Drawn.of(m, rows) for m in recount.marginals]
        figures = noised(recount, dict(enumerate(codec.schema.names)), drawn)
    return Evidence(
        fidelity=fitted(codec.schema, codec.profile, table),
        noised=figures,
        noised_images=_noised_images(run),
        learning=_learning(run),
    )


def _noised_images(run: Run) -> "NoisedImages | None":
    """What was counted of images under privacy, and some of those that are released."""
    from validation.evidence import words
    from validation.images import sheet_of
    from validation.noised_images import NoisedImages

    if SEEN not in run.workspace.records()["fit"].outputs:
        return None
    found = NoisedImages.from_dict(_read_json(run, SEEN))
    # Columns that a constraint ties together are learned as one, which no released column is.
    classes = next((c for c in run.schema if c.name == found.label), None)
    made = images_made(released_batches(run), IMAGES_SHOWN)(run.schema.images[0], classes)
    return replace(found, sheet=sheet_of(made.pixels, None if made.classes is None else words(made.classes)))


def _kept_inside(run: Run, released: Schema) -> list[Path]:
    """The exact report of a private run, where the recipe wants one: for the workspace, and read by nothing else."""
    from validation import report
    from validation.gates import verdict_on

    if run.recipe.privacy is None or not run.recipe.privacy.exact_report:
        return []
    paths = [run.workspace.path / name for name in (EXACT, EXACT_PAGE)]

    def write(evidence: "Evidence") -> None:
        found = verdict_on(evidence, (), run.recipe.gate)
        page = report.render(
            title=f"{run.recipe.name}: exact, for the inside alone",
            evidence=evidence,
            verdict=found,
            certificate={"statement": private.EXACT_INSIDE},
            schema=released,
            zone="inside",
        )
        write_atomic(paths[0], json.dumps(evidence.to_dict(), ensure_ascii=False).encode())
        write_atomic(paths[1], page.encode())

    if run.schema.images:
        pictured = _image_evidence(run)
        pictured.keep(lambda found: exact_evidence(run).keep(lambda e: write(replace(e, images=found))))
    else:
        exact_evidence(run).keep(write)
    run.watch.wrote("validate", paths[1])
    return paths


def exact_evidence(run: Run) -> "Exact[Evidence]":
    """Holds real and synthetic rows, as many of each as the recipe allows, against each other: evidence's own door."""
    from synth.rows import RawRows
    from synth.table import load
    from validation.evidence import gather

    recipe, schema = run.recipe, unseen(run.schema)
    rows = RawRows(schema, _stored(run), marked=isinstance(recipe.holdout, str))
    # Rows are drawn by unit from the whole source, so that a source in order of time gives a fair sample.
    curator = curator_of(run, rows, at_most=int(recipe.evidence_rows / _largest_side(run)))
    synthetic = _head(run, recipe.evidence_rows)
    return gather(
        curator, rows, synthetic, schema,
        targets=recipe.targets, protected=recipe.protected, at_least=recipe.at_least, seed=recipe.seed,
        # With parity, synthetic rows are not as likely as the model believes rows to be.
        density=None if run.schema.images or recipe.parity else load(run.workspace.path / MODEL).density,
    )  # fmt: skip


def _image_evidence(run: Run) -> "Exact[ImageEvidence | None]":
    """Holds images against each other, as many of each side as the memory for them allows."""
    from validation.evidence import gather_images

    recipe, most = run.recipe, images_compared(run.schema)
    curator = curator_of(run, rows := raw_rows(run), at_most=int(most / _largest_side(run)))
    asked = recipe.watermark
    marker = None if asked is None else watermark.Marker(asked, run.schema)
    made = images_made(released_batches(run), most, marker)
    return gather_images(
        curator, rows, run.schema, made,
        targets=recipe.targets, seed=recipe.seed, inception=run.inception,
    )  # fmt: skip


def _learning(run: Run) -> "Learning | None":
    """How the model learned: its curve, exact here, and images between synthetic ones; None where it has neither."""
    from synth.table import load
    from validation.evidence import words
    from validation.learning import BETWEEN, Curve, Learning, ends, strips_of

    curve = strips = None
    if CURVE in run.workspace.records()["fit"].outputs:
        found = _read_json(run, CURVE)
        steps, scores = zip(*found["looks"], strict=True)
        curve = Curve(steps=steps, scores=scores, kept=found["best"], made=found["steps"])
    if run.schema.images:
        image = run.schema.images[0]
        classes = next((c for c in run.schema if c.learned and c.kind in ("categorical", "boolean")), None)
        made = images_made(released_batches(run), IMAGES_SHOWN)(image, classes)
        first, second = ends(made.pixels, None if made.classes is None else words(made.classes))
        between = (
            load(run.workspace.path / MODEL).between(first, second, steps=BETWEEN) if len(first) else None
        )
        strips = None if between is None else strips_of(between)
    return None if curve is None and strips is None else Learning(curve=curve, strips=strips)


def images_compared(schema: Schema) -> int:
    """How many images of a side are held against others: those of the first column of images."""
    picture = schema.images[0].image
    return max(1, min(IMAGE_ROWS, IMAGE_BYTES // (1 if picture is None else picture.size)))


def images_made(
    batches: Iterable[pa.RecordBatch], most: int, marker: watermark.Marker | None = None
) -> Callable[["Column", "Column | None"], "Made"]:
    """Gives the images, and their classes, of the first synthetic rows, for evidence."""
    from validation.evidence import Made

    def made(column: Column, classes: Column | None) -> Made:
        images, words, held = [], [], 0
        for batch in batches:
            part = batch.slice(0, most - held)
            there = part.filter(pa.array(~missing(part.column(column.name))))
            if column.image is not None:
                images.append(pixels(there.column(column.name), column.image))
            words += [] if classes is None else [there.column(classes.name)]
            held += len(part)
            if held >= most:
                break
        of_class = pa.chunked_array(words).combine_chunks() if words else None
        marked = None if marker is None else marker.pattern(column.name).mark
        return Made(pixels=np.concatenate(images), classes=of_class, marked=marked)

    return made


def _largest_side(run: Run) -> float:
    """Share of the rows that the larger of training and held-out rows has."""
    facts = run.workspace.records()["ingest"].facts
    holdout = run.recipe.holdout
    if isinstance(holdout, str):
        held = facts["holdout_rows"] / max(1, facts["rows"] + facts["holdout_rows"])
    else:
        held = holdout if run.recipe.privacy is None else 0.0
    return float(max(held, 1 - held))


def released_batches(run: Run, draw: int = 1) -> Iterator[pa.RecordBatch]:
    """All rows of a draw, as a stream."""
    for shard in shards_of(run, draw):
        with pq.ParquetFile(run.workspace.path / shard_name(shard)) as file:
            yield from reading.file_batches(file, images=bool(run.schema.images))


def _judged_batches(run: Run, draw: int = 1) -> Iterator[pa.RecordBatch]:
    """All rows of a draw, of images only whether they are there: what evidence that knows no images sees."""
    for batch in released_batches(run, draw):
        yield from without_pixels(pa.Table.from_batches([batch]), run.schema).to_batches()


def _head(run: Run, rows: int, draw: int = 1) -> pa.Table:
    """The first rows of a draw as evidence sees them; they are drawn independently, so they are as good as any."""
    batches, held = [], 0
    for batch in _judged_batches(run, draw):
        batches.append(batch.slice(0, rows - held))
        held += len(batches[-1])
        if held >= rows:
            break
    return pa.Table.from_batches(batches, schema=unseen(run.schema).arrow if not batches else None)


# --- gate


def _gate_inputs(run: Run) -> dict[str, str]:
    from pipelines import shadows

    outputs = run.workspace.records()["validate"].outputs
    found = shadows.last(run)
    return {
        "evidence": digest_of(dict(outputs)),
        "rules": digest_of(run.recipe.gate.model_dump()),
        "shadows": "" if found is None else digest_of(found.to_dict()),
    }


def _gate(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Gives the verdict.

    Raises:
        GateRefused: the evidence does not allow the release. The run stays where it is, nothing is published.
    """
    from validation.expectations import Check
    from validation.gates import as_asked, verdict_on

    if run.recipe.privacy is not None:
        private.settle(run)
    attacked = _shadowed(run)
    checks = [Check(**{**c, "columns": tuple(c["columns"])}) for c in _read_json(run, CHECKS)]
    evidence = evidence_of(run)
    found = verdict_on(evidence, checks, run.recipe.gate)
    if run.recipe.parity is not None:
        found = as_asked(found, run.recipe.parity.columns)
    found = replace(found, findings=(*found.findings, *_personal(run.schema), *_not_compared(run, evidence)))
    path = run.workspace.path / VERDICT
    write_atomic(path, json.dumps(found.to_dict(), ensure_ascii=False).encode())
    run.watch.wrote("gate", path)
    if not found.passed:
        raise GateRefused(_refusal(run, found))
    return [path, *attacked], {"summary": found.summary, "warnings": len(found.findings)}


def _shadowed(run: Run) -> list[Path]:
    """Takes over the last attack by shadow models on such a configuration, so that what is judged is published."""
    from pipelines import shadows

    found, path = shadows.last(run), run.workspace.path / SHADOWS
    path.unlink(missing_ok=True)
    if found is None:
        return []
    write_atomic(path, found.to_json().encode())
    return [path]


def _not_compared(run: Run, evidence: "Evidence") -> Iterator["Finding"]:
    """A warning where images were not held against each other, since there are too few, or noise hides them."""
    from validation.gates import Finding

    if not run.schema.images or evidence.images is not None or evidence.noised_images is not None:
        return
    if run.recipe.privacy is not None:
        yield Finding(
            rule="images", level="warning", columns=(), value=None, limit=None,
            message="images should be held against real ones, however: under privacy that takes a share of the report, "
            "and as many images as noise leaves visible; give the report a larger share, or look at the images",
        )  # fmt: skip
    else:
        yield Finding(
            rule="images", level="warning", columns=(), value=None, limit=None,
            message="images should be held against real ones, however: there are too few, so nothing is known of "
            "copies; bring fifty of each side at least",
        )  # fmt: skip


def _personal(schema: Schema) -> Iterator["Finding"]:
    """A warning for each column that is learned although init took its values for personal data."""
    from validation.gates import Finding

    for column in schema:
        if column.learned and column.note and "personal data" in column.note:
            message = (
                f"personal data must not be learned, however: {column.name!r} is kind: {column.kind} and "
                f"{column.note}; write kind: text, action: replace, or remove the note if it names nobody"
            )
            yield Finding(
                rule="personal",
                level="warning",
                columns=(column.name,),
                message=message,
                value=None,
                limit=None,
            )


def _refusal(run: Run, verdict: "Verdict") -> str:
    listed = f"{_listed(verdict.critical)}{_listed(verdict.warnings, before='warning: ')}"
    kept = f"Nothing was published; the run is kept in {run.workspace.path}"
    try:
        report = f"\nIts report: {write_report(run)}"
    except ReleaseError:
        # What may not even be certified is refused all the same.
        report = ""
    return f"the gate refused this release:{listed}\n{kept}{report}"


def _listed(findings: Sequence["Finding"], before: str = "") -> str:
    listed = "".join(f"\n  {before}{f.rule}: {f.message}" for f in findings[:10])
    return listed + (f"\n  … and {len(findings) - 10} more" if len(findings) > 10 else "")


def write_report(run: Run) -> Path:
    """Writes the page of a judged run into its workspace; its figures are exact unless the run is private.

    Raises:
        ReleaseError: the run was not judged.
    """
    from validation import report

    for name in (EVIDENCE, VERDICT, SCHEMA):
        if not (run.workspace.path / name).is_file():
            raise ReleaseError(
                f"a report needs a run that the gate has judged, however: {run.workspace.path} has no {name}; "
                "`understudy resume` goes on with it"
            )
    try:
        evidence, verdict = evidence_of(run), verdict_of(run)
    except (KeyError, TypeError, ValueError):
        raise ReleaseError(
            f"a report needs evidence that this version wrote, however: that of {run.workspace.path} is another's; "
            "`understudy resume` judges it anew"
        ) from None
    page = report.render(
        title=run.recipe.name,
        evidence=evidence,
        verdict=verdict,
        certificate=certificate(run, warnings=len(verdict.warnings)).to_dict(),
        schema=_released_schema(run),
        zone="inside" if run.recipe.privacy is None else "outside",
    )
    path = run.workspace.path / REPORT
    write_atomic(path, page.encode())
    return path


def _released_schema(run: Run) -> Schema:
    return Schema.parse((run.workspace.path / SCHEMA).read_text("utf-8"), source=SCHEMA)


def evidence_of(run: Run) -> "Evidence":
    """The evidence of a validated run, with the attack by shadow models that the gate saw, if there was one.

    Without a formal guarantee it is exact and belongs to the inside.
    """
    from pipelines import shadows
    from validation.evidence import Evidence

    found, path = Evidence.from_dict(_read_json(run, EVIDENCE)), run.workspace.path / SHADOWS
    if found.attacks is None or not path.exists():
        return found
    done = (*found.attacks.done, *shadows.Shadowed.read(path).attacks)
    return replace(found, attacks=replace(found.attacks, done=done))


def verdict_of(run: Run) -> "Verdict":
    """What the gate said, whether it passed or refused."""
    from validation.gates import Verdict

    return Verdict.from_dict(_read_json(run, VERDICT))


def _read_json(run: Run, name: str) -> Any:
    return json.loads((run.workspace.path / name).read_text("utf-8"))


# --- publish


def _publish_inputs(run: Run) -> dict[str, str]:
    records = run.workspace.records()
    release_path = run.workspace.path / RELEASE
    published = Path(_read_json(run, RELEASE)["release"]) if release_path.exists() else None
    there = published is not None and published.is_dir() and _is_latest(published)
    return {
        "data": digest_of(dict(records["sample"].outputs)),
        "verdict": digest_of(dict(records["gate"].outputs)),
        "evidence": digest_of(dict(records["validate"].outputs)),
        "shadows": records["gate"].outputs.get(SHADOWS, ""),
        "root": str(run.release_root),
        # A release that somebody took away, or that is not the latest any more, is published again.
        "there": str(there or "publish" not in records),
    }


def _is_latest(release: Path) -> bool:
    return (release.parent / "latest").resolve() == release.resolve()


def _publish(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Makes the release visible in one atomic move."""
    evidence = published_evidence(run)
    verdict = released_verdict(run, evidence)
    files = release_files(run, evidence, verdict)
    folder = publish_files(run.release_root, run.recipe.name, files)
    # A root that somebody else looks after keeps its own catalogue.
    with contextlib.suppress(PermissionError):
        rebuild(run.release_root)
    path = run.workspace.path / RELEASE
    said = [f"{f.rule}: {f.message}" for f in verdict.findings]
    write_atomic(path, json.dumps({"release": str(folder), "warnings": said}, ensure_ascii=False).encode())
    run.watch.wrote("publish", path)
    return [path], {"files": len(files) + 1}


def released_verdict(run: Run, evidence: "Evidence") -> "Verdict":
    """The verdict in figures as coarse as the release shows them, which `evidence` are."""
    from validation import public
    from validation.gates import verdict_on

    verdict = verdict_of(run)
    if run.recipe.privacy is not None:
        return verdict
    return public.said(verdict, verdict_on(evidence, (), run.recipe.gate))


def release_files(run: Run, evidence: "Evidence", verdict: "Verdict") -> dict[str, bytes | Path]:
    """Everything that a release holds, by its path in it; evidence and verdict are as coarse as it shows them."""
    from validation import card, report
    from validation.figures import figures

    shards = {name: run.workspace.path / name for name in map(shard_name, all_shards(run))}
    schema_path, schema = run.workspace.path / SCHEMA, _released_schema(run)
    promised = certificate(run, warnings=len(verdict.warnings))
    page = report.render(
        title=run.recipe.name,
        evidence=evidence,
        verdict=verdict,
        certificate=promised.to_dict(),
        schema=schema,
    )
    about = {
        "figures.json": figures(evidence, verdict, promised.to_dict()),
        "croissant.json": croissant(run.recipe.name, schema, promised.to_dict(), _digests(run)),
        "provenance.json": provenance(run.recipe.name, promised.to_dict()),
    }
    own = ["schema.json", "certificate.json", "report.html", "README.md", "SHA256SUMS"]
    names = sorted([*shards, *about, *own])
    text = card.render(
        name=run.recipe.name,
        certificate=promised.to_dict(),
        evidence=evidence,
        verdict=verdict,
        schema=schema,
        files=names,
        rejected=int(run.workspace.records()["sample"].facts.get("rejected", 0)),
    )
    return {
        **shards,
        "schema.json": schema_path,
        "certificate.json": (json.dumps(promised.to_dict(), indent=1, ensure_ascii=False) + "\n").encode(),
        **{
            name: (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
            for name, data in about.items()
        },
        "report.html": page.encode(),
        "README.md": text.encode(),
    }


def _digests(run: Run) -> dict[str, str]:
    """Path of each shard → its SHA-256."""
    return dict(run.workspace.records()["sample"].outputs)


def published_evidence(run: Run) -> "Evidence":
    """The figures that a release shows: coarse ones, or under privacy those that follow from noised answers."""
    from privacy.inside import Exact
    from validation import public

    evidence = evidence_of(run)
    if run.recipe.privacy is not None:
        return evidence
    return public.outside(Exact(evidence).open(formal_guarantee=False), at_least=run.recipe.at_least)


def certificate(run: Run, *, warnings: int) -> Certificate:
    """What may be promised about this run's release."""
    from pipelines import audit, shadows

    facts = run.workspace.records()
    statement, control = without_guarantee(run.recipe.at_least)
    guarantee, attacked = None, run.workspace.path / SHADOWS
    if run.recipe.privacy is not None:
        guarantee = private.guarantee_of(run, audit=audit.last(run))
        statement, control = with_guarantee(guarantee), None
    return Certificate(
        statement=statement,
        formal_guarantee=guarantee,
        disclosure_control=control,
        synthesizer=facts["fit"].facts["synthesizer"],
        model_digest=facts["fit"].facts["digest"],
        recipe_digest=run.recipe.digest(),
        schema_digest=sha256(run.workspace.path / SCHEMA),
        rows=facts["sample"].facts["rows"],
        shards=facts["sample"].facts["shards"],
        draws=run.recipe.draws,
        learned_rows=_learned_about(run),
        parity=None if run.recipe.parity is None else _parity(run.recipe.parity),
        seed=run.recipe.seed,
        warnings=warnings,
        versions=versions(),
        drift=tuple(facts["ingest"].facts.get("drift", ())),
        watermark=watermark.certified(run.recipe.watermark, facts["sample"].facts.get("watermark")),
        shadow_models=shadows.Shadowed.read(attacked).cited() if attacked.exists() else None,
    )


def _parity(asked: "Parity") -> dict[str, Any]:
    return {**asked.model_dump(mode="json"), "exact": True, "statement": asked.statement}


def _learned_about(run: Run) -> int:
    """Rows that the model learned from as a release may say it: a noised number, or one in steps of `at_least`."""
    rows, step = learned_rows(run), max(1, run.recipe.at_least)
    return rows if run.recipe.privacy is not None else max(step, round(rows / step) * step)


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    names = (
        "understudy",
        "numpy",
        "scipy",
        "torch",
        "pyarrow",
        "pandas",
        "pillow",
        "safetensors",
        "sdmetrics",
        "scikit-learn",
    )
    return {name: importlib.metadata.version(name) for name in names}


STEPS: dict[str, Step] = {
    s.name: s
    for s in (
        Step(name="ingest", inputs=_ingest_inputs, act=_ingest),
        Step(name="profile", inputs=_profile_inputs, act=_profile),
        Step(name="fit", inputs=_fit_inputs, act=_fit),
        Step(name="sample", inputs=_sample_inputs, act=_sample),
        Step(name="validate", inputs=_validate_inputs, act=_validate),
        Step(name="gate", inputs=_gate_inputs, act=_gate),
        Step(name="publish", inputs=_publish_inputs, act=_publish),
    )
}
