"""Public: the figures of the evidence as coarse as a release may show them.

Where a release promises nothing formal, its evidence is exact, and whoever compares the reports of two tables that
differ by one person would see that person. So what leaves is a function of coarsened figures alone: shares of real
rows are multiples of `at_least` rows, and so are numbers of real rows; every other figure has three decimals. What a
page hides in an attribute or a drawing is as coarse as what it shows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from privacy.attacks import Attack, Attacks
from privacy.estimate import Estimate, Z, risk
from validation.evidence import Evidence
from validation.fairness import Fairness
from validation.fidelity import ColumnFidelity, Fidelity, Overlay
from validation.gates import Finding, Verdict
from validation.images import ROWS, Beside, ImageEvidence, share_of
from validation.inference import Coefficient, Inference, Interval, Regression
from validation.learning import Learning
from validation.structure import MOST, Figure, Structure

DECIMALS = 3
"""Of every figure that is no share of the real rows."""


def outside(evidence: Evidence, *, at_least: int) -> Evidence:
    """The evidence as a release shows it; what follows from noised answers is public as it is.

    Args:
        evidence: exact figures, or under privacy those that were paid for.
        at_least: units that the certificate says are pooled: no share and no number of real rows resolves fewer; 0:
            nothing is pooled, so shares have three decimals like all figures.
    """
    if evidence.fidelity.noised:
        return evidence
    exact = evidence.fidelity
    train, holdout = _Grid(exact.rows_train, at_least), _Grid(exact.rows_holdout, at_least)
    rounded = Evidence.from_dict(_rounded(evidence.to_dict(), at_least))
    fair = None
    if rounded.fairness is not None and evidence.fairness is not None:
        fair = _fairness(rounded.fairness, evidence.fairness, train, holdout)
    images = None
    if rounded.images is not None and evidence.images is not None:
        images = _images(rounded.images, evidence.images, at_least)
    structure = None
    if rounded.structure is not None and evidence.structure is not None:
        structure = _structure(rounded.structure, evidence.structure, holdout)
    likely = rounded.likelihood
    if likely is not None and evidence.likelihood is not None:
        # Rows are counted coarsely, columns are not.
        likely = replace(likely, columns=evidence.likelihood.columns)
    learning = None if evidence.learning is None else _learning(evidence.learning)
    regressions = None if evidence.inference is None else _inference(evidence.inference, at_least)
    return replace(
        rounded,
        fidelity=_fidelity(rounded.fidelity, exact, train, holdout),
        fairness=fair,
        images=images,
        inference=regressions,
        likelihood=likely,
        structure=structure,
        learning=learning,
        attacks=None if rounded.attacks is None else _attacks(rounded.attacks, exact.rows_holdout, holdout),
    )


def said(verdict: Verdict, coarse: Verdict) -> Verdict:
    """The verdict as a release shows it.

    Args:
        verdict: on exact evidence: what it found stands, and in its order.
        coarse: on the evidence that the release shows, whose figures are said. Of what is found by exact figures alone,
            at a limit, percentages are whole ones.
    """
    shown = {(f.rule, f.level, f.columns): f for f in coarse.findings}
    findings = []
    for f in verdict.findings:
        known = shown.get((f.rule, f.level, f.columns))
        findings.append(_finding(f, decimals=0) if known is None else _finding(known, decimals=1))
    return replace(verdict, findings=tuple(findings))


class _Grid:
    """Shares of so many rows, in steps of `at_least` rows; not even their number shows in them."""

    def __init__(self, rows: int, at_least: int) -> None:
        self._exact = 10**DECIMALS if at_least == 0 else max(rows, 1) / at_least
        self._steps = max(round(self._exact), 1)

    @property
    def blur(self) -> float:
        """What a step may be off by."""
        return 0.5 / self._steps

    def share(self, value: float) -> float:
        """The nearest step."""
        return round(min(1.0, round(value * self._exact) / self._steps), 6)


def _rounded(value: Any, at_least: int) -> Any:
    """The same with coarser numbers: floats by decimals, whole numbers, which count rows, by `at_least`."""
    if isinstance(value, Mapping):
        return {k: v if k == "edges" else _rounded(v, at_least) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v, at_least) for v in value]
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else value
    if isinstance(value, int) and not isinstance(value, bool) and at_least:
        return round(value / at_least) * at_least
    return value


def _fidelity(rounded: Fidelity, exact: Fidelity, train: _Grid, holdout: _Grid) -> Fidelity:
    return replace(
        rounded,
        rows_synthetic=exact.rows_synthetic,
        shape_error=_error(exact.shape_error),
        trend_error=_error(exact.trend_error),
        copies_holdout=None if exact.copies_holdout is None else holdout.share(exact.copies_holdout),
        copies_twins=_of(exact.copies_twins, train),
        copies_rare_twins=_of(exact.copies_rare_twins, train),
        repeats_real=_of(exact.repeats_real, train),
        copies_rare_holdout=_of(exact.copies_rare_holdout, holdout),
        columns=tuple(
            _column(r, e, train, holdout) for r, e in zip(rounded.columns, exact.columns, strict=True)
        ),
        overlays=tuple(_overlay(o, train) for o in exact.overlays),
        groups=tuple(replace(g, share=train.share(g.share)) for g in exact.groups),
    )


def _structure(rounded: Structure, exact: Structure, holdout: _Grid) -> Structure:
    """Ceilings are shares of held-out rows, or scores of them; a Wasserstein distance is neither."""

    def stepped(figure: Figure, error: float | None) -> Figure:
        size = MOST.get(figure.measure, 1.0)
        if figure.ceiling is None or math.isinf(size):
            return replace(figure, error=_error(error))
        error = None if error is None else size * _up(error / size + holdout.blur / Z)
        return replace(figure, ceiling=size * holdout.share(figure.ceiling / size), error=error)

    return Structure(
        figures=tuple(stepped(r, e.error) for r, e in zip(rounded.figures, exact.figures, strict=True))
    )


def _up(error: float) -> float:
    """A standard error with three decimals: more rather than less, so that no interval is too narrow."""
    return float(math.ceil(error * 10**DECIMALS) / 10**DECIMALS)


def _error(exact: float | None) -> float | None:
    return None if exact is None else _up(exact)


def _of(share: float | None, grid: _Grid) -> float | None:
    return None if share is None else grid.share(share)


def _images(rounded: ImageEvidence, exact: ImageEvidence, at_least: int) -> ImageEvidence:
    """Shares of held-out and of training images in steps; their intervals follow from the steps."""

    def stepped(figure: Estimate | None, rows: int) -> Estimate | None:
        return None if figure is None else share_of(_Grid(rows, at_least).share(figure.value), rows)

    def beside(figure: Beside, rows: int, *, of_train: bool = False) -> Beside:
        value = stepped(figure.value, rows) if of_train else figure.value
        assert value is not None
        return Beside(value=value, ceiling=stepped(figure.ceiling, rows))

    near, use = rounded.closeness, rounded.use
    rows, held = exact.closeness.rows, max(exact.rows[1], 1)
    near = replace(
        near,
        rows=rows,
        precision=beside(near.precision, rows),
        recall=beside(exact.closeness.recall, rows, of_train=True),
        coverage=beside(exact.closeness.coverage, rows, of_train=True),
    )
    if use is not None and exact.use is not None:
        tested = exact.use.tested
        accuracy = beside(exact.use.accuracy, tested, of_train=True)
        use = replace(use, chance=_Grid(tested, at_least).share(exact.use.chance), accuracy=accuracy)
    half = max(min(held, ROWS) // 2, 1)
    nearness = tuple(
        replace(r, close_ceiling=share_of(_Grid(half, at_least).share(e.close_ceiling.value), half))
        for r, e in zip(rounded.nearness, exact.nearness, strict=True)
    )
    ceiling = exact.identical_ceiling
    return replace(
        rounded,
        rows=(rounded.rows[0], rounded.rows[1], exact.rows[2]),
        closeness=near,
        use=use,
        nearness=nearness,
        identical_ceiling=None if ceiling is None else _Grid(held, at_least).share(ceiling),
    )


def _learning(exact: Learning) -> Learning:
    """A curve as coarse as it may be drawn: three decimals, and a thousandth of its height at least.

    A score is a mean over rows that were kept aside, and may be of any size, so that decimals alone bound nothing.
    """
    curve = exact.curve
    if curve is None:
        return exact
    least = max(10.0**-DECIMALS, (max(curve.scores) - min(curve.scores)) / 1000)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
    scores = tuple(round(round(score / step) * step, DECIMALS) for score in curve.scores)
    return replace(exact, curve=replace(curve, scores=scores))


def _column(rounded: ColumnFidelity, exact: ColumnFidelity, train: _Grid, holdout: _Grid) -> ColumnFidelity:
    return replace(
        rounded,
        shape_error=_error(exact.shape_error),
        missing_real=train.share(exact.missing_real),
        missing_holdout=holdout.share(exact.missing_holdout),
        lost=tuple((label, train.share(share)) for label, share in exact.lost),
        pooled=train.share(exact.pooled),
        taken_holdout=None if exact.taken_holdout is None else holdout.share(exact.taken_holdout),
        # How many categories are how rare: the gate has read it, and nothing shows it.
        sizes=(),
    )


def _overlay(exact: Overlay, train: _Grid) -> Overlay:
    return replace(
        exact,
        real=tuple(train.share(v) for v in exact.real),
        synthetic=tuple(round(v, 4) for v in exact.synthetic),
    )


def _fairness(rounded: Fairness, exact: Fairness, train: _Grid, holdout: _Grid) -> Fairness:
    groups = tuple(
        replace(r, real=train.share(e.real), holdout=holdout.share(e.holdout))
        for r, e in zip(rounded.groups, exact.groups, strict=True)
    )
    return replace(rounded, rows=(rounded.rows[0], exact.rows[1]), groups=groups)


def _attacks(rounded: Attacks, rows: int, holdout: _Grid) -> Attacks:
    """Copies by chance are a share of the held-out rows, and stand elsewhere, too; their interval follows from it."""

    def told(attack: Attack) -> Attack:
        if attack.name != "copies":
            return attack
        chance = holdout.share(attack.control)
        beyond = risk(attack.success, max(attack.guesses, 1), chance, max(rows, 1))
        return replace(attack, control=chance, risk=beyond)

    return replace(rounded, done=tuple(told(a) for a in rounded.done))


def _inference(exact: Inference, at_least: int) -> Inference:
    return replace(exact, regressions=tuple(_regression(r, at_least) for r in exact.regressions))


def _regression(exact: Regression, at_least: int) -> Regression:
    beside = exact.rows_holdout / max(exact.rows, 1)
    return replace(
        exact,
        rows=_rounded(exact.rows, at_least),
        rows_holdout=_rounded(exact.rows_holdout, at_least),
        coefficients=tuple(_coefficient(c, at_least, beside) for c in exact.coefficients),
    )


def _coefficient(exact: Coefficient, at_least: int, beside: float) -> Coefficient:
    """What follows from the intervals, as their overlap, follows from the coarse ones."""
    fewer = exact.rows * beside
    return replace(
        exact,
        rows=_rounded(exact.rows, at_least),
        real=interval_of(exact.real, exact.rows, at_least),
        synthetic=None if exact.synthetic is None else interval_of(exact.synthetic, math.inf, 0),
        part=None if exact.part is None else interval_of(exact.part, fewer, at_least),
        holdout=None if exact.holdout is None else interval_of(exact.holdout, fewer, at_least),
    )


def interval_of(exact: Interval, rows: float, at_least: int) -> Interval:
    """A coefficient that rests on so many rows, such that it hardly resolves fewer than `at_least` of them.

    A standard error shrinks with the root of the rows, so that what one row of n moves a coefficient by is about its
    standard error over √n, and what `at_least` rows move it by is that many times as much. Coefficients are rounded to
    the next of 1, 2 or 5 times a power of ten above that, and three decimals; standard errors to two digits.
    """
    error = float(f"{exact.error:.1e}")
    step = max(10.0**-DECIMALS, error * at_least / math.sqrt(max(rows, 1.0)))
    power = 10.0 ** math.floor(math.log10(step))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))
    value = round(round(exact.value / step) * step, 9)
    return Interval(value=value, error=max(error, 10.0**-DECIMALS))


def _finding(finding: Finding, *, decimals: int) -> Finding:
    digits = 2 + decimals
    value, limit = (None if v is None else round(v, digits) for v in (finding.value, finding.limit))
    return replace(finding, message=_percents(finding.message, decimals), value=value, limit=limit)


def _percents(text: str, decimals: int) -> str:
    """Percentages with so many decimals.

    Examples:
        >>> _percents("12.34 % of the rows, 0.0384 % of others, 50 % allowed", 1)
        '12.3 % of the rows, less than 0.1 % of others, 50 % allowed'
    """

    def fewer(found: re.Match[str]) -> str:
        value, least = float(found[1]), 10.0**-decimals
        return f"less than {least:g}" if 0 < value < least / 2 else f"{value:.{decimals}f}"

    return re.sub(r"(?<![\d.])(\d+\.\d+)(?= %)", fewer, text)
