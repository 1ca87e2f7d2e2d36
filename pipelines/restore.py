"""restore: images of a file through a model that knows what such images look like.

Nothing is learned and no budget is charged, and nothing of it is a release: what comes out is as private as what went
in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import ingest as reading
from pipelines.ingesting import images_at_once
from pipelines.workspace import check_out, model_in
from privacy.errors import InputError, UsageError
from synth.table import TableModel, load

NOTICE = "images restored by a model from images that were given: as private as these"
"""What the file says of itself, under `understudy`."""

Mend = Callable[[TableModel[pa.Table], pa.Table, int], pa.Table]
"""From a model, rows and a seed to these rows with other images."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was written.

    Attributes:
        rows: how many.
        model_digest: of the model.
    """

    rows: int
    model_digest: str


def restore(model: Path, source: Path, out: Path, mend: Mend, *, seed: int, force: bool) -> Restored:
    """Reads rows with images, has them mended, and writes them as Parquet, a batch at a time.

    Args:
        model: a run, or the folder of its model.
        source: whatever `understudy init` reads, with the model's column of images; other columns stay.
        out: the Parquet file.
        mend: what is done.
        seed: of what is drawn.
        force: overwrite a file that is there.

    Raises:
        UsageError: the file is there, or its folder is not, or the model cannot mend images.
        InputError: the source cannot be read, an image is broken or too large, or there is no such column.
    """
    check_out(out, "nothing is overwritten", force=force)
    fitted = load(model_in(model)).as_arrow()
    if not fitted.schema.images:
        raise UsageError(
            f"a model must know images to mend them, however: {model} is of a table without; fit an image-vae"
        )
    part = out.with_name(f".{out.name}.part")
    try:
        rows = _written(part, _mended(fitted, source, mend, seed))
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Restored(rows=rows, model_digest=fitted.digest())


def _mended(fitted: TableModel[pa.Table], source: Path, mend: Mend, seed: int) -> Iterator[pa.Table]:
    image = fitted.schema.images[0]
    found = reading.sniff(source)
    if image.name not in found.columns:
        raise InputError(
            f"the model mends images of the column {image.name!r}, however: {source} has none of that name; rename it"
        )
    types = reading.infer_types(found)
    at_once = images_at_once(1 if image.image is None else image.image.size)
    for number, batch in enumerate(reading.batches(found, types, batch_rows=at_once)):
        yield mend(fitted, pa.Table.from_batches([batch]), seed + number) if len(batch) else batch


def _written(path: Path, tables: Iterator[pa.Table]) -> int:
    rows = 0
    writer = None
    try:
        for table in tables:
            if writer is None:
                shown = table.schema.with_metadata({"understudy": NOTICE})
                writer = pq.ParquetWriter(path, shown, compression="zstd")
            writer.write_table(table.cast(writer.schema))
            rows += len(table)
    finally:
        if writer is not None:
            writer.close()
    if not rows:
        raise InputError("images to mend need rows, however: there are none; give another file")
    return rows
