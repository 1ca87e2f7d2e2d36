"""trial: several synthesizers on the same split of one table, without publishing anything."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.drawing import learned_rows
from pipelines.judging import evidence_of, verdict_of
from pipelines.recipe import Recipe
from pipelines.run import Run, Watch, open_run, schema_of, synthesizer_of
from pipelines.steps import check, perform
from pipelines.workspace import write_atomic
from privacy.errors import GateRefused, RecipeError, UnderstudyError
from synth.registry import IMAGES, SYNTHESIZERS, resolve, synthesizer
from validation.comparison import Comparison, Entry, describe, render

BEFORE_GATE = ("ingest", "profile", "fit", "sample", "validate")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A comparison, and the page that shows it."""

    comparison: Comparison
    page: Path

    def describe(self) -> str:
        """For a person."""
        return f"{describe(self.comparison)}\n\nchart  {self.page}\nNothing was published."


def attempt(
    recipe: Recipe,
    folder: Path,
    synthesizers: Sequence[str],
    *,
    roots: Sequence[Path] = (),
    watch: Watch | None = None,
) -> Tried:
    """Fits each synthesizer, draws, and measures; all split the rows alike, since the recipe's seed does.

    Under privacy every fit is charged to the dataset's lifetime like a release, and splits by a secret of its own.

    Each has a run of its own, from which a release of the recipe with that synthesizer goes on.

    Args:
        recipe: what would be released; its options are for its own synthesizer only.
        folder: the recipe's folder.
        synthesizers: names; none: all of ours. The recipe's options are for its own synthesizer.
        roots: folders that inputs may lie in, besides the recipe's own.
        watch: who is told how the runs go on.

    Raises:
        RecipeError: a name is none, or the recipe is wrong.
        InputError: the table cannot be learned from.
    """
    schema = schema_of(recipe, folder)
    own = synthesizer_of(recipe, schema)
    private = recipe.privacy is not None
    images = own in IMAGES
    able = [n for n in (IMAGES if images else SYNTHESIZERS) if synthesizer(n).private or not private]
    names = list(dict.fromkeys(resolve(n, private=private, images=images) for n in synthesizers)) or able
    if recipe.options and own not in names:
        raise RecipeError(
            f"options must be for a synthesizer that is tried, however: they are for {own}, the recipe's own; "
            f"try it as well, or say --synthesizer {names[0]}"
        )
    runs = []
    for name in names:
        options = recipe.options if name == own else {}
        changed = recipe.with_fields({"synthesizer": name, "options": options})
        runs.append(open_run(changed, folder, roots=roots, watch=watch))
        check(runs[-1])
    found = [_walk(run, name) for run, name in zip(runs, names, strict=True)]
    comparison = _compared(recipe.name, runs, found)
    page = folder.resolve() / ".understudy" / f"trial-{recipe.name}.html"
    write_atomic(page, render(comparison).encode())
    return Tried(comparison=comparison, page=page)


def _walk(run: Run, name: str) -> Entry:
    try:
        with run.workspace.locked():
            records = {step: perform(run, step) for step in BEFORE_GATE}
            with contextlib.suppress(GateRefused):
                perform(run, "gate")
    except UnderstudyError as e:
        e.run = str(run.workspace.path)
        raise
    fidelity = evidence_of(run).fidelity
    return Entry(
        synthesizer=name,
        fit_seconds=records["fit"].seconds,
        rows_per_second=int(records["sample"].facts["rows"]) / max(records["sample"].seconds, 1e-3),
        shape=fidelity.shape,
        trend=fidelity.trend,
        copies=fidelity.copies,
        verdict=verdict_of(run).summary,
        run=str(run.workspace.path),
    )


def _compared(title: str, runs: Sequence[Run], entries: Sequence[Entry]) -> Comparison:
    fidelity = evidence_of(runs[0]).fidelity
    return Comparison(
        title=title,
        rows=learned_rows(runs[0]),
        entries=tuple(entries),
        shape_ceiling=fidelity.shape_ceiling,
        trend_ceiling=fidelity.trend_ceiling,
        copies_holdout=fidelity.copies_holdout,
        noised=fidelity.noised,
    )
