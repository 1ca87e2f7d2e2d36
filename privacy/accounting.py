"""Accounting: what answers about private rows cost together, and which noise meets a target.

Every cost is a curve of Rényi divergences between neighbours (one privacy unit added or removed), at fixed orders,
and a probability outside the curve with which a mechanism may fail altogether. Curves add, so that a release, and
the life of a dataset, are sums (Mironov 2017, arXiv 1702.07476). What is concentrated (zCDP: Bun & Steinke 2016,
arXiv 1605.02065) is the line ρα. Epsilon follows from the sum alone, by dp-accounting's conversion (Canonne, Kamath &
Steinke 2020, arXiv 2004.00010, proposition 12).
"""

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *(float(x) for x in range(11, 64)),
    *(2.0**x for x in range(7, 15)),
)
"""Orders of every curve: dp-accounting's, and larger ones, which serve budgets far below epsilon 0.1."""

_LARGEST_RHO = 1e5

_LARGEST_MULTIPLIER = 1e6


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What something costs, at most.

    Attributes:
        curve: Rényi divergence at each of `ORDERS`, not negative.
        delta: probability of what the curve does not cover, in [0, 1).
    """

    curve: tuple[float, ...]
    delta: float = 0.0

    def __post_init__(self) -> None:
        if len(self.curve) != len(ORDERS) or not all(c >= 0 for c in self.curve):
            raise ValueError(
                f"a curve must have {len(ORDERS)} entries that are not negative, however: it has not"
            )
        if not 0 <= self.delta < 1:
            raise ValueError(f"delta must be in [0, 1), however: delta={self.delta}")

    @classmethod
    def nothing(cls) -> "Loss":
        """Of what never looked at a row."""
        return cls(curve=(0.0,) * len(ORDERS))

    @classmethod
    def zcdp(cls, rho: float, delta: float = 0.0) -> "Loss":
        """Of a mechanism that is ρ-zero-concentrated but for a probability `delta`."""
        return cls(curve=tuple(rho * order for order in ORDERS), delta=delta)

    @classmethod
    def sampled_gaussian(cls, *, multiplier: float, rate: float, steps: int) -> "Loss":
        """Of Gaussian noise on sums over units that are drawn anew for each of some steps, each by itself (Poisson).

        Mironov, Talwar & Zhang 2019, arXiv 1908.10530, as dp-accounting computes it for one unit added or removed. An
        order at which its series does not converge gets what a larger order has, since divergences grow with the
        order; and none more than the same noise without sampling.

        Args:
            multiplier: standard deviation of the noise, for sums that one unit moves by 1 (L2).
            rate: probability that a unit is drawn, in (0, 1].
            steps: how often.
        """
        if not (math.isfinite(multiplier) and multiplier > 0):
            raise ValueError(f"multiplier must be finite and > 0, however: multiplier={multiplier}")
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be in (0, 1], however: rate={rate}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, however: steps={steps}")
        return cls(curve=_sampled(float(multiplier), float(rate), int(steps)))

    def __add__(self, other: "Loss") -> "Loss":
        """Of both together, the second chosen in the light of the first."""
        both = tuple(a + b for a, b in zip(self.curve, other.curve, strict=True))
        return Loss(curve=both, delta=self.delta + other.delta)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon of (epsilon, delta) that the curve shows; infinite where delta is spent already.

        Args:
            delta: in (0, 1), in all: what is outside the curve is taken off first.
        """
        # It takes most of a second to import, which commands that spend nothing need not wait for.
        from dp_accounting.rdp import compute_epsilon

        left = delta - self.delta
        if left <= 0:
            return math.inf
        if not any(self.curve):
            return 0.0
        epsilon, _ = compute_epsilon(np.array(ORDERS), np.array(self.curve), left)
        # The conversion may fall below 0 for tiny curves, which promises nothing better than 0.
        return max(0.0, float(epsilon))

    def within(self, other: "Loss") -> bool:
        """Whether it costs no more than the other, at every order."""
        tolerance = 1 + 1e-9
        return self.delta <= other.delta * tolerance and all(
            a <= b * tolerance for a, b in zip(self.curve, other.curve, strict=True)
        )


@lru_cache(maxsize=256)
def _sampled(multiplier: float, rate: float, steps: int) -> tuple[float, ...]:
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    with _without_warnings():
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier)), steps)
    found = np.nan_to_num(np.maximum(np.asarray(accountant.rdp, np.float64), 0.0), nan=np.inf)
    rising = np.minimum.accumulate(found[::-1])[::-1]
    plain = steps * np.array(ORDERS) / (2 * multiplier**2)
    return tuple(np.minimum(rising, plain).tolist())


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Nobody need hear of orders that do not converge."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_target(epsilon: Any, delta: Any) -> None:
    """Refuses what is no target.

    Raises:
        ValueError: epsilon is not finite and positive, or delta not in (0, 1).
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be finite and > 0, however: epsilon={epsilon}")
    if not (math.isfinite(delta) and 0 < delta < 1):
        raise ValueError(f"delta must be in (0, 1), however: delta={delta}")


def rho_for(epsilon: float, delta: float) -> float:
    """The largest ρ whose ρ-zCDP is (epsilon, delta), to nine digits from below.

    Raises:
        ValueError: epsilon or delta are no target.
    """
    check_target(epsilon, delta)
    low, high = 0.0, 1.0
    while Loss.zcdp(high).epsilon(delta) <= epsilon and high < _LARGEST_RHO:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if Loss.zcdp(middle).epsilon(delta) <= epsilon else (low, middle)
    return low


def gaussian_epsilon(apart: float, delta: float) -> float:
    """The epsilon at delta of two normal densities of variance one that lie so far apart, exactly."""
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(1 / apart, delta)) if apart > 0 else 0.0


@lru_cache(maxsize=64)
def multiplier_for(epsilon: float, delta: float, *, others: Loss, rate: float, steps: int) -> float:
    """The smallest noise multiplier whose curve, with all else that is spent, is (epsilon, delta), to 0.1 % from below.

    Args:
        epsilon: of everything together.
        delta: of everything together.
        others: what all else costs at most.
        rate: as in `Loss.sampled_gaussian`.
        steps: as in `Loss.sampled_gaussian`.

    Raises:
        ValueError: it is no target, or nothing of it is left.
    """
    check_target(epsilon, delta)

    def spent(multiplier: float) -> float:
        return (others + Loss.sampled_gaussian(multiplier=multiplier, rate=rate, steps=steps)).epsilon(delta)

    if not others.epsilon(delta) < epsilon:
        raise ValueError(
            f"some of epsilon must be left for gradients, however: all else costs {others.epsilon(delta):.6g} of "
            f"{epsilon:g}"
        )
    low, high, above, below = 0.5, 1.0, math.inf, spent(1.0)
    while not below <= epsilon:
        low, high, above, below = high, 2 * high, below, spent(2 * high)
        if high > _LARGEST_MULTIPLIER:
            raise ValueError(f"noise must have a bound, however: {low:g} times a unit is not enough")
    while not math.isfinite(above) and (above := spent(low)) <= epsilon:
        low, high, above, below = low / 2, low, math.inf, above
    # Epsilon falls about as a power of the multiplier, so a few guesses between the two are enough.
    while below < 0.999 * epsilon and high - low > 1e-6 * high:
        steep = math.log(above / below) / math.log(high / low) if math.isfinite(above) else 0.0
        guess = low * (above / (0.9995 * epsilon)) ** (1 / steep) if steep > 0 else (low + high) / 2
        guess = guess if low < guess < high else (low + high) / 2
        now = spent(guess)
        low, high, above, below = (low, guess, above, now) if now <= epsilon else (guess, high, now, below)
    return high
