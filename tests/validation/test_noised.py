"""Noised figures: estimates without bias, intervals that hold, damage that is seen."""

import json
from dataclasses import replace

import numpy as np
import pytest

from privacy.curator import Floats
from synth.codec import Encoded
from tests.validation.counted import COLUMNS, encoded, figures, layout_of, marginals_of, recounted, shares_of
from validation.gates import GateRules, Judged, Verdict, verdict
from validation.noised import Noised, Score, noised, render

ROWS, NOISE = 6_000, 60.0
REAL = encoded(ROWS, seed=1)
SYNTHETIC = encoded(ROWS, seed=2, strength=0.75, moved=0.08)
MARGINALS = marginals_of(layout_of(REAL))


def distance(rows: Encoded, which: slice) -> float:
    """Root mean square distance D to the real rows, by plain means."""
    own, real = shares_of(MARGINALS, rows)[which], shares_of(MARGINALS, REAL)[which]
    return float(
        np.sqrt(np.mean([len(s) / 4 * ((s - r) ** 2).sum() for s, r in zip(own, real, strict=True)]))
    )


ALONE, PAIRS = slice(0, COLUMNS), slice(COLUMNS, None)


def draws(rows: Encoded, number: int, *, noise: float = NOISE) -> list[Noised]:
    return [
        figures(recounted(MARGINALS, REAL, noise=noise, seed=s, held_out=False), rows) for s in range(number)
    ]


def holds(score: Score | None, truth: float) -> bool:
    assert score is not None
    return score.low - 1e-9 <= 1 - truth <= score.high + 1e-9


def test_without_noise_to_speak_of_figures_are_the_plain_ones() -> None:
    found = figures(recounted(MARGINALS, REAL, noise=1e-3, seed=0, held_out=False), SYNTHETIC)
    assert found.shape is not None
    assert found.trend is not None
    assert 1 - found.shape.value == pytest.approx(distance(SYNTHETIC, ALONE), rel=1e-3)
    assert 1 - found.trend.value == pytest.approx(distance(SYNTHETIC, PAIRS), rel=1e-3)
    for i, column in enumerate(found.columns):
        assert 1 - column.shape.value == pytest.approx(distance(SYNTHETIC, slice(i, i + 1)), rel=1e-3)


def test_noise_is_taken_off_on_average_and_not_otherwise() -> None:
    squares = [(1 - f.trend.value) ** 2 for f in draws(SYNTHETIC, 200) if f.trend is not None]
    truth = distance(SYNTHETIC, PAIRS) ** 2
    error = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - truth) < 4 * error
    # What noise alone would add is far more than that, so an estimate that forgot it would be found out.
    cells = np.mean([len(s) / 4 * (len(s) - 1) for s in shares_of(MARGINALS, REAL)[PAIRS]])
    assert cells * (NOISE / ROWS) ** 2 > 20 * error


@pytest.mark.parametrize(
    "rows", [REAL, SYNTHETIC, encoded(ROWS, seed=4, strength=0.0)], ids=["real", "near", "far"]
)
def test_intervals_hold_in_ninety_five_of_a_hundred_draws(rows: Encoded) -> None:
    found = draws(rows, 200)
    truths = [distance(rows, slice(i, i + 1)) for i in range(len(MARGINALS))]
    held = {
        "shape": np.mean([holds(f.shape, distance(rows, ALONE)) for f in found]),
        "trend": np.mean([holds(f.trend, distance(rows, PAIRS)) for f in found]),
        "columns": np.mean(
            [all(holds(c.shape, t) for c, t in zip(f.columns, truths, strict=False)) for f in found]
        ),
        "pairs": np.mean(
            [all(holds(p.trend, t) for p, t in zip(f.pairs, truths[COLUMNS:], strict=True)) for f in found]
        ),
    }
    # Of 200 draws at 0.95 there are fewer than 0.91 with a chance of 1 in 100.
    assert min(held.values()) >= 0.91, held


def test_intervals_that_hold_are_no_wider_than_noise_makes_them() -> None:
    widths = [f.trend.high - f.trend.low for f in draws(SYNTHETIC, 20) if f.trend is not None]
    quiet = [f.trend.high - f.trend.low for f in draws(SYNTHETIC, 20, noise=NOISE / 4) if f.trend is not None]
    # What is left provides for the rows' own sampling, since a model may have come nearer to them than to their like.
    assert np.mean(quiet) < 0.6 * np.mean(widths) < 0.05


def test_sampling_of_held_out_rows_is_in_the_interval() -> None:
    """Held-out rows are few here, and there is next to no noise: what is off is sampling alone."""
    held = []
    for seed in range(150):
        few = REAL.take(np.random.default_rng(seed).integers(ROWS, size=400))
        found = figures(recounted(MARGINALS, few, noise=0.01, seed=seed), SYNTHETIC)
        held.append(
            holds(found.trend, distance(SYNTHETIC, PAIRS)) and holds(found.shape, distance(SYNTHETIC, ALONE))
        )
    assert np.mean(held) >= 0.9
    assert not holds(
        figures(recounted(MARGINALS, few, noise=0.01, seed=0, held_out=True), SYNTHETIC).trend, 0.5
    )


def test_what_is_kept_of_association_is_the_plain_slope_and_its_intervals_hold() -> None:
    def rest(shares: Floats, shape: tuple[int, ...]) -> Floats:
        joint = shares.reshape(shape)
        return joint - np.outer(joint.sum(1), joint.sum(0))

    own, real = shares_of(MARGINALS, SYNTHETIC), shares_of(MARGINALS, REAL)
    truth = []
    for c in range(COLUMNS):
        pairs = [
            (i, m.shape)
            for i, m in enumerate(MARGINALS)
            if len(m.axes) == 2 and c in {a.column for a in m.axes}
        ]
        both = [(len(own[i]) * rest(own[i], s), rest(real[i], s)) for i, s in pairs]
        weights = [len(own[i]) for i, _ in pairs]
        squares = sum(w * (h * h).sum() for w, (_, h) in zip(weights, both, strict=True))
        truth.append(sum((s * h).sum() for s, h in both) / squares)
    found = draws(SYNTHETIC, 150)
    kept = [[c.kept for c in f.columns] for f in found]
    assert all(k is not None for row in kept for k in row)
    values = np.array([[k.value for k in row if k is not None] for row in kept])
    # A ratio of two estimates without bias has a small one.
    np.testing.assert_allclose(values.mean(0), truth, atol=0.03)
    held = [
        all(k is not None and k.low <= t <= k.high for k, t in zip(row, truth, strict=True)) for row in kept
    ]
    assert np.mean(held) >= 0.9
    # An interval of half the width would be found out.
    half = [
        all(
            k is not None and abs(k.value - t) <= (k.high - k.low) / 4
            for k, t in zip(row, truth, strict=True)
        )
        for row in kept
    ]
    assert np.mean(half) < 0.9


def test_rows_of_the_same_kind_score_their_ceiling_on_average() -> None:
    population = encoded(60_000, seed=9)
    gaps = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        synthetic, held = (population.take(rng.integers(60_000, size=2_000)) for _ in range(2))
        found = figures(recounted(MARGINALS, held, noise=5.0, seed=seed), synthetic)
        assert found.trend is not None
        gaps.append((1 - found.trend.value) ** 2 - (1 - found.trend.ceiling) ** 2)
    assert abs(np.mean(gaps)) < 4 * np.std(gaps) / np.sqrt(len(gaps))
    assert (1 - found.trend.ceiling) ** 2 > 8 * np.std(gaps) / np.sqrt(len(gaps))


def judged(rows: Encoded, seed: int = 0, noise: float = NOISE) -> Verdict:
    found = figures(recounted(MARGINALS, REAL, noise=noise, seed=seed, held_out=False), rows)
    return verdict(None, (), GateRules(), noised=found)


def test_real_rows_are_never_refused_and_mostly_decided() -> None:
    outcomes = [j.outcome for seed in range(30) for j in judged(REAL, seed).judged]
    assert "fail" not in outcomes
    assert outcomes.count("pass") > 0.9 * len(outcomes)


def test_a_shuffled_column_is_refused_and_named() -> None:
    states = SYNTHETIC.states.copy()
    states[:, 1] = np.random.default_rng(0).permutation(states[:, 1])
    found = judged(replace(SYNTHETIC, states=states))
    assert {(f.rule, f.columns) for f in found.critical} == {("association", ("c1",))}
    assert "the pairs of 'c1' lost between" in found.summary
    assert judged(SYNTHETIC).passed


def test_columns_drawn_apart_are_refused() -> None:
    found = judged(encoded(ROWS, seed=5, strength=0.0))
    assert {f.columns for f in found.critical} == {(f"c{c}",) for c in range(COLUMNS)}


def test_a_column_of_other_values_is_refused_by_its_shape() -> None:
    states = SYNTHETIC.states.copy()
    states[:, 0] = 0
    found = judged(replace(SYNTHETIC, states=states))
    assert ("shape", ("c0",)) in {(f.rule, f.columns) for f in found.critical}


def test_what_noise_hides_is_undecided_and_only_warns() -> None:
    found = judged(SYNTHETIC, noise=1_000.0)
    assert found.passed
    assert {j.outcome for j in found.judged} <= {"undecided", "pass"}
    assert all(f.undecided for f in found.warnings)
    assert "undecided because of noise" in found.summary
    assert len(found.warnings) <= 5
    assert Verdict.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.0, 0.05, "pass"), (0.04, 0.06, "undecided"), (0.051, 0.2, "fail")]
)
def test_a_figure_is_decided_where_its_interval_lies_on_one_side(
    low: float, high: float, outcome: str
) -> None:
    found = Judged(
        rule="shape", level="warning", columns=(), value=low, low=low, high=high, limit=0.05, about="all"
    )
    assert found.outcome == outcome


def test_where_noise_hides_that_there_are_rows_there_are_no_figures() -> None:
    recount = recounted(MARGINALS, REAL.take(np.arange(10)), noise=500.0, seed=0)
    assert noised(replace(recount, counts=tuple(0 * c for c in recount.counts)), {}, []) is None
    assert noised(replace(recount, marginals=(), counts=()), {}, []) is None


def test_figures_come_back_from_their_text_and_stand_on_the_page() -> None:
    found = draws(SYNTHETIC, 1)[0]
    assert Noised.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    page = str(render(found, judged(SYNTHETIC).judged))
    assert "noised number" in page
    assert page.count("<tr") == 1 + 1 + COLUMNS + 1 + len(found.pairs)
    assert "pass" in page


def test_rows_of_one_unit_widen_the_interval() -> None:
    recount = recounted(MARGINALS, REAL, noise=0.5, seed=0)
    one, many = (figures(replace(recount, unit_rows=k), SYNTHETIC).trend for k in (1, 8))
    assert one is not None
    assert many is not None
    assert many.high - many.low > 1.5 * (one.high - one.low)
