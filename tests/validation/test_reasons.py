"""The first screen: the verdict, three reasons, and what to worry about."""

import re
from dataclasses import replace

import pytest

from privacy.attacks import Attack, Attacks
from privacy.estimate import Estimate
from tests.validation.test_report import CERTIFICATE, fidelity_of, finding, outline
from validation import gates, reasons
from validation.evidence import Evidence
from validation.gates import Finding, Verdict
from validation.utility import Score, Task, Utility


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01, surely=value - 0.02)


def evidence(**more: object) -> Evidence:
    scores = tuple(
        Score(model=m, synthetic=estimate(s), real=estimate(0.9), gap=estimate(0.9 - s))
        for m, s in (("trees", 0.8), ("linear", 0.7))
    )  # type: ignore[misc]
    task = Task(
        target="income", measure="AUC", named=True, rows=100, scores=scores, ranking=0.5, ranking_ceiling=0.9,
        features=(),
    )  # fmt: skip
    done = tuple(
        Attack(name=n, guesses=100, success=s, control=0.1, risk=estimate(s - 0.1))
        for n, s in (("linkability", 0.2), ("inference", 0.15), ("distance", 0.9))
    )
    plain = Evidence(
        fidelity=fidelity_of(["age", "city"]), utility=Utility(tasks=(task,)), attacks=Attacks(done=done)
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def cards(page: str) -> list[str]:
    return re.findall(r"<article.*?</article>", page, re.DOTALL)


def shown(found: Evidence, *findings: Finding, **certificate: object) -> list[str]:
    return cards(reasons.render(found, Verdict(findings=findings), {**CERTIFICATE, **certificate}))


def test_there_are_three_reasons_each_with_a_gauge_and_its_mark() -> None:
    found = shown(evidence())
    assert [re.search(r"<h3>(.*?)</h3>", c)[1] for c in found] == ["Faithful", "Useful", "Private"]  # type: ignore[index]
    assert all('class="gauge"' in c and 'class="mark"' in c for c in found)


def test_a_ceiling_stands_with_its_interval() -> None:
    found = evidence()
    known = replace(found, fidelity=replace(found.fidelity, shape_error=0.005, trend_error=0.01))
    assert "95.0 of 99.0 (98.0 to 99.9)" in shown(known)[0]
    assert "93.0 of 98.0 (96.0 to 99.9)" in shown(known)[0]


def test_a_gauge_of_use_begins_where_a_model_only_guesses() -> None:
    _, useful, _ = shown(evidence())
    assert "0.80</strong><span> of 0.90 AUC" in useful
    # 0.8 of an AUC that begins at 0.5.
    assert 'width="60.0%"' in useful


def test_the_strongest_attack_is_told_and_the_smoke_test_is_none() -> None:
    *_, private = shown(evidence())
    assert "10.0" in private
    assert "linking" in private
    assert "20.0" in private
    assert "of the synthetic rows equal a real one" in private


@pytest.mark.parametrize(("rule", "place"), [("shape", 0), ("utility", 1), ("fairness", 1), ("copies", 2)])
def test_a_finding_stands_at_its_reason(rule: str, place: int) -> None:
    broken = replace(finding("critical", "a thing"), rule=rule)
    found = ["1 critical" in c for c in shown(evidence(), broken)]
    assert found == [i == place for i in range(3)]


def test_every_rule_about_people_is_a_matter_of_privacy() -> None:
    assert {"copies", "personal", *gates.ATTACKS.values()} <= reasons.PRIVATE
    assert not reasons.USEFUL & reasons.PRIVATE


def test_what_was_not_measured_is_not_called_fine() -> None:
    found = shown(evidence(utility=None, attacks=None))
    assert ["not measured" in c for c in found] == [False, True, True]


def test_under_privacy_the_budget_is_the_gauge() -> None:
    lifetime = {"epsilon": 4.0, "spent_epsilon": 1.0}
    noised = Evidence(fidelity=replace(fidelity_of(["age"]), noised=True))
    *_, private = shown(noised, formal_guarantee={"epsilon": 1.0, "delta": 1e-6, "lifetime": lifetime})
    assert "ε 1<" in private
    assert 'width="25.0%"' in private
    *_, private = shown(noised, formal_guarantee={"epsilon": 1.0, "delta": 1e-6})
    assert "is not said" in private


def test_what_breaks_one_rule_stands_together_the_worst_first() -> None:
    rule = "a thing must hold, however: {} does not; mend it"
    findings = (
        finding("warning", rule.format("the third")),
        finding("critical", rule.format("the first"), ("age",)),
        finding("critical", rule.format("the second")),
        finding("warning", "and 7 more of the rule shape; the report lists every column"),
    )
    page = reasons.findings(evidence(), Verdict(findings=findings), {"age": "column-0"})
    assert page.count("A thing must hold") == 0
    assert page.count("The rule: a thing must hold.") == 2
    assert page.count("What to try: mend it.") == 2
    order = [page.index(t) for t in ("The first", "The second", "The third", "And 7 more")]
    assert order == sorted(order)
    assert len([a for t, a in outline(page).tags if t == "li" and "finding" in str(a.get("class"))]) == 2
    assert 'href="#column-0"' in page


def test_many_findings_are_folded_and_all_there() -> None:
    findings = [
        finding("critical", f"a thing must hold, however: no {i} does not; mend it") for i in range(30)
    ]
    page = reasons.findings(evidence(), Verdict(findings=tuple(findings)), {})
    assert f"{30 - reasons.OPEN} more" in page
    assert all(f"No {i} does not" in page for i in range(30))


def test_a_larger_figure_of_an_attack_that_is_not_counted_is_named() -> None:
    *_, private = shown(evidence())
    assert "linking, is right about" in private
    assert "distance is a smoke test: distance to the closest row." in private
    found = evidence()
    assert found.attacks is not None
    done = tuple(replace(a, risk=estimate(0.0)) if a.name == "distance" else a for a in found.attacks.done)
    *_, private = shown(replace(found, attacks=Attacks(done=done)))
    assert "Not counted here" not in private


@pytest.mark.parametrize(("rows", "points"), [(100, "10 points"), (400, "5 points"), (401, None)])
def test_a_clean_verdict_of_few_held_out_rows_says_what_it_cannot_see(rows: int, points: str | None) -> None:
    found = evidence()
    found = replace(found, fidelity=replace(found.fidelity, rows_holdout=rows))
    page = reasons.findings(found, Verdict(findings=()), {})
    assert "nothing to worry about" in page
    assert ("may be chance" in page) == (points is not None)
    assert points is None or (f"{rows} real rows are held out" in page and points in page)
    # Noised figures are beside no rows that were held out.
    noised = replace(found, fidelity=replace(found.fidelity, noised=True))
    assert "may be chance" not in reasons.findings(noised, Verdict(findings=()), {})
