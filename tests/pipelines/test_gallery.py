import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import gallery
from pipelines.aside import Aside
from pipelines.ingest import batches, digest, infer_types, sniff
from pipelines.ingesting import ingest
from pipelines.init import initialize
from pipelines.plan import rows_of
from pipelines.recipe import load
from pipelines.run import open_run
from privacy.errors import InputError, RowError
from synth.schema import IMAGE, Schema

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}


def shade(value: int, suffix: str = ".png") -> bytes:
    stream = io.BytesIO()
    Image.new("L", (6, 4), value).save(stream, FORMATS[suffix])
    return stream.getvalue()


def lay(folder: Path, files: Mapping[str, int | str | bytes]) -> Path:
    """Files by name: a number is the shade of an image."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = shade(content, path.suffix.lower())
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(path: Path, *, most: int = 0, schema: pa.Schema | None = None) -> list[dict]:
    source = sniff(path)
    schema = schema or infer_types(source, Aside(most=most))
    rows = pa.Table.from_batches(batches(source, schema, aside=Aside(most=most))).to_pylist()
    return [{**row, "image": shade_of(row["image"]["bytes"])} for row in rows]


def shade_of(content: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(content)).convert("L"))[0, 0])


# ----------------------------------------------------------------------------------------------------- folders


def test_a_folder_names_the_class_of_its_images(tmp_path: Path) -> None:
    lay(tmp_path, {"cat/a.png": 1, "cat/b.JPG": 2, "dog/deep/c.tiff": 3, "dog/d.jpeg": 4, "notes.txt": "x"})
    assert read(tmp_path) == [
        {"image": 1, "label": "cat"},
        {"image": 2, "label": "cat"},
        {"image": 4, "label": "dog"},
        {"image": 3, "label": "dog"},
    ]


def test_classes_that_are_numbers_are_numbers(tmp_path: Path) -> None:
    lay(tmp_path, {"0/a.png": 1, "7/b.png": 2})
    assert [r["label"] for r in read(tmp_path)] == [0, 7]


@pytest.mark.parametrize("names", [("train", "test", "validation"), ("Training", "t10k", "dev")])
def test_folders_for_training_and_test_become_a_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    lay(tmp_path, {f"{n}/{c}/x.png": 10 * i for i, n in enumerate(names) for c in "ab"})
    found = {(r["image"], r["label"], r["split"]) for r in read(tmp_path)}
    assert found == {(10 * i, c, s) for i, s in enumerate(("train", "test", "validation")) for c in "ab"}


def test_a_class_that_is_called_test_is_a_class(tmp_path: Path) -> None:
    lay(tmp_path, {"test/a.png": 1, "control/b.png": 2})
    assert {r["label"] for r in read(tmp_path)} == {"test", "control"}
    assert "split" not in sniff(tmp_path).columns


@pytest.mark.parametrize("files", [{"a.png": 1, "b.png": 2}, {"all/a.png": 1, "all/b.png": 2}])
def test_images_of_one_folder_have_no_class(tmp_path: Path, files: dict[str, int]) -> None:
    assert read(lay(tmp_path, files)) == [{"image": 1}, {"image": 2}]


@pytest.mark.parametrize(
    "said",
    [
        {"metadata.csv": 'file_name,age,note\na/x.png,30,\nb/y.png,NA,"a, b"\n'},
        {
            "metadata.jsonl": '{"file_name": "a/x.png", "age": 30, "note": null}\n\n'
            '{"file_name": "b/y.png", "note": "a, b", "age": null}\n'
        },
        {
            "a/metadata.csv": "file_name,age,note\nx.png,30,\n",
            "b/metadata.jsonl": '{"file_name": "y.png", "note": "a, b"}\n',
        },
    ],
    ids=["csv", "jsonl", "each folder its own"],
)
def test_metadata_says_what_is_known_of_an_image(tmp_path: Path, said: dict[str, str]) -> None:
    lay(tmp_path, {"a/x.png": 1, "b/y.png": 2, **said})
    assert read(tmp_path) == [
        {"image": 1, "age": 30, "note": None},
        {"image": 2, "age": None, "note": "a, b"},
    ]


@pytest.mark.parametrize("name", ["gone.png", "../outside.png", "/etc/passwd"])
def test_metadata_reaches_no_file_but_the_images_beside_it(tmp_path: Path, name: str) -> None:
    lay(tmp_path, {"outside.png": 9, "d/x.png": 1, "d/metadata.csv": f"file_name,n\nx.png,1\n{name},2\n"})
    assert read(tmp_path / "d", most=1) == [{"image": 1, "n": 1}]
    with pytest.raises(RowError, match="not there"):
        read(tmp_path / "d")


def test_an_image_without_metadata_is_set_aside_by_name(tmp_path: Path) -> None:
    lay(tmp_path, {"x.png": 1, "y.png": 2, "metadata.csv": "file_name,n\nx.png,1\n"})
    aside = Aside(most=1)
    infer_types(sniff(tmp_path), aside)
    assert aside.lines == "y.png (no line of metadata is about it)"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("name,n\nx.png,1\n", "must have a file_name"),
        ("file_name,n\nx.png\n", "is not; mend it"),
        ("file_name,n\nx.png,1\nx.png,2\n", "names one twice"),
        ("file_name,image\nx.png,1\n", "'image' stands twice"),
    ],
)
def test_metadata_that_is_no_table_is_refused(tmp_path: Path, said: str, message: str) -> None:
    lay(tmp_path, {"x.png": 1, "metadata.csv": said})
    with pytest.raises(InputError, match=message):
        sniff(tmp_path)


def test_images_beside_another_table_are_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"x.png": 1, "labels.csv": "a,b\n1,2\n"})
    with pytest.raises(InputError, match=r"call a table that says something of images metadata\.csv"):
        sniff(tmp_path)


def test_a_table_called_metadata_is_a_table_where_no_image_is(tmp_path: Path) -> None:
    lay(tmp_path, {"metadata.csv": "a,b\n1,2\n"})
    assert sniff(tmp_path).columns == ("a", "b")


def test_a_link_out_of_a_folder_of_images_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"out/x.png": 1, "in/y.png": 2})
    os.symlink(tmp_path / "out" / "x.png", tmp_path / "in" / "z.png")
    with pytest.raises(InputError, match="link to elsewhere"):
        sniff(tmp_path / "in")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    lay(tmp_path, {"y.png": 2})
    os.mkfifo(tmp_path / "IM0001")
    assert read(tmp_path) == [{"image": 2}]
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png is no file, but a pipe"):
        sniff(tmp_path)


def test_what_is_no_image_may_be_a_link(tmp_path: Path) -> None:
    lay(tmp_path, {"out/x.txt": "x", "in/y.png": 2})
    os.symlink(tmp_path / "out" / "x.txt", tmp_path / "in" / "README")
    assert read(tmp_path / "in") == [{"image": 2}]


# ------------------------------------------------------------------------------------------------ broken images


def with_broken(folder: Path) -> Path:
    return lay(folder, {"a/1.png": 1, "a/2.png": shade(2)[:-26], "b/3.jpg": "no image", "b/4.png": 4})


def test_broken_images_are_set_aside_with_name_and_reason(tmp_path: Path) -> None:
    source, aside = sniff(with_broken(tmp_path)), Aside(most=2)
    infer_types(source, aside)
    assert [(b.file, "damaged" in b.reason, "is none" in b.reason) for b in aside.rows] == [
        ("a/2.png", True, False),
        ("b/3.jpg", False, True),
    ]
    assert [r["image"] for r in read(tmp_path, most=2)] == [1, 4]


@pytest.mark.parametrize(("most", "name"), [(0, "a/2.png"), (1, "b/3.jpg")])
def test_more_broken_images_than_allowed_stop_the_run(tmp_path: Path, most: int, name: str) -> None:
    with pytest.raises(RowError, match=f"`broken_rows: {most}`.*{name}") as caught:
        read(with_broken(tmp_path), most=most)
    assert name not in str(caught.value.public())


def test_init_counts_broken_images_and_a_release_names_them(tmp_path: Path) -> None:
    with_broken(tmp_path / "pictures")
    lay(tmp_path / "pictures", {f"{c}/{i}.png": i for c in "ab" for i in range(10, 60)})
    written = initialize(tmp_path / "pictures", tmp_path, blind=False, force=False)
    assert any("2 images cannot be read: a/2.png" in w for w in written.warnings)
    recipe = load(tmp_path / "recipe.yaml")
    assert recipe.broken_rows == 2
    run = open_run(recipe, tmp_path)
    with run.workspace.locked():
        (rows, aside), facts = ingest(run)
    assert (facts["rows"], facts["set_aside"]) == (102, 2)
    assert [json.loads(line)["file"] for line in aside.read_text().splitlines()] == ["a/2.png", "b/3.jpg"]
    assert pq.read_metadata(rows).num_rows == 102


def test_init_writes_a_schema_with_an_image_and_its_class(tmp_path: Path) -> None:
    lay(tmp_path / "in", {f"{c}/{i}.png": i for c in "ab" for i in range(30)})
    initialize(tmp_path / "in", tmp_path, blind=False, force=False)
    schema = Schema.parse((tmp_path / "schema.yaml").read_text(), source="schema.yaml")
    assert [(c.name, c.kind) for c in schema] == [("image", "image"), ("label", "categorical")]
    assert schema["label"].categories == ("a", "b")
    assert read(tmp_path / "in", schema=schema.arrow)[0] == {"image": 0, "label": "a"}


# ---------------------------------------------------------------------------------------------------- batches


def test_batches_end_where_they_hold_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, {f"{i:02d}.png": i for i in range(25)})
    schema = pa.schema([("image", IMAGE)])
    monkeypatch.setattr(gallery, "BATCH_ROWS", 10)
    assert [b.num_rows for b in batches(sniff(tmp_path), schema)] == [10, 10, 5]
    monkeypatch.setattr(gallery, "BATCH_BYTES", 3 * len(shade(0)) - 20)
    assert max(b.num_rows for b in batches(sniff(tmp_path), schema)) <= 4


def test_images_are_counted_without_being_decoded(tmp_path: Path) -> None:
    assert rows_of(sniff(lay(tmp_path, {"a/x.png": 1, "b/y.png": "no image"}))) == 2


def test_names_are_relative_to_the_source(tmp_path: Path) -> None:
    lay(tmp_path, {"a/x.png": 1, "b/y.tif": 2})
    schema = pa.schema([("image", IMAGE)])
    rows = pa.Table.from_batches(batches(sniff(tmp_path), schema, adapt=True))["image"].to_pylist()
    assert [r["path"] for r in rows] == ["a/x.png", "b/y.tif"]


def test_the_digest_of_images_changes_with_what_is_said_of_them(tmp_path: Path) -> None:
    lay(tmp_path, {"x.png": 1, "metadata.csv": "file_name,n\nx.png,1\n"})
    before = digest(sniff(tmp_path))
    lay(tmp_path, {"metadata.csv": "file_name,n\nx.png,2\n"})
    assert digest(sniff(tmp_path)) != before


# ---------------------------------------------------------------------------------------------------- Parquet


def test_images_in_parquet_are_checked_and_freed_of_headers(tmp_path: Path) -> None:
    whole = shade(1, ".jpg")
    loud = whole[:2] + b"\xff\xfe\x00\x0aDOE^JANE" + whole[2:]
    images = [
        {"bytes": b, "path": p}
        for b, p in ((loud, "jane.jpg"), (shade(2), None), (b"\x89PNG", "c"), (None, "d"))
    ]
    pq.write_table(pa.table({"picture": pa.array(images, IMAGE), "n": [1, 2, 3, 4]}), tmp_path / "t.parquet")
    source, aside = sniff(tmp_path / "t.parquet"), Aside(most=1)
    table = pa.Table.from_batches(batches(source, infer_types(source), aside=aside))
    assert table["n"].to_pylist() == [1, 2, 4]
    first, second, missing = table["picture"].to_pylist()
    assert first["bytes"] == whole
    assert (shade_of(second["bytes"]), missing) == (2, None)
    assert aside.lines.startswith("t.parquet row 3 (")
    with pytest.raises(RowError, match=r"t\.parquet row 3"):
        list(batches(source, infer_types(source)))
