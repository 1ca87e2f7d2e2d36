"""The step "validate": evidence about what was drawn, exact or noised."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines import private, watermark
from pipelines.drawing import head, judged_batches, released_batches
from pipelines.ingesting import curator_of, images_compared, raw_rows, stored
from pipelines.run import (
    CHECKS,
    CURVE,
    EVIDENCE,
    EXACT,
    EXACT_PAGE,
    IMAGES_SHOWN,
    PROFILE,
    RECOUNT,
    ROWS,
    SCHEMA,
    SEEN,
    Run,
    read_json,
)
from pipelines.workspace import MODEL, digest_of, sha256, write_atomic
from synth.constraints import Constraints
from synth.images import missing, pixels, unseen
from synth.schema import Column, Schema

if TYPE_CHECKING:
    from privacy.inside import Exact
    from synth.profile import Profile
    from validation.evidence import Evidence, Made
    from validation.images import ImageEvidence
    from validation.learning import Learning
    from validation.noised import Noised
    from validation.noised_images import NoisedImages


def validate_inputs(run: Run) -> dict[str, str]:
    """What the evidence depends on."""
    records = run.workspace.records()
    recipe = run.recipe
    # Under privacy nothing here looks at rows, unless an exact report was asked for.
    looks = recipe.privacy is None or recipe.privacy.exact_report
    rows = {"rows": records["ingest"].outputs[ROWS]} if looks else {}
    if run.recipe.privacy is not None and RECOUNT in records["fit"].outputs:
        rows["recount"] = records["fit"].outputs[RECOUNT]
    return {
        **rows,
        "data": digest_of(dict(records["sample"].outputs)),
        "profile": records["profile"].outputs[PROFILE],
        "schema": digest_of(run.schema.to_json()),
        "recipe": digest_of(
            [
                recipe.evidence_rows,
                recipe.at_least,
                recipe.seed,
                recipe.holdout,
                recipe.gate.model_dump(),
                recipe.targets,
                recipe.protected,
                recipe.inception_images,
            ]
        ),
        "inception": "" if run.inception is None else sha256(run.inception.path),
        "fit": "" if recipe.privacy is not None else digest_of(dict(records["fit"].outputs)),
    }


def validate(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Measures the shards against training and held-out rows; exact evidence stays in the workspace."""
    from synth.codec import Codec
    from synth.profile import Profile
    from validation.expectations import Check, check, observe, observe_constraints

    profile = Profile.from_json((run.workspace.path / PROFILE).read_text("utf-8"))
    constraints = Constraints(run.schema)
    codec = Codec(constraints.coded, profile)
    released = constraints.released(codec.released_schema(), profile)
    schema_path = run.workspace.path / SCHEMA
    write_atomic(schema_path, released.to_json().encode())
    if run.recipe.privacy is None:
        evidence = exact_evidence(run).open(formal_guarantee=False)
        if run.schema.images:
            evidence = replace(evidence, images=_image_evidence(run).open(formal_guarantee=False))
        evidence = replace(evidence, learning=_learning(run))
    else:
        evidence = _noised_evidence(run, profile)
    evidence_path = run.workspace.path / EVIDENCE
    write_atomic(evidence_path, json.dumps(evidence.to_dict(), ensure_ascii=False).encode())
    run.watch.wrote("validate", evidence_path)
    shown = unseen(released)
    checks: list[Check] = []
    for draw in range(1, run.recipe.draws + 1):
        # Each draw is a table of its own; what is measured is the same for all of them.
        facts = observe(judged_batches(run, draw), shown)
        broken = observe_constraints(judged_batches(run, draw), shown)
        fidelity = evidence.fidelity if draw == 1 else None
        checks += check(head(run, 20_000, draw), facts, fidelity, shown, run.recipe.gate, broken)
    checks_path = run.workspace.path / CHECKS
    write_atomic(checks_path, json.dumps([asdict(c) for c in checks], ensure_ascii=False).encode())
    failed = sum(not c.success for c in checks)
    exact = _kept_inside(run, released)
    return [schema_path, evidence_path, checks_path, *exact], {"checks": len(checks), "failed": failed}


def _noised_evidence(run: Run, profile: "Profile") -> "Evidence":
    """What is known under privacy: synthetic rows beside noised counts, those of the fit and those of the report."""
    from synth.codec import Codec
    from validation.coarse import Recount
    from validation.evidence import Evidence
    from validation.fitted import fitted
    from validation.noised import PARTS, Drawn, noised

    constraints = Constraints(unseen(run.schema))
    codec = Codec(constraints.coded, profile)
    table = constraints.encode(head(run, run.recipe.evidence_rows))
    path = run.workspace.path / RECOUNT
    figures: Noised | None = None
    if RECOUNT in run.workspace.records()["fit"].outputs and len(table) >= PARTS:
        recount, rows = Recount.from_json(path.read_text("utf-8"), codec.layout), codec.encode(table)
        drawn = [Drawn.of(m, rows) for m in recount.marginals]
        figures = noised(recount, dict(enumerate(codec.schema.names)), drawn)
    return Evidence(
        fidelity=fitted(codec.schema, codec.profile, table),
        noised=figures,
        noised_images=_noised_images(run),
        learning=_learning(run),
    )


def _noised_images(run: Run) -> "NoisedImages | None":
    """What was counted of images under privacy, and some of those that are released."""
    from validation.evidence import words
    from validation.images import sheet_of
    from validation.noised_images import NoisedImages

    if SEEN not in run.workspace.records()["fit"].outputs:
        return None
    found = NoisedImages.from_dict(read_json(run, SEEN))
    # Columns that a constraint ties together are learned as one, which no released column is.
    classes = next((c for c in run.schema if c.name == found.label), None)
    made = images_made(released_batches(run), IMAGES_SHOWN)(run.schema.images[0], classes)
    return replace(found, sheet=sheet_of(made.pixels, None if made.classes is None else words(made.classes)))


def _kept_inside(run: Run, released: Schema) -> list[Path]:
    """The exact report of a private run, where the recipe wants one: for the workspace, and read by nothing else."""
    from validation import report
    from validation.gates import verdict_on

    if run.recipe.privacy is None or not run.recipe.privacy.exact_report:
        return []
    paths = [run.workspace.path / name for name in (EXACT, EXACT_PAGE)]

    def write(evidence: "Evidence") -> None:
        found = verdict_on(evidence, (), run.recipe.gate)
        page = report.render(
            title=f"{run.recipe.name}: exact, for the inside alone",
            evidence=evidence,
            verdict=found,
            certificate={"statement": private.EXACT_INSIDE},
            schema=released,
            zone="inside",
        )
        write_atomic(paths[0], json.dumps(evidence.to_dict(), ensure_ascii=False).encode())
        write_atomic(paths[1], page.encode())

    if run.schema.images:
        pictured = _image_evidence(run)
        pictured.keep(lambda found: exact_evidence(run).keep(lambda e: write(replace(e, images=found))))
    else:
        exact_evidence(run).keep(write)
    run.watch.wrote("validate", paths[1])
    return paths


def exact_evidence(run: Run) -> "Exact[Evidence]":
    """Holds real and synthetic rows, as many of each as the recipe allows, against each other: evidence's own door."""
    from synth.rows import RawRows
    from synth.table import load
    from validation.evidence import gather

    recipe, schema = run.recipe, unseen(run.schema)
    rows = RawRows(schema, stored(run), marked=isinstance(recipe.holdout, str))
    # Rows are drawn by unit from the whole source, so that a source in order of time gives a fair sample.
    curator = curator_of(run, rows, at_most=int(recipe.evidence_rows / _largest_side(run)))
    synthetic = head(run, recipe.evidence_rows)
    return gather(
        curator, rows, synthetic, schema,
        targets=recipe.targets, protected=recipe.protected, at_least=recipe.at_least, seed=recipe.seed,
        # With parity, synthetic rows are not as likely as the model believes rows to be.
        density=None if run.schema.images or recipe.parity else load(run.workspace.path / MODEL).density,
    )  # fmt: skip


def _image_evidence(run: Run) -> "Exact[ImageEvidence | None]":
    """Holds images against each other, as many of each side as the memory for them allows."""
    from validation.evidence import gather_images

    recipe, most = run.recipe, images_compared(run.schema)
    curator = curator_of(run, rows := raw_rows(run), at_most=int(most / _largest_side(run)))
    asked = recipe.watermark
    marker = None if asked is None else watermark.Marker(asked, run.schema)
    made = images_made(released_batches(run), most, marker)
    return gather_images(
        curator, rows, run.schema, made,
        targets=recipe.targets, seed=recipe.seed, inception=run.inception,
    )  # fmt: skip


def _learning(run: Run) -> "Learning | None":
    """How the model learned: its curve, exact here, and images between synthetic ones; None where it has neither."""
    from synth.table import load
    from validation.evidence import words
    from validation.learning import BETWEEN, Curve, Learning, ends, strips_of

    curve = strips = None
    if CURVE in run.workspace.records()["fit"].outputs:
        found = read_json(run, CURVE)
        steps, scores = zip(*found["looks"], strict=True)
        curve = Curve(steps=steps, scores=scores, kept=found["best"], made=found["steps"])
    if run.schema.images:
        image = run.schema.images[0]
        classes = next((c for c in run.schema if c.learned and c.kind in ("categorical", "boolean")), None)
        made = images_made(released_batches(run), IMAGES_SHOWN)(image, classes)
        first, second = ends(made.pixels, None if made.classes is None else words(made.classes))
        between = (
            load(run.workspace.path / MODEL).between(first, second, steps=BETWEEN) if len(first) else None
        )
        strips = None if between is None else strips_of(between)
    return None if curve is None and strips is None else Learning(curve=curve, strips=strips)


def images_made(
    batches: Iterable[pa.RecordBatch], most: int, marker: watermark.Marker | None = None
) -> Callable[["Column", "Column | None"], "Made"]:
    """Gives the images, and their classes, of the first synthetic rows, for evidence."""
    from validation.evidence import Made

    def made(column: Column, classes: Column | None) -> Made:
        images, words, held = [], [], 0
        for batch in batches:
            part = batch.slice(0, most - held)
            there = part.filter(pa.array(~missing(part.column(column.name))))
            if column.image is not None:
                images.append(pixels(there.column(column.name), column.image))
            words += [] if classes is None else [there.column(classes.name)]
            held += len(part)
            if held >= most:
                break
        of_class = pa.chunked_array(words).combine_chunks() if words else None
        marked = None if marker is None else marker.pattern(column.name).mark
        return Made(pixels=np.concatenate(images), classes=of_class, marked=marked)

    return made


def _largest_side(run: Run) -> float:
    """Share of the rows that the larger of training and held-out rows has."""
    facts = run.workspace.records()["ingest"].facts
    holdout = run.recipe.holdout
    if isinstance(holdout, str):
        held = facts["holdout_rows"] / max(1, facts["rows"] + facts["holdout_rows"])
    else:
        held = holdout if run.recipe.privacy is None else 0.0
    return float(max(held, 1 - held))
