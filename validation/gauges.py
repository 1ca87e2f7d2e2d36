"""Gauges: one figure beside what it is held against, as a mark so small that it stands in a card or in a cell.

The figures always stand beside them as text, so screen readers pass them by.
"""

from collections.abc import Sequence

from privacy.estimate import Estimate
from validation.markup import Html, element, px

_WIDTH, _LINE = 180, 14


def gauge(score: float | None, ceiling: float | None, kind: str = "gauge") -> Html:
    """A bar from 0 to 1 with a mark at the ceiling; `kind` is its class: gauge, or spark in a cell."""
    parts = [element("rect", {"class": "track", "width": "100%", "height": "100%"})]
    if score is not None:
        parts.append(
            element("rect", {"class": "fill", "width": f"{100 * _within(score):.1f}%", "height": "100%"})
        )
    if ceiling is not None:
        x = f"{99.5 * _within(ceiling):.1f}%"
        parts.append(element("line", {"class": "mark", "x1": x, "x2": x, "y1": 0, "y2": "100%"}))
    return element("svg", {"class": kind, "aria-hidden": "true"}, *parts)


def bars(synthetic: float, real: float, top: float) -> Html:
    """Two shares, real above synthetic, of a bar that is `top` long."""
    scale = 100 / max(top, 1e-9)
    return element(
        "svg",
        {"class": "twin", "aria-hidden": "true"},
        element("rect", {"class": "real", "width": f"{_within(real * scale / 100) * 100:.1f}%", "height": "50%"}),
        element(
            "rect",
            {"class": "synthetic", "y": "55%", "width": f"{_within(synthetic * scale / 100) * 100:.1f}%",
             "height": "40%"},
        ),
    )  # fmt: skip


def whiskers(figures: Sequence[tuple[str, Estimate]], *, low: float, high: float, mark: float | None) -> Html:
    """Figures as points with their 95 % intervals, one below the other, from `low` to `high`.

    Args:
        figures: class of the style (real or synthetic), and the figure.
        low: left end; what lies beyond an end is drawn at it.
        high: right end.
        mark: where a line stands that means nothing happened, such as 0; None for none.
    """
    height = _LINE * len(figures)

    def across(value: float) -> str:
        return px(4 + (_WIDTH - 8) * _within((value - low) / max(high - low, 1e-9)))

    parts = []
    if mark is not None:
        x = across(mark)
        parts.append(element("line", {"class": "axis", "x1": x, "x2": x, "y1": 0, "y2": height}))
    for i, (kind, figure) in enumerate(figures):
        y = px(_LINE * (i + 0.5))
        parts.append(element("line", {"class": "scale", "x1": 4, "x2": _WIDTH - 4, "y1": y, "y2": y}))
        ends = {"x1": across(figure.low), "x2": across(figure.high), "y1": y, "y2": y}
        parts.append(element("line", {"class": f"whisker {kind}", **ends}))
        parts.append(
            element("circle", {"class": f"point {kind}", "cx": across(figure.value), "cy": y, "r": 3.5})
        )
    return element(
        "svg",
        {
            "class": "whiskers", "aria-hidden": "true", "viewBox": f"0 0 {_WIDTH} {height}",
            "width": _WIDTH, "height": height,
        },
        *parts,
    )  # fmt: skip


def _within(share: float) -> float:
    return min(max(share, 0.0), 1.0)
