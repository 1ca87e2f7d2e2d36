"""Mechanisms: noise on whole numbers, and choices, by OpenDP's samplers from the operating system's randomness.

Noise is drawn exactly (Canonne, Kamath & Steinke 2020, arXiv 2004.00010), so no trace of floating point is left in
it, and never from a seed that somebody could know. The only file that imports opendp.
"""

from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.curator import Floats

Whole = NDArray[np.int64]

LARGEST = 2**52
"""Whole numbers stay below this, so that they are exact as floats as well."""


class Noise(Protocol):
    """Where randomness that protects comes from."""

    def gaussian(self, values: Whole, *, scale: float) -> Whole:
        """Adds discrete Gaussian noise to each value, int64 (d,): 1/(2·scale²)-zCDP at L2 sensitivity 1."""
        ...

    def largest(self, scores: Floats, *, scale: float) -> int:
        """The place of the largest of the scores with Gumbel noise: 1/(2·scale²)-zCDP at L∞ sensitivity 1."""
        ...


class SystemNoise:
    """OpenDP's samplers, seeded by the operating system."""

    def gaussian(self, values: Whole, *, scale: float) -> Whole:
        """See `Noise.gaussian`."""
        if not len(values):
            return values
        return np.array(_gaussian(scale)(values.clip(-LARGEST, LARGEST)), np.int64).clip(-LARGEST, LARGEST)

    def largest(self, scores: Floats, *, scale: float) -> int:
        """See `Noise.largest`."""
        return int(_largest(scale)(scores))


@cache
def _opendp() -> Any:
    # It takes a second to import, which commands that draw nothing need not wait for.
    import opendp.prelude

    opendp.prelude.enable_features("contrib")
    return opendp.prelude


@lru_cache(maxsize=64)
def _gaussian(scale: float) -> Any:
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    return dp.m.make_gaussian(*space, scale=scale)


@lru_cache(maxsize=64)
def _largest(scale: float) -> Any:
    # Gumbel noise of scale 2Δ/ε is the exponential mechanism, whose ε-bounded range is ε²/8-zCDP (Cesar & Rogers
    # 2021, arXiv 2004.07223), so Δ²/(2·scale²).
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="f64", nan=False)), dp.linf_distance(T="f64")
    return dp.m.make_noisy_max(*space, dp.zero_concentrated_divergence(), scale=scale)
