"""Audits find broken promises, and do not cry wolf."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.accounting import gaussian_epsilon, rho_for
from privacy.audit import audit, likely
from privacy.curator import Cells, Floats
from privacy.mechanisms import SystemNoise
from privacy.private import Account, PrivateCurator
from tests.privacy.arrays import KEY, numbered

DELTA = 1e-5
CANARIES = 2_000


def coins(seed: int, canaries: int = CANARIES) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(canaries) < 0.5


def counts_of(included: NDArray[np.bool_], curator_noise: object | None, epsilon: float) -> Floats:
    """Noised counts of the canaries' cells: each canary is the only row that its cell may hold."""
    rows = numbered(int(included.sum()), k=np.flatnonzero(included).astype(np.int64))
    noise = SystemNoise() if curator_noise is None else curator_noise
    curator = PrivateCurator(rows, Account(rho=rho_for(epsilon, DELTA)), key=KEY, noise=noise)  # type: ignore[arg-type]
    cells = Cells(columns=("k",), edges=(np.arange(len(included), dtype=np.int64),))
    return curator.histogram([cells], share=1.0)[0].value[2:]


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_a_histogram_that_keeps_its_promise_is_not_said_to_break_it(epsilon: float) -> None:
    included = coins(1)
    found = audit(counts_of(included, None, epsilon), included, delta=DELTA)
    assert found.epsilon <= epsilon


def test_on_a_bare_gaussian_mechanism_the_bound_reaches_half_of_the_true_epsilon() -> None:
    # So many canaries that luck does not decide: with half of them the bound falls short once in some hundred runs.
    included = coins(2, 40_000)
    found = audit(counts_of(included, None, 4.0), included, delta=DELTA)
    assert 4.0 / 3 <= found.epsilon <= found.gaussian <= 4.0
    assert found.gaussian >= 4.0 / 2


def test_the_gaussian_bound_is_above_the_truth_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(7)
    above = 0
    for _ in range(60):
        included = rng.random(400) < 0.5
        found = audit(rng.normal(size=400) + 2.0 * included, included, delta=DELTA)
        above += found.gaussian > gaussian_epsilon(2.0, DELTA)
    # 95 % confidence: more than eight of sixty would be a fault (p < 0.005).
    assert above <= 8


def test_the_epsilon_of_two_normal_densities() -> None:
    assert gaussian_epsilon(0.0, 1e-5) == 0
    found = gaussian_epsilon(1.0, 1e-5)
    draws = np.random.default_rng(0).normal(size=2_000_000) + 1.0
    loss = draws - 0.5
    excess = np.maximum(0, 1 - np.exp(2.0 - loss)).mean()
    assert gaussian_epsilon(1.0, float(excess)) == pytest.approx(2.0, abs=0.01)
    assert 4.3 < found < 4.5


class TooLittle:
    """A fault: a tenth of the noise that is charged for."""

    def gaussian(self, values: NDArray[np.int64], *, scale: float) -> NDArray[np.int64]:
        return SystemNoise().gaussian(values, scale=scale / 10)

    def largest(self, scores: Floats, *, scale: float) -> int:
        raise NotImplementedError


class None_:  # noqa: N801 - no noise
    """A fault: no noise at all."""

    def gaussian(self, values: NDArray[np.int64], *, scale: float) -> NDArray[np.int64]:
        return values

    def largest(self, scores: Floats, *, scale: float) -> int:
        raise NotImplementedError


@pytest.mark.parametrize("fault", [None_(), TooLittle()])
def test_noise_that_was_left_out_or_is_too_little_is_found(fault: object) -> None:
    included = coins(3)
    found = audit(counts_of(included, fault, 1.0), included, delta=DELTA)
    assert found.epsilon > 1.0


def test_an_attacker_who_knows_nothing_finds_nothing() -> None:
    rng = np.random.default_rng(4)
    found = [audit(rng.normal(size=CANARIES), coins(100 + i), delta=DELTA).epsilon for i in range(40)]
    # Each bound may be wrong with probability 0.05; eight of forty would be a fault (p < 0.001).
    assert sum(e > 0 for e in found) < 8


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomized_response_is_bounded_near_what_it_is(epsilon: float) -> None:
    included, rng = coins(5), np.random.default_rng(6)
    truthful = rng.random(CANARIES) < 1 / (1 + math.exp(-epsilon))
    told = np.where(truthful, included, ~included).astype(float)
    found = audit(told, included, delta=0.0)
    assert 0.6 * epsilon <= found.epsilon <= epsilon


def test_the_probability_is_the_binomial_tail_without_delta_and_more_with_it() -> None:
    rng = np.random.default_rng(7)
    draws = rng.binomial(50, 1 / (1 + math.exp(-1)), 200_000)
    assert likely(100, 50, 42, 1.0, 0.0) == pytest.approx((draws >= 42).mean(), abs=0.003)
    assert likely(100, 50, 42, 1.0, 1e-3) > likely(100, 50, 42, 1.0, 0.0)
    assert likely(100, 50, 0, 1.0, 0.0) == 1


def test_scores_and_canaries_must_fit() -> None:
    with pytest.raises(ValueError, match="each canary"):
        audit(np.zeros(3), np.zeros(2, bool), delta=DELTA)
