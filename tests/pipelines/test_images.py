"""A table with images goes the way of every table, from Parquet to a release."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.examples import write_example
from pipelines.export import export
from pipelines.init import initialize
from pipelines.plan import estimate
from pipelines.publish import SUMS
from pipelines.recipe import load
from pipelines.steps import Outcome, open_run, release, released_batches
from pipelines.verify import verify
from pipelines.workspace import sha256
from privacy.errors import InputError, RecipeError, ReleaseError, UsageError
from synth.images import NOTE, pixels
from synth.schema import IMAGE, Picture, Schema
from tests.contracts.test_contract import people
from tests.synth.pictures import SIDE, seen, with_pictures

QUICK = {"options": {"code": 5, "components": 9}, "threads": 1, "dataset": "pictures"}
SECRET = "ann-example-1981.png"


def pictures(folder: Path, *, rows: int = 500) -> Path:
    """Writes a Parquet file whose images have names that nobody may see, and are bytes in another column's place."""
    table = with_pictures(people(rows, seed=1), seed=1)
    named = [None if v is None else {**v, "path": SECRET} for v in table.column("photo").to_pylist()]
    pq.write_table(table.set_column(3, "photo", pa.array(named, IMAGE)), folder / "pictures.parquet")
    return folder / "pictures.parquet"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("images")
    initialize(pictures(folder), folder, blind=False, force=True)
    recipe = load(folder / "recipe.yaml").with_fields({**QUICK, "shard_rows": 300})
    return release(open_run(recipe, folder))


def test_init_writes_what_images_are(tmp_path: Path) -> None:
    initialize(pictures(tmp_path), tmp_path, blind=False, force=True)
    schema = Schema.parse((tmp_path / "schema.yaml").read_text("utf-8"), source="schema.yaml")
    assert [c.kind for c in schema] == ["categorical", "categorical", "numerical", "image"]
    assert schema["photo"].image == Picture(width=SIDE, height=SIDE, mode="L")
    plain = pq.read_table(tmp_path / "pictures.parquet")
    as_bytes = plain.set_column(3, "photo", plain.column("photo").combine_chunks().field("bytes"))
    pq.write_table(as_bytes, tmp_path / "pictures.parquet")
    initialize(tmp_path / "pictures.parquet", tmp_path, blind=False, force=True)
    again = Schema.parse((tmp_path / "schema.yaml").read_text("utf-8"), source="schema.yaml")
    assert again["photo"] == schema["photo"]


def test_bytes_that_are_no_images_stay_texts(tmp_path: Path) -> None:
    sound = pa.array([{"bytes": b"RIFF", "path": "a.wav"}] * 50, IMAGE)
    pq.write_table(pa.table({"sound": sound, "raw": [b"x"] * 50, "n": range(50)}), tmp_path / "a.parquet")
    initialize(tmp_path / "a.parquet", tmp_path, blind=False, force=True)
    schema = Schema.parse((tmp_path / "schema.yaml").read_text("utf-8"), source="schema.yaml")
    assert not schema.images
    assert {c.type for c in schema.columns[:2]} == {"string"}


def test_a_release_holds_images_that_say_that_they_are_synthetic(done: Outcome) -> None:
    frame = pd.read_parquet(done.release / "data")
    assert len(frame) == 500
    assert frame["photo"].map(lambda v: v["path"]).is_unique
    image = Image.open(io.BytesIO(frame["photo"][0]["bytes"]))
    assert (image.size, image.mode, image.info) == ((SIDE, SIDE), "L", {"Comment": NOTE})
    table = pq.read_table(done.release / "data")
    shown = pixels(table.column("photo").combine_chunks(), Picture(width=SIDE, height=SIDE, mode="L"))
    team = frame["team"].map({"a": 0, "b": 1, "c": 2}).to_numpy()
    assert (seen(shown) == team).mean() > 0.97
    metadata = pq.read_schema(done.release / "data" / "part-00000.parquet").metadata
    assert json.loads(metadata[b"huggingface"]) == {"info": {"features": {"photo": {"_type": "Image"}}}}
    assert metadata[b"synthetic"] == b"true"
    # Otherwise `datasets` would not take the column for images.
    assert pq.read_schema(done.release / "data" / "part-00000.parquet").field("photo").nullable


def test_nothing_of_a_source_but_its_pixels_leaves(done: Outcome) -> None:
    folders = (done.release, done.run)
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 10
    assert [p for p in files if SECRET.encode() in p.read_bytes()] == []
    real = {v["bytes"] for v in pq.read_table(done.run / "rows.parquet").column("photo").to_pylist()}
    drawn = {v["bytes"] for v in pq.read_table(done.release / "data").column("photo").to_pylist()}
    assert not real & drawn


def test_the_papers_of_a_release_say_what_is_known_of_images(done: Outcome) -> None:
    card = (done.release / "README.md").read_text("utf-8")
    assert "Of images these figures, and those on attacks, compare only whether they are there" in card
    assert f"PNG, {SIDE} × {SIDE}, each marked as synthetic" in card
    assert "- image\n" in card
    assert "Accuracy of a classifier that learned from them" in card
    page = (done.release / "report.html").read_text("utf-8")
    assert "Synthetic images, a row for each class" in page
    assert "img-src data:" in page
    croissant = json.loads((done.release / "croissant.json").read_text("utf-8"))
    (field,) = [f for f in croissant["recordSet"][0]["field"] if f["name"] == "photo"]
    assert field["dataType"] == "sc:ImageObject"
    schema = Schema.parse((done.release / "schema.json").read_text("utf-8"), source="schema.json")
    assert schema["photo"].image == Picture(width=SIDE, height=SIDE, mode="L")


def test_a_release_is_verified_and_exported(done: Outcome, tmp_path: Path) -> None:
    assert verify(done.release).rows == 500
    export(done.release, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({r["photo"] for r in rows}) == 500
    first = pq.read_table(done.release / "data").column("photo")[0].as_py()["bytes"]
    assert (tmp_path / rows[0]["photo"]).read_bytes() == first
    with pytest.raises(UsageError, match="overwrites nothing"):
        export(done.release, tmp_path / "rows.csv.gz")
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(UsageError, match=r"overwrites nothing, however: .*column_4 is there"):
        export(done.release, tmp_path / "rows.csv")


def test_images_that_are_none_any_more_are_noticed(done: Outcome, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.release, tmp_path / "copy"))
    shard = copy / "data" / "part-00000.parquet"
    table = pq.read_table(shard)
    pq.write_table(table.set_column(3, "photo", pa.array(["x"] * len(table))), shard)
    lines = (copy / SUMS).read_text("utf-8").splitlines()
    changed = [f"{sha256(shard)}  data/{shard.name}" if shard.name in line else line for line in lines]
    (copy / SUMS).write_text("\n".join(changed) + "\n", "utf-8")
    with pytest.raises(ReleaseError, match="has no images in 'photo'"):
        verify(copy)


def test_two_workers_write_what_one_writes(done: Outcome, tmp_path: Path) -> None:
    initialize(pictures(tmp_path), tmp_path, blind=False, force=True)
    recipe = load(tmp_path / "recipe.yaml").with_fields({**QUICK, "shard_rows": 300, "workers": 2})
    run = open_run(recipe, tmp_path)
    release(run)
    again = pa.Table.from_batches(list(released_batches(run)))
    assert again.equals(pq.read_table(done.release / "data").replace_schema_metadata(again.schema.metadata))


def test_an_image_that_is_broken_stops_the_run(tmp_path: Path) -> None:
    table = pq.read_table(pictures(tmp_path))
    values = table.column("photo").to_pylist()
    values[77]["bytes"] = values[77]["bytes"][:60]
    pq.write_table(table.set_column(3, "photo", pa.array(values, IMAGE)), tmp_path / "pictures.parquet")
    initialize(tmp_path / "pictures.parquet", tmp_path, blind=False, force=True)
    with pytest.raises(InputError, match=r"an image must be readable.* row \d+: an image must be whole"):
        release(open_run(load(tmp_path / "recipe.yaml").with_fields(QUICK), tmp_path))


def test_what_cannot_be_done_with_images_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    initialize(pictures(tmp_path), tmp_path, blind=False, force=True)
    recipe = load(tmp_path / "recipe.yaml")
    assert estimate(open_run(recipe, tmp_path)).synthesizer == "image-mixture"
    for changed, said in (
        ({"synthesizer": "circuit"}, "needs a synthesizer of images"),
        ({"privacy": {"epsilon": 1.0, "delta": 1e-6}}, "images cannot be learned under privacy yet"),
    ):
        with pytest.raises(RecipeError, match=said):
            release(open_run(recipe.with_fields(changed), tmp_path))


def test_the_example_is_real_and_says_nothing_else(tmp_path: Path) -> None:
    table = pq.read_table(write_example("digits", tmp_path, force=False))
    assert table.num_rows == 1797
    shown = pixels(table.column("image").combine_chunks(), Picture(width=8, height=8, mode="L"))
    assert (shown.min(), shown.max()) == (0, 255)
    assert sorted(np.unique(table.column("label").to_numpy()).tolist()) == list(range(10))
    assert Image.open(io.BytesIO(table.column("image")[0].as_py()["bytes"])).info == {}
