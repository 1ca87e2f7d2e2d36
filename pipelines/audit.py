"""audit: a private recipe on made-up rows, some of which are canaries; no private row is read and nothing is charged.

The same code learns profile and model under the same budget, from a surrogate that follows from the schema alone. Then
an attacker tells the canaries that were in from those that were not: by the answers of the curator and his steps
(`privacy.overheard`), which are what is promised about, and by the model, which shows what a synthesizer learned behind
the curator's back.
"""

import json
import math
import string
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines import private
from pipelines.run import Run, code_digest, synthesizer_of
from pipelines.steps import check
from pipelines.workspace import digest_of, write_atomic
from privacy.audit import Audit, strongest
from privacy.curator import Floats
from privacy.errors import RecipeError, ReleaseError
from privacy.overheard import Heard, Marked, Overheard
from synth.codec import Codec, Encoded
from synth.constraints import Constraints
from synth.images import images
from synth.keys import from_keys, is_real, is_text
from synth.learn import learn
from synth.profile import declared_bounds, key_of
from synth.registry import Dense, Model
from synth.rows import EncodedStore, RawRows, table_source
from synth.schema import Column, Picture, Schema
from synth.table import fit_encoded, labels_of

ROWS, CANARIES = 10_000, 1_000

SPAN = 1_000_000
"""Numbers without declared bounds lie between 0 and this."""

PATCHES = 3
"""Patches of a made-up image along either side."""

COMPARED = 5_000
"""Drawn rows that a canary is compared with where the model knows no densities."""


@dataclass(frozen=True, kw_only=True)
class Audited:
    """A bound, the promise that it is held against, and where it is kept."""

    found: Audit
    epsilon: float
    path: Path

    @property
    def broken(self) -> bool:
        """Whether the promise is broken."""
        return self.found.epsilon > self.epsilon

    def raise_if_broken(self) -> None:
        """Raises what stops a release.

        Raises:
            ReleaseError: the promise is broken.
        """
        if self.broken:
            raise ReleaseError(
                "an audit must not contradict what is promised, however: it does; publish nothing"
            )

    def describe(self) -> str:
        """For a person."""
        verdict = (
            "The promise is broken: publish nothing, and report it."
            if self.broken
            else "Nothing contradicts it."
        )
        return (
            f"epsilon is at least {self.found.epsilon:.3g} (confidence {self.found.confidence:.0%}, delta "
            f"{self.found.delta:g}); {self.epsilon:g} is promised. {verdict}\n"
            f"{self.found.correct} of {self.found.guesses} guesses about {self.found.canaries} canaries, from "
            f"the {self.found.attack}, were right; "
            f"for a mechanism that errs as a Gaussian one does they show at least {self.found.gaussian:.3g}. "
            f"A lower bound is no proof.\n  kept in {self.path}"
        )


def examine(run: Run, *, rows: int = ROWS, canaries: int = CANARIES) -> Audited:
    """Audits a recipe once.

    Raises:
        RecipeError: it has no privacy section, or breaks a rule.
    """
    recipe, schema = run.recipe, Constraints(run.schema).coded
    if recipe.privacy is None:
        raise RecipeError(
            "an audit needs a promise, however: the recipe has no `privacy` section; add one, or attack it by shadow "
            "models with --thorough"
        )
    check(run)
    rng = np.random.default_rng()
    odd = surrogate(schema, canaries, rng, odd=True)
    included = rng.random(canaries) < 0.5
    each = 1 if schema.unit is None else recipe.privacy.max_rows_per_unit
    own = odd.take(np.repeat(np.arange(canaries), each))
    table = pa.concat_tables([surrogate(schema, rows, rng, odd=False), own])
    codec, model, heard = _fitted(run, table, included, each, rng)
    attacks = {**heard.attacks(), "model": scores_of(model, codec, odd, rng)}
    found = strongest(attacks, included, delta=recipe.privacy.delta)
    path = kept_at(run)
    told = {
        **found.to_dict(),
        "configuration": path.stem,
        "on": datetime.now(UTC).date().isoformat(),
        "code": code_digest(),
    }
    write_atomic(path, (json.dumps(told) + "\n").encode())
    return Audited(found=found, epsilon=recipe.privacy.epsilon, path=path)


def kept_at(run: Run) -> Path:
    """Where the last audit of a configuration is kept."""
    recipe = run.recipe
    assert recipe.privacy is not None
    promise = recipe.privacy.model_dump(exclude={"lifetime", "edition", "block", "exact_report"})
    fit = [synthesizer_of(recipe, run.stated), recipe.options, recipe.at_least]
    about = [*fit, promise, run.schema.to_json()]
    return run.folder / ".understudy" / "audits" / f"{digest_of(about)[:16]}.json"


def last(run: Run) -> dict[str, Any] | None:
    """The last audit of a run's configuration, or None.

    Raises:
        ReleaseError: what is kept is none.
    """
    path = kept_at(run)
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if not (found["configuration"] == path.stem and math.isfinite(found["epsilon"])):
            raise ValueError("of another configuration, or without a bound")
        return found
    except (OSError, ValueError, KeyError, TypeError):
        raise ReleaseError(
            f"an audit that is kept must be whole, however: {path} is not; remove it, and audit again"
        ) from None


def _fitted(
    run: Run, table: pa.Table, included: NDArray[np.bool_], each: int, rng: np.random.Generator
) -> tuple[Codec, Model, Heard]:
    """A fit to the rows of a table, of whose last ones, the canaries of so many rows each, some are included."""
    recipe, schema = run.recipe, Constraints(run.schema).coded
    assert recipe.privacy is not None
    whole = RawRows(schema, table_source(table))
    canaries = len(included)
    among = np.append(np.ones(len(table) - each * canaries, np.bool_), np.repeat(included, each))
    rows, heard = Marked(whole, among, canaries=canaries, each=each), Heard(canaries)
    account = private.account_for(run, "profile")
    curator = Overheard(
        rows,
        [*rows.every()],
        canaries,
        heard,
        account,
        key=rng.bytes(32),
        unit_rows=recipe.privacy.max_rows_per_unit,
        units_about=private.units_of(run),
    )
    profile = learn(schema, curator, labels_of(whole), at_least=recipe.at_least)
    codec = Codec(schema, profile)
    encoded = curator.recode(
        lambda batch: codec.code(batch, whole.dictionaries),
        EncodedStore(None, unit_is_row=whole.unit_is_row),
        private.account_for(run, "model", spent=sum(c.rho for c in account.charges)),
    )
    seed = int(rng.integers(2**31))
    model = fit_encoded(
        encoded, codec, synthesizer_of(recipe, run.stated), recipe.options, seed=seed, threads=recipe.threads
    )
    return codec, model, heard


def scores_of(model: Model, codec: Codec, rows: pa.Table, rng: np.random.Generator) -> Floats:
    """How likely each row is under the model, or how near it comes to a drawn one: float64 (n,)."""
    encoded = codec.encode(rows)
    if isinstance(model, Dense):
        return model.log_prob(encoded)
    drawn = model.draw(COMPARED, rng)
    return np.array([_nearest(drawn, encoded, i) for i in range(len(encoded))])


def _nearest(drawn: Encoded, rows: Encoded, row: int) -> float:
    """Cells that the nearest drawn row shares with a row, less how far its scores are."""
    same = (drawn.states == rows.states[row]).sum(1)
    apart = np.abs(drawn.scores - rows.scores[row]).sum(1) if drawn.scores.shape[1] else 0.0
    return float((same - 0.1 * apart).max())


# --- made-up rows


def surrogate(schema: Schema, rows: int, rng: np.random.Generator, *, odd: bool) -> pa.Table:
    """Rows that follow from the schema alone.

    Args:
        schema: the columns.
        rows: how many.
        rng: draws them.
        odd: whether values are all alike likely, or mostly among the first of their column.
    """
    arrays = [_values(column, rows, rng, odd=odd) for column in schema]
    table = pa.Table.from_arrays(arrays, names=list(schema.names))
    if schema.unit is not None:
        # Those of canaries are odd numbers.
        units = as_unit(np.arange(rows) * 2 + odd, schema[schema.unit].arrow_type)
        table = table.set_column(schema.names.index(schema.unit), schema.unit, units)
    return table.cast(schema.arrow)


def as_unit(units: NDArray[np.integer[Any]], kind: pa.DataType) -> pa.Array:
    """Units by number, in the type of a column; a narrow type has them again from the start."""
    if is_text(kind):
        return pa.array([f"unit {u}" for u in units]).cast(kind)
    width = 53 if kind.bit_width == 64 else min(kind.bit_width, 32) - 1
    numbers = pa.array(np.asarray(units, np.uint64) % np.uint64(2**width), pa.uint64())
    # Days and times are numbers as wide as they.
    return numbers.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)


def _values(column: Column, rows: int, rng: np.random.Generator, *, odd: bool) -> pa.Array:
    # The square makes small places common; canaries take all places alike.
    luck = rng.random(rows) if odd else rng.random(rows) ** 3
    kind = column.arrow_type
    if column.image is not None:
        return _pictures(column.image, rows, rng, odd=odd)
    if not column.learned:
        return pa.array(["x"] * rows).cast(kind) if is_text(kind) else pa.nulls(rows, kind)
    if is_text(kind):
        known = [str(c) for c in column.categories or string.ascii_lowercase[:8]]
        return pa.array(known, pa.string()).take(_places(luck, len(known))).cast(kind)
    if column.kind == "boolean":
        return pa.array(luck > 0.5).cast(kind)
    if column.declared and column.categories:
        keys = np.array([key_of(column, c) for c in column.categories], np.int64)
        return from_keys(keys[_places(luck, len(keys)).to_numpy()], kind)
    low, high = (
        declared_bounds(column) if column.min is not None and column.max is not None else _span(column)
    )
    return from_keys(low + (luck * min(high - low, 2**62)).astype(np.int64), kind)


def _pictures(picture: Picture, rows: int, rng: np.random.Generator, *, odd: bool) -> pa.Array:
    """Patches of shades; canaries have a black or white one for every pixel, as no other image has."""
    height, width, channels = picture.shape
    if odd:
        return images(rng.integers(0, 2, (rows, *picture.shape), np.uint8) * np.uint8(255))
    patches = rng.integers(0, 256, (rows, PATCHES, PATCHES, channels), np.uint8)
    down, along = (np.arange(n) * PATCHES // n for n in (height, width))
    return images(patches[:, down][:, :, along])


def _span(column: Column) -> tuple[int, int]:
    if is_real(column.arrow_type):
        low, high = (key_of(column, v) for v in (1.0, float(SPAN)))
        return low, high
    return (
        0,
        100 if column.arrow_type.bit_width == 8 else SPAN if column.arrow_type.bit_width > 16 else 10_000,
    )


def _places(luck: NDArray[np.float64], size: int) -> pa.Array:
    return pa.array(np.minimum((luck * size).astype(np.int64), size - 1))
