"""Datasheet: the questions of Datasheets for Datasets that a release can answer by itself.

The sections are those of Gebru et al. 2021 (arXiv 1803.09010). What only the steward knows is said to be his to add.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from synth.schema import Schema

TITLES = (
    "Motivation", "Composition", "Collection process", "Preprocessing, cleaning, labelling", "Uses", "Distribution",
    "Maintenance",
)  # fmt: skip


def render(rows: int, certificate: Mapping[str, Any], schema: Schema) -> str:
    """The sections as Markdown; nothing in them comes from a name or a value of the table."""
    answers = (
        _MOTIVATION,
        _composition(rows, schema),
        _collection(certificate),
        _preprocessing(certificate, schema),
        _USES,
        _DISTRIBUTION,
        _MAINTENANCE,
    )
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in zip(TITLES, answers, strict=True))


_MOTIVATION = (
    "Made so that a private table can be worked with by people who may not see it. For which task, by whom and "
    "with whose money the private table was collected is the data steward's to add."
)


def _composition(rows: int, schema: Schema) -> str:
    kinds = [c.kind for c in schema]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    unit = (
        "Each row stands for one made-up unit."
        if schema.unit is None
        else "Rows with the same value of the unit's column stand for one made-up person or thing."
    )
    return (
        f"{rows:,} rows of {len(schema)} columns ({counted}). {unit} Every row is drawn from a model. Missing values "
        "are part of what was learned. There is no recommended split: rows are drawn independently, so any part is as "
        "good as any. Errors and biases of the private table are in this one, too."
    )


def _collection(certificate: Mapping[str, Any]) -> str:
    return (
        f"No row was collected: each was drawn from a model ({_word(certificate.get('synthesizer'))}) that learned "
        "from the private table. How that was collected, whether the people in it were asked, and who reviewed it is "
        "the data steward's to add."
    )


def _preprocessing(certificate: Mapping[str, Any], schema: Schema) -> str:
    done = list(_treatments(certificate, schema))
    drift = certificate.get("drift") or ()
    if drift:
        done.append(
            "the input's columns were not those of the schema; `certificate.json` lists how they differed"
        )
    return f"{'; '.join(done).capitalize()}. The private table is kept by those who hold it and is not published."


def _treatments(certificate: Mapping[str, Any], schema: Schema) -> Iterator[str]:
    kinds = {c.kind for c in schema}
    if certificate.get("disclosure_control"):
        yield "values that few units share were pooled, and extremes cut, before anything was learned"
    if certificate.get("formal_guarantee"):
        yield "what was learned of columns carries noise"
    if "identifier" in kinds:
        yield "identifiers were made anew"
    if any(c.personal is not None for c in schema):
        yield "names, addresses and the like were made up and never learned"
    if any(c.kind == "text" and c.personal is None for c in schema):
        yield "free text was replaced"
    if "image" in kinds:
        yield "images were brought to one size and mode, and nothing but their pixels was read"
    yield "numbers and times keep their type, range and grid"


_USES = (
    "For developing and testing software, for teaching, for exploring, and for models whose results are then "
    "confirmed on the private table. Not for decisions about people, nor for finding out who is in the private table."
)


_DISTRIBUTION = (
    "As the folder of this file; `SHA256SUMS` lists it, and a signature beside it, if there is one, says by whom it "
    "was given out. `croissant.json` describes it for machines. The licence is the data steward's to choose."
)

_MAINTENANCE = (
    "A release is never changed; a newer one is another folder, and `latest` points to it. Whom to ask is the data "
    "steward's to add."
)


def _word(value: object) -> str:
    return str(value) if isinstance(value, str) and value.replace("-", "").isalnum() else "of its own"
