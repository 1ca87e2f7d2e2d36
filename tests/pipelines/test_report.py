"""`understudy report`: where the page of a run or a release lies."""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.steps import Outcome, release
from privacy.errors import GateRefused
from tests.pipelines.tables import QUICK, opened
from validation.page import INSIDE


def test_a_run_has_a_page_of_the_inside_and_its_release_one_for_outside(
    done: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(done.run)]) == 0
    inside = Path(capsys.readouterr().out.strip())
    assert inside == done.run / "report.html"
    assert INSIDE in inside.read_text("utf-8")
    assert run(["report", str(done.release), "--json"]) == 0
    outside = Path(json.loads(capsys.readouterr().out)["report"])
    assert outside == done.release / "report.html"
    assert INSIDE not in outside.read_text("utf-8")


def test_the_page_of_a_run_is_the_same_each_time(done: Outcome) -> None:
    pages = set()
    for _ in range(2):
        assert run(["report", str(done.run)]) == 0
        pages.add((done.run / "report.html").read_bytes())
    assert len(pages) == 1


def test_open_gives_the_page_to_the_browser(
    done: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_pages = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened_pages}\n')
    browser.chmod(0o755)
    code = os.spawnle(
        os.P_WAIT, _command(), "understudy", "report", str(done.release), "--open",
        {**os.environ, "BROWSER": f"{browser} %s"},
    )  # fmt: skip
    assert code == 0
    assert opened_pages.read_text().strip() == (done.release / "report.html").as_uri()


def _command() -> str:
    import sys

    return str(Path(sys.executable).with_name("understudy"))


def test_a_refused_run_keeps_its_page_and_says_warnings_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = opened(
        tmp_path,
        options={**QUICK["options"], "components": 1},
        gate={"warn_only": ["category"], "shape_points": 0.01},
    )  # type: ignore[arg-type]
    with pytest.raises(GateRefused) as caught:
        release(refused)
    message = str(caught.value)
    page = refused.workspace.path / "report.html"
    assert str(page) in message
    assert "association: " in message
    assert "warning: " in message
    text = page.read_text("utf-8")
    assert "This release is refused" in text
    assert INSIDE in text
    assert run(["report", str(refused.workspace.path)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text("utf-8") == text


def test_a_run_that_was_not_judged_has_no_page(
    tmp_path: Path, done: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = opened(tmp_path)
    assert run(["report", str(fresh.workspace.path)]) == 1
    assert "understudy resume" in capsys.readouterr().err
    assert run(["report", str(tmp_path)]) == 1
    assert "run.json" in capsys.readouterr().err


def test_evidence_of_another_version_is_named(
    tmp_path: Path, done: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = Path(shutil.copytree(done.run, tmp_path / "run"))
    evidence = json.loads((run_folder / "evidence.json").read_text("utf-8"))
    del evidence["detection"]["giveaways"]
    (run_folder / "evidence.json").write_text(json.dumps(evidence), "utf-8")
    assert run(["report", str(run_folder)]) == 1
    assert "judges it anew" in capsys.readouterr().err
