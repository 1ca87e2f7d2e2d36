"""The steps of a release: ingest → profile → fit → sample → validate → gate → publish.

Each is a plain function over a workspace. It reads artifacts of earlier steps, writes its own, and says what
it depended on; `perform` runs it only if that changed. No step looks back. The runner, this process or a
Prefect flow, only decides the order.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import ingest as reading
from pipelines import private, watermark
from pipelines.drawing import sample, sample_inputs
from pipelines.fitting import fit, fit_inputs, profile, profile_inputs
from pipelines.ingesting import ingest, ingest_inputs
from pipelines.judging import gate, gate_inputs
from pipelines.machine import available_memory, check_disk, check_memory, room
from pipelines.releasing import publish, publish_inputs
from pipelines.run import (
    EXACT_PAGE,
    IMAGE_BYTES,
    RELEASE,
    Run,
    code_digest,
    encoded_bytes,
    refusal_of,
    synthesizer_of,
    versions,
)
from pipelines.source import Source
from pipelines.validating import validate, validate_inputs
from pipelines.workspace import Record, digest_of
from privacy.errors import RecipeError, RowError, SchemaError, UnderstudyError
from synth.schema import Schema

INCEPTION_BYTES = 1_200_000_000
"""Memory of InceptionV3, of a batch of images in it, and of five covariances of its features."""

BASE_BYTES = 700_000_000
"""Resident memory of the imports and of one batch."""


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


def told(run: Run, name: str, record: Record) -> Record:
    """What may be said of a step outside the workspace: under privacy no number of rows, and no digest of them.

    Inputs of later steps are digests of what came before, an exact report of the rows among it where there is one.
    """
    if run.recipe.privacy is None:
        return record
    inside = name in private.KEPT or name == "validate"
    return replace(
        record,
        inputs={},
        outputs={} if inside else record.outputs,
        facts={} if name == "ingest" else record.facts,
    )


def inputs_of(run: Run, name: str) -> dict[str, str]:
    """What a step depends on: its own inputs, our code, and the packages that the numbers depend on."""
    if run.recipe.privacy is not None and name in private.KEPT:
        return private.kept_inputs(run)
    return {**STEPS[name].inputs(run), "code": code_digest(), "versions": digest_of(versions())}


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
    if _is_read(run):
        return  # What was asked about is never read again, whatever became of it.
    for source in run.named_sources():
        # A query is held against the schema when it is read: until then nothing connects.
        if isinstance(source, Source):
            try:
                reading.check_drift(source, run.source_schema.arrow, allowed=run.recipe.allow_drift)
            except RowError as e:
                raise refusal_of(run, e) from None


def _is_read(run: Run) -> bool:
    """Whether a private run has read all rows that it ever will; another schema reads them anew."""
    if run.recipe.privacy is None or not run.workspace.has("ingest"):
        return False
    return dict(run.workspace.records()["ingest"].inputs) == private.kept_inputs(run)


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
    if run.recipe.privacy is not None or run.workspace.has("ingest"):
        return  # Under privacy not even the size of the input decides before it is paid for.
    source = run.source()
    if isinstance(source, Source):
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


STEPS: dict[str, Step] = {
    s.name: s
    for s in (
        Step(name="ingest", inputs=ingest_inputs, act=ingest),
        Step(name="profile", inputs=profile_inputs, act=profile),
        Step(name="fit", inputs=fit_inputs, act=fit),
        Step(name="sample", inputs=sample_inputs, act=sample),
        Step(name="validate", inputs=validate_inputs, act=validate),
        Step(name="gate", inputs=gate_inputs, act=gate),
        Step(name="publish", inputs=publish_inputs, act=publish),
    )
}
