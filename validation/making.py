"""Making: how a release was made, as its certificate says it, and how to cite it."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from validation.markup import NAME_WIDTH, Html, cut, element, paragraph, scrolling, section, visible

_LABELS: Mapping[str, str] = {
    "statement": "What is promised",
    "formal_guarantee": "Formal guarantee",
    "disclosure_control": "Disclosure control",
    "synthesizer": "Synthesizer",
    "rows": "Rows",
    "shards": "Files of rows",
    "draws": "Draws of the table",
    "parity": "Parity that was asked for",
    "watermark": "Watermark of images",
    "learned_rows": "Real rows learned from, about",
    "seed": "Seed",
    "model_digest": "Model, SHA-256",
    "recipe_digest": "Recipe, SHA-256",
    "schema_digest": "Schema, SHA-256",
    "versions": "Versions",
    "warnings": "Warnings of the gate",
    "drift": "How the input differed from the schema",
    "evaluated": "How it was measured",
    "format": "Format of the certificate",
}

DEPTH, FOLDED = 3, 8
"""Levels of entries that are shown as lists; inner lists of more entries than these are folded away."""

LISTED = 500
"""Entries of a list that are shown at most."""


def render(certificate: Mapping[str, Any]) -> Html:
    """The section: every entry of the certificate."""
    # A formal guarantee needs no pooling, so that there is none says nothing.
    silent = {"disclosure_control"} if certificate.get("formal_guarantee") else set()
    known = [key for key in _LABELS if key in certificate and key not in silent]
    keys = [*known, *sorted(str(k) for k in certificate if k not in _LABELS)]
    items = (
        element(
            "div",
            {},
            element("dt", {}, _LABELS.get(key) or cut(_words(key), NAME_WIDTH)),
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


def fact(key: str, value: Any, depth: int = DEPTH) -> Html:
    """One entry of a certificate as markup: entries within it become lists, many of a kind a table."""
    if key == "formal_guarantee" and value is None:
        return Html("None: no mathematical bound on what the rows reveal is claimed.")
    if key == "disclosure_control":
        return _disclosure(value)
    if isinstance(value, Mapping | list | tuple) and not value:
        return Html("none")
    if isinstance(value, Mapping) and depth:
        return _entries(value, depth)
    if isinstance(value, list | tuple) and depth:
        if len(value) > 1 and all(isinstance(v, Mapping) and [*v] == [*value[0]] for v in value):
            return _table(key, value)
        return element("ul", {}, *(element("li", {}, fact("", v, depth - 1)) for v in value[:LISTED]))
    return _plain_fact(key, value)


def _entries(value: Mapping[Any, Any], depth: int) -> Html:
    items = (
        element("li", {}, cut(f"{_words(str(name))}: ", NAME_WIDTH), fact(str(name), v, depth - 1))
        for name, v in value.items()
    )
    listed = element("ul", {"class": "inner"}, *items)
    if depth == DEPTH or len(value) <= FOLDED:
        return listed
    return element("details", {}, element("summary", {}, f"{len(value):,} entries"), listed)


def _table(key: str, rows: Sequence[Mapping[Any, Any]]) -> Html:
    """Entries that have the same keys, such as the answers that were charged."""
    name = _words(key) or "entries"
    heads = (element("th", {"scope": "col"}, cut(_words(str(k)), NAME_WIDTH)) for k in rows[0])
    lines = (
        element("tr", {}, *(element("td", {}, fact(str(k), v, 0)) for k, v in row.items()))
        for row in rows[:LISTED]
    )
    table = element(
        "table",
        {"class": "plain charges"},
        element("caption", {}, f"{name}, {len(rows):,}"),
        element("thead", {}, element("tr", {}, *heads)),
        element("tbody", {}, *lines),
    )
    return scrolling(f"Table: {cut(name, NAME_WIDTH)}", table)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _plain_fact(key: str, value: Any) -> Html:
    if value is None or isinstance(value, bool):
        return Html("none" if value is None else "yes" if value else "no")
    if isinstance(value, float):
        return Html(html.escape(f"{value:.6g}"))
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


def citing(title: str, certificate: Mapping[str, Any]) -> Html:
    """The section on how to cite it."""
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
