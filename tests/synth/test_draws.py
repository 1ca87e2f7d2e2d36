"""Draws from tables follow the tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from scipy import stats

from privacy.curator import Floats
from synth.draws import Tables, from_tables, rowwise

tables = of_numpy.arrays(
    np.float64,
    of_numpy.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.one_of(st.just(0.0), st.floats(1e-12, 1e6)),
).map(lambda table: np.where(table.sum(0) > 0, table, 1.0))


def shares_of(tables: Tables, size: int, columns: int) -> Floats:
    """The probabilities that the parts of equal probability give each value: (S, K)."""
    stays, way = (a.reshape(columns, size).astype(float) for a in (tables._stays, tables._way))
    shares = stays / size
    for k in range(columns):
        np.add.at(shares[k], np.arange(size) + way[k].astype(int), (1 - stays[k]) / size)
    return shares.T


@settings(max_examples=200, deadline=None)
@given(tables)
def test_the_parts_have_the_probabilities_of_the_table(table: Floats) -> None:
    shares = shares_of(Tables(table), *table.shape)
    np.testing.assert_allclose(shares, table / table.sum(0), atol=1e-6)
    assert (shares[table == 0] == 0).all()


@pytest.mark.parametrize("size", [1, 2, 7, 300, Tables.MOST + 1])
def test_draws_follow_the_table(size: int) -> None:
    rng = np.random.default_rng(0)
    table = rng.random((size, 3)) * (rng.random((size, 3)) < 0.7)
    table[0] += 0.1
    column = rng.integers(0, 3, 60_000)
    for drawn in (Tables(table).draw(rng, column), from_tables(rng, table, column)):
        for k in range(3):
            counts = np.bincount(drawn[column == k], minlength=size)
            expected = table[:, k] / table[:, k].sum() * counts.sum()
            assert counts[expected == 0].sum() == 0
            often = expected > 5
            observed = np.append(counts[often], counts[~often].sum())
            hoped = np.append(expected[often], expected[~often].sum())
            kept = hoped > 0
            assert kept.sum() < 2 or stats.chisquare(observed[kept], hoped[kept]).pvalue > 1e-4


def test_a_near_miss_is_told_apart_by_the_same_test() -> None:
    rng = np.random.default_rng(0)
    table = np.array([[0.5], [0.3], [0.2]])
    drawn = Tables(table).draw(rng, np.zeros(60_000, np.int64))
    wrong = np.array([0.49, 0.31, 0.2]) * 60_000
    assert stats.chisquare(np.bincount(drawn), wrong).pvalue < 1e-4


def test_rows_are_drawn_each_from_its_own_weights() -> None:
    rng = np.random.default_rng(0)
    weights = np.tile([[1.0, 0.0, 3.0], [0.0, 2.0, 0.0]], (20_000, 1))
    drawn = rowwise(rng, weights)
    assert set(drawn[1::2]) == {1}
    assert abs((drawn[::2] == 2).mean() - 0.75) < 0.02
