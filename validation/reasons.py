"""Reasons: the first screen of a report: the verdict, its three reasons, and what to worry about, worst first."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privacy.attacks import Attack, Attacks
from privacy.estimate import Estimate
from validation.evidence import Evidence
from validation.exposure import TOLD, share
from validation.fidelity import ColumnFidelity, Fidelity, PairFidelity
from validation.figures import few, strongest
from validation.gates import ATTACKS, Finding, Verdict
from validation.gauges import gauge
from validation.images import ImageEvidence, Use
from validation.markup import (
    NAME_WIDTH,
    Html,
    counted,
    cut,
    element,
    paragraph,
    percent,
    points,
    section,
    shown_name,
    strength,
    within,
)
from validation.noised import Noised, told
from validation.noised_images import NoisedImages
from validation.noised_images import told as told_share
from validation.utility import MODELS, Score, Task, Utility

USEFUL = frozenset({"utility", "representation", "fairness"})
"""The rules that are about what the rows are good for, and for whom."""

PRIVATE = frozenset({"copies", "images", "attacks", "personal", *ATTACKS.values()})
"""The rules that are about people. All others are about how faithful the rows are."""

OPEN = 12
"""Findings of one rule that are shown at once; the others are folded away."""


def render(evidence: Evidence, verdict: Verdict, certificate: Mapping[str, Any]) -> Html:
    """The verdict and its three reasons, each beside its ceiling."""
    reasons = (
        _faithful(evidence, _said(verdict, lambda rule: rule not in USEFUL | PRIVATE)),
        _useful(evidence, _said(verdict, USEFUL.__contains__)),
        _private(evidence, certificate, _said(verdict, PRIVATE.__contains__)),
    )
    return element(
        "section",
        {"id": "verdict", "aria-labelledby": "verdict-heading"},
        _banner(verdict, evaluated="evaluated" in certificate),
        element("div", {"class": "reasons"}, *reasons),
    )


def _banner(verdict: Verdict, *, evaluated: bool) -> Html:
    what = "table" if evaluated else "release"
    if verdict.passed:
        heading, reason = f"This {what} may leave the house", "No critical rule is broken."
    else:
        heading = f"This {what} is refused"
        reason = _reasons(verdict)
    return element(
        "div",
        {"class": "banner passed" if verdict.passed else "banner refused"},
        _seal(verdict.passed),
        element(
            "div",
            {},
            element("h2", {"id": "verdict-heading"}, heading),
            element("p", {}, reason),
            element("p", {"class": "tally"}, element("a", {"href": "#findings"}, _tally(verdict.findings))),
        ),
    )


def _reasons(verdict: Verdict) -> str:
    rules = dict.fromkeys(f.rule for f in verdict.critical)
    return f"It breaks {counted(len(rules), 'critical rule', 'critical rules')}: {', '.join(rules)}."


def _tally(findings: Sequence[Finding]) -> str:
    critical = sum(f.level == "critical" for f in findings)
    warnings = len(findings) - critical
    return f"{counted(critical, 'critical finding', 'critical findings')}, {counted(warnings, 'warning', 'warnings')}"


def _seal(passed: bool) -> Html:
    stroke = "M14 25l7 7 14-15" if passed else "M16 16l16 16M32 16L16 32"
    return element(
        "svg",
        {"class": "seal", "viewBox": "0 0 48 48", "width": 48, "height": 48, "aria-hidden": "true"},
        element("circle", {"cx": 24, "cy": 24, "r": 22}),
        element("path", {"d": stroke}),
    )


@dataclass(frozen=True, kw_only=True)
class _Said:
    """How often the gate objected to one reason."""

    critical: int
    warnings: int

    def chip(self, *, measured: bool) -> Html:
        """In two words: what was not measured has no finding either, and is not fine for that."""
        warnings = counted(self.warnings, "warning", "warnings")
        if self.critical:
            more = f", {warnings}" if self.warnings else ""
            return element("span", {"class": "state refused"}, f"{self.critical:,} critical{more}")
        if self.warnings:
            return element("span", {"class": "state warning"}, warnings)
        if not measured:
            return element("span", {"class": "state"}, "not measured")
        return element("span", {"class": "state passed"}, "no finding")


def _said(verdict: Verdict, mine: Callable[[str], bool]) -> _Said:
    own = [f.level for f in verdict.findings if mine(f.rule)]
    return _Said(critical=own.count("critical"), warnings=own.count("warning"))


def _card(heading: str, said: _Said, figure: tuple[str, str], *children: Html) -> Html:
    strong, beside = figure
    state = said.chip(measured=strong != "–")
    return element(
        "article",
        {"class": "card"},
        element("div", {"class": "title"}, element("h3", {}, heading), state),
        element("p", {"class": "figure"}, element("strong", {}, strong), element("span", {}, f" {beside}")),
        *children,
    )


def _beside(*children: str) -> Html:
    return element("p", {"class": "beside"}, *children)


def _lines(lines: Iterable[tuple[Html | str, str, Html | str]]) -> Html:
    """Figures that stand behind a card's own: name, figure, remark."""
    items = (
        element(
            "div",
            {},
            element("dt", {}, name),
            element("dd", {}, figure, *([element("span", {}, remark)] if remark else [])),
        )
        for name, figure, remark in lines
    )
    return element("dl", {"class": "behind"}, *items)


# Faithful -------------------------------------------------------------------------------------------------


def _faithful(evidence: Evidence, said: _Said) -> Html:
    found = evidence.fidelity
    score, ceiling = _mean(found.shape, found.trend), _mean(found.shape_ceiling, found.trend_ceiling)
    if evidence.noised is not None:
        return _anew(evidence.noised, found, said)
    if found.noised:
        remark = "Beside the noised counts that the model was fitted to; nothing exact was computed."
        lines = [("Columns", points(found.shape), _worst_column(found.columns))]
        return _card(
            "Faithful", said, (points(found.shape), "of 100, column by column"), gauge(found.shape, None),
            _beside(remark), _lines(lines),
        )  # fmt: skip
    lines = [
        ("Columns", _of(found.shape, found.shape_ceiling, found.shape_error), _worst_column(found.columns)),
        (
            "Pairs of columns",
            _of(found.trend, found.trend_ceiling, found.trend_error),
            _worst_pair(found.pairs),
        ),
    ]
    if evidence.images is not None:
        near = evidence.images.closeness
        fit = "how far images lie from training images (Fréchet); 0 is best"
        distance = f"{near.frechet:.2f}" + (
            "" if near.frechet_ceiling is None else f" of {near.frechet_ceiling:.2f}"
        )
        lines.append(("Images", distance, Html(fit)))
    if evidence.detection is not None:
        auc = evidence.detection.auc.value
        lines.append(("Told from real rows", f"AUC {auc:.2f}", Html("0.50 is best, 1 is worst")))
    return _card(
        "Faithful",
        said,
        (points(score), "" if ceiling is None else f"of {points(ceiling)}"),
        gauge(score, ceiling),
        _beside(_held_against(score, ceiling)),
        _lines(lines),
    )


def _anew(figures: Noised, found: Fidelity, said: _Said) -> Html:
    """Of figures for which rows were counted anew, with noise."""
    held = "rows that were held out" if figures.held_out else "rows that the model learned from"
    shape, trend = figures.shape, figures.trend
    values, ceilings = (
        [getattr(s, of) for s in (shape, trend) if s is not None] for of in ("value", "ceiling")
    )
    score, ceiling = (sum(v) / len(v) if v else None for v in (values, ceilings))
    lines = [
        (name, told(s), f"noised, by 95 %; ceiling {points(s.ceiling)}")
        for name, s in (("Columns", shape), ("Pairs of columns", trend))
        if s is not None
    ]
    return _card(
        "Faithful",
        said,
        (points(score), "" if ceiling is None else f"of {points(ceiling)}"),
        gauge(score, ceiling),
        _beside(
            f"Beside {held}, counted anew with noise; the mark is what as many rows of the model's own would score."
        ),
        _lines(
            [
                *lines,
                ("As fitted", points(found.shape), "columns beside the noised counts that were fitted to"),
            ]
        ),
    )


def _mean(first: float | None, second: float | None) -> float | None:
    known = [v for v in (first, second) if v is not None]
    return sum(known) / len(known) if known else None


def _of(score: float | None, ceiling: float | None, error: float | None) -> str:
    return points(score) if ceiling is None else f"{points(score)} of {within(ceiling, error)}"


def _held_against(score: float | None, ceiling: float | None) -> str:
    if score is None:
        return "Not measured: too few rows or columns that can be compared."
    if ceiling is None:
        return "There is no ceiling, since no rows were held out."
    gap = 100 * (ceiling - score)
    if gap < 0.05:
        return "As close to the training rows as other real rows are (the mark)."
    return f"{gap:.1f} points less close to the training rows than other real rows are (the mark)."


def _worst_column(columns: Sequence[ColumnFidelity]) -> Html:
    scored = [(c.shape, c.name) for c in columns if c.shape is not None]
    if not scored:
        return Html("")
    shape, name = min(scored)
    return element("span", {}, "lowest: ", shown_name(name, 28), f", {points(shape)}")


def _worst_pair(pairs: Sequence[PairFidelity]) -> Html:
    scored = [(p.trend, p.first, p.second) for p in pairs if p.trend is not None]
    if not scored:
        return Html("")
    trend, first, second = min(scored)
    return element(
        "span", {}, "lowest: ", shown_name(first, 20), " with ", shown_name(second, 20), f", {points(trend)}"
    )


# Useful ---------------------------------------------------------------------------------------------------


def _useful(evidence: Evidence, said: _Said) -> Html:
    """The target that the synthetic rows teach worst, by the model that learns it best from real rows."""
    found = evidence.utility or Utility()
    best = [(task, max(task.scores, key=lambda s: s.real.value)) for task in found.tasks]
    if not best and evidence.images is not None and evidence.images.use is not None:
        return _classified(evidence.images.use, said)
    if evidence.noised_images is not None and evidence.noised_images.right is not None:
        return _recognized(evidence.noised_images, evidence.noised_images.right, said)
    if not best:
        why = (
            "Not measured: models that learn from real rows would look at rows without noise."
            if evidence.fidelity.noised
            else "Not measured: nothing in this table can be predicted."
        )
        return _card("Useful", said, ("–", ""), gauge(None, None), _beside(why))
    task, score = max(best, key=lambda pair: _lost(*pair))
    scale = 1 - task.guess
    return _card(
        "Useful",
        said,
        (_decimals(score.synthetic.value), f"of {_decimals(score.real.value)} {task.measure}"),
        gauge((score.synthetic.value - task.guess) / scale, (score.real.value - task.guess) / scale),
        _beside(
            "How well ", shown_name(task.target, 28), " is predicted in real rows after learning from synthetic ones; "
            "the mark is after real ones, the left end is guessing.",
            "" if task.named else " Nobody named a target: this one is the table’s last, and refuses nothing.",
        ),
        _lines(_models(task) if len(best) == 1 else _targets(best)),
    )  # fmt: skip


def _classified(use: Use, said: _Said) -> Html:
    """How well a classifier of synthetic images knows real ones."""
    value, ceiling = use.accuracy.value.value, use.accuracy.ceiling
    scale = max(1 - use.chance, 1e-9)
    return _card(
        "Useful",
        said,
        (_decimals(value), "" if ceiling is None else f"of {_decimals(ceiling.value)} accuracy"),
        gauge(
            (value - use.chance) / scale, None if ceiling is None else (ceiling.value - use.chance) / scale
        ),
        _beside(
            "How well a classifier that learned from synthetic images names real ones that were held out; the mark is "
            "after as many real images, the left end is guessing."
        ),
    )


def _recognized(found: NoisedImages, right: Estimate, said: _Said) -> Html:
    """How well a classifier of drawn images knows real ones that were counted with noise."""
    chance, most = found.chance or 0.0, found.right_drawn or 0.0
    scale = max(1 - chance, 1e-9)
    return _card(
        "Useful",
        said,
        (_decimals(right.value), f"of {_decimals(most)} accuracy"),
        gauge((right.value - chance) / scale, (most - chance) / scale),
        _beside(
            "How well a classifier that learned from drawn images names real ones, counted with noise; the mark is how "
            "well it names drawn ones, the left end is guessing."
        ),
        _lines([("Accuracy", told_share(right), "noised, by 95 %")]),
    )


def _targets(best: Sequence[tuple[Task, Score]]) -> Iterator[tuple[Html | str, str, str]]:
    for task, score in best[:4]:
        yield shown_name(task.target, 28), _both(score), task.measure


def _models(task: Task) -> Iterator[tuple[Html | str, str, str]]:
    for score in task.scores:
        yield MODELS[score.model], _both(score), f"{task.measure}, on real rows that were held out"
    if task.ranking is not None:
        told = "rank correlation of the features that trees need"
        yield "Same reasons", f"{strength(task.ranking)} of {strength(task.ranking_ceiling)}", told


def _both(score: Score) -> str:
    return f"{_decimals(score.synthetic.value)} of {_decimals(score.real.value)}"


def _lost(task: Task, score: Score) -> float:
    return score.gap.value / max(score.real.value - task.guess, 1e-9)


def _decimals(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


# Private --------------------------------------------------------------------------------------------------


def _private(evidence: Evidence, certificate: Mapping[str, Any], said: _Said) -> Html:
    guarantee = certificate.get("formal_guarantee")
    if isinstance(guarantee, Mapping) and "epsilon" in guarantee:
        return _guaranteed(guarantee, said)
    promised = element(
        "p",
        {"class": "meaning"},
        "No formal guarantee. ",
        element("a", {"href": "#making"}, "What is promised, and what is not"),
    )
    copies = _copies(evidence.fidelity) if evidence.images is None else _copied_images(evidence.images)
    worst = strongest(evidence.attacks)
    if worst is None:
        return _card(
            "Private", said, ("–", ""), gauge(None, None), _beside("No attack was tried."), _lines(copies), promised
        )  # fmt: skip
    tried = counted(len((evidence.attacks or Attacks()).done), "attack", "attacks")
    return _card(
        "Private",
        said,
        (share(max(worst.risk.value, 0.0)), "leaked beyond chance, at worst"),
        gauge(worst.success, worst.control),
        _beside(
            f"The strongest of {tried}, {TOLD[worst.name].title.lower()}, is right about {share(worst.success)} of the "
            f"people in the table and {share(worst.control)} of others (the mark).{_apart(worst, evidence.attacks)}",
        ),
        _lines(copies),
        promised,
    )


def _apart(worst: Attack, attacks: Attacks | None) -> str:
    """Which attacks show a larger figure and are not counted, lest a reader of the table wonders."""
    larger = [
        TOLD[a.name].title.lower()
        for a in (attacks or Attacks()).done
        if a.name not in ATTACKS and a.risk.value > worst.risk.value
    ]
    if not larger:
        return ""
    why = "since the gate judges copies by themselves and distance is a smoke test"
    return f" Not counted here, {why}: {', '.join(larger)}."


def _copies(found: Fidelity) -> list[tuple[str, str, str]]:
    if found.copies is None:
        return []
    chance = (
        "no rows were held out to tell what chance gives"
        if found.copies_holdout is None
        else f"of the synthetic rows equal a real one; by chance {percent(found.copies_holdout)} of other real rows do"
    )
    return [("Copies", percent(found.copies), chance)]


def _copied_images(found: ImageEvidence) -> list[tuple[str, str, str]]:
    """Copies of whole rows say nothing where an image makes nearly every row one of its kind."""
    chance = "of the synthetic images are, pixel by pixel, a training image"
    by_chance = (
        ""
        if found.identical_ceiling is None
        else f"; {percent(found.identical_ceiling)} of held-out ones are"
    )
    close = [
        (f"Close, in {n.space}", percent(n.close.value), f"by chance {percent(n.close_ceiling.value)}")
        for n in found.nearness
    ]
    return [("Identical", percent(found.identical), f"{chance}{by_chance}"), *close]


def _guaranteed(guarantee: Mapping[str, Any], said: _Said) -> Html:
    lifetime = guarantee.get("lifetime")
    whole = lifetime.get("epsilon") if isinstance(lifetime, Mapping) else None
    spent = lifetime.get("spent_epsilon") if isinstance(lifetime, Mapping) else None
    own = ", which each block has for itself," if lifetime and lifetime.get("blocks") else ""
    known = isinstance(whole, int | float) and isinstance(spent, int | float) and whole > 0
    remark = (
        f"With this release ε {spent:.3g} of the dataset’s lifetime of {whole:g}{own} is spent (the bar)."
        if known
        else "How much of the dataset’s lifetime is spent is not said."
    )
    return _card(
        "Private",
        said,
        (f"ε {guarantee['epsilon']:g}", f"δ {guarantee.get('delta', 0):g}"),
        gauge(spent / whole if known and spent is not None and whole else None, None),
        _beside(_promise(guarantee)),
        element("p", {"class": "meaning"}, remark, " ", element("a", {"href": "#making"}, "Every charge")),
    )  # fmt: skip


def _promise(guarantee: Mapping[str, Any]) -> str:
    epsilon, delta = guarantee["epsilon"], guarantee.get("delta")
    but = f", but for one chance in {1 / delta:,.0f}" if delta else ""
    return (
        f"Differential privacy: whoever is added to or taken from the table changes the chance of anything in this "
        f"release by a factor of {math.exp(epsilon):.3g} at most{but}."
    )


# What to worry about --------------------------------------------------------------------------------------


def findings(evidence: Evidence, verdict: Verdict, anchors: Mapping[str, str]) -> Html:
    """What to worry about, worst first, what breaks the same rule together; `anchors` are the ids of columns."""
    if not verdict.findings:
        told = f"The gate found nothing to worry about.{few(evidence.fidelity)}"
        return section("findings", "What to worry about", paragraph(told))
    return section(
        "findings",
        "What to worry about",
        paragraph(
            "The worst first. Critical findings refuse a release, warnings are for the reader to weigh."
        ),
        element("ol", {"class": "findings"}, *(_group(*key, own, anchors) for key, own in _grouped(verdict))),
    )


_Key = tuple[str, str, str, str]


def _grouped(verdict: Verdict) -> Iterable[tuple[_Key, list[tuple[str, Finding]]]]:
    """By level, rule, what it demands and what to try, in the order of the first of each."""
    groups: dict[_Key, list[tuple[str, Finding]]] = {}
    for f in sorted(verdict.findings, key=lambda f: f.level != "critical"):
        rule, fact, remedy = parted(f.message)
        key: _Key = (f.level, f.rule, rule, remedy)
        if not rule and not f.columns:
            # It counts what was left out of a group.
            key = next((k for k in groups if k[:2] == key[:2]), key)
        groups.setdefault(key, []).append((fact, f))
    return groups.items()


def _group(
    level: str,
    name: str,
    rule: str,
    remedy: str,
    own: Sequence[tuple[str, Finding]],
    anchors: Mapping[str, str],
) -> Html:
    facts = [_fact(fact, f, anchors) for fact, f in own]
    folded = element(
        "details",
        {},
        element("summary", {}, f"{len(facts) - OPEN:,} more"),
        element("ul", {"class": "facts-found"}, *facts[OPEN:]),
    )
    return element(
        "li",
        {"class": f"finding {level}"},
        element(
            "p",
            {"class": "level"},
            element("strong", {}, "Critical" if level == "critical" else "Warning"),
            element("span", {}, cut(name, NAME_WIDTH)),
        ),
        element("ul", {"class": "facts-found"}, *facts[:OPEN]),
        *([folded] if len(facts) > OPEN else []),
        *([element("p", {"class": "rule"}, "The rule: ", cut(rule, 400), ".")] if rule else []),
        *([element("p", {"class": "rule"}, "What to try: ", cut(remedy, 400), ".")] if remedy else []),
    )


def _fact(fact: str, finding: Finding, anchors: Mapping[str, str]) -> Html:
    named = list(dict.fromkeys(finding.columns))
    links = [_column_link(name, anchors) for name in named[:12]]
    if len(named) > len(links):
        links.append(element("span", {}, f"and {len(named) - len(links):,} more"))
    return element(
        "li",
        {},
        element("span", {}, cut(_sentence(fact), 600)),
        *([element("span", {"class": "where"}, *links)] if links else []),
    )


def parted(message: str) -> tuple[str, str, str]:
    """Rule, fact and remedy of a message; the fact alone where it is not built so.

    Examples:
        >>> parted("a bag must be whole, however: it has a hole; sew it")
        ('a bag must be whole', 'it has a hole', 'sew it')
    """
    rule, mark, rest = message.partition(", however: ")
    if not mark:
        return "", message, ""
    fact, _, remedy = rest.rpartition("; ")
    return (rule, fact, remedy) if fact else (rule, rest, "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _column_link(name: str, anchors: Mapping[str, str]) -> Html:
    if name not in anchors:
        return element("span", {}, shown_name(name, 28))
    return element("a", {"href": f"#{anchors[name]}"}, shown_name(name, 28))
