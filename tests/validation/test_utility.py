"""Models that learn from synthetic rows: figures whose answer is known, beside slow and obvious computations."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from synth.schema import Schema
from validation.cells import cells_of
from validation.detection import Detection, detect
from validation.features import (
    LEAST_ROWS,
    TAUGHT,
    Features,
    bounded,
    resampled,
    weighted_auc,
    weighted_r2,
)
from validation.utility import Utility, render, suggested, utility

KINDS = {
    "x": "numerical",
    "group": "categorical",
    "noise": "numerical",
    "label": "categorical",
    "y": "numerical",
}
SCHEMA = Schema.model_validate(
    {
        "columns": [
            {"name": n, "kind": k, "type": "string" if k == "categorical" else "double"}
            for n, k in KINDS.items()
        ]
    }
)


def table(rows: int, seed: int, *, kept: bool = True) -> pa.Table:
    """`label` follows from `x` and `group`, `y` from `x`; where they are not `kept`, from nothing."""
    rng = np.random.default_rng(seed)
    x, group = rng.normal(size=rows), rng.choice(list("abc"), rows)
    score = 2 * x + 2.0 * (group == "a") + rng.normal(size=rows)
    y = x + 0.3 * rng.normal(size=rows)
    if not kept:
        score, y = rng.permutation(score), rng.permutation(y)
    return pa.table(
        {
            "x": pa.array(x, mask=rng.random(rows) < 0.1), "group": group, "noise": rng.normal(size=rows),
            "label": np.where(score > 0, "yes", "no"), "y": y,
        }
    )  # fmt: skip


TRAIN, HOLDOUT = table(1500, 0), table(600, 1)


def cells(synthetic: pa.Table, train: pa.Table = TRAIN, holdout: pa.Table = HOLDOUT):
    return [cells_of(c, (train, holdout, synthetic)) for c in SCHEMA]


def used(synthetic: pa.Table, *targets: str, **real: pa.Table) -> Utility:
    found = cells(synthetic, **real)
    return utility(found, Features.of(found), targets, seed=0)[0]


def test_weighted_figures_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.4
    truth, weights = rng.normal(size=200), resampled(200, rng)[:5]
    areas, explained = (
        weighted_auc(scores, positive, weights),
        weighted_r2(truth, truth + scores / 9, weights),
    )
    for w, area, r2 in zip(weights, areas, explained, strict=True):
        assert area == pytest.approx(roc_auc_score(positive, scores, sample_weight=w))
        assert r2 == pytest.approx(r2_score(truth, truth + scores / 9, sample_weight=w))
    assert weighted_auc(scores, np.ones(200, bool), weights)[0] == 0.5


def test_rows_like_the_real_ones_teach_as_much_and_in_the_same_way() -> None:
    for task in used(table(1500, 2), "label", "y").tasks:
        for score in task.scores:
            assert score.gap.low < 0.02
            assert score.real.value > 0.8
            assert score.real.low < score.real.value < score.real.high
        assert task.ranking is not None
        assert task.ranking > 0.7
        assert {n for n, *_ in task.features[:2]} <= {"x", "group", "y", "label"}


def test_rows_whose_columns_do_not_belong_together_teach_nothing() -> None:
    for task in used(table(1500, 2, kept=False), "label", "y").tasks:
        for score in task.scores:
            assert score.gap.proven(0.0) > 0.25


def test_the_last_column_of_classes_and_the_last_of_numbers_are_suggested() -> None:
    found = used(table(400, 2))
    assert suggested(cells(table(400, 2))) == ("label", "y")
    assert [(t.target, t.named) for t in found.tasks] == [("label", False), ("y", False)]


def in_two_numbers(rows: pa.Table) -> pa.Table:
    """The label as 1 and 0, as most tables write a yes and a no."""
    ones = pc.cast(pc.equal(rows["label"], "yes"), pa.float64())
    return rows.drop_columns(["label", "y"]).append_column("y", ones)


def test_a_column_of_two_numbers_is_a_target_of_classes() -> None:
    tables = TRAIN, HOLDOUT, table(1500, 2)
    by_number = [
        cells_of(SCHEMA[n], tuple(map(in_two_numbers, tables))) for n in ("x", "group", "noise", "y")
    ]
    assert suggested(by_number)[0] == "y"
    found, (guesses,) = utility(by_number, Features.of(by_number), ("y",), seed=0)
    assert found.tasks[0].measure == "AUC"
    assert set(guesses.classes.values()) == {"0", "1"}
    by_name = [cells_of(SCHEMA[n], tables) for n in ("x", "group", "noise", "label")]
    same = utility(by_name, Features.of(by_name), ("label",), seed=0)[0].tasks[0]
    for one, other in zip(found.tasks[0].scores, same.scores, strict=True):
        assert one.real.value == pytest.approx(other.real.value, abs=0.01)


def test_rows_of_one_class_teach_as_much_as_a_guess() -> None:
    one = TRAIN.set_column(3, "label", pa.array(["yes"] * TRAIN.num_rows))
    (task,) = used(one, "label").tasks
    assert all(s.synthetic.value == 0.5 for s in task.scores)


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("label", ["yes"] * 1500, "one class"),
        ("y", [1.0] * 1500, "one class"),
        ("y", [float(i) if i > 700 else 7.0 for i in range(1500)], "constant in the held-out"),
        ("label", [f"c{i % 50}" for i in range(1500)], "50 classes"),
    ],
)
def test_what_cannot_be_predicted_is_skipped_and_said(name: str, values: list[object], why: str) -> None:
    place = SCHEMA.names.index(name)
    real = {
        side: t.set_column(place, name, pa.array(values[: t.num_rows]))
        for side, t in (("train", TRAIN), ("holdout", HOLDOUT))
    }
    found = used(table(1500, 2), name, **real)
    assert not found.tasks
    assert why in found.skipped[name]
    assert why in render(found)


def test_a_target_that_the_synthetic_rows_hardly_have_is_skipped() -> None:
    empty = TRAIN.set_column(4, "y", pa.nulls(TRAIN.num_rows, pa.float64()))
    assert "synthetic rows" in used(empty, "y").skipped["y"]


def told(synthetic: pa.Table) -> Detection:
    found = detect(Features.of(cells(synthetic)), synthetic, seed=0)
    assert found is not None
    return found


def test_rows_like_the_real_ones_cannot_be_told() -> None:
    found = told(table(1500, 2))
    assert found.auc.low < 0.53
    assert found.ceiling is not None
    assert found.ceiling.low < 0.5 < found.ceiling.high
    assert found.told < 0.01


def test_what_gives_rows_away_is_named() -> None:
    made = table(1500, 2)
    rounded = made.set_column(2, "noise", pa.array(np.round(made["noise"].to_numpy(), 1)))
    shuffled = told(table(1500, 2, kept=False))
    assert told(rounded).giveaways[0][0] == "noise"
    assert shuffled.auc.low > 0.8
    assert {n for n, _ in shuffled.giveaways[:2]} <= {"x", "y", "label"}


def test_rows_that_trees_are_surest_of_are_shown_by_what_gave_them_away() -> None:
    made = table(1500, 2)
    noise = made["noise"].to_numpy().copy()
    noise[[7, 1400]] = [77.0, 99.0]
    odd = np.arange(1500) % 3 == 0
    far = made.set_column(2, "noise", pa.array(np.where(odd | (noise > 50), np.maximum(noise, 5.5), noise)))
    found = told(far)
    assert found.examples
    assert all(e.sure > 0.9 for e in found.examples)
    rows = {str(v) for v in far["noise"].to_pylist()}
    for example in found.examples:
        assert example.values[0][0] == "noise"
        assert example.values[0][1] in rows
        assert float(example.values[0][1]) >= 5.5
    assert told(made).examples == ()


def test_copies_score_below_one_half() -> None:
    assert told(TRAIN).auc.high < 0.45


def test_too_few_rows_are_not_told_apart() -> None:
    few = table(20, 2)
    assert detect(Features.of(cells(few)), few, seed=0) is None


def test_evidence_of_models_is_json_without_loss() -> None:
    odd = table(300, 2)
    far = odd.set_column(2, "noise", pa.array(odd["noise"].to_numpy() + 9))
    found, seen = used(table(300, 2), "label", "void"), told(far)
    assert seen.examples
    assert found.skipped == {"void": "is not learned"}
    assert Utility.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert Detection.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen


def test_equal_seeds_give_equal_figures() -> None:
    assert used(table(300, 2), "label") == used(table(300, 2), "label")
    assert told(table(300, 2)) == told(table(300, 2))


def test_trees_see_fewer_rows_of_many_columns_and_classes_but_some_in_any_case() -> None:
    assert bounded(50_000, 20) == 50_000
    assert bounded(50_000, 1_000) == TAUGHT // 1_000
    assert bounded(50_000, 300, 12) == TAUGHT // 3_600
    assert bounded(50_000, 300, 2) == bounded(50_000, 300, 1)
    assert bounded(50_000, 10**9) == LEAST_ROWS
    assert bounded(300, 10**9) == 300
