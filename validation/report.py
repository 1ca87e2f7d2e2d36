"""Report: the evidence of one release as one self-contained page.

The page is a pure function of its arguments: no time, no random name, no remote asset. Whatever comes from
a table is hostile: `markup.element` escapes it, and `page` puts all under a policy that loads nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from privacy.attacks import Attacks
from synth.schema import Schema
from validation import (
    columns,
    detection,
    exposure,
    fairness,
    images,
    inference,
    learning,
    likelihood,
    making,
    noised,
    noised_images,
    pairs,
    reasons,
    structure,
    utility,
)
from validation.evidence import Evidence
from validation.gates import Judged, Verdict
from validation.markup import NAME_WIDTH, Html, counted, cut, element, paragraph, section
from validation.page import Zone, document

_LINKS = (
    ("verdict", "Verdict"), ("findings", "Worries"), ("columns", "Columns"), ("pairs", "Pairs"),
    ("images", "Images"), ("learning", "Learning"), ("noised", "Counted anew"), ("structure", "Beyond pairs"),
    ("likelihood", "Likelihood"), ("detection", "Told apart"), ("utility", "Use"), ("inference", "Regressions"),
    ("fairness", "Groups"), ("attacks", "Attacks"), ("making", "Making"), ("citing", "Citing"),
)  # fmt: skip


def render(
    *,
    title: str,
    evidence: Evidence,
    verdict: Verdict,
    certificate: Mapping[str, Any],
    schema: Schema,
    zone: Zone = "outside",
) -> str:
    """The page: the verdict with its reasons, what to worry about, then all evidence, how it was made, how to cite.

    Args:
        title: name of the release.
        evidence: the figures; scores, rates and shares in [0, 1]. Outside, `public.outside` has made them.
        verdict: what the gate made of them.
        certificate: what is promised and what the release was made from; unknown keys are shown as they are.
        schema: the columns, in the order of the table.
        zone: where the page may be read; one for the inside says so in red, and lists more.

    Returns:
        HTML text, equal for equal arguments.
    """
    anchors = {name: f"column-{i}" for i, name in enumerate(schema.names)}
    sections = {
        "verdict": reasons.render(evidence, verdict, certificate),
        "findings": reasons.findings(evidence, verdict, anchors),
        "columns": columns.render(
            evidence.fidelity, verdict, schema, anchors, at_least=_steps(certificate, zone)
        ),
        "pairs": pairs.render(evidence, schema, zone),
        **_looked(evidence, verdict.judged, schema),
        "making": making.render(certificate),
        "citing": making.citing(title, certificate),
    }
    outcome = "may be released" if verdict.passed else "refused"
    inside = "Inside: " if zone == "inside" else ""
    return document(
        title=f"{inside}{cut(title, NAME_WIDTH)}: {outcome}. Evidence by Understudy",
        heading=title,
        eyebrow="Evidence for a synthetic table",
        facts=_facts(evidence, certificate, schema),
        links=[link for link in _LINKS if link[0] in sections],
        main=element("main", {"id": "main"}, *sections.values()),
        footer=_FOOTER,
        zone=zone,
    )


def _steps(certificate: Mapping[str, Any], zone: Zone) -> int:
    """Rows that shares of real rows are multiples of (`public.outside`); 0: they are not rounded."""
    control = certificate.get("disclosure_control")
    found = control.get("at_least") if zone == "outside" and isinstance(control, Mapping) else None
    return found if isinstance(found, int) else 0


def _looked(evidence: Evidence, judged: Sequence[Judged], schema: Schema) -> dict[str, Html]:
    """The sections for which rows were looked at, or, under privacy, why there are none."""
    curve = None if evidence.learning is None else learning.render(evidence.learning)
    learned = {} if curve is None else {"learning": curve}
    if evidence.fidelity.noised:
        anew = {} if evidence.noised is None else {"noised": noised.render(evidence.noised, judged)}
        pictured = {"images": _UNPICTURED} if schema.images else {}
        if evidence.noised_images is not None:
            pictured = {"images": noised_images.render(evidence.noised_images, judged)}
        return {**pictured, **learned, **anew, "utility": _UNSEEN, "attacks": _BOUNDED}
    fair = {} if evidence.fairness is None else {"fairness": fairness.render(evidence.fairness)}
    pictured = {} if evidence.images is None else {"images": images.render(evidence.images)}
    dense = {} if evidence.likelihood is None else {"likelihood": likelihood.render(evidence.likelihood)}
    return {
        **pictured,
        **learned,
        "structure": structure.render(evidence.structure or structure.Structure()),
        **dense,
        "detection": detection.render(evidence.detection),
        "utility": utility.render(evidence.utility or utility.Utility()),
        "inference": inference.render(evidence.inference or inference.Inference()),
        **fair,
        "attacks": exposure.render(evidence.attacks or Attacks()),
    }


def _facts(evidence: Evidence, certificate: Mapping[str, Any], schema: Schema) -> str:
    rows = certificate.get("rows")
    rows = rows if isinstance(rows, int) else evidence.fidelity.rows_synthetic
    facts = [counted(rows, "synthetic row", "synthetic rows"), counted(len(schema), "column", "columns")]
    if certificate.get("synthesizer"):
        facts.append(f"synthesizer {cut(str(certificate['synthesizer']), NAME_WIDTH)}")
    return " · ".join(facts)


_FOOTER = element(
    "footer",
    {},
    element(
        "p",
        {},
        element("strong", {}, "The rows of this release are synthetic. "),
        "They were drawn from a model and describe nobody; where one resembles a person, nothing may be "
        "concluded about that person. What is promised about privacy, and what is not, stands above. "
        "Figures named real are aggregates of the private table.",
    ),
)

_UNSEEN = section(
    "utility",
    "What it is good for",
    paragraph(
        "Not measured: models that learn from real rows, and trees that tell real from synthetic rows, would look at "
        "rows without noise."
    ),
)

_UNPICTURED = section(
    "images",
    "Images",
    paragraph(
        "Nothing is said of how the images look beside real ones: the report had no share of the privacy budget for "
        "that, or noise hides it. Whose image one resembles nobody looked up either: the guarantee bounds what all "
        "images together tell of anybody."
    ),
)

_BOUNDED = section(
    "attacks",
    "What attackers learn",
    paragraph(
        "No attack was tried, since its figures would come from the rows themselves. The guarantee bounds every "
        "attack, also those that nobody has thought of."
    ),
)
