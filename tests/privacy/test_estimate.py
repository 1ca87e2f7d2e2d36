"""Intervals: beside scipy's, beside counting by hand, and how often they cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.estimate import Estimate, auc, risk, wilson

COUNTS = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS)
def test_the_interval_of_a_rate_is_scipys(count: tuple[int, int]) -> None:
    right, guesses = count
    theirs = stats.binomtest(right, guesses).proportion_ci(0.95, "wilson")
    assert wilson(right / guesses, guesses) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@given(COUNTS, COUNTS)
def test_a_risk_lies_in_its_intervals_and_these_in_one_another(
    main: tuple[int, int], held: tuple[int, int]
) -> None:
    found = risk(main[0] / main[1], main[1], held[0] / held[1], held[1])
    assert -1 <= found.surely <= found.low <= found.value <= found.high <= 1
    if held[0] < held[1]:
        exact = (main[0] / main[1] - held[0] / held[1]) / (1 - held[0] / held[1])
        assert found.value == pytest.approx(max(exact, -1), abs=1e-9)


@given(COUNTS)
def test_equal_rates_are_no_risk(count: tuple[int, int]) -> None:
    found = risk(count[0] / count[1], count[1], count[0] / count[1], count[1])
    assert found.value == pytest.approx(0)
    assert found.low <= 0 <= found.high
    assert found.proven(0.0) <= 0


@pytest.mark.parametrize(
    ("rate", "control", "guesses", "held"),
    [(0.5, 0.5, 100, 100), (0.99, 0.99, 400, 100), (0.001, 0.001, 4000, 4000), (0.06, 0.01, 4000, 400),
     (0.9, 0.3, 100, 100)],
)  # fmt: skip
def test_a_risk_is_above_the_truth_as_seldom_as_promised(
    rate: float, control: float, guesses: int, held: int
) -> None:
    rng = np.random.default_rng(0)
    truth = (rate - control) / (1 - control)
    found = [
        risk(right / guesses, guesses, luck / held, held)
        for right, luck in zip(
            rng.binomial(guesses, rate, 2000), rng.binomial(held, control, 2000), strict=True
        )
    ]
    assert np.mean([f.low > truth for f in found]) < 0.04
    assert np.mean([f.high < truth for f in found]) < 0.05
    assert np.mean([f.surely > truth for f in found]) < 0.004


def test_a_leak_of_some_rows_in_a_hundred_is_seen_among_some_thousand() -> None:
    assert risk(0.05, 4000, 0.01, 4000).proven(0.0) > 0.03


def test_where_the_control_is_always_right_nothing_is_known() -> None:
    assert risk(1.0, 100, 1.0, 100) == Estimate(value=0.0, low=-1.0, high=1.0, surely=-1.0)


SCORES = st.lists(st.integers(0, 5), min_size=2, max_size=30)


@given(SCORES, SCORES)
def test_the_area_under_the_curve_counts_pairs(members: list[int], outsiders: list[int]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in members for b in outsiders]
    found = auc(np.array(members, float), np.array(outsiders, float))
    assert found.value == pytest.approx(np.mean(pairs))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_area_covers_one_half_where_members_are_like_others_and_not_where_they_are_not() -> None:
    rng = np.random.default_rng(0)
    draws = [auc(rng.normal(size=200), rng.normal(size=100)) for _ in range(1500)]
    assert np.mean([f.low <= 0.5 <= f.high for f in draws]) > 0.92
    assert auc(rng.normal(0.5, size=400), rng.normal(size=400)).proven(0.5) > 0.55
