"""The step "publish": the files of a release."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.catalog import rebuild
from pipelines.croissant import croissant, provenance
from pipelines.drawing import all_shards, shard_name
from pipelines.judging import certificate, evidence_of, released_schema, verdict_of
from pipelines.publish import publish as publish_files
from pipelines.run import RELEASE, SCHEMA, SHADOWS, Run, read_json
from pipelines.workspace import digest_of, write_atomic

if TYPE_CHECKING:
    from validation.evidence import Evidence
    from validation.gates import Verdict


def publish_inputs(run: Run) -> dict[str, str]:
    """What the files of a release depend on."""
    records = run.workspace.records()
    return {
        "data": digest_of(dict(records["sample"].outputs)),
        "verdict": digest_of(dict(records["gate"].outputs)),
        "evidence": digest_of(dict(records["validate"].outputs)),
        "shadows": records["gate"].outputs.get(SHADOWS, ""),
        "root": str(run.release_root),
        "times_gone": str(_times_gone(run)),
    }


def _times_gone(run: Run) -> int:
    """How often a release was taken away, or ceased to be the latest, so that it had to be published again.

    A count, since what is recorded is how it was before: "it is gone" would be found unchanged the second time.
    """
    record = run.workspace.records().get("publish")
    if record is None:
        return 0
    path = run.workspace.path / RELEASE
    published = Path(read_json(run, RELEASE)["release"]) if path.exists() else None
    there = published is not None and published.is_dir() and _is_latest(published)
    return int(record.inputs.get("times_gone", 0)) + int(not there)


def _is_latest(release: Path) -> bool:
    return (release.parent / "latest").resolve() == release.resolve()


def publish(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Makes the release visible in one atomic move."""
    evidence = published_evidence(run)
    verdict = released_verdict(run, evidence)
    files = release_files(run, evidence, verdict)
    folder = publish_files(run.release_root, run.recipe.name, files)
    # A root that somebody else looks after keeps its own catalogue.
    with contextlib.suppress(PermissionError):
        rebuild(run.release_root)
    path = run.workspace.path / RELEASE
    said = [f"{f.rule}: {f.message}" for f in verdict.findings]
    write_atomic(path, json.dumps({"release": str(folder), "warnings": said}, ensure_ascii=False).encode())
    run.watch.wrote("publish", path)
    return [path], {"files": len(files) + 1}


def released_verdict(run: Run, evidence: "Evidence") -> "Verdict":
    """The verdict in figures as coarse as the release shows them, which `evidence` are."""
    from validation import public
    from validation.gates import verdict_on

    verdict = verdict_of(run)
    if run.recipe.privacy is not None:
        return verdict
    return public.said(verdict, verdict_on(evidence, (), run.recipe.gate))


def release_files(run: Run, evidence: "Evidence", verdict: "Verdict") -> dict[str, bytes | Path]:
    """Everything that a release holds, by its path in it; evidence and verdict are as coarse as it shows them."""
    from validation import card, report
    from validation.figures import figures

    shards = {name: run.workspace.path / name for name in map(shard_name, all_shards(run))}
    schema_path, schema = run.workspace.path / SCHEMA, released_schema(run)
    promised = certificate(run, warnings=len(verdict.warnings))
    page = report.render(
        title=run.recipe.name,
        evidence=evidence,
        verdict=verdict,
        certificate=promised.to_dict(),
        schema=schema,
    )
    about = {
        "figures.json": figures(evidence, verdict, promised.to_dict()),
        "croissant.json": croissant(run.recipe.name, schema, promised.to_dict(), _digests(run)),
        "provenance.json": provenance(run.recipe.name, promised.to_dict()),
    }
    own = ["schema.json", "certificate.json", "report.html", "README.md", "SHA256SUMS"]
    names = sorted([*shards, *about, *own])
    text = card.render(
        name=run.recipe.name,
        certificate=promised.to_dict(),
        evidence=evidence,
        verdict=verdict,
        schema=schema,
        files=names,
        rejected=int(run.workspace.records()["sample"].facts.get("rejected", 0)),
    )
    return {
        **shards,
        "schema.json": schema_path,
        "certificate.json": (json.dumps(promised.to_dict(), indent=1, ensure_ascii=False) + "\n").encode(),
        **{
            name: (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
            for name, data in about.items()
        },
        "report.html": page.encode(),
        "README.md": text.encode(),
    }


def _digests(run: Run) -> dict[str, str]:
    """Path of each shard → its SHA-256."""
    return dict(run.workspace.records()["sample"].outputs)


def published_evidence(run: Run) -> "Evidence":
    """The figures that a release shows: coarse ones, or under privacy those that follow from noised answers."""
    from privacy.inside import Exact
    from validation import public

    evidence = evidence_of(run)
    if run.recipe.privacy is not None:
        return evidence
    return public.outside(Exact(evidence).open(formal_guarantee=False), at_least=run.recipe.at_least)
