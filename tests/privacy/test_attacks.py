"""Attacks on tables that leak, on tables that do not, and on tables that are hard to attack."""

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.attacks import (
    FEWEST,
    NAMES,
    Attack,
    Attacks,
    Sides,
    attack,
    copies,
    distance,
    membership,
    singling_out,
)
from privacy.attacks import _Same as same
from privacy.attacks import _singled_out as singled_out
from privacy.estimate import risk
from privacy.metric import Metric, Records, two_nearest
from tests.privacy.people import fresh, joined, leaky, people


def tried(sides: Sides, seed: int = 0) -> dict[str, Attack]:
    return {a.name: a for a in attack(sides, np.random.default_rng(seed)).done}


def judged(found: dict[str, Attack]) -> set[str]:
    """The attacks that prove a leak."""
    return {
        name for name, a in found.items() if a.risk.proven(0.0) > 0 or (a.auc and a.auc.proven(0.5) > 0.5)
    }


# ── beside the slow and obvious ─────────────────────────────────────────────────────────────────────────────


def rows_of(records: Records) -> list[tuple[float | None, ...]]:
    return [tuple(None if np.isnan(v) else v for v in row) for row in records.values().tolist()]


@pytest.mark.parametrize("kind", ["mixed", "few"])
def test_copies_are_rows_that_equal_a_training_row(kind: str) -> None:
    sides = leaky(3, 0.1) if kind == "mixed" else fresh(3, kind=kind)
    (found,) = copies(sides, np.random.default_rng(0))
    known = set(rows_of(sides.train))
    assert found.success == np.mean([row in known for row in rows_of(sides.synthetic)])
    assert found.control == np.mean([row in known for row in rows_of(sides.holdout)])


def test_minus_zero_is_zero_to_copies() -> None:
    rows = people(np.random.default_rng(0), 200, kind="numbers")
    rows.numbers[:, 1] = 0.0
    minus = Records(codes=rows.codes, numbers=np.where(rows.numbers == 0, -0.0, rows.numbers))
    (found,) = copies(Sides(train=rows, holdout=rows, synthetic=minus), np.random.default_rng(0))
    assert found.success == 1.0


def test_the_nearest_real_row_is_a_training_row_as_often_as_a_slow_search_finds() -> None:
    sides = leaky(1, 0.2, noise=0.02, rows=400, held=300)
    found, near = distance(sides, np.random.default_rng(0))
    metric = Metric(sides.synthetic, np.random.default_rng(0))
    real = joined(sides.train, sides.holdout)
    gaps = np.array(
        [((metric.of(real).astype(float) - p) ** 2).sum(1) for p in metric.of(sides.synthetic).astype(float)]
    )
    ordered = np.sort(gaps, 1)
    alone = ordered[:, 0] < ordered[:, 1]
    assert found.success == pytest.approx(np.mean(gaps.argmin(1) < 400), abs=np.mean(~alone) + 1e-9)
    close = ordered[:, 0] * 16 < ordered[:, 1]
    assert near.success == pytest.approx(np.mean(close & (gaps.argmin(1) < 400)))
    assert near.control == pytest.approx(np.mean(close & (gaps.argmin(1) >= 400)) * 400 / 300)
    assert near.risk.value == pytest.approx(near.success - near.control, abs=1e-9)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2) | st.just(float("nan"))), min_size=1, max_size=12)
)
def test_a_predicate_singles_out_what_one_row_meets(rows: list[tuple[int, float]]) -> None:
    values = np.array(rows, float)
    tests = {0: lambda x, v: x == v, 1: lambda x, v: x <= v, 2: lambda x, v: x >= v}
    for side, value in [(0, 1.0), (1, 1.0), (2, 2.0), (0, float("nan"))]:
        predicate = ((0, 0, 1.0), (1, side, value))
        meeting = [
            i for i, (a, b) in enumerate(values.tolist())
            if a == 1.0 and (np.isnan(b) if np.isnan(value) else tests[side](b, value))
        ]  # fmt: skip
        assert singled_out([predicate], values)[0] == (meeting[0] if len(meeting) == 1 else -1)


def test_a_guess_is_right_within_a_twentieth_of_the_ranks_and_a_category_only_if_it_is_the_same() -> None:
    nan, known = float("nan"), np.append(np.arange(100.0), np.full(20, np.nan))
    guess, truth = np.array([50, 50, nan, nan, 7.0]), np.array([54, 57, nan, 1.0, nan])
    assert same(known, number=True)(guess, truth).tolist() == [True, False, True, False, False]
    assert same(known, number=False)(guess, truth).tolist() == [False, False, True, False, False]
    assert same(known[100:], number=True)(guess, truth).tolist() == [False, False, True, False, False]


def test_membership_claims_no_more_non_members_than_it_may() -> None:
    found = membership(fresh(5, rows=1500, held=900), np.random.default_rng(0))
    assert all(a.control <= 0.01 for a in found)


# ── what leaks is found ─────────────────────────────────────────────────────────────────────────────────────


def test_five_copies_in_a_hundred_rows_are_found() -> None:
    found = judged(tried(leaky(0, 0.05)))
    assert {"copies", "near copies", "membership", "linkability"} <= found


def test_five_near_copies_in_a_hundred_rows_are_found_though_none_is_a_copy() -> None:
    found = tried(leaky(0, 0.05, noise=0.01))
    assert found["copies"].success == 0
    assert {"near copies", "membership", "linkability"} <= judged(found)


def test_a_table_that_is_the_training_rows_loses_to_every_attack() -> None:
    sides = leaky(0, 1.0, rows=2000, held=1000)
    assert judged(tried(sides)) == set(NAMES)


def test_a_model_that_puts_a_kernel_on_each_row_is_found() -> None:
    sides = leaky(2, 1.0, noise=0.2, rows=1500, held=1000)
    found = tried(sides)
    assert {"membership", "near copies", "distance", "linkability", "inference"} <= judged(found)
    assert found["membership"].auc is not None
    assert found["membership"].auc.proven(0.5) > 0.6


def test_rows_that_are_linked_for_being_unlike_all_others_are_found_among_the_most_exposed() -> None:
    sides = fresh(6, rows=4000, held=4000)
    points = Metric(sides.train, np.random.default_rng(0)).of(sides.train)
    far = two_nearest(points, points)[0][:, 1]
    lone = np.flatnonzero(far >= np.quantile(far, 0.97))
    leak = joined(sides.synthetic, Records(codes=sides.train.codes[lone], numbers=sides.train.numbers[lone]))
    found = tried(replace(sides, synthetic=leak))
    exposed, every = found["linkability, most exposed"], found["linkability"]
    assert exposed.risk.value > 5 * every.risk.value
    assert "linkability, most exposed" in judged(found)
    clean = tried(sides)
    assert not {"linkability, most exposed", "inference, most exposed"} & judged(clean)


def test_where_all_rows_have_twins_nobody_is_the_most_exposed() -> None:
    rng = np.random.default_rng(7)
    alike = [
        Records(codes=rng.integers(0, 2, (1000, 4)).astype(np.int32), numbers=np.zeros((1000, 0)))
        for _ in range(3)
    ]
    found = tried(Sides(train=alike[0], holdout=alike[1], synthetic=alike[2]))
    assert "linkability" in found
    assert "linkability, most exposed" not in found


def test_an_attribute_that_only_the_row_itself_gives_away_is_inferred() -> None:
    sides = fresh(4, rows=2500, held=1200, kind="categories")
    secret = np.random.default_rng(0)
    rows = [replace(r, numbers=secret.normal(size=(len(r), 2))) for r in (sides.train, sides.holdout)]
    # Synthetic rows know the one number by the other and by everything else only where they saw the row.
    leak = Records(
        codes=rows[0].codes, numbers=rows[0].numbers + 0.02 * secret.normal(size=rows[0].numbers.shape)
    )
    found = tried(Sides(train=rows[0], holdout=rows[1], synthetic=leak))
    assert "inference" in judged(found)
    assert found["inference"].naive is not None
    assert found["inference"].naive < found["inference"].success


def test_the_more_rows_leak_the_higher_is_the_risk() -> None:
    risks = [tried(leaky(0, share))["membership"].risk.value for share in (0.0, 0.1, 0.3, 1.0)]
    assert risks == sorted(risks)
    assert risks[1:] == pytest.approx([0.1, 0.3, 1.0], abs=0.03)


# ── what does not leak is not found ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["mixed", "categories", "numbers", "few"])
def test_rows_of_the_same_distribution_prove_nothing_whatever_the_seed(kind: str) -> None:
    above, figures = Counter[str](), 0
    for seed in range(60):
        found = tried(fresh(seed, rows=500, held=200, kind=kind), seed)
        assert judged(found) == set()
        above.update(name for name, a in found.items() if a.risk.low > 0)
        figures += len(found)
    # Of one figure in forty the interval lies above 0 by chance.
    assert sum(above.values()) < 0.05 * figures
    assert max(above.values(), default=0) <= 7


def test_held_out_rows_given_as_synthetic_ones_prove_nothing() -> None:
    sides = fresh(0)
    assert judged(tried(replace(sides, synthetic=sides.holdout))) == set()


# ── what a result is ────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_generator_gives_the_same_figures_and_another_gives_others() -> None:
    sides = leaky(0, 0.2)
    assert attack(sides, np.random.default_rng(1)) == attack(sides, np.random.default_rng(1))
    assert attack(sides, np.random.default_rng(1)) != attack(sides, np.random.default_rng(2))


def test_the_order_of_the_rows_does_not_matter() -> None:
    sides, rng = leaky(0, 0.2), np.random.default_rng(0)
    turned = Sides(**{
        side: r.take(rng.permutation(len(r)))
        for side, r in (("train", sides.train), ("holdout", sides.holdout), ("synthetic", sides.synthetic))
    })  # fmt: skip
    assert attack(turned, np.random.default_rng(1)) == attack(sides, np.random.default_rng(1))


def test_figures_survive_json() -> None:
    found = attack(leaky(0, 0.2, rows=2000, held=1000), np.random.default_rng(0))
    assert {a.name for a in found.done} == set(NAMES)
    assert Attacks.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_nothing_names_a_row_or_a_value() -> None:
    sides = leaky(0, 0.5)
    odd = 8_675_309.25
    sides.train.numbers[:300, 0] = odd + np.arange(300)
    sides.synthetic.numbers[:300, 0] = sides.train.numbers[:300, 0]
    found = attack(sides, np.random.default_rng(0))
    assert "8675" not in json.dumps(found.to_dict())
    for a in found.done:
        flat = [v for v in asdict(a).values() if not isinstance(v, dict | str | None.__class__)]
        assert all(np.ndim(v) == 0 for v in flat)
        assert a.risk.low <= a.risk.value <= a.risk.high


# ── tables that are hard to attack ──────────────────────────────────────────────────────────────────────────


def test_few_held_out_rows_are_not_attacked_and_it_says_so() -> None:
    found = attack(fresh(0, held=FEWEST - 1), np.random.default_rng(0))
    assert found.done == ()
    assert set(found.skipped) == set(NAMES)
    assert "attacks need 100 held-out rows, however: there are 99" in found.skipped["membership"]


def test_without_columns_nothing_is_attacked() -> None:
    nothing = Records(codes=np.zeros((300, 0), np.int32), numbers=np.zeros((300, 0)))
    found = attack(Sides(train=nothing, holdout=nothing, synthetic=nothing), np.random.default_rng(0))
    assert set(found.skipped) == set(NAMES)


def tables(rows: int) -> st.SearchStrategy[Records]:
    """Constants, missing values, infinite and huge ones, duplicates: whatever fits into two columns of each kind."""
    codes = st.lists(st.integers(-1, 3), min_size=2 * rows, max_size=2 * rows)
    odd = st.sampled_from([0.0, -0.0, 1.0, 1e300, -1e300, float("inf"), float("nan"), 7.25])
    numbers = st.lists(odd, min_size=2 * rows, max_size=2 * rows)
    return st.builds(
        lambda c, n: Records(codes=np.reshape(c, (rows, 2)).astype(np.int32), numbers=np.reshape(n, (rows, 2))),
        codes, numbers,
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(tables(5), tables(5), tables(5), st.integers(0, 3))
def test_no_table_is_too_odd(train: Records, holdout: Records, synthetic: Records, width: int) -> None:
    rng = np.random.default_rng(0)
    some = [r.take(rng.integers(5, size=FEWEST + 20)) for r in (train, holdout, synthetic)]
    some = [Records(codes=r.codes[:, : width // 2], numbers=r.numbers[:, : width - width // 2]) for r in some]
    with np.errstate(all="raise", under="ignore"):
        found = attack(Sides(train=some[0], holdout=some[1], synthetic=some[2]), np.random.default_rng(0))
    for a in found.done:
        assert np.isfinite([a.success, a.control, *asdict(a.risk).values()]).all()


def test_a_single_column_has_nobody_to_link_or_to_infer() -> None:
    sides = fresh(0)
    alone = Sides(**{
        side: Records(codes=r.codes[:, :0], numbers=r.numbers[:, :1])
        for side, r in (("train", sides.train), ("holdout", sides.holdout), ("synthetic", sides.synthetic))
    })  # fmt: skip
    found = attack(alone, np.random.default_rng(0))
    assert {"linkability", "inference", "singling out by several values"} <= set(found.skipped)
    assert {"copies", "membership", "singling out by one value"} <= {a.name for a in found.done}


def test_a_wide_table_is_attacked_by_some_of_its_columns() -> None:
    rng = np.random.default_rng(0)
    rows = [
        Records(codes=np.zeros((150, 0), np.int32), numbers=rng.normal(size=(150, 600))) for _ in range(2)
    ]
    found = tried(Sides(train=rows[0], holdout=rows[1], synthetic=rows[0]))
    assert found["linkability"].success > 0.99
    assert found["membership"].success == 1.0


def test_sides_of_different_columns_are_refused() -> None:
    sides = fresh(0)
    narrow = Records(codes=sides.holdout.codes[:, :1], numbers=sides.holdout.numbers)
    with pytest.raises(ValueError, match="all sides must have the same columns"):
        replace(sides, holdout=narrow)


def test_rows_that_are_all_alike_cannot_be_singled_out() -> None:
    sides = fresh(0, rows=400, held=200)
    alike = replace(sides, synthetic=sides.synthetic.take(np.zeros(400, np.int64)))
    assert singling_out(alike, np.random.default_rng(0)) == ()


def test_several_guesses_about_one_row_do_not_count_for_several() -> None:
    _, found = singling_out(fresh(0, rows=800, held=400, kind="numbers"), np.random.default_rng(0))
    apart = risk(found.success, found.guesses, found.control, found.guesses)
    assert found.risk.high - found.risk.low > apart.high - apart.low
