"""Card: the README.md of a release, a data card in Markdown with the front matter of Hugging Face.

Like the report it is a pure function of its arguments, holds no time, and treats names as hostile: what
comes from a table is escaped for Markdown and for the HTML that Markdown lets through.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from privacy.attacks import Attacks
from synth.schema import Column, Schema
from validation import datasheet
from validation.evidence import Evidence
from validation.exposure import TOLD, ends, share
from validation.fidelity import ColumnFidelity, Fidelity
from validation.figures import few
from validation.gates import Verdict
from validation.images import Beside, Closeness, ImageEvidence
from validation.inference import Inference
from validation.making import citation
from validation.markup import cut, within
from validation.noised import Noised, told
from validation.noised_images import NoisedImages, lines

NAME_WIDTH = 80
"""Width at which a name is cut."""

_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)  # fmt: skip


def render(
    *,
    name: str,
    certificate: Mapping[str, Any],
    evidence: Evidence,
    verdict: Verdict,
    schema: Schema,
    files: Sequence[str],
    rejected: int = 0,
) -> str:
    """The card: what the release is, how to load it, its columns, its quality, what is promised and what not.

    Args:
        name: name of the release.
        certificate: what is promised and what the release was made from.
        evidence: the figures; scores, rates and shares in [0, 1].
        verdict: what the gate made of them.
        schema: the columns, in the order of the table.
        files: paths of the release's files, relative to it.
        rejected: rows that were drawn and thrown away because they broke a constraint.

    Returns:
        Markdown text, equal for equal arguments.
    """
    fidelity = evidence.fidelity
    rows = certificate.get("rows")
    rows = rows if isinstance(rows, int) else fidelity.rows_synthetic
    parts = (
        front_matter(name, rows, images=bool(schema.images)),
        f"# {escape(name)}",
        _description(rows, certificate, schema),
        "## How to load it\n\n" + _LOADING,
        "## Columns\n\n" + "\n".join(_columns(schema, fidelity)),
        *_constraints(schema, rows, rejected),
        *_parity(certificate),
        *_watermark(certificate),
        "## How faithful it is\n\n" + _of_images(evidence, schema) + "\n".join(_quality(evidence)),
        *_images(evidence.images),
        *_noised_images(evidence.noised_images),
        *_useful(evidence),
        *_regressions(evidence.inference, certificate),
        _findings(evidence.fidelity, verdict),
        "## What is promised about privacy\n\n" + _privacy(fidelity, certificate, evidence.attacks),
        "## Limits\n\n" + _LIMITS,
        "## Datasheet\n\n" + datasheet.render(rows, certificate, schema),
        "## Files\n\n" + "\n".join(f"- {escape(f, 200)}" for f in files),
        f"## How to cite it\n\n{escape(citation(name, certificate), 600)}",
    )
    return "\n\n".join(parts) + "\n"


_LOADING = """\
```python
import pandas as pd

frame = pd.read_parquet("data")
```

```python
from datasets import load_dataset

rows = load_dataset("parquet", data_files="data/part-*.parquet", split="train")
```"""

_IMAGES = (
    "Of images these figures, and those on attacks, compare only whether they are there: they are about the other "
    "columns, and say nothing of how the images look or of whose they resemble.\n\n"
)

_NO_IMAGES = (
    "Of images these figures compare only whether they are there. Nothing is said of how the images look beside real "
    "ones: under differential privacy that takes a share of the budget, which nobody gave, or noise hides it.\n\n"
)

_SEEN_IMAGES = "Of images these figures compare only whether they are there.\n\n"

_LIMITS = """\
- The rows were drawn from a model. What the model does not know (rules between many columns, rare cases, \
exact order in time) the rows do not have.
- A result that matters should be confirmed on the real table by those who hold it.
- Nothing may be concluded about one person from one row, and nobody should try to find out who was in the \
real table.
- Groups that are small in the real table are described worse than large ones."""


def _of_images(evidence: Evidence, schema: Schema) -> str:
    if not schema.images:
        return ""
    if evidence.noised_images is not None:
        return _SEEN_IMAGES
    return _NO_IMAGES if evidence.fidelity.noised else _IMAGES


def front_matter(name: str, rows: int, *, images: bool = False) -> str:
    """YAML between dashes, as the Hugging Face Hub reads it; the steward fills in the licence.

    Examples:
        >>> print(front_matter("flights", 20_000))  # doctest: +ELLIPSIS
        ---
        pretty_name: flights
        license: other
        ...
    """
    data = {
        "pretty_name": cut(name, NAME_WIDTH),
        "license": "other",
        "license_name": "to be chosen by the data steward",
        "tags": ["synthetic", "image" if images else "tabular"],
        "size_categories": [next((label for limit, label in _SIZES if rows < limit), "n>1T")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/part-*.parquet"}]}
        ],
    }
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)}---"


def escape(text: str, width: int = NAME_WIDTH) -> str:
    """Hostile text as inert Markdown: on one line, cut, without markup, links or HTML.

    Examples:
        >>> escape("a|b_<i>`c`")
        'a\\\\|b\\\\_&lt;i&gt;\\\\`c\\\\`'
    """
    inert = re.sub(r"([\\`*_{}\[\]#|~$^])", r"\\\1", cut(text, width))
    # Escaped last, so that nothing of an entity is taken for Markdown; then what becomes a link by itself.
    inert = html.escape(inert, quote=False).replace("://", "&#58;//").replace("@", "&#64;")
    inert = re.sub(r"(?i)\bwww\.", lambda m: m[0][:-1] + "&#46;", inert)
    return re.sub(r"^(\s*)([-+=.:>]|\d+[.)])", lambda m: m[1] + "".join(f"&#{ord(c)};" for c in m[2]), inert)


def _description(rows: int, certificate: Mapping[str, Any], schema: Schema) -> str:
    synthesizer = certificate.get("synthesizer")
    by = f" by the synthesizer {escape(str(synthesizer))}" if synthesizer else ""
    return (
        f"A synthetic table of {rows:,} rows and {len(schema):,} columns, made{by} with Understudy: every "
        "row was drawn from a model. `report.html` shows how close the table is to the real one, "
        "`certificate.json` says what is promised, and `SHA256SUMS` lets you check that nothing was changed."
    )


def _columns(schema: Schema, fidelity: Fidelity) -> Iterator[str]:
    measured = {c.name: c for c in fidelity.columns}
    yield "| Name | Kind | Type | Shape | Ceiling | Notes |"
    yield "|---|---|---|---:|---:|---|"
    for column in schema:
        yield _row(column, measured.get(column.name), unit=column.name == schema.unit)


def _constraints(schema: Schema, rows: int, rejected: int) -> Iterator[str]:
    if not schema.constraints:
        return
    share = rejected / max(1, rows + rejected)
    told = (
        f"{_percent(share)} of the rows that were drawn ({rejected:,}) were rejected because they broke one."
        if rejected
        else "No row that was drawn had to be rejected for it."
    )
    listed = "\n".join(f"- {escape(str(c), 200)} ({escape(c.facts)})" for c in schema.constraints)
    yield f"## Constraints\n\nEvery row meets these:\n\n{listed}\n\n{told}"


def _row(column: Column, measured: ColumnFidelity | None, *, unit: bool) -> str:
    cells = (
        escape(column.name) or "(no name)",
        column.kind,
        escape(column.type),
        _score(measured.shape if measured else None),
        _score(measured.shape_ceiling if measured else None),
        "; ".join(_notes(column, measured, unit=unit)),
    )
    return f"| {' | '.join(cells)} |"


def _notes(column: Column, measured: ColumnFidelity | None, *, unit: bool) -> Iterator[str]:
    if unit:
        yield "equal values mean one person or thing"
    if column.kind == "identifier":
        yield "made anew by its pattern"
    if column.personal is not None:
        yield f"made up: {column.personal.what.replace('_', ' ')}"
    elif column.kind == "text":
        yield "free text, replaced"
    if column.image is not None:
        yield f"PNG, {column.image.width} × {column.image.height}, each marked as synthetic"
    if measured and measured.missing_synthetic:
        yield f"{_percent(measured.missing_synthetic)} missing"
    if measured and measured.lost:
        yield "lost: " + ", ".join(escape(label, 24) for label, _ in measured.lost[:3])


def _counted_anew(figures: Noised) -> Iterator[str]:
    held = "held out of training" if figures.held_out else "that the model learned from"
    yield (
        f"\nAbout {figures.rows:,} real rows (a noised number) {held} were counted anew, each count ± "
        f"{figures.noise_std:,.0f} rows of noise, which was taken off again; the 95 % intervals cover noise and "
        "sampling.\n"
    )
    yield "| | Score (noised) | Ceiling |"
    yield "|---|---:|---:|"
    for name, score in (("Shapes of columns", figures.shape), ("Trends of pairs", figures.trend)):
        if score is not None:
            yield f"| {name} | {told(score)} | {_score(score.ceiling)} |"


def _images(found: ImageEvidence | None) -> Iterator[str]:
    if found is None:
        return
    near = found.closeness
    yield (
        "### Images\n\nBeside what real images that were held out score in their place.\n\n"
        "| | Synthetic | Held out |\n|---|---:|---:|\n"
        f"| Fréchet distance{_of_features(near)} (0 is best) | {near.frechet:.2f} | {_number(near.frechet_ceiling)} |\n"
        f"| Recall | {near.recall.value.value:.3f} | {_beside(near.recall)} |"
        + (
            ""
            if found.use is None
            else "\n| Accuracy of a classifier that learned from them | "
            f"{found.use.accuracy.value.value:.3f} | {_beside(found.use.accuracy)} |"
        )
        + f"\n| Identical to a training image | {found.identical:.4f} | {_number(found.identical_ceiling)} |"
    )


def _noised_images(found: NoisedImages | None) -> Iterator[str]:
    if found is None:
        return
    held = "held out of training" if found.held_out else "that the model learned from"
    yield (
        f"### Images\n\nAbout {found.rows:,} real images (a noised number) {held} were counted with noise, by what a "
        f"network takes them for that learned from {found.taught:,} drawn images; the 95 % intervals cover noise and "
        "sampling.\n\n| | Real (noised) | Drawn |\n|---|---:|---:|\n"
        + "\n".join(f"| {name} | {real} | {drawn} |" for name, real, drawn, _ in lines(found))
    )


def _of_features(near: Closeness) -> str:
    """Of how many images in whose features, where weights were given."""
    by = near.inception
    return "" if by is None else f" of {by.images:,} images, {by.name}, weights {by.digest[:12]}"


def _beside(figure: Beside) -> str:
    return "–" if figure.ceiling is None else f"{figure.ceiling.value:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _quality(evidence: Evidence) -> Iterator[str]:
    fidelity = evidence.fidelity
    if fidelity.noised:
        yield (
            f"Column shapes score {_score(fidelity.shape)} of 100, measured on {fidelity.rows_synthetic:,} synthetic "
            "rows against the noised counts that the model was fitted to. Exact figures stay with those who hold the "
            "real table."
        )
        yield from () if evidence.noised is None else _counted_anew(evidence.noised)
        return
    yield (
        f"Scores from 0 to 100, measured on {fidelity.rows_synthetic:,} synthetic rows against "
        f"{fidelity.rows_train:,} real rows that the model learned from. The ceiling is what "
        f"{fidelity.rows_holdout:,} real rows score that it did not learn from.\n"
    )
    yield "| | Score | Ceiling |"
    yield "|---|---:|---:|"
    yield f"| Column shapes | {_score(fidelity.shape)} | {_ceiling(fidelity.shape_ceiling, fidelity.shape_error)} |"
    yield f"| Pair trends | {_score(fidelity.trend)} | {_ceiling(fidelity.trend_ceiling, fidelity.trend_error)} |"


def _useful(evidence: Evidence) -> Iterator[str]:
    if evidence.detection is not None:
        found = evidence.detection
        yield (
            f"Gradient-boosted trees tell synthetic from training rows with an area under the curve of "
            f"{found.auc.value:.2f}; 0.50 means that they cannot."
        )
    if evidence.utility is None or not evidence.utility.tasks:
        return
    lines = [
        "## What it is good for",
        "",
        "Models that learned from synthetic rows, and from as many real ones, tested on held-out real rows.",
        "",
        "| Target | Measure | Model | From synthetic rows | From real rows |",
        "|---|---|---|---:|---:|",
    ]
    for task in evidence.utility.tasks:
        for score in task.scores:
            figures = f"{score.synthetic.value:.3f} | {score.real.value:.3f}"
            lines.append(f"| {escape(task.target)} | {task.measure} | {score.model} | {figures} |")
    yield "\n".join(lines)


def _regressions(found: Inference | None, certificate: Mapping[str, Any]) -> Iterator[str]:
    """What a researcher needs for intervals: how alike they are, and how much wider they must be to be honest."""
    rows, learned, draws = (certificate.get(k) for k in ("rows", "learned_rows", "draws"))
    parts = ["## Intervals"]
    if isinstance(rows, int) and isinstance(learned, int) and learned > 0:
        factor = (rows / learned + 1) ** 0.5
        parts.append(
            f"The model learned from about {learned:,} real rows. A standard error that is computed from the {rows:,} "
            "rows of `data` as if they were real is too small for what is true of those whom the real rows are a "
            f"sample of: multiply it by {factor:.2f}, the root of {rows:,} / {learned:,} + 1. `understudy infer` does "
            "that. It is honest only where the model kept what is asked."
        )
        if isinstance(draws, int) and draws > 1:
            parts.append(
                f"The table was drawn {draws} times: `data`, and `draws/2` to `draws/{draws}`. Estimates from each are "
                f"averaged, and their mean variance is multiplied by {rows:,} / {learned:,} + 1 / {draws}. Do not put "
                "the draws together as if they were more people."
            )
    if certificate.get("formal_guarantee"):
        parts.append(
            "The model learned from noised answers; no interval holds that error, so all are too narrow."
        )
    if found is not None and found.regressions:
        parts += [
            "How far intervals of regressions on real rows and on as many synthetic rows, taken as if they were real, "
            "overlap (mean over the coefficients, 1 is best), beside held-out real rows.",
            "\n".join(_overlaps(found)),
        ]
    if len(parts) > 1:
        yield "\n\n".join(parts)


def _parity(certificate: Mapping[str, Any]) -> Iterator[str]:
    asked = certificate.get("parity")
    if isinstance(asked, Mapping):
        yield f"## Parity\n\n{escape(str(asked.get('statement')), 2_000)}"


def _watermark(certificate: Mapping[str, Any]) -> Iterator[str]:
    asked = certificate.get("watermark")
    if isinstance(asked, Mapping):
        key = escape(str(asked.get("key")), 40)
        yield f"## Watermark\n\n{escape(str(asked.get('statement')), 2_000)} Its number is {key}."


def _overlaps(found: Inference) -> Iterator[str]:
    yield "| Target | Coefficients | Overlap | Held-out rows | Same conclusion | Held-out rows |"
    yield "|---|---:|---:|---:|---:|---:|"
    for r in found.regressions:
        own, top = r.synthetic, r.ceiling
        what = escape(r.target) + ("" if r.outcome is None else f", {escape(r.outcome[0], 24)}")
        beside = ("–", "–") if top is None else (f"{top.overlap:.2f}", _percent(top.kept))
        figures = (f"{own.overlap:.2f}", beside[0], _percent(own.kept), beside[1])
        yield f"| {what} | {len(r.coefficients)} | {' | '.join(figures)} |"


def _findings(fidelity: Fidelity, verdict: Verdict) -> str:
    if not verdict.findings:
        return f"The gate found nothing to worry about.{few(fidelity)}"
    passed = "passed, with this to keep in mind" if verdict.passed else "refused"
    items = (f"- {f.level}: {escape(f.message, 400)}" for f in verdict.findings)
    return f"The gate's verdict: {passed}.\n\n" + "\n".join(items)


def _privacy(fidelity: Fidelity, certificate: Mapping[str, Any], attacks: Attacks | None) -> str:
    statement = certificate.get("statement")
    parts = [
        escape(str(statement), 2_000) if statement else "The certificate makes no statement about privacy."
    ]
    if fidelity.copies is not None and fidelity.copies_holdout is not None:
        parts.append(_copies(fidelity.copies, fidelity.copies_holdout))
    if attacks is not None and attacks.done:
        parts += [_ATTACKED, "\n".join(_attacks(attacks))]
    return "\n\n".join(parts)


def _copies(copies: float, chance: float) -> str:
    told = (
        f"{_percent(copies)} of the synthetic rows equal a row that the model learned from; by chance, "
        f"{_percent(chance)} of the real rows do that it did not learn from."
    )
    if copies == 0 and chance == 0:
        return told
    # A share of copies frightens whoever does not know that real rows are alike, too.
    return (
        f"{told} Where columns are few or coarse many people have the same row, so what counts is how far the first "
        "figure is above the second."
    )


_ATTACKED = (
    "What attackers achieve who have the synthetic rows: guesses about rows that the model learned from, beside the "
    "same guesses about real rows that it never saw. What is right beyond those has leaked, 0 % for nothing and "
    "100 % for everything; in brackets the 95 % interval. Small figures are no guarantee."
)


def _attacks(attacks: Attacks) -> Iterator[str]:
    yield "| Attack | Right about training rows | Right about others | Beyond chance |"
    yield "|---|---:|---:|---:|"
    for attack in attacks.done:
        beyond = f"{share(attack.risk.value)} ({ends(attack.risk)})"
        yield f"| {TOLD[attack.name].title} | {share(attack.success)} | {share(attack.control)} | {beyond} |"


def _ceiling(value: float | None, error: float | None) -> str:
    return "–" if value is None else within(value, error, _score)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _percent(share: float) -> str:
    return "0 %" if share == 0 else "less than 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
