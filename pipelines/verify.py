"""verify: a release against its checksums, and its data against its own schema."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.publish import Verified, check_sums, signature_status
from privacy.errors import ReleaseError
from synth.schema import Schema


def verify(release: Path) -> Verified:
    """Checks a release.

    Raises:
        ReleaseError: a file is missing, changed or not listed, or the data break their schema.
    """
    from validation.expectations import check, observe
    from validation.gates import GateRules

    files = check_sums(release)
    schema = Schema.parse((release / "schema.json").read_text("utf-8"), source="schema.json")
    shards = sorted((release / "data").glob("part-*.parquet"))
    if not shards:
        raise ReleaseError(f"a release must have data, however: {release / 'data'} has none")
    facts = observe(_batches(shards), schema)
    head = pq.ParquetFile(shards[0]).read_row_group(0)
    failed = [c for c in check(head, facts, None, schema, GateRules()) if not c.success]
    if failed:
        raise ReleaseError(f"data must be what schema.json says, however: {failed[0].message}")
    return Verified(files=files, rows=facts[0].rows, signature=signature_status(release))


def _batches(shards: list[Path]) -> Iterator[pa.RecordBatch]:
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            yield from file.iter_batches(batch_size=65_536, use_threads=False)
