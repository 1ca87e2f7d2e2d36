import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.pictures import grey, jpeg_segments, pages, picture, png
from privacy.errors import InputError
from synth.images import Limits

SECRET = "DOE^JANE"


def photo(mode: str = "RGB", size: tuple[int, int] = (12, 7)) -> Image.Image:
    bands = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 3)
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], bands)).astype(np.uint8)
    return Image.fromarray(values[..., 0] if bands == 1 else values, mode if bands != 3 else "RGB")


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def exif(orientation: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x013B], found[0x010E] = orientation, SECRET, SECRET
    return found


def loud(format: str) -> bytes:
    """An image that says who it shows wherever its format has room for it."""
    if format == "PNG":
        about = PngInfo()
        about.add_text("Name", SECRET)
        about.add_itxt("Comment", SECRET)
        about.add_text("Packed", SECRET * 9, zip=True)
        content = saved(photo(), "PNG", pnginfo=about, exif=exif(), icc_profile=SECRET.encode())
    elif format == "JPEG":
        options = {"comment": SECRET.encode(), "icc_profile": SECRET.encode(), "exif": exif()}
        content = saved(photo(), "JPEG", progressive=True, xmp=SECRET.encode(), **options)
    else:
        content = saved(photo(), "TIFF", tiffinfo={270: SECRET, 315: SECRET})
    return content + SECRET.encode()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_nothing_but_the_pixels_of_a_file_goes_on(format: str) -> None:
    content = loud(format)
    plain = picture(content)
    assert SECRET.encode() in content
    assert SECRET.encode() not in plain
    assert SECRET.encode() not in b"".join(zlib_streams(plain))
    assert Image.open(io.BytesIO(plain)).info.keys() <= {
        "jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression", "adobe",
        "adobe_transform",
    }  # fmt: skip
    assert (pixels(plain) == pixels(content)).all()


def zlib_streams(content: bytes) -> list[bytes]:
    found = []
    for at in range(len(content)):
        try:
            found.append(zlib.decompress(content[at:]))
        except zlib.error:
            continue
    return found


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_keeps_its_encoding(mode: str) -> None:
    content = saved(photo(mode), "JPEG", quality=95)
    plain = picture(content)
    assert plain.startswith(b"\xff\xd8")
    assert (pixels(plain) == pixels(content)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_that_its_exif_turns_is_turned(orientation: int) -> None:
    values = np.zeros((8, 16, 3), np.uint8)
    values[:, :8] = 255
    plain = pixels(picture(saved(Image.fromarray(values), "JPEG", exif=exif(orientation), quality=100)))
    assert plain.shape[:2] == ((8, 16) if orientation < 5 else (16, 8))
    assert (plain[:4, :4].mean() > 128) == (orientation in (1, 4, 5, 6))


def test_every_page_of_a_tiff_is_an_image() -> None:
    deep = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 9000)
    content = saved(photo("L"), "TIFF", save_all=True, append_images=[deep, photo()])
    first, second, third = pages(content)
    assert pixels(first).shape == (7, 12)
    assert (pixels(second) == np.asarray(deep)).all()
    assert (pixels(third) == np.asarray(photo())).all()


def test_numbers_with_fractions_are_spread_over_the_greys() -> None:
    content = saved(Image.fromarray(np.array([[-1.0, 0.0], [1.0, np.nan]], np.float32)), "TIFF")
    assert pixels(picture(content)).tolist() == [[0, 128], [255, 0]]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_a_truncated_image_is_refused(format: str) -> None:
    content = saved(photo(size=(64, 64)), format)
    with pytest.raises(InputError, match=r"damaged|none"):
        picture(content[: len(content) // 2])


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    ]
    with pytest.raises(InputError, match="pixels at most"):
        picture(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(pixels=83), "83 pixels"),
        (Limits(bytes=100), "100 bytes"),
        (Limits(formats=("PNG", "TIFF")), "is none"),
    ],
)
def test_images_beyond_the_limits_are_refused(limits: Limits, message: str) -> None:
    with pytest.raises(InputError, match=message):
        picture(saved(photo(), "JPEG"), limits)
    assert pixels(picture(saved(photo(), "JPEG"))).shape == (7, 12, 3)


def test_more_pages_than_allowed_are_refused() -> None:
    content = saved(photo(), "TIFF", save_all=True, append_images=[photo()] * 3)
    assert len(list(pages(content, Limits(frames=4)))) == 4
    with pytest.raises(InputError, match="3 pages"):
        list(pages(content, Limits(frames=3)))


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*"]),
)
def test_any_bytes_are_an_image_or_an_error(content: bytes, start: bytes) -> None:
    with pytest.raises(InputError):
        picture(start + content)


@given(
    hnp.arrays(
        st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16)]),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
    )
)
def test_grey_pixels_survive_a_png(values: np.ndarray) -> None:
    assert (pixels(png(values)) == values).all()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([2, 3, 4]))))
def test_coloured_pixels_survive_a_png(values: np.ndarray) -> None:
    assert (pixels(png(values)) == values).all()


def test_greys_go_from_the_lowest_to_the_highest_value() -> None:
    assert grey(np.array([-np.inf, 0, 5, 10, np.inf, np.nan]), 0, 10).tolist() == [0, 0, 128, 255, 255, 0]
    assert grey(np.array([3.0, 3.0]), 3, 3).tolist() == [0, 0]


@pytest.mark.parametrize("progressive", [False, True])
def test_the_segments_of_a_jpeg_are_all_of_it_in_order(progressive: bool) -> None:
    content = saved(
        photo(size=(64, 64)),
        "JPEG",
        progressive=progressive,
        comment=b"\xff\xd9\xff\xc0",
        restart_marker_rows=1,
    )
    found = list(jpeg_segments(content))
    assert b"".join(content[at:end] for _, at, end in found) == content[2:]
    assert [marker for marker, _, _ in found][-1] == 0xD9
    assert sum(marker in (0xC0, 0xC2) for marker, _, _ in found) == 1


@given(st.binary(max_size=300))
def test_the_segments_of_any_bytes_end_within_them(content: bytes) -> None:
    ends = [end for _, _, end in jpeg_segments(b"\xff\xd8" + content)]
    assert ends == sorted(set(ends))
    assert all(end <= len(content) + 2 for end in ends)
