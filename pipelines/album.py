"""Album: the images of a release as files in a folder, and what is said of them in a `metadata.csv`.

| format | file of an image | read by |
|---|---|---|
| png | `<class>/<row>.png`; without a label `<row>.png` | ImageFolder of Hugging Face, `understudy init` |
| dicom | `<row>.dcm`, Secondary Capture | viewers and archives of scans, `understudy init` |

`metadata.csv` has a line for each file, with its path as `file_name` and all columns of the release but the images; it
is escaped as an export to CSV is. A row without an image has no file, so it has no line.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv

from pipelines.arrays import split_of
from pipelines.export import plain_batch, rows_of
from pipelines.gallery import FILE_NAME, IMAGE_COLUMN, METADATA
from pipelines.publish import SUMS, check_sums
from pipelines.released import read
from pipelines.scans import FRAME, PATIENT
from pipelines.workspace import sha256
from privacy.errors import ReleaseError, UsageError
from synth.infer import names_label
from synth.schema import IMAGE, Column, Schema

AlbumFormat = Literal["png", "dicom"]

NO_CLASS = "no-label"
"""The folder of images whose label is missing."""

_OWN = re.compile(r"\d{9,}\.(png|dcm)")
"""How files are called that an export writes."""

_TAKEN: Mapping[str, tuple[str, ...]] = {
    "png": (FILE_NAME, IMAGE_COLUMN),
    "dicom": (FILE_NAME, IMAGE_COLUMN, PATIENT, FRAME),
}
"""Columns that whoever reads the folder makes himself, so that `metadata.csv` must call its own otherwise."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written.

    Attributes:
        folder: where.
        images: files of images.
        without: rows that have no image, and are not there.
        escaped: texts like formulas.
        label: the column whose values folders are called by; None where there are none.
        renamed: columns that are called otherwise in `metadata.csv`, and how.
    """

    folder: Path
    images: int
    without: int
    escaped: int
    label: str | None
    renamed: Mapping[str, str]

    def describe(self) -> str:
        """For a person."""
        lines = [
            f"{self.images:,} images in {self.folder}; {self.escaped:,} texts like formulas were escaped"
        ]
        if self.label is not None:
            lines.append(f"  folders are called by {self.label!r}")
        if self.without:
            lines.append(f"  {self.without:,} rows have no image and are left out")
        lines += [f"  {old!r} is called {new!r} in metadata.csv" for old, new in self.renamed.items()]
        return "\n".join(lines)


Encode = Callable[[bytes, int, object], bytes]
"""An image of a release, the number of its row and the value of its unit, if it has one → the content of a file."""


def export_images(
    release: Path, out: Path, *, format: AlbumFormat, label: str | None = None, force: bool = False
) -> Written:
    """Writes each image of a release into a file of its own; the folder is there whole, or as it was before.

    Files are called by numbers: whoever changed a release must not choose where they go.

    Args:
        release: the folder of the release.
        out: the folder to write.
        format: of the files.
        label: the column of classes, for `png`; None: the first categorical one that is called like a label.
        force: replace a folder that an export wrote.

    Raises:
        ReleaseError: the release is damaged, or has no image.
        UsageError: it has no column of images or several, the label cannot be one, or the folder is there already.
    """
    _check_target(out, force=force)
    check_sums(release)
    schema = read(release).schema
    column = _only_images(schema)
    classes = None if format == "dicom" and label is None else _classes(schema, label, format)
    part = out.with_name(f".part.{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        album = _Album(
            folder=part,
            column=column.name,
            classes=classes,
            unit=schema.unit,
            renamed=_renamed([c.name for c in schema if c is not column], format),
            encode=_png if format == "png" else _dicom(release, column),
            suffix=".png" if format == "png" else ".dcm",
        )
        images, without, escaped = album.fill(rows_of(release))
        if not images:
            raise ReleaseError(f"a folder of images needs images, however: no row of {release} has one")
        _swap(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Written(
        folder=out, images=images, without=without, escaped=escaped, label=classes, renamed=album.renamed
    )


# ------------------------------------------------------------------------------------------------ before anything


def _check_target(out: Path, *, force: bool) -> None:
    if not out.parent.is_dir():
        raise UsageError(f"a folder needs a folder to lie in, however: there is no {out.parent}; make it")
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise UsageError(f"export overwrites nothing, however: {out} is there; add --force")
    foreign = next((p for p in out.rglob("*") if not _ours(p)), None) if out.is_dir() else out
    if out.is_symlink() or foreign is not None:
        raise UsageError(
            f"--force replaces only a folder that export wrote, however: {foreign or out} is of another's making; "
            "choose another name, or remove the folder yourself"
        )


def _ours(path: Path) -> bool:
    if path.is_symlink():
        return False
    return path.is_dir() or path.name == METADATA[0] or _OWN.fullmatch(path.name) is not None


def _only_images(schema: Schema) -> Column:
    found = schema.images
    if not found:
        raise UsageError(
            "a folder of images needs a column of images, however: this release has none; leave --format out for CSV"
        )
    if len(found) > 1:
        names = ", ".join(repr(c.name) for c in found)
        raise UsageError(
            f"a folder holds one column of images, however: this release has {names}; leave --format out for CSV, "
            "which has a folder for each"
        )
    return found[0]


def _classes(schema: Schema, label: str | None, format: AlbumFormat) -> str | None:
    """The column whose values folders are called by."""
    known = {c.name for c in schema if c.kind in ("categorical", "boolean")}
    if label is None:
        return next((c.name for c in schema if c.name in known and names_label(c.name)), None)
    if format != "png":
        raise UsageError(
            "only folders of PNG files are called by classes, since those of scans are often names, however: the "
            f"format is {format}; leave --label out: metadata.csv has the column"
        )
    if label not in known:
        raise UsageError(
            f"a label must be a categorical column, however: {label!r} is none; known are "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    return label


# ------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True, kw_only=True)
class _Album:
    """A folder that is filled.

    Attributes:
        folder: where.
        column: that of the images.
        classes: the column whose values folders are called by, if any.
        unit: the column that names the release's unit, if any.
        renamed: columns that `metadata.csv` calls otherwise.
        encode: makes a file of an image.
        suffix: of the files.
    """

    folder: Path
    column: str
    classes: str | None
    unit: str | None
    renamed: Mapping[str, str]
    encode: Encode
    suffix: str

    def fill(self, rows: Iterable[pa.RecordBatch]) -> tuple[int, int, int]:
        """Writes files and metadata, a batch of rows at a time: numbers of images, rows without, escaped texts."""
        row = there = escaped = 0
        writer = None
        with (self.folder / METADATA[0]).open("wb") as stream:
            for batch in rows:
                paths = self._images(batch, row)
                row += len(batch)
                kept = pa.array([p is not None for p in paths])
                plain, count = plain_batch(self._said(batch, paths).filter(kept))
                writer = writer or pyarrow.csv.CSVWriter(stream, plain.schema)
                writer.write_batch(plain)
                there, escaped = there + len(plain), escaped + count
            if writer is not None:
                writer.close()
        return there, row - there, escaped

    def _images(self, batch: pa.RecordBatch, first_row: int) -> list[str | None]:
        """Writes the images of a batch; the relative path of each row's file, None where there is no image."""
        if self.column not in batch.schema.names or batch.schema.field(self.column).type != IMAGE:
            raise ReleaseError(
                f"data must be as schema.json says, however: {self.column!r} holds no images; fetch the release again"
            )
        labels, units = _cells(batch, self.classes), _cells(batch, self.unit)
        paths: list[str | None] = []
        for i, image in enumerate(batch.column(self.column)):
            content = image["bytes"].as_py() if image.is_valid else None
            if content is None:
                paths.append(None)
                continue
            home = self.folder if self.classes is None else self.folder / class_folder(labels[i])
            home.mkdir(exist_ok=True)
            path = home / f"{first_row + i:09d}{self.suffix}"
            path.write_bytes(self.encode(content, first_row + i, units[i]))
            paths.append(path.relative_to(self.folder).as_posix())
        return paths

    def _said(self, batch: pa.RecordBatch, paths: list[str | None]) -> pa.RecordBatch:
        """What metadata says of the rows."""
        others = [n for n in batch.schema.names if n != self.column]
        arrays = [pa.array(paths, pa.string()), *(batch.column(n) for n in others)]
        names = [FILE_NAME, *(self.renamed.get(n, n) for n in others)]
        return pa.RecordBatch.from_arrays(arrays, names=names)


def _cells(batch: pa.RecordBatch, name: str | None) -> list[object]:
    """The values of a column; None each where there is no such column."""
    return list(batch.column(name).to_pylist()) if name in batch.schema.names else [None] * len(batch)


def class_folder(value: object) -> str:
    """What the folder of a class is called: the value, if it can be a name of a folder anywhere.

    Else what of it can, and a few digits of its hash, so that two classes never share a folder.
    """
    if value is None:
        return NO_CLASS
    text = str(value).lower() if isinstance(value, bool) else str(value)
    plain = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-._ ")[:60]
    # Folders for training and test are read as such, and those that begin with a dot or a line are passed over.
    if plain and plain == text and plain != NO_CLASS and split_of(plain) is None:
        return plain
    return f"{plain or 'class'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _renamed(names: list[str], format: AlbumFormat) -> dict[str, str]:
    """Columns whose names are taken, and what they are called instead."""
    found: dict[str, str] = {}
    for name in names:
        other = name
        while other in _TAKEN[format] or (other != name and other in names):
            other = f"released_{other}"
        if other != name:
            found[name] = other
    return found


def _png(content: bytes, row: int, unit: object) -> bytes:
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ReleaseError(
            f"images of a release must be PNG, however: that of row {row} is none; fetch it again"
        )
    return content


def _dicom(release: Path, column: Column) -> Encode:
    from pipelines.secondary import Secondary

    assert column.image is not None
    secondary = Secondary(digest=sha256(release / SUMS), picture=column.image)
    return secondary.file


def _swap(part: Path, out: Path) -> None:
    """Puts the new folder in the place of the one that is there, which goes only when the new one is whole."""
    if not out.exists():
        part.rename(out)
        return
    old = out.with_name(f".old.{out.name}")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    try:
        part.rename(out)
    except OSError:
        with suppress(OSError):
            old.rename(out)
        raise
    shutil.rmtree(old)
