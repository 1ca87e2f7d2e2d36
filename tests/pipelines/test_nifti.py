import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.aside import Aside
from pipelines.ingest import batches, infer_types, sniff
from pipelines.nifti import nifti_slices
from pipelines.plan import rows_of
from pipelines.scans import Scans
from privacy.errors import InputError
from synth.images import Limits

nibabel = pytest.importorskip("nibabel")

SECRET = "DOE JANE"
VOLUME = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def save(path: Path, values: np.ndarray = VOLUME, affine: np.ndarray | None = None) -> Path:
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.header["descrip"], image.header["aux_file"] = SECRET.encode(), SECRET.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def slices(path: Path, scans: Scans | None = None) -> np.ndarray:
    found = [content for content, _ in nifti_slices(path, path.name, scans or Scans())]
    return np.stack([np.asarray(Image.open(io.BytesIO(c))) for c in found])


def spread(values: np.ndarray) -> np.ndarray:
    return np.rint((values - VOLUME.min()) * (255 / (VOLUME.max() - VOLUME.min()))).astype(np.uint8)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize(("axis", "place"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_a_volume_is_cut_along_an_axis(tmp_path: Path, name: str, axis: str, place: int) -> None:
    found = slices(save(tmp_path / name), Scans(axis=axis))
    assert len(found) == VOLUME.shape[place]
    for shown, plane in zip(found, np.moveaxis(VOLUME, place, 0), strict=True):
        assert (shown == spread(plane)[:, ::-1].T).all()


def test_orientation_is_made_canonical(tmp_path: Path) -> None:
    plain = slices(save(tmp_path / "ras.nii"))
    flipped = slices(save(tmp_path / "lps.nii", VOLUME[::-1, ::-1], np.diag([-1.0, -1, 1, 1])))
    turned = slices(save(tmp_path / "sra.nii", VOLUME.transpose(2, 0, 1), np.eye(4)[[1, 2, 0, 3]]))
    assert (flipped == plain).all()
    assert (turned == plain).all()


def test_every_volume_of_a_file_is_cut_in_turn(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.stack([VOLUME, VOLUME * 3], axis=-1))
    assert (slices(path) == np.concatenate([slices(save(tmp_path / "y.nii"))] * 2)).all()
    assert rows_of(sniff(path)) == 8


def test_slope_and_intercept_are_heeded(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii")
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2.0, -10.0], "<f4").tobytes()
    path.write_bytes(content)
    shown = slices(path, Scans(window=(0.5, 21)))
    values = np.rot90(np.moveaxis(VOLUME.astype(float) * 2 - 10, 2, 0), axes=(1, 2))
    assert np.abs(shown - np.clip((values / 20 + 0.5) * 255, 0, 255)).max() <= 0.5 + 1e-9


def test_colours_stay(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    values["R"][0, 1], values["B"][1, 1] = 9, 7
    assert slices(save(tmp_path / "x.nii", values))[0, 0].tolist() == [[9, 0, 0], [0, 0, 7]]


def test_what_is_no_number_is_black(tmp_path: Path) -> None:
    values = VOLUME.astype(np.float32)
    values[0, 0, 0] = np.nan
    found = slices(save(tmp_path / "x.nii", values))
    assert found[0][-1, 0] == 0


def test_nothing_of_a_header_and_no_subject_goes_further(tmp_path: Path) -> None:
    save(tmp_path / "sub-Jane" / "anat" / "sub-Jane_T1w.nii.gz")
    save(tmp_path / "sub-Jane" / "anat" / "sub-Jane_T2w.nii.gz")
    save(tmp_path / "sub-John" / "anat" / "sub-John_T1w.nii.gz")
    source = sniff(tmp_path)
    table = pa.Table.from_batches(batches(source, infer_types(source)))
    rows = table.to_pylist()
    assert table.schema.names == ["image", "patient", "frame"]
    assert len({r["patient"] for r in rows}) == 2
    assert [r["frame"] for r in rows] == [0, 1, 2, 3] * 3
    assert not any(SECRET.encode() in r["image"]["bytes"] or "J" in r["patient"] for r in rows)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no volume", "damaged"), (b"", "damaged"), (None, "truncated"), (b"\x1f\x8b\x08\0\0\0", "damaged")],
)
def test_a_broken_file_is_set_aside_by_name(tmp_path: Path, content: bytes | None, reason: str) -> None:
    whole = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii").write_bytes(whole[:-9] if content is None else content)
    aside = Aside(most=1)
    source = sniff(tmp_path)
    infer_types(source, aside)
    assert aside.rows[0].file == "b.nii"
    assert reason in aside.rows[0].reason


def test_a_header_that_claims_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "x.nii").read_bytes())
    content[40:48] = np.array([3, 30_000, 30_000, 30_000], "<i2").tobytes()
    (tmp_path / "x.nii").write_bytes(content)
    (tmp_path / "y.nii.gz").write_bytes(gzip.compress(bytes(content)))
    for name in ("x.nii", "y.nii.gz"):
        with pytest.raises(InputError, match="values at most"):
            slices(tmp_path / name)


@pytest.mark.parametrize(
    ("limits", "message"), [(Limits(pixels=5), "5 pixels"), (Limits(frames=1), "1 volumes")]
)
def test_slices_beyond_the_limits_are_refused(tmp_path: Path, limits: Limits, message: str) -> None:
    path = save(tmp_path / "x.nii", np.stack([VOLUME, VOLUME], axis=-1))
    with pytest.raises(InputError, match=message):
        list(nifti_slices(path, "x.nii", Scans(), limits))
