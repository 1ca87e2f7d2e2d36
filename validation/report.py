"""Report: the evidence of one release as one self-contained page.

The page is a pure function of its arguments: no time, no random name, no remote asset. Whatever comes from
a table is hostile. Markup is therefore made by `element` alone, which escapes every string that is not
already markup, and a content security policy allows nothing but the one style and the one script inside.
"""

import base64
import bisect
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from privacy.attacks import Attacks
from synth.schema import Column, Schema
from validation import detection, exposure, fairness, structure, utility
from validation.evidence import Evidence
from validation.fidelity import ColumnFidelity, Fidelity, Overlay, PairFidelity
from validation.gates import Finding, Verdict
from validation.markup import (
    NAME_WIDTH,
    Html,
    counted,
    cut,
    element,
    join,
    paragraph,
    percent,
    points,
    px,
    scrolling,
    section,
    shown_name,
    sortable,
    strength,
    visible,
)
from validation.plots import overlay_plot

HEAT_COLUMNS = 30
"""Columns that a heat map shows at most; the worst are taken."""

WORST_PAIRS = 12
"""Pairs that are written out below the heat maps."""


def render(
    *,
    title: str,
    evidence: Evidence,
    verdict: Verdict,
    certificate: Mapping[str, Any],
    schema: Schema,
) -> str:
    """The page: verdict, findings, columns, pairs, attacks, how it was made, how to cite.

    Args:
        title: name of the release.
        evidence: the figures; scores, rates and shares in [0, 1].
        verdict: what the gate made of them.
        certificate: what is promised and what the release was made from; unknown keys are shown as they are.
        schema: the columns, in the order of the table.

    Returns:
        HTML text, equal for equal arguments.
    """
    anchors = {name: f"column-{i}" for i, name in enumerate(schema.names)}
    fidelity = evidence.fidelity
    main = element(
        "main",
        {"id": "main"},
        _verdict_section(evidence, verdict, certificate),
        _findings_section(verdict, anchors),
        _columns_section(fidelity, schema, anchors),
        _pairs_section(fidelity, schema),
        *_looked(evidence),
        _making_section(certificate),
        _citing_section(title, certificate),
    )
    outcome = "may be released" if verdict.passed else "refused"
    body = element("body", {}, _masthead(title, fidelity, certificate, schema), main, _footer())
    page = element(
        "html", {"lang": "en"}, head(f"{cut(title, NAME_WIDTH)}: {outcome}. Evidence by Understudy"), body
    )
    return f"<!doctype html>\n{page}\n"


def _looked(evidence: Evidence) -> tuple[Html, ...]:
    """The sections for which rows were looked at, or, under privacy, why there are none."""
    if evidence.fidelity.noised:
        return (_UNSEEN, _BOUNDED)
    return (
        structure.render(evidence.structure or structure.Structure()),
        detection.render(evidence.detection),
        utility.render(evidence.utility or utility.Utility()),
        *([fairness.render(evidence.fairness)] if evidence.fairness is not None else []),
        exposure.render(evidence.attacks or Attacks()),
    )


# Frame ----------------------------------------------------------------------------------------------------


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def policy(style: str, script: str) -> str:
    """Content security policy under which this style and this script run, and nothing is loaded."""
    rules = ("default-src 'none'", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def head(title: str) -> Html:
    """The head of a page of this style, under a policy that loads nothing."""
    style, script = _asset("report.css"), _asset("report.js")
    return element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy(style, script)}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("meta", {"name": "referrer", "content": "no-referrer"}),
        element("title", {}, title),
        element("style", {}, Html(style)),
        # Deferral needs a file, so the script itself waits for the document.
        element("script", {}, Html(script)),
    )


def _masthead(title: str, fidelity: Fidelity, certificate: Mapping[str, Any], schema: Schema) -> Html:
    rows = certificate.get("rows")
    facts = [
        counted(
            rows if isinstance(rows, int) else fidelity.rows_synthetic, "synthetic row", "synthetic rows"
        ),
        counted(len(schema), "column", "columns"),
    ]
    if certificate.get("synthesizer"):
        facts.append(f"synthesizer {cut(str(certificate['synthesizer']), NAME_WIDTH)}")
    links = (
        ("verdict", "Verdict"), ("findings", "Findings"), ("columns", "Columns"),
        ("pairs", "Pairs"), ("utility", "Use"), ("attacks", "Attacks"), ("making", "Making"), ("citing", "Citing"),
    )  # fmt: skip
    items = (element("li", {}, element("a", {"href": f"#{anchor}"}, label)) for anchor, label in links)
    return element(
        "header",
        {"class": "masthead"},
        element("a", {"class": "skip", "href": "#main"}, "Skip to the verdict"),
        element(
            "div",
            {"class": "bar"},
            element("span", {"class": "mark"}, "Understudy"),
            element("nav", {"aria-label": "Sections of this page"}, element("ul", {}, *items)),
        ),
        element("p", {"class": "eyebrow"}, "Evidence for a synthetic table"),
        element("h1", {}, shown_name(title)),
        element("p", {"class": "facts"}, " · ".join(facts)),
    )


def _footer() -> Html:
    return element(
        "footer",
        {},
        element(
            "p",
            {},
            element("strong", {}, "The rows of this release are synthetic. "),
            "They were drawn from a model and describe nobody; where one resembles a person, nothing may be "
            "concluded about that person. What is promised about privacy, and what is not, stands above. "
            "Figures named real are aggregates of the private table.",
        ),
    )


# Verdict --------------------------------------------------------------------------------------------------


def _verdict_section(evidence: Evidence, verdict: Verdict, certificate: Mapping[str, Any]) -> Html:
    fidelity = evidence.fidelity
    heading = "This release may leave the house" if verdict.passed else "This release is refused"
    reason = "No critical rule is broken." if verdict.passed else cut(_sentence(verdict.summary), 600)
    critical = counted(len(verdict.critical), "critical finding", "critical findings")
    tally = f"{critical}, {counted(len(verdict.warnings), 'warning', 'warnings')}"
    banner = element(
        "div",
        {"class": "banner passed" if verdict.passed else "banner refused"},
        _seal(verdict.passed),
        element(
            "div",
            {},
            element("h2", {"id": "verdict-heading"}, heading),
            element("p", {}, reason),
            element("p", {"class": "tally"}, element("a", {"href": "#findings"}, tally)),
        ),
    )
    reasons = element(
        "div",
        {"class": "reasons"},
        _reason_card(
            "Faithful, column by column",
            fidelity.shape,
            fidelity.shape_ceiling,
            "How well each column keeps its distribution.",
            _worst_column(fidelity.columns),
            "Beside the noised counts that the model was fitted to." if fidelity.noised else None,
        ),
        _reason_card(
            "Faithful, pair by pair",
            fidelity.trend,
            fidelity.trend_ceiling,
            "How well columns keep depending on each other.",
            _worst_pair(fidelity.pairs),
            "Not published: exact figures stay inside under privacy." if fidelity.noised else None,
        ),
        *([_useful_card(evidence.utility)] if evidence.utility is not None else []),
        _private_card(fidelity, certificate),
    )
    return element("section", {"id": "verdict", "aria-labelledby": "verdict-heading"}, banner, reasons)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _seal(passed: bool) -> Html:
    stroke = "M14 25l7 7 14-15" if passed else "M16 16l16 16M32 16L16 32"
    return element(
        "svg",
        {"class": "seal", "viewBox": "0 0 48 48", "width": 48, "height": 48, "aria-hidden": "true"},
        element("circle", {"cx": 24, "cy": 24, "r": 22}),
        element("path", {"d": stroke}),
    )


def _reason_card(
    heading: str,
    score: float | None,
    ceiling: float | None,
    meaning: str,
    worst: Html,
    instead: str | None = None,
) -> Html:
    beside = "" if instead is not None else f" of {points(ceiling)}"
    return element(
        "article",
        {"class": "card"},
        element("h3", {}, heading),
        element(
            "p",
            {"class": "figure"},
            element("strong", {}, points(score)),
            element("span", {}, beside),
        ),
        _gauge(score, ceiling),
        element("p", {"class": "beside"}, instead or _beside(score, ceiling)),
        element("p", {"class": "meaning"}, meaning, " ", worst),
    )


def _beside(score: float | None, ceiling: float | None) -> str:
    if score is None:
        return "Not measured: too few rows or columns that can be compared."
    if ceiling is None:
        return "There is no ceiling, since no rows were held out."
    gap = 100 * (ceiling - score)
    if gap < 0.05:
        return "As good as real rows that were held out (the mark)."
    return f"{gap:.1f} points below real rows that were held out (the mark)."


def _worst_column(columns: Sequence[ColumnFidelity]) -> Html:
    scored = [(c.shape, c.name) for c in columns if c.shape is not None]
    if not scored:
        return Html("")
    shape, name = min(scored)
    return element("span", {}, "Lowest: ", shown_name(name, 28), f", {points(shape)}.")


def _worst_pair(pairs: Sequence[PairFidelity]) -> Html:
    scored = [(p.trend, p.first, p.second) for p in pairs if p.trend is not None]
    if not scored:
        return Html("")
    trend, first, second = min(scored)
    return element(
        "span", {}, "Lowest: ", shown_name(first, 20), " with ", shown_name(second, 20), f", {points(trend)}."
    )


def _useful_card(found: utility.Utility) -> Html:
    """The target that the synthetic rows teach worst, by the model that learns it best from real rows."""
    best = [(task, max(task.scores, key=lambda s: s.real.value)) for task in found.tasks]
    if not best:
        nothing = Html("Nothing in this table can be predicted.")
        return _reason_card(
            "Useful", None, None, "What models learn from the rows.", nothing, "Not measured."
        )
    task, score = max(
        best, key=lambda pair: pair[1].gap.value / max(pair[1].real.value - pair[0].guess, 1e-9)
    )
    figure, ceiling = (round(max(e.value, 0.0), 3) for e in (score.synthetic, score.real))
    return element(
        "article",
        {"class": "card"},
        element("h3", {}, "Useful"),
        element(
            "p",
            {"class": "figure"},
            element("strong", {}, f"{score.synthetic.value:.2f}".replace("-", "−")),
            element("span", {}, f" of {score.real.value:.2f} {task.measure}"),
        ),
        _gauge(figure, ceiling),
        element(
            "p",
            {"class": "beside"},
            "How well ", shown_name(task.target, 28), " is predicted in real rows by a model that learned from "
            "synthetic ones; the mark is one that learned from real ones.",
        ),
        element("p", {"class": "meaning"}, "The worst of ", counted(len(best), "target", "targets"), "."),
    )  # fmt: skip


def _private_card(fidelity: Fidelity, certificate: Mapping[str, Any]) -> Html:
    statement = certificate.get("statement") or "The certificate makes no statement about privacy."
    guarantee = certificate.get("formal_guarantee")
    if isinstance(guarantee, Mapping) and "epsilon" in guarantee:
        return element(
            "article",
            {"class": "card"},
            element("h3", {}, "Private"),
            element(
                "p",
                {"class": "figure"},
                element("strong", {}, f"ε {guarantee['epsilon']:g}"),
                element("span", {}, f" δ {guarantee['delta']:g}"),
            ),
            element("p", {"class": "meaning"}, cut(str(statement), 1_000)),
        )
    copies, chance = fidelity.copies, fidelity.copies_holdout
    scale = 1.25 * max(copies or 0.0, chance or 0.0) or 1.0
    return element(
        "article",
        {"class": "card"},
        element("h3", {}, "Private"),
        element(
            "p",
            {"class": "figure"},
            element("strong", {}, percent(copies)),
            element("span", {}, " exact copies"),
        ),
        _gauge(None if copies is None else copies / scale, None if chance is None else chance / scale),
        element("p", {"class": "beside"}, _copies(fidelity)),
        element("p", {"class": "meaning"}, cut(str(statement), 1_000)),
    )


def _copies(fidelity: Fidelity) -> str:
    if fidelity.copies is None:
        return "Synthetic rows that equal a training row were not counted."
    if fidelity.copies_holdout is None:
        return "Synthetic rows that equal a training row; no rows were held out to tell what chance gives."
    text = (
        "Synthetic rows that equal a training row. By chance, "
        f"{percent(fidelity.copies_holdout)} of real held-out rows do (the mark)."
    )
    if fidelity.copies_rare is None:
        return text
    rare, chance = percent(fidelity.copies_rare), percent(fidelity.copies_rare_holdout)
    return f"{text} Of rare rows: {rare}, by chance {chance}."


def _gauge(score: float | None, ceiling: float | None, kind: str = "gauge") -> Html:
    """A bar from 0 to 100 with a mark at the ceiling; the figures stand beside it as text."""
    parts = [element("rect", {"class": "track", "width": "100%", "height": "100%"})]
    if score is not None:
        share = min(max(score, 0.0), 1.0)
        parts.append(element("rect", {"class": "fill", "width": f"{100 * share:.1f}%", "height": "100%"}))
    if ceiling is not None:
        x = f"{99.5 * min(max(ceiling, 0.0), 1.0):.1f}%"
        parts.append(element("line", {"class": "mark", "x1": x, "x2": x, "y1": 0, "y2": "100%"}))
    return element("svg", {"class": kind, "aria-hidden": "true"}, *parts)


# Findings -------------------------------------------------------------------------------------------------


def _findings_section(verdict: Verdict, anchors: Mapping[str, str]) -> Html:
    ordered = sorted(verdict.findings, key=lambda f: f.level != "critical")
    if not ordered:
        return section("findings", "What to worry about", paragraph("The gate found nothing to worry about."))
    return section(
        "findings",
        "What to worry about",
        paragraph("Critical findings refuse a release. Warnings are for the reader to weigh."),
        element("ol", {"class": "findings"}, *(_finding(f, anchors) for f in ordered)),
    )


def _finding(finding: Finding, anchors: Mapping[str, str]) -> Html:
    shown = [_column_link(name, anchors) for name in finding.columns[:12]]
    if len(finding.columns) > len(shown):
        shown.append(element("span", {}, f"and {len(finding.columns) - len(shown):,} more"))
    level = "Critical" if finding.level == "critical" else "Warning"
    return element(
        "li",
        {"class": f"finding {level.lower()}"},
        element(
            "p",
            {"class": "level"},
            element("strong", {}, level),
            element("span", {}, cut(finding.rule, NAME_WIDTH)),
        ),
        element("p", {}, cut(_sentence(finding.message), 600)),
        element("p", {"class": "chips"}, *shown) if shown else Html(""),
    )


def _column_link(name: str, anchors: Mapping[str, str]) -> Html:
    if name not in anchors:
        return element("span", {}, shown_name(name, 28))
    return element("a", {"href": f"#{anchors[name]}"}, shown_name(name, 28))


# Columns --------------------------------------------------------------------------------------------------

_HEADERS = (
    ("Column", "text"),
    ("Real and synthetic", None),
    ("Shape", "number"),
    ("Ceiling", "number"),
    ("Missing, real", "number"),
    ("Missing, synthetic", "number"),
    ("Strongest association", "number"),
)

_NOTES: Mapping[str, str] = {
    "identifier": "Made anew by its pattern; nothing of it is learned but what is missing.",
    "text": "Free text is replaced; nothing of it is learned but what is missing.",
    "image": "Learned and drawn; of its images this page compares only whether they are there.",
    "constant": "One value only.",
    "empty": "No value in any row.",
}


def _columns_section(fidelity: Fidelity, schema: Schema, anchors: Mapping[str, str]) -> Html:
    measured = {c.name: c for c in fidelity.columns}
    overlays = {o.column: o for o in fidelity.overlays}
    rows = (_column_row(c, measured.get(c.name), overlays.get(c.name), anchors[c.name]) for c in schema)
    heads = (element("th", {"scope": "col", "role": "columnheader", "data-sort": s}, h) for h, s in _HEADERS)
    table = element(
        "table",
        {"id": "columns-table", "role": "table"},
        element(
            "caption", {}, "Every column: its distribution, its score beside the ceiling, and what is missing"
        ),
        element("thead", {"role": "rowgroup"}, element("tr", {"role": "row"}, *heads)),
        element("tbody", {"role": "rowgroup"}, *rows),
    )
    return section(
        "columns",
        "Columns",
        paragraph(_NOISED)
        if fidelity.noised
        else paragraph(
            "Shape is 100 when a column is distributed as in the training rows. Its ceiling is what real "
            f"rows score that were held out: {fidelity.rows_train:,} rows trained, "
            f"{fidelity.rows_holdout:,} held out, {fidelity.rows_synthetic:,} synthetic rows compared. Plots "
            "show shares: of the values that are present for numbers and times, of all rows for categories."
        ),
        element("div", {"class": "tools"}, _search(len(schema)), _legend(fidelity)),
        table,
    )


def _search(columns: int) -> Html:
    return element(
        "div",
        {"class": "search", "id": "columns-tools", "hidden": "hidden"},
        element("label", {"for": "columns-search"}, "Find columns"),
        element(
            "input", {"id": "columns-search", "type": "search", "autocomplete": "off", "spellcheck": "false"}
        ),
        element("span", {"id": "columns-count", "role": "status"}, counted(columns, "column", "columns")),
    )


_NOISED = (
    "Shape is 100 when a column is distributed as the noised counts say that the model was fitted to. These were "
    "charged to the privacy budget; nothing here was computed from rows without noise. So the score shows what the "
    "model lost of what it was told, and not what noise took from that."
)


def _legend(fidelity: Fidelity) -> Html:
    def key(name: str, label: str) -> Html:
        swatch = element("span", {"class": f"swatch {name}", "aria-hidden": "true"})
        return element("li", {}, swatch, label)

    return element(
        "ul",
        {"class": "legend"},
        key("real", "noised counts" if fidelity.noised else "real rows"),
        key("synthetic", "synthetic rows"),
    )


def _column_row(
    column: Column, measured: ColumnFidelity | None, overlay: Overlay | None, anchor: str
) -> Html:
    shape = measured.shape if measured else None
    ceiling = measured.shape_ceiling if measured else None
    missing_real = measured.missing_real if measured else None
    missing_synthetic = measured.missing_synthetic if measured else None
    scored = element("span", {"class": "number"}, points(shape))
    return element(
        "tr",
        {"id": anchor, "role": "row"},
        _column_head(column, measured),
        _cell(1, None, overlay_plot(overlay) if overlay else _no_plot(column), kind="plot"),
        _cell(2, shape, scored, *([_gauge(shape, ceiling, "spark")] if shape is not None else [])),
        _cell(3, ceiling, points(ceiling)),
        _cell(4, missing_real, percent(missing_real)),
        _cell(5, missing_synthetic, percent(missing_synthetic)),
        _cell(6, measured.association_real if measured else None, _association(measured), kind="association"),
    )


def _cell(position: int, value: float | None, *children: str, kind: str | None = None) -> Html:
    attributes = {"role": "cell", "class": kind, "data-label": _HEADERS[position][0]}
    return element("td", attributes | {"data-value": sortable(value)}, *children)


def _column_head(column: Column, measured: ColumnFidelity | None) -> Html:
    parts = [
        shown_name(column.name, 36),
        element("span", {"class": "kind"}, f"{column.kind} · {cut(column.type, 32)}"),
    ]
    if column.kind in _NOTES:
        parts.append(element("span", {"class": "note"}, _NOTES[column.kind]))
    if measured and measured.lost:
        parts.append(element("span", {"class": "note lost"}, "Lost: ", _lost(measured.lost)))
    value = cut(column.name, 80).casefold()
    return element("th", {"scope": "row", "role": "rowheader", "data-value": value}, *parts)


def _lost(lost: Sequence[tuple[str, float]]) -> Html:
    shown = [element("span", {}, shown_name(label, 24), f" ({percent(share)})") for label, share in lost[:3]]
    if len(lost) > len(shown):
        shown.append(element("span", {}, f"{len(lost) - len(shown):,} more"))
    return join(shown, ", ")


def _no_plot(column: Column) -> Html:
    return element("span", {"class": "none"}, "not compared" if column.learned else "not learned")


def _association(measured: ColumnFidelity | None) -> Html:
    if measured is None or measured.strongest is None:
        return Html("–")
    return element(
        "span",
        {},
        element("span", {"class": "number"}, strength(measured.association_real), " → "),
        element("span", {"class": "number"}, strength(measured.association_synthetic)),
        element("span", {"class": "kind"}, "with ", shown_name(measured.strongest, 22)),
    )


# Pairs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """What one heat map shows of each pair.

    Attributes:
        family: letter of the style's classes of colour: one for each step.
        heading: what is measured.
        meaning: how to read a figure.
        synthetic: the figure below the diagonal.
        real: the figure above it.
        show: a figure as text.
        steps: where the next colour begins.
        unit: what a step is multiplied by in the legend.
    """

    family: str
    heading: str
    meaning: str
    synthetic: Callable[[PairFidelity], float | None]
    real: Callable[[PairFidelity], float | None]
    show: Callable[[float | None], str]
    steps: tuple[float, ...]
    unit: float


TREND = HeatMap(
    family="t",
    heading="Trend score",
    meaning="100 where two columns depend on each other as in training",
    synthetic=attrgetter("trend"),
    real=attrgetter("trend_ceiling"),
    show=points,
    steps=(0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
    unit=100,
)
ASSOCIATION = HeatMap(
    family="a",
    heading="Strength of association",
    meaning="0 for none, 1 for full",
    synthetic=attrgetter("association_synthetic"),
    real=attrgetter("association_real"),
    show=strength,
    steps=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
    unit=1,
)
_HEAT_LEFT, _HEAT_TOP = 104, 100


def _pairs_section(fidelity: Fidelity, schema: Schema) -> Html:
    names = _heat_names(fidelity.pairs, schema)
    if fidelity.noised:
        text = "Exact figures of pairs stay inside under privacy, and noised ones were not asked for."
        return section("pairs", "Pairs of columns", paragraph(text))
    if len(names) < 2:
        return section("pairs", "Pairs of columns", paragraph("There are no two columns to compare."))
    pairs = {frozenset((p.first, p.second)): p for p in fidelity.pairs}
    involved = len({name for pair in pairs for name in pair})
    left_out = f" Of {involved:,} columns, the {len(names)} with the lowest mean trend are shown."
    return section(
        "pairs",
        "Pairs of columns",
        paragraph(
            "In both maps the lower left half is the synthetic rows and the upper right half is real rows "
            "(for the trend score, held-out ones): where a pair is kept, the halves mirror each other.",
            left_out if involved > len(names) else "",
        ),
        element("div", {"class": "maps"}, *(_figure(m, names, pairs) for m in (TREND, ASSOCIATION))),
        _worst_pairs_table(fidelity.pairs),
    )


def _heat_names(pairs: Sequence[PairFidelity], schema: Schema) -> tuple[str, ...]:
    """The columns that the maps show, in the order of the table: all, or those with the lowest mean trend."""
    scores: dict[str, list[float]] = {}
    for pair in pairs:
        for name in (pair.first, pair.second):
            scores.setdefault(name, []).extend([] if pair.trend is None else [pair.trend])
    means = {name: sum(s) / len(s) if s else math.inf for name, s in scores.items()}
    known = [n for n in schema.names if n in means]
    worst = set(sorted(known, key=means.__getitem__)[:HEAT_COLUMNS])
    return tuple(n for n in known if n in worst)


def _figure(heat: HeatMap, names: Sequence[str], pairs: Mapping[frozenset[str], PairFidelity]) -> Html:
    return element(
        "figure",
        {},
        element("figcaption", {}, element("strong", {}, heat.heading), f" {heat.meaning}"),
        scrolling(f"Map: {heat.heading}", _heat_drawing(heat, names, pairs)),
        _heat_legend(heat),
    )


def _heat_legend(heat: HeatMap) -> Html:
    keys = (
        element(
            "li",
            {},
            element("span", {"class": f"swatch {heat.family}{i}", "aria-hidden": "true"}),
            f"{heat.unit * low:g}–{heat.unit * high:g}",
        )
        for i, (low, high) in enumerate(itertools.pairwise((0.0, *heat.steps, 1.0)))
    )
    return element("ul", {"class": "legend steps"}, *keys)


def _heat_drawing(heat: HeatMap, names: Sequence[str], pairs: Mapping[frozenset[str], PairFidelity]) -> Html:
    """A square of cells: synthetic below the diagonal, real above it."""
    side = min(max(420 // len(names), 14), 34)
    width, height = _HEAT_LEFT + side * len(names) + 2, _HEAT_TOP + side * len(names) + 2
    cells = (
        _heat_cell(heat, (i, j), (first, second), pairs.get(frozenset((first, second))), side)
        for i, first in enumerate(names)
        for j, second in enumerate(names)
    )
    label = f"{heat.heading} of each pair of {len(names)} columns; the table below lists the worst pairs"
    return element(
        "svg",
        {
            "class": "heat", "role": "img", "aria-label": label,
            "viewBox": f"0 0 {width} {height}", "width": width, "height": height,
        },
        *_heat_labels(names, side),
        element("g", {"transform": f"translate({_HEAT_LEFT} {_HEAT_TOP})"}, *cells),
    )  # fmt: skip


def _heat_labels(names: Sequence[str], side: float) -> Iterator[Html]:
    for i, name in enumerate(names):
        middle = side * (i + 0.5) + 3.5
        x, y = px(_HEAT_LEFT + middle), _HEAT_TOP - 6
        short = cut(name, 15)
        yield element("text", {"x": _HEAT_LEFT - 6, "y": px(_HEAT_TOP + middle), "class": "end"}, short)
        yield element("text", {"x": x, "y": y, "transform": f"rotate(-90 {x} {y})"}, short)


def _heat_cell(
    heat: HeatMap, at: tuple[int, int], names: tuple[str, str], pair: PairFidelity | None, side: int
) -> Html:
    row, column = at
    place = {"x": side * column, "y": side * row, "width": side - 1, "height": side - 1}
    if row == column:
        return element("rect", place | {"class": "self"})
    who, figure = ("synthetic", heat.synthetic) if row > column else ("real", heat.real)
    value = figure(pair) if pair is not None else None
    if value is None or not math.isfinite(value):
        return element("rect", place | {"class": "nothing"})
    title = f"{cut(names[0], 24)} × {cut(names[1], 24)}, {who}: {heat.show(value)}"
    shade = f"{heat.family}{bisect.bisect_right(heat.steps, value)}"
    return element("rect", place | {"class": shade}, element("title", {}, title))


def _worst_pairs_table(pairs: Sequence[PairFidelity]) -> Html:
    scored = sorted((p for p in pairs if p.trend is not None), key=lambda p: (p.trend, p.first, p.second))
    heads = ("Pair", "Trend", "Ceiling", "Association, real", "Association, synthetic")
    rows = (
        element(
            "tr",
            {},
            element(
                "th",
                {"scope": "row"},
                shown_name(p.first, 28),
                element("i", {}, " with "),
                shown_name(p.second, 28),
            ),
            element("td", {}, points(p.trend)),
            element("td", {}, points(p.trend_ceiling)),
            element("td", {}, strength(p.association_real)),
            element("td", {}, strength(p.association_synthetic)),
        )
        for p in scored[:WORST_PAIRS]
    )
    table = element(
        "table",
        {"class": "plain"},
        element(
            "caption", {}, f"The pairs with the lowest trend, {len(scored[:WORST_PAIRS])} of {len(pairs):,}"
        ),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *rows),
    )
    return scrolling("Pairs with the lowest trend", table)


_UNSEEN = section(
    "utility",
    "What it is good for",
    paragraph(
        "Not measured: models that learn from real rows, and trees that tell real from synthetic rows, would look at "
        "rows without noise."
    ),
)

_BOUNDED = section(
    "attacks",
    "What attackers learn",
    paragraph(
        "No attack was tried, since its figures would come from the rows themselves. The guarantee bounds every "
        "attack, also those that nobody has thought of."
    ),
)


# Making and citing ----------------------------------------------------------------------------------------

_LABELS: Mapping[str, str] = {
    "statement": "What is promised",
    "formal_guarantee": "Formal guarantee",
    "disclosure_control": "Disclosure control",
    "synthesizer": "Synthesizer",
    "rows": "Rows",
    "shards": "Files of rows",
    "seed": "Seed",
    "model_digest": "Model, SHA-256",
    "recipe_digest": "Recipe, SHA-256",
    "schema_digest": "Schema, SHA-256",
    "versions": "Versions",
}


def _making_section(certificate: Mapping[str, Any]) -> Html:
    known = [key for key in _LABELS if key in certificate]
    keys = [*known, *sorted(str(k) for k in certificate if k not in _LABELS)]
    items = (
        element(
            "div",
            {},
            element("dt", {}, _LABELS.get(key) or cut(key.replace("_", " "), NAME_WIDTH)),
            element("dd", {}, fact(key, certificate[key])),
        )
        for key in keys
    )
    return section(
        "making",
        "How it was made",
        paragraph(
            "This table was made elsewhere; here stands how it was measured, and with which versions."
            if "evaluated" in certificate
            else "From the certificate of the release. The same recipe, seed and versions on the same type of "
            "processor give the same bytes."
            if certificate.get("formal_guarantee") is None
            else "From the certificate of the release. The same model and seed give the same rows; the model itself "
            "was fitted with noise that nobody can draw again."
        ),
        element("dl", {"class": "facts-list"}, *items),
    )


def fact(key: str, value: Any, depth: int = 3) -> Html:
    """One entry of a certificate as markup; entries within entries become lists."""
    if key == "formal_guarantee" and value is None:
        return Html("None: no mathematical bound on what the rows reveal is claimed.")
    if key == "disclosure_control":
        return _disclosure(value)
    if isinstance(value, Mapping) and depth:
        items = (
            element("li", {}, cut(f"{name}: ", NAME_WIDTH), fact(str(name), v, depth - 1))
            for name, v in value.items()
        )
        return element("ul", {}, *items)
    if isinstance(value, list | tuple) and depth:
        return element("ul", {}, *(element("li", {}, fact("", v, depth - 1)) for v in value[:50]))
    return _plain_fact(key, value)


def _plain_fact(key: str, value: Any) -> Html:
    if value is None or isinstance(value, bool):
        return Html("none" if value is None else "yes" if value else "no")
    if key == "rows" and isinstance(value, int):
        return Html(f"{value:,}")
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    tag = "code" if re.fullmatch(r"(sha256:)?[0-9a-f]{32,}", text) else "span"
    return element(tag, {}, cut(text, 1_000))


def _disclosure(value: Any) -> Html:
    if not value:
        return Html("Off: rare values and extremes are released as they were learned.")
    at_least = value.get("at_least") if isinstance(value, Mapping) else value
    return element(
        "span", {}, f"Values of fewer than {at_least} units are pooled; extremes are cut at that rank."
    )


def _citing_section(title: str, certificate: Mapping[str, Any]) -> Html:
    return section(
        "citing",
        "How to cite",
        paragraph("Add the publisher, the year and the address where you found the release."),
        element("blockquote", {}, citation(title, certificate)),
    )


def citation(title: str, certificate: Mapping[str, Any]) -> str:
    """One sentence that names the release and what it was made with."""
    digest = str(certificate.get("model_digest") or "")[:12]
    versions = certificate.get("versions")
    version = versions.get("understudy") if isinstance(versions, Mapping) else None
    made = f"Made with Understudy{f' {version}' if version else ''}"
    synthesizer = certificate.get("synthesizer")
    return visible(
        f"{cut(title, 120)} [synthetic table{f', model {digest}' if digest else ''}]. {made}"
        f"{f', synthesizer {synthesizer}' if synthesizer else ''}."
    )
