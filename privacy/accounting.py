"""Loss: what answers cost, as a Rényi curve beside a failure probability, and how costs compose.

Neighbours differ by one added or removed unit. Composition adds curves and failure probabilities (Mironov
2017, arXiv 1702.07476, Proposition 1, also for adaptively chosen parameters: Feldman & Zrnic 2021,
arXiv 2008.11193); the way to epsilon is dp-accounting's.
"""

import math
from dataclasses import dataclass

from dp_accounting.rdp import compute_epsilon
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

ORDERS: tuple[float, ...] = tuple(float(order) for order in DEFAULT_RDP_ORDERS)
"""The orders at which every curve is kept."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What answers cost a unit at most.

    Attributes:
        curve: Rényi divergence at each of `ORDERS`, at least 0.
        delta: probability that the curve does not hold, in [0, 1].
    """

    curve: tuple[float, ...]
    delta: float = 0.0

    def __post_init__(self) -> None:
        if len(self.curve) != len(ORDERS) or not all(point >= 0 for point in self.curve):
            raise ValueError(
                f"a curve must have one figure >= 0 for each of {len(ORDERS)} orders, however: it does not"
            )
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta must lie in [0, 1], however: delta={self.delta}")

    @classmethod
    def nothing(cls) -> "Loss":
        """What it costs to ask nothing."""
        return cls(curve=(0.0,) * len(ORDERS))

    @classmethod
    def zcdp(cls, rho: float, delta: float = 0.0) -> "Loss":
        """Zero-concentrated privacy: the curve rho·order (Bun & Steinke 2016, arXiv 1605.02065)."""
        return cls(curve=tuple(rho * order for order in ORDERS), delta=delta)

    def __add__(self, other: "Loss") -> "Loss":
        curve = tuple(a + b for a, b in zip(self.curve, other.curve, strict=True))
        return Loss(curve=curve, delta=min(1.0, self.delta + other.delta))

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at this total delta, infinite where the failure probability uses delta up."""
        if delta < self.delta:
            return math.inf
        return float(compute_epsilon(ORDERS, self.curve, delta - self.delta)[0])
