"""How a release was made, as its certificate says it."""

import pytest

from tests.validation.test_report import HOSTILE, outline
from validation import making

CHARGES = [{"for": "profile", "question": f"marginal {i}", "noise_std": 15.61647830260425} for i in range(3)]
GUARANTEE = {
    "epsilon": 1.0,
    "delta": 1e-6,
    "mechanisms": CHARGES,
    "renyi_curve": {str(i): 0.1 for i in range(30)},
}


def test_what_was_charged_is_a_table_with_a_row_for_each_answer() -> None:
    page = making.render({"formal_guarantee": GUARANTEE})
    tags = [t for t, _ in outline(page).tags]
    assert tags.count("table") == 1
    assert tags.count("tr") == 4
    assert "15.6165" in page
    assert "15.61647" not in page
    assert "noise std" in page
    assert "30 entries" in page


def test_a_formal_guarantee_is_not_called_a_lack_of_disclosure_control() -> None:
    private = making.render({"formal_guarantee": GUARANTEE, "disclosure_control": None})
    assert "as they were learned" not in private
    assert "as they were learned" in making.render({"formal_guarantee": None, "disclosure_control": None})


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_certificate_says_is_inert(name: str) -> None:
    page = making.render(
        {name: [{name: name, "b": 1.5}, {name: {name: [name]}, "b": 2}], "x": {name: (name, {})}}
    )
    assert not {t for t, _ in outline(page).tags} & {"script", "img", "b"}
    assert "none" in page
