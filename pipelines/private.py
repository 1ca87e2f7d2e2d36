"""Private: what a release with a privacy section does that others need not.

Its budget is divided before a row is read, and taken from the dataset's ledger; its curators draw from a secret of
the run, charge a journal, and tell the certificate what each answer cost. What was fitted stays fitted: neither a
changed source nor a newer Understudy spends anything again, only a changed recipe, schema or `edition` does.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipelines.recipe import Privacy, Recipe
from pipelines.workspace import write_atomic
from privacy.accounting import ORDERS, Loss, rho_for
from privacy.certificate import formal
from privacy.errors import BudgetRefused, RecipeError, ReleaseError, UsageError
from privacy.private import Account, Charge, Journal, Target, total_of
from synth.constraints import Constraints
from synth.keys import is_text
from synth.noised import FIRST_SHARE, share_asked
from synth.schema import Column, Schema

if TYPE_CHECKING:
    from pipelines.run import Run
    from privacy.book import Budget as Lifetime
    from privacy.curator import Descent, Rows
    from privacy.ledger import Ledger
    from privacy.private import PrivateCurator

RESERVATION = "reservation.json"
RELEASES = "releases"
"""Where releases go unless a recipe says otherwise."""

SECRET = "secret"
JOURNAL = "journal"
PARTS = ("profile", "model", "report")
STEP_OF = {"profile": "profile", "model": "fit", "report": "fit"}
"""Which step asks the questions of a part."""

KEPT = ("ingest", "profile", "fit")
"""Steps that a private run never does twice, whatever changed but the recipe and the schema."""

GUESSED_UNITS = 100_000
"""Units that estimates of seconds are made for, where nobody says how many there are."""

NAMES_DELTA = 0.1
"""Share of delta that finding categories may fail with, where some are not declared."""

MOST_DELTA = 1e-4
"""Largest delta where nobody says how many units there are."""

CURVE_SHOWN = (1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 63.0, 128.0, 512.0, 2048.0)
"""Orders of the Rényi curve that a certificate shows."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a release may spend.

    Attributes:
        rho: of all answers together, in zero-concentrated differential privacy.
        delta: probability that finding categories may fail with, taken off delta first.
        profile: ρ of the questions about columns.
        model: ρ of the synthesizer's questions, before it gets what the profile leaves.
        report: ρ of the noised figures; 0 for none.
        promised: epsilon and delta of the whole release.
        asked: ρ of the profile's part that is asked for at all, by what is declared.
    """

    rho: float
    delta: float
    profile: float
    model: float
    report: float
    promised: tuple[float, float]
    asked: float

    @property
    def target(self) -> Target:
        """What noise on gradients is calibrated to: of the profile's part they get what it is known not to ask for."""
        epsilon, delta = self.promised
        others = Loss.zcdp(self.rho - self.model - self.profile + self.asked, self.delta)
        return Target(epsilon=epsilon, delta=delta, others=others, rho=self.model)

    @property
    def worst(self) -> Loss:
        """What the release costs at most."""
        return Loss.zcdp(self.rho, self.delta)


def budget_of(privacy: Privacy, schema: Schema) -> Budget:
    """Divides a recipe's epsilon; the parts are parts of ρ, which add."""
    delta = NAMES_DELTA * privacy.delta if any(_must_be_found(c) for c in schema) else 0.0
    rho = rho_for(privacy.epsilon, privacy.delta - delta)
    return Budget(
        rho=rho,
        delta=delta,
        profile=privacy.shares.profile * rho,
        model=privacy.shares.model * rho,
        report=privacy.shares.report * rho,
        promised=(privacy.epsilon, privacy.delta),
        asked=share_asked(schema) * privacy.shares.profile * rho,
    )


def units_of(run: "Run") -> float | None:
    """About how many units a model learns from, by what is public; None where nobody declared it."""
    about = run.schema.units_about
    return None if about is None else about * keep_of(run)


def gradients_of(run: "Run") -> "tuple[Descent, float] | None":
    """The steps that the recipe's synthesizer will take, and their share of the model's budget, if it takes any.

    Raises:
        RecipeError: their number does not follow from what is public, or an option needs exact answers.
    """
    from synth.registry import descent_of, resolve

    name = resolve(run.recipe.synthesizer, private=True, images=bool(run.schema.images))
    return descent_of(name, run.recipe.options, units_of(run))


def worst_of(run: "Run") -> Loss:
    """What a release costs at most, at every order, as it is known before a row is read."""
    budget, gradients = budget_of(_privacy(run), run.schema), gradients_of(run)
    return budget.worst if gradients is None else budget.target.worst(*gradients)


def _must_be_found(column: Column) -> bool:
    """Whether a column's categories are not declared."""
    if not column.learned or column.kind == "boolean" or (column.declared and column.categories is not None):
        return False
    return column.kind == "categorical" or is_text(column.arrow_type)


def check_private(run: "Run") -> None:
    """Refuses what a private release cannot promise, before any row is read.

    Raises:
        RecipeError: there is no name of a dataset, delta is too large for the number of units, or a model's steps do
            not follow from it.
    """
    privacy, schema = _privacy(run), run.schema
    dataset_of(run.recipe)
    most = MOST_DELTA if schema.units_about is None else 1 / schema.units_about
    for field, target in (("privacy", privacy), ("privacy.lifetime", privacy.lifetime)):
        if target is not None and target.delta > most:
            why = (
                f"`units_about` in the schema is not set, so at most {MOST_DELTA:g} is taken"
                if schema.units_about is None
                else f"there are about {schema.units_about:,} units"
            )
            raise RecipeError(
                f"{field}.delta must be at most one in the number of units, however: delta={target.delta:g} and {why}; "
                "choose a smaller delta"
            )
    if privacy.max_rows_per_unit > 1 and schema.unit is None:
        raise RecipeError(
            "max_rows_per_unit is for rows that share a unit, however: neither recipe nor schema names a `unit`; "
            "name the column whose equal values mean one person"
        )
    if privacy.block is not None and schema.unit is None:
        raise RecipeError(
            "blocks are of units that are known again, however: neither recipe nor schema names a `unit`, so each row "
            "is one; name the column whose equal values mean one person, or leave `block` out"
        )
    gradients_of(run)


def notes_of(schema: Schema, stated: Schema) -> list[str]:
    """Warnings for columns whose facts were taken from rows, and so are not believed.

    Args:
        schema: as it is believed.
        stated: as it is written.
    """
    lost = [c.name for c, s in zip(schema, stated, strict=True) if c.learned and not s.declared]
    if not lost:
        return []
    shown = ", ".join(repr(n) for n in lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
    return [
        f"facts marked observed are learned anew, at a charge: {shown}; replace the mark by "
        '`facts: "declared: <source>"` where they are known from elsewhere'
    ]


MUCH_NOISE = 0.05
"""Noise of a count, as a share of the units, from which on a plan warns."""


def describe(run: "Run") -> str:
    """What will be promised, what each part may spend, with the noise that follows, and what the lifetime leaves.

    Raises:
        LedgerError: the ledger cannot be trusted.
    """
    privacy, schema = _privacy(run), run.schema
    budget = budget_of(privacy, schema)
    unit = "a row" if schema.unit is None else f"{schema.unit}, at most {privacy.max_rows_per_unit} rows each"
    noise = privacy.max_rows_per_unit * math.sqrt(len(schema) / (2 * FIRST_SHARE * budget.profile))
    lines = [
        f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} for {unit}: rho {budget.rho:.4g}",
        f"profile {privacy.shares.profile:.0%} of it: each count of a value or bin "
        f"± {noise:.0f} rows, later rounds less",
    ]
    if schema.units_about is not None and noise > MUCH_NOISE * schema.units_about:
        lines.append(
            f"warning: noise is {noise / schema.units_about:.0%} of about {schema.units_about:,} units, so that little "
            "but the commonest values will be learned; raise epsilon, or leave columns out"
        )
    gradients = gradients_of(run)
    if gradients is None:
        lines.append(f"model {privacy.shares.model:.0%}, and what the profile leaves{_divided(run)}")
    else:
        descent, share = gradients
        lines.append(f"model {privacy.shares.model:.0%}, and what the profile will not ask for")
        lines.append(
            f"{share:.0%} of the model's for {descent.steps:,} steps, each of {descent.rate:.3%} of the units, with "
            f"noise {budget.target.multiplier(descent, share):.3g} times what one unit adds"
        )
    lines.append(_report_line(run, budget.report))
    if privacy.exact_report:
        lines.append(EXACT_INSIDE)
    if privacy.block is not None:
        lines.append(_blocks_line(run))
    ledger = ledger_at(run.folder)
    trusted(run.folder, ledger, root=run.release_root, name=run.recipe.name)
    spent = ledger.spent(dataset_of(run.recipe))
    if spent.lifetime is None and privacy.lifetime is not None:
        lines.append(f"lifetime: none yet; this release makes it epsilon {privacy.lifetime.epsilon:g}")
    elif spent.lifetime is None:
        lines.append("lifetime: none yet; this release makes its own epsilon the dataset's")
    elif privacy.block is None:
        lines.append(_lifetime_line(run, spent.loss, spent.epsilon, spent.lifetime))
    return "\n".join([*lines, *_refusal(run, ledger), *notes_of(schema, run.stated.kept)])


def _divided(run: "Run") -> str:
    """What the model's part is for, where the synthesizer says it."""
    from synth.registry import resolve, shares_of

    name = resolve(run.recipe.synthesizer, private=True, images=bool(run.schema.images))
    parts = [f"{part:.0%} of it for {what}" for what, part in shares_of(name).items()]
    return f": {', '.join(parts)}" if parts else ""


def _report_line(run: "Run", rho: float) -> str:
    """What the noised figures of the report may spend, and what they will tell, from public facts alone."""
    from validation.coarse import resolution

    if not rho:
        return "report 0%: no noised figures; the report holds columns against the counts that the model was fitted to"
    columns = sum(c.learned for c in Constraints(run.schema).coded)
    one = (_privacy(run).max_rows_per_unit if run.schema.unit is not None else 1) / math.sqrt(2 * rho)
    told = f"report {_privacy(run).shares.report:.0%}: "
    if run.schema.units_about is None:
        return (
            f"{told}each of one histogram's counts ± {one:.0f} rows, more for each other; how much the figures will "
            "tell follows from the number of rows: set `units_about` to be told"
        )
    rows = run.schema.units_about * keep_of(run)
    # Of images two marginals more, or one where no column is their class.
    found = resolution(rows=rows, columns=columns, noise_of_one=one, more=2 * bool(run.schema.images))
    shape, pair, together = (100 * d for d in found.distance)
    rules = run.recipe.gate
    told += (
        f"{columns} columns and {found.pairs} pairs counted anew, each count ± {found.noise_std:.0f} rows; noise alone "
        f"may show {shape:.1f} points lost of a column's shape, {together:.1f} of its pairs, {pair:.1f} of one pair"
    )
    if isinstance(run.recipe.holdout, str):
        told += ", if the holdout has as many rows"
    blind = [
        f"{what} ({most:g} points may be lost)"
        for what, points, most in (
            ("shapes", shape, rules.shape_points),
            ("trends of columns' pairs", together, rules.trend_points),
            ("trends of single pairs", pair, rules.trend_points),
        )
        if points > most
    ]
    if blind:
        told += f"; too noisy to decide: {', '.join(blind)}, which the gate will call undecided"
    return told


def _blocks_line(run: "Run") -> str:
    """Which blocks a run reads, or would read now."""
    block = f"block {_privacy(run).block}, of units that are seen for the first time"
    if (_own(run) / RESERVATION).exists():
        return f"{block}; reserved for this run: {', '.join(_read(run))}"
    ledger, dataset = ledger_at(run.folder), dataset_of(run.recipe)
    able, spent = _blocks(run, ledger)
    lifetime = _lifetime(run, ledger)
    told = ", ".join(f"{b} ({ledger.spent(dataset, b).epsilon:.4g} spent)" for b in able)
    lines = [
        f"{block}; each has epsilon {lifetime.epsilon:g} for its lifetime",
        f"reads blocks {told}, each of which pays the whole epsilon" if able else "no block can pay",
        *([f"blocks spent, whose units are left out: {', '.join(spent)}"] if spent else []),
    ]
    return "\n".join(lines)


def _lifetime_line(run: "Run", loss: Loss, epsilon: float, lifetime: "Lifetime") -> str:
    line = f"lifetime of {run.recipe.dataset}: {epsilon:.4g} of epsilon {lifetime.epsilon:g} is spent"
    if (_own(run) / RESERVATION).exists():
        return f"{line} or reserved, by this run as well"
    after = (loss + worst_of(run)).epsilon(lifetime.delta)
    makes = "makes" if after <= lifetime.epsilon else "would make"
    return f"{line}; this release {makes} it {after:.4g}"


# --- the run's own


def secret_of(run: "Run") -> bytes:
    """What splits are drawn by: made once, known to nobody outside, and in no recipe."""
    return _secret_at(run.workspace.path / SECRET)


def dataset_for(table: Path, name: str, folder: Path) -> str:
    """A name for the dataset at a path, the same each time; its digest says nothing of the path without the key."""
    digest = hashlib.blake2b(
        str(table.resolve()).encode(), key=_secret_at(folder / ".understudy" / "names.key")
    )
    return f"{name}-{digest.hexdigest()[:8]}"


def _secret_at(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
            handle.write(secrets.token_bytes(32))
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    return path.read_bytes()


def kept_inputs(run: "Run") -> dict[str, str]:
    """What the steps that are never done twice depend on."""
    text = json.dumps([run.recipe.digest(), run.schema.to_json()])
    return {"recipe and schema": hashlib.sha256(text.encode()).hexdigest()}


def _own(run: "Run") -> Path:
    """Where the reservation and the answers of this recipe and schema lie."""
    return run.workspace.path / f"private-{kept_inputs(run)['recipe and schema'][:12]}"


def curator_of(run: "Run", rows: "Rows", part: str, *, keep: float = 1.0) -> "PrivateCurator":
    """The curator of a private run, who charges a part's account. Only rows of a holdout of its own are held out.

    Args:
        run: a private run.
        rows: what it learns from.
        part: profile, model or report; the model has what the profile left as well.
        keep: share of the units that are looked at, see `keep_of`.
    """
    from privacy.private import PrivateCurator

    privacy = _privacy(run)
    return PrivateCurator(
        rows,
        _account(run, part),
        key=secret_of(run),
        unit_rows=privacy.max_rows_per_unit,
        keep=keep,
        units_about=units_of(run),
    )


def rows_about(run: "Run") -> int:
    """A public guess at the number of rows, for estimates of seconds."""
    return (run.schema.units_about or GUESSED_UNITS) * _privacy(run).max_rows_per_unit


def keep_of(run: "Run") -> float:
    """The share of the units that is looked at so that no more rows are than may be: from public facts alone."""
    about = (run.schema.units_about or 0) * _privacy(run).max_rows_per_unit
    return min(1.0, run.most_rows / about) if about else 1.0


def _privacy(run: "Run") -> Privacy:
    assert run.recipe.privacy is not None
    return run.recipe.privacy


def _account(run: "Run", part: str) -> Account:
    """The account of a part, with the answers that it was given before.

    It is closed unless the ledger, not the workspace, says that the run may still spend, and the ledger is told of each
    answer before it is drawn: a copy of a workspace, or one that was put back, answers nothing new.
    """
    spent = sum(c.rho for c in charges_of(run, "profile")) if part != "profile" else 0.0
    ledger, reservation = ledger_at(run.folder), _held(run)["id"]
    journal = _journal(run, part, witness=lambda number: ledger.charge(reservation, part, number))
    ledger.whole(reservation, _answers(run))
    held = ledger.outstanding(reservation)
    closed = held is None or held.state != "touched"
    return account_for(run, part, spent=spent, journal=journal, closed=closed)


def account_for(
    run: "Run", part: str, *, spent: float = 0.0, journal: Journal | None = None, closed: bool = False
) -> Account:
    """The account of a part of a recipe.

    Args:
        run: a private run.
        part: profile, model or report; the model has what the profile left as well, but gradients only what it was
            known beforehand not to ask for, since the noise on them is calibrated before a row is read. What they may
            not have of it goes to the report.
        spent: ρ of the profile's answers.
        journal: see `Account`.
        closed: see `Account`.
    """
    budget = budget_of(_privacy(run), run.schema)
    if part == "profile":
        return Account(rho=budget.profile, delta=budget.delta, journal=journal, closed=closed)
    gradients = gradients_of(run)
    # A draw that a crash lost may have made the profile dearer than what gradients were planned beside.
    left = budget.asked - spent
    if part == "report":
        more = 0.0 if gradients is None else gradients[1] * max(0.0, left)
        return Account(rho=budget.report + more, journal=journal, closed=closed)
    if gradients is None:
        return Account(rho=budget.model + budget.profile - spent, journal=journal, closed=closed)
    target = budget.target if left >= -1e-9 * budget.asked else None
    return Account(rho=budget.model + max(0.0, left), journal=journal, closed=closed, target=target)


def _journal(run: "Run", part: str, *, witness: Callable[[int], None] | None = None) -> Journal:
    """The journal of a part.

    Raises:
        ReleaseError: it holds less than was recorded; what is missing stays charged as it was reserved.
    """
    journal = Journal(_own(run) / JOURNAL / part, witness=witness)
    record = run.workspace.records().get(STEP_OF[part])
    if record is not None and len(journal) < int(record.facts.get(charges_fact(part), 0)):
        raise ReleaseError(
            f"a journal of answers must be whole, however: of the {part}'s some are missing; what was reserved stays "
            "charged; remove the run's folder and release anew, at a new charge"
        )
    return journal


def charges_fact(part: str) -> str:
    """Under which name a step records how many answers a part took."""
    return "report_charges" if part == "report" else "charges"


def charges_of(run: "Run", part: str) -> tuple[Charge, ...]:
    """What the answers about a part cost."""
    return _journal(run, part).charges


def _answers(run: "Run") -> dict[str, int]:
    """How many answers the run's folder holds, by part."""
    return {part: len(charges_of(run, part)) for part in PARTS}


def begun(run: "Run") -> bool:
    """Whether rows were asked about: then they are never read from the source again."""
    held = _held(run)
    outstanding = ledger_at(run.folder).outstanding(held["id"])
    drawn = outstanding is not None and bool(outstanding.answers)
    return drawn or any(_answers(run).values()) or "head" in held


def actual(run: "Run") -> Loss:
    """What all answers of a run cost."""
    return total_of([c for part in PARTS for c in charges_of(run, part)])


# --- the ledger


def ledger_at(folder: Path) -> "Ledger":
    """The ledger that `UNDERSTUDY_LEDGER` names, an absolute path or a URL, or the one beside the recipe.

    The key of its fingerprints lies in the file that `UNDERSTUDY_LEDGER_KEY` names, or beside the ledger where that
    is a file, or else beside the recipe. Nothing is created.

    Raises:
        UsageError: a path is relative, or the address is none.
    """
    from privacy.ledger import Ledger

    own = folder / ".understudy"
    said, named = (os.environ.get(f"UNDERSTUDY_LEDGER{suffix}", "") for suffix in ("", "_KEY"))
    key = _absolute("UNDERSTUDY_LEDGER_KEY", Path(named).expanduser()) if named else None
    if not said:
        return Ledger(own / "ledger.sqlite", key=key)
    if "://" not in said:
        return Ledger(_absolute("UNDERSTUDY_LEDGER", Path(said).expanduser()), key=key)
    if said.startswith("sqlite:"):
        # An address is taken as it stands: nobody puts a home in the place of ~.
        _absolute("UNDERSTUDY_LEDGER", Path(said.partition(":///")[2]))
        return Ledger(said, key=key)
    return Ledger(said, key=key or own / "ledger.key")


def _absolute(variable: str, path: Path) -> Path:
    if not path.is_absolute():
        raise UsageError(
            f"{variable} must name a file from the root on, the same for recipes of all folders, however: '{path}' is "
            "relative; write an absolute path (as a URL: sqlite:////, with four strokes)"
        )
    return path


def dataset_of(recipe: Recipe) -> str:
    """The name under which a dataset's lifetime is kept.

    Raises:
        RecipeError: the recipe has none.
    """
    if recipe.dataset is None:
        raise RecipeError(
            "a private recipe must name its dataset, whose budget it spends, however: `dataset` is not set; "
            "`understudy init DATA` writes one; use the same name in every recipe about the same rows"
        )
    return recipe.dataset


def reserve(run: "Run") -> None:
    """Takes the worst case of a run from the dataset's lifetime, before its first row is read, and says so.

    A run that was interrupted goes on with the reservation that it has.

    Raises:
        BudgetRefused: the lifetime does not allow it.
        LedgerError: the ledger cannot be trusted.
        ReleaseError: the last audit contradicts what is promised, or the run's reservation or copy of rows is gone.
    """
    dataset, ledger = dataset_of(run.recipe), ledger_at(run.folder)
    path = _own(run) / RESERVATION
    trusted(run.folder, ledger, root=run.release_root, name=run.recipe.name)
    if not path.exists():
        request = _check_reservable(run, ledger)
        ledger.key()  # One that is lost is missed before anything is taken.
        taken = ledger.reserve(dataset, run=run.workspace.path.name, **request)
        held = {"id": taken.id, "dataset": dataset, "ledger": _called(run.folder, ledger)}
        write_atomic(path, json.dumps(held).encode())
    if _state(run) == "reserved":
        ledger.touch(_held(run)["id"])
    if begun(run):
        raise ReleaseError(
            "rows that were asked about are not read again, however: the copy of them is gone; what was spent stays "
            "spent; restore the run's folder, or remove it and release anew, at a new charge"
        )
    if _state(run) != "touched":
        path.unlink()
        raise ReleaseError(
            "a reservation must be outstanding in the ledger, however: this run's is void, or of another ledger; "
            "release again, which reserves anew"
        )


class _Request(TypedDict):
    worst: Loss
    asked: "Lifetime"
    blocks: list[str]
    unit: str
    lifetime: "Lifetime | None"


def _request(run: "Run", ledger: "Ledger") -> _Request:
    """What a run asks of the ledger before its first row is read."""
    from privacy.book import Budget as Lifetime

    privacy, schema, stated, blocks = _privacy(run), run.schema, None, list[str]()
    if privacy.block is not None:
        able, spent = _blocks(run, ledger)
        # Where none can pay, the refusal names them all.
        blocks = able or spent
    if privacy.lifetime is not None:
        stated = Lifetime(epsilon=privacy.lifetime.epsilon, delta=privacy.lifetime.delta)
    return {
        "worst": worst_of(run),
        "asked": Lifetime(epsilon=privacy.epsilon, delta=privacy.delta),
        "blocks": blocks,
        "unit": "rows" if schema.unit is None else f"{schema.unit!r} as {schema[schema.unit].type}",
        "lifetime": stated,
    }


def _check_reservable(run: "Run", ledger: "Ledger") -> _Request:
    """What a run asks of the ledger, which is refused before anything is written where it would be.

    Not among what a recipe is checked for, or no audit could be repeated of a configuration whose last one was bad.

    Raises:
        BudgetRefused: by the ledger.
        ReleaseError: the last audit contradicts what is promised.
    """
    from pipelines.audit import last

    _check_audit(last(run), _privacy(run).epsilon)
    request = _request(run, ledger)
    ledger.check(dataset_of(run.recipe), **request)
    return request


def _refusal(run: "Run", ledger: "Ledger") -> list[str]:
    """Why a run that has no reservation would get none, in a line; empty where it would."""
    if (_own(run) / RESERVATION).exists():
        return []
    try:
        _check_reservable(run, ledger)
    except (BudgetRefused, ReleaseError, UsageError) as e:
        return [f"will be REFUSED: {e}"]
    return []


def _lifetime(run: "Run", ledger: "Ledger") -> "Lifetime":
    """The dataset's lifetime, or what this run would make it."""
    from privacy.book import Budget as Lifetime

    privacy = _privacy(run)
    wanted = privacy.lifetime or privacy
    return ledger.spent(dataset_of(run.recipe)).lifetime or Lifetime(
        epsilon=wanted.epsilon, delta=wanted.delta
    )


def _blocks(run: "Run", ledger: "Ledger") -> tuple[list[str], list[str]]:
    """The blocks that can pay a run's worst case, its own and new one among them, and those that cannot."""
    dataset, lifetime, worst = dataset_of(run.recipe), _lifetime(run, ledger), worst_of(run)
    names = sorted({*ledger.blocks(dataset), str(_privacy(run).block)})
    after = {b: (ledger.spent(dataset, b).loss + worst).epsilon(lifetime.delta) for b in names}
    able = [b for b in names if after[b] <= lifetime.epsilon]
    return able, [b for b in names if b not in able]


def _read(run: "Run") -> tuple[str, ...]:
    """The blocks that a run's reservation pays for, as the ledger has them."""
    held = _held(run)
    rows = ledger_at(run.folder).history(held["dataset"])
    return next((row.blocks for row in rows if row.hash == held["id"]), ())


def trusted(folder: Path, ledger: "Ledger", *, root: Path | None = None, name: str = "*") -> int:
    """Verifies a ledger, and that it holds what releases and runs beside a recipe say that it held.

    A ledger that was cut, replaced or put back lacks some of it. What a run says to be of another does not count.

    Args:
        folder: where the recipe lies.
        ledger: its ledger.
        root: where releases go; None: where those of the recipes here have gone.
        name: of the release whose certificates count where the root is not in the folder: there may be releases of
            other folders, whose ledgers are others.

    Returns:
        How many certificates were held against it.

    Raises:
        LedgerError: the chain is broken, or lacks something.
    """
    here, others, roots = set[str](), set[str](), {(folder / RELEASES, name)}
    for path in sorted((folder / ".understudy" / "runs").glob(f"*/*/{RESERVATION}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            held = json.loads(path.read_text("utf-8"))
            own = held.get("ledger") in (None, _called(folder, ledger))
            (here if own else others).update(str(held[key]) for key in ("id", "head") if key in held)
            about = json.loads((path.parents[1] / "run.json").read_text("utf-8"))["about"]
            place = (folder / Path(about["recipe"].get("to", RELEASES)).expanduser()).resolve()
            roots.add((place, str(about["recipe"]["name"])))
    if root is not None:
        roots = {(root, name)}
    told = set[str]()
    for place, own_name in roots:
        releases = "*" if place.resolve().is_relative_to(folder.resolve()) else own_name
        for path in place.glob(f"{releases}/*/certificate.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                promised = json.loads(path.read_text("utf-8"))["formal_guarantee"]
                told.add(str(promised["lifetime"]["ledger_head"]))
    told -= others - here
    ledger.verify(sorted(here | told))
    return len(told)


def _called(folder: Path, ledger: "Ledger") -> str:
    """Which ledger it is, for a run's own: without a password, and the same where the folder was moved with it."""
    own = f"sqlite:///{folder.absolute()}/"
    return ledger.name.removeprefix(own)


def _state(run: "Run") -> str:
    """What the ledger says of the run's reservation; empty where it is settled, void or unknown."""
    outstanding = ledger_at(run.folder).outstanding(_held(run)["id"])
    return "" if outstanding is None else str(outstanding.state)


def _held(run: "Run") -> dict[str, str]:
    path = _own(run) / RESERVATION
    try:
        held: dict[str, str] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise ReleaseError(
            f"a private run must have a reservation, however: {path} cannot be read; remove the run's folder and "
            "release anew, at a new charge"
        ) from None
    return held


def identify(
    run: "Run", units: Iterable[NDArray[np.uint64]], contents: Iterable[NDArray[np.uint64]] = ()
) -> None:
    """Remembers a dataset by keyed fingerprints of its units, and of what is in its rows.

    Args:
        run: a private run.
        units: uint64 (n,) each: the unit of each row.
        contents: uint64 (n,) each: where rows are not units, what is in each; so they are known under another unit.

    Raises:
        BudgetRefused: they are known under another name, whose budget they would escape.
    """
    from privacy.fingerprint import sketch, telling

    ledger = ledger_at(run.folder)
    key = ledger.key()
    sketches = [sketch(units, key)]
    if run.schema.unit is not None:
        sketches.append(telling(contents, key))
    ledger.identify(_held(run)["dataset"], *sketches)


def assign(run: "Run", units: Iterable[NDArray[np.uint64]]) -> NDArray[np.bool_]:
    """Puts units that were never seen into the recipe's block, and says which rows the run's reservation pays for.

    Args:
        run: a private run with a block.
        units: uint64 (n,) each: the unit of each row.

    Returns:
        bool (rows,): no other row may be used.
    """
    block = _privacy(run).block
    assert block is not None
    return ledger_at(run.folder).assign(_held(run)["id"], np.concatenate([*units]), block=block)


def settle(run: "Run") -> None:
    """Writes what the run cost into the ledger; whether it is then published changes nothing."""
    held, ledger = _held(run), ledger_at(run.folder)
    if "head" in held:
        return
    ledger.whole(held["id"], _answers(run))
    ledger.commit(held["id"], actual(run))
    write_atomic(_own(run) / RESERVATION, json.dumps({**held, "head": ledger.head()}).encode())


# --- what is promised


def guarantee_of(run: "Run", *, audit: Mapping[str, Any] | None) -> dict[str, Any]:
    """The formal part of a certificate; `audit` is the last one of this configuration.

    Raises:
        ReleaseError: what was answered costs more than was reserved, was not settled, or is not what the ledger says;
            or the audit contradicts the promise.
    """
    privacy, schema, held = _privacy(run), run.schema, _held(run)
    _check_audit(audit, privacy.epsilon)
    loss, budget = actual(run), budget_of(privacy, schema)
    epsilon = loss.epsilon(privacy.delta)
    if not (loss.within(worst_of(run)) and epsilon <= privacy.epsilon and "head" in held):
        raise ReleaseError(
            f"a certificate needs charges within what was reserved, however: epsilon {epsilon:.6g} of "
            f"{privacy.epsilon:g} was spent; nothing is published"
        )
    ledger = ledger_at(run.folder)
    committed = ledger.committed(held["id"])
    if committed is None or not (loss.within(committed) and committed.within(loss)):
        raise ReleaseError(
            "a run's journal must cost what the ledger says that it cost, however: it does not, so that one of them "
            "was changed since; nothing is published: restore the run's folder, or remove it and release anew, at a "
            "new charge"
        )
    lifetime, read = ledger.spent(held["dataset"]), _read(run)
    return formal(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        spent_epsilon=epsilon,
        curve={f"{order:g}": loss.curve[ORDERS.index(order)] for order in CURVE_SHOWN},
        failure_delta=loss.delta,
        unit=schema.unit,
        unit_rows=privacy.max_rows_per_unit,
        mechanisms=[
            {"for": part, **c.published(), "share": c.rho / budget.rho}
            for part in PARTS
            for c in charges_of(run, part)
        ],
        declared=_declared(schema),
        units_about=schema.units_about,
        audit=audit,
        exact_report=privacy.exact_report,
        report_rows=_report_rows(run),
        lifetime={
            "dataset": held["dataset"],
            "epsilon": None if lifetime.lifetime is None else lifetime.lifetime.epsilon,
            "delta": None if lifetime.lifetime is None else lifetime.lifetime.delta,
            "spent_epsilon": lifetime.epsilon,
            "ledger_head": held["head"],
            **({"blocks": _accounts(ledger, held["dataset"], read)} if read else {}),
        },
        versions={name: importlib.metadata.version(name) for name in ("dp-accounting", "opendp", "opacus")},
    )


def _check_audit(audit: Mapping[str, Any] | None, epsilon: float) -> None:
    if audit is not None and audit["epsilon"] > epsilon:
        raise ReleaseError(
            f"an audit must not contradict what is promised, however: the last one of this configuration found epsilon "
            f"{audit['epsilon']:.3g} at least, of {epsilon:g}; nothing is published"
        )


def _accounts(ledger: "Ledger", dataset: str, read: Sequence[str]) -> list[dict[str, Any]]:
    """What each block has spent, and whether its units were learned from."""
    return [
        {"block": b, "spent_epsilon": ledger.spent(dataset, b).epsilon, "read": b in read}
        for b in sorted(ledger.blocks(dataset))
    ]


EXACT_INSIDE = (
    "an exact report of the private rows is made in the workspace of this run, for the inside alone; whoever reads it "
    "and then releases again, with other settings, spends privacy that nobody counts"
)


def _report_rows(run: "Run") -> str | None:
    """Which rows the noised figures are about; None where there are none."""
    if not charges_of(run, "report"):
        return None
    held = isinstance(run.recipe.holdout, str)
    return (
        "rows of a holdout of their own, which the model has not learned from"
        if held
        else "the rows that the model has learned from, counted anew with noise that it has not seen"
    )


def _declared(schema: Schema) -> Mapping[str, str]:
    """What was public by declaration, and by whom."""
    return {c.name: c.facts.removeprefix("declared: ") for c in schema if c.declared}
