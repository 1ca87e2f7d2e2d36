"""Arrays: images that are kept as one array of pixels, in IDX files (MNIST) and in NumPy's .npz (MedMNIST, Keras).

Both are read row by row from the file, so that memory does not grow with it; nothing in them is ever unpickled.
"""

import math
import re
import tokenize
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipelines.pictures import png
from pipelines.source import opened, reading
from privacy.errors import InputError, RowError
from synth.images import LIMITS, Limits, check_size

Frame = tuple[bytes, Mapping[str, str | None]]
"""An image as PNG, and what is said of it."""

LABEL, SPLIT = "label", "split"

_SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test", "t10k": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
}  # fmt: skip


def split_of(word: str) -> str | None:
    """The split that a word names, as Hugging Face's datasets does: train, test or validation."""
    return _SPLITS.get(word.lower())


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images and their labels, which lie beside each other.

    Attributes:
        name: of the images, relative to the source.
        images: the IDX file, or the member of a .npz.
        labels: likewise; None where there are none.
        split: which part of the whole they are; None: they are the whole.
    """

    name: str
    images: str
    labels: str | None
    split: str | None


# ---------------------------------------------------------------------------------------------------------- IDX

_IDX = re.compile(
    r"(?:images?[-.]idx[34]|labels?[-.]idx[12])[-.]ubyte(?:\.(?:gz|bz2|xz|zst))?$", re.IGNORECASE
)


def is_idx(name: str) -> bool:
    """Whether a file is called as MNIST's files are."""
    return _IDX.search(name) is not None


def idx_parts(path: Path, files: Sequence[Path]) -> list[Part]:
    """Which IDX files hold images, and where their labels are.

    Raises:
        InputError: no file holds images, or labels lack their images.
    """
    names = {f.name if f == path else f.relative_to(path).as_posix(): f for f in files}
    keys = {_idx_key(name): name for name in names}
    images = [name for name in names if "image" in _stem(name)]
    if not images:
        raise InputError("IDX files must hold images, however: there are labels alone; add the images")
    found = []
    for name in images:
        key = _idx_key(name)
        labels = keys.get((key[0], "label"))
        words = re.split(r"[^a-z0-9]+", _stem(name))
        split = next((s for w in words if (s := split_of(w))), None) if len(images) > 1 else None
        found.append(Part(name=name, images=name, labels=labels, split=split))
    return found


def _stem(name: str) -> str:
    return name.lower().rsplit("/", 1)[-1]


def _idx_key(name: str) -> tuple[str, str]:
    """What images and labels that belong together have in common, and which of both a file holds."""
    kind = "image" if "image" in _stem(name) else "label"
    folder = name[: -len(_stem(name))]
    return folder + _stem(name)[: _stem(name).rindex(kind)], kind


def idx_frames(path: Path, part: Part, limits: Limits = LIMITS) -> Iterator[Frame]:
    """The images of one part of a set of IDX files, with their labels.

    Raises:
        InputError: a file is damaged, truncated or of another form.
    """
    with _idx(_at(path, part.images)) as images:
        labels = None if part.labels is None else _idx(_at(path, part.labels))
        if labels is None:
            yield from _frames(images, None, part, limits)
            return
        with labels as said:
            yield from _frames(images, said, part, limits)


def idx_rows(path: Path, part: Part) -> int:
    """How many images a part of a set of IDX files holds."""
    with _idx(_at(path, part.images)) as rows:
        return rows.shape[0]


def _at(path: Path, name: str) -> Path:
    return path if path.is_file() else path / name


@contextmanager
def _idx(file: Path) -> Iterator["_Rows"]:
    with reading(file.name), opened(file) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
            raise InputError(
                f"an IDX file must hold unsigned bytes of 1 to 4 axes, however: {file.name} does not; copy it again"
            )
        shape = tuple(int(n) for n in np.frombuffer(_whole(stream, 4 * head[3], file.name), ">u4"))
        yield _Rows(stream=stream, name=file.name, shape=shape, dtype=np.dtype(np.uint8))


# ---------------------------------------------------------------------------------------------------------- npz


def npz_parts(file: Path) -> list[Part]:
    """Which arrays of a .npz are images, and which are their labels: `train_images` and `train_labels`, or `x_train`.

    Raises:
        InputError: it is damaged, or holds no images.
    """
    with _zip(file) as archive:
        names = {n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")}
    found = []
    for name in sorted(names, key=_order):
        word = _npz_word(name)
        if word is None:
            continue
        candidates = (
            [n.format(word) for n in ("{}_labels", "{}_label", "y_{}")] if word else ["labels", "label", "y"]
        )
        labels = next((c for c in candidates if c in names), None)
        split = (split_of(word) or word) if word else None
        found.append(Part(name=f"{file.name}/{name}", images=name, labels=labels, split=split))
    if not found:
        raise InputError(
            f"a .npz must hold images as train_images, test_images, x_train or images, however: {file.name} holds "
            "none of that name; rename them"
        )
    return found


def _npz_word(name: str) -> str | None:
    """What stands before `_images`, or after `x_`: the part; empty: the whole; None: no images."""
    found = re.fullmatch(r"(?:(\w+)_)?images?|[xX](?:_(\w+))?", name)
    return None if found is None else found[1] or found[2] or ""


def _order(name: str) -> tuple[int, str]:
    order = ("train", "validation", "test")
    word = split_of(_npz_word(name) or "") or ""
    return (order.index(word) if word in order else len(order), name)


def npz_columns(file: Path, parts: Sequence[Part]) -> tuple[str, ...]:
    """The columns of labels: `label`, or `label_1` and so on where an image has several.

    Raises:
        InputError: labels are of another form, or the parts' differ.
    """
    found = set()
    for part in parts:
        if part.labels is None:
            found.add(0)
            continue
        with _npz(file, part.labels) as rows:
            found.add(_label_count(rows))
    if len(found) > 1:
        raise InputError(
            f"all parts of a .npz must have the same labels, however: those of {file.name} differ"
        )
    (count,) = found
    return label_columns(count)


def label_columns(count: int) -> tuple[str, ...]:
    """The names of the columns of labels."""
    return (LABEL,) * count if count < 2 else tuple(f"{LABEL}_{i}" for i in range(1, count + 1))


def _label_count(rows: "_Rows") -> int:
    if len(rows.shape) > 2 or rows.dtype.kind not in "biufU":
        raise InputError(
            f"labels must be numbers or words, one or several for each image, however: {rows.name} are not"
        )
    return math.prod(rows.shape[1:])


def npz_frames(file: Path, part: Part, limits: Limits = LIMITS) -> Iterator[Frame]:
    """The images of one part of a .npz, with their labels.

    Raises:
        InputError: the file is damaged, or of another form.
    """
    with _npz(file, part.images) as images:
        if part.labels is None:
            yield from _frames(images, None, part, limits)
            return
        with _npz(file, part.labels) as labels:
            yield from _frames(images, labels, part, limits)


def npz_rows(file: Path, part: Part) -> int:
    """How many images a part of a .npz holds."""
    with _npz(file, part.images) as rows:
        return rows.shape[0] if rows.shape else 0


@contextmanager
def _zip(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with reading(file.name), zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):  # RuntimeError: encrypted
        raise InputError(f"a .npz must be whole, however: {file.name} is damaged; copy it again") from None


@contextmanager
def _npz(file: Path, member: str) -> Iterator["_Rows"]:
    name = f"{file.name}/{member}"
    with _zip(file) as archive, archive.open(f"{member}.npy") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, columns_first, dtype = read(stream)
        except (ValueError, TypeError, SyntaxError, tokenize.TokenError):
            raise InputError(f"an array must be whole, however: {name} is damaged") from None
        if dtype.hasobject:
            raise InputError(f"an array must hold plain numbers, however: {name} holds Python objects")
        if columns_first and len(shape) > 1:
            raise InputError(
                f"an array must be stored row by row (C order), however: {name} is in Fortran order"
            )
        yield _Rows(stream=stream, name=name, shape=shape, dtype=dtype)


# ------------------------------------------------------------------------------------------------------- arrays


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """An array that is read row by row.

    Attributes:
        stream: its values, from the first on.
        name: for messages.
        shape: of the array.
        dtype: of its values.
    """

    stream: IO[bytes]
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        shape = self.shape[1:]
        width = math.prod(shape) * self.dtype.itemsize
        for _ in range(self.shape[0] if self.shape else 0):
            yield np.frombuffer(_whole(self.stream, width, self.name), self.dtype).reshape(shape)


def _whole(stream: IO[bytes], size: int, name: str) -> bytes:
    content = stream.read(size)
    while len(content) < size and (more := stream.read(size - len(content))):
        content += more
    if len(content) < size:
        raise InputError(f"a file must be whole, however: {name} is truncated; copy it again")
    return content


def _frames(images: _Rows, labels: _Rows | None, part: Part, limits: Limits) -> Iterator[Frame]:
    channels = _check_images(images, limits)
    said: dict[str, str | None] = {} if part.split is None else {SPLIT: part.split}
    if labels is None:
        for image in images:
            yield png(_shown(image, channels)), said
        return
    if labels.shape[:1] != images.shape[:1]:
        raise RowError(
            f"images and labels must be as many, however: {images.name} and {labels.name} are not",
            f": {images.shape[0]} and {labels.shape[0] if labels.shape else 0}",
            "; mend the files",
        )
    names = label_columns(_label_count(labels))
    for image, label in zip(images, labels, strict=True):
        yield (
            png(_shown(image, channels)),
            {**said, **dict(zip(names, map(str, label.reshape(-1).tolist()), strict=True))},
        )


def _check_images(images: _Rows, limits: Limits) -> int:
    """How many channels images have.

    Raises:
        InputError: the array holds no images of 8 bits, or too large ones.
    """
    if images.dtype.newbyteorder("=") not in (np.dtype(np.uint8), np.dtype(np.bool_)):
        raise InputError(
            f"pixels must be unsigned bytes, however: {images.name} holds {images.dtype}; convert them to uint8"
        )
    channels = images.shape[3] if len(images.shape) == 4 else 1
    if len(images.shape) not in (3, 4) or channels not in (1, 3, 4):
        raise RowError(
            "images must be an array of (number, height, width) or (number, height, width, 1, 3 or 4), however: "
            f"{images.name} is another",
            f": {' × '.join(map(str, images.shape))}",
            "; bring it to one of them",
        )
    check_size(images.shape[2], images.shape[1], limits)
    return channels


def _shown(image: npt.NDArray[Any], channels: int) -> npt.NDArray[np.uint8]:
    plain = image[..., 0] if image.ndim == 3 and channels == 1 else image
    return plain.astype(np.uint8) * 255 if plain.dtype == np.bool_ else plain
