"""Structure: what shapes and trends do not show: joint counts, coverage, patterns, rarity, dependencies, the calendar.

Every figure is computed for the synthetic and for held-out rows against the training rows, the same way.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from validation.associations import binned, ends_of
from validation.ceilings import Groups, cumulated, error, overlap, shares
from validation.cells import DRAWN, Cells, Codes, Floats
from validation.dependencies import dependencies
from validation.features import Features, draw
from validation.fidelity import LOST_FROM, diagnosed
from validation.markup import Html, element, paragraph, scrolling, section, shown_name, within

MARGINALS = 100
"""Sets of columns that k-way marginals are taken of at most."""

CLOUD_ROWS = 5_000
"""Rows of each side that clouds are compared by at most."""

NEIGHBOURS = 5
"""A real row is recalled by a synthetic one that is no farther than so many real ones."""

LEVELS = np.linspace(0, 1, 21)
"""Shares α and β of a cloud."""

RARE = 0.01
"""Share of the training rows below which a category is rare."""

DECIMALS = 6
"""Decimals that are told apart at most."""

MOST: Mapping[str, float] = {"Wasserstein": math.inf, "2-way marginals": 1_000.0, "3-way marginals": 1_000.0}
"""The largest that a figure may be; of the others 1."""

DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure.

    Attributes:
        measure: a key of `MEANINGS`.
        column: what it is of; None for the table.
        beside: the second column, of a figure of two.
        rows: of a figure of two, synthetic and held-out rows that speak of it; else none.
        synthetic: of the synthetic rows.
        ceiling: of the held-out rows; None where there are too few.
        error: standard error of the ceiling (`validation.ceilings`), where it is known.
    """

    measure: str
    column: str | None
    synthetic: float
    ceiling: float | None
    beside: str | None = None
    rows: tuple[int, int] = (0, 0)
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Structure:
    """All figures."""

    figures: tuple[Figure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return {"figures": [asdict(f) for f in self.figures]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Structure":
        """The inverse of `to_dict`."""
        return cls(figures=tuple(Figure(**{**f, "rows": tuple(f["rows"])}) for f in data["figures"]))


MEANINGS: Mapping[str, str] = {
    "2-way marginals": "NIST's score of 1,000: counts of two columns at once, numbers in 20 bins",
    "3-way marginals": "the same of three columns",
    "α-precision": "1 where synthetic rows fill the cloud of real rows as densely from its middle to its rim",
    "β-recall": "how much of the real rows' variety synthetic rows reach; 1 is all",
    "missing patterns": "1 where the same columns are missing together as often",
    "rare categories": "share of the categories of under 1 % of the rows that occur",
    "diagnosis": "SDMetrics' diagnostic report: values within what real rows have; 1 is all",
    "order": "share of the rows in which the first is at most the second, as in the real rows",
    "follows": "share of the rows in which the second is what real rows of the first have",
    "Wasserstein": "how far numbers must be moved to agree, in mean absolute deviations; 0 is best",
    "decimals": "1 where numbers have as many decimals as often: whole ones, halves, cents",
    "hour": "1 where the hours of the day are as frequent",
    "weekday": "1 where the days of the week are as frequent",
    "month": "1 where the months are as frequent",
}


def structure(
    cells: Sequence[Cells], features: Features, *, seed: int, at_least: int = 0,
    held_units: npt.NDArray[np.uint64] | None = None,
) -> Structure:  # fmt: skip
    """Computes all figures.

    Args:
        cells: the learned columns of the three tables.
        features: the same columns as numbers.
        at_least: units beyond whose values numbers of real rows are cut, so that no distance tells of one row.
        seed: of what is drawn.
        held_units: of the held-out rows, equal for the rows of one unit; None: each row is a unit.
    """
    rows = {side: len(x) for side, x in features.trees.items()}
    if not cells or min(rows["train"], rows["synthetic"]) == 0:
        return Structure()
    sides = {"synthetic": Groups.none(rows["synthetic"])}
    if rows["holdout"]:
        sides["holdout"] = Groups.drawn(rows["holdout"], held_units, seed=seed)
    found = {
        side: {(m, c): v for m, c, v in _figures(cells, features, side, own, at_least=at_least, seed=seed)}
        for side, own in sides.items()
    }
    held = found.get("holdout", {})
    alone = (_figure(m, c, v, held.get((m, c))) for (m, c), v in found["synthetic"].items())
    return Structure(figures=(*alone, *_dependencies(cells, seed=seed)))


def _figure(measure: str, column: str | None, made: Floats, held: Floats | None) -> Figure:
    return Figure(
        measure=measure,
        column=column,
        synthetic=float(made[0]),
        ceiling=None if held is None else float(held[0]),
        error=None if held is None else error(held),
    )


def _dependencies(cells: Sequence[Cells], *, seed: int) -> Iterator[Figure]:
    for d in dependencies(cells, seed=seed):
        if (kept := d.kept["synthetic"]) is not None:
            first, second = d.columns
            yield Figure(
                measure=d.measure, column=first, beside=second, synthetic=kept, ceiling=d.kept["holdout"],
                rows=(d.rows["synthetic"], d.rows["holdout"]),
            )  # fmt: skip


def _figures(
    cells: Sequence[Cells], features: Features, side: str, groups: Groups, *, at_least: int, seed: int
) -> Iterator[tuple[str, str | None, Floats]]:
    """Measure, column, and the figure of a side, (1 + groups,): of all rows, then without each group of them."""
    codes = [(binned(c, "train"), binned(c, side)) for c in cells]
    for ways in (2, 3):
        if len(cells) >= ways:
            scores = marginals(codes, ways, np.random.default_rng(seed), groups)
            yield f"{ways}-way marginals", None, scores
    if (cloud := clouds(features, side, np.random.default_rng(seed), groups)) is not None:
        yield "α-precision", None, cloud[0]
        yield "β-recall", None, cloud[1]
    gone = [[np.isnan(features.trees[s][:, i]) for s in ("train", side)] for i in range(len(cells))]
    if any(train.any() for train, _ in gone):
        train, own = (_hashed([g[at].astype(np.int64) for g in gone]) for at in (0, 1))
        yield "missing patterns", None, _alike(train, own, groups)
    yield from _rare(cells, side, groups)
    if (valid := diagnosed(cells, side)) is not None:
        yield "diagnosis", None, np.array([valid])
    for c in cells:
        if c.numbers is not None:
            yield from _of_numbers(c, side, groups, at_least=at_least)


def marginals(
    codes: Sequence[tuple[Codes, Codes]], ways: int, rng: np.random.Generator, groups: Groups | None = None
) -> Floats:
    """The k-marginal score, 1,000 is best: 500 (2 − mean Σ |p − q|) over marginals of so many columns.

    As NIST's SDNist scores them (Task et al. 2023, NIST TN 2276; `sdnist/metrics/kmarginal.py`). It draws columns with
    replacement, so some of its marginals are of one column; here all sets are taken, or `MARGINALS` of them, drawn.
    float64 (1 + groups,), of the second codes' rows; None: as they are.
    """
    groups = groups or Groups.none(len(codes[0][1]))
    sets = list(itertools.islice(itertools.combinations(range(len(codes)), ways), 20_000))
    if math.comb(len(codes), ways) > len(sets):
        sets = [tuple(sorted(rng.choice(len(codes), ways, replace=False).tolist())) for _ in range(MARGINALS)]
    elif len(sets) > MARGINALS:
        sets = [sets[i] for i in np.sort(rng.choice(len(sets), MARGINALS, replace=False)).tolist()]
    kept = [
        _alike(_hashed([codes[i][0] for i in chosen]), _hashed([codes[i][1] for i in chosen]), groups)
        for chosen in sets
    ]
    scores: Floats = 1_000 * np.mean(kept, axis=0)
    return scores


def _hashed(columns: Sequence[Codes]) -> Codes:
    """One number for each row, equal where rows are; two rows that differ share one with a chance of 2⁻⁶⁴."""
    state = np.zeros(len(columns[0]), np.uint64)
    with np.errstate(over="ignore"):
        for codes in columns:
            z = (state ^ codes.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(
                0x9E3779B97F4A7C15
            )
            state = (z ^ (z >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return state.view(np.int64)


def _alike(first: Codes, second: Codes, groups: Groups) -> Floats:
    """1 less the total variation of two columns of codes, of which the second has groups: (1 + groups,)."""
    values, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    own, theirs = np.split(place, [len(first)])
    return overlap(shares(own, len(values)), groups.shares(theirs, len(values)))


def clouds(
    features: Features, side: str, rng: np.random.Generator, groups: Groups | None = None
) -> tuple[Floats, Floats] | None:
    """Integrated α-precision and β-recall (Alaa et al. 2022, arXiv 2102.08921, eq. 5–8 and 12), in [0, 1].

    Rows are points of standardized numbers and one-hots. The paper learns a hypersphere first; a learned one differs
    from run to run, and the mean of the standardized rows is a centre that everybody can check. As many rows of each
    of the three sides are compared, so that the ceiling means something; None with fewer than 50. float64
    (1 + groups,) each.
    """
    linear = features.linear()
    rows = min(CLOUD_ROWS, *(len(x) for x in linear.values() if len(x)))
    if rows < 50 or not linear["train"].shape[1]:
        return None
    drawn = {s: draw(len(linear[s]), rows, rng) for s in ("train", side)}
    real, made = (linear[s][drawn[s]].astype(np.float32) for s in ("train", side))
    groups = (groups or Groups.none(len(linear[side]))).of(drawn[side])
    rims = _radii(made, made)
    reached = _reached(real, made, np.sqrt(_neighbour(real, NEIGHBOURS)), rims, groups)
    from_real, ends = _radii(made, real), np.quantile(_radii(real, real), LEVELS)
    precision, recall = [], []
    for stays, rim in zip(groups.parts(), reached, strict=True):
        precision.append(_level([np.mean(from_real[stays] <= r) for r in ends]))
        recall.append(_level([np.mean(rim <= r) for r in np.quantile(rims[stays], LEVELS)]))
    return np.array(precision), np.array(recall)


def _level(kept: Sequence[Any]) -> float:
    """1 less twice the area between shares that were kept and those asked for."""
    return float(1 - 2 * np.trapezoid(np.abs(np.array(kept) - LEVELS), LEVELS))


def _radii(points: npt.NDArray[np.float32], around: npt.NDArray[np.float32]) -> Floats:
    radii: Floats = np.linalg.norm(points - around.mean(axis=0), axis=1).astype(np.float64)
    return radii


def _neighbour(points: npt.NDArray[np.float32], k: int) -> Floats:
    """Squared distance of each point to its k-th nearest other."""
    out = np.empty(len(points))
    for start in range(0, len(points), 512):
        gaps = _squares(points[start : start + 512], points)
        out[start : start + 512] = np.partition(gaps, k, axis=1)[:, k]
    return out


def _reached(
    real: npt.NDArray[np.float32], made: npt.NDArray[np.float32], reach: Floats, radii: Floats, groups: Groups
) -> Floats:
    """The least radius of a synthetic row within each real row's reach, infinite where there is none.

    float64 (1 + groups, rows).
    """
    parts = []
    for start in range(0, len(real), 512):
        part = slice(start, start + 512)
        near = _squares(real[part], made) <= (reach[part] ** 2)[:, None]
        parts.append(groups.least(np.where(near, radii[None, :], np.inf)))
    return np.concatenate(parts, axis=1)


def _squares(points: npt.NDArray[np.float32], among: npt.NDArray[np.float32]) -> Floats:
    gaps = (points**2).sum(axis=1)[:, None] + (among**2).sum(axis=1)[None, :] - 2 * points @ among.T
    squares: Floats = np.maximum(gaps, 0).astype(np.float64)
    return squares


def _rare(cells: Sequence[Cells], side: str, groups: Groups) -> Iterator[tuple[str, str | None, Floats]]:
    kept: list[Floats] = []
    for c in cells:
        if c.numbers is None:
            units, real = c.counts(DRAWN), c.counts("train")
            rare = (units >= LOST_FROM) & (real < RARE * len(c.codes["train"]))
            here = groups.sums(c.codes[side] + 1, len(c.values) + 1)[:, 1:]
            kept.append((here[:, rare] > 0).astype(np.float64))
    found = np.concatenate(kept, axis=1) if kept else np.zeros((1, 0))
    if found.shape[1]:
        yield "rare categories", None, found.mean(axis=1)


def _of_numbers(
    cells: Cells, side: str, groups: Groups, *, at_least: int
) -> Iterator[tuple[str, str | None, Floats]]:
    assert cells.numbers is not None
    present = ~np.isnan(cells.numbers[side])
    train, values = cells.numbers["train"], cells.numbers[side][present]
    train, groups = train[~np.isnan(train)], groups.of(present)
    if not len(train) or not len(values):
        return
    name, ends = cells.column.name, ends_of(cells, at_least=at_least)
    # Distances have no bound, and one row far out would be read from them.
    real, other = np.clip(train, *ends), values if side == "synthetic" else np.clip(values, *ends)
    spread = float(np.mean(np.abs(real - real.mean())))
    if spread > 0:
        steps, first, second = cumulated(real, other, groups)
        moved = (np.abs(first - second)[:, :-1] * np.diff(steps)).sum(axis=1)
        yield "Wasserstein", name, moved / spread
    if cells.column.kind == "numerical" and pa.types.is_floating(cells.column.arrow_type):
        precision = float(np.finfo(cells.column.arrow_type.to_pandas_dtype()).eps)
        parts = _decimals(train, precision), _decimals(values, precision)
        if parts[0].min() < DECIMALS:
            yield "decimals", name, _alike(*parts, groups)
    if cells.column.kind != "datetime":
        return
    for measure, of in _CALENDAR.items():
        parts = of(train), of(values)
        if len(np.unique(parts[0])) > 1:
            yield measure, name, _alike(*parts, groups)


def _decimals(values: Floats, precision: float) -> Codes:
    """How many decimals numbers are written with, `DECIMALS` for that many, more, or what they are too coarse to tell.

    Args:
        values: float64 (rows,).
        precision: the difference from 1 to the next larger number of their type.
    """
    found = np.full(len(values), DECIMALS, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        for places in range(DECIMALS - 1, -1, -1):
            scaled = values * 10.0**places
            error = 4 * precision * np.abs(scaled)
            found[(np.abs(scaled - np.round(scaled)) <= error) & (error < 0.1)] = places
    return found


def _months(seconds: Floats) -> Codes:
    return (np.floor(seconds).astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12).astype(
        np.int64
    )


_CALENDAR = {
    "hour": lambda s: (np.floor(s / 3_600) % 24).astype(np.int64),
    # The first of January 1970 was a Thursday.
    "weekday": lambda s: ((np.floor(s / DAY) + 3) % 7).astype(np.int64),
    "month": _months,
}


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────

SHOWN = 12
"""Columns of one measure that the report lists at most: the worst."""


def render(found: Structure) -> Html:
    """The section of the report."""
    if not found.figures:
        return section("structure", "Beyond pairs", paragraph("There is nothing to compare."))
    heads = ("Figure", "Synthetic rows", "Held-out real rows")
    table = element(
        "table",
        {"class": "plain"},
        element("caption", {}, "Each against the training rows"),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *(_row(f) for f in _shown(found.figures))),
    )
    lead = "More columns at once, what lies at the rim, what is missing together, what is rare, and the calendar. "
    lead += "In brackets: between what other held-out rows would score in 95 of 100 cases."
    return section("structure", "Beyond pairs", paragraph(lead), scrolling("Figures beyond pairs", table))


def _shown(figures: Sequence[Figure]) -> Iterator[Figure]:
    """By measure; of columns the worst."""
    for measure in MEANINGS:
        own = [f for f in figures if f.measure == measure]
        own.sort(key=lambda f: -f.synthetic if measure == "Wasserstein" else f.synthetic)
        yield from own[:SHOWN]


_SIGNS = {"order": "≤", "follows": "→"}


def _row(figure: Figure) -> Html:
    name = [] if figure.column is None else [" of ", shown_name(figure.column, 28)]
    if figure.column is not None and figure.beside is not None:
        sign = f" {_SIGNS[figure.measure]} "
        name = [": ", shown_name(figure.column, 28), sign, shown_name(figure.beside, 28)]
    told = "{:.0f}".format if "marginals" in figure.measure else "{:.3f}".format
    most = MOST.get(figure.measure, 1.0)
    held = "–" if figure.ceiling is None else within(figure.ceiling, figure.error, told, most=most)
    return element(
        "tr",
        {},
        element(
            "th",
            {"scope": "row"},
            figure.measure,
            *name,
            element("span", {"class": "kind"}, MEANINGS[figure.measure]),
        ),
        element("td", {}, told(figure.synthetic)),
        element("td", {}, held),
    )
