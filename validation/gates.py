"""Gates: evidence × thresholds → a verdict.

Every threshold of fidelity is one `Measure`: a value and the limit that it must not pass, with the sampling
error that the number of rows leaves. `verdict` compares them; `validation.expectations` lets Great
Expectations compare the same ones.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from privacy.attacks import Attack, Attacks
    from validation.expectations import Check
    from validation.fidelity import ColumnFidelity, Fidelity

Level = Literal["critical", "warning"]

ATTACKS = {
    "near copies": "near_copies",
    "membership": "membership",
    "membership, most exposed": "membership",
    "singling out by one value": "singling_out",
    "singling out by several values": "singling_out",
    "linkability": "linkability",
    "inference": "inference",
}
"""The rule that an attack is held to. Copies have a rule of their own; the distance is a smoke test."""

CRITICAL = ("schema", "copies", *dict.fromkeys(ATTACKS.values()), "category", "missing", "association")
"""The rules that refuse a release unless a recipe says `warn_only`."""

LISTED = 10
"""Findings of one rule that are listed one by one; the others are counted."""

ERRORS = 3.0
"""Standard errors that sampling is allowed beyond a limit."""

LOST_BY_CHANCE = 1e-3
"""A category counts as lost where as many rows would miss it by chance more rarely than this."""


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
    category_share: Annotated[
        float,
        Field(gt=0, le=1, description="a category of this share of the rows must not be lost; critical"),
    ] = 0.05
    missing_points: Annotated[
        float, Field(gt=0, le=100, description="missing rate off by more percentage points; critical")
    ] = 5.0
    association_at_least: Annotated[
        float, Field(gt=0, le=1, description="associations from this strength on are watched")
    ] = 0.3
    association_kept: Annotated[
        float,
        Field(ge=0, le=1, description="share of its strongest association that a column keeps; critical"),
    ] = 0.5
    shape_points: Annotated[
        float, Field(gt=0, description="column shape score below its ceiling by more points; warns")
    ] = 5.0
    trend_points: Annotated[
        float, Field(gt=0, description="pair trend score below its ceiling by more points; warns")
    ] = 10.0
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
        rule: copies, one of `ATTACKS`, attacks, category, missing, association, shape or trend.
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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule that was broken: by which columns, and by how much."""

    rule: str
    level: Level
    columns: tuple[str, ...]
    message: str
    value: float | None
    limit: float | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the evidence says of a release: the broken rules, critical ones first."""

    findings: tuple[Finding, ...]

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
            count = len(self.warnings)
            return "passed" + (f" with {count} warning{'s' * (count > 1)}" if count else "")
        first, more = self.critical[0], len(self.critical) - 1
        where = f" ({', '.join(_plain(c) for c in first.columns[:3])})" if first.columns else ""
        rest = f"; and {more} more" if more else ""
        return f"refused by {first.rule}{where}: {_plain(first.message)}{rest}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, with `passed` and `summary` for the reader."""
        findings = [{**asdict(f), "columns": list(f.columns)} for f in self.findings]
        return {"passed": self.passed, "summary": self.summary, "findings": findings}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Verdict":
        """The inverse of `to_dict`."""
        return cls(findings=tuple(Finding(**{**f, "columns": tuple(f["columns"])}) for f in data["findings"]))


def verdict(
    fidelity: "Fidelity | None",
    checks: "Iterable[Check]",
    rules: GateRules,
    attacks: "Attacks | None" = None,
) -> Verdict:
    """What the evidence says of a release.

    Args:
        fidelity: how close the synthetic table is; None leaves the fidelity rules out.
        checks: what Great Expectations found; the failed ones count.
        rules: the thresholds.
        attacks: what attackers achieved; None leaves their rules out.
    """
    held = measures(fidelity, rules) if fidelity is not None else ()
    held = (*held, *exposures(attacks, rules)) if attacks is not None else held
    # The same rule for the same columns is said once: of rows and facts, the facts, which come later.
    said = {_what(f): f for f in (_checked(c) for c in checks if not c.success)}
    said |= {_what(f): f for f in (_finding(m) for m in held if not m.holds)}
    found = list(said.values())
    found = [replace(f, level="warning") if f.rule in rules.warn_only else f for f in found]
    order = {rule: at for at, rule in enumerate(CRITICAL)}
    found.sort(key=lambda f: (f.level != "critical", order.get(f.rule, len(order)), -_excess(f)))
    critical = [f for f in found if f.level == "critical"]
    return Verdict(findings=(*critical, *_shortened([f for f in found if f.level == "warning"])))


def measures(fidelity: "Fidelity", rules: GateRules) -> tuple[Measure, ...]:
    """Every threshold of fidelity, with the value that it is held against.

    copies: the share of synthetic rows that equal a training row must not be more than `copies_z` standard
        errors of the difference of two proportions (at least one row's worth) above that of held-out rows,
        or, where a unique column lies on a grid, above that of synthetic rows moved by one step of it. Counted
        are copies of rows that few training units share: copies of common ones are what chance gives where
        few distinct rows exist, and tell of nobody. Evidence without these is judged by all copies.
    category: no category of `category_share` is lost, unless so few rows were drawn that chance explains it.
    missing: the missing rate stays within `missing_points` and three standard errors.
    association: a column whose strongest association is `association_at_least` keeps `association_kept` of
        it, less two standard errors; asked only where the held-out rows keep it, too.
    shape, trend: warn where a score lies further below its ceiling than the points allow.
    """
    return (
        *_copies(fidelity, rules),
        *(m for c in fidelity.columns for m in _column(c, fidelity, rules)),
        *_trends(fidelity, rules),
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
    ceiling = rules.leaked_share if attack.name in ("near copies", "membership") else rules.attack_risk
    yield Measure(
        rule=rule, level="critical", columns=(), value=attack.risk.proven(0.0), limit=ceiling,
        message=f"an attack may win {_percent(ceiling)} of what chance leaves, however: {attack.name} wins "
        f"{_percent(attack.risk.value)}, at least {_percent(attack.risk.low)} by its 95 % interval; {remedy}",
    )  # fmt: skip
    if attack.auc is not None and attack.name == "membership":
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
    if fidelity.copies_rare is not None and fidelity.copies_rare_holdout is not None:
        value, holdout, moved = fidelity.copies_rare, fidelity.copies_rare_holdout, fidelity.copies_rare_moved
    limit = _chance(value, holdout, (fidelity.rows_synthetic, fidelity.rows_holdout), z=rules.copies_z)
    beside = ""
    if moved is not None:
        rows = (fidelity.rows_synthetic, fidelity.rows_synthetic)
        limit = max(limit, _chance(value, moved, rows, z=rules.copies_z))
        beside = f"{_percent(moved)} a step beside, "
    yield Measure(
        rule="copies", level="critical", columns=(), value=value, limit=limit,
        message=f"exact copies of training rows must not be more than chance gives, however: "
        f"{_percent(value)} of the rows are, {_percent(holdout)} of the held-out rows, {beside}at most "
        f"{_percent(limit)} allowed; fit fewer steps or components, or a smaller model",
    )  # fmt: skip


def _chance(copies: float, chance: float, rows: tuple[int, int], *, z: float) -> float:
    """The largest share of copies that chance explains (two-proportion z-test, pooled)."""
    n, m = rows
    pooled = (copies * n + chance * m) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return chance + z * max(error, 1 / n)


def _column(column: "ColumnFidelity", fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    name, rows = column.name, fidelity.rows_synthetic
    if rows == 0 or fidelity.rows_train == 0:
        return
    for category, share in column.lost:
        likely = (1 - share) ** rows > LOST_BY_CHANCE
        yield Measure(
            rule="category", columns=(name,), value=share, limit=rules.category_share,
            level="warning" if likely else "critical",
            message=f"a category of {_percent(rules.category_share)} of the rows must not be lost, however: "
            f"{name!r} never has {category!r}, which {_percent(share)} of the training rows have; "
            f"give the model more components or epochs, or release more rows",
        )  # fmt: skip
    yield _missing(column, fidelity, rules)
    if column.association_real >= rules.association_at_least and column.strongest is not None:
        yield from _association(column, fidelity, rules)
    if column.shape is not None and column.shape_ceiling is not None:
        yield Measure(
            rule="shape", level="warning", columns=(name,),
            value=column.shape_ceiling - column.shape, limit=rules.shape_points / 100,
            message=f"a column's shape should come within {rules.shape_points:g} points of its ceiling, "
            f"however: {name!r} scores {100 * column.shape:.1f} of {100 * column.shape_ceiling:.1f}; "
            f"look at its overlay, or declare its kind",
        )  # fmt: skip


def _missing(column: "ColumnFidelity", fidelity: "Fidelity", rules: GateRules) -> Measure:
    p, q = column.missing_real, column.missing_synthetic
    error = math.sqrt(p * (1 - p) * (1 / fidelity.rows_train + 1 / fidelity.rows_synthetic))
    return Measure(
        rule="missing", level="critical", columns=(column.name,),
        value=abs(q - p), limit=rules.missing_points / 100 + ERRORS * error,
        message=f"a missing rate must be within {rules.missing_points:g} points of the training rows', "
        f"however: {column.name!r} has {_percent(q)} missing, not {_percent(p)}; "
        f"check its kind and `nullable` in the schema, or learn longer or with a larger model",
    )  # fmt: skip


def _association(column: "ColumnFidelity", fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    """As a loss, so that more is worse: real − synthetic against what may be lost."""
    real, kept = column.association_real, rules.association_kept
    if fidelity.rows_holdout > 0 and column.association_holdout < kept * real:
        return
    yield Measure(
        rule="association", level="critical", columns=(column.name, str(column.strongest)),
        value=real - column.association_synthetic,
        limit=(1 - kept) * real + 2 / math.sqrt(fidelity.rows_synthetic),
        message=f"a column must keep {_percent(kept)} of its strongest association, however: {column.name!r} "
        f"with {column.strongest!r} falls from {real:.2f} to {column.association_synthetic:.2f}; "
        f"learn longer or with a larger model, or choose another synthesizer",
    )  # fmt: skip


def _trends(fidelity: "Fidelity", rules: GateRules) -> Iterator[Measure]:
    for pair in fidelity.pairs:
        if pair.trend is None or pair.trend_ceiling is None:
            continue
        yield Measure(
            rule="trend", level="warning", columns=(pair.first, pair.second),
            value=pair.trend_ceiling - pair.trend, limit=rules.trend_points / 100,
            message=f"a pair's trend should come within {rules.trend_points:g} points of its ceiling, "
            f"however: {pair.first!r} with {pair.second!r} scores {100 * pair.trend:.1f} of "
            f"{100 * pair.trend_ceiling:.1f}; learn longer or with a larger model, or choose another synthesizer",
        )  # fmt: skip


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


def _what(finding: Finding) -> tuple[str, tuple[str, ...], str]:
    """Rule, columns, and what the message demands; lost categories differ in what they lack."""
    demand = finding.message if finding.rule == "category" else finding.message.split(", however:")[0]
    return finding.rule, finding.columns, demand


def _excess(finding: Finding) -> float:
    return finding.value - finding.limit if finding.value is not None and finding.limit is not None else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _plain(text: str) -> str:
    """On one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)
