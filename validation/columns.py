"""Columns: every column of a report: its distribution, its score beside the ceiling, what is missing and was found."""

from collections import Counter
from collections.abc import Mapping, Sequence

from privacy.estimate import Z
from synth.schema import Column, Schema
from validation.fidelity import ColumnFidelity, Fidelity, Overlay
from validation.gates import Verdict
from validation.gauges import gauge
from validation.markup import (
    Html,
    counted,
    cut,
    element,
    join,
    paragraph,
    percent,
    points,
    section,
    shown_name,
    sortable,
    strength,
)
from validation.page import tools
from validation.plots import overlay_plot

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
    "image": "Learned and drawn; figures of images stand below, here only whether they are there.",
    "constant": "One value only.",
    "empty": "No value in any row.",
}

_STEPS = (
    "Shares of real rows are rounded to multiples of {0} rows, so that nobody stands out: of fewer than half as many "
    "nothing is seen here, though synthetic rows may have them."
)

_NOISED = (
    "Shape is 100 when a column is distributed as the noised counts say that the model was fitted to. These were "
    "charged to the privacy budget; nothing here was computed from rows without noise. So the score shows what the "
    "model lost of what it was told, and not what noise took from that."
)


def render(
    fidelity: Fidelity, verdict: Verdict, schema: Schema, anchors: Mapping[str, str], *, at_least: int = 0
) -> Html:
    """The section: a row for each column of the schema, in its order.

    Args:
        fidelity: the figures.
        verdict: what the gate made of them.
        schema: the columns.
        anchors: column → its id on the page.
        at_least: rows that shares of real rows are multiples of; 0: they are exact.
    """
    measured = {c.name: c for c in fidelity.columns}
    overlays = {o.column: o for o in fidelity.overlays}
    found = Counter(name for f in verdict.findings for name in set(f.columns))
    rows = (
        _row(c, measured.get(c.name), overlays.get(c.name), anchors[c.name], found[c.name]) for c in schema
    )
    heads = (element("th", {"scope": "col", "role": "columnheader", "data-sort": s}, h) for h, s in _HEADERS)
    table = element(
        "table",
        {"id": "columns-table", "class": "sifted", "role": "table"},
        element(
            "caption", {}, "Every column: its distribution, its score beside the ceiling, and what is missing"
        ),
        element("thead", {"role": "rowgroup"}, element("tr", {"role": "row"}, *heads)),
        element("tbody", {"role": "rowgroup"}, *rows),
    )
    kinds = list(dict.fromkeys(str(c.kind) for c in schema))
    sifting = tools(
        "columns-table", "columns", choices=[("kind", "Kind", kinds)], flags=[("found", "with findings only")]
    )
    return section(
        "columns",
        "Columns",
        paragraph(_NOISED)
        if fidelity.noised
        else paragraph(
            "Shape is 100 when a column is distributed as in the training rows. Its ceiling is what real "
            "rows score that were held out, as many as there are, ± half of its 95 % interval: "
            f"{fidelity.rows_train:,} rows trained, "
            f"{fidelity.rows_holdout:,} held out, {fidelity.rows_synthetic:,} synthetic rows compared. Plots "
            "show shares: of the values that are present for numbers and times, of all rows for categories."
            + (f" {_STEPS.format(at_least)}" if at_least else "")
        ),
        element("div", {"class": "tools"}, sifting, _legend(fidelity)),
        table,
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


def _row(
    column: Column, measured: ColumnFidelity | None, overlay: Overlay | None, anchor: str, found: int
) -> Html:
    shape = measured.shape if measured else None
    ceiling = measured.shape_ceiling if measured else None
    missing_real = measured.missing_real if measured else None
    missing_synthetic = measured.missing_synthetic if measured else None
    scored = element("span", {"class": "number"}, points(shape))
    return element(
        "tr",
        {"id": anchor, "role": "row", "data-kind": column.kind, "data-found": "" if found else None},
        _head(column, measured, found),
        _cell(1, None, overlay_plot(overlay) if overlay else _no_plot(column), kind="plot"),
        _cell(2, shape, scored, *([gauge(shape, ceiling, "spark")] if shape is not None else [])),
        _cell(3, ceiling, _reached(measured)),
        _cell(4, missing_real, percent(missing_real)),
        _cell(5, missing_synthetic, percent(missing_synthetic)),
        _cell(6, measured.association_real if measured else None, _association(measured), kind="association"),
    )


def _cell(position: int, value: float | None, *children: str, kind: str | None = None) -> Html:
    attributes = {"role": "cell", "class": kind, "data-label": _HEADERS[position][0]}
    return element("td", attributes | {"data-value": sortable(value)}, *children)


def _head(column: Column, measured: ColumnFidelity | None, found: int) -> Html:
    parts = [
        shown_name(column.name, 36),
        element("span", {"class": "kind"}, f"{column.kind} · {cut(column.type, 32)}"),
    ]
    if found:
        link = element("a", {"href": "#findings"}, counted(found, "finding", "findings"))
        parts.append(element("span", {"class": "note"}, link))
    if (said := _note(column)) is not None:
        parts.append(element("span", {"class": "note"}, said))
    if measured and measured.lost:
        parts.append(element("span", {"class": "note lost"}, "Lost: ", _lost(measured.lost)))
    value = cut(column.name, 80).casefold()
    return element("th", {"scope": "row", "role": "rowheader", "data-value": value}, *parts)


def _note(column: Column) -> str | None:
    if column.personal is not None:
        what = column.personal.what.replace("_", " ")
        return f"Made up ({what}); nothing of it is learned but what is missing."
    return _NOTES.get(column.kind)


def _lost(lost: Sequence[tuple[str, float]]) -> Html:
    shown = [element("span", {}, shown_name(label, 24), f" ({percent(share)})") for label, share in lost[:3]]
    if len(lost) > len(shown):
        shown.append(element("span", {}, f"{len(lost) - len(shown):,} more"))
    return join(shown, ", ")


def _reached(measured: ColumnFidelity | None) -> Html:
    """The ceiling, with half of its 95 % interval."""
    if measured is None or measured.shape_ceiling is None:
        return Html("–")
    error = measured.shape_error
    more = [] if error is None else [element("span", {"class": "kind"}, f"± {100 * Z * error:.1f}")]
    return element("span", {}, points(measured.shape_ceiling), *more)


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
