"""Costs add, and a target is met from below."""

import math

import pytest
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr

from privacy.accounting import ORDERS, Loss, rho_for

epsilons = st.floats(0.01, 20)
deltas = st.floats(1e-12, 1e-4)
rhos = st.floats(1e-9, 100)


@given(epsilons, deltas)
def test_the_budget_meets_its_target_within_one_percent_from_below(epsilon: float, delta: float) -> None:
    spent = Loss.zcdp(rho_for(epsilon, delta)).epsilon(delta)
    assert 0.99 * epsilon <= spent <= epsilon


@given(epsilons, deltas)
def test_the_budget_is_at_least_what_the_textbook_allows(epsilon: float, delta: float) -> None:
    # Bun & Steinke 2016, proposition 1.3: ρ-zCDP is (ρ + 2 √(ρ log 1/δ), δ).
    logs = math.log(1 / delta)
    assert rho_for(epsilon, delta) >= 0.99 * (math.sqrt(logs + epsilon) - math.sqrt(logs)) ** 2


@given(epsilons, deltas)
def test_gaussian_noise_of_that_budget_keeps_the_promise(epsilon: float, delta: float) -> None:
    # The exact delta of the Gaussian mechanism: Balle & Wang 2018 (arXiv 1805.06530), theorem 8.
    mu = math.sqrt(2 * rho_for(epsilon, delta))
    exact = ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))
    assert exact <= delta


@given(rhos, rhos, deltas)
def test_two_costs_add_up_to_one_of_their_sum(a: float, b: float, delta: float) -> None:
    both, one = Loss.zcdp(a) + Loss.zcdp(b), Loss.zcdp(a + b)
    assert both.epsilon(delta) == pytest.approx(one.epsilon(delta))
    assert Loss.zcdp(a).within(both)


@given(rhos, st.floats(0.001, 1))
def test_a_cost_is_within_a_larger_one_and_not_the_other_way_round(rho: float, more: float) -> None:
    assert Loss.zcdp(rho).within(Loss.zcdp(rho * (1 + more)))
    assert not Loss.zcdp(rho * (1 + more)).within(Loss.zcdp(rho))
    assert not Loss.zcdp(rho, 1e-7).within(Loss.zcdp(rho))


def test_the_order_that_is_best_is_never_the_last() -> None:
    for epsilon in (0.01, 0.1, 1, 10):
        curve = Loss.zcdp(rho_for(epsilon, 1e-6)).curve
        at = [c + math.log(1e6) / (o - 1) for c, o in zip(curve, ORDERS, strict=True)]
        assert at.index(min(at)) < len(at) - 1


def test_delta_that_is_spent_outside_the_curve_is_taken_off_first() -> None:
    assert Loss.zcdp(0.01, 4e-7).epsilon(1e-6) == pytest.approx(Loss.zcdp(0.01).epsilon(6e-7))
    assert Loss.zcdp(0.01, 1e-6).epsilon(1e-6) == math.inf


def test_orders_are_those_of_the_accountant_and_larger_ones() -> None:
    assert ORDERS[: len(DEFAULT_RDP_ORDERS)] == tuple(DEFAULT_RDP_ORDERS)
    assert list(ORDERS) == sorted(ORDERS)


def test_nothing_costs_nothing() -> None:
    assert Loss.nothing().epsilon(1e-9) == 0
    assert Loss.nothing() + Loss.zcdp(1) == Loss.zcdp(1)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0, 1e-6), (-1, 1e-6), (math.inf, 1e-6), (math.nan, 1e-6), (1, 0), (1, 1), (1, math.nan), (1, -1)],
)
def test_what_is_no_target_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        rho_for(epsilon, delta)


@pytest.mark.parametrize("curve", [(1.0,), (-1.0,) * len(ORDERS), (math.nan,) * len(ORDERS)])
def test_what_is_no_curve_is_refused(curve: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="entries"):
        Loss(curve=curve)


def test_a_probability_outside_the_curve_is_a_probability() -> None:
    with pytest.raises(ValueError, match="delta"):
        Loss(curve=Loss.nothing().curve, delta=1.5)
