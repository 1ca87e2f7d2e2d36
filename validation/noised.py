"""Noised: how close synthetic rows are to real rows that were counted anew, with noise, and how surely that is known.

The noise of `validation.coarse`'s answer is known, so it can be taken off. With shares S of the synthetic rows and H of
the noised counts over C cells, w ‖S − H‖² less what noise and sampling add to it on average is an unbiased estimate of
the squared distance D² = w ‖S − P‖², w = C/4. D is half of the root mean square of what cells differ by, in parts of a
mean cell; it is never less than total variation, and about 1.25 times it where differences are normal. We tried total
variation itself, from folded normal distributions: it has no unbiased estimate, and its intervals covered too little
(docs/decisions/0032-noised-figures.md).

Intervals hold a squared distance θ for possible where what was observed is no surprise under θ: its distribution, a sum
of squares of normal variables, is taken for a gamma distribution of the same mean and variance. The variance has three
parts: noise, known exactly; the sampling of the real rows, from 32 parts of the synthetic ones; and what both share
with θ. All intervals of one kind, of columns, of their pairs, or of pairs, hold together with 95 %.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privacy.curator import Floats
from synth.codec import Encoded
from validation.coarse import Asked, Crossing, Recount
from validation.gates import Judged
from validation.markup import (
    Html,
    element,
    paragraph,
    percent,
    points,
    scrolling,
    section,
    shown_name,
    shown_pair,
)

PARTS = 32
"""Parts of the synthetic rows, whose differences say what sampling does."""

SHOWN_PAIRS = 24
"""Pairs that a page lists: those that seem to lose most."""

MISSED = 0.05
"""Chance that some interval of a kind does not hold."""

CLEAR = 2.0
"""An association is there for sure if it is so many times as strong as its interval reaches. Were it once, those that
noise makes stronger would be chosen."""

_HALVINGS = 60


@dataclass(frozen=True, kw_only=True)
class Score:
    """How close shares are: 1 less the distance D, so that 1 is best.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: its upper end.
        ceiling: what rows score that the model of this release would have drawn from, had it been the truth.
    """

    value: float
    low: float
    high: float
    ceiling: float


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What share of a column's association with others the synthetic rows have: 1 is best.

    Attributes:
        value: the estimate; a slope, so it may lie beyond 1.
        low: lower end of the interval.
        high: its upper end.
        strength: distance D of the column's pairs from what they would be if columns were independent.
    """

    value: float
    low: float
    high: float
    strength: float


@dataclass(frozen=True, kw_only=True)
class NoisedColumn:
    """A column: its own groups, its pairs together, and what it keeps of its association with others.

    `trend` is None for a column that is in no pair, `kept` where noise hides whether there is any association.
    """

    name: str
    shape: Score
    trend: Score | None
    kept: Kept | None


@dataclass(frozen=True, kw_only=True)
class NoisedPair:
    """A pair of columns."""

    first: str
    second: str
    trend: Score


@dataclass(frozen=True, kw_only=True)
class Noised:
    """All noised figures.

    Attributes:
        rows: how many real rows were counted, by the noised counts themselves.
        noise_std: of each count.
        held_out: whether these were held out of training.
        shape: root mean square over columns; None where there are none.
        trend: root mean square over pairs; None where there are none.
        columns: those that were asked about.
        pairs: those that were asked about.
        pairs_of: how many there are.
    """

    rows: int
    noise_std: float
    held_out: bool
    shape: Score | None
    trend: Score | None
    columns: tuple[NoisedColumn, ...]
    pairs: tuple[NoisedPair, ...]
    pairs_of: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Noised":
        """The inverse of `to_dict`."""
        columns = tuple(
            NoisedColumn(
                name=c["name"],
                shape=Score(**c["shape"]),
                trend=_score(c["trend"]),
                kept=None if c["kept"] is None else Kept(**c["kept"]),
            )
            for c in data["columns"]
        )
        pairs = tuple(NoisedPair(**{**p, "trend": Score(**p["trend"])}) for p in data["pairs"])
        table = {name: _score(data[name]) for name in ("shape", "trend")}
        return cls(**{**data, **table, "columns": columns, "pairs": pairs})


def _score(data: Mapping[str, Any] | None) -> Score | None:
    return None if data is None else Score(**data)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What the synthetic rows have of one marginal.

    Attributes:
        share: of its cells, float64 (C,).
        parts: by how much the shares of equal parts of the rows differ from that, float64 (PARTS, C).
        rows: how many rows there are.
    """

    share: Floats
    parts: Floats
    rows: int

    @classmethod
    def of(cls, marginal: Crossing, synthetic: Encoded) -> "Drawn":
        """A marginal of rows, of which there are as many as parts at least."""
        return cls.of_cells(marginal.cells(synthetic).astype(np.int64), math.prod(marginal.shape))

    @classmethod
    def of_cells(cls, cells: NDArray[np.int64], size: int) -> "Drawn":
        """Rows by their cells, of which there are so many."""
        part = np.arange(len(cells)) * PARTS // len(cells)
        each = np.bincount(part * size + cells, minlength=PARTS * size).reshape(PARTS, size)
        share = each.sum(0) / len(cells)
        return cls(share=share, parts=each / each.sum(1, keepdims=True) - share, rows=len(cells))


def noised(recount: Recount, names: Mapping[int, str], synthetic: Sequence[Drawn]) -> Noised | None:
    """Synthetic rows beside rows that were counted anew.

    Args:
        recount: the noised counts.
        names: of the columns, by their field.
        synthetic: the synthetic rows' own shares, for each marginal of the recount.

    Returns:
        The figures, or None where nothing was counted, or noise hides whether there are rows at all.
    """
    rows = _rows(recount.counts, recount.noise_std)
    if rows is None:
        return None
    found = [_Beside.of(c, recount, rows, drawn) for c, drawn in zip(recount.counts, synthetic, strict=True)]
    alone = [m.axes[0].column for m in recount.marginals if len(m.axes) == 1]
    at = {c: i for i, c in enumerate(alone)}
    of_columns, of_pairs = found[: len(alone)], found[len(alone) :]
    ends = [(at[m.axes[0].column], at[m.axes[1].column]) for m in recount.marginals if len(m.axes) == 2]
    member = np.zeros((len(alone), len(of_pairs)))
    for i, pair in enumerate(ends):
        member[list(pair), i] = 1.0
    paired = np.flatnonzero(member.sum(1))
    both = recount.unit_rows, recount.held_out
    shapes = _scores(of_columns, np.eye(len(alone)), *both)
    trends = _scores(of_pairs, np.eye(len(of_pairs)), *both)
    together = dict(zip(paired.tolist(), _scores(of_pairs, member[paired], *both), strict=True))
    kept = dict(zip(paired.tolist(), _kept(of_pairs, member[paired]), strict=True))
    columns = tuple(
        NoisedColumn(name=names[c], shape=shapes[i], trend=together.get(i), kept=kept.get(i))
        for i, c in enumerate(alone)
    )
    pairs = tuple(
        NoisedPair(first=columns[a].name, second=columns[b].name, trend=trend)
        for (a, b), trend in zip(ends, trends, strict=True)
    )
    return Noised(
        rows=round(rows),
        noise_std=recount.noise_std,
        held_out=recount.held_out,
        shape=next(iter(_scores(of_columns, np.ones((1, len(alone))), *both)), None),
        trend=next(iter(_scores(of_pairs, np.ones((1, len(of_pairs))), *both)), None) if of_pairs else None,
        columns=columns,
        pairs=pairs,
        pairs_of=len(alone) * (len(alone) - 1) // 2,
    )


def distance(counts: Floats, cells: NDArray[np.int64], asked: Asked) -> Score | None:
    """How alike synthetic rows and rows that were counted anew spread over the cells of one marginal.

    Args:
        counts: the noised counts, float64 (C,).
        cells: the cell of each synthetic row, of which there are `PARTS` at least, int64 (n,).
        asked: whose counts they are among.

    Returns:
        The score; None where noise hides whether there are rows at all.
    """
    rows = _rows((counts,), asked.noise_std)
    if rows is None:
        return None
    beside = _Beside.of(counts, asked, rows, Drawn.of_cells(cells, counts.size))
    return _scores([beside], np.ones((1, 1)), asked.unit_rows, asked.held_out)[0]


def _rows(counts: Sequence[Floats], noise_std: float) -> float | None:
    """How many rows were counted, by all marginals, each of which has them all; None where noise hides it."""
    if not counts:
        return None
    weights = np.array([1 / c.size for c in counts])
    rows = float(weights @ [c.sum() for c in counts] / weights.sum())
    error = noise_std / math.sqrt(weights.sum())
    return rows if rows > max(1.0, 3 * error) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Beside:
    """One marginal on both sides.

    Attributes:
        weight: w.
        difference: S − H, float64 (C,).
        noise: variance of the noise in a share.
        sampled: variance that sampling the real rows adds to all shares together.
        drawn: the same for the synthetic rows.
        errors: what sampling may do to the shares, float64 (PARTS, C).
        apart: for a pair what is left of S and of H when columns are independent, float64 (2, C); else empty.
        turned: the same, such that products with it and with noise in H are products with what is left of the noise.
        left: to how many cells' noise the square of what is left of it amounts, and its variance to how many cells'.
        odd: what sampling adds to the square of H's rest.
    """

    weight: float
    difference: Floats
    noise: float
    sampled: float
    drawn: float
    errors: Floats
    apart: Floats
    turned: Floats
    left: tuple[float, float]
    odd: float

    @classmethod
    def of(cls, counts: Floats, asked: Asked, rows: float, drawn: Drawn) -> "_Beside":
        """Noised counts of a column, (C,), or a pair, (C, D), beside the synthetic rows' own."""
        share = drawn.share
        size = counts.size
        real = counts.ravel() / rows
        real = real + (1 - real.sum()) / size
        # Parts are smaller than the real rows, and differ from their own mean.
        scale = math.sqrt(drawn.rows / PARTS / (rows / asked.unit_rows) * PARTS / (PARTS - 1))
        variety = float(1 - (share**2).sum())
        apart, turned, left, odd = np.empty((2, 0)), np.empty((2, 0)), (0.0, 0.0), 0.0
        if counts.ndim == 2:
            apart = np.stack([_rest(s.reshape(counts.shape)) for s in (share, real)])
            margins = [share.reshape(counts.shape).sum(1 - a) for a in (0, 1)]
            # What is left of noise E in H is, to first order, M E Nᵀ with M = I − p 1ᵀ, p the margin of its side.
            maps = [np.eye(len(p)) - p[:, None] for p in margins]
            turned = np.stack([(maps[0].T @ x.reshape(counts.shape) @ maps[1]).ravel() for x in apart])
            squares = [m.T @ m for m in maps]
            left = (
                math.prod(float(np.trace(q)) for q in squares),
                math.prod(float((q**2).sum()) for q in squares),
            )
            odd = math.prod(1 - float((p**2).sum()) for p in margins) / rows
        return cls(
            weight=size / 4,
            difference=share - real,
            noise=(asked.noise_std / rows) ** 2,
            sampled=variety / rows,
            drawn=variety / drawn.rows,
            errors=drawn.parts * scale,
            apart=apart,
            turned=turned,
            left=left,
            odd=odd,
        )


def _rest(joint: Floats) -> Floats:
    return np.asarray((joint - joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)).ravel())


def _scores(found: list[_Beside], member: Floats, unit_rows: int, held_out: bool) -> list[Score]:
    """Scores of groups of marginals: of each, the root of the mean squared distance.

    Rows of one unit may resemble each other, so sampling adds to the square between once and `unit_rows` times what it
    does for single rows. To rows that a model has learned from it may have come closer than to their like, by at most
    what sampling moved them, so then it is not taken off, and the upper end provides for it.

    Args:
        found: marginals.
        member: which of them are in each group, (groups, marginals).
        unit_rows: rows of a unit.
        held_out: whether the model has not learned from the real rows.
    """
    if not len(member) or not found:
        return []
    mean = member / member.sum(1, keepdims=True)

    def over(values: list[float]) -> Floats:
        return np.asarray(mean @ np.array(values), np.float64)

    squares = over([f.weight * float(f.difference @ f.difference) for f in found])
    noise = over([f.weight * (len(f.difference) - 1) * f.noise for f in found])
    sampled = over([f.weight * f.sampled for f in found])
    alone = [
        f.weight**2 * (2 * (len(f.difference) - 1) * f.noise**2 + 4 * f.noise * f.sampled * unit_rows)
        for f in found
    ]
    steep = [4 * f.weight**2 * f.noise * float(f.difference @ f.difference) for f in found]
    # What sampling does is shared by marginals of the same columns, so it is added up before it is squared.
    of_squares = np.array([f.weight * (f.errors**2).sum(1) for f in found])
    of_lines = np.array([2 * f.weight * f.errors @ f.difference for f in found])
    variance = mean**2 @ np.array(alone) + (mean @ of_squares).var(1, ddof=1)
    slope = (mean**2 @ np.array(steep) + (mean @ of_lines).var(1, ddof=1)) / np.maximum(squares, 1e-300)
    tail = MISSED / 2 / len(member)
    off = sampled if held_out else -unit_rows * sampled
    low = _end(squares, noise + unit_rows * sampled, variance, slope, 1 - tail)
    # By luck there may be less than noise alone gives. That is no sign of being closer than noise lets one see.
    high = _end(np.maximum(squares, noise + off), noise + off, variance, slope, tail)
    value = squares - noise - (sampled if held_out else 0.0)
    ceiling = over([f.weight * f.drawn for f in found])
    ends = (1 - np.sqrt(np.clip(x, 0, 1)) for x in (value, high, low, ceiling))
    return [
        Score(value=float(v), low=float(min(h, v)), high=float(max(lo, v)), ceiling=float(c))
        for v, h, lo, c in zip(*ends, strict=True)
    ]


def _end(squares: Floats, expected: Floats, variance: Floats, slope: Floats, chance: float) -> Floats:
    """The squared distance under which sums of squares are smaller than those observed with this chance; 0 at least."""

    def smaller(theta: Floats) -> Floats:
        mean = np.maximum(expected + theta, 1e-300)
        scale = np.maximum(variance + slope * theta, 1e-300) / mean
        return np.asarray(stats.gamma.cdf(squares, mean / scale, scale=scale), np.float64)

    low: Floats = np.zeros(len(squares))
    high = squares + np.abs(expected) + 40 * np.sqrt(variance) + 400 * slope
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = smaller(middle) > chance
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray(low)


def _kept(found: list[_Beside], member: Floats) -> list[Kept | None]:
    """What columns keep of their association with others: the slope of S's rest on that of H, over all their pairs.

    With s and h what is left of shares when columns are independent, a = Σ w s·h and b = Σ w h², less what noise adds,
    are unbiased for the same of the real rows, and a/b is 1 for real rows and 0 for a column that was shuffled. Its
    interval is Fieller's (1954); where b is not `CLEAR` there is none.

    Args:
        found: pairs.
        member: which of them each column is in, (columns, pairs).
    """
    if not len(member):
        return []
    lines, squares, covariance, odd = [], [], [], []
    for f in found:
        (s, h), (ts, th), w, v = f.apart, f.turned, f.weight, f.noise
        line, square = w * float(s @ h), w * (float(h @ h) - v * f.left[0] - f.odd)
        lines.append(line)
        squares.append(square)
        odd.append([2 * w * f.errors @ th, w * f.errors @ ts])
        of_line = w**2 * v * float(ts @ ts)
        # th carries noise of its own, which must not count as association.
        of_square = w**2 * v * (2 * v * f.left[1] + 4 * max(float(th @ th) - v * f.left[1], 0.0))
        both = 2 * w**2 * v * float(ts @ th)
        most = math.sqrt(of_line * of_square)
        covariance.append([of_line, min(max(both, -most), most), of_square])
    z = float(stats.norm.isf(MISSED / 2 / len(member)))
    kept: list[Kept | None] = []
    for group in member:
        a, b = group @ np.array(lines), group @ np.array(squares)
        va, cab, vb = group @ np.array(covariance)
        sampling = np.cov(np.tensordot(group, np.array(odd), 1))
        va, cab, vb = va + sampling[1, 1], cab + sampling[0, 1], vb + sampling[0, 0]
        strength = math.sqrt(max(b, 0.0) / group.sum())
        kept.append(_ratio(float(a), float(b), float(va), float(cab), float(vb), z, strength))
    return kept


def _ratio(a: float, b: float, va: float, cab: float, vb: float, z: float, strength: float) -> Kept | None:
    """a/b with its interval: all κ for which a − κb may be 0."""
    square, middle = b * b - z * z * vb, a * b - z * z * cab
    if b <= CLEAR * z * math.sqrt(vb) or square <= 0:
        return None
    reach = math.sqrt(max(0.0, middle * middle - square * (a * a - z * z * va)))
    low, high = (middle - reach) / square, (middle + reach) / square
    return Kept(value=a / b, low=min(low, a / b), high=max(high, a / b), strength=strength)


# --- the page


def render(noised: Noised, judged: Sequence[Judged]) -> Html:
    """The section of a report: every column, and the pairs that seem to lose most, with intervals and verdicts."""
    outcome = {(j.rule, j.columns): j.outcome for j in judged}
    whose = (
        "held out of training"
        if noised.held_out
        else "that the model has learned from, with noise that it has not seen"
    )
    lead = (
        f"About {noised.rows:,} real rows (a noised number) {whose}, were counted in coarse groups, each count with "
        f"noise of ± {noised.noise_std:,.0f} rows; this was charged to the privacy budget. Scores are 100 where "
        "synthetic rows are distributed alike, with the noise taken off; the intervals hold all together with 95 %, "
        "for noise and for sampling. What is undecided, noise hides."
    )
    pairs = sorted(noised.pairs, key=lambda p: (p.trend.value, p.first, p.second))[:SHOWN_PAIRS]
    asked = f"{len(noised.pairs):,} of {noised.pairs_of:,} pairs were counted; those that seem to lose most:"
    return section(
        "noised",
        "Counted anew, with noise",
        paragraph(lead),
        scrolling("Columns, by noised counts", _columns_table(noised, outcome)),
        *(
            [paragraph(asked), scrolling("Pairs, by noised counts", _pairs_table(pairs, outcome))]
            if pairs
            else []
        ),
    )


Outcomes = Mapping[tuple[str, tuple[str, ...]], str]


def _columns_table(noised: Noised, outcome: Outcomes) -> Html:
    rows = [_row(Html("<em>all</em>"), noised.shape, noised.trend, None, outcome, ())]
    rows += [
        _row(shown_name(c.name, 28), c.shape, c.trend, c.kept, outcome, (c.name,)) for c in noised.columns
    ]
    heads = ("Column", "Shape", "of", "", "Its pairs", "of", "", "Association kept", "")
    return _table(heads, rows)


def _row(
    name: Html,
    shape: Score | None,
    trend: Score | None,
    kept: Kept | None,
    outcome: Outcomes,
    at: tuple[str, ...],
) -> Html:
    keeps = (
        "–"
        if kept is None
        else f"{percent(max(0.0, kept.value))} ({_end_of(kept.low)} to {_end_of(kept.high)})"
    )
    cells = (
        told(shape), points(shape.ceiling) if shape else "–", outcome.get(("shape", at), ""),
        told(trend), points(trend.ceiling) if trend else "–", outcome.get(("trend", at), ""),
        keeps, outcome.get(("association", at), ""),
    )  # fmt: skip
    return element(
        "tr", {}, element("th", {"scope": "row"}, name), *(element("td", {}, cell) for cell in cells)
    )


def _end_of(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def _pairs_table(pairs: Sequence[NoisedPair], outcome: Outcomes) -> Html:
    rows = [
        element(
            "tr",
            {},
            shown_pair(p.first, p.second),
            element("td", {}, told(p.trend)),
            element("td", {}, points(p.trend.ceiling)),
            element("td", {}, outcome.get(("trend", (p.first, p.second)), "")),
        )
        for p in pairs
    ]
    return _table(("Pair", "Trend", "of", ""), rows)


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    return element(
        "table",
        {"class": "plain"},
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *rows),
    )


def told(score: Score | None) -> str:
    """A score with its interval, in points of 100: `97.1 (94.0 to 100.0)`."""
    if score is None:
        return "–"
    return f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"
