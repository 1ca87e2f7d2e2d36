"""Markup: the only way by which text becomes HTML, and how numbers are shown.

Whatever comes from a table is hostile: `element` escapes every string that is not markup already.
"""

import html
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping

from privacy.estimate import Z

NAME_WIDTH = 48
"""Width at which a name is cut; its full text stands in a title attribute."""

TITLE_WIDTH = 2_000
"""Width at which even the full text of a name is cut, so that no name can blow the page up."""


class Html(str):
    """Markup that is safe to put on the page; a plain string never is."""

    __slots__ = ()


def element(tag: str, attributes: Mapping[str, object], *children: str) -> Html:
    """One element; attributes that are None are left out, children that are not markup are escaped.

    Examples:
        >>> element("p", {"title": 'a"b', "id": None}, "1 < 2", element("b", {}, "!"))
        '<p title="a&quot;b">1 &lt; 2<b>!</b></p>'
    """
    pairs = "".join(
        f' {name}="{html.escape(visible(str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(c if isinstance(c, Html) else html.escape(visible(c)) for c in children)
    if tag in {"meta", "input"}:
        return Html(f"<{tag}{pairs}>")
    return Html(f"<{tag}{pairs}>{inner}</{tag}>")


def join(parts: Iterable[Html], separator: str = "") -> Html:
    """Markup after markup, with an escaped separator between."""
    return Html(html.escape(separator).join(parts))


def visible(text: str) -> str:
    """The text with what cannot be seen, or reorders what can, written as a code point.

    Joiners stay, since scripts and emoji need them.

    Examples:
        >>> visible("a\\nb\\u202ec")
        'a⟨U+000A⟩b⟨U+202E⟩c'
    """
    if text.isprintable():
        return text
    return "".join(_visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    if c in "\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return c
    return f"⟨U+{ord(c):04X}⟩"


def signed(value: float) -> str:
    """A number of three decimals with a proper minus, and no sign for 0."""
    return f"{value:.3f}".replace("-0.000", "0.000").replace("-", "−")


def interval_cell(value: float, low: float, high: float) -> Html:
    """A cell of a table with a figure, and the ends of its interval below."""
    return element(
        "td",
        {},
        element("strong", {}, signed(value)),
        element("span", {"class": "kind"}, f"{signed(low)} to {signed(high)}"),
    )


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, for terminals and comments.

    Examples:
        >>> one_line("a\\nb")
        'a b'
    """
    return "".join(c if c.isprintable() else " " for c in text)


def cut(text: str, width: int) -> str:
    """The text made visible, and cut where it is wider than `width` letters; wide letters count twice.

    Examples:
        >>> cut("marital_status", 8)
        'marital…'
    """
    text = visible(text[: 4 * width])
    used = 0
    for i, c in enumerate(text):
        used += 2 if unicodedata.east_asian_width(c) in "WF" else 1
        if used > width:
            return text[: max(i - 1, 1)] + "…"
    return text


def shown_name(name: str, width: int = NAME_WIDTH) -> Html:
    """A name of the table: apart from the direction of the text around it, cut, with a title if it was."""
    short = cut(name, width)
    return element("bdi", {"title": None if short == name else cut(name, TITLE_WIDTH)}, short or "(no name)")


def shown_pair(first: str, second: str) -> Html:
    """The head of a row about two columns."""
    return element(
        "th", {"scope": "row"}, shown_name(first, 28), element("i", {}, " with "), shown_name(second, 28)
    )


def section(anchor: str, heading: str, *children: str) -> Html:
    """A section of the page with its heading; `anchor` is its id."""
    return element(
        "section",
        {"id": anchor, "aria-labelledby": f"{anchor}-heading"},
        element("h2", {"id": f"{anchor}-heading"}, heading),
        *children,
    )


def paragraph(*children: str) -> Html:
    """A paragraph that leads a section."""
    return element("p", {"class": "lead"}, *children)


def scrolling(label: str, content: Html) -> Html:
    """What may be wider than a phone: it scrolls by itself, with the keyboard too."""
    return element("div", {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": label}, content)


def points(value: float | None) -> str:
    """A score in [0, 1] as points of 100; 100 is said of no less than all."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if value >= 1 else f"{min(100 * value, 99.9):.1f}"


def within(
    value: float, error: float | None, told: Callable[[float], str] = points, *, most: float = 1.0
) -> str:
    """A figure with its 95 % interval, within 0 and `most`, from its standard error; alone where none is known."""
    if error is None:
        return told(value)
    low, high = (min(max(value + z * error, 0.0), most) for z in (-Z, Z))
    return f"{told(value)} ({told(low)} to {told(high)})"


def percent(share: float | None) -> str:
    """A share as percent; a dash where there is none."""
    if share is None or not math.isfinite(share):
        return "–"
    if share == 0:
        return "0\u00a0%"
    if share < 0.0005:
        return "<\u00a00.1\u00a0%"
    return f"{100 * share:.1f}\u00a0%"


def counted(n: int, one: str, many: str) -> str:
    """A number with its noun: `1 row`, `2,000 rows`."""
    return f"{n:,} {one if n == 1 else many}"


def strength(value: float | None) -> str:
    """The strength of an association, with two digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"


def sortable(value: float | None) -> str | None:
    """A value as the script sorts it, or None."""
    return None if value is None or not math.isfinite(value) else f"{value:.6g}"


def px(value: float) -> str:
    """A length in a drawing, without idle digits."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
