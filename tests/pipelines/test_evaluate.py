"""`understudy evaluate`: what it says of tables that any tool made, and what it refuses to compare."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.cli import run
from pipelines.evaluate import Asked, Evaluated, evaluate
from privacy.errors import InputError, UsageError
from synth.infer import infer_table
from synth.schema import Column, Schema
from tests.contracts.test_contract import people
from tests.synth.pictures import with_pictures
from validation.page import head


def table(rows: int, seed: int) -> pa.Table:
    draw = random.Random(seed)
    ages = [draw.randint(18, 90) for _ in range(rows)]
    return pa.table(
        {
            "age": ages,
            "income": [round(100 * a + draw.gauss(0, 300), 2) for a in ages],
            "city": [draw.choice(["Ulm", "Rom", "Oslo"]) if a < 60 else "Köln" for a in ages],
            "sick": [draw.random() < a / 120 for a in ages],
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows, seed in (("real", 1500, 1), ("hold", 700, 2), ("good", 1500, 3)):
        pyarrow.csv.write_csv(table(rows, seed), tmp_path / f"{name}.csv")
    return tmp_path


def judged(folder: Path, synthetic: pa.Table, **more: object) -> Evaluated:
    pyarrow.csv.write_csv(synthetic, folder / "made.csv")
    asked = {"real": folder / "real.csv", "holdout": folder / "hold.csv", **more}
    return evaluate(Asked(synthetic=folder / "made.csv", **asked))  # type: ignore[arg-type]


def test_rows_like_the_real_ones_pass_with_code_0(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert (
        run(["evaluate", "real.csv", "good.csv", "--holdout", "hold.csv", "--json", "--page", "p.html"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["passed"]
    assert said["evidence"]["fidelity"]["rows_holdout"] == 700
    page = Path("p.html").read_text("utf-8")
    assert "http://" not in page.replace(str(head("t")), "")
    assert "belongs to the inside" in page
    assert run(["evaluate", "real.csv", "good.csv", "--page", "p.html"]) == 2


def test_held_out_rows_of_another_table_are_refused_by_name(folder: Path) -> None:
    hold = pyarrow.csv.read_csv(folder / "hold.csv")
    cities = pa.array([c.upper() for c in hold["city"].to_pylist()])
    pq.write_table(hold.set_column(2, "city", cities), folder / "upper.parquet")
    with pytest.raises(InputError, match=r"'city' of upper.parquet has no value that real.csv has"):
        judged(folder, table(1500, 4), holdout=folder / "upper.parquet")
    pq.write_table(hold.set_column(2, "city", pa.nulls(len(hold), pa.string())), folder / "none.parquet")
    with pytest.raises(InputError, match=r"'city' of none.parquet has no value, that of real.csv has"):
        judged(folder, table(1500, 4), holdout=folder / "none.parquet")


def test_tables_of_texts_alone_are_not_compared(tmp_path: Path) -> None:
    for name in ("real", "made"):
        texts = [f"{name} {i} wrote a letter of {i % 7} pages to nobody" for i in range(300)]
        pyarrow.csv.write_csv(pa.table({"said": texts}), tmp_path / f"{name}.csv")
    with pytest.raises(InputError, match="must have a column that can be compared"):
        evaluate(Asked(real=tmp_path / "real.csv", synthetic=tmp_path / "made.csv"))


def test_a_column_of_many_categories_that_is_lost_is_a_finding_and_no_crash(folder: Path) -> None:
    for name in ("real", "hold"):
        rows = pyarrow.csv.read_csv(folder / f"{name}.csv")
        codes = pa.array([f"k{i % 1200}" for i in range(len(rows))])
        pyarrow.csv.write_csv(rows.append_column("code", codes), folder / f"{name}.csv")
    known = infer_table(pyarrow.csv.read_csv(folder / "real.csv"))
    columns = [
        c if c.name != "code" else Column(name="code", kind="categorical", type="string") for c in known
    ]
    (folder / "s.yaml").write_text(known.model_copy(update={"columns": tuple(columns)}).to_json())
    lost = table(1500, 4).append_column("code", pa.nulls(1500, pa.string()))
    found = judged(folder, lost, schema=folder / "s.yaml")
    assert any(f.rule == "missing" and f.columns == ("code",) for f in found.verdict.critical)


def test_a_copy_of_the_real_table_fails_with_code_3(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert run(["evaluate", "real.csv", "real.csv", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert not said["passed"]
    assert "copies" in {f["rule"] for f in said["findings"] if f["level"] == "critical"}
    assert any("--holdout" in n for n in said["notes"])


def test_csv_and_parquet_give_the_same_figures(folder: Path) -> None:
    pq.write_table(table(1500, 3), folder / "good.parquet")
    asked = {"real": folder / "real.csv", "holdout": folder / "hold.csv"}
    found = [evaluate(Asked(synthetic=folder / f"good.{kind}", **asked)) for kind in ("csv", "parquet")]
    assert found[0].evidence == found[1].evidence


def test_a_large_table_is_sampled_and_it_is_said(folder: Path) -> None:
    found = judged(folder, table(1500, 3), rows=300)
    assert 200 < found.evidence.fidelity.rows_synthetic < 400
    assert 200 < found.evidence.fidelity.rows_train < 400
    assert any("300 rows of each side" in n for n in found.notes)


def test_a_given_schema_binds_every_row(folder: Path) -> None:
    (folder / "schema.yaml").write_text(
        "columns:\n"
        "- {name: age, kind: numerical, type: int64, min: 18, max: 80, facts: 'declared: law'}\n"
        "- {name: income, kind: numerical, type: double}\n"
        "- {name: city, kind: categorical, type: string}\n"
        "- {name: sick, kind: boolean, type: bool}\n"
    )
    found = judged(folder, table(1500, 3), schema=folder / "schema.yaml")
    assert [(f.rule, f.columns) for f in found.verdict.critical] == [("schema", ("age",))]


def test_fractions_where_the_real_table_has_whole_numbers_are_compared_and_it_is_said(folder: Path) -> None:
    made = table(1500, 3)
    floats = made.set_column(0, "age", made.column("age").cast(pa.float64()))
    pq.write_table(floats, folder / "floats.parquet")
    found = evaluate(Asked(real=folder / "real.csv", synthetic=folder / "floats.parquet"))
    assert found.evidence.fidelity.columns[0].shape is not None
    assert any("'age'" in n and "fractions" in n for n in found.notes)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.drop_columns(["age"]), "'age' is missing"),
        (lambda t: t.append_column("more", t["age"]), "'more'"),
        (lambda t: t.set_column(0, "age", pa.array(["old"] * len(t))), "'age'.*is not int64"),
        (lambda t: t.set_column(2, "city", pa.array(["U", "R"] * (len(t) // 2))), "'city'.*has no value"),
        (lambda t: t.slice(0, 0), "must have rows"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(folder: Path, change, error: str) -> None:
    with pytest.raises(InputError, match=error):
        judged(folder, change(table(1500, 3)))


def test_too_few_rows_to_measure_are_wrong_usage() -> None:
    with pytest.raises(UsageError, match="100 rows"):
        Asked(real=Path("a"), synthetic=Path("b"), rows=5)


def test_a_target_that_cannot_be_predicted_is_refused(folder: Path) -> None:
    made = table(1500, 3)
    pyarrow.csv.write_csv(table(1500, 1).set_column(3, "sick", pa.array([True] * 1500)), folder / "real.csv")
    pyarrow.csv.write_csv(table(700, 2).set_column(3, "sick", pa.array([True] * 700)), folder / "hold.csv")
    one_class = made.set_column(3, "sick", pa.array([True] * 1500))
    with pytest.raises(InputError, match=r"'sick'.*one class"):
        judged(folder, one_class, targets=("sick",))


def test_columns_that_do_not_exist_are_wrong_usage(folder: Path) -> None:
    for field in ("targets", "protected"):
        with pytest.raises(UsageError, match="no column 'sickk'"):
            judged(folder, table(200, 3), **{field: ("sickk",)})


def test_protected_groups_are_compared(folder: Path) -> None:
    found = judged(folder, table(1500, 3), protected=("city",), targets=("sick",))
    assert found.evidence.fairness is not None
    assert {g.values[0] for g in found.evidence.fairness.groups} == {"Ulm", "Rom", "Oslo", "Köln"}
    assert {g.rate for g in found.evidence.fairness.gaps} >= {"errors"}
    assert "For whom it is good" in found.page()


def test_a_given_schema_is_held_against_every_row_with_its_constraints(folder: Path) -> None:
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": "age", "kind": "numerical", "type": "int64"},
                {"name": "income", "kind": "numerical", "type": "double"},
                {"name": "city", "kind": "categorical", "type": "string"},
                {"name": "sick", "kind": "boolean", "type": "bool"},
            ],
            "constraints": [{"rule": "order", "columns": ["age", "income"]}],
        }
    )
    (folder / "schema.yaml").write_text(schema.to_yaml(), "utf-8")
    good = judged(folder, table(1500, 3), schema=folder / "schema.yaml")
    assert not [f for f in good.verdict.findings if "age <= income" in f.message]
    made = table(1500, 3)
    wrong = made.set_column(1, "income", pa.array([-1.0, *made["income"].to_pylist()[1:]]))
    found = judged(folder, wrong, schema=folder / "schema.yaml").verdict.findings
    assert [f for f in found if "age <= income" in f.message]


@pytest.mark.parametrize("there", [False, True], ids=["without it", "with it"])
def test_a_column_that_the_schema_drops_is_not_asked_of_a_synthetic_table(folder: Path, there: bool) -> None:
    real = pyarrow.csv.read_csv(folder / "real.csv")
    for name in ("real", "hold"):
        rows = pyarrow.csv.read_csv(folder / f"{name}.csv")
        names = pa.array([f"person {i}" for i in range(len(rows))])
        pyarrow.csv.write_csv(rows.append_column("who", names), folder / f"{name}.csv")
    schema = infer_table(real)
    drop = {"name": "who", "kind": "text", "type": "string", "action": "drop"}
    stated = Schema(columns=(*schema, Column.model_validate(drop)))
    (folder / "schema.yaml").write_text(stated.to_yaml())
    made = table(1500, 3)
    made = made.append_column("who", pa.array(["x"] * 1500)) if there else made
    found = judged(folder, made, schema=folder / "schema.yaml")
    assert found.verdict.passed
    assert [c.name for c in found.evidence.fidelity.columns] == real.column_names


# -------------------------------------------------------------------------------------------------------- images


def pictured(folder: Path, name: str, *, seed: int, rows: int = 200) -> pa.Table:
    made = with_pictures(people(rows, seed=seed), seed=seed)
    pq.write_table(made, folder / f"{name}.parquet")
    return made


def of_images(folder: Path, made: pa.Table, **more: Any) -> Evaluated:
    pq.write_table(made, folder / "made.parquet")
    asked = {"real": folder / "real.parquet", "holdout": folder / "hold.parquet", **more}
    return evaluate(Asked(synthetic=folder / "made.parquet", **asked))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    pictured(folder, "real", seed=1)
    pictured(folder, "hold", seed=2, rows=120)
    return folder


def test_images_are_held_against_each_other_as_a_release_does(album: Path, tmp_path: Path) -> None:
    good = pictured(tmp_path, "good", seed=3)
    found = of_images(album, good)
    images = found.evidence.images
    assert images is not None
    assert images.rows[0] > 150
    assert images.rows[2] > 150
    assert images.identical == 0
    assert "images" not in {f.rule for f in found.verdict.critical}
    assert not any("whether they are there" in note for note in found.notes)
    assert 'id="images"' in found.page()
    assert found.to_dict()["evidence"]["images"]["rows"] == list(images.rows)


def test_weights_of_inception_need_images_and_must_fit(album: Path, tmp_path: Path) -> None:
    good = pictured(tmp_path, "good", seed=3)
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"has no fc\.weight"):
        of_images(album, good, inception=tmp_path / "weights.pth")
    plain = good.drop_columns("photo")
    for side in ("real", "hold"):
        pq.write_table(
            pq.read_table(album / f"{side}.parquet").drop_columns("photo"), tmp_path / f"{side}.parquet"
        )
    with pytest.raises(UsageError, match="--inception needs a column of images"):
        of_images(tmp_path, plain, inception=tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="100 images at least"):
        of_images(album, good, inception_images=99)


def test_copied_images_are_refused_though_no_row_is_a_copy(album: Path, tmp_path: Path) -> None:
    good = pictured(tmp_path, "good", seed=3)
    real = pq.read_table(album / "real.parquet")
    place = good.schema.get_field_index("photo")
    found = of_images(album, good.set_column(place, "photo", real.column("photo")))
    assert found.evidence.images is not None
    assert found.evidence.images.identical > 0.9
    assert "images" in {f.rule for f in found.verdict.critical}
    assert "copies" not in {f.rule for f in found.verdict.critical}


def test_too_few_images_are_said_to_be_too_few(tmp_path: Path) -> None:
    made = pictured(tmp_path, "real", seed=1, rows=120)
    pictured(tmp_path, "hold", seed=2, rows=110)
    few = made.column("photo").to_pylist()[:20] + [None] * 100
    found = of_images(tmp_path, made.set_column(3, "photo", pa.array(few, made.schema.field("photo").type)))
    assert found.evidence.images is None
    assert any("too few to be compared" in note for note in found.notes)


def test_an_image_beyond_the_limits_of_a_release_is_refused_here_too(album: Path, tmp_path: Path) -> None:
    good = pictured(tmp_path, "good", seed=3)
    values = good.column("photo").to_pylist()
    values[5]["bytes"] = values[5]["bytes"][:50]
    with pytest.raises(InputError, match="damaged"):
        of_images(album, good.set_column(3, "photo", pa.array(values, good.schema.field("photo").type)))
