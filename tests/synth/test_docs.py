"""docs/synthesizers.md tells of every synthesizer and of every option."""

import re
from pathlib import Path

import pytest

from synth.registry import ALL, SYNTHESIZERS, synthesizer

TEXT = (Path(__file__).parents[2] / "docs" / "synthesizers.md").read_text("utf-8")


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_named_in_the_docs_and_no_other(name: str) -> None:
    if name not in SYNTHESIZERS:
        pytest.importorskip("sdv")
    (paragraph,) = re.findall(rf"\*\*`{name}`\*\*: (.*?)\n\n", TEXT, re.DOTALL)
    told = set(re.findall(r"`([a-z0-9_]+)`", paragraph))
    if "those of `sdv-ctgan`" in paragraph:
        told |= set(synthesizer("sdv-ctgan").options.model_fields)
    assert told == set(synthesizer(name).options.model_fields)
