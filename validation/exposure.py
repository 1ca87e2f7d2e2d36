"""Exposure: what attackers learn from a release, as evidence: from tables to arrays, and from figures to plain words.

The attacks themselves are in `privacy.attacks`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from privacy.attacks import Attack, Attacks, Sides
from privacy.estimate import Estimate
from privacy.metric import Records
from privacy.shadows import AT_RANDOM
from privacy.shadows import EXPOSED as SHADOWED_EXPOSED
from synth.schema import Schema
from validation.cells import SIDES, Cells, cells_of
from validation.gauges import whiskers
from validation.markup import Html, counted, element, paragraph, scrolling, section


@dataclass(frozen=True, kw_only=True)
class Told:
    """An attack in plain words: what it is called, and what the attacker does."""

    title: str
    does: str


TOLD: Mapping[str, Told] = {
    "copies": Told(title="Copies", does="Takes each synthetic row for the row of a real person."),
    "near copies": Told(
        title="Near copies",
        does="Takes a synthetic row for somebody's where it lies close to one real row and far from all others.",
    ),
    "distance": Told(
        title="Distance to the closest row",
        does="Takes the real row nearest to a synthetic one for a training row. A smoke test of copying: it misses "
        "most other leaks.",
    ),
    "membership": Told(
        title="Membership",
        does="Knows a person's whole row and asks whether it was in the table. Counted are members that are found "
        "while at most 1 in 100 others is accused.",
    ),
    "membership, most exposed": Told(
        title="Membership of the most exposed",
        does="The same for the twentieth of the rows that is least like any other.",
    ),
    "singling out by one value": Told(
        title="Singling out by one value", does="Finds a value that describes exactly one person."
    ),
    "singling out by several values": Told(
        title="Singling out by several values",
        does="Finds several values that together describe exactly one person.",
    ),
    "linkability": Told(
        title="Linking",
        does="Has two halves of people's rows and finds which halves belong to one person.",
    ),
    "linkability, most exposed": Told(
        title="Linking of the most exposed",
        does="The same for the twentieth of the rows that is least like any other.",
    ),
    "inference": Told(
        title="Inference", does="Knows all of a person's row but one value, and guesses that value."
    ),
    "inference, most exposed": Told(
        title="Inference of the most exposed",
        does="The same for the twentieth of the rows that is least like any other.",
    ),
    AT_RANDOM: Told(
        title="Membership by shadow models",
        does="Knows a person's whole row, the other rows, and how the model is made: makes models like it from halves "
        "of the rows, sees what synthetic rows look like around somebody who was learned from, and says of one "
        "more such model who was. Counted as membership is. It is about models like this one, not about this table.",
    ),
    SHADOWED_EXPOSED: Told(
        title="Membership of the most exposed by shadow models",
        does="The same for those rows that are least like any other.",
    ),
}


def sides_of(train: pa.Table, holdout: pa.Table, synthetic: pa.Table, schema: Schema) -> Sides:
    """The learned columns of three tables as attacks read them; each row should be of another unit."""
    cells = [cells_of(column, (train, holdout, synthetic)) for column in schema if column.learned]
    rows = dict(zip(SIDES, (t.num_rows for t in (train, holdout, synthetic)), strict=True))
    return Sides(**{side: _records(cells, side, rows[side]) for side in SIDES})


def _records(cells: list[Cells], side: str, rows: int) -> Records:
    codes = [c.codes[side].astype(np.int32) for c in cells if c.numbers is None]
    numbers = [c.numbers[side] for c in cells if c.numbers is not None]
    return Records(
        codes=np.stack(codes, 1) if codes else np.zeros((rows, 0), np.int32),
        numbers=np.stack(numbers, 1) if numbers else np.zeros((rows, 0)),
    )


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


def share(value: float) -> str:
    """A share that may be negative, as percent that does not break."""
    return f"{_points(value)}\u00a0%"


def ends(figure: Estimate) -> str:
    """An interval of shares: `0.4 to 2.0 %`."""
    return f"{_points(figure.low)} to {_points(figure.high)}\u00a0%".replace(" ", "\u00a0")


def _points(value: float) -> str:
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def render(attacks: Attacks) -> Html:
    """The section of the report."""
    if not attacks.done:
        why = next(iter(attacks.skipped.values()), "there are no figures")
        return section("attacks", "What attackers learn", paragraph(f"No attack was tried: {why}."))
    heads = ("Attack", "Right about training rows", "Right about others", "Beyond chance", "From none to all")
    table = element(
        "table",
        {"class": "plain"},
        element("caption", {}, "Each attack, beside the same attack on real rows that the model never saw"),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *(_row(a) for a in attacks.done)),
    )
    skipped = ", ".join(TOLD[n].title.lower() for n in attacks.skipped)
    return section(
        "attacks",
        "What attackers learn",
        paragraph(
            "Somebody who has the synthetic rows guesses about people in the table that the model learned from, and "
            "makes the same guesses about real people that it never saw. What is right about those is chance and "
            "common knowledge. Only what is right beyond that has leaked: 0 % means nothing, 100 % everything. "
            "Below each such figure stands its range, which misses the truth in 5 of 100 cases. These attacks are "
            "not all that there are, so small figures are no guarantee."
        ),
        scrolling("Attacks", table),
        *([paragraph(f"Not tried for want of rows or columns: {skipped}.")] if skipped else []),
    )


def _row(attack: Attack) -> Html:
    told = TOLD[attack.name]
    return element(
        "tr",
        {},
        element(
            "th",
            {"scope": "row"},
            told.title,
            *(element("span", {"class": "kind"}, n) for n in _notes(attack)),
        ),
        element("td", {}, share(attack.success)),
        element("td", {}, share(attack.control)),
        element(
            "td",
            {},
            element("strong", {}, share(attack.risk.value)),
            element("span", {"class": "kind"}, ends(attack.risk)),
        ),
        element(
            "td", {"class": "drawn"}, whiskers([("synthetic", attack.risk)], low=-0.1, high=1.0, mark=0.0)
        ),
    )


def _notes(attack: Attack) -> Iterator[str]:
    yield TOLD[attack.name].does
    if attack.note is not None:
        yield attack.note
    tried = counted(attack.guesses, "guess", "guesses")
    if attack.auc is not None:
        chance = f"{attack.auc.value:.2f} ({attack.auc.low:.2f} to {attack.auc.high:.2f})"
        yield f"{tried}. A member looks more like one than another person does with chance {chance}; 0.50 is none."
    elif attack.naive is None:
        yield f"{tried}."
    else:
        weak = (
            "; so the attack is weak, and its small figure no comfort"
            if attack.success <= attack.naive
            else ""
        )
        yield f"{tried}; without looking at whole rows {share(attack.naive)} would be right{weak}."
