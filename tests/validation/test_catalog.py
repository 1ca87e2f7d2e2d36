"""The catalogue of a root, as data and as a page."""

import json
import re
from dataclasses import replace

import pytest
from rdflib import Graph, URIRef

from tests.validation.test_report import HOSTILE, outline
from validation.catalog import Entry, by_name, dcat, render

ENTRY = Entry(
    name="flights", number="00000000000000aa", issued="2024-01-01T00:00:00Z", latest=False, rows=1_000, columns=10,
    synthesizer="gmm", statement="No formal privacy guarantee.", epsilon=None, shape=0.99, shape_ceiling=0.995,
    trend=0.93, trend_ceiling=0.98, told_apart=0.55, leaked=0.012, useful=("delay", "AUC", 0.8, 0.9), warnings=2,
    files={"report.html": (10, "cd" * 32), "data/part-00000.parquet": (20, "ab" * 32)},
)  # fmt: skip
LATER = replace(
    ENTRY,
    number="00000000000000bb",
    issued="2024-02-01T00:00:00Z",
    latest=True,
    rows=1_200,
    shape=0.97,
    epsilon=1.0,
)
OTHER = replace(ENTRY, name="visits", latest=True)
DCAT = "http://www.w3.org/ns/dcat#"


def graph(entries: list[Entry]) -> Graph:
    return Graph().parse(data=json.dumps(dcat(entries)), format="json-ld", publicID="https://root.test/")


def test_every_release_is_a_dataset_of_its_series_with_its_files() -> None:
    found = graph([OTHER, LATER, ENTRY])
    kind = URIRef("http://www.w3.org/1999/02/22-rdf-syntax-ns#type")
    datasets = {str(s) for s in found.subjects(kind, URIRef(f"{DCAT}Dataset"))}
    assert datasets == {f"https://root.test/{e.place}" for e in (ENTRY, LATER, OTHER)}
    later = URIRef(f"https://root.test/{LATER.place}")
    assert found.value(later, URIRef(f"{DCAT}previousVersion")) == URIRef(f"https://root.test/{ENTRY.place}")
    assert found.value(later, URIRef(f"{DCAT}inSeries")) == URIRef("https://root.test/flights/")
    assert found.value(later, URIRef(f"{DCAT}landingPage")) == URIRef(
        f"https://root.test/{LATER.place}report.html"
    )
    files = {str(o) for o in found.objects(None, URIRef(f"{DCAT}downloadURL"))}
    assert f"https://root.test/{ENTRY.place}data/part-00000.parquet" in files
    assert len(files) == 3


def test_the_order_of_entries_changes_nothing() -> None:
    assert dcat([OTHER, LATER, ENTRY]) == dcat([ENTRY, OTHER, LATER])
    assert render([OTHER, LATER, ENTRY]) == render([ENTRY, LATER, OTHER])
    assert [e.number for e in by_name([LATER, ENTRY])["flights"]] == [ENTRY.number, LATER.number]


def test_the_page_tells_what_changed_since_the_release_before() -> None:
    page = render([ENTRY, LATER, OTHER])
    row = re.search(rf'<tr id="flights-{LATER.number}".*?</tr>', page, re.DOTALL)
    assert row is not None
    assert "+200" in row[0]
    assert "−2.0" in row[0]
    assert "ε 1" in row[0]
    first = re.search(rf'<tr id="flights-{ENTRY.number}".*?</tr>', page, re.DOTALL)
    assert first is not None
    assert "+" not in first[0]
    assert "1.2" in first[0]


def test_the_newest_release_comes_first_and_can_be_filtered() -> None:
    page = render([ENTRY, LATER, OTHER])
    assert page.index(LATER.number) < page.index(ENTRY.number)
    rows = [a for t, a in outline(page).tags if t == "tr" and a.get("id")]
    assert [r["data-privacy"] for r in rows].count("formal guarantee") == 1
    assert [r.get("data-latest") for r in rows].count("") == 2


def test_quality_over_time_is_drawn_for_names_with_several_releases() -> None:
    page = render([ENTRY, LATER, OTHER])
    assert page.count('class="comparison"') == 1
    assert "flights over time" in page
    assert 'id="time"' not in render([OTHER])


@pytest.mark.parametrize("name", HOSTILE)
def test_what_releases_say_is_inert(name: str) -> None:
    page = render([replace(ENTRY, synthesizer=name, useful=(name, "AUC", 0.5, 0.6), statement=name), LATER])
    tags = outline(page).tags
    assert [t for t, _ in tags].count("script") == 1
    assert not {t for t, _ in tags} & {"img", "iframe", "object"}
    assert not [a for _, attributes in tags for a in attributes if a.startswith("on") or a == "style"]


def test_the_page_loads_nothing_and_links_inside_the_root_only() -> None:
    page = render([ENTRY, LATER, OTHER])
    links = [a["href"] for t, a in outline(page).tags if t == "a"]
    assert f"./{ENTRY.place}report.html" in links
    assert not [link for link in links if ":" in str(link) or str(link).startswith("/")]
    assert not re.search(r"https?:|url\(|@import", page)
    assert "default-src &#x27;none&#x27;" in page


def test_a_release_of_which_little_is_known_is_listed_with_dashes() -> None:
    bare = replace(
        ENTRY, shape=None, shape_ceiling=None, trend=None, trend_ceiling=None, told_apart=None, leaked=None,
        useful=None, warnings=None, files={},
    )  # fmt: skip
    page = render([bare, replace(bare, number="b" * 16, issued="2024-03-01T00:00:00Z")])
    assert "no scores are published" in page
    assert '<a href="flights' not in page


def test_an_empty_root_has_a_page_too() -> None:
    assert "none below this root" in render([])
    assert dcat([])["dcat:dataset"] == []
