"""A release of a model that is trained by noised gradients, from recipe to certificate."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines import private
from pipelines.recipe import load
from pipelines.steps import Run, check, open_run, release
from privacy.errors import BudgetRefused, RecipeError

ROWS = 1500


def run_of(folder: Path, *, units_about: int | None = ROWS, **options: object) -> Run:
    rng = np.random.default_rng(0)
    team = rng.choice(3, ROWS, p=[0.5, 0.3, 0.2])
    height = rng.normal(10.0 * team, 3.0).clip(-10, 40).round(1)
    with (folder / "people.csv").open("w") as handle:
        csv.writer(handle).writerows(
            [["team", "height"], *zip(np.array(list("abc"))[team], height, strict=True)]
        )
    known = {"facts": "declared: the test", "nullable": False}
    columns = [
        {"name": "team", "type": "string", "kind": "categorical", "categories": ["a", "b", "c"], **known},
        {"name": "height", "type": "double", "kind": "numerical", "min": -10.0, "max": 40.0, **known},
    ]
    schema = {"columns": columns} | ({} if units_about is None else {"units_about": units_about})
    recipe = {
        "name": "people",
        "input": "people.csv",
        "dataset": "people",
        "synthesizer": "vae",
        "options": {"layers": [16], "latent": 4, "epochs": 4, "batch_rows": 100, "components": 4, **options},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    }
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return open_run(load(folder / "recipe.yaml"), folder)


def test_what_is_spent_is_what_was_reserved_and_what_is_certified(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    done = release(run)
    guarantee = json.loads((done.release / "certificate.json").read_text())["formal_guarantee"]
    assert 0.99 * 8.0 <= guarantee["spent_epsilon"] <= 8.0
    (steps,) = [m for m in guarantee["mechanisms"] if m["steps"]]
    planned = private.gradients_of(run.recipe, run.schema)
    assert planned is not None
    assert (steps["steps"], steps["rate"]) == (planned[0].steps, planned[0].rate)
    actual = private.actual(run.workspace)
    assert actual.within(private.worst_of(run.recipe, run.schema))
    # What was lost is not taken again: the model is gone, its charge is not.
    account = private.account_of(run.workspace, run.recipe, run.schema, "model")
    with pytest.raises(BudgetRefused, match="gradients may be taken once"):
        account.descend(*planned)
    assert private.actual(run.workspace) == actual


def test_steps_that_do_not_follow_from_what_is_public_are_refused_before_a_row_is_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(RecipeError, match="`units_about` in the schema is not set"):
        check(run_of(tmp_path, units_about=None))


def test_the_plan_says_how_many_steps_there_are_and_how_much_noise(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    said = private.describe(run.recipe, run.schema, run.stated, tmp_path)
    assert "steps, each of" in said
    assert "times what one unit adds" in said
