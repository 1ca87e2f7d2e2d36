"""Mechanisms: noise on whole numbers, and choices, by OpenDP's samplers from the operating system's randomness.

Noise is drawn exactly (Canonne, Kamath & Steinke 2020, arXiv 2004.00010), so no trace of floating point is left in
it, and never from a seed that somebody could know. The only file that imports opendp.
"""

import os
import threading
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

    def normal(self, size: int) -> Floats:
        """Standard normal numbers, for gradients: float64 (size,)."""
        ...

    def picks(self, size: int, *, rate: float) -> NDArray[np.bool_]:
        """For each of so many whether it is picked, each by itself with probability `rate`: bool (size,)."""
        ...


class SystemNoise:
    """OpenDP's samplers, seeded by the operating system; for gradients a cipher's stream that it gave the key of."""

    def gaussian(self, values: Whole, *, scale: float) -> Whole:
        """See `Noise.gaussian`."""
        if not len(values):
            return values
        return np.array(_gaussian(scale)(values.clip(-LARGEST, LARGEST)), np.int64).clip(-LARGEST, LARGEST)

    def largest(self, scores: Floats, *, scale: float) -> int:
        """See `Noise.largest`."""
        return int(_largest(scale)(scores))

    def normal(self, size: int) -> Floats:
        """See `Noise.normal`: by the inverse distribution function of 53 bits, so at most 8.3 in size."""
        uniform = ((self._words(size) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return np.asarray(_quantile(uniform))

    def picks(self, size: int, *, rate: float) -> NDArray[np.bool_]:
        """See `Noise.picks`: never more often than `rate`, and less often by 2⁻⁶³ at most."""
        if rate >= 1:
            return np.ones(size, np.bool_)
        return self._words(size) < np.uint64(int(rate * 2**64))

    def _words(self, size: int) -> NDArray[np.uint64]:
        """Random bits from AES-256 in counter mode, nine times as fast as the operating system's own."""
        return np.frombuffer(_stream().update(bytes(8 * size)), np.uint64)


@cache
def _opendp() -> Any:
    # It takes a second to import, which commands that draw nothing need not wait for.
    import opendp.prelude

    opendp.prelude.enable_features("contrib")
    return opendp.prelude


_streams = threading.local()


def _stream() -> Any:
    """The stream of this thread and process: a fork must not repeat its parent's."""
    if getattr(_streams, "of", None) != os.getpid():
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        _streams.of, _streams.stream = os.getpid(), cipher.encryptor()
    return _streams.stream


def _quantile(uniform: Floats) -> Floats:
    from torch import from_numpy
    from torch.special import ndtri

    return np.asarray(ndtri(from_numpy(uniform)).numpy())


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
