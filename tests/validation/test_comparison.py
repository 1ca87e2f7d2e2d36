"""Several synthesizers side by side: a table for a terminal, a page with a chart."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from validation.comparison import Comparison, Entry, describe, render

FAST = Entry(
    synthesizer="gmm", fit_seconds=3.2, rows_per_second=250_000.0, shape=0.99, trend=0.91, copies=0.0,
    verdict="passed", run="/runs/a",
)  # fmt: skip
SLOW = replace(FAST, synthesizer="vae", fit_seconds=48.0, trend=0.95, verdict="refused by copies: too many")
BOTH = Comparison(
    title="visits",
    rows=5000,
    entries=(FAST, SLOW),
    shape_ceiling=0.995,
    trend_ceiling=0.97,
    copies_holdout=0.01,
)


def places(page: str) -> dict[str, tuple[float, float]]:
    """Synthesizer → its point on the chart."""
    found = re.findall(r'<circle[^>]*cx="([^"]+)" cy="([^"]+)"[^>]*></circle><text[^>]*>([^<]*)</text>', page)
    return {name: (float(x), float(y)) for x, y, name in found}


def test_the_table_has_a_line_for_each_synthesizer_and_one_for_real_rows() -> None:
    head, *lines = describe(BOTH).splitlines()
    assert head.split()[:3] == ["synthesizer", "fit", "s"]
    assert [line.split()[0] for line in lines] == ["gmm", "vae", "held-out"]
    assert "250,000" in lines[0]
    assert lines[1].endswith("refused by copies: too many")
    assert "97.0" in lines[2]


def test_a_slower_synthesizer_stands_to_the_right_and_a_better_one_above() -> None:
    found = places(render(BOTH))
    assert found["vae"][0] > found["gmm"][0]
    assert found["vae"][1] < found["gmm"][1]


def test_the_page_says_that_it_is_of_the_inside_and_loads_nothing() -> None:
    page = render(BOTH)
    assert "must not be published" in page
    assert "default-src 'none'".replace("'", "&#x27;") in page
    assert not re.search(r"https?:|url\(|@import", page)


def test_equal_comparisons_give_equal_pages() -> None:
    assert render(BOTH) == render(replace(BOTH))


def test_tables_without_pairs_or_holdout_have_no_chart_and_dashes() -> None:
    alone = replace(FAST, trend=None, copies=None)
    none = replace(BOTH, entries=(alone,), trend_ceiling=None, shape_ceiling=None, copies_holdout=None)
    assert "No pairs of columns" in render(none)
    assert "–" in describe(none).splitlines()[1]


@given(st.text(max_size=60), st.floats(0, 1), st.floats(0, 1e5), st.one_of(st.none(), st.floats(0, 1)))
def test_no_text_becomes_markup_and_every_point_lies_on_the_chart(
    text: str, score: float, seconds: float, ceiling: float | None
) -> None:
    entry = replace(FAST, verdict=text, trend=score, fit_seconds=seconds)
    page = render(replace(BOTH, title=text, entries=(entry, SLOW), trend_ceiling=ceiling))
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)

    Reader().feed(page)
    assert tags.count("script") == 1
    assert "img" not in tags
    for x, y in places(page).values():
        assert 0 <= x <= 640
        assert 0 <= y <= 300
