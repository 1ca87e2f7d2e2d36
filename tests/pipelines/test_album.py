import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.album import NO_CLASS, class_folder, export_images
from pipelines.aside import Aside
from pipelines.cli import run as command
from pipelines.dicom import dicom_frames
from pipelines.ingest import batches, infer_types, sniff
from pipelines.init import initialize
from pipelines.publish import SUMS, publish
from pipelines.scans import Scans
from privacy.errors import InputError, ReleaseError, UsageError
from synth.images import NOTE, images, pixels
from synth.schema import IMAGE, Picture, Schema
from tests.pipelines.test_gallery import lay

ROWS, HEIGHT, WIDTH = 30, 5, 7
CLASSES = ["benign", "no sign", "=1+1", None]
RENAMED = {"patient": "released_patient", "frame": "released_frame"}


def drawn(channels: int = 1, rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (rows, HEIGHT, WIDTH, channels), dtype=np.uint8)


def released(folder: Path, *, channels: int = 1, seed: int = 0, **more: pa.Array) -> Path:
    """A release of images in two files, every tenth missing, of fifteen made-up patients, without a model."""
    absent = np.arange(ROWS) % 10 == 9
    columns = {
        "label": pa.array([CLASSES[i % 4] for i in range(ROWS)]),
        "scan": images(drawn(channels), absent=absent),
        "age": pa.array(range(ROWS)),
        "patient": pa.array([f"p{i // 2:02d}" for i in range(ROWS)]),
        "frame": pa.array([i % 2 for i in range(ROWS)]),
        **more,
    }
    mode = "L" if channels == 1 else "RGB"
    of = {"string": "categorical", "int64": "numerical"}
    about = [
        {
            "name": n,
            "kind": "image" if c.type == IMAGE else "identifier" if n == "patient" else of[str(c.type)],
            "type": str(c.type),
            **({"image": {"height": HEIGHT, "width": WIDTH, "mode": mode}} if c.type == IMAGE else {}),
        }
        for n, c in columns.items()
    ]
    table = pa.table(columns)
    files = {
        "schema.json": json.dumps({"columns": about, "unit": "patient"}).encode(),
        "certificate.json": json.dumps({"rows": ROWS, "seed": seed}).encode(),
    }
    for number, part in enumerate((table[:12], table[12:])):
        sink = io.BytesIO()
        pq.write_table(part, sink)
        files[f"data/part-{number:05d}.parquet"] = sink.getvalue()
    return publish(folder / "root", "scans", files)


def metadata(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


THERE = [i for i in range(ROWS) if i % 10 != 9]


# ---------------------------------------------------------------------------------------------------------- PNG


def test_a_folder_of_png_holds_each_image_in_the_folder_of_its_class(tmp_path: Path) -> None:
    found = export_images(released(tmp_path), tmp_path / "out", format="png")
    assert (found.images, found.without, found.label) == (27, 3, "label")
    said = metadata(tmp_path / "out")
    assert list(said[0]) == ["file_name", "label", "age", "patient", "frame"]
    assert [int(line["age"]) for line in said] == THERE
    assert len({p.parent.name for p in (tmp_path / "out").rglob("*.png")}) == 4
    for line in said:
        image = Image.open(tmp_path / "out" / line["file_name"])
        assert (np.asarray(image) == drawn()[int(line["age"]), :, :, 0]).all()
        assert image.info == {"Comment": NOTE}
        label = CLASSES[int(line["age"]) % 4]
        assert Path(line["file_name"]).parent.name == class_folder(label)
        assert line["label"] == {"=1+1": "'=1+1", None: ""}.get(label, label)
    assert found.escaped == sum(CLASSES[i % 4] == "=1+1" for i in THERE)
    assert {p.name for p in tmp_path.iterdir()} == {"root", "out"}


def test_a_folder_of_png_is_a_source_again(tmp_path: Path) -> None:
    export_images(released(tmp_path, channels=3), tmp_path / "out", format="png")
    initialize(tmp_path / "out", tmp_path, blind=False, force=True)
    schema = Schema.parse((tmp_path / "schema.yaml").read_text("utf-8"), source="schema.yaml")
    assert [c.name for c in schema] == ["image", "label", "age", "patient", "frame"]
    assert schema["image"].image == Picture(height=HEIGHT, width=WIDTH, mode="RGB")
    source = sniff(tmp_path / "out")
    table = pa.Table.from_batches(batches(source, infer_types(source))).sort_by("age")
    shown = pixels(table["image"].combine_chunks(), schema["image"].image)
    assert (shown == drawn(3)[THERE]).all()


def test_without_metadata_the_folders_say_the_classes(tmp_path: Path) -> None:
    export_images(released(tmp_path), tmp_path / "out", format="png")
    (tmp_path / "out" / "metadata.csv").unlink()
    source = sniff(tmp_path / "out")
    assert source.columns == ("image", "label")
    labels = {r["label"] for b in batches(source, infer_types(source)) for r in b.to_pylist()}
    assert labels == {class_folder(c) for c in CLASSES}


@pytest.mark.parametrize(
    "value", ["../x", "..", "", "a/b", "train", ".x", "_x", "x" * 99, "é", None, True, -1, NO_CLASS]
)
def test_no_class_chooses_where_its_files_go(value: object) -> None:
    name = class_folder(value)
    assert name == Path(name).name
    assert 1 <= len(name) <= 80
    assert name[0] not in "._-"
    assert name == class_folder(value)
    assert name not in {class_folder(other) for other in ("x", "a-b", "train-", "..x") if other != value}


def test_a_label_may_be_named(tmp_path: Path) -> None:
    release = released(tmp_path, site=pa.array(["a", "b"] * 15))
    found = export_images(release, tmp_path / "out", format="png", label="site")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a", "b", "metadata.csv"}
    assert found.label == "site"
    with pytest.raises(UsageError, match="'age' is none; known are label, site"):
        export_images(release, tmp_path / "other", format="png", label="age")


# -------------------------------------------------------------------------------------------------------- DICOM


@pytest.mark.parametrize("channels", [1, 3])
def test_dicom_files_hold_the_pixels_and_nobody(tmp_path: Path, channels: int) -> None:
    pydicom = pytest.importorskip("pydicom")
    found = export_images(released(tmp_path, channels=channels), tmp_path / "out", format="dicom")
    assert (found.images, found.label, found.renamed) == (27, None, RENAMED)
    said = metadata(tmp_path / "out")
    assert list(said[0]) == ["file_name", "label", "age", *RENAMED.values()]
    patients = {}
    for line in said:
        row = int(line["age"])
        data = pydicom.dcmread(tmp_path / "out" / line["file_name"])
        assert (data.pixel_array.reshape(HEIGHT, WIDTH, channels) == drawn(channels)[row]).all()
        assert data.SOPClassUID == data.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        assert list(data.ImageType) == ["DERIVED", "SECONDARY"]
        assert (data.PatientIdentityRemoved, data.BurnedInAnnotation) == ("YES", "NO")
        assert (data.ContentQualification, data.SyntheticData) == ("RESEARCH", "YES")
        assert str(data.PatientName).startswith("SYNTHETIC^")
        assert "ynthetic" in data.StudyDescription
        assert data.PhotometricInterpretation == ("MONOCHROME2" if channels == 1 else "RGB")
        uids = [data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID]
        assert all(u.is_valid and u.startswith("2.25.") and len(u) <= 64 for u in uids)
        patients[row] = (data.PatientID, *uids[1:])
    # Rows of one made-up patient are one patient's, and no others are.
    assert len(set(patients.values())) == 15
    assert all(patients[i] == patients[i + 1] for i in range(0, 8, 2))


def test_of_other_columns_nothing_stands_in_a_dicom_file(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    release = released(tmp_path, secret=pa.array(["Ann Example 1981"] * ROWS))
    export_images(release, tmp_path / "out", format="dicom")
    files = [p for p in (tmp_path / "out").iterdir() if p.suffix == ".dcm"]
    for word in (b"Ann", b"1981", b"benign", b"p01"):
        assert not [p for p in files if word in p.read_bytes().split(b"\xe0\x7f\x10\x00")[0]]


def test_our_own_reader_takes_dicom_files_again(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    export_images(released(tmp_path), tmp_path / "out", format="dicom")
    (frame,) = dicom_frames(tmp_path / "out" / "000000003.dcm", "x", Scans())
    assert (np.asarray(Image.open(io.BytesIO(frame[0]))) == drawn()[3, :, :, 0]).all()
    initialize(tmp_path / "out", tmp_path, blind=False, force=True)
    schema = Schema.parse((tmp_path / "schema.yaml").read_text("utf-8"), source="schema.yaml")
    names = ["image", "patient", "frame", "label", "age", "released_patient", "released_frame"]
    assert [c.name for c in schema] == names
    assert schema.unit == "patient"
    table = pa.Table.from_batches(batches(sniff(tmp_path / "out"), schema.arrow, aside=Aside()))
    shown = pixels(table["image"].combine_chunks(), Picture(height=HEIGHT, width=WIDTH, mode="L"))
    assert (shown == drawn()[THERE]).all()


def test_an_export_twice_has_the_same_bytes_and_another_release_other_numbers(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    release, other = released(tmp_path), released(tmp_path, seed=1)
    for name, of in (("a", release), ("b", release), ("c", other)):
        export_images(of, tmp_path / name, format="dicom")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    keywords = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")
    first, second = (pydicom.dcmread(tmp_path / n / "000000000.dcm") for n in ("a", "c"))
    assert all(first[k].value != second[k].value for k in keywords)


# ------------------------------------------------------------------------------------------------------ refusals


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    release = released(tmp_path)
    column = images(drawn()).to_pylist()
    column[20]["bytes"] = b"RIFF"
    broken = released(tmp_path / "b", scan=pa.array(column, IMAGE))
    with pytest.raises(ReleaseError, match="that of row 20 is none"):
        export_images(broken, tmp_path / "out", format="png")
    assert {p.name for p in tmp_path.iterdir()} == {"root", "b"}
    export_images(release, tmp_path / "out", format="png")
    before = content(tmp_path / "out")
    with pytest.raises(UsageError, match="overwrites nothing"):
        export_images(release, tmp_path / "out", format="png")
    with pytest.raises((ReleaseError, InputError)):
        export_images(broken, tmp_path / "out", format="dicom", force=True)
    assert content(tmp_path / "out") == before
    export_images(release, tmp_path / "out", format="dicom", force=True)
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".csv", ".dcm"}
    assert {p.name for p in tmp_path.iterdir()} == {"root", "b", "out"}


def test_force_replaces_nothing_but_an_export(tmp_path: Path) -> None:
    lay(tmp_path / "mine", {"000000001.png": 1, "thesis.txt": "x"})
    with pytest.raises(UsageError, match=r"replaces only a folder that export wrote, however: .*thesis\.txt"):
        export_images(released(tmp_path), tmp_path / "mine", format="png", force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    (tmp_path / "link").symlink_to(tmp_path / "root")
    with pytest.raises(UsageError, match="replaces only a folder"):
        export_images(released(tmp_path), tmp_path / "link", format="png", force=True)


def test_what_has_no_one_column_of_images_is_refused(tmp_path: Path) -> None:
    two = released(tmp_path, other=images(drawn()))
    with pytest.raises(UsageError, match="one column of images, however: this release has 'scan', 'other'"):
        export_images(two, tmp_path / "out", format="png")
    none = released(tmp_path, scan=pa.array(range(ROWS)))
    with pytest.raises(UsageError, match="needs a column of images, however: this release has none"):
        export_images(none, tmp_path / "out", format="dicom")
    empty = released(tmp_path, scan=images(drawn(), absent=np.ones(ROWS, np.bool_)))
    with pytest.raises(ReleaseError, match="no row"):
        export_images(empty, tmp_path / "out", format="png")
    (none / SUMS).write_text("")
    with pytest.raises(ReleaseError, match="not in"):
        export_images(none, tmp_path / "out", format="png")
    assert {p.name for p in tmp_path.iterdir()} == {"root"}


def test_the_command_writes_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release, out = str(released(tmp_path)), str(tmp_path / "out")
    assert command(["export", release, out, "--format", "png", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "folder": out, "images": 27, "without": 3, "escaped": 7, "label": "label", "renamed": {},
    }  # fmt: skip
    assert command(["export", release, out, "--format", "dicom", "--force"]) == 0
    text = capsys.readouterr().out
    assert "27 images in" in text
    assert "'patient' is called 'released_patient' in metadata.csv" in text
    assert command(["export", release, str(tmp_path / "x.csv"), "--label", "label"]) == 2
    assert command(["export", release, out, "--format", "dicom", "--label", "label", "--force"]) == 2
