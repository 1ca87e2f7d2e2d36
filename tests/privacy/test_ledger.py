import itertools
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from privacy.accounting import ORDERS, Loss
from privacy.book import Book, Budget, Event, Process, Row
from privacy.chain import GENESIS, NAME, Link, _digest
from privacy.errors import BudgetRefused, Busy, LedgerError, UnderstudyError, UsageError
from privacy.fingerprint import sketch
from privacy.ledger import CLOCK_SECONDS, LIFETIME_DELTA, Ledger
from tests.privacy.ledgers import (
    FORK,
    ONE,
    SLICE,
    Place,
    elsewhere,
    kill_at_random,
    postgres_place,
    sqlite_place,
)

HALF = Loss.zcdp(0.0025)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def filled(place: Place) -> Ledger:
    """Seven rows: a lifetime, one release that was committed, and one that only touched; and one budget."""
    ledger = place.open()
    done, open_ = (ledger.reserve("adult", run=run, worst=SLICE, asked=ONE) for run in ("first", "second"))
    ledger.touch(done.id)
    ledger.commit(done.id, HALF)
    ledger.touch(open_.id)
    ledger.set_budget("flights", ONE, by="steward")
    return ledger


def fill_up(ledger: Ledger) -> int:
    """How many slices still fit."""
    for count in itertools.count():
        try:
            ledger.reserve("adult", run="fill", worst=SLICE, asked=ONE)
        except BudgetRefused:
            return count
        assert count < 9
    raise AssertionError


# What a release costs.


def test_releases_beyond_the_lifetime_are_refused_with_exit_code_4(place: Place) -> None:
    ledger = place.open()
    assert fill_up(ledger) == 4
    before = ledger.head()
    with pytest.raises(BudgetRefused, match=r"epsilon 1 at delta 1e-06.*0\.899939.*1\.01417") as refused:
        ledger.reserve("adult", run="fifth", worst=SLICE, asked=ONE)
    assert refused.value.exit_code == 4
    assert ledger.head() == before


def test_the_first_release_of_a_dataset_makes_what_it_asks_for_the_lifetime(place: Place) -> None:
    ledger = place.open()
    assert ledger.remaining("adult") is None
    ledger.reserve("adult", run="first", worst=SLICE, asked=ONE)
    ledger.reserve("adult", run="second", worst=HALF, asked=Budget(epsilon=9.0, delta=1e-3))
    assert ledger.spent("adult").lifetime == ONE
    assert [row.event for row in ledger.history("adult")] == [Event.BUDGET, Event.RESERVED, Event.RESERVED]
    assert "first" in ledger.history("adult")[0].by


def test_a_run_that_drew_no_answer_binds_a_dataset_to_no_unit(place: Place) -> None:
    ledger = place.open()
    wrong, right = (
        ledger.reserve("adult", run=unit, worst=SLICE, asked=ONE, unit=unit).id for unit in ("a", "b")
    )
    for held in (wrong, right):
        ledger.touch(held)
    ledger.charge(right, "profile", 1)
    with pytest.raises(BudgetRefused, match="one dataset must have one unit"):
        ledger.charge(wrong, "profile", 1)
    with pytest.raises(BudgetRefused, match="one dataset must have one unit"):
        ledger.reserve("adult", run="third", worst=SLICE, asked=ONE, unit="a")
    ledger.charge(right, "profile", 2)


def test_an_answer_is_drawn_once_whoever_asks(place: Place) -> None:
    ledger = place.open()
    held = ledger.reserve("adult", run="first", worst=SLICE, asked=ONE).id
    with pytest.raises(BudgetRefused, match=r"must be touched while its run asks, however: .* is reserved"):
        ledger.charge(held, "model", 1)
    ledger.touch(held)
    # The third has no second before it where a run died between its own folder and the ledger.
    for part, number in (("profile", 1), ("profile", 3), ("model", 1)):
        ledger.charge(held, part, number)
    for part, number in (("profile", 3), ("profile", 2), ("model", 1)):
        with pytest.raises(BudgetRefused, match="run 'first' drew answers that its folder does not hold"):
            place.open().charge(held, part, number)
    place.open().whole(held, {"profile": 4, "model": 1})
    with pytest.raises(BudgetRefused, match="does not hold"):
        ledger.whole(held, {"profile": 2, "model": 9})
    assert ledger.spent("adult").loss == SLICE
    ledger.commit(held, HALF)
    with pytest.raises(BudgetRefused, match="is committed"):
        ledger.charge(held, "model", 2)
    assert place.open().outstanding(held) is None
    assert [str(row.event) for row in place.open().history("adult")].count("charged") == 3


def test_a_first_release_sets_the_lifetime_that_is_stated_in_the_same_transaction(place: Place) -> None:
    ledger, stated = place.open(), Budget(epsilon=2.0, delta=1e-6)
    low = Budget(epsilon=0.1, delta=1e-6)
    for attempt in (ledger.check, lambda *a, **k: ledger.reserve(*a, run="first", **k)):
        with pytest.raises(BudgetRefused, match=r"within epsilon 0\.1 .*makes it 0\.4"):
            attempt("adult", worst=SLICE, asked=ONE, lifetime=low)  # type: ignore[operator]
    assert (ledger.head(), ledger.datasets()) == (GENESIS, ())
    ledger.reserve("adult", run="first", worst=SLICE, asked=ONE, lifetime=stated)
    assert ledger.spent("adult").lifetime == stated


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (
            Budget(epsilon=0.1, delta=1e-6),
            r"epsilon 0\.1 at .*epsilon 1 at .*0\.\d+ of what is stated is spent",
        ),
        (
            Budget(epsilon=2.0, delta=1e-6),
            r"epsilon 2 at delta 1e-06 is stated .*epsilon 1 at delta 1e-06; change",
        ),
        (
            Budget(epsilon=1.0, delta=1e-5),
            r"at delta 1e-05 is stated .*at delta 1e-06; change it by `understudy",
        ),
    ],
)
def test_a_lifetime_that_is_not_the_ledgers_is_refused_with_both(
    place: Place, stated: Budget, said: str
) -> None:
    ledger = place.open()
    ledger.reserve("adult", run="first", worst=SLICE, asked=ONE)
    head = ledger.head()
    for attempt in (ledger.check, lambda *a, **k: ledger.reserve(*a, run="second", **k)):
        with pytest.raises(BudgetRefused, match=said):
            attempt("adult", worst=HALF, asked=ONE, lifetime=stated)  # type: ignore[operator]
    assert ledger.head() == head
    ledger.check("adult", worst=HALF, asked=ONE, lifetime=ONE)
    assert ledger.head() == head


def test_a_dataset_has_one_unit_whether_it_has_blocks_or_not(place: Place) -> None:
    ledger = place.open()
    ask: dict[str, Any] = {"worst": HALF, "asked": ONE}
    ledger.reserve("adult", run="before units were recorded", **ask)
    void = ledger.reserve("adult", run="first", unit="'doctor' as string", **ask)
    ledger.void(void.id)
    second = ledger.reserve("adult", run="second", unit="rows", **ask)
    ledger.touch(second.id)
    ledger.charge(second.id, "profile", 1)
    head = place.open().head()
    for blocks in ((), ("january",)):
        with pytest.raises(
            BudgetRefused, match="units were rows, and are 'patient' as string now"
        ) as refused:
            place.open().reserve("adult", run="third", unit="'patient' as string", blocks=blocks, **ask)
        assert refused.value.exit_code == 4
    assert place.open().head() == head
    place.open().reserve("adult", run="third", unit="rows", **ask)
    place.open().reserve("flights", run="third", unit="'patient' as string", **ask)


def test_a_refused_first_release_leaves_no_lifetime(place: Place) -> None:
    ledger = place.open()
    with pytest.raises(UsageError, match="worst case"):
        ledger.reserve("adult", run="first", worst=Loss.zcdp(1.0), asked=ONE)
    assert ledger.datasets() == ()


def test_datasets_do_not_pay_for_each_other(place: Place) -> None:
    ledger = place.open()
    fill_up(ledger)
    ledger.reserve("flights", run="x", worst=SLICE, asked=ONE)
    assert ledger.datasets() == ("adult", "flights")


def test_a_committed_release_costs_its_actual_loss(place: Place) -> None:
    ledger = place.open()
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    assert ledger.spent("adult").loss == SLICE
    ledger.touch(held.id)
    assert ledger.spent("adult").loss == SLICE
    ledger.commit(held.id, HALF)
    spent = ledger.spent("adult")
    assert (spent.loss, spent.outstanding, spent.epsilon) == (HALF, (), HALF.epsilon(1e-6))
    assert ledger.remaining("adult") is not None
    assert ledger.remaining("adult").epsilon == pytest.approx(1 - HALF.epsilon(1e-6))  # type: ignore[union-attr]


def test_a_run_that_is_killed_after_its_touch_costs_what_it_reserved(place: Place) -> None:
    def run() -> None:
        ledger = place.open()
        ledger.touch(ledger.reserve("adult", run="killed", worst=SLICE, asked=ONE).id)
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    ledger = place.open()
    spent = ledger.spent("adult")
    assert (process.exitcode, spent.loss) == (-signal.SIGKILL, SLICE)
    assert ledger.stale() == ()
    with pytest.raises(BudgetRefused, match="touched"):
        ledger.void(spent.outstanding[0].id)


def test_only_a_reservation_that_touched_nothing_is_given_back(place: Place) -> None:
    ledger = place.open()
    fill_up(ledger)
    untouched, touched, *_ = ledger.spent("adult").outstanding
    ledger.touch(touched.id)
    assert ledger.void(untouched.id).cost == Loss.nothing()
    with pytest.raises(BudgetRefused, match="is touched"):
        ledger.void(touched.id)
    assert fill_up(ledger) == 1


def test_a_release_that_its_gate_refuses_gets_nothing_back(place: Place) -> None:
    ledger = place.open()
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    ledger.touch(held.id)
    ledger.commit(held.id, SLICE)
    with pytest.raises(BudgetRefused, match="is committed"):
        ledger.void(held.id)
    with pytest.raises(BudgetRefused, match="is committed"):
        ledger.commit(held.id, Loss.nothing())
    assert ledger.spent("adult").loss == SLICE


def test_a_void_reservation_can_neither_be_touched_nor_committed(place: Place) -> None:
    ledger = place.open()
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    ledger.void(held.id)
    for attempt in (lambda: ledger.touch(held.id), lambda: ledger.commit(held.id, HALF)):
        with pytest.raises(BudgetRefused, match="is void"):
            attempt()
    assert ledger.spent("adult").loss == Loss.nothing()


def test_nothing_is_committed_that_was_not_touched(place: Place) -> None:
    ledger = place.open()
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    with pytest.raises(BudgetRefused, match="must be touched"):
        ledger.commit(held.id, HALF)


def test_saying_the_same_twice_adds_no_row(place: Place) -> None:
    ledger = place.open()
    kept, given_back = (ledger.reserve("adult", run="a", worst=SLICE, asked=ONE) for _ in range(2))
    steps: list[Callable[[], object]] = [
        lambda: ledger.touch(kept.id),
        lambda: ledger.commit(kept.id, HALF),
        lambda: ledger.void(given_back.id),
    ]
    for step in steps:
        first, head = step(), ledger.head()
        assert (step(), ledger.head()) == (first, head)


def test_another_process_cannot_touch_what_one_has_touched(place: Place) -> None:
    held = place.open().reserve("adult", run="a", worst=SLICE, asked=ONE)
    elsewhere(lambda: place.open().touch(held.id))
    with pytest.raises(BudgetRefused, match="a reservation of its own"):
        place.open().touch(held.id)


def test_another_process_may_commit_what_one_has_touched(place: Place) -> None:
    held = place.open().reserve("adult", run="a", worst=SLICE, asked=ONE)
    elsewhere(lambda: place.open().touch(held.id))
    assert place.open().commit(held.id, HALF).state is Event.COMMITTED


@pytest.mark.parametrize("order", [0, 57, len(ORDERS) - 1])
def test_a_release_may_not_exceed_its_reservation_at_any_order(place: Place, order: int) -> None:
    ledger = place.open()
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    ledger.touch(held.id)
    curve = list(SLICE.curve)
    curve[order] *= 1 + 1e-6
    with pytest.raises(BudgetRefused, match="more than it reserved"):
        ledger.commit(held.id, Loss(curve=tuple(curve)))
    with pytest.raises(BudgetRefused, match="more than it reserved"):
        ledger.commit(held.id, replace(HALF, delta=1e-9))
    curve[order] = SLICE.curve[order] * (1 + 1e-12)
    assert ledger.commit(held.id, Loss(curve=tuple(curve))).state is Event.COMMITTED


def test_failure_probabilities_add_up_and_are_taken_off_delta(place: Place) -> None:
    ledger = place.open()
    part = Loss.zcdp(0.001, delta=4e-7)
    for _ in range(2):
        ledger.reserve("adult", run="a", worst=part, asked=ONE)
    left = ledger.remaining("adult")
    assert left is not None
    assert left.delta == pytest.approx(2e-7)
    with pytest.raises(BudgetRefused, match="inf"):
        ledger.reserve("adult", run="a", worst=part, asked=ONE)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_budget_is_finite_and_positive(bad: float) -> None:
    with pytest.raises(UsageError, match="epsilon"):
        Budget(epsilon=bad, delta=1e-6)
    with pytest.raises(UsageError, match="delta"):
        Budget(epsilon=1.0, delta=bad)
    with pytest.raises(UsageError, match="delta"):
        Budget(epsilon=1.0, delta=1.0)


def test_a_dataset_without_a_name_is_refused(place: Place) -> None:
    ledger = place.open()
    for attempt in (
        lambda: ledger.reserve("", run="a", worst=SLICE, asked=ONE),
        lambda: ledger.set_budget("", ONE, by="steward"),
        lambda: ledger.identify("", (1, 2, 3)),
    ):
        with pytest.raises(UsageError, match="name"):
            attempt()


def test_a_lifetime_below_what_is_spent_is_refused_with_the_figure(place: Place) -> None:
    ledger = place.open()
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    spent = SLICE.epsilon(1e-6)
    with pytest.raises(BudgetRefused, match=f"{spent:.6g}"):
        ledger.set_budget("adult", Budget(epsilon=spent * 0.999, delta=1e-6), by="steward")
    with pytest.raises(BudgetRefused, match="below what is spent"):
        ledger.set_budget("adult", Budget(epsilon=spent * 1.001, delta=1e-9), by="steward")
    ledger.set_budget("adult", Budget(epsilon=spent * 1.001, delta=1e-6), by="steward")
    assert fill_up(ledger) == 0
    ledger.void(held.id)
    ledger.set_budget("adult", Budget(epsilon=spent * 0.5, delta=1e-6), by="steward")


def test_a_lifetime_at_a_delta_at_which_nothing_costs_anything_is_refused(place: Place) -> None:
    ledger, loose = place.open(), Budget(epsilon=1.0, delta=0.5)
    for attempt in (
        lambda: ledger.set_budget("adult", loose, by="steward"),
        lambda: ledger.reserve("adult", run="first", worst=SLICE, asked=loose),
    ):
        with pytest.raises(UsageError, match=r"at most 0\.0001, however: delta=0\.5"):
            attempt()
    assert ledger.datasets() == ()
    ledger.set_budget("adult", Budget(epsilon=1.0, delta=LIFETIME_DELTA), by="steward")


def test_a_ledger_of_before_with_a_loose_delta_is_read_and_pays_for_nothing(place: Place) -> None:
    ledger = place.open()
    with ledger._appending() as session:
        row = replace(ledger._row(Event.BUDGET, "adult"), budget=Budget(epsilon=1.0, delta=0.5), by="before")
        ledger._append(session, row)
    with pytest.raises(BudgetRefused, match=r"that of 'adult' is 0\.5"):
        place.open().reserve("adult", run="first", worst=SLICE, asked=ONE)
    ledger.set_budget("adult", ONE, by="steward")
    assert fill_up(place.open()) == 4


def test_a_raised_lifetime_lets_more_releases_in_and_says_who_raised_it(place: Place) -> None:
    ledger = place.open()
    fill_up(ledger)
    ledger.set_budget("adult", Budget(epsilon=1.1, delta=1e-6), by="the steward")
    assert fill_up(ledger) == 1
    assert [row.by for row in ledger.history("adult") if row.event is Event.BUDGET][-1] == "the steward"


# Against a slow oracle.

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "touch", "commit", "void", "budget"]),
        st.integers(0, 5),
        st.integers(1, 9),
    ),
    max_size=25,
)


def slow_epsilon(rho: float, delta: float) -> float:
    """Of rho·order at the orders of the ledger (Canonne, Kamath & Steinke 2020, arXiv 2004.00010, Proposition 12)."""
    if delta**2 > 1 - math.exp(-rho * min(ORDERS)):
        return 0.0
    return max(
        0.0, min(rho * a + math.log(1 - 1 / a) - math.log(delta * a) / (a - 1) for a in ORDERS if a > 1.01)
    )


@dataclass
class Held:
    """What the oracle knows of a reservation: the most that it may cost, in thousandths, and what it costs."""

    id: str
    most: int
    state: str = "reserved"
    cost: int = 0


class Oracle:
    """The rules, said once more and slowly: it adds everything up each time."""

    def __init__(self) -> None:
        self.lifetime: float | None = None
        self.held: list[Held] = []

    def rho(self) -> int:
        return sum({"void": 0, "committed": h.cost}.get(h.state, h.most) for h in self.held)

    def fits(self, more: int, epsilon: float) -> bool:
        total = slow_epsilon((self.rho() + more) / 1000, ONE.delta)
        assume(abs(total - epsilon) > 1e-9)
        return total <= epsilon

    def allows(self, verb: str, held: Held | None, amount: int) -> bool:
        if verb == "budget":
            return self.fits(0, amount / 3)
        if verb == "reserve":
            return self.fits(amount, self.lifetime or 1.5)
        if held is None:
            return False
        if verb == "touch":
            return held.state in ("reserved", "touched")
        if verb == "void":
            return held.state in ("reserved", "void")
        return (held.state == "touched" and amount <= held.most) or (
            held.state == "committed" and held.cost == amount
        )


def act(ledger: Ledger, verb: str, held: Held | None, amount: int) -> str:
    """Does a step with the ledger: the reservation's id, if it is one."""
    name, loss = held.id if held else "no such reservation", Loss.zcdp(amount / 1000)
    if verb == "budget":
        ledger.set_budget("adult", Budget(epsilon=amount / 3, delta=ONE.delta), by="steward")
        return ""
    if verb == "reserve":
        return ledger.reserve("adult", run="r", worst=loss, asked=Budget(epsilon=1.5, delta=ONE.delta)).id
    moves: dict[str, Callable[[], object]] = {
        "touch": lambda: ledger.touch(name),
        "void": lambda: ledger.void(name),
        "commit": lambda: ledger.commit(name, loss),
    }
    moves[verb]()
    return name


@settings(max_examples=25)
@given(steps=STEPS)
def test_a_ledger_decides_as_the_slow_oracle_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    place, oracle = sqlite_place(tmp_path_factory.mktemp("oracle")), Oracle()
    ledger = place.open()
    for verb, which, amount in steps:
        held = oracle.held[which] if which < len(oracle.held) else None
        allowed = oracle.allows(verb, held, amount)
        try:
            name = act(ledger, verb, held, amount)
        except UnderstudyError:
            assert not allowed, (verb, which, amount)
            continue
        assert allowed, (verb, which, amount)
        if verb == "budget":
            oracle.lifetime = amount / 3
        elif verb == "reserve":
            oracle.lifetime = oracle.lifetime or 1.5
            oracle.held.append(Held(name, amount))
        elif held:
            held.state = {"touch": "touched", "commit": "committed", "void": "void"}[verb]
            held.cost = amount
        assert ledger.spent("adult").loss.curve[9] == pytest.approx(oracle.rho() / 1000 * ORDERS[9])
    fresh = place.open()
    assert (fresh.verify(), fresh.spent("adult")) == (ledger.head(), ledger.spent("adult"))


# What is kept, and how it is noticed that it was not.

FLOATS = st.floats(min_value=0, allow_nan=False, allow_infinity=True, allow_subnormal=True)


@given(
    curve=st.lists(FLOATS, min_size=1, max_size=9).map(lambda some: (some * len(ORDERS))[: len(ORDERS)]),
    delta=st.floats(0, 1, exclude_max=True),
    at=st.floats(allow_nan=False, allow_infinity=False),
    words=st.text(min_size=1),
)
def test_a_row_comes_back_bit_by_bit(curve: list[float], delta: float, at: float, words: str) -> None:
    row = Row(
        number=1, hash="h", at=at, event=Event.RESERVED, dataset=words, process=Process.this(), run=words,
        budget=Budget(epsilon=0.1, delta=1e-300), loss=Loss(curve=tuple(curve), delta=delta),
    )  # fmt: skip
    back = Book().add(Link(1, row.body(), "h"))
    assert back == row
    assert back.loss is not None
    assert [a.hex() for a in back.loss.curve] == [a.hex() for a in curve]


def test_a_new_process_composes_to_the_very_same_figure(place: Place) -> None:
    ledger = place.open()
    ledger.set_budget("adult", Budget(epsilon=50.0, delta=1e-6), by="steward")
    for i in range(3, 12):
        asked = Budget(epsilon=2.0, delta=1e-6)
        held = ledger.reserve("adult", run="a", worst=Loss.zcdp(0.1 / i, delta=1e-9 / 7), asked=asked)
        ledger.touch(held.id)
        if i % 4:
            ledger.commit(held.id, Loss.zcdp(0.1 / (i + 0.3), delta=1e-9 / 9))
    assert place.open().spent("adult") == ledger.spent("adult")


def test_what_one_process_appends_the_others_see(place: Place) -> None:
    here = place.open()
    first = here.reserve("adult", run="a", worst=SLICE, asked=ONE)
    elsewhere(lambda: place.open().reserve("adult", run="b", worst=SLICE, asked=ONE))
    assert [r.run for r in here.spent("adult").outstanding] == ["a", "b"]
    here.touch(first.id)
    assert here.verify() == place.open().head()


def test_the_database_refuses_to_change_or_delete_a_row(place: Place) -> None:
    head = filled(place).head()
    attempts = [f"UPDATE {NAME} SET body = 'x' WHERE number = 3", f"DELETE FROM {NAME} WHERE number = 7"]
    attempts += (
        [f"TRUNCATE {NAME}"]
        if place.postgres
        else [f"REPLACE INTO {NAME} VALUES (7, 'x', 'y')", f"INSERT INTO {NAME} VALUES (99, 'x', 'y')"]
    )
    for attempt in attempts:
        with pytest.raises(Exception, match="appended, never changed"):
            place.execute(attempt)
    assert place.open().verify() == head


TAMPERINGS = {
    "edited": (f"UPDATE {NAME} SET body = replace(body, 'second', 'sekond') WHERE number = 3", "row 3"),
    "cheaper": (f"UPDATE {NAME} SET body = replace(body, '0x', '0x0') WHERE number = 5", "row 5"),
    "hash": (f"UPDATE {NAME} SET hash = '{'0' * 64}' WHERE number = 7", "row 7"),
    "deleted": (f"DELETE FROM {NAME} WHERE number = 4", "row 4"),
    "first": (f"DELETE FROM {NAME} WHERE number = 1", "row 1"),
    "closed up": (f"DELETE FROM {NAME} WHERE number = 7;UPDATE {NAME} SET number = 7 WHERE number = 6", "row 6"),
    "reordered": (
        f"UPDATE {NAME} SET number = -1 WHERE number = 4;UPDATE {NAME} SET number = 4 WHERE number = 5;"
        f"UPDATE {NAME} SET number = 5 WHERE number = -1",
        "row 4",
    ),
    "added": (f"INSERT INTO {NAME} SELECT 8, body, hash FROM {NAME} WHERE number = 3", "row 8"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERINGS)
def test_each_tampering_is_noticed_and_its_row_is_named(place: Place, how: str) -> None:
    filled(place)
    statements, row = TAMPERINGS[how]
    place.tamper(*statements.split(";"))
    for attempt in (
        lambda ledger: ledger.verify(),
        lambda ledger: ledger.reserve("adult", run="x", worst=HALF, asked=ONE),
        lambda ledger: ledger.spent("adult"),
    ):
        with pytest.raises(LedgerError, match=rf"{row}\b"):
            attempt(place.open())


def test_a_ledger_whose_last_rows_were_cut_off_is_noticed_by_a_certificate(place: Place) -> None:
    ledger = filled(place)
    head = ledger.head()
    place.tamper(f"DELETE FROM {NAME} WHERE number > 5")
    assert place.open().verify() != head
    with pytest.raises(LedgerError, match=f"does not hold {head}"):
        place.open().verify([head])
    for _ in range(2):
        with pytest.raises(LedgerError, match="this process"):
            ledger.spent("adult")


def test_a_chain_that_was_written_anew_is_noticed_by_a_certificate(place: Place) -> None:
    heads = [filled(place).head()]
    with place.open()._reading() as book:
        bodies = [row.body().replace("second", "sekond") for row in book.rows]
    statements, former = [f"DELETE FROM {NAME}"], GENESIS
    for number, body in enumerate(bodies, 1):
        former = _digest(former, body)
        statements.append(f"INSERT INTO {NAME} VALUES ({number}, '{body}', '{former}')")
    place.tamper(*statements)
    with pytest.raises(LedgerError):
        place.open().verify(heads)


def test_every_head_of_a_sound_chain_verifies(place: Place) -> None:
    ledger = place.open()
    heads = [ledger.head()]
    for _ in range(3):
        ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
        heads.append(ledger.head())
    assert len(set(heads)) == 4
    assert place.open().verify(heads) == heads[-1]
    with pytest.raises(LedgerError, match="does not hold"):
        place.open().verify([*heads, "f" * 64])


def test_a_restored_older_copy_is_noticed_also_when_it_was_carried_on(file: Path) -> None:
    place = sqlite_place(file.parent)
    ledger = place.open()
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    shutil.copy(file, file.with_name("backup"))
    ledger.touch(held.id)
    certificate = ledger.head()
    shutil.copy(file.with_name("backup"), file)
    with pytest.raises(LedgerError, match="this process"):
        ledger.commit(held.id, HALF)
    other = place.open()
    for _ in range(2):
        other.reserve("adult", run="b", worst=HALF, asked=ONE)
    with pytest.raises(LedgerError, match=certificate):
        other.verify([certificate])
    with pytest.raises(LedgerError, match="this process"):
        ledger.verify()


def test_a_row_in_the_place_of_one_that_a_process_has_read_is_noticed_by_it(file: Path) -> None:
    place = sqlite_place(file.parent)
    ledger = place.open()
    ledger.set_budget("adult", ONE, by="steward")
    shutil.copy(file, file.with_name("backup"))
    ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    shutil.copy(file.with_name("backup"), file)
    place.open().reserve("adult", run="b", worst=HALF, asked=ONE)
    assert len(place.open().history("adult")) == len(ledger._book.rows)
    with pytest.raises(LedgerError, match="row 2 is not what it was"):
        ledger.spent("adult")


def test_a_reservation_that_the_ledger_does_not_hold_is_an_error(place: Place) -> None:
    with pytest.raises(LedgerError, match="older copy"):
        filled(place).touch("f" * 64)


def test_rows_of_a_later_version_are_left_to_it(place: Place) -> None:
    head = filled(place).head()
    for fields in ({"event": "merged"}, {"event": "budget", "dataset": "x", "colour": "red"}, {}, []):
        body = json.dumps(fields)
        place.tamper(
            f"DELETE FROM {NAME} WHERE number = 8",
            f"INSERT INTO {NAME} VALUES (8, '{body}', '{_digest(head, body)}')",
        )
        with pytest.raises(LedgerError, match=r"row 8 .*later version"):
            place.open().verify()


def test_a_file_that_was_cut_anywhere_is_an_error_and_no_new_ledger(file: Path) -> None:
    place = sqlite_place(file.parent)
    ledger = place.open()
    ledger.key()
    head = filled(place).head()
    whole = file.read_bytes()
    for size in (0, 1, 50, 100, 4096, 4097, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(LedgerError) as refused:
            place.open().verify([head])
        assert "ledger.sqlite" in str(refused.value) or "row" in str(refused.value)
        with pytest.raises(LedgerError):
            place.open().reserve("adult", run="x", worst=HALF, asked=ONE)


def test_a_ledger_that_was_deleted_beside_its_key_is_no_new_one(file: Path) -> None:
    place = sqlite_place(file.parent)
    place.open().key()
    file.unlink()
    for attempt in (lambda: place.open().head(), lambda: place.open().set_budget("a", ONE, by="x")):
        with pytest.raises(LedgerError, match="missing or empty"):
            attempt()


@pytest.mark.parametrize("what", ["text", "image", "database", "folder"])
def test_a_file_that_is_no_ledger_is_an_error_and_stays_as_it_is(file: Path, what: str) -> None:
    if what == "folder":
        file.mkdir()
    elif what == "database":
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE patients (name TEXT)")
        connection.close()
    else:
        file.write_bytes({"text": b"a,b\n1,2\n" * 900, "image": b"\x89PNG\r\n\x1a\n" + bytes(8000)}[what])
    before = file.read_bytes() if file.is_file() else b""
    for attempt in (
        lambda: Ledger(file).head(),
        lambda: Ledger(file).reserve("a", run="r", worst=SLICE, asked=ONE),
    ):
        with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
            attempt()
    assert (file.read_bytes() if file.is_file() else b"") == before


def test_reading_a_ledger_that_is_not_there_creates_nothing(file: Path) -> None:
    ledger = Ledger(file)
    assert (ledger.head(), ledger.verify(), ledger.history("a"), ledger.stale()) == (GENESIS, GENESIS, (), ())
    assert list(file.parent.iterdir()) == []
    with pytest.raises(LedgerError, match="does not hold"):
        ledger.verify(["f" * 64])


def test_a_place_where_nothing_can_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="another path"):
        Ledger(tmp_path / "file" / "ledger.sqlite").set_budget("a", ONE, by="x")


def test_a_path_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%20é" / "ledger.sqlite"
    Ledger(path).set_budget("a", ONE, by="x")
    assert path.stat().st_size > 0
    assert Ledger(f"sqlite:///{tmp_path}/plain.sqlite").head() == GENESIS


@pytest.mark.parametrize(
    "where", ["mysql://host/db", "sqlite://", "sqlite:///:memory:", "http://x", "postgresql://", "://"]
)
def test_an_address_of_another_kind_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="ledger"):
        Ledger(where)


def test_a_password_is_not_printed() -> None:
    with pytest.raises(LedgerError) as refused:
        Ledger("postgresql://me:hunter2@127.0.0.1:9/x?connect_timeout=2").head()
    assert "hunter2" not in str(refused.value)
    assert "127.0.0.1" in str(refused.value)


def test_a_clock_that_goes_backwards_is_refused_before_anything_is_written(place: Place) -> None:
    now = [1_800_000_000.0]
    ledger = place.open(clock=lambda: now[0])
    held = ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    head = ledger.head()
    now[0] -= CLOCK_SECONDS + 1
    for attempt in (
        lambda: ledger.reserve("adult", run="b", worst=SLICE, asked=ONE),
        lambda: ledger.touch(held.id),
        lambda: ledger.set_budget("adult", ONE, by="x"),
    ):
        with pytest.raises(LedgerError, match="301 s"):
            attempt()
    assert ledger.verify() == head
    now[0] += 2
    ledger.touch(held.id)


def test_small_steps_of_the_clock_do_not_add_up(place: Place) -> None:
    now = [1_800_000_000.0]
    ledger = place.open(clock=lambda: now[0])
    ledger.set_budget("adult", ONE, by="x")
    now[0] -= 0.9 * CLOCK_SECONDS
    ledger.set_budget("adult", ONE, by="x")
    now[0] -= 0.9 * CLOCK_SECONDS
    with pytest.raises(LedgerError, match="clock"):
        ledger.set_budget("adult", ONE, by="x")


# Fingerprints.


def units(start: int, stop: int) -> list[Any]:
    return [np.arange(start, stop, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)]


def test_a_known_source_under_a_new_name_is_refused_and_its_name_is_told(place: Place) -> None:
    ledger = place.open()
    ledger.identify("adult", sketch(units(0, 5000), ledger.key()))
    head = ledger.head()
    for renamed in (units(0, 5000), units(1000, 4000), units(0, 6000), units(2000, 5500)):
        with pytest.raises(BudgetRefused, match="dataset: adult") as refused:
            place.open().identify("census", sketch(renamed, ledger.key()))
        assert refused.value.exit_code == 4
    assert ledger.head() == head


def test_rows_are_known_under_another_unit_in_either_order(place: Place) -> None:
    ledger = place.open()
    key, persons, rows = ledger.key(), units(50_000, 50_900), units(0, 5000)
    # Rows of before, by their contents alone, and new ones by both.
    ledger.identify("adult", sketch(rows, key))
    with pytest.raises(BudgetRefused, match="dataset: adult"):
        place.open().identify("census", sketch(persons, key), sketch(rows, key))
    ledger.identify("visits", sketch(persons, key), sketch(units(10_000, 12_000), key))
    ledger.identify("few columns", sketch(units(60_000, 60_500), key), ())
    ledger.identify("few columns", sketch(units(60_000, 60_500), key), ())
    ledger.identify("few columns as well", sketch(units(70_000, 70_500), key), ())
    head = ledger.head()
    for other in ([sketch(units(10_000, 12_000), key)], [(), sketch(persons, key)]):
        with pytest.raises(BudgetRefused, match="dataset: visits"):
            place.open().identify("more", *other)
    assert ledger.head() == head
    assert len(ledger.history("few columns")) == 2


def test_data_of_other_units_passes_under_a_new_name(place: Place) -> None:
    ledger = place.open()
    ledger.identify("adult", sketch(units(0, 5000), ledger.key()))
    ledger.identify("flights", sketch(units(5000, 10_000), ledger.key()))
    ledger.identify("some in common", sketch([*units(4000, 5000), *units(20_000, 24_000)], ledger.key()))
    assert ledger.verify() == ledger.head()


def test_grown_data_passes_under_its_own_name_and_is_known_from_then_on(place: Place) -> None:
    ledger = place.open()
    for stop in (100, 5000, 5000, 9000):
        ledger.identify("adult", sketch(units(0, stop), ledger.key()))
    assert len(ledger.history("adult")) == 3
    with pytest.raises(BudgetRefused, match="adult"):
        ledger.identify("new rows", sketch(units(5000, 9000), ledger.key()))


def test_a_ledger_shows_no_hash_of_a_unit_without_its_key(place: Place) -> None:
    ledger = place.open()
    hashes = sketch(units(0, 300), ledger.key())
    ledger.identify("adult", hashes)
    body = ledger.history("adult")[0].body()
    for value in hashes:
        assert value.to_bytes(8, "little").hex() not in body
        assert str(value) not in body


def test_a_key_that_is_lost_or_exchanged_is_an_error_once_there_are_fingerprints(place: Place) -> None:
    ledger = place.open()
    hashes = sketch(units(0, 300), ledger.key())
    ledger.identify("adult", hashes)
    assert stat.S_IMODE(place.key.stat().st_mode) == 0o600
    kept = place.key.read_text()
    place.key.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        place.open().identify("adult", hashes)
    place.key.write_text("00" * 16)
    with pytest.raises(LedgerError, match="one key"):
        place.open().identify("adult", hashes)
    place.key.write_text(kept)
    place.open().identify("adult", hashes)


def test_a_shared_database_needs_a_file_for_the_key(server: str, tmp_path: Path) -> None:
    place = postgres_place(server, tmp_path)
    with pytest.raises(UsageError, match="key"):
        Ledger(place.where).key()


# Several at once.


def test_stale_are_the_untouched_reservations_of_processes_that_ended(place: Place) -> None:
    ledger = place.open()
    ledger.reserve("adult", run="alive", worst=SLICE, asked=ONE)
    elsewhere(lambda: place.open().reserve("adult", run="dead", worst=SLICE, asked=ONE))
    elsewhere(
        lambda: place.open().touch(place.open().reserve("adult", run="read", worst=SLICE, asked=ONE).id)
    )
    assert [r.run for r in ledger.stale()] == ["dead"]
    ledger.void(ledger.stale()[0].id)
    assert ledger.stale() == ()


def test_a_process_of_another_machine_or_with_a_number_used_again_is_told_apart() -> None:
    this = Process.this()
    assert not this.gone()
    assert replace(this, started="an earlier boot/1").gone()
    assert not replace(this, host="elsewhere", started="an earlier boot/1").gone()
    assert replace(this, pid=2**22 + 1).gone()


def test_a_process_that_was_killed_is_gone_before_its_parent_has_taken_note() -> None:
    ready = FORK.SimpleQueue()

    def wait() -> None:
        ready.put(Process.this())
        time.sleep(60)

    child = FORK.Process(target=wait)
    child.start()
    process = ready.get()
    assert not process.gone()
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process.gone()
    child.join()


def test_of_runs_at_once_only_as_many_win_as_fit(place: Place) -> None:
    place.open().set_budget("adult", ONE, by="steward")
    gate, won = FORK.Barrier(8), FORK.Value("i", 0)

    def run() -> None:
        ledger = place.open()
        gate.wait()
        try:
            ledger.reserve("adult", run="race", worst=SLICE, asked=ONE)
        except BudgetRefused:
            return
        with won.get_lock():
            won.value += 1

    racers = [FORK.Process(target=run) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 8
    assert won.value == len(place.open().spent("adult").outstanding) == 4


def test_a_ledger_that_stays_locked_is_busy(place: Place) -> None:
    ledger = filled(place)
    with ledger._appending(), pytest.raises(Busy, match=r"locked for 0\.2 s"):
        place.open(patience_seconds=0.2).set_budget("adult", ONE, by="x")
    place.open(patience_seconds=0.2).set_budget("adult", ONE, by="x")


def test_a_reservation_whose_transaction_could_not_end_was_never_made(file: Path) -> None:
    sqlite_place(file.parent).open().set_budget("adult", ONE, by="steward")
    ledger = Ledger(file, patience_seconds=0.2)
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute(f"SELECT * FROM {NAME}").fetchall()
    # A reader lets a writer write into its cache, and holds up the end of the transaction alone.
    with pytest.raises(Busy, match="locked"):
        ledger.reserve("adult", run="a", worst=SLICE, asked=ONE)
    reader.close()
    assert ledger.spent("adult").outstanding == ()
    assert fill_up(ledger) == 4
    assert ledger.verify() == Ledger(file).head()


def spend(place: Place, log: Path) -> None:
    """Releases until the budget is spent; says in the log what the ledger has confirmed."""
    ledger, chance = place.open(), random.Random(os.getpid())
    with log.open("a") as told:
        while True:
            try:
                held = ledger.reserve("adult", run=str(os.getpid()), worst=Loss.zcdp(1e-4), asked=ONE)
            except BudgetRefused:
                return
            print(held.id, held.state, file=told, flush=True)
            if chance.random() < 0.7:
                print(held.id, ledger.touch(held.id).state, file=told, flush=True)
                if chance.random() < 0.7:
                    print(held.id, ledger.commit(held.id, Loss.zcdp(7e-5)).state, file=told, flush=True)


def test_processes_killed_at_random_lose_nothing_and_never_exceed_the_budget(
    place: Place, tmp_path: Path
) -> None:
    place.open().set_budget("adult", Budget(epsilon=0.5, delta=1e-6), by="steward")
    kill_at_random(spend, place, tmp_path)
    check_survivors(place, tmp_path)


def check_survivors(place: Place, logs: Path) -> None:
    ledger = place.open()
    ledger.verify()
    spent = ledger.spent("adult")
    assert spent.lifetime is not None
    assert spent.epsilon <= spent.lifetime.epsilon
    assert (spent.loss + Loss.zcdp(1e-4)).epsilon(spent.lifetime.delta) > spent.lifetime.epsilon
    with ledger._reading() as book:
        states = {r.id: list(Event).index(r.state) for r in book.reservations.values()}
    lines = [line.split() for log in logs.glob("log*") for line in log.read_text().splitlines()]
    told = [words for words in lines if len(words) == 2]
    assert len(told) > 20
    for name, state in told:
        assert states[name] >= list(Event).index(Event(state))
