"""Catalog: all releases at one root, as a page and as data (DCAT 3, https://www.w3.org/TR/vocab-dcat-3/, in JSON-LD).

Both are pure functions of entries, which hold what releases have published and nothing else. The page follows the
policy of reports: one file that loads nothing; its links are relative, so a root can be moved or served as it is.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from validation.exposure import share
from validation.markup import (
    NAME_WIDTH,
    Html,
    counted,
    cut,
    element,
    join,
    paragraph,
    points,
    px,
    scrolling,
    section,
    shown_name,
    sortable,
)
from validation.page import document, tools

DRAWN = 40
"""Names whose quality over time is drawn at most."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 150, 40, 70, 10, 24


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One release, by what it has published. Scores and shares are in [0, 1]; None is not known.

    Attributes:
        name: of the release.
        number: which one; its folder is `name/number`.
        issued: when it became visible, ISO 8601 in UTC.
        latest: whether it is the latest of its name.
        rows: of the data.
        columns: of the data.
        synthesizer: that made it.
        statement: what is promised.
        epsilon: of differential privacy; None: no formal guarantee.
        shape: column shapes.
        shape_ceiling: those of held-out rows.
        trend: pair trends.
        trend_ceiling: those of held-out rows.
        told_apart: area under the curve of the two-sample test.
        leaked: what the strongest attack wins beyond chance.
        useful: target, measure, after synthetic rows, after real rows: of the target that is taught worst.
        warnings: findings of the gate.
        files: path in the release → bytes and SHA-256 (hex).
    """

    name: str
    number: str
    issued: str
    latest: bool
    rows: int
    columns: int
    synthesizer: str
    statement: str
    epsilon: float | None
    shape: float | None
    shape_ceiling: float | None
    trend: float | None
    trend_ceiling: float | None
    told_apart: float | None
    leaked: float | None
    useful: tuple[str, str, float, float] | None
    warnings: int | None
    files: Mapping[str, tuple[int, str]]

    @property
    def place(self) -> str:
        """Where it lies, seen from the root; a name is safe in an address, since recipes take no other."""
        return f"{self.name}/{self.number}/"


def by_name(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The releases of each name, the oldest first."""
    found: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: (e.name, e.issued, e.number)):
        found.setdefault(entry.name, []).append(entry)
    return found


# As data --------------------------------------------------------------------------------------------------

_CONTEXT = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dct": "http://purl.org/dc/terms/",
    "dqv": "http://www.w3.org/ns/dqv#",
    "spdx": "http://spdx.org/rdf/terms#",
    "understudy": "urn:understudy:",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "issued": {"@id": "dct:issued", "@type": "xsd:dateTime"},
    "downloadURL": {"@id": "dcat:downloadURL", "@type": "@id"},
    "landingPage": {"@id": "dcat:landingPage", "@type": "@id"},
    "inSeries": {"@id": "dcat:inSeries", "@type": "@id"},
    "previousVersion": {"@id": "dcat:previousVersion", "@type": "@id"},
    "measure": {"@id": "dqv:isMeasurementOf", "@type": "@id"},
}


def dcat(entries: Sequence[Entry]) -> dict[str, Any]:
    """The catalogue as DCAT in JSON-LD; addresses are relative to the root."""
    names = by_name(entries)
    return {
        "@context": _CONTEXT,
        "@id": "./",
        "@type": "dcat:Catalog",
        "dct:title": "Synthetic releases",
        "dcat:dataset": [
            *({"@id": f"{name}/", "@type": "dcat:DatasetSeries", "dct:title": name} for name in names),
            *(
                _dataset(entry, before)
                for own in names.values()
                for before, entry in itertools.pairwise([None, *own])
                if entry is not None
            ),
        ],
    }


def _dataset(entry: Entry, before: Entry | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "@id": entry.place,
        "@type": "dcat:Dataset",
        "dct:title": entry.name,
        "dct:description": f"A synthetic table of {entry.rows:,} rows. {entry.statement}".strip(),
        "dct:identifier": entry.number,
        "dcat:version": entry.number,
        "dcat:keyword": ["synthetic"],
        "issued": entry.issued,
        "inSeries": f"{entry.name}/",
        "dcat:distribution": [*_distributions(entry)],
        "dqv:hasQualityMeasurement": [*_measurements(entry)],
    }
    if before is not None:
        found["previousVersion"] = before.place
    if "report.html" in entry.files:
        found["landingPage"] = f"{entry.place}report.html"
    return found


def _distributions(entry: Entry) -> Iterator[dict[str, Any]]:
    for path, (size, digest) in sorted(entry.files.items()):
        if path.startswith("data/"):
            yield {
                "@type": "dcat:Distribution",
                "downloadURL": entry.place + path,
                "dcat:mediaType": "application/vnd.apache.parquet",
                "dcat:byteSize": size,
                "spdx:checksum": {
                    "@type": "spdx:Checksum",
                    "spdx:algorithm": {"@id": "spdx:checksumAlgorithm_sha256"},
                    "spdx:checksumValue": digest,
                },
            }


def _measurements(entry: Entry) -> Iterator[dict[str, Any]]:
    figures = {
        "column_shapes": entry.shape,
        "pair_trends": entry.trend,
        "two_sample_auc": entry.told_apart,
        "strongest_attack": entry.leaked,
        "epsilon": entry.epsilon,
        "warnings": entry.warnings,
    }
    if entry.useful is not None:
        figures["utility"] = entry.useful[2]
    for name, value in figures.items():
        if value is not None:
            yield {"@type": "dqv:QualityMeasurement", "measure": f"understudy:{name}", "dqv:value": value}


# As a page ------------------------------------------------------------------------------------------------

_HEADERS = (
    ("Release", "text"),
    ("Issued", "text"),
    ("Rows", "number"),
    ("Columns", "number"),
    ("Made by", "text"),
    ("Faithful, columns", "number"),
    ("Faithful, pairs", "number"),
    ("Useful", "number"),
    ("Told apart", "number"),
    ("Private", "number"),
    ("Warnings", "number"),
)


def render(entries: Sequence[Entry]) -> str:
    """The page. HTML text, equal for equal entries."""
    names = by_name(entries)
    drawn = [own for own in names.values() if len(own) > 1]
    main = element("main", {"id": "main"}, _table(names), *([_over_time(drawn)] if drawn else []))
    return document(
        title="Synthetic releases. A catalogue by Understudy",
        heading="Synthetic releases",
        eyebrow="Catalogue",
        facts=f"{counted(len(entries), 'release', 'releases')} of {counted(len(names), 'table', 'tables')}",
        links=[("releases", "Releases"), *([("time", "Over time")] if drawn else [])],
        main=main,
        footer=element(
            "footer",
            {},
            element(
                "p",
                {},
                "Made of what the releases here have published. The rows of all of them were drawn from models and "
                "describe nobody. catalog.json says the same to machines, in DCAT.",
            ),
        ),
    )


def _table(names: Mapping[str, Sequence[Entry]]) -> Html:
    if not names:
        return section("releases", "Releases", paragraph("There is none below this root yet."))
    entries = [e for own in names.values() for e in own]
    before = {
        e.place: b for own in names.values() for b, e in itertools.pairwise([None, *own]) if e is not None
    }
    rows = (_row(e, before[e.place]) for e in sorted(entries, key=lambda e: (e.issued, e.name), reverse=True))
    heads = (element("th", {"scope": "col", "data-sort": s}, h) for h, s in _HEADERS)
    table = element(
        "table",
        {"id": "releases-table", "class": "plain sifted"},
        element(
            "caption",
            {},
            "The newest first. Small figures say what changed since the release before of the same name.",
        ),
        element("thead", {}, element("tr", {}, *heads)),
        element("tbody", {}, *rows),
    )
    sifting = tools(
        "releases-table",
        "releases",
        choices=[
            ("name", "Name", list(names)),
            ("synthesizer", "Made by", sorted({e.synthesizer for e in entries})),
            ("privacy", "Privacy", ["formal guarantee", "no formal guarantee"]),
        ],
        flags=[("latest", "latest of each name"), ("picked", "chosen ones, to compare")],
    )
    return section(
        "releases",
        "Releases",
        paragraph(
            "Faithful: SDMetrics’ scores of 100, of those of real rows that were held out. Useful: what models reach "
            "in real rows after synthetic ones, of after real ones. Told apart: the area under the curve of trees that "
            "tell synthetic from real rows, 0.50 is best. Private: ε, or what the strongest attack won beyond chance. "
            "With ε, columns are held against the noised counts that were paid for, and nothing else is measured."
        ),
        element("div", {"class": "tools"}, sifting),
        scrolling("Table of releases", table),
    )


def _row(entry: Entry, before: Entry | None) -> Html:
    formal = entry.epsilon is not None
    # Beside itself nothing changed, so nothing is said.
    was = before or entry
    return element(
        "tr",
        {
            "id": f"{entry.name}-{entry.number}", "data-name": entry.name, "data-synthesizer": entry.synthesizer,
            "data-privacy": "formal guarantee" if formal else "no formal guarantee",
            "data-latest": "" if entry.latest else None,
        },
        _release(entry),
        element("td", {"data-value": entry.issued}, element("time", {"datetime": entry.issued}, entry.issued[:10])),
        _cell(entry.rows, f"{entry.rows:,}", _change(entry.rows, was.rows, "{:+,.0f}")),
        _cell(entry.columns, f"{entry.columns:,}", _change(entry.columns, was.columns, "{:+,.0f}")),
        element("td", {"data-value": entry.synthesizer}, cut(entry.synthesizer, 24)),
        _scored(entry.shape, entry.shape_ceiling, was.shape),
        _scored(entry.trend, entry.trend_ceiling, was.trend),
        _useful(entry, before),
        _cell(entry.told_apart, _two(entry.told_apart), _change(entry.told_apart, was.told_apart)),
        _private(entry),
        _cell(entry.warnings, "–" if entry.warnings is None else str(entry.warnings)),
    )  # fmt: skip


def _release(entry: Entry) -> Html:
    named = shown_name(entry.name, 36)
    page = (
        element("a", {"href": f"./{entry.place}report.html"}, named)
        if "report.html" in entry.files
        else named
    )
    told = f"{entry.number[:8]}{', latest' if entry.latest else ''}"
    box = element(
        "input",
        {
            "type": "checkbox", "data-pick": "",
            "aria-label": f"Choose {cut(entry.name, NAME_WIDTH)} {entry.number[:8]}",
        },
    )  # fmt: skip
    pick = element("label", {"class": "pick", "hidden": "hidden"}, box, " choose")
    return element(
        "th",
        {"scope": "row", "data-value": entry.name.casefold()},
        page,
        element("span", {"class": "kind"}, told, " ", pick),
    )


def _cell(value: float | None, text: str, *more: Html) -> Html:
    return element("td", {"data-value": sortable(value)}, text, *more)


def _scored(score: float | None, ceiling: float | None, before: float | None) -> Html:
    text = points(score) if ceiling is None else f"{points(score)} of {points(ceiling)}"
    return _cell(score, text, _change(score, before, "{:+.1f}", 100))


def _useful(entry: Entry, before: Entry | None) -> Html:
    if entry.useful is None:
        return _cell(None, "–")
    target, measure, synthetic, real = entry.useful
    same = before is not None and before.useful is not None and before.useful[:2] == entry.useful[:2]
    former = before.useful[2] if same and before is not None and before.useful is not None else None
    told = element("span", {"class": "kind"}, f"{measure}, ", shown_name(target, 20))
    return _cell(synthetic, f"{synthetic:.2f} of {real:.2f}", _change(synthetic, former), told)


def _private(entry: Entry) -> Html:
    if entry.epsilon is not None:
        return _cell(entry.epsilon, f"ε {entry.epsilon:g}")
    if entry.leaked is None:
        return _cell(None, "–")
    return _cell(entry.leaked, share(max(entry.leaked, 0.0)))


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _change(value: float | None, before: float | None, form: str = "{:+.2f}", scale: float = 1) -> Html:
    """What changed since the release before, if that can be seen."""
    if value is None or before is None:
        return Html("")
    text = form.format(scale * (value - before))
    if not text.strip("+-0.,"):
        return Html("")
    return element("span", {"class": "kind"}, text.replace("-", "−"))


# Quality over time ----------------------------------------------------------------------------------------


def _over_time(drawn: Sequence[Sequence[Entry]]) -> Html:
    newest = sorted(drawn, key=lambda own: own[-1].issued, reverse=True)
    left_out = (
        f" Of {len(newest):,} names, the {DRAWN} that changed last are drawn." if len(newest) > DRAWN else ""
    )
    return section(
        "time",
        "Over time",
        paragraph(
            "How faithful each release of a name was, from the oldest to the newest, beside what held-out real rows "
            "scored (dashed).", left_out,
        ),
        element("div", {"class": "maps"}, *(_figure(own) for own in newest[:DRAWN])),
    )  # fmt: skip


def _figure(own: Sequence[Entry]) -> Html:
    return element(
        "figure",
        {},
        element(
            "figcaption",
            {},
            element("strong", {}, shown_name(own[0].name, 36)),
            f" {len(own):,} releases, {own[0].issued[:10]} to {own[-1].issued[:10]}",
        ),
        _drawing(own),
    )


def _drawing(own: Sequence[Entry]) -> Html:
    lines = (
        ("columns", "real", [e.shape for e in own], [e.shape_ceiling for e in own]),
        ("pairs", "synthetic", [e.trend for e in own], [e.trend_ceiling for e in own]),
    )
    known = [v for _, _, scores, ceilings in lines for v in (*scores, *ceilings) if v is not None]
    if not known:
        return element("p", {"class": "none"}, "no scores are published")
    low, high = min(known), max(known)
    low, high = max(0.0, low - 0.01), min(1.0, high + 0.005)

    def across(i: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * i / max(len(own) - 1, 1)

    def up(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / max(high - low, 1e-9)

    def path(values: Sequence[float | None]) -> str:
        """Lines through what is known; a gap breaks them."""
        parts, pen = [], "M"
        for i, value in enumerate(values):
            if value is None:
                pen = "M"
                continue
            parts.append(f"{pen}{px(across(i))} {px(up(value))}")
            pen = "L"
        return "".join(parts)

    marks: list[Html] = []
    for end in (low, high):
        y = px(up(end))
        marks.append(element("line", {"class": "grid", "x1": _LEFT, "x2": _WIDTH - _RIGHT, "y1": y, "y2": y}))
        marks.append(element("text", {"class": "end", "x": _LEFT - 6, "y": y, "dy": "0.32em"}, points(end)))
    ends = _apart([(name, up(s[-1])) for name, _, s, _ in lines if s[-1] is not None])
    for name, kind, scores, ceilings in lines:
        marks.append(element("path", {"class": f"ceiling {kind}", "d": path(ceilings)}))
        marks.append(element("path", {"class": f"line {kind}", "d": path(scores)}))
        for i, value in enumerate(scores):
            if value is not None:
                dot = {"class": f"point {kind}", "cx": px(across(i)), "cy": px(up(value)), "r": 3}
                title = f"{own[i].issued[:10]}, {own[i].number[:8]}: {name} {points(value)}"
                marks.append(element("circle", dot, element("title", {}, title)))
        if name in ends:
            x = _WIDTH - _RIGHT + 8
            marks.append(
                element("text", {"class": "name", "x": x, "y": px(ends[name]), "dy": "0.32em"}, name)
            )
    told = "; ".join(f"{e.issued[:10]} columns {points(e.shape)}, pairs {points(e.trend)}" for e in own[-12:])
    return element(
        "svg",
        {
            "class": "comparison", "role": "img", "aria-label": f"{cut(own[0].name, NAME_WIDTH)} over time: {told}",
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "width": _WIDTH, "height": _HEIGHT,
        },
        join(marks),
    )  # fmt: skip


def _apart(ends: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Heights of labels, moved where they would lie on each other."""
    placed: dict[str, float] = {}
    for name, y in sorted(ends, key=lambda e: e[1]):
        placed[name] = max([y, *(p + 13 for p in placed.values())])
    return placed
