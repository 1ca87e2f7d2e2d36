"""A release whose recipe asks for parity: it passes, and every page says what was asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.infer import infer
from pipelines.judging import evidence_of, verdict_of
from pipelines.run import open_run
from pipelines.steps import release
from pipelines.verify import verify
from privacy.errors import UnderstudyError
from tests.pipelines.tables import prepare
from validation.gates import Finding, GateRules, Verdict, as_asked, verdict_on

ASKED = {"across": ["sex"], "target": "rich"}


def folder_of(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    sex = rng.choice(["f", "m"], 3000)
    rich = np.where(rng.random(3000) < np.where(sex == "m", 0.8, 0.2), "yes", "no")
    hours = rng.normal(30 + 3 * (sex == "m"), 3).round(3)
    folder.mkdir(exist_ok=True, parents=True)
    pd.DataFrame({"hours": hours, "sex": sex, "rich": rich}).to_csv(folder / "people.csv", index=False)
    return folder


def test_parity_is_met_certified_and_no_ground_to_refuse(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    run = open_run(prepare(folder, folder / "people.csv", name="people", parity=ASKED), folder)
    done = release(run).release
    rows = pd.read_parquet(done / "data")
    shares = rows.groupby("sex")["rich"].apply(lambda r: float((r == "yes").mean()))
    assert shares["m"] == pytest.approx(shares["f"], abs=4 * np.sqrt(0.25 * 4 / 3000))
    said = json.loads((done / "certificate.json").read_text("utf-8"))["parity"]
    assert said["exact"] is True
    assert (said["target"], said["across"]) == ("rich", ["sex"])
    assert "not like this" in said["statement"]
    assert "demographic parity" in (done / "README.md").read_text("utf-8")
    assert "demographic parity" in (done / "report.html").read_text("utf-8")
    verify(done)
    assert any("parity of rich, sex" in n for n in infer(done, "hours ~ sex").notes)
    # The gate saw that the association is gone, and by itself would have refused.
    found = verdict_of(run)
    assert any(
        f.message.startswith("asked for by parity") and f.rule == "association" for f in found.findings
    )
    plain = verdict_on(evidence_of(run), (), GateRules())
    assert any(f.rule == "association" for f in plain.critical)


def test_what_was_not_asked_for_is_judged_as_ever() -> None:
    asked = Finding(
        rule="association", level="critical", columns=("rich", "sex"), message="a", value=None, limit=None
    )
    others = (
        replace(asked, columns=("rich", "hours")), replace(asked, columns=()),
        replace(asked, rule="copies", columns=("sex",)),
    )  # fmt: skip
    found = as_asked(Verdict(findings=(asked, *others)), {"sex", "rich"})
    assert found.critical == others
    assert [f.columns for f in found.warnings] == [("rich", "sex")]
    known = replace(asked, message="a rule must hold, however: it does not; learn longer")
    (said,) = as_asked(Verdict(findings=(known,)), {"sex", "rich"}).findings
    assert said.message == "asked for by parity, so not refused: a rule must hold, however: it does not"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"parity": {**ASKED, "target": "hour"}}, "hours"),
        ({"parity": {"across": ["hours"], "sizes": "equal"}}, "categories"),
        ({"parity": {"across": ["sex"]}}, "parity must ask"),
        ({"parity": ASKED, "synthesizer": "vae", "options": {}}, "exact"),
    ],
)
def test_what_cannot_be_met_is_refused_before_a_row_is_read(tmp_path: Path, fields, match) -> None:
    folder = folder_of(tmp_path)
    with pytest.raises(UnderstudyError, match=match):
        release(open_run(prepare(folder, folder / "people.csv", name="people", **fields), folder))
