"""Released: a release as anybody can read it: its certificate, its schema, its figures and its rows."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.publish import SUMS
from privacy.errors import ReleaseError, SchemaError
from synth.schema import Schema

FIGURES = "figures.json"


@dataclass(frozen=True, kw_only=True)
class Released:
    """One release.

    Attributes:
        folder: where it lies.
        name: of the release.
        number: digest of its checksums, the name of its folder.
        issued: when it became visible, seconds since 1970: the time of its checksums in this place.
        certificate: what is promised.
        schema: the columns.
        figures: what its report's first screen says; empty for releases of versions that wrote none.
        files: bytes of each file, by its path in the release.
        sums: SHA-256 (hex) of each file that is listed, by its path.
    """

    folder: Path
    name: str
    number: str
    issued: float
    certificate: Mapping[str, Any]
    schema: Schema
    figures: Mapping[str, Any]
    files: Mapping[str, int]
    sums: Mapping[str, str]

    @property
    def rows(self) -> int:
        """Rows of the data, as the certificate says."""
        rows = self.certificate.get("rows")
        return rows if isinstance(rows, int) else 0

    def figure(self, *path: str) -> float | None:
        """A figure by its keys; None where it is not known."""
        found: Any = self.figures
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        known = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
        return float(found) if known else None

    def head(self, rows: int) -> pa.Table:
        """Its first rows; rows are drawn independently, so they are as good as any."""
        batches: list[pa.RecordBatch] = []
        held = 0
        try:
            for shard in sorted(self.folder.glob("data/part-*.parquet")):
                with pq.ParquetFile(shard) as file:
                    for batch in file.iter_batches(batch_size=65_536, use_threads=False):
                        batches.append(batch.slice(0, rows - held))
                        held += len(batches[-1])
                        if held >= rows:
                            return pa.Table.from_batches(batches)
        except (OSError, pa.ArrowException):
            raise ReleaseError(
                f"data must be Parquet, however: a file of {self.folder} is not; fetch it again"
            ) from None
        if not batches:
            raise ReleaseError(f"a release must have data, however: {self.folder / 'data'} has none")
        return pa.Table.from_batches(batches)


def read(folder: Path) -> Released:
    """Reads what a release says of itself.

    Raises:
        ReleaseError: it is none, or a manifest of it cannot be read.
    """
    folder = folder.resolve()
    sums = folder / SUMS
    if not sums.is_file():
        raise ReleaseError(
            f"a release must have {SUMS}, however: {folder} has none; give the folder that `understudy release` printed"
        )
    try:
        schema = Schema.parse((folder / "schema.json").read_text("utf-8"), source="schema.json")
    except (OSError, UnicodeDecodeError, SchemaError):
        raise ReleaseError(
            f"a release must have a sound schema.json, however: {folder} has none; `understudy verify` says more"
        ) from None
    return Released(
        folder=folder,
        name=folder.parent.name,
        number=folder.name,
        issued=sums.stat().st_mtime,
        certificate=_manifest(folder / "certificate.json"),
        schema=schema,
        figures=_manifest(folder / FIGURES) if (folder / FIGURES).is_file() else {},
        files={
            p.relative_to(folder).as_posix(): p.stat().st_size
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        },
        sums={
            name: digest
            for digest, _, name in (
                line.partition("  ") for line in sums.read_text("utf-8", errors="replace").splitlines()
            )
        },
    )


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, Mapping):
            raise ValueError
    except (OSError, ValueError):
        raise ReleaseError(
            f"a release must have a readable {path.name}, however: {path.parent} has none"
        ) from None
    return data
