"""Ceilings: a standard error is what other held-out rows would have shown."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from synth.schema import Column, Schema
from validation.ceilings import (
    FEWEST,
    GROUPS,
    Groups,
    _codes,
    _correlated,
    _counted,
    _shape,
    _standard,
    cumulated,
    error,
    overlap,
)
from validation.cells import cells_of
from validation.fidelity import measure
from validation.markup import within

SCHEMA = Schema(
    columns=(
        Column(name="x", kind="numerical", type="double"),
        Column(name="y", kind="numerical", type="double"),
        Column(name="c", kind="categorical", type="string"),
    )
)


def table(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    y = x + rng.normal(size=rows)
    c = np.array(["a", "b", "c"])[np.digitize(x + rng.normal(size=rows), [-1, 1])]
    return pa.table({"x": x, "y": np.where(rng.random(rows) < 0.1, np.nan, y), "c": c})


def test_without_a_group_counts_are_those_of_the_other_rows() -> None:
    rng = np.random.default_rng(0)
    codes, weights = rng.integers(0, 5, 300), rng.normal(size=300)
    groups = Groups.drawn(300, None, seed=0)
    stays = list(groups.parts())
    assert len(stays) == GROUPS + 1
    assert all(s.sum() == 285 for s in stays[1:])
    assert groups.sums(codes, 5) == pytest.approx(
        np.array([np.bincount(codes[s], minlength=5) for s in stays])
    )
    assert groups.sums(codes, 5, weights) == pytest.approx(
        np.array([np.bincount(codes[s], weights[s], 5) for s in stays])
    )
    lines = rng.normal(size=(4, 300))
    assert groups.least(lines) == pytest.approx(np.array([lines[:, s].min(axis=1) for s in stays]))
    some = rng.random(300) < 0.4
    assert groups.of(some).sums(codes[some], 5) == pytest.approx(
        np.array([np.bincount(codes[s & some], minlength=5) for s in stays])
    )


def test_the_error_of_a_share_is_the_binomial_one() -> None:
    rng = np.random.default_rng(0)
    found = [
        error(Groups.drawn(2_000, None, seed=s).shares((rng.random(2_000) < 0.3).astype(np.int64), 2)[:, 1])
        for s in range(40)
    ]
    assert np.mean([e for e in found if e is not None]) == pytest.approx(np.sqrt(0.3 * 0.7 / 2_000), rel=0.1)


def test_rows_of_one_unit_are_left_out_together() -> None:
    rng = np.random.default_rng(0)
    codes, units = np.repeat(rng.random(300) < 0.3, 10).astype(np.int64), np.repeat(np.arange(300), 10)
    alone, together = (
        np.mean([error(Groups.drawn(3_000, u, seed=s).shares(codes, 2)[:, 1]) or 0 for s in range(20)])
        for u in (None, units.astype(np.uint64))
    )
    assert together == pytest.approx(np.sqrt(10) * alone, rel=0.25)


def test_of_few_rows_nothing_is_said() -> None:
    assert (
        error(Groups.drawn(FEWEST - 1, None, seed=0).shares(np.zeros(FEWEST - 1, np.int64), 1)[:, 0]) is None
    )
    units = np.repeat(np.arange(FEWEST - 1), 5).astype(np.uint64)
    assert (
        error(Groups.drawn(len(units), units, seed=0).shares(np.zeros(len(units), np.int64), 1)[:, 0]) is None
    )
    few = measure(table(500, 0), table(60, 1), table(500, 2), SCHEMA, at_least=0, seed=0)
    assert few.shape_ceiling is not None
    assert few.shape_error is None
    assert few.columns[0].shape_error is None


def test_distances_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200).round(1), rng.normal(0.3, 2, size=150).round(1)
    steps, first, second = cumulated(a, b, Groups.none(150))
    assert np.abs(first - second).max() == pytest.approx(stats.ks_2samp(a, b).statistic)
    moved = (np.abs(first - second)[:, :-1] * np.diff(steps)).sum()
    assert moved == pytest.approx(stats.wasserstein_distance(a, b))
    assert overlap(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]]))[0] == pytest.approx(0.75)


def test_errors_are_about_what_other_held_out_rows_show() -> None:
    train, made = table(4_000, 0), table(100, 1)
    found = [measure(train, table(1_000, 10 + s), made, SCHEMA, at_least=0, seed=s) for s in range(25)]
    for ceiling, told in (
        ([f.shape_ceiling for f in found], [f.shape_error for f in found]),
        ([f.trend_ceiling for f in found], [f.trend_error for f in found]),
        ([f.columns[0].shape_ceiling for f in found], [f.columns[0].shape_error for f in found]),
    ):
        # Distances are not smooth where they are near nothing, so the jackknife says too much there, seldom too little.
        assert 0.7 < np.mean(np.array(told, float)) / np.std(np.array(ceiling, float)) < 2.5


def test_what_errors_are_of_is_what_sdmetrics_scores() -> None:
    def rough(rows: int, seed: int) -> pa.Table:
        rng = np.random.default_rng(seed)
        plain = table(rows, seed)
        flag = pa.array((plain["x"].to_numpy() > 0).tolist(), mask=rng.random(rows) < 0.2)
        words = pa.array(plain["c"].to_pylist(), mask=rng.random(rows) < 0.2)
        return plain.set_column(2, "c", words).append_column("flag", flag)

    columns = (*SCHEMA.columns, Column(name="flag", kind="boolean", type="bool"))
    train, holdout, made = rough(2_000, 0), rough(700, 1), rough(50, 2)
    found = measure(train, holdout, made, Schema(columns=columns), at_least=0, seed=0)
    cells = [cells_of(c, (train, holdout, made)) for c in columns]
    alone = Groups.none(700)
    for own, column in zip(cells, found.columns, strict=True):
        assert _shape(own, alone)[0] == pytest.approx(column.shape_ceiling, abs=1e-9)
    place = {c.name: i for i, c in enumerate(columns)}
    # SDMetrics scores no pair that hardly hangs together.
    scored = [p for p in found.pairs if p.trend_ceiling is not None]
    assert len(scored) >= 3
    for pair in scored:
        first, second = (cells[place[n]] for n in (pair.first, pair.second))
        if first.numbers is not None and second.numbers is not None:
            told = _correlated(_standard(first.numbers), _standard(second.numbers), alone)
        else:
            told = _counted(_codes(first, alone), _codes(second, alone), alone)
        assert told[0] == pytest.approx(pair.trend_ceiling, abs=1e-9), (pair.first, pair.second)


def test_columns_of_few_values_have_no_error_and_those_of_some_an_honest_one() -> None:
    def sparse(rows: int, seed: int, share: float) -> pa.Table:
        rng = np.random.default_rng(seed)
        plain = table(rows, seed)
        return plain.set_column(2, "c", pa.array(plain["c"].to_pylist(), mask=rng.random(rows) >= share))

    few = measure(sparse(2_000, 0, 0.05), sparse(1_000, 1, 0.05), table(50, 2), SCHEMA, at_least=0, seed=0)
    assert few.columns[2].shape_ceiling is not None
    assert few.columns[2].shape_error is None
    train, made = sparse(4_000, 0, 0.2), table(50, 2)
    found = [
        measure(train, sparse(1_000, 10 + s, 0.2), made, SCHEMA, at_least=0, seed=s).columns[2]
        for s in range(25)
    ]
    told = np.mean([c.shape_error for c in found if c.shape_error is not None])
    assert 0.7 < told / np.std([c.shape_ceiling for c in found if c.shape_ceiling is not None]) < 2.5


def test_columns_that_are_constant_or_missing_break_nothing() -> None:
    def damaged(t: pa.Table) -> pa.Table:
        nothing = pa.nulls(t.num_rows, pa.float64())
        return t.set_column(0, "x", pa.array(np.full(t.num_rows, 1e308))).set_column(1, "y", nothing)

    sides = [damaged(table(300, s)) for s in range(3)]
    found = measure(*sides, SCHEMA, at_least=0, seed=0)
    assert found.columns[0].shape_error == 0.0
    assert found.columns[1].shape_error is None


def test_an_interval_stays_within_what_is_possible() -> None:
    assert within(0.99, 0.01) == "99.0 (97.0 to 100.0)"
    assert within(0.99, None) == "99.0"
    assert within(998.0, 5.0, "{:.0f}".format, most=1_000) == "998 (988 to 1000)"
