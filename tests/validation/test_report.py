import base64
import hashlib
import html
import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.estimate import Estimate
from synth.schema import Column, Personal, Schema
from validation import markup, pairs, plots, report
from validation.detection import Detection, Example
from validation.evidence import Evidence
from validation.fidelity import MISSING, OTHERS, ColumnFidelity, Fidelity, Overlay, PairFidelity
from validation.gates import Finding, Verdict
from validation.page import INSIDE
from validation.utility import Score, Task, Utility

CERTIFICATE = {
    "statement": "There is no formal guarantee.",
    "formal_guarantee": None,
    "disclosure_control": {"at_least": 10},
    "synthesizer": "gmm",
    "model_digest": "ab" * 32,
    "rows": 20_000,
    "seed": 7,
    "versions": {"understudy": "0.1.0"},
}

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><script>alert(1)</script>",
    "--><script>alert(1)</script>",
    "abc\u202egnp.exe",
    "line\nbreak\r\ttab\x00",
    "half \ud800 a pair",
    "x" * 200,
    "👩‍💻",
    "https://evil.example/x",
    "",
)


def schema_of(names) -> Schema:
    return Schema(columns=tuple(Column(name=n, kind="categorical", type="string") for n in names))


def column(name, **fields) -> ColumnFidelity:
    plain = ColumnFidelity(
        name=name, kind="categorical", shape=0.95, shape_ceiling=0.99, missing_real=0.1,
        missing_synthetic=0.12, missing_holdout=0.1, lost=(), strongest=None,
        association_real=0.0, association_synthetic=0.0,
    )  # fmt: skip
    return replace(plain, **fields)


def bars(name, labels=("a", "b")) -> Overlay:
    share = tuple(1 / len(labels) for _ in labels)
    return Overlay(
        column=name, kind="categorical", labels=tuple(labels), edges=(), real=share, synthetic=share
    )


def steps(name, edges, kind="numerical") -> Overlay:
    share = tuple(1 / (len(edges) - 1) for _ in edges[1:])
    return Overlay(column=name, kind=kind, labels=(), edges=tuple(edges), real=share, synthetic=share)


def fidelity_of(names, *, labels=("a", "b")) -> Fidelity:
    names = list(names)
    pairs = tuple(
        PairFidelity(
            first=a, second=b, trend=0.9 + 0.1 * i / len(names), trend_ceiling=0.98,
            association_real=0.5, association_synthetic=0.4,
        )
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    )  # fmt: skip
    return Fidelity(
        rows_train=1000, rows_holdout=500, rows_synthetic=1000, shape=0.95, trend=0.93, shape_ceiling=0.99,
        trend_ceiling=0.98, copies=0.001, copies_holdout=0.002, pairs=pairs,
        columns=tuple(column(n, strongest=names[0], lost=((labels[0], 0.06),)) for n in names),
        overlays=tuple(bars(n, labels) for n in names),
    )  # fmt: skip


def page_of(
    names=("age", "income"),
    *,
    labels=("a", "b"),
    title="demo",
    findings=(),
    certificate=CERTIFICATE,
    zone="outside",
) -> str:
    return report.render(
        title=title,
        evidence=Evidence(fidelity=fidelity_of(names, labels=labels)),
        verdict=Verdict(findings=tuple(findings)),
        certificate=certificate,
        schema=schema_of(names),
        zone=zone,
    )


def finding(level, message, columns=()) -> Finding:
    return Finding(rule="shape", level=level, columns=columns, message=message, value=0.1, limit=0.05)


class Outline(HTMLParser):
    """Tags and attributes of a page, and whether every tag is closed where it should be."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(page) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def hostile_page() -> str:
    findings = [finding("critical", text, HOSTILE) for text in HOSTILE]
    certificate = {**CERTIFICATE, **{text: {text: [text]} for text in HOSTILE}, "statement": HOSTILE[0]}
    return page_of(HOSTILE, labels=HOSTILE, title=HOSTILE[3], findings=findings, certificate=certificate)


def test_hostile_text_makes_no_tag_and_no_attribute(hostile_page):
    tags = outline(hostile_page).tags
    assert [t for t, _ in tags].count("script") == 1
    assert not {t for t, _ in tags} & {"img", "iframe", "object", "embed", "link", "base", "form"}
    assert not [a for _, attributes in tags for a in attributes if a.startswith("on") or a == "style"]
    assert "<script>alert" not in hostile_page


def test_no_character_reorders_the_page_or_breaks_its_encoding(hostile_page):
    assert not set("\u202e\x00\r") & set(hostile_page)
    assert "⟨U+202E⟩" in hostile_page
    assert "⟨U+D800⟩" in hostile_page
    hostile_page.encode("utf-8")


def test_long_names_are_cut_and_stand_in_full_in_a_title():
    parser = outline(page_of(["age", "x" * 200], title="y" * 200))
    assert ("bdi", {"title": "x" * 200}) in parser.tags
    assert ("bdi", {"title": "y" * 200}) in parser.tags
    assert not re.search("x{60}|y{60}", "".join(parser.text).split("Add the publisher")[0])


def test_nothing_is_loaded_from_anywhere(hostile_page):
    page = page_of()
    assert not re.search(
        r"https?:|//\w|url\(|@import", page.replace("<!doctype html>", "").split("<script>")[0]
    )
    for tag, attributes in outline(hostile_page).tags:
        assert not {"src", "srcset", "action", "data", "xmlns"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")


def test_the_policy_allows_exactly_the_style_and_the_script_inside():
    page = page_of()
    content = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])
    assert content.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in content
        assert "unsafe" not in content


def test_equal_arguments_give_equal_pages():
    assert page_of() == page_of()


@pytest.mark.parametrize("zone", ["outside", "inside"])
def test_a_hundred_columns_stay_under_three_megabytes_and_all_are_there(zone):
    names = [f"column {i} " + "long name " * 20 for i in range(100)]
    page = page_of(names, labels=[f"category {i} " + "y" * 100 for i in range(30)], zone=zone)
    assert len(page.encode()) < 3_000_000
    ids = [a["id"] for t, a in outline(page).tags if t == "tr" and a.get("id")]
    assert ids == [f"column-{i}" for i in range(100)]
    assert f"the {pairs.COLUMNS} whose pairs differ most" in page


def test_columns_that_are_not_learned_have_a_row_too():
    schema = Schema(
        columns=(
            Column(name="age", kind="numerical", type="int64"),
            Column(name="booking", kind="identifier", type="string"),
        )
    )
    page = report.render(
        title="t",
        evidence=Evidence(fidelity=fidelity_of(["age"])),
        verdict=Verdict(findings=()),
        certificate={},
        schema=schema,
    )
    assert "booking" in page
    assert "Made anew by its pattern" in page
    assert "There are no two columns to compare." in page


def test_made_up_personal_data_are_not_called_free_text():
    name = Column(
        name="who", kind="text", type="string", action="regenerate", personal=Personal(what="first_name")
    )
    page = report.render(
        title="t", evidence=Evidence(fidelity=fidelity_of(["age"])), verdict=Verdict(findings=()), certificate={},
        schema=Schema(columns=(Column(name="age", kind="numerical", type="int64"), name)),
    )  # fmt: skip
    assert "Made up (first name)" in page
    assert "Free text is replaced" not in page


def test_outside_it_is_said_that_shares_of_real_rows_are_rounded():
    pooled = {**CERTIFICATE, "disclosure_control": {"at_least": 10}}
    assert "multiples of 10 rows" in page_of(certificate=pooled)
    assert "multiples of" not in page_of(certificate=pooled, zone="inside")
    assert "multiples of" not in page_of(certificate={**CERTIFICATE, "disclosure_control": None})


def test_critical_findings_come_before_warnings_and_refuse():
    page = page_of(
        findings=[finding("warning", "second thing"), finding("critical", "first thing", ("income",))]
    )
    assert "This release is refused" in page
    listed = page[page.index('id="findings"') :]
    assert listed.index("First thing") < listed.index("Second thing")
    assert 'href="#column-1"' in listed


def test_a_verdict_without_critical_findings_may_leave():
    page = page_of(findings=[finding("warning", "a thing")])
    assert "This release may leave the house" in page
    assert "0 critical findings, 1 warning" in page


def test_unknown_keys_of_the_certificate_are_shown():
    page = page_of(certificate={**CERTIFICATE, "noise_scale": {"sum": [1.5, {"deep": {"deeper": {"x": 1}}}]}})
    assert "noise scale" in page
    assert "1.5" in page
    assert "deeper" in page


@pytest.mark.parametrize("guarantee", [None, {"epsilon": 1.0, "delta": 1e-6}])
def test_the_formal_guarantee_is_said_in_either_case(guarantee):
    page = page_of(certificate={**CERTIFICATE, "formal_guarantee": guarantee})
    assert ("no mathematical bound" in page) == (guarantee is None)
    assert ("epsilon" in page) == (guarantee is not None)


def test_every_link_leads_to_a_place_on_the_page(hostile_page):
    tags = outline(hostile_page).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in tags if t == "a"} <= set(ids)
    assert {i for _, a in tags for i in (a.get("aria-labelledby") or "").split()} <= set(ids)


def test_tables_have_captions_and_scopes_and_plots_have_names():
    page = page_of()
    tags = outline(page).tags
    assert page.count("<table") == page.count("<caption") == 2
    assert all(a.get("scope") in {"row", "col"} for t, a in tags if t == "th")
    assert all(a.get("aria-hidden") == "true" or a.get("aria-label") for t, a in tags if t == "svg")
    levels = [int(t[1]) for t, _ in tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_a_score_below_all_is_never_shown_as_all():
    page = page_of(findings=())
    assert "100.0" not in page.split('id="findings"')[0]
    overlay = Overlay(column="c", kind="categorical", labels=("a", "b"), edges=(),
                      real=(0.5, 0.5), synthetic=(0.50001, 0.49999))  # fmt: skip
    assert "99.9 of 100 rows agree" in plots.overlay_plot(overlay)


def test_a_column_shows_its_ceiling_with_half_of_its_interval():
    known = fidelity_of(["age"])
    known = replace(known, columns=(replace(known.columns[0], shape_ceiling=0.97, shape_error=0.01),))
    page = report.render(
        title="t", evidence=Evidence(fidelity=known), verdict=Verdict(findings=()), certificate=CERTIFICATE,
        schema=schema_of(["age"]),
    )  # fmt: skip
    assert re.search(r"97\.0.{0,60}± 2\.0", page)


def test_rare_categories_are_drawn_as_one_bar_and_missing_ones_keep_their_own():
    labels = ("a", "b", OTHERS, MISSING)
    drawn = plots.overlay_plot(bars("c", labels))
    assert [drawn.index(f">{label}<") for label in labels]
    many = plots.overlay_plot(bars("c", [f"l{i}" for i in range(30)]))
    assert many.count('class="real"') == plots.BARS
    assert OTHERS in many


@pytest.mark.parametrize("size", [2, 3, 40])
def test_a_name_in_a_plot_is_inert(size):
    drawn = plots.overlay_plot(bars("<b>", [f"<script>{i}" for i in range(size)]))
    assert "<script>" not in drawn
    assert "<b>" not in drawn


def test_shares_of_bins_of_unequal_width_are_drawn_by_area():
    drawn = plots.overlay_plot(steps("c", (0.0, 1.0, 10.0)))
    path = re.search(r'class="real" d="([^"]+)"', drawn)[1]
    tops = [float(y) for y in re.findall(r"V([\d.]+)", path)]
    floor = tops[-1]
    assert (floor - tops[0]) / (floor - tops[1]) == pytest.approx(9, rel=0.05)


@given(st.lists(st.floats(allow_subnormal=True), min_size=2, max_size=8).map(sorted))
def test_any_edges_can_be_drawn(edges):
    drawn = plots.overlay_plot(steps("c", edges))
    assert not re.search(r'[MVHL ="](nan|inf|-inf)', drawn)


@given(
    kind=st.sampled_from(["numerical", "datetime", "duration"]),
    low=st.floats(allow_nan=False, allow_infinity=False),
    width=st.floats(min_value=0, max_value=1e300),
)
def test_ticks_are_few_and_inside(kind, low, width):
    high = low + width
    found = plots.ticks(kind, low, high)
    assert len(found) <= 6
    slack = 1e-6 * (high - low) if math.isfinite(high - low) else 0.0
    for value, label in found:
        assert low - slack <= value <= high + slack
        assert label


@given(
    start=st.integers(min_value=-60_000_000_000, max_value=250_000_000_000),
    span=st.integers(min_value=4, max_value=3_000_000_000),
)
def test_neighbouring_times_get_labels_that_differ(start, span):
    labels = [label for _, label in plots.ticks("datetime", start, start + span)]
    assert 1 <= len(labels) <= 5
    assert all(a != b for a, b in itertools.pairwise(labels))


@given(st.text())
def test_visible_text_is_printable_and_stays_so(text):
    shown = markup.visible(text)
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\n\r\t\x00")
    assert markup.visible(shown) == shown
    shown.encode("utf-8")


@given(st.text(), st.integers(min_value=2, max_value=40))
def test_cut_text_is_never_longer_than_asked(text, width):
    assert len(markup.cut(text, width)) <= width


@given(st.text(), st.text())
def test_an_element_holds_its_text_and_nothing_else(content, title):
    parser = outline(markup.element("p", {"title": title}, content))
    assert [t for t, _ in parser.tags] == ["p"]
    assert parser.tags[0][1]["title"] == markup.visible(title)
    assert "".join(parser.text) == markup.visible(content)


def test_an_empty_evidence_is_still_a_page():
    nothing = Fidelity(
        rows_train=0, rows_holdout=0, rows_synthetic=0, shape=None, trend=None, shape_ceiling=None,
        trend_ceiling=None, copies=None, copies_holdout=None, columns=(), pairs=(), overlays=(),
    )  # fmt: skip
    page = report.render(
        title="",
        evidence=Evidence(fidelity=nothing),
        verdict=Verdict(findings=()),
        certificate={},
        schema=schema_of(["a"]),
    )
    assert "Not measured" in page
    outline(page)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_models_found_is_shown_and_inert(name):
    figure = Estimate(value=0.8, low=0.7, high=0.9, surely=0.6)
    score = Score(model="trees", synthetic=figure, real=figure, gap=figure)
    task = Task(
        target=name, measure="AUC", named=True, rows=1000, scores=(score,), ranking=0.5, ranking_ceiling=None,
        features=((name, 0.2, 0.1),),
    )  # fmt: skip
    evidence = Evidence(
        fidelity=fidelity_of(["age"]),
        detection=Detection(
            rows=900,
            auc=figure,
            ceiling=figure,
            told=0.1,
            giveaways=((name, 0.3),),
            examples=(Example(sure=0.95, values=((name, name),)),),
        ),
        utility=Utility(tasks=(task,), skipped={name: "has one class"}),
    )
    page = report.render(
        title="t", evidence=evidence, verdict=Verdict(findings=()), certificate={}, schema=schema_of(["age"])
    )
    tags = outline(page.split("</head>")[1].removesuffix("</html>\n")).tags
    assert not {t for t, _ in tags} & {"script", "img"}
    assert not [a for _, attributes in tags for a in attributes if a.startswith("on")]
    assert "0.700 to 0.900" in page
    assert "has one class" in page


def test_under_privacy_no_model_is_shown():
    noised = replace(fidelity_of(["age"]), noised=True)
    page = report.render(
        title="t", evidence=Evidence(fidelity=noised), verdict=Verdict(findings=()), certificate={},
        schema=schema_of(["age"]),
    )  # fmt: skip
    assert "Not measured: models that learn from real rows" in page
    assert "Gradient-boosted trees learn" not in page


def test_the_inside_says_so_in_red_and_lists_more_pairs():
    names = [f"c{i}" for i in range(8)]
    outside, inside = (page_of(names, zone=zone) for zone in ("outside", "inside"))
    assert INSIDE not in outside
    assert f'class="inside" role="note">{INSIDE}' in inside
    assert "<title>Inside: " in inside
    assert "16 more pairs" in inside
    assert "more pairs" not in outside


def test_pairs_are_three_maps_and_the_difference_is_synthetic_less_real():
    page = page_of(["age", "income", "city"])
    assert page.count('class="heat"') == 3
    assert [h for h in ("Real rows", "Synthetic rows", "Difference") if f"<strong>{h}</strong>" in page] == [
        "Real rows", "Synthetic rows", "Difference",
    ]  # fmt: skip
    # 0.5 became 0.4.
    assert "<title>age × income: −0.10</title>" in page
    assert "<title>age × income: 0.50</title>" in page


def test_columns_can_be_searched_and_filtered_by_kind_and_findings():
    page = page_of(["age", "income"], findings=[finding("warning", "a thing", ("income",))])
    rows = [a for t, a in outline(page).tags if t == "tr" and "data-kind" in a]
    assert [(r["data-kind"], "data-found" in r) for r in rows] == [
        ("categorical", False),
        ("categorical", True),
    ]
    assert 'data-sifts="columns-table"' in page
    labels = {a["for"] for t, a in outline(page).tags if t == "label" and "for" in a}
    inputs = {a["id"] for t, a in outline(page).tags if t in {"input", "select"}}
    assert inputs == labels
