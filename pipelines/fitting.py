"""The steps "profile" and "fit": what is told of the columns, and the model."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines import private
from pipelines.ingesting import coded_rows, curator_of, images_compared, split_key
from pipelines.run import CURVE, ENCODED, NOISED_ROWS, PROFILE, RECOUNT, ROWS, SEEN, Run, synthesizer_of
from pipelines.workspace import MODEL, digest_of, write_atomic
from synth.constraints import Constraints

if TYPE_CHECKING:
    from privacy.curator import Curator, Split
    from synth.codec import Codec
    from synth.registry import Model
    from synth.rows import EncodedRows


def profile_inputs(run: Run) -> dict[str, str]:
    """What the profile depends on."""
    recipe = run.recipe
    return {
        "rows": run.workspace.records()["ingest"].outputs[ROWS],
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of([recipe.holdout, recipe.seed, recipe.at_least, recipe.fit_rows]),
    }


def profile(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Asks the curator about each column, and encodes the rows once."""
    from synth.codec import Codec
    from synth.learn import learn
    from synth.rows import EncodedStore
    from synth.table import labels_of

    schema = Constraints(run.schema).coded
    rows = coded_rows(run)
    curator: Curator = (
        curator_of(run, rows, at_most=run.most_rows)
        if run.recipe.privacy is None
        else private.curator_of(run, rows, "profile", keep=private.keep_of(run))
    )
    profile = learn(schema, curator, labels_of(rows), at_least=run.recipe.at_least)
    path = run.workspace.path / PROFILE
    write_atomic(path, profile.to_json().encode())
    run.watch.wrote("profile", path)
    codec = Codec(schema, profile)
    folder = run.workspace.fresh(ENCODED)
    store = EncodedStore(folder, unit_is_row=rows.unit_is_row)
    curator.recode(lambda batch: codec.code(batch, rows.dictionaries), store)
    files = sorted(folder.glob("*.npy"))
    run.watch.wrote("profile", files[-1])
    # Under privacy the number is a noised answer, which whoever reads it must know.
    name = "rows" if run.recipe.privacy is None else NOISED_ROWS
    return [path, *files], {name: int(profile.rows), **_charged(run, "profile")}


def _charged(run: Run, *parts: str) -> dict[str, int]:
    """How many answers parts took, under privacy: the journal must never hold fewer."""
    if run.recipe.privacy is None:
        return {}
    return {private.charges_fact(part): len(private.charges_of(run, part)) for part in parts}


def fit_inputs(run: Run) -> dict[str, str]:
    """What the model depends on."""
    recipe = run.recipe
    return {
        "profile": digest_of(dict(run.workspace.records()["profile"].outputs)),
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of([recipe.synthesizer, recipe.options, recipe.seed, recipe.threads]),
    }


def fit(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Asks the curator until the model is trained."""
    from privacy.curator import ExactCurator
    from synth.codec import Codec
    from synth.profile import Profile
    from synth.rows import open_store
    from synth.table import TableModel, fit_encoded

    recipe = run.recipe
    constraints = Constraints(run.schema)
    profile = Profile.from_json((run.workspace.path / PROFILE).read_text("utf-8"))
    codec = Codec(constraints.coded, profile)
    encoded = open_store(run.workspace.path / ENCODED, unit_is_row=run.schema.unit is None)
    curator: Curator = (
        ExactCurator(encoded, key=split_key(run))
        if recipe.privacy is None
        else private.curator_of(run, encoded, "model")
    )
    model = fit_encoded(
        curator,
        codec,
        synthesizer_of(recipe, run.stated),
        recipe.options,
        seed=recipe.seed,
        threads=recipe.threads,
    )
    fitted = TableModel(codec, model, frame=pa.Table, threads=recipe.threads, constraints=constraints)
    folder = run.workspace.fresh(MODEL)
    fitted.save(folder)
    files = sorted(folder.iterdir())
    run.watch.wrote("fit", files[-1])
    files += _recounted(run, model, codec, encoded)
    if fitted.trained is not None and fitted.trained.looks:
        path = run.workspace.path / CURVE
        write_atomic(path, json.dumps(asdict(fitted.trained)).encode())
        files.append(path)
    return files, {
        "synthesizer": fitted.synthesizer,
        "digest": fitted.digest(),
        **_charged(run, "model", "report"),
    }


def _recounted(run: Run, model: "Model", codec: "Codec", encoded: "EncodedRows") -> Iterator[Path]:
    """Under privacy, where the report has a share, rows are counted once more with noise of its own.

    It is asked here, beside the fit, because what this step asked is never asked again. The question follows from the
    profile and the model alone, so it would be the same after the synthetic rows were drawn.
    """
    from validation.coarse import ask
    from validation.noised_images import figures_of, lens_of

    privacy, seed = run.recipe.privacy, run.recipe.seed
    if privacy is None or not privacy.shares.report:
        return
    curator = private.curator_of(run, encoded, "report")
    learned = [i for i, column in enumerate(codec.schema) if column.learned]
    split: Split = "holdout" if isinstance(run.recipe.holdout, str) else "train"
    rows = privacy.max_rows_per_unit if run.schema.unit is not None else 1
    lens = None
    if codec.layout.images:
        most = images_compared(run.schema)
        lens = lens_of(model, codec, targets=run.recipe.targets, seed=seed, most=most)
    more = () if lens is None else lens.asked
    recount, seen = ask(curator, codec.layout, learned, split=split, unit_rows=rows, seed=seed, more=more)
    path = run.workspace.path / RECOUNT
    write_atomic(path, recount.to_json().encode())
    run.watch.wrote("fit", path)
    yield path
    found = None if lens is None else figures_of(lens, seen)
    if found is not None:
        path = run.workspace.path / SEEN
        write_atomic(path, json.dumps(found.to_dict(), ensure_ascii=False).encode())
        run.watch.wrote("fit", path)
        yield path
