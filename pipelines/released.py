"""Released: a release as anybody can read it: its certificate, its schema, its figures and its rows."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
        name: of the release.
        number: digest of its checksums, the name of its folder.
        issued: when it became visible, seconds since 1970: the time of its checksums in this place.
        certificate: what is promised.
        schema: the columns.
        figures: what its report's first screen says; empty for releases of versions that wrote none.
        files: bytes of each file, by its path in the release.
        sums: SHA-256 (hex) of each file that is listed, by its path.
    """

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


def head(folder: Path, rows: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of the first rows of a release; rows are drawn independently, so they are as good as any.

    Raises:
        ReleaseError: its data are none.
    """
    batches: list[pa.RecordBatch] = []
    held = 0
    try:
        for shard in sorted(folder.glob("data/part-*.parquet")):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=65_536, columns=list(columns), use_threads=False):
                    batches.append(batch.slice(0, rows - held).select(list(columns)))
                    held += len(batches[-1])
                    if held >= rows:
                        return pa.Table.from_batches(batches)
    except (OSError, pa.ArrowException, KeyError):
        raise ReleaseError(
            f"data must be Parquet with the columns of schema.json, however: a file of {folder} is not; fetch it again"
        ) from None
    if not batches:
        raise ReleaseError(f"a release must have data, however: {folder / 'data'} has none")
    return pa.Table.from_batches(batches)


def draws_of(folder: Path) -> list[Path]:
    """The folders of the draws of the table: the data, and those that stand beside it, by number."""
    others = (p for p in (folder / "draws").glob("*") if p.is_dir() and p.name.isdecimal())
    return [folder / "data", *sorted(others, key=lambda p: int(p.name))]


def read(folder: Path) -> Released:
    """Reads what a release on a disk says of itself.

    Raises:
        ReleaseError: it is none, or a manifest of it cannot be read.
    """
    folder = folder.resolve()
    if not (folder / SUMS).is_file():
        raise ReleaseError(
            f"a release must have {SUMS}, however: {folder} has none; give the folder that `understudy release` printed"
        )
    sizes = {
        p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()
    }

    def content(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except OSError:
            return None

    return described(
        content, sizes, name=folder.parent.name, number=folder.name, place=str(folder),
        issued=(folder / SUMS).stat().st_mtime,
    )  # fmt: skip


def described(
    content: Callable[[str], bytes | None],
    sizes: Mapping[str, int],
    *,
    name: str,
    number: str,
    place: str,
    issued: float,
) -> Released:
    """What a release says of itself, wherever it lies.

    Args:
        content: gives a file by its path in the release; None where there is none.
        sizes: bytes of each file, by its path.
        name: of the release.
        number: the name of its folder.
        place: where it lies, for messages.
        issued: when it became visible, seconds since 1970.

    Raises:
        ReleaseError: a manifest of it cannot be read.
    """
    try:
        schema = Schema.parse((content("schema.json") or b"").decode("utf-8"), source="schema.json")
    except (UnicodeDecodeError, SchemaError):
        raise ReleaseError(
            f"a release must have a sound schema.json, however: {place} has none; `understudy verify` says more"
        ) from None
    return Released(
        name=name,
        number=number,
        issued=issued,
        certificate=_manifest("certificate.json", content, place),
        schema=schema,
        figures=_manifest(FIGURES, content, place) if FIGURES in sizes else {},
        files=dict(sizes),
        sums={
            file: digest
            for digest, _, file in (
                line.partition("  ")
                for line in (content(SUMS) or b"").decode("utf-8", errors="replace").splitlines()
            )
        },
    )


def _manifest(name: str, content: Callable[[str], bytes | None], place: str) -> Mapping[str, Any]:
    try:
        data = json.loads((content(name) or b"").decode("utf-8"))
        if not isinstance(data, Mapping):
            raise ValueError
    except ValueError:
        raise ReleaseError(f"a release must have a readable {name}, however: {place} has none") from None
    return data
