"""Fairness: for whom a synthetic table is good, by the groups of protected columns, each beside the real rows.

Two questions. Are groups, and groups of groups, there as often? And does a model that learned from synthetic rows err
as often about each group of real people as a model that learned from real rows does?
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.estimate import Estimate
from validation.cells import DRAWN, SIDES, Cells, Codes, Floats
from validation.features import from_resamples, resampled
from validation.gauges import bars, whiskers
from validation.markup import Html, element, join, paragraph, percent, scrolling, section, shown_name
from validation.utility import Guesses

GROUPS = 12
"""Groups of a column at most: the commonest; the others are one group."""

LEAST = 50
"""Held-out rows of a group without which its errors are not compared."""

LISTED = 40
"""Groups that are listed at most for each set of columns: those whose share is off by most."""

REST = "(all others)"


@dataclass(frozen=True, kw_only=True)
class Group:
    """People who are alike in one protected column, or in two.

    Attributes:
        columns: the protected columns.
        values: their values.
        real: share of the training rows.
        synthetic: share of the synthetic rows.
        holdout: share of the held-out rows.
    """

    columns: tuple[str, ...]
    values: tuple[str, ...]
    real: float
    synthetic: float
    holdout: float


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How differently a model errs about groups of one column: the largest less the smallest rate of any group.

    Attributes:
        column: the protected column.
        target: what the model predicts.
        rate: errors, of all or of one of two classes; of numbers the mean error, in mean absolute deviations.
        real: the gap of a model that learned from real rows, about held-out rows.
        synthetic: of one that learned from synthetic rows, about the same rows.
        wider: synthetic less real.
        groups: value, rate after real rows, rate after synthetic rows.
    """

    column: str
    target: str
    rate: str
    real: float
    synthetic: float
    wider: Estimate
    groups: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """All groups and gaps."""

    rows: tuple[int, int] = (0, 0)
    groups: tuple[Group, ...] = ()
    gaps: tuple[Gap, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        plain = asdict(self)
        return {name: [*plain[name]] for name in ("rows", "groups", "gaps")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fairness":
        """The inverse of `to_dict`."""
        groups = (
            Group(**{**g, "columns": tuple(g["columns"]), "values": tuple(g["values"])})
            for g in data["groups"]
        )
        gaps = (
            Gap(
                **{
                    **g,
                    "wider": Estimate(**g["wider"]),
                    "groups": tuple((str(n), float(a), float(b)) for n, a, b in g["groups"]),
                }
            )
            for g in data["gaps"]
        )
        return cls(rows=(data["rows"][0], data["rows"][1]), groups=tuple(groups), gaps=tuple(gaps))


def fairness(
    cells: Sequence[Cells], protected: Sequence[str], guesses: Sequence[Guesses], *, at_least: int, seed: int
) -> Fairness:
    """Compares groups, and how models err about them.

    Args:
        cells: the learned columns of the three tables.
        protected: names of columns; those of numbers are cut into quarters of the training rows.
        guesses: what models said of held-out rows.
        at_least: training units below which no group is named.
        seed: of what is drawn.
    """
    by_name = {c.column.name: c for c in cells}
    named = [
        _Groups.of(by_name[name], at_least=at_least) for name in dict.fromkeys(protected) if name in by_name
    ]
    pairs = [a.with_other(b) for a, b in itertools.combinations(named, 2)]
    rng = np.random.default_rng(seed)
    return Fairness(
        rows=(len(cells[0].codes["train"]), len(cells[0].codes["synthetic"])) if cells else (0, 0),
        groups=tuple(g for groups in (*named, *pairs) for g in groups.shares(at_least=at_least)),
        gaps=tuple(
            gap
            for groups in named
            for g in guesses
            for gap in _gaps(groups, g, rng, by_name[g.target].counts(DRAWN) >= max(at_least, 1))
        ),
    )


def _coarse(quartiles: Floats, cells: Cells) -> tuple[Floats, list[str]]:
    """Quartiles so coarse that they tell of no row: two digits of a number, the first of a year of a time."""
    if cells.column.kind == "datetime":
        years = quartiles.astype("datetime64[s]").astype("datetime64[Y]")
        cuts = np.unique(years.astype("datetime64[s]").astype(np.float64))
        return cuts, [str(y) for y in np.unique(years)]
    cuts = np.unique([float(f"{q:.2g}") for q in quartiles])
    return cuts, [f"{c:.12g}" for c in cuts]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Groups:
    """The groups of one column, or of two: names, and each row's number by side, also of one row for each unit."""

    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    of_row: dict[str, Codes]

    @classmethod
    def of(cls, cells: Cells, *, at_least: int) -> "_Groups":
        sides = (*SIDES, DRAWN)
        if cells.numbers is not None:
            train = cells.numbers["train"]
            present = train[~np.isnan(train)]
            cuts, told = (
                _coarse(np.quantile(present, [0.25, 0.5, 0.75]), cells) if len(present) else (present, [])
            )
            ends = ["", *told, ""]
            names = [f"{low} to {high}".strip() for low, high in itertools.pairwise(ends)]
            of_row = {
                s: np.where(np.isnan(v), len(names), np.searchsorted(cuts, v, side="right"))
                for s in sides
                if (v := cells.numbers[s]) is not None
            }
        else:
            units = cells.counts(DRAWN)
            order = np.argsort(-units, kind="stable")[:GROUPS]
            order = order[units[order] >= max(at_least, 1)]
            place = np.full(len(units) + 1, len(order))
            place[order] = np.arange(len(order))
            names = [*(_named(cells, i) for i in order.tolist()), REST]
            place[-1] = len(names)
            of_row = {s: place[cells.codes[s]] for s in sides}
        return cls(
            columns=(cells.column.name,), values=tuple((n,) for n in (*names, "(missing)")), of_row=of_row
        )

    def with_other(self, other: "_Groups") -> "_Groups":
        wide = len(other.values)
        return _Groups(
            columns=(*self.columns, *other.columns),
            values=tuple((*a, *b) for a in self.values for b in other.values),
            of_row={s: self.of_row[s] * wide + other.of_row[s] for s in self.of_row},
        )

    def shares(self, *, at_least: int) -> Iterator[Group]:
        counts = {s: np.bincount(v, minlength=len(self.values)) for s, v in self.of_row.items()}
        rate = {s: c / max(int(c.sum()), 1) for s, c in counts.items()}
        shown = np.flatnonzero(counts[DRAWN] >= max(at_least, 1))
        off = np.abs(rate["train"] - rate["synthetic"])[shown]
        for i in np.sort(shown[np.argsort(-off, kind="stable")[:LISTED]]).tolist():
            real, synthetic, holdout = (float(rate[s][i]) for s in ("train", "synthetic", "holdout"))
            yield Group(
                columns=self.columns, values=self.values[i], real=real, synthetic=synthetic, holdout=holdout
            )


def _named(cells: Cells, code: int) -> str:
    return str(cells.values[code].as_py())


def _gaps(
    groups: _Groups, guesses: Guesses, rng: np.random.Generator, shared: npt.NDArray[np.bool_]
) -> Iterator[Gap]:
    if guesses.target in groups.columns:
        return
    of_row = groups.of_row["holdout"][guesses.rows]
    weights = resampled(len(of_row), rng)
    for rate, (asked, wrong_real, wrong_synthetic) in _rates(guesses, shared).items():
        large = [g for g in range(len(groups.values)) if int((asked & (of_row == g)).sum()) >= LEAST]
        if len(large) < 2:
            continue
        by_group = [
            [_mean(weights, asked & (of_row == g), wrong) for g in large]
            for wrong in (wrong_real, wrong_synthetic)
        ]
        real, synthetic = (np.ptp(np.stack(r), axis=0) for r in by_group)
        yield Gap(
            column=groups.columns[0], target=guesses.target, rate=rate,
            real=float(real[0]), synthetic=float(synthetic[0]), wider=from_resamples(synthetic - real),
            groups=tuple(
                (groups.values[g][0], float(a[0]), float(b[0])) for g, a, b in zip(large, *by_group, strict=True)
            ),
        )  # fmt: skip


def _rates(
    guesses: Guesses, shared: npt.NDArray[np.bool_]
) -> dict[str, tuple[npt.NDArray[np.bool_], Floats, Floats]]:
    """Which rows are asked, and how wrong both models are about each; a class that few units share is not named."""
    every = np.ones(len(guesses.truth), np.bool_)
    if not guesses.classes:
        spread = max(float(np.mean(np.abs(guesses.truth - guesses.truth.mean()))), 1e-300)
        far = [np.abs(g - guesses.truth) / spread for g in (guesses.real, guesses.synthetic)]
        return {"mean error": (every, far[0], far[1])}
    wrong = [(g != guesses.truth).astype(np.float64) for g in (guesses.real, guesses.synthetic)]
    asked = {"errors": every}
    if len(guesses.classes) == 2 and all(c < len(shared) and shared[int(c)] for c in guesses.classes):
        asked |= {f"errors where it is {name}": guesses.truth == c for c, name in guesses.classes.items()}
    return {name: (rows, wrong[0], wrong[1]) for name, rows in asked.items()}


def _mean(weights: Floats, rows: npt.NDArray[np.bool_], values: Floats) -> Floats:
    """Weighted mean over some rows, float64 (weights,)."""
    found: Floats = (weights[:, rows] @ values[rows]) / np.maximum(weights[:, rows].sum(axis=1), 1e-300)
    return found


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


def render(found: Fairness) -> Html:
    """The section of the report."""
    lead = (
        "Shares of the groups of protected columns, and how differently models err about them: the largest rate of any "
        "group less the smallest, about held-out real rows. Groups of few people are not shown."
    )
    return section("fairness", "For whom it is good", paragraph(lead), _groups(found), _errors(found))


def _table(label: str, heads: Sequence[str], rows: Sequence[Html]) -> Html:
    table = element(
        "table",
        {"class": "plain"},
        element("caption", {}, label),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *rows),
    )
    return scrolling(label, table)


def _groups(found: Fairness) -> Html:
    top = max((max(g.real, g.synthetic) for g in found.groups), default=1.0)
    rows = [
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, _people(g)),
            *(element("td", {}, percent(v)) for v in (g.real, g.holdout, g.synthetic)),
            element("td", {"class": "drawn"}, bars(g.synthetic, g.real, top)),
        )
        for g in found.groups
    ]
    heads = ("Group", "Training rows", "Held-out rows", "Synthetic rows", "Real above synthetic")
    return _table("Shares of groups", heads, rows)


def _people(group: Group) -> Html:
    parts = [
        join([shown_name(c, 28), element("span", {}, " is "), shown_name(v, 28)])
        for c, v in zip(group.columns, group.values, strict=True)
    ]
    return join(parts, " and ")


def _errors(found: Fairness) -> Html:
    if not found.gaps:
        return paragraph(
            "No model's errors could be compared: too few held-out rows of each group, or no target."
        )
    wide = max(0.1, *(abs(v) for g in found.gaps for v in (g.wider.low, g.wider.high)))
    rows = [
        element(
            "tr",
            {},
            element(
                "th",
                {"scope": "row"},
                shown_name(g.rate, 60),
                " by ",
                shown_name(g.column, 28),
                ", predicting ",
                shown_name(g.target, 28),
            ),
            *(element("td", {}, f"{v:.3f}") for v in (g.real, g.synthetic)),
            element("td", {}, f"{g.wider.low:.3f} to {g.wider.high:.3f}".replace("-", "−")),
            element(
                "td", {"class": "drawn"}, whiskers([("synthetic", g.wider)], low=-wide, high=wide, mark=0.0)
            ),
        )
        for g in found.gaps
    ]
    return _table(
        "Gaps in error rates",
        ("Rate", "After real rows", "After synthetic rows", "Wider by", "Narrower, or wider to the right"),
        rows,
    )
