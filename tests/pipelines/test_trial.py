"""Several synthesizers tried on one recipe."""

import json
from pathlib import Path

import pytest

from pipelines.recipe import Recipe
from pipelines.run import open_run
from pipelines.steps import release
from pipelines.trial import Tried, attempt
from privacy.errors import RecipeError
from tests.pipelines.tables import prepare, write_visits

SMALL = {"components": 4, "passes": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trial")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    table = write_visits(folder / "visits.csv", patients=200)
    return prepare(folder, table, synthesizer="gmm", options=SMALL)


@pytest.fixture(scope="module")
def tried(recipe: Recipe, folder: Path) -> Tried:
    return attempt(recipe, folder, ["gmm", "circuit", "gmm"])


def test_each_synthesizer_is_tried_once_in_the_order_given(tried: Tried) -> None:
    assert [e.synthesizer for e in tried.comparison.entries] == ["gmm", "circuit"]
    for entry in tried.comparison.entries:
        assert entry.fit_seconds > 0
        assert entry.rows_per_second > 0
        assert 0.5 < (entry.shape or 0) <= 1
        assert entry.verdict.startswith(("passed", "refused by"))


def test_all_are_measured_on_the_same_split(tried: Tried) -> None:
    sides = []
    for entry in tried.comparison.entries:
        evidence = json.loads((Path(entry.run) / "evidence.json").read_text("utf-8"))["fidelity"]
        sides.append([evidence[k] for k in ("rows_train", "rows_holdout", "shape_ceiling", "trend_ceiling")])
    assert sides[0] == sides[1]


def test_nothing_is_published_and_the_page_stays_inside(folder: Path, tried: Tried) -> None:
    assert not (folder / "releases").exists()
    assert tried.page.parent == folder / ".understudy"
    assert "circuit" in tried.page.read_text("utf-8")
    assert str(tried.page) in tried.describe()


def test_a_release_goes_on_from_what_was_tried(recipe: Recipe, folder: Path, tried: Tried) -> None:
    run = open_run(recipe, folder)
    assert str(run.workspace.path) == tried.comparison.entries[0].run
    before = run.workspace.records()
    release(run)
    after = run.workspace.records()
    assert {k: v for k, v in after.items() if k in before} == before


def test_a_name_that_is_none_is_refused_before_anything_is_read(recipe: Recipe, folder: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'gmm'"):
        attempt(recipe, folder, ["circuit", "gmn"])


def test_options_that_reach_nobody_are_refused(recipe: Recipe, folder: Path) -> None:
    with pytest.raises(
        RecipeError, match="they are for gmm, the recipe's own; try it as well, or say --synthe"
    ):
        attempt(recipe, folder, ["circuit"])
