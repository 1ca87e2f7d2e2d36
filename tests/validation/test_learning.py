import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.validation.test_public import exact
from validation import public
from validation.evidence import Evidence
from validation.images import pasted, sheet_of
from validation.learning import BETWEEN, PAIRS, Curve, Learning, ends, render, strips_of

CURVE = Curve(steps=(10, 20, 30), scores=(-512.3456789, -12.3456789, -40.0), kept=20, made=32)
RNG = np.random.default_rng(0)


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_a_release_draws_a_curve_coarsely_and_its_steps_as_they_are() -> None:
    """Rows move a mean by little, and a mean may be of any size: a thousandth of its way is what shows."""
    told = replace(exact(), learning=Learning(curve=CURVE))
    found = public.outside(told, at_least=10).learning
    assert found is not None
    assert found.curve == replace(CURVE, scores=(-512.5, -12.5, -40.0))
    flat = Learning(curve=replace(CURVE, scores=(0.12345, 0.12345, 0.12401)))
    coarse = public.outside(replace(told, learning=flat), at_least=10).learning
    assert coarse is not None
    assert coarse.curve is not None
    assert coarse.curve.scores == (0.123, 0.123, 0.124)
    page = str(render(found))
    assert "512.35" not in page
    assert "step 20 of 32" in page


def test_what_is_known_of_learning_survives_json() -> None:
    for found in (Learning(curve=CURVE, strips="abc"), Learning()):
        assert Learning.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    told = Evidence(fidelity=exact().fidelity, learning=Learning(curve=CURVE))
    assert Evidence.from_dict(json.loads(json.dumps(told.to_dict()))) == told


def test_nothing_is_said_where_nothing_is_known_and_equal_scores_are_drawn() -> None:
    assert render(Learning()) is None
    flat = render(Learning(curve=Curve(steps=(4,), scores=(1.0,), kept=4, made=4)))
    assert "NaN" not in str(flat)
    assert "nan" not in str(flat)


@pytest.mark.parametrize("classes", [None, np.repeat(["a", "b", "c"], 4), np.repeat("a", 12)])
def test_ends_of_strips_are_the_images_that_were_given_of_different_classes(
    classes: np.ndarray | None,
) -> None:
    images = np.arange(12, dtype=np.uint8).repeat(4).reshape(12, 2, 2, 1)
    first, second = (part[:, 0, 0, 0] for part in ends(images, classes))
    assert len(first) == len(second) <= PAIRS
    assert not (first == second).any()
    if classes is not None and len(set(classes)) > 1:
        assert (classes[first] != classes[second]).all()
    assert len(ends(images[:1], None)[0]) == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_pages_stay_small_however_large_images_are(channels: int) -> None:
    large = RNG.integers(0, 256, (100, 160, 120, channels)).astype(np.uint8)
    strips = strips_of(large[: PAIRS * BETWEEN].reshape(PAIRS, BETWEEN, 160, 120, channels))
    assert opened(strips).size == (BETWEEN * 49, PAIRS * 65)
    sheet = sheet_of(large, None)
    assert opened(sheet).size == (10 * 49, 10 * 65)
    assert len(sheet or "") + len(strips or "") < 2_600_000
    assert strips_of(large[:0][None][:0]) is None


def test_small_images_are_shown_pixel_by_pixel() -> None:
    image = RNG.integers(0, 256, (1, 16, 16, 1)).astype(np.uint8)
    assert (np.asarray(opened(pasted([image])))[0:64:4, 0:64:4] == image[0, :, :, 0]).all()
