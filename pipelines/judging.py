"""The step "gate": the verdict on the evidence, the report, and the certificate."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import private, watermark
from pipelines.drawing import learned_rows
from pipelines.run import CHECKS, EVIDENCE, REPORT, SCHEMA, SHADOWS, VERDICT, Run, read_json, versions
from pipelines.workspace import digest_of, sha256, write_atomic
from privacy.certificate import Certificate, with_guarantee, without_guarantee
from privacy.errors import GateRefused, ReleaseError
from synth.schema import Schema

if TYPE_CHECKING:
    from synth.parity import Parity
    from validation.evidence import Evidence
    from validation.gates import Finding, Verdict


def gate_inputs(run: Run) -> dict[str, str]:
    """What the verdict depends on."""
    from pipelines import shadows

    outputs = run.workspace.records()["validate"].outputs
    found = shadows.last(run)
    return {
        "evidence": digest_of(dict(outputs)),
        "rules": digest_of(run.recipe.gate.model_dump()),
        "shadows": "" if found is None else digest_of(found.to_dict()),
    }


def gate(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Gives the verdict.

    Raises:
        GateRefused: the evidence does not allow the release. The run stays where it is, nothing is published.
    """
    from validation.expectations import Check
    from validation.gates import as_asked, verdict_on

    if run.recipe.privacy is not None:
        private.settle(run)
    attacked = _shadowed(run)
    checks = [Check(**{**c, "columns": tuple(c["columns"])}) for c in read_json(run, CHECKS)]
    evidence = evidence_of(run)
    found = verdict_on(evidence, checks, run.recipe.gate)
    if run.recipe.parity is not None:
        found = as_asked(found, run.recipe.parity.columns)
    found = replace(found, findings=(*found.findings, *_personal(run.schema), *_not_compared(run, evidence)))
    path = run.workspace.path / VERDICT
    write_atomic(path, json.dumps(found.to_dict(), ensure_ascii=False).encode())
    run.watch.wrote("gate", path)
    if not found.passed:
        raise GateRefused(_refusal(run, found))
    return [path, *attacked], {"summary": found.summary, "warnings": len(found.findings)}


def _shadowed(run: Run) -> list[Path]:
    """Takes over the last attack by shadow models on such a configuration, so that what is judged is published."""
    from pipelines import shadows

    found, path = shadows.last(run), run.workspace.path / SHADOWS
    path.unlink(missing_ok=True)
    if found is None:
        return []
    write_atomic(path, found.to_json().encode())
    return [path]


def _not_compared(run: Run, evidence: "Evidence") -> Iterator["Finding"]:
    """A warning where images were not held against each other, since there are too few, or noise hides them."""
    from validation.gates import Finding

    if not run.schema.images or evidence.images is not None or evidence.noised_images is not None:
        return
    if run.recipe.privacy is not None:
        yield Finding(
            rule="images", level="warning", columns=(), value=None, limit=None,
            message="images should be held against real ones, however: under privacy that takes a share of the report, "
            "and as many images as noise leaves visible; give the report a larger share, or look at the images",
        )  # fmt: skip
    else:
        yield Finding(
            rule="images", level="warning", columns=(), value=None, limit=None,
            message="images should be held against real ones, however: there are too few, so nothing is known of "
            "copies; bring fifty of each side at least",
        )  # fmt: skip


def _personal(schema: Schema) -> Iterator["Finding"]:
    """A warning for each column that is learned although init took its values for personal data."""
    from validation.gates import Finding

    for column in schema:
        if column.learned and column.note and "personal data" in column.note:
            message = (
                f"personal data must not be learned, however: {column.name!r} is kind: {column.kind} and "
                f"{column.note}; write kind: text, action: replace, or remove the note if it names nobody"
            )
            yield Finding(
                rule="personal",
                level="warning",
                columns=(column.name,),
                message=message,
                value=None,
                limit=None,
            )


def _refusal(run: Run, verdict: "Verdict") -> str:
    listed = f"{_listed(verdict.critical)}{_listed(verdict.warnings, before='warning: ')}"
    kept = f"Nothing was published; the run is kept in {run.workspace.path}"
    try:
        report = f"\nIts report: {write_report(run)}"
    except ReleaseError:
        # What may not even be certified is refused all the same.
        report = ""
    return f"the gate refused this release:{listed}\n{kept}{report}"


def _listed(findings: Sequence["Finding"], before: str = "") -> str:
    listed = "".join(f"\n  {before}{f.rule}: {f.message}" for f in findings[:10])
    return listed + (f"\n  … and {len(findings) - 10} more" if len(findings) > 10 else "")


def write_report(run: Run) -> Path:
    """Writes the page of a judged run into its workspace; its figures are exact unless the run is private.

    Raises:
        ReleaseError: the run was not judged.
    """
    from validation import report

    for name in (EVIDENCE, VERDICT, SCHEMA):
        if not (run.workspace.path / name).is_file():
            raise ReleaseError(
                f"a report needs a run that the gate has judged, however: {run.workspace.path} has no {name}; "
                "`understudy resume` goes on with it"
            )
    try:
        evidence, verdict = evidence_of(run), verdict_of(run)
    except (KeyError, TypeError, ValueError):
        raise ReleaseError(
            f"a report needs evidence that this version wrote, however: that of {run.workspace.path} is another's; "
            "`understudy resume` judges it anew"
        ) from None
    page = report.render(
        title=run.recipe.name,
        evidence=evidence,
        verdict=verdict,
        certificate=certificate(run, warnings=len(verdict.warnings)).to_dict(),
        schema=released_schema(run),
        zone="inside" if run.recipe.privacy is None else "outside",
    )
    path = run.workspace.path / REPORT
    write_atomic(path, page.encode())
    return path


def released_schema(run: Run) -> Schema:
    """The columns of the release, as its files have them."""
    return Schema.parse((run.workspace.path / SCHEMA).read_text("utf-8"), source=SCHEMA)


def evidence_of(run: Run) -> "Evidence":
    """The evidence of a validated run, with the attack by shadow models that the gate saw, if there was one.

    Without a formal guarantee it is exact and belongs to the inside.
    """
    from pipelines import shadows
    from validation.evidence import Evidence

    found, path = Evidence.from_dict(read_json(run, EVIDENCE)), run.workspace.path / SHADOWS
    if found.attacks is None or not path.exists():
        return found
    done = (*found.attacks.done, *shadows.Shadowed.read(path).attacks)
    return replace(found, attacks=replace(found.attacks, done=done))


def verdict_of(run: Run) -> "Verdict":
    """What the gate said, whether it passed or refused."""
    from validation.gates import Verdict

    return Verdict.from_dict(read_json(run, VERDICT))


def certificate(run: Run, *, warnings: int) -> Certificate:
    """What may be promised about this run's release."""
    from pipelines import audit, shadows

    facts = run.workspace.records()
    statement, control = without_guarantee(run.recipe.at_least)
    guarantee, attacked = None, run.workspace.path / SHADOWS
    if run.recipe.privacy is not None:
        guarantee = private.guarantee_of(run, audit=audit.last(run))
        statement, control = with_guarantee(guarantee), None
    return Certificate(
        statement=statement,
        formal_guarantee=guarantee,
        disclosure_control=control,
        synthesizer=facts["fit"].facts["synthesizer"],
        model_digest=facts["fit"].facts["digest"],
        recipe_digest=run.recipe.digest(),
        schema_digest=sha256(run.workspace.path / SCHEMA),
        rows=facts["sample"].facts["rows"],
        shards=facts["sample"].facts["shards"],
        draws=run.recipe.draws,
        learned_rows=_learned_about(run),
        parity=None if run.recipe.parity is None else _parity(run.recipe.parity),
        seed=run.recipe.seed,
        warnings=warnings,
        versions=versions(),
        drift=tuple(facts["ingest"].facts.get("drift", ())),
        watermark=watermark.certified(run.recipe.watermark, facts["sample"].facts.get("watermark")),
        shadow_models=shadows.Shadowed.read(attacked).cited() if attacked.exists() else None,
    )


def _parity(asked: "Parity") -> dict[str, Any]:
    return {**asked.model_dump(mode="json"), "exact": True, "statement": asked.statement}


def _learned_about(run: Run) -> int:
    """Rows that the model learned from as a release may say it: a noised number, or one in steps of `at_least`."""
    rows, step = learned_rows(run), max(1, run.recipe.at_least)
    return rows if run.recipe.privacy is not None else max(step, round(rows / step) * step)
