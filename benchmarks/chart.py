"""The lines of `synthesizers.py` as tables in Markdown, and as a chart of fidelity against seconds.

usage: python benchmarks/chart.py LINES.jsonl ... --chart CHART.svg > TABLES.md
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

OURS = ("circuit", "gmm", "vae", "ctgan")
SCORES = ("shape_err", "trend_err", "detect_auc", "tstr", "dcr_share")
DIGITS = {
    "fit_seconds": 0,
    "rows_per_second": 0,
    "shape_err": 2,
    "trend_err": 2,
    "detect_auc": 3,
    "tstr": 3,
    "dcr_share": 3,
}

Found = Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]
"""Table → synthesizer → lines, one for each seed."""


def read(paths: Sequence[Path]) -> Found:
    """The last line of each table, synthesizer and seed."""
    last = {}
    for path in paths:
        for text in path.read_text().splitlines():
            line = json.loads(text)
            last[line["table"], line["synthesizer"], line["seed"]] = line
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for (table, name, _), line in last.items():
        found[table][name].append(line)
    return found


def figure(lines: Sequence[dict[str, Any]], name: str) -> str:
    """Mean, and its standard error where there are several seeds."""
    values = [line[name] for line in lines if line.get(name) is not None]
    if not values:
        return ""
    mean, digits = sum(values) / len(values), DIGITS[name]
    if len(values) == 1:
        return f"{mean:,.{digits}f}"
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return f"{mean:,.{digits}f} ± {error:.{max(1, digits)}f}" if digits else f"{mean:,.0f}"


def tables(found: Found) -> Iterator[str]:
    """A table in Markdown for each table."""
    for table, by_name in found.items():
        fine = [line for lines in by_name.values() for line in lines if "error" not in line]
        real = sum(line["trtr"] for line in fine) / max(1, len(fine))
        copies = sum(line["copies_holdout"] for line in fine) / max(1, len(fine))
        yield f"### {table}\n"
        heads = ["synthesizer", "seeds", "cores", "fit seconds", "rows/s", *SCORES[:3]]
        heads += [f"tstr (real {real:.3f})", "dcr_share", f"copies (held-out {copies:.4f})"]
        yield f"| {' | '.join(heads)} |"
        yield "|---" * 11 + "|"
        for name, lines in sorted(by_name.items(), key=lambda item: (_theirs(item[0]), item[0])):
            good = [line for line in lines if "error" not in line]
            if not good:
                yield f"| `{name}` | {len(lines)} | | {_why(lines[0]['error'])} |" + " |" * 7
                continue
            cells = [figure(good, n) for n in ("fit_seconds", "rows_per_second", *SCORES)]
            copied = sum(line["copies"] for line in good) / len(good)
            yield f"| `{name}` | {len(good)} | {good[0]['cores']} | {' | '.join(cells)} | {copied:.4f} |"
        yield ""


def _theirs(name: str) -> bool:
    return name.partition(",")[0] not in OURS


def _why(error: str) -> str:
    last = error.strip().splitlines()[-1] if error.strip() else "failed"
    return last[:80].replace("|", "/") if "longer" in last else f"failed: {last[:80].replace('|', '/')}"


STYLE = (
    "text{font-size:11px;fill:#333}.title{font-size:13px;font-weight:600}.tick{fill:#777;font-size:10px}"
    ".grid{stroke:#e3e3e3;fill:none}circle.ours{fill:#0b6e4f}text.ours{fill:#0b6e4f;font-weight:600}"
    "circle.theirs{fill:#b8683a}text.theirs{fill:#8a4a24}"
    "text.ours,text.theirs{paint-order:stroke;stroke:#fff;stroke-width:3px}"
)
WIDE, HIGH, LEFT, TOP, BOTTOM = 330, 250, 46, 34, 34


def chart(found: Found) -> str:
    """Small multiples: trend_err against the seconds of the fit, both on logarithmic scales; lower left is better."""
    panels = []
    points = [
        (table, name, _mean(lines, "fit_seconds"), _mean(lines, "trend_err"))
        for table, by_name in found.items()
        for name, lines in by_name.items()
        if any("error" not in line for line in lines)
    ]
    left, right = (f(math.log10(max(p[2], 0.1)) for p in points) for f in (min, max))
    low, high = (f(math.log10(max(p[3], 0.1)) for p in points) for f in (min, max))
    left, right, low, high = math.floor(left), math.ceil(right), low - 0.1, high + 0.1
    for number, table in enumerate(found):
        x0, y0 = number % 3 * WIDE, number // 3 * HIGH

        def across(seconds: float, x0: float = x0) -> float:
            place = (math.log10(max(seconds, 0.1)) - left) / (right - left)
            return x0 + LEFT + place * (WIDE - LEFT - 34)

        def up(error: float, y0: float = y0) -> float:
            return (
                y0
                + HIGH
                - BOTTOM
                - (math.log10(max(error, 0.1)) - low) / (high - low) * (HIGH - TOP - BOTTOM)
            )

        panels.append(f'<text x="{x0 + LEFT}" y="{y0 + 20}" class="title">{table}</text>')
        for power in range(left, right + 1):
            x = across(10.0**power)
            panels.append(f'<path class="grid" d="M{x:.1f} {y0 + TOP}V{y0 + HIGH - BOTTOM}"/>')
            place = f'x="{x:.1f}" y="{y0 + HIGH - BOTTOM + 14}" text-anchor="middle"'
            panels.append(f'<text {place} class="tick">{10**power:,} s</text>')
        for error in (0.5, 1, 2, 5, 10, 20, 50):
            if low <= math.log10(error) <= high:
                panels.append(f'<path class="grid" d="M{x0 + LEFT} {up(error):.1f}H{x0 + WIDE - 34}"/>')
                place = f'x="{x0 + LEFT - 5}" y="{up(error) + 4:.1f}" text-anchor="end"'
                panels.append(f'<text {place} class="tick">{error:g}</text>')
        own = sorted((p for p in points if p[0] == table), key=lambda p: up(p[3]))
        below = -math.inf
        for _, name, seconds, error in own:
            x, y = across(seconds), up(error)
            # Labels of points at the same height would cover each other.
            below = max(y + 4, below + 11)
            kind = "theirs" if _theirs(name) else "ours"
            ends = x > x0 + WIDE - 120
            anchor = f'x="{x - 7:.1f}" text-anchor="end"' if ends else f'x="{x + 7:.1f}"'
            panels.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="{kind}"/>')
            panels.append(f'<text {anchor} y="{below:.1f}" class="{kind}">{name}</text>')
    rows = -(-len(found) // 3)
    caption = (
        "Error of pair trends in percent against seconds to fit, both logarithmic: lower left is better."
    )
    panels.append(f'<text x="{LEFT}" y="{rows * HIGH + 14}">{caption} Green: ours, brown: others.</text>')
    size = f'viewBox="0 0 {3 * WIDE} {rows * HIGH + 24}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>\n'
    )


def _mean(lines: Sequence[dict[str, Any]], name: str) -> float:
    values = [float(line[name]) for line in lines if "error" not in line]
    return sum(values) / len(values)


def main() -> None:
    """Reads lines, prints tables, writes the chart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lines", nargs="+", type=Path)
    parser.add_argument("--chart", type=Path)
    given = parser.parse_args()
    found = read(given.lines)
    print("\n".join(tables(found)))
    if given.chart:
        given.chart.write_text(chart(found), "utf-8")


if __name__ == "__main__":
    main()
