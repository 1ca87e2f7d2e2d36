"""Blocks of growing data: who pays, who belongs where, and what of it a crash or a forger can change."""

import itertools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from privacy.accounting import ORDERS, Loss
from privacy.book import Book, Budget, Event, Process, Reservation, Row
from privacy.chain import BESIDE, Link
from privacy.errors import BudgetRefused, LedgerError, UsageError
from privacy.fingerprint import siphash, sketch, unseal
from privacy.ledger import Ledger
from tests.privacy.ledgers import FORK, ONE, SLICE, Place, kill_at_random, sqlite_place

HALF = Loss.zcdp(0.0025)
UNIT = "'patient' as string"


def reserve(ledger: Ledger, *blocks: str, worst: Loss = SLICE, asked: Budget = ONE) -> Reservation:
    unit = UNIT if blocks else ""
    return ledger.reserve("visits", run="r", worst=worst, asked=asked, blocks=blocks, unit=unit)


def reading(ledger: Ledger, *blocks: str) -> str:
    """A reservation of which rows are read."""
    return ledger.touch(reserve(ledger, *blocks).id).id


def room(ledger: Ledger, *blocks: str) -> int:
    """How many slices still fit."""
    for count in itertools.count():
        try:
            reserve(ledger, *blocks)
        except BudgetRefused:
            return count
        assert count < 9
    raise AssertionError


def people(*names: int) -> Any:
    return np.array(names, np.uint64) * np.uint64(0x9E3779B97F4A7C15)


# Who pays.


def test_each_block_has_the_lifetime_for_itself(place: Place) -> None:
    ledger = place.open()
    assert [room(ledger, block) for block in ("january", "february")] == [4, 4]
    assert ledger.blocks("visits") == ("january", "february")
    assert ledger.spent("visits", "january").loss == ledger.spent("visits", "february").loss
    assert ledger.spent("visits", "march").loss == Loss.nothing()


def test_a_release_is_paid_by_each_block_that_it_reads_or_by_none_and_the_spent_are_named(
    place: Place,
) -> None:
    ledger = place.open()
    for _ in range(4):
        reserve(ledger, "january", "february")
    before = ledger.head()
    with pytest.raises(BudgetRefused, match=r"in each block.* in january, which cannot pay") as refused:
        reserve(ledger, "january", "march")
    assert refused.value.exit_code == 4
    with pytest.raises(BudgetRefused, match="february, january"):
        reserve(ledger, "march", "january", "february")
    assert ledger.head() == before
    assert room(ledger, "march") == 4


def test_who_reads_everybody_pays_from_every_block_also_of_those_to_come(place: Place) -> None:
    ledger = place.open()
    reserve(ledger)
    assert room(ledger, "january") == 3
    with pytest.raises(BudgetRefused, match="in january"):
        reserve(ledger)
    assert room(ledger, "february") == 3


def test_a_block_that_was_read_before_leaves_less_to_who_reads_everybody(place: Place) -> None:
    ledger = place.open()
    reserve(ledger, "january")
    reserve(ledger, "january", "february")
    assert room(ledger) == 2
    assert room(ledger, "march") == 2
    assert room(ledger, "february") == 1


def test_touch_commit_and_void_are_of_all_blocks_at_once(place: Place) -> None:
    ledger = place.open()
    kept, given_back = (reserve(ledger, "january", "february") for _ in range(2))
    ledger.touch(kept.id)
    ledger.commit(kept.id, HALF)
    ledger.void(given_back.id)
    for block in ("january", "february"):
        assert ledger.spent("visits", block).loss == HALF
    assert place.open().spent("visits", "february") == ledger.spent("visits", "february")


def test_a_block_of_void_reservations_alone_is_none(place: Place) -> None:
    ledger = place.open()
    ledger.void(reserve(ledger, "misspelt").id)
    assert ledger.blocks("visits") == ()


def test_of_a_dataset_the_block_that_has_spent_most_is_told_and_bounds_its_lifetime(place: Place) -> None:
    ledger = place.open()
    reserve(ledger, "january", "february")
    reserve(ledger, "january")
    assert ledger.spent("visits").loss == SLICE + SLICE
    assert ledger.spent("visits").epsilon == ledger.spent("visits", "january").epsilon
    two = (SLICE + SLICE).epsilon(ONE.delta)
    with pytest.raises(BudgetRefused, match="below what is spent"):
        ledger.set_budget("visits", Budget(epsilon=0.999 * two, delta=ONE.delta), by="steward")
    ledger.set_budget("visits", Budget(epsilon=1.001 * two, delta=ONE.delta), by="steward")
    assert (room(ledger, "january"), room(ledger, "february"), room(ledger, "march")) == (0, 1, 2)


@pytest.mark.parametrize(("blocks", "unit"), [(("a", ""), UNIT), (("a", "a"), UNIT), (("a",), "")])
def test_blocks_have_names_that_differ_and_a_unit(place: Place, blocks: tuple[str, ...], unit: str) -> None:
    with pytest.raises(UsageError, match="blocks must have names"):
        place.open().reserve("visits", run="r", worst=SLICE, asked=ONE, blocks=blocks, unit=unit)


def test_units_that_are_told_apart_otherwise_would_look_new_and_are_refused(place: Place) -> None:
    ledger = place.open()
    held = reserve(ledger, "january")
    ledger.touch(held.id)
    ledger.assign(held.id, np.arange(3, dtype=np.uint64), block="january")
    other = "'patient' as int64"
    with pytest.raises(BudgetRefused, match="as string, and are 'patient' as int64"):
        ledger.reserve("visits", run="r", worst=SLICE, asked=ONE, blocks=("february",), unit=other)
    # Another dataset has other units.
    ledger.reserve("others", run="r", worst=SLICE, asked=ONE, blocks=("february",), unit=other)


BLOCKS = "abc"
SUBSETS = [tuple(s) for size in range(4) for s in itertools.combinations(BLOCKS, size)]


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(SUBSETS), st.integers(1, 9), st.sampled_from(["keep", "void", "commit"])),
        max_size=15,
    )
)
def test_accounts_of_blocks_are_those_of_a_slow_oracle(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[tuple[str, ...], int, str]]
) -> None:
    place = sqlite_place(tmp_path_factory.mktemp("oracle"))
    ledger, asked = place.open(), Budget(epsilon=1.2, delta=1e-6)
    ledger.set_budget("visits", asked, by="steward")
    paid: list[tuple[tuple[str, ...], int]] = []

    def rho(block: str) -> int:
        return sum(cost for blocks, cost in paid if not blocks or block in blocks)

    for blocks, amount, end in steps:
        known = {b for named, _ in paid for b in named}
        after = [rho(b) + amount for b in blocks or known or {""}]
        total = max(Loss.zcdp(a / 1000).epsilon(asked.delta) for a in after)
        assume(abs(total - asked.epsilon) > 1e-9)
        try:
            held = reserve(ledger, *blocks, worst=Loss.zcdp(amount / 1000), asked=asked)
        except BudgetRefused:
            assert total > asked.epsilon
            continue
        assert total <= asked.epsilon
        cost = {"keep": amount, "void": 0, "commit": amount // 2}[end]
        if end == "commit":
            ledger.touch(held.id)
            ledger.commit(held.id, Loss.zcdp(cost / 1000))
        if end == "void":
            ledger.void(held.id)
        else:
            paid.append((blocks, cost))
        for block in BLOCKS:
            assert ledger.spent("visits", block).loss.curve[9] == pytest.approx(rho(block) / 1000 * ORDERS[9])
    assert all(place.open().spent("visits", b) == ledger.spent("visits", b) for b in BLOCKS)


# Who belongs where.


def test_a_unit_stays_in_the_block_in_which_it_was_first_seen(place: Place) -> None:
    ledger = place.open()
    first = reading(ledger, "january")
    assert ledger.assign(first, people(1, 2, 1), block="january").all()
    second = reading(ledger, "february")
    rows = ledger.assign(second, people(1, 3, 2, 3, 4), block="february")
    assert rows.tolist() == [False, True, False, True, True]
    both = reading(ledger, "january", "march")
    rows = ledger.assign(both, people(1, 3, 5, 2), block="march")
    assert rows.tolist() == [True, False, True, True]
    # Also those of whom nobody has read a row.
    assert not ledger.assign(second, people(5), block="february").any()


def test_new_units_of_a_block_that_is_spent_are_kept_in_it_and_not_read(place: Place) -> None:
    ledger = place.open()
    ledger.set_budget("visits", ONE, by="steward")
    held = reading(ledger, "february")
    assert not ledger.assign(held, people(7, 8), block="january").any()
    assert not ledger.assign(held, people(7), block="february").any()


def test_no_unit_is_an_assignment_too(place: Place) -> None:
    ledger = place.open()
    held = reading(ledger, "january")
    assert ledger.assign(held, people(), block="january").tolist() == []
    assert ledger.assign(held, people(1), block="january").all()
    head = ledger.head()
    assert ledger.assign(held, people(1, 1), block="january").all()
    assert ledger.head() == head


MONTHS = st.lists(st.sets(st.integers(0, 12), max_size=8), min_size=1, max_size=4)


@settings(max_examples=20)
@given(months=MONTHS, one=st.integers(0, 12))
def test_who_is_taken_from_all_months_moves_nobody_else(
    tmp_path_factory: pytest.TempPathFactory, months: list[set[int]], one: int
) -> None:
    read: list[list[list[int]]] = []
    for table in (months, [month - {one} for month in months]):
        ledger = sqlite_place(tmp_path_factory.mktemp("neighbour")).open()
        ledger.set_budget("visits", ONE, by="steward")
        rows = []
        for number, month in enumerate(table):
            # Each month reads its own block and the one before.
            held = reading(ledger, *{str(max(0, number - 1)), str(number)})
            mask = ledger.assign(held, people(*sorted(month)), block=str(number))
            rows.append([u for u, paid in zip(sorted(month), mask, strict=True) if paid])
        read.append(rows)
    assert [[u for u in month if u != one] for month in read[0]] == read[1]


def test_blocks_of_one_dataset_say_nothing_of_anothers(place: Place) -> None:
    ledger = place.open()
    ledger.assign(reading(ledger, "january"), people(1, 2), block="january")
    other = ledger.reserve("others", run="r", worst=SLICE, asked=ONE, blocks=("x",), unit=UNIT)
    ledger.touch(other.id)
    assert ledger.assign(other.id, people(1, 2), block="x").all()


def test_units_are_assigned_by_who_reads_blocks(place: Place) -> None:
    ledger = place.open()
    untouched, everybody = reserve(ledger, "january").id, reading(ledger)
    done = reading(ledger, "january")
    ledger.commit(done, HALF)
    for reservation in (untouched, everybody, done):
        with pytest.raises(BudgetRefused, match="put into blocks by who reads some"):
            ledger.assign(reservation, people(1), block="january")


def test_a_run_that_dies_after_its_assignment_leaves_its_units_where_they_are(place: Place) -> None:
    def run() -> None:
        ledger = place.open()
        ledger.assign(reading(ledger, "january"), people(1, 2), block="january")
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    ledger = place.open()
    rows = ledger.assign(reading(ledger, "february"), people(1, 2, 3), block="february")
    assert rows.tolist() == [False, False, True]


# What is kept, and how it is noticed that it was not.


def mapped(place: Place) -> Ledger:
    """Two rows with units: two of January, and, in row 6, one of February."""
    ledger = place.open()
    ledger.key()
    ledger.assign(reading(ledger, "january"), people(1, 2), block="january")
    ledger.assign(reading(ledger, "february"), people(1, 2, 3), block="february")
    assert [row.number for row in ledger.history("visits") if row.event is Event.ASSIGNED] == [4, 7]
    return ledger


MAP_TAMPERINGS = {
    "edited": (f"UPDATE {BESIDE} SET data = (SELECT data FROM {BESIDE} WHERE number = 7) WHERE number = 4", "row 4"),
    "deleted": (f"DELETE FROM {BESIDE} WHERE number = 7", "row 7"),
    "emptied": (f"DELETE FROM {BESIDE}", "row 4"),
    "gone": (f"DROP TABLE {BESIDE}", "row 4"),
    "exchanged": (
        f"UPDATE {BESIDE} SET number = 9 WHERE number = 4;UPDATE {BESIDE} SET number = 4 WHERE number = 7;"
        f"UPDATE {BESIDE} SET number = 7 WHERE number = 9",
        "row 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", MAP_TAMPERINGS)
def test_each_tampering_with_the_map_is_noticed_and_its_row_is_named(place: Place, how: str) -> None:
    mapped(place)
    held = reading(place.open(), "march")
    statements, row = MAP_TAMPERINGS[how]
    place.tamper(*statements.split(";"))
    attempts: list[Callable[[Ledger], object]] = [
        lambda ledger: ledger.verify(),
        lambda ledger: ledger.assign(held, people(1), block="march"),
    ]
    for attempt in attempts:
        with pytest.raises(LedgerError, match=rf"{row} put into a block"):
            attempt(place.open())


def test_a_map_that_was_cut_with_its_row_is_noticed_by_a_certificate(place: Place) -> None:
    ledger = mapped(place)
    head = ledger.head()
    place.tamper("DELETE FROM understudy_ledger WHERE number = 7", f"DELETE FROM {BESIDE} WHERE number = 7")
    with pytest.raises(LedgerError, match="does not hold"):
        place.open().verify([head])


def test_the_database_refuses_to_change_or_delete_the_map(place: Place) -> None:
    head = mapped(place).head()
    attempts = [f"UPDATE {BESIDE} SET number = 9", f"DELETE FROM {BESIDE} WHERE number = 4"]
    attempts.append(
        f"TRUNCATE {BESIDE}" if place.postgres else f"REPLACE INTO {BESIDE} SELECT 4, data FROM {BESIDE}"
    )
    for attempt in attempts:
        with pytest.raises(Exception, match="appended, never changed"):
            place.execute(attempt)
    assert place.open().verify() == head


def test_the_map_shows_no_unit_without_its_key(place: Place) -> None:
    ledger = mapped(place)
    with ledger._chain.reading() as session:
        data = session.kept(4)
    assert len(data) == 16 + 8 * 256
    for hashed in siphash(people(1, 2), ledger.key()).tolist():
        assert hashed.to_bytes(8, "little") not in data


def test_under_another_key_all_units_would_look_new_and_it_is_refused(place: Place) -> None:
    ledger = mapped(place)
    held = reading(ledger, "march")
    kept = place.key.read_text()
    place.key.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        place.open().assign(held, people(1), block="march")
    place.key.write_text("00" * 16)
    with pytest.raises(LedgerError, match="one key"):
        place.open().assign(held, people(1), block="march")
    place.key.write_text(kept)
    assert not place.open().assign(held, people(1), block="march").any()


def test_a_row_without_blocks_is_what_it_was_before_there_were_any() -> None:
    row = Row(
        number=1, at=1.0, event=Event.RESERVED, dataset="d", process=Process(host="h", pid=1, started=""),
        run="r", budget=ONE, loss=SLICE,
    )  # fmt: skip
    body = row.body()
    assert body.startswith(
        '{"at":1.0,"budget":{"delta":1e-06,"epsilon":1.0},"dataset":"d","event":"reserved","loss":'
    )
    assert body.endswith('"process":{"host":"h","pid":1,"started":""},"run":"r"}')
    book = Book()
    book.add(Link(1, body, "hash"))
    assert book.reservations["hash"].blocks == book.blocks("d") == ()
    assert book.loss("d") == book.loss("d", "any") == SLICE


def test_months_that_were_seen_one_by_one_are_known_together_and_each_by_itself(place: Place) -> None:
    ledger = place.open()
    months = [people(*range(start, start + 1_000)) for start in range(0, 6_000, 1_000)]
    for month in months:
        ledger.identify("visits", sketch([month], ledger.key()))
    for renamed in (months, months[3:4], [*months[2:4], people(*range(9_000, 9_500))]):
        with pytest.raises(BudgetRefused, match="dataset: visits"):
            ledger.identify("others", sketch(renamed, ledger.key()))
    ledger.identify("others", sketch([people(*range(9_000, 12_000))], ledger.key()))


# Several at once.


def test_of_runs_at_once_only_as_many_win_as_fit_into_the_block_that_they_share(place: Place) -> None:
    place.open().set_budget("visits", ONE, by="steward")
    gate, won = FORK.Barrier(8), FORK.Value("i", 0)

    def run(number: int) -> None:
        ledger = place.open()
        gate.wait()
        try:
            reserve(ledger, f"own{number}", "shared")
        except BudgetRefused:
            return
        with won.get_lock():
            won.value += 1

    racers = [FORK.Process(target=run, args=(i,)) for i in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 8
    ledger = place.open()
    assert won.value == len(ledger.spent("visits").outstanding) == 4
    # Who was refused by the shared block has taken nothing from his own.
    assert len(ledger.blocks("visits")) == 5


SMALL = Loss.zcdp(1e-4)


def spend(place: Place, log: Path) -> None:
    """Reads random blocks until all are spent, with units that others see, too; says what the ledger has confirmed."""
    ledger, chance, left = place.open(), random.Random(os.getpid()), list(BLOCKS)
    with log.open("a") as told:
        while left:
            blocks = chance.sample(left, chance.randint(1, len(left)))
            try:
                held = reserve(ledger, *blocks, worst=SMALL)
            except BudgetRefused:
                left = left if len(blocks) > 1 else [b for b in left if b not in blocks]
                continue
            print("reserved", held.id, ",".join(blocks), file=told, flush=True)
            if chance.random() < 0.7:
                ledger.touch(held.id)
                units = [chance.randrange(400) for _ in range(20)]
                rows = ledger.assign(held.id, people(*units), block=blocks[0])
                read = {u for u, paid in zip(units, rows, strict=True) if paid}
                print("read", held.id, ",".join(map(str, sorted(read))), file=told, flush=True)
                if chance.random() < 0.5:
                    ledger.commit(held.id, Loss.zcdp(7e-5))


def test_processes_killed_at_random_never_exceed_a_block_nor_put_a_unit_into_two(
    place: Place, tmp_path: Path
) -> None:
    place.open().set_budget("visits", Budget(epsilon=0.5, delta=1e-6), by="steward")
    place.open().key()
    kill_at_random(spend, place, tmp_path)
    check_survivors(place, tmp_path)


def check_survivors(place: Place, logs: Path) -> None:
    ledger = place.open()
    ledger.verify()
    for block in BLOCKS:
        spent = ledger.spent("visits", block)
        assert spent.lifetime is not None
        assert spent.epsilon <= spent.lifetime.epsilon
        assert (spent.loss + SMALL).epsilon(spent.lifetime.delta) > spent.lifetime.epsilon
    paying = {row.hash: set(row.blocks) for row in ledger.history("visits")}
    where: dict[int, set[str]] = {}
    lines = [line.split() for log in logs.glob("log*") for line in log.read_text().splitlines()]
    told = [words for words in lines if len(words) == 3]
    assert len(told) > 20
    for what, name, of in told:
        if what == "reserved":
            assert paying[name] == set(of.split(","))
        else:
            for unit in map(int, of.split(",")):
                where[unit] = where.get(unit, set(BLOCKS)) & paying[name]
    # Each unit that was read may be in one block that paid each time.
    assert where
    assert all(where.values())
    with ledger._chain.reading() as session:
        maps = [session.kept(row.number) for row in ledger.history("visits") if row.event is Event.ASSIGNED]
    found = np.concatenate([unseal(sealed, ledger.key()) for sealed in maps])
    assert len(np.unique(found)) == len(found) > 100
