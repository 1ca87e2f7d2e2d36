"""Joint counts, coverage, missing patterns, rarity and the calendar, beside slow and obvious computations."""

import itertools
import json
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from synth.schema import Schema
from validation.cells import cells_of
from validation.features import Features
from validation.structure import Structure, _decimals, clouds, marginals, render, structure

SCHEMA = Schema.model_validate(
    {
        "columns": [
            {"name": "x", "kind": "numerical", "type": "double"},
            {"name": "y", "kind": "numerical", "type": "double"},
            {"name": "word", "kind": "categorical", "type": "string"},
            {"name": "at", "kind": "datetime", "type": "timestamp[s]"},
        ]
    }
)


def table(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    gone = rng.random(rows) < 0.2
    days = rng.choice(np.flatnonzero(np.arange(700) % 7 < 5), rows)
    at = (
        np.datetime64("2024-01-01T08:00", "s")
        + days.astype("timedelta64[D]")
        + rng.integers(0, 4, rows).astype("timedelta64[h]")
    )
    return pa.table(
        {
            "x": pa.array(x, mask=gone), "y": pa.array(x + rng.normal(size=rows), mask=gone),
            "word": rng.choice([*"ab", *[f"r{i}" for i in range(10)]], rows, p=[0.5, 0.44, *[0.006] * 10]),
            "at": pa.array(at),
        }
    )  # fmt: skip


TRAIN, HOLDOUT, LIKE = table(3000, 0), table(1500, 1), table(3000, 2)


def found(synthetic: pa.Table, holdout: pa.Table = HOLDOUT) -> Structure:
    cells = [cells_of(c, (TRAIN, holdout, synthetic)) for c in SCHEMA]
    return structure(cells, Features.of(cells), seed=0)


def figures(synthetic: pa.Table) -> dict[tuple[str, str | None], tuple[float, float]]:
    return {(f.measure, f.column): (f.synthetic, f.ceiling or 0.0) for f in found(synthetic).figures}


def test_marginals_are_scored_as_nist_scores_them() -> None:
    rng = np.random.default_rng(0)
    real, made = (rng.integers(-1, 4, (rows, 5)) for rows in (300, 200))
    for ways in (2, 3):
        gaps = []
        for chosen in itertools.combinations(range(5), ways):
            p, q = (Counter(tuple(r[list(chosen)]) for r in t) for t in (real, made))
            gaps.append(sum(abs(p[v] / 300 - q[v] / 200) for v in {*p, *q}))
        slow = (2 - np.mean(gaps)) * 500
        binned = [(real[:, i], made[:, i]) for i in range(5)]
        assert marginals(binned, ways, np.random.default_rng(0))[0] == pytest.approx(slow)


def test_of_many_columns_some_marginals_are_drawn() -> None:
    rng = np.random.default_rng(0)
    binned = [(rng.integers(0, 3, 200), rng.integers(0, 3, 200)) for _ in range(60)]
    drawn = [marginals(binned, 3, np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(drawn[2], abs=15)


def test_rows_like_the_real_ones_come_close_to_the_ceiling() -> None:
    for (measure, column), (value, ceiling) in figures(LIKE).items():
        if measure == "Wasserstein":
            assert value < ceiling + 0.05, column
        else:
            assert value > ceiling - (15 if "marginals" in measure else 0.05), (measure, column)


def test_coverage_is_what_a_slow_computation_says() -> None:
    cells = [cells_of(c, (TRAIN.slice(0, 120), HOLDOUT.slice(0, 120), LIKE.slice(0, 120))) for c in SCHEMA]
    features = Features.of(cells)
    real, made = (features.linear()[s] for s in ("train", "synthetic"))
    grid = np.linspace(0, 1, 21)
    radius = np.linalg.norm(real - real.mean(0), axis=1)
    other = np.linalg.norm(made - real.mean(0), axis=1)
    own = np.linalg.norm(made - made.mean(0), axis=1)
    precision, recall = [], []
    for share in grid:
        precision.append(np.mean([r <= np.quantile(radius, share) for r in other]))
        inside = made[own <= np.quantile(own, share)]
        hits = []
        for row in real:
            reach = np.sort(np.linalg.norm(real - row, axis=1))[5]
            hits.append(any(np.linalg.norm(inside - row, axis=1) <= reach))
        recall.append(np.mean(hits))
    slow = [1 - 2 * np.trapezoid(np.abs(np.array(v) - grid), grid) for v in (precision, recall)]
    assert clouds(features, "synthetic", np.random.default_rng(0)) == pytest.approx(slow, abs=0.01)


def test_a_model_that_reaches_only_the_middle_recalls_less_and_one_at_the_rim_is_less_precise() -> None:
    good = figures(LIKE)
    x = LIKE["x"].to_numpy(zero_copy_only=False)
    one = figures(LIKE.take(pa.array(np.repeat(np.flatnonzero(np.abs(x) < 0.1)[:3], 1000))))
    wide = figures(LIKE.set_column(0, "x", pa.array(4 * x, from_pandas=True)))
    assert one["β-recall", None][0] < good["β-recall", None][0] - 0.2
    assert wide["α-precision", None][0] < good["α-precision", None][0] - 0.1


def test_values_that_are_missing_one_by_one_break_the_pattern() -> None:
    y = LIKE["y"].to_pylist()
    assert figures(LIKE)["missing patterns", None][0] > 0.97
    assert figures(LIKE.set_column(1, "y", pa.array(y[1:] + y[:1])))["missing patterns", None][0] < 0.8


def test_ceilings_have_errors_which_are_larger_where_rows_are_of_few_units() -> None:
    cells = [cells_of(c, (TRAIN, HOLDOUT, LIKE)) for c in SCHEMA]
    features = Features.of(cells)
    alone = structure(cells, features, seed=0).figures
    assert {f.measure for f in alone if f.error is None} <= {"diagnosis", "order", "follows"}
    twice = HOLDOUT.take(pa.array(np.repeat(np.arange(150), 10)))
    cells = [cells_of(c, (TRAIN, twice, LIKE)) for c in SCHEMA]
    units = np.repeat(np.arange(150, dtype=np.uint64), 10)
    errors = [
        [f.error for f in structure(cells, Features.of(cells), seed=0, held_units=u).figures if f.error]
        for u in (None, units)
    ]
    assert np.mean(errors[1]) > 2 * np.mean(errors[0])


def test_one_row_far_out_is_not_read_from_a_distance() -> None:
    def told(far: float) -> list[tuple[float, float | None, float | None]]:
        x = HOLDOUT["x"].to_numpy(zero_copy_only=False).copy()
        x[0] = far
        cells = [
            cells_of(c, (TRAIN, HOLDOUT.set_column(0, "x", pa.array(x, from_pandas=True)), LIKE))
            for c in SCHEMA
        ]
        every = structure(cells, Features.of(cells), at_least=10, seed=0).figures
        return [
            (f.synthetic, f.ceiling, f.error) for f in every if (f.measure, f.column) == ("Wasserstein", "x")
        ]

    assert told(2e8) == told(3e9)
    assert told(2e8)[0][1] == pytest.approx(told(50.0)[0][1])


def test_decimals_are_told_as_far_as_a_type_is_fine_enough() -> None:
    def decimals(values: list[float], kind: type) -> list[int]:
        return _decimals(np.array(values, kind).astype(float), float(np.finfo(kind).eps)).tolist()

    assert decimals([3, 3.5, 12.34, 1e6, 0.1234567], np.float64) == [0, 1, 2, 0, 6]
    assert decimals([3, 3.5, 12.34], np.float32) == [0, 1, 2]
    assert decimals([1.7e12 + 0.37], np.float64) == [6]


def test_ages_that_are_whole_but_for_some_halves_are_not_to_have_fractions() -> None:
    rng = np.random.default_rng(0)

    def ages(t: pa.Table, *, rough: bool = False) -> pa.Table:
        whole = rng.integers(1, 80, t.num_rows) + rng.choice([0, 0.5], t.num_rows, p=[0.9, 0.1])
        return t.set_column(0, "x", pa.array(whole + rng.random(t.num_rows) * rough))

    def said(made: pa.Table) -> tuple[float, float]:
        cells = [cells_of(c, (ages(TRAIN), ages(HOLDOUT), made)) for c in SCHEMA]
        every = structure(cells, Features.of(cells), seed=0).figures
        (f,) = [f for f in every if (f.measure, f.column) == ("decimals", "x")]
        return f.synthetic, f.ceiling or 0.0

    assert said(ages(LIKE)) == pytest.approx((1.0, 1.0), abs=0.03)
    assert said(ages(LIKE, rough=True))[0] < 0.05
    assert ("decimals", "y") not in figures(LIKE)


def test_rare_categories_that_are_lost_are_counted() -> None:
    kept = LIKE.filter(pa.array([v not in ("r0", "r1", "r2") for v in LIKE["word"].to_pylist()]))
    assert figures(LIKE)["rare categories", None] == (1.0, 1.0)
    assert figures(kept)["rare categories", None][0] == pytest.approx(0.7)


def test_the_calendar_is_that_of_pandas() -> None:
    at = pd.Series(LIKE["at"].to_pandas())
    moved = at + pd.Timedelta(days=1, hours=1)
    seen = figures(LIKE.set_column(3, "at", pa.array(moved)))
    real = pd.Series(TRAIN["at"].to_pandas())
    for measure, of in (("hour", "hour"), ("weekday", "dayofweek"), ("month", "month")):
        p, q = (getattr(t.dt, of).value_counts(normalize=True) for t in (real, moved))
        assert seen[measure, "at"][0] == pytest.approx(1 - p.subtract(q, fill_value=0).abs().sum() / 2)
    assert seen["weekday", "at"][0] < 0.85 < seen["month", "at"][0]


def test_few_rows_and_none_held_out_are_no_error() -> None:
    few = found(LIKE.slice(0, 20), HOLDOUT.slice(0, 0))
    assert {f.measure for f in few.figures} >= {"2-way marginals", "Wasserstein"}
    assert all(f.ceiling is None for f in few.figures)
    assert found(LIKE.slice(0, 0)).figures == ()
    assert "nothing to compare" in render(Structure())


def test_figures_survive_json() -> None:
    seen = found(LIKE)
    assert Structure.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen
    assert all(np.isfinite(f.synthetic) for f in seen.figures)
