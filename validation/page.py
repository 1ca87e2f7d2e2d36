"""Page: the frame of every page that we write: one self-contained file under a policy that loads nothing.

Markup is made by `markup.element` alone, which escapes. The one style and the one script are inside the page, and the
content security policy names their hashes and allows nothing else.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from validation.markup import NAME_WIDTH, Html, cut, element, shown_name

Zone = Literal["outside", "inside"]
"""Where a page may be read: anywhere, or only where the private rows may be."""

INSIDE = (
    "Inside. This page holds exact figures of the private table. It belongs to those who hold that table, and must not "
    "be published."
)


def document(
    *,
    title: str,
    heading: str,
    eyebrow: str,
    facts: str,
    links: Sequence[tuple[str, str]],
    main: Html,
    footer: Html,
    zone: Zone = "outside",
) -> str:
    """A whole page.

    Args:
        title: of the window; may be hostile, as all texts here.
        heading: what the page is about.
        eyebrow: one line above it.
        facts: one line below it.
        links: id of a section → its name, in the order of the page.
        main: the sections.
        footer: what stands at the end.
        zone: the inside says so in red.

    Returns:
        HTML text, equal for equal arguments.
    """
    body = element("body", {}, _masthead(heading, eyebrow, facts, links, zone), main, footer)
    return f"<!doctype html>\n{element('html', {'lang': 'en'}, head(title), body)}\n"


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


def policy(style: str, script: str) -> str:
    """Content security policy under which this style and this script run, and nothing is loaded."""
    # Pictures are in the page itself, as all else is.
    rules = (
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
    )
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _masthead(heading: str, eyebrow: str, facts: str, links: Sequence[tuple[str, str]], zone: Zone) -> Html:
    items = (element("li", {}, element("a", {"href": f"#{anchor}"}, label)) for anchor, label in links)
    warned = [element("p", {"class": "inside", "role": "note"}, INSIDE)] if zone == "inside" else []
    return element(
        "header",
        {"class": "masthead"},
        element("a", {"class": "skip", "href": "#main"}, "Skip to the content"),
        element(
            "div",
            {"class": "bar"},
            element("span", {"class": "mark"}, "Understudy"),
            element("nav", {"aria-label": "Sections of this page"}, element("ul", {}, *items)),
        ),
        *warned,
        element("p", {"class": "eyebrow"}, eyebrow),
        element("h1", {}, shown_name(heading)),
        element("p", {"class": "facts"}, facts),
    )


def tools(
    table: str,
    what: str,
    *,
    choices: Sequence[tuple[str, str, Sequence[str]]],
    flags: Sequence[tuple[str, str]],
) -> Html:
    """Search and filters of a table of class `sifted`; without the script they stay hidden.

    Args:
        table: its id.
        what: what its rows are, in the plural.
        choices: attribute of the rows (`data-…`), label, and the values that rows can have.
        flags: attribute of the rows that are kept where it is set, and label.
    """
    search = [
        element("label", {"for": f"{table}-search"}, f"Find {what}"),
        element(
            "input",
            {"id": f"{table}-search", "type": "search", "autocomplete": "off", "spellcheck": "false"},
        ),
    ]
    for name, label, values in choices:
        options = (element("option", {"value": v}, cut(v, NAME_WIDTH)) for v in values)
        search.append(element("label", {"for": f"{table}-{name}"}, label))
        search.append(
            element(
                "select",
                {"id": f"{table}-{name}", "data-choice": name},
                element("option", {"value": ""}, "all"),
                *options,
            )
        )
    for name, label in flags:
        box = element("input", {"id": f"{table}-{name}", "type": "checkbox", "data-flag": name})
        search.append(element("label", {"class": "flag", "for": f"{table}-{name}"}, box, f" {label}"))
    search.append(element("span", {"class": "count", "role": "status", "data-what": what}))
    return element("div", {"class": "search", "data-sifts": table, "hidden": "hidden"}, *search)
