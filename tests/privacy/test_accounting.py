"""Costs add, and a target is met from below."""

import math

import numpy as np
import pytest
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr

from privacy.accounting import ORDERS, Loss, multiplier_for, rho_for

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


# ----------------------------------------------------------------------------------------------- sampled


@pytest.mark.parametrize(("multiplier", "rate"), [(0.7, 0.01), (1.1, 256 / 60_000), (3.0, 0.2), (20.0, 0.9)])
def test_sampling_costs_what_the_sum_over_draws_says_at_whole_orders(multiplier: float, rate: float) -> None:
    curve = Loss.sampled_gaussian(multiplier=multiplier, rate=rate, steps=7).curve
    for order in (2, 3, 8, 20):
        # Mironov, Talwar & Zhang 2019, § 3.3: E over k of the α draws that hold the unit.
        terms = [
            math.comb(order, k)
            * (1 - rate) ** (order - k)
            * rate**k
            * math.exp((k * k - k) / (2 * multiplier**2))
            for k in range(order + 1)
        ]
        expected = 7 * math.log(math.fsum(terms)) / (order - 1)
        assert curve[ORDERS.index(order)] == pytest.approx(expected, rel=1e-6)


def test_a_published_training_costs_what_was_published() -> None:
    # 60 passes of 256 of 60,000 rows with noise 1.12: epsilon 2.92 by the looser conversion of Mironov 2017.
    steps = 60 * 60_000 // 256
    loss = Loss.sampled_gaussian(multiplier=1.12, rate=256 / 60_000, steps=steps)
    looser = min(c + math.log(1e5) / (a - 1) for c, a in zip(loss.curve, ORDERS, strict=True))
    assert looser == pytest.approx(2.92, abs=0.01)
    assert 0.85 * looser < loss.epsilon(1e-5) < looser


def test_without_sampling_it_is_the_plain_gaussian() -> None:
    loss = Loss.sampled_gaussian(multiplier=2.0, rate=1.0, steps=5)
    assert loss.curve == pytest.approx(Loss.zcdp(5 / 8).curve)


@given(st.floats(0.2, 50), st.floats(1e-4, 1.0), st.integers(1, 5000))
@settings(deadline=None, max_examples=25)
def test_curves_of_samples_rise_with_the_order_and_stay_below_those_without(
    multiplier: float, rate: float, steps: int
) -> None:
    curve = np.array(Loss.sampled_gaussian(multiplier=multiplier, rate=rate, steps=steps).curve)
    assert np.isfinite(curve).all()
    assert (np.diff(curve) >= -1e-9 * curve[1:]).all()
    assert (curve <= np.array(ORDERS) * steps / (2 * multiplier**2) * (1 + 1e-9)).all()


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.01, 1000), (0.3, 30), (1.0, 1)])
def test_noise_meets_its_target_from_below_and_less_noise_does_not(
    epsilon: float, rate: float, steps: int
) -> None:
    others = Loss.zcdp(rho_for(epsilon, 1e-6) / 3, 1e-7)
    multiplier = multiplier_for(epsilon, 1e-6, others=others, rate=rate, steps=steps)

    def spent(noise: float) -> float:
        return (others + Loss.sampled_gaussian(multiplier=noise, rate=rate, steps=steps)).epsilon(1e-6)

    assert 0.998 * epsilon <= spent(multiplier) <= epsilon
    assert spent(0.98 * multiplier) > epsilon


def test_a_target_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="some of epsilon must be left"):
        multiplier_for(1.0, 1e-6, others=Loss.zcdp(1.0), rate=0.1, steps=10)


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"), [(0, 0.1, 1), (math.inf, 0.1, 1), (1, 0, 1), (1, 1.1, 1), (1, 0.1, 0)]
)
def test_a_sample_that_is_none_is_refused(multiplier: float, rate: float, steps: int) -> None:
    with pytest.raises(ValueError, match=r"multiplier|rate|steps"):
        Loss.sampled_gaussian(multiplier=multiplier, rate=rate, steps=steps)
