"""Tars: WebDataset shards, in which the members of one sample follow each other and share a stem.

Members are read one after the other and never unpacked onto a disk; their names are words and nothing is opened by
them. What comes before the first dot of the last part of a name is the stem; what comes after says what a member is: an
image (.png, .jpg, .jpeg, .tif, .tiff), a class (.cls), a text (.txt), or an object (.json), whose keys are columns.
Other members are passed over.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

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
        images: the encoded images.
        cells: what is said of them: column → value.
        wrong: why it cannot be used; None if it can.
    """

    name: str
    images: list[bytes] = field(default_factory=list)
    cells: dict[str, str | None] = field(default_factory=dict)
    wrong: str | None = None

    def picture(self, limits: Limits = LIMITS) -> bytes:
        """The image of the sample, freed of all but its pixels.

        Raises:
            InputError: it has none, several, or one that cannot be read; or what is said of it cannot.
        """
        if self.wrong is not None:
            raise InputError(self.wrong)
        if len(self.images) != 1:
            raise InputError(f"a sample must have one image, however: it has {len(self.images) or 'none'}")
        return picture(self.images[0], limits)


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
        with reading(file.name), opened(file) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                # What was read is forgotten: a tar remembers its members, of which there may be millions.
                tar.members = []  # type: ignore[attr-defined]
                folder, _, last = _harmless(member.name).rpartition("/")
                stem, _, kind = last.partition(".")
                kind = kind.lower().rpartition(".")[2]
                if not member.isfile() or not stem or kind not in (*_IMAGES, *_SAID, _OBJECT):
                    continue
                most = limits.bytes if kind in _IMAGES else SAID_BYTES
                content = tar.extractfile(member)
                held = None if member.size > most or content is None else content.read()
                yield f"{folder}/{stem}".lstrip("/"), kind, held
    except (tarfile.TarError, ValueError, OverflowError):
        raise InputError(f"a tar must be whole, however: {file.name} is damaged; copy it again") from None


def _harmless(name: str) -> str:
    """A name that leads nowhere else, wherever it is used: `../../x` becomes `x`."""
    parts = (p for p in name.replace("\\", "/").split("/") if p not in ("", ".", ".."))
    return "/".join("".join(c for c in p if c.isprintable()) for p in parts)


def _add(sample: Sample, kind: str, content: bytes | None, limits: Limits) -> None:
    if content is None:
        most = limits.bytes if kind in _IMAGES else SAID_BYTES
        sample.wrong = f"a member must have {most:,} bytes at most, however: .{kind} has more"
    elif kind in _IMAGES:
        sample.images.append(content)
    else:
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
