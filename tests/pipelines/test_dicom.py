import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.aside import Aside
from pipelines.dicom import dicom_frames
from pipelines.ingest import batches, infer_types, sniff
from pipelines.init import initialize
from pipelines.plan import rows_of
from pipelines.recipe import load
from pipelines.scans import Scans, Window
from privacy.errors import InputError, RecipeError, UsageError
from synth.images import Limits
from synth.schema import Schema

pydicom = pytest.importorskip("pydicom")

SECRET = "DOE^JANE"
CT = (np.arange(48, dtype=np.int16).reshape(6, 8) * 50 - 1000).astype(np.int16)


def dataset(
    pixels: np.ndarray = CT, *, patient: str = "P-4711", photometric: str = "MONOCHROME2", **fields: object
):
    """A data set with what identifies a person planted all over it."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"
    data.PatientName, data.PatientID, data.PatientBirthDate = SECRET, patient, "19610203"
    data.StudyInstanceUID, data.InstitutionName, data.Modality = "1.2.3", SECRET, "CT"
    data.PatientSex, data.PatientAge, data.ImageComments = "F", "041Y", SECRET
    data.private_block(0x0011, SECRET, create=True).add_new(0x01, "LO", SECRET)
    coloured = pixels.shape[-1:] == (3,)
    rows, columns = pixels.shape[-3:-1] if coloured else pixels.shape[-2:]
    data.Rows, data.Columns, data.SamplesPerPixel = rows, columns, 3 if coloured else 1
    if coloured:
        data.PlanarConfiguration = 0
    if pixels.ndim == (4 if coloured else 3):
        data.NumberOfFrames = len(pixels)
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for keyword, value in fields.items():
        setattr(data, keyword, value)
    return data


def save(data: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def frames(data: object, folder: Path, scans: Scans | None = None, **options: object) -> list[np.ndarray]:
    found = dicom_frames(save(data, folder / "x.dcm"), "x.dcm", scans or Scans(), **options)
    return [np.asarray(Image.open(io.BytesIO(content))) for content, _ in found]


def read(path: Path, scans: Scans | None = None, aside: Aside | None = None) -> pa.Table:
    source = sniff(path, scans=scans)
    types = infer_types(source, Aside(most=100))
    return pa.Table.from_batches(batches(source, types, aside=aside))


# ---------------------------------------------------------------------------------------------- identification


def everything(table: pa.Table) -> bytes:
    """All bytes of a table, images decoded and unpacked, too."""
    parts = [repr(table.to_pylist()).encode()]
    for image in table["image"].to_pylist():
        parts += [image["bytes"], Image.open(io.BytesIO(image["bytes"])).tobytes()]
        parts += [repr(Image.open(io.BytesIO(image["bytes"])).info).encode()]
    return b"".join(parts)


def test_nothing_of_a_header_goes_further(tmp_path: Path) -> None:
    save(dataset(), tmp_path / "1.dcm")
    save(dataset(SeriesDescription=SECRET), tmp_path / "2.dcm")
    found = everything(read(tmp_path))
    for secret in (SECRET, "DOE", "P-4711", "19610203", "1.2.3", "041Y"):
        assert secret.encode() not in found


def test_headers_that_the_recipe_names_become_columns(tmp_path: Path) -> None:
    save(dataset(SliceThickness=2.5, ImageType=["ORIGINAL", "PRIMARY"]), tmp_path / "1.dcm")
    save(dataset(PatientSex=""), tmp_path / "2.dcm")
    scans = Scans(headers=("PatientSex", "SliceThickness", "ImageType"))
    table = read(tmp_path, scans)
    assert table.schema.names == ["image", "patient", "frame", "PatientSex", "SliceThickness", "ImageType"]
    assert table["PatientSex"].to_pylist() == ["F", None]
    assert table["SliceThickness"].to_pylist() == [2.5, None]
    assert table["ImageType"].to_pylist() == ["ORIGINAL\\PRIMARY", None]
    assert SECRET.encode() not in everything(table)


@pytest.mark.parametrize(
    "name",
    ["PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyInstanceUID", "AccessionNumber",
     "InstitutionName", "SeriesDescription", "ImageComments", "DeviceSerialNumber", "(0011,1001)", "Modalty"],
)  # fmt: skip
def test_headers_that_identify_somebody_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="must identify nobody"):
        Scans.of((name,))


def test_a_recipe_that_names_an_identifier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{name: x, input: in, scans: {headers: [PatientName]}}")
    with pytest.raises(RecipeError, match="must identify nobody"):
        load(tmp_path / "recipe.yaml")


def test_scans_of_a_person_share_a_pseudonym(tmp_path: Path) -> None:
    data = [
        dataset(patient="A"),
        dataset(patient="A"),
        dataset(patient="B"),
        dataset(patient=""),
        dataset(patient=""),
    ]
    data[4].StudyInstanceUID = "1.2.4"
    for i, d in enumerate(data):
        save(d, tmp_path / f"{i}.dcm")
    a, same, b, study, other = read(tmp_path)["patient"].to_pylist()
    assert a == same
    assert len({a, b, study, other}) == 4


def test_pixels_with_writing_in_them_are_set_aside(tmp_path: Path) -> None:
    save(dataset(BurnedInAnnotation="YES"), tmp_path / "1.dcm")
    save(dataset(BurnedInAnnotation="NO"), tmp_path / "2.dcm")
    aside = Aside(most=1)
    assert len(read(tmp_path, aside=aside)) == 1
    assert "BurnedInAnnotation is YES" in aside.lines


def test_overlays_are_not_drawn(tmp_path: Path) -> None:
    data = dataset()
    data.add_new(0x60000010, "US", 6)
    data.add_new(0x60000011, "US", 8)
    data.add_new(0x60003000, "OW", b"\xff" * 6)
    assert (frames(data, tmp_path)[0] == frames(dataset(), tmp_path)[0]).all()


def test_init_makes_the_pseudonym_the_unit(tmp_path: Path) -> None:
    for i in range(40):
        save(dataset(patient=f"P{i // 4}"), tmp_path / "in" / f"{i}")
    initialize(tmp_path / "in", tmp_path, blind=False, force=False, scans=Scans.of(("Modality",)))
    schema = Schema.parse((tmp_path / "schema.yaml").read_text(), source="schema.yaml")
    assert (schema.unit, schema["patient"].kind, schema["image"].kind) == ("patient", "identifier", "image")
    assert schema["Modality"].categories == ("CT",)
    assert load(tmp_path / "recipe.yaml").scans.headers == ("Modality",)


def test_headers_of_what_has_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="holds none"):
        initialize(tmp_path / "t.csv", tmp_path, blind=False, force=False, scans=Scans.of(("Modality",)))


# -------------------------------------------------------------------------------------------------------- grey


def test_a_window_shows_what_lies_in_it(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: black up to c - 0.5 - (w - 1) / 2, white above c - 0.5 + (w - 1) / 2.
    data = dataset(RescaleSlope=2, RescaleIntercept=10, WindowCenter=[40, 300], WindowWidth=[401, 1500])
    values = CT.astype(float) * 2 + 10
    expected = np.clip(((values - 39.5) / 400 + 0.5) * 255, 0, 255)
    assert np.abs(frames(data, tmp_path)[0] - expected).max() <= 0.5 + 1e-9


def test_the_recipes_window_comes_before_the_files(tmp_path: Path) -> None:
    data = dataset(WindowCenter=0, WindowWidth=10)
    shown = frames(data, tmp_path, Scans(window=(500, 1001)))[0]
    assert np.abs(shown - np.clip((CT + 0.5) / 1000 * 255, 0, 255)).max() <= 0.51


def test_without_a_window_the_whole_range_is_shown(tmp_path: Path) -> None:
    shown = frames(dataset(np.stack([CT, CT * 2])), tmp_path)
    low, high = 2 * CT.min(), 2 * CT.max()
    for frame, values in zip(shown, (CT, 2 * CT), strict=True):
        assert np.abs(frame - (values.astype(float) - low) / (high - low) * 255).max() <= 0.5 + 1e-9


def test_padding_is_black_and_no_part_of_the_range(tmp_path: Path) -> None:
    padded = CT.copy()
    padded[0] = -32000
    shown = frames(dataset(padded, PixelPaddingValue=-32000), tmp_path)[0]
    assert (shown[0] == 0).all()
    assert shown[1:].min() == 0
    assert (np.diff(shown[1:].reshape(-1).astype(int)) > 0).all()


def test_monochrome1_is_shown_inverted(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert (frames(dataset(grey), tmp_path)[0] == grey).all()
    assert (frames(dataset(grey, photometric="MONOCHROME1"), tmp_path)[0] == 255 - grey).all()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_every_function_of_a_window_rises_through_its_centre(function: str) -> None:
    window = Window(center=100, width=50, function=function)
    shown = window.apply(np.array([-1e9, 80.0, 100.0, 120.0, 1e9])).astype(int)
    assert (np.diff(shown) > 0).all()
    assert abs(shown[2] - 128) <= 3
    assert (shown[0], shown[-1]) == (0, 255)


def test_a_look_up_table_is_looked_up(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], np.array([9, 200, 30, 255], np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    grey = np.array([[0, 1], [2, 3]], np.uint16)
    shown = frames(dataset(grey, VOILUTSequence=pydicom.Sequence([table])), tmp_path)[0]
    assert shown.tolist() == [[9, 200], [30, 255]]


def test_enhanced_files_say_for_each_frame_how_it_is_shown(tmp_path: Path) -> None:
    groups = []
    for slope in (1, 2):
        values, window, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = 0.5, 2551
        group.PixelValueTransformationSequence = pydicom.Sequence([values])
        group.FrameVOILUTSequence = pydicom.Sequence([window])
        groups.append(group)
    grey = np.full((2, 2, 2), 500, np.int16)
    shown = frames(dataset(grey, PerFrameFunctionalGroupsSequence=pydicom.Sequence(groups)), tmp_path)
    assert [int(f[0, 0]) for f in shown] == [round(127.5 + 50), round(127.5 + 100)]


# ------------------------------------------------------------------------------------------------------ colour


def colours(dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (2, 4, 4, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_have_eight_bits(tmp_path: Path, dtype: type) -> None:
    shown = np.stack(frames(dataset(colours(dtype), photometric="RGB"), tmp_path))
    assert (shown == colours(dtype) >> (8 * np.dtype(dtype).itemsize - 8)).all()


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.asarray(Image.fromarray(colours()[0]).convert("YCbCr"))
    shown = frames(dataset(ybr, photometric="YBR_FULL"), tmp_path)[0]
    assert np.abs(shown.astype(int) - colours()[0]).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_the_colours(tmp_path: Path, bits: int) -> None:
    data = dataset(np.array([[0, 1], [2, 3]], np.uint8), photometric="PALETTE COLOR")
    for name, ramp in (("Red", (0, 85, 170, 255)), ("Green", (255, 0, 0, 9)), ("Blue", (7, 7, 200, 0))):
        entries = np.array(ramp, np.uint8 if bits == 8 else np.uint16)
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [4, 0, bits])
        setattr(
            data,
            f"{name}PaletteColorLookupTableData",
            (entries << (bits - 8)).astype(entries.dtype).tobytes(),
        )
    assert frames(data, tmp_path)[0].tolist() == [[[0, 255, 7], [85, 0, 7]], [[170, 0, 200], [255, 9, 0]]]


# ----------------------------------------------------------------------------------------------------- encoding


def test_compressed_frames_are_decoded(tmp_path: Path) -> None:
    large = np.kron(CT, np.ones((12, 12), np.int16))
    plain = frames(dataset(np.stack([large, large + 7])), tmp_path)
    for syntax in (pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEGLSLossless):
        packed = dataset(np.stack([large, large + 7]))
        packed.compress(syntax)
        assert packed.file_meta.TransferSyntaxUID == syntax
        assert all((a == b).all() for a, b in zip(frames(packed, tmp_path), plain, strict=True))


def test_jpeg_frames_are_decoded(tmp_path: Path) -> None:
    image = Image.fromarray(np.kron(colours()[0], np.ones((8, 8, 1), np.uint8)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, subsampling=0)
    data = dataset(np.asarray(image), photometric="YBR_FULL")
    data.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    assert np.abs(frames(data, tmp_path)[0].astype(int) - np.asarray(image)).mean() < 5


def test_packed_files_and_files_without_a_suffix_are_recognized(tmp_path: Path) -> None:
    save(dataset(), tmp_path / "a" / "IM0001")
    save(dataset(), tmp_path / "a" / "1.2.840.7")
    (tmp_path / "b.dcm.gz").write_bytes(gzip.compress((tmp_path / "a" / "IM0001").read_bytes()))
    (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert (len(read(tmp_path)), rows_of(sniff(tmp_path))) == (3, 3)


def test_a_file_without_meta_information_is_read(tmp_path: Path) -> None:
    data = dataset()
    del data.file_meta
    data.save_as(tmp_path / "x.dcm", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert len(read(tmp_path)) == 1


# ------------------------------------------------------------------------------------------------------- guards


def deflated(size: int) -> bytes:
    stream = io.BytesIO()
    data = dataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(stream, enforce_file_format=True)
    content = stream.getvalue()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    group_length = int.from_bytes(content[140:144], "little")
    return content[: 144 + group_length] + packer.compress(bytes(size)) + packer.flush()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no image": (lambda p: save(without("PixelData"), p), "no pixel data"),
    "no size": (lambda p: save(without("Rows"), p), "header is damaged"),
    "cut": (lambda p: p.write_bytes(save(dataset(), p).read_bytes()[:-9]), "not"),
    "no DICOM": (lambda p: p.write_bytes(b"hello" * 99), "no pixel data|damaged"),
    "empty": (lambda p: p.write_bytes(b""), "no pixel data|damaged"),
    "bits": (lambda p: save(dataset(SamplesPerPixel=7), p), "damaged"),
    "look-up": (
        lambda p: save(dataset(np.array([[0, 1]], np.uint8), photometric="PALETTE COLOR"), p),
        "look-up",
    ),
}


def without(keyword: str) -> object:
    data = dataset()
    delattr(data, keyword)
    return data


@pytest.mark.parametrize(("write", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_read_is_set_aside_with_a_reason(
    tmp_path: Path, write: Callable[[Path], object], reason: str, recwarn: pytest.WarningsRecorder
) -> None:
    save(dataset(), tmp_path / "a.dcm")
    write(tmp_path / "b.dcm")
    aside = Aside(most=1)
    assert len(read(tmp_path, aside=aside)) == 1
    (broken,) = aside.rows
    assert broken.file == "b.dcm"
    assert any(word in broken.reason for word in reason.split("|"))
    assert SECRET not in broken.reason
    assert not [w for w in recwarn if "pydicom" in str(w.filename)]


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.dicom.FILE_BYTES", 1 << 20)
    (tmp_path / "x.dcm").write_bytes(deflated(8 << 20))
    with pytest.raises(InputError, match="unpack to 1,048,576 bytes at most"):
        list(dicom_frames(tmp_path / "x.dcm", "x.dcm", Scans()))
    (tmp_path / "y.dcm.gz").write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(InputError, match="1,048,576 bytes at most"):
        list(dicom_frames(tmp_path / "y.dcm.gz", "y", Scans()))


@pytest.mark.parametrize(
    ("limits", "message"), [(Limits(pixels=40), "40 pixels"), (Limits(frames=1), "1 to 1 frames")]
)
def test_frames_beyond_the_limits_are_refused(tmp_path: Path, limits: Limits, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frames(dataset(np.stack([CT, CT])), tmp_path, limits=limits)


def test_a_frame_that_becomes_larger_than_its_header_says_is_refused(tmp_path: Path) -> None:
    data = dataset(np.zeros((64, 64), np.uint8))
    data.compress(pydicom.uid.JPEG2000Lossless)
    frame = next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1))
    at = frame.index(b"\xff\x4f\xff\x51") + 8
    large = frame[:at] + (60_000).to_bytes(4, "big") * 2 + frame[at + 8 :]
    data.PixelData = pydicom.encaps.encapsulate([large])
    with pytest.raises(InputError, match="pixels at most"):
        frames(data, tmp_path)


def test_frames_before_a_broken_one_are_kept(tmp_path: Path) -> None:
    data = dataset(np.stack([np.zeros((64, 64), np.uint8)] * 3), WindowCenter=5, WindowWidth=9)
    data.compress(pydicom.uid.JPEG2000Lossless)
    found = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=3))
    found[2] = found[2][:20]
    data.PixelData = pydicom.encaps.encapsulate(found)
    save(data, tmp_path / "x.dcm")
    aside = Aside(most=1)
    assert read(tmp_path, aside=aside)["frame"].to_pylist() == [0, 1]
    assert aside.rows[0].file == "x.dcm from image 3 on"


@pytest.mark.parametrize(
    "hidden", ["plain", "behind 80 KB of segments", "behind a header that is none", "by nothing"]
)
def test_a_jpeg_that_becomes_larger_than_the_header_says_is_refused(tmp_path: Path, hidden: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((200, 300), np.uint8)).save(stream, "JPEG")
    frame = stream.getvalue()
    comment = {
        "plain": b"",
        "behind 80 KB of segments": (b"\xff\xe1\xff\xff" + bytes(65_533)) * 2,
        "behind a header that is none": b"\xff\xe5\x00\x0b\xff\xc0\x00\x0b\x08\x00\x04\x00\x04",
        "by nothing": b"\xff\xda\x00\x04\x00\x00",
    }[hidden]
    data = dataset(np.zeros((4, 4), np.uint8))
    data.PixelData = pydicom.encaps.encapsulate([frame[:2] + comment + frame[2:]])
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    with pytest.raises(InputError, match=r"pixels at most|does not say its size"):
        frames(data, tmp_path, limits=Limits(pixels=10_000))
