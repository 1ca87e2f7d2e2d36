"""Private: what a release with a privacy section does that others need not.

Its budget is divided before a row is read, and taken from the dataset's ledger; its curators draw from a secret of
the run, charge a journal, and tell the certificate what each answer cost. What was fitted stays fitted: neither a
changed source nor a newer Understudy spends anything again, only a changed recipe, schema or `edition` does.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.recipe import Privacy, Recipe
from pipelines.workspace import Workspace, write_atomic
from privacy.accounting import ORDERS, Loss, rho_for
from privacy.certificate import formal
from privacy.errors import RecipeError, ReleaseError
from privacy.private import Account, Charge, Journal, Target, total_of
from synth.keys import is_text
from synth.noised import FIRST_SHARE, share_asked
from synth.schema import Column, Schema

if TYPE_CHECKING:
    from privacy.curator import Descent, Rows
    from privacy.ledger import Ledger
    from privacy.private import PrivateCurator

RESERVATION = "reservation.json"
SECRET = "secret"
JOURNAL = "journal"

KEPT = ("ingest", "profile", "fit")
"""Steps that a private run never does twice, whatever changed but the recipe and the schema."""

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
        promised: epsilon and delta of the whole release.
        asked: ρ of the profile's part that is asked for at all, by what is declared.
    """

    rho: float
    delta: float
    profile: float
    model: float
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
        promised=(privacy.epsilon, privacy.delta),
        asked=share_asked(schema) * privacy.shares.profile * rho,
    )


def units_of(recipe: Recipe, schema: Schema) -> float | None:
    """About how many units a model learns from, by what is public; None where nobody declared it."""
    assert recipe.privacy is not None
    if schema.units_about is None:
        return None
    rows = schema.units_about * recipe.privacy.max_rows_per_unit
    kept = 1 - recipe.holdout if isinstance(recipe.holdout, float) else 1.0
    return schema.units_about * kept * min(1.0, recipe.fit_rows / rows)


def gradients_of(recipe: Recipe, schema: Schema) -> "tuple[Descent, float] | None":
    """The steps that the recipe's synthesizer will take, and their share of the model's budget, if it takes any.

    Raises:
        RecipeError: their number does not follow from what is public, or an option needs exact answers.
    """
    from synth.registry import descent_of, resolve

    name = resolve(recipe.synthesizer, private=True)
    return descent_of(name, recipe.options, units_of(recipe, schema))


def worst_of(recipe: Recipe, schema: Schema) -> Loss:
    """What a release costs at most, at every order, as it is known before a row is read."""
    assert recipe.privacy is not None
    budget, gradients = budget_of(recipe.privacy, schema), gradients_of(recipe, schema)
    return budget.worst if gradients is None else budget.target.worst(*gradients)


def _must_be_found(column: Column) -> bool:
    """Whether a column's categories are not declared."""
    if not column.learned or column.kind == "boolean" or (column.declared and column.categories is not None):
        return False
    return column.kind == "categorical" or is_text(column.arrow_type)


def check_private(recipe: Recipe, schema: Schema) -> None:
    """Refuses what a private release cannot promise, before any row is read.

    Raises:
        RecipeError: delta is too large for the number of units, or a model's steps do not follow from it.
    """
    privacy = recipe.privacy
    if privacy is None:
        return
    most = MOST_DELTA if schema.units_about is None else 1 / schema.units_about
    if privacy.delta > most:
        why = (
            f"`units_about` in the schema is not set, so at most {MOST_DELTA:g} is taken"
            if schema.units_about is None
            else f"there are about {schema.units_about:,} units"
        )
        raise RecipeError(
            f"privacy.delta must be at most one in the number of units, however: delta={privacy.delta:g} and {why}; "
            "choose a smaller delta"
        )
    if privacy.max_rows_per_unit > 1 and schema.unit is None:
        raise RecipeError(
            "max_rows_per_unit is for rows that share a unit, however: neither recipe nor schema names a `unit`; "
            "name the column whose equal values mean one person"
        )
    gradients_of(recipe, schema)


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


def describe(recipe: Recipe, schema: Schema, stated: Schema, folder: Path) -> str:
    """What will be promised, what each part may spend, with the noise that follows, and what the lifetime leaves."""
    privacy = recipe.privacy
    assert privacy is not None
    budget = budget_of(privacy, schema)
    unit = "a row" if schema.unit is None else f"{schema.unit}, at most {privacy.max_rows_per_unit} rows each"
    noise = privacy.max_rows_per_unit * math.sqrt(len(schema) / (2 * FIRST_SHARE * budget.profile))
    lines = [
        f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} for {unit}: rho {budget.rho:.4g}",
        f"profile {privacy.shares.profile:.0%} of it: each count of a value or bin "
        f"± {noise:.0f} rows, later rounds less",
        f"model {privacy.shares.model:.0%}, and what the profile leaves",
    ]
    gradients = gradients_of(recipe, schema)
    if gradients is not None:
        descent, share = gradients
        lines.append(
            f"{share:.0%} of the model's for {descent.steps:,} steps, each of {descent.rate:.3%} of the units, with "
            f"noise {budget.target.multiplier(descent, share):.3g} times what one unit adds"
        )
    spent = ledger_at(folder).spent(dataset_of(recipe))
    if spent.lifetime is None:
        lines.append("lifetime: none yet; this release makes its own epsilon the dataset's")
    else:
        lines.append(
            f"lifetime of {recipe.dataset}: {spent.epsilon:.4g} of epsilon {spent.lifetime.epsilon:g} is spent"
        )
    return "; ".join([*lines, *notes_of(schema, stated)])


# --- the run's own


def secret_of(workspace: Workspace) -> bytes:
    """What splits are drawn by: made once, known to nobody outside, and in no recipe."""
    path = workspace.path / SECRET
    if not path.exists():
        part = path.with_name(f".{SECRET}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
            handle.write(secrets.token_bytes(32))
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    return path.read_bytes()


def kept_inputs(recipe: Recipe, schema: Schema) -> dict[str, str]:
    """What the steps that are never done twice depend on."""
    text = json.dumps([recipe.digest(), schema.to_json()])
    return {"recipe and schema": hashlib.sha256(text.encode()).hexdigest()}


def account_of(workspace: Workspace, recipe: Recipe, schema: Schema, part: str) -> Account:
    """The account of a step, with the answers that it was given before.

    Args:
        workspace: of the run.
        recipe: of the release.
        schema: what of it may be believed.
        part: profile or model; the model has what the profile left as well, but what gradients were planned to have
            of that is theirs alone.
    """
    assert recipe.privacy is not None
    budget, journal = budget_of(recipe.privacy, schema), Journal(workspace.path / JOURNAL / part)
    if part == "profile":
        return Account(rho=budget.profile, delta=budget.delta, journal=journal)
    spent = sum(c.rho for c in _charges(workspace, "profile"))
    if gradients_of(recipe, schema) is None:
        return Account(rho=budget.model + budget.profile - spent, journal=journal)
    # A draw that a crash lost may have made the profile dearer than what gradients were planned beside.
    left = budget.asked - spent
    target = budget.target if left >= -1e-9 * budget.asked else None
    return Account(rho=budget.model + max(0.0, left), journal=journal, target=target)


def _charges(workspace: Workspace, part: str) -> tuple[Charge, ...]:
    folder = workspace.path / JOURNAL / part
    return Journal(folder).charges if folder.exists() else ()


def actual(workspace: Workspace) -> Loss:
    """What all answers of a run cost."""
    return total_of([c for part in ("profile", "model") for c in _charges(workspace, part)])


def curator_of(
    rows: "Rows", account: Account, recipe: Recipe, schema: Schema, *, key: bytes, keep: float = 1.0
) -> "PrivateCurator":
    """The curator of a private run's rows."""
    from privacy.private import PrivateCurator

    assert recipe.privacy is not None
    return PrivateCurator(
        rows,
        account,
        key=key,
        unit_rows=recipe.privacy.max_rows_per_unit,
        holdout=recipe.holdout if isinstance(recipe.holdout, float) else 0.0,
        keep=keep,
        units_about=units_of(recipe, schema),
    )


# --- the ledger


def ledger_at(folder: Path) -> "Ledger":
    """The ledger that `UNDERSTUDY_LEDGER` names, or the one beside the recipe.

    The key of its fingerprints lies in the file that `UNDERSTUDY_LEDGER_KEY` names, or beside the ledger where that
    is a file, or else beside the recipe.
    """
    from privacy.ledger import Ledger

    own = folder / ".understudy"
    where = os.environ.get("UNDERSTUDY_LEDGER") or own / "ledger.sqlite"
    named = os.environ.get("UNDERSTUDY_LEDGER_KEY")
    beside = None if isinstance(where, Path) or where.startswith("sqlite") else own / "ledger.key"
    own.mkdir(parents=True, exist_ok=True)
    return Ledger(where, key=Path(named) if named else beside)


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


def reserve(workspace: Workspace, folder: Path, recipe: Recipe, schema: Schema) -> None:
    """Takes the worst case of a run from the dataset's lifetime, before its first row is read, and says so.

    A run that was interrupted goes on with the reservation that it has.

    Raises:
        BudgetRefused: the lifetime does not allow it.
    """
    assert recipe.privacy is not None
    from privacy.book import Budget as Lifetime

    path = workspace.path / RESERVATION
    if path.exists():
        return
    ledger, dataset = ledger_at(folder), dataset_of(recipe)
    asked = Lifetime(epsilon=recipe.privacy.epsilon, delta=recipe.privacy.delta)
    lifetime = recipe.privacy.lifetime
    if lifetime is not None and ledger.spent(dataset).lifetime is None:
        wanted = Lifetime(epsilon=lifetime.epsilon, delta=lifetime.delta)
        ledger.set_budget(dataset, wanted, by=f"recipe {recipe.name}")
    taken = ledger.reserve(dataset, run=workspace.path.name, worst=worst_of(recipe, schema), asked=asked)
    ledger.touch(taken.id)
    write_atomic(path, json.dumps({"id": taken.id, "dataset": dataset}).encode())


def identify(workspace: Workspace, folder: Path, units: Iterable[NDArray[np.uint64]]) -> None:
    """Remembers a dataset by keyed fingerprints of its units.

    Raises:
        BudgetRefused: they are known under another name, whose budget they would escape.
    """
    from privacy.fingerprint import sketch

    held = json.loads((workspace.path / RESERVATION).read_text("utf-8"))
    ledger = ledger_at(folder)
    ledger.identify(held["dataset"], sketch(units, ledger.key()))


def settle(workspace: Workspace, folder: Path) -> None:
    """Writes what the run cost into the ledger; whether it is then published changes nothing."""
    path = workspace.path / RESERVATION
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise ReleaseError(
            f"a private run must have a reservation, however: {path} cannot be read; remove the run's folder and "
            "release anew, at a new charge"
        ) from None
    ledger = ledger_at(folder)
    ledger.commit(held["id"], actual(workspace))
    write_atomic(path, json.dumps({**held, "head": ledger.head()}).encode())


# --- what is promised


def guarantee_of(workspace: Workspace, folder: Path, recipe: Recipe, schema: Schema) -> dict[str, Any]:
    """The formal part of a certificate.

    Raises:
        ReleaseError: what was answered costs more than was reserved, or was not settled.
    """
    privacy = recipe.privacy
    assert privacy is not None
    held = json.loads((workspace.path / RESERVATION).read_text("utf-8"))
    loss, budget = actual(workspace), budget_of(privacy, schema)
    epsilon = loss.epsilon(privacy.delta)
    if not (loss.within(worst_of(recipe, schema)) and epsilon <= privacy.epsilon and "head" in held):
        raise ReleaseError(
            f"a certificate needs charges within what was reserved, however: epsilon {epsilon:.6g} of "
            f"{privacy.epsilon:g} was spent; nothing is published"
        )
    lifetime = ledger_at(folder).spent(held["dataset"])
    return formal(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        spent_epsilon=epsilon,
        curve={f"{order:g}": loss.curve[ORDERS.index(order)] for order in CURVE_SHOWN},
        failure_delta=loss.delta,
        unit=schema.unit,
        unit_rows=privacy.max_rows_per_unit,
        mechanisms=[
            {"for": part, **asdict(c), "share": c.rho / budget.rho}
            for part in ("profile", "model")
            for c in _charges(workspace, part)
        ],
        declared=_declared(schema),
        lifetime={
            "dataset": held["dataset"],
            "epsilon": None if lifetime.lifetime is None else lifetime.lifetime.epsilon,
            "delta": None if lifetime.lifetime is None else lifetime.lifetime.delta,
            "spent_epsilon": lifetime.epsilon,
            "ledger_head": held["head"],
        },
        versions={name: importlib.metadata.version(name) for name in ("dp-accounting", "opendp", "opacus")},
    )


def _declared(schema: Schema) -> Mapping[str, str]:
    """What was public by declaration, and by whom."""
    return {c.name: c.facts.removeprefix("declared: ") for c in schema if c.declared}
