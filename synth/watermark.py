"""Watermark: a keyed mark in images, which whoever has the key finds again, blindly, and says how surely.

A mark says where an image comes from; it protects nobody's privacy, and it is post-processing: the key is no data.

Spread transform dither modulation (Chen and Wornell 2001, IEEE Trans. Inf. Theory 47(4), section V-D). The brightness
of an image is transformed by a cosine transform, its middle frequencies are projected on `DIRECTIONS` orthonormal
patterns of pseudo-random signs, and each projection y is moved to the nearest point of a lattice of step Δ that the key
shifts by δΔ. What the image is does not disturb the mark, as it would if a pattern were only added.

Looking for it, each projection is a phase 2π(y/Δ − δ), which is 0 where the mark is. Of images j let
Rᵢ exp(iθᵢ) = Σⱼ exp(2πi yᵢⱼ/Δ) for pattern i. For images that were made without the key, whatever they are, the key's
shifts δᵢ are independent of them and uniform, so of S = Σᵢ Rᵢ cos(θᵢ − 2πδᵢ) it holds for each λ > 0 (Chernoff)

    P(S ≥ s) ≤ exp(Σᵢ ln I₀(λRᵢ) − λs) ,  and with z = s / √(ΣRᵢ²/2) at most exp(−z²/2).

That is the rate of false alarms, over keys: no assumption about images, and copies of one image do not add up.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.linalg import cholesky, solve_triangular
from scipy.special import i0e

from privacy.errors import UsageError

DIRECTIONS = 64
"""Patterns that an image is projected on; fewer where it has fewer middle frequencies."""

FALSE_ALARM = 1e-6
"""Rate of false alarms at which a mark counts as found."""

LEVELS = 1.0
"""Strength, where nobody says: grey levels that a pixel is moved by, root mean square, before values are cut off."""

KEY_LETTERS = 16
"""Letters of a key at least."""

SIDE = 8
"""Pixels of a side of an image at least."""

_BAND = (0.15, 0.6)
"""Middle frequencies, as shares of the highest: lower ones are seen, higher ones JPEG takes away."""

_COEFFICIENTS = 1 << 16
"""Middle frequencies that are used at most; of large images every second, third and so on."""

_ROUNDS = 8
"""Times that what black and white cut off is put elsewhere."""

_AT_ONCE = 1 << 21
"""Pixels that are transformed at a time."""

_SIZES = 16
"""Sizes of images that are looked at, one after the other, at most."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a mark is made and found with. Neither the secret nor what follows from it is ever shown.

    Attributes:
        number: what tells keys apart, in hexadecimal; it may be published.
    """

    number: str
    _secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: str) -> "Key":
        """The key that a secret text stands for.

        The text is stretched by scrypt (RFC 7914), so that its number is slow to guess from.

        Raises:
            UsageError: it is too short; the message does not show it.
        """
        if len(secret) < KEY_LETTERS:
            raise UsageError(
                f"a watermark's key must have {KEY_LETTERS} letters at least, however: it has fewer; "
                "`openssl rand -hex 32` makes one"
            )
        stretched = hashlib.scrypt(secret.encode(), salt=b"understudy watermark 1", n=1 << 14, r=8, p=1)
        return cls(number=_derived(stretched, b"number").hex()[:8], _secret=stretched)

    def bytes_for(self, purpose: str, count: int) -> bytes:
        """Pseudo-random bytes, the same for the same purpose (HMAC-SHA-256, then SHAKE-256)."""
        return hashlib.shake_256(_derived(self._secret, purpose.encode())).digest(count)


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, purpose, "sha256")


def check_size(height: int, width: int) -> None:
    """Refuses images that are too small to be marked.

    Raises:
        UsageError: they have too few middle frequencies.
    """
    if min(height, width) < SIDE:
        raise UsageError(
            f"images must have {SIDE} × {SIDE} pixels at least to be marked, however: they have {width} × {height}"
        )


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """What a key means for images of one size.

    Attributes:
        key: the key.
        height: of the images, in pixels.
        width: of the images, in pixels.
        levels: strength, see `LEVELS`.
    """

    key: Key
    height: int
    width: int
    levels: float = LEVELS

    def __post_init__(self) -> None:
        check_size(self.height, self.width)

    @cached_property
    def _band(self) -> NDArray[np.int64]:
        """Where the middle frequencies stand in a flat cosine transform: int64 (k,)."""
        share = np.hypot(np.arange(self.height)[:, None] / self.height, np.arange(self.width) / self.width)
        places = np.flatnonzero((share >= _BAND[0]) & (share < _BAND[1]))
        return places[:: -(-len(places) // _COEFFICIENTS)]

    @cached_property
    def _directions(self) -> NDArray[np.float64]:
        """Orthonormal patterns: float64 (k, d), from signs by Cholesky, whose result is the only one."""
        k = len(self._band)
        d = min(DIRECTIONS, k)
        drawn = np.frombuffer(self.key.bytes_for(f"signs {self._size}", -(-k * d // 8)), np.uint8)
        signs = np.unpackbits(drawn, count=k * d).reshape(k, d) * 2.0 - 1.0
        # As many patterns as frequencies may lie nearly in a plane, which a little of each axis prevents.
        signs += np.eye(k, d)
        lower = cholesky(signs.T @ signs, lower=True)
        return np.ascontiguousarray(solve_triangular(lower, signs.T, lower=True).T)

    @cached_property
    def _shifts(self) -> NDArray[np.float64]:
        """The key's shift of each lattice: float64 (d,) in [0, 1)."""
        d = self._directions.shape[1]
        return np.frombuffer(self.key.bytes_for(f"shifts {self._size}", 4 * d), "<u4") / 2.0**32

    @property
    def _size(self) -> str:
        return f"{self.width} x {self.height}"

    @property
    def _step(self) -> float:
        """Δ: a projection is moved by Δ/√12, root mean square, and all of them by `levels` a pixel."""
        pixels = self.height * self.width
        return float(self.levels * np.sqrt(12 * pixels / self._directions.shape[1]))

    def mark(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The images with the mark.

        Args:
            images: uint8 (n, height, width, channels); every channel is moved alike.
        """
        return np.concatenate([images[:0], *(self._mark(part) for part in self._parts(images))])

    def _mark(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        wanted, values = self._points(images), images.astype(np.float64)
        for _ in range(_ROUNDS):
            lacking = wanted - self._projections(_whole(values))
            moved = np.zeros((len(images), self.height * self.width))
            moved[:, self._band] = lacking @ self._directions.T
            plane = moved.reshape(-1, self.height, self.width)
            values += idctn(plane, axes=(1, 2), norm="ortho", overwrite_x=True)[..., None]
        return _whole(values)

    def _points(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The points of the lattices that lie nearest: float64 (n, d)."""
        steps = self._projections(images) / self._step
        return (np.rint(steps - self._shifts) + self._shifts) * self._step

    def phasors(self, images: NDArray[np.uint8]) -> NDArray[np.complex128]:
        """Σⱼ exp(2πi(yᵢⱼ/Δ − δᵢ)) over images j: complex128 (d,). Marked images add 1 each, others a random one.

        Args:
            images: uint8 (n, height, width, channels).
        """
        total = np.zeros(self._directions.shape[1], np.complex128)
        for part in self._parts(images):
            total += np.exp(2j * np.pi * (self._projections(part) / self._step - self._shifts)).sum(0)
        return total

    def _projections(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """y: float64 (n, d)."""
        transformed = dctn(images.mean(3, dtype=np.float64), axes=(1, 2), norm="ortho", overwrite_x=True)
        return np.asarray(transformed.reshape(len(images), -1)[:, self._band] @ self._directions)

    def _parts(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        rows = max(1, _AT_ONCE // (self.height * self.width))
        for start in range(0, len(images), rows):
            yield images[start : start + rows]


def _whole(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What was found in a number of images.

    Attributes:
        images: how many were looked at.
        z: how far the sum stands out, in standard deviations of a key that has nothing to do with the images.
        false_alarm: rate at most, over such keys, at which the sum would be as large.
        skipped: images that were too small, or of too many sizes.
    """

    images: int
    z: float
    false_alarm: float
    skipped: int = 0

    @property
    def found(self) -> bool:
        """Whether the mark is there."""
        return self.false_alarm <= FALSE_ALARM


class Detector:
    """Looks for a key's mark in images that come a few at a time.

    Args:
        key: the key.
        levels: strength that the mark was made with.
    """

    def __init__(self, key: Key, levels: float = LEVELS) -> None:
        self._key, self._levels = key, levels
        self._found: dict[tuple[int, int], tuple[Pattern, NDArray[np.complex128]]] = {}
        self._images = self._skipped = 0

    def look(self, images: NDArray[np.uint8]) -> None:
        """Takes images into account: uint8 (n, height, width, channels)."""
        size = images.shape[1:3]
        if size not in self._found:
            if min(size) < SIDE or len(self._found) == _SIZES:
                self._skipped += len(images)
                return
            pattern = Pattern(key=self._key, height=size[0], width=size[1], levels=self._levels)
            self._found[size] = pattern, np.zeros(1, np.complex128)
        pattern, before = self._found[size]
        self._found[size] = pattern, before + pattern.phasors(images)
        self._images += len(images)

    def sighting(self) -> Sighting:
        """What all images together say."""
        phasors = np.concatenate([np.zeros(0, np.complex128), *(p for _, p in self._found.values())])
        z, false_alarm = stands_out(phasors)
        return Sighting(images=self._images, z=z, false_alarm=false_alarm, skipped=self._skipped)


def stands_out(phasors: NDArray[np.complex128]) -> tuple[float, float]:
    """z, and the rate of false alarms at most, of phasors whose phases are uniform without a mark.

    Args:
        phasors: complex128 (d,).
    """
    lengths, total = np.abs(phasors), float(phasors.real.sum())
    spread = float(np.sqrt((lengths**2).sum() / 2))
    if spread == 0 or total <= 0:
        return (0.0 if spread == 0 else total / spread), 1.0
    # Every λ gives a bound that holds, so a grid of them needs no proof of convergence.
    scaled = np.geomspace(1e-2, 1e3, 300)[:, None] * lengths / spread * np.sqrt(len(lengths))
    rates = np.geomspace(1e-2, 1e3, 300) / spread * np.sqrt(len(lengths))
    bounds = (np.log(i0e(scaled)) + scaled).sum(1) - rates * total
    return total / spread, float(np.exp(min(0.0, bounds.min())))
