"""The step "ingest", and the rows that it left, as curators read them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import ingest as reading
from pipelines import private
from pipelines.aside import Aside
from pipelines.run import ASIDE, IMAGE_BYTES, IMAGE_ROWS, ROWS, Run
from pipelines.source import Source
from pipelines.workspace import digest_of, write_atomic
from privacy.errors import InputError, RowError
from synth.constraints import Constraints
from synth.images import as_images
from synth.keys import is_text
from synth.schema import IMAGE, REPLACED, Schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from privacy.curator import ExactCurator
    from synth.rows import RawRows
    from synth.rows import Source as RowSource


def ingest_inputs(run: Run) -> dict[str, str]:
    """What the rows that are read depend on."""
    held = run.holdout_source()
    return {
        "source": reading.digest(run.source()),
        "holdout": "" if held is None else reading.digest(held),
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of(
            [run.recipe.broken_rows, run.recipe.allow_drift, run.recipe.scans.model_dump(mode="json")]
        ),
    }


def ingest(run: Run) -> tuple[list[Path], dict[str, Any]]:
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
        private.identify(run, _units(run, part), () if run.schema.unit is None else _contents(run, part))
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
    yield from reading.batches(source, run.source_schema.source, aside=aside, adapt=_may_drift(run, source))
    if reading.stamp(source) != before:
        raise InputError(
            f"an input must stay as it is while it is read, however: {source.label} was changed; release again "
            "when it is whole"
        )


def _may_drift(run: Run, source: reading.Table) -> bool:
    """Whether a source may lack columns of the schema, or have others.

    Under privacy a collection of images must not, whatever a recipe says: which columns it has follows from its rows.
    """
    of_rows = run.recipe.privacy is not None and isinstance(source, Source) and source.holds_images
    return run.recipe.allow_drift and not of_rows


def _units(run: Run, path: Path) -> Iterator["NDArray[np.uint64]"]:
    """A digest of each row's unit, or of each row's content where rows are units.

    Raises:
        InputError: there is a column of units, and none in it.
    """
    if run.schema.unit is not None:
        from privacy.curator import MISSING

        known = 0
        for b in raw_rows(run, path).batches((run.schema.unit,)):
            # A row without a unit is one of its own, by its number, which says nothing in another dataset.
            named = b.unit[b.columns[run.schema.unit] != MISSING]
            known += len(named)
            yield named
        if not known:
            raise InputError(
                f"a column of units must say whose rows are whose, however: {run.schema.unit!r} has no value in any "
                "row; name another column, or leave `unit` out, so that each row is one"
            )
        return
    yield from _contents(run, path)


def _contents(run: Run, path: Path) -> Iterator["NDArray[np.uint64]"]:
    """A digest of each row's content, the same whether a text that is never learned is the unit or not."""
    import pandas as pd

    texts = {c.name for c in run.schema if is_text(c.arrow_type) and not c.learned}
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=65_536, columns=list(run.schema.names), use_threads=False):
            # Of a column of images its files are hashed: a struct cannot be.
            columns = [
                c.field("bytes") if f.type == IMAGE else _blank(c) if f.name in texts else c
                for f, c in zip(batch.schema, batch, strict=True)
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
            array = _blank(array)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _blank(array: pa.Array) -> pa.Array:
    """Texts without what they say, but for which are missing."""
    missing = array.is_null().to_numpy(zero_copy_only=False)
    place = pa.array(np.zeros(len(array), np.int64), mask=missing)
    return pa.array([REPLACED]).take(place).cast(array.type)


def raw_rows(run: Run, path: Path | None = None) -> "RawRows":
    """The ingested rows, or those of a file that becomes them, for a curator."""
    from synth.rows import RawRows

    return RawRows(run.schema, stored(run, path), marked=isinstance(run.recipe.holdout, str))


def coded_rows(run: Run) -> "RawRows":
    """The ingested rows in the columns that are learned, into which constraints are built."""
    from synth.rows import RawRows

    constraints = Constraints(run.schema)
    source = constraints.source(stored(run))
    return RawRows(constraints.coded, source, marked=isinstance(run.recipe.holdout, str))


def stored(run: Run, path: Path | None = None) -> "RowSource":
    """The rows that were read, in batches of bounded size."""
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


def images_compared(schema: Schema) -> int:
    """How many images of a side are held against others: those of the first column of images."""
    picture = schema.images[0].image
    return max(1, min(IMAGE_ROWS, IMAGE_BYTES // (1 if picture is None else picture.size)))
