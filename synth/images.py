"""Images: a column of encoded images ⇄ arrays of pixels.

What decodes is Pillow, and only the formats and sizes of `LIMITS` reach it. Of a file nothing but its pixels goes on:
no text, no header, no name.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from privacy.errors import InputError
from synth.schema import IMAGE, REPLACED, Picture, Schema

NOTE = "Synthetic image made by Understudy; it shows nothing that exists."
"""The text chunk `Comment` of every image that is made."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is decoded at most.

    Attributes:
        bytes: of an encoded image.
        pixels: of a decoded one.
        frames: of a file.
        formats: as Pillow names them.
    """

    bytes: int = 64 << 20
    pixels: int = 50_000_000
    frames: int = 4096
    formats: tuple[str, ...] = ("PNG", "JPEG", "TIFF")


LIMITS = Limits()

_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
"""How files of these formats begin."""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)
"""What Pillow raises over a file that is not whole, or that was made to break it."""

GREY = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I")
"""Pillow's modes without colour."""

_DEEP = ("I;16", "I;16L", "I;16B", "I")


def looks_like_image(start: bytes) -> bool:
    """Whether bytes begin as an image of a format that is read."""
    return start.startswith(_BEGINNINGS)


def is_image_type(type: pa.DataType) -> bool:
    """Whether values of a type may be images: bytes, or a struct that has some."""
    if pa.types.is_struct(type):
        index = type.get_field_index("bytes")
        return index >= 0 and _is_bytes(type.field(index).type)
    return _is_bytes(type)


def _is_bytes(type: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type) or pa.types.is_large_binary(type) or str(type) == "binary_view")


def holds_images(array: pa.Array) -> bool | None:
    """Whether the first value that is there begins as an image; None where there is none."""
    if not is_image_type(array.type):
        return False
    first = next((v for v in _content(array) if v.is_valid), None)
    return None if first is None else looks_like_image(first.as_py()[:16])


def as_images(array: pa.Array) -> pa.StructArray:
    """Bytes, or structs that have some, as `IMAGE`; what has no bytes is missing. Names are left behind."""
    content = _content(array).cast(pa.binary())
    names = pa.nulls(len(array), pa.string())
    missing = pc.is_null(content)
    return pa.StructArray.from_arrays([content, names], fields=list(IMAGE), mask=missing)


def missing(array: pa.Array) -> NDArray[np.bool_]:
    """Which cells have no image: bool (n,)."""
    return np.asarray(pc.is_null(_content(array)).to_numpy(zero_copy_only=False))


def _content(array: pa.Array) -> pa.Array:
    """The encoded images; null also where the struct around it is."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return pc.struct_field(array, "bytes") if pa.types.is_struct(array.type) else array


def pixels(array: pa.Array, picture: Picture) -> NDArray[np.uint8]:
    """The pixels of a column of images: uint8 (n, height, width, channels); 0 where an image is missing.

    Args:
        array: of type `IMAGE`.
        picture: the size and mode that images are brought to.

    Raises:
        InputError: an image cannot be decoded, exceeds `LIMITS`, or is of a size that `resize: refuse` refuses.
    """
    out = np.zeros((len(array), *picture.shape), np.uint8)
    for i, value in enumerate(_content(array)):
        if value.is_valid:
            out[i] = one_image(value.as_py(), picture)
    return out


def one_image(content: bytes, picture: Picture) -> NDArray[np.uint8]:
    """The pixels of one encoded image: uint8 (height, width, channels).

    Raises:
        InputError: see `pixels`.
    """
    with opened(content) as image, decoding():
        plain = _in_mode(ImageOps.exif_transpose(image), picture.mode)
        sized = _in_size(plain, picture)
    return np.asarray(sized, np.uint8).reshape(picture.shape)


def opened(content: bytes, limits: Limits = LIMITS) -> Image.Image:
    """An encoded image, whose size is known and within limits; its pixels are not decoded yet.

    Raises:
        InputError: it is no image, or exceeds the limits.
    """
    if len(content) > limits.bytes:
        raise InputError(
            f"an image must have {limits.bytes:,} bytes at most, however: it has {len(content):,}; take it out"
        )
    with decoding():
        try:
            image = Image.open(io.BytesIO(content), formats=limits.formats)
        except UnidentifiedImageError:
            raise InputError(f"{_form(limits)}, however: it is none; mend it, or take it out") from None
    check_size(*image.size, limits)
    return image


def check_size(width: int, height: int, limits: Limits = LIMITS) -> None:
    """Refuses an image by its size, before it is decoded.

    Raises:
        InputError: it has no pixel, or too many.
    """
    if width < 1 or height < 1:
        raise InputError("an image must have pixels, however: it has none; take it out")
    if width * height > limits.pixels:
        raise InputError(
            f"an image must have {limits.pixels:,} pixels at most, however: it has {width * height:,}; make it smaller"
        )


@contextmanager
def decoding() -> Iterator[None]:
    """Turns what Pillow raises while it decodes into an error in words.

    Raises:
        InputError: it raised something.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"an image must have {LIMITS.pixels:,} pixels at most, however: it has more; make it smaller"
        ) from None
    except UNREADABLE:
        raise InputError(f"{_form(LIMITS)}, however: it is damaged; mend it, or take it out") from None


def _form(limits: Limits) -> str:
    return f"an image must be a whole {', '.join(limits.formats[:-1])} or {limits.formats[-1]}"


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """In 8 bits: of 16 the upper 8, transparency over black, one bit as black and white."""
    if image.mode in _DEEP:
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise InputError(
            "an image must have whole numbers, however: one has floating-point ones; say which of them are black and "
            "white by converting it to 8 or 16 bits"
        )
    if "A" in image.getbands() or "transparency" in image.info:
        shown = image.convert("RGBA")
        image = Image.new("RGBA", shown.size, (0, 0, 0, 255))
        image.alpha_composite(shown)
    return image.convert(mode)


def _in_size(image: Image.Image, picture: Picture) -> Image.Image:
    size = (picture.width, picture.height)
    if image.size == size:
        return image
    if picture.resize == "refuse":
        raise InputError(
            f"an image must be {size[0]} × {size[1]} pixels, however: one is {image.width} × {image.height}; write "
            "resize: pad, crop or stretch in the schema"
        )
    if picture.resize == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS)
    if picture.resize == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return image.resize(size, Image.Resampling.LANCZOS)


def images(
    values: NDArray[np.uint8],
    *,
    absent: NDArray[np.bool_] | None = None,
    first_row: int = 0,
    note: str | None = NOTE,
) -> pa.StructArray:
    """Pixels as a column of PNGs that say that they are synthetic, with names that are made up.

    Args:
        values: uint8 (n, height, width, channels).
        absent: bool (n,): which cells have no image.
        first_row: number of the first row, from which names follow.
        note: what each says in a text chunk; None says nothing, for images that are real.
    """
    gone = np.zeros(len(values), np.bool_) if absent is None else absent
    about = PngInfo()
    if note is not None:
        about.add_text("Comment", note)
    content = [None if g else _png(v, about) for v, g in zip(values, gone, strict=True)]
    names = [None if g else f"{first_row + i:09d}.png" for i, g in enumerate(gone)]
    return pa.StructArray.from_arrays(
        [pa.array(content, pa.binary()), pa.array(names, pa.string())],
        fields=list(IMAGE),
        mask=pa.array(gone),
    )


def unseen(schema: Schema) -> Schema:
    """The schema as evidence that knows no images sees it: of an image, whether it is there."""
    columns = [
        c.model_copy(update={"kind": "text", "type": "string", "action": "replace", "image": None})
        if c.image
        else c
        for c in schema
    ]
    return schema if not schema.images else schema.model_copy(update={"columns": tuple(columns)})


def without_pixels(table: pa.Table, schema: Schema) -> pa.Table:
    """A table as `unseen` has it."""
    for column in schema.images:
        i = table.schema.get_field_index(column.name)
        gone = missing(table.column(column.name))
        word = pa.array([REPLACED]).take(pa.array(np.zeros(len(table), np.int64), mask=gone))
        table = table.set_column(i, pa.field(column.name, pa.string(), column.nullable), word)
    return table


def _png(values: NDArray[np.uint8], about: PngInfo) -> bytes:
    stream = io.BytesIO()
    plain = values[:, :, 0] if values.shape[2] == 1 else values
    Image.fromarray(np.ascontiguousarray(plain)).save(stream, "PNG", pnginfo=about)
    return stream.getvalue()
