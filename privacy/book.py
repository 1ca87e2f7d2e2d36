"""Book: what a ledger's rows say, as values, which may follow which, and what they cost together.

    RESERVED ──→ TOUCHED ──→ COMMITTED        costs: the worst case, the worst case, the actual loss
        └──────→ VOID                         costs nothing: no row of the dataset was touched

Between TOUCHED and COMMITTED a row CHARGED says of each answer that it is about to be drawn, so that a run's folder
that was put back, or copied, does not draw it a second time.

Who reads a block of growing data takes its worst case from that block's account, from those of all blocks that he
reads at once, in one row. Who names no block reads everybody, so he pays from every account, of blocks to come as well.
A unit belongs to one block, so what it has lost is what its block's account says (block composition: Lécuyer et al.
2019, arXiv 1909.01502).

Losses compose as Rényi curves: the budget is fixed beforehand, while each release chooses its parameters
knowing the former ones (a Rényi filter: Feldman & Zrnic 2021, arXiv 2008.11193).
"""

import hashlib
import json
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from privacy.accounting import ORDERS, Loss
from privacy.chain import GENESIS, Link
from privacy.errors import LedgerError, UnderstudyError, UsageError

T = TypeVar("T")

_ORDERS = hashlib.sha256(repr(ORDERS).encode()).hexdigest()[:16]


class Event(StrEnum):
    """What a row says."""

    BUDGET = "budget"
    IDENTIFIED = "identified"
    ASSIGNED = "assigned"
    RESERVED = "reserved"
    TOUCHED = "touched"
    CHARGED = "charged"
    COMMITTED = "committed"
    VOID = "void"


BEFORE = {Event.TOUCHED: Event.RESERVED, Event.COMMITTED: Event.TOUCHED, Event.VOID: Event.RESERVED}
"""What a reservation must be before each event."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An epsilon at a delta."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise UsageError(f"epsilon must be a finite number > 0, however: epsilon={self.epsilon}")
        if not 0 < self.delta < 1:
            raise UsageError(f"delta must lie between 0 and 1, however: delta={self.delta}")


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process, told from all others, also from later ones that get its number.

    Attributes:
        host: name of its machine.
        pid: its number there.
        started: boot and time at which it started; empty where the system does not tell.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> "Process":
        """The one that asks."""
        return cls(host=socket.gethostname(), pid=os.getpid(), started=_started(os.getpid()))

    def gone(self) -> bool:
        """Whether it has surely ended; never sure of another machine's."""
        return self.host == socket.gethostname() and self.started != _started(self.pid)


def _started(pid: int) -> str:
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if state == "Z" else f"{boot}/{fields[18]}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row.

    Attributes:
        number: its position, from 1.
        hash: of its link in the chain.
        at: seconds since 1970, UTC.
        event: what it says.
        dataset: of which dataset.
        process: who wrote it.
        blocks: those whose units are read (RESERVED; none: everybody is), or that new units belong to (ASSIGNED).
        run: the run that reserves.
        reservation: hash of the RESERVED row that it is about.
        by: who set the budget.
        budget: the lifetime (BUDGET), or what a release asks for (RESERVED).
        loss: the worst case (RESERVED), or the actual loss (COMMITTED).
        key: name of the key of sketch or units (IDENTIFIED, ASSIGNED).
        sketch: sealed (IDENTIFIED).
        unit: what tells units from each other (RESERVED); empty in rows of before, unless they have blocks.
        units: SHA-256 (hex) of the sealed units that lie beside the row (ASSIGNED).
        part: of the run's budget, which an answer is charged to (CHARGED).
        answers: how many of them there are with the one that is about to be drawn (CHARGED).
    """

    number: int
    hash: str = ""
    at: float
    event: Event
    dataset: str
    process: Process
    blocks: tuple[str, ...] = ()
    run: str = ""
    reservation: str = ""
    by: str = ""
    budget: Budget | None = None
    loss: Loss | None = None
    key: str = ""
    sketch: str = ""
    unit: str = ""
    units: str = ""
    part: str = ""
    answers: int | None = None

    def body(self) -> str:
        """The canonical JSON of all but number and hash; a curve is hexadecimal and comes back bit by bit."""
        fields = {
            k: v for k, v in vars(self).items() if k not in ("number", "hash") and v not in ("", None, ())
        }
        fields["process"] = vars(self.process)
        if self.budget:
            fields["budget"] = vars(self.budget)
        if self.loss:
            curve = [float(point).hex() for point in self.loss.curve]
            fields["loss"] = {"orders": _ORDERS, "curve": curve, "delta": self.loss.delta}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parse(link: Link) -> Row:
    fields: dict[str, Any] = json.loads(link.body)
    fields.update(event=Event(fields["event"]), process=Process(**fields["process"]))
    fields["blocks"] = tuple(fields.get("blocks", ()))
    if "budget" in fields:
        fields["budget"] = Budget(**fields["budget"])
    if "loss" in fields:
        loss = fields["loss"]
        if loss["orders"] != _ORDERS:
            raise ValueError("a curve at other orders")
        fields["loss"] = Loss(curve=tuple(map(float.fromhex, loss["curve"])), delta=loss["delta"])
    return Row(number=link.number, hash=link.hash, **fields)


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """What a run may spend, and how far it came.

    Attributes:
        id: by which it is touched, committed or voided.
        dataset: whose budget it is taken from.
        blocks: whose units are read; none: everybody is.
        unit: what tells units from each other; empty where nobody said it.
        run: whose it is.
        asked: what the release asked for.
        worst: the most that it may cost.
        state: the last event.
        cost: what it costs now.
        process: who reserved, and from TOUCHED on who touched.
        answers: how many were drawn, by part of the budget.
    """

    id: str
    dataset: str
    blocks: tuple[str, ...]
    unit: str
    run: str
    asked: Budget
    worst: Loss
    state: Event
    cost: Loss
    process: Process
    answers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What releases cost one account together, those outstanding at their worst.

    Attributes:
        lifetime: None before the first release, unless it was set.
        loss: the composition.
        epsilon: of the composition at the lifetime's delta; 0 without a lifetime.
        outstanding: reservations that were neither committed nor voided.
    """

    lifetime: Budget | None
    loss: Loss
    epsilon: float
    outstanding: tuple[Reservation, ...]


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """What a lifetime leaves.

    Attributes:
        epsilon: the lifetime's less what is spent. Losses compose below their sum, so a release that asks for
            some more than this may still fit.
        delta: the lifetime's less the failure probabilities that are spent.
    """

    epsilon: float
    delta: float


class Book:
    """What the rows say together, kept up to date row by row."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.latest = -math.inf
        self._hashes = {GENESIS}
        self.budgets: dict[str, Budget] = {}
        self.reservations: dict[str, Reservation] = {}
        self._settled: dict[tuple[str, str], Loss] = {}

    @property
    def head(self) -> str:
        """The hash of the last row."""
        return self.rows[-1].hash if self.rows else GENESIS

    def __contains__(self, head: str) -> bool:
        return head in self._hashes

    def add(self, link: Link) -> Row:
        """Takes the next row.

        Raises:
            LedgerError: it is none that this program could have written there.
        """
        try:
            row = _parse(link)
            self._apply(row)
        except (ValueError, KeyError, TypeError, AttributeError, UnderstudyError):
            raise LedgerError(
                f"a ledger's rows must be such as this program writes, however: row {link.number} is not, though its "
                "hash is right; use the later version of Understudy that wrote it, or find out who forged it"
            ) from None
        self.rows.append(row)
        self._hashes.add(row.hash)
        return row

    def _apply(self, row: Row) -> None:
        self.latest = max(self.latest, row.at)
        if row.event is Event.IDENTIFIED:
            bytes.fromhex(row.sketch)
        elif row.event is Event.ASSIGNED:
            bytes.fromhex(row.units)
            if len(row.blocks) != 1 or self.reservations[row.reservation].state is not Event.TOUCHED:
                raise ValueError("units of no block, or of nobody who reads")
        elif row.event is Event.BUDGET:
            self.budgets[row.dataset] = _given(row.budget)
        elif row.event is Event.RESERVED:
            worst = _given(row.loss)
            self.reservations[row.hash] = Reservation(
                id=row.hash,
                dataset=row.dataset,
                blocks=row.blocks,
                unit=row.unit,
                run=row.run,
                asked=_given(row.budget),
                worst=worst,
                state=row.event,
                cost=worst,
                process=row.process,
            )
        else:
            self._advance(row)

    def _advance(self, row: Row) -> None:
        held = self.reservations[row.reservation]
        if row.event is Event.CHARGED:
            number = _given(row.answers)
            if held.state is not Event.TOUCHED or number <= held.answers.get(row.part, 0):
                raise ValueError("an answer of nobody who reads, or one that was drawn before")
            self.reservations[held.id] = replace(held, answers={**held.answers, row.part: number})
            return
        if held.state is not BEFORE[row.event]:
            raise ValueError(f"{row.event} after {held.state}")
        held = replace(held, state=row.event)
        if row.event is Event.TOUCHED:
            held = replace(held, process=row.process)
        elif row.event is Event.VOID:
            held = replace(held, cost=Loss.nothing())
        else:
            held = replace(held, cost=_given(row.loss))
            for account in ((held.dataset, block) for block in held.blocks or ("",)):
                self._settled[account] = self._settled.get(account, Loss.nothing()) + held.cost
        self.reservations[held.id] = held

    def identified(self) -> list[Row]:
        """The rows with sketches."""
        return [row for row in self.rows if row.event is Event.IDENTIFIED]

    def assigned(self, dataset: str) -> list[Row]:
        """The rows beside which units lie that were new."""
        return [row for row in self.rows if row.event is Event.ASSIGNED and row.dataset == dataset]

    def blocks(self, dataset: str) -> tuple[str, ...]:
        """The blocks that were read, or may be, in the order in which they came."""
        held = (r for r in self.reservations.values() if r.dataset == dataset and r.state is not Event.VOID)
        return tuple(dict.fromkeys(block for r in held for block in r.blocks))

    def outstanding(self, dataset: str) -> tuple[Reservation, ...]:
        """Reservations that were neither committed nor voided."""
        states = (Event.RESERVED, Event.TOUCHED)
        return tuple(r for r in self.reservations.values() if r.dataset == dataset and r.state in states)

    def loss(self, dataset: str, block: str = "") -> Loss:
        """The composition of all that was committed, in its order, and of what is outstanding, at its worst.

        Args:
            dataset: whose releases.
            block: of those that read this block; releases that read everybody are always among them.
        """
        accounts = [(dataset, b) for b in dict.fromkeys(("", block))]
        settled = sum((self._settled[a] for a in accounts if a in self._settled), Loss.nothing())
        held = (r for r in self.outstanding(dataset) if not r.blocks or block in r.blocks)
        return sum((r.cost for r in held), settled)

    def fullest(self, dataset: str, delta: float) -> str:
        """The block whose account has spent most; empty where there are no blocks."""
        return max(self.blocks(dataset) or ("",), key=lambda block: self.loss(dataset, block).epsilon(delta))


def _given(value: T | None) -> T:
    if value is None:
        raise ValueError("a field that the event needs is missing")
    return value
