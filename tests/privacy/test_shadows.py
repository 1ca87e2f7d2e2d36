"""Shadow models find what leaks, find nothing where nothing is, and say how surely."""

import itertools

import numpy as np
import pytest

from privacy.attacks import FALSE_POSITIVES
from privacy.estimate import auc
from privacy.metric import Flags, Floats, Metric, Records
from privacy.shadows import _Shared as Shared
from privacy.shadows import around, guess, most_exposed
from tests.privacy.people import people

SHADOWS, TARGETS = 16, 60


def coins(rng: np.random.Generator, targets: int = TARGETS) -> Flags:
    return rng.random((SHADOWS, targets)) < 0.5


def seen(rng: np.random.Generator, member: Flags, moved: Floats) -> Floats:
    """Features of targets that differ, of shadows that differ, and of who was learned from: (S, T, 4)."""
    shape = (*member.shape, 4)
    noise = rng.normal(size=shape) + rng.normal(size=(len(member), 1, 4))
    return rng.normal(size=(1, *shape[1:])) + noise + (member * moved)[..., None]


def test_where_nothing_leaks_chance_lies_in_the_intervals_and_is_never_ruled_out() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(40):
        member = coins(rng)
        found.append(guess("null", seen(rng, member, np.zeros(TARGETS)), member, rng))
    areas = [a.auc for a in found if a.auc is not None]
    # 95 %: fewer than 33 of 40 would be a fault (p < 0.002).
    assert sum(a.risk.low <= 0 <= a.risk.high for a in found) >= 33
    assert sum(a.low <= 0.5 <= a.high for a in areas) >= 33
    assert not any(a.risk.surely > 0 for a in found)
    # To leave a shadow out must not make guesses about it worse than chance.
    assert np.mean([a.value for a in areas]) == pytest.approx(0.5, abs=0.01)


def test_what_moves_with_who_was_learned_from_is_found() -> None:
    rng = np.random.default_rng(4)
    member = coins(rng)
    found = guess("leaky", seen(rng, member, np.full(TARGETS, 3.0)), member, rng)
    assert found.control <= FALSE_POSITIVES
    assert found.risk.surely > 0.3
    assert found.auc is not None
    assert found.auc.surely > 0.9
    assert found.guesses == member.sum()


def test_what_only_some_targets_show_is_found_though_they_move_to_either_side() -> None:
    rng = np.random.default_rng(5)
    member = coins(rng)
    moved = np.where(np.arange(TARGETS) % 2, 4.0, -4.0)
    assert guess("either", seen(rng, member, moved), member, rng).risk.surely > 0.3


def test_intervals_know_that_guesses_about_one_target_are_alike() -> None:
    """Some targets leak and some do not, so few targets say little, however many guesses there are."""
    rng = np.random.default_rng(6)
    areas, errors, held = [], [], []
    for _ in range(60):
        member = coins(rng, 20)
        found = guess("few", seen(rng, member, np.where(rng.random(20) < 0.5, 4.0, 0.0)), member, rng).auc
        assert found is not None
        areas.append(found.value)
        held.append((found.low, found.high))
        # The largest error that an area has whose guesses are each by itself.
        errors.append(np.sqrt(found.value * (1 - found.value) / min(member.sum(), (~member).sum())))
    truth = np.mean(areas)
    # 95 %: fewer than 51 of 60 would be a fault (p < 0.002).
    assert sum(low <= truth <= high for low, high in held) >= 51
    assert np.sum(np.abs(areas - truth) <= 1.96 * np.array(errors)) < 51


def test_no_shadows_no_guess() -> None:
    member = coins(np.random.default_rng(0))
    with pytest.raises(ValueError, match="four shadows"):
        guess("few", np.zeros((3, TARGETS, 2)), member[:3], np.random.default_rng(0))
    with pytest.raises(ValueError, match="four shadows"):
        guess("other", np.zeros((SHADOWS, TARGETS - 1, 2)), member, np.random.default_rng(0))


# ── what is seen around a target ────────────────────────────────────────────────────────────────────────────


def test_rows_alike_in_k_attributes_are_those_that_a_loop_over_all_sets_counts() -> None:
    rng = np.random.default_rng(1)
    known, targets, synthetic = people(rng, 300), people(rng, 5), people(rng, 40)
    counts = Shared(targets, known)(synthetic)
    low, high = (Shared(targets, known).__dict__[f"_{end}"] for end in ("low", "high"))
    attributes = range(targets.attributes)
    for t in range(len(targets)):
        alike = np.array([
            [*(targets.codes[t] == codes), *[
                (np.isnan(numbers[a]) and np.isnan(targets.numbers[t, a])) or low[t, a] <= numbers[a] <= high[t, a]
                for a in range(len(numbers))
            ]]
            for codes, numbers in zip(synthetic.codes, synthetic.numbers, strict=True)
        ])  # fmt: skip
        for size, count in zip((1, 2, 4), counts[t], strict=False):
            sets = list(itertools.combinations(attributes, size))
            assert count == pytest.approx(np.mean([alike[:, s].all(1).sum() for s in sets]))
        assert counts[t, -1] == alike.all(1).sum()


def test_numbers_are_alike_where_few_known_ones_lie_between() -> None:
    known = Records(codes=np.zeros((100, 0), np.int32), numbers=np.arange(100.0)[:, None])
    target = Records(codes=np.zeros((1, 0), np.int32), numbers=np.array([[50.0]]))
    near, far = (known.take(np.array([place])) for place in (55, 56))
    assert Shared(target, known)(near)[0, -1] == 1
    assert Shared(target, known)(far)[0, -1] == 0


def test_a_copy_shows_in_every_feature() -> None:
    rng = np.random.default_rng(2)
    known, synthetic, targets = people(rng, 500), people(rng, 500), people(rng, 3)
    both = Records(
        codes=np.concatenate([synthetic.codes, targets.codes]),
        numbers=np.concatenate([synthetic.numbers, targets.numbers]),
    )
    without, copied = around(targets, known, [synthetic, both], rng)
    assert (copied >= without).all()
    assert (copied[:, 0] > without[:, 0] + 1).all()
    assert (copied[:, -1] > without[:, -1]).all()


def test_the_most_exposed_is_who_is_like_nobody() -> None:
    rng = np.random.default_rng(0)
    rows = people(rng, 400, kind="numbers")
    points = Metric(rows, rng).of(rows)
    rows.numbers[123] = rows.numbers.max(0) + 3 * rows.numbers.std(0)
    order = most_exposed(rows, rng)
    assert order[0] == 123
    assert sorted(order) == list(range(len(points)))


def test_equal_seeds_give_equal_figures() -> None:
    member = coins(np.random.default_rng(0))
    features = seen(np.random.default_rng(1), member, np.ones(TARGETS))
    first, second = (guess("same", features, member, np.random.default_rng(2)) for _ in range(2))
    assert first == second


def test_the_area_is_that_of_all_guesses_together() -> None:
    rng = np.random.default_rng(7)
    member = coins(rng)
    clear = np.where(member, 5.0, 0.0)[..., None] + rng.normal(size=(*member.shape, 1))
    found = guess("clear", clear, member, rng).auc
    assert found is not None
    assert found.value == pytest.approx(auc(clear[member][:, 0], clear[~member][:, 0]).value, abs=0.02)
