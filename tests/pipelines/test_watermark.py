import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.album import export_images
from pipelines.cli import run as command
from pipelines.drawing import all_shards, shard_name
from pipelines.examples import write_example
from pipelines.init import initialize
from pipelines.publish import publish
from pipelines.recipe import Recipe, load
from pipelines.recipe import Watermark as Asked
from pipelines.run import Run, open_run
from pipelines.steps import inputs_of, perform, release
from pipelines.watermark import Marker, certified, search
from privacy.errors import RecipeError, UsageError
from synth.images import images, pixels
from synth.schema import IMAGE, Picture, Schema
from tests.synth.test_watermark import shapes
from validation.images import image_evidence

SECRET, OTHER = "correct horse battery staple", "another key of many letters"
REFERENCE = "${env:UNDERSTUDY_TEST_MARK}"
LITERALS: list[object] = [
    SECRET,
    {"key": SECRET},
    {"key": [SECRET]},
    {"key": {"a": SECRET}},
    {"key": f"{REFERENCE} {SECRET}"},
    {"kee": SECRET},
    [SECRET],
    4711471147114711,
]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_TEST_MARK", SECRET)
    monkeypatch.setenv("UNDERSTUDY_OTHER_MARK", OTHER)


def digits_run(folder: Path, **fields: object) -> Run:
    """200 of scikit-learn's digits, with their labels."""
    table = pq.read_table(write_example("digits", folder, force=False))
    pq.write_table(table[:200], folder / "digits.parquet")
    initialize(folder / "digits.parquet", folder, blind=False, force=True)
    changes = {
        "options": {"code": 5, "components": 10},
        "threads": 1,
        "watermark": {"key": REFERENCE},
        **fields,
    }
    return open_run(load(folder / "recipe.yaml").with_fields(changes), folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run whose rows are drawn, and a release of them without evidence, which takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_TEST_MARK", SECRET)
        run = digits_run(tmp_path_factory.mktemp("marked"), shard_rows=120)
        for step in ("ingest", "profile", "fit", "sample"):
            perform(run, step)
        number = run.workspace.records()["sample"].facts["watermark"]
        files = {name: run.workspace.path / name for name in map(shard_name, all_shards(run))}
        about = {"rows": 200, "watermark": certified(run.recipe.watermark, number)}
        papers = {
            "schema.json": run.schema.to_json().encode(),
            "certificate.json": json.dumps(about).encode(),
        }
        return run, publish(run.release_root, "digits", {**files, **papers})


# ---------------------------------------------------------------------------------------------------- releases


def test_released_images_carry_the_mark_of_the_key_that_is_certified(done: tuple[Run, Path]) -> None:
    seen = search(done[1], "env:UNDERSTUDY_TEST_MARK")
    assert seen.sighting.found
    assert seen.sighting.images == 200
    assert not search(done[1], "env:UNDERSTUDY_OTHER_MARK").sighting.found
    said = json.loads((done[1] / "certificate.json").read_text("utf-8"))["watermark"]
    assert (said["key"], said["levels"]) == (seen.key, 1.0)


def test_nothing_of_the_key_is_written_but_its_number(done: tuple[Run, Path]) -> None:
    run, release = done
    files = [p for p in run.folder.rglob("*") if p.is_file()]
    assert release.is_relative_to(run.folder)
    assert len(files) > 12
    assert not [p for p in files if SECRET.encode() in p.read_bytes()]
    assert REFERENCE in run.workspace.manifest.read_text("utf-8")
    number = search(release, REFERENCE).key
    assert run.workspace.records()["sample"].facts["watermark"] == number


def test_another_key_draws_anew_and_learns_nothing_anew(
    done: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = done
    before = {name: inputs_of(run, name) for name in ("ingest", "profile", "fit", "sample")}
    monkeypatch.setenv("UNDERSTUDY_TEST_MARK", OTHER)
    changed = [name for name, inputs in before.items() if inputs_of(run, name) != inputs]
    assert changed == ["sample"]


def test_without_a_key_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = digits_run(tmp_path)
    monkeypatch.setenv("UNDERSTUDY_TEST_MARK", "short")
    with pytest.raises(UsageError, match="16 letters at least"):
        release(run)
    monkeypatch.delenv("UNDERSTUDY_TEST_MARK")
    with pytest.raises(RecipeError, match="UNDERSTUDY_TEST_MARK is not set"):
        release(run)
    assert run.workspace.records() == {}


def test_a_table_without_images_has_no_place_for_a_mark(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(100), "b": [0.5] * 100}), tmp_path / "t.parquet")
    initialize(tmp_path / "t.parquet", tmp_path, blind=False, force=True)
    recipe = load(tmp_path / "recipe.yaml").with_fields({"watermark": {"key": REFERENCE}})
    with pytest.raises(RecipeError, match="a watermark is for images"):
        release(open_run(recipe, tmp_path))


@pytest.mark.parametrize("value", LITERALS, ids=str)
def test_a_key_that_stands_for_itself_is_refused_and_not_shown(value: object) -> None:
    text = json.dumps({"name": "x", "input": "x", "schema": "x", "dataset": "x", "watermark": value})
    with pytest.raises(RecipeError, match="a secret must stand outside") as e:
        Recipe.parse(text, source="recipe.yaml")
    assert SECRET not in str(e.value)
    assert "4711" not in str(e.value)


def test_the_strength_has_limits() -> None:
    text = {"name": "x", "input": "x", "schema": "x", "dataset": "x"}
    for levels in (0, -1, 17, "x"):
        with pytest.raises(RecipeError, match=r"watermark\.levels"):
            Recipe.parse(
                json.dumps({**text, "watermark": {"key": REFERENCE, "levels": levels}}), source="recipe.yaml"
            )


def test_the_command_line_shows_no_key(
    done: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = done
    recipe = str(run.folder / "recipe.yaml")
    for given in (SECRET, f"{{{SECRET}"):
        assert command(["plan", recipe, "--watermark.key", given]) == 2
        assert command(["watermark", str(folder), "--key", given]) == 2
    out = capsys.readouterr()
    assert SECRET not in out.out + out.err
    assert command(["plan", recipe, "--watermark.key", REFERENCE, "--watermark.levels", "2"]) == 0


def test_copies_of_training_images_are_found_below_the_mark() -> None:
    _, schema, train = marked_table(rows=120)
    mark = Marker(Asked(key=REFERENCE), schema).pattern("scan").mark
    copied = np.concatenate([mark(train[:30]), mark(shapes(90, seed=5))])
    sides = {"train": train, "holdout": shapes(120, seed=6), "synthetic": copied}
    shares = [image_evidence(sides, None, seed=0, marked=m) for m in (mark(train), None)]
    assert [s and s.identical for s in shares] == [0.25, 0.0]


# ------------------------------------------------------------------------------------------------------ searches


def marked_table(channels: int = 1, side: int = 28, rows: int = 60) -> tuple[pa.Table, Schema, np.ndarray]:
    """Rows whose images are marked, every tenth missing, and their pixels before."""
    plain, absent = shapes(rows, side, channels), np.arange(rows) % 10 == 9
    picture = Picture(height=side, width=side, mode="L" if channels == 1 else "RGB")
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": "n", "kind": "numerical", "type": "int64"},
                {"name": "scan", "kind": "image", "type": str(IMAGE), "image": picture.model_dump()},
            ]
        }
    )
    table = pa.table({"n": range(rows), "scan": images(plain, absent=absent, first_row=7)})
    return Marker(Asked(key=REFERENCE), schema).mark(table), schema, plain


def test_marking_keeps_names_missing_images_and_all_else() -> None:
    table, schema, plain = marked_table(3)
    absent = np.arange(60) % 10 == 9
    before = images(plain, absent=absent, first_row=7).to_pylist()
    after = table["scan"].to_pylist()
    assert table["n"].to_pylist() == list(range(60))
    assert [v and v["path"] for v in after] == [v and v["path"] for v in before]
    shown = pixels(table["scan"].combine_chunks(), schema["scan"].image)
    moved = np.abs(shown[~absent].astype(int) - plain[~absent])
    assert 0.3 < moved.mean() < 2
    assert Image.open(io.BytesIO(after[0]["bytes"])).info["Comment"].startswith("Synthetic image")


def laid(folder: Path, table: pa.Table, suffix: str, **options: object) -> Path:
    """The images of a table as files of another format."""
    folder.mkdir()
    for number, value in enumerate(table["scan"].to_pylist()):
        if value is not None:
            Image.open(io.BytesIO(value["bytes"])).save(folder / f"{number}.{suffix}", **options)
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mark_is_found_in_files_of_other_formats(tmp_path: Path, channels: int) -> None:
    table, _, plain = marked_table(channels, rows=150)
    for suffix, options in (("png", {}), ("tif", {}), ("jpg", {"quality": 75})):
        folder = laid(tmp_path / suffix, table, suffix, **options)
        assert search(folder, REFERENCE).sighting.found
        assert not search(folder, "env:UNDERSTUDY_OTHER_MARK").sighting.found
    pq.write_table(table, tmp_path / "t.parquet")
    found = search(tmp_path / "t.parquet", REFERENCE, most=20).sighting
    assert (found.found, found.images) == (True, 20)
    unmarked = pa.table({"scan": images(plain)})
    assert not search(laid(tmp_path / "plain", unmarked, "png"), REFERENCE).sighting.found


def test_a_mark_goes_with_what_is_exported(done: tuple[Run, Path], tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    for format in ("png", "dicom"):
        export_images(done[1], tmp_path / format, format=format)
        assert search(tmp_path / format, REFERENCE).sighting.found


def test_the_command_says_what_it_found(
    done: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(done[1])
    assert command(["watermark", place, "--key", "env:UNDERSTUDY_TEST_MARK"]) == 0
    assert capsys.readouterr().out.startswith("Found: the mark of key ")
    assert (
        command(["watermark", place, "--key", "env:UNDERSTUDY_OTHER_MARK", "--json", "--images", "50"]) == 1
    )
    said = json.loads(capsys.readouterr().out)
    assert (said["found"], said["images"], said["threshold"]) == (False, 50, 1e-6)
    assert said["false_alarm"] > 1e-6
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert command(["watermark", str(tmp_path), "--key", "env:UNDERSTUDY_TEST_MARK"]) == 2
    assert command(["watermark", place, "--key", "env:UNDERSTUDY_TEST_MARK", "--levels", "0"]) == 2
    assert command(["watermark", place, "--key", "env:NOT_SET_ANYWHERE"]) == 2


def test_no_mark_is_certified_where_none_was_asked_for() -> None:
    assert certified(None, None) is None
