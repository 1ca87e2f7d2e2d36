"""What leaves is coarse: no share of real rows that resolves fewer of them than the certificate says."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.attacks import Attack, Attacks
from privacy.estimate import Estimate
from tests.validation.test_report import fidelity_of, finding, schema_of
from validation import public, report
from validation.evidence import Evidence
from validation.fairness import Fairness, Group
from validation.fidelity import Fidelity, LostGroup, Overlay
from validation.gates import GateRules, Verdict, verdict
from validation.likelihood import Likelihood, Likely, Mean
from validation.structure import Figure, Structure

ROWS = 1_237


def exact(missing: int = 3, lost: int = 12) -> Evidence:
    """Evidence whose shares are of 1,237 training rows and 311 held-out ones."""
    plain = fidelity_of(["age", "city"])
    column = replace(
        plain.columns[0], missing_real=missing / ROWS, missing_holdout=1 / 311, lost=(("x", lost / ROWS),),
        shape=0.951234567, sizes=(1, 2, 3),
    )  # fmt: skip
    overlay = Overlay(
        column="age", kind="numerical", labels=(), edges=(0.0, 0.125, 7.0625), real=(14 / ROWS, 1 - 14 / ROWS),
        synthetic=(0.01234567, 0.98765433),
    )  # fmt: skip
    fidelity = replace(
        plain, rows_train=ROWS, rows_holdout=311, columns=(column, plain.columns[1]), overlays=(overlay,),
        groups=(LostGroup(columns=("age", "city"), values=("a", "b"), share=13 / ROWS),),
    )  # fmt: skip
    figure = Estimate(value=0.0123456, low=0.001234, high=0.09876, surely=0.0)
    attack = Attack(name="linkability", guesses=1_237, success=0.123456, control=0.1, risk=figure)
    group = Group(columns=("sex",), values=("f",), real=617 / ROWS, synthetic=0.5, holdout=155 / 311)
    return Evidence(
        fidelity=fidelity,
        attacks=Attacks(done=(attack,)),
        fairness=Fairness(rows=(ROWS, 1_000), groups=(group,)),
    )


def shares(found: Fidelity) -> list[float]:
    return [
        *(c.missing_real for c in found.columns),
        *(share for c in found.columns for _, share in c.lost),
        *(v for o in found.overlays for v in o.real),
        *(g.share for g in found.groups),
    ]


def test_every_share_of_training_rows_is_a_multiple_of_ten_rows() -> None:
    found = public.outside(exact(), at_least=10)
    assert found.fairness is not None
    for share in (*shares(found.fidelity), found.fairness.groups[0].real):
        steps = share * 1_240 / 10
        assert steps == pytest.approx(round(steps), abs=1e-3)
    assert found.fidelity.rows_train == 1_240
    assert found.fidelity.rows_holdout == 310
    assert found.fairness.rows == (1_240, 1_000)
    assert found.attacks is not None
    assert found.attacks.done[0].guesses == 1_240


@given(missing=st.integers(min_value=0, max_value=ROWS - 1), more=st.integers(min_value=1, max_value=4))
def test_what_few_people_have_does_not_show(missing: int, more: int) -> None:
    """Of two tables that differ in fewer people than half a step, either the figures are equal or differ by a step."""
    one, other = (
        public.outside(exact(missing=m), at_least=10).fidelity.columns[0].missing_real
        for m in (missing, min(ROWS, missing + more))
    )
    assert other - one == pytest.approx(0) or other - one == pytest.approx(10 / ROWS, abs=1e-4)


def test_the_number_of_rows_does_not_show_in_the_shares() -> None:
    one = exact()
    fewer = replace(one, fidelity=replace(one.fidelity, rows_train=ROWS - 1))
    assert public.outside(one, at_least=10) == public.outside(fewer, at_least=10)


def test_what_a_page_hides_is_as_coarse_as_what_it_shows() -> None:
    names = ["age", "city"]
    pages = [
        report.render(
            title="t", evidence=public.outside(exact(missing=m), at_least=10), verdict=Verdict(findings=()),
            certificate={}, schema=schema_of(names),
        )
        for m in (3, 4)
    ]  # fmt: skip
    assert pages[0] == pages[1]


def test_nothing_has_more_than_three_decimals_but_shares_and_edges() -> None:
    found = public.outside(exact(), at_least=10)
    assert found.fidelity.columns[0].shape == 0.951
    assert found.fidelity.overlays[0].edges == (0.0, 0.125, 7.0625)
    assert found.attacks is not None
    assert found.attacks.done[0].risk == Estimate(value=0.012, low=0.001, high=0.099, surely=0.0)
    assert "0.0123456" not in json.dumps(found.to_dict())


def test_the_number_of_columns_is_no_number_of_rows() -> None:
    mean = Mean(value=-1.23456, error=0.01234)
    row = Likely(of="row", column=None, discrete=True, train=mean, holdout=mean, synthetic=None)
    told = public.outside(
        replace(exact(), likelihood=Likelihood(columns=3, figures=(row,))), at_least=10
    ).likelihood
    assert told is not None
    assert (told.columns, told.figures[0].train) == (3, Mean(value=-1.235, error=0.012))


def test_copies_by_chance_are_the_same_share_wherever_they_stand() -> None:
    found = exact()
    beyond = Estimate(value=0.05, low=0, high=0.1, surely=0)
    copies = Attack(name="copies", guesses=1_000, success=0.2, control=49 / 311, risk=beyond)
    found = replace(
        found, fidelity=replace(found.fidelity, copies_holdout=49 / 311), attacks=Attacks(done=(copies,))
    )
    told = public.outside(found, at_least=10)
    assert told.attacks is not None
    (attack,) = told.attacks.done
    assert attack.control == told.fidelity.copies_holdout == pytest.approx(50 / 310, abs=1e-6)
    # What is beyond chance follows from what is shown, so it says no more.
    assert attack.risk.value == pytest.approx(1 - 0.8 / (1 - 50 / 310), abs=1e-5)
    assert attack.risk.low < attack.risk.value < attack.risk.high


def test_how_rare_categories_are_is_not_told() -> None:
    assert public.outside(exact(), at_least=10).fidelity.columns[0].sizes == ()


def test_figures_of_synthetic_rows_keep_their_number() -> None:
    evidence = exact()
    assert public.outside(evidence, at_least=10).fidelity.rows_synthetic == evidence.fidelity.rows_synthetic


def test_without_disclosure_control_shares_have_three_decimals() -> None:
    found = public.outside(exact(), at_least=0)
    assert found.fidelity.rows_train == ROWS
    assert found.fidelity.columns[0].missing_real == pytest.approx(0.002)


def test_what_was_paid_for_stays_as_it_is() -> None:
    evidence = exact()
    noised = replace(evidence, fidelity=replace(evidence.fidelity, noised=True))
    assert public.outside(noised, at_least=10) == noised


def test_a_verdict_tells_the_figures_that_the_page_shows() -> None:
    message = "a category must not be lost, however: 'x' of 0.0384 % of 12.34 % is gone; wait"
    exact_one = finding("warning", message)
    shown = replace(exact_one, message=message.replace("12.34", "12.44"))
    (told,) = public.said(Verdict(findings=(exact_one,)), Verdict(findings=(shown,))).findings
    assert told.message == message.replace("0.0384", "less than 0.1").replace("12.34", "12.4")
    # What is found by exact figures alone stands, and is told by whole percentages.
    (told,) = public.said(Verdict(findings=(exact_one,)), Verdict(findings=())).findings
    assert told.message == message.replace("0.0384", "less than 1").replace("12.34", "12")
    assert told.value == 0.1


@pytest.mark.parametrize("missing", [62, 63, 64])
def test_no_finding_resolves_a_person(missing: int) -> None:
    def told(found: Evidence) -> list[str]:
        verdicts = (verdict(e.fidelity, (), GateRules()) for e in (found, public.outside(found, at_least=10)))
        return [f.message for f in public.said(*verdicts).findings if f.rule == "missing"]

    # 62 of 1,237 are 5.01 %, 64 are 5.17 %; the steps of ten rows are 4.8 and 5.6 %.
    assert told(exact(missing=missing)) == told(exact(missing=63))
    assert told(exact(missing=missing))


def test_errors_are_rounded_up_and_know_how_coarse_their_ceiling_is() -> None:
    fidelity = exact().fidelity
    column = replace(fidelity.columns[0], shape_error=0.00038)
    precise = replace(
        fidelity, shape_error=0.00012, trend_error=0.0031, columns=(column, *fidelity.columns[1:])
    )
    figures = (
        Figure(measure="missing patterns", column=None, synthetic=0.5, ceiling=300 / 311, error=0.0001),
        Figure(measure="Wasserstein", column="age", synthetic=0.5, ceiling=0.12345, error=0.0001),
    )
    told = public.outside(
        replace(exact(), fidelity=precise, structure=Structure(figures=figures)), at_least=10
    )
    assert (told.fidelity.shape_error, told.fidelity.trend_error) == (0.001, 0.004)
    assert told.fidelity.columns[0].shape_error == 0.001
    assert told.structure is not None
    # A step is a thirty-first: its half within 1.96 standard errors.
    assert told.structure.figures[0].error == pytest.approx(0.0084, abs=1e-3)
    assert told.structure.figures[1].error == 0.001


def test_ceilings_beyond_pairs_are_shares_of_ten_held_out_rows() -> None:
    figures = tuple(
        Figure(measure=m, column=None, synthetic=0.5, ceiling=c)
        for m, c in (
            ("missing patterns", 300 / 311),
            ("2-way marginals", 1000 * 300 / 311),
            ("order", 299 / 311),
        )
    )
    told = public.outside(replace(exact(), structure=Structure(figures=figures)), at_least=10).structure
    assert told is not None
    assert [f.ceiling for f in told.figures] == pytest.approx([30 / 31, 30_000 / 31, 30 / 31], abs=1e-3)
