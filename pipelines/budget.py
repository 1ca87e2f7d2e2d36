"""budget: what the ledger says of datasets, for the command of that name."""

import getpass
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.private import ledger_at, trusted
from privacy.book import Budget, Event, Row
from privacy.chain import GENESIS
from privacy.errors import ReleaseError, UsageError

if TYPE_CHECKING:
    from privacy.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What somebody asked for; fields as the command's options."""

    folder: Path
    dataset: str | None = None
    epsilon: float | None = None
    delta: float | None = None
    by: str | None = None
    releases: tuple[Path, ...] = ()

    def named(self) -> str:
        """The dataset.

        Raises:
            UsageError: none was named.
        """
        if self.dataset is None:
            known = ", ".join(ledger_at(self.folder).datasets()) or "none yet"
            raise UsageError(f"this needs a dataset, however: none was named; known are: {known}")
        return self.dataset


@dataclass(frozen=True, kw_only=True)
class Found:
    """The answer, for a person and for a program."""

    lines: tuple[str, ...]
    data: Mapping[str, Any]


def show(asked: Asked) -> Found:
    """What is spent of each dataset's lifetime: where there are blocks, of the one that has spent most, and of each."""
    ledger = ledger_at(asked.folder)
    names = ledger.datasets() if asked.dataset is None else (asked.dataset,)
    lines, data = [], {}
    for name in names:
        spent = ledger.spent(name)
        if spent.lifetime is None:
            raise _unknown(ledger, name)
        left = ledger.remaining(name)
        assert left is not None
        lines.append(
            f"{name}: epsilon {spent.epsilon:.4g} of {spent.lifetime.epsilon:g} at delta {spent.lifetime.delta:g} is "
            f"spent or reserved, about {left.epsilon:.4g} is left; {len(spent.outstanding)} outstanding"
        )
        blocks = {block: ledger.spent(name, block).epsilon for block in sorted(ledger.blocks(name))}
        lines += [f"  block {block}: epsilon {epsilon:.4g}" for block, epsilon in blocks.items()]
        data[name] = {
            "epsilon": spent.lifetime.epsilon,
            "delta": spent.lifetime.delta,
            "spent_epsilon": spent.epsilon,
            "left_epsilon": left.epsilon,
            "outstanding": [{"run": r.run, "state": r.state} for r in spent.outstanding],
            "blocks": blocks,
        }
    return Found(lines=tuple(lines) or ("No dataset has a budget here yet.",), data={"datasets": data})


def assign(asked: Asked) -> Found:
    """Sets a lifetime."""
    if asked.epsilon is None or asked.delta is None:
        raise UsageError("a lifetime needs --epsilon and --delta, however: one is missing; give both")
    name, lifetime = asked.named(), Budget(epsilon=asked.epsilon, delta=asked.delta)
    ledger = ledger_at(asked.folder)
    known = ledger.datasets()
    ledger.set_budget(name, lifetime, by=asked.by or getpass.getuser())
    found = show(asked)
    if name in known:
        return found
    others = f"; others are: {', '.join(known)}" if known else ""
    begun = f"{name}: a new dataset, which had no budget here before{others}"
    return Found(lines=(begun, *found.lines), data={**found.data, "begun": name})


def history(asked: Asked) -> Found:
    """All entries of a dataset, but for those about single answers."""
    ledger = ledger_at(asked.folder)
    rows = ledger.history(asked.named())
    if not rows:
        raise _unknown(ledger, asked.named())
    told = [row for row in rows if row.event is not Event.CHARGED]
    lines = [_line(row) for row in told]
    if len(told) < len(rows):
        lines.append(f"{len(rows) - len(told)} entries more say that an answer was drawn")
    return Found(lines=tuple(lines), data={"entries": [_data(r) for r in told]})


def _unknown(ledger: "Ledger", name: str) -> UsageError:
    known = ", ".join(ledger.datasets()) or "none yet"
    return UsageError(
        f"a dataset must be in the ledger, however: {name!r} is not in {ledger.name}; known are: {known}"
    )


def _data(row: Row) -> dict[str, Any]:
    budget = None if row.budget is None else {"epsilon": row.budget.epsilon, "delta": row.budget.delta}
    return {
        "number": row.number,
        "at": datetime.fromtimestamp(row.at, UTC).isoformat(timespec="seconds"),
        "event": row.event,
        "run": row.run,
        "by": row.by,
        "blocks": list(row.blocks),
        "budget": budget,
        "hash": row.hash,
    }


def _line(row: Row) -> str:
    data = _data(row)
    parts = [f"{row.number:>5}", data["at"], f"{row.event:<10}"]
    if row.budget is not None:
        parts.append(f"epsilon {row.budget.epsilon:g} delta {row.budget.delta:g}")
    if row.blocks:
        parts.append(f"block {', '.join(row.blocks)}")
    return "  ".join([*parts, *(x for x in (row.run, row.by) if x)])


def verify(asked: Asked) -> Found:
    """Checks the whole chain, and that it holds what certificates say, and runs and releases of this folder.

    Raises:
        LedgerError: it does not, or the chain is broken.
        UsageError: there is no ledger.
    """
    ledger = ledger_at(asked.folder)
    heads = {_head(release) for release in asked.releases}
    ledger.verify(sorted(heads))
    found = trusted(asked.folder, ledger)
    head = ledger.head()
    if head == GENESIS:
        raise UsageError(
            f"a ledger must be there to be verified, however: there is no entry in {ledger.name}; call this in the "
            "folder of the recipe, or name the ledger by UNDERSTUDY_LEDGER"
        )
    known = f", and holds what {len(heads)} certificates that were named say" if heads else ""
    known += f", and what {found} certificates here say" if found else ""
    return Found(lines=(f"The chain is whole{known}; its head is {head}",), data={"head": head})


def _head(release: Path) -> str:
    try:
        certificate = json.loads((release / "certificate.json").read_text("utf-8"))
        return str(certificate["formal_guarantee"]["lifetime"]["ledger_head"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ReleaseError(
            f"a release must have a certificate with a ledger's head, however: {release} has none; it was made "
            "without a privacy section, or is none of ours"
        ) from None


def void(asked: Asked) -> Found:
    """Gives back reservations of dead processes that touched no row."""
    ledger = ledger_at(asked.folder)
    freed = [r for r in ledger.stale() if asked.dataset in (None, r.dataset)]
    for reservation in freed:
        ledger.void(reservation.id)
    return Found(
        lines=tuple(f"void: {r.run} on {r.dataset}" for r in freed) or ("Nothing to void.",),
        data={"void": [{"run": r.run, "dataset": r.dataset} for r in freed]},
    )


ACTIONS: dict[str, Callable[[Asked], Found]] = {
    "show": show,
    "set": assign,
    "history": history,
    "verify": verify,
    "void": void,
}
