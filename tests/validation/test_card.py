import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from synth.schema import Column, Schema
from validation import card
from validation.evidence import Evidence
from validation.fidelity import ColumnFidelity, Fidelity
from validation.gates import Finding, Verdict

HOSTILE = (
    "a|b", "`code`", "line\nbreak", "<script>alert(1)</script>", "[x](javascript:alert(1))",
    "![x](https://e.example)", "https://evil.example/x", "www.evil.example", "a@evil.example",
    "**bold** _it_", "\\|", "---", "# head", "$x$", "&lt;b&gt;", "x" * 200,
    "abc\u202egnp.exe", "half \ud800 a pair",
)  # fmt: skip

FILES = ("data/part-00000.parquet", "schema.json", "certificate.json", "report.html", "SHA256SUMS")


def card_of(
    names=("age",),
    *,
    name="demo",
    rows=20_000,
    message="a thing",
    statement="No formal guarantee.",
    **errors,
) -> str:
    columns = tuple(
        ColumnFidelity(
            name=n, kind="categorical", shape=0.95, shape_ceiling=0.99, missing_real=0.1,
            missing_synthetic=0.12, missing_holdout=0.1, lost=((n, 0.06),), strongest=None,
            association_real=0.0, association_synthetic=0.0,
        )
        for n in names
    )  # fmt: skip
    fidelity = Fidelity(
        rows_train=1000, rows_holdout=500, rows_synthetic=1000, shape=0.95, trend=0.93, shape_ceiling=0.99,
        trend_ceiling=0.98, copies=0.001, copies_holdout=0.002, pairs=(), columns=columns, overlays=(), **errors,
    )  # fmt: skip
    warning = Finding(rule="shape", level="warning", columns=(), message=message, value=None, limit=None)
    return card.render(
        name=name,
        certificate={
            "rows": rows,
            "synthesizer": "gmm",
            "statement": statement,
            "versions": {"understudy": "0.1.0"},
        },
        evidence=Evidence(fidelity=fidelity),
        verdict=Verdict(findings=(warning,)),
        schema=Schema(columns=tuple(Column(name=n, kind="categorical", type="string") for n in names)),
        files=FILES,
    )


def front_matter(text):
    start, block, _ = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    assert start == ""
    return yaml.safe_load(block)


def test_the_front_matter_is_what_the_hub_reads():
    data = front_matter(card_of())
    assert data["pretty_name"] == "demo"
    assert data["license"] == "other"
    assert data["tags"] == ["synthetic", "tabular"]
    assert data["size_categories"] == ["10K<n<100K"]
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/part-*.parquet"}]


@pytest.mark.parametrize(
    ("rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**13, "n>1T")]
)
def test_the_size_category_is_that_of_the_rows(rows, size):
    assert front_matter(card_of(rows=rows))["size_categories"] == [size]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_in_its_place(name):
    text = card_of(name=name, message=name, statement=name)
    assert front_matter(text)["pretty_name"] == card.cut(name, card.NAME_WIDTH)
    assert text.count("\n# ") == 1
    body = text.split("---", 2)[2]
    assert "<script" not in body
    assert "https://" not in body


def test_every_column_is_one_row_of_six_cells():
    table = [
        line for line in card_of(HOSTILE).splitlines() if line.startswith("| ") and " categorical " in line
    ]
    assert len(table) == len(HOSTILE)
    for line in table:
        assert len(re.split(r"(?<!\\)\|", line)) == 8


@given(st.text(min_size=1))
def test_escaped_text_is_one_line_without_markup(text):
    shown = card.escape(text)
    assert len(shown.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(\\\\)*[`*_\[\]|~$]", re.sub(r"\\[^\\]", "", shown))
    assert "<" not in shown
    assert ">" not in shown
    shown.encode("utf-8")


def test_the_figures_stand_beside_their_ceilings():
    text = card_of()
    assert "| Column shapes | 95.0 | 99.0 |" in text
    assert "| Pair trends | 93.0 | 98.0 |" in text
    text = card_of(shape_error=0.005, trend_error=0.01)
    assert "| Column shapes | 95.0 | 99.0 (98.0 to 100.0) |" in text
    assert "| Pair trends | 93.0 | 98.0 (96.0 to 100.0) |" in text


def test_the_statement_the_findings_and_the_files_are_said():
    text = card_of(message="the shape of age is poor", statement="No formal guarantee.")
    assert "No formal guarantee." in text
    assert "- warning: the shape of age is poor" in text
    assert all(f in text for f in FILES)


def test_equal_arguments_give_equal_cards():
    assert card_of(HOSTILE) == card_of(HOSTILE)


def test_the_card_lists_constraints_and_says_what_was_rejected_for_them() -> None:
    columns = [{"name": n, "kind": "numerical", "type": "int64"} for n in ("a|b", "c")]
    stated = [{"rule": "order", "columns": ["a|b", "c"], "facts": "declared: law"}]
    schema = Schema.model_validate({"columns": columns, "constraints": stated})
    fidelity = Fidelity(
        rows_train=10, rows_holdout=5, rows_synthetic=10, shape=None, trend=None, shape_ceiling=None,
        trend_ceiling=None, copies=None, copies_holdout=None, pairs=(), columns=(), overlays=(),
    )  # fmt: skip
    more = {
        "name": "x",
        "certificate": {"rows": 75},
        "evidence": Evidence(fidelity=fidelity),
        "verdict": Verdict(findings=()),
    }
    text = card.render(schema=schema, files=FILES, rejected=25, **more)
    assert "- a\\|b &lt;= c (declared: law)" in text
    assert "25.0 % of the rows that were drawn (25)" in text
    assert "No row that was drawn" in card.render(schema=schema, files=FILES, **more)
    assert "## Constraints" not in card_of()


def test_copies_are_told_beside_chance_and_explained_where_there_are_some():
    text = card_of()
    assert "0.1 % of the synthetic rows equal" in text
    assert "by chance, 0.2 % of the real rows" in text
    assert "what counts is how far the first figure is above the second" in text
