"""Gallery: collections of images as tables with an image column, streamed in batches of bounded size.

| format | what lies there | columns beside `image` |
|---|---|---|
| pictures | PNG, JPEG and TIFF files in folders | `label`, the folder; or what `metadata.csv` says |
| scans | DICOM and NIfTI files in folders | `patient`, `frame`; named headers; what `metadata.csv` says |
| idx | files of MNIST's form | `label` |
| npz | arrays as MedMNIST lays them out | `label` |
| tar | WebDataset shards | what .cls, .txt and .json members say |

Folders, files or arrays for training, validation and test become a column `split`. Every cell but an image is text
here, and takes its type as the cells of a CSV do. A file that cannot be read is set aside with its name, up to as many
as somebody allowed. Names of files stay relative to the source.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipelines.arrays import (
    SPLIT,
    idx_frames,
    idx_parts,
    idx_rows,
    is_idx,
    npz_columns,
    npz_frames,
    npz_parts,
    npz_rows,
    split_of,
)
from pipelines.aside import Aside, Unreadable
from pipelines.delimited import MISSING
from pipelines.dicom import dicom_count, dicom_frames, is_dicom
from pipelines.nifti import is_nifti, nifti_count, nifti_slices
from pipelines.pictures import pages, picture
from pipelines.scans import FRAME, PATIENT, Scans
from pipelines.source import COMPRESSED, ImageFormat, Source, reading
from pipelines.tars import cell, is_tar, tar_columns, tar_rows, tar_samples
from privacy.errors import InputError, RowError
from synth.images import LIMITS, as_images
from synth.schema import IMAGE

IMAGE_COLUMN = "image"
LABEL = "label"

METADATA = ("metadata.csv", "metadata.jsonl")
"""Files that say something of the images beside and below them, as Hugging Face's ImageFolder reads them."""

FILE_NAME = "file_name"

BATCH_ROWS = 1024
BATCH_BYTES = 32 << 20
"""What a batch holds at most: it ends with the image that exceeds this."""

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_DICOM = (".dcm", ".dicom", ".dic", ".ima")


def format_of(file: Path) -> ImageFormat | None:
    """What kind of images a file holds, by its name; None if by its name it holds none."""
    name = file.name.lower()
    plain = name.rsplit(".", 1)[0] if name.endswith(COMPRESSED) else name
    if name.endswith(_PICTURES):
        return "pictures"
    if is_nifti(name) or plain.endswith(_DICOM):
        return "scans"
    if is_idx(name):
        return "idx"
    if name.endswith(".npz"):
        return "npz"
    return "tar" if is_tar(name) else None


def files_of_images(files: Iterable[Path]) -> dict[ImageFormat, list[Path]]:
    """Those files that hold images, and what is said of them, by what they are.

    Where no file is called as one of images is, those that begin as DICOM are: they often have no suffix.
    """
    files = list(files)
    found: dict[ImageFormat, list[Path]] = {}
    for file in files:
        kind = format_of(file)
        if kind is not None:
            found.setdefault(kind, []).append(file)
    if not found or "scans" in found:
        known = set(found.get("scans", ()))
        unnamed = [f for f in files if f not in known and f.name.lower() not in METADATA and _may_be_dicom(f)]
        if known or unnamed:
            found["scans"] = sorted({*known, *unnamed})
    return found


def _may_be_dicom(file: Path) -> bool:
    return file.name != "DICOMDIR" and file.suffix.lower() not in (".csv", ".tsv", ".json") and is_dicom(file)


def image_source(path: Path, format: ImageFormat, files: Sequence[Path], scans: Scans) -> Source:
    """A collection of images, and the columns that it has.

    Args:
        path: the file or the folder.
        format: what the files are.
        files: those that hold images, or say something of them.
        scans: what the recipe says of DICOM and NIfTI files.

    Raises:
        InputError: what lies there cannot be read as such.
    """
    source = Source(path=path, format=format, files=tuple(files), columns=(), scans=scans)
    columns = _COLUMNS[format](source)
    twice = next((c for c in columns if c == IMAGE_COLUMN or columns.count(c) > 1), None)
    if twice is not None:
        raise InputError(
            f"columns must differ, however: {source.label}: {twice!r} stands twice; rename what metadata says"
        )
    return replace(source, columns=(IMAGE_COLUMN, *columns))


def image_blocks(source: Source, aside: Aside) -> Iterator[pa.RecordBatch]:
    """The images of a source with what is said of them: `image` of type `IMAGE`, all else as string.

    Raises:
        RowError: more images cannot be read than may be set aside.
        InputError: a file that holds many images is damaged.
    """
    schema = pa.schema([(c, IMAGE if c == IMAGE_COLUMN else pa.string()) for c in source.columns])
    rows: list[dict[str, object]] = []
    size = 0
    for content, name, cells in _ROWS[source.format](source, aside):
        said = {column: _text(cell) for column, cell in cells.items()}
        rows.append({**said, IMAGE_COLUMN: {"bytes": content, "path": _text(name)}})
        size += len(content)
        if len(rows) == BATCH_ROWS or size >= BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(rows, schema=schema)
            rows, size = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def _text(cell: object) -> object:
    """Text that UTF-8 can hold: names of files, and what JSON escapes, may be no text."""
    return cell.encode("utf-8", "replace").decode() if isinstance(cell, str) else cell


def plain_images(
    block: pa.RecordBatch, columns: Sequence[str], place: Callable[[int], str], aside: Aside
) -> pa.RecordBatch:
    """Rows of a table whose images were checked and freed of all but their pixels; those with a broken one go aside.

    Args:
        block: the rows.
        columns: those that hold images, as bytes or as structs that have some.
        place: gives the name of a row of the block.
        aside: takes the rows that cannot be read.

    Raises:
        RowError: more images cannot be read than may be set aside.
    """
    kept = [True] * len(block)
    for column in columns:
        place_of = block.schema.get_field_index(column)
        images = as_images(block.column(place_of)).to_pylist()
        for row, image in enumerate(images):
            if image is None or not kept[row]:
                continue
            try:
                image["bytes"] = picture(image["bytes"])
            except InputError as e:
                aside.put(Unreadable(file=place(row), reason=str(e)))
                kept[row] = False
        block = block.set_column(place_of, pa.field(column, IMAGE), pa.array(images, IMAGE))
    return block if all(kept) else block.filter(pa.array(kept))


# ------------------------------------------------------------------------------------------- files in folders

_Row = tuple[bytes, str, Mapping[str, str | None]]
"""An encoded image, the relative name of where it stands, and what is said of it."""


@dataclass(frozen=True, kw_only=True)
class _About:
    """What metadata files say.

    Attributes:
        columns: of all of them, without `file_name`.
        cells: relative name of a file → its values.
    """

    columns: tuple[str, ...]
    cells: dict[str, dict[str, str | None]]


def _images_of(source: Source) -> list[Path]:
    return [f for f in source.files if f.name.lower() not in METADATA]


def _about(source: Source) -> _About | None:
    """What metadata says of the files; None where there is none.

    Raises:
        InputError: a metadata file cannot be read, or names no files.
    """
    files = [f for f in source.files if f.name.lower() in METADATA]
    if not files:
        return None
    cells: dict[str, dict[str, str | None]] = {}
    columns: dict[str, None] = {}
    for file in files:
        home = Path(source.name_of(file)).parent
        for line in _lines(file, source.name_of(file)):
            name = line.pop(FILE_NAME, None)
            if not name:
                raise InputError(
                    f"each line of metadata must have a {FILE_NAME}, however: one of {source.name_of(file)} has none"
                )
            columns |= dict.fromkeys(line)
            path = (home / name).as_posix()
            if path in cells:
                raise InputError(
                    f"metadata must name each image once, however: {source.name_of(file)} names one twice; take one out"
                )
            cells[path] = line
    return _About(columns=tuple(columns), cells=cells)


def _lines(file: Path, name: str) -> Iterator[dict[str, str | None]]:
    with reading(name), file.open(encoding="utf-8-sig", newline="") as stream:
        try:
            if file.suffix.lower() == ".csv":
                for row in csv.DictReader(stream, strict=True):
                    if None in row or None in row.values():
                        raise ValueError("cells are too many or too few")
                    yield {k: None if v in MISSING else v for k, v in row.items()}
                return
            for line in stream:
                if line.strip():
                    yield {str(k): cell(v) for k, v in json.loads(line).items()}
        except (ValueError, csv.Error, AttributeError, RecursionError):
            raise InputError(
                f"metadata must be a table with a header, or an object on each line, however: {name} is not; mend it"
            ) from None


def _folders(source: Source, file: Path) -> tuple[str, ...]:
    return Path(source.name_of(file)).parent.parts


def _has_splits(source: Source) -> bool:
    """Whether every image lies in a folder for training, validation or test."""
    files = _images_of(source)
    return source.path.is_dir() and all(
        (parts := _folders(source, f)) and split_of(parts[0]) is not None for f in files
    )


def _classes(source: Source, splits: bool) -> set[str]:
    below = (_folders(source, f)[int(splits) :] for f in _images_of(source))
    return {parts[0] for parts in below if parts}


def _folder_columns(source: Source) -> tuple[str, ...]:
    about = _about(source)
    said = () if about is None else about.columns
    splits = (SPLIT,) if _has_splits(source) and SPLIT not in said else ()
    if source.format == "scans":
        return (PATIENT, FRAME, *source.scans.headers, *said, *splits)
    labels = about is None and len(_classes(source, _has_splits(source))) > 1
    return (*((LABEL,) if labels else ()), *said, *splits)


def _folder_rows(source: Source, aside: Aside) -> Iterator[_Row]:
    about, splits = _about(source), _has_splits(source)
    files = _images_of(source)
    if about is not None:
        names = {source.name_of(f) for f in files}
        for name in about.cells:
            if name not in names:
                aside.put(Unreadable(file=_told(name), reason="metadata names it, and it is not there"))
    for file in files:
        name, folders = source.name_of(file), _folders(source, file)
        cells: dict[str, str | None] = {SPLIT: split_of(folders[0])} if splits else {}
        if about is None:
            cells[LABEL] = next(iter(folders[int(splits) :]), None)
        elif name in about.cells:
            cells |= about.cells[name]
        else:
            aside.put(Unreadable(file=name, reason="no line of metadata is about it"))
            continue
        yield from _file_rows(source, file, cells, aside)


def _told(name: str) -> str:
    """A name that somebody wrote, fit for a message."""
    return "".join(c if c.isprintable() else "?" for c in name)[:200]


def _file_rows(source: Source, file: Path, cells: Mapping[str, str | None], aside: Aside) -> Iterator[_Row]:
    """The images of one file; from the first that cannot be read on, the file is set aside."""
    name, given = source.name_of(file), 0
    try:
        for content, said in _frames(source, file):
            yield content, name if given == 0 else f"{name}#{given}", {**cells, **said}
            given += 1
    except RowError:
        raise
    except InputError as e:
        where = name if given == 0 else f"{name} from image {given + 1} on"
        aside.put(Unreadable(file=where, reason=str(e)))


def _frames(source: Source, file: Path) -> Iterator[tuple[bytes, Mapping[str, str | None]]]:
    name = source.name_of(file)
    if source.format == "scans":
        read = nifti_slices if is_nifti(file.name) else dicom_frames
        yield from read(file, name, source.scans)
        return
    if file.stat().st_size > LIMITS.bytes:
        raise InputError(f"an image must have {LIMITS.bytes:,} bytes at most, however: it has more")
    with reading(name):
        content = file.read_bytes()
    for page in pages(content):
        yield page, {}


# ------------------------------------------------------------------------------------- many images in one file


def _idx_columns(source: Source) -> tuple[str, ...]:
    parts = idx_parts(source.path, source.files)
    labels = (LABEL,) if any(p.labels for p in parts) else ()
    return (*labels, *((SPLIT,) if any(p.split for p in parts) else ()))


def _idx_rows(source: Source, aside: Aside) -> Iterator[_Row]:
    for part in idx_parts(source.path, source.files):
        for number, (content, cells) in enumerate(idx_frames(source.path, part)):
            yield content, f"{part.name}#{number}", cells


def _npz_columns(source: Source) -> tuple[str, ...]:
    columns: dict[str, None] = {}
    for file in source.files:
        parts = npz_parts(file)
        columns |= dict.fromkeys(npz_columns(file, parts))
        columns |= dict.fromkeys((SPLIT,) if any(p.split for p in parts) else ())
    return tuple(columns)


def _npz_rows(source: Source, aside: Aside) -> Iterator[_Row]:
    for file in source.files:
        for part in npz_parts(file):
            for number, (content, cells) in enumerate(npz_frames(file, part)):
                yield content, f"{part.name}#{number}", cells


def _tar_columns(source: Source) -> tuple[str, ...]:
    columns: dict[str, None] = {}
    for file in source.files:
        columns |= dict.fromkeys(tar_columns(file))
    splits = {split_of(_tar_word(file)) for file in source.files}
    return (*columns, *((SPLIT,) if None not in splits and SPLIT not in columns else ()))


def _tar_word(file: Path) -> str:
    """What a shard's name begins with: `train` of `train-000123.tar`."""
    name = file.name.lower()
    return name[: next((i for i, c in enumerate(name) if not c.isalpha()), len(name))]


def _tar_rows(source: Source, aside: Aside) -> Iterator[_Row]:
    known = set(source.columns)
    for file in source.files:
        name = source.name_of(file)
        said: dict[str, str | None] = {SPLIT: split_of(_tar_word(file))}
        for sample in tar_samples(file):
            place = f"{name}/{sample.name}"
            try:
                if not known >= set(sample.cells):
                    raise InputError(
                        "a sample must have the columns of those before it, however: it has others"
                    )
                yield sample.picture(), place, {**said, **sample.cells}
            except InputError as e:
                aside.put(Unreadable(file=place, reason=str(e)))


def image_rows(source: Source) -> int:
    """How many images a source holds, if all of them can be read; no pixel is.

    Raises:
        InputError: a file is damaged.
    """
    if source.format == "idx":
        return sum(idx_rows(source.path, part) for part in idx_parts(source.path, source.files))
    if source.format == "npz":
        return sum(npz_rows(file, part) for file in source.files for part in npz_parts(file))
    if source.format == "tar":
        return sum(tar_rows(file) for file in source.files)
    if source.format == "scans":
        counts = (nifti_count(f, source.scans) if is_nifti(f.name) else dicom_count(f) for f in source.files)
        return sum(counts)
    return len(_images_of(source))


_COLUMNS: dict[str, Callable[[Source], tuple[str, ...]]] = {
    "pictures": _folder_columns,
    "scans": _folder_columns,
    "idx": _idx_columns,
    "npz": _npz_columns,
    "tar": _tar_columns,
}

_ROWS: dict[str, Callable[[Source, Aside], Iterator[_Row]]] = {
    "pictures": _folder_rows,
    "scans": _folder_rows,
    "idx": _idx_rows,
    "npz": _npz_rows,
    "tar": _tar_rows,
}
