"""Comparison: several synthesizers on the same split of one table, as text and as a page with a chart.

Its figures are exact, so it stays in the workspace.
"""

import math
from dataclasses import dataclass

from validation.markup import (
    NAME_WIDTH,
    Html,
    counted,
    cut,
    element,
    percent,
    points,
    px,
    scrolling,
    section,
)
from validation.page import document
from validation.plots import Place

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 300, 52, 120, 16, 40


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one synthesizer came to. Scores and shares are in [0, 1].

    Attributes:
        synthesizer: its name.
        fit_seconds: training.
        rows_per_second: drawing, with the Parquet that holds the rows.
        shape: SDMetrics Column Shapes against the training rows.
        trend: SDMetrics Column Pair Trends against the training rows.
        copies: share of synthetic rows that equal a training row.
        verdict: what the gate says, in one line.
        run: the workspace of its run.
    """

    synthesizer: str
    fit_seconds: float
    rows_per_second: float
    shape: float | None
    trend: float | None
    copies: float | None
    verdict: str
    run: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of them, beside what held-out real rows score.

    Attributes:
        title: name of the release that is tried.
        rows: rows that were trained on.
        entries: one for each synthesizer.
        shape_ceiling: Column Shapes of held-out rows.
        trend_ceiling: Column Pair Trends of held-out rows.
        copies_holdout: share of held-out rows that equal a training row.
        noised: whether figures come from noised counts, and the number of rows is one.
    """

    title: str
    rows: int
    entries: tuple[Entry, ...]
    shape_ceiling: float | None
    trend_ceiling: float | None
    copies_holdout: float | None
    noised: bool = False


HEADINGS = ("synthesizer", "fit s", "rows/s", "shapes", "trends", "copies", "verdict")

REAL = "held-out rows"


def rows_of(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table as text, a line for each synthesizer and one for held-out rows."""
    lines = [
        (
            e.synthesizer, f"{e.fit_seconds:.1f}", f"{e.rows_per_second:,.0f}", points(e.shape), points(e.trend),
            percent(e.copies), e.verdict,
        )
        for e in comparison.entries
    ]  # fmt: skip
    ceiling = (points(comparison.shape_ceiling), points(comparison.trend_ceiling))
    return [*lines, (REAL, "", "", *ceiling, percent(comparison.copies_holdout), "what chance allows")]


def describe(comparison: Comparison) -> str:
    """The table for a terminal."""
    rows = [HEADINGS, *rows_of(comparison)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEADINGS) - 1)]
    return "\n".join(
        "  ".join(
            [r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:-1], widths[1:], strict=True)), r[-1]]
        )
        for r in rows
    )


def render(comparison: Comparison) -> str:
    """The page: table and chart. HTML text, equal for equal arguments."""
    title = f"{cut(comparison.title, NAME_WIDTH)}: synthesizers compared"
    count = counted(comparison.rows, "training row", "training rows")
    main = element(
        "main",
        {"id": "main"},
        section("scores", "On the same split", _table(comparison)),
        section("chart", "Pair trends against seconds to fit", _chart(comparison)),
    )
    return document(
        title=title,
        heading=comparison.title,
        eyebrow="Synthesizers compared on one split",
        facts=f"About {count}, by a noised count. Shapes are of 100, beside the noised counts that were fitted to."
        if comparison.noised
        else f"{count}. Shapes and trends are SDMetrics\u2019 scores of 100.",
        links=(("scores", "Scores"), ("chart", "Chart")),
        main=main,
        footer=element("footer", {}, element("p", {}, "Nothing was published.")),
        zone="outside" if comparison.noised else "inside",
    )


def _table(comparison: Comparison) -> Html:
    cells = [
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, row[0]),
            *(element("td", {}, text) for text in row[1:]),
        )
        for row in rows_of(comparison)
    ]
    heads = [element("th", {"scope": "col"}, h) for h in HEADINGS]
    table = element(
        "table",
        {"class": "plain"},
        element("thead", {}, element("tr", {}, *heads)),
        element("tbody", {}, *cells),
    )
    return scrolling("Scores", table)


def _chart(comparison: Comparison) -> Html:
    """A point for each synthesizer: seconds to fit on a logarithmic axis, pair trends upwards."""
    shown = [e for e in comparison.entries if e.trend is not None]
    if not shown:
        return element("p", {"class": "none"}, "No pairs of columns to measure.")
    scores = [e.trend for e in shown if e.trend is not None]
    scores += [] if comparison.trend_ceiling is None else [comparison.trend_ceiling]
    low = max(0.0, math.floor(20 * (min(scores) - 0.01)) / 20)
    decades = [math.log10(max(e.fit_seconds, 0.1)) for e in shown]
    first, last = math.floor(min(decades)), max(math.floor(min(decades)) + 1, math.ceil(max(decades)))
    floor = _HEIGHT - _BOTTOM

    def across(seconds: float) -> float:
        share = (math.log10(max(seconds, 0.1)) - first) / (last - first)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share

    def up(score: float) -> float:
        return floor - (floor - _TOP) * (score - low) / max(1 - low, 1e-9)

    marks = [*_grid(low, first, last, across, up)]
    if comparison.trend_ceiling is not None:
        y = px(up(comparison.trend_ceiling))
        marks.append(
            element("line", {"class": "ceiling", "x1": _LEFT, "x2": _WIDTH - _RIGHT, "y1": y, "y2": y})
        )
        marks.append(element("text", {"x": _WIDTH - _RIGHT + 6, "y": y, "dy": "0.32em"}, REAL))
    for e in shown:
        x, y = px(across(e.fit_seconds)), px(up(e.trend or 0.0))
        marks.append(element("circle", {"class": "point", "cx": x, "cy": y, "r": 5}))
        marks.append(
            element("text", {"class": "name", "x": x, "dx": 9, "y": y, "dy": "0.32em"}, e.synthesizer)
        )
    label = "; ".join(f"{e.synthesizer} {points(e.trend)} in {e.fit_seconds:.1f} s" for e in shown)
    drawing = element(
        "svg",
        {
            "class": "comparison", "role": "img", "aria-label": f"Pair trends by seconds to fit: {label}",
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "width": _WIDTH, "height": _HEIGHT,
        },
        *marks,
    )  # fmt: skip
    return element("figure", {}, drawing)


def _grid(low: float, first: int, last: int, across: Place, up: Place) -> list[Html]:
    """Lines and labels of both axes."""
    marks = []
    for step in range(5):
        score = low + (1 - low) * step / 4
        y = px(up(score))
        marks.append(element("line", {"class": "grid", "x1": _LEFT, "x2": _WIDTH - _RIGHT, "y1": y, "y2": y}))
        marks.append(
            element("text", {"class": "end", "x": _LEFT - 6, "y": y, "dy": "0.32em"}, f"{100 * score:.3g}")
        )
    for decade in range(first, last + 1):
        x = px(across(10.0**decade))
        marks.append(
            element("text", {"class": "middle", "x": x, "y": _HEIGHT - _BOTTOM + 18}, f"{10.0**decade:g} s")
        )
    return marks
