"""Figures: what the first screen of a report says, for machines: a catalogue, a comparison, a monitor.

A release carries them as `figures.json`. They are made of the same coarse evidence as its report.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from privacy.attacks import Attack, Attacks
from validation.evidence import Evidence
from validation.fidelity import Fidelity
from validation.gates import ATTACKS, Verdict
from validation.images import ImageEvidence
from validation.inference import Inference
from validation.markup import counted
from validation.noised_images import NoisedImages
from validation.utility import Task

FORMAT = 1

BLURRED = 0.05
"""Uncertainty of shares of the held-out rows from which on a verdict says so."""


def figures(evidence: Evidence, verdict: Verdict, certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Faithful, useful, private, and the verdict; None where a thing is not known.

    Args:
        evidence: as coarse as the release shows it.
        verdict: what the gate made of it.
        certificate: what is promised.
    """
    fidelity, detection = evidence.fidelity, evidence.detection
    shape = (fidelity.shape, fidelity.shape_ceiling)
    trend = (fidelity.trend, fidelity.trend_ceiling)
    if (anew := evidence.noised) is not None:
        shape, trend = ((None, None) if s is None else (s.value, s.ceiling) for s in (anew.shape, anew.trend))
    return {
        "format": FORMAT,
        "verdict": {
            "passed": verdict.passed,
            "critical": len(verdict.critical),
            "warnings": len(verdict.warnings),
            "rules": list(dict.fromkeys(f.rule for f in verdict.findings)),
        },
        "faithful": {
            "columns": {"score": shape[0], "ceiling": shape[1], "ceiling_error": fidelity.shape_error},
            "pairs": {"score": trend[0], "ceiling": trend[1], "ceiling_error": fidelity.trend_error},
            "beside": "noised counts" if fidelity.noised else "training rows",
            "told_apart_auc": None if detection is None else detection.auc.value,
        },
        "useful": [_task(t) for t in evidence.utility.tasks] if evidence.utility is not None else [],
        "regressions": [] if evidence.inference is None else _regressions(evidence.inference),
        "images": None if evidence.images is None else _pictured(evidence.images),
        "noised_images": None if evidence.noised_images is None else _counted(evidence.noised_images),
        "private": {**_promised(certificate), "copies": _copies(evidence), "worst_attack": _worst(evidence)},
    }


def _pictured(images: ImageEvidence) -> dict[str, Any]:
    use, near = images.use, images.closeness
    ceiling = None if use is None or use.accuracy.ceiling is None else use.accuracy.ceiling.value
    return {
        "frechet": near.frechet,
        "frechet_ceiling": near.frechet_ceiling,
        "inception": None if near.inception is None else asdict(near.inception),
        "accuracy": None if use is None else use.accuracy.value.value,
        "accuracy_real": ceiling,
    }


def _counted(images: NoisedImages) -> dict[str, Any]:
    return {
        "accuracy": None if images.right is None else images.right.value,
        "accuracy_drawn": images.right_drawn,
        "far": images.far.value,
        "far_drawn": images.far_drawn,
    }


def _regressions(found: Inference) -> list[dict[str, Any]]:
    return [
        {
            "target": r.target,
            "outcome": None if r.outcome is None else r.outcome[0],
            "overlap": round(r.synthetic.overlap, 3),
            "ceiling": None if r.ceiling is None else round(r.ceiling.overlap, 3),
        }
        for r in found.regressions
    ]


def _task(task: Task) -> dict[str, Any]:
    best = max(task.scores, key=lambda s: s.real.value)
    return {
        "target": task.target,
        "measure": task.measure,
        "guess": task.guess,
        "synthetic": best.synthetic.value,
        "real": best.real.value,
    }


def _promised(certificate: Mapping[str, Any]) -> dict[str, Any]:
    guarantee = certificate.get("formal_guarantee")
    promised = guarantee if isinstance(guarantee, Mapping) else {}
    return {"epsilon": promised.get("epsilon"), "delta": promised.get("delta")}


def _copies(evidence: Evidence) -> dict[str, float | None] | None:
    fidelity = evidence.fidelity
    return (
        None if fidelity.copies is None else {"share": fidelity.copies, "by_chance": fidelity.copies_holdout}
    )


def few(found: Fidelity) -> str:
    """What a verdict without findings is worth where few rows are held out; nothing where they are enough.

    What held-out rows show is uncertain by about 1/√n, of so many.
    """
    blur = 1 / math.sqrt(max(found.rows_holdout, 1))
    if found.noised or blur < BLURRED:
        return ""
    rows = counted(found.rows_holdout, "real row is", "real rows are")
    return (
        f" But {rows} held out to measure against, so that a difference of {100 * blur:.0f} points may be chance, and "
        "smaller ones are not seen."
    )


def strongest(attacks: Attacks | None) -> Attack | None:
    """Of the attacks that the gate goes by, the one that wins most beyond chance; copies are counted by themselves."""
    done = () if attacks is None else attacks.done
    return max((a for a in done if a.name in ATTACKS), key=lambda a: a.risk.value, default=None)


def _worst(evidence: Evidence) -> dict[str, Any] | None:
    worst = strongest(evidence.attacks)
    if worst is None:
        return None
    return {"attack": worst.name, "risk": worst.risk.value, "low": worst.risk.low, "high": worst.risk.high}
