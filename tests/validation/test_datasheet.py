from typing import Any

import pytest

from synth.schema import Personal, Schema
from validation.datasheet import TITLES, render

SCHEMA = Schema.parse(
    "unit: who\ncolumns:\n"
    "- {name: who, kind: identifier, type: string, pattern: 'P[0-9]{5}'}\n"
    "- {name: '<b>story</b>', kind: text, type: string, action: replace}\n"
    "- {name: age, kind: numerical, type: int64}\n",
    source="schema",
)
CERTIFICATE: dict[str, Any] = {
    "synthesizer": "gmm",
    "disclosure_control": {"at_least": 10},
    "formal_guarantee": None,
}


def test_every_section_of_a_datasheet_is_there_in_order() -> None:
    text = render(1_234, CERTIFICATE, SCHEMA)
    places = [text.index(f"### {title}\n") for title in TITLES]
    assert places == sorted(places)
    assert "1,234 rows of 3 columns (1 identifier, 1 text, 1 numerical)" in text
    assert "<b>" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "Values that few units share were pooled"),
        (
            {"disclosure_control": None, "formal_guarantee": {"epsilon": 1}},
            "What was learned of columns carries noise",
        ),
        ({"drift": ["+ 'x' is new"]}, "lists how they differed"),
        ({"synthesizer": "<script>"}, "a model (of its own)"),
    ],
)
def test_it_says_what_the_certificate_says(change: dict[str, Any], said: str) -> None:
    assert said in render(10, {**CERTIFICATE, **change}, SCHEMA)
    if change:
        assert said not in render(10, CERTIFICATE, SCHEMA)


def test_made_up_personal_data_are_not_called_free_text() -> None:
    personal = SCHEMA["<b>story</b>"].model_copy(
        update={"personal": Personal(what="name"), "action": "regenerate"}
    )
    columns = tuple(personal if c.name == personal.name else c for c in SCHEMA)
    text = render(10, CERTIFICATE, SCHEMA.model_copy(update={"columns": columns}))
    assert "names, addresses and the like were made up" in text
    assert "free text was replaced" not in text
    assert "free text was replaced" in render(10, CERTIFICATE, SCHEMA)
