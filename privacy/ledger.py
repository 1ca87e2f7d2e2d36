"""Ledger: the lifetime budget of datasets, which no crash can lose and no two runs together can exceed.

A run reserves its worst case before it reads a private row, says that it touches rows before the first, and
commits what it really cost. A run that dies after the touch costs what it reserved; a gate that fails refunds
nothing; only a reservation that never touched a row can be given back. `book` says how rows compose, `chain`
how they are kept: one transaction under one lock reads, checks and appends.

The chain is checked whenever it is read. Each certificate carries its head, and `verify` looks for heads: so a
ledger that lost its last rows, or was replaced by an older copy, is noticed as well.

Growing data may have blocks: `assign` keeps for each unit the block in which it was first seen, before any of its rows
is used, and each block has the lifetime for itself.

The guarantee over a lifetime is void where rows are read without a reservation, under another ledger, or under
another dataset's name, which `identify` refuses as far as it can tell.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy import fingerprint
from privacy.accounting import Loss
from privacy.book import BEFORE, Book, Budget, Event, Process, Remaining, Reservation, Row, Spent
from privacy.chain import GENESIS, Chain, Session, tampered
from privacy.errors import BudgetRefused, LedgerError, UsageError
from privacy.fingerprint import Hashes

CLOCK_SECONDS = 300.0
"""How far the clocks of those who share a ledger may lie apart."""

ROUNDING = 1e-9
"""By which share an actual loss may exceed its reservation: sums of floats in another order, nothing else."""

LIFETIME_DELTA = 1e-4
"""Largest delta of a lifetime: a ledger does not know how many units there are, and at a large delta all is free."""

_NOBODY = np.empty(0, np.uint64)

_DRAWN_BEFORE = (
    "each answer is drawn once, however: run {run!r} drew answers that its folder does not hold, so the folder is a "
    "copy, or was put back from one; what was reserved stays charged: go on with the other one, or remove it and "
    "release anew, at a new charge"
)

KNOWN_SOURCE = 0.5
"""From which share of common units on one dataset is taken for another."""


class Ledger:
    """The lifetime budgets in one SQLite file or one PostgreSQL schema.

    Nothing is created before the first row is written.

    Attributes:
        name: its address, without a password.
    """

    def __init__(
        self,
        where: Path | str,
        *,
        key: Path | None = None,
        clock: Callable[[], float] = time.time,
        patience_seconds: float = 60.0,
    ) -> None:
        """Opens a ledger.

        Args:
            where: path of a SQLite file, or a SQLAlchemy URL (`sqlite:///…`, `postgresql+psycopg://…`).
            key: file of the fingerprints' key. Beside a SQLite file it is `NAME.key` unless said otherwise. For
                PostgreSQL it must be given where fingerprints are used: in the database the key would lie, and be
                backed up, with the sketches that it opens. Members of a team need the same file.
            clock: seconds since 1970, UTC.
            patience_seconds: how long to wait for others who write.

        Raises:
            UsageError: the address is none, or its driver is missing.
        """
        self._chain = Chain(where, patience_seconds=patience_seconds)
        self.name = self._chain.name
        beside = self._chain.file.with_suffix(".key") if self._chain.file else None
        self._beside, self._key = beside, key or beside
        self._clock = clock
        self._book = Book()
        self._seen = GENESIS
        self._mutex = threading.RLock()

    def set_budget(self, dataset: str, budget: Budget, *, by: str) -> None:
        """Sets or changes a dataset's lifetime, which each of its blocks has for itself.

        Raises:
            BudgetRefused: more than this is spent or reserved.
            UsageError: its delta is above `LIFETIME_DELTA`.
            LedgerError: the ledger cannot be trusted, or the clock.
        """
        _check_delta(budget)
        with self._appending() as session:
            fullest = self._book.fullest(dataset, budget.delta)
            spent = self._book.loss(dataset, fullest).epsilon(budget.delta)
            if not spent <= budget.epsilon:
                raise BudgetRefused(
                    f"a lifetime must not lie below what is spent, however: releases of {dataset!r} have spent or "
                    f"reserved epsilon {spent:.6g} at delta {budget.delta:g}, and {budget.epsilon:g} is asked for; "
                    "set at least that"
                )
            self._append(session, replace(self._row(Event.BUDGET, dataset), budget=budget, by=by))

    def reserve(
        self,
        dataset: str,
        *,
        run: str,
        worst: Loss,
        asked: Budget,
        blocks: Sequence[str] = (),
        unit: str = "",
        lifetime: Budget | None = None,
    ) -> Reservation:
        """Takes a release's worst case from the budget of a dataset, before any of its rows is read.

        Of a dataset without a lifetime it sets that as well, in the same transaction.

        Args:
            dataset: its name.
            run: whose release it is.
            worst: what it costs at most.
            asked: what it promises.
            blocks: those that it reads; each pays the worst case, or none does. Without any, everybody is read, and
                pays: all blocks that there are, and by what stands here also those to come.
            unit: what tells units from each other, the same for all releases of a dataset: losses of others do not add
                up to what anybody has lost, and units of blocks would all be new. Empty: not stated.
            lifetime: what the dataset's is by whoever asks; None: what it has, or for a first release what it asks for.

        Raises:
            BudgetRefused: with all that was spent and reserved it would exceed the lifetime, or that is not what is
                stated or has too large a delta; or units are told from each other by something else than before.
            UsageError: the worst case exceeds what is asked for, the dataset or a block has no name, or a first
                lifetime's delta is above `LIFETIME_DELTA`.
            LedgerError: the ledger cannot be trusted, or the clock.
            Busy: others keep the ledger locked.
        """
        with self._appending() as session:
            wanted = self._allow(dataset, worst, asked, blocks, unit, lifetime)
            if dataset not in self._book.budgets:
                first = self._row(Event.BUDGET, dataset)
                self._append(session, replace(first, budget=wanted, by=f"first release, run {run}"))
            row = replace(
                self._row(Event.RESERVED, dataset),
                blocks=tuple(blocks), run=run, budget=asked, loss=worst, unit=unit,
            )  # fmt: skip
            return self._book.reservations[self._append(session, row).hash]

    def check(
        self,
        dataset: str,
        *,
        worst: Loss,
        asked: Budget,
        blocks: Sequence[str] = (),
        unit: str = "",
        lifetime: Budget | None = None,
    ) -> None:
        """Refuses what `reserve` would refuse now, and writes nothing.

        Raises:
            BudgetRefused: as `reserve`.
            UsageError: as `reserve`.
            LedgerError: the ledger cannot be trusted.
        """
        with self._reading():
            self._allow(dataset, worst, asked, blocks, unit, lifetime)

    def touch(self, reservation: str) -> Reservation:
        """Says that rows are read from now on; again from the same process, says nothing new.

        Raises:
            BudgetRefused: another process touched it, or it is committed or void: a run that reads rows anew
                needs a reservation of its own.
            LedgerError: the ledger cannot be trusted, or the clock, or there is no such reservation.
            Busy: others keep the ledger locked.
        """
        with self._appending() as session:
            held = self._find(reservation)
            if held.state is Event.TOUCHED and held.process == Process.this():
                return held
            return self._move(session, held, Event.TOUCHED)

    def charge(self, reservation: str, part: str, number: int) -> None:
        """Says that an answer is about to be drawn, which no copy of the run's folder may draw again.

        Args:
            reservation: touched.
            part: of the run's budget.
            number: of the answer among those of the part, from 1.

        Raises:
            BudgetRefused: it was drawn before, or rows may not be asked about.
            LedgerError: the ledger cannot be trusted, or the clock, or there is no such reservation.
            Busy: others keep the ledger locked.
        """
        with self._appending() as session:
            held = self._find(reservation)
            if held.state is not Event.TOUCHED:
                raise BudgetRefused(
                    f"a reservation must be touched while its run asks, however: that of run {held.run!r} on "
                    f"{held.dataset!r} is {held.state}; remove the run's folder and release anew, at a new charge"
                )
            if not held.answers:
                self._check_unit(held.dataset, held.blocks, held.unit)
            if number <= held.answers.get(part, 0):
                raise BudgetRefused(_DRAWN_BEFORE.format(run=held.run))
            row = replace(self._row(Event.CHARGED, held.dataset), part=part, answers=number)
            self._append(session, replace(row, reservation=held.id))

    def commit(self, reservation: str, actual: Loss) -> Reservation:
        """Replaces the worst case by what a release cost; the same again says nothing new.

        Raises:
            BudgetRefused: it exceeds what was reserved, no row was touched, or another loss is committed.
            LedgerError: the ledger cannot be trusted, or the clock, or there is no such reservation.
            Busy: others keep the ledger locked.
        """
        with self._appending() as session:
            held = self._find(reservation)
            if held.state is Event.COMMITTED and held.cost == actual:
                return held
            pairs = [*zip(actual.curve, held.worst.curve, strict=True), (actual.delta, held.worst.delta)]
            if not all(cost <= most * (1 + ROUNDING) for cost, most in pairs):
                raise BudgetRefused(
                    f"a release may cost no more than it reserved, however: run {held.run!r} did, on "
                    f"{held.dataset!r}; do not publish it, and report the fault"
                )
            return self._move(session, held, Event.COMMITTED, loss=actual)

    def void(self, reservation: str) -> Reservation:
        """Gives back what was reserved for a run that touched no row; again, says nothing new.

        A run that is alive after all cannot touch a void reservation.

        Raises:
            BudgetRefused: rows were touched.
            LedgerError: the ledger cannot be trusted, or the clock, or there is no such reservation.
            Busy: others keep the ledger locked.
        """
        with self._appending() as session:
            held = self._find(reservation)
            if held.state is Event.VOID:
                return held
            return self._move(session, held, Event.VOID)

    def identify(self, dataset: str, *sketches: tuple[int, ...]) -> None:
        """Remembers the units of a dataset, and refuses those that are known under another name.

        Args:
            dataset: may have grown since, or changed.
            sketches: `fingerprint.sketch` of its units under this ledger's `key()`, and of its rows by what is in them
                where those are not units: so they are known again where another column is the unit, or none.

        Raises:
            BudgetRefused: at least `KNOWN_SOURCE` of the units, or rows, are another dataset's, or the other way round.
            LedgerError: the ledger or the key cannot be trusted, or the clock.
            Busy: others keep the ledger locked.
        """
        key = self.key()
        with self._appending() as session:
            self._check_key(key)
            known = [(row.dataset, _opened(row.sketch, key)) for row in self._book.identified()]
            for other, units in known:
                share = max(fingerprint.overlap(sketch, units) for sketch in sketches)
                if other != dataset and share >= KNOWN_SOURCE:
                    raise BudgetRefused(
                        f"one source must have one dataset's name, however: {KNOWN_SOURCE:.0%} or more of the units or "
                        f"rows of {dataset!r} or of {other!r} are common to both; write `dataset: {other}` in the "
                        "recipe, so that they share a budget"
                    )
            for sketch in sketches:
                if (dataset, sketch) not in known:
                    sealed = fingerprint.seal(sketch, key).hex()
                    row = self._row(Event.IDENTIFIED, dataset)
                    self._append(session, replace(row, key=fingerprint.name(key), sketch=sealed))

    def assign(self, reservation: str, units: Hashes, *, block: str) -> NDArray[np.bool_]:
        """Puts units that are in no block yet into one, for ever, and says which the reservation pays for.

        The map is on the disk before this returns: a run that dies later leaves its new units where they are. Where a
        unit belongs follows from when it was first seen, and from no other unit.

        Args:
            reservation: touched, of blocks.
            units: uint64 (n,): the unit of each row, as `fingerprint.sketch` takes it.
            block: of the new ones; it may be spent.

        Returns:
            bool (n,): whether the unit is of a block that was reserved. Rows of others must not be used.

        Raises:
            BudgetRefused: the reservation does not allow any row to be read, or reads no blocks.
            LedgerError: the ledger, the map or the key cannot be trusted, or the clock.
            Busy: others keep the ledger locked.
        """
        key = self.key()
        chunks = range(0, len(units), fingerprint.CHUNK)
        hashes = [fingerprint.siphash(units[i : i + fingerprint.CHUNK], key) for i in chunks]
        seen, place = np.unique(np.concatenate([*hashes, _NOBODY]), return_inverse=True)
        with self._appending() as session:
            self._check_key(key)
            held = self._find(reservation)
            self._check_unit(held.dataset, held.blocks, held.unit)
            if held.state is not Event.TOUCHED or not held.blocks:
                raise BudgetRefused(
                    f"units are put into blocks by who reads some, however: the reservation of run {held.run!r} on "
                    f"{held.dataset!r} is {held.state}, of blocks: {', '.join(held.blocks) or 'none'}; reserve anew"
                )
            rows = self._book.assigned(held.dataset)
            known = [(row.blocks[0], fingerprint.unseal(self._sealed_at(session, row), key)) for row in rows]
            new = np.setdiff1d(seen, np.concatenate([_NOBODY, *(u for _, u in known)]), assume_unique=True)
            if len(new):
                sealed = fingerprint.seal(new, key)
                row = replace(
                    self._row(Event.ASSIGNED, held.dataset),
                    blocks=(block,), reservation=held.id, key=fingerprint.name(key), units=_sha256(sealed),
                )  # fmt: skip
                session.keep(self._append(session, row).number, sealed)
                known.append((block, new))
        paid = np.concatenate([_NOBODY, *(u for b, u in known if b in held.blocks)])
        return np.isin(seen, paid)[place]

    def key(self) -> bytes:
        """The fingerprints' key; made at the first call.

        Raises:
            LedgerError: it is lost, damaged, or not the one of this ledger's fingerprints.
            UsageError: there is no file to keep it in.
        """
        if self._key is None:
            raise UsageError("fingerprints need a key, however: no file is named for it; name one")
        if not self._key.exists():
            self._make_key(self._key)
        key = fingerprint.read_key(self._key)
        with self._reading():
            self._check_key(key)
        return key

    def head(self) -> str:
        """The hash of the last row, which each certificate carries."""
        with self._reading() as book:
            return book.head

    def verify(self, heads: Iterable[str] = ()) -> str:
        """Reads the whole chain anew, with the map of units, and looks in it for hashes that were kept elsewhere.

        Args:
            heads: that certificates carry, and reservations of runs.

        Returns:
            The head.

        Raises:
            LedgerError: it says which row is wrong, or which head is missing.
        """
        with self._mutex:
            self._book = Book()
            with self._following(), self._chain.reading() as session:
                self._catch_up(session)
                book = self._book
                for row in book.rows:
                    if row.event is Event.ASSIGNED:
                        self._sealed_at(session, row)
                for head in heads:
                    if head not in book:
                        raise LedgerError(
                            "a ledger must hold the head of each certificate and each run's reservation, however: "
                            f"{self._chain.name} does not hold {head}; rows were cut off it, or an older copy or "
                            "another ledger is in its place: restore the right one, or take away another's certificate"
                        )
                return book.head

    def datasets(self) -> tuple[str, ...]:
        """The names of those with a lifetime."""
        with self._reading() as book:
            return tuple(book.budgets)

    def blocks(self, dataset: str) -> tuple[str, ...]:
        """The blocks of a dataset, in the order in which they came."""
        with self._reading() as book:
            return book.blocks(dataset)

    def spent(self, dataset: str, block: str | None = None) -> Spent:
        """What a dataset's releases cost a block, its units, together; None: the block that has spent most."""
        with self._reading() as book:
            lifetime = book.budgets.get(dataset)
            if block is None:
                block = "" if lifetime is None else book.fullest(dataset, lifetime.delta)
            loss = book.loss(dataset, block)
            return Spent(
                lifetime=lifetime,
                loss=loss,
                epsilon=loss.epsilon(lifetime.delta) if lifetime else 0.0,
                outstanding=book.outstanding(dataset),
            )

    def remaining(self, dataset: str) -> Remaining | None:
        """What a dataset's lifetime leaves, of its blocks to that which has spent most; None before it has one."""
        spent = self.spent(dataset)
        if spent.lifetime is None:
            return None
        return Remaining(
            epsilon=max(0.0, spent.lifetime.epsilon - spent.epsilon),
            delta=max(0.0, spent.lifetime.delta - spent.loss.delta),
        )

    def history(self, dataset: str) -> tuple[Row, ...]:
        """All rows of a dataset."""
        with self._reading() as book:
            return tuple(row for row in book.rows if row.dataset == dataset)

    def outstanding(self, reservation: str) -> Reservation | None:
        """A reservation that was neither committed nor voided; None where it was, or is not in the ledger."""
        with self._reading() as book:
            held = book.reservations.get(reservation)
            return held if held is not None and held.state in (Event.RESERVED, Event.TOUCHED) else None

    def committed(self, reservation: str) -> Loss | None:
        """What a release has cost; None where that was not written down."""
        with self._reading() as book:
            held = book.reservations.get(reservation)
            return held.cost if held is not None and held.state is Event.COMMITTED else None

    def whole(self, reservation: str, answers: Mapping[str, int]) -> None:
        """Refuses the folder of a run that holds fewer answers than were drawn, by part of the budget.

        Raises:
            BudgetRefused: it does.
        """
        held = self.outstanding(reservation)
        if held is not None and any(answers.get(part, 0) < n for part, n in held.answers.items()):
            raise BudgetRefused(_DRAWN_BEFORE.format(run=held.run))

    def stale(self) -> tuple[Reservation, ...]:
        """Reservations that touched no row and whose process has ended, on this machine: candidates for `void`."""
        with self._reading() as book:
            held = [r for r in book.reservations.values() if r.state is Event.RESERVED]
        return tuple(r for r in held if r.process.gone())

    def _allow(
        self,
        dataset: str,
        worst: Loss,
        asked: Budget,
        blocks: Sequence[str],
        unit: str,
        stated: Budget | None,
    ) -> Budget:
        """The lifetime within which a release may be reserved."""
        if not worst.epsilon(asked.delta) <= asked.epsilon:
            raise UsageError(
                f"a release's worst case must meet what it asks for, however: it is epsilon "
                f"{worst.epsilon(asked.delta):.6g} at delta {asked.delta:g}, of {asked.epsilon:g}; calibrate it"
            )
        lifetime = self._book.budgets.get(dataset)
        if lifetime is None:
            lifetime = stated or asked
            _check_delta(lifetime)
        elif lifetime.delta > LIFETIME_DELTA:
            raise BudgetRefused(
                f"a lifetime's delta must be at most {LIFETIME_DELTA:g}, however: that of {dataset!r} is "
                f"{lifetime.delta:g}, at which releases cost next to nothing; set another by `understudy budget set`"
            )
        elif stated not in (None, lifetime):
            raise self._other_lifetime(dataset, stated, lifetime)
        self._check_unit(dataset, blocks, unit)
        self._check_room(dataset, blocks or self._book.blocks(dataset) or ("",), lifetime, worst)
        return lifetime

    def _other_lifetime(self, dataset: str, stated: Budget, lifetime: Budget) -> BudgetRefused:
        spent = self._book.loss(dataset, self._book.fullest(dataset, stated.delta)).epsilon(stated.delta)
        return BudgetRefused(
            f"a dataset must have one lifetime, however: epsilon {stated.epsilon:g} at delta {stated.delta:g} is "
            f"stated for {dataset!r}, whose ledger says epsilon {lifetime.epsilon:g} at delta {lifetime.delta:g}"
            + (f", and {spent:.6g} of what is stated is spent or reserved" if spent > stated.epsilon else "")
            + "; change it by `understudy budget set`, or correct `lifetime` in the recipe, or leave it out"
        )

    def _check_room(self, dataset: str, accounts: Sequence[str], lifetime: Budget, worst: Loss) -> None:
        spent = {block: self._book.loss(dataset, block) for block in accounts}
        after = {block: (loss + worst).epsilon(lifetime.delta) for block, loss in spent.items()}
        over = [block for block in accounts if not after[block] <= lifetime.epsilon]
        if not over:
            return
        most = max(over, key=after.__getitem__)
        where = f" in {_these(over)}, which cannot pay" if most else ""
        raise BudgetRefused(
            f"releases of {dataset!r} must together stay within epsilon {lifetime.epsilon:g} at delta "
            f"{lifetime.delta:g}{', in each block' if most else ''}, however: "
            f"{spent[most].epsilon(lifetime.delta):.6g} is spent or reserved{where}, and this one makes it "
            f"{after[most]:.6g}; {'begin a new block for new units, ' if most else ''}sample a published model, which "
            "costs nothing, ask for less, void reservations that touched nothing, or raise the lifetime"
        )

    def _check_unit(self, dataset: str, blocks: Sequence[str], unit: str) -> None:
        """Refuses another unit than that of releases which drew an answer, or put units into blocks."""
        if blocks and not (unit and all(blocks) and len(set(blocks)) == len(blocks)):
            raise UsageError(
                "blocks must have names that differ, and a unit, however: one has not; name them"
            )
        sorted_in = {row.reservation for row in self._book.assigned(dataset)}
        others = {
            r.unit
            for r in self._book.reservations.values()
            if r.dataset == dataset
            and r.unit
            # A run that read a wrong column, and stopped there, has told nobody anything.
            and (r.state is Event.COMMITTED or r.answers or r.id in sorted_in)
        }
        if unit and others - {unit}:
            raise BudgetRefused(
                "one dataset must have one unit, or its releases do not add up to what anybody has lost, however: in "
                f"{dataset!r} units were {_these(others)}, and are {unit} now; write the unit and its type as they were"
            )

    def _sealed_at(self, session: Session, row: Row) -> bytes:
        data = session.kept(row.number)
        if _sha256(data) != row.units:
            raise tampered(
                f"the units that row {row.number} put into a block are not those that lie beside it"
            )
        return data

    def _find(self, reservation: str) -> Reservation:
        if reservation not in self._book.reservations:
            raise LedgerError(
                f"a reservation must be in the ledger, however: {self._chain.name} does not hold {reservation}; it is "
                "another ledger, or an older copy of it: restore the right one"
            )
        return self._book.reservations[reservation]

    def _move(
        self, session: Session, held: Reservation, event: Event, loss: Loss | None = None
    ) -> Reservation:
        if held.state is not BEFORE[event]:
            raise BudgetRefused(
                f"a reservation must be {BEFORE[event]} to become {event}, however: that of run {held.run!r} on "
                f"{held.dataset!r} is {held.state}; another attempt needs a reservation of its own"
            )
        self._append(session, replace(self._row(event, held.dataset), reservation=held.id, loss=loss))
        return self._book.reservations[held.id]

    def _row(self, event: Event, dataset: str) -> Row:
        if not dataset:
            raise UsageError(
                "a dataset must have a name, however: it is empty; write `dataset:` in the recipe"
            )
        now, book = self._clock(), self._book
        if not now >= book.latest - CLOCK_SECONDS:
            raise LedgerError(
                f"the clock must not go backwards, however: it lies {book.latest - now:.0f} s before the last row of "
                f"{self._chain.name}; set it right"
            )
        number = len(book.rows) + 1
        return Row(number=number, at=now, event=event, dataset=dataset, process=Process.this())

    def _append(self, session: Session, row: Row) -> Row:
        return self._book.add(session.append(len(self._book.rows), self._book.head, row.body()))

    @contextlib.contextmanager
    def _appending(self) -> Iterator[Session]:
        """A transaction beside which nobody else writes, with `_book` up to date."""
        with self._following(), self._chain.writing() as session:
            self._catch_up(session)
            yield session

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Book]:
        """The book, up to date, which stays as it is meanwhile."""
        with self._following(), self._chain.reading() as session:
            self._catch_up(session)
            yield self._book

    @contextlib.contextmanager
    def _following(self) -> Iterator[None]:
        """Forgets the book if anything fails, so that it never runs ahead of the chain."""
        with self._mutex:
            try:
                yield
                self._seen = self._book.head
            except BaseException:
                self._book = Book()
                raise

    def _catch_up(self, session: Session) -> None:
        book = self._book
        if not session.exists and (self._seen != GENESIS or (self._beside and self._beside.exists())):
            raise LedgerError(
                f"a ledger must be kept as long as its datasets, however: {self._chain.name} is missing or empty, and "
                "there was one; restore its last good copy (to begin anew after all, move its key away, too)"
            )
        for link in session.since(len(book.rows), book.head):
            book.add(link)
        if self._seen not in book:
            raise tampered("it does not hold a row any longer that this process has read")

    def _make_key(self, path: Path) -> None:
        # In a transaction of its own, so that a key beside a ledger that is missing means that the ledger was lost.
        with self._appending():
            pass
        with self._appending():
            if any(row.key for row in self._book.rows):
                raise LedgerError(
                    f"the key of a ledger's fingerprints must be kept with it, however: {path} is missing; restore "
                    "it, or copy it from a colleague"
                )
            if not path.exists():
                fingerprint.make_key(path)

    def _check_key(self, key: bytes) -> None:
        if any(row.key not in ("", fingerprint.name(key)) for row in self._book.rows):
            raise LedgerError(
                f"all fingerprints of a ledger must have one key, however: {self._key} is not that of "
                f"{self._chain.name}; restore the right key, or copy it from a colleague"
            )


def _check_delta(lifetime: Budget) -> None:
    if lifetime.delta > LIFETIME_DELTA:
        raise UsageError(
            f"a lifetime's delta must be at most {LIFETIME_DELTA:g}, however: delta={lifetime.delta:g}; choose a "
            "smaller one, as `lifetime: {epsilon: …, delta: …}` in the recipe or by `understudy budget set`"
        )


def _opened(sealed: str, key: bytes) -> tuple[int, ...]:
    return tuple(fingerprint.unseal(bytes.fromhex(sealed), key).tolist())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _these(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
