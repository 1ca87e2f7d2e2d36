"""A table with images goes the way of every table, from Parquet to a release."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from pipelines.audit import examine
from pipelines.drawing import released_batches
from pipelines.examples import write_example
from pipelines.export import export
from pipelines.ingest import IMAGE_BYTES_AT_ONCE, IMAGES_AT_ONCE, image_batches
from pipelines.init import initialize
from pipelines.judging import evidence_of, write_report
from pipelines.plan import estimate
from pipelines.publish import SUMS
from pipelines.recipe import load
from pipelines.releasing import published_evidence
from pipelines.run import Run, open_run
from pipelines.steps import Outcome, inputs_of, memory_of, release
from pipelines.verify import verify
from pipelines.watermark import search
from pipelines.workspace import sha256
from privacy.errors import InputError, RecipeError, ReleaseError, UsageError
from synth.images import NOTE, pixels
from synth.schema import IMAGE, Picture, Schema
from tests.contracts.test_contract import people
from tests.contracts.test_images import QUICK as QUICK_NETWORK
from tests.synth.pictures import SIDE, seen, with_pictures
from tests.validation.test_inception import random

QUICK = {"options": {"code": 5, "components": 9}, "threads": 1, "dataset": "pictures"}
SECRET = "ann-example-1981.png"
MARK = "correct horse battery staple"


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
    with pytest.raises(InputError, match=r"an image must be readable.* row \d+: an image must be a whole"):
        release(open_run(load(tmp_path / "recipe.yaml").with_fields(QUICK), tmp_path))


def test_what_cannot_be_done_with_images_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    initialize(pictures(tmp_path), tmp_path, blind=False, force=True)
    recipe = load(tmp_path / "recipe.yaml")
    assert estimate(open_run(recipe, tmp_path)).synthesizer == "image-mixture"
    for changed, said in (
        ({"synthesizer": "circuit"}, "needs a synthesizer of images"),
        ({"privacy": {"epsilon": 1.0, "delta": 1e-6}}, "under privacy the size of images must be public"),
    ):
        with pytest.raises(UsageError, match=said):
            release(open_run(recipe.with_fields(changed), tmp_path))


def test_a_report_shows_how_a_network_learned_and_what_lies_between_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validation.recognizer.STEPS", 20)
    initialize(pictures(tmp_path, rows=300), tmp_path, blind=False, force=True)
    fields = {**QUICK, "synthesizer": "image-vae", "options": {**QUICK_NETWORK, "max_steps": 60}, "rows": 100}
    run = open_run(load(tmp_path / "recipe.yaml").with_fields(fields), tmp_path)
    found = release(run)
    learned = evidence_of(run).learning
    assert learned is not None
    assert learned.curve is not None
    assert learned.curve.kept in learned.curve.steps
    page, inside = ((f / "report.html").read_text("utf-8") for f in (found.release, write_report(run).parent))
    for shown in (page, inside):
        assert 'id="learning"' in shown
        assert "Images between pairs of synthetic images" in shown
        assert len(shown) < 3_000_000
    exact = learned.curve.scores[0]
    outside = published_evidence(run).learning
    assert outside is not None
    assert outside.curve is not None
    assert outside.curve.scores[0] == pytest.approx(exact, rel=0.01)
    assert outside.curve.scores[0] != exact


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(random(1008), path)
    yield path
    path.unlink()


def test_weights_of_inception_are_checked_before_anything_is_read(weights: Path, tmp_path: Path) -> None:
    initialize(pictures(tmp_path), tmp_path, blind=False, force=True)
    torch.save({"fc.weight": torch.zeros(7, 2048)}, tmp_path / "others.pth")
    recipe = load(tmp_path / "recipe.yaml").with_fields(QUICK)
    for field, error, said in (
        ({"inception": "others.pth"}, InputError, "fc.weight has shape"),
        ({"inception": str(weights)}, RecipeError, "must lie in the recipe's folder"),
        ({"inception": "gone.pth"}, RecipeError, "there is no"),
    ):
        with pytest.raises(error, match=said):
            release(open_run(recipe.with_fields(field), tmp_path))
    (tmp_path / "table").mkdir()
    people(200, seed=0).to_pandas().to_csv(tmp_path / "table" / "t.csv", index=False)
    initialize(tmp_path / "table" / "t.csv", tmp_path / "table", blind=False, force=True)
    plain = load(tmp_path / "table" / "recipe.yaml").with_fields({"inception": str(weights)})
    with pytest.raises(RecipeError, match="needs a column of images"):
        release(open_run(plain, tmp_path / "table", roots=[weights.parent]))
    promise = {"epsilon": 20.0, "delta": 1e-4}
    (tmp_path / "private").mkdir()
    run = private_run(tmp_path / "private", privacy=promise, inception=str(weights))
    with pytest.raises(RecipeError, match="inception is for exact evidence"):
        release(open_run(run.recipe, run.folder, roots=[weights.parent]))


def test_a_release_says_which_weights_measured_it_and_not_where_they_lie(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validation.inception.SIDE", 75)  # the smallest images that the network takes
    monkeypatch.setattr("validation.recognizer.STEPS", 20)
    initialize(pictures(tmp_path, rows=260), tmp_path, blind=False, force=True)
    fields = {**QUICK, "rows": 100, "inception": str(weights), "inception_images": 100}
    run = open_run(load(tmp_path / "recipe.yaml").with_fields(fields), tmp_path, roots=[weights.parent])
    assert memory_of(run) > memory_of(replace(run, recipe=run.recipe.with_fields({"inception": None})))
    found = release(run)
    digest = sha256(weights)
    by = json.loads((found.release / "figures.json").read_text("utf-8"))["images"]["inception"]
    assert (by["digest"], by["most"]) == (digest, 100)
    assert digest in (found.release / "report.html").read_text("utf-8")
    assert digest[:12] in (found.release / "README.md").read_text("utf-8")
    files = [p for p in found.release.rglob("*") if p.is_file()]
    assert [p for p in files if weights.name.encode() in p.read_bytes()] == []
    before = inputs_of(run, "validate")
    torch.save({}, weights)
    after = inputs_of(run, "validate")
    assert {name for name, value in after.items() if value != before[name]} == {"inception"}


def private_run(folder: Path, **fields: object) -> Run:
    """scikit-learn's digits, with a class, under a promise, with all facts declared, of patients of two images each."""
    source = pq.read_table(write_example("digits", folder, force=False))
    patients = pa.array([f"p{i // 2}" for i in range(len(source))])
    pq.write_table(source.append_column("patient", patients), folder / "digits.parquet")
    initialize(folder / "digits.parquet", folder, blind=False, force=True)
    schema = yaml.safe_load((folder / "schema.yaml").read_text("utf-8"))
    columns = [{**c, "facts": "declared: the page"} for c in schema["columns"][:2]]
    columns.append({"name": "patient", "kind": "identifier", "type": "string", "nullable": False})
    known = {"columns": columns, "units_about": 900}
    (folder / "schema.yaml").write_text(yaml.safe_dump(known), "utf-8")
    promise = {
        "epsilon": 20.0,
        "delta": 1e-4,
        "unit": "patient",
        "max_rows_per_unit": 2,
        "exact_report": True,
    }
    changes = {"dataset": "digits", "privacy": promise, "threads": 1, **fields}
    return open_run(load(folder / "recipe.yaml").with_fields(changes), folder)


@pytest.fixture(scope="module")
def private_release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_TEST_MARK", MARK)
        key = {"key": "${env:UNDERSTUDY_TEST_MARK}"}
        run = private_run(tmp_path_factory.mktemp("private"), watermark=key)
        return run, release(run)


def test_images_are_released_under_a_promise_that_is_kept(private_release: tuple[Run, Outcome]) -> None:
    _, found = private_release
    verify(found.release)
    about = json.loads((found.release / "certificate.json").read_text("utf-8"))
    guarantee = about["formal_guarantee"]
    assert about["synthesizer"] == "image-mixture"
    assert 19.8 < guarantee["spent_epsilon"] <= 20.0
    assert guarantee["unit"] == "all rows of one patient, at most 2 of them kept"
    said = [m["question"] for m in guarantee["mechanisms"] if m["for"] == "model"]
    assert [q.split()[0] for q in said[:4]] == ["sum", "1", "sum", "1"]
    assert guarantee["public_by_declaration"] == {"image": "the page", "label": "the page"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("image-diffusion", {"multiplicity": 2}),
        ("image-vae", {"code": 8}),
        ("image-gan", {"critic_steps": 2}),
    ],
)
def test_networks_of_images_learn_within_the_same_promise(
    name: str, more: dict[str, object], tmp_path: Path
) -> None:
    # Two steps of a network are no good model: what it spent is looked at, not what it draws.
    quick = {"epochs": 1, "channels": 8, "batch_rows": 300, **more}
    gate = {"warn_only": ["shape", "association"]}
    run = private_run(tmp_path, synthesizer=name, options=quick, gate=gate)
    found = release(run)
    about = json.loads((found.release / "certificate.json").read_text("utf-8"))
    guarantee = about["formal_guarantee"]
    assert about["synthesizer"] == name
    assert 19.5 < guarantee["spent_epsilon"] <= 20.0
    said = " ".join(m["question"] for m in guarantee["mechanisms"] if m["for"] == "model")
    assert "sum" in said
    assert "gradients, part 10 of 10" in said
    assert pq.read_table(found.release / "data").num_rows == found.rows


def test_private_images_go_with_their_labels(private_release: tuple[Run, Outcome]) -> None:
    run, found = private_release
    table = pq.read_table(found.release / "data")
    drawn = pixels(table["image"].combine_chunks(), Picture(width=8, height=8, mode="L")).reshape(-1, 64)
    real = pq.read_table(run.folder / "digits.parquet")
    shown = pixels(real["image"].combine_chunks(), Picture(width=8, height=8, mode="L")).reshape(-1, 64)
    # A real image is nearest to the mean of synthetic ones of its label.
    labels = table["label"].to_numpy()
    means = np.stack([drawn[labels == c].mean(0) for c in range(10)])
    guesses = ((shown[:, None].astype(float) - means) ** 2).sum(2).argmin(1)
    assert (guesses == real["label"].to_numpy()).mean() > 0.8


def test_private_images_carry_the_mark_of_a_key_of_which_only_its_number_is_written(
    private_release: tuple[Run, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, found = private_release
    monkeypatch.setenv("UNDERSTUDY_TEST_MARK", MARK)
    seen = search(found.release, "env:UNDERSTUDY_TEST_MARK")
    assert seen.sighting.found
    said = json.loads((found.release / "certificate.json").read_text("utf-8"))["watermark"]
    assert (said["key"], said["levels"]) == (seen.key, 1.0)
    assert f"Its number is {seen.key}" in (found.release / "README.md").read_text("utf-8")
    assert "Watermark of images" in (found.release / "report.html").read_text("utf-8")
    files = [p for p in run.folder.rglob("*") if p.is_file()]
    assert len(files) > 20
    assert not [p for p in files if MARK.encode() in p.read_bytes()]


def test_classes_that_are_columns_tied_together_by_a_constraint_are_counted_and_released(
    tmp_path: Path,
) -> None:
    private_run(tmp_path)
    digits, schema = tmp_path / "digits.parquet", tmp_path / "schema.yaml"
    source = pq.read_table(digits)
    halves = pa.array(["low" if d < 5 else "high" for d in source.column("label").to_pylist()])
    pq.write_table(source.append_column("half", halves), digits)
    known = yaml.safe_load(schema.read_text("utf-8"))
    half = {"name": "half", "kind": "categorical", "type": "string", "categories": ["low", "high"]}
    known["columns"].append({**half, "nullable": False, "facts": "declared: the page"})
    pairs = [[d, "low" if d < 5 else "high"] for d in range(10)]
    tied = {"rule": "combinations", "columns": ["label", "half"], "values": pairs}
    known["constraints"] = [{**tied, "facts": "declared: the page"}]
    schema.write_text(yaml.safe_dump(known), "utf-8")
    fields = {"dataset": "digits", "threads": 1, "options": {"code": 5}, "gate": {"warn_only": ["shape"]}}
    promise = {"epsilon": 20.0, "delta": 1e-4, "unit": "patient", "max_rows_per_unit": 2}
    run = open_run(load(tmp_path / "recipe.yaml").with_fields({**fields, "privacy": promise}), tmp_path)
    found = release(run)
    counted = evidence_of(run).noised_images
    assert counted is not None
    assert counted.label == "label, half"
    assert "Right about each class" in (found.release / "report.html").read_text("utf-8")


def test_a_plan_tells_the_noise_that_figures_of_images_have(
    private_release: tuple[Run, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = private_release
    monkeypatch.setenv("UNDERSTUDY_TEST_MARK", MARK)
    counted = evidence_of(run).noised_images
    assert counted is not None
    assert f"each count ± {counted.noise_std:.0f} rows" in str(estimate(run).privacy)


def test_of_private_images_nothing_exact_leaves(private_release: tuple[Run, Outcome]) -> None:
    run, found = private_release
    evidence = json.loads((run.workspace.path / "evidence.json").read_text("utf-8"))
    assert evidence["images"] is None
    kept = json.loads((run.workspace.path / "exact-evidence.json").read_text("utf-8"))
    assert kept["images"] is not None
    figures = json.loads((found.release / "figures.json").read_text("utf-8"))
    assert figures["images"] is None
    # What is said of them was counted with noise, in the one question that the report's share pays.
    counted = evidence["noised_images"]
    promise = json.loads((found.release / "certificate.json").read_text("utf-8"))["formal_guarantee"]
    asked = [m for m in promise["mechanisms"] if m["for"] == "report"]
    assert len(asked) == 1
    assert counted["noise_std"] == pytest.approx(asked[0]["noise_std"], rel=1e-3)
    assert figures["noised_images"]["accuracy"] == pytest.approx(counted["right"]["value"])
    assert counted["right"]["value"] > 0.7
    page, card = ((found.release / n).read_text("utf-8") for n in ("report.html", "README.md"))
    for text in (page, card):
        assert "Far from what is drawn" in text
    # The images of the page are a sheet of released ones, and strips between such.
    assert page.count("<img") == 2
    size = Picture(width=8, height=8, mode="L")
    sources = (run.folder / "digits.parquet", found.release / "data")
    real, drawn = (pixels(pq.read_table(p)["image"].combine_chunks(), size).reshape(-1, 64) for p in sources)
    assert not {v.tobytes() for v in real} & {v.tobytes() for v in drawn}


def test_an_audit_of_private_images_does_not_contradict_them(private_release: tuple[Run, Outcome]) -> None:
    run, _ = private_release
    found = examine(run, rows=200, canaries=100)
    assert found.found.epsilon <= found.epsilon
    assert found.found.canaries == 100


def test_the_plan_of_private_images_follows_from_what_is_public(tmp_path: Path) -> None:
    run = private_run(tmp_path)
    told = estimate(run)
    assert told.synthesizer == "image-mixture"
    assert told.privacy is not None
    assert "epsilon 20" in told.privacy
    asking = run.recipe.with_fields({"options": {"components": 9}})
    with pytest.raises(RecipeError, match="components: 9; leave components out"):
        release(open_run(asking, tmp_path))


def test_the_example_is_real_and_says_nothing_else(tmp_path: Path) -> None:
    table = pq.read_table(write_example("digits", tmp_path, force=False))
    assert table.num_rows == 1797
    shown = pixels(table.column("image").combine_chunks(), Picture(width=8, height=8, mode="L"))
    assert (shown.min(), shown.max()) == (0, 255)
    assert sorted(np.unique(table.column("label").to_numpy()).tolist()) == list(range(10))
    assert Image.open(io.BytesIO(table.column("image")[0].as_py()["bytes"])).info == {}


# -------------------------------------------------------------------------------------------------------- memory


def stored(path: Path, content: list[bytes], **options: Any) -> Path:
    pq.write_table(
        pa.table({"n": range(len(content)), "bytes": pa.array(content, pa.binary())}), path, **options
    )
    return path


@pytest.mark.parametrize(
    ("size", "rows", "options"),
    [
        (2 << 20, 40, {"use_dictionary": False}),
        (1 << 20, 100, {}),  # all are equal, and lie in the file once
        (300, 3_000, {}),
    ],
)
def test_batches_of_images_are_bounded_by_bytes_and_by_rows(
    tmp_path: Path, size: int, rows: int, options: dict[str, Any]
) -> None:
    with pq.ParquetFile(stored(tmp_path / "x.parquet", [bytes(size)] * rows, **options)) as file:
        found = list(image_batches(file))
    assert max(b.nbytes for b in found) <= IMAGE_BYTES_AT_ONCE + 17 * size
    assert max(len(b) for b in found) <= IMAGES_AT_ONCE
    assert np.concatenate([b.column("n") for b in found]).tolist() == list(range(rows))
    # Small ones are not read a few at a time.
    assert len(found) <= 2 + rows * size // IMAGE_BYTES_AT_ONCE * 2 + rows // (IMAGES_AT_ONCE - 16)


def test_columns_and_rows_of_a_batch_are_those_that_were_asked_for(tmp_path: Path) -> None:
    with pq.ParquetFile(stored(tmp_path / "x.parquet", [b"x"] * 50)) as file:
        found = list(image_batches(file, ["n"], rows=7))
    assert {len(b) for b in found[:-1]} == {7}
    assert found[0].schema.names == ["n"]


def test_the_estimate_of_memory_knows_how_large_images_are(tmp_path: Path) -> None:
    initialize(pictures(tmp_path), tmp_path, blind=False, force=True)
    small = memory_of(open_run(load(tmp_path / "recipe.yaml"), tmp_path), 100)
    text = (tmp_path / "schema.yaml").read_text("utf-8")
    (tmp_path / "schema.yaml").write_text(
        text.replace(f"width: {SIDE}", "width: 512").replace(f"height: {SIDE}", "height: 512")
    )
    large = memory_of(open_run(load(tmp_path / "recipe.yaml"), tmp_path), 100)
    assert large - small >= 5 * 100 * (512**2 - SIDE**2)
