"""Pairs: how strongly columns depend on each other, as three maps: real rows, synthetic rows, and the difference."""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from synth.schema import Schema
from validation.evidence import Evidence
from validation.fidelity import PairFidelity
from validation.markup import (
    Html,
    cut,
    element,
    join,
    paragraph,
    points,
    px,
    scrolling,
    section,
    shown_pair,
    strength,
)
from validation.page import Zone

COLUMNS = 24
"""Columns that a map shows at most: those of the pairs that differ most."""

WORST = 12
"""Pairs that are written out below the maps outside; inside there are more."""

WORST_INSIDE = 500

_LEFT, _TOP, _SIDE = 92, 88, 264


@dataclass(frozen=True, kw_only=True)
class Map:
    """What one map shows of each pair.

    Attributes:
        family: letter of the style's classes of colour: one for each step.
        heading: of which rows.
        meaning: how to read a colour.
        figure: what is shown.
        show: a figure as text.
        steps: where the next colour begins.
        ends: the least and the largest figure.
    """

    family: str
    heading: str
    meaning: str
    figure: Callable[[PairFidelity], float]
    show: Callable[[float], str]
    steps: tuple[float, ...]
    ends: tuple[float, float]


def _difference(pair: PairFidelity) -> float:
    return pair.association_synthetic - pair.association_real


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−").replace("+0.00", "0.00").replace("−0.00", "0.00")


_STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)

MAPS = (
    Map(
        family="a", heading="Real rows", meaning="0 for no association, 1 for a full one",
        figure=attrgetter("association_real"), show=strength, steps=_STRENGTHS, ends=(0, 1),
    ),
    Map(
        family="a", heading="Synthetic rows", meaning="should look the same",
        figure=attrgetter("association_synthetic"), show=strength, steps=_STRENGTHS, ends=(0, 1),
    ),
    Map(
        family="d", heading="Difference", meaning="should be blank",
        figure=_difference, show=_signed, steps=(-0.3, -0.15, -0.05, 0.05, 0.15, 0.3), ends=(-1, 1),
    ),
)  # fmt: skip


def render(evidence: Evidence, schema: Schema, zone: Zone = "outside") -> Html:
    """The section; under privacy nothing exact is known of pairs."""
    fidelity = evidence.fidelity
    if fidelity.noised:
        anew = "were not asked for" if evidence.noised is None else "stand below: counted anew"
        text = f"Exact figures of pairs stay inside under privacy, and noised ones {anew}."
        return section("pairs", "Pairs of columns", paragraph(text))
    names = _names(fidelity.pairs, schema)
    if len(names) < 2:
        return section("pairs", "Pairs of columns", paragraph("There are no two columns to compare."))
    pairs = {frozenset((p.first, p.second)): p for p in fidelity.pairs}
    involved = len({name for pair in pairs for name in pair})
    left_out = f" Of {involved:,} columns, the {len(names)} whose pairs differ most are shown."
    return section(
        "pairs",
        "Pairs of columns",
        paragraph(
            "How strongly each two columns depend on each other. In the third map, what is below 0 was lost, "
            "and what is above it was made up.",
            left_out if involved > len(names) else "",
        ),
        element("div", {"class": "maps"}, *(_figure(m, names, pairs) for m in MAPS)),
        _table(fidelity.pairs, WORST if zone == "outside" else WORST_INSIDE),
    )


def _names(pairs: Sequence[PairFidelity], schema: Schema) -> tuple[str, ...]:
    """The columns that the maps show, in the order of the table: all, or those with the largest differences."""
    largest: dict[str, float] = {}
    for pair in pairs:
        for name in (pair.first, pair.second):
            largest[name] = max(largest.get(name, 0.0), abs(_difference(pair)))
    known = [n for n in schema.names if n in largest]
    worst = set(sorted(known, key=lambda n: -largest[n])[:COLUMNS])
    return tuple(n for n in known if n in worst)


def _figure(shown: Map, names: Sequence[str], pairs: Mapping[frozenset[str], PairFidelity]) -> Html:
    return element(
        "figure",
        {},
        element("figcaption", {}, element("strong", {}, shown.heading), f" {shown.meaning}"),
        scrolling(f"Map: {shown.heading}", _drawing(shown, names, pairs)),
        _legend(shown),
    )


def _legend(shown: Map) -> Html:
    low, high = shown.ends
    keys = (
        element(
            "li",
            {},
            element("span", {"class": f"swatch {shown.family}{i}", "aria-hidden": "true"}),
            f"{_end(a)} to {_end(b)}",
        )
        for i, (a, b) in enumerate(itertools.pairwise((low, *shown.steps, high)))
    )
    return element("ul", {"class": "legend steps"}, *keys)


def _end(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _drawing(shown: Map, names: Sequence[str], pairs: Mapping[frozenset[str], PairFidelity]) -> Html:
    side = min(max(_SIDE // len(names), 11), 30)
    width, height = _LEFT + side * len(names) + 2, _TOP + side * len(names) + 2
    cells = (
        _cell(shown, (i, j), (first, second), pairs.get(frozenset((first, second))), side)
        for i, first in enumerate(names)
        for j, second in enumerate(names)
    )
    label = f"{shown.heading}: association of each pair of {len(names)} columns; the table below lists the worst pairs"
    return element(
        "svg",
        {
            "class": "heat", "role": "img", "aria-label": label,
            "viewBox": f"0 0 {width} {height}", "width": width, "height": height,
        },
        *_labels(names, side),
        element("g", {"transform": f"translate({_LEFT} {_TOP})"}, *cells),
    )  # fmt: skip


def _labels(names: Sequence[str], side: float) -> Iterator[Html]:
    for i, name in enumerate(names):
        middle = side * (i + 0.5) + 3.5
        x, y = px(_LEFT + middle), _TOP - 6
        short = cut(name, 13)
        yield element("text", {"x": _LEFT - 6, "y": px(_TOP + middle), "class": "end"}, short)
        yield element("text", {"x": x, "y": y, "transform": f"rotate(-90 {x} {y})"}, short)


def _cell(
    shown: Map, at: tuple[int, int], names: tuple[str, str], pair: PairFidelity | None, side: int
) -> Html:
    row, column = at
    place = {"x": side * column, "y": side * row, "width": side - 1, "height": side - 1}
    if row == column:
        return element("rect", place | {"class": "self"})
    value = shown.figure(pair) if pair is not None else None
    if value is None or not math.isfinite(value):
        return element("rect", place | {"class": "nothing"})
    title = f"{cut(names[0], 24)} × {cut(names[1], 24)}: {shown.show(value)}"
    shade = f"{shown.family}{bisect.bisect_right(shown.steps, value)}"
    return element("rect", place | {"class": shade}, element("title", {}, title))


def _table(pairs: Sequence[PairFidelity], most: int) -> Html:
    """The pairs with the lowest trend, which SDMetrics measures, then those that differ most."""
    worst = sorted(
        pairs,
        key=lambda p: (math.inf if p.trend is None else p.trend, -abs(_difference(p)), p.first, p.second),
    )[:most]
    table = _listed(worst[:WORST], f"{len(worst[:WORST])} of {len(pairs):,}")
    if len(worst) <= WORST:
        return table
    more = _listed(worst[WORST:], f"the next {len(worst) - WORST:,}")
    return join(
        [table, element("details", {}, element("summary", {}, f"{len(worst) - WORST:,} more pairs"), more)]
    )


def _known(figure: float | None) -> str:
    return "–" if figure is None else strength(figure)


def _listed(worst: Sequence[PairFidelity], which: str) -> Html:
    heads = (
        "Pair", "Trend", "Ceiling", "Association, real", "Association, synthetic", "Shared information, real",
        "Shared information, synthetic",
    )  # fmt: skip
    rows = (
        element(
            "tr",
            {},
            shown_pair(p.first, p.second),
            element("td", {}, points(p.trend)),
            element("td", {}, points(p.trend_ceiling)),
            element("td", {}, strength(p.association_real)),
            element("td", {}, strength(p.association_synthetic)),
            element("td", {}, _known(p.information_real)),
            element("td", {}, _known(p.information_synthetic)),
        )
        for p in worst
    )
    told = f"The pairs with the lowest trend, {which}; a trend is 100 where two columns depend "
    table = element(
        "table",
        {"class": "plain"},
        element(
            "caption",
            {},
            f"{told}on each other as in the training rows; shared information is 0 where one tells nothing of the "
            "other, 1 where it tells all; – where SDMetrics takes two columns for too weakly related to score",
        ),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *rows),
    )
    return scrolling(f"Pairs with the lowest trend, {which}", table)
