"""Detection: the classifier two-sample test, can trees tell synthetic rows from real ones, and by which columns?

Lopez-Paz and Oquab (2017, arXiv 1610.06545), with gradient-boosted trees, the area under the curve in place of the
accuracy, and out-of-fold scores. 0.5 means that they cannot; below it, that synthetic rows are copies: the twin of a
row that is to be told was learned with the other label.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from privacy.estimate import Estimate, auc
from validation.cells import Floats
from validation.features import Features, bounded, draw, one_thread, teachable, weighted_auc
from validation.fidelity import MISSING
from validation.gauges import gauge
from validation.markup import Html, cut, element, paragraph, percent, scrolling, section, shown_name

ROWS, CEILING_ROWS, GIVEAWAY_ROWS = 20_000, 5_000, 4_000
"""Rows of each side at most: of the test, of its ceiling, and for finding the columns that gave rows away."""

FOLDS = 5
FEWEST = 50
"""Rows of a side without which there is no test."""

LISTED = 10
"""Columns that gave rows away that are named at most."""

SURE = 0.9
"""Probability from which on a synthetic row counts as told."""

EXAMPLES, SHOWN = 5, 6
"""Rows that trees were surest of that are shown at most, and the columns of each: those that gave most away."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A synthetic row that trees were sure of: how sure, and column and value of what gave it away."""

    sure: float
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well synthetic rows are told from training rows.

    Attributes:
        rows: of each side that were told apart.
        auc: area under the curve, 0.5 is best.
        ceiling: the same for held-out rows in place of synthetic ones; None with too few of them.
        told: share of the synthetic rows that trees are 90 % sure of.
        giveaways: columns and what the area loses without them, largest first.
        examples: synthetic rows that trees were surest of.
    """

    rows: int
    auc: Estimate
    ceiling: Estimate | None
    told: float
    giveaways: tuple[tuple[str, float], ...]
    examples: tuple[Example, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        examples = [{"sure": e.sure, "values": [list(v) for v in e.values]} for e in self.examples]
        return {**asdict(self), "giveaways": [list(g) for g in self.giveaways], "examples": examples}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Detection":
        """The inverse of `to_dict`."""
        ceiling = data["ceiling"]
        return cls(
            rows=data["rows"],
            auc=Estimate(**data["auc"]),
            ceiling=None if ceiling is None else Estimate(**ceiling),
            told=data["told"],
            giveaways=tuple((str(n), float(v)) for n, v in data["giveaways"]),
            examples=tuple(
                Example(sure=e["sure"], values=tuple((str(n), str(v)) for n, v in e["values"]))
                for e in data["examples"]
            ),
        )


def detect(features: Features, synthetic: pa.Table, *, seed: int) -> Detection | None:
    """Tells synthetic rows from training rows, and held-out rows from training rows; None with too few rows.

    Args:
        features: the learned columns of the three tables, as models read them.
        synthetic: the synthetic rows themselves, of which examples are shown.
        seed: of what is drawn.
    """
    rows = {side: len(x) for side, x in features.trees.items()}
    if not features.names or min(rows["train"], rows["synthetic"]) < FEWEST:
        return None
    with one_thread():
        found = _told_apart(features, "synthetic", most=ROWS, seed=seed)
        beside = (
            _told_apart(features, "holdout", most=CEILING_ROWS, seed=seed)
            if rows["holdout"] >= FEWEST
            else None
        )
        giveaways = _giveaways(features, found, seed=seed)
    scores = found.scores[found.made]
    area = auc(scores, found.scores[~found.made])
    # Of rows that cannot be told some score high by chance: these are no examples of anything.
    shown = [name for name, _ in giveaways[:SHOWN]] if area.surely > 0.5 else []
    return Detection(
        rows=int(found.made.sum()),
        auc=area,
        ceiling=None if beside is None else auc(beside.scores[beside.made], beside.scores[~beside.made]),
        told=float(np.mean(scores > SURE)),
        giveaways=giveaways,
        examples=tuple(_examples(synthetic, found, shown)),
    )


def _examples(synthetic: pa.Table, found: "_Told", columns: list[str]) -> Iterator[Example]:
    scores = found.scores[found.made]
    for place in np.argsort(-scores, kind="stable")[:EXAMPLES].tolist():
        if scores[place] <= SURE or not columns:
            return
        row = int(found.rows[place])
        values = tuple((name, _text(synthetic.column(name), row)) for name in columns)
        yield Example(sure=float(scores[place]), values=values)


def _text(column: pa.ChunkedArray, row: int) -> str:
    try:
        # Arrow writes times that Python's have no year for.
        value = column.slice(row, 1).cast(pa.string())[0].as_py()
    except pa.ArrowException:
        value = column[row].as_py()
    return MISSING if value is None else cut(str(value), 80)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
    """Rows of both sides, which of them are not training rows, their out-of-fold scores, and the first fold's model.

    `rows` says which row of its table each that is no training row is.
    """

    x: Floats
    made: npt.NDArray[np.bool_]
    scores: Floats
    rows: npt.NDArray[np.int64]
    model: Any
    fold: npt.NDArray[np.int64]


def _told_apart(features: Features, side: str, *, most: int, seed: int) -> _Told:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    rng = np.random.default_rng(seed)
    sides = features.trees["train"], features.trees[side]
    most = min(bounded(most, len(features.names)), *(len(s) for s in sides))
    drawn = [draw(len(s), most, rng) for s in sides]
    x = np.concatenate([s[rows] for s, rows in zip(sides, drawn, strict=True)])
    made = np.arange(len(x)) >= most
    scores, models, folds = np.zeros(len(x)), [], []
    state = seed % 2**32
    for learned, asked in StratifiedKFold(FOLDS, shuffle=True, random_state=state).split(x, made):
        model = HistGradientBoostingClassifier(categorical_features=features.nominal, random_state=state)
        models.append(model.fit(teachable(x[learned]), made[learned]))
        scores[asked] = model.predict_proba(x[asked])[:, 1]
        folds.append(asked)
    return _Told(x=x, made=made, scores=scores, rows=drawn[1], model=models[0], fold=folds[0])


def _giveaways(features: Features, found: _Told, *, seed: int) -> tuple[tuple[str, float], ...]:
    """What the area under the curve of one fold loses where a column is shuffled (Breiman 2001), largest first."""
    rng = np.random.default_rng(seed)
    asked = found.fold[draw(len(found.fold), GIVEAWAY_ROWS, rng)]
    x, made, ones = found.x[asked], found.made[asked], np.ones((1, len(asked)))

    def area(rows: Floats) -> float:
        return float(weighted_auc(found.model.predict_proba(rows)[:, 1], made, ones)[0])

    whole, lost = area(x), []
    for i, name in enumerate(features.names):
        shuffled = x.copy()
        shuffled[:, i] = rng.permutation(x[:, i])
        lost.append((name, whole - area(shuffled)))
    lost.sort(key=lambda pair: -pair[1])
    return tuple((name, value) for name, value in lost[:LISTED] if value > 0.001)


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


_HEADS = ("Rows", "AUC", "From guessing to certainty")


def render(found: Detection | None) -> Html:
    """The section of the report."""
    if found is None:
        return section(
            "detection", "Can rows be told apart?", paragraph(f"Not tried: it needs {FEWEST} rows a side.")
        )
    figures = [("Synthetic rows", found.auc)]
    figures += [("Held-out real rows", found.ceiling)] if found.ceiling is not None else []
    table = element(
        "table",
        {"class": "plain"},
        element("caption", {}, f"Told from training rows, {found.rows:,} of each"),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in _HEADS))),
        element("tbody", {}, *(_row(name, figure) for name, figure in figures)),
    )
    return section(
        "detection",
        "Can rows be told apart?",
        paragraph(
            "Gradient-boosted trees learn to tell synthetic rows from training rows, and are asked about rows that "
            "they did not learn. An area under the curve (AUC) of 0.5 means that they cannot, 1 that they always can; "
            "below 0.5, synthetic rows are twins of training rows."
        ),
        scrolling("Two-sample test", table),
        *_told(found),
    )


def _row(name: str, figure: Estimate) -> Html:
    return element(
        "tr",
        {},
        element("th", {"scope": "row"}, name),
        element(
            "td",
            {},
            element("strong", {}, f"{figure.value:.3f}"),
            element("span", {"class": "kind"}, f"{figure.low:.3f} to {figure.high:.3f}"),
        ),
        # From guessing to certainty.
        element("td", {"class": "drawn"}, gauge(2 * figure.value - 1, None, "meter")),
    )


def _told(found: Detection) -> list[Html]:
    sure = paragraph(f"The trees are sure of {percent(found.told)} of the synthetic rows.")
    if not found.giveaways:
        return [sure, paragraph("No column gives them away by itself.")]
    top = max(value for _, value in found.giveaways)
    rows = (
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, shown_name(name, 36)),
            element("td", {}, f"{value:.3f}"),
            element("td", {"class": "drawn"}, gauge(value / top, None, "meter")),
        )
        for name, value in found.giveaways
    )
    heads = ("Column", "AUC lost", "Beside the worst")
    table = element(
        "table",
        {"class": "plain"},
        element("caption", {}, "What gives them away: what the AUC loses where a column is shuffled"),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *rows),
    )
    examples = [_examples_table(found.examples)] if found.examples else []
    return [sure, scrolling("Columns that give rows away", table), *examples]


def _examples_table(examples: tuple[Example, ...]) -> Html:
    heads = (
        element("th", {"scope": "col"}, "Sure by"),
        *(element("th", {"scope": "col"}, shown_name(name, 20)) for name, _ in examples[0].values),
    )
    rows = (
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, percent(e.sure)),
            *(element("td", {}, shown_name(value, 24)) for _, value in e.values),
        )
        for e in examples
    )
    table = element(
        "table",
        {"class": "plain"},
        element(
            "caption", {}, "Synthetic rows that the trees were surest of, in the columns that gave them away"
        ),
        element("thead", {}, element("tr", {}, *heads)),
        element("tbody", {}, *rows),
    )
    return scrolling("Rows that were told", table)
