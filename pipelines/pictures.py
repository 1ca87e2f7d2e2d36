"""Pictures: the bytes of an image, held against limits, decoded once, and freed of all but its pixels.

A PNG or a JPEG keeps its own encoding, without the parts that say something about it (text, EXIF, thumbnails,
profiles, whatever comes after its end); a picture that its EXIF turns, and everything else, is encoded anew as PNG.
"""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from privacy.errors import InputError
from synth.images import LIMITS, UNREADABLE, Limits, check_size, decoding, opened

_ORIENTATION = 0x0112


def pages(content: bytes, limits: Limits = LIMITS) -> Iterator[bytes]:
    """The images of one encoded file, a TIFF's pages or the one of a PNG or a JPEG, as PNG or JPEG of pixels alone.

    Raises:
        InputError: it is larger than the limits, of another format, or cannot be decoded; pages before the one that
            cannot be read have been given.
    """
    with opened(content, limits) as image:
        with decoding():
            image.load()
        if image.format == "TIFF":
            yield from _tiff_pages(image, limits)
            return
        plain = None if _is_turned(image) else _stripped(content, image.format)
        yield plain or png(_pixels(ImageOps.exif_transpose(image)))


def picture(content: bytes, limits: Limits = LIMITS) -> bytes:
    """The first image of an encoded file, as `pages` gives it.

    Raises:
        InputError: see `pages`.
    """
    return next(pages(content, limits))


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


def _tiff_pages(image: Image.Image, limits: Limits) -> Iterator[bytes]:
    for number in range(limits.frames + 1):
        with decoding():
            try:
                image.seek(number)
            except EOFError:
                return
        if number == limits.frames:
            raise InputError(f"a file must have {limits.frames:,} pages at most, however: it has more")
        check_size(*image.size, limits)
        with decoding():
            image.load()
        yield png(_pixels(ImageOps.exif_transpose(image)))


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except UNREADABLE:
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

_BARE = frozenset([0x01, *range(0xD0, 0xDA)])
"""Markers without a length."""

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment of a JPEG or JPEG-LS after its first marker (ISO/IEC 10918-1 B.1).

    What only looks like a marker is skipped as lengths say, a scan's data belong to the scan, and it ends with the
    image, or before the first segment that is not whole.
    """
    at = 2
    while at + 2 <= len(content) and content[at] == 0xFF:
        marker, end = content[at + 1], at + 2
        if marker == 0xFF:
            at += 1
            continue
        if marker not in _BARE:
            end += int.from_bytes(content[at + 2 : at + 4])
        if marker == _START_OF_SCAN:
            following = _NEXT_MARKER.search(content, end)
            end = len(content) + 1 if following is None else following.start()
        if end > len(content):
            return
        yield marker, at, end
        if marker == _END_OF_IMAGE:
            return
        at = end


def _plain_jpeg(content: bytes) -> bytes | None:
    """Tables, frames and scans; of JFIF and Adobe's segments, which say what the colours are, the fixed head."""
    kept = [b"\xff\xd8"]
    for marker, at, end in jpeg_segments(content):
        payload = content[at + 4 : end]
        if 0xC0 <= marker <= 0xDF:
            kept.append(content[at:end])
        elif marker == 0xE0 and payload.startswith(b"JFIF\0"):
            kept.append(b"\xff\xe0\x00\x10" + payload[:12] + b"\0\0")
        elif marker == 0xEE and payload.startswith(b"Adobe"):
            kept.append(b"\xff\xee\x00\x0e" + payload[:12])
        if marker == _END_OF_IMAGE:
            return b"".join(kept)
    return None
