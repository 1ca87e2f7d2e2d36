"""Shadow models of whole recipes: those that leak are caught, and others are cited."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest
from prefect.states import Failed

from pipelines.audit import examine
from pipelines.cli import run as command
from pipelines.flows import audit_flow
from pipelines.init import initialize
from pipelines.recipe import load
from pipelines.run import Run, open_run
from pipelines.shadows import Asked, _shared, attack, kept_at, last
from pipelines.steps import perform, release
from privacy.errors import GateRefused, InputError, RecipeError, ReleaseError, UsageError
from privacy.shadows import AT_RANDOM, EXPOSED
from tests.pipelines.tables import write_visits

HONEST = {"synthesizer": "gmm", "options": {"components": 2, "passes": 5}, "threads": 1}
LEAKY = {
    "synthesizer": "gmm",
    "options": {"components": 150, "passes": 5, "smoothing": 0.01, "min_std": 0.001},
    "at_least": 0,
    "threads": 1,
}
"""A component for each row that a shadow learns from."""

SMALL = Asked(models=10, targets=40)
ODD = "Ouagadougou"
"""A place that one row has."""


def write(folder: Path, *, rows: int = 300, seed: int = 7) -> Path:
    rng = np.random.default_rng(seed)
    place = rng.choice(["north", "south"], rows).tolist()
    place[5] = ODD
    path = folder / "people.csv"
    numbers = {name: rng.normal(40, 12, rows).round(3) for name in ("age", "pay", "height", "weight")}
    csv.write_csv(pa.table({**numbers, "place": place}), path)
    return path


def opened(folder: Path, fields: dict[str, Any]) -> Run:
    initialize(write(folder), folder, blind=False, force=True)
    recipe = load(folder / "recipe.yaml").with_fields(fields)
    return open_run(recipe, folder)


def written(folder: Path, fields: dict[str, Any]) -> Path:
    """A recipe with these fields, as a file."""
    opened(folder, fields)
    path = folder / "recipe.json"
    path.write_text(json.dumps({**fields, "name": "people", "input": "people.csv", "dataset": "people"}))
    return path


def test_a_model_that_remembers_rows_is_caught_and_its_next_release_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(written(tmp_path, LEAKY))
    asked = ["--thorough", "--shadows", "10", "--targets", "40"]
    assert command(["audit", recipe, *asked, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    for found in told["attacks"]:
        assert found["risk"]["surely"] > 0.05
        assert found["auc"]["surely"] > 0.6
        assert found["control"] <= 0.01
    # What the quick attacks say of it does not matter.
    assert command(["release", recipe]) == 3
    assert "shadow models wins" in capsys.readouterr().err


def test_a_model_that_knows_two_clusters_is_not_accused_and_its_next_release_cites_it(
    tmp_path: Path,
) -> None:
    run = opened(tmp_path, HONEST)
    found = attack(run, SMALL)
    assert [a.name for a in found.attacks] == [AT_RANDOM, EXPOSED]
    for a in found.attacks:
        assert a.risk.surely <= 0
        assert a.auc is not None
        assert a.auc.surely <= 0.5
    assert last(run) == found
    done = release(run)
    cited = json.loads((done.release / "certificate.json").read_text("utf-8"))["shadow_models"]
    assert cited["models"] == 10
    assert cited["on"] == found.on
    assert cited["attacks"][AT_RANDOM]["risk"] == round(found.attacks[0].risk.value, 3)
    page = (done.release / "report.html").read_text("utf-8")
    assert f"10 models were fitted for it, on {found.on}." in page
    # A release that was there before is told apart from one that cites the next audit.
    assert release(run).again
    # Another configuration is not covered by it, nor judged.
    assert last(opened(tmp_path, {**HONEST, "at_least": 20})) is None


@pytest.mark.parametrize("change", [{"input": "others.csv"}, {"holdout": 0.5}, {"fit_rows": 150}])
def test_an_attack_on_other_rows_or_more_of_them_is_not_cited(tmp_path: Path, change: dict[str, Any]) -> None:
    run = opened(tmp_path, HONEST)
    assert kept_at(run) != kept_at(opened(tmp_path, {**HONEST, **change}))


@pytest.mark.parametrize("fields", [{"holdout": 0.9}, {"fit_rows": 100, "holdout": 0.1}])
def test_no_shadow_learns_from_more_rows_than_the_release(tmp_path: Path, fields: dict[str, Any]) -> None:
    """A release that learns from few rows remembers them, and shadows of many would not show it."""
    initialize(write(tmp_path, rows=2_500), tmp_path, blind=False, force=True)
    recipe = load(tmp_path / "recipe.yaml").with_fields({**HONEST, **fields})
    run = open_run(recipe, tmp_path)
    perform(run, "ingest")
    assert isinstance(recipe.holdout, float)
    assert _shared(run, 10_000) / 2 <= (1 - recipe.holdout) * min(2_500, recipe.fit_rows)
    plain = open_run(recipe.with_fields({"holdout": 0.2, "fit_rows": 10_000}), tmp_path)
    perform(plain, "ingest")
    assert _shared(plain, 2_000) == 2_000


@pytest.mark.parametrize(
    "text", ["{}", "[]", "no JSON", '{"on": "", "models": 1, "configuration": "", "attacks": []}']
)
def test_a_file_that_is_no_attack_on_this_configuration_is_refused_by_name(tmp_path: Path, text: str) -> None:
    run = opened(tmp_path, HONEST)
    path = kept_at(run)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ReleaseError, match=path.name):
        last(run)


def test_what_is_kept_names_no_row(tmp_path: Path) -> None:
    run = opened(tmp_path, HONEST)
    attack(run, SMALL)
    (path,) = (tmp_path / ".understudy" / "audits").iterdir()
    assert ODD not in path.read_text("utf-8")
    assert not [p for p in tmp_path.rglob("*shadows*") if p != path]


def test_all_rows_of_a_unit_are_learned_from_or_none(tmp_path: Path) -> None:
    """A table of few units whose rows are many is attacked by units."""
    initialize(write_visits(tmp_path / "visits.csv", patients=250), tmp_path, blind=False, force=True)
    schema = tmp_path / "schema.yaml"
    schema.write_text(f"{schema.read_text('utf-8')}\nunit: patient\n", "utf-8")
    run = open_run(load(tmp_path / "recipe.yaml").with_fields(HONEST), tmp_path)
    found = attack(run, Asked(models=8, targets=30))
    assert found.attacks[0].guesses < 8 * 30
    assert found.attacks[0].risk.surely <= 0


def test_shadow_models_never_learn_under_privacy(tmp_path: Path) -> None:
    private = {"synthesizer": "marginals", "privacy": {"epsilon": 1.0, "delta": 1e-5}}
    run = opened(tmp_path, private)
    with pytest.raises(RecipeError, match="nobody charges"):
        attack(run, SMALL)
    assert not run.workspace.has("ingest")
    assert last(run) is None


def test_who_promises_nothing_is_told_of_shadow_models(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--thorough"):
        examine(opened(tmp_path, HONEST))


def test_too_few_rows_or_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="8 shadow models"):
        Asked(models=4)
    initialize(write(tmp_path, rows=150), tmp_path, blind=False, force=True)
    run = open_run(load(tmp_path / "recipe.yaml").with_fields(HONEST), tmp_path)
    with pytest.raises(InputError, match="200 units"):
        attack(run, SMALL)


def test_the_flow_audits_and_fails_where_rows_leak(tmp_path: Path) -> None:
    state = audit_flow.fn(recipe=str(written(tmp_path, LEAKY)), shadows=10, targets=40)
    assert isinstance(state, Failed().__class__)
    assert isinstance(state.data, GateRefused)
