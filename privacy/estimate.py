"""Estimate: a rate, or what is made of two, with its intervals."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

Z, Z_SURE = 1.959964, 3.290527
"""Standard errors of intervals: of the 95 % that are shown, and of the 99.9 % that rule chance out."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: its upper end.
        surely: lower end of the 99.9 % interval.
    """

    value: float
    low: float
    high: float
    surely: float

    def proven(self, chance: float) -> float:
        """What a verdict may go by: the lower end of the interval, and no more than chance unless that is ruled out.

        Ruled out means that the 99.9 % interval lies above it: a gate looks at many figures of many releases, and by
        intervals of 95 % one in forty honest figures would be above chance.
        """
        return self.low if self.surely > chance else min(self.low, chance)


def wilson(rate: float, guesses: float, z: float = Z) -> tuple[float, float]:
    """The interval of a rate (Wilson 1927), by default that of 95 %."""
    more = z**2 / guesses
    middle = (rate + more / 2) / (1 + more)
    reach = z / (1 + more) * math.sqrt(rate * (1 - rate) / guesses + more / (4 * guesses))
    return max(0.0, min(rate, middle - reach)), min(1.0, max(rate, middle + reach))


def risk(success: float, guesses: float, control: float, control_guesses: float) -> Estimate:
    """What an attack achieves beyond its control: both are rates of so many guesses.

    1 − R is a ratio of two rates of failure. Giomi et al. propagate the half-widths of two Wilson intervals through
    R to first order. That fails where the control is nearly always right, so we recover the limits of the ratio from
    the four Wilson limits (MOVER: Donner and Zou 2012), which cover 0 where the rates do not differ. Where the
    control is always right nothing is left to be won, and R is not known.
    """
    s, t = 1 - success, 1 - control
    if t <= 0:
        return Estimate(value=0.0, low=-1.0, high=1.0, surely=-1.0)

    def ends(z: float) -> tuple[float, float]:
        (s_low, s_high), (t_low, t_high) = wilson(s, guesses, z), wilson(t, control_guesses, z)
        return 1 - _ratio(s, t, s_high, t_low, 1), 1 - _ratio(s, t, s_low, t_high, -1)

    return estimate(1 - s / t, ends)


def _ratio(s: float, t: float, s_end: float, t_end: float, sign: int) -> float:
    """The upper (sign 1) or lower limit of s / t from the ends of both intervals that are farthest apart."""
    s_part, t_part = s_end * (2 * s - s_end), t_end * (2 * t - t_end)
    if abs(t_part) < 1e-9:
        return math.inf if sign > 0 else s_part / (2 * s * t) if s else 0.0
    return (s * t + sign * math.sqrt(max((s * t) ** 2 - s_part * t_part, 0.0))) / t_part


def estimate(value: float, ends: Callable[[float], tuple[float, float]]) -> Estimate:
    """A figure in [−1, 1] from a function that gives its interval for so many standard errors."""
    (low, high), (surely, _) = ends(Z), ends(Z_SURE)
    value, low, high, surely = (min(max(v, -1.0), 1.0) for v in (value, low, high, surely))
    return Estimate(value=value, low=min(low, value), high=max(high, value), surely=min(surely, value))


def auc(members: Floats, outsiders: Floats) -> Estimate:
    """The chance that a member scores higher than a non-member, equals by half; interval of DeLong et al. (1988)."""
    m, n = len(members), len(outsiders)
    ranks = stats.rankdata(np.concatenate([members, outsiders]))
    above = (ranks[:m] - stats.rankdata(members)) / n
    below = 1 - (ranks[m:] - stats.rankdata(outsiders)) / m
    value = float(above.mean())
    error = math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    return estimate(value, lambda z: (max(0.0, value - z * error), min(1.0, value + z * error)))
