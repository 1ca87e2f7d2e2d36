"""Accounting: what answers about private rows cost together, and which noise meets a target.

Every cost is a curve of Rényi divergences between neighbours (one privacy unit added or removed), at fixed orders,
and a probability outside the curve with which a mechanism may fail altogether. Curves add, so that a release, and
the life of a dataset, are sums (Mironov 2017, arXiv 1702.07476). What is concentrated (zCDP: Bun & Steinke 2016,
arXiv 1605.02065) is the line ρα. Epsilon follows from the sum alone, by dp-accounting's conversion (Canonne, Kamath &
Steinke 2020, arXiv 2004.00010, proposition 12).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *(float(x) for x in range(11, 64)),
    *(2.0**x for x in range(7, 15)),
)
"""Orders of every curve: dp-accounting's, and larger ones, which serve budgets far below epsilon 0.1."""

_LARGEST_RHO = 1e5


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
