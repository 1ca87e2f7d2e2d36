"""Gates: evidence × thresholds → a verdict.

Every threshold is one `Measure`: a value and the limit that it must not pass. A limit has two parts: what a release
may lose, which a recipe can set, and what sampling alone takes or gives, which follows from the numbers of rows and
from the ceiling, so that real rows in place of synthetic ones pass, however few they are (docs/evidence.md derives and
`benchmarks/gate.py` simulates it). `verdict` compares them; `validation.expectations` lets Great Expectations compare
those of fidelity.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy import stats

from privacy.estimate import Z_SURE, wilson
from privacy.shadows import AT_RANDOM, EXPOSED
from validation.markup import one_line

if TYPE_CHECKING:
    from privacy.attacks import Attack, Attacks
    from validation.detection import Detection
    from validation.evidence import Evidence
    from validation.expectations import Check
    from validation.fairness import Fairness
    from validation.fidelity import ColumnFidelity, Fidelity
    from validation.images import ImageEvidence
    from validation.noised import Noised, Score
    from validation.noised_images import NoisedImages
    from validation.structure import Structure
    from validation.utility import Utility

Level = Literal["critical", "warning"]

ATTACKS = {
    "near copies": "near_copies",
    "membership": "membership",
    "membership, most exposed": "membership",
    AT_RANDOM: "membership",
    EXPOSED: "membership",
    "singling out by one value": "singling_out",
    "singling out by several values": "singling_out",
    "linkability": "linkability",
    "linkability, most exposed": "linkability",
    "inference": "inference",
    "inference, most exposed": "inference",
}
"""The rule that an attack is held to. Copies have a rule of their own; the distance is a smoke test."""

_OF_ALL = ("membership", AT_RANDOM)
"""Attacks on the membership of anybody, and not of the few who are most exposed."""

CRITICAL = (
    "schema", "copies", "images", *dict.fromkeys(ATTACKS.values()), "category", "group", "missing", "association",
    "shape", "repeats", "utility",
)  # fmt: skip
"""The rules that refuse a release unless a recipe says `warn_only`."""

LISTED = 10
"""Findings of one rule that are listed one by one; the others are counted."""

INFORMED = 0.2
"""Shared information of two columns from which on it is watched."""

ERRORS = 3.0
"""Standard errors that sampling is allowed beyond a limit."""

LOST_BY_CHANCE = 5e-3
"""A category counts as lost where real rows would lose one so common in fewer tables than this."""

NOISED_SHARE = 0.05
"""Under privacy, the share from which on a category is no artefact of noise."""


class GateRules(BaseModel):
    """Thresholds of the gate: what is critical refuses a release, what warns is only said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    copies_z: Annotated[
        float, Field(gt=0, description="exact copies above chance, in standard errors; critical")
    ] = 4.0
    leaked_share: Annotated[
        float,
        Field(ge=0, lt=1, description="near copies and members found beyond chance, as a share; critical"),
    ] = 0.01
    attack_risk: Annotated[
        float,
        Field(ge=0, lt=1, description="what other attacks win of what chance leaves, as a share; critical"),
    ] = 0.05
    membership_auc: Annotated[
        float, Field(ge=0.5, lt=1, description="area under the curve of membership inference; critical")
    ] = 0.6
    category_units: Annotated[
        int,
        Field(ge=1, description="a category of so many training units must not be lost; critical"),
    ] = 10
    group_share: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="two categories together in this share of the rows must not be lost; critical",
        ),
    ] = 0.01
    missing_points: Annotated[
        float, Field(gt=0, le=100, description="missing rate off by more percentage points; critical")
    ] = 5.0
    association_at_least: Annotated[
        float,
        Field(gt=0, le=1, description="a column's strongest association is watched from this strength on"),
    ] = 0.1
    pair_at_least: Annotated[
        float, Field(gt=0, le=1, description="any two columns' association is watched from this strength on")
    ] = 0.3
    association_kept: Annotated[
        float,
        Field(ge=0, le=1, description="share of a watched association that is kept; critical"),
    ] = 0.5
    shape_points: Annotated[
        float, Field(gt=0, description="column shape score below its ceiling by more points; warns")
    ] = 5.0
    shape_lost: Annotated[
        float, Field(gt=0, description="column shape score below its ceiling by more points; critical")
    ] = 25.0
    trend_points: Annotated[
        float, Field(gt=0, description="pair trend score below its ceiling by more points; warns")
    ] = 10.0
    dependency_points: Annotated[
        float,
        Field(
            gt=0, description="rows that break an order or dependency of columns, more by more points; warns"
        ),
    ] = 5.0
    detection_auc: Annotated[
        float, Field(ge=0.5, le=1, description="area under the curve of the two-sample test; warns")
    ] = 0.75
    utility_kept: Annotated[
        float,
        Field(
            ge=0, le=1,
            description="share of what real rows teach that synthetic rows teach; critical for named targets",
        ),
    ] = 0.5  # fmt: skip
    group_kept: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of its share that a protected group keeps, the four-fifths rule; warns",
        ),
    ] = 0.8
    fairness_points: Annotated[
        float,
        Field(
            gt=0, le=100, description="a gap in error rates of protected groups wider by more points; warns"
        ),
    ] = 5.0
    warn_only: Annotated[
        tuple[str, ...], Field(description="names of critical rules that shall only warn here")
    ] = ()

    @field_validator("warn_only")
    @classmethod
    def _known_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for rule in value:
            if rule not in CRITICAL:
                raise ValueError(f"a rule must be one of {', '.join(sorted(CRITICAL))}, however: {rule!r}")
        return value


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A value and the limit that it must not pass: it holds where ``value <= limit``.

    Attributes:
        rule: copies, images, one of `ATTACKS`, attacks, category, group, missing, association, shape, trend, detection,
            utility, representation or fairness.
        level: what it means if it does not hold.
        columns: the columns that it is about; empty for the table.
        value: what was measured.
        limit: what is allowed, sampling error included.
        message: what to say if it does not hold: rule, fact, remedy.
    """

    rule: str
    level: Level
    columns: tuple[str, ...]
    value: float
    limit: float
    message: str

    @property
    def holds(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


Outcome = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A noised figure, held against its limit: what is lost, and the ends of the interval of that.

    Attributes:
        rule: shape, trend, association or utility.
        level: what it means if it fails.
        columns: what it is about: none for the table, one for a column or a column's pairs, two for a pair.
        value: what was estimated.
        low: lower end of its interval.
        high: upper end of its interval.
        limit: what is allowed.
        about: the same in words.
    """

    rule: str
    level: Level
    columns: tuple[str, ...]
    value: float
    low: float
    high: float
    limit: float
    about: str

    @property
    def outcome(self) -> Outcome:
        """Pass or fail where the whole interval lies on one side of the limit."""
        return "pass" if self.high <= self.limit else "fail" if self.low > self.limit else "undecided"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule that was broken, or may be: by which columns, and by how much.

    `undecided` says that a noised figure does not tell whether the rule is broken; then it only warns.
    """

    rule: str
    level: Level
    columns: tuple[str, ...]
    message: str
    value: float | None
    limit: float | None
    undecided: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the evidence says of a release: broken rules, critical ones first; and how noised figures were judged."""

    findings: tuple[Finding, ...]
    judged: tuple[Judged, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no critical rule is broken."""
        return not self.critical

    @property
    def critical(self) -> tuple[Finding, ...]:
        """The findings that refuse the release."""
        return tuple(f for f in self.findings if f.level == "critical")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are only said."""
        return tuple(f for f in self.findings if f.level == "warning")

    @property
    def summary(self) -> str:
        """One line: passed, or the first critical rule with its column."""
        if self.passed:
            count, open_ones = len(self.warnings), sum(f.undecided for f in self.warnings)
            left = f", {open_ones} of them undecided because of noise" if open_ones else ""
            return "passed" + (f" with {count} warning{'s' * (count > 1)}{left}" if count else "")
        first, more = self.critical[0], len(self.critical) - 1
        where = f" ({', '.join(one_line(c) for c in first.columns[:3])})" if first.columns else ""
        rest = f"; and {more} more" if more else ""
        return f"refused by {first.rule}{where}: {one_line(first.message)}{rest}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, with `passed` and `summary` for the reader."""
        findings = [{**asdict(f), "columns": list(f.columns)} for f in self.findings]
        judged = [{**asdict(j), "columns": list(j.columns), "outcome": j.outcome} for j in self.judged]
        return {"passed": self.passed, "summary": self.summary, "findings": findings, "judged": judged}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Verdict":
        """The inverse of `to_dict`."""
        judged = ({k: v for k, v in j.items() if k != "outcome"} for j in data.get("judged", ()))
        return cls(
            findings=tuple(Finding(**{**f, "columns": tuple(f["columns"])}) for f in data["findings"]),
            judged=tuple(Judged(**{**j, "columns": tuple(j["columns"])}) for j in judged),
        )


def verdict(
    fidelity: "Fidelity | None",
    checks: "Iterable[Check]",
    rules: GateRules,
    attacks: "Attacks | None" = None,
    *,
    detection: "Detection | None" = None,
    utility: "Utility | None" = None,
    fairness: "Fairness | None" = None,
    noised: "Noised | None" = None,
    noised_images: "NoisedImages | None" = None,
    images: "ImageEvidence | None" = None,
    structure: "Structure | None" = None,
) -> Verdict:
    """What the evidence says of a release.

    Args:
        fidelity: how close the synthetic table is; None leaves the fidelity rules out.
        checks: what Great Expectations found; the failed ones count.
        rules: the thresholds.
        attacks: what attackers achieved; None leaves their rules out.
        detection: how well trees tell rows apart; None leaves that rule out.
        utility: what models learned; None leaves that rule out.
        fairness: how groups of protected columns fare; None leaves those rules out.
        noised: under privacy, how close the table is to rows that were counted anew; None leaves those rules out.
        noised_images: under privacy, how its images look beside real ones; None leaves that rule out.
        images: whether images are copies, and what they are good for; None leaves those rules out.
        structure: whether dependencies of columns are kept; None leaves that rule out.
    """
    held = measures(fidelity, rules) if fidelity is not None else ()
    held = (*held, *exposures(attacks, rules)) if attacks is not None else held
    held = (*held, *_models(detection, utility, rules))
    held = (*held, *_fairness(fairness, rules)) if fairness is not None else held
    held = (*held, *_images(images, rules)) if images is not None else held
    held = (*held, *_dependencies(structure, rules)) if structure is not None else held
    if structure is not None and fidelity is not None:
        held = (*held, *_patterns(structure, fidelity, rules))
    # The same rule for the same columns is said once: of rows and facts, the facts, which come later.
    said = {_what(f): f for f in (_checked(c) for c in checks if not c.success)}
    said |= {_what(f): f for f in (_finding(m) for m in held if not m.holds)}
    judged = tuple(_judged(noised, rules)) if noised is not None else ()
    judged = (*judged, *_known(noised_images, rules)) if noised_images is not None else judged
    said |= {_what(f): f for f in _judgements(judged)}
    found = [*_worst(said.values())]
    found = [replace(f, level="warning") if f.rule in rules.warn_only else f for f in found]
    order = {rule: at for at, rule in enumerate(CRITICAL)}
    found.sort(key=lambda f: (f.level != "critical", order.get(f.rule, len(order)), -_excess(f)))
    critical = [f for f in found if f.level == "critical"]
    return Verdict(
        findings=(*critical, *_shortened([f for f in found if f.level == "warning"])), judged=judged
    )


def verdict_on(evidence: "Evidence", checks: "Iterable[Check]", rules: GateRules) -> Verdict:
    """What all of the evidence says of a release; see `verdict`."""
    return verdict(
        evidence.fidelity, checks, rules, evidence.attacks,
        detection=evidence.detection, utility=evidence.utility, fairness=evidence.fairness,
        noised=evidence.noised, noised_images=evidence.noised_images, images=evidence.images,
        structure=evidence.structure,
    )  # fmt: skip


ASKED = frozenset(
    {
        "shape",
        "trend",
        "association",
        "information",
        "dependency",
        "group",
        "category",
        "utility",
        "representation",
        "fairness",
    }
)
"""Rules about what columns have to do with each other, what one teaches of another, or how common their values are."""


def as_asked(found: Verdict, columns: Collection[str]) -> Verdict:
    """The verdict where a recipe asked for parity of these columns: that they differ so is no ground to refuse.

    Of findings about these columns alone, those of `ASKED` are said as warnings which name the reason. What follows for
    other columns is judged as ever.
    """
    findings = [
        # What to try against it is of no use to somebody who asked for it.
        replace(
            f,
            level="warning",
            message=f"asked for by parity, so not refused: {f.message.rpartition('; ')[0] or f.message}",
        )
        if f.rule in ASKED and f.columns and set(f.columns) <= set(columns)
        else f
        for f in found.findings
    ]
    findings.sort(key=lambda f: f.level != "critical")
    return replace(found, findings=tuple(findings))


def _worst(found: Iterable[Finding]) -> Iterator[Finding]:
    """Without the warnings about what is critical already."""
    found = list(found)
    grave = {(f.rule, f.columns) for f in found if f.level == "critical"}
    yield from (f for f in found if f.level == "critical" or f.undecided or (f.rule, f.columns) not in grave)


def measures(fidelity: "Fidelity", rules: GateRules) -> tuple[Measure, ...]:
    """Every threshold of fidelity, with the value that it is held against.

    copies: the share of synthetic rows that equal a training row must not be more than `copies_z` standard
        errors of the difference of two proportions (at least one row's worth) above that of held-out rows and of
        training rows beside the others, or, where a unique column lies on a grid, above that of synthetic rows moved
        by one step of it. Counted are copies of rows that few training units share: copies of common ones are what
        chance gives where few distinct rows exist, and tell of nobody. Evidence without these is judged by all copies.
    category: no category of `category_units` is lost, unless so few rows were drawn, or so many categories are as
        rare, that chance explains it (`lost_by_chance`); then it warns from a hundredth of the rows on.
    group: no two categories that `group_share` of the rows have together are never together.
    repeats: rows equal each other at most `shape_lost` points more often than real ones.
    missing: the missing rate stays within `missing_points` and three standard errors, and is not 0 where as many
        values as of a category are missing; warns at a fifth of that.
    association: a column whose strongest association is `association_at_least` keeps `association_kept` of it, less
        sampling error; and so does any pair from `pair_at_least` on. Asked only where the held-out rows keep it, too.
    information: the same of what two columns tell of each other, from `INFORMED` on; warns.
    shape, trend: warn where a score lies further below what real rows would score than the points allow; a shape
        further than `shape_lost` is critical.
    """
    if fidelity.rows_synthetic == 0 or fidelity.rows_train == 0:
        return (*_copies(fidelity, rules), *_trends(fidelity, rules))
    return (
        *_copies(fidelity, rules),
        *(m for c in fidelity.columns for m in _column(c, fidelity, rules)),
        *_groups(fidelity, rules),
        *_associations(fidelity, rules),
        *_trends(fidelity, rules),
        *_repeats(fidelity, rules),
    )


def lost_by_chance(units: float, fidelity: "Fidelity") -> float:
    """Categories of so many training rows, or more, that real rows in place of the synthetic ones are expected to lose.

    A category that λ training rows are expected to have is seen `units` times or more and then never with probability
    P(Poisson(λ) ≥ units) e^(−λr), r synthetic rows for each training row; this is summed over all categories of the
    table, whose λ are their counts, by powers of two (`ColumnFidelity.sizes`).
    """
    ratio = fidelity.rows_synthetic / max(fidelity.rows_train, 1)
    sizes = [sum(c.sizes[i] for c in fidelity.columns if len(c.sizes) > i) for i in range(40)]
    return sum(
        n * float(stats.poisson.sf(units - 1, 1.5 * 2**i)) * math.exp(-1.5 * 2**i * ratio)
        for i, n in enumerate(sizes)
    )


def exposures(attacks: "Attacks", rules: GateRules) -> tuple[Measure, ...]:
    """Every ceiling of an attack, with the lower end of what it won beyond chance, if it won anything for certain.

    near_copies, membership: at most `leaked_share`; of the most exposed rows, which are few, at most `attack_risk`.
        The area under the curve of membership is at most `membership_auc`.
    singling_out, linkability, inference: at most `attack_risk`.
    attacks: warn where none was tried.
    """
    if not attacks.done:
        why = next(iter(attacks.skipped.values()), "none was tried")
        message = f"a release should be attacked, however: {why}; hold out more rows"
        return (Measure(rule="attacks", level="warning", columns=(), value=1.0, limit=0.0, message=message),)
    return tuple(m for a in attacks.done if a.name in ATTACKS for m in _attack(a, rules))


def _attack(attack: "Attack", rules: GateRules) -> Iterator[Measure]:
    rule, remedy = (
        ATTACKS[attack.name],
        "raise `at_least`, or fit fewer steps or components, or a smaller model",
    )
    ceiling = rules.leaked_share if attack.name in ("near copies", *_OF_ALL) else rules.attack_risk
    yield Measure(
        rule=rule, level="critical", columns=(), value=attack.risk.proven(0.0), limit=ceiling,
        message=f"an attack may win {_percent(ceiling)} of what chance leaves, however: {attack.name} wins "
        f"{_percent(attack.risk.value)}, at least {_percent(attack.risk.low)} by its 95 % interval; {remedy}",
    )  # fmt: skip
    if attack.auc is not None and attack.name in _OF_ALL:
        yield Measure(
            rule=rule, level="critical", columns=(), value=attack.auc.proven(0.5), limit=rules.membership_auc,
            message=f"members may be told from others with an area under the curve of {rules.membership_auc:g}, "
            f"however: {attack.name} has {attack.auc.value:.2f}, at least {attack.auc.low:.2f} by its 95 % interval; "
            f"{remedy}",
        )  # fmt: skip


def _copies(fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    if fidelity.copies is None:
        return
    if fidelity.copies_holdout is None:
        yield Measure(
            rule="copies", level="warning", columns=(), value=fidelity.copies, limit=0.0,
            message="copies are held against those of held-out rows, however: there are none; set `holdout`",
        )  # fmt: skip
        return
    value, holdout, moved = fidelity.copies, fidelity.copies_holdout, fidelity.copies_moved
    twins = fidelity.copies_twins
    if fidelity.copies_rare is not None and fidelity.copies_rare_holdout is not None:
        value, holdout, moved = fidelity.copies_rare, fidelity.copies_rare_holdout, fidelity.copies_rare_moved
        twins = fidelity.copies_rare_twins
    # Twins come in pairs, so two training rows tell as much as one held-out row.
    beside_rows = 0.0 if twins is None else fidelity.rows_train / 2
    rows_chance = fidelity.rows_holdout + beside_rows
    chance = (holdout * fidelity.rows_holdout + (twins or 0.0) * beside_rows) / rows_chance
    limit = _chance(value, chance, (fidelity.rows_synthetic, rows_chance), z=rules.copies_z)
    beside = ""
    if moved is not None:
        rows = (fidelity.rows_synthetic, fidelity.rows_synthetic)
        limit = max(limit, _chance(value, min(1.0, moved + chance), rows, z=rules.copies_z))
        beside = f"{_percent(moved)} a step beside, "
    yield Measure(
        rule="copies", level="critical", columns=(), value=value, limit=limit,
        message=f"exact copies of training rows must not be more than chance gives, however: "
        f"{_percent(value)} of the rows are, {_percent(holdout)} of the held-out rows, {beside}at most "
        f"{_percent(limit)} allowed; fit fewer steps or components, or a smaller model",
    )  # fmt: skip


def _chance(copies: float, chance: float, rows: tuple[float, float], *, z: float) -> float:
    """The largest share of copies that chance explains (two-proportion z-test, pooled)."""
    n, m = rows
    pooled = (copies * n + chance * m) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return chance + z * max(error, 1 / n)


def _column(column: "ColumnFidelity", fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    yield from _categories(column, fidelity, rules)
    yield from _missing(column, fidelity, rules)
    if column.taken is not None and column.taken_holdout is not None and not fidelity.noised:
        rows = (fidelity.rows_synthetic, fidelity.rows_holdout)
        limit = _chance(column.taken, column.taken_holdout, rows, z=rules.copies_z) + rules.leaked_share
        yield Measure(
            rule="copies", columns=(column.name,), value=column.taken, limit=limit, level="critical",
            message=f"texts must not be taken from the real rows more often than chance gives, however: "
            f"{_percent(column.taken)} of the values of {column.name!r} are some training row's, "
            f"{_percent(column.taken_holdout)} of the held-out ones; make the column up or leave it out",
        )  # fmt: skip
    if column.shape is not None and column.shape_ceiling is not None:
        yield from _shape(column, column.shape, column.shape_ceiling, fidelity, rules)


def _categories(column: "ColumnFidelity", fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    for category, share in column.lost:
        units, chance = share * fidelity.rows_train, (1 - share) ** fidelity.rows_synthetic
        if fidelity.noised:
            grave = share >= NOISED_SHARE and chance < LOST_BY_CHANCE
        else:
            # A count comes back from a share with the error of a float.
            grave = (
                units > rules.category_units - 0.5
                and max(chance, lost_by_chance(round(units), fidelity)) < LOST_BY_CHANCE
            )
        if not grave and share < 0.01:
            continue
        yield Measure(
            rule="category", columns=(column.name,), value=share, limit=0.0, level="critical" if grave else "warning",
            message=f"a category of {rules.category_units} training units must not be lost, however: "
            f"{column.name!r} never has {category!r}, which {_percent(share)} of the training rows have; "
            f"give the model more components or epochs, or release more rows",
        )  # fmt: skip


def _shape(
    column: "ColumnFidelity", shape: float, ceiling: float, fidelity: "Fidelity", rules: GateRules
) -> Iterator[Measure]:
    # What disclosure control keeps back may be worth a warning, and is not asked of a release.
    levels: tuple[tuple[Level, float, float], ...] = (
        ("warning", rules.shape_points, shape),
        ("critical", rules.shape_lost, min(1.0, shape + column.pooled)),
    )
    pooled = f", {_percent(column.pooled)} of its values are too rare to be released" if column.pooled else ""
    for level, most, score in levels:
        value, noise = _beyond_chance(score, ceiling, fidelity)
        yield Measure(
            rule="shape", level=level, columns=(column.name,), value=value, limit=most / 100 + noise,
            message=f"a column's shape should lie at most {most:g} points, and chance, below what real rows would "
            f"score, however: {column.name!r} lies {100 * value:.1f} below, of {most + 100 * noise:.1f} that are "
            f"allowed (it scores {100 * shape:.1f}, held-out rows {100 * ceiling:.1f}{pooled}); look at its overlay, "
            "declare its kind, or leave out a column that is rarely filled",
        )  # fmt: skip


def _beyond_chance(score: float, ceiling: float, fidelity: "Fidelity") -> tuple[float, float]:
    """How far a score lies below what as many real rows would score, and what sampling adds to that.

    Distances between two samples of n and m rows of one table shrink like √(1/n + 1/m), so the ceiling, of as many
    rows as are held out, says what as many rows as are synthetic would score. Kolmogorov–Smirnov and total-variation
    distances have standard deviations of at most 0.3 √(1/n + 1/m); three of each side are allowed.
    """
    own = 1 / fidelity.rows_train + 1 / fidelity.rows_synthetic
    beside = 1 / fidelity.rows_train + 1 / max(fidelity.rows_holdout, 1)
    scale = math.sqrt(own / beside)
    expected = min(1.0, (1 - ceiling) * scale)
    return 1 - score - expected, 1.8 * math.sqrt(own)


def _groups(fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    for group in fidelity.groups:
        # A table of so large groups has no more of them than pairs of columns times 1 / share.
        tried = max(len(fidelity.pairs), 1) / group.share
        grave = (
            group.share >= rules.group_share
            and tried * math.exp(-group.share * fidelity.rows_synthetic) < LOST_BY_CHANCE
        )
        first, second = group.columns
        yield Measure(
            rule="group", columns=group.columns, value=group.share, limit=0.0, level="critical" if grave else "warning",
            message=f"a group of {_percent(rules.group_share)} of the rows must not be lost, however: no row has both "
            f"{group.values[0]!r} in {first!r} and {group.values[1]!r} in {second!r}, as {_percent(group.share)} of "
            f"the training rows have; learn longer or with a larger model, or choose another synthesizer",
        )  # fmt: skip


def _missing(column: "ColumnFidelity", fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    p, q = column.missing_real, column.missing_synthetic
    error = math.sqrt(p * (1 - p) * (1 / fidelity.rows_train + 1 / fidelity.rows_synthetic))
    remedy = "check its kind and `nullable` in the schema, or learn longer or with a larger model"
    by_chance = len(fidelity.columns) * (1 - p) ** fidelity.rows_synthetic
    if q == 0 and p * fidelity.rows_train > rules.category_units - 0.5 and not fidelity.noised:
        yield Measure(
            rule="missing", level="critical" if by_chance < LOST_BY_CHANCE else "warning", columns=(column.name,),
            value=p, limit=0.0,
            message=f"missing values must not be gone, however: {column.name!r} has none, and {_percent(p)} missing in "
            f"the training rows; {remedy}",
        )  # fmt: skip
    levels: tuple[tuple[Level, float], ...] = (
        ("warning", rules.missing_points / 5),
        ("critical", rules.missing_points),
    )
    beside = "the training rows'"
    if fidelity.noised:
        # A count that noise was added to refuses nothing: of few rows the noise is the larger part of it.
        levels = (("warning", rules.missing_points),)
        beside, remedy = (
            "a noised count of them",
            "with few rows this is noise; give the profile a larger share, or more epsilon",
        )
    for level, most in levels:
        yield Measure(
            rule="missing", level=level, columns=(column.name,), value=abs(q - p), limit=most / 100 + ERRORS * error,
            message=f"a missing rate must be within {most:g} points of {beside}, "
            f"however: {column.name!r} has {_percent(q)} missing, not {_percent(p)}; {remedy}",
        )  # fmt: skip


def _associations(fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    """Each column's strongest, then all other strong ones; no pair twice."""
    held: set[frozenset[str]] = set()
    for c in fidelity.columns:
        if c.strongest is None or (pair := frozenset((c.name, c.strongest))) in held:
            continue
        held.add(pair)
        if c.association_real >= rules.association_at_least:
            strengths = (c.association_real, c.association_synthetic, c.association_holdout)
            yield from _association((c.name, c.strongest), strengths, fidelity, rules)
    for p in fidelity.pairs:
        if p.association_real >= rules.pair_at_least and frozenset((p.first, p.second)) not in held:
            strengths = (p.association_real, p.association_synthetic, p.association_holdout)
            yield from _association((p.first, p.second), strengths, fidelity, rules)
        # What has no direction, as a square has none, is no association.
        real, synthetic, holdout = p.information_real, p.information_synthetic, p.information_holdout
        if real is not None and synthetic is not None and real >= INFORMED:
            known = (real, synthetic, 0.0 if holdout is None else holdout)
            yield from _association((p.first, p.second), known, fidelity, rules, rule="information")


def _association(
    names: tuple[str, str],
    strengths: tuple[float, float, float],
    fidelity: "Fidelity",
    rules: GateRules,
    *,
    rule: str = "association",
) -> Iterator[Measure]:
    """As a loss, so that more is worse: real − synthetic against what may be lost."""
    (real, synthetic, holdout), kept = strengths, rules.association_kept
    if fidelity.rows_holdout > 0 and holdout < kept * real:
        return
    error = math.sqrt(1 / fidelity.rows_train + 1 / fidelity.rows_synthetic)
    what = (
        "its strongest association, and each strong one"
        if rule == "association"
        else "what it tells of another"
    )
    yield Measure(
        rule=rule, level="critical" if rule == "association" else "warning", columns=names,
        value=real - synthetic, limit=(1 - kept) * real + ERRORS * error,
        message=f"a column must keep {_percent(kept)} of {what}, however: "
        f"{names[0]!r} with {names[1]!r} falls from {real:.2f} to {synthetic:.2f}; "
        f"learn longer or with a larger model, or choose another synthesizer",
    )  # fmt: skip


def _repeats(fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    """A model that has few rows to give gives them again and again.

    Where values are few or lie on a grid, honest rows repeat each other, too: of n rows that are drawn from n different
    ones with replacement, 1 − 1/e do.
    """
    if fidelity.repeats is None or fidelity.repeats_real is None or fidelity.noised:
        return
    rows = min(fidelity.rows_train, fidelity.rows_synthetic)
    p = fidelity.repeats_real
    yield Measure(
        rule="repeats", level="critical", columns=(), value=fidelity.repeats - p,
        limit=max(rules.shape_lost / 100, 1 - 1 / math.e - p) + ERRORS * math.sqrt(2 * 0.25 / rows),
        message="rows must not equal each other more often than real ones, and than these drawn anew, would, however: "
        f"{_percent(fidelity.repeats)} of the synthetic rows equal another one, {_percent(p)} of as many real ones; "
        "the model has collapsed: learn longer, with a larger model, or choose another synthesizer",
    )  # fmt: skip


def _trends(fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    for pair in fidelity.pairs if fidelity.rows_synthetic and fidelity.rows_train else ():
        if pair.trend is None or pair.trend_ceiling is None:
            continue
        value, noise = _beyond_chance(pair.trend, pair.trend_ceiling, fidelity)
        yield Measure(
            rule="trend", level="warning", columns=(pair.first, pair.second),
            value=value, limit=rules.trend_points / 100 + noise,
            message=f"a pair's trend should come within {rules.trend_points:g} points, and chance, of what as many "
            f"real rows would score, however: {pair.first!r} with {pair.second!r} scores {100 * pair.trend:.1f}, they "
            f"{100 * (pair.trend + value):.1f}, of which {100 * (rules.trend_points / 100 + noise):.1f} may be lost; "
            "learn longer or with a larger model, or choose another synthesizer",
        )  # fmt: skip


def _patterns(structure: "Structure", fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    """missing: the columns that are missing together should be as many times, as a shape should be one."""
    levels: tuple[tuple[Level, float], ...] = (
        ("warning", rules.shape_points),
        ("critical", rules.shape_lost),
    )
    for f in structure.figures:
        if f.measure != "missing patterns" or f.ceiling is None:
            continue
        value, noise = _beyond_chance(f.synthetic, f.ceiling, fidelity)
        for level, most in levels:
            yield Measure(
                rule="missing", level=level, columns=(), value=value, limit=most / 100 + noise,
                message=f"which columns are missing together must be alike in all but {most:g} of 100 rows, and "
                f"chance, however: it is in {_percent(f.synthetic)}, of {_percent(f.ceiling)} among real rows; state "
                "under `constraints:` which columns are missing together, or learn longer or with a larger model",
            )  # fmt: skip


def _dependencies(structure: "Structure", rules: GateRules) -> Iterator[Measure]:
    """Warns where rows break by `dependency_points` more, and chance, what real rows keep of two columns."""
    for f in structure.figures:
        if f.beside is None or f.column is None:
            continue
        shares = (f.synthetic, f.ceiling if f.ceiling is not None else 1.0)
        # One row more that breaks it, so that few rows which all keep it are not taken for certain.
        parts = (((s * n + 0.5) / (n + 1), n + 1) for s, n in zip(shares, f.rows, strict=True))
        error = math.sqrt(sum(p * (1 - p) / n for p, n in parts))
        told = (
            f"{f.column!r} is at most {f.beside!r}"
            if f.measure == "order"
            else f"{f.beside!r} is what {f.column!r} says"
        )
        yield Measure(
            rule="dependency", level="warning", columns=(f.column, f.beside), value=shares[1] - shares[0],
            limit=rules.dependency_points / 100 + ERRORS * error,
            message=f"rows should keep what real rows keep of two columns, within {rules.dependency_points:g} points, "
            f"however: {told} in {_percent(shares[0])} of the rows, not {_percent(shares[1])}; state it under "
            "`constraints:` in the schema, then every row keeps it, or learn longer or with a larger model",
        )  # fmt: skip


def detections(detection: "Detection", rules: GateRules) -> tuple[Measure, ...]:
    """Warns where trees surely tell rows apart better than `detection_auc`."""
    worst = ", ".join(repr(name) for name, _ in detection.giveaways[:3]) or "no single column"
    found = Measure(
        rule="detection", level="warning", columns=tuple(name for name, _ in detection.giveaways[:3]),
        value=detection.auc.low, limit=rules.detection_auc,
        message=f"rows should be told apart with an area under the curve of {rules.detection_auc:g} at most, "
        f"however: trees reach {detection.auc.value:.2f}, by {worst}; look at their overlays and pairs",
    )  # fmt: skip
    return (found,)


def _models(detection: "Detection | None", utility: "Utility | None", rules: GateRules) -> Iterator[Measure]:
    """What models that looked at rows say.

    detection: see `detections`.
    utility: what a model surely loses of a target beyond chance must not be more than `utility_kept` leaves; critical
        for targets that somebody named, of the better kind of model.
    """
    if detection is not None:
        yield from detections(detection, rules)
    for task in utility.tasks if utility is not None else ():
        score = max(task.scores, key=lambda s: s.real.value)
        if score.real.surely <= task.guess:
            continue
        yield Measure(
            rule="utility", level="critical" if task.named else "warning", columns=(task.target,),
            value=score.gap.proven(0.0), limit=(1 - rules.utility_kept) * (score.real.value - task.guess),
            message=f"synthetic rows must teach {_percent(rules.utility_kept)} of what real rows teach, however: "
            f"{score.model} for {task.target!r} reach {task.measure} {score.synthetic.value:.2f} after synthetic rows, "
            f"{score.real.value:.2f} after real ones; learn longer, with a larger model, or by another synthesizer",
        )  # fmt: skip


def _fairness(fairness: "Fairness", rules: GateRules) -> Iterator[Measure]:
    """How protected groups fare.

    representation: warns where a group has less than `group_kept` of its share, less three standard errors.
    fairness: warns where a model's rates surely differ more between groups, by `fairness_points`, after synthetic rows.
    """
    rows = sum(1 / max(n, 1) for n in fairness.rows)
    for group in fairness.groups:
        who = " and ".join(f"{c!r} is {v!r}" for c, v in zip(group.columns, group.values, strict=True))
        yield Measure(
            rule="representation", level="warning", columns=group.columns, value=group.real - group.synthetic,
            limit=(1 - rules.group_kept) * group.real + ERRORS * math.sqrt(group.real * (1 - group.real) * rows),
            message=f"a protected group should keep {_percent(rules.group_kept)} of its share, however: where {who} "
            f"are {_percent(group.synthetic)} of the synthetic rows, {_percent(group.real)} of the training rows; "
            f"learn longer or with a larger model, or draw that group by a condition",
        )  # fmt: skip
    for gap in fairness.gaps:
        yield Measure(
            rule="fairness", level="warning", columns=(gap.column, gap.target), value=gap.wider.proven(0.0),
            limit=rules.fairness_points / 100,
            message=f"models should not err more differently about groups after synthetic rows than after real ones, "
            f"however: {gap.rate} for {gap.target!r} by {gap.column!r} differ by {gap.synthetic:.3f}, not "
            f"{gap.real:.3f}; learn longer or with a larger model, or choose another synthesizer",
        )  # fmt: skip


def _judged(noised: "Noised", rules: GateRules) -> Iterator[Judged]:
    """Every noised figure with its limit.

    shape: of the table and each column, at most `shape_points` below its ceiling; a column surely further than
        `shape_lost` is critical.
    trend: of the table, of each column's pairs together and of each pair, at most `trend_points` below; warns.
    association: a column must not surely have lost more than `association_kept` leaves; critical. Asked only where
        noise does not hide whether there is any association.
    """
    if noised.shape is not None:
        yield _lost("shape", "warning", (), noised.shape, rules.shape_points, "all columns together")
    if noised.trend is not None:
        yield _lost("trend", "warning", (), noised.trend, rules.trend_points, "all pairs together")
    for c in noised.columns:
        about = (c.name,)
        grave = _lost("shape", "critical", about, c.shape, rules.shape_lost, f"column {c.name!r}")
        mild = _lost("shape", "warning", about, c.shape, rules.shape_points, f"column {c.name!r}")
        yield grave if grave.outcome == "fail" else mild
        if c.trend is not None:
            told = f"the pairs of {c.name!r}"
            yield _lost("trend", "warning", about, c.trend, rules.trend_points, told)
        if c.kept is not None:
            yield Judged(
                rule="association", level="critical", columns=about, value=1 - c.kept.value,
                low=1 - c.kept.high, high=1 - c.kept.low, limit=1 - rules.association_kept,
                about=f"the pairs of {c.name!r}",
            )  # fmt: skip
    for p in noised.pairs:
        told = f"{p.first!r} with {p.second!r}"
        yield _lost("trend", "warning", (p.first, p.second), p.trend, rules.trend_points, told)


def _known(found: "NoisedImages", rules: GateRules) -> Iterator[Judged]:
    """A classifier of drawn images must not surely know less of real ones than `utility_kept` of that; warns."""
    if found.right is not None and found.right_drawn is not None and found.chance is not None:
        right, most = found.right, found.right_drawn
        yield Judged(
            rule="utility", level="warning", columns=(), value=most - right.value, low=most - right.high,
            high=most - right.low, limit=(1 - rules.utility_kept) * max(0.0, most - found.chance),
            about="a classifier of drawn images, shown real ones,",
        )  # fmt: skip


def _lost(
    rule: str, level: Level, columns: tuple[str, ...], score: "Score", most: float, about: str
) -> Judged:
    return Judged(
        rule=rule, level=level, columns=columns, value=score.ceiling - score.value,
        low=score.ceiling - score.high, high=score.ceiling - score.low, limit=most / 100, about=about,
    )  # fmt: skip


def _judgements(judged: Iterable[Judged]) -> Iterator[Finding]:
    """Each failure by itself; what is undecided is counted, by rule and by how many columns it is about."""
    judged = list(judged)
    for j in (j for j in judged if j.outcome == "fail"):
        yield Finding(
            rule=j.rule, level=j.level, columns=j.columns, value=j.value, limit=j.limit,
            message=f"noised figures must not surely lie beyond their limit, however: {j.about} lost between "
            f"{_percent(j.low)} and {_percent(j.high)} of {_LOST[j.rule]}, of {_percent(j.limit)} that may be lost; "
            "give the model more epsilon or a larger share, or choose another synthesizer",
        )  # fmt: skip
    for rule, number in dict.fromkeys((j.rule, len(j.columns)) for j in judged):
        alike = [j for j in judged if (j.rule, len(j.columns)) == (rule, number)]
        left = sorted((j for j in alike if j.outcome == "undecided"), key=lambda j: -j.high)
        if left:
            worst = left[0]
            yield Finding(
                rule=rule, level="warning", columns=worst.columns, value=worst.high, limit=worst.limit, undecided=True,
                message=f"noised figures should be decided, however: {len(left)} of {len(alike)} are undecided, of "
                f"which {worst.about} may have lost most of {_LOST[rule]}, up to {_percent(worst.high)} where "
                f"{_percent(worst.limit)} may be lost; give the report a larger share, or the release more epsilon",
            )  # fmt: skip


_LOST = {
    "shape": "the shape",
    "trend": "the trend",
    "association": "the association",
    "utility": "what it knows of drawn ones",
}


def _finding(measure: Measure) -> Finding:
    return Finding(
        rule=measure.rule,
        level=measure.level,
        columns=measure.columns,
        message=measure.message,
        value=measure.value,
        limit=measure.limit,
    )


def _checked(check: "Check") -> Finding:
    return Finding(
        rule=check.rule,
        level=check.level,
        columns=check.columns,
        message=check.message,
        value=float(check.observed) if isinstance(check.observed, int | float) else None,
        limit=float(check.limit) if isinstance(check.limit, int | float) else None,
    )


def _shortened(warnings: list[Finding]) -> Iterator[Finding]:
    """The `LISTED` worst of each rule, then one finding that counts the others."""
    for rule in dict.fromkeys(f.rule for f in warnings):
        of_rule = [f for f in warnings if f.rule == rule]
        yield from of_rule[:LISTED]
        if more := len(of_rule) - LISTED:
            if more < 0:
                continue
            yield Finding(
                rule=rule, level="warning", columns=(), value=float(more), limit=None,
                message=f"and {more} more of the rule {rule}; the report lists every column",
            )  # fmt: skip


_EACH = frozenset({"category", "group", "representation", "fairness"})
"""Rules that may be broken several times by the same columns."""


def _what(finding: Finding) -> tuple[str, tuple[str, ...], str]:
    """Rule, columns, and what the message demands; lost categories and groups differ in what they lack."""
    demand = finding.message if finding.rule in _EACH else finding.message.split(", however:")[0]
    return finding.rule, finding.columns, demand


def _excess(finding: Finding) -> float:
    return finding.value - finding.limit if finding.value is not None and finding.limit is not None else 0.0


def _images(found: "ImageEvidence", rules: GateRules) -> Iterator[Measure]:
    """Copies: more images lie close to a training image than held-out ones do, and nearer than to a held-out one.

    Smooth images lie close to all others, so the first alone means nothing.
    """
    made, held = found.rows[2], found.rows[1]
    chance = (
        wilson(found.identical_ceiling, held, Z_SURE)[1]
        if found.identical_ceiling is not None and held
        else 0.0
    )
    yield Measure(
        rule="images", level="critical", columns=(), limit=chance,
        value=wilson(found.identical, made)[0] if made else 0.0,
        message=f"synthetic images must not be training images, however: {_percent(found.identical)} are, pixel by "
        "pixel; choose another synthesizer",
    )  # fmt: skip
    if not found.nearness:
        yield Measure(
            rule="images", level="warning", columns=(), value=1.0, limit=0.0,
            message="images should be held against held-out ones, however: too few are held out to tell whether they "
            "lie too close to training images; hold out a hundred at least",
        )  # fmt: skip
    for near in found.nearness:
        copied = near.nearer.surely > 0.5 or found.identical > (found.identical_ceiling or 0.0)
        limit = near.close_ceiling.high
        yield Measure(
            rule="images", level="critical", columns=(), limit=limit,
            value=near.close.proven(limit) if copied else 0.0,
            message=f"synthetic images must not lie closer to training images than held-out ones do, however: in "
            f"{near.space} {_percent(near.close.value)} do, {_percent(near.close_ceiling.value)} of held-out ones, and "
            f"{_percent(near.nearer.value)} lie nearer to a training than to a held-out image, where half should; "
            "learn shorter or with a smaller model",
        )  # fmt: skip
    if found.use is not None and found.use.accuracy.ceiling is not None:
        use, ceiling = found.use, found.use.accuracy.ceiling.value
        least = use.chance + rules.utility_kept * (ceiling - use.chance)
        yield Measure(
            rule="images", level="warning", columns=(), value=-use.accuracy.value.high, limit=-least,
            message=f"a classifier of synthetic images should know {_percent(rules.utility_kept)} of what one of real "
            f"images knows, however: it is right about {_percent(use.accuracy.value.value)}, that of real "
            f"images about {_percent(ceiling)}; draw more images, or choose another synthesizer",
        )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
