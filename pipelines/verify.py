"""verify: a release against its checksums, and its data against its own schema."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest import file_batches
from pipelines.publish import Verified, check_sums, signature_status
from pipelines.released import draws_of
from pipelines.sign import check_signature
from pipelines.workspace import sha256
from privacy.errors import ReleaseError, SchemaError
from synth.images import unseen, without_pixels
from synth.schema import IMAGE, Schema


def verify(release: Path, *, public_key: Path | None = None) -> Verified:
    """Checks a release.

    Args:
        release: its folder.
        public_key: the key that must have signed it; without one a signature is not checked.

    Raises:
        ReleaseError: a file is missing, changed or not listed, the data break their schema, or the signature is not
            of this release by this key.
        UsageError: the key is none.
    """
    from validation.expectations import check, observe, observe_constraints
    from validation.gates import GateRules

    files = check_sums(release)
    signature = signature_status(release) if public_key is None else check_signature(release, public_key)
    schema = _schema(release / "schema.json")
    shown, rows = unseen(schema), []
    for folder in draws_of(release):
        shards = sorted(folder.glob("part-*.parquet"))
        if not shards:
            raise ReleaseError(f"a release must have data, however: {folder} has none")
        for shard in shards:
            _check_columns(shard, schema)
        facts = observe(_batches(shards, schema), shown)
        head = without_pixels(pq.ParquetFile(shards[0]).read_row_group(0), schema)
        broken = observe_constraints(_batches(shards, schema), shown)
        failed = [c for c in check(head, facts, None, shown, GateRules(), broken) if not c.success]
        if failed:
            raise ReleaseError(f"data must be what schema.json says, however: {failed[0].message}")
        rows.append(facts[0].rows)
    _check_certificate(release, rows)
    return Verified(files=files, rows=rows[0], signature=signature)


def _schema(path: Path) -> Schema:
    try:
        return Schema.parse(path.read_text("utf-8"), source=path.name)
    except (OSError, UnicodeDecodeError) as e:
        raise ReleaseError(
            f"a release must have a readable schema, however: {path}: {getattr(e, 'strerror', None) or e}"
        ) from None
    except SchemaError as e:
        raise ReleaseError(f"a release must have a sound schema, however: {e}") from None


def _check_columns(shard: Path, schema: Schema) -> None:
    try:
        file = pq.read_metadata(shard)
    except (OSError, pa.ArrowException):
        raise ReleaseError(f"data must be Parquet, however: {shard.name} is not; fetch it again") from None
    found = file.schema.to_arrow_schema()
    names = found.names
    rule = f"data must have the columns of schema.json, however: {shard.name}"
    if lost := [n for n in schema.names if n not in names]:
        raise ReleaseError(f"{rule} lacks {lost[0]!r}")
    if more := [n for n in names if n not in schema.names]:
        raise ReleaseError(f"{rule} has {more[0]!r}, too")
    if names != list(schema.names):
        raise ReleaseError(f"{rule} has them in another order")
    if wrong := [c.name for c in schema.images if found.field(c.name).type != IMAGE]:
        raise ReleaseError(f"{rule} has no images in {wrong[0]!r}")
    if file.num_rows == 0:
        raise ReleaseError(f"a file of data must have rows, however: {shard.name} has none")


def _batches(shards: list[Path], schema: Schema) -> Iterator[pa.RecordBatch]:
    """The rows; of images, whether each is there."""
    for shard in shards:
        try:
            with pq.ParquetFile(shard) as file:
                for batch in file_batches(file, images=bool(schema.images)):
                    yield from without_pixels(pa.Table.from_batches([batch]), schema).to_batches()
        except (OSError, pa.ArrowException):
            raise ReleaseError(f"data must be Parquet, however: {shard.name} breaks off") from None


def _check_certificate(release: Path, rows: list[int]) -> None:
    """Holds the certificate against what it certifies: rows of each draw."""
    try:
        said = json.loads((release / "certificate.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise ReleaseError("a release must have a readable certificate.json, however: it has none") from None
    if said.get("schema_digest") != sha256(release / "schema.json"):
        raise ReleaseError(
            "a certificate must be of its release, however: its schema_digest is of another schema"
        )
    if said.get("draws", 1) != len(rows):
        raise ReleaseError(
            f"a certificate must be of its release, however: it certifies {said.get('draws', 1)} draws, not {len(rows)}"
        )
    if any(said.get("rows") != n for n in rows):
        raise ReleaseError(
            f"a certificate must be of its release, however: it certifies {said.get('rows')} rows"
        )
