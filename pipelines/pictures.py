"""Pictures: the bytes of an image, held against limits, decoded once, and freed of all but its pixels.

A PNG or a JPEG keeps its own encoding, without the parts that say something about it (text, EXIF, thumbnails,
profiles, whatever comes after its end); a picture that its EXIF turns, and everything else, is encoded anew as PNG.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from privacy.errors import InputError
from synth.images import LIMITS, Limits

_ORIENTATION = 0x0112
_UNREADABLE = (
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
    Warning,
)
"""What Pillow raises over a file that is not whole, or that was made to break it."""


def checked(content: bytes, limits: Limits = LIMITS) -> tuple[int, int, str]:
    """Width and height in pixels and Pillow's mode of an encoded image, all of which was decoded.

    Raises:
        InputError: it is larger than the limits, of another format, or cannot be decoded.
    """
    with _decoded(content, limits) as image:
        return image.width, image.height, image.mode


def pages(content: bytes, limits: Limits = LIMITS) -> Iterator[bytes]:
    """The images of one encoded file, a TIFF's pages or the one of a PNG or a JPEG, as PNG or JPEG of pixels alone.

    Raises:
        InputError: see `checked`; pages before the one that cannot be read have been given.
    """
    with _decoded(content, limits) as image:
        if image.format == "TIFF":
            yield from _tiff_pages(image, limits)
            return
        plain = None if _is_turned(image) else _stripped(content, image.format)
        yield plain or png(_pixels(ImageOps.exif_transpose(image)))


def picture(content: bytes, limits: Limits = LIMITS) -> bytes:
    """The first image of an encoded file, as `pages` gives it.

    Raises:
        InputError: see `checked`.
    """
    return next(pages(content, limits))


def check_size(width: int, height: int, limits: Limits = LIMITS) -> None:
    """Refuses an image by its size, before it is decoded.

    Raises:
        InputError: it has no pixel, or too many.
    """
    if width < 1 or height < 1:
        raise InputError("an image must have pixels, however: it has none")
    if width * height > limits.pixels:
        raise InputError(
            f"an image must have {limits.pixels:,} pixels at most, however: it has {width * height:,}"
        )


def png(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """A PNG of pixels and of nothing else (PNG 1.2, no filter), several times as fast as Pillow's for small images.

    Args:
        pixels: (height, width) or (height, width, channels): grey, grey and alpha, RGB, or RGBA; uint8 or uint16.
    """
    height, width = pixels.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    flat = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    lines = np.zeros((height, flat.shape[1] + 1), np.uint8)
    lines[:, 1:] = flat
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 3)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


# ----------------------------------------------------------------------------------------------------- decoding


@contextmanager
def _decoded(content: bytes, limits: Limits) -> Iterator[Image.Image]:
    """An image whose pixels were read; the first page of several."""
    if len(content) > limits.bytes:
        raise InputError(f"an image must have {limits.bytes:,} bytes at most, however: it has more")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=limits.formats)
    except UnidentifiedImageError:
        raise InputError(
            f"an image must be {', '.join(limits.formats[:-1])} or {limits.formats[-1]}, however: it is none"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"an image must have {limits.pixels:,} pixels at most, however: it has more"
        ) from None
    except _UNREADABLE:
        raise InputError("an image must be whole, however: it is damaged") from None
    with image:
        check_size(*image.size, limits)
        _load(image)
        yield image


def _load(image: Image.Image) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except _UNREADABLE:
        raise InputError("an image must be whole, however: it is damaged or truncated") from None


def _tiff_pages(image: Image.Image, limits: Limits) -> Iterator[bytes]:
    for number in range(limits.frames + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.seek(number)
        except EOFError:
            return
        except _UNREADABLE:
            raise InputError("an image must be whole, however: a page of it is damaged") from None
        if number == limits.frames:
            raise InputError(f"a file must have {limits.frames:,} pages at most, however: it has more")
        check_size(*image.size, limits)
        _load(image)
        yield png(_pixels(ImageOps.exif_transpose(image)))


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except _UNREADABLE:
        return False


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Pixels that a PNG can hold; deep grey keeps 16 bits, and any other number is spread over 8."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        present = values[np.isfinite(values)]
        return grey(values, present.min(initial=np.inf), present.max(initial=-np.inf))
    if image.mode == "P":
        return np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    return np.asarray(image if image.mode in ("L", "LA", "RGB", "RGBA") else image.convert("RGB"))


def grey(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Numbers as 256 greys: `low` and below are black, `high` and above are white, what is no number is black."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    spread = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / (high - low))
    return np.clip(np.rint(spread), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- stripping


def _stripped(content: bytes, format: str | None) -> bytes | None:
    """The file without what is not needed for its pixels; None where it is not laid out as it should be."""
    try:
        return _plain_png(content) if format == "PNG" else _plain_jpeg(content)
    except (IndexError, struct.error):
        return None


def _plain_png(content: bytes) -> bytes | None:
    kept, at = [content[:8]], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, end = content[at + 4 : at + 8], at + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(content[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    return None


_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _plain_jpeg(content: bytes) -> bytes | None:
    """Tables, frames and scans; of JFIF and Adobe's segments, which say what the colours are, the fixed head."""
    kept, at = [b"\xff\xd8"], 2
    while content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            return b"".join([*kept, b"\xff\xd9"])
        end = at + 2 + struct.unpack_from(">H", content, at + 2)[0]
        payload = content[at + 4 : end]
        if marker == 0xDA:
            following = _NEXT_MARKER.search(content, end)
            if following is None:
                return None
            end = following.start()
        if 0xC0 <= marker <= 0xDF:
            kept.append(content[at:end])
        elif marker == 0xE0 and payload.startswith(b"JFIF\0"):
            kept.append(b"\xff\xe0\x00\x10" + payload[:12] + b"\0\0")
        elif marker == 0xEE and payload.startswith(b"Adobe"):
            kept.append(b"\xff\xee\x00\x0e" + payload[:12])
        at = end
    return None
