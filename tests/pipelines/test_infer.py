"""Several draws of a table, and regressions on them: what is released, checked, read and combined."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.cli import run as command
from pipelines.infer import Formula, infer
from pipelines.released import draws_of, read
from pipelines.run import open_run
from pipelines.steps import release
from pipelines.verify import verify
from privacy.errors import ReleaseError, UsageError
from tests.pipelines.tables import prepare


def released(folder: Path, **fields: object) -> Path:
    rng = np.random.default_rng(0)
    age, sex = rng.integers(20, 70, 2000), rng.choice(["f", "m"], 2000, p=[0.4, 0.6])
    pay = 10 * age + 50 * (sex == "m") + rng.normal(0, 100, 2000)
    rich = np.where(pay + rng.normal(0, 100, 2000) > 500, "yes", "no")
    table = pd.DataFrame({"age": age, "sex": sex, "pay": pay.round(2), "rich": rich, "code": np.arange(2000)})
    table.loc[::20, "pay"] = np.nan
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "people.csv", index=False)
    recipe = prepare(folder, folder / "people.csv", name="people", shard_rows=1200, **fields)
    return release(open_run(recipe, folder)).release


@pytest.fixture(scope="module")
def thrice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("thrice"), draws=3)


def rows_of(folder: Path) -> pd.DataFrame:
    return pd.concat(
        [pq.read_table(p).to_pandas() for p in sorted(folder.glob("*.parquet"))], ignore_index=True
    )


def test_draws_are_tables_of_their_own_of_which_the_first_is_the_data(thrice: Path) -> None:
    folders = draws_of(thrice)
    assert [f.relative_to(thrice).as_posix() for f in folders] == ["data", "draws/2", "draws/3"]
    tables = [rows_of(f) for f in folders]
    assert [len(t) for t in tables] == [2000] * 3
    assert not tables[0]["pay"].equals(tables[1]["pay"])
    assert not tables[1]["pay"].equals(tables[2]["pay"])
    about = read(thrice)
    assert (about.certificate["draws"], about.certificate["rows"]) == (3, 2000)
    # A fifth is held out, about; steps of ten.
    assert about.certificate["learned_rows"] == pytest.approx(1600, abs=60)
    assert about.certificate["learned_rows"] % 10 == 0
    assert "draws/3/part-00001.parquet" in about.sums
    assert verify(thrice).rows == 2000
    card = (thrice / "README.md").read_text("utf-8")
    assert "The table was drawn 3 times" in card
    assert "Same conclusion" in card


def test_more_draws_leave_the_first_as_it_was(thrice: Path, tmp_path: Path) -> None:
    # The digest of the recipe, which shards name, differs; the rows do not.
    assert rows_of(released(tmp_path / "once") / "data").equals(rows_of(thrice / "data"))


def test_a_release_that_lost_a_draw_is_not_whole(thrice: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(thrice, copy)
    shutil.rmtree(copy / "draws/3")
    sums = copy / "SHA256SUMS"
    sums.write_text("".join(s for s in sums.read_text().splitlines(True) if "draws/3" not in s))
    with pytest.raises(ReleaseError, match="3 draws, not 2"):
        verify(copy)


def test_intervals_are_those_of_all_draws_widened(thrice: Path) -> None:
    found = infer(thrice, "pay ~ age + sex")
    assert (found.draws, found.rows) == (3, 2000)
    assert found.complete == pytest.approx(0.95, abs=0.02)
    # What the figures are held against, and what was left out, is said beside them.
    assert found.against == {"sex": "m"}
    assert "commonest of their column: sex with m" in found.describe()
    assert (
        f"{100 * (1 - found.complete):.3g} % of them miss a value that is asked and are left out"
        in found.describe()
    )
    (only,) = found.regressions
    by_term = {t.term: t for t in only.terms}
    assert set(by_term) == {"(constant)", "age", "sex = f"}
    # Beside the normal equations of each draw, in raw units.
    values, variances = [], []
    for folder in draws_of(thrice):
        own = rows_of(folder).dropna(subset="pay")
        x = np.column_stack([np.ones(len(own)), own["age"], own["sex"] == "f"]).astype(float)
        beta, rest, *_ = np.linalg.lstsq(x, own["pay"].to_numpy(float), rcond=None)
        values.append(beta)
        variances.append(rest[0] / (len(own) - 3) * np.diag(np.linalg.inv(x.T @ x)))
    ratio = 2000 / found.learned_rows + 1 / 3
    errors = np.sqrt(np.mean(variances, axis=0) * ratio)
    for i, term in enumerate(("(constant)", "age", "sex = f")):
        assert by_term[term].value == pytest.approx(np.mean(values, axis=0)[i], rel=1e-6)
        assert by_term[term].error == pytest.approx(errors[i], rel=1e-6)
    assert by_term["age"].low <= 10 <= by_term["age"].high
    assert found.factor == pytest.approx(np.sqrt(3 * ratio))


def test_classes_are_log_odds_and_a_dot_is_all_other_columns(thrice: Path) -> None:
    (only,) = infer(thrice, "rich ~ age + pay").regressions
    assert only.kind == "logistic"
    assert only.outcome is not None
    assert set(only.outcome) == {"yes", "no"}
    (whole,) = infer(thrice, "rich ~ .").regressions
    assert {"age", "pay"} <= {t.term for t in whole.terms}
    names = {c["name"]: c["kind"] for c in json.loads((thrice / "schema.json").read_text())["columns"]}
    (made_up,) = (n for n, kind in names.items() if kind == "identifier")
    with pytest.raises(UsageError, match="identifier"):
        infer(thrice, f"rich ~ {made_up}")


def test_the_command_prints_what_json_holds(thrice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["infer", str(thrice), "pay ~ age", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["regressions"][0]["terms"][1]["term"] == "age"
    assert command(["infer", str(thrice), "pay ~ age"]) == 0
    told = capsys.readouterr().out
    assert "3 draws of 2,000 rows" in told
    assert "note:" in told


@pytest.mark.parametrize(
    "formula",
    [
        "pay",
        "~ age",
        "pay ~",
        "pay ~ age sex ~ x",
        "pay ~ wage",
        "pay ~ pay",
        "pay ~ age +",
        "`pay ~ age",
        "",
    ],
)
def test_what_is_no_formula_is_refused(thrice: Path, formula: str) -> None:
    with pytest.raises(UsageError, match="must"):
        infer(thrice, formula)


def test_names_may_hold_signs_between_backticks() -> None:
    names = ("a+b", "c ~ d", "e", ".")
    assert Formula.parse("`a+b` ~ `c ~ d` + e", names) == Formula(target="a+b", columns=("c ~ d", "e"))
    assert Formula.parse("e ~ .", names).columns == (".",)
    assert Formula.parse("e~.", names[:3]).columns == ("a+b", "c ~ d")


def test_a_release_that_says_no_number_of_rows_needs_one(thrice: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old"
    shutil.copytree(thrice, copy)
    said = json.loads((copy / "certificate.json").read_text())
    del said["learned_rows"]
    (copy / "certificate.json").write_text(json.dumps(said))
    with pytest.raises(ReleaseError, match="--learned"):
        infer(copy, "pay ~ age")
    assert infer(copy, "pay ~ age", learned=1600).learned_rows == 1600
