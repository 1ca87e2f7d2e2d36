import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from privacy.errors import UsageError
from synth.watermark import FALSE_ALARM, Detector, Key, Pattern, Sighting, stands_out

KEY, OTHER = Key.of("a key of sixteen letters"), Key.of("another key of as many")


def shapes(count: int, side: int = 28, channels: int = 1, *, seed: int = 0) -> NDArray[np.uint8]:
    """Bright blobs on black, as digits are: most of an image is black, where a mark is cut off."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    place = rng.uniform(0.3, 0.7, (2, count, 4, 1, 1))
    blobs = np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / 0.008).max(1)
    tints = rng.uniform(0.4, 1.0, (count, 1, 1, channels))
    shown: NDArray[np.uint8] = np.clip(255 * 1.2 * blobs[..., None] * tints, 0, 255).astype(np.uint8)
    return shown


def jpeg(images: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    out = np.empty_like(images)
    for i, image in enumerate(images):
        stream = io.BytesIO()
        Image.fromarray(image.squeeze()).save(stream, "JPEG", quality=quality)
        out[i] = np.asarray(Image.open(stream)).reshape(image.shape)
    return out


def pattern(key: Key, images: NDArray[np.uint8], levels: float = 1.0) -> Pattern:
    return Pattern(key=key, height=images.shape[1], width=images.shape[2], levels=levels)


def looked(key: Key, *parts: NDArray[np.uint8], levels: float = 1.0) -> Sighting:
    detector = Detector(key, levels)
    for part in parts:
        detector.look(part)
    return detector.sighting()


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3), (65, 1)])
def test_the_key_finds_its_mark_and_no_other_does(side: int, channels: int) -> None:
    plain = shapes(100, side, channels)
    marked = pattern(KEY, plain).mark(plain)
    assert marked.dtype == np.uint8
    assert marked.shape == plain.shape
    assert looked(KEY, marked).found
    assert not looked(OTHER, marked).found
    assert not looked(KEY, plain).found
    parts, whole = looked(KEY, marked[:50], marked[50:]), looked(KEY, marked)
    assert parts.images == whole.images
    assert parts.z == pytest.approx(whole.z)


def test_a_single_image_is_enough() -> None:
    plain = shapes(20)
    marked = pattern(KEY, plain, 2.0).mark(plain)
    assert all(looked(KEY, marked[i : i + 1], levels=2.0).found for i in range(20))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mark_survives_jpeg(channels: int) -> None:
    plain = shapes(300, 32, channels)
    packed = jpeg(pattern(KEY, plain).mark(plain), 75)
    assert looked(KEY, packed).found
    assert not looked(OTHER, packed).found


def test_a_mark_is_found_among_images_that_have_none() -> None:
    plain = shapes(400)
    assert looked(KEY, plain[:300], pattern(KEY, plain).mark(plain[300:])).found


def test_a_mark_moves_pixels_by_its_levels() -> None:
    # Far from black and white nothing is cut off.
    plain = np.random.default_rng(0).integers(80, 170, (200, 28, 28, 1), dtype=np.uint8)
    for levels in (1.0, 3.0):
        moved = pattern(KEY, plain, levels).mark(plain).astype(float) - plain
        # Rounding adds a variance of 1/12.
        assert np.sqrt((moved**2).mean()) == pytest.approx(np.sqrt(levels**2 + 1 / 12), rel=0.1)


def test_channels_are_moved_alike() -> None:
    plain = np.random.default_rng(0).integers(80, 170, (20, 16, 16, 3), dtype=np.uint8)
    moved = pattern(KEY, plain).mark(plain).astype(int) - plain
    assert (moved == moved[..., :1]).all()
    assert moved.any()


@pytest.mark.parametrize("what", ["blank", "the same", "noise"])
def test_no_images_whatsoever_raise_more_false_alarms_than_is_said(what: str) -> None:
    rng = np.random.default_rng(1)
    images = {
        "blank": np.zeros((500, 16, 16, 1), np.uint8),
        "the same": np.repeat(shapes(1, 16), 500, 0),
        "noise": rng.integers(0, 256, (500, 16, 16, 1), dtype=np.uint8),
    }[what]
    found = [looked(Key(number="", _secret=bytes([i])), images) for i in range(60)]
    z = np.array([f.z for f in found])
    # Of 60 keys: mean 0 and standard deviation 1, within 4 standard errors.
    assert abs(z.mean()) < 4 / np.sqrt(60)
    assert 0.6 < z.std() < 1.4
    assert all(f.false_alarm <= np.exp(-(max(f.z, 0) ** 2) / 2) * 1.01 for f in found)


def test_the_rate_of_false_alarms_bounds_what_is_simulated() -> None:
    rng = np.random.default_rng(2)
    lengths = rng.uniform(0.1, 3, 12)
    drawn = (lengths * np.cos(rng.uniform(0, 2 * np.pi, (200_000, 12)))).sum(1)
    for quantile in (0.9, 0.99, 0.999):
        total = np.quantile(drawn, quantile)
        phases = np.full(12, np.arccos(total / lengths.sum()))
        _, bound = stands_out(lengths * np.exp(1j * phases))
        # A bound, and no empty one: Chernoff's lies within a small factor.
        assert 1 - quantile <= bound < 15 * (1 - quantile)
    assert stands_out(np.zeros(3, np.complex128)) == (0.0, 1.0)
    assert stands_out(np.full(3, -1.0 + 0j))[1] == 1.0


def test_marking_twice_gives_the_same_and_so_does_the_order() -> None:
    plain = shapes(30)
    once = pattern(KEY, plain).mark(plain)
    assert (pattern(KEY, plain).mark(plain) == once).all()
    assert (pattern(KEY, plain).mark(plain[::-1])[::-1] == once).all()
    assert pattern(KEY, plain).mark(plain[:0]).shape == (0, 28, 28, 1)


def test_a_key_is_never_shown_and_must_be_long() -> None:
    assert KEY.number != OTHER.number
    assert Key.of("a key of sixteen letters") == KEY
    assert "_secret" not in repr(KEY)
    with pytest.raises(UsageError, match="16 letters at least") as e:
        Key.of("hunter2")
    assert "hunter2" not in str(e.value)


def test_images_that_cannot_be_marked_are_refused_and_passed_over() -> None:
    for side in (1, 5, 6):
        with pytest.raises(UsageError, match="8 × 8 pixels at least"):
            Pattern(key=KEY, height=side, width=side)
    found = looked(KEY, shapes(3, 5), *(shapes(1, 10 + i) for i in range(20)))
    assert (found.images, found.skipped) == (16, 7)
    assert looked(KEY).false_alarm == 1.0
    assert FALSE_ALARM == 1e-6
