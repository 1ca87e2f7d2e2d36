"""A release of a model that is trained by noised gradients, from recipe to certificate."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipelines import private
from pipelines.audit import examine
from pipelines.plan import estimate
from pipelines.private import ledger_at
from pipelines.recipe import load
from pipelines.run import Run, open_run
from pipelines.steps import check, perform, release
from privacy.dpsgd import Layers
from privacy.errors import RecipeError, ReleaseError
from privacy.mechanisms import SystemNoise
from privacy.private import CHECKPOINTS, Account
from synth.noised import learn_noised
from tests.pipelines.tables import bytes_of

ROWS = 1500


def run_of(folder: Path, *, units_about: int | None = ROWS, epsilon: float = 8.0, **options: object) -> Run:
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
        "privacy": {"epsilon": epsilon, "delta": 1e-5},
        # So few steps teach nothing of how the two columns depend on each other, and the noised figures show it.
        "gate": {"warn_only": ["association", "shape"]},
    }
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return open_run(load(folder / "recipe.yaml"), folder)


def test_what_is_spent_is_what_was_reserved_and_what_is_certified(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    done = release(run)
    guarantee = json.loads((done.release / "certificate.json").read_text())["formal_guarantee"]
    assert 0.99 * 8.0 <= guarantee["spent_epsilon"] <= 8.0
    steps = [m for m in guarantee["mechanisms"] if m["steps"]]
    planned = private.gradients_of(run)
    assert planned is not None
    descent, share = planned
    multiplier = private.budget_of(run.recipe.privacy, run.schema).target.multiplier(descent, share)
    assert sum(m["steps"] for m in steps) == descent.steps
    assert {(m["rate"], m["noise_std"], m["sensitivity"]) for m in steps} == {(descent.rate, multiplier, 1.0)}
    actual = private.actual(run)
    assert actual.within(private.worst_of(run))
    # The ledger has the curve as it was reserved and as it was settled, not an epsilon.
    spent = ledger_at(tmp_path).spent("people")
    assert spent.epsilon == pytest.approx(guarantee["spent_epsilon"])


def test_what_the_profile_left_and_gradients_may_not_have_goes_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the profile had nothing to ask more closely: a tenth of its part is left.
    rho_of = Account.rho_of

    def less(*args: Any, **more: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(Account, "rho_of", lambda account, share: 0.9 * rho_of(account, share))
            return learn_noised(*args, **more)

    monkeypatch.setattr("synth.learn.learn_noised", less)
    run = run_of(tmp_path)
    done = release(run)
    assert run.recipe.privacy is not None
    budget = private.budget_of(run.recipe.privacy, run.schema)
    (report,) = private.charges_of(run, "report")
    assert report.rho > 1.05 * budget.report
    guarantee = json.loads((done.release / "certificate.json").read_text())["formal_guarantee"]
    assert 0.99 * 8.0 <= guarantee["spent_epsilon"] <= 8.0
    assert private.actual(run).within(private.worst_of(run))


def test_a_fit_that_is_resumed_replays_its_steps_at_no_new_charge(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    for step in ("ingest", "profile", "fit"):
        perform(run, step)
    charges, model = private.charges_of(run, "model"), run.workspace.records()["fit"].outputs
    assert sum(c.steps for c in charges) > 0
    (journal,) = run.workspace.path.glob("private-*/journal/model")
    before = bytes_of(journal)
    forget(run, "fit")
    perform(run, "fit")
    assert run.workspace.records()["fit"].outputs == model
    assert bytes_of(journal) == before


def test_a_fit_that_ended_between_checkpoints_goes_on_and_is_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path)
    for step in ("ingest", "profile"):
        perform(run, step)
    keep, kept = Account.keep, []

    def dies(account: Account, checkpoint: list[NDArray[Any]]) -> None:
        kept.append(len(checkpoint))
        if len(kept) == CHECKPOINTS:
            raise KeyboardInterrupt
        keep(account, checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(Account, "keep", dies)
        with pytest.raises(KeyboardInterrupt):
            perform(run, "fit")
    done = release(run)
    # The last part, whose steps are lost, stays charged.
    assert len([c for c in private.charges_of(run, "model") if c.steps]) == CHECKPOINTS
    guarantee = json.loads((done.release / "certificate.json").read_text())["formal_guarantee"]
    assert 0.99 * 8.0 <= guarantee["spent_epsilon"] <= 8.0


def test_a_settled_run_takes_no_new_step(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    release(run)
    shutil.rmtree(next(iter(run.workspace.path.glob("private-*/journal/model"))))
    forget(run, "fit")
    with pytest.raises(ReleaseError, match="settled"):
        perform(run, "fit")


def test_steps_that_do_not_follow_from_what_is_public_are_refused_before_a_row_is_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(RecipeError, match="`units_about` in the schema is not set"):
        check(run_of(tmp_path, units_about=None))


def test_the_plan_says_how_many_steps_there_are_and_how_much_noise(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    said = estimate(run).privacy
    assert "90% of the model's for 80 steps, each of 5.000% of the units, with noise " in said
    assert "times what one unit adds" in said
    assert not (run.workspace.path / "rows.parquet").exists()


def test_an_audit_trains_by_the_same_steps(tmp_path: Path) -> None:
    found = examine(run_of(tmp_path), rows=300, canaries=60)
    assert 0 <= found.found.epsilon <= 8.0
    assert ledger_at(tmp_path).datasets() == ()


def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault: no noise on gradients."""
    monkeypatch.setattr(SystemNoise, "normal", lambda self, size: np.zeros(size))


def unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault: gradients as long as they are, under the noise of clipped ones."""
    clipped = Layers.clipped
    monkeypatch.setattr(Layers, "clipped", lambda *args, **_: clipped(*args, bound=1e9))


@pytest.mark.parametrize("fault", [silent, unclipped])
def test_an_audit_finds_gradients_that_keep_no_promise(
    fault: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, epsilon=1.0)
    fault(monkeypatch)
    found = examine(run, rows=300, canaries=200)
    assert found.broken
    assert found.found.attack == "gradients"
    with pytest.raises(ReleaseError, match="contradict what is promised"):
        found.raise_if_broken()


def forget(run: Run, step: str) -> None:
    """As if the run had ended in the midst of a step."""
    manifest = json.loads(run.workspace.manifest.read_text("utf-8"))
    del manifest["steps"][step]
    run.workspace.manifest.write_text(json.dumps(manifest), "utf-8")
