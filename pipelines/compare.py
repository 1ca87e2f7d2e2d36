"""compare: what changed between two releases of one dataset, by what both have published."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.publish import check_sums
from pipelines.released import Released, head, read
from privacy.errors import InputError
from synth.schema import Schema
from validation.change import SchemaChange, Shift, schema_change, shifts
from validation.markup import cut, percent, points

ROWS = 50_000
"""Rows of each release that are compared at most."""

LISTED = 20
"""Columns that are told at most; `--json` has all."""

_FIGURES = (
    ("columns", ("faithful", "columns", "score"), True),
    ("pairs", ("faithful", "pairs", "score"), True),
    ("two-sample AUC", ("faithful", "told_apart_auc"), False),
    ("copies", ("private", "copies", "share"), False),
    ("worst attack", ("private", "worst_attack", "risk"), False),
    ("epsilon", ("private", "epsilon"), False),
    ("delta", ("private", "delta"), False),
)
"""Name, keys in the figures, and whether it is a score that is told in points."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What changed.

    Attributes:
        before: the earlier release.
        after: the later one.
        schema: what became of the columns.
        shifts: how far each column moved that both have.
    """

    before: Released
    after: Released
    schema: SchemaChange
    shifts: tuple[Shift, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "before": _about(self.before),
            "after": _about(self.after),
            "figures": {
                name: {"before": first, "after": second} for name, first, second, _ in self._figures()
            },
            "useful": [
                {"target": target, "measure": measure, "before": first, "after": second}
                for target, measure, first, second in self._useful()
            ],
            "schema": asdict(self.schema),
            "columns": [{**asdict(s), "moved": s.moved} for s in self.shifts],
            "asked": _asked(self.before.certificate, self.after.certificate),
            "versions": _differing(self.before.certificate, self.after.certificate),
        }

    def describe(self) -> str:
        """For a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        first, second = self.before, self.after
        yield _line("before", f"{first.name}/{first.number}")
        yield _line("after", f"{second.name}/{second.number}")
        yield _line("rows", f"{first.rows:,} → {second.rows:,}")
        yield _line(
            "synthesizer", " → ".join(_text(r.certificate.get("synthesizer")) for r in (first, second))
        )
        yield _line("verdict", f"{_verdict(first)} → {_verdict(second)}")
        for name, (old, new) in _asked(first.certificate, second.certificate).items():
            yield _line(name, f"{old} → {new}")
        for name, a, b, score in self._figures():
            if a is not None or b is not None:
                yield _line(name, _both(a, b, score=score))
        for target, measure, one, other in self._useful():
            yield _line(f"{cut(target, 20)} {measure}", _both(one, other, score=False))
        yield from _of_schema(self.schema)
        for release, when in ((first, "before"), (second, "after")):
            for difference in release.certificate.get("drift") or ():
                yield _line(f"drift {when}", _text(difference))
        yield from self._moved()
        for package, (old, new) in _differing(first.certificate, second.certificate).items():
            yield _line(_text(package), f"{old} → {new}")

    def _moved(self) -> Iterator[str]:
        moved = [s for s in self.shifts if s.moved]
        known = len(self.shifts)
        if not moved:
            yield _line("drift", f"none of {known:,} columns moved further than chance does")
            return
        yield _line("drift", f"{len(moved):,} of {known:,} columns moved further than chance does:")
        wide = min(32, max(len(cut(s.column, 32)) for s in moved[:LISTED]))
        for s in moved[:LISTED]:
            gone = (
                ""
                if abs(s.missing_before - s.missing_after) < 0.0005
                else f"; missing {percent(s.missing_before)} → {percent(s.missing_after)}"
            )
            yield f"  {cut(s.column, 32):<{wide}}  {s.distance:.3f} of {s.chance:.3f}  {_told(s)}{gone}"
        if len(moved) > LISTED:
            yield f"  … and {len(moved) - LISTED:,} more; --json has all"

    def _figures(self) -> Iterator[tuple[str, float | None, float | None, bool]]:
        for name, keys, score in _FIGURES:
            yield name, self.before.figure(*keys), self.after.figure(*keys), score

    def _useful(self) -> Iterator[tuple[str, str, float | None, float | None]]:
        """Target, measure, and what models reach that learned from either release."""
        found = [_tasks(r) for r in (self.before, self.after)]
        for target, measure in dict.fromkeys((*found[0], *found[1])):
            yield target, measure, found[0].get((target, measure)), found[1].get((target, measure))


def _asked(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What a recipe asked for that changes what rows mean, where both releases differ."""

    def told(certificate: Mapping[str, Any], key: str) -> str:
        asked = certificate.get(key)
        if key == "parity" and isinstance(asked, Mapping):
            across = ", ".join(map(str, asked.get("across") or ()))
            return cut(f"{asked.get('target') or 'sizes'} across {across}", 60)
        if key == "disclosure_control" and isinstance(asked, Mapping):
            return f"at least {asked.get('at_least')}"
        return "none" if asked is None else cut(str(asked), 60)

    both = {k: (told(before, k), told(after, k)) for k in ("parity", "disclosure_control", "draws")}
    return {k.replace("_", " "): v for k, v in both.items() if v[0] != v[1]}


def compare(before: Path, after: Path) -> Changes:
    """Holds two releases against each other: their manifests, and 50,000 rows of each, some columns at a time.

    Raises:
        ReleaseError: one is no whole release.
        InputError: they have no column in common.
    """
    for folder in (before, after):
        check_sums(folder)
    first, second = read(before), read(after)
    names = set(first.schema.names)
    shared = tuple(
        c for c in second.schema if c.name in names and _alike(first.schema, second.schema, c.name)
    )
    if not shared:
        raise InputError(
            f"two releases must be of one dataset, however: {before} and {after} have no column in common"
        )
    unit = second.schema.unit if second.schema.unit in {c.name for c in shared} else None
    common = Schema(columns=shared, unit=unit)
    return Changes(
        before=first,
        after=second,
        schema=schema_change(first.schema, second.schema),
        shifts=shifts(partial(head, before, ROWS), partial(head, after, ROWS), common),
    )


def _alike(first: Schema, second: Schema, name: str) -> bool:
    return first[name].kind == second[name].kind


def _about(release: Released) -> dict[str, Any]:
    return {
        "name": release.name,
        "number": release.number,
        "rows": release.rows,
        "synthesizer": release.certificate.get("synthesizer"),
        "verdict": release.figures.get("verdict"),
        "drift": list(release.certificate.get("drift") or ()),
        "statement": release.certificate.get("statement"),
    }


def _tasks(release: Released) -> dict[tuple[str, str], float]:
    found = {}
    for task in release.figures.get("useful") or ():
        if isinstance(task, Mapping) and isinstance(task.get("synthetic"), int | float):
            found[str(task.get("target")), str(task.get("measure"))] = float(task["synthetic"])
    return found


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Packages whose versions differ."""
    first, second = (
        v if isinstance(v, Mapping) else {} for v in (before.get("versions"), after.get("versions"))
    )
    return {
        name: (_text(first.get(name)), _text(second.get(name)))
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    }


def _of_schema(change: SchemaChange) -> Iterator[str]:
    if change.none:
        yield _line("schema", "unchanged")
    for what, names in (("added", change.added), ("removed", change.removed)):
        if names:
            yield _line(what, ", ".join(cut(n, 32) for n in names))
    for name, told in change.changed:
        yield _line("changed", f"{cut(name, 32)}: {cut(told, 200)}")


def _verdict(release: Released) -> str:
    verdict = release.figures.get("verdict")
    if not isinstance(verdict, Mapping):
        return "not said"
    rules = ", ".join(_text(r) for r in verdict.get("rules") or ())
    return f"{verdict.get('warnings')} warnings{f' ({rules})' if rules else ''}"


def _both(before: float | None, after: float | None, *, score: bool) -> str:
    shown = [points(v) if score else "–" if v is None else f"{v:.3g}" for v in (before, after)]
    if before is None or after is None:
        return " → ".join(shown)
    change = 100 * (after - before) if score else after - before
    if before == after:
        return " → ".join(shown)
    return f"{' → '.join(shown)}  ({change:+.2g})".replace("-", "−")


def _told(shift: Shift) -> str:
    if shift.before is None or shift.after is None:
        return "no value on one side"
    if shift.figure == "median":
        days = (str(np.datetime64(round(v), "s"))[:10] for v in (shift.before, shift.after))
        return f"median {' → '.join(days)}"
    if shift.figure == "mean":
        return f"mean {shift.before:.4g} → {shift.after:.4g}"
    return f"{cut(shift.figure, 24)} {percent(shift.before)} → {percent(shift.after)}"


def _line(name: str, text: str) -> str:
    return f"{name:<16}{text}"


def _text(value: object) -> str:
    return "–" if value is None else cut(str(value), 200)
