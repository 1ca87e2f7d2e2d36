import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.ingest import batches, infer_types, sniff
from pipelines.plan import rows_of
from privacy.errors import InputError, RowError

RNG = np.random.default_rng(0)


def digits(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *(shape or (5, 4)))).astype(np.uint8)


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape) + values.tobytes()


def read(path: Path) -> pa.Table:
    source = sniff(path)
    table = pa.Table.from_batches(batches(source, infer_types(source)))
    assert rows_of(source) == len(table)
    return table


def images(table: pa.Table) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(v["bytes"]))) for v in table["image"].to_pylist()])


# ---------------------------------------------------------------------------------------------------------- IDX


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files_are_images_with_labels_and_a_split(tmp_path: Path, packed: bool) -> None:
    train, test, labels = digits(30), digits(7), np.arange(37, dtype=np.uint8) % 10
    files = {
        "train-images-idx3-ubyte": idx(train), "train-labels-idx1-ubyte": idx(labels[:30]),
        "t10k-images-idx3-ubyte": idx(test), "t10k-labels-idx1-ubyte": idx(labels[30:]),
    }  # fmt: skip
    for name, content in files.items():
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    table = read(tmp_path)
    assert table.schema.names == ["image", "label", "split"]
    assert (images(table) == np.concatenate([test, train])).all()
    assert table["label"].to_pylist() == [*labels[30:], *labels[:30]]
    assert table["split"].to_pylist() == ["test"] * 7 + ["train"] * 30
    assert table["image"][0]["path"].as_py().startswith("t10k-images-idx3-ubyte")


def test_one_idx_file_has_images_alone(tmp_path: Path) -> None:
    path = tmp_path / "train-images.idx3-ubyte"
    path.write_bytes(idx(digits(3)))
    assert read(path).schema.names == ["image"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(digits(3))[:-1], "truncated"),
        (idx(digits(3), kind=0x0D), "unsigned bytes"),
        (b"\0\0", "unsigned bytes"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 60_000, 60_000), "pixels at most"),
        (gzip.compress(idx(digits(300)))[:-400], "damaged"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    (tmp_path / "x-images-idx3-ubyte").write_bytes(idx(digits(3)))
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(RowError, match=r"as many.* 3 and 4") as caught:
        read(tmp_path)
    assert "3 and 4" not in str(caught.value.public())


# ---------------------------------------------------------------------------------------------------------- npz


def test_medmnist_arrays_are_images_with_labels_and_a_split(tmp_path: Path) -> None:
    parts = {"train": 6, "val": 3, "test": 2}
    arrays = {f"{p}_images": digits(n, 4, 4, 3) for p, n in parts.items()}
    labels = {f"{p}_labels": np.arange(n)[:, None] for p, n in parts.items()}
    np.savez_compressed(tmp_path / "x.npz", **labels, **arrays)
    table = read(tmp_path / "x.npz")
    assert (images(table) == np.concatenate(list(arrays.values()))).all()
    assert table["label"].to_pylist() == [*range(6), *range(3), *range(2)]
    assert table["split"].to_pylist() == ["train"] * 6 + ["validation"] * 3 + ["test"] * 2


@pytest.mark.parametrize(
    "names", [("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels")]
)
def test_other_names_of_arrays_are_known(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "x.npz", **{names[0]: digits(3), names[1]: np.array(["a", "b", "a"])})
    assert read(tmp_path / "x.npz")["label"].to_pylist() == ["a", "b", "a"]


def test_several_labels_of_an_image_are_several_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=digits(3), train_labels=np.eye(3, dtype=np.uint8))
    table = read(tmp_path)
    assert table.schema.names == ["image", "label_1", "label_2", "label_3", "split"]
    assert table["label_2"].to_pylist() == [0, 1, 0]


def test_truth_values_are_black_and_white(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=digits(3) > 128)
    assert set(np.unique(images(read(tmp_path / "x.npz")))) == {0, 255}


class Trap:
    def __reduce__(self) -> tuple:
        return (Path.write_text, (Path("trap"), "sprung"))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", train_images=np.array([Trap(), Trap()], object), train_labels=np.zeros(2))
    with pytest.raises(InputError, match="Python objects"):
        read(tmp_path / "x.npz")
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": digits(2, 4, 4, 4, 4)}, "must be an array of"),
        ({"train_images": digits(2, 4, 4, 7)}, "must be an array of"),
        ({"train_images": digits(2).astype(np.float32)}, "convert them to uint8"),
        ({"train_images": np.asfortranarray(digits(2))}, "Fortran"),
        ({"train_images": digits(2), "train_labels": np.zeros(3)}, "as many"),
        ({"train_images": digits(2), "train_labels": np.zeros((2, 2, 2))}, "labels must be"),
        ({"train_images": digits(2), "train_labels": np.zeros(2), "test_images": digits(2)}, "differ"),
        ({"features": digits(2)}, "rename them"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.npz")


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, digits(2))
    content = stream.getvalue().replace(b"(2, 5, 4)", b"(9, 5, 4)")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("train_images.npy", content)
    with pytest.raises(InputError, match="truncated"):
        infer_types(sniff(tmp_path / "x.npz"))


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(InputError, match="damaged"):
        sniff(tmp_path / "x.npz")
