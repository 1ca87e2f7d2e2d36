"""Tars: WebDataset shards, in which the members of one sample follow each other and share a stem.

Members are read one after the other and never unpacked onto a disk; their names are words and nothing is opened by
them. What comes before the first dot of the last part of a name is the stem; what comes after says what a member is: an
image (.png, .jpg, .jpeg, .tif, .tiff), a class (.cls), a text (.txt), or an object (.json), whose keys are columns.
Other members are passed over.

Headers are walked here and not by `tarfile`, which holds as much of a name, a list of holes or a chain of headers as a
file says there is; it parses their single blocks.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

from pipelines.pictures import picture
from pipelines.source import opened, reading
from privacy.errors import InputError
from synth.images import LIMITS, Limits
from synth.schema import REPLACED

_IMAGES = ("png", "jpg", "jpeg", "tif", "tiff")
_CLASS, _TEXT, _OBJECT = "cls", "txt", "json"
_SAID = {_CLASS: "label", _TEXT: "text"}

SAID_BYTES = 1 << 20
"""Bytes of a class, a text or an object at most."""

NAME_BYTES = 1 << 16
"""Bytes of what a header says of the next one at most: a long name, or records of pax."""

LOOKED_AT = 1000
"""Samples from which columns are known; one that has others later is broken."""


def is_tar(name: str) -> bool:
    """Whether a file is called as tars are, packed or not."""
    return name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"))


@dataclass(kw_only=True)
class Sample:
    """The members of one stem.

    Attributes:
        name: the stem.
        image: the encoded image, of several the first.
        images: how many there are.
        said: bytes of what is said of it.
        cells: what is said of it: column → value.
        wrong: why it cannot be used; None if it can.
    """

    name: str
    image: bytes = b""
    images: int = 0
    said: int = 0
    cells: dict[str, str | None] = field(default_factory=dict)
    wrong: str | None = None

    def picture(self, limits: Limits = LIMITS) -> bytes:
        """The image of the sample, freed of all but its pixels.

        Raises:
            InputError: it has none, several, or one that cannot be read; or what is said of it cannot.
        """
        if self.wrong is not None:
            raise InputError(self.wrong)
        if self.images != 1:
            raise InputError(f"a sample must have one image, however: it has {self.images or 'none'}")
        return picture(self.image, limits)


def tar_columns(file: Path) -> tuple[str, ...]:
    """The columns of a shard, as its first `LOOKED_AT` samples have them, without that of images.

    Raises:
        InputError: the file is damaged, or holds no sample.
    """
    found: dict[str, None] = {}
    samples = 0
    for sample in islice(tar_samples(file), LOOKED_AT):
        samples += 1
        found |= dict.fromkeys(sample.cells)
    if not samples:
        raise InputError(f"a tar must hold images, however: {file.name} holds none; correct the path")
    return tuple(found)


def tar_samples(file: Path, limits: Limits = LIMITS) -> Iterator[Sample]:
    """The samples of one shard.

    Raises:
        InputError: the file is damaged.
    """
    sample: Sample | None = None
    for name, kind, content in _members(file, limits):
        if sample is None or sample.name != name:
            if sample is not None:
                yield sample
            sample = Sample(name=name)
        _add(sample, kind, content, limits)
    if sample is not None:
        yield sample


def tar_rows(file: Path) -> int:
    """How many images a shard holds."""
    return sum(kind in _IMAGES for _, kind, _ in _members(file, LIMITS))


def _members(file: Path, limits: Limits) -> Iterator[tuple[str, str, bytes | None]]:
    """Stem, kind and content of those members that are read; no content where there is too much of it."""
    try:
        with reading(file.name), opened(file) as stream:
            for name, size in _files(stream):
                folder, _, last = _harmless(name).rpartition("/")
                stem, _, kind = last.partition(".")
                kind = kind.lower().rpartition(".")[2]
                most = limits.bytes if kind in _IMAGES else SAID_BYTES
                if not stem or kind not in (*_IMAGES, *_SAID, _OBJECT):
                    _skip(stream, _blocks(size))
                elif size > most:
                    _skip(stream, _blocks(size))
                    yield f"{folder}/{stem}".lstrip("/"), kind, None
                else:
                    yield f"{folder}/{stem}".lstrip("/"), kind, _exactly(stream, _blocks(size))[:size]
    except (tarfile.TarError, ValueError, OverflowError):
        raise InputError(f"a tar must be whole, however: {file.name} is damaged; copy it again") from None


def _files(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Name and bytes of each regular file; who takes one reads its blocks before he takes the next.

    Raises:
        tarfile.TarError: the tar is damaged.
        InputError: a header says too much of the next one, or a file has holes.
    """
    told: dict[str, str] = {}
    while any(block := stream.read(tarfile.BLOCKSIZE)):
        if len(block) < tarfile.BLOCKSIZE:
            block += _exactly(stream, tarfile.BLOCKSIZE - len(block))
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        size = int(told.get("size", header.size))
        if min(size, header.size) < 0:
            raise tarfile.ReadError
        if header.type in _OF_THE_NEXT:
            if header.size > NAME_BYTES:
                raise InputError(
                    f"a header must have {NAME_BYTES:,} bytes at most, however: one has {header.size:,}; pack anew "
                    "with shorter names"
                )
            content = _exactly(stream, _blocks(header.size))[: header.size]
            told |= _told(header.type, content)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise InputError(
                "a tar must hold whole files, however: one has holes; pack anew without --sparse"
            )
        if header.isreg():
            yield told.get("path", header.name), size
        elif header.type not in tarfile.SUPPORTED_TYPES:
            _skip(stream, _blocks(size))
        told = {}


_OF_THE_NEXT = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE,
)  # fmt: skip
"""Headers that say something of the one after them."""


def _told(kind: bytes, content: bytes) -> dict[str, str]:
    """Name and size of the next member; what holds for all of them (XGLTYPE) names none of them."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    found, at = {}, 0
    while kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE) and at < len(content):
        # POSIX.1-2008: "%d %s=%s\n", the number that of the whole record's bytes.
        length = int(content[at : content.index(b" ", at)])
        key, _, value = content[content.index(b" ", at) + 1 : at + length - 1].partition(b"=")
        if length < 5 or at + length > len(content):
            raise tarfile.ReadError
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        at += length
    return found


def _blocks(size: int) -> int:
    """Bytes of the blocks that hold so many."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _exactly(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    if size:
        raise tarfile.ReadError
    return b"".join(parts)


def _skip(stream: IO[bytes], size: int) -> None:
    for start in range(0, size, 1 << 20):
        _exactly(stream, min(1 << 20, size - start))


def _harmless(name: str) -> str:
    """A name that leads nowhere else, wherever it is used: `../../x` becomes `x`."""
    parts = (p for p in name.replace("\\", "/").split("/") if p not in ("", ".", ".."))
    return "/".join("".join(c for c in p if c.isprintable()) for p in parts)


def _add(sample: Sample, kind: str, content: bytes | None, limits: Limits) -> None:
    if content is None:
        most = limits.bytes if kind in _IMAGES else SAID_BYTES
        sample.wrong = f"a member must have {most:,} bytes at most, however: .{kind} has more"
    elif kind in _IMAGES:
        sample.image = sample.image or content
        sample.images += 1
    elif sample.said + len(content) > SAID_BYTES:
        sample.wrong = f"a sample must say {SAID_BYTES:,} bytes at most, however: it says more"
    else:
        sample.said += len(content)
        said = _said(kind, content)
        if said is None:
            sample.wrong = f"a member must hold what its name says, however: .{kind} does not"
        else:
            sample.cells |= said


def _said(kind: str, content: bytes) -> Mapping[str, str | None] | None:
    try:
        text = content.decode("utf-8-sig")
        if kind != _OBJECT:
            return {_SAID[kind]: text.strip()}
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return {str(k): cell(v) for k, v in values.items()} if isinstance(values, dict) else None


def cell(value: object) -> str | None:
    """A value of JSON as the cell of a table: what is none of text, number and truth becomes `REPLACED`."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else REPLACED
