"""denoise and enhance on the command line: images in, images out, and nothing learned."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import synth
from pipelines.cli import run
from pipelines.restore import NOTICE
from synth.images import images, pixels
from synth.schema import Picture
from tests.contracts.test_contract import people
from tests.contracts.test_images import QUICK
from tests.synth.pictures import SIDE, TEMPLATES, pictured_schema, with_pictures

SIZE = Picture(width=SIDE, height=SIDE, mode="L")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    table = with_pictures(people(600, seed=1), seed=1)
    fitted = synth.fit(table, "image-vae", schema=pictured_schema(table), options=QUICK, seed=3, threads=1)
    fitted.save(folder / "model")
    return folder


def noisy(folder: Path, rows: int = 30) -> tuple[Path, np.ndarray]:
    """Pictures with noise, in a file with a column that no model knows; and what they were."""
    clean = TEMPLATES[np.arange(rows) % 3][..., None].astype(float)
    spoiled = np.clip(clean + np.random.default_rng(0).normal(0, 40, clean.shape), 0, 255).astype(np.uint8)
    table = pa.table({"photo": images(spoiled, note=None), "shelf": [f"s{i}" for i in range(rows)]})
    pq.write_table(table, folder / "in.parquet")
    return folder / "in.parquet", clean


def shown(path: Path) -> np.ndarray:
    return pixels(pq.read_table(path)["photo"].combine_chunks(), SIZE).astype(float)


def test_noise_is_taken_out_of_a_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, clean = noisy(tmp_path)
    out = tmp_path / "out.parquet"
    assert run(["denoise", str(model), str(source), str(out), "--noise", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 30
    assert np.abs(shown(out) - clean).mean() < 0.8 * np.abs(shown(source) - clean).mean()
    found = pq.read_table(out)
    assert found["shelf"].to_pylist() == [f"s{i}" for i in range(30)]
    assert found.schema.metadata[b"understudy"].decode() == NOTICE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]
    assert run(["denoise", str(model), str(source), str(out)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    again = tmp_path / "again.parquet"
    assert run(["denoise", str(model / "model"), str(source), str(again), "--noise", "40"]) == 0
    assert again.read_bytes() == out.read_bytes()
    assert "as private as the images" in capsys.readouterr().out


def test_smaller_images_come_out_in_the_models_size(model: Path, tmp_path: Path) -> None:
    small = np.stack([np.asarray(Image.fromarray(t.astype(np.uint8)).reduce(2)) for t in TEMPLATES])[
        ..., None
    ]
    pq.write_table(pa.table({"photo": images(small, note=None)}), tmp_path / "small.parquet")
    assert run(["enhance", str(model), str(tmp_path / "small.parquet"), str(tmp_path / "out.parquet")]) == 0
    assert shown(tmp_path / "out.parquet").shape == (3, SIDE, SIDE, 1)


def test_what_cannot_be_mended_is_refused_and_leaves_no_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = noisy(tmp_path)
    table = pq.read_table(source)
    broken = table["photo"].to_pylist()
    broken[7]["bytes"] = broken[7]["bytes"][:50]
    pq.write_table(
        table.set_column(0, "photo", pa.array(broken, table.schema.field("photo").type)),
        tmp_path / "b.parquet",
    )
    pq.write_table(table.rename_columns(["other", "shelf"]), tmp_path / "other.parquet")
    linear = synth.fit(people(200, seed=1), "gmm", options={"components": 2})
    linear.save(tmp_path / "plain")
    out = str(tmp_path / "out.parquet")
    for arguments, said in (
        ([str(model), str(tmp_path / "b.parquet"), out], "damaged"),
        ([str(model), str(tmp_path / "other.parquet"), out], "none of that name"),
        ([str(tmp_path / "plain"), str(source), out], "a table without"),
        ([str(model), str(source), str(tmp_path / "no" / "out.parquet")], "needs a folder"),
        ([str(model), str(source), out, "--noise", "0"], "noise must be"),
    ):
        assert run(["denoise", *arguments]) in (1, 2)
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
