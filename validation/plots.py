"""Plots: a column of real and synthetic rows as one small drawing."""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from validation.fidelity import OTHERS, Overlay
from validation.markup import NAME_WIDTH, Html, counted, cut, element, join, points, px

BARS = 8
"""Bars of one plot at most; what is beyond is summed into the last."""

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 300, 98, 40, 20, 8
_BAR_LEFT, _BAR_STEP = 112, 16


Place = Callable[[float], float]
"""From a share or a position to a coordinate in pixels."""


def overlay_plot(overlay: Overlay) -> Html:
    """Real against synthetic shares of one column, as SVG: steps over edges, or paired bars by label."""
    if not any(overlay.real) and not any(overlay.synthetic):
        return element("span", {"class": "none"}, "no value present")
    if overlay.edges:
        return _histogram(overlay)
    return _bars(overlay)


def _drawing(label: str, height: float, *children: str) -> Html:
    return element(
        "svg",
        {
            "class": "overlay", "role": "img", "aria-label": label,
            "viewBox": f"0 0 {_WIDTH} {px(height)}", "width": _WIDTH, "height": px(height),
        },
        *children,
    )  # fmt: skip


def _histogram(overlay: Overlay) -> Html:
    positions = _positions(overlay.edges)
    real, synthetic = _densities(overlay.real, positions), _densities(overlay.synthetic, positions)
    top = max(*real, *synthetic) or 1.0
    span = _WIDTH - _LEFT - 6
    floor = _HEIGHT - _BOTTOM

    def across(share: float) -> float:
        return _LEFT + span * share

    def up(density: float) -> float:
        return floor - (floor - _TOP) * density / top

    grid = _share_grid(top, up) if _even(positions) else Html("")
    return _drawing(
        _histogram_label(overlay),
        _HEIGHT,
        grid,
        element("path", {"class": "real", "d": _steps(positions, real, across, up) + "Z"}),
        element("path", {"class": "synthetic", "d": _steps(positions, synthetic, across, up)}),
        element("line", {"class": "axis", "x1": _LEFT, "x2": _LEFT + span, "y1": floor, "y2": floor}),
        *_value_axis(overlay, positions, across, floor),
    )


def _positions(edges: Sequence[float]) -> tuple[float, ...]:
    """Where the edges stand from 0 to 1: to scale, or evenly where they cannot be drawn to scale."""
    bins = len(edges) - 1
    low, high = edges[0], edges[-1]
    to_scale = all(map(math.isfinite, edges)) and math.isfinite(high - low)
    if not to_scale or any(b <= a for a, b in itertools.pairwise(edges)):
        return tuple(i / bins for i in range(bins + 1))
    return tuple((e - low) / (high - low) for e in edges)


def _even(positions: Sequence[float]) -> bool:
    widths = np.diff(positions)
    return bool(widths.max() <= 1.02 * widths.min())


def _densities(shares: Sequence[float], positions: Sequence[float]) -> list[float]:
    """Shares where bins are equally wide, shares by width where not, so that area means rows."""
    if _even(positions):
        return list(shares)
    bins = len(shares)
    return [
        s / (bins * max(b - a, 1e-9)) for s, (a, b) in zip(shares, itertools.pairwise(positions), strict=True)
    ]


def _steps(positions: Sequence[float], heights: Sequence[float], across: Place, up: Place) -> str:
    path = [f"M{px(across(positions[0]))} {px(up(0))}"]
    for height, right in zip(heights, positions[1:], strict=True):
        path.append(f"V{px(up(height))}H{px(across(right))}")
    path.append(f"V{px(up(0))}")
    return "".join(path)


def _share_grid(top: float, up: Place) -> Html:
    share = _round_below(top)
    y = px(up(share))
    return join(
        (
            element("line", {"class": "grid", "x1": _LEFT, "x2": _WIDTH - 6, "y1": y, "y2": y}),
            element(
                "text", {"x": _LEFT - 5, "y": px(up(share) + 3.5), "class": "end"}, _short_percent(share)
            ),
        )
    )


def _round_below(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max((m * power for m in (1.0, 2.0, 5.0) if m * power <= value * (1 + 1e-9)), default=power)


def _short_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _value_axis(overlay: Overlay, positions: Sequence[float], across: Place, floor: float) -> Iterator[Html]:
    low, high = overlay.edges[0], overlay.edges[-1]
    for value, label in ticks(overlay.kind, low, high):
        x = across(_interpolate(value, overlay.edges, positions))
        anchor = "start" if x < _LEFT + 14 else "end" if x > _WIDTH - 22 else "middle"
        yield element("line", {"class": "axis", "x1": px(x), "x2": px(x), "y1": floor, "y2": floor + 3})
        yield element("text", {"x": px(x), "y": floor + 14, "class": anchor}, label)


def _interpolate(value: float, edges: Sequence[float], positions: Sequence[float]) -> float:
    i = min(max(bisect.bisect_right(edges, value) - 1, 0), len(edges) - 2)
    width = edges[i + 1] - edges[i]
    inside = (value - edges[i]) / width if width > 0 and math.isfinite(width) else 0.0
    return positions[i] + inside * (positions[i + 1] - positions[i])


def _histogram_label(overlay: Overlay) -> str:
    gaps = [abs(r - s) for r, s in zip(overlay.real, overlay.synthetic, strict=True)]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    low, high = (_value(overlay.kind, e) for e in overlay.edges[worst : worst + 2])
    first, last = (_value(overlay.kind, e) for e in (overlay.edges[0], overlay.edges[-1]))
    return (
        f"{cut(overlay.column, NAME_WIDTH)}, from {first} to {last}: {points(1 - sum(gaps) / 2)} of 100 rows "
        f"agree; the largest difference is {100 * max(gaps):.1f} points between {low} and {high}"
    )


def _bars(overlay: Overlay) -> Html:
    rows = _largest(overlay)
    top = max(max(r, s) for _, r, s in rows) or 1.0
    floor = _BAR_STEP * len(rows) + 4
    scale = (_WIDTH - _BAR_LEFT - 22) / top
    return _drawing(
        _bars_label(overlay),
        floor + 18,
        *_bar_axis(top, scale, floor),
        *(_bar(i, label, real * scale, synthetic * scale) for i, (label, real, synthetic) in enumerate(rows)),
    )


def _largest(overlay: Overlay) -> list[tuple[str, float, float]]:
    """Label, real and synthetic share, largest real share first; what is beyond `BARS` joins the others."""
    rows = list(zip(overlay.labels, overlay.real, overlay.synthetic, strict=True))
    named = sorted((r for r in rows if r[0] != OTHERS), key=lambda r: -r[1])
    rest = [r for r in rows if r[0] == OTHERS]
    if len(rows) > BARS:
        named, rest = named[: BARS - 1], rest + named[BARS - 1 :]
    return [*named, (OTHERS, sum(r[1] for r in rest), sum(r[2] for r in rest))] if rest else named


def _bar(i: int, label: str, real: float, synthetic: float) -> Html:
    y = 4 + _BAR_STEP * i
    short = cut(label, 17)
    full = [] if short == label else [element("title", {}, cut(label, 200))]
    return join(
        (
            element("text", {"x": _BAR_LEFT - 6, "y": y + 9.5, "class": "end"}, short, *full),
            element("rect", {"class": "real", "x": _BAR_LEFT, "y": y, "width": px(real), "height": 7}),
            element(
                "rect",
                {"class": "synthetic", "x": _BAR_LEFT, "y": y + 7, "width": px(synthetic), "height": 5},
            ),
        )
    )


def _bar_axis(top: float, scale: float, floor: float) -> Iterator[Html]:
    yield element("line", {"class": "axis", "x1": _BAR_LEFT, "x2": _BAR_LEFT, "y1": 0, "y2": floor})
    share = _round_below(top)
    for value in (0.0, share / 2, share):
        x = px(_BAR_LEFT + value * scale)
        yield element("line", {"class": "grid", "x1": x, "x2": x, "y1": 0, "y2": floor})
        yield element("text", {"x": x, "y": floor + 13, "class": "middle"}, _short_percent(value))


def _bars_label(overlay: Overlay) -> str:
    gaps = [abs(r - s) for r, s in zip(overlay.real, overlay.synthetic, strict=True)]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    return (
        f"{cut(overlay.column, NAME_WIDTH)}, {counted(len(gaps), 'category', 'categories')}: "
        f"{points(1 - sum(gaps) / 2)} of 100 rows agree; the largest difference is "
        f"{100 * max(gaps):.1f} points at {cut(overlay.labels[worst], 32)}"
    )


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_CALENDAR: tuple[tuple[str, float, tuple[int, ...]], ...] = (
    ("s", 1, (1, 5, 15, 30)),
    ("m", 60, (1, 5, 15, 30)),
    ("h", 3_600, (1, 3, 6, 12)),
    ("D", 86_400, (1, 2, 7, 14)),
    ("M", 2_629_746, (1, 2, 3, 6)),
    ("Y", 31_556_952, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000, 100_000)),
)
_DURATIONS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
_FIRST_TIME, _LAST_TIME = -62_135_596_800, 253_402_300_799  # the years 1 to 9999


def ticks(kind: str, low: float, high: float) -> list[tuple[float, str]]:
    """At most five round values between `low` and `high`, each with its label; at least one.

    Args:
        kind: datetime (seconds since 1970), duration (seconds), or anything else for plain numbers.
        low: the first edge.
        high: the last edge.

    Examples:
        >>> ticks("numerical", 17, 90)
        [(20.0, '20'), (40.0, '40'), (60.0, '60'), (80.0, '80')]
        >>> [label for _, label in ticks("datetime", 1356998400, 1388534399)]
        ['Jan 2013', 'Apr 2013', 'Jul 2013', 'Oct 2013']
    """
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(high - low)):
        return []
    if high - low < 1e-300:
        return [(low, _value(kind, low))]
    if kind == "datetime" and low >= _FIRST_TIME and high <= _LAST_TIME:
        return _time_ticks(low, high)
    unit, suffix = _duration_unit(high) if kind == "duration" else (1.0, "")
    found = _round_ticks(low / unit, high / unit)
    return [(v * unit, number(v, found[-1] - found[0]) + suffix) for v in found]


def _round_ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, first + 6) if i * step - high <= 1e-9 * step] or [low]


def number(value: float, span: float) -> str:
    """A number as short as its neighbours allow: 0.25, 1500, 20k, 1.5M."""
    size = max(abs(value), span)
    if value == 0:
        return "0"
    if size >= 1e15 or size < 1e-4:
        return f"{value:.3g}"
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            scale = 1e3 if suffix == "k" else scale
            return f"{value / scale:.5g}{suffix}".replace("-", "−")
    return (f"{value:.0f}" if float(value).is_integer() else f"{value:.5g}").replace("-", "−")


def _duration_unit(largest: float) -> tuple[float, str]:
    for seconds, suffix in _DURATIONS:
        if abs(largest) >= 2 * seconds:
            return seconds, f" {suffix}"
    return _DURATIONS[-1][0], f" {_DURATIONS[-1][1]}"


def _time_ticks(low: float, high: float) -> list[tuple[float, str]]:
    for unit, seconds, steps in _CALENDAR:
        for step in steps:
            if (high - low) / (seconds * step) > 4:
                continue
            found = _calendar(low, high, unit, step)
            return found or [(low, _time_label(np.datetime64(int(low), "s"), "D"))]
    return [(low, _time_label(np.datetime64(int(low), "s"), "Y"))]


def _calendar(low: float, high: float, unit: str, step: int) -> list[tuple[float, str]]:
    """Starts of the calendar's units between two times, where the unit's number is a multiple of `step`."""
    first, last = (np.datetime64(math.floor(t), "s") for t in (low, high))
    starts = np.arange(first.astype(f"M8[{unit}]"), last.astype(f"M8[{unit}]") + 1)
    number = starts.astype(int) + (1970 if unit == "Y" else 0)
    chosen = starts[number % step == 0]
    epochs = chosen.astype("M8[s]").astype(int)
    return [(float(e), _time_label(t, unit)) for t, e in zip(chosen, epochs, strict=True) if low <= e <= high]


def _time_label(moment: np.datetime64, unit: str) -> str:
    text = str(moment.astype("M8[s]"))  # 2013-04-01T12:30:00
    if unit == "Y":
        return text.split("-")[0].lstrip("0")
    month = _MONTHS[int(text[5:7]) - 1]
    if unit == "M":
        return f"{month} {text[:4]}"
    if unit == "D" or text.endswith("T00:00:00"):
        return f"{int(text[8:10])} {month}"
    return text[11:19] if unit == "s" else text[11:16]


def _value(kind: str, value: float) -> str:
    """One value in words: a date, a duration or a number."""
    if not math.isfinite(value):
        return "unbounded"
    if kind == "datetime" and _FIRST_TIME <= value <= _LAST_TIME:
        return str(np.datetime64(math.floor(value), "s")).replace("T00:00:00", "").replace("T", " ")
    if kind == "duration":
        unit, suffix = _duration_unit(value)
        return f"{value / unit:.4g}{suffix}"
    return f"{value:,.6g}"
