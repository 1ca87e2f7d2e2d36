"""The private curator: noise of the stated size, charges, and neighbours that differ by at most the stated bound."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.accounting import Loss
from privacy.curator import MISSING, Batch, Cells, Counted, Curator, Floats, Held, Misfit
from privacy.errors import BudgetRefused, Busy, ReleaseError, UsageError
from privacy.private import Account, Charge, Journal, PrivateCurator
from synth.noised import Listed
from tests.privacy.arrays import KEY, ArrayRows, ListStore, numbered

EDGES = np.array([0, 3, 6])


@dataclass
class Quiet:
    """No noise; it remembers the scales that were asked for."""

    scales: list[float] = field(default_factory=list)

    def gaussian(self, values: NDArray[np.int64], *, scale: float) -> NDArray[np.int64]:
        self.scales.append(scale)
        return values

    def largest(self, scores: Floats, *, scale: float) -> int:
        self.scales.append(scale)
        return int(np.argmax(scores))


@dataclass(frozen=True)
class Vectors:
    """f(row) is a random vector that follows from the row's key, of a norm up to three times the bound."""

    size: int = 4
    bound: float = 2.0

    def of(self, batch: Batch) -> Held:
        keys = np.asarray(batch.columns["a"], np.int64)
        rows = [np.random.default_rng(abs(int(k)) % 1000).normal(size=self.size) * 3 for k in keys]
        return Held(np.array(rows).reshape(len(keys), self.size))


def rows_of(units: Sequence[int], keys: Sequence[int], *, unit_is_row: bool = False) -> ArrayRows:
    a = np.array(keys, np.int64)
    return ArrayRows(np.array(units, np.uint64), {"a": a, "b": a[::-1].copy()}, unit_is_row=unit_is_row)


def private(
    rows: ArrayRows, *, rho: float = 1.0, delta: float = 0.0, unit_rows: int = 1, quiet: bool = True
) -> tuple[PrivateCurator, Account]:
    account = Account(rho=rho, delta=delta)
    noise = Quiet() if quiet else None
    return PrivateCurator(rows, account, key=KEY, unit_rows=unit_rows, noise=noise), account


def cells(*names: str) -> list[Cells]:
    return [Cells(columns=(n,), edges=(EDGES,)) for n in names]


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[ArrayRows, ArrayRows, int]:
    """A table, the same with one more unit of up to 6 rows anywhere, and the rows of a unit that are kept."""
    size, more = draw(st.integers(0, 20)), draw(st.integers(1, 6))
    units = draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    for place in draw(st.lists(st.integers(0, size), min_size=more, max_size=more)):
        units.insert(place, 99)
    keys = draw(st.lists(st.integers(-2, 9), min_size=size + more, max_size=size + more))
    larger = rows_of(units, keys)
    others = larger.unit != 99
    columns = {n: c[others] for n, c in larger.columns.items()}
    return ArrayRows(larger.unit[others], columns, unit_is_row=False), larger, draw(st.integers(1, 4))


# ----------------------------------------------------------------------------------------------- sensitivity


@given(neighbours(), st.sampled_from(["rows", "units", "lowest", "highest"]))
def test_one_more_unit_moves_counts_by_at_most_the_sensitivity_that_was_charged(
    tables: tuple[ArrayRows, ArrayRows, int], of: Counted
) -> None:
    smaller, larger, unit_rows = tables
    answers = []
    for rows in (smaller, larger):
        curator, account = private(rows, unit_rows=unit_rows)
        answers.append(np.concatenate([a.value for a in curator.histogram(cells("a", "b"), of=of, share=1)]))
    assert np.linalg.norm(answers[1] - answers[0]) <= account.charges[0].sensitivity + 1e-9


@given(neighbours())
def test_one_more_unit_moves_a_sum_by_at_most_the_sensitivity_that_was_charged(
    tables: tuple[ArrayRows, ArrayRows, int],
) -> None:
    smaller, larger, unit_rows = tables
    values = []
    for rows in (smaller, larger):
        curator, account = private(rows, unit_rows=unit_rows)
        answer = curator.sum(Vectors(), share=1)
        values.append(answer.value)
        grid = answer.noise_std / account.charges[0].noise_std
    assert np.linalg.norm(values[1] - values[0]) <= account.charges[0].sensitivity * grid + 1e-12
    assert account.charges[0].sensitivity * grid <= 1.01 * unit_rows * Vectors().bound


def test_rows_as_long_as_the_bound_are_not_shortened_however_many_a_unit_has() -> None:
    rows = rows_of([1, 1, 1, 2], [3, 3, 3, 3])
    for unit_rows, kept in ((1, 2), (3, 4)):
        curator, _ = private(rows, unit_rows=unit_rows)
        answer = curator.sum(Vectors(), share=1)
        alone = Vectors().of(next(iter(rows.batches(size=1)))).weighted(None)
        shortened = alone * min(1.0, Vectors().bound / np.linalg.norm(alone))
        np.testing.assert_allclose(answer.value, kept * shortened, atol=1e-4)
        assert answer.noise_std == pytest.approx(unit_rows * Vectors().bound / math.sqrt(2), rel=0.01)


@given(neighbours())
def test_one_more_unit_moves_totals_by_at_most_the_sensitivity_that_was_charged(
    tables: tuple[ArrayRows, ArrayRows, int],
) -> None:
    smaller, larger, unit_rows = tables
    before, after = (
        [float(private(rows, unit_rows=unit_rows)[0].total(of=of, share=1).value) for of in ("rows", "units")]
        for rows in (smaller, larger)
    )
    assert abs(after[0] - before[0]) <= unit_rows
    assert abs(after[1] - before[1]) <= 1


@given(neighbours(), st.floats(0.1, 5))
def test_one_more_unit_moves_no_misfit_by_more_than_the_sensitivity_of_the_choice(
    tables: tuple[ArrayRows, ArrayRows, int], weight: float
) -> None:
    scores: list[Floats] = []

    class Listening(Quiet):
        def largest(self, scores_: Floats, *, scale: float) -> int:
            scores.append(scores_)
            return 0

    smaller, larger, unit_rows = tables
    candidates = [Misfit(marginal=c, expected=np.full(5, 1.5), weight=weight) for c in cells("a", "b")]
    for rows in (smaller, larger):
        account = Account(rho=1.0)
        curator = PrivateCurator(rows, account, key=KEY, unit_rows=unit_rows, noise=Listening())
        curator.choose(candidates, share=1)
    assert np.abs(scores[1] - scores[0]).max() <= account.charges[0].sensitivity + 1e-9


@given(neighbours())
def test_no_unit_keeps_more_rows_than_allowed_and_others_lose_none_by_it(
    tables: tuple[ArrayRows, ArrayRows, int],
) -> None:
    _, larger, unit_rows = tables
    curator, _ = private(larger, unit_rows=unit_rows)
    expected = sum(min(unit_rows, n) for n in np.unique(larger.unit, return_counts=True)[1])
    assert float(curator.total(of="rows", share=1).value) == expected


# ----------------------------------------------------------------------------------------------- noise


def test_a_certificate_says_nothing_that_follows_from_the_order_of_rows_or_names_that_were_not_learned() -> (
    None
):
    # Of strings whose categories are learned, keys are numbers in the order in which rows first have them.
    told = []
    for listed in ([0, 1], [1, 0], [1, 2]):
        account = Account(rho=1.0)
        curator = PrivateCurator(rows_of([1, 2], [0, 1]), account, key=KEY, noise=Quiet())
        curator.histogram([Listed(columns=("a",), keys=np.array(listed, np.int64))], share=1)
        (charge,) = account.charges
        assert charge.digest
        told.append((charge.digest, charge.published()))
    assert len({digest for digest, _ in told}) == 3
    assert all(published == told[0][1] and "digest" not in published for _, published in told)


def test_a_certificate_tells_noise_in_the_units_of_the_answer_by_mechanism_and_norm() -> None:
    curator, account = private(rows_of([1, 2], [3, 4]), delta=1e-3)
    summed = curator.sum(Vectors(), share=0.3)
    curator.values(["a"], at_least=1, share=0.3)
    misfit = Misfit(marginal=cells("a")[0], expected=np.zeros(5), weight=2.0)
    curator.choose([misfit], share=0.3)
    told = [c.published() for c in account.charges]
    assert told[0]["noise_std"] == pytest.approx(summed.noise_std)
    assert Vectors().bound <= told[0]["sensitivity"] <= 1.01 * Vectors().bound
    assert told[0]["grid"] < 1e-3
    said = [(t["mechanism"], t["norm"]) for t in told]
    assert said == [
        ("discrete Gaussian", "L2"),
        ("discrete Gaussian, and a threshold", "L2"),
        ("exponential, by Gumbel noise", "L∞"),
    ]
    steps = Charge(question="gradients", rho=0.1, noise_std=2.0, sensitivity=1.0, steps=10, rate=0.1)
    assert steps.published()["rho"] is None


def test_the_luck_of_a_code_is_not_known_to_who_knows_a_row_s_place() -> None:
    # Luck from the place itself would move with every row before it, far more than any charge provides for.
    seen: list[set[int]] = []

    def code(batch: Batch) -> dict[str, NDArray[np.int64]]:
        seen[-1].update(batch.unit.tolist())
        return {"a": np.asarray(batch.columns["row"], np.int64)}

    for key in (KEY, KEY, KEY[::-1]):
        seen.append(set())
        curator = PrivateCurator(numbered(500), Account(rho=1.0), key=key)
        curator.recode(code, ListStore(unit_is_row=True))
    assert all(len(units) == 500 for units in seen)
    assert seen[0] == seen[1]
    assert not seen[0] & seen[2]
    assert not seen[0] & set(range(500))


def test_what_stands_in_the_journal_of_a_question_says_nothing_without_the_key() -> None:
    told = set()
    for key in (KEY, KEY[::-1]):
        account = Account(rho=1.0)
        PrivateCurator(rows_of([1], [0]), account, key=key).histogram(cells("a"), share=1)
        told.add(account.charges[0].digest)
    assert len(told) == 2


def test_noise_has_the_size_that_the_budget_allows_and_that_the_answer_states() -> None:
    rows = numbered(100, a=np.arange(100, dtype=np.int64))
    edges = np.arange(4000, dtype=np.int64)
    curator, _ = private(rows, rho=0.02, quiet=False)
    exact = np.bincount(np.clip(np.arange(100), 0, 3999) + 2, minlength=4002)
    for share in (0.25, 0.5):
        answer = curator.histogram([Cells(columns=("a",), edges=(edges,))], share=share)[0]
        assert answer.noise_std == pytest.approx(1 / math.sqrt(2 * 0.02 * share))
        noise = answer.value[:4002] - exact[:4002]
        assert np.std(noise) == pytest.approx(answer.noise_std, rel=0.06)
        assert abs(np.mean(noise)) < 4 * answer.noise_std / math.sqrt(4002)
        assert (answer.value == np.rint(answer.value)).all()


def test_two_draws_of_noise_differ() -> None:
    answers = [private(numbered(50), quiet=False)[0].total(of="rows", share=0.001).value for _ in range(8)]
    assert len({float(a) for a in answers}) > 1


def test_a_choice_prefers_the_largest_misfit_as_the_exponential_mechanism_does() -> None:
    rows = numbered(40, a=np.zeros(40, np.int64))
    near, far = (
        Misfit(marginal=cells("a")[0], expected=np.array([0, 0, e, 0, 0.0]), allowance=0) for e in (36, 34)
    )
    chosen = [
        PrivateCurator(rows, Account(rho=0.5), key=KEY).choose([near, far], share=1) for _ in range(400)
    ]
    # Scores 4 and 6, sensitivity 1, ε = √(8 ρ) = 2: odds e^(ε·2/2) = e².
    assert np.mean(chosen) == pytest.approx(math.e**2 / (1 + math.e**2), abs=0.07)


def test_the_price_is_the_noise_that_the_answer_will_carry() -> None:
    rows = rows_of([0, 0, 1], [1, 2, 3])
    curator, _ = private(rows, unit_rows=3)
    for question, answer in (
        (cells("a")[0], lambda: curator.histogram(cells("a"), share=0.2)[0]),
        (Vectors(), lambda: curator.sum(Vectors(), share=0.2)),
    ):
        assert curator.price(question, share=0.2) == pytest.approx(answer().noise_std)


# ----------------------------------------------------------------------------------------------- values


def test_a_value_of_one_unit_is_hardly_ever_named_and_one_of_many_is() -> None:
    keys = np.array([7] * 400 + [-(2**40)] * 400 + list(range(1000, 1200)), np.int64)
    curator, account = private(numbered(1000, a=keys), rho=0.1, delta=1e-7, quiet=False)
    shared = curator.values(["a"], at_least=1, share=1)[0]
    assert shared.keys.tolist() == [-(2**40), 7]
    assert shared.counts == pytest.approx([400, 400], abs=20)
    assert account.spent.delta == 1e-7


def test_the_threshold_fails_no_more_often_than_delta_allows() -> None:
    delta = 0.05
    keys = np.arange(4000, dtype=np.int64)
    curator, _ = private(numbered(4000, a=keys), rho=0.02, delta=delta, quiet=False)
    passed = len(curator.values(["a"], at_least=1, share=1)[0].keys)
    # Each of the 4,000 values is one unit's: as often as delta at most may one be named.
    assert 0 < passed <= 4000 * delta


def test_values_are_refused_where_no_delta_is_left_for_them() -> None:
    with pytest.raises(UsageError, match="declare the categories"):
        private(numbered(10))[0].values(["row"], at_least=1, share=1)


# ----------------------------------------------------------------------------------------------- budget


def test_charges_add_up_to_the_budget_and_nothing_goes_beyond() -> None:
    curator, account = private(numbered(10), rho=0.3)
    for _ in range(4):
        curator.total(of="rows", share=0.25)
    assert account.spent.epsilon(1e-6) == pytest.approx(Loss.zcdp(0.3).epsilon(1e-6))
    with pytest.raises(BudgetRefused, match="budget"):
        curator.total(of="rows", share=0.01)


@pytest.mark.parametrize("share", [0, -1, 1.5, math.nan])
def test_a_question_without_a_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        private(numbered(10))[0].total(of="rows", share=share)


@pytest.mark.parametrize("rho", [0, -1, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho"):
        Account(rho=rho)


def test_rows_are_not_offered() -> None:
    curator, _ = private(numbered(10))
    assert not hasattr(curator, "rows")


def test_it_answers_whatever_a_curator_is_asked() -> None:
    curator: Curator = private(numbered(10))[0]
    assert float(curator.total(of="rows", share=1).value) == 10


# ----------------------------------------------------------------------------------------------- journal


def asked(folder: Path, *, stop: int = 3, share: float = 0.2) -> tuple[list[float], Account]:
    account = Account(rho=0.01, journal=Journal(folder))
    curator = PrivateCurator(numbered(100), account, key=KEY)
    return [float(curator.total(of="rows", share=share).value) for _ in range(stop)], account


def test_a_resumed_run_replays_its_answers_at_no_new_charge(tmp_path: Path) -> None:
    first, _ = asked(tmp_path, stop=2)
    again, account = asked(tmp_path, stop=4)
    assert again[:2] == first
    assert len(account.charges) == 4
    assert account.spent.epsilon(1e-6) == pytest.approx(Loss.zcdp(0.8 * 0.01).epsilon(1e-6))


def test_a_draw_that_was_lost_stays_charged_and_what_follows_has_less(tmp_path: Path) -> None:
    first, _ = asked(tmp_path, stop=1)
    Journal(tmp_path).charge(Charge(question="lost", rho=0.002, noise_std=1, sensitivity=1))
    for _ in range(2):
        again, account = asked(tmp_path, stop=5)
        assert again[0] == first[0]
        # A fifth is answered, a fifth is lost; four more of a fifth each share the three fifths that are left.
        assert [c.rho for c in account.charges] == pytest.approx([0.002, 0.002] + [0.0015] * 4)
        assert account.spent.within(Loss.zcdp(0.01))


def test_a_resumed_run_that_asks_something_else_is_refused(tmp_path: Path) -> None:
    asked(tmp_path)
    with pytest.raises(ReleaseError, match="asked before"):
        asked(tmp_path, share=0.1)


def test_a_charge_that_the_witness_refuses_is_taken_back_and_one_that_fails_otherwise_stays(
    tmp_path: Path,
) -> None:
    charge = Charge(question="a question", rho=0.1, noise_std=1.0, sensitivity=1.0)

    def witness(error: Exception) -> Callable[[int], None]:
        def told(number: int) -> None:
            raise error

        return told

    for error, kept in ((BudgetRefused("drawn before"), 0), (Busy("locked"), 1)):
        journal = Journal(tmp_path, witness=witness(error))
        with pytest.raises(type(error)):
            journal.charge(charge)
        assert len(journal) == len(Journal(tmp_path)) == kept


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    asked(tmp_path)
    next(iter(tmp_path.glob("*.json"))).write_text("{")
    with pytest.raises(ReleaseError, match="whole"):
        Journal(tmp_path)


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5, unique=True))
def test_keys_of_any_size_are_named_exactly(keys: list[int]) -> None:
    known = np.sort(np.array([k for k in keys if k != int(MISSING)], np.int64))
    curator, _ = private(numbered(len(known) * 60, a=np.repeat(known, 60)), rho=50, delta=1e-3)
    shared = curator.values(["a"], at_least=1, share=1)[0]
    assert shared.keys.tolist() == known.tolist()


def test_an_answer_is_not_taken_for_that_to_another_question(tmp_path: Path) -> None:
    rows = numbered(30, a=np.arange(30, dtype=np.int64), b=np.arange(30, dtype=np.int64))

    def ask(edges: list[int], column: str = "a") -> None:
        curator = PrivateCurator(rows, Account(rho=1.0, journal=Journal(tmp_path)), key=KEY)
        curator.histogram([Cells(columns=(column,), edges=(np.array(edges),))], share=0.5)

    ask([0, 5])
    ask([0, 5])
    for other in (lambda: ask([50, 70]), lambda: ask([0, 5], "b")):
        with pytest.raises(ReleaseError, match="asked before"):
            other()


def test_a_run_that_dies_while_it_counts_is_charged_nothing(tmp_path: Path) -> None:
    class Dying(ArrayRows):
        def batches(
            self, columns: Sequence[str] | None = None, *, size: int | None = None
        ) -> Iterator[Batch]:
            raise OSError("the disk is gone")

    account = Account(rho=1.0, journal=Journal(tmp_path))
    with pytest.raises(OSError, match="gone"):
        PrivateCurator(Dying(np.empty(0, np.uint64), {}), account, key=KEY).total(of="rows", share=1)
    assert account.charges == ()


def test_a_draw_that_took_all_and_was_lost_is_said_in_words(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.charge(Charge(question="lost", rho=1.0, noise_std=1, sensitivity=1))
    curator = PrivateCurator(numbered(10), Account(rho=1.0, journal=journal), key=KEY)
    with pytest.raises(BudgetRefused, match="lost took all"):
        curator.total(of="rows", share=1)


def test_an_account_that_is_closed_replays_and_answers_nothing_new(tmp_path: Path) -> None:
    first, _ = asked(tmp_path, stop=1)
    account = Account(rho=0.01, journal=Journal(tmp_path), closed=True)
    curator = PrivateCurator(numbered(100), account, key=KEY)
    assert float(curator.total(of="rows", share=0.2).value) == first[0]
    with pytest.raises(ReleaseError, match="settled"):
        curator.total(of="rows", share=0.2)


@dataclass(frozen=True)
class Odd(Vectors):
    """Some rows are no number, or infinite."""

    def of(self, batch: Batch) -> Held:
        rows = super().of(batch).rows.copy()
        keys = np.asarray(batch.columns["a"], np.int64)
        rows[keys == 1] = np.nan
        return Held(rows)


def test_a_row_that_is_no_number_is_refused_and_does_not_move_a_sum() -> None:
    curator, account = private(rows_of([0, 1, 2], [1, 2, 3]))
    with pytest.raises(ValueError, match="finite"):
        curator.sum(Odd(), share=1)
    assert account.charges == ()


def test_a_journal_with_half_an_answer_is_refused(tmp_path: Path) -> None:
    asked(tmp_path)
    whole = next(iter(tmp_path.glob("*.npz")))
    whole.write_bytes(whole.read_bytes()[:40])
    with pytest.raises(ReleaseError, match="whole"):
        Journal(tmp_path)
