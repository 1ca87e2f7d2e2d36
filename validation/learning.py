"""Learning: how a model that was trained by gradients got better, and what its codes have between images.

A curve is of rows that were held aside in training (the split "select"), so it is exact, and what a release shows of it
is coarse (`public`). Where steps carry noise nobody looks, and there is none. Images between images are functions of
the model and of synthetic images: no real one is an end of a strip.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from validation.images import pasted
from validation.markup import Html, element, paragraph, px, section
from validation.plots import number
from validation.recognizer import Pixels

PAIRS, BETWEEN = 6, 8
"""Strips that are shown at most, and images of one, its ends included."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Looks at the rows that were held aside.

    Attributes:
        steps: at which a look was taken, ascending.
        scores: how well the model explained these rows, larger is better, of as many.
        kept: the step whose weights were kept.
        made: steps that were made.
    """

    steps: tuple[int, ...]
    scores: tuple[float, ...]
    kept: int
    made: int


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How a model learned.

    Attributes:
        curve: over its training; None for models that are not trained by gradients.
        strips: images between pairs of synthetic ones, a pair in a row, as a PNG in base64; None where codes have none.
    """

    curve: Curve | None = None
    strips: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Learning":
        """The inverse of `to_dict`."""
        curve = data["curve"]
        return cls(
            curve=None
            if curve is None
            else Curve(**{**curve, "steps": tuple(curve["steps"]), "scores": tuple(curve["scores"])}),
            strips=data["strips"],
        )


def ends(images: Pixels, classes: npt.NDArray[Any] | None) -> tuple[Pixels, Pixels]:
    """Pairs of synthetic images, the two of a pair of different classes where there are any.

    Args:
        images: uint8 (n, height, width, channels).
        classes: of each, (n,); None where no column says them.

    Returns:
        Both ends of up to `PAIRS` strips.
    """
    if classes is None or len(names := np.unique(classes)) < 2:
        pairs = [(2 * i, 2 * i + 1) for i in range(min(PAIRS, len(images) // 2))]
    else:
        firsts = [int(np.flatnonzero(classes == name)[0]) for name in names[: PAIRS + 1]]
        # The last class leads back to the first, so that few classes are seen both ways.
        pairs = list(zip(firsts, [*firsts[1:], firsts[0]], strict=True))[:PAIRS]
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    return images[first], images[second]


def strips_of(between: Pixels) -> str | None:
    """Strips, uint8 (pairs, images, height, width, channels), as a PNG in base64; None without any."""
    return pasted(list(between)) if len(between) else None


# ------------------------------------------------------------------------------------------------------ in words


def render(found: Learning) -> Html | None:
    """The section of the report; None where there is nothing to show."""
    if found.curve is None and found.strips is None:
        return None
    parts = []
    if found.curve is not None:
        curve = found.curve
        parts += [
            paragraph(
                "The model was trained by gradients. Now and then it was held against real rows that were kept aside "
                f"from its training; the weights of step {curve.kept:,} of {curve.made:,} explained them best, and "
                "were kept. A curve that still rises at its end says that more steps would help; one that falls, that "
                "the model began to learn its rows by heart, which is why earlier weights are kept."
            ),
            element(
                "figure",
                {},
                element(
                    "figcaption",
                    {},
                    "How well rows were explained that it did not learn from; higher is better",
                ),
                _drawn(curve),
            ),
        ]
    if found.strips is not None:
        caption = "Images between pairs of synthetic images, which are the ends of each row"
        picture = {"src": f"data:image/png;base64,{found.strips}", "alt": caption, "class": "sheet"}
        parts += [
            paragraph(
                "Each image has a code, a few numbers, and each code an image. In a row the code goes straight from "
                "one synthetic image to another. A model that learned what images have in common passes through images "
                "that could be; one that learned images by heart jumps from one to the next. No real image is shown."
            ),
            element("figure", {}, element("figcaption", {}, caption), element("img", picture)),
        ]
    return section("learning", "How it learned", *parts)


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 150, 62, 12, 10, 22


def _drawn(curve: Curve) -> Html:
    low, high = min(curve.scores), max(curve.scores)
    span = (high - low) or 1.0
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def across(step: float) -> float:
        return _LEFT + (right - _LEFT) * step / max(curve.made, curve.steps[-1], 1)

    def up(score: float) -> float:
        return floor - (floor - _TOP) * (score - low) / span

    line = "L".join(f"{px(across(x))} {px(up(y))}" for x, y in zip(curve.steps, curve.scores, strict=True))
    label = f"Score from {number(curve.scores[0], span)} at step {curve.steps[0]:,} to {number(high, span)}"
    kept = px(across(curve.kept))
    return element(
        "svg",
        {
            "class": "overlay", "role": "img", "aria-label": label,
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "width": _WIDTH, "height": _HEIGHT,
        },
        *(
            element("line", {"class": "grid", "x1": _LEFT, "x2": right, "y1": px(up(y)), "y2": px(up(y))})
            for y in (low, high)
        ),
        *(
            element("text", {"class": "end", "x": _LEFT - 5, "y": px(up(y) + 3.5)}, number(y, span))
            for y in dict.fromkeys((low, high))
        ),
        element("line", {"class": "axis", "x1": kept, "x2": kept, "y1": _TOP, "y2": floor}),
        element("path", {"class": "synthetic", "d": f"M{line}"}),
        element("line", {"class": "axis", "x1": _LEFT, "x2": right, "y1": floor, "y2": floor}),
        element("text", {"x": _LEFT, "y": floor + 15}, "step 0"),
        element("text", {"class": "end", "x": right, "y": floor + 15}, f"{max(curve.made, curve.steps[-1]):,}"),
    )  # fmt: skip
