"""Attacks as evidence: what the gate makes of tables that leak and of tables that do not, and how it is said."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from privacy.attacks import NAMES, Attack, Attacks, attack
from privacy.estimate import Estimate
from privacy.shadows import AT_RANDOM, EXPOSED
from synth.schema import Schema
from tests.validation.test_fidelity import HALF, HOLDOUT, SCHEMA, TRAIN, changed, people
from validation.exposure import TOLD, ends, render, share, sides_of
from validation.fidelity import measure
from validation.gates import ATTACKS, CRITICAL, GateRules, Verdict, exposures, verdict

RULES = GateRules()


def attacked(synthetic: pa.Table, holdout: pa.Table = HOLDOUT, train: pa.Table = TRAIN) -> Attacks:
    return attack(sides_of(train, holdout, synthetic, SCHEMA), np.random.default_rng(0))


def judged(attacks: Attacks, rules: GateRules = RULES) -> Verdict:
    return verdict(None, (), rules, attacks)


def with_training_rows(share: float, *, noise: float = 0.0) -> pa.Table:
    """`HALF`, but for a share of its rows, which are training rows, with noise in two columns."""
    count = round(share * TRAIN.num_rows)
    some, rng = TRAIN.slice(0, count), np.random.default_rng(0)
    if noise:
        income = some["in\ncome 🐘"].to_pandas()
        some = changed(some, "in\ncome 🐘", pa.array(income + noise * income.std() * rng.normal(size=count)))
        wait = some["wait"].cast(pa.int64()).to_numpy()
        moved = np.round(wait + noise * wait.std() * rng.normal(size=count)).astype("timedelta64[s]")
        some = changed(some, "wait", pa.array(moved, pa.duration("s")))
    return pa.concat_tables([some.cast(HALF.schema), HALF.slice(count)])


# ── from tables to arrays ───────────────────────────────────────────────────────────────────────────────────


def test_what_is_learned_is_attacked_and_nothing_else() -> None:
    sides = sides_of(TRAIN, HOLDOUT, HALF, SCHEMA)
    assert sides.train.codes.shape == (3000, 3)
    assert sides.train.numbers.shape == (3000, 5)
    assert (len(sides.holdout), len(sides.synthetic)) == (1500, 3000)
    city = TRAIN["$city\"'"].to_pandas()
    codes = sides.train.codes[:, 0]
    assert np.array_equal(codes < 0, city.isna())
    assert all(city[codes == c].nunique() == 1 for c in set(codes[codes >= 0].tolist()))
    assert np.array_equal(sides.train.numbers[:, 0], TRAIN["age"].to_numpy())


def test_copies_are_those_that_fidelity_counts() -> None:
    synthetic = with_training_rows(0.05)
    found = next(a for a in attacked(synthetic).done if a.name == "copies")
    fidelity = measure(TRAIN, HOLDOUT, synthetic, SCHEMA, at_least=10, seed=0)
    assert (found.success, found.control) == (fidelity.copies, fidelity.copies_holdout)


def test_a_table_of_which_nothing_is_learned_is_not_attacked() -> None:
    schema = Schema.model_validate({"columns": [{"name": "id", "kind": "identifier", "type": "string"}]})
    table = pa.table({"id": [f"P{i}" for i in range(500)]})
    found = attack(sides_of(table, table, table, schema), np.random.default_rng(0))
    assert found.skipped["copies"] == "no column is learned"


# ── the gate ────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_of_the_same_distribution_pass() -> None:
    assert judged(attacked(HALF)).findings == ()


def test_held_out_rows_pass_as_synthetic_ones() -> None:
    assert judged(attacked(HOLDOUT)).findings == ()
    first, second = HOLDOUT.slice(0, 750), HOLDOUT.slice(750)
    assert judged(attacked(first, second)).findings == ()


@pytest.mark.parametrize("rows", [(500, 120), (1000, 250)])
def test_rows_of_the_same_distribution_pass_whatever_the_draw(rows: tuple[int, int]) -> None:
    for seed in range(20):
        train, held, fresh = (people(n, seed=3 * seed + i) for i, n in enumerate((rows[0], rows[1], rows[0])))
        assert judged(attacked(fresh, held, train)).findings == ()


def test_five_copies_in_a_hundred_rows_are_refused() -> None:
    assert {"near_copies", "membership"} <= {
        f.rule for f in judged(attacked(with_training_rows(0.05))).critical
    }


def test_five_near_copies_in_a_hundred_rows_are_refused_though_none_is_a_copy() -> None:
    attacks = attacked(with_training_rows(0.05, noise=0.02))
    assert {a.name: a.success for a in attacks.done}["copies"] < 0.02
    assert {"near_copies", "membership"} <= {f.rule for f in judged(attacks).critical}


def test_the_training_table_itself_breaks_every_rule() -> None:
    assert {f.rule for f in judged(attacked(TRAIN)).critical} == set(ATTACKS.values())


def test_a_rule_that_a_recipe_softens_only_warns() -> None:
    found = judged(attacked(TRAIN), GateRules(warn_only=tuple(ATTACKS.values())))
    assert found.passed
    assert {f.rule for f in found.warnings} == set(ATTACKS.values())


def test_too_few_held_out_rows_are_a_warning_that_says_so() -> None:
    found = judged(attacked(HALF, HOLDOUT.slice(0, 40)))
    assert [(f.rule, f.level) for f in found.findings] == [("attacks", "warning")]
    assert (
        "attacks need 100 held-out rows, however: there are 40; hold out more rows"
        in found.findings[0].message
    )


def one(name: str, risk: Estimate, auc: Estimate | None = None) -> Attacks:
    return Attacks(done=(Attack(name=name, guesses=9, success=0.5, control=0.1, risk=risk, auc=auc),))


BIG = Estimate(value=0.5, low=0.3, high=0.7, surely=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_but_those_with_a_rule_of_their_own_can_refuse(name: str) -> None:
    found = judged(one(name, BIG))
    assert [f.rule for f in found.critical] == ([ATTACKS[name]] if name in ATTACKS else [])
    assert set(ATTACKS.values()) <= set(CRITICAL)


@pytest.mark.parametrize(
    ("risk", "passed"),
    [
        (replace(BIG, low=0.05), True),
        (replace(BIG, low=0.051), False),
        (replace(BIG, surely=-0.01), True),
    ],
)
def test_a_figure_refuses_where_its_interval_is_above_the_ceiling_and_chance_is_ruled_out(
    risk: Estimate, passed: bool
) -> None:
    assert judged(one("linkability", risk)).passed == passed


def test_members_that_are_told_apart_on_the_whole_are_refused() -> None:
    none = Estimate(value=0.0, low=0.0, high=0.1, surely=0.0)
    near, far = (Estimate(value=low + 0.02, low=low, high=0.9, surely=low - 0.02) for low in (0.6, 0.61))
    assert judged(one("membership", none, near)).passed
    assert [f.rule for f in judged(one("membership", none, far)).critical] == ["membership"]


def test_every_ceiling_is_a_number_beside_a_number() -> None:
    held = exposures(attacked(HALF), RULES)
    assert {m.rule for m in held} == set(ATTACKS.values())
    assert all(np.isfinite([m.value, m.limit]).all() for m in held)


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


class Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def text_of(attacks: Attacks) -> str:
    parser = Text()
    parser.feed(render(attacks))
    return parser.text


def test_every_attack_is_told_in_plain_words() -> None:
    assert set(TOLD) == {*NAMES, AT_RANDOM, EXPOSED}


def test_the_section_has_each_figure_with_its_interval() -> None:
    attacks = attacked(HALF)
    text = text_of(attacks)
    for a in attacks.done:
        assert TOLD[a.name].title in text
        assert share(a.risk.value) in text
        assert ends(a.risk) in text
    assert "no guarantee" in text


def test_the_section_says_why_nothing_was_tried() -> None:
    assert "there are 40" in text_of(attacked(HALF, HOLDOUT.slice(0, 40)))
    assert "there are no figures" in text_of(Attacks())


def test_the_section_names_what_was_skipped_and_what_was_weak() -> None:
    weak = Attack(name="linkability", guesses=9, success=0.1, control=0.1, risk=BIG, naive=0.2)
    text = text_of(Attacks(done=(weak,), skipped={"inference": "too little to guess from"}))
    assert "the attack is weak" in text
    assert "Not tried for want of rows or columns: inference." in text


def test_shares_have_one_digit_a_true_minus_and_no_minus_zero() -> None:
    assert (share(-0.0004), share(-0.012), share(0.5)) == ("0.0\u00a0%", "−1.2\u00a0%", "50.0\u00a0%")
    assert ends(replace(BIG, low=-0.1)) == "−10.0\u00a0to\u00a070.0\u00a0%"


def test_no_value_of_the_table_is_in_the_evidence() -> None:
    said = json.dumps(attacked(with_training_rows(0.5)).to_dict(), ensure_ascii=False) + render(
        attacked(HALF)
    )
    assert not any(name in said for name in ("Köln", "Rom", "$city", "income"))
