"""Export: the rows of a release as one CSV file that a spreadsheet cannot be tricked with.

A text that begins like a formula is one to a spreadsheet, which may then fetch or send. Such texts, in cells and in the
header, get an apostrophe before them, as OWASP advises ("CSV Injection"); numbers stay numbers.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.ingest import file_batches
from pipelines.publish import check_sums
from pipelines.workspace import check_out
from privacy.errors import ReleaseError, UsageError
from synth.keys import is_text
from synth.schema import IMAGE

FORMULA = r"^[\s\x00]*[=+\-@\t\r\n＝＋－＠]"
"""How a text begins that a spreadsheet may take for a formula; the wide forms are read as the narrow ones."""


def export(release: Path, out: Path, *, force: bool = False) -> tuple[int, int]:
    """Writes the rows of a release into a CSV file, packed with gzip or the like if it is called so.

    Images go into a folder beside it, called like it without its ending, and the file says where each is.

    Returns:
        Rows, and cells that were escaped.

    Raises:
        ReleaseError: the release is damaged.
        UsageError: the file or the images' folder is there already, or the file's folder is not.
    """
    check_out(out, "export overwrites nothing", force=force)
    check_sums(release)
    rows = escaped = 0
    part = out.with_name(f".part.{out.name}")
    writer = None
    with pa.output_stream(str(part), compression="detect") as stream:
        for batch in rows_of(release):
            plain, count = plain_batch(_with_paths(batch, out, rows, force=force))
            writer = writer or pyarrow.csv.CSVWriter(stream, plain.schema)
            writer.write_batch(plain)
            rows, escaped = rows + len(batch), escaped + count
        if writer is not None:
            writer.close()
    part.replace(out)
    return rows, escaped


def _with_paths(batch: pa.RecordBatch, out: Path, first_row: int, *, force: bool) -> pa.RecordBatch:
    """The rows with the paths of images, which are written, in their place.

    Files are called by numbers: whoever changed a release must not choose where they go.
    """
    for i, field in enumerate(batch.schema):
        if field.type != IMAGE:
            continue
        folder = out.parent / out.name.split(".")[0] / f"column_{i + 1}"
        if folder.exists() and first_row == 0 and not force:
            raise UsageError(f"export overwrites nothing, however: {folder} is there; add --force")
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, image in enumerate(batch.column(i).to_pylist(), start=first_row):
            path = None if image is None else folder / f"{number:09d}.png"
            if path is not None:
                path.write_bytes(image["bytes"])
            paths.append(None if path is None else path.relative_to(out.parent).as_posix())
        batch = batch.set_column(i, pa.field(field.name, pa.string()), pa.array(paths, pa.string()))
    return batch


def plain_batch(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
    """The rows as a CSV holds them, and how many texts were escaped; the names of columns are not counted."""
    columns, count = [], 0
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if is_text(column.type):
            column, found = _escaped(column)
            count += found
        elif pa.types.is_duration(column.type):
            column = column.cast(pa.int64())
        elif pa.types.is_float16(column.type):
            column = column.cast(pa.float32())
        columns.append(column)
    names = _escaped(pa.array(batch.schema.names, pa.string()))[0].to_pylist()
    return pa.RecordBatch.from_arrays(columns, names=names), count


def _escaped(texts: pa.Array) -> tuple[pa.Array, int]:
    formulas = pc.fill_null(pc.match_substring_regex(texts, FORMULA), False)
    quoted = pc.binary_join_element_wise(pa.scalar("'", texts.type), texts, pa.scalar("", texts.type))
    return pc.if_else(formulas, quoted, texts), int(pc.sum(formulas).as_py() or 0)


def rows_of(release: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a release, as a stream in bounded memory.

    Raises:
        ReleaseError: it has none.
    """
    shards = sorted((release / "data").glob("part-*.parquet"))
    if not shards:
        raise ReleaseError(f"a release must have data, however: {release / 'data'} has none")
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            images = any(field.type == IMAGE for field in file.schema_arrow)
            yield from file_batches(file, images=images)
