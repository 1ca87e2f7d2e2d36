"""What changed between two releases, by what they have published."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.cli import run
from pipelines.compare import compare
from pipelines.publish import publish
from pipelines.steps import Outcome
from privacy.errors import InputError, ReleaseError


def again(done: Outcome, root: Path, change: Any = None, **manifests: Any) -> Path:
    """The release once more, with other rows or manifests."""
    files: dict[str, bytes | Path] = {
        p.relative_to(done.release).as_posix(): p
        for p in done.release.rglob("*")
        if p.is_file() and p.name != "SHA256SUMS"
    }
    for name, edit in manifests.items():
        data = json.loads((done.release / f"{name}.json").read_text("utf-8"))
        edit(data)
        files[f"{name}.json"] = json.dumps(data, ensure_ascii=False).encode()
    if change is not None:
        (shard,) = (done.release / "data").glob("part-*.parquet")
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(change(pq.read_table(shard)), root / "rows.parquet")
        files["data/part-00000.parquet"] = root / "rows.parquet"
    return publish(root, "people", files)


def test_a_release_and_itself_differ_in_nothing(done: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(done.release), str(done.release)]) == 0
    told = capsys.readouterr().out
    assert "schema          unchanged" in told
    assert "columns moved further than chance does" in told
    assert "drift           none" in told


def older(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("age")
    return table.set_column(
        place, "age", pc.min_element_wise(pc.add(table["age"], 8), 90).cast(table["age"].type)
    )


def test_a_column_that_moved_is_told_with_its_mean(
    done: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = again(done, tmp_path, older)
    assert run(["compare", str(done.release), str(moved)]) == 0
    told = capsys.readouterr().out
    assert "1 of" in told
    (line,) = [line for line in told.splitlines() if line.strip().startswith("age ")]
    assert "mean" in line
    assert run(["compare", str(done.release), str(moved), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [c["column"] for c in said["columns"] if c["moved"]] == ["age"]


def test_figures_verdicts_versions_and_drift_are_held_against_each_other(
    done: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def worse(figures: dict[str, Any]) -> None:
        figures["faithful"]["columns"]["score"] = 0.5
        figures["private"]["epsilon"] = 1.0
        figures["verdict"] = {"warnings": 3, "rules": ["shape"]}

    def other(certificate: dict[str, Any]) -> None:
        certificate["versions"]["torch"] = "0.0.1"
        certificate["drift"] = ["'age' is new"]
        certificate["rows"] += 5
        certificate["parity"] = {"target": "income", "across": ["sex", "race"]}
        certificate["draws"] = 3

    moved = again(done, tmp_path, figures=worse, certificate=other)
    assert run(["compare", str(done.release), str(moved)]) == 0
    told = capsys.readouterr().out
    assert "→ 50.0" in told
    assert "epsilon         – → 1" in told
    assert "3 warnings (shape)" in told
    assert "→ 0.0.1" in told
    assert "'age' is new" in told
    assert "none → income across sex, race" in told
    assert "1 → 3" in told


def test_columns_that_came_and_went_are_told(done: Outcome, tmp_path: Path) -> None:
    def renamed(schema: dict[str, Any]) -> None:
        schema["columns"][0]["name"] = "years"

    found = compare(
        done.release,
        again(done, tmp_path, lambda t: t.rename_columns(["years", *t.column_names[1:]]), schema=renamed),
    )
    assert found.schema.added == ("years",)
    assert found.schema.removed == ("age",)


def test_a_damaged_release_is_no_release(done: Outcome, copied: Path) -> None:
    (copied / "certificate.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"certificate\.json differs"):
        compare(done.release, copied)


def test_releases_of_different_tables_are_refused(done: Outcome, tmp_path: Path) -> None:
    def other(schema: dict[str, Any]) -> None:
        for i, column in enumerate(schema["columns"]):
            column["name"] = f"other {i}"

    with pytest.raises(InputError, match="no column in common"):
        compare(done.release, again(done, tmp_path, schema=other))
