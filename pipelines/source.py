"""Source: one table in one file or in several files of one form, and how their bytes are read."""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast
from urllib.parse import unquote

import pyarrow as pa

from pipelines.scans import DEFAULT, Scans
from privacy.errors import InputError

BLOCK_BYTES = 1 << 20

ImageFormat = Literal["pictures", "scans", "idx", "npz", "tar"]
"""What collections of images are kept as; `pipelines.gallery` says more."""

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The folder of a partition whose value is missing."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What lies at a path: one table in one file or in several files of one form.

    Attributes:
        path: the file or the folder that was asked for.
        format: csv, parquet, or what a collection of images is kept as.
        files: the files, in the order of their relative names.
        columns: the column names, in the order of the first file, then those that folders name.
        keys: columns whose values stand in the names of folders, `year=2020`, and not in the files.
        encoding: of the CSV files: utf-8, utf-16 or cp1252; None for Parquet.
        delimiter: of the CSV files; None for Parquet.
        header: whether the first row of each CSV file holds names; else they are column_1, column_2, …
        numbered: those names, where it is known beforehand how many there are.
        scans: what the recipe says of DICOM and NIfTI files.
    """

    path: Path
    format: Literal["csv", "parquet"] | ImageFormat
    files: tuple[Path, ...]
    columns: tuple[str, ...]
    keys: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None
    header: bool = True
    numbered: tuple[str, ...] = ()
    scans: Scans = DEFAULT

    @property
    def holds_images(self) -> bool:
        """Whether it is a collection of images, not a table."""
        return self.format not in ("csv", "parquet")

    @property
    def label(self) -> str:
        """The source, as messages name it."""
        return self.path.name

    def name_of(self, file: Path) -> str:
        """The name of one of the files, relative to the source, as messages and digests use it."""
        return file.name if file == self.path else file.relative_to(self.path).as_posix()


def keys_of(path: Path, file: Path) -> dict[str, str | None]:
    """What the folders between a source's folder and one of its files say: `year=2020/month=1`, as Hive writes it."""
    if file == path:
        return {}
    pairs = (part.split("=", 1) for part in file.relative_to(path).parent.parts if "=" in part)
    return {unquote(name): None if value == NO_VALUE else unquote(value) for name, value in pairs}


# ------------------------------------------------------------------------------------------------ compression

_OPENERS: tuple[tuple[bytes, Callable[[Path], object]], ...] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", lambda file: pa.input_stream(str(file), compression="zstd")),
    *((b"BZh%d1AY&SY" % level, bz2.BZ2File) for level in range(1, 10)),
)
"""First bytes of a file → what unpacks it."""

COMPRESSED = (".gz", ".bz2", ".zst", ".xz")


def compressed(file: Path) -> bool:
    """Whether a file is packed with gzip, bzip2, Zstandard or xz, by its first bytes."""
    return _opener(file) is not None


def opened(file: Path) -> BinaryIO:
    """The bytes of a file from its begin, unpacked as they are read."""
    opener = _opener(file)
    return file.open("rb") if opener is None else cast(BinaryIO, opener(file))


def _opener(file: Path) -> Callable[[Path], object] | None:
    with file.open("rb") as stream:
        head = stream.read(10)
    return next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)


def chunks(file: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked, in pieces."""
    with reading(file.name), opened(file) as stream:
        while chunk := stream.read(BLOCK_BYTES):
            yield chunk


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Turns what goes wrong while reading a file into an error that names it and quotes nothing of it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, EOFError, zlib.error, lzma.LZMAError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise InputError(f"an input must be readable, however: {file}: {os.strerror(e.errno)}") from None
        raise InputError(f"a file must be whole, however: {file} is damaged; copy it again") from None
