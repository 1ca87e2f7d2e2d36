"""audit --thorough: shadow models of a recipe without a formal guarantee, on the rows of its own run.

Each learns from half of the rows, so it takes as many fits as there are shadows; no release makes them. What is found
is kept inside, beside the recipe. The next release of the same configuration is judged by it, and cites it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.audit import as_unit
from pipelines.ingesting import curator_of, raw_rows
from pipelines.run import Run, synthesizer_of
from pipelines.steps import check, check_room, perform
from pipelines.workspace import digest_of, write_atomic
from privacy.attacks import Attack, Attacks
from privacy.errors import GateRefused, RecipeError, ReleaseError, UsageError
from validation.exposure import TOLD, ends, share
from validation.markup import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODELS, TARGETS, ROWS = 32, 200, 10_000
"""Shadow models, targets of either kind, and rows that the models share at most."""

FEWEST_MODELS, FEWEST_TARGETS = 8, 20
"""With fewer of them, guesses say too little."""

DECIMALS = 3
"""Of the figures that a certificate cites, as of all that leave without a formal guarantee."""


@dataclass(frozen=True, kw_only=True)
class Shadowed:
    """What an attack by shadow models found.

    Attributes:
        on: the day, as 2026-11-23.
        models: that were fitted.
        configuration: a digest of what they have in common.
        attacks: on targets at random and on the most exposed.
    """

    on: str
    models: int
    configuration: str
    attacks: tuple[Attack, ...]

    @classmethod
    def read(cls, path: Path) -> "Shadowed":
        """What was kept at a path.

        Raises:
            ReleaseError: it is no such attack.
        """
        try:
            data = json.loads(path.read_text("utf-8"))
            return cls(**{**data, "attacks": tuple(map(Attack.from_dict, data["attacks"]))})
        except (OSError, ValueError, TypeError, KeyError):
            raise ReleaseError(
                f"an attack that is cited must be as this version wrote it, however: {path} is not; remove it, or "
                "attack anew with `understudy audit --thorough`"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return asdict(self)

    def to_json(self) -> str:
        """For a file that is inside."""
        return f"{json.dumps(self.to_dict())}\n"

    def cited(self) -> dict[str, Any]:
        """What a certificate says of it: coarse figures."""
        return {
            "kind": "attack, not proof",
            "on": self.on,
            "models": self.models,
            "false_positives": 0.01,
            "attacks": {a.name: _figures(a) for a in self.attacks},
        }

    def describe(self) -> str:
        """For a person."""
        return "\n".join(
            [
                f"{counted(self.models, 'shadow model', 'shadow models')}, each fitted to half of the rows:",
                *map(_line, self.attacks),
                "Small figures are no guarantee.",
            ]
        )


def _figures(attack: Attack) -> Mapping[str, Any]:
    assert attack.auc is not None
    named = {
        "found": attack.success,
        "accused": attack.control,
        "risk": attack.risk.value,
        "risk_low": attack.risk.low,
        "risk_high": attack.risk.high,
        "auc": attack.auc.value,
        "auc_low": attack.auc.low,
        "auc_high": attack.auc.high,
    }
    return {name: round(value, DECIMALS) for name, value in named.items()}


def _line(attack: Attack) -> str:
    assert attack.auc is not None
    area = f"{attack.auc.value:.2f} ({attack.auc.low:.2f} to {attack.auc.high:.2f})"
    return (
        f"  {TOLD[attack.name].title}: {share(attack.success)} of the members found, {share(attack.control)} of others "
        f"accused; {share(attack.risk.value)} beyond chance ({ends(attack.risk)}); area under the curve {area}; "
        f"{attack.guesses:,} guesses about members"
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How thorough it shall be.

    Attributes:
        models: shadow models.
        targets: units that are attacked of the most exposed, and as many at random.
        rows: that the shadow models share at most; each learns from about half of them.
    """

    models: int = MODELS
    targets: int = TARGETS
    rows: int = ROWS

    def __post_init__(self) -> None:
        if self.models < FEWEST_MODELS or self.targets < FEWEST_TARGETS:
            raise UsageError(
                f"an attack needs {FEWEST_MODELS} shadow models and {FEWEST_TARGETS} targets at least, however: "
                f"{self.models} and {self.targets}; ask for more"
            )


def attack(run: Run, asked: Asked) -> Shadowed:
    """Fits shadow models, attacks them, and keeps what was found.

    Raises:
        RecipeError: the recipe promises differential privacy, or has images.
        InputError: there are too few rows.
        UnderstudyError: what else keeps a release from being fitted.
    """
    from validation.evidence import gather_shadows

    _check(run)
    with run.workspace.locked():
        check_room(run)
        perform(run, "ingest")
        rows = raw_rows(run)
        sealed = gather_shadows(
            curator_of(run, rows, at_most=_shared(run, asked.rows)), rows, run.schema, _Release(run),
            shadows=asked.models, targets=asked.targets, seed=run.recipe.seed,
        )  # fmt: skip
    on = date.today().isoformat()
    note = f"{counted(asked.models, 'model was', 'models were')} fitted for it, on {on}."
    path = kept_at(run)
    found = Shadowed(
        on=on,
        models=asked.models,
        configuration=path.stem,
        attacks=tuple(replace(a, note=note) for a in sealed.open(formal_guarantee=False)),
    )
    write_atomic(path, found.to_json().encode())
    return found


def _check(run: Run) -> None:
    if run.recipe.privacy is not None:
        raise RecipeError(
            "shadow models learn from private rows exactly, however: the recipe has a `privacy` section, whose promise "
            "no fit may break that nobody charges; leave --thorough out: then made-up rows hold it to its promise"
        )
    check(run)
    if run.schema.images:
        raise RecipeError(
            f"shadow models are attacked by comparing values of rows, however: {run.schema.images[0].name!r} is kind: "
            "image; the evidence of a release says which images are close to a training image"
        )


@dataclass(frozen=True)
class _Release:
    """Fits some rows as the run does, and draws as many."""

    run: Run

    def __call__(self, rows: pa.Table, units: "NDArray[np.uint64]", number: int) -> pa.Table:
        from synth.table import fit

        recipe, schema = self.run.recipe, self.run.schema
        if schema.unit is not None and not schema[schema.unit].learned:
            # Of a column that is not learned evidence sees no value.
            named = as_unit(units, schema[schema.unit].arrow_type)
            rows = rows.set_column(schema.names.index(schema.unit), schema.unit, named)
        # Each starts from a seed of its own: an attacker does not know that of the release.
        seed = recipe.seed + number
        model = fit(
            rows, synthesizer_of(recipe, self.run.stated), schema=schema, seed=seed,
            at_least=recipe.at_least, threads=recipe.threads, options=recipe.options,
        )  # fmt: skip
        parts = model.shard(0, len(rows), seed=seed, first_row=0, parity=recipe.parity)
        drawn = pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
        return drawn.cast(pa.schema([field.with_nullable(True) for field in schema.arrow]))


def _shared(run: Run, most: int) -> int:
    """Rows of which each shadow learns from half: no more than the release learns from, which remembers them better."""
    facts, holdout = run.workspace.records()["ingest"].facts, run.recipe.holdout
    beside = facts.get("holdout_rows", 0)
    every = max(1, facts["rows"] + beside)
    held = holdout if isinstance(holdout, float) else beside / every
    return int(min(most, 2 * (1 - held) * min(every, run.most_rows)))


def judge(run: Run, found: Shadowed) -> None:
    """Holds an attack against the gate.

    Raises:
        GateRefused: it wins more than the gate allows. The next release of this configuration will be refused.
    """
    from validation.gates import verdict

    said = verdict(None, (), run.recipe.gate, Attacks(done=found.attacks))
    if not said.passed:
        listed = "".join(f"\n  {f.rule}: {f.message}" for f in said.critical)
        raise GateRefused(f"the gate will refuse a release of this configuration:{listed}")


def kept_at(run: Run) -> Path:
    """Where the last attack on a configuration is kept."""
    recipe = run.recipe
    parity = None if recipe.parity is None else recipe.parity.model_dump(mode="json")
    about = [
        synthesizer_of(recipe, run.stated),
        recipe.options,
        recipe.at_least,
        parity,
        run.schema.to_json(),
        # Unlike an audit on made-up rows it says nothing of other rows, nor of a fit to fewer.
        [recipe.input, recipe.query, recipe.holdout, recipe.fit_rows],
    ]
    return run.folder / ".understudy" / "audits" / f"shadows-{digest_of(about)[:16]}.json"


def last(run: Run) -> Shadowed | None:
    """The last attack on a run's configuration, or None; under privacy there is none.

    Raises:
        ReleaseError: what is kept is no attack, or one on another configuration.
    """
    if run.recipe.privacy is not None:
        return None
    path = kept_at(run)
    found = Shadowed.read(path) if path.exists() else None
    if found is not None and found.configuration != path.stem:
        raise ReleaseError(
            f"an attack may be cited by its own configuration alone, however: {path} is of another; remove it, "
            "or attack anew with `understudy audit --thorough`"
        )
    return found
