import io
import zlib

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from privacy.errors import InputError, SchemaError
from synth.images import (
    NOTE,
    Limits,
    as_images,
    holds_images,
    images,
    missing,
    one_image,
    opened,
    pixels,
    unseen,
    without_pixels,
)
from synth.infer import infer_table, plain_type, to_plain
from synth.schema import IMAGE, REPLACED, Column, Picture, Schema, parse_type

GREY = Picture(width=4, height=3, mode="L")
COLOUR = Picture(width=4, height=3, mode="RGB")


def written(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def of(values: object, mode: str | None = None) -> bytes:
    return written(Image.fromarray(np.asarray(values), mode))


@pytest.mark.parametrize("picture", [GREY, COLOUR])
def test_pixels_come_back_as_they_were(picture: Picture) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (5, *picture.shape), dtype=np.uint8)
    absent = np.array([False, True, False, False, True])
    column = images(shown, absent=absent, first_row=7)
    assert column.type == IMAGE
    np.testing.assert_array_equal(missing(column), absent)
    np.testing.assert_array_equal(pixels(column, picture), shown * ~absent[:, None, None, None])


def test_every_image_says_that_it_is_synthetic_and_has_a_made_up_name() -> None:
    first, second = images(np.zeros((2, 3, 4, 1), np.uint8), first_row=41).to_pylist()
    assert Image.open(io.BytesIO(first["bytes"])).info == {"Comment": NOTE}
    assert b"tEXtComment\0" + NOTE.encode() in second["bytes"]
    assert second["path"] == "000000042.png"


def test_depths_palettes_and_transparency_become_eight_bits() -> None:
    deep = np.array([[0, 256, 65535, 32768]] * 3, np.uint16)
    np.testing.assert_array_equal(one_image(of(deep), GREY)[0, :, 0], [0, 1, 255, 128])
    bits = Image.fromarray(np.array([[0, 255, 0, 255]] * 3, np.uint8)).convert("1")
    np.testing.assert_array_equal(one_image(written(bits), GREY)[0, :, 0], [0, 255, 0, 255])
    clear = np.zeros((3, 4, 4), np.uint8)
    clear[..., 0], clear[:, :2, 3] = 200, 255
    np.testing.assert_array_equal(one_image(of(clear), COLOUR)[0, :, 0], [200, 200, 0, 0])
    palette = Image.fromarray(np.full((3, 4, 3), 102, np.uint8)).convert("P")
    assert (one_image(written(palette), GREY) == 102).all()
    with pytest.raises(InputError, match="floating-point"):
        one_image(written(Image.fromarray(np.zeros((3, 4), np.float32)), "TIFF"), GREY)


def test_another_size_is_treated_as_the_schema_says() -> None:
    wide = of(np.full((2, 8), 100, np.uint8))

    def shown(resize: str) -> np.ndarray:
        picture = Picture.model_validate({"width": 4, "height": 4, "mode": "L", "resize": resize})
        return one_image(wide, picture)[:, :, 0]

    assert sorted((shown("pad") == 100).sum(1).tolist()) == [0, 0, 0, 4]
    assert (shown("crop") == 100).all()
    assert (shown("stretch") == 100).all()
    with pytest.raises(InputError, match="must be 4 × 4 pixels, however: one is 8 × 2; write resize"):
        shown("refuse")


def test_a_camera_that_was_held_upright_shows_its_image_upright() -> None:
    image = Image.fromarray(np.array([[10, 200]] * 2, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    turned = one_image(written(image, "PNG", exif=exif), Picture(width=2, height=2, mode="L"))
    np.testing.assert_array_equal(turned[0, :, 0], [200, 10])


@pytest.mark.parametrize(
    "broken", [b"", b"no image", of(np.zeros((3, 4), np.uint8))[:44], b"\x89PNG\r\n\x1a\n" + b"\0" * 50]
)
def test_what_is_no_whole_image_is_refused(broken: bytes) -> None:
    with pytest.raises(InputError, match="must be a whole PNG, JPEG or TIFF"):
        one_image(broken, GREY)


def test_a_format_that_is_not_read_is_refused() -> None:
    for format in ("GIF", "BMP", "PPM"):
        with pytest.raises(InputError, match="whole PNG"):
            one_image(written(Image.fromarray(np.zeros((3, 4), np.uint8)), format), GREY)


def test_limits_hold_before_anything_is_decoded() -> None:
    content = of(np.zeros((30, 40), np.uint8))
    for limits, said in (
        (Limits(pixels=1199), "1,199 pixels at most, however: it has 1,200"),
        (Limits(bytes=20), "20 bytes at most, however: it has"),
    ):
        with pytest.raises(InputError, match=said):
            opened(content, limits)
    assert opened(content).size == (40, 30)
    # A header alone may claim any size: Pillow's warning, and ours, come before a pixel is allocated.
    bomb = bytearray(content)
    bomb[16:24] = (60_000).to_bytes(4) * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4)
    with pytest.raises(InputError, match="50,000,000 pixels at most"):
        one_image(bytes(bomb), GREY)


def test_bytes_and_structs_become_images_without_their_names() -> None:
    content = of(np.zeros((3, 4), np.uint8))
    as_bytes = pa.array([content, None], pa.large_binary())
    other = pa.array([{"path": "ann.png", "bytes": content}, {"path": "bob.png", "bytes": None}])
    for array in (as_bytes, other):
        assert holds_images(array)
        column = to_plain(array, IMAGE)
        assert column.to_pylist() == [{"bytes": content, "path": None}, None]
    assert holds_images(pa.array([b"sound"])) is False
    assert holds_images(pa.array([None], pa.binary())) is None
    assert holds_images(pa.array(["text"])) is False
    assert as_images(pa.array([], pa.binary())).type == IMAGE


def test_a_type_of_images_has_a_name_and_others_stay_texts() -> None:
    assert parse_type(str(IMAGE)) == IMAGE == plain_type(IMAGE)
    assert plain_type(pa.binary()) == pa.string()
    assert to_plain(pa.array([b"x", None]), pa.string()).to_pylist() == [REPLACED, None]


def test_init_proposes_the_commonest_size_and_mode_and_labels() -> None:
    small = [of(np.zeros((30, 20), np.uint8))] * 30 + [of(np.zeros((8, 8), np.uint8))] * 5
    table = pa.table({"scan": as_images(pa.array(small)), "label": [1, 2, 3, 4, 5] * 7, "age": range(35)})
    schema = infer_table(table)
    assert [c.kind for c in schema] == ["image", "numerical", "numerical"]
    assert schema["scan"].image == Picture(width=20, height=30, mode="L")
    assert schema["scan"].note is None
    table = pa.table({"scan": as_images(pa.array(small * 3)), "label": [1, 2, 3, 4, 5] * 21})
    assert infer_table(table)["label"].kind == "categorical"
    large = [of(np.zeros((200, 400, 3), np.uint8))] * 20 + [None]
    column = infer_table(pa.table({"scan": as_images(pa.array(large))}))["scan"]
    assert column.image == Picture(width=64, height=32, mode="RGB")
    assert column.nullable
    assert "made smaller, to 64 × 32 pixels" in str(column.note)
    broken = infer_table(pa.table({"scan": as_images(pa.array([b"\x89PNG no"] * 20)), "n": range(20)}))[
        "scan"
    ]
    assert (broken.kind, broken.action) == ("text", "drop")
    assert infer_table(table, blind=True)["scan"].kind == "image"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "image", "type": str(IMAGE)}, "`image` belong together"),
        ({"kind": "categorical", "type": "string", "image": GREY}, "`image` belong together"),
        ({"kind": "image", "type": "string", "image": GREY}, "images are of type struct"),
        ({"kind": "categorical", "type": str(IMAGE)}, "images are of type struct"),
        (
            {"kind": "image", "type": str(IMAGE), "image": {"width": 0, "height": 1, "mode": "L"}},
            "image.width",
        ),
        (
            {"kind": "image", "type": str(IMAGE), "image": {"width": 1, "height": 1, "mode": "CMYK"}},
            "image.mode",
        ),
    ],
)
def test_a_schema_that_contradicts_itself_about_images_is_refused(fields: dict, said: str) -> None:
    plain = {k: v.model_dump() if isinstance(v, Picture) else v for k, v in fields.items()}
    with pytest.raises(SchemaError, match=said):
        Schema.parse(yaml.safe_dump({"columns": [{"name": "x", **plain}]}), source="schema.yaml")


def test_a_schema_with_images_is_written_and_read_back() -> None:
    schema = Schema(columns=(Column(name="x", kind="image", type=str(IMAGE), image=GREY),))
    assert Schema.parse(schema.to_yaml(), source="s") == Schema.parse(schema.to_json(), source="s") == schema


def test_evidence_sees_of_an_image_only_whether_it_is_there() -> None:
    schema = Schema(
        columns=(
            Column(name="x", kind="image", type=str(IMAGE), image=GREY),
            Column(name="n", kind="numerical", type="int64"),
        )
    )
    table = pa.table(
        {"x": images(np.zeros((2, 3, 4, 1), np.uint8), absent=np.array([False, True])), "n": [1, 2]}
    )
    assert without_pixels(table, schema).to_pydict() == {"x": [REPLACED, None], "n": [1, 2]}
    assert [c.kind for c in unseen(schema)] == ["text", "numerical"]
    plain = schema.model_copy(update={"columns": schema.columns[1:]})
    assert unseen(plain) is plain
