"""Inference: what a researcher would publish from synthetic rows, beside what real rows say; and honest intervals.

For each target that models predict (`validation.utility`) a regression on the columns that real rows need most:
linear for numbers, logistic for two classes, and for several classes one logistic regression of each against the
commonest (Begg and Gray 1984). The measure is the overlap of confidence intervals (Karr et al. 2006, The American
Statistician 60, 224–232): ½ (|A ∩ B| / |A| + |A ∩ B| / |B|), 1 for equal intervals and 0 for disjoint ones. Its ceiling
is the overlap of held-out rows with as many training rows: two samples of one truth, whatever their size.

`combine` gives intervals about the truth behind the real rows (Raab, Nowok and Dibben 2016, Journal of Privacy and
Confidentiality 7(3), 67–97).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.estimate import Estimate, Z
from validation.cells import DRAWN, SIDES, Cells, Codes, Floats
from validation.features import draw, scale_of
from validation.fidelity import MISSING, OTHERS
from validation.gauges import whiskers
from validation.markup import (
    Html,
    counted,
    element,
    interval_cell,
    join,
    paragraph,
    percent,
    scrolling,
    section,
    shown_name,
)
from validation.regression import Kind, cells, fit, independent
from validation.utility import Task, Utility, target_of

ROWS = 50_000
"""Rows of each side that a regression is of at most."""

LEVELS = 8
"""Categories of a column that are told apart at most: the commonest, with the first of which others are compared."""

CLASSES = 5
"""Classes of a target at most: the commonest."""

TERMS = 40
"""Coefficients of a regression at most."""

FEW = 10
"""Rows of each class that a category has at least, or it is not told apart; and rows for each coefficient."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A coefficient with its standard error; the interval is that of 95 %."""

    value: float
    error: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.value - Z * self.error

    @property
    def high(self) -> float:
        """Upper end."""
        return self.value + Z * self.error

    @property
    def says(self) -> int:
        """1 or −1 where the interval lies on that side of 0, else 0: nothing is significant."""
        return (self.low > 0) - (self.high < 0)


def overlap(a: Interval, b: Interval) -> float:
    """Mean share of two intervals that they have in common, in [0, 1] (Karr et al. 2006)."""
    common = max(0.0, min(a.high, b.high) - max(a.low, b.low))
    wide = [i.high - i.low for i in (a, b)]
    return 0.5 * sum(common / w for w in wide) if min(wide) > 0 else float(a == b)


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """One term of a regression.

    Attributes:
        column: which it is about.
        level: the category that it marks; None for a number, whose unit is the training rows' standard deviation.
        rows: training units that it rests on (`regression.cells`).
        real: of training rows.
        synthetic: of as many synthetic rows; None where these do not tell.
        part: of as many training rows as are held out.
        holdout: of held-out rows.
    """

    column: str
    level: str | None
    rows: int
    real: Interval
    synthetic: Interval | None
    part: Interval | None
    holdout: Interval | None

    @property
    def overlap(self) -> float:
        """Of the intervals of real and synthetic rows."""
        return 0.0 if self.synthetic is None else overlap(self.real, self.synthetic)

    @property
    def difference(self) -> float | None:
        """Synthetic less real, in standard errors of the real one."""
        return None if self.synthetic is None else _difference(self.real, self.synthetic)

    @property
    def same_sign(self) -> bool:
        """Whether both have one sign."""
        return self.synthetic is not None and self.real.value * self.synthetic.value > 0

    @property
    def same_conclusion(self) -> bool:
        """Whether both are significant with one sign, or neither is significant."""
        return self.synthetic is not None and self.real.says == self.synthetic.says


def _difference(real: Interval, other: Interval) -> float:
    return (other.value - real.value) / real.error if real.error > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means over the coefficients: overlap, |difference| in standard errors, and the share of conclusions kept."""

    overlap: float
    difference: float | None
    kept: float


@dataclass(frozen=True, kw_only=True)
class Regression:
    """One regression.

    Attributes:
        target: what is explained.
        outcome: the class whose log-odds are, and that which they are held against; None for numbers, whose unit is the
            training rows' standard deviation.
        kind: linear or logistic.
        rows: of the training and of the synthetic rows.
        rows_holdout: held-out rows, and training rows beside them.
        coefficients: without the constant.
    """

    target: str
    outcome: tuple[str, str] | None
    kind: Kind
    rows: int
    rows_holdout: int
    coefficients: tuple[Coefficient, ...]

    @property
    def synthetic(self) -> Summary:
        """Synthetic rows beside training rows."""
        found = _summary([(c.real, c.synthetic) for c in self.coefficients])
        assert found is not None
        return found

    @property
    def ceiling(self) -> Summary | None:
        """Held-out rows beside as many training rows."""
        return _summary([(c.part, c.holdout) for c in self.coefficients if c.part and c.holdout])


def _summary(pairs: Sequence[tuple[Interval | None, Interval | None]]) -> Summary | None:
    if not pairs:
        return None
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    off = [abs(_difference(a, b)) for a, b in both]
    return Summary(
        overlap=sum(overlap(a, b) for a, b in both) / len(pairs),
        difference=sum(off) / len(off) if off else None,
        kept=sum(a.says == b.says for a, b in both) / len(pairs),
    )


@dataclass(frozen=True, kw_only=True)
class Inference:
    """All regressions.

    Attributes:
        regressions: those that could be done.
        skipped: target → why not.
    """

    regressions: tuple[Regression, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss, and with what follows from them for the reader."""
        return {"regressions": [_plain(r) for r in self.regressions], "skipped": dict(self.skipped)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Inference":
        """The inverse of `to_dict`."""
        return cls(
            regressions=tuple(_regression(r) for r in data["regressions"]), skipped=dict(data["skipped"])
        )


_INTERVALS = ("real", "synthetic", "part", "holdout")


def _plain(found: Regression) -> dict[str, Any]:
    ceiling = found.ceiling
    return {
        "target": found.target, "outcome": None if found.outcome is None else list(found.outcome),
        "kind": found.kind, "rows": found.rows, "rows_holdout": found.rows_holdout,
        "coefficients": [_plain_term(c) for c in found.coefficients],
        "synthetic": asdict(found.synthetic), "ceiling": None if ceiling is None else asdict(ceiling),
    }  # fmt: skip


def _plain_term(found: Coefficient) -> dict[str, Any]:
    intervals = {n: getattr(found, n) for n in _INTERVALS}
    ends = {
        n: None if i is None else {**asdict(i), "low": i.low, "high": i.high} for n, i in intervals.items()
    }
    follows = {n: getattr(found, n) for n in ("overlap", "difference", "same_sign", "same_conclusion")}
    return {"column": found.column, "level": found.level, "rows": found.rows, **ends, **follows}


def _regression(data: Mapping[str, Any]) -> Regression:
    def interval(said: Mapping[str, Any] | None) -> Interval | None:
        return None if said is None else Interval(value=said["value"], error=said["error"])

    coefficients = tuple(
        Coefficient(
            column=c["column"], level=c["level"], rows=c["rows"],
            **{n: interval(c[n]) for n in _INTERVALS},  # type: ignore[arg-type]
        )
        for c in data["coefficients"]
    )  # fmt: skip
    return Regression(
        target=data["target"], outcome=data["outcome"] and tuple(data["outcome"]), kind=data["kind"],
        rows=data["rows"], rows_holdout=data["rows_holdout"], coefficients=coefficients,
    )  # fmt: skip


# ── measured ────────────────────────────────────────────────────────────────────────────────────────────────


def inference(columns: Sequence[Cells], used: Utility, *, at_least: int, seed: int) -> Inference:
    """Regressions on real and on synthetic rows.

    Args:
        columns: the learned columns of the three tables.
        used: what models predicted, and which features they needed.
        at_least: training units of each class below which no category is told apart.
        seed: of the rows that are drawn.
    """
    by_name = {c.column.name: c for c in columns}
    found, skipped = [], dict(used.skipped)
    for task in used.tasks:
        others = [by_name[n] for n, _, _ in task.features]
        regressions = [
            r
            for outcome in _outcomes(target_of(by_name[task.target]))
            if (r := _measured(task, outcome, others, at_least=at_least, seed=seed)) is not None
        ]
        found += regressions
        if not regressions:
            skipped[task.target] = "has too few rows for a regression, or follows exactly from other columns"
    return Inference(regressions=tuple(found), skipped=skipped)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Outcome:
    """What is explained: which rows have it, and their values, by side."""

    classes: tuple[str, str] | None
    rows: Mapping[str, Codes]
    y: Mapping[str, Floats]

    @property
    def kind(self) -> Kind:
        return "linear" if self.classes is None else "logistic"


def _outcomes(target: Cells) -> Iterator[_Outcome]:
    if target.numbers is not None:
        own = target.numbers["train"][np.isfinite(target.numbers["train"])]
        size = scale_of(own)
        spread = float(np.std(own / size)) or 1.0
        y = {side: target.numbers[side] / size / spread for side in (*SIDES, DRAWN)}
        yield _Outcome(classes=None, rows={s: np.flatnonzero(np.isfinite(v)) for s, v in y.items()}, y=y)
        return
    counts = target.counts("train")
    order = [int(c) for c in np.argsort(-counts, kind="stable")[:CLASSES] if counts[c] > 0]
    for code in order[1:]:
        yield _Outcome(
            classes=(str(target.values[code].as_py()), str(target.values[order[0]].as_py())),
            rows={s: np.flatnonzero(np.isin(target.codes[s], (code, order[0]))) for s in (*SIDES, DRAWN)},
            y={s: (target.codes[s] == code).astype(np.float64) for s in (*SIDES, DRAWN)},
        )


def _measured(
    task: Task, outcome: _Outcome, others: Sequence[Cells], *, at_least: int, seed: int
) -> Regression | None:
    """None where training rows do not tell."""
    rng = np.random.default_rng(seed)
    most = min(ROWS, *(len(outcome.rows[s]) for s in ("train", "synthetic")))
    beside = min(most, len(outcome.rows["holdout"]))
    chosen = {
        name: (side, outcome.rows[side][draw(len(outcome.rows[side]), rows, rng)])
        for name, side, rows in (
            ("real", "train", most), ("synthetic", "synthetic", most),
            ("part", "train", beside), ("holdout", "holdout", beside),
        )
    }  # fmt: skip
    terms = _Terms.of(others, outcome, chosen["real"][1], least=max(at_least, FEW))
    if not terms.columns:
        return None
    fits = {
        name: fit(outcome.kind, terms.matrix(side, rows), outcome.y[side][rows])
        for name, (side, rows) in chosen.items()
    }

    def interval(name: str, i: int) -> Interval | None:
        found = fits[name]
        if found is None or not np.isfinite(found.errors[i]):
            return None
        return Interval(value=float(found.values[i]), error=float(found.errors[i]))

    coefficients = []
    for i, (own, level) in enumerate(terms.columns, start=1):
        if (of_real := interval("real", i)) is not None:
            coefficients.append(
                Coefficient(
                    column=own.column.name, level=_label(own, level), rows=int(terms.rows[i]), real=of_real,
                    **{n: interval(n, i) for n in ("synthetic", "part", "holdout")},
                )
            )  # fmt: skip
    if not coefficients:
        return None
    return Regression(
        target=task.target, outcome=outcome.classes, kind=outcome.kind, rows=most, rows_holdout=beside,
        coefficients=tuple(coefficients),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Terms:
    """What a regression is on, as the training rows decide it.

    Attributes:
        columns: of each coefficient but the constant, which column and what of it: None for its number, the code of a
            category, `_OTHERS` or `_MISSING`.
        rows: units that each rests on, that of the constant included.
    """

    columns: tuple[tuple[Cells, int | None], ...]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, others: Sequence[Cells], outcome: _Outcome, rows: Codes, *, least: int) -> "_Terms":
        """As many columns as there are rows for, the first ones."""
        most = min(TERMS, *(len(v) // FEW for v in outcome.rows.values()))
        kept: list[tuple[Cells, int | None]] = []
        for own in others:
            new = [*kept, *((own, level) for level in _levels(own))]
            found = cls(columns=tuple(new), rows=np.zeros(0, np.int64))
            x = found.matrix("train", rows)
            enough = found._units(outcome, rows) >= least
            able = enough & independent(np.where(enough, x, 0.0))
            new = [term for term, ok in zip(new, able[1:], strict=True) if ok]
            if len(new) > most:
                break
            kept = new
        whole = cls(columns=tuple(kept), rows=np.zeros(0, np.int64))
        return cls(columns=tuple(kept), rows=whole._units(outcome, rows))

    def _units(self, outcome: _Outcome, rows: Codes) -> npt.NDArray[np.int64]:
        """Units that each coefficient rests on: of each one row is drawn, so who has many rows counts once."""
        drawn = outcome.rows[DRAWN]
        of_units = cells(self.matrix(DRAWN, drawn), outcome.y[DRAWN][drawn])
        return np.minimum(of_units, cells(self.matrix("train", rows), outcome.y["train"][rows]))

    def matrix(self, side: str, rows: Codes) -> Floats:
        """The design matrix, float64 (rows, 1 + terms)."""
        return np.column_stack(
            [np.ones(len(rows)), *(_column(c, level, side, rows) for c, level in self.columns)]
        )


_MISSING, _OTHERS = -1, -2
"""What of a column is marked where it is no category."""


def _levels(own: Cells) -> Iterator[int | None]:
    """What of a column may have a coefficient; of categories all but the commonest."""
    if own.numbers is None:
        yield from (*_common(own)[1:], _OTHERS)
    elif np.isfinite(own.numbers["train"]).any() and not np.isinf(own.numbers["train"]).any():
        yield None
    yield _MISSING


def _common(own: Cells) -> list[int]:
    counts = own.counts("train")
    return [int(c) for c in np.argsort(-counts, kind="stable")[:LEVELS] if counts[c] > 0]


def _label(own: Cells, level: int | None) -> str | None:
    if level is None:
        return None
    return {_MISSING: MISSING, _OTHERS: OTHERS}.get(level) or str(own.values[level].as_py())


def _column(own: Cells, level: int | None, side: str, rows: Codes) -> Floats:
    codes = own.codes[side][rows]
    if level == _OTHERS:
        return ((codes >= 0) & ~np.isin(codes, _common(own))).astype(np.float64)
    if level is not None:
        return np.asarray(codes == level, np.float64)
    assert own.numbers is not None
    train = own.numbers["train"]
    size = scale_of(train)
    spread = float(np.nanstd(train / size)) or 1.0
    # A missing value has the mean, and a mark of its own.
    scores = (own.numbers[side][rows] / size - float(np.nanmean(train / size))) / spread
    return np.asarray(np.nan_to_num(scores), np.float64)


# ── honest intervals ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, eq=False)
class Combined:
    """Estimates of what is true of those whom the real rows are a sample of.

    Attributes:
        values: float64 (p,).
        errors: float64 (p,), standard errors.
        between: float64 (p,), variance between draws in parts of what their own variances lead to expect: about 1 for
            independent draws; NaN of one draw.
    """

    values: Floats
    errors: Floats
    between: Floats

    @property
    def low(self) -> Floats:
        """Lower ends of the 95 % intervals."""
        return self.values - Z * self.errors

    @property
    def high(self) -> Floats:
        """Their upper ends."""
        return self.values + Z * self.errors


def combine(estimates: npt.ArrayLike, variances: npt.ArrayLike, *, rows: float, learned: float) -> Combined:
    """Combines what was estimated from each of m draws of one fitted model.

    The mean estimate q̄ is off the truth by two errors: that of the real sample, which the model has taken over, about
    v̄ k / n, and that of the draws, v̄ / m. So T = v̄ (k / n + 1 / m), v̄ the mean of the squared standard errors of
    draws of k rows, as if they were real (Raab, Nowok and Dibben 2016, T_s). It holds for one draw, too. The rule of
    Raghunathan, Reiter and Rubin (2003), (1 + 1/m) b − v̄, is for draws each from a model of its own that was drawn
    from a posterior: ours are from one.

    Honest where the model is true of what is asked and as sure of it as the real rows are; not about what the model
    lost, cut or smoothed, nor where answers were noised: that error is in neither term.

    Args:
        estimates: (m,) or (m, p), of each draw.
        variances: of the same shape, squared standard errors.
        rows: rows of each draw, k.
        learned: real rows that the model learned from, n (`learned_rows` of the certificate).

    Raises:
        ValueError: shapes differ, there is no draw, a variance is negative, or a number of rows is not positive.

    Examples:
        >>> found = combine([1.0, 3.0], [0.5, 0.5], rows=100, learned=100)
        >>> found.values, found.errors.round(3)
        (array([2.]), array([0.866]))
    """
    q, v = (np.asarray(a, np.float64) for a in (estimates, variances))
    if q.shape != v.shape or q.ndim not in (1, 2) or not len(q):
        raise ValueError(
            f"estimates and variances must have one shape (draws, terms), however: {q.shape} and {v.shape}"
        )
    if (v < 0).any() or not rows > 0 or not learned > 0:
        raise ValueError("variances must be 0 or more and rows positive, however: one is not")
    q, v = q.reshape(len(q), -1), v.reshape(len(v), -1)
    mean = v.mean(axis=0)
    spread = q.var(axis=0, ddof=1) if len(q) > 1 else np.full(q.shape[1], np.nan)
    return Combined(
        values=q.mean(axis=0),
        errors=np.sqrt(mean * (rows / learned + 1 / len(q))),
        between=spread / np.where(mean > 0, mean, np.nan),
    )


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


def render(found: Inference) -> Html:
    """The section of the report."""
    skipped = [
        paragraph("No regression of ", shown_name(n), f": it {why}.") for n, why in found.skipped.items()
    ]
    if not found.regressions:
        return section(
            "inference", "What regressions say", paragraph("No regression could be made."), *skipped
        )
    lead = (
        "Coefficients with their 95 % intervals, from real and from as many synthetic rows taken as if they were "
        "real, surest effects first. Overlap is the mean share of both intervals that they have in common (1 is "
        "best); beside it stands that of held-out real rows with as many training rows. Numbers are in standard "
        "deviations of the real rows; a category is held against the commonest of its column."
    )
    return section(
        "inference",
        "What regressions say",
        paragraph(lead),
        *(_shown(r) for r in found.regressions),
        *skipped,
    )


def _shown(found: Regression) -> Html:
    order = sorted(found.coefficients, key=lambda c: -abs(c.real.value) / max(c.real.error, 1e-300))
    reach = max(max(abs(c.real.low), abs(c.real.high)) for c in order)
    heads = ("Term", "Real rows", "Synthetic rows", "Overlap", "Real above synthetic, around 0")
    table = element(
        "table",
        {"class": "plain"},
        element("caption", {}, *_caption(found)),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *(_row(c, reach) for c in order)),
    )
    return join([scrolling("Coefficients of a regression", table), _summed(found)])


def _caption(found: Regression) -> Iterator[str]:
    if found.outcome is None:
        yield "Linear regression of "
        yield shown_name(found.target, 36)
    else:
        yield "Log-odds that "
        yield shown_name(found.target, 36)
        yield " is "
        yield shown_name(found.outcome[0], 28)
        yield " and not "
        yield shown_name(found.outcome[1], 28)
    yield f", {counted(found.rows, 'row', 'rows')} of each kind"


def _row(found: Coefficient, reach: float) -> Html:
    level = [] if found.level is None else [element("i", {}, " is "), shown_name(found.level, 28)]
    figures = [("real", _estimate(found.real))]
    if found.synthetic is not None:
        figures.append(("synthetic", _estimate(found.synthetic)))
    kept = "" if found.same_conclusion else element("span", {"class": "kind"}, "another conclusion")
    return element(
        "tr",
        {},
        element("th", {"scope": "row"}, shown_name(found.column, 28), *level),
        _cell(found.real),
        _cell(found.synthetic),
        element("td", {}, f"{found.overlap:.2f}", kept),
        element("td", {"class": "drawn"}, whiskers(figures, low=-reach, high=reach, mark=0.0)),
    )


def _estimate(found: Interval) -> Estimate:
    return Estimate(value=found.value, low=found.low, high=found.high, surely=found.low)


def _cell(found: Interval | None) -> Html:
    if found is None:
        return element("td", {}, "not to be told")
    return interval_cell(found.value, found.low, found.high)


def _summed(found: Regression) -> Html:
    own, ceiling = found.synthetic, found.ceiling
    beside = "" if ceiling is None else f" (held-out rows {ceiling.overlap:.2f})"
    kept = "" if ceiling is None else f" (held-out rows {percent(ceiling.kept)})"
    return element(
        "p",
        {"class": "kind"},
        f"Mean overlap {own.overlap:.2f}{beside}; the same conclusion, significant with one sign or not significant, "
        f"for {percent(own.kept)} of the coefficients{kept}.",
    )
