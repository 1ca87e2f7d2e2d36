"""plan: what a recipe would do, said before any private row is learned from."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from pipelines import ingest as reading
from pipelines import private
from pipelines.gallery import image_rows
from pipelines.query import Query
from pipelines.run import Run, synthesizer_of
from pipelines.source import compressed, opened
from pipelines.steps import STEPS, check, inputs_of, memory_of
from privacy.certificate import without_guarantee
from synth.em import FEWEST_STEPS, STEP_ROWS, visits_of
from synth.registry import synthesizer
from synth.schema import Schema
from synth.train import batch_of

SAMPLED_BYTES = 1 << 20
"""How much of a CSV file is looked at to guess the number of its rows."""

PACKED = 5
"""How many bytes of text a byte of a packed file holds, about."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a release would be.

    Attributes:
        source_rows: rows of the source; a guess from the size for CSV; None under privacy, which tells no such thing.
        columns: number of columns.
        learned_columns: of these the ones whose values are learned.
        rows: rows to release, of each draw; None where that follows from a noised count.
        draws: times that the table is drawn.
        synthesizer: the model.
        seconds: estimated, by step.
        memory_bytes: estimated resident memory.
        privacy: what will be promised, in words, and what it costs.
        cached: steps that are finished and would be kept, since nothing that they depend on changed.
        run: the workspace.
        release_root: where the release goes.
    """

    source_rows: int | None
    columns: int
    learned_columns: int
    rows: int | None
    draws: int
    synthesizer: str
    seconds: Mapping[str, float]
    memory_bytes: int
    privacy: str
    cached: tuple[str, ...]
    run: str
    release_root: str

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def describe(self) -> str:
        """For a person."""
        ahead = {name: s for name, s in self.seconds.items() if name not in self.cached}
        steps = ", ".join(f"{name} {s:.0f}" for name, s in ahead.items() if s >= 0.5)
        lines = {
            "source": ("" if self.source_rows is None else f"about {self.source_rows:,} rows, ")
            + f"{self.columns} columns, {self.learned_columns} learned",
            "release": ("" if self.draws == 1 else f"{self.draws} draws of ")
            + ("as many rows as a noised count says" if self.rows is None else f"{self.rows:,} rows")
            + f", to {self.release_root}",
            "synthesizer": self.synthesizer,
            "seconds": f"about {sum(ahead.values()):.0f}" + (f" ({steps})" if steps else ""),
            "memory": f"about {self.memory_bytes / 1e9:.1f} GB",
            "privacy": self.privacy,
            "finished": ", ".join(self.cached) or "nothing yet",
            "run": self.run,
        }
        indent = 13 * " "
        return "\n".join(f"{name:<12} " + text.replace("\n", f"\n{indent}") for name, text in lines.items())


def estimate(run: Run) -> Plan:
    """Works out what a release would be, from the recipe, the schema and the size of the input.

    Raises:
        RecipeError: the recipe or its input is wrong.
        SchemaError: the schema is wrong.
    """
    check(run)
    recipe, schema = run.recipe, run.schema
    secret = recipe.privacy is not None
    # Under privacy not even the seconds may tell how many rows there are.
    rows = private.rows_about(run) if secret else rows_of(run.source())
    released = rows if recipe.rows == "source" else recipe.rows
    learned = sum(c.learned for c in schema)
    fitted = min(rows, run.most_rows)
    return Plan(
        source_rows=None if secret else rows,
        columns=len(schema),
        learned_columns=learned,
        rows=None if secret and recipe.rows == "source" else released,
        draws=recipe.draws,
        synthesizer=synthesizer_of(recipe, run.stated),
        seconds=_seconds(run, rows, fitted, released * recipe.draws),
        memory_bytes=memory_of(run, rows),
        privacy=_privacy(run, schema),
        cached=tuple(_kept(run)),
        run=str(run.workspace.path),
        release_root=str(run.release_root),
    )


def _privacy(run: Run, schema: Schema) -> str:
    if run.recipe.privacy is not None:
        return private.describe(run)
    return f"{without_guarantee(run.recipe.at_least)[0]} Cost to a privacy budget: none is kept."


def _kept(run: Run) -> Iterator[str]:
    """Finished steps that nothing changed under, up to the first that would run."""
    for name in STEPS:
        if not run.workspace.has(name) or run.workspace.finished(name, inputs_of(run, name)) is None:
            return
        yield name


def rows_of(source: reading.Table) -> int:
    """Rows of a source: exact for Parquet, images and queries, a guess from the size of the first lines for CSV."""
    if isinstance(source, Query):
        counting = replace(source, text=f"SELECT count(*) AS n FROM ({source.text.rstrip('; ')}) AS counted")
        return int(next(counting.blocks()).column(0)[0].as_py())
    if source.holds_images:
        return image_rows(source)
    if source.format == "parquet":
        return sum(int(pq.read_metadata(f).num_rows) for f in source.files)
    total = 0
    for file in source.files:
        with opened(file) as handle:
            head = handle.read(SAMPLED_BYTES)
        whole = len(head) < SAMPLED_BYTES
        size = len(head) if whole else file.stat().st_size * (PACKED if compressed(file) else 1)
        lines = max(1, head.count(b"\n"), head.count(b"\r"))
        total += max(0, round(size / len(head) * lines) - 1) if head else 0
    return total


FIT_SECONDS = {"gmm": 0.8, "circuit": 2.5, "sdv-gaussian-copula": 0.4, "marginals": 2.5}
"""Seconds of a fit, its search for a size included, for each million cells that thirty passes look at."""

STEP_SECONDS = {"vae": 0.005, "ctgan": 0.02, "sdv-ctgan": 0.02, "sdv-tvae": 0.01, "sdv-copula-gan": 0.02}
"""Seconds of a network's step for twenty columns."""


IMAGE_SECONDS = 1.0e-3
"""Seconds that a mixture of images takes for a row, its search for a size included."""

PIXEL_SECONDS = 1.0e-6
"""Seconds that a network of images takes in a step for a number of an image."""

NOISED_IMAGE_SECONDS = 2.0e-4
"""The same where answers carry noise: few passes, and no search."""

PNG_SECONDS = 1.0e-4
"""Seconds that it takes to decode or to encode a small image."""

INCEPTION_SECONDS = 0.12
"""Seconds that an image takes in InceptionV3."""

PRIVATE_STEP = 2.0
"""What a step with clipped and noised gradients takes, in steps without."""

STEP_BATCH = 500
"""Rows of the steps that `STEP_SECONDS` are of."""


def _seconds(run: Run, rows: int, fitted: int, released: int) -> dict[str, float]:
    """Seconds of each step on two cores of 2020s make: measured on 10 to 80 columns, good to a factor 2."""
    recipe, schema = run.recipe, run.schema
    name, cells = synthesizer_of(recipe, run.stated), len(schema) / 1e6
    evidence = min(rows, recipe.evidence_rows)
    attacks = 9 * min(1, evidence / 32_768) ** 1.5 * (0.5 + len(schema) / 30)
    # The two-sample test, and two models for two targets.
    models = 0.0 if recipe.privacy is not None else 10 * min(1, evidence / 32_768) * (0.5 + len(schema) / 30)
    given = synthesizer(name).options.model_validate(recipe.options)
    said: dict[str, Any] = given.model_dump()
    each = STEP_SECONDS.get(name, max(STEP_SECONDS.values())) * (0.5 + len(schema) / 40)
    network = 0.0
    gradients = None if recipe.privacy is None else private.gradients_of(run)
    if gradients is not None:
        descent, _ = gradients
        larger = max(1.0, descent.rate * fitted / STEP_BATCH)
        fit = PRIVATE_STEP * descent.steps * each * larger
    elif "epochs" in said:
        # Ours have smaller batches for few rows, and an end; SDV's take both as they are said.
        batch = batch_of(said["batch_rows"], fitted) if "batch_rows" in said else said["batch_size"]
        epochs, most = said["epochs"], said.get("max_steps", math.inf)
        steps = min(most, epochs * max(1.0, fitted / batch))
        fit, network = steps * each, steps * batch * PIXEL_SECONDS
    else:
        visits = max(visits_of(fitted, len(schema), 30), FEWEST_STEPS * STEP_ROWS)
        fit = FIT_SECONDS.get(name, max(FIT_SECONDS.values())) * visits * cells
    numbers = sum(c.image.size for c in schema if c.image is not None)
    if numbers:
        # Each row is looked at some thirty times in all, by its code; pixels are decoded, and encoded as PNG.
        each = IMAGE_SECONDS if recipe.privacy is None else NOISED_IMAGE_SECONDS
        fit = network * numbers + each * fitted * (1 + numbers / 2000)
    most = 0 if recipe.inception is None else recipe.inception_images
    looked = INCEPTION_SECONDS * (min(rows, most) + min(released, most))
    return {
        "ingest": 0.2 + 0.1 * rows * cells,
        "profile": 0.1 + 0.25 * rows * cells + PNG_SECONDS * fitted * bool(numbers),
        "fit": 1.0 + fit,
        "sample": 0.1 + 0.3 * released * cells + 2 * PNG_SECONDS * released * bool(numbers),
        "validate": 2.0 + 2.5 * evidence * cells + 0.0022 * len(schema) ** 2 + attacks + models + looked,
        "gate": 0.1,
        "publish": 0.3 + 0.05 * released * cells,
    }
