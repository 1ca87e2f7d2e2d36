"""Groups of protected columns: their shares, and how models err about them."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from synth.schema import Schema
from validation.cells import cells_of
from validation.fairness import Fairness, fairness, render
from validation.gates import GateRules, verdict
from validation.utility import Guesses

SCHEMA = Schema.model_validate(
    {
        "columns": [
            {"name": "sex", "kind": "categorical", "type": "string"},
            {"name": "origin", "kind": "categorical", "type": "string"},
            {"name": "age", "kind": "numerical", "type": "int64"},
            {"name": "income", "kind": "categorical", "type": "string"},
            {"name": "ill", "kind": "categorical", "type": "string"},
        ]
    }
)


def table(rows: int, seed: int, *, women: float = 0.4) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "sex": rng.choice(["f", "m"], rows, p=[women, 1 - women]),
            "origin": rng.choice(["here", "<b>there", "nowhere"], rows, p=[0.7, 0.299, 0.001]),
            "age": rng.integers(0, 80, rows),
            "income": rng.choice(["low", "<i>high"], rows),
            "ill": ["of rabies" if i < 9 else "no" for i in range(rows)],
        }
    )


TRAIN, HOLDOUT, LIKE = table(4000, 0), table(2000, 1), table(4000, 2)
WOMEN = np.array(HOLDOUT["sex"].to_pylist()) == "f"


def found(synthetic: pa.Table, *protected: str, guesses: tuple[Guesses, ...] = ()) -> Fairness:
    cells = [cells_of(c, (TRAIN, HOLDOUT, synthetic)) for c in SCHEMA]
    return fairness(cells, protected, guesses, at_least=10, seed=0)


def guessed(wrong_about_women: float) -> Guesses:
    """After real rows a tenth is wrong about everybody; after synthetic rows more about women."""
    rng = np.random.default_rng(0)
    truth = (rng.random(2000) < 0.5).astype(np.float64)
    real, synthetic = (
        np.where(rng.random(2000) < rate, 1 - truth, truth)
        for rate in (np.full(2000, 0.1), np.where(WOMEN, wrong_about_women, 0.1))
    )
    return Guesses(
        target="income", classes={0.0: "low", 1.0: "<i>high"}, rows=np.arange(2000), truth=truth, real=real,
        synthetic=synthetic,
    )  # fmt: skip


def warned(seen: Fairness) -> set[tuple[str, tuple[str, ...]]]:
    judged = verdict(None, (), GateRules(), fairness=seen)
    assert judged.passed
    return {(f.rule, f.columns) for f in judged.warnings}


def test_shares_of_groups_and_of_groups_of_groups_are_those_that_are_counted() -> None:
    seen = {g.values: g for g in found(LIKE, "sex", "origin").groups}
    for side, rows in (("real", TRAIN), ("synthetic", LIKE), ("holdout", HOLDOUT)):
        people = list(zip(rows["sex"].to_pylist(), rows["origin"].to_pylist(), strict=True))
        assert getattr(seen[("f",)], side) == pytest.approx(np.mean([s == "f" for s, _ in people]))
        both = np.mean([p == ("m", "<b>there") for p in people])
        assert getattr(seen[("m", "<b>there")], side) == pytest.approx(both)


def test_groups_of_too_few_people_are_not_named() -> None:
    assert 0 < TRAIN["origin"].to_pylist().count("nowhere") < 10
    assert all("nowhere" not in g.values for g in found(LIKE, "sex", "origin").groups)


def test_numbers_are_grouped_by_quarters() -> None:
    assert [g.real for g in found(LIKE, "age").groups] == pytest.approx([0.25] * 4, abs=0.03)


def test_where_numbers_and_times_are_cut_tells_of_no_row() -> None:
    rng = np.random.default_rng(5)
    seconds = rng.integers(1_400_000_000, 1_700_000_000, 900)
    rows = pa.table({"income": rng.normal(51_234, 9_876, 900), "seen": pa.array(seconds, pa.timestamp("s"))})
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": "income", "kind": "numerical", "type": "double"},
                {"name": "seen", "kind": "datetime", "type": "timestamp[s]"},
            ]
        }
    )
    cells = [cells_of(c, (rows, rows, rows)) for c in schema]
    seen = fairness(cells, ("income", "seen"), (), at_least=10, seed=0)
    names = {g.values[0] for g in seen.groups if len(g.values) == 1}
    assert "51000 to 58000" in names or "to 45000" in names
    assert any(n.startswith("to 20") for n in names)
    assert not any("e+" in n or n.strip("to ").count(".") for n in names)


def test_a_group_that_loses_a_fifth_of_its_share_is_warned_of_and_rows_alike_are_not() -> None:
    assert warned(found(LIKE, "sex", "origin")) == set()
    assert ("representation", ("sex",)) in warned(found(table(4000, 3, women=0.25), "sex"))
    assert warned(found(table(4000, 3, women=0.37), "sex")) == set()


def test_a_gap_is_the_largest_rate_less_the_smallest() -> None:
    guesses = guessed(0.3)
    gaps = {g.rate: g for g in found(LIKE, "sex", guesses=(guesses,)).gaps}
    assert set(gaps) == {"errors", "errors where it is low", "errors where it is <i>high"}
    for rate, asked in (("errors", guesses.truth >= 0), ("errors where it is <i>high", guesses.truth == 1)):
        wrong = guesses.synthetic != guesses.truth
        slow = abs(wrong[WOMEN & asked].mean() - wrong[~WOMEN & asked].mean())
        assert gaps[rate].synthetic == pytest.approx(slow)
        assert gaps[rate].wider.low < gaps[rate].synthetic - gaps[rate].real < gaps[rate].wider.high


def test_a_class_of_too_few_people_is_not_named() -> None:
    guesses = replace(guessed(0.3), target="ill", classes={0.0: "no", 1.0: "of rabies"})
    assert {g.rate for g in found(LIKE, "sex", guesses=(guesses,)).gaps} == {"errors"}


def test_synthetic_rows_that_widen_a_gap_are_warned_of() -> None:
    assert ("fairness", ("sex", "income")) in warned(found(LIKE, "sex", guesses=(guessed(0.3),)))
    assert not warned(found(LIKE, "sex", guesses=(guessed(0.1),)))


def test_of_numbers_the_mean_error_is_compared_and_no_group_by_what_is_predicted() -> None:
    truth = np.random.default_rng(0).normal(size=2000)
    worse = Guesses(
        target="age", classes={}, rows=np.arange(2000), truth=truth, real=truth + 0.1, synthetic=truth + 0.1 + WOMEN
    )  # fmt: skip
    gaps = found(LIKE, "sex", "age", guesses=(worse,)).gaps
    assert [(g.column, g.rate) for g in gaps] == [("sex", "mean error")]
    assert gaps[0].synthetic == pytest.approx(1 / np.mean(np.abs(truth - truth.mean())))


def test_figures_survive_json_and_names_are_inert() -> None:
    seen = found(LIKE, "sex", "origin", guesses=(guessed(0.3),))
    assert Fairness.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen
    page = render(seen)
    assert "<b>there" not in page
    assert "<i>high" not in page
    assert "&lt;b&gt;there" in page
    assert "No model" in render(found(LIKE, "sex"))
